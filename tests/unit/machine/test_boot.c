/* SPDX-License-Identifier: MIT */
/* Boot files and the boot store: what is accepted, what is refused, what comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <elf.h>

#include "machine/boot.h"

#define RAM_GPA  UINT64_C(0x80000000)
#define RAM_SIZE (UINT64_C(1) << 20)

struct world {
    struct gw_memory *memory;
    struct gw_ram_block *ram, *boot;
};

static void world_init(struct world *w)
{
    w->memory = gw_memory_new();
    w->ram = gw_memory_add_block(w->memory, "ram", RAM_GPA, RAM_SIZE, NULL);
    w->boot = gw_memory_add_block(w->memory, "boot", GW_GPA_NONE, RAM_SIZE, NULL);
    assert_non_null(w->ram);
    assert_non_null(w->boot);
}

static void what_is_stored_comes_back(void **unused)
{
    struct world w;
    struct boot_plan plan = {.entry_pc = 0x1000, .seed_gpa = RAM_GPA + 0x9000, .seed_bytes = 32};
    static uint8_t bytes[5000], zeros[32];
    uint64_t entry;

    world_init(&w);
    memset(bytes, 0xa5, sizeof bytes);
    assert_true(boot_plan_add(&plan, "a", RAM_GPA, bytes, sizeof bytes, 20000, NULL));
    assert_true(boot_plan_add(&plan, "b", RAM_GPA + 0x9000, bytes, 100, 100, NULL));
    g_autoptr(GBytes) packed = boot_pack(&plan, NULL);
    assert_non_null(packed);
    assert_false(boot_is_stored(w.boot));
    boot_store(w.boot, packed);
    assert_true(boot_is_stored(w.boot));

    memset(w.ram->host, 0xff, RAM_SIZE);
    assert_true(boot_restore(w.boot, w.memory, &entry, NULL));
    assert_int_equal(entry, 0x1000);
    assert_memory_equal(w.ram->host, bytes, sizeof bytes);
    for (size_t i = sizeof bytes; i < 20000; i++)
        assert_int_equal(w.ram->host[i], 0);
    assert_int_equal(w.ram->host[20000], 0xff);
    assert_memory_not_equal(w.ram->host + 0x9000, zeros, 32);
    assert_int_equal(w.ram->host[0x9000 + 32], 0xa5);
    gw_memory_free(w.memory);
}

static void overlaps_are_named(void **unused)
{
    struct boot_plan plan = {0};
    static const uint8_t bytes[16];
    g_autoptr(GError) error = NULL;

    assert_true(boot_plan_add(&plan, "kernel", 0x1000, bytes, 16, 0x1000, NULL));
    assert_true(boot_plan_add(&plan, "after", 0x2000, bytes, 16, 16, NULL));
    assert_false(boot_plan_add(&plan, "initrd", 0x1fff, bytes, 1, 1, &error));
    assert_string_equal(error->message,
                        "initrd at 0x1fff...0x1fff overlaps kernel at 0x1000...0x1fff");
    assert_int_equal(plan.n_segments, 2);
}

/* Every single flipped byte of the header and the table is either refused or harmless. */
static void a_hostile_store_is_bounded(void **unused)
{
    struct world w;
    struct boot_plan plan = {.entry_pc = 0x1000, .seed_gpa = RAM_GPA, .seed_bytes = 32};
    static const uint8_t bytes[4096] = {1, 2, 3};
    uint64_t entry;

    world_init(&w);
    assert_true(boot_plan_add(&plan, "a", RAM_GPA, bytes, sizeof bytes, 8192, NULL));
    assert_true(boot_plan_add(&plan, "b", RAM_GPA + 0x10000, bytes, sizeof bytes, 4096, NULL));
    g_autoptr(GBytes) packed = boot_pack(&plan, NULL);
    gsize n = g_bytes_get_size(packed);
    for (gsize i = 0; i < n; i++)
        for (int value = 0; value < 256; value += 51) {
            boot_store(w.boot, packed);
            w.boot->host[i] ^= (uint8_t)(value ? value : 1);
            boot_restore(w.boot, w.memory, &entry, NULL);
        }
    memset(w.boot->host, 0, 4096);
    assert_false(boot_restore(w.boot, w.memory, &entry, NULL));
    gw_memory_free(w.memory);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void make_elf(uint8_t *file, size_t size, Elf64_Phdr *phdr)
{
    Elf64_Ehdr ehdr = {
        .e_machine = 243,
        .e_entry = phdr->p_vaddr + 4,
        .e_phoff = sizeof ehdr,
        .e_phentsize = sizeof *phdr,
        .e_phnum = 1,
    };

    memset(file, 0, size);
    memcpy(ehdr.e_ident, ELFMAG, SELFMAG);
    ehdr.e_ident[EI_CLASS] = ELFCLASS64;
    ehdr.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(file, &ehdr, sizeof ehdr);
    memcpy(file + sizeof ehdr, phdr, sizeof *phdr);
}

static void an_elf_file_is_placed_by_physical_address(void **unused)
{
    static uint8_t file[512];
    struct image image = {0};
    Elf64_Phdr phdr = {.p_type = PT_LOAD,
                       .p_offset = 256,
                       .p_filesz = 100,
                       .p_memsz = 300,
                       .p_vaddr = 0xffffffff80000000,
                       .p_paddr = 0x80000000};

    make_elf(file, sizeof file, &phdr);
    assert_true(image_parse(&image, EM_RISCV, file, sizeof file, NULL));
    assert_int_equal(image.kind, IMAGE_ELF);
    assert_int_equal(image.entry, 0x80000004);
    assert_int_equal(image.n_segments, 1);
    assert_int_equal(image.segments[0].gpa, 0x80000000);
    assert_int_equal(image.segments[0].n_bytes, 100);
    assert_int_equal(image.segments[0].memory_bytes, 300);
}

static void a_lying_elf_file_is_refused(void **unused)
{
    static uint8_t file[512];
    static const Elf64_Phdr lies[] = {
        {.p_type = PT_LOAD, .p_offset = 500, .p_filesz = 100, .p_memsz = 100},
        {.p_type = PT_LOAD, .p_offset = UINT64_MAX, .p_filesz = 1, .p_memsz = 1},
        {.p_type = PT_LOAD, .p_filesz = 100, .p_memsz = 50},
        {.p_type = PT_LOAD, .p_filesz = 1, .p_memsz = IMAGE_MAX_BYTES + 1},
        {.p_type = PT_LOAD, .p_filesz = 1, .p_memsz = 2, .p_paddr = UINT64_MAX},
        {.p_type = PT_NOTE, .p_filesz = 1, .p_memsz = 2},
    };

    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct image image = {0};
        g_autoptr(GError) error = NULL;
        Elf64_Phdr phdr = lies[i];
        make_elf(file, sizeof file, &phdr);
        assert_false(image_parse(&image, EM_RISCV, file, sizeof file, &error));
        assert_non_null(error);
    }
    Elf64_Phdr good = {.p_type = PT_LOAD, .p_filesz = 1, .p_memsz = 1};
    make_elf(file, sizeof file, &good);
    for (size_t cut = 1; cut < sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr); cut++) {
        struct image image = {0};
        if (cut >= SELFMAG)
            assert_false(image_parse(&image, EM_RISCV, file, cut, NULL));
    }
}

static void a_linux_image_says_its_size(void **unused)
{
    static uint8_t file[4096];
    struct image image = {0};
    uint64_t text_offset = 0x200000, size = 0x100000, huge = UINT64_MAX;

    memcpy(file + 8, &text_offset, 8);
    memcpy(file + 16, &size, 8);
    memcpy(file + 56, "RSC\x05", 4);
    assert_true(image_parse(&image, EM_RISCV, file, sizeof file, NULL));
    assert_int_equal(image.kind, IMAGE_LINUX);
    assert_int_equal(image.text_offset, 0x200000);
    assert_int_equal(image.memory_bytes, 0x100000);
    memcpy(file + 16, &huge, 8);
    assert_false(image_parse(&image, EM_RISCV, file, sizeof file, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_stored_comes_back),
        cmocka_unit_test(overlaps_are_named),
        cmocka_unit_test(a_hostile_store_is_bounded),
        cmocka_unit_test(an_elf_file_is_placed_by_physical_address),
        cmocka_unit_test(a_lying_elf_file_is_refused),
        cmocka_unit_test(a_linux_image_says_its_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
