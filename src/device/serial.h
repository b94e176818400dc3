/* SPDX-License-Identifier: MIT */
/*
 * Serial port: a 16550A with register shift 0.
 */
#ifndef GODWIT_DEVICE_SERIAL_H
#define GODWIT_DEVICE_SERIAL_H

#include "device/chardev.h"
#include "device/device.h"

#define SERIAL_SIZE     0x100 /* the eight registers; the rest reads as zero */
#define SERIAL_CLOCK_HZ 3686400u

struct serial;

struct serial_config {
    struct mmio_bus *bus;
    struct io_loop *loop;
    uint64_t gpa;
    struct irq_line irq;
    struct chardev *chardev; /* borrowed; freed after the port */
};
struct serial *serial_new(const char *id, const struct serial_config *config, GError **error);
struct device *serial_device(struct serial *serial);

#endif
