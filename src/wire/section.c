/* SPDX-License-Identifier: MIT */
/*
 * Sections: sending them in parts, and putting them together again.
 *
 * Wire: docs/wire-format.md section 5.
 */
#include "wire/section.h"

#include <assert.h>
#include <inttypes.h>

#include "wire/stream_impl.h"

struct wire_section_reader {
    struct wire_section_begin open; /* name owned */
    bool is_open;
    uint32_t next_id;
    uint32_t n_parts;
    GByteArray *data;
    /* sums since the reset, per kind of section that counts: device or rehearsal */
    uint32_t n_sections;
    uint64_t n_bytes;
    GByteArray *digests;
};

static uint64_t digests_digest(const GByteArray *digests)
{
    return XXH3_64bits(digests->data, digests->len);
}

/* ---- sending ---- */

void wire_state_begin(struct wire_stream *stream, uint32_t attempt)
{
    stream->state_attempt = attempt;
    stream->n_state_sections = 0;
    stream->n_state_bytes = 0;
    g_byte_array_set_size(stream->state_digests, 0);
}

static void state_add(struct wire_stream *stream, uint64_t n_bytes, uint64_t digest)
{
    uint8_t bytes[8];

    wire_store_u64(bytes, digest);
    g_byte_array_append(stream->state_digests, bytes, sizeof(bytes));
    stream->n_state_sections++;
    stream->n_state_bytes += n_bytes;
}

static bool check_sizes(const struct wire_stream *stream, enum wire_section_kind kind,
                        const char *name, uint64_t n_bytes, GError **error)
{
    uint64_t max =
        kind == WIRE_SECTION_SCHEMA ? WIRE_MAX_SCHEMA_BYTES : (uint64_t)WIRE_MAX_SECTION_BYTES;

    if (n_bytes > max) {
        g_set_error(error, GW_ERROR, GW_ERROR_LIMIT,
                    "%s: section %s has %" PRIu64 " bytes, more than %" PRIu64, stream->label, name,
                    n_bytes, max);
        return false;
    }
    if (kind != WIRE_SECTION_SCHEMA &&
        (stream->n_state_sections >= WIRE_MAX_SECTIONS ||
         n_bytes > WIRE_MAX_SECTIONS_BYTES - stream->n_state_bytes)) {
        g_set_error(error, GW_ERROR, GW_ERROR_LIMIT,
                    "%s: section %s exceeds the limit of all sections together", stream->label,
                    name);
        return false;
    }
    return true;
}

static bool send_part(struct wire_stream *stream, uint32_t id, const uint8_t *data, uint64_t offset,
                      uint32_t n_bytes, int64_t deadline_ns, GError **error)
{
    uint8_t payload[12];
    struct iovec bulk = {(void *)(uintptr_t)(data + offset), n_bytes};

    wire_store_u32(payload, id);
    wire_store_u64(payload + 4, offset);
    return wire_send_raw(stream, WIRE_SECTION_PART, payload, sizeof(payload), &bulk, 1, deadline_ns,
                         error);
}

bool wire_send_section(struct wire_stream *stream, enum wire_section_kind kind, const char *name,
                       uint32_t instance, uint32_t version, uint32_t attempt, const void *data,
                       uint64_t n_bytes, int64_t deadline_ns, GError **error)
{
    if (!check_sizes(stream, kind, name, n_bytes, error)) {
        return false;
    }
    uint64_t digest = XXH3_64bits(data, (size_t)n_bytes);
    struct wire_section_begin begin = {.id = stream->next_section++,
                                       .kind = kind,
                                       .instance = instance,
                                       .version = version,
                                       .attempt = attempt,
                                       .n_bytes = n_bytes,
                                       .name = (char *)(uintptr_t)name};
    struct wire_section_end end = {.id = begin.id, .n_bytes = n_bytes, .digest = digest};
    if (!wire_send(stream, WIRE_SECTION_BEGIN, &begin, deadline_ns, error)) {
        return false;
    }
    for (uint64_t at = 0; at < n_bytes; at += WIRE_SECTION_PART_BYTES) {
        uint32_t part = (uint32_t)MIN(n_bytes - at, WIRE_SECTION_PART_BYTES);
        if (!send_part(stream, begin.id, data, at, part, deadline_ns, error)) {
            return false;
        }
        end.n_parts++;
    }
    if (!wire_send(stream, WIRE_SECTION_END, &end, deadline_ns, error)) {
        return false;
    }
    if (kind != WIRE_SECTION_SCHEMA) {
        state_add(stream, n_bytes, digest);
    }
    return true;
}

