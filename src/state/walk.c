/* SPDX-License-Identifier: MIT */
/* Walks over whole described objects. */
#include "state/state_internal.h"

static bool walk_elements(const struct gw_field *field, void *object, enum walk_order order,
                          walk_fn fn, void *opaque, GError **error)
{
    if (field->shape == GW_SHAPE_LIST) {
        GPtrArray *list = pointer_get(object, field);
        for (guint i = 0; list && i < list->len; i++) {
            if (!state_walk(field->desc, g_ptr_array_index(list, i), order, fn, opaque, error)) {
                return false;
            }
        }
        return true;
    }
    uint64_t n = field->count;
    if (field_is_counted(field)) {
        n = MIN(count_get(field, object), field_count_max(field));
    }
    uint8_t *elements = field_elements(field, object);
    for (uint64_t i = 0; elements && i < n; i++) {
        if (!state_walk(field->desc, elements + i * field->stride, order, fn, opaque, error)) {
            return false;
        }
    }
    return true;
}

bool state_walk(const struct gw_state_desc *desc, void *object, enum walk_order order, walk_fn fn,
                void *opaque, GError **error)
{
    if (order == WALK_PARENT_FIRST && !fn(desc, object, opaque, error)) {
        return false;
    }
    for (const struct gw_field *field = desc->fields; field->name; field++) {
        if (field->kind == GW_KIND_STRUCT &&
            !walk_elements(field, object, order, fn, opaque, error)) {
            return false;
        }
    }
    for (size_t i = 0; desc->subsections && desc->subsections[i]; i++) {
        if (!state_walk(desc->subsections[i], object, order, fn, opaque, error)) {
            return false;
        }
    }
    return order == WALK_PARENT_FIRST || fn(desc, object, opaque, error);
}

static void clear_list(const struct gw_field *field, void *object)
{
    GPtrArray *list = pointer_get(object, field);

    if (!list) {
        return;
    }
    gsize n = 0;
    gpointer *elements = g_ptr_array_steal(list, &n);
    for (gsize i = 0; i < n; i++) {
        if (field->free_element) {
            field->free_element(elements[i]);
        } else {
            state_clear(field->desc, elements[i]);
            g_free(elements[i]);
        }
    }
    g_free(elements);
    g_ptr_array_unref(list);
    pointer_set(object, field, NULL);
}

static void clear_pointer(const struct gw_field *field, void *object)
{
    void *pointee = pointer_get(object, field);

    if (!pointee) {
        return;
    }
    if (field->free_element) {
        field->free_element(pointee);
    } else {
        state_clear(field->desc, pointee);
        g_free(pointee);
    }
    pointer_set(object, field, NULL);
}

static void clear_inline_structs(const struct gw_field *field, void *elements, uint64_t n)
{
    for (uint64_t i = 0; elements && i < n; i++) {
        state_clear(field->desc, (uint8_t *)elements + i * field->stride);
    }
}

void state_clear(const struct gw_state_desc *desc, void *object)
{
    for (const struct gw_field *field = desc->fields; field->name; field++) {
        switch (field->shape) {
        case GW_SHAPE_LIST:
            clear_list(field, object);
            break;
        case GW_SHAPE_POINTER:
            clear_pointer(field, object);
            break;
        case GW_SHAPE_ALLOC:
            if (field->kind == GW_KIND_STRUCT) {
                clear_inline_structs(field, pointer_get(object, field), count_get(field, object));
            }
            g_free(pointer_get(object, field));
            pointer_set(object, field, NULL);
            count_set(field, object, 0);
            break;
        default:
            if (field->kind == GW_KIND_STRUCT) {
                clear_inline_structs(field, member_at(object, field->offset), field->count);
            }
            break;
        }
    }
    for (size_t i = 0; desc->subsections && desc->subsections[i]; i++) {
        state_clear(desc->subsections[i], object);
    }
}
