/* SPDX-License-Identifier: MIT */
/*
 * virtio-net over a back end made of a socket pair: every datagram is a frame, and what the device
 * does not take stays in the socket.
 */
#include "driver.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cable.h"
#include "device/virtio/net.h"

#define SLOT 2
#define HEAD NET_HEADER_BYTES
#define RX   NET_RX
#define TX   NET_TX
#define CTL  NET_CONTROL
#define MRG  VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF)
#define ALL  UINT64_MAX

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

/* ---- fixture --------------------------------------------------------------------------------- */

struct fixture {
    struct rig *rig;
    struct device *dev;
    struct cable *cable;
    int peer;
    struct drv drv;
};

static int make(void **state, bool has_vnet_header)
{
    struct fixture *f = g_new0(struct fixture, 1);
    struct virtio_config config;

    f->rig = rig_new();
    config = rig_config(f->rig, "virtio-net/0", SLOT);
    f->cable = cable_new(f->rig, has_vnet_header, &f->peer);
    f->dev = virtio_net_new(&config, &f->cable->net, guest_mac, NULL);
    assert_non_null(f->dev);
    device_reset(f->dev);
    device_start(f->dev);
    drv_probe(&f->drv, f->rig, f->dev, SLOT);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return make(state, false);
}

static int setup_vnet(void **state)
{
    return make(state, true);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    assert_true(device_stop(f->dev, clock_mono_ns() + 10000000000u, NULL));
    device_free(f->dev);
    close(f->peer);
    rig_free(f->rig);
    g_free(f);
    return 0;
}

/* A frame whose every byte is known from its number. */
static void fill_frame(uint8_t *frame, size_t len, unsigned number)
{
    for (size_t i = 0; i < len; i++)
        frame[i] = (uint8_t)(number * 7 + i);
    memcpy(frame, guest_mac, 6);
}

static void inject(struct fixture *f, const void *frame, size_t len)
{
    assert_int_equal(send(f->peer, frame, len, 0), len);
}

static void inject_numbered(struct fixture *f, size_t len, unsigned number)
{
    uint8_t frame[70000];

    fill_frame(frame, len, number);
    inject(f, frame, len);
}

static struct drv_segment rx_buffer(struct fixture *f, uint32_t len)
{
    return (struct drv_segment){rig_alloc(f->rig, len), len, true};
}

/* Receives one frame into out (header first); returns header and frame bytes. */
static size_t receive(struct fixture *f, const struct drv_segment *buffers, unsigned *next,
                      uint8_t *out)
{
    struct virtio_net_hdr_v1 header;
    unsigned n_buffers = 1;
    size_t total = 0;

    for (unsigned i = 0; i < n_buffers; i++) {
        const struct drv_segment *buffer = &buffers[(*next)++];
        uint32_t head, len;

        drv_await_used(&f->drv, RX, &head, &len);
        assert_true(len <= buffer->len);
        memcpy(out + total, rig_host(f->rig, buffer->gpa, len), len);
        total += len;
        if (i == 0) {
            memcpy(&header, out, sizeof(header));
            n_buffers = le16toh(header.num_buffers);
            assert_in_range(n_buffers, 1, 256);
        }
    }
    return total;
}

static void check_numbered(const uint8_t *got, size_t got_len, size_t len, unsigned number)
{
    uint8_t frame[70000];

    fill_frame(frame, len, number);
    assert_int_equal(got_len, HEAD + len);
    assert_memory_equal(got + HEAD, frame, len);
}

/* ---- receiving ------------------------------------------------------------------------------- */

static void receives_frames_in_order(void **state)
{
    struct fixture *f = *state;
    struct drv_segment buffers[20];
    unsigned next = 0;
    uint8_t got[2000];

    drv_bring_up(&f->drv, MRG | VIRTQUEUE_FEATURES);
    for (unsigned i = 0; i < 20; i++) {
        buffers[i] = rx_buffer(f, 1526);
        drv_add(&f->drv, RX, &buffers[i], 1);
    }
    drv_kick(&f->drv, RX);
    for (unsigned i = 0; i < 20; i++)
        inject_numbered(f, 60 + i * 50, i);
    for (unsigned i = 0; i < 20; i++)
        check_numbered(got, receive(f, buffers, &next, got), 60 + i * 50, i);
}

