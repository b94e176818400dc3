/* SPDX-License-Identifier: MIT */
/*
 * The native encoding of device state.
 *
 * Wire: nothing but values, in the order of the writer's schema, little-endian. A number takes 1,
 * 2, 4 or 8 bytes, whichever holds its bits; bool is 0 or 1. Fixed arrays and buffers are their
 * elements; counted ones, and lists, have a u32 count before them. A struct is its fields, then one
 * byte for each of its subsections (1: present, followed by its fields; 0: absent). A pointer is
 * one byte of presence, then the struct.
 */
#include "state/encoder.h"

static GByteArray *out_of(struct state_encoder *encoder)
{
    return ((struct native_encoder *)encoder)->out;
}

static void put(GByteArray *out, uint64_t value, uint32_t width)
{
    uint8_t bytes[8];

    for (uint32_t i = 0; i < width; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    g_byte_array_append(out, bytes, width);
}

static void begin_struct(struct state_encoder *encoder, const char *name)
{
}

static void end_nothing(struct state_encoder *encoder)
{
}

static void begin_array(struct state_encoder *encoder, const char *name, uint32_t n,
                        bool is_counted)
{
    if (is_counted) {
        put(out_of(encoder), n, 4);
    }
}

static void number(struct state_encoder *encoder, const char *name, enum gw_field_kind kind,
                   uint32_t bits, uint64_t value)
{
    put(out_of(encoder), value, native_width(bits));
}

static void bytes(struct state_encoder *encoder, const char *name, const uint8_t *data, uint32_t n,
                  bool is_counted)
{
    if (is_counted) {
        put(out_of(encoder), n, 4);
    }
    if (n) {
        g_byte_array_append(out_of(encoder), data, n);
    }
}

static void presence(struct state_encoder *encoder, const char *name, bool is_subsection,
                     bool is_present)
{
    put(out_of(encoder), is_present, 1);
}

static const struct state_encoder_ops native_ops = {
    .begin_struct = begin_struct,
    .end_struct = end_nothing,
    .begin_array = begin_array,
    .end_array = end_nothing,
    .number = number,
    .bytes = bytes,
    .presence = presence,
};

void native_encoder_init(struct native_encoder *encoder, GByteArray *out)
{
    encoder->base.ops = &native_ops;
    encoder->out = out;
}
