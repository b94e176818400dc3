/* SPDX-License-Identifier: MIT */
/* The inside of a tracker, shared by its ways of tracking. */
#ifndef MEMORY_TRACKER_H
#define MEMORY_TRACKER_H

#include <pthread.h>

#include "godwit/tracker.h"
#include "memory/uffd.h"

struct tracked_block {
    struct gw_ram_block *block;
    /* SYNC only, guarded by the tracker's lock. */
    uint64_t *log;     /* pages that may be written without a fault; all others are protected */
    uint64_t *removed; /* pages that were discarded since the log began */
};

/* One way of tracking. start: every block is protected when it returns true; on false nothing is.
 * collect, stop: as in struct gw_dirty_producer. */
struct tracker_way {
    enum gw_tracker_mode mode;
    const char *name;
    bool (*probe)(GError **error);
    bool (*start)(struct gw_tracker *tracker, GError **error);
    bool (*collect)(struct gw_tracker *tracker, struct tracked_block *tracked, uint64_t *words,
                    GError **error);
    void (*stop)(struct gw_tracker *tracker);
};

extern const struct tracker_way tracker_async;
extern const struct tracker_way tracker_sync;

struct gw_tracker {
    /* Fixed after construction. */
    struct gw_memory *memory;
    const struct tracker_way *way;
    pthread_mutex_t lock; /* SYNC: taken by its thread and by the log's user; no lock inside */

    /* Owned by who adds blocks, then by the log's user. */
    GArray *blocks; /* struct tracked_block */
    bool is_started;
    int uffd;         /* -1: no log runs */
    int pagemap;      /* ASYNC */
    GArray *regions;  /* ASYNC: what one scan tells */
    pthread_t thread; /* SYNC */
    int wake_fd;      /* SYNC: eventfd that ends the thread */

    /* Guarded by lock. */
    bool is_broken; /* SYNC: a mapping was moved, or the descriptor failed */
};

/* Opens the userfaultfd and registers every block; closes it again on failure. */
bool tracker_register(struct gw_tracker *tracker, int flags, uint64_t features, uint64_t mode,
                      GError **error);

#endif
