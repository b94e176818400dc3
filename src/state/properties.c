/* SPDX-License-Identifier: MIT */
/* Comparison of the machines' properties: what must be equal, what must be included. */
#include <string.h>

#include "state/plan.h"

static const struct gw_schema_property *find_property(const struct gw_schema *schema,
                                                      const char *name)
{
    for (uint32_t i = 0; i < schema->n_properties; i++) {
        if (strcmp(schema->properties[i].name, name) == 0) {
            return &schema->properties[i];
        }
    }
    return NULL;
}

static char *values_text(char **values)
{
    return values[0] ? g_strjoinv(", ", values) : g_strdup("nothing");
}

static void compare_equal(struct gw_state_plan *plan, const struct gw_schema_property *came,
                          const struct gw_schema_property *own)
{
    if (g_strv_equal((const gchar *const *)came->values, (const gchar *const *)own->values)) {
        return;
    }
    g_autofree char *came_text = values_text(came->values);
    g_autofree char *own_text = values_text(own->values);
    plan_find(plan, GW_SEVERITY_REFUSE, NULL, came->name, "%s %s: the writer has %s, this side %s",
              own->rule == GW_PROPERTY_FIELD ? "field" : "property", came->name, came_text,
              own_text);
}

/* One finding for each value that is missing. */
static void compare_include(struct gw_state_plan *plan, const struct gw_schema_property *came,
                            const struct gw_schema_property *own)
{
    bool is_refused = own->rule == GW_PROPERTY_INCLUDE;

    for (char **value = came->values; *value; value++) {
        if (!g_strv_contains((const gchar *const *)own->values, *value)) {
            plan_find(plan, is_refused ? GW_SEVERITY_REFUSE : GW_SEVERITY_WARNING, NULL, came->name,
                      "property %s: destination lacks %s, which the guest was given", came->name,
                      *value);
        }
    }
}

static bool parse_number(const char *text, uint64_t *number)
{
    return text && g_ascii_string_to_unsigned(text, 10, 0, UINT64_MAX, number, NULL);
}

static void compare_within(struct gw_state_plan *plan, const struct gw_schema_property *came,
                           const struct gw_schema_property *own)
{
    uint64_t value, min, max;

    if (g_strv_length(own->values) == 3 && parse_number(came->values[0], &value) &&
        parse_number(own->values[1], &min) && parse_number(own->values[2], &max) && value >= min &&
        value <= max) {
        return;
    }
    plan_find(plan, GW_SEVERITY_REFUSE, NULL, came->name,
              "property %s: the guest was given %s, destination takes %s to %s", came->name,
              came->values[0] ? came->values[0] : "nothing", own->values[1], own->values[2]);
}

static void compare(struct gw_state_plan *plan, const struct gw_schema_property *came,
                    const struct gw_schema_property *own)
{
    switch (own->rule) {
    case GW_PROPERTY_INCLUDE:
    case GW_PROPERTY_EXPECT:
        compare_include(plan, came, own);
        break;
    case GW_PROPERTY_WITHIN:
        compare_within(plan, came, own);
        break;
    case GW_PROPERTY_EQUAL:
    case GW_PROPERTY_FIELD:
        compare_equal(plan, came, own);
        break;
    }
}

void plan_compare_properties(struct gw_state_plan *plan)
{
    struct gw_schema *own_schema = gw_schema_new(plan->registry);

    for (uint32_t i = 0; i < plan->schema->n_properties; i++) {
        const struct gw_schema_property *came = &plan->schema->properties[i];
        const struct gw_schema_property *own = find_property(own_schema, came->name);
        if (own) {
            compare(plan, came, own);
        } else if (came->rule != GW_PROPERTY_FIELD) {
            plan_find(plan, came->is_optional ? GW_SEVERITY_WARNING : GW_SEVERITY_REFUSE, NULL,
                      came->name, "property %s: not known on this side", came->name);
        }
    }
    for (uint32_t i = 0; i < own_schema->n_properties; i++) {
        const struct gw_schema_property *own = &own_schema->properties[i];
        if (own->rule != GW_PROPERTY_FIELD && !find_property(plan->schema, own->name)) {
            plan_find(plan, own->is_optional ? GW_SEVERITY_WARNING : GW_SEVERITY_REFUSE, NULL,
                      own->name, "property %s: missing on the writer", own->name);
        }
    }
    gw_schema_free(own_schema);
}
