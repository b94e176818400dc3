/* SPDX-License-Identifier: MIT */
/*
 * cpu_riscv_soft: the software harts behind the interface every machine uses (cpu/backend.h).
 */
#include <string.h>
#include <sys/mman.h>

#include "godwit/error.h"

#include "cpu/riscv/decode.h"
#include "cpu/riscv/hart.h"

struct cpu_backend {
    struct riscv_soft soft;
};

static void backend_free(struct cpu_backend *cpu);

/* ---- dirty log ---- */

static bool log_start(void *opaque, GError **error)
{
    riscv_drop_all_rights(opaque);
    return true;
}

static void log_barrier(void *opaque)
{
    riscv_drop_all_rights(opaque);
}

static const struct gw_dirty_producer dirty_producer = {
    .start = log_start,
    .barrier = log_barrier,
};

/* ---- life ---- */

static bool take_memory(struct riscv_soft *cpu, GError **error)
{
    struct gw_memory *memory = cpu->config.memory;
    for (uint32_t i = 0; i < gw_memory_n_blocks(memory); i++) {
        struct gw_ram_block *block = gw_memory_block(memory, i);
        if (block->gpa == GW_GPA_NONE) {
            continue;
        }
        if (cpu->n_ram == G_N_ELEMENTS(cpu->ram)) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "more than %u RAM blocks",
                        (unsigned)G_N_ELEMENTS(cpu->ram));
            return false;
        }
        /* Sparse: a byte per page of which only those of pages that are stored to are touched. */
        void *rights = mmap(NULL, block->n_pages, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (rights == MAP_FAILED) {
            g_set_error(error, GW_ERROR, GW_ERROR_IO,
                        "no memory for the write rights of RAM block %s", block->name);
            return false;
        }
        cpu->ram[cpu->n_ram] = block;
        cpu->write_rights[cpu->n_ram++] = rights;
    }
    return true;
}

static struct cpu_backend *backend_create(const struct cpu_config *config, GError **error)
{
    if (config->n_vcpus < 1 || config->n_vcpus > RISCV_MAX_HARTS) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%u harts: there can be 1 to %u",
                    config->n_vcpus, RISCV_MAX_HARTS);
        return NULL;
    }
    if (config->model || config->dirty_log != CPU_DIRTY_LOG_AUTO) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "software harts have one %s only",
                    config->model ? "model" : "dirty log");
        return NULL;
    }
    struct cpu_backend *backend = g_new0(struct cpu_backend, 1);
    struct riscv_soft *cpu = &backend->soft;
    cpu->config = *config;
    cpu->handlers = riscv_exec_handlers();
    cpu->decoder = riscv_decoder_new();
    pthread_mutex_init(&cpu->code_lock, NULL);
    pthread_mutex_init(&cpu->run_lock, NULL);
    pthread_cond_init(&cpu->run_cond, NULL);
    pthread_cond_init(&cpu->parked_cond, NULL);
    cpu->harts = g_new0(struct hart, config->n_vcpus);
    bool is_ok = take_memory(cpu, error);
    for (unsigned i = 0; is_ok && i < config->n_vcpus; i++) {
        struct hart *h = &cpu->harts[i];
        h->cpu = cpu;
        h->id = i;
        cpu_throttle_init(&h->throttle);
        riscv_hart_state_reset(&h->s);
        riscv_mmu_init(h);
        is_ok = riscv_code_init(h, error);
        cpu->n_harts++;
    }
    if (!is_ok || !riscv_threads_start(cpu, error)) {
        backend_free(backend);
        return NULL;
    }
    gw_memory_add_write_watch(config->memory, riscv_code_written, cpu);
    gw_memory_add_dirty_producer(config->memory, &dirty_producer, cpu);
    return backend;
}

static void backend_free(struct cpu_backend *backend)
{
    if (backend == NULL) {
        return;
    }
    struct riscv_soft *cpu = &backend->soft;
    riscv_threads_end(cpu);
    for (unsigned i = 0; i < cpu->n_harts; i++) {
        riscv_code_clear(&cpu->harts[i]);
        riscv_mmu_clear(&cpu->harts[i]);
    }
    for (unsigned i = 0; i < cpu->n_ram; i++) {
        munmap(cpu->write_rights[i], cpu->ram[i]->n_pages);
    }
    pthread_cond_destroy(&cpu->parked_cond);
    pthread_cond_destroy(&cpu->run_cond);
    pthread_mutex_destroy(&cpu->run_lock);
    pthread_mutex_destroy(&cpu->code_lock);
    riscv_decoder_free(cpu->decoder);
    g_free(cpu->harts);
    g_free(backend);
}

static void backend_start(struct cpu_backend *backend)
{
    riscv_run(&backend->soft);
}

static void backend_stop(struct cpu_backend *backend)
{
    riscv_stop(&backend->soft);
}

