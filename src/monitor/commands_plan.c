/* SPDX-License-Identifier: MIT */
/*
 * Monitor commands of plans: what a move would be like.
 *
 * Times are in ns, rates in bytes per second; a value that is not sure is {expected, low, high},
 * and a part of it that may never come is null.
 */
#include <string.h>

#include "base/clock.h"
#include "godwit/error.h"
#include "monitor/command.h"

const char *const plan_modes[] = {"auto", "precopy", "postcopy", NULL};

json_t *run_plan(struct monitor *monitor, const json_t *args, GError **error)
{
    struct migration *migration = monitor_migration(monitor);
    struct gw_plan_params params = {.migrate = *migration_params(migration)};
    struct gw_migrate_params *budgets = &params.migrate;

    if (arg_has(args, "downtime-limit"))
        budgets->max_blackout_ns = (uint64_t)arg_int(args, "downtime-limit", 0) * NS_PER_MS;
    if (arg_has(args, "max-bandwidth"))
        budgets->max_bandwidth_bytes = (uint64_t)arg_int(args, "max-bandwidth", 0);
    if (arg_has(args, "max-time"))
        budgets->max_time_ns = (uint64_t)arg_int(args, "max-time", 0) * NS_PER_MS;
    params.max_slowdown_permille = (uint32_t)arg_int(args, "max-slowdown", 0) * 10;
    if (arg_has(args, "allow-postcopy"))
        budgets->forbids_postcopy = !arg_bool(args, "allow-postcopy", true);
    params.sample_ns = (uint64_t)arg_int(args, "sample-time", 0) * NS_PER_MS;
    for (unsigned i = 0; plan_modes[i]; i++)
        if (strcmp(arg_string(args, "mode", ""), plan_modes[i]) == 0)
            budgets->mode = (enum gw_migrate_mode)i;
    return migration_plan(migration, arg_string(args, "uri", NULL), &params, error) ? json_object()
                                                                                    : NULL;
}

json_t *run_plan_cancel(struct monitor *monitor, const json_t *args, GError **error)
{
    struct gw_plan *plan = migration_plan_now(monitor_migration(monitor));

    if (!plan) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_STATE, "there is no plan to end");
        return NULL;
    }
    gw_plan_cancel(plan);
    return json_object();
}

static json_t *number(uint64_t value)
{
    return value == UINT64_MAX ? json_null() : json_integer((json_int_t)value);
}

json_t *range_to_json(const struct gw_range *value)
{
    return json_pack("{s:o, s:o, s:o}", "expected", number(value->expected), "low",
                     number(value->low), "high", number(value->high));
}

static void put(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, number(value));
}

static void put_text(json_t *object, const char *name, const char *text)
{
    if (*text)
        json_object_set_new(object, name, json_string(text));
}

static json_t *mode_info(const struct gw_plan_forecast *mode)
{
    json_t *needs = json_object();
    json_t *info =
        json_pack("{s:s, s:b, s:b, s:i, s:o, s:o, s:o, s:o}", "mode", gw_plan_mode_name(mode->mode),
                  "possible", mode->is_possible, "meets-budgets", mode->is_meeting, "rounds",
                  (int)mode->rounds, "total-ns", range_to_json(&mode->total_ns), "bytes",
                  range_to_json(&mode->n_bytes), "blackout-ns", range_to_json(&mode->blackout_ns),
                  "slowdown-permille", range_to_json(&mode->slowdown_permille));

    if (mode->needs_blackout_ns)
        put(needs, "blackout-ns", mode->needs_blackout_ns);
    if (mode->needs_time_ns)
        put(needs, "time-ns", mode->needs_time_ns);
    if (mode->needs_bandwidth_bytes)
        put(needs, "bandwidth", mode->needs_bandwidth_bytes);
    if (mode->needs_slowdown_permille)
        put(needs, "slowdown-permille", mode->needs_slowdown_permille);
    json_object_set_new(info, "needs", needs);
    put_text(info, "why", mode->why);
    return info;
}

static json_t *guest_info(const struct gw_plan_status *status)
{
    json_t *guest = json_object();

    put(guest, "ram-bytes", status->ram_bytes);
    put(guest, "used-bytes", status->used_bytes);
    put(guest, "zero-bytes", status->zero_bytes);
    put(guest, "dirty-rate", status->dirty_bytes_per_s);
    put(guest, "hot-bytes", status->hot_bytes);
    put(guest, "sampling-cost-permille", status->sampling_cost_permille);
    if (status->period_ns) {
        put(guest, "period-ns", status->period_ns);
        put(guest, "quiet-permille", status->quiet_permille);
    }
    return guest;
}

static json_t *link_info(const struct gw_plan_status *status)
{
    json_t *link = json_pack("{s:b}", "measured", status->is_link_measured);

    if (status->is_link_measured) {
        json_object_set_new(link, "bandwidth", range_to_json(&status->bandwidth_bytes_per_s));
        put(link, "round-trip-ns", status->round_trip_ns);
    }
    put(link, "probe-bytes", status->probe_bytes);
    put_text(link, "note", status->link_note);
    return link;
}

static json_t *findings_of(const char *text)
{
    json_t *list = json_array();
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (char **line = lines; *line && **line; line++)
        json_array_append_new(list, json_string(*line));
    return list;
}

json_t *run_query_plan(struct monitor *monitor, const json_t *args, GError **error)
{
    struct gw_plan *plan = migration_plan_now(monitor_migration(monitor));
    struct gw_plan_status status;
    json_t *info, *modes;

    if (!plan)
        return json_pack("{s:s}", "status", "none");
    gw_plan_get_status(plan, &status);
    info = json_pack("{s:s}", "status", gw_plan_state_name(status.state));
    put(info, "elapsed-ns", status.elapsed_ns);
    put(info, "sample-ns", status.sample_ns);
    put_text(info, "error-desc", status.failure.reason);
    if (status.state != GW_PLAN_DONE)
        return info;
    json_object_set_new(info, "guest", guest_info(&status));
    json_object_set_new(info, "link", link_info(&status));
    if (status.has_verdict) {
        json_object_set_new(info, "accepted", json_boolean(status.is_accepted));
        json_object_set_new(info, "findings", findings_of(status.findings));
    }
    put_text(info, "reason", status.reason);
    if (!status.has_forecast)
        return info;
    modes = json_array();
    for (unsigned i = GW_PLAN_PRECOPY; i < GW_PLAN_N_MODES; i++)
        json_array_append_new(modes, mode_info(&status.modes[i]));
    json_object_set_new(info, "modes", modes);
    json_object_set_new(info, "chosen", json_string(gw_plan_mode_name(status.chosen)));
    json_object_set_new(info, "meets-budgets", json_boolean(status.is_meeting));
    return info;
}
