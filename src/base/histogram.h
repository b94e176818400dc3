/* SPDX-License-Identifier: MIT */
/*
 * Log2-linear histogram of 64-bit values, with the worst cases kept whole.
 *
 * Model: 16 buckets for each power of two, so that a quantile is at most 1/16 too large; values
 * below 16 are exact. The whole range of uint64_t is covered.
 *
 * Threads: any number may record at once (one relaxed atomic add; a lock only for a value that is
 * among the worst so far) while others take snapshots. A snapshot is not a single instant.
 */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include <pthread.h>
#include <stdint.h>

#define HISTOGRAM_SUB_BITS 4
#define HISTOGRAM_SUB      (1u << HISTOGRAM_SUB_BITS)
#define HISTOGRAM_BUCKETS  ((64 - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB)
#define HISTOGRAM_N_WORST  4

struct histogram_worst {
    uint64_t value;
    uint64_t at_real_ns; /* wall clock when it was recorded */
    uint64_t detail;     /* what the recorder says about it, e.g. an address or an exit reason */
};

struct histogram {
    /* Atomic, relaxed. */
    uint64_t counts[HISTOGRAM_BUCKETS];
    uint64_t sum;
    uint64_t floor; /* smallest value among a full worst[]; smaller ones need no lock */
    /* Guarded by lock: largest first, unused ones have value 0. */
    struct histogram_worst worst[HISTOGRAM_N_WORST];
    pthread_mutex_t lock;
};

/* Plain copy, made by histogram_snapshot. */
struct histogram_snapshot {
    uint64_t count;
    uint64_t sum;
    uint64_t p50, p90, p99, p999; /* upper ends of buckets, never above max */
    uint64_t max;
    struct histogram_worst worst[HISTOGRAM_N_WORST];
};

void histogram_init(struct histogram *histogram);
void histogram_clear(struct histogram *histogram);
/* Forgets everything; records made meanwhile may be lost. */
void histogram_reset(struct histogram *histogram);
void histogram_record(struct histogram *histogram, uint64_t value, uint64_t detail);
void histogram_snapshot(struct histogram *histogram, struct histogram_snapshot *snapshot);

/* Bucket of a value, and the largest value of a bucket. */
unsigned histogram_bucket(uint64_t value);
uint64_t histogram_bucket_max(unsigned bucket);

#endif
