/* SPDX-License-Identifier: MIT */
/* A destination that strangers talk to: nothing they say disturbs a migration or runs a guest. */
#include "harness.h"

#include <string.h>

#include "wire/section.h"
#include "wire/wire.h"

static struct gw_channel *connect_to(struct move *move)
{
    g_autoptr(GError) error = NULL;
    struct gw_channel_options options = {.deadline_ns = (int64_t)after_ms(PATIENCE_MS),
                                         .silence_ms = PATIENCE_MS};
    struct gw_channel *channel = gw_channel_connect(move->pair.uri, &options, &error);

    if (!channel)
        fail_msg("%s", error->message);
    return channel;
}

static struct wire_stream *open_stream(struct move *move, enum wire_role role, uint16_t index,
                                       const uint8_t *id)
{
    struct wire_identity identity = {.role = role, .index = index};
    struct wire_stream *stream;

    memcpy(identity.migration_id, id, WIRE_ID_BYTES);
    stream = wire_stream_new(connect_to(move), &identity, WIRE_SIDE_SOURCE);
    if (!wire_stream_open(stream, (int64_t)after_ms(PATIENCE_MS), NULL)) {
        wire_stream_free(stream);
        return NULL;
    }
    return stream;
}

/* The peer ends the channel; whatever it says before is passed over. */
static void expect_end(struct gw_channel *channel)
{
    char bytes[256];

    while (gw_channel_read_some(channel, bytes, sizeof bytes, (int64_t)after_ms(PATIENCE_MS),
                                NULL) > 0)
        continue;
}

static void check_still_works(struct move *move)
{
    move_start_source(move);
    move_finish(move);
    expect_source_state(move, GW_SOURCE_COMPLETED);
    check_one_owner(move);
}

static void silent_strangers_are_dropped(void **state)
{
    struct move move;
    struct gw_channel *strangers[20];

    move_init(&move);
    move.destination_params.silence_limit_ns = 500 * NS_PER_MS;
    move_start_destination(&move);
    for (unsigned i = 0; i < 20; i++)
        strangers[i] = connect_to(&move);
    for (unsigned i = 0; i < 20; i++)
        expect_end(strangers[i]);
    for (unsigned i = 0; i < 20; i++)
        gw_channel_free(strangers[i]);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_LISTENING);
    move.destination_params.silence_limit_ns = 0;
    check_still_works(&move);
    move_clear(&move);
}

static void nonsense_is_dropped(void **state)
{
    struct move move;
    struct gw_channel *stranger;
    char bytes[4096];

    move_init(&move);
    move_start_destination(&move);
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * 7);
    stranger = connect_to(&move);
    gw_channel_write_full(stranger, bytes, sizeof bytes, (int64_t)after_ms(PATIENCE_MS), NULL);
    expect_end(stranger);
    gw_channel_free(stranger);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_LISTENING);
    check_still_works(&move);
    move_clear(&move);
}

/* A control channel that says nothing after its preamble. */
static void half_a_handshake_is_dropped(void **state)
{
    struct move move;
    struct wire_stream *stream;
    uint8_t id[WIRE_ID_BYTES];

    move_init(&move);
    move.destination_params.silence_limit_ns = 500 * NS_PER_MS;
    move_start_destination(&move);
    wire_new_migration_id(id);
    stream = open_stream(&move, WIRE_ROLE_CONTROL, 0, id);
    assert_non_null(stream);
    expect_end(wire_stream_channel(stream));
    wire_stream_free(stream);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_LISTENING);
    move_clear(&move);
}

/* HELLO, and then keep-alives for ever. */
static void unfinished_handshake_times_out(void **state)
{
    struct move move;
    struct wire_stream *stream;
    struct wire_hello hello = {.page_shift = 12,
                               .max_packet_pages = 256,
                               .page_channels = 1,
                               .software = (char *)"x",
                               .machine = (char *)"",
                               .vm_name = (char *)"",
                               .host = (char *)""};
    struct wire_keepalive keepalive = {0};
    uint8_t id[WIRE_ID_BYTES];

    move_init(&move);
    move.destination_params.silence_limit_ns = 700 * NS_PER_MS;
    move_start_destination(&move);
    wire_new_migration_id(id);
    stream = open_stream(&move, WIRE_ROLE_CONTROL, 0, id);
    assert_non_null(stream);
    assert_true(wire_send(stream, WIRE_HELLO, &hello, GW_NO_DEADLINE, NULL));
    for (uint64_t limit = after_ms(PATIENCE_MS);
         destination_status_of(&move).state != GW_DESTINATION_DISOWNED;) {
        assert_true(clock_mono_ns() < limit);
        if (!wire_send(stream, WIRE_KEEPALIVE, &keepalive, GW_NO_DEADLINE, NULL))
            assert_true(gw_destination_wait(move.destination, limit));
        gw_destination_wait(move.destination, after_ms(50));
    }
    assert_int_equal(destination_status_of(&move).failure.code, GW_ERROR_TIMEOUT);
    wire_stream_free(stream);
    move.destination_params.silence_limit_ns = 0;
    check_still_works(&move);
    move_clear(&move);
}

