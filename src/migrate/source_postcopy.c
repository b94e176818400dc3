/* SPDX-License-Identifier: MIT */
/*
 * Post-copy at the source: the guest first, the rest of its memory after it.
 *
 * Model (docs/wire-format.md section 15, docs/handover.md "Post-copy"): a switchover whose last
 * pages are not sent but named. From the moment in which the guest stands still its memory does not
 * change, so requests are answered from then on, also before COMMIT, by the reader of the urgent
 * channel itself. After RUNNING the lanes send what is left in the background, around the places
 * that were asked for. The source is done when the destination says WHOLE.
 *
 * Threads: the control thread, except serve_*, which run on the urgent channel's reader. What both
 * use: is_serving and the counters (atomic), push and served (any thread).
 */
#include "migrate/source.h"

#include "migrate/page_runs.h"
#include "wire/page_list.h"
#include "wire/pages.h"

/* The destination discards what it has of the missing pages, run by run; here that takes 50 to 65
 * us for each, and 1.5 us for each page. Longer runs cost more pages after it. */
#define DISCARD_NS      (UINT64_C(65) * NS_PER_US)
#define DISCARD_PAGE_NS UINT64_C(1500)
#define DISCARD_SHARE   4u /* of the budget */
#define MIN_RUNS        64u
/* What would take longer than this is discarded before the guest stops. */
#define MIN_VOID_NS     NS_PER_MS

/* ---- may we? ----------------------------------------------------------------------------------
 */

/* NULL, or why post-copy is not possible; static text. */
static const char *why_not(const struct gw_source *source)
{
    if (source->params.forbids_postcopy)
        return "it is forbidden at the source";
    if (source->share.is_agreed)
        return "the memory is shared, no page is sent";
    if (!source->has_peer)
        return "the destination has not answered yet";
    if (!(source->peer.features >> WIRE_FEATURE_URGENT & 1))
        return "the destination cannot, or forbids it";
    if (!source->postcopy.urgent)
        return "it needs several channels, and this address gives one";
    return NULL;
}

bool source_can_postcopy(const struct gw_source *source)
{
    return why_not(source) == NULL;
}

bool source_postcopy_offered(const struct gw_source *source)
{
    return !source->params.forbids_postcopy && source->params.mode != GW_MODE_PRECOPY &&
           !source->is_snapshot && gw_channel_uri_is_multi(source->uri);
}

/* Nobody has said how long it may take, and it would take too long. */
static bool is_tedious(struct gw_source *source, uint64_t remaining_bytes)
{
    uint64_t max_time_ns;

    source_stop_budgets(source, NULL, &max_time_ns);
    return !max_time_ns && !source->status.max_slowdown_permille && source->predict.bytes_per_s &&
           predict_is_tedious(&source->predict, remaining_bytes,
                              source_forecast_left(source, 0).expected,
                              clock_mono_ns() - source->start_ns);
}

/* Post-copy by itself: after so many rounds that give no hope. */
static unsigned hopeless_limit(struct gw_source *source)
{
    if (source->status.max_slowdown_permille)
        return SOURCE_THROTTLED_ROUNDS;
    return source_forecast_left(source, 0).low == UINT64_MAX ||
                   is_tedious(source, source->pending->n_set * GW_PAGE_SIZE)
               ? 1
               : PREDICT_HOPELESS_ROUNDS;
}

bool source_wants_postcopy(struct gw_source *source)
{
    bool is_asked;

    pthread_mutex_lock(&source->lock);
    is_asked = source->asks_postcopy;
    pthread_mutex_unlock(&source->lock);
    if (!is_asked && source->params.mode == GW_MODE_PRECOPY)
        return false;
    if (!source_can_postcopy(source) || clock_mono_ns() < source->predict.not_before_ns)
        return false;
    if (is_asked || source->postcopy.is_time_up || source->postcopy.has_given_up ||
        source->params.mode == GW_MODE_POSTCOPY)
        return true;
    return source->predict.bytes_per_s && source->predict.n_hopeless > 0 &&
           source->predict.n_hopeless >= hopeless_limit(source);
}

void source_note_hope(struct gw_source *source, uint64_t remaining_bytes, uint64_t max_blackout_ns)
{
    struct lanes_counters counters;

    lanes_get_counters(source->lanes, &counters);
    predict_note_sent(&source->predict, counters.pages_plain * GW_PAGE_SIZE, remaining_bytes);
    predict_note_hope(&source->predict, remaining_bytes, max_blackout_ns,
                      is_tedious(source, remaining_bytes));
}

bool source_may_give_up(const struct gw_source *source)
{
    return source->params.mode != GW_MODE_PRECOPY && source_can_postcopy(source) &&
           clock_mono_ns() >= source->predict.not_before_ns &&
           (source->params.mode == GW_MODE_POSTCOPY || !source->status.max_slowdown_permille);
}

