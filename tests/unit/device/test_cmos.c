/* SPDX-License-Identifier: MIT */
/*
 * The PC's clock: what time it is in every format, setting it, alarms, and a move.
 */
#include "rig.h"

#include <string.h>

#include "device/cmos.h"

#define PORT UINT64_C(0x70)
/* Saturday, 2024-02-10 13:05:59 UTC, and half a second. */
#define THEN UINT64_C(1707570359)

static uint64_t now_ns; /* atomic: the loop's thread reads it */

static uint64_t test_real_ns(void)
{
    return __atomic_load_n(&now_ns, __ATOMIC_ACQUIRE);
}

static void set_now(uint64_t seconds)
{
    __atomic_store_n(&now_ns, seconds * NS_PER_S + NS_PER_S / 2, __ATOMIC_RELEASE);
}

static struct cmos *make_at(struct rig *rig, uint64_t port)
{
    const struct cmos_config config = {
        .ports = rig->bus,
        .loop = rig->loop,
        .port = (uint16_t)port,
        .irq = rig_irq(rig),
        .real_ns = test_real_ns,
    };
    struct cmos *cmos = cmos_new("cmos", &config, NULL);

    assert_non_null(cmos);
    device_reset(cmos_device(cmos));
    return cmos;
}

static struct cmos *make(struct rig *rig)
{
    set_now(THEN);
    struct cmos *cmos = make_at(rig, PORT);
    device_start(cmos_device(cmos));
    return cmos;
}

static void dispose(struct cmos *cmos)
{
    assert_true(device_stop(cmos_device(cmos), UINT64_MAX, NULL));
    device_free(cmos_device(cmos));
}

static unsigned get(struct rig *rig, unsigned index)
{
    rig_write(rig, PORT, 1, index | 0x80); /* the NMI bit is not part of it */
    return (unsigned)rig_read(rig, PORT + 1, 1);
}

static void put(struct rig *rig, unsigned index, unsigned value)
{
    rig_write(rig, PORT, 1, index);
    rig_write(rig, PORT + 1, 1, value);
}

static void it_tells_the_time(void **state)
{
    struct rig *rig = *state;
    struct cmos *cmos = make(rig);
    static const struct {
        unsigned index, bcd, binary;
    } expected[] = {{0, 0x59, 59}, {2, 0x05, 5}, {4, 0x13, 13}, {6, 0x07, 7},
                    {7, 0x10, 10}, {8, 0x02, 2}, {9, 0x24, 24}, {0x32, 0x20, 20}};

    for (size_t i = 0; i < G_N_ELEMENTS(expected); i++)
        assert_int_equal(get(rig, expected[i].index), expected[i].bcd);
    put(rig, 11, 0x06);
    for (size_t i = 0; i < G_N_ELEMENTS(expected); i++)
        assert_int_equal(get(rig, expected[i].index), expected[i].binary);
    put(rig, 11, 0x00);
    assert_int_equal(get(rig, 4), 0x81); /* 1 p.m. */
    set_now(THEN - 13 * 3600);
    assert_int_equal(get(rig, 4), 0x12); /* midnight */
    assert_int_equal(get(rig, 13), 0x80);
    dispose(cmos);
}

static void it_is_set_and_goes_on(void **state)
{
    struct rig *rig = *state;
    struct cmos *cmos = make(rig);

    put(rig, 11, 0x82);
    put(rig, 0, 0x58);
    put(rig, 2, 0x59);
    put(rig, 4, 0x23);
    put(rig, 7, 0x31);
    put(rig, 8, 0x12);
    put(rig, 9, 0x99);
    put(rig, 0x32, 0x19);
    set_now(THEN + 100);
    assert_int_equal(get(rig, 0), 0x58); /* it stands still */
    put(rig, 11, 0x02);
    assert_int_equal(get(rig, 0), 0x58);
    set_now(THEN + 102);
    assert_int_equal(get(rig, 0), 0x00);
    assert_int_equal(get(rig, 4), 0x00);
    assert_int_equal(get(rig, 7), 0x01);
    assert_int_equal(get(rig, 8), 0x01);
    assert_int_equal(get(rig, 9), 0x00);
    assert_int_equal(get(rig, 0x32), 0x20);
    device_reset(cmos_device(cmos)); /* there is a battery */
    assert_int_equal(get(rig, 9), 0x00);
    dispose(cmos);
}

