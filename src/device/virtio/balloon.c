/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon: memory the guest can spare goes back to the host.
 *
 * Model: VIRTIO 1.2, section 5.5: inflate, deflate, statistics, free page reporting. Pages are
 * 4 KiB whatever the guest's own size. A page that was given up reads as zero when it is used
 * again, so deflating needs no work; discarding counts as a write for a dirty log.
 *
 * Queue numbers: the specification counts reporting as 4, after the free page hint queue 3; drivers
 * leave out the numbers of queues whose feature is not offered and use 3. As hints are not offered,
 * both numbers mean reporting.
 *
 * The driver's one statistics buffer stays in the available ring until it is asked to fill it
 * anew, so nothing is in flight when the device is saved.
 */
#include <endian.h>
#include <string.h>

#include <linux/virtio_balloon.h>

#include "device/virtio/virtio.h"

/* GUEST: bounds of one chain and of one turn of the I/O loop. */
#define PFNS_PER_CHAIN   4096u
#define PFNS_PER_TURN    4096u
#define CHAINS_PER_TURN  64u
#define STATS_PER_BUFFER 64u

_Static_assert(VIRTIO_BALLOON_N_STATS == VIRTIO_BALLOON_S_NR, "statistics of the public header");

enum balloon_queue {
    BALLOON_INFLATE = 0,
    BALLOON_DEFLATE,
    BALLOON_STATS,
    BALLOON_REPORT_COMPACT,
    BALLOON_REPORT,
};

struct balloon {
    struct virtio_device virtio;
    /* guarded by the device lock; saved */
    uint32_t target_pages;
    uint32_t actual_pages;
    uint64_t stats[VIRTIO_BALLOON_S_NR];
    /* guarded by the device lock; not saved */
    bool wants_stats; /* asked while there was no buffer */
};

static struct balloon *to_balloon(struct virtio_device *vdev)
{
    return (struct balloon *)vdev;
}

/* ---- inflate and deflate --------------------------------------------------------------------- */

/* A run of pages that is being collected, so that neighbours cost one call. */
struct run {
    struct gw_ram_block *block;
    uint64_t offset, len;
};

static void discard(struct run *run)
{
    /* Failing only means that the host does not get the memory back. */
    if (run->len)
        gw_memory_discard(run->block, run->offset, run->len, NULL);
    run->len = 0;
}

/* False: not RAM. */
static bool add_page(struct balloon *balloon, struct run *run, uint32_t pfn)
{
    uint64_t gpa = (uint64_t)pfn << VIRTIO_BALLOON_PFN_SHIFT;
    struct gw_ram_block *block = gw_memory_find(balloon->virtio.memory, gpa, GW_PAGE_SIZE);
    uint64_t offset;

    if (!block)
        return false;
    offset = gpa - block->gpa;
    if (run->len && block == run->block && offset == run->offset + run->len) {
        run->len += GW_PAGE_SIZE;
    } else if (run->len && block == run->block && offset + GW_PAGE_SIZE == run->offset) {
        run->offset = offset;
        run->len += GW_PAGE_SIZE;
    } else {
        discard(run);
        *run = (struct run){block, offset, GW_PAGE_SIZE};
    }
    return true;
}

static bool inflate(struct balloon *balloon, const struct virtqueue_chain *chain)
{
    unsigned n_pfns = chain->out_bytes / sizeof(uint32_t);
    struct run run = {0};

    if (n_pfns > PFNS_PER_CHAIN) {
        virtio_break(&balloon->virtio, "a list of %u pages", n_pfns);
        return false;
    }
    for (unsigned i = 0; i < n_pfns; i++) {
        uint32_t pfn;

        virtqueue_chain_read(chain, i * sizeof(pfn), &pfn, sizeof(pfn));
        if (!add_page(balloon, &run, le32toh(pfn))) {
            virtio_break(&balloon->virtio, "page 0x%x is not RAM", le32toh(pfn));
            return false; /* what was collected stays as it is */
        }
    }
    discard(&run);
    return true;
}

static void handle_inflate(struct virtio_device *vdev, struct virtqueue *queue)
{
    struct virtqueue_chain chain;
    unsigned n_pfns = 0;

    virtqueue_disable_notify(queue);
    do {
        while (n_pfns < PFNS_PER_TURN && virtio_take(vdev, queue, &chain)) {
            if (!inflate(to_balloon(vdev), &chain))
                return;
            virtqueue_push(queue, chain.head, 0);
            n_pfns += 1 + chain.out_bytes / (unsigned)sizeof(uint32_t);
        }
    } while (vdev->is_live && n_pfns < PFNS_PER_TURN && virtqueue_enable_notify(queue));
    if (!vdev->is_live)
        return;
    virtio_publish(vdev, queue);
    if (n_pfns >= PFNS_PER_TURN)
        virtio_kick_queue(vdev, BALLOON_INFLATE);
}