bool source_gives_up(struct gw_source *source, uint64_t early_rate)
{
    return source_may_give_up(source) && (source->params.mode == GW_MODE_POSTCOPY ||
                                          source_forecast_is_hopeless(source, early_rate));
}

bool source_check_mode(struct gw_source *source)
{
    const char *why = why_not(source);
    g_autofree char *text = NULL;

    if (source->params.mode != GW_MODE_POSTCOPY || !why)
        return true;
    text = g_strdup_printf("post-copy is not possible: %s", why);
    source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, GW_ERROR_UNSUPPORTED, text);
    return false;
}

/* ---- requests: on the urgent channel's reader --------------------------------------------------
 */

static bool serve_pages(struct gw_source *source, struct link *link,
                        const struct wire_page_request *request, GError **error)
{
    const struct gw_ram_block *block = gw_memory_block(source->vm.memory, request->block);
    struct wire_pages_out *packet = source->postcopy.packet;
    uint64_t taken[PUSH_WORDS];

    push_take_run(source->postcopy.push, request->block, request->first_page, request->n_pages,
                  taken);
    push_want(source->postcopy.push, request->block, request->first_page, request->n_pages);
    wire_pages_begin(packet, 0, request->block);
    for (uint32_t i = 0; i < request->n_pages; i++) {
        uint64_t page = request->first_page + i;

        /* A packet holds as many pages as a request may ask for. */
        if (gw_memory_touched_mask(block, page, 1) & 1)
            wire_pages_add(packet, page, block->host + page * GW_PAGE_SIZE);
        else
            wire_pages_add_zero(packet, page);
    }
    __atomic_fetch_add(&source->postcopy.n_requested, request->n_pages, __ATOMIC_RELAXED);
    return wire_pages_send(packet, link_stream(link), GW_NO_DEADLINE, error);
}

static bool serve_request(struct gw_source *source, struct link *link, struct wire_record *record,
                          GError **error)
{
    const struct gw_ram_block *block;
    struct wire_page_request request;
    uint64_t since_ns = clock_mono_ns();

    if (!wire_decode(record, &request, error))
        return false;
    block = gw_memory_block(source->vm.memory, request.block);
    /* PEER: bounded by our own block. */
    if (!block || request.first_page >= block->n_pages ||
        request.n_pages > block->n_pages - request.first_page) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "asks for pages that do not exist");
        return false;
    }
    /* Of an attempt that was put off meanwhile: nobody waits any more. ORDER: with the release in
     * source_name_missing. */
    if (!__atomic_load_n(&source->postcopy.is_serving, __ATOMIC_ACQUIRE))
        return true;
    if (!serve_pages(source, link, &request, error))
        return false;
    histogram_record(&source->postcopy.served, clock_mono_ns() - since_ns,
                     request.first_page << GW_PAGE_SHIFT);
    return true;
}

static bool on_urgent_record(void *opaque, struct link *link, struct wire_record *record,
                             GError **error)
{
    struct gw_source *source = opaque;
    struct mail *mail;

    if (record->type->type == WIRE_PAGE_REQUEST)
        return serve_request(source, link, record, error);
    mail = link_decode(link, record, error);
    if (mail)
        link_deliver(link, mail);
    return mail != NULL;
}

static void on_urgent_end(void *opaque, struct link *link, const GError *error)
{
    struct gw_source *source = opaque;

    mailbox_put(&source->box, link_end_mail(link, error));
}

static const struct link_ops urgent_ops = {.on_record = on_urgent_record, .on_end = on_urgent_end};

/* ---- channels ---------------------------------------------------------------------------------
 */

bool source_open_urgent(struct gw_source *source, GError **error)
{
    struct source_postcopy *postcopy = &source->postcopy;
    struct wire_stream *stream;

    if (!source_postcopy_offered(source) || source->peer.urgent_channels == 0 ||
        !(source->peer.features >> WIRE_FEATURE_URGENT & 1))
        return true;
    stream = source_open_stream(source, WIRE_ROLE_URGENT, 0, error);
    if (!stream)
        return false;
    if (!postcopy->push) {
        postcopy->push = push_new(source->vm.memory);
        postcopy->packet = wire_pages_out_new();
    }
    wire_stream_set_phase(stream, WIRE_IN_ROUNDS);
    postcopy->urgent = link_new(stream, CHANNEL_URGENT, source->generation, &source->box,
                                &urgent_ops, source, source->keepalive_ns);
    return true;
}

void source_close_urgent(struct gw_source *source)
{
    g_clear_pointer(&source->postcopy.urgent, link_free);
}

