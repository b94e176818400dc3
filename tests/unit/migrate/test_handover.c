/* SPDX-License-Identifier: MIT */
/* The transition tables themselves: complete, without repetition, reachable, and safe. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "migrate/handover.h"

static const enum gw_side sides[] = {GW_SIDE_SOURCE, GW_SIDE_DESTINATION};

static void every_pair_has_one_row(void **state)
{
    for (size_t s = 0; s < 2; s++) {
        const struct handover_table *t = handover_table(sides[s]);

        for (unsigned st = 1; st < t->n_states; st++)
            for (unsigned ev = 1; ev < t->n_events; ev++) {
                unsigned n = 0;

                for (size_t i = 0; i < t->n_rows; i++)
                    n += t->rows[i].state == st && t->rows[i].event == ev;
                if (n != 1)
                    fail_msg("%s: %s on %s has %u rows", gw_side_name(t->side), t->event_names[ev],
                             t->state_names[st], n);
            }
        assert_int_equal(t->n_rows, (t->n_states - 1) * (t->n_events - 1));
    }
}

static void numbers_are_in_range_and_named(void **state)
{
    for (size_t s = 0; s < 2; s++) {
        const struct handover_table *t = handover_table(sides[s]);

        for (size_t i = 0; i < t->n_rows; i++) {
            assert_in_range(t->rows[i].next, 1, t->n_states - 1);
            assert_in_range(t->rows[i].action, 1, t->n_actions - 1);
        }
        for (unsigned i = 1; i < t->n_states; i++)
            assert_non_null(t->state_names[i]);
        for (unsigned i = 1; i < t->n_events; i++)
            assert_non_null(t->event_names[i]);
        for (unsigned i = 1; i < t->n_actions; i++)
            assert_non_null(t->action_names[i]);
    }
}

static void every_state_and_action_is_reached(void **state)
{
    for (size_t s = 0; s < 2; s++) {
        const struct handover_table *t = handover_table(sides[s]);
        uint64_t states = UINT64_C(1) << t->initial, actions = 0;

        for (bool grows = true; grows;) {
            grows = false;
            for (size_t i = 0; i < t->n_rows; i++) {
                const struct handover_row *row = &t->rows[i];

                if (!(states >> row->state & 1))
                    continue;
                actions |= UINT64_C(1) << row->action;
                if (!(states >> row->next & 1)) {
                    states |= UINT64_C(1) << row->next;
                    grows = true;
                }
            }
        }
        for (unsigned i = 1; i < t->n_states; i++)
            if (!(states >> i & 1))
                fail_msg("%s: state %s is never reached", gw_side_name(t->side), t->state_names[i]);
        for (unsigned i = 1; i < t->n_actions; i++)
            if (!(actions >> i & 1))
                fail_msg("%s: action %s is never due", gw_side_name(t->side), t->action_names[i]);
    }
}

/* COMMIT is sent in one place; a state only changes with an action. */
static void commit_is_sent_only_on_loaded(void **state)
{
    const struct handover_table *t = handover_table(GW_SIDE_SOURCE);

    for (size_t i = 0; i < t->n_rows; i++) {
        const struct handover_row *row = &t->rows[i];
        bool is_commit = row->state == GW_SOURCE_BLACKOUT && row->event == SOURCE_EV_LOADED;

        assert_int_equal(row->action == SOURCE_DO_COMMIT, is_commit);
        assert_int_equal(row->state != GW_SOURCE_COMMITTED && row->next == GW_SOURCE_COMMITTED,
                         is_commit);
        if (row->state != row->next)
            assert_true(row->action != SOURCE_DO_NOTHING && row->action != SOURCE_DO_REFUSE &&
                        row->action != SOURCE_DO_FAIL_PEER);
    }
}

/* After COMMIT the guest comes back only on the destination's or an operator's word. */
static void after_commit_only_a_word_resumes(void **state)
{
    const struct handover_table *t = handover_table(GW_SIDE_SOURCE);

    for (size_t i = 0; i < t->n_rows; i++) {
        const struct handover_row *row = &t->rows[i];
        bool is_after = row->state == GW_SOURCE_COMMITTED || row->state == GW_SOURCE_IN_DOUBT ||
                        row->state == GW_SOURCE_POSTCOPY || row->state == GW_SOURCE_PAUSED;
        bool resumes = row->action == SOURCE_DO_RESUME || row->action == SOURCE_DO_RESUME_END ||
                       row->action == SOURCE_DO_RESUME_RECONNECT;

        if (!is_after || !resumes)
            continue;
        assert_true(row->event == SOURCE_EV_NEVER ||
                    (row->state == GW_SOURCE_COMMITTED && row->event == SOURCE_EV_PEER_FAILED) ||
                    (row->state == GW_SOURCE_IN_DOUBT && row->event == SOURCE_EV_RUN_HERE));
    }
}

