/* SPDX-License-Identifier: MIT */
/*
 * All the kernel holds of one vCPU, as one object that can be read from it and given back.
 *
 * Invariants: an object that kvm_vcpu_get filled can be given to kvm_vcpu_set of the same vCPU.
 *
 * Threads: while the vCPU is parked; otherwise the calls wait until it leaves the guest.
 */
#ifndef GODWIT_CPU_KVM_VCPU_STATE_H
#define GODWIT_CPU_KVM_VCPU_STATE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "godwit/error.h"

#define KVM_MAX_MSRS        512u
#define KVM_MAX_XSAVE_BYTES 65536u

struct kvm_vcpu;

struct kvm_msr {
    uint32_t index;
    uint64_t value;
};

struct kvm_vcpu_state {
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_lapic_state lapic;
    struct kvm_xcrs xcrs;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debugregs;
    struct kvm_mp_state mp_state;
    uint32_t xsave_bytes;
    uint8_t *xsave; /* owned */
    uint32_t n_msrs;
    struct kvm_msr msrs[KVM_MAX_MSRS];
    uint64_t tsc; /* of the moment when the wall clock read so */
    uint64_t tsc_real_ns;
};

bool kvm_vcpu_get(struct kvm_vcpu *vcpu, struct kvm_vcpu_state *state, GError **error);
/* with_tsc: its time stamp counter goes on from the state's; else it stays as it is. The error is
 * REFUSED, and says what the kernel refuses. */
bool kvm_vcpu_set(struct kvm_vcpu *vcpu, const struct kvm_vcpu_state *state, bool with_tsc,
                  GError **error);
/* Drops those MSRs from the host's list that a vCPU cannot be asked for. */
void kvm_vcpu_probe_msrs(struct kvm_vcpu *vcpu);
void kvm_vcpu_state_clear(struct kvm_vcpu_state *state);

#endif
