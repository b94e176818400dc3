/* SPDX-License-Identifier: MIT */
/*
 * Four harts: atomics under contention, a lock, message passing with fences, software interrupts
 * out of wfi, and code that one hart writes and another runs.
 */
#include "isa.h"
#define ROUNDS 3000
#define PAUSE .word 0x0100000f

BEGIN
    mv s0, a0 /* our number */
    csrr t0, mhartid
    CHECK_REG 1, t0, s0
    li t0, 1 << 3
    csrw mie, t0
    csrci mstatus, 1 << 3

    /* counters by amoadd, lr/sc and a lock */
    li s1, ROUNDS
    la s2, counters
1:  li t0, 1
    amoadd.d zero, t0, 0(s2)
    addi t1, s2, 8
2:  lr.d t0, (t1)
    addi t0, t0, 1
    sc.d t2, t0, (t1)
    bnez t2, 2b
    addi t1, s2, 16
    li t0, 1
    j 10f
3:  PAUSE
10: amoswap.w.aq t2, t0, (t1)
    bnez t2, 3b
    ld t0, 24(s2)
    addi t0, t0, 1
    sd t0, 24(s2)
    amoswap.w.rl zero, zero, (t1)
    addi s1, s1, -1
    bnez s1, 1b
    jal ra, barrier
    ld a0, 0(s2)
    CHECK 2, a0, 4 * ROUNDS
    ld a0, 8(s2)
    CHECK 3, a0, 4 * ROUNDS
    ld a0, 24(s2)
    CHECK 4, a0, 4 * ROUNDS
    jal ra, barrier

    /* store buffering: with full fences, two harts cannot both miss the other's store */
    li t0, 2
    bgeu s0, t0, 5f
    la s3, flags
    slli t0, s0, 3
    add s4, s3, t0 /* ours */
    xori t0, t0, 8
    add s5, s3, t0 /* the other's */
    la s6, seen
    slli t0, s0, 17
    add s6, s6, t0
    li s1, 0
4:  addi s1, s1, 1
    sd s1, 0(s4)
    fence rw, rw
    ld t0, 0(s5)
    sd t0, 0(s6)
    addi s6, s6, 8
    /* meet: wait until both have done round s1 */
    addi t1, s4, 16
    fence rw, rw
    sd s1, 0(t1)
    addi t1, s5, 16
    j 10f
6:  PAUSE
10: ld t0, 0(t1)
    bltu t0, s1, 6b
    fence rw, rw
    li t0, 500
    bltu s1, t0, 4b
5:  jal ra, barrier
    bnez s0, 8f
    la s6, seen
    li t0, 1 << 17
    add s7, s6, t0
    li s1, 1
7:  ld t0, 0(s6)
    ld t1, 0(s7)
    li t5, 5
    bgeu t0, s1, 9f
    bgeu t1, s1, 9f
    j isa_end
9:  addi s6, s6, 8
    addi s7, s7, 8
    addi s1, s1, 1
    li t0, 500
    bgeu t0, s1, 7b
8:  jal ra, barrier

    /* a token goes round by software interrupts; everyone else sleeps in wfi */
    li s1, 100
    bnez s0, 11f
    jal ra, pass_token
11: jal ra, wait_token
    la t0, token
    ld t1, 0(t0)
    addi t1, t1, 1
    sd t1, 0(t0)
    jal ra, pass_token
    addi s1, s1, -1
    bnez s1, 11b
    li t0, 1
    bne s0, t0, 12f
    jal ra, wait_token /* the token ends at hart 1 */
12: jal ra, barrier
    la t0, token
    ld a0, 0(t0)
    CHECK 6, a0, 400

    /* code written by hart 0 and run by the others: it is told by a flag, and does fence.i */
    la s3, patched
    la s4, version
    la s5, done
    li s1, 1
13: bnez s0, 15f
    li t0, 0x00000513 /* addi a0, zero, s1 */
    slli t1, s1, 20
    or t0, t0, t1
    sw t0, 0(s3)
    fence rw, rw
    sd s1, 0(s4)
14: PAUSE
    ld t0, 0(s5)
    li t1, 3
    mul t1, t1, s1
    bltu t0, t1, 14b
    j 17f
15: PAUSE
    ld t0, 0(s4)
    bltu t0, s1, 15b
    fence rw, rw
    fence.i
    jalr s3
    CHECK_REG 7, a0, s1
    li t0, 1
    amoadd.d zero, t0, (s5)
17: addi s1, s1, 1
    li t0, 200
    bgeu t0, s1, 13b
    jal ra, barrier
    bnez s0, sleep
    PASS
sleep:
    csrw mie, zero
    wfi
    j sleep

/* All four harts arrive before any leaves. */
barrier:
    la t0, barrier_count
    li t1, 1
    amoadd.d t2, t1, (t0)
    srli t2, t2, 2
    addi t2, t2, 1
    slli t2, t2, 2 /* the count at which this round is full */
1:  PAUSE
    fence rw, rw
    ld t1, 0(t0)
    bltu t1, t2, 1b
    fence rw, rw
    ret

pass_token:
    addi t0, s0, 1
    andi t0, t0, 3
    slli t0, t0, 2
    li t1, ACLINT
    add t1, t1, t0
    li t0, 1
    fence rw, rw
    sw t0, 0(t1)
    ret

wait_token:
    wfi
    csrr t0, mip
    andi t0, t0, 1 << 3
    beqz t0, wait_token
    slli t0, s0, 2
    li t1, ACLINT
    add t1, t1, t0
    sw zero, 0(t1)
    fence rw, rw
    ret

.data
.balign 4096
counters: .dword 0, 0, 0, 0
.balign 64
flags: .dword 0, 0, 0, 0
.balign 64
barrier_count: .dword 0
token: .dword 0
version: .dword 0
done: .dword 0
.balign 4096
patched:
    .word 0, 0x00008067
    .space 4096 - 8
.bss
.balign 64
seen: .space 1 << 18
