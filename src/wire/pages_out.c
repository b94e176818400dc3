/* SPDX-License-Identifier: MIT */
/*
 * PAGES packets: building page tables over guest memory, and sending them.
 *
 * The cost per page is one zero test, which for most pages that are not zero ends at the first
 * cache line, and one XXH3-64. Adjacent pages of one kind become one run and one iovec, so that a
 * packet of consecutive pages goes out in one sendmsg of two pieces. With an encoder the pages are
 * copied first, and digested there.
 */
#include <assert.h>

#include "base/zero.h"
#include "wire/encode.h"
#include "wire/snapshot.h"
#include "wire/stream_impl.h"

#define AHEAD_BYTES 256u /* of the next page: where the processor sees by itself how it goes on */

struct wire_pages_out {
    uint32_t round;
    uint32_t block;
    uint64_t first_page;
    uint64_t next_page; /* the smallest that may be added */
    uint32_t n_pages;
    uint32_t n_zero;
    uint32_t n_digests;
    uint32_t n_runs;
    uint32_t n_iov;
    uint64_t bulk_bytes;
    struct wire_encoder *encoder; /* NULL: pages go out of guest memory as they are */
    unsigned modes;
    struct run {
        uint64_t first_page;
        uint16_t n_pages;
        uint8_t encoding;
        uint32_t data_bytes;
    } runs[WIRE_MAX_PACKET_PAGES];
    uint64_t digests[WIRE_MAX_PACKET_PAGES];
    struct iovec iov[WIRE_MAX_PACKET_PAGES];
    uint8_t payload[WIRE_PAGES_MAX_PAYLOAD];
};

struct wire_pages_out *wire_pages_out_new(void)
{
    return g_new0(struct wire_pages_out, 1);
}

void wire_pages_out_free(struct wire_pages_out *packet)
{
    g_free(packet);
}

static void packet_empty(struct wire_pages_out *packet)
{
    packet->n_pages = 0;
    packet->n_zero = 0;
    packet->n_digests = 0;
    packet->n_runs = 0;
    packet->n_iov = 0;
    packet->bulk_bytes = 0;
    packet->encoder = NULL;
}

void wire_pages_begin(struct wire_pages_out *packet, uint32_t round, uint32_t block)
{
    packet_empty(packet);
    packet->round = round;
    packet->block = block;
    packet->next_page = 0;
}

void wire_pages_use(struct wire_pages_out *packet, struct wire_encoder *encoder, unsigned modes)
{
    assert(packet->n_pages == 0);
    packet->encoder = modes != 0 ? encoder : NULL;
    packet->modes = modes;
}

static void add_bytes(struct wire_pages_out *packet, const void *bytes, size_t n_bytes)
{
    struct iovec *last = packet->n_iov > 0 ? &packet->iov[packet->n_iov - 1] : NULL;

    packet->bulk_bytes += n_bytes;
    if (last != NULL && (const uint8_t *)last->iov_base + last->iov_len == bytes) {
        last->iov_len += n_bytes;
    } else if (n_bytes > 0) {
        packet->iov[packet->n_iov++] = (struct iovec){(void *)(uintptr_t)bytes, n_bytes};
    }
}

/* Runs of one zstd frame have their bytes in the first of them. */
static void add_to_runs(struct wire_pages_out *packet, uint64_t page, uint8_t encoding,
                        size_t n_bytes)
{
    struct run *last = packet->n_runs > 0 ? &packet->runs[packet->n_runs - 1] : NULL;

    if (last == NULL || last->encoding != encoding || last->first_page + last->n_pages != page) {
        last = &packet->runs[packet->n_runs++];
        *last = (struct run){.first_page = page, .encoding = encoding};
    }
    last->n_pages++;
    last->data_bytes += (uint32_t)n_bytes;
}

/* host NULL: a zero page. */
static bool add_page(struct wire_pages_out *packet, uint64_t page, const uint8_t *host)
{
    if (packet->n_pages == 0) {
        packet->first_page = page;
    } else if (packet->n_pages == WIRE_MAX_PACKET_PAGES ||
               page - packet->first_page > UINT32_MAX - WIRE_MAX_PACKET_PAGES) {
        return false;
    }
    assert(page >= packet->next_page);
    if (host == NULL) {
        add_to_runs(packet, page, WIRE_PAGE_ZERO, 0);
        packet->n_zero++;
    } else {
        if (packet->encoder != NULL) {
            if (packet->n_digests == WIRE_MAX_ENCODED_PAGES) {
                return false;
            }
            uint8_t *copy =
                wire_encoder_buffer(packet->encoder) + packet->n_digests * WIRE_PAGE_BYTES;
            memcpy(copy, host, WIRE_PAGE_BYTES);
            host = copy;
        }
        add_to_runs(packet, page, WIRE_PAGE_PLAIN, WIRE_PAGE_BYTES);
        packet->digests[packet->n_digests++] = wire_page_digest(host);
        add_bytes(packet, host, WIRE_PAGE_BYTES);
    }
    packet->n_pages++;
    packet->next_page = page + 1;
    return true;
}

bool wire_pages_add(struct wire_pages_out *packet, uint64_t page, const uint8_t *host)
{
    /* Nothing but us looks ahead over the end of a page, and most likely the next one follows. What
     * is not there is not touched by this. */
    for (unsigned i = 0; i < AHEAD_BYTES; i += 64) {
        __builtin_prefetch(host + WIRE_PAGE_BYTES + i);
    }
    return add_page(packet, page, page_is_zero(host) ? NULL : host);
}

