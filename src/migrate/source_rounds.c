/* SPDX-License-Identifier: MIT */
/*
 * The source's rounds: collect what is dirty, send it, wait until it is acknowledged, decide.
 *
 * Algorithm: pending holds the pages that must still be sent. When no round is in flight it is
 * completed from the dirty log; if the predicted blackout for what is in it meets the budget (and
 * a back-off is over) and no moment with much less is near the switchover begins, otherwise pending
 * and sending change places and the lanes send the round; the switchover may begin within it, too.
 * A round that was not acknowledged is put back whole. While a round is sent the log is looked at
 * now and then: what the guest has dirtied and the round has still to read is not sent once more,
 * which saves a guest that writes all over its memory half of the round after.
 *
 * Invariant: every page whose newest content the destination may lack is in pending, in sending
 * while the round is open, or in the dirty log.
 */
#include "migrate/source.h"

#include "migrate/page_runs.h"

bool source_log_start(struct gw_source *source, GError **error)
{
    if (!gw_memory_log_start(source->vm.memory, error)) {
        g_prefix_error(error, "starting the dirty log: ");
        return false;
    }
    source->is_logging = true;
    source->last_collect_ns = clock_mono_ns();
    source_throttle_begin(source);
    return true;
}

void source_log_stop(struct gw_source *source)
{
    if (source->is_logging)
        gw_memory_log_stop(source->vm.memory);
    source->is_logging = false;
}

void source_begin_rounds(struct gw_source *source)
{
    struct gw_vm_forecast forecast = {0};
    uint64_t now_ns = clock_mono_ns();

    if (source->vm.forecast)
        source->vm.forecast(source->vm.opaque, &forecast);
    if (forecast.stop_ns)
        source->predict.stop_ns = forecast.stop_ns;
    if (forecast.flush_ns)
        source->predict.flush_ns = forecast.flush_ns;
    if (forecast.resume_ns)
        source->predict.resume_ns = forecast.resume_ns;
    pthread_mutex_lock(&source->lock);
    source->status.setup_ns = now_ns - source->start_ns;
    source->status.pages_skipped =
        source->share.is_agreed ? 0
                                : source->status.ram_bytes / GW_PAGE_SIZE - source->pending->n_set;
    pthread_mutex_unlock(&source->lock);
    source_start_round(source, 0);
}

uint32_t source_number_round(struct gw_source *source)
{
    source->round++;
    source->round_start_ns = clock_mono_ns();
    pthread_mutex_lock(&source->lock);
    source->status.round = source->round;
    pthread_mutex_unlock(&source->lock);
    return source->round;
}

void source_start_round(struct gw_source *source, uint32_t flags)
{
    struct gw_page_set *set = source->pending;
    struct wire_round_begin begin = {.round = source_number_round(source), .flags = flags};

    source->pending = source->sending;
    source->sending = set;
    gw_page_set_clear(source->pending);
    source->is_void_round = flags & WIRE_ROUND_VOID;
    source->is_round_cut = false;
    if (source->is_void_round) {
        gw_page_set_or(source->pending, source->sending);
        source_void_only_stale(source);
    } else if (source->postcopy.voided) {
        gw_page_set_clear(source->postcopy.voided);
    }
    begin.n_pages = source->sending->n_set;
    source->is_round_open = true;
    source->n_acked = 0;
    source->round_bytes = 0;
    tune_round(&source->tune, source->round_start_ns);
    lanes_start_round(source->lanes, &begin, source->sending);
    if (source->observer.event)
        source->observer.event(source->observer.opaque, GW_MIGRATE_EVENT_ROUND, source->round);
}

/* arrived_ns: when the last acknowledgement came. It may have lain in the mailbox for as long as a
 * stop or a flush kept this thread, which says nothing about the link. */
