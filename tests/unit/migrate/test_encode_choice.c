/* SPDX-License-Identifier: MIT */
/*
 * The choice of encodings over simulated links: no thread, no clock, no byte is moved.
 *
 * Model: each lane encodes a packet (which takes its pages over the encoder's rate) and hands it to
 * a link with a buffer; the link drains at its rate, and a lane waits while the buffer is full.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/clock.h"
#include "migrate/encoding.h"

#define MB           UINT64_C(1000000)
#define GB           UINT64_C(1000000000)
#define PACKET_PAGES 64u
#define PACKET_BYTES (PACKET_PAGES * UINT64_C(4096))
#define TOUCH_RATE   (3 * GB) /* digest and copy into the link's buffer */
#define BUFFER_BYTES (4 * MB)

struct sim {
    struct encode_choice choice;
    uint64_t link, zstd;                     /* bytes/s */
    uint32_t permille;                       /* what zstd makes of a page */
    uint32_t known_permille, delta_permille; /* pages in the cache; what a delta makes of them */
    uint64_t delta;                          /* bytes/s */
    uint64_t now_ns, buffered;
    uint64_t n_packets, n_zstd, n_delta, page_bytes, wire_bytes;
};

static uint64_t ns_for(uint64_t bytes, uint64_t rate)
{
    return (uint64_t)((unsigned __int128)bytes * NS_PER_S / rate);
}

static void pass(struct sim *sim, uint64_t ns)
{
    uint64_t drained = (uint64_t)((unsigned __int128)ns * sim->link / NS_PER_S);

    sim->now_ns += ns;
    sim->buffered -= drained < sim->buffered ? drained : sim->buffered;
}

static void one_packet(struct sim *sim)
{
    struct encode_seen seen = {.modes = encode_choice_next(&sim->choice, sim->now_ns)};
    uint64_t left = PACKET_PAGES, bytes = 0;

    if (seen.modes & WIRE_ENCODE_DELTA) {
        struct wire_encode_count *delta = &seen.stats.delta;
        delta->n_tried = PACKET_PAGES;
        delta->n_pages = PACKET_PAGES * sim->known_permille / 1000;
        delta->in_bytes = delta->n_pages * 4096;
        delta->out_bytes = delta->in_bytes * sim->delta_permille / 1000;
        delta->work_ns = ns_for(PACKET_BYTES, sim->delta);
        seen.stats.n_unknown = PACKET_PAGES - delta->n_pages;
        left -= delta->n_pages;
        bytes += delta->out_bytes;
        pass(sim, delta->work_ns);
        sim->n_delta++;
    }
    if (seen.modes & WIRE_ENCODE_ZSTD && left > 0) {
        struct wire_encode_count *zstd = &seen.stats.zstd;
        zstd->n_tried = left;
        zstd->n_pages = sim->permille < 900 ? left : 0;
        zstd->in_bytes = zstd->n_pages * 4096;
        zstd->out_bytes = zstd->in_bytes * sim->permille / 1000;
        zstd->work_ns = ns_for(left * 4096, sim->zstd);
        pass(sim, zstd->work_ns);
        bytes += zstd->n_pages ? zstd->out_bytes : left * 4096;
        sim->n_zstd++;
    } else {
        bytes += left * 4096;
    }
    uint64_t start_ns = sim->now_ns;
    pass(sim, ns_for(bytes, TOUCH_RATE));
    if (sim->buffered + bytes > BUFFER_BYTES) {
        pass(sim, ns_for(sim->buffered + bytes - BUFFER_BYTES, sim->link));
    }
    sim->buffered += bytes;
    seen.wire_bytes = bytes;
    seen.send_ns = sim->now_ns - start_ns;
    encode_choice_sent(&sim->choice, &seen, sim->now_ns);
    sim->n_packets++;
    sim->page_bytes += PACKET_BYTES;
    sim->wire_bytes += bytes;
}