bool wire_pages_add_zero(struct wire_pages_out *packet, uint64_t page)
{
    return add_page(packet, page, NULL);
}

uint32_t wire_pages_count(const struct wire_pages_out *packet)
{
    return packet->n_pages;
}

uint32_t wire_pages_zero_count(const struct wire_pages_out *packet)
{
    return packet->n_zero;
}

uint64_t wire_pages_record_bytes(const struct wire_pages_out *packet)
{
    if (packet->n_pages == 0) {
        return 0;
    }
    return WIRE_HEADER_BYTES + WIRE_PAGES_FIXED_BYTES +
           (uint64_t)packet->n_runs * WIRE_PAGES_RUN_BYTES + UINT64_C(8) * packet->n_digests +
           packet->bulk_bytes;
}

/* The runs and the bulk again, now that it is known what each page becomes. */
static void rebuild(struct wire_pages_out *packet, const struct run *old, uint32_t n_old,
                    const struct wire_encode_job *job)
{
    uint32_t at = 0;

    packet->n_runs = 0;
    packet->n_iov = 0;
    packet->bulk_bytes = 0;
    for (uint32_t i = 0; i < n_old; i++) {
        for (uint32_t k = 0; k < old[i].n_pages; k++) {
            uint64_t page = old[i].first_page + k;
            if (old[i].encoding == WIRE_PAGE_ZERO) {
                add_to_runs(packet, page, WIRE_PAGE_ZERO, 0);
                continue;
            }
            add_to_runs(packet, page, (uint8_t)job->encodings[at], job->data[at].iov_len);
            add_bytes(packet, job->data[at].iov_base, job->data[at].iov_len);
            at++;
        }
    }
}

void wire_pages_encode(struct wire_pages_out *packet)
{
    struct run old[WIRE_MAX_PACKET_PAGES];
    struct wire_encode_job job;
    uint32_t n_old = packet->n_runs;

    if (packet->encoder == NULL) {
        return;
    }
    job.round = packet->round;
    job.block = packet->block;
    job.modes = packet->modes;
    job.n_pages = 0;
    for (uint32_t i = 0; i < n_old; i++) {
        old[i] = packet->runs[i];
        if (old[i].encoding == WIRE_PAGE_ZERO && packet->modes & WIRE_ENCODE_DELTA) {
            wire_encoder_forget(packet->encoder, packet->block, old[i].first_page, old[i].n_pages);
        }
        for (uint32_t k = 0; old[i].encoding == WIRE_PAGE_PLAIN && k < old[i].n_pages; k++) {
            job.pages[job.n_pages++] = old[i].first_page + k;
        }
    }
    wire_encoder_run(packet->encoder, &job);
    rebuild(packet, old, n_old, &job);
}

/* Writes the page table; returns its size. */
static uint32_t build_table(const struct wire_pages_out *packet, uint8_t *payload)
{
    uint8_t *at = payload;

    wire_store_u32(at, packet->round);
    wire_store_u32(at + 4, packet->block);
    wire_store_u64(at + 8, packet->first_page);
    wire_store_u16(at + 16, (uint16_t)packet->n_runs);
    wire_store_u16(at + 18, (uint16_t)packet->n_pages);
    wire_store_u32(at + 20, packet->n_digests);
    at += WIRE_PAGES_FIXED_BYTES;
    for (uint32_t i = 0; i < packet->n_runs; i++) {
        wire_store_u32(at, (uint32_t)(packet->runs[i].first_page - packet->first_page));
        wire_store_u16(at + 4, packet->runs[i].n_pages);
        at[6] = packet->runs[i].encoding;
        at[7] = 0;
        wire_store_u32(at + 8, packet->runs[i].data_bytes);
        at += WIRE_PAGES_RUN_BYTES;
    }
    for (uint32_t i = 0; i < packet->n_digests; i++) {
        wire_store_u64(at, packet->digests[i]);
        at += 8;
    }
    return (uint32_t)(at - payload);
}

uint32_t wire_pages_table(const struct wire_pages_out *packet, uint8_t *payload,
                          struct wire_index_entry *entry)
{
    if (packet->n_pages == 0) {
        return 0;
    }
    entry->block = packet->block;
    entry->first_page = packet->first_page;
    entry->n_pages = (uint32_t)(packet->next_page - packet->first_page);
    entry->bulk_bytes = (uint32_t)packet->bulk_bytes;
    return build_table(packet, payload);
}

const struct iovec *wire_pages_bulk(const struct wire_pages_out *packet, size_t *n_iov)
{
    *n_iov = packet->n_iov;
    return packet->iov;
}

bool wire_pages_send(struct wire_pages_out *packet, struct wire_stream *stream, int64_t deadline_ns,
                     GError **error)
{
    if (packet->n_pages == 0) {
        return true;
    }
    uint32_t payload_bytes = build_table(packet, packet->payload);
    if (!wire_send_raw(stream, WIRE_PAGES, packet->payload, payload_bytes, packet->iov,
                       packet->n_iov, deadline_ns, error)) {
        return false;
    }
    wire_count(&stream->pages_out, packet->n_pages);
    packet_empty(packet);
    return true;
}
