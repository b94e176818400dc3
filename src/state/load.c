/* SPDX-License-Identifier: MIT */
/*
 * Loading a machine: decode all, check all, then commit all.
 *
 * Everything is decoded into shadows (shadow.c) first. Commit exchanges them with the objects;
 * after keep, the shadows hold the old state and are freed.
 *
 * Temporaries: each GW_TEMP row of each struct has a pending conversion from the start, filled with
 * fallbacks. Structs made by the load get theirs when everything is checked; existing objects at
 * commit, and their former state is taken out by the same conversion for a rollback.
 */
#include <string.h>

#include "state/load.h"

struct gw_state_load *gw_state_load_begin(const struct gw_state_plan *plan, GError **error)
{
    if (!gw_state_plan_check(plan, error)) {
        return NULL;
    }
    struct gw_state_load *load = g_new0(struct gw_state_load, 1);
    load->plan = plan;
    load->phase = LOAD_ADDING;
    load->temps = g_array_new(FALSE, FALSE, sizeof(struct load_temp));
    load->counts = g_array_new(FALSE, FALSE, sizeof(struct load_count));
    load->has_come = g_new0(bool, plan->schema->n_devices);
    load->shadows = g_new0(void *, plan->n_entries);
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct state_entry *entry = plan->entries[i].entry;
        /* aligned for any member; no object of a device asks for more than a cache line */
        load->shadows[i] = g_aligned_alloc(1, entry->desc->object_size, 64);
        memcpy(load->shadows[i], entry->object, entry->desc->object_size);
        shadow_init(load, entry->id, entry->desc, load->shadows[i], entry->object);
    }
    return load;
}

static bool fail(struct gw_state_load *load, enum gw_state_error code, GError **error,
                 const char *format, ...) G_GNUC_PRINTF(4, 5);
static bool fail(struct gw_state_load *load, enum gw_state_error code, GError **error,
                 const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *why = g_strdup_vprintf(format, args);
    va_end(args);
    if (load->phase == LOAD_ADDING || load->phase == LOAD_CHECKED) {
        load->phase = LOAD_FAILED;
    }
    g_set_error_literal(error, GW_STATE_ERROR, (gint)code, why);
    return false;
}

bool gw_state_load_add(struct gw_state_load *load, uint32_t device, const uint8_t *bytes,
                       size_t len, GError **error)
{
    const struct gw_schema *schema = load->plan->schema;

    if (load->phase != LOAD_ADDING) {
        return fail(load, GW_STATE_ERROR_ORDER, error, "a section came when none was expected");
    }
    if (device >= schema->n_devices) {
        return fail(load, GW_STATE_ERROR_ORDER, error, "section of device %u of %u", device,
                    schema->n_devices);
    }
    if (load->has_come[device]) {
        return fail(load, GW_STATE_ERROR_ORDER, error, "device %s: its section came twice",
                    schema->devices[device].id);
    }
    if (len > GW_STATE_SECTION_MAX) {
        return fail(load, GW_STATE_ERROR_DATA, error,
                    "device %s: its section has %zu bytes, at most %u are allowed",
                    schema->devices[device].id, len, GW_STATE_SECTION_MAX);
    }
    load->has_come[device] = true;
    for (uint32_t e = 0; e < load->plan->n_entries; e++) {
        const struct plan_entry *entry = &load->plan->entries[e];
        for (uint32_t s = 0; s < entry->n_sources; s++) {
            if (entry->sources[s].device == device &&
                !decode_section(load, e, &entry->sources[s], bytes, len, error)) {
                load->phase = LOAD_FAILED;
                return false;
            }
        }
    }
    return true;
}

static bool validate_one(const struct gw_state_desc *desc, void *object, void *opaque,
                         GError **error)
{
    if (!desc->validate || desc->validate(object, error)) {
        return true;
    }
    state_hook_failed("validate", error);
    return false;
}

static bool check_counts(struct gw_state_load *load, GError **error)
{
    for (guint i = 0; i < load->counts->len; i++) {
        const struct load_count *pending = &g_array_index(load->counts, struct load_count, i);
        uint64_t expected = count_get(pending->field, pending->shadow);
        if (expected != pending->came) {
            return fail(load, GW_STATE_ERROR_VALUE, error,
                        "device %s, field %s: has %u elements, its count says %" G_GUINT64_FORMAT,
                        pending->device, field_name(pending->field), pending->came, expected);
        }
    }
    return true;
}

static bool check_temps(struct gw_state_load *load, GError **error)
{
    for (guint i = 0; i < load->temps->len; i++) {
        const struct load_temp *pending = &g_array_index(load->temps, struct load_temp, i);
        const struct gw_field *field = pending->field;
        GError *inner = NULL;
        bool ok =
            state_walk(field->desc, pending->temp, WALK_CHILDREN_FIRST, validate_one, NULL, &inner);
        if (ok && field->check_temp && !field->check_temp(pending->shadow, pending->temp, &inner)) {
            state_hook_failed("check of a temporary", &inner);
            ok = false;
        }
        if (!ok) {
            load->phase = LOAD_FAILED;
            g_propagate_prefixed_error(error, inner, "device %s, field %s: ", pending->device,
                                       field_name(field));
            return false;
        }
    }
    /* Now that nothing in them can be refused: structs made by this load are complete before
     * validate() sees them. */
    for (guint i = 0; i < load->temps->len; i++) {
        const struct load_temp *pending = &g_array_index(load->temps, struct load_temp, i);
        if (!pending->object) {
            pending->field->from_temp(pending->shadow, pending->temp);
        }
    }
    return true;
}

