/* SPDX-License-Identifier: MIT */
/*
 * One software hart and the set of them: the structures every file of this folder shares.
 *
 * The hart's essay is docs/hart.md. In short: exec.c runs predecoded ops; code.c turns guest code
 * into ops, page by page, and forgets pages that were written; mmu.c fills the software TLBs;
 * csr.c and trap.c are the privileged architecture; thread.c sleeps and wakes.
 */
#ifndef GODWIT_CPU_RISCV_HART_H
#define GODWIT_CPU_RISCV_HART_H

#include <pthread.h>

#include "cpu/backend.h"
#include "cpu/riscv/hart_state.h"
#include "cpu/riscv/trace.h"
#include "cpu/throttle.h"
#include "cpu/turn_timer.h"

#define RISCV_MAX_HARTS 8 /* one bit each in a byte of write_rights */

#define PAGE_OFFSET(a) ((a) & (GW_PAGE_SIZE - 1))
#define PAGE_BASE(a)   ((a) & ~(GW_PAGE_SIZE - 1))

/* ---- decoded code ---- */

/* One predecoded instruction. BRANCH and JUMP ops and `follow` take two: the second is a link. */
struct op {
    const void *handler; /* label in exec.c */
    int32_t imm;
    uint8_t rd; /* 32 (x_sink) for x0 */
    uint8_t n;  /* instructions of the block up to and including this one */
    union {
        struct {
            uint8_t rs1, rs2;
        };
        uint16_t link; /* jal: offset of the next instruction from the start of the page */
    };
};

struct op_link {
    const struct op *target; /* same page; NULL: not resolved yet */
    uint64_t unused;
};

_Static_assert(sizeof(struct op) == 16 && sizeof(struct op_link) == 16, "ops and links mix");

/* What is decoded of one physical page. */
struct code_page {
    uint64_t gpa;
    unsigned ram;   /* index of the block in riscv_soft.ram */
    uint64_t index; /* page in the block */
    const uint8_t *host;
    struct code_page *next; /* in the hash chain */
    bool is_watched;        /* we set the watched bit since the page was last forgotten */
    bool is_unsure;         /* some other hart held a write right then: forget at fence.i */
    uint32_t first[GW_PAGE_SIZE / 2]; /* op of the block starting at 2 * i; 0: none */
};

#define CODE_HASH_SIZE  1024
#define CODE_MAX_PAGES  640
#define CODE_MAX_OPS    (384u << 10)
#define CODE_MAX_UNSURE 32

struct code_cache {
    struct op *ops;    /* CODE_MAX_OPS, op 0 is never used */
    uint16_t *offsets; /* of each op's instruction, from the start of its page */
    uint32_t n_ops;
    uint32_t n_pages;
    uint64_t generation;     /* counts wholesale flushes */
    struct code_page *pages; /* CODE_MAX_PAGES */
    struct code_page *hash[CODE_HASH_SIZE];
    struct code_page *unsure[CODE_MAX_UNSURE];
    unsigned n_unsure;     /* CODE_MAX_UNSURE + 1: too many, all code is unsure */
    uint64_t journal_read; /* entries of the journal already seen */
    /* One instruction that cannot be cached by page, followed by a refetch. */
    struct op single[8];
    uint16_t single_offsets[8];
};

/* ---- software TLBs ---- */

#define TLB_BITS 9
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_NONE UINT64_MAX

/* host address = guest-virtual address + addend. Tags are page-aligned virtual addresses. */
struct tlb_entry {
    uint64_t load;  /* tag of the page that may be loaded from, or TLB_NONE */
    uint64_t store; /* tag of the page that may be stored to without telling anyone */
    uint64_t addend;
    uint64_t unused;
};

struct fetch_entry {
    uint64_t tag;
    struct code_page *page;
};

/* The rights of one effective privilege: which permission checks its entries have passed. */
enum tlb_view { VIEW_U, VIEW_U_MXR, VIEW_S, VIEW_S_MXR, VIEW_S_SUM, VIEW_S_SUM_MXR, N_VIEWS };

