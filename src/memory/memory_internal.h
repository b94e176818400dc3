/* SPDX-License-Identifier: MIT */
/* The inside of struct gw_memory, shared by the files of this folder. */
#ifndef MEMORY_MEMORY_INTERNAL_H
#define MEMORY_MEMORY_INTERNAL_H

#include "godwit/memory.h"

#define MEMORY_MAX_WATCHERS  4
#define MEMORY_MAX_PRODUCERS 16

struct memory_watcher {
    gw_write_watch_fn fn;
    void *opaque;
};

struct memory_producer {
    struct gw_dirty_producer ops;
    void *opaque;
};

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
};

/* Zero-filled words for n_bits that cost memory only where they are written. NULL: no memory. */
uint64_t *memory_lazy_words_new(uint64_t n_bits);
void memory_lazy_words_free(uint64_t *words, uint64_t n_bits);

#endif
