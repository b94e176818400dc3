/* SPDX-License-Identifier: MIT */
/*
 * A QMP client for the subcommands: one connection, one command at a time.
 *
 * Threads: one. Functions block, up to the time they are given.
 */
#ifndef GODWIT_CLI_CLIENT_H
#define GODWIT_CLI_CLIENT_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

struct client;

/* Connects and negotiates. vm: a name or a path. *status receives the exit status on failure. */
struct client *client_open(const char *vm, int *status, GError **error);
void client_close(struct client *client);
/* Sends a command (args is taken over, may be NULL) and waits for its answer: a new reference, or
 * NULL with error (the monitor's words, or that it does not answer). */
json_t *client_command(struct client *client, const char *name, json_t *args, GError **error);
/* Waits until something arrives, a signal comes or timeout_ms passed. False: the connection ended.
 */
bool client_wait(struct client *client, int timeout_ms);
int client_fd(const struct client *client);

#endif
