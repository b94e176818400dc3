/* SPDX-License-Identifier: MIT */
/*
 * A writer's section, read into the shadow of an instance along the plan. PEER: every byte is
 * hostile; counts are bounded by the writer's schema, by our table, and by the bytes that are left,
 * before anything is allocated for them.
 */
#include <string.h>

#include "state/load.h"

/* One section on its way into one instance. */
struct decoder {
    struct gw_state_load *load;
    struct section section;
    const char *device; /* our instance */
};

static bool decode_struct(struct decoder *decoder, const struct plan_map *map, void *shadow,
                          const void *object);

/* Where a field's values go. */
struct target {
    const struct gw_schema_field *came;
    const struct gw_field *field;
    const struct plan_map *nested;
};

static bool decode_number(struct decoder *decoder, const struct target *target, void *elements,
                          uint32_t index)
{
    struct section *section = &decoder->section;
    const struct gw_field *field = target->field;
    uint64_t value = 0;

    if (!section_number(section, target->came->kind, target->came->bits, &value)) {
        return false;
    }
    g_autofree char *why = NULL;
    if (!field_value_ok(field, value, &why)) {
        return section_fail(section, GW_STATE_ERROR_VALUE, "%s", why);
    }
    if (!field->must_equal) {
        element_set(field, elements, index, value);
        return true;
    }
    uint64_t own = element_get(field, elements, index);
    if (own != value) {
        return section_fail(section, GW_STATE_ERROR_VALUE,
                            "is %" G_GINT64_FORMAT ", this side has %" G_GINT64_FORMAT
                            " and both must be equal",
                            (gint64)value, (gint64)own);
    }
    return true;
}

static bool decode_bytes(struct decoder *decoder, const struct target *target, uint8_t *to,
                         uint32_t n)
{
    const uint8_t *bytes = NULL;

    if (!section_bytes(&decoder->section, n, &bytes)) {
        return false;
    }
    if (target->field->must_equal && memcmp(to, bytes, n) != 0) {
        return section_fail(&decoder->section, GW_STATE_ERROR_VALUE,
                            "differs from this side's, and both must be equal");
    }
    if (n) {
        memcpy(to, bytes, n);
    }
    return true;
}

/* n elements that stand one after the other; real ones, if they exist, at object_elements. */
static bool decode_elements(struct decoder *decoder, const struct target *target, uint8_t *elements,
                            const uint8_t *object_elements, uint32_t n)
{
    const struct gw_field *field = target->field;

    if (field->kind == GW_KIND_BYTES) {
        return decode_bytes(decoder, target, elements, n);
    }
    bool ok = true;
    for (uint32_t i = 0; i < n && ok; i++) {
        section_enter(&decoder->section, NULL, i);
        if (field->kind == GW_KIND_STRUCT) {
            size_t at = i * field->stride;
            ok = decode_struct(decoder, target->nested, elements + at,
                               object_elements ? object_elements + at : NULL);
        } else {
            ok = decode_number(decoder, target, elements, i);
        }
        section_leave(&decoder->section);
    }
    return ok;
}

static bool decode_alloc(struct decoder *decoder, const struct target *target, void *shadow,
                         uint32_t n)
{
    const struct gw_field *field = target->field;

    if (n == 0) {
        return true;
    }
    uint8_t *elements = g_malloc0_n(n, field->stride);
    pointer_set(shadow, field, elements);
    count_set(field, shadow, n);
    for (uint32_t i = 0; i < n && field->kind == GW_KIND_STRUCT; i++) {
        shadow_init(decoder->load, decoder->device, field->desc, elements + i * field->stride,
                    NULL);
    }
    return decode_elements(decoder, target, elements, NULL, n);
}

static bool decode_list(struct decoder *decoder, const struct target *target, void *shadow,
                        uint32_t n)
{
    const struct gw_field *field = target->field;
    GPtrArray *list = pointer_get(shadow, field);
    bool ok = true;

    if (!list && n > 0) {
        list = g_ptr_array_new();
        pointer_set(shadow, field, list);
    }
    for (uint32_t i = 0; i < n && ok; i++) {
        void *element = g_malloc0(field->desc->object_size);
        shadow_init(decoder->load, decoder->device, field->desc, element, NULL);
        g_ptr_array_add(list, element);
        section_enter(&decoder->section, NULL, i);
        ok = decode_struct(decoder, target->nested, element, NULL);
        section_leave(&decoder->section);
    }
    return ok;
}

static bool decode_counted(struct decoder *decoder, const struct target *target,
                           const struct plan_map *map, void *shadow, const void *object)
{
    const struct gw_field *field = target->field;
    uint32_t n = 0;

    if (!section_count(&decoder->section, target->came, &n)) {
        return false;
    }
    if (n > field_count_max(field)) {
        return section_fail(&decoder->section, GW_STATE_ERROR_VALUE,
                            "has %u elements, at most %u are allowed", n, field_count_max(field));
    }
    if (field->shape == GW_SHAPE_ALLOC) {
        return decode_alloc(decoder, target, shadow, n);
    }
    if (field->shape == GW_SHAPE_LIST) {
        return decode_list(decoder, target, shadow, n);
    }
    if (field_owns_count(map->root, field)) {
        count_set(field, shadow, n);
    } else {
        struct load_count pending = {field, shadow, n, decoder->device};
        g_array_append_val(decoder->load->counts, pending);
    }
    return decode_elements(decoder, target, member_at(shadow, field->offset),
                           object ? member_at(object, field->offset) : NULL, n);
}

