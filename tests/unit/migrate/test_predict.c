/* SPDX-License-Identifier: MIT */
/* The prediction of the blackout, of the time left, and the back-off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "migrate/predict.h"

#define MIB (UINT64_C(1) << 20)

static struct predict with_rate(uint64_t bytes_per_s)
{
    struct predict predict;

    predict_init(&predict);
    predict.stop_ns = predict.resume_ns = 0;
    predict_round(&predict, bytes_per_s, NS_PER_S);
    return predict;
}

static void unknown_before_the_first_round(void **state)
{
    struct predict predict;

    predict_init(&predict);
    assert_true(predict_blackout_ns(&predict, 0) == PREDICT_UNKNOWN);
    assert_int_equal(predict_allowance_bytes(&predict, NS_PER_S), 0);
    predict_round(&predict, 0, 5); /* nothing had to be sent */
    assert_int_equal(predict.bytes_per_s, PREDICT_GUESS_BYTES_PER_S);
}

static void adds_all_terms(void **state)
{
    struct predict predict = with_rate(100 * MIB);

    predict.stop_ns = 1;
    predict.fetch_ns = 10;
    predict.flush_ns = 100;
    predict.save_ns = 1000;
    predict.load_ns = 10000;
    predict.round_trip_ns = 100000;
    predict.resume_ns = 1000000;
    /* The round trip once for LOADED and COMMIT, and half of it for the last pages. */
    assert_int_equal(predict_blackout_ns(&predict, 0), 1111111 + 50000);
    assert_int_equal(predict_blackout_ns(&predict, 100 * MIB), 1111111 + 50000 + NS_PER_S);
    predict.state_bytes = 50 * MIB;
    assert_int_equal(predict_blackout_ns(&predict, 0), 1111111 + 50000 + NS_PER_S / 2);
}

static void a_small_round_is_the_least_the_last_pages_take(void **state)
{
    struct predict predict = with_rate(100 * MIB);

    predict_round(&predict, 4096, 300000);
    assert_int_equal(predict.bytes_per_s, 100 * MIB); /* it says nothing about the rate */
    assert_int_equal(predict_blackout_ns(&predict, 0), 300000);
    assert_int_equal(predict_blackout_ns(&predict, 4096), 300000);
    assert_int_equal(predict_blackout_ns(&predict, MIB), NS_PER_S / 100);
    /* What is spent on it leaves nothing for bytes when the budget is as short. */
    assert_int_equal(predict_allowance_bytes(&predict, 300000), 0);
    assert_true(predict_allowance_bytes(&predict, 2 * NS_PER_MS) >= 4096);
    predict_put_off(&predict, 0);
    assert_int_equal(predict_blackout_ns(&predict, 0), 150000);
}

static void a_larger_round_that_took_less_corrects_a_small_one(void **state)
{
    struct predict predict = with_rate(100 * MIB);

    predict_round(&predict, 4096, 400 * NS_PER_MS); /* the machine was busy with something else */
    assert_int_equal(predict_allowance_bytes(&predict, 300 * NS_PER_MS), 0);
    predict_round(&predict, 10 * MIB, 500 * NS_PER_MS);
    assert_int_equal(predict_blackout_ns(&predict, 0), 400 * NS_PER_MS);
    predict_round(&predict, 2 * MIB, 20 * NS_PER_MS);
    assert_int_equal(predict_blackout_ns(&predict, 0), 20 * NS_PER_MS);
    assert_true(predict_allowance_bytes(&predict, 300 * NS_PER_MS) > 0);
}

/* A link that was slow, or a limit that was lifted: rounds too small to measure a rate say so. */
static void what_a_small_round_held_goes_as_quickly_again(void **state)
{
    struct predict predict = with_rate(2 * MIB);

    assert_true(predict_blackout_ns(&predict, 800 << 10) > 300 * NS_PER_MS);
    predict_round(&predict, 900 << 10, 9 * NS_PER_MS);
    assert_int_equal(predict.bytes_per_s, 2 * MIB);
    assert_int_equal(predict_blackout_ns(&predict, 800 << 10), 9 * NS_PER_MS);
    assert_int_equal(predict_allowance_bytes(&predict, 300 * NS_PER_MS), 900 << 10);
    assert_int_equal(predict_allowance_bytes(&predict, 8 * NS_PER_MS), 0);
    assert_true(predict_blackout_ns(&predict, 901 << 10) > 300 * NS_PER_MS);
    predict_put_off(&predict, 0); /* half of its time is no measurement */
    assert_true(predict_blackout_ns(&predict, 800 << 10) > 300 * NS_PER_MS);
}

