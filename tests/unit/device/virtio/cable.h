/* SPDX-License-Identifier: MIT */
/*
 * A network back end for tests: a socket pair in which every datagram is a frame. What the device
 * does not take stays in the socket.
 */
#ifndef GODWIT_TESTS_VIRTIO_CABLE_H
#define GODWIT_TESTS_VIRTIO_CABLE_H

#include "driver.h"

struct cable {
    struct netdev net;
    struct io_loop *loop;
    int fd;
    struct io_source *rx, *tx;
    /* guarded by the client's device lock */
    unsigned offloads;
    int failure; /* errno of the next receive and send; once */
    unsigned n_failed;
};

/* *peer receives the other end, blocking with a deadline; the caller closes it. */
struct cable *cable_new(struct rig *rig, bool has_vnet_header, int *peer);
/* A second back end on the same wire: the destination's end of a cable that moved. */
struct cable *cable_dup(struct rig *rig, const struct cable *cable);

#endif
