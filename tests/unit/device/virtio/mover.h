/* SPDX-License-Identifier: MIT */
/*
 * Moving a device with its driver and memory from one test machine to another, as a migration does:
 * stop, copy, schema, save, load, arm, start.
 */
#ifndef GODWIT_TESTS_VIRTIO_MOVER_H
#define GODWIT_TESTS_VIRTIO_MOVER_H

#include "driver.h"

/* Saves one device (stopped) and loads another from it. */
bool mover_load(struct device *from, struct device *to, GError **error);
void mover_copy_memory(struct rig *to, const struct rig *from);
void mover_stop(struct device *dev);
/* Stops here, goes on there; drv follows. */
void mover_move(struct drv *drv, struct device *from, struct rig *rig, struct device *to);
/* Stops and frees. */
void mover_dispose(struct device *dev);

#endif
