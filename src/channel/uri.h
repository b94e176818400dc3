/* SPDX-License-Identifier: MIT */
/* What can be said of a channel's URI before anything is opened. */
#ifndef GODWIT_CHANNEL_URI_H
#define GODWIT_CHANNEL_URI_H

#include <stdbool.h>

#include <glib.h>

/* Is it written as a channel is: filters, a kind there is, for tcp a port? GW_ERROR_INVALID. Any
 * thread; opens and resolves nothing. */
bool channel_uri_check(const char *text, GError **error);

#endif
