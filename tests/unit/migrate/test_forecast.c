/* SPDX-License-Identifier: MIT */
/*
 * Forecasts of guests that are played page by page: what is sampled of them for 2.6 s, and then a
 * migration of the very same guest in steps of a millisecond, whose time and blackout are known.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "migrate/forecast.h"
#include "migrate/page_runs.h"
#include "migrate/rhythm.h"

#define LINK_BYTES        125000000.0 /* 1 Gb/s */
#define RAM_BYTES         (UINT64_C(512) << 20)
#define N_PAGES           (RAM_BYTES / GW_PAGE_SIZE)
#define HOT_PAGES         (N_PAGES / 32)
#define BUDGET_NS         (300 * NS_PER_MS)
#define SAMPLE_NS         (UINT64_C(2560) * NS_PER_MS)
#define PERIOD_NS         (UINT64_C(800) * NS_PER_MS)
#define STEP_NS           NS_PER_MS
#define TOTAL_ERROR       0.15
#define LEAST_ERROR       0.30
#define BLACKOUT_SLACK_NS (5 * NS_PER_MS)

enum pattern { HOT = 1, UNIFORM, PERIODIC, WALKING };

struct guest {
    struct gw_memory *memory;
    enum pattern pattern;
    double writes_per_s, owed; /* pages */
    uint64_t now_ns, random, next_page;
    double speed; /* share of its full speed */
};

static void guest_init(struct guest *guest, enum pattern pattern, double share_of_link)
{
    *guest = (struct guest){.memory = gw_memory_new(), .pattern = pattern, .speed = 1};
    guest->writes_per_s = share_of_link * LINK_BYTES / (double)GW_PAGE_SIZE;
    guest->random = UINT64_C(0x9E3779B97F4A7C15);
    assert_non_null(gw_memory_add_block(guest->memory, "ram", 0, RAM_BYTES, NULL));
}

static uint64_t guest_random(struct guest *guest, uint64_t below)
{
    guest->random ^= guest->random << 13;
    guest->random ^= guest->random >> 7;
    guest->random ^= guest->random << 17;
    return guest->random % below;
}

static uint64_t next_write(struct guest *guest)
{
    if (guest->pattern == WALKING)
        return guest->next_page = (guest->next_page + 1) % N_PAGES;
    if (guest->pattern == HOT && guest_random(guest, 100) != 0)
        return guest_random(guest, HOT_PAGES);
    return guest_random(guest, N_PAGES);
}

/* All writes of a period in its last quarter. */
static double rate_now(const struct guest *guest)
{
    if (guest->pattern != PERIODIC)
        return guest->writes_per_s;
    return guest->now_ns % PERIOD_NS >= PERIOD_NS / 4 * 3 ? 4 * guest->writes_per_s : 0;
}

static void guest_run(struct guest *guest, uint64_t ns, struct gw_page_set *dirty)
{
    guest->owed += rate_now(guest) * guest->speed * (double)ns / 1e9;
    for (; guest->owed >= 1; guest->owed--)
        gw_page_set_add(dirty, 0, next_write(guest), 1);
    guest->now_ns += ns;
}

static void sample(struct guest *guest, struct dirty_model *model, struct rhythm_profile *profile)
{
    struct rhythm rhythm = {0};
    struct dirty_windows *windows = dirty_windows_new(guest->memory);
    struct gw_page_set *slot = gw_page_set_new(guest->memory);
    uint64_t length_ns;

    for (uint64_t ns = 0; ns < SAMPLE_NS; ns += length_ns) {
        /* Timers are late. */
        length_ns = DIRTY_UNIT_NS + guest_random(guest, 3) * STEP_NS;
        for (uint64_t at = 0; at < length_ns; at += STEP_NS)
            guest_run(guest, STEP_NS, slot);
        dirty_windows_add(windows, slot, length_ns);
        rhythm_add(&rhythm, guest->now_ns - length_ns, guest->now_ns, (double)slot->n_set);
        gw_page_set_clear(slot);
    }
    rhythm_profile(&rhythm, profile);
    dirty_windows_get(windows, profile->n == 0, model);
    gw_page_set_free(slot);
    dirty_windows_free(windows);
}

