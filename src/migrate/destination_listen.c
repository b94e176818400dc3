/* SPDX-License-Identifier: MIT */
/*
 * Who comes to a destination: accepting, greeting, attaching, and answering sources in doubt.
 *
 * Model: the acceptor gives every connection to a greeter thread, which must learn within a limit
 * who it is: the preamble, and on a control channel the first record (HELLO or QUERY_OWNER). At
 * most DESTINATION_MAX_GREETERS connections may be unknown at a time; others are closed at once.
 * PEER: nothing of a connection counts before the control thread has looked at its migration id.
 */
#include "migrate/destination.h"

#include <string.h>

#include "channel/descriptors.h"

struct greeter {
    struct gw_destination *destination;
    pthread_t thread;
    struct gw_channel *channel; /* which the thread blocks on; NULL: none. Guarded by .lock */
    struct wire_stream *stream; /* until the thread has taken it: a newcomer that is turned away */
    const char *reason;
    bool is_done; /* guarded by destination.lock */
};

#define GREETING_NS (UINT64_C(5) * NS_PER_S)

/* Reads and decodes what a control channel says first. */
static struct mail *greet_control(struct wire_stream *stream, int64_t deadline_ns, GError **error)
{
    struct wire_record record;
    struct mail *mail;
    size_t n_bytes;

    wire_stream_set_phase(stream, (enum wire_phase_set)(WIRE_IN_SETUP | WIRE_IN_OWNER));
    if (!wire_stream_confirm(stream, deadline_ns, error) ||
        !wire_receive(stream, &record, deadline_ns, error))
        return NULL;
    if (record.type->type != WIRE_HELLO && record.type->type != WIRE_QUERY_OWNER &&
        record.type->type != WIRE_RESUME) {
        wire_record_error(&record, GW_ERROR_CORRUPT, error, "not HELLO, QUERY_OWNER or RESUME");
        return NULL;
    }
    mail = mail_new(MAIL_STREAM);
    n_bytes = engine_message_bytes(record.type->type);
    if (!wire_decode_sized(&record, &mail->message, n_bytes, error)) {
        mail_free(mail);
        return NULL;
    }
    mail->type = record.type->type;
    return mail;
}

/* The only channel that there will ever be is not for probes. */
static struct mail *greet_probe(struct gw_destination *destination, struct wire_stream *stream,
                                int64_t deadline_ns, GError **error)
{
    if (destination->is_single || !wire_stream_confirm(stream, deadline_ns, error))
        return NULL;
    return mail_new(MAIL_STREAM);
}

/* The only channel there will ever be is of no use. */
static void nobody_else_comes(struct gw_destination *destination, const GError *error)
{
    struct mail *mail = mail_new(MAIL_POKE);

    mail->error = error ? g_error_copy(error)
                        : g_error_new_literal(GW_ERROR, GW_ERROR_REFUSED,
                                              "the channel has a role that has no place here");
    mailbox_put(&destination->box, mail);
}

static void greeter_done(struct greeter *greeter)
{
    struct gw_destination *destination = greeter->destination;

    pthread_mutex_lock(&destination->lock);
    greeter->is_done = true;
    pthread_cond_broadcast(&destination->changed);
    pthread_mutex_unlock(&destination->lock);
}

/* Learns who a connection is. NULL with error: nobody of interest; the channel is closed. */
static struct mail *greet_channel(struct greeter *greeter, GError **error)
{
    struct gw_destination *destination = greeter->destination;
    struct gw_channel *channel = greeter->channel;
    int64_t deadline_ns = (int64_t)(clock_mono_ns() + MIN(destination->silence_ns, GREETING_NS));
    struct wire_stream *stream = wire_stream_try_accept(channel, deadline_ns, error);
    struct mail *mail = NULL;

    if (stream && wire_stream_identity(stream)->role == WIRE_ROLE_CONTROL)
        mail = greet_control(stream, deadline_ns, error);
    else if (stream && wire_stream_identity(stream)->role == WIRE_ROLE_PROBE)
        mail = greet_probe(destination, stream, deadline_ns, error);
    else if (stream)
        mail = mail_new(MAIL_STREAM);
    pthread_mutex_lock(&destination->lock);
    greeter->channel = NULL; /* from here on nobody wakes it */
    pthread_mutex_unlock(&destination->lock);
    if (mail)
        mail->stream = stream;
    else if (stream)
        wire_stream_free(stream);
    else
        gw_channel_free(channel);
    return mail;
}

static void *greeter_main(void *opaque)
{
    struct greeter *greeter = opaque;
    struct gw_destination *destination = greeter->destination;
    g_autoptr(GError) error = NULL;
    struct mail *mail = greet_channel(greeter, &error);

    if (mail)
        mailbox_put(&destination->box, mail);
    else if (destination->is_single)
        nobody_else_comes(destination, error);
    greeter_done(greeter);
    return NULL;
}

