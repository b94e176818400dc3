/* SPDX-License-Identifier: MIT */
/* Every message survives encoding and decoding; everything outside of its range is refused. */
#include "fixture.h"

#include "wire/codec.h"

static uint64_t random_state = 42;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint64_t random_in(uint64_t min, uint64_t max)
{
    return max - min == UINT64_MAX ? random_u64() : min + random_u64() % (max - min + 1);
}

/* Writes a random valid encoding of the fields, edge values often. */
static void put_random(const struct wire_message_desc *desc, struct wire_writer *writer)
{
    for (const struct wire_field *f = desc->fields; f->name != NULL; f++) {
        if (f->kind == WIRE_STRING) {
            uint64_t len = random_in(f->min, MIN(f->max, f->min + 40));
            g_autofree char *text = g_strnfill(len, 'a' + (char)(random_u64() % 26));
            wire_put_string(writer, text, f->max, f->name);
        } else if (f->kind == WIRE_LIST) {
            uint64_t n = random_in(f->min, MIN(f->max, 5));
            wire_put_uint(writer, 4, n, f->name);
            for (uint64_t i = 0; i < n; i++) {
                put_random(f->element, writer);
            }
        } else {
            static const unsigned sizes[] = {
                [WIRE_U8] = 1, [WIRE_BOOL] = 1, [WIRE_U16] = 2, [WIRE_U32] = 4, [WIRE_U64] = 8};
            uint64_t edge = random_u64() % 4;
            uint64_t value = edge == 0 ? f->min : edge == 1 ? f->max : random_in(f->min, f->max);
            wire_put_uint(writer, sizes[f->kind], value, f->name);
        }
    }
}

static struct wire_message_desc without_check(const struct wire_message_desc *desc)
{
    struct wire_message_desc plain = *desc;
    plain.check = NULL;
    return plain;
}

static void every_message_comes_back(void **state)
{
    (void)state;
    size_t n_types = 0;
    const struct wire_record_type *types = wire_record_types(&n_types);

    for (size_t i = 0; i < n_types; i++) {
        if (types[i].message == NULL) {
            continue;
        }
        struct wire_message_desc desc = without_check(types[i].message);
        for (int round = 0; round < 50; round++) {
            struct wire_writer first, second;
            struct wire_reader reader;
            g_autofree void *message = g_malloc0(desc.size_bytes);
            wire_writer_init(&first, WIRE_MAX_PAYLOAD);
            wire_writer_init(&second, types[i].max_payload_bytes);
            put_random(&desc, &first);
            wire_reader_init(&reader, first.bytes->data, first.bytes->len);
            wire_decode_fields(&desc, message, &reader);
            if (reader.bad_field != NULL) {
                fail_msg("%s.%s: %s", types[i].name, reader.bad_field, reader.bad_why);
            }
            assert_int_equal(wire_reader_left(&reader), 0);
            wire_encode(&desc, message, &second);
            assert_false(second.has_failed);
            assert_int_equal(first.bytes->len, second.bytes->len);
            assert_memory_equal(first.bytes->data, second.bytes->data, first.bytes->len);
            wire_clear_fields(&desc, message);
            wire_writer_clear(&first);
            wire_writer_clear(&second);
        }
    }
}

/* A shorter payload fails in a named field, and leaves nothing behind (valgrind, ASan). */
static void every_cut_message_is_refused(void **state)
{
    (void)state;
    size_t n_types = 0;
    const struct wire_record_type *types = wire_record_types(&n_types);

    for (size_t i = 0; i < n_types; i++) {
        if (types[i].message == NULL) {
            continue;
        }
        struct wire_message_desc desc = without_check(types[i].message);
        struct wire_writer writer;
        g_autofree void *message = g_malloc0(desc.size_bytes);
        wire_writer_init(&writer, WIRE_MAX_PAYLOAD);
        put_random(&desc, &writer);
        for (size_t len = 0; len < writer.bytes->len; len++) {
            struct wire_reader reader;
            wire_reader_init(&reader, writer.bytes->data, len);
            wire_decode_fields(&desc, message, &reader);
            assert_non_null(reader.bad_field);
            assert_int_equal(reader.bad_code, GW_ERROR_CORRUPT);
            wire_clear_fields(&desc, message);
        }
        wire_writer_clear(&writer);
    }
}

static void random_bytes_never_hurt(void **state)
{
    (void)state;
    size_t n_types = 0;
    const struct wire_record_type *types = wire_record_types(&n_types);
    uint8_t bytes[512];

    for (size_t i = 0; i < n_types; i++) {
        if (types[i].message == NULL) {
            continue;
        }
        const struct wire_message_desc *desc = types[i].message;
        g_autofree void *message = g_malloc0(desc->size_bytes);
        for (int round = 0; round < 300; round++) {
            struct wire_reader reader;
            size_t len = (size_t)(random_u64() % sizeof(bytes));
            for (size_t k = 0; k < len; k++) {
                bytes[k] = random_u64() % 3 != 0 ? 0 : (uint8_t)random_u64();
            }
            wire_reader_init(&reader, bytes, len);
            wire_decode_fields(desc, message, &reader);
            wire_clear_fields(desc, message);
        }
    }
}

