/* SPDX-License-Identifier: MIT */
/*
 * What every virtio device is made of: status machine, feature negotiation, queues, interrupts,
 * life cycle and the common part of the saved state.
 *
 * Model: VIRTIO 1.2, sections 2 and 3, no legacy interface. virtio.c knows nothing of PCI
 * registers (pci.c) and nothing of what a device does (blk.c, net.c, ...).
 *
 * A device type supplies struct virtio_ops. Its handle_queue runs on the I/O loop's thread with
 * the device lock held, only while the device is live: DRIVER_OK, not broken, bus mastering on,
 * queue enabled, machine running.
 *
 * Life of a request: a device that keeps chains across callbacks (block requests in the kernel)
 * counts them with virtio_hold / virtio_release. Stopping and resetting wait until the count is
 * zero, so that a saved queue has nothing in flight and a reset device writes no guest memory.
 *
 * GUEST: a broken rule ends in virtio_break: DEVICE_NEEDS_RESET, a configuration interrupt, and no
 * queue is touched again until the driver resets the device. SPEC: 2.1.2.
 *
 * Threads: register accesses on vCPU threads, everything else on the I/O loop or the thread that
 * starts and stops the machine; the device lock is held throughout.
 */
#ifndef GODWIT_DEVICE_VIRTIO_VIRTIO_H
#define GODWIT_DEVICE_VIRTIO_VIRTIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include "device/pci.h"
#include "device/virtio/devices.h"
#include "device/virtio/queue.h"

#define VIRTIO_MAX_QUEUES       8
#define VIRTIO_NO_VECTOR        0xffff
/* Room for every device's configuration structure. */
#define VIRTIO_MAX_CONFIG_BYTES 128

#define VIRTIO_FEATURE(bit) (UINT64_C(1) << (bit))

struct virtio_device;

/* One row for each queue of a device type. */
struct virtio_queue_spec {
    const char *name;
    uint16_t max_size;
    void (*handle)(struct virtio_device *vdev, struct virtqueue *queue);
};

struct virtio_ops {
    struct device_ops device; /* filled by the type; VIRTIO_DEVICE_OPS gives the common ones */
    uint16_t id;              /* VIRTIO_ID_* */
    uint32_t class_code;
    uint16_t config_bytes; /* of the device-specific configuration */
    unsigned n_queues;
    const struct virtio_queue_spec *queues;
    /* Device-specific configuration, as the driver sees it now. config is config_bytes long. */
    void (*get_config)(struct virtio_device *vdev, uint8_t *config);
    /* The driver wrote len bytes at offset (inside config_bytes). NULL: all is read-only. */
    void (*set_config)(struct virtio_device *vdev, unsigned offset, unsigned len,
                       const uint8_t *bytes);
    /* Drops what the driver had set up; queues and features are reset after it. May be NULL. */
    void (*reset)(struct virtio_device *vdev);
    /* Features were accepted (FEATURES_OK). May be NULL. */
    void (*features_set)(struct virtio_device *vdev);
    /* The device begins or ceases to be active: start/stop of the machine, DRIVER_OK, reset,
     * breakage. Called with the new value on each change. May be NULL. */
    void (*set_live)(struct virtio_device *vdev, bool is_live);
};

/* First member of each device's own struct. */
struct virtio_device {
    struct pci_function pci;
    /* fixed after construction */
    const struct virtio_ops *ops;
    struct gw_memory *memory;
    struct io_loop *loop;
    struct io_bell *bell;
    uint64_t features_offered;
    uint8_t n_queues;
    pthread_cond_t idle; /* with the device lock: n_held fell to zero, a flush is done */
    struct virtio_wire {
        int fd; /* signalled by the guest's notification; n_wires of them */
        struct io_source *source;
    } wires[VIRTIO_MAX_QUEUES];
    unsigned n_wires; /* n_queues, or 0 where the bus has none */
    /* guarded by the device lock; saved */
    uint8_t status;
    uint8_t isr;
    uint8_t config_generation;
    uint16_t queue_select;
    uint16_t config_vector;
    uint32_t device_feature_select;
    uint32_t driver_feature_select;
    uint64_t driver_features;
    struct virtqueue queues[VIRTIO_MAX_QUEUES];
    /* guarded by the device lock; not saved */
    bool is_running;       /* between start and stop */
    bool is_resetting;     /* the driver wrote 0; done when nothing is held any more */
    bool is_live;          /* as told to set_live */
    unsigned n_held;       /* requests that are kept beyond a callback */
    char *fault;           /* why the device is broken, or NULL */
    uint8_t window_offset; /* of the configuration access capability in PCI configuration */
    /* atomic; set by any thread, taken by the loop: bit per queue to handle at the next bell */
    uint32_t pending;
};

