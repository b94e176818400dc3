/* SPDX-License-Identifier: MIT */
/*
 * Native sections, taken apart by the writer's schema. PEER: every byte is hostile.
 *
 * Cost: each struct, number and array costs at least one byte of the section, so time is linear in
 * its length whatever the schema says.
 */
#include <string.h>

#include "state/schema.h"

void section_enter(struct section *section, const char *name, uint32_t index)
{
    if (section->depth < SECTION_PATH_MAX) {
        section->path[section->depth] = (struct section_step){name, index};
    }
    section->depth++;
}

void section_leave(struct section *section)
{
    section->depth--;
}

bool section_fail(struct section *section, enum gw_state_error code, const char *format, ...)
{
    g_autoptr(GString) path = g_string_new(NULL);
    va_list args;

    va_start(args, format);
    g_autofree char *why = g_strdup_vprintf(format, args);
    va_end(args);
    for (unsigned i = 0; i < section->depth && i < SECTION_PATH_MAX; i++) {
        const struct section_step *step = &section->path[i];
        if (step->name) {
            g_string_append_printf(path, "%s%s", path->len ? "." : ", field ", step->name);
        } else {
            g_string_append_printf(path, "[%u]", step->index);
        }
    }
    g_set_error(section->error, GW_STATE_ERROR, (gint)code, "device %s%s: %s", section->device,
                path->str, why);
    return false;
}

static size_t left(const struct section *section)
{
    return (size_t)(section->end - section->at);
}

static bool take(struct section *section, uint32_t width, uint64_t *value)
{
    if (left(section) < width) {
        return section_fail(section, GW_STATE_ERROR_DATA,
                            "the section of %zu bytes ends before its value", section->size_bytes);
    }
    uint64_t n = 0;
    for (uint32_t i = 0; i < width; i++) {
        n |= (uint64_t)section->at[i] << (8 * i);
    }
    section->at += width;
    *value = n;
    return true;
}

bool section_number(struct section *section, enum gw_field_kind kind, uint32_t bits,
                    uint64_t *value)
{
    uint64_t n = 0;

    if (!take(section, native_width(bits), &n)) {
        return false;
    }
    if (kind == GW_KIND_INT || kind == GW_KIND_TIMER) {
        unsigned unused = 64 - bits;
        n = (uint64_t)((int64_t)(n << unused) >> unused);
    } else if (bits < 64 && n >> bits) {
        return section_fail(section, GW_STATE_ERROR_DATA,
                            "is %" G_GUINT64_FORMAT ", beyond its %u bits", n, bits);
    }
    *value = n;
    return true;
}

bool section_flag(struct section *section, bool *is_set)
{
    uint64_t n = 0;

    if (!section_number(section, GW_KIND_UINT, 1, &n)) {
        return false;
    }
    *is_set = n;
    return true;
}

static uint64_t element_min_bytes(const struct section *section,
                                  const struct gw_schema_field *field)
{
    if (field->kind == GW_KIND_BYTES) {
        return 1;
    }
    if (field->kind == GW_KIND_STRUCT) {
        return section->schema->types[field->type].min_bytes;
    }
    return native_width(field->bits);
}

bool section_count(struct section *section, const struct gw_schema_field *field, uint32_t *n)
{
    uint64_t count = field->count;

    if (schema_shape_is_counted(field->shape) && !take(section, 4, &count)) {
        return false;
    }
    if (count > field->count) {
        return section_fail(section, GW_STATE_ERROR_DATA,
                            "has %" G_GUINT64_FORMAT " elements, its schema allows %u", count,
                            field->count);
    }
    if (count * element_min_bytes(section, field) > left(section)) {
        return section_fail(section, GW_STATE_ERROR_DATA,
                            "has %" G_GUINT64_FORMAT " elements, but only %zu bytes are left",
                            count, left(section));
    }
    *n = (uint32_t)count;
    return true;
}

