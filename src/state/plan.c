/* SPDX-License-Identifier: MIT */
/*
 * Comparison of a writer's schema with our tables, and the plan that comes out of it.
 *
 * An instance of ours is read from one writer's device as a rule: the one of the same id. It has
 * several sources when devices were merged, and several instances share a source when one was
 * split; so the search is always "this field, in these sources", and what nobody has taken at the
 * end is missing on our side.
 *
 * Matching nested structs is the same with a single source. Work is bounded: it follows our own
 * tables, which are finite and shallow, never the writer's references.
 */
#include "state/plan.h"

#include <string.h>

/* ---- findings ---- */

static void finding_clear(void *opaque)
{
    struct gw_finding *finding = opaque;

    g_free(finding->device);
    g_free(finding->field);
    g_free(finding->sentence);
}

void plan_find(struct gw_state_plan *plan, enum gw_severity severity, const char *device,
               const char *field, const char *format, ...)
{
    struct gw_finding finding = {.severity = severity};
    va_list args;

    plan->n_refusals += severity == GW_SEVERITY_REFUSE;
    /* PEER: a writer could differ in a million fields. Refusals stand first in the list. */
    if (plan->findings->len >= PLAN_FINDINGS_MAX) {
        plan->n_omitted++;
        return;
    }
    va_start(args, format);
    finding.sentence = g_strdup_vprintf(format, args);
    va_end(args);
    finding.device = g_strdup(device);
    finding.field = g_strdup(field);
    if (severity == GW_SEVERITY_REFUSE) {
        guint at = 0;
        while (at < plan->findings->len &&
               g_array_index(plan->findings, struct gw_finding, at).severity == severity) {
            at++;
        }
        g_array_insert_val(plan->findings, at, finding);
    } else {
        g_array_append_val(plan->findings, finding);
    }
}

/* ---- maps ---- */

static void map_free(void *opaque)
{
    struct plan_map *map = opaque;

    g_free(map->fields);
    g_free(map->subsections);
    g_free(map->is_dropped);
    g_free(map->is_used);
    g_free(map);
}

static struct plan_map *map_new(struct gw_state_plan *plan, const struct gw_schema_type *type,
                                const struct gw_state_desc *desc, const struct gw_state_desc *root)
{
    struct plan_map *map = g_new0(struct plan_map, 1);

    map->type = type;
    map->desc = desc;
    map->root = root;
    map->fields = g_new0(struct plan_field, type->n_fields);
    map->is_used = g_new0(bool, type->n_fields);
    map->subsections = g_new0(struct plan_map *, type->n_subsections);
    map->is_dropped = g_new0(bool, type->n_subsections);
    g_ptr_array_add(plan->maps, map);
    return map;
}

/* The place that findings name. */
struct place {
    const char *device;
    const char *prefix; /* path of the struct inside the device, ending with '.', or "" */
};

G_GNUC_PRINTF(5, 6)
static void find_at(struct gw_state_plan *plan, enum gw_severity severity,
                    const struct place *place, const char *name, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *why = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *path = g_strconcat(place->prefix, name, NULL);
    plan_find(plan, severity, place->device, path, "device %s, field %s: %s", place->device, path,
              why);
}

/* ---- one field beside the other ---- */

enum shape_class {
    CLASS_ONE,
    CLASS_ARRAY,
    CLASS_POINTER,
    CLASS_COUNTED,
};

static enum shape_class class_of(enum gw_field_shape shape)
{
    switch (shape) {
    case GW_SHAPE_ONE:
        return CLASS_ONE;
    case GW_SHAPE_ARRAY:
        return CLASS_ARRAY;
    case GW_SHAPE_POINTER:
        return CLASS_POINTER;
    default:
        return CLASS_COUNTED;
    }
}

static bool is_number(const struct gw_schema_field *field)
{
    return field->kind != GW_KIND_BYTES && field->kind != GW_KIND_STRUCT;
}

static bool is_signed(const struct gw_schema_field *field)
{
    return field->kind == GW_KIND_INT || field->kind == GW_KIND_TIMER;
}

static bool numbers_fit(const struct gw_schema_field *came, const struct gw_schema_field *own)
{
    if (is_signed(came) == is_signed(own)) {
        return came->bits <= own->bits;
    }
    return is_signed(own) && came->bits < own->bits;
}