static void lists_are_bounded_by_what_is_there(void **state)
{
    (void)state;
    const struct wire_message_desc *desc = wire_record_type_of(WIRE_RESEND)->message;
    struct wire_resend resend = {0};
    struct wire_reader reader;
    struct wire_writer writer;

    wire_writer_init(&writer, 100);
    wire_put_uint(&writer, 4, 1, "round");
    wire_put_uint(&writer, 4, 0, "block");
    wire_put_uint(&writer, 4, WIRE_MAX_RESEND_RUNS, "runs"); /* and none follows */
    wire_reader_init(&reader, writer.bytes->data, writer.bytes->len);
    wire_decode_fields(desc, &resend, &reader);
    assert_string_equal(reader.bad_field, "runs");
    assert_null(resend.runs);
    wire_store_u32(writer.bytes->data + 8, WIRE_MAX_RESEND_RUNS + 1);
    wire_reader_init(&reader, writer.bytes->data, writer.bytes->len);
    wire_decode_fields(desc, &resend, &reader);
    assert_int_equal(reader.bad_code, GW_ERROR_LIMIT);
    wire_writer_clear(&writer);
}

static void strings_are_text(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        bool is_good;
    } cases[] = {
        {"\5\0hello", 7, true},  {"\2\0\xC3\xA9", 4, true}, {"\2\0\xC3(", 4, false},
        {"\3\0a\0b", 5, false},  {"\0\0", 2, true},         {"\1\0\xFF", 3, false},
        {"\6\0hello", 7, false},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct wire_reader reader;
        wire_reader_init(&reader, cases[i].bytes, cases[i].len);
        g_autofree char *text = wire_get_string(&reader, 0, 100, "text");
        assert_int_equal(text != NULL, cases[i].is_good);
        assert_int_equal(reader.bad_field == NULL, cases[i].is_good);
    }
}

/* ---- rules between fields ---- */

/* field: the one that is refused, or NULL. */
static void check_rules(enum wire_type type, const void *message, const char *field,
                        const char *why)
{
    const struct wire_message_desc *desc = wire_record_type_of(type)->message;
    g_autofree void *copy = g_malloc0(desc->size_bytes);
    struct wire_reader reader;
    struct wire_writer writer;

    wire_writer_init(&writer, WIRE_MAX_PAYLOAD);
    wire_encode(desc, message, &writer);
    assert_false(writer.has_failed);
    wire_reader_init(&reader, writer.bytes->data, writer.bytes->len);
    wire_decode_fields(desc, copy, &reader);
    if (field == NULL) {
        assert_null(reader.bad_field);
    } else {
        assert_non_null(reader.bad_field);
        assert_string_equal(reader.bad_field, field);
        assert_non_null(strstr(reader.bad_why, why));
    }
    wire_clear_fields(desc, copy);
    wire_writer_clear(&writer);
}

static void check_map(const struct wire_ram_map *map, const char *field, const char *why)
{
    check_rules(WIRE_RAM_MAP, map, field, why);
}

static void ram_maps(void **state)
{
    (void)state;
    struct wire_extent extents[] = {{0, 4}, {8, 8}};
    struct wire_ram_block blocks[] = {
        {.index = 0,
         .gpa = 0x1000,
         .size_bytes = 0x10000,
         .name = (char *)"a",
         .n_extents = 2,
         .extents = extents},
        {.index = 1, .gpa = 0x11000, .size_bytes = 0x1000, .name = (char *)"b"},
        {.index = 2, .gpa = WIRE_GPA_NONE, .size_bytes = 0x1000, .name = (char *)"c"},
    };
    const struct wire_ram_map good = {.total_bytes = 0x12000, .n_blocks = 3, .blocks = blocks};
    struct wire_ram_map map = good;

    check_map(&map, NULL, NULL);
    map.total_bytes++;
    check_map(&map, "total_bytes", "but the blocks have");
    map = good;
    blocks[1].index = 2;
    check_map(&map, "blocks.index", "2 at position 1");
    blocks[1].index = 1;
    blocks[1].gpa = 0x10000;
    check_map(&map, "blocks", "0 and 1 overlap");
    blocks[1].gpa = 0x11800;
    check_map(&map, "blocks.gpa", "not aligned");
    blocks[1].gpa = UINT64_MAX - 0xFFF;
    check_map(&map, "blocks.gpa", "too high");
    blocks[1].gpa = 0x11000;
    blocks[1].name = (char *)"a";
    check_map(&map, "blocks", "one name");
    blocks[1].name = (char *)"b";
    blocks[1].size_bytes = 0x1001;
    check_map(&map, "blocks.size_bytes", "no multiple");
    blocks[1].size_bytes = 0x1000;
    extents[1].first_page = 3;
    check_map(&map, "blocks.extents", "out of order");
    extents[1] = (struct wire_extent){8, 9};
    check_map(&map, "blocks.extents", "8+9 in block 0");
    extents[1] = (struct wire_extent){8, 0};
    check_map(&map, "blocks.extents", "is empty");
    extents[1] = (struct wire_extent){UINT64_MAX, UINT64_MAX};
    check_map(&map, "blocks.extents", "out of");
}

