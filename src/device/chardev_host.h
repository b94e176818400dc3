/* SPDX-License-Identifier: MIT */
/*
 * The host's side of a character back end: descriptors, and how they were got. Used by chardev.c.
 */
#ifndef GODWIT_DEVICE_CHARDEV_HOST_H
#define GODWIT_DEVICE_CHARDEV_HOST_H

#include <glib.h>
#include <stdbool.h>
#include <termios.h>

struct chardev_host {
    const struct chardev_kind *kind;
    char *path;    /* what the user may open; or NULL */
    int in_fd;     /* non-blocking; -1: none (now) */
    int out_fd;    /* non-blocking (files excepted); may be in_fd; -1: none (now) */
    int listen_fd; /* unix */
    int watch_fd;  /* pty: inotify for the other side's open */
    bool is_socket;
    bool has_terminal; /* stdin is one, in raw mode now */
    struct termios saved_modes;
    int restore_in_flags, restore_out_flags; /* of descriptors shared with others; -1: leave */
};

struct chardev_kind {
    const char *name;
    bool (*open)(struct chardev_host *host, const char *argument, GError **error);
    bool can_reconnect; /* after a hang-up somebody may come again */
};

bool chardev_host_open(struct chardev_host *host, const char *spec, GError **error);
void chardev_host_close(struct chardev_host *host);
/* unix: takes a waiting peer; pty: is the other side open? True when connected now. */
bool chardev_host_connect(struct chardev_host *host);
void chardev_host_disconnect(struct chardev_host *host);
/* As write(2), without SIGPIPE when the caller has it blocked or the descriptor is a socket. */
ssize_t chardev_host_write(const struct chardev_host *host, const void *bytes, size_t len);

#endif
