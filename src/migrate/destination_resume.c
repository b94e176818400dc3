/* SPDX-License-Identifier: MIT */
/*
 * A lost link of the destination, and the source that comes back (docs/wire-format.md section 16).
 *
 * Model: before COMMIT what has come is kept for a while (WAITING), after it in post-copy for as
 * long as the process lives (POSTCOPY_PAUSED). The source opens another control channel and says
 * RESUME; it hears what is here, or what is missing. The old connection, if we have not seen it
 * end, is void from then on.
 *
 * Threads: the control thread, except destination_note_received (readers of page channels).
 */
#include "migrate/destination.h"

#include <string.h>

#include "base/summary.h"
#include "wire/page_list.h"

/* ---- what has come of the open round -----------------------------------------------------------
 */

void destination_note_received(struct gw_destination *destination,
                               const struct wire_pages_in *packet)
{
    struct gw_page_set *received = destination->received;
    uint32_t block;
    struct summary map;

    if (!received)
        return;
    block = destination->blocks[packet->block]->index;
    map = (struct summary){received->words[block], received->groups[block],
                           destination->blocks[packet->block]->n_pages};
    for (uint32_t i = 0; i < packet->n_runs; i++)
        summary_set_atomic(&map, packet->runs[i].first_page, packet->runs[i].n_pages);
}

void destination_forget_received(struct gw_destination *destination)
{
    g_clear_pointer(&destination->received, gw_page_set_free);
}

void destination_begin_round(struct gw_destination *destination)
{
    for (uint32_t i = 0; destination->received && i < destination->n_blocks; i++) {
        const struct gw_ram_block *block = destination->blocks[i];
        const struct summary map = {destination->received->words[block->index],
                                    destination->received->groups[block->index], block->n_pages};

        summary_clear(&map);
    }
}

/* ---- saying what is here, or missing -----------------------------------------------------------
 */

static void post_pages(struct gw_destination *destination, const struct gw_page_set *set,
                       bool is_owned)
{
    struct wire_resumed resumed = {.is_owned = is_owned,
                                   .round = destination->acked_round,
                                   .n_sections = set ? destination->n_blocks : 0};
    GByteArray *data[WIRE_MAX_RAM_BLOCKS];

    /* Counted from what is sent: the set may change meanwhile. */
    for (uint32_t i = 0; i < resumed.n_sections; i++) {
        struct gw_page_set *counted = gw_page_set_new(destination->vm.memory);
        uint32_t block = destination->blocks[i]->index;

        data[i] = wire_page_list_encode(set, block);
        if (wire_page_list_decode(data[i]->data, data[i]->len, counted, block, NULL))
            resumed.n_pages += counted->n_set;
        gw_page_set_free(counted);
    }
    link_post(destination->control, WIRE_RESUMED, &resumed);
    for (uint32_t i = 0; i < resumed.n_sections; i++)
        link_post_section(destination->control, WIRE_SECTION_PAGES, destination->blocks[i]->name, i,
                          WIRE_PAGE_LIST_VERSION, destination->attempt, data[i]);
}

/* The stream becomes the control channel. */
static void take_link(struct gw_destination *destination, enum wire_phase_set phases)
{
    destination_close_links(destination, false);
    destination->n_lanes_done = 0;
    destination->failure = (struct gw_migrate_failure){0};
    g_clear_pointer(&destination->sections, wire_section_reader_free);
    destination->sections = wire_section_reader_new();
    destination->control_lane.check = (struct wire_round_check){0};
    wire_stream_set_phase(destination->resuming, phases);
    destination->control =
        link_new(g_steal_pointer(&destination->resuming), CHANNEL_CONTROL, destination->generation,
                 &destination->box, &destination_link_ops, destination, destination->keepalive_ns);
    destination->next_ping_ns = clock_mono_ns();
    pthread_mutex_lock(&destination->lock);
    destination->status.failure = destination->failure;
    destination->status.reconnects++;
    pthread_mutex_unlock(&destination->lock);
}

void destination_keep(struct gw_destination *destination)
{
    ledger_close(destination->ledger, clock_mono_ns(), destination->failure.reason, 0);
    destination_close_links(destination, false);
    destination_unload(destination);
    destination->wait_limit_ns = clock_mono_ns() + destination->wait_ns;
}

