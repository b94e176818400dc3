/* SPDX-License-Identifier: MIT */
/*
 * Latency probes of the device room: named "device-id/what", free when there is no book.
 */
#ifndef GODWIT_DEVICE_PROBE_H
#define GODWIT_DEVICE_PROBE_H

#include "device/device.h"

/* Registers a probe in the book; NULL without a book. Owned by the book. */
struct latency_probe *probe_new(struct latency_book *book, const struct device *dev,
                                const char *what);

static inline uint64_t probe_begin(const struct latency_probe *probe)
{
    return probe ? guest_clock_host_ns() : 0;
}

void probe_end(struct latency_probe *probe, uint64_t begin_ns);

#endif
