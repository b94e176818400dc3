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
    /* I/O ports (x86); size is 1, 2 or 4. NULL on boards whose vCPUs have none. */
    bool (*port_read)(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint32_t *value);
    bool (*port_write)(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint32_t value);
};

enum cpu_dirty_log {
    CPU_DIRTY_LOG_AUTO = 0, /* the backend's choice */
    CPU_DIRTY_LOG_BITMAP,
    CPU_DIRTY_LOG_RING,
};

struct cpu_config {
    unsigned n_vcpus;
    struct gw_memory *memory;  /* borrowed, outlives the backend */
    struct guest_clock *clock; /* borrowed, outlives the backend */
    const struct cpu_bus_ops *bus;
    void *bus_opaque;
    const char *model; /* as the user says it: "host,-avx"; NULL: the backend's own */
    enum cpu_dirty_log dirty_log;
    uint32_t dirty_ring_entries; /* a power of two; 0: the backend's choice */
    /* Told (from a vCPU thread) that the platform resets itself: triple fault. The vCPU does not
     * go on until it was stopped. NULL: fatal is told. */
    void (*reset)(void *opaque, unsigned vcpu, const char *reason);
    /* Told (from a vCPU thread) that the guest can never go on: broken state. */
    void (*fatal)(void *opaque, unsigned vcpu, const char *reason);
    void *fatal_opaque; /* of reset too */
    /* Told (from its thread) each time a vCPU is about to execute after a start, or to go on
     * waiting for an interrupt. May be NULL. */
    void (*runs)(void *opaque, unsigned vcpu);
    void *runs_opaque;
};

struct cpu_stats {
    uint64_t instructions; /* retired, all vCPUs (0 where it is not known) */
    uint64_t exits;        /* MMIO and other leaves of the fast path */
    uint64_t wfi_ns;       /* time asleep */
    /* Pages that it was the first to write since they were last collected, while a dirty log ran.
     * Not known where the log does not tell who writes (a bitmap of KVM's). */
    bool is_dirtied_known;
    uint64_t dirtied_pages;
    uint64_t ring_full; /* times the vCPU had to wait because its dirty ring was full */
    /* Throttling. */
    unsigned throttle_permille; /* in force */
    uint64_t throttled_ns;      /* time it was kept from running */
    uint64_t throttled_slices;  /* how often */
};

struct cpu_backend_ops {
    const char *name; /* "riscv-soft", "kvm" */
    /* What its vCPUs are called: threads are "hart-0", "hart-1", state instances "hart/0", .. */
    const char *vcpu_name;
    /* Can it work here? NULL: everywhere. */
    bool (*check_host)(GError **error);
    /* The device requests (ioctl) it makes after create, the frequent ones first, ending with 0;
     * NULL: none. A sandbox may forbid all others of their kind. */
    const unsigned long *requests;
    struct cpu_backend *(*create)(const struct cpu_config *config, GError **error);
    void (*free)(struct cpu_backend *cpu);
    void (*start)(struct cpu_backend *cpu);
    void (*stop)(struct cpu_backend *cpu);
    /* All vCPUs to reset state (stopped). */
    void (*reset)(struct cpu_backend *cpu);
    /* Entry of one vCPU after reset: pc and the first two argument registers (a0, a1). NULL where
     * it takes more than that: see the backend's own header. */
    void (*set_entry)(struct cpu_backend *cpu, unsigned vcpu, uint64_t pc, uint64_t arg0,
                      uint64_t arg1);
    /* The three that follow are NULL where the backend brings interrupt controllers of its own.
     * Interrupt line of one vCPU; RISC-V: the bit number in mip (3 MSIP, 9 SEIP, 11 MEIP). */
    void (*set_irq)(struct cpu_backend *cpu, unsigned vcpu, unsigned line, bool level);
    /* RISC-V mtimecmp (drives MTIP against the guest clock). */
    void (*set_timer)(struct cpu_backend *cpu, unsigned vcpu, uint64_t deadline_ticks);
    uint64_t (*get_timer)(struct cpu_backend *cpu, unsigned vcpu);
    /* Adds all instances of saved state, and what must fit besides, to the registry. They are
     * valid as long as the backend. */
    bool (*add_state)(struct cpu_backend *cpu, struct gw_state_registry *registry, GError **error);
    /* Keeps one vCPU from running for a share of the time, in permille, by letting its own thread
     * pause outside of guest code at least once in THROTTLE_TURN_NS (cpu/throttle.h); 0: not at
     * all, and it goes on at once. A pause ends when the vCPUs are to stop. One that waits for an
     * interrupt is left alone. The share stays over stop and start. Any thread, never blocks.
     * NULL: it cannot be done. */
    void (*set_throttle)(struct cpu_backend *cpu, unsigned vcpu, unsigned permille);
    /* NULL-terminated names of the CPU features the guest was given ("sv48", "sstc", ...);
     * constant. The migration handshake compares them. */
    const char *const *(*features)(const struct cpu_backend *cpu);
    void (*get_stats)(const struct cpu_backend *cpu, unsigned vcpu, struct cpu_stats *stats);
};

extern const struct cpu_backend_ops cpu_riscv_soft;

#endif
