/* SPDX-License-Identifier: MIT */
/*
 * Interrupts from outside a vCPU: pins, messages, the routing table, eventfds.
 *
 * Model: the kernel holds one table from GSI to destinations and takes it only as a whole. Ours has
 * a fixed part, the pins as every PC wires them, and one entry per message. It is built anew for
 * each commit.
 */
#include <errno.h>

#include "cpu/kvm/kvm_internal.h"

#define PIC_PINS    16u /* of both */
#define TIMER_PIN   2u  /* of the IOAPIC, where GSI 0 arrives */
#define CASCADE_PIN 2u  /* of the first PIC, where the second one arrives */

void kvm_irq_init(struct kvm_irq *irq)
{
    pthread_mutex_init(&irq->lock, NULL);
}

void kvm_irq_clear(struct kvm_irq *irq)
{
    pthread_mutex_destroy(&irq->lock);
}

/* ---- routes ---- */

static void add_pin(struct kvm_irq_routing *table, unsigned gsi, unsigned chip, unsigned pin)
{
    table->entries[table->nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_IRQCHIP,
        .u.irqchip = {.irqchip = chip, .pin = pin},
    };
}

static void add_pins(struct kvm_irq_routing *table)
{
    for (unsigned gsi = 0; gsi < KVM_N_PINS; gsi++) {
        if (gsi < PIC_PINS && gsi != CASCADE_PIN)
            add_pin(table, gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % 8);
        if (gsi == 0)
            add_pin(table, gsi, KVM_IRQCHIP_IOAPIC, TIMER_PIN);
        else if (gsi != TIMER_PIN)
            add_pin(table, gsi, KVM_IRQCHIP_IOAPIC, gsi);
    }
}

static bool commit_locked(struct cpu_backend *cpu, GError **error)
{
    const unsigned max = 2 * KVM_N_PINS + KVM_MAX_MSIS;
    g_autofree struct kvm_irq_routing *table =
        g_malloc0(sizeof *table + max * sizeof table->entries[0]);

    add_pins(table);
    for (unsigned i = 0; i < KVM_MAX_MSIS; i++) {
        const struct kvm_msi_route *msi = &cpu->irq.msis[i];
        if (!msi->is_used || !msi->has_route)
            continue;
        table->entries[table->nr++] = (struct kvm_irq_routing_entry){
            .gsi = KVM_N_PINS + i,
            .type = KVM_IRQ_ROUTING_MSI,
            .u.msi = {.address_lo = (uint32_t)msi->address,
                      .address_hi = (uint32_t)(msi->address >> 32),
                      .data = msi->data},
        };
    }
    if (ioctl(cpu->vm_fd, KVM_SET_GSI_ROUTING, table) < 0) {
        kvm_set_error(error, "route interrupts");
        return false;
    }
    cpu->irq.is_changed = false;
    return true;
}

bool kvm_irq_reset(struct cpu_backend *cpu, GError **error)
{
    pthread_mutex_lock(&cpu->irq.lock);
    bool ok = commit_locked(cpu, error);
    pthread_mutex_unlock(&cpu->irq.lock);
    return ok;
}

bool kvm_gsi_commit(struct cpu_backend *cpu, GError **error)
{
    pthread_mutex_lock(&cpu->irq.lock);
    bool ok = !cpu->irq.is_changed || commit_locked(cpu, error);
    pthread_mutex_unlock(&cpu->irq.lock);
    return ok;
}

bool kvm_gsi_alloc(struct cpu_backend *cpu, unsigned *gsi, GError **error)
{
    unsigned i;

    pthread_mutex_lock(&cpu->irq.lock);
    for (i = 0; i < KVM_MAX_MSIS && cpu->irq.msis[i].is_used; i++)
        ;
    if (i < KVM_MAX_MSIS)
        cpu->irq.msis[i] = (struct kvm_msi_route){.is_used = true};
    pthread_mutex_unlock(&cpu->irq.lock);
    if (i == KVM_MAX_MSIS) {
        g_set_error(error, GW_ERROR, GW_ERROR_LIMIT, "more than %u interrupt messages",
                    KVM_MAX_MSIS);
        return false;
    }
    *gsi = KVM_N_PINS + i;
    return true;
}

static void change(struct cpu_backend *cpu, unsigned gsi, const struct kvm_msi_route *wanted)
{
    struct kvm_msi_route *msi = &cpu->irq.msis[gsi - KVM_N_PINS];

    g_return_if_fail(gsi >= KVM_N_PINS && gsi < KVM_N_GSIS);
    pthread_mutex_lock(&cpu->irq.lock);
    if (msi->has_route != wanted->has_route || msi->address != wanted->address ||
        msi->data != wanted->data)
        cpu->irq.is_changed = true;
    *msi = *wanted;
    pthread_mutex_unlock(&cpu->irq.lock);
}

