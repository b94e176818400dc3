/* SPDX-License-Identifier: MIT */
/*
 * PAGES packets: checking page tables, and receiving pages straight into guest memory.
 *
 * Wire: docs/wire-format.md section 6.
 *
 * The bulk is read in pieces of WIRE_CHUNK_PAGES and each page is verified
 * while it is still in the cache. Pages that were never written may go through a small buffer and
 * the sink's place function, which can allocate them without clearing them first.
 */
#include "wire/snapshot.h"

#include <assert.h>
#include <inttypes.h>

#include "base/zero.h"
#include "wire/decode.h"
#include "wire/stream_impl.h"

uint64_t wire_page_digest(const uint8_t *page)
{
    return XXH3_64bits(page, WIRE_PAGE_BYTES);
}

bool wire_page_is_zero(const uint8_t *page)
{
    return page_is_zero(page);
}

/* ---- the page table ---- */

struct table {
    struct wire_reader reader;
    struct wire_pages_in *packet;
    uint64_t first_page;
    uint64_t n_block_pages;
    uint64_t next_page;
    uint32_t n_digests;
    uint64_t n_data;
    uint64_t features;
};

bool wire_encoding_is_encoded(enum wire_encoding encoding)
{
    return encoding == WIRE_PAGE_DELTA || encoding == WIRE_PAGE_ZSTD;
}

static bool is_encoding_agreed(uint64_t encoding, uint64_t features)
{
    switch (encoding) {
    case WIRE_PAGE_PLAIN:
    case WIRE_PAGE_ZERO:
        return true;
    case WIRE_PAGE_DELTA:
        return features & (UINT64_C(1) << WIRE_FEATURE_DELTA);
    case WIRE_PAGE_ZSTD:
        return features & (UINT64_C(1) << WIRE_FEATURE_ZSTD);
    default:
        return false;
    }
}

/* The pages of all zstd runs are one frame, which the first of these runs carries. */
static bool is_size_right(const struct wire_pages_in *packet, uint64_t encoding, uint64_t n_pages,
                          uint64_t data_bytes)
{
    switch (encoding) {
    case WIRE_PAGE_PLAIN:
        return data_bytes == n_pages * WIRE_PAGE_BYTES;
    case WIRE_PAGE_DELTA:
        return data_bytes >= n_pages * WIRE_DELTA_HEAD_BYTES &&
               data_bytes <= n_pages * WIRE_PAGE_BYTES;
    case WIRE_PAGE_ZSTD:
        return packet->n_zstd > 0 ? data_bytes == 0
                                  : data_bytes >= 1 && data_bytes <= WIRE_MAX_ENCODED_BYTES;
    default:
        return data_bytes == 0;
    }
}

