/* SPDX-License-Identifier: MIT */
/*
 * The PLIC: register map, gateways, priorities, thresholds, claim and completion, state.
 */
#include "rig.h"

#include "device/plic.h"

#define BASE              0xc000000u
#define PRIORITY(source)  (BASE + 4 * (source))
#define PENDING(word)     (BASE + 0x1000 + 4 * (word))
#define ENABLE(ctx, word) (BASE + 0x2000 + 0x80 * (ctx) + 4 * (word))
#define THRESHOLD(ctx)    (BASE + 0x200000 + 0x1000 * (ctx))
#define CLAIM(ctx)        (THRESHOLD(ctx) + 4)
#define M(hart)           (2u * (hart))
#define S(hart)           (2u * (hart) + 1)
#define MEIP              11
#define SEIP              9

static struct plic *plic_make(struct rig *rig, unsigned n_harts)
{
    struct plic *plic = plic_new("plic", rig->bus, BASE, n_harts, &rig_cpu_ops, rig_cpu(rig), NULL);
    assert_non_null(plic);
    device_reset(plic_device(plic));
    device_start(plic_device(plic));
    return plic;
}

static uint32_t get(struct rig *rig, uint64_t gpa)
{
    return (uint32_t)rig_read(rig, gpa, 4);
}

static void put(struct rig *rig, uint64_t gpa, uint32_t value)
{
    rig_write(rig, gpa, 4, value);
}

static void set(struct plic *plic, unsigned source, bool level)
{
    struct irq_line irq = plic_irq(plic, source);
    irq_set(&irq, level);
}

static void enable(struct rig *rig, unsigned ctx, unsigned source, unsigned priority)
{
    put(rig, PRIORITY(source), priority);
    put(rig, ENABLE(ctx, source / 32), get(rig, ENABLE(ctx, source / 32)) | 1u << (source % 32));
}

static void registers_keep_what_exists(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 2);
    put(rig, PRIORITY(0), 7);
    assert_int_equal(get(rig, PRIORITY(0)), 0);
    put(rig, PRIORITY(95), 0xffffffff);
    assert_int_equal(get(rig, PRIORITY(95)), 7);
    put(rig, PRIORITY(96), 1);
    assert_int_equal(get(rig, PRIORITY(96)), 0);
    put(rig, ENABLE(M(0), 0), 0xffffffff);
    assert_int_equal(get(rig, ENABLE(M(0), 0)), 0xfffffffe); /* source 0 does not exist */
    put(rig, ENABLE(S(1), 2), 0xffffffff);
    assert_int_equal(get(rig, ENABLE(S(1), 2)), 0xffffffff);
    put(rig, ENABLE(M(0), 3), 0xffffffff); /* beyond the sources */
    assert_int_equal(get(rig, ENABLE(M(0), 3)), 0);
    put(rig, ENABLE(M(2), 0), 0xffffffff); /* no such hart */
    assert_int_equal(get(rig, ENABLE(M(2), 0)), 0);
    put(rig, THRESHOLD(S(1)), 0x1f);
    assert_int_equal(get(rig, THRESHOLD(S(1))), 7);
    put(rig, PENDING(0), 0xffffffff);
    assert_int_equal(get(rig, PENDING(0)), 0);
    device_free(plic_device(plic));
}

static void an_interrupt_reaches_the_context_that_enabled_it(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 4);
    enable(rig, S(2), 33, 1);
    set(plic, 33, true);
    assert_true(rig->harts[2].lines[SEIP]);
    assert_false(rig->harts[2].lines[MEIP]);
    assert_false(rig->harts[1].lines[SEIP]);
    assert_int_equal(get(rig, PENDING(1)), 1u << 1);

    assert_int_equal(get(rig, CLAIM(S(2))), 33);
    assert_false(rig->harts[2].lines[SEIP]);
    assert_int_equal(get(rig, PENDING(1)), 0);
    assert_int_equal(get(rig, CLAIM(S(2))), 0);
    device_free(plic_device(plic));
}

