/* SPDX-License-Identifier: MIT */
/*
 * Bitmaps with a summary of one bit for each 512.
 *
 * ORDER: a setter sets its bits, then looks at the group's bit and sets it if it is clear; a taker
 * clears the group's bit, then takes the words. All of it is sequentially consistent. If the setter
 * finds the group's bit set, the taker clears it later and so sees the setter's bits; if not, the
 * setter sets it and the next taker comes by. A group's bit may be left over words that are empty
 * already; words are never left without it.
 */
#include "base/summary.h"

#include <string.h>

#include "base/simd.h"

#define GROUP_WORDS (SUMMARY_GROUP_BITS / BITMAP_WORD_BITS)

_Static_assert(GROUP_WORDS == SIMD_LINE_WORDS, "a group of bits is a line");

static uint64_t n_groups_of(const struct summary *map)
{
    return summary_n_groups(map->n_bits);
}

/* Words of group g: fewer than a line at the end. */
static uint64_t group_words(const struct summary *map, uint64_t g)
{
    uint64_t left = bitmap_n_words(map->n_bits) - g * GROUP_WORDS;

    return left < GROUP_WORDS ? left : GROUP_WORDS;
}

uint64_t summary_set_range(const struct summary *map, uint64_t first, uint64_t n)
{
    if (n == 0) {
        return 0;
    }
    uint64_t g = first / SUMMARY_GROUP_BITS;
    bitmap_set_range(map->groups, g, (first + n - 1) / SUMMARY_GROUP_BITS - g + 1);
    return bitmap_set_range(map->words, first, n);
}

void summary_clear(const struct summary *map)
{
    uint64_t n_groups = n_groups_of(map);
    uint64_t g = 0, n;

    for (; bitmap_next_run(map->groups, n_groups, &g, &n, UINT64_MAX); g += n) {
        uint64_t n_words = (n - 1) * GROUP_WORDS + group_words(map, g + n - 1);
        memset(map->words + g * GROUP_WORDS, 0, n_words * sizeof(uint64_t));
        bitmap_clear_range(map->groups, g, n);
    }
}

/* ORs the words of group g by hand. */
static uint64_t or_group(const struct summary *to, const uint64_t *from, uint64_t g)
{
    uint64_t n_words = group_words(to, g);
    uint64_t *at = to->words + g * GROUP_WORDS;
    uint64_t n_new = 0, any = 0;

    for (uint64_t w = 0; w < n_words; w++) {
        any |= from[w];
    }
    if (any == 0) {
        return 0; /* writes nothing: untouched memory stays so */
    }
    for (uint64_t w = 0; w < n_words; w++) {
        n_new += (uint64_t)__builtin_popcountll(from[w] & ~at[w]);
        at[w] |= from[w];
    }
    bitmap_set_range(to->groups, g, 1);
    return n_new;
}

uint64_t summary_or_count(const struct summary *to, const struct summary *from)
{
    const struct simd_ops *simd = simd_best();
    uint64_t n_full = from->n_bits / SUMMARY_GROUP_BITS;
    uint64_t n_group_words = bitmap_n_words(n_groups_of(from));
    uint64_t n_new = 0;

    for (uint64_t w = 0; w < n_group_words; w++) {
        uint64_t groups = from->groups[w];
        if (groups == ~UINT64_C(0) && (w + 1) * 64 <= n_full) {
            n_new += simd->merge(to->words + w * 64 * GROUP_WORDS,
                                 from->words + w * 64 * GROUP_WORDS, 64, &to->groups[w]);
            continue;
        }
        for (; groups != 0; groups &= groups - 1) {
            uint64_t g = w * 64 + (uint64_t)__builtin_ctzll(groups);
            n_new += or_group(to, from->words + g * GROUP_WORDS, g);
        }
    }
    return n_new;
}

uint64_t summary_move_or_count(const struct summary *to, uint64_t *from)
{
    uint64_t n_full = to->n_bits / SUMMARY_GROUP_BITS;
    uint64_t n_new = simd_best()->move(to->words, from, n_full, to->groups);

    if (n_full < n_groups_of(to)) {
        uint64_t *tail = from + n_full * GROUP_WORDS;
        n_new += or_group(to, tail, n_full);
        memset(tail, 0, group_words(to, n_full) * sizeof(uint64_t));
    }
    return n_new;
}

