/* SPDX-License-Identifier: MIT */
/* kvmclock and time stamp counters: see clock.h. */
#include "cpu/kvm/clock.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "cpu/kvm/kvm_internal.h"

#define MSR_TSC           0x10u
/* The largest error of frequency that the guest's own discipline of its clock corrects: what
 * clocks (SPEC: RFC 5905) allow for is 500 ppm; half of it is left for the hosts' crystals. */
#define TSC_TOLERANCE_PPM 250u
/* A guest compares its counter with kvmclock and gives up on one that differs by some 100 us. */
#define TSC_READ_NS       20000u
#define TSC_READ_TRIES    8

uint64_t kvm_tsc_after(uint64_t tsc, uint64_t elapsed_ns, uint32_t khz)
{
    return tsc + (uint64_t)((unsigned __int128)elapsed_ns * khz / 1000000);
}

uint64_t kvm_elapsed_ns(uint64_t real_ns, uint64_t now_ns, int64_t source_minus_local_ns)
{
    uint64_t source_now_ns = now_ns + (uint64_t)source_minus_local_ns;
    return source_now_ns > real_ns ? source_now_ns - real_ns : 0;
}

void kvm_tsc_range(uint32_t host_khz, bool is_scaled, uint32_t *min_khz, uint32_t *max_khz)
{
    uint32_t tolerance_khz = (uint32_t)((uint64_t)host_khz * TSC_TOLERANCE_PPM / 1000000);

    *min_khz = is_scaled ? 1000 : host_khz - tolerance_khz;
    *max_khz = is_scaled ? UINT32_MAX : host_khz + tolerance_khz;
}

static uint64_t elapsed_since(const struct cpu_backend *cpu, uint64_t real_ns)
{
    return kvm_elapsed_ns(real_ns, clock_real_ns(), cpu->config.clock->source_minus_local_ns);
}

/* ---- kvmclock ---- */

static bool read_moment(struct cpu_backend *cpu, struct kvm_moment *moment, GError **error)
{
    const uint32_t whole = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    struct kvm_clock_data data = {0};

    if (ioctl(cpu->vm_fd, KVM_GET_CLOCK, &data) < 0) {
        kvm_set_error(error, "read the guest's clock");
        return false;
    }
    *moment = (struct kvm_moment){
        .ns = data.clock,
        .real_ns = data.flags & KVM_CLOCK_REALTIME ? data.realtime : clock_real_ns(),
        .host_tsc = (data.flags & whole) == whole ? data.host_tsc : 0,
    };
    return true;
}

bool kvm_clock_get(struct cpu_backend *cpu, struct kvm_clock_state *clock, GError **error)
{
    int khz = ioctl(cpu->vcpus[0].fd, KVM_GET_TSC_KHZ, 0);

    if (!read_moment(cpu, &clock->moment, error))
        return false;
    if (khz <= 0) {
        kvm_set_error(error, "say how fast time stamp counters run");
        return false;
    }
    clock->ns = clock->moment.ns;
    clock->real_ns = clock->moment.real_ns;
    clock->tsc_khz = (uint32_t)khz;
    return true;
}

static bool set_frequency(struct cpu_backend *cpu, uint32_t khz, GError **error)
{
    for (unsigned i = 0; i < cpu->n_vcpus; i++) {
        int now_khz = ioctl(cpu->vcpus[i].fd, KVM_GET_TSC_KHZ, 0);
        uint32_t min_khz, max_khz;

        if (now_khz == (int)khz ||
            (cpu->host.is_tsc_scaled && ioctl(cpu->vcpus[i].fd, KVM_SET_TSC_KHZ, khz) == 0))
            continue;
        kvm_tsc_range(cpu->host.tsc_khz, false, &min_khz, &max_khz);
        if (khz >= min_khz && khz <= max_khz)
            continue;
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "the guest's time stamp counter runs at %u kHz, this host's at %u kHz and it "
                    "cannot scale it",
                    khz, cpu->host.tsc_khz);
        return false;
    }
    return true;
}

bool kvm_clock_set(struct cpu_backend *cpu, struct kvm_clock_state *clock, GError **error)
{
    struct kvm_clock_data data = {.clock = clock->ns + elapsed_since(cpu, clock->real_ns)};

    if (!set_frequency(cpu, clock->tsc_khz, error))
        return false;
    if (cpu->host.has_real_clock) {
        /* The kernel adds the time since realtime itself, at the moment it sets the clock. */
        data.clock = clock->ns;
        data.flags = KVM_CLOCK_REALTIME;
        data.realtime = clock->real_ns - (uint64_t)cpu->config.clock->source_minus_local_ns;
    }
    if (ioctl(cpu->vm_fd, KVM_SET_CLOCK, &data) < 0) {
        kvm_set_error(error, "set the guest's clock");
        return false;
    }
    return read_moment(cpu, &clock->moment, error);
}

