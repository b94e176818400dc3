/* SPDX-License-Identifier: MIT */
/* One move of a fake pair, with what a test wants to happen on the way. */
#include "harness.h"

#include <sched.h>
#include <string.h>

#include "migrate/engine.h"

#define MARK_AT (GW_PAGE_SIZE - sizeof(uint64_t)) /* in a page */

static void on_source_event(void *opaque, enum gw_migrate_event event, uint32_t value)
{
    struct move *move = opaque;

    if (event == GW_MIGRATE_EVENT_ROUND) {
        atomic_fetch_add(&move->n_rounds, 1);
        if (move->on_round)
            move->on_round(move, value);
        return;
    }
    atomic_fetch_or(&move->seen_states, 1u << value);
    if (move->cancel_at && value == move->cancel_at) {
        struct gw_source *source;

        /* It may be quicker than gw_source_start. */
        while (!(source = __atomic_load_n(&move->source, __ATOMIC_ACQUIRE)))
            sched_yield();
        move->was_cancel_taken = gw_source_cancel(source);
    }
}

static struct gw_channel *on_source_channel(void *opaque, struct gw_channel *channel,
                                            enum gw_channel_role_hint role, uint32_t index)
{
    struct move *move = opaque;
    int n = atomic_fetch_add(&move->n_channels, 1);

    if (move->refuse_from && n >= move->refuse_from) {
        gw_channel_free(channel);
        return NULL;
    }
    return channel;
}

void move_init(struct move *move)
{
    move_init_sparse(move, 1);
}

void move_init_sparse(struct move *move, unsigned stride)
{
    *move = (struct move){0};
    fake_pair_init_sparse(&move->pair, stride);
    /* Most tests are about the copying of pages. */
    move->source_params.ram = GW_RAM_COPY;
    /* Post-copy and links that are replaced have tests of their own. */
    move->source_params.mode = GW_MODE_PRECOPY;
    /* Sanitizers make everything slow: budgets are not what most tests are about. */
    move->source_params.max_blackout_ns = 30 * NS_PER_S;
    /* Some count the channels; how many the host would take is what test_channels.c is about. */
    move->source_params.channels = 1;
    move->source_params.wrap = on_source_channel;
    move->source_params.wrap_opaque = move;
    /* After a move the guest must not write, or the memories could not be compared. */
    move->pair.destination.writes_per_ms = 0;
}

void move_start_destination(struct move *move)
{
    g_autoptr(GError) error = NULL;

    move->destination = gw_destination_start(&move->pair.destination.vm, move->pair.uri,
                                             &move->destination_params, NULL, &error);
    if (!move->destination)
        fail_msg("%s", error->message);
}

void move_start_source(struct move *move)
{
    g_autoptr(GError) error = NULL;
    struct gw_migrate_observer observer = {.event = on_source_event, .opaque = move};
    struct gw_source *source;

    atomic_store(&move->seen_states, 0);
    source =
        gw_source_start(&move->pair.source.vm, move->source_uri ? move->source_uri : move->pair.uri,
                        &move->source_params, &observer, &error);
    if (!source)
        fail_msg("%s", error->message);
    __atomic_store_n(&move->source, source, __ATOMIC_RELEASE);
}

void move_finish(struct move *move)
{
    if (!gw_source_wait(move->source, after_ms(PATIENCE_MS)))
        fail_msg("the source hangs in %s", gw_source_state_name(source_state_of(move)));
}

void move_clear(struct move *move)
{
    gw_source_free(move->source);
    gw_destination_free(move->destination);
    fake_pair_clear(&move->pair);
    g_free(move->source_uri);
}

struct gw_source_status source_status_of(struct move *move)
{
    struct gw_source_status status;

    gw_source_get_status(move->source, &status);
    return status;
}

enum gw_source_state source_state_of(struct move *move)
{
    return source_status_of(move).state;
}

void expect_source_state(struct move *move, enum gw_source_state expected)
{
    struct gw_source_status status = source_status_of(move);

    if (status.state != expected)
        fail_msg("the source is %s, not %s; %s failed: %s", gw_source_state_name(status.state),
                 gw_source_state_name(expected), gw_side_name(status.failure.side),
                 status.failure.reason);
}

struct gw_destination_status destination_status_of(struct move *move)
{
    struct gw_destination_status status;

    gw_destination_get_status(move->destination, &status);
    return status;
}

void check_one_owner(struct move *move)
{
    enum gw_source_state state = source_state_of(move);
    struct fake_pair *pair = &move->pair;

    assert_false(pair->ran_twice);
    if (state == GW_SOURCE_COMPLETED) {
        assert_true(gw_destination_wait(move->destination, after_ms(PATIENCE_MS)));
        assert_int_equal(destination_status_of(move).state, GW_DESTINATION_RUNNING);
        assert_false(fake_vm_is_running(&pair->source));
        assert_true(fake_vm_is_running(&pair->destination));
        assert_int_equal(pair->source.n_released, 1);
        assert_int_equal(pair->destination.n_runs, 1);
        fake_vm_park(&pair->destination);
        pair->destination.devices[0].ticks = pair->source.devices[0].ticks; /* it has run since */
        assert_true(fake_pair_is_equal(pair));
    } else {
        assert_true(state == GW_SOURCE_FAILED || state == GW_SOURCE_CANCELLED);
        assert_true(fake_vm_is_running(&pair->source));
        assert_false(fake_vm_is_running(&pair->destination));
        assert_int_equal(pair->source.n_released, 0);
        assert_int_equal(pair->destination.n_runs, 0);
        assert_int_equal(source_status_of(move).failure.side != GW_SIDE_NONE, true);
    }
}