uint64_t wire_state_digest(const struct wire_stream *stream)
{
    return digests_digest(stream->state_digests);
}

bool wire_send_state_end(struct wire_stream *stream, struct wire_state_end *sent,
                         int64_t deadline_ns, GError **error)
{
    struct wire_state_end end = {.attempt = stream->state_attempt,
                                 .n_sections = stream->n_state_sections,
                                 .n_bytes = stream->n_state_bytes,
                                 .digest = wire_state_digest(stream)};

    if (!wire_send(stream, WIRE_STATE_END, &end, deadline_ns, error)) {
        return false;
    }
    if (sent != NULL) {
        *sent = end;
    }
    return true;
}

/* ---- receiving ---- */

void wire_section_clear(struct wire_section *section)
{
    g_free(section->name);
    g_clear_pointer(&section->data, g_bytes_unref);
    memset(section, 0, sizeof(*section));
}

struct wire_section_reader *wire_section_reader_new(void)
{
    struct wire_section_reader *reader = g_new0(struct wire_section_reader, 1);

    reader->data = g_byte_array_new();
    reader->digests = g_byte_array_new();
    return reader;
}

void wire_section_reader_free(struct wire_section_reader *reader)
{
    if (reader == NULL) {
        return;
    }
    g_free(reader->open.name);
    g_byte_array_unref(reader->data);
    g_byte_array_unref(reader->digests);
    g_free(reader);
}

bool wire_section_is_open(const struct wire_section_reader *reader)
{
    return reader->is_open;
}

void wire_section_reset(struct wire_section_reader *reader)
{
    reader->n_sections = 0;
    reader->n_bytes = 0;
    g_byte_array_set_size(reader->digests, 0);
}

static bool section_error(const struct wire_section_reader *reader,
                          const struct wire_record *record, int code, GError **error,
                          const char *field, uint64_t found, uint64_t expected)
{
    wire_record_error(record, code, error,
                      "section %s: field %s: found %" PRIu64 ", expected %" PRIu64,
                      reader->open.name != NULL ? reader->open.name : "?", field, found, expected);
    return false;
}

static bool feed_begin(struct wire_section_reader *reader, const struct wire_record *record,
                       GError **error)
{
    struct wire_section_begin begin;

    if (reader->is_open) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "section %s has not ended",
                          reader->open.name);
        return false;
    }
    if (!wire_decode(record, &begin, error)) {
        return false;
    }
    g_free(reader->open.name);
    reader->open = begin;
    if (begin.id != reader->next_id) {
        return section_error(reader, record, GW_ERROR_CORRUPT, error, "id", begin.id,
                             reader->next_id);
    }
    bool is_schema = begin.kind == WIRE_SECTION_SCHEMA;
    if (is_schema ? begin.n_bytes > WIRE_MAX_SCHEMA_BYTES
                  : reader->n_sections >= WIRE_MAX_SECTIONS ||
                        begin.n_bytes > WIRE_MAX_SECTIONS_BYTES - reader->n_bytes) {
        wire_record_error(record, GW_ERROR_LIMIT, error,
                          "section %s: field n_bytes: %" PRIu64 " is too much", begin.name,
                          begin.n_bytes);
        return false;
    }
    reader->next_id++;
    reader->n_parts = 0;
    reader->is_open = true;
    g_byte_array_set_size(reader->data, 0);
    return true;
}

static bool feed_part(struct wire_section_reader *reader, const struct wire_record *record,
                      int64_t deadline_ns, GError **error)
{
    struct wire_section_part part;
    uint32_t n_bytes = record->bulk_bytes;

    if (!reader->is_open) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "no section is open");
        return false;
    }
    if (!wire_decode(record, &part, error)) {
        return false;
    }
    if (part.id != reader->open.id) {
        return section_error(reader, record, GW_ERROR_CORRUPT, error, "id", part.id,
                             reader->open.id);
    }
    if (part.offset != reader->data->len) {
        return section_error(reader, record, GW_ERROR_CORRUPT, error, "offset", part.offset,
                             reader->data->len);
    }
    /* PEER: n_bytes is at most WIRE_SECTION_PART_BYTES by the table of records. */
    if (n_bytes == 0 || n_bytes > reader->open.n_bytes - reader->data->len) {
        return section_error(reader, record, GW_ERROR_LIMIT, error, "bulk", n_bytes,
                             reader->open.n_bytes - reader->data->len);
    }
    guint start = reader->data->len;
    g_byte_array_set_size(reader->data, start + n_bytes);
    struct iovec iov = {reader->data->data + start, n_bytes};
    reader->n_parts++;
    return wire_receive_bulk(record->stream, &iov, 1, deadline_ns, error);
}

