/* SPDX-License-Identifier: MIT */
/*
 * The source engine: its control thread, and the dispatch of events.
 *
 * Essay: docs/handover.md. The control thread runs source_main: it opens the channels, then takes
 * one mail after the other. Whatever a mail means is an event of the handover table; the table
 * says which action is due, and source_perform does it. After each mail, source_tick looks at
 * what only time can tell.
 */
#include "migrate/source.h"

#include "memory/faults.h"

/* ---- state ------------------------------------------------------------------------------------
 */

unsigned source_state(struct gw_source *source)
{
    unsigned state;

    pthread_mutex_lock(&source->lock);
    state = source->handover.state;
    pthread_mutex_unlock(&source->lock);
    return state;
}

bool source_wants_stop(struct gw_source *source)
{
    bool wants;

    pthread_mutex_lock(&source->lock);
    wants = source->wants_cancel || source->is_freeing;
    pthread_mutex_unlock(&source->lock);
    return wants;
}

bool source_is_interrupted(struct gw_source *source)
{
    bool is_interrupted;

    pthread_mutex_lock(&source->lock);
    is_interrupted = source->wants_cancel || source->is_freeing || source->resolution;
    pthread_mutex_unlock(&source->lock);
    return is_interrupted;
}

void source_stop_budgets(struct gw_source *source, uint64_t *max_blackout_ns, uint64_t *max_time_ns)
{
    pthread_mutex_lock(&source->lock);
    if (max_blackout_ns)
        *max_blackout_ns = source->status.max_blackout_ns;
    if (max_time_ns)
        *max_time_ns = source->status.max_time_ns;
    pthread_mutex_unlock(&source->lock);
}

static void source_notify(struct gw_source *source, enum gw_migrate_event event, uint32_t value)
{
    if (source->observer.event)
        source->observer.event(source->observer.opaque, event, value);
}

static void source_publish_state(struct gw_source *source, unsigned state)
{
    bool is_new;

    pthread_mutex_lock(&source->lock);
    is_new = source->status.state != (enum gw_source_state)state;
    source->status.state = (enum gw_source_state)state;
    if (state == GW_SOURCE_FAILED || state == GW_SOURCE_CANCELLED || state == GW_SOURCE_IN_DOUBT ||
        state == GW_SOURCE_PAUSED || state == GW_SOURCE_RECONNECTING || state == GW_SOURCE_LOST)
        source->status.failure = source->failure;
    if (gw_source_state_is_final((enum gw_source_state)state))
        source->status.total_ns = clock_mono_ns() - source->start_ns;
    pthread_cond_broadcast(&source->changed);
    pthread_mutex_unlock(&source->lock);
    if (is_new)
        source_notify(source, GW_MIGRATE_EVENT_STATE, state);
}

void source_resume_guest(struct gw_source *source, const char *reason)
{
    if (!source->is_guest_stopped)
        return;
    source_forward_stop(source);
    source->is_guest_stopped = false;
    if (source->vm.resume_at_source)
        source->vm.resume_at_source(source->vm.opaque);
    uint64_t blackout_ns = ledger_close(source->ledger, clock_mono_ns(), reason, 0);

    if (source->is_snapshot) {
        pthread_mutex_lock(&source->lock);
        source->status.blackout_ns = blackout_ns;
        pthread_mutex_unlock(&source->lock);
    }
}

/* Ends a migration whose guest stays here: guest first, then the peer, then the links. */
static void source_end(struct gw_source *source, unsigned event)
{
    bool is_peers = event == SOURCE_EV_PEER_FAILED || event == SOURCE_EV_NEVER;

    source_share_end(source);
    source_throttle_off(source);
    source_resume_guest(source, source->failure.reason);
    if (source->control && event == SOURCE_EV_CANCEL) {
        struct wire_cancel cancel = {.reason = g_strdup(source->failure.reason)};

        link_post(source->control, WIRE_CANCEL, &cancel);
    } else if (source->control && !is_peers) {
        struct wire_abort abort = {.side = source->failure.side == GW_SIDE_DESTINATION
                                               ? WIRE_SIDE_DESTINATION
                                               : WIRE_SIDE_SOURCE,
                                   .code = (uint16_t)source->failure.code,
                                   .reason = g_strdup(source->failure.reason)};

        link_post(source->control, WIRE_ABORT, &abort);
    }
    source_close_links(source, true);
    source_log_stop(source);
}