static void merges_buffers_for_large_frames(void **state)
{
    struct fixture *f = *state;
    struct drv_segment buffers[100];
    unsigned next = 0;
    uint8_t *got = g_malloc(70000);

    drv_bring_up(&f->drv, MRG | VIRTQUEUE_FEATURES);
    for (unsigned i = 0; i < 100; i++) {
        buffers[i] = rx_buffer(f, 1000);
        drv_add(&f->drv, RX, &buffers[i], 1);
    }
    drv_kick(&f->drv, RX);
    inject_numbered(f, 65000, 1);
    check_numbered(got, receive(f, buffers, &next, got), 65000, 1);
    assert_int_equal(next, 66);
    inject_numbered(f, 988, 2);
    check_numbered(got, receive(f, buffers, &next, got), 988, 2);
    assert_int_equal(next, 67);
    inject_numbered(f, 989, 3);
    check_numbered(got, receive(f, buffers, &next, got), 989, 3);
    assert_int_equal(next, 69);
    g_free(got);
}

static void frames_wait_in_the_back_end_for_buffers(void **state)
{
    struct fixture *f = *state;
    struct drv_segment buffers[10];
    unsigned next = 0;
    uint8_t got[2000];

    drv_bring_up(&f->drv, MRG | VIRTQUEUE_FEATURES);
    for (unsigned i = 0; i < 10; i++)
        inject_numbered(f, 100, i);
    rig_settle(f->rig);
    assert_int_equal(((struct net *)f->drv.vdev)->held_bytes, 0);
    for (unsigned i = 0; i < 10; i++) {
        buffers[i] = rx_buffer(f, 1526);
        drv_add(&f->drv, RX, &buffers[i], 1);
        drv_kick(&f->drv, RX);
        check_numbered(got, receive(f, buffers, &next, got), 100, i);
    }
}

static void a_frame_that_lacks_buffers_is_completed_later(void **state)
{
    struct fixture *f = *state;

    for (unsigned with_events = 0; with_events < 2; with_events++) {
        struct drv_segment buffers[5];
        unsigned next = 0;
        uint8_t got[2000];
        uint32_t head, len;

        drv_bring_up(&f->drv, MRG | (with_events ? VIRTQUEUE_FEATURES : 0));
        for (unsigned i = 0; i < 4; i++) {
            buffers[i] = rx_buffer(f, 200);
            drv_add(&f->drv, RX, &buffers[i], 1);
        }
        drv_kick(&f->drv, RX);
        inject_numbered(f, 900, 5);
        rig_settle(f->rig);
        rig_settle(f->rig);
        assert_false(drv_poll_used(&f->drv, RX, &head, &len));
        buffers[4] = rx_buffer(f, 200);
        drv_add(&f->drv, RX, &buffers[4], 1);
        drv_kick(&f->drv, RX);
        check_numbered(got, receive(f, buffers, &next, got), 900, 5);
        assert_int_equal(next, 5);
    }
}

static void drops_what_never_fits(void **state)
{
    struct fixture *f = *state;
    struct drv_segment buffers[2];
    unsigned next = 0;
    uint8_t got[2000];

    drv_bring_up(&f->drv, 0); /* not mergeable */
    for (unsigned i = 0; i < 2; i++) {
        buffers[i] = rx_buffer(f, 300);
        drv_add(&f->drv, RX, &buffers[i], 1);
    }
    drv_kick(&f->drv, RX);
    inject_numbered(f, 289, 1);
    inject_numbered(f, 288, 2);
    check_numbered(got, receive(f, buffers, &next, got), 288, 2);
    inject_numbered(f, 13, 3); /* no Ethernet frame */
    inject_numbered(f, 14, 4);
    check_numbered(got, receive(f, buffers, &next, got), 14, 4);
}

