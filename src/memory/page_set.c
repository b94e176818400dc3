/* SPDX-License-Identifier: MIT */
/* Sets of pages: one bitmap per RAM block, with the number of members kept. */
#include "base/summary.h"
#include "memory/memory_internal.h"

static uint64_t block_pages(const struct gw_page_set *set, uint32_t block)
{
    return gw_memory_block(set->memory, block)->n_pages;
}

static struct summary map_of(const struct gw_page_set *set, uint32_t block)
{
    return (struct summary){set->words[block], set->groups[block], block_pages(set, block)};
}

/* Cuts [first, first + *n_pages) to the block; false: nothing is left. */
static bool clip(const struct gw_page_set *set, uint32_t block, uint64_t first, uint64_t *n_pages)
{
    const struct gw_ram_block *ram = gw_memory_block(set->memory, block);

    if (!ram || first >= ram->n_pages) {
        return false;
    }
    *n_pages = MIN(*n_pages, ram->n_pages - first);
    return true;
}

struct gw_page_set *gw_page_set_new(const struct gw_memory *memory)
{
    struct gw_page_set *set = g_new0(struct gw_page_set, 1);
    uint32_t n_blocks = gw_memory_n_blocks(memory);

    set->memory = memory;
    set->words = g_new0(uint64_t *, n_blocks);
    set->groups = g_new0(uint64_t *, n_blocks);
    for (uint32_t i = 0; i < n_blocks; i++) {
        set->words[i] = memory_lazy_words_new(block_pages(set, i));
        set->groups[i] = memory_lazy_words_new(summary_n_groups(block_pages(set, i)));
        if (!set->words[i] || !set->groups[i]) {
            g_error("no memory for a bitmap of %" G_GUINT64_FORMAT " pages", block_pages(set, i));
        }
    }
    return set;
}

void gw_page_set_free(struct gw_page_set *set)
{
    if (!set) {
        return;
    }
    for (uint32_t i = 0; i < gw_memory_n_blocks(set->memory); i++) {
        memory_lazy_words_free(set->words[i], block_pages(set, i));
        memory_lazy_words_free(set->groups[i], summary_n_groups(block_pages(set, i)));
    }
    g_free(set->groups);
    g_free(set->words);
    g_free(set);
}

void gw_page_set_fill(struct gw_page_set *set)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(set->memory); i++) {
        struct summary map = map_of(set, i);
        set->n_set += summary_set_range(&map, 0, map.n_bits);
    }
}

void gw_page_set_clear(struct gw_page_set *set)
{
    if (set->n_set == 0) {
        return;
    }
    for (uint32_t i = 0; i < gw_memory_n_blocks(set->memory); i++) {
        struct summary map = map_of(set, i);
        summary_clear(&map);
    }
    set->n_set = 0;
}

bool gw_page_set_test(const struct gw_page_set *set, uint32_t block, uint64_t page)
{
    uint64_t n = 1;

    return clip(set, block, page, &n) && bitmap_test(set->words[block], page);
}

void gw_page_set_add(struct gw_page_set *set, uint32_t block, uint64_t first, uint64_t n_pages)
{
    if (clip(set, block, first, &n_pages)) {
        struct summary map = map_of(set, block);
        set->n_set += summary_set_range(&map, first, n_pages);
    }
}

void gw_page_set_remove(struct gw_page_set *set, uint32_t block, uint64_t first, uint64_t n_pages)
{
    if (clip(set, block, first, &n_pages)) {
        set->n_set -= bitmap_clear_range(set->words[block], first, n_pages);
    }
}

void gw_page_set_or(struct gw_page_set *set, const struct gw_page_set *other)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(set->memory); i++) {
        struct summary to = map_of(set, i), from = map_of(other, i);
        set->n_set += summary_or_count(&to, &from);
    }
}

bool gw_page_set_next_run(const struct gw_page_set *set, uint32_t block, uint64_t *page,
                          uint64_t *n_pages, uint64_t max_pages)
{
    struct summary map = map_of(set, block);

    return summary_next_run(&map, page, n_pages, max_pages);
}
