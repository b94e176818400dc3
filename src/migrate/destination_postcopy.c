/* SPDX-License-Identifier: MIT */
/*
 * Post-copy at the destination: a guest that runs before all of its memory is here.
 *
 * Model (docs/wire-format.md section 15): an attempt names pages instead of sending them. Before
 * the state is loaded these pages, and those that are suspect, are handed to a struct paging
 * (migrate/paging.h): from then on who touches one waits, and it is asked for on the urgent
 * channel. Pages that come, asked for or not, are verified in a buffer and placed whole.
 *
 * Threads: the control thread begins and ends the paging; readers of page channels and of the
 * urgent channel bring pages; the paging's own thread asks. The pointer to the paging is published
 * with release, and taken back only when no reader can use it any more.
 *
 * Locks: urgent_lock is held while a request is sent, which may take as long as the link is silent.
 */
#include "migrate/destination.h"

#include "memory/faults.h"
#include "wire/decode.h"
#include "wire/page_list.h"

/* ---- asking -----------------------------------------------------------------------------------
 */

static uint32_t number_of(const struct gw_destination *destination,
                          const struct gw_ram_block *block)
{
    for (uint32_t i = 0; i < destination->n_blocks; i++)
        if (destination->blocks[i] == block)
            return i;
    return UINT32_MAX; /* the blocks were compared: each has one */
}

static void ask_pages(void *opaque, struct gw_ram_block *block, uint64_t first, uint32_t n_pages)
{
    struct gw_destination *destination = opaque;
    struct destination_postcopy *postcopy = &destination->postcopy;
    struct wire_page_request request = {
        .block = number_of(destination, block), .first_page = first, .n_pages = n_pages};

    /* A failure is the reader's to tell; what was lost is asked for again over the next link. */
    pthread_mutex_lock(&postcopy->urgent_lock);
    if (postcopy->urgent)
        wire_send(link_stream(postcopy->urgent), WIRE_PAGE_REQUEST, &request,
                  (int64_t)(clock_mono_ns() + destination->silence_ns), NULL);
    pthread_mutex_unlock(&postcopy->urgent_lock);
}

static void on_whole(void *opaque)
{
    struct gw_destination *destination = opaque;

    mailbox_put(&destination->box, mail_new(MAIL_WHOLE));
}

void destination_use_urgent(struct gw_destination *destination, struct link *urgent)
{
    struct destination_postcopy *postcopy = &destination->postcopy;

    pthread_mutex_lock(&postcopy->urgent_lock);
    postcopy->urgent = urgent;
    pthread_mutex_unlock(&postcopy->urgent_lock);
    if (urgent && postcopy->paging)
        paging_ask_again(postcopy->paging);
}

/* ---- pages ------------------------------------------------------------------------------------
 */

/* What stands in a buffer of a run: what is good is placed, the rest asked for again. */
static bool place_piece(struct page_lane *lane, struct paging *paging, struct gw_ram_block *block,
                        uint64_t first, uint32_t n_pages, const uint8_t *bytes,
                        const uint64_t *digests, GError **error)
{
    struct gw_destination *destination = lane->destination;
    uint32_t start = 0;

    for (uint32_t i = 0; i <= n_pages; i++) {
        bool is_good =
            i < n_pages && wire_page_digest(bytes + (size_t)i * WIRE_PAGE_BYTES) == digests[i];

        if (is_good)
            continue;
        if (i > start && !paging_arrived(paging, lane->hand, block, first + start, i - start,
                                         bytes + (size_t)start * WIRE_PAGE_BYTES, error))
            return false;
        if (i < n_pages) {
            __atomic_fetch_add(&destination->n_damaged, 1, __ATOMIC_RELAXED);
            ask_pages(destination, block, first + i, 1);
        }
        start = i + 1;
    }
    return true;
}

/* *decoded: what has come with the packet's first zstd run, from this run's pages on. */
static bool place_zstd_run(struct page_lane *lane, struct paging *paging,
                           struct wire_record *record, const struct wire_page_run *run,
                           const uint8_t **decoded, GError **error)
{
    const struct wire_pages_in *packet = lane->packet;
    const uint8_t *bytes;

    if (!*decoded)
        *decoded = wire_decode_zstd(record->stream, record, packet, run, GW_NO_DEADLINE, error);
    if (!*decoded)
        return false;
    bytes = *decoded;
    *decoded += (size_t)run->n_pages * WIRE_PAGE_BYTES;
    return place_piece(lane, paging, lane->destination->blocks[packet->block], run->first_page,
                       run->n_pages, bytes, packet->digests + run->first_digest, error);
}

