/* SPDX-License-Identifier: MIT */
/*
 * The rig of the device tests: moving one device's state into another device.
 */
#include "rig.h"

bool rig_try_move_state(struct device *from, struct device *to, GError **error)
{
    struct gw_state_registry *source = gw_state_registry_new();
    struct gw_state_registry *target = gw_state_registry_new();
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    assert_true(gw_state_registry_add(source, from->id, from->state, from->state_object, NULL));
    assert_true(gw_state_registry_add(target, to->id, to->state, to->state_object, NULL));
    pthread_mutex_lock(&from->lock);
    assert_true(gw_state_save(source, 0, bytes, NULL));
    pthread_mutex_unlock(&from->lock);
    struct gw_state_plan *plan = gw_state_plan_new(gw_schema_new(source), target);
    struct gw_state_load *load = gw_state_load_begin(plan, error);
    pthread_mutex_lock(&to->lock);
    bool ok = load && gw_state_load_add(load, 0, bytes->data, bytes->len, error) &&
              gw_state_load_commit(load, error);
    if (ok)
        gw_state_load_keep(load);
    if (load)
        gw_state_load_free(load);
    pthread_mutex_unlock(&to->lock);
    gw_state_plan_free(plan);
    gw_state_registry_free(source);
    gw_state_registry_free(target);
    return ok;
}

void rig_move_state(struct device *from, struct device *to)
{
    g_autoptr(GError) error = NULL;
    bool ok = rig_try_move_state(from, to, &error);
    if (!ok)
        print_error("%s\n", error->message);
    assert_true(ok);
}
