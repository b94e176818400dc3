/* SPDX-License-Identifier: MIT */
/* Guests that move before their memory: all of it comes after them, whatever happens to the link.
 */
#include "harness.h"

#include <inttypes.h>
#include <string.h>

#include "memory/faults.h"

/* Slow enough that pages are under way for a while when the guest has moved. */
#define SLOW_BYTES_PER_S    (UINT64_C(24) << 20)
#define PLAIN_PAGES         2048u
/* So slow that all memory takes two seconds. */
#define TEDIOUS_BYTES_PER_S UINT64_C(4000000)
#define FEWER_PAGES         440.0 /* which take a little less than half a second */

static char *faulty_uri(struct move *move, const char *spec)
{
    return g_strdup_printf("fault:%s,%s", spec, move->pair.uri);
}

static void init_sparse(struct move *move, enum gw_migrate_mode mode, unsigned stride)
{
    if (!faults_are_possible(FAULTS_MISSING, NULL))
        skip();
    move_init_sparse(move, stride);
    move->source_params.mode = mode;
    move->source_params.channels = 2;
}

static void init(struct move *move, enum gw_migrate_mode mode)
{
    init_sparse(move, mode, 1);
}

static void await_source(struct move *move, enum gw_source_state state)
{
    for (uint64_t limit = after_ms(PATIENCE_MS); source_state_of(move) != state;)
        if (clock_mono_ns() >= limit)
            fail_msg("the source is %s", gw_source_state_name(source_state_of(move)));
}

static bool has_been(struct move *move, enum gw_source_state state)
{
    return atomic_load(&move->seen_states) & (1u << state);
}

/* Both have ended, the destination runs, and it has what the source had when it stopped. */
static void check_moved(struct move *move)
{
    struct gw_destination_status status;

    move_finish(move);
    expect_source_state(move, GW_SOURCE_COMPLETED);
    assert_true(has_been(move, GW_SOURCE_POSTCOPY));
    assert_true(source_status_of(move).is_postcopy);
    check_one_owner(move);
    status = destination_status_of(move);
    assert_int_equal(status.state, GW_DESTINATION_RUNNING);
    assert_int_equal(status.pages_missing, 0);
    assert_true(status.is_postcopy);
}

static void memory_follows_the_guest(void **state)
{
    struct move move;

    init(&move, GW_MODE_POSTCOPY);
    move_start_destination(&move);
    move_start_source(&move);
    check_moved(&move);
    assert_int_equal(move.pair.source.n_released, 1);
    move_clear(&move);
}

/* ---- what the destination's guest does meanwhile -----------------------------------------------
 */

/* Both ends have the same account of who waited; the source has its own of what it answered. */
static void check_told(struct move *move, const char *name)
{
    struct gw_source_status here = source_status_of(move);
    struct gw_destination_status there = destination_status_of(move);
    struct gw_fault_wait told[64], kept[64];
    uint32_t n = gw_source_get_fault_waits(move->source, told, 64);
    bool was_seen = false;

    assert_true(here.has_fault_waits);
    assert_true(here.faults > 0);
    assert_int_equal(here.faults, there.faults);
    assert_int_equal(here.fault_p50_ns, there.fault_p50_ns);
    assert_int_equal(here.fault_p99_ns, there.fault_p99_ns);
    assert_int_equal(here.fault_max_ns, there.fault_max_ns);
    assert_int_equal(n, gw_destination_get_fault_waits(move->destination, kept, 64));
    for (uint32_t i = 0; i < n; i++) {
        assert_string_equal(told[i].name, kept[i].name);
        assert_int_equal(told[i].faults, kept[i].faults);
        assert_int_equal(told[i].stall_ns, kept[i].stall_ns);
        assert_int_equal(told[i].p50_ns, kept[i].p50_ns);
        assert_int_equal(told[i].p99_ns, kept[i].p99_ns);
        assert_int_equal(told[i].max_ns, kept[i].max_ns);
        was_seen |= strcmp(told[i].name, name) == 0 && told[i].stall_ns > 0;
    }
    assert_true(was_seen);
    assert_int_equal(gw_source_get_fault_waits(move->source, told, 0), 0);
    assert_in_range(here.requests_served, 1, here.pages_requested);
    assert_in_range(here.serve_p50_ns, 1, here.serve_p99_ns);
    assert_in_range(here.serve_p99_ns, here.serve_p50_ns, here.serve_max_ns);
}

