/* SPDX-License-Identifier: MIT */
/* Pages arrive where they belong; page tables that lie are refused; suspects are found. */
#include "fixture.h"

#include "wire/cursor.h"

enum { N_PAGES = 600 };

struct peer {
    uint8_t *memory;
    uint64_t written[(N_PAGES + 63) / 64];
    struct wire_pages_in packet;
    GArray *bad; /* of uint64_t */
    unsigned n_told;
    uint8_t *fresh; /* NULL: everything is received in place */
    unsigned n_placed;
};

static uint64_t block_pages(void *opaque, uint32_t block)
{
    (void)opaque;
    return block == 2 ? N_PAGES : 0;
}

static void on_page(void *opaque, uint32_t block, uint64_t page, bool is_good)
{
    struct peer *peer = opaque;

    assert_int_equal(block, 2);
    peer->n_told++;
    if (!is_good) {
        g_array_append_val(peer->bad, page);
    }
}

static bool place(void *opaque, uint32_t block, uint64_t first_page, const uint8_t *bytes,
                  uint32_t n_pages, GError **error)
{
    struct peer *peer = opaque;

    assert_int_equal(block, 2);
    assert_in_range(n_pages, 1, WIRE_CHUNK_PAGES);
    assert_true(first_page + n_pages <= N_PAGES);
    memcpy(peer->memory + first_page * WIRE_PAGE_BYTES, bytes, n_pages * WIRE_PAGE_BYTES);
    peer->n_placed += n_pages;
    return true;
}

static struct peer *peer_new(void)
{
    struct peer *peer = g_new0(struct peer, 1);

    peer->memory = mmap(NULL, N_PAGES * WIRE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    peer->bad = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    return peer;
}

static void peer_free(struct peer *peer)
{
    munmap(peer->memory, N_PAGES * WIRE_PAGE_BYTES);
    g_array_unref(peer->bad);
    g_free(peer->fresh);
    g_free(peer);
}

/* Receives n packets. */
static void receive(struct peer *peer, struct wire_stream *stream, unsigned n_packets,
                    uint32_t expected_bad)
{
    const struct wire_pages_sink sink = {.host = peer->memory,
                                         .written = peer->written,
                                         .fresh = peer->fresh,
                                         .place = place,
                                         .on_page = on_page,
                                         .opaque = peer};
    GError *error = NULL;
    uint32_t n_bad_total = 0;

    for (unsigned i = 0; i < n_packets; i++) {
        struct wire_record record;
        uint32_t n_bad = 0;
        assert_ok(wire_receive(stream, &record, NEVER, &error), error);
        assert_int_equal(record.type->type, WIRE_PAGES);
        assert_ok(wire_pages_parse(&record, &peer->packet, block_pages, NULL, 0, &error), error);
        assert_ok(wire_pages_receive(stream, &record, &peer->packet, &sink, &n_bad, NEVER, &error),
                  error);
        n_bad_total += n_bad;
    }
    assert_int_equal(n_bad_total, expected_bad);
}

struct send_job {
    struct wire_stream *stream;
    uint8_t *memory;
    uint64_t step; /* every step-th page */
    unsigned n_packets;
    GError *error;
};

/* Sends pages of block 2; packets as full as they become. */
static void *send_thread(void *opaque)
{
    struct send_job *job = opaque;
    struct wire_pages_out *packet = wire_pages_out_new();

    wire_pages_begin(packet, 1, 2);
    for (uint64_t page = 0; page < N_PAGES; page += job->step) {
        const uint8_t *host = job->memory + page * WIRE_PAGE_BYTES;
        if (!wire_pages_add(packet, page, host)) {
            job->n_packets++;
            if (!wire_pages_send(packet, job->stream, NEVER, &job->error)) {
                break;
            }
            wire_pages_begin(packet, 1, 2);
            wire_pages_add(packet, page, host);
        }
    }
    job->n_packets += wire_pages_count(packet) > 0;
    wire_pages_send(packet, job->stream, NEVER, &job->error);
    wire_pages_out_free(packet);
    return NULL;
}

/* has_buffer: pages that were never written are placed; every seventh was written before. */
static void check_transfer(uint64_t step, unsigned n_packets, bool has_buffer)
{
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_PAGE, 0, WIRE_IN_ROUNDS);
    struct peer *peer = peer_new();
    g_autofree uint8_t *memory = g_malloc(N_PAGES * WIRE_PAGE_BYTES);
    struct send_job job = {.stream = ends.source, .memory = memory, .step = step};
    pthread_t thread;

