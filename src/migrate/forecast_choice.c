/* SPDX-License-Identifier: MIT */
/* Says which ways of moving meet the budgets, what would do where none does, and which is taken. */
#include <math.h>

#include "base/clock.h"
#include "migrate/forecast.h"

#define SLOWDOWN_STEP   25u /* permille */
#define MAX_SLOWDOWN    990u
#define NEED_MARGIN     1.1 /* a budget that would do has this much to spare */
#define MAX_LINK_FACTOR 256.0
#define NS              1e9

/* ---- budgets ----------------------------------------------------------------------------------
 */

static bool is_meeting(const struct forecast_input *input, const struct forecast_run *run)
{
    return run->is_ending &&
           (!input->max_blackout_ns || run->blackout_ns <= input->max_blackout_ns) &&
           (!input->max_time_ns || run->total_ns <= input->max_time_ns);
}

/* The least slowdown in [0, limit] with which the budgets are met; limit + 1: none. */
static uint32_t least_slowdown(const struct forecast_input *input, uint32_t limit)
{
    for (uint32_t slowdown = 0; slowdown <= limit; slowdown += SLOWDOWN_STEP) {
        struct forecast_run run = forecast_precopy(input, slowdown);

        if (is_meeting(input, &run))
            return slowdown;
    }
    return limit + 1;
}

/* Up to two digits, so that it reads as a budget and not as a measurement. */
static uint64_t round_up(double value)
{
    double step = pow(10, floor(log10(fmax(value, 1)))) / 10;

    return (uint64_t)(ceil(value / fmax(step, 1)) * fmax(step, 1));
}

/* A rate of link and budget with which pre-copy would meet the others; 0: none. */
static uint64_t bandwidth_that_would_do(const struct forecast_input *input)
{
    double factor = 1;
    struct forecast_input faster = *input;

    faster.max_bandwidth_bytes = 0;
    for (; factor <= MAX_LINK_FACTOR; factor *= 1.05) {
        struct forecast_run run;

        faster.link_bytes_per_s = forecast_link_in_force(input, input->link_bytes_per_s) * factor;
        run = forecast_precopy(&faster, 0);
        if (is_meeting(&faster, &run))
            return round_up(faster.link_bytes_per_s);
    }
    return 0;
}

/* What would do where pre-copy does not meet a budget: a longer blackout, and with it the time. */
static void needs_of_precopy(const struct forecast_input *input, const struct forecast_run *run,
                             struct gw_plan_forecast *mode)
{
    struct forecast_input patient = *input;
    struct forecast_run found = *run;
    uint32_t slowdown;

    if (!run->is_ending && run->least_blackout_ns != FORECAST_NEVER) {
        mode->needs_blackout_ns = round_up((double)run->least_blackout_ns * NEED_MARGIN);
        patient.max_blackout_ns = mode->needs_blackout_ns;
        found = forecast_precopy(&patient, run->slowdown_permille);
    }
    if (input->max_time_ns && found.is_ending && found.total_ns > input->max_time_ns)
        mode->needs_time_ns = round_up((double)found.total_ns * NEED_MARGIN);
    mode->needs_bandwidth_bytes = bandwidth_that_would_do(input);
    slowdown = least_slowdown(input, MAX_SLOWDOWN);
    mode->needs_slowdown_permille = slowdown <= MAX_SLOWDOWN ? slowdown : 0;
}

static void needs_of_postcopy(const struct forecast_input *input, const struct forecast_run *run,
                              struct gw_plan_forecast *mode)
{
    if (input->max_blackout_ns && run->blackout_ns > input->max_blackout_ns)
        mode->needs_blackout_ns = round_up((double)run->blackout_ns * NEED_MARGIN);
    if (input->max_time_ns && run->total_ns > input->max_time_ns)
        mode->needs_time_ns = round_up((double)run->total_ns * NEED_MARGIN);
}

/* ---- one mode ---------------------------------------------------------------------------------
 */

static void say_what_lacks(const struct forecast_input *input, const struct forecast_run *run,
                           struct gw_plan_forecast *mode)
{
    if (mode->is_meeting || mode->why[0])
        return;
    if (!run->is_ending && run->least_blackout_ns == FORECAST_NEVER)
        g_snprintf(mode->why, sizeof mode->why, "nothing is known about the link");
    else if (!run->is_ending)
        g_snprintf(mode->why, sizeof mode->why,
                   "rounds do not get smaller: the blackout would be %.0f ms, %.0f ms over its "
                   "budget",
                   (double)run->least_blackout_ns / 1e6,
                   (double)(run->least_blackout_ns - input->max_blackout_ns) / 1e6);
    else if (input->max_blackout_ns && run->blackout_ns > input->max_blackout_ns)
        g_snprintf(mode->why, sizeof mode->why, "the blackout is %.1f ms over its budget",
                   (double)(run->blackout_ns - input->max_blackout_ns) / 1e6);
    else
        g_snprintf(mode->why, sizeof mode->why, "it takes %.1f s longer than its budget",
                   (double)(run->total_ns - input->max_time_ns) / NS);
}