static void fault_waits(void **state)
{
    (void)state;
    struct wire_fault_wait threads[] = {{(char *)"hart-0", 3, 30, 5, 9, 9},
                                        {(char *)"", INT64_MAX, INT64_MAX, 0, 0, INT64_MAX}};
    const struct wire_fault_waits waits = {4, 5, 9, 9, 2, threads};
    struct wire_fault_waits wrong = waits;

    check_rules(WIRE_FAULT_WAITS, &waits, NULL, NULL);
    threads[0].name = (char *)"a\x1b[2J";
    check_rules(WIRE_FAULT_WAITS, &waits, "threads.name", "byte 0x1b");
    threads[0].name = (char *)"caf\xC3\xA9";
    check_rules(WIRE_FAULT_WAITS, &waits, "threads.name", "byte 0xc3");
    threads[0].name = (char *)"x ~";
    threads[0].p50_ns = 10;
    check_rules(WIRE_FAULT_WAITS, &waits, "max_ns", "10, 9, 9 do not ascend");
    threads[0].p50_ns = 9;
    threads[0].p99_ns = 10;
    check_rules(WIRE_FAULT_WAITS, &waits, "max_ns", "9, 10, 9 do not ascend");
    threads[0].p99_ns = 9;
    wrong.max_ns = 8;
    check_rules(WIRE_FAULT_WAITS, &wrong, "max_ns", "5, 9, 8 do not ascend");
}

/* The number at an offset of FAULT_WAITS, and the field that refuses it. */
static void fault_waits_are_bounded(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        unsigned n_bytes;
        uint64_t value;
        const char *field;
        enum gw_error_code code;
    } cases[] = {
        {0, 8, UINT64_C(1) << 63, "faults", GW_ERROR_LIMIT},
        {24, 8, UINT64_MAX, "max_ns", GW_ERROR_LIMIT},
        {32, 4, WIRE_MAX_FAULT_WAITS + 1, "threads", GW_ERROR_LIMIT},
        {32, 4, WIRE_MAX_FAULT_WAITS, "threads", GW_ERROR_CORRUPT}, /* they are not there */
        {32, 4, 2, "threads", GW_ERROR_CORRUPT},
        {36, 2, WIRE_MAX_THREAD_NAME + 1, "name", GW_ERROR_LIMIT},
        {36 + 2 + 15 + 8, 8, UINT64_C(1) << 63, "stall_ns", GW_ERROR_LIMIT},
    };
    const struct wire_message_desc *desc = wire_record_type_of(WIRE_FAULT_WAITS)->message;
    struct wire_fault_wait thread = {.name = (char *)"fifteen letters"};
    const struct wire_fault_waits waits = {.n_threads = 1, .threads = &thread};

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct wire_fault_waits copy = {0};
        struct wire_reader reader;
        struct wire_writer writer;
        uint8_t value[8];

        wire_writer_init(&writer, WIRE_MAX_PAYLOAD);
        wire_encode(desc, &waits, &writer);
        assert_false(writer.has_failed);
        wire_store_u64(value, cases[i].value);
        memcpy(writer.bytes->data + cases[i].at, value, cases[i].n_bytes);
        wire_reader_init(&reader, writer.bytes->data, writer.bytes->len);
        wire_decode_fields(desc, &copy, &reader);
        assert_non_null(reader.bad_field);
        assert_string_equal(reader.bad_field, cases[i].field);
        assert_int_equal(reader.bad_code, cases[i].code);
        wire_clear_fields(desc, &copy);
        wire_writer_clear(&writer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_comes_back),
        cmocka_unit_test(every_cut_message_is_refused),
        cmocka_unit_test(random_bytes_never_hurt),
        cmocka_unit_test(lists_are_bounded_by_what_is_there),
        cmocka_unit_test(strings_are_text),
        cmocka_unit_test(ram_maps),
        cmocka_unit_test(fault_waits),
        cmocka_unit_test(fault_waits_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
