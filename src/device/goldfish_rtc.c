/* SPDX-License-Identifier: MIT */
/*
 * The goldfish RTC.
 *
 * Model: the register list of the Android emulator's goldfish "rtc" (docs/GOLDFISH-VIRTUAL-
 * HARDWARE.TXT, section VIII), as Linux' rtc-goldfish uses it. Time is the host's wall clock plus
 * an offset that is 0 until the guest sets the clock. So after a move or a long rest in a file the
 * guest reads the time it is, and an alarm that has passed meanwhile rings at once.
 *
 * The alarm timer runs on the host's monotonic clock. If the host's wall clock is set while it
 * runs, the alarm is looked at again when it was due; an alarm that became due earlier is late by
 * the step.
 */
#include "device/goldfish_rtc.h"

#include "base/clock.h"

enum {
    TIME_LOW = 0x00,  /* reading latches TIME_HIGH; writing sets the low half */
    TIME_HIGH = 0x04, /* writing sets the high half */
    ALARM_LOW = 0x08, /* writing starts the alarm */
    ALARM_HIGH = 0x0c,
    IRQ_ENABLED = 0x10,
    CLEAR_ALARM = 0x14,
    ALARM_STATUS = 0x18,
    CLEAR_INTERRUPT = 0x1c,
};

struct goldfish_rtc {
    struct device dev;
    /* fixed after construction */
    struct irq_line irq;
    uint64_t (*real_ns)(void);
    struct io_timer *timer;
    /* guarded by dev.lock */
    bool is_running; /* between start and stop */
    /* guarded by dev.lock; saved. All times in ns modulo 2^64 */
    uint64_t offset_ns; /* guest's time minus the host's */
    uint64_t alarm_ns;
    uint32_t time_high; /* latched */
    bool is_alarm_set;
    bool is_irq_pending;
    bool is_irq_enabled;
};

static uint64_t rtc_now_ns(const struct goldfish_rtc *rtc)
{
    return rtc->real_ns() + rtc->offset_ns;
}

static void update_irq(struct goldfish_rtc *rtc)
{
    irq_set(&rtc->irq, rtc->is_irq_pending && rtc->is_irq_enabled);
}

/* Rings if the alarm is due, else sets the host timer for it. */
static void check_alarm(struct goldfish_rtc *rtc)
{
    if (!rtc->is_running || !rtc->is_alarm_set) {
        io_timer_set(rtc->timer, UINT64_MAX);
        return;
    }
    uint64_t now_ns = rtc_now_ns(rtc);
    if (rtc->alarm_ns <= now_ns) {
        rtc->is_alarm_set = false;
        rtc->is_irq_pending = true;
        io_timer_set(rtc->timer, UINT64_MAX);
        update_irq(rtc);
        return;
    }
    uint64_t deadline_ns, left_ns = rtc->alarm_ns - now_ns;
    if (__builtin_add_overflow(clock_mono_ns(), left_ns, &deadline_ns))
        deadline_ns = UINT64_MAX;
    io_timer_set(rtc->timer, deadline_ns);
}

static void timer_fired(struct device *dev, void *opaque)
{
    check_alarm(opaque);
}

static uint64_t rtc_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    struct goldfish_rtc *rtc = opaque;
    switch (offset) {
    case TIME_LOW: {
        uint64_t now_ns = rtc_now_ns(rtc);
        rtc->time_high = (uint32_t)(now_ns >> 32);
        return (uint32_t)now_ns;
    }
    case TIME_HIGH:
        return rtc->time_high;
    case ALARM_LOW:
        return (uint32_t)rtc->alarm_ns;
    case ALARM_HIGH:
        return rtc->alarm_ns >> 32;
    case IRQ_ENABLED:
        return rtc->is_irq_enabled;
    case ALARM_STATUS:
        return rtc->is_alarm_set;
    default:
        return 0;
    }
}

static void set_time(struct goldfish_rtc *rtc, uint64_t mask, uint64_t bits)
{
    uint64_t now_ns = rtc_now_ns(rtc);
    rtc->offset_ns += ((now_ns & ~mask) | bits) - now_ns;
    check_alarm(rtc);
}

