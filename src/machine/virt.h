/* SPDX-License-Identifier: MIT */
/*
 * The `virt` board's shape: where everything is and which interrupt it has.
 *
 * Model: the address map of the well-known RISC-V `virt` board, so that firmware and kernels built
 * for it run unchanged. One difference: the board's 64-bit PCI window starts at 16 GiB, inside RAM
 * when RAM is larger than 14 GiB; ours is at 16 GiB while RAM ends below it, else at the next
 * multiple of its own size above RAM. The device tree says where it is, and nothing else may know.
 */
#ifndef GODWIT_MACHINE_VIRT_H
#define GODWIT_MACHINE_VIRT_H

#include <stdint.h>

enum virt_region {
    VIRT_MROM,
    VIRT_TEST,
    VIRT_RTC,
    VIRT_CLINT,
    VIRT_PLIC,
    VIRT_UART0,
    VIRT_ECAM,
    VIRT_PCI_MMIO,
    VIRT_PCI_MMIO64,
    VIRT_RAM,
    VIRT_N_REGIONS,
};

struct virt_range {
    const char *name;
    uint64_t gpa;
    uint64_t size;
};

/* The fixed part; VIRT_PCI_MMIO64 and the size of VIRT_RAM follow from virt_layout_init. */
struct virt_layout {
    struct virt_range ranges[VIRT_N_REGIONS];
};

enum {
    VIRT_IRQ_UART0 = 10,
    VIRT_IRQ_RTC = 11,
    VIRT_IRQ_PCI = 32, /* INTA..INTD: 32..35 */
    VIRT_N_IRQS = 95,  /* riscv,ndev */
    VIRT_MAX_CPUS = 8,
};

#define VIRT_TIMEBASE_HZ     10000000u
#define VIRT_UART_CLOCK_HZ   3686400u
#define VIRT_MIN_RAM_BYTES   (UINT64_C(64) << 20)
#define VIRT_MAX_RAM_BYTES   (UINT64_C(8) << 40)
#define VIRT_PCI_MMIO64_SIZE (UINT64_C(16) << 30)

void virt_layout_init(struct virt_layout *layout, uint64_t memory_bytes);

#endif