static void run(struct sim *sim, uint64_t ms)
{
    uint64_t end_ns = sim->now_ns + ms * NS_PER_MS;

    sim->n_packets = sim->n_zstd = sim->n_delta = sim->page_bytes = sim->wire_bytes = 0;
    while (sim->now_ns < end_ns) {
        one_packet(sim);
    }
}

static struct sim sim_new(uint64_t link, uint64_t zstd, uint32_t permille)
{
    struct sim sim = {.link = link, .zstd = zstd, .permille = permille, .delta = GB};

    encode_choice_init(&sim.choice, ENCODE_AUTO, ENCODE_AUTO, 1, 1);
    sim.now_ns = 1;
    encode_choice_round(&sim.choice, 1);
    return sim;
}

static uint64_t share_permille(const struct sim *sim)
{
    return sim->n_zstd * 1000 / sim->n_packets;
}

static void a_fast_link_stays_raw(void **state)
{
    struct sim sim = sim_new(2 * GB, 400 * MB, 300);

    run(&sim, 10000);
    assert_false(sim.choice.is_zstd_on);
    assert_in_range(share_permille(&sim), 0, 10); /* samples only */
    assert_in_range(sim.n_zstd, 1, 200);
}

static void a_slow_link_is_compressed(void **state)
{
    const uint64_t links[] = {1 * MB, 12 * MB, 100 * MB};

    for (unsigned i = 0; i < 3; i++) {
        struct sim sim = sim_new(links[i], 400 * MB, 300);
        run(&sim, 6000); /* the buffer must fill first */
        assert_true(sim.choice.is_zstd_on);
        run(&sim, 20000);
        assert_in_range(share_permille(&sim), 900, 1000);
        /* pages go three times as fast as the link goes */
        assert_true(sim.page_bytes / 20 > links[i] * 25 / 10);
        assert_in_range(sim.choice.link_bytes_per_s, links[i] / 10 * 8, links[i] / 10 * 12);
    }
}

static void what_does_not_compress_stays_raw(void **state)
{
    struct sim sim = sim_new(12 * MB, 400 * MB, 1000);

    run(&sim, 20000);
    assert_false(sim.choice.is_zstd_on);
    assert_in_range(share_permille(&sim), 0, 100);
    sim.permille = 250; /* a region of memory that does: found before long */
    run(&sim, 5000);
    run(&sim, 5000);
    assert_true(sim.choice.is_zstd_on);
    assert_in_range(share_permille(&sim), 950, 1000);
    sim.permille = 1000; /* and its end */
    run(&sim, 5000);
    run(&sim, 5000);
    assert_in_range(share_permille(&sim), 0, 100);
}

/* A link a bit slower than the encoder, of which the encoder makes a third: no seesaw. */
static void it_does_not_go_back_and_forth(void **state)
{
    struct sim sim = sim_new(200 * MB, 400 * MB, 333);
    unsigned n_changes = 0;
    bool was_on;

    run(&sim, 3000);
    assert_true(sim.choice.is_zstd_on);
    was_on = true;
    for (unsigned i = 0; i < 200; i++) {
        run(&sim, 100);
        n_changes += was_on != sim.choice.is_zstd_on;
        was_on = sim.choice.is_zstd_on;
    }
    assert_in_range(n_changes, 0, 8);
    run(&sim, 20000);
    assert_in_range(share_permille(&sim), 800, 1000);
}

static void a_link_that_changes_is_followed(void **state)
{
    struct sim sim = sim_new(12 * MB, 400 * MB, 300);

    run(&sim, 6000);
    assert_true(sim.choice.is_zstd_on);
    sim.link = 2 * GB;
    run(&sim, 20000); /* a look without zstd finds out */
    assert_false(sim.choice.is_zstd_on);
    sim.link = 12 * MB;
    run(&sim, 5000);
    assert_true(sim.choice.is_zstd_on);
}

