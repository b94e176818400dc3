/* SPDX-License-Identifier: MIT */
/*
 * Post-copy, at the source: which pages are sent next in the background.
 *
 * Model: what is left to send is a set of pages that is handed out in aligned chunks, every page
 * once. Where somebody faulted at the destination more will be needed soon: each recent place is
 * sent from there on, forwards, with every fourth chunk from what lies before it, until that block
 * is sent. Several places take turns; a new one comes first, and of too many the oldest is
 * forgotten. Without a place: pages that are known to be in use first, then the rest in order.
 *
 * Threads: any, except that push_begin and push_prefer are called while nobody takes. One short
 * lock for each chunk; the cost is that of what is left, not of the memory.
 */
#ifndef MIGRATE_PUSH_H
#define MIGRATE_PUSH_H

#include "godwit/memory.h"

#define PUSH_CHUNK_PAGES UINT64_C(256)
#define PUSH_WORDS       (PUSH_CHUNK_PAGES / 64)
#define PUSH_MAX_PLACES  8u

struct push;

struct push *push_new(const struct gw_memory *memory);
void push_free(struct push *push); /* NULL: ok */

/* Copies what is to be sent, instead of what was left; forgets places and preferences. */
void push_begin(struct push *push, const struct gw_page_set *left);
/* Of what is left, these pages first (copied). */
void push_prefer(struct push *push, const struct gw_page_set *hot);

/* Takes the next chunk out: bit i of words (PUSH_WORDS of them): page *first_page + i, which is a
 * multiple of PUSH_CHUNK_PAGES. At least one bit is set. False: nothing is left (yet pages may be
 * put back). */
bool push_take(struct push *push, uint32_t *block, uint64_t *first_page, uint64_t *words);

/* Somebody waits for these pages. Pages beyond the block are ignored, here and below. */
void push_want(struct push *push, uint32_t block, uint64_t first_page, uint64_t n_pages);
/* Takes these (at most PUSH_CHUNK_PAGES) pages out, as they are sent now for who waits for them.
 * Returns how many of them were left, and which: bit i of words for page first_page + i. */
uint32_t push_take_run(struct push *push, uint32_t block, uint64_t first_page, uint32_t n_pages,
                       uint64_t *words);
/* What was taken could not be sent: bit i of words (PUSH_WORDS of them) for page first_page + i. */
void push_put_back(struct push *push, uint32_t block, uint64_t first_page, const uint64_t *words);

/* Pages that are left. */
uint64_t push_n_left(struct push *push);

#endif
