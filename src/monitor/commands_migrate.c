/* SPDX-License-Identifier: MIT */
/*
 * Monitor commands and events of migration.
 *
 * Names and units are QEMU's where the meaning is the same: status words, ram{}, times in ms. What
 * QEMU has no word for stands beside them: "state" is the engine's own state ("in-doubt" is told to
 * QEMU's clients as "device": the guest is stopped and nothing has ended).
 */
#include "base/clock.h"
#include "godwit/error.h"
#include "monitor/command.h"

#define MBIT_PER_BYTE (8.0 / 1e6)

/* ---- actions --------------------------------------------------------------------------------- */

json_t *run_migrate(struct monitor *monitor, const json_t *args, GError **error)
{
    struct migration *migration = monitor_migration(monitor);
    const char *uri = arg_string(args, "uri", NULL);
    bool ok = arg_bool(args, "resume", false) ? migration_recover(migration, uri, error)
                                              : migration_start(migration, uri, error);
    return ok ? json_object() : NULL;
}

json_t *run_snapshot_save(struct monitor *monitor, const json_t *args, GError **error)
{
    bool ok = migration_save(monitor_migration(monitor), arg_string(args, "uri", NULL),
                             arg_bool(args, "live", false), error);
    return ok ? json_object() : NULL;
}

json_t *run_migrate_incoming(struct monitor *monitor, const json_t *args, GError **error)
{
    bool ok = migration_listen(monitor_migration(monitor), arg_string(args, "uri", NULL),
                               arg_bool(args, "lazy", false), arg_bool(args, "exit-on-error", true),
                               error);
    return ok ? json_object() : NULL;
}

json_t *run_migrate_cancel(struct monitor *monitor, const json_t *args, GError **error)
{
    return migration_cancel(monitor_migration(monitor), error) ? json_object() : NULL;
}

json_t *run_resolve(struct monitor *monitor, const json_t *args, GError **error)
{
    bool here = g_str_equal(arg_string(args, "decision", ""), "run-here");
    enum gw_resolution resolution = here ? GW_RESOLVE_RUN_HERE : GW_RESOLVE_RELEASE;
    return migration_resolve(monitor_migration(monitor), resolution, error) ? json_object() : NULL;
}

static const char *const ram_words[] = {
    [GW_RAM_AUTO] = "auto", [GW_RAM_COPY] = "copy", [GW_RAM_SHARE] = "share"};

json_t *run_migrate_set_parameters(struct monitor *monitor, const json_t *args, GError **error)
{
    struct gw_migrate_params params = *migration_params(monitor_migration(monitor));

    if (arg_has(args, "downtime-limit"))
        params.max_blackout_ns = (uint64_t)arg_int(args, "downtime-limit", 0) * NS_PER_MS;
    if (arg_has(args, "max-bandwidth"))
        params.max_bandwidth_bytes = (uint64_t)arg_int(args, "max-bandwidth", 0);
    if (arg_has(args, "max-time"))
        params.max_time_ns = (uint64_t)arg_int(args, "max-time", 0) * NS_PER_MS;
    if (arg_has(args, "multifd-channels"))
        params.channels = (uint32_t)arg_int(args, "multifd-channels", 1);
    if (arg_has(args, "silence-limit"))
        params.silence_limit_ns = (uint64_t)arg_int(args, "silence-limit", 0) * NS_PER_MS;
    if (arg_has(args, "max-slowdown"))
        params.max_slowdown_permille = (uint32_t)arg_int(args, "max-slowdown", 0) * 10;
    for (unsigned i = 0; i < G_N_ELEMENTS(ram_words); i++)
        if (g_str_equal(arg_string(args, "ram", ""), ram_words[i]))
            params.ram = (enum gw_ram_way)i;
    encoding_set_params(&params, args);
    postcopy_set_params(&params, args);
    migration_set_params(monitor_migration(monitor), &params);
    return json_object();
}

