/* SPDX-License-Identifier: MIT */
/*
 * Names and feeds the device room's latency probes.
 */
#include "device/probe.h"

struct latency_probe *probe_new(struct latency_book *book, const struct device *dev,
                                const char *what)
{
    return NULL;
}

void probe_end(struct latency_probe *probe, uint64_t begin_ns)
{
}
