/* SPDX-License-Identifier: MIT */
/*
 * AMOs, load-reserved and store-conditional on one hart. Expected values: unprivileged ISA
 * 20191213, chapter 8; misaligned ones raise address-misaligned exceptions on this hart.
 */
#include "isa.h"

/* memory, source -> memory afterwards, rd */
.macro AMO number, insn, memory, source, after, old
    li t0, \memory
    sd t0, 0(s0)
    li a1, \source
    \insn a0, a1, (s0)
    CHECK \number, a0, \old
    ld a0, 0(s0)
    CHECK \number, a0, \after
.endm

BEGIN
    la s0, datum
    AMO 1, amoswap.d, 5, 7, 7, 5
    AMO 2, amoadd.d, -1, 3, 2, -1
    AMO 3, amoxor.d, 0xff, 0x0f, 0xf0, 0xff
    AMO 4, amoand.d, 0xff, 0x10f, 0x0f, 0xff
    AMO 5, amoor.d, 0xf0, 0x0f, 0xff, 0xf0
    AMO 6, amomin.d, -5, 3, -5, -5
    AMO 7, amomin.d, 3, -5, -5, 3
    AMO 8, amomax.d, -5, 3, 3, -5
    AMO 9, amominu.d, -5, 3, 3, -5
    AMO 10, amomaxu.d, 3, -5, -5, 3
    /* .w changes four bytes only and extends the old value's sign */
    AMO 21, amoswap.w, 0x1122334480000001, 7, 0x1122334400000007, -0x7fffffff
    AMO 22, amoadd.w, 0x11223344ffffffff, 2, 0x1122334400000001, -1
    AMO 23, amoxor.w, 0x11223344000000ff, -1, 0x11223344ffffff00, 0xff
    AMO 24, amoand.w, 0x11223344f0f0f0f0, 0xff, 0x11223344000000f0, -0x0f0f0f10
    AMO 25, amoor.w, 0x1122334400000001, 0x7fffffff00000002, 0x1122334400000003, 1
    AMO 26, amomin.w, 0x1122334480000000, 1, 0x1122334480000000, -0x80000000
    AMO 27, amomax.w, 0x1122334480000000, 1, 0x1122334400000001, -0x80000000
    AMO 28, amominu.w, 0x1122334480000000, 1, 0x1122334400000001, -0x80000000
    AMO 29, amomaxu.w, 0x1122334480000000, 1, 0x1122334480000000, -0x80000000
    /* rd = rs2 and rd = x0 */
    li t0, 40
    sd t0, 0(s0)
    li a0, 2
    amoadd.d a0, a0, (s0)
    CHECK 30, a0, 40
    amoadd.d zero, a0, (s0)
    ld a0, 0(s0)
    CHECK 31, a0, 82

    /* lr/sc: success writes and gives 0 */
    lr.d a0, (s0)
    CHECK 40, a0, 82
    li a1, 83
    sc.d a2, a1, (s0)
    CHECK 41, a2, 0
    ld a0, 0(s0)
    CHECK 42, a0, 83
    /* a second sc has no reservation */
    sc.d a2, zero, (s0)
    CHECK 43, a2, 1
    ld a0, 0(s0)
    CHECK 44, a0, 83
    /* a changed datum, another address, another size */
    lr.d a0, (s0)
    li a1, 84
    sd a1, 0(s0)
    sc.d a2, zero, (s0)
    CHECK 45, a2, 1
    addi s1, s0, 8
    lr.d a0, (s0)
    sc.d a2, zero, (s1)
    CHECK 46, a2, 1
    lr.d a0, (s0)
    sc.w a2, zero, (s0)
    CHECK 47, a2, 1
    /* .w extends the sign, leaves the upper half */
    li a1, 0x1122334480000000
    sd a1, 0(s0)
    lr.w.aq a0, (s0)
    CHECK 48, a0, -0x80000000
    li a1, 9
    sc.w.rl a2, a1, (s0)
    CHECK 49, a2, 0
    ld a0, 0(s0)
    CHECK 50, a0, 0x1122334400000009
    /* a trap ends the reservation */
    lr.d a0, (s0)
    EXPECT
    ecall
    TRAPPED 51, CAUSE_ECALL_M
    sc.d a2, zero, (s0)
    CHECK 52, a2, 1

    /* misaligned, and not memory */
    addi s1, s0, 4
    EXPECT
    lr.d a0, (s1)
    TRAPPED 60, 4
    CHECK_REG 61, s9, s1
    EXPECT
    sc.d a0, a1, (s1)
    TRAPPED 62, 6
    EXPECT
    amoadd.d a0, a1, (s1)
    TRAPPED 63, 6
    addi s1, s0, 2
    EXPECT
    amoadd.w a0, a1, (s1)
    TRAPPED 64, 6
    CHECK_REG 65, s9, s1
    li s1, EXIT
    EXPECT
    amoadd.w a0, a1, (s1)
    TRAPPED 66, 7
    EXPECT
    lr.w a0, (s1)
    TRAPPED 67, 5
    PASS
.data
.balign 16
datum: .dword 0, 0