static void who_needs_a_page_gets_it(void **state)
{
    struct move move;
    struct vcpu vcpu;

    init(&move, GW_MODE_POSTCOPY);
    move.source_params.max_bandwidth_bytes = SLOW_BYTES_PER_S / 4; /* much is missing */
    move_start_destination(&move);
    vcpu_start(&vcpu, &move, 1, false);
    move_start_source(&move);
    move_finish(&move);
    vcpu_end(&vcpu);
    check_moved(&move);
    assert_true(source_status_of(&move).pages_requested > 0);
    assert_true(destination_status_of(&move).faults > 0);
    assert_true(destination_status_of(&move).fault_max_ns >=
                destination_status_of(&move).fault_p50_ns);
    check_told(&move, "test-vcpu");
    move_clear(&move);
}

/* For released: WHOLE was said and the destination does not know yet that it was heard, so that an
 * access to a page that was never there is still a fault, of this thread. */
static void touch_late(void *opaque)
{
    struct fake_vm *source = opaque;
    const struct gw_ram_block *high = gw_memory_block(source->pair->destination.memory, 1);

    g_assert_cmpint(((volatile uint8_t *)high->host)[high->size_bytes - 1], ==, 0);
    pthread_mutex_lock(&source->lock);
    source->n_released++;
    pthread_mutex_unlock(&source->lock);
}

/* Also when its threads have names that would do something to a terminal, and fault later. */
static void who_waited_is_told_to_the_source(void **state)
{
    struct move move;
    struct vcpu vcpu;

    init(&move, GW_MODE_POSTCOPY);
    move.source_params.max_bandwidth_bytes = SLOW_BYTES_PER_S / 4; /* much is missing */
    move.pair.source.vm.released = touch_late;
    move_start_destination(&move);
    vcpu_start(&vcpu, &move, 1, false);
    pthread_setname_np(vcpu.thread, "odd\x1b[m\xff");
    move_start_source(&move);
    move_finish(&move);
    vcpu_end(&vcpu);
    check_moved(&move);
    check_told(&move, "odd?[m?");
    move_clear(&move);
}

/* Bytes of one value in each page, here: what follows the guest becomes far less than it is. */
static void what_follows_is_compressed(void **state)
{
    struct move move;
    struct vcpu vcpu;
    struct gw_source_status status;

    init(&move, GW_MODE_POSTCOPY);
    move.source_params.zstd = GW_ENCODE_ON;
    move.source_params.delta = GW_ENCODE_ON;
    move.source_params.max_bandwidth_bytes = SLOW_BYTES_PER_S;
    for (uint64_t page = 0; page < PLAIN_PAGES; page++)
        memset(gw_memory_block(move.pair.source.memory, 0)->host + page * GW_PAGE_SIZE,
               (int)(page % 251) + 1, GW_PAGE_SIZE);
    move_start_destination(&move);
    vcpu_start(&vcpu, &move, 1, false);
    move_start_source(&move);
    move_finish(&move);
    vcpu_end(&vcpu);
    check_moved(&move);
    status = source_status_of(&move);
    assert_true(status.zstd.pages >= PLAIN_PAGES - status.pages_requested);
    assert_true(status.zstd.out_bytes < status.zstd.in_bytes / 10);
    assert_int_equal(status.delta.pages, 0);
    move_clear(&move);
}

/* ---- who decides -------------------------------------------------------------------------------
 */

