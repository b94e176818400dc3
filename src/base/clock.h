/* SPDX-License-Identifier: MIT */
/*
 * Clocks in ns, and the alignment of another host's clock with ours.
 *
 * Model of the alignment: one exchange has four times: we send at t0 (our clock), the other side
 * receives at t1 and answers at t2 (its clock), we receive at t3 (ours). If both directions took
 * equally long, its clock is ahead of ours by ((t1 - t0) + (t2 - t3)) / 2; however they were
 * shared, the error is at most half of the time spent on the way.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S  UINT64_C(1000000000)

static inline uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Host time that never jumps; the base of every duration and deadline. */
static inline uint64_t clock_mono_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* Wall clock: ns since 1970, may jump. Only for what people read and what outlives the process. */
static inline uint64_t clock_real_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

/* CPU time of the calling thread. A system call. */
static inline uint64_t clock_thread_cpu_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static inline struct timespec clock_timespec(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};

    return ts;
}

/* The other side's clock minus ours. Starts zeroed: nothing known. */
struct clock_offset {
    int64_t offset_ns;
    uint64_t error_ns; /* the true offset is within offset_ns +- error_ns */
    bool is_known;
};

/* Takes one exchange into account: the one with the smallest error so far wins. Impossible
 * exchanges (an answer before its question) are ignored. PEER: t1 and t2 are any numbers. */
void clock_offset_sample(struct clock_offset *offset, uint64_t t0, uint64_t t1, uint64_t t2,
                         uint64_t t3);
/* The other side's time on our clock, saturated at 0; unchanged while nothing is known. */
uint64_t clock_offset_to_ours(const struct clock_offset *offset, uint64_t their_ns);

#endif
