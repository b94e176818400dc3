/* SPDX-License-Identifier: MIT */
/*
 * Plans and the probes they send: what is found out, what is said when it cannot be, and that a
 * probe, honest or not, leaves the destination to whoever migrates.
 */
#include "attack.h"

#include <math.h>

#include "migrate/probe.h"
#include "migrate/sampler.h"

#define SAMPLE_NS (300 * NS_PER_MS)

static struct gw_plan_params params_of(const struct move *move)
{
    return (struct gw_plan_params){.migrate = move->source_params, .sample_ns = SAMPLE_NS};
}

static struct gw_plan_status plan_with(struct move *move, const char *uri,
                                       const struct gw_plan_params *params)
{
    g_autoptr(GError) error = NULL;
    struct gw_plan_status status;
    struct gw_plan *plan = gw_plan_start(&move->pair.source.vm, uri, params, &error);

    if (!plan)
        fail_msg("%s", error->message);
    assert_true(gw_plan_wait(plan, after_ms(PATIENCE_MS)));
    gw_plan_get_status(plan, &status);
    gw_plan_free(plan);
    return status;
}

static struct gw_plan_status plan_of(struct move *move)
{
    struct gw_plan_params params = params_of(move);

    return plan_with(move, move->source_uri ? move->source_uri : move->pair.uri, &params);
}

static void expect_note(const struct gw_plan_status *status, const char *part)
{
    if (!strstr(status->link_note, part))
        fail_msg("\"%s\" is not in \"%s\"", part, status->link_note);
}

/* A plan finds out everything, twice in a row, and the destination has not noticed. */
static void a_plan_leaves_everything_as_it_was(void **state)
{
    struct move move;
    struct gw_plan_status status;

    move_init(&move);
    move_start_destination(&move);
    for (unsigned i = 0; i < 2; i++) {
        status = plan_of(&move);
        if (status.state != GW_PLAN_DONE || !status.is_link_measured || !status.has_verdict)
            fail_msg("%s: %s%s", gw_plan_state_name(status.state), status.failure.reason,
                     status.link_note);
        assert_true(status.is_accepted);
        assert_true(status.bandwidth_bytes_per_s.low <= status.bandwidth_bytes_per_s.expected &&
                    status.bandwidth_bytes_per_s.expected <= status.bandwidth_bytes_per_s.high);
        assert_true(status.round_trip_ns > 0);
        assert_true(status.probe_bytes > 0 && status.probe_bytes <= WIRE_MAX_PROBE_BYTES);
        assert_int_equal(status.ram_bytes, gw_memory_size_bytes(move.pair.source.memory));
        assert_true(status.used_bytes > 0 && status.used_bytes <= status.ram_bytes);
        assert_true(status.dirty_bytes_per_s > 0);
        assert_true(status.elapsed_ns >= SAMPLE_NS);
        assert_true(status.has_forecast);
        assert_int_equal(status.chosen, GW_PLAN_PRECOPY);
        assert_true(status.is_meeting); /* the budget is 30 s */
        assert_true(status.reason[0]);
        assert_false(gw_memory_is_logging(move.pair.source.memory));
    }
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_LISTENING);
    assert_int_equal(destination_status_of(&move).migrations, 0);
    assert_int_equal(move.pair.destination.n_discarded, 0);
    check_still_works(&move);
    move_clear(&move);
}

/* The move has kept what it forecast itself, with an error bar, and that came true too. */
static void check_kept_forecast(struct move *move)
{
    struct gw_source_status status = source_status_of(move);

    assert_true(status.forecast_round >= 2);
    assert_true(status.forecast_total_ns.low <= status.forecast_total_ns.expected &&
                status.forecast_total_ns.expected <= status.forecast_total_ns.high);
    assert_true(status.forecast_blackout_ns.expected > 0);
}

