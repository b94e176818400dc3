/* SPDX-License-Identifier: MIT */
/*
 * virtio-net's control queue, and the receive filter that it sets up.
 *
 * Model: VIRTIO 1.2, section 5.1.6.5. Commands are rows of a table; what is unknown, not negotiated
 * or malformed is answered with VIRTIO_NET_ERR and changes nothing. GUEST: tables of addresses are
 * bounded by NET_MAC_TABLE_MAX; a longer one means that all addresses of its kind are accepted,
 * which the specification allows.
 */
#include <endian.h>
#include <string.h>

#include <linux/if_ether.h>

#include "device/virtio/net.h"

#define COMMAND_BYTES 2u /* struct virtio_net_ctrl_hdr */

/* ---- filter ---------------------------------------------------------------------------------- */

void net_filter_reset(struct net *net)
{
    memset(&net->filter, 0, sizeof(net->filter));
    memcpy(net->filter.mac, net->permanent_mac, ETH_ALEN);
    /* A driver that does not set a mode sees everything. */
    net->filter.is_promiscuous = true;
}

static bool has_mac(const struct net_macs *table, const uint8_t *mac)
{
    for (unsigned i = 0; i < table->n; i++) {
        if (memcmp(table->macs + i * ETH_ALEN, mac, ETH_ALEN) == 0)
            return true;
    }
    return table->has_too_many;
}

static bool accepts_vlan(const struct net *net, const uint8_t *frame, size_t len)
{
    unsigned vlan;

    if (!virtio_has(&net->virtio, VIRTIO_NET_F_CTRL_VLAN) || len < NET_FRAME_MIN + 4 ||
        (frame[12] << 8 | frame[13]) != ETH_P_8021Q)
        return true;
    vlan = (unsigned)(frame[14] << 8 | frame[15]) & 0xfff;
    return (net->filter.vlans[vlan / 64] >> vlan % 64 & 1) != 0;
}