json_t *run_query_migrate_parameters(struct monitor *monitor, const json_t *args, GError **error)
{
    const struct gw_migrate_params *params = migration_params(monitor_migration(monitor));
    json_t *answer = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "ram", ram_words[params->ram],
                               "downtime-limit", (json_int_t)(params->max_blackout_ns / NS_PER_MS),
                               "max-bandwidth", (json_int_t)params->max_bandwidth_bytes, "max-time",
                               (json_int_t)(params->max_time_ns / NS_PER_MS), "multifd-channels",
                               (json_int_t)params->channels, "silence-limit",
                               (json_int_t)(params->silence_limit_ns / NS_PER_MS));
    json_object_set_new(answer, "max-slowdown",
                        json_integer((json_int_t)params->max_slowdown_permille / 10));
    encoding_put_params(answer, params);
    postcopy_put_params(answer, params);
    return answer;
}

/* ---- query-migrate --------------------------------------------------------------------------- */

static const char *const source_words[GW_SOURCE_N_STATES] = {
    [GW_SOURCE_CONNECTING] = "setup",
    [GW_SOURCE_HANDSHAKE] = "setup",
    [GW_SOURCE_ROUNDS] = "active",
    [GW_SOURCE_BLACKOUT] = "device",
    [GW_SOURCE_COMMITTED] = "device",
    [GW_SOURCE_IN_DOUBT] = "device",
    [GW_SOURCE_SAVING] = "device",
    [GW_SOURCE_COMPLETED] = "completed",
    [GW_SOURCE_SAVED] = "completed",
    [GW_SOURCE_FAILED] = "failed",
    [GW_SOURCE_CANCELLED] = "cancelled",
    [GW_SOURCE_RECONNECTING] = "active",
    [GW_SOURCE_POSTCOPY] = "postcopy-active",
    [GW_SOURCE_PAUSED] = "postcopy-paused",
    [GW_SOURCE_LOST] = "failed",
};

static const char *const destination_words[GW_DESTINATION_N_STATES] = {
    [GW_DESTINATION_LISTENING] = "setup",        [GW_DESTINATION_HANDSHAKE] = "setup",
    [GW_DESTINATION_RECEIVING] = "active",       [GW_DESTINATION_LOADED] = "device",
    [GW_DESTINATION_RUNNING] = "completed",      [GW_DESTINATION_DISOWNED] = "failed",
    [GW_DESTINATION_WAITING] = "active",         [GW_DESTINATION_POSTCOPY] = "postcopy-active",
    [GW_DESTINATION_PAUSED] = "postcopy-paused",
};

const char *migrate_source_word(const struct gw_source_status *s)
{
    if (s->is_waiting_before_switchover)
        return "pre-switchover";
    return s->state == GW_SOURCE_SAVING && s->is_live ? "active" : source_words[s->state];
}

const char *migrate_destination_word(enum gw_destination_state state)
{
    return destination_words[state];
}

