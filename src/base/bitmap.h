/* SPDX-License-Identifier: MIT */
/*
 * Bitmaps over arrays of 64-bit words: bit i is bit i%64 of word i/64; all indexes are 64 bits.
 *
 * Counting, unions and searches go at memory speed (base/simd.h). Bitmaps that are large and mostly
 * empty carry a summary: base/summary.h.
 *
 * Threads: none of these is atomic, except bitmap_set_atomic and bitmap_clear_atomic.
 */
#ifndef BASE_BITMAP_H
#define BASE_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

#define BITMAP_WORD_BITS 64u

static inline uint64_t bitmap_n_words(uint64_t n_bits)
{
    return n_bits / BITMAP_WORD_BITS + (n_bits % BITMAP_WORD_BITS != 0);
}

static inline bool bitmap_test(const uint64_t *words, uint64_t bit)
{
    return (words[bit / BITMAP_WORD_BITS] >> (bit % BITMAP_WORD_BITS)) & 1;
}

/* The bits of word number `word` that lie in [first, first + n). */
static inline uint64_t bitmap_range_mask(uint64_t word, uint64_t first, uint64_t n)
{
    uint64_t base = word * BITMAP_WORD_BITS;
    uint64_t end = first + n;
    uint64_t mask = ~UINT64_C(0);

    if (first > base) {
        mask &= ~UINT64_C(0) << (first - base);
    }
    if (end < base + BITMAP_WORD_BITS) {
        mask &= (UINT64_C(1) << (end - base)) - 1;
    }
    return mask;
}

/* Sets [first, first + n); returns how many of these bits were clear before. */
uint64_t bitmap_set_range(uint64_t *words, uint64_t first, uint64_t n);
/* Clears [first, first + n); returns how many of these bits were set before. */
uint64_t bitmap_clear_range(uint64_t *words, uint64_t first, uint64_t n);
uint64_t bitmap_count(const uint64_t *words, uint64_t n_bits);

/* ORs from into to; returns how many bits are new in to. */
uint64_t bitmap_or_count(uint64_t *to, const uint64_t *from, uint64_t n_bits);

/* Index of the first bit at or after `from` that is set (clear); n_bits if there is none. */
uint64_t bitmap_next_set(const uint64_t *words, uint64_t n_bits, uint64_t from);
uint64_t bitmap_next_clear(const uint64_t *words, uint64_t n_bits, uint64_t from);
/* The next run of set bits at or after *first, at most max long: true with *first and *n set. */
bool bitmap_next_run(const uint64_t *words, uint64_t n_bits, uint64_t *first, uint64_t *n,
                     uint64_t max);

/* Atomic, sequentially consistent: sets [first, first + n); returns how many of these bits this
 * call has set, so that of several threads that set one bit exactly one counts it. */
uint64_t bitmap_set_atomic(uint64_t *words, uint64_t first, uint64_t n);
/* Atomic likewise: clears [first, first + n). */
void bitmap_clear_atomic(uint64_t *words, uint64_t first, uint64_t n);
#endif
