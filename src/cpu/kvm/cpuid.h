/* SPDX-License-Identifier: MIT */
/*
 * What a guest is told of its processor: models, features by name, comparison. Pure functions over
 * CPUID tables, so that they can be tried with the tables of any host.
 *
 * Model: what the host's KVM supports, masked to a model, is the guest's table; it travels with the
 * guest and is the same for all vCPUs. Each vCPU gets it with its own number in the leaves that
 * tell topology: one thread per core, all cores in one package.
 *
 * Guests are never told of what does not travel: virtualization of their own (VMX, SVM),
 * performance counters, enclaves, tracing, AMX, shadow stacks; nor of leaves and bits that this
 * program has no name for. A counter that never stops (nonstop_tsc) only when asked for: a guest
 * that trusts it stops looking at the clock that the host corrects.
 */
#ifndef GODWIT_CPU_KVM_CPUID_H
#define GODWIT_CPU_KVM_CPUID_H

#include <glib.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define CPUID_MAX_ENTRIES 256u
#define CPUID_MODELS      "host, x86-64-v2, x86-64-v3, x86-64-v4"

/* As struct kvm_cpuid2, with room. */
struct cpuid_table {
    uint32_t n;
    uint32_t padding;
    struct kvm_cpuid_entry2 entries[CPUID_MAX_ENTRIES];
};

/* model: one of CPUID_MODELS, then +feature or -feature, separated by commas; NULL: "host". Fails
 * when a word is not known, or the host lacks what the model or a +feature needs: INVALID. */
bool cpuid_build(const struct cpuid_table *host, const char *model, struct cpuid_table *guest,
                 GError **error);
/* The guest's table as vCPU id of n_vcpus sees it. */
void cpuid_personalise(const struct cpuid_table *guest, unsigned id, unsigned n_vcpus,
                       struct cpuid_table *own);
/* Can a guest with this table run on this host? REFUSED names every feature that is missing. */
bool cpuid_check(const struct cpuid_table *host, const struct cpuid_table *guest, GError **error);
/* Names of the features in the table, NULL-terminated; g_strfreev. */
char **cpuid_features(const struct cpuid_table *table);
bool cpuid_has(const struct cpuid_table *table, const char *feature);
/* Adds to KVM's list what KVM can do and does not list: that the guest is in a virtual machine,
 * without which guests look for no leaf of 0x4000..., and so find no kvmclock; on kernels that tell
 * it by a capability only, the local APIC's deadline timer. */
void cpuid_complete(struct cpuid_table *host, bool has_deadline_timer);
/* Bytes of the vector registers' state with everything in the table switched on. */
uint32_t cpuid_xsave_bytes(const struct cpuid_table *table);

#endif
