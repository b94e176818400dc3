/* SPDX-License-Identifier: MIT */
/*
 * The destination's pages: rounds on each channel, received straight into guest memory.
 *
 * Model: docs/wire-format.md sections 6 and 7. A lane's reader thread checks the round's framing,
 * receives its packets and keeps the set of suspect pages; the control thread acknowledges. The
 * next round opens only after the last one was acknowledged on all channels, so a page of an older
 * round never overwrites a newer one.
 *
 * PEER: block and page numbers are bounded by wire_pages_parse against our own blocks.
 */
#include "migrate/destination.h"

#include <inttypes.h>

#include "base/bitmap.h"
#include "base/zero.h"
#include "memory/place.h"

void destination_lane_init(struct page_lane *lane)
{
    lane->packet = g_new0(struct wire_pages_in, 1);
    lane->fresh = g_malloc(WIRE_CHUNK_PAGES * WIRE_PAGE_BYTES);
    pthread_mutex_init(&lane->busy, NULL);
}

void destination_lane_clear(struct page_lane *lane)
{
    pthread_mutex_destroy(&lane->busy);
    g_free(lane->fresh);
    g_free(lane->packet);
}

struct page_lane *destination_lane_new(struct gw_destination *destination, uint32_t channel)
{
    struct page_lane *lane = g_new0(struct page_lane, 1);

    lane->destination = destination;
    lane->channel = channel;
    lane->check.round = destination->acked_round; /* another link goes on where the last one was */
    destination_lane_init(lane);
    return lane;
}

void destination_lane_free(struct page_lane *lane)
{
    link_free(lane->link);
    if (lane->destination->postcopy.paging)
        paging_hand_free(lane->destination->postcopy.paging, lane->hand);
    destination_lane_clear(lane);
    g_free(lane);
}

static uint64_t skip_pages(const struct gw_ram_block *block, uint64_t page, uint64_t end,
                           bool is_zero)
{
    while (page < end && page_is_zero(block->host + page * GW_PAGE_SIZE) == is_zero)
        page++;
    return page;
}

static bool discard(struct gw_ram_block *block, uint64_t first, uint64_t end, GError **error)
{
    return gw_memory_discard(block, first * GW_PAGE_SIZE, (end - first) * GW_PAGE_SIZE, error);
}

/* Allocated pages read as zero then. Where they were made present on purpose those that do stay: to
 * look at one costs a tenth of giving it back, and that a fraction of making it present again. */
static bool clear_pages(struct gw_ram_block *block, uint64_t first, uint64_t end, GError **error)
{
    uint64_t page, next;

    if (!memory_was_populated(block))
        return discard(block, first, end, error);
    for (page = skip_pages(block, first, end, true); page < end;
         page = skip_pages(block, next, end, true)) {
        next = skip_pages(block, page, end, false);
        if (!discard(block, page, next, error))
            return false;
    }
    return true;
}

static uint64_t extent_end(const struct wire_extent *extent)
{
    return extent->first_page + extent->n_pages;
}

/* Pages that our memory holds. Outside of what the source declares allocated they must read as
 * zero: it does not send them. What lies inside comes in the first round. *next: the first extent
 * that may matter. */
static bool prepare_run(struct gw_ram_block *block, const struct wire_ram_block *map,
                        uint32_t *next, uint64_t page, uint64_t end, uint64_t *written,
                        GError **error)
{
    while (page < end) {
        const struct wire_extent *extent;
        uint64_t stop = end;
        bool is_inside;

        while (*next < map->n_extents && extent_end(&map->extents[*next]) <= page)
            ++*next;
        extent = *next < map->n_extents ? &map->extents[*next] : NULL;
        is_inside = extent && extent->first_page <= page;
        if (extent)
            stop = MIN(end, is_inside ? extent_end(extent) : extent->first_page);
        if (!is_inside && !clear_pages(block, page, stop, error))
            return false;
        if (is_inside || memory_was_populated(block))
            bitmap_set_range(written, page, stop - page);
        page = stop;
    }
    return true;
}

bool destination_prepare_memory(struct gw_destination *destination, GError **error)
{
    for (uint32_t i = 0; i < destination->ram_map.n_blocks; i++) {
        struct gw_ram_block *block =
            gw_memory_block(destination->vm.memory, destination->blocks[i]->index);
        uint32_t next = 0;

        /* Each run is looked for once: to find its end costs by its length. */
        for (uint64_t first = 0, n_pages; gw_memory_next_allocated_run(block, &first, &n_pages);
             first += n_pages)
            if (!prepare_run(block, &destination->ram_map.blocks[i], &next, first, first + n_pages,
                             destination->written_words[i], error))
                return false;
    }
    return true;
}

