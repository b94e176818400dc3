/* SPDX-License-Identifier: MIT */
/* The interrupt controllers and the timer that all vCPUs share, as one object. */
#ifndef GODWIT_CPU_KVM_CHIPS_H
#define GODWIT_CPU_KVM_CHIPS_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "godwit/error.h"

struct cpu_backend;

struct kvm_chips_state {
    struct kvm_pic_state pics[2];
    struct kvm_ioapic_state ioapic;
    struct kvm_pit_state2 pit;
};

/* One entry of the IOAPIC's table, which the kernel's header leaves without a name. */
struct kvm_redirection {
    uint64_t bits;
};

bool kvm_chips_get(struct cpu_backend *cpu, struct kvm_chips_state *state, GError **error);
bool kvm_chips_set(struct cpu_backend *cpu, const struct kvm_chips_state *state, GError **error);

#endif