/* A guest that runs elsewhere without all of its pages comes back to no state that runs it. */
static void post_copy_never_runs_here_again(void **state)
{
    const struct handover_table *t = handover_table(GW_SIDE_SOURCE);

    for (size_t i = 0; i < t->n_rows; i++) {
        const struct handover_row *row = &t->rows[i];

        if (row->state == GW_SOURCE_POSTCOPY || row->state == GW_SOURCE_PAUSED)
            assert_true(row->next == GW_SOURCE_POSTCOPY || row->next == GW_SOURCE_PAUSED ||
                        row->next == GW_SOURCE_COMPLETED || row->next == GW_SOURCE_LOST);
        if (row->action == SOURCE_DO_LET_GO)
            assert_true(row->next == GW_SOURCE_LOST &&
                        (row->event == SOURCE_EV_PEER_FAILED || row->event == SOURCE_EV_RELEASE));
    }
}

/* The guest is let go of only on RUNNING or an operator's word, and only after COMMIT. */
static void release_needs_a_positive_word(void **state)
{
    const struct handover_table *t = handover_table(GW_SIDE_SOURCE);

    for (size_t i = 0; i < t->n_rows; i++) {
        const struct handover_row *row = &t->rows[i];

        if (row->action != SOURCE_DO_RELEASE)
            continue;
        assert_int_equal(row->next, GW_SOURCE_COMPLETED);
        if (row->event == SOURCE_EV_WHOLE) {
            assert_true(row->state == GW_SOURCE_POSTCOPY || row->state == GW_SOURCE_PAUSED);
            continue;
        }
        assert_true(row->state == GW_SOURCE_COMMITTED || row->state == GW_SOURCE_IN_DOUBT);
        assert_true(row->event == SOURCE_EV_RUNNING ||
                    (row->state == GW_SOURCE_IN_DOUBT && row->event == SOURCE_EV_RELEASE));
    }
}

static bool is_owner(unsigned state)
{
    return state == GW_DESTINATION_RUNNING || state == GW_DESTINATION_POSTCOPY ||
           state == GW_DESTINATION_PAUSED;
}

/* Nothing but (LOADED, COMMIT), with all pages or not, runs at the destination; who owns the guest
 * and who disowned it keep their word. */
static void destination_runs_only_on_commit(void **state)
{
    const struct handover_table *t = handover_table(GW_SIDE_DESTINATION);

    for (size_t i = 0; i < t->n_rows; i++) {
        const struct handover_row *row = &t->rows[i];
        bool runs =
            row->state == GW_DESTINATION_LOADED &&
            (row->event == DESTINATION_EV_COMMIT || row->event == DESTINATION_EV_COMMIT_PARTIAL);

        assert_int_equal(row->action == DESTINATION_DO_RUN, runs);
        assert_int_equal(!is_owner(row->state) && is_owner(row->next), runs);
        if (is_owner(row->state))
            assert_true(is_owner(row->next));
        if (row->state == GW_DESTINATION_RUNNING)
            assert_int_equal(row->next, GW_DESTINATION_RUNNING);
        if (row->state == GW_DESTINATION_DISOWNED && row->event != DESTINATION_EV_HELLO)
            assert_int_equal(row->next, GW_DESTINATION_DISOWNED);
        if (row->action == DESTINATION_DO_ANSWER_RUNNING)
            assert_true(is_owner(row->state));
        if (row->action == DESTINATION_DO_ANSWER_NEVER ||
            row->action == DESTINATION_DO_DISOWN_ANSWER)
            assert_int_equal(row->next, GW_DESTINATION_DISOWNED);
    }
}

/* Every state answers a lost link, a failure and a cancel without getting stuck with the guest
 * stopped and nobody asking. */
