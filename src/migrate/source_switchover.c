/* SPDX-License-Identifier: MIT */
/*
 * The source's blackout, from stopping the guest to letting go of it or taking it back.
 *
 * Order (docs/handover.md): stop, last dirty fetch, SWITCHOVER_BEGIN, the stopped round on the
 * lanes; meanwhile flush and device state on the control channel; then wait for the
 * acknowledgements, for LOADED; COMMIT; RUNNING. Until COMMIT is posted, everything that fails or
 * overruns its share of the budget ends in source_put_off or in the end of the migration, with the
 * guest running here again.
 */
#include "migrate/source.h"

#define FLOOR_SHARE_NS    (UINT64_C(5) * NS_PER_MS) /* least time given to stop and to flush */
#define FLOOR_BLACKOUT_NS (UINT64_C(10) * NS_PER_MS)
#define RUNNING_LEDGER_NS (2 * NS_PER_S) /* RUNNING came: for the ledger to follow */
#define ASK_MAX_NS        (UINT64_C(5) * NS_PER_S)

/* A step's share of the budget: what the other steps are predicted to leave, at least a quarter. */
static uint64_t share_ns(uint64_t budget_ns, uint64_t predicted_ns, uint64_t own_ns)
{
    uint64_t others_ns = predicted_ns > own_ns ? predicted_ns - own_ns : 0;
    uint64_t left_ns = budget_ns > others_ns ? budget_ns - others_ns : 0;

    return MAX(MAX(left_ns, budget_ns / 4), FLOOR_SHARE_NS);
}

bool source_stop_guest(struct gw_source *source, GError **error)
{
    uint64_t budget_ns, limit_ns;
    uint64_t start_ns = clock_mono_ns();

    source_stop_budgets(source, &budget_ns, NULL);
    limit_ns = source->is_snapshot
                   ? source->silence_ns
                   : share_ns(budget_ns, source->predicted_ns, source->predict.stop_ns);
    source->blackout_start_ns = start_ns;
    source->blackout_limit_ns = start_ns + 2 * budget_ns + FLOOR_BLACKOUT_NS;
    ledger_open(source->ledger, GW_SIDE_SOURCE, "stop", start_ns, clock_real_ns(),
                source->predicted_ns);
    if (source->vm.stop &&
        !source->vm.stop(source->vm.opaque, start_ns + limit_ns, source->ledger, error)) {
        g_prefix_error(error, "stopping the guest: ");
        /* By contract the machine runs again. */
        ledger_close(source->ledger, clock_mono_ns(),
                     error && *error ? (*error)->message : "the guest did not stop", 0);
        return false;
    }
    source->is_guest_stopped = true;
    source->predict.stop_ns = clock_mono_ns() - start_ns;
    source_throttle_off(source);
    return true;
}

/* Gives the attempt up: OVERRUN with this reason. */
static void source_overrun(struct gw_source *source, const char *reason)
{
    g_free(source->put_off_reason);
    source->put_off_reason = g_strdup(reason);
    source_dispatch(source, SOURCE_EV_OVERRUN);
}

bool source_flush(struct gw_source *source, GError **error)
{
    uint64_t budget_ns;
    uint64_t start_ns = clock_mono_ns();
    bool is_flushed;

    if (!source->vm.flush)
        return true;
    source_stop_budgets(source, &budget_ns, NULL);
    ledger_next(source->ledger, GW_SIDE_SOURCE, "flush", start_ns);
    is_flushed = source->vm.flush(
        source->vm.opaque,
        start_ns + share_ns(budget_ns, source->predicted_ns, source->predict.flush_ns),
        source->ledger, error);
    /* How long a flush hung says nothing about the next one, and a prediction of it would keep
     * every later attempt from being made. The back-off answers it. */
    if (is_flushed)
        source->predict.flush_ns = clock_mono_ns() - start_ns;
    else
        g_prefix_error(error, "flushing disks: ");
    return is_flushed;
}

