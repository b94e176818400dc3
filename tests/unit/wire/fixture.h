/* SPDX-License-Identifier: MIT */
/* What the tests of the stream share: connected streams, streams in memory, a sample snapshot. */
#ifndef TEST_WIRE_FIXTURE_H
#define TEST_WIRE_FIXTURE_H

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../expect.h"
#include "wire/inspect.h"
#include "wire/rounds.h"

#define NEVER GW_NO_DEADLINE

struct fixture_ends {
    struct wire_stream *source;
    struct wire_stream *destination;
};

struct fixture_accept {
    struct gw_channel *channel;
    struct wire_stream *stream;
    GError *error;
};

static inline void *fixture_accept_thread(void *opaque)
{
    struct fixture_accept *accept = opaque;

    accept->stream = wire_stream_accept(accept->channel, NEVER, &accept->error);
    if (accept->stream != NULL) {
        wire_stream_confirm(accept->stream, NEVER, &accept->error);
    }
    return NULL;
}

/* Two ends of one channel, preambles exchanged. Small records fit into the socket buffers, so one
 * thread can play both sides afterwards. */
static inline struct fixture_ends fixture_connect(enum wire_role role, uint16_t index,
                                                  enum wire_phase_set phase)
{
    struct gw_channel *a = NULL;
    struct fixture_accept accept = {0};
    struct wire_identity identity = {.role = role, .index = index};
    pthread_t thread;
    GError *error = NULL;

    assert_ok(gw_channel_pair(&a, &accept.channel, &error), error);
    wire_new_migration_id(identity.migration_id);
    struct wire_stream *source = wire_stream_new(a, &identity, WIRE_SIDE_SOURCE);
    assert_int_equal(pthread_create(&thread, NULL, fixture_accept_thread, &accept), 0);
    assert_ok(wire_stream_open(source, NEVER, &error), error);
    pthread_join(thread, NULL);
    assert_ok(accept.stream != NULL, accept.error);
    wire_stream_set_phase(source, phase);
    wire_stream_set_phase(accept.stream, phase);
    return (struct fixture_ends){source, accept.stream};
}

static inline void fixture_close(struct fixture_ends *ends)
{
    wire_stream_free(ends->source);
    wire_stream_free(ends->destination);
}

/* ---- streams in memory ---- */

/* A channel that reads these bytes (copied into a memfd). */
static inline struct gw_channel *fixture_reader(const void *bytes, size_t n_bytes)
{
    GError *error = NULL;
    int fd = memfd_create("stream", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n_bytes), (ssize_t)n_bytes);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    struct gw_channel *channel = gw_channel_new_fd(fd, "memory", NULL, &error);
    assert_ok(channel != NULL, error);
    return channel;
}

/* ---- a sample snapshot ---- */

#define SAMPLE_PAGES 24u

struct fixture_sample {
    uint8_t *memory; /* SAMPLE_PAGES pages, one block */
    GByteArray *bytes;
};

static inline void fixture_fill_memory(uint8_t *memory, size_t n_pages)
{
    uint64_t state = 0x9E3779B97F4A7C15u;

    memset(memory, 0, n_pages * WIRE_PAGE_BYTES);
    for (size_t page = 0; page < n_pages; page++) {
        if (page % 5 >= 3) {
            continue; /* zero */
        }
        for (size_t i = 0; i < WIRE_PAGE_BYTES; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            memory[page * WIRE_PAGE_BYTES + i] = (uint8_t)(state >> 56);
        }
    }
}

static inline void fixture_send_round(struct wire_stream *stream, uint32_t round, uint8_t *memory,
                                      uint64_t first, uint64_t n_pages, uint64_t per_packet,
                                      uint32_t flags)
{
    GError *error = NULL;
    struct wire_pages_out *packet = wire_pages_out_new();
    struct wire_counters before, after;
    struct wire_round_begin begin = {.round = round, .flags = flags, .n_pages = n_pages};
    struct wire_round_end end = {.round = round, .n_pages = n_pages};

    assert_ok(wire_send(stream, WIRE_ROUND_BEGIN, &begin, NEVER, &error), error);
    wire_stream_counters(stream, &before);
    for (uint64_t at = 0; at < n_pages; at += per_packet) {
        wire_pages_begin(packet, round, 0);
        for (uint64_t page = at; page < MIN(at + per_packet, n_pages); page++) {
            assert_true(
                wire_pages_add(packet, first + page, memory + (first + page) * WIRE_PAGE_BYTES));
        }
        assert_ok(wire_pages_send(packet, stream, NEVER, &error), error);
        end.n_packets++;
    }
    wire_stream_counters(stream, &after);
    end.n_bytes = after.bytes_out - before.bytes_out;
    assert_ok(wire_send(stream, WIRE_ROUND_END, &end, NEVER, &error), error);
    wire_pages_out_free(packet);
}

