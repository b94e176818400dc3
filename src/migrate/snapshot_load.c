/* SPDX-License-Identifier: MIT */
/* Reading all units of a snapshot into guest memory, by several threads. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "memory/place.h"
#include "migrate/engine.h"
#include "migrate/snapshot_parts.h"

#define MAX_THREADS 4u

struct loader {
    /* fixed while threads run */
    const struct snapshot_reader_config *config;
    struct snapshot_reader_counters *counters;
    bool (*wants_stop)(void *opaque);
    void *opaque;
    int fd;
    uint64_t *digests; /* written by the thread that reads the unit */

    /* atomic */
    uint64_t next;
    bool is_stopping;

    /* guarded by lock */
    pthread_mutex_t lock;
    GError *error;
};

/* Is the file in the page cache? A few places tell. */
static bool is_cached(int fd, const struct wire_snapshot *snapshot)
{
    uint8_t byte;
    struct iovec iov = {&byte, 1};

    for (unsigned i = 0; i < 3 && snapshot->n_units > 0; i++) {
        const struct wire_unit *unit = &snapshot->units[(snapshot->n_units - 1) * i / 2];

        if (preadv2(fd, &iov, 1, (off_t)unit->offset, RWF_NOWAIT) < 0 && errno == EAGAIN)
            return false;
    }
    return true;
}

int snapshot_open_again(int fd, const struct wire_snapshot *snapshot)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    int direct = -1;

    if (!is_cached(fd, snapshot))
        direct = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    return direct >= 0 ? direct : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

uint64_t snapshot_block_pages(void *opaque, uint32_t block)
{
    const struct snapshot_reader_config *config = opaque;

    return block < config->n_blocks && config->blocks[block] ? config->blocks[block]->n_pages : 0;
}

void snapshot_count_unit(struct snapshot_reader_counters *counters,
                         const struct wire_pages_in *packet, const struct wire_unit *unit)
{
    __atomic_fetch_add(&counters->pages_zero, packet->n_zero, __ATOMIC_RELAXED);
    __atomic_fetch_add(&counters->pages_plain, packet->n_pages - packet->n_zero, __ATOMIC_RELAXED);
    __atomic_fetch_add(&counters->n_bytes, (uint64_t)unit->record_bytes + unit->bulk_bytes,
                       __ATOMIC_RELAXED);
}

/* Fresh memory takes pages by way of a buffer sooner than a read into it, which clears every page
 * that it then fills. */
static bool place_unit(struct loader *loader, struct wire_unit_reader *reader,
                       const struct wire_unit *unit, uint8_t *bytes, GError **error)
{
    struct gw_ram_block *block = loader->config->blocks[unit->block];

    if (!wire_unit_read_bulk(reader, unit, NULL, bytes, error))
        return false;
    for (uint32_t i = 0; i < reader->packet.n_runs; i++) {
        const struct wire_page_run *run = &reader->packet.runs[i];
        size_t n_bytes = (size_t)run->n_pages * WIRE_PAGE_BYTES;

        if (run->encoding != WIRE_PAGE_PLAIN)
            continue;
        if (!memory_place(block, run->first_page * WIRE_PAGE_BYTES, bytes, n_bytes, error))
            return false;
        bytes += n_bytes;
    }
    return true;
}

static bool load_unit(struct loader *loader, struct wire_unit_reader *reader,
                      const struct wire_unit *unit, uint8_t *bytes, GError **error)
{
    const struct snapshot_reader_config *config = loader->config;
    struct wire_pages_sink sink = {.host = config->blocks[unit->block]->host,
                                   .written =
                                       config->written ? config->written[unit->block] : NULL};

    if (!wire_unit_read_head(reader, unit, error))
        return false;
    for (uint32_t i = 0; i < reader->packet.n_runs; i++) {
        const struct wire_page_run *run = &reader->packet.runs[i];

        if (run->encoding == WIRE_PAGE_ZERO)
            wire_pages_zero_run(&sink, unit->block, run);
        else
            wire_pages_note_written(&sink, run->first_page, run->n_pages);
    }
    if (!(memory_can_place(config->blocks[unit->block])
              ? place_unit(loader, reader, unit, bytes, error)
              : wire_unit_read_bulk(reader, unit, sink.host, NULL, error)))
        return false;
    for (uint32_t i = 0; i < reader->n_digests; i++)
        loader->digests[unit->sequence + 1 - reader->n_digests + i -
                        config->snapshot->locator.pages_sequence] = reader->digests[i];
    snapshot_count_unit(loader->counters, &reader->packet, unit);
    return true;
}

