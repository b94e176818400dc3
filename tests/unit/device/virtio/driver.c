/* SPDX-License-Identifier: MIT */
/*
 * The tests' machine and virtio driver: see driver.h.
 */
#include "driver.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

/* ---- machine --------------------------------------------------------------------------------- */

static void set_line(void *opaque, unsigned number, bool level)
{
    struct rig *rig = opaque;

    pthread_mutex_lock(&rig->lock);
    if (level && !rig->levels[number])
        rig->n_edges[number]++;
    rig->levels[number] = level;
    pthread_cond_broadcast(&rig->changed);
    pthread_mutex_unlock(&rig->lock);
}

static void timer_ran(struct device *dev, void *opaque)
{
    struct rig *rig = opaque;

    pthread_mutex_lock(&rig->lock);
    rig->n_timer_ran++;
    pthread_cond_broadcast(&rig->changed);
    pthread_mutex_unlock(&rig->lock);
}

static void wait_at_gate(struct device *dev, void *opaque)
{
    struct rig *rig = opaque;

    pthread_mutex_lock(&rig->lock);
    rig->n_arrived++;
    pthread_cond_broadcast(&rig->changed);
    while (rig->n_passes < rig->n_arrived)
        pthread_cond_wait(&rig->changed, &rig->lock);
    pthread_mutex_unlock(&rig->lock);
}

static void await_at_gate(struct rig *rig)
{
    pthread_mutex_lock(&rig->lock);
    while (rig->n_arrived == rig->n_passes)
        pthread_cond_wait(&rig->changed, &rig->lock);
    pthread_mutex_unlock(&rig->lock);
}

/* The gate's bell is made after the device's, so in one turn the device's is answered first: the
 * loop is stopped at the gate, both are rung, and it goes on to the gate again. */
void rig_shut_gate(struct rig *rig, struct drv *drv, unsigned queue)
{
    if (!rig->gate)
        rig->gate = io_bell_new(rig->loop, &rig->clock, "gate", wait_at_gate, rig);
    io_bell_ring(rig->gate);
    await_at_gate(rig);
    drv_write(drv, drv->notify + queue * drv->notify_multiplier, 2, queue);
    io_bell_ring(rig->gate);
    rig_open_gate(rig);
    await_at_gate(rig);
}

void rig_open_gate(struct rig *rig)
{
    pthread_mutex_lock(&rig->lock);
    rig->n_passes++;
    pthread_cond_broadcast(&rig->changed);
    pthread_mutex_unlock(&rig->lock);
}

static const struct device_ops clock_ops = {.type = "test-clock"};

struct rig *rig_new(void)
{
    return rig_new_wired(NULL, NULL, NULL);
}

struct rig *rig_new_wired(const struct msi_controller *msi, const struct mmio_wire_ops *wires,
                          void *wires_opaque)
{
    struct rig *rig = g_new0(struct rig, 1);
    struct pci_host_config config = {
        .ecam_gpa = RIG_ECAM_GPA,
        .ecam_size = 1 << 20,
        .mmio32_gpa = RIG_MMIO_GPA,
        .mmio32_size = 64 << 20,
    };
    pthread_condattr_t attr;

    pthread_mutex_init(&rig->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&rig->changed, &attr);
    pthread_condattr_destroy(&attr);
    rig->memory = gw_memory_new();
    rig->ram = gw_memory_add_block(rig->memory, "ram", RIG_RAM_GPA, RIG_RAM_BYTES, NULL);
    rig->high = gw_memory_add_block(rig->memory, "ram.high", RIG_HIGH_GPA, RIG_HIGH_BYTES, NULL);
    assert_non_null(rig->ram);
    assert_non_null(rig->high);
    rig->next_free_gpa = RIG_RAM_GPA + 0x10000;
    rig->bus = mmio_bus_new(NULL);
    if (wires)
        mmio_bus_set_wires(rig->bus, wires, wires_opaque);
    config.bus = rig->bus;
    if (msi)
        config.msi = *msi;
    for (unsigned i = 0; i < 4; i++)
        config.intx[i] = (struct irq_line){.set = set_line, .opaque = rig, .number = i};
    rig->host = pci_host_new(&config, NULL);
    assert_non_null(rig->host);
    rig->loop = io_loop_new("io", NULL);
    device_init(&rig->clock, &clock_ops, "clock", NULL, NULL);
    rig->timer = io_timer_new(rig->loop, &rig->clock, "settle", timer_ran, rig);
    return rig;
}

