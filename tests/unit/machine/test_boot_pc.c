/* SPDX-License-Identifier: MIT */
/* Boot files of the `pc` board: what of a bzImage is believed, and where everything goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <elf.h>
#include <glib/gstdio.h>
#include <unistd.h>

#include "godwit/error.h"
#include "machine/boot_pc.h"
#include "machine/bzimage.h"
#include "machine/pc.h"

#define MIB(n)        ((uint64_t)(n) << 20)
#define GIB(n)        ((uint64_t)(n) << 30)
#define SETUP_SECTORS 3u
#define SETUP_BYTES   ((SETUP_SECTORS + 1) * 512)
#define KERNEL_BYTES  5000u
#define FILE_BYTES    (SETUP_BYTES + KERNEL_BYTES)
#define INIT_BYTES    MIB(8)

static void put(uint8_t *to, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *at, unsigned n_bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n_bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* A header as a kernel of today has it. */
static void make(uint8_t file[FILE_BYTES])
{
    memset(file, 0, SETUP_BYTES);
    memset(file + SETUP_BYTES, 0x90, KERNEL_BYTES);
    file[0x1f1] = SETUP_SECTORS;
    put(file + 0x1fe, 0xaa55, 2);
    file[0x201] = 0x6a; /* the header ends at 0x26c */
    memcpy(file + 0x202, "HdrS", 4);
    put(file + 0x206, 0x020f, 2);
    file[0x211] = 1;
    put(file + 0x22c, 0x7fffffff, 4);
    put(file + 0x230, MIB(2), 4);
    file[0x234] = 1;
    put(file + 0x236, 0x7f, 2);
    put(file + 0x238, 2047, 4);
    put(file + 0x258, MIB(16), 8);
    put(file + 0x260, INIT_BYTES, 4);
}

static void a_header_of_today_is_understood(void **unused)
{
    uint8_t file[FILE_BYTES];
    struct bzimage image;

    make(file);
    assert_true(bzimage_is(file, sizeof file));
    assert_true(bzimage_parse(&image, file, sizeof file, NULL));
    assert_ptr_equal(image.kernel, file + SETUP_BYTES);
    assert_int_equal(image.kernel_bytes, KERNEL_BYTES);
    assert_int_equal(image.init_bytes, INIT_BYTES);
    assert_int_equal(image.preferred_gpa, MIB(16));
    assert_int_equal(image.header_bytes, 0x26c - 0x1f1);
    assert_int_equal(image.initrd_last_gpa, 0x7fffffff);
    assert_int_equal(image.cmdline_bytes, 2047);
}

static void wrong_headers_are_named(void **unused)
{
    static const struct {
        unsigned at, n_bytes;
        uint64_t value;
        const char *what;
    } changes[] = {
        {0x206, 2, 0x020b, "the boot protocol's version is 0x20b, expected 0x20c or later"},
        {0x236, 2, 0x7e, "xloadflags is 0x7e, expected a 64-bit entry (bit 0)"},
        {0x211, 1, 0x80, "loadflags is 0x80, expected a kernel for above 1 MiB (bit 0)"},
        {0x1f1, 1, 64, "setup_sects is 0x40, expected less than the file has"},
        {0x201, 1, 0x10, "the header's end is 0x212, expected 0x264 to 0x290"},
        {0x201, 1, 0xff, "the header's end is 0x301, expected 0x264 to 0x290"},
        {0x260, 4, 0xffffffff, "init_size is 0xffffffff, expected at most 1 GiB"},
        {0x230, 4, 0, "kernel_alignment is 0x0, expected a power of two up to 1 GiB"},
        {0x230, 4, MIB(3), "kernel_alignment is 0x300000, expected a power of two up to 1 GiB"},
        {0x230, 4, GIB(2), "kernel_alignment is 0x80000000, expected a power of two up to 1 GiB"},
        {0x258, 8, 0x1000, "pref_address is 0x1000, expected 1 MiB to 4 GiB"},
        {0x258, 8, UINT64_MAX, "pref_address is 0xffffffffffffffff, expected 1 MiB to 4 GiB"},
    };
    uint8_t file[FILE_BYTES];
    struct bzimage image;

    for (size_t i = 0; i < G_N_ELEMENTS(changes); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *expected = g_strdup_printf("bzImage: %s", changes[i].what);
        make(file);
        put(file + changes[i].at, changes[i].value, changes[i].n_bytes);
        assert_false(bzimage_parse(&image, file, sizeof file, &error));
        assert_string_equal(error->message, expected);
    }
}