static void broken_receive_buffers_need_a_reset(void **state)
{
    struct fixture *f = *state;
    struct drv_segment small = rx_buffer(f, 11);
    struct drv_segment readable = {small.gpa, 11, false};

    drv_bring_up(&f->drv, MRG);
    drv_add(&f->drv, RX, &small, 1);
    drv_kick(&f->drv, RX);
    inject_numbered(f, 100, 0);
    drv_await_broken(&f->drv, "a receive buffer of 11 bytes");
    drv_bring_up(&f->drv, MRG);
    drv_add(&f->drv, RX, &readable, 1);
    drv_kick(&f->drv, RX);
    inject_numbered(f, 100, 0);
    drv_await_broken(&f->drv, "a receive buffer of 0 bytes");
}

/* ---- transmitting ---------------------------------------------------------------------------- */

/* A frame with its header in guest memory, split in two. */
static void transmit(struct fixture *f, size_t len, unsigned number)
{
    struct drv_segment segments[2] = {
        {rig_alloc(f->rig, HEAD + 4), HEAD + 4, false},
        {rig_alloc(f->rig, len), (uint32_t)(len - 4), false},
    };
    uint8_t frame[70000];

    fill_frame(frame, len, number);
    memcpy((uint8_t *)rig_host(f->rig, segments[0].gpa, HEAD + 4) + HEAD, frame, 4);
    memcpy(rig_host(f->rig, segments[1].gpa, len), frame + 4, len - 4);
    drv_add(&f->drv, TX, segments, 2);
    drv_kick(&f->drv, TX);
}

static void transmits_frames(void **state)
{
    struct fixture *f = *state;
    bool has_header = f->cable->net.has_vnet_header;
    uint8_t got[70000], frame[70000];
    size_t skip = has_header ? HEAD : 0;

    drv_bring_up(&f->drv, ALL);
    for (unsigned i = 0; i < 50; i++) {
        size_t len = 60 + i * 1000;
        uint32_t head, used;

        transmit(f, len, i);
        assert_int_equal(recv(f->peer, got, sizeof(got), 0), skip + len);
        fill_frame(frame, len, i);
        assert_memory_equal(got + skip, frame, len);
        drv_await_used(&f->drv, TX, &head, &used);
        assert_int_equal(used, 0);
    }
}

static bool is_tx_blocked(void *opaque)
{
    struct fixture *f = opaque;
    bool is_blocked;

    pthread_mutex_lock(&f->dev->lock);
    is_blocked = ((struct net *)f->drv.vdev)->is_tx_blocked;
    pthread_mutex_unlock(&f->dev->lock);
    return is_blocked;
}

static void frames_wait_in_the_ring_for_the_back_end(void **state)
{
    struct fixture *f = *state;
    uint8_t got[2000], frame[1000];

    drv_bring_up(&f->drv, VIRTQUEUE_FEATURES);
    for (unsigned i = 0; i < 120; i++)
        drv_write_desc(&f->drv, TX, (uint16_t)i, 0, 0, 0, 0);
    /* 240 of 256 descriptors: more than a socket's send buffer takes. */
    setsockopt(f->cable->fd, SOL_SOCKET, SO_SNDBUF, &(int){4096}, sizeof(int));
    for (unsigned i = 0; i < 120; i++)
        transmit(f, 1000, i);
    rig_await(f->rig, is_tx_blocked, f);
    for (unsigned i = 0; i < 120; i++) {
        assert_int_equal(recv(f->peer, got, sizeof(got), 0), 1000);
        fill_frame(frame, 1000, i);
        assert_memory_equal(got, frame, 1000);
    }
    for (unsigned i = 0; i < 120; i++) {
        uint32_t head, used;
        drv_await_used(&f->drv, TX, &head, &used);
    }
}

