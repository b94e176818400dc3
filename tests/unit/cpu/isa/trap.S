/* SPDX-License-Identifier: MIT */
/*
 * Traps, delegation, CSR access and WARL fields, and the rules of mstatus. Expected values:
 * privileged ISA 1.12, chapters 2 and 3; a hart with Sv39, Sv48, Sstc, Svadu and 16 PMP entries.
 */
#include "isa.h"
.macro ILLEGAL number, text:vararg
    EXPECT
    \text
    TRAPPED \number, CAUSE_ILLEGAL
.endm
BEGIN
    /* every kind of ecall, and what mstatus remembers */
    EXPECT
    ecall
    TRAPPED 1, CAUSE_ECALL_M
    srli a0, s7, 11
    andi a0, a0, 3
    CHECK 2, a0, 3
    EXPECT
    ENTER MPP_S
    BACK 3, CAUSE_ECALL_S
    srli a0, s7, 11
    andi a0, a0, 3
    CHECK 4, a0, 1
    EXPECT
    ENTER MPP_U
    BACK 5, CAUSE_ECALL_U
    srli a0, s7, 11
    andi a0, a0, 3
    CHECK 6, a0, 0
    /* ebreak: tval is its address; illegal: tval is the instruction */
    EXPECT
1:  ebreak
    TRAPPED 7, CAUSE_BREAK
    la t0, 1b
    CHECK_REG 8, s9, t0
    CHECK_REG 9, s8, t0
    EXPECT
    .word 0xffffffff
    TRAPPED 10, CAUSE_ILLEGAL
    CHECK 11, s9, 0xffffffff
    EXPECT
    .half 0x0000
    TRAPPED 12, CAUSE_ILLEGAL
    CHECK 13, s9, 0
    EXPECT
    .half 0x8002 /* c.jr x0 */
    TRAPPED 14, CAUSE_ILLEGAL
    CHECK 15, s9, 0x8002
    EXPECT
    .half 0x2001 /* c.addiw x0 */
    TRAPPED 16, CAUSE_ILLEGAL
    EXPECT
    .half 0x6081 /* c.lui ra, 0 */
    TRAPPED 17, CAUSE_ILLEGAL
    EXPECT
    .half 0x4002 /* c.lwsp x0 */
    TRAPPED 18, CAUSE_ILLEGAL

    /* privilege of CSRs and instructions */
    EXPECT
    ENTER MPP_U
    csrr a0, sstatus
    TRAPPED 20, CAUSE_ILLEGAL
    EXPECT
    ENTER MPP_S
    csrr a0, mstatus
    TRAPPED 21, CAUSE_ILLEGAL
    EXPECT
    ENTER MPP_S
    csrr a0, sstatus
    csrr a0, sscratch
    BACK 22, CAUSE_ECALL_S
    ILLEGAL 23, csrw cycle, a0
    ILLEGAL 24, csrw mhartid, a0
    ILLEGAL 25, csrr a0, 0x5c0
    csrr a0, mhartid
    csrrs a0, mhartid, zero /* reading a read-only register is not writing it */
    EXPECT
    ENTER MPP_U
    mret
    TRAPPED 26, CAUSE_ILLEGAL
    EXPECT
    ENTER MPP_U
    sret
    TRAPPED 27, CAUSE_ILLEGAL
    EXPECT
    ENTER MPP_U
    sfence.vma
    TRAPPED 28, CAUSE_ILLEGAL
    EXPECT
    ENTER MPP_U
    wfi
    TRAPPED 29, CAUSE_ILLEGAL

    /* TVM, TW and TSR */
    li a1, 1 << 20
    csrs mstatus, a1
    EXPECT
    ENTER MPP_S
    csrr a0, satp
    TRAPPED 30, CAUSE_ILLEGAL
    EXPECT
    ENTER MPP_S
    sfence.vma
    TRAPPED 31, CAUSE_ILLEGAL
    csrc mstatus, a1
    li a1, 1 << 21
    csrs mstatus, a1
    EXPECT
    ENTER MPP_S
    wfi
    TRAPPED 32, CAUSE_ILLEGAL
    csrc mstatus, a1
    li a1, 1 << 22
    csrs mstatus, a1
    EXPECT
    ENTER MPP_S
    sret
    TRAPPED 33, CAUSE_ILLEGAL
    csrc mstatus, a1

    /* counters for lower modes */
    csrw mcounteren, zero
    EXPECT
    ENTER MPP_S
    csrr a0, time
    TRAPPED 34, CAUSE_ILLEGAL
    li a1, 2
    csrw mcounteren, a1
    csrw scounteren, zero
    EXPECT
    ENTER MPP_S
    csrr a0, time
    BACK 35, CAUSE_ECALL_S
    EXPECT
    ENTER MPP_U
    csrr a0, time
    TRAPPED 36, CAUSE_ILLEGAL
    csrw scounteren, a1
    EXPECT
    ENTER MPP_U
    csrr a0, time
    BACK 37, CAUSE_ECALL_U
    EXPECT
    ENTER MPP_U
    csrr a0, instret
    TRAPPED 38, CAUSE_ILLEGAL

    /* delegation: an exception goes to S-mode from S and U, never from M */
    la t0, s_trap
    csrw stvec, t0
    li t0, 1 << CAUSE_ECALL_U | 1 << CAUSE_ILLEGAL
    csrw medeleg, t0
    li s4, 0
    EXPECT
    ENTER MPP_U
    ecall
    .word 0xffffffff
    li s4, -1 /* not reached */
    BACK 40, CAUSE_ECALL_S
    CHECK 41, s4, 2
    csrr a0, scause
    CHECK 42, a0, CAUSE_ILLEGAL
    csrr a0, stval
    CHECK 43, a0, 0xffffffff
    csrr a0, sstatus
    andi a0, a0, 1 << 8
    CHECK 44, a0, 0 /* SPP: it came from U */
    ILLEGAL 45, .word 0xffffffff
    csrw medeleg, zero
    j s_trap_end
