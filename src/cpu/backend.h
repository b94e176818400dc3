/* SPDX-License-Identifier: MIT */
/*
 * The interface between a machine and whatever executes its vCPUs: software RISC-V harts
 * (src/cpu/riscv) or KVM (src/cpu/kvm).
 *
 * Life cycle: create (vCPUs exist, stopped, reset state) -> [load state | set_entry] -> start ->
 * stop -> start ... -> free. start and stop are called by one thread at a time (the machine's
 * owner). stop returns when no vCPU executes and each is at an instruction boundary with all its
 * state in its state object; a vCPU that is inside an MMIO callback finishes that instruction.
 *
 * Threads: one per vCPU, made by create, parked while stopped. set_irq, set_timer and kick may be
 * called from any thread at any time (also from a vCPU thread, also while stopped), take no lock
 * of the caller's rooms and never block.
 */
#ifndef GODWIT_CPU_BACKEND_H
#define GODWIT_CPU_BACKEND_H

#include "cpu/guest_clock.h"
#include "godwit/memory.h"
#include "godwit/state.h"

struct cpu_backend;

/* How vCPUs reach devices. Called from vCPU threads without any backend lock. size is 1, 2, 4, 8.
 * Return false when nothing answers there (the vCPU takes an access fault, or reads all ones). */
struct cpu_bus_ops {
    bool (*read)(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t *value);
    bool (*write)(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t value);
};

struct cpu_config {
    unsigned n_vcpus;
    struct gw_memory *memory;  /* borrowed, outlives the backend */
    struct guest_clock *clock; /* borrowed, outlives the backend */
    const struct cpu_bus_ops *bus;
    void *bus_opaque;
    /* Told (from a vCPU thread) that the guest can never go on: broken state, triple fault. */
    void (*fatal)(void *opaque, unsigned vcpu, const char *reason);
    void *fatal_opaque;
};

struct cpu_stats {
    uint64_t instructions; /* retired, all vCPUs (0 where it is not known) */
    uint64_t exits;        /* MMIO and other leaves of the fast path */
    uint64_t wfi_ns;       /* time asleep */
};

struct cpu_backend_ops {
    const char *name; /* "riscv-soft", "kvm" */
    struct cpu_backend *(*create)(const struct cpu_config *config, GError **error);
    void (*free)(struct cpu_backend *cpu);
    void (*start)(struct cpu_backend *cpu);
    void (*stop)(struct cpu_backend *cpu);
    /* All vCPUs to reset state (stopped). */
    void (*reset)(struct cpu_backend *cpu);
    /* Entry of one vCPU after reset: pc and the first two argument registers (a0, a1). */
    void (*set_entry)(struct cpu_backend *cpu, unsigned vcpu, uint64_t pc, uint64_t arg0,
                      uint64_t arg1);
    /* Interrupt line of one vCPU; RISC-V: the bit number in mip (3 MSIP, 9 SEIP, 11 MEIP). */
    void (*set_irq)(struct cpu_backend *cpu, unsigned vcpu, unsigned line, bool level);
    /* RISC-V mtimecmp (drives MTIP against the guest clock). */
    void (*set_timer)(struct cpu_backend *cpu, unsigned vcpu, uint64_t deadline_ticks);
    uint64_t (*get_timer)(struct cpu_backend *cpu, unsigned vcpu);
    /* The saved form of one vCPU: desc and object, valid as long as the backend. */
    void (*get_state)(struct cpu_backend *cpu, unsigned vcpu, const struct gw_state_desc **desc,
                      void **object);
    /* NULL-terminated names of the CPU features the guest was given ("sv48", "sstc", ...);
     * constant. The migration handshake compares them. */
    const char *const *(*features)(const struct cpu_backend *cpu);
    void (*get_stats)(const struct cpu_backend *cpu, unsigned vcpu, struct cpu_stats *stats);
};

extern const struct cpu_backend_ops cpu_riscv_soft;

#endif
