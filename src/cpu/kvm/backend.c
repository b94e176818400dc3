/* SPDX-License-Identifier: MIT */
/*
 * cpu_kvm: KVM behind the interface every machine uses (cpu/backend.h).
 *
 * Model of a reset: the kernel has no call for it. What it says of a vCPU and of the chips right
 * after their creation is the state after power-on; it is kept, and a reset gives it back.
 */
#include <string.h>
#include <unistd.h>

#include "base/cond.h"
#include "cpu/kvm/kvm_internal.h"

static void backend_free(struct cpu_backend *cpu)
{
    if (!cpu)
        return;
    kvm_threads_end(cpu);
    kvm_dirty_clear(cpu);
    for (unsigned i = 0; i < cpu->n_vcpus; i++) {
        kvm_vcpu_destroy(&cpu->vcpus[i]);
        kvm_vcpu_state_clear(&cpu->vcpus[i].power_on);
        kvm_vcpu_state_clear(&cpu->vcpus[i].state);
    }
    if (cpu->vm_fd >= 0)
        close(cpu->vm_fd);
    if (cpu->kvm_fd >= 0)
        close(cpu->kvm_fd);
    kvm_irq_clear(&cpu->irq);
    kvm_model_clear(cpu);
    pthread_cond_destroy(&cpu->pause_cond);
    pthread_cond_destroy(&cpu->parked_cond);
    pthread_cond_destroy(&cpu->run_cond);
    pthread_mutex_destroy(&cpu->run_lock);
    g_free(cpu->vcpus);
    g_free(cpu);
}

static bool check_n_vcpus(const struct cpu_backend *cpu, GError **error)
{
    int most = ioctl(cpu->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
    unsigned max = most > 0 ? MIN((unsigned)most, KVM_MAX_VCPUS) : KVM_MAX_VCPUS;

    if (cpu->config.n_vcpus >= 1 && cpu->config.n_vcpus <= max)
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%u vCPUs: there can be 1 to %u here",
                cpu->config.n_vcpus, max);
    return false;
}

static bool create_vcpus(struct cpu_backend *cpu, GError **error)
{
    cpu->vcpus = g_new0(struct kvm_vcpu, cpu->config.n_vcpus);
    for (unsigned i = 0; i < cpu->config.n_vcpus; i++) {
        struct kvm_vcpu *vcpu = &cpu->vcpus[i];
        *vcpu = (struct kvm_vcpu){.cpu = cpu, .id = i, .fd = -1};
        cpu_throttle_init(&vcpu->throttle);
        cpu->n_vcpus++;
        if (!kvm_vcpu_create(vcpu, error) || !kvm_dirty_add_vcpu(vcpu, error) ||
            !kvm_model_set(vcpu, error))
            return false;
        if (i == 0) {
            kvm_vcpu_probe_msrs(vcpu);
            cpu->host.has_tsc_offset = kvm_has_tsc_offset(vcpu);
        }
        if (!kvm_vcpu_get(vcpu, &vcpu->power_on, error))
            return false;
    }
    if (!kvm_chips_get(cpu, &cpu->power_on, error) || !kvm_clock_get(cpu, &cpu->clock, error))
        return false;
    cpu->host.tsc_khz = cpu->clock.tsc_khz;
    return true;
}

static struct cpu_backend *backend_create(const struct cpu_config *config, GError **error)
{
    struct cpu_backend *cpu = g_new0(struct cpu_backend, 1);

    cpu->config = *config;
    cpu->vm_fd = -1;
    kvm_irq_init(&cpu->irq);
    pthread_mutex_init(&cpu->dirty.lock, NULL);
    pthread_mutex_init(&cpu->run_lock, NULL);
    pthread_cond_init(&cpu->run_cond, NULL);
    pthread_cond_init(&cpu->parked_cond, NULL);
    cond_init_mono(&cpu->pause_cond);
    cpu->kvm_fd = kvm_host_open(error);
    if (cpu->kvm_fd < 0 || !check_n_vcpus(cpu, error) || !kvm_host_read(cpu, error) ||
        !kvm_model_init(cpu, error) || !kvm_vm_create(cpu, error) || !create_vcpus(cpu, error) ||
        !kvm_threads_start(cpu, error)) {
        backend_free(cpu);
        return NULL;
    }
    kvm_dirty_attach(cpu);
    return cpu;
}

/* The saved form is kept what the kernel has: a load that fails goes back to it. */
static bool refresh(struct cpu_backend *cpu, GError **error)
{
    if (!kvm_clock_get(cpu, &cpu->clock, error)) /* first: counters are read with it */
        return false;
    for (unsigned i = 0; i < cpu->n_vcpus; i++)
        if (!kvm_vcpu_get(&cpu->vcpus[i], &cpu->vcpus[i].state, error))
            return false;
    return kvm_chips_get(cpu, &cpu->chips, error);
}

