/* SPDX-License-Identifier: MIT */
/*
 * Hart threads: running, parking, waiting in wfi, pausing, being told things, and the timer.
 *
 * Threads: one per hart and one for timers.
 *
 * Telling a hart something: riscv_raise sets bits in h->pending and wakes the hart if it sleeps.
 * A running hart reads the word at every taken branch and block end.
 * ORDER, no lost wake-up: the raiser does fetch_or(pending), then reads is_sleeping; the sleeper
 * writes is_sleeping = 1, then lets the kernel compare pending with 0 (futex) before it sleeps;
 * all four are sequentially consistent. If the raiser reads is_sleeping = 0, its fetch_or came
 * before the sleeper's write, so the kernel sees pending != 0 and does not sleep. If it reads 1, it
 * wakes whoever sleeps on the word.
 *
 * Quiet harts: a hart that waits in wfi, is parked, pauses, or is inside a device callback promises
 * not to store to RAM. ORDER: it leaves by writing activity = RUNNING and then reading drop_epoch;
 * who wants all store rights dropped increments drop_epoch and then reads activity; both
 * sequentially consistent, so either the dropper sees RUNNING and waits for drop_seen, or the hart
 * sees the new epoch and drops its rights before it can store.
 *
 * Timer: a hart publishes the host time of its next timer expiry in deadline_ns; the timer thread
 * sleeps until the earliest and raises PENDING_IRQ. ORDER, no missed deadline: the thread reads
 * timer_seq, sets timer_next_ns to "never", reads all deadlines, then publishes their minimum and
 * sleeps on timer_seq. A hart writes its deadline, then reads timer_next_ns, and bumps timer_seq
 * when its deadline is earlier. A hart whose deadline the thread did not see wrote it after the
 * thread had set "never", so it reads "never" or that later minimum, and bumps.
 * A waiting hart sleeps with its own deadline and takes it away from the timer thread.
 * The end of a throttled hart's turn, pause_at_ns, goes the same way and raises PENDING_PAUSE. On a
 * host with too much to do the thread comes late for that, so a timer of the hart's own does so
 * too.
 *
 * Pauses: a throttled hart sleeps on h->pending, too, but with whatever stands there: interrupts
 * wait until it goes on. ORDER: it reads the word, then writes is_sleeping, then the kernel
 * compares the word with what was read. A bit that is raised between the first and the last differs
 * from it (STOP and PAUSE, which end or change the pause, are not in what it sleeps on).
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "godwit/error.h"

#include "cpu/riscv/hart.h"

#define NEVER UINT64_MAX

static void futex_wake(uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, n, NULL, NULL, 0);
}

/* Sleeps while *word == value, until the CLOCK_MONOTONIC deadline. */
static void futex_wait(uint32_t *word, uint32_t value, uint64_t deadline_ns)
{
    struct timespec ts = clock_timespec(deadline_ns);
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, value,
            deadline_ns == NEVER ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

void riscv_raise(struct hart *h, uint32_t bits)
{
    __atomic_fetch_or(&h->pending, bits, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&h->is_sleeping, __ATOMIC_SEQ_CST)) {
        futex_wake(&h->pending, 1);
    }
}

/* ---- store rights ---- */

static void tell_dropper(struct riscv_soft *cpu)
{
    __atomic_fetch_add(&cpu->drop_acks, 1, __ATOMIC_SEQ_CST);
    futex_wake(&cpu->drop_acks, INT_MAX);
}

void riscv_obey_drop(struct hart *h)
{
    uint64_t epoch = __atomic_load_n(&h->cpu->drop_epoch, __ATOMIC_SEQ_CST);
    riscv_drop_store_rights(h);
    __atomic_store_n(&h->drop_seen, epoch, __ATOMIC_SEQ_CST);
    tell_dropper(h->cpu);
}

void riscv_quiet_enter(struct hart *h)
{
    __atomic_store_n(&h->activity, HART_QUIET, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&h->cpu->drop_epoch, __ATOMIC_SEQ_CST) != h->drop_seen) {
        tell_dropper(h->cpu);
    }
}

void riscv_quiet_leave(struct hart *h)
{
    __atomic_store_n(&h->activity, HART_RUNNING, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&h->cpu->drop_epoch, __ATOMIC_SEQ_CST) != h->drop_seen) {
        riscv_obey_drop(h);
    }
}

