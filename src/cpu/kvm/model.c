/* SPDX-License-Identifier: MIT */
/*
 * The guest's processor: built from the command line, told to vCPUs, saved, compared.
 *
 * Model: the table travels. A destination gives the guest exactly what it had, whatever its own
 * configuration says beyond that; the properties, which are compared before the first page, then
 * say what this guest has, so that the next destination is asked for no more.
 */
#include <errno.h>
#include <string.h>

#include "cpu/kvm/kvm_internal.h"
#include "cpu/kvm/msr.h"

#define PROPERTY_FEATURES "cpu-features" /* the machine adds it */

bool kvm_model_init(struct cpu_backend *cpu, GError **error)
{
    if (!cpuid_build(&cpu->host.cpuid, cpu->config.model, &cpu->cpuid, error))
        return false;
    cpu->features = cpuid_features(&cpu->cpuid);
    return true;
}

void kvm_model_clear(struct cpu_backend *cpu)
{
    g_clear_pointer(&cpu->features, g_strfreev);
}

bool kvm_model_set(struct kvm_vcpu *vcpu, GError **error)
{
    g_autofree struct cpuid_table *own = g_new0(struct cpuid_table, 1);

    cpuid_personalise(&vcpu->cpu->cpuid, vcpu->id, vcpu->cpu->config.n_vcpus, own);
    if (ioctl(vcpu->fd, KVM_SET_CPUID2, own) == 0)
        return true;
    kvm_set_error(error, "describe the guest's processor");
    return false;
}

/* ---- comparison ------------------------------------------------------------------------------ */

static char **msr_names(const struct cpu_backend *cpu)
{
    GPtrArray *names = g_ptr_array_new();

    for (uint32_t i = 0; i < cpu->host.n_msrs; i++) {
        const char *name = msr_name(cpu->host.msrs[i]);
        g_ptr_array_add(names, name ? g_strdup(name) : g_strdup_printf("%#x", cpu->host.msrs[i]));
    }
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}

static bool add_range(struct gw_state_registry *registry, const char *name, uint32_t value,
                      uint32_t min, uint32_t max, GError **error)
{
    g_autofree char *own = g_strdup_printf("%u", value);
    g_autofree char *from = g_strdup_printf("%u", min);
    g_autofree char *to = g_strdup_printf("%u", max);
    const char *values[] = {own, from, to, NULL};

    return gw_state_registry_add_property(registry, name, GW_PROPERTY_WITHIN, false, values, error);
}

bool kvm_model_add_properties(struct cpu_backend *cpu, struct gw_state_registry *registry,
                              GError **error)
{
    g_auto(GStrv) msrs = msr_names(cpu);
    uint32_t min_khz, max_khz;

    kvm_tsc_range(cpu->host.tsc_khz, cpu->host.is_tsc_scaled, &min_khz, &max_khz);
    return gw_state_registry_add_property(registry, "cpu-msrs", GW_PROPERTY_EXPECT, false,
                                          (const char *const *)msrs, error) &&
           add_range(registry, "tsc-khz", cpu->host.tsc_khz, min_khz, max_khz, error) &&
           add_range(registry, "xsave-bytes", cpuid_xsave_bytes(&cpu->cpuid), 0,
                     cpu->host.xsave_bytes, error);
}

void kvm_model_changed(struct cpu_backend *cpu)
{
    char **before = g_steal_pointer(&cpu->features);

    cpu->features = cpuid_features(&cpu->cpuid);
    if (cpu->registry)
        gw_state_registry_set_values(cpu->registry, PROPERTY_FEATURES,
                                     (const char *const *)cpu->features);
    g_strfreev(before);
}

/* ---- saved form ------------------------------------------------------------------------------ */

#define E struct kvm_cpuid_entry2

static const struct gw_field entry_fields[] = {
    GW_U32(E, function),
    GW_U32(E, index),
    GW_U32(E, flags, .mask = KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
    GW_U32(E, eax),
    GW_U32(E, ebx),
    GW_U32(E, ecx),
    GW_U32(E, edx),
    GW_FIELDS_END,
};

static const struct gw_state_desc entry_desc = {
    .name = "cpuid-leaf", .version = 1, .object_size = sizeof(E), .fields = entry_fields};

static const struct gw_field model_fields[] = {
    GW_STRUCT_VARRAY(struct cpu_backend, cpuid.entries, cpuid.n, &entry_desc, .label = "cpuid"),
    GW_FIELDS_END,
};

/* PEER: a guest that was given what this host lacks would fail at the first instruction of it. */
static bool model_validate(const void *shadow, GError **error)
{
    const struct cpu_backend *cpu = shadow;

    /* cpuid_personalise adds leaves. */
    if (cpu->cpuid.n > CPUID_MAX_ENTRIES / 2) {
        g_set_error(error, GW_STATE_ERROR, GW_STATE_ERROR_VALUE, "cpuid has %u leaves, at most %u",
                    cpu->cpuid.n, CPUID_MAX_ENTRIES / 2);
        return false;
    }
    return cpuid_check(&cpu->host.cpuid, &cpu->cpuid, error);
}

static bool model_post_load(void *object, GError **error)
{
    struct cpu_backend *cpu = object;

    for (unsigned i = 0; i < cpu->n_vcpus; i++)
        if (!kvm_model_set(&cpu->vcpus[i], error))
            return false;
    kvm_model_changed(cpu);
    return true;
}

const struct gw_state_desc kvm_model_desc = {
    .name = "x86-cpu-model",
    .version = 1,
    .object_size = sizeof(struct cpu_backend),
    .priority = GW_PRIORITY_CLOCK, /* before the vCPUs, whose state it gives meaning to */
    .fields = model_fields,
    .validate = model_validate,
    .post_load = model_post_load,
};
