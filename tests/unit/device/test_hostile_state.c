/* SPDX-License-Identifier: MIT */
/*
 * Every device of this room loads damaged and invented state: it is refused, or the device is as
 * safe as before under any access.
 */
#include "rig.h"

#include "device/aclint.h"
#include "device/acpi_pm.h"
#include "device/cmos.h"
#include "device/goldfish_rtc.h"
#include "device/pci.h"
#include "device/plic.h"
#include "device/serial.h"

#define BASE     UINT64_C(0x10000000)
#define PORT     0x600u
#define N_ROUNDS 3000

struct subject {
    struct rig *rig;
    struct device *dev;
    uint64_t base; /* 0: BASE */
    uint64_t size_bytes;
    struct chardev *chardev;
};

static void make_plic(struct subject *s)
{
    s->dev =
        plic_device(plic_new("plic", s->rig->bus, BASE, 3, &rig_cpu_ops, rig_cpu(s->rig), NULL));
    s->size_bytes = PLIC_SIZE;
}

static void make_aclint(struct subject *s)
{
    guest_clock_init(&s->rig->clock, 10000000, 0);
    s->dev = aclint_device(aclint_new("aclint", s->rig->bus, BASE, 3, &rig_cpu_ops, rig_cpu(s->rig),
                                      &s->rig->clock, NULL));
    s->size_bytes = ACLINT_SIZE;
}

static void make_serial(struct subject *s)
{
    s->chardev = chardev_open("null", s->rig->loop, NULL, NULL, NULL);
    const struct serial_config config = {.bus = s->rig->bus,
                                         .loop = s->rig->loop,
                                         .gpa = BASE,
                                         .irq = rig_irq(s->rig),
                                         .chardev = s->chardev};
    s->dev = serial_device(serial_new("uart0", &config, NULL));
    s->size_bytes = SERIAL_SIZE;
}

static void make_rtc(struct subject *s)
{
    const struct goldfish_rtc_config config = {
        .bus = s->rig->bus, .loop = s->rig->loop, .gpa = BASE, .irq = rig_irq(s->rig)};
    s->dev = goldfish_rtc_device(goldfish_rtc_new("rtc", &config, NULL));
    s->size_bytes = GOLDFISH_RTC_SIZE;
}

static void make_pci(struct subject *s)
{
    const struct pci_host_config config = {.bus = s->rig->bus,
                                           .ecam_gpa = BASE,
                                           .ecam_size = 0x1000000,
                                           .mmio32_gpa = 0x40000000,
                                           .mmio32_size = 0x1000000};
    s->dev = pci_host_device(pci_host_new(&config, NULL));
    s->size_bytes = 0x1000000;
}

static void make_cmos(struct subject *s)
{
    const struct cmos_config config = {
        .ports = s->rig->bus, .loop = s->rig->loop, .port = PORT, .irq = rig_irq(s->rig)};
    s->dev = cmos_device(cmos_new("cmos", &config, NULL));
    s->base = PORT;
    s->size_bytes = CMOS_N_PORTS;
}

static void nothing(void *opaque)
{
}

static void make_pm(struct subject *s)
{
    const struct acpi_pm_config config = {
        .ports = s->rig->bus, .port = PORT, .sci = rig_irq(s->rig), .off = nothing};
    s->dev = acpi_pm_device(acpi_pm_new("acpi-pm", &config, NULL));
    s->base = PORT;
    s->size_bytes = ACPI_PM_N_PORTS;
}

/* Saves s->dev, changes the bytes, loads them into s->dev. True when they were taken. */
static bool load_changed(struct subject *s, GRand *rand)
{
    struct gw_state_registry *registry = gw_state_registry_new();
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    struct device *dev = s->dev;
    assert_true(gw_state_registry_add(registry, dev->id, dev->state, dev->state_object, NULL));
    pthread_mutex_lock(&dev->lock);
    assert_true(gw_state_save(registry, 0, bytes, NULL));
    for (int n = g_rand_int_range(rand, 0, 12); n > 0 && bytes->len > 0; n--)
        bytes->data[g_rand_int_range(rand, 0, (gint32)bytes->len)] = (guint8)g_rand_int(rand);
    if (g_rand_int_range(rand, 0, 10) == 0)
        g_byte_array_set_size(bytes, (guint)g_rand_int_range(rand, 0, (gint32)bytes->len + 1));
    struct gw_state_plan *plan = gw_state_plan_new(gw_schema_new(registry), registry);
    struct gw_state_load *load = gw_state_load_begin(plan, NULL);
    assert_non_null(load);
    bool ok = gw_state_load_add(load, 0, bytes->data, bytes->len, NULL) &&
              gw_state_load_commit(load, NULL);
    if (ok)
        gw_state_load_keep(load);
    gw_state_load_free(load);
    pthread_mutex_unlock(&dev->lock);
    gw_state_plan_free(plan);
    gw_state_registry_free(registry);
    return ok;
}

static void check(void **state, void (*make)(struct subject *s))
{
    struct subject s = {.rig = *state};
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    unsigned n_taken = 0;
    make(&s);
    GError *error = NULL;
    if (!gw_state_desc_check(s.dev->state, &error))
        fail_msg("%s", error->message);
    device_reset(s.dev);
    for (unsigned i = 0; i < N_ROUNDS; i++) {
        n_taken += load_changed(&s, rand);
        device_start(s.dev);
        rig_attack(s.rig, s.base ? s.base : BASE, s.size_bytes, 50);
        assert_true(device_stop(s.dev, 0, NULL));
        if (i % 64 == 0)
            device_reset(s.dev);
    }
    assert_true(n_taken > 0 && n_taken < N_ROUNDS);
    device_free(s.dev);
    chardev_free(s.chardev);
}

static void the_plic_is_safe(void **state)
{
    check(state, make_plic);
}

static void the_aclint_is_safe(void **state)
{
    check(state, make_aclint);
}

static void the_serial_port_is_safe(void **state)
{
    check(state, make_serial);
}

static void the_real_time_clock_is_safe(void **state)
{
    check(state, make_rtc);
}

static void the_pci_host_is_safe(void **state)
{
    check(state, make_pci);
}

static void the_cmos_is_safe(void **state)
{
    check(state, make_cmos);
}

static void the_power_registers_are_safe(void **state)
{
    check(state, make_pm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(the_plic_is_safe),
        RIG_TEST(the_aclint_is_safe),
        RIG_TEST(the_serial_port_is_safe),
        RIG_TEST(the_real_time_clock_is_safe),
        RIG_TEST(the_pci_host_is_safe),
        RIG_TEST(the_cmos_is_safe),
        RIG_TEST(the_power_registers_are_safe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
