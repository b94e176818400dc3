/* SPDX-License-Identifier: MIT */
/* What the tests of channels share. */
#ifndef TEST_CHANNEL_FIXTURE_H
#define TEST_CHANNEL_FIXTURE_H

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "../expect.h"
#include "godwit/channel.h"
#include "godwit/error.h"

#define NEVER GW_NO_DEADLINE

static inline void fixture_pattern(uint8_t *bytes, size_t n_bytes, uint64_t seed)
{
    for (size_t i = 0; i < n_bytes; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(seed >> 56);
    }
}

/* A thread that writes bytes and, if asked, finishes the channel. */
struct fixture_writer {
    struct gw_channel *channel;
    const uint8_t *bytes;
    size_t n_bytes;
    bool wants_finish;
    bool is_ok;
    GError *error;
    pthread_t thread;
};

static inline void *fixture_write_thread(void *opaque)
{
    struct fixture_writer *writer = opaque;

    writer->is_ok = gw_channel_write_full(writer->channel, writer->bytes, writer->n_bytes, NEVER,
                                          &writer->error);
    if (writer->is_ok && writer->wants_finish) {
        writer->is_ok = gw_channel_finish(writer->channel, NEVER, &writer->error);
    }
    return NULL;
}

static inline void fixture_writer_start(struct fixture_writer *writer)
{
    assert_int_equal(pthread_create(&writer->thread, NULL, fixture_write_thread, writer), 0);
}

static inline void fixture_writer_join(struct fixture_writer *writer)
{
    pthread_join(writer->thread, NULL);
}

/* Sends a pattern one way and checks that it arrives. */
static inline void fixture_exchange(struct gw_channel *from, struct gw_channel *to, size_t n_bytes)
{
    GError *error = NULL;
    g_autofree uint8_t *sent = g_malloc(n_bytes);
    g_autofree uint8_t *received = g_malloc(n_bytes);
    struct fixture_writer writer = {.channel = from, .bytes = sent, .n_bytes = n_bytes};

    fixture_pattern(sent, n_bytes, n_bytes);
    fixture_writer_start(&writer);
    assert_ok(gw_channel_read_full(to, received, n_bytes, NEVER, &error), error);
    fixture_writer_join(&writer);
    assert_ok(writer.is_ok, writer.error);
    assert_memory_equal(sent, received, n_bytes);
}

static inline char *fixture_directory(void)
{
    char *path = g_dir_make_tmp("godwit-channel-XXXXXX", NULL);

    assert_non_null(path);
    return path;
}

#endif
