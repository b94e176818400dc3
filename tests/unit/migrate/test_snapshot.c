/* SPDX-License-Identifier: MIT */
/* Snapshots: saved to a file, restored from it, and refused whenever a byte of them is wrong. */
#include "harness.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "wire/snapshot.h"

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

/* ---- live ------------------------------------------------------------------------------------ */

/* Two guests that write while they are saved, as fast as they can: every page of the first 4 MiB
 * holds the number of one pass, and a pass goes from the first page to the last. At any one instant
 * the numbers fall by one at one place, or nowhere. */
#define PASS_PAGES (UINT64_C(4) << 20 >> GW_PAGE_SHIFT)

struct passing {
    pthread_t thread;
    struct fake_vm *vm;
    atomic_bool is_ending, is_held;
    atomic_uint n_held;
    atomic_ullong n_passes;
};

__attribute__((no_sanitize("thread"))) static void put_number(struct gw_ram_block *block,
                                                              uint64_t page, uint64_t number)
{
    *(volatile uint64_t *)(void *)(block->host + page * GW_PAGE_SIZE) = number;
    gw_memory_note_write(block, page * GW_PAGE_SIZE, 8);
}

static void *passing_main(void *opaque)
{
    struct passing *self = opaque;
    struct gw_ram_block *block = gw_memory_block(self->vm->memory, 0);

    for (uint64_t pass = 1; !atomic_load(&self->is_ending); pass++) {
        for (uint64_t page = 0; page < PASS_PAGES; page++) {
            for (bool was_held = false; atomic_load(&self->is_held); was_held = true)
                if (!was_held)
                    atomic_fetch_add(&self->n_held, 1);
            put_number(block, page, pass);
        }
        atomic_fetch_add(&self->n_passes, 1);
    }
    return NULL;
}

static bool (*plain_stop)(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger,
                          GError **error);
static void (*plain_resume)(void *opaque);
static struct passing passing;

static bool stop_passing(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger,
                         GError **error)
{
    unsigned n_held = atomic_load(&passing.n_held);
    uint64_t n_passes = atomic_load(&passing.n_passes);

    /* Everything that is protected by now is written once more before the instant. */
    while (atomic_load(&passing.n_passes) < n_passes + 2)
        sched_yield();
    atomic_store(&passing.is_held, true);
    while (atomic_load(&passing.n_held) == n_held)
        sched_yield();
    return plain_stop(opaque, deadline_ns, ledger, error);
}

static void resume_passing(void *opaque)
{
    atomic_store(&passing.is_held, false);
    plain_resume(opaque);
}

__attribute__((no_sanitize("thread"))) static void check_one_instant(const struct gw_memory *memory)
{
    const uint8_t *host = gw_memory_block(memory, 0)->host;
    uint64_t first = *(const uint64_t *)(const void *)host, before = first;
    unsigned n_falls = 0;

    assert_true(first > 0);
    for (uint64_t page = 1; page < PASS_PAGES; page++) {
        uint64_t number = *(const uint64_t *)(const void *)(host + page * GW_PAGE_SIZE);

        if (number != before) {
            assert_int_equal(number, before - 1);
            n_falls++;
        }
        before = number;
    }
    assert_true(n_falls <= 1);
}