static void a_level_interrupts_again_after_completion(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 1);
    enable(rig, M(0), 10, 1);
    set(plic, 10, true);
    assert_int_equal(get(rig, CLAIM(M(0))), 10);
    set(plic, 10, true); /* in service: the gateway waits */
    assert_false(rig->harts[0].lines[MEIP]);
    put(rig, CLAIM(M(0)), 10);
    assert_true(rig->harts[0].lines[MEIP]);
    assert_int_equal(get(rig, CLAIM(M(0))), 10);
    set(plic, 10, false);
    put(rig, CLAIM(M(0)), 10);
    assert_false(rig->harts[0].lines[MEIP]);
    device_free(plic_device(plic));
}

static void a_request_stays_when_the_level_falls(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 1);
    enable(rig, M(0), 10, 1);
    set(plic, 10, true);
    set(plic, 10, false);
    assert_true(rig->harts[0].lines[MEIP]);
    assert_int_equal(get(rig, CLAIM(M(0))), 10);
    put(rig, CLAIM(M(0)), 10);
    assert_false(rig->harts[0].lines[MEIP]);
    device_free(plic_device(plic));
}

static void highest_priority_then_lowest_number_is_claimed(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 1);
    enable(rig, S(0), 5, 2);
    enable(rig, S(0), 40, 3);
    enable(rig, S(0), 64, 3);
    set(plic, 5, true);
    set(plic, 64, true);
    set(plic, 40, true);
    assert_int_equal(get(rig, CLAIM(S(0))), 40);
    assert_int_equal(get(rig, CLAIM(S(0))), 64);
    assert_int_equal(get(rig, CLAIM(S(0))), 5);
    assert_int_equal(get(rig, CLAIM(S(0))), 0);
    device_free(plic_device(plic));
}

static void the_threshold_masks_the_line_but_not_the_claim(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 1);
    enable(rig, S(0), 5, 3);
    put(rig, THRESHOLD(S(0)), 3);
    set(plic, 5, true);
    assert_false(rig->harts[0].lines[SEIP]);
    put(rig, THRESHOLD(S(0)), 2);
    assert_true(rig->harts[0].lines[SEIP]);
    put(rig, THRESHOLD(S(0)), 7);
    assert_false(rig->harts[0].lines[SEIP]);
    assert_int_equal(get(rig, CLAIM(S(0))), 5);
    device_free(plic_device(plic));
}

static void priority_zero_never_interrupts(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 1);
    enable(rig, S(0), 5, 0);
    set(plic, 5, true);
    assert_false(rig->harts[0].lines[SEIP]);
    assert_int_equal(get(rig, CLAIM(S(0))), 0);
    assert_int_equal(get(rig, PENDING(0)), 1u << 5);
    put(rig, PRIORITY(5), 1);
    assert_true(rig->harts[0].lines[SEIP]);
    device_free(plic_device(plic));
}

static void completions_of_what_is_not_enabled_are_ignored(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 1);
    enable(rig, S(0), 5, 1);
    set(plic, 5, true);
    assert_int_equal(get(rig, CLAIM(S(0))), 5);
    put(rig, CLAIM(M(0)), 5); /* not enabled there */
    put(rig, CLAIM(S(0)), 6);
    put(rig, CLAIM(S(0)), 0);
    put(rig, CLAIM(S(0)), 96);
    put(rig, CLAIM(S(0)), 0xffffffff);
    assert_false(rig->harts[0].lines[SEIP]);
    put(rig, CLAIM(S(0)), 5);
    assert_true(rig->harts[0].lines[SEIP]);
    device_free(plic_device(plic));
}

static void one_claim_takes_the_request_from_all_contexts(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 2);
    enable(rig, S(0), 5, 1);
    enable(rig, S(1), 5, 1);
    set(plic, 5, true);
    assert_true(rig->harts[0].lines[SEIP] && rig->harts[1].lines[SEIP]);
    assert_int_equal(get(rig, CLAIM(S(1))), 5);
    assert_false(rig->harts[0].lines[SEIP] || rig->harts[1].lines[SEIP]);
    assert_int_equal(get(rig, CLAIM(S(0))), 0);
    device_free(plic_device(plic));
}

static void harts_are_told_only_changes(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 4);
    enable(rig, S(0), 5, 1);
    unsigned before = rig->n_set_irq;
    for (unsigned i = 0; i < 10; i++)
        set(plic, 5, true);
    assert_int_equal(rig->n_set_irq, before + 1);
    device_free(plic_device(plic));
}