static void frame_without_header_needs_a_reset(void **state)
{
    struct fixture *f = *state;
    struct drv_segment segment = {rig_alloc(f->rig, 64), 11, false};
    struct drv_segment writable = {segment.gpa, 64, true};

    drv_bring_up(&f->drv, 0);
    drv_add(&f->drv, TX, &segment, 1);
    drv_kick(&f->drv, TX);
    drv_await_broken(&f->drv, "a frame of 11 bytes");
    drv_bring_up(&f->drv, 0);
    drv_add(&f->drv, TX, &writable, 1);
    drv_kick(&f->drv, TX);
    drv_await_broken(&f->drv, "a frame of 0 bytes");
}

static void drops_frames_of_impossible_size(void **state)
{
    struct fixture *f = *state;
    struct drv_segment small = {rig_alloc(f->rig, 64), HEAD + 13, false};
    struct drv_segment large = {rig_alloc(f->rig, 80000), HEAD + 65554, false};
    uint8_t got[2000];

    drv_bring_up(&f->drv, 0);
    drv_request(&f->drv, TX, &small, 1);
    drv_request(&f->drv, TX, &large, 1);
    transmit(f, 77, 1);
    assert_int_equal(recv(f->peer, got, sizeof(got), 0), 77);
}

static void fail_next(struct fixture *f)
{
    pthread_mutex_lock(&f->dev->lock);
    f->cable->failure = EIO;
    pthread_mutex_unlock(&f->dev->lock);
}

static void a_failing_back_end_is_asked_again(void **state)
{
    struct fixture *f = *state;
    struct drv_segment buffer = rx_buffer(f, 1526);
    unsigned n = 0;
    uint32_t head, len;
    uint8_t got[2000];

    drv_bring_up(&f->drv, MRG);
    drv_add(&f->drv, RX, &buffer, 1);
    fail_next(f);
    inject_numbered(f, 100, 1);
    drv_kick(&f->drv, RX);
    check_numbered(got, receive(f, &buffer, &n, got), 100, 1);
    /* A frame that the back end refuses is lost, and the next one is not. */
    fail_next(f);
    transmit(f, 100, 1);
    transmit(f, 101, 2);
    assert_int_equal(recv(f->peer, got, sizeof(got), 0), 101);
    drv_await_used(&f->drv, TX, &head, &len);
    drv_await_used(&f->drv, TX, &head, &len);
    assert_int_equal(f->cable->n_failed, 2);
}

static void too_many_segments_need_a_reset(void **state)
{
    struct fixture *f = *state;

    drv_bring_up(&f->drv, VIRTQUEUE_FEATURES);
    /* Each of them crosses from one block of memory into the next. */
    for (uint16_t i = 0; i < 256; i++)
        drv_write_desc(&f->drv, TX, i, RIG_HIGH_GPA - 64, 128, i < 255 ? VRING_DESC_F_NEXT : 0,
                       (uint16_t)(i + 1));
    drv_publish(&f->drv, TX, 0);
    drv_kick(&f->drv, TX);
    drv_await_broken(&f->drv, "more than 272 segments");
}

/* ---- control --------------------------------------------------------------------------------- */

static uint8_t command(struct fixture *f, uint8_t class, uint8_t code, const void *data, size_t len)
{
    struct drv_segment segments[3] = {
        {rig_alloc(f->rig, 2), 2, false},
        {len ? rig_alloc(f->rig, len) : 0, (uint32_t)len, false},
        {rig_alloc(f->rig, 1), 1, true},
    };
    uint8_t *status = rig_host(f->rig, segments[2].gpa, 1);

    memcpy(rig_host(f->rig, segments[0].gpa, 2), (uint8_t[]){class, code}, 2);
    if (len)
        memcpy(rig_host(f->rig, segments[1].gpa, len), data, len);
    else
        segments[1] = segments[2];
    *status = 0xee;
    assert_int_equal(drv_request(&f->drv, CTL, segments, len ? 3 : 2), 1);
    return *status;
}

