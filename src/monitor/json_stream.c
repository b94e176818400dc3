/* SPDX-License-Identifier: MIT */
/* Cuts a stream of bytes into JSON texts. */
#include "monitor/json_stream.h"

#include "godwit/error.h"

void json_stream_init(struct json_stream *stream)
{
    *stream = (struct json_stream){.bytes = g_byte_array_new()};
}

void json_stream_clear(struct json_stream *stream)
{
    g_byte_array_unref(stream->bytes);
}

/* One byte inside or at the start of a message; true when it ends the message. */
static bool step(struct json_stream *stream, char c)
{
    if (stream->is_in_string) {
        if (stream->is_escaped)
            stream->is_escaped = false;
        else if (c == '\\')
            stream->is_escaped = true;
        else if (c == '"')
            stream->is_in_string = false;
        return false;
    }
    switch (c) {
    case '"':
        stream->is_in_string = true;
        return false;
    case '{':
    case '[':
        stream->depth++;
        return false;
    case '}':
    case ']':
        if (stream->depth > 0)
            stream->depth--;
        return stream->depth == 0;
    case '\n': /* outside of brackets: ends whatever nonsense came before */
        return stream->depth == 0;
    default:
        return false;
    }
}

gssize json_stream_feed(struct json_stream *stream, const char *bytes, gsize n_bytes,
                        const char **message, gsize *len, GError **error)
{
    static const guint8 nul = 0;
    gsize i = 0;

    *message = NULL;
    if (stream->is_delivered) {
        g_byte_array_set_size(stream->bytes, 0);
        stream->is_delivered = false;
    }
    while (i < n_bytes) {
        char c = bytes[i++];
        if (stream->bytes->len == 0 && (c == ' ' || c == '\t' || c == '\r' || c == '\n'))
            continue;
        g_byte_array_append(stream->bytes, (const guint8 *)&c, 1);
        bool is_whole = step(stream, c);
        /* PEER: both limits hold before anything is parsed. */
        if (stream->bytes->len > JSON_STREAM_MAX_BYTES || stream->depth > JSON_STREAM_MAX_DEPTH) {
            g_set_error(error, GW_ERROR, GW_ERROR_LIMIT,
                        "message is longer than %u bytes or nested deeper than %u",
                        JSON_STREAM_MAX_BYTES, JSON_STREAM_MAX_DEPTH);
            return -1;
        }
        if (!is_whole)
            continue;
        g_byte_array_append(stream->bytes, &nul, 1);
        *message = (const char *)stream->bytes->data;
        *len = stream->bytes->len - 1;
        stream->is_delivered = true;
        return (gssize)i;
    }
    return (gssize)i;
}
