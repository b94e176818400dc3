/* SPDX-License-Identifier: MIT */
/*
 * The forecast that goes on while rounds do: what is left, with an error bar; and when to stop.
 *
 * Model: each collection of the dirty log is a slot of the dirty model and a beat of the rhythm, as
 * in a plan (migrate/sampler.h). While a round is in flight the log is collected between, as often
 * as the sampler would, so that a long round tells as much as a short one. The link is known from
 * the rounds.
 */
#include "migrate/forecast.h"
#include "migrate/sampler.h"
#include "migrate/source.h"

#define REFRESH_NS   (UINT64_C(200) * NS_PER_MS) /* between forecasts: each plays many rounds */
#define EARLY_DOUBT  0.15                        /* of a rate that nobody has acknowledged */
#define ROUNDS_DOUBT 0.05
#define DUE_LOOKS    16u /* within what may be left for the blackout */
#define DUE_LOOK_NS  (UINT64_C(20) * NS_PER_MS)

struct source_forecast {
    struct gw_page_set *slot;
    struct gw_page_set *dirtied;  /* since the round began, whether it will carry them or not */
    uint64_t dirtied_round;       /* the round that is about */
    uint64_t began_ns, before_ns; /* that round; the one before took so long, 0: there was none */
    struct dirty_windows *windows;
    struct rhythm rhythm;
    struct rhythm_profile profile;
    uint64_t since_ns;     /* the last collection; 0: none yet */
    uint64_t collect_ns;   /* that the shortest one took */
    uint64_t next_look_ns; /* within a round */
    uint64_t made_ns;
    struct gw_range left_ns, blackout_ns;
    bool is_hopeless; /* of what comes after the round in flight */
};

static struct source_forecast *forecast_of(struct gw_source *source)
{
    struct source_forecast *forecast = source->forecast;

    if (!forecast) {
        forecast = source->forecast = g_new0(struct source_forecast, 1);
        forecast->slot = gw_page_set_new(source->vm.memory);
        forecast->dirtied = gw_page_set_new(source->vm.memory);
        forecast->windows = dirty_windows_new(source->vm.memory);
        forecast->collect_ns = UINT64_MAX;
    }
    return forecast;
}

void source_forecast_free(struct gw_source *source)
{
    struct source_forecast *forecast = g_steal_pointer(&source->forecast);

    if (!forecast)
        return;
    gw_page_set_free(forecast->slot);
    gw_page_set_free(forecast->dirtied);
    dirty_windows_free(forecast->windows);
    g_free(forecast);
}

/* How many pages of the slot are the first time that they were dirtied in this round. */
static uint64_t count_dirtied(struct gw_source *source)
{
    struct source_forecast *forecast = source->forecast;
    uint64_t n_before;

    if (forecast->dirtied_round != source->round) {
        gw_page_set_clear(forecast->dirtied);
        forecast->before_ns = forecast->began_ns ? source->round_start_ns - forecast->began_ns : 0;
        forecast->began_ns = source->round_start_ns;
    }
    forecast->dirtied_round = source->round;
    n_before = forecast->dirtied->n_set;
    gw_page_set_or(forecast->dirtied, forecast->slot);
    return forecast->dirtied->n_set - n_before;
}

bool source_forecast_collect(struct gw_source *source, uint64_t *n_new, GError **error)
{
    struct source_forecast *forecast = forecast_of(source);
    uint64_t now_ns = clock_mono_ns(), spent_ns, slot_ns;
    struct dirty_model model;
    bool is_ok = gw_memory_log_collect(source->vm.memory, forecast->slot, NULL, error);

    spent_ns = clock_mono_ns() - now_ns;
    forecast->collect_ns = MIN(forecast->collect_ns, spent_ns);
    *n_new = count_dirtied(source);
    if (is_ok && forecast->since_ns && source->round > 0) {
        dirty_windows_add(forecast->windows, forecast->slot, now_ns - forecast->since_ns);
        rhythm_add(&forecast->rhythm, forecast->since_ns, now_ns, (double)forecast->slot->n_set);
    }
    dirty_windows_get(forecast->windows, true, &model);
    slot_ns = forecast->since_ns ? now_ns - forecast->since_ns : RHYTHM_BIN_NS;
    slot_ns =
        sampler_next_slot_ns(&model, forecast->collect_ns, slot_ns, (double)forecast->slot->n_set);
    forecast->next_look_ns = now_ns + MAX(slot_ns, RHYTHM_BIN_NS);
    forecast->since_ns = now_ns;
    /* A page that the round has still to read goes out as it is now: once is enough. */
    if (source->is_round_open && !source->is_void_round)
        lanes_drop_coming(source->lanes, forecast->slot);
    gw_page_set_or(source->pending, forecast->slot);
    gw_page_set_clear(forecast->slot);
    return is_ok;
}

