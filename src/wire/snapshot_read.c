/* SPDX-License-Identifier: MIT */
/*
 * Reading a snapshot at random: finding and checking its index, and reading single units.
 *
 * PEER: the file may hold anything. The index is believed only when its entries lie one behind the
 * other in the file and their pages within the blocks, no page twice; its memory is bounded by the
 * bytes that are really there. A unit is believed only when its record is the one its entry says.
 */
#include "wire/snapshot.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "wire/stream_impl.h"

#define LOCATOR_RECORD_BYTES (WIRE_HEADER_BYTES + 68u)
#define END_RECORD_BYTES     (WIRE_HEADER_BYTES + 40u)
#define CLOSING_BYTES        (LOCATOR_RECORD_BYTES + END_RECORD_BYTES)
#define CHUNK_PAGES          64u /* read at once, and verified while they are in the cache */

/* ---- bytes ---- */

/* All of it, or false with errno; 0: the file ends before. Where the file system wants other
 * alignments than ours, the page cache is used. */
static bool read_at(int fd, struct iovec *iov, int n_iov, uint64_t offset)
{
    while (n_iov > 0) {
        ssize_t n = preadv(fd, iov, n_iov, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EINVAL) {
            int flags = fcntl(fd, F_GETFL);
            if (flags >= 0 && (flags & O_DIRECT) && fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0) {
                continue;
            }
            errno = EINVAL;
        }
        if (n <= 0) {
            errno = n == 0 ? 0 : errno;
            return false;
        }
        offset += (uint64_t)n;
        for (; n_iov > 0 && (size_t)n >= iov->iov_len; iov++, n_iov--) {
            n -= (ssize_t)iov->iov_len;
        }
        if (n_iov > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
    return true;
}

static bool set_read_error(const struct wire_stream *stream, uint64_t offset, GError **error)
{
    int code = errno;

    g_set_error(error, GW_ERROR, code == 0 ? GW_ERROR_CORRUPT : GW_ERROR_IO,
                "%s: at byte %" PRIu64 ": %s", stream->label, offset,
                code == 0 ? "the file has become shorter" : g_strerror(code));
    return false;
}

/* Is this the record of that type and number, undamaged? Its header and payload are at `at`, where
 * there are n_bytes. */
static bool check_record(struct wire_stream *stream, uint8_t *at, size_t n_bytes,
                         enum wire_type type, uint64_t sequence, struct wire_record *record,
                         uint64_t *digest, GError **error)
{
    const struct wire_record_type *row = wire_record_type_of((uint16_t)type);
    const char *why = NULL;

    assert(n_bytes >= WIRE_HEADER_BYTES);
    *record = (struct wire_record){.type = row,
                                   .sequence = sequence,
                                   .payload = at + WIRE_HEADER_BYTES,
                                   .payload_bytes = wire_load_u32(at + 4),
                                   .bulk_bytes = wire_load_u32(at + 16),
                                   .stream = stream};
    *digest = wire_load_u64(at + 24);
    if (wire_load_u32(at + 20) != (uint32_t)XXH3_64bits_withSeed(at, 20, stream->seed_in)) {
        why = "check does not match";
    } else if (wire_load_u16(at) != row->type || wire_load_u64(at + 8) != sequence) {
        why = "the index leads to another record";
    } else if (wire_load_u16(at + 2) != 0 || record->payload_bytes != n_bytes - WIRE_HEADER_BYTES ||
               record->payload_bytes < row->min_payload_bytes ||
               record->payload_bytes > row->max_payload_bytes ||
               record->bulk_bytes > row->max_bulk_bytes) {
        why = "its length is not what the index says";
    } else {
        wire_store_u64(at + 24, 0);
        if (XXH3_64bits_withSeed(at, n_bytes, stream->seed_in) != *digest) {
            why = "digest does not match";
        }
        wire_store_u64(at + 24, *digest);
    }
    if (why) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "%s", why);
    }
    return why == NULL;
}

/* ---- the index ---- */