/* What is measured is the link, and what is forecast of it comes true. */
static void a_slow_link_is_measured_and_forecast(void **state)
{
    const double rate = 8e6;
    struct move move;
    struct gw_plan_status status;
    double forecast, outcome;

    move_init(&move);
    move.source_uri = g_strdup_printf("rate:%.0f,%s", rate, move.pair.uri);
    atomic_store(&move.pair.source.writes_per_ms, 0);
    /* What pages shrink to is not forecast. */
    move.source_params.zstd = move.source_params.delta = GW_ENCODE_OFF;
    move_start_destination(&move);
    status = plan_of(&move);
    assert_true(status.is_link_measured);
    print_message("# measured %.2f MB/s (%.2f to %.2f)\n",
                  (double)status.bandwidth_bytes_per_s.expected / 1e6,
                  (double)status.bandwidth_bytes_per_s.low / 1e6,
                  (double)status.bandwidth_bytes_per_s.high / 1e6);
    /* A loaded machine makes it slower, never faster. */
    assert_true(status.bandwidth_bytes_per_s.expected > 0);
    assert_true((double)status.bandwidth_bytes_per_s.expected < 1.3 * rate);
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    forecast = (double)status.modes[GW_PLAN_PRECOPY].total_ns.expected;
    outcome = (double)source_status_of(&move).total_ns;
    print_message("# forecast %.3f s, outcome %.3f s\n", forecast / 1e9, outcome / 1e9);
    assert_true(forecast > 0.7 * (double)status.used_bytes / rate * 1e9);
    check_kept_forecast(&move);
    move_clear(&move);
}

static void what_does_not_fit_is_said(void **state)
{
    struct move move;
    struct gw_plan_status status;

    move_init(&move);
    fake_vm_clear(&move.pair.destination);
    fake_vm_init(&move.pair.destination, "destination", &move.pair, 2 * FAKE_RAM_BYTES, 3);
    move_start_destination(&move);
    status = plan_of(&move);
    assert_int_equal(status.state, GW_PLAN_DONE);
    assert_true(status.has_verdict);
    assert_false(status.is_accepted);
    assert_non_null(strstr(status.findings, "RAM block"));
    assert_non_null(strchr(status.findings, '\n')); /* all of it, not only the first */
    assert_true(status.is_link_measured && status.has_forecast);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_LISTENING);
    move_clear(&move);
}

static void a_busy_destination_says_so(void **state)
{
    struct move move, other;
    struct gw_plan_status status;
    struct gw_plan_params params;

    move_init(&move);
    move_init(&other);
    move.source_params.max_blackout_ns = 1;
    move_start_destination(&move);
    move_start_source(&move);
    for (uint64_t limit = after_ms(PATIENCE_MS); atomic_load(&move.n_rounds) < 2;)
        assert_true(clock_mono_ns() < limit);
    params = params_of(&other);
    status = plan_with(&other, move.pair.uri, &params);
    assert_int_equal(status.state, GW_PLAN_DONE);
    assert_false(status.is_link_measured || status.has_verdict || status.has_forecast);
    expect_note(&status, "the destination serves a migration");
    assert_non_null(strstr(status.reason, "no forecast"));
    /* Budgets can be looked at without the link, if one of them says how fast it may be. */
    params.migrate.max_bandwidth_bytes = 100000000;
    status = plan_with(&other, move.pair.uri, &params);
    assert_true(status.has_forecast);
    /* The source that is at it has the dirty log. */
    g_autoptr(GError) error = NULL;
    assert_null(gw_plan_start(&move.pair.source.vm, move.pair.uri, NULL, &error));
    assert_int_equal(gw_error_code_of(error), GW_ERROR_STATE);
    gw_source_set_budgets(move.source,
                          &(struct gw_migrate_params){.max_blackout_ns = 30 * NS_PER_S});
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    status = plan_with(&other, move.pair.uri, &params);
    expect_note(&status, "the destination runs its guest");
    check_one_owner(&move);
    move_clear(&other);
    move_clear(&move);
}

/* Takes one connection: reads its preamble and closes it, or keeps it and says nothing. */
struct stub {
    struct gw_listener *listener;
    bool closes;
    pthread_t thread;
    struct gw_channel *kept;
};

static void *stub_main(void *opaque)
{
    struct stub *stub = opaque;
    uint8_t preamble[WIRE_PREAMBLE_BYTES];

    stub->kept = gw_listener_accept(stub->listener, limit_ns(), NULL);
    if (stub->kept && stub->closes) {
        gw_channel_read_full(stub->kept, preamble, sizeof preamble, limit_ns(), NULL);
        g_clear_pointer(&stub->kept, gw_channel_free);
    }
    return NULL;
}

static struct gw_plan_status plan_at_stub(bool closes)
{
    struct move move;
    struct stub stub = {.closes = closes};
    struct gw_plan_status status;

    move_init(&move);
    move.source_params.silence_limit_ns = closes ? 0 : 500 * NS_PER_MS;
    stub.listener = gw_listener_new(move.pair.uri, NULL, NULL);
    assert_non_null(stub.listener);
    pthread_create(&stub.thread, NULL, stub_main, &stub);
    status = plan_of(&move);
    pthread_join(stub.thread, NULL);
    gw_channel_free(stub.kept);
    gw_listener_free(stub.listener);
    move_clear(&move);
    return status;
}

