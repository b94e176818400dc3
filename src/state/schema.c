/* SPDX-License-Identifier: MIT */
/* Schemas: made of a registry, measured, put into words. */
#include "state/schema.h"

#include <string.h>

/* ---- words ---- */

static const char *const kind_words[] = {
    [GW_KIND_UINT] = "uint",   [GW_KIND_INT] = "int",     [GW_KIND_BOOL] = "bool",
    [GW_KIND_TIMER] = "timer", [GW_KIND_BYTES] = "bytes", [GW_KIND_STRUCT] = "struct",
};
static const char *const shape_words[] = {
    [GW_SHAPE_ONE] = "one",     [GW_SHAPE_ARRAY] = "array",     [GW_SHAPE_VARRAY] = "varray",
    [GW_SHAPE_ALLOC] = "alloc", [GW_SHAPE_POINTER] = "pointer", [GW_SHAPE_LIST] = "list",
};
static const char *const rule_words[] = {
    [GW_PROPERTY_EQUAL] = "equal",   [GW_PROPERTY_INCLUDE] = "include",
    [GW_PROPERTY_FIELD] = "field",   [GW_PROPERTY_WITHIN] = "within",
    [GW_PROPERTY_EXPECT] = "expect",
};

const char *schema_kind_word(enum gw_field_kind kind)
{
    return (unsigned)kind < G_N_ELEMENTS(kind_words) ? kind_words[kind] : NULL;
}

const char *schema_shape_word(enum gw_field_shape shape)
{
    return (unsigned)shape < G_N_ELEMENTS(shape_words) ? shape_words[shape] : NULL;
}

const char *schema_rule_word(enum gw_property_rule rule)
{
    return (unsigned)rule < G_N_ELEMENTS(rule_words) ? rule_words[rule] : NULL;
}

bool schema_shape_is_counted(enum gw_field_shape shape)
{
    return shape == GW_SHAPE_VARRAY || shape == GW_SHAPE_ALLOC || shape == GW_SHAPE_LIST;
}

char *schema_field_text(const struct gw_schema_field *field)
{
    g_autofree char *element = NULL;

    switch (field->kind) {
    case GW_KIND_UINT:
        element = g_strdup_printf("u%u", field->bits);
        break;
    case GW_KIND_INT:
        element = g_strdup_printf("i%u", field->bits);
        break;
    default:
        element = g_strdup(schema_kind_word(field->kind));
        break;
    }
    switch (field->shape) {
    case GW_SHAPE_ONE:
        return g_steal_pointer(&element);
    case GW_SHAPE_POINTER:
        return g_strdup_printf("optional %s", element);
    case GW_SHAPE_ARRAY:
        return g_strdup_printf("%u %s", field->count, element);
    default:
        return g_strdup_printf("at most %u %s", field->count, element);
    }
}

/* ---- measures ---- */

static uint64_t element_bytes(const struct gw_schema *schema, const struct gw_schema_field *field)
{
    if (field->kind == GW_KIND_BYTES) {
        return 1;
    }
    if (field->kind == GW_KIND_STRUCT) {
        return schema->types[field->type].min_bytes;
    }
    return native_width(field->bits);
}

static uint64_t field_min_bytes(const struct gw_schema *schema, const struct gw_schema_field *field)
{
    if (schema_shape_is_counted(field->shape)) {
        return 4;
    }
    if (field->shape == GW_SHAPE_POINTER) {
        return 1;
    }
    return field->count * element_bytes(schema, field); /* both below 2^32 */
}

bool schema_type_measure(const struct gw_schema *schema, struct gw_schema_type *type)
{
    uint64_t bytes = type->n_subsections;

    type->depth = 1;
    for (uint32_t i = 0; i < type->n_fields; i++) {
        const struct gw_schema_field *field = &type->fields[i];
        if (field->kind == GW_KIND_STRUCT) {
            const struct gw_schema_type *inner = &schema->types[field->type];
            if (inner->min_bytes == 0) {
                return false;
            }
            type->depth = MAX(type->depth, inner->depth + 1);
        }
        bytes = MIN(bytes + field_min_bytes(schema, field), UINT32_MAX);
    }
    for (uint32_t i = 0; i < type->n_subsections; i++) {
        type->depth = MAX(type->depth, schema->types[type->subsections[i]].depth);
    }
    type->min_bytes = (uint32_t)bytes;
    return type->depth <= GW_STATE_DEPTH_MAX;
}

/* ---- made of a registry ---- */

struct builder {
    struct gw_schema *schema;
    GArray *types;       /* struct gw_schema_type */
    GHashTable *indexes; /* desc -> index + 1 */
    GArray *properties;  /* struct gw_schema_property */
};

void schema_field_of(const struct gw_field *row, struct gw_schema_field *field)
{
    memset(field, 0, sizeof(*field));
    field->kind = row->kind == GW_KIND_TEMP ? GW_KIND_STRUCT : row->kind;
    field->shape = row->shape;
    field->bits = field_is_scalar(row) ? row->bits : 0;
    field->count = field_is_counted(row) || row->shape == GW_SHAPE_LIST ? field_count_max(row)
                                                                        : (uint32_t)row->count;
    field->since = MAX(row->since, 1);
    field->is_droppable = row->is_droppable;
}

