/* SPDX-License-Identifier: MIT */
/* What of a RAM block is allocated: questions of this library's own. See godwit/memory.h for more.
 */
#ifndef MEMORY_PRESENCE_H
#define MEMORY_PRESENCE_H

#include "godwit/memory.h"

/* The first allocated page at or after `from`; UINT64_MAX: none. *end: pages up to there are known
 * to be allocated too, at least that one. Unlike gw_memory_next_allocated_run it does not look for
 * the end of a run in a file: for who asks about many places. Any thread. */
uint64_t memory_next_allocated(const struct gw_ram_block *block, uint64_t from, uint64_t *end);
/* Whether a discard has left nothing there, so that the next access to any of it faults. */
bool memory_is_hole(const struct gw_ram_block *block, uint64_t first, uint64_t n_pages);

#endif
