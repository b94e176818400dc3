/* SPDX-License-Identifier: MIT */
/* What goes wrong before COMMIT: the guest goes on at the source, the next attempt works. */
#include "harness.h"

#include <string.h>

static void refused_by_ram_size(void **state)
{
    struct move move;

    move_init(&move);
    fake_vm_clear(&move.pair.destination);
    fake_vm_init(&move.pair.destination, "destination", &move.pair, FAKE_RAM_BYTES * 2, 4);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    assert_int_equal(source_status_of(&move).failure.code, GW_ERROR_REFUSED);
    assert_int_equal(source_status_of(&move).failure.side, GW_SIDE_DESTINATION);
    assert_non_null(
        strstr(source_status_of(&move).failure.reason,
               "RAM block ram: the destination has 16777216 bytes, the source has 8388608"));
    assert_int_equal(source_status_of(&move).pages_plain, 0);
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    assert_int_equal(destination_status_of(&move).failure.code, GW_ERROR_REFUSED);
    assert_string_equal(destination_status_of(&move).failure.reason,
                        source_status_of(&move).failure.reason);
    check_one_owner(&move);
    assert_int_equal(move.pair.source.n_stops, 0);
    move_clear(&move);
}

static void refused_by_device_set(void **state)
{
    struct move move;

    move_init(&move);
    fake_vm_clear(&move.pair.destination);
    fake_vm_init(&move.pair.destination, "destination", &move.pair, FAKE_RAM_BYTES / 2, 3);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    assert_int_equal(source_status_of(&move).failure.code, GW_ERROR_REFUSED);
    /* Both findings, in one list. */
    assert_non_null(strstr(source_status_of(&move).failure.reason, "RAM block ram"));
    assert_non_null(strstr(source_status_of(&move).failure.reason, "fake/3"));
    check_one_owner(&move);
    move_clear(&move);
}

static void nobody_listens(void **state)
{
    struct move move;

    move_init(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    assert_true(fake_vm_is_running(&move.pair.source));
    move_clear(&move);
}

static void cancel_in_each_state(void **state)
{
    static const enum gw_source_state states[] = {GW_SOURCE_HANDSHAKE, GW_SOURCE_ROUNDS,
                                                  GW_SOURCE_BLACKOUT};

    for (size_t i = 0; i < G_N_ELEMENTS(states); i++) {
        struct move move;

        move_init(&move);
        move.cancel_at = states[i];
        move_start_destination(&move);
        move_start_source(&move);
        move_finish(&move);
        if (!move.was_cancel_taken) { /* it came before gw_source_start had returned */
            move_clear(&move);
            continue;
        }
        expect_source_state(&move, GW_SOURCE_CANCELLED);
        assert_int_equal(source_status_of(&move).failure.code, GW_ERROR_CANCELLED);
        check_one_owner(&move);
        check_next_attempt_works(&move);
        move_clear(&move);
    }
}

static void cancel_is_refused_after_commit(void **state)
{
    struct move move;

    move_init(&move);
    move.cancel_at = GW_SOURCE_COMMITTED;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    assert_false(move.was_cancel_taken);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    move_clear(&move);
}

static void destination_fails_to_make_ready(void **state)
{
    struct move move;

    move_init(&move);
    move.pair.destination.fails_after_load = true;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    /* The side that failed says why, the other one reports that. */
    assert_int_equal(source_status_of(&move).failure.side, GW_SIDE_DESTINATION);
    assert_string_equal(source_status_of(&move).failure.reason, "tap0 cannot be opened");
    assert_int_equal(source_status_of(&move).failure.code, GW_ERROR_IO);
    check_one_owner(&move);
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    assert_int_equal(move.pair.destination.n_discarded, 1);
    assert_int_equal(move.pair.destination.devices[1].registers[0], 0); /* rolled back */
    move.pair.destination.fails_after_load = false;
    check_next_attempt_works(&move);
    move_clear(&move);
}

static void failed_stops_and_flushes_are_put_off(void **state)
{
    struct move move;
    struct gw_ledger *ledger;

    move_init(&move);
    move.pair.source.fail_stops = 1;
    move.pair.source.fail_flushes = 2;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_int_equal(source_status_of(&move).failed_attempts, 3);
    assert_int_equal(move.pair.source.n_resumes, 2); /* a stop that failed leaves it running */
    ledger = gw_source_get_ledger(move.source);
    assert_int_equal(gw_ledger_n_attempts(ledger), 4);
    check_ledger(ledger, 0, false);
    check_ledger(ledger, 1, false);
    check_ledger(ledger, 2, false);
    check_ledger(ledger, 3, true);
    assert_string_equal(gw_ledger_attempt_at(ledger, 0)->reason,
                        "stopping the guest: the writer does not stop");
    assert_string_equal(gw_ledger_attempt_at(ledger, 1)->reason,
                        "flushing disks: disk0 does not answer");
    gw_ledger_free(ledger);
    check_one_owner(&move);
    move_clear(&move);
}

/* The stopped round is acknowledged at once and looked at when the flush has hung. Were it taken to
 * have lasted as long as the flush, no further attempt would be made: this guest writes nothing, so
 * no other round could say better. */
static void flush_that_hangs_says_nothing_about_the_link(void **state)
{
    struct move move;

    move_init(&move);
    move.pair.source.hangs_in_flush = true;
    move.pair.source.writes_per_ms = 0;
    move.source_params.max_blackout_ns = 300 * NS_PER_MS;
    move_start_destination(&move);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); source_status_of(&move).failed_attempts < 3;)
        assert_true(clock_mono_ns() < limit);
    assert_true(gw_source_cancel(move.source));
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_CANCELLED);
    check_one_owner(&move);
    move_clear(&move);
}

