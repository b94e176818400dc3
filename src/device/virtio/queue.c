/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues: see queue.h for the model and the rules.
 */
#include "device/virtio/queue.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "device/virtio/virtio.h"

/* Byte offsets inside the rings. SPEC: VIRTIO 1.2, 2.7.5, 2.7.6, 2.7.8. */
#define DESC_BYTES      16u
#define AVAIL_IDX       2u
#define AVAIL_RING      4u
#define USED_FLAGS      0u
#define USED_IDX        2u
#define USED_RING       4u
#define USED_ELEM_BYTES 8u
#define DESC_ALIGN      16u
#define AVAIL_ALIGN     2u
#define USED_ALIGN      4u
#define MAX_CHAIN_BYTES UINT32_MAX

/* One descriptor, read once. */
struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

/* Where descriptors of the chain being walked stand. */
struct desc_table {
    const uint8_t *host;
    uint32_t n;
    bool is_indirect;
};

static uint16_t load_u16(const void *at)
{
    return le16toh(__atomic_load_n((const uint16_t *)at, __ATOMIC_RELAXED));
}

/* Where each side writes one word and then reads the other's. */
static uint16_t load_u16_in_order(const void *at)
{
    return le16toh(__atomic_load_n((const uint16_t *)at, __ATOMIC_SEQ_CST));
}

static void store_u16_in_order(void *at, uint16_t value)
{
    __atomic_store_n((uint16_t *)at, htole16(value), __ATOMIC_SEQ_CST);
}

static void store_u32(void *at, uint32_t value)
{
    __atomic_store_n((uint32_t *)at, htole32(value), __ATOMIC_RELAXED);
}

/* GUEST: indirect tables may have any alignment, so the entry is copied as bytes when needed. */
static struct desc load_desc(const uint8_t *at)
{
    uint64_t word[2];
    struct desc desc;
    uint64_t rest;

    if ((uintptr_t)at % sizeof(word[0]) == 0) {
        word[0] = __atomic_load_n((const uint64_t *)at, __ATOMIC_RELAXED);
        word[1] = __atomic_load_n((const uint64_t *)(at + 8), __ATOMIC_RELAXED);
    } else {
        memcpy(word, at, sizeof(word));
        __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the copy is not read a second time */
    }
    rest = le64toh(word[1]);
    desc.addr = le64toh(word[0]);
    desc.len = (uint32_t)rest;
    desc.flags = (uint16_t)(rest >> 32);
    desc.next = (uint16_t)(rest >> 48);
    return desc;
}

static void note_ring(const struct virtqueue_ring *ring, uint64_t offset, uint64_t len)
{
    gw_memory_note_write(ring->block, ring->offset + offset, len);
}

void virtqueue_init(struct virtqueue *queue, struct gw_memory *memory, uint16_t max_size)
{
    memset(queue, 0, sizeof(*queue));
    queue->memory = memory;
    queue->max_size = max_size;
    virtqueue_reset(queue);
}

void virtqueue_unmap(struct virtqueue *queue)
{
    queue->is_mapped = false;
    queue->has_news = false;
    queue->is_signalled_valid = false;
    queue->n_in_flight = 0;
    queue->n_unpublished = 0;
    memset(&queue->desc, 0, sizeof(queue->desc));
    memset(&queue->avail, 0, sizeof(queue->avail));
    memset(&queue->used, 0, sizeof(queue->used));
}

void virtqueue_reset(struct virtqueue *queue)
{
    queue->size = queue->max_size;
    queue->is_enabled = false;
    queue->desc_gpa = 0;
    queue->avail_gpa = 0;
    queue->used_gpa = 0;
    queue->next_avail = 0;
    queue->next_used = 0;
    queue->msix_vector = VIRTIO_NO_VECTOR;
    virtqueue_unmap(queue);
}