static struct forecast_input input_of(const struct dirty_model *model,
                                      const struct rhythm_profile *rhythm)
{
    struct forecast_input input = {.dirty = model,
                                   .rhythm = rhythm,
                                   .link_bytes_per_s = LINK_BYTES,
                                   .first_bytes = RAM_BYTES,
                                   .n_vcpus = 1,
                                   .max_blackout_ns = BUDGET_NS};

    predict_init(&input.costs);
    input.costs.round_trip_ns = 200000;
    input.costs.save_ns = input.costs.load_ns = NS_PER_MS;
    input.costs.state_bytes = 100000;
    return input;
}

/* What the round has still to read when n_sent pages of it have gone; the caller frees it. */
static struct gw_page_set *unsent_of(const struct guest *guest, const struct gw_page_set *sending,
                                     uint64_t n_sent)
{
    struct gw_page_set *unsent = gw_page_set_new(guest->memory);
    uint64_t page = 0, n_pages;

    for (; n_sent > 0 && gw_page_set_next_run(sending, 0, &page, &n_pages, n_sent); page += n_pages)
        n_sent -= n_pages;
    for (; gw_page_set_next_run(sending, 0, &page, &n_pages, UINT64_MAX); page += n_pages)
        gw_page_set_add(unsent, 0, page, n_pages);
    return unsent;
}

/* A migration that is played with real pages. */
struct outcome {
    struct guest *guest;
    const struct forecast_input *input; /* what is known of it */
    uint64_t start_ns, budget_ns;
    struct predict predict;
    struct rhythm rhythm;
    struct gw_page_set *dirty, *sending;
};

/* Within so much of its budget, may the guest be stopped with so much to go, that was dirtied in
 * last_ns? */
static bool is_enough(struct outcome *outcome, uint64_t budget_ns, uint64_t left, uint64_t last_ns)
{
    struct predict *predict = &outcome->predict;
    struct forecast_input input = *outcome->input;
    uint64_t now_ns = outcome->guest->now_ns;
    struct rhythm_profile profile;

    if (predict_blackout_ns(predict, left) > budget_ns)
        return false;
    rhythm_profile(&outcome->rhythm, &profile);
    predict_note_due(predict, left, profile.n > 0, outcome->start_ns, now_ns);
    input.costs = *predict;
    input.rhythm = &profile;
    input.is_phase_known = true;
    input.phase_ns = rhythm_phase_ns(&profile, now_ns);
    input.begin_ns = now_ns;
    input.past_ns = now_ns - outcome->start_ns;
    return !predict_wants_better(predict, left, forecast_best_left(&input, left, last_ns));
}

/* Runs the guest for a round, looking at what it dirties every 50 ms, or until it may be stopped.
 * Returns how many pages that were; dirty gets those that the round does not carry. */
static uint64_t run_round(struct outcome *outcome, uint64_t round_ns, bool *is_cut)
{
    struct guest *guest = outcome->guest;
    struct gw_page_set *slot = gw_page_set_new(guest->memory);
    struct gw_page_set *all = gw_page_set_new(guest->memory);
    uint64_t n_all, n_sent;
    uint64_t begun_ns = guest->now_ns, start_ns = begun_ns, end_ns = start_ns + round_ns;

    while (guest->now_ns < end_ns && !*is_cut) {
        struct gw_page_set *unsent;

        guest_run(guest, MIN(STEP_NS, end_ns - guest->now_ns), slot);
        if (guest->now_ns < end_ns && guest->now_ns - start_ns < 50 * NS_PER_MS)
            continue;
        rhythm_add(&outcome->rhythm, start_ns, guest->now_ns, (double)slot->n_set);
        gw_page_set_or(all, slot);
        n_sent = (uint64_t)((double)outcome->sending->n_set * (double)(guest->now_ns - begun_ns) /
                            (double)round_ns);
        unsent = unsent_of(guest, outcome->sending, n_sent);
        page_runs_remove(slot, unsent);
        gw_page_set_or(outcome->dirty, slot);
        gw_page_set_clear(slot);
        start_ns = guest->now_ns;
        if (guest->now_ns < end_ns && outcome->predict.bytes_per_s)
            *is_cut = is_enough(outcome, predict_safe_ns(outcome->budget_ns),
                                (outcome->dirty->n_set + unsent->n_set) * GW_PAGE_SIZE,
                                guest->now_ns - begun_ns);
        if (*is_cut)
            gw_page_set_or(outcome->dirty, unsent);
        gw_page_set_free(unsent);
    }
    n_all = all->n_set;
    gw_page_set_free(all);
    gw_page_set_free(slot);
    return n_all;
}

