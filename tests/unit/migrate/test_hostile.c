/* SPDX-License-Identifier: MIT */
/* A destination that strangers talk to: nothing they say disturbs a migration or runs a guest. */
#include "attack.h"

static void silent_strangers_are_dropped(void **state)
{
    struct move move;
    struct gw_channel *strangers[20];

    move_init(&move);
    move.destination_params.silence_limit_ns = 2 * NS_PER_S;
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
    move.destination_params.silence_limit_ns = 2 * NS_PER_S;
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
    move.destination_params.silence_limit_ns = 2 * NS_PER_S;
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

#define VOID_FEATURES (UINT64_C(1) << WIRE_FEATURE_URGENT | UINT64_C(1) << WIRE_FEATURE_VOID_ROUNDS)

static void send_round_begin(struct attack *attack, uint32_t round)
{
    struct wire_round_begin begin = {.round = round, .flags = WIRE_ROUND_GUEST_STOPPED};

    SEND(attack->page, WIRE_ROUND_BEGIN, &begin);
}

static void send_empty_round(struct attack *attack, uint32_t round)
{
    struct wire_round_end end = {.round = round};

    send_round_begin(attack, round);
    SEND(attack->page, WIRE_ROUND_END, &end);
}

/* A record of PAGES with one page of 0xEE. */
static void send_poison(struct attack *attack, uint32_t round, uint64_t deadline_ns)
{
    struct wire_pages_out *packet = wire_pages_out_new();
    uint8_t page[WIRE_PAGE_BYTES];

    memset(page, 0xEE, sizeof page);
    wire_pages_begin(packet, round, 0);
    assert_true(wire_pages_add(packet, 0, page));
    wire_pages_send(packet, attack->page, (int64_t)deadline_ns, NULL); /* need not get through */
    wire_pages_out_free(packet);
}

/* The guest's memory is the guest's once it runs: no page channel writes it any more. */
static void pages_after_commit_are_not_written(void **state)
{
    struct move move;
    struct attack attack = {0};
    struct wire_commit commit = {.attempt = 1};
    uint8_t first;

    move_init(&move);
    fake_vm_park(&move.pair.source); /* what it saves stands still */
    move_start_destination(&move);
    attack_begin(&attack, &move);
    send_empty_round(&attack, 1);
    await_record(attack.control, WIRE_ROUND_ACK);
    send_state(&attack, 1);
    await_record(attack.control, WIRE_LOADED);
    commit.state_digest = attack.state_digest;
    wire_stream_set_phase(attack.control, WIRE_IN_COMMITTED);
    SEND(attack.control, WIRE_COMMIT, &commit);
    await_record(attack.control, WIRE_RUNNING);
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    send_round_begin(&attack, 2);
    send_poison(&attack, 2, after_ms(PATIENCE_MS));
    expect_end(wire_stream_channel(attack.page));
    assert_true(gw_memory_read(move.pair.destination.memory, 0, &first, 1));
    assert_int_not_equal(first, 0xEE);
    attack_end(&attack);
    move_clear(&move);
}

/* Void rounds are agreed, stand alone, and bring nothing. */
static void void_rounds_keep_to_their_rules(void **state)
{
    static const struct {
        uint64_t features;
        uint32_t flags;
    } cases[] = {
        {0, WIRE_ROUND_VOID},
        {VOID_FEATURES, WIRE_ROUND_VOID | WIRE_ROUND_GUEST_STOPPED},
        {VOID_FEATURES, WIRE_ROUND_VOID | WIRE_ROUND_GUEST_STOPPED | WIRE_ROUND_POSTCOPY},
        {VOID_FEATURES, WIRE_ROUND_VOID},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct move move;
        struct attack attack = {.features = cases[i].features};
        struct wire_round_begin begin = {.round = 1, .flags = cases[i].flags};
        uint8_t first = 0;

        move_init(&move);
        move_start_destination(&move);
        attack_begin(&attack, &move);
        SEND(attack.page, WIRE_ROUND_BEGIN, &begin);
        send_poison(&attack, 1, after_ms(PATIENCE_MS));
        expect_end(wire_stream_channel(attack.page));
        assert_true(gw_memory_read(move.pair.destination.memory, 0, &first, 1));
        assert_int_equal(first, 0);
        attack_end(&attack);
        move_clear(&move);
    }
}

/* What is void reads as zero there, and takes no room. */
static void void_pages_are_gone(void **state)
{
    struct move move;
    struct attack attack = {.features = VOID_FEATURES};
    struct wire_round_begin begin = {.round = 1, .flags = WIRE_ROUND_VOID};
    struct wire_round_end end = {.round = 1, .n_pages = 2, .n_packets = 1};
    struct wire_pages_out *packet = wire_pages_out_new();
    struct gw_ram_block *block;
    uint8_t bytes[3 * GW_PAGE_SIZE];

    move_init(&move);
    block = gw_memory_block(move.pair.destination.memory, 0);
    assert_true(gw_memory_populate(block, 0, block->size_bytes, NULL)); /* else cleared before */
    move_start_destination(&move);
    attack_begin(&attack, &move);
    memset(bytes, 0xAB, sizeof bytes);
    gw_memory_write(move.pair.destination.memory, 0, bytes, sizeof bytes);
    SEND(attack.page, WIRE_ROUND_BEGIN, &begin);
    wire_pages_begin(packet, 1, 0);
    assert_true(wire_pages_add_zero(packet, 0));
    assert_true(wire_pages_add_zero(packet, 2));
    end.n_bytes = wire_pages_record_bytes(packet);
    assert_true(wire_pages_send(packet, attack.page, GW_NO_DEADLINE, NULL));
    SEND(attack.page, WIRE_ROUND_END, &end);
    await_record(attack.control, WIRE_ROUND_ACK);
    assert_int_equal(gw_memory_touched_mask(block, 0, 3), 2);
    assert_true(gw_memory_read(move.pair.destination.memory, GW_PAGE_SIZE, bytes, 1));
    assert_int_equal(bytes[0], 0xAB);
    wire_pages_out_free(packet);
    attack_end(&attack);
    move_clear(&move);
}

/* A page channel that stops in the middle of a packet does not keep COMMIT waiting. */
static void a_half_packet_does_not_hold_up_the_guest(void **state)
{
    struct move move;
    struct attack attack = {0};
    struct wire_commit commit = {.attempt = 1};
    /* Where the page channel stalls: preamble, an empty round, ROUND_BEGIN, and of the packet all
     * but half of its page. */
    const unsigned n_bytes = 64 + (32 + 16) + (32 + 28) + (32 + 16) + (32 + 24 + 12 + 8) + 2048;

    move_init(&move);
    fake_vm_park(&move.pair.source);
    move_start_destination(&move);
    attack.page_filter = g_strdup_printf("fault:stall@bytes=%u@out,", n_bytes);
    attack_begin(&attack, &move);
    send_empty_round(&attack, 1);
    await_record(attack.control, WIRE_ROUND_ACK);
    send_state(&attack, 1);
    await_record(attack.control, WIRE_LOADED);
    send_round_begin(&attack, 2);
    send_poison(&attack, 2, after_ms(50));
    commit.state_digest = attack.state_digest;
    wire_stream_set_phase(attack.control, WIRE_IN_COMMITTED);
    SEND(attack.control, WIRE_COMMIT, &commit);
    await_record(attack.control, WIRE_RUNNING);
    attack_end(&attack);
    move_clear(&move);
}

/* Who asks the time for ever and never reads the answers is cut off, long before memory is full. */
static void answers_nobody_reads_are_bounded(void **state)
{
    struct move move;
    struct attack attack = {.move = &move};
    struct wire_clock_ping ping = {0};
    uint64_t n_sent = 0;

    move_init(&move);
    move_start_destination(&move);
    say_hello(&attack, 0);
    while (wire_send(attack.control, WIRE_CLOCK_PING, &ping, limit_ns(), NULL))
        assert_true(++n_sent < 1000000);
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_DISOWNED);
    assert_int_equal(destination_status_of(&move).failure.code, GW_ERROR_LIMIT);
    attack_end(&attack);
    check_still_works(&move);
    move_clear(&move);
}

