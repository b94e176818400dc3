/* SPDX-License-Identifier: MIT */
/*
 * The machine as the migration engine sees it: struct gw_vm, the machine's own saved state, guest
 * time across a move, and the announcement of network addresses afterwards.
 *
 * Model of time: the saved state holds the guest's counter and the wall clock (CLOCK_REALTIME) of
 * one instant at the source. The destination knows how far its own wall clock is from the source's
 * (struct gw_clock_facts) and lets the counter continue as if it had never stopped: saved ticks
 * plus the time that has really passed, whether that was a millisecond or half a year. When the
 * clocks disagree so that less than no time has passed, it continues from the saved ticks: never
 * backwards.
 */
#include <string.h>

#include "godwit/error.h"
#include "machine/machine_life.h"

/* ---- saved state ----------------------------------------------------------------------------- */

static bool machine_pre_save(void *object, GError **error)
{
    struct machine *machine = object;
    machine->saved_ticks = guest_clock_ticks(&machine->clock);
    machine->saved_real_ns = clock_real_ns();
    return true;
}

static bool machine_post_load(void *object, GError **error)
{
    struct machine *machine = object;
    uint64_t now_ns = clock_real_ns() + (uint64_t)machine->clock.source_minus_local_ns;
    uint64_t elapsed_ns = now_ns > machine->saved_real_ns ? now_ns - machine->saved_real_ns : 0;

    guest_clock_set_ticks(&machine->clock,
                          machine->saved_ticks + elapsed_ns / machine->clock.ns_per_tick);
    return true;
}

static const struct gw_field machine_fields[] = {
    GW_U64(struct machine, saved_ticks, .label = "ticks"),
    GW_U64(struct machine, saved_real_ns, .label = "real_ns"),
    GW_ENUM(struct machine, request, MACHINE_N_REQUESTS),
    GW_U32(struct machine, request_code),
    GW_FIELDS_END,
};

const struct gw_state_desc machine_state_desc = {
    .name = "machine",
    .version = 1,
    .object_size = sizeof(struct machine),
    .priority = GW_PRIORITY_CLOCK,
    .fields = machine_fields,
    .pre_save = machine_pre_save,
    .post_load = machine_post_load,
};

/* ---- source ---------------------------------------------------------------------------------- */

static bool vm_is_running(void *opaque)
{
    return machine_state(opaque) == LIFE_RUNNING;
}

static bool vm_stop(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error)
{
    struct machine *machine = opaque;

    if (!machine_enter_until(machine, deadline_ns)) {
        g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT, "the machine is being stopped or reset");
        return false;
    }
    uint64_t start_ns = clock_mono_ns();
    bool was_running = machine->parts_run;
    bool ok = machine_stop_parts_locked(machine, deadline_ns, ledger, error);
    if (ok && !machine_post(machine, LIFE_EV_BLACKOUT, error)) {
        if (was_running)
            machine_start_parts_locked(machine);
        ok = false;
    }
    if (ok) {
        machine->ran_before_blackout = was_running;
        machine->last_stop_ns = clock_mono_ns() - start_ns;
    }
    machine_leave(machine);
    if (ok && was_running)
        machine_notify(machine, &(struct machine_notice){.kind = MACHINE_NOTICE_STOP});
    return ok;
}

static bool vm_flush(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error)
{
    struct machine *machine = opaque;
    uint64_t start_ns = clock_mono_ns();

    for (guint i = 0; i < machine->devices->len; i++) {
        struct device *dev = g_ptr_array_index(machine->devices, i);
        uint64_t from_ns = clock_mono_ns();
        if (!dev->ops->flush)
            continue;
        if (!device_flush(dev, deadline_ns, error)) {
            g_prefix_error(error, "%s cannot flush: ", dev->id);
            return false;
        }
        g_autofree char *name = g_strdup_printf("flush %s", dev->id);
        gw_ledger_note(ledger, name, from_ns, clock_mono_ns() - from_ns);
    }
    machine->last_flush_ns = clock_mono_ns() - start_ns;
    return true;
}

