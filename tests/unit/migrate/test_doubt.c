/* SPDX-License-Identifier: MIT */
/* After COMMIT: who owns the guest when the link goes, and how the source finds out. */
#include "harness.h"

#include <string.h>

static char *faulty_uri(struct move *move, const char *spec)
{
    return g_strdup_printf("fault:%s,%s", spec, move->pair.uri);
}

static void wait_for_source_state(struct move *move, enum gw_source_state state)
{
    for (uint64_t limit = after_ms(PATIENCE_MS); source_state_of(move) != state;)
        assert_true(clock_mono_ns() < limit);
}

/* COMMIT never arrives: the destination answers "never", the guest goes on at the source. */
static void lost_commit_ends_at_the_source(void **state)
{
    struct move move;

    move_init(&move);
    move.source_uri = faulty_uri(&move, "cut@type=COMMIT@channel=control");
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    assert_true(atomic_load(&move.seen_states) & (1u << GW_SOURCE_IN_DOUBT));
    expect_source_state(&move, GW_SOURCE_FAILED);
    check_one_owner(&move);
    check_next_attempt_works(&move);
    move_clear(&move);
}

/* RUNNING never arrives: the destination answers "running", the source lets go. */
static void lost_running_ends_at_the_destination(void **state)
{
    struct move move;

    move_init(&move);
    move.source_uri = faulty_uri(&move, "cut@type=RUNNING@in@channel=control");
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    assert_true(atomic_load(&move.seen_states) & (1u << GW_SOURCE_IN_DOUBT));
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); !destination_status_of(&move).is_source_told;)
        assert_true(clock_mono_ns() < limit);
    move_clear(&move);
}

/* Nobody can be asked: the guest stays stopped until an operator decides. */
static void operator_says_run_here(void **state)
{
    struct move move;
    g_autoptr(GError) error = NULL;

    move_init(&move);
    move.source_uri = faulty_uri(&move, "cut@type=COMMIT@channel=control");
    move.refuse_from = 2;
    move_start_destination(&move);
    move_start_source(&move);
    assert_false(gw_source_resolve(move.source, GW_RESOLVE_RUN_HERE, &error));
    assert_int_equal(error->code, GW_ERROR_STATE);
    wait_for_source_state(&move, GW_SOURCE_IN_DOUBT);
    assert_false(gw_source_cancel(move.source));
    assert_int_equal(atomic_load(&move.pair.n_running), 0);
    assert_false(gw_source_wait(move.source, after_ms(300)));
    assert_int_equal(atomic_load(&move.pair.n_running), 0);
    assert_true(gw_source_resolve(move.source, GW_RESOLVE_RUN_HERE, NULL));
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    check_one_owner(&move);
    check_next_attempt_works(&move);
    move_clear(&move);
}

static void operator_says_release(void **state)
{
    struct move move;

    move_init(&move);
    move.source_uri = faulty_uri(&move, "cut@type=RUNNING@in@channel=control");
    move.refuse_from = 2;
    move_start_destination(&move);
    move_start_source(&move);
    wait_for_source_state(&move, GW_SOURCE_IN_DOUBT);
    assert_true(gw_source_resolve(move.source, GW_RESOLVE_RELEASE, NULL));
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    move_clear(&move);
}

/* Another process listens at the same place: it knows nothing, which is no answer. */
static void unknown_is_no_answer(void **state)
{
    struct move move;

    move_init(&move);
    move.source_uri = faulty_uri(&move, "cut@type=COMMIT@channel=control");
    move.refuse_from = 2;
    move_start_destination(&move);
    move_start_source(&move);
    wait_for_source_state(&move, GW_SOURCE_IN_DOUBT);
    gw_destination_free(move.destination);
    move_start_destination(&move);
    atomic_store(&move.n_channels, -1000000); /* from now on it may reconnect */
    assert_false(gw_source_wait(move.source, after_ms(1000)));
    expect_source_state(&move, GW_SOURCE_IN_DOUBT);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_LISTENING);
    assert_true(gw_source_resolve(move.source, GW_RESOLVE_RUN_HERE, NULL));
    move_finish(&move);
    check_one_owner(&move);
    move_clear(&move);
}

/* Freeing the source in doubt leaves its guest stopped. */
static void freed_in_doubt_runs_nothing(void **state)
{
    struct move move;

    move_init(&move);
    move.source_uri = faulty_uri(&move, "cut@type=COMMIT@channel=control");
    move.refuse_from = 2;
    move_start_destination(&move);
    move_start_source(&move);
    wait_for_source_state(&move, GW_SOURCE_IN_DOUBT);
    g_clear_pointer(&move.source, gw_source_free);
    assert_int_equal(atomic_load(&move.pair.n_running), 0);
    assert_int_equal(move.pair.source.n_resumes, 0);
    move_clear(&move);
}

/* A stalled link is noticed within the silence limit, and both sides say so. */
static void stalled_link_is_noticed(void **state)
{
    static const char *const specs[] = {
        "stall@type=ROUND_END@channel=page-0", "stall@type=ROUND_ACK@in@channel=control",
        "stall@type=SWITCHOVER_BEGIN@channel=control", "stall@type=HELLO@channel=control"};

    for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
        struct move move;

        move_init(&move);
        move.source_params.silence_limit_ns = 1500 * NS_PER_MS;
        move.destination_params.silence_limit_ns = 1500 * NS_PER_MS;
        move.source_uri = faulty_uri(&move, specs[i]);
        move_start_destination(&move);
        move_start_source(&move);
        move_finish(&move);
        expect_source_state(&move, GW_SOURCE_FAILED);
        check_one_owner(&move);
        move.source_params.silence_limit_ns = 0;
        check_next_attempt_works(&move);
        move_clear(&move);
    }
}

/* A damaged page is asked for again; a damaged record ends the migration. */
static void damaged_pages_are_resent(void **state)
{
    struct move move;

    move_init(&move);
    move.pair.source.writes_per_ms = 0;
    move.source_uri = faulty_uri(&move, "corrupt@type=PAGES@at=70000@channel=page-0");
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_true(source_status_of(&move).pages_resent > 0);
    check_one_owner(&move);
    move_clear(&move);
}

static void damaged_records_end_it(void **state)
{
    struct move move;

    move_init(&move);
    move.source_uri = faulty_uri(&move, "corrupt@type=ROUND_END@at=33@channel=page-0");
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    assert_int_equal(source_status_of(&move).failure.side, GW_SIDE_DESTINATION);
    assert_int_equal(source_status_of(&move).failure.code, GW_ERROR_CORRUPT);
    assert_non_null(strstr(source_status_of(&move).failure.reason, "ROUND_END"));
    check_one_owner(&move);
    check_next_attempt_works(&move);
    move_clear(&move);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lost_commit_ends_at_the_source),
        cmocka_unit_test(lost_running_ends_at_the_destination),
        cmocka_unit_test(operator_says_run_here),
        cmocka_unit_test(operator_says_release),
        cmocka_unit_test(unknown_is_no_answer),
        cmocka_unit_test(freed_in_doubt_runs_nothing),
        cmocka_unit_test(stalled_link_is_noticed),
        cmocka_unit_test(damaged_pages_are_resent),
        cmocka_unit_test(damaged_records_end_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