static void backend_reset(struct cpu_backend *cpu)
{
    g_autoptr(GError) error = NULL;
    bool ok = kvm_chips_set(cpu, &cpu->power_on, &error);

    for (unsigned i = 0; ok && i < cpu->n_vcpus; i++)
        ok = kvm_vcpu_set(&cpu->vcpus[i], &cpu->vcpus[i].power_on, false, &error);
    if (!ok || !refresh(cpu, &error))
        g_critical("KVM cannot reset the machine: %s", error->message);
}

static bool backend_add_state(struct cpu_backend *cpu, struct gw_state_registry *registry,
                              GError **error)
{
    cpu->registry = registry;
    for (unsigned i = 0; i < cpu->n_vcpus; i++) {
        g_autofree char *id = g_strdup_printf("%s/%u", cpu_kvm.vcpu_name, i);
        if (!gw_state_registry_add(registry, id, &kvm_vcpu_desc, &cpu->vcpus[i], error))
            return false;
    }
    return kvm_model_add_properties(cpu, registry, error) &&
           gw_state_registry_add(registry, "cpu-model", &kvm_model_desc, cpu, error) &&
           gw_state_registry_add(registry, "kvm-chips", &kvm_chips_desc, cpu, error) &&
           gw_state_registry_add(registry, "kvm-clock", &kvm_clock_desc, cpu, error);
}

static const char *const *backend_features(const struct cpu_backend *cpu)
{
    return (const char *const *)cpu->features;
}

static void backend_get_stats(const struct cpu_backend *cpu, unsigned vcpu, struct cpu_stats *stats)
{
    *stats = (struct cpu_stats){
        .exits = __atomic_load_n(&cpu->vcpus[vcpu].n_exits, __ATOMIC_RELAXED),
        .is_dirtied_known = cpu->dirty.is_ring,
        .throttle_permille = cpu_throttle_get(&cpu->vcpus[vcpu].throttle),
        .throttled_ns = __atomic_load_n(&cpu->vcpus[vcpu].throttle.paused_ns, __ATOMIC_RELAXED),
        .throttled_slices = __atomic_load_n(&cpu->vcpus[vcpu].throttle.n_pauses, __ATOMIC_RELAXED),
        .dirtied_pages = __atomic_load_n(&cpu->vcpus[vcpu].n_dirtied, __ATOMIC_RELAXED),
        .ring_full = __atomic_load_n(&cpu->vcpus[vcpu].n_ring_full, __ATOMIC_RELAXED),
    };
}

/* Running, interrupts, dirty logs; then saving, loading and resetting. Nothing here makes a VM, a
 * vCPU or a device, or gives a VM another property. */
static const unsigned long requests[] = {
    KVM_RUN,
    KVM_IRQ_LINE,
    KVM_SIGNAL_MSI,
    KVM_RESET_DIRTY_RINGS,
    KVM_GET_DIRTY_LOG,
    KVM_CLEAR_DIRTY_LOG,
    KVM_SET_USER_MEMORY_REGION, /* starts and stops a slot's dirty log */
    KVM_IOEVENTFD,
    KVM_IRQFD,
    KVM_SET_GSI_ROUTING,
    KVM_KVMCLOCK_CTRL,
    KVM_GET_REGS,
    KVM_SET_REGS,
    KVM_GET_SREGS2,
    KVM_SET_SREGS2,
    KVM_GET_LAPIC,
    KVM_SET_LAPIC,
    KVM_GET_XCRS,
    KVM_SET_XCRS,
    KVM_GET_XSAVE,
    KVM_GET_XSAVE2,
    KVM_SET_XSAVE,
    KVM_GET_VCPU_EVENTS,
    KVM_SET_VCPU_EVENTS,
    KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,
    KVM_GET_MP_STATE,
    KVM_SET_MP_STATE,
    KVM_GET_MSRS,
    KVM_SET_MSRS,
    KVM_SET_CPUID2,
    KVM_GET_IRQCHIP,
    KVM_SET_IRQCHIP,
    KVM_GET_PIT2,
    KVM_SET_PIT2,
    KVM_GET_CLOCK,
    KVM_SET_CLOCK,
    KVM_GET_TSC_KHZ,
    KVM_SET_TSC_KHZ,
    KVM_GET_DEVICE_ATTR, /* how far a counter is ahead of the host's */
    KVM_SET_DEVICE_ATTR,
    0,
};

const struct cpu_backend_ops cpu_kvm = {
    .name = "kvm",
    .vcpu_name = "vcpu",
    .check_host = kvm_check_host,
    .requests = requests,
    .create = backend_create,
    .free = backend_free,
    .start = kvm_threads_run,
    .stop = kvm_threads_stop,
    .reset = backend_reset,
    .add_state = backend_add_state,
    .set_throttle = kvm_vcpu_set_throttle,
    .features = backend_features,
    .get_stats = backend_get_stats,
};
