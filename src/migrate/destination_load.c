/* SPDX-License-Identifier: MIT */
/*
 * The destination's device state and its side of the handover: decode, check, commit, LOADED; run.
 *
 * Order: sections are decoded as they come. When STATE_END, the last stopped round on every
 * channel, and no suspect page are here, the load is checked, before_load is told, state is
 * committed to the objects, after_load makes the rest ready, and LOADED is said. Nothing runs. The
 * commit can be undone until COMMIT was read.
 */
#include "migrate/destination.h"

#include <inttypes.h>
#include <string.h>

#define REHEARSALS 3u

void destination_on_switchover(struct gw_destination *destination, const struct mail *mail)
{
    const struct wire_switchover_begin *begin = &mail->message.switchover_begin;
    g_autoptr(GError) error = NULL;
    uint64_t stopped_ns = clock_mono_ns();

    if (destination_state(destination) != GW_DESTINATION_RECEIVING || destination->load ||
        begin->attempt <= destination->attempt) {
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "the source began a switchover that may not begin now");
        return;
    }
    destination->attempt = begin->attempt;
    destination->switchover = *begin;
    destination->has_state_end = false;
    destination->is_loaded = false;
    destination->n_resends = 0;
    if (destination->clock.is_known)
        stopped_ns =
            MIN(clock_offset_to_ours(&destination->clock, begin->monotonic_ns), stopped_ns);
    ledger_open(destination->ledger, GW_SIDE_SOURCE, "at the source", stopped_ns,
                begin->realtime_ns, 0);
    destination->load = gw_state_load_begin(destination->plan, &error);
    if (!destination->load)
        destination_fail(destination, DESTINATION_EV_FAILED, GW_SIDE_DESTINATION, GW_ERROR_FAILED,
                         error->message);
}

void destination_on_section(struct gw_destination *destination, struct mail *mail)
{
    const struct wire_section *section = &mail->section;
    g_autoptr(GError) error = NULL;
    int64_t device;
    gsize n_bytes;
    const uint8_t *bytes = g_bytes_get_data(section->data, &n_bytes);
    uint64_t start_ns = clock_mono_ns();

    if (section->kind == WIRE_SECTION_SCHEMA) {
        destination_on_schema(destination, mail);
        return;
    }
    if (section->kind == WIRE_SECTION_PAGES && destination->load &&
        section->attempt == destination->attempt && !destination->has_state_end) {
        destination_on_missing(destination, mail);
        return;
    }
    /* A rehearsal is never loaded; state of an attempt that was put off is of no use. */
    if (section->kind != WIRE_SECTION_DEVICE || section->attempt < destination->attempt ||
        (section->attempt == destination->attempt && !destination->load))
        return;
    if (!destination->load || section->attempt != destination->attempt ||
        destination->has_state_end) {
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "device state came outside of a switchover");
        return;
    }
    device = gw_schema_find_device(gw_state_plan_schema(destination->plan), section->name);
    if (device < 0) {
        g_autofree char *text =
            g_strdup_printf("section %s is not in the source's own schema", section->name);

        destination_fail(destination, DESTINATION_EV_FAILED, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                         text);
        return;
    }
    if (!gw_state_load_add(destination->load, (uint32_t)device, bytes, n_bytes, &error)) {
        destination_fail(destination, DESTINATION_EV_FAILED, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                         error->message);
        return;
    }
    gw_ledger_note(destination->ledger, section->name, start_ns, clock_mono_ns() - start_ns);
}

void destination_on_state_end(struct gw_destination *destination, const struct mail *mail)
{
    const struct wire_state_end *end = &mail->message.state_end;

    if (end->attempt < destination->attempt ||
        (end->attempt == destination->attempt && !destination->load))
        return;
    if (!destination->load || end->attempt != destination->attempt || destination->has_state_end) {
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "STATE_END came outside of a switchover");
        return;
    }
    destination->state_end = *end;
    destination->has_state_end = true;
    destination_check_complete(destination);
}

static struct gw_clock_facts clock_facts(struct gw_destination *destination)
{
    struct gw_clock_facts facts = {.error_ns = UINT64_MAX,
                                   .source_stop_real_ns = destination->switchover.realtime_ns};

    if (destination->best_ping_error_ns != UINT64_MAX && destination->is_live) {
        facts.source_minus_local_ns = destination->realtime_offset_ns;
        facts.error_ns = destination->best_ping_error_ns;
    }
    return facts;
}

static void next_phase(struct gw_destination *destination, const char *name)
{
    ledger_next(destination->ledger, GW_SIDE_DESTINATION, name, clock_mono_ns());
}

/* Check, commit, make ready. False with error: nothing of it may ever run. False without: it was
 * given up already. */