/* Pages of this lane come after COMMIT, to a guest that lacks them. */
static bool is_late_round(const struct page_lane *lane)
{
    return lane->channel == CHANNEL_URGENT ||
           (lane->check.flags & WIRE_ROUND_POSTCOPY &&
            __atomic_load_n(&lane->destination->postcopy.paging, __ATOMIC_ACQUIRE));
}

static bool on_round_begin(struct page_lane *lane, struct wire_record *record, GError **error)
{
    struct gw_destination *destination = lane->destination;
    uint32_t acked = __atomic_load_n(&destination->acked_round, __ATOMIC_ACQUIRE);
    bool is_late;

    if (!wire_round_open(&lane->check, record, NULL, error))
        return false;
    /* PEER: only a round of its own, and only where that was agreed. */
    if (lane->check.flags & WIRE_ROUND_VOID &&
        (lane->check.flags != WIRE_ROUND_VOID ||
         !(destination->features >> WIRE_FEATURE_VOID_ROUNDS & 1))) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "field flags: no round may be void now");
        return false;
    }
    is_late = is_late_round(lane);
    if (!is_late && !destination_may_begin(destination, lane->check.round)) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "begins a round while the guest is being handed over");
        return false;
    }
    if (!is_late && !__atomic_load_n(&destination->is_receiving, __ATOMIC_ACQUIRE)) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "nothing was accepted yet");
        return false;
    }
    if (lane->check.round != acked + 1) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "round %" PRIu32 " begins before round %" PRIu32 " was acknowledged",
                          lane->check.round, lane->check.round - 1);
        return false;
    }
    return true;
}

uint64_t destination_block_pages(void *opaque, uint32_t block)
{
    const struct gw_destination *destination = opaque;

    return block < destination->n_blocks && destination->blocks[block]
               ? destination->blocks[block]->n_pages
               : 0;
}

static void on_page(void *opaque, uint32_t block, uint64_t page, bool is_good)
{
    struct gw_destination *destination = opaque;
    uint64_t *word = &destination->suspect_words[block][page / 64];
    uint64_t bit = UINT64_C(1) << (page % 64);

    if (is_good) {
        /* The common case costs one load that stays in the cache. */
        if ((__atomic_load_n(word, __ATOMIC_RELAXED) & bit) &&
            (__atomic_fetch_and(word, ~bit, __ATOMIC_RELAXED) & bit))
            __atomic_fetch_sub(&destination->n_suspect, 1, __ATOMIC_RELAXED);
    } else {
        __atomic_fetch_add(&destination->n_damaged, 1, __ATOMIC_RELAXED);
        if (!(__atomic_fetch_or(word, bit, __ATOMIC_RELAXED) & bit))
            __atomic_fetch_add(&destination->n_suspect, 1, __ATOMIC_RELAXED);
    }
}

/* Fresh pages that have come into the lane's buffer. */
static bool place_pages(void *opaque, uint32_t block, uint64_t first_page, const uint8_t *bytes,
                        uint32_t n_pages, GError **error)
{
    const struct gw_destination *destination = opaque;

    return memory_place(destination->blocks[block], first_page * GW_PAGE_SIZE, bytes,
                        (size_t)n_pages * GW_PAGE_SIZE, error);
}

/* What is here of these pages is of no use: the guest will come before them. */
static bool void_pages(struct page_lane *lane, struct wire_record *record, GError **error)
{
    struct gw_destination *destination = lane->destination;
    const struct wire_pages_in *packet = lane->packet;
    struct gw_ram_block *block = destination->blocks[packet->block];

    if (packet->n_zero != packet->n_pages) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "brings pages in a void round");
        return false;
    }
    for (uint32_t i = 0; i < packet->n_runs; i++) {
        const struct wire_page_run *run = &packet->runs[i];

        if (!discard(block, run->first_page, run->first_page + run->n_pages, error))
            return false;
        bitmap_clear_atomic(destination->written_words[packet->block], run->first_page,
                            run->n_pages);
    }
    return true;
}

