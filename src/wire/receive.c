/* SPDX-License-Identifier: MIT */
/*
 * Receiving records: nothing is believed before its digest, and no length before its check.
 *
 * A receive that ends with TIMEOUT may be repeated: what had come of the header and payload is
 * kept in the stream.
 */
#include "wire/stream_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>

#define SKIP_BYTES 16384u

/* ---- errors ---- */

static void set_error_at(const struct wire_stream *stream, const char *name, uint64_t sequence,
                         int code, const char *why, GError **error)
{
    g_set_error(error, GW_ERROR, code, "%s: record %s %" PRIu64 ": %s", stream->label, name,
                sequence, why);
}

void wire_record_error(const struct wire_record *record, int code, GError **error,
                       const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    g_autofree char *why = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    set_error_at(record->stream, record->type->name, record->sequence,
                 code != 0 ? code : GW_ERROR_CORRUPT, why, error);
}

void wire_peer_error(const struct wire_record *record, GError **error)
{
    if (record->type->type == WIRE_CANCEL) {
        struct wire_cancel cancel;
        if (wire_decode(record, &cancel, error)) {
            g_set_error(error, GW_ERROR, GW_ERROR_CANCELLED, "cancelled by the source: %s",
                        cancel.reason);
            wire_message_clear(WIRE_CANCEL, &cancel);
        }
        return;
    }
    struct wire_abort abort;
    if (wire_decode(record, &abort, error)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PEER, "%s: %s (%s)",
                    abort.side == WIRE_SIDE_SOURCE ? "source" : "destination", abort.reason,
                    gw_error_code_name(abort.code));
        wire_message_clear(WIRE_ABORT, &abort);
    }
}

/* ---- bytes ---- */

/* The stream ended. In a file that is damage; on a link the link is lost. */
static void set_ended(const struct wire_stream *stream, const char *name, size_t n_missing,
                      GError **error)
{
    int code = stream->identity.role == WIRE_ROLE_SNAPSHOT ? GW_ERROR_CORRUPT : GW_ERROR_LINK_LOST;

    if (n_missing == 0) {
        g_set_error(error, GW_ERROR, code, "%s: stream ended before record %" PRIu64 " without %s",
                    stream->label, stream->next_in, code == GW_ERROR_CORRUPT ? "END" : "GOODBYE");
    } else {
        g_set_error(error, GW_ERROR, code,
                    "%s: record %s %" PRIu64 ": stream ended, %zu bytes missing", stream->label,
                    name, stream->next_in, n_missing);
    }
}

/* Reads until stream->in holds wanted bytes. */
static bool fill(struct wire_stream *stream, const char *name, size_t wanted, int64_t deadline_ns,
                 GError **error)
{
    if (wanted > stream->in_capacity) {
        stream->in = g_realloc(stream->in, wanted);
        stream->in_capacity = wanted;
    }
    while (stream->in_have < wanted) {
        ssize_t n = gw_channel_read_some(stream->channel, stream->in + stream->in_have,
                                         wanted - stream->in_have, deadline_ns, error);
        if (n < 0) {
            wire_prefix_error(stream, error);
            return false;
        }
        if (n == 0) {
            set_ended(stream, name, stream->in_have == 0 ? 0 : wanted - stream->in_have, error);
            return false;
        }
        stream->in_have += (size_t)n;
    }
    return true;
}

bool wire_receive_bulk(struct wire_stream *stream, const struct iovec *iov, size_t n_iov,
                       int64_t deadline_ns, GError **error)
{
    uint64_t n_bytes = 0;

    for (size_t i = 0; i < n_iov; i++) {
        n_bytes += iov[i].iov_len;
    }
    assert(n_bytes <= stream->bulk_left);
    if (!gw_channel_readv_full(stream->channel, iov, n_iov, deadline_ns, error)) {
        stream->is_in_broken = true;
        if (error != NULL && *error != NULL && (*error)->code == GW_ERROR_LINK_LOST &&
            stream->identity.role == WIRE_ROLE_SNAPSHOT) {
            (*error)->code = GW_ERROR_CORRUPT;
        }
        g_prefix_error(error, "%s: bulk of record %" PRIu64 ": ", stream->label,
                       stream->next_in - 1);
        return false;
    }
    stream->bulk_left -= (uint32_t)n_bytes;
    wire_count(&stream->bytes_in, n_bytes);
    return true;
}