void destination_resume_receiving(struct gw_destination *destination)
{
    ledger_close(destination->ledger, clock_mono_ns(), "the link was replaced", 0);
    take_link(destination, (enum wire_phase_set)(WIRE_IN_SETUP | WIRE_IN_ROUNDS));
    destination_unload(destination);
    post_pages(destination, destination->received, false);
    destination_begin_round(destination);
}

void destination_pause(struct gw_destination *destination)
{
    destination_close_links(destination, false);
}

void destination_resume_pages(struct gw_destination *destination)
{
    struct gw_page_set *missing = paging_missing_copy(destination->postcopy.paging);

    take_link(destination, (enum wire_phase_set)(WIRE_IN_SETUP | WIRE_IN_COMMITTED));
    post_pages(destination, missing, true);
    gw_page_set_free(missing);
}

void destination_answer_whole(struct gw_destination *destination)
{
    struct wire_stream *stream = g_steal_pointer(&destination->resuming);
    struct wire_resumed resumed = {
        .is_owned = true, .is_whole = true, .round = destination->acked_round};
    int64_t deadline_ns = (int64_t)(clock_mono_ns() + DESTINATION_ANSWER_NS);
    struct wire_record record;

    wire_stream_set_phase(stream, WIRE_IN_SETUP);
    if (wire_send(stream, WIRE_RESUMED, &resumed, deadline_ns, NULL) &&
        wire_receive(stream, &record, deadline_ns, NULL) && record.type->type == WIRE_GOODBYE)
        destination_dispatch(destination, DESTINATION_EV_GOODBYE);
    wire_stream_free(stream);
}

void destination_on_resume(struct gw_destination *destination, struct mail *mail)
{
    const uint8_t *id = wire_stream_identity(mail->stream)->migration_id;
    bool is_current =
        destination->generation > 0 && memcmp(id, destination->id, WIRE_ID_BYTES) == 0;

    if (is_current) {
        destination->resuming = g_steal_pointer(&mail->stream);
        destination_dispatch(destination, DESTINATION_EV_RESUME);
        if (destination->resuming)
            destination_refuse(destination, g_steal_pointer(&destination->resuming),
                               "this migration is over; start a new one");
        return;
    }
    destination_refuse(destination, g_steal_pointer(&mail->stream),
                       "this process does not know the migration");
}

/* ---- another address ---------------------------------------------------------------------------
 */

void destination_listen_at(struct gw_destination *destination, struct gw_listener *listener)
{
    destination_stop_listening(destination);
    gw_listener_free(destination->listener);
    pthread_mutex_lock(&destination->lock);
    destination->listener = listener;
    g_ptr_array_add(destination->uris, destination->uri); /* somebody may still hold it */
    destination->uri = g_strdup(gw_listener_uri(listener));
    pthread_mutex_unlock(&destination->lock);
    destination_start_listening(destination);
}

bool gw_destination_pause(struct gw_destination *destination, GError **error)
{
    unsigned state = destination_state(destination);

    if (state != GW_DESTINATION_POSTCOPY) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "no post-copy is under way: the destination is in state %s",
                    gw_destination_state_name((enum gw_destination_state)state));
        return false;
    }
    mailbox_put(&destination->box, mail_new(MAIL_PAUSE));
    return true;
}

bool gw_destination_recover(struct gw_destination *destination, const char *uri, GError **error)
{
    struct gw_channel_options options = {
        .silence_ms = (int64_t)(destination->silence_ns / NS_PER_MS), .framing = wire_framing()};
    unsigned state = destination_state(destination);
    struct gw_listener *listener;
    struct mail *mail;

    if (state != GW_DESTINATION_PAUSED && state != GW_DESTINATION_WAITING) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "no link was lost: the destination is in state %s",
                    gw_destination_state_name((enum gw_destination_state)state));
        return false;
    }
    listener = gw_listener_new(uri, &options, error);
    if (!listener)
        return false;
    if (gw_listener_is_single(listener)) {
        gw_listener_free(listener);
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s gives only one channel", uri);
        return false;
    }
    mail = mail_new(MAIL_RECOVER);
    mail->listener = listener;
    mailbox_put(&destination->box, mail);
    return true;
}