static void every_state_answers_a_lost_link(void **state)
{
    const struct handover_table *t = handover_table(GW_SIDE_SOURCE);

    for (unsigned st = 1; st < t->n_states; st++) {
        const struct handover_row *row = handover_find(t, st, SOURCE_EV_LINK_LOST);

        assert_true(gw_source_state_is_final(row->next) || row->next == GW_SOURCE_IN_DOUBT ||
                    row->next == GW_SOURCE_PAUSED);
        row = handover_find(t, st, SOURCE_EV_LINK_BROKEN);
        assert_true(gw_source_state_is_final(row->next) || row->next == GW_SOURCE_IN_DOUBT ||
                    row->next == GW_SOURCE_PAUSED || row->next == GW_SOURCE_RECONNECTING);
        row = handover_find(t, st, SOURCE_EV_FAILED);
        assert_true(gw_source_state_is_final(row->next) || row->next == GW_SOURCE_IN_DOUBT ||
                    row->next == GW_SOURCE_PAUSED);
    }
    t = handover_table(GW_SIDE_DESTINATION);
    for (unsigned st = 1; st < t->n_states; st++) {
        const struct handover_row *row = handover_find(t, st, DESTINATION_EV_LINK_LOST);

        assert_true(row->next == GW_DESTINATION_LISTENING || row->next == GW_DESTINATION_RUNNING ||
                    row->next == GW_DESTINATION_DISOWNED || row->next == GW_DESTINATION_PAUSED);
    }
}

static void final_states_stay(void **state)
{
    const struct handover_table *t = handover_table(GW_SIDE_SOURCE);

    for (size_t i = 0; i < t->n_rows; i++)
        if (gw_source_state_is_final(t->rows[i].state))
            assert_int_equal(t->rows[i].next, t->rows[i].state);
}

static void a_step_follows_the_table(void **state)
{
    struct handover handover;

    handover_init(&handover, GW_SIDE_DESTINATION);
    assert_int_equal(handover.state, GW_DESTINATION_LISTENING);
    assert_int_equal(handover_step(&handover, DESTINATION_EV_HELLO), DESTINATION_DO_HANDSHAKE);
    assert_int_equal(handover_step(&handover, DESTINATION_EV_ACCEPTED), DESTINATION_DO_RECEIVE);
    assert_int_equal(handover_step(&handover, DESTINATION_EV_LOADED), DESTINATION_DO_SAY_LOADED);
    assert_int_equal(handover_step(&handover, DESTINATION_EV_QUERY), DESTINATION_DO_DISOWN_ANSWER);
    assert_int_equal(handover_step(&handover, DESTINATION_EV_COMMIT), DESTINATION_DO_NOTHING);
    assert_int_equal(handover.state, GW_DESTINATION_DISOWNED);
}

/* docs/handover.md lists exactly the rows that do something. */
static void the_page_lists_the_tables(void **state)
{
    g_autofree char *page = NULL;

    assert_true(g_file_get_contents(HANDOVER_PAGE, &page, NULL, NULL));
    for (size_t s = 0; s < 2; s++) {
        const struct handover_table *t = handover_table(sides[s]);
        g_autofree char *head = g_strdup_printf("| %s in | event |", gw_side_name(t->side));
        const char *table = strstr(page, head);
        g_autofree char *end = NULL;
        unsigned n_rows = 0, n_lines = 0;

        assert_non_null(table);
        end = g_strndup(table, (size_t)(strstr(table, "\n\n") - table) + 1);
        for (const char *c = end; *c; c++)
            n_lines += *c == '\n';
        for (size_t i = 0; i < t->n_rows; i++) {
            const struct handover_row *row = &t->rows[i];
            g_autofree char *line = g_strdup_printf(
                "\n| %s | %s | %s | %s |\n", t->state_names[row->state], t->event_names[row->event],
                t->state_names[row->next], t->action_names[row->action]);

            if (row->next == row->state && row->action == 1)
                continue;
            n_rows++;
            if (!strstr(end, line))
                fail_msg("docs/handover.md lacks: %s", line + 1);
        }
        assert_int_equal(n_lines, n_rows + 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_has_one_row),
        cmocka_unit_test(numbers_are_in_range_and_named),
        cmocka_unit_test(every_state_and_action_is_reached),
        cmocka_unit_test(commit_is_sent_only_on_loaded),
        cmocka_unit_test(after_commit_only_a_word_resumes),
        cmocka_unit_test(post_copy_never_runs_here_again),
        cmocka_unit_test(release_needs_a_positive_word),
        cmocka_unit_test(destination_runs_only_on_commit),
        cmocka_unit_test(every_state_answers_a_lost_link),
        cmocka_unit_test(final_states_stay),
        cmocka_unit_test(the_page_lists_the_tables),
        cmocka_unit_test(a_step_follows_the_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
