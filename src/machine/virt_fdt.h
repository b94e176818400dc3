/* SPDX-License-Identifier: MIT */
/*
 * The `virt` board's device tree.
 *
 * SPEC: Devicetree Specification 0.4; the Linux bindings of each compatible string.
 */
#ifndef GODWIT_MACHINE_VIRT_FDT_H
#define GODWIT_MACHINE_VIRT_FDT_H

#include <glib.h>

#include "machine/virt.h"

#define VIRT_SEED_BYTES 32u

struct virt_fdt_params {
    const struct virt_layout *layout;
    unsigned n_cpus;
    const char *const *cpu_features; /* NULL-terminated, from the vCPU backend */
    const char *bootargs;            /* may be NULL */
    uint64_t initrd_gpa;
    uint64_t initrd_bytes; /* 0: none */
};

/* Returns the packed tree. *seed_offset receives where in it the VIRT_SEED_BYTES bytes of
 * /chosen/rng-seed stand: they are zero here and filled in at every boot. NULL with error when it
 * does not fit (bootargs too long). */
GBytes *virt_fdt_build(const struct virt_fdt_params *params, uint64_t *seed_offset, GError **error);

#endif
