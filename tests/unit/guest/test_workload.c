/* SPDX-License-Identifier: MIT */
/* The guests' memory check finds what a broken migration does to pages: it is only worth what it
 * can find. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/workload.h"

#define PAGES 60u

struct fixture {
    struct workload load;
    uint64_t memory[PAGES * PAGE_WORDS];
    uint64_t saved[PAGES * PAGE_WORDS];
};

static struct fixture *fixture_new(enum order order, enum fill fill)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    workload_init(&f->load, f->memory, PAGES, 7, order, fill);
    return f;
}

/* Visits until damage is found, at most `limit` times; returns whether it was. */
static bool finds_damage(struct fixture *f, unsigned limit)
{
    struct damage damage;

    for (unsigned i = 0; i < limit; i++) {
        if (!workload_visit(&f->load, &damage)) {
            return true;
        }
    }
    return false;
}

static uint64_t *page_of(struct fixture *f, unsigned page)
{
    return f->memory + (size_t)page * PAGE_WORDS;
}

static void for_each_kind(void (*body)(struct fixture *f))
{
    for (int order = ORDER_RANDOM; order <= ORDER_HOT; order++) {
        for (int fill = FILL_RANDOM; fill <= FILL_SPARSE; fill++) {
            struct fixture *f = fixture_new((enum order)order, (enum fill)fill);
            assert_false(finds_damage(f, 5 * PAGES + 3));
            body(f);
            free(f);
        }
    }
}

static void good_memory(struct fixture *f)
{
    struct damage damage;

    assert_int_equal(workload_verify(&f->load, &damage), 0);
    assert_false(finds_damage(f, 50 * PAGES));
    assert_int_equal(workload_verify(&f->load, &damage), 0);
}

static void test_good_memory_stays_good(void **state)
{
    for_each_kind(good_memory);
}

static void bit_flip(struct fixture *f)
{
    struct damage damage;

    page_of(f, 31)[PAGE_WORDS - 1] ^= 1u << 9;
    assert_int_equal(workload_verify(&f->load, &damage), 1);
    assert_int_equal(damage.word, PAGE_WORDS - 1);
    assert_true(finds_damage(f, 20 * PAGES));
}

static void test_a_flipped_bit_is_found(void **state)
{
    for_each_kind(bit_flip);
}

static void stale_page(struct fixture *f)
{
    struct damage damage;

    memcpy(f->saved, f->memory, sizeof f->memory);
    assert_false(finds_damage(f, 20 * PAGES));
    memcpy(page_of(f, 40), f->saved + 40 * PAGE_WORDS, PAGE_BYTES);
    assert_int_equal(workload_verify(&f->load, &damage), 1);
    assert_true(finds_damage(f, 20 * PAGES));
}

static void test_a_stale_page_is_found(void **state)
{
    for_each_kind(stale_page);
}

static void torn_page(struct fixture *f)
{
    struct damage damage;

    memcpy(f->saved, f->memory, sizeof f->memory);
    assert_false(finds_damage(f, 20 * PAGES));
    memcpy(page_of(f, 33), f->saved + 33 * PAGE_WORDS, PAGE_BYTES / 2);
    assert_int_equal(workload_verify(&f->load, &damage), 1);
}

static void test_a_torn_page_is_found(void **state)
{
    for_each_kind(torn_page);
}

static void swapped_pages(struct fixture *f)
{
    struct damage damage;

    memcpy(f->saved, page_of(f, 20), PAGE_BYTES);
    memcpy(page_of(f, 20), page_of(f, 50), PAGE_BYTES);
    memcpy(page_of(f, 50), f->saved, PAGE_BYTES);
    assert_int_equal(workload_verify(&f->load, &damage), 2);
}

static void test_swapped_pages_are_found(void **state)
{
    for_each_kind(swapped_pages);
}

static void test_a_pass_visits_every_page_once(void **state)
{
    for (uint64_t pages = 1; pages < 70; pages++) {
        struct region r = {.pages = pages, .salt = pages * 3, .is_shuffled = true};
        for (uint64_t pass = 1; pass < 20; pass++) {
            bool seen[70] = {false};
            region_start_pass(&r, pass);
            for (uint64_t i = 0; i < pages; i++) {
                uint64_t page = region_place(&r, i);
                assert_true(page < pages && !seen[page]);
                seen[page] = true;
            }
        }
    }
}

static void test_a_part_of_a_page_shows_that_it_is_stale(void **state)
{
    struct fixture *f = fixture_new(ORDER_RANDOM, FILL_RANDOM);

    workload_check_part(&f->load);
    assert_false(finds_damage(f, 3 * PAGES));
    memcpy(f->saved, f->memory, sizeof f->memory);
    assert_false(finds_damage(f, PAGES));
    memcpy(page_of(f, 40), f->saved + 40 * PAGE_WORDS, PAGE_BYTES);
    assert_true(finds_damage(f, PAGES)); /* at the next visit of each */
    free(f);
}

/* What a visit overlooks is found by one of a later pass, if it stays wrong. */
static void test_every_word_is_in_the_part_of_some_pass(void **state)
{
    for (unsigned word = 0; word < PAGE_WORDS; word++) {
        struct fixture *f = fixture_new(ORDER_SEQ, FILL_RANDOM);
        bool is_found = false;
        struct damage damage;

        for (uint64_t pass = 1; pass < PAGE_LINES && !is_found; pass++) {
            page_write(&f->load.cold, 5, pass);
            assert_true(page_check_part(&f->load.cold, 5, pass, &damage));
            page_of(f, 5)[word] ^= 1;
            is_found = !page_check_part(&f->load.cold, 5, pass, &damage);
            assert_true(!is_found || damage.word == word);
        }
        assert_true(is_found);
        free(f);
    }
}

/* A verification leaves no word out. */
static void test_a_part_is_enough_for_visits_only(void **state)
{
    struct fixture *f = fixture_new(ORDER_SEQ, FILL_RANDOM);
    struct damage damage;

    workload_check_part(&f->load);
    for (unsigned line = 1; line < PAGE_LINES; line++) {
        page_of(f, line % PAGES)[line * LINE_WORDS] ^= 1;
        assert_int_equal(workload_verify(&f->load, &damage), 1);
        page_of(f, line % PAGES)[line * LINE_WORDS] ^= 1;
    }
    free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_memory_stays_good),
        cmocka_unit_test(test_a_flipped_bit_is_found),
        cmocka_unit_test(test_a_stale_page_is_found),
        cmocka_unit_test(test_a_torn_page_is_found),
        cmocka_unit_test(test_swapped_pages_are_found),
        cmocka_unit_test(test_a_pass_visits_every_page_once),
        cmocka_unit_test(test_a_part_of_a_page_shows_that_it_is_stale),
        cmocka_unit_test(test_every_word_is_in_the_part_of_some_pass),
        cmocka_unit_test(test_a_part_is_enough_for_visits_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