/* Second control channels, with another id or the same, get a reason and change nothing; those that
 * do not listen to it keep nobody waiting. */
static void second_control_channels_are_turned_away(void **state)
{
    struct move move;
    struct wire_stream *others[8];
    struct attack attack = {.move = &move};
    struct gw_source_status status;

    move_init(&move);
    move_start_destination(&move);
    move.source_params.max_blackout_ns = 1;
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); atomic_load(&move.n_rounds) < 2;)
        assert_true(clock_mono_ns() < limit);
    status = source_status_of(&move);
    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
        struct wire_hello hello = {.page_shift = 12,
                                   .max_packet_pages = 256,
                                   .software = (char *)"x",
                                   .machine = (char *)"",
                                   .vm_name = (char *)"",
                                   .host = (char *)""};

        wire_new_migration_id(attack.id);
        others[i] = open_stream(&move, WIRE_ROLE_CONTROL, 0, i ? attack.id : status.migration_id);
        assert_non_null(others[i]);
        SEND(others[i], WIRE_HELLO, &hello);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++)
        await_record(others[i], WIRE_ABORT);
    assert_int_equal(source_state_of(&move), GW_SOURCE_ROUNDS);
    gw_source_set_budgets(move.source,
                          &(struct gw_migrate_params){.max_blackout_ns = 30 * NS_PER_S});
    move_finish(&move);
    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++)
        wire_stream_free(others[i]);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    move_clear(&move);
}

