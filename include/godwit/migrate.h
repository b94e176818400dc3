/* SPDX-License-Identifier: MIT */
/*
 * The migration engine: a source that sends a running machine and a destination that receives one.
 *
 * An embedder describes its machine by a struct gw_vm: its memory, its device-state registry, its
 * properties, and a handful of callbacks. The engine does the rest on its own threads and calls
 * the callbacks from its control thread, one at a time. Callbacks may block up to the deadline
 * they are given; they never call back into the engine (except to note phases in the ledger).
 *
 * Ownership (docs/handover.md): the source's guest may run until COMMIT is sent; the destination's
 * only after COMMIT was read. Whoever may run is told by resume_at_source / run_at_destination.
 *
 * Threads: every function below may be called from any thread and none blocks on the peer, the
 * guest or a disk, except the two _free functions (they end the engine's threads) and _wait.
 *
 * Owner of this header: the migrate room.
 */
#ifndef GODWIT_MIGRATE_H
#define GODWIT_MIGRATE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "godwit/error.h"
#include "godwit/memory.h"
#include "godwit/state.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gw_channel;
struct gw_destination;
struct gw_fault_wait;
struct gw_ledger;
struct gw_plan;
struct gw_source;
struct gw_state_registry;

/* ---- Failures -------------------------------------------------------------------------------- */

enum gw_side {
    GW_SIDE_NONE = 0,
    GW_SIDE_SOURCE = 1,
    GW_SIDE_DESTINATION = 2,
};
const char *gw_side_name(enum gw_side side); /* "source", "destination", "none" */

/* Why a migration ended badly: the side that failed first, and what it said. */
struct gw_migrate_failure {
    enum gw_side side; /* GW_SIDE_NONE: nothing failed */
    int code;          /* enum gw_error_code */
    char reason[2048]; /* sentences, separated by newlines when there are several findings */
};

/* ---- The ledger ------------------------------------------------------------------------------ */

#define GW_LEDGER_NAME_SIZE 64

/* One phase. Phases of depth 0 follow each other without gap from the first to the last instant of
 * the blackout, so that their lengths sum to it exactly. Phases of depth 1 are parts (a disk, a
 * device) of the phase of depth 0 before them and may overlap each other. */
struct gw_ledger_phase {
    char name[GW_LEDGER_NAME_SIZE];
    enum gw_side side; /* where it happened; NONE: between the hosts */
    uint32_t depth;    /* 0 or 1 */
    int64_t start_ns;  /* since the start of the attempt's blackout */
    uint64_t length_ns;
};

/* One blackout: the guest was stopped, and either went on at the source or at the destination. */
struct gw_ledger_attempt {
    uint64_t start_real_ns;  /* CLOCK_REALTIME at the source */
    uint64_t blackout_ns;    /* sum of the phases of depth 0 */
    uint64_t predicted_ns;   /* what the source had predicted */
    uint64_t clock_error_ns; /* bound on the alignment of the hosts' clocks; 0: one clock */
    bool is_handed_over;     /* the guest went on at the destination */
    char reason[256];        /* why not, otherwise empty */
    const struct gw_ledger_phase *phases;
    uint32_t n_phases;
};

/* A ledger handed out by gw_source_get_ledger or gw_destination_get_ledger is a copy: plain data,
 * owned by the caller. */
void gw_ledger_free(struct gw_ledger *ledger);
uint32_t gw_ledger_n_attempts(const struct gw_ledger *ledger);
/* Valid as long as the ledger; the last attempt is the newest. NULL when out of range. */
const struct gw_ledger_attempt *gw_ledger_attempt_at(const struct gw_ledger *ledger,
                                                     uint32_t index);
/* For callbacks: notes a part of the phase in progress. Times: CLOCK_MONOTONIC ns. The name is
 * copied (and cut). Any thread. Ignored when no blackout is being booked. */
void gw_ledger_note(struct gw_ledger *ledger, const char *name, uint64_t start_ns,
                    uint64_t length_ns);

/* For run_at_destination: so many calls of gw_destination_mark will follow within moments, and the
 * ledger that the source is sent waits for them (at most 20 ms). */
void gw_ledger_expect_marks(struct gw_ledger *ledger, uint32_t n_marks);

/* ---- The embedder's machine ------------------------------------------------------------------ */

/* Time facts handed to the embedder on the destination before devices are committed. */
struct gw_clock_facts {
    int64_t source_minus_local_ns; /* CLOCK_REALTIME of the source minus ours, measured over the
                                      return path; 0 when unknown (snapshot) */
    uint64_t error_ns;             /* bound on it; UINT64_MAX when unknown */
    uint64_t source_stop_real_ns;  /* source's CLOCK_REALTIME when its state was saved */
};