/* No blackout would be short enough: by itself it would go on for ever. */
static void init_hopeless(struct move *move, enum gw_migrate_mode mode)
{
    init(move, mode);
    move->source_params.max_blackout_ns = 1;
    move->pair.source.writes_per_ms = 100;
    move->source_params.max_bandwidth_bytes = SLOW_BYTES_PER_S;
}

static void auto_takes_it_when_rounds_do_not_help(void **state)
{
    struct move move;

    init_hopeless(&move, GW_MODE_AUTO);
    move_start_destination(&move);
    move_start_source(&move);
    check_moved(&move);
    move_clear(&move);
}

static void auto_does_without_it_when_rounds_help(void **state)
{
    struct move move;

    init(&move, GW_MODE_AUTO);
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_false(has_been(&move, GW_SOURCE_POSTCOPY));
    assert_false(source_status_of(&move).is_postcopy);
    check_one_owner(&move);
    move_clear(&move);
}

/* Pages that no encoding makes smaller, so that the link's rate is one of pages. */
static void fill(struct move *move, unsigned stride)
{
    struct gw_ram_block *block = gw_memory_block(move->pair.source.memory, 0);
    uint64_t random = 88172645463325252;

    move->source_params.zstd = move->source_params.delta = GW_ENCODE_OFF;
    for (uint64_t page = 0; page < block->n_pages; page += stride)
        for (uint64_t at = 0; at < GW_PAGE_SIZE; at += 8) {
            random = random * 6364136223846793005 + 1442695040888963407;
            fake_vm_store(block->host + page * GW_PAGE_SIZE + at, random);
        }
}

/* Moves a guest that writes so much, over a link on which every round takes long. */
static void check_moved_tediously(struct move *move, uint64_t max_blackout_ns,
                                  uint32_t writes_per_ms)
{
    move->source_params.max_blackout_ns = max_blackout_ns;
    move->source_params.max_bandwidth_bytes = TEDIOUS_BYTES_PER_S;
    move->pair.source.writes_per_ms = writes_per_ms;
    move_start_destination(move);
    move_start_source(move);
    check_moved(move);
}

/* Half of the memory is written over and over: rounds would go on for ever, in steps of a second.
 * The first one is enough to know. */
static void auto_has_no_patience_for_long_rounds(void **state)
{
    struct move move;

    init(&move, GW_MODE_AUTO);
    fill(&move, 1);
    fake_vm_park(&move.pair.source);
    move.pair.source.stride = 2;
    fake_vm_run(&move.pair.source);
    check_moved_tediously(&move, 300 * NS_PER_MS, 200);
    /* The first, the void one, the stopped one, and what follows. */
    assert_int_equal(source_status_of(&move).round, 4);
    move_clear(&move);
}

/* In each of four rounds the guest writes other pages than the round has, and 22 % fewer. */
static void write_fewer(struct move *move, uint32_t round)
{
    struct gw_ram_block *block = gw_memory_block(move->pair.source.memory, 0);
    double n_pages = FEWER_PAGES;

    if (round > 4 || has_been(move, GW_SOURCE_BLACKOUT))
        return;
    for (uint32_t i = 1; i < round; i++)
        n_pages *= 0.78;
    for (uint64_t i = 0; i < (uint64_t)n_pages; i++) {
        uint64_t page = 4 * i + 1 + 2 * (round % 2);

        for (uint64_t at = 0; at < GW_PAGE_SIZE; at += 8)
            fake_vm_store(block->host + page * GW_PAGE_SIZE + at, page * GW_PAGE_SIZE + at + round);
        gw_memory_note_write(block, page * GW_PAGE_SIZE, GW_PAGE_SIZE);
    }
}

/* Each is short enough, and the guest is slower than the link: only that they do not help shows. */
static void auto_has_no_patience_for_rounds_that_hardly_shrink(void **state)
{
    struct move move;

    init_sparse(&move, GW_MODE_AUTO, 2);
    fill(&move, 2);
    move.on_round = write_fewer;
    check_moved_tediously(&move, 20 * NS_PER_MS, 0);
    move_clear(&move);
}