/* Sizes that are declared are never allocated: a schema, a RAM map, blocks that are not ours. */
static void declared_sizes_are_refused(void **state)
{
    struct wire_ram_block blocks[2] = {
        {.gpa = 0, .size_bytes = UINT64_C(15) << 40, .name = (char *)"ram"},
        {.index = 1,
         .gpa = UINT64_C(16) << 40,
         .size_bytes = UINT64_C(15) << 40,
         .name = (char *)"more"},
    };
    struct wire_ram_map map = {.total_bytes = UINT64_C(30) << 40, .n_blocks = 2, .blocks = blocks};
    struct wire_section_begin begin = {
        .kind = WIRE_SECTION_SCHEMA, .n_bytes = UINT64_C(16) << 20, .name = (char *)"schema"};
    struct move move;
    struct attack attack = {.move = &move};

    move_init(&move);
    move_start_destination(&move);
    say_hello(&attack, 0);
    send_schema(&attack);
    SEND(attack.control, WIRE_RAM_MAP, &map);
    await_record(attack.control, WIRE_SCHEMA_VERDICT);
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    assert_int_equal(destination_status_of(&move).failure.code, GW_ERROR_REFUSED);
    attack_end(&attack);
    attack = (struct attack){.move = &move};
    say_hello(&attack, 0);
    begin.n_bytes++; /* one more than a schema may have */
    SEND(attack.control, WIRE_SECTION_BEGIN, &begin);
    expect_end(wire_stream_channel(attack.control));
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    assert_int_equal(destination_status_of(&move).failure.code, GW_ERROR_LIMIT);
    attack_end(&attack);
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
        cmocka_unit_test(pages_after_commit_are_not_written),
        cmocka_unit_test(void_rounds_keep_to_their_rules),
        cmocka_unit_test(void_pages_are_gone),
        cmocka_unit_test(a_half_packet_does_not_hold_up_the_guest),
        cmocka_unit_test(answers_nobody_reads_are_bounded),
        cmocka_unit_test(second_control_channels_are_turned_away),
        cmocka_unit_test(declared_sizes_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
