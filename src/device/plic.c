/* SPDX-License-Identifier: MIT */
/*
 * The PLIC.
 *
 * Model: RISC-V Platform-Level Interrupt Controller Specification 1.0.0, with the register map and
 * 3-bit priorities of the `virt` board. Context 2*h is hart h in M-mode (drives MEIP), 2*h+1 in
 * S-mode (SEIP).
 *
 * Each source has a gateway (SPEC: chapter 2, level-triggered): a high level makes one request
 * (pending); no other is made until a target completes it; a request once made stays when the level
 * falls. Claiming takes the highest priority, lowest number first, whatever the threshold.
 *
 * Locks: dev.lock guards everything; it is the innermost device lock. set_irq of the CPU backend
 * takes none.
 */
#include "device/plic.h"

#include <string.h>

#define N_WORDS        3 /* bits of sources 0..95 */
#define PRIORITY_MASK  7u
#define MAX_CONTEXTS   (2 * PLIC_MAX_HARTS)
#define ENABLE_BASE    0x2000u
#define ENABLE_STRIDE  0x80u
#define PENDING_BASE   0x1000u
#define CONTEXT_BASE   0x200000u
#define CONTEXT_STRIDE 0x1000u

#define LINE_SEIP 9
#define LINE_MEIP 11

struct plic {
    struct device dev;
    /* fixed after construction */
    const struct cpu_backend_ops *cpu_ops;
    struct cpu_backend *cpu;
    uint32_t n_contexts;
    uint32_t n_enable; /* words of enable in use */
    /* guarded by dev.lock; saved */
    uint32_t priority[PLIC_N_SOURCES + 1];
    uint32_t level[N_WORDS]; /* what the devices drive */
    uint32_t pending[N_WORDS];
    uint32_t claimed[N_WORDS];
    uint32_t enable[MAX_CONTEXTS * N_WORDS];
    uint32_t threshold[MAX_CONTEXTS];
    /* guarded by dev.lock; derived: what each hart was told last */
    bool is_asserted[MAX_CONTEXTS];
};

static bool get_bit(const uint32_t *words, unsigned source)
{
    return words[source / 32] >> (source % 32) & 1;
}

static void put_bit(uint32_t *words, unsigned source, bool value)
{
    uint32_t bit = 1u << (source % 32);
    words[source / 32] = value ? words[source / 32] | bit : words[source / 32] & ~bit;
}

/* The best source a context may take: highest priority above `above`, then lowest number; 0: none.
 */
static unsigned best_source(const struct plic *plic, unsigned context, uint32_t above)
{
    unsigned best = 0;
    for (unsigned w = 0; w < N_WORDS; w++) {
        uint32_t bits = plic->pending[w] & plic->enable[context * N_WORDS + w];
        while (bits) {
            unsigned source = 32 * w + (unsigned)__builtin_ctz(bits);
            bits &= bits - 1;
            if (plic->priority[source] > above) {
                above = plic->priority[source];
                best = source;
            }
        }
    }
    return best;
}

static void drive(struct plic *plic, unsigned context, bool level)
{
    plic->is_asserted[context] = level;
    plic->cpu_ops->set_irq(plic->cpu, context / 2, context % 2 ? LINE_SEIP : LINE_MEIP, level);
}

static void update(struct plic *plic)
{
    for (unsigned context = 0; context < plic->n_contexts; context++) {
        bool level = best_source(plic, context, plic->threshold[context]) != 0;
        if (level != plic->is_asserted[context])
            drive(plic, context, level);
    }
}

/* The gateway: a high level makes a request unless one is under way. */
static void gateway(struct plic *plic, unsigned source)
{
    if (get_bit(plic->level, source) && !get_bit(plic->claimed, source))
        put_bit(plic->pending, source, true);
}

