/* SPDX-License-Identifier: MIT */
/*
 * What a PCI function needs from its host; between pci.c and the hosts.
 */
#ifndef GODWIT_DEVICE_PCI_HOST_H
#define GODWIT_DEVICE_PCI_HOST_H

#include "device/pci.h"

struct mmio_bus *pci_host_bus(struct pci_host *host);
const struct msi_controller *pci_host_msi(const struct pci_host *host);
/* Does one of the host's memory windows hold all of [gpa, gpa + size)? */
bool pci_host_forwards(const struct pci_host *host, uint64_t gpa, uint64_t size_bytes);
/* The level of a slot's INTA; note only remembers it, set drives the line as well. With the
 * function's lock held. */
void pci_host_set_intx(struct pci_host *host, unsigned slot, bool level);
void pci_host_note_intx(struct pci_host *host, unsigned slot, bool level);
/* Takes config as what reset restores. */
void pci_function_built(struct pci_function *fn);

#endif
