/* SPDX-License-Identifier: MIT */
/* What `godwit run` gives up before it builds a machine, and which files it keeps. */
#ifndef GODWIT_CLI_CONFINE_H
#define GODWIT_CLI_CONFINE_H

#include <glib.h>
#include <stdbool.h>

#include "machine/config.h"

/* folders: NULL-terminated, as --confine named them, or NULL: files are opened anywhere.
 * sockets: NULL-terminated paths that will be made. incoming: URI or NULL. */
bool confine_files(const struct machine_config *config, char **folders, char **sockets,
                   const char *incoming, const char *restore, GError **error);

#endif