struct opening {
    struct wire_stream *stream;
    int fd;
    uint64_t (*block_pages)(void *opaque, uint32_t block);
    void *opaque;
    uint64_t file_bytes;
    uint64_t locator_sequence;
    struct wire_snapshot *snapshot;
    /* where the next unit has to begin */
    uint64_t next_offset, next_sequence;
};

static bool fail(const struct opening *self, const char *why, uint64_t at, GError **error)
{
    g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT, "%s: the index is wrong at byte %" PRIu64 ": %s",
                self->stream->label, at, why);
    return false;
}

/* The closing records; true with snapshot NULL when they are not there: then the file is an older
 * one or damaged, and reading it as a stream tells. */
static bool read_locator(struct opening *self, GError **error)
{
    uint8_t bytes[CLOSING_BYTES], *end = bytes + LOCATOR_RECORD_BYTES;
    struct iovec iov = {bytes, sizeof(bytes)};
    struct wire_record record;
    struct wire_locator locator;
    uint64_t digest;

    if (self->file_bytes < WIRE_PREAMBLE_BYTES + CLOSING_BYTES) {
        return true;
    }
    if (!read_at(self->fd, &iov, 1, self->file_bytes - CLOSING_BYTES)) {
        return set_read_error(self->stream, self->file_bytes - CLOSING_BYTES, error);
    }
    uint64_t sequence = wire_load_u64(bytes + 8);
    if (wire_load_u16(bytes) != WIRE_LOCATOR ||
        !check_record(self->stream, bytes, LOCATOR_RECORD_BYTES, WIRE_LOCATOR, sequence, &record,
                      &digest, NULL) ||
        !wire_decode(&record, &locator, NULL) ||
        !check_record(self->stream, end, END_RECORD_BYTES, WIRE_END, sequence + 1, &record, &digest,
                      NULL)) {
        return true;
    }
    uint64_t last = self->file_bytes - CLOSING_BYTES;
    if (locator.pages_offset % WIRE_SNAPSHOT_ALIGN != 0 ||
        locator.pages_offset > locator.tail_offset || locator.tail_offset >= locator.index_offset ||
        locator.index_offset > last || locator.pages_sequence > locator.tail_sequence ||
        locator.tail_sequence >= locator.index_sequence ||
        locator.index_sequence + locator.n_index != sequence ||
        locator.n_entries > (last - locator.index_offset) / 40) {
        return fail(self, "the places in LOCATOR cannot be", last, error);
    }
    self->locator_sequence = sequence;
    self->snapshot = g_new0(struct wire_snapshot, 1);
    self->snapshot->locator = locator;
    self->snapshot->units = g_new(struct wire_unit, locator.n_entries + 1);
    self->next_offset = locator.pages_offset;
    self->next_sequence = locator.pages_sequence;
    return true;
}

static bool add_unit(struct opening *self, const struct wire_index_entry *entry, GError **error)
{
    struct wire_snapshot *snapshot = self->snapshot;
    uint64_t n_pages = self->block_pages(self->opaque, entry->block);
    uint64_t gap = entry->offset - self->next_offset;

    if (snapshot->n_units == snapshot->locator.n_entries) {
        return fail(self, "there are more entries than LOCATOR says", entry->offset, error);
    }
    if (gap != 0 &&
        (gap < WIRE_HEADER_BYTES || gap > WIRE_HEADER_BYTES + WIRE_SNAPSHOT_ALIGN - 1)) {
        return fail(self, "there is no room for just a PAD before it", entry->offset, error);
    }
    if (entry->sequence != self->next_sequence + (gap != 0)) {
        return fail(self, "its sequence number leaves a gap", entry->offset, error);
    }
    if (entry->first_page >= n_pages || entry->n_pages > n_pages - entry->first_page) {
        return fail(self, "its pages are not in the block", entry->offset, error);
    }
    uint64_t bulk_at = entry->offset + entry->head_bytes;
    if (bulk_at % WIRE_SNAPSHOT_ALIGN != 0 || bulk_at > snapshot->locator.tail_offset ||
        entry->bulk_bytes > snapshot->locator.tail_offset - bulk_at) {
        return fail(self, "its pages are not aligned or not before the tail", entry->offset, error);
    }
    snapshot->units[snapshot->n_units++] =
        (struct wire_unit){.offset = self->next_offset,
                           .sequence = entry->sequence,
                           .first_page = entry->first_page,
                           .end_page = entry->first_page + entry->n_pages,
                           .block = entry->block,
                           .pad_bytes = (uint32_t)gap,
                           .record_bytes = entry->head_bytes,
                           .bulk_bytes = entry->bulk_bytes};
    self->next_offset = bulk_at + entry->bulk_bytes;
    self->next_sequence = entry->sequence + 1;
    return true;
}

