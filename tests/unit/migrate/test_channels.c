/* SPDX-License-Identifier: MIT */
/* Page channels: as many as agreed, and right when one of them dies, stalls or lags. */
#include "harness.h"

#include <string.h>

#include "migrate/engine.h"
#include "wire/messages.h"

static uint32_t own_proposal(void)
{
    return engine_channels_for_cores(g_get_num_processors());
}

/* Moves and checks; returns how many page channels were used. */
static uint32_t move_with(uint32_t at_source, uint32_t at_destination, const char *filter)
{
    struct move move;
    uint32_t n_channels;

    move_init(&move);
    move.source_params.channels = at_source;
    move.destination_params.channels = at_destination;
    if (filter)
        move.source_uri = g_strdup_printf("%s,%s", filter, move.pair.uri);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    n_channels = source_status_of(&move).n_channels;
    assert_int_equal(source_status_of(&move).n_active_channels, n_channels); /* the last round */
    assert_int_equal(destination_status_of(&move).n_channels, n_channels);
    assert_int_equal(atomic_load(&move.n_channels), 1 + (int)n_channels);
    assert_true(source_status_of(&move).cpu_ns > 0);
    assert_true(source_status_of(&move).peer_cpu_ns > 0);
    assert_true(destination_status_of(&move).cpu_ns >= source_status_of(&move).peer_cpu_ns);
    move_clear(&move);
    return n_channels;
}

static void the_smaller_proposal_holds(void **state)
{
    assert_int_equal(move_with(0, 0, NULL), own_proposal());
    assert_int_equal(move_with(0, 1, NULL), 1);
    assert_int_equal(move_with(0, 64, NULL), own_proposal());
}

static void a_number_of_the_source_holds(void **state)
{
    assert_int_equal(move_with(1, 0, NULL), 1);
    assert_int_equal(move_with(5, 0, NULL), 5);
    assert_int_equal(move_with(16, 2, NULL), 16);
}

/* A channel that is late by far delays rounds and harms nothing. */
static void a_channel_may_lag(void **state)
{
    assert_int_equal(move_with(3, 0, "fault:delay@type=PAGES@ms=300@channel=page-1"), 3);
    assert_int_equal(move_with(3, 0, "fault:delay@type=ROUND_BEGIN@ms=300@channel=page-2"), 3);
    assert_int_equal(move_with(3, 0, "fault:delay@type=ROUND_END@ms=300@channel=page-0"), 3);
}

/* One of three channels fails in a way; the guest goes on, and the next attempt works. */
static void check_failure(const char *fault, uint64_t silence_ns, int code)
{
    struct move move;

    move_init(&move);
    move.source_params.channels = 3;
    move.source_params.silence_limit_ns = silence_ns;
    move.source_uri = g_strdup_printf("fault:%s,%s", fault, move.pair.uri);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    if (source_status_of(&move).failure.code != code)
        fail_msg("%s: %s", fault, source_status_of(&move).failure.reason);
    check_one_owner(&move);
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    move.source_params.silence_limit_ns = 0;
    check_next_attempt_works(&move);
    move_clear(&move);
}

static void a_channel_may_die(void **state)
{
    check_failure("cut@type=ROUND_BEGIN@channel=page-1", 0, GW_ERROR_LINK_LOST);
    check_failure("cut@type=PAGES@at=4000@channel=page-2", 0, GW_ERROR_LINK_LOST);
    check_failure("cut@type=ROUND_END@channel=page-0", 0, GW_ERROR_LINK_LOST);
    check_failure("cut@type=ROUND_BEGIN@in@channel=page-0;cut@bytes=0@in@channel=page-1", 0,
                  GW_ERROR_LINK_LOST);
}

static void a_channel_may_fall_silent(void **state)
{
    check_failure("stall@type=ROUND_END@channel=page-1", 2 * NS_PER_S, GW_ERROR_LINK_SILENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_smaller_proposal_holds),
        cmocka_unit_test(a_number_of_the_source_holds),
        cmocka_unit_test(a_channel_may_lag),
        cmocka_unit_test(a_channel_may_die),
        cmocka_unit_test(a_channel_may_fall_silent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
