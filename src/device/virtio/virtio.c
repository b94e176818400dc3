/* SPDX-License-Identifier: MIT */
/*
 * The common part of virtio devices: see virtio.h.
 */
#include "device/virtio/virtio.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cond.h"
#include "base/fdio.h"
#include "device/pci_host.h"

#define STATUS_ALL                                                                                 \
    (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |          \
     VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)

void virtio_set_error(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (error)
        *error = g_error_new_valist(GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG, format, args);
    va_end(args);
}

/* ---- liveness -------------------------------------------------------------------------------- */

static bool should_be_live(const struct virtio_device *vdev)
{
    return vdev->is_running && !vdev->is_resetting &&
           (vdev->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && !virtio_is_broken(vdev) &&
           pci_function_is_bus_master(&vdev->pci);
}

void virtio_update_live(struct virtio_device *vdev)
{
    bool is_live = should_be_live(vdev);

    if (is_live == vdev->is_live)
        return;
    vdev->is_live = is_live;
    if (vdev->ops->set_live)
        vdev->ops->set_live(vdev, is_live);
    /* What was made available before counts as notified: nothing may be left lying. */
    if (is_live) {
        for (unsigned i = 0; i < vdev->n_queues; i++)
            virtio_kick_queue(vdev, i);
    }
}

void virtio_kick_queue(struct virtio_device *vdev, unsigned queue)
{
    /* ORDER: bell_rang takes the bits after the bell has been taken as rung. */
    __atomic_fetch_or(&vdev->pending, 1u << queue, __ATOMIC_RELEASE);
    io_bell_ring(vdev->bell);
}

static void bell_rang(struct device *dev, void *opaque)
{
    struct virtio_device *vdev = virtio_from_device(dev);

    if (!vdev->is_live)
        return; /* all queues are kicked when it comes alive */
    uint32_t pending = __atomic_exchange_n(&vdev->pending, 0, __ATOMIC_ACQUIRE);
    for (unsigned i = 0; i < vdev->n_queues; i++) {
        if (vdev->is_live && (pending >> i & 1) && vdev->queues[i].is_enabled)
            vdev->ops->queues[i].handle(vdev, &vdev->queues[i]);
    }
}

/* ---- notifications that reach the loop without a vCPU ---------------------------------------- */

static void wire_rang(struct device *dev, void *opaque, unsigned poll_events)
{
    struct virtio_wire *wire = opaque;
    struct virtio_device *vdev = virtio_from_device(dev);

    if (!fd_event_take(wire->fd))
        return;
    __atomic_fetch_or(&vdev->pending, 1u << (wire - vdev->wires), __ATOMIC_RELEASE);
    bell_rang(dev, NULL);
}

static bool add_wires(struct virtio_device *vdev, GError **error)
{
    while (mmio_bus_has_wires(pci_host_bus(vdev->pci.host)) && vdev->n_wires < vdev->n_queues) {
        struct virtio_wire *wire = &vdev->wires[vdev->n_wires];

        wire->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (wire->fd < 0) {
            g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_HOST, "%s: eventfd: %s",
                        vdev->pci.dev.id, g_strerror(errno));
            return false;
        }
        wire->source =
            io_source_new(vdev->loop, &vdev->pci.dev, "kick", wire->fd, POLLIN, wire_rang, wire);
        virtio_pci_wire_queue(vdev, vdev->n_wires++, wire->fd);
    }
    return true;
}

static void enable_wires(struct virtio_device *vdev, bool is_enabled)
{
    for (unsigned i = 0; i < vdev->n_wires; i++)
        io_source_enable(vdev->wires[i].source, is_enabled);
}

static void remove_wires(struct virtio_device *vdev)
{
    virtio_pci_unwire(vdev);
    for (; vdev->n_wires > 0; vdev->n_wires--) {
        io_source_free(vdev->wires[vdev->n_wires - 1].source);
        close(vdev->wires[vdev->n_wires - 1].fd);
    }
}

/* ---- requests that are kept ------------------------------------------------------------------ */

void virtio_hold(struct virtio_device *vdev)
{
    vdev->n_held++;
}

static void finish_reset(struct virtio_device *vdev);

