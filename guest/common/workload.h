/* SPDX-License-Identifier: MIT */
/* Self-checking dirtying of memory: what a page must hold follows from the pass and the cursor
 * alone.
 *
 * Model: a region is walked in passes. In pass P every page is visited once, in an order that is a
 * permutation chosen by P; at its visit a page must hold the content of pass P-1, all of it, and
 * then gets that of P. So a page that is lost, mixed up, torn or *stale* (an older, in itself
 * consistent content: the classic migration bug) is found at its next visit, and nothing but two
 * counters says what was expected. Content is a function of (salt, page, pass, fill).
 *
 * Who has to write fast looks only at a part of each page before it is written: the first line, and
 * one other that the pass chooses. A stale page is still found at its next visit; of one that is
 * torn or flipped a part may be overlooked there, and only a verification looks at all of it.
 *
 * Freestanding: used by the bare-metal guests, the Linux agent and any test that wants it.
 */
#ifndef GUEST_WORKLOAD_H
#define GUEST_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE_BYTES 4096u
#define PAGE_WORDS (PAGE_BYTES / 8u)
#define LINE_WORDS 8u
#define PAGE_LINES (PAGE_WORDS / LINE_WORDS)
#define GOLDEN     0x9e3779b97f4a7c15ull

/* How well the content compresses: not at all; very well; nearly all zero. */
enum fill { FILL_RANDOM, FILL_TEXT, FILL_SPARSE };

/* random: every page once per pass, shuffled; seq: in order; hot: 9 of 10 writes go to a tenth. */
enum order { ORDER_RANDOM, ORDER_SEQ, ORDER_HOT };

static const char *const fill_names[] = {"random", "text", "sparse"};
static const char *const order_names[] = {"random", "seq", "hot"};

struct region {
    uint64_t *words;
    uint64_t pages;
    uint64_t salt;
    uint64_t pass;          /* the pass in progress, from 1 */
    uint64_t cursor;        /* visits done in this pass */
    uint64_t stride, start; /* the order of this pass */
    enum fill fill;
    bool is_shuffled;
    bool checks_part; /* of a page, at its visit */
};

struct workload {
    struct region hot; /* no pages unless the order is ORDER_HOT */
    struct region cold;
    uint64_t visits;
};

/* What a check found; word is the first bad one of the page. */
struct damage {
    uint64_t page;
    uint64_t pass;
    uint32_t word;
    uint64_t wanted;
    uint64_t found;
};

static inline uint64_t pattern_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline uint64_t pattern_seed(const struct region *r, uint64_t page, uint64_t pass)
{
    return pattern_mix(r->salt + page * GOLDEN + pattern_mix(pass));
}

static inline uint64_t pattern_step(enum fill fill)
{
    return fill == FILL_RANDOM ? GOLDEN : 0;
}

/* Words 0 and 1 name the pass and the page in clear, for whoever looks at a dump. */
static inline void page_write(const struct region *r, uint64_t page, uint64_t pass)
{
    uint64_t *w = r->words + page * PAGE_WORDS;
    uint64_t x = pattern_seed(r, page, pass);
    uint64_t step = pattern_step(r->fill);
    uint32_t full = r->fill == FILL_SPARSE ? 8 : PAGE_WORDS;

    w[0] = pass;
    w[1] = page;
#pragma GCC unroll 8
    for (uint32_t i = 2; i < full; i++, x += step) {
        w[i] = x;
    }
    for (uint32_t i = full; i < PAGE_WORDS; i++) {
        w[i] = 0;
    }
}

/* Words [first, end) of a page. */
static inline bool words_check(const struct region *r, uint64_t page, uint64_t pass, uint32_t first,
                               uint32_t end, struct damage *damage)
{
    const uint64_t *w = r->words + page * PAGE_WORDS;
    uint64_t step = pattern_step(r->fill);
    uint32_t full = r->fill == FILL_SPARSE ? 8 : PAGE_WORDS;
    uint64_t wanted, x;
    uint32_t i = first;

    for (; i < end && i < 2; i++) {
        wanted = i == 0 ? pass : page;
        if (w[i] != wanted) {
            goto bad;
        }
    }
    full = end < full ? end : full;
    x = pattern_seed(r, page, pass) + (i - 2) * step;
    for (; i < full; i++, x += step) {
        if (w[i] != x) {
            wanted = x;
            goto bad;
        }
    }
    for (wanted = 0; i < end; i++) {
        if (w[i] != 0) {
            goto bad;
        }
    }
    return true;
bad:
    *damage =
        (struct damage){.page = page, .pass = pass, .word = i, .wanted = wanted, .found = w[i]};
    return false;
}