static void a_better_moment_must_be_much_better(void **state)
{
    struct predict predict = with_rate(100 * MIB);

    assert_false(predict_wants_better(&predict, 100 * MIB, 11 * MIB));
    assert_true(predict_wants_better(&predict, 100 * MIB, 10 * MIB));
    /* Once it goes on for one, it keeps to it. */
    assert_true(predict_wants_better(&predict, 100 * MIB, 60 * MIB));
    assert_false(predict_wants_better(&predict, 100 * MIB, 61 * MIB));
    assert_false(predict_wants_better(&predict, 100 * MIB, 60 * MIB));
    /* What is as good as nothing. */
    assert_false(predict_wants_better(&predict, PREDICT_MIN_WORTH_BYTES - 1, 0));
    assert_true(predict_wants_better(&predict, PREDICT_MIN_WORTH_BYTES, 0));
    predict_put_off(&predict, 0);
    assert_false(predict_wants_better(&predict, 100 * MIB, 60 * MIB));
    assert_true(predict_wants_better(&predict, UINT64_MAX, UINT64_MAX / 10));
}

/* A shorter blackout may make the migration longer in proportion to what it has taken, from the
 * first moment in which it could have ended. What was left then has to be sent in any case. */
static void better_has_its_time(void **state)
{
    struct predict predict = with_rate(100 * MIB);
    uint64_t left_ns = predict_round_ns(&predict, 20 * MIB);
    uint64_t late_ns = 3600 * NS_PER_S;

    predict_note_due(&predict, 20 * MIB, false, NS_PER_S, 33 * NS_PER_S);
    predict_note_due(&predict, 90 * MIB, true, NS_PER_S, 33 * NS_PER_S + NS_PER_S / 2);
    assert_int_equal(predict.better_until_ns, 34 * NS_PER_S + left_ns);
    /* It goes on, and is given as much again, once. */
    assert_true(predict_wants_better(&predict, 20 * MIB, 0));
    assert_true(predict_wants_better(&predict, 10 * MIB, 0));
    assert_int_equal(predict.better_until_ns, 35 * NS_PER_S + left_ns);
    predict_put_off(&predict, 34 * NS_PER_S);
    predict_note_due(&predict, 20 * MIB, true, NS_PER_S, 17 * NS_PER_S);
    assert_int_equal(predict.better_until_ns, 19 * NS_PER_S + left_ns);
    predict_put_off(&predict, 0);
    predict_note_due(&predict, 20 * MIB, false, NS_PER_S, NS_PER_S + 1);
    assert_int_equal(predict.better_until_ns, NS_PER_S + 1 + PREDICT_BETTER_MIN_NS + left_ns);
    predict_put_off(&predict, 0);
    predict_note_due(&predict, 20 * MIB, true, NS_PER_S, NS_PER_S + 1);
    assert_int_equal(predict.better_until_ns, NS_PER_S + 1 + PREDICT_QUIET_MIN_NS + left_ns);
    predict_put_off(&predict, 0);
    predict_note_due(&predict, 20 * MIB, false, 0, late_ns);
    assert_int_equal(predict.better_until_ns, late_ns + PREDICT_BETTER_MAX_NS + left_ns);
}

static void a_round_takes_what_its_bytes_and_its_answer_do(void **state)
{
    struct predict predict = with_rate(100 * MIB);

    assert_true(predict_round_ns(&predict, 50 * MIB) >= NS_PER_S / 2);
    assert_true(predict_round_ns(&predict, 50 * MIB) < NS_PER_S / 2 + 10 * NS_PER_MS);
    /* Small rounds cost their latency. */
    predict_round(&predict, 4096, 100 * NS_PER_MS);
    assert_true(predict_round_ns(&predict, MIB) >= 100 * NS_PER_MS);
    predict.bytes_per_s = 0;
    assert_int_equal(predict_round_ns(&predict, MIB), PREDICT_UNKNOWN);
}

