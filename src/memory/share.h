/* SPDX-License-Identifier: MIT */
/*
 * RAM that changes hands between two processes of one kernel, by its memory descriptors.
 *
 * Model: a block's memory is a sealed memfd. The process that gives it away passes a descriptor
 * that can only read, and later one that can write. The process that takes it maps them in place of
 * its own memory, at the same host address and under the same descriptor number, so that whoever
 * holds gw_ram_block.host or .fd goes on as before. A process that gave its memory away, or that
 * gets none in the end, has fresh empty memory there: nothing it still does can reach the guest.
 *
 * PEER: a descriptor counts only after memory_share_check: memory of tmpfs that can neither shrink
 * nor grow nor be sealed any further and is large enough, so that no access of ours can fault.
 *
 * Threads: the log's user, while nobody else uses the memory (before the rounds, with the guest
 * stopped, after its release).
 */
#ifndef MEMORY_SHARE_H
#define MEMORY_SHARE_H

#include "godwit/memory.h"

/* Which memory a descriptor means. */
struct memory_identity {
    uint64_t device, inode;
};

/* Can the block be given to another process as it is? Else UNSUPPORTED, with the reason. */
bool memory_share_is_possible(const struct gw_ram_block *block, GError **error);
/* Where in its descriptor the block begins. */
uint64_t memory_share_offset(const struct gw_ram_block *block);
/* A descriptor of the block's memory that only reads, owned by the block; -1: error. */
int memory_share_reader(struct gw_ram_block *block, GError **error);

/* PEER: a descriptor from elsewhere: CORRUPT unless it is as above and holds the range. */
bool memory_share_check(int fd, uint64_t offset, uint64_t size_bytes,
                        struct memory_identity *identity, GError **error);

/* Makes ready that memory_share_drop cannot fail: it will go back to the memory the block has now
 * (keeps_own; a fresh one where nobody else can know it), or to fresh memory. */
bool memory_share_prepare(struct gw_ram_block *block, bool keeps_own, GError **error);
/* Maps foreign memory (checked) in place of the block's own, read-only: writing is a fault of the
 * whole process. Takes fd. The block was prepared. */
bool memory_share_view(struct gw_ram_block *block, int fd, uint64_t offset, GError **error);
/* The same memory by a descriptor that can write: from here on the block is as if it had always
 * been ours. Takes fd; on failure nothing has changed. */
bool memory_share_take(struct gw_ram_block *block, int fd, GError **error);
/* Says that the block is about to be another's (discards are refused), or is ours again. */
void memory_share_lend(struct gw_ram_block *block, bool is_lent);
/* The block has its own memory again; what it had goes on elsewhere, or ends. */
void memory_share_drop(struct gw_ram_block *block);
/* What memory_share_prepare made ready is not needed any more. */
void memory_share_settle(struct gw_ram_block *block);

#endif
