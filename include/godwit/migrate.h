/* SPDX-License-Identifier: MIT */
/*
 * The migration engine: a source that sends a running machine and a destination that receives one.
 *
 * An embedder describes its machine by a struct gw_vm: its memory, its device-state registry, its
 * properties, and a handful of callbacks. The engine does the rest on its own threads and calls
 * the callbacks from its control thread, one at a time. Callbacks may block up to the deadline
 * they are given; they never call back into the engine.
 *
 * Ownership (docs/handover.md): the source's guest may run until COMMIT is sent; the destination's
 * only after COMMIT was read. Whoever may run is told by resume_at_source / run_at_destination.
 *
 * Owner of this header: the migrate room. PROVISIONAL where marked; names settled.
 */
#ifndef GODWIT_MIGRATE_H
#define GODWIT_MIGRATE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "godwit/memory.h"
#include "godwit/state.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gw_ledger;   /* blackout ledger, ledger accessors below in this header */
struct gw_source;
struct gw_destination;
struct gw_state_registry;

/* Time facts handed to the embedder on the destination before devices are committed. */
struct gw_clock_facts {
    int64_t source_minus_local_ns;  /* CLOCK_REALTIME of the source minus ours, measured over the
                                       return path; 0 when unknown (snapshot) */
    uint64_t error_ns;              /* bound on it; UINT64_MAX when unknown */
    uint64_t source_stop_real_ns;   /* source's CLOCK_REALTIME when its state was saved */
};

/* The embedder's machine. Everything is borrowed and must outlive the engine object. Callbacks are
 * called on the engine's control thread. Those that return bool fill error on false. */
struct gw_vm {
    struct gw_memory *memory;
    struct gw_state_registry *registry;
    void *opaque;

    /* -- source -- */
    /* Stops vCPUs, then devices (each named phase is added to the ledger by the engine through the
     * phase callback it passes). deadline: CLOCK_MONOTONIC ns. On false the machine runs again as
     * before (or stays paused if it was). */
    bool (*stop)(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error);
    /* Makes disks durable while stopped. Same contract. */
    bool (*flush)(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error);
    /* The handover failed or was cancelled before COMMIT: go on as before stop(). */
    void (*resume_at_source)(void *opaque);
    /* The destination runs the guest. It never runs here again. */
    void (*released)(void *opaque);

    /* -- destination -- */
    /* All state is decoded and checked; about to commit it to the objects. */
    bool (*before_load)(void *opaque, const struct gw_clock_facts *facts, GError **error);
    /* State is in the objects; make everything ready so that run is short. Nothing runs yet. */
    bool (*after_load)(void *opaque, GError **error);
    /* COMMIT was read: run the guest now (or hold it paused if was_running is false). */
    void (*run_at_destination)(void *opaque, bool was_running, struct gw_ledger *ledger);
    /* Before COMMIT it failed: whatever was loaded is worthless. */
    void (*discarded)(void *opaque, const GError *why);

    /* Was the guest running (not paused by its user) when the move began? Source only. */
    bool (*is_running)(void *opaque);
};

/* Budgets and settings; zero-initialised members mean the documented default. */
struct gw_migrate_params {
    uint64_t max_blackout_ns;       /* default 300 ms */
    uint64_t max_time_ns;           /* 0: unlimited */
    uint64_t max_bandwidth_bytes;   /* per second, 0: unlimited */
    uint32_t channels;              /* page channels, default 1 in this version */
    uint64_t silence_limit_ns;      /* default 10 s */
};

#ifdef __cplusplus
}
#endif
#endif
