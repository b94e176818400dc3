/* SPDX-License-Identifier: MIT */
/*
 * Physical memory protection: every matching mode, priority, locks, M-mode, MPRV, fetches, accesses
 * that lie half in a region, and page walks. Expected values: privileged ISA 1.12, 3.7.
 *
 * Entry 15 lets S and U do everything unless a test says otherwise; `zone` is what is protected.
 */
#include "isa.h"
#define MPRV (1 << 17)
#define R 1
#define W 2
#define X 4
#define TOR (1 << 3)
#define NA4 (2 << 3)
#define NAPOT (3 << 3)
#define L 0x80

.macro CFG value
    li t5, \value
    csrw pmpcfg0, t5
.endm

.macro ACCESS number, mpp, cause, text:vararg
    li s10, NO_TRAP
    la s11, 93f
    li t5, MPP_M
    csrc mstatus, t5
    li t5, \mpp | MPRV
    csrs mstatus, t5
    \text
93: li t5, MPRV
    csrc mstatus, t5
    la s11, isa_unexpected
    CHECK \number, s10, \cause
.endm

.macro FETCH number, mpp, address, cause
    EXPECT
    csrw mepc, \address
    li t5, MPP_M
    csrc mstatus, t5
    li t5, \mpp
    csrs mstatus, t5
    mret
    TRAPPED \number, \cause
.endm

