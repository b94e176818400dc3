/* SPDX-License-Identifier: MIT */
/* Pages that travel as deltas and as zstd: they arrive, they cost less, and whatever else comes in
 * their place is refused without a byte written next to them. */
#include "fixture.h"

#include <zstd.h>

#include "wire/cursor.h"
#include "wire/decode.h"
#include "wire/delta.h"
#include "wire/encode.h"

enum { N_PAGES = 200, BLOCK = 2 };

#define FEATURES        ((UINT64_C(1) << WIRE_FEATURE_ZSTD) | (UINT64_C(1) << WIRE_FEATURE_DELTA))
#define PAGE(memory, n) ((memory) + (size_t)(n)*WIRE_PAGE_BYTES)

/* ---- deltas ---- */

static void check_delta(const uint8_t *from, const uint8_t *to)
{
    uint8_t delta[2 * WIRE_PAGE_BYTES], page[WIRE_PAGE_BYTES];
    size_t n = wire_delta_encode(from, to, delta, sizeof delta);

    assert_true(n != SIZE_MAX);
    assert_int_equal(n == 0, memcmp(from, to, WIRE_PAGE_BYTES) == 0);
    memcpy(page, from, WIRE_PAGE_BYTES);
    assert_true(wire_delta_apply(page, delta, n));
    assert_memory_equal(page, to, WIRE_PAGE_BYTES);
    if (n > 0) { /* exactly as much room as it needs, and a byte less */
        assert_int_equal(wire_delta_encode(from, to, delta, n), n);
        assert_int_equal(wire_delta_encode(from, to, delta, n - 1), SIZE_MAX);
    }
}

static void deltas_restore_the_page(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(5);
    uint8_t from[WIRE_PAGE_BYTES], to[WIRE_PAGE_BYTES];

    memset(from, 7, sizeof from);
    memcpy(to, from, sizeof to);
    check_delta(from, to);
    memset(to, 8, sizeof to);
    check_delta(from, to);
    for (unsigned round = 0; round < 300; round++) {
        memcpy(to, from, sizeof to);
        for (int i = g_rand_int_range(random, 1, 20); i > 0; i--) {
            unsigned at = (unsigned)g_rand_int_range(random, 0, WIRE_PAGE_BYTES);
            unsigned n = (unsigned)g_rand_int_range(random, 1, 90);
            memset(to + at, g_rand_int_range(random, 0, 256), MIN(n, WIRE_PAGE_BYTES - at));
        }
        to[round % 2 ? 0 : WIRE_PAGE_BYTES - 1] ^= 1; /* the edges */
        check_delta(from, to);
        memcpy(from, to, sizeof from);
    }
}

static void deltas_that_lie_change_nothing(void **state)
{
    static const struct {
        uint8_t bytes[16];
        size_t n;
    } bad[] = {
        {{0}, 1},                               /* no whole piece */
        {{0, 0, 1, 0}, 4},                      /* no byte */
        {{0, 0, 0, 0}, 4},                      /* nothing changes */
        {{0, 0, 1, 0, 9, 0, 0}, 7},             /* cut behind a good piece */
        {{0, 0, 2, 0, 9}, 5},                   /* fewer than it says */
        {{0, 16, 1, 0, 9}, 5},                  /* at byte 4096 */
        {{255, 255, 1, 0, 9}, 5},               /* far behind */
        {{255, 15, 2, 0, 9, 9}, 6},             /* over the end */
        {{0, 0, 1, 0, 9, 255, 15, 1, 0, 9}, 10} /* the second one over the end */
    };
    uint8_t page[WIRE_PAGE_BYTES] = {0};
    const uint8_t good[] = {255, 15, 1, 0, 9};

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_false(wire_delta_apply(page, bad[i].bytes, bad[i].n));
        assert_true(wire_page_is_zero(page));
    }
    assert_true(wire_delta_apply(page, good, sizeof good));
    assert_int_equal(page[WIRE_PAGE_BYTES - 1], 9);
}

/* ---- the cache ---- */