struct tlb {
    struct tlb_entry entry[TLB_SIZE];
};

struct fetch_tlb {
    struct fetch_entry entry[TLB_SIZE];
};

#define N_SPACES 4
#define N_LARGE  3 /* 2 MiB, 1 GiB, 512 GiB leaves */

/* Translations made under one value of satp. Machine mode has one of its own (satp ignored). */
struct space {
    uint64_t satp;
    uint64_t last_used;
    bool is_used;
    bool has_view[N_VIEWS]; /* entries were filled since the last flush */
    bool has_fetch[2];
    uint64_t large[N_LARGE][64]; /* hashed set of large leaves that entries came from */
    struct tlb view[N_VIEWS];
    struct fetch_tlb fetch[2]; /* U, S */
};

struct machine_space {
    struct tlb view;
    struct fetch_tlb fetch;
};

/* ---- physical memory protection, digested ---- */
struct pmp_range {
    uint64_t first, last; /* inclusive */
    uint8_t perms;        /* PMP_R | PMP_W | PMP_X */
    bool is_locked;
};

/* Why a hart must leave its fast path: bits of hart.pending. */
enum pending {
    PENDING_IRQ = 1 << 0,   /* lines or timers changed */
    PENDING_STOP = 1 << 1,  /* the machine's owner waits for the hart to park */
    PENDING_DROP = 1 << 2,  /* drop all store rights (dirty log) */
    PENDING_EVICT = 1 << 3, /* drop store rights to the pages in evict[] (decoded elsewhere) */
    PENDING_COUNT = 1 << 4, /* somebody wants fresh statistics: nothing to do but to look */
    PENDING_PAUSE = 1 << 5, /* the hart is throttled: it may have to pause */
};

enum activity { HART_QUIET, HART_RUNNING };

#define EVICT_MAX 64

struct hart {
    struct riscv_hart_state s; /* first: x[] is at the hart's own address */

    /* Read by other threads; see thread.c for the argument of each. */
    uint32_t pending;     /* atomic, enum pending; also the futex a waiting hart sleeps on */
    uint32_t is_sleeping; /* atomic */
    uint32_t activity;    /* atomic, enum activity: QUIET promises not to store to RAM */
    uint64_t drop_seen;   /* atomic: the last drop epoch the hart has obeyed */
    uint64_t deadline_ns; /* atomic: when the timer thread must raise PENDING_IRQ */
    uint64_t pause_at_ns; /* atomic: the same for PENDING_PAUSE */
    struct cpu_throttle throttle;

    /* Owned by the hart's thread. */
    struct riscv_soft *cpu;
    unsigned id;
    struct tlb *tlb;         /* of the current effective privilege for loads and stores */
    struct fetch_tlb *fetch; /* of the current privilege */
    struct space *space;     /* of satp */
    bool fp_is_fast;         /* FS is Dirty and frm is a mode the host has */
    uint64_t trap_cause;     /* set by who returns false */
    uint64_t trap_tval;
    bool is_broken;   /* fatal() was told: sleeps until it is stopped */
    uint64_t n_exits; /* atomic for readers of statistics, as the next three */
    uint64_t wfi_ns;
    uint64_t retired;
    uint64_t n_dirtied;
    uint8_t wrote_counters; /* counters the csr instruction wrote: it does not count there */
    uint64_t timer_mip;     /* MTIP and (with Sstc) STIP as of the last look at the clock */
    struct turn_timer
        turn_timer; /* raises PENDING_PAUSE, on time also where the timer thread is late */
    unsigned n_pauses;
    struct pmp_range pmp[RISCV_N_PMP];
    unsigned n_pmp;
    struct code_cache code;
    struct space *spaces; /* N_SPACES */
    struct machine_space *machine_space;
    uint64_t space_clock;

    /* Guarded by cpu->code_lock. */
    uint64_t evict[EVICT_MAX]; /* guest-physical addresses of pages */
    unsigned n_evict;          /* EVICT_MAX + 1: too many, all rights go */

