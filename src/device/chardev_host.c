/* SPDX-License-Identifier: MIT */
/*
 * Opens and closes what character back ends stand on: terminal, file, UNIX socket, pseudo-terminal.
 */
#include "device/chardev_host.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "device/device.h"

static bool fail_errno(GError **error, const char *what, const char *path)
{
    int code = errno;
    g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_HOST, "%s %s: %s", what, path,
                g_strerror(code));
    return false;
}

/* ---- null ---- */

static bool open_null(struct chardev_host *host, const char *argument, GError **error)
{
    return true;
}

/* ---- stdio ---- */

/* A description of our own for a standard descriptor, so that O_NONBLOCK is not forced upon the
 * shell and its other children, who share the inherited one. */
static int own_description(int fd, int access_mode, int *restore_flags)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    if (S_ISREG(st.st_mode)) /* never blocks for long, and a new description would start at 0 */
        return fcntl(fd, F_DUPFD_CLOEXEC, 3);
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", fd);
    int own = open(self, access_mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (own >= 0)
        return own;
    *restore_flags = fcntl(fd, F_GETFL);
    own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own >= 0 && !fd_set_nonblocking(own, true))
        gw_clear_fd(&own);
    return own;
}

static void set_raw(struct chardev_host *host)
{
    /* In the background the terminal's modes belong to somebody else. */
    if (tcgetpgrp(STDIN_FILENO) != getpgrp() || tcgetattr(STDIN_FILENO, &host->saved_modes) < 0)
        return;
    struct termios raw = host->saved_modes;
    cfmakeraw(&raw);
    raw.c_oflag |= OPOST; /* our own messages still end in line feeds only */
    host->has_terminal = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

static bool open_stdio(struct chardev_host *host, const char *argument, GError **error)
{
    host->in_fd = own_description(STDIN_FILENO, O_RDONLY, &host->restore_in_flags);
    host->out_fd = own_description(STDOUT_FILENO, O_WRONLY, &host->restore_out_flags);
    if (host->out_fd < 0)
        return fail_errno(error, "opening", "standard output");
    if (isatty(STDIN_FILENO))
        set_raw(host);
    return true;
}

/* ---- file ---- */

static bool open_file(struct chardev_host *host, const char *argument, GError **error)
{
    bool is_append = g_str_has_suffix(argument, ",append");
    host->path = g_strndup(argument, strlen(argument) - (is_append ? strlen(",append") : 0));
    host->out_fd = open(host->path,
                        O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
                            (is_append ? O_APPEND : O_TRUNC),
                        0644);
    return host->out_fd >= 0 || fail_errno(error, "opening", host->path);
}

/* ---- unix ---- */

/* A socket file that nobody listens on any more is in the way; one that is in use is an error. */
static void remove_stale_socket(const struct sockaddr_un *address)
{
    struct stat st;
    if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return;
    gw_autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 &&
        errno == ECONNREFUSED)
        unlink(address->sun_path);
}

static bool open_unix(struct chardev_host *host, const char *argument, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(argument) >= sizeof address.sun_path) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "socket path %s is longer than %zu bytes", argument,
                    sizeof address.sun_path - 1);
        return false;
    }
    memcpy(address.sun_path, argument, strlen(argument));
    remove_stale_socket(&address);
    gw_autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return fail_errno(error, "listening on", argument);
    host->path = g_strdup(argument);
    host->listen_fd = gw_steal_fd(&fd);
    host->is_socket = true;
    return listen(host->listen_fd, 4) == 0 || fail_errno(error, "listening on", argument);
}

/* ---- pty ---- */

