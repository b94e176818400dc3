/* SPDX-License-Identifier: MIT */
/*
 * Faults on purpose: a filter that cuts, stalls, delays, damages, repeats or reorders what passes,
 * or kills the process.
 *
 * Model: each direction has its list of faults still to happen, its position in bytes, and a
 * tracker that cuts the bytes into frames (preamble, records) with the help of the framing. While
 * a direction has faults to come, its bytes are copied: with framing, frame by frame (a frame
 * passes when it is whole), else piece by piece. A fault fires once. When none is left, bytes pass
 * untouched. Syntax: godwit/channel.h.
 *
 * Threads: a direction's state belongs to the thread that reads (writes).
 */
#include "channel/channel_impl.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#define PIECE_BYTES     ((size_t)64 << 10)
#define MAX_FRAME_BYTES (UINT64_C(64) << 20)

enum fault_action { CUT, STALL, DELAY, CORRUPT, TRUNCATE, DUPLICATE, SWAP, DROP, KILL };
enum fault_unit { AT_BYTES, AT_RECORD, AT_TYPE };

static const char *const action_names[] = {
    [CUT] = "cut",         [STALL] = "stall",       [DELAY] = "delay",
    [CORRUPT] = "corrupt", [TRUNCATE] = "truncate", [DUPLICATE] = "duplicate",
    [SWAP] = "swap",       [DROP] = "drop",         [KILL] = "kill",
};

static const char *const unit_names[] = {
    [AT_BYTES] = "bytes", [AT_RECORD] = "record", [AT_TYPE] = "type"};

struct fault {
    enum fault_action action;
    enum fault_unit unit;
    bool is_in;
    uint64_t n;    /* byte offset or record number */
    char *type;    /* record name */
    char *channel; /* part of the label, or NULL */
    uint64_t at;   /* byte within the record */
    uint64_t delay_ms;
    uint8_t mask;
    bool is_done;
};

struct direction {
    GPtrArray *faults; /* borrowed struct fault *, those of this direction */
    bool is_in;
    bool is_framed;
    bool is_preamble_over;
    uint64_t frame_index;
    uint64_t position;   /* bytes of the stream before `pending` */
    GByteArray *pending; /* bytes of a frame that is not whole yet */
    GByteArray *queue;   /* bytes that may pass */
    size_t queue_at;     /* of which so many have passed */
    GByteArray *held;    /* a swapped frame that waits for the next one */
    char label[128];
    /* what happens around the queue */
    int64_t pause_until_ns;
    bool is_stalled;
    bool wants_cut;    /* after the queue */
    bool is_truncated; /* nothing passes any more, and nobody is told */
};

struct fault_channel {
    struct gw_channel layer;
    const struct gw_framing *framing;
    GPtrArray *faults;
    struct direction in;
    struct direction out;
};

/* ---- syntax ---- */

static void fault_free(gpointer data)
{
    struct fault *fault = data;

    g_free(fault->type);
    g_free(fault->channel);
    g_free(fault);
}