/* state's object is vdev itself. */
bool virtio_device_init(struct virtio_device *vdev, const struct virtio_ops *ops,
                        const struct virtio_config *config, uint64_t features,
                        const struct gw_state_desc *state, GError **error);
/* Without the device lock. */
void virtio_device_clear(struct virtio_device *vdev);

/* The common device_ops; a type whose work is more calls these from its own. */
void virtio_device_reset(struct device *dev);
void virtio_device_start(struct device *dev);
void virtio_device_prepare_stop(struct device *dev);
bool virtio_device_stop(struct device *dev, uint64_t deadline_ns, GError **error);
#define VIRTIO_DEVICE_OPS                                                                          \
    .reset = virtio_device_reset, .start = virtio_device_start,                                    \
    .prepare_stop = virtio_device_prepare_stop, .stop = virtio_device_stop

static inline struct virtio_device *virtio_from_device(struct device *dev)
{
    return (struct virtio_device *)dev; /* device is first in pci_function, that in virtio_device */
}

static inline bool virtio_has(const struct virtio_device *vdev, unsigned feature)
{
    return (vdev->driver_features >> feature & 1) != 0;
}

/* ---- for device types ---- */

/* As virtqueue_take; a broken rule breaks the device and reads as VIRTQUEUE_EMPTY. */
bool virtio_take(struct virtio_device *vdev, struct virtqueue *queue,
                 struct virtqueue_chain *chain);
/* Publishes what was pushed and interrupts the driver if it wants that. */
void virtio_publish(struct virtio_device *vdev, struct virtqueue *queue);
/* For queues whose every chain can be answered at once: takes all there is, hands each to answer,
 * which returns the number of bytes written, and publishes. answer may break the device. */
typedef uint32_t (*virtio_answer_fn)(struct virtio_device *vdev, struct virtqueue *queue,
                                     const struct virtqueue_chain *chain);
void virtio_answer_all(struct virtio_device *vdev, struct virtqueue *queue,
                       virtio_answer_fn answer);
/* Handle the queue soon, as if the driver had notified. */
void virtio_kick_queue(struct virtio_device *vdev, unsigned queue);
/* The configuration the driver sees has changed: tells it. */
void virtio_config_changed(struct virtio_device *vdev);
/* The driver broke a rule. */
void virtio_break(struct virtio_device *vdev, const char *format, ...) G_GNUC_PRINTF(2, 3);
static inline bool virtio_is_broken(const struct virtio_device *vdev)
{
    return (vdev->status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
}
/* May a request taken earlier still be answered? Also true while stopping. */
static inline bool virtio_may_answer(const struct virtio_device *vdev)
{
    return !virtio_is_broken(vdev) && !vdev->is_resetting;
}
/* A request is kept beyond this callback. release may finish a reset: touch no queue after it. */
void virtio_hold(struct virtio_device *vdev);
void virtio_release(struct virtio_device *vdev);
/* Waits for pthread_cond_broadcast(&vdev->idle) with the device lock released; false: deadline. */
bool virtio_wait(struct virtio_device *vdev, uint64_t deadline_ns);

/* ---- between virtio.c and pci.c ---- */

/* The driver writes the status register; 0 resets. */
void virtio_set_status(struct virtio_device *vdev, uint8_t status);
void virtio_enable_queue(struct virtio_device *vdev, unsigned queue);
void virtio_update_live(struct virtio_device *vdev);
/* Makes BAR, capabilities and registers. */
bool virtio_pci_init(struct virtio_device *vdev, const struct virtio_config *config,
                     const struct gw_state_desc *state, GError **error);
#define VIRTIO_ISR_QUEUE  1u
#define VIRTIO_ISR_CONFIG 2u
/* By vector if the driver has enabled MSI-X, else by isr_bit and INTx. */
void virtio_pci_interrupt(struct virtio_device *vdev, uint8_t isr_bit, uint16_t vector);
/* A write to the queue's place in the notification structure signals fd (borrowed until unwire).
 * For buses that have wires. */
void virtio_pci_wire_queue(struct virtio_device *vdev, unsigned queue, int fd);
void virtio_pci_unwire(struct virtio_device *vdev);

/* GW_DEVICE_ERROR_CONFIG: a rule of the rings or registers is broken. */
void virtio_set_error(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Embed as GW_STRUCT(struct x, virtio, &virtio_device_state); validate is part of it, and
 * virtio_post_load must be called from x's post_load. */
extern const struct gw_state_desc virtio_device_state;
bool virtio_post_load(struct virtio_device *vdev, GError **error);

#endif