/* What the embedder knows about its own speed (from earlier stops, say). Zero: unknown. */
struct gw_vm_forecast {
    uint64_t stop_ns;
    uint64_t flush_ns;
    uint64_t resume_ns;
};

/* What a vCPU has done since it exists. */
struct gw_vcpu_counters {
    /* Pages that it was the first to write since the dirty log was last collected, while one runs.
     * is_dirtied_known false: nobody knows which vCPU writes, and all are taken to write alike. */
    uint64_t dirtied_pages;
    bool is_dirtied_known;
    uint64_t throttled_ns; /* for which set_throttle has kept it from running */
};

/* Takes frames that came for a guest which is not here any more. */
struct gw_packet_sink {
    /* A frame for the network device whose state is registered as `device`: a virtio network header
     * (12 bytes, virtio 1.2 section 5.1.6) and what follows it, 65565 bytes at most in all; copied.
     * is_last: none of this device follows; n_bytes may then be 0. False: it was not taken, because
     * too much waits for the link. Any thread; never blocks; calls nothing of the embedder's. */
    bool (*packet)(void *opaque, const char *device, const void *frame, uint32_t n_bytes,
                   bool is_last);
    void *opaque;
};

/* Everything is borrowed and must outlive the engine object. Callbacks are called on the engine's
 * control thread. Those that return bool fill error on false. A callback that is NULL is skipped.
 */
struct gw_vm {
    struct gw_memory *memory;
    struct gw_state_registry *registry;
    void *opaque;

    /* -- source -- */
    /* Stops vCPUs, then devices. When it returns true nothing writes guest memory or device state
     * until resume_at_source. deadline: CLOCK_MONOTONIC ns. On false the machine runs again as
     * before (or stays paused if it was). */
    bool (*stop)(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error);
    /* Makes disks durable while stopped. Writes no guest memory. On false: still stopped, and
     * resume_at_source follows. */
    bool (*flush)(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error);
    /* The handover failed, was cancelled, or is put off: go on as before stop(). */
    void (*resume_at_source)(void *opaque);
    /* The destination runs the guest. It never runs here again. */
    void (*released)(void *opaque);
    /* Optional: called at any time before the blackout. */
    void (*forecast)(void *opaque, struct gw_vm_forecast *forecast);

    /* -- destination -- */
    /* All state is decoded and checked; about to commit it to the objects. It may come again for a
     * later attempt of the same migration. */
    bool (*before_load)(void *opaque, const struct gw_clock_facts *facts, GError **error);
    /* State is in the objects; make everything ready so that run is short. Nothing runs yet. It
     * may come again for a later attempt. */
    bool (*after_load)(void *opaque, GError **error);
    /* COMMIT was read: run the guest now (or hold it paused if was_running is false). Comes at
     * most once in the life of a gw_destination. */
    void (*run_at_destination)(void *opaque, bool was_running, struct gw_ledger *ledger);
    /* Before COMMIT it failed: whatever was loaded is worthless. Another migration may follow. */
    void (*discarded)(void *opaque, const GError *why);

    /* Is the guest running (not paused by its user)? Source only; asked just before stop. */
    bool (*is_running)(void *opaque);

    /* -- since 1.1 -- */
    /* A snapshot that is restored lazily turned out damaged or unreadable while its guest runs.
     * Whoever accesses a page that is lost waits for ever: nobody is ever given wrong bytes. So no
     * vCPU can be waited for; tell the user and end the process. Any thread; once. NULL: the
     * process is aborted. */
    void (*memory_lost)(void *opaque, const char *reason);
    /* -- packets; since 1.0; both sides may have them NULL -- */
    /* Source, after COMMIT was posted: what waits and what comes for the guest goes to the sink
     * (copied), in order for each device, until each has said its last: when the network delivers
     * elsewhere. Returns how many devices will do so. A NULL sink ends it: whoever has not said the
     * last does so now, and the sink is not called any more when it returns. Then resume_at_source
     * may follow, and the guest must find the frames that were handed to the sink; or released. */
    uint32_t (*forward_packets)(void *opaque, const struct gw_packet_sink *sink);
    /* Destination, just before run_at_destination: packets will follow. What the guest's own port
     * receives from now on comes after them. */
    void (*expect_packets)(void *opaque);
    /* Destination, after run_at_destination: a frame that the source forwarded, in the form above.
     * PEER: its length is bounded, what is in it is not checked. n_bytes may be 0 in the last. */
    void (*packet)(void *opaque, const char *device, const void *frame, uint32_t n_bytes,
                   bool is_last);
    /* -- throttling; since 1.1; source; n_vcpus 0 or a NULL: nobody is slowed -- */
    uint32_t n_vcpus;
    void (*vcpu_counters)(void *opaque, uint32_t vcpu, struct gw_vcpu_counters *counters);
    /* Keeps a vCPU from running for a share of the time (0: not at all), in slices so short that
     * the guest hardly notices one, and never longer than stop() comes. All are at 0 before the
     * engine is used, and the engine sets them back to 0 when the guest stands still for the
     * switchover and when the migration ends. Must not block. */
    void (*set_throttle)(void *opaque, uint32_t vcpu, uint32_t permille);
};

