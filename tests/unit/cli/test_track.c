/* SPDX-License-Identifier: MIT */
/* What a migration looked like over time: bounded, and right at both ends. */
#include <math.h>

#include "../expect.h"
#include "cli/track.h"

static void add(struct track *track, double at_ms, const char *state, int round, double sent,
                bool is_last)
{
    json_t *info = json_pack("{s:s, s:f, s:i, s:f, s:{s:f, s:f}}", "state", state, "total-ns",
                             at_ms * 1e6, "round", round, "dirty-rate", 1000.0, "ram",
                             "transferred", sent, "remaining", 10.0);
    (is_last ? track_end : track_add)(track, info);
    json_decref(info);
}

static void test_samples_are_bounded(void **state)
{
    struct track *track = track_new();
    const int n_added = 100000;
    size_t n;
    uint64_t first_step_ns = track_step_ns(track);

    for (int i = 0; i < n_added; i++) {
        add(track, i * 10.0, "rounds", 1, i, false);
        track_samples(track, &n);
        assert_true(n <= TRACK_MAX_SAMPLES);
    }
    add(track, n_added * 10.0, "completed", 1, n_added, true);
    const struct track_sample *samples = track_samples(track, &n);
    assert_true(n > TRACK_MAX_SAMPLES / 4 && n <= TRACK_MAX_SAMPLES);
    assert_true(track_step_ns(track) > first_step_ns);
    assert_true(samples[0].at_ns == 0);
    assert_true(samples[n - 1].at_ns == n_added * 10e6 && samples[n - 1].sent_bytes == n_added);
    for (size_t i = 1; i < n; i++)
        assert_true(samples[i].at_ns > samples[i - 1].at_ns);
    track_free(track);
}

static void test_what_comes_too_soon_still_counts_for_states(void **state)
{
    struct track *track = track_new();
    size_t n;

    add(track, 0, "connecting", 0, 0, false);
    add(track, 1, "handshake", 0, 0, false);
    add(track, 2, "rounds", 1, 0, false);
    add(track, 3, "blackout", 1, 7, false);
    add(track, 4, "completed", 1, 9, true);
    track_samples(track, &n);
    assert_int_equal(n, 2);
    const struct track_span *spans = track_spans(track, &n);
    assert_int_equal(n, 5);
    assert_string_equal(spans[2].state, "rounds");
    assert_true(spans[2].start_ns == 2e6 && spans[2].end_ns == 3e6);
    for (size_t i = 1; i < n; i++)
        assert_true(spans[i].start_ns == spans[i - 1].end_ns);
    track_free(track);
}

static void test_rounds(void **state)
{
    struct track *track = track_new();
    size_t n;

    add(track, 0, "handshake", 0, 0, false);
    add(track, 10, "rounds", 1, 0, false);
    add(track, 20, "rounds", 1, 50, false);
    add(track, 30, "rounds", 4, 100, false); /* 2 and 3 were too quick to be seen */
    add(track, 40, "blackout", 4, 130, false);
    add(track, 50, "completed", 4, 140, true); /* no part of the round */
    const struct track_round *rounds = track_rounds(track, &n);
    assert_int_equal(n, 2);
    assert_int_equal(rounds[0].first, 1);
    assert_int_equal(rounds[0].last, 1);
    assert_true(rounds[0].start_ns == 10e6 && rounds[0].end_ns == 30e6);
    assert_true(rounds[0].sent_bytes == 100);
    assert_int_equal(rounds[1].first, 2);
    assert_int_equal(rounds[1].last, 4);
    assert_true(rounds[1].end_ns == 40e6 && rounds[1].sent_bytes == 30);
    track_free(track);
}

static void test_spans_and_rounds_are_bounded(void **state)
{
    struct track *track = track_new();
    const int n_rounds = 20000;
    size_t n;
    double sent = 0;
    uint32_t next = 1;

    for (int i = 1; i <= n_rounds; i++)
        add(track, i, i % 2 ? "rounds" : "reconnecting", i, i, false);
    add(track, n_rounds + 1, "completed", n_rounds, n_rounds + 1, true);
    const struct track_span *spans = track_spans(track, &n);
    assert_true(n > 0 && n <= TRACK_MAX_SPANS);
    assert_true(spans[0].start_ns == 0 && spans[n - 1].end_ns == (n_rounds + 1) * 1e6);
    assert_string_equal(spans[n - 1].state, "completed");
    const struct track_round *rounds = track_rounds(track, &n);
    assert_true(n > 0 && n <= TRACK_MAX_ROUNDS);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(rounds[i].first, next);
        next = rounds[i].last + 1;
        sent += rounds[i].sent_bytes;
    }
    assert_int_equal(next, n_rounds + 1);
    assert_true(sent > 0 && sent <= n_rounds);
    track_free(track);
}

static void test_what_is_not_known(void **state)
{
    struct track *track = track_new();
    size_t n;

    add(track, 0, "rounds", 1, 0, false);
    const struct track_sample *sample = track_samples(track, &n);
    assert_true(isnan(sample->end_ns) && isnan(sample->blackout_ns) && isnan(sample->rate_bytes));
    assert_true(isnan(sample->slowdown_percent) && isnan(sample->requested_pages));
    assert_true(sample->dirty_rate_bytes == 1000);
    track_free(track);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples_are_bounded),
        cmocka_unit_test(test_what_comes_too_soon_still_counts_for_states),
        cmocka_unit_test(test_rounds),
        cmocka_unit_test(test_spans_and_rounds_are_bounded),
        cmocka_unit_test(test_what_is_not_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
