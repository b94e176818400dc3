/* SPDX-License-Identifier: MIT */
/*
 * Inside virtio-net: the device, shared by its data path (net.c) and its control queue and receive
 * filter (net_control.c).
 */
#ifndef GODWIT_DEVICE_VIRTIO_NET_H
#define GODWIT_DEVICE_VIRTIO_NET_H

#include <linux/virtio_net.h>

#include "device/virtio/virtio.h"

#define NET_HEADER_BYTES  12u /* struct virtio_net_hdr_v1 */
#define NET_FRAME_MIN     14u
#define NET_FRAME_MAX     (65535u + 18u) /* largest IP packet, Ethernet and VLAN headers */
#define NET_MAC_TABLE_MAX 64u

enum net_queue {
    NET_RX = 0,
    NET_TX,
    NET_CONTROL,
};

/* A set of addresses the guest wants; too_many: it asked for more than fit, all are accepted. */
struct net_macs {
    uint8_t n;
    bool has_too_many;
    uint8_t macs[NET_MAC_TABLE_MAX * ETH_ALEN];
};

struct net_filter {
    uint8_t mac[ETH_ALEN];
    bool is_promiscuous;
    bool all_multicast;
    bool all_unicast;
    bool no_multicast;
    bool no_unicast;
    bool no_broadcast;
    struct net_macs unicast;
    struct net_macs multicast;
    uint64_t vlans[4096 / 64];
};

#define NET_HOLD_NS (UINT64_C(10) * NS_PER_MS)

struct net {
    struct virtio_device virtio;
    /* fixed after construction */
    struct netdev *back;
    struct io_bell *announce_bell;
    struct io_timer *retry_timer; /* asks a back end again that failed to receive */
    struct io_timer *hold_timer;  /* ends is_holding */
    uint8_t permanent_mac[ETH_ALEN];
    uint64_t hold_limit_ns; /* how long is_holding may last */
    /* guarded by the device lock; saved */
    struct net_filter filter;
    uint64_t guest_offloads;  /* VIRTIO_NET_F_GUEST_* now in force */
    bool is_announce_pending; /* the driver was asked and has not answered */
    /* A frame that came and did not fit in what the driver had made available, with its header. */
    uint32_t held_bytes;
    uint8_t held[NET_HEADER_BYTES + NET_FRAME_MAX];
    /* guarded by the device lock; not saved */
    bool is_rx_starved; /* no buffers: frames stay in the back end */
    bool is_tx_blocked; /* the back end is full */
    bool is_announcing; /* asked to, not yet done */
    /* Frames of a move, see net_move.c: GBytes with network header, before those of the back end.
     */
    GQueue waiting;
    uint32_t waiting_bytes;
    bool is_holding;       /* the back end waits: frames of the other host come first */
    bool is_forwarding;    /* the guest is gone: frames go to `forward` */
    bool wants_first_sent; /* by the guest, since it arrived */
    struct device_forward forward;
    uint8_t passing[NET_HEADER_BYTES + NET_FRAME_MAX];
    uint64_t n_dropped; /* frames that could not be passed on, both directions */
};

/* Bits of VIRTIO_NET_F_GUEST_* that CTRL_GUEST_OFFLOADS governs. */
#define NET_GUEST_OFFLOADS                                                                         \
    (VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO4) |           \
     VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO6) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_ECN))

/* To what holds after a device reset. */
void net_filter_reset(struct net *net);
/* Does the guest want this frame (without header)? */
bool net_filter_accepts(const struct net *net, const uint8_t *frame, size_t len);
void net_handle_control(struct virtio_device *vdev, struct virtqueue *queue);
/* Tells the back end what the guest accepts now. */
void net_apply_offloads(struct net *net);

/* net_move.c */
/* The next frame that waits becomes the held one; false: there is none. */
bool net_take_waiting(struct net *net);
void net_drop_waiting(struct net *net);
/* Hands on what the back end has; only when is_forwarding. */
void net_forward_frames(struct net *net);
void net_hold_is_over(struct device *dev, void *opaque);
void net_send_rarp(struct net *net);
/* Of struct device_ops. */
void net_wait_ready(struct device *dev, uint64_t deadline_ns);
bool net_forward(struct device *dev, const struct device_forward *to);
bool net_arrive(struct device *dev, bool is_running, bool expects_frames);
void net_take_frame(struct device *dev, const void *frame, uint32_t n_bytes, bool is_last);

extern const struct gw_state_desc net_filter_state;

#endif
