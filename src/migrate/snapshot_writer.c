/* SPDX-License-Identifier: MIT */
/*
 * Writing a snapshot's pages; see snapshot_writer.h.
 *
 * States of a chunk (live): NEW -> BUSY -> DONE. Whoever moves it from NEW to BUSY copies it. A
 * write to a chunk that is BUSY waits for its release, which wakes it.
 *
 * ORDER: the copy is made while the pages are protected, so it holds what they held at the instant;
 * they are released after the copy and DONE is set before the release. A write that faults on a
 * chunk that is DONE (its message was read late) is let go by another release.
 *
 * Locks: writer.lock guards the copies and how it goes; it is not held during I/O or copying.
 */
#include "migrate/snapshot_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/cleanup.h"
#include "base/cond.h"
#include "memory/faults.h"
#include "migrate/engine.h"

#define CHUNK_PAGES UINT64_C(256)
#define CHUNK_BYTES (CHUNK_PAGES * GW_PAGE_SIZE)
#define MAX_THREADS 4u
#define N_COPIES    16u /* of CHUNK_BYTES each: the bound on what waits for the disk */

enum { NEW = 0, BUSY, DONE };

/* The content of a chunk at the instant. */
struct copy {
    struct copy *next;
    uint8_t *bytes; /* CHUNK_BYTES, page-aligned */
    uint64_t chunk;
    uint64_t touched[CHUNK_PAGES / 64]; /* pages that were copied; the others of the set are zero */
};

struct snapshot_writer {
    /* fixed after construction */
    struct snapshot_writer_config config;
    uint64_t n_chunks;
    int fd; /* the stream's file; -1: in order, on its channel */

    /* fixed while threads run */
    const struct gw_page_set *set;
    uint32_t round;
    struct faults *faults; /* live */
    struct copy copies[N_COPIES];

    /* atomic */
    uint8_t *states;     /* live: of the chunks */
    uint64_t next_chunk; /* cursor */
    bool is_instant;     /* live: the instant has come */
    uint64_t pages_plain, pages_zero, n_packets, n_bytes, n_caught;

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct copy *unused, *waiting; /* copies without content, and to be written */
    uint32_t n_catching;           /* chunks that a fault is copying */
    GError *error;                 /* the first */
    bool is_stopping;
};

/* One thread's own. */
struct worker {
    struct snapshot_writer *writer;
    pthread_t thread;
    struct wire_pages_out *packet;
    uint8_t *head;
};

/* ---- chunks ---- */

static uint64_t chunks_of(const struct gw_ram_block *block)
{
    return (block->n_pages + CHUNK_PAGES - 1) / CHUNK_PAGES;
}

static struct gw_ram_block *chunk_place(struct snapshot_writer *writer, uint64_t chunk,
                                        uint64_t *first)
{
    for (uint32_t i = 0;; i++) {
        struct gw_ram_block *block = gw_memory_block(writer->config.memory, i);
        uint64_t n = chunks_of(block);

        if (chunk < n) {
            *first = chunk * CHUNK_PAGES;
            return block;
        }
        chunk -= n;
    }
}

static uint64_t chunk_number(struct snapshot_writer *writer, const struct gw_ram_block *block,
                             uint64_t page)
{
    uint64_t chunk = page / CHUNK_PAGES;

    for (uint32_t i = 0; i < block->index; i++)
        chunk += chunks_of(gw_memory_block(writer->config.memory, i));
    return chunk;
}

static bool chunk_is_empty(const struct snapshot_writer *writer, const struct gw_ram_block *block,
                           uint64_t first)
{
    uint64_t end = MIN(first + CHUNK_PAGES, block->n_pages), any = 0;

    for (uint64_t w = first / 64; w * 64 < end; w++)
        any |= writer->set->words[block->index][w];
    return any == 0;
}

