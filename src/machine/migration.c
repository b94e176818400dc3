/* SPDX-License-Identifier: MIT */
/* A machine's migrations: start, observe, keep the last one's account. */
#include "machine/migration.h"

#include <string.h>

#include "base/clock.h"
#include "godwit/error.h"
#include "machine/main_queue.h"

/* A lost link is tried again for so long; a destination, which does not know for how long its
 * source does, keeps what it has. */
#define RECONNECT_NS (UINT64_C(10) * NS_PER_S)
#define KEEP_NS      (UINT64_C(60) * NS_PER_S)

struct listener {
    migration_notice_fn fn;
    void *opaque;
};

struct migration {
    struct machine *machine;
    struct main_queue *main_queue;
    struct gw_migrate_params params;
    struct gw_source *source;
    struct gw_destination *destination;
    struct gw_plan *plan; /* the newest, or NULL */
    bool is_snapshot;
    bool exits_on_error;
    bool is_restore;      /* from a snapshot: nobody will ask */
    bool has_said_loaded; /* main thread: the source may be in doubt about us */
    GArray *listeners;
};

/* ---- notices --------------------------------------------------------------------------------- */

struct notice_call {
    struct migration *migration;
    struct migration_notice notice;
    char *detail;
};

static void deliver(void *opaque)
{
    struct notice_call *call = opaque;
    struct migration *migration = call->migration;

    /* A source that was told LOADED may have sent COMMIT and be in doubt now: somebody must be here
     * to answer that its guest never ran. */
    if (call->notice.kind == MIGRATION_NOTICE_DESTINATION) {
        if (call->notice.value == GW_DESTINATION_HANDSHAKE)
            migration->has_said_loaded = false;
        else if (call->notice.value == GW_DESTINATION_LOADED)
            migration->has_said_loaded = true;
    }
    call->notice.wants_exit = call->notice.kind == MIGRATION_NOTICE_DISCARDED &&
                              migration->exits_on_error &&
                              (migration->is_restore || !migration->has_said_loaded);
    for (guint i = 0; i < migration->listeners->len; i++) {
        struct listener *l = &g_array_index(migration->listeners, struct listener, i);
        l->fn(l->opaque, &call->notice);
    }
}

static void call_free(gpointer opaque)
{
    struct notice_call *call = opaque;
    g_free(call->detail);
    g_free(call);
}

/* From the engine's threads. */
static void notify(struct migration *migration, enum migration_notice_kind kind, unsigned value,
                   const char *detail)
{
    struct notice_call *call = g_new0(struct notice_call, 1);

    call->migration = migration;
    call->detail = g_strdup(detail);
    call->notice = (struct migration_notice){
        .kind = kind, .value = value, .real_ns = clock_real_ns(), .detail = call->detail};
    main_queue_post(migration->main_queue, deliver, call, call_free);
}

static void on_source_event(void *opaque, enum gw_migrate_event event, uint32_t value)
{
    struct migration *migration = opaque;

    if (event == GW_MIGRATE_EVENT_ROUND) {
        notify(migration, MIGRATION_NOTICE_PASS, value, NULL);
        return;
    }
    if (value == GW_SOURCE_IN_DOUBT)
        machine_set_doubt(migration->machine);
    notify(migration, MIGRATION_NOTICE_SOURCE, value, NULL);
}

static void on_destination_event(void *opaque, enum gw_migrate_event event, uint32_t value)
{
    notify(opaque,
           event == GW_MIGRATE_EVENT_ROUND ? MIGRATION_NOTICE_PASS : MIGRATION_NOTICE_DESTINATION,
           value, NULL);
}

static void on_discarded(void *opaque, const GError *why)
{
    notify(opaque, MIGRATION_NOTICE_DISCARDED, 0, why ? why->message : NULL);
}

/* On the main thread, which made the destination. */
static void on_marked(void *opaque, const char *name, uint64_t at_ns)
{
    struct migration *migration = opaque;

    if (migration->destination)
        gw_destination_mark(migration->destination, name, at_ns);
}

