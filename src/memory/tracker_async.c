/* SPDX-License-Identifier: MIT */
/*
 * Tracking by the kernel alone: asynchronous write protection, told by PAGEMAP_SCAN.
 *
 * Every page table entry of a block is protected, those of untouched pages by a marker. The kernel
 * answers a write to a protected page by unprotecting it, without telling anybody. A scan tells the
 * pages that are not protected, and protects them again, under the page table's lock. So these
 * count as written: pages that were written; pages whose entry is gone because they were discarded;
 * and nothing is forgotten when a page is swapped out, since the protection goes with it.
 *
 * ORDER: a writer whose TLB still lets it write after the scan took its page is flushed before the
 * scan returns; pages are read for sending only after the collection.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/cleanup.h"
#include "memory/memory_internal.h"
#include "memory/tracker.h"

#define N_REGIONS 1024u /* told by one scan */
#define N_ENTRIES 4096u /* of the page map, read at once */
#define FEATURES  ((uint64_t)(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED))

/* ASYNC never delivers a fault, hence the right to handle faults of the kernel is not needed. */
static int open_flags(void)
{
    return UFFD_USER_MODE_ONLY;
}

/* Does a kernel that has the parts behave as the essay above says? Tried on three pages: one that
 * is written, one that is discarded, one that is left alone. */
static bool try_pages(int uffd, int pagemap, volatile uint8_t *pages)
{
    struct uffd_region regions[4];
    uint64_t from = (uintptr_t)pages, to = from + 3 * GW_PAGE_SIZE;
    void *at = (void *)(uintptr_t)from;

    pages[GW_PAGE_SIZE] = 1;
    if (uffd_register(uffd, at, to - from, UFFDIO_REGISTER_MODE_WP) ||
        uffd_scan_written(pagemap, &from, to, regions, 4) < 0) {
        return false;
    }
    pages[0] = 1;
    if (madvise((void *)(uintptr_t)(pages + GW_PAGE_SIZE), GW_PAGE_SIZE, MADV_DONTNEED) < 0) {
        return false;
    }
    from = (uintptr_t)pages;
    int n = uffd_scan_written(pagemap, &from, to, regions, 4);
    uint64_t n_pages = 0;
    for (int i = 0; i < n; i++) {
        n_pages += (regions[i].end - regions[i].start) / GW_PAGE_SIZE;
    }
    if (n < 1 || regions[0].start != (uintptr_t)pages || n_pages != 2) {
        return false;
    }
    from = (uintptr_t)pages;
    return uffd_scan_written(pagemap, &from, to, regions, 4) == 0;
}

static bool probe(GError **error)
{
    gw_autofd int uffd = uffd_open(open_flags(), FEATURES, 0, error);
    gw_autofd int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    if (uffd < 0) {
        return false;
    }
    void *pages =
        mmap(NULL, 3 * GW_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "no memory: %s", g_strerror(errno));
        return false;
    }
    bool ok = pagemap >= 0 && try_pages(uffd, pagemap, pages);
    munmap(pages, 3 * GW_PAGE_SIZE);
    if (!ok) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                            "PAGEMAP_SCAN does not tell what was written");
    }
    return ok;
}

/* Scans a whole block; what it tells goes into words, where a page is in any of the categories. */
static bool scan(struct gw_tracker *tracker, const struct gw_ram_block *block, uint64_t categories,
                 uint64_t *words, GError **error)
{
    uint64_t begin = (uintptr_t)block->host, from = begin, to = begin + block->size_bytes;
    struct uffd_region *regions = (struct uffd_region *)(void *)tracker->regions->data;

    while (from < to) {
        int n = uffd_scan_written(tracker->pagemap, &from, to, regions, N_REGIONS);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            bool is_moved = errno == EPERM;
            g_set_error(error, GW_ERROR, is_moved ? GW_ERROR_STATE : GW_ERROR_IO,
                        "RAM block %s: cannot scan its pages: %s", block->name,
                        is_moved ? "its mapping was replaced" : g_strerror(errno));
            return false;
        }
        for (int i = 0; i < n; i++) {
            if (regions[i].categories & categories) {
                bitmap_set_range(words, (regions[i].start - begin) >> GW_PAGE_SHIFT,
                                 (regions[i].end - regions[i].start) >> GW_PAGE_SHIFT);
            }
        }
    }
    return true;
}

static void stop(struct gw_tracker *tracker)
{
    /* Closing it ends every registration and with it the protection. */
    gw_clear_fd(&tracker->uffd);
    gw_clear_fd(&tracker->pagemap);
    g_clear_pointer(&tracker->regions, g_array_unref);
}

/* Nothing is protected yet, so the first scan tells every page, and which of them were touched.
 * Where there is no page table at all, it looks and protects in two steps: a page that comes
 * between them is protected and not told. The second look finds it, since it is present. */
static bool protect_all(struct gw_tracker *tracker, struct memory_block *block, GError **error)
{
    const uint64_t touched = UFFD_PAGE_IS_PRESENT | UFFD_PAGE_IS_SWAPPED;

    if (!scan(tracker, &block->pub, touched, block->touched, error)) {
        return false;
    }
    if (!block->is_private) {
        return true;
    }
    uint64_t page = 0, n_pages;
    g_autofree uint64_t *entries = g_new(uint64_t, N_ENTRIES);
    for (; page < block->pub.n_pages; page += n_pages) {
        n_pages = MIN(N_ENTRIES, block->pub.n_pages - page);
        off_t at = (off_t)((((uintptr_t)block->pub.host >> GW_PAGE_SHIFT) + page) * 8);
        ssize_t got = pread(tracker->pagemap, entries, n_pages * 8, at);
        for (uint64_t i = 0; i < n_pages; i++) {
            if (got < (ssize_t)((i + 1) * 8) || (entries[i] & PAGEMAP_PRESENT)) {
                bitmap_set_range(block->touched, page + i, 1);
            }
        }
    }
    return true;
}

static bool start(struct gw_tracker *tracker, GError **error)
{
    if (!tracker_register(tracker, open_flags(), FEATURES, UFFDIO_REGISTER_MODE_WP, error)) {
        return false;
    }
    tracker->regions = g_array_sized_new(FALSE, FALSE, sizeof(struct uffd_region), N_REGIONS);
    tracker->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool ok = tracker->pagemap >= 0;
    if (!ok) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot open /proc/self/pagemap: %s",
                    g_strerror(errno));
    }
    for (guint i = 0; i < tracker->blocks->len && ok; i++) {
        struct tracked_block *tracked = &g_array_index(tracker->blocks, struct tracked_block, i);
        ok = protect_all(tracker, memory_block_of(tracked->block), error);
    }
    if (!ok) {
        stop(tracker);
    }
    return ok;
}

static bool collect(struct gw_tracker *tracker, struct tracked_block *tracked, uint64_t *words,
                    GError **error)
{
    return scan(tracker, tracked->block, UFFD_PAGE_IS_WRITTEN, words, error);
}

const struct tracker_way tracker_async = {
    .mode = GW_TRACKER_ASYNC,
    .name = "async",
    .probe = probe,
    .start = start,
    .collect = collect,
    .stop = stop,
};
