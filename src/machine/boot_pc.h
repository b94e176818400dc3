/* SPDX-License-Identifier: MIT */
/*
 * Where the `pc` board's boot files go, and what the guest finds besides: page tables, the zero
 * page with the memory map, ACPI tables.
 */
#ifndef GODWIT_MACHINE_BOOT_PC_H
#define GODWIT_MACHINE_BOOT_PC_H

#include "machine/boot.h"
#include "machine/config.h"

/* An entry here is the first instruction after power-on, in real mode; all others are entered in
 * long mode. */
#define BOOT_PC_REAL_ENTRY UINT64_C(0xffff0)

/* Fills the plan; config names the files. */
bool boot_pc_plan(const struct machine_config *config, struct boot_plan *plan, GPtrArray *keep,
                  GError **error);
/* The same for a kernel already at hand (tests, fuzzing), borrowed until the plan is packed. */
bool boot_pc_plan_kernel(const struct machine_config *config, const uint8_t *bytes,
                         uint64_t n_bytes, struct boot_plan *plan, GPtrArray *keep, GError **error);

#endif
