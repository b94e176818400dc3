/* SPDX-License-Identifier: MIT */
/*
 * What every device is made of: identity, lock, life cycle, MMIO regions, interrupt lines, and the
 * I/O loop its host side runs on.
 *
 * Life cycle: create -> reset -> [load state] -> start -> stop -> start ... -> free.
 * Between start and stop a device may touch guest memory, raise interrupts and use host resources
 * on its own account (I/O loop sources, completions, timers). stop() makes it passive: it returns
 * when nothing of it runs any more and all it has promised to the guest is in guest memory and in
 * its state object. Then it can be saved. vCPUs are always stopped before devices and started
 * after them. What arrives from the host while stopped stays in the host's queues.
 *
 * Locks: device.lock is held around every callback of a device (MMIO, I/O loop source, timer,
 * reset, start, stop, save, load). Order: device.lock of a bus or function -> device.lock of an
 * interrupt controller -> nothing. Raising an interrupt is allowed with the lock held; calling
 * into another ordinary device is not. A device lock is never held over a blocking system call.
 *
 * Threads: MMIO callbacks run on vCPU threads; io_loop callbacks on the loop's thread.
 */
#ifndef GODWIT_DEVICE_DEVICE_H
#define GODWIT_DEVICE_DEVICE_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpu/guest_clock.h"
#include "godwit/memory.h"
#include "godwit/state.h"

#define GW_DEVICE_ERROR (gw_device_error_quark())
GQuark gw_device_error_quark(void);
enum gw_device_error {
    GW_DEVICE_ERROR_CONFIG = 1, /* an option or an address that cannot be */
    GW_DEVICE_ERROR_HOST,       /* the host refused a resource (file, socket, TAP) */
    GW_DEVICE_ERROR_TIMEOUT,    /* not passive, or not durable, before the deadline */
    GW_DEVICE_ERROR_IO,         /* reading or writing a host resource failed */
};

struct device;
struct latency_book; /* base/latency.h */
struct latency_probe;

/* Where a network device hands frames that came for a guest which has moved on. */
struct device_forward {
    /* With the device's lock held. is_last: nothing follows; n_bytes may be 0. */
    void (*frame)(void *opaque, struct device *dev, const void *frame, uint32_t n_bytes,
                  bool is_last);
    void *opaque;
};

/* What a device tells the machine it is part of; with the device's lock held, from any thread. */
struct device_host {
    void (*first_sent)(void *opaque, struct device *dev); /* the first frame since it arrived */
    void *opaque;
};

struct device_ops {
    const char *type; /* "ns16550a", "virtio-blk" */
    void (*reset)(struct device *dev);
    void (*start)(struct device *dev);
    /* Begins to become passive without waiting (NULL: stop does all). */
    void (*prepare_stop)(struct device *dev);
    /* Waits at most until deadline_ns (CLOCK_MONOTONIC); false with error: still active, and
     * start() will be called to go on as before. */
    bool (*stop)(struct device *dev, uint64_t deadline_ns, GError **error);
    /* Makes completed writes durable (disks). NULL: nothing to flush. Same contract as stop. */
    bool (*flush)(struct device *dev, uint64_t deadline_ns, GError **error);
    /* The guest arrived here by a move: tell the network where it is, once (the machine repeats
     * it). NULL: nothing to say. */
    void (*announce)(struct device *dev);
    /* A guest will come: waits, without the lock, until its host side works, at most until
     * deadline_ns. NULL: nothing to wait for. */
    void (*wait_ready)(struct device *dev, uint64_t deadline_ns);
    /* The next three: network devices, and a move (virtio/net_move.c); NULL for others. */
    /* Stopped, and the guest is another host's: frames go to `to` (copied) until the last was said.
     * False: it has none to hand on. NULL: says the last now if it has not; a start may follow. */
    bool (*forward)(struct device *dev, const struct device_forward *to);
    /* Stopped, and about to be started because the guest arrived: tells the network, if it will
     * run. expects_frames: the other host will hand on what comes there. True: the guest will send
     * something within moments. */
    bool (*arrive)(struct device *dev, bool is_running, bool expects_frames);
    /* A frame that was handed on. PEER: only its size is bounded. */
    void (*take_frame)(struct device *dev, const void *frame, uint32_t n_bytes, bool is_last);
    void (*free)(struct device *dev);
};

/* Embedded as first member in each device's own struct. */
struct device {
    /* fixed after construction */
    const struct device_ops *ops;
    char *id; /* unique and stable over versions: "uart0", "virtio-net/0"; state instances use it */
    const struct gw_state_desc *state; /* NULL: nothing to save */
    void *state_object;
    struct latency_probe *probe;
    const struct device_host *host; /* NULL: nobody to tell */
    pthread_mutex_t lock;
};

void device_init(struct device *dev, const struct device_ops *ops, const char *id,
                 const struct gw_state_desc *state, void *state_object);
void device_clear(struct device *dev);

/* The life cycle as the machine calls it: each takes dev->lock and calls the hook if there is one.
 */
void device_reset(struct device *dev);
void device_start(struct device *dev);
void device_prepare_stop(struct device *dev);
bool device_stop(struct device *dev, uint64_t deadline_ns, GError **error);
bool device_flush(struct device *dev, uint64_t deadline_ns, GError **error);
void device_announce(struct device *dev);
bool device_forward(struct device *dev, const struct device_forward *to);
bool device_arrive(struct device *dev, bool is_running, bool expects_frames);
void device_take_frame(struct device *dev, const void *frame, uint32_t n_bytes, bool is_last);
/* By a device, with its lock held. */
void device_tell_first_sent(struct device *dev);
void device_free(struct device *dev); /* NULL is fine; everything that may call it is stopped */