    fixture_fill_memory(memory, N_PAGES);
    peer->fresh = has_buffer ? g_malloc(WIRE_CHUNK_PAGES * WIRE_PAGE_BYTES) : NULL;
    for (uint64_t page = 0; has_buffer && page < N_PAGES; page += 7) {
        peer->written[page / 64] |= UINT64_C(1) << (page % 64);
    }
    assert_int_equal(pthread_create(&thread, NULL, send_thread, &job), 0);
    receive(peer, ends.destination, n_packets, 0);
    pthread_join(thread, NULL);
    assert_ok(true, job.error);
    assert_int_equal(job.n_packets, n_packets);
    unsigned n_told = 0, n_placed = 0;
    for (uint64_t page = 0; page < N_PAGES; page++) {
        bool is_sent = page % step == 0;
        bool was_written = has_buffer && page % 7 == 0;
        n_placed += has_buffer && is_sent && page % 5 < 3 && !was_written;
        const uint8_t *at = peer->memory + page * WIRE_PAGE_BYTES;
        n_told += is_sent;
        if (is_sent) {
            assert_memory_equal(at, memory + page * WIRE_PAGE_BYTES, WIRE_PAGE_BYTES);
        } else {
            assert_true(wire_page_is_zero(at));
        }
        bool is_marked = (peer->written[page / 64] >> (page % 64)) & 1;
        assert_int_equal(is_marked, was_written || (is_sent && page % 5 < 3));
    }
    assert_int_equal(peer->n_told, n_told);
    assert_int_equal(peer->n_placed, n_placed);
    peer_free(peer);
    fixture_close(&ends);
}

static void pages_arrive(void **state)
{
    (void)state;
    check_transfer(1, 3, false);
    check_transfer(2, 2, false);
    check_transfer(7, 1, false);
    check_transfer(N_PAGES, 1, false);
}

static void fresh_pages_are_placed(void **state)
{
    (void)state;
    check_transfer(1, 3, true);
    check_transfer(2, 2, true);
    check_transfer(7, 1, true);
    check_transfer(N_PAGES, 1, true);
}

static void zero_pages_clear_what_was_there(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_PAGE, 0, WIRE_IN_ROUNDS);
    struct peer *peer = peer_new();
    struct wire_pages_out *packet = wire_pages_out_new();
    static uint8_t pages[2 * WIRE_PAGE_BYTES];
    GError *error = NULL;

    memset(peer->memory + 70 * WIRE_PAGE_BYTES, 1, 2 * WIRE_PAGE_BYTES);
    peer->written[1] = 1u << (70 - 64); /* page 70 was written; page 71 is said to be fresh */
    wire_pages_begin(packet, 1, 2);
    assert_true(wire_pages_add(packet, 70, pages));
    assert_true(wire_pages_add(packet, 71, pages + WIRE_PAGE_BYTES));
    assert_int_equal(wire_pages_zero_count(packet), 2);
    assert_ok(wire_pages_send(packet, ends.source, NEVER, &error), error);
    assert_int_equal(wire_pages_count(packet), 0);
    receive(peer, ends.destination, 1, 0);
    assert_true(wire_page_is_zero(peer->memory + 70 * WIRE_PAGE_BYTES));
    assert_false(wire_page_is_zero(peer->memory + 71 * WIRE_PAGE_BYTES)); /* not even touched */
    wire_pages_out_free(packet);
    peer_free(peer);
    fixture_close(&ends);
}

/* A page that changes between digest and send is suspect; its next good copy clears it. */
static void a_page_that_changes_is_suspect(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_PAGE, 0, WIRE_IN_ROUNDS);
    struct peer *peer = peer_new();
    struct wire_pages_out *packet = wire_pages_out_new();
    static uint8_t pages[3 * WIRE_PAGE_BYTES];
    GError *error = NULL;

    fixture_fill_memory(pages, 3);
    wire_pages_begin(packet, 1, 2);
    for (uint64_t i = 0; i < 3; i++) {
        assert_true(wire_pages_add(packet, 10 + i, pages + i * WIRE_PAGE_BYTES));
    }
    pages[WIRE_PAGE_BYTES + 99] ^= 1; /* the guest writes page 11 */
    assert_ok(wire_pages_send(packet, ends.source, NEVER, &error), error);
    receive(peer, ends.destination, 1, 1);
    assert_int_equal(peer->bad->len, 1);
    assert_int_equal(g_array_index(peer->bad, uint64_t, 0), 11);
    assert_memory_equal(peer->memory + 11 * WIRE_PAGE_BYTES, pages + WIRE_PAGE_BYTES,
                        WIRE_PAGE_BYTES);
    g_array_set_size(peer->bad, 0);
    assert_true(wire_pages_add(packet, 13, pages + WIRE_PAGE_BYTES)); /* it may be reused */
    assert_ok(wire_pages_send(packet, ends.source, NEVER, &error), error);
    receive(peer, ends.destination, 1, 0);
    assert_int_equal(peer->bad->len, 0);
    wire_pages_out_free(packet);
    peer_free(peer);
    fixture_close(&ends);
}

