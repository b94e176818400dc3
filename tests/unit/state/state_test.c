/* SPDX-License-Identifier: MIT */
/* Helpers of the device-state tests. */
#include "state_test.h"

struct gw_state_registry *one_device(const struct gw_state_desc *desc, void *object)
{
    struct gw_state_registry *registry = gw_state_registry_new();
    GError *error = NULL;

    if (!gw_state_registry_add(registry, "dev/0", desc, object, &error)) {
        fail_msg("%s", error->message);
    }
    return registry;
}

static void bytes_free(void *bytes)
{
    g_byte_array_unref(bytes);
}

GPtrArray *save_all(const struct gw_state_registry *from)
{
    GPtrArray *sections = g_ptr_array_new_with_free_func(bytes_free);

    for (uint32_t i = 0; i < gw_state_registry_n(from); i++) {
        GByteArray *bytes = g_byte_array_new();
        GError *error = NULL;
        if (!gw_state_save(from, i, bytes, &error)) {
            fail_msg("%s", error->message);
        }
        g_ptr_array_add(sections, bytes);
    }
    return sections;
}

struct gw_schema *over_the_wire(const struct gw_state_registry *from)
{
    struct gw_schema *schema = gw_schema_new(from);
    g_autoptr(GByteArray) bytes = gw_schema_encode(schema);
    GError *error = NULL;

    gw_schema_free(schema);
    schema = gw_schema_parse(bytes->data, bytes->len, &error);
    if (!schema) {
        fail_msg("%s", error->message);
    }
    g_autoptr(GByteArray) again = gw_schema_encode(schema);
    assert_int_equal(again->len, bytes->len);
    assert_memory_equal(again->data, bytes->data, bytes->len);
    return schema;
}

GError *load_sections(const struct gw_state_registry *from, GPtrArray *sections,
                      const struct gw_state_registry *to)
{
    struct gw_state_plan *plan = gw_state_plan_new(over_the_wire(from), to);
    GError *error = NULL;
    struct gw_state_load *load = gw_state_load_begin(plan, &error);

    for (guint i = 0; load && i < sections->len && !error; i++) {
        GByteArray *bytes = g_ptr_array_index(sections, i);
        /* a copy of exactly the right size, so that a sanitizer sees any step beyond it */
        g_autofree uint8_t *exact = g_memdup2(bytes->data, bytes->len);
        assert_true(gw_state_load_add(load, i, exact, bytes->len, &error) == (error == NULL));
    }
    if (!error) {
        assert_true(gw_state_load_commit(load, &error) == (error == NULL));
    }
    if (!error) {
        gw_state_load_keep(load);
    }
    gw_state_load_free(load);
    gw_state_plan_free(plan);
    return error;
}

GError *move(const struct gw_state_registry *from, const struct gw_state_registry *to)
{
    g_autoptr(GPtrArray) sections = save_all(from);

    return load_sections(from, sections, to);
}

void move_one(const struct gw_state_desc *writer, void *from, const struct gw_state_desc *reader,
              void *to)
{
    struct gw_state_registry *source = one_device(writer, from);
    struct gw_state_registry *destination = one_device(reader, to);
    GError *error = move(source, destination);

    if (error) {
        fail_msg("%s", error->message);
    }
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

void refuse_one(const struct gw_state_desc *writer, void *from, const struct gw_state_desc *reader,
                void *to, size_t size, const char *message)
{
    struct gw_state_registry *source = one_device(writer, from);
    struct gw_state_registry *destination = one_device(reader, to);
    g_autofree void *before = g_memdup2(to, size);
    g_autoptr(GError) error = move(source, destination);

    assert_non_null(error);
    assert_string_equal(error->message, message);
    assert_memory_equal(before, to, size);
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

void refuse_save(const struct gw_state_desc *desc, void *object, const char *message)
{
    struct gw_state_registry *registry = one_device(desc, object);
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    g_byte_array_append(out, (const guint8 *)"x", 1);
    assert_false(gw_state_save(registry, 0, out, &error));
    assert_string_equal(error->message, message);
    assert_int_equal(out->len, 1);
    gw_state_registry_free(registry);
}

char *findings(const struct gw_state_registry *from, const struct gw_state_registry *to)
{
    struct gw_state_plan *plan = gw_state_plan_new(over_the_wire(from), to);
    GString *text = g_string_new(NULL);
    uint32_t n = 0;
    const struct gw_finding *list = gw_state_plan_findings(plan, &n);

    for (uint32_t i = 0; i < n; i++) {
        g_string_append_printf(text, "%s %s\n", list[i].severity == GW_SEVERITY_REFUSE ? "!" : "-",
                               list[i].sentence);
    }
    gw_state_plan_free(plan);
    return g_string_free(text, FALSE);
}