static void the_cache_keeps_what_is_in_use(void **state)
{
    /* room for exactly 4 slots */
    struct delta_cache *cache = delta_cache_new(4 * (WIRE_PAGE_BYTES + 16));
    bool is_known = true;

    delta_cache_lock(cache);
    uint8_t *one = delta_cache_slot_locked(cache, 0, 1, 2, &is_known);
    assert_non_null(one);
    assert_false(is_known);
    assert_ptr_equal(delta_cache_slot_locked(cache, 0, 1, 2, &is_known), one);
    assert_true(is_known);
    assert_null(delta_cache_slot_locked(cache, 0, 5, 2, &is_known)); /* the same slot */
    assert_null(delta_cache_slot_locked(cache, 0, 5, 3, &is_known));
    assert_ptr_equal(delta_cache_slot_locked(cache, 0, 5, 4, &is_known), one);
    assert_false(is_known);
    assert_null(delta_cache_slot_locked(cache, 0, 1, 4, &is_known)); /* now 5 has it */
    assert_false(is_known);
    delta_cache_forget_locked(cache, 0, 1, 10);
    assert_ptr_equal(delta_cache_slot_locked(cache, 0, 1, 4, &is_known), one);
    assert_false(is_known);
    delta_cache_unlock(cache);
    delta_cache_clear(cache);
    delta_cache_lock(cache);
    delta_cache_slot_locked(cache, 0, 1, 4, &is_known);
    assert_false(is_known);
    delta_cache_unlock(cache);
    delta_cache_free(cache);
    assert_null(delta_cache_new(4000)); /* not one page */
}

/* ---- packets ---- */

struct rig {
    struct fixture_ends ends;
    uint8_t *source, *guarded, *host; /* host: the destination's block, a guard page around it */
    uint64_t written[(N_PAGES + 63) / 64];
    struct delta_cache *cache;
    struct wire_encoder *encoder;
    struct wire_pages_out *out;
    struct wire_pages_in in;
    uint32_t n_bad;
    uint64_t n_told, wire_bytes;
    struct wire_encode_stats stats; /* sums of pages */
};

static uint64_t block_pages(void *opaque, uint32_t block)
{
    return block == BLOCK ? N_PAGES : 0;
}

static void on_page(void *opaque, uint32_t block, uint64_t page, bool is_good)
{
    ((struct rig *)opaque)->n_told++;
}

static int rig_new(void **state)
{
    struct rig *rig = g_new0(struct rig, 1);

    rig->ends = fixture_connect(WIRE_ROLE_PAGE, 0, WIRE_IN_ROUNDS);
    rig->source = g_malloc0((size_t)N_PAGES * WIRE_PAGE_BYTES);
    rig->guarded = g_malloc((size_t)(N_PAGES + 2) * WIRE_PAGE_BYTES);
    memset(rig->guarded, 0xA5, (size_t)(N_PAGES + 2) * WIRE_PAGE_BYTES);
    rig->host = PAGE(rig->guarded, 1);
    memset(rig->host, 0, (size_t)N_PAGES * WIRE_PAGE_BYTES);
    rig->cache = delta_cache_new(UINT64_C(4) << 20);
    rig->encoder = wire_encoder_new(rig->cache);
    rig->out = wire_pages_out_new();
    *state = rig;
    return 0;
}

static int rig_free(void **state)
{
    struct rig *rig = *state;

    for (size_t i = 0; i < WIRE_PAGE_BYTES; i++) {
        assert_int_equal(rig->guarded[i], 0xA5);
        assert_int_equal(PAGE(rig->host, N_PAGES)[i], 0xA5);
    }
    wire_pages_out_free(rig->out);
    wire_encoder_free(rig->encoder);
    delta_cache_free(rig->cache);
    fixture_close(&rig->ends);
    g_free(rig->source);
    g_free(rig->guarded);
    g_free(rig);
    return 0;
}

static bool receive_one(struct rig *rig, uint64_t features, GError **error)
{
    const struct wire_pages_sink sink = {
        .host = rig->host, .written = rig->written, .on_page = on_page, .opaque = rig};
    struct wire_record record;
    uint32_t n_bad = 0;

    if (!wire_receive(rig->ends.destination, &record, NEVER, error) ||
        !wire_pages_parse(&record, &rig->in, block_pages, NULL, features, error) ||
        !wire_pages_receive(rig->ends.destination, &record, &rig->in, &sink, &n_bad, NEVER,
                            error)) {
        return false;
    }
    rig->n_bad += n_bad;
    return true;
}

