/* SPDX-License-Identifier: MIT */
/*
 * virtio-net and a move: frames that reach the host which the guest has left, and the announcement
 * at the host where it is.
 *
 * Model, source: when the guest is the destination's (forward), every frame that waits in the back
 * end and every one that comes is handed on, until the destination's announcement comes in here:
 * the network has then learned where the guest is, and delivers there. What was handed on is kept
 * as well, in case the destination says that it never ran the guest: then the guest finds it here.
 *
 * Model, destination: just before the guest runs (arrive) what the own port has received is thrown
 * away, because the source's port received the same (broadcasts, and what a switch that knows no
 * better sends everywhere), and the guest is announced. From then on the network delivers here. To
 * keep the order the own port waits until the source has said its last, for NET_HOLD_NS at most.
 *
 * Frames that wait for the guest stand in net->waiting, as they were received, before those of the
 * back end. PEER: their number and size are bounded; a network header that the guest could not have
 * been sent is dropped.
 *
 * Locks: everything runs under the device's lock; the back end may be called on any thread
 * (netdev_ops.is_free_threaded).
 */
#include "device/virtio/net.h"

#include <endian.h>
#include <string.h>

#include <linux/if_ether.h>

#include "base/probes.h"

#define WAITING_MAX_FRAMES 4096u
#define WAITING_MAX_BYTES  (4u << 20)
/* One turn of handing on; what is left makes the loop call again. */
#define FORWARD_PER_TURN   256u

/* ---- frames that wait ------------------------------------------------------------------------ */

static bool add_waiting(struct net *net, const uint8_t *frame, uint32_t n_bytes)
{
    if (net->waiting.length >= WAITING_MAX_FRAMES ||
        net->waiting_bytes + n_bytes > WAITING_MAX_BYTES) {
        net->n_dropped++;
        return false;
    }
    g_queue_push_tail(&net->waiting, g_bytes_new(frame, n_bytes));
    net->waiting_bytes += n_bytes;
    return true;
}

bool net_take_waiting(struct net *net)
{
    GBytes *bytes = g_queue_pop_head(&net->waiting);
    const void *frame;
    gsize n_bytes;

    if (!bytes)
        return false;
    frame = g_bytes_get_data(bytes, &n_bytes);
    memcpy(net->held, frame, n_bytes);
    net->held_bytes = (uint32_t)n_bytes;
    net->waiting_bytes -= (uint32_t)n_bytes;
    g_bytes_unref(bytes);
    return true;
}

void net_drop_waiting(struct net *net)
{
    while (net->waiting.length)
        g_bytes_unref(g_queue_pop_head(&net->waiting));
    net->waiting_bytes = 0;
    net->is_holding = false;
    io_timer_set(net->hold_timer, UINT64_MAX);
}

/* One frame of the back end with its header; 0: there is none now, or never will be (*is_gone). */
static uint32_t receive(struct net *net, uint8_t *frame, size_t n_bytes, bool *is_gone)
{
    size_t skip = net->back->has_vnet_header ? 0 : NET_HEADER_BYTES;
    struct iovec iov = {frame + skip, n_bytes - skip};
    ssize_t got = net->back->ops->receive(net->back, &iov, 1);

    if (got < 0) {
        *is_gone = got != -EAGAIN;
        return 0;
    }
    memset(frame, 0, skip);
    return (uint32_t)((size_t)got + skip);
}

/* ---- at the host that was left --------------------------------------------------------------- */

static bool is_announcement(const struct net *net, const uint8_t *frame)
{
    const struct ethhdr *ether = (const struct ethhdr *)(frame + NET_HEADER_BYTES);

    return be16toh(ether->h_proto) == ETH_P_RARP &&
           memcmp(ether->h_source, net->filter.mac, ETH_ALEN) == 0;
}

static void end_forwarding(struct net *net)
{
    net->is_forwarding = false;
    net->back->ops->want_readable(net->back, false);
    net->forward.frame(net->forward.opaque, &net->virtio.pci.dev, NULL, 0, true);
}

void net_forward_frames(struct net *net)
{
    bool is_gone = false;

    for (unsigned n = 0; n < FORWARD_PER_TURN; n++) {
        uint32_t n_bytes = receive(net, net->passing, sizeof(net->passing), &is_gone);

        if (n_bytes == 0)
            break;
        if (n_bytes < NET_HEADER_BYTES + NET_FRAME_MIN)
            continue;
        if (is_announcement(net, net->passing)) {
            end_forwarding(net);
            return;
        }
        add_waiting(net, net->passing, n_bytes);
        net->forward.frame(net->forward.opaque, &net->virtio.pci.dev, net->passing, n_bytes, false);
    }
    if (is_gone)
        end_forwarding(net);
}

bool net_forward(struct device *dev, const struct device_forward *to)
{
    struct net *net = (struct net *)virtio_from_device(dev);

    if (!to) {
        if (net->is_forwarding)
            net_forward_frames(net);
        if (net->is_forwarding)
            end_forwarding(net);
        return false;
    }
    if (!net->back->ops->is_free_threaded || net->virtio.is_running)
        return false;
    net->forward = *to;
    net->is_forwarding = true;
    /* What an earlier move brought and the guest has not taken. */
    for (GList *at = net->waiting.head; at; at = at->next) {
        gsize n_bytes;
        const void *frame = g_bytes_get_data(at->data, &n_bytes);

        to->frame(to->opaque, dev, frame, (uint32_t)n_bytes, false);
    }
    net_forward_frames(net);
    if (net->is_forwarding)
        net->back->ops->want_readable(net->back, true);
    return true;
}

