/* SPDX-License-Identifier: MIT */
/* Two engines in one process move a fake VM over a UNIX socket, undisturbed. */
#include "harness.h"

#include <inttypes.h>
#include <string.h>

#include "memory/huge.h"

static void moves_and_keeps_every_byte(void **state)
{
    struct move move;
    struct gw_ledger *ledger;
    struct gw_source_status status;

    move_init(&move);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    assert_true(move.pair.destination.last_was_running);
    ledger = gw_source_get_ledger(move.source);
    assert_int_equal(gw_ledger_n_attempts(ledger), 1);
    check_ledger(ledger, 0, true);
    assert_int_equal(gw_ledger_attempt_at(ledger, 0)->blackout_ns,
                     source_status_of(&move).blackout_ns);
    assert_true(has_phase(ledger, "stop"));
    assert_true(has_phase(ledger, "writer"));
    assert_true(has_phase(ledger, "fake/3"));
    assert_true(has_phase(ledger, "load"));
    assert_true(has_phase(ledger, "resume"));
    assert_true(has_phase(ledger, "first instruction"));
    gw_ledger_free(ledger);
    ledger = gw_destination_get_ledger(move.destination);
    check_ledger(ledger, 0, true);
    gw_ledger_free(ledger);
    status = source_status_of(&move);
    assert_true(status.round >= 2);
    assert_true(status.pages_plain > 0);
    assert_true(status.pages_skipped > 0);
    assert_true(status.bytes_sent >= status.page_bytes_sent);
    assert_true(status.page_bytes_sent > 0);
    assert_true(move.pair.destination.facts.error_ns != UINT64_MAX);
    assert_false(gw_source_cancel(move.source));
    assert_false(gw_destination_cancel(move.destination));
    move_clear(&move);
}

static void moves_over_several_channels(void **state)
{
    struct move move;

    move_init(&move);
    move.source_params.channels = 4;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_int_equal(source_status_of(&move).n_channels, 4);
    check_one_owner(&move);
    move_clear(&move);
}

static void paused_guest_stays_paused(void **state)
{
    struct move move;

    move_init(&move);
    fake_vm_park(&move.pair.source);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    assert_false(destination_status_of(&move).was_running);
    assert_false(move.pair.destination.last_was_running);
    assert_int_equal(move.pair.destination.n_runs, 1);
    assert_false(fake_vm_is_running(&move.pair.destination));
    assert_true(fake_pair_is_equal(&move.pair));
    move_clear(&move);
}

static void destination_learns_that_the_source_knows(void **state)
{
    struct move move;

    move_init(&move);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); !destination_status_of(&move).is_source_told;)
        assert_true(clock_mono_ns() < limit);
    move_clear(&move);
}

static void memory_that_was_used_before_is_cleared(void **state)
{
    struct move move;

    move_init(&move);
    /* Pages that the source never touched, written at the destination before the move. */
    gw_memory_write(move.pair.destination.memory, FAKE_RAM_BYTES - 4096, "old", 3);
    gw_memory_write(move.pair.destination.memory, (UINT64_C(1) << 32) + FAKE_HIGH_BYTES - 4096,
                    "old", 3);
    gw_memory_write(move.pair.destination.memory, 0, "old", 3);
    move.pair.source.writes_per_ms = 0;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    move_clear(&move);
}

/* Every page that is allocated at the destination is at the source. */
static void allocates_no_more_than_the_source_has(void **state)
{
    struct move move;
    uint64_t n_allocated = 0;

    move_init(&move);
    move.source_params.channels = 3;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    for (uint32_t i = 0; i < gw_memory_n_blocks(move.pair.source.memory); i++) {
        struct gw_ram_block *from = gw_memory_block(move.pair.source.memory, i);
        struct gw_ram_block *to = gw_memory_block(move.pair.destination.memory, i);

        for (uint64_t page = 0, n; gw_memory_next_allocated_run(to, &page, &n); page += n) {
            n_allocated += n;
            for (uint64_t k = 0; k < n; k++)
                assert_true(gw_memory_touched_mask(from, page + k, 1) == 1);
        }
    }
    assert_true(n_allocated > 0 &&
                n_allocated < gw_memory_size_bytes(move.pair.source.memory) / GW_PAGE_SIZE);
    check_one_owner(&move); /* compares, and so reads the holes */
    move_clear(&move);
}

