/* SPDX-License-Identifier: MIT */
/*
 * Network back end: what a network device (virtio-net) sends frames to and receives them from. TAP
 * (tap.c) and user mode (slirp.c).
 *
 * Model: whole Ethernet frames. Receiving is a pull: a frame stays in the back end (and, for TAP,
 * in the kernel) until the client asks for it, so nothing is lost while the guest has no buffers
 * or is stopped for a move. Back ends without their own queue keep a bounded one.
 *
 * vnet header: when has_vnet_header, each frame is preceded by struct virtio_net_hdr_v1 (12
 * bytes, little-endian) in both directions; else frames are bare.
 *
 * Threads: everything is called on the loop's thread with the client's device lock held, unless
 * it says otherwise (is_free_threaded). Nothing blocks.
 */
#ifndef GODWIT_DEVICE_NETDEV_H
#define GODWIT_DEVICE_NETDEV_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "device/device.h"

/* Offloads a back end may be told of: what the guest accepts in received frames. */
#define NETDEV_RX_CSUM (1u << 0) /* frames without checksum (NEEDS_CSUM) */
#define NETDEV_RX_TSO4 (1u << 1)
#define NETDEV_RX_TSO6 (1u << 2)
#define NETDEV_RX_ECN  (1u << 3)

struct netdev;

struct netdev_client {
    struct device *dev;             /* its lock is held around the callbacks */
    void (*readable)(void *opaque); /* netdev_receive may have a frame */
    void (*writable)(void *opaque); /* netdev_send may succeed again */
    void *opaque;
};

struct netdev_ops {
    const char *kind; /* "tap", "user" */
    /* send and receive may be called on any thread: then frames can be forwarded when the guest has
     * moved, and it is announced without waiting for the loop. */
    bool is_free_threaded;
    /* One frame. Returns its length, -EAGAIN (nothing taken: writable() will be called if it was
     * asked for), or another -errno (the frame is lost). */
    ssize_t (*send)(struct netdev *net, const struct iovec *iov, unsigned n_iov);
    /* One frame into iov; returns its length (cut when it did not fit), -EAGAIN when there is
     * none, or another -errno. */
    ssize_t (*receive)(struct netdev *net, const struct iovec *iov, unsigned n_iov);
    void (*want_readable)(struct netdev *net, bool is_wanted);      /* any thread; initially off */
    void (*want_writable)(struct netdev *net, bool is_wanted);      /* any thread; initially off */
    void (*set_rx_offloads)(struct netdev *net, unsigned offloads); /* NETDEV_RX_*; may be NULL */
    /* The client's device starts or has stopped; any thread. While stopped a back end gives up what
     * another process on this host may need in order to go on with the guest (listening ports);
     * frames stay queued. May be NULL. */
    void (*set_running)(struct netdev *net, bool is_running);
    /* Waits until what is sent would go out, at most until deadline_ns (CLOCK_MONOTONIC). Any
     * thread, without the client's lock; before frames are sent. May be NULL. */
    void (*wait_ready)(struct netdev *net, uint64_t deadline_ns);
    /* The client is known: make sources. Any thread, without its lock. May be NULL. */
    void (*attach)(struct netdev *net);
    void (*free)(struct netdev *net); /* not with the client's lock held */
};

/* First member of a back end's struct. */
struct netdev {
    const struct netdev_ops *ops;
    struct netdev_client client;
    bool has_vnet_header;
};

/* Specifications:
 *     tap,ifname=NAME        an existing TAP interface, or a new one when allowed to make it
 *     tap,fd=NUMBER          a TAP descriptor that was inherited
 *     user[,hostfwd=tcp:[HOST]:PORT-[GUEST]:PORT]...[,restrict=on]
 *                            NAT by libslirp: 10.0.2.0/24, router and host 10.0.2.2, DNS 10.0.2.3,
 *                            first guest 10.0.2.15; also udp. Ports are listened on while the
 *                            device runs, so two processes on one host can hand a guest over
 *     none                   a cable that ends nowhere
 */
struct netdev *netdev_open(const char *spec, struct io_loop *loop, GError **error);
static inline void
netdev_free(struct netdev *net) /* not with the client's lock held; NULL is fine */
{
    if (net)
        net->ops->free(net);
}

/* Once, before anything else is called; not with the client's lock held. */
static inline void netdev_set_client(struct netdev *net, const struct netdev_client *client)
{
    net->client = *client;
    if (net->ops->attach)
        net->ops->attach(net);
}

/* From the client's start and stop, with its lock held. */
static inline void netdev_set_running(struct netdev *net, bool is_running)
{
    if (net->ops->set_running)
        net->ops->set_running(net, is_running);
}

#endif
