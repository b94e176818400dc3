/* SPDX-License-Identifier: MIT */
/*
 * The transport and the rings, driven through virtio-rng, the smallest device: registers, feature
 * negotiation, notification and interrupt suppression, and every rule a driver can break.
 */
#include "driver.h"

#include <endian.h>
#include <string.h>

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#define SLOT 3

struct fixture {
    struct rig *rig;
    struct device *dev;
    struct drv drv;
};

static int setup(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);
    struct virtio_config config;

    f->rig = rig_new();
    config = rig_config(f->rig, "virtio-rng/0", SLOT);
    f->dev = virtio_rng_new(&config, NULL);
    assert_non_null(f->dev);
    device_reset(f->dev);
    device_start(f->dev);
    drv_probe(&f->drv, f->rig, f->dev, SLOT);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    GError *error = NULL;

    assert_true(device_stop(f->dev, clock_mono_ns() + 10000000000u, &error));
    device_free(f->dev);
    rig_free(f->rig);
    g_free(f);
    return 0;
}

static bool is_all_zero(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i])
            return false;
    return true;
}

/* ---- registers ------------------------------------------------------------------------------- */

static void identifies_itself_as_modern_device(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(drv_config_space_read(&f->drv, PCI_DEVICE_ID, 2), 0x1040 + VIRTIO_ID_RNG);
    assert_int_equal(drv_config_space_read(&f->drv, PCI_REVISION_ID, 1), 1);
    assert_int_equal(drv_read(&f->drv, f->drv.common + VIRTIO_PCI_COMMON_NUMQ, 2), 1);
    assert_int_equal(drv_read(&f->drv, f->drv.common + VIRTIO_PCI_COMMON_MSIX, 2), 0xffff);
}

static void refuses_features_not_offered(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;

    drv_set_status(drv, 0);
    drv_set_status(drv, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_GF, 4, 1u << (VIRTIO_F_VERSION_1 - 32));
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_GF, 4, 1u << 3); /* offered by nobody */
    drv_set_status(drv, drv_status(drv) | VIRTIO_CONFIG_S_FEATURES_OK);
    assert_false(drv_status(drv) & VIRTIO_CONFIG_S_FEATURES_OK);
    drv_set_status(drv, drv_status(drv) | VIRTIO_CONFIG_S_DRIVER_OK);
    assert_false(drv_status(drv) & VIRTIO_CONFIG_S_DRIVER_OK);
    /* The driver may think again. */
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_GF, 4, 0);
    drv_set_status(drv, drv_status(drv) | VIRTIO_CONFIG_S_FEATURES_OK);
    assert_true(drv_status(drv) & VIRTIO_CONFIG_S_FEATURES_OK);
}

static void refuses_driver_without_version_1(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;

    drv_set_status(drv, 0);
    drv_set_status(drv, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    drv_set_status(drv, drv_status(drv) | VIRTIO_CONFIG_S_FEATURES_OK);
    assert_false(drv_status(drv) & VIRTIO_CONFIG_S_FEATURES_OK);
}

static void settled_features_and_enabled_queues_do_not_change(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    uint32_t before;

    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
    before = drv_read(drv, drv->common + VIRTIO_PCI_COMMON_GF, 4);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_GF, 4, 0xffffffff);
    assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_GF, 4), before);

    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    before = drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_DESCLO, 4);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0x1000);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SIZE, 2, 8);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
    assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_DESCLO, 4), before);
    assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_SIZE, 2), 64);
    assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
}

static void takes_only_proper_queue_sizes(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    static const uint32_t refused[] = {0, 3, 65, 128, 0xffff};

    drv_negotiate(drv, 0);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SIZE, 2, refused[i]);
        assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_SIZE, 2), 64);
    }
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SIZE, 2, 16);
    assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_SIZE, 2), 16);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
    assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
}

static void any_access_to_the_bar_is_harmless(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    static const unsigned sizes[] = {1, 2, 4};

    for (uint32_t offset = 0; offset < 0x4000; offset++) {
        for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
            if (offset % sizes[i])
                continue;
            drv_read(drv, drv->bar + offset, sizes[i]);
            drv_write(drv, drv->bar + offset, sizes[i], offset * 2654435761u);
        }
    }
    rig_settle(f->rig);
    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    assert_int_equal(drv_status(drv), 0xf);
}

