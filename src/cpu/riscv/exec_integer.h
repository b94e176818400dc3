/* SPDX-License-Identifier: MIT */
/*
 * Part of execute() in exec.c: integer, control, CSR and privileged instructions.
 */

/* A fragment of a function, labels and all. */
/* clang-format off */

#define ALU(name, value)                                                                           \
    h_##name : RD = (uint64_t)(value);                                                             \
    NEXT();

/* Results of the W instructions are sign-extended from 32 bits. */
#define ALU_W(name, value)                                                                         \
    h_##name : RD = (uint64_t)(int64_t)(int32_t)(value);                                           \
    NEXT();

h_lui:
ALU(li, IMM)
h_auipc:
ALU(pc_rel, page_va + (uint64_t)IMM)
ALU(mv, RS1)
h_nop:
    NEXT();

ALU(addi, RS1 + (uint64_t)IMM)
ALU(slti, (int64_t)RS1 < IMM)
ALU(sltiu, RS1 < (uint64_t)IMM)
ALU(xori, RS1 ^ (uint64_t)IMM)
ALU(ori, RS1 | (uint64_t)IMM)
ALU(andi, RS1 & (uint64_t)IMM)
ALU(slli, RS1 << (op->imm & 63))
ALU(srli, RS1 >> (op->imm & 63))
ALU(srai, (int64_t)RS1 >> (op->imm & 63))
ALU(add, RS1 + RS2)
ALU(sub, RS1 - RS2)
ALU(sll, RS1 << (RS2 & 63))
ALU(slt, (int64_t)RS1 < (int64_t)RS2)
ALU(sltu, RS1 < RS2)
ALU(xor, RS1 ^ RS2)
ALU(srl, RS1 >> (RS2 & 63))
ALU(sra, (int64_t)RS1 >> (RS2 & 63))
ALU(or, RS1 | RS2)
ALU(and, RS1 & RS2)
ALU_W(addiw, (uint32_t)RS1 + (uint32_t)op->imm)
ALU_W(slliw, (uint32_t)RS1 << (op->imm & 31))
ALU_W(srliw, (uint32_t)RS1 >> (op->imm & 31))
ALU_W(sraiw, (int32_t)RS1 >> (op->imm & 31))
ALU_W(addw, (uint32_t)RS1 + (uint32_t)RS2)
ALU_W(subw, (uint32_t)RS1 - (uint32_t)RS2)
ALU_W(sllw, (uint32_t)RS1 << (RS2 & 31))
ALU_W(srlw, (uint32_t)RS1 >> (RS2 & 31))
ALU_W(sraw, (int32_t)RS1 >> (RS2 & 31))

ALU(mul, RS1 * RS2)
ALU(mulh, (__int128)(int64_t)RS1 * (int64_t)RS2 >> 64)
ALU(mulhsu, (__int128)(int64_t)RS1 * (__int128)RS2 >> 64)
ALU(mulhu, (unsigned __int128)RS1 * RS2 >> 64)
ALU(div, div_s((int64_t)RS1, (int64_t)RS2))
ALU(divu, RS2 == 0 ? UINT64_MAX : RS1 / RS2)
ALU(rem, rem_s((int64_t)RS1, (int64_t)RS2))
ALU(remu, RS2 == 0 ? RS1 : RS1 % RS2)
ALU_W(mulw, (uint32_t)RS1 * (uint32_t)RS2)
ALU_W(divw, div_s32((int32_t)RS1, (int32_t)RS2))
ALU_W(divuw, (uint32_t)RS2 == 0 ? UINT32_MAX : (uint32_t)RS1 / (uint32_t)RS2)
ALU_W(remw, rem_s32((int32_t)RS1, (int32_t)RS2))
ALU_W(remuw, (uint32_t)RS2 == 0 ? (uint32_t)RS1 : (uint32_t)RS1 % (uint32_t)RS2)