/* Each run is read once into locals, checked, then stored. */
static void parse_run(struct table *t, uint32_t index)
{
    struct wire_reader *r = &t->reader;
    uint64_t offset = wire_get_uint(r, 4, "runs.offset");
    uint64_t n_pages = wire_get_ranged(r, 2, 1, WIRE_MAX_PACKET_PAGES, "runs.n_pages");
    uint64_t encoding = wire_get_uint(r, 1, "runs.encoding");
    wire_get_ranged(r, 1, 0, 0, "runs.reserved");
    uint64_t data_bytes = wire_get_uint(r, 4, "runs.data_bytes");
    uint64_t first = t->first_page + offset; /* first_page < n_block_pages: no overflow */

    if ((index == 0 && offset != 0) || first < t->next_page) {
        wire_reader_fail(r, GW_ERROR_CORRUPT, "runs.offset", "run %u is out of order", index);
    } else if (first >= t->n_block_pages || n_pages > t->n_block_pages - first) {
        wire_reader_fail(r, GW_ERROR_LIMIT, "runs.offset",
                         "run %u ends behind the block's %" PRIu64 " pages", index,
                         t->n_block_pages);
    } else if (!is_encoding_agreed(encoding, t->features)) {
        wire_reader_fail(r, GW_ERROR_REFUSED, "runs.encoding",
                         "run %u has encoding %" PRIu64 ", which was not agreed", index, encoding);
    }
    if (!is_size_right(t->packet, encoding, n_pages, data_bytes)) {
        wire_reader_fail(r, GW_ERROR_CORRUPT, "runs.data_bytes",
                         "run %u has %" PRIu64 " bytes for %" PRIu64 " pages", index, data_bytes,
                         n_pages);
    }
    if (r->bad_field != NULL) {
        return;
    }
    t->packet->runs[index] = (struct wire_page_run){.first_page = first,
                                                    .n_pages = (uint16_t)n_pages,
                                                    .encoding = (enum wire_encoding)encoding,
                                                    .data_bytes = (uint32_t)data_bytes,
                                                    .first_digest = (uint16_t)t->n_digests};
    t->next_page = first + n_pages;
    t->packet->n_pages += (uint32_t)n_pages;
    t->n_data += data_bytes;
    if (encoding == WIRE_PAGE_ZERO) {
        t->packet->n_zero += (uint32_t)n_pages;
    } else {
        t->n_digests += (uint32_t)n_pages;
    }
    if (encoding == WIRE_PAGE_ZSTD) {
        t->packet->n_zstd += (uint32_t)n_pages;
    } else if (encoding == WIRE_PAGE_DELTA) {
        t->packet->n_delta += (uint32_t)n_pages;
    }
    if (t->packet->n_zstd + t->packet->n_delta > WIRE_MAX_ENCODED_PAGES) {
        wire_reader_fail(r, GW_ERROR_LIMIT, "runs.n_pages", "more than %u pages are encoded",
                         WIRE_MAX_ENCODED_PAGES);
    }
    if (t->packet->n_pages > WIRE_MAX_PACKET_PAGES) {
        wire_reader_fail(r, GW_ERROR_LIMIT, "n_pages", "the runs have more than %u pages",
                         WIRE_MAX_PACKET_PAGES);
    }
}

static void expect(struct wire_reader *r, const char *field, uint64_t found, uint64_t expected)
{
    if (found != expected) {
        wire_reader_fail(r, GW_ERROR_CORRUPT, field, "found %" PRIu64 ", expected %" PRIu64, found,
                         expected);
    }
}

static void parse_table(struct table *t, uint32_t bulk_bytes,
                        uint64_t (*block_pages)(void *opaque, uint32_t block), void *opaque)
{
    struct wire_reader *r = &t->reader;
    struct wire_pages_in *packet = t->packet;

    packet->round = (uint32_t)wire_get_uint(r, 4, "round");
    packet->block = (uint32_t)wire_get_ranged(r, 4, 0, WIRE_MAX_RAM_BLOCKS - 1, "block");
    t->first_page = wire_get_uint(r, 8, "first_page");
    uint64_t n_runs = wire_get_ranged(r, 2, 1, WIRE_MAX_PACKET_PAGES, "n_runs");
    uint64_t n_pages = wire_get_ranged(r, 2, 1, WIRE_MAX_PACKET_PAGES, "n_pages");
    uint64_t n_digests = wire_get_ranged(r, 4, 0, WIRE_MAX_PACKET_PAGES, "n_digests");
    if (r->bad_field != NULL) {
        return;
    }
    t->n_block_pages = block_pages(opaque, packet->block);
    if (t->n_block_pages == 0) {
        wire_reader_fail(r, GW_ERROR_CORRUPT, "block", "there is no block %u", packet->block);
    } else if (t->first_page >= t->n_block_pages) {
        wire_reader_fail(r, GW_ERROR_LIMIT, "first_page",
                         "%" PRIu64 " is behind the block's %" PRIu64 " pages", t->first_page,
                         t->n_block_pages);
    }
    for (uint32_t i = 0; i < n_runs && r->bad_field == NULL; i++) {
        parse_run(t, i);
    }
    packet->n_runs = (uint16_t)n_runs;
    expect(r, "n_pages", n_pages, packet->n_pages);
    expect(r, "n_digests", n_digests, t->n_digests);
    expect(r, "bulk", bulk_bytes, t->n_data);
    expect(r, "length", wire_reader_left(r), UINT64_C(8) * t->n_digests);
    for (uint32_t i = 0; i < t->n_digests && r->bad_field == NULL; i++) {
        packet->digests[i] = wire_get_uint(r, 8, "digests");
    }
}

