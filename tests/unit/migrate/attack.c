/* SPDX-License-Identifier: MIT */
/* A source of our own making, up to the point where it begins to lie. */
#include "attack.h"

static struct gw_channel *connect_through(struct move *move, const char *filter)
{
    g_autofree char *uri = g_strconcat(filter ? filter : "", move->pair.uri, NULL);
    g_autoptr(GError) error = NULL;
    struct gw_channel_options options = {.deadline_ns = (int64_t)after_ms(PATIENCE_MS),
                                         .silence_ms = PATIENCE_MS};
    struct gw_channel *channel = gw_channel_connect(uri, &options, &error);

    if (!channel)
        fail_msg("%s", error->message);
    return channel;
}

struct gw_channel *connect_to(struct move *move)
{
    return connect_through(move, NULL);
}

static struct wire_stream *open_stream_through(struct move *move, const char *filter,
                                               enum wire_role role, uint16_t index,
                                               const uint8_t *id)
{
    struct wire_identity identity = {.role = role, .index = index};
    struct wire_stream *stream;

    memcpy(identity.migration_id, id, WIRE_ID_BYTES);
    stream = wire_stream_new(connect_through(move, filter), &identity, WIRE_SIDE_SOURCE);
    if (!wire_stream_open(stream, (int64_t)after_ms(PATIENCE_MS), NULL)) {
        wire_stream_free(stream);
        return NULL;
    }
    return stream;
}

struct wire_stream *open_stream(struct move *move, enum wire_role role, uint16_t index,
                                const uint8_t *id)
{
    return open_stream_through(move, NULL, role, index, id);
}

void expect_end(struct gw_channel *channel)
{
    char bytes[256];

    while (gw_channel_read_some(channel, bytes, sizeof bytes, (int64_t)after_ms(PATIENCE_MS),
                                NULL) > 0)
        continue;
}

void check_still_works(struct move *move)
{
    move_start_source(move);
    move_finish(move);
    expect_source_state(move, GW_SOURCE_COMPLETED);
    check_one_owner(move);
}

static void await(struct wire_stream *stream, enum wire_type type, struct wire_record *record)
{
    g_autoptr(GError) error = NULL;

    do {
        if (!wire_receive(stream, record, limit_ns(), &error))
            fail_msg("%s", error->message);
    } while (record->type->type != type);
}

void await_record(struct wire_stream *stream, enum wire_type type)
{
    struct wire_record record = {0};

    await(stream, type, &record);
}

void await_message(struct wire_stream *stream, enum wire_type type, void *message, size_t n_bytes)
{
    struct wire_record record = {0};

    await(stream, type, &record);
    assert_true(wire_decode_sized(&record, message, n_bytes, NULL));
}

void say_hello(struct attack *attack, uint32_t page_channels)
{
    struct wire_hello hello = {.page_shift = 12,
                               .max_packet_pages = 256,
                               .page_channels = page_channels,
                               .features = 1 | attack->features,
                               .software = (char *)"x",
                               .machine = (char *)"",
                               .vm_name = (char *)"",
                               .host = (char *)""};

    wire_new_migration_id(attack->id);
    attack->control = open_stream(attack->move, WIRE_ROLE_CONTROL, 0, attack->id);
    assert_non_null(attack->control);
    SEND(attack->control, WIRE_HELLO, &hello);
    await_record(attack->control, WIRE_HELLO);
}

void send_schema(struct attack *attack)
{
    struct gw_schema *schema = gw_schema_new(attack->move->pair.source.registry);
    g_autoptr(GByteArray) bytes = gw_schema_encode(schema);

    assert_true(wire_send_section(attack->control, WIRE_SECTION_SCHEMA, "schema", 0, 1, 0,
                                  bytes->data, bytes->len, limit_ns(), NULL));
    gw_schema_free(schema);
}

void send_ram_map(struct attack *attack)
{
    const struct gw_memory *memory = attack->move->pair.source.memory;
    struct wire_ram_block blocks[2] = {0};
    struct wire_ram_map map = {.n_blocks = gw_memory_n_blocks(memory), .blocks = blocks};

    assert_int_equal(map.n_blocks, 2);
    for (uint32_t i = 0; i < map.n_blocks; i++) {
        const struct gw_ram_block *block = gw_memory_block(memory, i);

        blocks[i] = (struct wire_ram_block){.index = i,
                                            .gpa = block->gpa,
                                            .size_bytes = block->size_bytes,
                                            .name = (char *)block->name};
        map.total_bytes += block->size_bytes;
    }
    SEND(attack->control, WIRE_RAM_MAP, &map);
}

void open_page_channel(struct attack *attack)
{
    attack->page =
        open_stream_through(attack->move, attack->page_filter, WIRE_ROLE_PAGE, 0, attack->id);
    assert_non_null(attack->page);
    wire_stream_set_phase(attack->control, WIRE_IN_ROUNDS);
    wire_stream_set_phase(attack->page, WIRE_IN_ROUNDS);
}

void attack_begin(struct attack *attack, struct move *move)
{
    attack->move = move;
    say_hello(attack, 1);
    send_schema(attack);
    send_ram_map(attack);
    await_record(attack->control, WIRE_SCHEMA_VERDICT);
    open_page_channel(attack);
}

void send_state(struct attack *attack, uint32_t round)
{
    const struct gw_state_registry *registry = attack->move->pair.source.registry;
    struct wire_switchover_begin begin = {.attempt = 1, .round = round};
    struct wire_state_end end;

    wire_stream_set_phase(attack->control, WIRE_IN_BLACKOUT);
    SEND(attack->control, WIRE_SWITCHOVER_BEGIN, &begin);
    wire_state_begin(attack->control, 1);
    for (uint32_t i = 0; i < gw_state_registry_n(registry); i++) {
        g_autoptr(GByteArray) bytes = g_byte_array_new();

        assert_true(gw_state_save(registry, i, bytes, NULL));
        assert_true(wire_send_section(attack->control, WIRE_SECTION_DEVICE,
                                      gw_state_registry_id(registry, i), 0, 1, 1, bytes->data,
                                      bytes->len, limit_ns(), NULL));
    }
    assert_true(wire_send_state_end(attack->control, &end, limit_ns(), NULL));
    attack->state_digest = end.digest;
}

void attack_end(struct attack *attack)
{
    if (attack->page)
        wire_stream_free(attack->page);
    g_free(attack->page_filter);
    wire_stream_free(attack->control);
}
