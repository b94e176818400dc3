/* SPDX-License-Identifier: MIT */
/*
 * Reading a vCPU's state out of the kernel and putting it back.
 *
 * Model: the order of the calls matters to the kernel. System registers come before the APIC, since
 * they say where it is and in which mode; the APIC before the MSRs, since the deadline of its timer
 * is one of them; pending events before the state of who waits.
 */
#include <errno.h>
#include <string.h>

#include "cpu/kvm/kvm_internal.h"
#include "cpu/kvm/vcpu_state.h"

#define XSAVE_LEGACY_BYTES 4096u

/* ---- MSRs ---- */

/* One at a time: the list is short, and the kernel stops at the first it does not have. */
static void get_msrs(struct kvm_vcpu *vcpu, struct kvm_vcpu_state *state)
{
    const struct kvm_host *host = &vcpu->cpu->host;
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } one;

    state->n_msrs = 0;
    for (uint32_t i = 0; i < host->n_msrs; i++) {
        memset(&one, 0, sizeof one);
        one.head.nmsrs = 1;
        one.entry.index = host->msrs[i];
        if (ioctl(vcpu->fd, KVM_GET_MSRS, &one) == 1)
            state->msrs[state->n_msrs++] = (struct kvm_msr){one.entry.index, one.entry.data};
    }
}

static bool set_msrs(struct kvm_vcpu *vcpu, const struct kvm_vcpu_state *state, GError **error)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } one;

    for (uint32_t i = 0; i < state->n_msrs; i++) {
        memset(&one, 0, sizeof one);
        one.head.nmsrs = 1;
        one.entry.index = state->msrs[i].index;
        one.entry.data = state->msrs[i].value;
        if (ioctl(vcpu->fd, KVM_SET_MSRS, &one) == 1)
            continue;
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "vCPU %u: this host refuses MSR %#x with %#" G_GINT64_MODIFIER "x", vcpu->id,
                    state->msrs[i].index, state->msrs[i].value);
        return false;
    }
    return true;
}

/* ---- the rest: one row for each pair of calls ---- */

static bool get_xsave(struct kvm_vcpu *vcpu, struct kvm_vcpu_state *state)
{
    uint32_t bytes = vcpu->cpu->host.xsave_bytes;

    if (state->xsave_bytes != bytes) {
        g_free(state->xsave);
        state->xsave = g_malloc0(bytes);
        state->xsave_bytes = bytes;
    }
    unsigned long request = bytes > XSAVE_LEGACY_BYTES ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
    return ioctl(vcpu->fd, request, state->xsave) == 0;
}

bool kvm_vcpu_get(struct kvm_vcpu *vcpu, struct kvm_vcpu_state *state, GError **error)
{
    const struct {
        const char *what;
        bool is_ok;
    } steps[] = {
        {"registers", ioctl(vcpu->fd, KVM_GET_REGS, &state->regs) == 0},
        {"system registers", ioctl(vcpu->fd, KVM_GET_SREGS2, &state->sregs) == 0},
        {"local APIC", ioctl(vcpu->fd, KVM_GET_LAPIC, &state->lapic) == 0},
        {"extended control registers", ioctl(vcpu->fd, KVM_GET_XCRS, &state->xcrs) == 0},
        {"vector registers", get_xsave(vcpu, state)},
        {"pending events", ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &state->events) == 0},
        {"debug registers", ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &state->debugregs) == 0},
        {"wait state", ioctl(vcpu->fd, KVM_GET_MP_STATE, &state->mp_state) == 0},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(steps); i++) {
        if (steps[i].is_ok)
            continue;
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "vCPU %u: KVM does not tell its %s", vcpu->id,
                    steps[i].what);
        return false;
    }
    get_msrs(vcpu, state);
    return true;
}

static bool set(struct kvm_vcpu *vcpu, unsigned long request, const void *value, const char *what,
                GError **error)
{
    if (ioctl(vcpu->fd, request, value) == 0)
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "vCPU %u: KVM refuses its %s: %s", vcpu->id,
                what, g_strerror(errno));
    return false;
}

bool kvm_vcpu_set(struct kvm_vcpu *vcpu, const struct kvm_vcpu_state *state, GError **error)
{
    return set(vcpu, KVM_SET_SREGS2, &state->sregs, "system registers", error) &&
           set(vcpu, KVM_SET_REGS, &state->regs, "registers", error) &&
           set(vcpu, KVM_SET_XCRS, &state->xcrs, "extended control registers", error) &&
           set(vcpu, KVM_SET_XSAVE, state->xsave, "vector registers", error) &&
           set(vcpu, KVM_SET_LAPIC, &state->lapic, "local APIC", error) &&
           set_msrs(vcpu, state, error) &&
           set(vcpu, KVM_SET_DEBUGREGS, &state->debugregs, "debug registers", error) &&
           set(vcpu, KVM_SET_MP_STATE, &state->mp_state, "wait state", error) &&
           set(vcpu, KVM_SET_VCPU_EVENTS, &state->events, "pending events", error);
}

void kvm_vcpu_state_clear(struct kvm_vcpu_state *state)
{
    g_clear_pointer(&state->xsave, g_free);
    state->xsave_bytes = 0;
}
