/* SPDX-License-Identifier: MIT */
/*
 * Shadows of objects, and their exchange with the real ones.
 *
 * A shadow is a byte copy of the object in which every described member has been set to its
 * fallback and every described pointer to nothing; decoding fills it. Existing pointees of
 * GW_POINTER rows have shadows of their own, made when their struct comes.
 *
 * The exchange allocates nothing that could be refused, so it cannot stop half-way; and doing it
 * once more undoes it, which is all there is to a rollback.
 */
#include <string.h>

#include "state/load.h"

/* ---- shadows ---- */

static void shadow_init_temp(struct gw_state_load *load, const char *device,
                             const struct gw_field *field, void *shadow, const void *object)
{
    struct load_temp pending = {
        .field = field,
        .shadow = shadow,
        .object = (void *)object,
        .temp = g_malloc0(field->desc->object_size),
        .device = device,
    };

    shadow_init(load, device, field->desc, pending.temp, NULL);
    g_array_append_val(load->temps, pending);
}

static void shadow_init_inline(struct gw_state_load *load, const char *device,
                               const struct gw_field *field, void *shadow, const void *object)
{
    uint8_t *elements = member_at(shadow, field->offset);

    if (field->kind == GW_KIND_STRUCT) {
        for (size_t i = 0; i < field->count; i++) {
            const void *real = object ? member_at(object, field->offset + i * field->stride) : NULL;
            shadow_init(load, device, field->desc, elements + i * field->stride, real);
        }
    } else if (field->must_equal) {
        return; /* stays what the object has */
    } else if (field->kind == GW_KIND_BYTES) {
        memset(elements, 0, field->count);
    } else {
        for (uint32_t i = 0; i < field->count; i++) {
            element_set(field, elements, i, field->fallback);
        }
    }
}

static void shadow_init_field(struct gw_state_load *load, const char *device,
                              const struct gw_state_desc *root, const struct gw_field *field,
                              void *shadow, const void *object)
{
    if (field->kind == GW_KIND_TEMP) {
        shadow_init_temp(load, device, field, shadow, object);
        return;
    }
    switch (field->shape) {
    case GW_SHAPE_ALLOC:
        pointer_set(shadow, field, NULL);
        count_set(field, shadow, 0);
        break;
    case GW_SHAPE_POINTER:
        pointer_set(shadow, field, NULL);
        break;
    case GW_SHAPE_LIST:
        /* swap_list relies on this: a list that exists has a list as its shadow */
        pointer_set(shadow, field, object && pointer_get(object, field) ? g_ptr_array_new() : NULL);
        break;
    default:
        shadow_init_inline(load, device, field, shadow, object);
        if (field->shape == GW_SHAPE_VARRAY && field_owns_count(root, field)) {
            count_set(field, shadow, 0);
        }
        break;
    }
}

void shadow_init(struct gw_state_load *load, const char *device, const struct gw_state_desc *desc,
                 void *shadow, const void *object)
{
    for (const struct gw_field *field = desc->fields; field->name; field++) {
        shadow_init_field(load, device, desc, field, shadow, object);
    }
    for (size_t s = 0; desc->subsections && desc->subsections[s]; s++) {
        for (const struct gw_field *field = desc->subsections[s]->fields; field->name; field++) {
            shadow_init_field(load, device, desc, field, shadow, object);
        }
    }
}

static void shadow_clear_field(const struct gw_field *field, void *shadow, const void *object)
{
    if (field->kind != GW_KIND_STRUCT) {
        return;
    }
    if (field->shape == GW_SHAPE_ONE || field->shape == GW_SHAPE_ARRAY ||
        field->shape == GW_SHAPE_VARRAY) {
        for (size_t i = 0; i < field->count; i++) {
            size_t at = field->offset + i * field->stride;
            shadow_clear(field->desc, member_at(shadow, at), member_at(object, at));
        }
    } else if (field->shape == GW_SHAPE_POINTER && pointer_get(shadow, field) &&
               pointer_get(object, field)) {
        /* a byte copy of the real one: what is not described belongs to that */
        void *copy = pointer_get(shadow, field);
        shadow_clear(field->desc, copy, pointer_get(object, field));
        g_free(copy);
        pointer_set(shadow, field, NULL);
    }
}