/* Zba, Zbb, Zbs. SPEC: bit-manipulation ISA 1.0.0. */
ALU(add_uw, RS2 + (uint32_t)RS1)
ALU(sh1add, RS2 + (RS1 << 1))
ALU(sh2add, RS2 + (RS1 << 2))
ALU(sh3add, RS2 + (RS1 << 3))
ALU(sh1add_uw, RS2 + ((uint64_t)(uint32_t)RS1 << 1))
ALU(sh2add_uw, RS2 + ((uint64_t)(uint32_t)RS1 << 2))
ALU(sh3add_uw, RS2 + ((uint64_t)(uint32_t)RS1 << 3))
ALU(slli_uw, (uint64_t)(uint32_t)RS1 << (op->imm & 63))
ALU(andn, RS1 & ~RS2)
ALU(orn, RS1 | ~RS2)
ALU(xnor, RS1 ^ ~RS2)
ALU(min, (int64_t)RS1 < (int64_t)RS2 ? RS1 : RS2)
ALU(minu, RS1 < RS2 ? RS1 : RS2)
ALU(max, (int64_t)RS1 > (int64_t)RS2 ? RS1 : RS2)
ALU(maxu, RS1 > RS2 ? RS1 : RS2)
ALU(rol, rotate_right(RS1, 0 - RS2))
ALU(ror, rotate_right(RS1, RS2))
ALU(rori, rotate_right(RS1, (uint64_t)op->imm))
ALU_W(rolw, rotate_right_32((uint32_t)RS1, 0 - (uint32_t)RS2))
ALU_W(rorw, rotate_right_32((uint32_t)RS1, (uint32_t)RS2))
ALU_W(roriw, rotate_right_32((uint32_t)RS1, (uint32_t)op->imm))
ALU(clz, RS1 == 0 ? 64 : __builtin_clzll(RS1))
ALU(ctz, RS1 == 0 ? 64 : __builtin_ctzll(RS1))
ALU(cpop, __builtin_popcountll(RS1))
ALU_W(clzw, (uint32_t)RS1 == 0 ? 32 : __builtin_clz((uint32_t)RS1))
ALU_W(ctzw, (uint32_t)RS1 == 0 ? 32 : __builtin_ctz((uint32_t)RS1))
ALU_W(cpopw, __builtin_popcount((uint32_t)RS1))
ALU(sext_b, (int64_t)(int8_t)RS1)
ALU(sext_h, (int64_t)(int16_t)RS1)
ALU(zext_h, (uint16_t)RS1)
ALU(orc_b, or_combine_bytes(RS1))
ALU(rev8, __builtin_bswap64(RS1))
ALU(bclr, RS1 & ~(UINT64_C(1) << (RS2 & 63)))
ALU(bclri, RS1 & ~(UINT64_C(1) << (op->imm & 63)))
ALU(bext, RS1 >> (RS2 & 63) & 1)
ALU(bexti, RS1 >> (op->imm & 63) & 1)
ALU(binv, RS1 ^ UINT64_C(1) << (RS2 & 63))
ALU(binvi, RS1 ^ UINT64_C(1) << (op->imm & 63))
ALU(bset, RS1 | UINT64_C(1) << (RS2 & 63))
ALU(bseti, RS1 | UINT64_C(1) << (op->imm & 63))

/* ---- control ---- */

#define BRANCH(name, condition)                                                                    \
    h_##name : if (condition)                                                                      \
    {                                                                                              \
        FOLLOW_LINK();                                                                             \
    }                                                                                              \
    op += 2;                                                                                       \
    DISPATCH();

BRANCH(beq, RS1 == RS2)
BRANCH(bne, RS1 != RS2)
BRANCH(blt, (int64_t)RS1 < (int64_t)RS2)
BRANCH(bge, (int64_t)RS1 >= (int64_t)RS2)
BRANCH(bltu, RS1 < RS2)
BRANCH(bgeu, RS1 >= RS2)

h_jal:
    RD = page_va + op->link;
h_follow:
    FOLLOW_LINK();

h_jalr:
    pc = (RS1 + (uint64_t)(op->imm >> 16)) & ~UINT64_C(1);
    RD = page_va + (uint16_t)op->imm;
    icount += op->n;
    goto lookup;

h_refetch:
    icount += op->n;
    pc = page_va + (uint64_t)IMM;
    goto lookup;

