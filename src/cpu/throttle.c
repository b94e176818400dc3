/* SPDX-License-Identifier: MIT */
/* The turns of a throttled vCPU: see throttle.h. */
#include "cpu/throttle.h"

void cpu_throttle_init(struct cpu_throttle *throttle)
{
    *throttle = (struct cpu_throttle){.open_until_ns = THROTTLE_NEVER};
}

bool cpu_throttle_set(struct cpu_throttle *throttle, unsigned permille)
{
    uint32_t wanted = permille < THROTTLE_MAX_PERMILLE ? permille : THROTTLE_MAX_PERMILLE;

    return __atomic_exchange_n(&throttle->permille, wanted, __ATOMIC_RELAXED) != wanted;
}

unsigned cpu_throttle_get(const struct cpu_throttle *throttle)
{
    return __atomic_load_n(&throttle->permille, __ATOMIC_RELAXED);
}

uint64_t cpu_throttle_look(struct cpu_throttle *throttle, uint64_t now_ns, bool did_run)
{
    uint64_t closed_ns = THROTTLE_TURN_NS / 1000 * cpu_throttle_get(throttle);
    uint64_t open_ns = THROTTLE_TURN_NS - closed_ns;
    uint64_t *until_ns = &throttle->open_until_ns;

    if (closed_ns == 0) {
        *until_ns = THROTTLE_NEVER;
        return 0;
    }
    if (now_ns < *until_ns) {
        /* Also the first look since it was throttled, or since it is throttled more. */
        if (*until_ns > now_ns + open_ns)
            *until_ns = now_ns + open_ns;
        return 0;
    }
    if (did_run)
        *until_ns = now_ns;
    if (now_ns - *until_ns < closed_ns)
        return *until_ns + closed_ns;
    *until_ns = now_ns + open_ns;
    return 0;
}

void cpu_throttle_paused(struct cpu_throttle *throttle, uint64_t length_ns)
{
    /* ORDER: relaxed, one writer: these are statistics. */
    __atomic_store_n(&throttle->paused_ns, throttle->paused_ns + length_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&throttle->n_pauses, throttle->n_pauses + 1, __ATOMIC_RELAXED);
}
