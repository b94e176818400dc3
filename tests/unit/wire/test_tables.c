/* SPDX-License-Identifier: MIT */
/*
 * The tables of records and fields are sound, and docs/wire-format.md holds the same tables.
 *
 * Usage: test-wire-tables docs/wire-format.md
 */
#include "fixture.h"

#include <stdlib.h>

#include "wire/codec.h"

static char **lines; /* of the page; set by main before the tests */

/* The cells of a table row, trimmed; NULL when the line is none, or a ruler. */
static char **cells_of(const char *line)
{
    if (line[0] != '|' || g_str_has_prefix(line, "|--")) {
        return NULL;
    }
    char **parts = g_strsplit(line, "|", -1);
    for (char **at = parts; *at != NULL; at++) {
        g_strstrip(*at);
    }
    return parts; /* parts[0] is empty */
}

static char *set_text(unsigned set, const char *letters)
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; letters[i] != '\0'; i++) {
        if (set & (1u << i)) {
            g_string_append_c(text, letters[i]);
        }
    }
    return g_string_free(text, FALSE);
}

static void check_row(char **cells)
{
    uint16_t type = (uint16_t)strtoul(cells[1], NULL, 16);
    const struct wire_record_type *row = wire_record_type_of(type);

    if (row == NULL) {
        fail_msg("type %s of the page is not in the code", cells[1]);
        return;
    }
    g_autofree char *channels = set_text(row->channels, "CPUSL");
    g_autofree char *phases = set_text(row->phases, "SRBCO");
    g_autofree char *min = g_strdup_printf("%u", row->min_payload_bytes);
    g_autofree char *max = g_strdup_printf("%u", row->max_payload_bytes);
    g_autofree char *bulk = g_strdup_printf("%u", row->max_bulk_bytes);
    const char *sender = row->senders == WIRE_BY_BOTH     ? "B"
                         : row->senders == WIRE_BY_SOURCE ? "S"
                                                          : "D";
    const char *const expected[] = {row->name, channels, sender, phases, min, max, bulk};
    for (size_t i = 0; i < G_N_ELEMENTS(expected); i++) {
        if (strcmp(cells[2 + i], expected[i]) != 0) {
            fail_msg("%s: the page says %s, the code %s", row->name, cells[2 + i], expected[i]);
        }
    }
}

static void page_has_every_record(void **state)
{
    (void)state;
    size_t n_types = 0;
    size_t n_found = 0;

    wire_record_types(&n_types);
    for (char **line = lines; *line != NULL; line++) {
        if (g_str_has_prefix(*line, "| 0x")) {
            g_auto(GStrv) cells = cells_of(*line);
            check_row(cells);
            n_found++;
        }
    }
    assert_int_equal(n_found, n_types);
}

static char *range_text(const struct wire_field *field)
{
    static const uint64_t full[] = {[WIRE_U8] = UINT8_MAX,
                                    [WIRE_U16] = UINT16_MAX,
                                    [WIRE_U32] = UINT32_MAX,
                                    [WIRE_U64] = UINT64_MAX};

    if (field->kind >= WIRE_STRING) {
        return g_strdup_printf("%s %" G_GUINT64_FORMAT "..%" G_GUINT64_FORMAT,
                               field->kind == WIRE_STRING ? "len" : "n", field->min, field->max);
    }
    if (field->kind != WIRE_BOOL && field->min == 0 && field->max == full[field->kind]) {
        return g_strdup("any");
    }
    return g_strdup_printf("%" G_GUINT64_FORMAT "..%" G_GUINT64_FORMAT, field->min, field->max);
}

/* Rows of a message and of its lists' elements, as on the page. */
static void append_rows(GPtrArray *rows, const struct wire_message_desc *desc, const char *prefix)
{
    for (const struct wire_field *f = desc->fields; f->name != NULL; f++) {
        g_autofree char *range = range_text(f);
        g_autofree char *name = g_strconcat(prefix, f->name, NULL);
        g_ptr_array_add(rows,
                        g_strdup_printf("| %s | %s | %s |", name, wire_kind_name(f->kind), range));
        if (f->kind == WIRE_LIST) {
            g_autofree char *deeper = g_strconcat(name, ".", NULL);
            append_rows(rows, f->element, deeper);
        }
    }
}