static void flush(struct rig *rig)
{
    GError *error = NULL;
    struct wire_counters before, after;

    wire_pages_encode(rig->out);
    uint64_t n_bytes = wire_pages_record_bytes(rig->out);
    wire_stream_counters(rig->ends.source, &before);
    assert_ok(wire_pages_send(rig->out, rig->ends.source, NEVER, &error), error);
    wire_stream_counters(rig->ends.source, &after);
    assert_int_equal(after.bytes_out - before.bytes_out, n_bytes); /* what was said beforehand */
    rig->wire_bytes += n_bytes;
    rig->stats.delta.n_pages += wire_encoder_stats(rig->encoder)->delta.n_pages;
    rig->stats.zstd.n_pages += wire_encoder_stats(rig->encoder)->zstd.n_pages;
    assert_ok(receive_one(rig, FEATURES, &error), error);
}

/* A round of every page whose bit in `step` comes up; the destination must have them then. */
static void send_round(struct rig *rig, uint32_t round, unsigned modes, uint64_t step)
{
    rig->wire_bytes = 0;
    rig->stats = (struct wire_encode_stats){0};
    wire_pages_begin(rig->out, round, BLOCK);
    wire_pages_use(rig->out, rig->encoder, modes);
    for (uint64_t page = 0; page < N_PAGES; page += step) {
        if (!wire_pages_add(rig->out, page, PAGE(rig->source, page))) {
            flush(rig);
            wire_pages_begin(rig->out, round, BLOCK);
            wire_pages_use(rig->out, rig->encoder, modes);
            assert_true(wire_pages_add(rig->out, page, PAGE(rig->source, page)));
        }
    }
    flush(rig);
    for (uint64_t page = 0; page < N_PAGES; page += step) {
        assert_memory_equal(PAGE(rig->host, page), PAGE(rig->source, page), WIRE_PAGE_BYTES);
    }
    assert_int_equal(rig->n_bad, 0);
}

/* A third each: text that compresses, random bytes, zeroes; in groups of four pages. */
static void fill_mixed(struct rig *rig, GRand *random)
{
    for (unsigned page = 0; page < N_PAGES; page++) {
        for (unsigned i = 0; i < WIRE_PAGE_BYTES; i++) {
            const uint8_t bytes[] = {
                (uint8_t) "an encoder is used only while it pays "[(i + page) % 38],
                (uint8_t)g_rand_int(random),
                0,
            };
            PAGE(rig->source, page)[i] = bytes[page / 4 % 3];
        }
    }
}

static void zstd_pages_arrive_smaller(void **state)
{
    struct rig *rig = *state;
    g_autoptr(GRand) random = g_rand_new_with_seed(6);

    fill_mixed(rig, random);
    send_round(rig, 1, WIRE_ENCODE_ZSTD, 1);
    assert_true(rig->stats.zstd.n_pages > N_PAGES / 2);
    assert_true(rig->wire_bytes < (uint64_t)N_PAGES * WIRE_PAGE_BYTES / 2);
    send_round(rig, 2, WIRE_ENCODE_ZSTD, 3); /* runs with gaps share the frame */
    assert_int_equal(rig->n_told, N_PAGES + (N_PAGES + 2) / 3);
    for (unsigned i = 0; i < N_PAGES * WIRE_PAGE_BYTES; i++) {
        rig->source[i] = (uint8_t)g_rand_int(random);
    }
    send_round(rig, 3, WIRE_ENCODE_ZSTD, 1); /* what gets no smaller goes plain */
    assert_int_equal(rig->stats.zstd.n_pages, 0);
}

