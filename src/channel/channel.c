/* SPDX-License-Identifier: MIT */
/* What all channels have in common: moving all bytes, waiting, waking, counting. */
#include "channel/channel_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

int64_t channel_now_ns(void)
{
    return (int64_t)clock_mono_ns();
}

int64_t gw_deadline_after_ms(int64_t ms)
{
    int64_t now_ns = channel_now_ns();

    if (ms >= (INT64_MAX - now_ns) / CHANNEL_NS_PER_MS) {
        return GW_NO_DEADLINE;
    }
    return now_ns + ms * CHANNEL_NS_PER_MS;
}

/* ---- the core ---- */

struct channel_core *channel_core_new(const char *name, GError **error)
{
    int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (event_fd < 0) {
        int code = errno;
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: eventfd: %s", name, g_strerror(code));
        return NULL;
    }
    struct channel_core *core = g_new0(struct channel_core, 1);
    core->name = g_strdup(name);
    core->event_fd = event_fd;
    core->socket_fd = -1;
    pthread_mutex_init(&core->received_lock, NULL);
    return core;
}

void channel_core_free(struct channel_core *core)
{
    if (core == NULL) {
        return;
    }
    channel_drop_descriptors(core);
    pthread_mutex_destroy(&core->received_lock);
    close(core->event_fd);
    g_free(core->name);
    g_free(core);
}

bool channel_core_is_stopped(const struct channel_core *core, GError **error)
{
    if (atomic_load_explicit(&core->is_woken, memory_order_acquire)) {
        g_set_error(error, GW_ERROR, GW_ERROR_CANCELLED, "%s: cancelled", core->name);
        return true;
    }
    if (atomic_load_explicit(&core->is_shut, memory_order_acquire)) {
        g_set_error(error, GW_ERROR, GW_ERROR_LINK_LOST, "%s: shut down", core->name);
        return true;
    }
    return false;
}

/* What remains until the earlier of two moments, as a poll timeout; false when it is over. */
static bool timeout_until(int64_t until_ns, struct timespec *timeout, struct timespec **pointer)
{
    *pointer = NULL;
    if (until_ns == INT64_MAX) {
        return true;
    }
    int64_t left_ns = until_ns - channel_now_ns();
    if (left_ns <= 0) {
        return false;
    }
    timeout->tv_sec = left_ns / CHANNEL_NS_PER_S;
    timeout->tv_nsec = left_ns % CHANNEL_NS_PER_S;
    *pointer = timeout;
    return true;
}

/* The moment at which a wait that begins now has been silent for too long. */
static int64_t silence_end_ns(const struct channel_core *core)
{
    int64_t silence_ms = atomic_load_explicit(&core->silence_ms, memory_order_relaxed);

    return silence_ms > 0 ? gw_deadline_after_ms(silence_ms) : INT64_MAX;
}

static void set_late(const struct channel_core *core, bool is_deadline, GError **error)
{
    if (is_deadline) {
        g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT, "%s: deadline passed", core->name);
    } else {
        g_set_error(error, GW_ERROR, GW_ERROR_LINK_SILENT, "%s: silent for %" PRId64 " ms",
                    core->name, atomic_load_explicit(&core->silence_ms, memory_order_relaxed));
    }
}

bool channel_core_wait(struct channel_core *core, int fd, short events, int64_t deadline_ns,
                       GError **error)
{
    int64_t silence_ns = silence_end_ns(core);
    int64_t until_ns = MIN(deadline_ns, silence_ns);

    for (;;) {
        struct pollfd fds[2] = {{fd, events, 0}, {core->event_fd, POLLIN, 0}};
        struct timespec timeout = {0, 0};
        struct timespec *pointer = NULL;
        bool is_over = !timeout_until(until_ns, &timeout, &pointer);

        int n = ppoll(fds, 2, is_over ? &timeout : pointer, NULL);
        if (n < 0 && errno != EINTR) {
            int code = errno;
            g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: poll: %s", core->name, g_strerror(code));
            return false;
        }
        if (channel_core_is_stopped(core, error)) {
            return false;
        }
        if (n > 0 && fds[0].revents != 0) {
            return true;
        }
        if (is_over) {
            set_late(core, deadline_ns <= silence_ns, error);
            return false;
        }
    }
}

