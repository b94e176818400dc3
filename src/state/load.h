/* SPDX-License-Identifier: MIT */
/* The inside of a load: shadows (shadow.c), decoding (decode.c), phases (load.c). */
#ifndef STATE_LOAD_H
#define STATE_LOAD_H

#include "state/plan.h"

struct load_temp {
    const struct gw_field *field;
    void *shadow; /* struct with the row, in the shadow */
    void *object; /* the same in the real object, or NULL when the struct is new */
    void *temp;   /* decoded */
    void *old;    /* former state, while committed */
    const char *device;
};

/* A variable array whose count member belongs to another row. */
struct load_count {
    const struct gw_field *field;
    const void *shadow;
    uint32_t came;
    const char *device;
};

enum load_phase {
    LOAD_ADDING,
    LOAD_FAILED,
    LOAD_CHECKED,
    LOAD_COMMITTED,
    LOAD_DONE, /* kept or rolled back */
};

struct gw_state_load {
    const struct gw_state_plan *plan;
    void **shadows; /* [plan->n_entries] */
    bool *has_come; /* [writer's devices] */
    GArray *temps;  /* struct load_temp */
    GArray *counts; /* struct load_count */
    enum load_phase phase;
};

/* ---- shadow.c ---- */

/* Turns a byte copy of object (NULL: zeroed memory, a struct of the load's own) into a shadow:
 * fallbacks everywhere, described pointers empty, a pending conversion for each GW_TEMP row. */
void shadow_init(struct gw_state_load *load, const char *device, const struct gw_state_desc *desc,
                 void *shadow, const void *object);
/* Frees what a shadow owns: before a commit what came, after it the old state. */
void shadow_clear(const struct gw_state_desc *desc, void *shadow, const void *object);
/* Exchanges the described members of object and shadow. Doing it twice changes nothing. */
void swap_struct(const struct gw_state_desc *desc, void *object, void *shadow);

/* ---- decode.c ---- */

/* Reads one section into one instance's shadow. PEER: hostile bytes. */
bool decode_section(struct gw_state_load *load, uint32_t entry, const struct plan_source *source,
                    const uint8_t *bytes, size_t len, GError **error);

#endif