void rig_free(struct rig *rig)
{
    io_timer_free(rig->timer);
    io_bell_free(rig->gate);
    device_clear(&rig->clock);
    io_loop_free(rig->loop);
    pci_host_free(rig->host);
    mmio_bus_free(rig->bus);
    gw_memory_free(rig->memory);
    pthread_cond_destroy(&rig->changed);
    pthread_mutex_destroy(&rig->lock);
    g_free(rig);
}

struct virtio_config rig_config(struct rig *rig, const char *id, unsigned slot)
{
    return (struct virtio_config){
        .id = id, .host = rig->host, .slot = slot, .memory = rig->memory, .loop = rig->loop};
}

uint64_t rig_alloc(struct rig *rig, uint64_t bytes)
{
    uint64_t align = bytes >= GW_PAGE_SIZE ? GW_PAGE_SIZE : 64;
    uint64_t gpa = (rig->next_free_gpa + align - 1) & ~(align - 1);

    rig->next_free_gpa = gpa + bytes;
    assert_true(rig->next_free_gpa < RIG_HIGH_GPA - 0x10000);
    memset(rig_host(rig, gpa, bytes), 0, bytes);
    return gpa;
}

void *rig_host(struct rig *rig, uint64_t gpa, uint64_t bytes)
{
    void *host = gw_memory_host(rig->memory, gpa, bytes);

    assert_non_null(host);
    return host;
}

static struct timespec rig_deadline(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_sec += RIG_DEADLINE_S;
    return ts;
}

static void settle_once(struct rig *rig)
{
    struct timespec deadline = rig_deadline();
    unsigned before;

    pthread_mutex_lock(&rig->lock);
    before = rig->n_timer_ran;
    pthread_mutex_unlock(&rig->lock);
    io_timer_set(rig->timer, 0);
    pthread_mutex_lock(&rig->lock);
    while (rig->n_timer_ran == before)
        assert_int_not_equal(pthread_cond_timedwait(&rig->changed, &rig->lock, &deadline),
                             ETIMEDOUT);
    pthread_mutex_unlock(&rig->lock);
}

/* Bells are answered before timers in a turn of the loop, so a bell rung before the call has been
 * answered when the timer ran in the turn after the next. */
void rig_settle(struct rig *rig)
{
    settle_once(rig);
    settle_once(rig);
}

bool rig_level(struct rig *rig, unsigned line)
{
    bool level;

    pthread_mutex_lock(&rig->lock);
    level = rig->levels[line];
    pthread_mutex_unlock(&rig->lock);
    return level;
}

void rig_await(struct rig *rig, bool (*test)(void *opaque), void *opaque)
{
    struct timespec deadline = rig_deadline();
    struct timespec now;

    while (!test(opaque)) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        assert_true(now.tv_sec < deadline.tv_sec);
        rig_settle(rig);
    }
}

/* ---- registers ------------------------------------------------------------------------------- */

static uint64_t ecam(const struct drv *drv, unsigned offset)
{
    return RIG_ECAM_GPA + ((uint64_t)drv->slot << 15) + offset;
}

uint32_t drv_read(struct drv *drv, uint64_t gpa, unsigned size)
{
    uint64_t value = 0;

    assert_true(mmio_bus_read(drv->rig->bus, gpa, size, &value));
    return (uint32_t)value;
}

void drv_write(struct drv *drv, uint64_t gpa, unsigned size, uint32_t value)
{
    assert_true(mmio_bus_write(drv->rig->bus, gpa, size, value));
}

uint32_t drv_config_space_read(struct drv *drv, unsigned offset, unsigned size)
{
    return drv_read(drv, ecam(drv, offset), size);
}

