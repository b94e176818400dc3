/* SPDX-License-Identifier: MIT */
/*
 * The keyboard controller's command port, of which only the pulse on the reset line is there.
 */
#ifndef GODWIT_DEVICE_RESET_PORT_H
#define GODWIT_DEVICE_RESET_PORT_H

#include "device/device.h"

#define RESET_PORT_PULSE 0xfe

/* fn is told from vCPU threads. */
struct device *reset_port_new(const char *id, struct mmio_bus *ports, uint16_t port,
                              void (*fn)(void *opaque), void *opaque, GError **error);

#endif