static bool write_pages(struct page_lane *lane, struct wire_record *record, GError **error)
{
    struct gw_destination *destination = lane->destination;
    struct wire_pages_in *packet = lane->packet;
    uint64_t n_bytes = WIRE_HEADER_BYTES + record->payload_bytes + record->bulk_bytes;
    struct wire_pages_sink sink = {.on_page = on_page, .opaque = destination};
    uint32_t n_bad = 0;

    if (!wire_pages_parse(record, packet, destination_block_pages, destination,
                          destination->features, error) ||
        !wire_round_add(&lane->check, record, packet, error))
        return false;
    if (lane->check.flags & WIRE_ROUND_VOID)
        return void_pages(lane, record, error);
    destination_make_huge(destination, packet);
    sink.host = destination->blocks[packet->block]->host;
    sink.written = destination->written_words[packet->block];
    if (memory_can_place(destination->blocks[packet->block])) {
        sink.fresh = lane->fresh;
        sink.place = place_pages;
    }
    if (!wire_pages_receive(record->stream, record, packet, &sink, &n_bad, GW_NO_DEADLINE, error))
        return false;
    if (n_bad == 0) /* else the packet is sent again as a whole, should the link break now */
        destination_note_received(destination, packet);
    __atomic_fetch_add(&destination->pages_zero, packet->n_zero, __ATOMIC_RELAXED);
    __atomic_fetch_add(&destination->pages_plain, packet->n_pages - packet->n_zero,
                       __ATOMIC_RELAXED);
    __atomic_fetch_add(&destination->bytes_received, n_bytes, __ATOMIC_RELAXED);
    return true;
}

static bool on_pages(struct page_lane *lane, struct wire_record *record, GError **error)
{
    struct paging *paging;
    bool is_written;

    pthread_mutex_lock(&lane->busy);
    paging = __atomic_load_n(&lane->destination->postcopy.paging, __ATOMIC_ACQUIRE);
    /* PEER: the memory that both ends map is nobody's to be sent. */
    if (is_late_round(lane) && !paging) {
        is_written = true; /* of an attempt that was put off: wire_receive passes over the rest */
    } else if (is_late_round(lane)) {
        is_written = destination_place_late(lane, paging, record, error);
    } else if (__atomic_load_n(&lane->destination->is_receiving, __ATOMIC_ACQUIRE) &&
               !lane->destination->share.is_shared) {
        is_written = write_pages(lane, record, error);
    } else {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "no pages are accepted now");
        is_written = false;
    }
    pthread_mutex_unlock(&lane->busy);
    return is_written;
}

static void end_lane(struct page_lane *lane, struct link *link)
{
    /* PEER: an honest source has ended its rounds, so nobody is busy. Who is, waits for bytes. */
    if (pthread_mutex_trylock(&lane->busy) != 0) {
        if (link)
            link_shutdown(link);
        pthread_mutex_lock(&lane->busy);
    }
    pthread_mutex_unlock(&lane->busy);
}

void destination_end_pages(struct gw_destination *destination)
{
    __atomic_store_n(&destination->is_receiving, 0, __ATOMIC_RELEASE);
    for (guint i = 0; i < destination->lanes->len; i++)
        end_lane(destination->lanes->pdata[i],
                 ((struct page_lane *)destination->lanes->pdata[i])->link);
    end_lane(&destination->control_lane, destination->control);
}

static bool on_round_end(struct page_lane *lane, struct wire_record *record, GError **error)
{
    struct gw_destination *destination = lane->destination;
    struct wire_round_end end;
    struct mail *mail;

    if (!wire_round_close(&lane->check, record, &end, error))
        return false;
    if (!destination->is_live)
        return true;
    mail = mail_new(MAIL_LANE_ROUND);
    mail->channel = lane->channel;
    mail->generation = __atomic_load_n(&destination->generation, __ATOMIC_RELAXED);
    mail->number = lane->check.flags;
    mail->message.round_end = end;
    mailbox_put(&destination->box, mail);
    return true;
}

bool destination_on_page_record(struct page_lane *lane, struct wire_record *record, GError **error)
{
    struct gw_destination *destination;

    if (!lane) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "no lane");
        return false;
    }
    destination = lane->destination;
    /* PEER: pages travel either on control or on page channels, as agreed. */
    if (lane->channel == WIRE_NO_CHANNEL && destination->n_lanes > 0) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "pages were agreed to travel elsewhere");
        return false;
    }
    if (destination->is_live) /* else the control thread, which books its own */
        engine_book_cpu(&lane->cpu_ns, &destination->cpu_ns);
    switch (record->type->type) {
    case WIRE_ROUND_BEGIN:
        return on_round_begin(lane, record, error);
    case WIRE_PAGES:
        return on_pages(lane, record, error);
    default:
        return on_round_end(lane, record, error);
    }
}

/* ---- on the control thread ---------------------------------------------------------------------
 */

