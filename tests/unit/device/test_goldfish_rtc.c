/* SPDX-License-Identifier: MIT */
/*
 * The real-time clock, under a wall clock that the test sets.
 */
#include "rig.h"

#include "device/goldfish_rtc.h"

#define BASE            0x101000u
#define TIME_LOW        (BASE + 0x00)
#define TIME_HIGH       (BASE + 0x04)
#define ALARM_LOW       (BASE + 0x08)
#define ALARM_HIGH      (BASE + 0x0c)
#define IRQ_ENABLED     (BASE + 0x10)
#define CLEAR_ALARM     (BASE + 0x14)
#define ALARM_STATUS    (BASE + 0x18)
#define CLEAR_INTERRUPT (BASE + 0x1c)
#define YEAR_NS         (UINT64_C(31536000) * NS_PER_S)
#define NOW_NS          (UINT64_C(50) * YEAR_NS + 123456789)

static uint64_t wall_ns; /* the hook has no argument; atomic */

static uint64_t read_wall(void)
{
    return __atomic_load_n(&wall_ns, __ATOMIC_RELAXED);
}

static void set_wall(uint64_t ns)
{
    __atomic_store_n(&wall_ns, ns, __ATOMIC_RELAXED);
}

static struct goldfish_rtc *rtc_make(struct rig *rig)
{
    const struct goldfish_rtc_config config = {
        .bus = rig->bus, .loop = rig->loop, .gpa = BASE, .irq = rig_irq(rig), .real_ns = read_wall};
    set_wall(NOW_NS);
    struct goldfish_rtc *rtc = goldfish_rtc_new("rtc", &config, NULL);
    assert_non_null(rtc);
    device_reset(goldfish_rtc_device(rtc));
    device_start(goldfish_rtc_device(rtc));
    return rtc;
}

static uint64_t get_time(struct rig *rig)
{
    uint64_t low = rig_read(rig, TIME_LOW, 4);
    return rig_read(rig, TIME_HIGH, 4) << 32 | low;
}

/* As Linux does it. */
static void set_time(struct rig *rig, uint64_t ns)
{
    rig_write(rig, TIME_HIGH, 4, ns >> 32);
    rig_write(rig, TIME_LOW, 4, ns);
}

static void set_alarm(struct rig *rig, uint64_t ns)
{
    rig_write(rig, ALARM_HIGH, 4, ns >> 32);
    rig_write(rig, ALARM_LOW, 4, ns);
    rig_write(rig, IRQ_ENABLED, 4, 1);
}

static void stop(struct goldfish_rtc *rtc)
{
    assert_true(device_stop(goldfish_rtc_device(rtc), 0, NULL));
}

static void finish(struct goldfish_rtc *rtc)
{
    stop(rtc);
    device_free(goldfish_rtc_device(rtc));
}

static void it_shows_the_hosts_time(void **state)
{
    struct rig *rig = *state;
    struct goldfish_rtc *rtc = rtc_make(rig);
    assert_true(get_time(rig) == NOW_NS);
    rig_read(rig, TIME_LOW, 4);
    set_wall(NOW_NS + (UINT64_C(7) << 32));
    assert_int_equal(rig_read(rig, TIME_HIGH, 4), NOW_NS >> 32); /* latched by the low half */
    assert_true(get_time(rig) == NOW_NS + (UINT64_C(7) << 32));
    finish(rtc);
}

static void the_guest_can_set_it_and_it_goes_on(void **state)
{
    struct rig *rig = *state;
    struct goldfish_rtc *rtc = rtc_make(rig);
    set_time(rig, 5 * YEAR_NS);
    assert_true(get_time(rig) == 5 * YEAR_NS);
    set_wall(NOW_NS + 1000);
    assert_true(get_time(rig) == 5 * YEAR_NS + 1000);
    device_reset(goldfish_rtc_device(rtc)); /* has a battery */
    assert_true(get_time(rig) == 5 * YEAR_NS + 1000);
    finish(rtc);
}

static void an_alarm_in_the_past_rings_at_once(void **state)
{
    struct rig *rig = *state;
    struct goldfish_rtc *rtc = rtc_make(rig);
    set_alarm(rig, NOW_NS - 1);
    assert_true(rig_irq_level(rig));
    assert_int_equal(rig_read(rig, ALARM_STATUS, 4), 0);
    rig_write(rig, CLEAR_INTERRUPT, 4, 1);
    assert_false(rig_irq_level(rig));
    finish(rtc);
}

