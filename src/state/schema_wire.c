/* SPDX-License-Identifier: MIT */
/*
 * The binary form of a schema, and its parser.
 *
 * Wire (little-endian; text is u8 length and so many bytes):
 *
 *     u32 magic "GWSC"   u16 format = 1   u16 0
 *     u32 n_types, n_devices, n_properties
 *     type:     text name, u32 version, u16 n_fields, u16 n_subsections
 *               field:      text name, u8 kind, u8 shape, u8 bits, u8 flags (bit 0: droppable),
 *                           u32 count, u32 type, u32 since
 *               subsection: u32 type
 *     device:   text id, u32 type
 *     property: text name, u8 rule, u8 flags (bit 0: optional), u16 n_values
 *               value: u16 length, bytes (UTF-8, no NUL)
 *
 * References between types only go backwards, so no chain of structs can be a circle, and a type
 * can be measured as soon as it is read. Structs without content cannot be referred to: whoever
 * decodes a section spends at least one byte for each struct, and time stays linear in bytes.
 */
#include <string.h>

#include "state/schema.h"

#define SCHEMA_MAGIC  0x43535747u /* "GWSC" */
#define SCHEMA_FORMAT 1u

/* ---- writing ---- */

static void put(GByteArray *out, uint64_t value, unsigned width)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < width; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    g_byte_array_append(out, bytes, width);
}

static void put_text(GByteArray *out, const char *text)
{
    size_t len = strlen(text);

    put(out, len, 1);
    g_byte_array_append(out, (const guint8 *)text, (guint)len);
}

static void put_type(GByteArray *out, const struct gw_schema_type *type)
{
    put_text(out, type->name);
    put(out, type->version, 4);
    put(out, type->n_fields, 2);
    put(out, type->n_subsections, 2);
    for (uint32_t i = 0; i < type->n_fields; i++) {
        const struct gw_schema_field *field = &type->fields[i];
        put_text(out, field->name);
        put(out, field->kind, 1);
        put(out, field->shape, 1);
        put(out, field->bits, 1);
        put(out, field->is_droppable, 1);
        put(out, field->count, 4);
        put(out, field->type, 4);
        put(out, field->since, 4);
    }
    for (uint32_t i = 0; i < type->n_subsections; i++) {
        put(out, type->subsections[i], 4);
    }
}

static void put_property(GByteArray *out, const struct gw_schema_property *property)
{
    put_text(out, property->name);
    put(out, property->rule, 1);
    put(out, property->is_optional, 1);
    put(out, g_strv_length(property->values), 2);
    for (char **value = property->values; *value; value++) {
        size_t len = strlen(*value);
        put(out, len, 2);
        g_byte_array_append(out, (const guint8 *)*value, (guint)len);
    }
}

GByteArray *gw_schema_encode(const struct gw_schema *schema)
{
    GByteArray *out = g_byte_array_new();

    put(out, SCHEMA_MAGIC, 4);
    put(out, SCHEMA_FORMAT, 2);
    put(out, 0, 2);
    put(out, schema->n_types, 4);
    put(out, schema->n_devices, 4);
    put(out, schema->n_properties, 4);
    for (uint32_t i = 0; i < schema->n_types; i++) {
        put_type(out, &schema->types[i]);
    }
    for (uint32_t i = 0; i < schema->n_devices; i++) {
        put_text(out, schema->devices[i].id);
        put(out, schema->devices[i].type, 4);
    }
    for (uint32_t i = 0; i < schema->n_properties; i++) {
        put_property(out, &schema->properties[i]);
    }
    return out;
}

/* ---- reading ---- */

struct parser {
    const uint8_t *at;
    const uint8_t *end;
    const uint8_t *start;
    struct gw_schema *schema;
    GHashTable *names; /* of the table that is being read */
    GError **error;
};

G_GNUC_PRINTF(2, 3) static bool bad(struct parser *parser, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *why = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(parser->error, GW_STATE_ERROR, GW_STATE_ERROR_SCHEMA, "schema, byte %zu: %s",
                (size_t)(parser->at - parser->start), why);
    return false;
}

