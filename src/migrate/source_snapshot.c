/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: the same stream, in one direction. The control thread writes what stands before and
 * after the pages, a snapshot_writer the pages.
 *
 * The guest is stopped from the first byte to the last; or, live, only while its device state is
 * taken: the dirty log and the write protection are set up while it runs, so that what the instant
 * itself costs depends on what the guest wrote meanwhile and not on its size.
 */
#include "migrate/source.h"

#include <string.h>

#include "base/cleanup.h"
#include "migrate/snapshot_writer.h"

/* What belongs to one snapshot. */
struct saving {
    struct gw_source *source;
    struct wire_stream *stream;
    struct snapshot_writer *writer;
    bool is_armed;     /* live, and it works here */
    GPtrArray *states; /* GByteArray, by instance */
    struct wire_switchover_begin switchover;
};

static struct wire_stream *snapshot_open(struct gw_source *source, GError **error)
{
    /* A limit makes the channel a filter, which takes the bytes in order only. */
    struct gw_channel_options options = {.limit = source->params.max_bandwidth_bytes ? source->limit
                                                                                     : NULL,
                                         .framing = wire_framing(),
                                         .wake_fd = source->wake_fd};
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

static bool send_head(struct saving *saving, GError **error)
{
    struct gw_source *source = saving->source;
    struct wire_stream *stream = saving->stream;
    g_autoptr(GByteArray) schema_bytes = NULL;
    struct gw_schema *schema = gw_schema_new(source->vm.registry);
    struct wire_hello hello = source_hello(source);
    struct wire_ram_map map;
    bool is_sent;

    schema_bytes = gw_schema_encode(schema);
    gw_schema_free(schema);
    map = source_ram_map(source);
    is_sent = wire_stream_open(stream, GW_NO_DEADLINE, error) &&
              wire_send(stream, WIRE_HELLO, &hello, GW_NO_DEADLINE, error) &&
              wire_send_section(stream, WIRE_SECTION_SCHEMA, "schema", 0, 1, 0, schema_bytes->data,
                                schema_bytes->len, GW_NO_DEADLINE, error) &&
              wire_send(stream, WIRE_RAM_MAP, &map, GW_NO_DEADLINE, error);
    wire_message_clear(WIRE_HELLO, &hello);
    wire_message_clear(WIRE_RAM_MAP, &map);
    return is_sent;
}

/* ---- the device state -------------------------------------------------------------------------
 */

static bool take_state(struct saving *saving, GError **error)
{
    const struct gw_state_registry *registry = saving->source->vm.registry;

    ledger_next(saving->source->ledger, GW_SIDE_SOURCE, "save", clock_mono_ns());
    for (uint32_t i = 0; i < gw_state_registry_n(registry); i++) {
        GByteArray *data = g_byte_array_new();

        g_ptr_array_add(saving->states, data);
        if (!gw_state_save(registry, i, data, error)) {
            g_prefix_error(error, "saving %s: ", gw_state_registry_id(registry, i));
            return false;
        }
    }
    return true;
}

static bool send_state(struct saving *saving, GError **error)
{
    const struct gw_state_registry *registry = saving->source->vm.registry;

    if (!wire_send(saving->stream, WIRE_SWITCHOVER_BEGIN, &saving->switchover, GW_NO_DEADLINE,
                   error))
        return false;
    wire_state_begin(saving->stream, 1);
    for (uint32_t i = 0; i < gw_state_registry_n(registry); i++) {
        const GByteArray *data = g_ptr_array_index(saving->states, i);

        if (!wire_send_section(saving->stream, WIRE_SECTION_DEVICE,
                               gw_state_registry_id(registry, i), i,
                               gw_state_registry_desc(registry, i)->version, 1, data->data,
                               data->len, GW_NO_DEADLINE, error))
            return false;
    }
    return wire_send_state_end(saving->stream, NULL, GW_NO_DEADLINE, error);
}

/* ---- live -------------------------------------------------------------------------------------
 */

static void note(struct gw_source *source, const char *text)
{
    gw_lock_guard(&source->lock);

    g_strlcpy(source->status.note, text, sizeof source->status.note);
}

/* Everything that can be done while the guest runs. */
static bool prepare_live(struct saving *saving, GError **error)
{
    struct gw_source *source = saving->source;
    g_autoptr(GError) why = NULL;

    if (!source_log_start(source, error) || !send_head(saving, error))
        return false;
    saving->is_armed = snapshot_writer_arm(saving->writer, source->pending, &why);
    if (!saving->is_armed && why->code != GW_ERROR_UNSUPPORTED) {
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    if (!saving->is_armed) {
        g_autofree char *text =
            g_strdup_printf("not live, the guest stood still while it was saved: %s", why->message);

        note(source, text);
    }
    return true;
}

/* The guest has just stopped: its memory is what the snapshot holds. */
static bool fix_instant(struct saving *saving, GError **error)
{
    struct gw_source *source = saving->source;
    struct gw_page_set *dirty = gw_page_set_new(source->vm.memory);
    bool is_fixed;

    ledger_next(source->ledger, GW_SIDE_SOURCE, "last dirty fetch", clock_mono_ns());
    is_fixed = gw_memory_log_collect(source->vm.memory, dirty, NULL, error);
    if (is_fixed)
        gw_page_set_or(source->pending, dirty);
    if (is_fixed && saving->is_armed) {
        ledger_next(source->ledger, GW_SIDE_SOURCE, "protect", clock_mono_ns());
        is_fixed = snapshot_writer_instant(saving->writer, source->pending, dirty, error);
    }
    gw_page_set_free(dirty);
    return is_fixed;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

static bool send_pages(struct saving *saving, GError **error)
{
    struct gw_source *source = saving->source;
    struct wire_round_begin begin = {
        .round = 1, .flags = WIRE_ROUND_GUEST_STOPPED, .n_pages = source->pending->n_set};
    struct snapshot_counters counters = {0};
    bool is_sent;

    pthread_mutex_lock(&source->lock);
    source->status.round = 1;
    source->status.is_live = saving->is_armed;
    source->status.remaining_bytes = begin.n_pages * GW_PAGE_SIZE;
    source->round_start_ns = clock_mono_ns();
    source->saving = saving->stream;
    pthread_mutex_unlock(&source->lock);
    wire_stream_set_phase(saving->stream, WIRE_IN_BLACKOUT);
    if (!saving->is_armed)
        ledger_next(source->ledger, GW_SIDE_SOURCE, "pages", source->round_start_ns);
    is_sent = snapshot_writer_run(saving->writer, &begin, source->pending, &counters, error);
    pthread_mutex_lock(&source->lock);
    source->status.pages_plain = counters.pages_plain;
    source->status.pages_zero = counters.pages_zero;
    source->status.chunks_caught = counters.n_caught;
    source->status.pages_skipped = source->status.ram_bytes / GW_PAGE_SIZE - source->pending->n_set;
    pthread_mutex_unlock(&source->lock);
    return is_sent;
}

static bool send_tail(struct saving *saving, GError **error)
{
    struct gw_source *source = saving->source;
    struct wire_counters sent;

    if (!saving->is_armed)
        ledger_next(source->ledger, GW_SIDE_SOURCE, "finish", clock_mono_ns());
    if (!send_state(saving, error) || !wire_snapshot_send_index(saving->stream, error) ||
        !wire_send_end(saving->stream, GW_NO_DEADLINE, error) ||
        !gw_channel_finish(wire_stream_channel(saving->stream), GW_NO_DEADLINE, error))
        return false;
    wire_stream_counters(saving->stream, &sent);
    pthread_mutex_lock(&source->lock);
    source->status.remaining_bytes = 0;
    source->status.bytes_sent = sent.bytes_out;
    source->status.page_bytes_sent = sent.bytes_out;
    pthread_mutex_unlock(&source->lock);
    return true;
}

static bool save_all(struct saving *saving, GError **error)
{
    struct gw_source *source = saving->source;
    bool is_live = source->params.is_live;

    if ((is_live && !prepare_live(saving, error)) || !source_stop_guest(source, error))
        return false;
    saving->switchover.monotonic_ns = clock_mono_ns();
    saving->switchover.realtime_ns = clock_real_ns();
    if (is_live && !fix_instant(saving, error))
        return false;
    /* A guest that runs on will write to its disks: that they are durable now would say nothing. */
    if (!saving->is_armed && !source_flush(source, error))
        return false;
    if (!take_state(saving, error))
        return false;
    source_log_stop(source);
    if (saving->is_armed) {
        source_resume_guest(source, "");
    } else if (!is_live) {
        ledger_next(source->ledger, GW_SIDE_SOURCE, "open", clock_mono_ns());
        if (!send_head(saving, error))
            return false;
    }
    return send_pages(saving, error) && send_tail(saving, error);
}

static bool writer_wants_stop(void *opaque)
{
    return source_wants_stop(opaque);
}

void source_save(struct gw_source *source)
{
    g_autoptr(GError) error = NULL;
    struct saving saving = {
        .source = source,
        .states = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref),
        .switchover = {.attempt = 1,
                       .round = 1,
                       .was_running =
                           source->vm.is_running ? source->vm.is_running(source->vm.opaque) : true},
    };
    bool is_saved = false;

    source->pending = gw_page_set_new(source->vm.memory);
    saving.stream = snapshot_open(source, &error);
    if (saving.stream) {
        saving.writer =
            snapshot_writer_new(&(struct snapshot_writer_config){.memory = source->vm.memory,
                                                                 .stream = saving.stream,
                                                                 .wants_stop = writer_wants_stop,
                                                                 .opaque = source});
        is_saved = save_all(&saving, &error);
    }
    source_set_opening(source, NULL);
    pthread_mutex_lock(&source->lock);
    source->saving = NULL;
    pthread_mutex_unlock(&source->lock);
    snapshot_writer_free(saving.writer);
    g_ptr_array_unref(saving.states);
    if (saving.stream)
        wire_stream_free(saving.stream);
    if (is_saved)
        source_dispatch(source, SOURCE_EV_SAVED);
    else
        source_fail_error(source, error);
}
