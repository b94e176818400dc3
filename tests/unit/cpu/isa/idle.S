/* SPDX-License-Identifier: MIT */
/*
 * For tests of stopping and waking: counts machine external interrupts (SEIP here, not delegated)
 * in s0 and sleeps in between; the handler asks the board to lower the line.
 */
#include "isa.h"
BEGIN
    la t0, handler
    csrw mtvec, t0
    li s0, 0
    li t0, 1 << 9
    csrw mie, t0
    csrsi mstatus, 1 << 3
1:  wfi
    j 1b
.balign 4
handler:
    addi s0, s0, 1
    li t0, SEIP_LOWER
    sw zero, 0(t0)
    mret
