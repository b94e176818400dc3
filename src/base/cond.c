/* SPDX-License-Identifier: MIT */
/* Waiting whose deadlines are CLOCK_MONOTONIC. */
#include "base/cond.h"

#include <errno.h>

#include "base/clock.h"

/* ThreadSanitizer does not know pthread_mutex_clocklock. */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define note_try(lock) __tsan_mutex_pre_lock(lock, __tsan_mutex_try_lock)
#define note_tried(lock, is_locked)                                                                \
    __tsan_mutex_post_lock(                                                                        \
        lock, __tsan_mutex_try_lock | ((is_locked) ? 0 : __tsan_mutex_try_lock_failed), 0)
#else
#define note_try(lock)
#define note_tried(lock, is_locked)
#endif

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

bool mutex_lock_until(pthread_mutex_t *lock, uint64_t deadline_ns)
{
    struct timespec ts = clock_timespec(deadline_ns);
    bool is_locked;

    note_try(lock);
    is_locked = pthread_mutex_clocklock(lock, CLOCK_MONOTONIC, &ts) == 0;
    note_tried(lock, is_locked);
    return is_locked;
}