static bool kernel_makes_huge_pages(void)
{
    struct gw_memory *memory = gw_memory_new();
    struct gw_ram_block *block =
        gw_memory_add_block(memory, "try", 0, MEMORY_HUGE_PAGES * GW_PAGE_SIZE, NULL);
    bool does = memory_make_huge(block, 0, MEMORY_HUGE_PAGES);

    gw_memory_free(memory);
    return does;
}

/* Where the source has all of a huge page, and nowhere else. */
static void dense_memory_comes_in_huge_pages(void **state)
{
    static const uint8_t zeroes[GW_PAGE_SIZE];
    const uint64_t first = 100, end = 1700, zero = 1000;
    struct gw_ram_block *from, *to;
    struct move move;

    move_init(&move);
    move.pair.source.writes_per_ms = 0;
    move.source_params.channels = 1; /* so that it is known which pages share a packet */
    move.source_params.zstd = GW_ENCODE_OFF;
    from = gw_memory_block(move.pair.source.memory, 0);
    to = gw_memory_block(move.pair.destination.memory, 0);
    assert_true(gw_memory_discard(from, 0, from->size_bytes, NULL));
    for (uint64_t page = first; page < end; page++)
        assert_true(gw_memory_write(move.pair.source.memory, page * GW_PAGE_SIZE, "dense", 6));
    assert_true(
        gw_memory_write(move.pair.source.memory, zero * GW_PAGE_SIZE, zeroes, sizeof zeroes));
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_true(gw_destination_wait(move.destination, after_ms(PATIENCE_MS)));
    for (uint64_t page = 0; page < to->n_pages; page += 64)
        assert_int_equal(
            gw_memory_touched_mask(to, page, 64) & ~gw_memory_touched_mask(from, page, 64), 0);
    /* A page by itself would have been left out. */
    assert_int_equal(gw_memory_touched_mask(to, zero, 1), kernel_makes_huge_pages());
    check_one_owner(&move); /* compares, and so reads the holes */
    move_clear(&move);
}

/* Memory that was made present at the destination stays so, though the source never touched it;
 * what stood in it does not. */
static void present_memory_stays_present(void **state)
{
    struct move move;
    struct gw_ram_block *high;

    move_init(&move);
    high = gw_memory_block(move.pair.destination.memory, 1);
    assert_true(gw_memory_populate(high, 0, high->size_bytes, NULL));
    gw_memory_write(move.pair.destination.memory, (UINT64_C(1) << 32) + FAKE_HIGH_BYTES - 4096,
                    "old", 3);
    move.pair.source.writes_per_ms = 0;
    assert_int_equal(
        gw_memory_touched_mask(gw_memory_block(move.pair.source.memory, 1), high->n_pages - 2, 2),
        0);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_int_equal(gw_memory_touched_mask(high, high->n_pages - 2, 2), 1);
    check_one_owner(&move); /* compares, and so reads the holes */
    move_clear(&move);
}

