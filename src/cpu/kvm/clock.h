/* SPDX-License-Identifier: MIT */
/*
 * Guest time under KVM: the kernel's guest clock (kvmclock) and the vCPUs' time stamp counters.
 *
 * Model: as struct guest_clock: both go on while vCPUs are stopped, and continue on another host as
 * if they had never stopped. What is saved is a reading together with the wall clock of that
 * moment; the destination adds the time that has really passed since, by its own wall clock and how
 * far that is from the source's. When the clocks disagree so that less than no time has passed,
 * none has: never backwards.
 */
#ifndef GODWIT_CPU_KVM_CLOCK_H
#define GODWIT_CPU_KVM_CLOCK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct cpu_backend;
struct kvm_vcpu;
struct kvm_vcpu_state;

/* One moment by three clocks, as the kernel tells it. */
struct kvm_moment {
    uint64_t ns;       /* the guest clock */
    uint64_t real_ns;  /* CLOCK_REALTIME */
    uint64_t host_tsc; /* this host's time stamp counter; 0: the kernel does not tell */
};

struct kvm_clock_state {
    uint64_t ns;      /* the guest clock */
    uint64_t real_ns; /* CLOCK_REALTIME when it read so */
    uint32_t tsc_khz; /* what the guest's counters run at */

    struct kvm_moment moment; /* not saved: when it was read here, or just after it was set here */
};

bool kvm_clock_get(struct cpu_backend *cpu, struct kvm_clock_state *clock, GError **error);
bool kvm_clock_set(struct cpu_backend *cpu, struct kvm_clock_state *clock, GError **error);

/* Of a vCPU that was just created: fills kvm_host.has_tsc_offset. */
bool kvm_has_tsc_offset(const struct kvm_vcpu *vcpu);
/* Members tsc and tsc_real_ns of a vCPU's state. What cpu->clock holds has been read (set) just
 * before. Where the kernel tells the moment (a stable counter, Linux 5.16), counters are moved by
 * their distance from the host's, which is exact, and the same moment counts for all vCPUs: they
 * stay as far from each other as they were, and from the guest clock. Else they are read and
 * written, each a little later than the one before. */
bool kvm_tsc_get(struct kvm_vcpu *vcpu, struct kvm_vcpu_state *state, GError **error);
bool kvm_tsc_set(struct kvm_vcpu *vcpu, const struct kvm_vcpu_state *state, GError **error);

/* What a counter of khz reads after elapsed_ns; wraps as the counter does. Pure. */
uint64_t kvm_tsc_after(uint64_t tsc, uint64_t elapsed_ns, uint32_t khz);
/* Time that has passed since the source's wall clock read real_ns, when the local one reads
 * now_ns. Pure. */
uint64_t kvm_elapsed_ns(uint64_t real_ns, uint64_t now_ns, int64_t source_minus_local_ns);
/* The frequencies at which a guest of this host may run: all if the host scales counters, else
 * those that clocks take for its own. Pure. */
void kvm_tsc_range(uint32_t host_khz, bool is_scaled, uint32_t *min_khz, uint32_t *max_khz);

#endif