/* ---- Parameters and events ------------------------------------------------------------------- */

enum gw_channel_role_hint {
    GW_ROLE_HINT_UNKNOWN = 0, /* destination: the channel has not yet said what it is */
    GW_ROLE_HINT_CONTROL,
    GW_ROLE_HINT_PAGE,
    GW_ROLE_HINT_URGENT,
    GW_ROLE_HINT_PROBE, /* since 1.1: measures the link for a plan */
};

/* How guest RAM gets to the destination. */
enum gw_ram_way {
    GW_RAM_AUTO = 0, /* shared where it can be, else copied */
    GW_RAM_COPY,     /* pages are sent; a destination: nothing else is taken */
    GW_RAM_SHARE,    /* a destination under the same kernel maps the source's memory; where it
                        cannot, the migration is refused before anything is stopped. A
                        destination: as AUTO */
};

/* Whether pages are encoded where both ends can: by themselves while it makes the migration faster
 * (link, encoder and pages are measured all the time), never, or always. */
enum gw_encode_policy {
    GW_ENCODE_AUTO = 0,
    GW_ENCODE_OFF,
    GW_ENCODE_ON,
};

/* When the guest moves: after its memory (pre-copy), or before the rest of it (post-copy). */
enum gw_migrate_mode {
    GW_MODE_AUTO = 0, /* pre-copy; when it does not converge, or converges so slowly that the
                         migration would take a fifth longer than with what is left sent once, and
                         max_time_ns is 0, post-copy, where both sides can and nobody forbids it */
    GW_MODE_PRECOPY,
    GW_MODE_POSTCOPY, /* one round, or as much of it as helps, then post-copy; refused before the
                         first page where a side cannot */
};

/* What happens when max_time_ns is spent before the switchover. */
enum gw_at_max_time {
    GW_AT_MAX_TIME_CANCEL = 0,
    GW_AT_MAX_TIME_POSTCOPY,      /* where it is not possible: cancel */
    GW_AT_MAX_TIME_STOP_AND_COPY, /* switches over whatever the blackout will be */
};

/* Budgets and settings; zero-initialised members mean the documented default. */
struct gw_migrate_params {
    uint64_t max_blackout_ns;     /* default 300 ms */
    uint64_t max_time_ns;         /* 0: unlimited; when it is spent: see at_max_time */
    uint64_t max_bandwidth_bytes; /* per second, all channels together; 0: unlimited */
    uint32_t channels;            /* page channels, at most 64; 0, the default: as many as the cores
                                     of both hosts carry, fewer while they carry as much. A
                                     destination's number bounds what it proposes for that */
    uint64_t silence_limit_ns;    /* default 10 s; also bounds connecting and the handshake */
    /* Optional: told of each channel as soon as it is open; may stack a filter on it (fault, trace)
     * and returns the channel to use. It takes over `channel`. NULL refuses it. */
    struct gw_channel *(*wrap)(void *opaque, struct gw_channel *channel,
                               enum gw_channel_role_hint role, uint32_t index);
    void *wrap_opaque;
    /* Sharing needs a UNIX socket without a relay, and blocks that are each a memfd sealed against
     * shrinking, growing and further seals. AUTO shares only with processes of the same user. */
    enum gw_ram_way ram;
    /* -- since 1.1 -- */
    /* gw_snapshot_start: the guest runs on while its memory is written, and stops only for its
     * device state. Where the host cannot do that it stands still; the status has a note then. */
    bool is_live;
    /* gw_destination_start, of a snapshot: the guest runs at once, and its pages come from the file
     * when they are needed; a reader in the background brings the rest. Where that is not possible
     * all is read first; the status has a note then. See gw_vm.memory_lost. */
    bool is_lazy;
    enum gw_encode_policy zstd;  /* source: compress pages */
    enum gw_encode_policy delta; /* source: send what changed in a page, from the second round on */
    uint64_t delta_cache_bytes;  /* source: memory for what was sent, taken as it is used; default
                                    GW_DEFAULT_DELTA_CACHE_BYTES */
    enum gw_migrate_mode mode;   /* source */
    enum gw_at_max_time at_max_time; /* source */
    /* Either side: never post-copy, in which the loss of either host, or of the link for good, is
     * the loss of the guest. */
    bool forbids_postcopy;
    /* Source: when the budget is met the guest runs on, and rounds go on, until
     * gw_source_continue. */
    bool waits_before_switchover;
    /* How long a pre-copy whose link broke is tried again before it fails, at the source; how long
     * a destination keeps what it has got for it. 0: not at all. Breaks without an acknowledged
     * round in between count as one. A post-copy's is tried as long as the engine lives. */
    uint64_t reconnect_limit_ns;
    /* Source: how much vCPUs that dirty memory faster than the link carries it may be slowed, as a
     * share of their time, at most GW_MAX_SLOWDOWN_PERMILLE; 0, the default: not at all. Only those
     * are slowed, only while rounds do not converge otherwise, and no more than it takes. */
    uint32_t max_slowdown_permille;
};
#define GW_MAX_SLOWDOWN_PERMILLE     990u
#define GW_DEFAULT_DELTA_CACHE_BYTES (UINT64_C(48) << 20)
#define GW_DEFAULT_MAX_BLACKOUT_NS   UINT64_C(300000000)
#define GW_DEFAULT_SILENCE_LIMIT_NS  UINT64_C(10000000000)

