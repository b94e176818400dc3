/* SPDX-License-Identifier: MIT */
/*
 * The machine's life: the life thread, its jobs, what the guest asks for, starting and stopping.
 *
 * Model: users' commands (stop, cont, reset) are jobs, carried out one after another by the life
 * thread, so that neither the monitor nor a vCPU ever waits for a disk. What the guest asks for
 * (reset, power off) is remembered in machine->request and carried out by the same thread as soon
 * as the state allows it. A request that meets a switchover is not carried out here: it travels
 * with the machine's state and the destination carries it out.
 *
 * Locks: who starts, stops or resets the parts has the *turn* (machine_enter, machine_leave): a
 * lock made of a flag, so that waiting for it can have a deadline on CLOCK_MONOTONIC. The state
 * changes only in machine_post, by who has the turn; lock alone suffices to read it.
 */
#include "machine/machine_life.h"

#include <string.h>

#include "base/clock.h"
#include "base/cond.h"
#include "godwit/error.h"

/* How long a user's stop may wait for a disk. The blackout's own limit comes from the engine. */
#define USER_STOP_LIMIT_NS (10 * NS_PER_S)
/* How long a machine that waits for a guest waits for its network first: the kernel tells a bridge
 * of a new port within a second. */
#define READY_LIMIT_NS     (3 * NS_PER_S / 2)
/* A part of the blackout shorter than this is not worth a line of its own in the ledger. */
#define LEDGER_MIN_NS      UINT64_C(20000)

struct machine_job {
    struct machine_job *next;
    enum machine_op op;
    machine_done_fn done;
    void *opaque;
};

/* ---- notices --------------------------------------------------------------------------------- */

struct notice_call {
    struct machine *machine;
    struct machine_notice notice;
    char *detail;
};

static void deliver_notice(void *opaque)
{
    struct notice_call *call = opaque;
    for (guint i = 0; i < call->machine->listeners->len; i++) {
        struct machine_listener *l =
            &g_array_index(call->machine->listeners, struct machine_listener, i);
        l->fn(l->opaque, &call->notice);
    }
}

static void notice_call_free(gpointer opaque)
{
    struct notice_call *call = opaque;
    g_free(call->detail);
    g_free(call);
}

void machine_notify(struct machine *machine, const struct machine_notice *notice)
{
    struct notice_call *call = g_new0(struct notice_call, 1);
    call->machine = machine;
    call->notice = *notice;
    call->notice.real_ns = clock_real_ns();
    call->detail = g_strdup(notice->detail);
    call->notice.detail = call->detail;
    main_queue_post(machine->main_queue, deliver_notice, call, notice_call_free);
}

void machine_add_listener(struct machine *machine, machine_notice_fn fn, void *opaque)
{
    struct machine_listener listener = {fn, opaque};
    g_array_append_val(machine->listeners, listener);
}

/* ---- the turn -------------------------------------------------------------------------------- */

bool machine_enter_until(struct machine *machine, uint64_t deadline_ns)
{
    pthread_mutex_lock(&machine->lock);
    while (machine->has_turn && cond_wait_until(&machine->wake, &machine->lock, deadline_ns))
        ;
    bool is_mine = !machine->has_turn;
    machine->has_turn = true;
    pthread_mutex_unlock(&machine->lock);
    return is_mine;
}

void machine_enter(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    while (machine->has_turn)
        pthread_cond_wait(&machine->wake, &machine->lock);
    machine->has_turn = true;
    pthread_mutex_unlock(&machine->lock);
}

void machine_leave(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->has_turn = false;
    pthread_cond_broadcast(&machine->wake);
    pthread_mutex_unlock(&machine->lock);
}

/* ---- state ----------------------------------------------------------------------------------- */

enum life_state machine_state(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    enum life_state state = machine->state;
    pthread_mutex_unlock(&machine->lock);
    return state;
}

bool machine_post(struct machine *machine, enum life_event event, GError **error)
{
    pthread_mutex_lock(&machine->lock);
    enum life_state from = machine->state;
    enum life_state to = life_next(from, event);
    if (to) {
        machine->state = to;
        pthread_cond_broadcast(&machine->wake);
    }
    pthread_mutex_unlock(&machine->lock);
    if (!to)
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "cannot %s: the machine %s",
                    life_event_phrase(event), life_state_phrase(from));
    return to != 0;
}

static bool is_possible(struct machine *machine, enum life_event event, GError **error)
{
    enum life_state state = machine_state(machine);
    if (life_next(state, event))
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_STATE, "cannot %s: the machine %s",
                life_event_phrase(event), life_state_phrase(state));
    return false;
}

/* ---- the parts ------------------------------------------------------------------------------- */

