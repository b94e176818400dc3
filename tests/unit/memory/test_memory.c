/* SPDX-License-Identifier: MIT */
/* Guest memory: blocks, translation, dirty log, page sets, sparseness. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "godwit/memory.h"
#include "memory/huge.h"
#include "memory/place.h"
#include "memory/presence.h"
#include "memory/share.h"

#define MIB (UINT64_C(1) << 20)

/* "low": 1 MiB at 0x1000; "ram": 4 MiB at 0x80000000. */
static struct gw_memory *sample(void)
{
    struct gw_memory *memory = gw_memory_new();

    assert_non_null(gw_memory_add_block(memory, "low", 0x1000, MIB, NULL));
    assert_non_null(gw_memory_add_block(memory, "ram", 0x80000000, 4 * MIB, NULL));
    return memory;
}

static void assert_block_refused(struct gw_memory *memory, const char *name, uint64_t gpa,
                                 uint64_t size, const char *message)
{
    g_autoptr(GError) error = NULL;

    assert_null(gw_memory_add_block(memory, name, gpa, size, &error));
    assert_string_equal(error->message, message);
}

/* Only what is placed is allocated, and the mapping shows it. */
static void pages_are_placed_in_holes(void **state)
{
    struct gw_memory *memory = sample();
    struct gw_ram_block *block = gw_memory_block_by_name(memory, "ram");
    g_autofree uint8_t *bytes = g_malloc(5 * GW_PAGE_SIZE);
    g_autoptr(GError) error = NULL;
    uint64_t page = 0, n_pages = 0;

    for (size_t i = 0; i < 5 * GW_PAGE_SIZE; i++)
        bytes[i] = (uint8_t)(i * 7 + i / GW_PAGE_SIZE + 1);
    assert_true(memory_can_place(block));
    assert_true(memory_place(block, 9 * GW_PAGE_SIZE, bytes, 5 * GW_PAGE_SIZE, &error));
    assert_true(gw_memory_next_allocated_run(block, &page, &n_pages));
    assert_int_equal(page, 9);
    assert_int_equal(n_pages, 5);
    assert_memory_equal(block->host + 9 * GW_PAGE_SIZE, bytes, 5 * GW_PAGE_SIZE);
    /* Over pages that are there already. */
    assert_true(memory_place(block, 8 * GW_PAGE_SIZE, bytes, 2 * GW_PAGE_SIZE, &error));
    assert_memory_equal(block->host + 8 * GW_PAGE_SIZE, bytes, 2 * GW_PAGE_SIZE);
    assert_memory_equal(block->host + 10 * GW_PAGE_SIZE, bytes + GW_PAGE_SIZE, GW_PAGE_SIZE);
    page += n_pages;
    assert_false(gw_memory_next_allocated_run(block, &page, &n_pages));
    gw_memory_free(memory);
}

static void bad_blocks_are_refused(void **state)
{
    struct gw_memory *memory = sample();

    assert_block_refused(memory, "low", 0x40000000, MIB, "RAM block low exists already");
    assert_block_refused(memory, "x", 0, 0x2000, "RAM block x overlaps RAM block low");
    assert_block_refused(memory, "x", 0x80000000 + 4 * MIB - 0x1000, MIB,
                         "RAM block x overlaps RAM block ram");
    assert_block_refused(memory, "x", 0x40000001, MIB,
                         "RAM block x: address 0x40000001 and size 0x100000 are not page-aligned "
                         "or out of range");
    assert_block_refused(memory, "x", 0x40000000, 0,
                         "RAM block x: address 0x40000000 and size 0x0 are not page-aligned or "
                         "out of range");
    assert_block_refused(memory, "x", UINT64_C(0xfffffffffffff000), 0x2000,
                         "RAM block x: address 0xfffffffffffff000 and size 0x2000 are not "
                         "page-aligned or out of range");
    assert_int_equal(gw_memory_n_blocks(memory), 2);
    assert_int_equal(gw_memory_size_bytes(memory), 5 * MIB);
    assert_ptr_equal(gw_memory_block_by_name(memory, "ram"), gw_memory_block(memory, 1));
    assert_null(gw_memory_block_by_name(memory, "x"));
    assert_null(gw_memory_block(memory, 2));
    gw_memory_free(memory);
}

