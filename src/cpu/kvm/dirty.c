/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps and rings: see dirty.h. */
#include "cpu/kvm/dirty.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bitmap.h"
#include "cpu/kvm/kvm_internal.h"

/* Pages that one call protects again: 64 MiB of guest memory, some ten microseconds of the lock. */
#define CHUNK_PAGES UINT64_C(16384)

/* ---- slots ---- */

static bool set_slot_flags(struct cpu_backend *cpu, unsigned slot, uint32_t flags, GError **error)
{
    const struct gw_ram_block *block = cpu->slots[slot];
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = flags,
        .guest_phys_addr = block->gpa,
        .memory_size = block->size_bytes,
        .userspace_addr = (uintptr_t)block->host,
    };

    if (ioctl(cpu->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) == 0)
        return true;
    kvm_set_error(error, flags ? "start its dirty log" : "stop its dirty log");
    g_prefix_error(error, "RAM block %s: ", block->name);
    return false;
}

/* ---- bitmap ---- */

/* Clears bits of a chunk that are set in words (the bitmap from `first` on). */
static bool clear_chunk(struct cpu_backend *cpu, unsigned slot, uint64_t *words, uint64_t first,
                        uint64_t n_pages, GError **error)
{
    struct kvm_clear_dirty_log request = {
        .slot = slot,
        .num_pages = (uint32_t)n_pages,
        .first_page = first,
        .dirty_bitmap = words,
    };

    if (ioctl(cpu->vm_fd, KVM_CLEAR_DIRTY_LOG, &request) == 0)
        return true;
    kvm_set_error(error, "clear its dirty log");
    return false;
}

static bool has_bits(const uint64_t *words, uint64_t n_words)
{
    for (uint64_t i = 0; i < n_words; i++)
        if (words[i])
            return true;
    return false;
}

/* Protects again all pages whose bits are set in words, chunk by chunk. */
static bool clear_slot(struct cpu_backend *cpu, unsigned slot, uint64_t *words, GError **error)
{
    uint64_t n_all = cpu->slots[slot]->n_pages;

    for (uint64_t first = 0; first < n_all; first += CHUNK_PAGES) {
        uint64_t n = MIN(CHUNK_PAGES, n_all - first);
        uint64_t *chunk = words + first / BITMAP_WORD_BITS;
        if (has_bits(chunk, bitmap_n_words(n)) && !clear_chunk(cpu, slot, chunk, first, n, error))
            return false;
    }
    return true;
}

static bool start_bitmap(struct cpu_backend *cpu, unsigned slot, GError **error)
{
    struct kvm_dirty *dirty = &cpu->dirty;

    if (!set_slot_flags(cpu, slot, KVM_MEM_LOG_DIRTY_PAGES, error))
        return false;
    if (!dirty->is_set_at_start)
        return true;
    memset(dirty->bitmap, 0xff, dirty->bitmap_bytes);
    return clear_slot(cpu, slot, dirty->bitmap, error);
}

static bool collect_bitmap(struct cpu_backend *cpu, unsigned slot, uint64_t *words, GError **error)
{
    struct kvm_dirty *dirty = &cpu->dirty;
    struct kvm_dirty_log request = {.slot = slot, .dirty_bitmap = dirty->bitmap};

    memset(dirty->bitmap, 0, dirty->bitmap_bytes);
    if (ioctl(cpu->vm_fd, KVM_GET_DIRTY_LOG, &request) < 0) {
        kvm_set_error(error, "read its dirty log");
        return false;
    }
    for (uint64_t i = 0; i < bitmap_n_words(cpu->slots[slot]->n_pages); i++)
        words[i] |= dirty->bitmap[i];
    return clear_slot(cpu, slot, dirty->bitmap, error);
}

/* ---- rings ---- */

uint32_t kvm_ring_take(struct kvm_dirty_gfn *ring, uint32_t mask, uint32_t *next,
                       void (*fn)(void *opaque, uint32_t slot, uint64_t offset), void *opaque)
{
    uint32_t n = 0;

    for (;; n++) {
        struct kvm_dirty_gfn *gfn = &ring[*next & mask];
        /* ORDER: acquire, with the kernel's release: the flag is written after slot and offset. */
        uint32_t flags = __atomic_load_n(&gfn->flags, __ATOMIC_ACQUIRE);
        if (!(flags & KVM_DIRTY_GFN_F_DIRTY) || (flags & KVM_DIRTY_GFN_F_RESET))
            return n;
        fn(opaque, gfn->slot, gfn->offset);
        /* ORDER: release: the kernel may use the entry again once it sees this. */
        __atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        (*next)++;
    }
}