static bool map_ring(const struct virtqueue *queue, const char *name, uint64_t gpa, uint64_t bytes,
                     unsigned align, struct virtqueue_ring *ring, GError **error)
{
    struct gw_ram_block *block;

    if (gpa % align != 0) {
        virtio_set_error(error, "%s ring at 0x%" G_GINT64_MODIFIER "x is not aligned to %u bytes",
                         name, gpa, align);
        return false;
    }
    block = gw_memory_find(queue->memory, gpa, bytes);
    if (!block) {
        virtio_set_error(error, "%s ring at 0x%" G_GINT64_MODIFIER "x is not in RAM", name, gpa);
        return false;
    }
    ring->block = block;
    ring->offset = gpa - block->gpa;
    ring->host = block->host + ring->offset;
    return true;
}

bool virtqueue_map(struct virtqueue *queue, uint64_t features, GError **error)
{
    uint64_t size = queue->size;

    virtqueue_unmap(queue);
    queue->has_event_idx = (features >> VIRTIO_RING_F_EVENT_IDX & 1) != 0;
    queue->has_indirect = (features >> VIRTIO_RING_F_INDIRECT_DESC & 1) != 0;
    /* The event words behind the rings are included whether negotiated or not: SPEC 2.7. */
    queue->is_mapped =
        map_ring(queue, "descriptor", queue->desc_gpa, size * DESC_BYTES, DESC_ALIGN, &queue->desc,
                 error) &&
        map_ring(queue, "available", queue->avail_gpa, AVAIL_RING + size * 2 + 2, AVAIL_ALIGN,
                 &queue->avail, error) &&
        map_ring(queue, "used", queue->used_gpa, USED_RING + size * USED_ELEM_BYTES + 2, USED_ALIGN,
                 &queue->used, error);
    return queue->is_mapped;
}

/* Translates one buffer and appends its segments. */
static bool add_buffer(const struct virtqueue *queue, struct virtqueue_chain *chain,
                       const struct desc *desc, GError **error)
{
    bool is_in = (desc->flags & VRING_DESC_F_WRITE) != 0;
    uint32_t *total = is_in ? &chain->in_bytes : &chain->out_bytes;
    uint64_t gpa = desc->addr;
    uint64_t left = desc->len;

    if (!is_in && chain->n_in) {
        virtio_set_error(error, "a readable descriptor follows a writable one");
        return false;
    }
    if (left == 0) {
        virtio_set_error(error, "a descriptor has length 0");
        return false;
    }
    if (left > MAX_CHAIN_BYTES - (uint64_t)chain->in_bytes - chain->out_bytes) {
        virtio_set_error(error, "a descriptor chain is longer than 2^32-1 bytes");
        return false;
    }
    while (left) {
        struct gw_ram_block *block = gw_memory_find(queue->memory, gpa, 1);
        uint64_t here, offset;
        unsigned n = (unsigned)chain->n_out + chain->n_in;

        if (!block) {
            virtio_set_error(error,
                             "a buffer at 0x%" G_GINT64_MODIFIER "x (%u bytes) is not in RAM",
                             desc->addr, desc->len);
            return false;
        }
        if (n == VIRTQUEUE_MAX_SEGMENTS) {
            virtio_set_error(error, "a descriptor chain has more than %u segments",
                             VIRTQUEUE_MAX_SEGMENTS);
            return false;
        }
        offset = gpa - block->gpa;
        here = MIN(left, block->size_bytes - offset);
        chain->iov[n].iov_base = block->host + offset;
        chain->iov[n].iov_len = here;
        if (is_in)
            chain->n_in++;
        else
            chain->n_out++;
        gpa += here; /* cannot wrap unnoticed: no block reaches past 2^64, so find fails at 0 */
        left -= here;
    }
    *total += desc->len;
    return true;
}