void machine_start_parts_locked(struct machine *machine)
{
    if (machine->parts_run)
        return;
    gw_state_arm(machine->registry);
    for (guint i = 0; i < machine->devices->len; i++)
        device_start(g_ptr_array_index(machine->devices, i));
    machine->board->cpu->start(machine->cpu);
    machine->parts_run = true;
}

static void note(struct gw_ledger *ledger, const char *what, const char *id, uint64_t start_ns)
{
    uint64_t length_ns = clock_mono_ns() - start_ns;
    char name[GW_LEDGER_NAME_SIZE];

    if (!ledger || length_ns < LEDGER_MIN_NS)
        return;
    g_snprintf(name, sizeof name, "%s %s", what, id);
    gw_ledger_note(ledger, name, start_ns, length_ns);
}

bool machine_stop_parts_locked(struct machine *machine, uint64_t deadline_ns,
                               struct gw_ledger *ledger, GError **error)
{
    if (!machine->parts_run)
        return true;
    uint64_t start_ns = clock_mono_ns();
    machine->board->cpu->stop(machine->cpu);
    note(ledger, "stop", "vcpus", start_ns);
    for (guint i = 0; i < machine->devices->len; i++)
        device_prepare_stop(g_ptr_array_index(machine->devices, i));
    for (guint i = machine->devices->len; i-- > 0;) {
        struct device *dev = g_ptr_array_index(machine->devices, i);
        start_ns = clock_mono_ns();
        if (!device_stop(dev, deadline_ns, error)) {
            g_prefix_error(error, "%s cannot stop: ", dev->id);
            for (guint j = 0; j < machine->devices->len; j++)
                device_start(g_ptr_array_index(machine->devices, j));
            machine->board->cpu->start(machine->cpu);
            return false;
        }
        note(ledger, "stop", dev->id, start_ns);
    }
    machine->parts_run = false;
    return true;
}

/* Parts stopped: everything to its state after power-on, boot files back in RAM. */
static bool reset_parts_locked(struct machine *machine, GError **error)
{
    uint64_t entry_pc;

    for (guint i = 0; i < machine->devices->len; i++)
        device_reset(g_ptr_array_index(machine->devices, i));
    machine->board->cpu->reset(machine->cpu);
    pthread_mutex_lock(&machine->lock);
    machine->request = MACHINE_REQUEST_NONE;
    pthread_mutex_unlock(&machine->lock);
    if (!boot_restore(machine->boot_block, machine->memory, &entry_pc, error))
        return false;
    if (machine->board->set_entry)
        machine->board->set_entry(machine, entry_pc);
    for (unsigned i = 0; !machine->board->set_entry && i < machine->n_cpus; i++)
        machine->board->cpu->set_entry(machine->cpu, i, entry_pc, i, 0);
    return true;
}

/* ---- operations, life thread, in its turn ---------------------------------------------------- */

static uint64_t user_deadline(void)
{
    return clock_mono_ns() + USER_STOP_LIMIT_NS;
}

static bool op_launch(struct machine *machine, bool is_paused, GError **error)
{
    enum life_event event = is_paused ? LIFE_EV_LAUNCH_PAUSED : LIFE_EV_LAUNCH;

    if (!is_possible(machine, event, error) || !reset_parts_locked(machine, error))
        return false;
    if (!is_paused)
        machine_start_parts_locked(machine);
    machine_post(machine, event, NULL);
    if (!is_paused)
        machine_notify(machine, &(struct machine_notice){.kind = MACHINE_NOTICE_RESUME});
    return true;
}

static bool op_await(struct machine *machine, GError **error)
{
    if (!is_possible(machine, LIFE_EV_AWAIT, error))
        return false;
    for (guint i = 0; i < machine->devices->len; i++)
        device_reset(g_ptr_array_index(machine->devices, i));
    machine->board->cpu->reset(machine->cpu);
    for (guint i = 0; i < machine->devices->len; i++) {
        struct device *dev = g_ptr_array_index(machine->devices, i);
        if (dev->ops->wait_ready)
            dev->ops->wait_ready(dev, clock_mono_ns() + READY_LIMIT_NS);
    }
    return machine_post(machine, LIFE_EV_AWAIT, error);
}

static bool op_stop(struct machine *machine, GError **error)
{
    if (!is_possible(machine, LIFE_EV_STOP, error))
        return false;
    bool was_running = machine->parts_run;
    if (!machine_stop_parts_locked(machine, user_deadline(), NULL, error))
        return false;
    machine_post(machine, LIFE_EV_STOP, NULL);
    if (was_running)
        machine_notify(machine, &(struct machine_notice){.kind = MACHINE_NOTICE_STOP});
    return true;
}