/* Joins the greeters that are done; all of them if asked. */
static void reap_greeters(struct gw_destination *destination, bool wants_all)
{
    pthread_mutex_lock(&destination->lock);
    for (guint i = 0; i < destination->greeters->len;) {
        struct greeter *greeter = g_ptr_array_index(destination->greeters, i);

        if (wants_all && greeter->channel)
            gw_channel_wake(greeter->channel);
        while (wants_all && !greeter->is_done)
            pthread_cond_wait(&destination->changed, &destination->lock);
        if (greeter->is_done) {
            g_ptr_array_remove_index_fast(destination->greeters, i);
            pthread_join(greeter->thread, NULL);
            g_free(greeter);
        } else {
            i++;
        }
    }
    pthread_mutex_unlock(&destination->lock);
}

/* A thread for one connection; false: there are too many. */
static bool greeter_start(struct gw_destination *destination, void *(*main)(void *opaque),
                          const struct greeter *newcomer)
{
    struct greeter *greeter;
    bool is_room;

    pthread_mutex_lock(&destination->lock);
    is_room = destination->greeters->len < DESTINATION_MAX_GREETERS && !destination->is_freeing;
    if (is_room) {
        greeter = g_memdup2(newcomer, sizeof *newcomer);
        greeter->destination = destination;
        g_ptr_array_add(destination->greeters, greeter);
        engine_thread_start(&greeter->thread, "gw-greeter", main, greeter);
    }
    pthread_mutex_unlock(&destination->lock);
    return is_room;
}

static void greet(struct gw_destination *destination, struct gw_channel *channel)
{
    reap_greeters(destination, false);
    if (!greeter_start(destination, greeter_main, &(struct greeter){.channel = channel}))
        gw_channel_free(channel);
}

static bool is_freeing(struct gw_destination *destination)
{
    bool is;

    pthread_mutex_lock(&destination->lock);
    is = destination->is_freeing;
    pthread_mutex_unlock(&destination->lock);
    return is;
}

static void *acceptor_main(void *opaque)
{
    struct gw_destination *destination = opaque;

    while (!is_freeing(destination)) {
        g_autoptr(GError) error = NULL;
        struct gw_channel *channel =
            gw_listener_accept(destination->listener, GW_NO_DEADLINE, &error);

        if (channel && destination->params.wrap)
            channel = destination->params.wrap(destination->params.wrap_opaque, channel,
                                               GW_ROLE_HINT_UNKNOWN, 0);
        if (channel) {
            greet(destination, channel);
        } else if (error) {
            int code = gw_error_code_of(error);
            uint64_t again_ns = clock_mono_ns() + 100 * NS_PER_MS;

            if (code == GW_ERROR_CANCELLED)
                break;
            if (code == GW_ERROR_STATE || destination->is_single) {
                if (code != GW_ERROR_STATE) /* the second accept of a single channel */
                    nobody_else_comes(destination, error);
                break;
            }
            /* Out of descriptors or the like: it may pass. */
            pthread_mutex_lock(&destination->lock);
            while (!destination->is_freeing &&
                   cond_wait_until(&destination->changed, &destination->lock, again_ns))
                continue;
            pthread_mutex_unlock(&destination->lock);
        }
    }
    return NULL;
}

void destination_start_listening(struct gw_destination *destination)
{
    destination->greeters = g_ptr_array_new();
    engine_thread_start(&destination->acceptor, "gw-acceptor", acceptor_main, destination);
}

void destination_stop_listening(struct gw_destination *destination)
{
    gw_listener_wake(destination->listener);
    pthread_join(destination->acceptor, NULL);
    reap_greeters(destination, true);
    g_ptr_array_unref(destination->greeters);
}

/* ---- on the control thread ---------------------------------------------------------------------
 */

void destination_remember(struct gw_destination *destination, bool is_running)
{
    struct remembered entry = {.is_running = is_running};

    memcpy(entry.id, destination->id, sizeof entry.id);
    /* Forgetting is safe: UNKNOWN is no answer to a source in doubt. RUNNING is never forgotten,
     * because nothing comes after it. */
    if (destination->remembered->len >= DESTINATION_MAX_REMEMBERED)
        g_array_remove_index(destination->remembered, 0);
    g_array_append_val(destination->remembered, entry);
}

static const struct remembered *find_remembered(struct gw_destination *destination,
                                                const uint8_t *id)
{
    for (guint i = 0; i < destination->remembered->len; i++) {
        const struct remembered *entry =
            &g_array_index(destination->remembered, struct remembered, i);

        if (memcmp(entry->id, id, sizeof entry->id) == 0)
            return entry;
    }
    return NULL;
}

