/* SPDX-License-Identifier: MIT */
/*
 * Goldfish real-time clock: wall-clock time in ns, one alarm.
 */
#ifndef GODWIT_DEVICE_GOLDFISH_RTC_H
#define GODWIT_DEVICE_GOLDFISH_RTC_H

#include "device/device.h"

#define GOLDFISH_RTC_SIZE 0x1000

struct goldfish_rtc;

struct goldfish_rtc_config {
    struct mmio_bus *bus;
    struct io_loop *loop;
    uint64_t gpa;
    struct irq_line irq;
    uint64_t (*real_ns)(void); /* NULL: the host's CLOCK_REALTIME */
};
struct goldfish_rtc *goldfish_rtc_new(const char *id, const struct goldfish_rtc_config *config,
                                      GError **error);
struct device *goldfish_rtc_device(struct goldfish_rtc *rtc);

#endif
