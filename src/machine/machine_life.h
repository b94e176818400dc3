/* SPDX-License-Identifier: MIT */
/*
 * The machine's life as the files of this folder share it: the life thread, starting and stopping
 * the parts, notices.
 */
#ifndef GODWIT_MACHINE_MACHINE_LIFE_H
#define GODWIT_MACHINE_MACHINE_LIFE_H

#include "machine/board.h"

struct machine_listener {
    machine_notice_fn fn;
    void *opaque;
};

void machine_life_init(struct machine *machine);
void machine_life_start(struct machine *machine);
/* Stops the parts, ends the life thread, destroys the locks. */
void machine_life_end(struct machine *machine);

/* A vCPU can never go on. From vCPU threads. */
void machine_break(struct machine *machine, unsigned vcpu, const char *reason);

/* The one place where the state changes. False with error when the table says no; the state is then
 * unchanged. */
bool machine_post(struct machine *machine, enum life_event event, GError **error);

/* The turn to start, stop or reset the parts; not recursive. _until: false when the deadline
 * (CLOCK_MONOTONIC) passes first. */
void machine_enter(struct machine *machine);
bool machine_enter_until(struct machine *machine, uint64_t deadline_ns);
void machine_leave(struct machine *machine);

/* _locked: by who has the turn. */
void machine_start_parts_locked(struct machine *machine);
/* On false the parts run as before. deadline_ns: CLOCK_MONOTONIC. ledger may be NULL. */
bool machine_stop_parts_locked(struct machine *machine, uint64_t deadline_ns,
                               struct gw_ledger *ledger, GError **error);

/* Any thread: listeners hear of it on the main context. */
void machine_notify(struct machine *machine, const struct machine_notice *notice);

void machine_vm_init(struct machine *machine);

/* machine_move.c */
void machine_move_init(struct machine *machine);
/* Of struct gw_vm. */
uint32_t machine_forward_packets(void *opaque, const struct gw_packet_sink *sink);
void machine_expect_packets(void *opaque);
void machine_take_packet(void *opaque, const char *device, const void *frame, uint32_t n_bytes,
                         bool is_last);
/* Of struct cpu_config. */
void machine_vcpu_runs(void *opaque, unsigned vcpu);
/* The guest is about to be started here: tells the network. Returns how many marks will follow. */
uint32_t machine_arrive(struct machine *machine, bool is_running);

#endif