static bool get(struct parser *parser, unsigned width, uint32_t max, const char *what,
                uint32_t *value)
{
    if ((size_t)(parser->end - parser->at) < width) {
        return bad(parser, "ends inside of %s", what);
    }
    uint32_t n = 0;
    for (unsigned i = 0; i < width; i++) {
        n |= (uint32_t)parser->at[i] << (8 * i);
    }
    if (n > max) {
        return bad(parser, "%s is %u, at most %u is allowed", what, n, max);
    }
    parser->at += width;
    *value = n;
    return true;
}

static bool get_text(struct parser *parser, unsigned len_width, uint32_t max, const char *what,
                     char **text)
{
    uint32_t len = 0;

    if (!get(parser, len_width, max, what, &len)) {
        return false;
    }
    if ((size_t)(parser->end - parser->at) < len) {
        return bad(parser, "ends inside of %s", what);
    }
    const char *at = (const char *)parser->at;
    if (!g_utf8_validate_len(at, len, NULL) || memchr(at, '\0', len)) {
        return bad(parser, "%s is not text", what);
    }
    *text = g_strndup(at, len);
    parser->at += len;
    return true;
}

/* A name that is unique in its table. */
static bool get_name(struct parser *parser, const char *what, char **name)
{
    if (!get_text(parser, 1, GW_STATE_NAME_MAX, what, name)) {
        return false;
    }
    if (!state_name_ok(*name)) {
        return bad(parser, "%s is no good name", what);
    }
    if (!g_hash_table_add(parser->names, *name)) {
        return bad(parser, "%s %s comes twice", what, *name);
    }
    return true;
}

static bool field_ok(struct parser *parser, const struct gw_schema_field *field)
{
    bool is_scalar = field->kind == GW_KIND_UINT || field->kind == GW_KIND_INT ||
                     field->kind == GW_KIND_BOOL || field->kind == GW_KIND_TIMER;
    bool is_bytes = field->kind == GW_KIND_BYTES;
    bool is_struct = field->kind == GW_KIND_STRUCT;
    bool is_list = field->shape == GW_SHAPE_LIST || field->shape == GW_SHAPE_POINTER;

    if (!schema_kind_word(field->kind) || !schema_shape_word(field->shape)) {
        return bad(parser, "field %s is of an unknown kind", field->name);
    }
    if ((is_list && !is_struct) || (is_bytes && field->shape == GW_SHAPE_ONE)) {
        return bad(parser, "field %s: its kind and shape do not go together", field->name);
    }
    if (is_scalar ? field->bits == 0 || field->bits > 64 : field->bits != 0) {
        return bad(parser, "field %s has %u bits", field->name, field->bits);
    }
    if ((field->kind == GW_KIND_BOOL && field->bits != 1) ||
        (field->kind == GW_KIND_TIMER && field->bits != 64)) {
        return bad(parser, "field %s has %u bits", field->name, field->bits);
    }
    bool is_single = field->shape == GW_SHAPE_ONE || field->shape == GW_SHAPE_POINTER;
    uint32_t max = is_single ? 1 : is_bytes ? GW_STATE_BUFFER_MAX : GW_STATE_COUNT_MAX;
    if (field->count == 0 || field->count > max) {
        return bad(parser, "field %s has %u elements, not 1 to %u", field->name, field->count, max);
    }
    if (!is_struct && field->type != 0) {
        return bad(parser, "field %s is no struct but has a type", field->name);
    }
    return true;
}

