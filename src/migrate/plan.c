/* SPDX-License-Identifier: MIT */
/*
 * A plan: asks the destination, measures the link, watches the guest, and says what a migration
 * would be like. godwit/migrate.h is its header.
 *
 * Model: one thread does one after the other: the probe first (half a second), so that what it
 * takes from the host is over when the guest is watched. What it does take is seen by a second
 * thread, which watches the guest meanwhile: so much slower will it be while it moves. What cannot
 * be found out is left out with a sentence; a plan fails only where the guest cannot be watched.
 *
 * Locks: plan.lock is a leaf.
 */
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "migrate/encoding.h"
#include "migrate/engine.h"
#include "migrate/forecast.h"
#include "migrate/probe.h"
#include "migrate/sampler.h"

#define GUESS_SETUP_NS (20 * NS_PER_MS)

struct gw_plan {
    /* fixed after construction */
    struct gw_vm vm;
    char *uri; /* NULL: none */
    struct gw_plan_params params;
    pthread_t thread;
    int wake_fd; /* eventfd: readable when cancelled */
    struct sampler *sampler;
    struct sampler *loaded; /* watches while the link is measured */

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct gw_plan_status status;
    struct gw_channel *opening; /* which the thread blocks on; NULL: none */
    bool wants_cancel;

    /* of the thread */
    struct probe_result probe;
    struct sampler_result sample, load_sample;
    uint64_t setup_ns;
    char note[256];
};

const char *gw_plan_mode_name(enum gw_plan_mode mode)
{
    static const char *const names[GW_PLAN_N_MODES] = {[GW_PLAN_PRECOPY] = "precopy",
                                                       [GW_PLAN_THROTTLE] = "throttle",
                                                       [GW_PLAN_POSTCOPY] = "postcopy"};

    return (unsigned)mode < GW_PLAN_N_MODES && names[mode] ? names[mode] : "unknown";
}

const char *gw_plan_state_name(enum gw_plan_state state)
{
    static const char *const names[GW_PLAN_N_STATES] = {[GW_PLAN_SAMPLING] = "sampling",
                                                        [GW_PLAN_DONE] = "done",
                                                        [GW_PLAN_FAILED] = "failed",
                                                        [GW_PLAN_CANCELLED] = "cancelled"};

    return (unsigned)state < GW_PLAN_N_STATES && names[state] ? names[state] : "unknown";
}

/* ---- the link ---------------------------------------------------------------------------------
 */

static void set_opening(struct gw_plan *plan, struct gw_channel *channel)
{
    pthread_mutex_lock(&plan->lock);
    plan->opening = channel;
    if (channel && plan->wants_cancel)
        gw_channel_wake(channel);
    pthread_mutex_unlock(&plan->lock);
}

static struct wire_stream *open_probe(struct gw_plan *plan, struct gw_rate_limit *limit,
                                      int64_t deadline_ns, GError **error)
{
    const struct gw_migrate_params *params = &plan->params.migrate;
    struct gw_channel_options options = {
        .deadline_ns = deadline_ns,
        .silence_ms = (int64_t)(params->silence_limit_ns / NS_PER_MS),
        .limit = limit,
        .framing = wire_framing(),
        .wake_fd = plan->wake_fd,
    };
    struct wire_identity identity = {.role = WIRE_ROLE_PROBE};
    struct gw_channel *channel = gw_channel_connect(plan->uri, &options, error);
    struct wire_stream *stream;

    if (channel && params->wrap) {
        channel = params->wrap(params->wrap_opaque, channel, GW_ROLE_HINT_PROBE, 0);
        if (!channel)
            g_set_error_literal(error, GW_ERROR, GW_ERROR_REFUSED, "the channel was refused");
    }
    if (!channel)
        return NULL;
    wire_new_migration_id(identity.migration_id);
    stream = wire_stream_new(channel, &identity, WIRE_SIDE_SOURCE);
    set_opening(plan, channel);
    if (wire_stream_open(stream, deadline_ns, error))
        return stream;
    set_opening(plan, NULL);
    wire_stream_free(stream);
    return NULL;
}

static bool allows_postcopy(const struct gw_migrate_params *params)
{
    return !params->forbids_postcopy && params->mode != GW_MODE_PRECOPY;
}