enum gw_migrate_event {
    GW_MIGRATE_EVENT_STATE = 1, /* value: the new state (gw_source_state / gw_destination_state) */
    GW_MIGRATE_EVENT_ROUND,     /* value: the round that begins, from 1 */
};
/* Called on the engine's control thread, never with a lock held. Must not block and must not call
 * _free or _wait; every other function is allowed. */
struct gw_migrate_observer {
    void (*event)(void *opaque, enum gw_migrate_event event, uint32_t value);
    void *opaque;
};

/* A value that is not known yet, and between which two it will most likely be. UINT64_MAX in
 * expected or high: it may never come to an end. */
struct gw_range {
    uint64_t expected, low, high;
};

/* ---- Source ---------------------------------------------------------------------------------- */

/* The states of docs/handover.md. */
enum gw_source_state {
    GW_SOURCE_CONNECTING = 1, /* channels are being opened */
    GW_SOURCE_HANDSHAKE,      /* schemas and RAM maps are compared */
    GW_SOURCE_ROUNDS,         /* guest runs, pages are sent */
    GW_SOURCE_BLACKOUT,       /* guest stopped here, COMMIT not sent */
    GW_SOURCE_COMMITTED,      /* COMMIT sent, waiting for RUNNING */
    GW_SOURCE_IN_DOUBT,       /* COMMIT sent and the link lost: guest stopped, asking */
    GW_SOURCE_SAVING,         /* snapshot: everything is being written; the guest is stopped,
                                 when live only for its device state */
    GW_SOURCE_COMPLETED,      /* final: the destination runs the guest (or an operator said so) */
    GW_SOURCE_SAVED,          /* final: the snapshot is whole; the guest goes on here */
    GW_SOURCE_FAILED,         /* final: the guest goes on here */
    GW_SOURCE_CANCELLED,      /* final: the guest goes on here */
    /* -- since 1.1 -- */
    GW_SOURCE_RECONNECTING, /* the link broke before the blackout: the guest runs here, what was
                               acknowledged stays */
    GW_SOURCE_POSTCOPY,     /* the destination runs the guest; we have pages that it needs */
    GW_SOURCE_PAUSED,       /* the same without a link; reconnecting */
    GW_SOURCE_LOST,         /* final: the destination ran the guest and ended, or was given up,
                               before it had all pages */
    GW_SOURCE_N_STATES,
};
const char *gw_source_state_name(enum gw_source_state state); /* "in-doubt" */
bool gw_source_state_is_final(enum gw_source_state state);

/* What an encoding has done. */
struct gw_encode_status {
    uint64_t pages;     /* sent in it */
    uint64_t in_bytes;  /* of these pages */
    uint64_t out_bytes; /* what they became */
    uint64_t work_ns;   /* of all threads, tries in vain included */
};

