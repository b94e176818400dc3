/* SPDX-License-Identifier: MIT */
/* The turns of a throttled vCPU, on a clock of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cpu/throttle.h"

#define TURN THROTTLE_TURN_NS

/* Runs a vCPU that notices the end of its window late_ns late; its running time in permille. */
static uint64_t run_permille(unsigned permille, uint64_t late_ns)
{
    struct cpu_throttle throttle;
    uint64_t now_ns = 1000, ran_ns = 0, end_ns = now_ns + 1000 * TURN;
    bool did_run = false;

    cpu_throttle_init(&throttle);
    cpu_throttle_set(&throttle, permille);
    while (now_ns < end_ns) {
        uint64_t until_ns = cpu_throttle_look(&throttle, now_ns, did_run);

        did_run = until_ns == 0;
        if (until_ns) {
            assert_true(until_ns > now_ns && until_ns <= now_ns + TURN);
            cpu_throttle_paused(&throttle, until_ns - now_ns);
            now_ns = until_ns;
        } else {
            uint64_t next_ns = throttle.open_until_ns;

            next_ns = (next_ns < end_ns ? next_ns : end_ns) + late_ns;
            ran_ns += next_ns - now_ns;
            now_ns = next_ns;
        }
    }
    assert_int_equal(now_ns - 1000 - ran_ns, throttle.paused_ns);
    return ran_ns * 1000 / (now_ns - 1000);
}

static void a_share_is_kept(void **state)
{
    static const unsigned shares[] = {1, 10, 250, 500, 900, 985, 990};

    for (unsigned i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        uint64_t ran = run_permille(shares[i], 0);

        assert_in_range(ran, 1000 - shares[i] - 1, 1000 - shares[i] + 1);
        /* It never runs less than it may, and late ends do not add up. */
        assert_in_range(run_permille(shares[i], TURN / 100), 1000 - shares[i] - 1,
                        1000 - shares[i] + 11);
    }
}

static void without_a_throttle_it_runs(void **state)
{
    struct cpu_throttle throttle;

    cpu_throttle_init(&throttle);
    assert_int_equal(cpu_throttle_look(&throttle, 5, true), 0);
    assert_true(throttle.open_until_ns == THROTTLE_NEVER);
    assert_int_equal(run_permille(0, 0), 1000);
}

static void it_never_stands_still_for_good(void **state)
{
    struct cpu_throttle throttle;

    cpu_throttle_init(&throttle);
    assert_true(cpu_throttle_set(&throttle, 4000000000u));
    assert_false(cpu_throttle_set(&throttle, 1000));
    assert_int_equal(cpu_throttle_get(&throttle), THROTTLE_MAX_PERMILLE);
    assert_in_range(run_permille(1000, 0), 9, 11);
}

static void a_change_takes_effect_at_once(void **state)
{
    struct cpu_throttle throttle;
    uint64_t until_ns;

    cpu_throttle_init(&throttle);
    cpu_throttle_set(&throttle, 100);
    assert_int_equal(cpu_throttle_look(&throttle, 0, true), 0);
    assert_int_equal(throttle.open_until_ns, TURN / 10 * 9);
    cpu_throttle_set(&throttle, 900); /* more: the window under way becomes shorter */
    assert_int_equal(cpu_throttle_look(&throttle, 1, true), 0);
    assert_int_equal(throttle.open_until_ns, 1 + TURN / 10);
    until_ns = cpu_throttle_look(&throttle, 1 + TURN / 10, true);
    assert_int_equal(until_ns, 1 + TURN);
    cpu_throttle_set(&throttle, 500); /* less, in its pause */
    assert_int_equal(cpu_throttle_look(&throttle, 2 + TURN / 10, false), 1 + TURN / 10 * 6);
    cpu_throttle_set(&throttle, 0);
    assert_int_equal(cpu_throttle_look(&throttle, 3 + TURN / 10, false), 0);
    assert_true(throttle.open_until_ns == THROTTLE_NEVER);
}

static void who_slept_does_not_pause_again(void **state)
{
    struct cpu_throttle throttle;

    cpu_throttle_init(&throttle);
    cpu_throttle_set(&throttle, 500);
    assert_int_equal(cpu_throttle_look(&throttle, 0, true), 0);
    /* Woken in the second half of its turn: the rest of it is left. */
    assert_int_equal(cpu_throttle_look(&throttle, TURN / 10 * 7, false), TURN);
    /* Woken after it: a new turn. */
    assert_int_equal(cpu_throttle_look(&throttle, TURN * 3, false), 0);
    assert_int_equal(throttle.open_until_ns, TURN * 3 + TURN / 2);
    /* Out of the guest so late, it has not slept. */
    assert_int_equal(cpu_throttle_look(&throttle, TURN * 9, true), TURN * 9 + TURN / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_share_is_kept),
        cmocka_unit_test(without_a_throttle_it_runs),
        cmocka_unit_test(it_never_stands_still_for_good),
        cmocka_unit_test(a_change_takes_effect_at_once),
        cmocka_unit_test(who_slept_does_not_pause_again),
    };

    return cmocka_run_group_tests_name("throttle", tests, NULL, NULL);
}