static inline void fixture_send_snapshot(struct wire_stream *stream, uint8_t *memory)
{
    GError *error = NULL;
    static const char schema[] = "{\"machine\": \"sample\"}";
    uint8_t state[600];
    struct wire_extent extent = {0, SAMPLE_PAGES};
    struct wire_ram_block block = {.gpa = 0x80000000u,
                                   .size_bytes = SAMPLE_PAGES * WIRE_PAGE_BYTES,
                                   .name = (char *)"ram",
                                   .n_extents = 1,
                                   .extents = &extent};
    struct wire_ram_map map = {.total_bytes = block.size_bytes, .n_blocks = 1, .blocks = &block};
    struct wire_hello hello = {.page_shift = 12,
                               .max_packet_pages = 256,
                               .ram_bytes = block.size_bytes,
                               .software = (char *)"test",
                               .machine = (char *)"sample"};
    struct wire_switchover_begin begin = {.attempt = 1, .round = 2, .was_running = true};

    memset(state, 0x5A, sizeof(state));
    assert_ok(wire_stream_open(stream, NEVER, &error), error);
    assert_ok(wire_send(stream, WIRE_HELLO, &hello, NEVER, &error), error);
    assert_ok(wire_send_section(stream, WIRE_SECTION_SCHEMA, "schema", 0, 1, 0, schema,
                                sizeof(schema) - 1, NEVER, &error),
              error);
    assert_ok(wire_send(stream, WIRE_RAM_MAP, &map, NEVER, &error), error);
    fixture_send_round(stream, 1, memory, 0, SAMPLE_PAGES, 10, WIRE_ROUND_GUEST_STOPPED);
    assert_ok(wire_send(stream, WIRE_SWITCHOVER_BEGIN, &begin, NEVER, &error), error);
    wire_state_begin(stream, 1);
    assert_ok(wire_send_section(stream, WIRE_SECTION_DEVICE, "uart", 0, 1, 1, state, sizeof(state),
                                NEVER, &error),
              error);
    assert_ok(
        wire_send_section(stream, WIRE_SECTION_DEVICE, "empty", 3, 1, 1, state, 0, NEVER, &error),
        error);
    assert_ok(wire_send_state_end(stream, NULL, NEVER, &error), error);
    assert_ok(wire_send_end(stream, NEVER, &error), error);
}

static inline GByteArray *fixture_read_fd(int fd)
{
    off_t n_bytes = lseek(fd, 0, SEEK_END);
    GByteArray *bytes = g_byte_array_new();

    assert_true(n_bytes >= 0);
    g_byte_array_set_size(bytes, (guint)n_bytes);
    assert_int_equal(pread(fd, bytes->data, (size_t)n_bytes, 0), n_bytes);
    return bytes;
}

static inline struct fixture_sample fixture_sample_new(void)
{
    GError *error = NULL;
    struct fixture_sample sample;
    struct wire_identity identity = {.role = WIRE_ROLE_SNAPSHOT};
    int fd = memfd_create("sample", MFD_CLOEXEC);

    sample.memory = g_malloc(SAMPLE_PAGES * WIRE_PAGE_BYTES);
    fixture_fill_memory(sample.memory, SAMPLE_PAGES);
    wire_new_migration_id(identity.migration_id);
    struct gw_channel *channel = gw_channel_new_fd(dup(fd), "sample", NULL, &error);
    assert_ok(channel != NULL, error);
    struct wire_stream *stream = wire_stream_new(channel, &identity, WIRE_SIDE_SOURCE);
    fixture_send_snapshot(stream, sample.memory);
    assert_ok(gw_channel_finish(channel, NEVER, &error), error);
    wire_stream_free(stream);
    sample.bytes = fixture_read_fd(fd);
    close(fd);
    return sample;
}

static inline void fixture_sample_free(struct fixture_sample *sample)
{
    g_free(sample->memory);
    g_byte_array_unref(sample->bytes);
}

/* Verifies a stream in memory. */
static inline bool fixture_inspect(const void *bytes, size_t n_bytes, GError **error)
{
    struct wire_inspect_report report;
    bool is_ok = wire_inspect(fixture_reader(bytes, n_bytes), NULL, &report, error);

    wire_inspect_report_clear(&report);
    return is_ok;
}

#endif
