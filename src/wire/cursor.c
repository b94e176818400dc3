/* SPDX-License-Identifier: MIT */
/* Bounded reading and writing of little-endian integers and strings. */
#include "wire/cursor.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

void wire_writer_init(struct wire_writer *writer, size_t max_bytes)
{
    *writer = (struct wire_writer){.bytes = g_byte_array_new(), .max_bytes = max_bytes};
}

void wire_writer_clear(struct wire_writer *writer)
{
    g_clear_pointer(&writer->bytes, g_byte_array_unref);
}

static bool writer_has_room(struct wire_writer *writer, size_t n_bytes, const char *field)
{
    if (writer->has_failed) {
        return false;
    }
    if (n_bytes > writer->max_bytes - writer->bytes->len) {
        writer->has_failed = true;
        writer->bad_field = field;
        return false;
    }
    return true;
}

void wire_put_uint(struct wire_writer *writer, unsigned n_bytes, uint64_t value, const char *field)
{
    uint8_t bytes[8];

    if (writer_has_room(writer, n_bytes, field)) {
        wire_store_u64(bytes, value);
        g_byte_array_append(writer->bytes, bytes, n_bytes);
    }
}

void wire_put_string(struct wire_writer *writer, const char *text, uint64_t max_len,
                     const char *field)
{
    size_t len = text != NULL ? strlen(text) : 0;

    if (len > max_len || len > UINT16_MAX) {
        if (!writer->has_failed) {
            writer->has_failed = true;
            writer->bad_field = field;
        }
        return;
    }
    if (writer_has_room(writer, 2 + len, field)) {
        wire_put_uint(writer, 2, len, field);
        g_byte_array_append(writer->bytes, (const guint8 *)text, (guint)len);
    }
}

void wire_reader_init(struct wire_reader *reader, const void *data, size_t len)
{
    *reader = (struct wire_reader){.data = data, .len = len};
}

void wire_reader_fail(struct wire_reader *reader, enum gw_error_code code, const char *field,
                      const char *format, ...)
{
    va_list arguments;

    if (reader->bad_field != NULL) {
        return;
    }
    reader->bad_field = field;
    reader->bad_code = code;
    va_start(arguments, format);
    vsnprintf(reader->bad_why, sizeof(reader->bad_why), format, arguments);
    va_end(arguments);
}

static const uint8_t *reader_take(struct wire_reader *reader, size_t n_bytes, const char *field)
{
    if (reader->bad_field != NULL) {
        return NULL;
    }
    if (n_bytes > wire_reader_left(reader)) {
        wire_reader_fail(reader, GW_ERROR_CORRUPT, field, "%zu bytes short",
                         n_bytes - wire_reader_left(reader));
        return NULL;
    }
    const uint8_t *at = reader->data + reader->at;
    reader->at += n_bytes;
    return at;
}

uint64_t wire_get_uint(struct wire_reader *reader, unsigned n_bytes, const char *field)
{
    const uint8_t *at = reader_take(reader, n_bytes, field);

    if (at == NULL) {
        return 0;
    }
    switch (n_bytes) {
    case 1:
        return at[0];
    case 2:
        return wire_load_u16(at);
    case 4:
        return wire_load_u32(at);
    default:
        return wire_load_u64(at);
    }
}

uint64_t wire_get_ranged(struct wire_reader *reader, unsigned n_bytes, uint64_t min, uint64_t max,
                         const char *field)
{
    uint64_t value = wire_get_uint(reader, n_bytes, field);

    if (reader->bad_field == NULL && (value < min || value > max)) {
        wire_reader_fail(reader, GW_ERROR_LIMIT, field,
                         "%" PRIu64 " is not in %" PRIu64 "..%" PRIu64, value, min, max);
    }
    return reader->bad_field == NULL ? value : 0;
}

char *wire_get_string(struct wire_reader *reader, uint64_t min_len, uint64_t max_len,
                      const char *field)
{
    uint64_t len = wire_get_ranged(reader, 2, min_len, max_len, field);
    const uint8_t *at = reader_take(reader, (size_t)len, field);

    if (at == NULL) {
        return NULL;
    }
    if (!g_utf8_validate_len((const char *)at, (gsize)len, NULL)) {
        wire_reader_fail(reader, GW_ERROR_CORRUPT, field, "not UTF-8 text without NUL");
        return NULL;
    }
    return g_strndup((const char *)at, (gsize)len);
}