static void loader_fail(struct loader *loader, GError *error)
{
    gw_lock_guard(&loader->lock);

    __atomic_store_n(&loader->is_stopping, true, __ATOMIC_RELAXED);
    if (!loader->error)
        loader->error = error;
    else
        g_error_free(error);
}

static void *loader_main(void *opaque)
{
    struct loader *loader = opaque;
    const struct wire_snapshot *snapshot = loader->config->snapshot;
    struct wire_unit_reader reader = {.stream = loader->config->stream,
                                      .fd = loader->fd,
                                      .block_pages = snapshot_block_pages,
                                      .opaque = (void *)(uintptr_t)loader->config};
    uint8_t *bytes = aligned_alloc(GW_PAGE_SIZE, WIRE_MAX_BULK);
    uint64_t i;

    if (!bytes)
        g_error("out of memory");
    wire_unit_reader_init(&reader);
    while (!__atomic_load_n(&loader->is_stopping, __ATOMIC_RELAXED) &&
           (i = __atomic_fetch_add(&loader->next, 1, __ATOMIC_RELAXED)) < snapshot->n_units) {
        GError *error = NULL;

        if (loader->wants_stop(loader->opaque))
            g_set_error_literal(&error, GW_ERROR, GW_ERROR_CANCELLED, "cancelled");
        if (error || !load_unit(loader, &reader, &snapshot->units[i], bytes, &error))
            loader_fail(loader, error);
    }
    wire_unit_reader_clear(&reader);
    free(bytes);
    return NULL;
}

uint32_t snapshot_n_threads(const struct snapshot_reader_config *config)
{
    /* While one waits for the disk another one copies: also on a single processor. */
    return config->n_threads ? MIN(config->n_threads, MAX_THREADS) : MAX_THREADS;
}

bool snapshot_load(const struct snapshot_reader_config *config,
                   struct snapshot_reader_counters *counters, bool (*wants_stop)(void *opaque),
                   void *opaque, uint64_t **digests, GError **error)
{
    const struct wire_locator *locator = &config->snapshot->locator;
    struct loader loader = {.config = config,
                            .counters = counters,
                            .wants_stop = wants_stop,
                            .opaque = opaque,
                            .fd = snapshot_open_again(config->fd, config->snapshot)};
    uint32_t n_threads = snapshot_n_threads(config);
    pthread_t threads[MAX_THREADS];

    loader.digests = g_new0(uint64_t, locator->tail_sequence - locator->pages_sequence + 1);
    pthread_mutex_init(&loader.lock, NULL);
    for (uint32_t i = 0; i < n_threads; i++)
        engine_thread_start(&threads[i], "gw-load", loader_main, &loader);
    for (uint32_t i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&loader.lock);
    gw_clear_fd(&loader.fd);
    if (!loader.error && counters->pages_plain + counters->pages_zero != locator->n_pages)
        g_set_error(&loader.error, GW_ERROR, GW_ERROR_CORRUPT,
                    "snapshot: LOCATOR says %" G_GUINT64_FORMAT
                    " pages, there are %" G_GUINT64_FORMAT,
                    locator->n_pages, counters->pages_plain + counters->pages_zero);
    if (loader.error) {
        g_free(loader.digests);
        g_propagate_error(error, loader.error);
        return false;
    }
    *digests = loader.digests;
    return true;
}