bool channel_core_pause(struct channel_core *core, int64_t until_ns, bool is_silence,
                        int64_t deadline_ns, GError **error)
{
    int64_t silence_ns = is_silence ? silence_end_ns(core) : INT64_MAX;
    int64_t end_ns = MIN(until_ns, MIN(deadline_ns, silence_ns));

    for (;;) {
        struct pollfd fds[1] = {{core->event_fd, POLLIN, 0}};
        struct timespec timeout = {0, 0};
        struct timespec *pointer = NULL;
        bool is_over = !timeout_until(end_ns, &timeout, &pointer);

        if (channel_core_is_stopped(core, error)) {
            return false;
        }
        if (is_over) {
            if (end_ns == until_ns) {
                return true;
            }
            set_late(core, end_ns == deadline_ns, error);
            return false;
        }
        if (ppoll(fds, 1, pointer, NULL) < 0 && errno != EINTR) {
            int code = errno;
            g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: poll: %s", core->name, g_strerror(code));
            return false;
        }
    }
}

static void core_wake(struct channel_core *core, _Atomic bool *flag)
{
    uint64_t one = 1;

    /* ORDER: the flag is set (release) before the event; a waiter that sees the event reads the
     * flag (acquire) in channel_core_is_stopped. */
    atomic_store_explicit(flag, true, memory_order_release);
    ssize_t n = write(core->event_fd, &one, sizeof(one));
    (void)n; /* fails only when the counter is full: it is readable then */
}

/* ---- layers ---- */

void channel_layer_init(struct gw_channel *layer, const struct channel_ops *ops,
                        struct channel_core *core, struct gw_channel *next)
{
    layer->ops = ops;
    layer->core = core;
    layer->next = next;
    atomic_init(&layer->bytes_in, 0);
    atomic_init(&layer->bytes_out, 0);
}

size_t channel_iov_bytes(const struct iovec *iov, size_t n_iov)
{
    size_t n_bytes = 0;

    for (size_t i = 0; i < n_iov; i++) {
        n_bytes += iov[i].iov_len;
    }
    return n_bytes;
}

size_t channel_iov_cut(const struct iovec *iov, size_t n_iov, size_t skip_bytes, size_t max_bytes,
                       struct iovec *out, size_t max_out)
{
    size_t n_out = 0;

    for (size_t i = 0; i < n_iov && n_out < max_out && max_bytes > 0; i++) {
        if (skip_bytes >= iov[i].iov_len) {
            skip_bytes -= iov[i].iov_len;
            continue;
        }
        size_t len = MIN(iov[i].iov_len - skip_bytes, max_bytes);
        out[n_out].iov_base = (uint8_t *)iov[i].iov_base + skip_bytes;
        out[n_out].iov_len = len;
        n_out++;
        skip_bytes = 0;
        max_bytes -= len;
    }
    return n_out;
}

void gw_channel_free(struct gw_channel *channel)
{
    if (channel == NULL) {
        return;
    }
    struct channel_core *core = channel->core;
    channel->ops->free(channel);
    channel_core_free(core);
}

const char *gw_channel_name(const struct gw_channel *channel)
{
    return channel->core->name;
}

bool gw_channel_is_duplex(const struct gw_channel *channel)
{
    return channel->core->is_duplex;
}

bool gw_channel_can_read(const struct gw_channel *channel)
{
    return channel->core->can_read;
}

bool gw_channel_can_write(const struct gw_channel *channel)
{
    return channel->core->can_write;
}

void gw_channel_wake(struct gw_channel *channel)
{
    core_wake(channel->core, &channel->core->is_woken);
}

void gw_channel_shutdown(struct gw_channel *channel)
{
    core_wake(channel->core, &channel->core->is_shut);
    channel->ops->shutdown(channel);
}

void gw_channel_set_silence_ms(struct gw_channel *channel, int64_t silence_ms)
{
    atomic_store_explicit(&channel->core->silence_ms, silence_ms, memory_order_relaxed);
}

uint64_t gw_channel_bytes_in(const struct gw_channel *channel)
{
    return atomic_load_explicit(&channel->bytes_in, memory_order_relaxed);
}

uint64_t gw_channel_bytes_out(const struct gw_channel *channel)
{
    return atomic_load_explicit(&channel->bytes_out, memory_order_relaxed);
}

static void count(_Atomic uint64_t *counter, size_t n_bytes)
{
    /* One writer: no read-modify-write needed. */
    uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, old + n_bytes, memory_order_relaxed);
}