/* A plain snapshot; all times in ns, all rates in bytes per second. */
struct gw_source_status {
    enum gw_source_state state;
    uint8_t migration_id[16];
    uint32_t n_channels;      /* page channels open; 0: pages travel on the control channel, because
                                 there can be only one */
    uint64_t round;           /* from 1; 0 before the first */
    uint64_t ram_bytes;       /* size of guest memory */
    uint64_t bytes_sent;      /* everything, as counted before encoding to the link */
    uint64_t page_bytes_sent; /* page channels only */
    uint64_t pages_plain;     /* not zero, encoded ones included */
    uint64_t pages_zero;
    uint64_t pages_skipped;   /* never allocated: declared, not sent */
    uint64_t pages_resent;    /* asked for again because they arrived damaged */
    uint64_t remaining_bytes; /* of this round, and dirtied since as far as known */
    uint64_t dirty_bytes_per_s;
    uint64_t bandwidth_bytes_per_s; /* acknowledged by the destination; in the first round, when
                                       nothing is yet: sent. 0: not known */
    uint64_t predicted_blackout_ns; /* if it switched over now; 0: not yet known */
    uint64_t expected_left_ns;      /* UINT64_MAX: it does not converge or is not known */
    bool is_converging;             /* false: the guest dirties faster than the link drains */
    uint64_t setup_ns;              /* from start to the first page */
    uint64_t total_ns;              /* from start to now or to the end */
    uint64_t blackout_ns;           /* of the handover that succeeded, on the aligned clocks */
    uint32_t failed_attempts;       /* switchovers that were put off */
    struct gw_migrate_failure failure;
    uint64_t max_blackout_ns, max_time_ns, max_bandwidth_bytes; /* as in force */
    bool is_ram_shared; /* the destination maps our memory: no page is sent */
    /* -- since 1.1 -- */
    char note[256]; /* a sentence about what was done otherwise than asked; or empty */
    bool is_live;   /* a snapshot whose guest runs on */
    uint64_t
        chunks_caught; /* live: MiB of memory that had to be kept before the guest wrote to it */
    uint64_t packets_forwarded;          /* frames for the guest that were sent after it */
    uint64_t packets_dropped;            /* because too many waited for the link */
    struct gw_encode_status zstd, delta; /* parts of pages_plain */
    uint64_t delta_cache_bytes;          /* limit of the cache; 0: no deltas were made */
    uint64_t delta_misses;               /* pages tried of which nothing was kept */
    uint64_t delta_overflows;            /* deltas that were not small enough */
    uint64_t cpu_ns;            /* that the engine's threads have spent (not the guest's) */
    uint64_t peer_cpu_ns;       /* the same of the destination; 0 until COMPLETED or if not told */
    uint32_t n_active_channels; /* page channels that are used now; the last round uses all */
    bool is_postcopy;           /* the guest moved, or moves, before all of its memory */
    bool is_waiting_before_switchover; /* for gw_source_continue */
    uint64_t pages_requested;          /* post-copy: that the destination waited for */
    uint64_t pages_left;     /* post-copy: that have not been sent since the guest moved */
    uint32_t reconnects;     /* times that a lost link was replaced */
    char postcopy_lack[128]; /* why post-copy is not possible; empty: it is */
    /* Throttling: gw_source_get_vcpus has the single vCPUs. */
    uint32_t max_slowdown_permille;     /* as in force */
    uint32_t n_vcpus;                   /* 0: the machine cannot be throttled */
    uint32_t n_vcpus_throttled;         /* now */
    uint32_t throttle_permille;         /* now, of the one that is slowed most */
    uint32_t throttled_rounds;          /* in which somebody was */
    uint64_t throttled_ns;              /* of all vCPUs: the work that it has cost the guest */
    uint64_t left_low_ns, left_high_ns; /* between which expected_left_ns will most likely be */
    /* The first forecast that knew link and guest, to be held against total_ns and blackout_ns:
     * made before this round (0: there was none). */
    uint32_t forecast_round;
    struct gw_range forecast_total_ns, forecast_blackout_ns;
    /* Post-copy: requests for pages that were answered, and how long that took, from having read
     * one to having written its pages; upper bounds of buckets. */
    uint64_t requests_served, serve_p50_ns, serve_p99_ns, serve_max_ns;
    /* Post-copy, of gw_destination_status, when the destination had all pages:
     * gw_source_get_fault_waits has the single threads. has_fault_waits false: it has not told. */
    bool has_fault_waits;
    uint64_t faults, fault_p50_ns, fault_p99_ns, fault_max_ns;
    /* Not sent to their end: the guest could be stopped as it was, or what they sent would have
     * come again, so that the rest of them followed by post-copy. */
    uint32_t rounds_cut;
};

/* A vCPU, as far as throttling goes. */
struct gw_vcpu_status {
    uint64_t dirty_bytes_per_s; /* at the last measurement */
    uint32_t throttle_permille; /* now */
    uint32_t most_permille;     /* in this migration */
    uint64_t throttled_ns;      /* in this migration */
};

