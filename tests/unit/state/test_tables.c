/* SPDX-License-Identifier: MIT */
/* The static check of tables, the registry's order, schemas and hostile schemas. */
#include "state_test.h"

struct device {
    uint32_t word;
    uint32_t other;
    uint8_t n;
    uint8_t room[4];
    uint8_t *heap;
    void *inner;
    GPtrArray *list;
};

#define DESC(...)                                                                                  \
    (&(const struct gw_state_desc){                                                                \
        .name = "d",                                                                               \
        .version = 2,                                                                              \
        .object_size = sizeof(struct device),                                                      \
        .fields = (const struct gw_field[]){__VA_ARGS__, GW_FIELDS_END},                           \
    })

static void assert_bad(const struct gw_state_desc *desc, const char *message)
{
    g_autoptr(GError) error = NULL;

    assert_false(gw_state_desc_check(desc, &error));
    assert_string_equal(error->message, message);
    assert_int_equal(error->code, GW_STATE_ERROR_TABLE);
}

static void good_tables_pass(void **state)
{
    assert_true(gw_state_desc_check(
        DESC(GW_BITS(struct device, word, "a", 0, 4), GW_BITS(struct device, word, "b", 4, 28),
             GW_U32(struct device, other), GW_VBUFFER(struct device, room, n)),
        NULL));
}

static void bad_tables_are_named(void **state)
{
    assert_bad(DESC(GW_U32(struct device, word), GW_U32(struct device, word)),
               "description d, field word: the name is used twice");
    assert_bad(DESC(GW_U32(struct device, word), GW_U32(struct device, word, .label = "again")),
               "description d: word and again overlap");
    assert_bad(
        DESC(GW_BITS(struct device, word, "a", 0, 5), GW_BITS(struct device, word, "b", 4, 2)),
        "description d: a and b overlap");
    assert_bad(
        DESC(GW_U32(struct device, word, .was = "b"), GW_U32(struct device, other, .label = "b")),
        "description d, field b: the name is used twice");
    assert_bad(DESC(GW_U32(struct device, word, .label = "a b")),
               "description d, field a b: 'a b' is no good name (give a .label)");
    assert_bad(DESC(GW_U32(struct device, word, .since = 3)),
               "description d, field word: since version 3 of a description of version 2");
    assert_bad(DESC(GW_U32(struct device, word, .since = 2, .fallback = 5, .max = 4)),
               "description d, field word: its fallback is 5, at most 4 is allowed");
    assert_bad(DESC(GW_ALLOC_BUFFER(struct device, heap, n)),
               "description d, field heap: at most 0 elements, not 1 to 67108864");
    assert_bad(DESC(GW_VBUFFER(struct device, room, n),
                    GW_ALLOC_BUFFER(struct device, heap, n, .count_max = 3)),
               "description d: room and heap overlap");
    struct gw_state_desc small = *DESC(GW_U32(struct device, other));
    small.object_size = 7;
    assert_bad(&small, "description d: other lies outside of the object");
    small.object_size = 8;
    assert_true(gw_state_desc_check(&small, NULL));
    small.version = 0;
    assert_bad(&small, "description d: version, fields or object_size are missing");
}

static void nested_tables_are_checked(void **state)
{
    struct gw_state_desc inner = *DESC(GW_U32(struct device, word), GW_U32(struct device, word));
    struct gw_state_desc circle = {
        .name = "circle",
        .version = 1,
        .object_size = sizeof(struct device),
    };
    const struct gw_field circle_fields[] = {
        {.name = "inner",
         .kind = GW_KIND_STRUCT,
         .shape = GW_SHAPE_POINTER,
         .count = 1,
         .offset = offsetof(struct device, inner),
         .stride = sizeof(struct device),
         .desc = &circle},
        GW_FIELDS_END,
    };
    g_autoptr(GError) error = NULL;

    inner.name = "inner";
    assert_bad(DESC(GW_LIST(struct device, list, &inner, .count_max = 3)),
               "description d, field list: description inner, field word: the name is used twice");
    inner = *DESC(GW_EQUAL_U32(struct device, word));
    assert_bad(DESC(GW_LIST(struct device, list, &inner, .count_max = 3)),
               "description d, field list: description d, field word: nothing to be equal with");
    circle.fields = circle_fields;
    assert_false(gw_state_desc_check(&circle, &error));
    assert_non_null(strstr(error->message, "structs nested deeper than 8"));
}

