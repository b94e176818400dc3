/* SPDX-License-Identifier: MIT */
/*
 * Encoding the pages of a packet: delta against what the destination has, then zstd for the rest.
 *
 * The pages have been copied into the encoder's buffer, and their digests are of these copies. So a
 * guest that writes meanwhile disturbs neither zstd nor the delta, and what the cache keeps is
 * exactly what the destination will have.
 *
 * A delta must be a good deal smaller than what zstd would make of the page, else it stays for
 * zstd.
 */
#include "wire/encode.h"

#include <zstd.h>

#include "base/clock.h"
#include "wire/cursor.h"
#include "wire/delta.h"

#define ZSTD_LEVEL            1
#define DELTA_MAX_BYTES       2048u /* of a page, alone */
#define DELTA_MAX_BESIDE_ZSTD 512u
#define ZSTD_OUT_BYTES        (WIRE_MAX_ENCODED_BYTES / 10 * 9) /* larger ones are not worth decoding */

struct wire_encoder {
    struct delta_cache *cache; /* borrowed */
    ZSTD_CCtx *zstd;
    struct wire_encode_stats stats;
    uint8_t pages[WIRE_MAX_ENCODED_BYTES];
    uint8_t frame[ZSTD_OUT_BYTES];
    uint8_t deltas[WIRE_MAX_ENCODED_PAGES * (WIRE_DELTA_HEAD_BYTES + DELTA_MAX_BYTES)];
};

struct wire_encoder *wire_encoder_new(struct delta_cache *cache)
{
    ZSTD_CCtx *zstd = ZSTD_createCCtx();

    if (zstd == NULL) {
        return NULL;
    }
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_windowLog, WIRE_MAX_WINDOW_LOG);
    struct wire_encoder *encoder = g_malloc(sizeof *encoder);
    encoder->cache = cache;
    encoder->zstd = zstd;
    encoder->stats = (struct wire_encode_stats){0};
    return encoder;
}

void wire_encoder_free(struct wire_encoder *encoder)
{
    if (encoder != NULL) {
        ZSTD_freeCCtx(encoder->zstd);
        g_free(encoder);
    }
}

uint8_t *wire_encoder_buffer(struct wire_encoder *encoder)
{
    return encoder->pages;
}

const struct wire_encode_stats *wire_encoder_stats(const struct wire_encoder *encoder)
{
    return &encoder->stats;
}

size_t wire_encoder_bytes(const struct wire_encoder *encoder)
{
    return sizeof *encoder + ZSTD_sizeof_CCtx(encoder->zstd);
}

void wire_encoder_forget(struct wire_encoder *encoder, uint32_t block, uint64_t first,
                         uint64_t n_pages)
{
    if (encoder->cache != NULL) {
        delta_cache_lock(encoder->cache);
        delta_cache_forget_locked(encoder->cache, block, first, n_pages);
        delta_cache_unlock(encoder->cache);
    }
}

static void run_delta(struct wire_encoder *encoder, struct wire_encode_job *job)
{
    struct wire_encode_count *count = &encoder->stats.delta;
    size_t max = job->modes & WIRE_ENCODE_ZSTD ? DELTA_MAX_BESIDE_ZSTD : DELTA_MAX_BYTES;
    uint64_t start_ns = clock_mono_ns();
    uint8_t *out = encoder->deltas;

    delta_cache_lock(encoder->cache);
    for (uint32_t i = 0; i < job->n_pages; i++) {
        const uint8_t *page = encoder->pages + i * WIRE_PAGE_BYTES;
        bool is_known;
        uint8_t *last = delta_cache_slot_locked(encoder->cache, job->block, job->pages[i],
                                                job->round, &is_known);
        if (last != NULL && is_known) {
            size_t n = wire_delta_encode(last, page, out + WIRE_DELTA_HEAD_BYTES, max);
            if (n != SIZE_MAX) {
                wire_store_u16(out, (uint16_t)n);
                n += WIRE_DELTA_HEAD_BYTES;
                job->encodings[i] = WIRE_PAGE_DELTA;
                job->data[i] = (struct iovec){out, n};
                out += n;
                count->n_pages++;
            } else {
                encoder->stats.n_overflows++;
            }
        } else {
            encoder->stats.n_unknown++;
        }
        if (last != NULL) {
            memcpy(last, page, WIRE_PAGE_BYTES);
        }
    }
    delta_cache_unlock(encoder->cache);
    count->n_tried = job->n_pages;
    count->in_bytes = count->n_pages * WIRE_PAGE_BYTES;
    count->out_bytes = (uint64_t)(out - encoder->deltas);
    count->work_ns = clock_mono_ns() - start_ns;
}

/* The pages that are still plain, closed up at the start of the buffer; returns how many. */
static uint32_t close_up(struct wire_encoder *encoder, struct wire_encode_job *job)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < job->n_pages; i++) {
        if (job->encodings[i] != WIRE_PAGE_PLAIN) {
            continue;
        }
        uint8_t *to = encoder->pages + n * WIRE_PAGE_BYTES;
        if (i != n) {
            memcpy(to, encoder->pages + i * WIRE_PAGE_BYTES, WIRE_PAGE_BYTES);
        }
        job->data[i] = (struct iovec){to, WIRE_PAGE_BYTES};
        n++;
    }
    return n;
}

static void run_zstd(struct wire_encoder *encoder, struct wire_encode_job *job, uint32_t n_plain)
{
    struct wire_encode_count *count = &encoder->stats.zstd;
    uint64_t start_ns = clock_mono_ns();
    size_t n_in = n_plain * WIRE_PAGE_BYTES;
    /* ZSTD_c_contentSizeFlag is on by default: the frame says its size. */
    size_t n_out = ZSTD_compress2(encoder->zstd, encoder->frame,
                                  MIN(sizeof encoder->frame, n_in / 10 * 9), encoder->pages, n_in);
    bool is_smaller = !ZSTD_isError(n_out);

    for (uint32_t i = 0, k = 0; is_smaller && i < job->n_pages; i++) {
        if (job->encodings[i] == WIRE_PAGE_PLAIN) {
            job->encodings[i] = WIRE_PAGE_ZSTD;
            job->data[i] = (struct iovec){encoder->frame, k++ == 0 ? n_out : 0};
        }
    }
    count->n_tried = n_plain;
    count->n_pages = is_smaller ? n_plain : 0;
    count->in_bytes = is_smaller ? n_in : 0;
    count->out_bytes = is_smaller ? n_out : 0;
    count->work_ns = clock_mono_ns() - start_ns;
}

void wire_encoder_run(struct wire_encoder *encoder, struct wire_encode_job *job)
{
    encoder->stats = (struct wire_encode_stats){0};
    for (uint32_t i = 0; i < job->n_pages; i++) {
        job->encodings[i] = WIRE_PAGE_PLAIN;
    }
    if (job->modes & WIRE_ENCODE_DELTA && encoder->cache != NULL) {
        run_delta(encoder, job);
    }
    uint32_t n_plain = close_up(encoder, job);
    if (job->modes & WIRE_ENCODE_ZSTD && n_plain > 0) {
        run_zstd(encoder, job, n_plain);
    }
}
