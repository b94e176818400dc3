/* SPDX-License-Identifier: MIT */
/* The host's KVM: is it there, may we use it, has it what we need? */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cpu/kvm/kvm_internal.h"
#include "cpu/kvm/msr.h"

#define KVM_PATH "/dev/kvm"

/* What no machine can do without. */
static const struct {
    int capability;
    const char *name;
} required[] = {
    {KVM_CAP_USER_MEMORY, "memory slots"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exits"},
    {KVM_CAP_IRQCHIP, "interrupt controllers in the kernel"},
    {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    {KVM_CAP_IRQFD, "irqfd"},
    {KVM_CAP_IRQFD_RESAMPLE, "irqfd with resampling"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_SIGNAL_MSI, "messages as interrupts"},
    {KVM_CAP_PIT2, "a PIT in the kernel"},
    {KVM_CAP_PIT_STATE2, "the PIT's state"},
    {KVM_CAP_SET_TSS_ADDR, "a movable task state segment"},
    {KVM_CAP_EXT_CPUID, "the list of CPU features"},
    {KVM_CAP_MP_STATE, "the state of vCPUs that wait"},
    {KVM_CAP_VCPU_EVENTS, "the state of pending events"},
    {KVM_CAP_DEBUGREGS, "the state of debug registers"},
    {KVM_CAP_SREGS2, "the state of system registers"},
    {KVM_CAP_XSAVE2, "the state of vector registers"},
    {KVM_CAP_XCRS, "the state of extended control registers"},
    {KVM_CAP_ADJUST_CLOCK, "an adjustable guest clock"},
    {KVM_CAP_GET_TSC_KHZ, "the frequency of the time stamp counter"},
    {KVM_CAP_SYNC_MMU, "memory that follows its mapping"},
};

void kvm_set_error(GError **error, const char *what)
{
    int code = errno;
    g_set_error(error, GW_ERROR, GW_ERROR_IO, "KVM: cannot %s: %s", what, g_strerror(code));
}

static bool check_version(int fd, GError **error)
{
    int version = ioctl(fd, KVM_GET_API_VERSION, 0);

    if (version == KVM_API_VERSION)
        return true;
    if (version < 0)
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, KVM_PATH " is not the kernel's KVM: %s",
                    g_strerror(errno));
    else
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    KVM_PATH " speaks version %d, expected %d", version, KVM_API_VERSION);
    return false;
}

static bool check_capabilities(int fd, GError **error)
{
    g_autoptr(GString) missing = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(required); i++)
        if (ioctl(fd, KVM_CHECK_EXTENSION, required[i].capability) <= 0)
            g_string_append_printf(missing, "%s%s", missing->len ? ", " : "", required[i].name);
    if (missing->len == 0)
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "this host's KVM lacks %s", missing->str);
    return false;
}

static void explain_open(GError **error)
{
    int code = errno;

    if (code == ENOENT || code == ENODEV || code == ENXIO)
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "this host has no KVM: " KVM_PATH ": %s",
                    g_strerror(code));
    else if (code == EACCES || code == EPERM)
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "this user may not use KVM: " KVM_PATH ": %s", g_strerror(code));
    else
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot open " KVM_PATH ": %s", g_strerror(code));
}

int kvm_host_open(GError **error)
{
    int fd = open(KVM_PATH, O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        explain_open(error);
        return -1;
    }
    if (!check_version(fd, error) || !check_capabilities(fd, error)) {
        close(fd);
        return -1;
    }
    return fd;
}

bool kvm_check_host(GError **error)
{
    int fd = kvm_host_open(error);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* ---- what it offers ---- */

static bool read_cpuid(struct cpu_backend *cpu, GError **error)
{
    struct cpuid_table *cpuid = &cpu->host.cpuid;

    cpuid->n = CPUID_MAX_ENTRIES;
    if (ioctl(cpu->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
        kvm_set_error(error, "list the features of its processors");
        return false;
    }
    cpuid_complete(cpuid, ioctl(cpu->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0);
    return true;
}

static void add_msr(void *opaque, uint32_t index)
{
    struct kvm_host *host = opaque;

    for (uint32_t i = 0; i < host->n_msrs; i++)
        if (host->msrs[i] == index)
            return;
    if (host->n_msrs < KVM_MAX_MSRS && !msr_reason_not_copied(index))
        host->msrs[host->n_msrs++] = index;
}

static bool read_msr_list(struct cpu_backend *cpu, GError **error)
{
    struct {
        struct kvm_msr_list head;
        uint32_t indices[KVM_MAX_MSRS];
    } list = {.head.nmsrs = KVM_MAX_MSRS};

    if (ioctl(cpu->kvm_fd, KVM_GET_MSR_INDEX_LIST, &list) < 0) {
        kvm_set_error(error, "list the MSRs it keeps");
        return false;
    }
    for (uint32_t i = 0; i < list.head.nmsrs; i++)
        add_msr(&cpu->host, list.indices[i]);
    msr_each_unlisted(add_msr, &cpu->host);
    return true;
}

bool kvm_host_read(struct cpu_backend *cpu, GError **error)
{
    int run_bytes = ioctl(cpu->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

    if (run_bytes < (int)sizeof(struct kvm_run)) {
        kvm_set_error(error, "say how much it shares with a vCPU");
        return false;
    }
    cpu->run_bytes = (size_t)run_bytes;
    cpu->host.xsave_bytes = (uint32_t)ioctl(cpu->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    cpu->host.xsave_bytes = MAX(cpu->host.xsave_bytes, (uint32_t)sizeof(struct kvm_xsave));
    cpu->host.is_tsc_scaled = ioctl(cpu->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0;
    cpu->host.has_real_clock =
        (ioctl(cpu->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK) & KVM_CLOCK_REALTIME) != 0;
    return read_cpuid(cpu, error) && read_msr_list(cpu, error);
}