static void put_int(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

static void put_ms(json_t *object, const char *name, uint64_t ns)
{
    put_int(object, name, (ns + NS_PER_MS / 2) / NS_PER_MS);
}

static void put_failure(json_t *object, const struct gw_migrate_failure *failure)
{
    if (failure->side == GW_SIDE_NONE)
        return;
    json_object_set_new(object, "error-desc", json_string(failure->reason));
    json_object_set_new(object, "error-side", json_string(gw_side_name(failure->side)));
    json_object_set_new(object, "error-code", json_string(gw_error_code_name(failure->code)));
}

static void put_note(json_t *object, const char *note)
{
    if (*note)
        json_object_set_new(object, "note", json_string(note));
}

/* What moving it costs this side: CPU time of the engine's threads, the guest's not included. */
static void put_cost(json_t *info, uint64_t cpu_ns, uint64_t n_bytes)
{
    put_int(info, "cpu-ns", cpu_ns);
    if (n_bytes)
        json_object_set_new(info, "cpu-seconds-per-gib",
                            json_real((double)cpu_ns / NS_PER_S / ((double)n_bytes / (1 << 30))));
}

static json_t *source_ram(const struct gw_source_status *s)
{
    uint64_t normal_bytes = s->pages_plain * GW_PAGE_SIZE;
    uint64_t total_ns = s->total_ns > s->setup_ns ? s->total_ns - s->setup_ns : 1;
    json_t *ram = json_object();

    put_int(ram, "transferred", s->bytes_sent);
    put_int(ram, "remaining", s->remaining_bytes);
    put_int(ram, "total", s->ram_bytes);
    put_int(ram, "duplicate", s->pages_zero + s->pages_skipped);
    put_int(ram, "normal", s->pages_plain);
    put_int(ram, "normal-bytes", normal_bytes);
    put_int(ram, "dirty-pages-rate", s->dirty_bytes_per_s / GW_PAGE_SIZE);
    put_int(ram, "dirty-sync-count", s->round);
    put_int(ram, "page-size", GW_PAGE_SIZE);
    put_int(ram, "pages-per-second",
            (uint64_t)((double)(s->pages_plain + s->pages_zero) * 1e9 / (double)total_ns));
    put_int(ram, "multifd-bytes", s->page_bytes_sent);
    json_object_set_new(ram, "mbps", json_real((double)s->bandwidth_bytes_per_s * MBIT_PER_BYTE));
    put_int(ram, "pages-resent", s->pages_resent);
    json_object_set_new(ram, "shared", json_boolean(s->is_ram_shared));
    return ram;
}

/* What was thought early on, to be held against total-ns and blackout-ns. */
static json_t *forecast_of(const struct gw_source_status *s)
{
    return json_pack("{s:i, s:o, s:o}", "round", (int)s->forecast_round, "total-ns",
                     range_to_json(&s->forecast_total_ns), "blackout-ns",
                     range_to_json(&s->forecast_blackout_ns));
}

static json_t *source_info(struct gw_source *source, const struct gw_source_status *s,
                           bool is_snapshot)
{
    json_t *info = json_pack("{s:s, s:s, s:s, s:b, s:b}", "status", migrate_source_word(s), "role",
                             "source", "state", gw_source_state_name(s->state), "snapshot",
                             is_snapshot, "live", s->is_live);

    put_ms(info, "total-time", s->total_ns);
    put_ms(info, "setup-time", s->setup_ns);
    if (s->state == GW_SOURCE_COMPLETED || s->state == GW_SOURCE_SAVED ||
        s->state == GW_SOURCE_POSTCOPY || s->state == GW_SOURCE_PAUSED)
        put_ms(info, "downtime", s->blackout_ns);
    else
        put_ms(info, "expected-downtime", s->predicted_blackout_ns);
    json_object_set_new(info, "ram", source_ram(s));
    encoding_put_status(info, s);
    put_int(info, "total-ns", s->total_ns);
    put_int(info, "blackout-ns", s->blackout_ns);
    put_int(info, "predicted-blackout-ns", s->predicted_blackout_ns);
    put_int(info, "round", s->round);
    put_int(info, "bandwidth", s->bandwidth_bytes_per_s);
    put_int(info, "dirty-rate", s->dirty_bytes_per_s);
    if (s->expected_left_ns != UINT64_MAX)
        put_int(info, "expected-left-ns", s->expected_left_ns);
    if (s->expected_left_ns != UINT64_MAX && s->left_high_ns) {
        put_int(info, "expected-left-low-ns", s->left_low_ns);
        if (s->left_high_ns != UINT64_MAX)
            put_int(info, "expected-left-high-ns", s->left_high_ns);
    }
    if (s->forecast_round)
        json_object_set_new(info, "forecast", forecast_of(s));
    json_object_set_new(info, "converging", json_boolean(s->is_converging));
    /* By how much: what the guest dirties beyond what the link takes. */
    if (!s->is_converging && s->dirty_bytes_per_s > s->bandwidth_bytes_per_s)
        put_int(info, "bandwidth-lack", s->dirty_bytes_per_s - s->bandwidth_bytes_per_s);
    put_int(info, "failed-attempts", s->failed_attempts);
    put_int(info, "rounds-cut", s->rounds_cut);
    if (s->is_live)
        put_int(info, "chunks-caught", s->chunks_caught);
    put_note(info, s->note);
    put_int(info, "packets-forwarded", s->packets_forwarded);
    put_int(info, "packets-dropped", s->packets_dropped);
    put_int(info, "channels", s->n_channels);
    put_int(info, "active-channels", s->n_active_channels);
    put_cost(info, s->cpu_ns, s->bytes_sent);
    if (s->peer_cpu_ns)
        put_int(info, "peer-cpu-ns", s->peer_cpu_ns);
    postcopy_put_source(info, source, s);
    put_failure(info, &s->failure);
    return info;
}

/* Who dirties and who is slowed for it; nothing of a machine that cannot be throttled. */
static void put_throttle(json_t *info, struct gw_source *source, const struct gw_source_status *s)
{
    uint32_t n = gw_source_get_vcpus(source, NULL, 0);
    g_autofree struct gw_vcpu_status *vcpus = g_new0(struct gw_vcpu_status, n);
    json_t *list = json_array();

    gw_source_get_vcpus(source, vcpus, n);
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:i, s:I, s:f, s:f, s:I}", "cpu-index", (int)i,
                                              "dirty-rate", (json_int_t)vcpus[i].dirty_bytes_per_s,
                                              "throttle", vcpus[i].throttle_permille / 10.0,
                                              "most-throttle", vcpus[i].most_permille / 10.0,
                                              "throttled-ns", (json_int_t)vcpus[i].throttled_ns));
    put_int(info, "max-slowdown", s->max_slowdown_permille / 10);
    json_object_set_new(info, "vcpus", list);
    put_int(info, "throttled-vcpus", s->n_vcpus_throttled);
    put_int(info, "throttled-rounds", s->throttled_rounds);
    put_int(info, "throttled-ns", s->throttled_ns);
    /* As QEMU has it: of the vCPU that is slowed most, and only while one is. */
    if (s->throttle_permille)
        put_int(info, "cpu-throttle-percentage", MAX(s->throttle_permille / 10, 1));
}

