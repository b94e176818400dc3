/* SPDX-License-Identifier: MIT */
/*
 * Streams: a channel with its preambles, and the sending of records on it.
 *
 * Threads: see wire.h. Locks: send_lock is held while a record goes out; it is a leaf lock.
 */
#include "wire/decode.h"
#include "wire/stream_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/clock.h"
#include "channel/descriptors.h"
#include "wire/preamble.h"

#define MAX_KEPT_BUFFER_BYTES (64u << 10)

static void make_label(struct wire_stream *stream)
{
    if (stream->identity.role == WIRE_ROLE_PAGE) {
        snprintf(stream->label, sizeof(stream->label), "page %u", stream->identity.index);
    } else {
        snprintf(stream->label, sizeof(stream->label), "%s", wire_role_name(stream->identity.role));
    }
}

struct wire_stream *wire_stream_new(struct gw_channel *channel,
                                    const struct wire_identity *identity, enum wire_side side)
{
    struct wire_stream *stream = g_new0(struct wire_stream, 1);

    stream->channel = channel;
    stream->identity = *identity;
    stream->side = side;
    make_label(stream);
    pthread_mutex_init(&stream->send_lock, NULL);
    stream->out = g_byte_array_new();
    stream->state_digests = g_byte_array_new();
    stream->in_capacity = 4096;
    stream->in = g_malloc(stream->in_capacity);
    atomic_init(&stream->phase, WIRE_IN_SETUP);
    if (identity->role == WIRE_ROLE_SNAPSHOT) {
        stream->chain_out = XXH3_createState();
        stream->chain_in = XXH3_createState();
        XXH3_64bits_reset(stream->chain_out);
        XXH3_64bits_reset(stream->chain_in);
    }
    return stream;
}

void wire_stream_free(struct wire_stream *stream)
{
    if (stream == NULL) {
        return;
    }
    gw_channel_free(stream->channel);
    pthread_mutex_destroy(&stream->send_lock);
    g_byte_array_unref(stream->out);
    g_byte_array_unref(stream->state_digests);
    g_free(stream->in);
    XXH3_freeState(stream->chain_out);
    XXH3_freeState(stream->chain_in);
    if (stream->index != NULL) {
        g_array_unref(stream->index);
    }
    wire_decoder_free(stream->decoder);
    g_free(stream);
}

const struct wire_identity *wire_stream_identity(const struct wire_stream *stream)
{
    return &stream->identity;
}

struct gw_channel *wire_stream_channel(struct wire_stream *stream)
{
    return stream->channel;
}

const char *wire_stream_label(const struct wire_stream *stream)
{
    return stream->label;
}

void wire_stream_set_phase(struct wire_stream *stream, enum wire_phase_set phase)
{
    atomic_store_explicit(&stream->phase, (int)phase, memory_order_release);
}

void wire_stream_counters(const struct wire_stream *stream, struct wire_counters *counters)
{
    *counters = (struct wire_counters){
        .records_out = wire_counted(&stream->records_out),
        .records_in = wire_counted(&stream->records_in),
        .bytes_out = wire_counted(&stream->bytes_out),
        .bytes_in = wire_counted(&stream->bytes_in),
        .pages_out = wire_counted(&stream->pages_out),
        .pages_in = wire_counted(&stream->pages_in),
    };
}

void wire_prefix_error(const struct wire_stream *stream, GError **error)
{
    g_prefix_error(error, "%s: ", stream->label);
}

/* ---- preambles ---- */

static bool send_preamble(struct wire_stream *stream, int64_t deadline_ns, GError **error)
{
    uint8_t bytes[WIRE_PREAMBLE_BYTES];

    stream->seed_out = wire_preamble_make(&stream->identity, stream->side, bytes);
    if (!gw_channel_write_full(stream->channel, bytes, sizeof(bytes), deadline_ns, error)) {
        wire_prefix_error(stream, error);
        return false;
    }
    wire_count(&stream->bytes_out, sizeof(bytes));
    return true;
}

bool wire_stream_open(struct wire_stream *stream, int64_t deadline_ns, GError **error)
{
    uint8_t bytes[WIRE_PREAMBLE_BYTES];
    struct wire_preamble peer;

    if (!send_preamble(stream, deadline_ns, error)) {
        return false;
    }
    if (stream->identity.role == WIRE_ROLE_SNAPSHOT) {
        return true;
    }
    if (!gw_channel_read_full(stream->channel, bytes, sizeof(bytes), deadline_ns, error)) {
        wire_prefix_error(stream, error);
        return false;
    }
    if (!wire_preamble_parse(bytes, stream->label, WIRE_SIDE_DESTINATION, &peer, error)) {
        return false;
    }
    if (peer.identity.role != stream->identity.role ||
        peer.identity.index != stream->identity.index ||
        memcmp(peer.identity.migration_id, stream->identity.migration_id, WIRE_ID_BYTES) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "%s: preamble: the answer is for another channel or migration", stream->label);
        return false;
    }
    stream->seed_in = peer.seed;
    stream->peer_minor = peer.minor;
    wire_count(&stream->bytes_in, sizeof(bytes));
    return true;
}

