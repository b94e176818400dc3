/* SPDX-License-Identifier: MIT */
/* Channels are given up only where fewer carry as much. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/clock.h"
#include "migrate/engine.h"
#include "migrate/tune.h"

struct run {
    struct tune tune;
    uint64_t now_ns, n_bytes;
    unsigned n_changes;
};

/* Lets a round go on for so long; rates[n]: what n channels carry per ms. */
static void go_on(struct run *run, uint64_t ms, const uint64_t *rates)
{
    for (uint64_t i = 0; i < ms; i++) {
        uint32_t before = run->tune.n_active;

        run->now_ns += NS_PER_MS;
        run->n_bytes += rates[before];
        run->n_changes += tune_look(&run->tune, run->now_ns, run->n_bytes) != before;
    }
}

static struct run begin(uint32_t n_all, bool is_auto)
{
    struct run run = {.now_ns = 777 * NS_PER_S};

    tune_init(&run.tune, n_all, is_auto);
    tune_round(&run.tune, run.now_ns);
    return run;
}

static void short_rounds_use_all(void **state)
{
    static const uint64_t same[] = {0, 5, 5, 5, 5};
    struct run run = begin(4, true);

    for (unsigned i = 0; i < 10; i++) {
        go_on(&run, TUNE_FIRST_NS / NS_PER_MS - 1, same);
        assert_int_equal(run.tune.n_active, 4);
        tune_round(&run.tune, run.now_ns);
    }
    assert_int_equal(run.n_changes, 0);
}

static void one_is_enough_for_a_slow_link(void **state)
{
    static const uint64_t same[] = {0, 5000, 5000, 5000, 5000, 5000, 5000, 5000, 5000};
    struct run run = begin(8, true);

    go_on(&run, 4000, same);
    assert_int_equal(run.tune.n_active, 1);
    assert_int_equal(run.n_changes, 3); /* 4, 2, 1 */
    assert_true(tune_next_ns(&run.tune) == UINT64_MAX);
    tune_round(&run.tune, run.now_ns);
    assert_int_equal(run.tune.n_active, 8);
}

static void what_pays_is_kept(void **state)
{
    static const uint64_t rates[] = {0, 1000, 1900, 2800, 3600, 3600, 3600, 3600, 3600};
    struct run run = begin(8, true);

    /* Four carry what eight do, two do not. Trials get rarer. */
    go_on(&run, 3000, rates);
    assert_int_equal(run.tune.n_active, 4);
    go_on(&run, 100000, rates);
    assert_int_equal(run.tune.n_active, 4);
    assert_in_range(run.n_changes, 3, 20);
}

static void a_number_that_was_given_holds(void **state)
{
    static const uint64_t same[] = {0, 5, 5, 5, 5};
    struct run run = begin(4, false);

    go_on(&run, 60000, same);
    assert_int_equal(run.tune.n_active, 4);
    assert_int_equal(run.n_changes, 0);
    assert_true(tune_next_ns(&run.tune) == UINT64_MAX);
}

static void cores_say_how_many(void **state)
{
    assert_int_equal(engine_channels_for_cores(0), 1); /* not known */
    assert_int_equal(engine_channels_for_cores(1), 1);
    assert_int_equal(engine_channels_for_cores(2), 2);
    assert_int_equal(engine_channels_for_cores(4), 2);
    assert_int_equal(engine_channels_for_cores(8), 4);
    assert_int_equal(engine_channels_for_cores(256), ENGINE_MAX_AUTO_CHANNELS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_rounds_use_all), cmocka_unit_test(one_is_enough_for_a_slow_link),
        cmocka_unit_test(what_pays_is_kept),    cmocka_unit_test(a_number_that_was_given_holds),
        cmocka_unit_test(cores_say_how_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
