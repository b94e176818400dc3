/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues: taking descriptor chains out of guest memory and giving them back.
 *
 * Model: Virtual I/O Device (VIRTIO) 1.2, section 2.7, with INDIRECT_DESC and EVENT_IDX.
 *
 * GUEST: rings, descriptors and indirect tables are written by the guest at any time, also while
 * they are read. Every value is loaded once into a local, checked, then used. A chain has at most
 * `size` descriptors (which also ends loops), each inside RAM and not empty, readable ones before
 * writable ones, together at most 2^32-1 bytes; indirect tables do not nest. A broken rule is an
 * error for the caller, who stops the device; the queue keeps nothing of a refused chain.
 *
 * ORDER: the driver's index is loaded with acquire before entries and descriptors; our index is
 * stored with release after elements and data. Where each side writes one word and reads the
 * other's (event indexes), both accesses are sequentially consistent: see virtqueue_enable_notify
 * and virtqueue_wants_interrupt. Partner: the driver's fences required by sections 2.7.13
 * and 2.7.14.
 *
 * Dirty pages: whatever is written here is noted after writing. Data that a device wrote through
 * a chain's iovec is noted by virtqueue_note_data before virtqueue_push.
 *
 * Threads, locks: the owner's device lock guards everything here.
 */
#ifndef GODWIT_DEVICE_VIRTIO_QUEUE_H
#define GODWIT_DEVICE_VIRTIO_QUEUE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include <linux/virtio_ring.h>

#include "godwit/memory.h"
#include "godwit/state.h"

#define VIRTQUEUE_MAX_SIZE     256
/* One more segment for each place where a buffer crosses from one RAM block into the next. */
#define VIRTQUEUE_MAX_SEGMENTS (VIRTQUEUE_MAX_SIZE + 16)
/* SPEC: 2.7.5.3; offered by every device here. */
#define VIRTQUEUE_FEATURES                                                                         \
    (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC | UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)

/* A ring's place in guest memory. */
struct virtqueue_ring {
    struct gw_ram_block *block;
    uint8_t *host;
    uint64_t offset; /* of host in block */
};

struct virtqueue {
    /* fixed after construction */
    struct gw_memory *memory;
    uint16_t max_size; /* power of two, what the device offers */
    /* saved */
    uint16_t size;
    bool is_enabled;
    uint64_t desc_gpa;
    uint64_t avail_gpa;
    uint64_t used_gpa;
    uint16_t next_avail; /* free-running: the next entry to take */
    uint16_t next_used;  /* free-running: the next element to publish */
    uint16_t msix_vector;
    /* derived */
    bool has_event_idx;
    bool has_indirect;
    bool is_mapped;
    bool has_news;           /* published since the last interrupt decision */
    bool is_signalled_valid; /* signalled_used is the index at the last interrupt decision */
    uint16_t signalled_used;
    uint16_t n_in_flight;   /* taken, not pushed */
    uint16_t n_unpublished; /* pushed, not published */
    struct virtqueue_ring desc, avail, used;
};

/* A request of the driver, translated. Segments are host addresses in guest RAM: first n_out that
 * the device reads, then n_in that it writes. */
struct virtqueue_chain {
    uint16_t head;
    uint16_t n_out;
    uint16_t n_in;
    uint32_t out_bytes;
    uint32_t in_bytes;
    struct iovec iov[VIRTQUEUE_MAX_SEGMENTS];
};

enum virtqueue_take {
    VIRTQUEUE_BROKEN = -1,
    VIRTQUEUE_EMPTY = 0,
    VIRTQUEUE_TAKEN = 1,
};

void virtqueue_init(struct virtqueue *queue, struct gw_memory *memory, uint16_t max_size);
/* To the state after a device reset: disabled, addresses 0, size max_size. */
void virtqueue_reset(struct virtqueue *queue);
/* Finds the rings in RAM; needed once is_enabled is set, and after loading. features: what was
 * negotiated. Fails (unmapped, with error) on misaligned rings or rings that are not in RAM. */
bool virtqueue_map(struct virtqueue *queue, uint64_t features, GError **error);
void virtqueue_unmap(struct virtqueue *queue);

/* Takes the next chain. VIRTQUEUE_BROKEN sets error. */
enum virtqueue_take virtqueue_take(struct virtqueue *queue, struct virtqueue_chain *chain,
                                   GError **error);
/* Is nothing available? A hint for the device's convenience: virtqueue_take judges. */
bool virtqueue_is_empty(const struct virtqueue *queue);
/* Puts the chain taken last back, as if never taken. */
void virtqueue_untake(struct virtqueue *queue);
/* Forgets what was taken and not published; for a broken device only. */
void virtqueue_abandon(struct virtqueue *queue);
/* Returns a chain to the driver; written is the number of bytes the device wrote from the start
 * of its writable part. The driver does not see it before virtqueue_publish. */
void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t written);
void virtqueue_publish(struct virtqueue *queue);
/* After virtqueue_publish: does the driver want an interrupt for what was published since the
 * last call? */
bool virtqueue_wants_interrupt(struct virtqueue *queue);

/* Asks the driver for notifications. True: something is available already, so look again. */
bool virtqueue_enable_notify(struct virtqueue *queue);
/* The same for a device that has seen n available chains, which do not suffice. */
bool virtqueue_enable_notify_past(struct virtqueue *queue, unsigned n);
/* A hint; the driver may notify nevertheless. */
void virtqueue_disable_notify(struct virtqueue *queue);

/* Copies len bytes at offset of the part the device reads; returns the count, cut at its end. */
size_t virtqueue_chain_read(const struct virtqueue_chain *chain, size_t offset, void *to,
                            size_t len);
/* Copies into the part the device writes and notes it; returns the count, cut at its end. */
size_t virtqueue_chain_write(struct virtqueue *queue, const struct virtqueue_chain *chain,
                             size_t offset, const void *from, size_t len);
/* len bytes at offset of the writable part were written by other means (readv, io_uring). */
void virtqueue_note_data(struct virtqueue *queue, const struct virtqueue_chain *chain,
                         size_t offset, size_t len);
/* The block that a segment of a chain lies in. */
struct gw_ram_block *virtqueue_segment_block(const struct virtqueue *queue,
                                             const struct iovec *segment, uint64_t *offset);
/* The range [offset, offset+len) of n segments as segments of its own; returns their number. to
 * has room for n entries. */
unsigned virtqueue_slice(const struct iovec *iov, unsigned n, size_t offset, size_t len,
                         struct iovec *to);

extern const struct gw_state_desc virtqueue_state;

#endif