/* Page channels need the id of the migration under way and an index that was agreed on. */
static void page_channels_need_the_right_id(void **state)
{
    struct move move;
    uint8_t id[WIRE_ID_BYTES];
    struct gw_source_status status;

    move_init(&move);
    move_start_destination(&move);
    wire_new_migration_id(id);
    assert_null(open_stream(&move, WIRE_ROLE_PAGE, 0, id)); /* nothing is under way */
    move.source_params.max_blackout_ns = 1;
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); atomic_load(&move.n_rounds) < 2;)
        assert_true(clock_mono_ns() < limit);
    assert_null(open_stream(&move, WIRE_ROLE_PAGE, 0, id)); /* another id */
    status = source_status_of(&move);
    assert_null(open_stream(&move, WIRE_ROLE_PAGE, 0, status.migration_id));   /* taken */
    assert_null(open_stream(&move, WIRE_ROLE_PAGE, 7, status.migration_id));   /* not agreed */
    assert_null(open_stream(&move, WIRE_ROLE_URGENT, 0, status.migration_id)); /* not agreed */
    assert_int_equal(source_state_of(&move), GW_SOURCE_ROUNDS);
    gw_source_set_budgets(move.source,
                          &(struct gw_migrate_params){.max_blackout_ns = 30 * NS_PER_S});
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    move_clear(&move);
}

/* A stranger asks who owns a migration that nobody knows. */
static void unknown_migrations_are_unknown(void **state)
{
    struct move move;
    struct wire_stream *stream;
    struct wire_query_owner query = {.demands_decision = true};
    struct wire_owner_answer answer = {0};
    uint8_t id[WIRE_ID_BYTES];

    move_init(&move);
    move_start_destination(&move);
    wire_new_migration_id(id);
    stream = open_stream(&move, WIRE_ROLE_CONTROL, 0, id);
    assert_non_null(stream);
    wire_stream_set_phase(stream, WIRE_IN_OWNER);
    assert_true(wire_send(stream, WIRE_QUERY_OWNER, &query, GW_NO_DEADLINE, NULL));
    assert_true(wire_expect(stream, WIRE_OWNER_ANSWER, &answer, GW_NO_DEADLINE, NULL));
    assert_int_equal(answer.answer, WIRE_OWNER_UNKNOWN);
    wire_message_clear(WIRE_OWNER_ANSWER, &answer);
    wire_stream_free(stream);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_LISTENING);
    check_still_works(&move);
    move_clear(&move);
}

/* COMMIT without anything before it runs nothing. */
static void commit_out_of_the_blue_runs_nothing(void **state)
{
    struct move move;
    struct wire_stream *stream;
    struct wire_hello hello = {.page_shift = 12,
                               .max_packet_pages = 256,
                               .software = (char *)"x",
                               .machine = (char *)"",
                               .vm_name = (char *)"",
                               .host = (char *)""};
    struct wire_commit commit = {.attempt = 1};
    uint8_t id[WIRE_ID_BYTES];

    move_init(&move);
    move_start_destination(&move);
    wire_new_migration_id(id);
    stream = open_stream(&move, WIRE_ROLE_CONTROL, 0, id);
    assert_non_null(stream);
    assert_true(wire_send(stream, WIRE_HELLO, &hello, GW_NO_DEADLINE, NULL));
    wire_stream_set_phase(stream, WIRE_IN_COMMITTED);
    assert_true(wire_send(stream, WIRE_COMMIT, &commit, GW_NO_DEADLINE, NULL));
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_DISOWNED);
    assert_int_equal(move.pair.destination.n_runs, 0);
    wire_stream_free(stream);
    check_still_works(&move);
    move_clear(&move);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silent_strangers_are_dropped),
        cmocka_unit_test(nonsense_is_dropped),
        cmocka_unit_test(half_a_handshake_is_dropped),
        cmocka_unit_test(unfinished_handshake_times_out),
        cmocka_unit_test(page_channels_need_the_right_id),
        cmocka_unit_test(unknown_migrations_are_unknown),
        cmocka_unit_test(commit_out_of_the_blue_runs_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