static void deltas_go_against_what_was_sent(void **state)
{
    struct rig *rig = *state;
    g_autoptr(GRand) random = g_rand_new_with_seed(7);

    fill_mixed(rig, random);
    send_round(rig, 1, WIRE_ENCODE_DELTA, 1);
    assert_int_equal(rig->stats.delta.n_pages, 0); /* nothing was known */
    for (uint32_t round = 2; round < 14; round++) {
        unsigned n_known = 0;
        for (unsigned page = 0; page < N_PAGES; page++) {
            uint8_t *at = PAGE(rig->source, page);
            switch ((page + round) % 6) {
            case 0: /* a word */
            case 3:
                at[page * 8] ^= 0xFF;
                n_known++;
                break;
            case 1: /* as it is */
                n_known++;
                break;
            case 4: /* to zero: the destination's content is another one from now on */
                memset(at, 0, WIRE_PAGE_BYTES);
                break;
            case 2: /* all of it */
                memset(at, (int)(round * 16 + page) | 1, WIRE_PAGE_BYTES);
                break;
            default: /* nearly what it was before it was zero */
                memset(at, (int)((round - 3) * 16 + page) | 1, WIRE_PAGE_BYTES);
                break;
            }
        }
        send_round(rig, round, WIRE_ENCODE_DELTA | (round % 2 ? WIRE_ENCODE_ZSTD : 0), 1);
        if (round > 8) { /* every page has gone through all of it */
            assert_int_equal(rig->stats.delta.n_pages, n_known);
        }
    }
}

/* What the destination holds is not what the delta was made against: suspect, not refused. */
static void a_delta_against_something_else_is_suspect(void **state)
{
    struct rig *rig = *state;
    GError *error = NULL;

    memset(rig->source, 1, WIRE_PAGE_BYTES);
    send_round(rig, 1, WIRE_ENCODE_DELTA, N_PAGES);
    rig->source[9] = 2;
    rig->host[100] = 3;
    wire_pages_begin(rig->out, 2, BLOCK);
    wire_pages_use(rig->out, rig->encoder, WIRE_ENCODE_DELTA);
    assert_true(wire_pages_add(rig->out, 0, rig->source));
    wire_pages_encode(rig->out);
    assert_int_equal(wire_encoder_stats(rig->encoder)->delta.n_pages, 1);
    assert_ok(wire_pages_send(rig->out, rig->ends.source, NEVER, &error), error);
    assert_ok(receive_one(rig, FEATURES, &error), error);
    assert_int_equal(rig->n_bad, 1);
    rig->n_bad = 0;
    delta_cache_clear(rig->cache); /* as a source does that is asked for it again */
    send_round(rig, 3, WIRE_ENCODE_DELTA, N_PAGES);
}

/* The guest writes while its page is on the way: what arrives is what was digested. */
static void a_page_written_meanwhile_is_good(void **state)
{
    struct rig *rig = *state;
    GError *error = NULL;

    memset(rig->source, 1, WIRE_PAGE_BYTES);
    wire_pages_begin(rig->out, 1, BLOCK);
    wire_pages_use(rig->out, rig->encoder, WIRE_ENCODE_DELTA);
    assert_true(wire_pages_add(rig->out, 0, rig->source));
    rig->source[5] = 2;
    wire_pages_encode(rig->out);
    assert_ok(wire_pages_send(rig->out, rig->ends.source, NEVER, &error), error);
    assert_ok(receive_one(rig, FEATURES, &error), error);
    assert_int_equal(rig->n_bad, 0);
    assert_int_equal(rig->host[5], 1);
    send_round(rig, 2, WIRE_ENCODE_DELTA, N_PAGES);
    assert_int_equal(rig->stats.delta.n_pages, 1);
}

static void both_ends_keep_to_their_memory(void **state)
{
    struct rig *rig = *state;
    g_autoptr(GRand) random = g_rand_new_with_seed(8);

    fill_mixed(rig, random);
    send_round(rig, 1, 0, 1);
    assert_int_equal(wire_decoder_bytes(rig->ends.destination), 0); /* plain pages need none */
    send_round(rig, 2, WIRE_ENCODE_ZSTD | WIRE_ENCODE_DELTA, 1);
    assert_in_range(wire_decoder_bytes(rig->ends.destination), 1, 1 << 20);
    assert_in_range(wire_encoder_bytes(rig->encoder), 1, 4 << 20);
}

/* ---- what else may come ---- */

struct forged {
    uint8_t payload[512];
    uint32_t n_payload;
    uint8_t bulk[WIRE_MAX_ENCODED_BYTES + 64];
    uint32_t n_bulk;
};