static void live_snapshots_are_of_one_instant(void **state)
{
    const struct gw_migrate_params params = {.is_live = true};
    uint64_t n_caught = 0;

    for (unsigned i = 0; i < 5; i++) {
        struct gw_source_status status;
        struct move move;
        g_autofree char *uri = NULL;

        move_init(&move);
        /* Slowly: then most of it is caught, and not reached. */
        uri = g_strdup_printf("%sfile:%s/snapshot", i % 2 ? "rate:20000000," : "", move.pair.dir);
        plain_stop = move.pair.source.vm.stop;
        plain_resume = move.pair.source.vm.resume_at_source;
        move.pair.source.vm.stop = stop_passing;
        move.pair.source.vm.resume_at_source = resume_passing;
        /* The pair's own guests write nothing: only ours does. */
        fake_vm_park(&move.pair.source);
        atomic_store(&move.pair.source.writes_per_ms, 0);
        atomic_store(&move.pair.destination.writes_per_ms, 0);
        fake_vm_run(&move.pair.source);
        memset(&passing, 0, sizeof passing);
        passing.vm = &move.pair.source;
        pthread_create(&passing.thread, NULL, passing_main, &passing);
        while (atomic_load(&passing.n_passes) < 2)
            sched_yield();
        move.source = gw_snapshot_start(&move.pair.source.vm, uri, &params, NULL, NULL);
        assert_non_null(move.source);
        move_finish(&move);
        expect_source_state(&move, GW_SOURCE_SAVED);
        assert_true(fake_vm_is_running(&move.pair.source));
        assert_int_equal(move.pair.source.n_flushes, 0);
        atomic_store(&passing.is_ending, true);
        pthread_join(passing.thread, NULL);
        status = source_status_of(&move);
        if (!status.is_live) {
            print_message("skipped: %s\n", status.note);
            move_clear(&move);
            return;
        }
        n_caught += status.chunks_caught;
        fake_vm_park(&move.pair.source);
        g_free(uri);
        uri = g_strdup_printf("file:%s/snapshot", move.pair.dir);
        restore(&move, uri);
        assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_RUNNING);
        fake_vm_park(&move.pair.destination);
        check_one_instant(move.pair.destination.memory);
        move_clear(&move);
    }
    assert_true(n_caught > 0);
}

static void discarded_pages_are_in_a_live_snapshot(void **state)
{
    const struct gw_migrate_params params = {.is_live = true};
    struct gw_ram_block *block;
    struct move move;
    g_autofree char *uri = NULL;

    move_init(&move);
    uri = g_strdup_printf("rate:2000000,file:%s/snapshot", move.pair.dir);
    block = gw_memory_block(move.pair.source.memory, 0);
    fake_vm_park(&move.pair.source);
    for (uint64_t page = 0; page < block->n_pages; page++)
        put_number(block, page, page + 1);
    atomic_store(&move.pair.destination.writes_per_ms, 0);
    move.source = gw_snapshot_start(&move.pair.source.vm, uri, &params, NULL, NULL);
    for (uint64_t limit = after_ms(PATIENCE_MS); source_status_of(&move).round == 0;)
        assert_true(clock_mono_ns() < limit);
    /* The instant is over; the slow channel has not got far. */
    assert_true(gw_memory_discard(block, 0, block->size_bytes, NULL));
    gw_source_set_budgets(move.source, &(struct gw_migrate_params){0});
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_SAVED);
    g_free(uri);
    uri = g_strdup_printf("file:%s/snapshot", move.pair.dir);
    restore(&move, uri);
    fake_vm_park(&move.pair.destination);
    block = gw_memory_block(move.pair.destination.memory, 0);
    for (uint64_t page = 0; page < block->n_pages; page++)
        assert_int_equal(*(uint64_t *)(void *)(block->host + page * GW_PAGE_SIZE), page + 1);
    move_clear(&move);
}

/* ---- lazy ------------------------------------------------------------------------------------ */

static char *lost_reason;
static atomic_bool is_lost;

static void on_lost(void *opaque, const char *reason)
{
    lost_reason = g_strdup(reason);
    atomic_store(&is_lost, true);
}

static void restore_lazily(struct move *move, const char *uri)
{
    const struct gw_migrate_params params = {.is_lazy = true};

    move->pair.destination.vm.memory_lost = on_lost;
    move->destination = gw_destination_start(&move->pair.destination.vm, uri, &params, NULL, NULL);
    assert_non_null(move->destination);
    assert_true(gw_destination_wait(move->destination, after_ms(PATIENCE_MS)));
}

static void lazy_restores_bring_everything(void **state)
{
    for (unsigned i = 0; i < 5; i++) {
        struct move move;
        g_autofree char *uri = NULL;

        move_init(&move);
        fake_vm_park(&move.pair.source);
        uri = g_strdup_printf("file:%s/snapshot", move.pair.dir);
        save(&move, uri, GW_SOURCE_SAVED);
        restore_lazily(&move, uri);
        assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_RUNNING);
        fake_vm_park(&move.pair.destination);
        /* Compares all pages, those that are still to come too. */
        assert_true(fake_pair_is_equal(&move.pair));
        for (uint64_t limit = after_ms(PATIENCE_MS); destination_status_of(&move).missing_bytes;)
            assert_true(clock_mono_ns() < limit);
        assert_true(fake_pair_is_equal(&move.pair));
        assert_int_equal(destination_status_of(&move).pages_plain,
                         source_status_of(&move).pages_plain);
        move_clear(&move);
    }
}

