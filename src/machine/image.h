/* SPDX-License-Identifier: MIT */
/*
 * Boot files: what a firmware, kernel or initrd file contains and where it wants to be.
 *
 * Model: three kinds are known by their first bytes: ELF64 (System V ABI) for the machine that the
 * caller names, the Linux boot Image (docs.kernel.org, arch/riscv/boot-image-header), and raw
 * bytes. Kernels for x86-64 have a kind of their own: bzimage.h.
 *
 * A file is outside bytes: every offset, length and address is checked against the file's size and
 * IMAGE_MAX_BYTES before it is used; whether the addresses are RAM is the placer's business.
 */
#ifndef GODWIT_MACHINE_IMAGE_H
#define GODWIT_MACHINE_IMAGE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define IMAGE_MAX_BYTES    (UINT64_C(4) << 30) /* a file, and what one file occupies in memory */
#define IMAGE_MAX_SEGMENTS 32

enum image_kind {
    IMAGE_RAW = 1,
    IMAGE_ELF,
    IMAGE_LINUX,
};

/* A run of bytes for guest memory: n_bytes from the file, zeros up to memory_bytes. */
struct image_segment {
    uint64_t gpa; /* IMAGE_ELF: where it must be; else: offset from the place chosen */
    const uint8_t *bytes;
    uint64_t n_bytes;
    uint64_t memory_bytes;
};

struct image {
    enum image_kind kind;
    GMappedFile *file;
    struct image_segment segments[IMAGE_MAX_SEGMENTS];
    unsigned n_segments;
    uint64_t entry;        /* IMAGE_ELF: address; else offset (0) */
    uint64_t text_offset;  /* IMAGE_LINUX: wanted distance from the start of RAM */
    uint64_t memory_bytes; /* not ELF: space it needs from its place on (bss included) */
};

/* Opens and checks a boot file. what ("kernel") names it in messages. Raw kinds are accepted as
 * they are: any file that is neither ELF nor a Linux Image is raw. */
struct image *image_open(const char *path, uint16_t elf_machine, const char *what, GError **error);
/* The same for bytes already at hand (tests, fuzzing); file may be NULL. The bytes are borrowed.
 * elf_machine: EM_RISCV, EM_X86_64. */
bool image_parse(struct image *image, uint16_t elf_machine, const uint8_t *bytes, uint64_t n_bytes,
                 GError **error);
/* Maps a regular file, any content. */
GMappedFile *image_map(const char *path, const char *what, GError **error);
void image_free(struct image *image);
typedef struct image image_t;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(image_t, image_free)

#endif