/* One INDEX record; *offset moves behind it. */
static bool read_index(struct opening *self, uint64_t *offset, uint64_t sequence, GError **error)
{
    const struct wire_record_type *row = wire_record_type_of(WIRE_INDEX);
    uint64_t limit = self->file_bytes - CLOSING_BYTES;
    uint8_t header[WIRE_HEADER_BYTES];
    struct iovec iov = {header, sizeof(header)};
    struct wire_record record;
    struct wire_index index;
    uint64_t digest;
    bool is_ok = true;

    if (limit - *offset < sizeof(header)) {
        return fail(self, "INDEX is cut off", *offset, error);
    }
    if (!read_at(self->fd, &iov, 1, *offset)) {
        return set_read_error(self->stream, *offset, error);
    }
    uint32_t length = wire_load_u32(header + 4);
    if (length > row->max_payload_bytes || length > limit - *offset - sizeof(header)) {
        return fail(self, "INDEX is cut off", *offset, error);
    }
    g_autofree uint8_t *bytes = g_malloc(sizeof(header) + length);
    iov = (struct iovec){bytes, sizeof(header) + length};
    if (!read_at(self->fd, &iov, 1, *offset)) {
        return set_read_error(self->stream, *offset, error);
    }
    if (!check_record(self->stream, bytes, sizeof(header) + length, WIRE_INDEX, sequence, &record,
                      &digest, error) ||
        !wire_decode(&record, &index, error)) {
        return false;
    }
    for (uint32_t i = 0; i < index.n_entries && is_ok; i++) {
        is_ok = add_unit(self, &index.entries[i], error);
    }
    wire_message_clear(WIRE_INDEX, &index);
    *offset += sizeof(header) + length;
    return is_ok;
}

static int compare_places(gconstpointer a, gconstpointer b, gpointer opaque)
{
    const struct wire_unit *units = opaque;
    const struct wire_unit *x = &units[*(const uint32_t *)a], *y = &units[*(const uint32_t *)b];

    if (x->block != y->block) {
        return x->block < y->block ? -1 : 1;
    }
    return x->first_page < y->first_page ? -1 : x->first_page > y->first_page;
}

/* Sorts by pages; no page may be in two units. */
static bool sort_units(struct opening *self, GError **error)
{
    struct wire_snapshot *snapshot = self->snapshot;

    snapshot->by_page = g_new(uint32_t, snapshot->n_units + 1);
    for (uint32_t i = 0; i < snapshot->n_units; i++) {
        snapshot->by_page[i] = i;
    }
    g_qsort_with_data(snapshot->by_page, (gint)snapshot->n_units, sizeof(uint32_t), compare_places,
                      snapshot->units);
    for (uint64_t i = 1; i < snapshot->n_units; i++) {
        const struct wire_unit *a = &snapshot->units[snapshot->by_page[i - 1]];
        const struct wire_unit *b = &snapshot->units[snapshot->by_page[i]];
        if (a->block == b->block && b->first_page < a->end_page) {
            return fail(self, "its pages are those of another entry too", b->offset, error);
        }
    }
    return true;
}

static bool read_entries(struct opening *self, GError **error)
{
    const struct wire_locator *locator = &self->snapshot->locator;
    uint64_t offset = locator->index_offset;

    if (locator->n_entries > G_MAXINT) {
        return fail(self, "there are too many entries", offset, error);
    }
    for (uint32_t i = 0; i < locator->n_index; i++) {
        if (!read_index(self, &offset, locator->index_sequence + i, error)) {
            return false;
        }
    }
    if (offset != self->file_bytes - CLOSING_BYTES ||
        self->snapshot->n_units != locator->n_entries ||
        self->next_offset != locator->tail_offset ||
        self->next_sequence != locator->tail_sequence) {
        return fail(self, "the entries do not end where LOCATOR says", offset, error);
    }
    return sort_units(self, error);
}