static bool get_field(struct parser *parser, uint32_t own_type, struct gw_schema_field *field)
{
    uint32_t kind = 0, shape = 0, flags = 0;

    if (!get_name(parser, "a field's name", &field->name) ||
        !get(parser, 1, GW_KIND_STRUCT, "a field's kind", &kind) ||
        !get(parser, 1, GW_SHAPE_LIST, "a field's shape", &shape) ||
        !get(parser, 1, 64, "a field's bits", &field->bits) ||
        !get(parser, 1, 1, "a field's flags", &flags) ||
        !get(parser, 4, GW_STATE_BUFFER_MAX, "a field's count", &field->count) ||
        !get(parser, 4, GW_SCHEMA_TYPES_MAX, "a field's type", &field->type) ||
        !get(parser, 4, UINT32_MAX, "a field's version", &field->since)) {
        return false;
    }
    field->kind = (enum gw_field_kind)kind;
    field->shape = (enum gw_field_shape)shape;
    field->is_droppable = flags & 1;
    if (!field_ok(parser, field)) {
        return false;
    }
    if (field->kind == GW_KIND_STRUCT && field->type >= own_type) {
        return bad(parser, "field %s refers to type %u from type %u", field->name, field->type,
                   own_type);
    }
    return true;
}

static bool get_subsections(struct parser *parser, uint32_t own_type, struct gw_schema_type *type)
{
    g_hash_table_remove_all(parser->names);
    for (uint32_t i = 0; i < type->n_subsections; i++) {
        if (!get(parser, 4, GW_SCHEMA_TYPES_MAX, "a subsection's type", &type->subsections[i])) {
            return false;
        }
        if (type->subsections[i] >= own_type) {
            return bad(parser, "type %s: a subsection refers forward", type->name);
        }
        const struct gw_schema_type *sub = &parser->schema->types[type->subsections[i]];
        if (sub->n_subsections || sub->min_bytes == 0) {
            return bad(parser, "type %s: subsection %s is empty or has subsections", type->name,
                       sub->name);
        }
        if (!g_hash_table_add(parser->names, sub->name)) {
            return bad(parser, "type %s: subsection %s comes twice", type->name, sub->name);
        }
    }
    return true;
}

static bool get_type(struct parser *parser, uint32_t index)
{
    struct gw_schema_type *type = &parser->schema->types[index];
    uint32_t n_fields = 0, n_subsections = 0;

    g_hash_table_remove_all(parser->names);
    if (!get_text(parser, 1, GW_STATE_NAME_MAX, "a type's name", &type->name)) {
        return false;
    }
    if (!state_name_ok(type->name)) {
        return bad(parser, "a type has no good name");
    }
    if (!get(parser, 4, UINT32_MAX, "a type's version", &type->version) ||
        !get(parser, 2, GW_STATE_FIELDS_MAX, "a type's number of fields", &n_fields) ||
        !get(parser, 2, GW_STATE_FIELDS_MAX, "a type's number of subsections", &n_subsections)) {
        return false;
    }
    type->fields = g_new0(struct gw_schema_field, n_fields);
    type->n_fields = n_fields;
    for (uint32_t i = 0; i < n_fields; i++) {
        if (!get_field(parser, index, &type->fields[i])) {
            return false;
        }
    }
    type->subsections = g_new0(uint32_t, n_subsections);
    type->n_subsections = n_subsections;
    if (!get_subsections(parser, index, type)) {
        return false;
    }
    if (!schema_type_measure(parser->schema, type)) {
        return bad(parser, "type %s nests deeper than %u or holds an empty struct", type->name,
                   GW_STATE_DEPTH_MAX);
    }
    return true;
}

static bool get_property(struct parser *parser, struct gw_schema_property *property)
{
    uint32_t rule = 0, flags = 0, n_values = 0;

    if (!get_name(parser, "a property's name", &property->name) ||
        !get(parser, 1, GW_PROPERTY_EXPECT, "a property's rule", &rule) ||
        !get(parser, 1, 1, "a property's flags", &flags) ||
        !get(parser, 2, GW_SCHEMA_VALUES_MAX, "a property's number of values", &n_values)) {
        return false;
    }
    property->rule = (enum gw_property_rule)rule;
    property->is_optional = flags & 1;
    if (!schema_rule_word(property->rule)) {
        return bad(parser, "property %s has an unknown rule", property->name);
    }
    property->values = g_new0(char *, n_values + 1);
    for (uint32_t i = 0; i < n_values; i++) {
        if (!get_text(parser, 2, GW_SCHEMA_VALUE_BYTES_MAX, "a property's value",
                      &property->values[i])) {
            return false;
        }
    }
    return true;
}

