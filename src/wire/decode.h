/* SPDX-License-Identifier: MIT */
/*
 * Decoding runs of pages: zstd and delta.
 *
 * PEER: every size is known before a byte is decoded. A decoder has two buffers of
 * WIRE_MAX_ENCODED_BYTES and one zstd context, about 700 KiB, made when the first encoded run comes
 * over the connection and kept as long as it; nothing else is allocated, whatever comes.
 *
 * Threads: the stream's receiving thread.
 */
#ifndef WIRE_DECODE_H
#define WIRE_DECODE_H

#include "wire/pages.h"

struct wire_decoder;

/* Reads the run's bytes, decodes them, puts the pages in place and tells the sink. A delta or a
 * frame that is not what the table says is CORRUPT; a page that does not match its digest is only
 * counted. The first zstd run of a packet decodes those of all. */
bool wire_decode_run(struct wire_stream *stream, const struct wire_record *record,
                     const struct wire_pages_in *packet, const struct wire_page_run *run,
                     const struct wire_pages_sink *sink, uint32_t *n_bad, int64_t deadline_ns,
                     GError **error);
/* Reads and decodes the bytes of the packet's first zstd run, which are those of all: the n_zstd
 * pages in order, in memory of the connection's that holds until its next packet. For who looks at
 * pages before they are placed; their digests are the caller's to compare. NULL: error is filled.
 */
const uint8_t *wire_decode_zstd(struct wire_stream *stream, const struct wire_record *record,
                                const struct wire_pages_in *packet, const struct wire_page_run *run,
                                int64_t deadline_ns, GError **error);
/* What the connection's decoder takes; 0 before the first encoded run. */
size_t wire_decoder_bytes(const struct wire_stream *stream);
void wire_decoder_free(struct wire_decoder *decoder);

#endif
