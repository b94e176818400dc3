/* SPDX-License-Identifier: MIT */
/*
 * Reading a vCPU's state out of the kernel and putting it back.
 *
 * Model: the order of the calls matters to the kernel. When it is asked who waits, it first does
 * what has come for a waiting vCPU (INIT, SIPI), and when asked for pending events, it first does
 * what an exception leaves in registers: both come before the registers are read. When set, system
 * registers come before the APIC, since they say where it is and in which mode; the APIC before the
 * MSRs, since the deadline of its timer is one of them.
 */
#include <errno.h>
#include <string.h>

#include "cpu/kvm/kvm_internal.h"
#include "cpu/kvm/msr.h"
#include "cpu/kvm/vcpu_state.h"

#define XSAVE_LEGACY_BYTES 4096u

/* ---- MSRs ---- */

struct msr_batch {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[KVM_MAX_MSRS];
};

void kvm_vcpu_probe_msrs(struct kvm_vcpu *vcpu)
{
    struct kvm_host *host = &vcpu->cpu->host;
    uint32_t n = 0;

    for (uint32_t i = 0; i < host->n_msrs; i++) {
        struct msr_batch one = {.head.nmsrs = 1, .entries[0].index = host->msrs[i]};
        if (ioctl(vcpu->fd, KVM_GET_MSRS, &one) == 1)
            host->msrs[n++] = host->msrs[i];
    }
    host->n_msrs = n;
}

/* The kernel stops at the first it does not give (some hang on the guest's CPUID): it is left out.
 */
static void get_msrs(struct kvm_vcpu *vcpu, struct kvm_msr *msrs, uint32_t *n_msrs)
{
    const struct kvm_host *host = &vcpu->cpu->host;
    g_autofree struct msr_batch *batch = g_new0(struct msr_batch, 1);

    *n_msrs = 0;
    for (uint32_t at = 0; at < host->n_msrs;) {
        batch->head.nmsrs = host->n_msrs - at;
        for (uint32_t i = 0; i < batch->head.nmsrs; i++)
            batch->entries[i] = (struct kvm_msr_entry){.index = host->msrs[at + i]};
        int n = ioctl(vcpu->fd, KVM_GET_MSRS, batch);
        for (int i = 0; i < n; i++)
            msrs[(*n_msrs)++] = (struct kvm_msr){batch->entries[i].index, batch->entries[i].data};
        at += (n > 0 ? (uint32_t)n : 0) + (n < (int)batch->head.nmsrs);
    }
}

static const struct kvm_msr *find_msr(const struct kvm_msr *msrs, uint32_t n, uint32_t index)
{
    for (uint32_t i = 0; i < n; i++)
        if (msrs[i].index == index)
            return &msrs[i];
    return NULL;
}

static bool refuse_msr(struct kvm_vcpu *vcpu, const struct kvm_msr *msr, const char *why,
                       GError **error)
{
    const char *name = msr_name(msr->index);

    g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                "vCPU %u: MSR %#x%s%s%s is %#" G_GINT64_MODIFIER "x, which this host's KVM %s",
                vcpu->id, msr->index, name ? " (" : "", name ? name : "", name ? ")" : "",
                msr->value, why);
    return false;
}

static bool set_msr(struct kvm_vcpu *vcpu, const struct kvm_msr *msr, GError **error)
{
    struct msr_batch one = {.head.nmsrs = 1,
                            .entries[0] = {.index = msr->index, .data = msr->value}};

    return ioctl(vcpu->fd, KVM_SET_MSRS, &one) == 1 ||
           refuse_msr(vcpu, msr, "does not accept", error);
}

/* What has its value already is left alone: many are read-only and the same everywhere. */
static bool set_msrs(struct kvm_vcpu *vcpu, const struct kvm_vcpu_state *state, GError **error)
{
    g_autofree struct kvm_msr *now = g_new(struct kvm_msr, KVM_MAX_MSRS);
    uint32_t n_now;

    get_msrs(vcpu, now, &n_now);
    for (uint32_t i = 0; i < state->n_msrs; i++) {
        const struct kvm_msr *msr = &state->msrs[i];
        const struct kvm_msr *own = find_msr(now, n_now, msr->index);
        if (msr_reason_not_copied(msr->index) || (own && own->value == msr->value))
            continue;
        if (!own && !msr_matters(msr->index, msr->value))
            continue;
        if (own ? !set_msr(vcpu, msr, error) : !refuse_msr(vcpu, msr, "does not know", error))
            return false;
    }
    return true;
}

/* ---- the rest ---- */

/* KVM has just refused a call. False. */
static bool complain(const struct kvm_vcpu *vcpu, enum gw_error_code code, const char *does,
                     const char *what, GError **error)
{
    g_set_error(error, GW_ERROR, code, "vCPU %u: KVM %s its %s: %s", vcpu->id, does, what,
                g_strerror(errno));
    return false;
}

