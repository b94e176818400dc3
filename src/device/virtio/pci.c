/* SPDX-License-Identifier: MIT */
/*
 * Virtio over PCI: capabilities, registers, interrupts.
 *
 * Model: VIRTIO 1.2, section 4.1, no legacy interface. One 64-bit BAR (4) of four pages holds the
 * four structures; a fifth capability is a window on them through configuration space:
 *
 *     0x0000 common configuration     0x1000 interrupt status
 *     0x2000 device configuration     0x3000 notification, 4 bytes for each queue
 *
 * Interrupts are MSI-X where the board has a controller for it and the driver enables it, one
 * vector for each queue and one for configuration changes; else INTx. Without an MSI-X capability
 * the vector registers read as "no vector".
 *
 * Where a hypervisor wires the bus, a notification reaches the loop without a vCPU's help: each
 * queue has a descriptor that is signalled by a write to its place.
 *
 * GUEST: registers are rows of one table; an access that is not exactly one row's offset and
 * width reads 0 and is dropped when written.
 */
#include <endian.h>
#include <string.h>

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include "device/virtio/virtio.h"

#define PCI_VENDOR_VIRTIO  0x1af4
#define PCI_DEVICE_BASE    0x1040
#define PCI_SUBSYSTEM_BASE 0x1100 /* any value of 0x40 and more: SPEC 4.1.2.1 */
#define BAR_INDEX          4
#define MSIX_BAR_INDEX     1
#define PAGE_BYTES         0x1000u
#define NOTIFY_MULTIPLIER  4u
#define CAP_HEADER         2u /* id and next, which pci_function_add_cap fills */

enum page {
    PAGE_COMMON = 0,
    PAGE_ISR,
    PAGE_DEVICE,
    PAGE_NOTIFY,
    N_PAGES,
};

/* ---- common configuration -------------------------------------------------------------------- */

/* SPEC: 4.1.4.3: a queue number beyond the device's queues reads as size 0. */
static struct virtqueue *selected(struct virtio_device *vdev)
{
    return vdev->queue_select < vdev->n_queues ? &vdev->queues[vdev->queue_select] : NULL;
}

/* The selected queue as long as its set-up may change. */
static struct virtqueue *settable(struct virtio_device *vdev)
{
    struct virtqueue *queue = selected(vdev);

    return queue && !queue->is_enabled ? queue : NULL;
}

static uint32_t half(uint64_t value, uint32_t select)
{
    return select < 2 ? (uint32_t)(value >> (32 * select)) : 0;
}

static void set_half(uint64_t *value, uint32_t select, uint32_t part)
{
    unsigned shift = 32 * select;

    *value = (*value & ~(UINT64_C(0xffffffff) << shift)) | (uint64_t)part << shift;
}

static uint32_t read_device_feature_select(struct virtio_device *vdev)
{
    return vdev->device_feature_select;
}

static void write_device_feature_select(struct virtio_device *vdev, uint32_t value)
{
    vdev->device_feature_select = value;
}

static uint32_t read_device_feature(struct virtio_device *vdev)
{
    return half(vdev->features_offered, vdev->device_feature_select);
}

static uint32_t read_driver_feature_select(struct virtio_device *vdev)
{
    return vdev->driver_feature_select;
}

static void write_driver_feature_select(struct virtio_device *vdev, uint32_t value)
{
    vdev->driver_feature_select = value;
}

static uint32_t read_driver_feature(struct virtio_device *vdev)
{
    return half(vdev->driver_features, vdev->driver_feature_select);
}

static void write_driver_feature(struct virtio_device *vdev, uint32_t value)
{
    /* SPEC: 3.1.1: settled by FEATURES_OK. */
    if (!(vdev->status & VIRTIO_CONFIG_S_FEATURES_OK) && vdev->driver_feature_select < 2)
        set_half(&vdev->driver_features, vdev->driver_feature_select, value);
}