static void old_and_silent_destinations_are_told_apart(void **state)
{
    struct gw_plan_status old = plan_at_stub(true), silent = plan_at_stub(false);

    assert_int_equal(old.state, GW_PLAN_DONE);
    expect_note(&old, "older than probes");
    assert_int_equal(silent.state, GW_PLAN_DONE);
    expect_note(&silent, "not measured");
    assert_null(strstr(silent.link_note, "older"));
    assert_true(old.dirty_bytes_per_s > 0 && silent.dirty_bytes_per_s > 0);
}

static void nobody_at_the_address_and_none_at_all(void **state)
{
    struct move move;
    struct gw_plan_params params;
    struct gw_plan_status status;

    move_init(&move);
    params = params_of(&move);
    status = plan_with(&move, move.pair.uri, &params);
    expect_note(&status, "the link was not measured: ");
    status = plan_with(&move, NULL, &params);
    expect_note(&status, "no address");
    status = plan_with(&move, "fd:0", &params);
    expect_note(&status, "only once");
    move_clear(&move);
}

static void a_plan_can_be_cancelled(void **state)
{
    struct move move;
    struct gw_plan_params params;
    struct gw_plan_status status;
    struct gw_plan *plan;

    move_init(&move);
    params = params_of(&move);
    params.sample_ns = 3600 * NS_PER_S;
    plan = gw_plan_start(&move.pair.source.vm, NULL, &params, NULL);
    assert_false(gw_plan_wait(plan, after_ms(50)));
    gw_plan_cancel(plan);
    assert_true(gw_plan_wait(plan, after_ms(PATIENCE_MS)));
    gw_plan_get_status(plan, &status);
    assert_int_equal(status.state, GW_PLAN_CANCELLED);
    assert_false(gw_memory_is_logging(move.pair.source.memory));
    gw_plan_free(plan);
    /* And by being freed. */
    plan = gw_plan_start(&move.pair.source.vm, NULL, &params, NULL);
    gw_plan_free(plan);
    move_start_destination(&move);
    check_still_works(&move);
    move_clear(&move);
}

/* ---- probes that are not honest ---------------------------------------------------------------
 */

/* A probe up to its verdict. */
static void probe_begin(struct attack *attack, struct move *move)
{
    struct wire_hello hello = {.page_shift = 12,
                               .max_packet_pages = 256,
                               .features = 1u << WIRE_FEATURE_RESEND,
                               .software = (char *)"x",
                               .machine = (char *)"",
                               .vm_name = (char *)"",
                               .host = (char *)""};

    *attack = (struct attack){.move = move};
    wire_new_migration_id(attack->id);
    attack->control = open_stream(move, WIRE_ROLE_PROBE, 0, attack->id);
    assert_non_null(attack->control);
    SEND(attack->control, WIRE_HELLO, &hello);
    send_schema(attack);
    send_ram_map(attack);
    await_record(attack->control, WIRE_SCHEMA_VERDICT);
    wire_stream_set_phase(attack->control, WIRE_IN_ROUNDS);
}

static bool send_probe(struct attack *attack, uint64_t digest_off, uint32_t n_bytes)
{
    static uint8_t zeroes[WIRE_PROBE_BYTES];
    struct iovec bulk = {zeroes, n_bytes};
    uint8_t payload[8];
    uint64_t digest = probe_digest(zeroes, n_bytes) + digest_off;

    memcpy(payload, &digest, sizeof payload);
    return wire_send_raw(attack->control, WIRE_PROBE, payload, sizeof payload, &bulk, 1, limit_ns(),
                         NULL);
}

static void expect_abort(struct wire_stream *stream, const char *part)
{
    struct wire_abort abort;

    AWAIT(stream, WIRE_ABORT, &abort);
    if (!strstr(abort.reason, part))
        fail_msg("\"%s\" is not in \"%s\"", part, abort.reason);
    wire_message_clear(WIRE_ABORT, &abort);
}

/* Whoever holds a probe open holds nobody up: a second one is turned away, a migration arrives, and
 * the probe ends. */
static void a_migration_comes_before_a_probe(void **state)
{
    struct move move;
    struct attack attack;
    struct gw_plan_status status;

    move_init(&move);
    move_start_destination(&move);
    probe_begin(&attack, &move);
    status = plan_of(&move);
    expect_note(&status, "another probe");
    move_start_source(&move);
    move_finish(&move);
    expect_source_state(&move, GW_SOURCE_COMPLETED);
    check_one_owner(&move);
    send_probe(&attack, 0, WIRE_PAGE_BYTES);
    expect_abort(attack.control, "a migration has begun");
    expect_end(wire_stream_channel(attack.control));
    wire_stream_free(attack.control);
    move_clear(&move);
}