static void addresses_are_translated_within_one_block(void **state)
{
    struct gw_memory *memory = sample();
    struct gw_ram_block *ram = gw_memory_block(memory, 1);
    uint64_t end = 0x80000000 + 4 * MIB;

    assert_ptr_equal(gw_memory_host(memory, 0x80000000, 1), ram->host);
    assert_ptr_equal(gw_memory_host(memory, end - 8, 8), ram->host + 4 * MIB - 8);
    assert_null(gw_memory_host(memory, end - 8, 9));
    assert_null(gw_memory_host(memory, end, 0));
    assert_null(gw_memory_host(memory, 0, 1));
    assert_null(gw_memory_host(memory, 0xfff, 2));
    assert_null(gw_memory_host(memory, 0x80000000, UINT64_MAX));
    assert_null(gw_memory_host(memory, UINT64_MAX, 2));
    assert_non_null(gw_memory_host(memory, 0x80000000, 0));

    uint32_t word = 0;
    assert_true(gw_memory_write(memory, 0x80001000, "abcd", 4));
    assert_true(gw_memory_read(memory, 0x80001000, &word, 4));
    assert_memory_equal(&word, "abcd", 4);
    assert_false(gw_memory_read(memory, end - 2, &word, 4));
    assert_false(gw_memory_write(memory, end - 2, &word, 4));
    gw_memory_free(memory);
}

static void the_descriptor_cannot_be_shrunk(void **state)
{
    struct gw_memory *memory = sample();

    assert_int_equal(ftruncate(gw_memory_block(memory, 0)->fd, 0), -1);
    gw_memory_free(memory);
}

/* ---- page sets ---- */

static void sets_keep_their_number(void **state)
{
    struct gw_memory *memory = sample();
    struct gw_page_set *set = gw_page_set_new(memory);
    struct gw_page_set *other = gw_page_set_new(memory);

    gw_page_set_fill(set);
    assert_int_equal(set->n_set, 5 * MIB / GW_PAGE_SIZE);
    gw_page_set_fill(set);
    assert_int_equal(set->n_set, 5 * MIB / GW_PAGE_SIZE);
    gw_page_set_clear(set);
    assert_int_equal(set->n_set, 0);
    gw_page_set_add(set, 1, 10, 5);
    gw_page_set_add(set, 1, 12, 5);
    assert_int_equal(set->n_set, 7);
    gw_page_set_add(set, 1, 1020, 100); /* cut to the block */
    assert_int_equal(set->n_set, 11);
    gw_page_set_add(set, 1, UINT64_MAX, 2);
    gw_page_set_add(set, 7, 0, 2);
    assert_int_equal(set->n_set, 11);
    gw_page_set_remove(set, 1, 0, 12);
    assert_int_equal(set->n_set, 9);
    assert_true(gw_page_set_test(set, 1, 12));
    assert_false(gw_page_set_test(set, 1, 11));
    assert_false(gw_page_set_test(set, 1, UINT64_MAX));
    assert_false(gw_page_set_test(set, 7, 0));
    gw_page_set_add(other, 0, 0, 3);
    gw_page_set_add(other, 1, 12, 1);
    gw_page_set_or(set, other);
    assert_int_equal(set->n_set, 12);

    uint64_t page = 0;
    uint64_t n = 0;
    assert_true(gw_page_set_next_run(set, 1, &page, &n, 3));
    assert_int_equal(page, 12);
    assert_int_equal(n, 3);
    page += n;
    assert_true(gw_page_set_next_run(set, 1, &page, &n, 3));
    assert_int_equal(page, 15);
    assert_int_equal(n, 2);
    page += n;
    assert_true(gw_page_set_next_run(set, 1, &page, &n, 1000));
    assert_int_equal(page, 1020);
    assert_int_equal(n, 4);
    page += n;
    assert_false(gw_page_set_next_run(set, 1, &page, &n, 1000));
    gw_page_set_free(set);
    gw_page_set_free(other);
    gw_memory_free(memory);
}

/* ---- the dirty log ---- */

