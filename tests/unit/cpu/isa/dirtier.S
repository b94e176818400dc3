/* SPDX-License-Identifier: MIT */
/*
 * For the dirty-log test: each hart writes for ever to its own 64 pages, one word at a time in a
 * scattered order, now and then by an AMO or across a page boundary.
 */
#include "isa.h"
BEGIN
    li t0, 64 << 12
    mul t0, t0, a0
    la s0, pages
    add s0, s0, t0
    addi s1, a0, 1
    li s2, 6364136223846793005
    li s3, 64 << 12
    addi s3, s3, -8
1:  mul s1, s1, s2
    addi s1, s1, 1
    srli t0, s1, 33
    and t0, t0, s3 /* a multiple of 8 within the 64 pages */
    add t0, t0, s0
    sd s1, 0(t0)
    andi t1, s1, 0x70
    bnez t1, 1b
    amoadd.d zero, s1, (t0)
    addi t0, t0, -3 /* perhaps across a boundary; before the first page lies a spare one */
    sd s1, 0(t0)
    j 1b
.bss
.balign 4096
spare: .space 4096
pages: .space 4 * 64 * 4096
