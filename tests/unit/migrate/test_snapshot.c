/* SPDX-License-Identifier: MIT */
/* Snapshots: saved to a file, restored from it, and refused whenever a byte of them is wrong. */
#include "harness.h"

#include <string.h>

static void save(struct move *move, const char *uri, enum gw_source_state expected)
{
    g_autoptr(GError) error = NULL;

    move->source = gw_snapshot_start(&move->pair.source.vm, uri, NULL, NULL, &error);
    if (!move->source)
        fail_msg("%s", error->message);
    move_finish(move);
    if (source_state_of(move) != expected)
        fail_msg("%s: %s", gw_source_state_name(source_state_of(move)),
                 source_status_of(move).failure.reason);
}

static void restore(struct move *move, const char *uri)
{
    g_autoptr(GError) error = NULL;

    move->destination = gw_destination_start(&move->pair.destination.vm, uri, NULL, NULL, &error);
    if (!move->destination)
        fail_msg("%s", error->message);
    if (!gw_destination_wait(move->destination, after_ms(PATIENCE_MS)))
        fail_msg("the restore hangs in %s",
                 gw_destination_state_name(destination_status_of(move).state));
}

static void saves_and_restores(void **state)
{
    static const char *const phases[] = {"stop", "flush", "pages", "save", "finish"};
    struct gw_ledger *ledger;
    struct move move;
    g_autofree char *uri = NULL;

    move_init(&move);
    fake_vm_park(&move.pair.source);
    uri = g_strdup_printf("file:%s/snapshot", move.pair.dir);
    save(&move, uri, GW_SOURCE_SAVED);
    assert_int_equal(move.pair.source.n_resumes, 1);
    assert_int_equal(move.pair.source.n_released, 0);
    ledger = gw_source_get_ledger(move.source);
    check_ledger(ledger, 0, false);
    for (size_t i = 0; i < G_N_ELEMENTS(phases); i++)
        assert_true(has_phase(ledger, phases[i]));
    gw_ledger_free(ledger);
    restore(&move, uri);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_RUNNING);
    assert_false(move.pair.destination.last_was_running);
    assert_true(move.pair.destination.facts.error_ns == UINT64_MAX);
    assert_true(move.pair.destination.facts.source_stop_real_ns > 0);
    assert_true(fake_pair_is_equal(&move.pair));
    move_clear(&move);
}

static void running_guest_goes_on_after_a_save(void **state)
{
    struct move move;
    g_autofree char *uri = NULL;

    move_init(&move);
    uri = g_strdup_printf("exec:cat > %s/snapshot", move.pair.dir);
    save(&move, uri, GW_SOURCE_SAVED);
    assert_true(fake_vm_is_running(&move.pair.source));
    fake_vm_park(&move.pair.source); /* else two would run it: a snapshot makes a second one */
    g_free(uri);
    uri = g_strdup_printf("exec:cat %s/snapshot", move.pair.dir);
    restore(&move, uri);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_RUNNING);
    assert_true(move.pair.destination.last_was_running);
    assert_true(fake_vm_is_running(&move.pair.destination));
    move_clear(&move);
}

static void failing_command_is_reported(void **state)
{
    struct move move;

    move_init(&move);
    save(&move, "exec:cat > /dev/null; exit 3", GW_SOURCE_FAILED);
    assert_true(fake_vm_is_running(&move.pair.source));
    move_clear(&move);
}

static void unwritable_file_is_reported(void **state)
{
    struct move move;

    move_init(&move);
    save(&move, "file:/nonexistent/directory/file", GW_SOURCE_FAILED);
    assert_true(fake_vm_is_running(&move.pair.source));
    assert_int_equal(move.pair.source.n_stops, 0);
    move_clear(&move);
}

/* Restores bytes; whatever is wrong with them must be refused and nothing may run. */
static void check_refused(struct move *move, const char *path, const char *bytes, size_t n_bytes)
{
    g_autofree char *uri = g_strdup_printf("file:%s", path);

    assert_true(g_file_set_contents(path, bytes, (gssize)n_bytes, NULL));
    restore(move, uri);
    assert_int_equal(destination_status_of(move).state, GW_DESTINATION_DISOWNED);
    assert_int_equal(move->pair.destination.n_runs, 0);
    assert_true(destination_status_of(move).failure.reason[0] != '\0');
    g_clear_pointer(&move->destination, gw_destination_free);
}

static void damaged_snapshots_are_refused(void **state)
{
    struct move move;
    g_autofree char *uri = NULL, *path = NULL, *bytes = NULL;
    gsize n_bytes;

    move_init(&move);
    fake_vm_park(&move.pair.source);
    path = g_strdup_printf("%s/snapshot", move.pair.dir);
    uri = g_strdup_printf("file:%s", path);
    save(&move, uri, GW_SOURCE_SAVED);
    assert_true(g_file_get_contents(path, &bytes, &n_bytes, NULL));
    for (unsigned i = 0; i <= 16; i++) {
        size_t at = (n_bytes - 1) * i / 16;

        bytes[at] = (char)(bytes[at] ^ 0x10);
        check_refused(&move, path, bytes, n_bytes);
        bytes[at] = (char)(bytes[at] ^ 0x10);
        check_refused(&move, path, bytes, at);
    }
    assert_true(g_file_set_contents(path, bytes, (gssize)n_bytes, NULL));
    restore(&move, uri);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_RUNNING);
    assert_true(fake_pair_is_equal(&move.pair));
    move_clear(&move);
}

/* A writer that never comes to an end, a reader that never gets one: both can be ended. */
static void stuck_snapshots_can_be_cancelled(void **state)
{
    struct move move;

    move_init(&move);
    move.source =
        gw_snapshot_start(&move.pair.source.vm, "exec:exec tail -f /dev/null", NULL, NULL, NULL);
    for (uint64_t limit = after_ms(PATIENCE_MS); source_status_of(&move).round == 0;)
        assert_true(clock_mono_ns() < limit);
    assert_true(gw_source_cancel(move.source));
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_CANCELLED);
    assert_true(fake_vm_is_running(&move.pair.source));
    move.destination = gw_destination_start(&move.pair.destination.vm,
                                            "exec:exec tail -f /dev/null", NULL, NULL, NULL);
    assert_false(gw_destination_wait(move.destination, after_ms(100)));
    move_clear(&move);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saves_and_restores),
        cmocka_unit_test(running_guest_goes_on_after_a_save),
        cmocka_unit_test(failing_command_is_reported),
        cmocka_unit_test(unwritable_file_is_reported),
        cmocka_unit_test(damaged_snapshots_are_refused),
        cmocka_unit_test(stuck_snapshots_can_be_cancelled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
