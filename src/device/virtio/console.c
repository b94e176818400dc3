/* SPDX-License-Identifier: MIT */
/*
 * virtio-console: one port over a character back end.
 *
 * Model: VIRTIO 1.2, section 5.3, without MULTIPORT; EMERG_WRITE for early messages.
 *
 * Output that the back end does not take now stays in the ring: the chain is put back and tx_done
 * says how much of it has gone out, so a full back end makes the guest wait, and a move in the
 * middle of a chain neither loses nor repeats a byte. Input is taken from the back end only as far
 * as the driver has buffers for it.
 */
#include <endian.h>
#include <string.h>

#include <linux/virtio_console.h>

#include "device/virtio/virtio.h"

#define INPUT_MAX       4096u
/* GUEST: bounds one turn of the I/O loop. */
#define CHAINS_PER_TURN 64u

enum console_queue {
    CONSOLE_RX = 0,
    CONSOLE_TX,
};

struct console {
    struct virtio_device virtio;
    /* fixed after construction */
    struct chardev *chardev;
    /* guarded by the device lock; saved */
    uint32_t tx_done; /* bytes of the next chain that are out already */
    /* guarded by the device lock; not saved */
    bool is_tx_blocked;
};

static struct console *to_console(struct virtio_device *vdev)
{
    return (struct console *)vdev;
}

/* ---- output ---------------------------------------------------------------------------------- */

/* Writes what is left of the chain; false when the back end is full before its end. */
static bool write_chain(struct console *console, const struct virtqueue_chain *chain)
{
    struct iovec rest[VIRTQUEUE_MAX_SEGMENTS];
    uint32_t left = chain->out_bytes - MIN(console->tx_done, chain->out_bytes);
    unsigned n = virtqueue_slice(chain->iov, chain->n_out, console->tx_done, left, rest);

    for (unsigned i = 0; i < n; i++) {
        size_t took = chardev_write(console->chardev, rest[i].iov_base, rest[i].iov_len);

        console->tx_done += (uint32_t)took;
        if (took < rest[i].iov_len)
            return false;
    }
    console->tx_done = 0;
    return true;
}

static void handle_tx(struct virtio_device *vdev, struct virtqueue *queue)
{
    struct console *console = to_console(vdev);
    struct virtqueue_chain chain;
    unsigned n_done = 0;

    if (console->is_tx_blocked)
        return;
    virtqueue_disable_notify(queue);
    do {
        while (n_done < CHAINS_PER_TURN && virtio_take(vdev, queue, &chain)) {
            if (!write_chain(console, &chain)) {
                virtqueue_untake(queue);
                console->is_tx_blocked = true;
                break;
            }
            virtqueue_push(queue, chain.head, 0);
            n_done++;
        }
    } while (vdev->is_live && !console->is_tx_blocked && n_done < CHAINS_PER_TURN &&
             virtqueue_enable_notify(queue));
    if (!vdev->is_live)
        return;
    if (n_done)
        virtio_publish(vdev, queue);
    if (n_done == CHAINS_PER_TURN)
        virtio_kick_queue(vdev, CONSOLE_TX);
}

static void back_is_writable(void *opaque)
{
    struct console *console = opaque;

    console->is_tx_blocked = false;
    virtio_kick_queue(&console->virtio, CONSOLE_TX);
}

/* ---- input ----------------------------------------------------------------------------------- */

static size_t input_room(void *opaque)
{
    struct console *console = opaque;
    struct virtio_device *vdev = &console->virtio;
    struct virtqueue *queue = &vdev->queues[CONSOLE_RX];
    struct virtqueue_chain chain;

    for (;;) {
        if (virtio_take(vdev, queue, &chain)) {
            virtqueue_untake(queue);
            if (chain.in_bytes == 0)
                virtio_break(vdev, "a receive buffer of no size");
            return MIN(chain.in_bytes, INPUT_MAX);
        }
        if (!vdev->is_live || !virtqueue_enable_notify(queue))
            return 0;
    }
}

