/* SPDX-License-Identifier: MIT */
/*
 * virtio-net and a move: frames that are handed on, frames that were, and in which order the guest
 * finds them. The device is at both ends in turn: what it hands on is collected, what it takes is
 * made up.
 */
#include "driver.h"

#include <endian.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cable.h"
#include "device/virtio/net.h"

#define HEAD        NET_HEADER_BYTES
#define FRAME_BYTES 60u
#define N_BUFFERS   200u

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct fixture {
    struct rig *rig;
    struct device *dev;
    struct cable *cable;
    int peer;
    struct drv drv;
    uint64_t buffers[N_BUFFERS];
    unsigned n_received;
    /* what was handed on */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GArray *numbers; /* of unsigned; guarded by lock */
    unsigned n_lasts;
};

static int setup(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);
    struct virtio_config config;

    f->rig = rig_new();
    config = rig_config(f->rig, "virtio-net/0", 2);
    f->cable = cable_new(f->rig, false, &f->peer);
    f->dev = virtio_net_new(&config, &f->cable->net, guest_mac, NULL);
    assert_non_null(f->dev);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    f->numbers = g_array_new(FALSE, FALSE, sizeof(unsigned));
    device_reset(f->dev);
    device_start(f->dev);
    drv_probe(&f->drv, f->rig, f->dev, 2);
    drv_bring_up(&f->drv, VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF));
    for (unsigned i = 0; i < N_BUFFERS; i++) {
        struct drv_segment buffer = {rig_alloc(f->rig, 1526), 1526, true};

        f->buffers[i] = buffer.gpa;
        drv_add(&f->drv, NET_RX, &buffer, 1);
    }
    drv_kick(&f->drv, NET_RX);
    *state = f;
    return 0;
}

static void stop(struct fixture *f)
{
    assert_true(device_stop(f->dev, clock_mono_ns() + UINT64_C(60000000000), NULL));
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    stop(f);
    device_free(f->dev);
    close(f->peer);
    rig_free(f->rig);
    g_array_unref(f->numbers);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    g_free(f);
    return 0;
}

/* A header and a frame that carries its number. */
static void fill(uint8_t *bytes, uint32_t number)
{
    memset(bytes, 0, HEAD + FRAME_BYTES);
    memcpy(bytes + HEAD, guest_mac, 6);
    memcpy(bytes + HEAD + 20, &number, sizeof(number));
}

static void inject(struct fixture *f, uint32_t number)
{
    uint8_t bytes[HEAD + FRAME_BYTES];

    fill(bytes, number);
    assert_int_equal(send(f->peer, bytes + HEAD, FRAME_BYTES, 0), FRAME_BYTES);
}

static void take(struct fixture *f, uint32_t number)
{
    uint8_t bytes[HEAD + FRAME_BYTES];

    fill(bytes, number);
    device_take_frame(f->dev, bytes, sizeof(bytes), false);
}

/* The numbers of the frames that the guest gets next are these. */
static void expect(struct fixture *f, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t head, len, number;

        drv_await_used(&f->drv, NET_RX, &head, &len);
        assert_int_equal(len, HEAD + FRAME_BYTES);
        memcpy(&number, (uint8_t *)rig_host(f->rig, f->buffers[f->n_received++], len) + HEAD + 20,
               sizeof(number));
        assert_int_equal(number, first + i);
    }
}