/* Enters the indirect table that a descriptor refers to. */
static bool enter_indirect(const struct virtqueue *queue, const struct desc *desc,
                           struct desc_table *table, GError **error)
{
    if (!queue->has_indirect) {
        virtio_set_error(error, "an indirect descriptor without the feature");
        return false;
    }
    if (table->is_indirect) {
        virtio_set_error(error, "an indirect descriptor inside an indirect table");
        return false;
    }
    if (desc->flags & VRING_DESC_F_NEXT) {
        virtio_set_error(error, "an indirect descriptor with a next one");
        return false;
    }
    if (desc->len == 0 || desc->len % DESC_BYTES != 0) {
        virtio_set_error(error, "an indirect table of %u bytes", desc->len);
        return false;
    }
    table->host = gw_memory_host(queue->memory, desc->addr, desc->len);
    if (!table->host) {
        virtio_set_error(error,
                         "an indirect table at 0x%" G_GINT64_MODIFIER "x (%u bytes) is not in RAM",
                         desc->addr, desc->len);
        return false;
    }
    table->n = desc->len / DESC_BYTES;
    table->is_indirect = true;
    return true;
}

/* Walks the chain that starts at head. */
static bool walk_chain(const struct virtqueue *queue, struct virtqueue_chain *chain, GError **error)
{
    struct desc_table table = {.host = queue->desc.host, .n = queue->size};
    uint32_t index = chain->head;
    unsigned n_walked = 0;

    for (;;) {
        struct desc desc;

        if (index >= table.n) {
            virtio_set_error(error, "descriptor index %u in a table of %u", index, table.n);
            return false;
        }
        desc = load_desc(table.host + (size_t)index * DESC_BYTES);
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            if (!enter_indirect(queue, &desc, &table, error))
                return false;
            index = 0;
            continue;
        }
        /* SPEC: 2.7.5.3.1 bounds indirect chains by the queue size, too. Ends loops. */
        if (++n_walked > queue->size) {
            virtio_set_error(error, "a descriptor chain is longer than the queue (%u) or loops",
                             queue->size);
            return false;
        }
        if (!add_buffer(queue, chain, &desc, error))
            return false;
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return true;
        index = desc.next;
    }
}

enum virtqueue_take virtqueue_take(struct virtqueue *queue, struct virtqueue_chain *chain,
                                   GError **error)
{
    uint16_t avail_idx, n_avail, slot;

    if (!queue->is_mapped)
        return VIRTQUEUE_EMPTY;
    /* ORDER: acquire; pairs with the driver's release of the index after entry and descriptors. */
    avail_idx =
        le16toh(__atomic_load_n((uint16_t *)(queue->avail.host + AVAIL_IDX), __ATOMIC_ACQUIRE));
    n_avail = (uint16_t)(avail_idx - queue->next_avail);
    if (n_avail == 0)
        return VIRTQUEUE_EMPTY;
    if (n_avail > queue->size) {
        virtio_set_error(error, "available index %u is %u ahead of %u in a queue of %u", avail_idx,
                         n_avail, queue->next_avail, queue->size);
        return VIRTQUEUE_BROKEN;
    }
    if (queue->n_in_flight >= queue->size) {
        virtio_set_error(error, "more chains are in flight than the queue has descriptors (%u)",
                         queue->size);
        return VIRTQUEUE_BROKEN;
    }
    slot = queue->next_avail & (uint16_t)(queue->size - 1);
    chain->head = load_u16(queue->avail.host + AVAIL_RING + (size_t)slot * 2);
    chain->n_out = chain->n_in = 0;
    chain->out_bytes = chain->in_bytes = 0;
    if (!walk_chain(queue, chain, error))
        return VIRTQUEUE_BROKEN;
    queue->next_avail++;
    queue->n_in_flight++;
    return VIRTQUEUE_TAKEN;
}

bool virtqueue_is_empty(const struct virtqueue *queue)
{
    return !queue->is_mapped || load_u16(queue->avail.host + AVAIL_IDX) == queue->next_avail;
}

void virtqueue_untake(struct virtqueue *queue)
{
    queue->next_avail--;
    queue->n_in_flight--;
}

