/* SPDX-License-Identifier: MIT */
/*
 * The cache of decoded code: guest instructions turned into ops, one physical page at a time.
 *
 * Model: each hart has its own cache, so nothing here is locked on the way of execution. A block
 * is a run of ops from an entry point to the first instruction that always leaves (conditional
 * branches are side exits), to the page's end, or to where another block starts. Blocks of one
 * page link to each other directly; everything that leaves the page goes through the fetch TLB,
 * whose entries name the code_page.
 *
 * Code that is written: docs/hart.md, "Self-modifying code", has the whole argument. In short: who
 * decodes a page sets its watched bit and then looks who may hold a fast store right to it; who
 * wants to store sets its bit in write_rights and then looks whether the page is watched. So at
 * least one of the two sees the other. A writer that sees the watched bit clears it and enters the
 * page in the journal, which every hart reads at fence.i. A decoder that sees a writer asks it to
 * drop its right and treats its own decoded page as unsure: it is forgotten at the next fence.i
 * whatever happens.
 *
 * SPEC: unprivileged ISA 20191213, chapter 3 (Zifencei): stores by this hart, and stores by others
 * that are visible to it, are seen by instruction fetches after fence.i.
 */
#include <string.h>
#include <sys/mman.h>

#include "godwit/error.h"

#include "cpu/riscv/decode.h"
#include "cpu/riscv/hart.h"

#define MAX_BLOCK_INSNS 200
#define MAX_BLOCK_OPS   (2 * MAX_BLOCK_INSNS + 8)

/* ---- building ---- */

struct builder {
    struct hart *h;
    struct op *ops;
    uint16_t *offsets;
    uint32_t n_ops;
    unsigned n_insns;
};

static struct op *emit(struct builder *b, enum riscv_handler handler, uint32_t offset)
{
    struct op *op = &b->ops[b->n_ops];
    b->offsets[b->n_ops++] = (uint16_t)offset;
    *op = (struct op){.handler = b->h->cpu->handlers[handler], .n = (uint8_t)b->n_insns};
    return op;
}

static void emit_link(struct builder *b, const struct op *target)
{
    struct op_link link = {.target = target};
    memcpy(&b->ops[b->n_ops], &link, sizeof link);
    b->offsets[b->n_ops++] = 0;
}

static bool writes_f(unsigned handler)
{
    static const uint8_t format[N_HANDLERS] = {
#define INSN(id, mnemonic, match, mask, fmt, kind) [H_##id] = FMT_##fmt,
#define RVC(id, mnemonic, match, mask, fmt, handler)
#define STEP(id)
#include "cpu/riscv/insn.def"
#undef INSN
#undef RVC
#undef STEP
    };
    switch (format[handler]) {
    case FMT_FLOAD:
    case FMT_FR:
    case FMT_FR_RM:
    case FMT_FR1_RM:
    case FMT_FR4_RM:
    case FMT_X_TO_F:
    case FMT_X_TO_F_RM:
        return true;
    default:
        return false;
    }
}

static bool has_rm(unsigned format)
{
    return format == FMT_FR_RM || format == FMT_FR1_RM || format == FMT_FR4_RM ||
           format == FMT_X_TO_F_RM || format == FMT_F_TO_X_RM;
}

/* Conversions whose result is always exact, so that their rounding mode says nothing. */
static bool is_exact(unsigned handler)
{
    return handler == H_fcvt_d_w || handler == H_fcvt_d_wu || handler == H_fcvt_d_s;
}

/* The commonest instructions with constant operands have handlers of their own. */
static enum riscv_handler simplify(const struct decoded *d)
{
    switch (d->handler) {
    case H_addi:
        return d->rd == 0 ? H_nop : d->rs1 == 0 ? H_li : d->imm == 0 ? H_mv : H_addi;
    case H_add:
        return d->rs1 == 0 || d->rs2 == 0 ? H_mv : H_add;
    case H_lui:
        return H_li;
    case H_auipc:
        return H_pc_rel;
    default:
        return d->handler;
    }
}

