/* SPDX-License-Identifier: MIT */
/*
 * The destination engine: its public functions, its control thread, and the dispatch of events.
 *
 * Essay: docs/handover.md. The guest is run in exactly one place (destination_run), which is
 * reached only by the table's row (LOADED, COMMIT).
 */
#include "migrate/destination.h"

#include <string.h>

/* ---- state -------------------------------------------------------------------------------------
 */

unsigned destination_state(struct gw_destination *destination)
{
    unsigned state;

    pthread_mutex_lock(&destination->lock);
    state = destination->handover.state;
    pthread_mutex_unlock(&destination->lock);
    return state;
}

static void destination_publish_state(struct gw_destination *destination, unsigned state)
{
    bool is_new;

    pthread_mutex_lock(&destination->lock);
    is_new = destination->status.state != (enum gw_destination_state)state;
    destination->status.state = (enum gw_destination_state)state;
    if (state == GW_DESTINATION_DISOWNED)
        destination->status.failure = destination->failure;
    if (state == GW_DESTINATION_DISOWNED || state == GW_DESTINATION_RUNNING)
        destination->status.total_ns = clock_mono_ns() - destination->start_ns;
    pthread_cond_broadcast(&destination->changed);
    pthread_mutex_unlock(&destination->lock);
    if (is_new && destination->observer.event)
        destination->observer.event(destination->observer.opaque, GW_MIGRATE_EVENT_STATE, state);
}

void destination_close_links(struct gw_destination *destination, bool is_orderly)
{
    if (destination->control && is_orderly)
        link_finish(destination->control, clock_mono_ns() + DESTINATION_FINISH_NS);
    destination_break_bar(destination);
    for (guint i = 0; i < destination->lanes->len; i++) {
        struct page_lane *lane = g_ptr_array_index(destination->lanes, i);

        link_shutdown(lane->link);
    }
    destination_use_urgent(destination, NULL); /* a request that was being sent has failed by now */
    while (destination->lanes->len) {
        struct page_lane *lane = g_ptr_array_index(destination->lanes, destination->lanes->len - 1);

        link_join(lane->link); /* its reader may still look for its lane */
        pthread_mutex_lock(&destination->lock);
        g_ptr_array_set_size(destination->lanes, (gint)destination->lanes->len - 1);
        pthread_mutex_unlock(&destination->lock);
        destination_lane_free(lane);
    }
    g_clear_pointer(&destination->control, link_free);
    /* What is in the mailbox now speaks of the past, also what the readers said as they ended. */
    __atomic_fetch_add(&destination->generation, 1, __ATOMIC_RELAXED);
    destination->lost_limit_ns = UINT64_MAX;
    destination->next_ping_ns = UINT64_MAX;
    destination->ledger_limit_ns = UINT64_MAX;
    if (destination->postcopy.is_done)
        destination_end_paging(destination);
    destination_mend_bar(destination);
}

/* Gives up: remembers NEVER first, then tells the peer, then clears up. */
static void destination_disown(struct gw_destination *destination, unsigned event)
{
    if (destination->generation > 0)
        destination_remember(destination, false);
    if (destination->control && !destination->has_told_peer &&
        event != DESTINATION_EV_PEER_FAILED) {
        struct wire_abort abort = {.side = destination->failure.side == GW_SIDE_SOURCE
                                               ? WIRE_SIDE_SOURCE
                                               : WIRE_SIDE_DESTINATION,
                                   .code = (uint16_t)destination->failure.code,
                                   .reason = g_strdup(destination->failure.reason)};

        link_post(destination->control, WIRE_ABORT, &abort);
    } else if (destination->control && event == DESTINATION_EV_PEER_FAILED) {
        struct wire_goodbye goodbye = {.is_complete = false};

        link_post(destination->control, WIRE_GOODBYE, &goodbye);
    }
    destination_close_links(destination, true);
    ledger_close(destination->ledger, clock_mono_ns(), destination->failure.reason, 0);
    g_clear_pointer(&destination->load, gw_state_load_free); /* rolls a commit back */
    destination_forget_attempt(destination);
    destination_forget_received(destination);
    destination_share_drop(destination);
    if (destination->vm.discarded) {
        g_autoptr(GError) why =
            g_error_new_literal(GW_ERROR, destination->failure.code, destination->failure.reason);

        destination->vm.discarded(destination->vm.opaque, why);
    }
}