static void files_cut_anywhere_are_refused(void **unused)
{
    uint8_t file[FILE_BYTES];
    struct bzimage image;

    make(file);
    for (uint64_t n_bytes = 0x206; n_bytes <= SETUP_BYTES + BZIMAGE_ENTRY_OFFSET; n_bytes++) {
        /* In memory of its own, so that a sanitizer sees what reads beyond. */
        g_autofree uint8_t *cut = g_memdup2(file, n_bytes);
        assert_false(bzimage_parse(&image, cut, n_bytes, NULL));
    }
}

/* ---- plans ----------------------------------------------------------------------------------- */

struct world {
    struct machine_config config;
    struct boot_plan plan;
    GPtrArray *keep;
    uint8_t file[FILE_BYTES];
    GError *error;
};

static int setup(void **state)
{
    struct world *w = g_new0(struct world, 1);

    w->config.memory_bytes = MIB(64);
    w->config.n_cpus = 1;
    w->keep = boot_keep_new();
    make(w->file);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;

    g_ptr_array_unref(w->keep);
    g_clear_error(&w->error);
    g_free(w);
    return 0;
}

static bool plan(struct world *w)
{
    return boot_pc_plan_kernel(&w->config, w->file, sizeof w->file, &w->plan, w->keep, &w->error);
}

static const struct boot_segment *segment(const struct world *w, const char *what)
{
    for (unsigned i = 0; i < w->plan.n_segments; i++)
        if (strcmp(w->plan.segments[i].what, what) == 0)
            return &w->plan.segments[i];
    fail_msg("nothing is placed as %s", what);
    return NULL;
}

/* The memory map that the kernel is given, as one line. */
static char *memory_map(const struct world *w)
{
    const uint8_t *page = segment(w, "zero page")->bytes;
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < page[0x1e8]; i++) {
        const uint8_t *entry = page + 0x2d0 + 20 * i;
        g_string_append_printf(text, "%s%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x %u",
                               i ? ", " : "", get(entry, 8), get(entry, 8) + get(entry + 8, 8),
                               (unsigned)get(entry + 16, 4));
    }
    return g_string_free(text, FALSE);
}

static void a_kernel_gets_what_the_protocol_says(void **state)
{
    struct world *w = *state;

    w->config.append = "console=ttyS0";
    assert_true(plan(w));
    const struct boot_segment *kernel = segment(w, "kernel");
    assert_int_equal(kernel->gpa, MIB(16));
    assert_int_equal(kernel->n_bytes, KERNEL_BYTES);
    assert_int_equal(w->plan.entry_pc, MIB(16) + 0x200);
    const uint8_t *page = segment(w, "zero page")->bytes;
    assert_int_equal(segment(w, "zero page")->gpa, PC_ZERO_PAGE_GPA);
    assert_memory_equal(page + 0x22c, w->file + 0x22c, 0x250 - 0x22c);
    assert_int_equal(page[0x210], 0xff);
    assert_int_equal(get(page + 0x70, 8), PC_ACPI_GPA);
    assert_int_equal(get(page + 0x228, 4), PC_CMDLINE_GPA);
    assert_int_equal(get(page + 0x218, 4), 0);
    assert_string_equal((const char *)segment(w, "command line")->bytes, "console=ttyS0");
    assert_int_equal(segment(w, "ACPI tables")->gpa, PC_ACPI_GPA);
    const uint8_t *seed = segment(w, "random seed")->bytes;
    assert_int_equal(get(page + 0x250, 8), PC_SEED_GPA);
    assert_int_equal(get(seed + 8, 4), 9);
    assert_int_equal(get(seed + 12, 4), w->plan.seed_bytes);
    assert_int_equal(w->plan.seed_gpa, PC_SEED_GPA + 16);
    g_autofree char *map = memory_map(w);
    assert_string_equal(map, "0-a0000 1, a0000-100000 2, 100000-4000000 1, e0000000-e0100000 2, "
                             "fffbc000-100000000 2");
}

