/* SPDX-License-Identifier: MIT */
/*
 * Prediction: what the blackout would be if the guest were stopped now, and when to dare it.
 *
 * Model (DESIGN 7): predicted blackout = stopping vCPUs + last dirty fetch + flush + state save +
 * the last pages + state bytes / drain rate + state load + one round trip (LOADED, COMMIT) +
 * resume. The last pages take remaining bytes / measured drain rate + half a round trip, and no
 * less than the last small round did: threads that wake up cost more than the bytes. What is no
 * more than that round held takes as long: it may be all that says that a slow link is fast again.
 * Each term is the last measurement of it in this migration, or the embedder's forecast, or a
 * stated guess. After an attempt that was put off the next one waits a back-off that doubles.
 *
 * What only attempts measure cannot correct itself where it keeps every attempt from being made: a
 * stop that was slow once, because the machine was busy with something else, would be the last
 * word. So such measurements are halved by an attempt that was put off, and again after each
 * back-off as long as even a blackout with nothing left to send would exceed the budget. What is
 * measured over and over (rates, the dirty fetch, the round trip) and the destination's rehearsal
 * stand.
 *
 * Threads: owned by the source's control thread. Pure: no clock is read here.
 */
#ifndef MIGRATE_PREDICT_H
#define MIGRATE_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#define PREDICT_GUESS_STOP_NS     UINT64_C(100000)
#define PREDICT_GUESS_RESUME_NS   UINT64_C(150000)
#define PREDICT_FIRST_BACKOFF_NS  UINT64_C(100000000)
#define PREDICT_MAX_BACKOFF_NS    UINT64_C(10000000000)
#define PREDICT_UNKNOWN           UINT64_MAX
/* A gigabit link: what is assumed as long as there was nothing to send. */
#define PREDICT_GUESS_BYTES_PER_S UINT64_C(100000000)
/* A round shorter than this says little about the rate: latency dominates it. */
#define PREDICT_MIN_SAMPLE_BYTES  (UINT64_C(1) << 20)

/* What another round is not worth a millisecond of the guest's network for. */
#define PREDICT_MIN_WORTH_BYTES  (UINT64_C(64) << 10)
/* Of what is left, what a better moment has: to begin to go on for it, and to keep to it. Moments
 * that are not much better cannot be foreseen either. */
#define PREDICT_BETTER_PERCENT   10u
#define PREDICT_STILL_PERCENT    60u
/* Once the budget could be met, a shorter blackout may make the migration longer by one part in so
 * many of what it has taken, but no less than the one and no more than the other time. What is left
 * then would otherwise go in the blackout: sending it makes nothing longer. For a guest with a
 * rhythm, whose quiet moments come for sure, it may be more. */
#define PREDICT_BETTER_SHARE     32u
#define PREDICT_BETTER_MIN_NS    UINT64_C(100000000)
#define PREDICT_QUIET_SHARE      8u
#define PREDICT_QUIET_MIN_NS     UINT64_C(250000000)
#define PREDICT_BETTER_MAX_NS    UINT64_C(5000000000)
/* Of the budget, within which a round is not sent to its end: what is on its way is counted as
 * sent. */
#define PREDICT_SAFE_PERCENT     90u
/* See predict_is_tedious. */
#define PREDICT_PATIENCE_PERCENT 20u
#define PREDICT_TEDIOUS_NS       UINT64_C(500000000)
/* Without hope, before post-copy begins by itself. One will do when the forecast sees no end even
 * if everything is better than expected, or none worth waiting for. */
#define PREDICT_HOPELESS_ROUNDS  2u
/* See forecast.h: a round is cut when the guest has dirtied, since it began, so much of what it has
 * to send, and will have dirtied as much again by its end. */
#define PREDICT_VAIN_SHARE       0.25
#define PREDICT_VAIN_NS          UINT64_C(100000000) /* between looks for that */

