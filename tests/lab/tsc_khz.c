/* SPDX-License-Identifier: MIT */
/*
 * Prints the frequency of this host's time stamp counter in kHz. QEMU's TCG hands the counter on to
 * its guests; each would measure another frequency when the host is busy, and two laboratory hosts
 * must agree on it as two real ones of a kind do.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

#define SPAN_NS 300000000

/* Reads both clocks as closely together as any of a few tries came; returns ns. */
static int64_t read_both(uint64_t *ticks)
{
    uint64_t best = UINT64_MAX;
    int64_t best_ns = 0;

    for (int i = 0; i < 50; i++) {
        struct timespec ts;
        uint64_t before = __rdtsc();
        clock_gettime(CLOCK_MONOTONIC, &ts);
        uint64_t took = __rdtsc() - before;
        if (took < best) {
            best = took;
            *ticks = before + took / 2;
            best_ns = ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
        }
    }
    return best_ns;
}

int main(void)
{
    uint64_t from, to;
    int64_t start_ns = read_both(&from);

    nanosleep(&(struct timespec){.tv_nsec = SPAN_NS}, NULL);
    int64_t span_ns = read_both(&to) - start_ns;
    printf("%.0f\n", (double)(to - from) * 1e6 / (double)span_ns);
    return 0;
}