static uint32_t add_type(struct builder *builder, const struct gw_state_desc *desc)
{
    gpointer known = g_hash_table_lookup(builder->indexes, desc);

    if (known) {
        return GPOINTER_TO_UINT(known) - 1;
    }
    struct gw_schema_type type = {.name = g_strdup(desc->name), .version = desc->version};
    while (desc->fields[type.n_fields].name) {
        type.n_fields++;
    }
    type.fields = g_new0(struct gw_schema_field, type.n_fields);
    for (uint32_t i = 0; i < type.n_fields; i++) {
        const struct gw_field *row = &desc->fields[i];
        schema_field_of(row, &type.fields[i]);
        type.fields[i].name = g_strdup(field_name(row));
        type.fields[i].type = row->desc ? add_type(builder, row->desc) : 0;
    }
    while (desc->subsections && desc->subsections[type.n_subsections]) {
        type.n_subsections++;
    }
    type.subsections = g_new0(uint32_t, type.n_subsections);
    for (uint32_t i = 0; i < type.n_subsections; i++) {
        type.subsections[i] = add_type(builder, desc->subsections[i]);
    }
    builder->schema->types = (struct gw_schema_type *)builder->types->data;
    schema_type_measure(builder->schema, &type);
    g_array_append_val(builder->types, type);
    g_hash_table_insert(builder->indexes, (gpointer)desc, GUINT_TO_POINTER(builder->types->len));
    return builder->types->len - 1;
}

static char *equal_value(const struct gw_field *field, const void *object)
{
    if (field->kind == GW_KIND_BYTES) {
        const uint8_t *bytes = member_at(object, field->offset);
        GString *text = g_string_new(NULL);
        for (size_t i = 0; i < field->count; i++) {
            g_string_append_printf(text, "%02x", bytes[i]);
        }
        return g_string_free(text, FALSE);
    }
    uint64_t value = element_get(field, member_at(object, field->offset), 0);
    return field_is_signed(field) ? g_strdup_printf("%" G_GINT64_FORMAT, (gint64)value)
                                  : g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)value);
}

/* GW_EQUAL_* rows become properties, so that a difference is found before the first page. */
static void add_equal_fields(struct builder *builder, const struct gw_state_desc *desc,
                             const void *object, const char *prefix)
{
    for (const struct gw_field *field = desc->fields; field->name; field++) {
        g_autofree char *name = g_strdup_printf("%s.%s", prefix, field_name(field));
        if (field->kind == GW_KIND_STRUCT && field->shape == GW_SHAPE_ONE) {
            add_equal_fields(builder, field->desc, member_at(object, field->offset), name);
        }
        bool fits = strlen(name) <= GW_STATE_NAME_MAX &&
                    builder->properties->len < GW_SCHEMA_PROPERTIES_MAX &&
                    2 * field->count <= GW_SCHEMA_VALUE_BYTES_MAX;
        if (!field->must_equal || !fits) {
            continue; /* what does not fit is still compared when it is loaded */
        }
        struct gw_schema_property property = {.name = g_steal_pointer(&name),
                                              .rule = GW_PROPERTY_FIELD,
                                              .is_optional = true,
                                              .values = g_new0(char *, 2)};
        property.values[0] = equal_value(field, object);
        g_array_append_val(builder->properties, property);
    }
}

static void add_properties(struct builder *builder, const struct gw_state_registry *registry)
{
    for (guint i = 0; i < registry->properties->len; i++) {
        const struct gw_schema_property *from = g_ptr_array_index(registry->properties, i);
        struct gw_schema_property property = *from;
        property.name = g_strdup(from->name);
        property.values = g_strdupv(from->values);
        g_array_append_val(builder->properties, property);
    }
    for (guint i = 0; i < registry->entries->len; i++) {
        const struct state_entry *entry = registry_entry(registry, i);
        add_equal_fields(builder, entry->desc, entry->object, entry->id);
    }
}

struct gw_schema *gw_schema_new(const struct gw_state_registry *registry)
{
    struct gw_schema *schema = g_new0(struct gw_schema, 1);
    struct builder builder = {
        .schema = schema,
        .types = g_array_new(FALSE, FALSE, sizeof(struct gw_schema_type)),
        .indexes = g_hash_table_new(NULL, NULL),
        .properties = g_array_new(FALSE, FALSE, sizeof(struct gw_schema_property)),
    };

    schema->n_devices = registry->entries->len;
    schema->devices = g_new0(struct gw_schema_device, schema->n_devices);
    for (uint32_t i = 0; i < schema->n_devices; i++) {
        const struct state_entry *entry = registry_entry(registry, i);
        schema->devices[i].id = g_strdup(entry->id);
        schema->devices[i].type = add_type(&builder, entry->desc);
    }
    add_properties(&builder, registry);
    schema->n_types = builder.types->len;
    schema->types = (struct gw_schema_type *)g_array_free(builder.types, FALSE);
    schema->n_properties = builder.properties->len;
    schema->properties = (struct gw_schema_property *)g_array_free(builder.properties, FALSE);
    g_hash_table_destroy(builder.indexes);
    return schema;
}

void schema_type_clear(struct gw_schema_type *type)
{
    for (uint32_t i = 0; type->fields && i < type->n_fields; i++) {
        g_free(type->fields[i].name);
    }
    g_free(type->fields);
    g_free(type->subsections);
    g_free(type->name);
}

void gw_schema_free(struct gw_schema *schema)
{
    if (!schema) {
        return;
    }
    for (uint32_t i = 0; schema->types && i < schema->n_types; i++) {
        schema_type_clear(&schema->types[i]);
    }
    for (uint32_t i = 0; schema->devices && i < schema->n_devices; i++) {
        g_free(schema->devices[i].id);
    }
    for (uint32_t i = 0; schema->properties && i < schema->n_properties; i++) {
        schema_property_clear(&schema->properties[i]);
    }
    g_free(schema->types);
    g_free(schema->devices);
    g_free(schema->properties);
    g_free(schema);
}

int64_t gw_schema_find_device(const struct gw_schema *schema, const char *id)
{
    for (uint32_t i = 0; i < schema->n_devices; i++) {
        if (strcmp(schema->devices[i].id, id) == 0) {
            return i;
        }
    }
    return -1;
}
