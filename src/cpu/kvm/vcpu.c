/* SPDX-License-Identifier: MIT */
/*
 * A vCPU, its thread, starting and stopping.
 *
 * Model: a thread per vCPU, parked on a condition while the machine is stopped. Stopping sets
 * wants_stop, tells the kernel to leave at once (immediate_exit) and interrupts whoever is inside
 * with a signal. A vCPU that left the guest for a device has not finished its instruction: before
 * it parks it enters the kernel once more with immediate_exit set, which completes the instruction
 * and nothing else. So a parked vCPU stands between two instructions, with all its state in the
 * kernel.
 *
 * ORDER: immediate_exit is set by the owner after wants_stop. A vCPU thread that enters the guest
 * after the signal sees immediate_exit; one that has not looked yet sees wants_stop. The owner
 * clears it while all are parked. A throttled vCPU's thread sets it too, in the signal handler that
 * ends its turn, and clears it before it looks at wants_stop: when it does not see wants_stop then,
 * the owner sets immediate_exit later, and it stays set.
 *
 * Pauses of a throttled vCPU (cpu/throttle.h) are waits for pause_cond. One that is halted in the
 * kernel at the end of its turn is left alone until the next.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cond.h"
#include "cpu/kvm/kvm_internal.h"

/* Interrupts KVM_RUN; the handler does nothing. */
#define KICK_SIGNAL (SIGRTMIN + 1)

/* ---- life of one ---- */

bool kvm_vcpu_create(struct kvm_vcpu *vcpu, GError **error)
{
    struct cpu_backend *cpu = vcpu->cpu;

    vcpu->fd = ioctl(cpu->vm_fd, KVM_CREATE_VCPU, (unsigned long)vcpu->id);
    if (vcpu->fd < 0) {
        kvm_set_error(error, "create a vCPU");
        return false;
    }
    void *run = mmap(NULL, cpu->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED) {
        kvm_set_error(error, "map a vCPU");
        return false;
    }
    vcpu->run = run;
    return true;
}

void kvm_vcpu_destroy(struct kvm_vcpu *vcpu)
{
    if (vcpu->run)
        munmap(vcpu->run, vcpu->cpu->run_bytes);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
}

/* ---- the thread ---- */

static bool wants_stop(const struct cpu_backend *cpu)
{
    return __atomic_load_n(&cpu->wants_stop, __ATOMIC_SEQ_CST);
}

/* Enters the kernel once. True: the guest left for something that has been done; false: an
 * interruption, or an end. */
static bool enter(struct kvm_vcpu *vcpu, bool *can_go_on)
{
    if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
        __atomic_store_n(&vcpu->n_exits, vcpu->n_exits + 1, __ATOMIC_RELAXED);
        *can_go_on = kvm_handle_exit(vcpu);
        return true;
    }
    if (errno != EINTR && errno != EAGAIN) {
        kvm_handle_failure(vcpu, errno);
        *can_go_on = false;
    }
    return false;
}

/* Ends the instruction that a device was asked for, which may ask again (wide accesses). */
static void complete(struct kvm_vcpu *vcpu)
{
    bool can_go_on = true;

    while (can_go_on && enter(vcpu, &can_go_on))
        ;
}