void migration_add_listener(struct migration *migration, migration_notice_fn fn, void *opaque)
{
    struct listener listener = {fn, opaque};
    g_array_append_val(migration->listeners, listener);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct migration *migration_new(struct machine *machine, GMainContext *context)
{
    struct migration *migration = g_new0(struct migration, 1);

    migration->machine = machine;
    migration->main_queue = main_queue_new(context);
    migration->listeners = g_array_new(FALSE, FALSE, sizeof(struct listener));
    migration->params = (struct gw_migrate_params){
        .max_blackout_ns = GW_DEFAULT_MAX_BLACKOUT_NS,
        .silence_limit_ns = GW_DEFAULT_SILENCE_LIMIT_NS,
        .reconnect_limit_ns = RECONNECT_NS,
    };
    machine_set_discarded_fn(machine, on_discarded, migration);
    machine_set_marked_fn(machine, on_marked, migration);
    return migration;
}

void migration_free(struct migration *migration)
{
    if (!migration)
        return;
    g_clear_pointer(&migration->plan, gw_plan_free);
    g_clear_pointer(&migration->source, gw_source_free);
    /* The destination may still be bringing the guest its memory. */
    if (migration->destination)
        machine_halt(migration->machine);
    g_clear_pointer(&migration->destination, gw_destination_free);
    machine_set_discarded_fn(migration->machine, NULL, NULL);
    machine_set_marked_fn(migration->machine, NULL, NULL);
    main_queue_free(migration->main_queue);
    g_array_unref(migration->listeners);
    g_free(migration);
}

bool migration_lacks_memory(struct migration *migration)
{
    struct gw_destination_status status;

    if (!migration->destination)
        return false;
    gw_destination_get_status(migration->destination, &status);
    return status.state == GW_DESTINATION_POSTCOPY || status.state == GW_DESTINATION_PAUSED;
}

const char *migration_needs_us(struct migration *migration)
{
    struct gw_source_status status;

    if (!migration->source)
        return NULL;
    gw_source_get_status(migration->source, &status);
    switch (status.state) {
    case GW_SOURCE_COMMITTED:
        return "the guest is being handed over, and this may still be its only copy; "
               "ask again when that is decided";
    case GW_SOURCE_IN_DOUBT:
        return "this may be the only copy of the guest: its ownership is in doubt; "
               "resolve that first";
    case GW_SOURCE_POSTCOPY:
    case GW_SOURCE_PAUSED:
        return "the guest runs at the destination and still lacks memory that is only here: "
               "it would be lost";
    default:
        return NULL;
    }
}

const struct gw_migrate_params *migration_params(const struct migration *migration)
{
    return &migration->params;
}

void migration_set_params(struct migration *migration, const struct gw_migrate_params *params)
{
    migration->params = *params;
    if (migration_is_active(migration))
        gw_source_set_budgets(migration->source, params);
}

/* ---- URIs --------------------------------------------------------------------------------------
 */

/* A one-way channel has no destination that could answer: what goes into it is a snapshot. Filters
 * may stand before the scheme ("trace:DIR,file:PATH"). */
static bool is_one_way(const char *uri)
{
    static const char *const schemes[] = {"file:", "exec:"};

    for (size_t i = 0; i < G_N_ELEMENTS(schemes); i++) {
        g_autofree char *after_filter = g_strconcat(",", schemes[i], NULL);
        if (g_str_has_prefix(uri, schemes[i]) || strstr(uri, after_filter))
            return true;
    }
    return false;
}

/* ---- outgoing -------------------------------------------------------------------------------- */

bool migration_is_active(struct migration *migration)
{
    struct gw_source_status status;

    if (!migration->source)
        return false;
    gw_source_get_status(migration->source, &status);
    return !gw_source_state_is_final(status.state);
}

/* What watches the guest has its dirty log, and gives it up within milliseconds. */
static void end_plan(struct migration *migration)
{
    if (!migration->plan)
        return;
    gw_plan_cancel(migration->plan);
    gw_plan_wait(migration->plan, UINT64_MAX);
}

static bool begin(struct migration *migration, const char *uri, bool is_snapshot, bool is_live,
                  GError **error)
{
    struct gw_migrate_params params = migration->params;
    const struct gw_migrate_observer observer = {on_source_event, migration};
    enum life_state state = machine_state(migration->machine);

    if (migration_is_active(migration)) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "a migration is under way already");
        return false;
    }
    if (state != LIFE_RUNNING && state != LIFE_PAUSED) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "cannot %s: the machine %s",
                    is_snapshot ? "save" : "migrate", life_state_phrase(state));
        return false;
    }
    end_plan(migration);
    params.is_live = is_live;
    struct gw_source *source = (is_snapshot ? gw_snapshot_start : gw_source_start)(
        machine_vm(migration->machine), uri, &params, &observer, error);
    if (!source)
        return false;
    g_clear_pointer(&migration->source, gw_source_free);
    migration->source = source;
    migration->is_snapshot = is_snapshot;
    return true;
}

