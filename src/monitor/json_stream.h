/* SPDX-License-Identifier: MIT */
/*
 * Cuts a stream of bytes into JSON texts, with limits, before any parser sees them.
 *
 * Model: QMP messages are JSON objects with nothing, spaces or newlines between them. The cutter
 * only follows strings, escapes and brackets; whether a text is valid JSON is the parser's
 * business.
 */
#ifndef GODWIT_MONITOR_JSON_STREAM_H
#define GODWIT_MONITOR_JSON_STREAM_H

#include <glib.h>
#include <stdbool.h>

#define JSON_STREAM_MAX_BYTES (256u << 10) /* of one message */
#define JSON_STREAM_MAX_DEPTH 64u

struct json_stream {
    GByteArray *bytes; /* the message so far */
    unsigned depth;
    bool is_in_string;
    bool is_escaped;
    bool is_delivered; /* bytes hold a message that was handed out */
};

void json_stream_init(struct json_stream *stream);
void json_stream_clear(struct json_stream *stream);
/* Takes bytes until a message is whole; returns how many were taken. *message receives the
 * message's bytes (valid until the next call; NUL-terminated, length *len) or NULL when more are
 * needed. Returns -1 with error when a limit is broken; the stream is then of no more use. */
gssize json_stream_feed(struct json_stream *stream, const char *bytes, gsize n_bytes,
                        const char **message, gsize *len, GError **error);

#endif