    pthread_t thread;
    bool has_thread;
};

/* Pages of code that were written (guest-physical addresses). A ring: old entries are lost, and
 * whoever had not read them forgets all its code. */
#define JOURNAL_SIZE 1024

struct riscv_soft {
    /* Fixed after construction. */
    struct cpu_config config;
    struct hart *harts;
    unsigned n_harts;
    const void *const *handlers; /* exec.c's labels, by enum handler */
    struct riscv_decoder *decoder;
    const struct riscv_trace *trace; /* changes only while the harts are parked */
    struct gw_ram_block *ram[8];
    unsigned n_ram;
    uint8_t *write_rights[8]; /* per block, per page: bit h: hart h may hold a fast store right */

    /* Code that was written. */
    pthread_mutex_t code_lock;
    uint64_t journal_head;          /* atomic; written under code_lock */
    uint64_t journal[JOURNAL_SIZE]; /* guarded by code_lock */

    /* Dirty log. */
    uint64_t drop_epoch; /* atomic */
    uint32_t drop_acks;  /* atomic, futex: counts obeyed drops and harts gone quiet */

    /* Running and parking. */
    pthread_mutex_t run_lock;
    pthread_cond_t run_cond;    /* harts wait for start */
    pthread_cond_t parked_cond; /* the owner waits for harts */
    bool wants_run;             /* guarded by run_lock */
    bool wants_exit;            /* guarded by run_lock */
    unsigned n_parked;          /* guarded by run_lock */
    uint64_t run_count;         /* guarded by run_lock: counts starts */

    /* Timer thread. */
    pthread_t timer_thread;
    bool has_timer_thread;
    uint32_t timer_seq;     /* atomic, futex */
    uint32_t timer_exit;    /* atomic */
    uint64_t timer_next_ns; /* atomic: when the timer thread wakes by itself */
};

/* exec.c: runs until PENDING_STOP, wfi, or until the hart is broken. */
enum exec_end { EXEC_STOP, EXEC_WAIT };
enum exec_end riscv_exec(struct hart *h);
const void *const *riscv_exec_handlers(void);

/* mmu.c. Those that return false have set the trap. */
enum access { ACCESS_LOAD, ACCESS_STORE, ACCESS_FETCH };
void riscv_mmu_init(struct hart *h);
void riscv_mmu_clear(struct hart *h);
void riscv_update_view(struct hart *h); /* after a change of priv, mstatus, satp */
void riscv_flush_all(struct hart *h);
void riscv_sfence_vma(struct hart *h, bool has_va, uint64_t va, bool has_asid, uint64_t asid);
bool riscv_load_slow(struct hart *h, uint64_t va, unsigned size, uint64_t *value);
bool riscv_store_slow(struct hart *h, uint64_t va, unsigned size, uint64_t value);
/* Host address of an aligned datum for an atomic access (NULL: trap set). is_store: sc, amo. */
void *riscv_atomic_slow(struct hart *h, uint64_t va, unsigned size, bool is_store);
/* Where an instruction's bytes lie. */
struct fetch_place {
    uint8_t *host;
    uint64_t gpa;
    unsigned ram;       /* index of the block */
    bool may_be_cached; /* the whole page is executable alike */
};
/* atomic.c */
bool riscv_lr(struct hart *h, uint64_t va, unsigned size, uint64_t *value);
bool riscv_sc(struct hart *h, uint64_t va, unsigned size, uint64_t value, bool *is_done);

bool riscv_translate_fetch(struct hart *h, uint64_t va, uint64_t len, struct fetch_place *out);
void riscv_drop_store_rights(struct hart *h);
void riscv_drop_store_right_to(struct hart *h, const uint8_t *host_page);

/* pmp.c */
enum { PMP_MIXED = 0x100 };
void riscv_pmp_update(struct hart *h);
/* May the whole access be made? perm is PMP_R, PMP_W or PMP_X. */
bool riscv_pmp_allows(const struct hart *h, uint64_t gpa, uint64_t len, uint8_t perm,
                      unsigned priv);
