/* SPDX-License-Identifier: MIT */
/*
 * PCI functions and the host they sit on. One bus, one function per device (function 0).
 *
 * Model: PCI Local Bus 3.0 configuration header type 0, capabilities, INTx levels, MSI-X (msix.h)
 * where the board has a controller for it; the host (ecam.c) maps configuration space and routes
 * INTx.
 *
 * Locks: configuration and BAR accesses run under the function's device lock. The host's device
 * lock is outside of it, the interrupt controller's inside.
 */
#ifndef GODWIT_DEVICE_PCI_H
#define GODWIT_DEVICE_PCI_H

#include "device/device.h"
#include "device/msix.h"

#define PCI_CONFIG_SIZE 256
#define PCI_N_BARS      6

struct pci_host;

struct pci_bar {
    uint64_t size; /* power of two, at least 16; 0 = absent */
    bool is_64bit;
    bool is_prefetchable;
    struct mmio_region *region; /* made by pci_function_add_bar */
};

/* Embedded as first member in a PCI device's struct. */
struct pci_function {
    struct device dev;
    /* fixed after construction */
    struct pci_host *host;
    unsigned slot;
    uint8_t write_mask[PCI_CONFIG_SIZE]; /* bits the guest may change */
    struct pci_bar bars[PCI_N_BARS];
    uint8_t next_cap; /* where the next capability goes while building */
    /* Set by devices that have live registers in configuration space (virtio's window
     * capability); may be NULL. reading: the guest is about to read these bytes of config[];
     * written: it has just changed them (after masks). */
    void (*config_reading)(struct pci_function *fn, unsigned offset, unsigned size);
    void (*config_written)(struct pci_function *fn, unsigned offset, unsigned size);
    uint8_t reset_config[PCI_CONFIG_SIZE]; /* as built */
    /* guarded by dev.lock; saved by pci_function_state */
    uint8_t config[PCI_CONFIG_SIZE];
    bool is_intx_asserted; /* the function's own wish, before the INTx disable bit */
    struct pci_msix msix;
};

struct pci_ids {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits */
    uint8_t revision;
};

void pci_function_init(struct pci_function *fn, struct pci_host *host, unsigned slot,
                       const struct device_ops *ops, const char *id, const struct pci_ids *ids,
                       const struct gw_state_desc *state, void *state_object);
/* index 0..5; a 64-bit BAR takes two. The region moves as the guest programs the BAR and the
 * memory-enable bit. */
bool pci_function_add_bar(struct pci_function *fn, unsigned index, const char *name, uint64_t size,
                          bool is_64bit, const struct mmio_ops *ops, void *opaque, GError **error);
/* Appends a capability of len bytes (incl. id and next, which body leaves out: it has len - 2);
 * returns its offset. */
uint8_t pci_function_add_cap(struct pci_function *fn, uint8_t id, const void *body, uint8_t len);
void pci_function_set_intx(struct pci_function *fn, bool level);
void pci_function_reset(struct pci_function *fn); /* config to reset values, BARs unmapped */
void pci_function_clear(struct pci_function *fn); /* detaches; device_clear included */
bool pci_function_is_bus_master(const struct pci_function *fn);
/* Configuration access with semantics (masks, BAR moves, command register). */
uint32_t pci_function_config_read(struct pci_function *fn, unsigned offset, unsigned size);
void pci_function_config_write(struct pci_function *fn, unsigned offset, unsigned size,
                               uint32_t value);
/* Embed in a device's own table: GW_STRUCT(struct x, pci, &pci_function_state), and call
 * pci_function_post_load from its post_load. validate is part of the description. */
extern const struct gw_state_desc pci_function_state;
void pci_function_post_load(struct pci_function *fn);

/* ---- host ---- */
struct pci_host_config {
    struct mmio_bus *bus;
    uint64_t ecam_gpa, ecam_size;
    uint64_t mmio32_gpa, mmio32_size;
    uint64_t mmio64_gpa, mmio64_size;
    struct irq_line intx[4]; /* after swizzling: pin (slot + pin) % 4 */
    struct msi_controller msi;
};
struct pci_host *pci_host_new(const struct pci_host_config *config, GError **error);
void pci_host_free(struct pci_host *host);
struct device *pci_host_device(struct pci_host *host); /* the host bridge 00:00.0 */
/* Puts the finished function into its slot and gives it INTA. */
bool pci_host_attach(struct pci_host *host, struct pci_function *fn, GError **error);
void pci_host_detach(struct pci_host *host, struct pci_function *fn); /* before it is freed */

#endif