static void input(void *opaque, const uint8_t *bytes, size_t len)
{
    struct console *console = opaque;
    struct virtio_device *vdev = &console->virtio;
    struct virtqueue *queue = &vdev->queues[CONSOLE_RX];
    struct virtqueue_chain chain;

    while (len && virtio_take(vdev, queue, &chain)) {
        size_t here = virtqueue_chain_write(queue, &chain, 0, bytes, len);

        virtqueue_push(queue, chain.head, (uint32_t)here);
        bytes += here;
        len -= here;
    }
    if (vdev->is_live)
        virtio_publish(vdev, queue);
}

static void handle_rx(struct virtio_device *vdev, struct virtqueue *queue)
{
    virtqueue_disable_notify(queue);
    chardev_want_input(to_console(vdev)->chardev, true);
}

/* ---- configuration and life ------------------------------------------------------------------ */

static void get_config(struct virtio_device *vdev, uint8_t *bytes)
{
    struct virtio_console_config config = {.max_nr_ports = htole32(1)};

    memcpy(bytes, &config, sizeof(config));
}

static void set_config(struct virtio_device *vdev, unsigned offset, unsigned len,
                       const uint8_t *bytes)
{
    /* SPEC: 5.3.4: works before the driver has done anything else. */
    if (offset == offsetof(struct virtio_console_config, emerg_wr) && vdev->is_running)
        chardev_write(to_console(vdev)->chardev, bytes, 1);
}

static void reset(struct virtio_device *vdev)
{
    to_console(vdev)->tx_done = 0;
}

static void set_live(struct virtio_device *vdev, bool is_live)
{
    struct console *console = to_console(vdev);

    console->is_tx_blocked = false;
    if (!is_live)
        chardev_want_input(console->chardev, false);
}

static void console_free(struct device *dev)
{
    struct console *console = to_console(virtio_from_device(dev));

    chardev_clear_client(console->chardev);
    chardev_free(console->chardev);
    virtio_device_clear(&console->virtio);
    g_free(console);
}

static const struct virtio_queue_spec queues[] = {
    [CONSOLE_RX] = {"receive", 64, handle_rx},
    [CONSOLE_TX] = {"transmit", 64, handle_tx},
};

static const struct virtio_ops ops = {
    .device = {.type = "virtio-console", .free = console_free, VIRTIO_DEVICE_OPS},
    .id = VIRTIO_ID_CONSOLE,
    .class_code = 0x078000, /* communication controller, other */
    .config_bytes = sizeof(struct virtio_console_config),
    .n_queues = G_N_ELEMENTS(queues),
    .queues = queues,
    .get_config = get_config,
    .set_config = set_config,
    .reset = reset,
    .set_live = set_live,
};

static bool post_load(void *object, GError **error)
{
    struct console *console = object;

    return virtio_post_load(&console->virtio, error);
}

static const struct gw_field fields[] = {
    GW_STRUCT(struct console, virtio, &virtio_device_state),
    GW_U32(struct console, tx_done),
    GW_FIELDS_END,
};

static const struct gw_state_desc state = {
    .name = "virtio-console",
    .version = 1,
    .object_size = sizeof(struct console),
    .priority = GW_PRIORITY_DEVICE,
    .fields = fields,
    .post_load = post_load,
};

struct device *virtio_console_new(const struct virtio_config *config, struct chardev *chardev,
                                  GError **error)
{
    struct console *console = g_new0(struct console, 1);
    const struct chardev_client client = {
        .dev = &console->virtio.pci.dev,
        .input_room = input_room,
        .input = input,
        .writable = back_is_writable,
        .opaque = console,
    };

    console->chardev = chardev;
    if (!virtio_device_init(&console->virtio, &ops, config,
                            VIRTIO_FEATURE(VIRTIO_CONSOLE_F_EMERG_WRITE), &state, error)) {
        chardev_free(chardev);
        g_free(console);
        return NULL;
    }
    chardev_set_client(chardev, &client);
    return client.dev;
}
