/* SPDX-License-Identifier: MIT */
/*
 * PAGES packets: up to 1 MiB of pages of one RAM block, each page with its own digest.
 *
 * Sending: wire_pages_begin, wire_pages_add for each page (zero test and digest in one pass over
 * the page), wire_pages_send. The pages' bytes are not copied: they go out of guest memory. A
 * packet with an encoder (wire/encode.h) copies them into its buffer, so that nobody writes them
 * while they are encoded, and wire_pages_encode makes them smaller before the packet is sent.
 * Receiving: wire_pages_parse checks the whole page table against the block, wire_pages_receive
 * reads plain pages straight into guest memory (or, those that were never written, by way of a
 * small buffer), fills zero pages, and verifies each page's digest.
 *
 * Threads: one packet belongs to one thread; nothing here locks or allocates per page.
 */
#ifndef WIRE_PAGES_H
#define WIRE_PAGES_H

#include "wire/wire.h"

enum wire_encoding {
    WIRE_PAGE_PLAIN = 1,
    WIRE_PAGE_ZERO = 2,
    WIRE_PAGE_DELTA = 3, /* with WIRE_FEATURE_DELTA: against what stands at the destination */
    WIRE_PAGE_ZSTD = 4,  /* with WIRE_FEATURE_ZSTD: all of a packet's in one frame */
};

/* What is encoded of one packet goes through buffers of this size at both ends. */
#define WIRE_MAX_ENCODED_PAGES 64u
#define WIRE_MAX_ENCODED_BYTES (WIRE_MAX_ENCODED_PAGES * WIRE_PAGE_BYTES)
#define WIRE_MAX_WINDOW_LOG    18u /* of a zstd frame: 256 KiB */
#define WIRE_DELTA_HEAD_BYTES  2u  /* before each page's delta: its size */

#define WIRE_PAGES_FIXED_BYTES 24u
#define WIRE_PAGES_RUN_BYTES   12u
#define WIRE_PAGES_MAX_PAYLOAD                                                                     \
    (WIRE_PAGES_FIXED_BYTES + WIRE_MAX_PACKET_PAGES * (WIRE_PAGES_RUN_BYTES + 8u))

/* A packet being built. About 14 KiB: keep it in the channel thread, reuse it. */
struct wire_pages_out;

struct wire_pages_out *wire_pages_out_new(void);
void wire_pages_out_free(struct wire_pages_out *packet);
void wire_pages_begin(struct wire_pages_out *packet, uint32_t round, uint32_t block);
/* After begin, before the first page: this packet's pages are to be encoded. encoder: borrowed
 * until the packet is sent. modes: bits of enum wire_encode_mode. */
struct wire_encoder;
void wire_pages_use(struct wire_pages_out *packet, struct wire_encoder *encoder, unsigned modes);
/* Encodes what was added; once, before wire_pages_record_bytes and wire_pages_send. Nothing without
 * an encoder. What does not become smaller stays plain. */
void wire_pages_encode(struct wire_pages_out *packet);
/* Adds one page; pages must be added in ascending order. host: its 4096 bytes, which may change
 * until the packet is sent (then the receiver may find it suspect). Returns false, adding nothing,
 * when the packet is full or the page too far from the first: send it and begin again. */
bool wire_pages_add(struct wire_pages_out *packet, uint64_t page, const uint8_t *host);
/* A page known to be zero without being read. */
bool wire_pages_add_zero(struct wire_pages_out *packet, uint64_t page);
uint32_t wire_pages_count(const struct wire_pages_out *packet);
uint32_t wire_pages_zero_count(const struct wire_pages_out *packet);
/* What it will cost when it is sent: header, payload and bulk (0 when empty). */
uint64_t wire_pages_record_bytes(const struct wire_pages_out *packet);
/* Sends what was added (nothing when empty) and empties the packet. */
bool wire_pages_send(struct wire_pages_out *packet, struct wire_stream *stream, int64_t deadline_ns,
                     GError **error);

/* Writes the page table into payload (WIRE_PAGES_MAX_PAYLOAD bytes of room) and returns its size, 0
 * when the packet is empty; fills the entry's block, pages and bulk_bytes. */
uint32_t wire_pages_table(const struct wire_pages_out *packet, uint8_t *payload,
                          struct wire_index_entry *entry);

struct wire_page_run {
    uint64_t first_page; /* of the block */
    uint16_t n_pages;
    enum wire_encoding encoding;
    uint32_t data_bytes;
    uint16_t first_digest; /* index into digests, for non-zero runs */
};

/* A received packet: reuse one per channel thread. */
struct wire_pages_in {
    uint32_t round;
    uint32_t block;
    uint32_t n_pages;
    uint32_t n_zero;
    uint32_t n_zstd;
    uint32_t n_delta;
    uint16_t n_runs;
    struct wire_page_run runs[WIRE_MAX_PACKET_PAGES];
    uint64_t digests[WIRE_MAX_PACKET_PAGES];
};

/* Decodes and bounds the page table of a PAGES record. block_pages(opaque, block) gives the size
 * of a block in pages, 0 when there is none. features: the agreed ones (reserved encodings are
 * refused without them). Nothing of the bulk has been read when it returns. */
bool wire_pages_parse(const struct wire_record *record, struct wire_pages_in *packet,
                      uint64_t (*block_pages)(void *opaque, uint32_t block), void *opaque,
                      uint64_t features, GError **error);

/* Told of every page after it is in place: is_good false = its digest does not match (suspect). */
typedef void (*wire_page_fn)(void *opaque, uint32_t block, uint64_t page, bool is_good);

#define WIRE_CHUNK_PAGES                                                                           \
    64u /* that are read together: 256 KiB stay in the cache until verified                        \
         */

/* Where a block's pages go. Several channels may share written (its words are atomic). */
struct wire_pages_sink {
    uint8_t *host;     /* first byte of the block */
    uint64_t *written; /* one bit per page: page was written since the memory was fresh (all zero).
                          A zero page whose bit is clear is not touched at all, so that it stays
                          unallocated. NULL: nothing is known, zero pages are compared first. */
    /* A buffer of WIRE_CHUNK_PAGES pages of this thread. Pages whose bit in written is clear are
     * read into it, and place puts them into the block, a run of adjacent pages at a time.
     * NULL: they are read straight into the block like all others. */
    uint8_t *fresh;
    bool (*place)(void *opaque, uint32_t block, uint64_t first_page, const uint8_t *bytes,
                  uint32_t n_pages, GError **error);
    wire_page_fn on_page; /* may be NULL */
    void *opaque;         /* of place and on_page */
};

/* What a zero run does to the block: pages that were written become zero, others stay untouched. */
void wire_pages_zero_run(const struct wire_pages_sink *sink, uint32_t block,
                         const struct wire_page_run *run);
void wire_pages_note_written(const struct wire_pages_sink *sink, uint64_t first, uint64_t n_pages);

/* Reads the packet's pages into the block, fills zero pages, verifies every digest.
 * *n_bad receives the number of mismatches. */
bool wire_pages_receive(struct wire_stream *stream, const struct wire_record *record,
                        const struct wire_pages_in *packet, const struct wire_pages_sink *sink,
                        uint32_t *n_bad, int64_t deadline_ns, GError **error);

bool wire_encoding_is_encoded(enum wire_encoding encoding); /* delta or zstd */

/* The digest of one page, and the zero test (early out). */
uint64_t wire_page_digest(const uint8_t *page);
bool wire_page_is_zero(const uint8_t *page);

#endif
