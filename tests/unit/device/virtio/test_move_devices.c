/* SPDX-License-Identifier: MIT */
/*
 * Disks, networks, consoles and balloons move in the middle of their work: nothing is lost, nothing
 * happens twice.
 */
#include "cable.h"
#include "driver.h"
#include "mover.h"

#include <endian.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/virtio_balloon.h>
#include <linux/virtio_blk.h>

#include "device/virtio/net.h"

#define SLOT 5
#define ALL  UINT64_MAX

/* ---- blk ------------------------------------------------------------------------------------- */

#define BLK_OPS     30u
#define BLK_SECTORS 4096u

static struct device *new_blk(struct rig *rig, const char *spec)
{
    struct virtio_config config = rig_config(rig, "virtio-blk/0", SLOT);
    struct blockdev *disk = blockdev_open(spec, false, rig->loop, NULL);
    struct device *dev;

    assert_non_null(disk);
    dev = virtio_blk_new(&config, disk, NULL, NULL);
    assert_non_null(dev);
    device_reset(dev);
    return dev;
}

/* A write whose data says which one it is. */
static void add_write(struct drv *drv, unsigned number, uint64_t gpa)
{
    const struct drv_segment segments[3] = {
        {gpa, 16, false}, {gpa + 512, 1024, false}, {gpa + 16, 1, true}};
    struct virtio_blk_outhdr header = {
        .type = htole32(VIRTIO_BLK_T_OUT),
        .sector = htole64(number * 2 % BLK_SECTORS),
    };
    uint8_t *host = rig_host(drv->rig, gpa, 2048);

    memcpy(host, &header, sizeof(header));
    host[16] = 0xee;
    for (unsigned i = 0; i < 1024; i += 4)
        memcpy(host + 512 + i, &number, 4);
    drv_add(drv, 0, segments, 3);
}

static void writes_are_done_once_across_moves(void **state)
{
    g_autofree char *path = NULL;
    g_autofree char *spec = NULL;
    int fd = g_file_open_tmp("gw-move-XXXXXX", &path, NULL);
    struct rig *rigs[2];
    struct device *devs[2];
    struct drv drv;
    uint64_t area;
    unsigned number = 0, n_moved = 0;

    assert_true(fd >= 0 && ftruncate(fd, BLK_SECTORS * 512) == 0);
    spec = g_strdup_printf("%s,engine=threads", path);
    for (unsigned i = 0; i < 2; i++) {
        rigs[i] = rig_new();
        devs[i] = new_blk(rigs[i], i ? path : spec);
    }
    device_start(devs[0]);
    drv_probe(&drv, rigs[0], devs[0], SLOT);
    drv_bring_up(&drv, ALL & ~VIRTIO_FEATURE(VIRTIO_BLK_F_CONFIG_WCE));
    area = rig_alloc(rigs[0], BLK_OPS * 2048);
    for (unsigned round = 0; round < 60; round++) {
        unsigned here = round % 2, n_used = 0;
        uint32_t head, len;

        for (unsigned i = 0; i < BLK_OPS; i++)
            add_write(&drv, number + i, area + i * 2048);
        drv_kick(&drv, 0);
        mover_stop(devs[here]);
        while (drv_poll_used(&drv, 0, &head, &len))
            n_used++;
        n_moved += BLK_OPS - n_used;
        mover_move(&drv, devs[here], rigs[!here], devs[!here]);
        for (; n_used < BLK_OPS; n_used++)
            drv_await_used(&drv, 0, &head, &len);
        assert_false(drv_poll_used(&drv, 0, &head, &len));
        for (unsigned i = 0; i < BLK_OPS; i++, number++) {
            uint32_t word;
            assert_int_equal(((uint8_t *)rig_host(drv.rig, area + i * 2048, 32))[16],
                             VIRTIO_BLK_S_OK);
            assert_int_equal(pread(fd, &word, 4, number * 2 % BLK_SECTORS * 512), 4);
            assert_int_equal(word, number);
        }
    }
    print_message("# %u of %u requests were still to do when they moved\n", n_moved, number);
    for (unsigned i = 0; i < 2; i++) {
        mover_dispose(devs[i]);
        rig_free(rigs[i]);
    }
    close(fd);
    unlink(path);
}

