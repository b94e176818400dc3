/* SPDX-License-Identifier: MIT */
/*
 * Address translation: page walks, the software TLBs and every access that misses them.
 *
 * Model: Sv39 and Sv48 with 4 KiB entries in the TLBs. A and D bits are Svade's: an access to a
 * leaf without A, or a store to one without D, is a page fault, unless menvcfg.ADUE hands the
 * updating to the hart (Svadu).
 *
 * TLBs: one table per (satp value, effective privilege with SUM and MXR), so that traps, SUM
 * windows and returns to an earlier satp flush nothing: they only select another table. Four satp
 * values are remembered. An entry exists only for pages of RAM whose PMP permissions are the same
 * for all bytes.
 *
 * Store rights: the store tag of an entry means "may be written without telling anyone". See
 * riscv_code_before_store for what is done once instead, and docs/hart.md for the argument.
 *
 * SPEC: privileged ISA 1.12, 4.3-4.5; Svadu 1.0.
 */
#include <string.h>

#include "cpu/riscv/fp.h"
#include "cpu/riscv/hart.h"

#define PTE_V        UINT64_C(0x01)
#define PTE_R        UINT64_C(0x02)
#define PTE_W        UINT64_C(0x04)
#define PTE_X        UINT64_C(0x08)
#define PTE_U        UINT64_C(0x10)
#define PTE_A        UINT64_C(0x40)
#define PTE_D        UINT64_C(0x80)
#define PTE_RESERVED (UINT64_C(0x3ff) << 54) /* N, PBMT and the rest: none of them exists here */
#define PTE_PPN(pte) (((pte) >> 10) & ((UINT64_C(1) << 44) - 1))

#define GPA_BITS 56

static const uint8_t page_fault_of[] = {CAUSE_LOAD_PAGE, CAUSE_STORE_PAGE, CAUSE_FETCH_PAGE};
static const uint8_t access_fault_of[] = {CAUSE_LOAD_ACCESS, CAUSE_STORE_ACCESS,
                                          CAUSE_FETCH_ACCESS};
static const uint8_t pmp_perm_of[] = {PMP_R, PMP_W, PMP_X};

/* Where a piece of an access within one page lies. */
struct place {
    uint64_t gpa;
    uint8_t *host;       /* NULL: not RAM */
    unsigned ram;        /* index of the block */
    bool may_be_cached;  /* the whole page has the permission the access needs */
    unsigned leaf_level; /* 0: a page, 1: 2 MiB ... */
};

static struct gw_ram_block *find_ram(const struct riscv_soft *cpu, uint64_t gpa, unsigned *index)
{
    for (unsigned i = 0; i < cpu->n_ram; i++) {
        struct gw_ram_block *ram = cpu->ram[i];
        if (gpa - ram->gpa < ram->size_bytes) {
            *index = i;
            return ram;
        }
    }
    return NULL;
}

/* ---- walks ---- */

struct walk {
    uint64_t va;
    enum access access;
    unsigned priv; /* PRIV_U or PRIV_S */
    bool sum, mxr;
};

static bool leaf_permits(const struct walk *w, uint64_t pte)
{
    if (w->priv == PRIV_U && !(pte & PTE_U)) {
        return false;
    }
    if (w->priv == PRIV_S && (pte & PTE_U) && (w->access == ACCESS_FETCH || !w->sum)) {
        return false;
    }
    switch (w->access) {
    case ACCESS_LOAD:
        return (pte & PTE_R) || (w->mxr && (pte & PTE_X));
    case ACCESS_STORE:
        return (pte & PTE_W) != 0;
    default:
        return (pte & PTE_X) != 0;
    }
}

