/* SPDX-License-Identifier: MIT */
/*
 * Channel URIs: taking them apart, and connecting to what they name.
 *
 * Blocking: name resolution (getaddrinfo) of a host that is not numeric blocks for as long as the
 * resolver takes and cannot be woken; everything else obeys deadline and wake_fd.
 */
#include "channel/uri.h"
#include "channel/channel_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

static const char *const kinds[] = {"tcp", "unix", "fd", "file", "exec"};

void channel_uri_clear(struct channel_uri *uri)
{
    g_clear_pointer(&uri->kind, g_free);
    g_clear_pointer(&uri->rest, g_free);
    g_clear_pointer(&uri->fault, g_free);
    g_clear_pointer(&uri->trace, g_free);
}

/* If text begins with "WORD:VALUE,", returns VALUE (owned) and steps over it. */
static char *take_filter(const char **text, const char *word)
{
    size_t len = strlen(word);

    if (strncmp(*text, word, len) != 0 || (*text)[len] != ':') {
        return NULL;
    }
    const char *value = *text + len + 1;
    const char *comma = strchr(value, ',');
    if (comma == NULL) {
        return NULL;
    }
    *text = comma + 1;
    return g_strndup(value, (gsize)(comma - value));
}

static bool take_filters(const char **text, struct channel_uri *uri, GError **error)
{
    for (;;) {
        g_autofree char *value = NULL;
        if ((value = take_filter(text, "fault")) != NULL) {
            char *joined =
                uri->fault != NULL ? g_strdup_printf("%s;%s", uri->fault, value) : g_strdup(value);
            g_free(uri->fault);
            uri->fault = joined;
        } else if ((value = take_filter(text, "trace")) != NULL) {
            g_free(uri->trace);
            uri->trace = g_steal_pointer(&value);
        } else if ((value = take_filter(text, "rate")) != NULL) {
            guint64 rate = 0;
            if (!g_ascii_string_to_unsigned(value, 10, 1, G_MAXUINT64, &rate, NULL)) {
                g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                            "rate \"%s\" is not a number of bytes per second", value);
                return false;
            }
            uri->rate_bytes_per_s = rate;
        } else {
            return true;
        }
    }
}

bool channel_uri_parse(const char *text, struct channel_uri *uri, GError **error)
{
    const char *rest = text;

    memset(uri, 0, sizeof(*uri));
    if (!take_filters(&rest, uri, error)) {
        channel_uri_clear(uri);
        return false;
    }
    const char *colon = strchr(rest, ':');
    if (colon != NULL && colon[1] != '\0') {
        uri->kind = g_strndup(rest, (gsize)(colon - rest));
        uri->rest = g_strdup(colon + 1);
        for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
            if (strcmp(uri->kind, kinds[i]) == 0) {
                return true;
            }
        }
    }
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                "\"%s\" is not a channel (tcp:HOST:PORT, unix:PATH, fd:N, file:PATH, exec:COMMAND)",
                text);
    channel_uri_clear(uri);
    return false;
}

bool gw_channel_uri_is_multi(const char *text)
{
    struct channel_uri uri;

    if (!channel_uri_parse(text, &uri, NULL)) {
        return false;
    }
    bool is_multi = strcmp(uri.kind, "tcp") == 0 || strcmp(uri.kind, "unix") == 0;
    channel_uri_clear(&uri);
    return is_multi;
}

bool channel_split_host_port(const char *text, char **host, char **port, GError **error)
{
    const char *colon = strrchr(text, ':');
    guint64 number = 0;

    if (colon == NULL ||
        !g_ascii_string_to_unsigned(colon + 1, 10, 0, G_MAXUINT16, &number, NULL)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "tcp:%s has no port number from 0 to 65535",
                    text);
        return false;
    }
    const char *begin = text;
    const char *end = colon;
    if (text[0] == '[') {
        begin = text + 1;
        end = colon - 1;
        if (end < begin || *end != ']') {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "tcp:%s has no closing bracket", text);
            return false;
        }
    } else if (memchr(text, ':', (size_t)(colon - text)) != NULL) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "tcp:%s: an IPv6 address stands in brackets, tcp:[ADDRESS]:PORT", text);
        return false;
    }
    *host = g_strndup(begin, (gsize)(end - begin));
    *port = g_strdup(colon + 1);
    return true;
}

/* ---- connecting ---- */