/* ---- time stamp counters ---- */

struct one_msr {
    struct kvm_msrs head;
    struct kvm_msr_entry entry;
};

/* How far a vCPU's counter is ahead of the host's. SPEC: Linux, virt/kvm/devices/vcpu.rst,
 * KVM_VCPU_TSC_OFFSET. */
static bool access_offset(const struct kvm_vcpu *vcpu, unsigned long request, uint64_t *offset)
{
    const struct kvm_device_attr attribute = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};

    return ioctl(vcpu->fd, request, &attribute) == 0;
}

bool kvm_has_tsc_offset(const struct kvm_vcpu *vcpu)
{
    uint64_t unused;

    return access_offset(vcpu, KVM_HAS_DEVICE_ATTR, &unused);
}

/* Whether the offset is all that there is to a counter: the kernel has told the moment, and the
 * counter runs as fast as the host's. */
static bool goes_by_offset(const struct kvm_vcpu *vcpu)
{
    return vcpu->cpu->host.has_tsc_offset && vcpu->cpu->clock.moment.host_tsc != 0 &&
           ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0) == (int)vcpu->cpu->host.tsc_khz;
}

/* Whoever is interrupted between the two clocks reads them as too far apart: the closest of a few
 * tries counts. */
static bool read_counter(struct kvm_vcpu *vcpu, struct kvm_vcpu_state *state, GError **error)
{
    struct one_msr tsc = {.head.nmsrs = 1, .entry.index = MSR_TSC};
    uint64_t best_ns = UINT64_MAX;

    for (int i = 0; i < TSC_READ_TRIES && best_ns > TSC_READ_NS; i++) {
        uint64_t before_ns = clock_mono_ns();
        if (ioctl(vcpu->fd, KVM_GET_MSRS, &tsc) != 1) {
            kvm_set_error(error, "read a time stamp counter");
            return false;
        }
        uint64_t real_ns = clock_real_ns();
        uint64_t took_ns = clock_mono_ns() - before_ns;
        if (took_ns >= best_ns)
            continue;
        best_ns = took_ns;
        state->tsc = tsc.entry.data;
        state->tsc_real_ns = real_ns;
    }
    return true;
}

bool kvm_tsc_get(struct kvm_vcpu *vcpu, struct kvm_vcpu_state *state, GError **error)
{
    const struct kvm_moment *moment = &vcpu->cpu->clock.moment;
    uint64_t offset;

    if (!goes_by_offset(vcpu))
        return read_counter(vcpu, state, error);
    if (!access_offset(vcpu, KVM_GET_DEVICE_ATTR, &offset)) {
        kvm_set_error(error, "read the offset of a time stamp counter");
        return false;
    }
    state->tsc = moment->host_tsc + offset;
    state->tsc_real_ns = moment->real_ns;
    return true;
}

/* The kernel takes writes to several vCPUs that agree within a second for one moment, and keeps the
 * counters in step. */
static bool write_counter(struct kvm_vcpu *vcpu, const struct kvm_vcpu_state *state, GError **error)
{
    uint64_t elapsed_ns = elapsed_since(vcpu->cpu, state->tsc_real_ns);
    struct one_msr tsc = {
        .head.nmsrs = 1,
        .entry = {.index = MSR_TSC,
                  .data = kvm_tsc_after(state->tsc, elapsed_ns, vcpu->cpu->clock.tsc_khz)},
    };

    if (ioctl(vcpu->fd, KVM_SET_MSRS, &tsc) == 1)
        return true;
    kvm_set_error(error, "set a time stamp counter");
    return false;
}

bool kvm_tsc_set(struct kvm_vcpu *vcpu, const struct kvm_vcpu_state *state, GError **error)
{
    const struct kvm_clock_state *clock = &vcpu->cpu->clock;
    uint64_t now = kvm_tsc_after(state->tsc, clock->moment.ns - clock->ns, clock->tsc_khz);
    uint64_t offset = now - clock->moment.host_tsc;

    /* Read together with the guest clock? Only then is it that far from it, and from the others. */
    if (state->tsc_real_ns != clock->real_ns || !goes_by_offset(vcpu))
        return write_counter(vcpu, state, error);
    if (access_offset(vcpu, KVM_SET_DEVICE_ATTR, &offset))
        return true;
    kvm_set_error(error, "set the offset of a time stamp counter");
    return false;
}
