/* SPDX-License-Identifier: MIT */
/*
 * PCI: configuration space through ECAM, BARs, capabilities, INTx, state.
 */
#include "rig.h"

#include <string.h>

#include "device/pci.h"
#include "device/pci_regs.h"

#define ECAM      UINT64_C(0x30000000)
#define ECAM_SIZE UINT64_C(0x10000000)
#define MEM32     UINT64_C(0x40000000)
#define MEM64     UINT64_C(0x400000000)

struct fixture {
    struct rig *rig;
    struct pci_host *host;
    bool lines[4];
};

struct function {
    struct pci_function pci;
    uint32_t reg;
    unsigned n_reading, n_written;
};

static void line_set(void *opaque, unsigned number, bool level)
{
    ((struct fixture *)opaque)->lines[number] = level;
}

static int setup(void **state)
{
    void *rig;
    rig_setup(&rig);
    struct fixture *f = g_new0(struct fixture, 1);
    f->rig = rig;
    struct pci_host_config config = {
        .bus = f->rig->bus,
        .ecam_gpa = ECAM,
        .ecam_size = ECAM_SIZE,
        .mmio32_gpa = MEM32,
        .mmio32_size = 0x40000000,
        .mmio64_gpa = MEM64,
        .mmio64_size = UINT64_C(0x400000000),
    };
    for (unsigned i = 0; i < 4; i++)
        config.intx[i] = (struct irq_line){.set = line_set, .opaque = f, .number = i};
    f->host = pci_host_new(&config, NULL);
    assert_non_null(f->host);
    device_reset(pci_host_device(f->host));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *rig = f->rig;
    pci_host_free(f->host);
    rig_teardown(&rig);
    g_free(f);
    return 0;
}

/* ---- a small PCI device ---- */

static uint64_t bar_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    return offset == 0 ? ((struct function *)opaque)->reg : 0;
}

static void bar_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                      uint64_t value)
{
    if (offset == 0)
        ((struct function *)opaque)->reg = (uint32_t)value;
}

static const struct mmio_ops bar_ops = {
    .read = bar_read, .write = bar_write, .min_size = 4, .max_size = 4};

static bool function_post_load(void *object, GError **error)
{
    pci_function_post_load(object);
    return true;
}

static const struct gw_field function_fields[] = {
    GW_STRUCT(struct function, pci, &pci_function_state),
    GW_U32(struct function, reg),
    GW_FIELDS_END,
};

static const struct gw_state_desc function_state = {
    .name = "test-function",
    .version = 1,
    .object_size = sizeof(struct function),
    .priority = GW_PRIORITY_DEVICE,
    .fields = function_fields,
    .post_load = function_post_load,
};

static void function_reset(struct device *dev)
{
    pci_function_reset((struct pci_function *)dev);
}

static void function_free(struct device *dev)
{
    pci_function_clear((struct pci_function *)dev);
    g_free(dev);
}

static const struct device_ops function_ops = {
    .type = "test", .reset = function_reset, .free = function_free};

static struct function *function_build(struct fixture *f, unsigned slot, uint64_t bar4_size)
{
    static const struct pci_ids ids = {.vendor = 0x1af4,
                                       .device = 0x1041,
                                       .subsystem_vendor = 0x1af4,
                                       .subsystem = 0x0040,
                                       .class_code = 0x020000,
                                       .revision = 1};
    static const uint8_t cap[] = {0x10, 0x20, 0x30, 0x40, 0x50};
    struct function *fn = g_new0(struct function, 1);
    g_autofree char *id = g_strdup_printf("fn/%u", slot);
    pci_function_init(&fn->pci, f->host, slot, &function_ops, id, &ids, &function_state, fn);
    assert_true(pci_function_add_bar(&fn->pci, 1, "regs", 0x1000, false, &bar_ops, fn, NULL));
    assert_true(pci_function_add_bar(&fn->pci, 4, "big", bar4_size, true, &bar_ops, fn, NULL));
    assert_int_equal(pci_function_add_cap(&fn->pci, 0x09, cap, 7), 0x40);
    assert_int_equal(pci_function_add_cap(&fn->pci, 0x11, NULL, 12), 0x48);
    return fn;
}