/* Starts a migration of vm to uri (docs: channel.h lists the schemes) on threads of its own. vm and
 * what it points to are borrowed until _free; vm itself, params and observer are copied. observer
 * may be NULL. NULL with error only for arguments that can never work. One migration of a vm at a
 * time; the next may start as soon as the last one's state is final, also before it is freed. */
struct gw_source *gw_source_start(const struct gw_vm *vm, const char *uri,
                                  const struct gw_migrate_params *params,
                                  const struct gw_migrate_observer *observer, GError **error);
/* Writes a snapshot of vm (stopped meanwhile, unless params->is_live) to a one-way uri (file:,
 * exec:, fd:). The same object and functions; ends in SAVED, FAILED or CANCELLED. */
struct gw_source *gw_snapshot_start(const struct gw_vm *vm, const char *uri,
                                    const struct gw_migrate_params *params,
                                    const struct gw_migrate_observer *observer, GError **error);
/* Asks to give up. Has its effect before COMMIT, none later. False when it is already too late. */
bool gw_source_cancel(struct gw_source *source);
void gw_source_get_status(struct gw_source *source, struct gw_source_status *status);
/* Fills in the first n vCPUs; returns how many there are (0: the machine cannot be throttled).
 * Since 1.1. */
uint32_t gw_source_get_vcpus(struct gw_source *source, struct gw_vcpu_status *vcpus, uint32_t n);
/* A copy of the ledger so far; the caller frees it. */
struct gw_ledger *gw_source_get_ledger(struct gw_source *source);
/* New budgets for a migration under way: blackout, time, bandwidth and slowdown are taken, the rest
 * is ignored. */
void gw_source_set_budgets(struct gw_source *source, const struct gw_migrate_params *params);

/* ---- since 1.1 ---- */
/* Switches to post-copy as soon as the round in flight is acknowledged, whatever the mode. False
 * with error: STATE (not in the rounds), UNSUPPORTED (a side cannot or forbids it; the sentence
 * says which). */
bool gw_source_start_postcopy(struct gw_source *source, GError **error);
/* Lets a migration that waits before its switchover go on. STATE: it does not wait. */
bool gw_source_continue(struct gw_source *source, GError **error);
/* Post-copy: gives up the links, until gw_source_recover. STATE: no post-copy is under way. */
bool gw_source_pause(struct gw_source *source, GError **error);
/* Tries at once to replace a lost link, at uri from now on (NULL: as before). STATE: no link was
 * lost. INVALID: the uri is none that can be connected to again. */
bool gw_source_recover(struct gw_source *source, const char *uri, GError **error);
/* Post-copy: as gw_destination_get_fault_waits, when the destination has told (has_fault_waits). */
uint32_t gw_source_get_fault_waits(struct gw_source *source, struct gw_fault_wait *waits,
                                   uint32_t n);

enum gw_resolution {
    GW_RESOLVE_RUN_HERE = 1, /* the operator vouches that the destination does not and never will */
    GW_RESOLVE_RELEASE,      /* the operator vouches that the destination runs the guest */
};
/* Ends IN DOUBT by an operator's word; RELEASE also ends PAUSED, and with it what the destination
 * still lacks of its guest. False with error in any other state. */
bool gw_source_resolve(struct gw_source *source, enum gw_resolution resolution, GError **error);
/* Waits until the state is final (true) or the deadline (CLOCK_MONOTONIC ns) has passed (false).
 * Not from a callback. */
bool gw_source_wait(struct gw_source *source, uint64_t deadline_ns);
/* Cancels if it still can, ends the threads, frees. In COMMITTED or IN DOUBT the guest stays
 * stopped and nobody asks any more: the embedder must not run it. Not from a callback. */
void gw_source_free(struct gw_source *source);

/* ---- Destination ----------------------------------------------------------------------------- */

enum gw_destination_state {
    GW_DESTINATION_LISTENING = 1, /* nobody came yet */
    GW_DESTINATION_HANDSHAKE,     /* schemas and RAM maps are compared */
    GW_DESTINATION_RECEIVING,     /* pages and device state arrive */
    GW_DESTINATION_LOADED,        /* everything is in place; waiting for COMMIT */
    GW_DESTINATION_RUNNING,       /* final: the guest was given to the embedder */
    GW_DESTINATION_DISOWNED,      /* this migration's guest will never run here; another may come */
    /* -- since 1.1 -- */
    GW_DESTINATION_WAITING,  /* the link broke before COMMIT: what has come is kept for a while */
    GW_DESTINATION_POSTCOPY, /* the guest was given to the embedder; pages still come */
    GW_DESTINATION_PAUSED,   /* the same without a link: who needs a missing page waits */
    GW_DESTINATION_N_STATES,
};
const char *gw_destination_state_name(enum gw_destination_state state);

