/* SPDX-License-Identifier: MIT */
/* Conditions whose deadlines are CLOCK_MONOTONIC. */
#include "base/cond.h"

#include <errno.h>

#include "base/clock.h"

void cond_init_mono(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns)
{
    struct timespec ts = clock_timespec(deadline_ns);

    if (deadline_ns == UINT64_MAX) {
        pthread_cond_wait(cond, lock);
        return true;
    }
    return pthread_cond_timedwait(cond, lock, &ts) != ETIMEDOUT;
}
