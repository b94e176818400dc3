/* SPDX-License-Identifier: MIT */
/*
 * The QMP monitor: JSON commands and events over UNIX sockets, in the dialect of QEMU's machine
 * protocol, so that its clients work here.
 *
 * Model: one table of commands (commands.c) says name, arguments, handler and help; it gives
 * query-commands, the checks of arguments, and the manual. Any number of sockets and clients; each
 * gets a greeting, must negotiate with qmp_capabilities, and then gets answers in the order of its
 * commands, and all events.
 *
 * Bounds: a message is at most JSON_STREAM_MAX_BYTES long and JSON_STREAM_MAX_DEPTH deep; at most
 * MONITOR_MAX_CLIENTS clients; a client that does not read loses its connection when
 * MONITOR_MAX_QUEUED_BYTES wait for it.
 *
 * Threads: everything runs on the thread of the main context. No command blocks it: what takes time
 * answers later, and only its own client waits.
 */
#ifndef GODWIT_MONITOR_MONITOR_H
#define GODWIT_MONITOR_MONITOR_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

#include "machine/machine.h"
#include "machine/migration.h"

#define MONITOR_MAX_CLIENTS      32u
#define MONITOR_MAX_QUEUED_BYTES (4u << 20)
#define MONITOR_VERSION_MAJOR    0
#define MONITOR_VERSION_MINOR    1
#define MONITOR_VERSION_MICRO    0

struct monitor;

struct monitor_config {
    struct machine *machine;     /* borrowed */
    struct migration *migration; /* borrowed */
    GMainContext *context;
    void (*quit)(void *opaque); /* a client said quit; its answer has been queued */
    void *opaque;
};

struct monitor *monitor_new(const struct monitor_config *config);
/* Writes what is queued if it takes no more than a moment, closes all, removes the sockets. */
void monitor_free(struct monitor *monitor);
/* Takes the path of a UNIX socket (mode 0600). A stale socket of a dead process is replaced; a live
 * one is an error. Who connects waits for the greeting until monitor_serve(). */
bool monitor_listen(struct monitor *monitor, const char *path, GError **error);
/* From now on clients are greeted and served at the sockets that were taken: once, when the machine
 * is ready for what they may ask. */
void monitor_serve(struct monitor *monitor);
/* Sends an event to all clients. data may be NULL; it is taken over. */
void monitor_emit(struct monitor *monitor, const char *event, json_t *data, uint64_t real_ns);

#endif
