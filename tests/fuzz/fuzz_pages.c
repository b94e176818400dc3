/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: page records, received into blocks with guard pages around them.
 *
 * Input: u8 switches (bit 0: pages are known to be unwritten; bit 1: and go through a buffer), u8
 * features, then records for stream_build, of which PAGES count. Checked: no byte outside of the
 * block changes, and the pages reported are those of the packet.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "stream_build.h"
#include "wire/pages.h"

#define N_BLOCKS 3u

static const uint64_t block_sizes[N_BLOCKS] = {1, 7, 40}; /* pages */

struct seen {
    uint64_t n_pages;
    uint32_t block;
};

static uint64_t block_pages(void *opaque, uint32_t block)
{
    return block < N_BLOCKS ? block_sizes[block] : 0;
}

static void on_page(void *opaque, uint32_t block, uint64_t page, bool is_good)
{
    struct seen *seen = opaque;

    fuzz_check(block < N_BLOCKS && page < block_sizes[block]);
    seen->n_pages++;
}

static bool place(void *opaque, uint32_t block, uint64_t first_page, const uint8_t *bytes,
                  uint32_t n_pages, GError **error)
{
    fuzz_check(block < N_BLOCKS && n_pages >= 1 && n_pages <= WIRE_CHUNK_PAGES);
    fuzz_check(first_page < block_sizes[block] && n_pages <= block_sizes[block] - first_page);
    return bytes[0] != 0xEE; /* now and then there is no memory */
}

static void receive(struct wire_stream *stream, const struct wire_record *record, uint64_t features,
                    bool knows_written, bool has_buffer)
{
    static uint8_t fresh[WIRE_CHUNK_PAGES * WIRE_PAGE_BYTES];
    static uint8_t guarded[(40 + 2) * WIRE_PAGE_BYTES];
    static struct wire_pages_in packet;
    uint64_t written[1] = {0};
    struct seen seen = {0};
    uint32_t n_bad = 0;

    if (!wire_pages_parse(record, &packet, block_pages, NULL, features, NULL))
        return;
    size_t n_bytes = block_sizes[packet.block] * WIRE_PAGE_BYTES;
    memset(guarded, 0xA5, sizeof guarded);
    memset(guarded + WIRE_PAGE_BYTES, 0, n_bytes);
    const struct wire_pages_sink sink = {.host = guarded + WIRE_PAGE_BYTES,
                                         .written = knows_written ? written : NULL,
                                         .fresh = knows_written && has_buffer ? fresh : NULL,
                                         .place = place,
                                         .on_page = on_page,
                                         .opaque = &seen};
    if (wire_pages_receive(stream, record, &packet, &sink, &n_bad, GW_NO_DEADLINE, NULL))
        fuzz_check(seen.n_pages == packet.n_pages && n_bad <= packet.n_pages);
    for (size_t i = 0; i < WIRE_PAGE_BYTES; i++) {
        fuzz_check(guarded[i] == 0xA5);
        fuzz_check(guarded[WIRE_PAGE_BYTES + n_bytes + i] == 0xA5);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    unsigned switches = (unsigned)fuzz_take(&in, 1);
    uint64_t features = fuzz_take(&in, 1);
    struct stream_build build;
    struct wire_record record;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    stream_build_init(&build, WIRE_ROLE_PAGE, 0, WIRE_SIDE_SOURCE);
    while (stream_build_record(&build, &in))
        continue;
    fuzz_check(write(fd, build.bytes->data, build.bytes->len) == (ssize_t)build.bytes->len);
    lseek(fd, 0, SEEK_SET);
    stream_build_clear(&build);
    struct wire_stream *stream =
        wire_stream_accept(gw_channel_new_fd(fd, "fuzz", NULL, NULL), GW_NO_DEADLINE, NULL);
    fuzz_check(stream != NULL);
    wire_stream_set_phase(stream, WIRE_IN_ROUNDS);
    while (wire_receive(stream, &record, GW_NO_DEADLINE, NULL))
        if (record.type->type == WIRE_PAGES)
            receive(stream, &record, features, switches & 1, switches & 2);
    wire_stream_free(stream);
    return 0;
}
