/* SPDX-License-Identifier: MIT */
/*
 * The `pc` board's boot plan.
 *
 * SPEC: Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"; zero-page.rst.
 *
 * A kernel (bzImage, or ELF or raw bytes of a bare-metal program) is entered in long mode, with an
 * identity map of the first 4 GiB and the zero page in rsi. A bzImage goes where it prefers to be,
 * or, when there is no RAM, to the first place above 1 MiB that it may be moved to; the initrd to
 * the end of RAM below the hole. ELF files say where they go; raw bytes go to 1 MiB.
 *
 * Firmware is entered in real mode as after power-on. Its image ends at 4 GiB, and its last 128 KiB
 * are found at the end of the first MiB too, where execution begins. It gets no tables from us.
 */
#include "machine/boot_pc.h"

#include <elf.h>
#include <string.h>

#include "godwit/error.h"
#include "machine/acpi.h"
#include "machine/bzimage.h"
#include "machine/image.h"
#include "machine/pc.h"

#define HEX           "0x%" G_GINT64_MODIFIER "x"
#define SHADOW_BYTES  0x20000u /* of the firmware below 1 MiB */
#define SEED_BYTES    32u
#define MAX_E820      8u
#define PAGE_BYTES    0x1000u
#define N_DIRECTORIES 4u /* each maps 1 GiB with pages of 2 MiB */

/* Offsets in the zero page. */
enum {
    ZP_ACPI_RSDP = 0x070,
    ZP_INITRD_HIGH = 0x0c0,
    ZP_INITRD_BYTES_HIGH = 0x0c4,
    ZP_CMDLINE_HIGH = 0x0c8,
    ZP_E820_ENTRIES = 0x1e8,
    ZP_BOOT_FLAG = 0x1fe,
    ZP_MAGIC = 0x202,
    ZP_VERSION = 0x206,
    ZP_LOADER = 0x210,
    ZP_INITRD = 0x218,
    ZP_INITRD_BYTES = 0x21c,
    ZP_CMDLINE = 0x228,
    ZP_SETUP_DATA = 0x250,
    ZP_E820_TABLE = 0x2d0,
    ZP_BYTES = 0x1000,
};

#define LOADER_UNREGISTERED 0xff
#define SETUP_RNG_SEED      9

enum e820_type { E820_RAM = 1, E820_RESERVED = 2 };

/* What the files say, while the plan is made. */
struct placement {
    const struct machine_config *config;
    struct boot_plan *plan;
    GPtrArray *keep;
    uint64_t low_end;       /* of RAM below the hole */
    uint64_t free_from;     /* first byte of RAM above 1 MiB after the kernel */
    uint64_t initrd_last;   /* the kernel's limit */
    uint64_t cmdline_bytes; /* the kernel's limit */
    uint8_t *zero_page;
};

static void put(uint8_t *to, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

/* Zeroed bytes that live until the plan is packed. */
static uint8_t *keep_new(struct placement *at, size_t n_bytes)
{
    uint8_t *bytes = g_malloc0(n_bytes);

    boot_keep(at->keep, bytes, g_free);
    return bytes;
}

/* ---- kernels --------------------------------------------------------------------------------- */

static bool place_bzimage(struct placement *at, const uint8_t *bytes, uint64_t n_bytes,
                          GError **error)
{
    struct bzimage image;

    if (!bzimage_parse(&image, bytes, n_bytes, error))
        return false;
    uint64_t gpa = image.preferred_gpa;
    if (image.is_relocatable && (gpa >= at->low_end || image.init_bytes > at->low_end - gpa))
        gpa = (PC_KERNEL_GPA + image.alignment - 1) / image.alignment * image.alignment;
    if (gpa >= at->low_end || image.init_bytes > at->low_end - gpa) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "bzImage needs " HEX " bytes at " HEX ", RAM ends at " HEX, image.init_bytes,
                    gpa, at->low_end);
        return false;
    }
    memcpy(at->zero_page + BZIMAGE_HEADER_OFFSET, image.header, image.header_bytes);
    at->plan->entry_pc = gpa + BZIMAGE_ENTRY_OFFSET;
    at->free_from = gpa + image.init_bytes;
    at->initrd_last = image.initrd_last_gpa;
    at->cmdline_bytes = MIN(image.cmdline_bytes, PC_CMDLINE_BYTES - 1);
    return boot_plan_add(at->plan, "kernel", gpa, image.kernel, image.kernel_bytes,
                         image.kernel_bytes, error);
}

