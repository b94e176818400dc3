/* SPDX-License-Identifier: MIT */
/*
 * Listening: one listener gives all channels of a migration, or the single one of fd, file, exec.
 *
 * Threads: one thread accepts; gw_listener_wake may be called from any.
 */
#include "channel/channel_impl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_ADDRESSES 8
#define BACKLOG       128

struct gw_listener {
    /* fixed after construction */
    struct channel_core *core; /* name, wake-up */
    struct channel_uri uri;    /* filters for the accepted channels */
    struct gw_channel_options options;
    char *fault;
    char *trace_dir;
    int fds[MAX_ADDRESSES]; /* listening sockets; none when single */
    size_t n_fds;
    char *unix_path; /* ours to remove, if it is still the inode below */
    dev_t unix_device;
    ino_t unix_inode;
    bool is_single;
    /* owned by the accepting thread */
    bool was_given;
    size_t next_fd; /* round robin between the sockets */
};

void gw_listener_free(struct gw_listener *listener)
{
    struct stat st;

    if (listener == NULL) {
        return;
    }
    for (size_t i = 0; i < listener->n_fds; i++) {
        close(listener->fds[i]);
    }
    if (listener->unix_path != NULL && lstat(listener->unix_path, &st) == 0 &&
        st.st_dev == listener->unix_device && st.st_ino == listener->unix_inode) {
        unlink(listener->unix_path);
    }
    if (listener->options.limit != NULL) {
        gw_rate_limit_unref(listener->options.limit);
    }
    channel_core_free(listener->core);
    channel_uri_clear(&listener->uri);
    g_free(listener->fault);
    g_free(listener->trace_dir);
    g_free(listener->unix_path);
    g_free(listener);
}

const char *gw_listener_uri(const struct gw_listener *listener)
{
    return listener->core->name;
}

bool gw_listener_is_single(const struct gw_listener *listener)
{
    return listener->is_single;
}

static bool set_errno(const struct gw_listener *listener, const char *what, GError **error)
{
    int code = errno;

    g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: %s: %s", listener->core->name, what,
                g_strerror(code));
    return false;
}

/* ---- tcp ---- */

static uint16_t port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);

    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0) {
        return 0;
    }
    return address.ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)&address)->sin6_port)
                                         : ntohs(((const struct sockaddr_in *)&address)->sin_port);
}

static void set_port(struct sockaddr *address, uint16_t port)
{
    if (address->sa_family == AF_INET6) {
        ((struct sockaddr_in6 *)address)->sin6_port = htons(port);
    } else {
        ((struct sockaddr_in *)address)->sin_port = htons(port);
    }
}

static int listen_address(const struct addrinfo *at, bool is_dual)
{
    const int on = 1;
    const int v6_only = is_dual ? 0 : 1;
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (at->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof(v6_only));
    }
    if (bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        int code = errno;
        close(fd);
        errno = code;
        return -1;
    }
    return fd;
}

/* All addresses of a host with one port; any host: one IPv6 socket for both, else IPv4. */
static bool listen_tcp(struct gw_listener *listener, GError **error)
{
    g_autofree char *host = NULL;
    g_autofree char *port = NULL;
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *addresses = NULL;
    uint16_t real_port = 0;

    if (!channel_split_host_port(listener->uri.rest, &host, &port, error)) {
        return false;
    }
    bool is_any = host[0] == '\0';
    int failure = getaddrinfo(is_any ? NULL : host, port, &hints, &addresses);
    if (failure != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: %s", listener->core->name,
                    gai_strerror(failure));
        return false;
    }
    for (int pass = 0; pass < 2; pass++) { /* IPv6 first */
        for (struct addrinfo *at = addresses; at != NULL; at = at->ai_next) {
            bool is_v6 = at->ai_family == AF_INET6;
            if (is_v6 != (pass == 0) || listener->n_fds == MAX_ADDRESSES ||
                (is_any && listener->n_fds > 0)) {
                continue;
            }
            if (real_port != 0) {
                set_port(at->ai_addr, real_port);
            }
            int fd = listen_address(at, is_any);
            if (fd >= 0) {
                listener->fds[listener->n_fds++] = fd;
                real_port = port_of(fd);
            }
        }
    }
    freeaddrinfo(addresses);
    if (listener->n_fds == 0) {
        return set_errno(listener, "listen", error);
    }
    g_free(listener->core->name);
    listener->core->name = g_strdup_printf(strchr(host, ':') != NULL ? "tcp:[%s]:%u" : "tcp:%s:%u",
                                           is_any ? "localhost" : host, real_port);
    return true;
}