static bool chunk_take(struct snapshot_writer *writer, uint64_t chunk)
{
    uint8_t state = NEW;

    return __atomic_compare_exchange_n(&writer->states[chunk], &state, BUSY, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* ---- errors and ends ---- */

static void writer_fail(struct snapshot_writer *writer, GError *error)
{
    gw_lock_guard(&writer->lock);

    if (!writer->error)
        writer->error = error;
    else
        g_error_free(error);
    writer->is_stopping = true;
    pthread_cond_broadcast(&writer->changed);
}

static bool writer_is_stopping(struct snapshot_writer *writer)
{
    bool wants_stop = writer->config.wants_stop && writer->config.wants_stop(writer->config.opaque);
    gw_lock_guard(&writer->lock);

    if (wants_stop && !writer->is_stopping) {
        writer->is_stopping = true;
        g_set_error_literal(&writer->error, GW_ERROR, GW_ERROR_CANCELLED, "cancelled");
        pthread_cond_broadcast(&writer->changed);
    }
    return writer->is_stopping;
}

/* ---- packets ---- */

static bool write_at(int fd, struct iovec *iov, int n_iov, uint64_t offset, GError **error)
{
    while (n_iov > 0) {
        ssize_t n = pwritev(fd, iov, n_iov, (off_t)offset);
        int flags;

        if (n < 0 && errno == EINTR)
            continue;
        /* A file system, or a memory, that takes no direct writes: by way of the page cache. */
        if (n < 0 && errno == EINVAL && (flags = fcntl(fd, F_GETFL)) >= 0 && (flags & O_DIRECT) &&
            fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0)
            continue;
        if (n <= 0) {
            g_set_error(error, GW_ERROR, GW_ERROR_IO, "write: %s",
                        n < 0 ? g_strerror(errno) : "nothing was taken");
            return false;
        }
        offset += (uint64_t)n;
        for (; n_iov > 0 && (size_t)n >= iov->iov_len; iov++, n_iov--)
            n -= (ssize_t)iov->iov_len;
        if (n_iov > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
            /* What is left of a direct write that was cut may not be aligned any more. */
            flags = fcntl(fd, F_GETFL);
            if (flags >= 0 && (flags & O_DIRECT))
                fcntl(fd, F_SETFL, flags & ~O_DIRECT);
        }
    }
    return true;
}

/* Gives the packet its place and writes it there. */
static bool packet_write(struct worker *worker, GError **error)
{
    struct snapshot_writer *writer = worker->writer;
    struct wire_stream *stream = writer->config.stream;
    struct iovec iov[1 + WIRE_MAX_PACKET_PAGES];
    struct wire_place place;
    uint32_t n_pages = wire_pages_count(worker->packet);
    uint32_t n_zero = wire_pages_zero_count(worker->packet);
    uint64_t n_bytes = wire_pages_record_bytes(worker->packet);
    const struct iovec *bulk;
    size_t n_bulk;
    bool is_written;

    if (n_pages == 0)
        return true;
    if (!wire_pages_place(worker->packet, stream, worker->head, &place, error))
        return false;
    bulk = wire_pages_bulk(worker->packet, &n_bulk);
    iov[0] = (struct iovec){worker->head, place.head_bytes};
    memcpy(iov + 1, bulk, n_bulk * sizeof *bulk);
    is_written = writer->fd >= 0 ? write_at(writer->fd, iov, (int)n_bulk + 1, place.offset, error)
                                 : gw_channel_writev_full(wire_stream_channel(stream), iov,
                                                          n_bulk + 1, GW_NO_DEADLINE, error);
    __atomic_fetch_add(&writer->pages_zero, n_zero, __ATOMIC_RELAXED);
    __atomic_fetch_add(&writer->pages_plain, n_pages - n_zero, __ATOMIC_RELAXED);
    __atomic_fetch_add(&writer->n_bytes, n_bytes, __ATOMIC_RELAXED);
    __atomic_fetch_add(&writer->n_packets, 1, __ATOMIC_RELAXED);
    return is_written;
}

/* bytes: of the chunk's first page; touched: pages of it that may hold anything but zeroes. */
static bool chunk_write(struct worker *worker, const struct gw_ram_block *block, uint64_t first,
                        const uint8_t *bytes, const uint64_t *touched, GError **error)
{
    struct snapshot_writer *writer = worker->writer;
    const uint64_t *words = writer->set->words[block->index];
    uint64_t end = MIN(first + CHUNK_PAGES, block->n_pages);

    wire_pages_begin(worker->packet, writer->round, block->index);
    for (uint64_t page = first; page < end; page++) {
        uint64_t bit = UINT64_C(1) << (page % 64);

        if (!(words[page / 64] & bit))
            continue;
        /* A packet holds a chunk: it is never full, and no page is too far from the first. */
        if (touched[(page - first) / 64] & bit)
            wire_pages_add(worker->packet, page, bytes + (page - first) * GW_PAGE_SIZE);
        else
            wire_pages_add_zero(worker->packet, page);
    }
    return packet_write(worker, error);
}

static void chunk_touched(const struct gw_ram_block *block, uint64_t first, uint64_t *touched)
{
    for (uint64_t i = 0; i < CHUNK_PAGES / 64; i++) {
        uint64_t page = first + i * 64;

        touched[i] =
            page < block->n_pages
                ? gw_memory_touched_mask(block, page, (uint32_t)MIN(64, block->n_pages - page))
                : 0;
    }
}

/* ---- the instant ---- */

/* Takes the chunk's content, which nobody can change meanwhile, and lets its writers go. */
static bool chunk_copy(struct snapshot_writer *writer, uint64_t chunk, struct copy *copy,
                       GError **error)
{
    uint64_t first, n_pages;
    struct gw_ram_block *block = chunk_place(writer, chunk, &first);
    const uint64_t *words = writer->set->words[block->index];

    n_pages = MIN(CHUNK_PAGES, block->n_pages - first);
    copy->chunk = chunk;
    chunk_touched(block, first, copy->touched);
    for (uint64_t i = 0; i < n_pages; i++)
        if (words[(first + i) / 64] >> ((first + i) % 64) & copy->touched[i / 64] >> (i % 64) & 1)
            memcpy(copy->bytes + i * GW_PAGE_SIZE, block->host + (first + i) * GW_PAGE_SIZE,
                   GW_PAGE_SIZE);
    __atomic_store_n(&writer->states[chunk], DONE, __ATOMIC_SEQ_CST);
    return faults_release(writer->faults, block, first, n_pages, error);
}

/* A copy to fill, or NULL when it is time to end. */
static struct copy *copy_get(struct snapshot_writer *writer)
{
    struct copy *copy;
    gw_lock_guard(&writer->lock);

    while (!writer->unused && !writer->is_stopping)
        pthread_cond_wait(&writer->changed, &writer->lock);
    if (writer->is_stopping)
        return NULL;
    copy = writer->unused;
    writer->unused = copy->next;
    return copy;
}

static void copy_put(struct snapshot_writer *writer, struct copy **list, struct copy *copy)
{
    gw_lock_guard(&writer->lock);

    copy->next = *list;
    *list = copy;
    pthread_cond_broadcast(&writer->changed);
}

/* A chunk that is about to change: its copy goes to the workers. On the thread of whoever knows. */
static void chunk_catch(struct snapshot_writer *writer, uint64_t chunk)
{
    GError *error = NULL;
    struct copy *copy;
    uint64_t first;
    const struct gw_ram_block *block = chunk_place(writer, chunk, &first);

    if (chunk_is_empty(writer, block, first))
        return;
    pthread_mutex_lock(&writer->lock);
    writer->n_catching++;
    pthread_mutex_unlock(&writer->lock);
    copy = copy_get(writer);
    if (copy && chunk_take(writer, chunk)) {
        __atomic_fetch_add(&writer->n_caught, 1, __ATOMIC_RELAXED);
        if (!chunk_copy(writer, chunk, copy, &error))
            writer_fail(writer, error);
        copy_put(writer, &writer->waiting, copy);
    } else if (copy) {
        copy_put(writer, &writer->unused, copy);
    }
    pthread_mutex_lock(&writer->lock);
    writer->n_catching--;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
}

static void on_write(void *opaque, struct gw_ram_block *block, uint64_t page, uint32_t thread)
{
    struct snapshot_writer *writer = opaque;
    uint64_t chunk = chunk_number(writer, block, page);

    /* Before the instant a write is only let go: who is told of it later is the dirty log. */
    if (!__atomic_load_n(&writer->is_instant, __ATOMIC_ACQUIRE)) {
        faults_release(writer->faults, block, page, 1, NULL);
        return;
    }
    chunk_catch(writer, chunk);
    /* BUSY: its release comes and wakes. */
    if (__atomic_load_n(&writer->states[chunk], __ATOMIC_SEQ_CST) == DONE)
        faults_release(writer->faults, block, page, 1, NULL);
}

/* Pages that are given back to the host are gone without a fault. */
static void on_discard(void *opaque, struct gw_ram_block *block, uint64_t first, uint64_t n_pages)
{
    struct snapshot_writer *writer = opaque;

    if (n_pages == 0 || !__atomic_load_n(&writer->is_instant, __ATOMIC_ACQUIRE))
        return;
    for (uint64_t chunk = chunk_number(writer, block, first);
         chunk <= chunk_number(writer, block, first + n_pages - 1); chunk++) {
        chunk_catch(writer, chunk);
        /* A worker may be copying it just now: that takes no longer than copying it here. */
        while (__atomic_load_n(&writer->states[chunk], __ATOMIC_SEQ_CST) == BUSY)
            sched_yield();
    }
}

static bool protect_set(struct snapshot_writer *writer, const struct gw_page_set *set,
                        GError **error)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(writer->config.memory); i++) {
        struct gw_ram_block *block = gw_memory_block(writer->config.memory, i);

        for (uint64_t page = 0, n; gw_page_set_next_run(set, i, &page, &n, UINT64_MAX); page += n)
            if (!faults_protect(writer->faults, block, page, n, error))
                return false;
    }
    return true;
}

