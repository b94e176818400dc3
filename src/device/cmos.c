/* SPDX-License-Identifier: MIT */
/*
 * The PC's battery-backed clock and memory.
 *
 * Model: Motorola MC146818 data sheet, registers 0 to 13, and the century in byte 0x32 as PCs have
 * it. Time is the host's wall clock plus an offset that is 0 until the guest sets the clock, so
 * that it is right after a move or a long rest in a file. Setting happens as the data sheet wants
 * it, with the SET bit on: meanwhile the clock's bytes stand still in memory, and are taken as the
 * time when SET goes off. An update takes no time, so UIP never
 * shows.
 *
 * Alarms and updates interrupt; the periodic interrupt is not there. While the guest wants one of
 * them the clock looks at every full second, and after a stop at all the seconds that passed, so
 * that an alarm is late but not lost.
 */
#include "device/cmos.h"

#include <time.h>

#include "base/clock.h"

enum {
    SECONDS = 0,
    SECONDS_ALARM = 1,
    MINUTES = 2,
    MINUTES_ALARM = 3,
    HOURS = 4,
    HOURS_ALARM = 5,
    WEEKDAY = 6,
    DAY = 7,
    MONTH = 8,
    YEAR = 9,
    REG_A = 10,
    REG_B = 11,
    REG_C = 12,
    REG_D = 13,
};

#define A_UPDATING   0x80
#define A_AT_RESET   0x26 /* 32768 Hz, 1024 Hz of periodic interrupt */
#define B_SET        0x80
#define B_KEPT       0xb7 /* all but the periodic interrupt and the square wave */
#define B_BINARY     0x04
#define B_24_HOURS   0x02
#define C_WANTS_IRQ  0x80
#define ALARM        0x20 /* enabled in B, happened in C */
#define UPDATE       0x10
#define D_VALID      0x80
#define ANY_TIME     0xc0 /* from here on an alarm byte matches everything */
#define DAY_S        86400
#define HOURS_PM     0x80
#define CMOS_NMI_OFF 0x80 /* in the index */
#define MAX_S        (INT64_C(1) << 40)

static const uint8_t time_bytes[] = {SECONDS, MINUTES, HOURS, WEEKDAY,
                                     DAY,     MONTH,   YEAR,  CMOS_CENTURY};

struct cmos {
    struct device dev;
    /* fixed after construction */
    uint64_t (*real_ns)(void);
    struct irq_line irq;
    struct io_timer *timer;
    /* guarded by dev.lock */
    bool is_running; /* between start and stop */
    /* guarded by dev.lock; saved */
    uint8_t index;
    uint8_t bytes[CMOS_BYTES]; /* those of the time are meant only while SET is on */
    int64_t offset_s;          /* guest's time minus the host's */
    uint8_t happened;          /* ALARM, UPDATE: since register C was read */
    int64_t checked_s;         /* guest's time up to which alarms were looked for */
};

static bool is_time(uint8_t index)
{
    for (size_t i = 0; i < G_N_ELEMENTS(time_bytes); i++)
        if (time_bytes[i] == index)
            return true;
    return false;
}

static bool is_being_set(const struct cmos *cmos)
{
    return cmos->bytes[REG_B] & B_SET;
}

/* ---- numbers as the guest wants them --------------------------------------------------------- */

