/* SPDX-License-Identifier: MIT */
/* Scope-bound ownership: descriptors, locks, and any handle with a free function. */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

/* gw_autofd int fd = open(...); closed at the end of the scope unless stolen. errno survives. */
static inline void gw_autofd_close_(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        close(*fd);
        errno = saved;
    }
}
#define gw_autofd __attribute__((cleanup(gw_autofd_close_)))

static inline int gw_steal_fd(int *fd)
{
    int stolen = *fd;

    *fd = -1;
    return stolen;
}

/* Closes and forgets; does nothing for a negative descriptor. */
static inline void gw_clear_fd(int *fd)
{
    gw_autofd_close_(fd);
    *fd = -1;
}

static inline void gw_lock_guard_leave_(pthread_mutex_t **mutex)
{
    pthread_mutex_unlock(*mutex);
}

static inline pthread_mutex_t *gw_lock_guard_enter_(pthread_mutex_t *mutex)
{
    pthread_mutex_lock(mutex);
    return mutex;
}

#define GW_PASTE2_(a, b) a##b
#define GW_PASTE_(a, b)  GW_PASTE2_(a, b)
/* Holds the mutex until the end of the enclosing scope. */
#define gw_lock_guard(mutex)                                                                       \
    pthread_mutex_t *GW_PASTE_(gw_guard_, __LINE__)                                                \
        __attribute__((cleanup(gw_lock_guard_leave_), unused)) = gw_lock_guard_enter_(mutex)

/* Defines gw_auto_NAME for handles of type struct NAME freed by free_fn:
 *     GW_DEFINE_AUTO(gw_memory, gw_memory_free)
 *     gw_auto(gw_memory) struct gw_memory *memory = gw_memory_new(); */
#define GW_DEFINE_AUTO(name, free_fn)                                                              \
    static inline void gw_auto_free_##name##_(struct name **handle)                                \
    {                                                                                              \
        if (*handle) {                                                                             \
            free_fn(*handle);                                                                      \
        }                                                                                          \
    }
#define gw_auto(name) __attribute__((cleanup(gw_auto_free_##name##_)))

#endif
