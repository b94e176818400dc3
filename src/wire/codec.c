/* SPDX-License-Identifier: MIT */
/* Encodes, decodes and clears messages by their field tables. */
#include "wire/codec.h"

static const struct {
    const char *name;
    unsigned n_bytes; /* on the wire: integers */
    uint64_t max;
} kinds[] = {
    [WIRE_U8] = {"u8", 1, UINT8_MAX},      [WIRE_BOOL] = {"bool", 1, 1},
    [WIRE_U16] = {"u16", 2, UINT16_MAX},   [WIRE_U32] = {"u32", 4, UINT32_MAX},
    [WIRE_U64] = {"u64", 8, UINT64_MAX},   [WIRE_STRING] = {"string", 0, UINT16_MAX},
    [WIRE_LIST] = {"list", 0, UINT32_MAX},
};

const char *wire_kind_name(enum wire_kind kind)
{
    return kinds[kind].name;
}

uint64_t wire_desc_min_bytes(const struct wire_message_desc *desc)
{
    uint64_t n = 0;

    for (const struct wire_field *f = desc->fields; f->name != NULL; f++) {
        if (f->kind == WIRE_STRING) {
            n += 2 + f->min;
        } else if (f->kind == WIRE_LIST) {
            n += 4 + f->min * wire_desc_min_bytes(f->element);
        } else {
            n += kinds[f->kind].n_bytes;
        }
    }
    return n;
}

uint64_t wire_desc_max_bytes(const struct wire_message_desc *desc)
{
    uint64_t n = 0;

    for (const struct wire_field *f = desc->fields; f->name != NULL; f++) {
        if (f->kind == WIRE_STRING) {
            n += 2 + f->max;
        } else if (f->kind == WIRE_LIST) {
            n += 4 + f->max * wire_desc_max_bytes(f->element);
        } else {
            n += kinds[f->kind].n_bytes;
        }
    }
    return n;
}

/* ---- members of structs ---- */

static const void *member(const void *message, uint32_t offset)
{
    return (const uint8_t *)message + offset;
}

static uint64_t load_member(const struct wire_field *f, const void *message)
{
    const void *at = member(message, f->offset);

    switch (f->kind) {
    case WIRE_U8:
        return *(const uint8_t *)at;
    case WIRE_BOOL:
        return *(const bool *)at;
    case WIRE_U16:
        return *(const uint16_t *)at;
    case WIRE_U32:
        return *(const uint32_t *)at;
    default:
        return *(const uint64_t *)at;
    }
}

static void store_member(const struct wire_field *f, void *message, uint64_t value)
{
    void *at = (uint8_t *)message + f->offset;

    switch (f->kind) {
    case WIRE_U8:
        *(uint8_t *)at = (uint8_t)value;
        break;
    case WIRE_BOOL:
        *(bool *)at = value != 0;
        break;
    case WIRE_U16:
        *(uint16_t *)at = (uint16_t)value;
        break;
    case WIRE_U32:
        *(uint32_t *)at = (uint32_t)value;
        break;
    default:
        *(uint64_t *)at = value;
        break;
    }
}

static void **pointer_member(const struct wire_field *f, void *message)
{
    return (void **)((uint8_t *)message + f->offset);
}

static uint32_t *count_member(const struct wire_field *f, void *message)
{
    return (uint32_t *)((uint8_t *)message + f->n_offset);
}

/* ---- encode ---- */

static void writer_refuse(struct wire_writer *writer, const char *field)
{
    if (!writer->has_failed) {
        writer->has_failed = true;
        writer->bad_field = field;
    }
}

void wire_encode(const struct wire_message_desc *desc, const void *message,
                 struct wire_writer *writer)
{
    for (const struct wire_field *f = desc->fields; f->name != NULL && !writer->has_failed; f++) {
        if (f->kind == WIRE_STRING) {
            const char *text = *(char *const *)member(message, f->offset);
            if ((text != NULL ? strlen(text) : 0) < f->min) {
                writer_refuse(writer, f->name);
            }
            wire_put_string(writer, text, f->max, f->name);
        } else if (f->kind == WIRE_LIST) {
            uint32_t n = *(const uint32_t *)member(message, f->n_offset);
            const uint8_t *elements = *(uint8_t *const *)member(message, f->offset);
            if (n < f->min || n > f->max) {
                writer_refuse(writer, f->name);
                return;
            }
            wire_put_uint(writer, 4, n, f->name);
            for (uint32_t i = 0; i < n; i++) {
                wire_encode(f->element, elements + i * f->element->size_bytes, writer);
            }
        } else {
            uint64_t value = load_member(f, message);
            if (value < f->min || value > f->max) {
                writer_refuse(writer, f->name);
            }
            wire_put_uint(writer, kinds[f->kind].n_bytes, value, f->name);
        }
    }
}

/* ---- decode ---- */

static void decode_list(const struct wire_field *f, void *message, struct wire_reader *reader)
{
    /* PEER: n is bounded by its limit, and by the bytes that are there, before memory is taken. */
    uint64_t n = wire_get_ranged(reader, 4, f->min, f->max, f->name);

    if (reader->bad_field != NULL) {
        return;
    }
    if (n > wire_reader_left(reader) / wire_desc_min_bytes(f->element)) {
        wire_reader_fail(reader, GW_ERROR_CORRUPT, f->name, "%u elements in %zu bytes", (unsigned)n,
                         wire_reader_left(reader));
        return;
    }
    uint8_t *elements = g_malloc0_n((gsize)n, f->element->size_bytes);
    *pointer_member(f, message) = elements;
    *count_member(f, message) = (uint32_t)n;
    for (uint64_t i = 0; i < n && reader->bad_field == NULL; i++) {
        wire_decode_fields(f->element, elements + i * f->element->size_bytes, reader);
    }
}

void wire_decode_fields(const struct wire_message_desc *desc, void *message,
                        struct wire_reader *reader)
{
    for (const struct wire_field *f = desc->fields; f->name != NULL; f++) {
        if (f->kind == WIRE_STRING) {
            *pointer_member(f, message) = wire_get_string(reader, f->min, f->max, f->name);
        } else if (f->kind == WIRE_LIST) {
            decode_list(f, message, reader);
        } else {
            store_member(f, message,
                         wire_get_ranged(reader, kinds[f->kind].n_bytes, f->min, f->max, f->name));
        }
    }
    if (desc->check != NULL && reader->bad_field == NULL) {
        desc->check(message, reader);
    }
}

void wire_clear_fields(const struct wire_message_desc *desc, void *message)
{
    for (const struct wire_field *f = desc->fields; f->name != NULL; f++) {
        if (f->kind == WIRE_LIST) {
            uint8_t *elements = *pointer_member(f, message);
            for (uint32_t i = 0; i < *count_member(f, message); i++) {
                wire_clear_fields(f->element, elements + i * f->element->size_bytes);
            }
        }
        if (f->kind == WIRE_LIST || f->kind == WIRE_STRING) {
            g_clear_pointer(pointer_member(f, message), g_free);
        }
    }
    memset(message, 0, desc->size_bytes);
}
