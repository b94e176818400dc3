/* SPDX-License-Identifier: MIT */
/*
 * Bitmaps with a summary, for 2^31 pages of which few are set.
 *
 * Model: one bit of `groups` stands for 512 bits, one cache line, of `words`. A group whose bit is
 * clear is empty; one whose bit is set may hold something. So 256 MiB of words have 512 KiB of
 * groups, and whoever looks for what is set reads those and the lines they name. Both arrays may be
 * fresh anonymous memory: words of empty groups are never touched.
 *
 * Threads: not atomic, except summary_set_atomic and the `from` of summary_take_or_count.
 */
#ifndef BASE_SUMMARY_H
#define BASE_SUMMARY_H

#include "base/bitmap.h"

#define SUMMARY_GROUP_BITS UINT64_C(512)

struct summary {
    uint64_t *words;  /* bitmap_n_words(n_bits) */
    uint64_t *groups; /* bitmap_n_words(summary_n_groups(n_bits)) */
    uint64_t n_bits;
};

static inline uint64_t summary_n_groups(uint64_t n_bits)
{
    return n_bits / SUMMARY_GROUP_BITS + (n_bits % SUMMARY_GROUP_BITS != 0);
}

/* Sets [first, first + n); returns how many of these bits were clear before. */
uint64_t summary_set_range(const struct summary *map, uint64_t first, uint64_t n);
/* Clears every bit; costs by what was set. */
void summary_clear(const struct summary *map);
/* ORs from into to, both of the same size; returns how many bits are new in to. */
uint64_t summary_or_count(const struct summary *to, const struct summary *from);
/* The same with a plain bitmap, which is read whole and left zero. */
uint64_t summary_move_or_count(const struct summary *to, uint64_t *from);
/* Index of the first set bit at or after `from`; n_bits if there is none. */
uint64_t summary_next_set(const struct summary *map, uint64_t from);
/* The next run of set bits at or after *first, at most max long: true with *first and *n set. */
bool summary_next_run(const struct summary *map, uint64_t *first, uint64_t *n, uint64_t max);

/* Atomic, sequentially consistent: sets [first, first + n) while another thread may take; returns
 * how many of these bits this call has set. */
uint64_t summary_set_atomic(const struct summary *map, uint64_t first, uint64_t n);
/* Takes (exchanges with zero) what other threads set in from, and ORs it into to; returns how many
 * bits are new in to. What was set before it began is taken. Writes nothing where nothing is set.
 */
uint64_t summary_take_or_count(const struct summary *to, const struct summary *from);
/* Takes it to forget it. */
void summary_drop(const struct summary *from);

#endif
