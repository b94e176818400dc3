/* SPDX-License-Identifier: MIT */
/*
 * The core channel: a file descriptor that is a socket, a pipe or a file, maybe with a command
 * behind it.
 *
 * Model: sockets are used with MSG_DONTWAIT (an inherited descriptor's flags may be shared with
 * another process and are left alone), pipes with O_NONBLOCK; both wait in poll beside the wake
 * event. Files block in the kernel for as long as the disk takes. A new file is written under a
 * temporary name and takes its own when it is finished, so that a failed snapshot never replaces
 * a good one.
 *
 * Sends copy. MSG_ZEROCOPY leaves the bytes where they are until the peer's kernel has them: what a
 * running guest writes there meanwhile would go out under a digest of what was there before, and
 * sent again they would be others. Over loopback the kernel copies them after all, and takes 1.4
 * times as long for 2 GiB (Linux 6.18).
 *
 * SIGPIPE: sockets use MSG_NOSIGNAL; around a write to a pipe the signal is blocked in this
 * thread, and taken from the queue if the write has caused it.
 */
#include "channel/channel_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Linux caps one transfer here; asking for more would only be cut. */
#define MAX_TRANSFER_BYTES ((size_t)1 << 30)

struct fd_channel {
    struct gw_channel layer;
    /* fixed after construction */
    int fd;
    bool is_socket;
    bool is_file; /* regular file or block device: never waits */
    pid_t child;
    int child_fd; /* pidfd, -1: none */
    char *temporary_path;
    char *final_path;
    /* owned by the finishing thread */
    bool is_finished;
    bool is_reaped;
};

static struct fd_channel *fd_of(struct gw_channel *channel)
{
    return (struct fd_channel *)channel;
}

static void set_errno(const struct gw_channel *channel, const char *what, int code, GError **error)
{
    bool is_link = code == EPIPE || code == ECONNRESET || code == ECONNABORTED ||
                   code == ETIMEDOUT || code == EHOSTUNREACH || code == ENETUNREACH ||
                   code == ENETDOWN || code == ENETRESET || code == ENOTCONN;

    g_set_error(error, GW_ERROR, is_link ? GW_ERROR_LINK_LOST : GW_ERROR_IO, "%s: %s: %s",
                channel->core->name, what, g_strerror(code));
}

/* What of a vector one call may carry: *n_iov elements of the result, which is iov or *first. */
static struct iovec *bounded_iov(const struct iovec *iov, size_t *n_iov, struct iovec *first)
{
    if (iov[0].iov_len > MAX_TRANSFER_BYTES) {
        first->iov_base = iov[0].iov_base;
        first->iov_len = MAX_TRANSFER_BYTES;
        *n_iov = 1;
        return first;
    }
    *n_iov = MIN(*n_iov, IOV_MAX);
    return (struct iovec *)iov; /* the system's functions do not change it */
}

static ssize_t fd_readv(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                        int64_t deadline_ns, GError **error)
{
    struct fd_channel *self = fd_of(channel);
    struct iovec first;
    struct iovec *use = bounded_iov(iov, &n_iov, &first);

    for (;;) {
        ssize_t got;
        if (channel_core_is_stopped(channel->core, error)) {
            return -1;
        }
        if (self->is_socket) {
            struct msghdr message = {.msg_iov = use, .msg_iovlen = n_iov};
            got = channel_receive_message(channel->core, self->fd, &message, error);
            if (got == -2) {
                return -1;
            }
        } else {
            got = readv(self->fd, use, (int)n_iov);
        }
        if (got >= 0) {
            return got;
        }
        if (errno == EAGAIN) {
            if (!channel_core_wait(channel->core, self->fd, POLLIN, deadline_ns, error)) {
                return -1;
            }
        } else if (errno != EINTR) {
            set_errno(channel, "read", errno, error);
            return -1;
        }
    }
}

/* writev that never raises SIGPIPE in this process. */
static ssize_t quiet_writev(int fd, const struct iovec *iov, size_t n_iov)
{
    sigset_t pipe_set, old_set, pending;
    struct timespec no_time = {0, 0};

    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    sigpending(&pending);
    bool was_pending = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_set, &old_set);
    ssize_t n = writev(fd, iov, (int)n_iov);
    int code = errno;
    if (n < 0 && code == EPIPE && !was_pending) {
        while (sigtimedwait(&pipe_set, NULL, &no_time) < 0 && errno == EINTR) {
        }
    }
    pthread_sigmask(SIG_SETMASK, &old_set, NULL);
    errno = code;
    return n;
}

