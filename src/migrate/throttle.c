/* SPDX-License-Identifier: MIT */
/* Which vCPUs are slowed, and by how much: see throttle.h. */
#include "migrate/throttle.h"

#include <glib.h>

#include "base/clock.h"

#define FULL 1000u /* permille */

void throttle_init(struct throttle *throttle, uint32_t n_vcpus)
{
    *throttle = (struct throttle){.n_vcpus = n_vcpus};
    throttle->vcpus = g_new0(struct throttle_vcpu, n_vcpus);
}

void throttle_clear(struct throttle *throttle)
{
    g_clear_pointer(&throttle->vcpus, g_free);
    throttle->n_vcpus = 0;
}

/* n * numerator / denominator, saturated. */
static uint64_t scaled(uint64_t n, uint64_t numerator, uint64_t denominator)
{
    __uint128_t result = (__uint128_t)n * numerator / denominator;

    return result > UINT64_MAX ? UINT64_MAX : (uint64_t)result;
}

/* The rate at which a round leaves `permille` of what it sent, and the shortest one no more than
 * that of what may be left. */
static uint64_t rate_at(const struct throttle_facts *facts, uint32_t permille)
{
    uint64_t rate = scaled(facts->link_bytes_per_s, permille, FULL);

    if (facts->allowance_bytes == 0)
        return 0;
    if (facts->round_floor_ns)
        rate = MIN(rate, scaled(scaled(facts->allowance_bytes, permille, FULL), NS_PER_S,
                                facts->round_floor_ns));
    return rate;
}

uint64_t throttle_target(const struct throttle_facts *facts)
{
    return rate_at(facts, THROTTLE_ROUND_SHARE);
}

void throttle_release(struct throttle *throttle)
{
    throttle->is_engaged = false;
    for (uint32_t i = 0; i < throttle->n_vcpus; i++)
        throttle->vcpus[i].permille = 0;
}

uint32_t throttle_most_permille(const struct throttle *throttle)
{
    uint32_t most = 0;

    for (uint32_t i = 0; i < throttle->n_vcpus; i++)
        most = MAX(most, throttle->vcpus[i].permille);
    return most;
}

uint32_t throttle_n_slowed(const struct throttle *throttle)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < throttle->n_vcpus; i++)
        n += throttle->vcpus[i].permille > 0;
    return n;
}

/* ---- the level ------------------------------------------------------------------------------- */

/* What is left of a vCPU at this level. */
static uint64_t left_of(const struct throttle_vcpu *vcpu, uint64_t level, uint32_t max_permille)
{
    uint64_t least = scaled(vcpu->free_bytes_per_s, FULL - max_permille, FULL);

    return CLAMP(level, least, vcpu->free_bytes_per_s);
}

static __uint128_t left_of_all(const struct throttle *throttle, uint64_t level,
                               uint32_t max_permille)
{
    __uint128_t sum = 0;

    for (uint32_t i = 0; i < throttle->n_vcpus; i++)
        sum += left_of(&throttle->vcpus[i], level, max_permille);
    return sum;
}

/* The highest level from `least` on at which all together keep to `rate`; `least` if there is none.
 */
static uint64_t find_level(const struct throttle *throttle, uint64_t rate, uint64_t least,
                           uint32_t max_permille)
{
    uint64_t low = least, high = least;

    for (uint32_t i = 0; i < throttle->n_vcpus; i++)
        high = MAX(high, throttle->vcpus[i].free_bytes_per_s);
    if (left_of_all(throttle, high, max_permille) <= rate)
        return high;
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;

        if (left_of_all(throttle, middle, max_permille) <= rate)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ---- one round ------------------------------------------------------------------------------- */

/* Fills in what the vCPUs would dirty; returns how much of the guest's rate is not theirs. */
static uint64_t measure(struct throttle *throttle, const struct throttle_facts *facts)
{
    __uint128_t sum = 0;

    for (uint32_t i = 0; i < throttle->n_vcpus; i++) {
        struct throttle_vcpu *vcpu = &throttle->vcpus[i];

        if (!facts->has_vcpu_rates)
            vcpu->dirty_bytes_per_s = facts->dirty_bytes_per_s / throttle->n_vcpus;
        vcpu->free_bytes_per_s = scaled(vcpu->dirty_bytes_per_s, FULL, FULL - vcpu->permille);
        sum += vcpu->dirty_bytes_per_s;
    }
    return facts->dirty_bytes_per_s > sum ? facts->dirty_bytes_per_s - (uint64_t)sum : 0;
}

static void slow(struct throttle_vcpu *vcpu, uint64_t level, uint32_t max_permille)
{
    uint32_t share = FULL - vcpu->permille, wanted = FULL, most = share * THROTTLE_GIVE_BACK;

    if (vcpu->free_bytes_per_s > level) {
        wanted = (uint32_t)scaled(level, FULL, vcpu->free_bytes_per_s);
        most = share * THROTTLE_CREEP;
    }
    wanted = MIN(wanted, (most + FULL - 1) / FULL);
    vcpu->permille = MIN(FULL - MIN(wanted, FULL), max_permille);
}

void throttle_update(struct throttle *throttle, const struct throttle_facts *facts)
{
    uint32_t max_permille = MIN(facts->max_permille, FULL - 1);
    uint64_t target = throttle_target(facts), others, level;

    if (throttle->n_vcpus == 0)
        return;
    others = measure(throttle, facts);
    if (max_permille == 0 || target == 0) {
        throttle_release(throttle);
        return;
    }
    if (!throttle->is_engaged && facts->dirty_bytes_per_s < rate_at(facts, THROTTLE_ENGAGE_SHARE))
        return;
    /* What devices dirty is left to them; what looks like it may be vCPUs', too, whose counters
     * were read a moment after the log. */
    level = find_level(throttle, target - MIN(others, target), target / throttle->n_vcpus,
                       max_permille);
    for (uint32_t i = 0; i < throttle->n_vcpus; i++)
        slow(&throttle->vcpus[i], level, max_permille);
    throttle->is_engaged = throttle_n_slowed(throttle) > 0;
}