static bool decode_pointer(struct decoder *decoder, const struct target *target, void *shadow,
                           const void *object)
{
    const struct gw_field *field = target->field;
    const void *real = object ? pointer_get(object, field) : NULL;
    bool is_present = false;

    if (!section_flag(&decoder->section, &is_present)) {
        return false;
    }
    if (!is_present) {
        return !field->is_required ||
               section_fail(&decoder->section, GW_STATE_ERROR_VALUE, "is absent but required");
    }
    size_t size = field->desc->object_size;
    void *pointee = real ? g_memdup2(real, size) : g_malloc0(size);
    shadow_init(decoder->load, decoder->device, field->desc, pointee, real);
    pointer_set(shadow, field, pointee);
    return decode_struct(decoder, target->nested, pointee, real);
}

static bool decode_temp(struct decoder *decoder, const struct target *target, const void *shadow)
{
    GArray *temps = decoder->load->temps;

    /* from the end: a struct that was just made has its conversions there */
    for (guint i = temps->len; i > 0; i--) {
        const struct load_temp *pending = &g_array_index(temps, struct load_temp, i - 1);
        if (pending->shadow == shadow && pending->field == target->field) {
            return decode_struct(decoder, target->nested, pending->temp, NULL);
        }
    }
    return section_fail(&decoder->section, GW_STATE_ERROR_TABLE, "no place for its conversion");
}

static bool decode_field(struct decoder *decoder, const struct plan_map *map, uint32_t index,
                         void *shadow, const void *object)
{
    struct target target = {
        .came = &map->type->fields[index],
        .field = map->fields[index].field,
        .nested = map->fields[index].nested,
    };
    const struct gw_field *field = target.field;

    if (!field) {
        return section_visit_field(&decoder->section, target.came, NULL);
    }
    void *elements = member_at(shadow, field->offset);
    const void *real = object ? member_at(object, field->offset) : NULL;
    bool ok;
    section_enter(&decoder->section, target.came->name, 0);
    if (field->kind == GW_KIND_TEMP) {
        ok = decode_temp(decoder, &target, shadow);
    } else if (field->shape == GW_SHAPE_POINTER) {
        ok = decode_pointer(decoder, &target, shadow, object);
    } else if (field->shape == GW_SHAPE_ARRAY) {
        ok = decode_elements(decoder, &target, elements, real, target.came->count);
    } else if (field->shape != GW_SHAPE_ONE) {
        ok = decode_counted(decoder, &target, map, shadow, object);
    } else if (field->kind == GW_KIND_STRUCT) {
        ok = decode_struct(decoder, target.nested, elements, real);
    } else {
        ok = decode_number(decoder, &target, elements, 0);
    }
    section_leave(&decoder->section);
    return ok;
}

static bool decode_subsection(struct decoder *decoder, const struct plan_map *map, uint32_t index,
                              void *shadow, const void *object)
{
    struct section *section = &decoder->section;
    const struct gw_schema_type *type = &section->schema->types[map->type->subsections[index]];
    bool is_present = false;

    section_enter(section, type->name, 0);
    bool ok = section_flag(section, &is_present);
    if (ok && is_present) {
        if (map->subsections[index]) {
            ok = decode_struct(decoder, map->subsections[index], shadow, object);
        } else if (map->is_dropped[index]) {
            ok = section_visit_struct(section, type, NULL);
        } else {
            ok = section_fail(section, GW_STATE_ERROR_UNKNOWN,
                              "this subsection is needed by the guest and not known on this side");
        }
    }
    section_leave(section);
    return ok;
}

static bool decode_struct(struct decoder *decoder, const struct plan_map *map, void *shadow,
                          const void *object)
{
    for (uint32_t i = 0; i < map->type->n_fields; i++) {
        if (!decode_field(decoder, map, i, shadow, object)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < map->type->n_subsections; i++) {
        if (!decode_subsection(decoder, map, i, shadow, object)) {
            return false;
        }
    }
    return true;
}

bool decode_section(struct gw_state_load *load, uint32_t entry_index,
                    const struct plan_source *source, const uint8_t *bytes, size_t len,
                    GError **error)
{
    const struct state_entry *entry = load->plan->entries[entry_index].entry;
    struct decoder decoder = {
        .load = load,
        .device = entry->id,
        .section =
            {
                .schema = load->plan->schema,
                .device = load->plan->schema->devices[source->device].id,
                .at = bytes,
                .end = bytes + len,
                .size_bytes = len,
                .error = error,
            },
    };

    return decode_struct(&decoder, source->map, load->shadows[entry_index], entry->object) &&
           section_end(&decoder.section);
}
