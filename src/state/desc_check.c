/* SPDX-License-Identifier: MIT */
/*
 * The static check of a table. Everything else in this folder relies on it: registration refuses
 * a description that does not pass.
 *
 * The overlap check matters most: committing exchanges members between object and shadow, so two
 * rows for the same bits would undo each other.
 */
#include <stdlib.h>
#include <string.h>

#include "state/state_internal.h"

/* Bits of the object that a row covers. */
struct span {
    uint64_t first;
    uint64_t n;
    const char *name;
    bool is_sharable; /* a whole scalar, or the count of a VARRAY */
};

struct check {
    const struct gw_state_desc *desc; /* the table that is checked */
    GArray *spans;
    GHashTable *names;
    unsigned depth;
    bool is_fresh; /* its objects are made by load: nothing to compare GW_EQUAL_* with */
    GError **error;
};

static bool check_desc(const struct gw_state_desc *desc, unsigned depth, bool is_fresh,
                       GError **error);

G_GNUC_PRINTF(3, 4)
static bool bad(const struct check *check, const struct gw_field *field, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *why = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(check->error, GW_STATE_ERROR, GW_STATE_ERROR_TABLE, "description %s%s%s: %s",
                check->desc->name, field ? ", field " : "", field ? field_name(field) : "", why);
    return false;
}

static void add_span(struct check *check, const char *name, size_t offset, uint64_t bytes,
                     bool is_sharable)
{
    struct span span = {8 * (uint64_t)offset, 8 * bytes, name, is_sharable};

    g_array_append_val(check->spans, span);
}

static void add_count_span(struct check *check, const struct gw_field *field)
{
    uint64_t first = 8 * (uint64_t)field->count_offset;
    uint64_t n = 8 * field->count_width;

    for (guint i = 0; i < check->spans->len && field->shape == GW_SHAPE_VARRAY; i++) {
        const struct span *other = &g_array_index(check->spans, struct span, i);
        if (other->is_sharable && other->first == first && other->n == n) {
            return;
        }
    }
    add_span(check, field_name(field), field->count_offset, field->count_width,
             field->shape == GW_SHAPE_VARRAY);
}

static int by_first(const void *a, const void *b)
{
    const struct span *left = a;
    const struct span *right = b;

    return left->first < right->first ? -1 : left->first > right->first;
}

static bool check_spans(struct check *check)
{
    GArray *spans = check->spans;

    qsort(spans->data, spans->len, sizeof(struct span), by_first);
    for (guint i = 0; i < spans->len; i++) {
        const struct span *span = &g_array_index(spans, struct span, i);
        if (span->first + span->n > 8 * (uint64_t)check->desc->object_size) {
            return bad(check, NULL, "%s lies outside of the object", span->name);
        }
        if (i > 0) {
            const struct span *before = span - 1;
            if (before->first + before->n > span->first) {
                return bad(check, NULL, "%s and %s overlap", before->name, span->name);
            }
        }
    }
    return true;
}

static bool check_scalar(struct check *check, const struct gw_field *field)
{
    size_t width = field->stride;

    if ((width != 1 && width != 2 && width != 4 && width != 8) || field->bits == 0 ||
        field->shift + field->bits > 8 * width || (field->is_bits && field->kind != GW_KIND_UINT) ||
        (!field->is_bits && field->shift)) {
        return bad(check, field, "impossible width");
    }
    if (field->shape == GW_SHAPE_POINTER || field->shape == GW_SHAPE_LIST ||
        (field->is_bits && field->shape != GW_SHAPE_ONE)) {
        return bad(check, field, "impossible shape");
    }
    g_autofree char *why = NULL;
    if ((field->has_fallback || field->fallback || field->since > 1) && !field->must_equal &&
        !field_value_ok(field, field->fallback, &why)) {
        return bad(check, field, "its fallback %s", why);
    }
    if (field_is_signed(field) && field->mask) {
        return bad(check, field, "a mask on a signed value");
    }
    return true;
}

static bool check_struct(struct check *check, const struct gw_field *field)
{
    bool is_fresh =
        check->is_fresh || field->shape == GW_SHAPE_ALLOC || field->shape == GW_SHAPE_LIST;

    if (!field->desc) {
        return bad(check, field, "no description of the struct");
    }
    if (!check_desc(field->desc, check->depth + 1, is_fresh, check->error)) {
        g_prefix_error(check->error, "description %s, field %s: ", check->desc->name,
                       field_name(field));
        return false;
    }
    if (!field->desc->fields->name && !(field->desc->subsections && field->desc->subsections[0])) {
        return bad(check, field, "its struct has no fields");
    }
    if (field->kind == GW_KIND_TEMP) {
        if (!field->to_temp || !field->from_temp || field->shape != GW_SHAPE_ONE) {
            return bad(check, field, "a temporary needs both conversions");
        }
    } else if (field->shape != GW_SHAPE_LIST && field->stride != field->desc->object_size) {
        return bad(check, field, "the struct has %zu bytes, its description says %zu",
                   field->stride, field->desc->object_size);
    }
    return true;
}

static bool check_counts(struct check *check, const struct gw_field *field)
{
    uint64_t limit = field->kind == GW_KIND_BYTES ? GW_STATE_BUFFER_MAX : GW_STATE_COUNT_MAX;
    uint64_t max = field->count;

    if (field_is_counted(field) || field->shape == GW_SHAPE_LIST) {
        max = field_count_max(field);
    }
    if (max == 0 || max > limit) {
        return bad(check, field,
                   "at most %" G_GUINT64_FORMAT " elements, not 1 to %" G_GUINT64_FORMAT, max,
                   limit);
    }
    if (field_is_counted(field) && field->count_width != 1 && field->count_width != 2 &&
        field->count_width != 4 && field->count_width != 8) {
        return bad(check, field, "impossible width of its count");
    }
    return true;
}