static bool get(struct kvm_vcpu *vcpu, unsigned long request, void *value, const char *what,
                GError **error)
{
    return ioctl(vcpu->fd, request, value) == 0 ||
           complain(vcpu, GW_ERROR_IO, "does not tell", what, error);
}

static bool get_xsave(struct kvm_vcpu *vcpu, struct kvm_vcpu_state *state, GError **error)
{
    uint32_t bytes = vcpu->cpu->host.xsave_bytes;

    if (state->xsave_bytes != bytes) {
        g_free(state->xsave);
        state->xsave = g_malloc0(bytes);
        state->xsave_bytes = bytes;
    }
    unsigned long request = bytes > XSAVE_LEGACY_BYTES ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
    return get(vcpu, request, state->xsave, "vector registers", error);
}

bool kvm_vcpu_get(struct kvm_vcpu *vcpu, struct kvm_vcpu_state *state, GError **error)
{
    if (!get(vcpu, KVM_GET_MP_STATE, &state->mp_state, "wait state", error) ||
        !get(vcpu, KVM_GET_VCPU_EVENTS, &state->events, "pending events", error) ||
        !get(vcpu, KVM_GET_REGS, &state->regs, "registers", error) ||
        !get(vcpu, KVM_GET_SREGS2, &state->sregs, "system registers", error) ||
        !get(vcpu, KVM_GET_LAPIC, &state->lapic, "local APIC", error) ||
        !get(vcpu, KVM_GET_XCRS, &state->xcrs, "extended control registers", error) ||
        !get_xsave(vcpu, state, error) ||
        !get(vcpu, KVM_GET_DEBUGREGS, &state->debugregs, "debug registers", error))
        return false;
    get_msrs(vcpu, state->msrs, &state->n_msrs);
    return kvm_tsc_get(vcpu, state, error);
}

static bool set(struct kvm_vcpu *vcpu, unsigned long request, const void *value, const char *what,
                GError **error)
{
    return ioctl(vcpu->fd, request, value) == 0 ||
           complain(vcpu, GW_ERROR_REFUSED, "refuses", what, error);
}

/* A flag says that the kernel shall look at members; those of features that it may lack are left
 * out where they say nothing. */
static struct kvm_vcpu_events needed_events(const struct kvm_vcpu_events *all)
{
    struct kvm_vcpu_events events = *all;

    if (!events.triple_fault.pending)
        events.flags &= ~KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    if (!events.exception.pending && !events.exception_has_payload)
        events.flags &= ~KVM_VCPUEVENT_VALID_PAYLOAD;
    if (!events.smi.smm && !events.smi.pending && !events.smi.smm_inside_nmi &&
        !events.smi.latched_init)
        events.flags &= ~KVM_VCPUEVENT_VALID_SMM;
    return events;
}

/* The kernel reads as many bytes as it would give; the state may have come from one that keeps
 * fewer. */
static bool set_xsave(struct kvm_vcpu *vcpu, const struct kvm_vcpu_state *state, GError **error)
{
    g_autofree uint8_t *whole = g_malloc0(vcpu->cpu->host.xsave_bytes);

    memcpy(whole, state->xsave, MIN(state->xsave_bytes, vcpu->cpu->host.xsave_bytes));
    return set(vcpu, KVM_SET_XSAVE, whole, "vector registers", error);
}

bool kvm_vcpu_set(struct kvm_vcpu *vcpu, const struct kvm_vcpu_state *state, bool with_tsc,
                  GError **error)
{
    struct kvm_vcpu_events events = needed_events(&state->events);

    return set(vcpu, KVM_SET_SREGS2, &state->sregs, "system registers", error) &&
           set(vcpu, KVM_SET_REGS, &state->regs, "registers", error) &&
           set(vcpu, KVM_SET_XCRS, &state->xcrs, "extended control registers", error) &&
           set_xsave(vcpu, state, error) &&
           set(vcpu, KVM_SET_LAPIC, &state->lapic, "local APIC", error) &&
           (!with_tsc || kvm_tsc_set(vcpu, state, error)) && set_msrs(vcpu, state, error) &&
           set(vcpu, KVM_SET_DEBUGREGS, &state->debugregs, "debug registers", error) &&
           set(vcpu, KVM_SET_MP_STATE, &state->mp_state, "wait state", error) &&
           set(vcpu, KVM_SET_VCPU_EVENTS, &events, "pending events", error);
}

void kvm_vcpu_state_clear(struct kvm_vcpu_state *state)
{
    g_clear_pointer(&state->xsave, g_free);
    state->xsave_bytes = 0;
}