static void source_perform(struct gw_source *source, unsigned event, unsigned action)
{
    switch ((enum source_action)action) {
    case SOURCE_DO_HANDSHAKE:
        source_handshake(source);
        break;
    case SOURCE_DO_SAVE:
        source_save(source);
        break;
    case SOURCE_DO_ROUNDS:
        source_begin_rounds(source);
        break;
    case SOURCE_DO_SWITCHOVER:
        source_switchover(source);
        break;
    case SOURCE_DO_RESUME:
        source_put_off(source);
        break;
    case SOURCE_DO_COMMIT:
        source_commit(source);
        break;
    case SOURCE_DO_RELEASE:
        source_release(source);
        break;
    case SOURCE_DO_END:
    case SOURCE_DO_RESUME_END:
        source_end(source, event);
        break;
    case SOURCE_DO_ASK:
        source_close_links(source, false);
        source->ask_backoff_ns = 100 * NS_PER_MS;
        source->next_ask_ns = clock_mono_ns();
        break;
    case SOURCE_DO_FAIL_PEER:
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                    "the destination said what it may not say in this state");
        break;
    case SOURCE_DO_RESUME_RECONNECT:
        source_resume_guest(source, source->failure.reason);
        source_take_missing_back(source);
        source_reconnect(source);
        break;
    case SOURCE_DO_RECONNECT:
        source_reconnect(source);
        break;
    case SOURCE_DO_RESUME_ROUNDS:
        source_next_round(source);
        break;
    case SOURCE_DO_SERVE:
        source_serve(source);
        break;
    case SOURCE_DO_LET_GO:
        source_let_go(source);
        break;
    case SOURCE_DO_REFUSE:
    case SOURCE_DO_NOTHING:
    case SOURCE_N_ACTIONS:
        break;
    }
}

void source_dispatch(struct gw_source *source, enum source_event event)
{
    unsigned action, state;

    /* A cancel that was accepted by gw_source_cancel wins over a LOADED that comes later. */
    pthread_mutex_lock(&source->lock);
    if (event == SOURCE_EV_LOADED && (source->wants_cancel || source->is_freeing)) {
        event = SOURCE_EV_CANCEL;
        if (source->failure.side == GW_SIDE_NONE)
            engine_failure_set(&source->failure, GW_SIDE_SOURCE, GW_ERROR_CANCELLED, "cancelled");
    }
    action = handover_step(&source->handover, event);
    state = source->handover.state;
    pthread_mutex_unlock(&source->lock);

    /* A final state is published when its action is done: whoever waits finds the guest where it
     * belongs. */
    if (!gw_source_state_is_final((enum gw_source_state)state))
        source_publish_state(source, state);
    source_perform(source, event, action);
    if (gw_source_state_is_final((enum gw_source_state)state))
        source_publish_state(source, state);
}

void source_fail(struct gw_source *source, enum source_event event, enum gw_side side, int code,
                 const char *reason)
{
    if (source->failure.side == GW_SIDE_NONE)
        engine_failure_set(&source->failure, side, code, reason);
    /* A link that was lost on its way, not one that the peer abused. */
    if (event == SOURCE_EV_LINK_LOST && side == GW_SIDE_SOURCE && source_may_reconnect(source))
        event = source_state(source) == GW_SOURCE_RECONNECTING ? event : SOURCE_EV_LINK_BROKEN;
    source_dispatch(source, event);
}

void source_fail_error(struct gw_source *source, const GError *error)
{
    int code = gw_error_code_of(error);

    if (source_wants_stop(source) && code == GW_ERROR_CANCELLED)
        source_fail(source, SOURCE_EV_CANCEL, GW_SIDE_SOURCE, GW_ERROR_CANCELLED, "cancelled");
    else if (code == GW_ERROR_PEER)
        source_fail(source, SOURCE_EV_PEER_FAILED, GW_SIDE_DESTINATION, code, error->message);
    else if (code == GW_ERROR_LINK_LOST || code == GW_ERROR_LINK_SILENT ||
             code == GW_ERROR_CORRUPT || code == GW_ERROR_LIMIT)
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_SOURCE, code, error->message);
    else
        source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, code, error->message);
}

