/* SPDX-License-Identifier: MIT */
/*
 * The example device of docs/writing-a-device.md.
 */
#ifndef TEST_DEVICE_TICKER_H
#define TEST_DEVICE_TICKER_H

#include "device/device.h"

struct device *ticker_new(const char *id, struct mmio_bus *bus, uint64_t gpa, struct io_loop *loop,
                          struct guest_clock *clock, struct irq_line irq, GError **error);

#endif