/* Fence on the host only where the host may reorder: earlier writes against later reads. */
static bool needs_host_fence(const struct decoded *d)
{
#if defined(__x86_64__)
    unsigned before = (unsigned)d->imm >> 4 & 15, after = (unsigned)d->imm & 15;
    return (before & 5) && (after & 10);
#else
    return true;
#endif
}

static int32_t packed_imm(const struct decoded *d, uint32_t word, uint32_t offset)
{
    int32_t next = (int32_t)(offset + d->length);
    switch (d->handler) {
    case H_jal:
        return (int32_t)offset + d->imm;
    case H_jalr:
        return (int32_t)((uint32_t)d->imm << 16) | next;
    case H_auipc:
        return d->imm + (int32_t)offset;
    case H_fence:
        return needs_host_fence(d);
    case H_csrrw:
    case H_csrrs:
    case H_csrrc:
    case H_csrrwi:
    case H_csrrsi:
    case H_csrrci:
        return d->imm << 16 | next;
    default:
        break;
    }
    if (d->kind == KIND_BRANCH) {
        return (int32_t)offset + d->imm;
    }
    if (d->kind == KIND_END) {
        return next;
    }
    return has_rm(d->format) ? (int32_t)word : d->imm;
}

/* Emits the ops of one instruction at the offset. */
static void emit_insn(struct builder *b, const struct decoded *d, uint32_t word, uint32_t offset)
{
    enum riscv_handler handler = simplify(d);
    b->n_insns++;
    if (has_rm(d->format)) {
        if (d->rm == 5 || d->rm == 6) {
            emit(b, H_illegal, offset);
            return;
        }
        if (d->rm != 7 && d->format != FMT_F_TO_X_RM && !is_exact(handler)) {
            handler = H_fp_rm;
        }
    }
    struct op *op = emit(b, handler, offset);
    op->imm = packed_imm(d, word, offset);
    op->rd = d->rd == 0 && !writes_f(d->handler) ? 32 : d->rd;
    if (d->kind == KIND_JUMP) {
        op->link = (uint16_t)(offset + d->length);
    } else {
        op->rs1 = handler == H_mv && d->handler == H_add && d->rs1 == 0 ? d->rs2 : d->rs1;
        op->rs2 = d->rs2;
    }
    if (d->kind == KIND_JUMP || d->kind == KIND_BRANCH) {
        emit_link(b, NULL);
    }
}

static void emit_refetch(struct builder *b, uint32_t offset)
{
    emit(b, H_refetch, offset)->imm = (int32_t)offset;
}

RACES_LIKE_A_GUEST static uint16_t half_at(const uint8_t *host)
{
    uint16_t half;
    memcpy(&half, host, sizeof half);
    return half;
}

/* The instruction at the page's last half-word, whose second half lies in the next virtual page:
 * a straddle step checks that half again at every execution. False: the trap is set. */
static bool build_straddler(struct builder *b, const uint8_t *page, uint64_t page_va)
{
    uint16_t second;
    if (!riscv_code_second_half(b->h, page_va + GW_PAGE_SIZE, &second)) {
        return false;
    }
    uint32_t offset = GW_PAGE_SIZE - 2;
    uint32_t word = half_at(page + offset) | (uint32_t)second << 16;
    struct decoded d;
    riscv_decode(b->h->cpu->decoder, word, &d);
    emit(b, H_straddle, offset)->imm = second;
    emit_insn(b, &d, word, offset);
    if (d.kind == KIND_PLAIN || d.kind == KIND_BRANCH) {
        emit_refetch(b, offset + 4);
    }
    return true;
}

/* Decodes a block into the cache. Returns its first op, 0 with the trap set when not even its
 * first instruction can be fetched. */