void drv_config_space_write(struct drv *drv, unsigned offset, unsigned size, uint32_t value)
{
    drv_write(drv, ecam(drv, offset), size, value);
}

uint8_t drv_status(struct drv *drv)
{
    return (uint8_t)drv_read(drv, drv->common + VIRTIO_PCI_COMMON_STATUS, 1);
}

void drv_set_status(struct drv *drv, uint8_t status)
{
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_STATUS, 1, status);
}

uint8_t drv_read_isr(struct drv *drv)
{
    return (uint8_t)drv_read(drv, drv->isr, 1);
}

/* ---- bring-up -------------------------------------------------------------------------------- */

static void find_structures(struct drv *drv)
{
    unsigned cap = drv_config_space_read(drv, PCI_CAPABILITY_LIST, 1);

    while (cap) {
        uint32_t offset = drv_config_space_read(drv, cap + VIRTIO_PCI_CAP_OFFSET, 4);
        uint8_t type = (uint8_t)drv_config_space_read(drv, cap + VIRTIO_PCI_CAP_CFG_TYPE, 1);

        switch (drv_config_space_read(drv, cap, 1) == PCI_CAP_ID_VNDR ? type : 0) {
        case VIRTIO_PCI_CAP_COMMON_CFG:
            drv->common = drv->bar + offset;
            break;
        case VIRTIO_PCI_CAP_ISR_CFG:
            drv->isr = drv->bar + offset;
            break;
        case VIRTIO_PCI_CAP_DEVICE_CFG:
            drv->config = drv->bar + offset;
            break;
        case VIRTIO_PCI_CAP_NOTIFY_CFG:
            drv->notify = drv->bar + offset;
            drv->notify_multiplier =
                drv_config_space_read(drv, cap + VIRTIO_PCI_NOTIFY_CAP_MULT, 4);
            break;
        default:
            break;
        }
        cap = drv_config_space_read(drv, cap + 1, 1);
    }
    assert_true(drv->common && drv->isr && drv->notify);
}

