/* SPDX-License-Identifier: MIT */
/*
 * MSI-X.
 *
 * Model: PCI Local Bus 3.0, 6.8.2. Table and pending bits share one page: entries of 16 bytes from
 * 0 on, pending bits from 0x800 on. The controller is told a message only when the guest could
 * receive it (MSI-X enabled, vector unmasked) and it is another one than before: telling may cost
 * more than sending. Masking needs no telling, as every message goes through pci_msix_send.
 */
#include "device/msix.h"

#include <string.h>

#include "device/pci.h"
#include "device/pci_host.h"
#include "device/pci_regs.h"

#define BAR_BYTES      0x1000u
#define PBA_OFFSET     0x800u
#define ENTRY_BYTES    16u
#define CONTROL_MASKED 1u

static unsigned control_of(const struct pci_function *fn)
{
    const uint8_t *at = fn->config + fn->msix.cap + PCI_MSIX_CONTROL;
    return (unsigned)(at[0] | at[1] << 8);
}

bool pci_msix_is_enabled(const struct pci_function *fn)
{
    return fn->msix.n_vectors && (control_of(fn) & PCI_MSIX_CONTROL_ENABLE);
}

static bool is_open(const struct pci_function *fn, unsigned vector)
{
    return pci_msix_is_enabled(fn) && !(control_of(fn) & PCI_MSIX_CONTROL_MASK_ALL) &&
           !(fn->msix.entries[vector].control & CONTROL_MASKED);
}

/* Whatever made the vector open or changed it: the controller learns its message, and what waited
 * is sent. */
static void apply_vector(struct pci_function *fn, unsigned vector)
{
    struct pci_msix *msix = &fn->msix;
    const struct pci_msix_entry *entry = &msix->entries[vector];
    struct pci_msix_entry *told = &msix->told[vector];

    if (!is_open(fn, vector))
        return;
    if (entry->address != told->address || entry->data != told->data) {
        msix->controller.ops->set_message(msix->vectors[vector], entry->address, entry->data);
        *told = *entry;
    }
    if (msix->pending >> vector & 1) {
        msix->pending &= ~(UINT32_C(1) << vector);
        msix->controller.ops->send(msix->vectors[vector]);
    }
}

void pci_msix_apply(struct pci_function *fn)
{
    for (unsigned i = 0; i < fn->msix.n_vectors; i++)
        apply_vector(fn, i);
}

void pci_msix_send(struct pci_function *fn, unsigned vector)
{
    if (vector >= fn->msix.n_vectors || !pci_msix_is_enabled(fn))
        return;
    fn->msix.pending |= UINT32_C(1) << vector;
    apply_vector(fn, vector);
}

void pci_msix_reset(struct pci_function *fn)
{
    struct pci_msix *msix = &fn->msix;

    msix->pending = 0;
    for (unsigned i = 0; i < msix->n_vectors; i++)
        msix->entries[i] = (struct pci_msix_entry){.control = CONTROL_MASKED};
}

/* ---- the BAR --------------------------------------------------------------------------------- */

/* GUEST: any offset. The vectors end long before the pending bits begin. */
static unsigned vector_at(uint64_t offset)
{
    return (unsigned)MIN(offset / ENTRY_BYTES, PCI_MSIX_MAX_VECTORS);
}

/* The 32-bit word at offset. */
static uint32_t read_word(const struct pci_msix *msix, uint64_t offset)
{
    unsigned vector = vector_at(offset);

    if (offset == PBA_OFFSET)
        return msix->pending;
    if (vector >= msix->n_vectors)
        return 0;
    const struct pci_msix_entry *entry = &msix->entries[vector];
    switch (offset % ENTRY_BYTES) {
    case 0:
        return (uint32_t)entry->address;
    case 4:
        return (uint32_t)(entry->address >> 32);
    case 8:
        return entry->data;
    default:
        return entry->control;
    }
}

static void write_word(struct pci_msix *msix, uint64_t offset, uint32_t value)
{
    unsigned vector = vector_at(offset);

    if (vector >= msix->n_vectors)
        return;
    struct pci_msix_entry *entry = &msix->entries[vector];
    switch (offset % ENTRY_BYTES) {
    case 0:
        entry->address = (entry->address & ~(uint64_t)UINT32_MAX) | (value & ~UINT32_C(3));
        break;
    case 4:
        entry->address = (uint32_t)entry->address | (uint64_t)value << 32;
        break;
    case 8:
        entry->data = value;
        break;
    default:
        entry->control = value & CONTROL_MASKED;
    }
}

