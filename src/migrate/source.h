/* SPDX-License-Identifier: MIT */
/*
 * Inside of the source engine; shared by source*.c only.
 *
 * Model: the control thread takes mails, turns them into events of the handover table
 * (source_dispatch), and performs the action that the table says. Time is an input only in
 * source_tick. The guest is stopped and resumed only through source_stop_guest and
 * source_resume_guest.
 *
 * Locks: source.lock is a leaf: nothing is called with it held.
 */
#ifndef MIGRATE_SOURCE_H
#define MIGRATE_SOURCE_H

#include "base/histogram.h"
#include "migrate/engine.h"
#include "migrate/handover.h"
#include "migrate/lanes.h"
#include "migrate/ledger.h"
#include "migrate/link.h"
#include "migrate/predict.h"
#include "migrate/push.h"
#include "migrate/share.h"
#include "migrate/throttle.h"
#include "migrate/tune.h"

#define SOURCE_LAST_PAGES    "last pages"
#define SOURCE_AWAIT_LOADED  "await loaded"
#define SOURCE_AWAIT_RUNNING "await running"
#define SOURCE_FINISH_NS     (UINT64_C(500) * NS_PER_MS) /* to tell the peer how it ended */
#define SOURCE_FORWARD_NS    (UINT64_C(100) * NS_PER_MS) /* after RUNNING: packets still go on */
#define SOURCE_GRACE_NS      (UINT64_C(200) * NS_PER_MS) /* see DESTINATION_GRACE_NS */
#define SOURCE_PING_NS       (UINT64_C(250) * NS_PER_MS)
#define SOURCE_SAMPLE_NS     (UINT64_C(200) * NS_PER_MS) /* into a round: see source_sample_dirty */
#define SOURCE_THROTTLE_NS   (UINT64_C(50) * NS_PER_MS)  /* shortest measurement for throttling */
#define SOURCE_AWAIT_STEP_NS (UINT64_C(50) * NS_PER_MS)  /* between looks whether to give up */
#define SOURCE_IDLE_NS       (UINT64_C(10) * NS_PER_MS)  /* between looks when nothing is to send */

/* RAM that the destination maps itself (source_share.c). */
struct source_share {
    struct share_key *key; /* NULL: not offered */
    int key_fd;            /* until it was sent */
    bool is_answered;
    bool is_agreed; /* no page is sent; the memory changes hands with COMMIT */
    char *why_not;
};

/* Without hope, before post-copy begins by itself where slowing the guest is tried first. */
#define SOURCE_THROTTLED_ROUNDS 12u

/* The guest's pages after the guest (source_postcopy.c), and links that are replaced
 * (source_reconnect.c). Owned by the control thread, but for what is said. */
struct source_postcopy {
    struct link *urgent; /* NULL: none */
    bool is_attempt;     /* this attempt's pages come after COMMIT; stays set from there */
    bool is_pushing;
    bool has_lost_pages;        /* a page channel ended between COMMIT and RUNNING */
    bool is_time_up;            /* max-time is spent, and post-copy is what to do then */
    bool has_given_up;          /* a round was cut: more of them come to no end */
    struct gw_page_set *voided; /* in void rounds since the last one with pages; NULL: none yet */
    uint64_t n_last_voided;     /* pages in the last of them */
    struct gw_page_set *left;   /* what the destination lacked when that was last agreed */
    struct push *push;          /* made with the first urgent channel */
    struct wire_pages_out *packet; /* likewise; used by the urgent channel's reader */
    uint32_t is_serving;           /* atomic: the guest is at rest, requests are answered */
    uint64_t n_requested;          /* atomic: pages */
    struct histogram served;       /* requests, by time to answer; detail: where in the block */

    char *uri; /* where to reconnect from now on, owned here; NULL: as at the start */
    uint64_t next_try_ns, pause_ns, give_up_ns;
    uint32_t broken_round; /* the latest in which the link broke */
    uint64_t broken_left;  /* pages that were left then */
};

/* Who dirties, and who is slowed for it (source_throttle.c). */
struct source_throttle {
    /* owned by the control thread; sizes are fixed after construction */
    struct throttle control;
    struct gw_vcpu_counters *before, *at_start; /* at the last measurement; when the log began */
    bool has_begun, is_off;           /* is_off: nobody is slowed now, whatever control says */
    uint64_t from_ns, n_bytes;        /* of the measurement under way */
    uint32_t n_rounds;                /* in which somebody was slowed */
    struct gw_vcpu_status *published; /* guarded by source.lock */
};

struct source_forecast;

