/* SPDX-License-Identifier: MIT */
/*
 * The `pc` board's ACPI tables: RSDP, XSDT, FADT with FACS and DSDT, MADT, MCFG.
 */
#ifndef GODWIT_MACHINE_ACPI_H
#define GODWIT_MACHINE_ACPI_H

#include <glib.h>

/* All tables for this many vCPUs, as they stand from PC_ACPI_GPA on; the RSDP comes first. */
GBytes *acpi_build(unsigned n_cpus);

#endif
