/* SPDX-License-Identifier: MIT */
/* Prediction of the blackout and the back-off between attempts. */
#include "migrate/predict.h"

#include <glib.h>

#include "base/clock.h"

void predict_init(struct predict *predict)
{
    *predict = (struct predict){
        .stop_ns = PREDICT_GUESS_STOP_NS,
        .resume_ns = PREDICT_GUESS_RESUME_NS,
    };
}

static uint64_t saturating_add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* n * NS_PER_S / rate without overflow, saturated. */
static uint64_t time_for(uint64_t n_bytes, uint64_t bytes_per_s)
{
    __uint128_t ns = (__uint128_t)n_bytes * NS_PER_S / bytes_per_s;

    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

static uint64_t rate_of(uint64_t n_bytes, uint64_t ns)
{
    __uint128_t rate = (__uint128_t)n_bytes * NS_PER_S / (ns ? ns : 1);

    return rate > UINT64_MAX ? UINT64_MAX : (uint64_t)rate;
}

void predict_round(struct predict *predict, uint64_t n_bytes, uint64_t active_ns)
{
    uint64_t rate;

    if (n_bytes == 0 && predict->bytes_per_s == 0)
        predict->bytes_per_s = PREDICT_GUESS_BYTES_PER_S;
    /* What a larger round took is no less than what a small one would have: where the guest is too
     * fast for small rounds, one that was held up must not be the last word about them. */
    if (n_bytes < PREDICT_MIN_SAMPLE_BYTES || active_ns < predict->small_round_ns)
        predict->small_round_ns = active_ns;
    if (n_bytes < PREDICT_MIN_SAMPLE_BYTES)
        predict->small_round_bytes = n_bytes;
    if (n_bytes == 0 || (predict->bytes_per_s && n_bytes < PREDICT_MIN_SAMPLE_BYTES))
        return;
    /* The acknowledgement's way back is not drain time; the prediction adds it once. */
    if (active_ns > 2 * predict->round_trip_ns)
        active_ns -= predict->round_trip_ns;
    rate = rate_of(n_bytes, active_ns);
    if (rate == 0)
        rate = 1;
    /* Newer rounds weigh more: the link and the guest's other traffic change. */
    predict->bytes_per_s = predict->bytes_per_s ? predict->bytes_per_s / 4 + rate / 4 * 3 : rate;
    if (predict->bytes_per_s == 0)
        predict->bytes_per_s = 1;
}

void predict_dirtied(struct predict *predict, uint64_t n_bytes, uint64_t interval_ns)
{
    predict->dirty_bytes_per_s = rate_of(n_bytes, interval_ns);
}

uint64_t predict_drain_ns(const struct predict *predict, uint64_t n_bytes)
{
    if (n_bytes == 0)
        return 0;
    return predict->bytes_per_s ? time_for(n_bytes, predict->bytes_per_s) : PREDICT_UNKNOWN;
}

void predict_note_sent(struct predict *predict, uint64_t sent_bytes, uint64_t remaining_bytes)
{
    uint64_t all_bytes = saturating_add(sent_bytes, remaining_bytes);

    predict->least_bytes = predict->least_bytes ? MIN(predict->least_bytes, all_bytes) : all_bytes;
    predict->lost_bytes = all_bytes - predict->least_bytes;
}

bool predict_is_tedious(const struct predict *predict, uint64_t remaining_bytes, uint64_t left_ns,
                        uint64_t past_ns)
{
    uint64_t drain_ns = predict_drain_ns(predict, remaining_bytes);
    uint64_t lost_ns = predict_drain_ns(predict, predict->lost_bytes);
    uint64_t once_ns = saturating_add(past_ns, drain_ns);

    once_ns -= MIN(lost_ns, once_ns);
    return drain_ns != PREDICT_UNKNOWN && saturating_add(drain_ns, lost_ns) >= PREDICT_TEDIOUS_NS &&
           (left_ns == PREDICT_UNKNOWN ||
            ((__uint128_t)past_ns + left_ns) * 100 >
                (__uint128_t)once_ns * (100 + PREDICT_PATIENCE_PERCENT));
}

void predict_note_hope(struct predict *predict, uint64_t remaining_bytes, uint64_t budget_ns,
                       bool is_tedious)
{
    /* A set that is written over and over is left by every round, at whatever rate. */
    bool is_shrinking =
        predict->left_before == 0 || remaining_bytes <= predict->left_before / 4 * 3;
    /* Over a long round a page counts once however often it is written: what is left of a guest
     * that is too fast comes out near what the link took. */
    bool has_hope = remaining_bytes <= predict_allowance_bytes(predict, budget_ns) ||
                    (predict_blackout_ns(predict, 0) < budget_ns && is_shrinking && !is_tedious &&
                     predict->dirty_bytes_per_s < predict->bytes_per_s / 16 * 15);

    predict->left_before = remaining_bytes;
    predict->n_hopeless = has_hope ? 0 : predict->n_hopeless + 1;
}

static uint64_t fixed_ns(const struct predict *predict)
{
    uint64_t ns = predict->stop_ns;

    ns = saturating_add(ns, predict->fetch_ns);
    ns = saturating_add(ns, predict->flush_ns);
    ns = saturating_add(ns, predict->save_ns);
    ns = saturating_add(ns, predict_drain_ns(predict, predict->state_bytes));
    ns = saturating_add(ns, predict->load_ns);
    ns = saturating_add(ns, predict->round_trip_ns);
    return saturating_add(ns, predict->resume_ns);
}

/* The stopped round, without what its acknowledgement takes to come back: LOADED overtakes it. */
static uint64_t last_pages_ns(const struct predict *predict, uint64_t remaining_bytes)
{
    uint64_t ns = predict->round_trip_ns / 2;

    /* As much went as quickly a moment ago, whatever the rate was when it was last measured. */
    if (predict->small_round_bytes && remaining_bytes <= predict->small_round_bytes)
        return MAX(ns, predict->small_round_ns);
    ns = saturating_add(predict_drain_ns(predict, remaining_bytes), ns);
    return ns > predict->small_round_ns ? ns : predict->small_round_ns;
}

uint64_t predict_blackout_ns(const struct predict *predict, uint64_t remaining_bytes)
{
    if (predict->bytes_per_s == 0)
        return PREDICT_UNKNOWN;
    return saturating_add(fixed_ns(predict), last_pages_ns(predict, remaining_bytes));
}

uint64_t predict_round_ns(const struct predict *predict, uint64_t remaining_bytes)
{
    if (predict->bytes_per_s == 0)
        return PREDICT_UNKNOWN;
    return saturating_add(last_pages_ns(predict, remaining_bytes), predict->round_trip_ns / 2);
}

void predict_note_due(struct predict *predict, uint64_t left_bytes, bool has_rhythm,
                      uint64_t start_ns, uint64_t now_ns)
{
    uint64_t least_ns = has_rhythm ? PREDICT_QUIET_MIN_NS : PREDICT_BETTER_MIN_NS;
    uint64_t share = has_rhythm ? PREDICT_QUIET_SHARE : PREDICT_BETTER_SHARE;

    if (predict->better_until_ns)
        return;
    predict->better_ns = CLAMP((now_ns - start_ns) / share, least_ns, PREDICT_BETTER_MAX_NS);
    predict->better_until_ns =
        saturating_add(now_ns + predict->better_ns, predict_round_ns(predict, left_bytes));
}

bool predict_wants_better(struct predict *predict, uint64_t left_bytes, uint64_t best_bytes)
{
    unsigned percent = predict->wants_better ? PREDICT_STILL_PERCENT : PREDICT_BETTER_PERCENT;
    bool is_worth = left_bytes >= PREDICT_MIN_WORTH_BYTES &&
                    (__uint128_t)best_bytes * 100 <= (__uint128_t)left_bytes * percent;

    if (is_worth && !predict->wants_better)
        predict->better_until_ns = saturating_add(predict->better_until_ns, predict->better_ns);
    predict->wants_better = is_worth;
    return is_worth;
}

uint64_t predict_allowance_bytes(const struct predict *predict, uint64_t budget_ns)
{
    uint64_t ns = saturating_add(fixed_ns(predict), predict->round_trip_ns / 2);
    __uint128_t n_bytes;

    if (predict_blackout_ns(predict, 0) >= budget_ns || predict->bytes_per_s == 0)
        return 0;
    n_bytes = (__uint128_t)(budget_ns - ns) * predict->bytes_per_s / NS_PER_S;
    if (n_bytes < predict->small_round_bytes) /* it took no longer than none would: see above */
        return predict->small_round_bytes;
    return n_bytes > UINT64_MAX ? UINT64_MAX : (uint64_t)n_bytes;
}

uint64_t predict_safe_ns(uint64_t budget_ns)
{
    return budget_ns / 100 * PREDICT_SAFE_PERCENT;
}

/* Half of a measurement, but no less than floor_ns, unless it was less before. */
static uint64_t halved(uint64_t ns, uint64_t floor_ns)
{
    return ns <= floor_ns ? ns : MAX(ns - ns / 2, floor_ns);
}

static void halve_unsure(struct predict *predict)
{
    predict->stop_ns = halved(predict->stop_ns, PREDICT_GUESS_STOP_NS);
    predict->flush_ns = halved(predict->flush_ns, 0);
    predict->save_ns = halved(predict->save_ns, predict->load_ns);
    predict->resume_ns = halved(predict->resume_ns, PREDICT_GUESS_RESUME_NS);
    predict->small_round_ns = halved(predict->small_round_ns, 0);
    predict->small_round_bytes = 0;
}

void predict_doubt(struct predict *predict, uint64_t budget_ns, uint64_t now_ns)
{
    if (predict->next_doubt_ns == 0)
        predict->next_doubt_ns = now_ns + PREDICT_FIRST_BACKOFF_NS;
    if (now_ns < predict->next_doubt_ns || predict_blackout_ns(predict, 0) <= budget_ns)
        return;
    halve_unsure(predict);
    predict->next_doubt_ns = now_ns + MAX(predict->backoff_ns, PREDICT_FIRST_BACKOFF_NS);
}

void predict_put_off(struct predict *predict, uint64_t now_ns)
{
    predict->n_failed++;
    halve_unsure(predict);
    predict->better_until_ns = 0;
    predict->wants_better = false;
    if (predict->backoff_ns == 0)
        predict->backoff_ns = PREDICT_FIRST_BACKOFF_NS;
    else if (predict->backoff_ns < PREDICT_MAX_BACKOFF_NS)
        predict->backoff_ns *= 2;
    if (predict->backoff_ns > PREDICT_MAX_BACKOFF_NS)
        predict->backoff_ns = PREDICT_MAX_BACKOFF_NS;
    predict->not_before_ns = predict->next_doubt_ns = now_ns + predict->backoff_ns;
}
