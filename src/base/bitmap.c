/* SPDX-License-Identifier: MIT */
/* Bitmaps over arrays of 64-bit words: ranges, counting unions, scans. */
#include "base/bitmap.h"

#include "base/simd.h"

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
    uint64_t n_full = n_bits / BITMAP_WORD_BITS;
    uint64_t w = n_full - n_full % SIMD_LINE_WORDS;
    uint64_t count = simd_best()->count(words, w / SIMD_LINE_WORDS);

    for (; w < n_full; w++) {
        count += popcount64(words[w]);
    }
    if (n_bits % BITMAP_WORD_BITS) {
        count += popcount64(words[n_full] & bitmap_range_mask(n_full, 0, n_bits));
    }
    return count;
}

uint64_t bitmap_or_count(uint64_t *to, const uint64_t *from, uint64_t n_bits)
{
    const struct simd_ops *simd = simd_best();
    uint64_t n_words = bitmap_n_words(n_bits);
    uint64_t n_new = 0;

    while (n_words >= SIMD_LINE_WORDS) {
        uint64_t groups[64] = {0}; /* which lines held something: not asked for here */
        uint64_t n_lines = n_words / SIMD_LINE_WORDS;
        n_lines = n_lines < 64 * 64 ? n_lines : 64 * 64;
        n_new += simd->merge(to, from, n_lines, groups);
        to += n_lines * SIMD_LINE_WORDS;
        from += n_lines * SIMD_LINE_WORDS;
        n_words -= n_lines * SIMD_LINE_WORDS;
    }
    for (uint64_t w = 0; w < n_words; w++) {
        n_new += popcount64(from[w] & ~to[w]);
        to[w] |= from[w];
    }
    return n_new;
}

/* First word at or after w that is not `same`; n_words if there is none. */
static uint64_t next_other_word(const uint64_t *words, uint64_t n_words, uint64_t w, uint64_t same)
{
    /* To the end of the line by hand: what is sought is mostly near. */
    for (; w < n_words && w % SIMD_LINE_WORDS != 0; w++) {
        if (words[w] != same) {
            return w;
        }
    }
    if (n_words - w >= SIMD_LINE_WORDS) {
        w += SIMD_LINE_WORDS *
             simd_best()->find_other(words + w, (n_words - w) / SIMD_LINE_WORDS, same);
    }
    while (w < n_words && words[w] == same) {
        w++;
    }
    return w;
}

/* First bit at or after from whose value differs from those of `same` (0 or all ones). */
static uint64_t next_bit(const uint64_t *words, uint64_t n_bits, uint64_t from, uint64_t same)
{
    if (from >= n_bits) {
        return n_bits;
    }
    uint64_t w = from / BITMAP_WORD_BITS;
    uint64_t n_words = bitmap_n_words(n_bits);
    uint64_t bits = (words[w] ^ same) & (~UINT64_C(0) << (from % BITMAP_WORD_BITS));

    if (bits == 0) {
        w = next_other_word(words, n_words, w + 1, same);
        if (w == n_words) {
            return n_bits;
        }
        bits = words[w] ^ same;
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

uint64_t bitmap_set_atomic(uint64_t *words, uint64_t first, uint64_t n)
{
    uint64_t n_new = 0;

    if (n == 0) {
        return 0;
    }
    for (uint64_t w = first / BITMAP_WORD_BITS; w <= (first + n - 1) / BITMAP_WORD_BITS; w++) {
        uint64_t mask = bitmap_range_mask(w, first, n);
        uint64_t old = __atomic_fetch_or(&words[w], mask, __ATOMIC_SEQ_CST);
        n_new += (uint64_t)__builtin_popcountll(mask & ~old);
    }
    return n_new;
}

void bitmap_clear_atomic(uint64_t *words, uint64_t first, uint64_t n)
{
    for (uint64_t w = first / BITMAP_WORD_BITS; w * BITMAP_WORD_BITS < first + n; w++) {
        __atomic_fetch_and(&words[w], ~bitmap_range_mask(w, first, n), __ATOMIC_SEQ_CST);
    }
}