bool wire_pages_parse(const struct wire_record *record, struct wire_pages_in *packet,
                      uint64_t (*block_pages)(void *opaque, uint32_t block), void *opaque,
                      uint64_t features, GError **error)
{
    struct table t = {.packet = packet, .features = features};

    assert(record->type->type == WIRE_PAGES);
    packet->n_pages = 0;
    packet->n_zero = 0;
    packet->n_zstd = 0;
    packet->n_delta = 0;
    packet->n_runs = 0;
    wire_reader_init(&t.reader, record->payload, record->payload_bytes);
    parse_table(&t, record->bulk_bytes, block_pages, opaque);
    if (t.reader.bad_field != NULL) {
        wire_record_error(record, (int)t.reader.bad_code, error, "field %s: %s", t.reader.bad_field,
                          t.reader.bad_why);
        return false;
    }
    return true;
}

/* ---- receiving ---- */

static bool is_written(const struct wire_pages_sink *sink, uint64_t page)
{
    return sink->written == NULL ||
           (__atomic_load_n(&sink->written[page / 64], __ATOMIC_RELAXED) >> (page % 64)) & 1;
}

/* Marks [first, first + n) as written; n <= 256. */
void wire_pages_note_written(const struct wire_pages_sink *sink, uint64_t first, uint64_t n)
{
    if (sink->written == NULL) {
        return;
    }
    for (uint64_t at = first; at < first + n;) {
        uint64_t bit = at % 64;
        uint64_t span = MIN(64 - bit, first + n - at);
        uint64_t mask = (span == 64 ? UINT64_MAX : (UINT64_C(1) << span) - 1) << bit;
        __atomic_fetch_or(&sink->written[at / 64], mask, __ATOMIC_RELAXED);
        at += span;
    }
}

void wire_pages_zero_run(const struct wire_pages_sink *sink, uint32_t block,
                         const struct wire_page_run *run)
{
    for (uint64_t page = run->first_page; page < run->first_page + run->n_pages; page++) {
        uint8_t *at = sink->host + page * WIRE_PAGE_BYTES;
        if (is_written(sink, page) && !page_is_zero(at)) {
            memset(at, 0, WIRE_PAGE_BYTES);
        }
        if (sink->on_page != NULL) {
            sink->on_page(sink->opaque, block, page, true);
        }
    }
}

/* Plain runs whose bytes are read together, at most WIRE_CHUNK_PAGES. */
struct chunk {
    struct iovec iov[WIRE_CHUNK_PAGES];
    uint32_t n_iov;
    uint32_t n_pages;
    struct {
        uint64_t page;
        uint64_t digest;
        const uint8_t *bytes; /* in guest memory, or in the sink's fresh buffer */
    } pages[WIRE_CHUNK_PAGES];
};

static bool is_in_buffer(const struct wire_pages_sink *sink, const uint8_t *bytes)
{
    return sink->fresh != NULL && bytes >= sink->fresh &&
           bytes < sink->fresh + WIRE_CHUNK_PAGES * WIRE_PAGE_BYTES;
}

/* Hands the pages that came into the buffer over, run by run. */
static bool place_fresh(const struct chunk *chunk, uint32_t block,
                        const struct wire_pages_sink *sink, GError **error)
{
    for (uint32_t i = 0, n; i < chunk->n_pages; i += n) {
        n = 1;
        if (!is_in_buffer(sink, chunk->pages[i].bytes)) {
            continue;
        }
        while (i + n < chunk->n_pages && is_in_buffer(sink, chunk->pages[i + n].bytes) &&
               chunk->pages[i + n].page == chunk->pages[i].page + n) {
            n++;
        }
        if (!sink->place(sink->opaque, block, chunk->pages[i].page, chunk->pages[i].bytes, n,
                         error)) {
            return false;
        }
    }
    return true;
}

