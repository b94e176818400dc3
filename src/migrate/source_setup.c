/* SPDX-License-Identifier: MIT */
/*
 * The source's links: opening channels, the handshake, clock alignment, and closing.
 *
 * The control channel is opened first and says HELLO, the schema and the RAM map. The destination's
 * HELLO says how many page channels it takes; they are opened when it has accepted. Logging starts
 * before the RAM map is made, so that the map's extents and the log together miss no page.
 */
#include "migrate/source.h"

#include <string.h>
#include <unistd.h>

/* ---- opening ----------------------------------------------------------------------------------
 */

void source_set_opening(struct gw_source *source, struct gw_channel *channel)
{
    pthread_mutex_lock(&source->lock);
    source->opening = channel;
    if (channel && (source->wants_cancel || source->is_freeing || source->resolution))
        gw_channel_wake(channel);
    pthread_mutex_unlock(&source->lock);
}

struct wire_stream *source_open_stream(struct gw_source *source, enum wire_role role,
                                       uint16_t index, GError **error)
{
    struct gw_channel_options options = {
        .deadline_ns = (int64_t)(clock_mono_ns() + source->silence_ns),
        .silence_ms = (int64_t)(source->silence_ns / NS_PER_MS),
        .limit = role == WIRE_ROLE_PAGE ? source->limit : source->sooner,
        .framing = wire_framing(),
        .wake_fd = source->wake_fd,
    };
    struct wire_identity identity = {.role = role, .index = index};
    const char *uri = source->postcopy.uri ? source->postcopy.uri : source->uri;
    struct gw_channel *channel = gw_channel_connect(uri, &options, error);
    struct wire_stream *stream;
    bool is_open;

    if (!channel)
        return NULL;
    if (source->params.wrap) {
        channel = source->params.wrap(source->params.wrap_opaque, channel,
                                      role == WIRE_ROLE_PAGE     ? GW_ROLE_HINT_PAGE
                                      : role == WIRE_ROLE_URGENT ? GW_ROLE_HINT_URGENT
                                                                 : GW_ROLE_HINT_CONTROL,
                                      index);
        if (!channel) {
            g_set_error_literal(error, GW_ERROR, GW_ERROR_REFUSED, "the channel was refused");
            return NULL;
        }
    }
    memcpy(identity.migration_id, source->id, sizeof source->id);
    stream = wire_stream_new(channel, &identity, WIRE_SIDE_SOURCE);
    source_set_opening(source, channel);
    is_open = wire_stream_open(stream, options.deadline_ns, error);
    source_set_opening(source, NULL);
    if (!is_open) {
        wire_stream_free(stream);
        return NULL;
    }
    return stream;
}

/* ---- records from the control and page channels ------------------------------------------------
 */

static bool source_on_link_record(void *opaque, struct link *link, struct wire_record *record,
                                  GError **error)
{
    struct mail *mail;

    if (!engine_message_bytes(record->type->type)) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "has no place here");
        return false;
    }
    mail = link_decode(link, record, error);
    if (!mail)
        return false;
    if (mail->type == WIRE_CLOCK_PING) {
        link_answer_ping(link, &mail->message.clock_ping, mail->arrived_ns);
        mail_free(mail);
        return true;
    }
    /* What follows an accepting verdict belongs to the rounds. */
    if (mail->type == WIRE_SCHEMA_VERDICT && mail->message.schema_verdict.is_accepted)
        wire_stream_set_phase(link_stream(link), WIRE_IN_ROUNDS);
    link_deliver(link, mail);
    return true;
}

static void source_on_link_over(void *opaque, struct link *link, const GError *error)
{
    struct gw_source *source = opaque;

    mailbox_put(&source->box, link_end_mail(link, error));
}

static const struct link_ops source_link_ops = {
    .on_record = source_on_link_record,
    .on_end = source_on_link_over,
};

struct link *source_link_new(struct gw_source *source, struct wire_stream *stream, uint32_t channel)
{
    return link_new(stream, channel, source->generation, &source->box, &source_link_ops, source,
                    source->keepalive_ns);
}

static void source_on_lane_sent(void *opaque, uint32_t channel, uint32_t round,
                                const struct wire_round_end *end)
{
    /* The acknowledgement says it better. */
}

static void source_on_lane_failed(void *opaque, uint32_t channel, const GError *error)
{
    struct gw_source *source = opaque;
    struct mail *mail = mail_new(MAIL_LINK_END);

    mail->channel = channel;
    mail->generation = __atomic_load_n(&source->generation, __ATOMIC_RELAXED);
    mail->error = g_error_copy(error);
    mailbox_put(&source->box, mail);
}