void virtio_release(struct virtio_device *vdev)
{
    if (--vdev->n_held > 0)
        return;
    pthread_cond_broadcast(&vdev->idle);
    if (vdev->is_resetting)
        finish_reset(vdev);
}

/* ---- rules and interrupts -------------------------------------------------------------------- */

static void break_with(struct virtio_device *vdev, const char *reason)
{
    if (virtio_is_broken(vdev))
        return;
    vdev->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    g_free(vdev->fault);
    vdev->fault = g_strdup(reason);
    virtio_update_live(vdev);
    if (vdev->status & VIRTIO_CONFIG_S_DRIVER_OK)
        virtio_pci_interrupt(vdev, VIRTIO_ISR_CONFIG, vdev->config_vector);
}

void virtio_break(struct virtio_device *vdev, const char *format, ...)
{
    g_autofree char *reason = NULL;
    va_list args;

    va_start(args, format);
    reason = g_strdup_vprintf(format, args);
    va_end(args);
    break_with(vdev, reason);
}

static void break_queue(struct virtio_device *vdev, const struct virtqueue *queue,
                        const GError *error)
{
    unsigned index = (unsigned)(queue - vdev->queues);

    virtio_break(vdev, "queue %u (%s): %s", index, vdev->ops->queues[index].name, error->message);
}

bool virtio_take(struct virtio_device *vdev, struct virtqueue *queue, struct virtqueue_chain *chain)
{
    g_autoptr(GError) error = NULL;
    enum virtqueue_take took;

    if (!vdev->is_live)
        return false;
    took = virtqueue_take(queue, chain, &error);
    if (took == VIRTQUEUE_BROKEN)
        break_queue(vdev, queue, error);
    return took == VIRTQUEUE_TAKEN;
}

void virtio_publish(struct virtio_device *vdev, struct virtqueue *queue)
{
    if (!queue->is_mapped)
        return;
    virtqueue_publish(queue);
    if (virtqueue_wants_interrupt(queue))
        virtio_pci_interrupt(vdev, VIRTIO_ISR_QUEUE, queue->msix_vector);
}

void virtio_answer_all(struct virtio_device *vdev, struct virtqueue *queue, virtio_answer_fn answer)
{
    struct virtqueue_chain chain;
    unsigned n_done = 0;

    virtqueue_disable_notify(queue);
    do {
        while (virtio_take(vdev, queue, &chain)) {
            uint32_t written = answer(vdev, queue, &chain);

            if (virtio_is_broken(vdev))
                return;
            virtqueue_push(queue, chain.head, written);
            /* GUEST: a driver that refills as fast as we answer does not keep the loop. */
            if (++n_done >= queue->size) {
                virtio_publish(vdev, queue);
                virtio_kick_queue(vdev, (unsigned)(queue - vdev->queues));
                return;
            }
        }
    } while (vdev->is_live && virtqueue_enable_notify(queue));
    if (n_done)
        virtio_publish(vdev, queue);
}

void virtio_config_changed(struct virtio_device *vdev)
{
    vdev->config_generation++;
    if (vdev->status & VIRTIO_CONFIG_S_DRIVER_OK)
        virtio_pci_interrupt(vdev, VIRTIO_ISR_CONFIG, vdev->config_vector);
}

/* ---- status and queues ----------------------------------------------------------------------- */

static void finish_reset(struct virtio_device *vdev)
{
    vdev->is_resetting = false;
    if (vdev->ops->reset)
        vdev->ops->reset(vdev);
    vdev->status = 0;
    vdev->queue_select = 0;
    vdev->config_vector = VIRTIO_NO_VECTOR;
    vdev->device_feature_select = 0;
    vdev->driver_feature_select = 0;
    vdev->driver_features = 0;
    __atomic_store_n(&vdev->pending, 0, __ATOMIC_RELAXED);
    g_clear_pointer(&vdev->fault, g_free);
    for (unsigned i = 0; i < vdev->n_queues; i++)
        virtqueue_reset(&vdev->queues[i]);
    vdev->isr = 0;
    pci_function_set_intx(&vdev->pci, false);
}

/* SPEC: 2.4.1: the device is reset when the driver reads 0, which may be later. */
static void begin_reset(struct virtio_device *vdev)
{
    vdev->is_resetting = true;
    virtio_update_live(vdev);
    if (vdev->n_held == 0)
        finish_reset(vdev);
}

