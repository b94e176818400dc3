/* SPDX-License-Identifier: MIT */
/* What the guest is told of its processor: what the host's KVM supports, and who it is. */
#include <string.h>

#include "cpu/kvm/kvm_internal.h"

/* SPEC: Intel SDM 2A, CPUID. */
enum { LEAF_FEATURES = 1, LEAF_TOPOLOGY = 0xb, LEAF_TOPOLOGY_V2 = 0x1f };

static void personalise(struct kvm_cpuid_entry2 *entry, unsigned id, unsigned n_vcpus)
{
    switch (entry->function) {
    case LEAF_FEATURES:
        entry->ebx = (entry->ebx & 0xffff) | n_vcpus << 16 | id << 24;
        break;
    case LEAF_TOPOLOGY:
    case LEAF_TOPOLOGY_V2:
        entry->edx = id;
        break;
    }
}

bool kvm_cpuid_set(struct kvm_vcpu *vcpu, GError **error)
{
    const struct kvm_cpuid2 *host = vcpu->cpu->host.cpuid;
    size_t n_bytes = sizeof *host + host->nent * sizeof host->entries[0];
    g_autofree struct kvm_cpuid2 *table = g_memdup2(host, n_bytes);

    for (uint32_t i = 0; i < table->nent; i++)
        personalise(&table->entries[i], vcpu->id, vcpu->cpu->config.n_vcpus);
    if (ioctl(vcpu->fd, KVM_SET_CPUID2, table) == 0)
        return true;
    kvm_set_error(error, "describe the guest's processor");
    return false;
}
