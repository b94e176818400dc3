/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into a process (LD_PRELOAD), moves its wall clock by $CLOCK_SHIFT_S seconds;
 * CLOCK_MONOTONIC stays. So a test can restore a snapshot half a year later.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *ts)
{
    int (*real)(clockid_t, struct timespec *) =
        (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *shift = getenv("CLOCK_SHIFT_S");
    int rc = real(id, ts);

    if (rc == 0 && id == CLOCK_REALTIME && shift)
        ts->tv_sec += atol(shift);
    return rc;
}