/* SPEC: 4.1.5.1.2.1: a vector that cannot be mapped reads back as "no vector". */
static uint16_t possible_vector(const struct virtio_device *vdev, uint32_t value)
{
    return value < vdev->pci.msix.n_vectors ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static uint32_t read_config_vector(struct virtio_device *vdev)
{
    return vdev->config_vector;
}

static void write_config_vector(struct virtio_device *vdev, uint32_t value)
{
    vdev->config_vector = possible_vector(vdev, value);
}

static uint32_t read_queue_vector(struct virtio_device *vdev)
{
    struct virtqueue *queue = selected(vdev);

    return queue ? queue->msix_vector : VIRTIO_NO_VECTOR;
}

static void write_queue_vector(struct virtio_device *vdev, uint32_t value)
{
    struct virtqueue *queue = selected(vdev);

    if (queue)
        queue->msix_vector = possible_vector(vdev, value);
}

static uint32_t read_num_queues(struct virtio_device *vdev)
{
    return vdev->n_queues;
}

static uint32_t read_status(struct virtio_device *vdev)
{
    return vdev->status;
}

static void write_status(struct virtio_device *vdev, uint32_t value)
{
    virtio_set_status(vdev, (uint8_t)value);
}

static uint32_t read_generation(struct virtio_device *vdev)
{
    return vdev->config_generation;
}

static uint32_t read_queue_select(struct virtio_device *vdev)
{
    return vdev->queue_select;
}

static void write_queue_select(struct virtio_device *vdev, uint32_t value)
{
    vdev->queue_select = (uint16_t)value;
}

static uint32_t read_queue_size(struct virtio_device *vdev)
{
    struct virtqueue *queue = selected(vdev);

    return queue ? queue->size : 0;
}

static void write_queue_size(struct virtio_device *vdev, uint32_t value)
{
    struct virtqueue *queue = settable(vdev);

    /* GUEST: a size that is no power of two or larger than offered is not taken. */
    if (queue && value && value <= queue->max_size && (value & (value - 1)) == 0)
        queue->size = (uint16_t)value;
}

static uint32_t read_queue_enable(struct virtio_device *vdev)
{
    struct virtqueue *queue = selected(vdev);

    return queue && queue->is_enabled;
}

static void write_queue_enable(struct virtio_device *vdev, uint32_t value)
{
    /* SPEC: 4.1.4.3.2: the driver does not write 0 here. */
    if (value == 1 && selected(vdev) && !vdev->is_resetting)
        virtio_enable_queue(vdev, vdev->queue_select);
}

static uint32_t read_queue_notify_off(struct virtio_device *vdev)
{
    return selected(vdev) ? vdev->queue_select : 0;
}

static uint32_t read_address(struct virtio_device *vdev, size_t member, unsigned which)
{
    struct virtqueue *queue = selected(vdev);

    return queue ? half(*(uint64_t *)((char *)queue + member), which) : 0;
}

static void write_address(struct virtio_device *vdev, size_t member, unsigned which, uint32_t value)
{
    struct virtqueue *queue = settable(vdev);

    if (queue)
        set_half((uint64_t *)((char *)queue + member), which, value);
}

#define ADDRESS_REGISTER(member, which)                                                            \
    static uint32_t read_##member##_##which(struct virtio_device *vdev)                            \
    {                                                                                              \
        return read_address(vdev, offsetof(struct virtqueue, member), which);                      \
    }                                                                                              \
    static void write_##member##_##which(struct virtio_device *vdev, uint32_t value)               \
    {                                                                                              \
        write_address(vdev, offsetof(struct virtqueue, member), which, value);                     \
    }
ADDRESS_REGISTER(desc_gpa, 0)
ADDRESS_REGISTER(desc_gpa, 1)
ADDRESS_REGISTER(avail_gpa, 0)
ADDRESS_REGISTER(avail_gpa, 1)
ADDRESS_REGISTER(used_gpa, 0)
ADDRESS_REGISTER(used_gpa, 1)
#undef ADDRESS_REGISTER

struct reg {
    uint16_t offset;
    uint8_t width;
    uint32_t (*read)(struct virtio_device *vdev);
    void (*write)(struct virtio_device *vdev, uint32_t value); /* NULL: read-only */
};

/* SPEC: 4.1.4.3, struct virtio_pci_common_cfg. */
static const struct reg common_regs[] = {
    {0, 4, read_device_feature_select, write_device_feature_select},
    {4, 4, read_device_feature, NULL},
    {8, 4, read_driver_feature_select, write_driver_feature_select},
    {12, 4, read_driver_feature, write_driver_feature},
    {16, 2, read_config_vector, write_config_vector},
    {18, 2, read_num_queues, NULL},
    {20, 1, read_status, write_status},
    {21, 1, read_generation, NULL},
    {22, 2, read_queue_select, write_queue_select},
    {24, 2, read_queue_size, write_queue_size},
    {26, 2, read_queue_vector, write_queue_vector},
    {28, 2, read_queue_enable, write_queue_enable},
    {30, 2, read_queue_notify_off, NULL},
    {32, 4, read_desc_gpa_0, write_desc_gpa_0},
    {36, 4, read_desc_gpa_1, write_desc_gpa_1},
    {40, 4, read_avail_gpa_0, write_avail_gpa_0},
    {44, 4, read_avail_gpa_1, write_avail_gpa_1},
    {48, 4, read_used_gpa_0, write_used_gpa_0},
    {52, 4, read_used_gpa_1, write_used_gpa_1},
};
#define COMMON_BYTES 56

static const struct reg *find_common(unsigned offset, unsigned size)
{
    for (size_t i = 0; i < G_N_ELEMENTS(common_regs); i++) {
        if (common_regs[i].offset == offset)
            return common_regs[i].width == size ? &common_regs[i] : NULL;
    }
    return NULL;
}

/* ---- the other structures -------------------------------------------------------------------- */

/* SPEC: 4.1.4.5.1: reading clears the status and the interrupt. */
static uint32_t read_isr(struct virtio_device *vdev)
{
    uint8_t isr = vdev->isr;

    vdev->isr = 0;
    pci_function_set_intx(&vdev->pci, false);
    return isr;
}

static uint32_t read_device_config(struct virtio_device *vdev, unsigned offset, unsigned size)
{
    uint8_t config[VIRTIO_MAX_CONFIG_BYTES] = {0};
    uint32_t value = 0;

    if (offset + size > vdev->ops->config_bytes)
        return 0;
    vdev->ops->get_config(vdev, config);
    memcpy(&value, config + offset, size);
    return le32toh(value);
}

static void write_device_config(struct virtio_device *vdev, unsigned offset, unsigned size,
                                uint32_t value)
{
    uint32_t le = htole32(value);

    if (offset + size <= vdev->ops->config_bytes && vdev->ops->set_config)
        vdev->ops->set_config(vdev, offset, size, (const uint8_t *)&le);
}

static void notify(struct virtio_device *vdev, unsigned offset)
{
    unsigned queue = offset / NOTIFY_MULTIPLIER;

    /* The address says which queue; the value is the same number without NOTIFICATION_DATA. */
    if (queue < vdev->n_queues)
        virtio_kick_queue(vdev, queue);
}

/* ---- the BAR --------------------------------------------------------------------------------- */

static uint32_t bar_read(struct virtio_device *vdev, uint32_t address, unsigned size)
{
    unsigned offset = address % PAGE_BYTES;
    const struct reg *reg;

    switch (address / PAGE_BYTES) {
    case PAGE_COMMON:
        reg = find_common(offset, size);
        return reg ? reg->read(vdev) : 0;
    case PAGE_ISR:
        return offset == 0 ? read_isr(vdev) : 0;
    case PAGE_DEVICE:
        return read_device_config(vdev, offset, size);
    default:
        return 0;
    }
}

static void bar_write(struct virtio_device *vdev, uint32_t address, unsigned size, uint32_t value)
{
    unsigned offset = address % PAGE_BYTES;
    const struct reg *reg;

    switch (address / PAGE_BYTES) {
    case PAGE_COMMON:
        reg = find_common(offset, size);
        if (reg && reg->write)
            reg->write(vdev, value);
        break;
    case PAGE_DEVICE:
        write_device_config(vdev, offset, size, value);
        break;
    case PAGE_NOTIFY:
        notify(vdev, offset);
        break;
    default:
        break;
    }
}

static uint64_t mmio_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    return bar_read(virtio_from_device(dev), (uint32_t)offset, size);
}