static uint8_t encode(const struct cmos *cmos, int value)
{
    return (uint8_t)(cmos->bytes[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

/* Also of years before the first. */
static int last_two_digits(int n)
{
    return (n % 100 + 100) % 100;
}

static int decode(const struct cmos *cmos, uint8_t byte)
{
    return cmos->bytes[REG_B] & B_BINARY ? byte : (byte >> 4) * 10 + (byte & 15);
}

static uint8_t encode_hours(const struct cmos *cmos, int hours)
{
    if (cmos->bytes[REG_B] & B_24_HOURS)
        return encode(cmos, hours);
    return (uint8_t)(encode(cmos, (hours + 11) % 12 + 1) | (hours >= 12 ? HOURS_PM : 0));
}

static int decode_hours(const struct cmos *cmos, uint8_t byte)
{
    if (cmos->bytes[REG_B] & B_24_HOURS)
        return decode(cmos, byte);
    return decode(cmos, byte & (uint8_t)~HOURS_PM) % 12 + (byte & HOURS_PM ? 12 : 0);
}

/* ---- time ------------------------------------------------------------------------------------ */

static int64_t host_s(const struct cmos *cmos)
{
    return (int64_t)(cmos->real_ns() / NS_PER_S);
}

static int64_t guest_s(const struct cmos *cmos)
{
    return host_s(cmos) + cmos->offset_s;
}

/* Writes the time that it is into the time's bytes. */
static void show_time(struct cmos *cmos)
{
    time_t now = guest_s(cmos);
    struct tm tm = {0};

    if (!gmtime_r(&now, &tm))
        return;
    int year = tm.tm_year + 1900;
    cmos->bytes[SECONDS] = encode(cmos, tm.tm_sec);
    cmos->bytes[MINUTES] = encode(cmos, tm.tm_min);
    cmos->bytes[HOURS] = encode_hours(cmos, tm.tm_hour);
    cmos->bytes[WEEKDAY] = encode(cmos, tm.tm_wday + 1);
    cmos->bytes[DAY] = encode(cmos, tm.tm_mday);
    cmos->bytes[MONTH] = encode(cmos, tm.tm_mon + 1);
    cmos->bytes[YEAR] = encode(cmos, last_two_digits(year));
    cmos->bytes[CMOS_CENTURY] = encode(cmos, last_two_digits(year / 100));
}

/* GUEST: bytes that are no date count on: the 32nd is the first of the next month. */
static void take_time(struct cmos *cmos)
{
    struct tm tm = {
        .tm_sec = decode(cmos, cmos->bytes[SECONDS]),
        .tm_min = decode(cmos, cmos->bytes[MINUTES]),
        .tm_hour = decode_hours(cmos, cmos->bytes[HOURS]),
        .tm_mday = decode(cmos, cmos->bytes[DAY]),
        .tm_mon = decode(cmos, cmos->bytes[MONTH]) - 1,
        .tm_year =
            decode(cmos, cmos->bytes[CMOS_CENTURY]) * 100 + decode(cmos, cmos->bytes[YEAR]) - 1900,
    };
    cmos->offset_s = (int64_t)timegm(&tm) - host_s(cmos);
    cmos->checked_s = guest_s(cmos);
}

/* ---- interrupts ------------------------------------------------------------------------------ */

static bool matches(uint8_t alarm, int wanted, int is)
{
    return alarm >= ANY_TIME || wanted == is;
}

static bool is_alarm(const struct cmos *cmos, int64_t second)
{
    int of_day = (int)((second % DAY_S + DAY_S) % DAY_S);
    uint8_t s = cmos->bytes[SECONDS_ALARM], m = cmos->bytes[MINUTES_ALARM];
    uint8_t h = cmos->bytes[HOURS_ALARM];

    return matches(s, decode(cmos, s), of_day % 60) &&
           matches(m, decode(cmos, m), of_day / 60 % 60) &&
           matches(h, decode_hours(cmos, h), of_day / 3600);
}

static bool wants_ticks(const struct cmos *cmos)
{
    return cmos->bytes[REG_B] & (ALARM | UPDATE) && !is_being_set(cmos);
}

static void update_irq(struct cmos *cmos)
{
    irq_set(&cmos->irq, cmos->happened & cmos->bytes[REG_B]);
}

/* Looks at the seconds since the last look, and sets the timer for the next one. */
static void tick(struct cmos *cmos)
{
    uint64_t deadline_ns = UINT64_MAX;

    if (cmos->is_running && wants_ticks(cmos)) {
        int64_t now_s = guest_s(cmos);
        /* After a long rest, or a jump of the host's clock: a day has every alarm there is. */
        int64_t from_s = MAX(cmos->checked_s, now_s - DAY_S);
        if (now_s > from_s)
            cmos->happened |= UPDATE;
        while (from_s < now_s && !(cmos->happened & ALARM))
            if (is_alarm(cmos, ++from_s))
                cmos->happened |= ALARM;
        cmos->checked_s = now_s;
        deadline_ns = clock_mono_ns() + NS_PER_S - cmos->real_ns() % NS_PER_S;
    }
    io_timer_set(cmos->timer, deadline_ns);
    update_irq(cmos);
}

static void timer_fired(struct device *dev, void *opaque)
{
    tick(opaque);
}

static uint8_t read_c(struct cmos *cmos)
{
    uint8_t value = cmos->happened;

    if (cmos->happened & cmos->bytes[REG_B])
        value |= C_WANTS_IRQ;
    cmos->happened = 0;
    update_irq(cmos);
    return value;
}

/* ---- ports ----------------------------------------------------------------------------------- */

static uint64_t cmos_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    struct cmos *cmos = opaque;

    if (offset == 0)
        return 0xff; /* the index cannot be read */
    switch (cmos->index) {
    case REG_C:
        return read_c(cmos);
    case REG_D:
        return D_VALID;
    default:
        if (is_time(cmos->index) && !is_being_set(cmos))
            show_time(cmos);
        return cmos->bytes[cmos->index];
    }
}

static void write_b(struct cmos *cmos, uint8_t value)
{
    bool was_being_set = is_being_set(cmos);

    if (!wants_ticks(cmos))
        cmos->checked_s = guest_s(cmos);
    if (!was_being_set && value & B_SET)
        show_time(cmos);
    cmos->bytes[REG_B] = value & B_KEPT;
    if (was_being_set && !(value & B_SET))
        take_time(cmos);
    if (!wants_ticks(cmos))
        cmos->happened = 0;
    tick(cmos);
}

static void cmos_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct cmos *cmos = opaque;

    if (offset == 0) {
        cmos->index = (uint8_t)value & (uint8_t)~CMOS_NMI_OFF;
        return;
    }
    switch (cmos->index) {
    case REG_A:
        cmos->bytes[REG_A] = (uint8_t)value & (uint8_t)~A_UPDATING;
        return;
    case REG_B:
        write_b(cmos, (uint8_t)value);
        return;
    case REG_C:
    case REG_D:
        return;
    }
    bool sets_time = is_time(cmos->index) && !is_being_set(cmos);
    if (sets_time)
        show_time(cmos);
    cmos->bytes[cmos->index] = (uint8_t)value;
    if (sets_time)
        take_time(cmos);
}

static const struct mmio_ops cmos_ports = {
    .read = cmos_read, .write = cmos_write, .min_size = 1, .max_size = 1};

/* ---- state and life -------------------------------------------------------------------------- */

static const struct gw_field cmos_fields[] = {
    GW_U8(struct cmos, index, .max = CMOS_BYTES - 1),
    GW_BUFFER(struct cmos, bytes),
    GW_I64(struct cmos, offset_s),
    GW_U8(struct cmos, happened, .mask = ALARM | UPDATE),
    GW_I64(struct cmos, checked_s),
    GW_FIELDS_END,
};

static bool is_bounded(int64_t seconds)
{
    return seconds >= -MAX_S && seconds <= MAX_S;
}

/* PEER: what the guest could not have written. Times are bounded so that they can be added. */
static bool cmos_validate(const void *shadow, GError **error)
{
    const struct cmos *cmos = shadow;

    if (cmos->bytes[REG_A] & A_UPDATING || cmos->bytes[REG_B] & ~B_KEPT ||
        !is_bounded(cmos->offset_s) || !is_bounded(cmos->checked_s)) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "clock registers A 0x%02x, B 0x%02x, offset %" G_GINT64_FORMAT " s cannot be",
                    cmos->bytes[REG_A], cmos->bytes[REG_B], cmos->offset_s);
        return false;
    }
    return true;
}