static bool check_direction(const struct gw_channel *channel, bool is_possible, const char *verb,
                            GError **error)
{
    if (!is_possible) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "%s: cannot be %s", channel->core->name,
                    verb);
        return false;
    }
    return !channel_core_is_stopped(channel->core, error);
}

ssize_t gw_channel_read_some(struct gw_channel *channel, void *to, size_t n_bytes,
                             int64_t deadline_ns, GError **error)
{
    struct iovec iov = {to, n_bytes};

    if (!check_direction(channel, channel->core->can_read, "read", error)) {
        return -1;
    }
    ssize_t n = channel->ops->readv(channel, &iov, 1, deadline_ns, error);
    if (n > 0) {
        count(&channel->bytes_in, (size_t)n);
    }
    return n;
}

bool gw_channel_readv_full(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                           int64_t deadline_ns, GError **error)
{
    size_t wanted = channel_iov_bytes(iov, n_iov);
    size_t done = 0;
    struct iovec rest[CHANNEL_MAX_IOV];

    if (!check_direction(channel, channel->core->can_read, "read", error)) {
        return false;
    }
    while (done < wanted) {
        const struct iovec *part = iov;
        size_t n_part = n_iov;
        if (done > 0 || n_iov > CHANNEL_MAX_IOV) {
            n_part = channel_iov_cut(iov, n_iov, done, SIZE_MAX, rest, CHANNEL_MAX_IOV);
            part = rest;
        }
        ssize_t n = channel->ops->readv(channel, part, n_part, deadline_ns, error);
        if (n < 0) {
            return false;
        }
        if (n == 0) {
            g_set_error(error, GW_ERROR, GW_ERROR_LINK_LOST,
                        "%s: ended with %zu of %zu bytes still to come", channel->core->name,
                        wanted - done, wanted);
            return false;
        }
        count(&channel->bytes_in, (size_t)n);
        done += (size_t)n;
    }
    return true;
}

bool gw_channel_read_full(struct gw_channel *channel, void *to, size_t n_bytes, int64_t deadline_ns,
                          GError **error)
{
    struct iovec iov = {to, n_bytes};

    return gw_channel_readv_full(channel, &iov, 1, deadline_ns, error);
}

bool gw_channel_writev_full(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                            int64_t deadline_ns, GError **error)
{
    size_t wanted = channel_iov_bytes(iov, n_iov);
    size_t done = 0;
    struct iovec rest[CHANNEL_MAX_IOV];

    if (!check_direction(channel, channel->core->can_write, "written", error)) {
        return false;
    }
    while (done < wanted) {
        const struct iovec *part = iov;
        size_t n_part = n_iov;
        if (done > 0 || n_iov > CHANNEL_MAX_IOV) {
            n_part = channel_iov_cut(iov, n_iov, done, SIZE_MAX, rest, CHANNEL_MAX_IOV);
            part = rest;
        }
        ssize_t n = channel->ops->writev(channel, part, n_part, deadline_ns, error);
        if (n < 0) {
            return false;
        }
        count(&channel->bytes_out, (size_t)n);
        done += (size_t)n;
    }
    return true;
}

bool gw_channel_write_full(struct gw_channel *channel, const void *from, size_t n_bytes,
                           int64_t deadline_ns, GError **error)
{
    struct iovec iov = {(void *)(uintptr_t)from, n_bytes};

    return gw_channel_writev_full(channel, &iov, 1, deadline_ns, error);
}

bool gw_channel_finish(struct gw_channel *channel, int64_t deadline_ns, GError **error)
{
    if (channel_core_is_stopped(channel->core, error)) {
        return false;
    }
    return channel->ops->finish(channel, deadline_ns, error);
}

bool gw_channel_pair(struct gw_channel **a, struct gw_channel **b, GError **error)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        int code = errno;
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "socketpair: %s", g_strerror(code));
        return false;
    }
    struct gw_channel *first = gw_channel_new_fd(fds[0], "pair-a", NULL, error);
    if (first == NULL) {
        close(fds[1]);
        return false;
    }
    struct gw_channel *second = gw_channel_new_fd(fds[1], "pair-b", NULL, error);
    if (second == NULL) {
        gw_channel_free(first);
        return false;
    }
    *a = first;
    *b = second;
    return true;
}
