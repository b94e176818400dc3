/* SPDX-License-Identifier: MIT */
/*
 * The common part of virtio devices moves, by the example of virtio-rng: pending requests, a set-up
 * half done, a broken device. And saved state that no device can have is refused, with the device
 * that should have taken it unharmed.
 */
#include "cable.h"
#include "driver.h"
#include "mover.h"

#include <string.h>
#include <unistd.h>

#include <linux/pci_regs.h>

#define SLOT 5

/* ---- rng: the common part -------------------------------------------------------------------- */

static struct device *new_rng(struct rig *rig)
{
    struct virtio_config config = rig_config(rig, "virtio-rng/0", SLOT);
    struct device *dev = virtio_rng_new(&config, NULL);

    assert_non_null(dev);
    device_reset(dev);
    return dev;
}

struct pair {
    struct rig *rigs[2];
    struct device *devs[2];
    struct drv drv;
};

static int setup_rng(void **state)
{
    struct pair *pair = g_new0(struct pair, 1);

    for (unsigned i = 0; i < 2; i++) {
        pair->rigs[i] = rig_new();
        pair->devs[i] = new_rng(pair->rigs[i]);
    }
    device_start(pair->devs[0]);
    drv_probe(&pair->drv, pair->rigs[0], pair->devs[0], SLOT);
    *state = pair;
    return 0;
}

static int teardown_rng(void **state)
{
    struct pair *pair = *state;

    for (unsigned i = 0; i < 2; i++) {
        mover_dispose(pair->devs[i]);
        rig_free(pair->rigs[i]);
    }
    g_free(pair);
    return 0;
}

static void requests_go_on_after_each_of_many_moves(void **state)
{
    struct pair *pair = *state;
    struct drv_segment segment = {rig_alloc(pair->rigs[0], 16), 16, true};
    uint32_t head, len;

    drv_bring_up(&pair->drv, VIRTQUEUE_FEATURES);
    for (unsigned i = 0; i < 300; i++) {
        unsigned here = i % 2;
        unsigned n_pending = i % 5, n_used = 0;

        for (unsigned r = 0; r < n_pending; r++) {
            drv_add(&pair->drv, 0, &segment, 1);
            /* Some are notified, some are not noticed before the move. */
            if (i % 3)
                drv_kick(&pair->drv, 0);
        }
        mover_move(&pair->drv, pair->devs[here], pair->rigs[!here], pair->devs[!here]);
        for (; n_used < n_pending; n_used++)
            drv_await_used(&pair->drv, 0, &head, &len);
        assert_false(drv_poll_used(&pair->drv, 0, &head, &len));
        if (i % 7 == 0)
            drv_read_isr(&pair->drv);
    }
    assert_int_equal(drv_status(&pair->drv), 0xf);
}