static void plic_set_irq(void *opaque, unsigned source, bool level)
{
    struct plic *plic = opaque;
    pthread_mutex_lock(&plic->dev.lock);
    put_bit(plic->level, source, level);
    gateway(plic, source);
    update(plic);
    pthread_mutex_unlock(&plic->dev.lock);
}

static uint32_t claim(struct plic *plic, unsigned context)
{
    unsigned source = best_source(plic, context, 0);
    if (source) {
        put_bit(plic->pending, source, false);
        put_bit(plic->claimed, source, true);
        update(plic);
    }
    return source;
}

static void complete(struct plic *plic, unsigned context, uint32_t source)
{
    /* GUEST: SPEC: chapter 9: a completion that is not of an enabled source is ignored. */
    if (source == 0 || source > PLIC_N_SOURCES ||
        !get_bit(&plic->enable[context * N_WORDS], source))
        return;
    put_bit(plic->claimed, source, false);
    gateway(plic, source);
    update(plic);
}

/* ---- registers ---- */

enum reg { REG_NONE, REG_PRIORITY, REG_PENDING, REG_ENABLE, REG_THRESHOLD, REG_CLAIM };

/* GUEST: turns any offset into a register and an index that is inside the arrays, or REG_NONE. */
static enum reg decode(const struct plic *plic, uint64_t offset, unsigned *index)
{
    if (offset < PENDING_BASE) {
        *index = (unsigned)(offset / 4);
        return *index <= PLIC_N_SOURCES ? REG_PRIORITY : REG_NONE;
    }
    if (offset < ENABLE_BASE) {
        *index = (unsigned)(offset - PENDING_BASE) / 4;
        return *index < N_WORDS ? REG_PENDING : REG_NONE;
    }
    if (offset < CONTEXT_BASE) {
        unsigned context = (unsigned)(offset - ENABLE_BASE) / ENABLE_STRIDE;
        unsigned word = (unsigned)(offset - ENABLE_BASE) % ENABLE_STRIDE / 4;
        *index = context * N_WORDS + word;
        return context < plic->n_contexts && word < N_WORDS ? REG_ENABLE : REG_NONE;
    }
    *index = (unsigned)((offset - CONTEXT_BASE) / CONTEXT_STRIDE);
    if (*index >= plic->n_contexts)
        return REG_NONE;
    switch ((offset - CONTEXT_BASE) % CONTEXT_STRIDE) {
    case 0:
        return REG_THRESHOLD;
    case 4:
        return REG_CLAIM;
    default:
        return REG_NONE;
    }
}

static uint64_t plic_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    struct plic *plic = opaque;
    unsigned index;
    switch (decode(plic, offset, &index)) {
    case REG_PRIORITY:
        return plic->priority[index];
    case REG_PENDING:
        return plic->pending[index];
    case REG_ENABLE:
        return plic->enable[index];
    case REG_THRESHOLD:
        return plic->threshold[index];
    case REG_CLAIM:
        return claim(plic, index);
    case REG_NONE:
        break;
    }
    return 0;
}

static void plic_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct plic *plic = opaque;
    unsigned index;
    switch (decode(plic, offset, &index)) {
    case REG_PRIORITY:
        if (index != 0)
            plic->priority[index] = (uint32_t)value & PRIORITY_MASK;
        break;
    case REG_ENABLE:
        /* Source 0 does not exist. */
        plic->enable[index] = (uint32_t)value & (index % N_WORDS == 0 ? ~1u : ~0u);
        break;
    case REG_THRESHOLD:
        plic->threshold[index] = (uint32_t)value & PRIORITY_MASK;
        break;
    case REG_CLAIM:
        complete(plic, index, (uint32_t)value);
        return;
    case REG_PENDING:
    case REG_NONE:
        return;
    }
    update(plic);
}

static const struct mmio_ops plic_mmio = {
    .read = plic_read, .write = plic_write, .min_size = 4, .max_size = 4};

/* ---- state ---- */

