/* SPDX-License-Identifier: MIT */
/* One connected channel of an engine with a reader and a writer thread of its own. */
#include "migrate/link.h"

#include <string.h>
#include <unistd.h>

#include "wire/cursor.h"

#define LAST_WORD_NS (UINT64_C(200) * NS_PER_MS) /* for the reader to find out why */

enum item_kind {
    ITEM_MESSAGE = 1,
    ITEM_SECTION,
    ITEM_PACKET,
    ITEM_STATE_BEGIN,
    ITEM_STATE_END,
};

/* Something posted. */
struct item {
    struct item *next;
    enum item_kind kind;
    enum wire_type type;
    union engine_message message;
    enum wire_section_kind section_kind;
    char *name;
    uint32_t instance, version, attempt;
    uint8_t *data; /* of a section or a packet */
    size_t n_bytes;
    int *fds; /* beside the message; owned */
    size_t n_fds;
};

struct link {
    /* fixed after construction */
    struct wire_stream *stream;
    uint32_t channel;
    uint64_t generation;
    struct mailbox *box;
    const struct link_ops *ops;
    void *opaque;
    pthread_t reader, writer;
    bool is_joined;       /* owner only */
    uint32_t is_detached; /* atomic: the owner joins, so the reader must not wait for it */

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct item *first, *last;
    uint64_t posted_bytes; /* about what the posted messages hold */
    uint64_t packet_bytes; /* about what the posted packets hold */
    uint64_t keepalive_ns;
    bool is_sending;       /* the writer holds an item */
    bool is_closing;       /* the writer ends after what is posted */
    bool has_said_goodbye; /* GOODBYE is posted, and nothing may follow it */
    bool is_stopping;      /* the writer ends now */
    bool has_reader_ended;
    bool has_writer_ended;
    bool has_told_end;
    uint64_t finish_limit_ns; /* for ending the sending direction */
    uint64_t state_digest;
};

/* Sections are not counted: only a source posts them, once for each of its devices. Packets have a
 * count of their own, beyond which they are dropped. */
static uint64_t item_weight(const struct item *item)
{
    uint64_t n_bytes = item->kind == ITEM_MESSAGE ? sizeof *item : 0;

    if (item->kind == ITEM_MESSAGE && item->type == WIRE_RESEND)
        n_bytes += item->message.resend.n_runs * sizeof(struct wire_resend_run);
    return n_bytes;
}

static uint64_t packet_weight(const struct item *item)
{
    return item->kind == ITEM_PACKET ? sizeof *item + item->n_bytes : 0;
}

static void item_free(struct item *item)
{
    if (item->kind == ITEM_MESSAGE)
        wire_message_clear(item->type, &item->message);
    for (size_t i = 0; i < item->n_fds; i++)
        close(item->fds[i]);
    g_free(item->fds);
    g_free(item->data);
    g_free(item->name);
    g_free(item);
}

/* wants_last_word: the sending direction goes on, for what the owner has to say about the error. */
static void link_end(struct link *link, const GError *error, bool wants_last_word)
{
    bool is_first;

    pthread_mutex_lock(&link->lock);
    is_first = !link->has_told_end;
    link->has_told_end = true;
    link->is_stopping |= !wants_last_word;
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
    if (is_first)
        link->ops->on_end(link->opaque, link, error);
}

static bool link_send_packet(struct link *link, const struct item *item, GError **error)
{
    const struct iovec bulk = {item->data, item->n_bytes};
    uint8_t payload[8];

    wire_store_u32(payload, item->message.packet.nic);
    wire_store_u32(payload + 4, item->message.packet.flags);
    return wire_send_raw(link->stream, WIRE_PACKET, payload, sizeof payload, &bulk,
                         item->n_bytes ? 1 : 0, GW_NO_DEADLINE, error);
}

static bool link_send_item(struct link *link, struct item *item, GError **error)
{
    switch (item->kind) {
    case ITEM_MESSAGE:
        if (item->n_fds)
            return wire_send_with_descriptors(link->stream, item->type, &item->message,
                                              engine_message_bytes(item->type), item->fds,
                                              item->n_fds, GW_NO_DEADLINE, error);
        return wire_send_sized(link->stream, item->type, &item->message,
                               engine_message_bytes(item->type), GW_NO_DEADLINE, error);
    case ITEM_SECTION:
        return wire_send_section(link->stream, item->section_kind, item->name, item->instance,
                                 item->version, item->attempt, item->data, item->n_bytes,
                                 GW_NO_DEADLINE, error);
    case ITEM_PACKET:
        return link_send_packet(link, item, error);
    case ITEM_STATE_BEGIN:
        wire_state_begin(link->stream, item->attempt);
        return true;
    case ITEM_STATE_END:
        /* Before the other side can answer to it. */
        pthread_mutex_lock(&link->lock);
        link->state_digest = wire_state_digest(link->stream);
        pthread_mutex_unlock(&link->lock);
        return wire_send_state_end(link->stream, NULL, GW_NO_DEADLINE, error);
    }
    return true;
}

