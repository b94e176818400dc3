/* SPDX-License-Identifier: MIT */
/* Bitmaps over arrays of 64-bit words: ranges, counting unions, scans. */
#include "base/bitmap.h"

static uint64_t popcount64(uint64_t word)
{
    return (uint64_t)__builtin_popcountll(word);
}

uint64_t bitmap_set_range(uint64_t *words, uint64_t first, uint64_t n)
{
    uint64_t n_new = 0;

    if (n == 0) {
        return 0;
    }
    for (uint64_t w = first / BITMAP_WORD_BITS; w <= (first + n - 1) / BITMAP_WORD_BITS; w++) {
        uint64_t mask = bitmap_range_mask(w, first, n);
        n_new += popcount64(mask & ~words[w]);
        words[w] |= mask;
    }
    return n_new;
}

uint64_t bitmap_clear_range(uint64_t *words, uint64_t first, uint64_t n)
{
    uint64_t n_cleared = 0;

    if (n == 0) {
        return 0;
    }
    for (uint64_t w = first / BITMAP_WORD_BITS; w <= (first + n - 1) / BITMAP_WORD_BITS; w++) {
        uint64_t mask = bitmap_range_mask(w, first, n);
        n_cleared += popcount64(mask & words[w]);
        words[w] &= ~mask;
    }
    return n_cleared;
}

uint64_t bitmap_count(const uint64_t *words, uint64_t n_bits)
{
    uint64_t count = 0;
    uint64_t n_full = n_bits / BITMAP_WORD_BITS;

    for (uint64_t w = 0; w < n_full; w++) {
        count += popcount64(words[w]);
    }
    if (n_bits % BITMAP_WORD_BITS) {
        count += popcount64(words[n_full] & bitmap_range_mask(n_full, 0, n_bits));
    }
    return count;
}

uint64_t bitmap_or_count(uint64_t *to, const uint64_t *from, uint64_t n_bits)
{
    uint64_t n_new = 0;
    uint64_t n_words = bitmap_n_words(n_bits);

    for (uint64_t w = 0; w < n_words; w++) {
        uint64_t bits = from[w];
        if (bits == 0) {
            continue;
        }
        n_new += popcount64(bits & ~to[w]);
        to[w] |= bits;
    }
    return n_new;
}

uint64_t bitmap_move_or_count(uint64_t *to, uint64_t *from, uint64_t n_bits)
{
    uint64_t n_new = 0;
    uint64_t n_words = bitmap_n_words(n_bits);

    for (uint64_t w = 0; w < n_words; w++) {
        uint64_t bits = from[w];
        if (bits == 0) {
            continue;
        }
        from[w] = 0;
        n_new += popcount64(bits & ~to[w]);
        to[w] |= bits;
    }
    return n_new;
}

uint64_t bitmap_take_or_count(uint64_t *to, uint64_t *from, uint64_t n_bits)
{
    uint64_t n_new = 0;
    uint64_t n_words = bitmap_n_words(n_bits);

    for (uint64_t w = 0; w < n_words; w++) {
        if (__atomic_load_n(&from[w], __ATOMIC_RELAXED) == 0) {
            continue;
        }
        /* ORDER: acquire pairs with the release of who set the bit: a taken bit implies that the
         * data behind it is visible here. */
        uint64_t bits = __atomic_exchange_n(&from[w], 0, __ATOMIC_ACQ_REL);
        n_new += popcount64(bits & ~to[w]);
        to[w] |= bits;
    }
    return n_new;
}

/* First bit at or after from whose value, XORed with flip, is 1. */
static uint64_t next_bit(const uint64_t *words, uint64_t n_bits, uint64_t from, uint64_t flip)
{
    if (from >= n_bits) {
        return n_bits;
    }
    uint64_t w = from / BITMAP_WORD_BITS;
    uint64_t n_words = bitmap_n_words(n_bits);
    uint64_t bits = (words[w] ^ flip) & (~UINT64_C(0) << (from % BITMAP_WORD_BITS));

    while (bits == 0) {
        if (++w == n_words) {
            return n_bits;
        }
        bits = words[w] ^ flip;
    }
    uint64_t bit = w * BITMAP_WORD_BITS + (uint64_t)__builtin_ctzll(bits);
    return bit < n_bits ? bit : n_bits;
}

uint64_t bitmap_next_set(const uint64_t *words, uint64_t n_bits, uint64_t from)
{
    return next_bit(words, n_bits, from, 0);
}

uint64_t bitmap_next_clear(const uint64_t *words, uint64_t n_bits, uint64_t from)
{
    return next_bit(words, n_bits, from, ~UINT64_C(0));
}

bool bitmap_next_run(const uint64_t *words, uint64_t n_bits, uint64_t *first, uint64_t *n,
                     uint64_t max)
{
    uint64_t start = bitmap_next_set(words, n_bits, *first);

    if (start == n_bits || max == 0) {
        return false;
    }
    uint64_t limit = n_bits - start < max ? n_bits : start + max;
    *first = start;
    *n = bitmap_next_clear(words, limit, start) - start;
    return true;
}

void bitmap_set_atomic(uint64_t *words, uint64_t first, uint64_t n)
{
    if (n == 0) {
        return;
    }
    for (uint64_t w = first / BITMAP_WORD_BITS; w <= (first + n - 1) / BITMAP_WORD_BITS; w++) {
        __atomic_fetch_or(&words[w], bitmap_range_mask(w, first, n), __ATOMIC_SEQ_CST);
    }
}