/* Permissions that hold for every byte of the page alike, or PMP_MIXED. */
unsigned riscv_pmp_page(const struct hart *h, uint64_t page_gpa, unsigned priv);

/* code.c */
bool riscv_code_init(struct hart *h, GError **error);
void riscv_code_clear(struct hart *h);
void riscv_code_flush(struct hart *h);
/* The op at which to go on at virtual address pc, decoding it if need be; NULL: trap set. */
const struct op *riscv_code_find(struct hart *h, uint64_t pc);
void riscv_code_fence(struct hart *h); /* fence.i */
void riscv_code_evict(struct hart *h); /* obeys PENDING_EVICT */
uint16_t riscv_code_offset(const struct hart *h, const struct op *op);
/* riscv_code_find for the target of a branch or jump within its page; remembers it in the op. */
const struct op *riscv_code_link(struct hart *h, const struct op *from, uint64_t pc);
/* The second half of an instruction that crosses into the page at va. */
bool riscv_code_second_half(struct hart *h, uint64_t va, uint16_t *half);
/* Decodes the one instruction at pc for a single execution. */
const struct op *riscv_code_single(struct hart *h, uint64_t pc);
uint32_t riscv_code_fetch_word(struct hart *h, uint64_t pc); /* for mtval; 0 when unreadable */
/* Before a hart stores to a page by the slow path, and is perhaps given a fast right to it. */
void riscv_code_before_store(struct hart *h, unsigned ram, uint64_t page);
void riscv_code_written(void *opaque, struct gw_ram_block *block, uint64_t page);

/* csr.c */
enum csr_op { CSR_WRITE = 1, CSR_SET, CSR_CLEAR };
/* One csr instruction; false: illegal. */
bool riscv_csr(struct hart *h, unsigned number, enum csr_op op, uint64_t operand, bool wants_write,
               uint64_t *old);
bool riscv_csr_name(unsigned number, char *text, size_t size); /* false: no such register */
uint64_t riscv_mip(struct hart *h);                            /* looks at the clock first */
void riscv_account(struct hart *h, uint64_t n_instructions);

/* trap.c */
void riscv_take_trap(struct hart *h, uint64_t cause, uint64_t tval); /* from s.pc */
bool riscv_take_interrupt(struct hart *h);                           /* true: one was taken */
bool riscv_sret(struct hart *h);                                     /* false: illegal here */
bool riscv_mret(struct hart *h);
bool riscv_wfi_allowed(const struct hart *h);

/* thread.c */
bool riscv_threads_start(struct riscv_soft *cpu, GError **error);
void riscv_threads_end(struct riscv_soft *cpu);
void riscv_run(struct riscv_soft *cpu);
void riscv_stop(struct riscv_soft *cpu);
void riscv_raise(struct hart *h, uint32_t bits);
void riscv_quiet_enter(struct hart *h);
void riscv_quiet_leave(struct hart *h);
void riscv_obey_drop(struct hart *h);
void riscv_drop_all_rights(struct riscv_soft *cpu); /* and wait for every hart */
/* Pauses if the hart is throttled and its turn is over. Hart's thread only; returns early when
 * PENDING_STOP is set. did_run: as for cpu_throttle_look. */
void riscv_pause(struct hart *h, bool did_run);
/* Looks at the clock: sets timer_mip, and the deadline of the next change. Hart's thread only. */
void riscv_timer_update(struct hart *h);

/* mip without a new look at the clock. */
static inline uint64_t riscv_mip_now(const struct hart *h)
{
    return h->s.mip_soft | h->timer_mip | __atomic_load_n(&h->s.lines, __ATOMIC_ACQUIRE);
}

/* For functions that touch guest memory with plain loads and stores: guests race with each other
 * and with devices as their own memory model allows, which is no race of ours. */
#define RACES_LIKE_A_GUEST __attribute__((no_sanitize_thread))

static inline bool riscv_fail(struct hart *h, uint64_t cause, uint64_t tval)
{
    h->trap_cause = cause;
    h->trap_tval = tval;
    return false;
}

#endif
