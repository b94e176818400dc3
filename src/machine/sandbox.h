/* SPDX-License-Identifier: MIT */
/*
 * Gives up what a running VMM never needs, so that whoever takes it over has less.
 *
 * Model: two layers. sandbox_confine_files (Landlock) comes first, before other threads exist, and
 * holds for all threads made later: no file can be executed and no device node made; if folders
 * are given, files are opened and made only where the caller says. sandbox_drop_calls (seccomp)
 * comes when everything is built, and holds for all threads at once: no new programs or processes,
 * no change of identity, no mounts, modules, traces, namespaces, clocks.
 *
 * It is a list of what is forbidden, not of what is allowed: a call that glibc or a library begins
 * to use tomorrow does not break a machine that runs today. None of the forbidden calls can be made
 * through io_uring instead, which seccomp does not see; opening files can, and Landlock sees that.
 *
 * Not here: exec: channels. They start programs, so they need a process without the sandbox.
 */
#ifndef GODWIT_MACHINE_SANDBOX_H
#define GODWIT_MACHINE_SANDBOX_H

#include <glib.h>
#include <stdbool.h>

/* Paths: NULL-terminated. folders: where files may be read, written, made and removed; NULL: no
 * restriction of paths. files: what may be read and written besides (they may not exist). False
 * with error when the kernel has Landlock and refuses; true also when the kernel has none:
 * *is_confined says. */
bool sandbox_confine_files(const char *const *folders, const char *const *files, bool *is_confined,
                           GError **error);
/* A forbidden call fails with EPERM from now on, in every thread. */
bool sandbox_drop_calls(GError **error);
/* Of the device requests (ioctl) of one kind, that of the first one given, all but these fail with
 * EPERM from now on, in every thread. allowed: ends with 0; what comes often stands first. */
bool sandbox_drop_requests(const unsigned long *allowed, GError **error);

#endif
