/* SPDX-License-Identifier: MIT */
/*
 * A hostile driver for any virtio device: its registers, its rings, its buffers, at any time.
 *
 * Input: a list of steps, each u8 (modulo the number of steps) and what fuzz_virtio.c says takes
 * part in it. Addresses are mostly near the rings and a window of buffers, so that what the fuzzer
 * writes is what the device reads.
 * Checked at the end: the device stops, its state can be saved, and loads again.
 */
#ifndef GODWIT_TESTS_FUZZ_VIRTIO_H
#define GODWIT_TESTS_FUZZ_VIRTIO_H

#include "driver.h"
#include "fuzz.h"

struct fuzz_virtio {
    const char *id;
    struct device *(*create)(const struct virtio_config *config, struct fuzz_virtio *fuzz);
    /* Something happens on the host's side: a frame, a key, a new target. May be NULL. */
    void (*host_event)(struct fuzz_virtio *fuzz, struct fuzz_input *in);

    struct rig *rig;
    struct device *dev;
    struct drv drv;
    int peer; /* of a back end that has one */
    struct gw_state_registry *registry;
    struct gw_state_plan *plan;
};

int fuzz_virtio_run(struct fuzz_virtio *fuzz, const uint8_t *data, size_t size);

#endif
