/* SPDX-License-Identifier: MIT */
/*
 * The test finisher of SiFive boards.
 *
 * Model: one register at offset 0. 0x5555 powers off with status 0, 0x3333 | code << 16 powers off
 * with that code, 0x7777 resets. Everything else is ignored, reads give 0. There is no state.
 */
#include "device/syscon.h"

struct syscon {
    struct device dev;
    /* fixed after construction */
    syscon_fn fn;
    void *opaque;
};

static uint64_t syscon_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    return 0;
}

static void syscon_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct syscon *syscon = opaque;
    if (offset != 0)
        return;
    switch (value & 0xffff) {
    case 0x5555:
        syscon->fn(syscon->opaque, SYSCON_POWER_OFF, 0);
        return;
    case 0x3333:
        syscon->fn(syscon->opaque, SYSCON_POWER_OFF, (unsigned)(value >> 16 & 0xffff));
        return;
    case 0x7777:
        syscon->fn(syscon->opaque, SYSCON_RESET, 0);
        return;
    }
}

static const struct mmio_ops syscon_mmio = {
    .read = syscon_read, .write = syscon_write, .min_size = 2, .max_size = 4};

static void syscon_free(struct device *dev)
{
    device_clear(dev);
    g_free(dev);
}

static const struct device_ops syscon_ops = {.type = "syscon", .free = syscon_free};

struct syscon *syscon_new(const char *id, struct mmio_bus *bus, uint64_t gpa, syscon_fn fn,
                          void *opaque, GError **error)
{
    struct syscon *syscon = g_new0(struct syscon, 1);
    device_init(&syscon->dev, &syscon_ops, id, NULL, NULL);
    syscon->fn = fn;
    syscon->opaque = opaque;
    if (!mmio_bus_add(bus, id, &syscon->dev, gpa, SYSCON_SIZE, &syscon_mmio, syscon, error)) {
        syscon_free(&syscon->dev);
        return NULL;
    }
    return syscon;
}

struct device *syscon_device(struct syscon *syscon)
{
    return &syscon->dev;
}
