/* SPDX-License-Identifier: MIT */
/*
 * Model-specific registers: which travel with the guest, their names, and what a destination does
 * with those it does not know. Pure functions over tables.
 */
#ifndef GODWIT_CPU_KVM_MSR_H
#define GODWIT_CPU_KVM_MSR_H

#include <stdbool.h>
#include <stdint.h>

/* "IA32_PAT", or NULL. */
const char *msr_name(uint32_t index);
/* Why it may not be copied to another host ("is ..."), or NULL: it is copied. */
const char *msr_reason_not_copied(uint32_t index);
/* Does it matter to a guest that its value is lost? Zero never does. */
bool msr_matters(uint32_t index, uint64_t value);

/* MSRs the kernel keeps for a guest but does not list. Calls fn for each. */
void msr_each_unlisted(void (*fn)(void *opaque, uint32_t index), void *opaque);

#endif