struct wire_stream *wire_stream_accept(struct gw_channel *channel, int64_t deadline_ns,
                                       GError **error)
{
    struct wire_stream *stream = wire_stream_try_accept(channel, deadline_ns, error);

    if (stream == NULL) {
        gw_channel_free(channel);
    }
    return stream;
}

struct wire_stream *wire_stream_try_accept(struct gw_channel *channel, int64_t deadline_ns,
                                           GError **error)
{
    uint8_t bytes[WIRE_PREAMBLE_BYTES];
    struct wire_preamble peer;

    if (!gw_channel_read_full(channel, bytes, sizeof(bytes), deadline_ns, error)) {
        g_prefix_error(error, "preamble: ");
        return NULL;
    }
    if (!wire_preamble_parse(bytes, gw_channel_name(channel), WIRE_SIDE_SOURCE, &peer, error)) {
        return NULL;
    }
    struct wire_stream *stream = wire_stream_new(channel, &peer.identity, WIRE_SIDE_DESTINATION);
    stream->seed_in = peer.seed;
    stream->peer_minor = peer.minor;
    wire_count(&stream->bytes_in, sizeof(bytes));
    return stream;
}

bool wire_stream_confirm(struct wire_stream *stream, int64_t deadline_ns, GError **error)
{
    assert(stream->identity.role != WIRE_ROLE_SNAPSHOT);
    return send_preamble(stream, deadline_ns, error);
}

/* ---- sending ---- */

static bool may_send(const struct wire_stream *stream, const struct wire_record_type *row,
                     GError **error)
{
    int phase = atomic_load_explicit(&stream->phase, memory_order_acquire);
    bool is_snapshot = stream->identity.role == WIRE_ROLE_SNAPSHOT;

    if (!(row->senders & stream->side) || !(row->channels & (1u << (stream->identity.role - 1))) ||
        (!is_snapshot && !(row->phases & phase))) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "%s: record %s may not be sent here and now (side %d, phase %d)", stream->label,
                    row->name, (int)stream->side, phase);
        return false;
    }
    return true;
}

void wire_build_record(struct wire_stream *stream, enum wire_type type, uint8_t *at,
                       uint32_t payload_bytes, uint32_t bulk_bytes)
{
    wire_store_u16(at, (uint16_t)type);
    wire_store_u16(at + 2, 0);
    wire_store_u32(at + 4, payload_bytes);
    wire_store_u64(at + 8, stream->next_out);
    wire_store_u32(at + 16, bulk_bytes);
    wire_store_u32(at + 20, (uint32_t)XXH3_64bits_withSeed(at, 20, stream->seed_out));
    wire_store_u64(at + 24, 0);
    uint64_t digest =
        XXH3_64bits_withSeed(at, WIRE_HEADER_BYTES + (size_t)payload_bytes, stream->seed_out);
    wire_store_u64(at + 24, digest);
    if (stream->chain_out != NULL) {
        XXH3_64bits_update(stream->chain_out, at + 24, 8);
    }
    stream->next_out++;
    wire_count(&stream->records_out, 1);
}

static bool send_locked(struct wire_stream *stream, const struct wire_record_type *row,
                        const void *payload, uint32_t payload_bytes, const struct iovec *bulk,
                        size_t n_bulk, int64_t deadline_ns, GError **error)
{
    struct iovec iov[1 + WIRE_MAX_PACKET_PAGES];
    uint32_t bulk_bytes = 0;

    for (size_t i = 0; i < n_bulk; i++) {
        iov[1 + i] = bulk[i];
        bulk_bytes += (uint32_t)bulk[i].iov_len;
    }
    assert(payload_bytes >= row->min_payload_bytes && payload_bytes <= row->max_payload_bytes &&
           bulk_bytes <= row->max_bulk_bytes);
    if (stream->is_out_broken) {
        g_set_error(error, GW_ERROR, GW_ERROR_LINK_LOST,
                    "%s: record %s cannot be sent: sending failed before", stream->label,
                    row->name);
        return false;
    }
    g_byte_array_set_size(stream->out, WIRE_HEADER_BYTES + payload_bytes);
    memcpy(stream->out->data + WIRE_HEADER_BYTES, payload, payload_bytes);
    wire_build_record(stream, (enum wire_type)row->type, stream->out->data, payload_bytes,
                      bulk_bytes);
    iov[0] = (struct iovec){stream->out->data, stream->out->len};
    if (!gw_channel_writev_full(stream->channel, iov, 1 + n_bulk, deadline_ns, error)) {
        g_prefix_error(error, "%s: record %s %" G_GUINT64_FORMAT ": ", stream->label, row->name,
                       stream->next_out - 1);
        stream->is_out_broken = true;
        return false;
    }
    wire_count(&stream->bytes_out, (uint64_t)stream->out->len + bulk_bytes);
    if (row->type == WIRE_SECTION_END) {
        wire_count(&stream->sections_out, 1);
    }
    if (stream->out->len > MAX_KEPT_BUFFER_BYTES) {
        g_byte_array_unref(stream->out);
        stream->out = g_byte_array_new();
    }
    return true;
}

