/* SPDX-License-Identifier: MIT */
/*
 * What a hypervisor adds to virtio over PCI: MSI-X instead of INTx, and notifications that reach
 * the loop over a descriptor. By the example of virtio-rng: one queue, two vectors.
 */
#include "driver.h"
#include "mover.h"

#include <string.h>

#include <linux/virtio_pci.h>

#include "base/fdio.h"
#include "device/pci_regs.h"

#define SLOT        5
#define MSIX_BAR    (RIG_MMIO_GPA + 0x100000)
#define MSIX_PBA    (MSIX_BAR + 0x800)
#define MAX_VECTORS 8

/* ---- a hypervisor that remembers ------------------------------------------------------------- */

struct msi_vector {
    struct world *world;
    uint64_t address;
    uint32_t data;
    unsigned n_told, n_sent; /* atomic */
};

struct world {
    struct rig *rig;
    struct device *dev;
    struct msi_vector vectors[MAX_VECTORS];
    unsigned n_vectors, n_freed, limit;
    struct {
        uint64_t gpa;
        int fd;
    } wires[MMIO_MAX_WIRES];
    unsigned n_wires;
};

static struct msi_vector *vector_new(void *opaque, GError **error)
{
    struct world *world = opaque;

    if (world->n_vectors == world->limit) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_HOST, "no more vectors");
        return NULL;
    }
    world->vectors[world->n_vectors].world = world;
    return &world->vectors[world->n_vectors++];
}

static void vector_free(struct msi_vector *vector)
{
    vector->world->n_freed++;
}

static void set_message(struct msi_vector *vector, uint64_t address, uint32_t data)
{
    vector->address = address;
    vector->data = data;
    vector->n_told++;
}

static void send_message(struct msi_vector *vector)
{
    __atomic_add_fetch(&vector->n_sent, 1, __ATOMIC_RELEASE);
}

static const struct msi_controller_ops msi_ops = {vector_new, vector_free, set_message,
                                                  send_message};

static bool attach(void *opaque, uint64_t gpa, int fd)
{
    struct world *world = opaque;

    world->wires[world->n_wires].gpa = gpa;
    world->wires[world->n_wires++].fd = fd;
    return true;
}

static void detach(void *opaque, uint64_t gpa, int fd)
{
    struct world *world = opaque;

    assert_true(world->n_wires > 0);
    for (unsigned i = 0; i < world->n_wires; i++)
        if (world->wires[i].gpa == gpa && world->wires[i].fd == fd) {
            world->wires[i] = world->wires[--world->n_wires];
            return;
        }
    fail_msg("detached what was not attached");
}

static const struct mmio_wire_ops wire_ops = {attach, detach};

static unsigned n_sent(struct world *world, unsigned vector)
{
    return __atomic_load_n(&world->vectors[vector].n_sent, __ATOMIC_ACQUIRE);
}

/* ---- worlds ---------------------------------------------------------------------------------- */

static struct world *world_new(void)
{
    struct world *world = g_new0(struct world, 1);
    const struct msi_controller msi = {&msi_ops, world};

    world->limit = MAX_VECTORS;
    world->rig = rig_new_wired(&msi, &wire_ops, world);
    struct virtio_config config = rig_config(world->rig, "virtio-rng/0", SLOT);
    world->dev = virtio_rng_new(&config, NULL);
    assert_non_null(world->dev);
    device_reset(world->dev);
    return world;
}

static void world_free(struct world *world)
{
    mover_dispose(world->dev);
    assert_int_equal(world->n_freed, world->n_vectors);
    assert_int_equal(world->n_wires, 0);
    rig_free(world->rig);
    g_free(world);
}

static unsigned msix_cap(struct drv *drv)
{
    unsigned at = drv_config_space_read(drv, PCI_CAP_POINTER, 1);

    while (at && drv_config_space_read(drv, at, 1) != PCI_CAP_MSIX)
        at = drv_config_space_read(drv, at + 1, 1);
    return at;
}

static void set_control(struct drv *drv, uint32_t control)
{
    drv_config_space_write(drv, msix_cap(drv) + PCI_MSIX_CONTROL, 2, control);
}

static void set_entry(struct drv *drv, unsigned vector, uint32_t data, bool is_masked)
{
    uint64_t at = MSIX_BAR + vector * 16;

    drv_write(drv, at, 4, 0xfee00000);
    drv_write(drv, at + 4, 4, 0);
    drv_write(drv, at + 8, 4, data);
    drv_write(drv, at + 12, 4, is_masked);
}

