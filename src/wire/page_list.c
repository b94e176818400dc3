/* SPDX-License-Identifier: MIT */
/* Numbers of pages as section data: see page_list.h. */
#include "wire/page_list.h"

#include <inttypes.h>

#include "godwit/error.h"
#include "wire/cursor.h"

enum form { FORM_RUNS = 1, FORM_BITMAP = 2 };

#define RUN_BYTES 16u

static uint64_t bitmap_bytes(uint64_t n_pages)
{
    return (n_pages + 7) / 8;
}

static uint64_t count_runs(const struct gw_page_set *set, uint32_t block)
{
    uint64_t page = 0, n_pages, n_runs = 0;

    for (; gw_page_set_next_run(set, block, &page, &n_pages, UINT64_MAX); page += n_pages) {
        n_runs++;
    }
    return n_runs;
}

GByteArray *wire_page_list_encode(const struct gw_page_set *set, uint32_t block)
{
    uint64_t n_block_pages = gw_memory_block(set->memory, block)->n_pages;
    bool is_bitmap = count_runs(set, block) * RUN_BYTES > bitmap_bytes(n_block_pages);
    uint64_t page = 0, n_pages;
    GByteArray *data = g_byte_array_new();
    uint8_t form = is_bitmap ? FORM_BITMAP : FORM_RUNS;

    g_byte_array_append(data, &form, 1);
    if (is_bitmap) {
        guint n_bytes = (guint)bitmap_bytes(n_block_pages);

        g_byte_array_set_size(data, 1 + n_bytes);
        for (guint i = 0; i < n_bytes; i++) {
            data->data[1 + i] = (uint8_t)(set->words[block][i / 8] >> (i % 8 * 8));
        }
        return data;
    }
    for (; gw_page_set_next_run(set, block, &page, &n_pages, UINT64_MAX); page += n_pages) {
        uint8_t run[RUN_BYTES];

        wire_store_u64(run, page);
        wire_store_u64(run + 8, n_pages);
        g_byte_array_append(data, run, sizeof run);
    }
    return data;
}

static bool decode_runs(const uint8_t *data, size_t n_bytes, struct gw_page_set *set,
                        uint32_t block, GError **error)
{
    uint64_t n_block_pages = gw_memory_block(set->memory, block)->n_pages;
    uint64_t next = 0;

    if (n_bytes % RUN_BYTES != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT, "page numbers: %zu bytes are not whole runs",
                    n_bytes);
        return false;
    }
    for (size_t at = 0; at < n_bytes; at += RUN_BYTES) {
        uint64_t first = wire_load_u64(data + at), n = wire_load_u64(data + at + 8);

        if (first < next || n == 0 || first >= n_block_pages || n > n_block_pages - first) {
            g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT,
                        "page numbers: the run %" PRIu64 "+%" PRIu64
                        " is empty, out of order or out of the block's %" PRIu64 " pages",
                        first, n, n_block_pages);
            return false;
        }
        gw_page_set_add(set, block, first, n);
        next = first + n;
    }
    return true;
}

static bool decode_bitmap(const uint8_t *data, size_t n_bytes, struct gw_page_set *set,
                          uint32_t block, GError **error)
{
    uint64_t n_block_pages = gw_memory_block(set->memory, block)->n_pages;

    if (n_bytes != bitmap_bytes(n_block_pages) ||
        (n_block_pages % 8 != 0 && data[n_bytes - 1] >> (n_block_pages % 8))) {
        g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT,
                    "page numbers: a bitmap of %zu bytes does not fit the block's %" PRIu64
                    " pages",
                    n_bytes, n_block_pages);
        return false;
    }
    for (size_t i = 0; i < n_bytes; i++) {
        for (unsigned bits = data[i]; bits; bits &= bits - 1) {
            gw_page_set_add(set, block, i * 8 + (unsigned)__builtin_ctz(bits), 1);
        }
    }
    return true;
}

bool wire_page_list_decode(const uint8_t *data, size_t n_bytes, struct gw_page_set *set,
                           uint32_t block, GError **error)
{
    switch (n_bytes > 0 ? data[0] : 0) {
    case FORM_RUNS:
        return decode_runs(data + 1, n_bytes - 1, set, block, error);
    case FORM_BITMAP:
        return decode_bitmap(data + 1, n_bytes - 1, set, block, error);
    default:
        g_set_error_literal(error, GW_ERROR, GW_ERROR_CORRUPT, "page numbers: unknown form");
        return false;
    }
}