struct gw_destination_status {
    enum gw_destination_state state;
    uint8_t migration_id[16]; /* of the current or last migration */
    uint32_t n_channels;
    uint64_t round;
    uint64_t bytes_received;
    uint64_t pages_plain;
    uint64_t pages_zero;
    uint64_t pages_suspect; /* now */
    uint64_t pages_damaged; /* copies that arrived damaged, in total */
    uint64_t total_ns;      /* from the first channel to now or to the end */
    uint64_t blackout_ns;   /* when RUNNING; 0 when unknown (snapshot) */
    uint32_t migrations;    /* how many came so far */
    bool is_source_told;    /* the source has confirmed that it knows that we run */
    bool was_running;       /* when RUNNING: the guest runs (true) or was handed over paused */
    struct gw_migrate_failure failure; /* of the current or last migration */
    bool is_ram_shared;                /* the memory is the source's own */
    /* -- since 1.1 -- */
    char note[256];         /* a sentence about what was done otherwise than asked; or empty */
    uint64_t missing_bytes; /* lazy: of the file, still to be read while the guest runs */
    uint64_t cpu_ns;        /* that the engine's threads have spent on it */
    bool is_postcopy;       /* the guest ran before all of its memory was there */
    uint64_t pages_missing; /* post-copy: now */
    uint32_t reconnects;    /* times that a lost link was replaced */
    uint64_t faults;        /* post-copy: accesses that had to wait for a page */
    uint64_t fault_p50_ns, fault_p99_ns, fault_max_ns; /* how long; upper bounds of buckets */
};

/* How long one thread (a vCPU, mostly) has waited for missing pages. */
struct gw_fault_wait {
    char name[16]; /* of the thread: printable ASCII */
    uint64_t faults;
    uint64_t stall_ns; /* in total */
    uint64_t p50_ns, p99_ns, max_ns;
};

/* Listens at uri for a source (tcp:, unix:), or reads a snapshot from it (file:, exec:, fd:), on
 * threads of its own. It goes on listening after RUNNING or after a failure, to tell a source in
 * doubt what became of its guest; keep it alive as long as the process can. After a failure it
 * takes another migration. Failure to listen is reported here. */
struct gw_destination *gw_destination_start(const struct gw_vm *vm, const char *uri,
                                            const struct gw_migrate_params *params,
                                            const struct gw_migrate_observer *observer,
                                            GError **error);
/* Where it listens, with the port filled in ("tcp:127.0.0.1:34567"); owned by the destination. */
const char *gw_destination_uri(const struct gw_destination *destination);
void gw_destination_get_status(struct gw_destination *destination,
                               struct gw_destination_status *status);
struct gw_ledger *gw_destination_get_ledger(struct gw_destination *destination);
/* Gives up the migration under way (before COMMIT was read). False when there is none or too late.
 */
bool gw_destination_cancel(struct gw_destination *destination);
/* ---- since 1.1 ---- */
/* Post-copy: fills waits with what each thread has waited, at most n; returns how many. It stays as
 * the source was told when nothing was missing any more. */
uint32_t gw_destination_get_fault_waits(struct gw_destination *destination,
                                        struct gw_fault_wait *waits, uint32_t n);
/* Post-copy: gives up the links, as if they had broken: the source will bring new ones. STATE: none
 * is under way. */
bool gw_destination_pause(struct gw_destination *destination, GError **error);
/* Post-copy that lost its link: listens at uri, instead of where it did, for the source to come.
 * STATE: no link was lost. Others: as gw_destination_start. */
bool gw_destination_recover(struct gw_destination *destination, const char *uri, GError **error);
/* Notes something that happened after the guest ran ("first packet out"), at a CLOCK_MONOTONIC ns.
 * It is kept at depth 1 with the last attempt of this side's ledger. */
void gw_destination_mark(struct gw_destination *destination, const char *name, uint64_t at_ns);
/* Waits until RUNNING or DISOWNED (true) or the deadline has passed (false). Not from a callback.
 */
bool gw_destination_wait(struct gw_destination *destination, uint64_t deadline_ns);
/* Before COMMIT was read the guest never runs. Ends the threads; frees. Not from a callback. A
 * guest that was restored lazily has to stand still by now, unless nothing of it is missing any
 * more. */
void gw_destination_free(struct gw_destination *destination);

/* ---- Plan (since 1.1) ------------------------------------------------------------------------ */

enum gw_plan_mode {
    GW_PLAN_PRECOPY = 1, /* rounds until little is left */
    GW_PLAN_THROTTLE,    /* the same, with vCPUs slowed down that dirty too fast */
    GW_PLAN_POSTCOPY,    /* a round, the guest goes over, and its pages follow it */
    GW_PLAN_N_MODES,
};
const char *gw_plan_mode_name(enum gw_plan_mode mode); /* "precopy", "throttle", "postcopy" */

