/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk: a disk over a block back end.
 *
 * Model: VIRTIO 1.2, section 5.2. One queue. READ, WRITE, FLUSH, GET_ID, DISCARD and WRITE_ZEROES
 * with one range each. A request is a header the device reads, data, and a status byte at the end
 * of what it writes, in any split over descriptors.
 *
 * A request that cannot be done (out of range, unaligned, failing host) is answered with IOERR or
 * UNSUPP; only a request in which header or status cannot be found breaks the device.
 *
 * Caching: write-back. While the driver has switched it off (or does not know FLUSH), a write is
 * answered after the flush that follows it.
 *
 * Requests in flight hold the device (virtio_hold): stop and reset wait for them, and a saved disk
 * has none. What a guest has been told is done is in the file; flush() makes it durable.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include <linux/virtio_blk.h>

#include "device/virtio/virtio.h"

#define QUEUE_SIZE    128u
#define SEGMENTS_MAX  (QUEUE_SIZE - 2) /* header and status take one each */
#define SECTOR_BYTES  512u
#define RANGE_SECTORS (1u << 21) /* of one DISCARD or WRITE_ZEROES: 1 GiB */
#define CONFIG_BYTES  offsetof(struct virtio_blk_config, max_secure_erase_sectors)

struct blk;

/* One request of the driver, from virtio_take to the answer. */
struct request {
    struct blockdev_request io; /* first: io.done gets back to the request */
    struct blk *blk;
    struct request *next_free;
    uint32_t type;
    uint32_t data_bytes; /* of a read: what the driver gets besides the status */
    bool flushes_after;  /* write-through: a flush follows before the answer */
    struct virtqueue_chain chain;
    struct iovec data[VIRTQUEUE_MAX_SEGMENTS];
};

struct blk {
    struct virtio_device virtio;
    /* fixed after construction */
    struct blockdev *disk;
    struct blockdev_info info;
    char serial[VIRTIO_BLK_ID_BYTES];
    /* guarded by the device lock; saved */
    uint64_t capacity_sectors; /* fixed, must be the same on both sides */
    bool is_write_back;
    /* guarded by the device lock; not saved */
    struct request *free_requests;
    struct blockdev_request flush; /* of device_ops.flush */
    bool is_flushing;
    int flush_result;
};

static struct request *request_new(struct blk *blk)
{
    struct request *request = blk->free_requests;

    if (request)
        blk->free_requests = request->next_free;
    else
        request = g_new(struct request, 1);
    request->blk = blk;
    request->data_bytes = 0;
    request->flushes_after = false;
    memset(&request->io, 0, sizeof(request->io));
    return request;
}

static void request_free(struct request *request)
{
    request->next_free = request->blk->free_requests;
    request->blk->free_requests = request;
}

/* Answers and forgets the request. */
static void answer(struct request *request, uint8_t status)
{
    struct virtio_device *vdev = &request->blk->virtio;
    struct virtqueue *queue = &vdev->queues[0];
    const struct virtqueue_chain *chain = &request->chain;
    uint32_t written = 0;

    if (virtio_may_answer(vdev)) {
        virtqueue_chain_write(queue, chain, chain->in_bytes - 1, &status, 1);
        /* SPEC: 2.7.8.2: counts only what is written from the start without a gap. */
        if (request->data_bytes == chain->in_bytes - 1)
            written = chain->in_bytes;
        virtqueue_push(queue, chain->head, written);
        virtio_publish(vdev, queue);
    }
    request_free(request);
    virtio_release(vdev);
}

static void submit(struct request *request, enum blockdev_op op);

