/* SPDX-License-Identifier: MIT */
/*
 * A machine that is no machine: memory that a thread keeps writing, and a few device-state tables.
 *
 * Two fake VMs form a pair: the same make, one guest. The pair counts how many of them run the
 * guest; more than one at any time is remembered for ever.
 */
#ifndef TEST_FAKE_VM_H
#define TEST_FAKE_VM_H

#include <pthread.h>
#include <stdatomic.h>

#include "godwit/channel.h"
#include "godwit/migrate.h"

#define FAKE_RAM_BYTES  (UINT64_C(8) << 20)
#define FAKE_HIGH_BYTES (UINT64_C(1) << 20)
#define SLOW_CHECK_MS   400

struct fake_pair;

struct fake_device {
    uint64_t ticks;
    uint32_t registers[16];
    uint8_t fifo[64];
    uint32_t fifo_len;
    atomic_uint *slow_checks; /* how many checks of its state take SLOW_CHECK_MS; not saved */
};

struct fake_vm {
    const char *name;
    struct fake_pair *pair;
    struct gw_memory *memory;
    struct gw_state_registry *registry;
    struct fake_device devices[4];
    struct gw_vm vm;

    pthread_t writer;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool runs;    /* the writer writes; guarded by lock */
    bool is_idle; /* the writer is parked */
    bool is_ending;
    bool was_paused; /* by its user */
    atomic_uint writes_per_ms;
    unsigned stride;     /* it writes only each so manieth page */
    unsigned busy_stops; /* at so many stops it writes all of them before it stands still */

    /* what the callbacks were told; guarded by lock */
    unsigned n_stops, n_flushes, n_resumes, n_released, n_before, n_after, n_runs, n_discarded;
    bool last_was_running;
    struct gw_clock_facts facts;

    /* misbehaviour */
    unsigned fail_stops, fail_flushes; /* how many calls fail */
    bool fails_after_load;
    atomic_uint slow_checks;
    unsigned slow_stops; /* how many calls take slow_stop_ms, and succeed */
    uint64_t slow_stop_ms;
    bool hangs_in_flush; /* each fails a tenth of a second after its deadline */
};

struct fake_pair {
    struct fake_vm source, destination;
    atomic_int n_running;
    atomic_bool ran_twice;
    char *dir;
    char *uri;
};

void fake_pair_init(struct fake_pair *pair);
/* A guest that has only each stride-th page. */
void fake_pair_init_sparse(struct fake_pair *pair, unsigned stride);
void fake_pair_clear(struct fake_pair *pair);
/* Runs or pauses the guest as its user would. */
void fake_vm_run(struct fake_vm *vm);
bool fake_vm_is_running(struct fake_vm *vm);
/* Waits until the guest runs; false: it does not by then. */
bool fake_vm_await_run(struct fake_vm *vm, uint64_t deadline_ns);
/* Waits until something about the guest changes, a millisecond at most. */
void fake_vm_await_change(struct fake_vm *vm);
/* Both machines hold the same memory and the same device state (neither may run). */
bool fake_pair_is_equal(struct fake_pair *pair);
/* Stops the writer whoever runs it; for comparing at the end. */
void fake_vm_park(struct fake_vm *vm);
void fake_vm_init(struct fake_vm *vm, const char *name, struct fake_pair *pair, uint64_t ram_bytes,
                  unsigned n_devices);
void fake_vm_clear(struct fake_vm *vm);
/* A guest's store; the log is told by gw_memory_note_write. */
void fake_vm_store(uint8_t *to, uint64_t value);

uint64_t after_ms(uint64_t ms);

#endif