/* The same where the source has several pieces, and old content lies in and between them. */
static void what_is_stale_between_pieces_goes(void **state)
{
    static const uint64_t stale[] = {0, 9, 10, 15, 20, 21, 100, 299, 305, 1000, 2047};
    struct gw_ram_block *from, *to;
    struct move move;

    move_init(&move);
    move.pair.source.writes_per_ms = 0;
    from = gw_memory_block(move.pair.source.memory, 0);
    to = gw_memory_block(move.pair.destination.memory, 0);
    assert_true(gw_memory_discard(from, 0, from->size_bytes, NULL));
    for (uint64_t page = 10; page <= 310; page += page == 20 ? 280 : 1)
        assert_true(gw_memory_write(move.pair.source.memory, page * GW_PAGE_SIZE, "new", 4));
    assert_true(gw_memory_populate(to, 0, to->size_bytes, NULL));
    for (size_t i = 0; i < G_N_ELEMENTS(stale); i++)
        assert_true(
            gw_memory_write(move.pair.destination.memory, stale[i] * GW_PAGE_SIZE, "old", 4));
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_true(gw_memory_touched_mask(to, 200, 1)); /* was zero, and was to stay present */
    check_one_owner(&move);
    move_clear(&move);
}

static void bandwidth_limit_slows_it_down(void **state)
{
    struct move move;
    uint64_t start_ns;

    move_init(&move);
    move.source_params.max_bandwidth_bytes = UINT64_C(32) << 20;
    move_start_destination(&move);
    start_ns = clock_mono_ns();
    move_start_source(&move);
    move_finish(&move);
    check_one_owner(&move);
    /* At least: what was sent cannot have gone faster than three times the limit. */
    assert_true(source_status_of(&move).page_bytes_sent <
                (UINT64_C(96) << 20) * ((clock_mono_ns() - start_ns) / NS_PER_MS + 1) / 1000 +
                    (UINT64_C(4) << 20));
    move_clear(&move);
}

/* Both encodings, forced, with a guest that writes and rounds that deltas can be made in. */
static void encoded_pages_arrive(void **state)
{
    const struct {
        enum gw_encode_policy zstd, delta;
        uint32_t channels;
    } cases[] = {{GW_ENCODE_ON, GW_ENCODE_OFF, 1},
                 {GW_ENCODE_OFF, GW_ENCODE_ON, 2},
                 {GW_ENCODE_ON, GW_ENCODE_ON, 3}};

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct move move;
        struct gw_source_status status;

        move_init(&move);
        move.source_params.zstd = cases[i].zstd;
        move.source_params.delta = cases[i].delta;
        move.source_params.delta_cache_bytes = UINT64_C(16) << 20;
        move.source_params.channels = cases[i].channels;
        move_start_destination(&move);
        move_start_source(&move);
        move_finish(&move);
        expect_source_state(&move, GW_SOURCE_COMPLETED);
        check_one_owner(&move); /* compares the memory */
        status = source_status_of(&move);
        assert_int_equal(status.zstd.pages > 0, cases[i].zstd == GW_ENCODE_ON);
        assert_true(status.zstd.out_bytes <= status.zstd.in_bytes);
        assert_int_equal(status.delta_cache_bytes > 0, cases[i].delta == GW_ENCODE_ON);
        /* Whether the guest wrote anything in between is its own affair. */
        assert_true(status.delta_misses == 0 || cases[i].delta == GW_ENCODE_ON);
        assert_int_equal(status.pages_resent, 0);
        assert_true(status.zstd.pages + status.delta.pages <= status.pages_plain);
        move_clear(&move);
    }
}

/* A guest that writes all its memory once, when the first round has just begun. */
static void what_a_round_has_still_to_read_is_sent_once(void **state)
{
    const uint64_t n_pages = FAKE_RAM_BYTES / GW_PAGE_SIZE;
    struct gw_source_status status;
    struct gw_ram_block *block;
    struct move move;

    move_init(&move);
    move.pair.source.writes_per_ms = 0;
    block = gw_memory_block(move.pair.source.memory, 0);
    for (uint64_t page = 0; page < n_pages; page++)
        assert_true(gw_memory_write(move.pair.source.memory, page * GW_PAGE_SIZE, "first", 6));
    /* Two seconds: far longer than until the source looks at what was written. */
    move.source_uri = g_strdup_printf("rate:4000000,%s", move.pair.uri);
    move.source_params.zstd = GW_ENCODE_OFF;
    move_start_destination(&move);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); source_status_of(&move).page_bytes_sent == 0;)
        assert_true(clock_mono_ns() < limit);
    for (uint64_t page = 0; page < n_pages; page++) {
        fake_vm_store(block->host + page * GW_PAGE_SIZE, page);
        gw_memory_note_write(block, page * GW_PAGE_SIZE, 8);
    }
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    status = source_status_of(&move);
    print_message("# %" PRIu64 " pages of %" PRIu64 " in %" PRIu64 " rounds\n", status.pages_plain,
                  n_pages, status.round);
    assert_in_range(status.pages_plain, n_pages, n_pages * 3 / 2);
    move_clear(&move);
}