bool migration_start(struct migration *migration, const char *uri, GError **error)
{
    return begin(migration, uri, is_one_way(uri), false, error);
}

bool migration_save(struct migration *migration, const char *uri, bool is_live, GError **error)
{
    return begin(migration, uri, true, is_live, error);
}

bool migration_cancel(struct migration *migration, GError **error)
{
    if (migration_is_active(migration) && gw_source_cancel(migration->source))
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                migration_is_active(migration)
                    ? "the guest was handed over already, it is too late to cancel"
                    : "there is no migration to cancel");
    return false;
}

/* The outgoing one that has not ended, or NULL. */
static struct gw_source *active_source(struct migration *migration)
{
    return migration_is_active(migration) ? migration->source : NULL;
}

static bool fail_for_none(GError **error)
{
    g_set_error(error, GW_ERROR, GW_ERROR_STATE, "there is no migration under way");
    return false;
}

bool migration_start_postcopy(struct migration *migration, GError **error)
{
    struct gw_source *source = active_source(migration);
    return source ? gw_source_start_postcopy(source, error) : fail_for_none(error);
}

bool migration_continue(struct migration *migration, GError **error)
{
    struct gw_source *source = active_source(migration);
    return source ? gw_source_continue(source, error) : fail_for_none(error);
}

bool migration_pause(struct migration *migration, GError **error)
{
    struct gw_source *source = active_source(migration);

    if (source)
        return gw_source_pause(source, error);
    if (migration->destination)
        return gw_destination_pause(migration->destination, error);
    return fail_for_none(error);
}

bool migration_recover(struct migration *migration, const char *uri, GError **error)
{
    struct gw_source *source = active_source(migration);

    if (source)
        return gw_source_recover(source, uri, error);
    if (!migration->destination)
        return fail_for_none(error);
    if (uri)
        return gw_destination_recover(migration->destination, uri, error);
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                "a destination has to be told where to listen: a URI is needed");
    return false;
}

bool migration_resolve(struct migration *migration, enum gw_resolution resolution, GError **error)
{
    if (migration->source)
        return gw_source_resolve(migration->source, resolution, error);
    g_set_error(error, GW_ERROR, GW_ERROR_STATE, "there is no migration in doubt");
    return false;
}

/* ---- plans -------------------------------------------------------------------------------------
 */

bool migration_plan(struct migration *migration, const char *uri,
                    const struct gw_plan_params *params, GError **error)
{
    enum life_state state = machine_state(migration->machine);
    struct gw_plan *plan;

    if (migration_is_active(migration)) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "a migration is under way; its own forecast is in query-migrate");
        return false;
    }
    if (state != LIFE_RUNNING && state != LIFE_PAUSED) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "cannot plan: the machine %s",
                    life_state_phrase(state));
        return false;
    }
    end_plan(migration);
    plan = gw_plan_start(machine_vm(migration->machine), uri, params, error);
    if (!plan)
        return false;
    g_clear_pointer(&migration->plan, gw_plan_free);
    migration->plan = plan;
    return true;
}

struct gw_plan *migration_plan_now(struct migration *migration)
{
    return migration->plan;
}

/* ---- incoming -------------------------------------------------------------------------------- */

bool migration_listen(struct migration *migration, const char *uri, bool is_lazy,
                      bool exits_on_error, GError **error)
{
    struct gw_migrate_params params = migration->params;
    const struct gw_migrate_observer observer = {on_destination_event, migration};
    enum life_state state = machine_state(migration->machine);

    if (state != LIFE_INCOMING) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "cannot receive a guest: the machine %s",
                    life_state_phrase(state));
        return false;
    }
    if (migration->destination) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "already listening at %s",
                    gw_destination_uri(migration->destination));
        return false;
    }
    migration->exits_on_error = exits_on_error;
    migration->is_restore = is_one_way(uri);
    params.is_lazy = is_lazy;
    params.reconnect_limit_ns = MAX(params.reconnect_limit_ns, KEEP_NS);
    migration->destination =
        gw_destination_start(machine_vm(migration->machine), uri, &params, &observer, error);
    return migration->destination != NULL;
}

struct gw_source *migration_source(struct migration *migration)
{
    return migration->source;
}

struct gw_destination *migration_destination(struct migration *migration)
{
    return migration->destination;
}

bool migration_is_snapshot(const struct migration *migration)
{
    return migration->is_snapshot;
}