void drv_probe(struct drv *drv, struct rig *rig, struct device *dev, unsigned slot)
{
    memset(drv, 0, sizeof(*drv));
    drv->rig = rig;
    drv->vdev = virtio_from_device(dev);
    drv->slot = slot;
    drv->bar = RIG_MMIO_GPA + slot * 0x10000;
    assert_int_equal(drv_config_space_read(drv, PCI_VENDOR_ID, 2), 0x1af4);
    drv_config_space_write(drv, PCI_BASE_ADDRESS_4, 4, (uint32_t)drv->bar);
    drv_config_space_write(drv, PCI_BASE_ADDRESS_5, 4, 0);
    drv_config_space_write(drv, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    find_structures(drv);
}

static bool is_reset(void *opaque)
{
    return drv_status(opaque) == 0;
}

void drv_negotiate(struct drv *drv, uint64_t features)
{
    drv_set_status(drv, 0);
    rig_await(drv->rig, is_reset, drv);
    drv_set_status(drv, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    drv_set_status(drv, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    drv->offered = 0;
    for (unsigned i = 0; i < 2; i++) {
        drv_write(drv, drv->common + VIRTIO_PCI_COMMON_DFSELECT, 4, i);
        drv->offered |= (uint64_t)drv_read(drv, drv->common + VIRTIO_PCI_COMMON_DF, 4) << (32 * i);
    }
    drv->features = (features & drv->offered) | VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
    for (unsigned i = 0; i < 2; i++) {
        drv_write(drv, drv->common + VIRTIO_PCI_COMMON_GFSELECT, 4, i);
        drv_write(drv, drv->common + VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(drv->features >> 32 * i));
    }
    drv_set_status(drv, drv_status(drv) | VIRTIO_CONFIG_S_FEATURES_OK);
    assert_true(drv_status(drv) & VIRTIO_CONFIG_S_FEATURES_OK);
}

void drv_setup_queue(struct drv *drv, unsigned index, uint16_t size)
{
    struct drv_queue *queue = &drv->queues[index];
    const struct {
        unsigned reg;
        uint64_t gpa;
    } addresses[] = {
        {VIRTIO_PCI_COMMON_Q_DESCLO, queue->desc = rig_alloc(drv->rig, size * 16u)},
        {VIRTIO_PCI_COMMON_Q_AVAILLO, queue->avail = rig_alloc(drv->rig, 6 + size * 2u)},
        {VIRTIO_PCI_COMMON_Q_USEDLO, queue->used = rig_alloc(drv->rig, 6 + size * 8u)},
    };

    queue->size = size;
    queue->avail_idx = queue->kicked_idx = queue->used_idx = queue->next_desc = 0;
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
    for (size_t i = 0; i < G_N_ELEMENTS(addresses); i++) {
        drv_write(drv, drv->common + addresses[i].reg, 4, (uint32_t)addresses[i].gpa);
        drv_write(drv, drv->common + addresses[i].reg + 4, 4, (uint32_t)(addresses[i].gpa >> 32));
    }
    drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    assert_int_equal(drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
}

void drv_ok(struct drv *drv)
{
    drv_set_status(drv, drv_status(drv) | VIRTIO_CONFIG_S_DRIVER_OK);
}

void drv_bring_up(struct drv *drv, uint64_t features)
{
    drv_negotiate(drv, features);
    for (unsigned i = 0; i < drv_read(drv, drv->common + VIRTIO_PCI_COMMON_NUMQ, 2); i++) {
        drv_write(drv, drv->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
        drv_setup_queue(drv, i, (uint16_t)drv_read(drv, drv->common + VIRTIO_PCI_COMMON_Q_SIZE, 2));
    }
    drv_ok(drv);
}

/* ---- rings ----------------------------------------------------------------------------------- */

static uint16_t *ring_u16(struct drv *drv, uint64_t gpa)
{
    return rig_host(drv->rig, gpa, 2);
}

static bool has(const struct drv *drv, unsigned feature)
{
    return (drv->features >> feature & 1) != 0;
}

static void put_desc(uint8_t *at, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
    struct vring_desc desc = {htole64(gpa), htole32(len), htole16(flags), htole16(next)};
    uint64_t words[2];

    memcpy(words, &desc, sizeof(desc));
    __atomic_store_n((uint64_t *)at, words[0], __ATOMIC_RELAXED);
    __atomic_store_n((uint64_t *)(at + 8), words[1], __ATOMIC_RELAXED);
}

void drv_write_desc(struct drv *drv, unsigned queue, uint16_t index, uint64_t gpa, uint32_t len,
                    uint16_t flags, uint16_t next)
{
    put_desc(rig_host(drv->rig, drv->queues[queue].desc + index * 16u, 16), gpa, len, flags, next);
}

void drv_publish(struct drv *drv, unsigned index, uint16_t head)
{
    struct drv_queue *queue = &drv->queues[index];
    uint64_t slot = queue->avail + 4 + 2u * (queue->avail_idx % queue->size);

    __atomic_store_n(ring_u16(drv, slot), htole16(head), __ATOMIC_RELAXED);
    queue->avail_idx++;
    __atomic_store_n(ring_u16(drv, queue->avail + 2), htole16(queue->avail_idx), __ATOMIC_SEQ_CST);
}

void drv_kick(struct drv *drv, unsigned index)
{
    struct drv_queue *queue = &drv->queues[index];
    uint16_t old = queue->kicked_idx;

    queue->kicked_idx = queue->avail_idx;
    if (has(drv, VIRTIO_RING_F_EVENT_IDX)) {
        uint16_t event = le16toh(
            __atomic_load_n(ring_u16(drv, queue->used + 4 + 8u * queue->size), __ATOMIC_SEQ_CST));
        if (!vring_need_event(event, queue->avail_idx, old))
            return;
    } else if (le16toh(__atomic_load_n(ring_u16(drv, queue->used), __ATOMIC_SEQ_CST)) &
               VRING_USED_F_NO_NOTIFY) {
        return;
    }
    drv_write(drv, drv->notify + index * drv->notify_multiplier, 2, index);
}

uint16_t drv_add(struct drv *drv, unsigned index, const struct drv_segment *segments, unsigned n)
{
    struct drv_queue *queue = &drv->queues[index];
    uint16_t head = queue->next_desc;

    for (unsigned i = 0; i < n; i++) {
        uint16_t at = queue->next_desc;
        uint16_t flags = (uint16_t)((segments[i].is_in ? VRING_DESC_F_WRITE : 0) |
                                    (i + 1 < n ? VRING_DESC_F_NEXT : 0));

        queue->next_desc = (uint16_t)((at + 1) % queue->size);
        drv_write_desc(drv, index, at, segments[i].gpa, segments[i].len, flags, queue->next_desc);
    }
    drv_publish(drv, index, head);
    return head;
}

uint16_t drv_add_indirect(struct drv *drv, unsigned index, const struct drv_segment *segments,
                          unsigned n)
{
    struct drv_queue *queue = &drv->queues[index];
    uint64_t table = rig_alloc(drv->rig, n * 16u);
    uint16_t head = queue->next_desc;

    for (unsigned i = 0; i < n; i++)
        put_desc(rig_host(drv->rig, table + i * 16u, 16), segments[i].gpa, segments[i].len,
                 (uint16_t)((segments[i].is_in ? VRING_DESC_F_WRITE : 0) |
                            (i + 1 < n ? VRING_DESC_F_NEXT : 0)),
                 (uint16_t)(i + 1));
    queue->next_desc = (uint16_t)((head + 1) % queue->size);
    drv_write_desc(drv, index, head, table, n * 16u, VRING_DESC_F_INDIRECT, 0);
    drv_publish(drv, index, head);
    return head;
}

bool drv_poll_used(struct drv *drv, unsigned index, uint32_t *head, uint32_t *len)
{
    struct drv_queue *queue = &drv->queues[index];
    uint16_t used = le16toh(__atomic_load_n(ring_u16(drv, queue->used + 2), __ATOMIC_SEQ_CST));
    uint32_t *element;

    if (used == queue->used_idx)
        return false;
    element = rig_host(drv->rig, queue->used + 4 + 8u * (queue->used_idx % queue->size), 8);
    *head = le32toh(__atomic_load_n(&element[0], __ATOMIC_RELAXED));
    *len = le32toh(__atomic_load_n(&element[1], __ATOMIC_RELAXED));
    queue->used_idx++;
    /* used_event: interrupt at the next one. */
    __atomic_store_n(ring_u16(drv, queue->avail + 4 + 2u * queue->size), htole16(queue->used_idx),
                     __ATOMIC_SEQ_CST);
    return true;
}

struct await_used {
    struct drv *drv;
    unsigned queue;
    uint32_t *head, *len;
};

static bool has_used(void *opaque)
{
    struct await_used *await = opaque;

    return drv_poll_used(await->drv, await->queue, await->head, await->len);
}

void drv_await_used(struct drv *drv, unsigned queue, uint32_t *head, uint32_t *len)
{
    struct await_used await = {drv, queue, head, len};

    rig_await(drv->rig, has_used, &await);
}

uint32_t drv_request(struct drv *drv, unsigned queue, const struct drv_segment *segments,
                     unsigned n)
{
    uint16_t added = drv_add(drv, queue, segments, n);
    uint32_t head, len;

    drv_kick(drv, queue);
    drv_await_used(drv, queue, &head, &len);
    assert_int_equal(head, added);
    return len;
}

static bool is_broken(void *opaque)
{
    return (drv_status(opaque) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
}

void drv_await_broken(struct drv *drv, const char *what)
{
    g_autofree char *fault = NULL;

    rig_await(drv->rig, is_broken, drv);
    pthread_mutex_lock(&drv->vdev->pci.dev.lock);
    fault = g_strdup(drv->vdev->fault);
    pthread_mutex_unlock(&drv->vdev->pci.dev.lock);
    if (!fault || !strstr(fault, what))
        fail_msg("broken by \"%s\", expected \"%s\"", fault ? fault : "(nothing)", what);
}
