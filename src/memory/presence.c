/* SPDX-License-Identifier: MIT */
/*
 * What of a RAM block is allocated, and making it so or not: godwit/memory.h is its header.
 *
 * Model: three maps know about a page, and none has all of it. The page tables are the quickest to
 * read, but have only what was accessed through our mapping. The page cache (mincore asks it for
 * the rest) has what is in memory. The file has also what is swapped out, and is the slowest.
 * Of a file that is not ours, and that we may not write, mincore says that all of it is present.
 */
#include "memory/presence.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/cleanup.h"
#include "base/cond.h"
#include "memory/huge.h"
#include "memory/memory_internal.h"

/* Pages whose presence is asked for by one call: few first, as most runs may be short. */
#define LEAST_LOOKED_AT UINT64_C(8)
#define MOST_LOOKED_AT  UINT64_C(4096)
#define HUGE_AT_ONCE    UINT64_C(64) /* huge pages that are made by one call */

/* The first page from `first` on that is neither mapped nor in the page cache. */
static uint64_t present_end(const struct gw_ram_block *block, uint64_t first)
{
    unsigned char present[MOST_LOOKED_AT];
    uint64_t n = LEAST_LOOKED_AT;

    for (uint64_t page = first; page < block->n_pages; page += n, n *= 2) {
        n = MIN(MIN(n, MOST_LOOKED_AT), block->n_pages - page);
        if (mincore(block->host + (page << GW_PAGE_SHIFT), (size_t)n << GW_PAGE_SHIFT, present) < 0)
            return page;
        for (uint64_t i = 0; i < n; i++)
            if (!(present[i] & 1))
                return page + i;
    }
    return block->n_pages;
}

/* Where the allocated run ends, or a part of it, that begins with page `first`. The page tables
 * tell it in a twentieth of the time that the file takes, 0.5 ms per GiB (EPYC, Linux 6.18, 4 KiB
 * pages); but a page that is not present may be swapped out, and then the file has the last word.
 */
static uint64_t allocated_end(const struct gw_ram_block *block, uint64_t first)
{
    off_t start = memory_block_of_const(block)->fd_offset;
    uint64_t end = present_end(block, first);
    off_t hole;

    if (end > first) {
        return end;
    }
    hole = lseek(block->fd, start + (off_t)(first << GW_PAGE_SHIFT), SEEK_HOLE);
    if (hole < 0 || hole > start + (off_t)block->size_bytes) {
        return block->n_pages;
    }
    return MAX(((uint64_t)(hole - start) + GW_PAGE_SIZE - 1) >> GW_PAGE_SHIFT, first + 1);
}

/* The first page at or after `from` that the file has; UINT64_MAX: none. A file whose holes cannot
 * be told has all. */
static uint64_t next_data(const struct gw_ram_block *block, uint64_t from)
{
    off_t start = memory_block_of_const(block)->fd_offset;
    off_t data = lseek(block->fd, start + (off_t)(from << GW_PAGE_SHIFT), SEEK_DATA);

    if (data < 0) {
        return errno == ENXIO ? UINT64_MAX : from;
    }
    uint64_t page = (uint64_t)(data - start) >> GW_PAGE_SHIFT;
    return page < block->n_pages ? page : UINT64_MAX;
}

bool gw_memory_next_allocated_run(const struct gw_ram_block *block, uint64_t *page,
                                  uint64_t *n_pages)
{
    if (*page >= block->n_pages) {
        return false;
    }
    if (__atomic_load_n(&memory_block_of_const(block)->is_present, __ATOMIC_RELAXED)) {
        *n_pages = block->n_pages - *page; /* to ask would cost by its length */
        return true;
    }
    if (block->fd < 0) {
        return memory_adopted_next_run(memory_block_of_const(block), page, n_pages);
    }
    uint64_t first = next_data(block, *page);
    if (first == UINT64_MAX) {
        return false;
    }
    *page = first;
    *n_pages = allocated_end(block, first) - first;
    return true;
}

uint64_t memory_next_allocated(const struct gw_ram_block *block, uint64_t from, uint64_t *end)
{
    uint64_t page = from, n_pages = 1;

    if (from >= block->n_pages) {
        page = UINT64_MAX;
    } else if (block->fd >= 0) {
        page = next_data(block, from);
    } else if (!gw_memory_next_allocated_run(block, &page, &n_pages)) {
        page = UINT64_MAX;
    }
    *end = page == UINT64_MAX ? UINT64_MAX : page + n_pages;
    return page;
}

bool memory_is_hole(const struct gw_ram_block *block, uint64_t first, uint64_t n_pages)
{
    /* Private pages are let go, huge or not. */
    return block->fd < 0 || next_data(block, first) >= first + n_pages;
}

/* A page is present when it is mapped or in the page cache; one that is neither may still be
 * swapped out, which only the file's own map of data and holes tells. */