static uint32_t answer_deflate(struct virtio_device *vdev, struct virtqueue *queue,
                               const struct virtqueue_chain *chain)
{
    return 0;
}

static void handle_deflate(struct virtio_device *vdev, struct virtqueue *queue)
{
    virtio_answer_all(vdev, queue, answer_deflate);
}

/* ---- free page reporting --------------------------------------------------------------------- */

/* SPEC: 5.5.6.7: the buffers of a chain are free pages until the chain is used. */
static void discard_buffers(struct virtqueue *queue, const struct virtqueue_chain *chain)
{
    for (unsigned i = 0; i < chain->n_in; i++) {
        const struct iovec *segment = &chain->iov[chain->n_out + i];
        struct gw_ram_block *block;
        uint64_t begin, end;

        block = virtqueue_segment_block(queue, segment, &begin);
        if (!block)
            continue;
        end = (begin + segment->iov_len) & ~(GW_PAGE_SIZE - 1);
        begin = (begin + GW_PAGE_SIZE - 1) & ~(GW_PAGE_SIZE - 1);
        if (begin < end)
            gw_memory_discard(block, begin, end - begin, NULL);
    }
}

static void handle_report(struct virtio_device *vdev, struct virtqueue *queue)
{
    struct virtqueue_chain chain;
    unsigned n_chains = 0;

    if (!virtio_has(vdev, VIRTIO_BALLOON_F_REPORTING))
        return;
    virtqueue_disable_notify(queue);
    do {
        while (n_chains < CHAINS_PER_TURN && virtio_take(vdev, queue, &chain)) {
            discard_buffers(queue, &chain);
            virtqueue_push(queue, chain.head, 0);
            n_chains++;
        }
    } while (vdev->is_live && n_chains < CHAINS_PER_TURN && virtqueue_enable_notify(queue));
    if (!vdev->is_live)
        return;
    virtio_publish(vdev, queue);
    if (n_chains == CHAINS_PER_TURN)
        virtio_kick_queue(vdev, (unsigned)(queue - vdev->queues));
}

/* ---- statistics ------------------------------------------------------------------------------ */

static void parse_stats(struct balloon *balloon, const struct virtqueue_chain *chain)
{
    struct virtio_balloon_stat stat;

    for (unsigned i = 0; i < STATS_PER_BUFFER; i++) {
        uint16_t tag;

        if (virtqueue_chain_read(chain, i * sizeof(stat), &stat, sizeof(stat)) != sizeof(stat))
            return;
        tag = le16toh(stat.tag);
        if (tag < VIRTIO_BALLOON_S_NR)
            balloon->stats[tag] = le64toh(stat.val);
    }
}

/* GUEST: more than the one buffer there should be is left alone, not looked at again and again. */
static void await_stats(struct balloon *balloon, bool has_buffer)
{
    struct virtio_device *vdev = &balloon->virtio;

    if (vdev->is_live &&
        virtqueue_enable_notify_past(&vdev->queues[BALLOON_STATS], has_buffer ? 1 : 0) &&
        !has_buffer)
        virtio_kick_queue(vdev, BALLOON_STATS);
}

/* Gives the buffer back, which asks the driver to fill it. */
static void ask_stats(struct balloon *balloon)
{
    struct virtio_device *vdev = &balloon->virtio;
    struct virtqueue *queue = &vdev->queues[BALLOON_STATS];
    struct virtqueue_chain chain;

    balloon->wants_stats = !virtio_take(vdev, queue, &chain);
    if (!balloon->wants_stats) {
        virtqueue_push(queue, chain.head, 0);
        virtio_publish(vdev, queue);
    }
    await_stats(balloon, false);
}

static void handle_stats(struct virtio_device *vdev, struct virtqueue *queue)
{
    struct balloon *balloon = to_balloon(vdev);
    struct virtqueue_chain chain;
    bool has_buffer = virtio_take(vdev, queue, &chain);

    if (has_buffer) {
        parse_stats(balloon, &chain);
        virtqueue_untake(queue);
    }
    if (has_buffer && balloon->wants_stats)
        ask_stats(balloon);
    else
        await_stats(balloon, has_buffer);
}

/* ---- for the monitor ------------------------------------------------------------------------- */