/* What really happens: the engine's rules over real pages. */
static struct forecast_run migrate(struct guest *guest, const struct forecast_input *input)
{
    struct forecast_run run = {.least_blackout_ns = FORECAST_NEVER};
    struct outcome outcome = {
        .guest = guest,
        .input = input,
        .start_ns = guest->now_ns,
        .budget_ns = input->max_blackout_ns,
        .predict = input->costs,
        .dirty = gw_page_set_new(guest->memory),
        .sending = gw_page_set_new(guest->memory),
    };
    double left = RAM_BYTES, before = INFINITY;
    unsigned n_stalls = 0;

    gw_page_set_fill(outcome.sending);
    while (n_stalls < 4 && run.rounds < 50) {
        uint64_t round_ns = (uint64_t)(left / LINK_BYTES * 1e9) + input->costs.round_trip_ns;
        uint64_t begun_ns = guest->now_ns;
        bool is_cut = false;
        uint64_t n_dirtied = run_round(&outcome, round_ns, &is_cut);

        round_ns = guest->now_ns - begun_ns;
        outcome.predict.bytes_per_s = (uint64_t)LINK_BYTES;
        run.rounds++;
        before = left;
        left = (double)(outcome.dirty->n_set * GW_PAGE_SIZE);
        gw_page_set_clear(outcome.sending);
        gw_page_set_or(outcome.sending, outcome.dirty);
        gw_page_set_clear(outcome.dirty);
        predict_dirtied(&outcome.predict, n_dirtied * GW_PAGE_SIZE, round_ns);
        run.blackout_ns = predict_blackout_ns(&outcome.predict, (uint64_t)left);
        run.least_blackout_ns = MIN(run.least_blackout_ns, run.blackout_ns);
        run.is_ending = is_enough(&outcome, input->max_blackout_ns, (uint64_t)left, round_ns);
        if (run.is_ending)
            break;
        n_stalls = left >= 0.97 * before ? n_stalls + 1 : 0;
    }
    run.total_ns = guest->now_ns - outcome.start_ns + run.blackout_ns;
    gw_page_set_free(outcome.dirty);
    gw_page_set_free(outcome.sending);
    return run;
}

static double error_of(uint64_t forecast, uint64_t outcome)
{
    return fabs((double)forecast - (double)outcome) / (double)outcome;
}

static void check_case(enum pattern pattern, double share)
{
    struct guest guest;
    struct dirty_model model;
    struct rhythm_profile rhythm;
    struct forecast_input input;
    struct forecast_run forecast, outcome;

    guest_init(&guest, pattern, share);
    sample(&guest, &model, &rhythm);
    input = input_of(&model, &rhythm);
    forecast = forecast_precopy(&input, 0);
    outcome = migrate(&guest, &input);
    print_message(
        "# pattern %d at %3.0f %%: forecast %s %6.2f s %6.1f ms, outcome %s %6.2f s %6.1f "
        "ms; least %6.1f and %6.1f ms\n",
        pattern, share * 100, forecast.is_ending ? "ends " : "never",
        forecast.is_ending ? (double)forecast.total_ns / 1e9 : 0,
        forecast.is_ending ? (double)forecast.blackout_ns / 1e6 : 0,
        outcome.is_ending ? "ends " : "never", (double)outcome.total_ns / 1e9,
        (double)outcome.blackout_ns / 1e6, (double)forecast.least_blackout_ns / 1e6,
        (double)outcome.least_blackout_ns / 1e6);
    assert_int_equal(forecast.is_ending, outcome.is_ending);
    if (outcome.is_ending) {
        assert_true(error_of(forecast.total_ns, outcome.total_ns) <= TOTAL_ERROR);
        assert_true(error_of(forecast.blackout_ns, outcome.blackout_ns) <= LEAST_ERROR ||
                    forecast.blackout_ns + BLACKOUT_SLACK_NS >= outcome.blackout_ns);
        assert_true(forecast.blackout_ns <= outcome.blackout_ns + BLACKOUT_SLACK_NS ||
                    error_of(forecast.blackout_ns, outcome.blackout_ns) <= LEAST_ERROR);
    } else if (pattern != WALKING) { /* in the order of the round: where it begins decides */
        assert_true(error_of(forecast.least_blackout_ns, outcome.least_blackout_ns) <= LEAST_ERROR);
    }
    gw_memory_free(guest.memory);
}

static const double shares[] = {0.25, 0.5, 1, 2, 4};

static void a_hot_set(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(shares); i++)
        check_case(HOT, shares[i]);
}

static void uniform_writes(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(shares); i++)
        check_case(UNIFORM, shares[i]);
}