void shadow_clear(const struct gw_state_desc *desc, void *shadow, const void *object)
{
    for (const struct gw_field *field = desc->fields; field->name; field++) {
        shadow_clear_field(field, shadow, object);
    }
    for (size_t s = 0; desc->subsections && desc->subsections[s]; s++) {
        for (const struct gw_field *field = desc->subsections[s]->fields; field->name; field++) {
            shadow_clear_field(field, shadow, object);
        }
    }
    state_clear(desc, shadow);
}

/* ---- exchange ---- */

static void swap_bytes(void *a, void *b, size_t n)
{
    uint8_t *left = a;
    uint8_t *right = b;

    for (size_t i = 0; i < n; i++) {
        uint8_t byte = left[i];
        left[i] = right[i];
        right[i] = byte;
    }
}

static void swap_pointers(const struct gw_field *field, void *object, void *shadow)
{
    void *pointer = pointer_get(object, field);

    pointer_set(object, field, pointer_get(shadow, field));
    pointer_set(shadow, field, pointer);
}

static void list_fill(GPtrArray *list, gpointer *elements, gsize n)
{
    for (gsize i = 0; i < n; i++) {
        g_ptr_array_add(list, elements[i]);
    }
    g_free(elements);
}

static void swap_list(const struct gw_field *field, void *object, void *shadow)
{
    GPtrArray *real = pointer_get(object, field);
    GPtrArray *other = pointer_get(shadow, field);

    if (!real || !other) {
        swap_pointers(field, object, shadow);
        return;
    }
    gsize n_real = 0;
    gsize n_other = 0;
    gpointer *real_elements = g_ptr_array_steal(real, &n_real);
    gpointer *other_elements = g_ptr_array_steal(other, &n_other);
    list_fill(real, other_elements, n_other);
    list_fill(other, real_elements, n_real);
}

static void swap_inline(const struct gw_field *field, void *object, void *shadow)
{
    uint8_t *real = member_at(object, field->offset);
    uint8_t *other = member_at(shadow, field->offset);

    if (field->kind == GW_KIND_STRUCT) {
        for (size_t i = 0; i < field->count; i++) {
            swap_struct(field->desc, real + i * field->stride, other + i * field->stride);
        }
    } else if (field->is_bits) {
        uint64_t value = element_get(field, real, 0);
        element_set(field, real, 0, element_get(field, other, 0));
        element_set(field, other, 0, value);
    } else {
        swap_bytes(real, other, field->count * field->stride);
    }
}

static void swap_counts(const struct gw_field *field, void *object, void *shadow)
{
    swap_bytes(member_at(object, field->count_offset), member_at(shadow, field->count_offset),
               field->count_width);
}

static void swap_field(const struct gw_state_desc *root, const struct gw_field *field, void *object,
                       void *shadow)
{
    if (field->kind == GW_KIND_TEMP || field->must_equal) {
        return;
    }
    switch (field->shape) {
    case GW_SHAPE_ALLOC:
        swap_pointers(field, object, shadow);
        swap_counts(field, object, shadow);
        break;
    case GW_SHAPE_POINTER:
        if (pointer_get(object, field) && pointer_get(shadow, field)) {
            swap_struct(field->desc, pointer_get(object, field), pointer_get(shadow, field));
        } else {
            swap_pointers(field, object, shadow);
        }
        break;
    case GW_SHAPE_LIST:
        swap_list(field, object, shadow);
        break;
    default:
        swap_inline(field, object, shadow);
        if (field->shape == GW_SHAPE_VARRAY && field_owns_count(root, field)) {
            swap_counts(field, object, shadow);
        }
        break;
    }
}

void swap_struct(const struct gw_state_desc *desc, void *object, void *shadow)
{
    for (const struct gw_field *field = desc->fields; field->name; field++) {
        swap_field(desc, field, object, shadow);
    }
    for (size_t s = 0; desc->subsections && desc->subsections[s]; s++) {
        for (const struct gw_field *field = desc->subsections[s]->fields; field->name; field++) {
            swap_field(desc, field, object, shadow);
        }
    }
}