static void io_done(struct blockdev_request *io, int result)
{
    struct request *request = (struct request *)io;
    struct virtqueue *queue = &request->blk->virtio.queues[0];

    /* Even a failed read may have written some of the data. */
    if (io->op == BLOCKDEV_READ)
        virtqueue_note_data(queue, &request->chain, 0, request->chain.in_bytes - 1);
    if (result == 0 && request->flushes_after) {
        request->flushes_after = false;
        submit(request, BLOCKDEV_FLUSH);
        blockdev_kick(request->blk->disk);
        return;
    }
    if (result == 0 && request->type == VIRTIO_BLK_T_IN)
        request->data_bytes = request->chain.in_bytes - 1;
    answer(request, result == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
}

static void submit(struct request *request, enum blockdev_op op)
{
    request->io.op = op;
    request->io.done = io_done;
    blockdev_submit(request->blk->disk, &request->io);
}

/* GUEST: sector and length are the driver's. */
static bool set_range(struct request *request, uint64_t sector, uint64_t n_sectors)
{
    const struct blk *blk = request->blk;
    uint64_t block_sectors = blk->info.block_bytes / SECTOR_BYTES;

    if (sector > blk->capacity_sectors || n_sectors > blk->capacity_sectors - sector)
        return false;
    if (sector % block_sectors || n_sectors % block_sectors)
        return false;
    request->io.offset_bytes = sector * SECTOR_BYTES;
    request->io.len_bytes = n_sectors * SECTOR_BYTES;
    return true;
}

static bool is_write_through(const struct blk *blk)
{
    /* SPEC: 5.2.6.2 */
    if (virtio_has(&blk->virtio, VIRTIO_BLK_F_CONFIG_WCE))
        return !blk->is_write_back;
    return !virtio_has(&blk->virtio, VIRTIO_BLK_F_FLUSH);
}

/* Each returns the status to answer with at once, or SUBMITTED. */
#define SUBMITTED 0x100u

static unsigned do_transfer(struct request *request, uint64_t sector, bool is_write)
{
    struct blk *blk = request->blk;
    struct virtqueue_chain *chain = &request->chain;
    size_t len =
        is_write ? chain->out_bytes - sizeof(struct virtio_blk_outhdr) : chain->in_bytes - 1;

    if (is_write && blk->info.is_read_only)
        return VIRTIO_BLK_S_IOERR;
    if (len % SECTOR_BYTES || !set_range(request, sector, len / SECTOR_BYTES))
        return VIRTIO_BLK_S_IOERR;
    if (len == 0)
        return VIRTIO_BLK_S_OK;
    if (is_write)
        request->io.n_iov = virtqueue_slice(chain->iov, chain->n_out,
                                            sizeof(struct virtio_blk_outhdr), len, request->data);
    else
        request->io.n_iov =
            virtqueue_slice(chain->iov + chain->n_out, chain->n_in, 0, len, request->data);
    request->io.iov = request->data;
    request->flushes_after = is_write && is_write_through(blk);
    submit(request, is_write ? BLOCKDEV_WRITE : BLOCKDEV_READ);
    return SUBMITTED;
}

static unsigned do_flush(struct request *request)
{
    submit(request, BLOCKDEV_FLUSH);
    return SUBMITTED;
}

static unsigned do_get_id(struct request *request)
{
    uint32_t room = request->chain.in_bytes - 1;

    request->data_bytes = (uint32_t)virtqueue_chain_write(&request->blk->virtio.queues[0],
                                                          &request->chain, 0, request->blk->serial,
                                                          MIN(room, sizeof(request->blk->serial)));
    return VIRTIO_BLK_S_OK;
}

static unsigned do_zero(struct request *request, unsigned feature)
{
    struct blk *blk = request->blk;
    struct virtio_blk_discard_write_zeroes range;
    size_t head = sizeof(struct virtio_blk_outhdr);
    bool is_discard = feature == VIRTIO_BLK_F_DISCARD;
    uint32_t flags, n_sectors;

    if (!virtio_has(&blk->virtio, feature))
        return VIRTIO_BLK_S_UNSUPP;
    if (request->chain.out_bytes - head != sizeof(range) ||
        virtqueue_chain_read(&request->chain, head, &range, sizeof(range)) != sizeof(range))
        return VIRTIO_BLK_S_IOERR;
    flags = le32toh(range.flags);
    n_sectors = le32toh(range.num_sectors);
    /* SPEC: 5.2.6.2: unknown flags, and unmap in a discard, are not supported. */
    if (flags & ~(is_discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
        return VIRTIO_BLK_S_UNSUPP;
    if (n_sectors > RANGE_SECTORS || !set_range(request, le64toh(range.sector), n_sectors))
        return VIRTIO_BLK_S_IOERR;
    if (n_sectors == 0)
        return VIRTIO_BLK_S_OK;
    request->flushes_after = is_write_through(blk);
    submit(request, is_discard ? BLOCKDEV_DISCARD
                    : flags    ? BLOCKDEV_WRITE_ZEROES_UNMAP
                               : BLOCKDEV_WRITE_ZEROES);
    return SUBMITTED;
}

static unsigned execute(struct request *request, const struct virtio_blk_outhdr *header)
{
    uint64_t sector = le64toh(header->sector);

    request->type = le32toh(header->type);
    switch (request->type) {
    case VIRTIO_BLK_T_IN:
        return do_transfer(request, sector, false);
    case VIRTIO_BLK_T_OUT:
        return do_transfer(request, sector, true);
    case VIRTIO_BLK_T_FLUSH:
        return do_flush(request);
    case VIRTIO_BLK_T_GET_ID:
        return do_get_id(request);
    case VIRTIO_BLK_T_DISCARD:
        return do_zero(request, VIRTIO_BLK_F_DISCARD);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return do_zero(request, VIRTIO_BLK_F_WRITE_ZEROES);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

/* False: the device is broken now. Takes over the request. */
static bool start_request(struct request *request)
{
    struct virtio_device *vdev = &request->blk->virtio;
    struct virtio_blk_outhdr header;
    unsigned status;

    virtio_hold(vdev);
    if (request->chain.in_bytes == 0 ||
        virtqueue_chain_read(&request->chain, 0, &header, sizeof(header)) != sizeof(header)) {
        virtio_break(vdev, "a request of %u+%u bytes has no room for header and status",
                     request->chain.out_bytes, request->chain.in_bytes);
        request_free(request);
        virtio_release(vdev);
        return false;
    }
    status = execute(request, &header);
    if (status != SUBMITTED)
        answer(request, (uint8_t)status);
    return true;
}

static void handle_requests(struct virtio_device *vdev, struct virtqueue *queue)
{
    struct blk *blk = (struct blk *)vdev;
    unsigned n_taken = 0;

    virtqueue_disable_notify(queue);
    do {
        struct request *request = request_new(blk);

        while (virtio_take(vdev, queue, &request->chain)) {
            if (!start_request(request))
                goto kick;
            request = request_new(blk);
            /* GUEST: requests that are answered at once could go on for ever. */
            if (++n_taken == queue->size) {
                virtio_kick_queue(vdev, 0);
                request_free(request);
                goto kick;
            }
        }
        request_free(request);
    } while (vdev->is_live && virtqueue_enable_notify(queue));
kick:
    blockdev_kick(blk->disk);
}

/* ---- configuration --------------------------------------------------------------------------- */

static void get_config(struct virtio_device *vdev, uint8_t *bytes)
{
    const struct blk *blk = (const struct blk *)vdev;
    uint32_t block_bytes = blk->info.block_bytes;
    uint32_t physical = MAX(blk->info.physical_block_bytes, block_bytes);
    struct virtio_blk_config config = {
        .capacity = htole64(blk->capacity_sectors),
        .seg_max = htole32(SEGMENTS_MAX),
        .blk_size = htole32(block_bytes),
        .physical_block_exp = (uint8_t)__builtin_ctz(physical / block_bytes),
        .min_io_size = htole16((uint16_t)MIN(physical / block_bytes, UINT16_MAX)),
        .wce = blk->is_write_back,
        .num_queues = htole16(1),
        .max_discard_sectors = htole32(RANGE_SECTORS),
        .max_discard_seg = htole32(1),
        .discard_sector_alignment = htole32(physical / SECTOR_BYTES),
        .max_write_zeroes_sectors = htole32(RANGE_SECTORS),
        .max_write_zeroes_seg = htole32(1),
        .write_zeroes_may_unmap = blk->info.can_discard,
    };

    memcpy(bytes, &config, CONFIG_BYTES);
}

static void set_config(struct virtio_device *vdev, unsigned offset, unsigned len,
                       const uint8_t *bytes)
{
    struct blk *blk = (struct blk *)vdev;

    if (offset == offsetof(struct virtio_blk_config, wce) && len == 1 &&
        virtio_has(vdev, VIRTIO_BLK_F_CONFIG_WCE))
        blk->is_write_back = (bytes[0] & 1) != 0;
}

static void reset(struct virtio_device *vdev)
{
    struct blk *blk = (struct blk *)vdev;

    blk->is_write_back = true;
}

/* ---- life cycle ------------------------------------------------------------------------------ */

static void flush_done(struct blockdev_request *io, int result)
{
    struct blk *blk = (struct blk *)((char *)io - offsetof(struct blk, flush));

    blk->is_flushing = false;
    blk->flush_result = result;
    pthread_cond_broadcast(&blk->virtio.idle);
}

static bool await_flush(struct blk *blk, uint64_t deadline_ns, GError **error)
{
    struct device *dev = &blk->virtio.pci.dev;

    while (blk->is_flushing) {
        if (!virtio_wait(&blk->virtio, deadline_ns) && blk->is_flushing) {
            g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_TIMEOUT,
                        "%s: the disk is not flushed at the deadline", dev->id);
            return false;
        }
    }
    return true;
}

static bool blk_flush(struct device *dev, uint64_t deadline_ns, GError **error)
{
    struct blk *blk = (struct blk *)virtio_from_device(dev);

    /* One that missed its deadline earlier may not cover the latest writes. */
    if (!await_flush(blk, deadline_ns, error))
        return false;
    memset(&blk->flush, 0, sizeof(blk->flush));
    blk->flush.op = BLOCKDEV_FLUSH;
    blk->flush.done = flush_done;
    blk->is_flushing = true;
    blockdev_submit(blk->disk, &blk->flush);
    blockdev_kick(blk->disk);
    if (!await_flush(blk, deadline_ns, error))
        return false;
    if (blk->flush_result < 0) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_IO, "%s: flushing the disk failed: %s",
                    dev->id, g_strerror(-blk->flush_result));
        return false;
    }
    return true;
}

static void blk_free(struct device *dev)
{
    struct blk *blk = (struct blk *)virtio_from_device(dev);

    blockdev_free(blk->disk); /* its sources refer to the device */
    virtio_device_clear(&blk->virtio);
    while (blk->free_requests) {
        struct request *request = blk->free_requests;
        blk->free_requests = request->next_free;
        g_free(request);
    }
    g_free(blk);
}

static const struct virtio_queue_spec queues[] = {
    {"requests", QUEUE_SIZE, handle_requests},
};

static const struct virtio_ops ops = {
    .device = {.type = "virtio-blk", .flush = blk_flush, .free = blk_free, VIRTIO_DEVICE_OPS},
    .id = VIRTIO_ID_BLOCK,
    .class_code = 0x018000, /* mass storage, other */
    .config_bytes = CONFIG_BYTES,
    .n_queues = G_N_ELEMENTS(queues),
    .queues = queues,
    .get_config = get_config,
    .set_config = set_config,
    .reset = reset,
};

static bool post_load(void *object, GError **error)
{
    struct blk *blk = object;

    return virtio_post_load(&blk->virtio, error);
}

static const struct gw_field fields[] = {
    GW_STRUCT(struct blk, virtio, &virtio_device_state),
    GW_EQUAL_U64(struct blk, capacity_sectors),
    GW_BOOL(struct blk, is_write_back),
    GW_FIELDS_END,
};

static const struct gw_state_desc state = {
    .name = "virtio-blk",
    .version = 1,
    .object_size = sizeof(struct blk),
    .priority = GW_PRIORITY_DEVICE,
    .fields = fields,
    .post_load = post_load,
};

static uint64_t features(const struct blockdev_info *info)
{
    uint64_t set = VIRTIO_FEATURE(VIRTIO_BLK_F_SEG_MAX) | VIRTIO_FEATURE(VIRTIO_BLK_F_BLK_SIZE) |
                   VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH) | VIRTIO_FEATURE(VIRTIO_BLK_F_TOPOLOGY) |
                   VIRTIO_FEATURE(VIRTIO_BLK_F_CONFIG_WCE);

    if (info->is_read_only)
        return set | VIRTIO_FEATURE(VIRTIO_BLK_F_RO);
    if (info->can_discard)
        set |= VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD);
    return set | VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
}

struct device *virtio_blk_new(const struct virtio_config *config, struct blockdev *disk,
                              const char *serial, GError **error)
{
    struct blk *blk = g_new0(struct blk, 1);

    blk->disk = disk;
    blockdev_get_info(disk, &blk->info);
    blk->capacity_sectors = blk->info.size_bytes / SECTOR_BYTES;
    blk->is_write_back = true;
    if (serial) /* SPEC: 5.2.6.1: not terminated when all 20 bytes are used */
        memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
    if (!virtio_device_init(&blk->virtio, &ops, config, features(&blk->info), &state, error)) {
        blockdev_free(disk);
        g_free(blk);
        return NULL;
    }
    blockdev_set_client(disk, &blk->virtio.pci.dev);
    return &blk->virtio.pci.dev;
}