/* SPEC: 6.8.2: accesses are of 4 or 8 bytes. */
static uint64_t table_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    const struct pci_msix *msix = &((struct pci_function *)opaque)->msix;
    uint64_t value = read_word(msix, offset);

    return size == 8 ? value | (uint64_t)read_word(msix, offset + 4) << 32 : value;
}

static void table_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                        uint64_t value)
{
    struct pci_function *fn = opaque;

    write_word(&fn->msix, offset, (uint32_t)value);
    if (size == 8)
        write_word(&fn->msix, offset + 4, (uint32_t)(value >> 32));
    if (vector_at(offset) < fn->msix.n_vectors)
        apply_vector(fn, vector_at(offset));
}

static const struct mmio_ops table_ops = {
    .read = table_read, .write = table_write, .min_size = 4, .max_size = 8};

/* ---- construction ---------------------------------------------------------------------------- */

bool pci_msix_init(struct pci_function *fn, unsigned bar, unsigned n_vectors, GError **error)
{
    const struct msi_controller *controller = pci_host_msi(fn->host);
    struct pci_msix *msix = &fn->msix;
    uint8_t body[10] = {
        (uint8_t)(n_vectors - 1), 0, (uint8_t)bar, 0, 0, 0, (uint8_t)(PBA_OFFSET | bar),
        PBA_OFFSET >> 8};

    if (!controller->ops)
        return true;
    g_assert(n_vectors >= 1 && n_vectors <= PCI_MSIX_MAX_VECTORS);
    msix->controller = *controller;
    for (unsigned i = 0; i < n_vectors; i++) {
        msix->vectors[i] = controller->ops->vector_new(controller->opaque, error);
        if (!msix->vectors[i]) {
            g_prefix_error(error, "%s: ", fn->dev.id);
            pci_msix_clear(fn);
            return false;
        }
    }
    msix->n_vectors = (uint8_t)n_vectors;
    msix->cap = pci_function_add_cap(fn, PCI_CAP_MSIX, body, sizeof body + 2);
    fn->write_mask[msix->cap + PCI_MSIX_CONTROL + 1] =
        (PCI_MSIX_CONTROL_ENABLE | PCI_MSIX_CONTROL_MASK_ALL) >> 8;
    pci_msix_reset(fn);
    return pci_function_add_bar(fn, bar, "msix", BAR_BYTES, false, &table_ops, fn, error);
}

void pci_msix_clear(struct pci_function *fn)
{
    struct pci_msix *msix = &fn->msix;

    for (unsigned i = 0; i < PCI_MSIX_MAX_VECTORS; i++)
        if (msix->vectors[i])
            msix->controller.ops->vector_free(msix->vectors[i]);
    memset(msix, 0, sizeof *msix);
}

/* ---- state ----------------------------------------------------------------------------------- */

static bool is_needed(const void *object)
{
    return ((const struct pci_function *)object)->msix.n_vectors > 0;
}

static const struct gw_field entry_fields[] = {
    GW_U64(struct pci_msix_entry, address),
    GW_U32(struct pci_msix_entry, data),
    GW_U32(struct pci_msix_entry, control, .mask = CONTROL_MASKED),
    GW_FIELDS_END,
};

static const struct gw_state_desc entry_state = {
    .name = "pci-msix-entry",
    .version = 1,
    .object_size = sizeof(struct pci_msix_entry),
    .fields = entry_fields,
};

static const struct gw_field msix_fields[] = {
    GW_EQUAL_U8(struct pci_function, msix.n_vectors, .label = "n_vectors"),
    GW_STRUCT_VARRAY(struct pci_function, msix.entries, msix.n_vectors, &entry_state,
                     .label = "entries"),
    GW_U32(struct pci_function, msix.pending, .label = "pending"),
    GW_FIELDS_END,
};

const struct gw_state_desc pci_msix_state = {
    .name = "pci-function/msix",
    .version = 1,
    .object_size = sizeof(struct pci_function),
    .fields = msix_fields,
    .is_needed = is_needed,
};
