/* SPDX-License-Identifier: MIT */
/* Schemas, and sections read by nothing but their schema, as JSON for people. */
#include "state/schema.h"

static json_t *field_json(const struct gw_schema *schema, const struct gw_schema_field *field)
{
    json_t *out = json_object();

    json_object_set_new(out, "name", json_string(field->name));
    json_object_set_new(out, "kind", json_string(schema_kind_word(field->kind)));
    if (field->bits) {
        json_object_set_new(out, "bits", json_integer(field->bits));
    }
    if (field->kind == GW_KIND_STRUCT) {
        json_object_set_new(out, "type", json_string(schema->types[field->type].name));
        json_object_set_new(out, "type-index", json_integer(field->type));
    }
    if (field->shape != GW_SHAPE_ONE) {
        json_object_set_new(out, "shape", json_string(schema_shape_word(field->shape)));
    }
    if (field->shape != GW_SHAPE_ONE && field->shape != GW_SHAPE_POINTER) {
        const char *key = schema_shape_is_counted(field->shape) ? "count-max" : "count";
        json_object_set_new(out, key, json_integer(field->count));
    }
    if (field->since > 1) {
        json_object_set_new(out, "since", json_integer(field->since));
    }
    if (field->is_droppable) {
        json_object_set_new(out, "droppable", json_true());
    }
    return out;
}

static json_t *type_json(const struct gw_schema *schema, const struct gw_schema_type *type)
{
    json_t *out = json_object();
    json_t *fields = json_array();
    json_t *subsections = json_array();

    for (uint32_t i = 0; i < type->n_fields; i++) {
        json_array_append_new(fields, field_json(schema, &type->fields[i]));
    }
    for (uint32_t i = 0; i < type->n_subsections; i++) {
        json_array_append_new(subsections, json_string(schema->types[type->subsections[i]].name));
    }
    json_object_set_new(out, "name", json_string(type->name));
    json_object_set_new(out, "version", json_integer(type->version));
    json_object_set_new(out, "fields", fields);
    json_object_set_new(out, "subsections", subsections);
    return out;
}

static json_t *property_json(const struct gw_schema_property *property)
{
    json_t *out = json_object();
    json_t *values = json_array();

    for (char **value = property->values; *value; value++) {
        json_array_append_new(values, json_string(*value));
    }
    json_object_set_new(out, "name", json_string(property->name));
    json_object_set_new(out, "rule", json_string(schema_rule_word(property->rule)));
    if (property->is_optional) {
        json_object_set_new(out, "optional", json_true());
    }
    json_object_set_new(out, "values", values);
    return out;
}

char *gw_schema_to_json(const struct gw_schema *schema)
{
    json_t *root = json_object();
    json_t *properties = json_array();
    json_t *devices = json_array();
    json_t *types = json_array();

    for (uint32_t i = 0; i < schema->n_properties; i++) {
        json_array_append_new(properties, property_json(&schema->properties[i]));
    }
    for (uint32_t i = 0; i < schema->n_devices; i++) {
        const struct gw_schema_device *device = &schema->devices[i];
        json_t *out = json_object();
        json_object_set_new(out, "id", json_string(device->id));
        json_object_set_new(out, "type", json_string(schema->types[device->type].name));
        json_object_set_new(out, "type-index", json_integer(device->type));
        json_array_append_new(devices, out);
    }
    for (uint32_t i = 0; i < schema->n_types; i++) {
        json_array_append_new(types, type_json(schema, &schema->types[i]));
    }
    json_object_set_new(root, "format", json_integer(1));
    json_object_set_new(root, "properties", properties);
    json_object_set_new(root, "devices", devices);
    json_object_set_new(root, "types", types);
    char *text = state_json_text(root);
    json_decref(root);
    return text;
}

char *gw_schema_section_to_json(const struct gw_schema *schema, uint32_t device,
                                const uint8_t *bytes, size_t len, GError **error)
{
    if (device >= schema->n_devices) {
        g_set_error(error, GW_STATE_ERROR, GW_STATE_ERROR_DATA, "device %u of %u", device,
                    schema->n_devices);
        return NULL;
    }
    struct section section = {
        .schema = schema,
        .device = schema->devices[device].id,
        .at = bytes,
        .end = bytes + len,
        .size_bytes = len,
        .error = error,
    };
    struct json_encoder json;
    char *text = NULL;

    json_encoder_init(&json);
    json.base.ops->begin_struct(&json.base, NULL);
    bool ok =
        section_visit_struct(&section, &schema->types[schema->devices[device].type], &json.base) &&
        section_end(&section);
    if (ok) {
        text = state_json_text(json.root);
    }
    json_encoder_clear(&json);
    return text;
}