/* All memory is written again many times while the first round goes through it: most of it is not
 * sent before the guest goes. Nothing of it is lost. */
static void a_round_that_does_not_help_is_cut(void **state)
{
    struct move move;
    struct gw_source_status status;

    init(&move, GW_MODE_AUTO);
    fill(&move, 1);
    check_moved_tediously(&move, 300 * NS_PER_MS, 200);
    status = source_status_of(&move);
    print_message("# %" PRIu64 " pages sent of %" PRIu64 "\n", status.pages_plain,
                  FAKE_RAM_BYTES / GW_PAGE_SIZE);
    assert_in_range(status.pages_plain, FAKE_RAM_BYTES / GW_PAGE_SIZE,
                    FAKE_RAM_BYTES / GW_PAGE_SIZE * 7 / 4);
    assert_int_equal(status.rounds_cut, 1);
    move_clear(&move);
}

static void user_asks_for_it(void **state)
{
    struct move move;
    g_autoptr(GError) error = NULL;

    init_hopeless(&move, GW_MODE_AUTO);
    move.pair.source.writes_per_ms = 1;
    move_start_destination(&move);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS);
         !gw_source_start_postcopy(move.source, &error) && clock_mono_ns() < limit;)
        g_clear_error(&error);
    assert_null(error);
    check_moved(&move);
    assert_false(gw_source_start_postcopy(move.source, &error));
    assert_int_equal(error->code, GW_ERROR_STATE);
    move_clear(&move);
}

static void either_side_can_forbid_it(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct move move;

        init(&move, GW_MODE_POSTCOPY);
        move.destination_params.forbids_postcopy = i == 0;
        move.source_params.forbids_postcopy = i == 1;
        move_start_destination(&move);
        move_start_source(&move);
        move_finish(&move);
        expect_source_state(&move, GW_SOURCE_FAILED);
        assert_int_equal(source_status_of(&move).failure.code, GW_ERROR_UNSUPPORTED);
        assert_non_null(strstr(source_status_of(&move).failure.reason, "forb"));
        assert_int_equal(source_status_of(&move).pages_plain, 0);
        check_one_owner(&move);
        move_clear(&move);
    }
}

static void time_that_is_up_leads_to_it(void **state)
{
    struct move move;

    init_hopeless(&move, GW_MODE_AUTO);
    move.pair.source.writes_per_ms = 1; /* rounds get shorter, and never short enough */
    move.source_params.max_time_ns = NS_PER_S;
    move.source_params.at_max_time = GW_AT_MAX_TIME_POSTCOPY;
    move_start_destination(&move);
    move_start_source(&move);
    check_moved(&move);
    move_clear(&move);
}

static void time_that_is_up_stops_and_copies(void **state)
{
    struct move move;

    init_hopeless(&move, GW_MODE_PRECOPY);
    move.source_params.max_time_ns = NS_PER_S;
    move.source_params.at_max_time = GW_AT_MAX_TIME_STOP_AND_COPY;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_false(has_been(&move, GW_SOURCE_POSTCOPY));
    check_one_owner(&move);
    move_clear(&move);
}

static void it_waits_for_a_word(void **state)
{
    struct move move;
    uint64_t n_rounds;

    init(&move, GW_MODE_POSTCOPY);
    move.source_params.waits_before_switchover = true;
    move_start_destination(&move);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS);
         !source_status_of(&move).is_waiting_before_switchover;)
        assert_true(clock_mono_ns() < limit);
    n_rounds = source_status_of(&move).round;
    assert_true(n_rounds >= 1);
    assert_true(fake_vm_is_running(&move.pair.source));
    assert_int_equal(source_state_of(&move), GW_SOURCE_ROUNDS);
    assert_true(gw_source_continue(move.source, NULL));
    check_moved(&move);
    move_clear(&move);
}

