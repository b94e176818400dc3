/* SPDX-License-Identifier: MIT */
/*
 * MSI-X of a PCI function: capability, table, pending bits.
 *
 * Embedded in struct pci_function; n_vectors 0 where the host has no MSI controller, and then
 * nothing of it is visible to the guest or saved.
 *
 * Locks: the function's device lock guards everything.
 */
#ifndef GODWIT_DEVICE_MSIX_H
#define GODWIT_DEVICE_MSIX_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "device/msi.h"
#include "godwit/state.h"

#define PCI_MSIX_MAX_VECTORS 16u

struct pci_function;

struct pci_msix_entry {
    uint64_t address;
    uint32_t data;
    uint32_t control; /* bit 0: masked */
};

struct pci_msix {
    /* fixed after construction */
    struct msi_controller controller;
    uint8_t n_vectors;
    uint8_t cap; /* offset of the capability */
    struct msi_vector *vectors[PCI_MSIX_MAX_VECTORS];
    /* guarded by dev.lock; saved */
    struct pci_msix_entry entries[PCI_MSIX_MAX_VECTORS];
    uint32_t pending; /* bit per vector: to be sent when it is unmasked */
    /* guarded by dev.lock: what the controller was told last */
    struct pci_msix_entry told[PCI_MSIX_MAX_VECTORS];
};

/* Adds the capability and a BAR (index, 32 bits) with table and pending bits. Does nothing where
 * the host has no MSI controller. Before pci_host_attach. */
bool pci_msix_init(struct pci_function *fn, unsigned bar, unsigned n_vectors, GError **error);
void pci_msix_clear(struct pci_function *fn);
bool pci_msix_is_enabled(const struct pci_function *fn);
/* Sends a message, or remembers to while it is masked. GUEST: a vector that does not exist is
 * ignored. Only while enabled. */
void pci_msix_send(struct pci_function *fn, unsigned vector);

/* Between pci.c and msix.c: the guest may have changed the capability; reset; after a load. */
void pci_msix_apply(struct pci_function *fn);
void pci_msix_reset(struct pci_function *fn);

/* A subsection of pci_function_state. */
extern const struct gw_state_desc pci_msix_state;

#endif
