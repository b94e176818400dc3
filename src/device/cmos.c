/* SPDX-License-Identifier: MIT */
/*
 * The PC's battery-backed clock and memory.
 *
 * Model: Motorola MC146818 data sheet, registers 0 to 13, and the century in byte 0x32 as PCs have
 * it. Time is the host's wall clock plus an offset that is 0 until the guest sets the clock, so
 * that it is right after a move or a long rest in a file. Setting happens as the data sheet wants
 * it, with the SET bit on: meanwhile the clock's bytes stand still in memory, and are taken as the
 * time when SET goes off. There are no alarms and no interrupts; an update takes no time, so UIP
 * never shows.
 */
#include "device/cmos.h"

#include <time.h>

#include "base/clock.h"

enum {
    SECONDS = 0,
    MINUTES = 2,
    HOURS = 4,
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
#define B_KEPT       0x87 /* SET, binary, 24 hours, daylight saving: no interrupts */
#define B_BINARY     0x04
#define B_24_HOURS   0x02
#define D_VALID      0x80
#define HOURS_PM     0x80
#define CMOS_NMI_OFF 0x80 /* in the index */

static const uint8_t time_bytes[] = {SECONDS, MINUTES, HOURS, WEEKDAY,
                                     DAY,     MONTH,   YEAR,  CMOS_CENTURY};

struct cmos {
    struct device dev;
    /* fixed after construction */
    uint64_t (*real_ns)(void);
    /* guarded by dev.lock; saved */
    uint8_t index;
    uint8_t bytes[CMOS_BYTES]; /* those of the time are meant only while SET is on */
    int64_t offset_s;          /* guest's time minus the host's */
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

/* Writes the time that it is into the time's bytes. */
static void show_time(struct cmos *cmos)
{
    time_t now = host_s(cmos) + cmos->offset_s;
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
    cmos->bytes[YEAR] = encode(cmos, year % 100);
    cmos->bytes[CMOS_CENTURY] = encode(cmos, year / 100 % 100);
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
}

/* ---- ports ----------------------------------------------------------------------------------- */

static uint64_t cmos_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    struct cmos *cmos = opaque;

    if (offset == 0)
        return 0xff; /* the index cannot be read */
    switch (cmos->index) {
    case REG_C:
        return 0;
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

    if (!was_being_set && value & B_SET)
        show_time(cmos);
    cmos->bytes[REG_B] = value & B_KEPT;
    if (was_being_set && !(value & B_SET))
        take_time(cmos);
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
    GW_FIELDS_END,
};

/* PEER: what the guest could not have written. Offsets are bounded so that times can be added. */
static bool cmos_validate(const void *shadow, GError **error)
{
    const struct cmos *cmos = shadow;

    if (cmos->bytes[REG_A] & A_UPDATING || cmos->bytes[REG_B] & ~B_KEPT ||
        cmos->offset_s > INT64_MAX / 4 || cmos->offset_s < INT64_MIN / 4) {
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
}

static void cmos_free(struct device *dev)
{
    device_clear(dev);
    g_free(dev);
}

static const struct device_ops cmos_ops = {.type = "cmos", .reset = cmos_reset, .free = cmos_free};

struct cmos *cmos_new(const char *id, const struct cmos_config *config, GError **error)
{
    struct cmos *cmos = g_new0(struct cmos, 1);
    device_init(&cmos->dev, &cmos_ops, id, &cmos_state, cmos);
    cmos->real_ns = config->real_ns ? config->real_ns : clock_real_ns;
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