/* Moves a guest whose first attempts are put off. */
static void check_put_off(struct move *move, unsigned n_attempts)
{
    move_start_destination(move);
    move_start_source(move);
    check_moved(move);
    assert_int_equal(source_status_of(move).failed_attempts, n_attempts);
    move_clear(move);
}

/* Flushes that fail put the attempt off: what it named is sent by rounds again, or named again. */
static void attempts_that_are_put_off_lose_nothing(void **state)
{
    struct move move;

    init(&move, GW_MODE_POSTCOPY);
    move.pair.source.fail_flushes = 3;
    check_put_off(&move, 3);
}

/* The same when there was nothing to name yet: the guest did not stop. */
static void guests_that_do_not_stop_at_once_move_later(void **state)
{
    struct move move;

    init(&move, GW_MODE_POSTCOPY);
    move.pair.source.fail_stops = 2;
    check_put_off(&move, 2);
}

/* ---- links that break --------------------------------------------------------------------------
 */

/* The faults of the first address come again with each connection to it: a lost link is replaced at
 * the pair's own. */
static void finish_elsewhere(struct move *move, const char *spec)
{
    uint64_t limit = after_ms(PATIENCE_MS);

    while (!gw_source_wait(move->source, after_ms(10))) {
        enum gw_source_state at = source_state_of(move);

        if (at == GW_SOURCE_PAUSED || at == GW_SOURCE_RECONNECTING)
            gw_source_recover(move->source, move->pair.uri, NULL);
        if (clock_mono_ns() >= limit)
            fail_msg("%s: the source hangs in %s: %s", spec, gw_source_state_name(at),
                     source_status_of(move).failure.reason);
    }
}

/* In post-copy each of these cuts the link once; the link is replaced, and all of it arrives. */
static void cut_links_are_replaced(void **state)
{
    static const char *const specs[] = {
        "cut@type=PAGE_REQUEST@in@channel=urgent-0", "cut@record=40@channel=page-0",
        "cut@type=WHOLE@in@channel=control",         "cut@type=GOODBYE@in@channel=control",
        "cut@type=RUNNING@in@channel=control",       "stall@record=30@channel=page-1",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
        struct move move;
        struct vcpu vcpu;

        init(&move, GW_MODE_POSTCOPY);
        move.source_params.silence_limit_ns = 2 * NS_PER_S;
        move.destination_params.silence_limit_ns = 2 * NS_PER_S;
        move.source_params.reconnect_limit_ns = move.destination_params.reconnect_limit_ns =
            30 * NS_PER_S;
        move.source_params.max_bandwidth_bytes = 4 * SLOW_BYTES_PER_S;
        move.source_uri = faulty_uri(&move, specs[i]);
        move_start_destination(&move);
        vcpu_start(&vcpu, &move, 1, false);
        move_start_source(&move);
        finish_elsewhere(&move, specs[i]);
        vcpu_end(&vcpu);
        check_moved(&move);
        move_clear(&move);
    }
}

/* Paused and recovered by hand, from either side, again and again. */
static void pause_and_recover(void **state)
{
    struct move move;
    struct vcpu vcpu;
    g_autoptr(GError) error = NULL;
    unsigned n_pauses = 0;

    init(&move, GW_MODE_POSTCOPY);
    move.source_params.max_bandwidth_bytes = SLOW_BYTES_PER_S / 4;
    move_start_destination(&move);
    vcpu_start(&vcpu, &move, 1, false);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); n_pauses < 4 && clock_mono_ns() < limit;) {
        enum gw_source_state at = source_state_of(&move);

        if (gw_source_state_is_final(at))
            break;
        if (at == GW_SOURCE_PAUSED) {
            if (gw_source_recover(move.source, n_pauses % 2 ? move.pair.uri : NULL, NULL))
                continue;
        } else if (at == GW_SOURCE_POSTCOPY) {
            n_pauses += n_pauses % 2 ? gw_destination_pause(move.destination, NULL)
                                     : gw_source_pause(move.source, NULL);
        }
    }
    finish_elsewhere(&move, "the last pause");
    move_finish(&move);
    vcpu_end(&vcpu);
    check_moved(&move);
    assert_true(source_status_of(&move).reconnects > 0);
    assert_true(destination_status_of(&move).reconnects > 0);
    assert_false(gw_source_recover(move.source, NULL, &error));
    assert_int_equal(error->code, GW_ERROR_STATE);
    move_clear(&move);
}