.balign 4
s_trap: /* counts; skips the first trap's instruction, calls M at the second */
    addi s4, s4, 1
    li t0, 2
    beq s4, t0, 1f
    csrr t0, sepc
    addi t0, t0, 4
    csrw sepc, t0
    sret
1:  ecall
s_trap_end:

    /* sret: SPP, SPIE -> SIE, MPRV is cleared */
    li t0, 1 << 17 | 1 << 8 | 1 << 5
    csrs mstatus, t0
    li t0, 1 << 1
    csrc mstatus, t0
    la t0, 1f
    csrw sepc, t0
    EXPECT
    sret
1:  csrr a1, sstatus
    BACK 46, CAUSE_ECALL_S
    andi a0, a1, 1 << 1 | 1 << 5 | 1 << 8
    CHECK 47, a0, 1 << 1 | 1 << 5
    li t0, 1 << 17
    and a0, s7, t0
    CHECK 48, a0, 0
    csrci sstatus, 2

    /* WARL fields */
    li t0, 2 << 11
    li t1, 3 << 11
    csrc mstatus, t1
    csrs mstatus, t0
    csrr a0, mstatus
    and a0, a0, t1
    CHECK 50, a0, 0 /* MPP = 2 is not taken */
    li t0, -1
    csrw medeleg, t0
    csrr a0, medeleg
    CHECK 51, a0, 0xb3ff
    csrw medeleg, zero
    csrw mideleg, t0
    csrr a0, mideleg
    CHECK 52, a0, 0x222
    csrw mideleg, zero
    csrw mie, t0
    csrr a0, mie
    CHECK 53, a0, 0xaaa
    csrw mie, zero
    li t0, 0x123
    csrw mepc, t0
    csrr a0, mepc
    CHECK 54, a0, 0x122
    csrr a1, satp
    li t0, 10 << 60 /* Sv57 */
    csrw satp, t0
    csrr a0, satp
    CHECK_REG 55, a0, a1
    li t0, 9 << 60 | 0xffff << 44 | 0x12345
    csrw satp, t0
    csrr a0, satp
    CHECK_REG 56, a0, t0
    csrw satp, zero
    csrr a1, mtvec
    ori t0, a1, 2
    csrw mtvec, t0
    csrr a0, mtvec
    CHECK_REG 57, a0, a1
    csrr a0, misa
    li t0, 0x800000000014112d
    CHECK_REG 58, a0, t0
    li t0, 3 << 34 | 3 << 32
    csrs mstatus, t0
    csrr a0, mstatus
    and a0, a0, t0
    CHECK 59, a0, 2 << 34 | 2 << 32
    csrr a0, sstatus
    li t0, 3 << 32
    and a0, a0, t0
    CHECK 60, a0, 2 << 32

    /* set and clear, with immediates; rd is the old value */
    li t0, 0x0f
    csrw mscratch, t0
    csrrsi a0, mscratch, 0x10
    CHECK 61, a0, 0x0f
    csrrci a0, mscratch, 0x01
    CHECK 62, a0, 0x1f
    csrrwi a0, mscratch, 5
    CHECK 63, a0, 0x1e
    li a0, 9
    csrrw a0, mscratch, a0
    CHECK 64, a0, 5
    csrr a0, mscratch
    CHECK 65, a0, 9

    /* minstret counts every instruction; a write stands */
    csrr a0, minstret
    nop
    nop
    csrr a1, minstret
    sub a0, a1, a0
    CHECK 66, a0, 3
    li t0, 1000
    csrw minstret, t0
    csrr a0, minstret
    CHECK 67, a0, 1000
    li t0, 4
    csrw mcountinhibit, t0
    csrr a0, minstret
    nop
    csrr a1, minstret
    CHECK_REG 68, a0, a1
    csrw mcountinhibit, zero

    /* FS: off traps, a write makes it dirty */
    li t0, FS_ON
    csrc mstatus, t0
    ILLEGAL 70, fadd.d fa0, fa0, fa0
    ILLEGAL 71, fsd fa0, 0(sp)
    ILLEGAL 72, csrr a0, fcsr
    ILLEGAL 73, c.fld fa0, 0(a0)
    li t1, 1 << 13
    csrs mstatus, t1
    csrr a0, mstatus
    bltz a0, isa_unexpected /* SD */
    csrr a0, fcsr
    la a1, datum
    fsd fa0, 0(a1)
    csrr a0, mstatus
    and a0, a0, t0
    CHECK_REG 74, a0, t1
    fmv.d.x fa0, zero
    csrr a0, mstatus
    and a1, a0, t0
    CHECK_REG 75, a1, t0
    bgez a0, isa_unexpected
    /* rounding modes that do not exist */
    ILLEGAL 76, .word 0x02a55553 /* fadd.d, rm 5 */
    fsrmi 5
    ILLEGAL 77, fadd.d fa0, fa0, fa0
    fadd.d fa0, fa0, fa0, rne
    ILLEGAL 78, fcvt.w.d a0, fa0
    fsgnj.d fa0, fa0, fa0
    fsrmi 0

    /* interrupts: vectored, priority, delegation */
    la t0, vectors
    ori t0, t0, 1
    csrci mstatus, 1 << 3
    csrr s5, mtvec
    csrw mtvec, t0
    csrw mie, zero
    csrsi mip, 1 << 1
    li t0, 1 << 5 | 1 << 9
    csrs mip, t0
    csrr a0, mip
    CHECK 80, a0, 1 << 1 | 1 << 5 | 1 << 9
    li t0, 1 << 1 | 1 << 5 | 1 << 9
    csrw mie, t0
    li s6, 0
    csrsi mstatus, 1 << 3 /* SEI, then SSI, then STI */
    CHECK 81, s6, 0x915
    csrci mstatus, 1 << 3
    /* the M ones come first; msip from the ACLINT */
    csrsi mip, 1 << 1
    li t0, ACLINT
    li t1, 1
    sw t1, 0(t0)