static void more_lanes_encode_more(void **state)
{
    struct sim one = sim_new(500 * MB, 400 * MB, 300), four = one;

    encode_choice_init(&four.choice, ENCODE_AUTO, ENCODE_OFF, 4, 1);
    one.choice.link_bytes_per_s = four.choice.link_bytes_per_s = 500 * MB;
    run(&one, 5000);
    assert_false(one.choice.is_zstd_on);
    /* four lanes that all wait; one of them looks what zstd would do */
    for (unsigned i = 0; i < 100; i++) {
        struct encode_seen seen = {.wire_bytes = 50 * MB, .send_ns = 400 * NS_PER_MS};
        four.now_ns += 100 * NS_PER_MS;
        if (encode_choice_next(&four.choice, four.now_ns) & WIRE_ENCODE_ZSTD) {
            seen.stats.zstd.n_tried = seen.stats.zstd.n_pages = 64;
            seen.stats.zstd.in_bytes = PACKET_BYTES;
            seen.stats.zstd.out_bytes = PACKET_BYTES / 3;
            seen.stats.zstd.work_ns = ns_for(PACKET_BYTES, 400 * MB);
        }
        encode_choice_sent(&four.choice, &seen, four.now_ns);
    }
    assert_true(four.choice.is_zstd_on);
}

static void what_was_asked_for_is_done(void **state)
{
    struct sim sim = sim_new(2 * GB, 400 * MB, 300);

    encode_choice_init(&sim.choice, ENCODE_ON, ENCODE_ON, 1, 1);
    encode_choice_round(&sim.choice, 1);
    run(&sim, 2000);
    assert_int_equal(sim.n_zstd, sim.n_packets);
    assert_int_equal(sim.n_delta, 0); /* nothing was sent before the first round */
    encode_choice_round(&sim.choice, 2);
    run(&sim, 100);
    assert_int_equal(sim.n_delta, sim.n_packets);
    encode_choice_init(&sim.choice, ENCODE_OFF, ENCODE_OFF, 1, sim.now_ns);
    sim.link = MB;
    for (uint32_t round = 1; round < 10; round++) {
        encode_choice_round(&sim.choice, round);
        run(&sim, 1000);
        assert_int_equal(sim.n_zstd + sim.n_delta, 0);
    }
}

static void deltas_are_tried_on_a_slow_link_only(void **state)
{
    struct sim slow = sim_new(12 * MB, 400 * MB, 1000), fast = sim_new(2 * GB, 400 * MB, 1000);

    slow.known_permille = fast.known_permille = 900;
    slow.delta_permille = fast.delta_permille = 100;
    run(&slow, 5000);
    run(&fast, 5000);
    assert_int_equal(slow.n_delta + fast.n_delta, 0);
    for (uint32_t round = 2; round < 12; round++) {
        encode_choice_round(&slow.choice, round);
        encode_choice_round(&fast.choice, round);
        run(&slow, 500);
        run(&fast, 500);
        assert_int_equal(slow.n_delta, slow.n_packets);
        assert_int_equal(fast.n_delta, 0);
    }
}

/* Pages of which everything changes: given up for longer and longer. */
static void deltas_that_save_nothing_are_given_up(void **state)
{
    struct sim sim = sim_new(12 * MB, 400 * MB, 1000);
    unsigned n_with = 0;

    sim.known_permille = 900;
    sim.delta_permille = 1000;
    run(&sim, 5000);
    for (uint32_t round = 2; round < 102; round++) {
        encode_choice_round(&sim.choice, round);
        run(&sim, 300);
        n_with += sim.n_delta > 0;
    }
    assert_in_range(n_with, 1, 8);
    sim.delta_permille = 100; /* another program runs in the guest: found again */
    for (uint32_t round = 102; round < 202; round++) {
        encode_choice_round(&sim.choice, round);
        run(&sim, 300);
    }
    assert_int_equal(sim.n_delta, sim.n_packets);
}