bool wire_skip_bulk(struct wire_stream *stream, int64_t deadline_ns, GError **error)
{
    uint8_t sink[SKIP_BYTES];

    while (stream->bulk_left > 0) {
        /* cppcheck-suppress legacyUninitvar ; it is written, not read */
        struct iovec iov = {sink, MIN(stream->bulk_left, SKIP_BYTES)};
        if (!wire_receive_bulk(stream, &iov, 1, deadline_ns, error)) {
            return false;
        }
    }
    return true;
}

/* ---- headers ---- */

struct header {
    uint16_t type;
    uint16_t flags;
    uint32_t payload_bytes;
    uint64_t sequence;
    uint32_t bulk_bytes;
    uint64_t digest;
    const struct wire_record_type *row; /* NULL: unknown, optional */
    const char *name;
};

static bool header_error(const struct wire_stream *stream, const struct header *h, int code,
                         GError **error, const char *format, ...) G_GNUC_PRINTF(5, 6);

static bool header_error(const struct wire_stream *stream, const struct header *h, int code,
                         GError **error, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    g_autofree char *why = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    set_error_at(stream, h->name, stream->next_in, code, why, error);
    return false;
}

static const char *phase_name(int phase)
{
    switch (phase) {
    case WIRE_IN_SETUP:
        return "set-up";
    case WIRE_IN_ROUNDS:
        return "rounds";
    case WIRE_IN_BLACKOUT:
        return "blackout";
    case WIRE_IN_COMMITTED:
        return "committed";
    case WIRE_IN_OWNER:
        return "owner query";
    default:
        return "unknown";
    }
}

/* Lengths, and who may send this type where and when. */
static bool check_permitted(const struct wire_stream *stream, const struct header *h,
                            GError **error)
{
    const struct wire_record_type *row = h->row;
    int phase = atomic_load_explicit(&stream->phase, memory_order_acquire);
    bool is_snapshot = stream->identity.role == WIRE_ROLE_SNAPSHOT;
    enum wire_side peer =
        stream->side == WIRE_SIDE_SOURCE ? WIRE_SIDE_DESTINATION : WIRE_SIDE_SOURCE;
    /* A later minor version may have longer payloads. */
    uint32_t max_payload =
        stream->peer_minor > WIRE_VERSION_MINOR ? WIRE_MAX_PAYLOAD : row->max_payload_bytes;

    if (h->payload_bytes < row->min_payload_bytes || h->payload_bytes > max_payload) {
        return header_error(stream, h, GW_ERROR_LIMIT, error,
                            "field length: %" PRIu32 " is not in %" PRIu32 "..%" PRIu32,
                            h->payload_bytes, row->min_payload_bytes, max_payload);
    }
    if (h->bulk_bytes > row->max_bulk_bytes) {
        return header_error(stream, h, GW_ERROR_LIMIT, error,
                            "field bulk: %" PRIu32 " is more than %" PRIu32, h->bulk_bytes,
                            row->max_bulk_bytes);
    }
    if (!(row->senders & peer)) {
        return header_error(stream, h, GW_ERROR_CORRUPT, error, "not sent by this side");
    }
    if (!(row->channels & (1u << (stream->identity.role - 1)))) {
        return header_error(stream, h, GW_ERROR_CORRUPT, error, "not sent on this channel");
    }
    if (!is_snapshot && !(row->phases & phase)) {
        return header_error(stream, h, GW_ERROR_CORRUPT, error, "not permitted in phase %s",
                            phase_name(phase));
    }
    return true;
}