static void an_alarm_rings_when_its_time_has_come(void **state)
{
    struct rig *rig = *state;
    struct goldfish_rtc *rtc = rtc_make(rig);
    set_alarm(rig, NOW_NS + NS_PER_MS);
    assert_int_equal(rig_read(rig, ALARM_STATUS, 4), 1);
    assert_false(rig_irq_level(rig));
    set_wall(NOW_NS + 2 * NS_PER_MS); /* the host's timer comes by itself */
    rig_await_irq(rig, true);
    assert_int_equal(rig_read(rig, ALARM_STATUS, 4), 0);
    finish(rtc);
}

static void an_alarm_can_be_cleared_and_masked(void **state)
{
    struct rig *rig = *state;
    struct goldfish_rtc *rtc = rtc_make(rig);
    set_alarm(rig, NOW_NS + YEAR_NS);
    rig_write(rig, CLEAR_ALARM, 4, 1);
    assert_int_equal(rig_read(rig, ALARM_STATUS, 4), 0);
    set_wall(NOW_NS + 2 * YEAR_NS);
    set_time(rig, NOW_NS + 3 * YEAR_NS); /* looks at the alarm again */
    assert_false(rig_irq_level(rig));

    rig_write(rig, IRQ_ENABLED, 4, 0);
    rig_write(rig, ALARM_LOW, 4, 0); /* long ago */
    assert_false(rig_irq_level(rig));
    rig_write(rig, IRQ_ENABLED, 4, 1);
    assert_true(rig_irq_level(rig));
    finish(rtc);
}

static void setting_the_time_past_the_alarm_rings(void **state)
{
    struct rig *rig = *state;
    struct goldfish_rtc *rtc = rtc_make(rig);
    set_alarm(rig, NOW_NS + YEAR_NS);
    assert_false(rig_irq_level(rig));
    set_time(rig, NOW_NS + 2 * YEAR_NS);
    assert_true(rig_irq_level(rig));
    finish(rtc);
}

static void a_stopped_clock_does_not_ring(void **state)
{
    struct rig *rig = *state;
    struct goldfish_rtc *rtc = rtc_make(rig);
    set_alarm(rig, NOW_NS + YEAR_NS);
    stop(rtc);
    set_wall(NOW_NS + 2 * YEAR_NS);
    rig_settle(rig);
    assert_false(rig_irq_level(rig));
    device_start(goldfish_rtc_device(rtc));
    assert_true(rig_irq_level(rig));
    finish(rtc);
}

static void after_a_long_rest_it_is_now_and_the_alarm_rings(void **state)
{
    struct rig *rig = *state;
    void *other_state;
    rig_setup(&other_state);
    struct rig *other = other_state;
    struct goldfish_rtc *from = rtc_make(rig), *to = rtc_make(other);
    set_time(rig, 5 * YEAR_NS);
    set_alarm(rig, 5 * YEAR_NS + YEAR_NS / 4);
    stop(from);
    stop(to);
    rig_move_state(goldfish_rtc_device(from), goldfish_rtc_device(to));
    set_wall(NOW_NS + YEAR_NS / 2); /* half a year in a file */
    assert_false(rig_irq_level(other));
    device_start(goldfish_rtc_device(to));
    assert_true(rig_irq_level(other));
    assert_true(get_time(other) == 5 * YEAR_NS + YEAR_NS / 2);
    finish(from);
    finish(to);
    rig_teardown(&other_state);
}

static void any_access_is_harmless(void **state)
{
    struct rig *rig = *state;
    struct goldfish_rtc *rtc = rtc_make(rig);
    rig_attack(rig, BASE, GOLDFISH_RTC_SIZE, 100000);
    finish(rtc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(it_shows_the_hosts_time),
        RIG_TEST(the_guest_can_set_it_and_it_goes_on),
        RIG_TEST(an_alarm_in_the_past_rings_at_once),
        RIG_TEST(an_alarm_rings_when_its_time_has_come),
        RIG_TEST(an_alarm_can_be_cleared_and_masked),
        RIG_TEST(setting_the_time_past_the_alarm_rings),
        RIG_TEST(a_stopped_clock_does_not_ring),
        RIG_TEST(after_a_long_rest_it_is_now_and_the_alarm_rings),
        RIG_TEST(any_access_is_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
