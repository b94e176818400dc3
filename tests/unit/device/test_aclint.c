/* SPDX-License-Identifier: MIT */
/*
 * The ACLINT and the test finisher.
 */
#include "rig.h"

#include "device/aclint.h"
#include "device/syscon.h"

#define BASE           0x2000000u
#define MSIP(hart)     (BASE + 4 * (hart))
#define MTIMECMP(hart) (BASE + 0x4000 + 8 * (hart))
#define MTIME          (BASE + 0xbff8)
#define LINE_MSIP      3

static struct aclint *aclint_make(struct rig *rig)
{
    guest_clock_init(&rig->clock, 10000000, 0);
    struct aclint *aclint = aclint_new("aclint", rig->bus, BASE, RIG_HARTS, &rig_cpu_ops,
                                       rig_cpu(rig), &rig->clock, NULL);
    assert_non_null(aclint);
    device_reset(aclint_device(aclint));
    device_start(aclint_device(aclint));
    return aclint;
}

static void msip_is_one_bit_per_hart(void **state)
{
    struct rig *rig = *state;
    struct aclint *aclint = aclint_make(rig);
    rig_write(rig, MSIP(2), 4, 0xffffffff);
    assert_int_equal(rig_read(rig, MSIP(2), 4), 1);
    assert_true(rig->harts[2].lines[LINE_MSIP]);
    assert_false(rig->harts[1].lines[LINE_MSIP]);
    rig_write(rig, MSIP(2), 4, 0xfffffffe);
    assert_int_equal(rig_read(rig, MSIP(2), 4), 0);
    assert_false(rig->harts[2].lines[LINE_MSIP]);
    rig_write(rig, MSIP(RIG_HARTS), 4, 1); /* no such hart */
    assert_int_equal(rig_read(rig, MSIP(RIG_HARTS), 4), 0);
    device_free(aclint_device(aclint));
}

static void mtimecmp_takes_whole_and_half_accesses(void **state)
{
    struct rig *rig = *state;
    struct aclint *aclint = aclint_make(rig);
    rig_write(rig, MTIMECMP(3), 8, 0x1122334455667788);
    assert_true(rig->harts[3].timer == 0x1122334455667788);
    rig_write(rig, MTIMECMP(3), 4, 0xaabbccdd);
    assert_true(rig->harts[3].timer == 0x11223344aabbccdd);
    rig_write(rig, MTIMECMP(3) + 4, 4, 0x99887766);
    assert_true(rig->harts[3].timer == 0x99887766aabbccdd);
    assert_int_equal(rig_read(rig, MTIMECMP(3), 4), 0xaabbccdd);
    assert_int_equal(rig_read(rig, MTIMECMP(3) + 4, 4), 0x99887766);
    assert_true(rig_read(rig, MTIMECMP(3), 8) == 0x99887766aabbccdd);
    rig_write(rig, MTIMECMP(RIG_HARTS), 8, 1);
    device_free(aclint_device(aclint));
}

static void mtime_is_the_guest_clock_and_can_be_set(void **state)
{
    struct rig *rig = *state;
    struct aclint *aclint = aclint_make(rig);
    uint64_t first = rig_read(rig, MTIME, 8);
    assert_true(rig_read(rig, MTIME, 8) >= first);
    rig->harts[1].timer = 77;
    rig_write(rig, MTIME, 8, UINT64_C(5) << 32);
    assert_true(rig_read(rig, MTIME, 8) >= UINT64_C(5) << 32);
    assert_int_equal(rig_read(rig, MTIME + 4, 4), 5);
    rig_write(rig, MTIME + 4, 4, 9);
    assert_int_equal(rig_read(rig, MTIME + 4, 4), 9);
    /* The harts compare anew. */
    assert_int_equal(rig->harts[1].n_set_timer, 2);
    assert_int_equal(rig->harts[1].timer, 77);
    device_free(aclint_device(aclint));
}

static void any_access_is_harmless(void **state)
{
    struct rig *rig = *state;
    struct aclint *aclint = aclint_make(rig);
    rig_attack(rig, BASE, ACLINT_SIZE, 100000);
    device_free(aclint_device(aclint));
}

static void a_move_keeps_software_interrupts(void **state)
{
    struct rig *rig = *state;
    void *other_state;
    rig_setup(&other_state);
    struct rig *other = other_state;
    struct aclint *from = aclint_make(rig), *to = aclint_make(other);
    rig_write(rig, MSIP(1), 4, 1);
    rig_move_state(aclint_device(from), aclint_device(to));
    device_start(aclint_device(to));
    assert_true(other->harts[1].lines[LINE_MSIP]);
    assert_false(other->harts[0].lines[LINE_MSIP]);
    assert_int_equal(rig_read(other, MSIP(1), 4), 1);
    device_free(aclint_device(from));
    device_free(aclint_device(to));
    rig_teardown(&other_state);
}

/* ---- test finisher ---- */

struct wish {
    enum syscon_wish wish;
    unsigned status, n;
};

static void note_wish(void *opaque, enum syscon_wish wish, unsigned status)
{
    struct wish *noted = opaque;
    noted->wish = wish;
    noted->status = status;
    noted->n++;
}

static void the_finisher_knows_three_words(void **state)
{
    struct rig *rig = *state;
    struct wish noted = {0};
    struct syscon *syscon = syscon_new("syscon", rig->bus, 0x100000, note_wish, &noted, NULL);
    rig_write(rig, 0x100000, 4, 0x5555);
    assert_int_equal(noted.wish, SYSCON_POWER_OFF);
    assert_int_equal(noted.status, 0);
    rig_write(rig, 0x100000, 4, 0x3333 | 42 << 16);
    assert_int_equal(noted.wish, SYSCON_POWER_OFF);
    assert_int_equal(noted.status, 42);
    rig_write(rig, 0x100000, 2, 0x7777);
    assert_int_equal(noted.wish, SYSCON_RESET);
    assert_int_equal(noted.n, 3);
    rig_write(rig, 0x100000, 4, 0x1234);
    rig_write(rig, 0x100004, 4, 0x5555);
    rig_write(rig, 0x100000, 1, 0x55);
    assert_int_equal(noted.n, 3);
    assert_int_equal(rig_read(rig, 0x100000, 4), 0);
    rig_attack(rig, 0x100000, SYSCON_SIZE, 10000);
    device_free(syscon_device(syscon));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(msip_is_one_bit_per_hart),
        RIG_TEST(mtimecmp_takes_whole_and_half_accesses),
        RIG_TEST(mtime_is_the_guest_clock_and_can_be_set),
        RIG_TEST(any_access_is_harmless),
        RIG_TEST(a_move_keeps_software_interrupts),
        RIG_TEST(the_finisher_knows_three_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