static void a_walk_through_memory(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(shares); i++)
        check_case(WALKING, shares[i]);
}

static void periodic_writes(void **state)
{
    check_case(PERIODIC, 0.25);
    check_case(PERIODIC, 0.5);
    check_case(PERIODIC, 4);
}

static void an_idle_guest_goes_in_one_round(void **state)
{
    struct guest guest;
    struct dirty_model model;
    struct rhythm_profile rhythm;
    struct forecast_input input;
    struct forecast_run run;

    guest_init(&guest, UNIFORM, 0);
    sample(&guest, &model, &rhythm);
    input = input_of(&model, &rhythm);
    run = forecast_precopy(&input, 0);
    assert_true(run.is_ending);
    assert_int_equal(run.rounds, 1);
    assert_true(run.blackout_ns < 5 * NS_PER_MS);
    assert_true(error_of(run.total_ns, (uint64_t)(RAM_BYTES / LINK_BYTES * 1e9)) < 0.01);
    gw_memory_free(guest.memory);
}

/* A hot set and a uniform writer of one rate over a second are told apart by what comes again. */
static void sets_are_told_apart(void **state)
{
    struct guest hot, uniform;
    struct dirty_model of_hot, of_uniform;
    struct rhythm_profile rhythm;

    guest_init(&hot, HOT, 2);
    guest_init(&uniform, UNIFORM, 2);
    sample(&hot, &of_hot, &rhythm);
    sample(&uniform, &of_uniform, &rhythm);
    assert_true(dirty_model_pages(&of_uniform, 1e9) > 5 * dirty_model_pages(&of_hot, 1e9));
    assert_true(of_hot.hot > 0.9 * HOT_PAGES && of_hot.hot < 1.2 * HOT_PAGES);
    assert_true(of_uniform.hot < 0.1 * (double)N_PAGES);
    assert_true(dirty_model_pages(&of_uniform, 1e15) <= (double)N_PAGES);
    /* More time never means fewer pages. */
    for (double ns = 1e6; ns < 1e11; ns *= 1.1) {
        assert_true(dirty_model_pages(&of_hot, ns * 1.1) >= 0.999 * dirty_model_pages(&of_hot, ns));
        assert_true(dirty_model_pages(&of_uniform, ns * 1.1) >=
                    0.999 * dirty_model_pages(&of_uniform, ns));
    }
    gw_memory_free(hot.memory);
    gw_memory_free(uniform.memory);
}

/* Played with the least slow-down that the forecast names, the guest goes over; with much less, it
 * does not. */
static void a_slow_down_that_would_do_does(void **state)
{
    struct guest guest;
    struct dirty_model model;
    struct rhythm_profile rhythm;
    struct forecast_input input;
    struct gw_plan_forecast mode = {.mode = GW_PLAN_THROTTLE, .is_possible = true};

    guest_init(&guest, UNIFORM, 2);
    sample(&guest, &model, &rhythm);
    input = input_of(&model, &rhythm);
    input.max_slowdown_permille = 900;
    forecast_mode(&input, &mode);
    assert_true(mode.is_meeting);
    assert_true(mode.slowdown_permille.expected > 300);
    guest.speed = 1 - (double)mode.slowdown_permille.expected / 1000 - 0.05;
    assert_true(migrate(&guest, &input).is_ending);
    guest.speed = 1 - (double)mode.slowdown_permille.expected / 1000 + 0.25;
    assert_false(migrate(&guest, &input).is_ending);
    gw_memory_free(guest.memory);
}

/* Distinct pages of a guest that writes every page once before it writes one again, and in an
 * order of its own each time: in windows of so many passes, wherever they begin. */
static double of_passes(double x)
{
    return (x < 1 ? x - pow(x, 3) / 6 : x < 2 ? 1 - pow(2 - x, 3) / 6 : 1) * (double)N_PAGES;
}

static struct dirty_model passing(double share)
{
    struct dirty_model model = {.max_pages = (double)N_PAGES};
    double passes_per_s = share * LINK_BYTES / (double)RAM_BYTES;

    for (double ns = DIRTY_UNIT_NS; model.n_windows < DIRTY_LEVELS; ns *= 2)
        model.windows[model.n_windows++] = (struct dirty_window){
            .length_ns = ns, .pages = of_passes(passes_per_s * ns / 1e9), .n = 9};
    dirty_model_fit(&model);
    return model;
}

