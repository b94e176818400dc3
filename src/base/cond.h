/* SPDX-License-Identifier: MIT */
/* Waiting whose deadlines are CLOCK_MONOTONIC, as all deadlines of this tree. */
#ifndef BASE_COND_H
#define BASE_COND_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

void cond_init_mono(pthread_cond_t *cond);
/* Waits once, with lock held. deadline_ns: CLOCK_MONOTONIC; UINT64_MAX: none. False when it has
 * passed. Like every condition it may wake for nothing. */
bool cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns);
/* False when the deadline has passed without the lock. */
bool mutex_lock_until(pthread_mutex_t *lock, uint64_t deadline_ns);

#endif
