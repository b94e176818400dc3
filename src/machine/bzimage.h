/* SPDX-License-Identifier: MIT */
/*
 * A Linux kernel for x86-64 as Debian ships it: bzImage.
 *
 * SPEC: Linux Documentation/arch/x86/boot.rst, protocol 2.12 and later, which has a 64-bit entry.
 *
 * A file is outside bytes: every number of its header is checked here before anything uses it;
 * whether there is RAM where the kernel wants to be is the placer's business.
 */
#ifndef GODWIT_MACHINE_BZIMAGE_H
#define GODWIT_MACHINE_BZIMAGE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define BZIMAGE_MAX_BYTES     (UINT64_C(1) << 30) /* of the file, and of what the kernel occupies */
#define BZIMAGE_HEADER_OFFSET 0x1f1u              /* of the setup header, in file and zero page */
#define BZIMAGE_HEADER_BYTES  (0x290u - BZIMAGE_HEADER_OFFSET) /* of its place in the zero page */
#define BZIMAGE_ENTRY_OFFSET  0x200u /* of the 64-bit entry, from where it is loaded */
#define BZIMAGE_LEAST_GPA     UINT64_C(0x100000)

struct bzimage {
    const uint8_t *header; /* at BZIMAGE_HEADER_OFFSET of the file; borrowed */
    uint64_t header_bytes; /* at most BZIMAGE_HEADER_BYTES */
    const uint8_t *kernel; /* the protected-mode part; borrowed */
    uint64_t kernel_bytes;
    uint64_t
        init_bytes; /* contiguous memory it needs from where it is loaded, at least kernel_bytes */
    uint64_t preferred_gpa;
    uint64_t alignment; /* a power of two; where else it may be loaded, if is_relocatable */
    bool is_relocatable;
    uint64_t initrd_last_gpa; /* highest address of the initrd's last byte */
    uint64_t cmdline_bytes;   /* at most, without the final zero */
};

/* Does the file claim to be one? */
bool bzimage_is(const uint8_t *bytes, uint64_t n_bytes);
/* Borrows bytes. On false bzimage is untouched. */
bool bzimage_parse(struct bzimage *image, const uint8_t *bytes, uint64_t n_bytes, GError **error);

#endif