/* A host that is short of processors leaves less of them to the guest while its link is full. */
static void a_guest_that_is_slower_while_it_moves_is_foreseen(void **state)
{
    static const enum pattern patterns[] = {HOT, UNIFORM};

    for (size_t i = 0; i < G_N_ELEMENTS(patterns); i++) {
        struct guest guest;
        struct dirty_model usual, loaded;
        struct rhythm_profile rhythm;
        struct forecast_input input;
        struct forecast_run outcome, forecast;
        double pace;

        guest_init(&guest, patterns[i], 0.6);
        sample(&guest, &usual, &rhythm);
        assert_true(dirty_model_pace(&usual, &usual) > 0.99);
        guest.speed = 0.7;
        sample(&guest, &loaded, &rhythm);
        pace = dirty_model_pace(&loaded, &usual);
        print_message("# pattern %d at 0.7 of its speed: %.2f\n", patterns[i], pace);
        assert_true(pace > 0.65 && pace < 0.75);
        assert_true(dirty_model_pace(&usual, &loaded) > 0.99);
        input = input_of(&usual, &rhythm);
        input.pace = pace;
        forecast = forecast_precopy(&input, 0);
        outcome = migrate(&guest, &input);
        print_message("# forecast %.2f s, outcome %.2f s\n", (double)forecast.total_ns / 1e9,
                      (double)outcome.total_ns / 1e9);
        assert_true(forecast.is_ending && outcome.is_ending);
        assert_true(error_of(forecast.total_ns, outcome.total_ns) <= TOTAL_ERROR / 2);
        gw_memory_free(guest.memory);
    }
}

/* An idle guest, or one that was seen too shortly, is not called slow. */
static void nothing_is_said_of_the_pace_without_evidence(void **state)
{
    struct dirty_model usual = passing(0.5), other = {0};

    assert_true(dirty_model_pace(&other, &usual) > 0.99);
    assert_true(dirty_model_pace(&usual, &other) > 0.99);
    other = passing(0.25);
    assert_true(dirty_model_pace(&other, &usual) < 0.55);
    for (unsigned i = 0; i < other.n_windows; i++)
        other.windows[i].n = 1;
    assert_true(dirty_model_pace(&other, &usual) > 0.99);
    usual = passing(1e-6);
    other = passing(1e-7);
    assert_true(dirty_model_pace(&other, &usual) > 0.99);
}

static void plan_modes(const struct forecast_input *input, struct gw_plan_status *status)
{
    *status = (struct gw_plan_status){0};
    for (unsigned i = GW_PLAN_PRECOPY; i < GW_PLAN_N_MODES; i++) {
        status->modes[i].mode = (enum gw_plan_mode)i;
        status->modes[i].is_possible = i != GW_PLAN_THROTTLE || input->max_slowdown_permille > 0;
        forecast_mode(input, &status->modes[i]);
    }
    forecast_choose(input, status);
}

static void plan_of(enum pattern pattern, double share, struct forecast_input *input,
                    struct dirty_model *model, struct rhythm_profile *rhythm,
                    struct gw_plan_status *status)
{
    struct guest guest;

    guest_init(&guest, pattern, share);
    sample(&guest, model, rhythm);
    plan_modes(input, status);
    gw_memory_free(guest.memory);
}

static void the_gentlest_mode_is_chosen(void **state)
{
    struct dirty_model model = {0};
    struct rhythm_profile rhythm = {0};
    struct forecast_input input = input_of(&model, &rhythm);
    struct gw_plan_status status;

    plan_of(UNIFORM, 0.25, &input, &model, &rhythm, &status);
    assert_int_equal(status.chosen, GW_PLAN_PRECOPY);
    assert_true(status.is_meeting);
    assert_non_null(strstr(status.reason, "full speed"));
    input.max_slowdown_permille = 900;
    plan_of(UNIFORM, 4, &input, &model, &rhythm, &status);
    assert_int_equal(status.chosen, GW_PLAN_THROTTLE);
    assert_true(status.is_meeting);
    assert_non_null(strstr(status.reason, "slowed down by"));
    input.max_slowdown_permille = 100;
    plan_of(UNIFORM, 4, &input, &model, &rhythm, &status);
    assert_int_equal(status.chosen, GW_PLAN_POSTCOPY);
    assert_non_null(strstr(status.reason, "loss of either host"));
}

/* What it takes to discard such a share of memory that lies anywhere, 4.5 us for each run, and to
 * send what the guest dirties meanwhile elsewhere. */