static void add_field_span(struct check *check, const struct gw_field *field)
{
    switch (field->shape) {
    case GW_SHAPE_ALLOC:
    case GW_SHAPE_POINTER:
    case GW_SHAPE_LIST:
        add_span(check, field_name(field), field->offset, sizeof(void *), false);
        break;
    default:
        if (field->kind == GW_KIND_TEMP) {
            break;
        }
        if (field->is_bits) {
            struct span span = {8 * (uint64_t)field->offset + field->shift, field->bits,
                                field_name(field), false};
            g_array_append_val(check->spans, span);
            break;
        }
        add_span(check, field_name(field), field->offset, (uint64_t)field->count * field->stride,
                 field_is_scalar(field) && field->shape == GW_SHAPE_ONE);
        break;
    }
}

static bool check_field(struct check *check, const struct gw_field *field)
{
    const char *names[] = {field_name(field), field->was, field->from};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (names[i] && !state_name_ok(names[i])) {
            return bad(check, field, "'%s' is no good name (give a .label)", names[i]);
        }
    }
    if (!g_hash_table_add(check->names, (gpointer)field_name(field)) ||
        (field->was && !g_hash_table_add(check->names, (gpointer)field->was))) {
        return bad(check, field, "the name is used twice");
    }
    if (field->since > check->desc->version) {
        return bad(check, field, "since version %u of a description of version %u", field->since,
                   check->desc->version);
    }
    if (field->must_equal &&
        (check->is_fresh || (field->shape != GW_SHAPE_ONE &&
                             !(field->kind == GW_KIND_BYTES && field->shape == GW_SHAPE_ARRAY)))) {
        return bad(check, field, "nothing to be equal with");
    }
    bool ok = check_counts(check, field);
    if (ok && field_is_scalar(field)) {
        ok = check_scalar(check, field);
    } else if (ok && (field->kind == GW_KIND_STRUCT || field->kind == GW_KIND_TEMP)) {
        ok = check_struct(check, field);
    } else if (ok && (field->kind != GW_KIND_BYTES || field->stride != 1 ||
                      (field->shape != GW_SHAPE_ARRAY && !field_is_counted(field)))) {
        ok = bad(check, field, "impossible kind or shape");
    }
    if (ok) {
        add_field_span(check, field);
    }
    return ok;
}

static bool check_table(struct check *check, const struct gw_state_desc *desc)
{
    check->desc = desc;
    if (!desc->name || !state_name_ok(desc->name)) {
        return bad(check, NULL, "no good name");
    }
    if (desc->version == 0 || desc->min_version > desc->version || !desc->fields ||
        desc->object_size == 0) {
        return bad(check, NULL, "version, fields or object_size are missing");
    }
    unsigned n = 0;
    for (const struct gw_field *field = desc->fields; field->name; field++) {
        if (++n > GW_STATE_FIELDS_MAX) {
            return bad(check, NULL, "more than %u fields", GW_STATE_FIELDS_MAX);
        }
        if (!check_field(check, field)) {
            return false;
        }
    }
    return true;
}

static void add_count_spans(struct check *check, const struct gw_state_desc *desc)
{
    for (const struct gw_field *field = desc->fields; field->name; field++) {
        if (field_is_counted(field)) {
            add_count_span(check, field);
        }
    }
}

/* Subsections of desc, which share its object; they have no subsections themselves. */
static bool check_subsections(struct check *check, const struct gw_state_desc *desc)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);

    for (size_t i = 0; desc->subsections && desc->subsections[i]; i++) {
        const struct gw_state_desc *sub = desc->subsections[i];
        g_hash_table_remove_all(check->names);
        if (!check_table(check, sub)) {
            return false;
        }
        check->desc = desc;
        if (i >= GW_STATE_FIELDS_MAX || sub->subsections || sub->object_size != desc->object_size ||
            !sub->fields->name || !g_hash_table_add(names, (gpointer)sub->name)) {
            return bad(check, NULL,
                       "subsection %s: twice, empty, nested, or of another object_size", sub->name);
        }
    }
    return true;
}

static bool check_desc(const struct gw_state_desc *desc, unsigned depth, bool is_fresh,
                       GError **error)
{
    struct check check = {.desc = desc, .depth = depth, .is_fresh = is_fresh, .error = error};

    if (depth > GW_STATE_DEPTH_MAX) {
        return bad(&check, NULL, "structs nested deeper than %u", GW_STATE_DEPTH_MAX);
    }
    check.spans = g_array_new(FALSE, FALSE, sizeof(struct span));
    check.names = g_hash_table_new(g_str_hash, g_str_equal);
    bool ok = check_table(&check, desc) && check_subsections(&check, desc);
    if (ok) {
        check.desc = desc;
        add_count_spans(&check, desc);
        for (size_t i = 0; desc->subsections && desc->subsections[i]; i++) {
            add_count_spans(&check, desc->subsections[i]);
        }
        ok = check_spans(&check);
    }
    g_array_free(check.spans, TRUE);
    g_hash_table_destroy(check.names);
    return ok;
}

bool gw_state_desc_check(const struct gw_state_desc *desc, GError **error)
{
    return check_desc(desc, 1, false, error);
}