static bool load_all(struct gw_destination *destination, GError **error)
{
    bool is_late = false;
    struct gw_clock_facts facts = clock_facts(destination);
    const struct gw_vm *vm = &destination->vm;

    next_phase(destination, "check");
    if (!gw_state_load_check(destination->load, error))
        return false;
    if (destination->postcopy.is_attempt) {
        next_phase(destination, "discard missing");
        if (!destination_begin_paging(destination, &is_late, error))
            return false;
    }
    next_phase(destination, "prepare");
    if (vm->before_load && !vm->before_load(vm->opaque, &facts, error))
        return false;
    next_phase(destination, "load");
    if (!gw_state_load_commit(destination->load, error))
        return false;
    next_phase(destination, "make ready");
    return !vm->after_load || vm->after_load(vm->opaque, error);
}

void destination_check_complete(struct gw_destination *destination)
{
    g_autoptr(GError) error = NULL;

    if (destination_state(destination) != GW_DESTINATION_RECEIVING || !destination->load ||
        !destination->has_state_end || destination->round < destination->switchover.round ||
        !destination->is_last_round_clean)
        return;
    destination->postcopy.is_attempt = destination->postcopy.stopped_round == destination->round;
    if (!load_all(destination, &error)) {
        if (error || !destination->postcopy.is_attempt)
            destination_fail(destination, DESTINATION_EV_FAILED, GW_SIDE_DESTINATION,
                             error ? gw_error_code_of(error) : GW_ERROR_FAILED,
                             error ? error->message : "loading failed");
        return;
    }
    destination_dispatch(destination, DESTINATION_EV_LOADED);
}

void destination_say_loaded(struct gw_destination *destination)
{
    struct wire_loaded loaded = {.attempt = destination->attempt,
                                 .n_sections = destination->state_end.n_sections,
                                 .state_digest = destination->state_end.digest,
                                 .monotonic_ns = clock_mono_ns()};

    if (destination->is_live)
        link_post(destination->control, WIRE_LOADED, &loaded);
    ledger_next(destination->ledger, GW_SIDE_NONE, "await commit", loaded.monotonic_ns);
}

void destination_on_cancelled_attempt(struct gw_destination *destination, const struct mail *mail)
{
    const struct wire_switchover_cancel *cancel = &mail->message.switchover_cancel;

    if (cancel->attempt != destination->attempt || !destination->load)
        return;
    ledger_close(destination->ledger, clock_mono_ns(), cancel->reason, 0);
    destination_dispatch(destination, DESTINATION_EV_PUT_OFF);
}

void destination_unload(struct gw_destination *destination)
{
    g_clear_pointer(&destination->load, gw_state_load_free); /* rolls a commit back */
    destination_forget_attempt(destination);
    destination->has_state_end = false;
}

void destination_on_commit(struct gw_destination *destination, const struct mail *mail)
{
    const struct wire_commit *commit = &mail->message.commit;
    bool is_loaded = destination_state(destination) == GW_DESTINATION_LOADED;
    g_autoptr(GError) error = NULL;

    if (is_loaded && (commit->attempt != destination->attempt ||
                      commit->state_digest != destination->state_end.digest)) {
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "COMMIT is not of what was loaded");
        return;
    }
    if (is_loaded && !destination_share_take(destination, &error)) {
        destination_fail_error(destination, error);
        return;
    }
    destination_dispatch(destination, destination->postcopy.is_attempt
                                          ? DESTINATION_EV_COMMIT_PARTIAL
                                          : DESTINATION_EV_COMMIT);
}

void destination_say_cost(struct gw_destination *destination)
{
    struct wire_cost cost = {.cpu_ns = __atomic_load_n(&destination->cpu_ns, __ATOMIC_RELAXED),
                             .n_bytes =
                                 __atomic_load_n(&destination->bytes_received, __ATOMIC_RELAXED)};

    link_post(destination->control, WIRE_COST, &cost);
}

static void send_ledger(struct gw_destination *destination)
{
    g_autofree struct ledger_span *spans = NULL;
    uint32_t n = ledger_spans(destination->ledger, GW_SIDE_DESTINATION, &spans);
    struct wire_ledger ledger = {.n_phases = MIN(n, WIRE_MAX_PHASES)};

    ledger.phases = g_new0(struct wire_phase, ledger.n_phases + 1);
    for (uint32_t i = 0; i < ledger.n_phases; i++)
        ledger.phases[i] = (struct wire_phase){
            .name = g_strdup_printf("%s%s", spans[i].depth ? "+" : "", spans[i].name),
            .start_ns = spans[i].start_ns,
            .length_ns = spans[i].end_ns - spans[i].start_ns};
    link_post(destination->control, WIRE_LEDGER, &ledger);
}

