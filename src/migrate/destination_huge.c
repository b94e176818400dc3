/* SPDX-License-Identifier: MIT */
/*
 * Huge pages for what is about to come into fresh memory.
 *
 * Algorithm: a huge page is wanted where the RAM map says that the source has all of it allocated:
 * so we hold no more than the source. When the first run of plain pages comes for one, in a packet
 * without zero pages, it is made together with a few that follow, before the packet is read. From
 * then on its pages count as written, so they are received straight into it; all others go by way
 * of a buffer (memory/place.h). A receiver that finds the next group due makes that one too, while
 * the others receive into this one. Where the kernel has no huge pages to give we soon stop asking.
 *
 * Threads: readers of page channels, in a round; the control thread plans while none is open.
 *
 * Locks: huge.lock is held while pages are made, in which receivers of the same pages wait.
 */
#include "migrate/destination.h"

#include "base/bitmap.h"
#include "memory/huge.h"

#define GROUP_HUGE_PAGES                                                                           \
    UINT64_C(8) /* made by one call, which first has to drain the CPUs' lists */
#define AHEAD_HUGE_PAGES UINT64_C(4)
#define MIN_RUN_PAGES    64u
#define MAX_FAILURES     4u
#define FIRST_ROUND      1u

/* written: of our own pages, those that may hold anything. To make them huge would be to copy. */
static void want_extent(uint64_t *wanted, const uint64_t *written, const struct wire_extent *extent)
{
    uint64_t end = (extent->first_page + extent->n_pages) / MEMORY_HUGE_PAGES;
    uint64_t at = (extent->first_page + MEMORY_HUGE_PAGES - 1) / MEMORY_HUGE_PAGES;

    for (; at < end; at++) {
        uint64_t page = at * MEMORY_HUGE_PAGES, behind = page + MEMORY_HUGE_PAGES;

        if (bitmap_next_set(written, behind, page) == behind)
            bitmap_set_range(wanted, at, 1);
    }
}

void destination_plan_huge(struct gw_destination *destination)
{
    struct destination_huge *huge = &destination->huge;

    huge->n_blocks = destination->n_blocks;
    huge->wanted_words = g_new0(uint64_t *, huge->n_blocks + 1);
    for (uint32_t i = 0; i < huge->n_blocks; i++) {
        const struct wire_ram_block *map = &destination->ram_map.blocks[i];
        const struct gw_ram_block *block = destination->blocks[i];
        /* The last of as many as fit stands for all that did not, and so for holes. */
        uint32_t n_extents = MIN(map->n_extents, WIRE_MAX_EXTENTS - 1);

        if (!memory_can_be_huge(block))
            continue;
        huge->wanted_words[i] =
            g_new0(uint64_t, bitmap_n_words(block->n_pages / MEMORY_HUGE_PAGES + 1));
        for (uint32_t j = 0; j < n_extents; j++)
            want_extent(huge->wanted_words[i], destination->written_words[i], &map->extents[j]);
    }
}

void destination_forget_huge(struct gw_destination *destination)
{
    struct destination_huge *huge = &destination->huge;

    for (uint32_t i = 0; i < huge->n_blocks; i++)
        g_free(huge->wanted_words[i]);
    g_clear_pointer(&huge->wanted_words, g_free);
    huge->n_blocks = 0;
    huge->n_failures = 0;
}

static bool is_set(const uint64_t *words, uint64_t at)
{
    return __atomic_load_n(&words[at / 64], __ATOMIC_RELAXED) >> at % 64 & 1;
}

/* With the lock held: makes the wanted ones from `at` on, one group at most. */
static void make_group(struct gw_destination *destination, uint32_t number, uint64_t at)
{
    struct destination_huge *huge = &destination->huge;
    struct gw_ram_block *block = destination->blocks[number];
    uint64_t *words = huge->wanted_words[number];
    uint64_t n_huge = block->n_pages / MEMORY_HUGE_PAGES, n = 0;

    while (n < GROUP_HUGE_PAGES && at + n < n_huge && is_set(words, at + n))
        n++;
    if (n == 0 || huge->n_failures >= MAX_FAILURES)
        return;
    if (memory_make_huge(block, at * MEMORY_HUGE_PAGES, n * MEMORY_HUGE_PAGES))
        bitmap_set_atomic(destination->written_words[number], at * MEMORY_HUGE_PAGES,
                          n * MEMORY_HUGE_PAGES);
    else
        huge->n_failures++;
    /* Only now: until then who comes for one of them waits. */
    bitmap_clear_atomic(words, at, n);
}

/* The pages of a run are about to come. */
static void make_for_run(struct gw_destination *destination, uint32_t number,
                         const struct wire_page_run *run)
{
    struct destination_huge *huge = &destination->huge;
    const uint64_t *words = huge->wanted_words[number];
    uint64_t n_huge = destination->blocks[number]->n_pages / MEMORY_HUGE_PAGES;
    uint64_t first = run->first_page / MEMORY_HUGE_PAGES;
    uint64_t last = (run->first_page + run->n_pages - 1) / MEMORY_HUGE_PAGES;
    uint64_t next = last + AHEAD_HUGE_PAGES;

    for (uint64_t at = first; at <= last && at < n_huge; at++)
        if (is_set(words, at)) {
            pthread_mutex_lock(&huge->lock);
            make_group(destination, number, at);
            pthread_mutex_unlock(&huge->lock);
        }
    if (next < n_huge && is_set(words, next) && pthread_mutex_trylock(&huge->lock) == 0) {
        make_group(destination, number, next);
        pthread_mutex_unlock(&huge->lock);
    }
}

void destination_make_huge(struct gw_destination *destination, const struct wire_pages_in *packet)
{
    uint32_t number = packet->block;

    /* Later rounds bring what is there already. */
    if (packet->round > FIRST_ROUND || packet->n_zero > 0 || !destination->huge.wanted_words ||
        !destination->huge.wanted_words[number])
        return;
    for (uint32_t i = 0; i < packet->n_runs; i++) {
        const struct wire_page_run *run = &packet->runs[i];

        if (run->encoding == WIRE_PAGE_PLAIN && run->n_pages >= MIN_RUN_PAGES)
            make_for_run(destination, number, run);
    }
}
