/* SPDX-License-Identifier: MIT */
/*
 * The verifying reader behind `godwit inspect`.
 *
 * Order in a snapshot (docs/wire-format.md section 10): each stage names the records that may
 * come in it and the stage they lead to; see transitions[].
 */
#include "wire/inspect.h"

#include <inttypes.h>

#include "wire/inspect_places.h"
#include "wire/preamble.h"
#include "wire/rounds.h"

/* Those whose records and encodings are verified here. */
#define UNDERSTOOD_FEATURES                                                                        \
    (UINT64_C(1) << WIRE_FEATURE_MULTI_CHANNEL | UINT64_C(1) << WIRE_FEATURE_RESEND |              \
     UINT64_C(1) << WIRE_FEATURE_REHEARSAL | UINT64_C(1) << WIRE_FEATURE_LEDGER)

enum stage {
    AT_START = 1,
    AFTER_HELLO = 2,  /* schema section, then RAM_MAP */
    AFTER_MAP = 4,    /* rounds */
    AFTER_SWITCH = 8, /* more rounds, device sections */
    AFTER_STATE = 16, /* INDEX, LOCATOR, END */
    AFTER_INDEX = 32, /* END */
    AT_END = 64,
};

/* A type that is not listed may not occur in a snapshot. to 0: the stage stays. */
static const struct {
    uint16_t type;
    uint8_t from;
    uint8_t to;
} transitions[] = {
    {WIRE_HELLO, AT_START, AFTER_HELLO},
    {WIRE_SECTION_BEGIN, AFTER_HELLO | AFTER_SWITCH, 0},
    {WIRE_SECTION_PART, AFTER_HELLO | AFTER_SWITCH, 0},
    {WIRE_SECTION_END, AFTER_HELLO | AFTER_SWITCH, 0},
    {WIRE_RAM_MAP, AFTER_HELLO, AFTER_MAP},
    {WIRE_ROUND_BEGIN, AFTER_MAP | AFTER_SWITCH, 0},
    {WIRE_PAGES, AFTER_MAP | AFTER_SWITCH, 0},
    {WIRE_ROUND_END, AFTER_MAP | AFTER_SWITCH, 0},
    {WIRE_SWITCHOVER_BEGIN, AFTER_MAP, AFTER_SWITCH},
    {WIRE_STATE_END, AFTER_SWITCH, AFTER_STATE},
    {WIRE_PAD, AFTER_HELLO | AFTER_MAP | AFTER_SWITCH, 0},
    {WIRE_INDEX, AFTER_STATE, 0},
    {WIRE_LOCATOR, AFTER_STATE, AFTER_INDEX},
    {WIRE_END, AFTER_STATE | AFTER_INDEX, AT_END},
};

struct inspection {
    struct wire_stream *stream;
    const struct wire_inspect_visitor *visitor;
    struct wire_inspect_report *report;
    bool is_snapshot;
    enum stage stage;
    struct wire_section_reader *sections;
    struct wire_round_check round;
    struct wire_pages_in packet;
    GHashTable *suspects; /* of uint64_t: block << 56 | page (pages fit in 32 bits) */
    uint8_t *scratch;     /* bulk of a packet */
    bool has_schema;
    struct inspect_places places;
};

static bool check_stage(struct inspection *self, const struct wire_record *record, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(transitions); i++) {
        if (transitions[i].type != record->type->type) {
            continue;
        }
        if (!(transitions[i].from & self->stage)) {
            break;
        }
        if (transitions[i].to != 0) {
            self->stage = (enum stage)transitions[i].to;
        }
        return true;
    }
    wire_record_error(record, GW_ERROR_CORRUPT, error, "out of order in a snapshot");
    return false;
}

/* Without a map (a page channel's record) any block may be as large as the format allows. */
static uint64_t block_pages(void *opaque, uint32_t block)
{
    const struct inspection *self = opaque;
    const struct wire_ram_map *map = &self->report->ram_map;

    if (!self->report->has_ram_map) {
        return self->is_snapshot ? 0 : UINT32_MAX;
    }
    return block < map->n_blocks ? map->blocks[block].size_bytes / WIRE_PAGE_BYTES : 0;
}

static bool note_page(struct inspection *self, const struct wire_record *record, uint64_t page,
                      bool is_good, GError **error)
{
    uint64_t key = (uint64_t)self->packet.block << 56 | page;

    if (is_good) {
        g_hash_table_remove(self->suspects, &key);
        return true;
    }
    if (self->is_snapshot && (self->round.flags & WIRE_ROUND_GUEST_STOPPED)) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "block %" PRIu32 " page %" PRIu64 " does not match its digest",
                          self->packet.block, page);
        return false;
    }
    g_hash_table_add(self->suspects, g_memdup2(&key, sizeof(key)));
    return true;
}