static void source_round_done(struct gw_source *source, uint64_t arrived_ns)
{
    struct encoding_counters encoded;

    source->is_round_open = false;
    gw_page_set_clear(source->sending);
    /* What remains is counted in pages, so the rate is that of pages too: as if they had not been
     * encoded. */
    encoding_get_counters(source->encoding, &encoded);
    source->saved_permille =
        (uint32_t)(encoded.round_saved * 1000 / MAX(source->round_bytes + encoded.round_saved, 1));
    if (!source->is_void_round) /* it says nothing about the link */
        predict_round(&source->predict, source->round_bytes + encoded.round_saved,
                      arrived_ns > source->round_start_ns ? arrived_ns - source->round_start_ns
                                                          : 0);
    if (source_state(source) == GW_SOURCE_BLACKOUT)
        source_round_done_in_blackout(source);
    else
        source_next_round(source);
}

void source_on_ack(struct gw_source *source, const struct mail *mail)
{
    const struct wire_round_ack *ack = &mail->message.round_ack;
    unsigned state = source_state(source);

    if (state != GW_SOURCE_ROUNDS && state != GW_SOURCE_BLACKOUT)
        return;
    if (!source->is_round_open || ack->round != source->round ||
        source->n_acked >= lanes_n(source->lanes)) {
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                    "the destination acknowledged a round that is not open");
        return;
    }
    source->round_bytes += MIN(ack->n_bytes, UINT64_MAX / 128);
    source->n_acked++;
    if (source->n_acked == lanes_n(source->lanes))
        source_round_done(source, mail->arrived_ns);
}

void source_on_resend(struct gw_source *source, const struct mail *mail)
{
    const struct wire_resend *resend = &mail->message.resend;
    const struct gw_ram_block *block = gw_memory_block(source->vm.memory, resend->block);
    uint64_t n_before;
    unsigned state = source_state(source);

    if (state != GW_SOURCE_ROUNDS && state != GW_SOURCE_BLACKOUT)
        return;
    n_before = source->pending->n_set;
    for (uint32_t i = 0; i < resend->n_runs; i++) {
        const struct wire_resend_run *run = &resend->runs[i];

        /* PEER: runs are bounded by our own block. */
        if (!block || run->first_page >= block->n_pages ||
            run->n_pages > block->n_pages - run->first_page) {
            source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                        "the destination asked for pages that do not exist");
            return;
        }
        gw_page_set_add(source->pending, resend->block, run->first_page, run->n_pages);
    }
    encoding_forget(source->encoding);
    source->has_resend = true;
    pthread_mutex_lock(&source->lock);
    source->status.pages_resent += source->pending->n_set - n_before;
    pthread_mutex_unlock(&source->lock);
}

/* Takes the dirty log into pending. False when the migration has ended. */
static bool source_fetch(struct gw_source *source, uint64_t *n_new)
{
    g_autoptr(GError) error = NULL;

    if (source->share.is_agreed) {
        *n_new = 0;
        return true;
    }
    if (source_forecast_collect(source, n_new, &error))
        return true;
    source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, gw_error_code_of(error), error->message);
    return false;
}

static uint64_t sent_on_pages(struct gw_source *source)
{
    uint64_t n_bytes = 0;

    for (guint i = 0; i < source->page_links->len; i++) {
        struct wire_counters link;

        wire_stream_counters(link_stream(g_ptr_array_index(source->page_links, i)), &link);
        n_bytes += link.bytes_out;
    }
    return n_bytes;
}

static uint64_t sent_on_control(struct gw_source *source)
{
    struct wire_counters control = {0};

    if (source->control)
        wire_stream_counters(link_stream(source->control), &control);
    return control.bytes_out;
}

/* Until a round is acknowledged: what goes out per second, which is all that is known. */
static uint64_t early_rate(const struct gw_source *source, uint64_t page_bytes,
                           uint64_t control_bytes)
{
    uint64_t n_bytes = page_bytes ? page_bytes : control_bytes;
    uint64_t ns = clock_mono_ns() - source->round_start_ns;

    return source->round_start_ns && ns > 10 * NS_PER_MS
               ? (uint64_t)((__uint128_t)n_bytes * NS_PER_S / ns)
               : 0;
}

