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
    struct chardev *chardev = chardev_open(spec, machine->loop, on_escape, machine, error);
    if (chardev)
        g_ptr_array_add(machine->chardevs, chardev);
    return chardev;
}

typedef struct device *(*create_fn)(struct machine *machine, const struct virtio_config *config,
                                    const struct device_config *options, GError **error);

static struct device *create_disk(struct machine *machine, const struct virtio_config *config,
                                  const struct device_config *options, GError **error)
{
    const char *path = device_config_get(options, "path");
    const char *fault = device_config_get(options, "fault");
    g_autofree char *spec = fault ? g_strdup_printf("%s,fault=%s", path, fault) : g_strdup(path);
    struct blockdev *disk =
        blockdev_open(spec, device_config_has(options, "ro"), machine->loop, error);
    return disk ? virtio_blk_new(config, disk, device_config_get(options, "serial"), error) : NULL;
}

static struct device *create_rng(struct machine *machine, const struct virtio_config *config,
                                 const struct device_config *options, GError **error)
{
    return virtio_rng_new(config, error);
}

static bool parse_mac(const char *text, uint8_t mac[6], GError **error)
{
    unsigned bytes[6];
    char rest;

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &bytes[0], &bytes[1], &bytes[2], &bytes[3],
               &bytes[4], &bytes[5], &rest) == 6 &&
        !(bytes[0] & 1)) {
        for (size_t i = 0; i < 6; i++)
            mac[i] = (uint8_t)bytes[i];
        return true;
    }
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "mac \"%s\" is no unicast Ethernet address",
                text);
    return false;
}

static struct device *create_net(struct machine *machine, const struct virtio_config *config,
                                 const struct device_config *options, GError **error)
{
    /* Stable over a move: the same for the same place on the command line. */
    uint8_t mac[6] = {0x52, 0x54, 0x00, 0x67, 0x77, (uint8_t)config->slot};
    const char *text = device_config_get(options, "mac");

    if (text && !parse_mac(text, mac, error))
        return NULL;
    struct netdev *back = netdev_open(options->backend, machine->loop, error);
    return back ? virtio_net_new(config, back, mac, error) : NULL;
}

static struct device *create_vconsole(struct machine *machine, const struct virtio_config *config,
                                      const struct device_config *options, GError **error)
{
    struct chardev *chardev = chardev_open(device_config_get(options, "backend"), machine->loop,
                                           on_escape, machine, error);
    return chardev ? virtio_console_new(config, chardev, error) : NULL;
}

static struct device *create_balloon(struct machine *machine, const struct virtio_config *config,
                                     const struct device_config *options, GError **error)
{
    return virtio_balloon_new(config, error);
}

static const struct {
    const char *kind;
    const char *id; /* of state instances: stable for ever */
    create_fn create;
} creators[] = {
    {"net", "virtio-net", create_net},
    {"disk", "virtio-blk", create_disk},
    {"rng", "virtio-rng", create_rng},
    {"balloon", "virtio-balloon", create_balloon},
    {"vconsole", "virtio-console", create_vconsole},
};

static bool add_pci_device(struct machine *machine, const struct device_config *options,
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

bool machine_add_pci(struct machine *machine, const struct pci_host_config *host,
                     const struct machine_config *config, GError **error)
{
    g_autoptr(GHashTable) counts = g_hash_table_new(g_direct_hash, g_direct_equal);

    machine->pci = pci_host_new(host, error);
    if (!machine->pci || !machine_add_device(machine, pci_host_device(machine->pci), error))
        return false;
    for (guint i = 0; config->devices && i < config->devices->len; i++) {
        const struct device_config *device = g_ptr_array_index(config->devices, i);
        unsigned index = GPOINTER_TO_UINT(g_hash_table_lookup(counts, device->kind));
        g_hash_table_insert(counts, (gpointer)device->kind, GUINT_TO_POINTER(index + 1));
        if (!add_pci_device(machine, device, i + 1, index, error))
            return false;
    }
    return true;
}
