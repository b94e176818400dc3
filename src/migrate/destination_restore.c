/* SPDX-License-Identifier: MIT */
/*
 * Reading a snapshot: the same stream from a file, without anybody to answer.
 *
 * The control thread reads it itself. The order of docs/wire-format.md section 10 is checked by the
 * same functions as that of a live migration; END, with its totals and digest, stands for COMMIT:
 * only a whole file runs.
 */
#include "migrate/destination.h"

#include <inttypes.h>

/* Feeds one record to the handler of live migrations by way of a mail. */
static bool restore_message(struct gw_destination *destination, struct wire_record *record,
                            GError **error)
{
    struct mail *mail = mail_new(MAIL_RECORD);

    if (!wire_decode_sized(record, &mail->message, engine_message_bytes(record->type->type),
                           error)) {
        mail_free(mail);
        return false;
    }
    mail->type = record->type->type;
    switch (mail->type) {
    case WIRE_HELLO:
        destination_on_hello(destination, mail);
        break;
    case WIRE_RAM_MAP:
        destination_on_ram_map(destination, mail);
        break;
    case WIRE_SWITCHOVER_BEGIN:
        wire_section_reset(destination->sections);
        destination_on_switchover(destination, mail);
        break;
    case WIRE_STATE_END:
        if (!wire_section_check_state_end(destination->sections, record, &mail->message.state_end,
                                          error)) {
            mail_free(mail);
            return false;
        }
        destination_on_state_end(destination, mail);
        break;
    default:
        wire_record_error(record, GW_ERROR_CORRUPT, error, "has no place in a snapshot");
        mail_free(mail);
        return false;
    }
    mail_free(mail);
    return true;
}

static bool restore_section(struct gw_destination *destination, struct wire_record *record,
                            GError **error)
{
    struct mail *mail = mail_new(MAIL_SECTION);
    bool is_whole = false;
    bool is_fed = wire_section_feed(destination->sections, record, &mail->section, &is_whole,
                                    GW_NO_DEADLINE, error);

    if (is_fed && is_whole)
        destination_on_section(destination, mail);
    mail_free(mail);
    return is_fed;
}

/* A round ended: in one channel, in order, every page of it is in place. */
static bool restore_round_end(struct gw_destination *destination, struct wire_record *record,
                              GError **error)
{
    struct page_lane *lane = &destination->control_lane;

    if (!destination_on_page_record(lane, record, error))
        return false;
    destination->round = lane->check.round;
    destination->acked_round = lane->check.round;
    destination->is_last_round_clean =
        (lane->check.flags & WIRE_ROUND_GUEST_STOPPED) && destination->n_suspect == 0;
    if ((lane->check.flags & WIRE_ROUND_GUEST_STOPPED) && destination->n_suspect) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "%" PRIu64 " pages are damaged",
                          destination->n_suspect);
        return false;
    }
    destination_check_complete(destination);
    return true;
}

static bool restore_end(struct gw_destination *destination, struct wire_stream *stream,
                        struct wire_record *record, GError **error)
{
    if (!wire_check_end(stream, record, GW_NO_DEADLINE, error))
        return false;
    if (destination_state(destination) != GW_DESTINATION_LOADED) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "the snapshot ends before everything is loaded");
        return false;
    }
    destination_dispatch(destination, DESTINATION_EV_COMMIT);
    return true;
}

static bool restore_record(struct gw_destination *destination, struct wire_stream *stream,
                           struct wire_record *record, GError **error)
{
    switch (record->type->type) {
    case WIRE_ROUND_BEGIN:
    case WIRE_PAGES:
        return destination_on_page_record(&destination->control_lane, record, error);
    case WIRE_ROUND_END:
        return restore_round_end(destination, record, error);
    case WIRE_SECTION_BEGIN:
    case WIRE_SECTION_PART:
    case WIRE_SECTION_END:
        return restore_section(destination, record, error);
    case WIRE_END:
        return restore_end(destination, stream, record, error);
    default:
        return restore_message(destination, record, error);
    }
}

/* The channel that _cancel and _free wake; NULL: none. True when they already want an end. */
static bool set_restoring(struct gw_destination *destination, struct gw_channel *channel)
{
    bool wants_end;

    pthread_mutex_lock(&destination->lock);
    destination->restoring = channel;
    wants_end = destination->wants_cancel || destination->is_freeing;
    if (channel && wants_end)
        gw_channel_wake(channel);
    pthread_mutex_unlock(&destination->lock);
    return wants_end;
}

void destination_restore(struct gw_destination *destination, struct wire_stream *stream)
{
    g_autoptr(GError) error = NULL;
    struct wire_record record;
    unsigned state;

    destination->is_live = false;
    set_restoring(destination, wire_stream_channel(stream));
    destination_dispatch(destination, DESTINATION_EV_HELLO);
    for (;;) {
        state = destination_state(destination);
        if (state == GW_DESTINATION_RUNNING || state == GW_DESTINATION_DISOWNED)
            break;
        if (!wire_receive(stream, &record, GW_NO_DEADLINE, &error) ||
            !restore_record(destination, stream, &record, &error))
            break;
        destination_publish_progress(destination);
    }
    if (set_restoring(destination, NULL) && error)
        destination_fail(destination, DESTINATION_EV_CANCEL, GW_SIDE_DESTINATION,
                         GW_ERROR_CANCELLED, "cancelled at the destination");
    else if (error)
        destination_fail_error(destination, error);
    wire_stream_free(stream);
}