static void control_commands_are_judged(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint8_t class, code, expected;
        uint8_t len;
        uint8_t data[24];
    } rows[] = {
        {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_OK, 1, {1}},
        {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOBCAST, VIRTIO_NET_OK, 1, {1}},
        {VIRTIO_NET_CTRL_RX, 6, VIRTIO_NET_ERR, 1, {1}},
        {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_ERR, 2, {1}},
        {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_ERR, 0, {0}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_OK, 6, {2, 1, 2, 3, 4, 5}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_ERR, 5, {2, 1, 2, 3, 4}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_OK, 8, {0}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_OK, 14, {1}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_ERR, 14, {2}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_ERR, 9, {0}},
        {VIRTIO_NET_CTRL_MAC,
         VIRTIO_NET_CTRL_MAC_TABLE_SET,
         VIRTIO_NET_ERR,
         14,
         {0xff, 0xff, 0xff, 0xff}},
        {VIRTIO_NET_CTRL_MAC, 2, VIRTIO_NET_ERR, 0, {0}},
        {VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, VIRTIO_NET_OK, 2, {0xff, 0x0f}},
        {VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, VIRTIO_NET_ERR, 2, {0, 0x10}},
        {VIRTIO_NET_CTRL_VLAN, 2, VIRTIO_NET_ERR, 2, {1}},
        {VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_OK, 0, {0}},
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, 2, {1}},
        {VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, VIRTIO_NET_ERR, 8, {2}},
        {77, 0, VIRTIO_NET_ERR, 0, {0}},
    };

    drv_bring_up(&f->drv, ALL);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint8_t got = command(f, rows[i].class, rows[i].code, rows[i].data, rows[i].len);
        if (got != rows[i].expected)
            fail_msg("row %zu: status %u, expected %u", i, got, rows[i].expected);
    }
    assert_int_equal(drv_read(&f->drv, f->drv.config, 1), 2); /* the MAC that was set */
}

static void commands_without_their_feature_fail(void **state)
{
    struct fixture *f = *state;

    drv_bring_up(&f->drv, VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ));
    assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 0, "\1", 1), VIRTIO_NET_ERR);
    assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 1, "\2\1\1\1\1\1", 6), VIRTIO_NET_ERR);
    assert_int_equal(command(f, VIRTIO_NET_CTRL_ANNOUNCE, 0, NULL, 0), VIRTIO_NET_ERR);
}

static void offloads_follow_the_driver(void **state)
{
    struct fixture *f = *state;
    uint64_t offloads = htole64(VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM));

    drv_bring_up(&f->drv, ALL);
    pthread_mutex_lock(&f->dev->lock);
    assert_int_equal(f->cable->offloads,
                     NETDEV_RX_CSUM | NETDEV_RX_TSO4 | NETDEV_RX_TSO6 | NETDEV_RX_ECN);
    pthread_mutex_unlock(&f->dev->lock);
    assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &offloads, 8), VIRTIO_NET_OK);
    pthread_mutex_lock(&f->dev->lock);
    assert_int_equal(f->cable->offloads, NETDEV_RX_CSUM);
    pthread_mutex_unlock(&f->dev->lock);
    offloads = htole64(VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM) | 1);
    assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &offloads, 8), VIRTIO_NET_ERR);
    drv_set_status(&f->drv, 0);
    pthread_mutex_lock(&f->dev->lock);
    assert_int_equal(f->cable->offloads, 0);
    pthread_mutex_unlock(&f->dev->lock);
}