/* ELF or raw: what a bare-metal program is linked to. */
static bool place_bare(struct placement *at, const uint8_t *bytes, uint64_t n_bytes, GError **error)
{
    struct image image;
    uint64_t end;

    if (!image_parse(&image, EM_X86_64, bytes, n_bytes, error) ||
        !boot_plan_add_image(at->plan, "kernel", &image, PC_KERNEL_GPA, &at->plan->entry_pc, &end,
                             error))
        return false;
    if (at->plan->entry_pc == BOOT_PC_REAL_ENTRY) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "the entry at " HEX " is the place of real-mode firmware", at->plan->entry_pc);
        return false;
    }
    at->free_from = MAX(end, PC_KERNEL_GPA);
    at->initrd_last = UINT32_MAX;
    at->cmdline_bytes = PC_CMDLINE_BYTES - 1;
    return true;
}

/* ---- what the kernel is given ---------------------------------------------------------------- */

static bool place_initrd(struct placement *at, GError **error)
{
    GMappedFile *file = image_map(at->config->initrd, "initrd", error);

    if (!file)
        return false;
    boot_keep(at->keep, file, (GDestroyNotify)g_mapped_file_unref);
    uint64_t n_bytes = g_mapped_file_get_length(file);
    uint64_t end = MIN(at->low_end, at->initrd_last + 1) & ~(GW_PAGE_SIZE - 1);
    uint64_t free_bytes = end > at->free_from ? end - at->free_from : 0;
    uint64_t gpa = (end - n_bytes) & ~(GW_PAGE_SIZE - 1);
    if (n_bytes == 0 || n_bytes > free_bytes || gpa < at->free_from) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "initrd \"%s\" has %" G_GUINT64_FORMAT " bytes, %" G_GUINT64_FORMAT
                    " are free between kernel and " HEX,
                    at->config->initrd, n_bytes, free_bytes, end);
        return false;
    }
    put(at->zero_page + ZP_INITRD, gpa, 4);
    put(at->zero_page + ZP_INITRD_BYTES, n_bytes, 4);
    put(at->zero_page + ZP_INITRD_HIGH, gpa >> 32, 4);
    put(at->zero_page + ZP_INITRD_BYTES_HIGH, n_bytes >> 32, 4);
    return boot_plan_add(at->plan, "initrd", gpa, (const uint8_t *)g_mapped_file_get_contents(file),
                         n_bytes, n_bytes, error);
}

static bool place_cmdline(struct placement *at, GError **error)
{
    const char *text = at->config->append ? at->config->append : "";
    size_t n_bytes = strlen(text);

    if (n_bytes > at->cmdline_bytes) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "the kernel's command line has %zu bytes, at most %" G_GUINT64_FORMAT
                    " are taken",
                    n_bytes, at->cmdline_bytes);
        return false;
    }
    uint8_t *copy = keep_new(at, n_bytes + 1);
    memcpy(copy, text, n_bytes);
    put(at->zero_page + ZP_CMDLINE, PC_CMDLINE_GPA, 4);
    return boot_plan_add(at->plan, "command line", PC_CMDLINE_GPA, copy, n_bytes + 1, n_bytes + 1,
                         error);
}

