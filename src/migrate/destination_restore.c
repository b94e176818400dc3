/* SPDX-License-Identifier: MIT */
/*
 * Reading a snapshot: the same stream from a file, without anybody to answer.
 *
 * The control thread reads it itself; where it has an index, several threads read its pages, at
 * once or, lazily, while the guest runs, and the control thread goes on behind them. The order of
 * docs/wire-format.md section 10 is checked by the same functions as that of a live migration; END,
 * with its totals and digest, stands for COMMIT: only a whole file runs.
 */
#include "migrate/destination.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

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
    if (destination->pager)
        snapshot_pager_guard(destination->pager);
    destination_dispatch(destination, DESTINATION_EV_COMMIT);
    return true;
}

/* Who reads in order needs no index; but it is checked as far as that goes. */
static bool restore_index(const struct wire_record *record, GError **error)
{
    union {
        struct wire_index index;
        struct wire_locator locator;
    } message;

    if (!wire_decode_sized(record, &message,
                           record->type->type == WIRE_INDEX ? sizeof message.index
                                                            : sizeof message.locator,
                           error))
        return false;
    wire_message_clear((enum wire_type)record->type->type, &message);
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
    case WIRE_PAD:
        return true;
    case WIRE_INDEX:
    case WIRE_LOCATOR:
        return restore_index(record, error);
    case WIRE_END:
        return restore_end(destination, stream, record, error);
    default:
        return restore_message(destination, record, error);
    }
}

/* ---- pages by the index -----------------------------------------------------------------------
 */

static bool wants_stop(void *opaque)
{
    struct gw_destination *destination = opaque;
    bool wants;

    pthread_mutex_lock(&destination->lock);
    wants = destination->wants_cancel || destination->is_freeing;
    pthread_mutex_unlock(&destination->lock);
    return wants;
}

static void note(struct gw_destination *destination, const char *why)
{
    g_autofree char *text = g_strdup_printf("not lazy, all was read before the guest ran: %s", why);

    pthread_mutex_lock(&destination->lock);
    g_strlcpy(destination->status.note, text, sizeof destination->status.note);
    pthread_mutex_unlock(&destination->lock);
}

static void on_lost(void *opaque, const char *reason)
{
    struct gw_destination *destination = opaque;

    if (!destination->vm.memory_lost)
        g_error("guest memory is lost: %s", reason); /* and aborts */
    destination->vm.memory_lost(destination->vm.opaque, reason);
}

/* True when it pages: then stream and snapshot are the pager's. */
static bool begin_paging(struct gw_destination *destination,
                         const struct snapshot_reader_config *config,
                         struct wire_snapshot *snapshot)
{
    g_autoptr(GError) why = NULL;
    struct snapshot_pager *pager =
        snapshot_pager_new(config, snapshot, &destination->restored, on_lost, destination, &why);

    if (!pager) {
        note(destination, why->message);
        return false;
    }
    pthread_mutex_lock(&destination->lock);
    destination->pager = pager;
    pthread_mutex_unlock(&destination->lock);
    return true;
}

/* The stream stands where the pages begin. */
static bool restore_units(struct gw_destination *destination, struct wire_stream *stream,
                          struct wire_snapshot *snapshot, int fd, GError **error)
{
    struct wire_round_check *check = &destination->control_lane.check;
    struct snapshot_reader_config config = {.stream = stream,
                                            .snapshot = snapshot,
                                            .fd = fd,
                                            .memory = destination->vm.memory,
                                            .blocks = destination->blocks,
                                            .n_blocks = destination->n_blocks,
                                            .written = destination->written_words};
    bool is_lazy = destination->params.is_lazy && begin_paging(destination, &config, snapshot);
    g_autofree uint64_t *digests = NULL;
    bool is_read = is_lazy || snapshot_load(&config, &destination->restored, wants_stop,
                                            destination, &digests, error);

    if (is_read) {
        wire_stream_pass_units(stream, snapshot, digests);
        check->n_pages += snapshot->locator.n_pages;
        check->n_packets += snapshot->n_units;
        for (uint64_t i = 0; i < snapshot->n_units; i++)
            check->n_bytes +=
                (uint64_t)snapshot->units[i].record_bytes + snapshot->units[i].bulk_bytes;
        is_read = lseek(fd, (off_t)snapshot->locator.tail_offset, SEEK_SET) >= 0;
        if (!is_read)
            g_set_error(error, GW_ERROR, GW_ERROR_IO, "snapshot: seek: %s", g_strerror(errno));
    }
    if (!is_lazy)
        wire_snapshot_free(snapshot);
    return is_read;
}

static uint64_t block_pages(void *opaque, uint32_t block)
{
    const struct gw_destination *destination = opaque;

    return block < destination->n_blocks && destination->blocks[block]
               ? destination->blocks[block]->n_pages
               : 0;
}

/* A stopped round has begun: can its pages be read by an index? NULL without error: no. */
static bool find_index(struct gw_destination *destination, struct wire_stream *stream, int fd,
                       struct wire_snapshot **snapshot, GError **error)
{
    *snapshot = NULL;
    if (fd >= 0 && !wire_snapshot_open(stream, fd, block_pages, destination, snapshot, error))
        return false;
    if (!*snapshot && destination->params.is_lazy)
        note(destination, fd < 0 ? "it is not read from a file in place" : "it has no index");
    return true;
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

static bool restore_all(struct gw_destination *destination, struct wire_stream *stream,
                        GError **error)
{
    int fd = gw_channel_file_fd(wire_stream_channel(stream));
    struct wire_snapshot *snapshot = NULL;
    bool is_looked_for = false, is_read = true;
    struct wire_record record;

    for (;;) {
        unsigned state = destination_state(destination);
        const struct wire_round_check *check = &destination->control_lane.check;

        if (state == GW_DESTINATION_RUNNING || state == GW_DESTINATION_DISOWNED || !is_read)
            break;
        if (check->is_open && check->flags & WIRE_ROUND_GUEST_STOPPED && !is_looked_for) {
            is_looked_for = true;
            is_read = find_index(destination, stream, fd, &snapshot, error);
        } else if (check->is_open && snapshot && wire_stream_is_at_units(stream, snapshot)) {
            is_read = restore_units(destination, stream, g_steal_pointer(&snapshot), fd, error);
        } else {
            is_read = wire_receive(stream, &record, GW_NO_DEADLINE, error) &&
                      restore_record(destination, stream, &record, error);
        }
        destination_publish_progress(destination);
    }
    wire_snapshot_free(snapshot);
    return is_read;
}

void destination_restore(struct gw_destination *destination, struct wire_stream *stream)
{
    g_autoptr(GError) error = NULL;

    destination->is_live = false;
    set_restoring(destination, wire_stream_channel(stream));
    destination_dispatch(destination, DESTINATION_EV_HELLO);
    restore_all(destination, stream, &error);
    if (set_restoring(destination, NULL) && error)
        destination_fail(destination, DESTINATION_EV_CANCEL, GW_SIDE_DESTINATION,
                         GW_ERROR_CANCELLED, "cancelled at the destination");
    else if (error)
        destination_fail_error(destination, error);
    if (!destination->pager)
        wire_stream_free(stream);
    else if (destination_state(destination) != GW_DESTINATION_RUNNING)
        destination_stop_paging(destination);
}

void destination_stop_paging(struct gw_destination *destination)
{
    struct snapshot_pager *pager;

    pthread_mutex_lock(&destination->lock);
    pager = destination->pager;
    destination->pager = NULL;
    pthread_mutex_unlock(&destination->lock);
    snapshot_pager_free(pager);
}
