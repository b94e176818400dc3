/* SPDX-License-Identifier: MIT */
/*
 * The destination's handshake: HELLO, the source's schema and RAM map, one verdict with every
 * finding; and the control channel's reader.
 */
#include "migrate/destination.h"
#include "migrate/encoding.h"
#include "migrate/verdict.h"

#include <string.h>

#include "base/bitmap.h"

/* ---- the readers of links ----------------------------------------------------------------------
 */

static bool on_section_record(struct gw_destination *destination, struct link *link,
                              struct wire_record *record, GError **error)
{
    struct wire_section section = {0};
    bool is_whole = false;
    struct mail *mail;

    if (!wire_section_feed(destination->sections, record, &section, &is_whole, GW_NO_DEADLINE,
                           error))
        return false;
    if (!is_whole)
        return true;
    mail = mail_new(MAIL_SECTION);
    mail->channel = link_channel(link);
    mail->generation = link_generation(link);
    mail->section = section;
    mail->weight += g_bytes_get_size(section.data);
    link_deliver(link, mail);
    return true;
}

/* What must be known to the reader before it reads the next record. */
static bool on_order_record(struct gw_destination *destination, struct link *link,
                            struct wire_record *record, struct mail *mail, GError **error)
{
    switch (mail->type) {
    case WIRE_SWITCHOVER_BEGIN:
        wire_stream_set_phase(link_stream(link),
                              (enum wire_phase_set)(WIRE_IN_ROUNDS | WIRE_IN_BLACKOUT));
        wire_section_reset(destination->sections);
        return true;
    case WIRE_STATE_END:
        return wire_section_check_state_end(destination->sections, record, &mail->message.state_end,
                                            error);
    case WIRE_COMMIT:
        wire_stream_set_phase(link_stream(link),
                              (enum wire_phase_set)(WIRE_IN_BLACKOUT | WIRE_IN_COMMITTED));
        return true;
    default:
        return true;
    }
}

static struct page_lane *lane_of(struct gw_destination *destination, struct link *link)
{
    struct page_lane *found = NULL;

    if (link_channel(link) == CHANNEL_CONTROL)
        return &destination->control_lane;
    /* The array grows on the control thread; a lane itself stays. */
    pthread_mutex_lock(&destination->lock);
    for (guint i = 0; i < destination->lanes->len && !found; i++) {
        struct page_lane *lane = g_ptr_array_index(destination->lanes, i);

        if (lane->channel == link_channel(link))
            found = lane;
    }
    pthread_mutex_unlock(&destination->lock);
    return found;
}

static bool on_link_record(void *opaque, struct link *link, struct wire_record *record,
                           GError **error)
{
    struct gw_destination *destination = opaque;
    struct mail *mail;

    switch (record->type->type) {
    case WIRE_ROUND_BEGIN:
    case WIRE_PAGES:
    case WIRE_ROUND_END:
        return destination_on_page_record(lane_of(destination, link), record, error);
    case WIRE_SECTION_BEGIN:
    case WIRE_SECTION_PART:
    case WIRE_SECTION_END:
        return on_section_record(destination, link, record, error);
    case WIRE_PACKET:
        return destination_on_packet_record(destination, link, record, error);
    default:
        break;
    }
    mail = link_decode(link, record, error);
    if (!mail)
        return false;
    if (mail->type == WIRE_CLOCK_PING) {
        link_answer_ping(link, &mail->message.clock_ping, mail->arrived_ns);
        mail_free(mail);
        return true;
    }
    if (!on_order_record(destination, link, record, mail, error)) {
        mail_free(mail);
        return false;
    }
    link_deliver(link, mail);
    return true;
}

static void on_link_end(void *opaque, struct link *link, const GError *error)
{
    struct gw_destination *destination = opaque;

    mailbox_put(&destination->box, link_end_mail(link, error));
}

const struct link_ops destination_link_ops = {
    .on_record = on_link_record,
    .on_end = on_link_end,
};

/* ---- handshake ---------------------------------------------------------------------------------
 */

