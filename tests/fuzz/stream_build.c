/* SPDX-License-Identifier: MIT */
/*
 * Makes a stream out of an input: see stream_build.h. Layout: docs/wire-format.md sections 1 to 6.
 */
#include "stream_build.h"

#include <xxhash.h>

#include "wire/cursor.h"

#define MAX_BULK_PAGES 16u

void stream_build_init(struct stream_build *build, enum wire_role role, unsigned index,
                       enum wire_side side)
{
    uint8_t preamble[WIRE_PREAMBLE_BYTES] = {'G', 'O', 'D', 'W', 'I', 'T', 0x00, 0x0A};

    *build = (struct stream_build){
        .bytes = g_byte_array_new(),
        .section = g_byte_array_new(),
        .section_digests = g_byte_array_new(),
        .record_digests = g_byte_array_new(),
    };
    wire_store_u16(preamble + 8, WIRE_VERSION_MAJOR);
    wire_store_u16(preamble + 10, WIRE_VERSION_MINOR);
    wire_store_u16(preamble + 12, (uint16_t)role);
    wire_store_u16(preamble + 14, (uint16_t)index);
    memset(preamble + 16, 0x77, WIRE_ID_BYTES);
    wire_store_u16(preamble + 32, (uint16_t)side);
    build->seed = XXH3_64bits(preamble, 56);
    wire_store_u64(preamble + 56, build->seed);
    g_byte_array_append(build->bytes, preamble, sizeof preamble);
}

void stream_build_set_id(struct stream_build *build, const uint8_t id[WIRE_ID_BYTES])
{
    memcpy(build->bytes->data + 16, id, WIRE_ID_BYTES);
    build->seed = XXH3_64bits(build->bytes->data, 56);
    wire_store_u64(build->bytes->data + 56, build->seed);
}

void stream_build_clear(struct stream_build *build)
{
    g_byte_array_unref(build->bytes);
    g_byte_array_unref(build->section);
    g_byte_array_unref(build->section_digests);
    g_byte_array_unref(build->record_digests);
}

static uint64_t digest_of(const GByteArray *bytes)
{
    return XXH3_64bits(bytes->data, bytes->len);
}

/* Makes the numbers right that no mutation would ever find. */
static void tell_the_truth(struct stream_build *build, uint16_t type, uint8_t *payload, size_t n,
                           const uint8_t *bulk, size_t bulk_bytes)
{
    if (type == WIRE_SECTION_BEGIN && n >= 30) {
        wire_store_u32(payload, build->section_id);
    } else if (type == WIRE_SECTION_PART && n >= 12) {
        wire_store_u32(payload, build->section_id);
        wire_store_u64(payload + 4, build->section->len);
    } else if (type == WIRE_SECTION_END && n >= 24) {
        wire_store_u32(payload, build->section_id);
        wire_store_u32(payload + 4, (uint32_t)build->n_parts);
        wire_store_u64(payload + 8, build->section->len);
        wire_store_u64(payload + 16, digest_of(build->section));
    } else if (type == WIRE_STATE_END && n >= 24) {
        wire_store_u32(payload + 4, (uint32_t)build->n_state_sections);
        wire_store_u64(payload + 8, build->n_state_bytes);
        wire_store_u64(payload + 16, digest_of(build->section_digests));
    } else if (type == WIRE_COMMIT && n >= 20) {
        wire_store_u64(payload + 4, build->state_digest);
    } else if (type == WIRE_END && n >= 40) {
        wire_store_u64(payload, build->sequence);
        wire_store_u64(payload + 8, build->n_pages);
        wire_store_u64(payload + 16, build->n_sections);
        wire_store_u64(payload + 24, build->bytes->len);
        wire_store_u64(payload + 32, digest_of(build->record_digests));
    } else if (type == WIRE_PROBE && n >= 8) {
        wire_store_u64(payload, XXH3_64bits(bulk, bulk_bytes));
    } else if (type == WIRE_PAGES && n > 24) {
        size_t n_runs = wire_load_u16(payload + 16);
        uint8_t *digests = payload + 24 + 12 * n_runs;

        for (size_t at = 0; at + WIRE_PAGE_BYTES <= bulk_bytes; at += WIRE_PAGE_BYTES)
            if (digests + 8 <= payload + n) {
                wire_store_u64(digests, XXH3_64bits(bulk + at, WIRE_PAGE_BYTES));
                digests += 8;
            }
    }
}

