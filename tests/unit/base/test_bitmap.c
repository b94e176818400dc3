/* SPDX-License-Identifier: MIT */
/* Bitmaps against a slow and obvious model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <glib.h>

#include "base/bitmap.h"

#define N_BITS 200u

struct model {
    bool bits[N_BITS];
};

static void assert_same(const struct model *model, const uint64_t *words)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < N_BITS; i++) {
        assert_int_equal(model->bits[i], bitmap_test(words, i));
        count += model->bits[i];
    }
    assert_int_equal(bitmap_count(words, N_BITS), count);
}

static void ranges_match_the_model(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    uint64_t words[4] = {0};
    struct model model = {0};

    for (unsigned round = 0; round < 2000; round++) {
        unsigned first = (unsigned)g_rand_int_range(random, 0, N_BITS);
        unsigned n = (unsigned)g_rand_int_range(random, 0, (gint32)(N_BITS - first + 1));
        bool value = g_rand_boolean(random);
        uint64_t expected = 0;
        for (unsigned i = first; i < first + n; i++) {
            expected += model.bits[i] != value;
            model.bits[i] = value;
        }
        uint64_t changed =
            value ? bitmap_set_range(words, first, n) : bitmap_clear_range(words, first, n);
        assert_int_equal(changed, expected);
        assert_same(&model, words);
    }
}

static void atomic_ranges_match_plain_ones(void **state)
{
    for (unsigned first = 0; first < N_BITS; first += 7) {
        for (unsigned n = 0; n <= N_BITS - first; n += 5) {
            uint64_t plain[4] = {0};
            uint64_t atomic[4] = {0};
            bitmap_set_range(plain, first, n);
            assert_int_equal(bitmap_set_atomic(atomic, first, n), n);
            assert_memory_equal(plain, atomic, sizeof(plain));
            assert_int_equal(bitmap_set_atomic(atomic, first, n), 0); /* nothing is new */
            uint64_t holey[4] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
            bitmap_clear_atomic(holey, first, n);
            for (unsigned i = 0; i < 4; i++) {
                assert_int_equal(holey[i], ~plain[i]);
            }
        }
    }
}

static void unions_count_what_is_new(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(2);

    for (unsigned n_words = 1; n_words <= 40; n_words++) {
        for (unsigned round = 0; round < 20; round++) {
            uint64_t to[41], from[41], expected[41];
            uint64_t n_new = 0;
            for (unsigned i = 0; i < 41; i++) {
                to[i] = (uint64_t)g_rand_int(random) << 32 | g_rand_int(random);
                from[i] = g_rand_boolean(random) ? 0 : (uint64_t)g_rand_int(random) << 20;
                expected[i] = i < n_words ? to[i] | from[i] : to[i];
                n_new += i < n_words ? (uint64_t)__builtin_popcountll(from[i] & ~to[i]) : 0;
            }
            assert_int_equal(bitmap_or_count(to, from, n_words * 64u), n_new);
            assert_memory_equal(to, expected, sizeof(to));
        }
    }
}

static void runs_are_found_in_order(void **state)
{
    uint64_t words[4] = {0};
    uint64_t first = 0;
    uint64_t n = 0;

    assert_false(bitmap_next_run(words, N_BITS, &first, &n, 8));
    bitmap_set_range(words, 60, 10);
    bitmap_set_range(words, 199, 1);
    assert_true(bitmap_next_run(words, N_BITS, &first, &n, 100));
    assert_int_equal(first, 60);
    assert_int_equal(n, 10);
    first = 0;
    assert_true(bitmap_next_run(words, N_BITS, &first, &n, 4));
    assert_int_equal(first, 60);
    assert_int_equal(n, 4);
    first = 64;
    assert_true(bitmap_next_run(words, N_BITS, &first, &n, UINT64_MAX));
    assert_int_equal(first, 64);
    assert_int_equal(n, 6);
    first = 70;
    assert_true(bitmap_next_run(words, N_BITS, &first, &n, UINT64_MAX));
    assert_int_equal(first, 199);
    assert_int_equal(n, 1);
    first = 200;
    assert_false(bitmap_next_run(words, N_BITS, &first, &n, UINT64_MAX));
    /* bits beyond the end do not exist */
    words[3] = ~UINT64_C(0);
    first = 199;
    assert_true(bitmap_next_run(words, N_BITS, &first, &n, UINT64_MAX));
    assert_int_equal(n, 1);
    assert_int_equal(bitmap_next_clear(words, N_BITS, 199), N_BITS);
    assert_int_equal(bitmap_count(words, N_BITS), 10 + 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_match_the_model),
        cmocka_unit_test(atomic_ranges_match_plain_ones),
        cmocka_unit_test(unions_count_what_is_new),
        cmocka_unit_test(runs_are_found_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