/* SPEC: 2.2, 6.1: only offered features, VERSION_1 among them. */
static bool are_features_acceptable(const struct virtio_device *vdev, uint64_t features)
{
    return (features & ~vdev->features_offered) == 0 && (features >> VIRTIO_F_VERSION_1 & 1);
}

void virtio_set_status(struct virtio_device *vdev, uint8_t status)
{
    uint8_t added = (uint8_t)(status & ~vdev->status & STATUS_ALL);

    if (vdev->is_resetting)
        return;
    if (status == 0) {
        begin_reset(vdev);
        return;
    }
    added &= (uint8_t)~VIRTIO_CONFIG_S_NEEDS_RESET;
    if ((added & VIRTIO_CONFIG_S_FEATURES_OK) &&
        !are_features_acceptable(vdev, vdev->driver_features))
        added &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
    /* SPEC: 3.1.1: no DRIVER_OK before the features are settled. */
    if (!((vdev->status | added) & VIRTIO_CONFIG_S_FEATURES_OK))
        added &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
    vdev->status |= added;
    if ((added & VIRTIO_CONFIG_S_FEATURES_OK) && vdev->ops->features_set)
        vdev->ops->features_set(vdev);
    virtio_update_live(vdev);
}

void virtio_enable_queue(struct virtio_device *vdev, unsigned index)
{
    struct virtqueue *queue = &vdev->queues[index];
    g_autoptr(GError) error = NULL;

    if (queue->is_enabled)
        return;
    if (!(vdev->status & VIRTIO_CONFIG_S_FEATURES_OK))
        return; /* SPEC: 3.1.1: ring features are not known yet */
    queue->is_enabled = true;
    if (!virtqueue_map(queue, vdev->driver_features, &error)) {
        queue->is_enabled = false;
        break_queue(vdev, queue, error);
        return;
    }
    if (vdev->is_live)
        virtio_kick_queue(vdev, index);
}

/* ---- life cycle ------------------------------------------------------------------------------ */

bool virtio_device_init(struct virtio_device *vdev, const struct virtio_ops *ops,
                        const struct virtio_config *config, uint64_t features,
                        const struct gw_state_desc *state, GError **error)
{
    vdev->ops = ops;
    vdev->memory = config->memory;
    vdev->loop = config->loop;
    vdev->features_offered = features | VIRTQUEUE_FEATURES | VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
    vdev->n_queues = (uint8_t)ops->n_queues;
    vdev->config_vector = VIRTIO_NO_VECTOR;
    for (unsigned i = 0; i < ops->n_queues; i++)
        virtqueue_init(&vdev->queues[i], config->memory, ops->queues[i].max_size);
    cond_init_mono(&vdev->idle);
    if (!virtio_pci_init(vdev, config, state, error) || !add_wires(vdev, error)) {
        virtio_device_clear(vdev);
        return false;
    }
    vdev->bell = io_bell_new(config->loop, &vdev->pci.dev, "queues", bell_rang, NULL);
    return true;
}

void virtio_device_clear(struct virtio_device *vdev)
{
    remove_wires(vdev);
    g_clear_pointer(&vdev->bell, io_bell_free);
    g_clear_pointer(&vdev->fault, g_free);
    pci_function_clear(&vdev->pci);
    pthread_cond_destroy(&vdev->idle);
}

void virtio_device_reset(struct device *dev)
{
    struct virtio_device *vdev = virtio_from_device(dev);

    /* The machine is stopped, so nothing is held and the reset is finished at once. */
    begin_reset(vdev);
    vdev->config_generation = 0;
    pci_function_reset(&vdev->pci);
}

void virtio_device_start(struct device *dev)
{
    struct virtio_device *vdev = virtio_from_device(dev);

    vdev->is_running = true;
    io_bell_enable(vdev->bell, true);
    enable_wires(vdev, true);
    virtio_update_live(vdev);
}

void virtio_device_prepare_stop(struct device *dev)
{
    struct virtio_device *vdev = virtio_from_device(dev);

    vdev->is_running = false;
    io_bell_enable(vdev->bell, false);
    enable_wires(vdev, false);
    virtio_update_live(vdev);
}