/* Waits until a connect in progress is decided. Returns 0 or an errno. */
static int wait_connected(int fd, const struct gw_channel_options *options)
{
    int64_t deadline_ns = options->deadline_ns > 0 ? options->deadline_ns : GW_NO_DEADLINE;

    for (;;) {
        /* A negative fd is passed over by poll. */
        struct pollfd fds[2] = {{fd, POLLOUT, 0},
                                {options->wake_fd > 0 ? options->wake_fd : -1, POLLIN, 0}};
        int64_t left_ms = -1;
        if (deadline_ns != GW_NO_DEADLINE) {
            left_ms = (deadline_ns - channel_now_ns()) / CHANNEL_NS_PER_MS;
            if (left_ms < 0) {
                return ETIMEDOUT;
            }
            left_ms = MIN(left_ms, G_MAXINT - 1) + 1;
        }
        int n = poll(fds, 2, (int)left_ms);
        if (n < 0 && errno != EINTR) {
            return errno;
        }
        if (n > 0 && fds[1].revents != 0) {
            return ECANCELED;
        }
        if (n > 0 && fds[0].revents != 0) {
            int code = 0;
            socklen_t len = sizeof(code);
            if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0) {
                return errno;
            }
            return code;
        }
    }
}

/* A connected socket, or -1 with *code. Listening UNIX sockets with a full queue say EAGAIN. */
static int connect_address(int family, const struct sockaddr *address, socklen_t len,
                           const struct gw_channel_options *options, int *code)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        *code = errno;
        return -1;
    }
    *code = connect(fd, address, len) == 0 ? 0 : errno;
    if (*code == EINPROGRESS || *code == EINTR) {
        *code = wait_connected(fd, options);
    }
    if (*code != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void set_connect_error(const char *name, int code, GError **error)
{
    enum gw_error_code kind = code == ECANCELED   ? GW_ERROR_CANCELLED
                              : code == ETIMEDOUT ? GW_ERROR_TIMEOUT
                                                  : GW_ERROR_LINK_LOST;

    g_set_error(error, GW_ERROR, kind, "%s: connect: %s", name, g_strerror(code));
}

static int connect_tcp(const char *rest, const char *name, const struct gw_channel_options *options,
                       GError **error)
{
    g_autofree char *host = NULL;
    g_autofree char *port = NULL;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *addresses = NULL;
    int code = ENOENT;
    int fd = -1;

    if (!channel_split_host_port(rest, &host, &port, error)) {
        return -1;
    }
    hints.ai_flags = AI_NUMERICSERV;
    int failure = getaddrinfo(host[0] != '\0' ? host : NULL, port, &hints, &addresses);
    if (failure != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: %s", name, gai_strerror(failure));
        return -1;
    }
    for (struct addrinfo *at = addresses; at != NULL && fd < 0; at = at->ai_next) {
        fd = connect_address(at->ai_family, at->ai_addr, at->ai_addrlen, options, &code);
    }
    freeaddrinfo(addresses);
    if (fd < 0) {
        set_connect_error(name, code, error);
    }
    return fd;
}

static int connect_unix(const char *path, const char *name,
                        const struct gw_channel_options *options, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int code = 0;

    if (strlen(path) >= sizeof(address.sun_path)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: path longer than %zu bytes", name,
                    sizeof(address.sun_path) - 1);
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = connect_address(AF_UNIX, (const struct sockaddr *)&address, sizeof(address), options,
                             &code);
    if (fd < 0) {
        set_connect_error(name, code, error);
    }
    return fd;
}

/* ---- kinds with one channel ---- */

static struct gw_channel *open_fd_number(const struct channel_uri *uri, const char *name,
                                         GError **error)
{
    guint64 number = 0;

    if (!g_ascii_string_to_unsigned(uri->rest, 10, 0, G_MAXINT, &number, NULL)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: not a descriptor number", name);
        return NULL;
    }
    int fd = (int)number;
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0) {
        int code = errno;
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: %s", name, g_strerror(code));
        return NULL;
    }
    fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
    const struct fd_channel_config config = {.fd = fd, .name = name};
    return channel_fd_new(&config, error);
}

static struct gw_channel *open_file_reader(const char *path, const char *name, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        int code = errno;
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: open: %s", name, g_strerror(code));
        return NULL;
    }
    const struct fd_channel_config config = {.fd = fd, .name = name};
    return channel_fd_new(&config, error);
}

static struct gw_channel *open_file_writer(const char *path, const char *name, GError **error)
{
    struct stat st;
    g_autofree char *temporary = NULL;
    int fd;

    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        fd = open(path, O_WRONLY | O_CLOEXEC); /* a device or a FIFO is written in place */
    } else {
        temporary = g_strdup_printf("%s.XXXXXX", path);
        fd = mkostemp(temporary, O_CLOEXEC);
    }
    if (fd < 0) {
        int code = errno;
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: create: %s", name, g_strerror(code));
        return NULL;
    }
    const struct fd_channel_config config = {
        .fd = fd, .name = name, .temporary_path = temporary, .final_path = path};
    return channel_fd_new(&config, error);
}