static bool place_plain_run(struct page_lane *lane, struct paging *paging,
                            struct wire_record *record, const struct wire_page_run *run,
                            GError **error)
{
    const struct wire_pages_in *packet = lane->packet;
    struct gw_ram_block *block = lane->destination->blocks[packet->block];

    for (uint32_t done = 0; done < run->n_pages;) {
        uint32_t n_pages = MIN(run->n_pages - done, WIRE_CHUNK_PAGES);
        const struct iovec iov = {lane->fresh, (size_t)n_pages * WIRE_PAGE_BYTES};

        if (!wire_receive_bulk(record->stream, &iov, 1, GW_NO_DEADLINE, error) ||
            !place_piece(lane, paging, block, run->first_page + done, n_pages, lane->fresh,
                         packet->digests + run->first_digest + done, error))
            return false;
        done += n_pages;
    }
    return true;
}

static bool place_run(struct page_lane *lane, struct paging *paging, struct wire_record *record,
                      const struct wire_page_run *run, const uint8_t **decoded, GError **error)
{
    if (run->encoding == WIRE_PAGE_ZSTD)
        return place_zstd_run(lane, paging, record, run, decoded, error);
    if (run->encoding == WIRE_PAGE_PLAIN)
        return place_plain_run(lane, paging, record, run, error);
    paging_arrived_zero(paging, lane->destination->blocks[lane->packet->block], run->first_page,
                        run->n_pages);
    return true;
}

static bool is_round_right(struct page_lane *lane, struct wire_record *record, GError **error)
{
    if (lane->channel != CHANNEL_URGENT)
        return wire_round_add(&lane->check, record, lane->packet, error);
    if (lane->packet->round != 0)
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "field round: not 0 on the urgent channel");
    return lane->packet->round == 0;
}

bool destination_place_late(struct page_lane *lane, struct paging *paging,
                            struct wire_record *record, GError **error)
{
    struct gw_destination *destination = lane->destination;
    struct wire_pages_in *packet = lane->packet;
    uint64_t n_bytes = WIRE_HEADER_BYTES + record->payload_bytes + record->bulk_bytes;
    /* What a delta refers to is gone, and who waits shall not wait for a decoder. */
    uint64_t features = lane->channel == CHANNEL_URGENT
                            ? 0
                            : destination->features & UINT64_C(1) << WIRE_FEATURE_ZSTD;
    const uint8_t *decoded = NULL;

    if (!wire_pages_parse(record, packet, destination_block_pages, destination, features, error) ||
        !is_round_right(lane, record, error))
        return false;
    if (!lane->hand) {
        lane->hand = paging_hand_new(paging);
        if (lane->channel != CHANNEL_URGENT)
            engine_go_behind();
    }
    for (uint32_t i = 0; i < packet->n_runs; i++)
        if (!place_run(lane, paging, record, &packet->runs[i], &decoded, error))
            return false;
    __atomic_fetch_add(&destination->pages_zero, packet->n_zero, __ATOMIC_RELAXED);
    __atomic_fetch_add(&destination->pages_plain, packet->n_pages - packet->n_zero,
                       __ATOMIC_RELAXED);
    __atomic_fetch_add(&destination->bytes_received, n_bytes, __ATOMIC_RELAXED);
    return true;
}

/* ---- rounds against attempts -------------------------------------------------------------------
 *
 * A source that puts an attempt off goes on with rounds at once, on channels that may overtake the
 * SWITCHOVER_CANCEL on the control channel. A page of such a round must not be discarded as
 * missing, nor come into memory that is being paged. So a round that has begun keeps an attempt
 * from being loaded, and an attempt that is loaded keeps rounds from beginning until it is undone.
 */

bool destination_may_begin(struct gw_destination *destination, uint32_t round)
{
    struct destination_postcopy *postcopy = &destination->postcopy;
    uint64_t limit_ns = clock_mono_ns() + destination->silence_ns;
    bool is_in_time = true, may;

    pthread_mutex_lock(&destination->lock);
    while (postcopy->bar == BAR_WAIT && !destination->is_freeing && is_in_time)
        is_in_time = cond_wait_until(&destination->changed, &destination->lock, limit_ns);
    may = postcopy->bar == BAR_NONE && !destination->is_freeing;
    if (may)
        postcopy->begun_round = MAX(postcopy->begun_round, round);
    pthread_mutex_unlock(&destination->lock);
    return may;
}

static void set_bar(struct gw_destination *destination, int bar)
{
    pthread_mutex_lock(&destination->lock);
    destination->postcopy.bar = bar;
    pthread_cond_broadcast(&destination->changed);
    pthread_mutex_unlock(&destination->lock);
}

