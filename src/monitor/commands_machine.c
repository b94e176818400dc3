/* SPDX-License-Identifier: MIT */
/* Monitor commands and events of the machine itself. */
#include "base/latency.h"
#include "godwit/error.h"
#include "monitor/command.h"

json_t *run_query_name(struct monitor *monitor, const json_t *args, GError **error)
{
    return json_pack("{s:s}", "name", machine_name(monitor_machine(monitor)));
}

json_t *run_query_status(struct monitor *monitor, const json_t *args, GError **error)
{
    enum life_state state = machine_state(monitor_machine(monitor));
    return json_pack("{s:s, s:b, s:s}", "status", life_state_name(state), "running",
                     life_is_active(state), "detail", life_state_phrase(state));
}

json_t *run_query_cpus_fast(struct monitor *monitor, const json_t *args, GError **error)
{
    struct machine *machine = monitor_machine(monitor);
    json_t *list = json_array();

    for (unsigned i = 0; i < machine_n_cpus(machine); i++) {
        struct cpu_stats stats = {0};
        machine_cpu_stats(machine, i, &stats);
        g_autofree char *path = g_strdup_printf("/machine/cpu[%u]", i);
        json_array_append_new(
            list,
            json_pack("{s:i, s:s, s:i, s:{s:i}, s:s, s:{s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I}}",
                      "cpu-index", (int)i, "qom-path", path, "thread-id",
                      (int)machine_cpu_thread(machine, i), "props", "core-id", (int)i, "target",
                      machine_target(machine), "stats", "instructions",
                      (json_int_t)stats.instructions, "exits", (json_int_t)stats.exits, "wfi-ns",
                      (json_int_t)stats.wfi_ns, "dirtied-pages", (json_int_t)stats.dirtied_pages,
                      "ring-full", (json_int_t)stats.ring_full, "throttle",
                      stats.throttle_permille / 10.0, "throttled-ns",
                      (json_int_t)stats.throttled_ns, "throttled-slices",
                      (json_int_t)stats.throttled_slices));
    }
    return list;
}

json_t *run_query_memory_size_summary(struct monitor *monitor, const json_t *args, GError **error)
{
    return json_pack("{s:I, s:I}", "base-memory",
                     (json_int_t)machine_memory_bytes(monitor_machine(monitor)), "plugged-memory",
                     (json_int_t)0);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void on_done(void *opaque, const GError *error)
{
    monitor_call_finish(opaque, NULL, error);
}

void start_stop(struct monitor_call *call, struct monitor *monitor, const json_t *args)
{
    machine_submit(monitor_machine(monitor), MACHINE_OP_STOP, on_done, call);
}

void start_cont(struct monitor_call *call, struct monitor *monitor, const json_t *args)
{
    machine_submit(monitor_machine(monitor), MACHINE_OP_CONT, on_done, call);
}

void start_system_reset(struct monitor_call *call, struct monitor *monitor, const json_t *args)
{
    machine_submit(monitor_machine(monitor), MACHINE_OP_RESET, on_done, call);
}

void start_system_powerdown(struct monitor_call *call, struct monitor *monitor, const json_t *args)
{
    machine_submit(monitor_machine(monitor), MACHINE_OP_POWERDOWN, on_done, call);
}

json_t *run_quit(struct monitor *monitor, const json_t *args, GError **error)
{
    const char *why = migration_needs_us(monitor_migration(monitor));

    if (why && !arg_bool(args, "force", false)) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_STATE, why);
        return NULL;
    }
    monitor_quit(monitor);
    return json_object();
}

json_t *run_announce_self(struct monitor *monitor, const json_t *args, GError **error)
{
    struct machine_announce how = {
        .initial_ms = (unsigned)arg_int(args, "initial", 50),
        .max_ms = (unsigned)arg_int(args, "max", 550),
        .step_ms = (unsigned)arg_int(args, "step", 100),
        .rounds = (unsigned)arg_int(args, "rounds", 5),
    };
    machine_announce(monitor_machine(monitor), &how);
    return json_object();
}

/* ---- latency --------------------------------------------------------------------------------- */

static json_t *latency_to_json(const struct latency_summary *summary)
{
    const struct histogram_snapshot *ns = &summary->ns;
    json_t *worst = json_array();

    for (size_t i = 0; i < HISTOGRAM_N_WORST && ns->worst[i].value > 0; i++)
        json_array_append_new(worst,
                              json_pack("{s:I, s:I, s:I}", "ns", (json_int_t)ns->worst[i].value,
                                        "at-real-ns", (json_int_t)ns->worst[i].at_real_ns, "detail",
                                        (json_int_t)ns->worst[i].detail));
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "name", summary->name,
                     "count", (json_int_t)ns->count, "sum-ns", (json_int_t)ns->sum, "p50-ns",
                     (json_int_t)ns->p50, "p90-ns", (json_int_t)ns->p90, "p99-ns",
                     (json_int_t)ns->p99, "p999-ns", (json_int_t)ns->p999, "max-ns",
                     (json_int_t)ns->max, "worst", worst);
}

json_t *run_query_latency(struct monitor *monitor, const json_t *args, GError **error)
{
    struct latency_book *book = machine_latency_book(monitor_machine(monitor));
    size_t n;
    struct latency_summary *summaries = latency_book_snapshot(book, &n);
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, latency_to_json(&summaries[i]));
    latency_summaries_free(summaries, n);
    if (arg_bool(args, "reset", false))
        latency_book_reset(book);
    return list;
}

/* ---- events ---------------------------------------------------------------------------------- */

void monitor_on_machine_notice(void *opaque, const struct machine_notice *notice)
{
    static const char *const names[] = {
        [MACHINE_NOTICE_STOP] = "STOP",           [MACHINE_NOTICE_RESUME] = "RESUME",
        [MACHINE_NOTICE_RESET] = "RESET",         [MACHINE_NOTICE_SHUTDOWN] = "SHUTDOWN",
        [MACHINE_NOTICE_POWERDOWN] = "POWERDOWN", [MACHINE_NOTICE_BROKEN] = "GUEST_PANICKED",
    };
    json_t *data = NULL;

    switch (notice->kind) {
    case MACHINE_NOTICE_RESET:
    case MACHINE_NOTICE_SHUTDOWN:
        data = json_pack("{s:b, s:s}", "guest", notice->is_by_guest, "reason", notice->reason);
        break;
    case MACHINE_NOTICE_BROKEN:
        data = json_pack("{s:s, s:s}", "action", "pause", "detail",
                         notice->detail ? notice->detail : "");
        break;
    case MACHINE_NOTICE_ESCAPE:
        return;
    default:
        break;
    }
    monitor_emit(opaque, names[notice->kind], data, notice->real_ns);
}