/* What the migration would offer, as far as a plan needs to know. */
static uint64_t plan_features(const struct gw_migrate_params *params)
{
    return ENGINE_SOURCE_FEATURES |
           (allows_postcopy(params) ? UINT64_C(1) << WIRE_FEATURE_URGENT : 0);
}

static struct wire_hello plan_hello(const struct gw_plan *plan)
{
    const struct gw_migrate_params *params = &plan->params.migrate;

    return (struct wire_hello){
        .page_shift = GW_PAGE_SHIFT,
        .max_packet_pages = WIRE_MAX_PACKET_PAGES,
        .page_channels = 1,
        .features = plan_features(params) | ENCODING_FEATURES,
        .required = UINT64_C(1) << WIRE_FEATURE_RESEND,
        .silence_limit_ms = (uint32_t)MIN(params->silence_limit_ns / NS_PER_MS, UINT32_MAX),
        .max_blackout_ns = params->max_blackout_ns,
        .max_time_ns = params->max_time_ns,
        .max_bandwidth_bytes = params->max_bandwidth_bytes,
        .ram_bytes = gw_memory_size_bytes(plan->vm.memory),
        .monotonic_ns = clock_mono_ns(),
        .realtime_ns = clock_real_ns(),
        .software = g_strdup("godwit"),
        .machine = g_strdup(""),
        .vm_name = g_strdup(""),
        .host = g_strdup(g_get_host_name()),
    };
}

static struct wire_ram_map plan_ram_map(const struct gw_plan *plan)
{
    const struct gw_memory *memory = plan->vm.memory;
    struct wire_ram_map map = {.total_bytes = gw_memory_size_bytes(memory),
                               .n_blocks = gw_memory_n_blocks(memory)};

    map.blocks = g_new0(struct wire_ram_block, map.n_blocks);
    for (uint32_t i = 0; i < map.n_blocks; i++) {
        const struct gw_ram_block *block = gw_memory_block(memory, i);

        map.blocks[i] = (struct wire_ram_block){.index = i,
                                                .gpa = block->gpa,
                                                .size_bytes = block->size_bytes,
                                                .name = g_strdup(block->name)};
    }
    return map;
}

/* Beside a full link: what the host then has left for the guest. */
static void *watch_loaded(void *opaque)
{
    struct gw_plan *plan = opaque;

    sampler_run(plan->loaded, &plan->load_sample, NULL); /* else there is nothing in it */
    return NULL;
}

static bool fill_link(struct gw_plan *plan, struct wire_stream *stream,
                      const struct wire_hello *hello, const GByteArray *schema,
                      const struct wire_ram_map *map, int64_t deadline_ns, GError **error)
{
    pthread_t watcher;
    bool is_measured;

    engine_thread_start(&watcher, "gw-plan-load", watch_loaded, plan);
    is_measured = probe_measure(stream, hello, schema, map, deadline_ns, &plan->probe, error);
    sampler_finish(plan->loaded);
    pthread_join(watcher, NULL);
    return is_measured;
}

static bool measure(struct gw_plan *plan, GError **error)
{
    uint64_t start_ns = clock_mono_ns();
    int64_t deadline_ns = (int64_t)(start_ns + plan->params.migrate.silence_limit_ns);
    struct gw_rate_limit *limit = gw_rate_limit_new(plan->params.migrate.max_bandwidth_bytes);
    struct wire_stream *stream = open_probe(plan, limit, deadline_ns, error);
    bool is_measured = false;

    if (stream) {
        struct wire_hello hello = plan_hello(plan);
        struct wire_ram_map map = plan_ram_map(plan);
        struct gw_schema *schema = gw_schema_new(plan->vm.registry);
        g_autoptr(GByteArray) encoded = gw_schema_encode(schema);

        plan->setup_ns = clock_mono_ns() - start_ns;
        is_measured = fill_link(plan, stream, &hello, encoded, &map, deadline_ns, error);
        gw_schema_free(schema);
        wire_message_clear(WIRE_RAM_MAP, &map);
        wire_message_clear(WIRE_HELLO, &hello);
        set_opening(plan, NULL);
        wire_stream_free(stream);
    }
    gw_rate_limit_unref(limit);
    return is_measured;
}

