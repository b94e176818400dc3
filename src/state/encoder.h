/* SPDX-License-Identifier: MIT */
/*
 * What an encoding of device state has to offer. One walk over an object (save.c), or over a
 * section that came with its schema (section.c), drives any encoding through these calls.
 *
 * name is NULL for elements of arrays and for the outermost struct. Calls cannot fail; an encoding
 * that runs out of something remembers it.
 */
#ifndef STATE_ENCODER_H
#define STATE_ENCODER_H

#include <jansson.h>

#include "godwit/state.h"

struct state_encoder;

struct state_encoder_ops {
    void (*begin_struct)(struct state_encoder *encoder, const char *name);
    void (*end_struct)(struct state_encoder *encoder);
    /* Elements follow. is_counted: their number is part of the data. */
    void (*begin_array)(struct state_encoder *encoder, const char *name, uint32_t n,
                        bool is_counted);
    void (*end_array)(struct state_encoder *encoder);
    /* value: sign-extended to 64 bits for signed kinds; bits: of the value. */
    void (*number)(struct state_encoder *encoder, const char *name, enum gw_field_kind kind,
                   uint32_t bits, uint64_t value);
    void (*bytes)(struct state_encoder *encoder, const char *name, const uint8_t *bytes, uint32_t n,
                  bool is_counted);
    /* A pointer or a subsection; its struct follows if it is present. */
    void (*presence)(struct state_encoder *encoder, const char *name, bool is_subsection,
                     bool is_present);
};

struct state_encoder {
    const struct state_encoder_ops *ops;
};

/* Native: compact binary in the order of the table. Appends to out. */
struct native_encoder {
    struct state_encoder base;
    GByteArray *out;
};
void native_encoder_init(struct native_encoder *encoder, GByteArray *out);

/* Bytes of a number of so many bits in the native encoding: 1, 2, 4 or 8. */
static inline uint32_t native_width(uint32_t bits)
{
    return bits <= 8 ? 1 : bits <= 16 ? 2 : bits <= 32 ? 4 : 8;
}

/* JSON, for people. */
struct json_encoder {
    struct state_encoder base;
    GPtrArray *open; /* json_t borrowed: objects and arrays that are being filled */
    json_t *root;    /* owned */
};
void json_encoder_init(struct json_encoder *encoder);
void json_encoder_clear(struct json_encoder *encoder);

/* Text of a tree, for g_free. */
char *state_json_text(const json_t *tree);

#endif