void virtqueue_abandon(struct virtqueue *queue)
{
    queue->next_avail = queue->next_used;
    queue->n_in_flight = 0;
    queue->n_unpublished = 0;
}

void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t written)
{
    uint16_t slot =
        (uint16_t)(queue->next_used + queue->n_unpublished) & (uint16_t)(queue->size - 1);
    uint64_t offset = USED_RING + (uint64_t)slot * USED_ELEM_BYTES;

    if (!queue->is_mapped)
        return;
    store_u32(queue->used.host + offset, head);
    store_u32(queue->used.host + offset + 4, written);
    note_ring(&queue->used, offset, USED_ELEM_BYTES);
    queue->n_unpublished++;
    queue->n_in_flight--;
}

void virtqueue_publish(struct virtqueue *queue)
{
    if (!queue->is_mapped || queue->n_unpublished == 0)
        return;
    queue->next_used = (uint16_t)(queue->next_used + queue->n_unpublished);
    queue->n_unpublished = 0;
    queue->has_news = true;
    /* ORDER: elements and data before the index (release, pairs with the driver's acquire), and the
     * index before the driver's wish in virtqueue_wants_interrupt (seq_cst). */
    store_u16_in_order(queue->used.host + USED_IDX, queue->next_used);
    note_ring(&queue->used, USED_IDX, 2);
}

bool virtqueue_wants_interrupt(struct virtqueue *queue)
{
    uint16_t old = queue->signalled_used;
    bool was_valid = queue->is_signalled_valid;
    uint16_t event;

    if (!queue->has_news)
        return false;
    queue->has_news = false;
    queue->signalled_used = queue->next_used;
    queue->is_signalled_valid = true;
    /* ORDER: our used index (virtqueue_publish) before the driver's wish; the driver writes its
     * wish, fences, and then looks at the used index (SPEC 2.7.14). One of both sees the other. */
    if (!queue->has_event_idx)
        return !(load_u16_in_order(queue->avail.host) & VRING_AVAIL_F_NO_INTERRUPT);
    event = load_u16_in_order(queue->avail.host + AVAIL_RING + (size_t)queue->size * 2);
    return !was_valid || vring_need_event(event, queue->next_used, old);
}

static void set_used_flags(struct virtqueue *queue, uint16_t flags)
{
    store_u16_in_order(queue->used.host + USED_FLAGS, flags);
    note_ring(&queue->used, USED_FLAGS, 2);
}

bool virtqueue_enable_notify_past(struct virtqueue *queue, unsigned n)
{
    uint16_t seen = (uint16_t)(queue->next_avail + n);

    if (!queue->is_mapped)
        return false;
    if (queue->has_event_idx) {
        uint64_t offset = USED_RING + (uint64_t)queue->size * USED_ELEM_BYTES;
        store_u16_in_order(queue->used.host + offset, seen);
        note_ring(&queue->used, offset, 2);
    } else {
        set_used_flags(queue, 0);
    }
    /* ORDER: our wish before the driver's index; the driver writes its index, fences, and then
     * looks at the wish (SPEC 2.7.13). One of both sees the other. */
    return load_u16_in_order(queue->avail.host + AVAIL_IDX) != seen;
}

bool virtqueue_enable_notify(struct virtqueue *queue)
{
    return virtqueue_enable_notify_past(queue, 0);
}

void virtqueue_disable_notify(struct virtqueue *queue)
{
    if (queue->is_mapped && !queue->has_event_idx)
        set_used_flags(queue, VRING_USED_F_NO_NOTIFY);
}

/* ---- data ------------------------------------------------------------------------------------ */

unsigned virtqueue_slice(const struct iovec *iov, unsigned n, size_t offset, size_t len,
                         struct iovec *to)
{
    unsigned n_to = 0;

    for (unsigned i = 0; i < n && len; i++) {
        size_t here;

        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        here = MIN(len, iov[i].iov_len - offset);
        to[n_to].iov_base = (uint8_t *)iov[i].iov_base + offset;
        to[n_to].iov_len = here;
        n_to++;
        offset = 0;
        len -= here;
    }
    return n_to;
}