void kvm_gsi_free(struct cpu_backend *cpu, unsigned gsi)
{
    change(cpu, gsi, &(struct kvm_msi_route){.is_used = false});
}

void kvm_gsi_set_msi(struct cpu_backend *cpu, unsigned gsi, uint64_t address, uint32_t data)
{
    change(cpu, gsi, &(struct kvm_msi_route){true, true, address, data});
}

void kvm_gsi_clear_msi(struct cpu_backend *cpu, unsigned gsi)
{
    change(cpu, gsi, &(struct kvm_msi_route){.is_used = true});
}

/* ---- now ---- */

void kvm_set_pin(void *opaque, unsigned pin, bool level)
{
    struct cpu_backend *cpu = opaque;
    struct kvm_irq_level line = {.irq = pin, .level = level};

    if (ioctl(cpu->vm_fd, KVM_IRQ_LINE, &line) < 0)
        g_critical("KVM_IRQ_LINE %u: %s", pin, g_strerror(errno));
}

void kvm_send_msi(struct cpu_backend *cpu, uint64_t address, uint32_t data)
{
    struct kvm_msi msi = {
        .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};

    /* GUEST: an address that is no APIC's, or an APIC that is off: the message goes nowhere. */
    (void)ioctl(cpu->vm_fd, KVM_SIGNAL_MSI, &msi);
}

/* ---- eventfds ---- */

static bool attach(struct cpu_backend *cpu, const struct kvm_irqfd *irqfd, GError **error)
{
    if (ioctl(cpu->vm_fd, KVM_IRQFD, irqfd) == 0)
        return true;
    kvm_set_error(error, "attach an event to an interrupt");
    g_prefix_error(error, "GSI %u: ", irqfd->gsi);
    return false;
}

bool kvm_irqfd_attach(struct cpu_backend *cpu, int event_fd, unsigned gsi, GError **error)
{
    return attach(cpu, &(struct kvm_irqfd){.fd = (uint32_t)event_fd, .gsi = gsi}, error);
}

bool kvm_irqfd_attach_level(struct cpu_backend *cpu, int event_fd, int resample_fd, unsigned pin,
                            GError **error)
{
    const struct kvm_irqfd irqfd = {.fd = (uint32_t)event_fd,
                                    .gsi = pin,
                                    .flags = KVM_IRQFD_FLAG_RESAMPLE,
                                    .resamplefd = (uint32_t)resample_fd};
    return attach(cpu, &irqfd, error);
}

void kvm_irqfd_detach(struct cpu_backend *cpu, int event_fd, unsigned gsi)
{
    struct kvm_irqfd irqfd = {
        .fd = (uint32_t)event_fd, .gsi = gsi, .flags = KVM_IRQFD_FLAG_DEASSIGN};

    if (ioctl(cpu->vm_fd, KVM_IRQFD, &irqfd) < 0)
        g_critical("KVM_IRQFD, detaching GSI %u: %s", gsi, g_strerror(errno));
}

static struct kvm_ioeventfd doorbell_request(const struct kvm_doorbell *where, int event_fd)
{
    return (struct kvm_ioeventfd){
        .datamatch = where->has_value ? where->value : 0,
        .addr = where->at,
        .len = where->size,
        .fd = event_fd,
        .flags = (where->is_port ? KVM_IOEVENTFD_FLAG_PIO : 0u) |
                 (where->has_value ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u),
    };
}

bool kvm_doorbell_attach(struct cpu_backend *cpu, const struct kvm_doorbell *where, int event_fd,
                         GError **error)
{
    struct kvm_ioeventfd request = doorbell_request(where, event_fd);

    if (ioctl(cpu->vm_fd, KVM_IOEVENTFD, &request) == 0)
        return true;
    kvm_set_error(error, "attach an event to a doorbell");
    g_prefix_error(error, "%s %#" G_GINT64_MODIFIER "x: ", where->is_port ? "port" : "address",
                   where->at);
    return false;
}

void kvm_doorbell_detach(struct cpu_backend *cpu, const struct kvm_doorbell *where, int event_fd)
{
    struct kvm_ioeventfd request = doorbell_request(where, event_fd);

    request.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    if (ioctl(cpu->vm_fd, KVM_IOEVENTFD, &request) < 0)
        g_critical("KVM_IOEVENTFD, detaching %#" G_GINT64_MODIFIER "x: %s", where->at,
                   g_strerror(errno));
}
