/* SPDX-License-Identifier: MIT */
/*
 * The `pc` board's ACPI tables: found as a kernel finds them, sums and lengths right, what they say
 * of CPUs and devices, and understood by ACPICA's disassembler where it is installed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <unistd.h>

#include "machine/acpi.h"
#include "machine/pc.h"

#define HEADER_BYTES 36u

struct tables {
    GBytes *bytes;
    const uint8_t *data;
    gsize size;
};

static uint64_t get(const uint8_t *at, unsigned n_bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n_bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static void assert_sum(const uint8_t *bytes, gsize n_bytes)
{
    uint8_t sum = 0;

    for (gsize i = 0; i < n_bytes; i++)
        sum = (uint8_t)(sum + bytes[i]);
    assert_int_equal(sum, 0);
}

static void tables_init(struct tables *tables, unsigned n_cpus)
{
    tables->bytes = acpi_build(n_cpus);
    tables->data = g_bytes_get_data(tables->bytes, &tables->size);
    assert_true(tables->size <= PC_ACPI_BYTES);
}

/* A table by its address, checked as a whole. */
static const uint8_t *table_at(const struct tables *tables, uint64_t gpa, const char *signature)
{
    assert_true(gpa >= PC_ACPI_GPA && gpa + HEADER_BYTES <= PC_ACPI_GPA + tables->size);
    const uint8_t *table = tables->data + (gpa - PC_ACPI_GPA);
    uint64_t length = get(table + 4, 4);
    assert_memory_equal(table, signature, 4);
    assert_true(gpa - PC_ACPI_GPA + length <= tables->size);
    if (strcmp(signature, "FACS") != 0)
        assert_sum(table, length);
    return table;
}

/* A table by its name, through RSDP and XSDT. */
static const uint8_t *table_named(const struct tables *tables, const char *signature)
{
    assert_memory_equal(tables->data, "RSD PTR ", 8);
    assert_sum(tables->data, 20);
    assert_sum(tables->data, 36);
    const uint8_t *xsdt = table_at(tables, get(tables->data + 24, 8), "XSDT");
    for (uint64_t at = HEADER_BYTES; at < get(xsdt + 4, 4); at += 8) {
        uint64_t gpa = get(xsdt + at, 8);
        if (memcmp(tables->data + (gpa - PC_ACPI_GPA), signature, 4) == 0)
            return table_at(tables, gpa, signature);
    }
    fail_msg("no table %s", signature);
    return NULL;
}

static void the_fadt_names_ports_and_tables(void **unused)
{
    struct tables tables;

    tables_init(&tables, 1);
    const uint8_t *fadt = table_named(&tables, "FACP");
    assert_int_equal(get(fadt + 4, 4), 276);
    uint64_t facs = get(fadt + 36, 4);
    assert_int_equal(facs % 64, 0);
    assert_int_equal(get(table_at(&tables, facs, "FACS") + 4, 4), 64);
    assert_int_equal(get(fadt + 40, 4), get(fadt + 140, 8));
    table_at(&tables, get(fadt + 140, 8), "DSDT");
    assert_int_equal(get(fadt + 46, 2), PC_IRQ_SCI);
    assert_int_equal(get(fadt + 48, 4), 0); /* no SMI */
    assert_int_equal(get(fadt + 56, 4), PC_PORT_PM1);
    assert_int_equal(get(fadt + 64, 4), PC_PORT_PM1 + 4);
    assert_int_equal(get(fadt + 88, 1), 4);
    assert_int_equal(get(fadt + 89, 1), 2);
    assert_int_equal(get(fadt + 108, 1), 0x32);         /* century */
    assert_int_equal(get(fadt + 112, 4) & (1 << 4), 0); /* the power button is a fixed one */
    assert_int_not_equal(get(fadt + 112, 4) & (1 << 10), 0);
    assert_int_equal(get(fadt + 116, 1), 1); /* the reset register: a port of one byte */
    assert_int_equal(get(fadt + 117, 1), 8);
    assert_int_equal(get(fadt + 120, 8), PC_PORT_RESET);
    assert_int_equal(get(fadt + 128, 1), 0xfe);
    assert_int_equal(get(fadt + 152, 8), PC_PORT_PM1);
    assert_int_equal(get(fadt + 176, 8), PC_PORT_PM1 + 4);
    g_bytes_unref(tables.bytes);
}

