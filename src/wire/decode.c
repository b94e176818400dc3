/* SPDX-License-Identifier: MIT */
/*
 * Decoding runs of pages: zstd and delta.
 *
 * A frame is decoded into a buffer of our own and not into guest memory: zstd reads back what it
 * has written, and another channel of the same peer could write there. The frame says how large
 * its content is; that, its window, and that nothing stands behind it are checked first.
 */
#include "wire/decode.h"

#define ZSTD_STATIC_LINKING_ONLY /* ZSTD_getFrameHeader: the window before anything is decoded */
#include <zstd.h>

#include "wire/delta.h"
#include "wire/stream_impl.h"

struct wire_decoder {
    ZSTD_DCtx *zstd;
    uint8_t in[WIRE_MAX_ENCODED_BYTES];
    uint8_t out[WIRE_MAX_ENCODED_BYTES];
};

void wire_decoder_free(struct wire_decoder *decoder)
{
    if (decoder != NULL) {
        ZSTD_freeDCtx(decoder->zstd);
        g_free(decoder);
    }
}

size_t wire_decoder_bytes(const struct wire_stream *stream)
{
    return stream->decoder ? sizeof *stream->decoder + ZSTD_sizeof_DCtx(stream->decoder->zstd) : 0;
}

static struct wire_decoder *decoder_of(struct wire_stream *stream, const struct wire_record *record,
                                       GError **error)
{
    if (stream->decoder == NULL) {
        struct wire_decoder *decoder = g_malloc(sizeof *decoder);
        decoder->zstd = ZSTD_createDCtx();
        if (decoder->zstd == NULL) {
            g_free(decoder);
            wire_record_error(record, GW_ERROR_FAILED, error, "no memory to decode zstd");
            return NULL;
        }
        stream->decoder = decoder;
    }
    return stream->decoder;
}

static void tell(const struct wire_pages_sink *sink, uint32_t block, uint64_t page, bool is_good,
                 uint32_t *n_bad)
{
    *n_bad += !is_good;
    if (sink->on_page != NULL) {
        sink->on_page(sink->opaque, block, page, is_good);
    }
}

/* ---- zstd ---- */

/* NULL, or what is wrong with the frame. */
static const char *frame_fault(const uint8_t *frame, size_t n_bytes, size_t n_content)
{
    ZSTD_frameHeader head;

    if (ZSTD_getFrameHeader(&head, frame, n_bytes) != 0 || head.frameType != ZSTD_frame) {
        return "no zstd frame";
    }
    if (head.frameContentSize != n_content) {
        return "a zstd frame of another size than its pages";
    }
    if (head.windowSize > UINT64_C(1) << WIRE_MAX_WINDOW_LOG) {
        return "a zstd frame with too large a window";
    }
    if (head.dictID != 0) {
        return "a zstd frame that wants a dictionary";
    }
    if (ZSTD_findFrameCompressedSize(frame, n_bytes) != n_bytes) {
        return "a zstd frame that is cut or followed by something";
    }
    return NULL;
}

static bool decode_frame(struct wire_decoder *decoder, const struct wire_record *record,
                         size_t n_bytes, size_t n_content, GError **error)
{
    const char *fault = frame_fault(decoder->in, n_bytes, n_content);

    if (fault == NULL) {
        size_t n =
            ZSTD_decompressDCtx(decoder->zstd, decoder->out, n_content, decoder->in, n_bytes);
        if (ZSTD_isError(n)) {
            fault = ZSTD_getErrorName(n);
        } else if (n != n_content) {
            fault = "a zstd frame of another size than it says";
        }
    }
    if (fault != NULL) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "field bulk: %s", fault);
        return false;
    }
    return true;
}