static bool get_types(struct parser *parser, uint32_t n)
{
    struct gw_schema *schema = parser->schema;

    schema->types = g_new0(struct gw_schema_type, n);
    schema->n_types = n;
    for (uint32_t i = 0; i < n; i++) {
        if (!get_type(parser, i)) {
            return false;
        }
    }
    return true;
}

static bool get_devices(struct parser *parser, uint32_t n)
{
    struct gw_schema *schema = parser->schema;

    g_hash_table_remove_all(parser->names);
    schema->devices = g_new0(struct gw_schema_device, n);
    schema->n_devices = n;
    for (uint32_t i = 0; i < n; i++) {
        struct gw_schema_device *device = &schema->devices[i];
        if (!get_name(parser, "a device's id", &device->id) ||
            !get(parser, 4, GW_SCHEMA_TYPES_MAX, "a device's type", &device->type)) {
            return false;
        }
        if (device->type >= schema->n_types) {
            return bad(parser, "device %s is of type %u of %u", device->id, device->type,
                       schema->n_types);
        }
    }
    return true;
}

static bool get_properties(struct parser *parser, uint32_t n)
{
    struct gw_schema *schema = parser->schema;

    g_hash_table_remove_all(parser->names);
    schema->properties = g_new0(struct gw_schema_property, n);
    schema->n_properties = n;
    for (uint32_t i = 0; i < n; i++) {
        if (!get_property(parser, &schema->properties[i])) {
            return false;
        }
    }
    return true;
}

static bool parse(struct parser *parser)
{
    uint32_t magic = 0, format = 0, zero = 0, n_types = 0, n_devices = 0, n_properties = 0;

    if (parser->end - parser->at > GW_SCHEMA_BYTES_MAX) {
        return bad(parser, "%zu bytes, at most %u are allowed", (size_t)(parser->end - parser->at),
                   GW_SCHEMA_BYTES_MAX);
    }
    if (!get(parser, 4, UINT32_MAX, "its magic", &magic) ||
        !get(parser, 2, UINT32_MAX, "its format", &format)) {
        return false;
    }
    if (magic != SCHEMA_MAGIC || format != SCHEMA_FORMAT) {
        return bad(parser, "magic 0x%x format %u, expected 0x%x format %u", magic, format,
                   SCHEMA_MAGIC, SCHEMA_FORMAT);
    }
    if (!get(parser, 2, 0, "a reserved word", &zero) ||
        !get(parser, 4, GW_SCHEMA_TYPES_MAX, "the number of types", &n_types) ||
        !get(parser, 4, GW_SCHEMA_DEVICES_MAX, "the number of devices", &n_devices) ||
        !get(parser, 4, GW_SCHEMA_PROPERTIES_MAX, "the number of properties", &n_properties) ||
        !get_types(parser, n_types) || !get_devices(parser, n_devices) ||
        !get_properties(parser, n_properties)) {
        return false;
    }
    if (parser->at != parser->end) {
        return bad(parser, "%zu bytes too many", (size_t)(parser->end - parser->at));
    }
    return true;
}

struct gw_schema *gw_schema_parse(const uint8_t *bytes, size_t len, GError **error)
{
    /* No bytes may come as NULL, to which nothing can be added. */
    const uint8_t *at = len > 0 ? bytes : (const uint8_t *)"";
    struct parser parser = {
        .at = at,
        .end = at + len,
        .start = at,
        .schema = g_new0(struct gw_schema, 1),
        .names = g_hash_table_new(g_str_hash, g_str_equal),
        .error = error,
    };

    if (!parse(&parser)) {
        gw_schema_free(parser.schema);
        parser.schema = NULL;
    }
    g_hash_table_destroy(parser.names);
    return parser.schema;
}