bool source_round_has_pages(const struct gw_source *source)
{
    return source->is_round_open && !source->is_void_round && !source->is_round_cut;
}

uint64_t source_unsent_pages(const struct gw_source *source, const struct lanes_counters *counters)
{
    return source_round_has_pages(source) && source->sending->n_set > counters->round_pages
               ? source->sending->n_set - counters->round_pages
               : 0;
}

uint64_t source_remaining_bytes(const struct gw_source *source,
                                const struct lanes_counters *counters)
{
    return (source->pending->n_set + source_unsent_pages(source, counters)) * GW_PAGE_SIZE;
}

/* The user wants a word before the guest stops. While it is held, rounds go on. is_now: it would
 * stop now, and waits if it must. */
static bool source_holds(struct gw_source *source, bool is_now)
{
    bool holds;

    pthread_mutex_lock(&source->lock);
    holds = source->params.waits_before_switchover && !source->is_continued;
    if (is_now)
        source->status.is_waiting_before_switchover = holds;
    pthread_mutex_unlock(&source->lock);
    return holds;
}

/* The budget is met before the round is at its end, and going on would not make it better. */
static bool source_has_enough(struct gw_source *source)
{
    uint64_t now_ns = clock_mono_ns();
    struct lanes_counters counters;
    uint64_t max_blackout_ns, remaining_bytes;

    if (now_ns < source->predict.not_before_ns || source_holds(source, false))
        return false;
    source_stop_budgets(source, &max_blackout_ns, NULL);
    lanes_get_counters(source->lanes, &counters);
    remaining_bytes = source_remaining_bytes(source, &counters);
    if (predict_blackout_ns(&source->predict, remaining_bytes) > predict_safe_ns(max_blackout_ns))
        return false;
    return !source_forecast_wants_better(source, remaining_bytes);
}

/* The rest of a round is not waited for where the guest can be stopped as it is, or where it does
 * not help: then all that is left follows the guest. The lanes end with what they have taken. */
static void source_cut_round(struct gw_source *source)
{
    uint64_t rate;
    bool is_enough;

    if (!source_round_has_pages(source))
        return;
    rate = early_rate(source, sent_on_pages(source), sent_on_control(source));
    is_enough = source_has_enough(source);
    /* Hope is asked for last: that plays many rounds. */
    if (!is_enough && (!source_forecast_is_vain(source, rate) || !source_gives_up(source, rate)))
        return;
    source->is_round_cut = true;
    source->postcopy.has_given_up |= !is_enough;
    pthread_mutex_lock(&source->lock);
    source->status.rounds_cut++;
    pthread_mutex_unlock(&source->lock);
    lanes_cut_round(source->lanes, source->pending);
}

/* Over a long round a page counts once however often it is written: what the guest dirties then
 * looks like what the link took. The first moments of a round tell how fast it really is. */
void source_sample_dirty(struct gw_source *source)
{
    uint64_t now_ns = clock_mono_ns();
    uint64_t n_new = 0;

    if (!source->is_round_open || now_ns < source_forecast_next_ns(source) ||
        !source_fetch(source, &n_new))
        return;
    source->n_sampled += n_new;
    source_cut_round(source);
    if (source->is_sampled || now_ns < source->last_collect_ns + SOURCE_SAMPLE_NS)
        return;
    source->is_sampled = true;
    source->burst_bytes_per_s = source->n_sampled * GW_PAGE_SIZE * 1000 /
                                MAX((now_ns - source->last_collect_ns) / NS_PER_MS, 1);
    source_throttle_measure(source, source->n_sampled * GW_PAGE_SIZE);
}

