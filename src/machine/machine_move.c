/* SPDX-License-Identifier: MIT */
/*
 * The guest's network across a move, as the engine's callbacks of struct gw_vm, and what is told
 * about the first moments at the destination.
 *
 * Model: network devices forward and take frames themselves (device_ops); here the engine's names
 * for them meet the devices. The marks "first guest instruction" and "first packet out" are posted
 * to the main thread, which owns the engine they are booked with.
 */
#include <string.h>

#include "base/clock.h"
#include "base/probes.h"
#include "machine/machine_life.h"

/* ---- frames ---------------------------------------------------------------------------------- */

static void hand_on(void *opaque, struct device *dev, const void *frame, uint32_t n_bytes,
                    bool is_last)
{
    struct machine *machine = opaque;

    machine->packets.packet(machine->packets.opaque, dev->id, frame, n_bytes, is_last);
}

uint32_t machine_forward_packets(void *opaque, const struct gw_packet_sink *sink)
{
    struct machine *machine = opaque;
    const struct device_forward to = {hand_on, machine};
    uint32_t n = 0;

    /* Devices read it under their locks, and only between the two calls below. */
    if (sink)
        machine->packets = *sink;
    for (guint i = 0; i < machine->devices->len; i++)
        n += device_forward(g_ptr_array_index(machine->devices, i), sink ? &to : NULL);
    return n;
}

void machine_expect_packets(void *opaque)
{
    struct machine *machine = opaque;

    machine->expects_packets = true;
}

void machine_take_packet(void *opaque, const char *device, const void *frame, uint32_t n_bytes,
                         bool is_last)
{
    struct machine *machine = opaque;

    for (guint i = 0; i < machine->devices->len; i++) {
        struct device *dev = g_ptr_array_index(machine->devices, i);

        if (strcmp(dev->id, device) == 0) {
            device_take_frame(dev, frame, n_bytes, is_last);
            return;
        }
    }
}

/* ---- the first moments ----------------------------------------------------------------------- */

struct mark_call {
    struct machine *machine;
    const char *name;
    uint64_t at_ns;
};

static void deliver_mark(void *opaque)
{
    const struct mark_call *call = opaque;

    if (call->machine->marked)
        call->machine->marked(call->machine->marked_opaque, call->name, call->at_ns);
}

static void tell_once(struct machine *machine, uint32_t *is_due, const char *name)
{
    struct mark_call *call;
    uint64_t now_ns = clock_mono_ns();

    if (!__atomic_load_n(is_due, __ATOMIC_RELAXED) ||
        !__atomic_exchange_n(is_due, 0, __ATOMIC_RELAXED))
        return;
    GW_PROBE2(mark, name, now_ns);
    call = g_new0(struct mark_call, 1);
    *call = (struct mark_call){machine, name, now_ns};
    main_queue_post(machine->main_queue, deliver_mark, call, g_free);
}

void machine_vcpu_runs(void *opaque, unsigned vcpu)
{
    struct machine *machine = opaque;

    tell_once(machine, &machine->first_run_is_due, "first guest instruction");
}

static void first_sent(void *opaque, struct device *dev)
{
    struct machine *machine = opaque;

    tell_once(machine, &machine->first_sent_is_due, "first packet out");
}

uint32_t machine_arrive(struct machine *machine, bool is_running)
{
    bool will_send = false;

    __atomic_store_n(&machine->first_run_is_due, is_running, __ATOMIC_RELAXED);
    __atomic_store_n(&machine->first_sent_is_due, is_running, __ATOMIC_RELAXED);
    for (guint i = 0; i < machine->devices->len; i++)
        will_send |= device_arrive(g_ptr_array_index(machine->devices, i), is_running,
                                   machine->expects_packets);
    machine->expects_packets = false;
    return (is_running ? 1 : 0) + (will_send ? 1 : 0);
}

void machine_move_init(struct machine *machine)
{
    machine->device_host = (struct device_host){first_sent, machine};
}

void machine_set_marked_fn(struct machine *machine,
                           void (*fn)(void *opaque, const char *name, uint64_t at_ns), void *opaque)
{
    machine->marked = fn;
    machine->marked_opaque = opaque;
}
