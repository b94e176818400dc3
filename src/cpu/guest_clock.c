/* SPDX-License-Identifier: MIT */
/*
 * Guest time: setting the counter and turning its values into host deadlines.
 */
#include "cpu/guest_clock.h"

uint64_t guest_clock_host_deadline_ns(const struct guest_clock *clock, uint64_t ticks)
{
    int64_t offset_ns = __atomic_load_n(&clock->offset_ns, __ATOMIC_RELAXED);
    unsigned __int128 guest_ns = (unsigned __int128)ticks * clock->ns_per_tick;
    __int128 host_ns = (__int128)guest_ns - offset_ns;
    if (host_ns < 0) {
        return 0;
    }
    return host_ns > UINT64_MAX ? UINT64_MAX : (uint64_t)host_ns;
}

void guest_clock_init(struct guest_clock *clock, uint64_t frequency_hz, uint64_t ticks)
{
    clock->frequency_hz = frequency_hz;
    clock->ns_per_tick = NS_PER_S / frequency_hz;
    guest_clock_set_ticks(clock, ticks);
}

void guest_clock_set_ticks(struct guest_clock *clock, uint64_t ticks)
{
    int64_t offset_ns = (int64_t)(ticks * clock->ns_per_tick - clock_mono_ns());
    __atomic_store_n(&clock->offset_ns, offset_ns, __ATOMIC_RELAXED);
}