/* A producer with a log of its own. */
struct fake {
    unsigned n_starts, n_stops, n_barriers;
    bool fails_start, fails_collect;
    uint64_t page; /* of block 1, dirty once */
    struct gw_memory *memory;
};

static bool fake_start(void *opaque, GError **error)
{
    struct fake *fake = opaque;

    assert_true(gw_memory_is_logging(fake->memory)); /* rights dropped now must be marked again */
    fake->n_starts++;
    if (fake->fails_start) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_FAILED, "no log today");
    }
    return !fake->fails_start;
}

static void fake_stop(void *opaque)
{
    ((struct fake *)opaque)->n_stops++;
}

static bool fake_collect(void *opaque, struct gw_ram_block *block, uint64_t *words, GError **error)
{
    struct fake *fake = opaque;

    assert_int_equal(words[0], 0);
    if (block->index == 1 && fake->page) {
        words[fake->page / 64] |= UINT64_C(1) << (fake->page % 64);
        fake->page = 0;
    }
    if (fake->fails_collect) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_FAILED, "log lost");
    }
    return !fake->fails_collect;
}

static void fake_barrier(void *opaque)
{
    ((struct fake *)opaque)->n_barriers++;
}

static const struct gw_dirty_producer fake_ops = {
    .start = fake_start,
    .stop = fake_stop,
    .collect = fake_collect,
    .barrier = fake_barrier,
};

static void writes_are_collected_once(void **state)
{
    struct gw_memory *memory = sample();
    struct fake fake = {.memory = memory};
    struct gw_page_set *set = gw_page_set_new(memory);
    uint64_t n_new = 99;
    g_autoptr(GError) error = NULL;

    gw_memory_add_dirty_producer(memory, &fake_ops, &fake);
    assert_false(gw_memory_log_collect(memory, set, &n_new, &error));
    assert_string_equal(error->message, "the dirty log is not running");
    g_clear_error(&error);

    assert_true(gw_memory_write(memory, 0x80000000, "x", 1)); /* before the log: forgotten */
    assert_true(gw_memory_log_start(memory, NULL));
    assert_false(gw_memory_log_start(memory, &error));
    assert_string_equal(error->message, "the dirty log is in use already");
    assert_true(gw_memory_log_collect(memory, set, &n_new, NULL));
    assert_int_equal(n_new, 0);
    assert_int_equal(set->n_set, 0);

    assert_true(gw_memory_write(memory, 0x80001fff, "xy", 2)); /* pages 1 and 2 */
    gw_memory_note_write(gw_memory_block(memory, 0), MIB - 1, UINT64_MAX);
    gw_memory_note_write(gw_memory_block(memory, 0), MIB, 1);
    gw_memory_note_write(gw_memory_block(memory, 0), 0, 0);
    fake.page = 77;
    gw_page_set_add(set, 1, 2, 1);
    assert_true(gw_memory_log_collect(memory, set, &n_new, NULL));
    assert_int_equal(n_new, 3); /* page 2 was there already */
    assert_int_equal(set->n_set, 4);
    assert_true(gw_page_set_test(set, 0, 255));
    assert_true(gw_page_set_test(set, 1, 1) && gw_page_set_test(set, 1, 2));
    assert_true(gw_page_set_test(set, 1, 77));
    assert_int_equal(fake.n_barriers, 2);

    gw_page_set_clear(set);
    assert_true(gw_memory_log_collect(memory, set, NULL, NULL));
    assert_int_equal(set->n_set, 0);
    gw_memory_log_stop(memory);
    gw_memory_log_stop(memory);
    assert_int_equal(fake.n_stops, 1);
    assert_false(gw_memory_is_logging(memory));
    gw_page_set_free(set);
    gw_memory_free(memory);
}

static void a_producer_that_cannot_start_stops_the_others(void **state)
{
    struct gw_memory *memory = sample();
    struct fake good = {.memory = memory};
    struct fake bad = {.memory = memory, .fails_start = true};
    g_autoptr(GError) error = NULL;

    gw_memory_add_dirty_producer(memory, &fake_ops, &good);
    gw_memory_add_dirty_producer(memory, &fake_ops, &bad);
    assert_false(gw_memory_log_start(memory, &error));
    assert_string_equal(error->message, "no log today");
    assert_false(gw_memory_is_logging(memory));
    assert_int_equal(good.n_stops, 1);
    assert_int_equal(bad.n_stops, 0);
    gw_memory_free(memory);
}