void source_tune(struct gw_source *source)
{
    struct lanes_counters counters;

    if (!source->is_round_open || !source->tune.is_auto)
        return;
    lanes_get_counters(source->lanes, &counters);
    lanes_set_active(source->lanes, tune_look(&source->tune, clock_mono_ns(),
                                              counters.pages_plain * GW_PAGE_SIZE));
}

static bool source_collect(struct gw_source *source)
{
    uint64_t start_ns = clock_mono_ns();
    uint64_t n_new = 0;

    if (!source_fetch(source, &n_new))
        return false;
    source->predict.fetch_ns = clock_mono_ns() - start_ns;
    predict_dirtied(&source->predict, (n_new + source->n_sampled) * GW_PAGE_SIZE,
                    start_ns - source->last_collect_ns);
    source->last_collect_ns = start_ns;
    if (source->is_sampled)
        source_throttle_begin(source); /* this round was measured already */
    else
        source_throttle_measure(source, (n_new + source->n_sampled) * GW_PAGE_SIZE);
    if (!source->is_sampled)
        source->burst_bytes_per_s = 0;
    source->is_sampled = false;
    source->n_sampled = 0;
    return true;
}

/* Whatever the blackout will be: because the pages come after it, or because time is up. */
static bool wants_to_end(struct gw_source *source, uint64_t now_ns)
{
    source->postcopy.is_attempt = source_wants_postcopy(source);
    return source->postcopy.is_attempt || (source->is_time_spent && !source->postcopy.is_time_up &&
                                           now_ns >= source->predict.not_before_ns);
}

void source_put_back_round(struct gw_source *source, uint32_t acked_round,
                           const struct gw_page_set *received)
{
    if (source->is_round_open && acked_round < source->round) {
        page_runs_remove(source->sending, received);
        gw_page_set_or(source->pending, source->sending);
    }
    source->is_round_open = false;
    gw_page_set_clear(source->sending);
    if (source->postcopy.voided) /* perhaps it is not */
        gw_page_set_clear(source->postcopy.voided);
    source->next_look_ns = 0;
}

bool gw_source_continue(struct gw_source *source, GError **error)
{
    bool is_waiting;

    pthread_mutex_lock(&source->lock);
    is_waiting = source->status.is_waiting_before_switchover;
    source->is_continued |= is_waiting;
    pthread_mutex_unlock(&source->lock);
    if (!is_waiting) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_STATE,
                            "the migration does not wait before its switchover");
        return false;
    }
    mailbox_put(&source->box, mail_new(MAIL_POKE));
    return true;
}

void source_next_round(struct gw_source *source)
{
    uint64_t now_ns = clock_mono_ns();
    uint64_t max_blackout_ns, remaining_bytes;

    if (source->is_round_open || now_ns < source->next_look_ns)
        return;
    if (!source_collect(source))
        return;
    source_forecast_round(source);
    source_stop_budgets(source, &max_blackout_ns, NULL);
    remaining_bytes = source->pending->n_set * GW_PAGE_SIZE;
    source->predicted_ns = predict_blackout_ns(&source->predict, remaining_bytes);
    source_note_hope(source, remaining_bytes, max_blackout_ns);
    if (wants_to_end(source, now_ns)) {
        if (source->postcopy.is_attempt) /* no page is sent in it */
            source->predicted_ns =
                predict_blackout_ns(&source->predict, 0) + source_discard_ns(source);
        if (source_holds(source, true)) {
            source->next_look_ns = now_ns + SOURCE_IDLE_NS;
            return;
        }
        if (source->postcopy.is_attempt && source_void_stale(source))
            return;
        source_dispatch(source, SOURCE_EV_BUDGET_MET);
        return;
    }
    if (source->predicted_ns <= max_blackout_ns && now_ns >= source->predict.not_before_ns) {
        if (source_forecast_wants_better(source, remaining_bytes))
            source_start_round(source, 0);
        else if (source_holds(source, true))
            source->next_look_ns = now_ns + SOURCE_IDLE_NS;
        else
            source_dispatch(source, SOURCE_EV_BUDGET_MET);
        return;
    }
    if (source->predicted_ns > max_blackout_ns)
        predict_doubt(&source->predict, max_blackout_ns, now_ns);
    /* Nothing worth a round yet: look again soon instead of sending page by page. */
    if (remaining_bytes <= predict_allowance_bytes(&source->predict, max_blackout_ns) ||
        remaining_bytes == 0)
        source->next_look_ns = now_ns + SOURCE_IDLE_NS;
    else
        source_start_round(source, 0);
}

