/* SPDX-License-Identifier: MIT */
/*
 * Packets that reached the source for a guest that is here by now.
 *
 * Wire: docs/wire-format.md section 8. PEER: their number and the time in which they may come are
 * bounded here, their size by the record table; what is in them is the embedder's to judge, and
 * what it does not take is dropped.
 */
#include "migrate/destination.h"

#include "base/probes.h"

#define MAX_PACKETS    65536u
#define PACKETS_MAX_NS (2 * NS_PER_S) /* after the guest was let run */

bool destination_forwards(const struct gw_destination *destination)
{
    return destination->is_live && destination->vm.packet &&
           destination->features >> WIRE_FEATURE_PACKET_FORWARD & 1;
}

bool destination_on_packet_record(struct gw_destination *destination, struct link *link,
                                  struct wire_record *record, GError **error)
{
    uint32_t n_bytes = record->bulk_bytes; /* PEER: bounded by the type's row */
    struct mail *mail;

    if (!destination_forwards(destination)) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "the feature packet-forward was not agreed");
        return false;
    }
    mail = link_decode(link, record, error);
    if (!mail)
        return false;
    if (n_bytes) {
        uint8_t *bytes = g_malloc(n_bytes);
        const struct iovec iov = {bytes, n_bytes};

        mail->frame = g_bytes_new_take(bytes, n_bytes);
        mail->weight += n_bytes;
        if (!wire_receive_bulk(record->stream, &iov, 1, GW_NO_DEADLINE, error)) {
            mail_free(mail);
            return false;
        }
    }
    link_deliver(link, mail);
    return true;
}

void destination_on_packet(struct gw_destination *destination, const struct mail *mail)
{
    const struct wire_packet *packet = &mail->message.packet;
    const struct gw_schema *schema = gw_state_plan_schema(destination->plan);
    bool is_last = packet->flags & WIRE_PACKET_LAST;
    gsize n_bytes = 0;
    const void *frame = mail->frame ? g_bytes_get_data(mail->frame, &n_bytes) : NULL;

    /* A COMMIT that was disowned lets nothing run, so nobody is there to take it. */
    if (destination_state(destination) != GW_DESTINATION_RUNNING)
        return;
    if (packet->nic >= schema->n_devices || destination->n_packets >= MAX_PACKETS ||
        mail->arrived_ns > destination->run_ns + PACKETS_MAX_NS)
        return;
    destination->n_packets++;
    GW_PROBE2(packet_arrived, schema->devices[packet->nic].id, (uint32_t)n_bytes);
    destination->vm.packet(destination->vm.opaque, schema->devices[packet->nic].id, frame,
                           (uint32_t)n_bytes, is_last);
}
