/* SPDX-License-Identifier: MIT */
/* Device options and the virt board's layout and device tree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <libfdt.h>

#include "machine/device_kinds.h"
#include "machine/virt_fdt.h"

static void options_are_taken_apart(void **unused)
{
    g_autoptr(device_config_t) net = device_config_parse(
        "net", "user,hostfwd=tcp::80-:80,mac=52:54:00:00:00:01,hostfwd=tcp::81-:81", NULL);

    assert_non_null(net);
    assert_string_equal(net->backend, "user,hostfwd=tcp::80-:80,hostfwd=tcp::81-:81");
    assert_string_equal(device_config_get(net, "mac"), "52:54:00:00:00:01");

    g_autoptr(device_config_t) disk = device_config_parse("disk", "/x/y.img,ro,serial=S1", NULL);
    assert_non_null(disk);
    assert_string_equal(device_config_get(disk, "path"), "/x/y.img");
    assert_true(device_config_has(disk, "ro"));
    assert_string_equal(device_config_get(disk, "serial"), "S1");

    g_autoptr(device_config_t) rng = device_config_parse("rng", "", NULL);
    assert_non_null(rng);
}

static void wrong_options_are_named(void **unused)
{
    static const char *const rows[][3] = {
        {"net", "bridge", "net \"bridge\": expected tap, user, none"},
        {"net", "tap,ifname=a,color=red", "net: unknown option \"color\""},
        {"net", "tap,mac=1,mac=2", "net: option \"mac\" is given twice"},
        {"disk", "f,ro=1", "disk: option \"ro\" takes no value"},
        {"disk", "f,serial", "disk: option \"serial\" takes a value"},
        {"disk", "", "disk: option \"path\" is missing"},
        {"rng", "fast", "rng \"fast\": expected no value"},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(device_config_t) device = device_config_parse(rows[i][0], rows[i][1], &error);
        assert_null(device);
        assert_string_equal(error->message, rows[i][2]);
    }
}

static void regions_never_overlap(void **unused)
{
    for (unsigned shift = 26; shift <= 43; shift++)
        for (int more = 0; more < 2; more++) {
            struct virt_layout layout;
            virt_layout_init(&layout, (UINT64_C(1) << shift) + (more ? 1u << 20 : 0));
            for (int i = 0; i < VIRT_N_REGIONS; i++)
                for (int j = 0; j < i; j++) {
                    const struct virt_range *a = &layout.ranges[i], *b = &layout.ranges[j];
                    assert_true(a->gpa + a->size <= b->gpa || b->gpa + b->size <= a->gpa);
                }
            assert_int_equal(layout.ranges[VIRT_PCI_MMIO64].gpa % VIRT_PCI_MMIO64_SIZE, 0);
        }
}

static void the_tree_says_what_was_asked(void **unused)
{
    static const char *const features[] = {"zicntr", "sstc", "sv48", NULL};
    struct virt_layout layout;
    uint64_t seed_offset;
    int len;

    virt_layout_init(&layout, UINT64_C(512) << 20);
    for (unsigned n = 1; n <= VIRT_MAX_CPUS; n++) {
        const struct virt_fdt_params params = {.layout = &layout,
                                               .n_cpus = n,
                                               .cpu_features = features,
                                               .bootargs = "console=ttyS0",
                                               .initrd_gpa = 0x90000000,
                                               .initrd_bytes = 0x1234};
        g_autoptr(GBytes) bytes = virt_fdt_build(&params, &seed_offset, NULL);
        assert_non_null(bytes);
        const char *fdt = g_bytes_get_data(bytes, NULL);
        assert_int_equal(fdt_check_full(fdt, g_bytes_get_size(bytes)), 0);
        int chosen = fdt_path_offset(fdt, "/chosen");
        assert_string_equal(fdt_getprop(fdt, chosen, "bootargs", NULL), "console=ttyS0");
        const char *seed = fdt_getprop(fdt, chosen, "rng-seed", &len);
        assert_ptr_equal(seed, fdt + seed_offset);
        assert_int_equal(len, VIRT_SEED_BYTES);
        g_autofree char *last = g_strdup_printf("/cpus/cpu@%u", n - 1);
        int cpu = fdt_path_offset(fdt, last);
        assert_true(cpu > 0);
        assert_string_equal(fdt_getprop(fdt, cpu, "riscv,isa", NULL), "rv64imafdc_zicntr_sstc");
        assert_string_equal(fdt_getprop(fdt, cpu, "mmu-type", NULL), "riscv,sv48");
        int plic = fdt_path_offset(fdt, "/soc/plic@c000000");
        fdt_getprop(fdt, plic, "interrupts-extended", &len);
        assert_int_equal(len, (int)(n * 16));
    }
}

static void long_arguments_are_refused(void **unused)
{
    struct virt_layout layout;
    uint64_t seed_offset;
    g_autofree char *args = g_strnfill(1 << 20, 'x');
    g_autoptr(GError) error = NULL;

    virt_layout_init(&layout, UINT64_C(512) << 20);
    const struct virt_fdt_params params = {.layout = &layout, .n_cpus = 1, .bootargs = args};
    assert_null(virt_fdt_build(&params, &seed_offset, &error));
    assert_non_null(error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_taken_apart),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(regions_never_overlap),
        cmocka_unit_test(the_tree_says_what_was_asked),
        cmocka_unit_test(long_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