uint64_t gw_memory_touched_mask(const struct gw_ram_block *block, uint64_t first, uint32_t n_pages)
{
    g_assert(n_pages > 0 && n_pages <= 64 && first + n_pages <= block->n_pages);
    uint64_t all = n_pages == 64 ? UINT64_MAX : (UINT64_C(1) << n_pages) - 1;
    unsigned char present[64];
    if (block->fd < 0 || mincore(block->host + (first << GW_PAGE_SHIFT),
                                 (size_t)n_pages << GW_PAGE_SHIFT, present) < 0) {
        return all;
    }
    uint64_t mask = 0;
    for (uint32_t i = 0; i < n_pages; i++) {
        mask |= (uint64_t)(present[i] & 1) << i;
    }
    for (uint32_t i = 0; i < n_pages; i++) {
        if (mask >> i & 1) {
            continue;
        }
        uint64_t next = next_data(block, first + i);
        if (next >= first + n_pages) {
            return mask;
        }
        i = (uint32_t)(next - first);
        mask |= UINT64_C(1) << i;
    }
    return mask;
}

static bool check_range(const struct gw_ram_block *block, uint64_t offset, uint64_t len,
                        GError **error)
{
    if (offset % GW_PAGE_SIZE || len % GW_PAGE_SIZE || offset > block->size_bytes ||
        len > block->size_bytes - offset) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "RAM block %s: offset 0x%" G_GINT64_MODIFIER
                    "x and length 0x%" G_GINT64_MODIFIER "x are not whole pages of it",
                    block->name, offset, len);
        return false;
    }
    return true;
}

/* What lies in the range in whole huge pages is made so as far as the kernel will: it is the
 * quickest way to populate, and what is copied later is copied faster. */
static void populate_huge(struct gw_ram_block *block, uint64_t offset, uint64_t len)
{
    uint64_t first = (offset + MEMORY_HUGE_BYTES - 1) / MEMORY_HUGE_BYTES, n;
    uint64_t end = (offset + len) / MEMORY_HUGE_BYTES;

    if (!memory_can_be_huge(block))
        return;
    for (; first < end; first += n) {
        n = MIN(HUGE_AT_ONCE, end - first);
        if (!memory_make_huge(block, first * MEMORY_HUGE_PAGES, n * MEMORY_HUGE_PAGES))
            return;
    }
}

bool gw_memory_populate(struct gw_ram_block *block, uint64_t offset, uint64_t len, GError **error)
{
    if (!check_range(block, offset, len, error)) {
        return false;
    }
    if (len == 0) {
        return true;
    }
    populate_huge(block, offset, len);
    int rc;
    do {
        rc = madvise(block->host + offset, len, MADV_POPULATE_WRITE);
    } while (rc < 0 && (errno == EINTR || errno == EAGAIN));
    if (rc < 0 && errno == EINVAL && block->fd >= 0) {
        /* A kernel before 5.14: allocated, though not mapped. */
        rc = fallocate(block->fd, FALLOC_FL_KEEP_SIZE,
                       memory_block_of(block)->fd_offset + (off_t)offset, (off_t)len);
    }
    if (rc < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO,
                    "RAM block %s: cannot populate %" G_GUINT64_FORMAT " bytes: %s", block->name,
                    len, g_strerror(errno));
        return false;
    }
    if (len == block->size_bytes) {
        __atomic_store_n(&memory_block_of(block)->is_populated, true, __ATOMIC_RELAXED);
        __atomic_store_n(&memory_block_of(block)->is_present, !memory_block_of(block)->is_adopted,
                         __ATOMIC_RELAXED);
    }
    return true;
}

bool gw_memory_discard(struct gw_ram_block *block, uint64_t offset, uint64_t len, GError **error)
{
    if (!check_range(block, offset, len, error)) {
        return false;
    }
    if (len == 0) {
        return true;
    }
    if (__atomic_load_n(&memory_block_of(block)->is_lent, __ATOMIC_ACQUIRE)) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "RAM block %s: cannot discard: its memory was handed over", block->name);
        return false;
    }
    gw_lock_guard(&block->memory->guard_lock);
    if (block->memory->guard) {
        block->memory->guard(block->memory->guard_opaque, block, offset >> GW_PAGE_SHIFT,
                             len >> GW_PAGE_SHIFT);
    }
    if (memory_block_of(block)->is_adopted) {
        return memory_adopted_discard(memory_block_of(block), offset, len, error);
    }
    __atomic_store_n(&memory_block_of(block)->is_present, false, __ATOMIC_RELAXED);
    /* What was never touched stays as it is. A page that is written between the look and the punch
     * marks itself. */
    uint64_t first = offset >> GW_PAGE_SHIFT;
    uint64_t n_pages = len >> GW_PAGE_SHIFT;
    uint64_t n_words = bitmap_n_words(n_pages);
    g_autofree uint64_t *touched = g_new(uint64_t, n_words);
    for (uint64_t w = 0; w < n_words; w++) {
        touched[w] =
            gw_memory_touched_mask(block, first + w * 64, (uint32_t)MIN(64, n_pages - w * 64));
    }
    if (fallocate(block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  memory_block_of(block)->fd_offset + (off_t)offset, (off_t)len) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO,
                    "RAM block %s: cannot discard %" G_GUINT64_FORMAT " bytes: %s", block->name,
                    len, g_strerror(errno));
        return false;
    }
    for (uint64_t page = 0, n; bitmap_next_run(touched, n_pages, &page, &n, UINT64_MAX);
         page += n) {
        gw_memory_note_write(block, (first + page) << GW_PAGE_SHIFT, n << GW_PAGE_SHIFT);
    }
    return true;
}