static void mmio_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                       uint64_t value)
{
    bar_write(virtio_from_device(dev), (uint32_t)offset, size, (uint32_t)value);
}

/* A notification waits for no lock: the loop may hold it for a whole batch of requests. */
static bool mmio_doorbell(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                          uint64_t value)
{
    if (offset / PAGE_BYTES != PAGE_NOTIFY)
        return false;
    notify(virtio_from_device(dev), (unsigned)(offset % PAGE_BYTES));
    return true;
}

/* SPEC: 4.1.3.1: 64-bit fields are accessed as two halves. */
static const struct mmio_ops bar_ops = {
    .read = mmio_read,
    .write = mmio_write,
    .min_size = 1,
    .max_size = 4,
    .doorbell = mmio_doorbell,
};

void virtio_pci_interrupt(struct virtio_device *vdev, uint8_t isr_bit, uint16_t vector)
{
    if (pci_msix_is_enabled(&vdev->pci)) {
        pci_msix_send(&vdev->pci, vector);
        return;
    }
    vdev->isr |= isr_bit;
    pci_function_set_intx(&vdev->pci, true);
}

/* ---- the window through configuration space -------------------------------------------------- */

/* SPEC: 4.1.4.9. GUEST: bar, offset and length of the window are the driver's. */
static bool window(const struct virtio_device *vdev, uint32_t *address, unsigned *size)
{
    const uint8_t *cap = vdev->pci.config + vdev->window_offset;
    uint32_t le_offset, le_length;

    memcpy(&le_offset, cap + VIRTIO_PCI_CAP_OFFSET, sizeof(le_offset));
    memcpy(&le_length, cap + VIRTIO_PCI_CAP_LENGTH, sizeof(le_length));
    *address = le32toh(le_offset);
    *size = le32toh(le_length);
    if (*size != 1 && *size != 2 && *size != 4)
        return false;
    return cap[VIRTIO_PCI_CAP_BAR] == BAR_INDEX && *address % *size == 0 &&
           *address < N_PAGES * PAGE_BYTES;
}