static bool plic_validate(const void *shadow, GError **error)
{
    const struct plic *plic = shadow;
    bool has_source_0 = plic->priority[0] || get_bit(plic->level, 0) || get_bit(plic->pending, 0) ||
                        get_bit(plic->claimed, 0);
    for (unsigned context = 0; context < plic->n_contexts; context++)
        has_source_0 |= get_bit(&plic->enable[context * N_WORDS], 0);
    if (has_source_0)
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG, "source 0 is in use");
    return !has_source_0;
}

static const struct gw_field plic_fields[] = {
    GW_EQUAL_U32(struct plic, n_contexts),
    GW_EQUAL_U32(struct plic, n_enable),
    GW_U32_ARRAY(struct plic, priority, .max = PRIORITY_MASK),
    GW_U32_ARRAY(struct plic, level),
    GW_U32_ARRAY(struct plic, pending),
    GW_U32_ARRAY(struct plic, claimed),
    GW_U32_VARRAY(struct plic, enable, n_enable),
    GW_U32_VARRAY(struct plic, threshold, n_contexts, .max = PRIORITY_MASK),
    GW_FIELDS_END,
};

static const struct gw_state_desc plic_state = {
    .name = "plic",
    .version = 1,
    .object_size = sizeof(struct plic),
    .priority = GW_PRIORITY_IRQCHIP,
    .fields = plic_fields,
    .validate = plic_validate,
};

/* ---- life ---- */

static void plic_reset(struct device *dev)
{
    struct plic *plic = (struct plic *)dev;
    /* level stays: it is the devices' output, and they lower it in their own reset. */
    memset(plic->priority, 0, sizeof plic->priority);
    memset(plic->pending, 0, sizeof plic->pending);
    memset(plic->claimed, 0, sizeof plic->claimed);
    memset(plic->enable, 0, sizeof plic->enable);
    memset(plic->threshold, 0, sizeof plic->threshold);
    for (unsigned context = 0; context < plic->n_contexts; context++)
        drive(plic, context, false);
}

/* Tells every hart its lines, for they may have been loaded or reset. */
static void plic_start(struct device *dev)
{
    struct plic *plic = (struct plic *)dev;
    for (unsigned context = 0; context < plic->n_contexts; context++)
        drive(plic, context, best_source(plic, context, plic->threshold[context]) != 0);
}

static void plic_free(struct device *dev)
{
    device_clear(dev);
    g_free(dev);
}

static const struct device_ops plic_ops = {
    .type = "plic", .reset = plic_reset, .start = plic_start, .free = plic_free};

struct plic *plic_new(const char *id, struct mmio_bus *bus, uint64_t gpa, unsigned n_harts,
                      const struct cpu_backend_ops *cpu_ops, struct cpu_backend *cpu,
                      GError **error)
{
    if (n_harts == 0 || n_harts > PLIC_MAX_HARTS) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG, "%s: %u harts, at most %u", id,
                    n_harts, PLIC_MAX_HARTS);
        return NULL;
    }
    struct plic *plic = g_new0(struct plic, 1);
    device_init(&plic->dev, &plic_ops, id, &plic_state, plic);
    plic->cpu_ops = cpu_ops;
    plic->cpu = cpu;
    plic->n_contexts = 2 * n_harts;
    plic->n_enable = plic->n_contexts * N_WORDS;
    if (!mmio_bus_add(bus, id, &plic->dev, gpa, PLIC_SIZE, &plic_mmio, plic, error)) {
        plic_free(&plic->dev);
        return NULL;
    }
    return plic;
}

struct device *plic_device(struct plic *plic)
{
    return &plic->dev;
}

struct irq_line plic_irq(struct plic *plic, unsigned source)
{
    if (source == 0 || source > PLIC_N_SOURCES)
        return (struct irq_line){0};
    return (struct irq_line){.set = plic_set_irq, .opaque = plic, .number = source};
}