void source_postcopy_free(struct gw_source *source)
{
    struct source_postcopy *postcopy = &source->postcopy;

    g_clear_pointer(&postcopy->left, gw_page_set_free);
    g_clear_pointer(&postcopy->voided, gw_page_set_free);
    g_clear_pointer(&postcopy->push, push_free);
    g_clear_pointer(&postcopy->packet, wire_pages_out_free);
    g_clear_pointer(&postcopy->uri, g_free);
    histogram_clear(&postcopy->served);
}

/* ---- the attempt ------------------------------------------------------------------------------
 */

/* How many runs may be discarded in the blackout. */
static uint64_t max_runs(struct gw_source *source)
{
    uint64_t max_blackout_ns;

    source_stop_budgets(source, &max_blackout_ns, NULL);
    return MAX(max_blackout_ns / DISCARD_SHARE / DISCARD_NS, MIN_RUNS);
}

static uint64_t n_voided(const struct gw_source *source)
{
    return source->postcopy.voided ? source->postcopy.voided->n_set : 0;
}

/* Pages that may stand at the destination and are to be discarded. What is void stays in pending
 * until a round with pages. */
static uint64_t n_stale(const struct gw_source *source)
{
    if (source->round == 0 || source->predict.bytes_per_s == 0) /* nothing is there yet */
        return 0;
    return source->pending->n_set - MIN(n_voided(source), source->pending->n_set);
}

uint64_t source_discard_ns(struct gw_source *source)
{
    uint64_t n_pages = n_stale(source);

    return n_pages * DISCARD_PAGE_NS + MIN(n_pages, max_runs(source)) * DISCARD_NS;
}

bool source_void_stale(struct gw_source *source)
{
    struct source_postcopy *postcopy = &source->postcopy;
    uint64_t n_pages = n_stale(source);

    /* What the guest dirties during a void round is stale in its turn; another round is short, and
     * worth it as long as it finds much less. */
    if (source_discard_ns(source) < MIN_VOID_NS ||
        (n_voided(source) > 0 && n_pages > postcopy->n_last_voided / 2) ||
        !(source->peer.features >> WIRE_FEATURE_VOID_ROUNDS & 1))
        return false;
    encoding_forget(source->encoding);
    source_start_round(source, WIRE_ROUND_VOID);
    return true;
}

void source_void_only_stale(struct gw_source *source)
{
    struct source_postcopy *postcopy = &source->postcopy;

    if (!postcopy->voided)
        postcopy->voided = gw_page_set_new(source->vm.memory);
    page_runs_remove(source->sending, postcopy->voided);
    postcopy->n_last_voided = source->sending->n_set;
    gw_page_set_or(postcopy->voided, source->sending);
}

void source_name_missing(struct gw_source *source)
{
    struct source_postcopy *postcopy = &source->postcopy;
    struct gw_page_set *named = source->pending;

    /* What is void already costs nothing more, in however many runs. */
    if (n_stale(source) > max_runs(source))
        page_runs_join(named, max_runs(source));
    if (!postcopy->left)
        postcopy->left = gw_page_set_new(source->vm.memory);
    source->pending = postcopy->left;
    postcopy->left = named;
    gw_page_set_clear(source->pending);
    push_begin(postcopy->push, postcopy->left);
    /* ORDER: release; who sees it finds push filled and the guest at rest. */
    __atomic_store_n(&postcopy->is_serving, 1, __ATOMIC_RELEASE);
}

void source_post_missing(struct gw_source *source)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(source->vm.memory); i++)
        link_post_section(source->control, WIRE_SECTION_PAGES,
                          gw_memory_block(source->vm.memory, i)->name, i, WIRE_PAGE_LIST_VERSION,
                          source->attempt, wire_page_list_encode(source->postcopy.left, i));
}

void source_take_missing_back(struct gw_source *source)
{
    struct source_postcopy *postcopy = &source->postcopy;

    if (!postcopy->is_attempt)
        return;
    __atomic_store_n(&postcopy->is_serving, 0, __ATOMIC_RELEASE);
    if (postcopy->left) { /* else the guest did not even stop */
        gw_page_set_or(source->pending, postcopy->left);
        gw_page_set_clear(postcopy->left);
    }
    postcopy->is_attempt = false;
}

/* ---- after COMMIT -----------------------------------------------------------------------------
 */

void source_push(struct gw_source *source)
{
    struct source_postcopy *postcopy = &source->postcopy;
    struct wire_round_begin begin = {.flags = WIRE_ROUND_GUEST_STOPPED | WIRE_ROUND_POSTCOPY,
                                     .n_pages = push_n_left(postcopy->push)};

    if (postcopy->is_pushing)
        return;
    begin.round = source_number_round(source);
    postcopy->is_pushing = true;
    lanes_start_push(source->lanes, &begin, postcopy->push);
}