static void filter_follows_modes_and_tables(void **state)
{
    struct fixture *f = *state;
    static const uint8_t own[6] = {0x52, 0x54, 0, 1, 2, 3}, other[6] = {2, 0, 0, 0, 0, 9};
    static const uint8_t listed[6] = {2, 0, 0, 0, 0, 8}, group[6] = {1, 0, 0x5e, 0, 0, 1};
    static const uint8_t joined[6] = {1, 0, 0x5e, 0, 0, 2};
    static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    /* Frames are sent in one go; the mark at the end is always wanted. */
    static const struct {
        const char *name;
        uint8_t modes[6]; /* promisc, allmulti, alluni, nomulti, nouni, nobcast */
        const char *expected;
    } rows[] = {
        {"promiscuous", {1, 0, 0, 0, 0, 0}, "owgljb"}, {"plain", {0, 0, 0, 0, 0, 0}, "oljb"},
        {"allmulti", {0, 1, 0, 0, 0, 0}, "ogljb"},     {"alluni", {0, 0, 1, 0, 0, 0}, "owljb"},
        {"nomulti", {0, 1, 0, 1, 0, 0}, "olb"},        {"nouni", {0, 0, 1, 0, 1, 0}, "jb"},
        {"nobcast", {0, 0, 0, 0, 0, 1}, "olj"},
    };
    const struct {
        char mark;
        const uint8_t *mac;
    } frames[] = {{'o', own}, {'w', other}, {'g', group}, {'l', listed}, {'j', joined}, {'b', all}};
    uint8_t table[20] = {1, 0, 0, 0, 2, 0, 0, 0, 0, 8, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 2};
    struct drv_segment buffers[64];
    unsigned next = 0, n_added = 0;

    drv_bring_up(&f->drv, ALL);
    assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 0, table, sizeof(table)), VIRTIO_NET_OK);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        size_t n_expected = strlen(rows[i].expected);
        g_autoptr(GString) got = g_string_new(NULL);

        for (uint8_t mode = 0; mode < 6; mode++)
            assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, mode, &rows[i].modes[mode], 1), 0);
        for (size_t n = 0; n < G_N_ELEMENTS(frames); n++) {
            uint8_t frame[60] = {0};
            memcpy(frame, frames[n].mac, 6);
            frame[14] = (uint8_t)frames[n].mark;
            inject(f, frame, sizeof(frame));
        }
        for (size_t n = 0; n < n_expected; n++) {
            uint8_t bytes[128];
            buffers[n_added] = rx_buffer(f, 128);
            drv_add(&f->drv, RX, &buffers[n_added++], 1);
            drv_kick(&f->drv, RX);
            receive(f, buffers, &next, bytes);
            g_string_append_c(got, (char)bytes[HEAD + 14]);
        }
        assert_string_equal(got->str, rows[i].expected);
        rig_settle(f->rig);
    }
}

static void vlans_are_filtered(void **state)
{
    struct fixture *f = *state;
    struct drv_segment buffers[4];
    unsigned next = 0;
    uint8_t got[128], frame[60] = {0};

    drv_bring_up(&f->drv, ALL);
    assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 0, "\0", 1), VIRTIO_NET_OK);
    assert_int_equal(command(f, VIRTIO_NET_CTRL_VLAN, 0, "\7\0", 2), VIRTIO_NET_OK);
    for (unsigned i = 0; i < 4; i++) {
        buffers[i] = rx_buffer(f, 128);
        drv_add(&f->drv, RX, &buffers[i], 1);
    }
    drv_kick(&f->drv, RX);
    memcpy(frame, guest_mac, 6);
    memcpy(frame + 12, "\x81\x00\x00\x08", 4);
    inject(f, frame, sizeof(frame));
    frame[15] = 7;
    inject(f, frame, sizeof(frame));
    receive(f, buffers, &next, got);
    assert_int_equal(got[HEAD + 15], 7);
    assert_int_equal(command(f, VIRTIO_NET_CTRL_VLAN, 1, "\7\0", 2), VIRTIO_NET_OK);
    inject(f, frame, sizeof(frame));
    memcpy(frame + 12, "\x08\x00", 2);
    inject(f, frame, sizeof(frame));
    receive(f, buffers, &next, got);
    assert_int_equal(got[HEAD + 12], 8);
}

/* ---- announcing ------------------------------------------------------------------------------ */

static void expect_rarp(struct fixture *f, const uint8_t *mac)
{
    size_t skip = f->cable->net.has_vnet_header ? HEAD : 0;
    uint8_t got[200];

    assert_int_equal(recv(f->peer, got, sizeof(got), 0), skip + 60);
    assert_memory_equal(got + skip, "\xff\xff\xff\xff\xff\xff", 6);
    assert_memory_equal(got + skip + 6, mac, 6);
    assert_memory_equal(got + skip + 12, "\x80\x35\x00\x01\x08\x00\x06\x04\x00\x03", 10);
    assert_memory_equal(got + skip + 22, mac, 6);
    assert_memory_equal(got + skip + 32, mac, 6);
}