void riscv_drop_all_rights(struct riscv_soft *cpu)
{
    uint64_t epoch = __atomic_add_fetch(&cpu->drop_epoch, 1, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < cpu->n_harts; i++) {
        if (__atomic_load_n(&cpu->harts[i].activity, __ATOMIC_SEQ_CST) == HART_RUNNING) {
            riscv_raise(&cpu->harts[i], PENDING_DROP);
        }
    }
    for (unsigned i = 0; i < cpu->n_harts; i++) {
        struct hart *h = &cpu->harts[i];
        for (;;) {
            uint32_t acks = __atomic_load_n(&cpu->drop_acks, __ATOMIC_SEQ_CST);
            if (__atomic_load_n(&h->activity, __ATOMIC_SEQ_CST) == HART_QUIET ||
                __atomic_load_n(&h->drop_seen, __ATOMIC_SEQ_CST) >= epoch) {
                break;
            }
            futex_wait(&cpu->drop_acks, acks, NEVER);
        }
    }
}

/* ---- timers ---- */

/* Sets timer_mip; returns the host time of the next expiry. */
static uint64_t look_at_clock(struct hart *h)
{
    struct guest_clock *clock = h->cpu->config.clock;
    uint64_t now = guest_clock_ticks(clock);
    uint64_t mtimecmp = __atomic_load_n(&h->s.mtimecmp, __ATOMIC_SEQ_CST);
    uint64_t mip = 0, next = NEVER;
    if (now >= mtimecmp) {
        mip |= IRQ_BIT(IRQ_MTI);
    } else {
        next = mtimecmp;
    }
    if (h->s.menvcfg & MENVCFG_STCE) {
        if (now >= h->s.stimecmp) {
            mip |= IRQ_BIT(IRQ_STI);
        } else {
            next = MIN(next, h->s.stimecmp);
        }
    }
    h->timer_mip = mip;
    return next == NEVER ? NEVER : guest_clock_host_deadline_ns(clock, next);
}

static void poke_timer_thread(struct riscv_soft *cpu)
{
    __atomic_fetch_add(&cpu->timer_seq, 1, __ATOMIC_SEQ_CST);
    futex_wake(&cpu->timer_seq, 1);
}

/* Sets one of the hart's deadlines. */
static void publish_deadline(struct hart *h, uint64_t *slot, uint64_t deadline_ns)
{
    if (deadline_ns == __atomic_load_n(slot, __ATOMIC_RELAXED)) {
        return;
    }
    __atomic_store_n(slot, deadline_ns, __ATOMIC_SEQ_CST);
    if (deadline_ns < __atomic_load_n(&h->cpu->timer_next_ns, __ATOMIC_SEQ_CST)) {
        poke_timer_thread(h->cpu);
    }
}

void riscv_timer_update(struct hart *h)
{
    publish_deadline(h, &h->deadline_ns, look_at_clock(h));
}