bool source_is_before_commit(unsigned state)
{
    return state == GW_SOURCE_CONNECTING || state == GW_SOURCE_HANDSHAKE ||
           state == GW_SOURCE_ROUNDS || state == GW_SOURCE_BLACKOUT ||
           state == GW_SOURCE_RECONNECTING;
}

/* ---- mails ------------------------------------------------------------------------------------
 */

static void source_on_abort(struct gw_source *source, const struct wire_abort *abort)
{
    enum gw_side side = abort->side == WIRE_SIDE_SOURCE ? GW_SIDE_SOURCE : GW_SIDE_DESTINATION;

    source_fail(source, SOURCE_EV_PEER_FAILED, side, abort->code, abort->reason);
}

static void source_on_record(struct gw_source *source, struct mail *mail)
{
    switch (mail->type) {
    case WIRE_HELLO:
        source_on_hello(source, mail);
        break;
    case WIRE_SCHEMA_VERDICT:
        source_on_verdict(source, mail);
        break;
    case WIRE_RAM_SHARED:
        source_share_on_answer(source, mail);
        break;
    case WIRE_ROUND_ACK:
        source_on_ack(source, mail);
        break;
    case WIRE_RESEND:
        source_on_resend(source, mail);
        break;
    case WIRE_LOADED:
        source_on_loaded(source, mail);
        break;
    case WIRE_RUNNING:
        source_on_running(source, mail);
        break;
    case WIRE_WHOLE:
        source_on_whole(source, mail);
        break;
    case WIRE_COST:
        pthread_mutex_lock(&source->lock);
        source->status.peer_cpu_ns = mail->message.cost.cpu_ns;
        pthread_mutex_unlock(&source->lock);
        break;
    case WIRE_FAULT_WAITS:
        source_on_fault_waits(source, mail);
        break;
    case WIRE_LEDGER:
        source_on_ledger(source, mail);
        break;
    case WIRE_GOODBYE:
        source->has_ledger = true;
        source_finish_running(source);
        break;
    case WIRE_ABORT:
        source_on_abort(source, &mail->message.abort);
        break;
    case WIRE_CLOCK_PONG:
        source_on_pong(source, mail);
        break;
    case WIRE_REHEARSAL_REPORT:
        source->predict.load_ns = mail->message.rehearsal_report.load_ns;
        source->predict.save_ns = MAX(source->predict.save_ns, source->predict.load_ns);
        source->predict.state_bytes = mail->message.rehearsal_report.n_bytes;
        break;
    default:
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                    "the destination sent a record that only a source may send");
        break;
    }
}

void source_lose_channel(struct gw_source *source, const GError *error)
{
    unsigned state = source_state(source);

    /* After COMMIT only the control channel matters, unless pages come after it. */
    source->postcopy.has_lost_pages |= state == GW_SOURCE_COMMITTED && source->postcopy.is_attempt;
    if (source->lost_limit_ns != UINT64_MAX ||
        (!source_is_before_commit(state) && state != GW_SOURCE_POSTCOPY))
        return;
    source->lost_code = gw_error_code_of(error);
    /* What we found ourselves needs no explanation by the peer. */
    source->lost_limit_ns =
        clock_mono_ns() + (source->lost_code == GW_ERROR_LINK_LOST ? SOURCE_GRACE_NS : 0);
    g_free(source->lost_reason);
    source->lost_reason = g_strdup(error->message);
}

/* A channel ended. The peer's reason may still be on its way on the control channel. */
static void source_on_link_end(struct gw_source *source, const struct mail *mail)
{
    source_take_running(source);
    if (mail->channel == CHANNEL_CONTROL) {
        source_fail_error(source, mail->error);
        return;
    }
    source_lose_channel(source, mail->error);
}

