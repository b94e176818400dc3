/* SPDX-License-Identifier: MIT */
/*
 * The PC's battery-backed clock and memory.
 */
#ifndef GODWIT_DEVICE_CMOS_H
#define GODWIT_DEVICE_CMOS_H

#include "device/device.h"

#define CMOS_N_PORTS 2 /* index, data */
#define CMOS_BYTES   128
#define CMOS_CENTURY 0x32

struct cmos;

struct cmos_config {
    struct mmio_bus *ports;
    struct io_loop *loop;
    uint16_t port;
    struct irq_line irq;       /* edge-triggered */
    uint64_t (*real_ns)(void); /* NULL: the host's CLOCK_REALTIME */
};
struct cmos *cmos_new(const char *id, const struct cmos_config *config, GError **error);
struct device *cmos_device(struct cmos *cmos);

#endif
