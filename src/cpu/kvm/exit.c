/* SPDX-License-Identifier: MIT */
/* Why a vCPU left the guest, and what is done about it: ports, memory, ends. */
#include <errno.h>
#include <string.h>

#include "cpu/kvm/kvm_internal.h"

static void fatal(struct kvm_vcpu *vcpu, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void fatal(struct kvm_vcpu *vcpu, const char *format, ...)
{
    const struct cpu_config *config = &vcpu->cpu->config;
    va_list args;

    va_start(args, format);
    g_autofree char *reason = g_strdup_vprintf(format, args);
    va_end(args);
    config->fatal(config->fatal_opaque, vcpu->id, reason);
}

/* ---- devices ---- */

static void do_port(struct kvm_vcpu *vcpu)
{
    const struct cpu_config *config = &vcpu->cpu->config;
    struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    unsigned size = run->io.size;

    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        uint32_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, size);
            if (config->bus->port_write)
                config->bus->port_write(config->bus_opaque, vcpu->id, run->io.port, size, value);
            continue;
        }
        if (!config->bus->port_read ||
            !config->bus->port_read(config->bus_opaque, vcpu->id, run->io.port, size, &value))
            value = UINT32_MAX;
        memcpy(data, &value, size);
    }
}

static bool is_bus_access(uint64_t gpa, unsigned size)
{
    return (size == 1 || size == 2 || size == 4 || size == 8) && gpa % size == 0;
}

static void access_memory(struct kvm_vcpu *vcpu, uint64_t gpa, uint8_t *data, unsigned size,
                          bool is_write)
{
    const struct cpu_config *config = &vcpu->cpu->config;
    uint64_t value = 0;

    if (is_write) {
        memcpy(&value, data, size);
        config->bus->write(config->bus_opaque, vcpu->id, gpa, size, value);
    } else {
        if (!config->bus->read(config->bus_opaque, vcpu->id, gpa, size, &value))
            value = UINT64_MAX;
        memcpy(data, &value, size);
    }
}

/* GUEST: any length up to 8 and any alignment; the bus gets natural ones. */
static void do_memory(struct kvm_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint64_t gpa = run->mmio.phys_addr;
    unsigned size = MIN(run->mmio.len, (uint32_t)sizeof run->mmio.data);

    if (is_bus_access(gpa, size)) {
        access_memory(vcpu, gpa, run->mmio.data, size, run->mmio.is_write);
        return;
    }
    for (unsigned i = 0; i < size; i++)
        access_memory(vcpu, gpa + i, &run->mmio.data[i], 1, run->mmio.is_write);
}

/* ---- ends ---- */

static uint64_t current_rip(struct kvm_vcpu *vcpu)
{
    struct kvm_regs regs = {0};
    (void)ioctl(vcpu->fd, KVM_GET_REGS, &regs);
    return regs.rip;
}

static void tell_emulation(struct kvm_vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    g_autoptr(GString) bytes = g_string_new(NULL);
    uint64_t flags = run->emulation_failure.ndata >= 1 ? run->emulation_failure.flags : 0;

    if (flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)
        for (unsigned i = 0; i < MIN(run->emulation_failure.insn_size, 15u); i++)
            g_string_append_printf(bytes, " %02x", run->emulation_failure.insn_bytes[i]);
    fatal(vcpu, "KVM cannot emulate the instruction at %#" G_GINT64_MODIFIER "x%s%s",
          current_rip(vcpu), bytes->len ? ":" : "", bytes->str);
}

static void tell_internal(struct kvm_vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;

    if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
        tell_emulation(vcpu);
    else
        fatal(vcpu, "KVM failed inside, suberror %u, at %#" G_GINT64_MODIFIER "x",
              run->internal.suberror, current_rip(vcpu));
}

static void tell_shutdown(struct kvm_vcpu *vcpu, const char *reason)
{
    const struct cpu_config *config = &vcpu->cpu->config;

    if (config->reset)
        config->reset(config->fatal_opaque, vcpu->id, reason);
    else
        fatal(vcpu, "%s", reason);
}

bool kvm_handle_exit(struct kvm_vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;

    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        do_port(vcpu);
        return true;
    case KVM_EXIT_MMIO:
        do_memory(vcpu);
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_IOAPIC_EOI:
        return true;
    case KVM_EXIT_DIRTY_RING_FULL:
        kvm_dirty_ring_full(vcpu);
        return true;
    case KVM_EXIT_SHUTDOWN:
        tell_shutdown(vcpu, "triple fault");
        return false;
    case KVM_EXIT_FAIL_ENTRY:
        fatal(vcpu, "the processor refuses to enter the guest, reason %#" G_GINT64_MODIFIER "x",
              (uint64_t)run->fail_entry.hardware_entry_failure_reason);
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        tell_internal(vcpu);
        return false;
    default:
        fatal(vcpu, "KVM left the guest for reason %u, which is not known here", run->exit_reason);
        return false;
    }
}

void kvm_handle_failure(struct kvm_vcpu *vcpu, int code)
{
    if (code == EFAULT)
        fatal(vcpu,
              "KVM cannot reach the guest's memory at %#" G_GINT64_MODIFIER
              "x: the host has none left, or the page is broken",
              current_rip(vcpu));
    else
        fatal(vcpu, "KVM cannot run the vCPU: %s", g_strerror(code));
}
