/* SPDX-License-Identifier: MIT */
/* Descriptions of what KVM keeps; the objects are the vCPUs and the backend themselves. */
#ifndef GODWIT_CPU_KVM_TABLES_H
#define GODWIT_CPU_KVM_TABLES_H

#include "godwit/state.h"

extern const struct gw_state_desc kvm_vcpu_desc;  /* struct kvm_vcpu */
extern const struct gw_state_desc kvm_chips_desc; /* struct cpu_backend */
extern const struct gw_state_desc kvm_model_desc; /* struct cpu_backend */
extern const struct gw_state_desc kvm_clock_desc; /* struct cpu_backend */

#endif