static void answer_stream(struct wire_stream *stream, enum wire_owner owner, uint32_t attempt,
                          const char *detail)
{
    struct wire_owner_answer answer = {
        .answer = (uint8_t)owner, .attempt = attempt, .detail = (char *)detail};
    int64_t deadline_ns = (int64_t)(clock_mono_ns() + DESTINATION_ANSWER_NS);

    if (wire_send(stream, WIRE_OWNER_ANSWER, &answer, deadline_ns, NULL))
        gw_channel_finish(wire_stream_channel(stream), deadline_ns, NULL);
}

void destination_answer(struct gw_destination *destination, enum wire_owner answer)
{
    if (!destination->query)
        return;
    answer_stream(destination->query, answer, destination->attempt,
                  answer == WIRE_OWNER_NEVER ? destination->failure.reason : "");
    if (answer == WIRE_OWNER_RUNNING) {
        struct wire_record record;
        int64_t deadline_ns = (int64_t)(clock_mono_ns() + DESTINATION_ANSWER_NS);

        /* The source's GOODBYE says that it knows. */
        if (wire_receive(destination->query, &record, deadline_ns, NULL) &&
            record.type->type == WIRE_GOODBYE)
            destination_dispatch(destination, DESTINATION_EV_GOODBYE);
    }
}

static void on_query(struct gw_destination *destination, struct mail *mail)
{
    const uint8_t *id = wire_stream_identity(mail->stream)->migration_id;
    const struct remembered *entry = find_remembered(destination, id);
    unsigned state = destination_state(destination);
    bool is_current =
        destination->generation > 0 && memcmp(id, destination->id, WIRE_ID_BYTES) == 0;

    if (!is_current) {
        answer_stream(mail->stream,
                      !entry              ? WIRE_OWNER_UNKNOWN
                      : entry->is_running ? WIRE_OWNER_RUNNING
                                          : WIRE_OWNER_NEVER,
                      0, "");
        return;
    }
    if (!mail->message.query_owner.demands_decision && state != GW_DESTINATION_RUNNING &&
        state != GW_DESTINATION_POSTCOPY && state != GW_DESTINATION_PAUSED &&
        state != GW_DESTINATION_DISOWNED) {
        answer_stream(mail->stream, WIRE_OWNER_AWAITING_COMMIT, destination->attempt, "");
        return;
    }
    if (destination->failure.side == GW_SIDE_NONE)
        engine_failure_set(&destination->failure, GW_SIDE_SOURCE, GW_ERROR_LINK_LOST,
                           "the source lost the link and asked who owns the guest");
    destination->query = mail->stream;
    destination_dispatch(destination, DESTINATION_EV_QUERY);
    destination->query = NULL;
}

static void *refuser_main(void *opaque)
{
    struct greeter *greeter = opaque;
    struct wire_stream *stream = greeter->stream;
    struct wire_abort abort = {
        .side = WIRE_SIDE_DESTINATION, .code = GW_ERROR_STATE, .reason = (char *)greeter->reason};
    int64_t deadline_ns = (int64_t)(clock_mono_ns() + DESTINATION_ANSWER_NS);
    struct wire_record record;

    if (wire_send(stream, WIRE_ABORT, &abort, deadline_ns, NULL) &&
        gw_channel_finish(wire_stream_channel(stream), deadline_ns, NULL))
        while (wire_receive(stream, &record, deadline_ns, NULL))
            continue; /* until the newcomer has read it and closes */
    wire_stream_free(stream);
    greeter_done(greeter);
    return NULL;
}

/* Turns a newcomer away with a reason, on a thread of its own: it may be slow to hear it, and the
 * control thread has a migration to serve. */
void destination_refuse(struct gw_destination *destination, struct wire_stream *stream,
                        const char *reason)
{
    if (!greeter_start(destination, refuser_main,
                       &(struct greeter){.stream = stream, .reason = reason}))
        wire_stream_free(stream);
}

