/* SPDX-License-Identifier: MIT */
/*
 * The saved form of everything KVM keeps, in tables over the kernel's own structures.
 *
 * PEER: every value comes from outside. What the kernel itself checks when it gets a value is left
 * to it: its refusal is a sentence too, and nothing has run by then. Checked here is what this
 * program counts by, and flags that would make the kernel look at members we do not describe.
 *
 * Not here, since the kernel keeps it elsewhere or it means nothing on another host: the time
 * stamp counter's offset (kvm_vcpu_state.tsc carries its value), the PIT's load times (host time;
 * the kernel starts its channels anew), everything padded or reserved.
 */
#include "cpu/kvm/tables.h"

#include "cpu/kvm/kvm_internal.h"

/* ---- a vCPU ---- */

static const struct gw_field segment_fields[] = {
    GW_U64(struct kvm_segment, base),
    GW_U32(struct kvm_segment, limit),
    GW_U16(struct kvm_segment, selector),
    GW_U8(struct kvm_segment, type, .max = 15),
    GW_U8(struct kvm_segment, present, .max = 1),
    GW_U8(struct kvm_segment, dpl, .max = 3),
    GW_U8(struct kvm_segment, db, .max = 1),
    GW_U8(struct kvm_segment, s, .max = 1),
    GW_U8(struct kvm_segment, l, .max = 1),
    GW_U8(struct kvm_segment, g, .max = 1),
    GW_U8(struct kvm_segment, avl, .max = 1),
    GW_U8(struct kvm_segment, unusable, .max = 1),
    GW_FIELDS_END,
};

static const struct gw_state_desc segment_desc = {.name = "x86-segment",
                                                  .version = 1,
                                                  .object_size = sizeof(struct kvm_segment),
                                                  .fields = segment_fields};

static const struct gw_field table_register_fields[] = {
    GW_U64(struct kvm_dtable, base),
    GW_U16(struct kvm_dtable, limit),
    GW_FIELDS_END,
};

static const struct gw_state_desc table_register_desc = {.name = "x86-table-register",
                                                         .version = 1,
                                                         .object_size = sizeof(struct kvm_dtable),
                                                         .fields = table_register_fields};

static const struct gw_field regs_fields[] = {
    GW_U64(struct kvm_regs, rax),
    GW_U64(struct kvm_regs, rbx),
    GW_U64(struct kvm_regs, rcx),
    GW_U64(struct kvm_regs, rdx),
    GW_U64(struct kvm_regs, rsi),
    GW_U64(struct kvm_regs, rdi),
    GW_U64(struct kvm_regs, rsp),
    GW_U64(struct kvm_regs, rbp),
    GW_U64(struct kvm_regs, r8),
    GW_U64(struct kvm_regs, r9),
    GW_U64(struct kvm_regs, r10),
    GW_U64(struct kvm_regs, r11),
    GW_U64(struct kvm_regs, r12),
    GW_U64(struct kvm_regs, r13),
    GW_U64(struct kvm_regs, r14),
    GW_U64(struct kvm_regs, r15),
    GW_U64(struct kvm_regs, rip),
    GW_U64(struct kvm_regs, rflags),
    GW_FIELDS_END,
};

static const struct gw_state_desc regs_desc = {.name = "x86-registers",
                                               .version = 1,
                                               .object_size = sizeof(struct kvm_regs),
                                               .fields = regs_fields};

#define SEGMENT(m) GW_STRUCT(struct kvm_sregs2, m, &segment_desc)

static const struct gw_field sregs_fields[] = {
    SEGMENT(cs),
    SEGMENT(ds),
    SEGMENT(es),
    SEGMENT(fs),
    SEGMENT(gs),
    SEGMENT(ss),
    SEGMENT(tr),
    SEGMENT(ldt),
    GW_STRUCT(struct kvm_sregs2, gdt, &table_register_desc),
    GW_STRUCT(struct kvm_sregs2, idt, &table_register_desc),
    GW_U64(struct kvm_sregs2, cr0),
    GW_U64(struct kvm_sregs2, cr2),
    GW_U64(struct kvm_sregs2, cr3),
    GW_U64(struct kvm_sregs2, cr4),
    GW_U64(struct kvm_sregs2, cr8),
    GW_U64(struct kvm_sregs2, efer),
    GW_U64(struct kvm_sregs2, apic_base),
    GW_U64(struct kvm_sregs2, flags, .mask = KVM_SREGS2_FLAGS_PDPTRS_VALID),
    GW_U64_ARRAY(struct kvm_sregs2, pdptrs),
    GW_FIELDS_END,
};