/* ---- unix ---- */

/* Is the socket file left over from a process that is gone? */
static bool is_stale(const struct sockaddr_un *address)
{
    struct stat st;

    if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return false;
    }
    bool is_refused = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
                      errno == ECONNREFUSED;
    close(fd);
    return is_refused;
}

static bool listen_unix(struct gw_listener *listener, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = listener->uri.rest;
    struct stat st;

    if (strlen(path) >= sizeof(address.sun_path)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: path longer than %zu bytes",
                    listener->core->name, sizeof(address.sun_path) - 1);
        return false;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return set_errno(listener, "socket", error);
    }
    listener->fds[listener->n_fds++] = fd;
    int failure = bind(fd, (const struct sockaddr *)&address, sizeof(address));
    if (failure < 0 && errno == EADDRINUSE) {
        if (is_stale(&address)) {
            unlink(path);
            failure = bind(fd, (const struct sockaddr *)&address, sizeof(address));
        } else {
            errno = EADDRINUSE;
        }
    }
    if (failure < 0 || listen(fd, BACKLOG) < 0) {
        return set_errno(listener, "listen", error);
    }
    if (lstat(path, &st) == 0) {
        listener->unix_path = g_strdup(path);
        listener->unix_device = st.st_dev;
        listener->unix_inode = st.st_ino;
    }
    return true;
}

/* fd:N that is a listening socket. */
static bool adopt_listening_fd(struct gw_listener *listener)
{
    guint64 number = 0;
    int is_listening = 0;
    socklen_t len = sizeof(is_listening);

    if (!g_ascii_string_to_unsigned(listener->uri.rest, 10, 0, G_MAXINT, &number, NULL) ||
        getsockopt((int)number, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &len) < 0 ||
        !is_listening) {
        return false;
    }
    int fd = (int)number;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    listener->fds[listener->n_fds++] = fd;
    return true;
}

static bool listener_start(struct gw_listener *listener, GError **error)
{
    const char *kind = listener->uri.kind;

    if (strcmp(kind, "tcp") == 0) {
        return listen_tcp(listener, error);
    }
    if (strcmp(kind, "unix") == 0) {
        return listen_unix(listener, error);
    }
    listener->is_single = !(strcmp(kind, "fd") == 0 && adopt_listening_fd(listener));
    return true;
}

struct gw_listener *gw_listener_new(const char *text, const struct gw_channel_options *options,
                                    GError **error)
{
    struct gw_listener *listener = g_new0(struct gw_listener, 1);

    if (!channel_uri_parse(text, &listener->uri, error)) {
        g_free(listener);
        return NULL;
    }
    if (options != NULL) {
        listener->options = *options;
        listener->fault = g_strdup(options->fault);
        listener->trace_dir = g_strdup(options->trace_dir);
        listener->options.fault = listener->fault;
        listener->options.trace_dir = listener->trace_dir;
        if (options->limit != NULL) {
            gw_rate_limit_ref(options->limit);
        }
    }
    g_autofree char *name = g_strdup_printf("%s:%s", listener->uri.kind, listener->uri.rest);
    listener->core = channel_core_new(name, error);
    bool has_framing = listener->options.framing != NULL;
    if (listener->core == NULL ||
        (listener->fault != NULL && !channel_fault_check(listener->fault, has_framing, error)) ||
        (listener->uri.fault != NULL &&
         !channel_fault_check(listener->uri.fault, has_framing, error)) ||
        !listener_start(listener, error)) {
        gw_listener_free(listener);
        return NULL;
    }
    return listener;
}