/* One run of n pages from page 4 on, its digests zero. */
static void forge(struct forged *f, uint8_t encoding, uint16_t n_pages)
{
    uint8_t *at = f->payload;

    wire_store_u32(at, 1);
    wire_store_u32(at + 4, BLOCK);
    wire_store_u64(at + 8, 4);
    wire_store_u16(at + 16, 1);
    wire_store_u16(at + 18, n_pages);
    wire_store_u32(at + 20, n_pages);
    wire_store_u32(at + 24, 0);
    wire_store_u16(at + 28, n_pages);
    at[30] = encoding;
    at[31] = 0;
    wire_store_u32(at + 32, f->n_bulk);
    memset(at + 36, 0, n_pages * 8u);
    f->n_payload = 36 + n_pages * 8u;
}

static void expect_refusal(struct rig *rig, const struct forged *f, uint64_t features, int code,
                           const char *text)
{
    const struct iovec bulk = {(void *)(uintptr_t)f->bulk, f->n_bulk};
    GError *error = NULL;

    assert_ok(wire_send_raw(rig->ends.source, WIRE_PAGES, f->payload, f->n_payload, &bulk,
                            f->n_bulk > 0, NEVER, &error),
              error);
    assert_false(receive_one(rig, features, &error));
    assert_error(&error, code, text);
}

static void frames_that_lie_are_refused(void **state)
{
    struct rig *rig = *state;
    static struct forged f;
    static uint8_t pages[20 * WIRE_PAGE_BYTES];
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    const size_t two = 2 * WIRE_PAGE_BYTES;

    f.n_bulk = (uint32_t)ZSTD_compress(f.bulk, sizeof f.bulk, pages, two, 1);
    forge(&f, WIRE_PAGE_ZSTD, 2);
    expect_refusal(rig, &f, 0, GW_ERROR_REFUSED, "encoding 4, which was not agreed");
    expect_refusal(rig, &f, UINT64_C(1) << WIRE_FEATURE_DELTA, GW_ERROR_REFUSED, "encoding 4");
    forge(&f, WIRE_PAGE_ZSTD, 1); /* more content than pages */
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "a zstd frame of another size");
    forge(&f, WIRE_PAGE_ZSTD, 3);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "a zstd frame of another size");
    f.n_bulk -= 1; /* cut */
    forge(&f, WIRE_PAGE_ZSTD, 2);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "cut or followed by something");
    f.n_bulk += 2; /* and a byte more */
    forge(&f, WIRE_PAGE_ZSTD, 2);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "cut or followed by something");
    f.n_bulk = 3;
    forge(&f, WIRE_PAGE_ZSTD, 2);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "no zstd frame");
    memcpy(f.bulk, "\x50\x2A\x4D\x18\x04\x00\x00\x00skip", 12); /* a skippable frame */
    f.n_bulk = 12;
    forge(&f, WIRE_PAGE_ZSTD, 2);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "no zstd frame");
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_contentSizeFlag, 0); /* a frame that does not say */
    f.n_bulk = (uint32_t)ZSTD_compress2(zstd, f.bulk, sizeof f.bulk, pages, two);
    forge(&f, WIRE_PAGE_ZSTD, 2);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "a zstd frame of another size");
    ZSTD_freeCCtx(zstd);
    /* a bomb: 64 pages are the most, whatever the frame would hold */
    f.n_bulk = 100;
    f.n_payload = 0;
    forge(&f, WIRE_PAGE_ZSTD, 2);
    wire_store_u16(f.payload + 18, 65);
    wire_store_u16(f.payload + 28, 65);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_LIMIT, "more than 64 pages are encoded");
    /* every window that is larger than agreed */
    f.n_bulk = 18;
    memcpy(f.bulk, "\x28\xB5\x2F\xFD\x80\x60\x00\x20\x00\x00\x01\x00\x00", 13);
    forge(&f, WIRE_PAGE_ZSTD, 2); /* window descriptor 0x60: 4 MiB; content size 8192 */
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "too large a window");
    f.bulk[4] = 0x81; /* and one that wants dictionary 1 */
    memcpy(f.bulk + 5, "\x00\x01\x00\x20\x00\x00\x01\x00\x00", 9);
    forge(&f, WIRE_PAGE_ZSTD, 2);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "wants a dictionary");
    assert_int_equal(rig->n_told, 0);
    assert_true(wire_page_is_zero(PAGE(rig->host, 4)));
}