static const struct gw_state_desc sregs_desc = {.name = "x86-system-registers",
                                                .version = 1,
                                                .object_size = sizeof(struct kvm_sregs2),
                                                .fields = sregs_fields};

static const struct gw_field xcr_fields[] = {
    GW_U32(struct kvm_xcr, xcr),
    GW_U64(struct kvm_xcr, value),
    GW_FIELDS_END,
};

static const struct gw_state_desc xcr_desc = {
    .name = "x86-xcr", .version = 1, .object_size = sizeof(struct kvm_xcr), .fields = xcr_fields};

static const struct gw_field xcrs_fields[] = {
    GW_STRUCT_VARRAY(struct kvm_xcrs, xcrs, nr_xcrs, &xcr_desc),
    GW_FIELDS_END,
};

static const struct gw_state_desc xcrs_desc = {.name = "x86-xcrs",
                                               .version = 1,
                                               .object_size = sizeof(struct kvm_xcrs),
                                               .fields = xcrs_fields};

#define EVENT_FLAGS                                                                                \
    (KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |                           \
     KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD |          \
     KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
#define EVENT_U8(m, l) GW_U8(struct kvm_vcpu_events, m, .label = l)

static const struct gw_field events_fields[] = {
    EVENT_U8(exception.injected, "exception_injected"),
    EVENT_U8(exception.nr, "exception_nr"),
    EVENT_U8(exception.has_error_code, "exception_has_error_code"),
    EVENT_U8(exception.pending, "exception_pending"),
    GW_U32(struct kvm_vcpu_events, exception.error_code, .label = "exception_error_code"),
    EVENT_U8(interrupt.injected, "interrupt_injected"),
    EVENT_U8(interrupt.nr, "interrupt_nr"),
    EVENT_U8(interrupt.soft, "interrupt_soft"),
    EVENT_U8(interrupt.shadow, "interrupt_shadow"),
    EVENT_U8(nmi.injected, "nmi_injected"),
    EVENT_U8(nmi.pending, "nmi_pending"),
    EVENT_U8(nmi.masked, "nmi_masked"),
    GW_U32(struct kvm_vcpu_events, sipi_vector),
    GW_U32(struct kvm_vcpu_events, flags, .mask = EVENT_FLAGS),
    EVENT_U8(smi.smm, "smi_smm"),
    EVENT_U8(smi.pending, "smi_pending"),
    EVENT_U8(smi.smm_inside_nmi, "smi_smm_inside_nmi"),
    EVENT_U8(smi.latched_init, "smi_latched_init"),
    EVENT_U8(triple_fault.pending, "triple_fault_pending"),
    GW_U8(struct kvm_vcpu_events, exception_has_payload),
    GW_U64(struct kvm_vcpu_events, exception_payload),
    GW_FIELDS_END,
};

static const struct gw_state_desc events_desc = {.name = "x86-events",
                                                 .version = 1,
                                                 .object_size = sizeof(struct kvm_vcpu_events),
                                                 .fields = events_fields};

static const struct gw_field debugregs_fields[] = {
    GW_U64_ARRAY(struct kvm_debugregs, db),
    GW_U64(struct kvm_debugregs, dr6),
    GW_U64(struct kvm_debugregs, dr7),
    GW_FIELDS_END,
};

static const struct gw_state_desc debugregs_desc = {.name = "x86-debug-registers",
                                                    .version = 1,
                                                    .object_size = sizeof(struct kvm_debugregs),
                                                    .fields = debugregs_fields};

static const struct gw_field msr_fields[] = {
    GW_U32(struct kvm_msr, index),
    GW_U64(struct kvm_msr, value),
    GW_FIELDS_END,
};

static const struct gw_state_desc msr_desc = {
    .name = "x86-msr", .version = 1, .object_size = sizeof(struct kvm_msr), .fields = msr_fields};

static const struct gw_field vcpu_fields[] = {
    GW_STRUCT(struct kvm_vcpu, state.regs, &regs_desc, .label = "regs"),
    GW_STRUCT(struct kvm_vcpu, state.sregs, &sregs_desc, .label = "sregs"),
    GW_BUFFER(struct kvm_vcpu, state.lapic.regs, .label = "lapic"),
    GW_STRUCT(struct kvm_vcpu, state.xcrs, &xcrs_desc, .label = "xcrs"),
    GW_STRUCT(struct kvm_vcpu, state.events, &events_desc, .label = "events"),
    GW_STRUCT(struct kvm_vcpu, state.debugregs, &debugregs_desc, .label = "debugregs"),
    GW_U32(struct kvm_vcpu, state.mp_state.mp_state, .label = "mp_state", .max = 10),
    GW_ALLOC_BUFFER(struct kvm_vcpu, state.xsave, state.xsave_bytes, .label = "xsave",
                    .count_max = KVM_MAX_XSAVE_BYTES),
    GW_STRUCT_VARRAY(struct kvm_vcpu, state.msrs, state.n_msrs, &msr_desc, .label = "msrs"),
    GW_U64(struct kvm_vcpu, state.tsc, .label = "tsc"),
    GW_U64(struct kvm_vcpu, state.tsc_real_ns, .label = "tsc_real_ns"),
    GW_FIELDS_END,
};

static bool vcpu_pre_save(void *object, GError **error)
{
    struct kvm_vcpu *vcpu = object;
    return kvm_vcpu_get(vcpu, &vcpu->state, error);
}

static bool vcpu_validate(const void *shadow, GError **error)
{
    const struct kvm_vcpu *vcpu = shadow;
    uint32_t bytes = vcpu->state.xsave_bytes;

    if (bytes < sizeof(struct kvm_xsave) || bytes > vcpu->cpu->host.xsave_bytes) {
        g_set_error(error, GW_STATE_ERROR, GW_STATE_ERROR_VALUE,
                    "xsave has %u bytes, this host keeps %u to %u", bytes,
                    (unsigned)sizeof(struct kvm_xsave), vcpu->cpu->host.xsave_bytes);
        return false;
    }
    return true;
}

static bool vcpu_post_load(void *object, GError **error)
{
    struct kvm_vcpu *vcpu = object;
    return kvm_vcpu_set(vcpu, &vcpu->state, true, error);
}

const struct gw_state_desc kvm_vcpu_desc = {
    .name = "kvm-vcpu",
    .version = 1,
    .object_size = sizeof(struct kvm_vcpu),
    .priority = GW_PRIORITY_CPU,
    .fields = vcpu_fields,
    .pre_save = vcpu_pre_save,
    .validate = vcpu_validate,
    .post_load = vcpu_post_load,
};

/* ---- the chips ---- */

static const struct gw_field pic_fields[] = {
    GW_U8(struct kvm_pic_state, last_irr),
    GW_U8(struct kvm_pic_state, irr),
    GW_U8(struct kvm_pic_state, imr),
    GW_U8(struct kvm_pic_state, isr),
    GW_U8(struct kvm_pic_state, priority_add, .mask = 7),
    GW_U8(struct kvm_pic_state, irq_base),
    GW_U8(struct kvm_pic_state, read_reg_select),
    GW_U8(struct kvm_pic_state, poll),
    GW_U8(struct kvm_pic_state, special_mask),
    GW_U8(struct kvm_pic_state, init_state),
    GW_U8(struct kvm_pic_state, auto_eoi),
    GW_U8(struct kvm_pic_state, rotate_on_auto_eoi),
    GW_U8(struct kvm_pic_state, special_fully_nested_mode),
    GW_U8(struct kvm_pic_state, init4),
    GW_U8(struct kvm_pic_state, elcr),
    GW_U8(struct kvm_pic_state, elcr_mask),
    GW_FIELDS_END,
};

static const struct gw_state_desc pic_desc = {
    .name = "pic", .version = 1, .object_size = sizeof(struct kvm_pic_state), .fields = pic_fields};

static const struct gw_field redirection_fields[] = {
    GW_U64(struct kvm_redirection, bits),
    GW_FIELDS_END,
};

static const struct gw_state_desc redirection_desc = {.name = "ioapic-redirection",
                                                      .version = 1,
                                                      .object_size = sizeof(struct kvm_redirection),
                                                      .fields = redirection_fields};

static const struct gw_field ioapic_fields[] = {
    GW_U64(struct kvm_ioapic_state, base_address),
    GW_U32(struct kvm_ioapic_state, ioregsel),
    GW_U32(struct kvm_ioapic_state, id),
    GW_U32(struct kvm_ioapic_state, irr),
    GW_STRUCT_ARRAY(struct kvm_ioapic_state, redirtbl, &redirection_desc),
    GW_FIELDS_END,
};

static const struct gw_state_desc ioapic_desc = {.name = "ioapic",
                                                 .version = 1,
                                                 .object_size = sizeof(struct kvm_ioapic_state),
                                                 .fields = ioapic_fields};

static const struct gw_field pit_channel_fields[] = {
    GW_U32(struct kvm_pit_channel_state, count, .max = 65536),
    GW_U16(struct kvm_pit_channel_state, latched_count),
    GW_U8(struct kvm_pit_channel_state, count_latched),
    GW_U8(struct kvm_pit_channel_state, status_latched),
    GW_U8(struct kvm_pit_channel_state, status),
    GW_U8(struct kvm_pit_channel_state, read_state),
    GW_U8(struct kvm_pit_channel_state, write_state),
    GW_U8(struct kvm_pit_channel_state, write_latch),
    GW_U8(struct kvm_pit_channel_state, rw_mode),
    GW_U8(struct kvm_pit_channel_state, mode),
    GW_U8(struct kvm_pit_channel_state, bcd),
    GW_U8(struct kvm_pit_channel_state, gate),
    GW_FIELDS_END,
};

static const struct gw_state_desc pit_channel_desc = {.name = "pit-channel",
                                                      .version = 1,
                                                      .object_size =
                                                          sizeof(struct kvm_pit_channel_state),
                                                      .fields = pit_channel_fields};

static const struct gw_field pit_fields[] = {
    GW_STRUCT_ARRAY(struct kvm_pit_state2, channels, &pit_channel_desc),
    GW_U32(struct kvm_pit_state2, flags,
           .mask = KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON),
    GW_FIELDS_END,
};

static const struct gw_state_desc pit_desc = {.name = "pit",
                                              .version = 1,
                                              .object_size = sizeof(struct kvm_pit_state2),
                                              .fields = pit_fields};

static const struct gw_field chips_fields[] = {
    GW_STRUCT_ARRAY(struct cpu_backend, chips.pics, &pic_desc, .label = "pics"),
    GW_STRUCT(struct cpu_backend, chips.ioapic, &ioapic_desc, .label = "ioapic"),
    GW_STRUCT(struct cpu_backend, chips.pit, &pit_desc, .label = "pit"),
    GW_FIELDS_END,
};

static bool chips_pre_save(void *object, GError **error)
{
    struct cpu_backend *cpu = object;
    return kvm_chips_get(cpu, &cpu->chips, error);
}

static bool chips_post_load(void *object, GError **error)
{
    struct cpu_backend *cpu = object;
    return kvm_chips_set(cpu, &cpu->chips, error);
}

const struct gw_state_desc kvm_chips_desc = {
    .name = "kvm-chips",
    .version = 1,
    .object_size = sizeof(struct cpu_backend),
    .priority = GW_PRIORITY_IRQCHIP,
    .fields = chips_fields,
    .pre_save = chips_pre_save,
    .post_load = chips_post_load,
};

/* ---- the clock ---- */

static const struct gw_field clock_fields[] = {
    GW_U64(struct cpu_backend, clock.ns, .label = "ns"),
    GW_U64(struct cpu_backend, clock.real_ns, .label = "real_ns"),
    GW_U32(struct cpu_backend, clock.tsc_khz, .label = "tsc_khz", .min = 1000),
    GW_FIELDS_END,
};

static bool clock_pre_save(void *object, GError **error)
{
    struct cpu_backend *cpu = object;
    return kvm_clock_get(cpu, &cpu->clock, error);
}

static bool clock_post_load(void *object, GError **error)
{
    struct cpu_backend *cpu = object;
    return kvm_clock_set(cpu, &cpu->clock, error);
}

const struct gw_state_desc kvm_clock_desc = {
    .name = "kvm-clock",
    .version = 1,
    .object_size = sizeof(struct cpu_backend),
    .priority = GW_PRIORITY_CLOCK,
    .fields = clock_fields,
    .pre_save = clock_pre_save,
    .post_load = clock_post_load,
};