void source_serve(struct gw_source *source)
{
    if (source->postcopy.has_lost_pages) {
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_LINK_LOST,
                    "a page channel ended");
        return;
    }
    /* What comes for the guest goes to the destination by now. */
    source_forward_stop(source);
    source_push(source);
}

void source_on_whole(struct gw_source *source, const struct mail *mail)
{
    /* RUNNING came before it; its ledger may be late, or lost. */
    source_take_running(source);
    source_dispatch(source, SOURCE_EV_WHOLE);
}

void source_on_fault_waits(struct gw_source *source, const struct mail *mail)
{
    const struct wire_fault_waits *told = &mail->message.fault_waits;
    struct gw_source_status *status = &source->status;

    pthread_mutex_lock(&source->lock);
    status->has_fault_waits = true;
    status->faults = told->faults;
    status->fault_p50_ns = told->p50_ns;
    status->fault_p99_ns = told->p99_ns;
    status->fault_max_ns = told->max_ns;
    source->n_fault_waits = told->n_threads;
    for (uint32_t i = 0; i < told->n_threads; i++) {
        const struct wire_fault_wait *thread = &told->threads[i];
        struct gw_fault_wait *wait = &source->fault_waits[i];

        *wait = (struct gw_fault_wait){.faults = thread->faults,
                                       .stall_ns = thread->stall_ns,
                                       .p50_ns = thread->p50_ns,
                                       .p99_ns = thread->p99_ns,
                                       .max_ns = thread->max_ns};
        g_strlcpy(wait->name, thread->name, sizeof wait->name);
    }
    pthread_mutex_unlock(&source->lock);
}

void source_let_go(struct gw_source *source)
{
    source_forward_stop(source);
    source->is_guest_stopped = false; /* it is not ours any more */
    source_close_links(source, false);
    if (source->vm.released)
        source->vm.released(source->vm.opaque);
    source_log_stop(source);
}

/* ---- public -----------------------------------------------------------------------------------
 */

bool gw_source_start_postcopy(struct gw_source *source, GError **error)
{
    unsigned state;
    const char *why = NULL;

    pthread_mutex_lock(&source->lock);
    state = source->handover.state;
    if (source->is_snapshot || (state != GW_SOURCE_ROUNDS && state != GW_SOURCE_BLACKOUT &&
                                state != GW_SOURCE_RECONNECTING))
        why = "";
    else if (source->status.postcopy_lack[0])
        why = source->status.postcopy_lack;
    else
        source->asks_postcopy = true;
    if (why && *why)
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "post-copy is not possible: %s", why);
    else if (why)
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "post-copy can begin in the rounds, and the migration is in state %s",
                    gw_source_state_name((enum gw_source_state)state));
    pthread_mutex_unlock(&source->lock);
    if (!why)
        mailbox_put(&source->box, mail_new(MAIL_POKE));
    return !why;
}

uint32_t gw_source_get_fault_waits(struct gw_source *source, struct gw_fault_wait *waits,
                                   uint32_t n)
{
    uint32_t n_waits;

    pthread_mutex_lock(&source->lock);
    n_waits = MIN(n, source->n_fault_waits);
    for (uint32_t i = 0; i < n_waits; i++)
        waits[i] = source->fault_waits[i];
    pthread_mutex_unlock(&source->lock);
    return n_waits;
}

void source_publish_served(struct gw_source *source)
{
    struct histogram_snapshot served;

    if (!source->postcopy.is_attempt)
        return;
    histogram_snapshot(&source->postcopy.served, &served);
    pthread_mutex_lock(&source->lock);
    /* Looked at after what was served of them. */
    source->status.pages_requested =
        __atomic_load_n(&source->postcopy.n_requested, __ATOMIC_RELAXED);
    source->status.requests_served = served.count;
    source->status.serve_p50_ns = served.p50;
    source->status.serve_p99_ns = served.p99;
    source->status.serve_max_ns = served.max;
    pthread_mutex_unlock(&source->lock);
}

void source_publish_postcopy(struct gw_source *source)
{
    const char *why = why_not(source);
    unsigned state = source_state(source);
    bool is_after = source->postcopy.is_attempt && !source->is_snapshot &&
                    state != GW_SOURCE_ROUNDS && state != GW_SOURCE_RECONNECTING;

    source_publish_served(source);
    pthread_mutex_lock(&source->lock);
    source->status.is_postcopy = is_after;
    source->status.pages_left =
        is_after && source->postcopy.push ? push_n_left(source->postcopy.push) : 0;
    g_strlcpy(source->status.postcopy_lack, why ? why : "", sizeof source->status.postcopy_lack);
    pthread_mutex_unlock(&source->lock);
}