static ssize_t fd_writev(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                         int64_t deadline_ns, GError **error)
{
    struct fd_channel *self = fd_of(channel);
    struct iovec first;
    struct iovec *use = bounded_iov(iov, &n_iov, &first);

    for (;;) {
        ssize_t put;
        if (channel_core_is_stopped(channel->core, error)) {
            return -1;
        }
        if (self->is_socket) {
            struct msghdr message = {.msg_iov = use, .msg_iovlen = n_iov};
            put = channel_send_message(channel->core, self->fd, &message);
        } else if (self->is_file) {
            put = writev(self->fd, use, (int)n_iov);
        } else {
            put = quiet_writev(self->fd, use, n_iov);
        }
        if (put > 0) {
            return put;
        }
        if (put == 0 || errno == EAGAIN) {
            if (!channel_core_wait(channel->core, self->fd, POLLOUT, deadline_ns, error)) {
                return -1;
            }
        } else if (errno != EINTR) {
            set_errno(channel, "write", errno, error);
            return -1;
        }
    }
}

/* ---- finishing ---- */

static bool sync_directory_of(const char *path)
{
    g_autofree char *directory = g_path_get_dirname(path);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return false;
    }
    bool is_ok = fsync(fd) == 0;
    close(fd);
    return is_ok;
}

static bool finish_file(struct fd_channel *self, GError **error)
{
    if (fsync(self->fd) < 0 && errno != EINVAL && errno != EROFS) {
        set_errno(&self->layer, "sync", errno, error);
        return false;
    }
    if (self->temporary_path == NULL) {
        return true;
    }
    if (rename(self->temporary_path, self->final_path) < 0 ||
        !sync_directory_of(self->final_path)) {
        set_errno(&self->layer, "rename", errno, error);
        return false;
    }
    g_clear_pointer(&self->temporary_path, g_free);
    return true;
}

/* Waits for the command, throwing away what it still says. */
static bool finish_child(struct fd_channel *self, int64_t deadline_ns, GError **error)
{
    struct channel_core *core = self->layer.core;
    uint8_t sink[4096];
    siginfo_t info = {0};

    for (;;) {
        while (recv(self->fd, sink, sizeof(sink), MSG_DONTWAIT) > 0) {
        }
        /* Short steps: the command may block on its output while we wait for its end. */
        int64_t step_ns = MIN(deadline_ns, gw_deadline_after_ms(100));
        g_autoptr(GError) step_error = NULL;
        bool is_ready = channel_core_wait(core, self->child_fd, POLLIN, step_ns, &step_error);
        if (is_ready) {
            break;
        }
        if (step_error->code != GW_ERROR_TIMEOUT || channel_now_ns() >= deadline_ns) {
            g_propagate_error(error, g_steal_pointer(&step_error));
            return false;
        }
    }
    if (waitid(P_PIDFD, (id_t)self->child_fd, &info, WEXITED) < 0) {
        set_errno(&self->layer, "wait for the command", errno, error);
        return false;
    }
    self->is_reaped = true;
    if (info.si_code != CLD_EXITED || info.si_status != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: command ended by %s %d", core->name,
                    info.si_code == CLD_EXITED ? "exit status" : "signal", info.si_status);
        return false;
    }
    return true;
}

static bool fd_finish(struct gw_channel *channel, int64_t deadline_ns, GError **error)
{
    struct fd_channel *self = fd_of(channel);

    if (self->is_finished) {
        return true;
    }
    if (self->is_socket && shutdown(self->fd, SHUT_WR) < 0 && errno != ENOTCONN) {
        set_errno(channel, "shut down", errno, error);
        return false;
    }
    if (self->child != 0 && !finish_child(self, deadline_ns, error)) {
        return false;
    }
    if (self->is_file && channel->core->can_write && !finish_file(self, error)) {
        return false;
    }
    self->is_finished = true;
    return true;
}

static void fd_shutdown(struct gw_channel *channel)
{
    struct fd_channel *self = fd_of(channel);

    if (self->is_socket) {
        shutdown(self->fd, SHUT_RDWR);
    }
}

