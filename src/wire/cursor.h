/* SPDX-License-Identifier: MIT */
/*
 * The two types through which every integer enters and leaves the stream, bounded.
 *
 * Both are sticky: after the first failure nothing is read or written any more, reads give 0, and
 * the first failure (field and reason) is kept, so that callers check once at the end.
 */
#ifndef WIRE_CURSOR_H
#define WIRE_CURSOR_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "godwit/error.h"

/* ---- plain little-endian access to memory whose bounds were checked ---- */

static inline uint16_t wire_load_u16(const uint8_t *at)
{
    uint16_t v;
    memcpy(&v, at, sizeof(v));
    return GUINT16_FROM_LE(v);
}

static inline uint32_t wire_load_u32(const uint8_t *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof(v));
    return GUINT32_FROM_LE(v);
}

static inline uint64_t wire_load_u64(const uint8_t *at)
{
    uint64_t v;
    memcpy(&v, at, sizeof(v));
    return GUINT64_FROM_LE(v);
}

static inline void wire_store_u16(uint8_t *at, uint16_t v)
{
    v = GUINT16_TO_LE(v);
    memcpy(at, &v, sizeof(v));
}

static inline void wire_store_u32(uint8_t *at, uint32_t v)
{
    v = GUINT32_TO_LE(v);
    memcpy(at, &v, sizeof(v));
}

static inline void wire_store_u64(uint8_t *at, uint64_t v)
{
    v = GUINT64_TO_LE(v);
    memcpy(at, &v, sizeof(v));
}

/* ---- writing ---- */

struct wire_writer {
    GByteArray *bytes; /* owned */
    size_t max_bytes;
    bool has_failed; /* more than max_bytes, or a string that does not fit */
    const char *bad_field;
};

void wire_writer_init(struct wire_writer *writer, size_t max_bytes);
void wire_writer_clear(struct wire_writer *writer);
void wire_put_uint(struct wire_writer *writer, unsigned n_bytes, uint64_t value, const char *field);
void wire_put_string(struct wire_writer *writer, const char *text, uint64_t max_len,
                     const char *field);

/* ---- reading ---- */

struct wire_reader {
    const uint8_t *data; /* borrowed */
    size_t len;
    size_t at;
    const char *bad_field; /* NULL: all is well; static string */
    char bad_why[160];
    enum gw_error_code bad_code;
};

void wire_reader_init(struct wire_reader *reader, const void *data, size_t len);
static inline size_t wire_reader_left(const struct wire_reader *reader)
{
    return reader->len - reader->at;
}
/* Little-endian integer of 1, 2, 4 or 8 bytes. */
uint64_t wire_get_uint(struct wire_reader *reader, unsigned n_bytes, const char *field);
/* The same; fails with LIMIT outside of [min, max]. */
uint64_t wire_get_ranged(struct wire_reader *reader, unsigned n_bytes, uint64_t min, uint64_t max,
                         const char *field);
/* An owned string; NULL after a failure. */
char *wire_get_string(struct wire_reader *reader, uint64_t min_len, uint64_t max_len,
                      const char *field);
/* Marks the reader as failed, unless it is already. */
void wire_reader_fail(struct wire_reader *reader, enum gw_error_code code, const char *field,
                      const char *format, ...) G_GNUC_PRINTF(4, 5);

#endif