BEGIN
    csrw pmpcfg0, zero
    li t0, -1
    csrw pmpaddr15, t0
    csrr a0, pmpaddr15
    CHECK 1, a0, (1 << 54) - 1
    li t0, (NAPOT | R | W | X) << 56
    csrw pmpcfg2, t0
    la s0, zone
    srli s1, s0, 2
    addi s2, s0, 64

    /* nothing matches: S and U may do nothing, M everything */
    csrw pmpcfg2, zero
    ACCESS 2, MPP_S, 5, ld a0, 0(s0)
    ACCESS 3, MPP_U, 7, sd a0, 0(s0)
    ACCESS 4, MPP_M, NO_TRAP, sd a0, 0(s0)
    FETCH 5, MPP_S, s0, 1
    li t0, (NAPOT | R | W | X) << 56
    csrw pmpcfg2, t0

    /* NA4: four bytes at zone + 4 */
    addi t0, s1, 1
    csrw pmpaddr0, t0
    CFG NA4
    ACCESS 10, MPP_S, NO_TRAP, lw a0, 0(s0)
    ACCESS 11, MPP_S, 5, lw a0, 4(s0)
    addi t1, s0, 4
    CHECK_REG 12, s9, t1
    ACCESS 13, MPP_S, NO_TRAP, lw a0, 8(s0)
    ACCESS 14, MPP_S, 5, ld a0, 0(s0) /* half inside */
    ACCESS 15, MPP_S, 7, sb a0, 7(s0)
    CFG NA4 | R
    ACCESS 16, MPP_S, NO_TRAP, lw a0, 4(s0)
    ACCESS 17, MPP_S, 5, ld a0, 0(s0) /* all bytes must match the entry */
    ACCESS 18, MPP_S, 7, sw a0, 4(s0)
    ACCESS 19, MPP_M, NO_TRAP, sw a0, 4(s0)
    CFG NA4 | R | W
    ACCESS 20, MPP_U, NO_TRAP, sw a0, 4(s0)
    ACCESS 21, MPP_U, 5, lw a0, 6(s0) /* misaligned, half inside */

    /* NAPOT: 64 bytes at zone + 64 */
    srli t0, s2, 2
    ori t0, t0, 7
    csrw pmpaddr0, t0
    CFG NAPOT | R
    ACCESS 30, MPP_S, NO_TRAP, sd a0, -8(s2)
    ACCESS 31, MPP_S, 7, sd a0, 0(s2)
    ACCESS 32, MPP_S, 7, sd a0, 56(s2)
    ACCESS 33, MPP_S, NO_TRAP, sd a0, 64(s2)
    ACCESS 34, MPP_S, NO_TRAP, ld a0, 56(s2)
    ACCESS 35, MPP_S, 7, amoadd.d a0, a0, (s2)

    /* TOR: [zone, zone + 4096) with entries 0 and 1; the page is uniform */
    csrw pmpaddr0, s1
    li t0, 1024
    add t0, s1, t0
    csrw pmpaddr1, t0
    CFG (TOR | R) << 8
    ACCESS 40, MPP_S, NO_TRAP, ld a0, 0(s0)
    ACCESS 41, MPP_S, 7, sd a0, 0(s0)
    CHECK_REG 42, s9, s0
    li t0, 4096
    add t1, s0, t0
    ACCESS 43, MPP_S, NO_TRAP, sd a0, 0(t1)
    ACCESS 44, MPP_S, 7, sd a0, -8(t1)
    ACCESS 45, MPP_S, 7, sd a0, -4(t1)
    FETCH 46, MPP_S, s0, 1
    li t0, 0x73
    sw t0, 0(s0)
    fence.i
    CFG (TOR | X) << 8
    FETCH 47, MPP_S, s0, CAUSE_ECALL_S
    ACCESS 48, MPP_S, 5, ld a0, 0(s0)
    /* an empty TOR matches nothing */
    csrw pmpaddr1, s1
    CFG TOR << 8
    ACCESS 49, MPP_S, NO_TRAP, ld a0, 0(s0)

    /* the first entry that matches decides */
    addi t0, s1, 0
    csrw pmpaddr0, t0
    li t0, 1023
    or t0, s1, t0 /* zone's page and the one after: 8 KiB */
    csrw pmpaddr1, t0
    CFG (NAPOT | R) << 8 | NA4 | R | W
    ACCESS 50, MPP_S, NO_TRAP, sw a0, 0(s0)
    ACCESS 51, MPP_S, 7, sw a0, 4(s0)
    ACCESS 52, MPP_S, 7, sd a0, 0(s0)
    /* code of which some is executable: the page is fetched word by word */
    li t0, 0x73
    sw t0, 0(s0)
    fence.i
    CFG (NAPOT | R) << 8 | NA4 | X
    FETCH 53, MPP_S, s0, CAUSE_ECALL_S
    addi t1, s0, 4
    FETCH 54, MPP_S, t1, 1
    CHECK_REG 55, s9, t1
    /* a 4-byte instruction of which only the first half is executable: tval is the second half */
    li t0, 0x00000013
    sw t0, 6(s0)
    addi t0, s1, 1
    csrw pmpaddr0, t0
    addi t1, s0, 6
    FETCH 56, MPP_S, t1, 1
    CHECK_REG 57, s8, t1
    addi t1, s0, 8
    CHECK_REG 58, s9, t1

    /* W without R is not taken */
    CFG NA4 | W
    csrr a0, pmpcfg0
    CHECK 60, a0, NA4

    /* page walks are S-mode loads */
    la t0, root
    li t1, 0x80000000 >> 2 | 0xcf
    sd t1, 16(t0)
    srli t1, t0, 2
    ori t1, t1, 511
    csrw pmpaddr0, t1
    CFG NAPOT
    srli t0, t0, 12
    li t1, 8 << 60
    or t0, t0, t1
    csrw satp, t0
    ACCESS 61, MPP_S, 5, ld a0, 0(s0)
    ACCESS 62, MPP_S, 7, sd a0, 0(s0)
    FETCH 63, MPP_S, s0, 1
    CFG NAPOT | R
    ACCESS 64, MPP_S, NO_TRAP, ld a0, 0(s0)
    csrw satp, zero

    /* locked: binds M-mode, and neither it nor a TOR's lower bound can be changed */
    addi t0, s1, 16
    csrw pmpaddr0, t0
    addi t0, s1, 18
    csrw pmpaddr1, t0
    CFG (L | TOR | R) << 8
    ACCESS 70, MPP_M, NO_TRAP, ld a0, 64(s0)
    EXPECT
    sd a0, 64(s0)
    TRAPPED 71, 7
    sd a0, 72(s0)
    csrw pmpaddr0, zero
    csrr a0, pmpaddr0
    addi t0, s1, 16
    CHECK_REG 72, a0, t0
    csrw pmpaddr1, zero
    csrr a0, pmpaddr1
    addi t0, s1, 18
    CHECK_REG 73, a0, t0
    CFG 0
    csrr a0, pmpcfg0
    CHECK 74, a0, (L | TOR | R) << 8
    PASS
.data
.balign 8192
zone:
    .word 0x00000073 /* ecall */
    .space 8192 - 4
root: .space 4096