/* Walks the page tables as the processor does. */
static void four_gib_are_mapped_to_themselves(void **state)
{
    struct world *w = *state;

    assert_true(plan(w));
    const struct boot_segment *tables = segment(w, "page tables");
    assert_int_equal(tables->gpa, PC_TABLES_GPA);
    for (uint64_t address = 0; address < GIB(4); address += MIB(2)) {
        uint64_t table = PC_TABLES_GPA;
        for (unsigned shift = 39; shift > 21; shift -= 9) {
            uint64_t entry =
                get(tables->bytes + (table - PC_TABLES_GPA) + 8 * (address >> shift & 511), 8);
            assert_int_equal(entry & 0xfff, 3);
            table = entry & ~UINT64_C(0xfff);
            assert_true(table - PC_TABLES_GPA < tables->n_bytes);
        }
        uint64_t leaf = get(tables->bytes + (table - PC_TABLES_GPA) + 8 * (address >> 21 & 511), 8);
        assert_int_equal(leaf, address | 0x83);
    }
}

static void memory_goes_around_the_hole(void **state)
{
    struct world *w = *state;
    g_autofree char *map = NULL;

    w->config.memory_bytes = GIB(5);
    assert_true(plan(w));
    map = memory_map(w);
    assert_string_equal(map, "0-a0000 1, a0000-100000 2, 100000-c0000000 1, e0000000-e0100000 2, "
                             "fffbc000-100000000 2, 100000000-180000000 1");
}

static void without_room_the_kernel_moves_or_is_refused(void **state)
{
    struct world *w = *state;

    w->config.memory_bytes = MIB(20);
    assert_true(plan(w));
    assert_int_equal(segment(w, "kernel")->gpa, MIB(2));
    assert_int_equal(w->plan.entry_pc, MIB(2) + 0x200);

    w->plan = (struct boot_plan){0};
    w->file[0x234] = 0;
    assert_false(plan(w));
    assert_string_equal(w->error->message,
                        "bzImage needs 0x800000 bytes at 0x1000000, RAM ends at 0x1400000");
}

static void a_long_command_line_is_refused(void **state)
{
    struct world *w = *state;
    g_autofree char *text = g_strnfill(2048, 'x');

    w->config.append = text;
    assert_false(plan(w));
    assert_string_equal(w->error->message,
                        "the kernel's command line has 2048 bytes, at most 2047 are taken");
}

static char *initrd_of(uint64_t n_bytes)
{
    char *path;
    int fd = g_file_open_tmp("gw-initrd-XXXXXX", &path, NULL);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)n_bytes), 0);
    close(fd);
    return path;
}

static void the_initrd_is_at_the_end_of_what_the_kernel_reaches(void **state)
{
    struct world *w = *state;
    g_autofree char *path = initrd_of(5000);

    w->config.initrd = path;
    assert_true(plan(w));
    assert_int_equal(segment(w, "initrd")->gpa, MIB(64) - 2 * GW_PAGE_SIZE);
    const uint8_t *page = segment(w, "zero page")->bytes;
    assert_int_equal(get(page + 0x218, 4), MIB(64) - 2 * GW_PAGE_SIZE);
    assert_int_equal(get(page + 0x21c, 4), 5000);

    w->plan = (struct boot_plan){0};
    w->config.memory_bytes = GIB(3);
    assert_true(plan(w));
    assert_int_equal(segment(w, "initrd")->gpa, GIB(2) - 2 * GW_PAGE_SIZE);
    g_unlink(path);
}