/* When the round in flight may have left little enough to stop for, and now and then after that. */
static uint64_t next_due_ns(struct gw_source *source)
{
    struct lanes_counters counters;
    uint64_t max_blackout_ns, remaining_bytes, drain_ns, step_ns, next_ns;

    if (!source_round_has_pages(source) || source->predict.bytes_per_s == 0)
        return UINT64_MAX;
    source_stop_budgets(source, &max_blackout_ns, NULL);
    lanes_get_counters(source->lanes, &counters);
    remaining_bytes = source_remaining_bytes(source, &counters);
    remaining_bytes -=
        MIN(predict_allowance_bytes(&source->predict, predict_safe_ns(max_blackout_ns)),
            remaining_bytes);
    drain_ns = predict_drain_ns(&source->predict, remaining_bytes);
    step_ns = MAX(max_blackout_ns / DUE_LOOKS, DUE_LOOK_NS);
    next_ns = MAX(clock_mono_ns() + drain_ns, source->forecast->since_ns + step_ns);
    /* It is over when a shorter blackout has no more time. */
    if (source->forecast->since_ns < source->predict.better_until_ns)
        next_ns = MIN(next_ns, source->predict.better_until_ns);
    return next_ns;
}

uint64_t source_forecast_next_ns(struct gw_source *source)
{
    const struct source_forecast *forecast = source->forecast;
    uint64_t next_ns;

    /* The first round is long, or it tells nothing that the next would not. */
    if (!source->is_round_open || source->share.is_agreed)
        return UINT64_MAX;
    if (!forecast)
        return source->round_start_ns + RHYTHM_BIN_NS;
    /* A round that may be cut is looked at often, whatever a look costs the guest: it will not be
     * many. */
    next_ns = MIN(forecast->next_look_ns, next_due_ns(source));
    if (forecast->is_hopeless && source_may_give_up(source))
        next_ns = MIN(next_ns, forecast->since_ns + PREDICT_VAIN_NS);
    return next_ns;
}

/* ---- what is left ------------------------------------------------------------------------------
 */

/* Bytes of pages that are not zero, and of those that are, in what is still to be sent of the round
 * in flight, or of the next; as far as one can tell from those that were sent. */
static void split_remaining(struct gw_source *source, struct forecast_input *input)
{
    struct lanes_counters counters;
    uint64_t n_pages = source->pending->n_set;
    double zero_share;

    lanes_get_counters(source->lanes, &counters);
    if (source_round_has_pages(source))
        n_pages = source_unsent_pages(source, &counters);
    zero_share = source->round <= 1 ? (double)counters.pages_zero /
                                          (double)MAX(counters.pages_zero + counters.pages_plain, 1)
                                    : 0;
    input->zero_bytes = (uint64_t)((double)n_pages * zero_share) * GW_PAGE_SIZE;
    input->first_bytes = n_pages * GW_PAGE_SIZE - input->zero_bytes;
}

/* In which time the pages of the round in flight, or else of the next, were dirtied. */
static uint64_t dirtied_in_ns(const struct gw_source *source)
{
    const struct source_forecast *forecast = source->forecast;

    if (!source->is_round_open)
        return source->round ? clock_mono_ns() - source->round_start_ns : 0;
    if (source->round <= 1)
        return 0;
    return forecast->dirtied_round == source->round ? forecast->before_ns
                                                    : source->round_start_ns - forecast->began_ns;
}

/* What is known of the guest by now; its rhythm is in the forecast's profile. */
static void know_guest(struct source_forecast *forecast, struct dirty_model *model)
{
    rhythm_profile(&forecast->rhythm, &forecast->profile);
    dirty_windows_get(forecast->windows, forecast->profile.n == 0, model);
}

static uint64_t dirtied_bytes(struct gw_source *source, uint64_t ns)
{
    struct source_forecast *forecast = forecast_of(source);
    struct dirty_model model;
    double phase_ns;

    know_guest(forecast, &model);
    phase_ns = (double)rhythm_phase_ns(&forecast->profile, clock_mono_ns());
    return (uint64_t)dirty_model_pages(
               &model, rhythm_even_ns(&forecast->profile, phase_ns, phase_ns + (double)ns)) *
           GW_PAGE_SIZE;
}

static uint64_t rate_so_far(const struct gw_source *source, uint64_t early_rate)
{
    return source->predict.bytes_per_s ? source->predict.bytes_per_s : early_rate;
}

/* From this moment on. model is filled, and used by the input. */
static struct forecast_input input_now(struct gw_source *source, uint64_t early_rate,
                                       struct dirty_model *model)
{
    struct source_forecast *forecast = forecast_of(source);
    uint64_t now_ns = clock_mono_ns();
    struct forecast_input input = {
        .costs = source->predict,
        .dirty = model,
        .rhythm = &forecast->profile,
        .link_bytes_per_s = (double)rate_so_far(source, early_rate),
        .link_doubt = source->predict.bytes_per_s ? ROUNDS_DOUBT : EARLY_DOUBT,
        .first_past_ns = source->is_round_open ? now_ns - source->round_start_ns : 0,
        .first_before_ns = dirtied_in_ns(source),
        .begin_ns = now_ns,
        .past_ns = now_ns - source->start_ns,
    };

