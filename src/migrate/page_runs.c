/* SPDX-License-Identifier: MIT */
/* See page_runs.h. */
#include "migrate/page_runs.h"

/* Counts runs, and by their length the gaps between two of a block. */
static uint64_t count_gaps(const struct gw_page_set *set, uint64_t n_gaps[PAGE_RUNS_MAX_GAP + 1])
{
    uint64_t n_runs = 0;

    for (uint32_t block = 0; block < gw_memory_n_blocks(set->memory); block++) {
        uint64_t page = 0, n, end = UINT64_MAX;

        for (; gw_page_set_next_run(set, block, &page, &n, UINT64_MAX); page += n) {
            if (end != UINT64_MAX && page - end <= PAGE_RUNS_MAX_GAP)
                n_gaps[page - end]++;
            end = page + n;
            n_runs++;
        }
    }
    return n_runs;
}

/* Fills gaps of at most so many pages. */
static uint64_t fill_gaps(struct gw_page_set *set, uint64_t longest)
{
    uint64_t before = set->n_set;

    for (uint32_t block = 0; block < gw_memory_n_blocks(set->memory); block++) {
        uint64_t page = 0, n, end = UINT64_MAX;

        for (; gw_page_set_next_run(set, block, &page, &n, UINT64_MAX); page += n) {
            if (end != UINT64_MAX && page - end <= longest)
                gw_page_set_add(set, block, end, page - end);
            end = page + n;
        }
    }
    return set->n_set - before;
}

uint64_t page_runs_join(struct gw_page_set *set, uint64_t max_runs)
{
    uint64_t n_gaps[PAGE_RUNS_MAX_GAP + 1] = {0};
    uint64_t n_runs = count_gaps(set, n_gaps), longest = 0;

    while (n_runs > max_runs && longest < PAGE_RUNS_MAX_GAP)
        n_runs -= n_gaps[++longest];
    return longest ? fill_gaps(set, longest) : 0;
}

void page_runs_remove(struct gw_page_set *set, const struct gw_page_set *other)
{
    for (uint32_t block = 0; block < gw_memory_n_blocks(set->memory); block++) {
        uint64_t page = 0, n;

        for (; gw_page_set_next_run(other, block, &page, &n, UINT64_MAX); page += n)
            gw_page_set_remove(set, block, page, n);
    }
}