static void keep_totals(struct stream_build *build, uint16_t type, const uint8_t *payload, size_t n,
                        const uint8_t *bulk, size_t bulk_bytes)
{
    uint64_t digest;

    switch (type) {
    case WIRE_SECTION_BEGIN:
        g_byte_array_set_size(build->section, 0);
        build->n_parts = 0;
        build->section_kind = n >= 8 ? payload[4] : 0;
        break;
    case WIRE_SECTION_PART:
        g_byte_array_append(build->section, bulk, (guint)bulk_bytes);
        build->n_parts++;
        break;
    case WIRE_SECTION_END:
        build->n_sections++;
        build->section_id++;
        if (build->section_kind == 1)
            break;
        digest = GUINT64_TO_LE(digest_of(build->section));
        g_byte_array_append(build->section_digests, (uint8_t *)&digest, 8);
        build->n_state_sections++;
        build->n_state_bytes += build->section->len;
        break;
    case WIRE_SWITCHOVER_BEGIN:
        build->n_state_sections = build->n_state_bytes = 0;
        g_byte_array_set_size(build->section_digests, 0);
        break;
    case WIRE_STATE_END:
        build->state_digest = n >= 24 ? wire_load_u64(payload + 16) : 0;
        break;
    case WIRE_PAGES:
        build->n_pages += n >= 20 ? wire_load_u16(payload + 18) : 0;
        break;
    default:
        break;
    }
}

void stream_build_add(struct stream_build *build, uint16_t type, unsigned switches,
                      const uint8_t *payload, size_t payload_bytes, const uint8_t *bulk,
                      size_t bulk_bytes)
{
    g_autofree uint8_t *record = g_malloc0(WIRE_HEADER_BYTES + payload_bytes);
    uint64_t digest;

    if (payload_bytes)
        memcpy(record + WIRE_HEADER_BYTES, payload, payload_bytes);
    if (!(switches & BUILD_LIES))
        tell_the_truth(build, type, record + WIRE_HEADER_BYTES, payload_bytes, bulk, bulk_bytes);
    keep_totals(build, type, record + WIRE_HEADER_BYTES, payload_bytes, bulk, bulk_bytes);
    wire_store_u16(record, type);
    wire_store_u32(record + 4, (uint32_t)payload_bytes);
    wire_store_u64(record + 8, build->sequence++);
    wire_store_u32(record + 16, (uint32_t)bulk_bytes);
    wire_store_u32(record + 20, (uint32_t)XXH3_64bits_withSeed(record, 20, build->seed));
    digest = XXH3_64bits_withSeed(record, WIRE_HEADER_BYTES + payload_bytes, build->seed);
    wire_store_u64(record + 24, switches & BUILD_DAMAGED ? ~digest : digest);
    g_byte_array_append(build->record_digests, record + 24, 8);
    g_byte_array_append(build->bytes, record, (guint)(WIRE_HEADER_BYTES + payload_bytes));
    if (bulk_bytes)
        g_byte_array_append(build->bytes, bulk, (guint)bulk_bytes);
}

uint16_t stream_build_record(struct stream_build *build, struct fuzz_input *in)
{
    if (!fuzz_more(in))
        return 0;
    uint8_t code = (uint8_t)fuzz_take(in, 1);
    uint16_t type = (uint16_t)((code & 0x7F) | (code & 0x80) << 8);
    unsigned switches = (unsigned)fuzz_take(in, 1);
    size_t wanted = (size_t)fuzz_take(in, 2);
    size_t n_bulk = switches & BUILD_HAS_BULK ? (size_t)fuzz_take(in, 2) : 0;
    g_autofree uint8_t *pages = NULL;
    size_t payload_bytes;
    const uint8_t *payload = fuzz_take_bytes(in, wanted, &payload_bytes);
    const uint8_t *bulk;

    if (switches & BUILD_BULK_PAGES) {
        n_bulk = MIN(n_bulk, MAX_BULK_PAGES);
        pages = g_malloc(n_bulk * WIRE_PAGE_BYTES + 1);
        for (size_t i = 0; i < n_bulk; i++)
            memset(pages + i * WIRE_PAGE_BYTES, (int)fuzz_take(in, 1), WIRE_PAGE_BYTES);
        bulk = pages;
        n_bulk *= WIRE_PAGE_BYTES;
    } else {
        bulk = fuzz_take_bytes(in, n_bulk, &n_bulk);
    }
    stream_build_add(build, type ? type : 1, switches, payload, payload_bytes, bulk, n_bulk);
    return type ? type : 1;
}
