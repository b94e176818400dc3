/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed hardware: the power button and the way into sleep state S5, off.
 */
#ifndef GODWIT_DEVICE_ACPI_PM_H
#define GODWIT_DEVICE_ACPI_PM_H

#include "device/device.h"

/* Offsets from the first port. */
#define ACPI_PM_EVENTS   0 /* PM1 status and enable, 2 bytes each */
#define ACPI_PM_CONTROL  4
#define ACPI_PM_N_PORTS  8
#define ACPI_PM_TYPE_OFF 5 /* the sleep type that switches off */

struct acpi_pm;

struct acpi_pm_config {
    struct mmio_bus *ports;
    uint16_t port;
    struct irq_line sci;       /* level-triggered, active high */
    void (*off)(void *opaque); /* from vCPU threads */
    void *opaque;
};
struct acpi_pm *acpi_pm_new(const char *id, const struct acpi_pm_config *config, GError **error);
struct device *acpi_pm_device(struct acpi_pm *pm);
/* Takes the device lock. A guest that does not listen (yet) does not notice. */
void acpi_pm_press_power_button(struct acpi_pm *pm);

#endif
