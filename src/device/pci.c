/* SPDX-License-Identifier: MIT */
/*
 * PCI function helpers: configuration space with its semantics, BARs, capabilities, INTx.
 *
 * Model: PCI Local Bus 3.0 chapter 6, header type 0. Which bits the guest may change is one mask
 * over the whole configuration space; what a changed byte means (command register, BARs) follows
 * from the bytes afterwards, in apply(). A BAR that is being sized holds all ones in its address
 * bits: that is an address like any other, the region simply does not fit there and stays unmapped.
 *
 * Locks: fn->dev.lock guards everything. The INTx wire goes to the host with the lock held.
 */
#include "device/pci.h"

#include <assert.h>
#include <string.h>

#include "device/pci_host.h"
#include "device/pci_regs.h"

static void put_le16(uint8_t *to, uint16_t value)
{
    to[0] = (uint8_t)value;
    to[1] = (uint8_t)(value >> 8);
}

static uint16_t get_le16(const uint8_t *from)
{
    return (uint16_t)(from[0] | from[1] << 8);
}

static void put_le32(uint8_t *to, uint32_t value)
{
    put_le16(to, (uint16_t)value);
    put_le16(to + 2, (uint16_t)(value >> 16));
}

static uint32_t get_le32(const uint8_t *from)
{
    return get_le16(from) | (uint32_t)get_le16(from + 2) << 16;
}

/* ---- what the bytes mean ---- */

static uint64_t bar_gpa(const struct pci_function *fn, unsigned index)
{
    const struct pci_bar *bar = &fn->bars[index];
    const uint8_t *at = fn->config + PCI_BAR0 + 4 * index;
    uint64_t gpa = get_le32(at) & ~UINT32_C(15);
    if (bar->is_64bit)
        gpa |= (uint64_t)get_le32(at + 4) << 32;
    return gpa;
}

/* Where the BAR's region belongs now; UINT64_MAX when it is switched off or lies outside of the
 * windows that the host forwards. */
static uint64_t bar_target(const struct pci_function *fn, unsigned index)
{
    if (!(get_le16(fn->config + PCI_COMMAND) & PCI_COMMAND_MEMORY))
        return UINT64_MAX;
    uint64_t gpa = bar_gpa(fn, index);
    return pci_host_forwards(fn->host, gpa, fn->bars[index].size) ? gpa : UINT64_MAX;
}

static void apply_bars(struct pci_function *fn)
{
    for (unsigned i = 0; i < PCI_N_BARS; i++)
        if (fn->bars[i].region)
            mmio_region_move(fn->bars[i].region, bar_target(fn, i));
}

static bool intx_level(const struct pci_function *fn)
{
    /* SPEC: 6.8.2.3: no pin while MSI-X is enabled. */
    return fn->is_intx_asserted && !pci_msix_is_enabled(fn) &&
           !(get_le16(fn->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE);
}

static void apply_intx(struct pci_function *fn)
{
    if (fn->is_intx_asserted)
        fn->config[PCI_STATUS] |= PCI_STATUS_INTX;
    else
        fn->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTX;
    pci_host_set_intx(fn->host, fn->slot, intx_level(fn));
}

/* ---- building ---- */

void pci_function_built(struct pci_function *fn)
{
    memcpy(fn->reset_config, fn->config, sizeof fn->reset_config);
}

void pci_function_init(struct pci_function *fn, struct pci_host *host, unsigned slot,
                       const struct device_ops *ops, const char *id, const struct pci_ids *ids,
                       const struct gw_state_desc *state, void *state_object)
{
    device_init(&fn->dev, ops, id, state, state_object);
    fn->host = host;
    fn->slot = slot;
    fn->next_cap = PCI_CAP_AREA;
    memset(fn->config, 0, sizeof fn->config);
    memset(fn->write_mask, 0, sizeof fn->write_mask);

    put_le16(fn->config + PCI_VENDOR_ID, ids->vendor);
    put_le16(fn->config + PCI_DEVICE_ID, ids->device);
    put_le32(fn->config + PCI_REVISION, ids->revision | ids->class_code << 8);
    put_le16(fn->config + PCI_SUBSYSTEM_VENDOR, ids->subsystem_vendor);
    put_le16(fn->config + PCI_SUBSYSTEM, ids->subsystem);

    put_le16(fn->write_mask + PCI_COMMAND,
             PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    fn->write_mask[PCI_CACHE_LINE] = 0xff;
    fn->write_mask[PCI_LATENCY_TIMER] = 0xff;
    fn->write_mask[PCI_INTERRUPT_LINE] = 0xff;
    pci_function_built(fn);
}

bool pci_function_add_bar(struct pci_function *fn, unsigned index, const char *name, uint64_t size,
                          bool is_64bit, const struct mmio_ops *ops, void *opaque, GError **error)
{
    unsigned last = index + (is_64bit ? 1 : 0);
    if (last >= PCI_N_BARS || fn->bars[index].size || fn->bars[last].size || size < 16 ||
        (size & (size - 1)) || (!is_64bit && size > UINT32_C(1) << 31)) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "%s: BAR %u of %" G_GUINT64_FORMAT " bytes cannot be", fn->dev.id, index, size);
        return false;
    }
    g_autofree char *region_name = g_strdup_printf("%s/%s", fn->dev.id, name);
    struct pci_bar *bar = &fn->bars[index];
    bar->region = mmio_bus_add(pci_host_bus(fn->host), region_name, &fn->dev, UINT64_MAX, size, ops,
                               opaque, error);
    if (!bar->region)
        return false;
    bar->size = size;
    bar->is_64bit = is_64bit;
    bar->is_prefetchable = is_64bit;
    uint8_t *at = fn->config + PCI_BAR0 + 4 * index;
    uint8_t *mask = fn->write_mask + PCI_BAR0 + 4 * index;
    put_le32(at, is_64bit ? PCI_BAR_64BIT | PCI_BAR_PREFETCHABLE : 0);
    put_le32(mask, (uint32_t) ~(size - 1));
    if (is_64bit)
        put_le32(mask + 4, (uint32_t)(~(size - 1) >> 32));
    pci_function_built(fn);
    return true;
}

