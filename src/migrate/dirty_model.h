/* SPDX-License-Identifier: MIT */
/*
 * How many distinct pages a guest dirties in a stretch of time, whatever its length.
 *
 * Model: a page that is written twice in a window is sent once. So what counts is not a rate but a
 * curve: distinct pages as a function of the window's length. It is measured at nested windows, 10
 * ms and its doublings, each the union of the slots in it (dirty_windows). Between them the curve
 * is read off; beyond the longest it is continued by three parts that the last three windows tell
 * apart:
 *
 *     D(t) = hot + warm * (1 - exp(-rate * t))
 *
 * hot is rewritten within the shortest of the three and adds nothing more; warm is written at
 * random, each page at `rate` on average, and saturates as pages come again; when nothing comes
 * again (a writer that walks through memory) the second part is a straight line, up to all of RAM.
 *
 * Plain arithmetic without clock or lock; dirty_windows belongs to one thread.
 */
#ifndef MIGRATE_DIRTY_MODEL_H
#define MIGRATE_DIRTY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "godwit/memory.h"

#define DIRTY_UNIT_NS   UINT64_C(10000000)
#define DIRTY_LEVELS    14u /* 10 ms .. 82 s */
#define DIRTY_MAX_COUNT 32u /* newer windows outweigh what is older than so many */

/* Windows of about one length. */
struct dirty_window {
    double length_ns;
    double pages;     /* distinct, on average */
    double deviation; /* of single windows from it, in pages */
    uint32_t n;       /* how many were seen; 0: none */
};

struct dirty_model {
    struct dirty_window windows[DIRTY_LEVELS]; /* the first n_windows, ascending */
    uint32_t n_windows;                        /* 0: nothing is known, taken as idle */
    double max_pages;                          /* of RAM */
    double hot, warm, rate_per_ns;             /* beyond the longest window; rate 0: a line */
    double line_per_ns;
};

/* Distinct pages in a window of this length. */
double dirty_model_pages(const struct dirty_model *model, double ns);
/* How sure that is: the share by which it may be wrong. */
double dirty_model_doubt(const struct dirty_model *model, double ns);
/* At what share of its speed the guest dirties as `slowed` says, if it usually dirties as `usual`
 * does: 1 where that is not to be seen. Told by the shortest window, in which next to nothing comes
 * again. */
double dirty_model_pace(const struct dirty_model *slowed, const struct dirty_model *usual);
/* Works out what holds beyond the longest window. */
void dirty_model_fit(struct dirty_model *model);

/* Collects nested windows from slots that follow each other without gap. */
struct dirty_windows;
struct dirty_windows *dirty_windows_new(const struct gw_memory *memory);
void dirty_windows_free(struct dirty_windows *windows);
/* slot: the pages that were dirtied in length_ns, which follows the slot before. */
void dirty_windows_add(struct dirty_windows *windows, const struct gw_page_set *slot,
                       uint64_t length_ns);
/* The next slot does not follow the one before. */
void dirty_windows_break(struct dirty_windows *windows);
/* is_even false: the guest dirties in periods. Then a window counts for as long as a guest would
 * need for what was dirtied in it that always dirtied at the mean rate (rhythm_even_ns): whether a
 * burst more or less fell into the longest ones is chance. */
void dirty_windows_get(const struct dirty_windows *windows, bool is_even,
                       struct dirty_model *model);

#endif
