/* SPDX-License-Identifier: MIT */
/*
 * Modes, post-copy and lost links in the monitor: their part of parameters and of query-migrate.
 *
 * Names are QEMU's where it has one for the same: postcopy-requests in ram{}, the capabilities
 * postcopy-ram (that it is not forbidden) and pause-before-switchover. The latter and mode,
 * at-max-time, reconnect-time, forbid-postcopy are parameters of ours.
 */
#include <string.h>

#include "base/clock.h"
#include "monitor/command.h"

/* Threads that query-migrate lists at most. */
#define MAX_WAITS 64

/* ---- actions --------------------------------------------------------------------------------- */

json_t *run_migrate_start_postcopy(struct monitor *monitor, const json_t *args, GError **error)
{
    return migration_start_postcopy(monitor_migration(monitor), error) ? json_object() : NULL;
}

/* QEMU's clients name the state that they believe it waits in; there is only one here. */
json_t *run_migrate_continue(struct monitor *monitor, const json_t *args, GError **error)
{
    return migration_continue(monitor_migration(monitor), error) ? json_object() : NULL;
}

json_t *run_migrate_pause(struct monitor *monitor, const json_t *args, GError **error)
{
    return migration_pause(monitor_migration(monitor), error) ? json_object() : NULL;
}

json_t *run_migrate_recover(struct monitor *monitor, const json_t *args, GError **error)
{
    bool ok = migration_recover(monitor_migration(monitor), arg_string(args, "uri", NULL), error);
    return ok ? json_object() : NULL;
}

/* ---- parameters ------------------------------------------------------------------------------ */

/* In the order of enum gw_migrate_mode and enum gw_at_max_time. */
const char *const postcopy_modes[] = {
    [GW_MODE_AUTO] = "auto", [GW_MODE_PRECOPY] = "precopy", [GW_MODE_POSTCOPY] = "postcopy", NULL};
const char *const postcopy_at_max_times[] = {[GW_AT_MAX_TIME_CANCEL] = "cancel",
                                             [GW_AT_MAX_TIME_POSTCOPY] = "postcopy",
                                             [GW_AT_MAX_TIME_STOP_AND_COPY] = "stop-and-copy",
                                             NULL};

/* Of a word that was checked against the table. */
static unsigned index_of(const char *const *words, const char *word)
{
    unsigned i = 0;

    while (words[i + 1] && strcmp(words[i], word) != 0)
        i++;
    return i;
}

void postcopy_set_params(struct gw_migrate_params *params, const json_t *args)
{
    if (arg_has(args, "mode"))
        params->mode = (enum gw_migrate_mode)index_of(postcopy_modes, arg_string(args, "mode", ""));
    if (arg_has(args, "at-max-time"))
        params->at_max_time = (enum gw_at_max_time)index_of(postcopy_at_max_times,
                                                            arg_string(args, "at-max-time", ""));
    if (arg_has(args, "reconnect-time"))
        params->reconnect_limit_ns = (uint64_t)arg_int(args, "reconnect-time", 0) * NS_PER_MS;
    params->waits_before_switchover =
        arg_bool(args, "pause-before-switchover", params->waits_before_switchover);
    params->forbids_postcopy = arg_bool(args, "forbid-postcopy", params->forbids_postcopy);
}

void postcopy_put_params(json_t *object, const struct gw_migrate_params *params)
{
    json_object_set_new(object, "mode", json_string(postcopy_modes[params->mode]));
    json_object_set_new(object, "at-max-time",
                        json_string(postcopy_at_max_times[params->at_max_time]));
    json_object_set_new(object, "reconnect-time",
                        json_integer((json_int_t)(params->reconnect_limit_ns / NS_PER_MS)));
    json_object_set_new(object, "pause-before-switchover",
                        json_boolean(params->waits_before_switchover));
    json_object_set_new(object, "forbid-postcopy", json_boolean(params->forbids_postcopy));
}

/* ---- query-migrate --------------------------------------------------------------------------- */

static void put_int(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

static json_t *wait_to_json(const struct gw_fault_wait *wait)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "name", wait->name, "count",
                     (json_int_t)wait->faults, "stall-ns", (json_int_t)wait->stall_ns, "p50-ns",
                     (json_int_t)wait->p50_ns, "p99-ns", (json_int_t)wait->p99_ns, "max-ns",
                     (json_int_t)wait->max_ns);
}

static json_t *latency_to_json(uint64_t count, uint64_t p50_ns, uint64_t p99_ns, uint64_t max_ns)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "count", (json_int_t)count, "p50-ns",
                     (json_int_t)p50_ns, "p99-ns", (json_int_t)p99_ns, "max-ns",
                     (json_int_t)max_ns);
}

/* The same at both sides. faults: what has no threads yet. */
static void put_faults(json_t *info, json_t *faults, const struct gw_fault_wait *waits, uint32_t n)
{
    json_t *threads = json_array();
    uint64_t stall_ns = 0;

    for (uint32_t i = 0; i < n; i++) {
        json_array_append_new(threads, wait_to_json(&waits[i]));
        stall_ns += MIN(waits[i].stall_ns, INT64_MAX - stall_ns);
    }
    put_int(faults, "stall-ns", stall_ns);
    json_object_set_new(faults, "threads", threads);
    json_object_set_new(info, "faults", faults);
}

void postcopy_put_source(json_t *info, struct gw_source *source, const struct gw_source_status *s)
{
    struct gw_fault_wait waits[MAX_WAITS];

    json_object_set_new(info, "postcopy", json_boolean(s->is_postcopy));
    put_int(info, "reconnects", s->reconnects);
    if (*s->postcopy_lack)
        json_object_set_new(info, "postcopy-lack", json_string(s->postcopy_lack));
    if (!s->is_postcopy)
        return;
    put_int(json_object_get(info, "ram"), "postcopy-requests", s->pages_requested);
    put_int(info, "pages-left", s->pages_left);
    json_object_set_new(
        info, "served",
        latency_to_json(s->requests_served, s->serve_p50_ns, s->serve_p99_ns, s->serve_max_ns));
    if (s->has_fault_waits)
        put_faults(info,
                   latency_to_json(s->faults, s->fault_p50_ns, s->fault_p99_ns, s->fault_max_ns),
                   waits, gw_source_get_fault_waits(source, waits, MAX_WAITS));
}

void postcopy_put_destination(json_t *info, struct gw_destination *destination,
                              const struct gw_destination_status *s)
{
    struct gw_fault_wait waits[MAX_WAITS];

    json_object_set_new(info, "postcopy", json_boolean(s->is_postcopy));
    put_int(info, "reconnects", s->reconnects);
    if (!s->is_postcopy)
        return;
    put_int(info, "pages-missing", s->pages_missing);
    put_faults(info, latency_to_json(s->faults, s->fault_p50_ns, s->fault_p99_ns, s->fault_max_ns),
               waits, gw_destination_get_fault_waits(destination, waits, MAX_WAITS));
}