static void discarded_pages_stay_away(void **state)
{
    struct gw_ram_block *block;
    struct move move;
    g_autofree char *uri = NULL;

    move_init(&move);
    fake_vm_park(&move.pair.source);
    block = gw_memory_block(move.pair.source.memory, 0);
    for (uint64_t page = 0; page < block->n_pages; page++)
        put_number(block, page, page + 1);
    uri = g_strdup_printf("file:%s/snapshot", move.pair.dir);
    save(&move, uri, GW_SOURCE_SAVED);
    restore_lazily(&move, uri);
    fake_vm_park(&move.pair.destination);
    block = gw_memory_block(move.pair.destination.memory, 0);
    assert_true(gw_memory_discard(block, 0, block->size_bytes, NULL));
    for (uint64_t limit = after_ms(PATIENCE_MS); destination_status_of(&move).missing_bytes;)
        assert_true(clock_mono_ns() < limit);
    for (uint64_t page = 0; page < block->n_pages; page++)
        assert_int_equal(*(uint64_t *)(void *)(block->host + page * GW_PAGE_SIZE), 0);
    move_clear(&move);
}

static void streams_are_never_lazy(void **state)
{
    struct move move;
    g_autofree char *uri = NULL, *command = NULL;

    move_init(&move);
    fake_vm_park(&move.pair.source);
    uri = g_strdup_printf("file:%s/snapshot", move.pair.dir);
    command = g_strdup_printf("exec:cat %s/snapshot", move.pair.dir);
    save(&move, uri, GW_SOURCE_SAVED);
    restore_lazily(&move, command);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_RUNNING);
    assert_int_equal(destination_status_of(&move).missing_bytes, 0);
    assert_true(destination_status_of(&move).note[0] != '\0');
    assert_true(fake_pair_is_equal(&move.pair));
    move_clear(&move);
}

/* Where the pages of a file stand that has been saved; flips one byte of the page that stands in
 * the middle. */
static void damage_a_page(const char *path)
{
    g_autofree char *bytes = NULL;
    gsize n_bytes;

    assert_true(g_file_get_contents(path, &bytes, &n_bytes, NULL));
    bytes[n_bytes / 2] ^= 1;
    assert_true(g_file_set_contents(path, bytes, (gssize)n_bytes, NULL));
}

static void a_damaged_page_is_never_given(void **state)
{
    struct move move;
    g_autofree char *uri = NULL, *path = NULL;

    move_init(&move);
    fake_vm_park(&move.pair.source);
    path = g_strdup_printf("%s/snapshot", move.pair.dir);
    uri = g_strdup_printf("file:%s", path);
    save(&move, uri, GW_SOURCE_SAVED);
    damage_a_page(path);
    atomic_store(&is_lost, false);
    restore_lazily(&move, uri);
    if (destination_status_of(&move).note[0]) {
        print_message("skipped: %s\n", destination_status_of(&move).note);
        move_clear(&move);
        return;
    }
    for (uint64_t limit = after_ms(PATIENCE_MS); !atomic_load(&is_lost);)
        assert_true(clock_mono_ns() < limit);
    assert_non_null(strstr(lost_reason, "digest"));
    assert_true(destination_status_of(&move).missing_bytes > 0);
    g_clear_pointer(&lost_reason, g_free);
    move_clear(&move);
}

static uint64_t fake_pages(void *opaque, uint32_t block)
{
    return (block == 0 ? FAKE_RAM_BYTES : FAKE_HIGH_BYTES) >> GW_PAGE_SHIFT;
}

/* Reads every unit of an open snapshot; returns how many could not be read. */
static unsigned n_bad_units(struct wire_stream *stream, int fd,
                            const struct wire_snapshot *snapshot, const char *expected)
{
    struct wire_unit_reader reader = {.stream = stream, .fd = fd, .block_pages = fake_pages};
    g_autofree uint8_t *bytes = g_malloc(WIRE_MAX_BULK);
    unsigned n_bad = 0;

    wire_unit_reader_init(&reader);
    for (uint64_t i = 0; i < snapshot->n_units; i++) {
        g_autoptr(GError) error = NULL;

        if (wire_unit_read_head(&reader, &snapshot->units[i], &error) &&
            wire_unit_read_bulk(&reader, &snapshot->units[i], NULL, bytes, &error))
            continue;
        n_bad++;
        if (!strstr(error->message, expected))
            fail_msg("%s", error->message);
    }
    wire_unit_reader_clear(&reader);
    return n_bad;
}