bool has_phase(const struct gw_ledger *ledger, const char *name)
{
    const struct gw_ledger_attempt *attempt =
        gw_ledger_attempt_at(ledger, gw_ledger_n_attempts(ledger) - 1);

    for (uint32_t i = 0; i < attempt->n_phases; i++)
        if (strcmp(attempt->phases[i].name, name) == 0)
            return true;
    return false;
}

void check_ledger(const struct gw_ledger *ledger, uint32_t index, bool is_handed_over)
{
    const struct gw_ledger_attempt *attempt = gw_ledger_attempt_at(ledger, index);
    uint64_t sum_ns = 0;
    int64_t at_ns = 0;

    assert_non_null(attempt);
    assert_int_equal(attempt->is_handed_over, is_handed_over);
    for (uint32_t i = 0; i < attempt->n_phases; i++) {
        if (attempt->phases[i].depth != 0)
            continue;
        assert_int_equal(attempt->phases[i].start_ns, at_ns);
        at_ns += (int64_t)attempt->phases[i].length_ns;
        sum_ns += attempt->phases[i].length_ns;
    }
    assert_int_equal(sum_ns, attempt->blackout_ns);
}

/* The source may know of the end before the destination does, which then still serves the last
 * attempt and says so. That is no failure of the next one. */
static bool is_too_early(struct move *move)
{
    struct gw_source_status status = source_status_of(move);

    return status.state == GW_SOURCE_FAILED && strstr(status.failure.reason, "serves another");
}

void move_again(struct move *move)
{
    uint64_t limit_ns = after_ms(PATIENCE_MS);

    gw_source_free(move->source); /* its last events read what follows */
    move->source = NULL;
    g_clear_pointer(&move->source_uri, g_free);
    move->cancel_at = 0;
    move->refuse_from = 0;
    do {
        g_clear_pointer(&move->source, gw_source_free);
        move_start_source(move);
        move_finish(move);
    } while (is_too_early(move) && clock_mono_ns() < limit_ns);
    if (source_state_of(move) != GW_SOURCE_COMPLETED)
        fail_msg("the next attempt failed: %s", source_status_of(move).failure.reason);
}

void check_next_attempt_works(struct move *move)
{
    move_again(move);
    check_one_owner(move);
}

/* ---- a vCPU of the destination -----------------------------------------------------------------
 */

static struct gw_ram_block *ram_of(struct fake_vm *vm)
{
    return gw_memory_block(vm->memory, 0);
}

static uint64_t mark_of(uint64_t page)
{
    return UINT64_C(0x6d61726b00000000) + page;
}

static bool is_marked(const struct vcpu *vcpu, uint64_t page)
{
    return vcpu->leaves_marks && page / vcpu->step % 2 == 1;
}

static void look_at_page(struct vcpu *vcpu, uint64_t page)
{
    struct fake_pair *pair = &vcpu->move->pair;
    uint8_t *ours = ram_of(&pair->destination)->host + page * GW_PAGE_SIZE;
    const uint8_t *theirs = ram_of(&pair->source)->host + page * GW_PAGE_SIZE;
    bool has_mark = is_marked(vcpu, page) && atomic_load(&vcpu->n_rounds) > 0;
    uint64_t mark = mark_of(page);

    if (memcmp(ours, theirs, MARK_AT) != 0 ||
        memcmp(ours + MARK_AT, has_mark ? (void *)&mark : theirs + MARK_AT, sizeof mark) != 0)
        atomic_fetch_add(&vcpu->n_wrong, 1);
    if (is_marked(vcpu, page))
        memcpy(ours + MARK_AT, &mark, sizeof mark);
}

static void *vcpu_main(void *opaque)
{
    struct vcpu *vcpu = opaque;
    struct fake_vm *vm = &vcpu->move->pair.destination;
    uint64_t n_pages = ram_of(vm)->n_pages / vcpu->step;

    while (!atomic_load(&vcpu->is_over)) {
        if (!fake_vm_await_run(vm, after_ms(10)))
            continue;
        for (uint64_t i = n_pages; i-- > 0;)
            look_at_page(vcpu, i * vcpu->step);
        atomic_fetch_add(&vcpu->n_rounds, 1);
        fake_vm_await_change(vm);
    }
    return NULL;
}

void vcpu_start(struct vcpu *vcpu, struct move *move, uint64_t step, bool leaves_marks)
{
    *vcpu = (struct vcpu){.move = move, .step = step, .leaves_marks = leaves_marks};
    engine_thread_start(&vcpu->thread, "test-vcpu", vcpu_main, vcpu);
}

void vcpu_end(struct vcpu *vcpu)
{
    for (uint64_t limit = after_ms(PATIENCE_MS); atomic_load(&vcpu->n_rounds) == 0;) {
        fake_vm_await_change(&vcpu->move->pair.destination);
        if (clock_mono_ns() >= limit)
            fail_msg("a vCPU waits for a page");
    }
    atomic_store(&vcpu->is_over, true);
    pthread_join(vcpu->thread, NULL);
    assert_int_equal(atomic_load(&vcpu->n_wrong), 0);
    for (uint64_t page = 0; page < ram_of(&vcpu->move->pair.source)->n_pages; page += vcpu->step) {
        uint64_t mark = mark_of(page);

        if (is_marked(vcpu, page))
            memcpy(ram_of(&vcpu->move->pair.source)->host + page * GW_PAGE_SIZE + MARK_AT, &mark,
                   sizeof mark);
    }
}
