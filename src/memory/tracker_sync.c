/* SPDX-License-Identifier: MIT */
/*
 * Tracking by a thread that answers every first write to a page.
 *
 * Invariant, under the lock: a page that may be written without a fault has its bit in the block's
 * log. The thread sets the bit, then unprotects; a collection takes the bits, then protects, both
 * in one critical section. Where protecting fails for a moment (the kernel says EAGAIN while a
 * mapping changes) the bit stays, and the page is told again by the next collection.
 *
 * A page that was never touched has no page table entry to protect (before Linux 6.4), so missing
 * pages fault as well: the thread marks them and lets them read as zero. That also finds the first
 * use of a page that was discarded; the discard itself comes as an event. The kernel drops the
 * pages only after the event was read, at a moment nobody tells, so discarded pages count as
 * written in every collection of this log.
 *
 * Threads: the thread takes nothing but the lock and allocates nothing: whoever waits for its
 * answer may hold any lock of the embedder's. A collection touches no tracked memory.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/cleanup.h"
#include "memory/memory_internal.h"
#include "memory/tracker.h"

#define FEATURES                                                                                   \
    ((uint64_t)(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMOVE |                       \
                UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP))
#define MODE       (UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING)
#define N_MESSAGES 64

static bool probe(GError **error)
{
    gw_autofd int uffd = uffd_open(0, FEATURES, 0, error);

    if (uffd < 0) {
        return false;
    }
    void *page =
        mmap(NULL, GW_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "no memory: %s", g_strerror(errno));
        return false;
    }
    int rc = uffd_register(uffd, page, GW_PAGE_SIZE, MODE);
    if (!rc) {
        rc = uffd_protect(uffd, page, GW_PAGE_SIZE, true);
    }
    gw_clear_fd(&uffd); /* first: an unmap would wait for somebody to read its event */
    munmap(page, GW_PAGE_SIZE);
    if (rc) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "write protection: %s", g_strerror(rc));
    }
    return rc == 0;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static struct tracked_block *block_at(struct gw_tracker *tracker, uint64_t address)
{
    for (guint i = 0; i < tracker->blocks->len; i++) {
        struct tracked_block *tracked = &g_array_index(tracker->blocks, struct tracked_block, i);
        if (address - (uintptr_t)tracked->block->host < tracked->block->size_bytes) {
            return tracked;
        }
    }
    return NULL;
}

static void on_fault_locked(struct gw_tracker *tracker, uint64_t address, uint64_t flags)
{
    struct tracked_block *tracked = block_at(tracker, address);
    int rc;

    if (!tracked) {
        tracker->is_broken = true;
        return;
    }
    uint64_t page = (address - (uintptr_t)tracked->block->host) >> GW_PAGE_SHIFT;
    void *at = tracked->block->host + (page << GW_PAGE_SHIFT);
    bitmap_set_range(tracked->log, page, 1);
    if (flags & UFFD_PAGEFAULT_FLAG_WP) {
        rc = uffd_protect(tracker->uffd, at, GW_PAGE_SIZE, false);
    } else {
        rc = uffd_zero_page(tracker->uffd, at, GW_PAGE_SIZE);
    }
    if (rc) {
        /* EEXIST: another thread's fault was first. EAGAIN: a mapping changes; whoever waits
         * faults again and comes back. */
        uffd_wake(tracker->uffd, at, GW_PAGE_SIZE);
    }
}

static void on_remove_locked(struct gw_tracker *tracker, uint64_t start, uint64_t end)
{
    for (guint i = 0; i < tracker->blocks->len; i++) {
        struct tracked_block *tracked = &g_array_index(tracker->blocks, struct tracked_block, i);
        uint64_t begin = (uintptr_t)tracked->block->host;
        uint64_t first = MAX(start, begin), last = MIN(end, begin + tracked->block->size_bytes);
        if (first < last) {
            bitmap_set_range(tracked->removed, (first - begin) >> GW_PAGE_SHIFT,
                             (last - first) >> GW_PAGE_SHIFT);
        }
    }
}

/* Answers what has come; false at the end. */
static bool answer(struct gw_tracker *tracker, struct uffd_msg *messages)
{
    /* Reading an event lets its causer go on: a collection that comes after it finds it noted. */
    gw_lock_guard(&tracker->lock);
    ssize_t n = read(tracker->uffd, messages, N_MESSAGES * sizeof *messages);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n <= 0) {
        tracker->is_broken = true;
        return false;
    }
    for (size_t i = 0; i < (size_t)n / sizeof *messages; i++) {
        const struct uffd_msg *message = &messages[i];
        if (message->event == UFFD_EVENT_PAGEFAULT) {
            on_fault_locked(tracker, message->arg.pagefault.address, message->arg.pagefault.flags);
        } else if (message->event == UFFD_EVENT_REMOVE) {
            on_remove_locked(tracker, message->arg.remove.start, message->arg.remove.end);
        } else {
            tracker->is_broken = true;
        }
    }
    return true;
}

static void *thread_main(void *opaque)
{
    struct gw_tracker *tracker = opaque;
    struct uffd_msg messages[N_MESSAGES];
    struct pollfd fds[] = {{.fd = tracker->wake_fd, .events = POLLIN},
                           {.fd = tracker->uffd, .events = POLLIN}};

    do {
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            break;
        }
    } while (!fds[0].revents && answer(tracker, messages));
    return NULL;
}