/* What becomes of the file while it is read in place. */
static void changes_of_an_open_file_are_found(void **state)
{
    g_autofree char *uri = NULL, *path = NULL, *other = NULL, *bytes = NULL;
    struct wire_snapshot *snapshot;
    struct gw_listener *listener;
    struct gw_channel *channel;
    struct wire_stream *stream;
    struct move move;
    gsize n_bytes;
    int fd;

    move_init(&move);
    fake_vm_park(&move.pair.source);
    path = g_strdup_printf("%s/snapshot", move.pair.dir);
    uri = g_strdup_printf("file:%s", path);
    other = g_strdup_printf("file:%s/other", move.pair.dir);
    save(&move, other, GW_SOURCE_SAVED);
    gw_source_free(move.source);
    save(&move, uri, GW_SOURCE_SAVED);
    listener = gw_listener_new(uri, NULL, NULL);
    channel = gw_listener_accept(listener, GW_NO_DEADLINE, NULL);
    stream = wire_stream_accept(channel, GW_NO_DEADLINE, NULL);
    assert_non_null(stream);
    fd = gw_channel_file_fd(channel);
    assert_true(fd >= 0);
    assert_true(wire_snapshot_open(stream, fd, fake_pages, NULL, &snapshot, NULL));
    assert_non_null(snapshot);
    assert_true(snapshot->n_units > 2);
    assert_int_equal(n_bad_units(stream, fd, snapshot, ""), 0);
    /* The other one has the same pages at the same places, in a stream of its own. */
    assert_true(g_file_get_contents(other + strlen("file:"), &bytes, &n_bytes, NULL));
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, bytes, n_bytes, 0), n_bytes);
    assert_int_equal(n_bad_units(stream, fd, snapshot, "check does not match"), snapshot->n_units);
    assert_int_equal(ftruncate(fd, (off_t)snapshot->units[0].offset), 0);
    assert_int_equal(n_bad_units(stream, fd, snapshot, "the file has become shorter"),
                     snapshot->n_units);
    close(fd);
    wire_snapshot_free(snapshot);
    wire_stream_free(stream);
    gw_listener_free(listener);
    move_clear(&move);
}

static void a_guest_that_is_still_coming_can_be_saved(void **state)
{
    struct gw_source *second;
    struct move move;
    g_autofree char *uri = NULL, *again = NULL;

    move_init(&move);
    fake_vm_park(&move.pair.source);
    uri = g_strdup_printf("file:%s/snapshot", move.pair.dir);
    again = g_strdup_printf("file:%s/again", move.pair.dir);
    save(&move, uri, GW_SOURCE_SAVED);
    restore_lazily(&move, uri);
    second = gw_snapshot_start(&move.pair.destination.vm, again, NULL, NULL, NULL);
    assert_true(gw_source_wait(second, after_ms(PATIENCE_MS)));
    gw_source_free(second);
    fake_vm_park(&move.pair.destination);
    assert_true(fake_pair_is_equal(&move.pair));
    g_clear_pointer(&move.destination, gw_destination_free);
    fake_vm_clear(&move.pair.destination);
    fake_vm_init(&move.pair.destination, "destination", &move.pair, FAKE_RAM_BYTES, 4);
    restore(&move, again);
    fake_vm_park(&move.pair.destination);
    assert_true(fake_pair_is_equal(&move.pair));
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
        cmocka_unit_test(live_snapshots_are_of_one_instant),
        cmocka_unit_test(discarded_pages_are_in_a_live_snapshot),
        cmocka_unit_test(lazy_restores_bring_everything),
        cmocka_unit_test(discarded_pages_stay_away),
        cmocka_unit_test(streams_are_never_lazy),
        cmocka_unit_test(a_damaged_page_is_never_given),
        cmocka_unit_test(changes_of_an_open_file_are_found),
        cmocka_unit_test(a_guest_that_is_still_coming_can_be_saved),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