bool snapshot_writer_arm(struct snapshot_writer *writer, const struct gw_page_set *set,
                         GError **error)
{
    writer->faults = faults_new(writer->config.memory, FAULTS_WRITES, on_write, writer, error);
    if (!writer->faults || !faults_start(writer->faults, 1, error))
        return false;
    writer->states = g_malloc0(writer->n_chunks);
    for (uint32_t i = 0; i < N_COPIES; i++) {
        writer->copies[i].bytes = aligned_alloc(GW_PAGE_SIZE, CHUNK_BYTES);
        if (!writer->copies[i].bytes)
            g_error("out of memory");
        copy_put(writer, &writer->unused, &writer->copies[i]);
    }
    return protect_set(writer, set, error);
}

bool snapshot_writer_instant(struct snapshot_writer *writer, const struct gw_page_set *set,
                             const struct gw_page_set *dirty, GError **error)
{
    if (!protect_set(writer, dirty, error))
        return false;
    writer->set = set;
    memory_set_guard(writer->config.memory, on_discard, writer);
    __atomic_store_n(&writer->is_instant, true, __ATOMIC_RELEASE);
    return true;
}

/* ---- the threads ---- */

struct work {
    struct copy *copy; /* to write; or, with fill, to be filled with the chunk first */
    uint64_t chunk;
    bool is_fill;
};