bool net_filter_accepts(const struct net *net, const uint8_t *frame, size_t len)
{
    static const uint8_t broadcast[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const struct net_filter *filter = &net->filter;

    if (filter->is_promiscuous)
        return true;
    if (!accepts_vlan(net, frame, len))
        return false;
    if (memcmp(frame, broadcast, ETH_ALEN) == 0)
        return !filter->no_broadcast;
    if (frame[0] & 1)
        return !filter->no_multicast &&
               (filter->all_multicast || has_mac(&filter->multicast, frame));
    return !filter->no_unicast &&
           (filter->all_unicast || memcmp(frame, filter->mac, ETH_ALEN) == 0 ||
            has_mac(&filter->unicast, frame));
}

/* ---- commands -------------------------------------------------------------------------------- */

/* The data of one command, behind class and command. */
struct command {
    struct net *net;
    const struct virtqueue_chain *chain;
    uint8_t code;
    size_t data_bytes;
};

static bool get_data(const struct command *command, size_t offset, void *to, size_t len)
{
    return virtqueue_chain_read(command->chain, COMMAND_BYTES + offset, to, len) == len;
}

static bool set_rx_mode(const struct command *command)
{
    struct net_filter *filter = &command->net->filter;
    bool *const modes[] = {
        [VIRTIO_NET_CTRL_RX_PROMISC] = &filter->is_promiscuous,
        [VIRTIO_NET_CTRL_RX_ALLMULTI] = &filter->all_multicast,
        [VIRTIO_NET_CTRL_RX_ALLUNI] = &filter->all_unicast,
        [VIRTIO_NET_CTRL_RX_NOMULTI] = &filter->no_multicast,
        [VIRTIO_NET_CTRL_RX_NOUNI] = &filter->no_unicast,
        [VIRTIO_NET_CTRL_RX_NOBCAST] = &filter->no_broadcast,
    };
    uint8_t on;

    if (command->code > VIRTIO_NET_CTRL_RX_ALLMULTI &&
        !virtio_has(&command->net->virtio, VIRTIO_NET_F_CTRL_RX_EXTRA))
        return false;
    if (command->code >= G_N_ELEMENTS(modes) || command->data_bytes != 1 ||
        !get_data(command, 0, &on, 1))
        return false;
    *modes[command->code] = on != 0;
    return true;
}

/* One table of MAC_TABLE_SET at *offset, which moves behind it. */
static bool get_macs(const struct command *command, size_t *offset, struct net_macs *table)
{
    uint32_t n;

    if (!get_data(command, *offset, &n, sizeof(n)))
        return false;
    n = le32toh(n);
    *offset += sizeof(n);
    if (n > (command->data_bytes - *offset) / ETH_ALEN)
        return false;
    table->has_too_many = n > NET_MAC_TABLE_MAX;
    table->n = table->has_too_many ? 0 : (uint8_t)n;
    if (!get_data(command, *offset, table->macs, (size_t)table->n * ETH_ALEN))
        return false;
    *offset += (size_t)n * ETH_ALEN;
    return true;
}

static bool set_mac(const struct command *command)
{
    struct net_filter *filter = &command->net->filter;
    struct net_macs unicast = {0}, multicast = {0};
    size_t offset = 0;

    switch (command->code) {
    case VIRTIO_NET_CTRL_MAC_TABLE_SET:
        if (!virtio_has(&command->net->virtio, VIRTIO_NET_F_CTRL_RX) ||
            !get_macs(command, &offset, &unicast) || !get_macs(command, &offset, &multicast) ||
            offset != command->data_bytes)
            return false;
        filter->unicast = unicast;
        filter->multicast = multicast;
        return true;
    case VIRTIO_NET_CTRL_MAC_ADDR_SET:
        return virtio_has(&command->net->virtio, VIRTIO_NET_F_CTRL_MAC_ADDR) &&
               command->data_bytes == ETH_ALEN && get_data(command, 0, filter->mac, ETH_ALEN);
    default:
        return false;
    }
}

static bool set_vlan(const struct command *command)
{
    uint64_t *vlans = command->net->filter.vlans;
    uint16_t vlan;

    if (command->code > VIRTIO_NET_CTRL_VLAN_DEL || command->data_bytes != sizeof(vlan) ||
        !get_data(command, 0, &vlan, sizeof(vlan)))
        return false;
    vlan = le16toh(vlan);
    if (vlan >= 4096)
        return false;
    if (command->code == VIRTIO_NET_CTRL_VLAN_ADD)
        vlans[vlan / 64] |= UINT64_C(1) << vlan % 64;
    else
        vlans[vlan / 64] &= ~(UINT64_C(1) << vlan % 64);
    return true;
}

static bool acknowledge_announce(const struct command *command)
{
    if (command->code != VIRTIO_NET_CTRL_ANNOUNCE_ACK || command->data_bytes != 0)
        return false;
    command->net->is_announce_pending = false;
    return true;
}

static bool set_offloads(const struct command *command)
{
    struct net *net = command->net;
    uint64_t offloads;

    if (command->code != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
        command->data_bytes != sizeof(offloads) ||
        !get_data(command, 0, &offloads, sizeof(offloads)))
        return false;
    offloads = le64toh(offloads);
    if (offloads & ~(net->virtio.driver_features & NET_GUEST_OFFLOADS))
        return false;
    net->guest_offloads = offloads;
    net_apply_offloads(net);
    return true;
}

static const struct {
    uint8_t class;
    uint8_t feature;
    bool (*execute)(const struct command *command);
} classes[] = {
    {VIRTIO_NET_CTRL_RX, VIRTIO_NET_F_CTRL_RX, set_rx_mode},
    {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_F_CTRL_VQ, set_mac},
    {VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_F_CTRL_VLAN, set_vlan},
    {VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_F_GUEST_ANNOUNCE, acknowledge_announce},
    {VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, set_offloads},
};

static uint32_t answer(struct virtio_device *vdev, struct virtqueue *queue,
                       const struct virtqueue_chain *chain)
{
    struct virtio_net_ctrl_hdr header;
    uint8_t status = VIRTIO_NET_ERR;

    if (chain->in_bytes == 0 ||
        virtqueue_chain_read(chain, 0, &header, sizeof(header)) != sizeof(header)) {
        virtio_break(vdev, "a command of %u+%u bytes has no room for header and status",
                     chain->out_bytes, chain->in_bytes);
        return 0;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(classes); i++) {
        struct command command = {(struct net *)vdev, chain, header.cmd,
                                  chain->out_bytes - COMMAND_BYTES};

        if (classes[i].class == header.class && virtio_has(vdev, classes[i].feature) &&
            classes[i].execute(&command))
            status = VIRTIO_NET_OK;
    }
    return (uint32_t)virtqueue_chain_write(queue, chain, 0, &status, 1);
}

void net_handle_control(struct virtio_device *vdev, struct virtqueue *queue)
{
    virtio_answer_all(vdev, queue, answer);
}

/* ---- saved form ------------------------------------------------------------------------------ */

static const struct gw_field macs_fields[] = {
    GW_U8(struct net_macs, n, .max = NET_MAC_TABLE_MAX),
    GW_BOOL(struct net_macs, has_too_many),
    GW_BUFFER(struct net_macs, macs),
    GW_FIELDS_END,
};

static const struct gw_state_desc macs_state = {
    .name = "virtio-net-macs",
    .version = 1,
    .object_size = sizeof(struct net_macs),
    .fields = macs_fields,
};

static const struct gw_field filter_fields[] = {
    GW_BUFFER(struct net_filter, mac),
    GW_BOOL(struct net_filter, is_promiscuous),
    GW_BOOL(struct net_filter, all_multicast),
    GW_BOOL(struct net_filter, all_unicast),
    GW_BOOL(struct net_filter, no_multicast),
    GW_BOOL(struct net_filter, no_unicast),
    GW_BOOL(struct net_filter, no_broadcast),
    GW_STRUCT(struct net_filter, unicast, &macs_state),
    GW_STRUCT(struct net_filter, multicast, &macs_state),
    GW_U64_ARRAY(struct net_filter, vlans),
    GW_FIELDS_END,
};

const struct gw_state_desc net_filter_state = {
    .name = "virtio-net-filter",
    .version = 1,
    .object_size = sizeof(struct net_filter),
    .fields = filter_fields,
};