1:  csrr a0, mip
    andi a0, a0, 1 << 3
    beqz a0, 1b
    li t0, 1 << 1 | 1 << 3
    csrw mie, t0
    li s6, 0
    csrsi mstatus, 1 << 3
    CHECK 82, s6, 0x31
    csrci mstatus, 1 << 3
    csrw mtvec, s5
    /* delegated: pending in S-mode only, by sie and SIE */
    li t0, 1 << 1
    csrw mideleg, t0
    csrsi mip, 1 << 1
    csrw mie, t0
    csrsi mstatus, 1 << 3
    nop /* not taken in M */
    csrci mstatus, 1 << 3
    la t0, s_interrupt
    csrw stvec, t0
    li s6, 0
    EXPECT
    ENTER MPP_S
    csrsi sstatus, 1 << 1
    j isa_unexpected
.balign 4
s_interrupt:
    csrr s6, scause
    csrci sip, 1 << 1
    csrr s4, sip
    BACK 83, CAUSE_ECALL_S
    li t0, 1 << 63 | 1
    CHECK_REG 84, s6, t0
    CHECK 85, s4, 0
    PASS

.balign 4
vectors: /* each notes its number in s6 and removes its cause */
.option push
.option norvc
    j isa_unexpected
    j v_ssi
    j isa_unexpected
    j v_msi
    j isa_unexpected
    j v_sti
    j isa_unexpected
    j isa_unexpected
    j isa_unexpected
    j v_sei
    j isa_unexpected
    j isa_unexpected
.option pop
v_ssi:
    li t0, 1
    csrci mip, 1 << 1
    j v_end
v_msi:
    li t0, ACLINT
    sw zero, 0(t0)
    li t0, 3
    j v_end
v_sti:
    li t0, 1 << 5
    csrc mip, t0
    li t0, 5
    j v_end
v_sei:
    li t0, 1 << 9
    csrc mip, t0
    li t0, 9
v_end:
    slli s6, s6, 4
    or s6, s6, t0
    mret
.data
.balign 8
datum: .dword 0
