/* SPDX-License-Identifier: MIT */
/*
 * Every record of a move, in each direction of each channel: cut there, or flip a bit there.
 *
 * The records are enumerated by running: record 0, 1, 2 .. of a channel and direction are hit until
 * a move has fewer. Whatever happens, at most one side runs the guest, exactly one does in the end,
 * its memory is right, and the next attempt works where the guest stayed.
 */
#include "harness.h"

#include <string.h>

#define MAX_RECORDS 400

struct outcome {
    unsigned n_cases, n_completed, n_failed, n_in_doubt;
};

/* One case. True when the fault was reached, i.e. the move was disturbed or records were left. */
static void run_case(const char *action, const char *channel, const char *direction, unsigned n,
                     struct outcome *outcome)
{
    struct move move;
    enum gw_source_state state;

    move_init(&move);
    move.source_params.silence_limit_ns = 5 * NS_PER_S;
    move.destination_params.silence_limit_ns = 5 * NS_PER_S;
    move.source_uri = g_strdup_printf("fault:%s@record=%u@%s@channel=%s,%s", action, n, direction,
                                      channel, move.pair.uri);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    state = source_state_of(&move);
    outcome->n_cases++;
    outcome->n_in_doubt += (atomic_load(&move.seen_states) >> GW_SOURCE_IN_DOUBT) & 1;
    if (state == GW_SOURCE_COMPLETED)
        outcome->n_completed++;
    else
        outcome->n_failed++;
    check_one_owner(&move);
    if (state == GW_SOURCE_FAILED)
        check_next_attempt_works(&move);
    move_clear(&move);
}

/* How many records a move has there, from one that is not disturbed. */
static unsigned count_records(const char *channel, const char *direction)
{
    struct move move;
    struct gw_source_status status;
    bool is_page = g_str_has_prefix(channel, "page");
    unsigned n;

    move_init(&move);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    status = source_status_of(&move);
    /* Preamble; per round BEGIN, its packets, END; a few more for rounds that vary. */
    if (is_page)
        n = strcmp(direction, "out") == 0
                ? 1 + (unsigned)(2 * status.round + status.pages_plain / 256) + 6
                : 2;
    else
        n = 40;
    move_clear(&move);
    return MIN(n, MAX_RECORDS);
}

static void walk(const char *action, const char *channel)
{
    static const char *const directions[] = {"out", "in"};

    for (unsigned d = 0; d < 2; d++) {
        struct outcome outcome = {0};
        unsigned n = count_records(channel, directions[d]);

        for (unsigned i = 0; i < n; i++)
            run_case(action, channel, directions[d], i, &outcome);
        print_message("# %s %s %s: %u cases, %u completed (%u in doubt on the way), %u failed\n",
                      action, channel, directions[d], outcome.n_cases, outcome.n_completed,
                      outcome.n_in_doubt, outcome.n_failed);
    }
}

static void cut_at_every_control_record(void **state)
{
    walk("cut", "control-0");
}

static void cut_at_every_page_record(void **state)
{
    walk("cut", "page-0");
}

static void flip_in_every_control_record(void **state)
{
    walk("corrupt", "control-0");
}

static void flip_in_every_page_record(void **state)
{
    walk("corrupt", "page-0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_at_every_control_record),
        cmocka_unit_test(cut_at_every_page_record),
        cmocka_unit_test(flip_in_every_control_record),
        cmocka_unit_test(flip_in_every_page_record),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