static double voiding_ns(double left, double share)
{
    double ns = left * (1 - left) * (double)N_PAGES * 4500;

    return ns + ns * share * (1 - left);
}

/* What it writes in the first round before that has come there goes once. Where a third of what is
 * sent comes again, the round ends: at the first look after a third of a pass, and half a stretch.
 * The rest goes in post-copy. */
static void what_a_round_has_still_to_read_is_not_counted(void **state)
{
    static const struct {
        double share, cut; /* of passes and of the round, that is over when it ends */
    } cases[] = {{0.45, 1}, {0.7, 0.37}, {1, 0.26}, {2, 0.14}};
    double first_ns = (double)RAM_BYTES / LINK_BYTES * 1e9;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        double share = cases[i].share, cut = cases[i].cut;
        double again = share * cut * cut / 2, left = 1 - cut + again;
        struct dirty_model model = passing(share);
        struct rhythm_profile rhythm = {0};
        struct forecast_input input = input_of(&model, &rhythm);
        struct forecast_run run;

        input.is_postcopy_asked = true;
        run = forecast_postcopy(&input);
        print_message("# %g passes in the first round: %.3f more, %.3f of it again\n", share,
                      (double)run.total_ns / first_ns - 1, again);
        assert_int_equal(run.rounds, 1);
        assert_true(error_of(run.total_ns,
                             (uint64_t)((1 + again) * first_ns + voiding_ns(left, share))) < 0.02);
    }
}

static void nobody_waits_for_rounds_that_hardly_shrink(void **state)
{
    struct dirty_model model = passing(0.8);
    struct rhythm_profile rhythm = {0};
    struct forecast_input input = input_of(&model, &rhythm);
    struct gw_plan_status status;

    assert_true(forecast_precopy(&input, 0).is_ending && forecast_precopy(&input, 0).is_tedious);
    plan_modes(&input, &status);
    assert_int_equal(status.chosen, GW_PLAN_POSTCOPY);
    assert_true(status.modes[GW_PLAN_PRECOPY].is_meeting && status.is_meeting);
    assert_non_null(strstr(status.reason, "pre-copy would take"));
    /* Unless somebody has said how long it may take. */
    input.max_time_ns = 1000 * NS_PER_S;
    plan_modes(&input, &status);
    assert_int_equal(status.chosen, GW_PLAN_PRECOPY);
    input.max_time_ns = 0;
    model = passing(0.5);
    assert_false(forecast_precopy(&input, 0).is_tedious);
    plan_modes(&input, &status);
    assert_int_equal(status.chosen, GW_PLAN_PRECOPY);
}

/* Whatever budget is named as one that would do, alone, does. */
static void budgets_that_would_do_do(void **state)
{
    struct dirty_model model = {0};
    struct rhythm_profile rhythm = {0};
    struct forecast_input input = input_of(&model, &rhythm), other;
    struct gw_plan_status status;
    const struct gw_plan_forecast *precopy = &status.modes[GW_PLAN_PRECOPY];

    plan_of(UNIFORM, 2, &input, &model, &rhythm, &status);
    assert_false(precopy->is_meeting);
    assert_true(precopy->needs_blackout_ns > BUDGET_NS && precopy->needs_bandwidth_bytes > 0 &&
                precopy->needs_slowdown_permille > 0);
    other = input;
    other.max_blackout_ns = precopy->needs_blackout_ns;
    assert_true(forecast_precopy(&other, 0).is_ending);
    other = input;
    other.link_bytes_per_s = (double)precopy->needs_bandwidth_bytes;
    assert_true(forecast_precopy(&other, 0).is_ending);
    assert_true(forecast_precopy(&input, precopy->needs_slowdown_permille).is_ending);

    /* Too little time is named as that. */
    input.max_time_ns = NS_PER_S;
    plan_of(UNIFORM, 0.25, &input, &model, &rhythm, &status);
    assert_false(precopy->is_meeting);
    assert_true(precopy->needs_time_ns > precopy->total_ns.expected);
    assert_int_equal(precopy->needs_blackout_ns, 0);
    assert_non_null(strstr(precopy->why, "longer than its budget"));
}

