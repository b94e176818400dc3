/* SPDX-License-Identifier: MIT */
/*
 * Sections: named byte strings of any bounded size, cut into parts, closed by size and digest.
 *
 * The schema, the state of each device, its rehearsal and sets of page numbers travel as sections.
 * Sections do not nest and do not interleave on a channel; other records (KEEPALIVE, CLOCK_*) may
 * stand between parts.
 */
#ifndef WIRE_SECTION_H
#define WIRE_SECTION_H

#include "wire/wire.h"

enum wire_section_kind {
    WIRE_SECTION_SCHEMA = 1,
    WIRE_SECTION_DEVICE = 2,
    WIRE_SECTION_REHEARSAL = 3, /* a device's state saved while the guest runs; never loaded */
    WIRE_SECTION_PAGES = 4,     /* pages of one block, by their numbers (wire/page_list.h) */
};

#define WIRE_MAX_SECTION_BYTES  (UINT64_C(256) << 20) /* one device */
#define WIRE_MAX_SCHEMA_BYTES   (UINT64_C(16) << 20)
#define WIRE_MAX_SECTIONS       65536u                /* of one kind per attempt or rehearsal */
#define WIRE_MAX_SECTIONS_BYTES (UINT64_C(1) << 30)   /* of one kind per attempt or rehearsal */
#define WIRE_SECTION_PART_BYTES (UINT32_C(256) << 10) /* bytes of one part, at most */

/* Sends one whole section: BEGIN, PARTs, END. attempt: 0 for schema, rehearsal, snapshots. */
bool wire_send_section(struct wire_stream *stream, enum wire_section_kind kind, const char *name,
                       uint32_t instance, uint32_t version, uint32_t attempt, const void *data,
                       uint64_t n_bytes, int64_t deadline_ns, GError **error);

/* Puts received section records together. One per receiving channel. */
struct wire_section_reader;

struct wire_section {
    enum wire_section_kind kind;
    char *name;
    uint32_t instance;
    uint32_t version;
    uint32_t attempt;
    GBytes *data; /* owned; grown as bytes arrive, never by the announced size alone */
    uint64_t digest;
};
void wire_section_clear(struct wire_section *section);

struct wire_section_reader *wire_section_reader_new(void);
void wire_section_reader_free(struct wire_section_reader *reader);
/* Feeds SECTION_BEGIN, _PART (reads its bulk) or _END. When a section is whole and right, *section
 * is filled and *is_whole true. Fails on order, size, digest and limits. */
bool wire_section_feed(struct wire_section_reader *reader, const struct wire_record *record,
                       struct wire_section *section, bool *is_whole, int64_t deadline_ns,
                       GError **error);
/* Whether a section has begun and not ended. */
bool wire_section_is_open(const struct wire_section_reader *reader);
/* Starts the totals and the digest of STATE_END afresh (new attempt or rehearsal). */
void wire_section_reset(struct wire_section_reader *reader);
/* Totals of device sections since the reset, to compare with STATE_END; false with the field that
 * differs. */
bool wire_section_check_state_end(const struct wire_section_reader *reader,
                                  const struct wire_record *record,
                                  const struct wire_state_end *end, GError **error);

/* The sender's side: totals of device or rehearsal sections sent on the stream since the begin. */
void wire_state_begin(struct wire_stream *stream, uint32_t attempt);
/* Sends STATE_END with them. *sent, if not NULL, receives what was sent. */
bool wire_send_state_end(struct wire_stream *stream, struct wire_state_end *sent,
                         int64_t deadline_ns, GError **error);
/* Over the sections sent since STATE_BEGIN: what STATE_END will say. */
uint64_t wire_state_digest(const struct wire_stream *stream);

/* Receives a whole section of the kind (schema at set-up), passing over KEEPALIVE. */
bool wire_expect_section(struct wire_stream *stream, struct wire_section_reader *reader,
                         enum wire_section_kind kind, struct wire_section *section,
                         int64_t deadline_ns, GError **error);

#endif