static void fd_free(struct gw_channel *channel)
{
    struct fd_channel *self = fd_of(channel);

    close(self->fd);
    if (self->child != 0 && !self->is_reaped) {
        /* Its own process group: a pipeline goes as a whole. */
        kill(-self->child, SIGKILL);
        waitpid(self->child, NULL, 0);
    }
    if (self->child_fd >= 0) {
        close(self->child_fd);
    }
    if (self->temporary_path != NULL) {
        unlink(self->temporary_path);
    }
    g_free(self->temporary_path);
    g_free(self->final_path);
    g_free(self);
}

static const struct channel_ops fd_ops = {
    .readv = fd_readv,
    .writev = fd_writev,
    .finish = fd_finish,
    .shutdown = fd_shutdown,
    .free = fd_free,
};

int gw_channel_file_fd(const struct gw_channel *channel)
{
    const struct fd_channel *self = (const struct fd_channel *)channel;

    return channel->ops == &fd_ops && self->is_file ? self->fd : -1;
}

/* ---- construction ---- */

void channel_tune_socket(int fd)
{
    /* Records are written whole, so Nagle's wait only costs. A dead peer is found by the silence
     * limit first; keep-alive probes are for idle channels. The send buffer of TCP is left to the
     * kernel's own tuning, which a fixed size would switch off; a UNIX socket has none. */
    const int on = 1, idle_s = 5, interval_s = 2, probes = 5, unix_buffer = 1 << 20;
    int domain = 0;
    socklen_t len = sizeof(domain);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0) {
        return;
    }
    if (domain == AF_UNIX) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &unix_buffer, sizeof(unix_buffer));
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

static bool is_unix_stream(int fd)
{
    int domain = 0, type = 0;
    socklen_t len = sizeof(int);

    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM;
}

/* What kind of descriptor is it, and which directions has it? */
static bool fd_examine(struct fd_channel *self, GError **error)
{
    struct channel_core *core = self->layer.core;
    struct stat st;
    int flags = fcntl(self->fd, F_GETFL);

    if (flags < 0 || fstat(self->fd, &st) < 0) {
        set_errno(&self->layer, "descriptor", errno, error);
        return false;
    }
    int mode = flags & O_ACCMODE;
    self->is_socket = S_ISSOCK(st.st_mode);
    self->is_file = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode);
    core->can_read = mode != O_WRONLY;
    core->can_write = mode != O_RDONLY;
    core->is_duplex = self->is_socket || S_ISCHR(st.st_mode);
    if (self->is_socket) {
        core->socket_fd = self->fd;
        core->can_pass_descriptors = is_unix_stream(self->fd);
        channel_tune_socket(self->fd);
    } else if (!self->is_file && fcntl(self->fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        set_errno(&self->layer, "set non-blocking", errno, error);
        return false;
    }
    return true;
}

struct gw_channel *channel_fd_new(const struct fd_channel_config *config, GError **error)
{
    struct fd_channel *self = g_new0(struct fd_channel, 1);
    struct channel_core *core = channel_core_new(config->name, error);

    self->fd = config->fd;
    self->child = config->child;
    self->child_fd = -1;
    self->temporary_path = g_strdup(config->temporary_path);
    self->final_path = g_strdup(config->final_path);
    channel_layer_init(&self->layer, &fd_ops, core, NULL);
    if (core == NULL) {
        fd_free(&self->layer);
        return NULL;
    }
    if (self->child != 0) {
        self->child_fd = pidfd_open(self->child, 0);
        if (self->child_fd < 0) {
            set_errno(&self->layer, "pidfd", errno, error);
            gw_channel_free(&self->layer);
            return NULL;
        }
    }
    if (!fd_examine(self, error)) {
        gw_channel_free(&self->layer);
        return NULL;
    }
    return &self->layer;
}

struct gw_channel *gw_channel_new_fd(int fd, const char *name,
                                     const struct gw_channel_options *options, GError **error)
{
    const struct fd_channel_config config = {.fd = fd, .name = name};
    struct channel_uri no_uri = {0};
    struct gw_channel *channel = channel_fd_new(&config, error);

    return channel == NULL ? NULL : channel_stack(channel, &no_uri, options, error);
}
