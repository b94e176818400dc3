/* SPDX-License-Identifier: MIT */
/*
 * I/O loop pollers: for libraries that bring their own set of descriptors and timeouts (libslirp).
 *
 * A poller adds its descriptors to the loop's poll set before every sleep and sees the outcome
 * after it. Both hooks run on the loop's thread with dev->lock held, in every turn of the loop.
 */
#ifndef GODWIT_DEVICE_IO_POLLER_H
#define GODWIT_DEVICE_IO_POLLER_H

#include <poll.h>

#include "device/device.h"

struct io_poller_ops {
    /* Appends struct pollfd items to poll_set; may lower *deadline_ns (CLOCK_MONOTONIC). */
    void (*fill)(struct device *dev, void *opaque, GArray *poll_set, uint64_t *deadline_ns);
    /* The n items of this turn's fill, revents filled in (n is 0 when there was no fill yet). */
    void (*dispatch)(struct device *dev, void *opaque, const struct pollfd *fds, unsigned n);
};

struct io_poller;
struct io_poller *io_poller_new(struct io_loop *loop, struct device *dev, const char *name,
                                const struct io_poller_ops *ops, void *opaque);
/* Makes the loop go round once soon, so that fill is asked again. Any thread. */
void io_poller_kick(struct io_poller *poller);
/* As io_source_free. */
void io_poller_free(struct io_poller *poller);

#endif