bool wire_snapshot_open(struct wire_stream *stream, int fd,
                        uint64_t (*block_pages)(void *opaque, uint32_t block), void *opaque,
                        struct wire_snapshot **snapshot, GError **error)
{
    struct opening self = {
        .stream = stream, .fd = fd, .block_pages = block_pages, .opaque = opaque};
    struct stat st;

    *snapshot = NULL;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        return true;
    }
    self.file_bytes = (uint64_t)st.st_size;
    if (!read_locator(&self, error)) {
        return false;
    }
    if (self.snapshot != NULL && !read_entries(&self, error)) {
        wire_snapshot_free(self.snapshot);
        return false;
    }
    *snapshot = self.snapshot;
    return true;
}

void wire_snapshot_free(struct wire_snapshot *snapshot)
{
    if (snapshot != NULL) {
        g_free(snapshot->units);
        g_free(snapshot->by_page);
        g_free(snapshot);
    }
}

const struct wire_unit *wire_snapshot_find(const struct wire_snapshot *snapshot, uint32_t block,
                                           uint64_t page)
{
    uint64_t low = 0, high = snapshot->n_units;

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        const struct wire_unit *unit = &snapshot->units[snapshot->by_page[middle]];
        if (unit->block < block || (unit->block == block && unit->end_page <= page)) {
            low = middle + 1;
        } else if (unit->block > block || unit->first_page > page) {
            high = middle;
        } else {
            return unit;
        }
    }
    return NULL;
}

/* ---- units ---- */

void wire_unit_reader_init(struct wire_unit_reader *reader)
{
    reader->head = aligned_alloc(WIRE_SNAPSHOT_ALIGN, WIRE_SNAPSHOT_HEAD_SIZE);
    if (reader->head == NULL) {
        g_error("out of memory");
    }
}

void wire_unit_reader_clear(struct wire_unit_reader *reader)
{
    free(reader->head);
    reader->head = NULL;
}

bool wire_unit_read_head(struct wire_unit_reader *reader, const struct wire_unit *unit,
                         GError **error)
{
    struct wire_stream *stream = reader->stream;
    struct wire_pages_in *packet = &reader->packet;
    struct iovec iov = {reader->head, (size_t)unit->pad_bytes + unit->record_bytes};
    struct wire_record record;

    assert(iov.iov_len <= WIRE_SNAPSHOT_HEAD_SIZE);
    if (!read_at(reader->fd, &iov, 1, unit->offset)) {
        return set_read_error(stream, unit->offset, error);
    }
    reader->n_digests = 0;
    if (unit->pad_bytes > 0 &&
        !check_record(stream, reader->head, unit->pad_bytes, WIRE_PAD, unit->sequence - 1, &record,
                      &reader->digests[reader->n_digests++], error)) {
        return false;
    }
    if (!check_record(stream, reader->head + unit->pad_bytes, unit->record_bytes, WIRE_PAGES,
                      unit->sequence, &record, &reader->digests[reader->n_digests++], error) ||
        !wire_pages_parse(&record, packet, reader->block_pages, reader->opaque, 0, error)) {
        return false;
    }
    const struct wire_page_run *last = &packet->runs[packet->n_runs - 1];
    if (packet->block != unit->block || packet->runs[0].first_page != unit->first_page ||
        last->first_page + last->n_pages != unit->end_page ||
        record.bulk_bytes != unit->bulk_bytes) {
        wire_record_error(&record, GW_ERROR_CORRUPT, error,
                          "its pages are not what the index says");
        return false;
    }
    return true;
}