/* What takes thrice the budget once is no reason never to try again. */
static void one_slow_stop_is_not_the_last_word(void **state)
{
    struct move move;

    move_init(&move);
    move.pair.source.writes_per_ms = 0;
    move.pair.source.slow_stops = 1;
    move.pair.source.slow_stop_ms = 900;
    move.source_params.max_blackout_ns = 300 * NS_PER_MS;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_true(source_status_of(&move).failed_attempts >= 1);
    check_one_owner(&move);
    move_clear(&move);
}

/* Nor is a rehearsal while the destination was busy with something else. */
static void one_slow_rehearsal_is_not_the_last_word(void **state)
{
    struct move move;

    move_init(&move);
    move.pair.source.writes_per_ms = 0;
    atomic_store(&move.pair.destination.slow_checks, 1);
    move.source_params.max_blackout_ns = 300 * NS_PER_MS;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_int_equal(atomic_load(&move.pair.destination.slow_checks), 0);
    check_one_owner(&move);
    move_clear(&move);
}

/* The link stalls for a moment in the blackout: the guest goes on, the next attempt succeeds. */
static void slow_blackout_is_put_off(void **state)
{
    struct move move;
    struct gw_ledger *ledger;

    move_init(&move);
    move.pair.source.writes_per_ms = 0;
    move.source_params.max_blackout_ns = 300 * NS_PER_MS;
    move.source_uri = g_strdup_printf(
        "fault:delay@type=SWITCHOVER_BEGIN@ms=2500@channel=control-0,%s", move.pair.uri);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_true(source_status_of(&move).failed_attempts >= 1);
    assert_true(move.pair.source.n_resumes >= 1);
    ledger = gw_source_get_ledger(move.source);
    check_ledger(ledger, 0, false);
    check_ledger(ledger, gw_ledger_n_attempts(ledger) - 1, true);
    gw_ledger_free(ledger);
    check_one_owner(&move);
    move_clear(&move);
}

static void time_budget_ends_it(void **state)
{
    struct move move;

    move_init(&move);
    move.pair.source.fail_stops = UINT32_MAX;
    move.source_params.max_time_ns = 300 * NS_PER_MS;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_CANCELLED);
    assert_int_equal(source_status_of(&move).failure.code, GW_ERROR_TIMEOUT);
    check_one_owner(&move);
    move.pair.source.fail_stops = 0;
    move.source_params.max_time_ns = 0;
    check_next_attempt_works(&move);
    move_clear(&move);
}

