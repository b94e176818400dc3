/* SPDX-License-Identifier: MIT */
/* Runs of pages: fewer, longer ones where each costs something of its own; those of one set taken
 * out of another. */
#ifndef MIGRATE_PAGE_RUNS_H
#define MIGRATE_PAGE_RUNS_H

#include "godwit/memory.h"

/* Gaps of more pages than this are never filled: they cost more than a run. */
#define PAGE_RUNS_MAX_GAP 64u

/* Adds pages in gaps, the shortest first, until the set has at most max_runs runs or the gaps that
 * are left are too long. Returns how many pages were added. */
uint64_t page_runs_join(struct gw_page_set *set, uint64_t max_runs);
/* Takes the pages of other, a set of the same memory, out of the set. */
void page_runs_remove(struct gw_page_set *set, const struct gw_page_set *other);

#endif
