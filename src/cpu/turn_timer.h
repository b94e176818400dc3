/* SPDX-License-Identifier: MIT */
/*
 * A timer that interrupts a vCPU's own thread when its turn is over (cpu/throttle.h).
 *
 * Model: a kernel timer whose signal goes to that thread alone. It fires where the thread executes,
 * to the microsecond, also when every processor of the host has more to do than it can: a thread
 * that had to be woken to tell the vCPU would come milliseconds late then.
 *
 * Threads: everything is the vCPU's thread; `fire` is called in its signal handler, and may only
 * write atomic words.
 */
#ifndef GODWIT_CPU_TURN_TIMER_H
#define GODWIT_CPU_TURN_TIMER_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct turn_timer {
    void (*fire)(void *opaque);
    void *opaque;
    timer_t id;
    bool is_made, is_armed;
};

/* On the thread that is to be interrupted. False: the kernel gives no timer. Idempotent. */
bool turn_timer_make(struct turn_timer *timer, void (*fire)(void *opaque), void *opaque);
/* CLOCK_MONOTONIC ns; UINT64_MAX: never. Without a timer it does nothing. */
void turn_timer_set(struct turn_timer *timer, uint64_t at_ns);
/* Before the thread ends. */
void turn_timer_clear(struct turn_timer *timer);

#endif