/* Asks again for what is suspect. */
static void ask_resend(struct gw_destination *destination, uint32_t round)
{
    for (uint32_t i = 0; i < destination->n_blocks; i++) {
        uint64_t n_pages = destination->blocks[i]->n_pages;
        struct wire_resend resend = {.round = round, .block = i};
        GArray *runs = g_array_new(FALSE, FALSE, sizeof(struct wire_resend_run));

        for (uint64_t page = 0; page < n_pages; page++) {
            uint64_t word =
                __atomic_load_n(&destination->suspect_words[i][page / 64], __ATOMIC_RELAXED);
            struct wire_resend_run run = {.first_page = page, .n_pages = 1};

            if (page % 64 == 0 && word == 0) {
                page += 63;
                continue;
            }
            if (!((word >> (page % 64)) & 1))
                continue;
            if (runs->len &&
                g_array_index(runs, struct wire_resend_run, runs->len - 1).first_page +
                        g_array_index(runs, struct wire_resend_run, runs->len - 1).n_pages ==
                    page)
                g_array_index(runs, struct wire_resend_run, runs->len - 1).n_pages++;
            else if (runs->len < WIRE_MAX_RESEND_RUNS)
                g_array_append_val(runs, run);
            else
                break; /* the rest is asked for after the next round */
        }
        resend.n_runs = runs->len;
        resend.runs = (struct wire_resend_run *)(void *)g_array_free(runs, FALSE);
        if (resend.n_runs)
            link_post(destination->control, WIRE_RESEND, &resend);
        else
            g_free(resend.runs);
    }
}

static void first_suspect(struct gw_destination *destination, char *text, size_t size)
{
    for (uint32_t i = 0; i < destination->n_blocks; i++)
        for (uint64_t w = 0; w < (destination->blocks[i]->n_pages + 63) / 64; w++)
            if (destination->suspect_words[i][w]) {
                g_snprintf(text, size, "page %" PRIu64 " of RAM block %s arrived damaged %u times",
                           w * 64 + (uint64_t)__builtin_ctzll(destination->suspect_words[i][w]),
                           destination->blocks[i]->name, destination->n_resends + 1);
                return;
            }
}

void destination_on_lane_round(struct gw_destination *destination, const struct mail *mail)
{
    const struct wire_round_end *end = &mail->message.round_end;
    uint64_t n_suspect = __atomic_load_n(&destination->n_suspect, __ATOMIC_RELAXED);
    struct wire_round_ack ack = {.round = end->round,
                                 .channel = (uint16_t)mail->channel,
                                 .n_pages = end->n_pages,
                                 .n_bytes = end->n_bytes,
                                 .n_suspect = n_suspect,
                                 .monotonic_ns = mail->arrived_ns};
    uint32_t n_lanes = MAX(destination->n_lanes, 1);
    bool is_stopped = mail->number & WIRE_ROUND_GUEST_STOPPED;
    bool is_postcopy = mail->number & WIRE_ROUND_POSTCOPY;
    unsigned state = destination_state(destination);

    if (state != GW_DESTINATION_RECEIVING && state != GW_DESTINATION_POSTCOPY)
        return;
    destination->n_lanes_done++;
    if (destination->n_lanes_done < n_lanes) {
        link_post(destination->control, WIRE_ROUND_ACK, &ack);
        return;
    }
    destination->n_lanes_done = 0;
    destination->round = end->round;
    if (is_postcopy)
        destination->postcopy.stopped_round = end->round;
    /* Suspect pages of an attempt whose pages come after COMMIT are missing like the others. */
    destination->is_last_round_clean = is_stopped && (n_suspect == 0 || is_postcopy);
    if (is_stopped && !is_postcopy && n_suspect > 0) {
        if (destination->n_resends >= DESTINATION_MAX_RESENDS) {
            char text[256] = "pages arrived damaged";

            first_suspect(destination, text, sizeof text);
            destination_fail(destination, DESTINATION_EV_FAILED, GW_SIDE_DESTINATION,
                             GW_ERROR_CORRUPT, text);
            return;
        }
        destination->n_resends++;
        ask_resend(destination, end->round);
    }
    destination_begin_round(destination);
    __atomic_store_n(&destination->acked_round, end->round, __ATOMIC_RELEASE);
    link_post(destination->control, WIRE_ROUND_ACK, &ack);
    pthread_mutex_lock(&destination->lock);
    destination->status.round = end->round;
    pthread_mutex_unlock(&destination->lock);
    if (state == GW_DESTINATION_POSTCOPY)
        destination_on_push_end(destination);
    else
        destination_check_complete(destination);
}
