/* SPDX-License-Identifier: MIT */
/*
 * Part of execute() in exec.c: loads, stores and atomics.
 *
 * The index comes from the access's first byte and the tag is compared with the page of its last,
 * so that a misaligned access within a page is fast and one across pages misses.
 */

#define ENTRY(va)       (&tlb->entry[((va) >> GW_PAGE_SHIFT) % TLB_SIZE])
#define HOST(va, entry) ((void *)(uintptr_t)((va) + (entry)->addend))

#define LOAD(name, type, size, store_result)                                                       \
    h_##name:                                                                                      \
    {                                                                                              \
        uint64_t va = RS1 + (uint64_t)IMM, raw;                                                    \
        const struct tlb_entry *entry = ENTRY(va);                                                 \
        type value;                                                                                \
        if (likely(PAGE_BASE(va + (size)-1) == entry->load)) {                                     \
            memcpy(&value, HOST(va, entry), size);                                                 \
        } else {                                                                                   \
            if (unlikely(!riscv_load_slow(h, va, size, &raw))) {                                   \
                goto fault;                                                                        \
            }                                                                                      \
            value = (type)raw;                                                                     \
        }                                                                                          \
        store_result;                                                                              \
        NEXT();                                                                                    \
    }

#define STORE(name, type, size, source)                                                            \
    h_##name:                                                                                      \
    {                                                                                              \
        uint64_t va = RS1 + (uint64_t)IMM;                                                         \
        const struct tlb_entry *entry = ENTRY(va);                                                 \
        type value = (type)(source);                                                               \
        if (likely(PAGE_BASE(va + (size)-1) == entry->store)) {                                    \
            memcpy(HOST(va, entry), &value, size);                                                 \
        } else if (unlikely(!riscv_store_slow(h, va, size, value))) {                              \
            goto fault;                                                                            \
        }                                                                                          \
        NEXT();                                                                                    \
    }

LOAD(lb, int8_t, 1, RD = (uint64_t)(int64_t)value)
LOAD(lh, int16_t, 2, RD = (uint64_t)(int64_t)value)
LOAD(lw, int32_t, 4, RD = (uint64_t)(int64_t)value)
LOAD(ld, uint64_t, 8, RD = value)
LOAD(lbu, uint8_t, 1, RD = value)
LOAD(lhu, uint16_t, 2, RD = value)
LOAD(lwu, uint32_t, 4, RD = value)
STORE(sb, uint8_t, 1, RS2)
STORE(sh, uint16_t, 2, RS2)
STORE(sw, uint32_t, 4, RS2)
STORE(sd, uint64_t, 8, RS2)

/* The labels of the FP ones stand in exec_float.h, behind the check that FP is on. */
LOAD(flw_on, uint32_t, 4, f[op->rd] = F32_BOX | value)
LOAD(fld_on, uint64_t, 8, f[op->rd] = value)
STORE(fsw_on, uint32_t, 4, f[op->rs2])
STORE(fsd_on, uint64_t, 8, f[op->rs2])

/* SPEC: chapter 8 (A). aq and rl are always given: host atomics are sequentially consistent. */
#define AMO(name, type, result_type, operation)                                                    \
    h_##name:                                                                                      \
    {                                                                                              \
        uint64_t va = RS1;                                                                         \
        const struct tlb_entry *entry = ENTRY(va);                                                 \
        type *datum, source = (type)RS2, old;                                                      \
        if (likely((va & ~(GW_PAGE_SIZE - sizeof(type))) == entry->store)) {                       \
            datum = HOST(va, entry);                                                               \
        } else {                                                                                   \
            datum = riscv_atomic_slow(h, va, sizeof(type), true);                                  \
            if (unlikely(datum == NULL)) {                                                         \
                goto fault;                                                                        \
            }                                                                                      \
        }                                                                                          \
        operation;                                                                                 \
        RD = (uint64_t)(int64_t)(result_type)old;                                                  \
        NEXT();                                                                                    \
    }

#define FETCH_OP(op_name) old = __atomic_fetch_##op_name(datum, source, __ATOMIC_SEQ_CST)
#define SWAP()            old = __atomic_exchange_n(datum, source, __ATOMIC_SEQ_CST)
#define PICK(condition)                                                                            \
    old = __atomic_load_n(datum, __ATOMIC_SEQ_CST);                                                \
    while (!__atomic_compare_exchange_n(datum, &old, (condition) ? old : source, false,            \
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {                     \
    }

AMO(amoswap_w, uint32_t, int32_t, SWAP())
AMO(amoadd_w, uint32_t, int32_t, FETCH_OP(add))
AMO(amoxor_w, uint32_t, int32_t, FETCH_OP(xor))
AMO(amoand_w, uint32_t, int32_t, FETCH_OP(and))
AMO(amoor_w, uint32_t, int32_t, FETCH_OP(or))
AMO(amomin_w, int32_t, int32_t, PICK(old < source))
AMO(amomax_w, int32_t, int32_t, PICK(old > source))
AMO(amominu_w, uint32_t, int32_t, PICK(old < source))
AMO(amomaxu_w, uint32_t, int32_t, PICK(old > source))
AMO(amoswap_d, uint64_t, int64_t, SWAP())
AMO(amoadd_d, uint64_t, int64_t, FETCH_OP(add))
AMO(amoxor_d, uint64_t, int64_t, FETCH_OP(xor))
AMO(amoand_d, uint64_t, int64_t, FETCH_OP(and))
AMO(amoor_d, uint64_t, int64_t, FETCH_OP(or))
AMO(amomin_d, int64_t, int64_t, PICK(old < source))
AMO(amomax_d, int64_t, int64_t, PICK(old > source))
AMO(amominu_d, uint64_t, int64_t, PICK(old < source))
AMO(amomaxu_d, uint64_t, int64_t, PICK(old > source))

#define LR_SC(width, size, type)                                                                   \
    h_lr_##width:                                                                                  \
    {                                                                                              \
        uint64_t value;                                                                            \
        if (unlikely(!riscv_lr(h, RS1, size, &value))) {                                           \
            goto fault;                                                                            \
        }                                                                                          \
        RD = (uint64_t)(int64_t)(type)value;                                                       \
        NEXT();                                                                                    \
    }                                                                                              \
    h_sc_##width:                                                                                  \
    {                                                                                              \
        bool is_done;                                                                              \
        if (unlikely(!riscv_sc(h, RS1, size, RS2, &is_done))) {                                    \
            goto fault;                                                                            \
        }                                                                                          \
        RD = !is_done;                                                                             \
        NEXT();                                                                                    \
    }

LR_SC(w, 4, int32_t)
LR_SC(d, 8, int64_t)