static inline bool page_check(const struct region *r, uint64_t page, uint64_t pass,
                              struct damage *damage)
{
    return words_check(r, page, pass, 0, PAGE_WORDS, damage);
}

static inline bool page_check_part(const struct region *r, uint64_t page, uint64_t pass,
                                   struct damage *damage)
{
    uint32_t other = (uint32_t)(1 + pass % (PAGE_LINES - 1)) * LINE_WORDS;

    return words_check(r, page, pass, 0, LINE_WORDS, damage) &&
           words_check(r, page, pass, other, other + LINE_WORDS, damage);
}

static inline uint64_t gcd_u64(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t t = a % b;
        a = b;
        b = t;
    }
    return a;
}

/* Begins a pass: chooses the order of its visits, affine modulo the page count and hence a
 * permutation. */
static inline void region_start_pass(struct region *r, uint64_t pass)
{
    r->pass = pass;
    r->cursor = 0;
    r->stride = 1;
    r->start = 0;
    if (!r->is_shuffled || r->pages < 3) {
        return;
    }
    uint64_t stride = pattern_mix(pass ^ r->salt) % r->pages | 1;
    while (gcd_u64(stride, r->pages) != 1) {
        stride += 2;
    }
    r->stride = stride % r->pages;
    r->start = pattern_mix(pass) % r->pages;
}

/* The page visited at place `i` of this pass. */
static inline uint64_t region_place(const struct region *r, uint64_t i)
{
    return r->is_shuffled ? (i * r->stride + r->start) % r->pages : i;
}

static inline void region_init(struct region *r, void *memory, uint64_t pages, uint64_t salt,
                               enum fill fill, bool is_shuffled)
{
    *r = (struct region){
        .words = memory, .pages = pages, .salt = salt, .fill = fill, .is_shuffled = is_shuffled};
    region_start_pass(r, 1);
    for (uint64_t page = 0; page < pages; page++) {
        page_write(r, page, 0);
    }
}

/* Check the next page and write it anew. It is written even if it was bad, so that one damage is
 * one error. */
static inline bool region_visit(struct region *r, struct damage *damage)
{
    uint64_t page = region_place(r, r->cursor);
    bool is_good = r->checks_part ? page_check_part(r, page, r->pass - 1, damage)
                                  : page_check(r, page, r->pass - 1, damage);

    page_write(r, page, r->pass);
    if (++r->cursor == r->pages) {
        region_start_pass(r, r->pass + 1);
    }
    return is_good;
}

/* Check every page against what it must hold now; returns the number of bad ones. */
static inline uint64_t region_verify(const struct region *r, struct damage *damage)
{
    uint64_t bad = 0;

    for (uint64_t i = 0; i < r->pages; i++) {
        uint64_t pass = i < r->cursor ? r->pass : r->pass - 1;
        bad += !page_check(r, region_place(r, i), pass, damage);
    }
    return bad;
}

static inline void workload_init(struct workload *w, void *memory, uint64_t pages, uint64_t salt,
                                 enum order order, enum fill fill)
{
    uint64_t hot = order == ORDER_HOT ? pages / 10 : 0;
    char *cold = (char *)memory + hot * PAGE_BYTES;

    w->visits = 0;
    region_init(&w->hot, memory, hot, pattern_mix(salt), fill, true);
    region_init(&w->cold, cold, pages - hot, salt, fill, order != ORDER_SEQ);
}

/* From now on visits look at a part of each page only. */
static inline void workload_check_part(struct workload *w)
{
    w->hot.checks_part = w->cold.checks_part = true;
}

static inline bool workload_visit(struct workload *w, struct damage *damage)
{
    bool is_hot = w->hot.pages > 0 && w->visits % 10 != 0;

    w->visits++;
    return region_visit(is_hot ? &w->hot : &w->cold, damage);
}

static inline uint64_t workload_verify(const struct workload *w, struct damage *damage)
{
    return region_verify(&w->hot, damage) + region_verify(&w->cold, damage);
}

/* Complete passes over the whole memory. */
static inline uint64_t workload_passes(const struct workload *w)
{
    return w->cold.pass - 1;
}

#endif