static bool start_thread(struct gw_tracker *tracker, GError **error)
{
    sigset_t all, before;

    tracker->wake_fd = eventfd(0, EFD_CLOEXEC);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc =
        tracker->wake_fd < 0 ? errno : pthread_create(&tracker->thread, NULL, thread_main, tracker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        gw_clear_fd(&tracker->wake_fd);
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot start a thread: %s", g_strerror(rc));
        return false;
    }
    pthread_setname_np(tracker->thread, "gw-tracker");
    return true;
}

/* ---- the log's user -------------------------------------------------------------------------- */

static void free_logs(struct gw_tracker *tracker)
{
    for (guint i = 0; i < tracker->blocks->len; i++) {
        struct tracked_block *tracked = &g_array_index(tracker->blocks, struct tracked_block, i);
        memory_lazy_words_free(tracked->log, tracked->block->n_pages);
        memory_lazy_words_free(tracked->removed, tracked->block->n_pages);
        tracked->log = tracked->removed = NULL;
    }
}

static bool make_logs(struct gw_tracker *tracker, GError **error)
{
    for (guint i = 0; i < tracker->blocks->len; i++) {
        struct tracked_block *tracked = &g_array_index(tracker->blocks, struct tracked_block, i);
        tracked->log = memory_lazy_words_new(tracked->block->n_pages);
        tracked->removed = memory_lazy_words_new(tracked->block->n_pages);
        if (!tracked->log || !tracked->removed) {
            g_set_error(error, GW_ERROR, GW_ERROR_IO, "RAM block %s: no memory for its log",
                        tracked->block->name);
            free_logs(tracker);
            return false;
        }
    }
    return true;
}

static void stop(struct gw_tracker *tracker)
{
    const uint64_t one = 1;

    /* The thread reads the descriptor, so it ends first. Whoever faults in between is let go when
     * the descriptor closes, and with it every registration and protection. */
    if (write(tracker->wake_fd, &one, sizeof one) == sizeof one) {
        pthread_join(tracker->thread, NULL);
    }
    gw_clear_fd(&tracker->uffd);
    gw_clear_fd(&tracker->wake_fd);
    free_logs(tracker);
}

/* Protects a run. What cannot be protected now stays in the log. */
static bool protect_locked(struct gw_tracker *tracker, struct tracked_block *tracked, uint64_t page,
                           uint64_t n_pages, GError **error)
{
    int rc = uffd_protect(tracker->uffd, tracked->block->host + (page << GW_PAGE_SHIFT),
                          n_pages << GW_PAGE_SHIFT, true);

    if (rc == 0) {
        return true;
    }
    bitmap_set_range(tracked->log, page, n_pages);
    if (rc == EAGAIN) {
        return true;
    }
    g_set_error(error, GW_ERROR, rc == ENOENT ? GW_ERROR_STATE : GW_ERROR_IO,
                "RAM block %s: cannot protect its pages: %s", tracked->block->name,
                rc == ENOENT ? "its mapping was replaced" : g_strerror(rc));
    return false;
}

static bool start(struct gw_tracker *tracker, GError **error)
{
    if (!make_logs(tracker, error)) {
        return false;
    }
    tracker->is_broken = false;
    if (!tracker_register(tracker, 0, FEATURES, MODE, error)) {
        free_logs(tracker);
        return false;
    }
    /* From here on missing pages fault, and somebody has to answer. */
    if (!start_thread(tracker, error)) {
        gw_clear_fd(&tracker->uffd);
        free_logs(tracker);
        return false;
    }
    for (guint i = 0; i < tracker->blocks->len; i++) {
        struct tracked_block *tracked = &g_array_index(tracker->blocks, struct tracked_block, i);
        struct memory_block *block = memory_block_of(tracked->block);
        uint64_t page = 0, n_pages;
        bool ok;

        /* A page that comes after this look came by a fault, and is in the log. */
        for (; block->is_private && memory_private_next_run(block, &page, &n_pages);
             page += n_pages) {
            bitmap_set_range(block->touched, page, n_pages);
        }
        pthread_mutex_lock(&tracker->lock);
        ok = protect_locked(tracker, tracked, 0, tracked->block->n_pages, error);
        pthread_mutex_unlock(&tracker->lock);
        if (!ok) {
            stop(tracker);
            return false;
        }
    }
    return true;
}

static bool collect(struct gw_tracker *tracker, struct tracked_block *tracked, uint64_t *words,
                    GError **error)
{
    uint64_t n_all = tracked->block->n_pages, page = 0, n_pages;
    gw_lock_guard(&tracker->lock);

    bitmap_or_count(words, tracked->removed, n_all);
    for (; bitmap_next_run(tracked->log, n_all, &page, &n_pages, UINT64_MAX); page += n_pages) {
        bitmap_set_range(words, page, n_pages);
        bitmap_clear_range(tracked->log, page, n_pages);
        if (!protect_locked(tracker, tracked, page, n_pages, error)) {
            return false;
        }
    }
    if (tracker->is_broken) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "RAM block %s: a tracked mapping was replaced",
                    tracked->block->name);
        return false;
    }
    return true;
}

const struct tracker_way tracker_sync = {
    .mode = GW_TRACKER_SYNC,
    .name = "sync",
    .probe = probe,
    .start = start,
    .collect = collect,
    .stop = stop,
};