/* Raises bits in the hart if this deadline of it has passed; returns the deadline if not. */
static uint64_t fire(struct hart *h, uint64_t *slot, uint32_t bits, uint64_t now_ns)
{
    uint64_t deadline_ns = __atomic_load_n(slot, __ATOMIC_SEQ_CST);
    if (deadline_ns > now_ns || !__atomic_compare_exchange_n(slot, &deadline_ns, NEVER, false,
                                                             __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        return deadline_ns; /* perhaps just changed; look again at once if past */
    }
    riscv_raise(h, bits);
    return NEVER;
}

/* Raises the harts whose time has come; returns the earliest deadline left. */
static uint64_t fire_timers(struct riscv_soft *cpu)
{
    uint64_t now_ns = clock_mono_ns();
    uint64_t next_ns = NEVER;
    for (unsigned i = 0; i < cpu->n_harts; i++) {
        struct hart *h = &cpu->harts[i];
        next_ns = MIN(next_ns, fire(h, &h->deadline_ns, PENDING_IRQ, now_ns));
        next_ns = MIN(next_ns, fire(h, &h->pause_at_ns, PENDING_PAUSE, now_ns));
    }
    return next_ns;
}

static void *timer_main(void *opaque)
{
    struct riscv_soft *cpu = opaque;
    prctl(PR_SET_NAME, "hart-timer");
    prctl(PR_SET_TIMERSLACK, 1000ul);
    while (!__atomic_load_n(&cpu->timer_exit, __ATOMIC_SEQ_CST)) {
        uint32_t seq = __atomic_load_n(&cpu->timer_seq, __ATOMIC_SEQ_CST);
        __atomic_store_n(&cpu->timer_next_ns, NEVER, __ATOMIC_SEQ_CST);
        uint64_t next_ns = fire_timers(cpu);
        __atomic_store_n(&cpu->timer_next_ns, next_ns, __ATOMIC_SEQ_CST);
        if (!__atomic_load_n(&cpu->timer_exit, __ATOMIC_SEQ_CST)) {
            futex_wait(&cpu->timer_seq, seq, next_ns);
        }
    }
    return NULL;
}

/* ---- harts ---- */

/* Sleeps until something else is pending than `bits`, or the deadline has come; returns how long.
 */
static uint64_t sleep_on_pending(struct hart *h, uint32_t bits, uint64_t deadline_ns)
{
    uint64_t began_ns = clock_mono_ns();
    __atomic_store_n(&h->is_sleeping, 1, __ATOMIC_SEQ_CST);
    futex_wait(&h->pending, bits, deadline_ns);
    __atomic_store_n(&h->is_sleeping, 0, __ATOMIC_SEQ_CST);
    return clock_mono_ns() - began_ns;
}

/* In the hart's signal handler. ORDER: the hart's own thread; it looks at the word afterwards. */
static void end_turn(void *opaque)
{
    struct hart *h = opaque;
    __atomic_fetch_or(&h->pending, PENDING_PAUSE, __ATOMIC_SEQ_CST);
}

void riscv_pause(struct hart *h, bool did_run)
{
    bool is_quiet = false;
    uint64_t paused_ns = 0;
    if (cpu_throttle_get(&h->throttle) == 0 && h->throttle.open_until_ns == THROTTLE_NEVER) {
        return;
    }
    __atomic_store_n(&h->pause_at_ns, NEVER, __ATOMIC_SEQ_CST); /* we wake by ourselves */
    for (;;) {
        /* ORDER: the bit is taken before the share is read; partner: who sets the share, and then
         * the bit. */
        uint32_t bits = __atomic_and_fetch(&h->pending, ~(uint32_t)PENDING_PAUSE, __ATOMIC_SEQ_CST);
        uint64_t until_ns = cpu_throttle_look(&h->throttle, clock_mono_ns(), did_run);
        if (until_ns == 0 || (bits & PENDING_STOP)) {
            break;
        }
        if (!is_quiet) {
            riscv_quiet_enter(h);
        }
        is_quiet = true;
        did_run = false;
        paused_ns += sleep_on_pending(h, bits, until_ns);
    }
    if (is_quiet) {
        riscv_quiet_leave(h);
        cpu_throttle_paused(&h->throttle, paused_ns);
    }
    turn_timer_make(&h->turn_timer, end_turn, h);
    turn_timer_set(&h->turn_timer, h->throttle.open_until_ns);
    publish_deadline(h, &h->pause_at_ns, h->throttle.open_until_ns);
}

/* Sleeps until something is pending or the deadline has come. */
static void sleep_once(struct hart *h, uint64_t deadline_ns)
{
    __atomic_store_n(&h->deadline_ns, NEVER, __ATOMIC_SEQ_CST); /* we wake by ourselves */
    __atomic_store_n(&h->pause_at_ns, NEVER, __ATOMIC_SEQ_CST);
    uint64_t slept_ns = sleep_on_pending(h, 0, deadline_ns);
    __atomic_store_n(&h->wfi_ns, h->wfi_ns + slept_ns, __ATOMIC_RELAXED);
}

/* Sleeps until an enabled interrupt pends (a broken hart: until it is stopped). False: the
 * machine's owner wants the hart to stop. */
static bool wait_for_interrupt(struct hart *h)
{
    bool is_woken = false;
    riscv_quiet_enter(h);
    for (;;) {
        uint32_t bits = __atomic_exchange_n(&h->pending, 0, __ATOMIC_SEQ_CST);
        if (bits & PENDING_DROP) {
            riscv_obey_drop(h);
        }
        if (bits & PENDING_EVICT) {
            riscv_code_evict(h);
        }
        if (bits & PENDING_STOP) {
            __atomic_fetch_or(&h->pending, PENDING_STOP, __ATOMIC_SEQ_CST);
            break;
        }
        uint64_t deadline_ns = look_at_clock(h);
        if (!h->is_broken && (riscv_mip_now(h) & h->s.mie)) {
            is_woken = true;
            break;
        }
        sleep_once(h, deadline_ns);
    }
    riscv_quiet_leave(h);
    if (is_woken) {
        riscv_pause(h, false);
    }
    riscv_timer_update(h);
    if (is_woken) {
        h->s.is_waiting = false;
        riscv_take_interrupt(h);
    }
    return is_woken;
}

/* Parks until the next start. False: the thread must end. */
static bool park(struct hart *h, uint64_t *run_count)
{
    struct riscv_soft *cpu = h->cpu;
    pthread_mutex_lock(&cpu->run_lock);
    cpu->n_parked++;
    pthread_cond_broadcast(&cpu->parked_cond);
    while (!cpu->wants_exit && !(cpu->wants_run && cpu->run_count != *run_count)) {
        pthread_cond_wait(&cpu->run_cond, &cpu->run_lock);
    }
    *run_count = cpu->run_count;
    cpu->n_parked--;
    bool goes_on = !cpu->wants_exit;
    pthread_mutex_unlock(&cpu->run_lock);
    return goes_on;
}

/* Whatever may have happened to state and memory while the hart was parked is taken in. */
static void derive(struct hart *h)
{
    h->is_broken = false;
    riscv_pmp_update(h);
    riscv_code_flush(h);
    riscv_update_view(h);
    riscv_timer_update(h);
}

static void *hart_main(void *opaque)
{
    struct hart *h = opaque;
    uint64_t run_count = 0;
    char name[16];
    g_snprintf(name, sizeof name, "hart-%u", h->id);
    prctl(PR_SET_NAME, name);
    prctl(PR_SET_TIMERSLACK, 1000ul);
    while (park(h, &run_count)) {
        derive(h);
        riscv_quiet_leave(h);
        if (h->cpu->config.runs != NULL) {
            h->cpu->config.runs(h->cpu->config.runs_opaque, h->id);
        }
        riscv_pause(h, false);
        for (;;) {
            if (h->s.is_waiting || h->is_broken) {
                if (!wait_for_interrupt(h)) {
                    break;
                }
            } else if (riscv_exec(h) == EXEC_STOP) {
                break;
            }
        }
        __atomic_store_n(&h->deadline_ns, NEVER, __ATOMIC_SEQ_CST);
        __atomic_store_n(&h->pause_at_ns, NEVER, __ATOMIC_SEQ_CST);
        turn_timer_set(&h->turn_timer, NEVER);
        riscv_quiet_enter(h);
    }
    turn_timer_clear(&h->turn_timer);
    return NULL;
}

void riscv_run(struct riscv_soft *cpu)
{
    pthread_mutex_lock(&cpu->run_lock);
    while (cpu->n_parked < cpu->n_harts) {
        pthread_cond_wait(&cpu->parked_cond, &cpu->run_lock);
    }
    for (unsigned i = 0; i < cpu->n_harts; i++) {
        __atomic_fetch_and(&cpu->harts[i].pending, ~(uint32_t)PENDING_STOP, __ATOMIC_SEQ_CST);
    }
    cpu->wants_run = true;
    cpu->run_count++;
    pthread_cond_broadcast(&cpu->run_cond);
    pthread_mutex_unlock(&cpu->run_lock);
}

void riscv_stop(struct riscv_soft *cpu)
{
    pthread_mutex_lock(&cpu->run_lock);
    cpu->wants_run = false;
    pthread_mutex_unlock(&cpu->run_lock);
    for (unsigned i = 0; i < cpu->n_harts; i++) {
        riscv_raise(&cpu->harts[i], PENDING_STOP);
    }
    pthread_mutex_lock(&cpu->run_lock);
    while (cpu->n_parked < cpu->n_harts) {
        pthread_cond_wait(&cpu->parked_cond, &cpu->run_lock);
    }
    pthread_mutex_unlock(&cpu->run_lock);
}

static bool start_thread(pthread_t *thread, bool *has_thread, void *(*entry)(void *), void *opaque,
                         GError **error)
{
    int code = pthread_create(thread, NULL, entry, opaque);
    if (code != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot start a hart thread: %s",
                    g_strerror(code));
        return false;
    }
    *has_thread = true;
    return true;
}

