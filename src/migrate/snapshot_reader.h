/* SPDX-License-Identifier: MIT */
/*
 * The pages of a snapshot on their way into guest memory, by its index: all of them before the
 * guest runs (snapshot_load), or each when it is needed, while a reader in the background brings
 * the rest (snapshot_pager).
 */
#ifndef MIGRATE_SNAPSHOT_READER_H
#define MIGRATE_SNAPSHOT_READER_H

#include "godwit/memory.h"
#include "wire/snapshot.h"

struct snapshot_reader_config {
    struct wire_stream *stream;
    const struct wire_snapshot *snapshot;
    int fd; /* the file; opened again inside, so that it may be closed */
    struct gw_memory *memory;
    struct gw_ram_block *const *blocks; /* by the snapshot's index; NULL entries: none */
    uint32_t n_blocks;
    uint64_t **written; /* load: by the same index, see struct wire_pages_sink; may be NULL */
    uint32_t n_threads; /* 0: the default */
};

struct snapshot_reader_counters { /* atomic */
    uint64_t pages_plain, pages_zero, n_bytes;
};

/* Reads every unit into guest memory. *digests: of all records from the first unit to the tail, to
 * be freed by the caller. wants_stop: asked by any of its threads; CANCELLED then. */
bool snapshot_load(const struct snapshot_reader_config *config,
                   struct snapshot_reader_counters *counters, bool (*wants_stop)(void *opaque),
                   void *opaque, uint64_t **digests, GError **error);

struct snapshot_pager;

/* Begins: pages fault, the background reader reads. The memory is not whole (memory/faults.h) until
 * it is done. Takes over stream and snapshot when it succeeds. lost: the file is damaged or cannot
 * be read; whoever waits for a page of it waits for ever. On any thread, once.
 * UNSUPPORTED: the host cannot do it, and nothing has changed. */
struct snapshot_pager *snapshot_pager_new(const struct snapshot_reader_config *config,
                                          struct wire_snapshot *snapshot,
                                          struct snapshot_reader_counters *counters,
                                          void (*lost)(void *opaque, const char *reason),
                                          void *opaque, GError **error);
/* From here on the guest may discard pages. */
void snapshot_pager_guard(struct snapshot_pager *pager);
uint64_t snapshot_pager_missing_bytes(struct snapshot_pager *pager); /* any thread */
/* Whoever waits for a page is let go, with zeroes: nobody may run the guest any more, unless all
 * has been read. NULL: ok. */
void snapshot_pager_free(struct snapshot_pager *pager);

#endif