static void vm_resume_at_source(void *opaque)
{
    struct machine *machine = opaque;

    machine_enter(machine);
    bool runs = machine->ran_before_blackout;
    uint64_t start_ns = clock_mono_ns();
    if (machine_post(machine, runs ? LIFE_EV_RESUME : LIFE_EV_RESUME_PAUSED, NULL) && runs) {
        machine_start_parts_locked(machine);
        machine->last_resume_ns = clock_mono_ns() - start_ns;
    }
    machine_leave(machine);
    if (runs)
        machine_notify(machine, &(struct machine_notice){.kind = MACHINE_NOTICE_RESUME});
}

static void vm_released(void *opaque)
{
    struct machine *machine = opaque;

    machine_enter(machine);
    machine_post(machine, LIFE_EV_RELEASE, NULL);
    machine_leave(machine);
}

static void vm_forecast(void *opaque, struct gw_vm_forecast *forecast)
{
    struct machine *machine = opaque;

    forecast->stop_ns = machine->last_stop_ns;
    forecast->flush_ns = machine->last_flush_ns;
    forecast->resume_ns = machine->last_resume_ns;
}

static void vm_vcpu_counters(void *opaque, uint32_t vcpu, struct gw_vcpu_counters *counters)
{
    struct cpu_stats stats = {0};

    machine_cpu_stats(opaque, vcpu, &stats);
    *counters = (struct gw_vcpu_counters){
        .dirtied_pages = stats.dirtied_pages,
        .is_dirtied_known = stats.is_dirtied_known,
        .throttled_ns = stats.throttled_ns,
    };
}

static void vm_set_throttle(void *opaque, uint32_t vcpu, uint32_t permille)
{
    struct machine *machine = opaque;

    machine->board->cpu->set_throttle(machine->cpu, vcpu, permille);
}

void machine_set_doubt(struct machine *machine)
{
    machine_enter(machine);
    machine_post(machine, LIFE_EV_DOUBT, NULL);
    machine_leave(machine);
}

/* ---- destination ----------------------------------------------------------------------------- */

static bool vm_before_load(void *opaque, const struct gw_clock_facts *facts, GError **error)
{
    struct machine *machine = opaque;
    enum life_state state = machine_state(machine);

    machine->clock.source_minus_local_ns = facts->source_minus_local_ns;
    if (state == LIFE_INCOMING)
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_STATE, "cannot load a guest: the machine %s",
                life_state_phrase(state));
    return false;
}

static void announce_devices(struct machine *machine)
{
    for (guint i = 0; i < machine->devices->len; i++)
        device_announce(g_ptr_array_index(machine->devices, i));
}

/* The first announcement was made already; 50 ms apart at first, for about three seconds in all. */
static void announce_again(void *opaque)
{
    machine_announce(opaque, &(struct machine_announce){50, 550, 100, 8});
}

static void vm_run_at_destination(void *opaque, bool was_running, struct gw_ledger *ledger)
{
    struct machine *machine = opaque;

    pthread_mutex_lock(&machine->lock);
    was_running = was_running && !machine->is_held;
    pthread_mutex_unlock(&machine->lock);
    machine_enter(machine);
    uint64_t start_ns = clock_mono_ns();
    /* Before anything else: from here on what clients send comes here. */
    gw_ledger_expect_marks(ledger, machine_arrive(machine, was_running));
    if (machine_post(machine, was_running ? LIFE_EV_ADOPT : LIFE_EV_ADOPT_PAUSED, NULL) &&
        was_running)
        machine_start_parts_locked(machine);
    if (was_running)
        gw_ledger_note(ledger, "start vcpus and devices", start_ns, clock_mono_ns() - start_ns);
    machine_leave(machine);
    if (was_running)
        machine_notify(machine, &(struct machine_notice){.kind = MACHINE_NOTICE_RESUME});
    announce_devices(machine);
    main_queue_post(machine->main_queue, announce_again, machine, NULL);
}

/* What was loaded is worthless: memory goes back to the host, so that the next guest starts from
 * nothing. */