/* What there is to know about the link, or why there is nothing. */
static void ask_destination(struct gw_plan *plan)
{
    g_autoptr(GError) error = NULL;

    if (!plan->uri)
        g_strlcpy(plan->note, "the link was not measured: no address was given", sizeof plan->note);
    else if (!gw_channel_uri_is_multi(plan->uri))
        g_strlcpy(plan->note,
                  "the link was not measured: this kind of address can be connected to only once",
                  sizeof plan->note);
    else if (!measure(plan, &error))
        g_snprintf(plan->note, sizeof plan->note, "the link was not measured: %s%s", error->message,
                   gw_error_code_of(error) == GW_ERROR_LINK_LOST && !plan->probe.has_verdict
                       ? " (a destination that is older than probes closes them)"
                       : "");
    else if (!plan->probe.is_measured)
        g_strlcpy(plan->note, "the link was not measured: too little came through",
                  sizeof plan->note);
    else if (plan->params.migrate.max_bandwidth_bytes)
        g_strlcpy(plan->note, "the link was measured within the bandwidth budget",
                  sizeof plan->note);
}

static void put_findings(const struct wire_schema_verdict *verdict, struct gw_plan_status *status)
{
    for (uint32_t i = 0; i < verdict->n_sentences; i++) {
        if (i)
            g_strlcat(status->findings, "\n", sizeof status->findings);
        g_strlcat(status->findings, verdict->sentences[i].text, sizeof status->findings);
    }
}

static void publish_link(struct gw_plan *plan)
{
    const struct probe_result *probe = &plan->probe;
    struct gw_plan_status *status = &plan->status;

    pthread_mutex_lock(&plan->lock);
    g_strlcpy(status->link_note, plan->note, sizeof status->link_note);
    status->has_verdict = probe->has_verdict;
    if (probe->has_verdict) {
        status->is_accepted = probe->verdict.is_accepted;
        put_findings(&probe->verdict, status);
    }
    status->is_link_measured = probe->is_measured;
    if (probe->is_measured) {
        status->bandwidth_bytes_per_s =
            (struct gw_range){.expected = (uint64_t)probe->bytes_per_s,
                              .low = (uint64_t)(probe->bytes_per_s * (1 - probe->doubt)),
                              .high = (uint64_t)(probe->bytes_per_s * (1 + probe->doubt))};
        status->round_trip_ns = probe->round_trip_ns;
    }
    status->probe_bytes = probe->n_bytes;
    pthread_mutex_unlock(&plan->lock);
}

/* ---- the forecast -----------------------------------------------------------------------------
 */

static struct predict known_costs(const struct gw_plan *plan)
{
    struct gw_vm_forecast forecast = {0};
    struct predict costs;

    predict_init(&costs);
    if (plan->vm.forecast)
        plan->vm.forecast(plan->vm.opaque, &forecast);
    if (forecast.stop_ns)
        costs.stop_ns = forecast.stop_ns;
    if (forecast.resume_ns)
        costs.resume_ns = forecast.resume_ns;
    costs.flush_ns = forecast.flush_ns;
    costs.fetch_ns = plan->sample.fetch_ns;
    costs.round_trip_ns = plan->probe.is_measured ? plan->probe.round_trip_ns : 0;
    /* What loading takes saving takes too, about. */
    costs.save_ns = costs.load_ns = plan->probe.load_ns;
    costs.state_bytes = plan->probe.state_bytes;
    return costs;
}

static void set_possible(const struct gw_plan *plan, struct gw_plan_status *status)
{
    const struct gw_migrate_params *params = &plan->params.migrate;
    struct gw_plan_forecast *throttle = &status->modes[GW_PLAN_THROTTLE];
    struct gw_plan_forecast *postcopy = &status->modes[GW_PLAN_POSTCOPY];
    uint64_t features = plan_features(params);
    const char *why = NULL;

    if (plan->probe.has_verdict)
        features &= plan->probe.peer.features;
    if (!allows_postcopy(params))
        why = "forbidden";
    else if (!(features >> WIRE_FEATURE_URGENT & 1))
        why = "the destination cannot, or forbids it";
    postcopy->is_possible = why == NULL;
    g_strlcpy(postcopy->why, why ? why : "", sizeof postcopy->why);
    throttle->is_possible =
        plan->params.max_slowdown_permille > 0 && params->mode != GW_MODE_POSTCOPY;
    if (!throttle->is_possible)
        g_strlcpy(throttle->why, "no slow-down of the guest is allowed", sizeof throttle->why);
    status->modes[GW_PLAN_PRECOPY].is_possible = params->mode != GW_MODE_POSTCOPY;
    if (!status->modes[GW_PLAN_PRECOPY].is_possible)
        g_strlcpy(status->modes[GW_PLAN_PRECOPY].why, "post-copy is asked for",
                  sizeof status->modes[GW_PLAN_PRECOPY].why);
}

