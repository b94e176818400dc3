/* SPDX-License-Identifier: MIT */
/* The instances and properties of one machine. */
#include <string.h>

#include "base/text.h"
#include "state/schema.h"
#include "state/state_internal.h"

static void entry_free(void *opaque)
{
    struct state_entry *entry = opaque;

    g_strfreev(entry->aliases);
    g_free(entry->id);
    g_free(entry);
}

void schema_property_clear(struct gw_schema_property *property)
{
    g_free(property->name);
    g_strfreev(property->values);
}

void schema_property_free(struct gw_schema_property *property)
{
    schema_property_clear(property);
    g_free(property);
}

struct gw_state_registry *gw_state_registry_new(void)
{
    struct gw_state_registry *registry = g_new0(struct gw_state_registry, 1);

    registry->entries = g_ptr_array_new_with_free_func(entry_free);
    registry->properties =
        g_ptr_array_new_with_free_func((GDestroyNotify)(void (*)(void))schema_property_free);
    return registry;
}

void gw_state_registry_free(struct gw_state_registry *registry)
{
    if (!registry) {
        return;
    }
    g_ptr_array_free(registry->entries, TRUE);
    g_ptr_array_free(registry->properties, TRUE);
    g_free(registry);
}

static int compare_entries(const struct state_entry *a, const struct state_entry *b)
{
    if (a->desc->priority != b->desc->priority) {
        return a->desc->priority > b->desc->priority ? -1 : 1;
    }
    return text_compare_natural(a->id, b->id);
}

static struct state_entry *find_entry(const struct gw_state_registry *registry, const char *id,
                                      guint *index)
{
    for (guint i = 0; i < registry->entries->len; i++) {
        struct state_entry *entry = g_ptr_array_index(registry->entries, i);
        if (strcmp(entry->id, id) == 0) {
            if (index) {
                *index = i;
            }
            return entry;
        }
    }
    return NULL;
}

static bool bad_id(const char *id, const char *why, GError **error)
{
    g_set_error(error, GW_STATE_ERROR, GW_STATE_ERROR_TABLE, "device %s: %s", id, why);
    return false;
}

bool gw_state_registry_add(struct gw_state_registry *registry, const char *id,
                           const struct gw_state_desc *desc, void *object, GError **error)
{
    if (!state_name_ok(id)) {
        return bad_id(id, "no good name", error);
    }
    if (find_entry(registry, id, NULL)) {
        return bad_id(id, "registered twice", error);
    }
    if (registry->entries->len >= GW_SCHEMA_DEVICES_MAX) {
        return bad_id(id, "too many devices", error);
    }
    if (!gw_state_desc_check(desc, error)) {
        g_prefix_error(error, "device %s: ", id);
        return false;
    }
    struct state_entry *entry = g_new0(struct state_entry, 1);
    entry->id = g_strdup(id);
    entry->desc = desc;
    entry->object = object;
    guint at = 0;
    while (at < registry->entries->len &&
           compare_entries(g_ptr_array_index(registry->entries, at), entry) < 0) {
        at++;
    }
    g_ptr_array_insert(registry->entries, (gint)at, entry);
    return true;
}

bool gw_state_registry_remove(struct gw_state_registry *registry, const char *id)
{
    guint index;

    if (!find_entry(registry, id, &index)) {
        return false;
    }
    g_ptr_array_remove_index(registry->entries, index);
    return true;
}

bool gw_state_registry_add_alias(struct gw_state_registry *registry, const char *id,
                                 const char *former_id, GError **error)
{
    struct state_entry *entry = find_entry(registry, id, NULL);

    if (!entry) {
        return bad_id(id, "not registered", error);
    }
    if (!state_name_ok(former_id)) {
        return bad_id(id, "its former name is no good name", error);
    }
    guint n = entry->aliases ? g_strv_length(entry->aliases) : 0;
    entry->aliases = g_renew(char *, entry->aliases, n + 2);
    entry->aliases[n] = g_strdup(former_id);
    entry->aliases[n + 1] = NULL;
    return true;
}

uint32_t gw_state_registry_n(const struct gw_state_registry *registry)
{
    return registry->entries->len;
}

const char *gw_state_registry_id(const struct gw_state_registry *registry, uint32_t index)
{
    return registry_entry(registry, index)->id;
}

const struct gw_state_desc *gw_state_registry_desc(const struct gw_state_registry *registry,
                                                   uint32_t index)
{
    return registry_entry(registry, index)->desc;
}

void *gw_state_registry_object(const struct gw_state_registry *registry, uint32_t index)
{
    return registry_entry(registry, index)->object;
}

static struct gw_schema_property *find_property(const struct gw_state_registry *registry,
                                                const char *name)
{
    for (guint i = 0; i < registry->properties->len; i++) {
        struct gw_schema_property *property = g_ptr_array_index(registry->properties, i);
        if (strcmp(property->name, name) == 0) {
            return property;
        }
    }
    return NULL;
}

static bool values_ok(const char *const *values)
{
    uint32_t n = 0;

    for (; values[n]; n++) {
        if (strlen(values[n]) > GW_SCHEMA_VALUE_BYTES_MAX ||
            !g_utf8_validate(values[n], -1, NULL)) {
            return false;
        }
    }
    return n <= GW_SCHEMA_VALUES_MAX;
}

bool gw_state_registry_add_property(struct gw_state_registry *registry, const char *name,
                                    enum gw_property_rule rule, bool is_optional,
                                    const char *const *values, GError **error)
{
    if (!state_name_ok(name) || registry->properties->len >= GW_SCHEMA_PROPERTIES_MAX ||
        find_property(registry, name) || !values_ok(values) || !schema_rule_word(rule) ||
        rule == GW_PROPERTY_FIELD) {
        g_set_error(error, GW_STATE_ERROR, GW_STATE_ERROR_TABLE,
                    "property %s: twice, beyond a limit, or not well formed", name);
        return false;
    }
    struct gw_schema_property *property = g_new0(struct gw_schema_property, 1);
    property->name = g_strdup(name);
    property->rule = rule;
    property->is_optional = is_optional;
    property->values = g_strdupv((char **)values);
    g_ptr_array_add(registry->properties, property);
    return true;
}

bool gw_state_registry_set_values(struct gw_state_registry *registry, const char *name,
                                  const char *const *values)
{
    struct gw_schema_property *property = find_property(registry, name);

    if (!property || !values_ok(values)) {
        return false;
    }
    g_strfreev(property->values);
    property->values = g_strdupv((char **)values);
    return true;
}

bool gw_state_registry_add_property_f(struct gw_state_registry *registry, const char *name,
                                      enum gw_property_rule rule, bool is_optional, GError **error,
                                      const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *value = g_strdup_vprintf(format, args);
    va_end(args);
    const char *values[] = {value, NULL};
    return gw_state_registry_add_property(registry, name, rule, is_optional, values, error);
}

static bool arm_one(const struct gw_state_desc *desc, void *object, void *opaque, GError **error)
{
    if (desc->arm) {
        desc->arm(object);
    }
    return true;
}

void gw_state_arm(const struct gw_state_registry *registry)
{
    for (guint i = 0; i < registry->entries->len; i++) {
        const struct state_entry *entry = registry_entry(registry, i);
        state_walk(entry->desc, entry->object, WALK_CHILDREN_FIRST, arm_one, NULL, NULL);
    }
}