static const struct lanes_ops source_lanes_ops = {
    .on_sent = source_on_lane_sent,
    .on_failed = source_on_lane_failed,
};

/* ---- connecting and handshake ------------------------------------------------------------------
 */

void source_connect(struct gw_source *source)
{
    g_autoptr(GError) error = NULL;
    struct wire_stream *stream;

    source->generation = 1;
    if (source->is_snapshot) {
        source_dispatch(source, SOURCE_EV_FILE_OPEN);
        return;
    }
    stream = source_open_stream(source, WIRE_ROLE_CONTROL, 0, &error);
    if (!stream) {
        if (gw_error_code_of(error) == GW_ERROR_CANCELLED)
            source_fail_error(source, error);
        else
            source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, gw_error_code_of(error),
                        error->message);
        return;
    }
    if (!source_share_prepare(source, stream, &error)) {
        wire_stream_free(stream);
        source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, gw_error_code_of(error),
                    error->message);
        return;
    }
    source->control = source_link_new(source, stream, CHANNEL_CONTROL);
    source_dispatch(source, SOURCE_EV_CONNECTED);
}

struct wire_ram_map source_ram_map(struct gw_source *source)
{
    const struct gw_memory *memory = source->vm.memory;
    struct wire_ram_map map = {.total_bytes = gw_memory_size_bytes(memory),
                               .n_blocks = gw_memory_n_blocks(memory)};

    map.blocks = g_new0(struct wire_ram_block, map.n_blocks);
    for (uint32_t i = 0; i < map.n_blocks; i++) {
        const struct gw_ram_block *block = gw_memory_block(memory, i);
        struct wire_ram_block *to = &map.blocks[i];
        g_autoptr(GArray) extents = g_array_new(FALSE, TRUE, sizeof(struct wire_extent));
        uint64_t page = 0, n_pages;

        to->index = i;
        to->gpa = block->gpa;
        to->size_bytes = block->size_bytes;
        to->name = g_strdup(block->name);
        for (; gw_memory_next_allocated_run(block, &page, &n_pages); page += n_pages) {
            struct wire_extent extent = {.first_page = page, .n_pages = n_pages};
            struct wire_extent *last =
                extents->len ? &g_array_index(extents, struct wire_extent, extents->len - 1) : NULL;

            if (last && extents->len == WIRE_MAX_EXTENTS)
                last->n_pages = page + n_pages - last->first_page; /* the rest as one */
            else
                g_array_append_val(extents, extent);
        }
        to->n_extents = extents->len;
        to->extents = (struct wire_extent *)(void *)g_array_free(g_steal_pointer(&extents), FALSE);
        for (uint32_t j = 0; j < to->n_extents; j++)
            gw_page_set_add(source->pending, i, to->extents[j].first_page, to->extents[j].n_pages);
    }
    return map;
}

static char *host_name(void)
{
    return g_strdup(g_get_host_name());
}

/* What we want; the destination may accept fewer. 0: pages travel on control. */
static uint32_t wanted_page_channels(const struct gw_source *source)
{
    if (!gw_channel_uri_is_multi(source->uri))
        return 0;
    return source->params.channels ? source->params.channels
                                   : engine_channels_for_cores(g_get_num_processors());
}

static uint64_t offered_features(const struct gw_source *source)
{
    uint64_t features = ENGINE_SOURCE_FEATURES;

    if (source->params.channels == 0)
        features |= 1u << WIRE_FEATURE_AUTO_CHANNELS;
    if (source->vm.forward_packets)
        features |= 1u << WIRE_FEATURE_PACKET_FORWARD;
    if (source->share.key)
        features |= 1u << WIRE_FEATURE_RAM_SHARE;
    if (!source->is_snapshot)
        features |= ENCODING_FEATURES;
    if (source_postcopy_offered(source))
        features |= 1u << WIRE_FEATURE_URGENT | 1u << WIRE_FEATURE_VOID_ROUNDS;
    if (source->params.reconnect_limit_ns && gw_channel_uri_is_multi(source->uri))
        features |= 1u << WIRE_FEATURE_RESUME;
    return features;
}