static uint32_t build(struct hart *h, struct code_page *page, uint64_t pc)
{
    struct code_cache *code = &h->code;
    struct builder b = {h, code->ops, code->offsets, code->n_ops, 0};
    uint32_t start = code->n_ops;
    for (uint32_t offset = PAGE_OFFSET(pc);;) {
        if (offset >= GW_PAGE_SIZE) {
            emit_refetch(&b, offset);
            break;
        }
        uint32_t known = page->first[offset / 2];
        if (b.n_insns > 0 && (known != 0 || b.n_insns >= MAX_BLOCK_INSNS)) {
            emit(&b, H_follow, offset)->imm = (int32_t)offset;
            emit_link(&b, known != 0 ? &code->ops[known] : NULL);
            break;
        }
        uint32_t word = half_at(page->host + offset);
        if (riscv_insn_length((uint16_t)word) == 4) {
            if (offset == GW_PAGE_SIZE - 2) {
                if (b.n_insns > 0) { /* a block of its own, which may trap */
                    emit_refetch(&b, offset);
                } else if (!build_straddler(&b, page->host, PAGE_BASE(pc))) {
                    return 0;
                }
                break;
            }
            word |= (uint32_t)half_at(page->host + offset + 2) << 16;
        }
        struct decoded d;
        riscv_decode(h->cpu->decoder, word, &d);
        emit_insn(&b, &d, word, offset);
        offset += d.length;
        if (d.kind == KIND_JUMP || d.kind == KIND_END) {
            break;
        }
    }
    code->n_ops = b.n_ops;
    page->first[PAGE_OFFSET(pc) / 2] = start;
    return start;
}

const struct op *riscv_code_single(struct hart *h, uint64_t pc)
{
    struct code_cache *code = &h->code;
    struct fetch_place place;
    uint32_t offset = PAGE_OFFSET(pc);
    uint16_t second;
    if (!riscv_translate_fetch(h, pc, 2, &place)) {
        return NULL;
    }
    uint32_t word = half_at(place.host);
    if (riscv_insn_length((uint16_t)word) == 4) {
        if (!riscv_code_second_half(h, pc + 2, &second)) {
            return NULL;
        }
        word |= (uint32_t)second << 16;
    }
    struct builder b = {h, code->single, code->single_offsets, 0, 0};
    struct decoded d;
    riscv_decode(h->cpu->decoder, word, &d);
    emit_insn(&b, &d, word, offset);
    emit_refetch(&b, offset + d.length);
    return code->single;
}

bool riscv_code_second_half(struct hart *h, uint64_t va, uint16_t *half)
{
    struct fetch_place place;
    if (!riscv_translate_fetch(h, va, 2, &place)) {
        return false;
    }
    *half = half_at(place.host);
    return true;
}

/* ---- pages ---- */

static unsigned hash_of(uint64_t page_gpa)
{
    return (unsigned)((page_gpa >> GW_PAGE_SHIFT) % CODE_HASH_SIZE);
}

static struct code_page *known_page(struct hart *h, uint64_t page_gpa)
{
    for (struct code_page *p = h->code.hash[hash_of(page_gpa)]; p != NULL; p = p->next) {
        if (p->gpa == page_gpa) {
            return p;
        }
    }
    return NULL;
}

static void forget(struct code_page *page)
{
    memset(page->first, 0, sizeof page->first);
    page->is_watched = false;
}

void riscv_code_flush(struct hart *h)
{
    struct code_cache *code = &h->code;
    code->n_ops = 1;
    code->n_pages = 0;
    code->n_unsure = 0;
    code->generation++;
    memset(code->hash, 0, sizeof code->hash);
    riscv_flush_all(h); /* fetch entries name code pages */
}

static struct code_page *page_of(struct hart *h, const struct fetch_place *place)
{
    struct code_cache *code = &h->code;
    uint64_t gpa = PAGE_BASE(place->gpa);
    struct code_page *page = known_page(h, gpa);
    if (page != NULL) {
        return page;
    }
    if (code->n_pages == CODE_MAX_PAGES) {
        riscv_code_flush(h);
    }
    page = &code->pages[code->n_pages++];
    page->gpa = gpa;
    page->ram = place->ram;
    page->index = (gpa - h->cpu->ram[place->ram]->gpa) >> GW_PAGE_SHIFT;
    page->host = place->host - PAGE_OFFSET(place->gpa);
    page->next = code->hash[hash_of(gpa)];
    code->hash[hash_of(gpa)] = page;
    forget(page);
    return page;
}