static void the_error_bar_holds_the_outcome(void **state)
{
    struct guest guest;
    struct dirty_model model;
    struct rhythm_profile rhythm;
    struct forecast_input input;
    struct forecast_run outcome;
    struct gw_plan_forecast mode = {.mode = GW_PLAN_PRECOPY, .is_possible = true};

    guest_init(&guest, PERIODIC, 0.5);
    sample(&guest, &model, &rhythm);
    input = input_of(&model, &rhythm);
    input.link_doubt = 0.1;
    forecast_mode(&input, &mode);
    outcome = migrate(&guest, &input);
    assert_true(mode.total_ns.low <= mode.total_ns.expected &&
                mode.total_ns.expected <= mode.total_ns.high);
    assert_true(mode.total_ns.low < mode.total_ns.high);
    assert_true(mode.total_ns.low <= outcome.total_ns && outcome.total_ns <= mode.total_ns.high);
    gw_memory_free(guest.memory);
}

/* Whichever moment of its period a migration begins in, the bar holds what comes; and where that
 * moment is known, the forecast is of it alone. */
static void a_migration_begins_anywhere_in_a_period(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct guest guest;
        struct dirty_model model;
        struct rhythm_profile rhythm;
        struct forecast_input input;
        struct forecast_run outcome, known;
        struct gw_plan_forecast mode = {.mode = GW_PLAN_PRECOPY, .is_possible = true};
        struct gw_page_set *meanwhile;

        guest_init(&guest, PERIODIC, 0.5);
        sample(&guest, &model, &rhythm);
        meanwhile = gw_page_set_new(guest.memory);
        guest_run(&guest, i * PERIOD_NS / 4, meanwhile);
        gw_page_set_free(meanwhile);
        input = input_of(&model, &rhythm);
        forecast_mode(&input, &mode);
        input.is_phase_known = true;
        input.phase_ns = rhythm_phase_ns(&rhythm, guest.now_ns);
        known = forecast_precopy(&input, 0);
        outcome = migrate(&guest, &input);
        print_message("# begun at phase %u: %.2f s, forecast %.2f (%.2f to %.2f), %.2f of it\n", i,
                      (double)outcome.total_ns / 1e9, (double)mode.total_ns.expected / 1e9,
                      (double)mode.total_ns.low / 1e9, (double)mode.total_ns.high / 1e9,
                      (double)known.total_ns / 1e9);
        assert_true(mode.total_ns.low <= outcome.total_ns &&
                    outcome.total_ns <= mode.total_ns.high);
        assert_true(error_of(known.total_ns, outcome.total_ns) <= TOTAL_ERROR);
        gw_memory_free(guest.memory);
    }
}

/* Bytes that are left at the best moment, of so many when phase_ns of a period have passed and
 * past_ns of the migration. */
static uint64_t best_left(enum pattern pattern, double share, uint64_t left, uint64_t phase_ns,
                          uint64_t past_ns, uint64_t max_time_ns)
{
    struct guest guest;
    struct dirty_model model;
    struct rhythm_profile rhythm;
    struct forecast_input input;
    struct gw_page_set *meanwhile;

    guest_init(&guest, pattern, share);
    sample(&guest, &model, &rhythm);
    meanwhile = gw_page_set_new(guest.memory);
    while (guest.now_ns % PERIOD_NS != phase_ns)
        guest_run(&guest, STEP_NS, meanwhile);
    gw_page_set_free(meanwhile);
    input = input_of(&model, &rhythm);
    input.costs.bytes_per_s = (uint64_t)LINK_BYTES;
    input.begin_ns = guest.now_ns;
    input.past_ns = past_ns;
    input.max_time_ns = max_time_ns;
    input.is_phase_known = true;
    input.phase_ns = rhythm_phase_ns(&rhythm, guest.now_ns);
    predict_note_due(&input.costs, left, rhythm.n > 0, guest.now_ns - past_ns, guest.now_ns);
    gw_memory_free(guest.memory);
    return forecast_best_left(&input, left, 100 * NS_PER_MS);
}

