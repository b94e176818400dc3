/* SPDX-License-Identifier: MIT */
/*
 * Code that changes code, on one hart: after fence.i the new instructions run, whether they were
 * written near or far, through another virtual address, or by an AMO.
 * Expected values: unprivileged ISA 20191213, chapter 3.
 */
#include "isa.h"
#define ADDI_1 0x00150513 /* addi a0, a0, 1 */
#define ADDI_2 0x00250513
#define ADDI_3 0x00350513
BEGIN
    /* another page's code, run before and after */
    la s0, patched
    li s1, 200
    li a0, 0
    li s3, 0
again:
    li t0, ADDI_1
    sw t0, 0(s0)
    fence.i
    jalr s0
    li t0, ADDI_2
    sw t0, 0(s0)
    fence.i
    jalr s0
    addi s3, s3, 3
    addi s1, s1, -1
    bnez s1, again
    CHECK_REG 1, a0, s3

    /* the page that is executing, ahead of itself */
    li s1, 50
    li a0, 0
    la s2, ahead
    j 1f
.balign 64
1:  li t0, ADDI_1
    andi t1, s1, 1
    slli t1, t1, 20
    add t0, t0, t1 /* + 1 or + 2 */
    sw t0, 0(s2)
    fence.i
.option push
.option norvc
ahead:
    addi a0, a0, 0
.option pop
    addi s1, s1, -1
    bnez s1, 1b
    CHECK 2, a0, 75

    /* by an AMO, and by bytes */
    li t0, ADDI_1 ^ ADDI_3
    li a0, 0
    li t1, ADDI_1
    sw t1, 0(s0)
    fence.i
    jalr s0
    amoxor.w zero, t0, (s0)
    fence.i
    jalr s0
    CHECK 3, a0, 4
    li t1, 0x15
    sb t1, 2(s0)
    fence.i
    jalr s0
    CHECK 4, a0, 5

    /* through another virtual address */
    la t0, root
    li t1, 0x80000000 >> 2 | 0xcf
    sd t1, 16(t0)
    sd t1, 24(t0)
    srli t0, t0, 12
    li t1, 8 << 60
    or t0, t0, t1
    csrw satp, t0
    sfence.vma
    EXPECT
    ENTER MPP_S
    li t0, 0x40000000
    add s4, s0, t0
    li s1, 100
    li a0, 0
1:  li t0, ADDI_1
    sw t0, 0(s4)
    fence.i
    jalr s0
    li t0, ADDI_2
    sw t0, 0(s0)
    fence.i
    jalr s4
    addi s1, s1, -1
    bnez s1, 1b
    BACK 5, CAUSE_ECALL_S
    CHECK 6, a0, 300
    csrw satp, zero

    /* data beside code: the page is written all the time and stays right */
    li s1, 1000
    li a0, 0
    li t1, ADDI_1
    sw t1, 0(s0)
    fence.i
1:  sd s1, 64(s0)
    jalr s0
    ld t0, 64(s0)
    CHECK_REG 7, t0, s1
    andi t0, s1, 63
    bnez t0, 2f
    fence.i
2:  addi s1, s1, -1
    bnez s1, 1b
    CHECK 8, a0, 1000
    PASS

.data
.balign 4096
patched:
    .word 0, 0x00008067 /* ret */
    .space 4096 - 8
root: .space 4096