static bool op_cont(struct machine *machine, GError **error)
{
    if (!is_possible(machine, LIFE_EV_CONT, error))
        return false;
    bool was_running = machine->parts_run;
    machine_start_parts_locked(machine);
    machine_post(machine, LIFE_EV_CONT, NULL);
    if (!was_running)
        machine_notify(machine, &(struct machine_notice){.kind = MACHINE_NOTICE_RESUME});
    return true;
}

static bool op_reset(struct machine *machine, bool is_by_guest, GError **error)
{
    if (!is_possible(machine, LIFE_EV_RESET, error))
        return false;
    bool was_running = machine->parts_run;
    if (!machine_stop_parts_locked(machine, user_deadline(), NULL, error) ||
        !reset_parts_locked(machine, error))
        return false;
    machine_post(machine, LIFE_EV_RESET, NULL);
    if (was_running)
        machine_start_parts_locked(machine);
    machine_notify(machine, &(struct machine_notice){
                                .kind = MACHINE_NOTICE_RESET,
                                .is_by_guest = is_by_guest,
                                .reason = is_by_guest ? "guest-reset" : "host-qmp-system-reset"});
    return true;
}

static bool op_powerdown(struct machine *machine, GError **error)
{
    enum life_state state = machine_state(machine);
    if (state != LIFE_RUNNING && state != LIFE_PAUSED) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "cannot power down: the machine %s",
                    life_state_phrase(state));
        return false;
    }
    if (machine->board->press_power_button)
        machine->board->press_power_button(machine);
    machine_notify(machine, &(struct machine_notice){.kind = MACHINE_NOTICE_POWERDOWN});
    return true;
}

static bool run_op(struct machine *machine, enum machine_op op, GError **error)
{
    switch (op) {
    case MACHINE_OP_LAUNCH:
        return op_launch(machine, false, error);
    case MACHINE_OP_LAUNCH_PAUSED:
        return op_launch(machine, true, error);
    case MACHINE_OP_AWAIT:
        return op_await(machine, error);
    case MACHINE_OP_STOP:
        return op_stop(machine, error);
    case MACHINE_OP_CONT:
        return op_cont(machine, error);
    case MACHINE_OP_RESET:
        return op_reset(machine, false, error);
    case MACHINE_OP_POWERDOWN:
        return op_powerdown(machine, error);
    }
    g_assert_not_reached();
}

/* ---- what the guest asks for ----------------------------------------------------------------- */

void machine_request(struct machine *machine, enum machine_request request, unsigned code)
{
    pthread_mutex_lock(&machine->lock);
    if (machine->request == MACHINE_REQUEST_NONE) {
        machine->request = request;
        machine->request_code = code;
        pthread_cond_broadcast(&machine->wake);
    }
    pthread_mutex_unlock(&machine->lock);
}

void machine_break(struct machine *machine, unsigned vcpu, const char *reason)
{
    pthread_mutex_lock(&machine->lock);
    if (!machine->broken_reason) {
        machine->broken_reason = g_strdup_printf("vCPU %u: %s", vcpu, reason);
        pthread_cond_broadcast(&machine->wake);
    }
    pthread_mutex_unlock(&machine->lock);
}

void machine_set_no_reboot(struct machine *machine, bool is_set)
{
    pthread_mutex_lock(&machine->lock);
    machine->may_not_reboot = is_set;
    pthread_mutex_unlock(&machine->lock);
}

static bool can_serve_guest_locked(const struct machine *machine)
{
    return (machine->request != MACHINE_REQUEST_NONE || machine->broken_reason) &&
           (machine->state == LIFE_RUNNING || machine->state == LIFE_PAUSED);
}

static void switch_off(struct machine *machine, unsigned code, const char *reason)
{
    g_autoptr(GError) error = NULL;

    if (!machine_stop_parts_locked(machine, user_deadline(), NULL, &error))
        g_warning("switching off: %s", error->message);
    machine_post(machine, LIFE_EV_OFF, NULL);
    machine_notify(machine, &(struct machine_notice){.kind = MACHINE_NOTICE_SHUTDOWN,
                                                     .is_by_guest = true,
                                                     .exit_code = code,
                                                     .reason = reason});
}

static void give_up(struct machine *machine, const char *why)
{
    machine_stop_parts_locked(machine, user_deadline(), NULL, NULL);
    machine_post(machine, LIFE_EV_BREAK, NULL);
    machine_notify(machine, &(struct machine_notice){.kind = MACHINE_NOTICE_BROKEN, .detail = why});
}