/* An output pin. set() is edge-free: it states the level. Copyable value. */
struct irq_line {
    void (*set)(void *opaque, unsigned number, bool level);
    void *opaque;
    unsigned number;
};
static inline void irq_set(const struct irq_line *irq, bool level)
{
    if (irq->set)
        irq->set(irq->opaque, irq->number, level);
}

/* ---- MMIO ------------------------------------------------------------------------------------ */

/* offset is relative to the region; size 1, 2, 4 or 8, naturally aligned (the bus refuses what is
 * not). Values are little-endian numbers. Called with dev->lock held. */
struct mmio_ops {
    uint64_t (*read)(struct device *dev, void *opaque, uint64_t offset, unsigned size);
    void (*write)(struct device *dev, void *opaque, uint64_t offset, unsigned size, uint64_t value);
    unsigned min_size, max_size; /* allowed access sizes; others read as zero, writes are dropped */
    /* May be NULL. Asked first for every write, without dev->lock: true when that was all. For
     * doorbells: sets atomics and rings bells, so that a vCPU never waits for the loop's work. */
    bool (*doorbell)(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                     uint64_t value);
};

struct mmio_bus;
struct mmio_region;
struct mmio_bus *mmio_bus_new(struct latency_book *book);
void mmio_bus_free(struct mmio_bus *bus);
/* Regions may not overlap (NULL with error). opaque is handed to the ops. A region may be added
 * unmapped (gpa UINT64_MAX) and moved later (PCI BARs), from any thread that holds dev->lock. */
struct mmio_region *mmio_bus_add(struct mmio_bus *bus, const char *name, struct device *dev,
                                 uint64_t gpa, uint64_t size, const struct mmio_ops *ops,
                                 void *opaque, GError **error);
/* What a hypervisor can do for a bus: a guest's write to a place signals a descriptor, and no vCPU
 * leaves the guest for it. Called with the bus' lock held; a refused attach only means that vCPUs
 * bring the write to the region as any other. */
struct mmio_wire_ops {
    bool (*attach)(void *opaque, uint64_t gpa, int fd);
    void (*detach)(void *opaque, uint64_t gpa, int fd);
};
/* Before regions are added. */
void mmio_bus_set_wires(struct mmio_bus *bus, const struct mmio_wire_ops *ops, void *opaque);
bool mmio_bus_has_wires(const struct mmio_bus *bus);
/* Writes of any size at offset signal fd (borrowed) from now on, wherever the region is mapped,
 * until mmio_region_unwire. At most MMIO_MAX_WIRES for a region; nothing without wires. */
#define MMIO_MAX_WIRES 8
void mmio_region_wire(struct mmio_region *region, uint64_t offset, int fd);
void mmio_region_unwire(struct mmio_region *region);
/* UINT64_MAX: unmap. False when another region is in the way: then it is not mapped until that
 * one goes. */
bool mmio_region_move(struct mmio_region *region, uint64_t gpa);
/* For cpu_bus_ops: false when no region answers. */
bool mmio_bus_read(struct mmio_bus *bus, uint64_t gpa, unsigned size, uint64_t *value);
bool mmio_bus_write(struct mmio_bus *bus, uint64_t gpa, unsigned size, uint64_t value);

/* ---- I/O loop ---------------------------------------------------------------------------------
 * One thread with a poll loop that runs the host side of all devices. The machine's main thread
 * (monitor, life cycle) is another one, so no device can block the monitor. */
struct io_loop;
struct io_loop *io_loop_new(const char *name, struct latency_book *book);
void io_loop_free(struct io_loop *loop);
/* Runs fn on the loop's thread; _sync waits for it (never call _sync with a device lock held). */
void io_loop_run(struct io_loop *loop, void (*fn)(void *opaque), void *opaque);
void io_loop_run_sync(struct io_loop *loop, void (*fn)(void *opaque), void *opaque);

/* File descriptor source; fn runs on the loop's thread with dev->lock held while enabled. */
struct io_source;
typedef void (*io_fn)(struct device *dev, void *opaque, unsigned poll_events);
struct io_source *io_source_new(struct io_loop *loop, struct device *dev, const char *name, int fd,
                                unsigned poll_events, io_fn fn, void *opaque);
/* Any thread; initially off. When disabled with dev->lock held, fn does not run until enabled. */
void io_source_enable(struct io_source *source, bool is_enabled);
/* Removes it; when it returns fn does not run and never will. Not with dev->lock held. NULL is
 * fine; so for bells and timers. All must be gone before io_loop_free. */
void io_source_free(struct io_source *source);

/* A doorbell: ring from any thread (vCPU), fn runs soon on the loop's thread with dev->lock held.
 * Several rings may be answered by one call. Initially enabled; rings while disabled are kept. */
struct io_bell;
struct io_bell *io_bell_new(struct io_loop *loop, struct device *dev, const char *name,
                            void (*fn)(struct device *dev, void *opaque), void *opaque);
void io_bell_ring(struct io_bell *bell);
void io_bell_enable(struct io_bell *bell, bool is_enabled);
void io_bell_free(struct io_bell *bell);

/* One-shot timer on CLOCK_MONOTONIC, absolute ns; UINT64_MAX = off. Same thread and lock rules. */
struct io_timer;
struct io_timer *io_timer_new(struct io_loop *loop, struct device *dev, const char *name,
                              void (*fn)(struct device *dev, void *opaque), void *opaque);
void io_timer_set(struct io_timer *timer, uint64_t deadline_ns);
void io_timer_free(struct io_timer *timer);

#endif