static void order_is_priority_then_id(void **state)
{
    struct gw_state_desc late = *DESC(GW_U32(struct device, word));
    struct gw_state_desc cpu = late;
    struct device object;
    struct gw_state_registry *registry = gw_state_registry_new();
    static const char *const expected[] = {"hart/2", "hart/10", "a/0", "b/0"};

    cpu.priority = GW_PRIORITY_CPU;
    assert_true(gw_state_registry_add(registry, "b/0", &late, &object, NULL));
    assert_true(gw_state_registry_add(registry, "hart/10", &cpu, &object, NULL));
    assert_true(gw_state_registry_add(registry, "a/0", &late, &object, NULL));
    assert_true(gw_state_registry_add(registry, "hart/2", &cpu, &object, NULL));
    assert_false(gw_state_registry_add(registry, "a/0", &late, &object, NULL));
    assert_false(gw_state_registry_add(registry, "a b", &late, &object, NULL));
    struct gw_schema *schema = over_the_wire(registry);
    for (uint32_t i = 0; i < 4; i++) {
        assert_string_equal(gw_state_registry_id(registry, i), expected[i]);
        assert_string_equal(schema->devices[i].id, expected[i]);
        assert_int_equal(gw_schema_find_device(schema, expected[i]), i);
    }
    assert_int_equal(gw_schema_find_device(schema, "c/0"), -1);
    assert_true(gw_state_registry_remove(registry, "hart/2"));
    assert_string_equal(gw_state_registry_id(registry, 0), "hart/10");
    gw_schema_free(schema);
    gw_state_registry_free(registry);
}

/* ---- schemas ---- */

static const struct gw_state_desc *sample_desc(void)
{
    static const struct gw_field inner_fields[] = {
        GW_U32(struct device, word),
        GW_FIELDS_END,
    };
    static const struct gw_state_desc inner = {.name = "inner",
                                               .version = 3,
                                               .object_size = sizeof(struct device),
                                               .fields = inner_fields};
    static const struct gw_field sub_fields[] = {
        GW_VBUFFER(struct device, room, n),
        GW_FIELDS_END,
    };
    static const struct gw_state_desc sub = {
        .name = "sub", .version = 1, .object_size = sizeof(struct device), .fields = sub_fields};
    static const struct gw_state_desc *const subs[] = {&sub, NULL};
    static const struct gw_field fields[] = {
        GW_BITS(struct device, word, "low", 0, 5, .since = 2, .is_droppable = true),
        GW_EQUAL_U32(struct device, other),
        GW_LIST(struct device, list, &inner, .count_max = 9),
        GW_FIELDS_END,
    };
    static const struct gw_state_desc desc = {.name = "sample",
                                              .version = 2,
                                              .object_size = sizeof(struct device),
                                              .fields = fields,
                                              .subsections = subs};

    return &desc;
}

static struct gw_state_registry *sample_machine(struct device objects[2])
{
    struct gw_state_registry *registry = one_device(sample_desc(), &objects[0]);
    static const char *const features[] = {"sv39", "sstc", NULL};

    assert_true(gw_state_registry_add(registry, "dev/1", sample_desc(), &objects[1], NULL));
    assert_true(gw_state_registry_add_property(registry, "cpu.features", GW_PROPERTY_INCLUDE, true,
                                               features, NULL));
    return registry;
}

