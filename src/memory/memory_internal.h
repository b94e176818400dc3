/* SPDX-License-Identifier: MIT */
/* The inside of struct gw_memory, shared by the files of this folder. */
#ifndef MEMORY_MEMORY_INTERNAL_H
#define MEMORY_MEMORY_INTERNAL_H

#include <pthread.h>
#include <sys/types.h>

#include "godwit/memory.h"
#include "memory/faults.h"

#define MEMORY_MAX_WATCHERS  4
#define MEMORY_MAX_PRODUCERS 16

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* SPEC: Linux Documentation/admin-guide/mm/pagemap.rst: an entry of /proc/self/pagemap. */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)

struct memory_watcher {
    gw_write_watch_fn fn;
    void *opaque;
};

struct memory_producer {
    struct gw_dirty_producer ops;
    void *opaque;
};

/* What only this room needs to know about a block. */
struct memory_block {
    struct gw_ram_block pub;
    /* Fixed after construction. */
    bool is_adopted;      /* the mapping is the embedder's */
    bool is_private;      /* adopted, private and anonymous */
    bool has_spare_cores; /* a thread that would have to wait for place_lock stores instead */

    /* Owned by the log's user; changed only where the memory changes hands (memory/share.h). */
    off_t fd_offset;   /* where in fd the block begins */
    bool can_place;    /* fd takes pages by write: see place.h */
    int reader_fd;     /* the same memory, opened for reading only; -1: not yet */
    int home_fd;       /* the memory to fall back to; -1: none is ready */
    off_t home_offset; /* where in it the block begins */
    bool is_lent;      /* atomic: the memory is another process's, or is about to be */
    bool is_populated; /* atomic: all of it was made present once */
    bool is_present;   /* atomic: and nothing was discarded since; never of adopted blocks */

    pthread_mutex_t place_lock; /* held by who writes to fd; a leaf */

    /* Owned by the log's user until has_touched is set (release; acquire by anyone): pages of a
     * private block that were touched when its log began. While a tracker protects them the kernel
     * cannot be asked. NULL until needed. */
    uint64_t *touched;
    bool has_touched;
};

static inline struct memory_block *memory_block_of(struct gw_ram_block *block)
{
    return (struct memory_block *)block; /* pub comes first */
}

static inline const struct memory_block *memory_block_of_const(const struct gw_ram_block *block)
{
    return (const struct memory_block *)block;
}

/* place.c: finds out whether and how pages may be put into the block by writing to its file. */
void memory_place_init(struct memory_block *self);

struct gw_memory {
    /* Fixed before other threads know the memory. */
    GPtrArray *blocks; /* struct gw_ram_block */
    struct memory_watcher watchers[MEMORY_MAX_WATCHERS];
    unsigned n_watchers;
    struct memory_producer producers[MEMORY_MAX_PRODUCERS];
    unsigned n_producers;

    /* Owned by the log's user. */
    uint64_t **scratch; /* [n_blocks] zero words for producers to collect into, NULL until needed */

    /* Atomic: written by the log's user (release), read by anyone (acquire). */
    bool is_logging;

    /* Guarded by guard_lock, which is held while the guard runs and the pages go. */
    pthread_mutex_t guard_lock;
    memory_guard_fn guard;
    void *guard_opaque;

    /* Guarded by whole_lock. */
    pthread_mutex_t whole_lock;
    pthread_cond_t whole_changed;
    bool is_partial;
};

/* Zero-filled words for n_bits that cost memory only where they are written. NULL: no memory. */
uint64_t *memory_lazy_words_new(uint64_t n_bits);
void memory_lazy_words_free(uint64_t *words, uint64_t n_bits);

/* Checks name, address and size, and makes a block (without memory) that is not in the list yet. */
struct memory_block *memory_block_new(struct gw_memory *memory, const char *name, uint64_t gpa,
                                      uint64_t size_bytes, GError **error);
/* Allocates the logs and puts the block into the list; frees it on failure. */
struct gw_ram_block *memory_block_enlist(struct memory_block *block, GError **error);
void memory_block_free(void *block);

/* A fresh, sparse, sealed memfd of the block's size; -1: error. */
int memory_memfd_new(const struct gw_ram_block *block, GError **error);

/* next_allocated_run of blocks without a descriptor, discard of adopted ones. */
bool memory_adopted_next_run(const struct memory_block *block, uint64_t *page, uint64_t *n_pages);
bool memory_adopted_discard(struct memory_block *block, uint64_t offset, uint64_t len,
                            GError **error);
/* The same run from the kernel's page tables; reads them at this moment. */
bool memory_private_next_run(const struct memory_block *block, uint64_t *page, uint64_t *n_pages);

#endif