static void destination_perform(struct gw_destination *destination, unsigned event, unsigned action)
{
    switch ((enum destination_action)action) {
    case DESTINATION_DO_HANDSHAKE:
        destination_handshake(destination);
        break;
    case DESTINATION_DO_RECEIVE:
        destination_receive(destination);
        break;
    case DESTINATION_DO_SAY_LOADED:
        destination_say_loaded(destination);
        break;
    case DESTINATION_DO_UNLOAD:
        destination_unload(destination);
        break;
    case DESTINATION_DO_RUN:
        destination_run(destination);
        break;
    case DESTINATION_DO_DISOWN:
        destination_disown(destination, event);
        break;
    case DESTINATION_DO_DISOWN_ANSWER:
        destination_remember(destination, false);
        destination_answer(destination, WIRE_OWNER_NEVER);
        destination_disown(destination, event);
        break;
    case DESTINATION_DO_ANSWER_RUNNING:
        destination_answer(destination, WIRE_OWNER_RUNNING);
        break;
    case DESTINATION_DO_ANSWER_NEVER:
        destination_answer(destination, WIRE_OWNER_NEVER);
        break;
    case DESTINATION_DO_ANSWER_UNKNOWN:
        destination_answer(destination, WIRE_OWNER_UNKNOWN);
        break;
    case DESTINATION_DO_NOTE_TOLD:
        pthread_mutex_lock(&destination->lock);
        destination->status.is_source_told = true;
        pthread_mutex_unlock(&destination->lock);
        break;
    case DESTINATION_DO_FAIL_PEER:
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "the source said what it may not say in this state");
        break;
    case DESTINATION_DO_KEEP:
        destination_keep(destination);
        break;
    case DESTINATION_DO_RESUME_RECEIVING:
        destination_resume_receiving(destination);
        break;
    case DESTINATION_DO_PAUSE:
        destination_pause(destination);
        break;
    case DESTINATION_DO_RESUME_PAGES:
        destination_resume_pages(destination);
        break;
    case DESTINATION_DO_SAY_WHOLE:
        destination_say_whole(destination);
        break;
    case DESTINATION_DO_REFUSE_BUSY:
    case DESTINATION_DO_REFUSE:
    case DESTINATION_DO_NOTHING:
    case DESTINATION_N_ACTIONS:
        break;
    }
}

void destination_dispatch(struct gw_destination *destination, enum destination_event event)
{
    unsigned action, state;
    bool is_end;

    pthread_mutex_lock(&destination->lock);
    action = handover_step(&destination->handover, event);
    state = destination->handover.state;
    pthread_mutex_unlock(&destination->lock);

    /* Ends are published when their action is done. */
    is_end = state == GW_DESTINATION_RUNNING || state == GW_DESTINATION_DISOWNED ||
             state == GW_DESTINATION_POSTCOPY;
    if (!is_end)
        destination_publish_state(destination, state);
    destination_perform(destination, event, action);
    if (is_end)
        destination_publish_state(destination, state);
}

void destination_fail(struct gw_destination *destination, enum destination_event event,
                      enum gw_side side, int code, const char *reason)
{
    /* A link that was lost on its way, not one that the peer abused. */
    bool is_replaceable = side == GW_SIDE_DESTINATION && destination->wait_ns > 0 &&
                          (destination->features >> WIRE_FEATURE_RESUME & 1);