bool riscv_threads_start(struct riscv_soft *cpu, GError **error)
{
    cpu->timer_next_ns = NEVER;
    for (unsigned i = 0; i < cpu->n_harts; i++) {
        cpu->harts[i].deadline_ns = NEVER;
        cpu->harts[i].pause_at_ns = NEVER;
    }
    if (!start_thread(&cpu->timer_thread, &cpu->has_timer_thread, timer_main, cpu, error)) {
        return false;
    }
    for (unsigned i = 0; i < cpu->n_harts; i++) {
        struct hart *h = &cpu->harts[i];
        if (!start_thread(&h->thread, &h->has_thread, hart_main, h, error)) {
            return false;
        }
    }
    return true;
}

void riscv_threads_end(struct riscv_soft *cpu)
{
    pthread_mutex_lock(&cpu->run_lock);
    cpu->wants_exit = true;
    cpu->wants_run = false;
    pthread_cond_broadcast(&cpu->run_cond);
    pthread_mutex_unlock(&cpu->run_lock);
    for (unsigned i = 0; i < cpu->n_harts; i++) {
        if (cpu->harts[i].has_thread) {
            riscv_raise(&cpu->harts[i], PENDING_STOP);
            pthread_join(cpu->harts[i].thread, NULL);
        }
    }
    if (cpu->has_timer_thread) {
        __atomic_store_n(&cpu->timer_exit, 1, __ATOMIC_SEQ_CST);
        poke_timer_thread(cpu);
        pthread_join(cpu->timer_thread, NULL);
    }
}
