/* SPDX-License-Identifier: MIT */
/*
 * virtio-net: an Ethernet interface over a network back end.
 *
 * Model: VIRTIO 1.2, section 5.1. One receive and one transmit queue and the control queue
 * (net_control.c). Checksum and segmentation offloads are offered when the back end passes their
 * header (TAP): the header then goes through as it is and the host's kernel judges it.
 *
 * Receiving: frames stay in the back end while the driver has made no buffer available. One that
 * turns out larger than what there is (mergeable buffers, TSO) is held here and goes first when
 * buffers come; it moves with the saved state. So a move loses nothing.
 *
 * Transmitting: a frame that the back end does not take now stays in the ring.
 *
 * Frames that follow the guest to another host, and those of the other host: net_move.c.
 *
 * Announcing, after a move: a RARP frame from the device itself, and, if the driver offered itself
 * (GUEST_ANNOUNCE), a request to announce what only the guest knows (its IP addresses). The machine
 * repeats it, for switches that were still learning.
 */
#include "device/virtio/net.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include <linux/if_ether.h>

/* GUEST: bounds one turn of the I/O loop. */
#define FRAMES_PER_TURN 64u

#define RETRY_NS UINT64_C(100000000)

static struct net *to_net(struct virtio_device *vdev)
{
    return (struct net *)vdev;
}

static struct virtqueue *queue_of(struct net *net, enum net_queue which)
{
    return &net->virtio.queues[which];
}

/* ---- receiving ------------------------------------------------------------------------------- */

enum delivery {
    DELIVERED,
    DROPPED,
    NO_ROOM, /* nothing was taken */
    BROKEN,
};

/* The buffers one frame was put into. */
struct filled {
    unsigned n;
    uint16_t heads[VIRTQUEUE_MAX_SIZE];
    uint32_t bytes[VIRTQUEUE_MAX_SIZE];
};

static void put_back(struct virtqueue *queue, unsigned n)
{
    while (n--)
        virtqueue_untake(queue);
}

/* Copies the held frame into as many buffers as it needs. */
static enum delivery fill_buffers(struct net *net, struct virtqueue *queue, struct filled *filled)
{
    bool is_mergeable = virtio_has(&net->virtio, VIRTIO_NET_F_MRG_RXBUF);
    struct virtqueue_chain first, more, *chain = &first;
    uint32_t done = 0;
    uint16_t n_buffers;

    filled->n = 0;
    do {
        uint32_t here;

        if (filled->n == VIRTQUEUE_MAX_SIZE || !virtio_take(&net->virtio, queue, chain)) {
            put_back(queue, filled->n);
            if (virtio_is_broken(&net->virtio))
                return BROKEN;
            /* All the driver can ever offer is not enough. */
            return filled->n == queue->size ? DROPPED : NO_ROOM;
        }
        if (chain->in_bytes == 0 || (done == 0 && chain->in_bytes < NET_HEADER_BYTES)) {
            virtio_break(&net->virtio, "a receive buffer of %u bytes", chain->in_bytes);
            return BROKEN;
        }
        if (!is_mergeable && chain->in_bytes < net->held_bytes) {
            put_back(queue, 1);
            return DROPPED;
        }
        here = MIN(chain->in_bytes, net->held_bytes - done);
        virtqueue_chain_write(queue, chain, 0, net->held + done, here);
        filled->heads[filled->n] = chain->head;
        filled->bytes[filled->n] = here;
        filled->n++;
        done += here;
        chain = &more;
    } while (done < net->held_bytes);
    n_buffers = htole16((uint16_t)filled->n);
    virtqueue_chain_write(queue, &first, offsetof(struct virtio_net_hdr_v1, num_buffers),
                          &n_buffers, sizeof(n_buffers));
    return DELIVERED;
}

/* *n_short: buffers that were there and did not suffice (NO_ROOM). */
static enum delivery deliver(struct net *net, struct virtqueue *queue, unsigned *n_short)
{
    struct filled filled;
    enum delivery result = fill_buffers(net, queue, &filled);

    switch (result) {
    case DELIVERED:
        for (unsigned i = 0; i < filled.n; i++)
            virtqueue_push(queue, filled.heads[i], filled.bytes[i]);
        virtqueue_publish(queue);
        net->held_bytes = 0;
        break;
    case DROPPED:
        net->n_dropped++;
        net->held_bytes = 0;
        break;
    case NO_ROOM:
        *n_short = filled.n;
        break;
    case BROKEN:
        break;
    }
    return result;
}

/* Takes one frame from the back end into held; false when there is none. A frame the guest does
 * not want leaves held empty. */