/* Pages whose bytes are read together. */
struct piece {
    struct iovec iov[CHUNK_PAGES];
    uint64_t pages[CHUNK_PAGES];
    const uint8_t *bytes[CHUNK_PAGES];
    uint64_t digests[CHUNK_PAGES];
    int n_iov;
    uint32_t n_pages;
    uint64_t offset;
};

static bool read_piece(const struct wire_unit_reader *reader, struct piece *piece, GError **error)
{
    uint64_t n_bytes = (uint64_t)piece->n_pages * WIRE_PAGE_BYTES;

    if (piece->n_pages == 0) {
        return true;
    }
    if (!read_at(reader->fd, piece->iov, piece->n_iov, piece->offset)) {
        return set_read_error(reader->stream, piece->offset, error);
    }
    for (uint32_t i = 0; i < piece->n_pages; i++) {
        if (wire_page_digest(piece->bytes[i]) != piece->digests[i]) {
            g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT,
                        "%s: block %" PRIu32 " page %" PRIu64 " does not match its digest",
                        reader->stream->label, reader->packet.block, piece->pages[i]);
            return false;
        }
    }
    piece->offset += n_bytes;
    piece->n_pages = 0;
    piece->n_iov = 0;
    return true;
}

static void piece_add(struct piece *piece, uint8_t *at, uint64_t page, uint64_t digest)
{
    struct iovec *last = piece->n_iov > 0 ? &piece->iov[piece->n_iov - 1] : NULL;

    if (last != NULL && (uint8_t *)last->iov_base + last->iov_len == at) {
        last->iov_len += WIRE_PAGE_BYTES;
    } else {
        piece->iov[piece->n_iov++] = (struct iovec){at, WIRE_PAGE_BYTES};
    }
    piece->pages[piece->n_pages] = page;
    piece->bytes[piece->n_pages] = at;
    piece->digests[piece->n_pages++] = digest;
}

bool wire_unit_read_bulk(struct wire_unit_reader *reader, const struct wire_unit *unit,
                         uint8_t *host, uint8_t *flat, GError **error)
{
    const struct wire_pages_in *packet = &reader->packet;
    struct piece piece;

    piece.n_iov = 0;
    piece.n_pages = 0;
    piece.offset = unit->offset + unit->pad_bytes + unit->record_bytes;
    for (uint32_t i = 0; i < packet->n_runs; i++) {
        const struct wire_page_run *run = &packet->runs[i];
        for (uint32_t k = 0; run->encoding == WIRE_PAGE_PLAIN && k < run->n_pages; k++) {
            uint64_t page = run->first_page + k;
            piece_add(&piece, host ? host + page * WIRE_PAGE_BYTES : flat, page,
                      packet->digests[run->first_digest + k]);
            flat += host ? 0 : WIRE_PAGE_BYTES;
            if (piece.n_pages == CHUNK_PAGES && !read_piece(reader, &piece, error)) {
                return false;
            }
        }
    }
    return read_piece(reader, &piece, error);
}

/* ---- the stream around them ---- */

bool wire_stream_is_at_units(const struct wire_stream *stream, const struct wire_snapshot *snapshot)
{
    return stream->next_in == snapshot->locator.pages_sequence && stream->in_have == 0 &&
           stream->bulk_left == 0 &&
           wire_counted(&stream->bytes_in) == snapshot->locator.pages_offset;
}

void wire_stream_pass_units(struct wire_stream *stream, const struct wire_snapshot *snapshot,
                            const uint64_t *digests)
{
    const struct wire_locator *locator = &snapshot->locator;
    uint64_t n_records = locator->tail_sequence - locator->pages_sequence;

    assert(wire_stream_is_at_units(stream, snapshot));
    for (uint64_t i = 0; digests != NULL && i < n_records; i++) {
        uint8_t bytes[8];
        wire_store_u64(bytes, digests[i]);
        XXH3_64bits_update(stream->chain_in, bytes, 8);
    }
    stream->is_chain_unknown = digests == NULL;
    stream->next_in = locator->tail_sequence;
    wire_count(&stream->records_in, n_records);
    wire_count(&stream->pages_in, locator->n_pages);
    wire_count(&stream->bytes_in, locator->tail_offset - locator->pages_offset);
}