static bool inspect_pages(struct inspection *self, const struct wire_record *record, GError **error)
{
    struct wire_pages_in *packet = &self->packet;
    bool is_urgent = self->report->identity.role == WIRE_ROLE_URGENT;

    if (!wire_pages_parse(record, packet, block_pages, self, UINT64_MAX, error) ||
        (!is_urgent && !wire_round_add(&self->round, record, packet, error))) {
        return false;
    }
    inspect_places_pages(&self->places, record, packet);
    struct iovec iov = {self->scratch, record->bulk_bytes};
    if (record->bulk_bytes > 0 &&
        !wire_receive_bulk(self->stream, &iov, 1, GW_NO_DEADLINE, error)) {
        return false;
    }
    const uint8_t *data = self->scratch;
    for (uint32_t i = 0; i < packet->n_runs; i++) {
        const struct wire_page_run *run = &packet->runs[i];
        for (uint32_t k = 0; k < run->n_pages; k++) {
            /* Encoded runs cannot be verified without their bases; the bytes are passed over. */
            bool is_good = run->encoding != WIRE_PAGE_PLAIN ||
                           wire_page_digest(data + k * (size_t)WIRE_PAGE_BYTES) ==
                               packet->digests[run->first_digest + k];
            if (!note_page(self, record, run->first_page + k, is_good, error)) {
                return false;
            }
        }
        data += run->data_bytes;
    }
    self->report->n_pages += packet->n_pages;
    self->report->n_zero_pages += packet->n_zero;
    wire_count(&self->stream->pages_in, packet->n_pages);
    return true;
}

static bool inspect_section(struct inspection *self, const struct wire_record *record,
                            GError **error)
{
    struct wire_section section;
    bool is_whole = false;

    if (!wire_section_feed(self->sections, record, &section, &is_whole, GW_NO_DEADLINE, error)) {
        return false;
    }
    if (!is_whole) {
        return true;
    }
    bool is_schema = section.kind == WIRE_SECTION_SCHEMA;
    bool is_right =
        !self->is_snapshot || (self->stage == AFTER_HELLO ? is_schema && !self->has_schema
                                                          : section.kind == WIRE_SECTION_DEVICE);
    if (!is_right) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "section %s: field kind: %d is out of order in a snapshot", section.name,
                          (int)section.kind);
    } else {
        self->has_schema |= is_schema;
        self->report->n_sections++;
        if (self->visitor != NULL && self->visitor->on_section != NULL) {
            self->visitor->on_section(self->visitor->opaque, &section);
        }
    }
    wire_section_clear(&section);
    return is_right;
}

static bool inspect_state_end(struct inspection *self, const struct wire_record *record,
                              GError **error)
{
    struct wire_state_end end;

    if (!wire_decode(record, &end, error) ||
        !wire_section_check_state_end(self->sections, record, &end, error)) {
        return false;
    }
    wire_section_reset(self->sections);
    return true;
}

static bool inspect_map(struct inspection *self, const struct wire_record *record, GError **error)
{
    if (self->report->has_ram_map || (self->is_snapshot && !self->has_schema)) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "second, or before the schema");
        return false;
    }
    self->report->has_ram_map = wire_decode(record, &self->report->ram_map, error);
    return self->report->has_ram_map;
}

static bool inspect_hello(struct inspection *self, const struct wire_record *record, GError **error)
{
    if (self->report->has_hello) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "second");
        return false;
    }
    self->report->has_hello = wire_decode(record, &self->report->hello, error);
    if (!self->report->has_hello) {
        return false;
    }
    uint64_t unknown = self->report->hello.required & ~UNDERSTOOD_FEATURES;
    if (self->is_snapshot && unknown != 0) {
        const char *name = wire_feature_name((unsigned)__builtin_ctzll(unknown));
        wire_record_error(record, GW_ERROR_REFUSED, error,
                          "field required: feature %s (bit %d) is not understood",
                          name != NULL ? name : "unknown", __builtin_ctzll(unknown));
        return false;
    }
    return true;
}

static bool inspect_end(struct inspection *self, const struct wire_record *record, GError **error)
{
    if (g_hash_table_size(self->suspects) > 0) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "%u pages do not match their digests",
                          g_hash_table_size(self->suspects));
        return false;
    }
    return wire_check_end(self->stream, record, GW_NO_DEADLINE, error);
}

/* Any other record: its fields. */
static bool inspect_message(const struct wire_record *record, GError **error)
{
    g_autofree void *message = g_malloc0(record->type->message->size_bytes);

    if (!wire_decode_sized(record, message, record->type->message->size_bytes, error)) {
        return false;
    }
    wire_message_clear((enum wire_type)record->type->type, message);
    return true;
}

