/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: numbers of pages in a section (docs/wire-format.md section 5).
 *
 * Input: u8 which block, then the section's data. Checked: what is taken
 * is all that was named, nothing of it outside of the block or twice; other blocks stay as they
 * were; what is written anew reads the same.
 */
#include <glib.h>

#include "fuzz.h"
#include "wire/page_list.h"

#define N_BLOCKS 2

static const uint64_t block_bytes[N_BLOCKS] = {UINT64_C(1) << 20, (UINT64_C(67) << 12)};

static struct gw_memory *make_memory(void)
{
    struct gw_memory *memory = gw_memory_new();

    fuzz_check(gw_memory_add_block(memory, "low", 0, block_bytes[0], NULL));
    fuzz_check(gw_memory_add_block(memory, "high", UINT64_C(1) << 32, block_bytes[1], NULL));
    return memory;
}

static uint64_t count(const struct gw_page_set *set, uint32_t block)
{
    uint64_t n = 0;

    for (uint64_t page = 0; page < block_bytes[block] >> GW_PAGE_SHIFT; page++)
        n += gw_page_set_test(set, block, page);
    return n;
}

/* How many pages the data names, wherever they are: the second number of each run, or the bits. */
static uint64_t count_named(struct fuzz_input in)
{
    bool is_bitmap = fuzz_take(&in, 1) == 2;
    uint64_t n = 0;

    while (fuzz_more(&in)) {
        if (is_bitmap) {
            n += (uint64_t)__builtin_popcount((unsigned)fuzz_take(&in, 1));
        } else {
            fuzz_take(&in, 8);
            n += fuzz_take(&in, 8);
        }
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct gw_memory *memory;
    struct fuzz_input in = {data, size};
    uint32_t block = (uint32_t)fuzz_take(&in, 1) % N_BLOCKS;
    g_autoptr(GError) error = NULL;

    if (!memory)
        memory = make_memory();
    struct gw_page_set *set = gw_page_set_new(memory), *again = gw_page_set_new(memory);
    bool is_read = wire_page_list_decode(in.at, in.left, set, block, &error);
    fuzz_check(is_read == (error == NULL));
    fuzz_check(count(set, 1 - block) == 0 && count(set, block) == set->n_set);
    if (is_read) {
        fuzz_check(count_named(in) == set->n_set);
        GByteArray *bytes = wire_page_list_encode(set, block);

        fuzz_check(wire_page_list_decode(bytes->data, bytes->len, again, block, NULL));
        fuzz_check(again->n_set == set->n_set);
        for (uint64_t page = 0; page < block_bytes[block] >> GW_PAGE_SHIFT; page++)
            fuzz_check(gw_page_set_test(set, block, page) == gw_page_set_test(again, block, page));
        g_byte_array_unref(bytes);
    }
    gw_page_set_free(set);
    gw_page_set_free(again);
    return 0;
}