uint8_t pci_function_add_cap(struct pci_function *fn, uint8_t id, const void *body, uint8_t len)
{
    uint8_t at = fn->next_cap;
    assert(len >= 2 && at + len <= PCI_CONFIG_SIZE);
    /* Linked at the end, so that the guest sees capabilities in the order they were added. */
    uint8_t *link = &fn->config[PCI_CAP_POINTER];
    while (*link)
        link = &fn->config[*link + 1];
    *link = at;
    fn->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    fn->config[at] = id;
    fn->config[at + 1] = 0;
    if (body)
        memcpy(fn->config + at + 2, body, len - 2);
    unsigned next = (at + len + 3u) & ~3u;
    fn->next_cap = next < PCI_CONFIG_SIZE ? (uint8_t)next : PCI_CONFIG_SIZE - 1;
    pci_function_built(fn);
    return at;
}

void pci_function_clear(struct pci_function *fn)
{
    pci_host_detach(fn->host, fn);
    pci_msix_clear(fn);
    device_clear(&fn->dev);
}

/* ---- running ---- */

void pci_function_set_intx(struct pci_function *fn, bool level)
{
    if (fn->is_intx_asserted == level)
        return;
    fn->is_intx_asserted = level;
    apply_intx(fn);
}

bool pci_function_is_bus_master(const struct pci_function *fn)
{
    return get_le16(fn->config + PCI_COMMAND) & PCI_COMMAND_MASTER;
}

void pci_function_reset(struct pci_function *fn)
{
    memcpy(fn->config, fn->reset_config, sizeof fn->config);
    fn->is_intx_asserted = false;
    pci_msix_reset(fn);
    apply_bars(fn);
    apply_intx(fn);
}

/* GUEST: offset and size of any value become a range inside of config, or nothing. */
static bool is_config_access(unsigned offset, unsigned size)
{
    return (size == 1 || size == 2 || size == 4) && offset % size == 0 && offset < PCI_CONFIG_SIZE;
}

uint32_t pci_function_config_read(struct pci_function *fn, unsigned offset, unsigned size)
{
    if (!is_config_access(offset, size))
        return 0;
    if (fn->config_reading)
        fn->config_reading(fn, offset, size);
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)fn->config[offset + i] << (8 * i);
    return value;
}

void pci_function_config_write(struct pci_function *fn, unsigned offset, unsigned size,
                               uint32_t value)
{
    if (!is_config_access(offset, size))
        return;
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = fn->write_mask[offset + i];
        uint8_t byte = (uint8_t)(value >> (8 * i));
        fn->config[offset + i] = (uint8_t)((fn->config[offset + i] & ~mask) | (byte & mask));
    }
    unsigned end = offset + size;
    bool is_command = offset < PCI_COMMAND + 2 && end > PCI_COMMAND;
    if (is_command || (offset < PCI_BAR0 + 4 * PCI_N_BARS && end > PCI_BAR0))
        apply_bars(fn);
    unsigned msix_control = fn->msix.cap + PCI_MSIX_CONTROL;
    bool is_msix = fn->msix.n_vectors && offset < msix_control + 2 && end > msix_control;
    if (is_command || is_msix)
        apply_intx(fn);
    if (is_msix)
        pci_msix_apply(fn);
    if (fn->config_written)
        fn->config_written(fn, offset, size);
}

/* ---- state ---- */

static bool pci_function_validate(const void *shadow, GError **error)
{
    const struct pci_function *fn = shadow;
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t fixed = (uint8_t)~fn->write_mask[i];
        if (i == PCI_STATUS)
            fixed &= (uint8_t)~PCI_STATUS_INTX;
        if ((fn->config[i] ^ fn->reset_config[i]) & fixed) {
            g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                        "PCI configuration byte 0x%02x is 0x%02x, here 0x%02x with fixed bits "
                        "0x%02x",
                        i, fn->config[i], fn->reset_config[i], fixed);
            return false;
        }
    }
    if (!(fn->config[PCI_STATUS] & PCI_STATUS_INTX) == fn->is_intx_asserted) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "PCI status register and INTx differ");
        return false;
    }
    return true;
}

/* The fixed bytes and the masks must be the other side's: identity, BAR sizes, capabilities. */
static const struct gw_field pci_function_fields[] = {
    GW_EQUAL_BUFFER(struct pci_function, reset_config),
    GW_EQUAL_BUFFER(struct pci_function, write_mask),
    GW_BUFFER(struct pci_function, config),
    GW_BOOL(struct pci_function, is_intx_asserted),
    GW_FIELDS_END,
};

static const struct gw_state_desc *const pci_function_subsections[] = {&pci_msix_state, NULL};

const struct gw_state_desc pci_function_state = {
    .name = "pci-function",
    .version = 1,
    .object_size = sizeof(struct pci_function),
    .priority = GW_PRIORITY_DEVICE,
    .fields = pci_function_fields,
    .subsections = pci_function_subsections,
    .validate = pci_function_validate,
};

void pci_function_post_load(struct pci_function *fn)
{
    apply_bars(fn);
    /* The wire's level is the interrupt controller's own state; only the host's sum is remade. */
    pci_host_note_intx(fn->host, fn->slot, intx_level(fn));
    pci_msix_apply(fn);
}
