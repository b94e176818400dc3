/* SPDX-License-Identifier: MIT */
/*
 * Encoding the pages of a packet: delta against what the destination has, then zstd for the rest.
 *
 * An encoder belongs to one sending thread: a buffer for the pages of a packet, one for what they
 * become, and a zstd context, about 2 MiB. The cache of contents may be shared by several.
 */
#ifndef WIRE_ENCODE_H
#define WIRE_ENCODE_H

#include "wire/delta_cache.h"
#include "wire/pages.h"

enum wire_encode_mode {
    WIRE_ENCODE_DELTA = 1,
    WIRE_ENCODE_ZSTD = 2,
};

/* What one method did, in a packet or in total. Times in ns. */
struct wire_encode_count {
    uint64_t n_tried;   /* pages that it looked at */
    uint64_t n_pages;   /* that it encoded */
    uint64_t in_bytes;  /* of those encoded */
    uint64_t out_bytes; /* what they became */
    uint64_t work_ns;   /* for all that it looked at */
};

struct wire_encode_stats {
    struct wire_encode_count delta, zstd;
    uint64_t n_unknown;   /* pages tried for a delta of which nothing was in the cache */
    uint64_t n_overflows; /* deltas that became too large */
};

/* cache: borrowed, may be NULL. NULL: no memory for zstd. */
struct wire_encoder *wire_encoder_new(struct delta_cache *cache);
void wire_encoder_free(struct wire_encoder *encoder);
/* The page buffer, WIRE_MAX_ENCODED_BYTES. */
uint8_t *wire_encoder_buffer(struct wire_encoder *encoder);
/* What the last packet took and gave. */
const struct wire_encode_stats *wire_encoder_stats(const struct wire_encoder *encoder);
size_t wire_encoder_bytes(const struct wire_encoder *encoder);

/* ---- for pages_out.c ---- */

/* Pages of one packet, in the buffer in order; the rest is filled by wire_encoder_run. */
struct wire_encode_job {
    uint32_t round, block;
    unsigned modes;
    uint32_t n_pages;
    uint64_t pages[WIRE_MAX_ENCODED_PAGES];
    enum wire_encoding encodings[WIRE_MAX_ENCODED_PAGES]; /* of each page */
    /* Bytes of each page on the wire; of zstd pages all stand with the first one. */
    struct iovec data[WIRE_MAX_ENCODED_PAGES];
};

void wire_encoder_run(struct wire_encoder *encoder, struct wire_encode_job *job);
/* These pages go out as zeroes. */
void wire_encoder_forget(struct wire_encoder *encoder, uint32_t block, uint64_t first,
                         uint64_t n_pages);

#endif
