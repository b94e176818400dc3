/* SPDX-License-Identifier: MIT */
/*
 * The ACLINT.
 *
 * Model: RISC-V ACLINT specification 1.0-rc4, MSWI and MTIMER at the places of the SiFive CLINT:
 * msip at 0x0 + 4*hart, mtimecmp at 0x4000 + 8*hart, mtime at 0xbff8. 64-bit registers take 32-
 * and 64-bit accesses.
 *
 * mtime is the guest clock. A write to it moves the clock for the whole machine (firmware does
 * that at most before timers are used); the harts are then given their mtimecmp again, so that
 * they compare with the new time.
 *
 * Not here: MTIP; the harts compare by themselves.
 */
#include "device/aclint.h"

#include <string.h>

#define MTIMECMP_BASE 0x4000u
#define MTIME_BASE    0xbff8u
#define LINE_MSIP     3

struct aclint {
    struct device dev;
    /* fixed after construction */
    const struct cpu_backend_ops *cpu_ops;
    struct cpu_backend *cpu;
    struct guest_clock *clock;
    uint32_t n_harts;
    /* guarded by dev.lock; saved */
    uint8_t msip[ACLINT_MAX_HARTS];
};

enum reg { REG_NONE, REG_MSIP, REG_MTIMECMP, REG_MTIME };

/* GUEST: any offset; *hart is below n_harts where it matters, *shift is 0 or 32. */
static enum reg decode(const struct aclint *aclint, uint64_t offset, unsigned *hart,
                       unsigned *shift)
{
    *shift = offset % 8 ? 32 : 0;
    if (offset < MTIMECMP_BASE) {
        *hart = (unsigned)(offset / 4);
        *shift = 0;
        return *hart < aclint->n_harts ? REG_MSIP : REG_NONE;
    }
    if (offset >= MTIME_BASE)
        return offset < MTIME_BASE + 8 ? REG_MTIME : REG_NONE;
    *hart = (unsigned)(offset - MTIMECMP_BASE) / 8;
    return *hart < aclint->n_harts ? REG_MTIMECMP : REG_NONE;
}

static uint64_t aclint_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    struct aclint *aclint = opaque;
    unsigned hart, shift;
    switch (decode(aclint, offset, &hart, &shift)) {
    case REG_MSIP:
        return size == 4 ? aclint->msip[hart] : 0;
    case REG_MTIMECMP:
        return aclint->cpu_ops->get_timer(aclint->cpu, hart) >> shift;
    case REG_MTIME:
        return guest_clock_ticks(aclint->clock) >> shift;
    case REG_NONE:
        break;
    }
    return 0;
}

/* What a 64-bit register becomes when 4 or 8 bytes at shift are written. */
static uint64_t merge(uint64_t old, unsigned shift, unsigned size, uint64_t value)
{
    if (size == 8)
        return value;
    uint64_t mask = UINT64_C(0xffffffff) << shift;
    return (old & ~mask) | (value << shift & mask);
}

static void write_mtime(struct aclint *aclint, uint64_t ticks)
{
    guest_clock_set_ticks(aclint->clock, ticks);
    for (unsigned hart = 0; hart < aclint->n_harts; hart++)
        aclint->cpu_ops->set_timer(aclint->cpu, hart,
                                   aclint->cpu_ops->get_timer(aclint->cpu, hart));
}

static void aclint_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct aclint *aclint = opaque;
    unsigned hart, shift;
    switch (decode(aclint, offset, &hart, &shift)) {
    case REG_MSIP:
        if (size != 4)
            return;
        aclint->msip[hart] = value & 1;
        aclint->cpu_ops->set_irq(aclint->cpu, hart, LINE_MSIP, value & 1);
        return;
    case REG_MTIMECMP: {
        uint64_t old = aclint->cpu_ops->get_timer(aclint->cpu, hart);
        aclint->cpu_ops->set_timer(aclint->cpu, hart, merge(old, shift, size, value));
        return;
    }
    case REG_MTIME:
        write_mtime(aclint, merge(guest_clock_ticks(aclint->clock), shift, size, value));
        return;
    case REG_NONE:
        return;
    }
}

static const struct mmio_ops aclint_mmio = {
    .read = aclint_read, .write = aclint_write, .min_size = 4, .max_size = 8};

static const struct gw_field aclint_fields[] = {
    GW_EQUAL_U32(struct aclint, n_harts),
    GW_U8_VARRAY(struct aclint, msip, n_harts, .max = 1),
    GW_FIELDS_END,
};

static const struct gw_state_desc aclint_state = {
    .name = "aclint",
    .version = 1,
    .object_size = sizeof(struct aclint),
    .priority = GW_PRIORITY_IRQCHIP,
    .fields = aclint_fields,
};

static void aclint_start(struct device *dev)
{
    struct aclint *aclint = (struct aclint *)dev;
    for (unsigned hart = 0; hart < aclint->n_harts; hart++)
        aclint->cpu_ops->set_irq(aclint->cpu, hart, LINE_MSIP, aclint->msip[hart]);
}

static void aclint_reset(struct device *dev)
{
    struct aclint *aclint = (struct aclint *)dev;
    memset(aclint->msip, 0, sizeof aclint->msip);
    aclint_start(dev);
}

static void aclint_free(struct device *dev)
{
    device_clear(dev);
    g_free(dev);
}

static const struct device_ops aclint_ops = {
    .type = "aclint", .reset = aclint_reset, .start = aclint_start, .free = aclint_free};

struct aclint *aclint_new(const char *id, struct mmio_bus *bus, uint64_t gpa, unsigned n_harts,
                          const struct cpu_backend_ops *cpu_ops, struct cpu_backend *cpu,
                          struct guest_clock *clock, GError **error)
{
    if (n_harts == 0 || n_harts > ACLINT_MAX_HARTS) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG, "%s: %u harts, at most %u", id,
                    n_harts, ACLINT_MAX_HARTS);
        return NULL;
    }
    struct aclint *aclint = g_new0(struct aclint, 1);
    device_init(&aclint->dev, &aclint_ops, id, &aclint_state, aclint);
    aclint->cpu_ops = cpu_ops;
    aclint->cpu = cpu;
    aclint->clock = clock;
    aclint->n_harts = n_harts;
    if (!mmio_bus_add(bus, id, &aclint->dev, gpa, ACLINT_SIZE, &aclint_mmio, aclint, error)) {
        aclint_free(&aclint->dev);
        return NULL;
    }
    return aclint;
}

struct device *aclint_device(struct aclint *aclint)
{
    return &aclint->dev;
}