/* Saves every instance and posts it. */
static bool source_send_state(struct gw_source *source, GError **error)
{
    const struct gw_state_registry *registry = source->vm.registry;
    uint64_t start_ns = clock_mono_ns();
    uint64_t n_bytes = 0;

    ledger_next(source->ledger, GW_SIDE_SOURCE, "save", start_ns);
    link_post_state_begin(source->control, source->attempt);
    for (uint32_t i = 0; i < gw_state_registry_n(registry); i++) {
        const char *id = gw_state_registry_id(registry, i);
        g_autoptr(GByteArray) data = g_byte_array_new();
        uint64_t from_ns = clock_mono_ns();

        if (!gw_state_save(registry, i, data, error)) {
            g_prefix_error(error, "saving %s: ", id);
            return false;
        }
        n_bytes += data->len;
        link_post_section(source->control, WIRE_SECTION_DEVICE, id, i,
                          gw_state_registry_desc(registry, i)->version, source->attempt,
                          g_steal_pointer(&data));
        gw_ledger_note(source->ledger, id, from_ns, clock_mono_ns() - from_ns);
    }
    if (source->postcopy.is_attempt)
        source_post_missing(source);
    link_post_state_end(source->control);
    source->predict.save_ns = clock_mono_ns() - start_ns;
    source->predict.state_bytes = n_bytes;
    return true;
}

static bool source_say_switchover(struct gw_source *source, bool was_running, uint64_t stopped_ns,
                                  uint64_t stopped_real_ns)
{
    uint64_t budget_ns;
    struct wire_switchover_begin begin;

    source_stop_budgets(source, &budget_ns, NULL);
    begin = (struct wire_switchover_begin){
        .attempt = source->attempt,
        .round = source->round + 1,
        .was_running = was_running,
        .monotonic_ns = stopped_ns,
        .realtime_ns = stopped_real_ns,
        .max_blackout_ns = budget_ns,
    };
    /* From here on also what belongs to a blackout may come; it includes all of the rounds. */
    wire_stream_set_phase(link_stream(source->control), WIRE_IN_BLACKOUT);
    link_post(source->control, WIRE_SWITCHOVER_BEGIN, &begin);
    source->is_switchover_said = true;
    return true;
}

void source_switchover(struct gw_source *source)
{
    g_autoptr(GError) error = NULL;
    bool was_running = source->vm.is_running ? source->vm.is_running(source->vm.opaque) : true;
    uint64_t stopped_ns, stopped_real_ns;

    source->attempt++;
    source->is_switchover_said = false;
    source->is_state_sent = false;
    source->has_resend = false;
    if (!source_stop_guest(source, &error)) {
        source_overrun(source, error->message);
        return;
    }
    stopped_ns = clock_mono_ns();
    stopped_real_ns = clock_real_ns();
    ledger_next(source->ledger, GW_SIDE_SOURCE, "last dirty fetch", stopped_ns);
    if (!source->share.is_agreed &&
        !gw_memory_log_collect(source->vm.memory, source->pending, NULL, &error)) {
        source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, gw_error_code_of(error),
                    error->message);
        return;
    }
    source->predict.fetch_ns = clock_mono_ns() - stopped_ns;
    source->last_collect_ns = stopped_ns;
    source_say_switchover(source, was_running, stopped_ns, stopped_real_ns);
    if (source->postcopy.is_attempt)
        source_name_missing(source);
    source_start_round(source, WIRE_ROUND_GUEST_STOPPED |
                                   (source->postcopy.is_attempt ? WIRE_ROUND_POSTCOPY : 0));
    if (!source_flush(source, &error)) {
        source_overrun(source, error->message);
        return;
    }
    if (!source_send_state(source, &error)) {
        source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, GW_ERROR_FAILED, error->message);
        return;
    }
    source->is_state_sent = true;
    ledger_next(source->ledger, GW_SIDE_SOURCE, SOURCE_LAST_PAGES, clock_mono_ns());
}