/* What the destination does not know is not sent to it, whatever was asked for. */
static void an_older_destination_gets_raw_pages(void **state)
{
    const unsigned features[] = {0, WIRE_FEATURE_ZSTD, WIRE_FEATURE_DELTA};
    const unsigned modes[] = {0, WIRE_ENCODE_ZSTD, WIRE_ENCODE_DELTA};

    for (unsigned i = 0; i < 3; i++) {
        const struct encoding_params params = {.zstd = ENCODE_ON,
                                               .delta = ENCODE_ON,
                                               .cache_bytes = UINT64_C(1) << 20,
                                               .features = UINT64_C(1) << features[i]};
        static uint8_t page[WIRE_PAGE_BYTES] = {1};
        struct encoding *encoding = encoding_new(&params, 1);
        struct encoding_lane *lane = encoding_lane_new(encoding);
        struct wire_pages_out *packet = wire_pages_out_new();
        struct encoding_counters counters;
        encoding_begin_round(encoding, 2);
        for (unsigned k = 0; k < 2; k++) { /* the second time the page is known */
            wire_pages_begin(packet, 2, 0);
            encoding_lane_begin(lane, packet);
            assert_true(wire_pages_add(packet, 5, page));
            encoding_lane_pack(lane, packet);
            encoding_lane_sent(lane, wire_pages_record_bytes(packet));
        }
        encoding_get_counters(encoding, &counters);
        assert_int_equal(counters.total.zstd.n_pages > 0, modes[i] == WIRE_ENCODE_ZSTD);
        assert_int_equal(counters.total.delta.n_pages > 0, modes[i] == WIRE_ENCODE_DELTA);
        wire_pages_out_free(packet);
        encoding_lane_free(lane);
        encoding_free(encoding);
    }
}

/* 64 lanes: not more memory than 16 of them take. */
static void encoders_are_bounded(void **state)
{
    const struct encoding_params params = {.zstd = ENCODE_ON,
                                           .delta = ENCODE_ON,
                                           .cache_bytes = UINT64_C(1) << 20,
                                           .features = ENCODING_FEATURES};
    struct encoding *encoding = encoding_new(&params, 64);
    struct encoding_lane *lanes[64];
    struct wire_pages_out *packet = wire_pages_out_new();
    static uint8_t page[WIRE_PAGE_BYTES] = {1};
    struct encoding_counters counters;

    encoding_begin_round(encoding, 2);
    for (unsigned i = 0; i < 64; i++) {
        lanes[i] = encoding_lane_new(encoding);
        wire_pages_begin(packet, 2, 0);
        encoding_lane_begin(lanes[i], packet);
        assert_true(wire_pages_add(packet, i, page));
        encoding_lane_pack(lanes[i], packet);
        encoding_lane_sent(lanes[i], wire_pages_record_bytes(packet));
    }
    encoding_get_counters(encoding, &counters);
    assert_int_equal(counters.total.zstd.n_pages, ENCODING_MAX_LANES);
    assert_int_equal(counters.total.delta.n_tried, 0);
    for (unsigned i = 0; i < 64; i++) {
        encoding_lane_free(lanes[i]);
    }
    wire_pages_out_free(packet);
    encoding_free(encoding);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fast_link_stays_raw),
        cmocka_unit_test(a_slow_link_is_compressed),
        cmocka_unit_test(what_does_not_compress_stays_raw),
        cmocka_unit_test(it_does_not_go_back_and_forth),
        cmocka_unit_test(a_link_that_changes_is_followed),
        cmocka_unit_test(more_lanes_encode_more),
        cmocka_unit_test(what_was_asked_for_is_done),
        cmocka_unit_test(deltas_are_tried_on_a_slow_link_only),
        cmocka_unit_test(deltas_that_save_nothing_are_given_up),
        cmocka_unit_test(an_older_destination_gets_raw_pages),
        cmocka_unit_test(encoders_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