void destination_look_at_ledger(struct gw_destination *destination)
{
    struct wire_goodbye goodbye = {.is_complete = true};

    if (destination->ledger_limit_ns == UINT64_MAX ||
        (clock_mono_ns() < destination->ledger_limit_ns &&
         ledger_n_awaited(destination->ledger) > 0))
        return;
    destination->ledger_limit_ns = UINT64_MAX;
    if (!destination->control)
        return;
    if (destination->features & (1u << WIRE_FEATURE_LEDGER))
        send_ledger(destination);
    if (!destination->postcopy.is_attempt) /* else: when it is whole */
        link_post(destination->control, WIRE_GOODBYE, &goodbye);
}

void destination_run(struct gw_destination *destination)
{
    struct wire_running running = {.attempt = destination->attempt,
                                   .is_running = destination->switchover.was_running};
    uint64_t blackout_ns;

    destination_remember(destination, true);
    /* PEER: nobody but the guest writes its memory now. While pages are missing the bar sees to
     * that.
     */
    if (destination->postcopy.paging)
        __atomic_store_n(&destination->is_receiving, 0, __ATOMIC_RELEASE);
    else
        destination_end_pages(destination);
    gw_state_load_keep(destination->load);
    next_phase(destination, "resume");
    if (destination_forwards(destination) && destination->vm.expect_packets)
        destination->vm.expect_packets(destination->vm.opaque);
    if (destination->vm.run_at_destination)
        destination->vm.run_at_destination(
            destination->vm.opaque, destination->switchover.was_running, destination->ledger);
    running.monotonic_ns = destination->run_ns = clock_mono_ns();
    blackout_ns = ledger_close(destination->ledger, running.monotonic_ns, NULL,
                               destination->clock.is_known ? destination->clock.error_ns : 0);
    if (destination->is_live) {
        link_post(destination->control, WIRE_RUNNING, &running);
        if (!destination->postcopy.paging)
            destination_say_cost(destination);
        destination->ledger_limit_ns = running.monotonic_ns + DESTINATION_MARKS_NS;
    }
    destination_share_keep(destination);
    g_clear_pointer(&destination->load, gw_state_load_free);
    pthread_mutex_lock(&destination->lock);
    destination->status.blackout_ns = destination->is_live ? blackout_ns : 0;
    destination->status.was_running = destination->switchover.was_running;
    destination->status.is_postcopy = destination->postcopy.paging != NULL;
    pthread_mutex_unlock(&destination->lock);
    if (destination->postcopy.paging)
        paging_start(destination->postcopy.paging);
}

/* ---- rehearsal ---------------------------------------------------------------------------------
 */

static bool rehearse(struct gw_destination *destination, struct wire_rehearsal_report *report,
                     GError **error)
{
    const struct gw_state_registry *registry = destination->vm.registry;
    struct gw_state_plan *plan = gw_state_plan_new(gw_schema_new(registry), registry);
    struct gw_state_load *load = gw_state_load_begin(plan, error);
    bool is_ok = load != NULL;
    uint64_t start_ns;

    for (uint32_t i = 0; is_ok && i < gw_state_registry_n(registry); i++) {
        g_autoptr(GByteArray) data = g_byte_array_new();

        is_ok = gw_state_save(registry, i, data, error);
        start_ns = clock_mono_ns();
        is_ok = is_ok && gw_state_load_add(load, i, data->data, data->len, error);
        report->load_ns += clock_mono_ns() - start_ns;
        report->n_bytes += data->len;
        report->n_sections++;
    }
    start_ns = clock_mono_ns();
    is_ok = is_ok && gw_state_load_check(load, error);
    report->load_ns += clock_mono_ns() - start_ns;
    if (load)
        gw_state_load_free(load); /* nothing was committed */
    gw_state_plan_free(plan);
    return is_ok;
}

/* Our machine stands still and is of the same make as the source's: saving it and decoding that
 * again costs what the real load will, and disturbs nobody. The quickest of a few counts: the
 * source gets no other figure until it commits, and a moment in which this host was busy with
 * something else must not keep it from ever trying. */
struct wire_rehearsal_report destination_rehearse(struct gw_destination *destination)
{
    g_autoptr(GError) error = NULL;
    struct wire_rehearsal_report best = {.is_ok = true, .load_ns = UINT64_MAX};

    for (unsigned i = 0; i < REHEARSALS && best.is_ok; i++) {
        struct wire_rehearsal_report report = {0};

        report.is_ok = rehearse(destination, &report, &error);
        if (!report.is_ok || report.load_ns < best.load_ns)
            best = report;
    }
    best.detail = g_strdup(best.is_ok ? "" : error->message);
    return best;
}