void destination_clear_migration(struct gw_destination *destination)
{
    g_clear_pointer(&destination->load, gw_state_load_free);
    destination_share_drop(destination);
    destination->share = (struct destination_share){0};
    g_clear_pointer(&destination->plan, gw_state_plan_free);
    g_clear_pointer(&destination->schema, gw_schema_free);
    for (uint32_t i = 0; i < destination->n_blocks; i++) {
        g_free(destination->suspect_words[i]);
        g_free(destination->written_words[i]);
    }
    destination_forget_huge(destination);
    g_clear_pointer(&destination->suspect_words, g_free);
    g_clear_pointer(&destination->written_words, g_free);
    g_clear_pointer(&destination->blocks, g_free);
    destination->n_blocks = 0;
    if (destination->has_peer)
        wire_message_clear(WIRE_HELLO, &destination->peer);
    if (destination->has_ram_map)
        wire_message_clear(WIRE_RAM_MAP, &destination->ram_map);
    destination->has_peer = destination->has_schema = destination->has_ram_map = false;
    g_clear_pointer(&destination->sections, wire_section_reader_free);
    destination->sections = wire_section_reader_new();
    destination->control_lane.cpu_ns = 0; /* its reader will be a new thread */
    destination->cpu_ns = 0;
    destination->control_lane.check = (struct wire_round_check){0};
    destination->acked_round = 0;
    destination->is_receiving = 0;
    destination->n_suspect = 0;
    destination->n_lanes = 0;
    destination->clock = (struct clock_offset){0};
    destination->realtime_offset_ns = 0;
    destination->best_ping_error_ns = UINT64_MAX;
    destination->ping_id = 0;
    destination->next_ping_ns = UINT64_MAX;
    destination->failure = (struct gw_migrate_failure){0};
    destination->has_told_peer = false;
    destination->round = 0;
    destination->n_lanes_done = 0;
    destination->is_last_round_clean = false;
    destination->attempt = 0;
    destination->has_state_end = false;
    destination->n_resends = 0;
    destination->is_loaded = false;
    destination->n_packets = 0;
    destination_forget_attempt(destination);
    destination_forget_received(destination);
    destination->postcopy.is_done = false;
    destination->postcopy.stopped_round = destination->postcopy.begun_round = 0;
    destination->ledger_limit_ns = UINT64_MAX;
    destination->lost_limit_ns = UINT64_MAX;
    pthread_mutex_lock(&destination->lock);
    destination->status.failure = destination->failure;
    destination->status.n_channels = 0;
    destination->status.is_ram_shared = false;
    destination->status.round = 0;
    pthread_mutex_unlock(&destination->lock);
}

/* What we answer to a source that asks for our opinion, or does not: then as many as it wants. */
static uint32_t accepted_lanes(const struct gw_destination *destination, uint64_t peer_features)
{
    if (destination->is_single || !destination->is_live)
        return 0;
    if (!(peer_features & (1u << WIRE_FEATURE_AUTO_CHANNELS)))
        return WIRE_MAX_CHANNELS;
    return destination->params.channels ? MIN(destination->params.channels, WIRE_MAX_CHANNELS)
                                        : engine_channels_for_cores(g_get_num_processors());
}

struct wire_hello destination_hello(struct gw_destination *destination)
{
    bool offers_postcopy = destination_offers_postcopy(destination);
    bool resumes = destination->params.reconnect_limit_ns && !destination->is_single;

    return (struct wire_hello){
        .page_shift = GW_PAGE_SHIFT,
        .max_packet_pages = WIRE_MAX_PACKET_PAGES,
        .page_channels = destination->max_lanes,
        .urgent_channels = offers_postcopy,
        .features =
            (1u << WIRE_FEATURE_MULTI_CHANNEL) | (1u << WIRE_FEATURE_RESEND) |
            (1u << WIRE_FEATURE_REHEARSAL) | (1u << WIRE_FEATURE_LEDGER) |
            (1u << WIRE_FEATURE_AUTO_CHANNELS) |
            ((destination->vm.packet ? 1u : 0u) << WIRE_FEATURE_PACKET_FORWARD) |
            (destination->params.ram != GW_RAM_COPY ? 1u << WIRE_FEATURE_RAM_SHARE : 0) |
            (offers_postcopy ? 1u << WIRE_FEATURE_URGENT | 1u << WIRE_FEATURE_VOID_ROUNDS : 0) |
            ((resumes ? 1u : 0u) << WIRE_FEATURE_RESUME) | ENCODING_FEATURES,
        .silence_limit_ms = (uint32_t)MIN(destination->silence_ns / NS_PER_MS, UINT32_MAX),
        .ram_bytes = gw_memory_size_bytes(destination->vm.memory),
        .monotonic_ns = clock_mono_ns(),
        .realtime_ns = clock_real_ns(),
        .software = g_strdup("godwit"),
        .machine = g_strdup(""),
        .vm_name = g_strdup(""),
        .host = g_strdup(g_get_host_name()),
    };
}

