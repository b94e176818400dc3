/* SPDX-License-Identifier: MIT */
/* Every kind of field: save, load, constraint. */
#include "state_test.h"

/* ---- scalars ---- */

enum color { RED, GREEN, BLUE };

struct scalars {
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    int8_t i8;
    int16_t i16;
    int32_t i32;
    int64_t i64;
    bool yes;
    bool no;
    enum color color;
    int64_t timer;
    int64_t no_timer;
    _Atomic uint32_t atomic;
    uint32_t private_member; /* not described: must survive */
};

static const struct gw_field scalars_fields[] = {
    GW_U8(struct scalars, u8),
    GW_U16(struct scalars, u16),
    GW_U32(struct scalars, u32),
    GW_U64(struct scalars, u64),
    GW_I8(struct scalars, i8),
    GW_I16(struct scalars, i16),
    GW_I32(struct scalars, i32),
    GW_I64(struct scalars, i64),
    GW_BOOL(struct scalars, yes),
    GW_BOOL(struct scalars, no),
    GW_ENUM(struct scalars, color, 3),
    GW_TIMER(struct scalars, timer),
    GW_TIMER(struct scalars, no_timer),
    GW_U32(struct scalars, atomic),
    GW_FIELDS_END,
};
static const struct gw_state_desc scalars_desc = {
    .name = "scalars",
    .version = 1,
    .object_size = sizeof(struct scalars),
    .fields = scalars_fields,
};

static void scalars_move(void **state)
{
    struct scalars from = {
        .u8 = UINT8_MAX,
        .u16 = UINT16_MAX,
        .u32 = UINT32_MAX,
        .u64 = UINT64_MAX,
        .i8 = INT8_MIN,
        .i16 = INT16_MIN,
        .i32 = INT32_MIN,
        .i64 = INT64_MIN,
        .yes = true,
        .color = BLUE,
        .timer = INT64_MAX,
        .no_timer = -1,
        .atomic = 77,
        .private_member = 1,
    };
    struct scalars to = {.private_member = 42, .no = true, .u8 = 3};

    move_one(&scalars_desc, &from, &scalars_desc, &to);
    assert_int_equal(to.private_member, 42);
    to.private_member = 1;
    assert_memory_equal(&from, &to, sizeof(to));
}

static void scalars_in_json(void **state)
{
    struct scalars object = {.u64 = UINT64_MAX, .i8 = -1, .yes = true, .color = GREEN};
    struct gw_state_registry *registry = one_device(&scalars_desc, &object);
    g_autofree char *direct = gw_state_save_json(registry, 0, NULL);
    struct gw_schema *schema = over_the_wire(registry);
    g_autoptr(GPtrArray) sections = save_all(registry);
    GByteArray *bytes = g_ptr_array_index(sections, 0);
    g_autofree char *inspected =
        gw_schema_section_to_json(schema, 0, bytes->data, bytes->len, NULL);

    assert_string_equal(direct, inspected);
    assert_non_null(strstr(direct, "\"u64\": \"18446744073709551615\""));
    assert_non_null(strstr(direct, "\"i8\": -1,"));
    assert_non_null(strstr(direct, "\"yes\": true"));
    assert_non_null(strstr(direct, "\"color\": 1"));
    gw_schema_free(schema);
    gw_state_registry_free(registry);
}

/* ---- constraints ---- */

struct limits {
    uint8_t length;
    uint32_t flags;
    int16_t small;
    uint32_t zero;
    int64_t timer;
    uint32_t word;
    uint8_t levels[3];
};

static const struct gw_field free_fields[] = {
    GW_U8(struct limits, length),       GW_U32(struct limits, flags),
    GW_I16(struct limits, small),       GW_U32(struct limits, zero),
    GW_I64(struct limits, timer),       GW_BITS(struct limits, word, "low", 0, 4),
    GW_U8_ARRAY(struct limits, levels), GW_FIELDS_END,
};
static const struct gw_field bound_fields[] = {
    GW_U8(struct limits, length, .max = 16),
    GW_U32(struct limits, flags, .mask = 0xf0),
    GW_I16(struct limits, small, .min = -5, .max = 5),
    GW_U32(struct limits, zero, .has_range = true),
    GW_TIMER(struct limits, timer),
    GW_BITS(struct limits, word, "low", 0, 4, .max = 9),
    GW_U8_ARRAY(struct limits, levels, .max = 2),
    GW_FIELDS_END,
};
static const struct gw_state_desc free_desc = {
    .name = "limits", .version = 1, .object_size = sizeof(struct limits), .fields = free_fields};