    if (destination->failure.side == GW_SIDE_NONE)
        engine_failure_set(&destination->failure, side, code, reason);
    if (event == DESTINATION_EV_LINK_LOST && is_replaceable &&
        destination_state(destination) != GW_DESTINATION_WAITING)
        event = DESTINATION_EV_LINK_BROKEN;
    destination_dispatch(destination, event);
}

void destination_fail_error(struct gw_destination *destination, const GError *error)
{
    int code = gw_error_code_of(error);
    bool is_link = code == GW_ERROR_LINK_LOST || code == GW_ERROR_LINK_SILENT ||
                   code == GW_ERROR_CORRUPT || code == GW_ERROR_LIMIT;

    destination_fail(destination, is_link ? DESTINATION_EV_LINK_LOST : DESTINATION_EV_FAILED,
                     GW_SIDE_DESTINATION, code, error->message);
}

/* ---- mails -------------------------------------------------------------------------------------
 */

static void destination_on_record(struct gw_destination *destination, struct mail *mail)
{
    switch (mail->type) {
    case WIRE_RAM_SHARE:
        destination_on_ram_share(destination, mail);
        break;
    case WIRE_RAM_MAP:
        destination_on_ram_map(destination, mail);
        break;
    case WIRE_SWITCHOVER_BEGIN:
        destination_on_switchover(destination, mail);
        break;
    case WIRE_SWITCHOVER_CANCEL:
        destination_on_cancelled_attempt(destination, mail);
        break;
    case WIRE_STATE_END:
        destination_on_state_end(destination, mail);
        break;
    case WIRE_COMMIT:
        destination_on_commit(destination, mail);
        break;
    case WIRE_CLOCK_PONG:
        destination_on_pong(destination, mail);
        break;
    case WIRE_PACKET:
        destination_on_packet(destination, mail);
        break;
    case WIRE_GOODBYE:
        if (destination_state(destination) == GW_DESTINATION_RUNNING) {
            destination_dispatch(destination, DESTINATION_EV_GOODBYE);
            destination_close_links(destination, true);
        }
        break;
    case WIRE_ABORT:
        destination_fail(destination, DESTINATION_EV_PEER_FAILED,
                         mail->message.abort.side == WIRE_SIDE_DESTINATION ? GW_SIDE_DESTINATION
                                                                           : GW_SIDE_SOURCE,
                         mail->message.abort.code, mail->message.abort.reason);
        break;
    case WIRE_CANCEL:
        destination_fail(destination, DESTINATION_EV_PEER_FAILED, GW_SIDE_SOURCE,
                         GW_ERROR_CANCELLED, mail->message.cancel.reason);
        break;
    default:
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "the source sent a record that has no place here");
        break;
    }
}

static void destination_on_link_end(struct gw_destination *destination, const struct mail *mail)
{
    unsigned state = destination_state(destination);

    if (state == GW_DESTINATION_RUNNING) {
        if (mail->channel == CHANNEL_CONTROL)
            destination_close_links(destination, false);
        return;
    }
    if (mail->channel == CHANNEL_CONTROL) {
        destination_fail_error(destination, mail->error);
        return;
    }
    /* The source's reason may still be on its way on the control channel. */
    if (destination->lost_limit_ns == UINT64_MAX) {
        destination->lost_code = gw_error_code_of(mail->error);
        destination->lost_limit_ns =
            clock_mono_ns() +
            (destination->lost_code == GW_ERROR_LINK_LOST ? DESTINATION_GRACE_NS : 0);
        g_free(destination->lost_reason);
        destination->lost_reason = g_strdup(mail->error->message);
    }
}

