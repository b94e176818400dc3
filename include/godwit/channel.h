/* SPDX-License-Identifier: MIT */
/*
 * Byte channels: tcp, unix, fd, file and exec behind one interface, with stackable filters.
 *
 * URIs: "tcp:HOST:PORT", "tcp:[V6]:PORT" (listening: empty host means any, port 0 means a free
 * one), "unix:PATH", "fd:N" (a connected socket, a pipe, a file, or a listening socket),
 * "file:PATH", "exec:COMMAND" (run by /bin/sh, a socket pair as its standard input and output).
 * Connecting opens file: for writing; listening opens it for reading.
 *
 * A URI may be preceded by filters, outermost first: "fault:SPEC,rate:BYTES_PER_S,tcp:...".
 * Filters may also be given in the options. SPEC, for faults (tests of everything above):
 *
 *     ACTION@UNIT=N[@DIR][@KEY=VALUE...][;SPEC...]
 *     ACTION  cut | stall | delay | corrupt | truncate | duplicate | swap | drop | kill (our own
 *             process, by SIGKILL, before the record passes)
 *     UNIT    bytes (offset in the direction) | record (index, the preamble is record 0, needs
 *             options.framing) | type (N is a record name; the first such record)
 *     DIR     out (default) | in
 *     KEY     ms (delay: how long; default 100), mask (corrupt: xor, default 1), at (corrupt with
 *             record or type: byte offset in the record, default 0), channel (only the channel
 *             whose label, such as "control-0" or "page-1", is this)
 *
 * Threads: one thread may read and another write at the same time. gw_channel_wake,
 * gw_channel_shutdown and the counters may be used from any thread at any time before free.
 * Blocking: calls block until done, deadline, silence limit, wake or loss; never on a lock.
 * Deadlines are absolute CLOCK_MONOTONIC ns (gw_deadline_after_ms). SIGPIPE is never raised.
 *
 * Errors (GW_ERROR): INVALID (URI, spec), LINK_LOST, LINK_SILENT, TIMEOUT, CANCELLED, IO
 * (file, exec), UNSUPPORTED. After an error other than TIMEOUT with nothing moved the channel is
 * good only for wake, shutdown and free.
 */
#ifndef GODWIT_CHANNEL_H
#define GODWIT_CHANNEL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GW_NO_DEADLINE INT64_MAX

struct gw_channel;
struct gw_listener;
struct gw_rate_limit;

/* CLOCK_MONOTONIC now + ms, saturated. */
int64_t gw_deadline_after_ms(int64_t ms);

/* How a stream is cut into frames; given by the wire room so that filters know records. */
struct gw_framing {
    size_t preamble_bytes; /* length of frame 0 */
    size_t head_bytes; /* bytes frame_bytes() wants to see; every later frame is at least so long */
    /* Length of a frame after the preamble from its first head_bytes; 0 = nonsense, the filter
     * then treats the rest as unframed. */
    uint64_t (*frame_bytes)(const uint8_t *head);
    /* Name of the frame's type. */
    const char *(*frame_name)(const uint8_t *head);
    /* Label of the whole stream from its preamble, e.g. "5f3a...-control-0-source". */
    void (*stream_label)(const uint8_t *preamble, char *label, size_t label_size);
};

struct gw_channel_options {
    int64_t deadline_ns;              /* for connecting; 0 means none */
    int64_t silence_ms;               /* no byte moved while waiting: LINK_SILENT; 0 means never */
    struct gw_rate_limit *limit;      /* shared by all channels that name it; NULL = none */
    const char *fault;                /* fault SPEC, NULL = none */
    const char *trace_dir;            /* every byte of each direction goes to a file here */
    const struct gw_framing *framing; /* needed by record faults and trace names */
    int wake_fd;                      /* poll fd that cancels connecting when readable; 0 = none */
};

/* Opens the channel a URI names. options may be NULL. */
struct gw_channel *gw_channel_connect(const char *uri, const struct gw_channel_options *options,
                                      GError **error);
/* Wraps a connected socket, pipe or file; owns fd from now on (closed even on error). */
struct gw_channel *gw_channel_new_fd(int fd, const char *name,
                                     const struct gw_channel_options *options, GError **error);