static void impossible_budget_goes_on_and_says_so(void **state)
{
    struct move move;
    struct gw_migrate_params relaxed = {.max_blackout_ns = 30 * NS_PER_S};

    move_init(&move);
    move.source_params.max_blackout_ns = 1;
    move_start_destination(&move);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); atomic_load(&move.n_rounds) < 5;)
        assert_true(clock_mono_ns() < limit);
    expect_source_state(&move, GW_SOURCE_ROUNDS);
    assert_int_equal(move.pair.source.n_stops, 0);
    gw_source_set_budgets(move.source, &relaxed);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    move_clear(&move);
}

static void destination_cancels(void **state)
{
    struct move move;

    move_init(&move);
    move.source_params.max_blackout_ns = 1; /* stays in rounds */
    move_start_destination(&move);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); atomic_load(&move.n_rounds) < 2;)
        assert_true(clock_mono_ns() < limit);
    assert_true(gw_destination_cancel(move.destination));
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    assert_int_equal(source_status_of(&move).failure.side, GW_SIDE_DESTINATION);
    assert_string_equal(source_status_of(&move).failure.reason, "cancelled at the destination");
    check_one_owner(&move);
    move.source_params.max_blackout_ns = 30 * NS_PER_S;
    check_next_attempt_works(&move);
    move_clear(&move);
}

static void destination_dies_in_rounds(void **state)
{
    struct move move;

    move_init(&move);
    move.source_params.max_blackout_ns = 1;
    move_start_destination(&move);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); atomic_load(&move.n_rounds) < 2;)
        assert_true(clock_mono_ns() < limit);
    g_clear_pointer(&move.destination, gw_destination_free);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    check_one_owner(&move);
    move_start_destination(&move);
    move.source_params.max_blackout_ns = 30 * NS_PER_S;
    check_next_attempt_works(&move);
    move_clear(&move);
}

static void source_dies_in_rounds(void **state)
{
    struct move move;

    move_init(&move);
    move.source_params.max_blackout_ns = 1;
    move_start_destination(&move);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); atomic_load(&move.n_rounds) < 2;)
        assert_true(clock_mono_ns() < limit);
    g_clear_pointer(&move.source, gw_source_free);
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_DISOWNED);
    assert_true(fake_vm_is_running(&move.pair.source));
    assert_int_equal(move.pair.destination.n_discarded, 1);
    move.source_params.max_blackout_ns = 30 * NS_PER_S;
    check_next_attempt_works(&move);
    move_clear(&move);
}

static void second_source_is_turned_away(void **state)
{
    struct move move;
    struct gw_source *second;
    struct gw_source_status status;
    struct fake_pair other;

    move_init(&move);
    fake_pair_init(&other);
    move.source_params.max_blackout_ns = 1;
    move_start_destination(&move);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); atomic_load(&move.n_rounds) < 2;)
        assert_true(clock_mono_ns() < limit);
    second = gw_source_start(&other.source.vm, move.pair.uri, NULL, NULL, NULL);
    assert_true(gw_source_wait(second, after_ms(PATIENCE_MS)));
    gw_source_get_status(second, &status);
    assert_int_equal(status.state, GW_SOURCE_FAILED);
    assert_string_equal(status.failure.reason, "the destination serves another migration");
    gw_source_free(second);
    fake_pair_clear(&other);
    expect_source_state(&move, GW_SOURCE_ROUNDS);
    assert_true(gw_source_cancel(move.source));
    move_finish(&move);
    check_one_owner(&move);
    move_clear(&move);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_by_ram_size),
        cmocka_unit_test(refused_by_device_set),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(cancel_in_each_state),
        cmocka_unit_test(cancel_is_refused_after_commit),
        cmocka_unit_test(destination_fails_to_make_ready),
        cmocka_unit_test(failed_stops_and_flushes_are_put_off),
        cmocka_unit_test(flush_that_hangs_says_nothing_about_the_link),
        cmocka_unit_test(one_slow_stop_is_not_the_last_word),
        cmocka_unit_test(one_slow_rehearsal_is_not_the_last_word),
        cmocka_unit_test(slow_blackout_is_put_off),
        cmocka_unit_test(time_budget_ends_it),
        cmocka_unit_test(impossible_budget_goes_on_and_says_so),
        cmocka_unit_test(destination_cancels),
        cmocka_unit_test(destination_dies_in_rounds),
        cmocka_unit_test(source_dies_in_rounds),
        cmocka_unit_test(second_source_is_turned_away),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