static json_t *destination_info(struct gw_destination *destination,
                                const struct gw_destination_status *s)
{
    const char *uri = gw_destination_uri(destination);
    json_t *info = json_pack("{s:s, s:s, s:s}", "status", migrate_destination_word(s->state),
                             "role", "destination", "state", gw_destination_state_name(s->state));

    if (uri)
        json_object_set_new(info, "uri", json_string(uri));
    put_ms(info, "total-time", s->total_ns);
    if (s->state == GW_DESTINATION_RUNNING || s->is_postcopy)
        put_ms(info, "downtime", s->blackout_ns);
    json_t *ram = json_object();
    put_int(ram, "transferred", s->bytes_received);
    put_int(ram, "duplicate", s->pages_zero);
    put_int(ram, "normal", s->pages_plain);
    put_int(ram, "normal-bytes", s->pages_plain * GW_PAGE_SIZE);
    put_int(ram, "dirty-sync-count", s->round);
    put_int(ram, "page-size", GW_PAGE_SIZE);
    put_int(ram, "pages-suspect", s->pages_suspect);
    put_int(ram, "pages-damaged", s->pages_damaged);
    json_object_set_new(ram, "shared", json_boolean(s->is_ram_shared));
    json_object_set_new(info, "ram", ram);
    put_int(info, "blackout-ns", s->blackout_ns);
    put_int(info, "round", s->round);
    put_int(info, "migrations", s->migrations);
    put_int(info, "missing-bytes", s->missing_bytes);
    put_note(info, s->note);
    put_int(info, "channels", s->n_channels);
    put_cost(info, s->cpu_ns, s->bytes_received);
    postcopy_put_destination(info, destination, s);
    json_object_set_new(info, "source-told", json_boolean(s->is_source_told));
    put_failure(info, &s->failure);
    return info;
}