static bool pull(struct net *net)
{
    size_t skip = net->back->has_vnet_header ? 0 : NET_HEADER_BYTES;
    struct iovec iov = {net->held + skip, sizeof(net->held) - skip};
    ssize_t got;

    if (net_take_waiting(net))
        return true;
    if (net->is_holding)
        return false;
    got = net->back->ops->receive(net->back, &iov, 1);
    if (got == -EAGAIN)
        return false;
    if (got < 0) {
        /* A failing back end (its interface is down, or gone) may stay readable: no spinning. */
        net->back->ops->want_readable(net->back, false);
        io_timer_set(net->retry_timer, clock_mono_ns() + RETRY_NS);
        return false;
    }
    if ((size_t)got + skip < NET_HEADER_BYTES + NET_FRAME_MIN) {
        net->n_dropped++;
        return true;
    }
    if (skip)
        memset(net->held, 0, NET_HEADER_BYTES);
    if (net_filter_accepts(net, net->held + NET_HEADER_BYTES,
                           (size_t)got + skip - NET_HEADER_BYTES))
        net->held_bytes = (uint32_t)((size_t)got + skip);
    return true;
}

static void starve(struct net *net, struct virtqueue *queue, unsigned n_short)
{
    net->is_rx_starved = true;
    net->back->ops->want_readable(net->back, false);
    /* The driver may have added buffers just now, before it saw the wish. */
    if (virtqueue_enable_notify_past(queue, n_short))
        virtio_kick_queue(&net->virtio, NET_RX);
}

static void receive_frames(struct net *net)
{
    struct virtqueue *queue = queue_of(net, NET_RX);
    unsigned n_frames = 0, n_short = 0;
    bool is_short = false;

    while (net->virtio.is_live && n_frames++ < FRAMES_PER_TURN) {
        is_short = virtqueue_is_empty(queue);
        if (is_short)
            break;
        if (net->held_bytes == 0 && !pull(net))
            break;
        if (net->held_bytes == 0)
            continue;
        is_short = deliver(net, queue, &n_short) == NO_ROOM;
        if (is_short)
            break;
    }
    if (!net->virtio.is_live)
        return;
    if (n_frames)
        virtio_publish(&net->virtio, queue);
    if (is_short)
        starve(net, queue, n_short);
    else if (net->waiting.length)
        virtio_kick_queue(&net->virtio, NET_RX); /* the back end does not call for these */
}

static void back_is_readable(void *opaque)
{
    struct net *net = opaque;

    if (net->is_forwarding)
        net_forward_frames(net);
    else if (net->virtio.is_live && !net->is_rx_starved)
        receive_frames(net);
}

static void retry(struct device *dev, void *opaque)
{
    struct net *net = opaque;

    if (net->virtio.is_live && !net->is_rx_starved && !net->is_holding)
        net->back->ops->want_readable(net->back, true);
}

static void handle_rx(struct virtio_device *vdev, struct virtqueue *queue)
{
    struct net *net = to_net(vdev);

    /* Buffers came: a held frame first, then what the back end has. */
    net->is_rx_starved = false;
    virtqueue_disable_notify(queue);
    if (vdev->is_live && !net->is_holding)
        net->back->ops->want_readable(net->back, true);
    receive_frames(net);
}

/* ---- transmitting ---------------------------------------------------------------------------- */

/* False: the back end is full, nothing was sent. */
static bool send_chain(struct net *net, const struct virtqueue_chain *chain)
{
    size_t skip = net->back->has_vnet_header ? 0 : NET_HEADER_BYTES;
    struct iovec iov[VIRTQUEUE_MAX_SEGMENTS];
    unsigned n;
    ssize_t sent;

    if (chain->out_bytes < NET_HEADER_BYTES + NET_FRAME_MIN ||
        chain->out_bytes > NET_HEADER_BYTES + NET_FRAME_MAX) {
        net->n_dropped++;
        return true;
    }
    n = virtqueue_slice(chain->iov, chain->n_out, skip, chain->out_bytes - skip, iov);
    sent = net->back->ops->send(net->back, iov, n);
    if (sent == -EAGAIN)
        return false;
    if (sent < 0) {
        net->n_dropped++;
    } else if (net->wants_first_sent) {
        net->wants_first_sent = false;
        device_tell_first_sent(&net->virtio.pci.dev);
    }
    return true;
}

