/* SPDX-License-Identifier: MIT */
/* The life table: every row reachable, nothing runs a guest that is gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine/life.h"

/* All states that can be reached from one by any events. */
static unsigned reach(enum life_state from)
{
    unsigned seen = 1u << from, before = 0;

    while (seen != before) {
        before = seen;
        for (int s = 1; s < LIFE_N_STATES; s++)
            for (int e = 1; (seen >> s & 1) && e < LIFE_N_EVENTS; e++) {
                enum life_state next = life_next((enum life_state)s, (enum life_event)e);
                if (next)
                    seen |= 1u << next;
            }
    }
    return seen;
}

static void every_state_is_reachable(void **unused)
{
    unsigned all = ((1u << LIFE_N_STATES) - 1) & ~1u;
    assert_int_equal(reach(LIFE_CREATED), all);
}

static void every_event_has_a_row(void **unused)
{
    for (int e = 1; e < LIFE_N_EVENTS; e++) {
        int rows = 0;
        for (int s = 1; s < LIFE_N_STATES; s++)
            rows += life_next((enum life_state)s, (enum life_event)e) != 0;
        assert_true(rows > 0);
        assert_non_null(life_event_phrase((enum life_event)e));
    }
}

static void a_guest_that_is_gone_never_runs_again(void **unused)
{
    assert_int_equal(reach(LIFE_GONE), 1u << LIFE_GONE);
}

static void a_doubt_ends_only_by_a_decision(void **unused)
{
    for (int e = 1; e < LIFE_N_EVENTS; e++) {
        enum life_state next = life_next(LIFE_DOUBT, (enum life_event)e);
        bool is_decision =
            e == LIFE_EV_RESUME || e == LIFE_EV_RESUME_PAUSED || e == LIFE_EV_RELEASE;
        assert_int_equal(next != 0, is_decision);
    }
}

static void users_cannot_touch_a_switchover(void **unused)
{
    static const enum life_event users[] = {LIFE_EV_STOP, LIFE_EV_CONT, LIFE_EV_RESET};
    static const enum life_state states[] = {LIFE_BLACKOUT, LIFE_DOUBT, LIFE_GONE, LIFE_INCOMING};

    for (size_t s = 0; s < sizeof states / sizeof states[0]; s++)
        for (size_t e = 0; e < sizeof users / sizeof users[0]; e++)
            assert_int_equal(life_next(states[s], users[e]), 0);
}

static void every_state_has_its_names(void **unused)
{
    for (int s = 1; s < LIFE_N_STATES; s++) {
        assert_non_null(life_state_name((enum life_state)s));
        assert_non_null(life_state_phrase((enum life_state)s));
        assert_int_equal(life_is_active((enum life_state)s), s == LIFE_RUNNING);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_state_is_reachable),
        cmocka_unit_test(every_event_has_a_row),
        cmocka_unit_test(a_guest_that_is_gone_never_runs_again),
        cmocka_unit_test(a_doubt_ends_only_by_a_decision),
        cmocka_unit_test(users_cannot_touch_a_switchover),
        cmocka_unit_test(every_state_has_its_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
