/* SPDX-License-Identifier: MIT */
/*
 * The test finisher: power-off with a status, and reset, at the guest's own wish.
 */
#ifndef GODWIT_DEVICE_SYSCON_H
#define GODWIT_DEVICE_SYSCON_H

#include "device/device.h"

#define SYSCON_SIZE 0x1000

enum syscon_wish {
    SYSCON_POWER_OFF = 1, /* status: 0, or the guest's failure code */
    SYSCON_RESET,
};

/* Called on a vCPU thread with the device lock held: must only note the wish. */
typedef void (*syscon_fn)(void *opaque, enum syscon_wish wish, unsigned status);

struct syscon;
struct syscon *syscon_new(const char *id, struct mmio_bus *bus, uint64_t gpa, syscon_fn fn,
                          void *opaque, GError **error);
struct device *syscon_device(struct syscon *syscon);

#endif