/* What to do next; false: nothing any more. Copies that wait come first: somebody may wait for
 * their room. */
static bool next_work(struct snapshot_writer *writer, struct work *work)
{
    gw_lock_guard(&writer->lock);

    for (;;) {
        bool has_chunks = __atomic_load_n(&writer->next_chunk, __ATOMIC_RELAXED) < writer->n_chunks;

        if (writer->is_stopping)
            return false;
        *work = (struct work){.copy = writer->waiting};
        if (work->copy) {
            writer->waiting = work->copy->next;
            return true;
        }
        if (has_chunks && (!writer->faults || writer->unused)) {
            work->chunk = __atomic_fetch_add(&writer->next_chunk, 1, __ATOMIC_RELAXED);
            work->is_fill = true;
            if (writer->faults && work->chunk < writer->n_chunks) {
                work->copy = writer->unused;
                writer->unused = work->copy->next;
            }
            return true;
        }
        if (!has_chunks && writer->n_catching == 0)
            return false;
        pthread_cond_wait(&writer->changed, &writer->lock);
    }
}

static bool write_copy(struct worker *worker, const struct copy *copy, GError **error)
{
    uint64_t first;
    const struct gw_ram_block *block = chunk_place(worker->writer, copy->chunk, &first);

    return chunk_write(worker, block, first, copy->bytes, copy->touched, error);
}

static bool do_work(struct worker *worker, const struct work *work, GError **error)
{
    struct snapshot_writer *writer = worker->writer;
    uint64_t touched[CHUNK_PAGES / 64], first;
    struct gw_ram_block *block;

    if (work->copy && !work->is_fill)
        return write_copy(worker, work->copy, error);
    if (work->chunk >= writer->n_chunks)
        return true;
    block = chunk_place(writer, work->chunk, &first);
    if (chunk_is_empty(writer, block, first))
        return true;
    if (!work->copy) {
        chunk_touched(block, first, touched);
        return chunk_write(worker, block, first, block->host + first * GW_PAGE_SIZE, touched,
                           error);
    }
    return !chunk_take(writer, work->chunk) ||
           (chunk_copy(writer, work->chunk, work->copy, error) &&
            write_copy(worker, work->copy, error));
}

static void *worker_main(void *opaque)
{
    struct worker *worker = opaque;
    struct snapshot_writer *writer = worker->writer;
    struct work work;

    while (!writer_is_stopping(writer) && next_work(writer, &work)) {
        GError *error = NULL;
        bool is_done = do_work(worker, &work, &error);

        if (work.copy)
            copy_put(writer, &writer->unused, work.copy);
        if (!is_done)
            writer_fail(writer, error);
    }
    return NULL;
}

