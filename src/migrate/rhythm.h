/* SPDX-License-Identifier: MIT */
/*
 * The guest's rhythm: whether it dirties memory in periods, and when the next quiet moment is.
 *
 * Model: what was dirtied is booked in bins of 50 ms, the last 12.8 s of them. A period is the
 * shortest lag at which the series resembles itself (autocorrelation) nearly as well as at any
 * other; it has to have been seen twice at least. Folded by it, the series gives a profile: pages
 * dirtied per bin, by phase. A moment is quiet when what was dirtied just before it is near the
 * least that the profile has.
 *
 * A guest without a rhythm has no better moment: then nobody waits.
 *
 * Plain arithmetic without clock or lock.
 */
#ifndef MIGRATE_RHYTHM_H
#define MIGRATE_RHYTHM_H

#include <stdbool.h>
#include <stdint.h>

#define RHYTHM_BIN_NS   UINT64_C(50000000)
#define RHYTHM_BINS     256u
#define RHYTHM_MIN_LAG  4u
/* And a fifth of the blackout: what waiting must save. */
#define RHYTHM_WORTH_NS UINT64_C(3000000)

struct rhythm {
    double pages[RHYTHM_BINS]; /* by number of the bin, modulo */
    uint64_t first, end;       /* bins [first, end) are known; end is being filled */
};

/* What a period looks like. */
struct rhythm_profile {
    uint32_t n; /* bins of a period; 0: there is none */
    double pages[RHYTHM_BINS];
    uint64_t origin; /* number of the bin that pages[0] stands for */
};

/* n_pages were dirtied from start_ns to end_ns. A gap, or a stretch of more than two bins, starts
 * the book anew: it says nothing about what is within a period. */
void rhythm_add(struct rhythm *rhythm, uint64_t start_ns, uint64_t end_ns, double n_pages);
/* False: no period (profile->n is 0). */
bool rhythm_profile(const struct rhythm *rhythm, struct rhythm_profile *profile);
/* How long until the window_ns before that moment are quiet; 0: now. */
uint64_t rhythm_wait_ns(const struct rhythm_profile *profile, uint64_t now_ns, uint64_t window_ns);
/* Pages dirtied in the quietest window_ns. */
double rhythm_quiet_pages(const struct rhythm_profile *profile, uint64_t window_ns);
/* The guest could be stopped now, within its budget, with left_pages to go that take left_ns: would
 * a better moment come within a period and by until_ns, for a blackout_ns that is worth it?
 * window_ns: what the last round took, during which what is left was dirtied. */
bool rhythm_wants_wait(const struct rhythm_profile *profile, uint64_t until_ns, uint64_t now_ns,
                       uint64_t window_ns, uint64_t left_pages, uint64_t left_ns,
                       uint64_t blackout_ns);
/* Since the beginning of the period, at such a moment after the profile was made. 0: no period. */
uint64_t rhythm_phase_ns(const struct rhythm_profile *profile, uint64_t now_ns);
/* How long a guest that always dirtied at the mean rate would take for what this one dirties from
 * one moment to another; both count from the beginning of a period, and may be before it. */
double rhythm_even_ns(const struct rhythm_profile *profile, double from_ns, double to_ns);
/* Of the mean rate, how much is left in the quietest quarter of the period. */
uint32_t rhythm_quiet_permille(const struct rhythm_profile *profile);

#endif