static void a_failed_collection_loses_nothing(void **state)
{
    struct gw_memory *memory = sample();
    struct fake bad = {.memory = memory, .fails_collect = true};
    struct gw_page_set *set = gw_page_set_new(memory);
    g_autoptr(GError) error = NULL;

    gw_memory_add_dirty_producer(memory, &fake_ops, &bad);
    assert_true(gw_memory_log_start(memory, NULL));
    assert_true(gw_memory_write(memory, 0x80003000, "x", 1));
    assert_false(gw_memory_log_collect(memory, set, NULL, &error));
    assert_string_equal(error->message, "RAM block low: cannot collect its dirty log: log lost");
    assert_int_equal(set->n_set, 1);
    assert_true(gw_page_set_test(set, 1, 3));
    gw_page_set_free(set);
    gw_memory_free(memory);
}

/* ---- write watchers ---- */

static void note_page(void *opaque, struct gw_ram_block *block, uint64_t page)
{
    g_array_append_val((GArray *)opaque, page);
    assert_string_equal(block->name, "ram");
}

static void watchers_hear_of_watched_pages_once(void **state)
{
    struct gw_memory *memory = sample();
    struct gw_ram_block *ram = gw_memory_block(memory, 1);
    g_autoptr(GArray) pages = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    gw_memory_add_write_watch(memory, note_page, pages);
    __atomic_fetch_or(&ram->watched[0], (1u << 3) | (1u << 5), __ATOMIC_SEQ_CST);
    gw_memory_note_write(ram, 2 * GW_PAGE_SIZE, 2 * GW_PAGE_SIZE);
    gw_memory_note_write(ram, 3 * GW_PAGE_SIZE, 1);
    assert_int_equal(pages->len, 1);
    assert_int_equal(g_array_index(pages, uint64_t, 0), 3);
    assert_int_equal(ram->watched[0], 1u << 5);
    gw_memory_free(memory);
}

/* ---- sparseness ---- */

static uint64_t allocated_pages(const struct gw_ram_block *block)
{
    uint64_t total = 0;
    uint64_t page = 0;
    uint64_t n = 0;

    while (gw_memory_next_allocated_run(block, &page, &n)) {
        total += n;
        page += n;
    }
    return total;
}

static uint64_t file_bytes(const struct gw_ram_block *block)
{
    struct stat info;

    assert_int_equal(fstat(block->fd, &info), 0);
    return (uint64_t)info.st_blocks * 512;
}

static void untouched_memory_costs_nothing(void **state)
{
    struct gw_memory *memory = gw_memory_new();
    struct gw_ram_block *ram = gw_memory_add_block(memory, "ram", 0, MIB << 16, NULL); /* 64 GiB */
    g_autoptr(GError) error = NULL;

    assert_non_null(ram);
    assert_int_equal(allocated_pages(ram), 0);
    ram->host[5 * GW_PAGE_SIZE] = 1;
    ram->host[(MIB << 16) - 1] = 1;
    uint64_t page = 0;
    uint64_t n = 0;
    assert_true(gw_memory_next_allocated_run(ram, &page, &n));
    assert_true(page <= 5 && page + n > 5); /* huge pages make larger runs */
    uint64_t touched = allocated_pages(ram);
    assert_true(touched >= 2 && touched <= 1024);

    assert_true(gw_memory_populate(ram, 16 * MIB, MIB, NULL));
    assert_true(allocated_pages(ram) >= touched + MIB / GW_PAGE_SIZE);
    assert_true(file_bytes(ram) >= MIB);

    ram->host[16 * MIB] = 7;
    assert_true(gw_memory_log_start(memory, NULL));
    struct gw_page_set *set = gw_page_set_new(memory);
    assert_true(gw_memory_discard(ram, 16 * MIB, MIB, NULL));
    assert_int_equal(ram->host[16 * MIB], 0);
    assert_true(gw_memory_log_collect(memory, set, NULL, NULL));
    assert_int_equal(set->n_set, MIB / GW_PAGE_SIZE); /* giving back is a write of zeroes */

    assert_false(gw_memory_discard(ram, 1, MIB, &error));
    assert_string_equal(error->message,
                        "RAM block ram: offset 0x1 and length 0x100000 are not whole pages of it");
    assert_false(gw_memory_populate(ram, MIB << 16, MIB, NULL));
    assert_true(gw_memory_populate(ram, MIB << 16, 0, NULL));
    assert_true(gw_memory_discard(ram, 0, 0, NULL));
    gw_page_set_free(set);
    gw_memory_free(memory);
}

