/* SPDX-License-Identifier: MIT */
/*
 * A driver gone mad: thousands of random rings, requests and register writes for each device, with
 * stops, moves and resets in between. Whatever it does, the device stops when told, its state can
 * be saved and loaded, and after a reset it serves a driver that behaves.
 *
 * The sequence follows from a seed, so a failure repeats (as far as threads let it): argument 1 is
 * the seed, argument 2 the number of rounds.
 */
#include "cable.h"
#include "driver.h"
#include "mover.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include "device/virtio/net.h"

#define SLOT        9
#define ARENA       (RIG_RAM_GPA + 0x200000)
#define ARENA_BYTES 0x10000u
#define DISK_BYTES  (1 << 20)

static uint64_t seed = 1;
static unsigned n_rounds = 60;

struct random {
    uint64_t x;
};

static uint64_t next(struct random *random)
{
    random->x ^= random->x << 13;
    random->x ^= random->x >> 7;
    random->x ^= random->x << 17;
    return random->x;
}

static uint32_t below(struct random *random, uint32_t n)
{
    return (uint32_t)((next(random) >> 16) % n);
}

static bool one_in(struct random *random, uint32_t n)
{
    return below(random, n) == 0;
}

/* ---- machines with one device ---------------------------------------------------------------- */

struct victim {
    struct rig *rig;
    struct device *dev;
    struct cable *cable;
    struct chardev *chardev;
    int peer;
};

static const char *disk_path;

static struct device *make_rng(struct victim *victim, const struct virtio_config *config)
{
    return virtio_rng_new(config, NULL);
}

static struct device *make_balloon(struct victim *victim, const struct virtio_config *config)
{
    return virtio_balloon_new(config, NULL);
}

static struct device *make_blk(struct victim *victim, const struct virtio_config *config)
{
    struct blockdev *disk = blockdev_open(disk_path, false, victim->rig->loop, NULL);

    assert_non_null(disk);
    return virtio_blk_new(config, disk, "x", NULL);
}

static struct device *make_net(struct victim *victim, const struct virtio_config *config)
{
    static const uint8_t mac[6] = {2, 1, 1, 1, 1, 1};

    victim->cable = cable_new(victim->rig, true, &victim->peer);
    return virtio_net_new(config, &victim->cable->net, mac, NULL);
}

static struct device *make_console(struct victim *victim, const struct virtio_config *config)
{
    victim->chardev = chardev_open("null", victim->rig->loop, NULL, NULL, NULL);
    return virtio_console_new(config, victim->chardev, NULL);
}

typedef struct device *(*make_fn)(struct victim *victim, const struct virtio_config *config);

static void victim_init(struct victim *victim, make_fn make)
{
    struct virtio_config config;

    memset(victim, 0, sizeof(*victim));
    victim->peer = -1;
    victim->rig = rig_new();
    config = rig_config(victim->rig, "virtio-victim/0", SLOT);
    victim->dev = make(victim, &config);
    assert_non_null(victim->dev);
    device_reset(victim->dev);
}

static void victim_clear(struct victim *victim)
{
    mover_stop(victim->dev);
    device_free(victim->dev);
    if (victim->peer >= 0)
        close(victim->peer);
    rig_free(victim->rig);
}

/* ---- madness --------------------------------------------------------------------------------- */

static uint64_t random_gpa(struct random *random)
{
    switch (below(random, 24)) {
    case 0:
        return next(random);
    case 1:
        return RIG_HIGH_GPA - below(random, 64);
    case 2:
        return RIG_HIGH_GPA + RIG_HIGH_BYTES - below(random, 64);
    case 3:
        return RIG_RAM_GPA - below(random, 16);
    default:
        return ARENA + below(random, ARENA_BYTES);
    }
}

static uint32_t random_len(struct random *random)
{
    static const uint32_t lens[] = {1, 2, 4, 8, 12, 16, 17, 20, 60, 512, 513, 1024, 1536, 4096};

    switch (below(random, 32)) {
    case 0:
        return 0;
    case 1:
        return (uint32_t)next(random);
    default:
        return lens[below(random, G_N_ELEMENTS(lens))];
    }
}

/* Bytes that look like requests of some device now and then. */
static void fill_arena(struct drv *drv, struct random *random)
{
    uint8_t *arena = rig_host(drv->rig, ARENA, ARENA_BYTES);

    for (unsigned i = 0; i < 64; i++) {
        uint8_t *at = arena + below(random, ARENA_BYTES - 64);

        for (unsigned b = 0; b < 48; b++)
            at[b] = one_in(random, 3) ? (uint8_t)below(random, 16) : 0;
    }
}

static void random_ring(struct drv *drv, unsigned index, struct random *random)
{
    struct drv_queue *queue = &drv->queues[index];
    unsigned n = 1 + below(random, 24);

    for (unsigned i = 0; i < n; i++) {
        bool is_last = one_in(random, 3);
        uint16_t flags = (uint16_t)((is_last ? 0 : VRING_DESC_F_NEXT) |
                                    (one_in(random, 2) ? VRING_DESC_F_WRITE : 0) |
                                    (one_in(random, 40) ? VRING_DESC_F_INDIRECT : 0));
        uint16_t at = (uint16_t)below(random, queue->size);
        uint16_t link =
            one_in(random, 50) ? (uint16_t)next(random) : (uint16_t)below(random, queue->size);

        drv_write_desc(drv, index, at, random_gpa(random), random_len(random), flags, link);
        if (one_in(random, 2))
            drv_publish(drv, index, one_in(random, 60) ? (uint16_t)next(random) : at);
    }
    if (one_in(random, 40))
        queue->avail_idx = (uint16_t)(queue->avail_idx + below(random, 1000));
    drv_write(drv, drv->notify + index * drv->notify_multiplier, 2, index);
}

