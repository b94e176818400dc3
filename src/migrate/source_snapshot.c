/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: the same stream, in one direction, with the guest stopped from the first to the last
 * byte. The control thread writes everything itself; cancelling wakes the channel.
 */
#include "migrate/source.h"

#include <string.h>

static struct wire_stream *snapshot_open(struct gw_source *source, GError **error)
{
    struct gw_channel_options options = {
        .limit = source->limit, .framing = wire_framing(), .wake_fd = source->wake_fd};
    struct wire_identity identity = {.role = WIRE_ROLE_SNAPSHOT};
    struct gw_channel *channel = gw_channel_connect(source->uri, &options, error);

    if (!channel)
        return NULL;
    if (source->params.wrap) {
        channel = source->params.wrap(source->params.wrap_opaque, channel, GW_ROLE_HINT_CONTROL, 0);
        if (!channel) {
            g_set_error_literal(error, GW_ERROR, GW_ERROR_REFUSED, "the channel was refused");
            return NULL;
        }
    }
    memcpy(identity.migration_id, source->id, sizeof source->id);
    source_set_opening(source, channel);
    return wire_stream_new(channel, &identity, WIRE_SIDE_SOURCE);
}

static bool snapshot_head(struct gw_source *source, struct wire_stream *stream, GError **error)
{
    g_autoptr(GByteArray) schema_bytes = NULL;
    struct gw_schema *schema = gw_schema_new(source->vm.registry);
    struct wire_hello hello = source_hello(source);
    struct wire_ram_map map;
    bool is_sent;

    schema_bytes = gw_schema_encode(schema);
    gw_schema_free(schema);
    map = source_ram_map(source);
    is_sent = wire_send(stream, WIRE_HELLO, &hello, GW_NO_DEADLINE, error) &&
              wire_send_section(stream, WIRE_SECTION_SCHEMA, "schema", 0, 1, 0, schema_bytes->data,
                                schema_bytes->len, GW_NO_DEADLINE, error) &&
              wire_send(stream, WIRE_RAM_MAP, &map, GW_NO_DEADLINE, error);
    wire_message_clear(WIRE_HELLO, &hello);
    wire_message_clear(WIRE_RAM_MAP, &map);
    return is_sent;
}

static bool snapshot_state(struct gw_source *source, struct wire_stream *stream, GError **error)
{
    const struct gw_state_registry *registry = source->vm.registry;

    ledger_next(source->ledger, GW_SIDE_SOURCE, "save", clock_mono_ns());
    wire_state_begin(stream, 1);
    for (uint32_t i = 0; i < gw_state_registry_n(registry); i++) {
        const char *id = gw_state_registry_id(registry, i);
        g_autoptr(GByteArray) data = g_byte_array_new();

        if (!gw_state_save(registry, i, data, error)) {
            g_prefix_error(error, "saving %s: ", id);
            return false;
        }
        if (!wire_send_section(stream, WIRE_SECTION_DEVICE, id, i,
                               gw_state_registry_desc(registry, i)->version, 1, data->data,
                               data->len, GW_NO_DEADLINE, error))
            return false;
    }
    return wire_send_state_end(stream, NULL, GW_NO_DEADLINE, error);
}

static bool snapshot_write(struct gw_source *source, struct wire_stream *stream, bool was_running,
                           GError **error)
{
    struct wire_round_begin begin = {.round = 1, .flags = WIRE_ROUND_GUEST_STOPPED};
    struct wire_switchover_begin switchover = {.attempt = 1,
                                               .round = 1,
                                               .was_running = was_running,
                                               .monotonic_ns = clock_mono_ns(),
                                               .realtime_ns = clock_real_ns()};
    struct lanes_counters counters = {0};
    struct wire_counters sent;

    ledger_next(source->ledger, GW_SIDE_SOURCE, "open", clock_mono_ns());
    if (!wire_stream_open(stream, GW_NO_DEADLINE, error) || !snapshot_head(source, stream, error))
        return false;
    begin.n_pages = source->pending->n_set;
    pthread_mutex_lock(&source->lock);
    source->status.round = 1;
    source->status.remaining_bytes = begin.n_pages * GW_PAGE_SIZE;
    source->round_start_ns = clock_mono_ns();
    source->saving = stream;
    pthread_mutex_unlock(&source->lock);
    wire_stream_set_phase(stream, WIRE_IN_BLACKOUT);
    ledger_next(source->ledger, GW_SIDE_SOURCE, "pages", source->round_start_ns);
    if (!lanes_send_round_here(source->vm.memory, stream, &begin, source->pending, &counters,
                               error) ||
        !wire_send(stream, WIRE_SWITCHOVER_BEGIN, &switchover, GW_NO_DEADLINE, error) ||
        !snapshot_state(source, stream, error) || !wire_send_end(stream, GW_NO_DEADLINE, error))
        return false;
    ledger_next(source->ledger, GW_SIDE_SOURCE, "finish", clock_mono_ns());
    if (!gw_channel_finish(wire_stream_channel(stream), GW_NO_DEADLINE, error))
        return false;
    wire_stream_counters(stream, &sent);
    pthread_mutex_lock(&source->lock);
    source->status.remaining_bytes = 0;
    source->status.pages_plain = counters.pages_plain;
    source->status.pages_zero = counters.pages_zero;
    source->status.pages_skipped = source->status.ram_bytes / GW_PAGE_SIZE - source->pending->n_set;
    source->status.bytes_sent = sent.bytes_out;
    source->status.page_bytes_sent = sent.bytes_out;
    pthread_mutex_unlock(&source->lock);
    return true;
}

void source_save(struct gw_source *source)
{
    g_autoptr(GError) error = NULL;
    struct wire_stream *stream = NULL;
    bool was_running = source->vm.is_running ? source->vm.is_running(source->vm.opaque) : true;
    bool is_saved;

    source->pending = gw_page_set_new(source->vm.memory);
    is_saved = (stream = snapshot_open(source, &error)) && source_stop_guest(source, &error) &&
               source_flush(source, &error) && snapshot_write(source, stream, was_running, &error);
    source_set_opening(source, NULL);
    pthread_mutex_lock(&source->lock);
    source->saving = NULL;
    pthread_mutex_unlock(&source->lock);
    if (stream)
        wire_stream_free(stream);
    if (is_saved)
        source_dispatch(source, SOURCE_EV_SAVED);
    else
        source_fail_error(source, error);
}