static void what_is_present_as_a_whole_is_known(void **state)
{
    struct gw_memory *memory = sample();
    struct gw_ram_block *ram = gw_memory_block_by_name(memory, "ram");
    uint64_t page = 7, n_pages = 0;

    assert_true(gw_memory_populate(ram, 0, ram->size_bytes, NULL));
    assert_true(gw_memory_next_allocated_run(ram, &page, &n_pages));
    assert_int_equal(page, 7);
    assert_int_equal(n_pages, ram->n_pages - 7);
    page = ram->n_pages;
    assert_false(gw_memory_next_allocated_run(ram, &page, &n_pages));
    assert_true(gw_memory_discard(ram, 9 * GW_PAGE_SIZE, 3 * GW_PAGE_SIZE, NULL));
    assert_int_equal(allocated_pages(ram), ram->n_pages - 3);
    gw_memory_free(memory);
}

static void huge_pages_keep_what_stands_there(void **state)
{
    struct gw_memory *memory = gw_memory_new();
    struct gw_ram_block *ram = gw_memory_add_block(memory, "ram", 0, 8 * MIB, NULL);
    const uint64_t end = 2 * MEMORY_HUGE_PAGES;

    assert_non_null(ram);
    assert_true(memory_can_be_huge(ram));
    assert_true(memory_is_hole(ram, 0, ram->n_pages));
    ram->host[3 * GW_PAGE_SIZE] = 33;
    ram->host[700 * GW_PAGE_SIZE] = 70;
    if (!memory_make_huge(ram, 0, end)) {
        gw_memory_free(memory);
        print_message("skipped: this kernel makes no huge pages\n");
        skip();
    }
    assert_int_equal(allocated_pages(ram), end);
    assert_int_equal(ram->host[3 * GW_PAGE_SIZE], 33);
    assert_int_equal(ram->host[700 * GW_PAGE_SIZE], 70);
    assert_int_equal(ram->host[701 * GW_PAGE_SIZE], 0);
    assert_false(memory_is_hole(ram, end - 1, 2));
    assert_true(memory_is_hole(ram, end, ram->n_pages - end));
    assert_true(gw_memory_discard(ram, 3 * GW_PAGE_SIZE, GW_PAGE_SIZE, NULL));
    assert_true(memory_is_hole(ram, 3, 1));
    assert_int_equal(allocated_pages(ram), end - 1);
    assert_int_equal(ram->host[700 * GW_PAGE_SIZE], 70);
    assert_int_equal(ram->host[3 * GW_PAGE_SIZE], 0);
    gw_memory_free(memory);
}

static void holes_are_told_unread_and_discarding_them_is_no_write(void **state)
{
    struct gw_memory *memory = gw_memory_new();
    struct gw_ram_block *ram = gw_memory_add_block(memory, "ram", 0, MIB << 16, NULL);

    assert_non_null(ram);
    ram->host[70 * GW_PAGE_SIZE] = 1;
    ram->host[127 * GW_PAGE_SIZE] = 1;
    uint64_t touched = allocated_pages(ram);
    assert_int_equal(gw_memory_touched_mask(ram, 1 << 20, 64), 0);
    assert_true(gw_memory_touched_mask(ram, 64, 64) & UINT64_C(1) << (70 - 64));
    assert_true(gw_memory_touched_mask(ram, 127, 1));
    if (touched == 2) { /* no huge pages */
        assert_int_equal(gw_memory_touched_mask(ram, 64, 64),
                         UINT64_C(1) << (70 - 64) | UINT64_C(1) << (127 - 64));
        assert_int_equal(gw_memory_touched_mask(ram, 71, 50), 0);
    }
    assert_int_equal(allocated_pages(ram), touched); /* looking has filled nothing */

    /* A page that is in the file but not mapped here counts. */
    assert_int_equal(madvise(ram->host, MIB, MADV_DONTNEED), 0);
    assert_true(gw_memory_touched_mask(ram, 70, 1));

    assert_true(gw_memory_log_start(memory, NULL));
    struct gw_page_set *set = gw_page_set_new(memory);
    assert_true(gw_memory_discard(ram, MIB, 64 * MIB, NULL));
    assert_true(gw_memory_log_collect(memory, set, NULL, NULL));
    assert_int_equal(set->n_set, touched == 2 ? 0 : set->n_set);
    assert_true(gw_memory_discard(ram, 0, MIB, NULL));
    assert_true(gw_memory_log_collect(memory, set, NULL, NULL));
    assert_true(gw_page_set_test(set, 0, 70) && gw_page_set_test(set, 0, 127));
    gw_page_set_free(set);
    gw_memory_free(memory);
}

