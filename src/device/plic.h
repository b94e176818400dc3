/* SPDX-License-Identifier: MIT */
/*
 * Platform-level interrupt controller (PLIC): up to 95 level-triggered sources, an M and an S
 * context for each hart.
 */
#ifndef GODWIT_DEVICE_PLIC_H
#define GODWIT_DEVICE_PLIC_H

#include "cpu/backend.h"
#include "device/device.h"

#define PLIC_N_SOURCES 95 /* numbered from 1 */
#define PLIC_MAX_HARTS 64
#define PLIC_SIZE      0x600000

struct plic;

/* cpu is borrowed and outlives the PLIC; of the ops only set_irq is used. */
struct plic *plic_new(const char *id, struct mmio_bus *bus, uint64_t gpa, unsigned n_harts,
                      const struct cpu_backend_ops *cpu_ops, struct cpu_backend *cpu,
                      GError **error);
struct device *plic_device(struct plic *plic);
/* Input pin of a source, 1..PLIC_N_SOURCES. set() may be called from any thread, also while
 * stopped. */
struct irq_line plic_irq(struct plic *plic, unsigned source);

#endif
