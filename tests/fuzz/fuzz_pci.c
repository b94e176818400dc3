/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: PCI configuration space and BARs of a bus with three functions.
 *
 * Input: steps, each u8 and what it takes. Checked: state that the guest has made can be saved and
 * loaded, and reset brings the same configuration as at the start.
 */
#include "driver.h"
#include "fuzz.h"

#define N_FUNCTIONS 3
#define MAX_STEPS   300

struct bus {
    struct rig *rig;
    struct device *devices[N_FUNCTIONS];
    struct gw_state_registry *registry;
    struct gw_state_plan *plan;
    GByteArray *fresh[N_FUNCTIONS + 1];
    uint32_t n_instances;
};

/* An MSI controller that takes everything. */
static struct msi_vector *vector_new(void *opaque, GError **error)
{
    return opaque;
}

static void vector_free(struct msi_vector *vector)
{
}

static void set_message(struct msi_vector *vector, uint64_t address, uint32_t data)
{
}

static const struct msi_controller_ops msi_ops = {vector_new, vector_free, set_message,
                                                  vector_free};

static void save(struct bus *bus, uint32_t index, GByteArray *to)
{
    g_autoptr(GError) error = NULL;

    g_byte_array_set_size(to, 0);
    if (!gw_state_save(bus->registry, index, to, &error))
        fprintf(stderr, "%s\n", error->message);
    fuzz_check(error == NULL);
}

static void set_up(struct bus *bus)
{
    static const char *const ids[] = {"virtio-rng/0", "virtio-rng/1", "virtio-balloon/0"};

    const struct msi_controller msi = {&msi_ops, bus};

    bus->rig = rig_new_wired(&msi, NULL, NULL);
    bus->registry = gw_state_registry_new();
    for (unsigned i = 0; i < N_FUNCTIONS; i++) {
        struct virtio_config config = rig_config(bus->rig, ids[i], i + 1);
        struct device *dev =
            i < 2 ? virtio_rng_new(&config, NULL) : virtio_balloon_new(&config, NULL);

        fuzz_check(dev && gw_state_registry_add(bus->registry, ids[i], dev->state,
                                                dev->state_object, NULL));
        device_reset(dev);
        bus->devices[i] = dev;
    }
    struct device *host = pci_host_device(bus->rig->host);
    if (host->state)
        fuzz_check(
            gw_state_registry_add(bus->registry, host->id, host->state, host->state_object, NULL));
    bus->plan = gw_state_plan_new(gw_schema_new(bus->registry), bus->registry);
    bus->n_instances = gw_state_registry_n(bus->registry);
    for (uint32_t i = 0; i < bus->n_instances; i++) {
        bus->fresh[i] = g_byte_array_new();
        save(bus, i, bus->fresh[i]);
    }
}

static void step(struct bus *bus, struct fuzz_input *in)
{
    unsigned how = (unsigned)fuzz_take(in, 1);
    unsigned slot = (how >> 4) % 4;
    unsigned size = 1u << ((how >> 2) % 4);
    uint64_t value = 0, gpa;

    switch (how % 4) {
    case 0: /* a register of a function */
        gpa = RIG_ECAM_GPA + ((uint64_t)slot << 15) + fuzz_take(in, 1);
        mmio_bus_write(bus->rig->bus, gpa, size, fuzz_take(in, size));
        break;
    case 1: /* anywhere in the ECAM, unaligned too */
        gpa = RIG_ECAM_GPA + fuzz_take(in, 3) % (1u << 20);
        if (how & 0x80)
            mmio_bus_read(bus->rig->bus, gpa, size, &value);
        else
            mmio_bus_write(bus->rig->bus, gpa, size, fuzz_take(in, size));
        break;
    case 2: /* where BARs go */
        gpa = RIG_MMIO_GPA + fuzz_take(in, 3);
        if (how & 0x80)
            mmio_bus_read(bus->rig->bus, gpa, size, &value);
        else
            mmio_bus_write(bus->rig->bus, gpa, size, fuzz_take(in, size));
        break;
    default: /* a BAR is placed and switched on, perhaps over another one */
        gpa = RIG_ECAM_GPA + ((uint64_t)slot << 15);
        mmio_bus_write(bus->rig->bus, gpa + 0x20, 4, RIG_MMIO_GPA + (fuzz_take(in, 1) << 12));
        mmio_bus_write(bus->rig->bus, gpa + 0x24, 4, how & 0x80 ? fuzz_take(in, 4) : 0);
        mmio_bus_write(bus->rig->bus, gpa + 4, 2, 6);
        break;
    }
}

static void check_can_move(struct bus *bus)
{
    struct gw_state_load *load = gw_state_load_begin(bus->plan, NULL);
    GByteArray *saved[N_FUNCTIONS + 1] = {NULL};
    g_autoptr(GByteArray) again = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    bool is_good = true;

    for (uint32_t i = 0; i < bus->n_instances; i++) {
        saved[i] = g_byte_array_new();
        save(bus, i, saved[i]);
        is_good = is_good && gw_state_load_add(load, i, saved[i]->data, saved[i]->len, &error);
    }
    if (!is_good || !gw_state_load_commit(load, &error))
        fprintf(stderr, "%s\n", error->message);
    fuzz_check(error == NULL);
    gw_state_load_keep(load);
    gw_state_load_free(load);
    for (uint32_t i = 0; i < bus->n_instances; i++) {
        save(bus, i, again);
        fuzz_check(again->len == saved[i]->len && !memcmp(again->data, saved[i]->data, again->len));
        g_byte_array_unref(saved[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct bus bus;
    struct fuzz_input in = {data, size};
    g_autoptr(GByteArray) now = g_byte_array_new();

    if (!bus.rig)
        set_up(&bus);
    for (unsigned i = 0; i < MAX_STEPS && fuzz_more(&in); i++)
        step(&bus, &in);
    check_can_move(&bus);
    for (unsigned i = 0; i < N_FUNCTIONS; i++)
        device_reset(bus.devices[i]);
    device_reset(pci_host_device(bus.rig->host));
    for (uint32_t i = 0; i < bus.n_instances; i++) {
        save(&bus, i, now);
        fuzz_check(now->len == bus.fresh[i]->len &&
                   !memcmp(now->data, bus.fresh[i]->data, now->len));
    }
    return 0;
}