    source_stop_budgets(source, &input.max_blackout_ns, &input.max_time_ns);
    know_guest(forecast, model);
    input.phase_ns = rhythm_phase_ns(&forecast->profile, now_ns);
    input.is_phase_known = true;
    split_remaining(source, &input);
    return input;
}

static void look_ahead(struct gw_source *source, uint64_t early_rate)
{
    struct dirty_model model;
    struct forecast_input input = input_now(source, early_rate, &model);
    struct source_forecast *forecast = source->forecast;

    forecast_ranges(&input, &forecast->left_ns, &forecast->blackout_ns);
    forecast->is_hopeless = forecast_is_hopeless(&input);
    forecast->made_ns = clock_mono_ns();
}

/* Keeps the first forecast that knows link and guest, to be held against the outcome. */
static void record(struct gw_source *source)
{
    const struct source_forecast *forecast = source->forecast;
    uint64_t past_ns = clock_mono_ns() - source->start_ns;
    struct gw_range total_ns = forecast->left_ns;
    struct gw_source_status *status = &source->status;

    total_ns.low += past_ns;
    total_ns.expected += total_ns.expected == FORECAST_NEVER ? 0 : past_ns;
    total_ns.high += total_ns.high == FORECAST_NEVER ? 0 : past_ns;
    if (forecast->left_ns.low == FORECAST_NEVER)
        total_ns.low = FORECAST_NEVER;
    pthread_mutex_lock(&source->lock);
    status->forecast_round = source->round + 1;
    status->forecast_total_ns = total_ns;
    status->forecast_blackout_ns = forecast->blackout_ns;
    pthread_mutex_unlock(&source->lock);
}

void source_forecast_round(struct gw_source *source)
{
    if (source->status.forecast_round || source->round == 0 || source->share.is_agreed ||
        source->predict.bytes_per_s == 0)
        return;
    look_ahead(source, 0);
    record(source);
}

struct gw_range source_forecast_left(struct gw_source *source, uint64_t early_rate)
{
    struct gw_range left = {UINT64_MAX, 0, UINT64_MAX}; /* anything */
    uint64_t age_ns;

    if (source->predict.bytes_per_s == 0 && early_rate == 0)
        return left;
    if (source->share.is_agreed) { /* all that is left is the blackout */
        left.low = left.expected = left.high = predict_blackout_ns(&source->predict, 0);
        return left;
    }
    if (!source->forecast || clock_mono_ns() >= source->forecast->made_ns + REFRESH_NS)
        look_ahead(source, early_rate);
    left = source->forecast->left_ns;
    age_ns = clock_mono_ns() - source->forecast->made_ns;
    left.low -= left.low == UINT64_MAX ? 0 : MIN(left.low, age_ns);
    left.expected -= left.expected == UINT64_MAX ? 0 : MIN(left.expected, age_ns);
    left.high -= left.high == UINT64_MAX ? 0 : MIN(left.high, age_ns);
    return left;
}

bool source_forecast_is_hopeless(struct gw_source *source, uint64_t early_rate)
{
    /* What the last look has shown must be in it. */
    if (source->forecast && source->forecast->made_ns < source->forecast->since_ns)
        source->forecast->made_ns = 0;
    source_forecast_left(source, early_rate);
    return source->forecast && source->forecast->made_ns && source->forecast->is_hopeless;
}

bool source_forecast_is_vain(struct gw_source *source, uint64_t early_rate)
{
    const struct source_forecast *forecast = source->forecast;
    uint64_t rate = rate_so_far(source, early_rate);
    double least = PREDICT_VAIN_SHARE * (double)source->sending->n_set;
    struct lanes_counters counters;
    uint64_t rest_ns;

    if (!forecast || forecast->dirtied_round != source->round || rate == 0 ||
        (double)forecast->dirtied->n_set < least)
        return false;
    lanes_get_counters(source->lanes, &counters);
    rest_ns = (uint64_t)((double)source_unsent_pages(source, &counters) * GW_PAGE_SIZE /
                         (double)rate * 1e9);
    return (double)(dirtied_bytes(source, rest_ns) / GW_PAGE_SIZE) >= least;
}

/* ---- the moment --------------------------------------------------------------------------------
 */

bool source_forecast_wants_better(struct gw_source *source, uint64_t remaining_bytes)
{
    struct dirty_model model;
    struct forecast_input input;
    uint64_t now_ns;

    if (remaining_bytes < PREDICT_MIN_WORTH_BYTES)
        return false;
    input = input_now(source, 0, &model);
    now_ns = input.begin_ns;
    predict_note_due(&source->predict, remaining_bytes, source->forecast->profile.n > 0,
                     source->start_ns, now_ns);
    input.costs = source->predict;
    return predict_wants_better(
        &source->predict, remaining_bytes,
        forecast_best_left(&input, remaining_bytes, now_ns - source->round_start_ns));
}