/* A second round of some 1440 pages, 288 of which the guest writes over and over. */
static void start_with_a_hot_set(struct move *move, uint64_t budget_ns)
{
    struct gw_ram_block *block;

    move_init_sparse(move, 8);
    move->pair.source.writes_per_ms = 20;
    move->source_params.zstd = move->source_params.delta = GW_ENCODE_OFF;
    move->source_params.max_blackout_ns = budget_ns;
    move->source_uri = g_strdup_printf("rate:8000000,%s", move->pair.uri);
    block = gw_memory_block(move->pair.source.memory, 0);
    for (uint64_t page = 0; page < block->n_pages; page++)
        if (page % 8)
            assert_true(gw_memory_write(move->pair.source.memory, page * GW_PAGE_SIZE, "x", 2));
    move_start_destination(move);
    move_start_source(move);
    for (uint64_t limit = after_ms(PATIENCE_MS);
         source_status_of(move).page_bytes_sent < FAKE_RAM_BYTES / 2;)
        assert_true(clock_mono_ns() < limit);
    for (uint64_t page = 0; page < block->n_pages; page++) {
        if (page % 8 == 0)
            continue;
        fake_vm_store(block->host + page * GW_PAGE_SIZE + 8, page);
        gw_memory_note_write(block, page * GW_PAGE_SIZE + 8, 8);
    }
}

/* Its budget allows 400 pages, long before the round is at its end, which 288 of them never get
 * nearer to. */
static void a_round_ends_when_little_enough_is_left(void **state)
{
    struct gw_source_status status;
    struct move move;

    start_with_a_hot_set(&move, 230 * NS_PER_MS);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    status = source_status_of(&move);
    print_message("# %u of %" PRIu64 " rounds were cut\n", status.rounds_cut, status.round);
    assert_true(status.rounds_cut >= 1);
    move_clear(&move);
}

/* With a budget that nothing meets, each round is sent to its end. */
static void a_round_that_must_go_on_does(void **state)
{
    struct move move;

    start_with_a_hot_set(&move, 1);
    for (uint64_t limit = after_ms(PATIENCE_MS); source_status_of(&move).round < 5;)
        assert_true(clock_mono_ns() < limit);
    assert_int_equal(source_status_of(&move).rounds_cut, 0);
    assert_true(gw_source_cancel(move.source));
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_CANCELLED);
    check_one_owner(&move);
    move_clear(&move);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_and_keeps_every_byte),
        cmocka_unit_test(moves_over_several_channels),
        cmocka_unit_test(paused_guest_stays_paused),
        cmocka_unit_test(destination_learns_that_the_source_knows),
        cmocka_unit_test(memory_that_was_used_before_is_cleared),
        cmocka_unit_test(present_memory_stays_present),
        cmocka_unit_test(allocates_no_more_than_the_source_has),
        cmocka_unit_test(dense_memory_comes_in_huge_pages),
        cmocka_unit_test(what_is_stale_between_pieces_goes),
        cmocka_unit_test(bandwidth_limit_slows_it_down),
        cmocka_unit_test(encoded_pages_arrive),
        cmocka_unit_test(what_a_round_has_still_to_read_is_sent_once),
        cmocka_unit_test(a_round_ends_when_little_enough_is_left),
        cmocka_unit_test(a_round_that_must_go_on_does),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