bool wire_send_raw(struct wire_stream *stream, enum wire_type type, const void *payload,
                   uint32_t payload_bytes, const struct iovec *bulk, size_t n_bulk,
                   int64_t deadline_ns, GError **error)
{
    const struct wire_record_type *row = wire_record_type_of((uint16_t)type);

    assert(row != NULL && n_bulk <= WIRE_MAX_PACKET_PAGES);
    if (!may_send(stream, row, error)) {
        return false;
    }
    pthread_mutex_lock(&stream->send_lock);
    bool is_ok = send_locked(stream, row, payload, payload_bytes, bulk, n_bulk, deadline_ns, error);
    pthread_mutex_unlock(&stream->send_lock);
    return is_ok;
}

/* Encodes the message of the type; LIMIT with the field when it does not fit. */
static bool encode(const struct wire_stream *stream, const struct wire_record_type *row,
                   const void *message, struct wire_writer *writer, GError **error)
{
    wire_writer_init(writer, row->max_payload_bytes);
    wire_encode(row->message, message, writer);
    if (writer->has_failed) {
        g_set_error(error, GW_ERROR, GW_ERROR_LIMIT,
                    "%s: record %s to send: field %s is out of its range", stream->label, row->name,
                    writer->bad_field);
        wire_writer_clear(writer);
        return false;
    }
    return true;
}

bool wire_send_sized(struct wire_stream *stream, enum wire_type type, const void *message,
                     size_t message_bytes, int64_t deadline_ns, GError **error)
{
    const struct wire_record_type *row = wire_record_type_of((uint16_t)type);
    struct wire_writer writer;

    assert(row != NULL && row->message != NULL && row->message->size_bytes == message_bytes);
    if (!encode(stream, row, message, &writer, error)) {
        return false;
    }
    bool is_ok = wire_send_raw(stream, type, writer.bytes->data, writer.bytes->len, NULL, 0,
                               deadline_ns, error);
    wire_writer_clear(&writer);
    return is_ok;
}

bool wire_send_with_descriptors(struct wire_stream *stream, enum wire_type type,
                                const void *message, size_t message_bytes, const int *fds,
                                size_t n_fds, int64_t deadline_ns, GError **error)
{
    const struct wire_record_type *row = wire_record_type_of((uint16_t)type);
    struct wire_writer writer;

    assert(row != NULL && row->message != NULL && row->message->size_bytes == message_bytes);
    if (!may_send(stream, row, error) || !encode(stream, row, message, &writer, error)) {
        return false;
    }
    pthread_mutex_lock(&stream->send_lock);
    channel_attach_descriptors(stream->channel, fds, n_fds);
    bool is_ok = send_locked(stream, row, writer.bytes->data, writer.bytes->len, NULL, 0,
                             deadline_ns, error);
    channel_attach_descriptors(stream->channel, NULL, 0);
    pthread_mutex_unlock(&stream->send_lock);
    wire_writer_clear(&writer);
    return is_ok;
}

bool wire_answer_ping(const struct wire_record *record, int64_t deadline_ns, GError **error)
{
    uint64_t received_ns = clock_mono_ns();
    struct wire_clock_ping ping;

    if (!wire_decode(record, &ping, error)) {
        return false;
    }
    struct wire_clock_pong pong = {.id = ping.id,
                                   .ping_monotonic_ns = ping.monotonic_ns,
                                   .received_monotonic_ns = received_ns,
                                   .sent_monotonic_ns = clock_mono_ns(),
                                   .sent_realtime_ns = clock_real_ns()};
    return wire_send(record->stream, WIRE_CLOCK_PONG, &pong, deadline_ns, error);
}

bool wire_send_end(struct wire_stream *stream, int64_t deadline_ns, GError **error)
{
    assert(stream->chain_out != NULL);
    struct wire_end end = {
        .n_records = wire_counted(&stream->records_out),
        .n_pages = wire_counted(&stream->pages_out),
        .n_sections = wire_counted(&stream->sections_out),
        .n_bytes = wire_counted(&stream->bytes_out),
        .digest = XXH3_64bits_digest(stream->chain_out),
    };
    return wire_send(stream, WIRE_END, &end, deadline_ns, error);
}