static void a_schema_survives_the_wire(void **state)
{
    struct device objects[2] = {{.other = 6}, {.other = 6}};
    struct gw_state_registry *registry = sample_machine(objects);
    struct gw_schema *made = gw_schema_new(registry);
    struct gw_schema *came = over_the_wire(registry);
    g_autofree char *made_json = gw_schema_to_json(made);
    g_autofree char *came_json = gw_schema_to_json(came);

    assert_string_equal(made_json, came_json);
    assert_int_equal(came->n_types, 3); /* shared by both devices */
    assert_int_equal(came->types[came->devices[0].type].depth, 2);
    assert_non_null(strstr(came_json, "\"name\": \"dev/1.other\""));
    assert_non_null(strstr(came_json, "\"count-max\": 9"));
    assert_non_null(strstr(came_json, "\"droppable\": true"));
    gw_schema_free(made);
    gw_schema_free(came);
    gw_state_registry_free(registry);
}

/* Whatever a hostile schema says, it is refused with a sentence or can be compared and used. */
static bool try_schema(const uint8_t *bytes, size_t len, const struct gw_state_registry *registry,
                       GByteArray *section)
{
    g_autofree uint8_t *exact = g_memdup2(bytes, len);
    g_autoptr(GError) error = NULL;
    struct gw_schema *schema = gw_schema_parse(exact, len, &error);

    if (!schema) {
        assert_non_null(error);
        assert_true(g_str_has_prefix(error->message, "schema, byte "));
        return false;
    }
    g_autofree char *json = gw_schema_to_json(schema);
    for (uint32_t i = 0; i < schema->n_devices; i++) {
        g_autofree char *text =
            gw_schema_section_to_json(schema, i, section->data, section->len, NULL);
    }
    struct gw_state_plan *plan = gw_state_plan_new(schema, registry);
    struct gw_state_load *load = gw_state_load_begin(plan, NULL);
    for (uint32_t i = 0; load && i < gw_state_plan_schema(plan)->n_devices; i++) {
        gw_state_load_add(load, i, section->data, section->len, NULL);
    }
    if (load) {
        gw_state_load_commit(load, NULL); /* and rolled back */
    }
    gw_state_load_free(load);
    gw_state_plan_free(plan);
    return true;
}

static void every_cut_and_flip_of_a_schema_is_survived(void **state)
{
    struct device objects[2] = {{.other = 6, .n = 2, .list = g_ptr_array_new()}, {.other = 6}};
    struct device element = {.word = 8};
    struct gw_state_registry *registry = sample_machine(objects);
    struct gw_schema *schema = gw_schema_new(registry);
    g_autoptr(GByteArray) bytes = gw_schema_encode(schema);
    g_autoptr(GByteArray) section = g_byte_array_new();

    g_ptr_array_add(objects[0].list, &element);
    assert_true(gw_state_save(registry, 0, section, NULL));
    gw_schema_free(schema);
    for (guint len = 0; len < bytes->len; len++) {
        assert_false(try_schema(bytes->data, len, registry, section));
    }
    for (guint at = 0; at < bytes->len; at++) {
        uint8_t original = bytes->data[at];
        for (unsigned i = 0; i < 10; i++) { /* each bit, all and none */
            uint8_t value = (uint8_t)(i < 8 ? original ^ (1u << i) : i == 8 ? 0 : UINT8_MAX);
            bytes->data[at] = value;
            bool ok = try_schema(bytes->data, bytes->len, registry, section);
            assert_true(ok || value != original);
        }
        bytes->data[at] = original;
    }
    g_ptr_array_free(objects[0].list, TRUE);
    gw_state_registry_free(registry);
}

static void put(GByteArray *out, uint64_t value, unsigned width)
{
    for (unsigned i = 0; i < width; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        g_byte_array_append(out, &byte, 1);
    }
}

static void put_name(GByteArray *out, const char *name)
{
    put(out, strlen(name), 1);
    g_byte_array_append(out, (const guint8 *)name, (guint)strlen(name));
}

static void put_field(GByteArray *out, const char *name, unsigned kind, unsigned shape,
                      unsigned bits, uint32_t count, uint32_t type)
{
    put_name(out, name);
    put(out, kind, 1);
    put(out, shape, 1);
    put(out, bits, 1);
    put(out, 0, 1);
    put(out, count, 4);
    put(out, type, 4);
    put(out, 1, 4);
}