static void another_disk_size_is_refused(void **state)
{
    char *paths[2];
    struct rig *rigs[2];
    struct device *devs[2];
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < 2; i++) {
        int fd = g_file_open_tmp("gw-move-XXXXXX", &paths[i], NULL);
        assert_true(fd >= 0 && ftruncate(fd, (BLK_SECTORS + i) * 512) == 0);
        close(fd);
        rigs[i] = rig_new();
        devs[i] = new_blk(rigs[i], paths[i]);
    }
    assert_false(mover_load(devs[0], devs[1], &error));
    assert_non_null(strstr(error->message, "capacity_sectors"));
    for (unsigned i = 0; i < 2; i++) {
        mover_dispose(devs[i]);
        rig_free(rigs[i]);
        unlink(paths[i]);
        g_free(paths[i]);
    }
}

/* ---- net ------------------------------------------------------------------------------------- */

struct net_pair {
    struct rig *rigs[2];
    struct device *devs[2];
    struct cable *cables[2];
    int peer;
    struct drv drv;
};

static int setup_net(void **state)
{
    struct net_pair *pair = g_new0(struct net_pair, 1);
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};

    for (unsigned i = 0; i < 2; i++) {
        struct virtio_config config;

        pair->rigs[i] = rig_new();
        pair->cables[i] = i ? cable_dup(pair->rigs[i], pair->cables[0])
                            : cable_new(pair->rigs[i], true, &pair->peer);
        config = rig_config(pair->rigs[i], "virtio-net/0", SLOT);
        pair->devs[i] = virtio_net_new(&config, &pair->cables[i]->net, mac, NULL);
        assert_non_null(pair->devs[i]);
        device_reset(pair->devs[i]);
    }
    device_start(pair->devs[0]);
    drv_probe(&pair->drv, pair->rigs[0], pair->devs[0], SLOT);
    drv_bring_up(&pair->drv, ALL);
    *state = pair;
    return 0;
}

static int teardown_net(void **state)
{
    struct net_pair *pair = *state;

    for (unsigned i = 0; i < 2; i++) {
        mover_dispose(pair->devs[i]);
        rig_free(pair->rigs[i]);
    }
    close(pair->peer);
    g_free(pair);
    return 0;
}

#define NET_FRAME   900u
#define NET_BUFFER  200u
#define NET_BUFFERS 5u /* of a frame with its header */

/* The next frame that the guest has received must be this one. */
static void expect_frame(struct net_pair *pair, uint32_t number, uint64_t buffers)
{
    uint8_t got[NET_BUFFERS * NET_BUFFER];
    uint32_t head, len, total = 0;

    for (unsigned i = 0; i < NET_BUFFERS; i++) {
        drv_await_used(&pair->drv, NET_RX, &head, &len);
        /* Descriptors are single, so the head says which buffer it is. */
        memcpy(got + total,
               rig_host(pair->drv.rig, buffers + (head % NET_BUFFERS) * NET_BUFFER, len), len);
        total += len;
    }
    assert_int_equal(total, NET_HEADER_BYTES + NET_FRAME);
    for (unsigned i = 16; i < NET_FRAME; i += 4)
        assert_memory_equal(got + NET_HEADER_BYTES + i, &number, 4);
}

static void add_buffer(struct net_pair *pair, uint64_t buffers)
{
    struct drv_segment segment = {0, NET_BUFFER, true};

    /* Wherever the ring stands: the head modulo the number of buffers is the buffer. A ring of
     * 255 would suit; of 256 descriptors the last is skipped. */
    if (pair->drv.queues[NET_RX].next_desc == 255)
        pair->drv.queues[NET_RX].next_desc = 0;
    segment.gpa = buffers + (pair->drv.queues[NET_RX].next_desc % NET_BUFFERS) * NET_BUFFER;
    drv_add(&pair->drv, NET_RX, &segment, 1);
    drv_kick(&pair->drv, NET_RX);
}

