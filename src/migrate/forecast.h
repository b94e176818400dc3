/* SPDX-License-Identifier: MIT */
/*
 * The forecast: plays the rounds of a migration ahead, for each way of moving.
 *
 * Model: a round takes the bytes it sends by the link's rate and one round trip; what the guest
 * dirties meanwhile (the dirty model says how many distinct pages in that time), but for pages that
 * the round has still to read, is the next round;
 * when the predicted blackout for it meets the budget the guest changes hands, by the very rule of
 * the engine (migrate/predict.h), within a round too. Then:
 * - throttled, the guest does in a time t what it does in t * (1 - slowdown) otherwise; the least
 *   slowdown is looked for with which the budgets are met;
 * - post-copy begins after a round when the engine would give up hope, by its very rule, and within
 *   the first round when that hardly helps: when the guest has dirtied a quarter of what the round
 *   has to send, and will have dirtied a quarter again by its end. Then what the destination has
 *   of it is discarded, the blackout has the device state and the list of what is missing, and the
 *   rest follows at the link's rate while accesses to it wait for a fault each.
 * A guest that could be stopped goes on when a moment with much less left is near enough: because
 * rounds get smaller, or because its rhythm (migrate/rhythm.h) has a quiet part.
 * The error bar comes from playing it again with link and guest both better and both worse by their
 * doubt.
 *
 * Pure: no clock, no lock.
 */
#ifndef MIGRATE_FORECAST_H
#define MIGRATE_FORECAST_H

#include "godwit/migrate.h"
#include "migrate/dirty_model.h"
#include "migrate/predict.h"
#include "migrate/rhythm.h"

#define FORECAST_NEVER            UINT64_MAX
#define FORECAST_MAX_ROUNDS       1000u
#define FORECAST_FAULT_NS         500000.0 /* of a fault in post-copy: a guess until it is measured */
#define FORECAST_FAULT_DOUBT      2.5      /* it may take from so many times less to so many more */
#define FORECAST_ZERO_BYTES_PER_S 4e9      /* how fast pages of zeroes are found to be that */
#define FORECAST_MIN_DOUBT        0.03

struct forecast_input {
    struct predict costs; /* fixed terms; its rates are not looked at */
    const struct dirty_model *dirty;
    const struct rhythm_profile *rhythm; /* NULL: none is known */
    double link_bytes_per_s;
    double link_doubt; /* share by which it may be wrong */
    uint64_t setup_ns;
    uint64_t begin_ns;        /* now, on the clock of costs; 0: the migration is yet to begin */
    uint64_t past_ns;         /* that the migration has taken by then */
    uint64_t first_bytes;     /* still to be sent of the first round, or of the one in flight */
    uint64_t zero_bytes;      /* pages of zeroes in it */
    uint64_t first_past_ns;   /* since when what is dirtied waits for the next round */
    uint64_t first_before_ns; /* in which its pages were dirtied; 0: it is all that is used */
    double pace;              /* share of its speed that the host leaves to the guest while the link
                               * is full; 0: all of it, or the dirty model knows */
    uint32_t n_vcpus;         /* 0: unknown, taken as one */
    bool is_postcopy_asked;   /* nothing else is tried first */
    /* Of the rhythm, when the migration begins, or now that it is under way; unknown: any. */
    bool is_phase_known;
    uint64_t phase_ns;
    /* budgets, 0: none */
    uint64_t max_blackout_ns, max_time_ns, max_bandwidth_bytes;
    uint32_t max_slowdown_permille;
};

/* One way through, with one set of numbers. */
struct forecast_run {
    bool is_ending;    /* false: the guest dirties faster than the link drains */
    bool is_tedious;   /* pre-copy: it ends, later than anybody waits for it */
    uint32_t rounds;   /* before the blackout */
    uint64_t total_ns; /* blackout and what follows it included */
    uint64_t n_bytes;
    uint64_t blackout_ns;
    uint64_t least_blackout_ns; /* that any round would have allowed, whatever the budget */
    uint32_t slowdown_permille;
};

/* slowdown_permille: what the guest is slowed down by. */
struct forecast_run forecast_precopy(const struct forecast_input *input,
                                     uint32_t slowdown_permille);
struct forecast_run forecast_postcopy(const struct forecast_input *input);

/* Does pre-copy, after the first round or the one in flight, not end even if everything is better
 * than expected, or take longer than anybody waits for it? */
bool forecast_is_hopeless(const struct forecast_input *input);

/* The guest could be stopped now, with so much left that was dirtied in last_ns: the least that
 * will be left while rounds go on, until what predict_note_due has said in costs. */
uint64_t forecast_best_left(const struct forecast_input *input, uint64_t left_bytes,
                            uint64_t last_ns);
/* Of the rate that was measured, what the budget leaves. */
double forecast_link_in_force(const struct forecast_input *input, double bytes_per_s);
/* Plays mode->mode as expected, from every phase, and from the middle one with everything better
 * and worse; fills its numbers. Returns the expected one. */
struct forecast_run forecast_play(const struct forecast_input *input, uint32_t slowdown_permille,
                                  struct gw_plan_forecast *mode);
/* Of pre-copy only, and without what would do: for a migration under way. */
void forecast_ranges(const struct forecast_input *input, struct gw_range *total_ns,
                     struct gw_range *blackout_ns);
/* Fills one mode: the expected, the error bar, whether budgets are met, what would do.
 * is_possible and why (when not) are the caller's and kept. */
void forecast_mode(const struct forecast_input *input, struct gw_plan_forecast *mode);
/* What auto does: the first that meets the budgets of precopy, throttle, postcopy among those that
 * are possible; if none does, the one that comes to an end, precopy before all. Fills chosen,
 * is_meeting and reason from modes. */
void forecast_choose(const struct forecast_input *input, struct gw_plan_status *status);

#endif