static bool touches_window(const struct virtio_device *vdev, unsigned offset, unsigned size)
{
    unsigned data = vdev->window_offset + (unsigned)sizeof(struct virtio_pci_cap);

    return offset < data + 4 && data < offset + size;
}

static void config_reading(struct pci_function *fn, unsigned offset, unsigned size)
{
    struct virtio_device *vdev = (struct virtio_device *)fn;
    uint32_t address, value;
    unsigned width;

    if (!touches_window(vdev, offset, size) || !window(vdev, &address, &width))
        return;
    value = htole32(bar_read(vdev, address, width));
    memcpy(fn->config + vdev->window_offset + sizeof(struct virtio_pci_cap), &value, width);
}

static void config_written(struct pci_function *fn, unsigned offset, unsigned size)
{
    struct virtio_device *vdev = (struct virtio_device *)fn;
    uint32_t address, value = 0;
    unsigned width;

    if (offset < PCI_COMMAND + 2 && PCI_COMMAND < offset + size)
        virtio_update_live(vdev); /* bus mastering */
    if (!touches_window(vdev, offset, size) || !window(vdev, &address, &width))
        return;
    memcpy(&value, fn->config + vdev->window_offset + sizeof(struct virtio_pci_cap), width);
    bar_write(vdev, address, width, le32toh(value));
}

