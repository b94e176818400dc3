/* SPDX-License-Identifier: MIT */
/*
 * A lost link of the source, replaced (docs/wire-format.md section 16).
 *
 * Model: the links are closed; after a pause that grows, a new control channel says RESUME, the
 * destination says what it has or lacks, the other channels are opened, and what is left is sent.
 * An attempt that fails is no event: another one follows. It blocks the control thread, at most for
 * the silence limit at each step, and can be interrupted by an end that is wanted.
 */
#include "migrate/source.h"

#include "wire/page_list.h"

#define FIRST_PAUSE_NS (UINT64_C(100) * NS_PER_MS)
#define MAX_PAUSE_NS   (UINT64_C(5) * NS_PER_S)

void source_reconnect(struct gw_source *source)
{
    struct source_postcopy *postcopy = &source->postcopy;
    uint64_t n_left;

    source_close_links(source, false);
    postcopy->is_pushing = postcopy->has_lost_pages = false;
    __atomic_store_n(&postcopy->is_serving, 0, __ATOMIC_RELEASE);
    n_left = postcopy->push ? push_n_left(postcopy->push) : UINT64_MAX;
    /* Links that break again before a round was acknowledged, or a page was sent in post-copy, are
     * one break. */
    if (!postcopy->give_up_ns || source->round > postcopy->broken_round ||
        n_left < postcopy->broken_left) {
        postcopy->pause_ns = 0;
        postcopy->give_up_ns = clock_mono_ns() + source->params.reconnect_limit_ns;
    }
    postcopy->broken_round = MAX(postcopy->broken_round, source->round);
    postcopy->broken_left = n_left;
    postcopy->next_try_ns = clock_mono_ns() + postcopy->pause_ns;
    postcopy->pause_ns = CLAMP(2 * postcopy->pause_ns, FIRST_PAUSE_NS, MAX_PAUSE_NS);
}

bool source_may_reconnect(const struct gw_source *source)
{
    const struct source_postcopy *postcopy = &source->postcopy;

    /* Not for ever without getting on. */
    return source->params.reconnect_limit_ns > 0 && source->has_peer &&
           (source->peer.features >> WIRE_FEATURE_RESUME & 1) && !source->share.is_agreed &&
           (!postcopy->give_up_ns || source->round > postcopy->broken_round ||
            clock_mono_ns() < postcopy->give_up_ns);
}

/* The sections that follow RESUMED, into a set. */
static bool read_pages(struct gw_source *source, struct wire_stream *stream,
                       const struct wire_resumed *resumed, struct gw_page_set *set, GError **error)
{
    struct wire_section_reader *reader = wire_section_reader_new();
    bool is_read = true;

    for (uint32_t i = 0; i < resumed->n_sections && is_read; i++) {
        struct wire_section section = {0};
        gsize n_bytes = 0;
        const uint8_t *bytes;

        is_read = wire_expect_section(stream, reader, WIRE_SECTION_PAGES, &section,
                                      (int64_t)(clock_mono_ns() + source->silence_ns), error);
        if (!is_read)
            break;
        bytes = g_bytes_get_data(section.data, &n_bytes);
        /* PEER: our own block, and its own pages. */
        if (!gw_memory_block(source->vm.memory, section.instance)) {
            g_set_error_literal(error, GW_ERROR, GW_ERROR_CORRUPT,
                                "the destination names pages of a block that does not exist");
            is_read = false;
        } else {
            is_read = wire_page_list_decode(bytes, n_bytes, set, section.instance, error);
        }
        wire_section_clear(&section);
    }
    wire_section_reader_free(reader);
    if (is_read && set->n_set != resumed->n_pages) {
        g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT,
                    "the destination names %" G_GUINT64_FORMAT " pages and says %" G_GUINT64_FORMAT,
                    set->n_set, resumed->n_pages);
        is_read = false;
    }
    return is_read;
}

/* What was agreed becomes what is left to be sent. */
static bool take_over(struct gw_source *source, const struct wire_resumed *resumed,
                      struct gw_page_set *named, GError **error)
{
    struct source_postcopy *postcopy = &source->postcopy;
    bool is_after = source_state(source) == GW_SOURCE_PAUSED;

    if (resumed->is_owned != is_after || resumed->round > source->round ||
        (!is_after && resumed->round + 1 < source->round)) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_CORRUPT,
                            "the destination goes on with something else");
        return false;
    }
    if (is_after) {
        gw_page_set_clear(postcopy->left);
        gw_page_set_or(postcopy->left, named);
        push_begin(postcopy->push, postcopy->left);
        __atomic_store_n(&postcopy->is_serving, 1, __ATOMIC_RELEASE);
    } else {
        if (resumed->n_pages) /* the link carried something: no need to wait when it breaks again */
            postcopy->pause_ns = 0;
        source_put_back_round(source, resumed->round, named);
    }
    source->round = resumed->round;
    return true;
}

