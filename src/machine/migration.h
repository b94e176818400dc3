/* SPDX-License-Identifier: MIT */
/*
 * A machine's migrations: at most one under way, the parameters for the next, the last one's
 * account.
 *
 * Model: the engine (godwit/migrate.h) does the work; this is who starts it, keeps it, and tells
 * the monitor about it. A machine has been a destination at most once (by its command line or by
 * migrate-incoming) and can then be a source any number of times until its guest is gone.
 *
 * Threads: all functions belong to the main thread; notices come on the main thread.
 */
#ifndef GODWIT_MACHINE_MIGRATION_H
#define GODWIT_MACHINE_MIGRATION_H

#include "godwit/migrate.h"
#include "machine/machine.h"

struct migration;

enum migration_notice_kind {
    MIGRATION_NOTICE_SOURCE = 1,  /* value: enum gw_source_state */
    MIGRATION_NOTICE_DESTINATION, /* value: enum gw_destination_state */
    MIGRATION_NOTICE_PASS,        /* value: the round that begins */
    MIGRATION_NOTICE_DISCARDED,   /* an incoming guest was lost before COMMIT; detail says why */
};

struct migration_notice {
    enum migration_notice_kind kind;
    unsigned value;
    uint64_t real_ns;
    bool wants_exit; /* DISCARDED: nobody will try again, the process has no purpose */
    const char *detail;
};

typedef void (*migration_notice_fn)(void *opaque, const struct migration_notice *notice);

struct migration *migration_new(struct machine *machine, GMainContext *context);
/* Blocks while the engines end their threads. Before machine_free. */
void migration_free(struct migration *migration);
/* A guest that was taken in post-copy runs here, and not all of its memory has come: its vCPUs may
 * wait for pages, and cannot be stopped while they do. Then the process ends without
 * migration_free.
 */
bool migration_lacks_memory(struct migration *migration);
/* Why the guest could be lost if this process ended now, though it does not run here: it is on its
 * way, or lacks memory that is only here. Static text; NULL: it could not. */
const char *migration_needs_us(struct migration *migration);
void migration_add_listener(struct migration *migration, migration_notice_fn fn, void *opaque);

const struct gw_migrate_params *migration_params(const struct migration *migration);
/* Also takes effect on a migration under way (budgets only). */
void migration_set_params(struct migration *migration, const struct gw_migrate_params *params);

bool migration_start(struct migration *migration, const char *uri, GError **error);
/* is_live: the guest runs on meanwhile, where the host can do that. */
bool migration_save(struct migration *migration, const char *uri, bool is_live, GError **error);
/* is_lazy: a snapshot's guest runs at once, its pages come when they are needed. exits_on_error:
 * see MIGRATION_NOTICE_DISCARDED. The machine must wait for a guest (MACHINE_OP_AWAIT). */
bool migration_listen(struct migration *migration, const char *uri, bool is_lazy,
                      bool exits_on_error, GError **error);
bool migration_cancel(struct migration *migration, GError **error);
/* The outgoing migration: false with error where there is none. */
bool migration_start_postcopy(struct migration *migration, GError **error);
bool migration_continue(struct migration *migration, GError **error);
/* Of the migration under way, at the side that this machine is: gives up the links of a post-copy;
 * replaces lost ones, at uri from now on. At a destination, where uri is where it listens, it must
 * be given; else NULL means where they were. */
bool migration_pause(struct migration *migration, GError **error);
bool migration_recover(struct migration *migration, const char *uri, GError **error);
bool migration_resolve(struct migration *migration, enum gw_resolution resolution, GError **error);

/* Forecasts a migration to uri; a plan under way is ended, and so is one when a migration begins.
 */
bool migration_plan(struct migration *migration, const char *uri,
                    const struct gw_plan_params *params, GError **error);
/* The newest plan, or NULL. */
struct gw_plan *migration_plan_now(struct migration *migration);

/* The newest of each kind, or NULL. Valid until the next call into this room. */
struct gw_source *migration_source(struct migration *migration);
struct gw_destination *migration_destination(struct migration *migration);
/* The outgoing one is a snapshot. */
bool migration_is_snapshot(const struct migration *migration);
/* A migration is under way from here and has not ended. */
bool migration_is_active(struct migration *migration);

#endif
