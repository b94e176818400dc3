/* SPDX-License-Identifier: MIT */
/* Log2-linear histogram: buckets, worst cases, quantiles. */
#include "base/histogram.h"

#include <string.h>

#include "base/clock.h"

unsigned histogram_bucket(uint64_t value)
{
    if (value < HISTOGRAM_SUB) {
        return (unsigned)value;
    }
    unsigned exponent = 63u - (unsigned)__builtin_clzll(value);
    unsigned sub = (unsigned)(value >> (exponent - HISTOGRAM_SUB_BITS)) & (HISTOGRAM_SUB - 1);

    return (exponent - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB + sub;
}

uint64_t histogram_bucket_max(unsigned bucket)
{
    if (bucket < HISTOGRAM_SUB) {
        return bucket;
    }
    unsigned shift = bucket / HISTOGRAM_SUB - 1;
    uint64_t first = (uint64_t)(HISTOGRAM_SUB + bucket % HISTOGRAM_SUB) << shift;

    return first + ((UINT64_C(1) << shift) - 1);
}

void histogram_init(struct histogram *histogram)
{
    memset(histogram, 0, sizeof(*histogram));
    pthread_mutex_init(&histogram->lock, NULL);
}

void histogram_clear(struct histogram *histogram)
{
    pthread_mutex_destroy(&histogram->lock);
}

void histogram_reset(struct histogram *histogram)
{
    pthread_mutex_lock(&histogram->lock);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        __atomic_store_n(&histogram->counts[i], 0, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&histogram->sum, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&histogram->floor, 0, __ATOMIC_RELAXED);
    memset(histogram->worst, 0, sizeof(histogram->worst));
    pthread_mutex_unlock(&histogram->lock);
}

static void record_worst(struct histogram *histogram, uint64_t value, uint64_t detail)
{
    struct histogram_worst *worst = histogram->worst;
    unsigned at = HISTOGRAM_N_WORST;

    pthread_mutex_lock(&histogram->lock);
    while (at > 0 && worst[at - 1].value < value) {
        at--;
    }
    if (at < HISTOGRAM_N_WORST) {
        memmove(&worst[at + 1], &worst[at], (HISTOGRAM_N_WORST - 1 - at) * sizeof(worst[0]));
        worst[at].value = value;
        worst[at].at_real_ns = clock_real_ns();
        worst[at].detail = detail;
        __atomic_store_n(&histogram->floor, worst[HISTOGRAM_N_WORST - 1].value, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&histogram->lock);
}

void histogram_record(struct histogram *histogram, uint64_t value, uint64_t detail)
{
    __atomic_fetch_add(&histogram->counts[histogram_bucket(value)], 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&histogram->sum, value, __ATOMIC_RELAXED);
    if (value > __atomic_load_n(&histogram->floor, __ATOMIC_RELAXED)) {
        record_worst(histogram, value, detail);
    }
}

/* Largest value of the bucket that holds the rank-th value, counting from 1. */
static uint64_t value_at(const uint64_t *counts, uint64_t rank)
{
    uint64_t seen = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += counts[i];
        if (seen >= rank) {
            return histogram_bucket_max(i);
        }
    }
    return 0;
}

static uint64_t quantile(const uint64_t *counts, uint64_t count, uint64_t per_mille, uint64_t max)
{
    if (count == 0) {
        return 0;
    }
    /* count * per_mille / 1000, rounded up, without overflow */
    uint64_t rank = count / 1000 * per_mille + (count % 1000 * per_mille + 999) / 1000;
    uint64_t value = value_at(counts, rank ? rank : 1);

    return value < max ? value : max;
}

void histogram_snapshot(struct histogram *histogram, struct histogram_snapshot *snapshot)
{
    uint64_t counts[HISTOGRAM_BUCKETS];

    memset(snapshot, 0, sizeof(*snapshot));
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        counts[i] = __atomic_load_n(&histogram->counts[i], __ATOMIC_RELAXED);
        snapshot->count += counts[i];
    }
    snapshot->sum = __atomic_load_n(&histogram->sum, __ATOMIC_RELAXED);
    pthread_mutex_lock(&histogram->lock);
    memcpy(snapshot->worst, histogram->worst, sizeof(snapshot->worst));
    pthread_mutex_unlock(&histogram->lock);
    snapshot->max = snapshot->worst[0].value;
    snapshot->p50 = quantile(counts, snapshot->count, 500, snapshot->max);
    snapshot->p90 = quantile(counts, snapshot->count, 900, snapshot->max);
    snapshot->p99 = quantile(counts, snapshot->count, 990, snapshot->max);
    snapshot->p999 = quantile(counts, snapshot->count, 999, snapshot->max);
}