static void backend_reset(struct cpu_backend *backend)
{
    for (unsigned i = 0; i < backend->soft.n_harts; i++) {
        struct riscv_hart_state *s = &backend->soft.harts[i].s;
        uint64_t lines = __atomic_load_n(&s->lines, __ATOMIC_SEQ_CST); /* the devices' */
        riscv_hart_state_reset(s);
        __atomic_store_n(&s->lines, lines, __ATOMIC_SEQ_CST);
    }
}

static void backend_set_entry(struct cpu_backend *backend, unsigned vcpu, uint64_t pc,
                              uint64_t arg0, uint64_t arg1)
{
    struct riscv_hart_state *s = &backend->soft.harts[vcpu].s;
    s->pc = pc;
    s->x[10] = arg0;
    s->x[11] = arg1;
}

/* ---- lines ---- */

static void backend_set_irq(struct cpu_backend *backend, unsigned vcpu, unsigned line, bool level)
{
    struct hart *h = &backend->soft.harts[vcpu];
    uint64_t bit = IRQ_BIT(line) & MIP_LINES;
    if (level) {
        __atomic_fetch_or(&h->s.lines, bit, __ATOMIC_SEQ_CST);
    } else {
        __atomic_fetch_and(&h->s.lines, ~bit, __ATOMIC_SEQ_CST);
    }
    riscv_raise(h, PENDING_IRQ);
}

static void backend_set_timer(struct cpu_backend *backend, unsigned vcpu, uint64_t deadline_ticks)
{
    struct hart *h = &backend->soft.harts[vcpu];
    __atomic_store_n(&h->s.mtimecmp, deadline_ticks, __ATOMIC_SEQ_CST);
    riscv_raise(h, PENDING_IRQ);
}

static uint64_t backend_get_timer(struct cpu_backend *backend, unsigned vcpu)
{
    return __atomic_load_n(&backend->soft.harts[vcpu].s.mtimecmp, __ATOMIC_SEQ_CST);
}

void riscv_set_trace(struct cpu_backend *backend, const struct riscv_trace *trace)
{
    backend->soft.trace = trace;
}

struct riscv_hart_state *riscv_state_of(struct cpu_backend *backend, unsigned vcpu)
{
    return &backend->soft.harts[vcpu].s;
}

/* ---- what others ask ---- */

static bool backend_add_state(struct cpu_backend *backend, struct gw_state_registry *registry,
                              GError **error)
{
    for (unsigned i = 0; i < backend->soft.n_harts; i++) {
        char id[32];
        g_snprintf(id, sizeof id, "hart/%u", i);
        if (!gw_state_registry_add(registry, id, &riscv_hart_state_desc, &backend->soft.harts[i].s,
                                   error)) {
            return false;
        }
    }
    return true;
}

static const char *const *backend_features(const struct cpu_backend *backend)
{
    static const char *const features[] = {
        "rv64i", "m",   "a",      "f",     "d",           "c",    "zicsr", "zifencei",
        "s",     "u",   "zicntr", "zihpm", "zihintpause", "sstc", "svadu", "zba",
        "zbb",   "zbs", "sv39",   "sv48",  "pmp16",       NULL};
    return features;
}

static void backend_get_stats(const struct cpu_backend *backend, unsigned vcpu,
                              struct cpu_stats *stats)
{
    struct hart *h = &backend->soft.harts[vcpu];
    stats->instructions = __atomic_load_n(&h->retired, __ATOMIC_RELAXED);
    stats->exits = __atomic_load_n(&h->n_exits, __ATOMIC_RELAXED);
    stats->wfi_ns = __atomic_load_n(&h->wfi_ns, __ATOMIC_RELAXED);
    stats->is_dirtied_known = true;
    stats->dirtied_pages = __atomic_load_n(&h->n_dirtied, __ATOMIC_RELAXED);
    stats->throttle_permille = cpu_throttle_get(&h->throttle);
    stats->throttled_ns = __atomic_load_n(&h->throttle.paused_ns, __ATOMIC_RELAXED);
    stats->throttled_slices = __atomic_load_n(&h->throttle.n_pauses, __ATOMIC_RELAXED);
    riscv_raise(h, PENDING_COUNT); /* so that the next answer is fresh */
}

static void backend_set_throttle(struct cpu_backend *backend, unsigned vcpu, unsigned permille)
{
    struct hart *h = &backend->soft.harts[vcpu];
    if (cpu_throttle_set(&h->throttle, permille)) {
        riscv_raise(h, PENDING_PAUSE);
    }
}

const struct cpu_backend_ops cpu_riscv_soft = {
    .name = "riscv-soft",
    .vcpu_name = "hart",
    .create = backend_create,
    .free = backend_free,
    .start = backend_start,
    .stop = backend_stop,
    .reset = backend_reset,
    .set_entry = backend_set_entry,
    .set_irq = backend_set_irq,
    .set_timer = backend_set_timer,
    .get_timer = backend_get_timer,
    .add_state = backend_add_state,
    .set_throttle = backend_set_throttle,
    .features = backend_features,
    .get_stats = backend_get_stats,
};
