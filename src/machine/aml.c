/* SPDX-License-Identifier: MIT */
/* Writing ACPI Machine Language. */
#include "machine/aml.h"

#include <string.h>

enum {
    ZERO_OP = 0x00,
    ONE_OP = 0x01,
    NAME_OP = 0x08,
    BYTE_PREFIX = 0x0a,
    WORD_PREFIX = 0x0b,
    DWORD_PREFIX = 0x0c,
    QWORD_PREFIX = 0x0e,
    SCOPE_OP = 0x10,
    BUFFER_OP = 0x11,
    PACKAGE_OP = 0x12,
    EXT_PREFIX = 0x5b,
    DEVICE_OP = 0x82,
};

/* Resource tags, with the length in the small ones. */
enum {
    IRQ_NO_FLAGS = 0x22,
    PORTS = 0x47,
    END_TAG = 0x79,
    FIXED_MEMORY = 0x86,
    DWORD_ADDRESS = 0x87,
    WORD_ADDRESS = 0x88,
};

enum {
    SPACE_MEMORY = 0,
    SPACE_BUS = 2,
    SPACE_FIXED = 0x0c, /* first and last address cannot be changed */
    SPACE_WRITABLE = 1,
};

#define SIZE_BYTES   2
#define LENGTH_BYTES 3 /* each open term has a length of this many bytes: up to 1 MiB */
#define SEGMENT      4

static void put(struct aml *aml, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        g_byte_array_append(aml->bytes, &byte, 1);
    }
}

void aml_init(struct aml *aml, GByteArray *bytes)
{
    *aml = (struct aml){.bytes = bytes};
}

static void put_path(struct aml *aml, const char *path)
{
    g_assert(strlen(path + strspn(path, "\\")) == SEGMENT);
    g_byte_array_append(aml->bytes, (const guint8 *)path, (guint)strlen(path));
}

static void begin(struct aml *aml)
{
    g_assert(aml->depth < AML_MAX_DEPTH);
    aml->open[aml->depth++] = aml->bytes->len;
    put(aml, 0, LENGTH_BYTES);
}

/* SPEC: 20.2.4: the lead byte says how many follow and has the lowest four bits of the length. */
void aml_end(struct aml *aml)
{
    g_assert(aml->depth > 0);
    guint at = aml->open[--aml->depth];
    guint length = aml->bytes->len - at;

    g_assert(length < 1u << 20);
    aml->bytes->data[at] = (guint8)((LENGTH_BYTES - 1) << 6 | (length & 15));
    aml->bytes->data[at + 1] = (guint8)(length >> 4);
    aml->bytes->data[at + 2] = (guint8)(length >> 12);
}

void aml_scope(struct aml *aml, const char *path)
{
    put(aml, SCOPE_OP, 1);
    begin(aml);
    put_path(aml, path);
}

void aml_device(struct aml *aml, const char *name)
{
    put(aml, EXT_PREFIX, 1);
    put(aml, DEVICE_OP, 1);
    begin(aml);
    put_path(aml, name);
}

void aml_package(struct aml *aml, uint8_t n_elements)
{
    put(aml, PACKAGE_OP, 1);
    begin(aml);
    put(aml, n_elements, 1);
}

void aml_name(struct aml *aml, const char *path)
{
    put(aml, NAME_OP, 1);
    put_path(aml, path);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        put(aml, value ? ONE_OP : ZERO_OP, 1);
        return;
    }
    unsigned n_bytes = value <= UINT8_MAX    ? 1
                       : value <= UINT16_MAX ? 2
                       : value <= UINT32_MAX ? 4
                                             : 8;
    put(aml,
        n_bytes == 1   ? BYTE_PREFIX
        : n_bytes == 2 ? WORD_PREFIX
        : n_bytes == 4 ? DWORD_PREFIX
                       : QWORD_PREFIX,
        1);
    put(aml, value, n_bytes);
}

/* SPEC: 19.3.4, EISAID: three letters of five bits and four hexadecimal digits, big-endian. */
void aml_eisa_id(struct aml *aml, const char *id)
{
    g_assert(strlen(id) == 7);
    uint32_t value =
        (uint32_t)((id[0] & 0x1f) << 26 | (id[1] & 0x1f) << 21 | (id[2] & 0x1f) << 16) |
        (uint32_t)g_ascii_strtoull(id + 3, NULL, 16);
    put(aml, DWORD_PREFIX, 1);
    put(aml, GUINT32_SWAP_LE_BE(value), 4);
}

/* ---- resources ------------------------------------------------------------------------------- */

/* The buffer's size is an integer of fixed width that aml_resources_end fills in. */
void aml_resources(struct aml *aml)
{
    aml_name(aml, "_CRS");
    put(aml, BUFFER_OP, 1);
    begin(aml);
    put(aml, WORD_PREFIX, 1);
    put(aml, 0, SIZE_BYTES);
}

void aml_resources_end(struct aml *aml)
{
    guint at = aml->open[aml->depth - 1] + LENGTH_BYTES + 1;

    put(aml, END_TAG, 1);
    put(aml, 0, 1); /* SPEC: 6.4.2.9: a checksum of 0 is taken as right */
    guint size = aml->bytes->len - (at + SIZE_BYTES);
    aml->bytes->data[at] = (guint8)size;
    aml->bytes->data[at + 1] = (guint8)(size >> 8);
    aml_end(aml);
}

/* SPEC: 6.4.3.5.3, word address space: a bus number range that this device produces. */
void aml_bus_numbers(struct aml *aml, uint16_t first, uint16_t last)
{
    put(aml, WORD_ADDRESS, 1);
    put(aml, 13, 2);
    put(aml, SPACE_BUS, 1);
    put(aml, SPACE_FIXED, 1);
    put(aml, 0, 1);
    put(aml, 0, 2); /* granularity */
    put(aml, first, 2);
    put(aml, last, 2);
    put(aml, 0, 2); /* translation */
    put(aml, last - first + 1u, 2);
}

/* SPEC: 6.4.3.5.2, double-word address space. */
void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last)
{
    put(aml, DWORD_ADDRESS, 1);
    put(aml, 23, 2);
    put(aml, SPACE_MEMORY, 1);
    put(aml, SPACE_FIXED, 1);
    put(aml, SPACE_WRITABLE, 1);
    put(aml, 0, 4); /* granularity */
    put(aml, first, 4);
    put(aml, last, 4);
    put(aml, 0, 4); /* translation */
    put(aml, (uint64_t)last - first + 1, 4);
}

/* SPEC: 6.4.3.4, fixed memory range. */
void aml_memory(struct aml *aml, uint32_t gpa, uint32_t size)
{
    put(aml, FIXED_MEMORY, 1);
    put(aml, 9, 2);
    put(aml, SPACE_WRITABLE, 1);
    put(aml, gpa, 4);
    put(aml, size, 4);
}

/* SPEC: 6.4.2.5. */
void aml_ports(struct aml *aml, uint16_t first, uint8_t n_ports)
{
    put(aml, PORTS, 1);
    put(aml, 1, 1); /* all 16 bits are decoded */
    put(aml, first, 2);
    put(aml, first, 2);
    put(aml, 1, 1);
    put(aml, n_ports, 1);
}

/* SPEC: 6.4.2.1, without flags. */
void aml_irq(struct aml *aml, unsigned irq)
{
    put(aml, IRQ_NO_FLAGS, 1);
    put(aml, 1u << irq, 2);
}