static int lookup(const char *word, const char *const *names, size_t n_names)
{
    for (size_t i = 0; i < n_names; i++) {
        if (strcmp(word, names[i]) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static bool parse_number(const char *text, uint64_t max, uint64_t *number)
{
    guint64 value = 0;

    if (g_str_has_prefix(text, "0x")) {
        if (!g_ascii_string_to_unsigned(text + 2, 16, 0, max, &value, NULL)) {
            return false;
        }
    } else if (!g_ascii_string_to_unsigned(text, 10, 0, max, &value, NULL)) {
        return false;
    }
    *number = value;
    return true;
}

/* One KEY=VALUE (or in, out) behind ACTION@UNIT=N. */
static bool parse_key(struct fault *fault, const char *word)
{
    uint64_t mask = 0;

    if (strcmp(word, "in") == 0 || strcmp(word, "out") == 0) {
        fault->is_in = word[0] == 'i';
        return true;
    }
    if (g_str_has_prefix(word, "ms=")) {
        return parse_number(word + 3, G_MAXINT32, &fault->delay_ms);
    }
    if (g_str_has_prefix(word, "at=")) {
        return parse_number(word + 3, MAX_FRAME_BYTES, &fault->at);
    }
    if (g_str_has_prefix(word, "mask=")) {
        if (!parse_number(word + 5, 255, &mask) || mask == 0) {
            return false;
        }
        fault->mask = (uint8_t)mask;
        return true;
    }
    if (g_str_has_prefix(word, "channel=") && word[8] != '\0') {
        g_free(fault->channel);
        fault->channel = g_strdup_printf("-%s-", word + 8);
        return true;
    }
    return false;
}

static bool parse_place(struct fault *fault, const char *word)
{
    g_auto(GStrv) parts = g_strsplit(word, "=", 2);

    if (g_strv_length(parts) != 2) {
        return false;
    }
    int unit = lookup(parts[0], unit_names, G_N_ELEMENTS(unit_names));
    if (unit < 0) {
        return false;
    }
    fault->unit = (enum fault_unit)unit;
    if (fault->unit == AT_TYPE) {
        fault->type = g_strdup(parts[1]);
        return parts[1][0] != '\0';
    }
    return parse_number(parts[1], INT64_MAX, &fault->n);
}

static struct fault *parse_one(const char *spec, bool has_framing, GError **error)
{
    g_auto(GStrv) words = g_strsplit(spec, "@", -1);
    struct fault *fault = g_new0(struct fault, 1);
    const char *why = "not ACTION@UNIT=N";

    fault->mask = 1;
    fault->delay_ms = 100;
    if (g_strv_length(words) < 2) {
        goto bad;
    }
    int action = lookup(words[0], action_names, G_N_ELEMENTS(action_names));
    if (action < 0) {
        why = "unknown action";
        goto bad;
    }
    fault->action = (enum fault_action)action;
    if (!parse_place(fault, words[1])) {
        why = "no place such as bytes=N, record=N, type=NAME";
        goto bad;
    }
    for (char **word = words + 2; *word != NULL; word++) {
        if (!parse_key(fault, *word)) {
            why = "unknown or bad key";
            goto bad;
        }
    }
    bool is_whole_record =
        fault->action == DUPLICATE || fault->action == SWAP || fault->action == DROP;
    if (is_whole_record && fault->unit == AT_BYTES) {
        why = "this action needs record=N or type=NAME";
        goto bad;
    }
    if (!has_framing && (fault->unit != AT_BYTES || fault->channel != NULL)) {
        why = "records are not known on this channel";
        goto bad;
    }
    return fault;
bad:
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "fault \"%s\": %s", spec, why);
    fault_free(fault);
    return NULL;
}

static GPtrArray *parse_all(const char *spec, bool has_framing, GError **error)
{
    g_auto(GStrv) specs = g_strsplit(spec[0] != '\0' ? spec : " ", ";", -1);
    GPtrArray *faults = g_ptr_array_new_with_free_func(fault_free);

    for (char **at = specs; *at != NULL; at++) {
        struct fault *fault = parse_one(*at, has_framing, error);
        if (fault == NULL) {
            g_ptr_array_unref(faults);
            return NULL;
        }
        g_ptr_array_add(faults, fault);
    }
    return faults;
}

bool channel_fault_check(const char *spec, bool has_framing, GError **error)
{
    GPtrArray *faults = parse_all(spec, has_framing, error);

    if (faults == NULL) {
        return false;
    }
    g_ptr_array_unref(faults);
    return true;
}

/* ---- what a fault does ---- */

static bool has_faults(const struct direction *d)
{
    for (guint i = 0; i < d->faults->len; i++) {
        const struct fault *fault = g_ptr_array_index(d->faults, i);
        if (!fault->is_done) {
            return true;
        }
    }
    return false;
}

/* Must bytes still be copied through the queue? */
static bool is_slow(const struct direction *d)
{
    return d->is_truncated || d->is_stalled || d->wants_cut || d->pause_until_ns != 0 ||
           d->held->len > 0 || d->pending->len > 0 || d->queue->len > d->queue_at || has_faults(d);
}

/* Does it fire within this chunk (a whole frame, or a piece of an unframed stream)? */
static bool fires(const struct direction *d, const struct fault *fault, const char *frame_name,
                  size_t len)
{
    if (fault->is_done || d->wants_cut || d->is_truncated ||
        (fault->channel != NULL && strstr(d->label, fault->channel) == NULL)) {
        return false;
    }
    switch (fault->unit) {
    case AT_BYTES:
        return fault->n >= d->position && fault->n < d->position + len;
    case AT_RECORD:
        return d->is_framed && fault->n == d->frame_index;
    case AT_TYPE:
        return frame_name != NULL && strcmp(fault->type, frame_name) == 0;
    }
    return false;
}

/* What the faults make of one chunk. */
struct effect {
    size_t keep; /* bytes of it that pass */
    unsigned n_copies;
    bool is_held;
};

/* bytes: the chunk, in the queue. */
static void apply(struct direction *d, struct fault *fault, uint8_t *bytes, size_t len,
                  struct effect *effect)
{
    size_t at = fault->unit == AT_BYTES ? (size_t)(fault->n - d->position)
                                        : (size_t)MIN(fault->at, len - 1);

    fault->is_done = true;
    switch (fault->action) {
    case CUT:
        d->wants_cut = true;
        effect->keep = at;
        break;
    case TRUNCATE:
        d->is_truncated = true;
        effect->keep = at;
        break;
    case STALL:
        d->is_stalled = true;
        break;
    case DELAY:
        d->pause_until_ns = gw_deadline_after_ms((int64_t)fault->delay_ms);
        break;
    case CORRUPT:
        bytes[at] ^= fault->mask;
        break;
    case DUPLICATE:
        effect->n_copies = 2;
        break;
    case DROP:
        effect->n_copies = 0;
        break;
    case KILL:
        kill(getpid(), SIGKILL);
        break;
    case SWAP:
        effect->is_held = true;
        break;
    }
}

/* Takes one chunk through all faults into the queue. */
static void pass_chunk(struct direction *d, const uint8_t *bytes, size_t len,
                       const char *frame_name)
{
    struct effect effect = {.keep = len, .n_copies = 1};
    guint start = d->queue->len;

    if (d->wants_cut || d->is_truncated) {
        return; /* nothing passes any more */
    }
    g_byte_array_append(d->queue, bytes, (guint)len);
    for (guint i = 0; i < d->faults->len; i++) {
        struct fault *fault = g_ptr_array_index(d->faults, i);
        if (fires(d, fault, frame_name, len)) {
            apply(d, fault, d->queue->data + start, len, &effect);
        }
    }
    d->position += len;
    g_autofree uint8_t *result = g_memdup2(d->queue->data + start, effect.keep);
    g_byte_array_set_size(d->queue, start);
    if (effect.is_held) {
        g_byte_array_append(d->held, result, (guint)effect.keep);
        return;
    }
    for (unsigned i = 0; i < effect.n_copies; i++) {
        g_byte_array_append(d->queue, result, (guint)effect.keep);
    }
    g_byte_array_append(d->queue, d->held->data, d->held->len);
    g_byte_array_set_size(d->held, 0);
}

/* Length of the frame whose bytes stand in pending; 0: more bytes are needed to know. */
static size_t pending_frame_bytes(struct direction *d, const struct gw_framing *framing)
{
    if (!d->is_preamble_over) {
        return framing->preamble_bytes;
    }
    if (d->pending->len < framing->head_bytes) {
        return 0;
    }
    uint64_t len = framing->frame_bytes(d->pending->data);
    if (len < framing->head_bytes || len > MAX_FRAME_BYTES) {
        d->is_framed = false;
        return 0;
    }
    return (size_t)len;
}

/* How many bytes the frame in pending still lacks; at least 1. */
static size_t pending_lack(struct direction *d, const struct gw_framing *framing)
{
    size_t frame = pending_frame_bytes(d, framing);

    if (!d->is_framed) {
        return PIECE_BYTES;
    }
    if (frame == 0) {
        frame = framing->head_bytes;
    }
    return frame > d->pending->len ? frame - d->pending->len : 1;
}

/* Takes bytes in; whole chunks go through the faults into the queue. */
static void feed(struct direction *d, const struct gw_framing *framing, const uint8_t *bytes,
                 size_t len)
{
    while (len > 0) {
        if (!d->is_framed) {
            pass_chunk(d, bytes, len, NULL);
            return;
        }
        size_t part = MIN(len, pending_lack(d, framing));
        g_byte_array_append(d->pending, bytes, (guint)part);
        bytes += part;
        len -= part;
        size_t frame = pending_frame_bytes(d, framing);
        if (!d->is_framed) {
            pass_chunk(d, d->pending->data, d->pending->len, NULL);
            g_byte_array_set_size(d->pending, 0);
        } else if (frame != 0 && d->pending->len == frame) {
            const char *name = NULL;
            if (d->is_preamble_over) {
                name = framing->frame_name(d->pending->data);
            } else {
                framing->stream_label(d->pending->data, d->label, sizeof(d->label));
            }
            pass_chunk(d, d->pending->data, frame, name);
            g_byte_array_set_size(d->pending, 0);
            d->is_preamble_over = true;
            d->frame_index++;
        }
    }
}

/* Nothing follows: what was kept back passes as it is. */
static void feed_end(struct direction *d)
{
    if (d->pending->len > 0) {
        pass_chunk(d, d->pending->data, d->pending->len, NULL);
        g_byte_array_set_size(d->pending, 0);
    }
    if (d->held->len > 0) {
        g_byte_array_append(d->queue, d->held->data, d->held->len);
        g_byte_array_set_size(d->held, 0);
    }
}

/* Waits as the faults want it, before the queue passes. */
static bool wait_faults(struct gw_channel *channel, struct direction *d, int64_t deadline_ns,
                        GError **error)
{
    if (d->is_stalled) {
        return channel_core_pause(channel->core, INT64_MAX, true, deadline_ns, error);
    }
    if (d->pause_until_ns != 0) {
        if (!channel_core_pause(channel->core, d->pause_until_ns, true, deadline_ns, error)) {
            return false;
        }
        d->pause_until_ns = 0;
    }
    return true;
}

static void queue_reset(struct direction *d)
{
    g_byte_array_set_size(d->queue, 0);
    d->queue_at = 0;
}

static ssize_t cut_now(struct gw_channel *channel, GError **error)
{
    channel->next->ops->shutdown(channel->next);
    atomic_store_explicit(&channel->core->is_shut, true, memory_order_release);
    g_set_error(error, GW_ERROR, GW_ERROR_LINK_LOST, "%s: cut by a fault", channel->core->name);
    return -1;
}

/* ---- the filter ---- */

/* Writes the queue to the layer below. */
static bool flush_out(struct gw_channel *channel, int64_t deadline_ns, GError **error)
{
    struct direction *d = &((struct fault_channel *)channel)->out;

    if (!wait_faults(channel, d, deadline_ns, error)) {
        return false;
    }
    while (d->queue_at < d->queue->len) {
        struct iovec iov = {d->queue->data + d->queue_at, d->queue->len - d->queue_at};
        ssize_t n = channel->next->ops->writev(channel->next, &iov, 1, deadline_ns, error);
        if (n < 0) {
            return false;
        }
        d->queue_at += (size_t)n;
    }
    queue_reset(d);
    return !d->wants_cut || cut_now(channel, error) == 0;
}

static ssize_t fault_writev(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                            int64_t deadline_ns, GError **error)
{
    struct fault_channel *self = (struct fault_channel *)channel;
    struct gw_channel *next = channel->next;
    size_t n_bytes = 0;

    if (!is_slow(&self->out)) {
        return next->ops->writev(next, iov, n_iov, deadline_ns, error);
    }
    for (size_t i = 0; i < n_iov; i++) {
        if (!self->out.is_truncated) {
            feed(&self->out, self->framing, iov[i].iov_base, iov[i].iov_len);
        }
        n_bytes += iov[i].iov_len;
    }
    /* The bytes are ours now: an error below loses the channel, as the contract says. */
    return flush_out(channel, deadline_ns, error) ? (ssize_t)n_bytes : -1;
}

/* Fills the queue from the layer below. *is_end: nothing more comes. */
static bool fill_in(struct gw_channel *channel, int64_t deadline_ns, bool *is_end, GError **error)
{
    struct fault_channel *self = (struct fault_channel *)channel;
    struct direction *d = &self->in;
    g_autofree uint8_t *buffer = g_malloc(PIECE_BYTES);

    *is_end = false;
    while (d->queue->len == 0 && !d->wants_cut && !d->is_truncated) {
        size_t wanted =
            d->is_framed ? MIN(pending_lack(d, self->framing), PIECE_BYTES) : PIECE_BYTES;
        struct iovec iov = {buffer, wanted};
        ssize_t n = channel->next->ops->readv(channel->next, &iov, 1, deadline_ns, error);
        if (n < 0) {
            return false;
        }
        if (n == 0) {
            feed_end(d);
            *is_end = d->queue->len == 0;
            return true;
        }
        feed(d, self->framing, buffer, (size_t)n);
    }
    *is_end = d->queue->len == 0 && d->is_truncated;
    return true;
}

static ssize_t fault_readv(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                           int64_t deadline_ns, GError **error)
{
    struct fault_channel *self = (struct fault_channel *)channel;
    struct direction *d = &self->in;
    struct gw_channel *next = channel->next;
    bool is_end = false;
    size_t n_bytes = 0;

    if (!is_slow(d)) {
        return next->ops->readv(next, iov, n_iov, deadline_ns, error);
    }
    if (!fill_in(channel, deadline_ns, &is_end, error) ||
        !wait_faults(channel, d, deadline_ns, error)) {
        return -1;
    }
    if (is_end) {
        return 0;
    }
    for (size_t i = 0; i < n_iov && d->queue_at < d->queue->len; i++) {
        size_t part = MIN(iov[i].iov_len, d->queue->len - d->queue_at);
        memcpy(iov[i].iov_base, d->queue->data + d->queue_at, part);
        d->queue_at += part;
        n_bytes += part;
    }
    if (d->queue_at == d->queue->len) {
        queue_reset(d);
        if (d->wants_cut && n_bytes == 0) {
            return cut_now(channel, error);
        }
    }
    return (ssize_t)n_bytes;
}

static bool fault_finish(struct gw_channel *channel, int64_t deadline_ns, GError **error)
{
    struct fault_channel *self = (struct fault_channel *)channel;

    feed_end(&self->out);
    return flush_out(channel, deadline_ns, error) &&
           channel->next->ops->finish(channel->next, deadline_ns, error);
}

static void fault_shutdown(struct gw_channel *channel)
{
    channel->next->ops->shutdown(channel->next);
}

static void direction_clear(struct direction *d)
{
    g_ptr_array_unref(d->faults);
    g_byte_array_unref(d->pending);
    g_byte_array_unref(d->queue);
    g_byte_array_unref(d->held);
}

static void fault_channel_free(struct gw_channel *channel)
{
    struct fault_channel *self = (struct fault_channel *)channel;

    channel->next->ops->free(channel->next);
    direction_clear(&self->in);
    direction_clear(&self->out);
    g_ptr_array_unref(self->faults);
    g_free(self);
}

static const struct channel_ops fault_ops = {
    .readv = fault_readv,
    .writev = fault_writev,
    .finish = fault_finish,
    .shutdown = fault_shutdown,
    .free = fault_channel_free,
};

static void direction_init(struct direction *d, GPtrArray *faults, bool is_in, bool is_framed)
{
    d->faults = g_ptr_array_new();
    d->is_in = is_in;
    d->is_framed = is_framed;
    d->pending = g_byte_array_new();
    d->queue = g_byte_array_new();
    d->held = g_byte_array_new();
    for (guint i = 0; i < faults->len; i++) {
        struct fault *fault = g_ptr_array_index(faults, i);
        if (fault->is_in == is_in) {
            g_ptr_array_add(d->faults, fault);
        }
    }
}

struct gw_channel *channel_fault_new(struct gw_channel *next, const char *spec,
                                     const struct gw_framing *framing, GError **error)
{
    GPtrArray *faults = parse_all(spec, framing != NULL, error);

    if (faults == NULL) {
        gw_channel_free(next);
        return NULL;
    }
    struct fault_channel *self = g_new0(struct fault_channel, 1);
    channel_layer_init(&self->layer, &fault_ops, next->core, next);
    self->framing = framing;
    self->faults = faults;
    direction_init(&self->in, faults, true, framing != NULL);
    direction_init(&self->out, faults, false, framing != NULL);
    return &self->layer;
}
