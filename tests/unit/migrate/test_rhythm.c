/* SPDX-License-Identifier: MIT */
/* Periods are found where there are some and only there, and their quiet part is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "migrate/rhythm.h"

#define START_NS (UINT64_C(1000) * NS_PER_S + 12345678)

static uint64_t seed = 88172645463325252u;

static double noise(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (double)(seed % 1000) / 1000;
}

/* Pages per ms: bursts of burst_ms at the beginning of each period. */
static double burst_rate(uint64_t at_ns, uint64_t period_ms, uint64_t burst_ms)
{
    return at_ns / NS_PER_MS % period_ms < burst_ms ? 100 : 1;
}

/* Slots of 30 to 60 ms, as looks that are late now and then give them. */
static uint64_t play(struct rhythm *rhythm, uint64_t length_ms, uint64_t period_ms,
                     uint64_t burst_ms)
{
    uint64_t at_ns = START_NS;

    while (at_ns < START_NS + length_ms * NS_PER_MS) {
        uint64_t slot_ns = (30 + (uint64_t)(noise() * 30)) * NS_PER_MS;
        double n_pages = 0;

        for (uint64_t ns = 0; ns < slot_ns; ns += NS_PER_MS)
            n_pages += period_ms ? burst_rate(at_ns + ns, period_ms, burst_ms) : 200 * noise();
        rhythm_add(rhythm, at_ns, at_ns + slot_ns, n_pages);
        at_ns += slot_ns;
    }
    return at_ns;
}

static void check_period(uint64_t period_ms, uint64_t burst_ms)
{
    struct rhythm rhythm = {0};
    struct rhythm_profile profile;
    uint64_t now_ns = play(&rhythm, 4 * period_ms + 500, period_ms, burst_ms);
    uint64_t bin_ms = RHYTHM_BIN_NS / NS_PER_MS;

    assert_true(rhythm_profile(&rhythm, &profile));
    assert_in_range(profile.n * bin_ms, period_ms - bin_ms, period_ms + bin_ms);
    assert_true(rhythm_quiet_permille(&profile) < 200);
    /* A bin away from the edges of the guest's burst. */
    for (uint64_t at = now_ns; at < now_ns + period_ms * NS_PER_MS; at += 7 * NS_PER_MS) {
        double phase_ns = (double)rhythm_phase_ns(&profile, at);
        double even_ns = rhythm_even_ns(&profile, phase_ns, phase_ns + (double)RHYTHM_BIN_NS);
        uint64_t phase_ms = at / NS_PER_MS % period_ms;

        if (phase_ms > bin_ms && phase_ms + 2 * bin_ms < burst_ms)
            assert_true(even_ns > (double)RHYTHM_BIN_NS);
        if (phase_ms > burst_ms + 2 * bin_ms && phase_ms + 3 * bin_ms < period_ms)
            assert_true(even_ns < 0.2 * (double)RHYTHM_BIN_NS);
    }
}

static void periods_are_found(void **state)
{
    check_period(400, 100);
    check_period(800, 200);
    check_period(1000, 400);
    check_period(2000, 300);
}

static void noise_and_a_steady_guest_have_none(void **state)
{
    struct rhythm noisy = {0}, steady = {0};
    struct rhythm_profile profile;

    play(&noisy, 12000, 0, 0);
    assert_false(rhythm_profile(&noisy, &profile));
    assert_int_equal(rhythm_phase_ns(&profile, START_NS), 0);
    play(&steady, 12000, 1, 1);
    assert_false(rhythm_profile(&steady, &profile));
}

static void one_burst_is_no_period(void **state)
{
    struct rhythm rhythm = {0};
    struct rhythm_profile profile;

    play(&rhythm, 2900, 3000, 300);
    assert_false(rhythm_profile(&rhythm, &profile));
}

/* What is too coarse, or has a gap, is not mixed with what was before. */
static void gaps_start_anew(void **state)
{
    struct rhythm rhythm = {0};
    struct rhythm_profile profile;
    uint64_t now_ns = play(&rhythm, 4000, 800, 200);

    assert_true(rhythm_profile(&rhythm, &profile));
    rhythm_add(&rhythm, now_ns, now_ns + NS_PER_S, 1000);
    assert_false(rhythm_profile(&rhythm, &profile));
    now_ns = play(&rhythm, 4000, 800, 200);
    assert_true(rhythm_profile(&rhythm, &profile));
    rhythm_add(&rhythm, now_ns + NS_PER_S, now_ns + NS_PER_S + 40 * NS_PER_MS, 1000);
    assert_false(rhythm_profile(&rhythm, &profile));
}

/* Whole periods count for what they take, a burst for more, the rest for less. */
static void a_burst_counts_for_more_time(void **state)
{
    struct rhythm_profile profile = {.n = 10, .origin = 7};
    double period_ns = 10.0 * RHYTHM_BIN_NS;

    profile.pages[0] = 90;
    profile.pages[1] = 10;
    for (int k = -2; k <= 2; k++) {
        double at_ns = k * period_ns;

        assert_float_equal(rhythm_even_ns(&profile, at_ns, at_ns + 3 * period_ns), 3 * period_ns,
                           1);
        assert_float_equal(rhythm_even_ns(&profile, at_ns, at_ns + 0.1 * period_ns),
                           0.9 * period_ns, 1);
        assert_float_equal(rhythm_even_ns(&profile, at_ns + 0.05 * period_ns, at_ns + period_ns),
                           0.55 * period_ns, 1);
        assert_float_equal(rhythm_even_ns(&profile, at_ns + 0.2 * period_ns, at_ns + period_ns), 0,
                           1);
    }
    assert_int_equal(rhythm_phase_ns(&profile, 38 * RHYTHM_BIN_NS + 5), RHYTHM_BIN_NS + 5);
    profile.n = 0;
    assert_float_equal(rhythm_even_ns(&profile, 5, 8), 3, 0.001);
    assert_int_equal(rhythm_phase_ns(&profile, 38 * RHYTHM_BIN_NS), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(periods_are_found),
        cmocka_unit_test(noise_and_a_steady_guest_have_none),
        cmocka_unit_test(one_burst_is_no_period),
        cmocka_unit_test(gaps_start_anew),
        cmocka_unit_test(a_burst_counts_for_more_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
