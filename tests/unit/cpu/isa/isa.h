/* SPDX-License-Identifier: MIT */
/*
 * What the assembly tests share. Each program runs in M-mode on the test board (tiny_board.h) and
 * ends by writing the exit register: 0 when all is right, else the number of the failed check.
 *
 * Registers: t5 and t6 belong to the macros. After a trap s10 holds its cause, s9 tval, s8 epc, s7
 * mstatus at the trap; execution goes on in M-mode at the address in s11.
 */
#ifndef ISA_H
#define ISA_H

#define EXIT       0x00100000
#define ACLINT     0x02000000
#define MTIMECMP   0x02004000
#define MTIME      0x0200bff8
#define SEIP_RAISE 0x10000100
#define SEIP_LOWER 0x10000104

#define NO_TRAP 0x777

#define MPP_U 0
#define MPP_S (1 << 11)
#define MPP_M (3 << 11)
#define FS_ON (3 << 13)

/* Ends the program with the number in t5 (0: passed). */
.macro EXIT_T5
    li t6, EXIT
    beqz t5, 98f
    slli t5, t5, 16
    li s0, 0x3333
    or t5, t5, s0
    sw t5, 0(t6)
97: j 97b
98: li t5, 0x5555
    sw t5, 0(t6)
99: j 99b
.endm

.macro PASS
    li t5, 0
    j isa_end
.endm

/* Entry: every hart comes here with its number in a0; the others go to `others` if it exists. */
.macro BEGIN
.text
.globl _start
_start:
    la t0, isa_trap
    csrw mtvec, t0
    li t0, FS_ON
    csrs mstatus, t0
    li t0, -1
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    li s10, NO_TRAP
    la s11, isa_unexpected
    j isa_main
isa_unexpected:
    li t5, 0x7000
    add t5, t5, s10
isa_end:
    EXIT_T5
.balign 4
isa_trap:
    csrr s10, mcause
    csrr s9, mtval
    csrr s8, mepc
    csrr s7, mstatus
    csrw mepc, s11
    li t6, 1 << 7 /* interrupts stay off */
    csrc mstatus, t6
    li t6, MPP_M
    csrs mstatus, t6
    mret
isa_main:
.endm

.macro CHECK number, reg, value
    li t5, \number
    li t6, \value
    beq \reg, t6, 96f
    j isa_end
96:
.endm

.macro CHECK_REG number, reg, other
    li t5, \number
    beq \reg, \other, 96f
    j isa_end
96:
.endm

/* What follows up to TRAPPED is expected to trap. */
.macro EXPECT
    li s10, NO_TRAP
    la s11, 95f
.endm

.macro TRAPPED number, cause
95: la s11, isa_unexpected
    CHECK \number, s10, \cause
.endm

/* What follows was expected not to trap, in whatever mode; goes back to M by an ecall. */
.macro BACK number, cause
    ecall
95: la s11, isa_unexpected
    CHECK \number, s10, \cause
.endm

/* Goes on behind the macro in the given mode. */
.macro ENTER mpp
    la t5, 94f
    csrw mepc, t5
    li t5, MPP_M
    csrc mstatus, t5
    li t5, \mpp
    csrs mstatus, t5
    mret
94:
.endm

#define CAUSE_ILLEGAL 2
#define CAUSE_BREAK   3
#define CAUSE_ECALL_U 8
#define CAUSE_ECALL_S 9
#define CAUSE_ECALL_M 11

#endif