/* ---- page tables that lie ---- */

/* A valid table: pages 5,6 plain, 8 zero, 9 plain; the test changes one field. */
static size_t make_table(uint8_t *at)
{
    static const struct {
        uint32_t offset;
        uint16_t n;
        uint8_t encoding;
        uint32_t bytes;
    } runs[] = {{0, 2, 1, 8192}, {3, 1, 2, 0}, {4, 1, 1, 4096}};

    wire_store_u32(at, 1);
    wire_store_u32(at + 4, 2);
    wire_store_u64(at + 8, 5);
    wire_store_u16(at + 16, 3);
    wire_store_u16(at + 18, 4);
    wire_store_u32(at + 20, 3);
    for (size_t i = 0; i < 3; i++) {
        uint8_t *run = at + 24 + 12 * i;
        wire_store_u32(run, runs[i].offset);
        wire_store_u16(run + 4, runs[i].n);
        run[6] = runs[i].encoding;
        run[7] = 0;
        wire_store_u32(run + 8, runs[i].bytes);
    }
    memset(at + 60, 0, 24);
    return 84;
}

static void check_table(size_t at, unsigned n_bytes, uint64_t value, size_t len, uint32_t bulk,
                        uint64_t features, int code, const char *text)
{
    static struct wire_pages_in packet;
    uint8_t table[128] = {0};
    GError *error = NULL;
    struct wire_stream *stream =
        wire_stream_new(fixture_reader("", 0), &(struct wire_identity){.role = WIRE_ROLE_PAGE},
                        WIRE_SIDE_DESTINATION);
    struct wire_record record = {.type = wire_record_type_of(WIRE_PAGES),
                                 .payload = table,
                                 .bulk_bytes = bulk,
                                 .stream = stream};

    make_table(table);
    for (unsigned i = 0; i < n_bytes; i++) {
        table[at + i] = (uint8_t)(value >> (8 * i));
    }
    record.payload_bytes = (uint32_t)len;
    bool is_ok = wire_pages_parse(&record, &packet, block_pages, NULL, features, &error);
    if (text == NULL) {
        assert_ok(is_ok, error);
    } else {
        assert_false(is_ok);
        assert_error(&error, code, text);
    }
    wire_stream_free(stream);
}