/* ---- construction ---------------------------------------------------------------------------- */

static void add_cap(struct virtio_device *vdev, uint8_t type, unsigned page, uint32_t length)
{
    struct virtio_pci_notify_cap notify_cap = {
        .cap =
            {
                .cfg_type = type,
                .bar = BAR_INDEX,
                .offset = htole32(page * PAGE_BYTES),
                .length = htole32(length),
            },
        .notify_off_multiplier = htole32(NOTIFY_MULTIPLIER),
    };
    uint8_t len = type == VIRTIO_PCI_CAP_NOTIFY_CFG ? sizeof(notify_cap) : sizeof(notify_cap.cap);

    notify_cap.cap.cap_len = len;
    pci_function_add_cap(&vdev->pci, PCI_CAP_ID_VNDR, (const uint8_t *)&notify_cap + CAP_HEADER,
                         len);
}

static void add_window(struct virtio_device *vdev)
{
    struct virtio_pci_cfg_cap cap = {
        .cap = {.cfg_type = VIRTIO_PCI_CAP_PCI_CFG, .cap_len = sizeof(cap)},
    };
    uint8_t *mask;

    vdev->window_offset = pci_function_add_cap(
        &vdev->pci, PCI_CAP_ID_VNDR, (const uint8_t *)&cap + CAP_HEADER, (uint8_t)sizeof(cap));
    mask = vdev->pci.write_mask + vdev->window_offset;
    mask[VIRTIO_PCI_CAP_BAR] = 0xff;
    memset(mask + VIRTIO_PCI_CAP_OFFSET, 0xff, 12); /* offset, length, data */
    vdev->pci.config_reading = config_reading;
    vdev->pci.config_written = config_written;
}

bool virtio_pci_init(struct virtio_device *vdev, const struct virtio_config *config,
                     const struct gw_state_desc *state, GError **error)
{
    struct pci_ids ids = {
        .vendor = PCI_VENDOR_VIRTIO,
        .device = (uint16_t)(PCI_DEVICE_BASE + vdev->ops->id),
        .subsystem_vendor = PCI_VENDOR_VIRTIO,
        .subsystem = (uint16_t)(PCI_SUBSYSTEM_BASE + vdev->ops->id),
        .class_code = vdev->ops->class_code,
        .revision = 1,
    };

    pci_function_init(&vdev->pci, config->host, config->slot, &vdev->ops->device, config->id, &ids,
                      state, vdev);
    add_cap(vdev, VIRTIO_PCI_CAP_COMMON_CFG, PAGE_COMMON, COMMON_BYTES);
    add_cap(vdev, VIRTIO_PCI_CAP_ISR_CFG, PAGE_ISR, 1);
    if (vdev->ops->config_bytes)
        add_cap(vdev, VIRTIO_PCI_CAP_DEVICE_CFG, PAGE_DEVICE, vdev->ops->config_bytes);
    add_cap(vdev, VIRTIO_PCI_CAP_NOTIFY_CFG, PAGE_NOTIFY, vdev->n_queues * NOTIFY_MULTIPLIER);
    add_window(vdev);
    return pci_msix_init(&vdev->pci, MSIX_BAR_INDEX, vdev->n_queues + 1u, error) &&
           pci_function_add_bar(&vdev->pci, BAR_INDEX, config->id, N_PAGES * PAGE_BYTES, true,
                                &bar_ops, vdev, error) &&
           pci_host_attach(config->host, &vdev->pci, error);
}

void virtio_pci_wire_queue(struct virtio_device *vdev, unsigned queue, int fd)
{
    mmio_region_wire(vdev->pci.bars[BAR_INDEX].region,
                     PAGE_NOTIFY * PAGE_BYTES + queue * NOTIFY_MULTIPLIER, fd);
}

void virtio_pci_unwire(struct virtio_device *vdev)
{
    if (vdev->pci.bars[BAR_INDEX].region)
        mmio_region_unwire(vdev->pci.bars[BAR_INDEX].region);
}
