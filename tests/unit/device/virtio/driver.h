/* SPDX-License-Identifier: MIT */
/*
 * A small machine (RAM, bus, PCI host, I/O loop) and a small virtio driver for tests.
 *
 * The driver reaches the device as a guest does: ECAM, BAR registers through the MMIO bus, rings in
 * guest memory, INTx. What it knows of the device's insides is nothing; tests that want to break a
 * rule write into the rings themselves.
 */
#ifndef GODWIT_TESTS_VIRTIO_DRIVER_H
#define GODWIT_TESTS_VIRTIO_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <linux/virtio_ring.h>

#include "device/virtio/virtio.h"

#define RIG_RAM_GPA    UINT64_C(0x80000000)
#define RIG_RAM_BYTES  (UINT64_C(4) << 20)
/* A second block that follows the first without a gap. */
#define RIG_HIGH_GPA   (RIG_RAM_GPA + RIG_RAM_BYTES)
#define RIG_HIGH_BYTES (UINT64_C(1) << 20)
#define RIG_ECAM_GPA   UINT64_C(0x30000000)
#define RIG_MMIO_GPA   UINT64_C(0x40000000)
#define RIG_DEADLINE_S 20

struct drv;

struct rig {
    struct gw_memory *memory;
    struct gw_ram_block *ram, *high;
    struct mmio_bus *bus;
    struct pci_host *host;
    struct io_loop *loop;
    struct device clock; /* has the settling timer */
    struct io_timer *timer;
    uint64_t next_free_gpa; /* bump allocator of guest memory */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* A gate that the loop waits at after the bells that are older than it. */
    struct io_bell *gate;
    unsigned n_arrived;   /* guarded by lock: at the gate so far */
    unsigned n_passes;    /* guarded by lock: allowed through so far */
    bool levels[4];       /* guarded by lock: INTx lines */
    unsigned n_edges[4];  /* guarded by lock: rises */
    unsigned n_timer_ran; /* guarded by lock */
};

struct rig *rig_new(void);
/* With what a hypervisor offers: an MSI controller, wires for notifications. Either may be NULL. */
struct rig *rig_new_wired(const struct msi_controller *msi, const struct mmio_wire_ops *wires,
                          void *wires_opaque);
void rig_free(struct rig *rig);
struct virtio_config rig_config(struct rig *rig, const char *id, unsigned slot);
/* Guest memory, zeroed, aligned to a page if large. */
uint64_t rig_alloc(struct rig *rig, uint64_t bytes);
void *rig_host(struct rig *rig, uint64_t gpa, uint64_t bytes);
/* Returns when everything that was rung before has been handled by the I/O loop. */
void rig_settle(struct rig *rig);
/* Lets the loop do one round of bells (rung before) and then wait, before it looks at descriptors:
 * what was submitted to the host cannot complete until rig_open_gate. */
void rig_shut_gate(struct rig *rig, struct drv *drv, unsigned queue);
void rig_open_gate(struct rig *rig);
/* The level of an INTx line. */
bool rig_level(struct rig *rig, unsigned line);
/* Waits until test is true, looking again after every interrupt and every settling. */
void rig_await(struct rig *rig, bool (*test)(void *opaque), void *opaque);

struct drv_segment {
    uint64_t gpa;
    uint32_t len;
    bool is_in;
};

struct drv_queue {
    uint16_t size;
    uint64_t desc, avail, used;
    uint16_t avail_idx;  /* published */
    uint16_t kicked_idx; /* avail_idx at the last kick */
    uint16_t used_idx;   /* seen */
    uint16_t next_desc;  /* descriptors are used round robin */
};

/* The driver's side; copyable, so that a second device can go on where the first was. */
struct drv {
    struct rig *rig;
    struct virtio_device *vdev; /* for the test's eyes only */
    unsigned slot;
    uint64_t bar, common, isr, notify, config;
    uint32_t notify_multiplier;
    uint64_t offered, features;
    struct drv_queue queues[VIRTIO_MAX_QUEUES];
};

/* Finds the device in its slot, maps the BAR, finds the structures. Asserts that all is there. */
void drv_probe(struct drv *drv, struct rig *rig, struct device *dev, unsigned slot);
/* Reset, features (VERSION_1 added; masked by what is offered), FEATURES_OK. */
void drv_negotiate(struct drv *drv, uint64_t features);
void drv_setup_queue(struct drv *drv, unsigned index, uint16_t size);
void drv_ok(struct drv *drv);
/* All of it: wanted features, all queues at the offered size, DRIVER_OK. */
void drv_bring_up(struct drv *drv, uint64_t features);

uint32_t drv_config_space_read(struct drv *drv, unsigned offset, unsigned size);
void drv_config_space_write(struct drv *drv, unsigned offset, unsigned size, uint32_t value);
uint32_t drv_read(struct drv *drv, uint64_t gpa, unsigned size);
void drv_write(struct drv *drv, uint64_t gpa, unsigned size, uint32_t value);
uint8_t drv_status(struct drv *drv);
void drv_set_status(struct drv *drv, uint8_t status);
uint8_t drv_read_isr(struct drv *drv);

/* Ring primitives. */
void drv_write_desc(struct drv *drv, unsigned queue, uint16_t index, uint64_t gpa, uint32_t len,
                    uint16_t flags, uint16_t next);
/* Puts head into the available ring and publishes it. */
void drv_publish(struct drv *drv, unsigned queue, uint16_t head);
void drv_kick(struct drv *drv, unsigned queue);
/* Chains segments in descriptors, publishes; returns the head. */
uint16_t drv_add(struct drv *drv, unsigned queue, const struct drv_segment *segments, unsigned n);
uint16_t drv_add_indirect(struct drv *drv, unsigned queue, const struct drv_segment *segments,
                          unsigned n);
/* The next used element, if there is one. */
bool drv_poll_used(struct drv *drv, unsigned queue, uint32_t *head, uint32_t *len);
/* Waits for it. */
void drv_await_used(struct drv *drv, unsigned queue, uint32_t *head, uint32_t *len);
/* add, kick, wait; returns the used length and checks the head. */
uint32_t drv_request(struct drv *drv, unsigned queue, const struct drv_segment *segments,
                     unsigned n);
/* Waits for NEEDS_RESET and checks that the reason contains what. */
void drv_await_broken(struct drv *drv, const char *what);

#endif