static void delta_runs_that_lie_are_refused(void **state)
{
    struct rig *rig = *state;
    static struct forged f;

    f.n_bulk = 4; /* two unchanged pages */
    memset(f.bulk, 0, 8);
    forge(&f, WIRE_PAGE_DELTA, 2);
    expect_refusal(rig, &f, UINT64_C(1) << WIRE_FEATURE_ZSTD, GW_ERROR_REFUSED, "encoding 3");
    f.n_bulk = 3;
    forge(&f, WIRE_PAGE_DELTA, 2);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "run 0 has 3 bytes for 2 pages");
    f.n_bulk = 5;
    forge(&f, WIRE_PAGE_DELTA, 2);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "a delta run has 1 bytes too many");
    f.n_bulk = 4;
    f.bulk[0] = 3; /* the first page takes what is the second's */
    forge(&f, WIRE_PAGE_DELTA, 2);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "the delta of page 0 of a run");
    f.n_bulk = 9; /* a piece behind the page */
    memcpy(f.bulk, "\x00\x00\x05\x00\x00\x10\x01\x00\x09", 9);
    forge(&f, WIRE_PAGE_DELTA, 2);
    expect_refusal(rig, &f, FEATURES, GW_ERROR_CORRUPT, "the delta of page 1 of a run");
    for (unsigned page = 0; page < N_PAGES; page++) {
        assert_true(wire_page_is_zero(PAGE(rig->host, page)));
    }
}

/* Any flipped bit of a frame: refused, or found by the digests. */
static void damaged_frames_are_found(void **state)
{
    struct rig *rig = *state;
    static struct forged f;
    static uint8_t pages[3 * WIRE_PAGE_BYTES];
    GError *error = NULL;

    for (size_t i = 0; i < sizeof pages; i++) {
        pages[i] = (uint8_t)(i * i >> 9 ^ i);
    }
    size_t n = ZSTD_compress(f.bulk, sizeof f.bulk, pages, sizeof pages, 1);
    f.n_bulk = (uint32_t)n;
    forge(&f, WIRE_PAGE_ZSTD, 3);
    for (unsigned i = 0; i < 3; i++) {
        wire_store_u64(f.payload + 36 + 8 * i, wire_page_digest(PAGE(pages, i)));
    }
    for (size_t bit = 0; bit < n * 8; bit += 1 + bit / 97) {
        const struct iovec bulk = {f.bulk, f.n_bulk};
        uint32_t n_bad = rig->n_bad;
        f.bulk[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_ok(wire_send_raw(rig->ends.source, WIRE_PAGES, f.payload, f.n_payload, &bulk, 1,
                                NEVER, &error),
                  error);
        if (receive_one(rig, FEATURES, &error)) {
            if (rig->n_bad == n_bad) { /* a bit that says nothing: the content is right */
                assert_memory_equal(PAGE(rig->host, 4), pages, sizeof pages);
            }
        } else {
            assert_error(&error, GW_ERROR_CORRUPT, "field bulk");
        }
        f.bulk[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    const struct iovec bulk = {f.bulk, f.n_bulk};
    rig->n_bad = 0;
    assert_ok(wire_send_raw(rig->ends.source, WIRE_PAGES, f.payload, f.n_payload, &bulk, 1, NEVER,
                            &error),
              error);
    assert_ok(receive_one(rig, FEATURES, &error), error);
    assert_int_equal(rig->n_bad, 0);
    assert_memory_equal(PAGE(rig->host, 4), pages, sizeof pages);
}

#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, rig_new, rig_free)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deltas_restore_the_page),
        cmocka_unit_test(deltas_that_lie_change_nothing),
        cmocka_unit_test(the_cache_keeps_what_is_in_use),
        WITH_RIG(zstd_pages_arrive_smaller),
        WITH_RIG(deltas_go_against_what_was_sent),
        WITH_RIG(a_delta_against_something_else_is_suspect),
        WITH_RIG(a_page_written_meanwhile_is_good),
        WITH_RIG(both_ends_keep_to_their_memory),
        WITH_RIG(frames_that_lie_are_refused),
        WITH_RIG(delta_runs_that_lie_are_refused),
        WITH_RIG(damaged_frames_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
