/* SPDX-License-Identifier: MIT */
/*
 * KVM behind the interface every machine uses (cpu/backend.h), and what an x86 board needs besides:
 * where vCPUs begin, interrupt lines and messages, eventfds.
 *
 * Model: one VM per backend, with the kernel's own interrupt controllers (a local APIC per vCPU, an
 * IOAPIC of 24 pins at 0xfec00000, two PICs) and its PIT (ports 0x40-0x43, 0x61). Interrupts are
 * numbered by GSI: 0 to 23 are the IOAPIC's pins, and the first 16 are the PICs' too (0 is IOAPIC
 * pin 2, as on every PC); above them each GSI is one message (MSI) of the board's choice. Every
 * RAM block with a guest-physical address is a memory slot. What the guest reads or writes outside
 * of RAM, and its ports, reach the bus of struct cpu_config unless an eventfd was attached there;
 * where nothing answers it reads all ones.
 *
 * Life: cpu_kvm.create opens /dev/kvm and makes everything; no other call needs a path, so that a
 * sandbox may close the file system behind it.
 *
 * Threads: the calls below may be made from any thread at any time, also while vCPUs run, except
 * kvm_set_entry_*, which want them stopped. They take kvm_irq.lock and no other, and do not block
 * on vCPUs.
 *
 * Errors: GW_ERROR_UNSUPPORTED where host or kernel lack something; GW_ERROR_IO where the kernel
 * refuses what it should be able to; docs/kvm.md says what can be done about each.
 */
#ifndef GODWIT_CPU_KVM_KVM_H
#define GODWIT_CPU_KVM_KVM_H

#include "cpu/backend.h"

extern const struct cpu_backend_ops cpu_kvm;

/* cpu_kvm.check_host: is there a KVM that we may use and that has what we need? The sentence says
 * which of these fails. */
bool kvm_check_host(GError **error);

/* ---- where vCPUs begin, after cpu_kvm.reset ---- */

/* Real mode at segment:offset, everything else as after power-on (SPEC: Intel SDM 3, 10.1.4, with
 * the code segment's base at segment * 16). vCPU 0 only: the others wait for INIT and SIPI. */
void kvm_set_entry_real(struct cpu_backend *cpu, uint16_t segment, uint16_t offset);

/* SPEC: Linux Documentation/arch/x86/boot.rst, 64-bit boot protocol: long mode with paging on, flat
 * segments 0x10 (code) and 0x18 (data), interrupts off. The tables are in guest memory, and the
 * board's. */
struct kvm_long_entry {
    uint64_t rip;
    uint64_t rsi; /* the zero page */
    uint64_t rsp;
    uint64_t cr3; /* identity map of at least what the code at rip expects */
    uint64_t gdt_gpa;
    uint16_t gdt_bytes; /* all of the table, at least 0x20: entries 2 and 3 are used */
};
void kvm_set_entry_long(struct cpu_backend *cpu, const struct kvm_long_entry *entry);

/* ---- interrupt lines ---- */

#define KVM_N_PINS 24u

/* States the level of a pin. opaque is the struct cpu_backend *; the shape is that of struct
 * irq_line's set. */
void kvm_set_pin(void *opaque, unsigned pin, bool level);

/* ---- interrupts by message ---- */

/* Delivers a message now. Cheaper than a route for those that come rarely. */
void kvm_send_msi(struct cpu_backend *cpu, uint64_t address, uint32_t data);

/* A GSI above the pins for messages, without a route: what is signalled there goes nowhere. False
 * with error when all are taken. */
bool kvm_gsi_alloc(struct cpu_backend *cpu, unsigned *gsi, GError **error);
void kvm_gsi_free(struct cpu_backend *cpu, unsigned gsi);
/* What the GSI sends from the next kvm_gsi_commit on. */
void kvm_gsi_set_msi(struct cpu_backend *cpu, unsigned gsi, uint64_t address, uint32_t data);
/* No route from the next commit on (a masked vector). What is signalled meanwhile is lost: whoever
 * masks must take the eventfd back (kvm_irqfd_detach) and look at it. */
void kvm_gsi_clear_msi(struct cpu_backend *cpu, unsigned gsi);
/* Hands all routes that changed to the kernel in one call; nothing to do when none did. Costs some
 * ten microseconds, more with many vCPUs: change several, commit once. */
bool kvm_gsi_commit(struct cpu_backend *cpu, GError **error);

/* A write to the eventfd raises the interrupt; the kernel takes it without a thread of ours. An
 * edge for messages; on a pin an edge up and down. The descriptor stays the caller's. */
bool kvm_irqfd_attach(struct cpu_backend *cpu, int event_fd, unsigned gsi, GError **error);
/* For level-triggered pins: the pin goes up with event_fd, and down when the guest ends the
 * interrupt, which is told at resample_fd; whoever still wants it writes to event_fd again. */
bool kvm_irqfd_attach_level(struct cpu_backend *cpu, int event_fd, int resample_fd, unsigned pin,
                            GError **error);
/* When it returns no interrupt of it is on its way any more. */
void kvm_irqfd_detach(struct cpu_backend *cpu, int event_fd, unsigned gsi);

/* ---- doorbells ---- */

/* Where a write of the guest becomes an event instead of an exit. */
struct kvm_doorbell {
    bool is_port;   /* an I/O port, else memory */
    uint64_t at;    /* guest-physical address, or port */
    unsigned size;  /* 1, 2, 4, 8; 0 (memory only): any */
    bool has_value; /* only this value; others come to the bus */
    uint64_t value;
};
bool kvm_doorbell_attach(struct cpu_backend *cpu, const struct kvm_doorbell *where, int event_fd,
                         GError **error);
/* With the same where and event_fd. When it returns, what the guest writes comes to the bus. */
void kvm_doorbell_detach(struct cpu_backend *cpu, const struct kvm_doorbell *where, int event_fd);

#endif