struct wire_hello source_hello(struct gw_source *source)
{
    return (struct wire_hello){
        .page_shift = GW_PAGE_SHIFT,
        .max_packet_pages = WIRE_MAX_PACKET_PAGES,
        .page_channels = wanted_page_channels(source),
        .urgent_channels = source_postcopy_offered(source),
        .features = offered_features(source),
        .required = 1u << WIRE_FEATURE_RESEND,
        .silence_limit_ms = (uint32_t)MIN(source->silence_ns / NS_PER_MS, UINT32_MAX),
        .max_blackout_ns = source->params.max_blackout_ns,
        .max_time_ns = source->params.max_time_ns,
        .max_bandwidth_bytes = source->params.max_bandwidth_bytes,
        .ram_bytes = gw_memory_size_bytes(source->vm.memory),
        .monotonic_ns = clock_mono_ns(),
        .realtime_ns = clock_real_ns(),
        .software = g_strdup("godwit"),
        .machine = g_strdup(""),
        .vm_name = g_strdup(""),
        .host = host_name(),
    };
}

void source_handshake(struct gw_source *source)
{
    g_autoptr(GError) error = NULL;
    struct gw_schema *schema;
    struct wire_hello hello;
    struct wire_ram_map map;

    source->setup_deadline_ns = clock_mono_ns() + source->silence_ns;
    source->pending = gw_page_set_new(source->vm.memory);
    source->sending = gw_page_set_new(source->vm.memory);
    if (!source_log_start(source, &error)) {
        source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, gw_error_code_of(error),
                    error->message);
        return;
    }
    hello = source_hello(source);
    link_post(source->control, WIRE_HELLO, &hello);
    schema = gw_schema_new(source->vm.registry);
    link_post_section(source->control, WIRE_SECTION_SCHEMA, "schema", 0, 1, 0,
                      gw_schema_encode(schema));
    gw_schema_free(schema);
    if (!source_share_offer(source, &error)) {
        source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, gw_error_code_of(error),
                    error->message);
        return;
    }
    map = source_ram_map(source);
    link_post(source->control, WIRE_RAM_MAP, &map);
    source->next_ping_ns = clock_mono_ns();
}

static void forget_lanes(struct gw_source *source, struct lanes *lanes)
{
    lanes_free(lanes);
    for (guint i = 0; i < source->page_links->len; i++)
        link_free(g_ptr_array_index(source->page_links, i));
    g_ptr_array_set_size(source->page_links, 0);
}

bool source_open_lanes(struct gw_source *source, uint32_t n_channels, GError **error)
{
    const struct encoding_params params = {.zstd = (enum encode_policy)source->params.zstd,
                                           .delta = (enum encode_policy)source->params.delta,
                                           .cache_bytes = source->params.delta_cache_bytes,
                                           .features = source->peer.features};
    struct lanes *lanes;

    encoding_free(source->encoding);
    source->encoding = encoding_new(&params, MAX(n_channels, 1));
    lanes = lanes_new(source->vm.memory, source->encoding, &source_lanes_ops, source);

    for (uint32_t i = 0; i < n_channels; i++) {
        struct wire_stream *stream = source_open_stream(source, WIRE_ROLE_PAGE, (uint16_t)i, error);

        if (!stream) {
            forget_lanes(source, lanes);
            return false;
        }
        wire_stream_set_phase(stream, WIRE_IN_ROUNDS);
        g_ptr_array_add(source->page_links, source_link_new(source, stream, i));
        lanes_add(lanes, stream, i, source->peer.max_packet_pages);
    }
    if (n_channels == 0)
        lanes_add(lanes, link_stream(source->control), WIRE_NO_CHANNEL,
                  source->peer.max_packet_pages);
    else if (!source_open_urgent(source, error)) {
        forget_lanes(source, lanes);
        return false;
    }
    source->lanes = lanes;
    tune_init(&source->tune, lanes_n(lanes), source->params.channels == 0);
    pthread_mutex_lock(&source->lock);
    source->status.n_channels = n_channels;
    pthread_mutex_unlock(&source->lock);
    return true;
}

void source_on_hello(struct gw_source *source, struct mail *mail)
{
    const struct wire_hello ours = source_hello(source);
    struct wire_hello own = ours;
    uint64_t peer_silence_ns;
    uint64_t missing_here, missing_there;

    if (source->has_peer || source_state(source) != GW_SOURCE_HANDSHAKE) {
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                    "the destination said HELLO twice");
        wire_message_clear(WIRE_HELLO, &own);
        return;
    }
    source->peer = mail->message.hello;
    mail->message.hello = (struct wire_hello){0};
    source->has_peer = true;
    missing_here = source->peer.required & ~ours.features;
    missing_there = ours.required & ~source->peer.features;
    wire_message_clear(WIRE_HELLO, &own);
    if (missing_here || missing_there) {
        g_autofree char *text = g_strdup_printf(
            "features that one side requires are missing: here 0x%" G_GINT64_MODIFIER
            "x, at the destination 0x%" G_GINT64_MODIFIER "x",
            missing_here, missing_there);

        source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, GW_ERROR_REFUSED, text);
        return;
    }
    peer_silence_ns = (uint64_t)source->peer.silence_limit_ms * NS_PER_MS;
    if (peer_silence_ns && peer_silence_ns / 4 < source->keepalive_ns) {
        source->keepalive_ns = MAX(peer_silence_ns / 4, NS_PER_MS);
        link_set_keepalive(source->control, source->keepalive_ns);
    }
}