static void a_pending_interrupt_moves(void **state)
{
    struct pair *pair = *state;
    struct drv_segment segment = {rig_alloc(pair->rigs[0], 16), 16, true};

    drv_bring_up(&pair->drv, VIRTQUEUE_FEATURES);
    drv_request(&pair->drv, 0, &segment, 1);
    rig_settle(pair->rigs[0]);
    mover_move(&pair->drv, pair->devs[0], pair->rigs[1], pair->devs[1]);
    /* The bridge drives the lines when it starts; it is not moved here, so ask the register. */
    assert_int_equal(drv_config_space_read(&pair->drv, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT,
                     PCI_STATUS_INTERRUPT);
    assert_int_equal(drv_read_isr(&pair->drv), VIRTIO_ISR_QUEUE);
    assert_int_equal(drv_config_space_read(&pair->drv, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0);
}

static void a_device_without_driver_moves(void **state)
{
    struct pair *pair = *state;
    struct drv_segment segment = {rig_alloc(pair->rigs[0], 16), 16, true};

    drv_set_status(&pair->drv, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    mover_move(&pair->drv, pair->devs[0], pair->rigs[1], pair->devs[1]);
    assert_int_equal(drv_status(&pair->drv), VIRTIO_CONFIG_S_ACKNOWLEDGE);
    /* In the middle of its set-up. */
    drv_negotiate(&pair->drv, VIRTQUEUE_FEATURES);
    mover_move(&pair->drv, pair->devs[1], pair->rigs[0], pair->devs[0]);
    drv_setup_queue(&pair->drv, 0, 32);
    mover_move(&pair->drv, pair->devs[0], pair->rigs[1], pair->devs[1]);
    drv_ok(&pair->drv);
    assert_int_equal(drv_request(&pair->drv, 0, &segment, 1), 16);
}

static void a_broken_device_stays_broken_until_reset(void **state)
{
    struct pair *pair = *state;
    struct drv_segment segment = {rig_alloc(pair->rigs[0], 16), 16, true};

    drv_bring_up(&pair->drv, VIRTQUEUE_FEATURES);
    drv_publish(&pair->drv, 0, 1000);
    drv_kick(&pair->drv, 0);
    drv_await_broken(&pair->drv, "descriptor index 1000");
    mover_move(&pair->drv, pair->devs[0], pair->rigs[1], pair->devs[1]);
    drv_await_broken(&pair->drv, "broken before");
    drv_bring_up(&pair->drv, VIRTQUEUE_FEATURES);
    assert_int_equal(drv_request(&pair->drv, 0, &segment, 1), 16);
}

/* ---- hostile state --------------------------------------------------------------------------- */

static void size_3(struct virtio_device *vdev)
{
    vdev->queues[0].size = 3;
}

static void size_0(struct virtio_device *vdev)
{
    vdev->queues[0].size = 0;
}

static void size_beyond(struct virtio_device *vdev)
{
    vdev->queues[0].size = 128;
}

static void in_flight(struct virtio_device *vdev)
{
    vdev->queues[0].next_avail++;
}

static void desc_misaligned(struct virtio_device *vdev)
{
    vdev->queues[0].desc_gpa += 4;
}

static void avail_outside(struct virtio_device *vdev)
{
    vdev->queues[0].avail_gpa = 0;
}

static void used_wraps(struct virtio_device *vdev)
{
    vdev->queues[0].used_gpa = UINT64_MAX - 3;
}

static void unknown_feature(struct virtio_device *vdev)
{
    vdev->driver_features |= VIRTIO_FEATURE(VIRTIO_F_RING_PACKED);
}

static void no_version_1(struct virtio_device *vdev)
{
    vdev->driver_features &= ~VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
}

static void ok_without_features(struct virtio_device *vdev)
{
    vdev->status &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
}

static void queue_without_features(struct virtio_device *vdev)
{
    vdev->status = VIRTIO_CONFIG_S_ACKNOWLEDGE;
}

static void impossible_status(struct virtio_device *vdev)
{
    vdev->status |= 0x10;
}

static void impossible_isr(struct virtio_device *vdev)
{
    vdev->isr = 0x80;
}

static void other_identity(struct virtio_device *vdev)
{
    vdev->pci.config[PCI_DEVICE_ID] ^= 1;
}

static const struct {
    const char *reason;
    void (*corrupt)(struct virtio_device *vdev);
} corruptions[] = {
    {"queue size 3 is not a power of two up to 64", size_3},
    {"queue size 0 is not", size_0},
    {"queue size 128 is not", size_beyond},
    {"1 requests in flight", in_flight},
    {"is not aligned to 16", desc_misaligned},
    {"available ring at 0x0 is not in RAM", avail_outside},
    {"used ring at 0xfffffffffffffffc is not in RAM", used_wraps},
    {"features that are not offered here (0x400000000)", unknown_feature},
    {"features that are not offered here", no_version_1},
    {"DRIVER_OK without FEATURES_OK", ok_without_features},
    {"a queue is enabled before FEATURES_OK", queue_without_features},
    {"status", impossible_status},
    {"isr", impossible_isr},
    {"PCI configuration byte 0x02", other_identity},
};

static void impossible_state_is_refused(void **state)
{
    struct pair *pair = *state;
    struct drv_segment segment = {rig_alloc(pair->rigs[1], 16), 16, true};
    struct drv there;

    drv_bring_up(&pair->drv, VIRTQUEUE_FEATURES);
    mover_stop(pair->devs[0]);
    mover_copy_memory(pair->rigs[1], pair->rigs[0]);
    for (size_t i = 0; i < G_N_ELEMENTS(corruptions); i++) {
        struct virtio_device *vdev = virtio_from_device(pair->devs[0]);
        struct virtio_device *other = virtio_from_device(pair->devs[1]);
        struct virtio_device *before = g_memdup2(vdev, sizeof(*vdev));
        struct virtio_device *untouched = g_memdup2(other, sizeof(*other));
        g_autoptr(GError) error = NULL;

        corruptions[i].corrupt(vdev);
        if (mover_load(pair->devs[0], pair->devs[1], &error))
            fail_msg("\"%s\" was loaded", corruptions[i].reason);
        if (!strstr(error->message, corruptions[i].reason))
            fail_msg("refused with \"%s\", expected \"%s\"", error->message, corruptions[i].reason);
        assert_int_equal(other->status, untouched->status);
        assert_int_equal(other->driver_features, untouched->driver_features);
        assert_memory_equal(other->queues, untouched->queues, sizeof(other->queues));
        assert_memory_equal(other->pci.config, untouched->pci.config, PCI_CONFIG_SIZE);
        memcpy(vdev->queues, before->queues, sizeof(vdev->queues));
        memcpy(vdev->pci.config, before->pci.config, PCI_CONFIG_SIZE);
        vdev->status = before->status;
        vdev->isr = before->isr;
        vdev->driver_features = before->driver_features;
        g_free(before);
        g_free(untouched);
    }
    /* Both still work. */
    device_start(pair->devs[0]);
    assert_int_equal(drv_request(&pair->drv, 0, &segment, 1), 16);
    device_start(pair->devs[1]);
    drv_probe(&there, pair->rigs[1], pair->devs[1], SLOT);
    drv_bring_up(&there, VIRTQUEUE_FEATURES);
    assert_int_equal(drv_request(&there, 0, &segment, 1), 16);
}

static void every_table_is_sound(void **state)
{
    struct rig *rig = rig_new();
    struct virtio_config config = rig_config(rig, "x", 1);
    static const uint8_t mac[6] = {2};
    int peer;
    struct device *devs[] = {
        virtio_rng_new(&config, NULL),
        NULL,
        NULL,
        NULL,
    };

    config.slot = 2;
    devs[1] = virtio_net_new(&config, &cable_new(rig, false, &peer)->net, mac, NULL);
    config.slot = 3;
    devs[2] = virtio_balloon_new(&config, NULL);
    config.slot = 4;
    devs[3] = virtio_console_new(&config, chardev_open("null", rig->loop, NULL, NULL, NULL), NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(devs); i++) {
        g_autoptr(GError) error = NULL;

        assert_non_null(devs[i]);
        if (!gw_state_desc_check(devs[i]->state, &error))
            fail_msg("%s: %s", devs[i]->ops->type, error->message);
        device_reset(devs[i]);
        mover_dispose(devs[i]);
    }
    close(peer);
    rig_free(rig);
}

#define T(fn)     cmocka_unit_test(fn)
#define T_RNG(fn) cmocka_unit_test_setup_teardown(fn, setup_rng, teardown_rng)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(every_table_is_sound),
        T_RNG(requests_go_on_after_each_of_many_moves),
        T_RNG(a_pending_interrupt_moves),
        T_RNG(a_device_without_driver_moves),
        T_RNG(a_broken_device_stays_broken_until_reset),
        T_RNG(impossible_state_is_refused),
    };

    return cmocka_run_group_tests_name("virtio-move", tests, NULL, NULL);
}