void source_round_done_in_blackout(struct gw_source *source)
{
    if (source->pending->n_set > 0) {
        /* RESEND came: pages arrived damaged, or were not known good when the guest stopped. */
        source->has_resend = false;
        ledger_next(source->ledger, GW_SIDE_SOURCE, SOURCE_LAST_PAGES, clock_mono_ns());
        source_start_round(source, WIRE_ROUND_GUEST_STOPPED);
        return;
    }
    source->await_start_ns = clock_mono_ns();
    ledger_next(source->ledger, GW_SIDE_SOURCE, SOURCE_AWAIT_LOADED, source->await_start_ns);
}

void source_put_off(struct gw_source *source)
{
    source_throttle_again(source);
    source_resume_guest(source, source->put_off_reason);
    lanes_abandon_round(source->lanes);
    /* What was in flight may be unsent or half way: it goes again. sending itself stays as it is,
     * because lanes may still read it. */
    gw_page_set_or(source->pending, source->sending);
    source_take_missing_back(source);
    /* The back-off is the guest's: it counts from when it runs again. */
    predict_put_off(&source->predict, clock_mono_ns());
    source->next_look_ns = 0;
    if (source->is_switchover_said) {
        struct wire_switchover_cancel cancel = {.attempt = source->attempt,
                                                .reason = g_strdup(source->put_off_reason)};

        link_post(source->control, WIRE_SWITCHOVER_CANCEL, &cancel);
    }
    source->is_switchover_said = false;
}

static uint32_t n_sections_sent(const struct gw_source *source)
{
    return gw_state_registry_n(source->vm.registry) +
           (source->postcopy.is_attempt ? gw_memory_n_blocks(source->vm.memory) : 0);
}

void source_on_loaded(struct gw_source *source, const struct mail *mail)
{
    const struct wire_loaded *loaded = &mail->message.loaded;

    /* An attempt that was put off meanwhile: its answer is of no use. */
    if (loaded->attempt < source->attempt ||
        (loaded->attempt == source->attempt && source_state(source) == GW_SOURCE_ROUNDS))
        return;
    if (source_state(source) == GW_SOURCE_BLACKOUT &&
        (loaded->attempt != source->attempt || source->is_round_open || !source->is_state_sent ||
         source->pending->n_set || loaded->n_suspect ||
         loaded->state_digest != link_state_digest(source->control) ||
         loaded->n_sections != n_sections_sent(source))) {
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                    "the destination says that it loaded what was not sent");
        return;
    }
    source_dispatch(source, SOURCE_EV_LOADED);
}

void source_commit(struct gw_source *source)
{
    struct wire_commit commit = {.attempt = source->attempt,
                                 .state_digest = link_state_digest(source->control)};

    source->commit_ns = clock_mono_ns();
    source->predict.load_ns = source->commit_ns - source->await_start_ns;
    source->lost_limit_ns = UINT64_MAX;
    commit.monotonic_ns = source->commit_ns;
    ledger_next(source->ledger, GW_SIDE_SOURCE, SOURCE_AWAIT_RUNNING, source->commit_ns);
    wire_stream_set_phase(link_stream(source->control), WIRE_IN_COMMITTED);
    source_share_commit(source, &commit);
    source_forward_start(source);
}

/* RUNNING: known for sure. It is acted upon when the destination's ledger is here too, or when it
 * is clear that it will not come, and when what comes for the guest goes to the destination. */
static enum source_event source_running_event(const struct gw_source *source)
{
    return source->postcopy.is_attempt ? SOURCE_EV_RUNNING_PARTIAL : SOURCE_EV_RUNNING;
}

