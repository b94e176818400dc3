/* SPDX-License-Identifier: MIT */
/*
 * Jumps, branches, loads and stores of every size, misaligned ones, and instructions that lie
 * across a page boundary. Expected values: unprivileged ISA 20191213, chapters 2, 5 and 16.
 */
#include "isa.h"
BEGIN
    /* jal and jalr: link, and jalr clears bit 0 */
    la t0, 1f
    jal ra, 2f
1:  j isa_unexpected
2:  CHECK_REG 1, ra, t0
    la t0, 3f + 1
    la t1, 4f
    jalr t2, t0
4:  j isa_unexpected
3:  CHECK_REG 2, t2, t1
    /* jalr with rd = rs1 uses the old value */
    la t0, 5f
    jalr t0, t0
    j isa_unexpected
5:
    /* every branch, taken and not */
    li a0, -1
    li a1, 1
    bltu a0, a1, isa_unexpected
    bge a0, a1, isa_unexpected
    beq a0, a1, isa_unexpected
    bne a0, a0, isa_unexpected
    blt a1, a0, isa_unexpected
    bgeu a1, a0, isa_unexpected
    li t5, 3
    bgeu a0, a1, 6f
    j isa_end
6:  blt a0, a1, 7f
    j isa_end
7:  bltu a1, a0, 8f
    j isa_end
8:  bge a1, a0, 9f
    j isa_end
9:
    /* auipc is relative to its own address */
    la t1, 10f
10: auipc t0, 0
    CHECK_REG 4, t0, t1
10: auipc t0, 0xfffff
    la t1, 10b
    li t2, -4096
    add t1, t1, t2
    CHECK_REG 5, t0, t1

    /* loads extend, stores cut */
    la s0, bytes
    lb a0, 7(s0)
    CHECK 10, a0, -0x78
    lbu a0, 7(s0)
    CHECK 11, a0, 0x88
    lh a0, 6(s0)
    CHECK 12, a0, -0x7789
    lhu a0, 6(s0)
    CHECK 13, a0, 0x8877
    lw a0, 4(s0)
    CHECK 14, a0, -0x7788999b
    lwu a0, 4(s0)
    CHECK 15, a0, 0x88776665
    ld a0, 0(s0)
    CHECK 16, a0, 0x8877666544332211
    li a1, 0x1122334455667788
    sd a1, 8(s0)
    sb zero, 8(s0)
    sh zero, 10(s0)
    ld a0, 8(s0)
    CHECK 17, a0, 0x1122334400007700
    sw zero, 12(s0)
    ld a0, 8(s0)
    CHECK 18, a0, 0x7700

    /* misaligned within a page, and across one */
    la s1, page_end
    li a1, 0x8182838485868788
    sd a1, 3(s0)
    ld a0, 3(s0)
    CHECK_REG 20, a0, a1
    sd a1, -3(s1)
    ld a0, -3(s1)
    CHECK_REG 21, a0, a1
    lbu a0, 0(s1)
    CHECK 22, a0, 0x85
    lw a0, -2(s1)
    CHECK 23, a0, -0x7b7a7979
    sh a1, -1(s1)
    lhu a0, -1(s1)
    CHECK 24, a0, 0x8788
    lbu a0, 0(s1)
    CHECK 25, a0, 0x87

    /* a misaligned access to a device is refused, an access to nothing too */
    EXPECT
    li s1, EXIT + 2
    lw a0, 0(s1)
    TRAPPED 30, 5
    CHECK 31, s9, EXIT + 2
    EXPECT
    li s1, 0x40000000
    sd a0, 8(s1)
    TRAPPED 32, 7
    CHECK 33, s9, 0x40000008
    EXPECT
    li t0, 0x40000000
    jr t0
    TRAPPED 34, 1
    CHECK 35, s9, 0x40000000
    CHECK 36, s8, 0x40000000

    /* straight-line code over a page boundary, with a 4-byte instruction across it */
    li a0, 0
    jal ra, across
    CHECK 40, a0, 2047 + 2046 + 3
    /* twice, so that the second run takes the decoded way */
    li a0, 0
    jal ra, across
    CHECK 41, a0, 2047 + 2046 + 3
    /* a branch across it */
    li a0, 5
    jal ra, across_branch
    CHECK 42, a0, 0
    /* rewriting its second half is seen after fence.i */
    la t0, across_insn + 2
    lhu t1, 0(t0)
    addi t1, t1, -0x10 /* 2046 -> 2045: imm[11:0] starts at bit 20 */
    sh t1, 0(t0)
    fence.i
    li a0, 0
    jal ra, across
    CHECK 43, a0, 2047 + 2045 + 3
    PASS

.balign 4096
.space 4096 - 6
.option push
.option norvc
across:
    addi a0, a0, 2047
across_insn:
    addi a0, a0, 2046
.option pop
    c.addi a0, 3
    ret

.balign 4096
.space 4096 - 4
across_branch:
    c.addi a0, -1
.option push
.option norvc
    bnez a0, across_branch
.option pop
    ret

.data
.balign 8
bytes: .byte 0x11, 0x22, 0x33, 0x44, 0x65, 0x66, 0x77, 0x88
    .dword 0, 0
.balign 4096
.space 4096
page_end: .dword 0, 0
