/* SPDX-License-Identifier: MIT */
/*
 * Numbers of the PCI Local Bus 3.0 configuration header (chapter 6 and appendix H).
 */
#ifndef GODWIT_DEVICE_PCI_REGS_H
#define GODWIT_DEVICE_PCI_REGS_H

#define PCI_VENDOR_ID            0x00
#define PCI_DEVICE_ID            0x02
#define PCI_COMMAND              0x04
#define PCI_COMMAND_MEMORY       0x0002
#define PCI_COMMAND_MASTER       0x0004
#define PCI_COMMAND_INTX_DISABLE 0x0400
#define PCI_STATUS               0x06
#define PCI_STATUS_INTX          0x08
#define PCI_STATUS_CAP_LIST      0x10
#define PCI_REVISION             0x08 /* and class code in the upper three bytes */
#define PCI_CACHE_LINE           0x0c
#define PCI_LATENCY_TIMER        0x0d
#define PCI_BAR0                 0x10
#define PCI_BAR_64BIT            0x4
#define PCI_BAR_PREFETCHABLE     0x8
#define PCI_SUBSYSTEM_VENDOR     0x2c
#define PCI_SUBSYSTEM            0x2e
#define PCI_CAP_POINTER          0x34
#define PCI_INTERRUPT_LINE       0x3c
#define PCI_INTERRUPT_PIN        0x3d
#define PCI_CAP_AREA             0x40

#define PCI_CAP_MSIX              0x11
#define PCI_MSIX_CONTROL          2u /* in the capability */
#define PCI_MSIX_CONTROL_MASK_ALL 0x4000u
#define PCI_MSIX_CONTROL_ENABLE   0x8000u

#endif