static int spawn_command(const char *command, int fd, pid_t *child)
{
    char *const arguments[] = {(char *)"sh", (char *)"-c", (char *)(uintptr_t)command, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;

    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_adddup2(&actions, fd, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, fd, STDOUT_FILENO);
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                              POSIX_SPAWN_SETPGROUP);
    int code = posix_spawn(child, "/bin/sh", &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

static struct gw_channel *open_command(const char *command, const char *name, GError **error)
{
    int fds[2];
    pid_t child = 0;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        int code = errno;
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: socketpair: %s", name, g_strerror(code));
        return NULL;
    }
    int code = spawn_command(command, fds[1], &child);
    close(fds[1]);
    if (code != 0) {
        close(fds[0]);
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: start: %s", name, g_strerror(code));
        return NULL;
    }
    const struct fd_channel_config config = {.fd = fds[0], .name = name, .child = child};
    return channel_fd_new(&config, error);
}

struct gw_channel *channel_open_single(const struct channel_uri *uri, bool is_reader,
                                       GError **error)
{
    g_autofree char *name = g_strdup_printf("%s:%s", uri->kind, uri->rest);

    if (strcmp(uri->kind, "fd") == 0) {
        return open_fd_number(uri, name, error);
    }
    if (strcmp(uri->kind, "file") == 0) {
        return is_reader ? open_file_reader(uri->rest, name, error)
                         : open_file_writer(uri->rest, name, error);
    }
    return open_command(uri->rest, name, error);
}

/* ---- the stack ---- */

static struct gw_channel *add_faults(struct gw_channel *channel, const char *spec,
                                     const struct gw_framing *framing, GError **error)
{
    return spec != NULL && channel != NULL ? channel_fault_new(channel, spec, framing, error)
                                           : channel;
}

/* Outermost first: trace, fault, rate. */
struct gw_channel *channel_stack(struct gw_channel *channel, const struct channel_uri *uri,
                                 const struct gw_channel_options *options, GError **error)
{
    const struct gw_framing *framing = options != NULL ? options->framing : NULL;
    const char *trace = uri->trace;

    if (options != NULL) {
        gw_channel_set_silence_ms(channel, options->silence_ms);
        if (options->limit != NULL) {
            channel = channel_rate_new(channel, options->limit);
        }
        if (options->trace_dir != NULL) {
            trace = options->trace_dir;
        }
    }
    if (uri->rate_bytes_per_s != 0) {
        struct gw_rate_limit *limit = gw_rate_limit_new(uri->rate_bytes_per_s);
        channel = channel_rate_new(channel, limit);
        gw_rate_limit_unref(limit);
    }
    channel = add_faults(channel, uri->fault, framing, error);
    channel = add_faults(channel, options != NULL ? options->fault : NULL, framing, error);
    if (channel != NULL && trace != NULL) {
        channel = channel_trace_new(channel, trace, framing, error);
    }
    return channel;
}

static struct gw_channel *connect_socket(const struct channel_uri *uri,
                                         const struct gw_channel_options *options, GError **error)
{
    static const struct gw_channel_options none;
    g_autofree char *name = g_strdup_printf("%s:%s", uri->kind, uri->rest);
    const struct gw_channel_options *use = options != NULL ? options : &none;
    int fd = strcmp(uri->kind, "tcp") == 0 ? connect_tcp(uri->rest, name, use, error)
                                           : connect_unix(uri->rest, name, use, error);

    if (fd < 0) {
        return NULL;
    }
    const struct fd_channel_config config = {.fd = fd, .name = name};
    return channel_fd_new(&config, error);
}

bool channel_uri_check(const char *text, GError **error)
{
    struct channel_uri uri;
    g_autofree char *host = NULL;
    g_autofree char *port = NULL;

    if (!channel_uri_parse(text, &uri, error)) {
        return false;
    }
    bool is_ok =
        strcmp(uri.kind, "tcp") != 0 || channel_split_host_port(uri.rest, &host, &port, error);
    channel_uri_clear(&uri);
    return is_ok;
}

struct gw_channel *gw_channel_connect(const char *text, const struct gw_channel_options *options,
                                      GError **error)
{
    struct channel_uri uri;
    struct gw_channel *channel;

    if (!channel_uri_parse(text, &uri, error)) {
        return NULL;
    }
    if (strcmp(uri.kind, "tcp") == 0 || strcmp(uri.kind, "unix") == 0) {
        channel = connect_socket(&uri, options, error);
    } else {
        channel = channel_open_single(&uri, false, error);
    }
    if (channel != NULL) {
        channel = channel_stack(channel, &uri, options, error);
    }
    channel_uri_clear(&uri);
    return channel;
}