static void source_on_mail(struct gw_source *source, struct mail *mail)
{
    bool is_of_link = mail->kind == MAIL_RECORD || mail->kind == MAIL_LINK_END;

    if (is_of_link && mail->generation != source->generation)
        return;
    switch (mail->kind) {
    case MAIL_RECORD:
        source_on_record(source, mail);
        break;
    case MAIL_LINK_END:
        source_on_link_end(source, mail);
        break;
    case MAIL_CANCEL:
        source_fail(source, SOURCE_EV_CANCEL, GW_SIDE_SOURCE, GW_ERROR_CANCELLED, "cancelled");
        break;
    case MAIL_RESOLVE:
        /* What both hosts can see needs no operator. */
        if (source_state(source) == GW_SOURCE_IN_DOUBT && source_share_ask(source))
            break;
        source_dispatch(source, mail->number == GW_RESOLVE_RELEASE ? SOURCE_EV_RELEASE
                                                                   : SOURCE_EV_RUN_HERE);
        break;
    case MAIL_PAUSE:
        if (source_state(source) != GW_SOURCE_POSTCOPY)
            break;
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CANCELLED,
                    "paused by the user");
        source->postcopy.next_try_ns = UINT64_MAX; /* until MAIL_RECOVER */
        break;
    case MAIL_RECOVER:
        if (mail->text) {
            g_free(source->postcopy.uri);
            source->postcopy.uri = g_steal_pointer(&mail->text);
        }
        source->postcopy.next_try_ns = 0;
        break;
    case MAIL_LANE_SENT:
    case MAIL_LANE_ROUND:
    case MAIL_SECTION:
    case MAIL_STREAM:
    case MAIL_WHOLE:
    case MAIL_POKE:
    case MAIL_PROBE:
        break;
    }
}

/* ---- time -------------------------------------------------------------------------------------
 */

static uint64_t source_time_limit(struct gw_source *source)
{
    uint64_t max_time_ns;

    source_stop_budgets(source, NULL, &max_time_ns);
    return max_time_ns ? source->start_ns + max_time_ns : UINT64_MAX;
}

/* max-time is spent: is there something to do instead of giving up? */
static bool source_goes_on_at_max_time(struct gw_source *source, unsigned state)
{
    if (source->is_time_spent)
        return true;
    if (source->params.at_max_time == GW_AT_MAX_TIME_CANCEL ||
        (state != GW_SOURCE_ROUNDS && state != GW_SOURCE_BLACKOUT) ||
        (source->params.at_max_time == GW_AT_MAX_TIME_POSTCOPY && !source_can_postcopy(source)))
        return false;
    source->is_time_spent = true;
    source->postcopy.is_time_up = source->params.at_max_time == GW_AT_MAX_TIME_POSTCOPY;
    return true;
}

/* What only time can tell; may be called at any time. */
static void source_tick(struct gw_source *source)
{
    uint64_t now_ns = clock_mono_ns();
    unsigned state = source_state(source);

    if (now_ns >= source->lost_limit_ns) {
        source->lost_limit_ns = UINT64_MAX;
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_SOURCE, source->lost_code,
                    source->lost_reason);
    } else if (source_is_before_commit(state) && now_ns >= source_time_limit(source) &&
               !source_goes_on_at_max_time(source, state)) {
        source_fail(source, SOURCE_EV_CANCEL, GW_SIDE_SOURCE, GW_ERROR_TIMEOUT,
                    "the migration took longer than its time budget");
    } else if (state == GW_SOURCE_HANDSHAKE && now_ns >= source->setup_deadline_ns) {
        source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, GW_ERROR_TIMEOUT,
                    "the destination did not complete the handshake in time");
    } else if (state == GW_SOURCE_BLACKOUT && now_ns >= source->blackout_limit_ns) {
        g_free(source->put_off_reason);
        source->put_off_reason =
            g_strdup(source->is_round_open ? "the last pages took far longer than predicted"
                                           : "the destination took too long to load");
        source_dispatch(source, SOURCE_EV_OVERRUN);
    } else if (source->running) {
        source->has_ledger |= now_ns >= source->running_limit_ns;
        source_finish_running(source);
    } else if (state == GW_SOURCE_ROUNDS) {
        source_sample_dirty(source);
        source_tune(source);
        source_next_round(source);
    } else if (state == GW_SOURCE_IN_DOUBT && now_ns >= source->next_ask_ns) {
        source_ask(source);
    } else if ((state == GW_SOURCE_PAUSED || state == GW_SOURCE_RECONNECTING) &&
               now_ns >= source->postcopy.next_try_ns) {
        source_try_reconnect(source);
    }
    if (source->control && now_ns >= source->next_ping_ns)
        source_ping(source);
    engine_book_cpu(&source->cpu_seen_ns, &source->cpu_ns);
    source_publish_progress(source);
    source_publish_postcopy(source);
}