/* Runs that end within what is looked at by one call, at its end, behind it; in the page tables, or
 * only in the file. */
static void allocated_runs_are_found_whole(void **state)
{
    static const struct run {
        uint64_t first, n_pages;
        bool is_unmapped;
    } runs[] = {
        {0, 1, false},      {2, 127, false}, {130, 128, true},   {300, 4096 + 64, false},
        {5000, 129, false}, {5129, 1, true}, {5130, 70, false},  {5201, 300, true},
        {6000, 1, true},    {6002, 9000},    {15999, 385, true},
    };
    struct gw_memory *memory = gw_memory_new();
    struct gw_ram_block *ram = gw_memory_add_block(memory, "ram", 0, 64 * MIB, NULL);
    uint64_t page = 0, n_pages = 0;

    assert_non_null(ram);
    assert_int_equal(madvise(ram->host, ram->size_bytes, MADV_NOHUGEPAGE), 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(runs); i++)
        for (uint64_t at = runs[i].first; at < runs[i].first + runs[i].n_pages; at++) {
            ram->host[at * GW_PAGE_SIZE] = 1;
            if (runs[i].is_unmapped)
                assert_int_equal(
                    madvise(ram->host + at * GW_PAGE_SIZE, GW_PAGE_SIZE, MADV_DONTNEED), 0);
        }
    for (unsigned i = 0; i < G_N_ELEMENTS(runs); i++) {
        uint64_t end = runs[i].first + runs[i].n_pages;

        for (; i + 1 < G_N_ELEMENTS(runs) && runs[i + 1].first == end; i++)
            end += runs[i + 1].n_pages;
        assert_true(gw_memory_next_allocated_run(ram, &page, &n_pages));
        assert_int_equal(page + n_pages, end);
        page += n_pages;
    }
    assert_int_equal(page, ram->n_pages);
    assert_false(gw_memory_next_allocated_run(ram, &page, &n_pages));
    gw_memory_free(memory);
}

/* Memory that another process gave us, in which the block does not begin at 0. */
static void pages_of_a_larger_file_are_given_back(void **state)
{
    struct gw_memory *memory = gw_memory_new();
    struct gw_memory *theirs = gw_memory_new();
    struct gw_ram_block *ram = gw_memory_add_block(memory, "ram", 0, 4 * MIB, NULL);
    struct gw_ram_block *file = gw_memory_add_block(theirs, "all", 0, 16 * MIB, NULL);
    uint64_t page, n_pages;

    assert_true(ram && file);
    memset(file->host, 7, file->size_bytes);
    assert_true(memory_share_prepare(ram, false, NULL));
    assert_true(memory_share_view(ram, dup(file->fd), 8 * MIB, NULL));
    assert_true(memory_share_take(ram, dup(file->fd), NULL));
    assert_int_equal(allocated_pages(ram), ram->n_pages);
    assert_true(gw_memory_discard(ram, MIB, MIB, NULL));
    assert_int_equal(allocated_pages(ram), ram->n_pages - MIB / GW_PAGE_SIZE);
    for (uint64_t at = 0; at < file->size_bytes; at += GW_PAGE_SIZE)
        assert_int_equal(file->host[at], at >= 9 * MIB && at < 10 * MIB ? 0 : 7);
    /* What the file has behind the block is none of it. */
    assert_true(gw_memory_discard(ram, 3 * MIB, MIB, NULL));
    page = 3 * MIB / GW_PAGE_SIZE;
    assert_false(gw_memory_next_allocated_run(ram, &page, &n_pages));
    assert_true(memory_next_allocated(ram, page, &n_pages) == UINT64_MAX);
    assert_true(memory_is_hole(ram, page, MIB / GW_PAGE_SIZE));
    assert_int_equal(file->host[12 * MIB], 7);
    memory_share_settle(ram);
    gw_memory_free(memory);
    gw_memory_free(theirs);
}