void destination_break_bar(struct gw_destination *destination)
{
    set_bar(destination, destination->postcopy.paging ? BAR_FAIL : BAR_NONE);
}

void destination_mend_bar(struct gw_destination *destination)
{
    set_bar(destination, destination->postcopy.paging ? BAR_WAIT : BAR_NONE);
}

static bool raise_bar(struct gw_destination *destination)
{
    struct destination_postcopy *postcopy = &destination->postcopy;
    bool is_raised;

    pthread_mutex_lock(&destination->lock);
    is_raised = postcopy->begun_round <= postcopy->stopped_round;
    if (is_raised)
        postcopy->bar = BAR_WAIT;
    pthread_mutex_unlock(&destination->lock);
    return is_raised;
}

/* ---- the attempt ------------------------------------------------------------------------------
 */

bool destination_offers_postcopy(const struct gw_destination *destination)
{
    return !destination->params.forbids_postcopy && !destination->is_single &&
           destination->is_live && faults_are_possible(FAULTS_MISSING, NULL);
}

void destination_on_missing(struct gw_destination *destination, const struct mail *mail)
{
    struct destination_postcopy *postcopy = &destination->postcopy;
    const struct wire_section *section = &mail->section;
    g_autoptr(GError) error = NULL;
    gsize n_bytes;
    const uint8_t *bytes = g_bytes_get_data(section->data, &n_bytes);

    /* PEER: a block that both have, in a switchover that was agreed to have such pages. */
    if (!(destination->features >> WIRE_FEATURE_URGENT & 1) ||
        section->instance >= destination->n_blocks) {
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "the source names pages that it may not name");
        return;
    }
    if (!postcopy->missing)
        postcopy->missing = gw_page_set_new(destination->vm.memory);
    if (!wire_page_list_decode(bytes, n_bytes, postcopy->missing,
                               destination->blocks[section->instance]->index, &error))
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         error->message);
}

/* A page that arrived damaged in the rounds is one that is not here. */
static void add_suspects(struct gw_destination *destination, struct gw_page_set *missing)
{
    for (uint32_t i = 0; i < destination->n_blocks; i++) {
        uint64_t n_words = (destination->blocks[i]->n_pages + 63) / 64;

        for (uint64_t w = 0; w < n_words; w++)
            for (uint64_t bits = destination->suspect_words[i][w]; bits; bits &= bits - 1)
                gw_page_set_add(missing, destination->blocks[i]->index,
                                w * 64 + (uint64_t)__builtin_ctzll(bits), 1);
    }
}

bool destination_begin_paging(struct gw_destination *destination, bool *is_late, GError **error)
{
    struct destination_postcopy *postcopy = &destination->postcopy;
    const struct paging_ops ops = {.request = ask_pages, .whole = on_whole, .opaque = destination};
    struct gw_page_set *missing;
    struct paging *paging;

    *is_late = !raise_bar(destination);
    if (*is_late)
        return false;
    missing = g_steal_pointer(&postcopy->missing);
    if (!missing)
        missing = gw_page_set_new(destination->vm.memory);
    add_suspects(destination, missing);
    postcopy->n_missing = missing->n_set;
    paging = paging_new(destination->vm.memory, missing, &ops, 0, error);
    if (!paging) {
        gw_page_set_free(missing);
        return false;
    }
    __atomic_store_n(&postcopy->paging, paging, __ATOMIC_RELEASE);
    return true;
}

/* No packet is being placed any more when it returns. */
static void quiet_lane(struct page_lane *lane)
{
    /* PEER: who stops within a packet is not waited for. */
    if (!mutex_lock_until(&lane->busy, clock_mono_ns() + DESTINATION_QUIET_NS)) {
        link_shutdown(lane->link);
        pthread_mutex_lock(&lane->busy);
    }
    lane->hand = NULL; /* it goes with the paging */
    pthread_mutex_unlock(&lane->busy);
}

void destination_end_paging(struct gw_destination *destination)
{
    struct destination_postcopy *postcopy = &destination->postcopy;
    struct paging *paging = postcopy->paging;

    if (!paging)
        return;
    __atomic_store_n(&postcopy->paging, NULL, __ATOMIC_RELEASE);
    for (guint i = 0; i < destination->lanes->len; i++)
        quiet_lane(destination->lanes->pdata[i]);
    destination_keep_fault_waits(destination, paging);
    paging_free(paging);
    set_bar(destination, BAR_NONE);
}

void destination_forget_attempt(struct gw_destination *destination)
{
    destination_end_paging(destination);
    g_clear_pointer(&destination->postcopy.missing, gw_page_set_free);
    destination->postcopy.is_attempt = false;
}