/* A request that a sane driver might make: header, data, status. */
static void random_request(struct drv *drv, unsigned index, struct random *random)
{
    struct drv_segment segments[4];
    unsigned n = 1 + below(random, 4);
    unsigned n_out = below(random, n + 1);

    for (unsigned i = 0; i < n; i++)
        segments[i] = (struct drv_segment){ARENA + below(random, ARENA_BYTES - 8192),
                                           1 + below(random, 4096), i >= n_out};
    if (one_in(random, 2) && (drv->features & VIRTQUEUE_FEATURES))
        drv_add(drv, index, segments, n);
    else
        drv_add(drv, index, segments, 1);
    drv_write(drv, drv->notify + index * drv->notify_multiplier, 2, index);
}

static void random_registers(struct drv *drv, struct random *random)
{
    static const unsigned sizes[] = {1, 2, 4};

    for (unsigned i = 0; i < 8; i++) {
        unsigned size = sizes[below(random, 3)];
        uint32_t offset = below(random, one_in(random, 2) ? 0x40 : 0x4000) & ~(size - 1);

        drv_read(drv, drv->bar + offset, size);
        if (one_in(random, 4))
            drv_write(drv, drv->bar + offset, size,
                      one_in(random, 2) ? below(random, 300) : (uint32_t)next(random));
    }
}

static bool is_reset(void *opaque)
{
    return drv_status(opaque) == 0;
}

static void revive(struct drv *drv, struct random *random)
{
    unsigned n_queues = drv_read(drv, drv->common + VIRTIO_PCI_COMMON_NUMQ, 2);

    drv_set_status(drv, 0);
    rig_await(drv->rig, is_reset, drv);
    drv->rig->next_free_gpa = RIG_RAM_GPA + 0x10000;
    drv_negotiate(drv, next(random) | (one_in(random, 2) ? VIRTQUEUE_FEATURES : 0));
    for (unsigned i = 0; i < n_queues; i++) {
        uint16_t size;

        drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
        size = (uint16_t)drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_SIZE, 2);
        drv_setup_queue(drv, i, one_in(random, 3) ? (uint16_t)(1u << below(random, 4)) : size);
    }
    drv_ok(drv);
}

static void load_elsewhere(struct victim *from, make_fn make)
{
    g_autoptr(GError) error = NULL;
    struct victim to;

    victim_init(&to, make);
    mover_copy_memory(to.rig, from->rig);
    if (!mover_load(from->dev, to.dev, &error))
        fail_msg("%s", error->message);
    device_start(to.dev);
    rig_settle(to.rig);
    victim_clear(&to);
}

static void go_mad(make_fn make)
{
    struct random random = {seed * 0x9e3779b97f4a7c15u | 1};
    struct victim victim;
    struct drv drv;

    victim_init(&victim, make);
    device_start(victim.dev);
    drv_probe(&drv, victim.rig, victim.dev, SLOT);
    for (unsigned round = 0; round < n_rounds; round++) {
        unsigned n_queues = drv.vdev->n_queues;

        revive(&drv, &random);
        for (unsigned step = 0; step < 30; step++) {
            unsigned queue = below(&random, n_queues);

            fill_arena(&drv, &random);
            if (one_in(&random, 4))
                random_ring(&drv, queue, &random);
            else
                random_request(&drv, queue, &random);
            if (victim.peer >= 0) {
                static const uint8_t frame[3000];
                /* May fail: nobody reads a broken device's cable. */
                if (send(victim.peer, frame, 1 + below(&random, sizeof(frame)), MSG_DONTWAIT) < 0)
                    assert_int_equal(errno, EAGAIN);
                while (recv(victim.peer, &(char){0}, 1, MSG_DONTWAIT) >= 0)
                    ;
            }
            if (one_in(&random, 20))
                random_registers(&drv, &random);
            if (one_in(&random, 6))
                rig_settle(victim.rig);
        }
        if (one_in(&random, 4)) {
            mover_stop(victim.dev);
            if (one_in(&random, 2))
                load_elsewhere(&victim, make);
            device_start(victim.dev);
        }
    }
    revive(&drv, &random);
    assert_true(drv_status(&drv) & VIRTIO_CONFIG_S_DRIVER_OK);
    assert_false(drv_status(&drv) & VIRTIO_CONFIG_S_NEEDS_RESET);
    victim_clear(&victim);
}

static void rng_survives(void **state)
{
    go_mad(make_rng);
}

static void blk_survives(void **state)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("gw-hostile-XXXXXX", &path, NULL);

    assert_true(fd >= 0 && ftruncate(fd, DISK_BYTES) == 0);
    close(fd);
    disk_path = path;
    go_mad(make_blk);
    unlink(path);
}

static void net_survives(void **state)
{
    go_mad(make_net);
}

static void console_survives(void **state)
{
    go_mad(make_console);
}

static void balloon_survives(void **state)
{
    go_mad(make_balloon);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rng_survives),     cmocka_unit_test(blk_survives),
        cmocka_unit_test(net_survives),     cmocka_unit_test(console_survives),
        cmocka_unit_test(balloon_survives),
    };

#ifdef __SANITIZE_THREAD__
    /* This driver writes requests while the device reads them: what ThreadSanitizer would report
     * is the guest's race, which is what is being tested. */
    printf("1..0 # SKIP the guest races with the device on purpose\n");
    return 0;
#endif
    if (argc > 1)
        seed = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        n_rounds = (unsigned)strtoul(argv[2], NULL, 0);
    return cmocka_run_group_tests_name("virtio-hostile", tests, NULL, NULL);
}
