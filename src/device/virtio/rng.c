/* SPDX-License-Identifier: MIT */
/*
 * virtio-rng: the host's random numbers.
 *
 * Model: VIRTIO 1.2, section 5.4. GUEST: a buffer may be gigabytes long; at most MAX_BYTES of each
 * are filled (SPEC 5.4.6.2: one byte or more), so that a request never keeps the I/O loop.
 *
 * getrandom does not block and does not fail once the host's generator is seeded, which is made
 * sure at construction.
 */
#include <errno.h>
#include <sys/random.h>

#include "device/virtio/virtio.h"

#define MAX_BYTES 4096u

struct rng {
    struct virtio_device virtio;
};

static uint32_t answer(struct virtio_device *vdev, struct virtqueue *queue,
                       const struct virtqueue_chain *chain)
{
    uint8_t bytes[MAX_BYTES];
    size_t wanted = MIN(chain->in_bytes, MAX_BYTES);
    ssize_t got;

    if (chain->in_bytes == 0) {
        virtio_break(vdev, "a request without room for random bytes");
        return 0;
    }
    got = getrandom(bytes, wanted, GRND_NONBLOCK);
    if (got <= 0)
        return 0;
    return (uint32_t)virtqueue_chain_write(queue, chain, 0, bytes, (size_t)got);
}

static void handle_requests(struct virtio_device *vdev, struct virtqueue *queue)
{
    virtio_answer_all(vdev, queue, answer);
}

static void rng_free(struct device *dev)
{
    struct rng *rng = (struct rng *)virtio_from_device(dev);

    virtio_device_clear(&rng->virtio);
    g_free(rng);
}

static const struct virtio_queue_spec queues[] = {
    {"requests", 64, handle_requests},
};

static const struct virtio_ops ops = {
    .device = {.type = "virtio-rng", .free = rng_free, VIRTIO_DEVICE_OPS},
    .id = VIRTIO_ID_RNG,
    .class_code = 0x00ff00, /* unclassified */
    .n_queues = G_N_ELEMENTS(queues),
    .queues = queues,
};

static bool post_load(void *object, GError **error)
{
    struct rng *rng = object;

    return virtio_post_load(&rng->virtio, error);
}

static const struct gw_field fields[] = {
    GW_STRUCT(struct rng, virtio, &virtio_device_state),
    GW_FIELDS_END,
};

static const struct gw_state_desc state = {
    .name = "virtio-rng",
    .version = 1,
    .object_size = sizeof(struct rng),
    .priority = GW_PRIORITY_DEVICE,
    .fields = fields,
    .post_load = post_load,
};

struct device *virtio_rng_new(const struct virtio_config *config, GError **error)
{
    struct rng *rng;
    uint8_t probe;

    if (getrandom(&probe, 1, GRND_NONBLOCK) != 1) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_HOST,
                    "%s: the host has no random numbers: %s", config->id, g_strerror(errno));
        return NULL;
    }
    rng = g_new0(struct rng, 1);
    if (!virtio_device_init(&rng->virtio, &ops, config, 0, &state, error)) {
        g_free(rng);
        return NULL;
    }
    return &rng->virtio.pci.dev;
}