/* Sets A (and D for a store) in the PTE at its place. False: the PTE changed, walk again. */
static bool update_pte(struct hart *h, unsigned ram, uint64_t *slot, uint64_t pte, uint64_t wanted)
{
    struct gw_ram_block *block = h->cpu->ram[ram];
    uint64_t page = (uint64_t)((uint8_t *)slot - block->host) >> GW_PAGE_SHIFT;
    riscv_code_before_store(h, ram, page);
    return __atomic_compare_exchange_n(slot, &pte, wanted, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

/* Returns 0 or the exception's cause. */
static unsigned walk_once(struct hart *h, const struct walk *w, struct place *out, bool *again)
{
    uint64_t satp = h->s.satp;
    unsigned levels = SATP_MODE(satp) == SATP_SV48 ? 4 : 3;
    unsigned va_bits = 12 + 9 * levels;
    if ((uint64_t)((int64_t)(w->va << (64 - va_bits)) >> (64 - va_bits)) != w->va) {
        return page_fault_of[w->access];
    }
    uint64_t table = SATP_PPN(satp) << GW_PAGE_SHIFT;
    for (unsigned level = levels; level-- > 0;) {
        unsigned shift = GW_PAGE_SHIFT + 9 * level;
        uint64_t pte_gpa = table + ((w->va >> shift) & 511) * 8;
        unsigned ram;
        struct gw_ram_block *block = find_ram(h->cpu, pte_gpa, &ram);
        if (block == NULL || !riscv_pmp_allows(h, pte_gpa, 8, PMP_R, PRIV_S)) {
            return access_fault_of[w->access];
        }
        uint64_t *slot = (uint64_t *)(block->host + (pte_gpa - block->gpa));
        uint64_t pte = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
        if (!(pte & PTE_V) || (pte & (PTE_R | PTE_W)) == PTE_W || (pte & PTE_RESERVED)) {
            return page_fault_of[w->access];
        }
        if (!(pte & (PTE_R | PTE_X))) {
            if (pte & (PTE_U | PTE_A | PTE_D)) {
                return page_fault_of[w->access];
            }
            table = PTE_PPN(pte) << GW_PAGE_SHIFT;
            continue;
        }
        uint64_t low = (UINT64_C(1) << shift) - 1;
        uint64_t base = PTE_PPN(pte) << GW_PAGE_SHIFT;
        uint64_t wanted = pte | PTE_A | (w->access == ACCESS_STORE ? PTE_D : 0);
        if (!leaf_permits(w, pte) || (base & low)) {
            return page_fault_of[w->access];
        }
        if (wanted != pte) {
            if (!(h->s.menvcfg & MENVCFG_ADUE)) {
                return page_fault_of[w->access];
            }
            if (!riscv_pmp_allows(h, pte_gpa, 8, PMP_W, PRIV_S)) {
                return access_fault_of[w->access];
            }
            if (!update_pte(h, ram, slot, pte, wanted)) {
                *again = true;
                return 0;
            }
        }
        out->gpa = base | (w->va & low);
        out->leaf_level = level;
        return 0;
    }
    return page_fault_of[w->access];
}

/* Translates and checks a piece that lies within one page; sets the trap on failure. */
static bool find_place(struct hart *h, uint64_t va, uint64_t len, enum access access,
                       struct place *out)
{
    unsigned priv = h->s.priv;
    if (access != ACCESS_FETCH && (h->s.mstatus & MSTATUS_MPRV)) {
        priv = (h->s.mstatus & MSTATUS_MPP) >> 11;
    }
    out->gpa = va;
    out->leaf_level = 0;
    if (priv != PRIV_M && SATP_MODE(h->s.satp) != SATP_BARE) {
        struct walk w = {va, access, priv, (h->s.mstatus & MSTATUS_SUM) != 0,
                         (h->s.mstatus & MSTATUS_MXR) != 0};
        unsigned cause;
        bool again;
        do {
            again = false;
            cause = walk_once(h, &w, out, &again);
        } while (again);
        if (cause != 0) {
            return riscv_fail(h, cause, va);
        }
    }
    if (out->gpa >> GPA_BITS) {
        return riscv_fail(h, access_fault_of[access], va);
    }
    unsigned perms = riscv_pmp_page(h, PAGE_BASE(out->gpa), priv);
    uint8_t needed = pmp_perm_of[access];
    out->may_be_cached = perms != PMP_MIXED;
    if (perms == PMP_MIXED ? !riscv_pmp_allows(h, out->gpa, len, needed, priv)
                           : !(perms & needed)) {
        return riscv_fail(h, access_fault_of[access], va);
    }
    struct gw_ram_block *block = find_ram(h->cpu, out->gpa, &out->ram);
    out->host = block == NULL ? NULL : block->host + (out->gpa - block->gpa);
    return true;
}

/* ---- tables ---- */

static void flush_view(struct tlb *tlb)
{
    memset(tlb, 0xff, sizeof *tlb);
}

static void flush_space(struct space *space)
{
    for (unsigned i = 0; i < N_VIEWS; i++) {
        if (space->has_view[i]) {
            flush_view(&space->view[i]);
        }
        space->has_view[i] = false;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (space->has_fetch[i]) {
            memset(&space->fetch[i], 0xff, sizeof space->fetch[i]);
        }
        space->has_fetch[i] = false;
    }
    memset(space->large, 0, sizeof space->large);
}

void riscv_mmu_init(struct hart *h)
{
    h->spaces = g_new0(struct space, N_SPACES);
    h->machine_space = g_new0(struct machine_space, 1);
    for (unsigned i = 0; i < N_SPACES; i++) {
        memset(h->spaces[i].has_view, 1, sizeof h->spaces[i].has_view);
        memset(h->spaces[i].has_fetch, 1, sizeof h->spaces[i].has_fetch);
    }
    riscv_flush_all(h);
}

void riscv_mmu_clear(struct hart *h)
{
    g_clear_pointer(&h->spaces, g_free);
    g_clear_pointer(&h->machine_space, g_free);
}

void riscv_flush_all(struct hart *h)
{
    for (unsigned i = 0; i < N_SPACES; i++) {
        flush_space(&h->spaces[i]);
    }
    flush_view(&h->machine_space->view);
    memset(&h->machine_space->fetch, 0xff, sizeof h->machine_space->fetch);
}

static struct space *space_of(struct hart *h, uint64_t satp)
{
    struct space *oldest = &h->spaces[0];
    for (unsigned i = 0; i < N_SPACES; i++) {
        struct space *space = &h->spaces[i];
        if (space->is_used && space->satp == satp) {
            space->last_used = ++h->space_clock;
            return space;
        }
        if (!space->is_used || (oldest->is_used && space->last_used < oldest->last_used)) {
            oldest = space;
        }
    }
    flush_space(oldest);
    oldest->satp = satp;
    oldest->is_used = true;
    oldest->last_used = ++h->space_clock;
    return oldest;
}

void riscv_update_view(struct hart *h)
{
    uint64_t mstatus = h->s.mstatus;
    unsigned priv = h->s.priv;
    h->space = space_of(h, h->s.satp);
    h->fetch = priv == PRIV_M ? &h->machine_space->fetch : &h->space->fetch[priv];
    if (mstatus & MSTATUS_MPRV) {
        priv = (mstatus & MSTATUS_MPP) >> 11;
    }
    if (priv == PRIV_M) {
        h->tlb = &h->machine_space->view;
        return;
    }
    unsigned mxr = (mstatus & MSTATUS_MXR) ? 1 : 0;
    unsigned sum = (mstatus & MSTATUS_SUM) ? VIEW_S_SUM - VIEW_S : 0;
    h->tlb = &h->space->view[priv == PRIV_U ? VIEW_U + mxr : VIEW_S + sum + mxr];
}

/* A leaf larger than a page is entered page by page; sfence.vma on any of its addresses must drop
 * them all. Each space remembers hashed which large leaves it has seen. */
static unsigned large_bit(uint64_t va, unsigned level)
{
    uint64_t number = va >> (GW_PAGE_SHIFT + 9 * level);
    return (unsigned)((number * UINT64_C(0x9e3779b97f4a7c15)) >> 52); /* 4096 bits */
}

static void note_large(struct space *space, uint64_t va, unsigned level)
{
    if (level > 0 && level <= N_LARGE) {
        unsigned bit = large_bit(va, level);
        space->large[level - 1][bit / 64] |= UINT64_C(1) << (bit % 64);
    }
}

static bool may_be_large(const struct space *space, uint64_t va)
{
    for (unsigned level = 1; level <= N_LARGE; level++) {
        unsigned bit = large_bit(va, level);
        if (space->large[level - 1][bit / 64] >> (bit % 64) & 1) {
            return true;
        }
    }
    return false;
}

static void flush_page(struct space *space, uint64_t va)
{
    unsigned index = (va >> GW_PAGE_SHIFT) % TLB_SIZE;
    if (may_be_large(space, va)) {
        flush_space(space);
        return;
    }
    for (unsigned i = 0; i < N_VIEWS; i++) {
        struct tlb_entry *entry = &space->view[i].entry[index];
        if (space->has_view[i] && (entry->load == PAGE_BASE(va) || entry->store == PAGE_BASE(va))) {
            entry->load = entry->store = TLB_NONE;
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        struct fetch_entry *entry = &space->fetch[i].entry[index];
        if (space->has_fetch[i] && entry->tag == PAGE_BASE(va)) {
            entry->tag = TLB_NONE;
        }
    }
}

void riscv_sfence_vma(struct hart *h, bool has_va, uint64_t va, bool has_asid, uint64_t asid)
{
    for (unsigned i = 0; i < N_SPACES; i++) {
        struct space *space = &h->spaces[i];
        if (!space->is_used || SATP_MODE(space->satp) == SATP_BARE ||
            (has_asid && SATP_ASID(space->satp) != (asid & 0xffff))) {
            continue;
        }
        if (has_va) {
            flush_page(space, va);
        } else {
            flush_space(space);
        }
    }
}

/* Each entry has one addend, so a new page takes the whole entry. */
static struct tlb_entry *claim_entry(struct hart *h, uint64_t va, const struct place *place)
{
    struct tlb_entry *entry = &h->tlb->entry[(va >> GW_PAGE_SHIFT) % TLB_SIZE];
    uint64_t addend = (uint64_t)(uintptr_t)place->host - va;
    if (entry->addend != addend ||
        (entry->load != PAGE_BASE(va) && entry->store != PAGE_BASE(va))) {
        entry->load = entry->store = TLB_NONE;
        entry->addend = addend;
    }
    if (h->tlb != &h->machine_space->view) {
        h->space->has_view[h->tlb - h->space->view] = true;
        note_large(h->space, va, place->leaf_level);
    }
    return entry;
}

static void cache_load(struct hart *h, uint64_t va, const struct place *place)
{
    if (place->may_be_cached && place->host != NULL) {
        claim_entry(h, va, place)->load = PAGE_BASE(va);
    }
}

static void prepare_store(struct hart *h, uint64_t va, const struct place *place)
{
    struct gw_ram_block *block = h->cpu->ram[place->ram];
    uint64_t page = (place->gpa - block->gpa) >> GW_PAGE_SHIFT;
    riscv_code_before_store(h, place->ram, page);
    if (place->may_be_cached) {
        claim_entry(h, va, place)->store = PAGE_BASE(va);
    }
}

/* ---- store rights ---- */

/* Calls the statement for every table that may hold entries. */
#define FOR_EACH_VIEW(h, tlb, statement)                                                           \
    do {                                                                                           \
        struct tlb *tlb = &(h)->machine_space->view;                                               \
        statement;                                                                                 \
        for (unsigned s_ = 0; s_ < N_SPACES; s_++) {                                               \
            for (unsigned v_ = 0; v_ < N_VIEWS; v_++) {                                            \
                if ((h)->spaces[s_].has_view[v_]) {                                                \
                    tlb = &(h)->spaces[s_].view[v_];                                               \
                    statement;                                                                     \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    } while (0)

static void drop_all_in(struct tlb *tlb)
{
    for (unsigned i = 0; i < TLB_SIZE; i++) {
        tlb->entry[i].store = TLB_NONE;
    }
}

static void drop_page_in(struct tlb *tlb, uint64_t host)
{
    for (unsigned i = 0; i < TLB_SIZE; i++) {
        struct tlb_entry *entry = &tlb->entry[i];
        if (entry->store + entry->addend == host) {
            entry->store = TLB_NONE;
        }
    }
}

void riscv_drop_store_rights(struct hart *h)
{
    FOR_EACH_VIEW(h, tlb, drop_all_in(tlb));
}

void riscv_drop_store_right_to(struct hart *h, const uint8_t *host_page)
{
    FOR_EACH_VIEW(h, tlb, drop_page_in(tlb, (uint64_t)(uintptr_t)host_page));
}

/* ---- slow accesses ---- */

static bool bus_read(struct hart *h, uint64_t gpa, unsigned size, uint64_t *value)
{
    const struct cpu_config *config = &h->cpu->config;
    uint32_t fp = fp_host_leave();
    __atomic_store_n(&h->n_exits, h->n_exits + 1, __ATOMIC_RELAXED);
    riscv_quiet_enter(h);
    bool is_ok = config->bus->read(config->bus_opaque, h->id, gpa, size, value);
    riscv_quiet_leave(h);
    fp_host_enter(fp);
    return is_ok;
}

static bool bus_write(struct hart *h, uint64_t gpa, unsigned size, uint64_t value)
{
    const struct cpu_config *config = &h->cpu->config;
    uint32_t fp = fp_host_leave();
    __atomic_store_n(&h->n_exits, h->n_exits + 1, __ATOMIC_RELAXED);
    riscv_quiet_enter(h);
    bool is_ok = config->bus->write(config->bus_opaque, h->id, gpa, size, value);
    riscv_quiet_leave(h);
    fp_host_enter(fp);
    return is_ok;
}

/* One or two pieces, the second when the access crosses into the next page. */
struct pieces {
    struct place place[2];
    uint64_t va[2];
    unsigned len[2];
    unsigned n;
};

static bool find_pieces(struct hart *h, uint64_t va, unsigned size, enum access access,
                        struct pieces *p)
{
    uint64_t room = GW_PAGE_SIZE - PAGE_OFFSET(va);
    p->n = room < size ? 2 : 1;
    p->va[0] = va;
    p->len[0] = p->n == 2 ? (unsigned)room : size;
    p->va[1] = va + room;
    p->len[1] = size - p->len[0];
    for (unsigned i = 0; i < p->n; i++) {
        if (!find_place(h, p->va[i], p->len[i], access, &p->place[i])) {
            return false;
        }
        /* Devices answer to aligned accesses only. */
        if (p->place[i].host == NULL && (va & (size - 1))) {
            return riscv_fail(h, access_fault_of[access], p->va[i]);
        }
    }
    return true;
}

/* Whole, because other harts must not see half of an aligned store, nor we of theirs. */
RACES_LIKE_A_GUEST static uint64_t load_whole(const uint8_t *host, unsigned size)
{
    uint16_t half;
    uint32_t word;
    uint64_t full;
    switch (size) {
    case 1:
        return *host;
    case 2:
        memcpy(&half, host, 2);
        return half;
    case 4:
        memcpy(&word, host, 4);
        return word;
    default:
        memcpy(&full, host, 8);
        return full;
    }
}

RACES_LIKE_A_GUEST static void store_whole(uint8_t *host, unsigned size, uint64_t value)
{
    uint16_t half = (uint16_t)value;
    uint32_t word = (uint32_t)value;
    switch (size) {
    case 1:
        *host = (uint8_t)value;
        break;
    case 2:
        memcpy(host, &half, 2);
        break;
    case 4:
        memcpy(host, &word, 4);
        break;
    default:
        memcpy(host, &value, 8);
        break;
    }
}

/* Across pages, byte by byte. */
RACES_LIKE_A_GUEST static void load_bytes(const struct pieces *p, uint8_t *bytes)
{
    for (unsigned i = 0; i < p->len[0] + p->len[1]; i++) {
        const volatile uint8_t *host =
            i < p->len[0] ? p->place[0].host + i : p->place[1].host + (i - p->len[0]);
        bytes[i] = *host;
    }
}

RACES_LIKE_A_GUEST static void store_bytes(const struct pieces *p, const uint8_t *bytes)
{
    for (unsigned i = 0; i < p->len[0] + p->len[1]; i++) {
        volatile uint8_t *host =
            i < p->len[0] ? p->place[0].host + i : p->place[1].host + (i - p->len[0]);
        *host = bytes[i];
    }
}

bool riscv_load_slow(struct hart *h, uint64_t va, unsigned size, uint64_t *value)
{
    struct pieces p;
    if (!find_pieces(h, va, size, ACCESS_LOAD, &p)) {
        return false;
    }
    if (p.place[0].host == NULL) {
        *value = 0;
        return bus_read(h, p.place[0].gpa, size, value) || riscv_fail(h, CAUSE_LOAD_ACCESS, va);
    }
    if (p.n == 1) {
        *value = load_whole(p.place[0].host, size);
        cache_load(h, va, &p.place[0]);
        return true;
    }
    uint8_t bytes[8] = {0};
    load_bytes(&p, bytes);
    memcpy(value, bytes, 8);
    return true;
}

bool riscv_store_slow(struct hart *h, uint64_t va, unsigned size, uint64_t value)
{
    struct pieces p;
    if (!find_pieces(h, va, size, ACCESS_STORE, &p)) {
        return false;
    }
    if (p.place[0].host == NULL) {
        return bus_write(h, p.place[0].gpa, size, value) || riscv_fail(h, CAUSE_STORE_ACCESS, va);
    }
    prepare_store(h, va, &p.place[0]);
    if (p.n == 1) {
        store_whole(p.place[0].host, size, value);
        return true;
    }
    prepare_store(h, p.va[1], &p.place[1]);
    uint8_t bytes[8];
    memcpy(bytes, &value, 8);
    store_bytes(&p, bytes);
    return true;
}

void *riscv_atomic_slow(struct hart *h, uint64_t va, unsigned size, bool is_store)
{
    enum access access = is_store ? ACCESS_STORE : ACCESS_LOAD;
    struct place place;
    if (va & (size - 1)) {
        riscv_fail(h, is_store ? CAUSE_STORE_MISALIGNED : CAUSE_LOAD_MISALIGNED, va);
        return NULL;
    }
    if (!find_place(h, va, size, access, &place)) {
        return NULL;
    }
    if (place.host == NULL) {
        riscv_fail(h, access_fault_of[access], va);
        return NULL;
    }
    if (is_store) {
        prepare_store(h, va, &place);
        /* An AMO reads too; without R the page was not readable, but W without R is reserved. */
    } else {
        cache_load(h, va, &place);
    }
    return place.host;
}

bool riscv_translate_fetch(struct hart *h, uint64_t va, uint64_t len, struct fetch_place *out)
{
    struct place place;
    if (!find_place(h, va, len, ACCESS_FETCH, &place)) {
        return false;
    }
    if (place.host == NULL) {
        return riscv_fail(h, CAUSE_FETCH_ACCESS, va);
    }
    out->host = place.host;
    out->gpa = place.gpa;
    out->ram = place.ram;
    out->may_be_cached = place.may_be_cached;
    if (h->fetch != &h->machine_space->fetch) {
        h->space->has_fetch[h->s.priv] = true;
        note_large(h->space, va, place.leaf_level);
    }
    return true;
}