static void destination_on_mail(struct gw_destination *destination, struct mail *mail)
{
    bool is_of_link = mail->kind == MAIL_RECORD || mail->kind == MAIL_SECTION ||
                      mail->kind == MAIL_LINK_END || mail->kind == MAIL_LANE_ROUND;

    if (is_of_link && mail->generation != destination->generation)
        return;
    switch (mail->kind) {
    case MAIL_RECORD:
        destination_on_record(destination, mail);
        break;
    case MAIL_SECTION:
        destination_on_section(destination, mail);
        break;
    case MAIL_LINK_END:
        destination_on_link_end(destination, mail);
        break;
    case MAIL_LANE_ROUND:
        destination_on_lane_round(destination, mail);
        break;
    case MAIL_STREAM:
        destination_on_stream(destination, mail);
        break;
    case MAIL_CANCEL:
        destination_fail(destination, DESTINATION_EV_CANCEL, GW_SIDE_DESTINATION,
                         GW_ERROR_CANCELLED, "cancelled at the destination");
        break;
    case MAIL_POKE:
        if (mail->error && destination_state(destination) == GW_DESTINATION_LISTENING)
            destination_fail(destination, DESTINATION_EV_FAILED, GW_SIDE_DESTINATION,
                             gw_error_code_of(mail->error), mail->error->message);
        break;
    case MAIL_WHOLE:
        destination_dispatch(destination, DESTINATION_EV_WHOLE);
        break;
    case MAIL_PAUSE:
        if (destination_state(destination) == GW_DESTINATION_POSTCOPY)
            destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_DESTINATION,
                             GW_ERROR_CANCELLED, "paused by the user");
        break;
    case MAIL_RECOVER:
        destination_listen_at(destination, g_steal_pointer(&mail->listener));
        break;
    case MAIL_PROBE:
        destination_on_probe_question(destination);
        break;
    case MAIL_RESOLVE:
    case MAIL_LANE_SENT:
        break;
    }
}

/* ---- time --------------------------------------------------------------------------------------
 */

void destination_publish_progress(struct gw_destination *destination)
{
    pthread_mutex_lock(&destination->lock);
    destination->status.bytes_received =
        __atomic_load_n(&destination->bytes_received, __ATOMIC_RELAXED);
    destination->status.pages_plain = __atomic_load_n(&destination->pages_plain, __ATOMIC_RELAXED);
    destination->status.pages_zero = __atomic_load_n(&destination->pages_zero, __ATOMIC_RELAXED);
    destination->status.pages_suspect = __atomic_load_n(&destination->n_suspect, __ATOMIC_RELAXED);
    destination->status.cpu_ns = __atomic_load_n(&destination->cpu_ns, __ATOMIC_RELAXED);
    destination->status.pages_damaged = __atomic_load_n(&destination->n_damaged, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&destination->lock);
}

static void destination_tick(struct gw_destination *destination)
{
    uint64_t now_ns = clock_mono_ns();

    if (now_ns >= destination->lost_limit_ns) {
        destination->lost_limit_ns = UINT64_MAX;
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_DESTINATION,
                         destination->lost_code, destination->lost_reason);
    } else if (destination_state(destination) == GW_DESTINATION_HANDSHAKE &&
               now_ns >= destination->setup_deadline_ns) {
        destination_fail(destination, DESTINATION_EV_FAILED, GW_SIDE_DESTINATION, GW_ERROR_TIMEOUT,
                         "the source did not complete the handshake in time");
    }
    if (destination->control && now_ns >= destination->next_ping_ns &&
        destination_state(destination) != GW_DESTINATION_RUNNING)
        destination_ping(destination);
    if (destination_state(destination) == GW_DESTINATION_WAITING &&
        now_ns >= destination->wait_limit_ns)
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_DESTINATION,
                         GW_ERROR_LINK_LOST, "the source did not come back in time");
    if (destination->postcopy.paging)
        destination_keep_fault_waits(destination, destination->postcopy.paging);
    destination_look_at_ledger(destination);
    engine_book_cpu(&destination->cpu_seen_ns, &destination->cpu_ns);
    destination_publish_progress(destination);
}