static struct gw_encode_status encode_status(const struct wire_encode_count *count)
{
    return (struct gw_encode_status){
        .pages = count->n_pages,
        .in_bytes = count->in_bytes,
        .out_bytes = count->out_bytes,
        .work_ns = count->work_ns,
    };
}

static void publish_encoding(struct gw_source *source, struct gw_source_status *status)
{
    struct encoding_counters encoded;

    encoding_get_counters(source->encoding, &encoded);
    status->zstd = encode_status(&encoded.total.zstd);
    status->delta = encode_status(&encoded.total.delta);
    status->delta_cache_bytes = encoded.cache_bytes;
    status->delta_misses = encoded.total.n_unknown;
    status->delta_overflows = encoded.total.n_overflows;
}

/* CPU time of the engine's threads so far. */
static uint64_t source_cpu_ns(struct gw_source *source)
{
    struct lanes_counters counters = {0};

    if (source->lanes)
        lanes_get_counters(source->lanes, &counters);
    return __atomic_load_n(&source->cpu_ns, __ATOMIC_RELAXED) + source->lanes_cpu_ns +
           counters.cpu_ns;
}

void source_publish_progress(struct gw_source *source)
{
    const struct predict *predict = &source->predict;
    struct gw_source_status *status = &source->status;
    struct lanes_counters counters = {0};
    uint64_t remaining_bytes, page_bytes, control_bytes, first_rate;
    struct gw_range left_ns = {UINT64_MAX, 0, UINT64_MAX};
    uint64_t cpu_ns = source_cpu_ns(source);

    if (!source->lanes || gw_source_state_is_final((enum gw_source_state)source_state(source)))
        return;
    lanes_get_counters(source->lanes, &counters);
    remaining_bytes = source_remaining_bytes(source, &counters);
    page_bytes = sent_on_pages(source);
    control_bytes = sent_on_control(source);
    first_rate = early_rate(source, page_bytes, control_bytes);
    if (source->round > 0)
        left_ns = source_forecast_left(source, first_rate);
    pthread_mutex_lock(&source->lock);
    status->cpu_ns = cpu_ns;
    status->n_active_channels = MIN(source->tune.n_active, status->n_channels);
    status->bytes_sent = control_bytes + page_bytes;
    status->page_bytes_sent = page_bytes;
    status->pages_plain = counters.pages_plain;
    status->pages_zero = counters.pages_zero;
    publish_encoding(source, status);
    status->remaining_bytes = remaining_bytes;
    status->dirty_bytes_per_s = MAX(predict->dirty_bytes_per_s, source->burst_bytes_per_s);
    status->failed_attempts = predict->n_failed;
    if (predict->bytes_per_s) {
        status->bandwidth_bytes_per_s =
            predict->bytes_per_s / 1000 * (1000 - source->saved_permille);
        status->predicted_blackout_ns = predict_blackout_ns(predict, remaining_bytes);
        status->is_converging = left_ns.expected != UINT64_MAX;
    } else {
        status->bandwidth_bytes_per_s = first_rate;
        status->is_converging = true;
    }
    status->expected_left_ns = left_ns.expected;
    status->left_low_ns = left_ns.low;
    status->left_high_ns = left_ns.high;
    pthread_mutex_unlock(&source->lock);
}