static void rtc_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct goldfish_rtc *rtc = opaque;
    switch (offset) {
    case TIME_LOW:
        set_time(rtc, UINT32_MAX, value);
        break;
    case TIME_HIGH:
        set_time(rtc, ~(uint64_t)UINT32_MAX, value << 32);
        break;
    case ALARM_LOW:
        rtc->alarm_ns = (rtc->alarm_ns & ~(uint64_t)UINT32_MAX) | value;
        rtc->is_alarm_set = true;
        check_alarm(rtc);
        break;
    case ALARM_HIGH:
        rtc->alarm_ns = (uint32_t)rtc->alarm_ns | value << 32;
        break;
    case IRQ_ENABLED:
        rtc->is_irq_enabled = value & 1;
        update_irq(rtc);
        break;
    case CLEAR_ALARM:
        rtc->is_alarm_set = false;
        check_alarm(rtc);
        break;
    case CLEAR_INTERRUPT:
        rtc->is_irq_pending = false;
        update_irq(rtc);
        break;
    }
}

static const struct mmio_ops rtc_mmio = {
    .read = rtc_read, .write = rtc_write, .min_size = 4, .max_size = 4};

static const struct gw_field rtc_fields[] = {
    GW_U64(struct goldfish_rtc, offset_ns),
    GW_U64(struct goldfish_rtc, alarm_ns),
    GW_U32(struct goldfish_rtc, time_high),
    GW_BOOL(struct goldfish_rtc, is_alarm_set),
    GW_BOOL(struct goldfish_rtc, is_irq_pending),
    GW_BOOL(struct goldfish_rtc, is_irq_enabled),
    GW_FIELDS_END,
};

static const struct gw_state_desc rtc_state = {
    .name = "goldfish-rtc",
    .version = 1,
    .object_size = sizeof(struct goldfish_rtc),
    .priority = GW_PRIORITY_DEVICE,
    .fields = rtc_fields,
};

static void rtc_reset(struct device *dev)
{
    struct goldfish_rtc *rtc = (struct goldfish_rtc *)dev;
    /* The time goes on as the guest has set it: it is battery-backed. */
    rtc->alarm_ns = 0;
    rtc->time_high = 0;
    rtc->is_alarm_set = false;
    rtc->is_irq_pending = false;
    rtc->is_irq_enabled = false;
    check_alarm(rtc);
    update_irq(rtc);
}

static void rtc_start(struct device *dev)
{
    struct goldfish_rtc *rtc = (struct goldfish_rtc *)dev;
    rtc->is_running = true;
    check_alarm(rtc);
}

static bool rtc_stop(struct device *dev, uint64_t deadline_ns, GError **error)
{
    struct goldfish_rtc *rtc = (struct goldfish_rtc *)dev;
    rtc->is_running = false;
    check_alarm(rtc);
    return true;
}

static void rtc_free(struct device *dev)
{
    struct goldfish_rtc *rtc = (struct goldfish_rtc *)dev;
    io_timer_free(rtc->timer);
    device_clear(dev);
    g_free(rtc);
}

static const struct device_ops rtc_ops = {
    .type = "goldfish-rtc",
    .reset = rtc_reset,
    .start = rtc_start,
    .stop = rtc_stop,
    .free = rtc_free,
};

struct goldfish_rtc *goldfish_rtc_new(const char *id, const struct goldfish_rtc_config *config,
                                      GError **error)
{
    struct goldfish_rtc *rtc = g_new0(struct goldfish_rtc, 1);
    device_init(&rtc->dev, &rtc_ops, id, &rtc_state, rtc);
    rtc->irq = config->irq;
    rtc->real_ns = config->real_ns ? config->real_ns : clock_real_ns;
    rtc->timer = io_timer_new(config->loop, &rtc->dev, "alarm", timer_fired, rtc);
    if (!mmio_bus_add(config->bus, id, &rtc->dev, config->gpa, GOLDFISH_RTC_SIZE, &rtc_mmio, rtc,
                      error)) {
        rtc_free(&rtc->dev);
        return NULL;
    }
    return rtc;
}

struct device *goldfish_rtc_device(struct goldfish_rtc *rtc)
{
    return &rtc->dev;
}
