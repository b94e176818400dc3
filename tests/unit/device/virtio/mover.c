/* SPDX-License-Identifier: MIT */
/*
 * Moving a device with its driver and memory from one test machine to another: see mover.h.
 */
#include "mover.h"

#include <string.h>

bool mover_load(struct device *from, struct device *to, GError **error)
{
    struct gw_state_registry *writer = gw_state_registry_new();
    struct gw_state_registry *reader = gw_state_registry_new();
    g_autoptr(GByteArray) section = g_byte_array_new();
    struct gw_state_plan *plan;
    struct gw_state_load *load;
    bool ok;

    assert_true(gw_state_registry_add(writer, from->id, from->state, from->state_object, error));
    assert_true(gw_state_registry_add(reader, to->id, to->state, to->state_object, error));
    plan = gw_state_plan_new(gw_schema_new(writer), reader);
    load = gw_state_load_begin(plan, error);
    ok = load && gw_state_save(writer, 0, section, error) &&
         gw_state_load_add(load, 0, section->data, section->len, error) &&
         gw_state_load_commit(load, error);
    if (ok) {
        gw_state_load_keep(load);
        gw_state_arm(reader);
    }
    if (load)
        gw_state_load_free(load);
    gw_state_plan_free(plan);
    gw_state_registry_free(writer);
    gw_state_registry_free(reader);
    return ok;
}

void mover_copy_memory(struct rig *to, const struct rig *from)
{
    memcpy(to->ram->host, from->ram->host, RIG_RAM_BYTES);
    memcpy(to->high->host, from->high->host, RIG_HIGH_BYTES);
    to->next_free_gpa = from->next_free_gpa;
}

void mover_stop(struct device *dev)
{
    GError *error = NULL;

    device_prepare_stop(dev);
    assert_true(device_stop(dev, clock_mono_ns() + 10000000000u, &error));
}

/* Stops here, goes on there; drv follows. */
void mover_move(struct drv *drv, struct device *from, struct rig *rig, struct device *to)
{
    GError *error = NULL;

    mover_stop(from);
    mover_copy_memory(rig, drv->rig);
    if (!mover_load(from, to, &error))
        fail_msg("load: %s", error->message);
    drv->rig = rig;
    drv->vdev = virtio_from_device(to);
    device_start(to);
}

void mover_dispose(struct device *dev)
{
    mover_stop(dev);
    device_free(dev);
}
