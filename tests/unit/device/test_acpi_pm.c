/* SPDX-License-Identifier: MIT */
/*
 * How a PC is switched off and reset: power button, sleep state S5, the reset port.
 */
#include "rig.h"

#include "device/acpi_pm.h"
#include "device/reset_port.h"

#define PM1          UINT64_C(0x600)
#define STATUS       PM1
#define ENABLE       (PM1 + 2)
#define CONTROL      (PM1 + 4)
#define POWER_BUTTON 0x100
#define GO_OFF       (ACPI_PM_TYPE_OFF << 10 | 1 << 13)

struct fixture {
    struct rig *rig;
    struct acpi_pm *pm;
    unsigned n_off, n_reset;
};

static void count(void *opaque)
{
    ++*(unsigned *)opaque;
}

static struct acpi_pm *pm_make(struct fixture *f, uint16_t port)
{
    const struct acpi_pm_config config = {.ports = f->rig->bus,
                                          .port = port,
                                          .sci = rig_irq(f->rig),
                                          .off = count,
                                          .opaque = &f->n_off};
    struct acpi_pm *pm = acpi_pm_new("acpi-pm", &config, NULL);

    assert_non_null(pm);
    device_reset(acpi_pm_device(pm));
    return pm;
}

static int setup(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);
    void *rig;

    rig_setup(&rig);
    f->rig = rig;
    f->pm = pm_make(f, PM1);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *rig = f->rig;

    device_free(acpi_pm_device(f->pm));
    rig_teardown(&rig);
    g_free(f);
    return 0;
}

static void the_button_interrupts_who_listens(void **state)
{
    struct fixture *f = *state;

    acpi_pm_press_power_button(f->pm);
    assert_false(rig_irq_level(f->rig));
    rig_write(f->rig, ENABLE, 2, POWER_BUTTON);
    assert_true(rig_irq_level(f->rig));
    assert_int_equal(rig_read(f->rig, STATUS, 2), POWER_BUTTON);
    rig_write(f->rig, STATUS, 2, POWER_BUTTON); /* writing 1 clears */
    assert_false(rig_irq_level(f->rig));
    assert_int_equal(rig_read(f->rig, STATUS, 4), POWER_BUTTON << 16);
    acpi_pm_press_power_button(f->pm);
    assert_true(rig_irq_level(f->rig));
    rig_write(f->rig, STATUS + 1, 1, POWER_BUTTON >> 8); /* a byte of it will do */
    assert_false(rig_irq_level(f->rig));
    assert_int_equal(rig_read(f->rig, ENABLE, 2), POWER_BUTTON);
    device_reset(acpi_pm_device(f->pm));
    assert_int_equal(rig_read(f->rig, ENABLE, 2), 0);
}

static void only_s5_switches_off(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(rig_read(f->rig, CONTROL, 2), 1); /* ACPI mode */
    rig_write(f->rig, CONTROL, 2, 0);
    assert_int_equal(rig_read(f->rig, CONTROL, 2), 1);
    rig_write(f->rig, CONTROL, 2, ACPI_PM_TYPE_OFF << 10);
    assert_int_equal(f->n_off, 0);
    for (unsigned type = 0; type < 8; type++)
        rig_write(f->rig, CONTROL, 2, type << 10 | 1 << 13);
    assert_int_equal(f->n_off, 1);
    assert_int_equal(rig_read(f->rig, CONTROL, 2) & 1 << 13, 0);
    rig_write(f->rig, CONTROL, 2, ACPI_PM_TYPE_OFF << 10);
    rig_write(f->rig, CONTROL + 1, 1, GO_OFF >> 8);
    assert_int_equal(f->n_off, 2);
    rig_write(f->rig, STATUS, 4, UINT32_MAX);
    assert_int_equal(f->n_off, 2);
}

static void a_pressed_button_moves(void **state)
{
    struct fixture *f = *state;
    struct acpi_pm *to = pm_make(f, 0x700);

    rig_write(f->rig, ENABLE, 2, POWER_BUTTON);
    acpi_pm_press_power_button(f->pm);
    rig_move_state(acpi_pm_device(f->pm), acpi_pm_device(to));
    device_reset(acpi_pm_device(f->pm));
    assert_false(rig_irq_level(f->rig));
    device_start(acpi_pm_device(to));
    assert_true(rig_irq_level(f->rig));
    assert_int_equal(rig_read(f->rig, 0x700, 4), POWER_BUTTON << 16 | POWER_BUTTON);
    device_free(acpi_pm_device(to));
}

static void nothing_hurts(void **state)
{
    struct fixture *f = *state;

    rig_attack(f->rig, PM1, ACPI_PM_N_PORTS, 20000);
}

static void the_reset_port_takes_one_command(void **state)
{
    struct fixture *f = *state;
    struct device *port = reset_port_new("reset", f->rig->bus, 0x64, count, &f->n_reset, NULL);

    assert_non_null(port);
    for (unsigned value = 0; value < 256; value++)
        rig_write(f->rig, 0x64, 1, value);
    assert_int_equal(f->n_reset, 1);
    rig_write(f->rig, 0x64, 1, RESET_PORT_PULSE);
    assert_int_equal(f->n_reset, 2);
    assert_int_equal(rig_read(f->rig, 0x64, 1), 0);
    device_free(port);
}

#define PM_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PM_TEST(the_button_interrupts_who_listens),
        PM_TEST(only_s5_switches_off),
        PM_TEST(a_pressed_button_moves),
        PM_TEST(nothing_hurts),
        PM_TEST(the_reset_port_takes_one_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