static uint64_t destination_next_deadline(struct gw_destination *destination)
{
    unsigned state = destination_state(destination);
    uint64_t deadline_ns = MIN(destination->lost_limit_ns, destination->ledger_limit_ns);

    if (state == GW_DESTINATION_HANDSHAKE)
        deadline_ns = MIN(deadline_ns, destination->setup_deadline_ns);
    if (state == GW_DESTINATION_WAITING)
        deadline_ns = MIN(deadline_ns, destination->wait_limit_ns);
    if (destination->control && state != GW_DESTINATION_RUNNING)
        deadline_ns = MIN(deadline_ns, destination->next_ping_ns);
    return deadline_ns;
}

static bool destination_is_freeing(struct gw_destination *destination)
{
    bool is_freeing;

    pthread_mutex_lock(&destination->lock);
    is_freeing = destination->is_freeing;
    pthread_mutex_unlock(&destination->lock);
    return is_freeing;
}

static void *destination_main(void *opaque)
{
    struct gw_destination *destination = opaque;

    while (!destination_is_freeing(destination)) {
        struct mail *mail = mailbox_take(&destination->box, destination_next_deadline(destination));

        if (mail && !destination_is_freeing(destination))
            destination_on_mail(destination, mail);
        mail_free(mail);
        destination_tick(destination);
    }
    destination_fail(destination, DESTINATION_EV_CANCEL, GW_SIDE_DESTINATION, GW_ERROR_CANCELLED,
                     "the destination ends");
    mailbox_close(&destination->box);
    destination_close_links(destination, true);
    return NULL;
}

/* ---- public ------------------------------------------------------------------------------------
 */

struct gw_destination *gw_destination_start(const struct gw_vm *vm, const char *uri,
                                            const struct gw_migrate_params *params,
                                            const struct gw_migrate_observer *observer,
                                            GError **error)
{
    uint64_t silence_ns =
        params && params->silence_limit_ns ? params->silence_limit_ns : GW_DEFAULT_SILENCE_LIMIT_NS;
    struct gw_channel_options options = {.silence_ms = (int64_t)(silence_ns / NS_PER_MS),
                                         .framing = wire_framing()};
    struct gw_listener *listener;
    struct gw_destination *destination;

    if (!vm->memory || !vm->registry || !uri) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_INVALID,
                            "the machine has no memory or no device-state registry");
        return NULL;
    }
    listener = gw_listener_new(uri, &options, error);
    if (!listener)
        return NULL;
    destination = g_new0(struct gw_destination, 1);
    destination->vm = *vm;
    destination->params = params ? *params : (struct gw_migrate_params){0};
    if (observer)
        destination->observer = *observer;
    destination->listener = listener;
    destination->uri = g_strdup(gw_listener_uri(listener));
    destination->is_single = gw_listener_is_single(listener);
    destination->is_live = true;
    destination->silence_ns = silence_ns;
    mailbox_init(&destination->box);
    pthread_mutex_init(&destination->lock, NULL);
    cond_init_mono(&destination->changed);
    destination->ledger = ledger_new();
    handover_init(&destination->handover, GW_SIDE_DESTINATION);
    destination->status.state = GW_DESTINATION_LISTENING;
    destination->remembered = g_array_new(FALSE, TRUE, sizeof(struct remembered));
    destination->lanes = g_ptr_array_new();
    pthread_mutex_init(&destination->postcopy.urgent_lock, NULL);
    pthread_mutex_init(&destination->huge.lock, NULL);
    destination->uris = g_ptr_array_new_with_free_func(g_free);
    destination->wait_ns = destination->params.reconnect_limit_ns;
    destination->control_lane.destination = destination;
    destination->control_lane.channel = WIRE_NO_CHANNEL;
    destination_lane_init(&destination->control_lane);
    destination->start_ns = clock_mono_ns();
    destination_clear_migration(destination);
    engine_thread_start(&destination->thread, "gw-dest", destination_main, destination);
    destination_start_listening(destination);
    return destination;
}