static void patience_depends_on_what_is_left(void **state)
{
    struct predict predict = with_rate(100 * MIB);

    /* A second's worth. */
    assert_false(predict_is_tedious(&predict, 100 * MIB, 2 * NS_PER_S, 4 * NS_PER_S));
    assert_true(predict_is_tedious(&predict, 100 * MIB, 2 * NS_PER_S + 1, 4 * NS_PER_S));
    assert_true(predict_is_tedious(&predict, 100 * MIB, PREDICT_UNKNOWN, 4 * NS_PER_S));
    /* A second was lost since it could have been over: there is as much less to spare. */
    predict_note_sent(&predict, 400 * MIB, 100 * MIB);
    assert_false(predict_is_tedious(&predict, 100 * MIB, 2 * NS_PER_S, 4 * NS_PER_S));
    predict_note_sent(&predict, 500 * MIB, 100 * MIB);
    assert_false(predict_is_tedious(&predict, 100 * MIB, NS_PER_S, 5 * NS_PER_S));
    assert_true(predict_is_tedious(&predict, 100 * MIB, NS_PER_S + 1, 5 * NS_PER_S));
    assert_true(predict_is_tedious(&predict, 10 * MIB, PREDICT_UNKNOWN, 5 * NS_PER_S));
    /* A link that was away for a while loses nothing. */
    predict_note_sent(&predict, 400 * MIB, 100 * MIB);
    assert_false(predict_is_tedious(&predict, 100 * MIB, 2 * NS_PER_S, 60 * NS_PER_S));
    /* A little less than half of one. */
    assert_false(predict_is_tedious(&predict, 49 * MIB, PREDICT_UNKNOWN, 0));
    predict.bytes_per_s = 0;
    assert_false(predict_is_tedious(&predict, 100 * MIB, PREDICT_UNKNOWN, 0));
}

/* What gives hope: little is left, or less and less of a guest that is slower than the link. */
static void hope_needs_rounds_that_help(void **state)
{
    struct predict predict = with_rate(100 * MIB);
    const uint64_t budget_ns = 300 * NS_PER_MS;

    predict.dirty_bytes_per_s = 90 * MIB;
    predict_note_hope(&predict, 400 * MIB, budget_ns, false);
    predict_note_hope(&predict, 300 * MIB, budget_ns, false);
    assert_int_equal(predict.n_hopeless, 0);
    predict_note_hope(&predict, 226 * MIB, budget_ns, false); /* hardly shrunk */
    assert_int_equal(predict.n_hopeless, 1);
    predict_note_hope(&predict, 100 * MIB, budget_ns, false);
    assert_int_equal(predict.n_hopeless, 0);
    predict_note_hope(&predict, 50 * MIB, budget_ns, true);
    assert_int_equal(predict.n_hopeless, 1);
    predict.dirty_bytes_per_s = 95 * MIB;
    predict_note_hope(&predict, 35 * MIB, budget_ns, false);
    assert_int_equal(predict.n_hopeless, 2);
    predict_note_hope(&predict, 29 * MIB, budget_ns, true); /* the budget is met */
    assert_int_equal(predict.n_hopeless, 0);
    predict.dirty_bytes_per_s = MIB;
    predict_note_hope(&predict, 10 * MIB, 0, false); /* and this cannot be */
    assert_int_equal(predict.n_hopeless, 1);
}

static void allowance_is_the_inverse(void **state)
{
    struct predict predict = with_rate(64 * MIB);
    uint64_t allowance;

    predict.flush_ns = 250 * NS_PER_MS;
    allowance = predict_allowance_bytes(&predict, NS_PER_S);
    assert_true(predict_blackout_ns(&predict, allowance) <= NS_PER_S);
    assert_true(predict_blackout_ns(&predict, allowance + MIB) > NS_PER_S);
    assert_int_equal(predict_allowance_bytes(&predict, 250 * NS_PER_MS), 0);
}

static void small_rounds_do_not_count(void **state)
{
    struct predict predict = with_rate(100 * MIB);

    predict_round(&predict, 4096, NS_PER_S);
    assert_int_equal(predict.bytes_per_s, 100 * MIB);
    predict_round(&predict, 50 * MIB, NS_PER_S);
    assert_in_range(predict.bytes_per_s, 50 * MIB, 75 * MIB);
}

static void backoff_grows_and_is_bounded(void **state)
{
    struct predict predict;
    uint64_t last_ns = 0;

    predict_init(&predict);
    for (unsigned i = 0; i < 100; i++) {
        predict_put_off(&predict, 1000);
        assert_true(predict.backoff_ns > last_ns || predict.backoff_ns == PREDICT_MAX_BACKOFF_NS);
        assert_int_equal(predict.not_before_ns, 1000 + predict.backoff_ns);
        last_ns = predict.backoff_ns;
    }
    assert_int_equal(predict.backoff_ns, PREDICT_MAX_BACKOFF_NS);
    assert_int_equal(predict.n_failed, 100);
}