/* The burst is the last quarter of a period, and takes half of one to send. */
static void a_better_moment_is_seen_if_it_comes_in_time(void **state)
{
    uint64_t left = (uint64_t)(LINK_BYTES * 0.2), begins_ns = PERIOD_NS / 4 * 3;

    /* Before the burst comes all goes out, or it does when the burst is over. */
    assert_true(best_left(PERIODIC, 0.5, left, PERIOD_NS / 4, 4 * NS_PER_S, 0) < left / 10);
    assert_true(best_left(PERIODIC, 0.5, left, begins_ns, 4 * NS_PER_S, 0) < left / 10);
    /* The migration is too short for so long a wait, or has to end. */
    assert_true(best_left(PERIODIC, 0.5, left, begins_ns, NS_PER_S, 0) > left / 2);
    assert_true(best_left(PERIODIC, 0.5, left, begins_ns, 4 * NS_PER_S,
                          4 * NS_PER_S + 100 * NS_PER_MS) > left / 2);
    /* Rounds get smaller, or they do not. */
    assert_true(best_left(UNIFORM, 0.25, left, 0, 4 * NS_PER_S, 0) < left / 10);
    assert_true(best_left(UNIFORM, 0.5, left, 0, 4 * NS_PER_S, 0) > left / 10);
    assert_true(best_left(UNIFORM, 0.5, left, 0, 60 * NS_PER_S, 0) < left / 10);
    assert_true(best_left(UNIFORM, 1, left, 0, 60 * NS_PER_S, 0) > left / 2);
    assert_int_equal(best_left(UNIFORM, 0.5, GW_PAGE_SIZE, 0, 4 * NS_PER_S, 0), GW_PAGE_SIZE);
}

/* A first round that takes half a period has the burst in it, or none of it. */
static void a_short_round_has_the_burst_or_none_of_it(void **state)
{
    struct guest guest;
    struct dirty_model model;
    struct rhythm_profile rhythm;
    struct forecast_input input;
    struct gw_plan_forecast mode = {.mode = GW_PLAN_PRECOPY, .is_possible = true};
    uint64_t least = UINT64_MAX, most = 0;

    guest_init(&guest, PERIODIC, 0.5);
    sample(&guest, &model, &rhythm);
    input = input_of(&model, &rhythm);
    input.first_bytes = (uint64_t)(LINK_BYTES * PERIOD_NS / 1e9 / 2);
    input.is_phase_known = true;
    for (unsigned i = 0; i < 8; i++) {
        struct forecast_run run;

        input.phase_ns = i * PERIOD_NS / 8;
        run = forecast_precopy(&input, 0);
        assert_true(run.is_ending);
        least = MIN(least, run.n_bytes);
        most = MAX(most, run.n_bytes);
    }
    print_message("# %.2f or %.2f times what the round has\n",
                  (double)least / (double)input.first_bytes,
                  (double)most / (double)input.first_bytes);
    assert_true((double)least < 1.1 * (double)input.first_bytes);
    assert_true((double)most > 1.4 * (double)input.first_bytes);
    /* Who does not know the moment says so. */
    input.is_phase_known = false;
    forecast_mode(&input, &mode);
    assert_true(mode.n_bytes.low <= least && mode.n_bytes.high >= most);
    gw_memory_free(guest.memory);
}

static void post_copy_always_ends(void **state)
{
    struct dirty_model model = {0};
    struct rhythm_profile rhythm = {0};
    struct forecast_input input = input_of(&model, &rhythm);
    struct gw_plan_status status;
    const struct gw_plan_forecast *postcopy = &status.modes[GW_PLAN_POSTCOPY];

    for (size_t i = 0; i < G_N_ELEMENTS(shares); i++) {
        plan_of(UNIFORM, shares[i], &input, &model, &rhythm, &status);
        assert_true(postcopy->total_ns.expected < 3 * (uint64_t)(RAM_BYTES / LINK_BYTES * 1e9));
        assert_true(postcopy->blackout_ns.expected < 50 * NS_PER_MS);
        assert_true(postcopy->slowdown_permille.expected < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hot_set),
        cmocka_unit_test(uniform_writes),
        cmocka_unit_test(a_walk_through_memory),
        cmocka_unit_test(periodic_writes),
        cmocka_unit_test(an_idle_guest_goes_in_one_round),
        cmocka_unit_test(sets_are_told_apart),
        cmocka_unit_test(a_slow_down_that_would_do_does),
        cmocka_unit_test(a_guest_that_is_slower_while_it_moves_is_foreseen),
        cmocka_unit_test(nothing_is_said_of_the_pace_without_evidence),
        cmocka_unit_test(the_gentlest_mode_is_chosen),
        cmocka_unit_test(what_a_round_has_still_to_read_is_not_counted),
        cmocka_unit_test(nobody_waits_for_rounds_that_hardly_shrink),
        cmocka_unit_test(budgets_that_would_do_do),
        cmocka_unit_test(the_error_bar_holds_the_outcome),
        cmocka_unit_test(a_migration_begins_anywhere_in_a_period),
        cmocka_unit_test(a_better_moment_is_seen_if_it_comes_in_time),
        cmocka_unit_test(a_short_round_has_the_burst_or_none_of_it),
        cmocka_unit_test(post_copy_always_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