static bool feed_end(struct wire_section_reader *reader, const struct wire_record *record,
                     struct wire_section *section, GError **error)
{
    struct wire_section_end end;
    uint8_t bytes[8];

    if (!reader->is_open) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "no section is open");
        return false;
    }
    if (!wire_decode(record, &end, error)) {
        return false;
    }
    uint64_t digest = XXH3_64bits(reader->data->data, reader->data->len);
    const struct {
        const char *field;
        uint64_t found, expected;
    } checks[] = {
        {"id", end.id, reader->open.id},
        {"n_parts", end.n_parts, reader->n_parts},
        {"n_bytes", end.n_bytes, reader->open.n_bytes},
        {"n_bytes", reader->data->len, reader->open.n_bytes},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(checks); i++) {
        if (checks[i].found != checks[i].expected) {
            return section_error(reader, record, GW_ERROR_CORRUPT, error, checks[i].field,
                                 checks[i].found, checks[i].expected);
        }
    }
    if (digest != end.digest) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "section %s: its data does not match field digest", reader->open.name);
        return false;
    }
    if (reader->open.kind != WIRE_SECTION_SCHEMA) {
        wire_store_u64(bytes, digest);
        g_byte_array_append(reader->digests, bytes, sizeof(bytes));
        reader->n_sections++;
        reader->n_bytes += end.n_bytes;
    }
    *section = (struct wire_section){.kind = (enum wire_section_kind)reader->open.kind,
                                     .name = g_steal_pointer(&reader->open.name),
                                     .instance = reader->open.instance,
                                     .version = reader->open.version,
                                     .attempt = reader->open.attempt,
                                     .digest = digest};
    section->data = g_byte_array_free_to_bytes(g_steal_pointer(&reader->data));
    reader->data = g_byte_array_new();
    reader->is_open = false;
    return true;
}

bool wire_section_feed(struct wire_section_reader *reader, const struct wire_record *record,
                       struct wire_section *section, bool *is_whole, int64_t deadline_ns,
                       GError **error)
{
    *is_whole = false;
    switch (record->type->type) {
    case WIRE_SECTION_BEGIN:
        return feed_begin(reader, record, error);
    case WIRE_SECTION_PART:
        return feed_part(reader, record, deadline_ns, error);
    case WIRE_SECTION_END:
        *is_whole = feed_end(reader, record, section, error);
        return *is_whole;
    default:
        wire_record_error(record, GW_ERROR_CORRUPT, error, "not part of a section");
        return false;
    }
}

bool wire_section_check_state_end(const struct wire_section_reader *reader,
                                  const struct wire_record *record,
                                  const struct wire_state_end *end, GError **error)
{
    const struct {
        const char *field;
        uint64_t found, expected;
    } checks[] = {
        {"n_sections", end->n_sections, reader->n_sections},
        {"n_bytes", end->n_bytes, reader->n_bytes},
        {"digest", end->digest, digests_digest(reader->digests)},
    };

    if (reader->is_open) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "section %s has not ended",
                          reader->open.name);
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(checks); i++) {
        if (checks[i].found != checks[i].expected) {
            wire_record_error(record, GW_ERROR_CORRUPT, error,
                              "field %s: %" PRIu64 ", but the sections have %" PRIu64,
                              checks[i].field, checks[i].found, checks[i].expected);
            return false;
        }
    }
    return true;
}

bool wire_expect_section(struct wire_stream *stream, struct wire_section_reader *reader,
                         enum wire_section_kind kind, struct wire_section *section,
                         int64_t deadline_ns, GError **error)
{
    struct wire_record record;
    bool is_whole = false;

    while (!is_whole) {
        if (!wire_receive(stream, &record, deadline_ns, error)) {
            return false;
        }
        uint16_t type = record.type->type;
        if (type == WIRE_ABORT || type == WIRE_CANCEL) {
            wire_peer_error(&record, error);
            return false;
        }
        if (type == WIRE_CLOCK_PING) {
            if (!wire_answer_ping(&record, deadline_ns, error)) {
                return false;
            }
        } else if (type != WIRE_KEEPALIVE &&
                   !wire_section_feed(reader, &record, section, &is_whole, deadline_ns, error)) {
            return false;
        }
    }
    if (section->kind != kind) {
        wire_record_error(&record, GW_ERROR_CORRUPT, error,
                          "section %s: field kind: found %d, "
                          "expected %d",
                          section->name, (int)section->kind, (int)kind);
        wire_section_clear(section);
        return false;
    }
    return true;
}
