/* SPDX-License-Identifier: MIT */
/*
 * Packets for a guest that is gone: what reaches the source after COMMIT goes on to the
 * destination.
 *
 * Model: clients send to the source's port until the network has learned where the guest is. While
 * the guest is stopped but may still go on here, such packets wait in the host's queues, where a
 * guest that resumes finds them. From COMMIT on the embedder hands them to the sink below, on any
 * thread, and they follow COMMIT on the control channel. Each device ends with a last one; RUNNING
 * is acted upon when all have, or SOURCE_FORWARD_NS after it came.
 *
 * Wire: docs/wire-format.md section 8. Bounds: what waits for a slow link is bounded by link.c and
 * dropped beyond.
 *
 * Threads: the sink's function on any thread, with locks of the embedder held; it takes link.lock
 * and mailbox.lock only. source->control stays while it may be called.
 */
#include "migrate/source.h"

#include "base/probes.h"

static uint32_t device_index(const struct gw_state_registry *registry, const char *device)
{
    uint32_t n = gw_state_registry_n(registry);

    for (uint32_t i = 0; i < n; i++)
        if (g_str_equal(gw_state_registry_id(registry, i), device))
            return i;
    return UINT32_MAX;
}

static bool source_take_packet(void *opaque, const char *device, const void *frame,
                               uint32_t n_bytes, bool is_last)
{
    struct gw_source *source = opaque;
    struct wire_packet packet = {.nic = device_index(source->vm.registry, device),
                                 .flags = is_last ? WIRE_PACKET_LAST : 0};
    bool is_taken = packet.nic != UINT32_MAX && n_bytes <= WIRE_PACKET_MAX_BYTES &&
                    link_post_packet(source->control, &packet, frame, n_bytes);

    if (n_bytes)
        __atomic_fetch_add(is_taken ? &source->n_forwarded : &source->n_not_forwarded, 1,
                           __ATOMIC_RELAXED);
    GW_PROBE3(packet_forwarded, device, n_bytes, is_taken);
    if (is_last && __atomic_sub_fetch(&source->n_forward_open, 1, __ATOMIC_ACQ_REL) == 0)
        mailbox_put(&source->box, mail_new(MAIL_POKE));
    return is_taken;
}

void source_forward_start(struct gw_source *source)
{
    const struct gw_packet_sink sink = {.packet = source_take_packet, .opaque = source};

    if (!source->vm.forward_packets || !(source->peer.features >> WIRE_FEATURE_PACKET_FORWARD & 1))
        return;
    source->is_forwarding = true;
    /* A device may end before all have begun: the count goes below zero meanwhile. */
    __atomic_store_n(&source->n_forward_open, 0, __ATOMIC_RELAXED);
    __atomic_add_fetch(&source->n_forward_open,
                       (int32_t)source->vm.forward_packets(source->vm.opaque, &sink),
                       __ATOMIC_ACQ_REL);
}

void source_forward_stop(struct gw_source *source)
{
    if (!source->is_forwarding)
        return;
    source->vm.forward_packets(source->vm.opaque, NULL);
    source->is_forwarding = false;
}

bool source_is_forward_over(struct gw_source *source, uint64_t now_ns)
{
    return !source->is_forwarding || now_ns >= source->forward_limit_ns ||
           __atomic_load_n(&source->n_forward_open, __ATOMIC_ACQUIRE) == 0;
}