static uint64_t source_next_deadline(struct gw_source *source)
{
    unsigned state = source_state(source);
    uint64_t deadline_ns = source->lost_limit_ns;

    if (source_is_before_commit(state) && !source->is_time_spent)
        deadline_ns = MIN(deadline_ns, source_time_limit(source));
    if (state == GW_SOURCE_HANDSHAKE)
        deadline_ns = MIN(deadline_ns, source->setup_deadline_ns);
    if (state == GW_SOURCE_BLACKOUT)
        deadline_ns = MIN(deadline_ns, source->blackout_limit_ns);
    if (state == GW_SOURCE_ROUNDS && !source->is_round_open)
        deadline_ns = MIN(deadline_ns, source->next_look_ns);
    else if (state == GW_SOURCE_ROUNDS)
        deadline_ns = MIN(deadline_ns, source_forecast_next_ns(source));
    if (state == GW_SOURCE_ROUNDS && source->is_round_open)
        deadline_ns = MIN(deadline_ns, tune_next_ns(&source->tune));
    if (state == GW_SOURCE_IN_DOUBT)
        deadline_ns = MIN(deadline_ns, source->next_ask_ns);
    if (state == GW_SOURCE_PAUSED || state == GW_SOURCE_RECONNECTING)
        deadline_ns = MIN(deadline_ns, source->postcopy.next_try_ns);
    if (state == GW_SOURCE_POSTCOPY) /* so that the progress is told */
        deadline_ns = MIN(deadline_ns, clock_mono_ns() + SOURCE_PING_NS);
    if (source->running)
        deadline_ns = MIN(deadline_ns,
                          source->has_ledger ? source->forward_limit_ns : source->running_limit_ns);
    if (source->control)
        deadline_ns = MIN(deadline_ns, source->next_ping_ns);
    return deadline_ns;
}

static bool source_is_over(struct gw_source *source)
{
    unsigned state = source_state(source);
    bool is_freeing;

    pthread_mutex_lock(&source->lock);
    is_freeing = source->is_freeing;
    pthread_mutex_unlock(&source->lock);
    return gw_source_state_is_final((enum gw_source_state)state) ||
           (is_freeing && (state == GW_SOURCE_COMMITTED || state == GW_SOURCE_IN_DOUBT ||
                           state == GW_SOURCE_POSTCOPY || state == GW_SOURCE_PAUSED));
}

/* A guest that is being restored lazily is sent or saved when all of it is here. */
static void source_await_memory(struct gw_source *source)
{
    while (!source_wants_stop(source) &&
           !memory_await_whole(source->vm.memory, clock_mono_ns() + SOURCE_AWAIT_STEP_NS))
        ;
}

void *source_main(void *opaque)
{
    struct gw_source *source = opaque;

    source_notify(source, GW_MIGRATE_EVENT_STATE, GW_SOURCE_CONNECTING);
    source_await_memory(source);
    source_connect(source);
    while (!source_is_over(source)) {
        struct mail *mail = mailbox_take(&source->box, source_next_deadline(source));

        if (mail) {
            source_on_mail(source, mail);
            mail_free(mail);
        }
        if (!source_is_over(source))
            source_tick(source);
    }
    mailbox_close(&source->box);
    source_close_links(source, false);
    source_throttle_off(source);
    source_log_stop(source);
    return NULL;
}