/* The destination goes for good: the source keeps what it has, and never runs the guest. An
 * operator gives it up. */
static void a_lost_host_is_a_lost_guest(void **state)
{
    struct move move;

    init(&move, GW_MODE_POSTCOPY);
    move.source_params.max_bandwidth_bytes = SLOW_BYTES_PER_S / 16;
    move_start_destination(&move);
    move_start_source(&move);
    await_source(&move, GW_SOURCE_POSTCOPY);
    assert_false(gw_source_cancel(move.source));
    fake_vm_park(&move.pair.destination);
    g_clear_pointer(&move.destination, gw_destination_free);
    await_source(&move, GW_SOURCE_PAUSED);
    assert_false(fake_vm_is_running(&move.pair.source));
    assert_false(gw_source_resolve(move.source, GW_RESOLVE_RUN_HERE, NULL));
    assert_int_equal(move.pair.source.n_released, 0);
    assert_true(gw_source_resolve(move.source, GW_RESOLVE_RELEASE, NULL));
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_LOST);
    assert_int_equal(move.pair.source.n_released, 1);
    assert_int_equal(move.pair.source.n_resumes, 0);
    assert_false(fake_vm_is_running(&move.pair.source));
    move_clear(&move);
}

/* The first round's pages have come when its link breaks, and nobody has acknowledged them. The
 * guest hardly writes. What is counted is what the last connection has sent. */
static void what_has_come_is_not_sent_again(void **state)
{
    static const char spec[] = "cut@type=ROUND_END@channel=page-0";
    struct move move;
    uint64_t n_pages;

    init(&move, GW_MODE_PRECOPY);
    move.source_params.reconnect_limit_ns = move.destination_params.reconnect_limit_ns =
        30 * NS_PER_S;
    move.pair.source.writes_per_ms = 1;
    move.source_uri = faulty_uri(&move, spec);
    move_start_destination(&move);
    move_start_source(&move);
    finish_elsewhere(&move, spec);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    assert_true(source_status_of(&move).reconnects >= 1);
    n_pages = source_status_of(&move).pages_plain;
    print_message("# %" PRIu64 " pages sent of %" PRIu64 "\n", n_pages,
                  FAKE_RAM_BYTES / GW_PAGE_SIZE);
    assert_true(n_pages < FAKE_RAM_BYTES / GW_PAGE_SIZE * 3 / 4);
    check_one_owner(&move);
    move_clear(&move);
}

/* A link that breaks before COMMIT: the guest runs on, and what was acknowledged is not sent again.
 */
static void rounds_go_on_over_another_link(void **state)
{
    static const char *const specs[] = {
        "cut@type=ROUND_END@channel=page-0",           "cut@type=ROUND_ACK@in@channel=control",
        "cut@type=SWITCHOVER_BEGIN@channel=control",   "cut@type=LOADED@in@channel=control",
        "corrupt@type=ROUND_END@at=33@channel=page-1",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
        struct move move;

        init(&move, GW_MODE_PRECOPY);
        move.source_params.reconnect_limit_ns = move.destination_params.reconnect_limit_ns =
            30 * NS_PER_S;
        move.source_uri = faulty_uri(&move, specs[i]);
        move_start_destination(&move);
        move_start_source(&move);
        finish_elsewhere(&move, specs[i]);
        expect_source_state(&move, GW_SOURCE_COMPLETED);
        assert_true(has_been(&move, GW_SOURCE_RECONNECTING));
        assert_true(source_status_of(&move).reconnects >= 1);
        check_one_owner(&move);
        move_clear(&move);
    }
}

