/* SPDX-License-Identifier: MIT */
/*
 * Guest time: one counter for the whole machine, ticking at a fixed frequency with the host's
 * CLOCK_MONOTONIC.
 *
 * Model: ticks = (host monotonic ns + offset_ns) * frequency / 10^9. The counter goes on while
 * vCPUs are stopped: a pause, a blackout or a snapshot's rest is time that passed, so that the
 * guest's wall clock and timers are right afterwards. A move sets the offset on the destination
 * so that the counter continues (saved ticks + elapsed real time, never backwards).
 *
 * Threads: offset_ns is atomic; it is written only while every vCPU is stopped, so readers use a
 * relaxed load.
 */
#ifndef GODWIT_CPU_GUEST_CLOCK_H
#define GODWIT_CPU_GUEST_CLOCK_H

#include <stdint.h>

#include "base/clock.h"

struct guest_clock {
    uint64_t frequency_hz; /* fixed after construction; divides 10^9 */
    uint64_t ns_per_tick;  /* fixed after construction */
    int64_t offset_ns;     /* atomic */
    /* Of the load under way: how far the source's wall clock is ahead of ours. Owned by who loads.
     */
    int64_t source_minus_local_ns;
};

static inline uint64_t guest_clock_ticks(const struct guest_clock *clock)
{
    int64_t offset = __atomic_load_n(&clock->offset_ns, __ATOMIC_RELAXED);
    return (clock_mono_ns() + (uint64_t)offset) / clock->ns_per_tick;
}

/* Host CLOCK_MONOTONIC time at which the counter reaches ticks (saturates at UINT64_MAX). */
uint64_t guest_clock_host_deadline_ns(const struct guest_clock *clock, uint64_t ticks);
/* Starts the counter at ticks now. */
void guest_clock_init(struct guest_clock *clock, uint64_t frequency_hz, uint64_t ticks);
void guest_clock_set_ticks(struct guest_clock *clock, uint64_t ticks);

#endif