/* Everything else of the connection. Takes the stream. */
static bool attach(struct gw_source *source, struct wire_stream *stream, GError **error)
{
    bool is_after = source_state(source) == GW_SOURCE_PAUSED;

    source->generation++;
    wire_stream_set_phase(stream, is_after ? WIRE_IN_COMMITTED : WIRE_IN_ROUNDS);
    source->control = source_link_new(source, stream, CHANNEL_CONTROL);
    if (!source_open_lanes(source, source->status.n_channels, error)) {
        source_close_links(source, false);
        return false;
    }
    source->next_ping_ns = clock_mono_ns();
    return true;
}

/* Asks what the destination has. NULL with error, or with *is_whole. */
static struct wire_stream *ask(struct gw_source *source, struct wire_resumed *resumed,
                               struct gw_page_set *named, GError **error)
{
    struct wire_resume resume = {.attempt = source->attempt, .round = source->round};
    struct wire_stream *stream = source_open_stream(source, WIRE_ROLE_CONTROL, 0, error);
    int64_t deadline_ns = (int64_t)(clock_mono_ns() + source->silence_ns);
    bool is_answered;

    if (!stream)
        return NULL;
    source_set_opening(source, wire_stream_channel(stream));
    is_answered = wire_send(stream, WIRE_RESUME, &resume, deadline_ns, error) &&
                  wire_expect(stream, WIRE_RESUMED, resumed, deadline_ns, error) &&
                  read_pages(source, stream, resumed, named, error);
    source_set_opening(source, NULL);
    if (is_answered)
        return stream;
    wire_stream_free(stream);
    return NULL;
}

/* The destination had everything already, and we did not know. */
static void end_whole(struct gw_source *source, struct wire_stream *stream)
{
    struct wire_goodbye goodbye = {.is_complete = true};

    wire_stream_set_phase(stream, WIRE_IN_COMMITTED);
    wire_send(stream, WIRE_GOODBYE, &goodbye, (int64_t)(clock_mono_ns() + NS_PER_S), NULL);
    wire_stream_free(stream);
    source_dispatch(source, SOURCE_EV_WHOLE);
}

static void note_failure(struct gw_source *source, const GError *error)
{
    struct source_postcopy *postcopy = &source->postcopy;

    engine_failure_set(&source->failure, GW_SIDE_SOURCE, gw_error_code_of(error), error->message);
    pthread_mutex_lock(&source->lock);
    source->status.failure = source->failure;
    pthread_mutex_unlock(&source->lock);
    postcopy->next_try_ns = clock_mono_ns() + postcopy->pause_ns;
    postcopy->pause_ns = MIN(2 * postcopy->pause_ns, MAX_PAUSE_NS);
}

static void note_success(struct gw_source *source)
{
    source->failure = (struct gw_migrate_failure){0};
    pthread_mutex_lock(&source->lock);
    source->status.failure = source->failure;
    source->status.reconnects++;
    pthread_mutex_unlock(&source->lock);
}

void source_try_reconnect(struct gw_source *source)
{
    g_autoptr(GError) error = NULL;
    struct gw_page_set *named = gw_page_set_new(source->vm.memory);
    struct wire_resumed resumed = {0};
    bool is_before = source_state(source) == GW_SOURCE_RECONNECTING;
    struct wire_stream *stream = ask(source, &resumed, named, &error);

    if (stream && resumed.is_whole && !is_before) {
        note_success(source);
        end_whole(source, stream);
    } else if (stream && !take_over(source, &resumed, named, &error)) {
        wire_stream_free(stream);
        note_failure(source, error);
    } else if (stream && attach(source, stream, &error)) {
        note_success(source);
        source_dispatch(source, SOURCE_EV_RECONNECTED);
    } else if (is_before && gw_error_code_of(error) == GW_ERROR_PEER) {
        /* It has disowned what it had, or is another one. */
        source_fail_error(source, error);
    } else if (is_before && clock_mono_ns() >= source->postcopy.give_up_ns) {
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_SOURCE, gw_error_code_of(error),
                    error->message);
    } else {
        note_failure(source, error);
    }
    gw_page_set_free(named);
}

/* ---- public -----------------------------------------------------------------------------------
 */

static bool is_state_of(struct gw_source *source, unsigned a, unsigned b, const char *what,
                        GError **error)
{
    unsigned state = source_state(source);

    if (state == a || state == b)
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_STATE, "%s: the migration is in state %s", what,
                gw_source_state_name((enum gw_source_state)state));
    return false;
}

bool gw_source_pause(struct gw_source *source, GError **error)
{
    if (!is_state_of(source, GW_SOURCE_POSTCOPY, GW_SOURCE_POSTCOPY, "no post-copy is under way",
                     error))
        return false;
    mailbox_put(&source->box, mail_new(MAIL_PAUSE));
    return true;
}

bool gw_source_recover(struct gw_source *source, const char *uri, GError **error)
{
    struct mail *mail;

    if (!is_state_of(source, GW_SOURCE_PAUSED, GW_SOURCE_RECONNECTING, "no link was lost", error))
        return false;
    if (uri && !gw_channel_uri_is_multi(uri)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s cannot be connected to again", uri);
        return false;
    }
    mail = mail_new(MAIL_RECOVER);
    mail->text = g_strdup(uri);
    mailbox_put(&source->box, mail);
    return true;
}