/* What one way of moving would be like. */
struct gw_plan_forecast {
    enum gw_plan_mode mode;
    bool is_possible; /* both ends can do it, and it is allowed */
    bool is_meeting;  /* is expected to keep all budgets */
    uint32_t rounds;
    struct gw_range total_ns;
    struct gw_range n_bytes; /* on the link */
    struct gw_range blackout_ns;
    struct gw_range slowdown_permille; /* of the guest, while it moves */
    /* Where a budget is not met: what would do, 0: no such thing, or not needed. One alone is
     * enough, the others left as they are, except where both a blackout and a time are given. */
    uint64_t needs_blackout_ns, needs_time_ns, needs_bandwidth_bytes;
    uint32_t needs_slowdown_permille;
    char why[256]; /* one sentence: why not possible, or what is not met and by how much */
};

struct gw_plan_params {
    struct gw_migrate_params migrate; /* budgets, and how it would be moved */
    uint32_t max_slowdown_permille;   /* budget: 0: the guest must not be slowed down */
    uint64_t sample_ns;               /* how long the guest is watched; default 3 s */
};
#define GW_DEFAULT_SAMPLE_NS UINT64_C(3000000000)

enum gw_plan_state {
    GW_PLAN_SAMPLING = 1, /* the guest is watched, the link is measured */
    GW_PLAN_DONE,         /* final: there is a forecast, with or without the link's measure */
    GW_PLAN_FAILED,       /* final */
    GW_PLAN_CANCELLED,    /* final */
    GW_PLAN_N_STATES,
};
const char *gw_plan_state_name(enum gw_plan_state state); /* "sampling" */

#define GW_PLAN_MAX_FINDINGS 2048

/* A plain snapshot. */
struct gw_plan_status {
    enum gw_plan_state state;
    uint64_t elapsed_ns, sample_ns;    /* of the watching */
    struct gw_migrate_failure failure; /* FAILED, CANCELLED */

    /* the guest */
    uint64_t ram_bytes;
    uint64_t used_bytes;                /* ever touched */
    uint64_t zero_bytes;                /* of them, estimated: only zeroes */
    uint64_t dirty_bytes_per_s;         /* distinct pages in a second */
    uint64_t hot_bytes;                 /* written again and again */
    uint64_t period_ns, quiet_permille; /* its rhythm, and how much of its mean rate is dirtied in
                                           the quiet part; 0: none was seen */
    uint64_t sampling_cost_permille;    /* estimate of what watching took from it */

    /* the link, and the destination's opinion */
    bool is_link_measured;
    struct gw_range bandwidth_bytes_per_s; /* over one channel */
    uint64_t round_trip_ns;
    uint64_t probe_bytes;
    char link_note[256]; /* why it was not measured, or what to know about it; or empty */
    bool has_verdict;    /* the destination has compared its machine with ours */
    bool is_accepted;
    char findings[GW_PLAN_MAX_FINDINGS]; /* its sentences, separated by newlines */

    /* the forecast; DONE, when the link was measured or a bandwidth is given as budget */
    bool has_forecast;
    struct gw_plan_forecast
        modes[GW_PLAN_N_MODES]; /* by enum gw_plan_mode; the first is not used */
    enum gw_plan_mode chosen;   /* what `auto` would do */
    bool is_meeting;            /* and it is expected to keep all budgets */
    char reason[512];           /* why; or which budget would do */
};

/* Watches the running guest and asks the destination at uri, which stays as it is; on threads of
 * its own. uri NULL: the link is not asked about. vm and what it points to are borrowed until
 * _free; vm itself and params are copied. The dirty log has one user: NULL with error STATE while a
 * migration runs; and a migration may begin at any time only after _cancel and its end, or _free.
 */
struct gw_plan *gw_plan_start(const struct gw_vm *vm, const char *uri,
                              const struct gw_plan_params *params, GError **error);
void gw_plan_get_status(struct gw_plan *plan, struct gw_plan_status *status);
/* Ends it early: CANCELLED follows within milliseconds. Nothing happens when it is final. */
void gw_plan_cancel(struct gw_plan *plan);
/* Waits until the state is final (true) or the deadline (CLOCK_MONOTONIC ns) has passed (false). */
bool gw_plan_wait(struct gw_plan *plan, uint64_t deadline_ns);
/* Cancels it, ends its threads, frees. */
void gw_plan_free(struct gw_plan *plan);

#ifdef __cplusplus
}
#endif
#endif