static bool run_workers(struct snapshot_writer *writer, GError **error)
{
    uint32_t n = writer->fd < 0 ? 1 : writer->config.n_threads;
    struct worker workers[MAX_THREADS];

    for (uint32_t i = 0; i < n; i++) {
        workers[i] = (struct worker){.writer = writer, .packet = wire_pages_out_new()};
        workers[i].head = aligned_alloc(WIRE_SNAPSHOT_ALIGN, WIRE_SNAPSHOT_HEAD_SIZE);
        if (!workers[i].head)
            g_error("out of memory");
        engine_thread_start(&workers[i].thread, "gw-snapshot", worker_main, &workers[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        pthread_join(workers[i].thread, NULL);
        wire_pages_out_free(workers[i].packet);
        free(workers[i].head);
    }
    if (writer->error) {
        g_propagate_error(error, g_steal_pointer(&writer->error));
        return false;
    }
    return true;
}

/* ---- public ---- */

struct snapshot_writer *snapshot_writer_new(const struct snapshot_writer_config *config)
{
    struct snapshot_writer *writer = g_new0(struct snapshot_writer, 1);
    int fd = gw_channel_file_fd(wire_stream_channel(config->stream));

    writer->config = *config;
    /* While one waits for the disk another one digests: also on a single processor. */
    if (writer->config.n_threads == 0 || writer->config.n_threads > MAX_THREADS)
        writer->config.n_threads = MAX_THREADS;
    /* In place only where the stream begins with the file. */
    writer->fd = fd >= 0 && lseek(fd, 0, SEEK_CUR) == (off_t)wire_stream_offset_out(config->stream)
                     ? fd
                     : -1;
    for (uint32_t i = 0; i < gw_memory_n_blocks(config->memory); i++)
        writer->n_chunks += chunks_of(gw_memory_block(config->memory, i));
    pthread_mutex_init(&writer->lock, NULL);
    cond_init_mono(&writer->changed);
    return writer;
}

/* Writers that wait are let go; nothing is protected any more. */
static void writer_disarm(struct snapshot_writer *writer)
{
    pthread_mutex_lock(&writer->lock);
    writer->is_stopping = true;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    memory_set_guard(writer->config.memory, NULL, NULL);
    faults_free(writer->faults); /* its thread may use it to the end */
    writer->faults = NULL;
}

void snapshot_writer_free(struct snapshot_writer *writer)
{
    if (!writer)
        return;
    if (writer->faults)
        writer_disarm(writer);
    for (uint32_t i = 0; i < N_COPIES; i++)
        free(writer->copies[i].bytes);
    g_clear_error(&writer->error);
    pthread_cond_destroy(&writer->changed);
    pthread_mutex_destroy(&writer->lock);
    g_free(writer->states);
    g_free(writer);
}

static bool send_end(struct snapshot_writer *writer, GError **error)
{
    struct wire_stream *stream = writer->config.stream;
    struct wire_round_end end = {.round = writer->round,
                                 .n_pages = writer->pages_plain + writer->pages_zero,
                                 .n_packets = writer->n_packets,
                                 .n_bytes = writer->n_bytes};

    if (writer->fd >= 0 && lseek(writer->fd, (off_t)wire_stream_offset_out(stream), SEEK_SET) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "seek: %s", g_strerror(errno));
        return false;
    }
    return wire_snapshot_end_round(stream, &end, error);
}

bool snapshot_writer_run(struct snapshot_writer *writer, const struct wire_round_begin *begin,
                         const struct gw_page_set *set, struct snapshot_counters *counters,
                         GError **error)
{
    struct wire_stream *stream = writer->config.stream;
    bool is_written;
    int flags;

    writer->round = begin->round;
    if (!wire_send(stream, WIRE_ROUND_BEGIN, begin, GW_NO_DEADLINE, error) ||
        !wire_snapshot_align(stream, error))
        return false;
    if (!writer->faults)
        writer->set = set; /* else it is that of the instant */
    /* Past the page cache: a snapshot is not read again soon, and the disk is not kept waiting
     * until the cache is full. */
    flags = writer->fd >= 0 ? fcntl(writer->fd, F_GETFL) : -1;
    if (flags >= 0)
        fcntl(writer->fd, F_SETFL, flags | O_DIRECT);
    is_written = run_workers(writer, error);
    if (flags >= 0)
        fcntl(writer->fd, F_SETFL, flags);
    if (writer->faults)
        writer_disarm(writer);
    counters->pages_plain = writer->pages_plain;
    counters->pages_zero = writer->pages_zero;
    counters->n_caught = writer->n_caught;
    return is_written && send_end(writer, error);
}