h_straddle:
{
    const struct fetch_entry *next = &h->fetch->entry[((page_va >> GW_PAGE_SHIFT) + 1) % TLB_SIZE];
    uint16_t half;
    if (likely(next->tag == page_va + GW_PAGE_SIZE)) {
        memcpy(&half, next->page->host, sizeof half);
    } else if (!riscv_code_second_half(h, page_va + GW_PAGE_SIZE, &half)) {
        icount += op->n;
        h->s.pc = page_va + GW_PAGE_SIZE - 2;
        goto trap;
    }
    if (likely(half == (uint16_t)op->imm)) {
    NEXT();
    }
    icount += op->n;
    op = riscv_code_single(h, page_va + GW_PAGE_SIZE - 2);
    if (op == NULL) {
        h->s.pc = page_va + GW_PAGE_SIZE - 2;
        goto trap;
    }
    DISPATCH();
}

h_pause:
    icount += op->n;
    pc = page_va + (uint64_t)IMM;
    if (++h->n_pauses % PAUSES_PER_YIELD == 0) {
        sched_yield(); /* another hart may need this core to get on */
    }
    goto lookup;

h_fence:
    if (op->imm) {
        host_fence();
    } else {
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
    }
    NEXT();

h_fence_i:
    icount += op->n;
    pc = page_va + (uint64_t)IMM;
    riscv_code_fence(h);
    goto lookup;

/* ---- privileged ---- */

h_ecall:
    riscv_fail(h, CAUSE_ECALL_U + h->s.priv, 0);
    goto fault;

h_ebreak:
    riscv_fail(h, CAUSE_BREAKPOINT, page_va + riscv_code_offset(h, op));
    goto fault;

h_sret:
    if (!riscv_sret(h)) {
        goto h_illegal;
    }
    goto returned;

h_mret:
    if (!riscv_mret(h)) {
        goto h_illegal;
    }
returned:
    icount += op->n;
    riscv_take_interrupt(h);
    pc = h->s.pc;
    goto reenter;

h_wfi:
    if (!riscv_wfi_allowed(h)) {
        goto h_illegal;
    }
    icount += op->n;
    pc = page_va + (uint64_t)IMM;
    h->s.pc = pc;
    settle(h, &icount);
    if ((riscv_mip(h) & h->s.mie) == 0) {
        h->s.is_waiting = true;
        return EXEC_WAIT;
    }
    riscv_take_interrupt(h);
    pc = h->s.pc;
    goto reenter;

h_sfence_vma:
    if (!sfence_allowed(h)) {
        goto h_illegal;
    }
    icount += op->n;
    pc = page_va + (uint64_t)IMM;
    riscv_sfence_vma(h, op->rs1 != 0, RS1, op->rs2 != 0, RS2);
    goto lookup;

/* ---- csr ---- */

/* Set and clear with no bits do not write. */
#define CSR_INSN(name, kind, source, is_write)                                                     \
    h_##name : csr_op = kind;                                                                      \
    csr_operand = source;                                                                          \
    csr_writes = is_write;                                                                         \
    goto csr;

CSR_INSN(csrrw, CSR_WRITE, RS1, true)
CSR_INSN(csrrs, CSR_SET, RS1, op->rs1 != 0)
CSR_INSN(csrrc, CSR_CLEAR, RS1, op->rs1 != 0)
CSR_INSN(csrrwi, CSR_WRITE, op->rs1, true)
CSR_INSN(csrrsi, CSR_SET, op->rs1, op->rs1 != 0)
CSR_INSN(csrrci, CSR_CLEAR, op->rs1, op->rs1 != 0)

csr:
    icount += op->n - 1u;
    settle(h, &icount);
    if (!riscv_csr(h, (unsigned)op->imm >> 16, csr_op, csr_operand, csr_writes, &csr_old)) {
        goto illegal;
    }
    RD = csr_old;
    icount = 1;
    pc = page_va + (uint16_t)op->imm;
    if (csr_writes) {
        uncount(h);
        h->s.pc = pc;
        riscv_take_interrupt(h);
        pc = h->s.pc;
    }
    goto reenter;

/* clang-format on */