static bool parse_header(struct wire_stream *stream, struct header *h, GError **error)
{
    const uint8_t *at = stream->in;

    *h = (struct header){.name = "header"};
    if (wire_load_u32(at + 20) != (uint32_t)XXH3_64bits_withSeed(at, 20, stream->seed_in)) {
        return header_error(stream, h, GW_ERROR_CORRUPT, error, "check does not match");
    }
    h->type = wire_load_u16(at);
    h->flags = wire_load_u16(at + 2);
    h->payload_bytes = wire_load_u32(at + 4);
    h->sequence = wire_load_u64(at + 8);
    h->bulk_bytes = wire_load_u32(at + 16);
    h->digest = wire_load_u64(at + 24);
    h->row = wire_record_type_of(h->type);
    h->name = h->row != NULL ? h->row->name : "unknown";
    if (h->sequence != stream->next_in) {
        return header_error(stream, h, GW_ERROR_CORRUPT, error,
                            "field sequence: found %" PRIu64 ", expected %" PRIu64, h->sequence,
                            stream->next_in);
    }
    if (h->row == NULL && !(h->type & WIRE_OPTIONAL)) {
        return header_error(stream, h, GW_ERROR_REFUSED, error, "unknown mandatory type 0x%04x",
                            h->type);
    }
    if (h->flags != 0) {
        return header_error(stream, h, GW_ERROR_REFUSED, error, "field flags: unknown flags 0x%04x",
                            h->flags);
    }
    if (h->row != NULL) {
        return check_permitted(stream, h, error);
    }
    if (h->payload_bytes > WIRE_MAX_PAYLOAD || h->bulk_bytes > WIRE_MAX_BULK) {
        return header_error(stream, h, GW_ERROR_LIMIT, error,
                            "field length: %" PRIu32 " and bulk %" PRIu32 " are too long",
                            h->payload_bytes, h->bulk_bytes);
    }
    return true;
}

/* One record of any kind, verified. */
static bool receive_one(struct wire_stream *stream, struct header *h, int64_t deadline_ns,
                        GError **error)
{
    if (!wire_skip_bulk(stream, deadline_ns, error) ||
        !fill(stream, "header", WIRE_HEADER_BYTES, deadline_ns, error)) {
        return false;
    }
    if (!parse_header(stream, h, error)) {
        stream->is_in_broken = true;
        return false;
    }
    size_t n_bytes = WIRE_HEADER_BYTES + (size_t)h->payload_bytes;
    if (!fill(stream, h->name, n_bytes, deadline_ns, error)) {
        return false;
    }
    wire_store_u64(stream->in + 24, 0);
    uint64_t digest = XXH3_64bits_withSeed(stream->in, n_bytes, stream->seed_in);
    wire_store_u64(stream->in + 24, h->digest);
    if (digest != h->digest) {
        stream->is_in_broken = true;
        return header_error(stream, h, GW_ERROR_CORRUPT, error, "digest does not match");
    }
    stream->in_have = 0;
    stream->bulk_left = h->bulk_bytes;
    stream->next_in++;
    wire_count(&stream->records_in, 1);
    wire_count(&stream->bytes_in, n_bytes);
    if (stream->chain_in != NULL && h->type != WIRE_END) {
        XXH3_64bits_update(stream->chain_in, stream->in + 24, 8);
    }
    if (h->type == WIRE_SECTION_END) {
        wire_count(&stream->sections_in, 1);
    }
    return true;
}

bool wire_receive(struct wire_stream *stream, struct wire_record *record, int64_t deadline_ns,
                  GError **error)
{
    struct header h;

    do {
        if (stream->is_in_broken) {
            g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT,
                        "%s: record %" PRIu64 " cannot be read: the stream failed before",
                        stream->label, stream->next_in);
            return false;
        }
        if (!receive_one(stream, &h, deadline_ns, error)) {
            return false;
        }
    } while (h.row == NULL);
    *record = (struct wire_record){.type = h.row,
                                   .flags = h.flags,
                                   .sequence = h.sequence,
                                   .payload = stream->in + WIRE_HEADER_BYTES,
                                   .payload_bytes = h.payload_bytes,
                                   .bulk_bytes = h.bulk_bytes,
                                   .stream = stream};
    return true;
}

