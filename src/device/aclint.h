/* SPDX-License-Identifier: MIT */
/*
 * ACLINT in the layout of the SiFive CLINT: software interrupts, mtimecmp and mtime.
 */
#ifndef GODWIT_DEVICE_ACLINT_H
#define GODWIT_DEVICE_ACLINT_H

#include "cpu/backend.h"
#include "device/device.h"

#define ACLINT_MAX_HARTS 64
#define ACLINT_SIZE      0x10000

struct aclint;

/* cpu and clock are borrowed and outlive the ACLINT; of the ops set_irq, set_timer and get_timer
 * are used. mtimecmp lives in the harts and is saved there. */
struct aclint *aclint_new(const char *id, struct mmio_bus *bus, uint64_t gpa, unsigned n_harts,
                          const struct cpu_backend_ops *cpu_ops, struct cpu_backend *cpu,
                          struct guest_clock *clock, GError **error);
struct device *aclint_device(struct aclint *aclint);

#endif