static uint16_t config_status(struct fixture *f)
{
    return (uint16_t)drv_read(&f->drv, f->drv.config + 6, 2);
}

static void announces_by_itself_and_asks_the_guest(void **state)
{
    struct fixture *f = *state;
    uint32_t generation;

    drv_bring_up(&f->drv, ALL);
    assert_int_equal(config_status(f), VIRTIO_NET_S_LINK_UP);
    generation = drv_read(&f->drv, f->drv.common + 21, 1);
    device_announce(f->dev);
    expect_rarp(f, guest_mac);
    rig_settle(f->rig);
    assert_int_equal(config_status(f), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    assert_int_not_equal(drv_read(&f->drv, f->drv.common + 21, 1), generation);
    assert_int_equal(drv_read_isr(&f->drv), VIRTIO_ISR_CONFIG);
    /* Asked again before it has answered: one frame more, no further interrupt. */
    device_announce(f->dev);
    expect_rarp(f, guest_mac);
    rig_settle(f->rig);
    assert_int_equal(drv_read_isr(&f->drv), 0);
    assert_int_equal(command(f, VIRTIO_NET_CTRL_ANNOUNCE, 0, NULL, 0), VIRTIO_NET_OK);
    assert_int_equal(config_status(f), VIRTIO_NET_S_LINK_UP);
}

static void announces_for_a_guest_without_driver(void **state)
{
    struct fixture *f = *state;

    device_announce(f->dev);
    expect_rarp(f, guest_mac);
    rig_settle(f->rig);
    assert_int_equal(drv_read_isr(&f->drv), 0);
}

static void announces_once_it_runs(void **state)
{
    struct fixture *f = *state;

    assert_true(device_stop(f->dev, clock_mono_ns() + 10000000000u, NULL));
    device_announce(f->dev);
    rig_settle(f->rig);
    assert_int_equal(recv(f->peer, &(char){0}, 1, MSG_DONTWAIT), -1);
    device_start(f->dev);
    expect_rarp(f, guest_mac);
}

static void announces_the_address_the_guest_has_set(void **state)
{
    struct fixture *f = *state;

    drv_bring_up(&f->drv, ALL);
    command(f, VIRTIO_NET_CTRL_MAC, 1, "\2\1\2\3\4\5", 6);
    device_announce(f->dev);
    expect_rarp(f, (const uint8_t *)"\2\1\2\3\4\5");
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
#define T_VNET(fn)                                                                                 \
    {                                                                                              \
#fn "/vnet", fn, setup_vnet, teardown, NULL                                                \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(receives_frames_in_order),
        T(merges_buffers_for_large_frames),
        T(frames_wait_in_the_back_end_for_buffers),
        T(a_frame_that_lacks_buffers_is_completed_later),
        T(drops_what_never_fits),
        T(broken_receive_buffers_need_a_reset),
        T(transmits_frames),
        T_VNET(transmits_frames),
        T(frames_wait_in_the_ring_for_the_back_end),
        T(frame_without_header_needs_a_reset),
        T(drops_frames_of_impossible_size),
        T(a_failing_back_end_is_asked_again),
        T(too_many_segments_need_a_reset),
        T(control_commands_are_judged),
        T(commands_without_their_feature_fail),
        T_VNET(offloads_follow_the_driver),
        T(filter_follows_modes_and_tables),
        T(vlans_are_filtered),
        T(announces_by_itself_and_asks_the_guest),
        T_VNET(announces_by_itself_and_asks_the_guest),
        T(announces_for_a_guest_without_driver),
        T(announces_once_it_runs),
        T(announces_the_address_the_guest_has_set),
    };

    return cmocka_run_group_tests_name("virtio-net", tests, NULL, NULL);
}
