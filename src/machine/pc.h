/* SPDX-License-Identifier: MIT */
/*
 * The `pc` board's address map: guest-physical addresses, I/O ports, interrupt pins.
 *
 *     0x00000000  RAM, up to the hole at 3 GiB; what the boot files need of its first MiB is below
 *     0xc0000000  windows of the PCI host, 512 MiB
 *     0xe0000000  PCI configuration space (ECAM) of bus 0
 *     0xfec00000  IOAPIC, and 0xfee00000 local APICs: the kernel's
 *     0xfffc0000  ROM, 256 KiB whatever the image's size
 *     4 GiB       the rest of RAM
 *
 * The first MiB holds a GDT, the zero page, page tables, the command line, and from 0xe0000 on the
 * ACPI tables, or the last 128 KiB of the ROM's image.
 */
#ifndef GODWIT_MACHINE_PC_H
#define GODWIT_MACHINE_PC_H

#include <stdint.h>

#define PC_MIN_RAM_BYTES (UINT64_C(16) << 20)
#define PC_MAX_RAM_BYTES (UINT64_C(1) << 40)
#define PC_MAX_CPUS      64

#define PC_HOLE_GPA       UINT64_C(0xc0000000)
#define PC_HIGH_GPA       (UINT64_C(4) << 30)
#define PC_PCI_MMIO_GPA   UINT64_C(0xc0000000)
#define PC_PCI_MMIO_BYTES UINT64_C(0x20000000)
#define PC_ECAM_GPA       UINT64_C(0xe0000000)
#define PC_ECAM_BYTES     UINT64_C(0x100000)
#define PC_IOAPIC_GPA     UINT64_C(0xfec00000)
#define PC_LAPIC_GPA      UINT64_C(0xfee00000)
#define PC_HELPERS_GPA    UINT64_C(0xfffbc000) /* four pages that KVM keeps for itself */
#define PC_ROM_GPA        UINT64_C(0xfffc0000)
#define PC_ROM_BYTES      UINT64_C(0x40000)

#define PC_GDT_GPA       UINT64_C(0x500)
#define PC_GDT_BYTES     0x20u
#define PC_ZERO_PAGE_GPA UINT64_C(0x7000)
#define PC_STACK_TOP_GPA UINT64_C(0x7000) /* grows down */
#define PC_TABLES_GPA    UINT64_C(0x9000)
#define PC_CMDLINE_GPA   UINT64_C(0x20000)
#define PC_CMDLINE_BYTES 0x10000u /* at most, with the final zero */
#define PC_SEED_GPA      UINT64_C(0x30000)
#define PC_BASE_END_GPA  UINT64_C(0xa0000) /* of RAM below the reserved rest of the first MiB */
#define PC_ACPI_GPA      UINT64_C(0xe0000)
#define PC_ACPI_BYTES    0x20000u
#define PC_KERNEL_GPA    UINT64_C(0x100000)

enum pc_port {
    PC_PORT_RESET = 0x64,
    PC_PORT_CMOS = 0x70,
    PC_PORT_UART0 = 0x3f8,
    PC_PORT_PM1 = 0x600,
};

#define PC_RESET_VALUE 0xfe

enum pc_irq {
    PC_IRQ_TIMER = 0,
    PC_IRQ_UART0 = 4,
    PC_IRQ_RTC = 8,
    PC_IRQ_SCI = 9,
    PC_IRQ_PCI = 16, /* INTA..INTD: 16..19 */
};
#define PC_TIMER_PIN 2 /* of the IOAPIC, where IRQ 0 arrives */

#endif
