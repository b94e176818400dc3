/* SPDX-License-Identifier: MIT */
/*
 * The example of docs/writing-a-device.md does what the page says.
 */
#include "rig.h"

#include "ticker.h"

#define BASE   0x1000u
#define PERIOD (BASE + 0)
#define COUNT  (BASE + 4)
#define ACK    (BASE + 8)

static struct device *ticker_make(struct rig *rig)
{
    guest_clock_init(&rig->clock, 10000000, 0);
    struct device *dev =
        ticker_new("ticker", rig->bus, BASE, rig->loop, &rig->clock, rig_irq(rig), NULL);
    assert_non_null(dev);
    assert_true(gw_state_desc_check(dev->state, NULL));
    device_reset(dev);
    device_start(dev);
    return dev;
}

static void it_ticks_and_stops_ticking(void **state)
{
    struct rig *rig = *state;
    struct device *dev = ticker_make(rig);
    rig_write(rig, PERIOD, 4, 1);
    assert_int_equal(rig_read(rig, PERIOD, 4), 1000);
    rig_await_irq(rig, true);
    assert_true(rig_read(rig, COUNT, 4) >= 1);
    rig_write(rig, PERIOD, 4, 0);
    rig_write(rig, ACK, 4, 1);
    uint64_t count = rig_read(rig, COUNT, 4);
    rig_settle(rig);
    assert_int_equal(rig_read(rig, COUNT, 4), count);
    assert_false(rig_irq_level(rig));
    rig_attack(rig, BASE, 0x1000, 50000);
    assert_true(device_stop(dev, 0, NULL));
    device_free(dev);
}

static void a_move_counts_the_time_between(void **state)
{
    struct rig *rig = *state;
    void *other_state;
    rig_setup(&other_state);
    struct rig *other = other_state;
    struct device *from = ticker_make(rig), *to = ticker_make(other);
    rig_write(rig, PERIOD, 4, 0x10000000);
    assert_true(device_stop(from, 0, NULL));
    assert_true(device_stop(to, 0, NULL));
    rig_move_state(from, to);
    guest_clock_set_ticks(&other->clock, UINT64_C(0x10000000) * 7 + 0x8000000);
    assert_false(rig_irq_level(other));
    device_start(to);
    assert_true(rig_irq_level(other));
    assert_int_equal(rig_read(other, COUNT, 4), 7);
    assert_true(device_stop(to, 0, NULL));
    device_free(from);
    device_free(to);
    rig_teardown(&other_state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(it_ticks_and_stops_ticking),
        RIG_TEST(a_move_counts_the_time_between),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
