/* SPDX-License-Identifier: MIT */
/*
 * Where the default firmware is.
 */
#ifndef GODWIT_MACHINE_FIRMWARE_H
#define GODWIT_MACHINE_FIRMWARE_H

#include <glib.h>

/* bios: a path, or NULL: $GODWIT_OPENSBI, then what scripts/setup fetched into the cache, then the
 * system's OpenSBI. Returns a path (g_free), or NULL with error that says where it looked. */
char *firmware_find(const char *bios, GError **error);

#endif