/* The destination takes us: the other channels, then the rounds. */
static void source_accepted(struct gw_source *source)
{
    g_autoptr(GError) error = NULL;

    if (!source_share_decide(source))
        return;
    if (!source_open_lanes(source, MIN(wanted_page_channels(source), source->peer.page_channels),
                           &error)) {
        if (source_wants_stop(source))
            source_fail_error(source, error);
        else
            source_lose_channel(source, error);
        return;
    }
    if (source_check_mode(source))
        source_dispatch(source, SOURCE_EV_ACCEPTED);
}

void source_on_verdict(struct gw_source *source, struct mail *mail)
{
    const struct wire_schema_verdict *verdict = &mail->message.schema_verdict;
    g_autoptr(GString) text = g_string_new(NULL);

    if (!source->has_peer || source->is_verdict_good ||
        source_state(source) != GW_SOURCE_HANDSHAKE) {
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                    "the destination gave its verdict out of order");
        return;
    }
    if (verdict->is_accepted) {
        source->is_verdict_good = true;
        source_accepted(source);
        return;
    }
    for (uint32_t i = 0; i < verdict->n_sentences; i++)
        if (verdict->sentences[i].severity == 2)
            g_string_append_printf(text, "%s%s", text->len ? "\n" : "", verdict->sentences[i].text);
    if (!text->len)
        g_string_append(text, "the destination refused without a reason");
    source_fail(source, SOURCE_EV_PEER_FAILED, GW_SIDE_DESTINATION, GW_ERROR_REFUSED, text->str);
}

/* ---- clocks ------------------------------------------------------------------------------------
 */

void source_ping(struct gw_source *source)
{
    struct wire_clock_ping ping = {
        .id = ++source->ping_id, .monotonic_ns = clock_mono_ns(), .realtime_ns = clock_real_ns()};

    link_post(source->control, WIRE_CLOCK_PING, &ping);
    /* A few at once, then seldom: the best round trip counts. */
    source->next_ping_ns = clock_mono_ns() + (source->ping_id < 8 ? 2 * NS_PER_MS : SOURCE_PING_NS);
}

void source_on_pong(struct gw_source *source, const struct mail *mail)
{
    const struct wire_clock_pong *pong = &mail->message.clock_pong;

    /* PEER: the copied time is ours only if it lies in our past. */
    if (pong->ping_monotonic_ns < source->start_ns || pong->ping_monotonic_ns > mail->arrived_ns)
        return;
    clock_offset_sample(&source->clock, pong->ping_monotonic_ns, pong->received_monotonic_ns,
                        pong->sent_monotonic_ns, mail->arrived_ns);
    if (source->clock.is_known)
        source->predict.round_trip_ns = 2 * source->clock.error_ns;
}

/* ---- closing -----------------------------------------------------------------------------------
 */

void source_close_links(struct gw_source *source, bool is_orderly)
{
    uint64_t limit_ns = clock_mono_ns() + SOURCE_FINISH_NS;

    source_forward_stop(source); /* it uses the control link */
    if (source->lanes)
        lanes_abandon_round(source->lanes);
    /* One thread may end a channel only when no other one writes to it. */
    if (source->control && is_orderly &&
        (!source->lanes || source->page_links->len > 0 || lanes_wait_idle(source->lanes, limit_ns)))
        link_finish(source->control, limit_ns);
    if (source->lanes) {
        struct lanes_counters counters;

        lanes_get_counters(source->lanes, &counters);
        source->lanes_cpu_ns += counters.cpu_ns;
    }
    forget_lanes(source, g_steal_pointer(&source->lanes));
    source_close_urgent(source);
    if (source->control) {
        struct wire_counters counters;

        wire_stream_counters(link_stream(source->control), &counters);
        source->closed_bytes += counters.bytes_out;
    }
    g_clear_pointer(&source->control, link_free);
    /* What is in the mailbox now speaks of the past, also what the threads said as they ended. */
    __atomic_fetch_add(&source->generation, 1, __ATOMIC_RELAXED);
    source->lost_limit_ns = UINT64_MAX;
}