static void an_initrd_without_room_is_refused(void **state)
{
    struct world *w = *state;
    g_autofree char *large = initrd_of(MIB(64) - MIB(16) - INIT_BYTES + 1);
    g_autofree char *empty = initrd_of(0);

    w->config.initrd = large;
    assert_false(plan(w));
    assert_non_null(strstr(w->error->message, "41943041 bytes, 41943040 are free"));
    g_clear_error(&w->error);
    w->plan = (struct boot_plan){0};
    w->config.initrd = empty;
    assert_false(plan(w));
    g_unlink(large);
    g_unlink(empty);
}

static void raw_programs_are_entered_at_one_mib(void **state)
{
    struct world *w = *state;
    static const uint8_t program[] = {0xf4};

    assert_true(boot_pc_plan_kernel(&w->config, program, sizeof program, &w->plan, w->keep, NULL));
    assert_int_equal(w->plan.entry_pc, PC_KERNEL_GPA);
    assert_int_equal(segment(w, "kernel")->gpa, PC_KERNEL_GPA);
}

static void elf_programs_of_other_machines_are_refused(void **state)
{
    struct world *w = *state;
    Elf64_Ehdr ehdr = {.e_machine = EM_RISCV};

    memcpy(ehdr.e_ident, ELFMAG, SELFMAG);
    ehdr.e_ident[EI_CLASS] = ELFCLASS64;
    ehdr.e_ident[EI_DATA] = ELFDATA2LSB;
    assert_false(boot_pc_plan_kernel(&w->config, (const uint8_t *)&ehdr, sizeof ehdr, &w->plan,
                                     w->keep, &w->error));
    assert_string_equal(w->error->message,
                        "ELF file is not for 64-bit little-endian x86-64 (machine 243)");
}

static void firmware_ends_at_four_gib_and_at_one_mib(void **state)
{
    struct world *w = *state;
    g_autofree char *path = initrd_of(0x30000), *large = initrd_of(PC_ROM_BYTES + 1);

    w->config.bios = path;
    assert_true(boot_pc_plan(&w->config, &w->plan, w->keep, NULL));
    assert_int_equal(w->plan.entry_pc, BOOT_PC_REAL_ENTRY);
    assert_int_equal(segment(w, "firmware")->gpa, GIB(4) - 0x30000);
    assert_int_equal(segment(w, "firmware below 1 MiB")->gpa, 0xe0000);
    assert_int_equal(segment(w, "firmware below 1 MiB")->n_bytes, 0x20000);
    assert_ptr_equal(segment(w, "firmware below 1 MiB")->bytes,
                     segment(w, "firmware")->bytes + 0x10000);

    w->plan = (struct boot_plan){0};
    w->config.bios = large;
    assert_false(boot_pc_plan(&w->config, &w->plan, w->keep, &w->error));
    assert_non_null(strstr(w->error->message, "is no raw image of at most 256 KiB"));
    g_clear_error(&w->error);
    w->config.kernel = path;
    assert_false(boot_pc_plan(&w->config, &w->plan, w->keep, &w->error));
    assert_string_equal(w->error->message, "machine pc takes firmware or a kernel, not both");
    g_unlink(path);
    g_unlink(large);
}

#define WORLD_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_of_today_is_understood),
        cmocka_unit_test(wrong_headers_are_named),
        cmocka_unit_test(files_cut_anywhere_are_refused),
        WORLD_TEST(a_kernel_gets_what_the_protocol_says),
        WORLD_TEST(four_gib_are_mapped_to_themselves),
        WORLD_TEST(memory_goes_around_the_hole),
        WORLD_TEST(without_room_the_kernel_moves_or_is_refused),
        WORLD_TEST(a_long_command_line_is_refused),
        WORLD_TEST(the_initrd_is_at_the_end_of_what_the_kernel_reaches),
        WORLD_TEST(an_initrd_without_room_is_refused),
        WORLD_TEST(raw_programs_are_entered_at_one_mib),
        WORLD_TEST(elf_programs_of_other_machines_are_refused),
        WORLD_TEST(firmware_ends_at_four_gib_and_at_one_mib),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
