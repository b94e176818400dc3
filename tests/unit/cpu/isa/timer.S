/* SPDX-License-Identifier: MIT */
/*
 * Time: mtimecmp, Sstc's stimecmp, and wfi that ends with them. Expected values: privileged ISA
 * 1.12, 3.2.1 and 3.3.3; Sstc 0.5.4. Nothing here depends on how long anything takes.
 */
#include "isa.h"
#define STCE (1 << 63)
BEGIN
    li s0, MTIMECMP
    li s1, MTIME
    /* MTIP follows the comparison, at once */
    sd zero, 0(s0)
    csrr a0, mip
    andi a0, a0, 1 << 7
    CHECK 1, a0, 1 << 7
    li t0, -1
    sd t0, 0(s0)
    csrr a0, mip
    andi a0, a0, 1 << 7
    CHECK 2, a0, 0
    ld a0, 0(s0)
    CHECK 3, a0, -1
    /* time and mtime are the same counter and do not go back */
    csrr a0, time
    ld a1, 0(s1)
    csrr a2, time
    bltu a1, a0, isa_unexpected
    bltu a2, a1, isa_unexpected

    /* wfi ends when the timer pends, although interrupts are off */
    li t0, 1 << 7
    csrw mie, t0
    csrci mstatus, 1 << 3
    ld t0, 0(s1)
    li t1, 20000 /* 2 ms */
    add s2, t0, t1
    sd s2, 0(s0)
    wfi
    ld a0, 0(s1)
    bltu a0, s2, isa_unexpected
    csrr a0, mip
    andi a0, a0, 1 << 7
    CHECK 4, a0, 1 << 7

    /* an interrupt is taken out of wfi; mepc is behind it */
    ld t0, 0(s1)
    li t1, 20000
    add t0, t0, t1
    sd t0, 0(s0)
    EXPECT
    csrsi mstatus, 1 << 3
1:  wfi
2:  j 1b
95: la s11, isa_unexpected
    li t0, 1 << 63 | 7
    CHECK_REG 5, s10, t0
    la t0, 2b
    CHECK_REG 6, s8, t0
    csrci mstatus, 1 << 3

    /* a running loop is interrupted, too */
    ld t0, 0(s1)
    li t1, 20000
    add t0, t0, t1
    sd t0, 0(s0)
    EXPECT
    csrsi mstatus, 1 << 3
1:  addi a0, a0, 1
    j 1b
95: la s11, isa_unexpected
    li t0, 1 << 63 | 7
    CHECK_REG 7, s10, t0
    csrci mstatus, 1 << 3
    li t0, -1
    sd t0, 0(s0)
    csrw mie, zero

    /* Sstc: off, stimecmp is M's only and STIP is software's */
    EXPECT
    ENTER MPP_S
    csrw stimecmp, zero
    TRAPPED 10, CAUSE_ILLEGAL
    csrw stimecmp, zero
    csrr a0, mip
    andi a0, a0, 1 << 5
    CHECK 11, a0, 0
    /* on, STIP follows the comparison and cannot be written */
    li t0, STCE
    csrs menvcfg, t0
    csrr a0, mip
    andi a0, a0, 1 << 5
    CHECK 12, a0, 1 << 5
    li t0, 1 << 5
    csrc mip, t0
    csrr a0, mip
    andi a0, a0, 1 << 5
    CHECK 13, a0, 1 << 5
    li t0, -1
    csrw stimecmp, t0
    csrr a0, mip
    andi a0, a0, 1 << 5
    CHECK 14, a0, 0
    /* S-mode needs mcounteren.TM, too */
    csrw mcounteren, zero
    EXPECT
    ENTER MPP_S
    csrw stimecmp, zero
    TRAPPED 15, CAUSE_ILLEGAL
    csrwi mcounteren, 2
    /* S-mode's own timer interrupt out of S-mode's wfi */
    li t0, 1 << 5
    csrw mideleg, t0
    csrw mie, t0
    la t0, s_trap
    csrw stvec, t0
    EXPECT
    ENTER MPP_S
    csrsi sstatus, 1 << 1
    csrr t0, time
    li t1, 20000
    add s2, t0, t1
    csrw stimecmp, s2
1:  wfi
    j 1b
.balign 4
s_trap:
    csrr s3, scause
    csrr s4, time
    BACK 16, CAUSE_ECALL_S
    li t0, 1 << 63 | 5
    CHECK_REG 17, s3, t0
    bltu s4, s2, isa_unexpected
    /* taking STCE away gives STIP back to software */
    li t0, STCE
    csrc menvcfg, t0
    csrr a0, mip
    andi a0, a0, 1 << 5
    CHECK 18, a0, 0
    PASS