bool section_bytes(struct section *section, uint32_t n, const uint8_t **bytes)
{
    if (left(section) < n) {
        return section_fail(section, GW_STATE_ERROR_DATA,
                            "the section of %zu bytes ends before its value", section->size_bytes);
    }
    *bytes = section->at;
    section->at += n;
    return true;
}

bool section_end(struct section *section)
{
    if (section->at != section->end) {
        return section_fail(section, GW_STATE_ERROR_DATA, "%zu bytes too many", left(section));
    }
    return true;
}

static bool visit_element(struct section *section, const struct gw_schema_field *field,
                          const char *name, struct state_encoder *encoder)
{
    if (field->kind == GW_KIND_STRUCT) {
        if (encoder) {
            encoder->ops->begin_struct(encoder, name);
        }
        bool ok = section_visit_struct(section, &section->schema->types[field->type], encoder);
        if (encoder) {
            encoder->ops->end_struct(encoder);
        }
        return ok;
    }
    uint64_t value = 0;
    if (!section_number(section, field->kind, field->bits, &value)) {
        return false;
    }
    if (encoder) {
        encoder->ops->number(encoder, name, field->kind, field->bits, value);
    }
    return true;
}

static bool visit_array(struct section *section, const struct gw_schema_field *field,
                        struct state_encoder *encoder)
{
    bool is_counted = schema_shape_is_counted(field->shape);
    uint32_t n = 0;

    if (!section_count(section, field, &n)) {
        return false;
    }
    if (field->kind == GW_KIND_BYTES) {
        const uint8_t *bytes = NULL;
        if (!section_bytes(section, n, &bytes)) {
            return false;
        }
        if (encoder) {
            encoder->ops->bytes(encoder, field->name, bytes, n, is_counted);
        }
        return true;
    }
    if (encoder) {
        encoder->ops->begin_array(encoder, field->name, n, is_counted);
    }
    bool ok = true;
    for (uint32_t i = 0; i < n && ok; i++) {
        section_enter(section, NULL, i);
        ok = visit_element(section, field, NULL, encoder);
        section_leave(section);
    }
    if (encoder) {
        encoder->ops->end_array(encoder);
    }
    return ok;
}

bool section_visit_field(struct section *section, const struct gw_schema_field *field,
                         struct state_encoder *encoder)
{
    bool ok = true;

    section_enter(section, field->name, 0);
    if (field->shape == GW_SHAPE_POINTER) {
        bool is_present = false;
        ok = section_flag(section, &is_present);
        if (ok && encoder) {
            encoder->ops->presence(encoder, field->name, false, is_present);
        }
        if (ok && is_present) {
            ok = visit_element(section, field, field->name, encoder);
        }
    } else if (field->shape == GW_SHAPE_ONE) {
        ok = visit_element(section, field, field->name, encoder);
    } else {
        ok = visit_array(section, field, encoder);
    }
    section_leave(section);
    return ok;
}

bool section_visit_struct(struct section *section, const struct gw_schema_type *type,
                          struct state_encoder *encoder)
{
    for (uint32_t i = 0; i < type->n_fields; i++) {
        if (!section_visit_field(section, &type->fields[i], encoder)) {
            return false;
        }
    }
    bool ok = true;
    for (uint32_t i = 0; i < type->n_subsections && ok; i++) {
        const struct gw_schema_type *sub = &section->schema->types[type->subsections[i]];
        bool is_present = false;
        section_enter(section, sub->name, 0);
        ok = section_flag(section, &is_present);
        if (ok && encoder) {
            encoder->ops->presence(encoder, sub->name, true, is_present);
        }
        if (ok && is_present) {
            if (encoder) {
                encoder->ops->begin_struct(encoder, sub->name);
            }
            ok = section_visit_struct(section, sub, encoder);
            if (encoder) {
                encoder->ops->end_struct(encoder);
            }
        }
        section_leave(section);
    }
    return ok;
}
