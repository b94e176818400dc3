/* SPDX-License-Identifier: MIT */
/*
 * A machine: memory, vCPUs, devices and their life, put together by a board.
 *
 * Model: a board (board.h) builds the parts; this room starts and stops them together, resets them,
 * carries out what the guest asks of the platform (reset, power off), and gives the migration
 * engine its view of the machine (struct gw_vm).
 *
 * Threads: everything that starts, stops or resets runs on the machine's own life thread, or on the
 * migration engine's control thread, one at a time; no function here blocks its caller on
 * the guest, a disk or a peer unless it says so. Notices and done functions are called on the
 * thread of the main context given in the configuration.
 *
 * Locks: one lock, and the turn (machine_life.h) to start and stop; the lock is a leaf, and neither
 * is held over a notice.
 */
#ifndef GODWIT_MACHINE_MACHINE_H
#define GODWIT_MACHINE_MACHINE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpu/backend.h"
#include "godwit/memory.h"
#include "godwit/migrate.h"
#include "godwit/state.h"
#include "machine/config.h"
#include "machine/life.h"

struct latency_book;
struct machine;

/* What a machine tells its listeners. */
enum machine_notice_kind {
    MACHINE_NOTICE_STOP = 1,
    MACHINE_NOTICE_RESUME,
    MACHINE_NOTICE_RESET,     /* is_by_guest */
    MACHINE_NOTICE_SHUTDOWN,  /* is_by_guest, exit_code */
    MACHINE_NOTICE_POWERDOWN, /* a user asked the guest to switch off */
    MACHINE_NOTICE_BROKEN,    /* detail: why no vCPU can go on */
    MACHINE_NOTICE_ESCAPE,    /* the user at the console asked to quit */
};

struct machine_notice {
    enum machine_notice_kind kind;
    uint64_t real_ns; /* CLOCK_REALTIME of the moment itself */
    bool is_by_guest;
    unsigned exit_code;
    const char *reason; /* QEMU's word: "guest-reset"; or NULL */
    const char *detail; /* a sentence, or NULL */
};

typedef void (*machine_notice_fn)(void *opaque, const struct machine_notice *notice);
/* error is NULL when the operation was done. */
typedef void (*machine_done_fn)(void *opaque, const GError *error);

enum machine_op {
    MACHINE_OP_LAUNCH = 1,
    MACHINE_OP_LAUNCH_PAUSED,
    MACHINE_OP_AWAIT, /* become a destination */
    MACHINE_OP_STOP,
    MACHINE_OP_CONT,
    MACHINE_OP_RESET,
    MACHINE_OP_POWERDOWN,
};

/* The board when nobody names one: "pc" where the host's KVM runs ordinary x86-64 guests, else
 * "virt". */
const char *machine_default_board(void);
/* Builds the machine, stopped. The configuration is borrowed only during the call. */
struct machine *machine_new(const struct machine_config *config, GMainContext *context,
                            GError **error);
/* Stops and frees. Blocks until the parts have stopped. */
void machine_free(struct machine *machine);

/* Main thread only. */
void machine_add_listener(struct machine *machine, machine_notice_fn fn, void *opaque);
/* Stops the parts, as a user would, and waits for it: who serves the guest its memory may go then.
 */
void machine_halt(struct machine *machine);
/* Queues an operation; done (may be NULL) is called on the main context. Any thread. */
void machine_submit(struct machine *machine, enum machine_op op, machine_done_fn done,
                    void *opaque);

/* An incoming guest that was running stays paused here. */
void machine_set_hold(struct machine *machine, bool is_held);
/* The guest's reset switches the machine off instead. */
void machine_set_no_reboot(struct machine *machine, bool is_set);

/* -- facts, any thread -- */
enum life_state machine_state(struct machine *machine);
const char *machine_name(const struct machine *machine);
const char *machine_board(const struct machine *machine);
uint64_t machine_memory_bytes(const struct machine *machine);
unsigned machine_n_cpus(const struct machine *machine);
void machine_cpu_stats(struct machine *machine, unsigned vcpu, struct cpu_stats *stats);
/* Thread id of a vCPU on the host, or 0 when it is not known. */
unsigned machine_cpu_thread(struct machine *machine, unsigned vcpu);
/* What its vCPUs ask of the host's devices once it is built; NULL: nothing (cpu/backend.h). */
const unsigned long *machine_cpu_requests(const struct machine *machine);
/* QEMU's name of the instruction set: "riscv64". */
const char *machine_target(const struct machine *machine);
const struct gw_state_registry *machine_registry(const struct machine *machine);
struct latency_book *machine_latency_book(struct machine *machine);

/* Announces the guest's network addresses: rounds times, from initial_ms on, step_ms longer each
 * time up to max_ms apart. Main thread. */
struct machine_announce {
    unsigned initial_ms, max_ms, step_ms, rounds;
};
void machine_announce(struct machine *machine, const struct machine_announce *how);

/* -- for the migration room of this folder -- */
/* The engine's view of the machine; valid as long as the machine. */
const struct gw_vm *machine_vm(struct machine *machine);
/* COMMIT went out and the link is lost. */
void machine_set_doubt(struct machine *machine);
/* Called (any thread) when memory of a guest that was restored lazily is lost (struct gw_vm): parts
 * of the machine wait for ever, and so does who waits for them, be it on the way out. fn ends the
 * process. */
void machine_set_lost_fn(struct machine *machine, void (*fn)(void *opaque, const char *reason),
                         void *opaque);
/* Called (any thread) when an incoming guest was discarded before it ran. */
void machine_set_discarded_fn(struct machine *machine, void (*fn)(void *opaque, const GError *why),
                              void *opaque);
/* Main thread only: called (on it) with what is noteworthy just after an incoming guest ran, for
 * gw_destination_mark. */
void machine_set_marked_fn(struct machine *machine,
                           void (*fn)(void *opaque, const char *name, uint64_t at_ns),
                           void *opaque);

#endif