/* Two connected ends in this process, for tests. */
bool gw_channel_pair(struct gw_channel **a, struct gw_channel **b, GError **error);
void gw_channel_free(struct gw_channel *channel);

/* Name for messages, e.g. "tcp:10.0.0.2:4444". */
const char *gw_channel_name(const struct gw_channel *channel);
/* Whether the other side can answer on it (sockets), or it has one direction (file, pipe). */
bool gw_channel_is_duplex(const struct gw_channel *channel);
bool gw_channel_can_read(const struct gw_channel *channel);
bool gw_channel_can_write(const struct gw_channel *channel);

/* The descriptor of a channel that is a file and nothing else (no filter limits, changes or records
 * what goes through it), for those who read or write it in place; -1 otherwise. It stays the
 * channel's. Since 1.1. */
int gw_channel_file_fd(const struct gw_channel *channel);

/* Moves all bytes or fails. The iovecs are not changed. */
bool gw_channel_read_full(struct gw_channel *channel, void *to, size_t n_bytes, int64_t deadline_ns,
                          GError **error);
bool gw_channel_readv_full(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                           int64_t deadline_ns, GError **error);
bool gw_channel_write_full(struct gw_channel *channel, const void *from, size_t n_bytes,
                           int64_t deadline_ns, GError **error);
bool gw_channel_writev_full(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                            int64_t deadline_ns, GError **error);
/* At least one byte, at most n_bytes; 0 at the end of the stream, -1 on error. */
ssize_t gw_channel_read_some(struct gw_channel *channel, void *to, size_t n_bytes,
                             int64_t deadline_ns, GError **error);

/* Ends writing in order: shuts down the write side, syncs a file, waits for an exec command and
 * reports its failure (IO, with its exit status). */
bool gw_channel_finish(struct gw_channel *channel, int64_t deadline_ns, GError **error);
/* All blocking calls, present and future, fail with CANCELLED. */
void gw_channel_wake(struct gw_channel *channel);
/* The peer sees the end of the stream; blocking calls here fail with LINK_LOST. */
void gw_channel_shutdown(struct gw_channel *channel);

void gw_channel_set_silence_ms(struct gw_channel *channel, int64_t silence_ms);
/* Payload bytes moved so far, above the filters. */
uint64_t gw_channel_bytes_in(const struct gw_channel *channel);
uint64_t gw_channel_bytes_out(const struct gw_channel *channel);

/* Listener. One listener serves all channels of a migration: whoever comes is told apart by the
 * preamble (wire room), never by the order of arrival. options' silence, limit, fault, trace and
 * framing hold for every accepted channel. */
struct gw_listener *gw_listener_new(const char *uri, const struct gw_channel_options *options,
                                    GError **error);
void gw_listener_free(struct gw_listener *listener);
/* The URI to connect to, with the real port. */
const char *gw_listener_uri(const struct gw_listener *listener);
/* Whether it can give only one channel (fd, file, exec): then pages travel on the control
 * channel. The second accept fails with STATE. */
bool gw_listener_is_single(const struct gw_listener *listener);
struct gw_channel *gw_listener_accept(struct gw_listener *listener, int64_t deadline_ns,
                                      GError **error);
/* accept fails with CANCELLED, now and later. Any thread. */
void gw_listener_wake(struct gw_listener *listener);
/* Whether connecting to this URI again would give another channel (tcp, unix). */
bool gw_channel_uri_is_multi(const char *uri);

/* Token bucket for the writes of every channel that shares it. Lock-free; 0 = unlimited. */
struct gw_rate_limit *gw_rate_limit_new(uint64_t bytes_per_s);
/* A limit for what shall not wait behind all that: it counts against `behind` too, whose rate is
 * its own (set it there), but waits for nothing except what goes first as well. Keeps a reference.
 * Since 1.1. */
struct gw_rate_limit *gw_rate_limit_new_before(struct gw_rate_limit *behind);
struct gw_rate_limit *gw_rate_limit_ref(struct gw_rate_limit *limit);
void gw_rate_limit_unref(struct gw_rate_limit *limit);
void gw_rate_limit_set(struct gw_rate_limit *limit, uint64_t bytes_per_s); /* any thread */

#ifdef __cplusplus
}
#endif
#endif