static void send_numbered(int fd, uint32_t number)
{
    uint8_t packet[NET_HEADER_BYTES + NET_FRAME] = {0};

    memcpy(packet + NET_HEADER_BYTES, "\2\0\0\0\0\1", 6);
    for (unsigned i = 16; i < NET_FRAME; i += 4)
        memcpy(packet + NET_HEADER_BYTES + i, &number, 4);
    assert_int_equal(send(fd, packet, sizeof(packet), 0), sizeof(packet));
}

static void frames_are_received_once_across_moves(void **state)
{
    struct net_pair *pair = *state;
    uint64_t buffers = rig_alloc(pair->rigs[0], NET_BUFFERS * NET_BUFFER);
    unsigned here = 0, n_held = 0;

    send_numbered(pair->peer, 0);
    for (uint32_t number = 0; number < 100; number++) {
        /* The move comes before, between and after the buffers of a frame. */
        unsigned move_at = number % (NET_BUFFERS + 2);

        send_numbered(pair->peer, number + 1);
        for (unsigned i = 0; i <= NET_BUFFERS; i++) {
            if (i == move_at) {
                if (number % 2)
                    rig_settle(pair->drv.rig);
                mover_stop(pair->devs[here]);
                n_held += ((struct net *)pair->drv.vdev)->held_bytes != 0;
                mover_move(&pair->drv, pair->devs[here], pair->rigs[!here], pair->devs[!here]);
                here = !here;
            }
            if (i < NET_BUFFERS)
                add_buffer(pair, buffers);
        }
        expect_frame(pair, number, buffers);
    }
    print_message("# %u moves with a held frame\n", n_held);
    assert_int_equal(drv_status(&pair->drv), 0xf);
}

static void frames_are_sent_once_across_moves(void **state)
{
    struct net_pair *pair = *state;
    uint64_t area = rig_alloc(pair->rigs[0], 100 * 1024);
    struct drv_segment segment = {0, NET_HEADER_BYTES + NET_FRAME, false};
    uint32_t sent = 0, received = 0;
    unsigned here = 0, n_waiting = 0;

    for (unsigned i = 0; i < 2; i++)
        setsockopt(pair->cables[i]->fd, SOL_SOCKET, SO_SNDBUF, &(int){4096}, sizeof(int));
    for (unsigned round = 0; round < 20; round++) {
        uint32_t head, len;

        for (unsigned i = 0; i < 50; i++, sent++) {
            segment.gpa = area + sent % 100 * 1024;
            memset(rig_host(pair->drv.rig, segment.gpa, 1024), 0, NET_HEADER_BYTES);
            memcpy((uint8_t *)rig_host(pair->drv.rig, segment.gpa, 1024) + 100, &sent, 4);
            drv_add(&pair->drv, NET_TX, &segment, 1);
            drv_kick(&pair->drv, NET_TX);
        }
        if (round % 2)
            rig_settle(pair->drv.rig);
        mover_stop(pair->devs[here]);
        n_waiting += (uint16_t)(sent - pair->drv.vdev->queues[NET_TX].next_avail);
        mover_move(&pair->drv, pair->devs[here], pair->rigs[!here], pair->devs[!here]);
        here = !here;
        for (; received < sent; received++) {
            uint8_t got[2000];
            uint32_t number;
            assert_int_equal(recv(pair->peer, got, sizeof(got), 0), NET_HEADER_BYTES + NET_FRAME);
            memcpy(&number, got + 100, 4);
            assert_int_equal(number, received);
        }
        for (unsigned i = 0; i < 50; i++)
            drv_await_used(&pair->drv, NET_TX, &head, &len);
    }
    print_message("# %u of %u frames moved in the ring\n", n_waiting, sent);
}