static GByteArray *schema_head(uint32_t n_types, uint32_t n_devices)
{
    GByteArray *out = g_byte_array_new();

    g_byte_array_append(out, (const guint8 *)"GWSC\1\0\0\0", 8);
    put(out, n_types, 4);
    put(out, n_devices, 4);
    put(out, 0, 4);
    return out;
}

static void put_type(GByteArray *out, const char *name, unsigned n_fields)
{
    put_name(out, name);
    put(out, 1, 4);
    put(out, n_fields, 2);
    put(out, 0, 2);
}

static void assert_schema_refused(GByteArray *bytes, const char *message)
{
    g_autoptr(GError) error = NULL;

    assert_null(gw_schema_parse(bytes->data, bytes->len, &error));
    if (!g_str_has_suffix(error->message, message)) {
        fail_msg("'%s' does not end in '%s'", error->message, message);
    }
    g_byte_array_unref(bytes);
}

static void bombs_are_refused(void **state)
{
    /* structs without content, multiplied */
    GByteArray *empty = schema_head(2, 0);
    put_type(empty, "empty", 0);
    put_type(empty, "many", 1);
    put_field(empty, "x", GW_KIND_STRUCT, GW_SHAPE_ARRAY, 0, GW_STATE_COUNT_MAX, 0);
    assert_schema_refused(empty, "type many nests deeper than 8 or holds an empty struct");

    /* arrays of arrays: representable, but no section can be that long */
    GByteArray *deep = schema_head(8, 1);
    put_type(deep, "t", 1);
    put_field(deep, "x", GW_KIND_UINT, GW_SHAPE_ARRAY, 8, GW_STATE_COUNT_MAX, 0);
    for (unsigned i = 1; i < 8; i++) {
        put_type(deep, "t", 1);
        put_field(deep, "x", GW_KIND_STRUCT, GW_SHAPE_ARRAY, 0, GW_STATE_COUNT_MAX, i - 1);
    }
    put_name(deep, "dev/0");
    put(deep, 7, 4);
    struct gw_schema *schema = gw_schema_parse(deep->data, deep->len, NULL);
    g_autoptr(GError) error = NULL;
    assert_non_null(schema);
    assert_null(gw_schema_section_to_json(schema, 0, deep->data, deep->len, &error));
    g_autofree char *expected = g_strdup_printf(
        "device dev/0, field x: has 1048576 elements, but only %u bytes are left", deep->len);
    assert_string_equal(error->message, expected);
    gw_schema_free(schema);
    g_byte_array_unref(deep);

    /* deeper than the limit */
    GByteArray *deeper = schema_head(9, 0);
    put_type(deeper, "t", 1);
    put_field(deeper, "x", GW_KIND_UINT, GW_SHAPE_ONE, 8, 1, 0);
    for (unsigned i = 1; i < 9; i++) {
        put_type(deeper, "t", 1);
        put_field(deeper, "x", GW_KIND_STRUCT, GW_SHAPE_ONE, 0, 1, i - 1);
    }
    assert_schema_refused(deeper, "type t nests deeper than 8 or holds an empty struct");

    /* a circle */
    GByteArray *circle = schema_head(1, 0);
    put_type(circle, "t", 1);
    put_field(circle, "x", GW_KIND_STRUCT, GW_SHAPE_POINTER, 0, 1, 0);
    assert_schema_refused(circle, "field x refers to type 0 from type 0");

    assert_schema_refused(schema_head(UINT32_MAX, 0),
                          "the number of types is 4294967295, at most 1024 is allowed");
    assert_schema_refused(schema_head(0, 5000),
                          "the number of devices is 5000, at most 4096 is allowed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_tables_pass),
        cmocka_unit_test(bad_tables_are_named),
        cmocka_unit_test(nested_tables_are_checked),
        cmocka_unit_test(order_is_priority_then_id),
        cmocka_unit_test(a_schema_survives_the_wire),
        cmocka_unit_test(every_cut_and_flip_of_a_schema_is_survived),
        cmocka_unit_test(bombs_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