static bool chunk_read(struct chunk *chunk, struct wire_stream *stream, uint32_t block,
                       const struct wire_pages_sink *sink, uint32_t *n_bad, int64_t deadline_ns,
                       GError **error)
{
    bool is_good[WIRE_CHUNK_PAGES];

    if (chunk->n_pages == 0) {
        return true;
    }
    if (!wire_receive_bulk(stream, chunk->iov, chunk->n_iov, deadline_ns, error)) {
        return false;
    }
    for (uint32_t i = 0; i < chunk->n_pages; i++) {
        is_good[i] = wire_page_digest(chunk->pages[i].bytes) == chunk->pages[i].digest;
        *n_bad += !is_good[i];
    }
    if (!place_fresh(chunk, block, sink, error)) {
        return false;
    }
    for (uint32_t i = 0; sink->on_page != NULL && i < chunk->n_pages; i++) {
        sink->on_page(sink->opaque, block, chunk->pages[i].page, is_good[i]);
    }
    chunk->n_iov = 0;
    chunk->n_pages = 0;
    return true;
}

static void chunk_add(struct chunk *chunk, const struct wire_pages_sink *sink, uint64_t page,
                      bool is_fresh, uint64_t digest)
{
    uint8_t *at = is_fresh ? sink->fresh + chunk->n_pages * WIRE_PAGE_BYTES
                           : sink->host + page * WIRE_PAGE_BYTES;
    struct iovec *last = chunk->n_iov > 0 ? &chunk->iov[chunk->n_iov - 1] : NULL;

    if (last != NULL && (uint8_t *)last->iov_base + last->iov_len == at) {
        last->iov_len += WIRE_PAGE_BYTES;
    } else {
        chunk->iov[chunk->n_iov++] = (struct iovec){at, WIRE_PAGE_BYTES};
    }
    chunk->pages[chunk->n_pages].page = page;
    chunk->pages[chunk->n_pages].digest = digest;
    chunk->pages[chunk->n_pages].bytes = at;
    chunk->n_pages++;
}

/* Runs of pages of which none is known to be written: bit by bit, before they are noted. */
static void fresh_mask(const struct wire_pages_sink *sink, const struct wire_page_run *run,
                       bool *is_fresh)
{
    for (uint32_t k = 0; k < run->n_pages; k++) {
        is_fresh[k] = sink->fresh != NULL && !is_written(sink, run->first_page + k);
    }
}

bool wire_pages_receive(struct wire_stream *stream, const struct wire_record *record,
                        const struct wire_pages_in *packet, const struct wire_pages_sink *sink,
                        uint32_t *n_bad, int64_t deadline_ns, GError **error)
{
    struct chunk chunk;
    bool is_fresh[WIRE_MAX_PACKET_PAGES];

    assert(sink->fresh == NULL || (sink->place != NULL && sink->written != NULL));
    chunk.n_iov = 0;
    chunk.n_pages = 0;
    *n_bad = 0;
    for (uint32_t i = 0; i < packet->n_runs; i++) {
        const struct wire_page_run *run = &packet->runs[i];
        if (run->encoding == WIRE_PAGE_ZERO) {
            wire_pages_zero_run(sink, packet->block, run);
            continue;
        }
        fresh_mask(sink, run, is_fresh);
        wire_pages_note_written(sink, run->first_page, run->n_pages);
        if (wire_encoding_is_encoded(run->encoding)) {
            /* Its bytes come after those of the runs before it. */
            if (!chunk_read(&chunk, stream, packet->block, sink, n_bad, deadline_ns, error) ||
                !wire_decode_run(stream, record, packet, run, sink, n_bad, deadline_ns, error)) {
                return false;
            }
            continue;
        }
        for (uint32_t k = 0; k < run->n_pages; k++) {
            chunk_add(&chunk, sink, run->first_page + k, is_fresh[k],
                      packet->digests[run->first_digest + k]);
            if (chunk.n_pages == WIRE_CHUNK_PAGES &&
                !chunk_read(&chunk, stream, packet->block, sink, n_bad, deadline_ns, error)) {
                return false;
            }
        }
    }
    if (!chunk_read(&chunk, stream, packet->block, sink, n_bad, deadline_ns, error)) {
        return false;
    }
    wire_count(&stream->pages_in, packet->n_pages);
    return true;
}
