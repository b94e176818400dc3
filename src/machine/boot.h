/* SPDX-License-Identifier: MIT */
/*
 * The boot plan: every byte that must be in guest memory when a machine is reset, and where vCPUs
 * begin.
 *
 * Model: a reset does not read files. What the files gave is placed once (boards do that), packed
 * with zstd into a RAM block of its own, "boot", and unpacked into guest memory at every reset. The
 * block is part of the machine's memory, so it moves with the guest: a machine that was started
 * without any file can reboot the guest it received. The block is not in the guest's physical
 * address space (GW_GPA_NONE), so that the guest can neither see nor change it.
 *
 * Wire (layout of the block, little-endian; offsets from its start):
 *     0  magic "GWBOOT\0\1"       8  u32 n_segments, u32 seed_bytes
 *    16  u64 entry_pc            24  u64 seed_gpa
 *    32  n_segments x { u64 gpa, u64 size, u64 stored_at, u64 stored_bytes }
 * Each segment is one zstd frame. After a move the block is a peer's bytes: everything in it is
 * checked when it is used.
 */
#ifndef GODWIT_MACHINE_BOOT_H
#define GODWIT_MACHINE_BOOT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "godwit/memory.h"
#include "machine/image.h"

#define BOOT_BLOCK_NAME      "boot"
#define BOOT_MAX_SEGMENTS    64u
#define BOOT_MAX_SEED_BYTES  64u
#define BOOT_BLOCK_MIN_BYTES (UINT64_C(64) << 20)

struct boot_segment {
    uint64_t gpa;
    uint64_t size; /* zeros beyond n_bytes */
    const uint8_t *bytes;
    uint64_t n_bytes;
    const char *what; /* for messages */
};

struct boot_plan {
    struct boot_segment segments[BOOT_MAX_SEGMENTS];
    unsigned n_segments;
    uint64_t entry_pc;
    uint64_t seed_gpa; /* fresh random bytes are put here at every reset; seed_bytes 0: none */
    uint32_t seed_bytes;
};

/* Adds a run of bytes (borrowed until boot_pack). False with error when the plan is full or the run
 * overlaps one already there. */
bool boot_plan_add(struct boot_plan *plan, const char *what, uint64_t gpa, const uint8_t *bytes,
                   uint64_t n_bytes, uint64_t size, GError **error);
/* Adds all segments of a file: an ELF file where it wants to be, others at gpa. *entry receives the
 * address of its first instruction, *end the first address after it. */
bool boot_plan_add_image(struct boot_plan *plan, const char *what, const struct image *image,
                         uint64_t gpa, uint64_t *entry, uint64_t *end, GError **error);

/* What a plan borrows is kept in an array made by boot_keep_new and freed with it. */
GPtrArray *boot_keep_new(void);
void boot_keep(GPtrArray *keep, void *what, GDestroyNotify free_what);

/* The plan in its stored form. */
GBytes *boot_pack(const struct boot_plan *plan, GError **error);
/* Size of the block that holds a packed plan (NULL: no plan, as on a destination). */
uint64_t boot_block_bytes(GBytes *packed);
/* Copies a packed plan into the block. */
void boot_store(struct gw_ram_block *block, GBytes *packed);
/* Is there a plan in the block? */
bool boot_is_stored(const struct gw_ram_block *block);
/* Unpacks the block into guest memory and gives the entry address. On false guest memory may be
 * partly written; the machine can then not be reset. */
bool boot_restore(const struct gw_ram_block *block, struct gw_memory *memory, uint64_t *entry_pc,
                  GError **error);

#endif