const char *gw_destination_uri(const struct gw_destination *destination)
{
    return destination->uri;
}

void gw_destination_get_status(struct gw_destination *destination,
                               struct gw_destination_status *status)
{
    const struct snapshot_reader_counters *restored = &destination->restored;

    pthread_mutex_lock(&destination->lock);
    *status = destination->status;
    status->bytes_received += __atomic_load_n(&restored->n_bytes, __ATOMIC_RELAXED);
    status->pages_plain += __atomic_load_n(&restored->pages_plain, __ATOMIC_RELAXED);
    status->pages_zero += __atomic_load_n(&restored->pages_zero, __ATOMIC_RELAXED);
    if (destination->pager)
        status->missing_bytes = snapshot_pager_missing_bytes(destination->pager);
    pthread_mutex_unlock(&destination->lock);
}

struct gw_ledger *gw_destination_get_ledger(struct gw_destination *destination)
{
    return ledger_copy(destination->ledger);
}

bool gw_destination_cancel(struct gw_destination *destination)
{
    unsigned state = destination_state(destination);
    bool can = state == GW_DESTINATION_HANDSHAKE || state == GW_DESTINATION_RECEIVING ||
               state == GW_DESTINATION_LOADED || state == GW_DESTINATION_WAITING;

    pthread_mutex_lock(&destination->lock);
    if (can && destination->restoring) {
        destination->wants_cancel = true;
        gw_channel_wake(destination->restoring);
    }
    pthread_mutex_unlock(&destination->lock);
    if (can)
        mailbox_put(&destination->box, mail_new(MAIL_CANCEL));
    return can;
}

void gw_destination_mark(struct gw_destination *destination, const char *name, uint64_t at_ns)
{
    ledger_note_late(destination->ledger, GW_SIDE_DESTINATION, name, at_ns, 0);
    if (ledger_n_awaited(destination->ledger) == 0)
        mailbox_put(&destination->box, mail_new(MAIL_POKE)); /* LEDGER may be due */
}

bool gw_destination_wait(struct gw_destination *destination, uint64_t deadline_ns)
{
    bool is_end = false;
    bool is_in_time = true;

    pthread_mutex_lock(&destination->lock);
    for (;;) {
        is_end = destination->status.state == GW_DESTINATION_RUNNING ||
                 destination->status.state == GW_DESTINATION_DISOWNED;
        if (is_end || !is_in_time)
            break;
        is_in_time = cond_wait_until(&destination->changed, &destination->lock, deadline_ns);
    }
    pthread_mutex_unlock(&destination->lock);
    return is_end;
}

void gw_destination_free(struct gw_destination *destination)
{
    if (!destination)
        return;
    pthread_mutex_lock(&destination->lock);
    destination->is_freeing = true;
    if (destination->restoring)
        gw_channel_wake(destination->restoring);
    pthread_cond_broadcast(&destination->changed);
    pthread_mutex_unlock(&destination->lock);
    mailbox_put(&destination->box, mail_new(MAIL_POKE));
    pthread_join(destination->thread, NULL);
    destination_stop_paging(destination);
    destination_stop_listening(destination);
    destination_free_probe(destination);
    destination_clear_migration(destination);
    destination_forget_received(destination);
    g_ptr_array_unref(destination->uris);
    pthread_mutex_destroy(&destination->huge.lock);
    pthread_mutex_destroy(&destination->postcopy.urgent_lock);
    gw_listener_free(destination->listener);
    g_clear_pointer(&destination->sections, wire_section_reader_free);
    destination_lane_clear(&destination->control_lane);
    g_ptr_array_unref(destination->lanes);
    g_array_unref(destination->remembered);
    gw_ledger_free(destination->ledger);
    mailbox_clear(&destination->box);
    pthread_cond_destroy(&destination->changed);
    pthread_mutex_destroy(&destination->lock);
    g_free(destination->lost_reason);
    g_free(destination->uri);
    g_free(destination);
}
