/* SPDX-License-Identifier: MIT */
/*
 * Two engines in one process move a fake VM over a UNIX socket: success, refusal, failure, cancel.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/clock.h"
#include "fake_vm.h"

#define PATIENCE_MS 60000

static struct gw_source_status source_status(struct gw_source *source)
{
    struct gw_source_status status;

    gw_source_get_status(source, &status);
    return status;
}

static struct gw_destination_status destination_status(struct gw_destination *destination)
{
    struct gw_destination_status status;

    gw_destination_get_status(destination, &status);
    return status;
}

static const struct gw_migrate_params patient = {.max_blackout_ns = UINT64_C(30000000000)};

static void check_ledger(const struct gw_ledger *ledger, uint32_t index, bool is_handed_over)
{
    const struct gw_ledger_attempt *attempt = gw_ledger_attempt_at(ledger, index);
    uint64_t sum_ns = 0;
    int64_t at_ns = 0;

    assert_non_null(attempt);
    assert_int_equal(attempt->is_handed_over, is_handed_over);
    for (uint32_t i = 0; i < attempt->n_phases; i++) {
        if (attempt->phases[i].depth != 0)
            continue;
        assert_int_equal(attempt->phases[i].start_ns, at_ns);
        at_ns += (int64_t)attempt->phases[i].length_ns;
        sum_ns += attempt->phases[i].length_ns;
    }
    assert_int_equal(sum_ns, attempt->blackout_ns);
}

static void moves_and_keeps_every_byte(void **state)
{
    struct fake_pair pair;
    g_autoptr(GError) error = NULL;
    struct gw_destination *destination;
    struct gw_source *source;
    struct gw_ledger *ledger;

    fake_pair_init(&pair);
    destination = gw_destination_start(&pair.destination.vm, pair.uri, NULL, NULL, &error);
    assert_non_null(destination);
    /* The guest must not write after the move, or the memories could not be compared. */
    pair.destination.writes_per_ms = 0;
    source = gw_source_start(&pair.source.vm, pair.uri, &patient, NULL, &error);
    assert_non_null(source);
    assert_true(gw_source_wait(source, after_ms(PATIENCE_MS)));
    if (source_status(source).state != GW_SOURCE_COMPLETED)
        print_error("%s\n", source_status(source).failure.reason);
    assert_int_equal(source_status(source).state, GW_SOURCE_COMPLETED);
    assert_true(gw_destination_wait(destination, after_ms(PATIENCE_MS)));
    assert_int_equal(destination_status(destination).state, GW_DESTINATION_RUNNING);
    assert_true(fake_vm_is_running(&pair.destination));
    assert_false(fake_vm_is_running(&pair.source));
    assert_int_equal(pair.source.n_released, 1);
    assert_int_equal(pair.destination.n_runs, 1);
    assert_true(pair.destination.last_was_running);
    assert_false(pair.ran_twice);
    fake_vm_park(&pair.destination);
    assert_true(pair.destination.devices[0].ticks >= pair.source.devices[0].ticks);
    pair.destination.devices[0].ticks = pair.source.devices[0].ticks; /* it has run since */
    assert_true(fake_pair_is_equal(&pair));
    ledger = gw_source_get_ledger(source);
    assert_int_equal(gw_ledger_n_attempts(ledger), 1);
    check_ledger(ledger, 0, true);
    gw_ledger_free(ledger);
    ledger = gw_destination_get_ledger(destination);
    check_ledger(ledger, 0, true);
    gw_ledger_free(ledger);
    assert_false(gw_source_cancel(source));
    gw_source_free(source);
    gw_destination_free(destination);
    fake_pair_clear(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_and_keeps_every_byte),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
