/* SPDX-License-Identifier: MIT */
/*
 * Which pages the guest's vCPUs, and the kernel on their behalf, have written.
 *
 * Model: two kinds, one of them for the life of a VM.
 * - *bitmap*: a bit per page and slot in the kernel. Reading it changes nothing; clearing bits
 *   protects their pages again, in chunks, so that the kernel's lock on the guest's page tables is
 *   never held for long. Where the kernel offers it, a log begins with every bit set and nothing
 *   protected: the start costs nothing, and the first clearing, by us, does it in chunks too.
 * - *ring*: each vCPU notes the pages it writes in a ring of its own, which is read without a call;
 *   one call then protects again what was read. Its cost is that of the pages written, whatever
 *   the size of memory; and it tells who writes how much. A vCPU whose ring is full leaves the
 *   guest and takes its entries out itself; that is counted.
 *
 * A kernel looks whether a ring is nearly full between two instructions of the guest at the latest,
 * and keeps some entries back for what one instruction may write. One that runs many instructions
 * in its emulator before it looks may overrun the ring: entries overwrite others, and the kernel's
 * place in the ring is ahead of ours. A ring in which every entry is taken at once is taken for
 * overrun: all pages then count as written, all are protected again, and the place where the kernel
 * goes on is looked for.
 *
 * ORDER: a page's bit is taken before it is protected again, and it is protected before a
 * collection returns: a write in between sets no bit but is in the page when it is read, a write
 * afterwards faults and sets it again.
 *
 * Threads: start, collect and stop are the log user's (godwit/memory.h). kvm_dirty_ring_full is a
 * vCPU thread's.
 */
#ifndef GODWIT_CPU_KVM_DIRTY_H
#define GODWIT_CPU_KVM_DIRTY_H

#include <linux/kvm.h>
#include <pthread.h>

#include "cpu/backend.h"

struct kvm_vcpu;

/* Entries of a vCPU's ring: 64 Ki pages are 256 MiB of writes between two collections, and 1 MiB of
 * the host's memory. */
#define KVM_RING_ENTRIES 65536u

struct kvm_dirty {
    /* fixed after construction */
    bool is_ring;
    bool is_set_at_start; /* the kernel's bitmap begins with every bit set */
    uint32_t n_entries;   /* of each ring */

    pthread_mutex_t lock;
    /* guarded by lock: what was taken out of rings since the last collection, per slot; NULL
     * unless logging with rings */
    uint64_t **taken;
    bool has_lost;   /* a ring was found overrun */
    uint64_t n_lost; /* times that happened */
    uint64_t
        *bitmap; /* owned by the log's user: room for the kernel's bitmap of the largest slot */
    size_t bitmap_bytes;
};

/* Chooses the kind and prepares it: after the VM exists, before its vCPUs do. */
bool kvm_dirty_init(struct cpu_backend *cpu, GError **error);
/* After a vCPU was created: maps its ring. */
bool kvm_dirty_add_vcpu(struct kvm_vcpu *vcpu, GError **error);
/* Registers the producer. */
void kvm_dirty_attach(struct cpu_backend *cpu);
void kvm_dirty_clear(struct cpu_backend *cpu);

/* The vCPU left the guest because its ring is full. */
void kvm_dirty_ring_full(struct kvm_vcpu *vcpu);

/* Reads one ring: calls fn for every entry from *next on that the kernel has published, gives it
 * back, and moves *next. Returns how many there were. mask: entries - 1. PEER: none; the ring is
 * the kernel's. Pure over the ring's memory, so that it can be tested without KVM. */
uint32_t kvm_ring_take(struct kvm_dirty_gfn *ring, uint32_t mask, uint32_t *next,
                       void (*fn)(void *opaque, uint32_t slot, uint64_t offset), void *opaque);
/* Looks for the first published entry after a gap, gives the gap back as if it had been read, and
 * moves *next there. False: nothing is published. */
bool kvm_ring_skip_gap(struct kvm_dirty_gfn *ring, uint32_t mask, uint32_t *next);

#endif
