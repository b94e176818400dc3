/* SPDX-License-Identifier: MIT */
/*
 * Snapshots in place: pages that stand aligned in the file, and the index that finds them.
 *
 * Wire: docs/wire-format.md section 10. Writing: wire_pages_place gives each packet its place in
 * the stream, in any order of packets and from any thread; the bytes are then written to that place
 * by whoever wants to, at the same time as others. What stands before and after the round goes out
 * in order on the stream's channel, as ever. Reading: wire_snapshot_open finds and checks the
 * index; its units are read in any order and from any thread.
 *
 * A unit is a PAGES record with the PAD before it: head (PAD, header, page table) and bulk. Units
 * lie one behind the other, each at a multiple of WIRE_SNAPSHOT_ALIGN, as do their bulks.
 */
#ifndef WIRE_SNAPSHOT_H
#define WIRE_SNAPSHOT_H

#include "wire/pages.h"

#define WIRE_SNAPSHOT_ALIGN     4096u
#define WIRE_SNAPSHOT_HEAD_SIZE 12288u /* of the largest head: whole pages */

/* ---- writing ---- */

/* The PAD that lets the next record begin at a multiple of WIRE_SNAPSHOT_ALIGN. */
bool wire_snapshot_align(struct wire_stream *stream, GError **error);

struct wire_place {
    uint64_t offset; /* of the head, from the beginning of the stream */
    uint32_t head_bytes;
    uint32_t bulk_bytes;
};

/* Gives the packet its numbers and its place, builds its head (WIRE_SNAPSHOT_HEAD_SIZE bytes of
 * room; the rest of it is left alone) and enters it in the stream's index. The bytes must be
 * written by the caller, or the stream must never be ended. The packet's bulk stays valid until it
 * is begun again. Any thread; one at a time for each packet. */
bool wire_pages_place(struct wire_pages_out *packet, struct wire_stream *stream, uint8_t *head,
                      struct wire_place *place, GError **error);
/* The bulk of a packet: n_iov pieces. */
const struct iovec *wire_pages_bulk(const struct wire_pages_out *packet, size_t *n_iov);

/* Sends ROUND_END, having noted where it stands; and, after STATE_END, INDEX and LOCATOR. */
bool wire_snapshot_end_round(struct wire_stream *stream, const struct wire_round_end *end,
                             GError **error);
bool wire_snapshot_send_index(struct wire_stream *stream, GError **error);

/* ---- reading ---- */

struct wire_unit {
    uint64_t offset;   /* of the head */
    uint64_t sequence; /* of the PAGES record */
    uint64_t first_page;
    uint64_t end_page; /* behind the last page */
    uint32_t block;
    uint32_t pad_bytes;    /* 0: there is no PAD */
    uint32_t record_bytes; /* header and page table */
    uint32_t bulk_bytes;
};

struct wire_snapshot {
    struct wire_locator locator;
    struct wire_unit *units; /* in the order of the stream */
    uint32_t *by_page;       /* numbers of units, ascending by block and page */
    uint64_t n_units;
};

/* Reads the index of the snapshot in the file fd, whose stream has its preamble accepted. True with
 * *snapshot NULL when the file has none. block_pages: as for wire_pages_parse. */
bool wire_snapshot_open(struct wire_stream *stream, int fd,
                        uint64_t (*block_pages)(void *opaque, uint32_t block), void *opaque,
                        struct wire_snapshot **snapshot, GError **error);
void wire_snapshot_free(struct wire_snapshot *snapshot);
/* The unit whose pages include this one or lie around it; NULL: none. */
const struct wire_unit *wire_snapshot_find(const struct wire_snapshot *snapshot, uint32_t block,
                                           uint64_t page);

/* One thread's room for reading units. */
struct wire_unit_reader {
    /* set by the caller */
    struct wire_stream *stream;
    int fd;
    uint64_t (*block_pages)(void *opaque, uint32_t block);
    void *opaque;
    /* results of wire_unit_read_head */
    struct wire_pages_in packet;
    uint64_t digests[2]; /* of the PAD and the PAGES record */
    uint32_t n_digests;
    uint8_t *head; /* aligned, WIRE_SNAPSHOT_HEAD_SIZE bytes; from _init to _clear */
};
void wire_unit_reader_init(struct wire_unit_reader *reader);
void wire_unit_reader_clear(struct wire_unit_reader *reader);
/* Reads and verifies the head: packet is filled in. */
bool wire_unit_read_head(struct wire_unit_reader *reader, const struct wire_unit *unit,
                         GError **error);
/* Reads the bulk and verifies every page. host: where the block's page 0 is; the pages go to their
 * places. Otherwise flat: the bulk as it stands. CORRUPT names the block and page. */
bool wire_unit_read_bulk(struct wire_unit_reader *reader, const struct wire_unit *unit,
                         uint8_t *host, uint8_t *flat, GError **error);

/* Does the next record stand where the units begin? */
bool wire_stream_is_at_units(const struct wire_stream *stream,
                             const struct wire_snapshot *snapshot);
/* The stream, read up to there, goes on at the tail. digests: of all records
 * between, in order (END is then checked as a whole); NULL: not known, and END's digest is not
 * checked. The channel has to be at tail_offset. */
void wire_stream_pass_units(struct wire_stream *stream, const struct wire_snapshot *snapshot,
                            const uint64_t *digests);
/* Where in the stream the next record to send begins. */
uint64_t wire_stream_offset_out(const struct wire_stream *stream);

#endif