void destination_handshake(struct gw_destination *destination)
{
    struct wire_hello hello;

    destination->max_lanes = accepted_lanes(destination, destination->peer_features);
    hello = destination_hello(destination);
    destination->setup_deadline_ns = clock_mono_ns() + destination->silence_ns;
    destination->next_ping_ns = clock_mono_ns();
    destination->features = hello.features;
    if (destination->control) /* a snapshot's writer is not there to hear it */
        link_post(destination->control, WIRE_HELLO, &hello);
    else
        wire_message_clear(WIRE_HELLO, &hello);
    pthread_mutex_lock(&destination->lock);
    destination->status.migrations++;
    memcpy(destination->status.migration_id, destination->id, WIRE_ID_BYTES);
    pthread_mutex_unlock(&destination->lock);
}

static void compare_ram(struct gw_destination *destination, struct verdict *verdict)
{
    const struct wire_ram_map *map = &destination->ram_map;

    destination->n_blocks = map->n_blocks;
    destination->blocks = g_new0(struct gw_ram_block *, map->n_blocks + 1);
    destination->suspect_words = g_new0(uint64_t *, map->n_blocks + 1);
    destination->written_words = g_new0(uint64_t *, map->n_blocks + 1);
    verdict_compare_ram(verdict, destination->vm.memory, map, destination->blocks);
    for (uint32_t i = 0; i < map->n_blocks; i++) {
        /* Memory only for blocks that are ours: bounded by our own size. */
        if (destination->blocks[i]) {
            uint64_t n_words = bitmap_n_words(destination->blocks[i]->n_pages);

            destination->suspect_words[i] = g_new0(uint64_t, n_words);
            destination->written_words[i] = g_new0(uint64_t, n_words);
        }
    }
}

/* Everything is here: compares, says the verdict. */
static void check_handshake(struct gw_destination *destination)
{
    const struct wire_hello *peer = &destination->peer;
    struct wire_schema_verdict record;
    struct verdict verdict;
    g_autofree char *text = NULL;

    if (!destination->has_peer || !destination->has_schema || !destination->has_ram_map)
        return;
    verdict_init(&verdict);
    verdict_compare_features(&verdict, peer->required, destination->features);
    compare_ram(destination, &verdict);
    destination->plan =
        gw_state_plan_new(g_steal_pointer(&destination->schema), destination->vm.registry);
    verdict_compare_schema(&verdict, destination->plan);
    record = verdict_record(&verdict);
    g_ptr_array_add(verdict.refusals, NULL);
    text = g_strjoinv("\n", (char **)verdict.refusals->pdata);
    verdict_clear(&verdict);
    if (!record.is_accepted) {
        destination->has_told_peer = true;
        if (destination->control)
            link_post(destination->control, WIRE_SCHEMA_VERDICT, &record);
        else
            wire_message_clear(WIRE_SCHEMA_VERDICT, &record);
        destination_fail(destination, DESTINATION_EV_FAILED, GW_SIDE_DESTINATION, GW_ERROR_REFUSED,
                         text);
        return;
    }
    destination->features &= peer->features;
    destination_share_accept(destination);
    /* The verdict itself is sent by RECEIVE, when the memory is ready. */
    destination->verdict = record;
    destination_dispatch(destination, DESTINATION_EV_ACCEPTED);
}

void destination_receive(struct gw_destination *destination)
{
    g_autoptr(GError) error = NULL;
    struct wire_rehearsal_report report;

    if (!destination->share.is_shared && !destination_prepare_memory(destination, &error)) {
        wire_message_clear(WIRE_SCHEMA_VERDICT, &destination->verdict);
        destination_fail_error(destination, error);
        return;
    }
    if (!destination->share.is_shared)
        destination_plan_huge(destination);
    if (destination->features >> WIRE_FEATURE_RESUME & 1)
        destination->received = gw_page_set_new(destination->vm.memory);
    if (!destination->control) {
        wire_message_clear(WIRE_SCHEMA_VERDICT, &destination->verdict);
        __atomic_store_n(&destination->is_receiving, 1, __ATOMIC_RELEASE);
        return;
    }
    report = destination_rehearse(destination);
    __atomic_store_n(&destination->is_receiving, 1, __ATOMIC_RELEASE);
    wire_stream_set_phase(link_stream(destination->control),
                          (enum wire_phase_set)(WIRE_IN_SETUP | WIRE_IN_ROUNDS));
    link_post(destination->control, WIRE_SCHEMA_VERDICT, &destination->verdict);
    link_post(destination->control, WIRE_REHEARSAL_REPORT, &report);
}

