/* SPDX-License-Identifier: MIT */
/*
 * Serial port: a 16550A with register shift 0.
 */
#ifndef GODWIT_DEVICE_SERIAL_H
#define GODWIT_DEVICE_SERIAL_H

#include "device/chardev.h"
#include "device/device.h"

#define SERIAL_N_REGISTERS 8
#define SERIAL_SIZE        0x100 /* the registers; the rest reads as zero */
#define SERIAL_CLOCK_HZ    3686400u
#define SERIAL_PC_CLOCK_HZ 1843200u

struct serial;

struct serial_config {
    struct mmio_bus *bus;
    struct io_loop *loop;
    uint64_t gpa;      /* or port, where bus is one of ports */
    uint64_t size;     /* of the region; 0: SERIAL_SIZE */
    uint32_t clock_hz; /* 0: SERIAL_CLOCK_HZ */
    struct irq_line irq;
    struct chardev *chardev; /* borrowed; freed after the port */
};
struct serial *serial_new(const char *id, const struct serial_config *config, GError **error);
struct device *serial_device(struct serial *serial);

#endif