/* Hands the decoded pages out to all zstd runs of the packet. */
static void place_frame(const uint8_t *from, const struct wire_pages_in *packet,
                        const struct wire_pages_sink *sink, uint32_t *n_bad)
{
    for (uint32_t i = 0; i < packet->n_runs; i++) {
        const struct wire_page_run *run = &packet->runs[i];
        for (uint32_t k = 0; run->encoding == WIRE_PAGE_ZSTD && k < run->n_pages; k++) {
            uint64_t page = run->first_page + k;
            memcpy(sink->host + page * WIRE_PAGE_BYTES, from, WIRE_PAGE_BYTES);
            tell(sink, packet->block, page,
                 wire_page_digest(from) == packet->digests[run->first_digest + k], n_bad);
            from += WIRE_PAGE_BYTES;
        }
    }
}

/* ---- delta ---- */

static bool decode_deltas(const struct wire_decoder *decoder, const struct wire_record *record,
                          const struct wire_pages_in *packet, const struct wire_page_run *run,
                          const struct wire_pages_sink *sink, uint32_t *n_bad, GError **error)
{
    const uint8_t *at = decoder->in, *end = at + run->data_bytes;

    for (uint32_t k = 0; k < run->n_pages; k++) {
        uint64_t page = run->first_page + k;
        uint8_t *host = sink->host + page * WIRE_PAGE_BYTES;
        size_t left = (size_t)(end - at);
        size_t n = left < WIRE_DELTA_HEAD_BYTES ? SIZE_MAX : wire_load_u16(at);

        if (n > left - WIRE_DELTA_HEAD_BYTES ||
            !wire_delta_apply(host, at + WIRE_DELTA_HEAD_BYTES, n)) {
            wire_record_error(record, GW_ERROR_CORRUPT, error,
                              "field bulk: the delta of page %u of a run leaves its bounds", k);
            return false;
        }
        at += WIRE_DELTA_HEAD_BYTES + n;
        tell(sink, packet->block, page,
             wire_page_digest(host) == packet->digests[run->first_digest + k], n_bad);
    }
    if (at != end) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "field bulk: a delta run has %zu bytes too many", (size_t)(end - at));
        return false;
    }
    return true;
}

/* Reads the run's bytes into the decoder. NULL: error is filled. */
static struct wire_decoder *read_run(struct wire_stream *stream, const struct wire_record *record,
                                     const struct wire_page_run *run, int64_t deadline_ns,
                                     GError **error)
{
    struct wire_decoder *decoder = decoder_of(stream, record, error);

    if (decoder == NULL) {
        return NULL;
    }
    g_assert(run->data_bytes <= sizeof decoder->in);
    const struct iovec iov = {decoder->in, run->data_bytes};
    return wire_receive_bulk(stream, &iov, 1, deadline_ns, error) ? decoder : NULL;
}

const uint8_t *wire_decode_zstd(struct wire_stream *stream, const struct wire_record *record,
                                const struct wire_pages_in *packet, const struct wire_page_run *run,
                                int64_t deadline_ns, GError **error)
{
    struct wire_decoder *decoder = read_run(stream, record, run, deadline_ns, error);

    if (decoder == NULL ||
        !decode_frame(decoder, record, run->data_bytes, packet->n_zstd * WIRE_PAGE_BYTES, error)) {
        return NULL;
    }
    return decoder->out;
}

bool wire_decode_run(struct wire_stream *stream, const struct wire_record *record,
                     const struct wire_pages_in *packet, const struct wire_page_run *run,
                     const struct wire_pages_sink *sink, uint32_t *n_bad, int64_t deadline_ns,
                     GError **error)
{
    if (run->encoding == WIRE_PAGE_DELTA) {
        struct wire_decoder *decoder = read_run(stream, record, run, deadline_ns, error);
        return decoder != NULL && decode_deltas(decoder, record, packet, run, sink, n_bad, error);
    }
    if (run->data_bytes == 0) {
        return true; /* came with the first */
    }
    const uint8_t *pages = wire_decode_zstd(stream, record, packet, run, deadline_ns, error);
    if (pages != NULL) {
        place_frame(pages, packet, sink, n_bad);
    }
    return pages != NULL;
}