static void source_publish_forwarded(struct gw_source *source)
{
    pthread_mutex_lock(&source->lock);
    source->status.packets_forwarded = __atomic_load_n(&source->n_forwarded, __ATOMIC_RELAXED);
    source->status.packets_dropped = __atomic_load_n(&source->n_not_forwarded, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&source->lock);
}

void source_on_running(struct gw_source *source, struct mail *mail)
{
    if (source_state(source) != GW_SOURCE_COMMITTED) {
        source_dispatch(source, source_running_event(source));
        return;
    }
    if (mail->message.running.attempt != source->attempt || source->running) {
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                    "the destination says that it runs another attempt");
        return;
    }
    source->running = mail_new(MAIL_RECORD);
    source->running->arrived_ns = mail->arrived_ns;
    source->running->message.running = mail->message.running;
    source->running_limit_ns = clock_mono_ns() + RUNNING_LEDGER_NS;
    /* A guest that is held paused is announced when it is let go on, hours later perhaps. */
    source->forward_limit_ns =
        clock_mono_ns() + (mail->message.running.is_running ? SOURCE_FORWARD_NS : 0);
    /* The guest runs without its memory: the pages do not wait for the ledger. */
    if (source->postcopy.is_attempt && !source->postcopy.has_lost_pages)
        source_push(source);
}

void source_finish_running(struct gw_source *source)
{
    if (source->running && source->has_ledger && source_is_forward_over(source, clock_mono_ns()))
        source_take_running(source);
}

/* Books the end of the blackout: when the destination let the guest run, on our clock. */
static void source_book_end(struct gw_source *source, const struct mail *ledger)
{
    uint64_t end_ns = clock_mono_ns();
    uint64_t blackout_ns;
    g_autofree struct ledger_span *spans = NULL;
    uint32_t n_spans = 0;

    if (source->running && source->clock.is_known)
        end_ns = CLAMP(
            clock_offset_to_ours(&source->clock, source->running->message.running.monotonic_ns),
            source->commit_ns, source->running->arrived_ns);
    else if (source->running)
        end_ns = source->running->arrived_ns;
    blackout_ns = ledger_close(source->ledger, end_ns, NULL,
                               source->clock.is_known ? source->clock.error_ns : UINT64_MAX);
    pthread_mutex_lock(&source->lock);
    source->status.blackout_ns = blackout_ns;
    pthread_mutex_unlock(&source->lock);
    if (!ledger || !source->clock.is_known)
        return;
    spans = g_new0(struct ledger_span, ledger->message.ledger.n_phases + 1);
    for (uint32_t i = 0; i < ledger->message.ledger.n_phases; i++) {
        const struct wire_phase *phase = &ledger->message.ledger.phases[i];
        uint64_t start_ns = clock_offset_to_ours(&source->clock, phase->start_ns);
        bool is_part = phase->name[0] == '+';

        /* PEER: any numbers; a phase that wraps or is absurdly long is left out. */
        if (phase->length_ns > NS_PER_S * 3600 || start_ns > UINT64_MAX / 4)
            continue;
        spans[n_spans++] = (struct ledger_span){.name = phase->name + (is_part ? 1 : 0),
                                                .depth = is_part ? 1 : 0,
                                                .start_ns = start_ns,
                                                .end_ns = start_ns + phase->length_ns};
    }
    /* The destination may begin to load before its acknowledgement has come back. */
    ledger_overlay(source->ledger, SOURCE_LAST_PAGES, NULL, GW_SIDE_DESTINATION, spans, n_spans);
    ledger_overlay(source->ledger, SOURCE_AWAIT_LOADED, "wire", GW_SIDE_DESTINATION, spans,
                   n_spans);
    ledger_overlay(source->ledger, SOURCE_AWAIT_RUNNING, "wire", GW_SIDE_DESTINATION, spans,
                   n_spans);
    ledger_note_unplaced(source->ledger, GW_SIDE_DESTINATION, spans, n_spans);
}