static void more_than_a_probe_is_refused(void **state)
{
    struct move move;
    struct attack attack;
    struct wire_probe_ack ack;

    move_init(&move);
    move_start_destination(&move);
    probe_begin(&attack, &move);
    for (uint64_t sent = 0; sent < WIRE_MAX_PROBE_BYTES; sent += WIRE_PROBE_BYTES) {
        assert_true(send_probe(&attack, 0, WIRE_PROBE_BYTES));
        AWAIT(attack.control, WIRE_PROBE_ACK, &ack);
        assert_int_equal(ack.n_bytes, sent + WIRE_PROBE_BYTES);
    }
    assert_true(send_probe(&attack, 0, WIRE_PAGE_BYTES));
    expect_abort(attack.control, "field bulk");
    wire_stream_free(attack.control);
    check_still_works(&move);
    move_clear(&move);
}

static void what_is_no_probe_is_refused(void **state)
{
    struct move move;
    struct attack attack;
    struct wire_round_begin begin = {.round = 1};

    move_init(&move);
    move_start_destination(&move);
    probe_begin(&attack, &move);
    assert_true(send_probe(&attack, 1, WIRE_PAGE_BYTES));
    expect_abort(attack.control, "field digest");
    wire_stream_free(attack.control);
    /* Records of a migration have no place there: our own side does not even send them. */
    probe_begin(&attack, &move);
    assert_false(wire_send(attack.control, WIRE_ROUND_BEGIN, &begin, limit_ns(), NULL));
    wire_stream_free(attack.control);
    assert_int_equal(destination_status_of(&move).state, GW_DESTINATION_LISTENING);
    check_still_works(&move);
    move_clear(&move);
}

/* A destination that goes while it is probed does not wait for the prober. */
static void a_destination_ends_under_a_probe(void **state)
{
    struct move move;
    struct attack attack;

    move_init(&move);
    move_start_destination(&move);
    probe_begin(&attack, &move);
    g_clear_pointer(&move.destination, gw_destination_free);
    expect_end(wire_stream_channel(attack.control));
    wire_stream_free(attack.control);
    move_clear(&move);
}

/* ---- arithmetic -------------------------------------------------------------------------------
 */

static void the_rate_is_that_of_the_later_part(void **state)
{
    uint64_t times_ns[100], n_bytes[100];
    double rate, doubt;

    /* Slow start, then 100 MB/s. */
    for (uint32_t i = 0; i < 100; i++) {
        times_ns[i] = 1000 + i * 5 * NS_PER_MS;
        n_bytes[i] = i < 20 ? 1000 * i + 1 : n_bytes[i - 1] + 500000;
    }
    assert_true(probe_rate(times_ns, n_bytes, 100, NS_PER_S, &rate, &doubt));
    assert_true(rate > 99e6 && rate < 101e6);
    assert_true(doubt < 0.05);
    /* What is held up on the way and then acknowledged at once was no faster; with a short round
     * trip all of it counts. */
    for (uint32_t i = 0; i < 100; i++)
        n_bytes[i] = (uint64_t)(i - i % 20 + i % 20 / 2) * 500000 + 1;
    for (uint64_t round_trip_ns = 0; round_trip_ns <= NS_PER_S; round_trip_ns += NS_PER_S) {
        assert_true(probe_rate(times_ns, n_bytes, 100, round_trip_ns, &rate, &doubt));
        assert_true(rate > 97e6 && rate < 103e6);
    }
    /* Nor does a gap at the end make a link that was fast before a slow one. */
    for (uint32_t i = 0; i < 100; i++)
        n_bytes[i] = (uint64_t)MIN(i, 40) * 500000 + 1 + i;
    assert_true(probe_rate(times_ns, n_bytes, 100, 0, &rate, &doubt));
    assert_true(rate > 39e6);
    /* A link that falls to a half in the middle of it is doubtful. */
    for (uint32_t i = 1; i < 100; i++)
        n_bytes[i] = n_bytes[i - 1] + (i < 70 ? 500000 : 250000);
    assert_true(probe_rate(times_ns, n_bytes, 100, NS_PER_S, &rate, &doubt));
    assert_true(doubt > 0.2);
    assert_false(probe_rate(times_ns, n_bytes, 1, NS_PER_S, &rate, &doubt));
    for (uint32_t i = 0; i < 100; i++)
        times_ns[i] = 7;
    assert_false(probe_rate(times_ns, n_bytes, 100, NS_PER_S, &rate, &doubt));
}

