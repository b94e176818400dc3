/* SPDX-License-Identifier: MIT */
/* The `virt` board's address map. */
#include "machine/virt.h"

#include <string.h>

#include "device/aclint.h"
#include "device/goldfish_rtc.h"
#include "device/plic.h"
#include "device/serial.h"
#include "device/syscon.h"

static const struct virt_range fixed_map[VIRT_N_REGIONS] = {
    [VIRT_MROM] = {"mrom", 0x1000, 0xf000},
    [VIRT_TEST] = {"test", 0x100000, SYSCON_SIZE},
    [VIRT_RTC] = {"rtc", 0x101000, GOLDFISH_RTC_SIZE},
    [VIRT_CLINT] = {"clint", 0x2000000, ACLINT_SIZE},
    [VIRT_PLIC] = {"plic", 0xc000000, PLIC_SIZE},
    [VIRT_UART0] = {"uart0", 0x10000000, SERIAL_SIZE},
    [VIRT_ECAM] = {"ecam", 0x30000000, 0x10000000},
    [VIRT_PCI_MMIO] = {"pci-mmio", 0x40000000, 0x40000000},
    [VIRT_RAM] = {"ram", 0x80000000, 0},
    [VIRT_PCI_MMIO64] = {"pci-mmio64", UINT64_C(16) << 30, VIRT_PCI_MMIO64_SIZE},
};

void virt_layout_init(struct virt_layout *layout, uint64_t memory_bytes)
{
    struct virt_range *ram = &layout->ranges[VIRT_RAM];
    struct virt_range *window = &layout->ranges[VIRT_PCI_MMIO64];

    memcpy(layout->ranges, fixed_map, sizeof fixed_map);
    ram->size = memory_bytes;
    while (window->gpa < ram->gpa + ram->size)
        window->gpa += window->size;
}
