/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: kernels for x86-64 (bzImage, ELF, raw) up to the boot plan of machine `pc`.
 *
 * Input: u8 of RAM size in MiB, then the file. Checked: what is borrowed lies in the file or is the
 * plan's own; a bzImage and all it needs lie in RAM below the hole and above the first MiB; the
 * zero page has the file's header and our map; nothing overlaps.
 */
#include "fuzz.h"
#include "machine/boot_pc.h"
#include "machine/bzimage.h"
#include "machine/pc.h"

static void check_plan(const struct boot_plan *plan, const struct machine_config *config,
                       const uint8_t *file, size_t size)
{
    struct bzimage image;
    bool is_bzimage = bzimage_is(file, size);

    fuzz_check(!is_bzimage || bzimage_parse(&image, file, size, NULL));
    for (unsigned i = 0; i < plan->n_segments; i++) {
        const struct boot_segment *s = &plan->segments[i];
        bool is_kernel = strcmp(s->what, "kernel") == 0;

        fuzz_check(s->n_bytes <= s->size && s->gpa <= UINT64_MAX - s->size);
        fuzz_check(!is_kernel || s->n_bytes == 0 ||
                   (s->bytes >= file && s->n_bytes <= size - (size_t)(s->bytes - file)));
        if (is_kernel && is_bzimage)
            fuzz_check(s->gpa >= PC_KERNEL_GPA &&
                       s->gpa + image.init_bytes <= config->memory_bytes &&
                       plan->entry_pc == s->gpa + BZIMAGE_ENTRY_OFFSET);
        if (strcmp(s->what, "zero page") == 0 && is_bzimage)
            fuzz_check(s->bytes[0x1f1] == file[0x1f1] && s->bytes[0x210] == 0xff &&
                       s->bytes[0x1e8] == 5);
        for (unsigned j = 0; j < i; j++) {
            const struct boot_segment *other = &plan->segments[j];
            fuzz_check(s->gpa + s->size <= other->gpa || other->gpa + other->size <= s->gpa);
        }
    }
    fuzz_check(plan->entry_pc != BOOT_PC_REAL_ENTRY);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct machine_config config = {.n_cpus = 1, .append = "console=ttyS0"};
    struct boot_plan plan = {0};
    g_autoptr(GPtrArray) keep = boot_keep_new();

    config.memory_bytes = PC_MIN_RAM_BYTES + (fuzz_take(&in, 1) << 20);
    if (boot_pc_plan_kernel(&config, in.at, in.left, &plan, keep, NULL))
        check_plan(&plan, &config, in.at, in.left);
    return 0;
}
