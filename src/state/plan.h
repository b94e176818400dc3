/* SPDX-License-Identifier: MIT */
/* How a writer's sections are read into our objects: made by plan.c, followed by load.c. */
#ifndef STATE_PLAN_H
#define STATE_PLAN_H

#include "state/schema.h"

struct plan_map;

/* What happens to one field of the writer. */
struct plan_field {
    const struct gw_field *field; /* NULL: skipped */
    struct plan_map *nested;      /* structs */
};

/* One of the writer's types beside the table that reads it. */
struct plan_map {
    const struct gw_schema_type *type;
    const struct gw_state_desc *desc; /* whose fields are used */
    const struct gw_state_desc *root; /* desc, or the parent of a subsection */
    struct plan_field *fields;        /* [type->n_fields] */
    struct plan_map **subsections;    /* [type->n_subsections]; NULL: not known here */
    bool *is_dropped;                 /* [type->n_subsections]: known and ignored */
    bool *is_used;                    /* [type->n_fields]: taken or ignored by somebody */
};

struct plan_source {
    uint32_t device; /* of the writer */
    struct plan_map *map;
};

struct plan_entry {
    const struct state_entry *entry;
    struct plan_source *sources;
    uint32_t n_sources;
};

#define PLAN_FINDINGS_MAX 256

struct gw_state_plan {
    struct gw_schema *schema;
    const struct gw_state_registry *registry;
    struct plan_entry *entries; /* in the registry's order */
    uint32_t n_entries;
    GPtrArray *maps;  /* owns every map */
    GArray *findings; /* struct gw_finding */
    uint32_t n_refusals;
    uint32_t n_omitted;
};

void plan_find(struct gw_state_plan *plan, enum gw_severity severity, const char *device,
               const char *field, const char *format, ...) G_GNUC_PRINTF(5, 6);
/* properties.c */
void plan_compare_properties(struct gw_state_plan *plan);

#endif
