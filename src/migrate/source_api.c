/* SPDX-License-Identifier: MIT */
/*
 * The source as its embedder has it: starts it, asks how it is, and orders.
 *
 * Threads: any, at any time; what is asked is copied under source->lock, what is ordered is a mail
 * to the control thread (source.c), with a wake-up where that may block.
 */
#include "migrate/source.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "channel/uri.h"

static struct gw_source *source_new(const struct gw_vm *vm, const char *uri,
                                    const struct gw_migrate_params *params,
                                    const struct gw_migrate_observer *observer, bool is_snapshot)
{
    struct gw_source *source = g_new0(struct gw_source, 1);

    source->vm = *vm;
    source->uri = g_strdup(uri);
    source->params = params ? *params : (struct gw_migrate_params){0};
    if (observer)
        source->observer = *observer;
    if (!source->params.max_blackout_ns)
        source->params.max_blackout_ns = GW_DEFAULT_MAX_BLACKOUT_NS;
    if (!source->params.silence_limit_ns)
        source->params.silence_limit_ns = GW_DEFAULT_SILENCE_LIMIT_NS;
    if (!source->params.delta_cache_bytes)
        source->params.delta_cache_bytes = GW_DEFAULT_DELTA_CACHE_BYTES;
    source->params.channels = MIN(source->params.channels, WIRE_MAX_CHANNELS);
    source->is_snapshot = is_snapshot;
    source->share.key_fd = -1;
    source->silence_ns = source->params.silence_limit_ns;
    source->keepalive_ns = source->silence_ns / 4;
    wire_new_migration_id(source->id);
    mailbox_init(&source->box);
    pthread_mutex_init(&source->lock, NULL);
    cond_init_mono(&source->changed);
    source->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    source->ledger = ledger_new();
    source->limit = gw_rate_limit_new(source->params.max_bandwidth_bytes);
    source->sooner = gw_rate_limit_new_before(source->limit);
    handover_init(&source->handover, GW_SIDE_SOURCE);
    predict_init(&source->predict);
    source->page_links = g_ptr_array_new();
    histogram_init(&source->postcopy.served);
    source->lost_limit_ns = UINT64_MAX;
    source->start_ns = clock_mono_ns();
    source->status.state = GW_SOURCE_CONNECTING;
    source->status.ram_bytes = gw_memory_size_bytes(vm->memory);
    source->status.expected_left_ns = UINT64_MAX;
    source->status.max_blackout_ns = source->params.max_blackout_ns;
    source->status.max_time_ns = source->params.max_time_ns;
    source->status.max_bandwidth_bytes = source->params.max_bandwidth_bytes;
    source->status.max_slowdown_permille = source->params.max_slowdown_permille;
    memcpy(source->status.migration_id, source->id, sizeof source->id);
    source_throttle_init(source);
    engine_thread_start(&source->thread, "gw-source", source_main, source);
    return source;
}

static bool check_arguments(const struct gw_vm *vm, const char *uri,
                            const struct gw_migrate_params *params, GError **error)
{
    if (!uri || !*uri) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_INVALID, "no URI was given");
        return false;
    }
    if (!channel_uri_check(uri, error))
        return false;
    if (!vm->memory || !vm->registry) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_INVALID,
                            "the machine has no memory or no device-state registry");
        return false;
    }
    if (params && (unsigned)params->ram > GW_RAM_SHARE) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%d is no way to move RAM", params->ram);
        return false;
    }
    if (params && ((unsigned)params->mode > GW_MODE_POSTCOPY ||
                   (unsigned)params->at_max_time > GW_AT_MAX_TIME_STOP_AND_COPY)) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_INVALID, "no such mode of migration");
        return false;
    }
    if (params && params->max_slowdown_permille > GW_MAX_SLOWDOWN_PERMILLE) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "a slowdown of %u permille; at most %u are possible",
                    params->max_slowdown_permille, GW_MAX_SLOWDOWN_PERMILLE);
        return false;
    }
    if (params && params->channels > WIRE_MAX_CHANNELS) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%u page channels; at most %u are possible",
                    params->channels, WIRE_MAX_CHANNELS);
        return false;
    }
    return true;
}

struct gw_source *gw_source_start(const struct gw_vm *vm, const char *uri,
                                  const struct gw_migrate_params *params,
                                  const struct gw_migrate_observer *observer, GError **error)
{
    return check_arguments(vm, uri, params, error) ? source_new(vm, uri, params, observer, false)
                                                   : NULL;
}

struct gw_source *gw_snapshot_start(const struct gw_vm *vm, const char *uri,
                                    const struct gw_migrate_params *params,
                                    const struct gw_migrate_observer *observer, GError **error)
{
    return check_arguments(vm, uri, params, error) ? source_new(vm, uri, params, observer, true)
                                                   : NULL;
}

/* Makes the control thread return from whatever it blocks on in the engine. */
static void source_interrupt(struct gw_source *source)
{
    uint64_t one = 1;

    if (write(source->wake_fd, &one, sizeof one) < 0)
        return; /* the counter is full: it is readable already */
}