struct gw_source {
    /* fixed after construction */
    struct gw_vm vm;
    char *uri;
    struct gw_migrate_params params;
    struct gw_migrate_observer observer;
    uint8_t id[WIRE_ID_BYTES];
    bool is_snapshot;
    struct mailbox box;
    pthread_t thread;
    int wake_fd; /* eventfd: readable from the first cancel, resolve or free on */
    struct gw_ledger *ledger;
    struct gw_rate_limit *limit;  /* of all channels */
    struct gw_rate_limit *sooner; /* of those that do not wait for pages; counts against limit */

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct handover handover;       /* written by the control thread only */
    struct gw_source_status status; /* what is published */
    struct gw_channel *opening;     /* a channel the control thread blocks on */
    struct wire_stream *saving;     /* the snapshot's, while it is written */
    bool wants_cancel, is_freeing;
    enum gw_resolution resolution;                          /* 0: none asked */
    bool asks_postcopy;                                     /* the user wants it */
    bool is_continued;                                      /* the user lets it switch over */
    struct gw_fault_wait fault_waits[WIRE_MAX_FAULT_WAITS]; /* as the destination has told */
    uint32_t n_fault_waits;

    /* owned by the control thread */
    uint64_t start_ns;
    uint64_t generation;
    struct link *control;
    GPtrArray *page_links; /* struct link */
    struct encoding *encoding;
    struct lanes *lanes;
    struct tune tune; /* how many of the lanes are used */
    struct clock_offset clock;
    uint32_t ping_id;
    uint64_t next_ping_ns;
    struct gw_migrate_failure failure; /* the first one holds */

    /* handshake */
    struct wire_hello peer;
    bool has_peer, is_verdict_good;
    uint64_t silence_ns, keepalive_ns;
    uint64_t setup_deadline_ns;

    struct source_share share;
    struct source_postcopy postcopy;
    struct source_throttle throttle;

    /* rounds */
    struct gw_page_set *pending; /* dirtied and not yet in a round */
    struct gw_page_set *sending; /* the round in flight; constant while it is */
    bool is_logging;
    bool is_time_spent; /* max-time; and it goes on otherwise */
    uint32_t round;
    bool is_round_open; /* sent, not acknowledged by all lanes */
    bool is_void_round;
    bool is_round_cut; /* what was still to be sent of it is in pending */
    uint32_t n_acked;  /* lanes of this round */
    uint64_t round_start_ns, round_bytes;
    uint32_t saved_permille; /* of the last round's bytes, by encoding them */
    uint64_t last_collect_ns;
    bool is_sampled; /* the dirty rate, in this round */
    uint64_t n_sampled, burst_bytes_per_s;
    uint64_t next_look_ns; /* when there is nothing to do now */
    struct predict predict;
    struct source_forecast *forecast; /* source_forecast.c; NULL until something was collected */

    /* blackout */
    uint32_t attempt;
    bool is_guest_stopped;
    bool is_switchover_said; /* SWITCHOVER_BEGIN of this attempt was posted */
    bool is_state_sent;
    uint64_t blackout_start_ns, blackout_limit_ns, predicted_ns;
    uint64_t await_start_ns, commit_ns;
    char *put_off_reason;
    bool has_resend;

    /* after COMMIT */
    struct mail *running; /* RUNNING came; waiting for the destination's ledger */
    uint64_t running_limit_ns;
    bool has_ledger;        /* it came, or will not */
    bool is_forwarding;     /* packets; see source_forward.c */
    int32_t n_forward_open; /* atomic: devices that have not said their last */
    uint64_t forward_limit_ns;
    uint64_t n_forwarded, n_not_forwarded; /* atomic */
    uint64_t next_ask_ns, ask_backoff_ns;

    uint64_t cpu_ns;        /* atomic: of the engine's threads but the lanes */
    uint64_t cpu_seen_ns;   /* of the control thread, as far as it is booked */
    uint64_t lanes_cpu_ns;  /* of lanes that are closed by now */
    uint64_t closed_bytes;  /* sent on links that are closed by now */
    uint64_t lost_limit_ns; /* a page channel ended: act at this time; UINT64_MAX: none did */
    int lost_code;
    char *lost_reason;
};

/* source.c */
void *source_main(void *opaque); /* the control thread, of a struct gw_source */
/* The one place where the state changes. */
void source_dispatch(struct gw_source *source, enum source_event event);
/* Records the first failure and dispatches the event. */
void source_fail(struct gw_source *source, enum source_event event, enum gw_side side, int code,
                 const char *reason);
/* The same for an error of our own side; event by its code: lost links or FAILED. */
void source_fail_error(struct gw_source *source, const GError *error);
unsigned source_state(struct gw_source *source);
bool source_wants_stop(struct gw_source *source); /* cancel or free was asked; any thread */
bool source_is_interrupted(struct gw_source *source);
/* Those in force; either may be NULL. */
void source_stop_budgets(struct gw_source *source, uint64_t *max_blackout_ns,
                         uint64_t *max_time_ns);