static const struct gw_state_desc bound_desc = {
    .name = "limits", .version = 1, .object_size = sizeof(struct limits), .fields = bound_fields};

static void constraints_hold(void **state)
{
    static const struct {
        struct limits from;
        const char *why;
    } cases[] = {
        {{.length = 17}, "field length: is 17, at most 16 is allowed"},
        {{.flags = 0x101}, "field flags: is 0x101, only bits of 0xf0 are allowed"},
        {{.small = 6}, "field small: is 6, at most 5 is allowed"},
        {{.small = -6}, "field small: is -6, at least -5 is allowed"},
        {{.zero = 1}, "field zero: is 1, at most 0 is allowed"},
        {{.timer = -2}, "field timer: is -2, at least -1 is allowed"},
        {{.word = 10}, "field low: is 10, at most 9 is allowed"},
        {{.levels = {1, 2, 3}}, "field levels[2]: is 3, at most 2 is allowed"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct limits from = cases[i].from;
        struct limits to = {.length = 1, .word = 0xfff0, .levels = {2, 2, 2}};
        g_autofree char *message = g_strdup_printf("device dev/0, %s", cases[i].why);
        refuse_one(&free_desc, &from, &bound_desc, &to, sizeof(to), message);
    }
    struct limits good = {.length = 16, .flags = 0xf0, .small = -5, .timer = -1, .word = 9};
    struct limits to = {0};
    move_one(&free_desc, &good, &bound_desc, &to);
    assert_memory_equal(&good, &to, sizeof(to));
}

static void constraints_hold_at_the_source_too(void **state)
{
    struct limits from = {.length = 17};

    refuse_save(&bound_desc, &from, "device dev/0, field length: is 17, at most 16 is allowed");
}

/* ---- bits of a word ---- */

static const struct gw_field bits_fields[] = {
    GW_BITS(struct limits, word, "enable", 0, 1),
    GW_BITS(struct limits, word, "mode", 4, 3),
    GW_BITS(struct limits, word, "top", 31, 1),
    GW_FIELDS_END,
};
static const struct gw_state_desc bits_desc = {
    .name = "bits", .version = 1, .object_size = sizeof(struct limits), .fields = bits_fields};

static void bits_move_and_leave_the_rest(void **state)
{
    struct limits from = {.word = 0x80000051};
    struct limits to = {.word = 0x0fffff2e};

    move_one(&bits_desc, &from, &bits_desc, &to);
    assert_int_equal(to.word, 0x8fffff5f);
}

/* ---- equal ---- */

struct fixed {
    uint32_t n_queues;
    int64_t offset;
    uint8_t mac[6];
    uint8_t value;
};

static const struct gw_field fixed_fields[] = {
    GW_EQUAL_U32(struct fixed, n_queues),
    GW_EQUAL_I64(struct fixed, offset),
    GW_EQUAL_BUFFER(struct fixed, mac),
    GW_U8(struct fixed, value),
    GW_FIELDS_END,
};
static const struct gw_state_desc fixed_desc = {
    .name = "fixed", .version = 1, .object_size = sizeof(struct fixed), .fields = fixed_fields};

static void equal_fields_are_refused_before_the_first_page(void **state)
{
    struct fixed from = {2, -7, {1, 2, 3, 4, 5, 6}, 9};
    struct fixed to = from;

    move_one(&fixed_desc, &from, &fixed_desc, &to);
    to.n_queues = 4;
    to.mac[5] = 7;
    refuse_one(&fixed_desc, &from, &fixed_desc, &to, sizeof(to),
               "field dev/0.n_queues: the writer has 2, this side 4; "
               "field dev/0.mac: the writer has 010203040506, this side 010203040507");
}

static void equal_fields_are_refused_at_load_when_they_changed_since(void **state)
{
    struct fixed from = {2, -7, {1, 2, 3, 4, 5, 6}, 9};
    struct fixed to = from;
    struct gw_state_registry *source = one_device(&fixed_desc, &from);
    struct gw_state_registry *destination = one_device(&fixed_desc, &to);
    static const struct {
        struct fixed later;
        const char *message;
    } cases[] = {
        {{2, -8, {1, 2, 3, 4, 5, 6}, 9},
         "device dev/0, field offset: is -8, this side has -7 and both must be equal"},
        {{2, -7, {1, 2, 3, 4, 5, 0}, 9},
         "device dev/0, field mac: differs from this side's, and both must be equal"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct fixed original = from;
        from = cases[i].later;
        g_autoptr(GPtrArray) sections = save_all(source);
        from = original;
        g_autoptr(GError) error = load_sections(source, sections, destination);
        assert_non_null(error);
        assert_string_equal(error->message, cases[i].message);
    }
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

/* ---- arrays and buffers ---- */

struct arrays {
    uint16_t regs[4];
    int64_t timers[2];
    bool lines[3];
    uint8_t bytes[5];
    uint8_t n;
    uint32_t entries[6];
    uint16_t rx_len;
    uint8_t rx[8];
    uint32_t n_heap;
    uint64_t *heap;
    size_t blob_len;
    void *blob;
    uint8_t n_shared;
    uint8_t keys[3];
    uint8_t values[3];
};

static const struct gw_field arrays_fields[] = {
    GW_U16_ARRAY(struct arrays, regs),
    GW_TIMER_ARRAY(struct arrays, timers),
    GW_BOOL_ARRAY(struct arrays, lines),
    GW_BUFFER(struct arrays, bytes),
    GW_U32_VARRAY(struct arrays, entries, n, .max = 1000),
    GW_VBUFFER(struct arrays, rx, rx_len),
    GW_U64_ALLOC(struct arrays, heap, n_heap, .count_max = 4),
    GW_ALLOC_BUFFER(struct arrays, blob, blob_len, .count_max = 16),
    GW_U8_VARRAY(struct arrays, keys, n_shared),
    GW_U8_VARRAY(struct arrays, values, n_shared),
    GW_FIELDS_END,
};
static const struct gw_state_desc arrays_desc = {
    .name = "arrays", .version = 1, .object_size = sizeof(struct arrays), .fields = arrays_fields};

static struct arrays arrays_sample(void)
{
    static const uint64_t heap[] = {1, UINT64_MAX, 3};
    struct arrays sample = {
        .regs = {1, 2, 3, 0xffff},
        .timers = {-1, 5},
        .lines = {true, false, true},
        .bytes = "abcd",
        .n = 2,
        .entries = {10, 20, 99, 99},
        .rx_len = 3,
        .rx = "xyz",
        .n_heap = 3,
        .heap = g_memdup2(heap, sizeof(heap)),
        .blob_len = 6,
        .blob = g_strdup("hello"),
        .n_shared = 2,
        .keys = {1, 2},
        .values = {7, 8},
    };

    return sample;
}

static void arrays_clear(struct arrays *arrays)
{
    g_free(arrays->heap);
    g_free(arrays->blob);
}

static void arrays_move(void **state)
{
    struct arrays from = arrays_sample();
    struct arrays to = {
        .n = 5, .entries = {1, 1, 1, 1, 1}, .n_heap = 1, .heap = g_new0(uint64_t, 1)};

    move_one(&arrays_desc, &from, &arrays_desc, &to);
    assert_memory_equal(from.regs, to.regs, sizeof(to.regs));
    assert_memory_equal(from.timers, to.timers, sizeof(to.timers));
    assert_memory_equal(from.lines, to.lines, sizeof(to.lines));
    assert_memory_equal(from.bytes, to.bytes, sizeof(to.bytes));
    assert_int_equal(to.n, 2);
    assert_int_equal(to.entries[1], 20);
    assert_int_equal(to.entries[2], 0); /* beyond the count nothing is left of the old */
    assert_int_equal(to.rx_len, 3);
    assert_memory_equal(to.rx, "xyz", 3);
    assert_int_equal(to.n_heap, 3);
    assert_memory_equal(from.heap, to.heap, 3 * sizeof(uint64_t));
    assert_int_equal(to.blob_len, 6);
    assert_string_equal(to.blob, "hello");
    assert_int_equal(to.n_shared, 2);
    assert_memory_equal(to.keys, from.keys, 2);
    assert_memory_equal(to.values, from.values, 2);
    arrays_clear(&from);
    arrays_clear(&to);
}

static void empty_arrays_move(void **state)
{
    struct arrays from = {0};
    struct arrays to = arrays_sample();

    move_one(&arrays_desc, &from, &arrays_desc, &to);
    assert_int_equal(to.n, 0);
    assert_int_equal(to.rx_len, 0);
    assert_null(to.heap);
    assert_int_equal(to.n_heap, 0);
    assert_null(to.blob);
    assert_int_equal(to.blob_len, 0);
    arrays_clear(&to);
}

static void arrays_too_long_are_not_saved(void **state)
{
    struct arrays from = arrays_sample();

    from.n = 7;
    refuse_save(&arrays_desc, &from,
                "device dev/0, field entries: has 7 elements, at most 6 are allowed");
    from.n = 6;
    from.n_heap = 5;
    refuse_save(&arrays_desc, &from,
                "device dev/0, field heap: has 5 elements, at most 4 are allowed");
    g_clear_pointer(&from.heap, g_free);
    from.n_heap = 1;
    refuse_save(&arrays_desc, &from, "device dev/0, field heap: has 1 elements but points nowhere");
    arrays_clear(&from);
}

static const struct gw_field short_fields[] = {
    GW_U16_ARRAY(struct arrays, regs),
    GW_TIMER_ARRAY(struct arrays, timers),
    GW_BOOL_ARRAY(struct arrays, lines),
    GW_BUFFER(struct arrays, bytes),
    GW_U32_VARRAY(struct arrays, entries, n, .max = 1000),
    GW_VBUFFER(struct arrays, rx, rx_len),
    GW_U64_ALLOC(struct arrays, heap, n_heap, .count_max = 2),
    GW_ALLOC_BUFFER(struct arrays, blob, blob_len, .count_max = 16),
    GW_U8_VARRAY(struct arrays, keys, n_shared),
    GW_U8_VARRAY(struct arrays, values, n_shared),
    GW_FIELDS_END,
};
static const struct gw_state_desc short_desc = {
    .name = "arrays", .version = 1, .object_size = sizeof(struct arrays), .fields = short_fields};

static void a_shorter_reader_refuses_what_is_too_long(void **state)
{
    struct arrays from = arrays_sample();
    struct arrays to = {0};

    refuse_one(&arrays_desc, &from, &short_desc, &to, sizeof(to),
               "device dev/0, field heap: has 3 elements, at most 2 are allowed");
    from.n_heap = 2;
    move_one(&arrays_desc, &from, &short_desc, &to);
    arrays_clear(&from);
    arrays_clear(&to);
}

/* A count with a row of its own. */
static const struct gw_field counted_fields[] = {
    GW_U8_VARRAY(struct arrays, keys, n_shared),
    GW_U8(struct arrays, n_shared, .max = 2),
    GW_U8_VARRAY(struct arrays, values, n_shared),
    GW_FIELDS_END,
};
static const struct gw_state_desc counted_desc = {.name = "counted",
                                                  .version = 1,
                                                  .object_size = sizeof(struct arrays),
                                                  .fields = counted_fields};

static void shared_counts_must_agree(void **state)
{
    struct arrays from = {.n_shared = 2, .keys = {1, 2}, .values = {3, 4}};
    struct arrays to = {0};
    struct gw_state_registry *source = one_device(&counted_desc, &from);
    struct gw_state_registry *destination = one_device(&counted_desc, &to);

    move_one(&counted_desc, &from, &counted_desc, &to);
    assert_int_equal(to.n_shared, 2);
    assert_int_equal(to.values[1], 4);

    g_autoptr(GPtrArray) sections = save_all(source);
    GByteArray *bytes = g_ptr_array_index(sections, 0);
    /* keys: count 2, two bytes; then the count's own row */
    bytes->data[6] = 1;
    g_autoptr(GError) error = load_sections(source, sections, destination);
    assert_string_equal(error->message,
                        "device dev/0, field keys: has 2 elements, its count says 1");
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_move),
        cmocka_unit_test(scalars_in_json),
        cmocka_unit_test(constraints_hold),
        cmocka_unit_test(constraints_hold_at_the_source_too),
        cmocka_unit_test(bits_move_and_leave_the_rest),
        cmocka_unit_test(equal_fields_are_refused_before_the_first_page),
        cmocka_unit_test(equal_fields_are_refused_at_load_when_they_changed_since),
        cmocka_unit_test(arrays_move),
        cmocka_unit_test(empty_arrays_move),
        cmocka_unit_test(arrays_too_long_are_not_saved),
        cmocka_unit_test(a_shorter_reader_refuses_what_is_too_long),
        cmocka_unit_test(shared_counts_must_agree),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
