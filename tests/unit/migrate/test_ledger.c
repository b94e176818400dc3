/* SPDX-License-Identifier: MIT */
/* The ledger: its phases are a partition of the blackout, whatever is laid over them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "migrate/ledger.h"

static void check_partition(const struct gw_ledger_attempt *attempt)
{
    uint64_t sum_ns = 0;
    int64_t at_ns = 0;

    for (uint32_t i = 0; i < attempt->n_phases; i++) {
        if (attempt->phases[i].depth)
            continue;
        assert_int_equal(attempt->phases[i].start_ns, at_ns);
        at_ns += (int64_t)attempt->phases[i].length_ns;
        sum_ns += attempt->phases[i].length_ns;
    }
    assert_int_equal(sum_ns, attempt->blackout_ns);
}

static void phases_follow_each_other(void **state)
{
    struct gw_ledger *ledger = ledger_new();
    const struct gw_ledger_attempt *attempt;

    gw_ledger_note(ledger, "nothing is open", 1, 1);
    ledger_open(ledger, GW_SIDE_SOURCE, "stop", 1000, 5, 77);
    gw_ledger_note(ledger, "hart 0", 1010, 20);
    ledger_next(ledger, GW_SIDE_SOURCE, "save", 1100);
    ledger_next(ledger, GW_SIDE_SOURCE, "back in time", 1050);
    assert_int_equal(ledger_close(ledger, 1500, NULL, 9), 500);
    assert_int_equal(ledger_close(ledger, 9999, NULL, 9), 0);
    assert_int_equal(gw_ledger_n_attempts(ledger), 1);
    attempt = gw_ledger_attempt_at(ledger, 0);
    assert_int_equal(attempt->n_phases, 4);
    assert_int_equal(attempt->predicted_ns, 77);
    assert_int_equal(attempt->clock_error_ns, 9);
    assert_true(attempt->is_handed_over);
    assert_string_equal(attempt->phases[1].name, "hart 0");
    assert_int_equal(attempt->phases[1].depth, 1);
    assert_int_equal(attempt->phases[1].start_ns, 10);
    check_partition(attempt);
    assert_null(gw_ledger_attempt_at(ledger, 1));
    gw_ledger_free(ledger);
}

static void spans_cut_the_wait_and_keep_the_sum(void **state)
{
    struct ledger_span spans[] = {
        {"before", 0, 0, 900},   /* over before the wait: left out */
        {"check", 0, 900, 1150}, /* begins earlier: clipped */
        {"disk", 1, 1120, 1130},     {"load", 0, 1150, 1300},
        {"overlaps", 0, 1250, 1350}, /* clipped to what is left */
        {"late", 0, 1450, 9000},     /* ends later: clipped */
        {"after", 0, 9000, 9100},
    };
    struct gw_ledger *ledger = ledger_new();
    struct gw_ledger *copy;
    const struct gw_ledger_attempt *attempt;

    ledger_open(ledger, GW_SIDE_SOURCE, "stop", 1000, 0, 0);
    ledger_next(ledger, GW_SIDE_SOURCE, "wait", 1100);
    ledger_next(ledger, GW_SIDE_SOURCE, "end", 1500);
    ledger_close(ledger, 1600, NULL, 0);
    ledger_overlay(ledger, "wait", "wire", GW_SIDE_DESTINATION, spans, 7);
    copy = ledger_copy(ledger);
    attempt = gw_ledger_attempt_at(copy, 0);
    check_partition(attempt);
    assert_string_equal(attempt->phases[0].name, "stop");
    assert_string_equal(attempt->phases[1].name, "check");
    assert_int_equal(attempt->phases[1].length_ns, 50);
    assert_int_equal(attempt->phases[1].side, GW_SIDE_DESTINATION);
    assert_string_equal(attempt->phases[2].name, "disk");
    assert_string_equal(attempt->phases[3].name, "load");
    assert_string_equal(attempt->phases[4].name, "overlaps");
    assert_int_equal(attempt->phases[4].length_ns, 50);
    assert_string_equal(attempt->phases[5].name, "wire");
    assert_int_equal(attempt->phases[5].side, GW_SIDE_NONE);
    assert_string_equal(attempt->phases[6].name, "late");
    assert_string_equal(attempt->phases[7].name, "end");
    assert_int_equal(attempt->n_phases, 8);
    gw_ledger_free(copy);
    gw_ledger_free(ledger);
}

static void spans_without_a_place_are_kept_as_parts(void **state)
{
    struct ledger_span spans[] = {
        {"load", 0, 1050, 1060, false}, /* while the source was in another phase */
        {"resume", 0, 1300, 1400, false},
        {"deep", 1, 1310, 1320, false},
        {"late", 1, 1600, 1600, false}, /* after everything */
    };
    struct gw_ledger *ledger = ledger_new();
    struct gw_ledger *copy;
    const struct gw_ledger_attempt *attempt;

    ledger_open(ledger, GW_SIDE_SOURCE, "save", 1000, 0, 0);
    ledger_next(ledger, GW_SIDE_SOURCE, "wait", 1100);
    ledger_close(ledger, 1500, NULL, 0);
    ledger_overlay(ledger, "wait", "wire", GW_SIDE_DESTINATION, spans, G_N_ELEMENTS(spans));
    ledger_note_unplaced(ledger, GW_SIDE_DESTINATION, spans, G_N_ELEMENTS(spans));
    copy = ledger_copy(ledger);
    attempt = gw_ledger_attempt_at(copy, 0);
    check_partition(attempt);
    assert_int_equal(attempt->n_phases, 7); /* save, wire, resume, deep, wire; and: */
    assert_string_equal(attempt->phases[3].name, "deep");
    assert_string_equal(attempt->phases[5].name, "load");
    assert_int_equal(attempt->phases[5].depth, 1);
    assert_int_equal(attempt->phases[5].start_ns, 50);
    assert_int_equal(attempt->phases[5].length_ns, 10);
    assert_string_equal(attempt->phases[6].name, "late");
    assert_int_equal(attempt->phases[6].depth, 1);
    gw_ledger_free(copy);
    gw_ledger_free(ledger);
}

static void failed_attempts_stay(void **state)
{
    struct gw_ledger *ledger = ledger_new();

    ledger_open(ledger, GW_SIDE_SOURCE, "stop", 10, 0, 0);
    ledger_close(ledger, 30, "disk0 does not answer", 0);
    ledger_open(ledger, GW_SIDE_SOURCE, "stop", 50, 0, 0);
    assert_true(ledger_is_open(ledger));
    ledger_close(ledger, 60, NULL, 0);
    ledger_note_late(ledger, GW_SIDE_DESTINATION, "first packet out", 90, 0);
    assert_int_equal(gw_ledger_n_attempts(ledger), 2);
    assert_false(gw_ledger_attempt_at(ledger, 0)->is_handed_over);
    assert_string_equal(gw_ledger_attempt_at(ledger, 0)->reason, "disk0 does not answer");
    assert_int_equal(gw_ledger_attempt_at(ledger, 0)->blackout_ns, 20);
    assert_int_equal(gw_ledger_attempt_at(ledger, 1)->phases[1].start_ns, 40);
    check_partition(gw_ledger_attempt_at(ledger, 1));
    gw_ledger_free(ledger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phases_follow_each_other),
        cmocka_unit_test(spans_cut_the_wait_and_keep_the_sum),
        cmocka_unit_test(spans_without_a_place_are_kept_as_parts),
        cmocka_unit_test(failed_attempts_stay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