/* Probes, puts the table's BAR somewhere and connects vector 0 to changes, 1 to the queue. */
static void bring_up(struct world *world, struct drv *drv)
{
    device_start(world->dev);
    drv_probe(drv, world->rig, world->dev, SLOT);
    drv_config_space_write(drv, PCI_BAR0 + 4, 4, (uint32_t)MSIX_BAR);
    drv_negotiate(drv, 0);
    drv_setup_queue(drv, 0, 8);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_MSIX, 2, 0);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
    assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_MSIX, 2), 0);
    assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_MSIX, 2), 1);
    set_control(drv, PCI_MSIX_CONTROL_ENABLE);
    drv_ok(drv);
}

static void ask_for_bytes(struct drv *drv)
{
    struct drv_segment segment = {rig_alloc(drv->rig, 16), 16, true};

    assert_int_equal(drv_request(drv, 0, &segment, 1), 16);
    rig_settle(drv->rig);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void a_queue_interrupts_by_its_vector(void **unused)
{
    struct world *world = world_new();
    struct drv drv;

    bring_up(world, &drv);
    set_entry(&drv, 1, 0x4041, false);
    assert_int_equal(world->vectors[1].n_told, 1);
    assert_int_equal(world->vectors[1].address, 0xfee00000);
    assert_int_equal(world->vectors[1].data, 0x4041);
    ask_for_bytes(&drv);
    assert_int_equal(n_sent(world, 1), 1);
    assert_int_equal(n_sent(world, 0), 0);
    assert_int_equal(drv_read_isr(&drv), 0);
    assert_false(rig_level(world->rig, SLOT % 4));

    /* Masking and unmasking with the same message costs the controller nothing. */
    drv_write(&drv, MSIX_BAR + 16 + 12, 4, 1);
    drv_write(&drv, MSIX_BAR + 16 + 12, 4, 0);
    assert_int_equal(world->vectors[1].n_told, 1);
    set_entry(&drv, 1, 0x4042, false);
    assert_int_equal(world->vectors[1].data, 0x4042);
    world_free(world);
}

static void masked_vectors_wait(void **unused)
{
    struct world *world = world_new();
    struct drv drv;

    bring_up(world, &drv);
    set_entry(&drv, 1, 0x4041, true);
    ask_for_bytes(&drv);
    ask_for_bytes(&drv);
    assert_int_equal(n_sent(world, 1), 0);
    assert_int_equal(drv_read(&drv, MSIX_PBA, 4), 1 << 1);
    set_control(&drv, PCI_MSIX_CONTROL_ENABLE | PCI_MSIX_CONTROL_MASK_ALL);
    drv_write(&drv, MSIX_BAR + 16 + 12, 4, 0);
    assert_int_equal(n_sent(world, 1), 0);
    set_control(&drv, PCI_MSIX_CONTROL_ENABLE);
    assert_int_equal(n_sent(world, 1), 1);
    assert_int_equal(drv_read(&drv, MSIX_PBA, 4), 0);
    world_free(world);
}

static void without_enabling_it_is_intx(void **unused)
{
    struct world *world = world_new();
    struct drv drv;

    bring_up(world, &drv);
    set_entry(&drv, 1, 0x4041, false);
    set_control(&drv, 0);
    ask_for_bytes(&drv);
    assert_int_equal(n_sent(world, 1), 0);
    assert_true(rig_level(world->rig, SLOT % 4));
    set_control(&drv, PCI_MSIX_CONTROL_ENABLE);
    assert_false(rig_level(world->rig, SLOT % 4));
    world_free(world);
}

static void vectors_that_do_not_exist_are_refused(void **unused)
{
    struct world *world = world_new();
    struct drv drv;

    bring_up(world, &drv);
    drv_write(&drv, drv.common + VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
    assert_int_equal(drv_read(&drv, drv.common + VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_NO_VECTOR);
    drv_write(&drv, drv.common + VIRTIO_PCI_COMMON_MSIX, 2, 0xfffe);
    assert_int_equal(drv_read(&drv, drv.common + VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_NO_VECTOR);
    for (uint64_t at = MSIX_BAR + 32; at < MSIX_BAR + 0x1000; at += 4) {
        drv_write(&drv, at, 4, UINT32_MAX);
        assert_int_equal(drv_read(&drv, at, 4), 0);
    }
    ask_for_bytes(&drv);
    assert_int_equal(n_sent(world, 0) + n_sent(world, 1), 0);
    world_free(world);
}

static void a_controller_that_is_full_is_an_error(void **unused)
{
    struct world *world = world_new();
    struct virtio_config config = rig_config(world->rig, "virtio-rng/1", SLOT + 1);
    g_autoptr(GError) error = NULL;

    world->limit = world->n_vectors + 1;
    assert_null(virtio_rng_new(&config, &error));
    assert_string_equal(error->message, "virtio-rng/1: no more vectors");
    assert_int_equal(world->n_freed, 1);
    world_free(world);
}

/* The destination's controller learns the messages, and what was pending is sent there. */
static void vectors_move(void **unused)
{
    struct world *from = world_new(), *to = world_new();
    struct drv drv;

    bring_up(from, &drv);
    set_entry(&drv, 1, 0x4041, false);
    set_entry(&drv, 0, 0x4040, true);
    ask_for_bytes(&drv);
    mover_move(&drv, from->dev, to->rig, to->dev);
    assert_int_equal(to->vectors[1].data, 0x4041);
    assert_int_equal(to->vectors[0].n_told, 0);
    assert_int_equal(n_sent(to, 1), 0);
    assert_int_equal(drv_read(&drv, MSIX_BAR + 8, 4), 0x4040);
    ask_for_bytes(&drv);
    assert_int_equal(n_sent(to, 1), 1);

    set_control(&drv, PCI_MSIX_CONTROL_ENABLE | PCI_MSIX_CONTROL_MASK_ALL);
    ask_for_bytes(&drv);
    device_free(from->dev);
    struct virtio_config config = rig_config(from->rig, "virtio-rng/0", SLOT);
    from->dev = virtio_rng_new(&config, NULL);
    device_reset(from->dev);
    mover_move(&drv, to->dev, from->rig, from->dev);
    set_control(&drv, PCI_MSIX_CONTROL_ENABLE);
    assert_int_equal(n_sent(from, 3), 1);
    world_free(from);
    world_free(to);
}

static void a_saved_vector_must_exist(void **unused)
{
    struct world *from = world_new(), *to = world_new();
    struct drv drv;
    g_autoptr(GError) error = NULL;

    bring_up(from, &drv);
    mover_stop(from->dev);
    drv.vdev->queues[0].msix_vector = 7;
    assert_false(mover_load(from->dev, to->dev, &error));
    assert_non_null(strstr(error->message, "there is no such MSI-X vector (0x7)"));
    assert_int_equal(virtio_from_device(to->dev)->queues[0].msix_vector, VIRTIO_NO_VECTOR);
    world_free(from);
    world_free(to);
}

/* A notification over the descriptor is as good as one that a vCPU brings. */
static void wires_follow_the_bar(void **unused)
{
    struct world *world = world_new();
    struct drv drv;
    uint32_t head, len;

    assert_int_equal(world->n_wires, 0);
    bring_up(world, &drv);
    assert_int_equal(world->n_wires, 1);
    assert_int_equal(world->wires[0].gpa, drv.notify);
    struct drv_segment segment = {rig_alloc(drv.rig, 16), 16, true};
    drv_add(&drv, 0, &segment, 1);
    fd_event_signal(world->wires[0].fd);
    drv_await_used(&drv, 0, &head, &len);
    assert_int_equal(len, 16);

    drv_config_space_write(&drv, PCI_BAR0 + 16, 4, (uint32_t)RIG_MMIO_GPA + 0x200000);
    assert_int_equal(world->n_wires, 1);
    assert_int_equal(world->wires[0].gpa, RIG_MMIO_GPA + 0x203000);
    drv_config_space_write(&drv, PCI_COMMAND, 2, 0);
    assert_int_equal(world->n_wires, 0);
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_queue_interrupts_by_its_vector),
        cmocka_unit_test(masked_vectors_wait),
        cmocka_unit_test(without_enabling_it_is_intx),
        cmocka_unit_test(vectors_that_do_not_exist_are_refused),
        cmocka_unit_test(a_controller_that_is_full_is_an_error),
        cmocka_unit_test(vectors_move),
        cmocka_unit_test(a_saved_vector_must_exist),
        cmocka_unit_test(wires_follow_the_bar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