static void vm_discarded(void *opaque, const GError *why)
{
    struct machine *machine = opaque;

    machine_enter(machine);
    for (uint32_t i = 0; i < gw_memory_n_blocks(machine->memory); i++) {
        struct gw_ram_block *block = gw_memory_block(machine->memory, i);
        gw_memory_discard(block, 0, block->size_bytes, NULL);
    }
    for (guint i = 0; i < machine->devices->len; i++)
        device_reset(g_ptr_array_index(machine->devices, i));
    machine->board->cpu->reset(machine->cpu);
    machine_post(machine, LIFE_EV_DISCARD, NULL);
    machine_leave(machine);

    pthread_mutex_lock(&machine->lock);
    machine->request = MACHINE_REQUEST_NONE;
    void (*fn)(void *, const GError *) = machine->discarded;
    void *fn_opaque = machine->discarded_opaque;
    pthread_mutex_unlock(&machine->lock);
    if (fn)
        fn(fn_opaque, why);
}

static void vm_memory_lost(void *opaque, const char *reason)
{
    struct machine *machine = opaque;

    pthread_mutex_lock(&machine->lock);
    void (*fn)(void *, const char *) = machine->lost;
    void *fn_opaque = machine->lost_opaque;
    pthread_mutex_unlock(&machine->lock);
    if (!fn)
        g_error("guest memory is lost: %s", reason); /* and aborts */
    fn(fn_opaque, reason);
}

void machine_set_lost_fn(struct machine *machine, void (*fn)(void *opaque, const char *reason),
                         void *opaque)
{
    pthread_mutex_lock(&machine->lock);
    machine->lost = fn;
    machine->lost_opaque = opaque;
    pthread_mutex_unlock(&machine->lock);
}

void machine_set_hold(struct machine *machine, bool is_held)
{
    pthread_mutex_lock(&machine->lock);
    machine->is_held = is_held;
    pthread_mutex_unlock(&machine->lock);
}

void machine_set_discarded_fn(struct machine *machine, void (*fn)(void *opaque, const GError *why),
                              void *opaque)
{
    pthread_mutex_lock(&machine->lock);
    machine->discarded = fn;
    machine->discarded_opaque = opaque;
    pthread_mutex_unlock(&machine->lock);
}

void machine_vm_init(struct machine *machine)
{
    machine->vm = (struct gw_vm){
        .memory = machine->memory,
        .registry = machine->registry,
        .opaque = machine,
        .stop = vm_stop,
        .flush = vm_flush,
        .resume_at_source = vm_resume_at_source,
        .released = vm_released,
        .forecast = vm_forecast,
        .before_load = vm_before_load,
        .run_at_destination = vm_run_at_destination,
        .discarded = vm_discarded,
        .is_running = vm_is_running,
        .memory_lost = vm_memory_lost,
        .forward_packets = machine_forward_packets,
        .expect_packets = machine_expect_packets,
        .packet = machine_take_packet,
        .n_vcpus = machine_n_cpus(machine),
        .vcpu_counters = vm_vcpu_counters,
        .set_throttle = machine->board->cpu->set_throttle ? vm_set_throttle : NULL,
    };
}

/* ---- announcing ------------------------------------------------------------------------------ */

static gboolean announce_round(gpointer opaque)
{
    struct machine *machine = opaque;

    g_clear_pointer(&machine->announce_timer, g_source_unref);
    announce_devices(machine);
    if (++machine->announce_done < machine->announce.rounds) {
        unsigned ms =
            machine->announce.initial_ms + machine->announce_done * machine->announce.step_ms;
        machine->announce_timer = g_timeout_source_new(MIN(ms, machine->announce.max_ms));
        g_source_set_callback(machine->announce_timer, announce_round, machine, NULL);
        g_source_attach(machine->announce_timer, machine->context);
    }
    return G_SOURCE_REMOVE;
}

void machine_announce(struct machine *machine, const struct machine_announce *how)
{
    if (machine->announce_timer) {
        g_source_destroy(machine->announce_timer);
        g_clear_pointer(&machine->announce_timer, g_source_unref);
    }
    machine->announce = *how;
    machine->announce_done = 0;
    if (how->rounds > 0)
        announce_round(machine);
}