/* The next item; NULL with *is_over false: it is time for a KEEPALIVE. */
static struct item *link_next_item(struct link *link, bool *is_over)
{
    uint64_t since_ns = clock_mono_ns();
    struct item *item = NULL;

    pthread_mutex_lock(&link->lock);
    link->is_sending = false;
    pthread_cond_broadcast(&link->changed);
    while (!link->first && !link->is_closing && !link->is_stopping) {
        if (link->has_said_goodbye) /* no KEEPALIVE after it either */
            pthread_cond_wait(&link->changed, &link->lock);
        else if (!cond_wait_until(&link->changed, &link->lock, since_ns + link->keepalive_ns))
            break;
    }
    *is_over = link->is_stopping || (link->is_closing && !link->first);
    if (!*is_over && link->first) {
        item = link->first;
        link->first = item->next;
        if (!link->first)
            link->last = NULL;
        link->posted_bytes -= item_weight(item);
        link->packet_bytes -= packet_weight(item);
        link->is_sending = true;
    }
    pthread_mutex_unlock(&link->lock);
    return item;
}

/* Everything posted is sent and the owner wants an end: the peer shall see it. */
static void link_writer_finish(struct link *link)
{
    uint64_t limit_ns;
    bool wants;

    pthread_mutex_lock(&link->lock);
    wants = link->is_closing && !link->is_stopping;
    limit_ns = link->finish_limit_ns;
    pthread_mutex_unlock(&link->lock);
    if (wants)
        gw_channel_finish(wire_stream_channel(link->stream), (int64_t)limit_ns, NULL);
    pthread_mutex_lock(&link->lock);
    link->has_writer_ended = true;
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
}

/* Nobody takes what is sent any more. Who ended it has said why before: the reader shall find that
 * first, or the end. */
static void link_writer_lost(struct link *link, const GError *error)
{
    uint64_t limit_ns = clock_mono_ns() + LAST_WORD_NS;
    bool is_in_time = gw_error_code_of(error) == GW_ERROR_LINK_LOST;

    pthread_mutex_lock(&link->lock);
    while (!link->has_told_end && !link->is_stopping && is_in_time)
        is_in_time = cond_wait_until(&link->changed, &link->lock, limit_ns);
    pthread_mutex_unlock(&link->lock);
    link_end(link, error, false);
}

static void *link_writer(void *opaque)
{
    struct link *link = opaque;
    bool is_over = false;

    while (!is_over) {
        g_autoptr(GError) error = NULL;
        struct item *item = link_next_item(link, &is_over);
        bool is_sent = true;

        if (item) {
            is_sent = link_send_item(link, item, &error);
            item_free(item);
        } else if (!is_over) {
            struct wire_keepalive keepalive = {.monotonic_ns = clock_mono_ns()};

            is_sent = wire_send(link->stream, WIRE_KEEPALIVE, &keepalive, GW_NO_DEADLINE, &error);
        }
        if (!is_sent) {
            link_writer_lost(link, error);
            break;
        }
    }
    link_writer_finish(link);
    return NULL;
}

/* Did we end it, and can the peer still be told? */
static bool is_worth_a_word(const GError *error)
{
    int code = error ? gw_error_code_of(error) : GW_ERROR_LINK_LOST;

    return code != GW_ERROR_LINK_LOST && code != GW_ERROR_CANCELLED && code != GW_ERROR_PEER;
}

/* What comes after an error is of no use, but closing with it unread would make the kernel throw
 * away our last word as well. Ends with the channel. */
static void link_drain(struct link *link)
{
    uint8_t bytes[4096];

    while (gw_channel_read_some(wire_stream_channel(link->stream), bytes, sizeof bytes,
                                GW_NO_DEADLINE, NULL) > 0)
        continue;
}

