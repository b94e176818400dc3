/* SPDX-License-Identifier: MIT */
/* A timer that interrupts its own thread: see turn_timer.h. */
#include "cpu/turn_timer.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define TURN_SIGNAL (SIGRTMIN + 2)

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static void on_signal(int number, siginfo_t *info, void *context)
{
    struct turn_timer *timer = info->si_value.sival_ptr;

    /* Others may send signals; ours come from the timer. */
    if (info->si_code == SI_TIMER && timer)
        timer->fire(timer->opaque);
}

bool turn_timer_make(struct turn_timer *timer, void (*fire)(void *opaque), void *opaque)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID,
                             .sigev_signo = TURN_SIGNAL,
                             .sigev_value.sival_ptr = timer};

    if (timer->is_made)
        return true;
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    timer->fire = fire;
    timer->opaque = opaque;
    timer->is_made = sigaction(TURN_SIGNAL, &action, NULL) == 0 &&
                     timer_create(CLOCK_MONOTONIC, &event, &timer->id) == 0;
    return timer->is_made;
}

void turn_timer_set(struct turn_timer *timer, uint64_t at_ns)
{
    bool is_armed = at_ns != UINT64_MAX;
    struct itimerspec at = {.it_value = is_armed ? clock_timespec(at_ns) : (struct timespec){0}};

    if (!timer->is_made || (!is_armed && !timer->is_armed))
        return;
    timer->is_armed = is_armed;
    timer_settime(timer->id, TIMER_ABSTIME, &at, NULL);
}

void turn_timer_clear(struct turn_timer *timer)
{
    if (timer->is_made)
        timer_delete(timer->id);
    timer->is_made = timer->is_armed = false;
}