/* ---- at the host where it is ----------------------------------------------------------------- */

/* PEER: a header as a host may send it to this guest. SPEC: VIRTIO 1.2, 5.1.6.4. */
static bool is_header_fine(const struct net *net, const struct virtio_net_hdr_v1 *header,
                           uint32_t frame_bytes)
{
    static const struct {
        uint8_t type;
        unsigned feature;
    } segmentations[] = {
        {VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_F_GUEST_TSO4},
        {VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_F_GUEST_TSO6},
    };
    uint8_t type = header->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    bool is_known = type == VIRTIO_NET_HDR_GSO_NONE;
    uint32_t start = le16toh(header->csum_start), offset = le16toh(header->csum_offset);

    if (header->flags & ~(VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID))
        return false;
    if ((header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) &&
        (!(net->guest_offloads >> VIRTIO_NET_F_GUEST_CSUM & 1) || start + offset + 2 > frame_bytes))
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(segmentations); i++)
        is_known |=
            type == segmentations[i].type && (net->guest_offloads >> segmentations[i].feature & 1);
    if ((header->gso_type & VIRTIO_NET_HDR_GSO_ECN) &&
        !(net->guest_offloads >> VIRTIO_NET_F_GUEST_ECN & 1))
        return false;
    return is_known && le16toh(header->hdr_len) <= frame_bytes;
}

static void end_holding(struct net *net)
{
    net->is_holding = false;
    io_timer_set(net->hold_timer, UINT64_MAX);
    virtio_kick_queue(&net->virtio, NET_RX); /* opens the back end */
}

void net_hold_is_over(struct device *dev, void *opaque)
{
    end_holding(opaque);
}

void net_take_frame(struct device *dev, const void *frame, uint32_t n_bytes, bool is_last)
{
    struct net *net = (struct net *)virtio_from_device(dev);
    struct virtio_net_hdr_v1 header;

    if (n_bytes >= NET_HEADER_BYTES + NET_FRAME_MIN && n_bytes <= sizeof(net->held)) {
        memcpy(&header, frame, sizeof(header));
        if (!is_header_fine(net, &header, n_bytes - NET_HEADER_BYTES))
            net->n_dropped++;
        else if (net_filter_accepts(net, (const uint8_t *)frame + NET_HEADER_BYTES,
                                    n_bytes - NET_HEADER_BYTES))
            add_waiting(net, frame, n_bytes);
    } else if (n_bytes) {
        net->n_dropped++;
    }
    if (is_last && net->is_holding)
        end_holding(net);
    else
        virtio_kick_queue(&net->virtio, NET_RX);
}

/* SPEC: RFC 903, a request about oneself: every switch on the way learns the port. */
void net_send_rarp(struct net *net)
{
    uint8_t packet[NET_HEADER_BYTES + 60] = {0};
    uint8_t *frame = packet + NET_HEADER_BYTES;
    const uint8_t fixed[] = {0x80, 0x35,             /* RARP */
                             0,    1,    8, 0, 6, 4, /* Ethernet, IPv4, address lengths */
                             0,    3};               /* request reverse */
    size_t skip = net->back->has_vnet_header ? 0 : NET_HEADER_BYTES;
    struct iovec iov = {packet + skip, sizeof(packet) - skip};

    memset(frame, 0xff, ETH_ALEN);
    memcpy(frame + 6, net->filter.mac, ETH_ALEN);
    memcpy(frame + 12, fixed, sizeof(fixed));
    memcpy(frame + 22, net->filter.mac, ETH_ALEN); /* sender */
    memcpy(frame + 32, net->filter.mac, ETH_ALEN); /* target */
    if (net->back->ops->send(net->back, &iov, 1) < 0)
        net->n_dropped++; /* the machine repeats it */
}

void net_wait_ready(struct device *dev, uint64_t deadline_ns)
{
    struct net *net = (struct net *)virtio_from_device(dev);

    if (net->back->ops->wait_ready)
        net->back->ops->wait_ready(net->back, deadline_ns);
}

bool net_arrive(struct device *dev, bool is_running, bool expects_frames)
{
    struct net *net = (struct net *)virtio_from_device(dev);
    bool is_gone = false;

    net->wants_first_sent = is_running;
    if (net->back->ops->is_free_threaded) {
        for (unsigned n = 0; expects_frames && n < WAITING_MAX_FRAMES; n++)
            if (!receive(net, net->passing, sizeof(net->passing), &is_gone))
                break;
        if (is_running)
            net_send_rarp(net);
        net->is_holding = expects_frames;
        io_timer_set(net->hold_timer,
                     expects_frames ? clock_mono_ns() + net->hold_limit_ns : UINT64_MAX);
    }
    return is_running && virtio_has(&net->virtio, VIRTIO_NET_F_GUEST_ANNOUNCE);
}
