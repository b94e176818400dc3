/* SPDX-License-Identifier: MIT */
/*
 * Shared by the files of this folder: members of described objects, walks over tables, names.
 *
 * "root" is the struct a table describes: nested tables have roots of their own, subsections share
 * their parent's.
 */
#ifndef STATE_STATE_INTERNAL_H
#define STATE_STATE_INTERNAL_H

#include "godwit/state.h"

/* One instance of a registry. */
struct state_entry {
    char *id;
    const struct gw_state_desc *desc;
    void *object;
    char **aliases; /* NULL-terminated, or NULL */
};

struct gw_state_registry {
    GPtrArray *entries;    /* struct state_entry, in load order */
    GPtrArray *properties; /* struct gw_schema_property */
};

static inline const struct state_entry *registry_entry(const struct gw_state_registry *registry,
                                                       uint32_t index)
{
    return g_ptr_array_index(registry->entries, index);
}

/* ---- fields.c: members of described objects ---- */

static inline const char *field_name(const struct gw_field *field)
{
    return field->label ? field->label : field->name;
}

static inline bool field_is_signed(const struct gw_field *field)
{
    return field->kind == GW_KIND_INT || field->kind == GW_KIND_TIMER;
}

static inline bool field_is_scalar(const struct gw_field *field)
{
    return field->kind == GW_KIND_UINT || field->kind == GW_KIND_BOOL || field_is_signed(field);
}

static inline bool field_is_counted(const struct gw_field *field)
{
    return field->shape == GW_SHAPE_VARRAY || field->shape == GW_SHAPE_ALLOC;
}

static inline void *member_at(const void *object, size_t offset)
{
    return (uint8_t *)object + offset;
}

static inline void *pointer_get(const void *object, const struct gw_field *field)
{
    return *(void **)member_at(object, field->offset);
}

static inline void pointer_set(void *object, const struct gw_field *field, void *value)
{
    *(void **)member_at(object, field->offset) = value;
}

/* Element `index` of an array at `elements` (for a single value, the member itself). Values are
 * 64 bits, sign-extended for signed kinds. */
uint64_t element_get(const struct gw_field *field, const void *elements, uint32_t index);
void element_set(const struct gw_field *field, void *elements, uint32_t index, uint64_t value);
/* First element: inline storage or what the pointer points to. */
void *field_elements(const struct gw_field *field, const void *object);

uint64_t count_get(const struct gw_field *field, const void *object);
void count_set(const struct gw_field *field, void *object, uint32_t count);
/* Most elements of a variable array, list or buffer. */
uint32_t field_count_max(const struct gw_field *field);
/* Does this array's row speak for its count member, or another row of the root? */
bool field_owns_count(const struct gw_state_desc *root, const struct gw_field *field);

/* Is the value within the row's constraints? Otherwise *why (g_free) says what was expected and
 * what came: "is 99, at most 16 is allowed". */
bool field_value_ok(const struct gw_field *field, uint64_t value, char **why);
/* May a writer whose type has this version lack the field? */
bool field_may_lack(const struct gw_field *field, uint32_t writer_version);

bool state_name_ok(const char *name);

/* ---- walk.c: whole objects ---- */

enum walk_order {
    WALK_CHILDREN_FIRST,
    WALK_PARENT_FIRST,
};
/* Visits the object, its subsections (same object, their description) and all nested structs,
 * except those in temporaries. Stops at the first false. */
typedef bool (*walk_fn)(const struct gw_state_desc *desc, void *object, void *opaque,
                        GError **error);
bool state_walk(const struct gw_state_desc *desc, void *object, enum walk_order order, walk_fn fn,
                void *opaque, GError **error);

/* Frees what described members own and leaves them empty. */
void state_clear(const struct gw_state_desc *desc, void *object);

/* ---- save.c ---- */
struct state_encoder;
bool state_encode(const struct gw_state_desc *desc, void *object, const char *device,
                  struct state_encoder *encoder, GError **error);

/* Fills error (if it is not NULL and still empty) for a hook that failed without a reason. */
void state_hook_failed(const char *what, GError **error);

void schema_property_clear(struct gw_schema_property *property);
void schema_property_free(struct gw_schema_property *property);

#endif