/* In the vCPU's signal handler. */
static void end_turn(void *opaque)
{
    struct kvm_vcpu *vcpu = opaque;

    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

static bool is_halted(const struct kvm_vcpu *vcpu)
{
    struct kvm_mp_state state;

    return ioctl(vcpu->fd, KVM_GET_MP_STATE, &state) == 0 &&
           state.mp_state != KVM_MP_STATE_RUNNABLE;
}

/* Waits while the vCPU may not run; not longer than until a stop is wanted. */
static void pause_throttled(struct kvm_vcpu *vcpu)
{
    struct cpu_backend *cpu = vcpu->cpu;
    uint64_t start_ns = clock_mono_ns(), until_ns;
    bool did_run = true;

    if (vcpu->throttle.open_until_ns <= start_ns && is_halted(vcpu)) {
        vcpu->throttle.open_until_ns = start_ns + THROTTLE_TURN_NS;
        turn_timer_set(&vcpu->turn_timer, vcpu->throttle.open_until_ns);
        return;
    }
    pthread_mutex_lock(&cpu->run_lock);
    while (!wants_stop(cpu) &&
           (until_ns = cpu_throttle_look(&vcpu->throttle, clock_mono_ns(), did_run)) != 0) {
        did_run = false;
        cond_wait_until(&cpu->pause_cond, &cpu->run_lock, until_ns);
    }
    pthread_mutex_unlock(&cpu->run_lock);
    if (!did_run)
        cpu_throttle_paused(&vcpu->throttle, clock_mono_ns() - start_ns);
    turn_timer_make(&vcpu->turn_timer, end_turn, vcpu);
    turn_timer_set(&vcpu->turn_timer, vcpu->throttle.open_until_ns);
}

/* Before it enters the guest. */
static void obey_throttle(struct kvm_vcpu *vcpu)
{
    /* immediate_exit: set for a stop, at the end of a turn, or because the share is another one. */
    if (__atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_RELAXED) == 0 &&
        cpu_throttle_get(&vcpu->throttle) == 0 && vcpu->throttle.open_until_ns == THROTTLE_NEVER)
        return;
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    pause_throttled(vcpu);
    if (wants_stop(vcpu->cpu))
        __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

static void run_until_stop(struct kvm_vcpu *vcpu)
{
    const struct cpu_config *config = &vcpu->cpu->config;
    bool can_go_on = true;

    if (config->runs)
        config->runs(config->runs_opaque, vcpu->id);
    while (can_go_on && !wants_stop(vcpu->cpu)) {
        obey_throttle(vcpu);
        enter(vcpu, &can_go_on);
    }
    turn_timer_set(&vcpu->turn_timer, THROTTLE_NEVER);
    if (can_go_on)
        complete(vcpu);
}

/* Parks until the next start. False: the thread must end. */
static bool park(struct kvm_vcpu *vcpu, uint64_t *run_count)
{
    struct cpu_backend *cpu = vcpu->cpu;

    pthread_mutex_lock(&cpu->run_lock);
    cpu->n_parked++;
    pthread_cond_broadcast(&cpu->parked_cond);
    while (!cpu->wants_exit && cpu->run_count == *run_count)
        pthread_cond_wait(&cpu->run_cond, &cpu->run_lock);
    *run_count = cpu->run_count;
    bool goes_on = !cpu->wants_exit;
    pthread_mutex_unlock(&cpu->run_lock);
    return goes_on;
}

static void *vcpu_main(void *opaque)
{
    struct kvm_vcpu *vcpu = opaque;
    uint64_t run_count = 0;
    char name[16];

    g_snprintf(name, sizeof name, "%s-%u", cpu_kvm.vcpu_name, vcpu->id);
    prctl(PR_SET_NAME, name);
    while (park(vcpu, &run_count))
        run_until_stop(vcpu);
    turn_timer_clear(&vcpu->turn_timer);
    return NULL;
}

/* ---- all of them ---- */

static void on_kick(int signal_number)
{
}

bool kvm_threads_start(struct cpu_backend *cpu, GError **error)
{
    const struct sigaction action = {.sa_handler = on_kick};

    sigaction(KICK_SIGNAL, &action, NULL);
    for (unsigned i = 0; i < cpu->n_vcpus; i++) {
        struct kvm_vcpu *vcpu = &cpu->vcpus[i];
        int code = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
        if (code != 0) {
            g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot start a vCPU thread: %s",
                        g_strerror(code));
            return false;
        }
        vcpu->has_thread = true;
    }
    return true;
}

static void wait_until_parked_locked(struct cpu_backend *cpu)
{
    while (cpu->n_parked < cpu->n_vcpus)
        pthread_cond_wait(&cpu->parked_cond, &cpu->run_lock);
}

void kvm_threads_run(struct cpu_backend *cpu)
{
    pthread_mutex_lock(&cpu->run_lock);
    wait_until_parked_locked(cpu);
    for (unsigned i = 0; i < cpu->n_vcpus; i++) {
        __atomic_store_n(&cpu->vcpus[i].run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        /* A guest that uses the clock learns that it stood still, and does not complain of it. */
        (void)ioctl(cpu->vcpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
    }
    __atomic_store_n(&cpu->wants_stop, false, __ATOMIC_SEQ_CST);
    cpu->run_count++;
    cpu->n_parked = 0; /* from now on, even if they have not woken yet */
    pthread_cond_broadcast(&cpu->run_cond);
    pthread_mutex_unlock(&cpu->run_lock);
}

static void kick(struct kvm_vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill(vcpu->thread, KICK_SIGNAL);
}

void kvm_threads_stop(struct cpu_backend *cpu)
{
    __atomic_store_n(&cpu->wants_stop, true, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < cpu->n_vcpus; i++)
        kick(&cpu->vcpus[i]);
    pthread_mutex_lock(&cpu->run_lock);
    pthread_cond_broadcast(&cpu->pause_cond);
    wait_until_parked_locked(cpu);
    pthread_mutex_unlock(&cpu->run_lock);
}

void kvm_vcpu_set_throttle(struct cpu_backend *cpu, unsigned id, unsigned permille)
{
    struct kvm_vcpu *vcpu = &cpu->vcpus[id];

    if (!cpu_throttle_set(&vcpu->throttle, permille))
        return;
    pthread_mutex_lock(&cpu->run_lock);
    pthread_cond_broadcast(&cpu->pause_cond);
    pthread_mutex_unlock(&cpu->run_lock);
    kick(vcpu); /* so that it looks, and clears immediate_exit again */
}

void kvm_threads_end(struct cpu_backend *cpu)
{
    pthread_mutex_lock(&cpu->run_lock);
    cpu->wants_exit = true;
    pthread_cond_broadcast(&cpu->run_cond);
    pthread_mutex_unlock(&cpu->run_lock);
    for (unsigned i = 0; i < cpu->n_vcpus; i++)
        if (cpu->vcpus[i].has_thread)
            pthread_join(cpu->vcpus[i].thread, NULL);
}