static void what_the_driver_has_set_moves(void **state)
{
    struct net_pair *pair = *state;
    struct net *there = (struct net *)virtio_from_device(pair->devs[1]);
    const struct drv_segment segments[2] = {{rig_alloc(pair->rigs[0], 16), 8, false},
                                            {rig_alloc(pair->rigs[0], 1), 1, true}};
    uint8_t got[100];

    memcpy(rig_host(pair->rigs[0], segments[0].gpa, 8), "\1\1\2\2\2\2\2\2", 8); /* MAC_ADDR_SET */
    drv_request(&pair->drv, NET_CONTROL, segments, 2);
    device_announce(pair->devs[0]);
    assert_true(recv(pair->peer, got, sizeof(got), 0) > 0);
    rig_settle(pair->rigs[0]);
    mover_move(&pair->drv, pair->devs[0], pair->rigs[1], pair->devs[1]);
    assert_int_equal(drv_read(&pair->drv, pair->drv.config, 4), 0x02020202);
    assert_int_equal(drv_read(&pair->drv, pair->drv.config + 6, 2),
                     VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    pthread_mutex_lock(&pair->devs[1]->lock);
    assert_int_equal(pair->cables[1]->offloads,
                     NETDEV_RX_CSUM | NETDEV_RX_TSO4 | NETDEV_RX_TSO6 | NETDEV_RX_ECN);
    assert_memory_equal(&there->filter, &((struct net *)virtio_from_device(pair->devs[0]))->filter,
                        sizeof(there->filter));
    pthread_mutex_unlock(&pair->devs[1]->lock);
}

static void impossible_net_state_is_refused(void **state)
{
    struct net_pair *pair = *state;
    struct net *net = (struct net *)pair->drv.vdev;
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) other_error = NULL;

    mover_stop(pair->devs[0]);
    mover_copy_memory(pair->rigs[1], pair->rigs[0]);
    net->held_bytes = 25;
    assert_false(mover_load(pair->devs[0], pair->devs[1], &error));
    assert_non_null(strstr(error->message, "a held frame of 25 bytes"));
    net->held_bytes = 0;
    net->guest_offloads |= 1;
    assert_false(mover_load(pair->devs[0], pair->devs[1], &other_error));
    assert_non_null(strstr(other_error->message, "that were not negotiated"));
    net->guest_offloads &= ~UINT64_C(1);
}

/* ---- console --------------------------------------------------------------------------------- */

static struct device *new_console(struct rig *rig, const char *path)
{
    struct virtio_config config = rig_config(rig, "virtio-console/0", SLOT);
    g_autofree char *spec = g_strdup_printf("unix:%s", path);
    struct chardev *chardev = chardev_open(spec, rig->loop, NULL, NULL, NULL);
    struct device *dev;

    assert_non_null(chardev);
    dev = virtio_console_new(&config, chardev, NULL);
    assert_non_null(dev);
    device_reset(dev);
    return dev;
}

static int plug_in(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval deadline = {.tv_sec = RIG_DEADLINE_S};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline));
    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

#define CONSOLE_BYTES (2u << 20)

static uint8_t console_byte(size_t at)
{
    return (uint8_t)(at * 13 + (at >> 9));
}

/* Takes what there is; returns how much of the text is there then. */
static size_t drain(int peer, struct rig *rig, size_t at, size_t end, bool has_more)
{
    unsigned n_empty = 0;

    while (at < end && n_empty < 3) {
        uint8_t got[4096];
        ssize_t n = recv(peer, got, sizeof(got), has_more ? 0 : MSG_DONTWAIT);

        if (n <= 0) {
            n_empty++;
            rig_settle(rig);
            continue;
        }
        n_empty = 0;
        for (ssize_t b = 0; b < n; b++)
            if (got[b] != console_byte(at + (size_t)b))
                fail_msg("byte %zu is wrong", at + (size_t)b);
        at += (size_t)n;
    }
    return at;
}