bool gw_source_cancel(struct gw_source *source)
{
    bool can;

    pthread_mutex_lock(&source->lock);
    can = source_is_before_commit(source->handover.state) ||
          source->handover.state == GW_SOURCE_SAVING;
    if (can) {
        source->wants_cancel = true;
        if (source->opening)
            gw_channel_wake(source->opening);
    }
    pthread_mutex_unlock(&source->lock);
    if (can) {
        source_interrupt(source);
        mailbox_put(&source->box, mail_new(MAIL_CANCEL));
    }
    return can;
}

/* A snapshot is written by the control thread, which cannot report meanwhile. Locked. */
static void add_saving_progress(struct gw_source *source, struct gw_source_status *status)
{
    uint64_t ns = clock_mono_ns() - source->round_start_ns;
    struct wire_counters sent;

    wire_stream_counters(source->saving, &sent);
    status->bytes_sent = status->page_bytes_sent = sent.bytes_out;
    status->remaining_bytes -= MIN(status->remaining_bytes, sent.pages_out * GW_PAGE_SIZE);
    status->bandwidth_bytes_per_s =
        (uint64_t)((__uint128_t)sent.bytes_out * NS_PER_S / MAX(ns, NS_PER_MS));
    status->is_converging = true;
    if (status->bandwidth_bytes_per_s)
        status->expected_left_ns = (uint64_t)((__uint128_t)status->remaining_bytes * NS_PER_S /
                                              status->bandwidth_bytes_per_s);
}

void gw_source_get_status(struct gw_source *source, struct gw_source_status *status)
{
    pthread_mutex_lock(&source->lock);
    *status = source->status;
    if (source->saving)
        add_saving_progress(source, status);
    pthread_mutex_unlock(&source->lock);
    if (!gw_source_state_is_final(status->state))
        status->total_ns = clock_mono_ns() - source->start_ns;
}

struct gw_ledger *gw_source_get_ledger(struct gw_source *source)
{
    return ledger_copy(source->ledger);
}

void gw_source_set_budgets(struct gw_source *source, const struct gw_migrate_params *params)
{
    pthread_mutex_lock(&source->lock);
    source->status.max_blackout_ns =
        params->max_blackout_ns ? params->max_blackout_ns : GW_DEFAULT_MAX_BLACKOUT_NS;
    source->status.max_time_ns = params->max_time_ns;
    source->status.max_bandwidth_bytes = params->max_bandwidth_bytes;
    source->status.max_slowdown_permille =
        MIN(params->max_slowdown_permille, GW_MAX_SLOWDOWN_PERMILLE);
    pthread_mutex_unlock(&source->lock);
    gw_rate_limit_set(source->limit, params->max_bandwidth_bytes);
    mailbox_put(&source->box, mail_new(MAIL_POKE));
}

bool gw_source_resolve(struct gw_source *source, enum gw_resolution resolution, GError **error)
{
    unsigned state;
    struct mail *mail;
    bool can;

    pthread_mutex_lock(&source->lock);
    state = source->handover.state;
    can = state == GW_SOURCE_IN_DOUBT ||
          (state == GW_SOURCE_PAUSED && resolution == GW_RESOLVE_RELEASE);
    if (can && !source->resolution) {
        source->resolution = resolution;
        if (source->opening)
            gw_channel_wake(source->opening);
    }
    pthread_mutex_unlock(&source->lock);
    if (!can) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "the migration is not in doubt but in state %s",
                    gw_source_state_name((enum gw_source_state)state));
        return false;
    }
    source_interrupt(source);
    mail = mail_new(MAIL_RESOLVE);
    mail->number = resolution;
    mailbox_put(&source->box, mail);
    return true;
}

bool gw_source_wait(struct gw_source *source, uint64_t deadline_ns)
{
    bool is_final = false;
    bool is_in_time = true;

    pthread_mutex_lock(&source->lock);
    while (!(is_final = gw_source_state_is_final(source->status.state)) && is_in_time)
        is_in_time = cond_wait_until(&source->changed, &source->lock, deadline_ns);
    pthread_mutex_unlock(&source->lock);
    return is_final;
}

void gw_source_free(struct gw_source *source)
{
    if (!source)
        return;
    pthread_mutex_lock(&source->lock);
    source->is_freeing = true;
    if (source->opening)
        gw_channel_wake(source->opening);
    pthread_mutex_unlock(&source->lock);
    source_interrupt(source);
    mailbox_put(&source->box, mail_new(MAIL_CANCEL));
    pthread_join(source->thread, NULL);
    mail_free(source->running);
    source_forecast_free(source);
    source_share_free(source);
    source_postcopy_free(source);
    source_throttle_clear(source);
    wire_message_clear(WIRE_HELLO, &source->peer);
    g_ptr_array_unref(source->page_links);
    g_clear_pointer(&source->pending, gw_page_set_free);
    g_clear_pointer(&source->sending, gw_page_set_free);
    encoding_free(source->encoding);
    gw_ledger_free(source->ledger);
    gw_rate_limit_unref(source->sooner);
    gw_rate_limit_unref(source->limit);
    mailbox_clear(&source->box);
    close(source->wake_fd);
    pthread_cond_destroy(&source->changed);
    pthread_mutex_destroy(&source->lock);
    g_free(source->put_off_reason);
    g_free(source->lost_reason);
    g_free(source->uri);
    g_free(source);
}