/* ---- writes to code ---- */

static void request_evict(struct hart *h, uint8_t holders, uint64_t page_gpa)
{
    struct riscv_soft *cpu = h->cpu;
    for (unsigned i = 0; i < cpu->n_harts; i++) {
        struct hart *other = &cpu->harts[i];
        if (other == h || !(holders >> i & 1)) {
            continue;
        }
        pthread_mutex_lock(&cpu->code_lock);
        if (other->n_evict < EVICT_MAX) {
            other->evict[other->n_evict] = page_gpa;
        }
        other->n_evict = MIN(other->n_evict + 1, EVICT_MAX + 1);
        pthread_mutex_unlock(&cpu->code_lock);
        riscv_raise(other, PENDING_EVICT);
    }
}

static void mark_unsure(struct hart *h, struct code_page *page)
{
    struct code_cache *code = &h->code;
    if (code->n_unsure < CODE_MAX_UNSURE) {
        code->unsure[code->n_unsure] = page;
    }
    code->n_unsure = MIN(code->n_unsure + 1, CODE_MAX_UNSURE + 1);
}

/* ORDER: the watched bit is set before write_rights is read, both sequentially consistent; partner:
 * riscv_code_before_store. */
static void watch_page(struct hart *h, struct code_page *page)
{
    struct riscv_soft *cpu = h->cpu;
    struct gw_ram_block *block = cpu->ram[page->ram];
    uint8_t *rights = &cpu->write_rights[page->ram][page->index];
    uint8_t self = (uint8_t)(1u << h->id);
    __atomic_fetch_or(&block->watched[page->index / 64], UINT64_C(1) << (page->index % 64),
                      __ATOMIC_SEQ_CST);
    uint8_t holders = __atomic_load_n(rights, __ATOMIC_SEQ_CST);
    if (holders & self) {
        riscv_drop_store_right_to(h, page->host);
        holders = __atomic_and_fetch(rights, (uint8_t)~self, __ATOMIC_SEQ_CST);
    }
    if (holders != 0) {
        mark_unsure(h, page);
        request_evict(h, holders, page->gpa);
    }
    page->is_watched = true;
}

void riscv_code_evict(struct hart *h)
{
    struct riscv_soft *cpu = h->cpu;
    uint64_t pages[EVICT_MAX];
    pthread_mutex_lock(&cpu->code_lock);
    unsigned n = h->n_evict;
    memcpy(pages, h->evict, MIN(n, EVICT_MAX) * sizeof pages[0]);
    h->n_evict = 0;
    pthread_mutex_unlock(&cpu->code_lock);
    if (n > EVICT_MAX) {
        riscv_drop_store_rights(h);
        return; /* the bits in write_rights stay; they only say "may hold" */
    }
    for (unsigned i = 0; i < n; i++) {
        for (unsigned r = 0; r < cpu->n_ram; r++) {
            struct gw_ram_block *ram = cpu->ram[r];
            if (pages[i] - ram->gpa >= ram->size_bytes) {
                continue;
            }
            riscv_drop_store_right_to(h, ram->host + (pages[i] - ram->gpa));
            /* ORDER: release; the stores made with the right come before. */
            __atomic_and_fetch(&cpu->write_rights[r][(pages[i] - ram->gpa) >> GW_PAGE_SHIFT],
                               (uint8_t) ~(1u << h->id), __ATOMIC_SEQ_CST);
        }
    }
}