/* Can what came be read as our field at all? Findings otherwise, and for lengths. */
static bool fields_fit(struct gw_state_plan *plan, const struct place *place,
                       const struct gw_schema_field *came, const struct gw_schema_field *own)
{
    g_autofree char *came_text = schema_field_text(came);
    g_autofree char *own_text = schema_field_text(own);

    bool ok = class_of(came->shape) == class_of(own->shape) && is_number(came) == is_number(own) &&
              (is_number(came) ? numbers_fit(came, own) : came->kind == own->kind);
    if (!ok || (own->shape == GW_SHAPE_ARRAY && came->count > own->count)) {
        find_at(plan, GW_SEVERITY_REFUSE, place, came->name,
                "the writer has %s, this side takes %s", came_text, own_text);
        return false;
    }
    if (came->count < own->count && own->shape == GW_SHAPE_ARRAY) {
        find_at(plan, GW_SEVERITY_WARNING, place, came->name,
                "the writer has %s, this side %s; the rest gets its default", came_text, own_text);
    } else if (came->count > own->count) {
        find_at(plan, GW_SEVERITY_WARNING, place, came->name,
                "the writer may send %s, this side takes %s", came_text, own_text);
    }
    return true;
}

/* ---- tables ---- */

static struct plan_map *map_struct(struct gw_state_plan *plan, const struct place *place,
                                   const struct gw_schema_type *type,
                                   const struct gw_state_desc *desc);