/* First set bit of group g at or after `from`, which lies in it; UINT64_MAX if there is none. */
static uint64_t next_in_group(const struct summary *map, uint64_t g, uint64_t from)
{
    uint64_t end = g * GROUP_WORDS + group_words(map, g);
    uint64_t mask = ~UINT64_C(0) << (from % BITMAP_WORD_BITS);

    for (uint64_t w = from / BITMAP_WORD_BITS; w < end; w++, mask = ~UINT64_C(0)) {
        uint64_t bits = map->words[w] & mask;
        if (bits != 0) {
            return w * BITMAP_WORD_BITS + (uint64_t)__builtin_ctzll(bits);
        }
    }
    return UINT64_MAX;
}

/* The line of the group after g, if the same word of groups names one: it is on its way while g is
 * looked at. */
static void prefetch_after(const struct summary *map, uint64_t g)
{
    uint64_t later = map->groups[g / 64] & ~UINT64_C(1) << (g % 64);

    if (later != 0) {
        __builtin_prefetch(map->words +
                           (g / 64 * 64 + (uint64_t)__builtin_ctzll(later)) * GROUP_WORDS);
    }
}

uint64_t summary_next_set(const struct summary *map, uint64_t from)
{
    uint64_t n_groups = n_groups_of(map);

    for (uint64_t g = from / SUMMARY_GROUP_BITS; from < map->n_bits; g++) {
        if (!bitmap_test(map->groups, g)) {
            g = bitmap_next_set(map->groups, n_groups, g + 1);
            if (g == n_groups) {
                break;
            }
            from = g * SUMMARY_GROUP_BITS;
        }
        prefetch_after(map, g);
        uint64_t bit = next_in_group(map, g, from);
        if (bit != UINT64_MAX) {
            return bit < map->n_bits ? bit : map->n_bits;
        }
        from = (g + 1) * SUMMARY_GROUP_BITS;
    }
    return map->n_bits;
}

bool summary_next_run(const struct summary *map, uint64_t *first, uint64_t *n, uint64_t max)
{
    uint64_t start = summary_next_set(map, *first);

    if (start == map->n_bits || max == 0) {
        return false;
    }
    uint64_t limit = map->n_bits - start < max ? map->n_bits : start + max;
    *first = start;
    *n = bitmap_next_clear(map->words, limit, start) - start;
    return true;
}

uint64_t summary_set_atomic(const struct summary *map, uint64_t first, uint64_t n)
{
    if (n == 0) {
        return 0;
    }
    uint64_t n_new = bitmap_set_atomic(map->words, first, n);
    uint64_t g = first / SUMMARY_GROUP_BITS;
    uint64_t n_marked = (first + n - 1) / SUMMARY_GROUP_BITS - g + 1;
    for (uint64_t w = g / 64; w <= (g + n_marked - 1) / 64; w++) {
        uint64_t mask = bitmap_range_mask(w, g, n_marked);
        /* Mostly set already: a load keeps the line shared among the writers. */
        if ((__atomic_load_n(&map->groups[w], __ATOMIC_SEQ_CST) & mask) != mask) {
            __atomic_fetch_or(&map->groups[w], mask, __ATOMIC_SEQ_CST);
        }
    }
    return n_new;
}

/* Takes group g into words. */
static void take_group(const struct summary *from, uint64_t g, uint64_t *words)
{
    uint64_t n_words = group_words(from, g);

    for (uint64_t w = 0; w < n_words; w++) {
        uint64_t *at = &from->words[g * GROUP_WORDS + w];
        words[w] = 0;
        if (__atomic_load_n(at, __ATOMIC_SEQ_CST) != 0) {
            /* ORDER: acquire pairs with the release of who set the bit: a taken bit implies that
             * the data behind it is visible here. */
            words[w] = __atomic_exchange_n(at, 0, __ATOMIC_SEQ_CST);
        }
    }
}

/* to NULL: nobody wants them. */
static uint64_t take_all(const struct summary *to, const struct summary *from)
{
    uint64_t n_group_words = bitmap_n_words(n_groups_of(from));
    uint64_t n_new = 0;

    for (uint64_t w = 0; w < n_group_words; w++) {
        if (__atomic_load_n(&from->groups[w], __ATOMIC_SEQ_CST) == 0) {
            continue;
        }
        uint64_t groups = __atomic_exchange_n(&from->groups[w], 0, __ATOMIC_SEQ_CST);
        for (; groups != 0; groups &= groups - 1) {
            uint64_t g = w * 64 + (uint64_t)__builtin_ctzll(groups);
            uint64_t words[GROUP_WORDS];
            take_group(from, g, words);
            if (to) {
                n_new += or_group(to, words, g);
            }
        }
    }
    return n_new;
}

uint64_t summary_take_or_count(const struct summary *to, const struct summary *from)
{
    return take_all(to, from);
}

void summary_drop(const struct summary *from)
{
    take_all(NULL, from);
}
