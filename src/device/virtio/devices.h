/* SPDX-License-Identifier: MIT */
/*
 * The virtio devices a machine can have. Each constructor makes the device, attaches it to the PCI
 * host at config->slot and returns it in reset state, or NULL with error. device_free frees it.
 *
 * Names: state instances carry config->id. Back ends given to a constructor belong to the device
 * from then on, also when the constructor fails.
 */
#ifndef GODWIT_DEVICE_VIRTIO_DEVICES_H
#define GODWIT_DEVICE_VIRTIO_DEVICES_H

#include "device/blockdev.h"
#include "device/chardev.h"
#include "device/netdev.h"
#include "device/pci.h"

struct virtio_config {
    const char *id; /* "virtio-blk/0": device id */
    struct pci_host *host;
    unsigned slot;
    struct gw_memory *memory; /* borrowed, outlives the device */
    struct io_loop *loop;     /* borrowed, outlives the device */
};

/* Random numbers from the host's generator; fails while that is not seeded yet. */
struct device *virtio_rng_new(const struct virtio_config *config, GError **error);

/* serial: up to 20 bytes for GET_ID, NULL for none. */
struct device *virtio_blk_new(const struct virtio_config *config, struct blockdev *disk,
                              const char *serial, GError **error);

/* mac: of the guest's interface (unicast, not zero). */
struct device *virtio_net_new(const struct virtio_config *config, struct netdev *back,
                              const uint8_t mac[6], GError **error);

/* One port: the guest's hvc0. */
struct device *virtio_console_new(const struct virtio_config *config, struct chardev *chardev,
                                  GError **error);

struct device *virtio_balloon_new(const struct virtio_config *config, GError **error);

#define VIRTIO_BALLOON_N_STATS 10 /* by VIRTIO_BALLOON_S_* of linux/virtio_balloon.h */

struct virtio_balloon_info {
    uint64_t target_pages;                  /* of 4 KiB: what the guest was asked to give up */
    uint64_t actual_pages;                  /* what it says it has given up */
    uint64_t stats[VIRTIO_BALLOON_N_STATS]; /* what the guest said last; UINT64_MAX: nothing */
};

/* These take the device lock: call them without it, from any thread. */
void virtio_balloon_set_target(struct device *balloon, uint64_t pages);
void virtio_balloon_get_info(struct device *balloon, struct virtio_balloon_info *info);
/* Asks the guest for fresh statistics; they arrive later. */
void virtio_balloon_ask_stats(struct device *balloon);

#endif
