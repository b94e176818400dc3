/* SPDX-License-Identifier: MIT */
/* Where the pages of a snapshot stand; see inspect_places.h. */
#include "wire/inspect_places.h"

#include <inttypes.h>

#include "wire/stream_impl.h"

static uint64_t offset_of(const struct wire_record *record)
{
    return wire_counted(&record->stream->bytes_in) - WIRE_HEADER_BYTES - record->payload_bytes;
}

void inspect_places_round_begin(struct inspect_places *places)
{
    places->n_rounds++;
}

static void note_first(struct inspect_places *places, const struct wire_record *record)
{
    if (places->found.pages_offset == 0 && offset_of(record) % WIRE_SNAPSHOT_ALIGN == 0) {
        places->found.pages_offset = offset_of(record);
        places->found.pages_sequence = record->sequence;
    }
}

bool inspect_places_pad(struct inspect_places *places, const struct wire_record *record,
                        GError **error)
{
    for (uint32_t i = 0; i < record->payload_bytes; i++) {
        if (record->payload[i] != 0) {
            wire_record_error(record, GW_ERROR_CORRUPT, error, "byte %" PRIu32 " is not zero", i);
            return false;
        }
    }
    if (places->n_rounds > 0) {
        note_first(places, record);
    }
    return true;
}

void inspect_places_pages(struct inspect_places *places, const struct wire_record *record,
                          const struct wire_pages_in *packet)
{
    const struct wire_page_run *last = &packet->runs[packet->n_runs - 1];
    struct wire_index_entry entry = {
        .offset = offset_of(record),
        .sequence = record->sequence,
        .block = packet->block,
        .first_page = packet->runs[0].first_page,
        .n_pages = (uint32_t)(last->first_page + last->n_pages - packet->runs[0].first_page),
        .head_bytes = WIRE_HEADER_BYTES + record->payload_bytes,
        .bulk_bytes = record->bulk_bytes,
    };

    if (places->entries == NULL) {
        places->entries = g_array_new(FALSE, FALSE, sizeof(struct wire_index_entry));
    }
    note_first(places, record);
    g_array_append_val(places->entries, entry);
    places->found.n_pages += packet->n_pages;
}

void inspect_places_round_end(struct inspect_places *places, const struct wire_record *record)
{
    note_first(places, record);
    places->found.tail_offset = offset_of(record);
    places->found.tail_sequence = record->sequence;
}

static bool check_entry(struct inspect_places *places, const struct wire_record *record,
                        const struct wire_index_entry *entry, GError **error)
{
    const struct wire_index_entry *found =
        places->entries != NULL && places->n_listed < places->entries->len
            ? &g_array_index(places->entries, struct wire_index_entry, places->n_listed)
            : NULL;

    places->n_listed++;
    if (found == NULL || found->offset != entry->offset || found->sequence != entry->sequence ||
        found->block != entry->block || found->first_page != entry->first_page ||
        found->n_pages != entry->n_pages || found->head_bytes != entry->head_bytes ||
        found->bulk_bytes != entry->bulk_bytes) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "field entries: entry %" PRIu64 " is not of the PAGES record there",
                          places->n_listed - 1);
        return false;
    }
    if ((entry->offset + entry->head_bytes) % WIRE_SNAPSHOT_ALIGN != 0) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "field entries: the pages at %" PRIu64 " are not aligned", entry->offset);
        return false;
    }
    return true;
}

static bool check_locator(struct inspect_places *places, const struct wire_record *record,
                          const struct wire_locator *locator, GError **error)
{
    const struct wire_locator *found = &places->found;
    const struct {
        const char *field;
        uint64_t said, is;
    } checks[] = {
        {"pages_offset", locator->pages_offset, found->pages_offset},
        {"pages_sequence", locator->pages_sequence, found->pages_sequence},
        {"tail_offset", locator->tail_offset, found->tail_offset},
        {"tail_sequence", locator->tail_sequence, found->tail_sequence},
        {"index_offset", locator->index_offset,
         found->n_index > 0 ? found->index_offset : offset_of(record)},
        {"index_sequence", locator->index_sequence,
         found->n_index > 0 ? found->index_sequence : record->sequence},
        {"n_entries", locator->n_entries, places->entries ? places->entries->len : 0},
        {"n_entries", locator->n_entries, places->n_listed},
        {"n_pages", locator->n_pages, found->n_pages},
        {"n_index", locator->n_index, found->n_index},
        {"rounds", places->n_rounds, 1},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(checks); i++) {
        if (checks[i].said != checks[i].is) {
            wire_record_error(record, GW_ERROR_CORRUPT, error,
                              "field %s: %" PRIu64 ", but the stream has %" PRIu64, checks[i].field,
                              checks[i].said, checks[i].is);
            return false;
        }
    }
    return true;
}

bool inspect_places_index(struct inspect_places *places, const struct wire_record *record,
                          GError **error)
{
    struct wire_index index;
    struct wire_locator locator;
    bool is_ok = true;

    if (record->type->type == WIRE_LOCATOR) {
        return wire_decode(record, &locator, error) &&
               check_locator(places, record, &locator, error);
    }
    if (!wire_decode(record, &index, error)) {
        return false;
    }
    if (places->found.n_index++ == 0) {
        places->found.index_offset = offset_of(record);
        places->found.index_sequence = record->sequence;
    }
    for (uint32_t i = 0; i < index.n_entries && is_ok; i++) {
        is_ok = check_entry(places, record, &index.entries[i], error);
    }
    wire_message_clear(WIRE_INDEX, &index);
    return is_ok;
}

void inspect_places_clear(struct inspect_places *places)
{
    if (places->entries != NULL) {
        g_array_unref(places->entries);
    }
}