void forecast_mode(const struct forecast_input *input, struct gw_plan_forecast *mode)
{
    bool is_postcopy = mode->mode == GW_PLAN_POSTCOPY;
    uint32_t slowdown = 0;
    struct forecast_run expected;

    if (mode->mode == GW_PLAN_THROTTLE) {
        slowdown = least_slowdown(input, MIN(input->max_slowdown_permille, MAX_SLOWDOWN));
        slowdown = MIN(slowdown, input->max_slowdown_permille);
    }
    expected = forecast_play(input, slowdown, mode);
    mode->rounds = expected.rounds;
    mode->is_meeting = is_meeting(input, &expected);
    if (!mode->is_meeting && is_postcopy)
        needs_of_postcopy(input, &expected, mode);
    else if (!mode->is_meeting)
        needs_of_precopy(input, &expected, mode);
    say_what_lacks(input, &expected, mode);
}

/* ---- the choice -------------------------------------------------------------------------------
 */

static void add_needs(GString *text, const struct gw_plan_forecast *mode)
{
    const char *join = "";

    if (mode->needs_blackout_ns) {
        g_string_append_printf(text, " a blackout of %.0f ms",
                               (double)mode->needs_blackout_ns / 1e6);
        join = mode->needs_time_ns ? " together with" : ", or";
    }
    if (mode->needs_time_ns) {
        g_string_append_printf(text, "%s a time of %.1f s", join, (double)mode->needs_time_ns / NS);
        join = ", or";
    }
    if (mode->needs_bandwidth_bytes) {
        g_string_append_printf(text, "%s a link of %.0f MiB/s", join,
                               (double)mode->needs_bandwidth_bytes / (1 << 20));
        join = ", or";
    }
    if (mode->needs_slowdown_permille)
        g_string_append_printf(text, "%s a slow-down of %.1f %%", join,
                               mode->needs_slowdown_permille / 10.0);
}

/* Pre-copy would meet the budgets, and the engine would not wait for it (migrate/predict.h). */
static bool is_too_tedious(const struct forecast_input *input, const struct gw_plan_status *status)
{
    const struct gw_plan_forecast *postcopy = &status->modes[GW_PLAN_POSTCOPY];

    return !input->max_time_ns && !input->max_slowdown_permille && postcopy->is_possible &&
           postcopy->is_meeting && forecast_precopy(input, 0).is_tedious;
}

static void say_choice(struct gw_plan_status *status, const struct gw_plan_forecast *chosen)
{
    g_autoptr(GString) text = g_string_new(NULL);
    const struct gw_plan_forecast *precopy = &status->modes[GW_PLAN_PRECOPY];

    if (chosen->is_meeting && chosen->mode == GW_PLAN_PRECOPY) {
        g_string_append(text, "pre-copy meets the budgets and leaves the guest its full speed");
    } else if (chosen->is_meeting && chosen->mode == GW_PLAN_THROTTLE) {
        g_string_append_printf(
            text,
            "pre-copy alone does not meet the budgets (%s); with the guest slowed "
            "down by %.1f %% it does",
            precopy->why, (double)chosen->slowdown_permille.expected / 10);
    } else if (chosen->is_meeting && precopy->is_meeting && precopy->is_possible) {
        g_string_append_printf(text,
                               "pre-copy would take %.1f s, post-copy takes %.1f s. From its "
                               "switchover to its end the loss of either host is the loss of the "
                               "guest",
                               (double)precopy->total_ns.expected / NS,
                               (double)chosen->total_ns.expected / NS);
    } else if (chosen->is_meeting) {
        g_string_append_printf(
            text,
            "pre-copy does not meet the budgets (%s); post-copy does. From its "
            "switchover to its end the loss of either host is the loss of the guest",
            precopy->why);
    } else {
        g_string_append_printf(text, "the budgets cannot be met: %s", chosen->why);
        if (chosen->needs_blackout_ns || chosen->needs_time_ns || chosen->needs_bandwidth_bytes ||
            chosen->needs_slowdown_permille) {
            g_string_append(text, "; what would do:");
            add_needs(text, chosen);
        }
    }
    g_strlcpy(status->reason, text->str, sizeof status->reason);
}

void forecast_choose(const struct forecast_input *input, struct gw_plan_status *status)
{
    enum gw_plan_mode chosen = GW_PLAN_N_MODES, ending = GW_PLAN_PRECOPY;

    for (unsigned i = GW_PLAN_PRECOPY; i < GW_PLAN_N_MODES; i++) {
        const struct gw_plan_forecast *mode = &status->modes[i];

        if (mode->is_possible && mode->is_meeting && chosen == GW_PLAN_N_MODES)
            chosen = mode->mode;
        if (mode->is_possible && mode->total_ns.expected != FORECAST_NEVER &&
            status->modes[ending].total_ns.expected == FORECAST_NEVER)
            ending = mode->mode;
    }
    if (chosen == GW_PLAN_PRECOPY && is_too_tedious(input, status))
        chosen = GW_PLAN_POSTCOPY;
    status->is_meeting = chosen != GW_PLAN_N_MODES;
    status->chosen = status->is_meeting ? chosen : ending;
    say_choice(status, &status->modes[status->chosen]);
}
