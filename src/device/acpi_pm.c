/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed hardware.
 *
 * Model: ACPI 6.4, 4.8.3.1 (PM1 event registers) and 4.8.3.2 (PM1 control), with the power button
 * as the only event. The machine is always in ACPI mode. A status bit is cleared by writing it.
 */
#include "device/acpi_pm.h"

#define POWER_BUTTON      0x0100u /* in status and enable */
#define ENABLE_MASK       0x0721u
#define CONTROL_SCI       0x0001u
#define CONTROL_TYPE(c)   ((c) >> 10 & 7)
#define CONTROL_KEPT      0x1c06u
#define CONTROL_SLEEP_NOW 0x2000u

struct acpi_pm {
    struct device dev;
    /* fixed after construction */
    struct irq_line sci;
    void (*off)(void *opaque);
    void *opaque;
    /* guarded by dev.lock; saved */
    uint16_t status, enable, control;
};

static void update_sci(struct acpi_pm *pm)
{
    irq_set(&pm->sci, pm->status & pm->enable);
}

/* All registers as they stand one after another. */
static uint64_t registers(const struct acpi_pm *pm)
{
    return pm->status | (uint64_t)pm->enable << 16 |
           (uint64_t)(pm->control | CONTROL_SCI) << (8 * ACPI_PM_CONTROL);
}

static uint64_t pm_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    return registers(opaque) >> (8 * offset);
}

static void write_control(struct acpi_pm *pm, uint16_t value)
{
    pm->control = value & CONTROL_KEPT;
    if (value & CONTROL_SLEEP_NOW && CONTROL_TYPE(value) == ACPI_PM_TYPE_OFF)
        pm->off(pm->opaque);
}

/* GUEST: any byte of any register may be written alone. */
static void pm_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                     uint64_t value)
{
    struct acpi_pm *pm = opaque;
    uint64_t mask = (size >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * size)) - 1) << (8 * offset);
    uint64_t bits = value << (8 * offset) & mask;
    uint64_t all = (registers(pm) & ~mask) | bits;

    pm->status &= (uint16_t)~bits;
    pm->enable = (uint16_t)(all >> 16) & ENABLE_MASK;
    if ((uint16_t)(mask >> (8 * ACPI_PM_CONTROL)))
        write_control(pm, (uint16_t)(all >> (8 * ACPI_PM_CONTROL)));
    update_sci(pm);
}

static const struct mmio_ops pm_ports = {
    .read = pm_read, .write = pm_write, .min_size = 1, .max_size = 4};

void acpi_pm_press_power_button(struct acpi_pm *pm)
{
    pthread_mutex_lock(&pm->dev.lock);
    pm->status |= POWER_BUTTON;
    update_sci(pm);
    pthread_mutex_unlock(&pm->dev.lock);
}

/* ---- state and life -------------------------------------------------------------------------- */

static const struct gw_field pm_fields[] = {
    GW_U16(struct acpi_pm, status, .mask = POWER_BUTTON),
    GW_U16(struct acpi_pm, enable, .mask = ENABLE_MASK),
    GW_U16(struct acpi_pm, control, .mask = CONTROL_KEPT),
    GW_FIELDS_END,
};

static const struct gw_state_desc pm_state = {
    .name = "acpi-pm",
    .version = 1,
    .object_size = sizeof(struct acpi_pm),
    .priority = GW_PRIORITY_DEVICE,
    .fields = pm_fields,
};

static void pm_reset(struct device *dev)
{
    struct acpi_pm *pm = (struct acpi_pm *)dev;
    pm->status = 0;
    pm->enable = 0;
    pm->control = 0;
    update_sci(pm);
}

static void pm_start(struct device *dev)
{
    update_sci((struct acpi_pm *)dev); /* the state may have been loaded */
}

static void pm_free(struct device *dev)
{
    device_clear(dev);
    g_free(dev);
}

static const struct device_ops pm_ops = {
    .type = "acpi-pm", .reset = pm_reset, .start = pm_start, .free = pm_free};

struct acpi_pm *acpi_pm_new(const char *id, const struct acpi_pm_config *config, GError **error)
{
    struct acpi_pm *pm = g_new0(struct acpi_pm, 1);
    device_init(&pm->dev, &pm_ops, id, &pm_state, pm);
    pm->sci = config->sci;
    pm->off = config->off;
    pm->opaque = config->opaque;
    if (!mmio_bus_add(config->ports, id, &pm->dev, config->port, ACPI_PM_N_PORTS, &pm_ports, pm,
                      error)) {
        pm_free(&pm->dev);
        return NULL;
    }
    return pm;
}

struct device *acpi_pm_device(struct acpi_pm *pm)
{
    return &pm->dev;
}