/* SPEC: zero-page.rst: {u64 next, u32 type, u32 len}, then random bytes, fresh at every reset. */
static bool place_seed(struct placement *at, GError **error)
{
    enum { HEADER_BYTES = 16 };
    uint8_t *bytes = keep_new(at, HEADER_BYTES + SEED_BYTES);

    put(bytes + 8, SETUP_RNG_SEED, 4);
    put(bytes + 12, SEED_BYTES, 4);
    at->plan->seed_gpa = PC_SEED_GPA + HEADER_BYTES;
    at->plan->seed_bytes = SEED_BYTES;
    put(at->zero_page + ZP_SETUP_DATA, PC_SEED_GPA, 8);
    return boot_plan_add(at->plan, "random seed", PC_SEED_GPA, bytes, HEADER_BYTES + SEED_BYTES,
                         HEADER_BYTES + SEED_BYTES, error);
}

static void add_e820(struct placement *at, uint64_t gpa, uint64_t end, enum e820_type type)
{
    uint8_t *n = at->zero_page + ZP_E820_ENTRIES;
    uint8_t *entry = at->zero_page + ZP_E820_TABLE + *n * 20u;

    g_assert(*n < MAX_E820);
    put(entry, gpa, 8);
    put(entry + 8, end - gpa, 8);
    put(entry + 16, type, 4);
    ++*n;
}

static void fill_memory_map(struct placement *at)
{
    uint64_t high_bytes = at->config->memory_bytes - at->low_end;

    add_e820(at, 0, PC_BASE_END_GPA, E820_RAM);
    add_e820(at, PC_BASE_END_GPA, PC_KERNEL_GPA, E820_RESERVED);
    add_e820(at, PC_KERNEL_GPA, at->low_end, E820_RAM);
    add_e820(at, PC_ECAM_GPA, PC_ECAM_GPA + PC_ECAM_BYTES, E820_RESERVED);
    add_e820(at, PC_HELPERS_GPA, PC_HIGH_GPA, E820_RESERVED);
    if (high_bytes)
        add_e820(at, PC_HIGH_GPA, PC_HIGH_GPA + high_bytes, E820_RAM);
}

static bool place_zero_page(struct placement *at, GError **error)
{
    uint8_t *page = at->zero_page;

    fill_memory_map(at);
    put(page + ZP_BOOT_FLAG, 0xaa55, 2);
    memcpy(page + ZP_MAGIC, "HdrS", 4);
    page[ZP_LOADER] = LOADER_UNREGISTERED;
    put(page + ZP_ACPI_RSDP, PC_ACPI_GPA, 8);
    return boot_plan_add(at->plan, "zero page", PC_ZERO_PAGE_GPA, page, ZP_BYTES, ZP_BYTES, error);
}

static bool place_acpi(struct placement *at, GError **error)
{
    GBytes *tables = acpi_build(at->config->n_cpus);

    boot_keep(at->keep, tables, (GDestroyNotify)g_bytes_unref);
    return boot_plan_add(at->plan, "ACPI tables", PC_ACPI_GPA, g_bytes_get_data(tables, NULL),
                         g_bytes_get_size(tables), g_bytes_get_size(tables), error);
}

/* SPEC: Intel SDM 3, 4.5: one root, one directory pointer table, four directories. */
static bool place_page_tables(struct placement *at, GError **error)
{
    enum { PRESENT_WRITABLE = 3, LARGE = 0x80, N_ENTRIES = 512 };
    const size_t n_bytes = (2 + N_DIRECTORIES) * PAGE_BYTES;
    uint8_t *root = keep_new(at, n_bytes);
    uint8_t *pointers = root + PAGE_BYTES, *directories = pointers + PAGE_BYTES;

    put(root, (PC_TABLES_GPA + PAGE_BYTES) | PRESENT_WRITABLE, 8);
    for (unsigned i = 0; i < N_DIRECTORIES; i++)
        put(pointers + 8 * i, (PC_TABLES_GPA + (2 + i) * PAGE_BYTES) | PRESENT_WRITABLE, 8);
    for (uint64_t i = 0; i < N_DIRECTORIES * N_ENTRIES; i++)
        put(directories + 8 * i, i << 21 | PRESENT_WRITABLE | LARGE, 8);
    return boot_plan_add(at->plan, "page tables", PC_TABLES_GPA, root, n_bytes, n_bytes, error);
}