static bool open_pty(struct chardev_host *host, const char *argument, GError **error)
{
    char name[64];
    struct termios modes;
    host->in_fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    host->out_fd = host->in_fd;
    if (host->in_fd < 0 || grantpt(host->in_fd) < 0 || unlockpt(host->in_fd) < 0 ||
        ptsname_r(host->in_fd, name, sizeof name) != 0)
        return fail_errno(error, "making", "a pseudo-terminal");
    host->path = g_strdup(name);
    /* Opened and closed once: from now on the master tells by POLLHUP that nobody is there. */
    gw_autofd int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0 || tcgetattr(slave, &modes) < 0)
        return fail_errno(error, "opening", name);
    cfmakeraw(&modes);
    if (tcsetattr(slave, TCSANOW, &modes) < 0)
        return fail_errno(error, "setting the modes of", name);
    gw_clear_fd(&slave);
    host->watch_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (host->watch_fd < 0 || inotify_add_watch(host->watch_fd, name, IN_OPEN) < 0)
        return fail_errno(error, "watching", name);
    return true;
}

/* ---- all ---- */

static const struct chardev_kind kinds[] = {
    {.name = "null", .open = open_null},
    {.name = "stdio", .open = open_stdio},
    {.name = "file", .open = open_file},
    {.name = "unix", .open = open_unix, .can_reconnect = true},
    {.name = "pty", .open = open_pty, .can_reconnect = true},
};

bool chardev_host_open(struct chardev_host *host, const char *spec, GError **error)
{
    *host = (struct chardev_host){.in_fd = -1,
                                  .out_fd = -1,
                                  .listen_fd = -1,
                                  .watch_fd = -1,
                                  .restore_in_flags = -1,
                                  .restore_out_flags = -1};
    const char *colon = strchr(spec, ':');
    size_t name_len = colon ? (size_t)(colon - spec) : strlen(spec);
    const char *argument = colon ? colon + 1 : "";
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (strlen(kinds[i].name) != name_len || memcmp(kinds[i].name, spec, name_len) != 0)
            continue;
        bool needs_argument = kinds[i].open == open_file || kinds[i].open == open_unix;
        if (needs_argument != (*argument != '\0'))
            break;
        host->kind = &kinds[i];
        if (kinds[i].open(host, argument, error))
            return true;
        chardev_host_close(host);
        return false;
    }
    g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                "character back end \"%s\" is none of stdio, file:PATH[,append], unix:PATH, pty, "
                "null",
                spec);
    return false;
}

void chardev_host_close(struct chardev_host *host)
{
    if (host->has_terminal) {
        /* Not stopped by SIGTTOU should we be in the background by now. */
        sigset_t ttou, old;
        sigemptyset(&ttou);
        sigaddset(&ttou, SIGTTOU);
        pthread_sigmask(SIG_BLOCK, &ttou, &old);
        tcsetattr(STDIN_FILENO, TCSADRAIN, &host->saved_modes);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    if (host->restore_in_flags >= 0)
        fcntl(STDIN_FILENO, F_SETFL, host->restore_in_flags);
    if (host->restore_out_flags >= 0)
        fcntl(STDOUT_FILENO, F_SETFL, host->restore_out_flags);
    if (host->out_fd != host->in_fd)
        gw_clear_fd(&host->out_fd);
    gw_clear_fd(&host->in_fd);
    gw_clear_fd(&host->watch_fd);
    if (host->listen_fd >= 0) {
        gw_clear_fd(&host->listen_fd);
        unlink(host->path);
    }
    g_clear_pointer(&host->path, g_free);
}

bool chardev_host_connect(struct chardev_host *host)
{
    if (host->listen_fd >= 0) {
        host->in_fd = accept4(host->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        host->out_fd = host->in_fd;
        return host->in_fd >= 0;
    }
    if (host->watch_fd >= 0) {
        char events[512];
        while (read(host->watch_fd, events, sizeof events) > 0)
            continue;
        struct pollfd fd = {.fd = host->in_fd, .events = POLLIN};
        return poll(&fd, 1, 0) >= 0 && !(fd.revents & POLLHUP);
    }
    return host->out_fd >= 0;
}

void chardev_host_disconnect(struct chardev_host *host)
{
    if (host->listen_fd >= 0) {
        gw_clear_fd(&host->in_fd);
        host->out_fd = -1;
    }
}

ssize_t chardev_host_write(const struct chardev_host *host, const void *bytes, size_t len)
{
    if (host->is_socket)
        return send(host->out_fd, bytes, len, MSG_NOSIGNAL);
    return write(host->out_fd, bytes, len);
}
