/* SPDX-License-Identifier: MIT */
/* Huge pages for memory that is about to be written as a whole: see huge.h. */
#include "memory/huge.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/memory_internal.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define MAX_TRIES 3 /* a page may be in somebody's hands for a moment */

bool memory_can_be_huge(const struct gw_ram_block *block)
{
    const struct memory_block *self = memory_block_of_const(block);

    return self->can_place && (uintptr_t)block->host % MEMORY_HUGE_BYTES == 0 &&
           (uint64_t)self->fd_offset % MEMORY_HUGE_BYTES == 0;
}

bool memory_make_huge(struct gw_ram_block *block, uint64_t first, uint64_t n_pages)
{
    uint8_t *at = block->host + (first << GW_PAGE_SHIFT);
    size_t len = n_pages << GW_PAGE_SHIFT;

    g_assert(first % MEMORY_HUGE_PAGES == 0 && n_pages % MEMORY_HUGE_PAGES == 0 &&
             first <= block->n_pages && n_pages <= block->n_pages - first);
    /* What is empty is not collapsed: one page has to be there. */
    for (size_t done = 0; done < len; done += MEMORY_HUGE_BYTES) {
        if (madvise(at + done, GW_PAGE_SIZE, MADV_POPULATE_WRITE) < 0) {
            return false;
        }
    }
    for (unsigned i = 0; i < MAX_TRIES; i++) {
        if (madvise(at, len, MADV_COLLAPSE) == 0) {
            return true;
        }
        if (errno != EAGAIN) {
            return false;
        }
    }
    return false;
}