static void memory_is_kept(void **state)
{
    struct rig *rig = *state;
    struct cmos *cmos = make(rig);

    put(rig, 0x0f, 0x5a);
    put(rig, 0x7f, 0xa5);
    device_reset(cmos_device(cmos));
    assert_int_equal(get(rig, 0x0f), 0x5a);
    assert_int_equal(get(rig, 0x7f), 0xa5);
    rig_attack(rig, PORT, CMOS_N_PORTS, 20000);
    dispose(cmos);
}

/* The seconds pass while the clock is stopped, so no test waits for one. */
static void sleep_until(struct cmos *cmos, uint64_t seconds)
{
    assert_true(device_stop(cmos_device(cmos), UINT64_MAX, NULL));
    set_now(seconds);
    device_start(cmos_device(cmos));
}

static void alarms_ring_once(void **state)
{
    struct rig *rig = *state;
    struct cmos *cmos = make(rig);

    put(rig, 1, 0x05);
    put(rig, 3, 0x06);
    put(rig, 5, 0xff); /* any hour */
    put(rig, 11, 0x22);
    sleep_until(cmos, THEN + 5);
    assert_false(rig_irq_level(rig));
    sleep_until(cmos, THEN + 10);
    assert_true(rig_irq_level(rig));
    assert_int_equal(get(rig, 12), 0xb0); /* alarm, and updates that nobody wanted */
    assert_false(rig_irq_level(rig));
    assert_int_equal(get(rig, 12), 0);
    sleep_until(cmos, THEN + 3600);
    assert_int_equal(get(rig, 12) & 0x20, 0);
    sleep_until(cmos, THEN + 1000 * UINT64_C(86400));
    assert_int_equal(get(rig, 12) & 0x20, 0x20);
    put(rig, 11, 0x02);
    sleep_until(cmos, THEN + 2000 * UINT64_C(86400));
    assert_int_equal(get(rig, 12), 0);
    dispose(cmos);
}

static void updates_interrupt(void **state)
{
    struct rig *rig = *state;
    struct cmos *cmos = make(rig);

    put(rig, 11, 0x12);
    assert_false(rig_irq_level(rig));
    set_now(THEN + 1);
    rig_await_irq(rig, true); /* the timer is the host's own */
    assert_int_equal(get(rig, 12) & 0x90, 0x90);
    dispose(cmos);
}

static void it_moves(void **state)
{
    struct rig *rig = *state;
    struct cmos *from = make(rig), *to = make_at(rig, 0x80);

    put(rig, 9, 0x30); /* six years on */
    put(rig, 1, 0x00);
    put(rig, 3, 0x06);
    put(rig, 5, 0x13);
    put(rig, 11, 0x22);
    put(rig, 0x40, 0x77);
    assert_true(device_stop(cmos_device(from), UINT64_MAX, NULL));
    rig_move_state(cmos_device(from), cmos_device(to));
    set_now(THEN + 2);
    assert_false(rig_irq_level(rig));
    device_start(cmos_device(to));
    assert_true(rig_irq_level(rig)); /* rang on the way */
    rig_write(rig, 0x80, 1, 9);
    assert_int_equal(rig_read(rig, 0x81, 1), 0x30);
    rig_write(rig, 0x80, 1, 0x40);
    assert_int_equal(rig_read(rig, 0x81, 1), 0x77);
    device_free(cmos_device(from));
    dispose(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(it_tells_the_time), RIG_TEST(it_is_set_and_goes_on), RIG_TEST(memory_is_kept),
        RIG_TEST(alarms_ring_once),  RIG_TEST(updates_interrupt),     RIG_TEST(it_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