static struct function *function_make(struct fixture *f, unsigned slot)
{
    struct function *fn = function_build(f, slot, 0x4000);
    assert_true(pci_host_attach(f->host, &fn->pci, NULL));
    device_reset(&fn->pci.dev);
    return fn;
}

static uint64_t config_gpa(unsigned slot, unsigned reg)
{
    return ECAM + (slot << 15) + reg;
}

static uint32_t get(struct fixture *f, unsigned slot, unsigned reg, unsigned size)
{
    return (uint32_t)rig_read(f->rig, config_gpa(slot, reg), size);
}

static void put(struct fixture *f, unsigned slot, unsigned reg, unsigned size, uint32_t value)
{
    rig_write(f->rig, config_gpa(slot, reg), size, value);
}

static bool answers(struct fixture *f, uint64_t gpa)
{
    uint64_t value;
    return mmio_bus_read(f->rig->bus, gpa, 4, &value);
}

/* ---- tests ---- */

static void only_what_exists_answers(void **state)
{
    struct fixture *f = *state;
    struct function *fn = function_make(f, 3);
    assert_int_equal(get(f, 0, PCI_VENDOR_ID, 4), 0x00081b36);
    assert_int_equal(get(f, 0, PCI_REVISION, 4), 0x06000000);
    assert_int_equal(get(f, 3, PCI_VENDOR_ID, 4), 0x10411af4);
    assert_int_equal(get(f, 3, PCI_DEVICE_ID, 2), 0x1041);
    assert_int_equal(get(f, 3, PCI_REVISION, 4), 0x02000001);
    assert_int_equal(get(f, 3, PCI_SUBSYSTEM, 2), 0x0040);
    assert_int_equal(get(f, 3, PCI_INTERRUPT_PIN, 1), 1);
    assert_int_equal(get(f, 3, 0x0e, 1), 0);  /* header type */
    assert_int_equal(get(f, 3, 0x100, 4), 0); /* no extended capabilities */
    assert_int_equal(get(f, 2, PCI_VENDOR_ID, 4), 0xffffffff);
    assert_int_equal(get(f, 2, PCI_VENDOR_ID, 1), 0xff);
    assert_int_equal(rig_read(f->rig, config_gpa(3, 0) + (1 << 12), 4), 0xffffffff);
    assert_int_equal(rig_read(f->rig, config_gpa(3, 0) + (1 << 20), 4), 0xffffffff);
    device_free(&fn->pci.dev);
    assert_int_equal(get(f, 3, PCI_VENDOR_ID, 4), 0xffffffff);
}

static void read_only_bits_stay(void **state)
{
    struct fixture *f = *state;
    struct function *fn = function_make(f, 3);
    for (unsigned reg = 0; reg < 0x100; reg += 4)
        if (reg != PCI_COMMAND)
            put(f, 3, reg, 4, 0xffffffff);
    put(f, 3, PCI_COMMAND, 2, 0xffff);
    assert_int_equal(get(f, 3, PCI_VENDOR_ID, 4), 0x10411af4);
    assert_int_equal(get(f, 3, PCI_REVISION, 4), 0x02000001);
    assert_int_equal(get(f, 3, PCI_COMMAND, 2), 0x0406);
    assert_int_equal(get(f, 3, PCI_INTERRUPT_LINE, 2), 0x01ff);
    assert_int_equal(get(f, 3, PCI_BAR0, 4), 0);
    assert_true(pci_function_is_bus_master(&fn->pci));
    device_reset(&fn->pci.dev);
    assert_int_equal(get(f, 3, PCI_COMMAND, 2), 0);
    assert_int_equal(get(f, 3, PCI_INTERRUPT_LINE, 1), 0);
    device_free(&fn->pci.dev);
}