static bool inspect_record(struct inspection *self, const struct wire_record *record,
                           GError **error)
{
    if (self->is_snapshot && !check_stage(self, record, error)) {
        return false;
    }
    if (self->is_snapshot && self->round.is_open && record->type->type != WIRE_PAGES &&
        record->type->type != WIRE_PAD && record->type->type != WIRE_ROUND_END) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "within round %" PRIu32,
                          self->round.round);
        return false;
    }
    switch (record->type->type) {
    case WIRE_HELLO:
        return inspect_hello(self, record, error);
    case WIRE_RAM_MAP:
        return inspect_map(self, record, error);
    case WIRE_SECTION_BEGIN:
    case WIRE_SECTION_PART:
    case WIRE_SECTION_END:
        return inspect_section(self, record, error);
    case WIRE_STATE_END:
        return inspect_state_end(self, record, error);
    case WIRE_SWITCHOVER_CANCEL:
        wire_section_reset(self->sections);
        return inspect_message(record, error);
    case WIRE_ROUND_BEGIN:
        self->report->n_rounds++;
        inspect_places_round_begin(&self->places);
        return wire_round_open(&self->round, record, NULL, error);
    case WIRE_PAGES:
        return inspect_pages(self, record, error);
    case WIRE_PAD:
        return inspect_places_pad(&self->places, record, error);
    case WIRE_INDEX:
    case WIRE_LOCATOR:
        return inspect_places_index(&self->places, record, error);
    case WIRE_ROUND_END:
        inspect_places_round_end(&self->places, record);
        return wire_round_close(&self->round, record, NULL, error);
    case WIRE_END:
        return inspect_end(self, record, error);
    default:
        return inspect_message(record, error);
    }
}

static bool inspect_records(struct inspection *self, GError **error)
{
    struct wire_record record;
    uint16_t last = self->is_snapshot ? WIRE_END : WIRE_GOODBYE;

    for (;;) {
        if (!wire_receive(self->stream, &record, GW_NO_DEADLINE, error)) {
            return false;
        }
        if (self->visitor != NULL && self->visitor->on_record != NULL) {
            self->visitor->on_record(self->visitor->opaque, &record);
        }
        if (!inspect_record(self, &record, error)) {
            return false;
        }
        self->report->n_records = wire_counted(&self->stream->records_in);
        self->report->n_bytes = wire_counted(&self->stream->bytes_in);
        self->report->n_suspect = g_hash_table_size(self->suspects);
        if (record.type->type == last) {
            self->report->is_complete = true;
            return true;
        }
    }
}

/* Either side may have sent what was recorded. */
static struct wire_stream *open_recorded(struct gw_channel *channel,
                                         struct wire_inspect_report *report, GError **error)
{
    uint8_t bytes[WIRE_PREAMBLE_BYTES];
    struct wire_preamble peer;

    if (!gw_channel_read_full(channel, bytes, sizeof(bytes), GW_NO_DEADLINE, error)) {
        g_prefix_error(error, "preamble: ");
        return NULL;
    }
    report->sender = wire_load_u16(bytes + 32) == WIRE_SIDE_DESTINATION ? WIRE_SIDE_DESTINATION
                                                                        : WIRE_SIDE_SOURCE;
    if (!wire_preamble_parse(bytes, gw_channel_name(channel), report->sender, &peer, error)) {
        return NULL;
    }
    if (peer.identity.role == WIRE_ROLE_SNAPSHOT && report->sender != WIRE_SIDE_SOURCE) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "%s: preamble: wrong direction",
                    gw_channel_name(channel));
        return NULL;
    }
    report->identity = peer.identity;
    enum wire_side reader =
        report->sender == WIRE_SIDE_SOURCE ? WIRE_SIDE_DESTINATION : WIRE_SIDE_SOURCE;
    struct wire_stream *stream = wire_stream_new(channel, &peer.identity, reader);
    stream->seed_in = peer.seed;
    stream->peer_minor = peer.minor;
    wire_count(&stream->bytes_in, sizeof(bytes));
    wire_stream_set_phase(stream, WIRE_IN_ANY);
    return stream;
}

bool wire_inspect(struct gw_channel *channel, const struct wire_inspect_visitor *visitor,
                  struct wire_inspect_report *report, GError **error)
{
    memset(report, 0, sizeof(*report));
    struct wire_stream *stream = open_recorded(channel, report, error);
    if (stream == NULL) {
        gw_channel_free(channel);
        return false;
    }
    struct inspection *self = g_new0(struct inspection, 1);
    self->stream = stream;
    self->visitor = visitor;
    self->report = report;
    self->is_snapshot = report->identity.role == WIRE_ROLE_SNAPSHOT;
    self->stage = AT_START;
    self->sections = wire_section_reader_new();
    self->suspects = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    self->scratch = g_malloc(WIRE_MAX_BULK);
    bool is_ok = inspect_records(self, error);
    inspect_places_clear(&self->places);
    g_free(self->scratch);
    g_hash_table_unref(self->suspects);
    wire_section_reader_free(self->sections);
    g_free(self);
    wire_stream_free(stream);
    return is_ok;
}

void wire_inspect_report_clear(struct wire_inspect_report *report)
{
    if (report->has_hello) {
        wire_message_clear(WIRE_HELLO, &report->hello);
    }
    if (report->has_ram_map) {
        wire_message_clear(WIRE_RAM_MAP, &report->ram_map);
    }
    memset(report, 0, sizeof(*report));
}