static void handle_tx(struct virtio_device *vdev, struct virtqueue *queue)
{
    struct net *net = to_net(vdev);
    struct virtqueue_chain chain;
    unsigned n_frames = 0;

    if (net->is_tx_blocked)
        return;
    virtqueue_disable_notify(queue);
    do {
        while (n_frames < FRAMES_PER_TURN && virtio_take(vdev, queue, &chain)) {
            if (chain.out_bytes < NET_HEADER_BYTES) {
                virtio_break(vdev, "a frame of %u bytes has no header", chain.out_bytes);
                return;
            }
            if (!send_chain(net, &chain)) {
                virtqueue_untake(queue);
                net->is_tx_blocked = true;
                net->back->ops->want_writable(net->back, true);
                break;
            }
            virtqueue_push(queue, chain.head, 0);
            n_frames++;
        }
    } while (vdev->is_live && !net->is_tx_blocked && n_frames < FRAMES_PER_TURN &&
             virtqueue_enable_notify(queue));
    if (!vdev->is_live)
        return;
    if (n_frames)
        virtio_publish(vdev, queue);
    if (n_frames == FRAMES_PER_TURN)
        virtio_kick_queue(vdev, NET_TX);
}

static void back_is_writable(void *opaque)
{
    struct net *net = opaque;

    net->is_tx_blocked = false;
    net->back->ops->want_writable(net->back, false);
    virtio_kick_queue(&net->virtio, NET_TX);
}

/* ---- announcing ------------------------------------------------------------------------------ */

static void announce(struct device *dev, void *opaque)
{
    struct net *net = opaque;

    if (!net->is_announcing || !net->virtio.is_running)
        return;
    net->is_announcing = false;
    net_send_rarp(net);
    if (net->virtio.is_live && virtio_has(&net->virtio, VIRTIO_NET_F_GUEST_ANNOUNCE) &&
        !net->is_announce_pending) {
        net->is_announce_pending = true;
        virtio_config_changed(&net->virtio);
    }
}

static void net_announce(struct device *dev)
{
    struct net *net = to_net(virtio_from_device(dev));

    /* The back end is used on the loop's thread only. */
    net->is_announcing = true;
    io_bell_ring(net->announce_bell);
}

/* ---- configuration and life ------------------------------------------------------------------ */

static void get_config(struct virtio_device *vdev, uint8_t *bytes)
{
    struct net *net = to_net(vdev);
    unsigned status = VIRTIO_NET_S_LINK_UP | (net->is_announce_pending ? VIRTIO_NET_S_ANNOUNCE : 0);
    struct virtio_net_config config = {
        .status = htole16((uint16_t)status),
        .max_virtqueue_pairs = htole16(1),
    };

    memcpy(config.mac, net->filter.mac, ETH_ALEN);
    memcpy(bytes, &config, offsetof(struct virtio_net_config, mtu));
}

void net_apply_offloads(struct net *net)
{
    static const struct {
        unsigned feature;
        unsigned offload;
    } map[] = {
        {VIRTIO_NET_F_GUEST_CSUM, NETDEV_RX_CSUM},
        {VIRTIO_NET_F_GUEST_TSO4, NETDEV_RX_TSO4},
        {VIRTIO_NET_F_GUEST_TSO6, NETDEV_RX_TSO6},
        {VIRTIO_NET_F_GUEST_ECN, NETDEV_RX_ECN},
    };
    unsigned offloads = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(map); i++) {
        if (net->guest_offloads >> map[i].feature & 1)
            offloads |= map[i].offload;
    }
    if (net->back->ops->set_rx_offloads)
        net->back->ops->set_rx_offloads(net->back, offloads);
}

static void features_set(struct virtio_device *vdev)
{
    struct net *net = to_net(vdev);

    net->guest_offloads = vdev->driver_features & NET_GUEST_OFFLOADS;
    net_apply_offloads(net);
}

static void reset(struct virtio_device *vdev)
{
    struct net *net = to_net(vdev);

    net_filter_reset(net);
    net->is_announce_pending = false;
    net->held_bytes = 0;
    net_drop_waiting(net);
    net->guest_offloads = 0;
    net_apply_offloads(net);
}

static void set_live(struct virtio_device *vdev, bool is_live)
{
    struct net *net = to_net(vdev);

    /* Coming alive kicks all queues, and handle_rx opens the back end. */
    net->is_rx_starved = false;
    net->is_tx_blocked = false;
    net->back->ops->want_writable(net->back, false);
    if (!is_live)
        net->back->ops->want_readable(net->back, false);
}

static void net_start(struct device *dev)
{
    struct net *net = to_net(virtio_from_device(dev));

    virtio_device_start(dev);
    netdev_set_running(net->back, true);
    if (net->is_announcing)
        io_bell_ring(net->announce_bell);
}

static void net_prepare_stop(struct device *dev)
{
    netdev_set_running(to_net(virtio_from_device(dev))->back, false);
    virtio_device_prepare_stop(dev);
}

static bool net_stop(struct device *dev, uint64_t deadline_ns, GError **error)
{
    net_prepare_stop(dev);
    return virtio_device_stop(dev, deadline_ns, error);
}

static void net_free(struct device *dev)
{
    struct net *net = to_net(virtio_from_device(dev));

    io_bell_free(net->announce_bell);
    io_timer_free(net->retry_timer);
    net_drop_waiting(net);
    io_timer_free(net->hold_timer);
    netdev_free(net->back); /* its sources refer to the device */
    virtio_device_clear(&net->virtio);
    g_free(net);
}