static void reset_clears_all_but_the_wires(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 1);
    enable(rig, S(0), 5, 1);
    set(plic, 5, true);
    device_reset(plic_device(plic));
    assert_false(rig->harts[0].lines[SEIP]);
    assert_int_equal(get(rig, PRIORITY(5)), 0);
    assert_int_equal(get(rig, ENABLE(S(0), 0)), 0);
    assert_int_equal(get(rig, PENDING(0)), 0);
    set(plic, 5, true); /* still high: a request, once somebody drives the wire */
    assert_int_equal(get(rig, PENDING(0)), 1u << 5);
    device_free(plic_device(plic));
}

static void any_access_is_harmless(void **state)
{
    struct rig *rig = *state;
    struct plic *plic = plic_make(rig, 4);
    for (unsigned source = 1; source <= PLIC_N_SOURCES; source++)
        set(plic, source, true);
    rig_attack(rig, BASE, PLIC_SIZE, 200000);
    assert_null(plic_irq(plic, 0).set);
    assert_null(plic_irq(plic, 96).set);
    device_free(plic_device(plic));
}

static void impossible_hart_counts_are_errors(void **state)
{
    struct rig *rig = *state;
    GError *error = NULL;
    assert_null(plic_new("plic", rig->bus, BASE, 65, &rig_cpu_ops, rig_cpu(rig), &error));
    assert_string_equal(error->message, "plic: 65 harts, at most 64");
    g_clear_error(&error);
    assert_null(plic_new("plic", rig->bus, BASE, 0, &rig_cpu_ops, rig_cpu(rig), NULL));
}

static void a_move_keeps_requests_in_every_stage(void **state)
{
    struct rig *rig = *state;
    void *other_state;
    rig_setup(&other_state);
    struct rig *other = other_state;
    struct plic *from = plic_make(rig, 2), *to = plic_make(other, 2);
    enable(rig, S(1), 5, 1);
    enable(rig, S(1), 6, 2);
    enable(rig, S(1), 7, 3);
    put(rig, THRESHOLD(M(1)), 4);
    set(from, 7, true); /* in service */
    assert_int_equal(get(rig, CLAIM(S(1))), 7);
    set(from, 6, true); /* pending */

    rig_move_state(plic_device(from), plic_device(to));
    assert_false(other->harts[1].lines[SEIP]); /* told when the machine starts */
    device_start(plic_device(to));
    assert_true(other->harts[1].lines[SEIP]);
    assert_int_equal(get(other, THRESHOLD(M(1))), 4);
    assert_int_equal(get(other, CLAIM(S(1))), 6);
    put(other, CLAIM(S(1)), 7); /* its level is still high */
    assert_int_equal(get(other, CLAIM(S(1))), 7);
    device_free(plic_device(from));
    device_free(plic_device(to));
    rig_teardown(&other_state);
}

static void another_number_of_harts_is_refused(void **state)
{
    struct rig *rig = *state;
    void *other_state;
    rig_setup(&other_state);
    struct plic *from = plic_make(rig, 2), *to = plic_make(other_state, 4);
    assert_false(rig_try_move_state(plic_device(from), plic_device(to), NULL));
    device_free(plic_device(from));
    device_free(plic_device(to));
    rig_teardown(&other_state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(registers_keep_what_exists),
        RIG_TEST(an_interrupt_reaches_the_context_that_enabled_it),
        RIG_TEST(a_level_interrupts_again_after_completion),
        RIG_TEST(a_request_stays_when_the_level_falls),
        RIG_TEST(highest_priority_then_lowest_number_is_claimed),
        RIG_TEST(the_threshold_masks_the_line_but_not_the_claim),
        RIG_TEST(priority_zero_never_interrupts),
        RIG_TEST(completions_of_what_is_not_enabled_are_ignored),
        RIG_TEST(one_claim_takes_the_request_from_all_contexts),
        RIG_TEST(harts_are_told_only_changes),
        RIG_TEST(reset_clears_all_but_the_wires),
        RIG_TEST(any_access_is_harmless),
        RIG_TEST(impossible_hart_counts_are_errors),
        RIG_TEST(a_move_keeps_requests_in_every_stage),
        RIG_TEST(another_number_of_harts_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