/* The outgoing migration where there is one, else the incoming one. */
json_t *run_query_migrate(struct monitor *monitor, const json_t *args, GError **error)
{
    struct migration *migration = monitor_migration(monitor);
    struct gw_source *source = migration_source(migration);
    struct gw_destination *destination = migration_destination(migration);

    if (source) {
        struct gw_source_status status;
        gw_source_get_status(source, &status);
        json_t *info = source_info(source, &status, migration_is_snapshot(migration));
        if (status.n_vcpus)
            put_throttle(info, source, &status);
        return info;
    }
    if (destination) {
        struct gw_destination_status status;
        gw_destination_get_status(destination, &status);
        return destination_info(destination, &status);
    }
    return json_pack("{s:s}", "status", "none");
}

/* ---- query-blackout -------------------------------------------------------------------------- */

static json_t *phase_to_json(const struct gw_ledger_phase *phase)
{
    return json_pack("{s:s, s:s, s:i, s:I, s:I}", "name", phase->name, "side",
                     gw_side_name(phase->side), "depth", (int)phase->depth, "start-ns",
                     (json_int_t)phase->start_ns, "length-ns", (json_int_t)phase->length_ns);
}

static json_t *attempt_to_json(const struct gw_ledger_attempt *attempt)
{
    json_t *phases = json_array();

    for (uint32_t i = 0; i < attempt->n_phases; i++)
        json_array_append_new(phases, phase_to_json(&attempt->phases[i]));
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:b, s:s, s:o}", "start-real-ns", (json_int_t)attempt->start_real_ns,
        "blackout-ns", (json_int_t)attempt->blackout_ns, "predicted-ns",
        (json_int_t)attempt->predicted_ns, "clock-error-ns", (json_int_t)attempt->clock_error_ns,
        "handed-over", attempt->is_handed_over, "reason", attempt->reason, "phases", phases);
}

json_t *run_query_blackout(struct monitor *monitor, const json_t *args, GError **error)
{
    struct migration *migration = monitor_migration(monitor);
    struct gw_source *source = migration_source(migration);
    struct gw_destination *destination = migration_destination(migration);
    struct gw_ledger *ledger = source        ? gw_source_get_ledger(source)
                               : destination ? gw_destination_get_ledger(destination)
                                             : NULL;
    json_t *attempts = json_array();

    for (uint32_t i = 0; ledger && i < gw_ledger_n_attempts(ledger); i++)
        json_array_append_new(attempts, attempt_to_json(gw_ledger_attempt_at(ledger, i)));
    gw_ledger_free(ledger);
    return json_pack("{s:s, s:o}", "role",
                     source        ? "source"
                     : destination ? "destination"
                                   : "none",
                     "attempts", attempts);
}

/* ---- events ---------------------------------------------------------------------------------- */

void monitor_on_migration_notice(void *opaque, const struct migration_notice *notice)
{
    switch (notice->kind) {
    case MIGRATION_NOTICE_SOURCE:
        monitor_emit(opaque, "MIGRATION",
                     json_pack("{s:s, s:s}", "status", source_words[notice->value], "state",
                               gw_source_state_name(notice->value)),
                     notice->real_ns);
        break;
    case MIGRATION_NOTICE_DESTINATION:
        monitor_emit(opaque, "MIGRATION",
                     json_pack("{s:s, s:s}", "status", migrate_destination_word(notice->value),
                               "state", gw_destination_state_name(notice->value)),
                     notice->real_ns);
        break;
    case MIGRATION_NOTICE_PASS:
        monitor_emit(opaque, "MIGRATION_PASS", json_pack("{s:i}", "pass", (int)notice->value),
                     notice->real_ns);
        break;
    case MIGRATION_NOTICE_DISCARDED:
        break;
    }
}