/* One chain, much larger than every buffer on the way, moves when half of it is out. */
static void output_goes_on_in_the_middle_of_a_chain(void **state)
{
    g_autofree char *dir = g_dir_make_tmp("gw-move-XXXXXX", NULL);
    struct rig *rigs[2];
    struct device *devs[2];
    char *paths[2];
    int peers[2];
    struct drv drv;
    struct drv_segment segment;
    uint32_t head, len;
    size_t at;

    for (unsigned i = 0; i < 2; i++) {
        paths[i] = g_strdup_printf("%s/%u", dir, i);
        rigs[i] = rig_new();
        devs[i] = new_console(rigs[i], paths[i]);
        peers[i] = plug_in(paths[i]);
        rig_settle(rigs[i]);
        rig_settle(rigs[i]);
    }
    device_start(devs[0]);
    drv_probe(&drv, rigs[0], devs[0], SLOT);
    drv_bring_up(&drv, ALL);
    segment = (struct drv_segment){rig_alloc(rigs[0], CONSOLE_BYTES), CONSOLE_BYTES, false};
    for (size_t i = 0; i < CONSOLE_BYTES; i++)
        ((uint8_t *)rig_host(rigs[0], segment.gpa, CONSOLE_BYTES))[i] = console_byte(i);
    drv_add(&drv, 1, &segment, 1);
    drv_kick(&drv, 1);
    rig_settle(rigs[0]);
    assert_false(drv_poll_used(&drv, 1, &head, &len));
    mover_move(&drv, devs[0], rigs[1], devs[1]);
    /* What the source has taken comes out there, all else here. */
    at = drain(peers[0], rigs[0], 0, CONSOLE_BYTES, false);
    assert_in_range(at, 1, CONSOLE_BYTES - 1);
    at = drain(peers[1], rigs[1], at, CONSOLE_BYTES, true);
    assert_int_equal(at, CONSOLE_BYTES);
    drv_await_used(&drv, 1, &head, &len);
    for (unsigned i = 0; i < 2; i++) {
        mover_dispose(devs[i]);
        close(peers[i]);
        rig_free(rigs[i]);
        unlink(paths[i]);
        g_free(paths[i]);
    }
    rmdir(dir);
}

/* ---- balloon --------------------------------------------------------------------------------- */

static void statistics_buffer_and_target_move(void **state)
{
    const struct virtio_balloon_stat stat = {htole16(VIRTIO_BALLOON_S_MEMTOT), htole64(42)};
    struct rig *rigs[2];
    struct device *devs[2];
    struct drv drv;
    struct drv_segment buffer;
    struct virtio_balloon_info info;
    uint32_t head, len;

    for (unsigned i = 0; i < 2; i++) {
        struct virtio_config config;
        rigs[i] = rig_new();
        config = rig_config(rigs[i], "virtio-balloon/0", SLOT);
        devs[i] = virtio_balloon_new(&config, NULL);
        assert_non_null(devs[i]);
        device_reset(devs[i]);
    }
    device_start(devs[0]);
    drv_probe(&drv, rigs[0], devs[0], SLOT);
    drv_bring_up(&drv, ALL);
    virtio_balloon_set_target(devs[0], 77);
    drv_write(&drv, drv.config + 4, 4, 33);
    buffer = (struct drv_segment){rig_alloc(rigs[0], sizeof(stat)), sizeof(stat), false};
    memcpy(rig_host(rigs[0], buffer.gpa, sizeof(stat)), &stat, sizeof(stat));
    drv_add(&drv, 2, &buffer, 1);
    drv_kick(&drv, 2);
    rig_settle(rigs[0]);
    mover_move(&drv, devs[0], rigs[1], devs[1]);
    rig_settle(rigs[1]);
    virtio_balloon_get_info(devs[1], &info);
    assert_int_equal(info.target_pages, 77);
    assert_int_equal(info.actual_pages, 33);
    assert_int_equal(info.stats[VIRTIO_BALLOON_S_MEMTOT], 42);
    assert_false(drv_poll_used(&drv, 2, &head, &len));
    virtio_balloon_ask_stats(devs[1]);
    drv_await_used(&drv, 2, &head, &len);
    for (unsigned i = 0; i < 2; i++) {
        mover_dispose(devs[i]);
        rig_free(rigs[i]);
    }
}

#define T(fn)     cmocka_unit_test(fn)
#define T_NET(fn) cmocka_unit_test_setup_teardown(fn, setup_net, teardown_net)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(writes_are_done_once_across_moves),         T(another_disk_size_is_refused),
        T_NET(frames_are_received_once_across_moves), T_NET(frames_are_sent_once_across_moves),
        T_NET(what_the_driver_has_set_moves),         T_NET(impossible_net_state_is_refused),
        T(output_goes_on_in_the_middle_of_a_chain),   T(statistics_buffer_and_target_move),
    };

    return cmocka_run_group_tests_name("virtio-move-devices", tests, NULL, NULL);
}