/* What query-migrate shows here from now on, too. */
static void say_fault_waits(struct gw_destination *destination)
{
    struct wire_fault_waits waits = {.n_threads = destination->n_fault_waits};

    waits.threads = g_new0(struct wire_fault_wait, waits.n_threads + 1);
    pthread_mutex_lock(&destination->lock);
    waits.faults = destination->status.faults;
    waits.p50_ns = destination->status.fault_p50_ns;
    waits.p99_ns = destination->status.fault_p99_ns;
    waits.max_ns = destination->status.fault_max_ns;
    for (uint32_t i = 0; i < waits.n_threads; i++) {
        const struct gw_fault_wait *wait = &destination->fault_waits[i];

        waits.threads[i] = (struct wire_fault_wait){.name = g_strdup(wait->name),
                                                    .faults = wait->faults,
                                                    .stall_ns = wait->stall_ns,
                                                    .p50_ns = wait->p50_ns,
                                                    .p99_ns = wait->p99_ns,
                                                    .max_ns = wait->max_ns};
    }
    pthread_mutex_unlock(&destination->lock);
    link_post(destination->control, WIRE_FAULT_WAITS, &waits);
}

void destination_say_whole(struct gw_destination *destination)
{
    struct wire_whole whole = {.n_pages = destination->postcopy.n_missing,
                               .monotonic_ns = clock_mono_ns()};
    struct wire_goodbye goodbye = {.is_complete = true};

    if (destination->resuming) {
        destination_answer_whole(destination);
        return;
    }
    if (destination->postcopy.paging)
        destination_keep_fault_waits(destination, destination->postcopy.paging);
    destination->postcopy.is_done = true;
    if (!destination->control) {
        destination_end_paging(destination);
        return;
    }
    if (destination->ledger_limit_ns != UINT64_MAX) /* it was not said yet, and is due now */
        destination->ledger_limit_ns = clock_mono_ns();
    destination_look_at_ledger(destination);
    /* What is for reports goes first: a source that has read WHOLE is done. */
    say_fault_waits(destination);
    destination_say_cost(destination);
    link_post(destination->control, WIRE_WHOLE, &whole);
    link_post(destination->control, WIRE_GOODBYE, &goodbye);
}

void destination_on_push_end(struct gw_destination *destination)
{
    struct paging *paging = destination->postcopy.paging;

    if (paging && paging_n_missing(paging) > 0)
        paging_ask_rest(paging);
}

/* ---- status -----------------------------------------------------------------------------------
 */

G_STATIC_ASSERT(PAGING_MAX_THREADS <= WIRE_MAX_FAULT_WAITS);

static struct gw_fault_wait wait_of(const struct paging_thread_stats *thread)
{
    struct gw_fault_wait wait = {.faults = thread->n_faults,
                                 .stall_ns = thread->stall_ns,
                                 .p50_ns = thread->latency.p50,
                                 .p99_ns = thread->latency.p99,
                                 .max_ns = thread->latency.max};

    g_strlcpy(wait.name, thread->thread ? thread->name : "others", sizeof wait.name);
    for (char *at = wait.name; *at; at++)
        if (!g_ascii_isprint(*at))
            *at = '?'; /* the source takes no others, nor does JSON take all */
    return wait;
}

void destination_keep_fault_waits(struct gw_destination *destination, struct paging *paging)
{
    struct paging_stats *stats;
    struct gw_destination_status *status = &destination->status;

    /* What was said holds: nobody waits for the source any more. */
    if (destination->postcopy.is_done)
        return;
    stats = g_new0(struct paging_stats, 1);
    paging_get_stats(paging, stats);
    pthread_mutex_lock(&destination->lock);
    status->pages_missing = paging_n_missing(paging);
    status->faults = stats->latency.count;
    status->fault_p50_ns = stats->latency.p50;
    status->fault_p99_ns = stats->latency.p99;
    status->fault_max_ns = stats->latency.max;
    destination->n_fault_waits = stats->n_threads;
    for (uint32_t i = 0; i < stats->n_threads; i++)
        destination->fault_waits[i] = wait_of(&stats->threads[i]);
    pthread_mutex_unlock(&destination->lock);
    g_free(stats);
}

uint32_t gw_destination_get_fault_waits(struct gw_destination *destination,
                                        struct gw_fault_wait *waits, uint32_t n)
{
    uint32_t n_waits;

    pthread_mutex_lock(&destination->lock);
    n_waits = MIN(n, destination->n_fault_waits);
    for (uint32_t i = 0; i < n_waits; i++)
        waits[i] = destination->fault_waits[i];
    pthread_mutex_unlock(&destination->lock);
    return n_waits;
}