/* Half a second of a guest with a rhythm may have been its busy or its quiet part. */
static double pace(const struct gw_plan *plan)
{
    return plan->probe.is_measured && plan->sample.rhythm.n == 0
               ? dirty_model_pace(&plan->load_sample.dirty, &plan->sample.dirty)
               : 1;
}

static void look_ahead(struct gw_plan *plan, struct gw_plan_status *status)
{
    const struct gw_migrate_params *params = &plan->params.migrate;
    struct forecast_input input = {
        .costs = known_costs(plan),
        .dirty = &plan->sample.dirty,
        .rhythm = &plan->sample.rhythm,
        .link_bytes_per_s =
            plan->probe.is_measured ? plan->probe.bytes_per_s : (double)params->max_bandwidth_bytes,
        .link_doubt = plan->probe.doubt,
        .pace = pace(plan),
        .setup_ns = plan->setup_ns ? plan->setup_ns : GUESS_SETUP_NS,
        .first_bytes = plan->sample.used_bytes - plan->sample.zero_bytes,
        .zero_bytes = plan->sample.zero_bytes,
        .is_postcopy_asked = params->mode == GW_MODE_POSTCOPY,
        .max_blackout_ns = params->max_blackout_ns,
        .max_time_ns = params->max_time_ns,
        .max_bandwidth_bytes = params->max_bandwidth_bytes,
        .max_slowdown_permille = plan->params.max_slowdown_permille,
    };

    if (input.link_bytes_per_s < 1) {
        g_strlcpy(status->reason,
                  "there is no forecast without a measured link or a bandwidth budget",
                  sizeof status->reason);
        return;
    }
    set_possible(plan, status);
    for (unsigned i = GW_PLAN_PRECOPY; i < GW_PLAN_N_MODES; i++) {
        status->modes[i].mode = (enum gw_plan_mode)i;
        forecast_mode(&input, &status->modes[i]);
    }
    forecast_choose(&input, status);
    status->has_forecast = true;
}

static void publish_guest(struct gw_plan *plan, struct gw_plan_status *status)
{
    const struct sampler_result *sample = &plan->sample;

    status->used_bytes = sample->used_bytes;
    status->zero_bytes = sample->zero_bytes;
    status->dirty_bytes_per_s =
        (uint64_t)dirty_model_pages(&sample->dirty, (double)NS_PER_S) * GW_PAGE_SIZE;
    status->hot_bytes = (uint64_t)MAX(sample->dirty.hot, 0) * GW_PAGE_SIZE;
    status->period_ns = sample->rhythm.n * RHYTHM_BIN_NS;
    status->quiet_permille = sample->rhythm.n ? rhythm_quiet_permille(&sample->rhythm) : 0;
    status->sampling_cost_permille = sample->cost_permille;
}

/* ---- its thread -------------------------------------------------------------------------------
 */

static void plan_end(struct gw_plan *plan, struct gw_plan_status *status, const GError *error)
{
    if (!error)
        status->state = GW_PLAN_DONE;
    else
        status->state =
            gw_error_code_of(error) == GW_ERROR_CANCELLED ? GW_PLAN_CANCELLED : GW_PLAN_FAILED;
    if (error)
        engine_failure_set(&status->failure, GW_SIDE_SOURCE, gw_error_code_of(error),
                           error->message);
    pthread_mutex_lock(&plan->lock);
    plan->status = *status;
    pthread_cond_broadcast(&plan->changed);
    pthread_mutex_unlock(&plan->lock);
}