static void *link_reader(void *opaque)
{
    struct link *link = opaque;
    g_autoptr(GError) error = NULL;
    struct wire_record record;
    bool wants_last_word;

    while (wire_receive(link->stream, &record, GW_NO_DEADLINE, &error)) {
        if (record.type->type == WIRE_KEEPALIVE)
            continue;
        if (!link->ops->on_record(link->opaque, link, &record, &error))
            break;
    }
    wants_last_word = is_worth_a_word(error);
    link_end(link, error, wants_last_word);
    if (wants_last_word)
        link_drain(link);
    pthread_mutex_lock(&link->lock);
    link->has_reader_ended = true;
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
    return NULL;
}

struct link *link_new(struct wire_stream *stream, uint32_t channel, uint64_t generation,
                      struct mailbox *box, const struct link_ops *ops, void *opaque,
                      uint64_t keepalive_ns)
{
    struct link *link = g_new0(struct link, 1);
    char name[16];

    link->stream = stream;
    link->channel = channel;
    link->generation = generation;
    link->box = box;
    link->ops = ops;
    link->opaque = opaque;
    link->keepalive_ns = keepalive_ns;
    pthread_mutex_init(&link->lock, NULL);
    cond_init_mono(&link->changed);
    g_snprintf(name, sizeof name, "gw-rd-%s%u",
               channel == CHANNEL_CONTROL  ? "c"
               : channel == CHANNEL_URGENT ? "u"
                                           : "p",
               channel >= CHANNEL_URGENT ? 0 : channel);
    engine_thread_start(&link->reader, name, link_reader, link);
    name[3] = 'w', name[4] = 'r';
    engine_thread_start(&link->writer, name, link_writer, link);
    return link;
}

struct wire_stream *link_stream(struct link *link)
{
    return link->stream;
}

uint32_t link_channel(const struct link *link)
{
    return link->channel;
}

uint64_t link_generation(const struct link *link)
{
    return link->generation;
}

void link_set_keepalive(struct link *link, uint64_t keepalive_ns)
{
    pthread_mutex_lock(&link->lock);
    link->keepalive_ns = keepalive_ns;
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
}

/* PEER: who asks and never reads the answers does not get to fill our memory with them. */
static void link_end_overfull(struct link *link)
{
    g_autoptr(GError) error = g_error_new(
        GW_ERROR, GW_ERROR_LIMIT, "%s: more than %u bytes wait for a peer that does not read",
        wire_stream_label(link->stream), LINK_MAX_POSTED_BYTES);

    link_end(link, error, false);
}

static void link_append(struct link *link, struct item *item)
{
    bool is_overfull;

    pthread_mutex_lock(&link->lock);
    if (link->is_closing || link->is_stopping || link->has_said_goodbye) {
        pthread_mutex_unlock(&link->lock);
        item_free(item);
        return;
    }
    if (item->kind == ITEM_MESSAGE && item->type == WIRE_GOODBYE)
        link->has_said_goodbye = true;
    if (link->last)
        link->last->next = item;
    else
        link->first = item;
    link->last = item;
    link->posted_bytes += item_weight(item);
    link->packet_bytes += packet_weight(item);
    is_overfull = link->posted_bytes > LINK_MAX_POSTED_BYTES;
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
    if (is_overfull)
        link_end_overfull(link);
}

void link_post_with_descriptors_sized(struct link *link, enum wire_type type, const void *message,
                                      size_t n_bytes, const int *fds, size_t n_fds)
{
    struct item *item = g_new0(struct item, 1);

    g_assert(n_bytes == engine_message_bytes(type));
    item->kind = ITEM_MESSAGE;
    item->type = type;
    memcpy(&item->message, message, n_bytes);
    item->n_fds = n_fds;
    item->fds = n_fds ? g_memdup2(fds, n_fds * sizeof *fds) : NULL;
    link_append(link, item);
}

void link_post_sized(struct link *link, enum wire_type type, const void *message, size_t n_bytes)
{
    link_post_with_descriptors_sized(link, type, message, n_bytes, NULL, 0);
}

void link_answer_ping(struct link *link, const struct wire_clock_ping *ping, uint64_t arrived_ns)
{
    struct wire_clock_pong pong = {.id = ping->id,
                                   .ping_monotonic_ns = ping->monotonic_ns,
                                   .received_monotonic_ns = arrived_ns,
                                   .sent_monotonic_ns = clock_mono_ns(),
                                   .sent_realtime_ns = clock_real_ns()};

    link_post(link, WIRE_CLOCK_PONG, &pong);
}