void source_resume_guest(struct gw_source *source, const char *reason);
/* Can the guest still go on here without the destination's word? */
bool source_is_before_commit(unsigned state);

/* A channel failed; the peer's reason may still be on its way: LINK_LOST after a short grace. */
void source_lose_channel(struct gw_source *source, const GError *error);

/* source_setup.c */
void source_connect(struct gw_source *source);
void source_handshake(struct gw_source *source);
void source_on_hello(struct gw_source *source, struct mail *mail);
void source_on_verdict(struct gw_source *source, struct mail *mail);
/* Opens a channel of this migration; NULL with error. Can be interrupted. */
struct wire_stream *source_open_stream(struct gw_source *source, enum wire_role role,
                                       uint16_t index, GError **error);
/* The channel that gw_source_cancel and _resolve wake; NULL: none. */
void source_set_opening(struct gw_source *source, struct gw_channel *channel);
struct wire_hello source_hello(struct gw_source *source);
/* The map; adds what it declares allocated to pending. */
struct wire_ram_map source_ram_map(struct gw_source *source);
void source_ping(struct gw_source *source);
void source_on_pong(struct gw_source *source, const struct mail *mail);
void source_close_links(struct gw_source *source, bool is_orderly);
struct link *source_link_new(struct gw_source *source, struct wire_stream *stream,
                             uint32_t channel);
/* Opens page channels and the urgent channel; false with error: none is left open. */
bool source_open_lanes(struct gw_source *source, uint32_t n_channels, GError **error);

/* source_rounds.c */
bool source_log_start(struct gw_source *source, GError **error);
void source_log_stop(struct gw_source *source);
void source_begin_rounds(struct gw_source *source);
void source_on_ack(struct gw_source *source, const struct mail *mail);
void source_on_resend(struct gw_source *source, const struct mail *mail);
/* Collects, predicts, and starts the next round or the switchover, if none is in flight. */
void source_next_round(struct gw_source *source);
/* The number of the round that begins now, which the status shows. */
uint32_t source_number_round(struct gw_source *source);
/* flags: WIRE_ROUND_*. A void round's pages stay pending. */
void source_start_round(struct gw_source *source, uint32_t flags);
void source_sample_dirty(struct gw_source *source);
/* Looks whether fewer lanes would do. */
void source_tune(struct gw_source *source);
void source_publish_progress(struct gw_source *source);
/* A round is in flight that goes on to send pages: neither void nor cut. */
bool source_round_has_pages(const struct gw_source *source);
/* Of such a round, how many no lane has sent yet; 0 else. */
uint64_t source_unsent_pages(const struct gw_source *source, const struct lanes_counters *counters);
/* What is dirty as far as known, and what is still to be sent of the round in flight. */
uint64_t source_remaining_bytes(const struct gw_source *source,
                                const struct lanes_counters *counters);
/* The link broke in a round; the destination has acknowledged rounds up to this one, and of the
 * next one it has the pages of the set. What else was in it is pending again. */
void source_put_back_round(struct gw_source *source, uint32_t acked_round,
                           const struct gw_page_set *received);

/* source_postcopy.c */
bool source_postcopy_offered(const struct gw_source *source);
bool source_can_postcopy(const struct gw_source *source);
/* Should the next switchover be one whose pages come after COMMIT? */
bool source_wants_postcopy(struct gw_source *source);
/* Between rounds: does it converge? */
void source_note_hope(struct gw_source *source, uint64_t remaining_bytes, uint64_t max_blackout_ns);
/* The channels are open: is the mode that the user wants possible? False: it has ended. */
bool source_check_mode(struct gw_source *source);
/* Opens the urgent channel, if it was agreed on. */
bool source_open_urgent(struct gw_source *source, GError **error);
void source_close_urgent(struct gw_source *source);
/* A guest that is to move before its pages: whether a void round goes before, which has been begun
 * then. */
bool source_void_stale(struct gw_source *source);
/* A void round is about to begin: takes out of it what is void already. */
void source_void_only_stale(struct gw_source *source);
/* What the destination will take to discard what it has of the pages that are named next. */
uint64_t source_discard_ns(struct gw_source *source);
/* The guest is at rest, pending is what the destination lacks: it is named, not sent. */
void source_name_missing(struct gw_source *source);
void source_post_missing(struct gw_source *source);
/* The attempt is given up before COMMIT: what it named is to be sent again. */
void source_take_missing_back(struct gw_source *source);
void source_push(struct gw_source *source);
void source_serve(struct gw_source *source);
void source_on_whole(struct gw_source *source, const struct mail *mail);
void source_on_fault_waits(struct gw_source *source, const struct mail *mail);
void source_let_go(struct gw_source *source);
void source_publish_postcopy(struct gw_source *source);
/* How long requests took to be answered; complete once the urgent channel is closed. */
void source_publish_served(struct gw_source *source);
void source_postcopy_free(struct gw_source *source);

