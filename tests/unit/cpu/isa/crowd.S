/* SPDX-License-Identifier: MIT */
/*
 * For the count of dirty pages: every hart writes for ever to the same 64 pages, one word at a time
 * in a scattered order of its own.
 */
#include "isa.h"
BEGIN
    la s0, pages
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
    j 1b
.bss
.balign 4096
pages: .space 64 * 4096
