/* SPDX-License-Identifier: MIT */
/*
 * Where monitors' sockets live.
 */
#ifndef GODWIT_CLI_RUNTIME_DIR_H
#define GODWIT_CLI_RUNTIME_DIR_H

#include <glib.h>
#include <stdbool.h>

#define RUNTIME_SUFFIX ".qmp"

/* $XDG_RUNTIME_DIR/godwit, else /run/user/UID/godwit, else /tmp/godwit-UID. is_new makes it and
 * checks that nobody else can enter it. g_free. */
char *runtime_dir(bool is_new, GError **error);

#endif
