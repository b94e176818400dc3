/* SPDX-License-Identifier: MIT */
/* Reading the state of PICs, IOAPIC and PIT out of the kernel and putting it back. */
#include "cpu/kvm/chips.h"

#include <string.h>

#include "cpu/kvm/kvm_internal.h"

static const struct {
    const char *name;
    uint32_t id;
    size_t offset, size;
} chips[] = {
    {"first PIC", KVM_IRQCHIP_PIC_MASTER, offsetof(struct kvm_chips_state, pics[0]),
     sizeof(struct kvm_pic_state)},
    {"second PIC", KVM_IRQCHIP_PIC_SLAVE, offsetof(struct kvm_chips_state, pics[1]),
     sizeof(struct kvm_pic_state)},
    {"IOAPIC", KVM_IRQCHIP_IOAPIC, offsetof(struct kvm_chips_state, ioapic),
     sizeof(struct kvm_ioapic_state)},
};

static void chip_error(GError **error, const char *verb, const char *name)
{
    g_autofree char *what = g_strdup_printf("%s the state of the %s", verb, name);
    kvm_set_error(error, what);
}

bool kvm_chips_get(struct cpu_backend *cpu, struct kvm_chips_state *state, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(chips); i++) {
        struct kvm_irqchip chip = {.chip_id = chips[i].id};
        if (ioctl(cpu->vm_fd, KVM_GET_IRQCHIP, &chip) < 0) {
            chip_error(error, "read", chips[i].name);
            return false;
        }
        memcpy((char *)state + chips[i].offset, &chip.chip, chips[i].size);
    }
    if (ioctl(cpu->vm_fd, KVM_GET_PIT2, &state->pit) < 0) {
        chip_error(error, "read", "PIT");
        return false;
    }
    return true;
}

bool kvm_chips_set(struct cpu_backend *cpu, const struct kvm_chips_state *state, GError **error)
{
    if (ioctl(cpu->vm_fd, KVM_SET_PIT2, &state->pit) < 0) {
        chip_error(error, "set", "PIT");
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(chips); i++) {
        struct kvm_irqchip chip = {.chip_id = chips[i].id};
        memcpy(&chip.chip, (const char *)state + chips[i].offset, chips[i].size);
        if (ioctl(cpu->vm_fd, KVM_SET_IRQCHIP, &chip) < 0) {
            chip_error(error, "set", chips[i].name);
            return false;
        }
    }
    return true;
}
