/* SPDX-License-Identifier: MIT */
/*
 * Block back end: what a disk device (virtio-blk) reads from and writes to.
 *
 * Model: a flat array of bytes, a multiple of 512 long, kept in a raw file or block device and
 * driven by io_uring. Requests complete in any order; one that was submitted always completes.
 *
 * Threads: submit and kick are called on any thread with the client's device lock held, which
 * guards the submission side. done() runs on the loop's thread with the client's device lock held,
 * never from inside submit or kick. Nothing here blocks.
 */
#ifndef GODWIT_DEVICE_BLOCKDEV_H
#define GODWIT_DEVICE_BLOCKDEV_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "device/device.h"

struct blockdev;

enum blockdev_op {
    BLOCKDEV_READ = 1,
    BLOCKDEV_WRITE,
    BLOCKDEV_FLUSH,              /* completed writes become durable; offset, length unused */
    BLOCKDEV_DISCARD,            /* content becomes undefined (a hole where the file has holes) */
    BLOCKDEV_WRITE_ZEROES,       /* keeps the space allocated */
    BLOCKDEV_WRITE_ZEROES_UNMAP, /* may deallocate */
};

/* Owned by the client, who keeps it and its iovecs alive until done() is called. */
struct blockdev_request {
    enum blockdev_op op;
    uint64_t offset_bytes;
    uint64_t len_bytes;
    const struct iovec *iov; /* READ and WRITE: the lengths add up to len_bytes */
    unsigned n_iov;
    /* result: 0 when all of len_bytes was done, else -errno. */
    void (*done)(struct blockdev_request *request, int result);
    /* The back end's own while submitted. */
    struct blockdev_request *next;
    int result;
};

struct blockdev_info {
    uint64_t size_bytes;           /* multiple of 512 */
    uint32_t block_bytes;          /* logical block size, 512 or more */
    uint32_t physical_block_bytes; /* preferred granularity, at least block_bytes */
    bool is_read_only;
    bool can_discard; /* DISCARD and WRITE_ZEROES_UNMAP make holes */
};

/* spec: PATH[,cache=writeback|none][,engine=auto|uring|threads][,readonly][,fault=SPEC]. cache=none
 * goes around the host's page cache. fault: hangs and failures on purpose (blockdev_fault.c).
 * engine=auto takes io_uring where the host allows it, else threads. The file is not locked: in a
 * move both processes have it open, and the handover says who writes. */
struct blockdev *blockdev_open(const char *spec, bool is_read_only, struct io_loop *loop,
                               GError **error);
/* Not with the client's lock held; no request may be in flight. */
void blockdev_free(struct blockdev *disk);
void blockdev_get_info(const struct blockdev *disk, struct blockdev_info *info);
/* Whose lock is held around done(). Once, before the first submit. */
void blockdev_set_client(struct blockdev *disk, struct device *dev);
/* Takes the request; a range outside the disk completes with -EIO, a write to a read-only disk
 * with -EROFS. Requests are handed to the kernel at the latest by blockdev_kick. */
void blockdev_submit(struct blockdev *disk, struct blockdev_request *request);
void blockdev_kick(struct blockdev *disk);

#endif
