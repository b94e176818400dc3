/* SPDX-License-Identifier: MIT */
/*
 * The content that the destination was last sent of some pages.
 *
 * Model: a direct-mapped table of slots, one page each, of a fixed size. A page in a slot is known
 * to stand at the destination as it stands here: whoever sends the page in another way must forget
 * it first, and rounds are acknowledged one by one. If that should ever fail, the page's digest
 * does not match at the destination, and it asks for it again.
 *
 * A slot is kept while its page was asked for in this or the last round; so a working set that is
 * larger than the cache does not wash itself out.
 *
 * Threads: any; one lock for a whole packet, see delta_cache_lock.
 */
#ifndef WIRE_DELTA_CACHE_H
#define WIRE_DELTA_CACHE_H

#include <stdbool.h>
#include <stdint.h>

struct delta_cache;

/* max_bytes: of contents and table together; they cost memory only where they are used. NULL when
 * it is too small for a page or there is no memory. */
struct delta_cache *delta_cache_new(uint64_t max_bytes);
void delta_cache_free(struct delta_cache *cache);
void delta_cache_lock(struct delta_cache *cache);
void delta_cache_unlock(struct delta_cache *cache);
/* Under the lock: the slot for the page in this round. *is_known: it holds what was last sent of
 * this very page; else the caller fills it now. NULL: the slot is taken by a page in use. */
uint8_t *delta_cache_slot_locked(struct delta_cache *cache, uint32_t block, uint64_t page,
                                 uint32_t round, bool *is_known);
/* Under the lock: these pages are sent in another way. */
void delta_cache_forget_locked(struct delta_cache *cache, uint32_t block, uint64_t first,
                               uint64_t n_pages);
/* Forgets everything. Takes the lock. */
void delta_cache_clear(struct delta_cache *cache);
uint64_t delta_cache_max_bytes(const struct delta_cache *cache);

#endif