void riscv_code_before_store(struct hart *h, unsigned ram, uint64_t page)
{
    struct riscv_soft *cpu = h->cpu;
    struct gw_ram_block *block = cpu->ram[ram];
    uint64_t bit = UINT64_C(1) << (page % 64);
    /* The log's bit comes before the store: godwit/memory.h, ORDER. A bit that is set already may
     * be taken before our store, but then the page is in the taken set and the barrier waits for
     * us before it is read. Of several harts that find it clear, one has set it, and counts it.
     * ORDER: the count is relaxed, with one writer; it says nothing about other data. */
    if (gw_memory_is_logging(cpu->config.memory) &&
        !(__atomic_load_n(&block->write_log[page / 64], __ATOMIC_RELAXED) & bit) &&
        gw_memory_log_page_first(block, page)) {
        __atomic_store_n(&h->n_dirtied, h->n_dirtied + 1, __ATOMIC_RELAXED);
    }
    /* ORDER: our bit in write_rights is set before the watched bit is read, partner: watch_page.
     * Only we clear our bit, so when it is set already, any later decoder will ask us to evict. */
    uint8_t *rights = &cpu->write_rights[ram][page];
    uint8_t self = (uint8_t)(1u << h->id);
    if (!(__atomic_load_n(rights, __ATOMIC_RELAXED) & self)) {
        __atomic_fetch_or(rights, self, __ATOMIC_SEQ_CST);
    }
    uint64_t *watched = &block->watched[page / 64];
    if ((__atomic_load_n(watched, __ATOMIC_SEQ_CST) & bit) &&
        (__atomic_fetch_and(watched, ~bit, __ATOMIC_SEQ_CST) & bit)) {
        riscv_code_written(cpu, block, page);
    }
}

void riscv_code_written(void *opaque, struct gw_ram_block *block, uint64_t page)
{
    struct riscv_soft *cpu = opaque;
    pthread_mutex_lock(&cpu->code_lock);
    uint64_t head = cpu->journal_head;
    cpu->journal[head % JOURNAL_SIZE] = block->gpa + (page << GW_PAGE_SHIFT);
    __atomic_store_n(&cpu->journal_head, head + 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&cpu->code_lock);
}

static void read_journal(struct hart *h)
{
    struct riscv_soft *cpu = h->cpu;
    struct code_cache *code = &h->code;
    pthread_mutex_lock(&cpu->code_lock);
    uint64_t head = cpu->journal_head;
    bool has_lost = head - code->journal_read > JOURNAL_SIZE;
    for (uint64_t i = code->journal_read; !has_lost && i < head; i++) {
        struct code_page *page = known_page(h, cpu->journal[i % JOURNAL_SIZE]);
        if (page != NULL) {
            forget(page);
        }
    }
    code->journal_read = head;
    pthread_mutex_unlock(&cpu->code_lock);
    if (has_lost) {
        riscv_code_flush(h);
    }
}

void riscv_code_fence(struct hart *h)
{
    struct code_cache *code = &h->code;
    if (code->n_unsure > CODE_MAX_UNSURE) {
        riscv_code_flush(h);
    }
    for (unsigned i = 0; i < code->n_unsure; i++) {
        forget(code->unsure[i]);
    }
    code->n_unsure = 0;
    if (__atomic_load_n(&h->cpu->journal_head, __ATOMIC_ACQUIRE) != code->journal_read) {
        read_journal(h);
    }
}

/* ---- finding ---- */

static const struct op *trace_one(struct hart *h, uint64_t pc)
{
    const struct riscv_trace *trace = h->cpu->trace;
    const struct op *op = riscv_code_single(h, pc);
    if (op != NULL) {
        trace->insn(trace->opaque, h->id, pc, riscv_code_fetch_word(h, pc));
    }
    return op;
}

const struct op *riscv_code_find(struct hart *h, uint64_t pc)
{
    if (h->cpu->trace != NULL && h->cpu->trace->insn != NULL) {
        return trace_one(h, pc); /* and the fetch TLB stays empty, so that all come here */
    }
    struct code_cache *code = &h->code;
    if (code->n_ops + MAX_BLOCK_OPS > CODE_MAX_OPS) {
        riscv_code_flush(h);
    }
    struct fetch_entry *entry = &h->fetch->entry[(pc >> GW_PAGE_SHIFT) % TLB_SIZE];
    if (entry->tag != PAGE_BASE(pc)) {
        struct fetch_place place;
        if (!riscv_translate_fetch(h, pc, 2, &place)) {
            return NULL;
        }
        if (!place.may_be_cached) {
            return riscv_code_single(h, pc);
        }
        struct code_page *page = page_of(h, &place); /* may flush */
        entry->tag = PAGE_BASE(pc);
        entry->page = page;
        h->space->has_fetch[h->s.priv & 1] = true;
    }
    uint32_t first = entry->page->first[PAGE_OFFSET(pc) / 2];
    if (first == 0) {
        if (!entry->page->is_watched) {
            watch_page(h, entry->page);
        }
        first = build(h, entry->page, pc);
    }
    return first == 0 ? NULL : &code->ops[first];
}