bool gw_state_load_check(struct gw_state_load *load, GError **error)
{
    const struct gw_state_plan *plan = load->plan;

    if (load->phase == LOAD_CHECKED) {
        return true;
    }
    if (load->phase != LOAD_ADDING) {
        return fail(load, GW_STATE_ERROR_ORDER, error, "this load has failed or is over");
    }
    for (uint32_t i = 0; i < plan->schema->n_devices; i++) {
        if (!load->has_come[i]) {
            return fail(load, GW_STATE_ERROR_ORDER, error, "device %s: its section is missing",
                        plan->schema->devices[i].id);
        }
    }
    if (!check_counts(load, error) || !check_temps(load, error)) {
        return false;
    }
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct state_entry *entry = plan->entries[i].entry;
        GError *inner = NULL;
        if (!state_walk(entry->desc, load->shadows[i], WALK_CHILDREN_FIRST, validate_one, NULL,
                        &inner)) {
            load->phase = LOAD_FAILED;
            g_propagate_prefixed_error(error, inner, "device %s: ", entry->id);
            return false;
        }
    }
    load->phase = LOAD_CHECKED;
    return true;
}

static bool post_load_one(const struct gw_state_desc *desc, void *object, void *opaque,
                          GError **error)
{
    if (!desc->post_load || desc->post_load(object, error)) {
        return true;
    }
    state_hook_failed("post_load", error);
    return false;
}

static void swap_all(struct gw_state_load *load)
{
    for (uint32_t i = 0; i < load->plan->n_entries; i++) {
        const struct state_entry *entry = load->plan->entries[i].entry;
        swap_struct(entry->desc, entry->object, load->shadows[i]);
    }
}

static bool post_load_all(struct gw_state_load *load, GError **error)
{
    for (uint32_t i = 0; i < load->plan->n_entries; i++) {
        const struct state_entry *entry = load->plan->entries[i].entry;
        GError *inner = NULL;
        if (!state_walk(entry->desc, entry->object, WALK_CHILDREN_FIRST, post_load_one, NULL,
                        &inner)) {
            g_propagate_prefixed_error(error, inner, "device %s: ", entry->id);
            return false;
        }
    }
    return true;
}

static void clear_old_temp(struct load_temp *pending)
{
    if (pending->old) {
        state_clear(pending->field->desc, pending->old);
        g_free(pending->old);
        pending->old = NULL;
    }
}

bool gw_state_load_commit(struct gw_state_load *load, GError **error)
{
    if (!gw_state_load_check(load, error)) {
        return false;
    }
    for (guint i = 0; i < load->temps->len; i++) {
        struct load_temp *pending = &g_array_index(load->temps, struct load_temp, i);
        if (pending->object) {
            pending->old = g_malloc0(pending->field->desc->object_size);
            pending->field->to_temp(pending->object, pending->old);
        }
    }
    swap_all(load);
    for (guint i = 0; i < load->temps->len; i++) {
        const struct load_temp *pending = &g_array_index(load->temps, struct load_temp, i);
        if (pending->object) {
            pending->field->from_temp(pending->object, pending->temp);
        }
    }
    load->phase = LOAD_COMMITTED;
    if (!post_load_all(load, error)) {
        gw_state_load_rollback(load);
        return false;
    }
    return true;
}

void gw_state_load_rollback(struct gw_state_load *load)
{
    if (load->phase != LOAD_COMMITTED) {
        return;
    }
    swap_all(load);
    for (guint i = 0; i < load->temps->len; i++) {
        struct load_temp *pending = &g_array_index(load->temps, struct load_temp, i);
        if (pending->object) {
            pending->field->from_temp(pending->object, pending->old);
            clear_old_temp(pending);
        }
    }
    load->phase = LOAD_DONE;
    /* Derived members follow the old state, which was good before: nothing to report. */
    for (uint32_t i = 0; i < load->plan->n_entries; i++) {
        const struct state_entry *entry = load->plan->entries[i].entry;
        g_autoptr(GError) ignored = NULL;
        state_walk(entry->desc, entry->object, WALK_CHILDREN_FIRST, post_load_one, NULL, &ignored);
    }
}

void gw_state_load_keep(struct gw_state_load *load)
{
    if (load->phase == LOAD_COMMITTED) {
        load->phase = LOAD_DONE;
    }
}

void gw_state_load_free(struct gw_state_load *load)
{
    if (!load) {
        return;
    }
    gw_state_load_rollback(load);
    for (guint i = 0; i < load->temps->len; i++) {
        struct load_temp *pending = &g_array_index(load->temps, struct load_temp, i);
        clear_old_temp(pending);
        state_clear(pending->field->desc, pending->temp);
        g_free(pending->temp);
    }
    g_array_free(load->temps, TRUE);
    g_array_free(load->counts, TRUE);
    for (uint32_t i = 0; i < load->plan->n_entries; i++) {
        const struct state_entry *entry = load->plan->entries[i].entry;
        shadow_clear(entry->desc, load->shadows[i], entry->object);
        g_aligned_free(load->shadows[i]);
    }
    g_free(load->shadows);
    g_free(load->has_come);
    g_free(load);
}