/* ---- accepting ---- */

/* Who came, for messages: "tcp:10.0.0.2:40312"; the listener's own name when there is no address.
 */
static char *peer_name(const struct gw_listener *listener, const struct sockaddr_storage *address,
                       socklen_t len)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if ((address->ss_family != AF_INET && address->ss_family != AF_INET6) ||
        getnameinfo((const struct sockaddr *)address, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return g_strdup(listener->core->name);
    }
    return g_strdup_printf(strchr(host, ':') != NULL ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

/* A connected socket, -1 when there is none now. Errors of one connection are no errors of ours. */
static int try_accept(struct gw_listener *listener, char **name)
{
    for (size_t i = 0; i < listener->n_fds; i++) {
        struct sockaddr_storage address = {0};
        socklen_t len = sizeof(address);
        size_t at = (listener->next_fd + i) % listener->n_fds;
        int fd = accept4(listener->fds[at], (struct sockaddr *)&address, &len, SOCK_CLOEXEC);
        if (fd >= 0) {
            listener->next_fd = at + 1;
            *name = peer_name(listener, &address, len);
            return fd;
        }
    }
    return -1;
}

static bool wait_incoming(struct gw_listener *listener, int64_t deadline_ns, GError **error)
{
    struct pollfd fds[MAX_ADDRESSES + 1];
    int64_t left_ms = -1;

    for (size_t i = 0; i < listener->n_fds; i++) {
        fds[i] = (struct pollfd){listener->fds[i], POLLIN, 0};
    }
    fds[listener->n_fds] = (struct pollfd){listener->core->event_fd, POLLIN, 0};
    if (deadline_ns != GW_NO_DEADLINE) {
        int64_t left_ns = deadline_ns - channel_now_ns();
        if (left_ns <= 0) {
            g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT, "%s: nobody came in time",
                        listener->core->name);
            return false;
        }
        left_ms = MIN(left_ns / CHANNEL_NS_PER_MS, G_MAXINT - 1) + 1;
    }
    if (poll(fds, listener->n_fds + 1, (int)left_ms) < 0 && errno != EINTR) {
        return set_errno(listener, "poll", error);
    }
    return true;
}

struct gw_channel *gw_listener_accept(struct gw_listener *listener, int64_t deadline_ns,
                                      GError **error)
{
    struct gw_channel *channel;

    if (listener->is_single) {
        if (channel_core_is_stopped(listener->core, error)) {
            return NULL;
        }
        if (listener->was_given) {
            g_set_error(error, GW_ERROR, GW_ERROR_STATE, "%s: has only one channel",
                        listener->core->name);
            return NULL;
        }
        listener->was_given = true;
        channel = channel_open_single(&listener->uri, true, error);
    } else {
        g_autofree char *name = NULL;
        int fd = -1;
        while (fd < 0) {
            if (channel_core_is_stopped(listener->core, error)) {
                return NULL;
            }
            fd = try_accept(listener, &name);
            if (fd < 0 && !wait_incoming(listener, deadline_ns, error)) {
                return NULL;
            }
        }
        const struct fd_channel_config config = {.fd = fd, .name = name};
        channel = channel_fd_new(&config, error);
    }
    return channel == NULL ? NULL
                           : channel_stack(channel, &listener->uri, &listener->options, error);
}

void gw_listener_wake(struct gw_listener *listener)
{
    uint64_t one = 1;

    atomic_store_explicit(&listener->core->is_woken, true, memory_order_release);
    ssize_t n = write(listener->core->event_fd, &one, sizeof(one));
    (void)n;
}