void source_on_ledger(struct gw_source *source, const struct mail *mail)
{
    if (!source->running || source_state(source) != GW_SOURCE_COMMITTED)
        return;
    source_book_end(source, mail);
    source->has_ledger = true;
    source_finish_running(source);
}

/* The guest runs, and we stay: the account of its blackout is complete as far as it will be. */
static void source_end_blackout(struct gw_source *source)
{
    if (ledger_is_open(source->ledger))
        source_book_end(source, NULL);
    source_publish_forwarded(source);
    mail_free(source->running);
    source->running = NULL;
}

void source_take_running(struct gw_source *source)
{
    if (source->running && source_state(source) == GW_SOURCE_COMMITTED) {
        if (source->postcopy.is_attempt)
            source_end_blackout(source);
        source_dispatch(source, source_running_event(source));
    }
}

void source_release(struct gw_source *source)
{
    struct wire_goodbye goodbye = {.is_complete = true};

    if (ledger_is_open(source->ledger))
        source_book_end(source, NULL);
    source_forward_stop(source);
    source->is_guest_stopped = false; /* it is not ours any more */
    source_publish_forwarded(source);
    source_publish_progress(source);
    source_publish_postcopy(source);
    source_share_release(source);
    if (source->vm.released)
        source->vm.released(source->vm.opaque);
    if (source->control)
        link_post(source->control, WIRE_GOODBYE, &goodbye);
    source_close_links(source, true);
    source_publish_served(source);
    source_log_stop(source);
}

/* ---- in doubt ---------------------------------------------------------------------------------
 */

static bool source_query(struct gw_source *source, struct wire_owner_answer *answer, GError **error)
{
    struct wire_query_owner query = {.demands_decision = true, .attempt = source->attempt};
    struct wire_stream *stream = source_open_stream(source, WIRE_ROLE_CONTROL, 0, error);
    int64_t deadline_ns = (int64_t)(clock_mono_ns() + source->silence_ns);
    bool is_answered;

    if (!stream)
        return false;
    wire_stream_set_phase(stream, WIRE_IN_OWNER);
    source_set_opening(source, wire_stream_channel(stream));
    is_answered = wire_send(stream, WIRE_QUERY_OWNER, &query, deadline_ns, error) &&
                  wire_expect(stream, WIRE_OWNER_ANSWER, answer, deadline_ns, error);
    source_set_opening(source, NULL);
    if (is_answered && answer->answer == WIRE_OWNER_RUNNING) {
        struct wire_goodbye goodbye = {.is_complete = true};

        wire_send(stream, WIRE_GOODBYE, &goodbye, deadline_ns, NULL);
    }
    wire_stream_free(stream);
    return is_answered;
}

void source_ask(struct gw_source *source)
{
    g_autoptr(GError) error = NULL;
    struct wire_owner_answer answer = {0};
    bool is_answered;

    if (source_is_interrupted(source)) {
        source->next_ask_ns = UINT64_MAX; /* the operator's mail is in the box */
        return;
    }
    if (source_share_ask(source))
        return;
    is_answered = source_query(source, &answer, &error);
    if (is_answered && answer.answer == WIRE_OWNER_RUNNING) {
        source_dispatch(source, source_running_event(source));
    } else if (is_answered && answer.answer == WIRE_OWNER_NEVER) {
        g_autofree char *reason =
            g_strdup_printf("the destination will not run the guest: %s",
                            answer.detail && *answer.detail ? answer.detail : "no reason given");

        engine_failure_set(&source->failure, GW_SIDE_DESTINATION, GW_ERROR_PEER, reason);
        source_dispatch(source, SOURCE_EV_NEVER);
    } else {
        source->next_ask_ns = clock_mono_ns() + source->ask_backoff_ns;
        source->ask_backoff_ns = MIN(2 * source->ask_backoff_ns, ASK_MAX_NS);
    }
    if (is_answered)
        wire_message_clear(WIRE_OWNER_ANSWER, &answer);
}
