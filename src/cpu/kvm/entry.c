/* SPDX-License-Identifier: MIT */
/* Where vCPU 0 begins. */
#include <errno.h>

#include "cpu/kvm/kvm_internal.h"

/* SPEC: Intel SDM 3, 3.4.5: types of segment descriptors. */
enum { SEGMENT_DATA = 3, SEGMENT_CODE = 11 }; /* read and write, or execute and read; accessed */
enum { SELECTOR_CODE = 0x10, SELECTOR_DATA = 0x18 };
#define CR0_PE   (1u << 0)
#define CR0_ET   (1u << 4)
#define CR0_PG   (1u << 31)
#define CR4_PAE  (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define RFLAGS_1 2u /* the bit that is always set */

static bool read_registers(struct cpu_backend *cpu, struct kvm_regs *regs, struct kvm_sregs2 *sregs)
{
    int fd = cpu->vcpus[0].fd;
    return ioctl(fd, KVM_GET_REGS, regs) == 0 && ioctl(fd, KVM_GET_SREGS2, sregs) == 0;
}

static void write_registers(struct cpu_backend *cpu, const struct kvm_regs *regs,
                            const struct kvm_sregs2 *sregs)
{
    int fd = cpu->vcpus[0].fd;
    if (ioctl(fd, KVM_SET_SREGS2, sregs) < 0 || ioctl(fd, KVM_SET_REGS, regs) < 0)
        g_critical("KVM refuses the entry of vCPU 0: %s", g_strerror(errno));
}

void kvm_set_entry_real(struct cpu_backend *cpu, uint16_t segment, uint16_t offset)
{
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;

    if (!read_registers(cpu, &regs, &sregs))
        return;
    sregs.cs.selector = segment;
    sregs.cs.base = (uint64_t)segment << 4;
    regs.rip = offset;
    write_registers(cpu, &regs, &sregs);
}

void kvm_set_entry_long(struct cpu_backend *cpu, const struct kvm_long_entry *entry)
{
    const struct kvm_segment code = {.limit = UINT32_MAX,
                                     .selector = SELECTOR_CODE,
                                     .type = SEGMENT_CODE,
                                     .present = 1,
                                     .s = 1,
                                     .l = 1,
                                     .g = 1};
    const struct kvm_segment data = {.limit = UINT32_MAX,
                                     .selector = SELECTOR_DATA,
                                     .type = SEGMENT_DATA,
                                     .present = 1,
                                     .db = 1,
                                     .s = 1,
                                     .g = 1};
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;

    if (!read_registers(cpu, &regs, &sregs))
        return;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.gdt.base = entry->gdt_gpa;
    sregs.gdt.limit = (uint16_t)(entry->gdt_bytes - 1);
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = entry->cr3;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    regs = (struct kvm_regs){
        .rip = entry->rip, .rsi = entry->rsi, .rsp = entry->rsp, .rflags = RFLAGS_1};
    write_registers(cpu, &regs, &sregs);
}