/* Distinct pages of a guest that writes at this rate all over a set, in windows of 10 ms to 2.56 s.
 */
static struct dirty_model model_of(double pages_per_s, double n_pages)
{
    struct dirty_model model = {.max_pages = 1e9};

    for (uint32_t i = 0; i < 9; i++) {
        double ns = (double)(DIRTY_UNIT_NS << i);

        model.windows[model.n_windows++] =
            (struct dirty_window){.length_ns = ns,
                                  .pages = n_pages * (1 - exp(-pages_per_s * ns / 1e9 / n_pages)),
                                  .n = 9};
    }
    dirty_model_fit(&model);
    return model;
}

/* Slots get longer while they cost too much, and not for what was before. */
static void slots_grow_step_by_step(void **state)
{
    struct dirty_model model = model_of(1e5, 5000);

    assert_int_equal(sampler_slot_ns(&model, 0), 32 * DIRTY_UNIT_NS);
    assert_int_equal(sampler_next_slot_ns(&model, 0, DIRTY_UNIT_NS, 900), 2 * DIRTY_UNIT_NS);
    assert_int_equal(sampler_next_slot_ns(&model, 0, 32 * DIRTY_UNIT_NS, 5000), 32 * DIRTY_UNIT_NS);
    assert_int_equal(sampler_next_slot_ns(&model, 0, 4 * DIRTY_UNIT_NS, 500), 4 * DIRTY_UNIT_NS);
    assert_int_equal(sampler_next_slot_ns(&model, 0, 4 * DIRTY_UNIT_NS, 10), 2 * DIRTY_UNIT_NS);
    assert_int_equal(sampler_next_slot_ns(&model, 0, DIRTY_UNIT_NS, 0), DIRTY_UNIT_NS);
}

static double cost_of(const struct dirty_model *model, uint64_t slot_ns)
{
    return dirty_model_pages(model, (double)slot_ns) * SAMPLER_COST_NS / (double)slot_ns;
}

static void watching_is_bounded(void **state)
{
    struct dirty_model model = {.max_pages = 1e9};
    uint64_t before_ns = DIRTY_UNIT_NS;

    assert_int_equal(sampler_slot_ns(&model, 0), DIRTY_UNIT_NS);
    /* The more of the same it writes, the less often it is looked at. */
    for (double rate = 100; rate < 1e6; rate *= 3) {
        model = model_of(rate, 5000);
        uint64_t slot_ns = sampler_slot_ns(&model, 0);

        assert_true(slot_ns >= before_ns);
        assert_true(cost_of(&model, slot_ns) * 1000 <= SAMPLER_MAX_PERMILLE);
        assert_true(slot_ns == DIRTY_UNIT_NS ||
                    cost_of(&model, slot_ns / 2) * 1000 > SAMPLER_MAX_PERMILLE);
        before_ns = slot_ns;
    }
    assert_true(before_ns > DIRTY_UNIT_NS);
    /* Looking less often would not help. */
    model = model_of(1e6, 1e8);
    assert_int_equal(sampler_slot_ns(&model, 0), DIRTY_UNIT_NS);
    /* A collection that takes long is made less often. */
    model = model_of(0, 1);
    assert_true(sampler_slot_ns(&model, 2 * NS_PER_MS) >= 64 * NS_PER_MS);
    model = model_of(1e6, 1e6);
    assert_in_range(sampler_slot_ns(&model, NS_PER_S), DIRTY_UNIT_NS, SAMPLER_MAX_SLOT_NS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_leaves_everything_as_it_was),
        cmocka_unit_test(a_slow_link_is_measured_and_forecast),
        cmocka_unit_test(what_does_not_fit_is_said),
        cmocka_unit_test(a_busy_destination_says_so),
        cmocka_unit_test(old_and_silent_destinations_are_told_apart),
        cmocka_unit_test(nobody_at_the_address_and_none_at_all),
        cmocka_unit_test(a_plan_can_be_cancelled),
        cmocka_unit_test(a_migration_comes_before_a_probe),
        cmocka_unit_test(more_than_a_probe_is_refused),
        cmocka_unit_test(what_is_no_probe_is_refused),
        cmocka_unit_test(a_destination_ends_under_a_probe),
        cmocka_unit_test(the_rate_is_that_of_the_later_part),
        cmocka_unit_test(slots_grow_step_by_step),
        cmocka_unit_test(watching_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
