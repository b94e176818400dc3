/* SPDX-License-Identifier: MIT */
/* The controller of throttling against simulated guests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glib.h>

#include "base/clock.h"
#include "migrate/throttle.h"

#define MIB       (UINT64_C(1) << 20)
#define N_VCPUS   4u
#define WINDOW_MS 200u /* of a measurement */

/* Each vCPU writes to pages of its own at `speed` while it runs; a page counts once a window. */
struct guest {
    uint64_t speed[N_VCPUS], pages_bytes[N_VCPUS]; /* per second; size of its working set */
    uint64_t devices;
    struct throttle throttle;
    struct throttle_facts facts;
};

static void guest_init(struct guest *guest)
{
    *guest = (struct guest){.facts = {.link_bytes_per_s = 32 * MIB,
                                      .allowance_bytes = 8 * MIB,
                                      .round_floor_ns = NS_PER_MS,
                                      .max_permille = 990,
                                      .has_vcpu_rates = true}};
    for (unsigned i = 0; i < N_VCPUS; i++)
        guest->pages_bytes[i] = UINT64_C(1) << 40;
    throttle_init(&guest->throttle, N_VCPUS);
}

static uint64_t rate_of(const struct guest *guest, unsigned i)
{
    uint64_t written = guest->speed[i] / 1000 * (1000 - guest->throttle.vcpus[i].permille);
    uint64_t bytes = written / 1000 * WINDOW_MS;

    return MIN(bytes, guest->pages_bytes[i]) * 1000 / WINDOW_MS;
}

static uint64_t total_of(const struct guest *guest)
{
    uint64_t sum = guest->devices;

    for (unsigned i = 0; i < N_VCPUS; i++)
        sum += rate_of(guest, i);
    return sum;
}

static void round_of(struct guest *guest)
{
    guest->facts.dirty_bytes_per_s = total_of(guest);
    for (unsigned i = 0; i < N_VCPUS; i++)
        guest->throttle.vcpus[i].dirty_bytes_per_s =
            guest->facts.has_vcpu_rates ? rate_of(guest, i) : 0;
    throttle_update(&guest->throttle, &guest->facts);
}

/* Rounds until the guest's rate is within a tenth of the target (or below it). */
static unsigned rounds_to_target(struct guest *guest)
{
    uint64_t target = throttle_target(&guest->facts);

    for (unsigned n = 1; n <= 100; n++) {
        round_of(guest);
        if (total_of(guest) <= target + target / 10)
            return n;
    }
    return UINT_MAX;
}

static void assert_near(uint64_t value, uint64_t expected)
{
    assert_in_range(value, expected - expected / 10, expected + expected / 10);
}

static void only_the_writer_is_slowed(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.speed[2] = 1000 * MIB;
    guest.speed[3] = MIB / 2;
    assert_int_equal(rounds_to_target(&guest), 1);
    for (unsigned n = 0; n < 20; n++) {
        round_of(&guest);
        assert_near(total_of(&guest), 16 * MIB);
        assert_int_equal(throttle_n_slowed(&guest.throttle), 1);
        assert_in_range(guest.throttle.vcpus[2].permille, 980, 990);
    }
    throttle_clear(&guest.throttle);
}

static void a_small_hot_set_takes_a_few_rounds(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.speed[0] = 1000 * MIB; /* looks like 80 MiB/s: all that there is, once a window */
    guest.pages_bytes[0] = 16 * MIB;
    assert_in_range(rounds_to_target(&guest), 2, 4);
    for (unsigned n = 0; n < 20; n++) {
        round_of(&guest);
        assert_near(total_of(&guest), 16 * MIB);
    }
    throttle_clear(&guest.throttle);
}

static void uniform_writers_share_alike(void **state)
{
    struct guest guest;

    for (unsigned known = 0; known < 2; known++) {
        guest_init(&guest);
        guest.facts.has_vcpu_rates = known;
        for (unsigned i = 0; i < N_VCPUS; i++)
            guest.speed[i] = 20 * MIB;
        assert_int_equal(rounds_to_target(&guest), 1);
        for (unsigned i = 0; i < N_VCPUS; i++)
            assert_in_range(guest.throttle.vcpus[i].permille, 790, 810);
        throttle_clear(&guest.throttle);
    }
}

static void the_faster_the_more(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.speed[0] = 2 * MIB;
    guest.speed[1] = 10 * MIB;
    guest.speed[2] = 70 * MIB;
    assert_int_equal(rounds_to_target(&guest), 1);
    assert_near(total_of(&guest), 16 * MIB);
    assert_int_equal(guest.throttle.vcpus[0].permille, 0);
    assert_in_range(guest.throttle.vcpus[1].permille, 290, 310); /* both to 7 MiB/s */
    assert_in_range(guest.throttle.vcpus[2].permille, 895, 905);
    throttle_clear(&guest.throttle);
}

static void who_stops_dirtying_is_free_again(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.speed[1] = 2000 * MIB;
    rounds_to_target(&guest);
    assert_true(guest.throttle.vcpus[1].permille > 980);
    guest.speed[1] = MIB;
    for (unsigned n = 0; n < 4; n++)
        round_of(&guest);
    assert_int_equal(throttle_n_slowed(&guest.throttle), 0);
    assert_false(guest.throttle.is_engaged);
    throttle_clear(&guest.throttle);
}

/* Measured to be idle for once, a fast writer is not let loose. */
static void one_quiet_moment_changes_little(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.speed[0] = 1000 * MIB;
    for (unsigned n = 0; n < 3; n++)
        round_of(&guest);
    guest.speed[0] = 100 * MIB; /* what it got of the host's time just then */
    round_of(&guest);
    guest.speed[0] = 1000 * MIB;
    assert_in_range(total_of(&guest), 16 * MIB, 26 * MIB);
    assert_int_equal(rounds_to_target(&guest), 1);
    throttle_clear(&guest.throttle);
}