/* SPEC: Intel SDM 3, 3.4.5: flat segments, code at 0x10 and data at 0x18, marked as accessed. */
static bool place_gdt(struct placement *at, GError **error)
{
    uint8_t *gdt = keep_new(at, PC_GDT_BYTES);

    put(gdt + 0x10, UINT64_C(0x00af9b000000ffff), 8);
    put(gdt + 0x18, UINT64_C(0x00cf93000000ffff), 8);
    return boot_plan_add(at->plan, "GDT", PC_GDT_GPA, gdt, PC_GDT_BYTES, PC_GDT_BYTES, error);
}

static void begin(struct placement *at, const struct machine_config *config, struct boot_plan *plan,
                  GPtrArray *keep)
{
    *at = (struct placement){
        .config = config,
        .plan = plan,
        .keep = keep,
        .low_end = MIN(config->memory_bytes, PC_HOLE_GPA),
    };
    at->zero_page = keep_new(at, ZP_BYTES);
}

bool boot_pc_plan_kernel(const struct machine_config *config, const uint8_t *bytes,
                         uint64_t n_bytes, struct boot_plan *plan, GPtrArray *keep, GError **error)
{
    struct placement at;

    begin(&at, config, plan, keep);
    return (bzimage_is(bytes, n_bytes) ? place_bzimage(&at, bytes, n_bytes, error)
                                       : place_bare(&at, bytes, n_bytes, error)) &&
           (!config->initrd || place_initrd(&at, error)) && place_cmdline(&at, error) &&
           place_seed(&at, error) && place_zero_page(&at, error) && place_acpi(&at, error) &&
           place_page_tables(&at, error) && place_gdt(&at, error);
}

/* ---- firmware -------------------------------------------------------------------------------- */

static bool place_firmware(struct placement *at, const struct image *image, GError **error)
{
    const uint8_t *bytes = image->segments[0].bytes;
    uint64_t n_bytes = image->segments[0].n_bytes;

    if (image->kind != IMAGE_RAW || n_bytes > PC_ROM_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "firmware \"%s\" is no raw image of at most %u KiB", at->config->bios,
                    (unsigned)(PC_ROM_BYTES >> 10));
        return false;
    }
    uint64_t shadow_bytes = MIN(n_bytes, SHADOW_BYTES);
    at->plan->entry_pc = BOOT_PC_REAL_ENTRY;
    return boot_plan_add(at->plan, "firmware", PC_HIGH_GPA - n_bytes, bytes, n_bytes, n_bytes,
                         error) &&
           boot_plan_add(at->plan, "firmware below 1 MiB", PC_KERNEL_GPA - shadow_bytes,
                         bytes + n_bytes - shadow_bytes, shadow_bytes, shadow_bytes, error);
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool map_kernel(const struct machine_config *config, struct boot_plan *plan, GPtrArray *keep,
                       GError **error)
{
    GMappedFile *file = image_map(config->kernel, "kernel", error);

    if (!file)
        return false;
    boot_keep(keep, file, (GDestroyNotify)g_mapped_file_unref);
    if (boot_pc_plan_kernel(config, (const uint8_t *)g_mapped_file_get_contents(file),
                            g_mapped_file_get_length(file), plan, keep, error))
        return true;
    g_prefix_error(error, "kernel \"%s\": ", config->kernel);
    return false;
}

bool boot_pc_plan(const struct machine_config *config, struct boot_plan *plan, GPtrArray *keep,
                  GError **error)
{
    bool has_firmware = config->bios && strcmp(config->bios, "none") != 0;
    struct placement at;

    if (has_firmware == (config->kernel != NULL)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s",
                    has_firmware ? "machine pc takes firmware or a kernel, not both"
                                 : "there is neither firmware nor kernel");
        return false;
    }
    if (!has_firmware)
        return map_kernel(config, plan, keep, error);
    struct image *image = image_open(config->bios, EM_X86_64, "firmware", error);
    if (!image)
        return false;
    boot_keep(keep, image, (GDestroyNotify)image_free);
    begin(&at, config, plan, keep);
    return place_firmware(&at, image, error);
}