static void bars_are_sized_and_moved(void **state)
{
    struct fixture *f = *state;
    struct function *fn = function_make(f, 3);
    put(f, 3, PCI_BAR0 + 4, 4, 0xffffffff);
    assert_int_equal(get(f, 3, PCI_BAR0 + 4, 4), 0xfffff000);
    put(f, 3, PCI_BAR0 + 16, 4, 0xffffffff);
    put(f, 3, PCI_BAR0 + 20, 4, 0xffffffff);
    assert_int_equal(get(f, 3, PCI_BAR0 + 16, 4), 0xffffc00c);
    assert_int_equal(get(f, 3, PCI_BAR0 + 20, 4), 0xffffffff);
    put(f, 3, PCI_COMMAND, 2, PCI_COMMAND_MEMORY); /* all ones: nowhere */

    put(f, 3, PCI_BAR0 + 4, 4, (uint32_t)MEM32 + 0x5000);
    put(f, 3, PCI_BAR0 + 16, 4, 0);
    put(f, 3, PCI_BAR0 + 20, 4, MEM64 >> 32);
    rig_write(f->rig, MEM32 + 0x5000, 4, 77);
    assert_int_equal(rig_read(f->rig, MEM64, 4), 77);
    put(f, 3, PCI_COMMAND, 2, 0);
    assert_false(answers(f, MEM32 + 0x5000));
    put(f, 3, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    put(f, 3, PCI_BAR0 + 4, 4, (uint32_t)MEM32 + 0x8000);
    assert_false(answers(f, MEM32 + 0x5000));
    assert_true(answers(f, MEM32 + 0x8000));
    /* One byte of the address is enough to move it. */
    put(f, 3, PCI_BAR0 + 5, 1, 0x90);
    assert_true(answers(f, MEM32 + 0x9000));
    device_free(&fn->pci.dev);
}

static void bars_stay_inside_of_the_hosts_windows(void **state)
{
    struct fixture *f = *state;
    struct function *fn = function_make(f, 3);
    static const uint32_t elsewhere[] = {0, 0x1000, 0x10000000, 0x80000000, 0xfffff000};
    put(f, 3, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    for (size_t i = 0; i < G_N_ELEMENTS(elsewhere); i++) {
        put(f, 3, PCI_BAR0 + 4, 4, elsewhere[i]);
        assert_false(answers(f, elsewhere[i]));
    }
    /* ECAM still answers although a BAR was put on it. */
    put(f, 3, PCI_BAR0 + 4, 4, (uint32_t)ECAM);
    assert_int_equal(get(f, 3, PCI_VENDOR_ID, 4), 0x10411af4);
    put(f, 3, PCI_BAR0 + 4, 4, 0x7ffff000);
    assert_true(answers(f, 0x7ffff000));
    device_free(&fn->pci.dev);
}

static void two_bars_on_one_place_do_not_hurt(void **state)
{
    struct fixture *f = *state;
    struct function *a = function_make(f, 3), *b = function_make(f, 4);
    put(f, 3, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    put(f, 4, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    put(f, 3, PCI_BAR0 + 4, 4, (uint32_t)MEM32);
    put(f, 4, PCI_BAR0 + 4, 4, (uint32_t)MEM32);
    rig_write(f->rig, MEM32, 4, 5);
    assert_int_equal(a->reg, 5);
    put(f, 3, PCI_COMMAND, 2, 0); /* makes room */
    rig_write(f->rig, MEM32, 4, 6);
    assert_int_equal(b->reg, 6);
    device_free(&a->pci.dev);
    device_free(&b->pci.dev);
}

static void capabilities_are_linked_in_order(void **state)
{
    struct fixture *f = *state;
    struct function *fn = function_make(f, 3);
    assert_int_equal(get(f, 3, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
    assert_int_equal(get(f, 3, PCI_CAP_POINTER, 1), 0x40);
    assert_int_equal(get(f, 3, 0x40, 4), 0x20104809);
    assert_int_equal(get(f, 3, 0x44, 4), 0x00504030);
    assert_int_equal(get(f, 3, 0x48, 4), 0x00000011);
    device_free(&fn->pci.dev);
}

static void interrupts_are_swizzled_and_shared(void **state)
{
    struct fixture *f = *state;
    struct function *a = function_make(f, 1), *b = function_make(f, 5), *c = function_make(f, 2);
    pci_function_set_intx(&a->pci, true);
    assert_true(f->lines[1] && !f->lines[0] && !f->lines[2] && !f->lines[3]);
    assert_int_equal(get(f, 1, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
    pci_function_set_intx(&b->pci, true);
    pci_function_set_intx(&a->pci, false);
    assert_true(f->lines[1]); /* b holds it */
    assert_int_equal(get(f, 1, PCI_STATUS, 2) & PCI_STATUS_INTX, 0);
    put(f, 5, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    assert_false(f->lines[1]);
    assert_int_equal(get(f, 5, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
    put(f, 5, PCI_COMMAND, 2, 0);
    assert_true(f->lines[1]);
    pci_function_set_intx(&c->pci, true);
    assert_true(f->lines[2]);
    device_reset(&c->pci.dev);
    assert_false(f->lines[2]);
    device_free(&a->pci.dev);
    device_free(&b->pci.dev);
    device_free(&c->pci.dev);
}

static void note_reading(struct pci_function *fn, unsigned offset, unsigned size)
{
    ((struct function *)fn)->n_reading++;
    fn->config[0x4c] = 0x5a;
}

static void note_written(struct pci_function *fn, unsigned offset, unsigned size)
{
    ((struct function *)fn)->n_written++;
    assert_int_equal(fn->config[PCI_CACHE_LINE], 0x12);
}

static void live_bytes_have_hooks(void **state)
{
    struct fixture *f = *state;
    struct function *fn = function_make(f, 3);
    fn->pci.config_reading = note_reading;
    fn->pci.config_written = note_written;
    assert_int_equal(get(f, 3, 0x4c, 1), 0x5a);
    put(f, 3, PCI_CACHE_LINE, 1, 0x12);
    assert_int_equal(fn->n_reading, 1);
    assert_int_equal(fn->n_written, 1);
    device_free(&fn->pci.dev);
}

static void slots_and_bars_are_taken_once(void **state)
{
    struct fixture *f = *state;
    struct function *a = function_make(f, 3), *b = function_build(f, 3, 0x4000);
    GError *error = NULL;
    assert_false(pci_host_attach(f->host, &b->pci, &error));
    assert_string_equal(error->message, "fn/3: PCI slot 3 is taken");
    g_clear_error(&error);
    b->pci.slot = 32;
    assert_false(pci_host_attach(f->host, &b->pci, &error));
    assert_string_equal(error->message, "fn/3: PCI slot 32 does not exist");
    g_clear_error(&error);
    assert_false(pci_function_add_bar(&b->pci, 1, "x", 0x1000, false, &bar_ops, b, NULL));
    assert_false(pci_function_add_bar(&b->pci, 5, "x", 0x1000, true, &bar_ops, b, NULL));
    assert_false(pci_function_add_bar(&b->pci, 0, "x", 0x1001, false, &bar_ops, b, NULL));
    assert_false(pci_function_add_bar(&b->pci, 0, "x", 8, false, &bar_ops, b, NULL));
    assert_false(pci_function_add_bar(&b->pci, 6, "x", 0x1000, false, &bar_ops, b, NULL));
    device_free(&b->pci.dev);
    assert_int_equal(get(f, 3, PCI_VENDOR_ID, 4), 0x10411af4); /* a is still there */
    device_free(&a->pci.dev);
}

static void any_access_is_harmless(void **state)
{
    struct fixture *f = *state;
    struct function *a = function_make(f, 1), *b = function_make(f, 31);
    rig_attack(f->rig, ECAM, ECAM_SIZE, 50000);
    rig_attack(f->rig, config_gpa(1, 0), 0x1000, 100000);
    rig_attack(f->rig, config_gpa(31, 0), 0x1000, 100000);
    rig_attack(f->rig, ECAM, 0x1000, 50000);
    assert_int_equal(get(f, 1, PCI_VENDOR_ID, 4), 0x10411af4);
    device_free(&a->pci.dev);
    device_free(&b->pci.dev);
}

static void a_move_puts_bars_and_interrupts_in_place(void **state)
{
    struct fixture *f = *state;
    void *other_state;
    setup(&other_state);
    struct fixture *other = other_state;
    struct function *from = function_make(f, 1), *to = function_make(other, 1);
    put(f, 1, PCI_BAR0 + 4, 4, (uint32_t)MEM32 + 0x3000);
    put(f, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    put(f, 1, PCI_INTERRUPT_LINE, 1, 33);
    pci_function_set_intx(&from->pci, true);
    rig_move_state(&from->pci.dev, &to->pci.dev);
    rig_write(other->rig, MEM32 + 0x3000, 4, 9);
    assert_int_equal(to->reg, 9);
    assert_true(pci_function_is_bus_master(&to->pci));
    assert_int_equal(get(other, 1, PCI_INTERRUPT_LINE, 1), 33);
    device_start(pci_host_device(other->host));
    assert_true(other->lines[1]);
    pci_function_set_intx(&to->pci, false);
    assert_false(other->lines[1]);
    rig_move_state(pci_host_device(f->host), pci_host_device(other->host));
    device_free(&from->pci.dev);
    device_free(&to->pci.dev);
    teardown(&other_state);
}

static void another_bar_size_is_refused(void **state)
{
    struct fixture *f = *state;
    void *other_state;
    setup(&other_state);
    struct fixture *other = other_state;
    struct function *from = function_make(f, 1), *to = function_build(other, 1, 0x8000);
    GError *error = NULL;
    assert_true(pci_host_attach(other->host, &to->pci, NULL));
    assert_false(rig_try_move_state(&from->pci.dev, &to->pci.dev, &error));
    assert_non_null(strstr(error->message, "write_mask"));
    g_clear_error(&error);
    device_free(&from->pci.dev);
    device_free(&to->pci.dev);
    teardown(&other_state);
}

static void fixed_bytes_that_came_changed_are_refused(void **state)
{
    struct fixture *f = *state;
    void *other_state;
    setup(&other_state);
    struct fixture *other = other_state;
    struct function *from = function_make(f, 1), *to = function_make(other, 1);
    GError *error = NULL;
    from->pci.config[PCI_DEVICE_ID] ^= 1;
    assert_false(rig_try_move_state(&from->pci.dev, &to->pci.dev, &error));
    assert_non_null(strstr(error->message, "PCI configuration byte 0x02 is 0x40, here 0x41"));
    g_clear_error(&error);
    from->pci.config[PCI_DEVICE_ID] ^= 1;
    from->pci.is_intx_asserted = true;
    assert_false(rig_try_move_state(&from->pci.dev, &to->pci.dev, NULL));
    device_free(&from->pci.dev);
    device_free(&to->pci.dev);
    teardown(&other_state);
}

#define PCI_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PCI_TEST(only_what_exists_answers),
        PCI_TEST(read_only_bits_stay),
        PCI_TEST(bars_are_sized_and_moved),
        PCI_TEST(bars_stay_inside_of_the_hosts_windows),
        PCI_TEST(two_bars_on_one_place_do_not_hurt),
        PCI_TEST(capabilities_are_linked_in_order),
        PCI_TEST(interrupts_are_swizzled_and_shared),
        PCI_TEST(live_bytes_have_hooks),
        PCI_TEST(slots_and_bars_are_taken_once),
        PCI_TEST(any_access_is_harmless),
        PCI_TEST(a_move_puts_bars_and_interrupts_in_place),
        PCI_TEST(another_bar_size_is_refused),
        PCI_TEST(fixed_bytes_that_came_changed_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
