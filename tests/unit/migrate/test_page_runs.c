/* SPDX-License-Identifier: MIT */
/* Runs of pages that are joined, or taken out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "migrate/page_runs.h"

#define N_PAGES UINT64_C(4096)

struct fixture {
    struct gw_memory *memory;
    struct gw_page_set *set;
};

static void init(struct fixture *f)
{
    f->memory = gw_memory_new();
    assert_non_null(gw_memory_add_block(f->memory, "a", 0, N_PAGES * GW_PAGE_SIZE, NULL));
    assert_non_null(
        gw_memory_add_block(f->memory, "b", UINT64_C(1) << 32, N_PAGES * GW_PAGE_SIZE, NULL));
    f->set = gw_page_set_new(f->memory);
}

static void clear(struct fixture *f)
{
    gw_page_set_free(f->set);
    gw_memory_free(f->memory);
}

static uint64_t n_runs(const struct gw_page_set *set)
{
    uint64_t runs = 0;

    for (uint32_t block = 0; block < 2; block++)
        for (uint64_t page = 0, n; gw_page_set_next_run(set, block, &page, &n, UINT64_MAX);
             page += n)
            runs++;
    return runs;
}

static void few_runs_stay_as_they_are(void **state)
{
    struct fixture f;

    init(&f);
    for (uint64_t i = 0; i < 10; i++)
        gw_page_set_add(f.set, 0, i * 3, 2);
    assert_int_equal(page_runs_join(f.set, 10), 0);
    assert_int_equal(f.set->n_set, 20);
    assert_int_equal(n_runs(f.set), 10);
    clear(&f);
}

/* Gaps of 1, 2, 3 ... 40 pages: only as many of the shortest are filled as it takes. */
static void the_shortest_gaps_are_filled_first(void **state)
{
    struct fixture f;
    uint64_t page = 0;

    init(&f);
    for (uint64_t gap = 40; gap > 0; gap--) {
        gw_page_set_add(f.set, 1, page, 1);
        page += 1 + gap;
    }
    gw_page_set_add(f.set, 1, page, 1);
    assert_int_equal(n_runs(f.set), 41);
    assert_int_equal(page_runs_join(f.set, 31), 55); /* 1 + 2 + ... + 10 */
    assert_int_equal(n_runs(f.set), 31);
    assert_true(gw_page_set_test(f.set, 1, page - 1));
    assert_false(gw_page_set_test(f.set, 1, 1));
    clear(&f);
}

static void blocks_and_long_gaps_stay_apart(void **state)
{
    struct fixture f;

    init(&f);
    gw_page_set_add(f.set, 0, 0, 1);
    gw_page_set_add(f.set, 0, 1 + PAGE_RUNS_MAX_GAP, 1);
    gw_page_set_add(f.set, 0, N_PAGES - 1, 1);
    gw_page_set_add(f.set, 1, 1, 1);
    assert_int_equal(page_runs_join(f.set, 1), PAGE_RUNS_MAX_GAP);
    assert_int_equal(n_runs(f.set), 3);
    assert_false(gw_page_set_test(f.set, 1, 0));
    assert_int_equal(page_runs_join(f.set, 1), 0);
    clear(&f);
}

/* Of each block what the other set has, whether it is in the set or not. */
static void what_another_set_has_is_taken_out(void **state)
{
    struct fixture f;
    struct gw_page_set *other;

    init(&f);
    other = gw_page_set_new(f.memory);
    gw_page_set_add(f.set, 0, 0, N_PAGES);
    gw_page_set_add(f.set, 1, 10, 10);
    gw_page_set_add(other, 0, 100, 1000);
    gw_page_set_add(other, 0, N_PAGES - 1, 1);
    gw_page_set_add(other, 1, 0, 15);
    page_runs_remove(f.set, other);
    assert_int_equal(f.set->n_set, N_PAGES - 1001 + 5);
    assert_int_equal(n_runs(f.set), 3);
    assert_false(gw_page_set_test(f.set, 0, 100) || gw_page_set_test(f.set, 1, 14));
    assert_true(gw_page_set_test(f.set, 0, 99) && gw_page_set_test(f.set, 1, 15));
    assert_int_equal(other->n_set, 1016);
    gw_page_set_free(other);
    clear(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_runs_stay_as_they_are),
        cmocka_unit_test(the_shortest_gaps_are_filled_first),
        cmocka_unit_test(blocks_and_long_gaps_stay_apart),
        cmocka_unit_test(what_another_set_has_is_taken_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
