/* SPDX-License-Identifier: MIT */
/*
 * How a channel is made: a stack of filters over one core that owns the file descriptor.
 *
 * Model: every layer is a struct gw_channel with the same few operations; a filter calls its
 * `next`. What belongs to the whole stack (wake-up, name, direction, silence limit) is in the
 * core, which all layers share. The loops "until all bytes are moved" and the counters are in
 * channel.c, above the outermost layer.
 *
 * Threads: readv by one thread, writev and finish by one thread, the rest by any.
 */
#ifndef CHANNEL_CHANNEL_IMPL_H
#define CHANNEL_CHANNEL_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "channel/descriptors.h"
#include "godwit/channel.h"
#include "godwit/error.h"

#define CHANNEL_MAX_IOV   272u /* one packet: a header and at most 256 page runs */
#define CHANNEL_NS_PER_MS INT64_C(1000000)
#define CHANNEL_NS_PER_S  INT64_C(1000000000)

/* Shared by the layers of one channel. */
struct channel_core {
    /* fixed after construction */
    char *name;
    bool can_read;
    bool can_write;
    bool is_duplex;
    int event_fd; /* readable once woken or shut down; never read */
    bool can_pass_descriptors;
    int socket_fd; /* borrowed from the core channel: for asking who the peer is; -1: no socket */
    bool wants_descriptors; /* set before the reading thread starts */

    /* owned by the writing thread: they go with the next bytes; borrowed */
    int attached[CHANNEL_MAX_DESCRIPTORS];
    size_t n_attached;

    /* guarded by received_lock (leaf) */
    pthread_mutex_t received_lock;
    int received[CHANNEL_MAX_DESCRIPTORS]; /* in the order in which they came */
    size_t n_received;

    /* atomic: written by any thread, read by all */
    _Atomic bool is_woken;
    _Atomic bool is_shut;
    _Atomic int64_t silence_ms;
};

/* readv and writev move at least one byte, or fail with -1; readv returns 0 at the end. */
struct channel_ops {
    ssize_t (*readv)(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                     int64_t deadline_ns, GError **error);
    ssize_t (*writev)(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                      int64_t deadline_ns, GError **error);
    bool (*finish)(struct gw_channel *channel, int64_t deadline_ns, GError **error);
    void (*shutdown)(struct gw_channel *channel);
    void (*free)(struct gw_channel *channel); /* frees next as well */
};

struct gw_channel {
    /* fixed after construction */
    const struct channel_ops *ops;
    struct channel_core *core;
    struct gw_channel *next; /* filters: the layer below */

    /* atomic: written by the reading (writing) thread, read by any; outermost layer only */
    _Atomic uint64_t bytes_in;
    _Atomic uint64_t bytes_out;
};

int64_t channel_now_ns(void);

struct channel_core *channel_core_new(const char *name, GError **error);
void channel_core_free(struct channel_core *core);
/* Has it been woken or shut down? Then fills error and returns true. */
bool channel_core_is_stopped(const struct channel_core *core, GError **error);
/* Waits until fd has one of the events, bounded by deadline, silence limit, wake. */
bool channel_core_wait(struct channel_core *core, int fd, short events, int64_t deadline_ns,
                       GError **error);
/* Waits until the time comes (INT64_MAX: for ever), bounded by deadline and wake. The silence
 * limit counts only if is_silence. */
bool channel_core_pause(struct channel_core *core, int64_t until_ns, bool is_silence,
                        int64_t deadline_ns, GError **error);

/* recvmsg and sendmsg without waiting, with the descriptors that are wanted and attached. -2: error
 * is filled. */
ssize_t channel_receive_message(struct channel_core *core, int fd, struct msghdr *message,
                                GError **error);
ssize_t channel_send_message(struct channel_core *core, int fd, struct msghdr *message);
void channel_drop_descriptors(struct channel_core *core);

/* Copies the first max_bytes of the iovecs' extents; returns how many iovecs were filled. */
size_t channel_iov_cut(const struct iovec *iov, size_t n_iov, size_t skip_bytes, size_t max_bytes,
                       struct iovec *out, size_t max_out);
size_t channel_iov_bytes(const struct iovec *iov, size_t n_iov);

/* Fills the common part of a layer. */
void channel_layer_init(struct gw_channel *layer, const struct channel_ops *ops,
                        struct channel_core *core, struct gw_channel *next);

/* fd_channel.c: takes fd, also on failure. child: an exec command's pid, or 0. temporary and
 * final_path: a file is renamed when it is finished; both may be NULL. */
struct fd_channel_config {
    int fd;
    const char *name;
    pid_t child;
    const char *temporary_path;
    const char *final_path;
};
struct gw_channel *channel_fd_new(const struct fd_channel_config *config, GError **error);

/* Filters: take next; on failure next is freed. */
struct gw_channel *channel_rate_new(struct gw_channel *next, struct gw_rate_limit *limit);
/* rate.c: the arithmetic of the limit, which knows no clock. Takes n_bytes out of the bucket;
 * returns when they may be written (in the past: now). */
int64_t rate_take(struct gw_rate_limit *limit, uint64_t bytes_per_s, size_t n_bytes,
                  int64_t now_ns);
void rate_give_back(struct gw_rate_limit *limit, uint64_t bytes_per_s, size_t n_bytes);
/* How much is written at a time. */
size_t rate_piece_bytes(uint64_t bytes_per_s);
struct gw_channel *channel_fault_new(struct gw_channel *next, const char *spec,
                                     const struct gw_framing *framing, GError **error);
struct gw_channel *channel_trace_new(struct gw_channel *next, const char *directory,
                                     const struct gw_framing *framing, GError **error);
/* Checks a fault specification without a channel. */
bool channel_fault_check(const char *spec, bool has_framing, GError **error);

/* uri.c: splits leading filters off a URI. All strings owned. */
struct channel_uri {
    char *kind;                /* "tcp" */
    char *rest;                /* what follows "tcp:" */
    char *fault;               /* NULL or the specs, joined by ';' */
    char *trace;               /* NULL or a directory */
    uint64_t rate_bytes_per_s; /* 0: none */
};
bool channel_uri_parse(const char *text, struct channel_uri *uri, GError **error);
void channel_uri_clear(struct channel_uri *uri);
/* tcp: "host:port", "[v6]:port"; host may be empty. */
bool channel_split_host_port(const char *text, char **host, char **port, GError **error);
/* Puts the filters of the URI and of the options on top of core channel; takes it. */
struct gw_channel *channel_stack(struct gw_channel *channel, const struct channel_uri *uri,
                                 const struct gw_channel_options *options, GError **error);
/* Opens the kinds that give one channel (fd, file, exec); is_reader: we listen. */
struct gw_channel *channel_open_single(const struct channel_uri *uri, bool is_reader,
                                       GError **error);
/* Socket options of a connected stream socket; failures are ignored, they only tune. */
void channel_tune_socket(int fd);

#endif
