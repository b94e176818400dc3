/* SPDX-License-Identifier: MIT */
/*
 * The interpreter: one function, one label per handler, each ending in an indirect jump to the
 * next op's label.
 *
 * Model: `op` walks through a block; the pc exists only as page_va (the virtual address of the
 * page the block is in) plus offsets that the ops carry. Whatever may change the translation, the
 * privilege or the interrupts ends a block and goes through `lookup`, which finds the next block by
 * its pc. Taken branches and all block ends look at h->pending.
 *
 * Counting: op->n is the number of instructions of the block up to and including the op, so a
 * block costs one addition where it is left.
 *
 * The handlers are in exec_integer.h, exec_memory.h and exec_float.h, which are parts of this
 * function and of nothing else.
 */
#include <sched.h>
#include <string.h>

#include "cpu/riscv/decode.h"
#include "cpu/riscv/fp.h"
#include "cpu/riscv/hart.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define PAUSES_PER_YIELD 32

#define RD  x[op->rd]
#define RS1 x[op->rs1]
#define RS2 x[op->rs2]
#define IMM ((int64_t)op->imm)

#define DISPATCH() goto * op->handler
#define NEXT()                                                                                     \
    do {                                                                                           \
        op++;                                                                                      \
        DISPATCH();                                                                                \
    } while (0)

/* Goes to the linked op of the same page, or slowly where there is none. */
#define FOLLOW_LINK()                                                                              \
    do {                                                                                           \
        const struct op *target_ = ((const struct op_link *)(const void *)(op + 1))->target;       \
        icount += op->n;                                                                           \
        if (unlikely(target_ == NULL) ||                                                           \
            unlikely(__atomic_load_n(&h->pending, __ATOMIC_RELAXED) != 0)) {                       \
            goto leave_by_link;                                                                    \
        }                                                                                          \
        op = target_;                                                                              \
        DISPATCH();                                                                                \
    } while (0)

/* For csr instructions and others that need exact counters: the ones before this op. */
static inline void settle(struct hart *h, uint64_t *icount)
{
    riscv_account(h, *icount);
    *icount = 0;
}

/* What a csr instruction wrote to a counter stands after it: it does not count itself there. */
static void uncount(struct hart *h)
{
    uint64_t counting = h->wrote_counters & ~h->s.mcountinhibit;
    h->s.mcycle -= (counting & COUNTER_CY) != 0;
    h->s.minstret -= (counting & COUNTER_IR) != 0;
    h->wrote_counters = 0;
}

