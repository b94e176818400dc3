/* SPDX-License-Identifier: MIT */
/* The VM: memory slots, interrupt controllers, timer. */
#include <errno.h>
#include <unistd.h>

#include "cpu/kvm/kvm_internal.h"

/* Three pages that some processors need for real mode, and one for its page table: below the
 * IOAPIC's neighbours, where no board puts anything. */
#define TSS_GPA          UINT64_C(0xfffbd000)
#define IDENTITY_MAP_GPA UINT64_C(0xfffbc000)

static int create_vm(int kvm_fd)
{
    int fd;

    do
        fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static bool place_helpers(struct cpu_backend *cpu, GError **error)
{
    uint64_t identity_map = IDENTITY_MAP_GPA;

    if (ioctl(cpu->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
        ioctl(cpu->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0) {
        kvm_set_error(error, "place its identity map");
        return false;
    }
    if (ioctl(cpu->vm_fd, KVM_SET_TSS_ADDR, TSS_GPA) < 0) {
        kvm_set_error(error, "place its task state segment");
        return false;
    }
    return true;
}

static bool add_slot(struct cpu_backend *cpu, struct gw_ram_block *block, GError **error)
{
    if (cpu->n_slots == G_N_ELEMENTS(cpu->slots)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "more than %u RAM blocks",
                    (unsigned)G_N_ELEMENTS(cpu->slots));
        return false;
    }
    struct kvm_userspace_memory_region region = {
        .slot = cpu->n_slots,
        .guest_phys_addr = block->gpa,
        .memory_size = block->size_bytes,
        .userspace_addr = (uintptr_t)block->host,
    };
    if (ioctl(cpu->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0) {
        kvm_set_error(error, "give the guest its memory");
        g_prefix_error(error, "RAM block %s: ", block->name);
        return false;
    }
    cpu->slots[cpu->n_slots++] = block;
    return true;
}

static bool add_slots(struct cpu_backend *cpu, GError **error)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(cpu->config.memory); i++) {
        struct gw_ram_block *block = gw_memory_block(cpu->config.memory, i);
        if (block->gpa != GW_GPA_NONE && !add_slot(cpu, block, error))
            return false;
    }
    return true;
}

static bool create_chips(struct cpu_backend *cpu, GError **error)
{
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

    if (ioctl(cpu->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0) {
        kvm_set_error(error, "create interrupt controllers");
        return false;
    }
    if (ioctl(cpu->vm_fd, KVM_CREATE_PIT2, &pit) < 0) {
        kvm_set_error(error, "create a PIT");
        return false;
    }
    return true;
}

/* Events that the kernel keeps apart only if it is asked to; older ones do not offer it. */
static void enable_events(struct cpu_backend *cpu)
{
    static const uint32_t wanted[] = {KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT};

    for (size_t i = 0; i < G_N_ELEMENTS(wanted); i++) {
        const struct kvm_enable_cap cap = {.cap = wanted[i], .args[0] = 1};
        if (ioctl(cpu->kvm_fd, KVM_CHECK_EXTENSION, (unsigned long)wanted[i]) > 0)
            (void)ioctl(cpu->vm_fd, KVM_ENABLE_CAP, &cap);
    }
}

bool kvm_vm_create(struct cpu_backend *cpu, GError **error)
{
    cpu->vm_fd = create_vm(cpu->kvm_fd);
    if (cpu->vm_fd < 0) {
        kvm_set_error(error, "create a VM");
        return false;
    }
    enable_events(cpu);
    return kvm_dirty_init(cpu, error) && place_helpers(cpu, error) && add_slots(cpu, error) &&
           create_chips(cpu, error) && kvm_irq_reset(cpu, error);
}