bool kvm_ring_skip_gap(struct kvm_dirty_gfn *ring, uint32_t mask, uint32_t *next)
{
    uint32_t gap = 0;

    while (gap <= mask && __atomic_load_n(&ring[(*next + gap) & mask].flags, __ATOMIC_ACQUIRE) !=
                              KVM_DIRTY_GFN_F_DIRTY)
        gap++;
    if (gap > mask)
        return false;
    for (; gap > 0; gap--, (*next)++)
        __atomic_store_n(&ring[*next & mask].flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    return true;
}

static void note_page(void *opaque, uint32_t slot, uint64_t offset)
{
    struct cpu_backend *cpu = opaque;

    slot &= UINT16_MAX; /* the upper half numbers address spaces */
    if (cpu->dirty.taken && slot < cpu->n_slots && offset < cpu->slots[slot]->n_pages)
        cpu->dirty.taken[slot][offset / BITMAP_WORD_BITS] |= UINT64_C(1)
                                                             << offset % BITMAP_WORD_BITS;
}

static uint32_t take_once_locked(struct kvm_vcpu *vcpu)
{
    struct cpu_backend *cpu = vcpu->cpu;
    uint32_t n =
        kvm_ring_take(vcpu->ring, cpu->dirty.n_entries - 1, &vcpu->ring_next, note_page, cpu);

    if (n >= cpu->dirty.n_entries) {
        vcpu->is_ring_skewed = true;
        cpu->dirty.has_lost = true;
    }
    return n;
}

/* Takes out what is in the vCPU's ring; in step with the kernel again if it was not. */
static uint32_t take_locked(struct kvm_vcpu *vcpu)
{
    uint32_t mask = vcpu->cpu->dirty.n_entries - 1;
    uint32_t n = take_once_locked(vcpu);

    if (n == 0 && vcpu->is_ring_skewed && kvm_ring_skip_gap(vcpu->ring, mask, &vcpu->ring_next)) {
        vcpu->is_ring_skewed = false;
        vcpu->cpu->dirty.has_lost = true;
        n = take_once_locked(vcpu);
    }
    __atomic_store_n(&vcpu->n_dirtied, vcpu->n_dirtied + n, __ATOMIC_RELAXED);
    return n;
}

/* Protects again what was taken; returns how many entries the kernel took back. A signal ends the
 * call early. */
static uint32_t give_back_once(struct cpu_backend *cpu)
{
    int rc;

    do
        rc = ioctl(cpu->vm_fd, KVM_RESET_DIRTY_RINGS, 0);
    while (rc < 0 && (errno == EINTR || errno == EAGAIN));
    if (rc < 0)
        g_critical("KVM_RESET_DIRTY_RINGS: %s", g_strerror(errno));
    return rc > 0 ? (uint32_t)rc : 0;
}

/* False: the kernel does not take all of n entries back. It begins at its own place in the ring,
 * and that is not where ours began. */
static bool give_back_locked(struct cpu_backend *cpu, uint32_t n)
{
    for (unsigned idle = 0; n > 0 && idle < 3;) {
        uint32_t back = give_back_once(cpu);
        idle = back ? 0 : idle + 1;
        n -= MIN(n, back);
    }
    return n == 0;
}

/* The kernel waits for entries that were overwritten before they were taken: those before ours, as
 * many as it takes until it moves on. */
static void resync_locked(struct kvm_vcpu *vcpu)
{
    uint32_t n_entries = vcpu->cpu->dirty.n_entries;

    for (uint32_t m = 1; m <= n_entries; m++) {
        struct kvm_dirty_gfn *gfn = &vcpu->ring[(vcpu->ring_next - m) & (n_entries - 1)];
        __atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        if (give_back_once(vcpu->cpu) > 0)
            break;
    }
}

/* Writes were lost: every page counts as written, and all are protected again. */
static void recover_locked(struct cpu_backend *cpu)
{
    cpu->dirty.has_lost = false;
    cpu->dirty.n_lost++;
    for (unsigned i = 0; cpu->dirty.taken && i < cpu->n_slots; i++) {
        g_autoptr(GError) error = NULL;
        bitmap_set_range(cpu->dirty.taken[i], 0, cpu->slots[i]->n_pages);
        if (!set_slot_flags(cpu, i, 0, &error) ||
            !set_slot_flags(cpu, i, KVM_MEM_LOG_DIRTY_PAGES, &error))
            g_critical("%s", error->message);
    }
}

/* Returns how many entries there were. */
static uint32_t take_all_locked(struct cpu_backend *cpu)
{
    uint32_t n = 0;

    for (unsigned i = 0; i < cpu->n_vcpus; i++)
        n += take_locked(&cpu->vcpus[i]);
    if (!give_back_locked(cpu, n)) {
        cpu->dirty.has_lost = true;
        for (unsigned i = 0; i < cpu->n_vcpus; i++)
            resync_locked(&cpu->vcpus[i]);
    }
    if (cpu->dirty.has_lost)
        recover_locked(cpu);
    return n;
}

static void take_all(struct cpu_backend *cpu)
{
    pthread_mutex_lock(&cpu->dirty.lock);
    take_all_locked(cpu);
    pthread_mutex_unlock(&cpu->dirty.lock);
}

void kvm_dirty_ring_full(struct kvm_vcpu *vcpu)
{
    struct cpu_backend *cpu = vcpu->cpu;

    __atomic_store_n(&vcpu->n_ring_full, vcpu->n_ring_full + 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&cpu->dirty.lock);
    if (take_all_locked(cpu) == 0) { /* nothing is there, and the kernel says full */
        vcpu->is_ring_skewed = true;
        if (take_all_locked(cpu) == 0) {
            resync_locked(vcpu);
            recover_locked(cpu);
        }
    }
    pthread_mutex_unlock(&cpu->dirty.lock);
}

static bool collect_ring(struct cpu_backend *cpu, unsigned slot, uint64_t *words)
{
    uint64_t *taken = cpu->dirty.taken[slot];

    pthread_mutex_lock(&cpu->dirty.lock);
    for (uint64_t i = 0; i < bitmap_n_words(cpu->slots[slot]->n_pages); i++) {
        if (taken[i]) {
            words[i] |= taken[i];
            taken[i] = 0;
        }
    }
    pthread_mutex_unlock(&cpu->dirty.lock);
    return true;
}

static void free_taken(struct cpu_backend *cpu)
{
    for (unsigned i = 0; cpu->dirty.taken && i < cpu->n_slots; i++)
        g_free(cpu->dirty.taken[i]);
    g_clear_pointer(&cpu->dirty.taken, g_free);
}

/* ---- the producer ---- */

static void log_stop(void *opaque)
{
    struct cpu_backend *cpu = opaque;

    pthread_mutex_lock(&cpu->dirty.lock);
    free_taken(cpu);
    pthread_mutex_unlock(&cpu->dirty.lock);
    for (unsigned i = 0; i < cpu->n_slots; i++) {
        g_autoptr(GError) error = NULL;
        if (!set_slot_flags(cpu, i, 0, &error))
            g_critical("%s", error->message);
    }
    if (cpu->dirty.is_ring)
        take_all(cpu); /* so that the next log does not begin with this one's pages */
}

static void prepare_taken(struct cpu_backend *cpu)
{
    uint64_t **taken = g_new0(uint64_t *, cpu->n_slots);

    for (unsigned i = 0; i < cpu->n_slots; i++)
        taken[i] = g_new0(uint64_t, bitmap_n_words(cpu->slots[i]->n_pages));
    pthread_mutex_lock(&cpu->dirty.lock);
    free_taken(cpu);
    cpu->dirty.taken = taken;
    pthread_mutex_unlock(&cpu->dirty.lock);
}

static bool log_start(void *opaque, GError **error)
{
    struct cpu_backend *cpu = opaque;
    bool ok = true;

    if (cpu->dirty.is_ring)
        prepare_taken(cpu);
    for (unsigned i = 0; ok && i < cpu->n_slots; i++)
        ok = cpu->dirty.is_ring ? set_slot_flags(cpu, i, KVM_MEM_LOG_DIRTY_PAGES, error)
                                : start_bitmap(cpu, i, error);
    if (!ok)
        log_stop(cpu);
    return ok;
}

static void log_barrier(void *opaque)
{
    struct cpu_backend *cpu = opaque;

    if (cpu->dirty.is_ring)
        take_all(cpu);
}

static bool log_collect(void *opaque, struct gw_ram_block *block, uint64_t *words, GError **error)
{
    struct cpu_backend *cpu = opaque;

    for (unsigned i = 0; i < cpu->n_slots; i++)
        if (cpu->slots[i] == block)
            return cpu->dirty.is_ring ? collect_ring(cpu, i, words)
                                      : collect_bitmap(cpu, i, words, error);
    return true; /* not in the guest's address space */
}

void kvm_dirty_attach(struct cpu_backend *cpu)
{
    static const struct gw_dirty_producer producer = {
        .start = log_start, .stop = log_stop, .collect = log_collect, .barrier = log_barrier};

    gw_memory_add_dirty_producer(cpu->config.memory, &producer, cpu);
}

/* ---- construction ---- */

static bool enable(struct cpu_backend *cpu, uint32_t capability, uint64_t argument)
{
    const struct kvm_enable_cap cap = {.cap = capability, .args[0] = argument};
    return ioctl(cpu->vm_fd, KVM_ENABLE_CAP, &cap) == 0;
}

/* The largest ring the kernel gives, up to ours. */
static bool enable_ring(struct cpu_backend *cpu)
{
    uint32_t wanted = KVM_RING_ENTRIES;
    uint32_t capability = KVM_CAP_DIRTY_LOG_RING_ACQ_REL;
    int max_bytes = ioctl(cpu->vm_fd, KVM_CHECK_EXTENSION, (unsigned long)capability);

    if (max_bytes <= 0) {
        capability = KVM_CAP_DIRTY_LOG_RING; /* kernels before 6.1; on x86 the same */
        max_bytes = ioctl(cpu->vm_fd, KVM_CHECK_EXTENSION, (unsigned long)capability);
    }
    if (max_bytes <= 0)
        return false;
    while (wanted * sizeof(struct kvm_dirty_gfn) > (size_t)max_bytes)
        wanted /= 2;
    if (cpu->config.dirty_ring_entries)
        wanted = cpu->config.dirty_ring_entries;
    cpu->dirty.n_entries = wanted;
    return enable(cpu, capability, wanted * sizeof(struct kvm_dirty_gfn));
}

static bool enable_bitmap(struct cpu_backend *cpu)
{
    int offered = ioctl(cpu->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    uint64_t wanted = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;

    if (offered > 0 && (offered & KVM_DIRTY_LOG_INITIALLY_SET))
        wanted |= KVM_DIRTY_LOG_INITIALLY_SET;
    cpu->dirty.is_set_at_start = wanted & KVM_DIRTY_LOG_INITIALLY_SET;
    return offered > 0 && enable(cpu, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, wanted);
}

static void size_bitmap(struct cpu_backend *cpu)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < gw_memory_n_blocks(cpu->config.memory); i++)
        most = MAX(most, gw_memory_block(cpu->config.memory, i)->n_pages);
    cpu->dirty.bitmap_bytes = bitmap_n_words(most) * sizeof(uint64_t);
    cpu->dirty.bitmap = g_malloc0(cpu->dirty.bitmap_bytes);
}