static int64_t find_field(const struct gw_schema_type *type, const char *name)
{
    for (uint32_t i = 0; i < type->n_fields; i++) {
        if (strcmp(type->fields[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static bool is_listed(const char *const *names, const char *name)
{
    return names && g_strv_contains(names, name);
}

/* Finds our field in the sources, the preferred one first. */
static struct plan_map *find_source(const struct gw_state_plan *plan, const struct gw_field *field,
                                    const struct plan_source *sources, uint32_t n_sources,
                                    uint32_t *index)
{
    const char *names[] = {field_name(field), field->was};

    for (int pass = field->from ? 0 : 1; pass < 2; pass++) {
        for (uint32_t s = 0; s < n_sources; s++) {
            if (pass == 0 &&
                strcmp(plan->schema->devices[sources[s].device].id, field->from) != 0) {
                continue;
            }
            for (size_t n = 0; n < G_N_ELEMENTS(names) && names[n]; n++) {
                int64_t found = find_field(sources[s].map->type, names[n]);
                if (found >= 0) {
                    *index = (uint32_t)found;
                    return sources[s].map;
                }
            }
        }
    }
    return NULL;
}

static void map_field(struct gw_state_plan *plan, const struct place *place,
                      const struct gw_field *field, const struct plan_source *sources,
                      uint32_t n_sources)
{
    uint32_t index = 0;
    struct plan_map *map = find_source(plan, field, sources, n_sources, &index);

    if (!map) {
        if (field->is_required) {
            find_at(plan, GW_SEVERITY_REFUSE, place, field_name(field),
                    "missing on the writer and required here");
        } else if (n_sources == 0 || !field_may_lack(field, sources[0].map->type->version)) {
            find_at(plan, GW_SEVERITY_REFUSE, place, field_name(field),
                    "missing on the writer, and this side has no default for it");
        }
        return;
    }
    const struct gw_schema_field *came = &map->type->fields[index];
    struct gw_schema_field own;
    map->is_used[index] = true;
    schema_field_of(field, &own);
    if (!fields_fit(plan, place, came, &own)) {
        return;
    }
    map->fields[index].field = field;
    if (field->desc) {
        g_autofree char *prefix = g_strconcat(place->prefix, came->name, ".", NULL);
        struct place inner = {place->device, prefix};
        map->fields[index].nested =
            map_struct(plan, &inner, &plan->schema->types[came->type], field->desc);
    }
}

static void map_fields(struct gw_state_plan *plan, const struct place *place,
                       const struct gw_state_desc *desc, const struct plan_source *sources,
                       uint32_t n_sources)
{
    for (const struct gw_field *field = desc->fields; field->name; field++) {
        map_field(plan, place, field, sources, n_sources);
    }
    for (uint32_t s = 0; s < n_sources; s++) {
        struct plan_map *map = sources[s].map;
        for (uint32_t i = 0; i < map->type->n_fields; i++) {
            map->is_used[i] |= is_listed(desc->dropped, map->type->fields[i].name);
        }
    }
}

static void report_unused(struct gw_state_plan *plan, const struct place *place,
                          const struct gw_schema_type *type, const bool *is_used)
{
    for (uint32_t i = 0; i < type->n_fields; i++) {
        const struct gw_schema_field *field = &type->fields[i];
        if (is_used[i]) {
            continue;
        }
        if (field->is_droppable) {
            find_at(plan, GW_SEVERITY_WARNING, place, field->name,
                    "not known on this side; it may be dropped");
        } else {
            find_at(plan, GW_SEVERITY_REFUSE, place, field->name, "not known on this side");
        }
    }
}

static void check_version(struct gw_state_plan *plan, const struct place *place,
                          const struct gw_schema_type *type, const struct gw_state_desc *desc)
{
    if (type->version >= desc->min_version && type->version <= desc->version) {
        return;
    }
    bool is_too_old = type->version < desc->min_version;
    plan_find(plan, is_too_old ? GW_SEVERITY_REFUSE : GW_SEVERITY_WARNING, place->device, NULL,
              "device %s: %s has version %u on the writer, this side takes %u to %u", place->device,
              desc->name, type->version, desc->min_version ? desc->min_version : 1, desc->version);
}

static void map_subsection(struct gw_state_plan *plan, const struct place *place,
                           struct plan_map *map, uint32_t index)
{
    const struct gw_schema_type *type = &plan->schema->types[map->type->subsections[index]];

    for (size_t i = 0; map->desc->subsections && map->desc->subsections[i]; i++) {
        const struct gw_state_desc *desc = map->desc->subsections[i];
        if (strcmp(desc->name, type->name) != 0) {
            continue;
        }
        g_autofree char *prefix = g_strconcat(place->prefix, type->name, ".", NULL);
        struct place inner = {place->device, prefix};
        struct plan_map *sub = map_new(plan, type, desc, map->desc);
        struct plan_source source = {0, sub};
        check_version(plan, &inner, type, desc);
        map_fields(plan, &inner, desc, &source, 1);
        report_unused(plan, &inner, type, sub->is_used);
        map->subsections[index] = sub;
        return;
    }
    map->is_dropped[index] = is_listed(map->desc->dropped, type->name);
}

/* Finds readers for the writer's subsections. */
static void map_subsections(struct gw_state_plan *plan, const struct place *place,
                            struct plan_map *map)
{
    for (uint32_t i = 0; i < map->type->n_subsections; i++) {
        map_subsection(plan, place, map, i);
    }
}

static void report_subsection(struct gw_state_plan *plan, const struct place *place,
                              const char *name)
{
    g_autofree char *path = g_strconcat(place->prefix, name, NULL);

    plan_find(
        plan, GW_SEVERITY_WARNING, place->device, path,
        "device %s, subsection %s: not known on this side; refused later if the guest needs it",
        place->device, path);
}

static struct plan_map *map_struct(struct gw_state_plan *plan, const struct place *place,
                                   const struct gw_schema_type *type,
                                   const struct gw_state_desc *desc)
{
    struct plan_map *map = map_new(plan, type, desc, desc);
    struct plan_source source = {0, map};

    check_version(plan, place, type, desc);
    map_fields(plan, place, desc, &source, 1);
    map_subsections(plan, place, map);
    report_unused(plan, place, type, map->is_used);
    for (uint32_t i = 0; i < type->n_subsections; i++) {
        if (!map->subsections[i] && !map->is_dropped[i]) {
            report_subsection(plan, place, plan->schema->types[type->subsections[i]].name);
        }
    }
    return map;
}

/* ---- instances ---- */

static void add_source(struct gw_state_plan *plan, struct plan_entry *entry, const char *id)
{
    int64_t device = gw_schema_find_device(plan->schema, id);

    if (device < 0) {
        return;
    }
    for (uint32_t i = 0; i < entry->n_sources; i++) {
        if (entry->sources[i].device == (uint32_t)device) {
            return;
        }
    }
    const struct gw_schema_type *type = &plan->schema->types[plan->schema->devices[device].type];
    const struct gw_state_desc *desc = entry->entry->desc;
    entry->sources = g_renew(struct plan_source, entry->sources, entry->n_sources + 1);
    entry->sources[entry->n_sources++] =
        (struct plan_source){(uint32_t)device, map_new(plan, type, desc, desc)};
}

static void find_sources(struct gw_state_plan *plan, struct plan_entry *entry)
{
    add_source(plan, entry, entry->entry->id);
    for (char **alias = entry->entry->aliases; alias && *alias; alias++) {
        add_source(plan, entry, *alias);
    }
    for (const struct gw_field *field = entry->entry->desc->fields; field->name; field++) {
        if (field->from) {
            add_source(plan, entry, field->from);
        }
    }
}

static void plan_instance(struct gw_state_plan *plan, struct plan_entry *entry)
{
    const struct gw_state_desc *desc = entry->entry->desc;
    struct place place = {entry->entry->id, ""};

    find_sources(plan, entry);
    if (entry->n_sources == 0) {
        plan_find(plan, GW_SEVERITY_REFUSE, place.device, NULL, "device %s: missing on the writer",
                  place.device);
        return;
    }
    const struct plan_source *first = &entry->sources[0];
    if (strcmp(plan->schema->devices[first->device].id, place.device) == 0) {
        if (strcmp(first->map->type->name, desc->name) != 0) {
            plan_find(plan, GW_SEVERITY_REFUSE, place.device, NULL,
                      "device %s: the writer's is a %s, this side's a %s", place.device,
                      first->map->type->name, desc->name);
            memset(first->map->is_used, true, first->map->type->n_fields);
            return;
        }
        check_version(plan, &place, first->map->type, desc);
    }
    map_fields(plan, &place, desc, entry->sources, entry->n_sources);
    for (uint32_t i = 0; i < entry->n_sources; i++) {
        map_subsections(plan, &place, entry->sources[i].map);
    }
}

/* What of one writer's device did nobody take? */
static void plan_leftovers(struct gw_state_plan *plan, uint32_t device)
{
    const struct gw_schema_device *came = &plan->schema->devices[device];
    const struct gw_schema_type *type = &plan->schema->types[came->type];
    g_autofree bool *is_used = g_new0(bool, type->n_fields);
    g_autofree bool *is_known = g_new0(bool, type->n_subsections);
    struct place place = {came->id, ""};
    bool is_source = false;

    for (uint32_t e = 0; e < plan->n_entries; e++) {
        for (uint32_t s = 0; s < plan->entries[e].n_sources; s++) {
            const struct plan_source *source = &plan->entries[e].sources[s];
            if (source->device != device) {
                continue;
            }
            is_source = true;
            for (uint32_t i = 0; i < type->n_fields; i++) {
                is_used[i] |= source->map->is_used[i];
            }
            for (uint32_t i = 0; i < type->n_subsections; i++) {
                is_known[i] |= source->map->subsections[i] || source->map->is_dropped[i];
            }
        }
    }
    if (!is_source) {
        plan_find(plan, GW_SEVERITY_REFUSE, came->id, NULL, "device %s: missing on this side",
                  came->id);
        return;
    }
    report_unused(plan, &place, type, is_used);
    for (uint32_t i = 0; i < type->n_subsections; i++) {
        if (!is_known[i]) {
            report_subsection(plan, &place, plan->schema->types[type->subsections[i]].name);
        }
    }
}

static void report_omitted(struct gw_state_plan *plan)
{
    if (plan->n_omitted == 0) {
        return;
    }
    struct gw_finding finding = {.severity = GW_SEVERITY_WARNING};
    finding.sentence = g_strdup_printf("%u more differences are not listed", plan->n_omitted);
    g_array_append_val(plan->findings, finding);
}

struct gw_state_plan *gw_state_plan_new(struct gw_schema *writer,
                                        const struct gw_state_registry *reader)
{
    struct gw_state_plan *plan = g_new0(struct gw_state_plan, 1);

    plan->schema = writer;
    plan->registry = reader;
    plan->maps = g_ptr_array_new_with_free_func(map_free);
    plan->findings = g_array_new(FALSE, FALSE, sizeof(struct gw_finding));
    g_array_set_clear_func(plan->findings, finding_clear);
    plan_compare_properties(plan);
    plan->n_entries = reader->entries->len;
    plan->entries = g_new0(struct plan_entry, plan->n_entries);
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        plan->entries[i].entry = registry_entry(reader, i);
        plan_instance(plan, &plan->entries[i]);
    }
    for (uint32_t i = 0; i < writer->n_devices; i++) {
        plan_leftovers(plan, i);
    }
    report_omitted(plan);
    return plan;
}

void gw_state_plan_free(struct gw_state_plan *plan)
{
    if (!plan) {
        return;
    }
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        g_free(plan->entries[i].sources);
    }
    g_free(plan->entries);
    g_ptr_array_free(plan->maps, TRUE);
    g_array_free(plan->findings, TRUE);
    gw_schema_free(plan->schema);
    g_free(plan);
}

const struct gw_finding *gw_state_plan_findings(const struct gw_state_plan *plan, uint32_t *n)
{
    *n = plan->findings->len;
    return (const struct gw_finding *)plan->findings->data;
}

bool gw_state_plan_check(const struct gw_state_plan *plan, GError **error)
{
    if (plan->n_refusals == 0) {
        return true;
    }
    g_autoptr(GString) all = g_string_new(NULL);
    for (guint i = 0; i < plan->findings->len; i++) {
        const struct gw_finding *finding = &g_array_index(plan->findings, struct gw_finding, i);
        if (finding->severity == GW_SEVERITY_REFUSE) {
            g_string_append_printf(all, "%s%s", all->len ? "; " : "", finding->sentence);
        }
    }
    if (plan->n_omitted) {
        g_string_append_printf(all, "%s%u more differences are not listed", all->len ? "; " : "",
                               plan->n_omitted);
    }
    g_set_error_literal(error, GW_STATE_ERROR, GW_STATE_ERROR_INCOMPATIBLE, all->str);
    return false;
}

const struct gw_schema *gw_state_plan_schema(const struct gw_state_plan *plan)
{
    return plan->schema;
}
