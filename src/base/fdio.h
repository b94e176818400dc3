/* SPDX-License-Identifier: MIT */
/* Whole reads and writes on descriptors, retried over EINTR and short counts. */
#ifndef BASE_FDIO_H
#define BASE_FDIO_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* For blocking descriptors. On failure errno says why. */

/* Reads exactly len bytes. Returns the number read: len, less at the end of the file, or -1. */
ssize_t fd_read_full(int fd, void *to, size_t len);
ssize_t fd_pread_full(int fd, void *to, size_t len, uint64_t offset);
/* Writes all len bytes; false with errno set. */
bool fd_write_full(int fd, const void *from, size_t len);
bool fd_pwrite_full(int fd, const void *from, size_t len, uint64_t offset);

/* Sets or clears O_NONBLOCK; false with errno set. */
bool fd_set_nonblocking(int fd, bool is_nonblocking);
bool fd_set_cloexec(int fd, bool is_cloexec);

/* An eventfd-like wake: adds 1 to an eventfd / takes its whole count (0 when there is none;
 * nonblocking descriptors only). */
void fd_event_signal(int fd);
uint64_t fd_event_take(int fd);

#endif
