/* SPDX-License-Identifier: MIT */
/*
 * Throttling of one vCPU: when it may run, and when it has to pause.
 *
 * Model: time is cut into turns of THROTTLE_TURN_NS. In each the vCPU may run for its share, then
 * it pauses for the rest. A turn begins when the vCPU runs again, so whatever the host does to its
 * thread, it runs in each of them. The clock of a turn goes on while the vCPU waits for an
 * interrupt: one that wakes up late in its turn pauses for what is left of it, one that has slept
 * through its pause does not pause at all, and time asleep is not counted as a pause.
 *
 * Threads: any thread sets the share; everything else is the vCPU's thread. Pure: no clock is read
 * here.
 * ORDER: relaxed. The share says nothing about other data; whoever sets it also wakes the vCPU's
 * thread, which orders the two.
 */
#ifndef GODWIT_CPU_THROTTLE_H
#define GODWIT_CPU_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#define THROTTLE_TURN_NS      UINT64_C(10000000)
#define THROTTLE_MAX_PERMILLE 990u
#define THROTTLE_NEVER        UINT64_MAX

struct cpu_throttle {
    uint32_t permille; /* atomic: of the time, in which it may not run; 0: not throttled */

    /* atomic: written by the vCPU's thread, read by anyone, relaxed */
    uint64_t paused_ns;
    uint64_t n_pauses;

    /* owned by the vCPU's thread */
    uint64_t open_until_ns; /* it may run until then; THROTTLE_NEVER: not throttled */
};

void cpu_throttle_init(struct cpu_throttle *throttle);
/* Any thread; larger shares are taken for the largest. True: it is another one than before. */
bool cpu_throttle_set(struct cpu_throttle *throttle, unsigned permille);
unsigned cpu_throttle_get(const struct cpu_throttle *throttle);

/* The vCPU is about to execute. 0: it may, until open_until_ns; else it pauses until the time
 * returned, and asks again. did_run: it comes out of the guest, so that its pause begins now
 * however late that is. */
uint64_t cpu_throttle_look(struct cpu_throttle *throttle, uint64_t now_ns, bool did_run);
/* Books a pause. */
void cpu_throttle_paused(struct cpu_throttle *throttle, uint64_t length_ns);

#endif