bool virtio_wait(struct virtio_device *vdev, uint64_t deadline_ns)
{
    return cond_wait_until(&vdev->idle, &vdev->pci.dev.lock, deadline_ns);
}

bool virtio_device_stop(struct device *dev, uint64_t deadline_ns, GError **error)
{
    struct virtio_device *vdev = virtio_from_device(dev);

    virtio_device_prepare_stop(dev);
    while (vdev->n_held) {
        if (!virtio_wait(vdev, deadline_ns) && vdev->n_held) {
            g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_TIMEOUT,
                        "%s: %u requests still in flight at the deadline", dev->id, vdev->n_held);
            return false;
        }
    }
    /* What a broken device had taken will never be answered; it must not keep the guest here. */
    for (unsigned i = 0; virtio_is_broken(vdev) && i < vdev->n_queues; i++)
        virtqueue_abandon(&vdev->queues[i]);
    return true;
}

/* ---- saved form ------------------------------------------------------------------------------ */

static bool refuse(GError **error, const char *what, uint64_t value)
{
    g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG, "%s (0x%" G_GINT64_MODIFIER "x)",
                what, value);
    return false;
}

static bool has_vector(const struct virtio_device *vdev, uint16_t vector)
{
    return vector == VIRTIO_NO_VECTOR || vector < vdev->pci.msix.n_vectors;
}

static bool validate(const void *shadow, GError **error)
{
    const struct virtio_device *vdev = shadow;
    bool are_features_settled = (vdev->status & VIRTIO_CONFIG_S_FEATURES_OK) != 0;

    if (are_features_settled && !are_features_acceptable(vdev, vdev->driver_features))
        return refuse(error, "accepted features that are not offered here",
                      vdev->driver_features & ~vdev->features_offered);
    if ((vdev->status & VIRTIO_CONFIG_S_DRIVER_OK) && !are_features_settled)
        return refuse(error, "status has DRIVER_OK without FEATURES_OK", vdev->status);
    if (!has_vector(vdev, vdev->config_vector))
        return refuse(error, "there is no such MSI-X vector", vdev->config_vector);
    for (unsigned i = 0; i < vdev->n_queues; i++) {
        if (vdev->queues[i].is_enabled && !are_features_settled)
            return refuse(error, "a queue is enabled before FEATURES_OK", i);
        if (!has_vector(vdev, vdev->queues[i].msix_vector))
            return refuse(error, "there is no such MSI-X vector", vdev->queues[i].msix_vector);
    }
    return true;
}

static const struct gw_field fields[] = {
    GW_STRUCT(struct virtio_device, pci, &pci_function_state),
    GW_U8(struct virtio_device, status, .mask = STATUS_ALL),
    GW_U8(struct virtio_device, isr, .mask = VIRTIO_ISR_QUEUE | VIRTIO_ISR_CONFIG),
    GW_U8(struct virtio_device, config_generation),
    GW_U16(struct virtio_device, queue_select),
    GW_U16(struct virtio_device, config_vector),
    GW_U32(struct virtio_device, device_feature_select),
    GW_U32(struct virtio_device, driver_feature_select),
    GW_U64(struct virtio_device, driver_features),
    GW_EQUAL_U8(struct virtio_device, n_queues),
    GW_STRUCT_VARRAY(struct virtio_device, queues, n_queues, &virtqueue_state),
    GW_FIELDS_END,
};

const struct gw_state_desc virtio_device_state = {
    .name = "virtio",
    .version = 1,
    .object_size = sizeof(struct virtio_device),
    .fields = fields,
    .validate = validate,
};

bool virtio_post_load(struct virtio_device *vdev, GError **error)
{
    pci_function_post_load(&vdev->pci);
    __atomic_store_n(&vdev->pending, 0, __ATOMIC_RELAXED);
    g_clear_pointer(&vdev->fault, g_free);
    if (virtio_is_broken(vdev))
        vdev->fault = g_strdup("broken before the move");
    for (unsigned i = 0; i < vdev->n_queues; i++) {
        struct virtqueue *queue = &vdev->queues[i];

        if (queue->is_enabled) {
            if (!virtqueue_map(queue, vdev->driver_features, error)) {
                g_prefix_error(error, "queue %u: ", i);
                return false;
            }
        } else {
            virtqueue_unmap(queue);
        }
    }
    return true;
}
