/* SPDX-License-Identifier: MIT */
/*
 * Block back end: checks requests and runs them by io_uring, or by worker threads.
 *
 * Model: plain requests (aligned reads and writes, flushes) go to the ring. What io_uring does not
 * finish in one piece (a short transfer), cannot take (unaligned memory under cache=none) or what
 * may need several steps (discard, zeroes) goes to the workers, who do it from the start: every
 * request can be repeated, for nobody else may touch its range before it is answered.
 *
 * Threads: completions come to the loop's thread: of the ring by its descriptor, of workers and of
 * requests that were refused by the finished list and its bell.
 *
 * Locks: the client's dev.lock guards the ring and the counters. client's dev.lock ->
 * finished_lock; workers take finished_lock alone.
 */
#include "device/blockdev.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>

#include "base/clock.h"
#include "device/blockdev_internal.h"

#define RING_ENTRIES 256
#define RETRY_NS     NS_PER_MS

struct blockdev {
    /* fixed after construction */
    struct blockdev_file file;
    struct io_loop *loop;
    struct blockdev_workers *workers;
    bool has_ring;
    struct blockdev_fault *fault; /* NULL: none */
    /* fixed after blockdev_set_client */
    struct device *client;
    struct io_source *completions;
    struct io_timer *retry;
    struct io_bell *finished_bell;
    /* guarded by the client's dev.lock */
    struct io_uring ring;
    unsigned n_unsubmitted; /* entries in the ring that the kernel does not know yet */
    pthread_mutex_t finished_lock;
    /* guarded by finished_lock */
    struct blockdev_request *finished, **last_finished;
};

/* ---- completion ---- */

/* Any thread: the loop will answer the request. */
static void finish_later(void *opaque, struct blockdev_request *request, int result)
{
    struct blockdev *disk = opaque;
    request->result = result;
    request->next = NULL;
    pthread_mutex_lock(&disk->finished_lock);
    *disk->last_finished = request;
    disk->last_finished = &request->next;
    pthread_mutex_unlock(&disk->finished_lock);
    io_bell_ring(disk->finished_bell);
}

static void answer_finished(struct device *dev, void *opaque)
{
    struct blockdev *disk = opaque;
    pthread_mutex_lock(&disk->finished_lock);
    struct blockdev_request *request = disk->finished;
    disk->finished = NULL;
    disk->last_finished = &disk->finished;
    pthread_mutex_unlock(&disk->finished_lock);
    while (request) {
        struct blockdev_request *next = request->next;
        request->done(request, request->result);
        request = next;
    }
}

static bool is_retryable(int result)
{
    return result == -EAGAIN || result == -EINTR || result == -ECANCELED || result == -EINVAL ||
           result == -EOPNOTSUPP;
}

static void complete(struct blockdev *disk, struct blockdev_request *request, int result)
{
    bool is_transfer = request->op == BLOCKDEV_READ || request->op == BLOCKDEV_WRITE;
    bool is_short = is_transfer && result >= 0 && (uint64_t)result != request->len_bytes;
    if (is_short || is_retryable(result))
        blockdev_workers_queue(disk->workers, request);
    else
        request->done(request, result < 0 ? result : 0);
}

static void ring_ready(struct device *dev, void *opaque, unsigned poll_events)
{
    struct blockdev *disk = opaque;
    struct io_uring_cqe *cqe;
    /* done() may submit, so each entry is given back before it is called. */
    while (io_uring_peek_cqe(&disk->ring, &cqe) == 0) {
        struct blockdev_request *request = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&disk->ring, cqe);
        complete(disk, request, result);
    }
    blockdev_kick(disk);
}

/* ---- submission ---- */

static void retry_due(struct device *dev, void *opaque)
{
    blockdev_kick(opaque);
}

void blockdev_kick(struct blockdev *disk)
{
    while (disk->n_unsubmitted > 0) {
        int n = io_uring_submit(&disk->ring);
        if (n == -EINTR)
            continue;
        if (n <= 0) {
            /* The host is short of memory or of room for completions. */
            io_timer_set(disk->retry, clock_mono_ns() + RETRY_NS);
            return;
        }
        disk->n_unsubmitted -= MIN((unsigned)n, disk->n_unsubmitted);
    }
}

static bool is_plain(const struct blockdev *disk, const struct blockdev_request *request)
{
    switch (request->op) {
    case BLOCKDEV_READ:
    case BLOCKDEV_WRITE:
        return request->len_bytes <= INT32_MAX && request->n_iov <= IOV_MAX &&
               blockdev_file_is_aligned(&disk->file, request);
    case BLOCKDEV_FLUSH:
        return true;
    default:
        return false;
    }
}

/* False when the ring has no room. */
static bool submit_to_ring(struct blockdev *disk, struct blockdev_request *request)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&disk->ring);
    if (!sqe) {
        blockdev_kick(disk);
        sqe = io_uring_get_sqe(&disk->ring);
        if (!sqe)
            return false;
    }
    int fd = disk->file.fd;
    if (request->op == BLOCKDEV_READ)
        io_uring_prep_readv(sqe, fd, request->iov, request->n_iov, request->offset_bytes);
    else if (request->op == BLOCKDEV_WRITE)
        io_uring_prep_writev(sqe, fd, request->iov, request->n_iov, request->offset_bytes);
    else
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data(sqe, request);
    disk->n_unsubmitted++;
    return true;
}