static void what_only_attempts_measure_is_doubted(void **state)
{
    const uint64_t budget_ns = 300 * NS_PER_MS;
    struct predict predict = with_rate(100 * MIB);

    predict.stop_ns = NS_PER_S;
    predict_put_off(&predict, 0);
    assert_int_equal(predict_blackout_ns(&predict, 0), NS_PER_S / 2);
    predict_doubt(&predict, budget_ns, predict.not_before_ns - 1);
    assert_int_equal(predict_blackout_ns(&predict, 0), NS_PER_S / 2);
    predict_doubt(&predict, budget_ns, predict.not_before_ns);
    assert_int_equal(predict_blackout_ns(&predict, 0), NS_PER_S / 4);
    /* Within the budget it stands, however long rounds go on. */
    predict_doubt(&predict, budget_ns, NS_PER_S * 3600);
    assert_int_equal(predict_blackout_ns(&predict, 0), NS_PER_S / 4);
}

static void a_forecast_is_doubted_once_per_backoff(void **state)
{
    struct predict predict = with_rate(100 * MIB);

    predict.flush_ns = NS_PER_S;
    for (uint64_t now_ns = NS_PER_S; now_ns < NS_PER_S + PREDICT_FIRST_BACKOFF_NS;
         now_ns += 1000000)
        predict_doubt(&predict, 1, now_ns);
    assert_int_equal(predict.flush_ns, NS_PER_S);
    predict_doubt(&predict, 1, NS_PER_S + PREDICT_FIRST_BACKOFF_NS);
    predict_doubt(&predict, 1, NS_PER_S + PREDICT_FIRST_BACKOFF_NS);
    assert_int_equal(predict.flush_ns, NS_PER_S / 2);
    predict_doubt(&predict, 1, NS_PER_S + 2 * PREDICT_FIRST_BACKOFF_NS);
    assert_int_equal(predict.flush_ns, NS_PER_S / 4);
}

/* No doubt makes an attempt of what the rehearsal, or a guess that is none too high, forbids. */
static void doubt_ends_at_what_is_sure(void **state)
{
    struct predict predict;

    predict_init(&predict);
    predict_round(&predict, 100 * MIB, NS_PER_S);
    predict.load_ns = 400 * NS_PER_MS;
    predict.save_ns = predict.stop_ns = 800 * NS_PER_MS;
    for (uint64_t i = 1; i < 100; i++)
        predict_doubt(&predict, 300 * NS_PER_MS, i * NS_PER_S);
    assert_int_equal(predict.load_ns, 400 * NS_PER_MS);
    assert_int_equal(predict.save_ns, 400 * NS_PER_MS);
    assert_int_equal(predict.stop_ns, PREDICT_GUESS_STOP_NS);
    assert_int_equal(predict.resume_ns, PREDICT_GUESS_RESUME_NS);
}

static void absurd_numbers_saturate(void **state)
{
    struct predict predict = with_rate(1);

    predict.flush_ns = UINT64_MAX - 5;
    assert_true(predict_blackout_ns(&predict, UINT64_MAX) == UINT64_MAX);
    predict_round(&predict, UINT64_MAX, 0);
    assert_true(predict.bytes_per_s > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_before_the_first_round),
        cmocka_unit_test(adds_all_terms),
        cmocka_unit_test(a_small_round_is_the_least_the_last_pages_take),
        cmocka_unit_test(a_larger_round_that_took_less_corrects_a_small_one),
        cmocka_unit_test(what_a_small_round_held_goes_as_quickly_again),
        cmocka_unit_test(a_better_moment_must_be_much_better),
        cmocka_unit_test(better_has_its_time),
        cmocka_unit_test(a_round_takes_what_its_bytes_and_its_answer_do),
        cmocka_unit_test(patience_depends_on_what_is_left),
        cmocka_unit_test(hope_needs_rounds_that_help),
        cmocka_unit_test(allowance_is_the_inverse),
        cmocka_unit_test(small_rounds_do_not_count),
        cmocka_unit_test(backoff_grows_and_is_bounded),
        cmocka_unit_test(what_only_attempts_measure_is_doubted),
        cmocka_unit_test(a_forecast_is_doubted_once_per_backoff),
        cmocka_unit_test(doubt_ends_at_what_is_sure),
        cmocka_unit_test(absurd_numbers_saturate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
