/* SPDX-License-Identifier: MIT */
/*
 * virtio-console over a UNIX socket back end.
 */
#include "driver.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/virtio_console.h>

#define SLOT 6
#define RX   0
#define TX   1

struct fixture {
    struct rig *rig;
    struct device *dev;
    struct chardev *chardev;
    char *dir, *path;
    int peer; /* -1: nobody is connected */
    struct drv drv;
};

static int setup(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);
    g_autofree char *spec = NULL;
    struct virtio_config config;

    f->rig = rig_new();
    config = rig_config(f->rig, "virtio-console/0", SLOT);
    f->dir = g_dir_make_tmp("gw-console-XXXXXX", NULL);
    assert_non_null(f->dir);
    f->path = g_build_filename(f->dir, "socket", NULL);
    spec = g_strdup_printf("unix:%s", f->path);
    f->chardev = chardev_open(spec, f->rig->loop, NULL, NULL, NULL);
    assert_non_null(f->chardev);
    f->dev = virtio_console_new(&config, f->chardev, NULL);
    assert_non_null(f->dev);
    device_reset(f->dev);
    device_start(f->dev);
    drv_probe(&f->drv, f->rig, f->dev, SLOT);
    f->peer = -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    assert_true(device_stop(f->dev, clock_mono_ns() + 10000000000u, NULL));
    if (f->peer >= 0)
        close(f->peer);
    device_free(f->dev);
    rig_free(f->rig);
    unlink(f->path);
    rmdir(f->dir);
    g_free(f->path);
    g_free(f->dir);
    g_free(f);
    return 0;
}

static bool is_connected(void *opaque)
{
    struct fixture *f = opaque;
    bool is;

    pthread_mutex_lock(&f->dev->lock);
    is = chardev_is_connected(f->chardev);
    pthread_mutex_unlock(&f->dev->lock);
    return is;
}

static void plug_in(struct fixture *f)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval deadline = {.tv_sec = RIG_DEADLINE_S};

    f->peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(f->peer, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline));
    g_strlcpy(address.sun_path, f->path, sizeof(address.sun_path));
    assert_int_equal(connect(f->peer, (struct sockaddr *)&address, sizeof(address)), 0);
    rig_await(f->rig, is_connected, f);
}

static void read_exactly(struct fixture *f, void *to, size_t len)
{
    assert_int_equal(recv(f->peer, to, len, MSG_WAITALL), len);
}

static struct drv_segment text(struct fixture *f, const char *string, size_t len)
{
    struct drv_segment segment = {rig_alloc(f->rig, len), (uint32_t)len, false};

    memcpy(rig_host(f->rig, segment.gpa, len), string, len);
    return segment;
}

static void writes_what_the_guest_says(void **state)
{
    struct fixture *f = *state;
    struct drv_segment segments[2];
    char got[16];

    plug_in(f);
    drv_bring_up(&f->drv, VIRTQUEUE_FEATURES);
    segments[0] = text(f, "hello, ", 7);
    segments[1] = text(f, "world\n", 6);
    assert_int_equal(drv_request(&f->drv, TX, segments, 2), 0);
    read_exactly(f, got, 13);
    assert_memory_equal(got, "hello, world\n", 13);
}

static void reads_as_far_as_there_are_buffers(void **state)
{
    struct fixture *f = *state;
    struct drv_segment buffer = {rig_alloc(f->rig, 5), 5, true};
    static const char message[] = "abcdefghijklmnopqrstuvwxyz";
    char got[27] = {0};
    size_t n = 0;

    plug_in(f);
    drv_bring_up(&f->drv, VIRTQUEUE_FEATURES);
    assert_int_equal(send(f->peer, message, 26, 0), 26);
    while (n < 26) {
        uint32_t len = drv_request(&f->drv, RX, &buffer, 1);

        assert_in_range(len, 1, 5);
        memcpy(got + n, rig_host(f->rig, buffer.gpa, len), len);
        n += len;
    }
    assert_string_equal(got, message);
    assert_int_equal(drv_status(&f->drv), 0xf);
}

static void emergency_writes_need_no_driver(void **state)
{
    struct fixture *f = *state;
    char got[2];

    plug_in(f);
    drv_write(&f->drv, f->drv.config + offsetof(struct virtio_console_config, emerg_wr), 4, '!');
    drv_write(&f->drv, f->drv.config + offsetof(struct virtio_console_config, emerg_wr), 1, '?');
    read_exactly(f, got, 2);
    assert_memory_equal(got, "!?", 2);
}

#define CHUNK    4096u
#define N_CHUNKS 200u

static void a_slow_reader_makes_the_guest_wait_and_loses_nothing(void **state)
{
    struct fixture *f = *state;
    struct drv_segment segment = {rig_alloc(f->rig, N_CHUNKS * CHUNK), CHUNK, false};
    uint64_t base = segment.gpa;
    unsigned n_added = 0, n_used = 0, n_read = 0;

    plug_in(f);
    drv_bring_up(&f->drv, VIRTQUEUE_FEATURES);
    memset(rig_host(f->rig, base, N_CHUNKS * CHUNK), 0, N_CHUNKS * CHUNK);
    for (unsigned i = 0; i < N_CHUNKS * CHUNK; i++)
        ((uint8_t *)rig_host(f->rig, base, N_CHUNKS * CHUNK))[i] = (uint8_t)(i + (i >> 8) * 3);
    while (n_read < N_CHUNKS) {
        uint8_t got[CHUNK];
        uint32_t head, len;

        while (n_added < N_CHUNKS && n_added - n_used < 60) {
            segment.gpa = base + n_added++ * CHUNK;
            drv_add(&f->drv, TX, &segment, 1);
            drv_kick(&f->drv, TX);
        }
        rig_settle(f->rig);
        while (drv_poll_used(&f->drv, TX, &head, &len))
            n_used++;
        read_exactly(f, got, CHUNK);
        assert_memory_equal(got, rig_host(f->rig, base + n_read++ * CHUNK, CHUNK), CHUNK);
    }
}

static void an_empty_receive_buffer_needs_a_reset(void **state)
{
    struct fixture *f = *state;
    struct drv_segment segment = {rig_alloc(f->rig, 5), 5, false};

    plug_in(f);
    drv_bring_up(&f->drv, VIRTQUEUE_FEATURES);
    drv_add(&f->drv, RX, &segment, 1);
    drv_kick(&f->drv, RX);
    assert_int_equal(send(f->peer, "x", 1, 0), 1);
    drv_await_broken(&f->drv, "of no size");
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(writes_what_the_guest_says),
        T(reads_as_far_as_there_are_buffers),
        T(emergency_writes_need_no_driver),
        T(a_slow_reader_makes_the_guest_wait_and_loses_nothing),
        T(an_empty_receive_buffer_needs_a_reset),
    };

    return cmocka_run_group_tests_name("virtio-console", tests, NULL, NULL);
}
