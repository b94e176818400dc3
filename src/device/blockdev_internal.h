/* SPDX-License-Identifier: MIT */
/*
 * Between the parts of the block back end: blockdev.c (interface, checks), blockdev_file.c (the
 * file and complete, synchronous execution), blockdev_workers.c (threads that execute),
 * blockdev_fault.c (hangs and failures on purpose).
 */
#ifndef GODWIT_DEVICE_BLOCKDEV_INTERNAL_H
#define GODWIT_DEVICE_BLOCKDEV_INTERNAL_H

#include "device/blockdev.h"

/* ---- the file; constant after open, used from any thread ---- */

struct blockdev_file {
    int fd;
    struct blockdev_info info;
    uint32_t align_bytes; /* of offsets, lengths and addresses; 1 with the page cache */
};

bool blockdev_file_open(struct blockdev_file *file, const char *path, bool is_read_only,
                        bool is_direct, GError **error);
void blockdev_file_close(struct blockdev_file *file);
/* May the request's memory be handed to the kernel as it is? */
bool blockdev_file_is_aligned(const struct blockdev_file *file,
                              const struct blockdev_request *request);
/* Does all of the request, with every fallback; blocks. 0 or -errno. */
int blockdev_file_execute(const struct blockdev_file *file, const struct blockdev_request *request);

/* ---- workers ---- */

struct blockdev_workers;
/* done is called on a worker's thread, without locks. */
struct blockdev_workers *
blockdev_workers_new(const struct blockdev_file *file,
                     void (*done)(void *opaque, struct blockdev_request *request, int result),
                     void *opaque);
void blockdev_workers_free(struct blockdev_workers *workers); /* nothing may be queued */
void blockdev_workers_queue(struct blockdev_workers *workers, struct blockdev_request *request);

/* ---- faults ---- */

struct blockdev_fault;
enum blockdev_fault_verdict {
    BLOCKDEV_FAULT_PASS = 1,
    BLOCKDEV_FAULT_HELD, /* pass() comes later, on the loop's thread with the client's lock held */
    BLOCKDEV_FAULT_FAIL, /* answer it with -EIO */
};
/* spec: see blockdev_fault.c. */
struct blockdev_fault *
blockdev_fault_new(const char *spec, void (*pass)(void *opaque, struct blockdev_request *request),
                   void *opaque, GError **error);
void blockdev_fault_free(struct blockdev_fault *fault);
void blockdev_fault_set_client(struct blockdev_fault *fault, struct io_loop *loop,
                               struct device *dev);
/* With the client's lock held, for each valid request in order. */
enum blockdev_fault_verdict blockdev_fault_take(struct blockdev_fault *fault,
                                                struct blockdev_request *request);

#endif
