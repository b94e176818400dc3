/* SPDX-License-Identifier: MIT */
/* Alignment of two hosts' clocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/clock.h"

static void the_offset_is_within_its_error(void **state)
{
    /* the other clock is 1000000 ahead (or behind); the way takes 300 there and 100 back */
    for (int64_t ahead = -1000000; ahead <= 1000000; ahead += 2000000) {
        struct clock_offset offset = {0};
        uint64_t t0 = 5000000;
        uint64_t t1 = (uint64_t)((int64_t)t0 + 300 + ahead);
        uint64_t t2 = t1 + 50;
        uint64_t t3 = t0 + 300 + 50 + 100;
        clock_offset_sample(&offset, t0, t1, t2, t3);
        assert_true(offset.is_known);
        assert_int_equal(offset.error_ns, 200);
        int64_t wrong = offset.offset_ns - ahead;
        assert_true(wrong >= -200 && wrong <= 200);
        assert_int_equal((int64_t)clock_offset_to_ours(&offset, t1) + wrong, (int64_t)t0 + 300);
    }
}

static void the_best_exchange_wins(void **state)
{
    struct clock_offset offset = {0};

    assert_int_equal(clock_offset_to_ours(&offset, 123), 123);
    clock_offset_sample(&offset, 1000, 1500, 1500, 2000);
    assert_int_equal(offset.error_ns, 500);
    clock_offset_sample(&offset, 1000, 1010, 1010, 1020);
    assert_int_equal(offset.error_ns, 10);
    assert_int_equal(offset.offset_ns, 0);
    clock_offset_sample(&offset, 1000, 1900, 1900, 2000);
    assert_int_equal(offset.error_ns, 10);
}

static void impossible_exchanges_are_ignored(void **state)
{
    struct clock_offset offset = {0};

    clock_offset_sample(&offset, 10, 20, 15, 30); /* answered before received */
    clock_offset_sample(&offset, 30, 20, 25, 10); /* received before sent */
    clock_offset_sample(&offset, 10, 20, 90, 30); /* slower than the whole exchange */
    clock_offset_sample(&offset, 10, UINT64_MAX, UINT64_MAX, 30);
    assert_false(offset.is_known);
}

static void times_before_either_clock_saturate(void **state)
{
    struct clock_offset ahead = {.offset_ns = 1000, .is_known = true};
    struct clock_offset behind = {.offset_ns = -1000, .is_known = true};

    assert_int_equal(clock_offset_to_ours(&ahead, 1), 0);
    assert_true(clock_offset_to_ours(&behind, UINT64_MAX) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_offset_is_within_its_error),
        cmocka_unit_test(the_best_exchange_wins),
        cmocka_unit_test(impossible_exchanges_are_ignored),
        cmocka_unit_test(times_before_either_clock_saturate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