static void on_control(struct gw_destination *destination, struct mail *mail)
{
    const uint8_t *id = wire_stream_identity(mail->stream)->migration_id;
    unsigned state = destination_state(destination);

    if (find_remembered(destination, id) ||
        (destination->generation > 0 && memcmp(id, destination->id, WIRE_ID_BYTES) == 0)) {
        destination_refuse(destination, g_steal_pointer(&mail->stream),
                           "this migration is over; start a new one");
        return;
    }
    if (state == GW_DESTINATION_WAITING) {
        /* Who waits for one source does not turn another one away. */
        if (destination->failure.side == GW_SIDE_NONE)
            engine_failure_set(&destination->failure, GW_SIDE_SOURCE, GW_ERROR_LINK_LOST,
                               "the source lost its link, and another one came");
        destination_dispatch(destination, DESTINATION_EV_HELLO);
        state = destination_state(destination);
    }
    if (state != GW_DESTINATION_LISTENING && state != GW_DESTINATION_DISOWNED) {
        destination_refuse(destination, g_steal_pointer(&mail->stream),
                           state == GW_DESTINATION_RUNNING
                               ? "the destination runs its guest"
                               : "the destination serves another migration");
        return;
    }
    destination_end_probe(destination);
    destination_clear_migration(destination);
    memcpy(destination->id, id, WIRE_ID_BYTES);
    destination->generation++;
    destination->start_ns = clock_mono_ns();
    destination->keepalive_ns = destination->silence_ns / 4;
    if (destination->params.ram != GW_RAM_COPY)
        channel_accept_descriptors(wire_stream_channel(mail->stream));
    destination->control =
        link_new(g_steal_pointer(&mail->stream), CHANNEL_CONTROL, destination->generation,
                 &destination->box, &destination_link_ops, destination, destination->keepalive_ns);
    destination->peer_features = mail->message.hello.features;
    destination_dispatch(destination, DESTINATION_EV_HELLO);
    destination_on_hello(destination, mail);
}

static bool takes_channels(const struct gw_destination *destination, unsigned state)
{
    return destination->has_peer && destination->control &&
           (state == GW_DESTINATION_HANDSHAKE || state == GW_DESTINATION_RECEIVING ||
            state == GW_DESTINATION_POSTCOPY);
}

/* A lane over the stream, which is taken. */
static struct page_lane *attach_lane(struct gw_destination *destination, struct mail *mail,
                                     uint32_t channel)
{
    int64_t deadline_ns = (int64_t)(clock_mono_ns() + DESTINATION_ANSWER_NS);
    struct page_lane *lane;

    for (guint i = 0; i < destination->lanes->len; i++) {
        lane = g_ptr_array_index(destination->lanes, i);
        if (lane->channel == channel)
            return NULL;
    }
    if (!wire_stream_confirm(mail->stream, deadline_ns, NULL))
        return NULL;
    wire_stream_set_phase(mail->stream, WIRE_IN_ROUNDS);
    lane = destination_lane_new(destination, channel);
    pthread_mutex_lock(&destination->lock);
    g_ptr_array_add(destination->lanes, lane);
    pthread_mutex_unlock(&destination->lock);
    lane->link =
        link_new(g_steal_pointer(&mail->stream), lane->channel, destination->generation,
                 &destination->box, &destination_link_ops, destination, destination->keepalive_ns);
    return lane;
}

static void on_urgent_channel(struct gw_destination *destination, struct mail *mail)
{
    const struct wire_identity *identity = wire_stream_identity(mail->stream);
    struct page_lane *lane;

    /* PEER: only the right id, when it was agreed on, once. */
    if (!takes_channels(destination, destination_state(destination)) ||
        memcmp(identity->migration_id, destination->id, WIRE_ID_BYTES) != 0 ||
        !(destination->features >> WIRE_FEATURE_URGENT & 1))
        return;
    lane = attach_lane(destination, mail, CHANNEL_URGENT);
    if (lane)
        destination_use_urgent(destination, lane->link);
}

static void on_page_channel(struct gw_destination *destination, struct mail *mail)
{
    const struct wire_identity *identity = wire_stream_identity(mail->stream);

    /* PEER: only the right id, an index that was agreed on, once each. */
    if (takes_channels(destination, destination_state(destination)) &&
        memcmp(identity->migration_id, destination->id, WIRE_ID_BYTES) == 0 &&
        identity->index < destination->n_lanes)
        attach_lane(destination, mail, identity->index);
}

void destination_on_stream(struct gw_destination *destination, struct mail *mail)
{
    switch (wire_stream_identity(mail->stream)->role) {
    case WIRE_ROLE_CONTROL:
        if (mail->type == WIRE_QUERY_OWNER)
            on_query(destination, mail);
        else if (mail->type == WIRE_RESUME)
            destination_on_resume(destination, mail);
        else
            on_control(destination, mail);
        break;
    case WIRE_ROLE_PAGE:
        on_page_channel(destination, mail);
        break;
    case WIRE_ROLE_SNAPSHOT:
        if (destination_state(destination) != GW_DESTINATION_LISTENING || !destination->is_single)
            return;
        memcpy(destination->id, wire_stream_identity(mail->stream)->migration_id, WIRE_ID_BYTES);
        destination->generation++;
        destination->start_ns = clock_mono_ns();
        destination_restore(destination, g_steal_pointer(&mail->stream));
        break;
    case WIRE_ROLE_PROBE:
        destination_on_probe(destination, mail);
        break;
    case WIRE_ROLE_URGENT:
        on_urgent_channel(destination, mail);
        break;
    }
}