static void a_guest_that_fits_again_is_freed(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.speed[1] = 40 * MIB;
    rounds_to_target(&guest);
    assert_in_range(guest.throttle.vcpus[1].permille, 590, 610);
    guest.facts.link_bytes_per_s = 100 * MIB; /* the link has become faster */
    round_of(&guest);
    assert_int_equal(throttle_n_slowed(&guest.throttle), 0);
    throttle_clear(&guest.throttle);
}

/* Bursts of five rounds, and four quiet ones between. */
static void a_periodic_writer_is_caught_each_time(void **state)
{
    struct guest guest;

    guest_init(&guest);
    for (unsigned period = 0; period < 5; period++) {
        guest.speed[0] = 600 * MIB;
        assert_in_range(rounds_to_target(&guest), 1, 2);
        for (unsigned n = 0; n < 3; n++) {
            round_of(&guest);
            assert_near(total_of(&guest), 16 * MIB);
        }
        guest.speed[0] = 0;
        for (unsigned n = 0; n < 4; n++)
            round_of(&guest);
        assert_int_equal(throttle_n_slowed(&guest.throttle), 0);
    }
    throttle_clear(&guest.throttle);
}

static void nobody_is_slowed_without_need(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.speed[0] = 25 * MIB; /* rounds shrink by a fifth and more */
    round_of(&guest);
    assert_int_equal(throttle_n_slowed(&guest.throttle), 0);
    guest.speed[0] = 100 * MIB;
    guest.facts.link_bytes_per_s = 0; /* nothing is known yet */
    round_of(&guest);
    assert_int_equal(throttle_n_slowed(&guest.throttle), 0);
    guest.facts.link_bytes_per_s = 32 * MIB;
    guest.facts.allowance_bytes = 0; /* no rate would do */
    round_of(&guest);
    assert_int_equal(throttle_n_slowed(&guest.throttle), 0);
    guest.facts.allowance_bytes = MIB;
    guest.facts.max_permille = 0;
    round_of(&guest);
    assert_int_equal(throttle_n_slowed(&guest.throttle), 0);
    guest.facts.max_permille = 990;
    round_of(&guest);
    assert_int_equal(throttle_n_slowed(&guest.throttle), 1);
    guest.facts.max_permille = 0; /* the user takes the budget back */
    round_of(&guest);
    assert_int_equal(throttle_n_slowed(&guest.throttle), 0);
    throttle_clear(&guest.throttle);
}

static void the_budget_is_kept(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.facts.max_permille = 500;
    guest.speed[0] = 1000 * MIB;
    guest.speed[1] = 3 * MIB; /* less than an equal part of the target */
    for (unsigned n = 0; n < 10; n++) {
        round_of(&guest);
        assert_int_equal(guest.throttle.vcpus[0].permille, 500);
        assert_int_equal(guest.throttle.vcpus[1].permille, 0);
    }
    throttle_clear(&guest.throttle);
}

static void short_rounds_have_a_target_too(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.facts.allowance_bytes = MIB / 10;
    guest.facts.round_floor_ns = 10 * NS_PER_MS; /* 10 MiB/s would fill it anew */
    assert_in_range(throttle_target(&guest.facts), 49 * MIB / 10, 5 * MIB);
    guest.speed[0] = 20 * MIB; /* less than the link carries, and never done */
    assert_int_equal(rounds_to_target(&guest), 1);
    assert_near(total_of(&guest), 5 * MIB);
    throttle_clear(&guest.throttle);
}

static void devices_are_not_the_vcpus_fault(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.speed[0] = 100 * MIB;
    guest.devices = 6 * MIB;
    assert_int_equal(rounds_to_target(&guest), 1);
    assert_near(total_of(&guest), 16 * MIB);
    guest.devices = 200 * MIB;
    round_of(&guest);
    assert_near(rate_of(&guest, 0), 4 * MIB); /* an equal part of the target */
    throttle_clear(&guest.throttle);
}

static void absurd_numbers_are_survived(void **state)
{
    struct guest guest;

    guest_init(&guest);
    guest.facts.dirty_bytes_per_s = UINT64_MAX;
    guest.facts.max_permille = UINT32_MAX;
    for (unsigned i = 0; i < N_VCPUS; i++)
        guest.throttle.vcpus[i].dirty_bytes_per_s = UINT64_MAX;
    for (unsigned n = 0; n < 10; n++)
        throttle_update(&guest.throttle, &guest.facts);
    assert_int_equal(throttle_most_permille(&guest.throttle), 999);
    throttle_clear(&guest.throttle);
    throttle_init(&guest.throttle, 0);
    throttle_update(&guest.throttle, &guest.facts);
    assert_int_equal(throttle_most_permille(&guest.throttle), 0);
    throttle_clear(&guest.throttle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_writer_is_slowed),
        cmocka_unit_test(a_small_hot_set_takes_a_few_rounds),
        cmocka_unit_test(uniform_writers_share_alike),
        cmocka_unit_test(the_faster_the_more),
        cmocka_unit_test(who_stops_dirtying_is_free_again),
        cmocka_unit_test(one_quiet_moment_changes_little),
        cmocka_unit_test(a_guest_that_fits_again_is_freed),
        cmocka_unit_test(a_periodic_writer_is_caught_each_time),
        cmocka_unit_test(nobody_is_slowed_without_need),
        cmocka_unit_test(the_budget_is_kept),
        cmocka_unit_test(short_rounds_have_a_target_too),
        cmocka_unit_test(devices_are_not_the_vcpus_fault),
        cmocka_unit_test(absurd_numbers_are_survived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
