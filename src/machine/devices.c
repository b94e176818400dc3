/* SPDX-License-Identifier: MIT */
/* From a device's options to the device: back ends, identities, PCI slots. */
#include <stdio.h>
#include <string.h>

#include "device/blockdev.h"
#include "device/chardev.h"
#include "device/virtio/devices.h"
#include "godwit/error.h"
#include "machine/board.h"
#include "machine/device_kinds.h"
#include "machine/machine_life.h"

static void on_escape(void *opaque)
{
    machine_notify(opaque, &(struct machine_notice){.kind = MACHINE_NOTICE_ESCAPE});
}

struct chardev *machine_open_chardev(struct machine *machine, const char *spec, GError **error)
{
    struct chardev *chardev =
        chardev_open(spec ? spec : "null", machine->loop, on_escape, machine, error);
    if (chardev)
        g_ptr_array_add(machine->chardevs, chardev);
    return chardev;
}

typedef struct device *(*create_fn)(struct machine *machine, const struct virtio_config *config,
                                    const struct device_config *options, GError **error);

static struct device *create_disk(struct machine *machine, const struct virtio_config *config,
                                  const struct device_config *options, GError **error)
{
    struct blockdev *disk = blockdev_open(device_config_get(options, "path"),
                                          device_config_has(options, "ro"), machine->loop, error);
    return disk ? virtio_blk_new(config, disk, device_config_get(options, "serial"), error) : NULL;
}

static struct device *create_rng(struct machine *machine, const struct virtio_config *config,
                                 const struct device_config *options, GError **error)
{
    return virtio_rng_new(config, error);
}

static const struct {
    const char *kind;
    const char *id; /* of state instances: stable for ever */
    create_fn create;
} creators[] = {
    {"disk", "virtio-blk", create_disk},
    {"rng", "virtio-rng", create_rng},
};

bool machine_add_pci_device(struct machine *machine, const struct device_config *options,
                            unsigned slot, unsigned index_of_kind, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(creators); i++) {
        if (strcmp(creators[i].kind, options->kind->name) != 0)
            continue;
        g_autofree char *id = g_strdup_printf("%s/%u", creators[i].id, index_of_kind);
        const struct virtio_config config = {
            .id = id,
            .host = machine->pci,
            .slot = slot,
            .memory = machine->memory,
            .loop = machine->loop,
        };
        struct device *dev = creators[i].create(machine, &config, options, error);
        if (!dev)
            g_prefix_error(error, "%s: ", id);
        return dev && machine_add_device(machine, dev, error);
    }
    g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "%s devices are not in this build",
                options->kind->name);
    return false;
}
