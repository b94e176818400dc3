/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: boot files (ELF, Linux Image, raw) as kernel, firmware or initrd, up to guest
 * memory.
 *
 * Input: the file. Checked: every segment lies in the file; what fits is packed, stored and
 * restored to the same bytes.
 */
#include <elf.h>

#include "fuzz.h"
#include "machine/boot.h"

#define RAM_GPA   UINT64_C(0x80000000)
#define RAM_BYTES (UINT64_C(4) << 20)

static void check_segments(const struct image *image, const uint8_t *data, size_t size)
{
    fuzz_check(image->n_segments <= IMAGE_MAX_SEGMENTS);
    for (unsigned i = 0; i < image->n_segments; i++) {
        const struct image_segment *s = &image->segments[i];

        fuzz_check(s->n_bytes <= s->memory_bytes && s->memory_bytes <= IMAGE_MAX_BYTES);
        fuzz_check(s->n_bytes == 0 ||
                   (s->bytes >= data && s->n_bytes <= size - (size_t)(s->bytes - data)));
    }
}

/* Packing costs time for each byte of memory: only what is small. */
static bool is_small(const struct boot_plan *plan)
{
    uint64_t n_bytes = 0;

    for (unsigned i = 0; i < plan->n_segments; i++)
        n_bytes += plan->segments[i].size;
    return n_bytes <= UINT64_C(1) << 20;
}

static void restore(const struct boot_plan *plan)
{
    struct gw_memory *memory = gw_memory_new();
    struct gw_ram_block *ram = gw_memory_add_block(memory, "ram", RAM_GPA, RAM_BYTES, NULL);
    g_autoptr(GBytes) packed = boot_pack(plan, NULL);
    uint64_t entry;

    fuzz_check(ram && packed);
    struct gw_ram_block *store =
        gw_memory_add_block(memory, BOOT_BLOCK_NAME, GW_GPA_NONE, boot_block_bytes(packed), NULL);
    boot_store(store, packed);
    if (boot_restore(store, memory, &entry, NULL)) {
        fuzz_check(entry == plan->entry_pc);
        for (unsigned i = 0; i < plan->n_segments; i++) {
            const struct boot_segment *s = &plan->segments[i];
            const uint8_t *at = gw_memory_host(memory, s->gpa, s->size);

            fuzz_check(at && (s->n_bytes == 0 || memcmp(at, s->bytes, s->n_bytes) == 0));
        }
    }
    gw_memory_free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct image image = {0};
    struct boot_plan plan = {0};
    uint64_t end;

    if (!image_parse(&image, EM_RISCV, data, size, NULL))
        return 0;
    check_segments(&image, data, size);
    if (boot_plan_add_image(&plan, "kernel", &image, RAM_GPA, &plan.entry_pc, &end, NULL) &&
        plan.n_segments > 0 && is_small(&plan))
        restore(&plan);
    return 0;
}
