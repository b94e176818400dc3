/* SPDX-License-Identifier: MIT */
/* The inside of the KVM backend, shared by the files of this folder. */
#ifndef GODWIT_CPU_KVM_KVM_INTERNAL_H
#define GODWIT_CPU_KVM_KVM_INTERNAL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/ioctl.h>

#include "cpu/kvm/chips.h"
#include "cpu/kvm/clock.h"
#include "cpu/kvm/cpuid.h"
#include "cpu/kvm/dirty.h"
#include "cpu/kvm/kvm.h"
#include "cpu/kvm/tables.h"
#include "cpu/kvm/vcpu_state.h"
#include "cpu/throttle.h"
#include "cpu/turn_timer.h"

#define KVM_MAX_VCPUS 64u
#define KVM_MAX_SLOTS 32u
/* GSIs for messages: 64 devices with 16 vectors each. The kernel takes 4096 routes in all. */
#define KVM_MAX_MSIS  1024u
#define KVM_N_GSIS    (KVM_N_PINS + KVM_MAX_MSIS)

struct kvm_vcpu {
    /* fixed after construction */
    struct cpu_backend *cpu;
    unsigned id;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    bool has_thread;
    struct kvm_vcpu_state power_on;

    /* owned by who stops, saves, loads or resets the machine */
    struct kvm_vcpu_state state;

    struct kvm_dirty_gfn *ring; /* fixed after construction; NULL without rings */
    uint32_t ring_next;         /* guarded by dirty.lock */
    bool is_ring_skewed;        /* guarded by dirty.lock: the kernel is ahead of ring_next */

    /* atomic: written by its thread, read by anyone, relaxed */
    uint64_t n_exits, n_ring_full;
    uint64_t n_dirtied; /* written under dirty.lock */

    struct cpu_throttle throttle; /* see its header */
    struct turn_timer turn_timer; /* its thread's */
};

/* One GSI above the pins. */
struct kvm_msi_route {
    bool is_used;
    bool has_route;
    uint64_t address;
    uint32_t data;
};

struct kvm_irq {
    pthread_mutex_t lock;
    /* guarded by lock */
    struct kvm_msi_route msis[KVM_MAX_MSIS];
    bool is_changed; /* since the kernel was told */
};

/* What this host's KVM offers. */
struct kvm_host {
    struct cpuid_table cpuid; /* what it supports */
    uint32_t xsave_bytes;     /* of one vCPU's vector registers as the kernel gives them */
    uint32_t n_msrs;
    uint32_t msrs[KVM_MAX_MSRS]; /* that it keeps for a guest */
    uint32_t tsc_khz;
    bool is_tsc_scaled;  /* guests may run at other frequencies */
    bool has_real_clock; /* the kernel knows what time passed between two wall clock readings */
    bool has_tsc_offset; /* it tells how far a vCPU's counter is ahead of the host's */
};

struct cpu_backend {
    /* fixed after construction */
    struct cpu_config config;
    int kvm_fd, vm_fd;
    size_t run_bytes; /* of the mapping that each vCPU shares with the kernel */
    struct gw_ram_block *slots[KVM_MAX_SLOTS]; /* slot number is the index */
    unsigned n_slots;
    struct kvm_vcpu *vcpus;
    unsigned n_vcpus;
    struct kvm_irq irq;
    struct kvm_host host;
    struct kvm_dirty dirty;
    struct kvm_chips_state power_on;

    /* owned by who stops, saves, loads or resets the machine */
    struct gw_state_registry *registry; /* where it was added to; NULL before */
    struct cpuid_table cpuid;           /* the guest's */
    char **features;                    /* their names */
    struct kvm_chips_state chips;
    struct kvm_clock_state clock;

    pthread_mutex_t run_lock;
    pthread_cond_t run_cond;    /* start, exit */
    pthread_cond_t parked_cond; /* one more is parked */
    /* guarded by run_lock */
    bool wants_exit;
    uint64_t run_count; /* starts so far */
    unsigned n_parked;

    pthread_cond_t pause_cond; /* with run_lock: a stop is wanted, a vCPU's share is another one */

    bool wants_stop; /* atomic: written by the owner, read by vCPU threads */
};

/* host.c: opens /dev/kvm and checks that it has what we need. -1 with error. */
int kvm_host_open(GError **error);
/* Fills cpu->host. */
bool kvm_host_read(struct cpu_backend *cpu, GError **error);
/* The kernel's refusal as a sentence: "KVM: cannot set the clock: Invalid argument". */
void kvm_set_error(GError **error, const char *what);

/* vm.c: the VM, its memory and its interrupt chips. */
bool kvm_vm_create(struct cpu_backend *cpu, GError **error);

/* irq.c */
void kvm_irq_init(struct kvm_irq *irq);
bool kvm_irq_reset(struct cpu_backend *cpu, GError **error);
void kvm_irq_clear(struct kvm_irq *irq);

/* vcpu.c: creation without a thread; then threads and their life. */
bool kvm_vcpu_create(struct kvm_vcpu *vcpu, GError **error);
void kvm_vcpu_destroy(struct kvm_vcpu *vcpu);
bool kvm_threads_start(struct cpu_backend *cpu, GError **error);
void kvm_threads_end(struct cpu_backend *cpu);
void kvm_threads_run(struct cpu_backend *cpu);
void kvm_threads_stop(struct cpu_backend *cpu);
void kvm_vcpu_set_throttle(struct cpu_backend *cpu, unsigned vcpu, unsigned permille);

/* exit.c: what the vCPU left the guest for. False: it cannot go on until it was stopped. */
bool kvm_handle_exit(struct kvm_vcpu *vcpu);
/* KVM_RUN itself failed with this errno. */
void kvm_handle_failure(struct kvm_vcpu *vcpu, int code);

/* model.c: tells the vCPU's guest of its processor, as cpu->cpuid says. */
bool kvm_model_set(struct kvm_vcpu *vcpu, GError **error);
/* Builds cpu->cpuid from the configuration. */
bool kvm_model_init(struct cpu_backend *cpu, GError **error);
void kvm_model_clear(struct cpu_backend *cpu);
/* What must fit at the destination, as properties. */
bool kvm_model_add_properties(struct cpu_backend *cpu, struct gw_state_registry *registry,
                              GError **error);
/* The guest's processor has changed: properties and names follow. */
void kvm_model_changed(struct cpu_backend *cpu);

#endif