static void *plan_main(void *opaque)
{
    struct gw_plan *plan = opaque;
    g_autofree struct gw_plan_status *status = g_new0(struct gw_plan_status, 1);
    g_autoptr(GError) error = NULL;
    bool is_sampled;

    ask_destination(plan);
    publish_link(plan);
    is_sampled = sampler_run(plan->sampler, &plan->sample, &error);
    pthread_mutex_lock(&plan->lock);
    *status = plan->status;
    pthread_mutex_unlock(&plan->lock);
    if (is_sampled) {
        sampler_look_at_memory(plan->vm.memory, &plan->sample);
        publish_guest(plan, status);
        look_ahead(plan, status);
    }
    plan_end(plan, status, error);
    return NULL;
}

/* ---- public -----------------------------------------------------------------------------------
 */

struct gw_plan *gw_plan_start(const struct gw_vm *vm, const char *uri,
                              const struct gw_plan_params *params, GError **error)
{
    struct gw_plan *plan;
    struct gw_migrate_params *budgets;

    if (!vm->memory || !vm->registry) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_INVALID,
                            "the machine has no memory or no device-state registry");
        return NULL;
    }
    if (gw_memory_is_logging(vm->memory)) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_STATE,
                            "the dirty log is in use: a migration or another plan is under way");
        return NULL;
    }
    plan = g_new0(struct gw_plan, 1);
    plan->vm = *vm;
    plan->uri = g_strdup(uri);
    if (params)
        plan->params = *params;
    budgets = &plan->params.migrate;
    if (!budgets->max_blackout_ns)
        budgets->max_blackout_ns = GW_DEFAULT_MAX_BLACKOUT_NS;
    if (!budgets->silence_limit_ns)
        budgets->silence_limit_ns = GW_DEFAULT_SILENCE_LIMIT_NS;
    if (!plan->params.sample_ns)
        plan->params.sample_ns = GW_DEFAULT_SAMPLE_NS;
    pthread_mutex_init(&plan->lock, NULL);
    cond_init_mono(&plan->changed);
    plan->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    plan->sampler = sampler_new(vm->memory, plan->params.sample_ns);
    plan->loaded = sampler_new(vm->memory, budgets->silence_limit_ns);
    plan->status.state = GW_PLAN_SAMPLING;
    plan->status.sample_ns = plan->params.sample_ns;
    plan->status.ram_bytes = gw_memory_size_bytes(vm->memory);
    engine_thread_start(&plan->thread, "gw-plan", plan_main, plan);
    return plan;
}

void gw_plan_get_status(struct gw_plan *plan, struct gw_plan_status *status)
{
    pthread_mutex_lock(&plan->lock);
    *status = plan->status;
    pthread_mutex_unlock(&plan->lock);
    status->elapsed_ns = sampler_elapsed_ns(plan->sampler);
}

void gw_plan_cancel(struct gw_plan *plan)
{
    uint64_t one = 1;

    pthread_mutex_lock(&plan->lock);
    plan->wants_cancel = true;
    if (plan->opening)
        gw_channel_wake(plan->opening);
    pthread_mutex_unlock(&plan->lock);
    sampler_cancel(plan->loaded);
    sampler_cancel(plan->sampler);
    if (write(plan->wake_fd, &one, sizeof one) < 0)
        return; /* the counter is full: it is readable already */
}

bool gw_plan_wait(struct gw_plan *plan, uint64_t deadline_ns)
{
    bool is_final = false, is_in_time = true;

    pthread_mutex_lock(&plan->lock);
    while (!(is_final = plan->status.state != GW_PLAN_SAMPLING) && is_in_time)
        is_in_time = cond_wait_until(&plan->changed, &plan->lock, deadline_ns);
    pthread_mutex_unlock(&plan->lock);
    return is_final;
}

void gw_plan_free(struct gw_plan *plan)
{
    if (!plan)
        return;
    gw_plan_cancel(plan);
    pthread_join(plan->thread, NULL);
    probe_result_clear(&plan->probe);
    sampler_free(plan->loaded);
    sampler_free(plan->sampler);
    close(plan->wake_fd);
    pthread_cond_destroy(&plan->changed);
    pthread_mutex_destroy(&plan->lock);
    g_free(plan->uri);
    g_free(plan);
}