void link_post_section(struct link *link, enum wire_section_kind kind, const char *name,
                       uint32_t instance, uint32_t version, uint32_t attempt, GByteArray *data)
{
    struct item *item = g_new0(struct item, 1);

    item->kind = ITEM_SECTION;
    item->section_kind = kind;
    item->name = g_strdup(name);
    item->instance = instance;
    item->version = version;
    item->attempt = attempt;
    item->n_bytes = data->len;
    item->data = g_byte_array_free(data, FALSE);
    link_append(link, item);
}

bool link_post_packet(struct link *link, const struct wire_packet *packet, const void *frame,
                      uint32_t n_bytes)
{
    struct item *item;
    bool is_full;

    pthread_mutex_lock(&link->lock);
    is_full = link->packet_bytes + n_bytes > LINK_MAX_PACKET_BYTES;
    pthread_mutex_unlock(&link->lock);
    if (is_full && !(packet->flags & WIRE_PACKET_LAST))
        return false;
    item = g_new0(struct item, 1);
    item->kind = ITEM_PACKET;
    item->message.packet = *packet;
    item->n_bytes = n_bytes;
    item->data = g_memdup2(frame, n_bytes);
    link_append(link, item);
    return true;
}

void link_post_state_begin(struct link *link, uint32_t attempt)
{
    struct item *item = g_new0(struct item, 1);

    item->kind = ITEM_STATE_BEGIN;
    item->attempt = attempt;
    link_append(link, item);
}

void link_post_state_end(struct link *link)
{
    struct item *item = g_new0(struct item, 1);

    item->kind = ITEM_STATE_END;
    link_append(link, item);
}

uint64_t link_state_digest(struct link *link)
{
    uint64_t digest;

    pthread_mutex_lock(&link->lock);
    digest = link->state_digest;
    pthread_mutex_unlock(&link->lock);
    return digest;
}

struct mail *link_decode(struct link *link, const struct wire_record *record, GError **error)
{
    struct mail *mail = mail_new(MAIL_RECORD);
    size_t n_bytes = engine_message_bytes(record->type->type);

    g_assert(n_bytes); /* the callers handle PAGES and sections themselves */
    if (!wire_decode_sized(record, &mail->message, n_bytes, error)) {
        mail_free(mail);
        return NULL;
    }
    mail->type = record->type->type;
    mail->weight = MAIL_MIN_WEIGHT + 4 * (uint64_t)record->payload_bytes; /* lists grow decoded */
    mail->channel = link->channel;
    mail->generation = link->generation;
    return mail;
}

void link_deliver(struct link *link, struct mail *mail)
{
    mailbox_put_bounded(link->box, mail, &link->is_detached);
}

struct mail *link_end_mail(struct link *link, const GError *error)
{
    struct mail *mail = mail_new(MAIL_LINK_END);

    mail->channel = link->channel;
    mail->generation = link->generation;
    mail->error = error ? g_error_copy(error)
                        : g_error_new_literal(GW_ERROR, GW_ERROR_LINK_LOST, "the channel ended");
    return mail;
}

void link_finish(struct link *link, uint64_t deadline_ns)
{
    bool is_in_time = true;

    pthread_mutex_lock(&link->lock);
    link->is_closing = true;
    link->finish_limit_ns = deadline_ns;
    pthread_cond_broadcast(&link->changed);
    while (!(link->has_writer_ended && link->has_reader_ended) && is_in_time)
        is_in_time = cond_wait_until(&link->changed, &link->lock, deadline_ns);
    pthread_mutex_unlock(&link->lock);
}

void link_shutdown(struct link *link)
{
    gw_channel_shutdown(wire_stream_channel(link->stream));
}

void link_join(struct link *link)
{
    if (link->is_joined)
        return;
    pthread_mutex_lock(&link->lock);
    link->is_stopping = true;
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
    __atomic_store_n(&link->is_detached, 1, __ATOMIC_RELAXED);
    mailbox_wake(link->box);
    gw_channel_shutdown(wire_stream_channel(link->stream));
    gw_channel_wake(wire_stream_channel(link->stream));
    pthread_join(link->reader, NULL);
    pthread_join(link->writer, NULL);
    link->is_joined = true;
}

void link_free(struct link *link)
{
    if (!link)
        return;
    link_join(link);
    for (struct item *item = link->first; item;) {
        struct item *next = item->next;

        item_free(item);
        item = next;
    }
    wire_stream_free(link->stream);
    pthread_cond_destroy(&link->changed);
    pthread_mutex_destroy(&link->lock);
    g_free(link);
}
