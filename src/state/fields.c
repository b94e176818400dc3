/* SPDX-License-Identifier: MIT */
/* Members of described objects: reading, writing, counting, constraints. */
#include <string.h>

#include "state/state_internal.h"

static uint64_t word_get(const void *at, size_t width)
{
    switch (width) {
    case 1:
        return *(const uint8_t *)at;
    case 2:
        return *(const uint16_t *)at;
    case 4:
        return *(const uint32_t *)at;
    default:
        return *(const uint64_t *)at;
    }
}

static void word_set(void *at, size_t width, uint64_t value)
{
    switch (width) {
    case 1:
        *(uint8_t *)at = (uint8_t)value;
        break;
    case 2:
        *(uint16_t *)at = (uint16_t)value;
        break;
    case 4:
        *(uint32_t *)at = (uint32_t)value;
        break;
    default:
        *(uint64_t *)at = value;
        break;
    }
}

static uint64_t low_bits(unsigned n)
{
    return n >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1;
}

uint64_t element_get(const struct gw_field *field, const void *elements, uint32_t index)
{
    uint64_t word = word_get(member_at(elements, index * field->stride), field->stride);

    if (field->is_bits) {
        return (word >> field->shift) & low_bits(field->bits);
    }
    if (field_is_signed(field)) {
        unsigned unused = 64 - 8 * (unsigned)field->stride;
        return (uint64_t)((int64_t)(word << unused) >> unused);
    }
    return word;
}

void element_set(const struct gw_field *field, void *elements, uint32_t index, uint64_t value)
{
    void *at = member_at(elements, index * field->stride);

    if (field->is_bits) {
        uint64_t mask = low_bits(field->bits) << field->shift;
        uint64_t word = word_get(at, field->stride);
        value = (word & ~mask) | ((value << field->shift) & mask);
    }
    word_set(at, field->stride, value);
}

void *field_elements(const struct gw_field *field, const void *object)
{
    if (field->shape == GW_SHAPE_ALLOC || field->shape == GW_SHAPE_POINTER) {
        return pointer_get(object, field);
    }
    return member_at(object, field->offset);
}

uint64_t count_get(const struct gw_field *field, const void *object)
{
    return word_get(member_at(object, field->count_offset), field->count_width);
}

void count_set(const struct gw_field *field, void *object, uint32_t count)
{
    word_set(member_at(object, field->count_offset), field->count_width, count);
}

uint32_t field_count_max(const struct gw_field *field)
{
    uint64_t max = field->count_max;

    if (field->shape == GW_SHAPE_VARRAY && (max == 0 || max > field->count)) {
        max = field->count;
    }
    if (field_is_counted(field) && field->count_width < sizeof(uint32_t)) {
        max = MIN(max, low_bits(8 * (unsigned)field->count_width));
    }
    return (uint32_t)max;
}

/* Has this table a scalar row for the array's count member, or another variable array that shares
 * it and stands before? *is_before starts true and ends when the array itself was met. */
static bool table_describes_count(const struct gw_field *table, const struct gw_field *array,
                                  bool *is_before)
{
    for (const struct gw_field *row = table; row->name; row++) {
        if (row == array) {
            *is_before = false;
            continue;
        }
        if (field_is_scalar(row) && row->shape == GW_SHAPE_ONE &&
            row->offset == array->count_offset) {
            return true;
        }
        if (*is_before && row->shape == GW_SHAPE_VARRAY &&
            row->count_offset == array->count_offset) {
            return true;
        }
    }
    return false;
}

bool field_owns_count(const struct gw_state_desc *root, const struct gw_field *field)
{
    bool is_before = true;

    if (table_describes_count(root->fields, field, &is_before)) {
        return false;
    }
    for (size_t i = 0; root->subsections && root->subsections[i]; i++) {
        if (table_describes_count(root->subsections[i]->fields, field, &is_before)) {
            return false;
        }
    }
    return true;
}

static char *describe(bool is_signed, uint64_t value)
{
    return is_signed ? g_strdup_printf("%" G_GINT64_FORMAT, (gint64)value)
                     : g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)value);
}

static bool out_of_range(bool is_signed, uint64_t value, const char *what, uint64_t bound,
                         char **why)
{
    if (why) {
        g_autofree char *came = describe(is_signed, value);
        g_autofree char *expected = describe(is_signed, bound);
        *why = g_strdup_printf("is %s, %s %s is allowed", came, what, expected);
    }
    return false;
}

static bool is_less(bool is_signed, uint64_t a, uint64_t b)
{
    return is_signed ? (int64_t)a < (int64_t)b : a < b;
}

bool field_value_ok(const struct gw_field *field, uint64_t value, char **why)
{
    bool is_signed = field_is_signed(field);

    if (field->kind == GW_KIND_BOOL && value > 1) {
        return out_of_range(false, value, "at most", 1, why);
    }
    if (field->kind == GW_KIND_TIMER && (int64_t)value < -1) {
        return out_of_range(true, value, "at least", (uint64_t)-1, why);
    }
    if ((field->has_range || field->min != 0) && is_less(is_signed, value, (uint64_t)field->min)) {
        return out_of_range(is_signed, value, "at least", (uint64_t)field->min, why);
    }
    if ((field->has_range || field->max != 0) && is_less(is_signed, field->max, value)) {
        return out_of_range(is_signed, value, "at most", field->max, why);
    }
    if (field->mask != 0 && (value & ~field->mask) != 0) {
        if (why) {
            *why = g_strdup_printf("is 0x%" G_GINT64_MODIFIER
                                   "x, only bits of 0x%" G_GINT64_MODIFIER "x are allowed",
                                   value, field->mask);
        }
        return false;
    }
    return true;
}

bool field_may_lack(const struct gw_field *field, uint32_t writer_version)
{
    return field->has_fallback || field->fallback != 0 || field->since > writer_version;
}

bool state_name_ok(const char *name)
{
    size_t len = strlen(name);

    if (len == 0 || len > GW_STATE_NAME_MAX || (!g_ascii_isalnum(name[0]) && name[0] != '_')) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isalnum(name[i]) && !strchr("_-.,:/+", name[i])) {
            return false;
        }
    }
    return true;
}

void state_hook_failed(const char *what, GError **error)
{
    if (error && !*error) {
        g_set_error(error, GW_STATE_ERROR, GW_STATE_ERROR_VALUE, "%s failed without a reason",
                    what);
    }
}