/* A full barrier. (On x86 a locked operation on the stack is the cheapest one.) */
static inline void host_fence(void)
{
#if defined(__x86_64__)
    __asm__ volatile("lock orl $0, -8(%%rsp)" ::: "memory", "cc");
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static bool sfence_allowed(const struct hart *h)
{
    return h->s.priv == PRIV_M || (h->s.priv == PRIV_S && !(h->s.mstatus & MSTATUS_TVM));
}

static int64_t div_s(int64_t a, int64_t b)
{
    return b == 0 ? -1 : a == INT64_MIN && b == -1 ? a : a / b;
}

static int64_t rem_s(int64_t a, int64_t b)
{
    return b == 0 ? a : b == -1 ? 0 : a % b;
}

static int32_t div_s32(int32_t a, int32_t b)
{
    return b == 0 ? -1 : a == INT32_MIN && b == -1 ? a : a / b;
}

static int32_t rem_s32(int32_t a, int32_t b)
{
    return b == 0 ? a : b == -1 ? 0 : a % b;
}

static inline uint64_t rotate_right(uint64_t value, uint64_t count)
{
    return value >> (count & 63) | value << (-count & 63);
}

static inline uint32_t rotate_right_32(uint32_t value, uint32_t count)
{
    return value >> (count & 31) | value << (-count & 31);
}

/* Each byte becomes 0xff unless it is 0. */
static uint64_t or_combine_bytes(uint64_t value)
{
    uint64_t low = UINT64_C(0x0101010101010101);
    value |= value >> 4 & low * 0x0f;
    value |= value >> 2 & low * 0x03;
    value |= value >> 1;
    return (value & low) * 0xff;
}

/* Obeys h->pending at an instruction boundary (pc in the state). True: stop executing. */
static bool service(struct hart *h)
{
    uint32_t bits = __atomic_exchange_n(&h->pending, 0, __ATOMIC_SEQ_CST);
    if (bits & PENDING_DROP) {
        riscv_obey_drop(h);
    }
    if (bits & PENDING_EVICT) {
        riscv_code_evict(h);
    }
    if (bits & PENDING_IRQ) {
        riscv_timer_update(h);
        riscv_take_interrupt(h);
    }
    if (bits & PENDING_STOP) {
        __atomic_fetch_or(&h->pending, PENDING_STOP, __ATOMIC_SEQ_CST);
        return true;
    }
    if (bits & PENDING_PAUSE) {
        riscv_pause(h, true);
    }
    return false;
}

RACES_LIKE_A_GUEST static enum exec_end execute(struct hart *h, const void *const **handlers)
{
    static const void *const labels[N_HANDLERS] = {
#define INSN(id, mnemonic, match, mask, format, kind) [H_##id] = &&h_##id,
#define RVC(id, mnemonic, match, mask, format, handler)
#define STEP(id) [H_##id] = &&h_##id,
#include "cpu/riscv/insn.def"
#undef INSN
#undef RVC
#undef STEP
    };
    if (h == NULL) {
        *handlers = labels;
        return EXEC_STOP;
    }

    uint64_t *const x = h->s.x;
    uint64_t *const f = h->s.f;
    const struct op *op;
    const struct tlb *tlb;
    uint64_t page_va;
    uint64_t icount = 0;
    uint64_t pc = h->s.pc;
    enum csr_op csr_op;
    uint64_t csr_operand, csr_old;
    bool csr_writes;

reenter:
    tlb = h->tlb;
lookup:
    if (unlikely(__atomic_load_n(&h->pending, __ATOMIC_RELAXED) != 0)) {
        h->s.pc = pc;
        settle(h, &icount);
        if (service(h)) {
            return EXEC_STOP;
        }
        pc = h->s.pc;
        tlb = h->tlb;
    }
    {
        const struct fetch_entry *entry = &h->fetch->entry[(pc >> GW_PAGE_SHIFT) % TLB_SIZE];
        page_va = PAGE_BASE(pc);
        if (likely(entry->tag == page_va)) {
            uint32_t first = entry->page->first[PAGE_OFFSET(pc) / 2];
            if (likely(first != 0)) {
                op = &h->code.ops[first];
                DISPATCH();
            }
        }
    }
    op = riscv_code_find(h, pc);
    if (unlikely(op == NULL)) {
        h->s.pc = pc;
        goto trap;
    }
    DISPATCH();

leave_by_link: /* icount has been settled for op */
    pc = page_va + (uint64_t)IMM;
    if (__atomic_load_n(&h->pending, __ATOMIC_RELAXED) != 0 || PAGE_BASE(pc) != page_va) {
        goto lookup;
    }
    op = riscv_code_link(h, op, pc);
    if (unlikely(op == NULL)) {
        h->s.pc = pc;
        goto trap;
    }
    DISPATCH();

fault: /* the op's access failed; the cause is set */
    icount += op->n - 1u;
    h->s.pc = page_va + riscv_code_offset(h, op);
trap: /* pc in the state, cause set */
    riscv_take_trap(h, h->trap_cause, h->trap_tval);
    if (unlikely(h->is_broken)) {
        settle(h, &icount);
        return EXEC_WAIT;
    }
    pc = h->s.pc;
    goto reenter;

h_illegal:
    icount += op->n - 1u;
illegal: /* icount holds what is before op */
    h->s.pc = page_va + riscv_code_offset(h, op);
    riscv_fail(h, CAUSE_ILLEGAL, riscv_code_fetch_word(h, h->s.pc));
    h->trap_cause = CAUSE_ILLEGAL;
    goto trap;

#include "cpu/riscv/exec_float.h"
#include "cpu/riscv/exec_integer.h"
#include "cpu/riscv/exec_memory.h"
}

enum exec_end riscv_exec(struct hart *h)
{
    riscv_fp_begin(h);
    enum exec_end end = execute(h, NULL);
    riscv_fp_end(h);
    return end;
}

const void *const *riscv_exec_handlers(void)
{
    const void *const *handlers = NULL;
    execute(NULL, &handlers);
    return handlers;
}