/* ---- devices write while the log is collected ---- */

#define N_WRITERS 2
#define N_WRITES  20000u

struct writer {
    struct gw_memory *memory;
    unsigned seed;
};

/* Each writer owns every N_WRITERS-th page and counts up in them. */
static void *write_many(void *opaque)
{
    const struct writer *writer = opaque;
    struct gw_ram_block *ram = gw_memory_block(writer->memory, 1);

    for (unsigned i = 0; i < N_WRITES; i++) {
        uint64_t page = ((uint64_t)i * 7 % 64) * N_WRITERS + writer->seed;
        uint64_t *counter = (uint64_t *)(void *)(ram->host + page * GW_PAGE_SIZE);
        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
        gw_memory_note_write(ram, page * GW_PAGE_SIZE, sizeof(*counter));
    }
    return NULL;
}

static void no_write_falls_between_two_rounds(void **state)
{
    struct gw_memory *memory = sample();
    struct gw_ram_block *ram = gw_memory_block(memory, 1);
    struct gw_page_set *set = gw_page_set_new(memory);
    struct writer writers[N_WRITERS];
    pthread_t threads[N_WRITERS];
    g_autofree uint64_t *copy = g_new0(uint64_t, 1024);

    assert_true(gw_memory_log_start(memory, NULL));
    for (unsigned i = 0; i < N_WRITERS; i++) {
        writers[i] = (struct writer){memory, i};
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, &writers[i]), 0);
    }
    for (unsigned round = 0; round < 201; round++) {
        if (round == 200) { /* the blackout */
            for (unsigned i = 0; i < N_WRITERS; i++) {
                pthread_join(threads[i], NULL);
            }
        }
        assert_true(gw_memory_log_collect(memory, set, NULL, NULL));
        uint64_t page = 0;
        uint64_t n = 0;
        while (gw_page_set_next_run(set, 1, &page, &n, 1)) {
            uint64_t *counter = (uint64_t *)(void *)(ram->host + page * GW_PAGE_SIZE);
            copy[page] = __atomic_load_n(counter, __ATOMIC_RELAXED);
            page++;
        }
        gw_page_set_clear(set);
    }
    for (uint64_t page = 0; page < ram->n_pages; page++) {
        assert_int_equal(copy[page], *(uint64_t *)(void *)(ram->host + page * GW_PAGE_SIZE));
    }
    gw_page_set_free(set);
    gw_memory_free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_blocks_are_refused),
        cmocka_unit_test(pages_are_placed_in_holes),
        cmocka_unit_test(addresses_are_translated_within_one_block),
        cmocka_unit_test(the_descriptor_cannot_be_shrunk),
        cmocka_unit_test(sets_keep_their_number),
        cmocka_unit_test(writes_are_collected_once),
        cmocka_unit_test(a_producer_that_cannot_start_stops_the_others),
        cmocka_unit_test(a_failed_collection_loses_nothing),
        cmocka_unit_test(watchers_hear_of_watched_pages_once),
        cmocka_unit_test(untouched_memory_costs_nothing),
        cmocka_unit_test(what_is_present_as_a_whole_is_known),
        cmocka_unit_test(huge_pages_keep_what_stands_there),
        cmocka_unit_test(holes_are_told_unread_and_discarding_them_is_no_write),
        cmocka_unit_test(allocated_runs_are_found_whole),
        cmocka_unit_test(pages_of_a_larger_file_are_given_back),
        cmocka_unit_test(no_write_falls_between_two_rounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
