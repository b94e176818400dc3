/* SPDX-License-Identifier: MIT */
/* Linux kernels for x86-64: the setup header and its checks. */
#include "machine/bzimage.h"

#include <string.h>

#include "godwit/error.h"

/* SPEC: boot.rst, "The Real-Mode Kernel Header": offsets in the file. */
enum {
    SETUP_SECTS = 0x1f1,
    BOOT_FLAG = 0x1fe,
    JUMP_BYTES = 0x201, /* of the header from 0x202 on */
    MAGIC = 0x202,
    VERSION = 0x206,
    LOADFLAGS = 0x211,
    INITRD_ADDR_MAX = 0x22c,
    KERNEL_ALIGNMENT = 0x230,
    RELOCATABLE = 0x234,
    XLOADFLAGS = 0x236,
    CMDLINE_SIZE = 0x238,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    LEAST_END = 0x264,
};

#define SECTOR        512u
#define LEAST_VERSION 0x020c
#define LOADED_HIGH   0x01
#define KERNEL_64     0x0001
#define MAX_ALIGNMENT (UINT64_C(1) << 30)
#define DEFAULT_SETUP 4u
#define HEX           "0x%" G_GINT64_MODIFIER "x"

static uint64_t get(const uint8_t *bytes, unsigned offset, unsigned n_bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n_bytes; i++)
        value |= (uint64_t)bytes[offset + i] << (8 * i);
    return value;
}

bool bzimage_is(const uint8_t *bytes, uint64_t n_bytes)
{
    return n_bytes >= MAGIC + 4 && get(bytes, BOOT_FLAG, 2) == 0xaa55 &&
           memcmp(bytes + MAGIC, "HdrS", 4) == 0;
}

static bool refuse(GError **error, const char *field, uint64_t value, const char *expected)
{
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "bzImage: %s is " HEX ", expected %s", field,
                value, expected);
    return false;
}

static bool check_protocol(const uint8_t *bytes, uint64_t n_bytes, GError **error)
{
    if (n_bytes > BZIMAGE_MAX_BYTES)
        return refuse(error, "its size", n_bytes, "at most 1 GiB");
    if (n_bytes < LEAST_END)
        return refuse(error, "its size", n_bytes, "a whole header");
    uint64_t version = get(bytes, VERSION, 2);
    if (version < LEAST_VERSION)
        return refuse(error, "the boot protocol's version", version, "0x20c or later");
    uint64_t xloadflags = get(bytes, XLOADFLAGS, 2);
    if (!(xloadflags & KERNEL_64))
        return refuse(error, "xloadflags", xloadflags, "a 64-bit entry (bit 0)");
    uint64_t loadflags = get(bytes, LOADFLAGS, 1);
    if (!(loadflags & LOADED_HIGH))
        return refuse(error, "loadflags", loadflags, "a kernel for above 1 MiB (bit 0)");
    return true;
}

static bool check_places(const struct bzimage *image, GError **error)
{
    if (image->init_bytes > BZIMAGE_MAX_BYTES)
        return refuse(error, "init_size", image->init_bytes, "at most 1 GiB");
    if (image->alignment == 0 || image->alignment & (image->alignment - 1) ||
        image->alignment > MAX_ALIGNMENT)
        return refuse(error, "kernel_alignment", image->alignment, "a power of two up to 1 GiB");
    if (image->preferred_gpa < BZIMAGE_LEAST_GPA || image->preferred_gpa > UINT32_MAX)
        return refuse(error, "pref_address", image->preferred_gpa, "1 MiB to 4 GiB");
    return true;
}

bool bzimage_parse(struct bzimage *image, const uint8_t *bytes, uint64_t n_bytes, GError **error)
{
    if (!check_protocol(bytes, n_bytes, error))
        return false;
    uint64_t sectors = get(bytes, SETUP_SECTS, 1);
    uint64_t setup_bytes = ((sectors ? sectors : DEFAULT_SETUP) + 1) * SECTOR;
    if (setup_bytes + BZIMAGE_ENTRY_OFFSET >= n_bytes)
        return refuse(error, "setup_sects", sectors, "less than the file has");
    uint64_t header_end = MAGIC + get(bytes, JUMP_BYTES, 1);
    if (header_end < LEAST_END || header_end > BZIMAGE_HEADER_OFFSET + BZIMAGE_HEADER_BYTES ||
        header_end > setup_bytes)
        return refuse(error, "the header's end", header_end, "0x264 to 0x290");

    struct bzimage found = {
        .header = bytes + BZIMAGE_HEADER_OFFSET,
        .header_bytes = header_end - BZIMAGE_HEADER_OFFSET,
        .kernel = bytes + setup_bytes,
        .kernel_bytes = n_bytes - setup_bytes,
        .init_bytes = MAX(get(bytes, INIT_SIZE, 4), n_bytes - setup_bytes),
        .preferred_gpa = get(bytes, PREF_ADDRESS, 8),
        .alignment = get(bytes, KERNEL_ALIGNMENT, 4),
        .is_relocatable = get(bytes, RELOCATABLE, 1) != 0,
        .initrd_last_gpa = get(bytes, INITRD_ADDR_MAX, 4),
        .cmdline_bytes = get(bytes, CMDLINE_SIZE, 4),
    };
    if (!check_places(&found, error))
        return false;
    *image = found;
    return true;
}