/* source_reconnect.c */
void source_reconnect(struct gw_source *source);
/* Before COMMIT: whether a link that is lost now is worth being replaced. */
bool source_may_reconnect(const struct gw_source *source);
void source_try_reconnect(struct gw_source *source);

/* Whether post-copy may begin by itself, with nothing else to be tried first. */
bool source_may_give_up(const struct gw_source *source);
/* Within a round, with the rate that it has had so far: it may, and it is what it will come to. */
bool source_gives_up(struct gw_source *source, uint64_t early_rate);

/* source_forecast.c */
/* Collects the dirty log into pending, and learns from it. *n_new: pages that were not there. */
bool source_forecast_collect(struct gw_source *source, uint64_t *n_new, GError **error);
/* When to collect within a round; UINT64_MAX: not. */
uint64_t source_forecast_next_ns(struct gw_source *source);
/* A round is about to begin, or the blackout: keeps the first forecast for the account. */
void source_forecast_round(struct gw_source *source);
/* Time until the guest runs there, by the rates of the rounds, or by early_rate before there are
 * any. UINT64_MAX: never, or not known. */
struct gw_range source_forecast_left(struct gw_source *source, uint64_t early_rate);
/* The same: is there no hope for pre-copy after the round in flight (forecast.h)? */
bool source_forecast_is_hopeless(struct gw_source *source, uint64_t early_rate);
/* Will what the round in flight sends have to be sent again (forecast.h)? */
bool source_forecast_is_vain(struct gw_source *source, uint64_t early_rate);
/* The guest could be stopped now: is a better moment near enough, because rounds get smaller or the
 * guest has a quiet one? */
bool source_forecast_wants_better(struct gw_source *source, uint64_t remaining_bytes);
void source_forecast_free(struct gw_source *source);

/* source_switchover.c */
bool source_stop_guest(struct gw_source *source, GError **error);
bool source_flush(struct gw_source *source, GError **error);
void source_switchover(struct gw_source *source);
void source_round_done_in_blackout(struct gw_source *source);
void source_put_off(struct gw_source *source);
void source_on_loaded(struct gw_source *source, const struct mail *mail);
void source_commit(struct gw_source *source);
void source_on_running(struct gw_source *source, struct mail *mail);
void source_on_ledger(struct gw_source *source, const struct mail *mail);
/* Acts upon RUNNING, if it came: at once, or when ledger and packets are through. */
void source_take_running(struct gw_source *source);
void source_finish_running(struct gw_source *source);
void source_release(struct gw_source *source);
void source_ask(struct gw_source *source);

/* source_share.c */
/* Settles, when the control channel is open, whether RAM can be offered. False with error: it must
 * be shared, and cannot. */
bool source_share_prepare(struct gw_source *source, struct wire_stream *stream, GError **error);
/* Posts RAM_SHARE, if it can. */
bool source_share_offer(struct gw_source *source, GError **error);
void source_share_on_answer(struct gw_source *source, struct mail *mail);
/* The destination has accepted: shared or copied? False: the migration has ended. */
bool source_share_decide(struct gw_source *source);
/* Posts COMMIT, with the descriptors that it hands over. */
void source_share_commit(struct gw_source *source, const struct wire_commit *commit);
/* In doubt: true when the key has said who has the guest (and the event was dispatched). */
bool source_share_ask(struct gw_source *source);
/* The memory is the destination's: ours is fresh and empty. */
void source_share_release(struct gw_source *source);
void source_share_free(struct gw_source *source);
/* The memory stays ours; before the guest goes on. Idempotent. */
void source_share_end(struct gw_source *source);

/* source_throttle.c */
void source_throttle_init(struct gw_source *source);
void source_throttle_clear(struct gw_source *source);
/* The dirty log was collected, and a measurement begins. */
void source_throttle_begin(struct gw_source *source);
/* It ends: n_bytes were found dirty since. Sets throttles, and begins the next one; unless it was
 * too short: then it goes on. */
void source_throttle_measure(struct gw_source *source, uint64_t n_bytes);
/* Nobody is throttled any more. Idempotent. */
void source_throttle_off(struct gw_source *source);
/* The guest is about to go on here, and rounds too. */
void source_throttle_again(struct gw_source *source);

/* source_forward.c */
void source_forward_start(struct gw_source *source); /* COMMIT was posted */
void source_forward_stop(struct gw_source *source);
bool source_is_forward_over(struct gw_source *source, uint64_t now_ns);

/* source_snapshot.c */
void source_save(struct gw_source *source);

#endif