struct predict {
    uint64_t stop_ns, fetch_ns, flush_ns, save_ns, load_ns, resume_ns, round_trip_ns;
    uint64_t state_bytes;
    uint64_t bytes_per_s;       /* acknowledged; 0: not yet known */
    uint64_t small_round_ns;    /* the last round that was too short to say something about it, or
                                 * one that was not, and yet took less */
    uint64_t small_round_bytes; /* what went in that time; 0: nothing known */
    uint64_t dirty_bytes_per_s; /* last round's */
    uint64_t backoff_ns;        /* of the last attempt that was put off; 0: none yet */
    uint64_t not_before_ns;     /* CLOCK_MONOTONIC: the next attempt waits until then */
    uint64_t next_doubt_ns;     /* the same, of predict_doubt; 0: not asked yet */
    uint32_t n_failed;
    uint64_t better_ns;       /* that the migration may get longer by for a shorter blackout */
    uint64_t better_until_ns; /* CLOCK_MONOTONIC: see predict_note_due; 0: not asked yet */
    bool wants_better;        /* the last answer of predict_wants_better */
    uint64_t least_bytes;     /* sent and left after any round; 0: see predict_note_sent */
    uint64_t lost_bytes;      /* that there are more of now */
    uint64_t left_before;     /* bytes that the round before left; 0: there was none */
    uint32_t n_hopeless;      /* rounds in a row after which predict_note_hope saw none */
};

void predict_init(struct predict *predict);
/* A round of n_bytes was acknowledged active_ns after its first byte was handed to the link;
 * bitmap time is not in it. */
void predict_round(struct predict *predict, uint64_t n_bytes, uint64_t active_ns);
/* The guest dirtied n_bytes in interval_ns. */
void predict_dirtied(struct predict *predict, uint64_t n_bytes, uint64_t interval_ns);
/* Blackout if it switched over with remaining_bytes to go; PREDICT_UNKNOWN before the first
 * measured round. */
uint64_t predict_blackout_ns(const struct predict *predict, uint64_t remaining_bytes);
/* What a round takes that sends so much while the guest runs; PREDICT_UNKNOWN when no rate is
 * known. */
uint64_t predict_round_ns(const struct predict *predict, uint64_t remaining_bytes);
/* The guest could be stopped within its budget with so much left, in a migration that began at
 * start_ns. The first time says until when a shorter blackout is worth going on for. */
void predict_note_due(struct predict *predict, uint64_t left_bytes, bool has_rhythm,
                      uint64_t start_ns, uint64_t now_ns);
/* It could, and so much would be left at the best moment until then: is that worth it? Once it is
 * there is as much time again: a guest that is a little faster than was thought is not stopped
 * halfway. */
bool predict_wants_better(struct predict *predict, uint64_t left_bytes, uint64_t best_bytes);
/* Rounds have sent so much, and so much is left. Where that was less in all after a round before,
 * what came since is lost: sent once then, as post-copy does, it would have been over sooner. */
void predict_note_sent(struct predict *predict, uint64_t sent_bytes, uint64_t remaining_bytes);
/* More rounds would take left_ns (PREDICT_UNKNOWN: they come to no end), and that makes a migration
 * that has taken past_ns longer by PREDICT_PATIENCE_PERCENT than if what was left had been sent
 * once when that was least: who need not wait for it does not. Where what is left and what was lost
 * take less than PREDICT_TEDIOUS_NS, nobody is in a hurry. */
bool predict_is_tedious(const struct predict *predict, uint64_t remaining_bytes, uint64_t left_ns,
                        uint64_t past_ns);
/* A round has left so much, and is_tedious says that more would take too long: is there hope that
 * rounds come to meet the budget? Counts those in a row that gave none. */
void predict_note_hope(struct predict *predict, uint64_t remaining_bytes, uint64_t budget_ns,
                       bool is_tedious);
/* Time to send n_bytes, PREDICT_UNKNOWN when no rate is known. */
uint64_t predict_drain_ns(const struct predict *predict, uint64_t n_bytes);
/* Bytes that may remain at the switchover within the budget; 0 when even none would be too many. */
uint64_t predict_allowance_bytes(const struct predict *predict, uint64_t budget_ns);
/* Of a budget, what a prediction made while a round is in flight may use of it. */
uint64_t predict_safe_ns(uint64_t budget_ns);
/* An attempt was put off at now_ns. */
void predict_put_off(struct predict *predict, uint64_t now_ns);
/* No attempt can be made at now_ns. If that is so even with nothing left to send, doubts, once per
 * back-off, what no more rounds can correct. */
void predict_doubt(struct predict *predict, uint64_t budget_ns, uint64_t now_ns);

#endif
