/* SPDX-License-Identifier: MIT */
/*
 * Throttling as the source does it: measures who dirties, asks the controller, tells the machine.
 *
 * Each round is measured once: over its first moments where it is long, else over all of it. What
 * follows those moments is not looked at, because in a long time every page of a small set has
 * been written and the rate looks lower than it is. Rounds too short to say anything are measured
 * together.
 *
 * Invariant: whoever is throttled is so by us and while rounds go on; when the guest stands still
 * for the switchover, and however the migration ends, nobody is. When a switchover is put off, they
 * go on as slowly as before: otherwise the next one would be as far away as the first.
 */
#include "migrate/source.h"

#include <string.h>

void source_throttle_init(struct gw_source *source)
{
    struct source_throttle *throttle = &source->throttle;
    const struct gw_vm *vm = &source->vm;
    uint32_t n = vm->vcpu_counters && vm->set_throttle && !source->is_snapshot ? vm->n_vcpus : 0;

    throttle_init(&throttle->control, n);
    throttle->before = g_new0(struct gw_vcpu_counters, n);
    throttle->at_start = g_new0(struct gw_vcpu_counters, n);
    throttle->published = g_new0(struct gw_vcpu_status, n);
}

void source_throttle_clear(struct gw_source *source)
{
    throttle_clear(&source->throttle.control);
    g_free(source->throttle.before);
    g_free(source->throttle.at_start);
    g_free(source->throttle.published);
}

static uint32_t budget_permille(struct gw_source *source)
{
    uint32_t permille;

    pthread_mutex_lock(&source->lock);
    permille = source->status.max_slowdown_permille;
    pthread_mutex_unlock(&source->lock);
    return permille;
}

/* Reads the vCPUs' counters; their rates over the interval since the last time (0: they stay as
 * they are) go to the controller. False: it is not known who dirties. */
static bool read_counters(struct gw_source *source, uint64_t interval_ns)
{
    struct source_throttle *throttle = &source->throttle;
    bool is_known = true;

    for (uint32_t i = 0; i < throttle->control.n_vcpus; i++) {
        struct gw_vcpu_counters now = {0}, *before = &throttle->before[i];
        uint64_t n_pages;

        source->vm.vcpu_counters(source->vm.opaque, i, &now);
        n_pages = now.dirtied_pages - MIN(before->dirtied_pages, now.dirtied_pages);
        if (interval_ns)
            throttle->control.vcpus[i].dirty_bytes_per_s =
                (uint64_t)((__uint128_t)n_pages * GW_PAGE_SIZE * NS_PER_S / interval_ns);
        is_known = is_known && now.is_dirtied_known;
        *before = now;
    }
    return is_known;
}

static void publish(struct gw_source *source)
{
    struct source_throttle *throttle = &source->throttle;
    uint64_t throttled_ns = 0;

    pthread_mutex_lock(&source->lock);
    for (uint32_t i = 0; i < throttle->control.n_vcpus; i++) {
        const struct throttle_vcpu *vcpu = &throttle->control.vcpus[i];
        struct gw_vcpu_status *to = &throttle->published[i];

        to->dirty_bytes_per_s = vcpu->dirty_bytes_per_s;
        to->throttle_permille = throttle->is_off ? 0 : vcpu->permille;
        to->most_permille = MAX(to->most_permille, vcpu->permille);
        to->throttled_ns = throttle->before[i].throttled_ns - throttle->at_start[i].throttled_ns;
        throttled_ns += to->throttled_ns;
    }
    source->status.n_vcpus = throttle->control.n_vcpus;
    source->status.n_vcpus_throttled = throttle->is_off ? 0 : throttle_n_slowed(&throttle->control);
    source->status.throttle_permille =
        throttle->is_off ? 0 : throttle_most_permille(&throttle->control);
    source->status.throttled_rounds = throttle->n_rounds;
    source->status.throttled_ns = throttled_ns;
    pthread_mutex_unlock(&source->lock);
}

static void apply(struct gw_source *source, bool is_off)
{
    struct source_throttle *throttle = &source->throttle;

    throttle->is_off = is_off;
    for (uint32_t i = 0; i < throttle->control.n_vcpus; i++)
        source->vm.set_throttle(source->vm.opaque, i,
                                is_off ? 0 : throttle->control.vcpus[i].permille);
}

void source_throttle_begin(struct gw_source *source)
{
    struct source_throttle *throttle = &source->throttle;

    if (throttle->control.n_vcpus == 0)
        return;
    read_counters(source, 0);
    if (!throttle->has_begun)
        memcpy(throttle->at_start, throttle->before,
               throttle->control.n_vcpus * sizeof *throttle->at_start);
    throttle->has_begun = true;
    throttle->from_ns = clock_mono_ns();
    throttle->n_bytes = 0;
}

void source_throttle_measure(struct gw_source *source, uint64_t n_bytes)
{
    struct source_throttle *throttle = &source->throttle;
    const struct predict *predict = &source->predict;
    uint64_t interval_ns = clock_mono_ns() - throttle->from_ns;
    uint64_t max_blackout_ns;
    struct throttle_facts facts;

    throttle->n_bytes += n_bytes;
    if (!throttle->has_begun || interval_ns < SOURCE_THROTTLE_NS)
        return;
    source_stop_budgets(source, &max_blackout_ns, NULL);
    facts = (struct throttle_facts){
        .link_bytes_per_s = predict->bytes_per_s,
        .allowance_bytes = predict_allowance_bytes(predict, max_blackout_ns),
        .round_floor_ns = predict->round_trip_ns,
        .dirty_bytes_per_s = (uint64_t)((__uint128_t)throttle->n_bytes * NS_PER_S / interval_ns),
        .max_permille = budget_permille(source),
        .has_vcpu_rates = read_counters(source, interval_ns),
    };
    throttle_update(&throttle->control, &facts);
    throttle->n_rounds += throttle->control.is_engaged;
    apply(source, false);
    publish(source);
    throttle->from_ns = clock_mono_ns();
    throttle->n_bytes = 0;
}

void source_throttle_off(struct gw_source *source)
{
    if (!source->throttle.has_begun)
        return;
    /* Once: by the second time the machine may be the next migration's. */
    if (source->throttle.control.is_engaged && !source->throttle.is_off)
        apply(source, true);
    read_counters(source, 0);
    publish(source);
}

void source_throttle_again(struct gw_source *source)
{
    if (!source->throttle.has_begun)
        return;
    if (source->throttle.control.is_engaged)
        apply(source, false);
    source_throttle_begin(source);
    publish(source);
}

uint32_t gw_source_get_vcpus(struct gw_source *source, struct gw_vcpu_status *vcpus, uint32_t n)
{
    uint32_t n_all;

    pthread_mutex_lock(&source->lock);
    n_all = source->throttle.control.n_vcpus;
    for (uint32_t i = 0; i < MIN(n, n_all); i++)
        vcpus[i] = source->throttle.published[i];
    pthread_mutex_unlock(&source->lock);
    return n_all;
}
