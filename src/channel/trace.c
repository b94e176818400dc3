/* SPDX-License-Identifier: MIT */
/*
 * Trace: writes every byte of each direction of a channel to a file, for tests and inspection.
 *
 * A file is named after the stream's label (from its preamble) and what happened to the bytes:
 * "LABEL.sent" or "LABEL.received". Bytes of a stream whose preamble never came whole are lost.
 * Failing to write a trace fails the channel: a test must not read half a trace.
 *
 * Threads: each direction's file belongs to the thread that reads (writes).
 */
#include "channel/channel_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define MAX_PREAMBLE_BYTES 256u

struct trace_file {
    int fd; /* -1: not yet open */
    const char *suffix;
    uint8_t preamble[MAX_PREAMBLE_BYTES];
    size_t n_preamble;
};

struct trace_channel {
    struct gw_channel layer;
    const struct gw_framing *framing;
    char *directory;
    struct trace_file in;
    struct trace_file out;
};

static bool set_errno(const char *path, GError **error)
{
    int code = errno;

    g_set_error(error, GW_ERROR, GW_ERROR_IO, "trace %s: %s", path, g_strerror(code));
    return false;
}

static bool write_all(const struct trace_channel *self, const struct trace_file *file,
                      const uint8_t *bytes, size_t len, GError **error)
{
    while (len > 0) {
        ssize_t n = write(file->fd, bytes, len);
        if (n < 0 && errno != EINTR) {
            return set_errno(self->directory, error);
        }
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        }
    }
    return true;
}

static bool open_trace(const struct trace_channel *self, struct trace_file *file, GError **error)
{
    char label[128];

    self->framing->stream_label(file->preamble, label, sizeof(label));
    g_autofree char *name = g_strdup_printf("%s.%s", label, file->suffix);
    g_autofree char *path = g_build_filename(self->directory, name, NULL);
    file->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file->fd < 0) {
        return set_errno(path, error);
    }
    return write_all(self, file, file->preamble, file->n_preamble, error);
}

static bool trace_bytes(const struct trace_channel *self, struct trace_file *file,
                        const struct iovec *iov, size_t n_iov, size_t len, GError **error)
{
    for (size_t i = 0; i < n_iov && len > 0; i++) {
        const uint8_t *bytes = iov[i].iov_base;
        size_t part = MIN(iov[i].iov_len, len);
        len -= part;
        if (file->fd < 0) {
            size_t lack = self->framing->preamble_bytes - file->n_preamble;
            size_t head = MIN(lack, part);
            memcpy(file->preamble + file->n_preamble, bytes, head);
            file->n_preamble += head;
            bytes += head;
            part -= head;
            if (head == lack && !open_trace(self, file, error)) {
                return false;
            }
        }
        if (part > 0 && !write_all(self, file, bytes, part, error)) {
            return false;
        }
    }
    return true;
}

static ssize_t trace_readv(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                           int64_t deadline_ns, GError **error)
{
    struct trace_channel *self = (struct trace_channel *)channel;
    ssize_t n = channel->next->ops->readv(channel->next, iov, n_iov, deadline_ns, error);

    if (n > 0 && !trace_bytes(self, &self->in, iov, n_iov, (size_t)n, error)) {
        return -1;
    }
    return n;
}

static ssize_t trace_writev(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                            int64_t deadline_ns, GError **error)
{
    struct trace_channel *self = (struct trace_channel *)channel;
    ssize_t n = channel->next->ops->writev(channel->next, iov, n_iov, deadline_ns, error);

    if (n > 0 && !trace_bytes(self, &self->out, iov, n_iov, (size_t)n, error)) {
        return -1;
    }
    return n;
}

static bool trace_finish(struct gw_channel *channel, int64_t deadline_ns, GError **error)
{
    return channel->next->ops->finish(channel->next, deadline_ns, error);
}

static void trace_shutdown(struct gw_channel *channel)
{
    channel->next->ops->shutdown(channel->next);
}

static void trace_free(struct gw_channel *channel)
{
    struct trace_channel *self = (struct trace_channel *)channel;

    channel->next->ops->free(channel->next);
    if (self->in.fd >= 0) {
        close(self->in.fd);
    }
    if (self->out.fd >= 0) {
        close(self->out.fd);
    }
    g_free(self->directory);
    g_free(self);
}

static const struct channel_ops trace_ops = {
    .readv = trace_readv,
    .writev = trace_writev,
    .finish = trace_finish,
    .shutdown = trace_shutdown,
    .free = trace_free,
};

struct gw_channel *channel_trace_new(struct gw_channel *next, const char *directory,
                                     const struct gw_framing *framing, GError **error)
{
    if (framing == NULL || framing->preamble_bytes > MAX_PREAMBLE_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "trace \"%s\": records are not known on this channel", directory);
        gw_channel_free(next);
        return NULL;
    }
    struct trace_channel *self = g_new0(struct trace_channel, 1);
    channel_layer_init(&self->layer, &trace_ops, next->core, next);
    self->framing = framing;
    self->directory = g_strdup(directory);
    self->in.fd = -1;
    self->in.suffix = "received";
    self->out.fd = -1;
    self->out.suffix = "sent";
    return &self->layer;
}