/* 0, or why the request cannot be. */
static int check(const struct blockdev *disk, const struct blockdev_request *request)
{
    const struct blockdev_info *info = &disk->file.info;
    if (request->op < BLOCKDEV_READ || request->op > BLOCKDEV_WRITE_ZEROES_UNMAP)
        return -EINVAL;
    if (request->op == BLOCKDEV_FLUSH)
        return 0;
    /* GUEST: the range is the guest's. */
    if (request->offset_bytes > info->size_bytes ||
        request->len_bytes > info->size_bytes - request->offset_bytes)
        return -EIO;
    if ((request->offset_bytes | request->len_bytes) % info->block_bytes)
        return -EINVAL;
    return info->is_read_only && request->op != BLOCKDEV_READ ? -EROFS : 0;
}

static void execute(struct blockdev *disk, struct blockdev_request *request)
{
    if (!disk->has_ring || !is_plain(disk, request) || !submit_to_ring(disk, request))
        blockdev_workers_queue(disk->workers, request);
}

/* A request that a fault has held back. */
static void pass_held(void *opaque, struct blockdev_request *request)
{
    execute(opaque, request);
    blockdev_kick(opaque);
}

void blockdev_submit(struct blockdev *disk, struct blockdev_request *request)
{
    int code = check(disk, request);
    bool is_nothing = request->op != BLOCKDEV_FLUSH && request->len_bytes == 0;
    enum blockdev_fault_verdict verdict = BLOCKDEV_FAULT_PASS;
    if (code == 0 && !is_nothing && disk->fault)
        verdict = blockdev_fault_take(disk->fault, request);
    if (verdict == BLOCKDEV_FAULT_FAIL)
        code = -EIO;
    if (code != 0 || is_nothing)
        finish_later(disk, request, code);
    else if (verdict == BLOCKDEV_FAULT_PASS)
        execute(disk, request);
}

void blockdev_get_info(const struct blockdev *disk, struct blockdev_info *info)
{
    *info = disk->file.info;
}

/* ---- life ---- */

struct options {
    bool is_read_only, is_direct;
    bool wants_ring, needs_ring;
    const char *fault; /* within the specification; NULL: none */
};

/* Cuts the options from the end of the specification; what is left is the path. */
static bool parse_options(char *spec, struct options *options, GError **error)
{
    char *comma;
    while ((comma = strrchr(spec, ','))) {
        const char *option = comma + 1;
        if (strcmp(option, "readonly") == 0) {
            options->is_read_only = true;
        } else if (strcmp(option, "cache=none") == 0) {
            options->is_direct = true;
        } else if (strcmp(option, "cache=writeback") == 0) {
            options->is_direct = false;
        } else if (strcmp(option, "engine=auto") == 0) {
            options->wants_ring = true;
        } else if (strcmp(option, "engine=uring") == 0) {
            options->wants_ring = options->needs_ring = true;
        } else if (strcmp(option, "engine=threads") == 0) {
            options->wants_ring = false;
        } else if (g_str_has_prefix(option, "fault=")) {
            options->fault = option + strlen("fault=");
        } else if (strchr(option, '=') && !strchr(option, '/')) {
            g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                        "disk %s: unknown option \"%s\"", spec, option);
            return false;
        } else {
            break; /* a comma in the file's name */
        }
        *comma = '\0';
    }
    return true;
}

struct blockdev *blockdev_open(const char *spec, bool is_read_only, struct io_loop *loop,
                               GError **error)
{
    struct options options = {.is_read_only = is_read_only, .wants_ring = true};
    g_autofree char *path = g_strdup(spec);
    struct blockdev_file file;
    if (!parse_options(path, &options, error) ||
        !blockdev_file_open(&file, path, options.is_read_only, options.is_direct, error))
        return NULL;
    struct blockdev *disk = g_new0(struct blockdev, 1);
    disk->file = file;
    disk->loop = loop;
    disk->last_finished = &disk->finished;
    pthread_mutex_init(&disk->finished_lock, NULL);
    disk->workers = blockdev_workers_new(&disk->file, finish_later, disk);
    if (options.fault) {
        disk->fault = blockdev_fault_new(options.fault, pass_held, disk, error);
        if (!disk->fault) {
            blockdev_free(disk);
            return NULL;
        }
    }
    if (options.wants_ring) {
        int code = io_uring_queue_init(RING_ENTRIES, &disk->ring, 0);
        disk->has_ring = code == 0;
        if (!disk->has_ring && options.needs_ring) {
            g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_HOST, "disk %s: io_uring: %s", path,
                        g_strerror(-code));
            blockdev_free(disk);
            return NULL;
        }
    }
    return disk;
}

void blockdev_set_client(struct blockdev *disk, struct device *dev)
{
    assert(!disk->client);
    disk->client = dev;
    disk->finished_bell = io_bell_new(disk->loop, dev, "disk-finished", answer_finished, disk);
    disk->retry = io_timer_new(disk->loop, dev, "disk-retry", retry_due, disk);
    if (disk->fault)
        blockdev_fault_set_client(disk->fault, disk->loop, dev);
    if (disk->has_ring) {
        disk->completions = io_source_new(disk->loop, dev, "disk-completions", disk->ring.ring_fd,
                                          POLLIN, ring_ready, disk);
        io_source_enable(disk->completions, true);
    }
}

void blockdev_free(struct blockdev *disk)
{
    if (!disk)
        return;
    blockdev_workers_free(disk->workers);
    blockdev_fault_free(disk->fault);
    io_source_free(disk->completions);
    io_timer_free(disk->retry);
    io_bell_free(disk->finished_bell);
    if (disk->has_ring)
        io_uring_queue_exit(&disk->ring);
    blockdev_file_close(&disk->file);
    pthread_mutex_destroy(&disk->finished_lock);
    g_free(disk);
}