static void check_fields(const struct wire_record_type *row)
{
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *heading = g_strdup_printf("### %s", row->name);
    char **line = lines;
    guint n_found = 0;

    append_rows(rows, row->message, "");
    while (*line != NULL && strcmp(*line, heading) != 0) {
        line++;
    }
    if (*line == NULL) {
        fail_msg("%s has no heading on the page", row->name);
        return;
    }
    for (line++; *line != NULL && (*line)[0] != '#'; line++) {
        if ((*line)[0] != '|' && n_found > 0) {
            break; /* the first table only */
        }
        if ((*line)[0] != '|' || g_str_has_prefix(*line, "|--") ||
            g_str_has_prefix(*line, "| field")) {
            continue;
        }
        if (n_found >= rows->len ||
            !g_str_has_prefix(*line, (const char *)g_ptr_array_index(rows, n_found))) {
            fail_msg("%s: the page says \"%s\", the code \"%s\"", row->name, *line,
                     n_found < rows->len ? (const char *)g_ptr_array_index(rows, n_found) : "");
        }
        n_found++;
    }
    if (n_found != rows->len) {
        fail_msg("%s: the page has %u fields, the code %u", row->name, n_found, rows->len);
    }
}

static void page_has_every_field(void **state)
{
    (void)state;
    size_t n_types = 0;
    const struct wire_record_type *types = wire_record_types(&n_types);

    for (size_t i = 0; i < n_types; i++) {
        if (types[i].message != NULL) {
            check_fields(&types[i]);
        }
    }
}

static void page_has_every_feature(void **state)
{
    (void)state;
    unsigned n_features = 0;
    unsigned n_found = 0;
    bool is_inside = false;

    while (wire_feature_name(n_features) != NULL) {
        n_features++;
    }
    for (char **line = lines; *line != NULL; line++) {
        if (g_str_has_prefix(*line, "| bit |")) {
            is_inside = true;
        } else if (is_inside && (*line)[0] != '|') {
            break;
        } else if (is_inside && !g_str_has_prefix(*line, "|--")) {
            g_auto(GStrv) cells = cells_of(*line);
            g_autofree char *bit = g_strdup_printf("%u", n_found);
            assert_string_equal(cells[1], bit);
            assert_string_equal(cells[2], wire_feature_name(n_found));
            n_found++;
        }
    }
    assert_int_equal(n_found, n_features);
}

static void check_desc(const struct wire_message_desc *desc, const char *name)
{
    for (const struct wire_field *f = desc->fields; f->name != NULL; f++) {
        if (f->min > f->max || f->offset >= desc->size_bytes) {
            fail_msg("%s.%s: range or offset", name, f->name);
        }
        for (const struct wire_field *g = desc->fields; g != f; g++) {
            if (strcmp(f->name, g->name) == 0 || f->offset == g->offset) {
                fail_msg("%s: %s and %s are one", name, f->name, g->name);
            }
        }
        if (f->kind == WIRE_LIST) {
            assert_true(wire_desc_min_bytes(f->element) > 0);
            check_desc(f->element, f->name);
        }
    }
}

static void table_is_sound(void **state)
{
    (void)state;
    size_t n_types = 0;
    const struct wire_record_type *types = wire_record_types(&n_types);

    for (size_t i = 0; i < n_types; i++) {
        const struct wire_record_type *row = &types[i];
        assert_ptr_equal(wire_record_type_of(row->type), row);
        assert_string_equal(wire_record_name(row->type), row->name);
        assert_true(row->channels != 0 && row->senders != 0 && row->phases != 0);
        assert_true(row->min_payload_bytes <= row->max_payload_bytes);
        assert_true(row->max_payload_bytes <= WIRE_MAX_PAYLOAD);
        assert_true(row->max_bulk_bytes <= WIRE_MAX_BULK);
        for (size_t k = 0; k < i; k++) {
            assert_int_not_equal(types[k].type, row->type);
            assert_string_not_equal(types[k].name, row->name);
        }
        if (row->message != NULL) {
            check_desc(row->message, row->name);
            assert_int_equal(row->min_payload_bytes, wire_desc_min_bytes(row->message));
            assert_int_equal(row->max_payload_bytes,
                             MIN(wire_desc_max_bytes(row->message), WIRE_MAX_PAYLOAD));
        }
    }
    assert_null(wire_record_type_of(0));
    assert_null(wire_record_type_of(0xFFFF));
    assert_string_equal(wire_record_name(0x7000), "unknown");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_is_sound),
        cmocka_unit_test(page_has_every_record),
        cmocka_unit_test(page_has_every_field),
        cmocka_unit_test(page_has_every_feature),
    };
    g_autofree char *text = NULL;

    if (argc != 2 || !g_file_get_contents(argv[1], &text, NULL, NULL)) {
        return 2;
    }
    lines = g_strsplit(text, "\n", -1);
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    g_strfreev(lines);
    return n_failed;
}
