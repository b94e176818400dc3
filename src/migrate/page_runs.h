/* SPDX-License-Identifier: MIT */
/* Fewer, longer runs of pages, where each run costs something of its own. */
#ifndef MIGRATE_PAGE_RUNS_H
#define MIGRATE_PAGE_RUNS_H

#include "godwit/memory.h"

/* Gaps of more pages than this are never filled: they cost more than a run. */
#define PAGE_RUNS_MAX_GAP 64u

/* Adds pages in gaps, the shortest first, until the set has at most max_runs runs or the gaps that
 * are left are too long. Returns how many pages were added. */
uint64_t page_runs_join(struct gw_page_set *set, uint64_t max_runs);

#endif