static void collect(void *opaque, struct device *dev, const void *frame, uint32_t n_bytes,
                    bool is_last)
{
    struct fixture *f = opaque;
    unsigned number;

    pthread_mutex_lock(&f->lock);
    assert_int_equal(f->n_lasts, 0);
    if (n_bytes) {
        memcpy(&number, (const uint8_t *)frame + HEAD + 20, sizeof(number));
        g_array_append_val(f->numbers, number);
    }
    f->n_lasts += is_last;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void expect_handed_on(struct fixture *f, unsigned first, unsigned n)
{
    pthread_mutex_lock(&f->lock);
    while (f->numbers->len < n)
        pthread_cond_wait(&f->changed, &f->lock);
    assert_int_equal(f->numbers->len, n);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(g_array_index(f->numbers, unsigned, i), first + i);
    pthread_mutex_unlock(&f->lock);
}

static void announce_elsewhere(struct fixture *f)
{
    uint8_t frame[FRAME_BYTES] = {0};

    memset(frame, 0xff, 6);
    memcpy(frame + 6, guest_mac, 6);
    frame[12] = 0x80, frame[13] = 0x35;
    assert_int_equal(send(f->peer, frame, sizeof(frame), 0), sizeof(frame));
}

/* ---- at the host that was left --------------------------------------------------------------- */

static void hands_on_what_waits_and_what_comes_until_the_announcement(void **state)
{
    struct fixture *f = *state;
    const struct device_forward to = {collect, f};

    inject(f, 0);
    expect(f, 0, 1);
    stop(f);
    for (unsigned i = 1; i < 6; i++)
        inject(f, i);
    assert_true(device_forward(f->dev, &to));
    expect_handed_on(f, 1, 5);
    inject(f, 6);
    expect_handed_on(f, 1, 6);
    announce_elsewhere(f);
    pthread_mutex_lock(&f->lock);
    while (f->n_lasts == 0)
        pthread_cond_wait(&f->changed, &f->lock);
    pthread_mutex_unlock(&f->lock);
    /* What comes now came to the destination's port as well. */
    inject(f, 7);
    rig_settle(f->rig);
    device_forward(f->dev, NULL);
    expect_handed_on(f, 1, 6);
    assert_int_equal(f->n_lasts, 1);
}

static void a_guest_that_stays_finds_what_was_handed_on(void **state)
{
    struct fixture *f = *state;
    const struct device_forward to = {collect, f};

    stop(f);
    for (unsigned i = 0; i < 5; i++)
        inject(f, i);
    assert_true(device_forward(f->dev, &to));
    expect_handed_on(f, 0, 5);
    device_forward(f->dev, NULL);
    assert_int_equal(f->n_lasts, 1);
    inject(f, 5);
    device_start(f->dev);
    expect(f, 0, 6);
}

static void before_commit_frames_wait_where_they_are(void **state)
{
    struct fixture *f = *state;

    stop(f);
    for (unsigned i = 0; i < 5; i++)
        inject(f, i);
    rig_settle(f->rig);
    device_start(f->dev);
    expect(f, 0, 5);
}

/* ---- at the host where it is ----------------------------------------------------------------- */

static void frames_of_the_other_host_come_before_those_of_the_own_port(void **state)
{
    struct fixture *f = *state;

    ((struct net *)f->drv.vdev)->hold_limit_ns = 600 * NS_PER_S; /* a slow host must not end it */
    stop(f);
    inject(f, 1000); /* before it is announced: the source received that too */
    device_arrive(f->dev, true, true);
    inject(f, 5);
    device_start(f->dev);
    rig_settle(f->rig);
    for (unsigned i = 0; i < 5; i++)
        take(f, i);
    device_take_frame(f->dev, NULL, 0, true);
    expect(f, 0, 6);
}

static void the_own_port_does_not_wait_for_ever(void **state)
{
    struct fixture *f = *state;

    stop(f);
    device_arrive(f->dev, true, true);
    inject(f, 0);
    device_start(f->dev);
    expect(f, 0, 1); /* nobody has said the last */
}

static void announces_before_it_runs(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[2000];

    stop(f);
    device_arrive(f->dev, true, true);
    assert_true(recv(f->peer, frame, sizeof(frame), 0) >= (ssize_t)FRAME_BYTES);
    assert_int_equal(frame[12] << 8 | frame[13], 0x8035);
    assert_memory_equal(frame + 6, guest_mac, 6);
    device_start(f->dev);
}

static void hostile_frames_are_dropped(void **state)
{
    struct fixture *f = *state;
    struct virtio_net_hdr_v1 header;
    uint8_t bytes[HEAD + FRAME_BYTES], *large = g_malloc0(200000);
    static const struct virtio_net_hdr_v1 bad[] = {
        {.flags = 0x80},
        {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 14, .csum_offset = 16},
        {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1448},
        {.gso_type = VIRTIO_NET_HDR_GSO_UDP},
        {.gso_type = 77},
        {.gso_type = VIRTIO_NET_HDR_GSO_ECN},
        {.hdr_len = 61},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        fill(bytes, 1000);
        header = bad[i];
        memcpy(bytes, &header, sizeof(header));
        device_take_frame(f->dev, bytes, sizeof(bytes), false);
    }
    fill(bytes, 1000);
    device_take_frame(f->dev, bytes, HEAD + NET_FRAME_MIN - 1, false);
    device_take_frame(f->dev, bytes, 1, false);
    device_take_frame(f->dev, large, 200000, false);
    take(f, 0);
    expect(f, 0, 1);
    g_free(large);
}

static void a_flood_is_bounded(void **state)
{
    struct fixture *f = *state;
    const struct net *net = (const struct net *)f->drv.vdev;

    stop(f);
    for (unsigned i = 0; i < 6000; i++)
        take(f, i);
    assert_int_equal(net->waiting.length, 4096);
    assert_true(net->waiting_bytes <= 4u << 20);
    device_start(f->dev);
    expect(f, 0, N_BUFFERS);
}

static void a_reset_forgets_them(void **state)
{
    struct fixture *f = *state;
    const struct net *net = (const struct net *)f->drv.vdev;

    stop(f);
    take(f, 0);
    assert_int_equal(net->waiting.length, 1);
    device_reset(f->dev);
    assert_int_equal(net->waiting.length, 0);
    device_start(f->dev);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(hands_on_what_waits_and_what_comes_until_the_announcement),
        T(a_guest_that_stays_finds_what_was_handed_on),
        T(before_commit_frames_wait_where_they_are),
        T(frames_of_the_other_host_come_before_those_of_the_own_port),
        T(the_own_port_does_not_wait_for_ever),
        T(announces_before_it_runs),
        T(hostile_frames_are_dropped),
        T(a_flood_is_bounded),
        T(a_reset_forgets_them),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