static void tables_that_lie(void **state)
{
    (void)state;
    const uint64_t all = UINT64_MAX;

    check_table(0, 0, 0, 84, 12288, 0, 0, NULL);
    check_table(8, 8, N_PAGES - 5, 84, 12288, 0, 0, NULL); /* the last ones */
    check_table(4, 4, 1, 84, 12288, 0, GW_ERROR_CORRUPT, "field block: there is no block 1");
    check_table(4, 4, 64, 84, 12288, 0, GW_ERROR_LIMIT, "field block");
    check_table(8, 8, N_PAGES - 4, 84, 12288, 0, GW_ERROR_LIMIT, "run 2 ends behind");
    check_table(8, 8, N_PAGES, 84, 12288, 0, GW_ERROR_LIMIT, "field first_page");
    check_table(8, 8, UINT64_MAX, 84, 12288, 0, GW_ERROR_LIMIT, "field first_page");
    check_table(16, 2, 0, 84, 12288, 0, GW_ERROR_LIMIT, "field n_runs");
    check_table(16, 2, 257, 84, 12288, 0, GW_ERROR_LIMIT, "field n_runs");
    check_table(16, 2, 2, 84, 8192, 0, GW_ERROR_CORRUPT, "field n_pages");
    check_table(18, 2, 5, 84, 12288, 0, GW_ERROR_CORRUPT, "field n_pages");
    check_table(20, 4, 2, 84, 12288, 0, GW_ERROR_CORRUPT, "field n_digests");
    check_table(20, 4, 257, 84, 12288, 0, GW_ERROR_LIMIT, "field n_digests");
    check_table(24, 4, 1, 84, 12288, 0, GW_ERROR_CORRUPT, "run 0 is out of order");
    check_table(36, 4, 1, 84, 12288, 0, GW_ERROR_CORRUPT, "run 1 is out of order");
    check_table(36, 4, UINT32_MAX, 84, 12288, 0, GW_ERROR_LIMIT, "run 1 ends behind");
    check_table(28, 2, 0, 84, 12288, 0, GW_ERROR_LIMIT, "field runs.n_pages");
    check_table(28, 2, 1, 84, 12288, 0, GW_ERROR_CORRUPT, "run 0 has 8192 bytes for 1 pages");
    check_table(28, 2, 257, 84, 12288, 0, GW_ERROR_LIMIT, "field runs.n_pages");
    check_table(30, 1, 0, 84, 12288, 0, GW_ERROR_REFUSED, "encoding 0");
    check_table(30, 1, 4, 84, 12288, 0, GW_ERROR_REFUSED, "encoding 4, which was not agreed");
    check_table(30, 1, 4, 84, 12288, all, 0, NULL);
    check_table(30, 1, 5, 84, 12288, all, GW_ERROR_REFUSED, "encoding 5");
    check_table(31, 1, 1, 84, 12288, 0, GW_ERROR_LIMIT, "field runs.reserved");
    check_table(32, 4, 4096, 84, 8192, 0, GW_ERROR_CORRUPT, "4096 bytes for 2 pages");
    check_table(44, 4, 4096, 84, 16384, 0, GW_ERROR_CORRUPT, "4096 bytes for 1 pages");
    check_table(0, 0, 0, 84, 12287, 0, GW_ERROR_CORRUPT, "field bulk: found 12287");
    check_table(0, 0, 0, 83, 12288, 0, GW_ERROR_CORRUPT, "field length");
    check_table(0, 0, 0, 85, 12288, 0, GW_ERROR_CORRUPT, "field length");
    check_table(0, 0, 0, 40, 12288, 0, GW_ERROR_CORRUPT, "bytes short");
}

/* ---- rounds ---- */

static void rounds_are_counted(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_PAGE, 0, WIRE_IN_ROUNDS);
    GError *error = NULL;
    struct wire_round_check check = {0};
    struct wire_record record;
    const struct wire_round_begin one = {.round = 1};
    const struct wire_round_begin three = {.round = 3};
    const struct wire_round_end wrong = {.round = 1, .n_pages = 1};
    const struct wire_round_end right = {.round = 1};
    const struct wire_pages_in packet = {.round = 1, .n_pages = 3};

    assert_ok(wire_send(ends.source, WIRE_ROUND_BEGIN, &one, NEVER, &error), error);
    assert_ok(wire_receive(ends.destination, &record, NEVER, &error), error);
    assert_false(wire_round_add(&check, &record, &packet, &error)); /* before the begin */
    assert_error(&error, GW_ERROR_CORRUPT, "field round: found 1, but round 0 has ended");
    assert_ok(wire_round_open(&check, &record, NULL, &error), error);
    assert_false(wire_round_open(&check, &record, NULL, &error));
    assert_error(&error, GW_ERROR_CORRUPT, "round 1 has not ended");
    assert_ok(wire_send(ends.source, WIRE_ROUND_END, &wrong, NEVER, &error), error);
    assert_ok(wire_receive(ends.destination, &record, NEVER, &error), error);
    assert_false(wire_round_close(&check, &record, NULL, &error));
    assert_error(&error, GW_ERROR_CORRUPT, "field n_pages: found 1, expected 0");
    assert_ok(wire_send(ends.source, WIRE_ROUND_END, &right, NEVER, &error), error);
    assert_ok(wire_receive(ends.destination, &record, NEVER, &error), error);
    assert_ok(wire_round_close(&check, &record, NULL, &error), error);
    assert_ok(wire_send(ends.source, WIRE_ROUND_BEGIN, &three, NEVER, &error), error);
    assert_ok(wire_receive(ends.destination, &record, NEVER, &error), error);
    assert_false(wire_round_open(&check, &record, NULL, &error));
    assert_error(&error, GW_ERROR_CORRUPT, "field round: found 3, expected 2");
    fixture_close(&ends);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_arrive),
        cmocka_unit_test(fresh_pages_are_placed),
        cmocka_unit_test(zero_pages_clear_what_was_there),
        cmocka_unit_test(a_page_that_changes_is_suspect),
        cmocka_unit_test(tables_that_lie),
        cmocka_unit_test(rounds_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
