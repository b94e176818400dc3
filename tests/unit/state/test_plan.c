/* SPDX-License-Identifier: MIT */
/* Comparison of schemas: old and new writers, renames, splits, merges, properties. */
#include "state_test.h"

struct device {
    uint8_t a;
    uint16_t b;
    uint32_t c;
    int32_t s;
    bool flag;
    uint32_t regs[8];
    uint8_t n;
    uint8_t list[8];
    uint8_t bytes[4];
    uint8_t *heap;
    uint32_t n_heap;
};

#define DESC(desc_name, desc_version, ...)                                                         \
    (&(const struct gw_state_desc){                                                                \
        .name = (desc_name),                                                                       \
        .version = (desc_version),                                                                 \
        .object_size = sizeof(struct device),                                                      \
        .fields = (const struct gw_field[]){__VA_ARGS__, GW_FIELDS_END},                           \
    })

static void assert_findings(const struct gw_state_desc *writer, const struct gw_state_desc *reader,
                            const char *expected)
{
    struct device from = {0};
    struct device to = {0};
    struct gw_state_registry *source = one_device(writer, &from);
    struct gw_state_registry *destination = one_device(reader, &to);
    g_autofree char *text = findings(source, destination);

    assert_string_equal(text, expected);
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

static void equal_tables_have_no_findings(void **state)
{
    const struct gw_state_desc *desc = DESC("d", 1, GW_U8(struct device, a));

    assert_findings(desc, desc, "");
}

static void an_old_writer_gets_defaults(void **state)
{
    const struct gw_state_desc *old = DESC("d", 1, GW_U8(struct device, a));
    const struct gw_state_desc *new =
        DESC("d", 2, GW_U16(struct device, b, .since = 2, .fallback = 7), GW_U8(struct device, a),
             GW_U32_ARRAY(struct device, regs, .since = 2, .fallback = 3),
             GW_U8_VARRAY(struct device, list, n, .since = 2));
    struct device from = {.a = 5};
    struct device to = {.b = 99, .n = 4};

    assert_findings(old, new, "");
    move_one(old, &from, new, &to);
    assert_int_equal(to.a, 5);
    assert_int_equal(to.b, 7);
    assert_int_equal(to.regs[7], 3);
    assert_int_equal(to.n, 0);
}

static void a_new_writer_is_refused_unless_fields_may_be_dropped(void **state)
{
    const struct gw_state_desc *old = DESC("d", 1, GW_U8(struct device, a));
    const struct gw_state_desc *new =
        DESC("d", 2, GW_U8(struct device, a), GW_U16(struct device, b, .since = 2));
    const struct gw_state_desc *kind =
        DESC("d", 2, GW_U16(struct device, b, .since = 2, .is_droppable = true),
             GW_U8(struct device, a));
    struct device from = {.a = 5, .b = 6};
    struct device to = {0};

    assert_findings(new, old,
                    "! device dev/0, field b: not known on this side\n"
                    "- device dev/0: d has version 2 on the writer, this side takes 1 to 1\n");
    assert_findings(kind, old,
                    "- device dev/0: d has version 2 on the writer, this side takes 1 to 1\n"
                    "- device dev/0, field b: not known on this side; it may be dropped\n");
    move_one(kind, &from, old, &to);
    assert_int_equal(to.a, 5);
    assert_int_equal(to.b, 0);
}

static void a_field_without_default_is_missed(void **state)
{
    const struct gw_state_desc *writer = DESC("d", 1, GW_U8(struct device, a));
    const struct gw_state_desc *reader =
        DESC("d", 1, GW_U8(struct device, a), GW_U16(struct device, b),
             GW_U32(struct device, c, .has_fallback = true));

    assert_findings(writer, reader,
                    "! device dev/0, field b: missing on the writer, and this side has no default "
                    "for it\n");
}

static void too_old_a_version_is_refused(void **state)
{
    const struct gw_state_desc *writer = DESC("d", 1, GW_U8(struct device, a));
    struct gw_state_desc reader = *DESC("d", 3, GW_U8(struct device, a));

    reader.min_version = 2;
    assert_findings(writer, &reader,
                    "! device dev/0: d has version 1 on the writer, this side takes 2 to 3\n");
}

static void types_must_fit(void **state)
{
    static const struct {
        struct gw_field writer;
        struct gw_field reader;
        const char *expected;
    } cases[] = {
        {GW_U8(struct device, a, .label = "x"), GW_U32(struct device, c, .label = "x"), ""},
        {GW_U32(struct device, c, .label = "x"), GW_U8(struct device, a, .label = "x"),
         "! device dev/0, field x: the writer has u32, this side takes u8\n"},
        {GW_BITS(struct device, c, "x", 0, 7), GW_U8(struct device, a, .label = "x"), ""},
        {GW_U8(struct device, a, .label = "x"), GW_BITS(struct device, c, "x", 0, 7),
         "! device dev/0, field x: the writer has u8, this side takes u7\n"},
        {GW_U16(struct device, b, .label = "x"), GW_I32(struct device, s, .label = "x"), ""},
        {GW_U32(struct device, c, .label = "x"), GW_I32(struct device, s, .label = "x"),
         "! device dev/0, field x: the writer has u32, this side takes i32\n"},
        {GW_I32(struct device, s, .label = "x"), GW_U32(struct device, c, .label = "x"),
         "! device dev/0, field x: the writer has i32, this side takes u32\n"},
        {GW_BOOL(struct device, flag, .label = "x"), GW_U8(struct device, a, .label = "x"), ""},
        {GW_U8(struct device, a, .label = "x"), GW_BOOL(struct device, flag, .label = "x"),
         "! device dev/0, field x: the writer has u8, this side takes bool\n"},
        {GW_U8(struct device, a, .label = "x"), GW_BUFFER(struct device, bytes, .label = "x"),
         "! device dev/0, field x: the writer has u8, this side takes 4 bytes\n"},
        {GW_U32_ARRAY(struct device, regs, .label = "x"), GW_U32(struct device, c, .label = "x"),
         "! device dev/0, field x: the writer has 8 u32, this side takes u32\n"},
        {GW_BUFFER(struct device, list, .label = "x"),
         GW_BUFFER(struct device, bytes, .label = "x"),
         "! device dev/0, field x: the writer has 8 bytes, this side takes 4 bytes\n"},
        {GW_VBUFFER(struct device, list, n, .label = "x"),
         GW_ALLOC_BUFFER(struct device, heap, n_heap, .count_max = 4, .label = "x"),
         "- device dev/0, field x: the writer may send at most 8 bytes, this side takes at most 4 "
         "bytes\n"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        assert_findings(DESC("d", 1, cases[i].writer), DESC("d", 1, cases[i].reader),
                        cases[i].expected);
    }
}

static void widened_values_arrive(void **state)
{
    const struct gw_state_desc *old =
        DESC("d", 1, GW_U16(struct device, b, .label = "x"), GW_BOOL(struct device, flag),
             GW_VBUFFER(struct device, list, n));
    const struct gw_state_desc *new = DESC(
        "d", 1, GW_I32(struct device, s, .label = "x"), GW_U8(struct device, a, .label = "flag"),
        GW_ALLOC_BUFFER(struct device, heap, n_heap, .count_max = 8, .label = "list"));
    struct device from = {.b = 0xfffe, .flag = true, .n = 2, .list = {1, 2}};
    struct device to = {0};

    move_one(old, &from, new, &to);
    assert_int_equal(to.s, 0xfffe);
    assert_int_equal(to.a, 1);
    assert_int_equal(to.n_heap, 2);
    assert_int_equal(to.heap[1], 2);
    g_free(to.heap);
}

static void a_shorter_array_leaves_defaults(void **state)
{
    const struct gw_state_desc *writer = DESC("d", 1, GW_BUFFER(struct device, bytes));
    const struct gw_state_desc *reader =
        DESC("d", 1, GW_BUFFER(struct device, list, .label = "bytes"));
    struct device from = {.bytes = {1, 2, 3, 4}};
    struct device to = {.list = {9, 9, 9, 9, 9, 9, 9, 9}};

    assert_findings(writer, reader,
                    "- device dev/0, field bytes: the writer has 4 bytes, this side 8 bytes; the "
                    "rest gets its default\n");
    move_one(writer, &from, reader, &to);
    assert_memory_equal(to.list, "\1\2\3\4\0\0\0\0", 8);
}

static void a_renamed_field_is_found_by_its_former_name(void **state)
{
    const struct gw_state_desc *old = DESC("d", 1, GW_U8(struct device, a, .label = "ctl"));
    const struct gw_state_desc *new =
        DESC("d", 2, GW_U8(struct device, a, .label = "control", .was = "ctl"));
    struct device from = {.a = 5};
    struct device to = {0};

    assert_findings(old, new, "");
    move_one(old, &from, new, &to);
    assert_int_equal(to.a, 5);
    memset(&to, 0, sizeof(to));
    move_one(new, &from, new, &to);
    assert_int_equal(to.a, 5);
}

static void a_former_field_is_ignored(void **state)
{
    static const char *const dropped[] = {"b", "gone", NULL};
    const struct gw_state_desc *old =
        DESC("d", 1, GW_U16(struct device, b), GW_U8(struct device, a));
    struct gw_state_desc new = *DESC("d", 2, GW_U8(struct device, a));
    struct device from = {.a = 5, .b = 77};
    struct device to = {0};

    new.dropped = dropped;
    assert_findings(old, &new, "");
    move_one(old, &from, &new, &to);
    assert_int_equal(to.a, 5);
}

/* ---- several devices ---- */

static struct gw_state_registry *machine(const char *id1, const struct gw_state_desc *desc1,
                                         void *object1, const char *id2,
                                         const struct gw_state_desc *desc2, void *object2)
{
    struct gw_state_registry *registry = gw_state_registry_new();

    assert_true(gw_state_registry_add(registry, id1, desc1, object1, NULL));
    if (id2) {
        assert_true(gw_state_registry_add(registry, id2, desc2, object2, NULL));
    }
    return registry;
}

static void missing_devices_are_named(void **state)
{
    const struct gw_state_desc *desc = DESC("d", 1, GW_U8(struct device, a));
    const struct gw_state_desc *other = DESC("e", 1, GW_U8(struct device, a));
    struct device object = {0};
    struct gw_state_registry *source = machine("net/0", desc, &object, "rng/0", desc, &object);
    struct gw_state_registry *destination =
        machine("net/0", other, &object, "blk/0", desc, &object);
    g_autofree char *text = findings(source, destination);

    assert_string_equal(text, "! device blk/0: missing on the writer\n"
                              "! device net/0: the writer's is a d, this side's a e\n"
                              "! device rng/0: missing on this side\n");
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

static void a_renamed_device_is_found(void **state)
{
    const struct gw_state_desc *desc = DESC("d", 1, GW_U8(struct device, a));
    const struct gw_state_desc *renamed = DESC("better", 1, GW_U8(struct device, a));
    struct device from = {.a = 4};
    struct device to = {0};
    struct gw_state_registry *source = machine("old/0", desc, &from, NULL, NULL, NULL);
    struct gw_state_registry *destination = machine("new/0", renamed, &to, NULL, NULL, NULL);

    assert_true(gw_state_registry_add_alias(destination, "new/0", "old/0", NULL));
    g_autofree char *text = findings(source, destination);
    assert_string_equal(text, "");
    assert_null(move(source, destination));
    assert_int_equal(to.a, 4);
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

static void a_split_device_finds_its_parts(void **state)
{
    const struct gw_state_desc *whole =
        DESC("w", 1, GW_U8(struct device, a), GW_U16(struct device, b), GW_U32(struct device, c));
    const struct gw_state_desc *left = DESC("l", 1, GW_U8(struct device, a));
    const struct gw_state_desc *right = DESC("r", 1, GW_U16(struct device, b));
    struct device from = {.a = 1, .b = 2, .c = 3};
    struct device to_left = {0};
    struct device to_right = {0};
    struct gw_state_registry *source = machine("w/0", whole, &from, NULL, NULL, NULL);
    struct gw_state_registry *destination = machine("l/0", left, &to_left, "r/0", right, &to_right);

    assert_true(gw_state_registry_add_alias(destination, "l/0", "w/0", NULL));
    assert_true(gw_state_registry_add_alias(destination, "r/0", "w/0", NULL));
    g_autofree char *text = findings(source, destination);
    /* what nobody took is still noticed */
    assert_string_equal(text, "! device w/0, field c: not known on this side\n");
    gw_state_registry_free(source);

    const struct gw_state_desc *both =
        DESC("w", 1, GW_U8(struct device, a), GW_U16(struct device, b));
    source = machine("w/0", both, &from, NULL, NULL, NULL);
    assert_null(move(source, destination));
    assert_int_equal(to_left.a, 1);
    assert_int_equal(to_right.b, 2);
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

static void merged_devices_come_together(void **state)
{
    const struct gw_state_desc *left = DESC("l", 1, GW_U8(struct device, a));
    const struct gw_state_desc *right = DESC("r", 1, GW_U16(struct device, b));
    const struct gw_state_desc *whole =
        DESC("w", 1, GW_U8(struct device, a), GW_U16(struct device, b));
    struct device from_left = {.a = 1};
    struct device from_right = {.b = 2};
    struct device to = {0};
    struct gw_state_registry *source = machine("l/0", left, &from_left, "r/0", right, &from_right);
    struct gw_state_registry *destination = machine("w/0", whole, &to, NULL, NULL, NULL);

    assert_true(gw_state_registry_add_alias(destination, "w/0", "l/0", NULL));
    assert_true(gw_state_registry_add_alias(destination, "w/0", "r/0", NULL));
    g_autofree char *text = findings(source, destination);
    assert_string_equal(text, "");
    assert_null(move(source, destination));
    assert_int_equal(to.a, 1);
    assert_int_equal(to.b, 2);
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

static void a_field_may_move_to_another_device(void **state)
{
    const struct gw_state_desc *old_x =
        DESC("x", 1, GW_U8(struct device, a), GW_U16(struct device, b, .label = "wandering"));
    const struct gw_state_desc *old_y = DESC("y", 1, GW_U32(struct device, c));
    const struct gw_state_desc *new_x = DESC("x", 2, GW_U8(struct device, a));
    const struct gw_state_desc *new_y =
        DESC("y", 2, GW_U32(struct device, c),
             GW_U16(struct device, b, .label = "wandering", .from = "x/0"));
    struct device from_x = {.a = 1, .b = 2};
    struct device from_y = {.c = 3};
    struct device to_x = {0};
    struct device to_y = {0};
    struct gw_state_registry *source = machine("x/0", old_x, &from_x, "y/0", old_y, &from_y);
    struct gw_state_registry *destination = machine("x/0", new_x, &to_x, "y/0", new_y, &to_y);
    g_autofree char *text = findings(source, destination);

    assert_string_equal(text, "");
    assert_null(move(source, destination));
    assert_int_equal(to_x.a, 1);
    assert_int_equal(to_y.c, 3);
    assert_int_equal(to_y.b, 2);

    /* and from a writer that is as new as we are */
    struct device again_x = {0};
    struct device again_y = {0};
    struct gw_state_registry *third = machine("x/0", new_x, &again_x, "y/0", new_y, &again_y);
    assert_null(move(destination, third));
    assert_int_equal(again_y.b, 2);
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
    gw_state_registry_free(third);
}

/* ---- subsections ---- */

static bool b_is_needed(const void *object)
{
    return ((const struct device *)object)->b != 0;
}

static void an_unknown_subsection_warns_and_is_refused_when_it_comes(void **state)
{
    struct gw_state_desc sub = *DESC("sub", 1, GW_U16(struct device, b));
    const struct gw_state_desc *const subs[] = {&sub, NULL};
    struct gw_state_desc writer = *DESC("d", 1, GW_U8(struct device, a));
    const struct gw_state_desc *reader = DESC("d", 1, GW_U8(struct device, a));
    struct device from = {.a = 1};
    struct device to = {0};

    sub.is_needed = b_is_needed;
    writer.subsections = subs;
    assert_findings(&writer, reader,
                    "- device dev/0, subsection sub: not known on this side; refused later if the "
                    "guest needs it\n");
    move_one(&writer, &from, reader, &to);
    assert_int_equal(to.a, 1);
    from.a = 2;
    from.b = 1;
    refuse_one(&writer, &from, reader, &to, sizeof(to),
               "device dev/0, field sub: this subsection is needed by the guest and not known on "
               "this side");
    /* the other way round it is just absent */
    to.b = 9;
    move_one(reader, &from, &writer, &to);
    assert_int_equal(to.a, 2);
    assert_int_equal(to.b, 0);
}

/* ---- properties ---- */

static void a_property_gets_other_values(void **state)
{
    static const char *const before[] = {"a", "b", NULL}, *const after[] = {"b", NULL};
    struct gw_state_registry *source = gw_state_registry_new();
    struct gw_state_registry *destination = gw_state_registry_new();

    assert_true(
        gw_state_registry_add_property(source, "x", GW_PROPERTY_INCLUDE, false, before, NULL));
    assert_true(
        gw_state_registry_add_property(destination, "x", GW_PROPERTY_INCLUDE, false, after, NULL));
    g_autofree char *refused = findings(source, destination);
    assert_string_equal(refused, "! property x: destination lacks a, which the guest was given\n");
    assert_true(gw_state_registry_set_values(source, "x", after));
    assert_false(gw_state_registry_set_values(source, "y", after));
    g_autofree char *fits = findings(source, destination);
    assert_string_equal(fits, "");
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

static void set(struct gw_state_registry *registry, const char *name, enum gw_property_rule rule,
                bool is_optional, const char *values)
{
    g_auto(GStrv) list = g_strsplit(values, ",", -1);

    assert_true(gw_state_registry_add_property(registry, name, rule, is_optional,
                                               (const char *const *)list, NULL));
}

static void properties_are_compared(void **state)
{
    struct gw_state_registry *source = gw_state_registry_new();
    struct gw_state_registry *destination = gw_state_registry_new();

    set(source, "machine", GW_PROPERTY_EQUAL, false, "virt");
    set(destination, "machine", GW_PROPERTY_EQUAL, false, "virt");
    set(source, "ram/ram", GW_PROPERTY_EQUAL, false, "1073741824");
    set(destination, "ram/ram", GW_PROPERTY_EQUAL, false, "2147483648");
    set(source, "cpu.features", GW_PROPERTY_INCLUDE, false, "sv39,sv48,sstc");
    set(destination, "cpu.features", GW_PROPERTY_INCLUDE, false, "sv57,sv39");
    set(source, "khz", GW_PROPERTY_WITHIN, false, "2000,1,9");
    set(destination, "khz", GW_PROPERTY_WITHIN, false, "3000,2000,4000");
    set(source, "khz-low", GW_PROPERTY_WITHIN, false, "1999,1,9");
    set(destination, "khz-low", GW_PROPERTY_WITHIN, false, "3000,2000,4000");
    set(source, "khz-strange", GW_PROPERTY_WITHIN, false, "-1");
    set(destination, "khz-strange", GW_PROPERTY_WITHIN, false, "3000,0,18446744073709551615");
    set(source, "msrs", GW_PROPERTY_EXPECT, false, "A,B");
    set(destination, "msrs", GW_PROPERTY_EXPECT, false, "A");
    set(source, "only-writer", GW_PROPERTY_EQUAL, false, "1");
    set(source, "only-writer-optional", GW_PROPERTY_EQUAL, true, "1");
    set(destination, "only-reader", GW_PROPERTY_EQUAL, false, "1");
    set(destination, "only-reader-optional", GW_PROPERTY_EQUAL, true, "1");
    assert_true(gw_state_registry_add_property_f(source, "count", GW_PROPERTY_EQUAL, false, NULL,
                                                 "%u", 7u));
    assert_true(gw_state_registry_add_property_f(destination, "count", GW_PROPERTY_EQUAL, false,
                                                 NULL, "%u", 7u));
    assert_false(gw_state_registry_add_property_f(destination, "count", GW_PROPERTY_EQUAL, false,
                                                  NULL, "%u", 7u));
    g_autofree char *text = findings(source, destination);
    assert_string_equal(
        text, "! property ram/ram: the writer has 1073741824, this side 2147483648\n"
              "! property cpu.features: destination lacks sv48, which the guest was given\n"
              "! property cpu.features: destination lacks sstc, which the guest was given\n"
              "! property khz-low: the guest was given 1999, destination takes 2000 to 4000\n"
              "! property khz-strange: the guest was given -1, destination takes 0 to "
              "18446744073709551615\n"
              "! property only-writer: not known on this side\n"
              "! property only-reader: missing on the writer\n"
              "- property msrs: destination lacks B, which the guest was given\n"
              "- property only-writer-optional: not known on this side\n"
              "- property only-reader-optional: missing on the writer\n");
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

static void all_refusals_come_as_one_error(void **state)
{
    const struct gw_state_desc *writer =
        DESC("d", 1, GW_U8(struct device, a), GW_U16(struct device, b));
    const struct gw_state_desc *reader = DESC("d", 1, GW_BOOL(struct device, flag, .label = "a"));
    struct device from = {0};
    struct device to = {0};

    refuse_one(writer, &from, reader, &to, sizeof(to),
               "device dev/0, field a: the writer has u8, this side takes bool; "
               "device dev/0, field b: not known on this side");
}

static void the_list_of_findings_is_bounded(void **state)
{
    const struct gw_state_desc *desc = DESC("d", 1, GW_U8(struct device, a));
    struct device object = {0};
    struct gw_state_registry *source = gw_state_registry_new();
    struct gw_state_registry *destination = gw_state_registry_new();

    for (unsigned i = 0; i < 300; i++) {
        g_autofree char *id = g_strdup_printf("dev/%u", i);
        assert_true(gw_state_registry_add(source, id, desc, &object, NULL));
    }
    struct gw_state_plan *plan = gw_state_plan_new(over_the_wire(source), destination);
    uint32_t n = 0;
    const struct gw_finding *list = gw_state_plan_findings(plan, &n);
    assert_int_equal(n, 257);
    assert_string_equal(list[10].sentence, "device dev/10: missing on this side");
    assert_string_equal(list[256].sentence, "44 more differences are not listed");
    gw_state_plan_free(plan);
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_tables_have_no_findings),
        cmocka_unit_test(an_old_writer_gets_defaults),
        cmocka_unit_test(a_new_writer_is_refused_unless_fields_may_be_dropped),
        cmocka_unit_test(a_field_without_default_is_missed),
        cmocka_unit_test(too_old_a_version_is_refused),
        cmocka_unit_test(types_must_fit),
        cmocka_unit_test(widened_values_arrive),
        cmocka_unit_test(a_shorter_array_leaves_defaults),
        cmocka_unit_test(a_renamed_field_is_found_by_its_former_name),
        cmocka_unit_test(a_former_field_is_ignored),
        cmocka_unit_test(missing_devices_are_named),
        cmocka_unit_test(a_renamed_device_is_found),
        cmocka_unit_test(a_split_device_finds_its_parts),
        cmocka_unit_test(merged_devices_come_together),
        cmocka_unit_test(a_field_may_move_to_another_device),
        cmocka_unit_test(an_unknown_subsection_warns_and_is_refused_when_it_comes),
        cmocka_unit_test(properties_are_compared),
        cmocka_unit_test(a_property_gets_other_values),
        cmocka_unit_test(all_refusals_come_as_one_error),
        cmocka_unit_test(the_list_of_findings_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