void destination_on_hello(struct gw_destination *destination, struct mail *mail)
{
    uint64_t peer_silence_ns;

    if (destination->has_peer || destination_state(destination) != GW_DESTINATION_HANDSHAKE) {
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "the source said HELLO twice");
        return;
    }
    destination->peer = mail->message.hello;
    mail->message.hello = (struct wire_hello){0};
    destination->has_peer = true;
    destination->n_lanes = MIN(destination->peer.page_channels, destination->max_lanes);
    peer_silence_ns = (uint64_t)destination->peer.silence_limit_ms * NS_PER_MS;
    /* The page channels are opened later, with the same interval. */
    if (peer_silence_ns && peer_silence_ns / 4 < destination->keepalive_ns)
        destination->keepalive_ns = MAX(peer_silence_ns / 4, NS_PER_MS);
    if (destination->control)
        link_set_keepalive(destination->control, destination->keepalive_ns);
    pthread_mutex_lock(&destination->lock);
    destination->status.n_channels = destination->n_lanes;
    pthread_mutex_unlock(&destination->lock);
    check_handshake(destination);
}

void destination_on_schema(struct gw_destination *destination, struct mail *mail)
{
    g_autoptr(GError) error = NULL;
    gsize n_bytes;
    const uint8_t *bytes = g_bytes_get_data(mail->section.data, &n_bytes);

    if (destination->has_schema || destination_state(destination) != GW_DESTINATION_HANDSHAKE) {
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "the source sent its schema twice");
        return;
    }
    destination->schema = gw_schema_parse(bytes, n_bytes, &error);
    if (!destination->schema) {
        destination_fail(destination, DESTINATION_EV_FAILED, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                         error->message);
        return;
    }
    destination->has_schema = true;
    check_handshake(destination);
}

void destination_on_ram_map(struct gw_destination *destination, struct mail *mail)
{
    if (destination->has_ram_map || destination_state(destination) != GW_DESTINATION_HANDSHAKE) {
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "the source sent its RAM map twice");
        return;
    }
    destination->ram_map = mail->message.ram_map;
    mail->message.ram_map = (struct wire_ram_map){0};
    destination->has_ram_map = true;
    check_handshake(destination);
}

/* ---- clocks ------------------------------------------------------------------------------------
 */

void destination_ping(struct gw_destination *destination)
{
    struct wire_clock_ping ping = {.id = ++destination->ping_id,
                                   .monotonic_ns = clock_mono_ns(),
                                   .realtime_ns = clock_real_ns()};

    link_post(destination->control, WIRE_CLOCK_PING, &ping);
    destination->next_ping_ns =
        clock_mono_ns() + (destination->ping_id < 8 ? 2 * NS_PER_MS : DESTINATION_PING_NS);
}

void destination_on_pong(struct gw_destination *destination, const struct mail *mail)
{
    const struct wire_clock_pong *pong = &mail->message.clock_pong;
    uint64_t error_ns;

    /* PEER: the copied time is ours only if it lies in our past. */
    if (pong->ping_monotonic_ns < destination->start_ns ||
        pong->ping_monotonic_ns > mail->arrived_ns)
        return;
    clock_offset_sample(&destination->clock, pong->ping_monotonic_ns, pong->received_monotonic_ns,
                        pong->sent_monotonic_ns, mail->arrived_ns);
    error_ns = (mail->arrived_ns - pong->ping_monotonic_ns) / 2;
    if (error_ns >= destination->best_ping_error_ns)
        return;
    destination->best_ping_error_ns = error_ns;
    /* The answer was sent at the source's realtime; on average error_ns before it came here. */
    destination->realtime_offset_ns =
        (int64_t)(pong->sent_realtime_ns + error_ns) -
        (int64_t)(clock_real_ns() - (clock_mono_ns() - mail->arrived_ns));
}