static unsigned find_window(struct drv *drv)
{
    unsigned cap = drv_config_space_read(drv, PCI_CAPABILITY_LIST, 1);

    while (cap &&
           drv_config_space_read(drv, cap + VIRTIO_PCI_CAP_CFG_TYPE, 1) != VIRTIO_PCI_CAP_PCI_CFG)
        cap = drv_config_space_read(drv, cap + 1, 1);
    assert_int_not_equal(cap, 0);
    return cap;
}

static void window_in_configuration_space_reaches_registers(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    unsigned cap = find_window(drv);
    unsigned data = cap + (unsigned)sizeof(struct virtio_pci_cap);

    drv_config_space_write(drv, cap + VIRTIO_PCI_CAP_BAR, 1, 4);
    drv_config_space_write(drv, cap + VIRTIO_PCI_CAP_LENGTH, 4, 1);
    drv_config_space_write(drv, cap + VIRTIO_PCI_CAP_OFFSET, 4, VIRTIO_PCI_COMMON_STATUS);
    drv_config_space_write(drv, data, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    assert_int_equal(drv_status(drv), VIRTIO_CONFIG_S_ACKNOWLEDGE);
    assert_int_equal(drv_config_space_read(drv, data, 1), VIRTIO_CONFIG_S_ACKNOWLEDGE);
    /* Notifications, too: the queue is not there yet, and that is fine. */
    drv_config_space_write(drv, cap + VIRTIO_PCI_CAP_OFFSET, 4, 0x3000);
    drv_config_space_write(drv, data, 1, 0);
    drv_config_space_write(drv, cap + VIRTIO_PCI_CAP_OFFSET, 4, VIRTIO_PCI_COMMON_STATUS);
    /* Windows that lead nowhere do nothing. */
    drv_config_space_write(drv, cap + VIRTIO_PCI_CAP_BAR, 1, 0);
    drv_config_space_write(drv, data, 1, 0xff);
    drv_config_space_write(drv, cap + VIRTIO_PCI_CAP_BAR, 1, 4);
    drv_config_space_write(drv, cap + VIRTIO_PCI_CAP_OFFSET, 4, 0xfffffffc);
    drv_config_space_write(drv, cap + VIRTIO_PCI_CAP_LENGTH, 4, 4);
    drv_config_space_write(drv, data, 4, 0xffffffff);
    drv_config_space_write(drv, cap + VIRTIO_PCI_CAP_LENGTH, 4, 3);
    drv_config_space_read(drv, data, 4);
    assert_int_equal(drv_status(drv), VIRTIO_CONFIG_S_ACKNOWLEDGE);
}

/* ---- requests -------------------------------------------------------------------------------- */

static void answers_a_request(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segment = {rig_alloc(f->rig, 64), 64, true};

    drv_bring_up(drv, 0);
    assert_int_equal(drv_request(drv, 0, &segment, 1), 64);
    assert_false(is_all_zero(rig_host(f->rig, segment.gpa, 64), 64));
    rig_settle(f->rig); /* the interrupt follows the index */
    assert_true(rig_level(f->rig, SLOT % 4));
    assert_int_equal(drv_read_isr(drv), 1);
    assert_false(rig_level(f->rig, SLOT % 4));
    assert_int_equal(drv_read_isr(drv), 0);
}

static void goes_round_the_ring_many_times(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segments[3];

    for (unsigned i = 0; i < 3; i++)
        segments[i] = (struct drv_segment){rig_alloc(f->rig, 32), 32, true};
    for (unsigned round = 0; round < 2; round++) {
        drv_bring_up(drv, round ? VIRTQUEUE_FEATURES : 0);
        for (unsigned i = 0; i < 500; i++) {
            assert_int_equal(drv_request(drv, 0, segments, 1 + i % 3), 32 * (1 + i % 3));
            drv_read_isr(drv);
        }
    }
}

static void indices_wrap_at_16_bits(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segment = {rig_alloc(f->rig, 1), 1, true};
    unsigned n_done = 0;

    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    while (n_done < 70000) {
        uint32_t head, len;

        for (unsigned i = 0; i < 64; i++)
            drv_add(drv, 0, &segment, 1);
        drv_write(drv, drv->notify, 2, 0);
        for (unsigned i = 0; i < 64; i++, n_done++) {
            drv_await_used(drv, 0, &head, &len);
            assert_int_equal(len, 1);
        }
    }
    assert_int_equal(drv_status(drv), 0xf);
}

static void takes_indirect_tables(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segments[60];
    uint32_t head, len;

    for (unsigned i = 0; i < 60; i++)
        segments[i] = (struct drv_segment){rig_alloc(f->rig, 8), 8, true};
    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    drv_add_indirect(drv, 0, segments, 60);
    drv_kick(drv, 0);
    drv_await_used(drv, 0, &head, &len);
    assert_int_equal(len, 480);
    assert_false(is_all_zero(rig_host(f->rig, segments[59].gpa, 8), 8));
}

static void takes_indirect_tables_at_odd_addresses(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct vring_desc desc = {htole64(rig_alloc(f->rig, 8)), htole32(8),
                              htole16(VRING_DESC_F_WRITE), 0};
    uint64_t table = rig_alloc(f->rig, 32) + 3;
    uint32_t head, len;

    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    memcpy(rig_host(f->rig, table, 16), &desc, 16);
    drv_write_desc(drv, 0, 0, table, 16, VRING_DESC_F_INDIRECT, 0);
    drv_publish(drv, 0, 0);
    drv_kick(drv, 0);
    drv_await_used(drv, 0, &head, &len);
    assert_int_equal(len, 8);
}

static void splits_buffers_that_span_ram_blocks(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segment = {RIG_HIGH_GPA - 100, 200, true};

    drv_bring_up(drv, 0);
    assert_int_equal(drv_request(drv, 0, &segment, 1), 200);
    assert_false(is_all_zero(rig_host(f->rig, RIG_HIGH_GPA - 100, 100), 100));
    assert_false(is_all_zero(rig_host(f->rig, RIG_HIGH_GPA, 100), 100));
}

static void notes_what_it_writes(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct gw_page_set *set = gw_page_set_new(f->rig->memory);
    struct drv_segment segment = {RIG_HIGH_GPA - 4096, 8192, true};
    uint64_t used_page;
    GError *error = NULL;

    drv_bring_up(drv, 0);
    assert_true(gw_memory_log_start(f->rig->memory, &error));
    drv_request(drv, 0, &segment, 1); /* rng fills 4096 of it */
    assert_true(gw_memory_log_collect(f->rig->memory, set, NULL, &error));
    used_page = (drv->queues[0].used - RIG_RAM_GPA) / GW_PAGE_SIZE;
    assert_true(gw_page_set_test(set, 0, used_page));
    assert_true(gw_page_set_test(set, 0, RIG_RAM_BYTES / GW_PAGE_SIZE - 1));
    assert_false(gw_page_set_test(set, 1, 0));
    gw_memory_log_stop(f->rig->memory);
    gw_page_set_free(set);
}

static void suppresses_interrupts_the_driver_does_not_want(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segment = {rig_alloc(f->rig, 8), 8, true};
    uint16_t *flags;

    drv_bring_up(drv, 0);
    flags = rig_host(f->rig, drv->queues[0].avail, 2);
    __atomic_store_n(flags, htole16(VRING_AVAIL_F_NO_INTERRUPT), __ATOMIC_SEQ_CST);
    drv_request(drv, 0, &segment, 1);
    rig_settle(f->rig);
    assert_int_equal(drv_read_isr(drv), 0);
    __atomic_store_n(flags, 0, __ATOMIC_SEQ_CST);
    drv_request(drv, 0, &segment, 1);
    rig_settle(f->rig);
    assert_int_equal(drv_read_isr(drv), 1);
}

static void event_index_interrupts_at_the_asked_element(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segment = {rig_alloc(f->rig, 8), 8, true};
    uint16_t *event;

    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    drv_request(drv, 0, &segment, 1); /* the first decision is always yes */
    rig_settle(f->rig);
    drv_read_isr(drv);
    event = rig_host(f->rig, drv->queues[0].avail + 4 + 2u * drv->queues[0].size, 2);
    for (uint16_t i = 1; i <= 4; i++) {
        __atomic_store_n(event, htole16(3), __ATOMIC_SEQ_CST); /* when element 3 is used */
        drv_add(drv, 0, &segment, 1);
        drv_write(drv, drv->notify, 2, 0);
        rig_settle(f->rig);
        assert_int_equal(drv_read_isr(drv), i == 3);
    }
}

static void nothing_is_taken_before_driver_ok(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segment = {rig_alloc(f->rig, 8), 8, true};
    uint32_t head, len;

    drv_negotiate(drv, VIRTQUEUE_FEATURES);
    drv_setup_queue(drv, 0, 64);
    drv_add(drv, 0, &segment, 1);
    drv_write(drv, drv->notify, 2, 0);
    rig_settle(f->rig);
    assert_false(drv_poll_used(drv, 0, &head, &len));
    drv_ok(drv);
    drv_await_used(drv, 0, &head, &len);
}

static void nothing_is_taken_without_bus_mastering(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segment = {rig_alloc(f->rig, 8), 8, true};
    uint32_t head, len;

    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    drv_config_space_write(drv, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    drv_add(drv, 0, &segment, 1);
    drv_write(drv, drv->notify, 2, 0);
    rig_settle(f->rig);
    assert_false(drv_poll_used(drv, 0, &head, &len));
    drv_config_space_write(drv, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    drv_await_used(drv, 0, &head, &len);
}

static void what_comes_while_stopped_is_done_after_start(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segment = {rig_alloc(f->rig, 8), 8, true};
    GError *error = NULL;
    uint32_t head, len;

    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    assert_true(device_stop(f->dev, clock_mono_ns() + 1000000000u, &error));
    drv_add(drv, 0, &segment, 1);
    drv_write(drv, drv->notify, 2, 0);
    rig_settle(f->rig);
    assert_false(drv_poll_used(drv, 0, &head, &len));
    device_start(f->dev);
    drv_await_used(drv, 0, &head, &len);
    assert_int_equal(len, 8);
}

/* ---- broken rules ---------------------------------------------------------------------------- */

struct raw_desc {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags, next;
};

#define F_NEXT     VRING_DESC_F_NEXT
#define F_WRITE    VRING_DESC_F_WRITE
#define F_INDIRECT VRING_DESC_F_INDIRECT
#define BUFFER     (RIG_RAM_GPA + 0x1000)
#define TABLE      (RIG_RAM_GPA + 0x2000)

static const struct broken_chain {
    const char *name;
    const char *reason;
    uint16_t head;
    bool has_no_indirect;
    struct raw_desc desc[4];
    struct raw_desc table[4]; /* at TABLE */
} broken_chains[] = {
    {"head beyond the table", "descriptor index 64", 64},
    {"head 0xffff", "descriptor index 65535", 0xffff},
    {"next beyond the table",
     "descriptor index 4711",
     0,
     false,
     {{BUFFER, 8, F_WRITE | F_NEXT, 4711}}},
    {"loop of one", "longer than the queue", 0, false, {{BUFFER, 8, F_WRITE | F_NEXT, 0}}},
    {"loop of two",
     "longer than the queue",
     0,
     false,
     {{BUFFER, 8, F_WRITE | F_NEXT, 1}, {BUFFER, 8, F_WRITE | F_NEXT, 0}}},
    {"loop of readable ones",
     "longer than the queue",
     0,
     false,
     {{BUFFER, 8, F_NEXT, 1}, {BUFFER, 8, F_NEXT, 0}}},
    {"empty buffer", "length 0", 0, false, {{BUFFER, 0, F_WRITE, 0}}},
    {"buffer below RAM", "is not in RAM", 0, false, {{0x1000, 8, F_WRITE, 0}}},
    {"buffer at 0", "is not in RAM", 0, false, {{0, 8, F_WRITE, 0}}},
    {"buffer that starts before RAM",
     "is not in RAM",
     0,
     false,
     {{RIG_RAM_GPA - 4, 8, F_WRITE, 0}}},
    {"buffer that leaves RAM",
     "is not in RAM",
     0,
     false,
     {{RIG_HIGH_GPA + RIG_HIGH_BYTES - 4, 8, F_WRITE, 0}}},
    {"buffer in device registers", "is not in RAM", 0, false, {{RIG_MMIO_GPA, 8, F_WRITE, 0}}},
    {"buffer that wraps", "is not in RAM", 0, false, {{UINT64_MAX - 3, 8, F_WRITE, 0}}},
    {"huge length", "is not in RAM", 0, false, {{BUFFER, UINT32_MAX, F_WRITE, 0}}},
    {"chain longer than 2^32-1",
     "2^32-1",
     0,
     false,
     {{BUFFER, 4096, F_WRITE | F_NEXT, 1}, {BUFFER, UINT32_MAX, F_WRITE, 0}}},
    {"readable after writable",
     "follows a writable",
     0,
     false,
     {{BUFFER, 8, F_WRITE | F_NEXT, 1}, {BUFFER, 8, 0, 0}}},
    {"only readable", "without room", 0, false, {{BUFFER, 8, 0, 0}}},
    {"indirect, not negotiated",
     "without the feature",
     0,
     true,
     {{TABLE, 16, F_INDIRECT, 0}},
     {{BUFFER, 8, F_WRITE, 0}}},
    {"indirect in indirect",
     "inside an indirect",
     0,
     false,
     {{TABLE, 32, F_INDIRECT, 0}},
     {{TABLE, 32, F_INDIRECT, 0}}},
    {"indirect with next", "with a next", 0, false, {{TABLE, 16, F_INDIRECT | F_NEXT, 1}}},
    {"indirect of odd size", "table of 24 bytes", 0, false, {{TABLE, 24, F_INDIRECT, 0}}},
    {"indirect of no size", "table of 0 bytes", 0, false, {{TABLE, 0, F_INDIRECT, 0}}},
    {"indirect outside RAM", "is not in RAM", 0, false, {{0x1000, 16, F_INDIRECT, 0}}},
    {"indirect that spans blocks",
     "is not in RAM",
     0,
     false,
     {{RIG_HIGH_GPA - 16, 32, F_INDIRECT, 0}}},
    {"indirect of 4 GiB", "is not in RAM", 0, false, {{TABLE, 0xfffffff0, F_INDIRECT, 0}}},
    {"next beyond the indirect table",
     "descriptor index 2 in a table of 2",
     0,
     false,
     {{TABLE, 32, F_INDIRECT, 0}},
     {{BUFFER, 8, F_WRITE | F_NEXT, 1}, {BUFFER, 8, F_WRITE | F_NEXT, 2}}},
    {"loop in the indirect table",
     "longer than the queue",
     0,
     false,
     {{TABLE, 32, F_INDIRECT, 0}},
     {{BUFFER, 8, F_WRITE | F_NEXT, 0}}},
};

static void write_table(struct rig *rig, const struct raw_desc *descs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct vring_desc desc = {htole64(descs[i].gpa), htole32(descs[i].len),
                                  htole16(descs[i].flags), htole16(descs[i].next)};
        memcpy(rig_host(rig, TABLE + i * 16, 16), &desc, 16);
    }
}

/* After any breakage: an interrupt, silence, and a working device after a reset. */
static void check_broken_then_recovers(struct fixture *f, const char *reason)
{
    struct drv *drv = &f->drv;
    struct drv_segment segment = {rig_alloc(f->rig, 8), 8, true};
    uint32_t head, len;

    drv_await_broken(drv, reason);
    assert_true(drv_read_isr(drv) & VIRTIO_ISR_CONFIG);
    assert_false(drv_poll_used(drv, 0, &head, &len));
    drv_add(drv, 0, &segment, 1);
    drv_write(drv, drv->notify, 2, 0);
    rig_settle(f->rig);
    assert_false(drv_poll_used(drv, 0, &head, &len));
    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    assert_int_equal(drv_status(drv), 0xf);
    assert_int_equal(drv_request(drv, 0, &segment, 1), 8);
    drv_read_isr(drv);
}

static void broken_chains_need_a_reset(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;

    for (size_t i = 0; i < G_N_ELEMENTS(broken_chains); i++) {
        const struct broken_chain *broken = &broken_chains[i];

        print_message("# %s\n", broken->name);
        drv_bring_up(drv, broken->has_no_indirect ? 0 : VIRTQUEUE_FEATURES);
        write_table(f->rig, broken->table, G_N_ELEMENTS(broken->table));
        for (uint16_t d = 0; d < G_N_ELEMENTS(broken->desc); d++)
            drv_write_desc(drv, 0, d, broken->desc[d].gpa, broken->desc[d].len,
                           broken->desc[d].flags, broken->desc[d].next);
        drv_publish(drv, 0, broken->head);
        drv_write(drv, drv->notify, 2, 0);
        check_broken_then_recovers(f, broken->reason);
    }
}

static void available_index_too_far_ahead_needs_a_reset(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    static const uint16_t indices[] = {65, 0x8000, 0xffff};

    for (size_t i = 0; i < G_N_ELEMENTS(indices); i++) {
        drv_bring_up(drv, VIRTQUEUE_FEATURES);
        __atomic_store_n((uint16_t *)rig_host(f->rig, drv->queues[0].avail + 2, 2),
                         htole16(indices[i]), __ATOMIC_SEQ_CST);
        drv_write(drv, drv->notify, 2, 0);
        check_broken_then_recovers(f, "available index");
    }
}

static void rings_in_wrong_places_need_a_reset(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    static const struct {
        const char *reason;
        uint64_t desc, avail, used;
    } rows[] = {
        {"descriptor ring at 0x80001008 is not aligned", BUFFER + 8, BUFFER, BUFFER},
        {"available ring at 0x80001001 is not aligned", BUFFER, BUFFER + 1, BUFFER},
        {"used ring at 0x80001002 is not aligned", BUFFER, BUFFER, BUFFER + 2},
        {"descriptor ring at 0x0 is not in RAM", 0, BUFFER, BUFFER},
        {"available ring at 0x0 is not in RAM", BUFFER, 0, BUFFER},
        {"used ring at 0x0 is not in RAM", BUFFER, BUFFER, 0},
        {"is not in RAM", RIG_HIGH_GPA - 16, BUFFER, BUFFER}, /* spans two blocks */
        {"is not in RAM", BUFFER, BUFFER, UINT64_MAX - 7},
        {"is not in RAM", BUFFER, RIG_HIGH_GPA + RIG_HIGH_BYTES - 4, BUFFER},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        const uint64_t gpas[] = {rows[i].desc, rows[i].avail, rows[i].used};

        drv_negotiate(drv, VIRTQUEUE_FEATURES);
        drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
        for (unsigned r = 0; r < 3; r++) {
            uint64_t reg = drv->common + VIRTIO_PCI_COMMON_Q_DESCLO + 8 * r;
            drv_write(drv, reg, 4, (uint32_t)gpas[r]);
            drv_write(drv, reg + 4, 4, (uint32_t)(gpas[r] >> 32));
        }
        drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
        assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
        drv_await_broken(drv, rows[i].reason);
        /* Not yet DRIVER_OK: nobody to interrupt. */
        assert_int_equal(drv_read_isr(drv), 0);
    }
}

static void rings_may_overlap_without_harm(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;

    drv_negotiate(drv, VIRTQUEUE_FEATURES);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    for (unsigned r = 0; r < 3; r++)
        drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_DESCLO + 8 * r, 4, BUFFER);
    memset(rig_host(f->rig, BUFFER, 4096), 1, 4096);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    drv_ok(drv);
    drv_write(drv, drv->notify, 2, 0);
    rig_settle(f->rig);
    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    assert_int_equal(drv_status(drv), 0xf);
}

/* A guest scribbles over its own rings while the device works on them. */
static void *scribble(void *opaque)
{
    struct fixture *f = opaque;
    struct drv *drv = &f->drv;
    uint64_t *desc = rig_host(f->rig, drv->queues[0].desc, 64 * 16);
    uint64_t *avail = rig_host(f->rig, (drv->queues[0].avail + 7) & ~UINT64_C(7), 64);
    uint64_t x = 88172645463325252u;

    for (unsigned i = 0; i < 300000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        /* Addresses mostly right, lengths and links anything. */
        __atomic_store_n(&desc[(x >> 8) % 128], i % 2 ? x : BUFFER + (x & 0xff), __ATOMIC_RELAXED);
        if (i % 16 == 0)
            __atomic_store_n(&avail[x % 8], x, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void survives_rings_that_change_under_it(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    pthread_t thread;

    for (unsigned round = 0; round < 10; round++) {
        drv_bring_up(drv, VIRTQUEUE_FEATURES);
        assert_int_equal(pthread_create(&thread, NULL, scribble, f), 0);
        for (unsigned i = 0; i < 200; i++) {
            drv_publish(drv, 0, (uint16_t)(i % 64));
            drv_write(drv, drv->notify, 2, 0);
            if (drv_status(drv) & VIRTIO_CONFIG_S_NEEDS_RESET) {
                drv_set_status(drv, 0);
                break;
            }
        }
        pthread_join(thread, NULL);
        rig_settle(f->rig);
    }
    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    assert_int_equal(drv_status(drv), 0xf);
}

/* ---- threads --------------------------------------------------------------------------------- */

/* Another vCPU: looks at registers, reads the interrupt status, rings for nothing. */
static void *be_a_vcpu(void *opaque)
{
    struct drv *drv = opaque; /* a copy of this thread's own */

    for (unsigned i = 0; i < 3000; i++) {
        drv_write(drv, drv->notify, 2, 0);
        drv_read(drv, drv->common + VIRTIO_PCI_COMMON_STATUS, 1);
        drv_read_isr(drv);
        drv_config_space_read(drv, PCI_STATUS, 2);
        if (i % 64 == 0)
            drv_config_space_write(drv, PCI_COMMAND, 2,
                                   PCI_COMMAND_MEMORY | (i % 128 ? PCI_COMMAND_MASTER : 0));
    }
    drv_config_space_write(drv, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    return NULL;
}

static void vcpus_loop_and_life_cycle_get_along(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;
    struct drv_segment segment = {rig_alloc(f->rig, 8), 8, true};
    unsigned n_added = 0, n_used = 0;
    uint32_t head, len;
    struct drv copies[2];
    pthread_t threads[2];

    drv_bring_up(drv, VIRTQUEUE_FEATURES);
    for (unsigned i = 0; i < 2; i++) {
        copies[i] = *drv;
        assert_int_equal(pthread_create(&threads[i], NULL, be_a_vcpu, &copies[i]), 0);
    }
    for (unsigned round = 0; round < 100; round++) {
        for (; n_added < n_used + 60; n_added++)
            drv_add(drv, 0, &segment, 1);
        drv_kick(drv, 0);
        assert_true(device_stop(f->dev, clock_mono_ns() + 10000000000u, NULL));
        device_start(f->dev);
        while (drv_poll_used(drv, 0, &head, &len))
            n_used++;
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (; n_used < n_added; n_used++)
        drv_await_used(drv, 0, &head, &len);
    assert_false(drv_poll_used(drv, 0, &head, &len));
    assert_int_equal(drv_status(drv), 0xf);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identifies_itself_as_modern_device),
        T(refuses_features_not_offered),
        T(refuses_driver_without_version_1),
        T(settled_features_and_enabled_queues_do_not_change),
        T(takes_only_proper_queue_sizes),
        T(any_access_to_the_bar_is_harmless),
        T(window_in_configuration_space_reaches_registers),
        T(answers_a_request),
        T(goes_round_the_ring_many_times),
        T(indices_wrap_at_16_bits),
        T(takes_indirect_tables),
        T(takes_indirect_tables_at_odd_addresses),
        T(splits_buffers_that_span_ram_blocks),
        T(notes_what_it_writes),
        T(suppresses_interrupts_the_driver_does_not_want),
        T(event_index_interrupts_at_the_asked_element),
        T(nothing_is_taken_before_driver_ok),
        T(nothing_is_taken_without_bus_mastering),
        T(what_comes_while_stopped_is_done_after_start),
        T(broken_chains_need_a_reset),
        T(available_index_too_far_ahead_needs_a_reset),
        T(rings_in_wrong_places_need_a_reset),
        T(rings_may_overlap_without_harm),
        T(survives_rings_that_change_under_it),
        T(vcpus_loop_and_life_cycle_get_along),
    };

    return cmocka_run_group_tests_name("virtio-queue", tests, NULL, NULL);
}
