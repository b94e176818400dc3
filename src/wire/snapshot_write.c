/* SPDX-License-Identifier: MIT */
/*
 * Writing a snapshot in place: the order of the packets in the stream is the order in which they
 * are given their places; their bytes may go to the file in any order after that.
 *
 * Locks: the stream's send_lock, for as long as it takes to digest a page table.
 */
#include "wire/snapshot.h"

#include <assert.h>

#include "wire/rounds.h"
#include "wire/stream_impl.h"

#define MAX_PAD_BYTES (WIRE_SNAPSHOT_ALIGN - 1)

/* How many bytes of PAD, header included, stand before a record of so many bytes whose bulk begins
 * aligned. 0: none is needed. */
static uint32_t pad_before(uint64_t at, uint32_t record_bytes)
{
    uint32_t gap = (uint32_t)(-(at + record_bytes) % WIRE_SNAPSHOT_ALIGN);

    return gap > 0 && gap < WIRE_HEADER_BYTES ? gap + WIRE_SNAPSHOT_ALIGN : gap;
}

bool wire_snapshot_align(struct wire_stream *stream, GError **error)
{
    static const uint8_t zeroes[MAX_PAD_BYTES];
    uint32_t gap = pad_before(wire_counted(&stream->bytes_out), 0);

    return gap == 0 || wire_send_raw(stream, WIRE_PAD, zeroes, gap - WIRE_HEADER_BYTES, NULL, 0,
                                     GW_NO_DEADLINE, error);
}

static void enter_in_index(struct wire_stream *stream, const struct wire_index_entry *entry)
{
    if (stream->index == NULL) {
        stream->index = g_array_new(FALSE, FALSE, sizeof(struct wire_index_entry));
    }
    g_array_append_vals(stream->index, entry, 1);
}

bool wire_pages_place(struct wire_pages_out *packet, struct wire_stream *stream, uint8_t *head,
                      struct wire_place *place, GError **error)
{
    uint8_t table[WIRE_PAGES_MAX_PAYLOAD];
    struct wire_index_entry entry = {0};
    uint32_t table_bytes = wire_pages_table(packet, table, &entry);
    bool is_ok;

    assert(stream->identity.role == WIRE_ROLE_SNAPSHOT && table_bytes > 0);
    pthread_mutex_lock(&stream->send_lock);
    is_ok = !stream->is_out_broken;
    if (is_ok) {
        uint64_t at = wire_counted(&stream->bytes_out);
        uint32_t pad_bytes = pad_before(at, WIRE_HEADER_BYTES + table_bytes);
        assert(pad_bytes + WIRE_HEADER_BYTES + table_bytes <= WIRE_SNAPSHOT_HEAD_SIZE);
        if (stream->index == NULL) {
            stream->locator.pages_offset = at;
            stream->locator.pages_sequence = stream->next_out;
        }
        if (pad_bytes > 0) {
            memset(head + WIRE_HEADER_BYTES, 0, pad_bytes - WIRE_HEADER_BYTES);
            wire_build_record(stream, WIRE_PAD, head, pad_bytes - WIRE_HEADER_BYTES, 0);
        }
        entry.offset = at + pad_bytes;
        entry.sequence = stream->next_out;
        entry.head_bytes = WIRE_HEADER_BYTES + table_bytes;
        memcpy(head + pad_bytes + WIRE_HEADER_BYTES, table, table_bytes);
        wire_build_record(stream, WIRE_PAGES, head + pad_bytes, table_bytes, entry.bulk_bytes);
        enter_in_index(stream, &entry);
        *place = (struct wire_place){.offset = at,
                                     .head_bytes = pad_bytes + entry.head_bytes,
                                     .bulk_bytes = entry.bulk_bytes};
        wire_count(&stream->bytes_out, (uint64_t)place->head_bytes + place->bulk_bytes);
        wire_count(&stream->pages_out, wire_pages_count(packet));
    } else {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: writing failed before", stream->label);
    }
    pthread_mutex_unlock(&stream->send_lock);
    return is_ok;
}

bool wire_snapshot_end_round(struct wire_stream *stream, const struct wire_round_end *end,
                             GError **error)
{
    stream->locator.tail_offset = wire_counted(&stream->bytes_out);
    stream->locator.tail_sequence = stream->next_out;
    stream->locator.n_pages = end->n_pages;
    if (stream->index == NULL) {
        stream->locator.pages_offset = stream->locator.tail_offset;
        stream->locator.pages_sequence = stream->locator.tail_sequence;
    }
    return wire_send(stream, WIRE_ROUND_END, end, GW_NO_DEADLINE, error);
}

bool wire_snapshot_send_index(struct wire_stream *stream, GError **error)
{
    struct wire_locator *locator = &stream->locator;
    guint n_entries = stream->index ? stream->index->len : 0;

    locator->index_offset = wire_counted(&stream->bytes_out);
    locator->index_sequence = stream->next_out;
    locator->n_entries = n_entries;
    for (guint i = 0; i < n_entries; i += WIRE_MAX_INDEX_ENTRIES) {
        struct wire_index index = {.n_entries = MIN(WIRE_MAX_INDEX_ENTRIES, n_entries - i),
                                   .entries =
                                       &g_array_index(stream->index, struct wire_index_entry, i)};
        if (!wire_send(stream, WIRE_INDEX, &index, GW_NO_DEADLINE, error)) {
            return false;
        }
        locator->n_index++;
    }
    return wire_send(stream, WIRE_LOCATOR, locator, GW_NO_DEADLINE, error);
}

uint64_t wire_stream_offset_out(const struct wire_stream *stream)
{
    return wire_counted(&stream->bytes_out);
}