static const struct gw_state_desc cmos_state = {
    .name = "cmos",
    .version = 1,
    .object_size = sizeof(struct cmos),
    .priority = GW_PRIORITY_DEVICE,
    .fields = cmos_fields,
    .validate = cmos_validate,
};

/* The battery keeps time and memory; what is being set is dropped. */
static void cmos_reset(struct device *dev)
{
    struct cmos *cmos = (struct cmos *)dev;

    cmos->index = 0;
    cmos->bytes[REG_A] = A_AT_RESET;
    cmos->bytes[REG_B] = B_24_HOURS;
    cmos->happened = 0;
    cmos->checked_s = guest_s(cmos);
    tick(cmos);
}

static void cmos_start(struct device *dev)
{
    struct cmos *cmos = (struct cmos *)dev;

    cmos->is_running = true;
    tick(cmos);
}

static bool cmos_stop(struct device *dev, uint64_t deadline_ns, GError **error)
{
    struct cmos *cmos = (struct cmos *)dev;

    cmos->is_running = false;
    tick(cmos);
    return true;
}

static void cmos_free(struct device *dev)
{
    io_timer_free(((struct cmos *)dev)->timer);
    device_clear(dev);
    g_free(dev);
}

static const struct device_ops cmos_ops = {
    .type = "cmos",
    .reset = cmos_reset,
    .start = cmos_start,
    .stop = cmos_stop,
    .free = cmos_free,
};

struct cmos *cmos_new(const char *id, const struct cmos_config *config, GError **error)
{
    struct cmos *cmos = g_new0(struct cmos, 1);
    device_init(&cmos->dev, &cmos_ops, id, &cmos_state, cmos);
    cmos->real_ns = config->real_ns ? config->real_ns : clock_real_ns;
    cmos->irq = config->irq;
    cmos->timer = io_timer_new(config->loop, &cmos->dev, "second", timer_fired, cmos);
    if (!mmio_bus_add(config->ports, id, &cmos->dev, config->port, CMOS_N_PORTS, &cmos_ports, cmos,
                      error)) {
        cmos_free(&cmos->dev);
        return NULL;
    }
    return cmos;
}

struct device *cmos_device(struct cmos *cmos)
{
    return &cmos->dev;
}
