/* SPDX-License-Identifier: MIT */
/*
 * The guest's rhythm: whether it dirties memory in periods, and how much of one when.
 *
 * Model: what was dirtied is booked in bins of 50 ms, the last 12.8 s of them. A period is the
 * shortest lag at which the series resembles itself (autocorrelation) nearly as well as at any
 * other; it has to have been seen twice at least. Folded by it, the series gives a profile: pages
 * dirtied per bin, by phase.
 *
 * Plain arithmetic without clock or lock.
 */
#ifndef MIGRATE_RHYTHM_H
#define MIGRATE_RHYTHM_H

#include <stdbool.h>
#include <stdint.h>

#define RHYTHM_BIN_NS  UINT64_C(50000000)
#define RHYTHM_BINS    256u
#define RHYTHM_MIN_LAG 4u

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
/* Since the beginning of the period, at such a moment after the profile was made. 0: no period. */
uint64_t rhythm_phase_ns(const struct rhythm_profile *profile, uint64_t now_ns);
/* How long a guest that always dirtied at the mean rate would take for what this one dirties from
 * one moment to another; both count from the beginning of a period, and may be before it. */
double rhythm_even_ns(const struct rhythm_profile *profile, double from_ns, double to_ns);
/* Of the mean rate, how much is left in the quietest quarter of the period. */
uint32_t rhythm_quiet_permille(const struct rhythm_profile *profile);

#endif