size_t virtqueue_chain_read(const struct virtqueue_chain *chain, size_t offset, void *to,
                            size_t len)
{
    struct iovec part[VIRTQUEUE_MAX_SEGMENTS];
    unsigned n = virtqueue_slice(chain->iov, chain->n_out, offset, len, part);
    size_t done = 0;

    for (unsigned i = 0; i < n; i++) {
        memcpy((uint8_t *)to + done, part[i].iov_base, part[i].iov_len);
        done += part[i].iov_len;
    }
    return done;
}

/* Blocks are few, so a segment's is found again instead of being kept with each segment. */
struct gw_ram_block *virtqueue_segment_block(const struct virtqueue *queue,
                                             const struct iovec *segment, uint64_t *offset)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(queue->memory); i++) {
        struct gw_ram_block *block = gw_memory_block(queue->memory, i);

        *offset = (uint64_t)((uintptr_t)segment->iov_base - (uintptr_t)block->host);
        if (*offset < block->size_bytes)
            return block;
    }
    return NULL;
}

static void note_segment(const struct virtqueue *queue, const struct iovec *segment)
{
    uint64_t offset;
    struct gw_ram_block *block = virtqueue_segment_block(queue, segment, &offset);

    if (block)
        gw_memory_note_write(block, offset, segment->iov_len);
}

void virtqueue_note_data(struct virtqueue *queue, const struct virtqueue_chain *chain,
                         size_t offset, size_t len)
{
    struct iovec part[VIRTQUEUE_MAX_SEGMENTS];
    unsigned n = virtqueue_slice(chain->iov + chain->n_out, chain->n_in, offset, len, part);

    for (unsigned i = 0; i < n; i++)
        note_segment(queue, &part[i]);
}

size_t virtqueue_chain_write(struct virtqueue *queue, const struct virtqueue_chain *chain,
                             size_t offset, const void *from, size_t len)
{
    struct iovec part[VIRTQUEUE_MAX_SEGMENTS];
    unsigned n = virtqueue_slice(chain->iov + chain->n_out, chain->n_in, offset, len, part);
    size_t done = 0;

    for (unsigned i = 0; i < n; i++) {
        memcpy(part[i].iov_base, (const uint8_t *)from + done, part[i].iov_len);
        note_segment(queue, &part[i]);
        done += part[i].iov_len;
    }
    return done;
}

/* ---- saved form ------------------------------------------------------------------------------ */

static bool validate(const void *shadow, GError **error)
{
    const struct virtqueue *queue = shadow;
    struct virtqueue probe = *queue;

    if (queue->size == 0 || queue->size > queue->max_size || (queue->size & (queue->size - 1))) {
        virtio_set_error(error, "queue size %u is not a power of two up to %u", queue->size,
                         queue->max_size);
        return false;
    }
    /* Devices drain before they are saved, so nothing is in flight in a saved queue. */
    if (queue->next_avail != queue->next_used) {
        virtio_set_error(error, "queue has %u requests in flight, which cannot be restored",
                         (uint16_t)(queue->next_avail - queue->next_used));
        return false;
    }
    return !queue->is_enabled || virtqueue_map(&probe, 0, error);
}

static const struct gw_field fields[] = {
    GW_U16(struct virtqueue, size),
    GW_BOOL(struct virtqueue, is_enabled),
    GW_U64(struct virtqueue, desc_gpa),
    GW_U64(struct virtqueue, avail_gpa),
    GW_U64(struct virtqueue, used_gpa),
    GW_U16(struct virtqueue, next_avail),
    GW_U16(struct virtqueue, next_used),
    GW_U16(struct virtqueue, msix_vector),
    GW_FIELDS_END,
};

const struct gw_state_desc virtqueue_state = {
    .name = "virtqueue",
    .version = 1,
    .object_size = sizeof(struct virtqueue),
    .fields = fields,
    .validate = validate,
};