/* The guest writes all its memory at its first stop, and hardly anything later: the pages that the
 * lost attempt named are not dirty again, and have to come all the same. */
static void what_a_lost_attempt_named_is_not_forgotten(void **state)
{
    static const char *const specs[] = {
        "cut@type=STATE_END@channel=control",
        "cut@type=LOADED@in@channel=control",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
        struct move move;

        init(&move, GW_MODE_POSTCOPY);
        move.source_params.reconnect_limit_ns = move.destination_params.reconnect_limit_ns =
            30 * NS_PER_S;
        move.pair.source.writes_per_ms = 1;
        move.pair.source.busy_stops = 1;
        move.source_uri = faulty_uri(&move, specs[i]);
        move_start_destination(&move);
        move_start_source(&move);
        finish_elsewhere(&move, specs[i]);
        assert_true(has_been(&move, GW_SOURCE_RECONNECTING));
        check_moved(&move);
        move_clear(&move);
    }
}

/* A source that gives up soon, a destination that waits on, and a fault on their link. */
static void init_in_vain(struct move *move, const char *fault)
{
    init(move, GW_MODE_PRECOPY);
    move->source_params.reconnect_limit_ns = NS_PER_S;
    move->destination_params.reconnect_limit_ns = 600 * NS_PER_S;
    move->source_uri = faulty_uri(move, fault);
}

/* A link that breaks at the same place each time it was replaced. */
static void links_that_carry_nothing_are_given_up(void **state)
{
    struct move move;

    init_in_vain(&move, "cut@type=ROUND_BEGIN@channel=page-0");
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    assert_true(source_status_of(&move).reconnects > 0);
    check_one_owner(&move);
    check_next_attempt_works(&move);
    move_clear(&move);
}

/* Nobody comes back: the source's guest goes on, the destination takes the next one. */
static void who_waits_in_vain_is_free_again(void **state)
{
    struct move move;

    init_in_vain(&move, "cut@type=ROUND_ACK@in@channel=control");
    move.refuse_from = 3; /* control and two page channels */
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_FAILED);
    check_one_owner(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS);
         destination_status_of(&move).state != GW_DESTINATION_WAITING;)
        assert_true(clock_mono_ns() < limit);
    check_next_attempt_works(&move);
    move_clear(&move);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_follows_the_guest),
        cmocka_unit_test(who_needs_a_page_gets_it),
        cmocka_unit_test(what_follows_is_compressed),
        cmocka_unit_test(who_waited_is_told_to_the_source),
        cmocka_unit_test(auto_takes_it_when_rounds_do_not_help),
        cmocka_unit_test(auto_does_without_it_when_rounds_help),
        cmocka_unit_test(auto_has_no_patience_for_long_rounds),
        cmocka_unit_test(auto_has_no_patience_for_rounds_that_hardly_shrink),
        cmocka_unit_test(a_round_that_does_not_help_is_cut),
        cmocka_unit_test(user_asks_for_it),
        cmocka_unit_test(either_side_can_forbid_it),
        cmocka_unit_test(time_that_is_up_leads_to_it),
        cmocka_unit_test(time_that_is_up_stops_and_copies),
        cmocka_unit_test(it_waits_for_a_word),
        cmocka_unit_test(attempts_that_are_put_off_lose_nothing),
        cmocka_unit_test(guests_that_do_not_stop_at_once_move_later),
        cmocka_unit_test(cut_links_are_replaced),
        cmocka_unit_test(pause_and_recover),
        cmocka_unit_test(a_lost_host_is_a_lost_guest),
        cmocka_unit_test(what_has_come_is_not_sent_again),
        cmocka_unit_test(rounds_go_on_over_another_link),
        cmocka_unit_test(what_a_lost_attempt_named_is_not_forgotten),
        cmocka_unit_test(links_that_carry_nothing_are_given_up),
        cmocka_unit_test(who_waits_in_vain_is_free_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