static void serve_guest(struct machine *machine)
{
    g_autoptr(GError) error = NULL;

    machine_enter(machine);
    pthread_mutex_lock(&machine->lock);
    bool is_due = can_serve_guest_locked(machine);
    enum machine_request request = machine->request;
    unsigned code = machine->request_code;
    bool may_not_reboot = machine->may_not_reboot;
    g_autofree char *broken = g_steal_pointer(&machine->broken_reason);
    if (is_due)
        machine->request = MACHINE_REQUEST_NONE;
    else
        machine->broken_reason = g_steal_pointer(&broken);
    pthread_mutex_unlock(&machine->lock);

    if (!is_due)
        ;
    else if (broken)
        give_up(machine, broken);
    else if (request == MACHINE_REQUEST_OFF)
        switch_off(machine, code, "guest-shutdown");
    else if (may_not_reboot)
        switch_off(machine, 0, "guest-reset");
    else if (!op_reset(machine, true, &error))
        give_up(machine, error->message);
    machine_leave(machine);
}

/* ---- the life thread ------------------------------------------------------------------------- */

struct done_call {
    machine_done_fn done;
    void *opaque;
    GError *error;
};

static void deliver_done(void *opaque)
{
    struct done_call *call = opaque;
    call->done(call->opaque, call->error);
}

static void done_call_free(gpointer opaque)
{
    struct done_call *call = opaque;
    g_clear_error(&call->error);
    g_free(call);
}

static void finish_job(struct machine *machine, struct machine_job *job, GError *error)
{
    if (job->done) {
        struct done_call *call = g_new0(struct done_call, 1);
        call->done = job->done;
        call->opaque = job->opaque;
        call->error = g_steal_pointer(&error);
        main_queue_post(machine->main_queue, deliver_done, call, done_call_free);
    }
    g_clear_error(&error);
    g_free(job);
}

void machine_submit(struct machine *machine, enum machine_op op, machine_done_fn done, void *opaque)
{
    struct machine_job *job = g_new0(struct machine_job, 1);
    job->op = op;
    job->done = done;
    job->opaque = opaque;
    pthread_mutex_lock(&machine->lock);
    if (machine->last_job)
        machine->last_job->next = job;
    else
        machine->first_job = job;
    machine->last_job = job;
    pthread_cond_broadcast(&machine->wake);
    pthread_mutex_unlock(&machine->lock);
}

static struct machine_job *take_job_locked(struct machine *machine)
{
    struct machine_job *job = machine->first_job;
    if (job) {
        machine->first_job = job->next;
        if (!machine->first_job)
            machine->last_job = NULL;
    }
    return job;
}

static void *life_main(void *opaque)
{
    struct machine *machine = opaque;

    pthread_mutex_lock(&machine->lock);
    while (!machine->wants_exit) {
        struct machine_job *job = take_job_locked(machine);
        bool is_due = can_serve_guest_locked(machine);
        if (!job && !is_due) {
            pthread_cond_wait(&machine->wake, &machine->lock);
            continue;
        }
        pthread_mutex_unlock(&machine->lock);
        if (job) {
            GError *error = NULL;
            machine_enter(machine);
            run_op(machine, job->op, &error);
            machine_leave(machine);
            finish_job(machine, job, error);
        } else {
            serve_guest(machine);
        }
        pthread_mutex_lock(&machine->lock);
    }
    pthread_mutex_unlock(&machine->lock);
    return NULL;
}

void machine_life_init(struct machine *machine)
{
    pthread_mutex_init(&machine->lock, NULL);
    cond_init_mono(&machine->wake);
    machine->state = LIFE_CREATED;
}

void machine_life_start(struct machine *machine)
{
    pthread_create(&machine->life_thread, NULL, life_main, machine);
    pthread_setname_np(machine->life_thread, "life");
    machine->has_life_thread = true;
}

void machine_halt(struct machine *machine)
{
    machine_enter(machine);
    machine_stop_parts_locked(machine, user_deadline(), NULL, NULL);
    machine_leave(machine);
}

void machine_life_end(struct machine *machine)
{
    if (machine->has_life_thread) {
        pthread_mutex_lock(&machine->lock);
        machine->wants_exit = true;
        pthread_cond_broadcast(&machine->wake);
        pthread_mutex_unlock(&machine->lock);
        pthread_join(machine->life_thread, NULL);
        machine->has_life_thread = false;
        machine_enter(machine);
        machine_stop_parts_locked(machine, user_deadline(), NULL, NULL);
        machine_leave(machine);
    }
    for (struct machine_job *job; (job = take_job_locked(machine)) != NULL;)
        g_free(job);
    if (machine->announce_timer) {
        g_source_destroy(machine->announce_timer);
        g_clear_pointer(&machine->announce_timer, g_source_unref);
    }
    pthread_cond_destroy(&machine->wake);
    pthread_mutex_destroy(&machine->lock);
}