bool kvm_dirty_init(struct cpu_backend *cpu, GError **error)
{
    if (cpu->config.dirty_log == CPU_DIRTY_LOG_RING) {
        cpu->dirty.is_ring = enable_ring(cpu);
        if (!cpu->dirty.is_ring)
            g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                        "this host's KVM lacks dirty rings of %u entries", cpu->dirty.n_entries);
        return cpu->dirty.is_ring;
    }
    size_bitmap(cpu);
    if (enable_bitmap(cpu))
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                "this host's KVM lacks dirty bitmaps that are cleared by hand");
    return false;
}

bool kvm_dirty_add_vcpu(struct kvm_vcpu *vcpu, GError **error)
{
    const struct kvm_dirty *dirty = &vcpu->cpu->dirty;

    if (!dirty->is_ring)
        return true;
    void *ring = mmap(NULL, dirty->n_entries * sizeof *vcpu->ring, PROT_READ | PROT_WRITE,
                      MAP_SHARED, vcpu->fd, KVM_DIRTY_LOG_PAGE_OFFSET * (off_t)GW_PAGE_SIZE);
    if (ring == MAP_FAILED) {
        kvm_set_error(error, "map a vCPU's dirty ring");
        return false;
    }
    vcpu->ring = ring;
    return true;
}

void kvm_dirty_clear(struct cpu_backend *cpu)
{
    for (unsigned i = 0; i < cpu->n_vcpus; i++)
        if (cpu->vcpus[i].ring)
            munmap(cpu->vcpus[i].ring, cpu->dirty.n_entries * sizeof *cpu->vcpus[i].ring);
    free_taken(cpu);
    g_clear_pointer(&cpu->dirty.bitmap, g_free);
    pthread_mutex_destroy(&cpu->dirty.lock);
}