/* ---- messages ---- */

bool wire_decode_sized(const struct wire_record *record, void *message, size_t message_bytes,
                       GError **error)
{
    const struct wire_message_desc *desc = record->type->message;
    struct wire_reader reader;

    assert(desc != NULL && desc->size_bytes == message_bytes);
    memset(message, 0, message_bytes);
    wire_reader_init(&reader, record->payload, record->payload_bytes);
    wire_decode_fields(desc, message, &reader);
    if (reader.bad_field == NULL && wire_reader_left(&reader) > 0 &&
        record->stream->peer_minor <= WIRE_VERSION_MINOR) {
        wire_reader_fail(&reader, GW_ERROR_CORRUPT, "length", "%zu bytes too many",
                         wire_reader_left(&reader));
    }
    if (reader.bad_field != NULL) {
        wire_clear_fields(desc, message);
        wire_record_error(record, (int)reader.bad_code, error, "field %s: %s", reader.bad_field,
                          reader.bad_why);
        return false;
    }
    return true;
}

void wire_message_clear(enum wire_type type, void *message)
{
    const struct wire_record_type *row = wire_record_type_of((uint16_t)type);

    assert(row != NULL && row->message != NULL);
    wire_clear_fields(row->message, message);
}

bool wire_expect_sized(struct wire_stream *stream, enum wire_type type, void *message,
                       size_t message_bytes, int64_t deadline_ns, GError **error)
{
    struct wire_record record;

    for (;;) {
        if (!wire_receive(stream, &record, deadline_ns, error)) {
            return false;
        }
        if (record.type->type == type) {
            return wire_decode_sized(&record, message, message_bytes, error);
        }
        switch (record.type->type) {
        case WIRE_KEEPALIVE:
            break;
        case WIRE_CLOCK_PING:
            if (!wire_answer_ping(&record, deadline_ns, error)) {
                return false;
            }
            break;
        case WIRE_ABORT:
        case WIRE_CANCEL:
            wire_peer_error(&record, error);
            return false;
        default:
            wire_record_error(&record, GW_ERROR_CORRUPT, error, "expected %s",
                              wire_record_name((uint16_t)type));
            return false;
        }
    }
}

static bool check_total(const struct wire_record *record, const char *field, uint64_t found,
                        uint64_t expected, GError **error)
{
    if (found == expected) {
        return true;
    }
    wire_record_error(record, GW_ERROR_CORRUPT, error,
                      "field %s: %" PRIu64 ", but the stream has %" PRIu64, field, found, expected);
    return false;
}

bool wire_check_end(struct wire_stream *stream, const struct wire_record *record,
                    int64_t deadline_ns, GError **error)
{
    struct wire_end end;
    uint8_t extra;

    assert(stream->chain_in != NULL);
    if (!wire_decode(record, &end, error)) {
        return false;
    }
    uint64_t own_bytes = WIRE_HEADER_BYTES + record->payload_bytes;
    if (!check_total(record, "n_records", end.n_records, wire_counted(&stream->records_in) - 1,
                     error) ||
        !check_total(record, "n_pages", end.n_pages, wire_counted(&stream->pages_in), error) ||
        !check_total(record, "n_sections", end.n_sections, wire_counted(&stream->sections_in),
                     error) ||
        !check_total(record, "n_bytes", end.n_bytes, wire_counted(&stream->bytes_in) - own_bytes,
                     error) ||
        (!stream->is_chain_unknown &&
         !check_total(record, "digest", end.digest, XXH3_64bits_digest(stream->chain_in), error))) {
        return false;
    }
    ssize_t n = gw_channel_read_some(stream->channel, &extra, 1, deadline_ns, error);
    if (n > 0) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "bytes after END");
    }
    return n == 0;
}