static bool is_cached_op(const struct code_cache *code, const struct op *op)
{
    return op >= code->ops && op < code->ops + CODE_MAX_OPS;
}

const struct op *riscv_code_link(struct hart *h, const struct op *from, uint64_t pc)
{
    struct code_cache *code = &h->code;
    uint64_t generation = code->generation;
    bool may_link = is_cached_op(code, from) &&
                    h->fetch->entry[(pc >> GW_PAGE_SHIFT) % TLB_SIZE].tag == PAGE_BASE(pc);
    const struct op *target = riscv_code_find(h, pc);
    if (target != NULL && may_link && code->generation == generation &&
        is_cached_op(code, target)) {
        struct op_link link = {.target = target};
        memcpy(&code->ops[from - code->ops + 1], &link, sizeof link);
    }
    return target;
}

uint16_t riscv_code_offset(const struct hart *h, const struct op *op)
{
    const struct code_cache *code = &h->code;
    return is_cached_op(code, op) ? code->offsets[op - code->ops]
                                  : code->single_offsets[op - code->single];
}

uint32_t riscv_code_fetch_word(struct hart *h, uint64_t pc)
{
    uint16_t first, second = 0;
    if (!riscv_code_second_half(h, pc, &first)) {
        return 0;
    }
    if (riscv_insn_length(first) == 4 && !riscv_code_second_half(h, pc + 2, &second)) {
        return first;
    }
    return first | (uint32_t)second << 16;
}

/* ---- life ---- */

/* What a guest that has just arrived decodes in its first milliseconds: touched one page after the
 * other, in a blackout, this memory would cost a quarter of it. */
#define WARM_OPS   (40u << 10)
#define WARM_PAGES 160u

/* Memory for n things, of which the first n_warm are present at once. */
static void *map_table(size_t n, size_t each_bytes, size_t n_warm)
{
    void *table = mmap(NULL, n * each_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED) {
        return NULL;
    }
    /* An older kernel refuses: then it comes when it is needed. */
    madvise(table, n_warm * each_bytes, MADV_POPULATE_WRITE);
    return table;
}

bool riscv_code_init(struct hart *h, GError **error)
{
    struct code_cache *code = &h->code;
    code->ops = map_table(CODE_MAX_OPS, sizeof *code->ops, WARM_OPS);
    code->offsets = map_table(CODE_MAX_OPS, sizeof *code->offsets, WARM_OPS);
    code->pages = map_table(CODE_MAX_PAGES, sizeof *code->pages, WARM_PAGES);
    if (code->ops == NULL || code->offsets == NULL || code->pages == NULL) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "no memory for the code cache of hart %u", h->id);
        riscv_code_clear(h);
        return false;
    }
    code->n_ops = 1;
    return true;
}

static void unmap_table(void *table, size_t n, size_t each_bytes)
{
    if (table != NULL) {
        munmap(table, n * each_bytes);
    }
}

void riscv_code_clear(struct hart *h)
{
    struct code_cache *code = &h->code;
    unmap_table(code->ops, CODE_MAX_OPS, sizeof *code->ops);
    unmap_table(code->offsets, CODE_MAX_OPS, sizeof *code->offsets);
    unmap_table(code->pages, CODE_MAX_PAGES, sizeof *code->pages);
    code->ops = NULL;
    code->offsets = NULL;
    code->pages = NULL;
}