void virtio_balloon_set_target(struct device *dev, uint64_t pages)
{
    struct balloon *balloon = to_balloon(virtio_from_device(dev));

    pthread_mutex_lock(&dev->lock);
    balloon->target_pages = (uint32_t)MIN(pages, UINT32_MAX);
    virtio_config_changed(&balloon->virtio);
    pthread_mutex_unlock(&dev->lock);
}

void virtio_balloon_get_info(struct device *dev, struct virtio_balloon_info *info)
{
    struct balloon *balloon = to_balloon(virtio_from_device(dev));

    pthread_mutex_lock(&dev->lock);
    info->target_pages = balloon->target_pages;
    info->actual_pages = balloon->actual_pages;
    memcpy(info->stats, balloon->stats, sizeof(info->stats));
    pthread_mutex_unlock(&dev->lock);
}

void virtio_balloon_ask_stats(struct device *dev)
{
    struct balloon *balloon = to_balloon(virtio_from_device(dev));

    pthread_mutex_lock(&dev->lock);
    if (balloon->virtio.is_live && virtio_has(&balloon->virtio, VIRTIO_BALLOON_F_STATS_VQ))
        ask_stats(balloon);
    pthread_mutex_unlock(&dev->lock);
}

/* ---- configuration and life ------------------------------------------------------------------ */

static void get_config(struct virtio_device *vdev, uint8_t *bytes)
{
    struct balloon *balloon = to_balloon(vdev);
    struct virtio_balloon_config config = {
        .num_pages = htole32(balloon->target_pages),
        .actual = htole32(balloon->actual_pages),
    };

    memcpy(bytes, &config, sizeof(config));
}

static void set_config(struct virtio_device *vdev, unsigned offset, unsigned len,
                       const uint8_t *bytes)
{
    uint32_t value;

    if (offset != offsetof(struct virtio_balloon_config, actual) || len != sizeof(value))
        return;
    memcpy(&value, bytes, sizeof(value));
    to_balloon(vdev)->actual_pages = le32toh(value);
}

static void forget_stats(struct balloon *balloon)
{
    memset(balloon->stats, 0xff, sizeof(balloon->stats));
}

static void reset(struct virtio_device *vdev)
{
    struct balloon *balloon = to_balloon(vdev);

    balloon->actual_pages = 0;
    balloon->wants_stats = false;
    forget_stats(balloon);
}

static void balloon_free(struct device *dev)
{
    struct balloon *balloon = to_balloon(virtio_from_device(dev));

    virtio_device_clear(&balloon->virtio);
    g_free(balloon);
}

static const struct virtio_queue_spec queues[] = {
    [BALLOON_INFLATE] = {"inflate", 128, handle_inflate},
    [BALLOON_DEFLATE] = {"deflate", 128, handle_deflate},
    [BALLOON_STATS] = {"statistics", 16, handle_stats},
    [BALLOON_REPORT_COMPACT] = {"report", 64, handle_report},
    [BALLOON_REPORT] = {"report", 64, handle_report},
};

static const struct virtio_ops ops = {
    .device = {.type = "virtio-balloon", .free = balloon_free, VIRTIO_DEVICE_OPS},
    .id = VIRTIO_ID_BALLOON,
    .class_code = 0x00ff00, /* unclassified */
    .config_bytes = sizeof(struct virtio_balloon_config),
    .n_queues = G_N_ELEMENTS(queues),
    .queues = queues,
    .get_config = get_config,
    .set_config = set_config,
    .reset = reset,
};

static bool post_load(void *object, GError **error)
{
    struct balloon *balloon = object;

    return virtio_post_load(&balloon->virtio, error);
}

static const struct gw_field fields[] = {
    GW_STRUCT(struct balloon, virtio, &virtio_device_state),
    GW_U32(struct balloon, target_pages),
    GW_U32(struct balloon, actual_pages),
    GW_U64_ARRAY(struct balloon, stats),
    GW_FIELDS_END,
};

static const struct gw_state_desc state = {
    .name = "virtio-balloon",
    .version = 1,
    .object_size = sizeof(struct balloon),
    .priority = GW_PRIORITY_DEVICE,
    .fields = fields,
    .post_load = post_load,
};

struct device *virtio_balloon_new(const struct virtio_config *config, GError **error)
{
    static const uint64_t features = VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ) |
                                     VIRTIO_FEATURE(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
                                     VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING);
    struct balloon *balloon = g_new0(struct balloon, 1);

    forget_stats(balloon);
    if (!virtio_device_init(&balloon->virtio, &ops, config, features, &state, error)) {
        g_free(balloon);
        return NULL;
    }
    return &balloon->virtio.pci.dev;
}