static void count_cpus(unsigned n_cpus)
{
    struct tables tables;
    unsigned n_found = 0, n_ioapics = 0, n_overrides = 0;

    tables_init(&tables, n_cpus);
    const uint8_t *madt = table_named(&tables, "APIC");
    assert_int_equal(get(madt + 36, 4), PC_LAPIC_GPA);
    uint64_t at = 44, end = get(madt + 4, 4);
    while (at < end) {
        switch (madt[at]) {
        case 0:
            assert_int_equal(madt[at + 3], n_found);
            assert_int_equal(get(madt + at + 4, 4), 1);
            n_found++;
            break;
        case 1:
            assert_int_equal(get(madt + at + 4, 4), PC_IOAPIC_GPA);
            n_ioapics++;
            break;
        case 2:
            if (madt[at + 3] == PC_IRQ_TIMER)
                assert_int_equal(get(madt + at + 4, 4), PC_TIMER_PIN);
            n_overrides++;
            break;
        }
        assert_true(madt[at + 1] >= 2);
        at += madt[at + 1];
    }
    assert_int_equal(at, end);
    assert_int_equal(n_found, n_cpus);
    assert_int_equal(n_ioapics, 1);
    assert_int_equal(n_overrides, 2);
    g_bytes_unref(tables.bytes);
}

static void the_madt_lists_every_cpu(void **unused)
{
    for (unsigned n_cpus = 1; n_cpus <= PC_MAX_CPUS; n_cpus++)
        count_cpus(n_cpus);
}

static void the_mcfg_names_the_configuration_space(void **unused)
{
    struct tables tables;

    tables_init(&tables, 1);
    const uint8_t *mcfg = table_named(&tables, "MCFG");
    assert_int_equal(get(mcfg + 4, 4), 60);
    assert_int_equal(get(mcfg + 44, 8), PC_ECAM_GPA);
    assert_int_equal(PC_ECAM_BYTES, (mcfg[55] - mcfg[54] + 1) << 20);
    g_bytes_unref(tables.bytes);
}

/* ---- ACPICA ---------------------------------------------------------------------------------- */

static char *disassemble(const char *folder, const char *name, const uint8_t *table)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autofree char *source = g_strdup_printf("%s.dsl", path);
    g_autofree char *said = NULL;
    char *argv[] = {(char *)"iasl", (char *)"-d", path, NULL};
    char *text;
    int status;

    assert_true(g_file_set_contents(path, (const char *)table, (gssize)get(table + 4, 4), NULL));
    assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL,
                             NULL, NULL, &said, NULL, &status, NULL));
    assert_true(g_spawn_check_wait_status(status, NULL));
    assert_true(g_file_get_contents(source, &text, NULL, NULL));
    g_unlink(path);
    g_unlink(source);
    return text;
}

static void acpica_understands_them(void **unused)
{
    static const char *const in_dsdt[] = {
        "Name (\\_S5, Package (0x04)",
        "EisaId (\"PNP0A03\")",
        "EisaId (\"PNP0C02\")",
        "EisaId (\"PNP0501\")",
        "EisaId (\"PNP0B00\")",
        "0xC0000000,         // Range Minimum",
        "0xDFFFFFFF,         // Range Maximum",
        "0xE0000000,         // Address Base",
        "0x03F8,             // Range Minimum",
        "{4}",
    };
    g_autofree char *iasl = g_find_program_in_path("iasl");
    g_autofree char *folder = g_dir_make_tmp("gw-acpi-XXXXXX", NULL);
    struct tables tables;

    assert_non_null(folder);
    tables_init(&tables, 3);
    const uint8_t *fadt = table_named(&tables, "FACP");
    if (iasl) {
        g_autofree char *dsdt =
            disassemble(folder, "dsdt", table_at(&tables, get(fadt + 140, 8), "DSDT"));
        for (size_t i = 0; i < G_N_ELEMENTS(in_dsdt); i++)
            if (!strstr(dsdt, in_dsdt[i]))
                fail_msg("no %s in %s", in_dsdt[i], dsdt);
        assert_null(strstr(dsdt, "Unknown"));
        static const char *const others[] = {"FACP", "APIC", "MCFG"};
        for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
            g_autofree char *text = disassemble(folder, others[i], table_named(&tables, others[i]));
            assert_null(strstr(text, "Invalid"));
            assert_null(strstr(text, "Unknown"));
        }
    }
    g_rmdir(folder);
    g_bytes_unref(tables.bytes);
    if (!iasl)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fadt_names_ports_and_tables),
        cmocka_unit_test(the_madt_lists_every_cpu),
        cmocka_unit_test(the_mcfg_names_the_configuration_space),
        cmocka_unit_test(acpica_understands_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