static const struct virtio_queue_spec queues[] = {
    [NET_RX] = {"receive", 256, handle_rx},
    [NET_TX] = {"transmit", 256, handle_tx},
    [NET_CONTROL] = {"control", 64, net_handle_control},
};

static const struct virtio_ops ops = {
    .device = {.type = "virtio-net",
               .reset = virtio_device_reset,
               .start = net_start,
               .prepare_stop = net_prepare_stop,
               .stop = net_stop,
               .announce = net_announce,
               .wait_ready = net_wait_ready,
               .forward = net_forward,
               .arrive = net_arrive,
               .take_frame = net_take_frame,
               .free = net_free},
    .id = VIRTIO_ID_NET,
    .class_code = 0x020000, /* Ethernet controller */
    .config_bytes = offsetof(struct virtio_net_config, mtu),
    .n_queues = G_N_ELEMENTS(queues),
    .queues = queues,
    .get_config = get_config,
    .reset = reset,
    .features_set = features_set,
    .set_live = set_live,
};

/* ---- saved form ------------------------------------------------------------------------------ */

static bool validate(const void *shadow, GError **error)
{
    const struct net *net = shadow;

    if (net->held_bytes && net->held_bytes < NET_HEADER_BYTES + NET_FRAME_MIN) {
        virtio_set_error(error, "a held frame of %u bytes", net->held_bytes);
        return false;
    }
    if (net->guest_offloads & ~(net->virtio.driver_features & NET_GUEST_OFFLOADS)) {
        virtio_set_error(error, "offloads 0x%" G_GINT64_MODIFIER "x that were not negotiated",
                         net->guest_offloads);
        return false;
    }
    return true;
}

static bool post_load(void *object, GError **error)
{
    struct net *net = object;

    if (!virtio_post_load(&net->virtio, error))
        return false;
    net_apply_offloads(net);
    return true;
}

static const struct gw_field fields[] = {
    GW_STRUCT(struct net, virtio, &virtio_device_state),
    GW_STRUCT(struct net, filter, &net_filter_state),
    GW_U64(struct net, guest_offloads),
    GW_BOOL(struct net, is_announce_pending),
    GW_VBUFFER(struct net, held, held_bytes),
    GW_FIELDS_END,
};

static const struct gw_state_desc state = {
    .name = "virtio-net",
    .version = 1,
    .object_size = sizeof(struct net),
    .priority = GW_PRIORITY_DEVICE,
    .fields = fields,
    .validate = validate,
    .post_load = post_load,
};

static uint64_t features(const struct netdev *back)
{
    static const uint8_t always[] = {
        VIRTIO_NET_F_MAC,           VIRTIO_NET_F_MRG_RXBUF,      VIRTIO_NET_F_STATUS,
        VIRTIO_NET_F_CTRL_VQ,       VIRTIO_NET_F_CTRL_RX,        VIRTIO_NET_F_CTRL_VLAN,
        VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_MAC_ADDR,
    };
    static const uint8_t with_header[] = {
        VIRTIO_NET_F_CSUM,     VIRTIO_NET_F_HOST_TSO4,           VIRTIO_NET_F_HOST_TSO6,
        VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    };
    uint64_t set = 0;

    for (size_t i = 0; i < sizeof(always); i++)
        set |= VIRTIO_FEATURE(always[i]);
    if (!back->has_vnet_header)
        return set;
    for (size_t i = 0; i < sizeof(with_header); i++)
        set |= VIRTIO_FEATURE(with_header[i]);
    return set | NET_GUEST_OFFLOADS;
}

struct device *virtio_net_new(const struct virtio_config *config, struct netdev *back,
                              const uint8_t mac[6], GError **error)
{
    struct net *net = g_new0(struct net, 1);
    const struct netdev_client client = {
        .dev = &net->virtio.pci.dev,
        .readable = back_is_readable,
        .writable = back_is_writable,
        .opaque = net,
    };

    net->back = back;
    net->hold_limit_ns = NET_HOLD_NS;
    memcpy(net->permanent_mac, mac, ETH_ALEN);
    net_filter_reset(net);
    if (!virtio_device_init(&net->virtio, &ops, config, features(back), &state, error)) {
        netdev_free(back);
        g_free(net);
        return NULL;
    }
    net->announce_bell = io_bell_new(config->loop, client.dev, "announce", announce, net);
    net->retry_timer = io_timer_new(config->loop, client.dev, "retry", retry, net);
    net->hold_timer = io_timer_new(config->loop, client.dev, "hold", net_hold_is_over, net);
    netdev_set_client(back, &client);
    return client.dev;
}
