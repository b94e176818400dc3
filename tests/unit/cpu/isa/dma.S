/* SPDX-License-Identifier: MIT */
/*
 * For the test of writes by devices: waits for the host to count `version` up, runs the code that
 * the host wrote to `patched` before, and reports its result. Ends at version 0xffff.
 */
#include "isa.h"
BEGIN
    la s0, mailbox
    la s1, patched
    li s2, 0
    li s3, 0xffff
1:  .word 0x0100000f /* pause */
    ld t0, 0(s0)
    beq t0, s2, 1b
    mv s2, t0
    beq s2, s3, 2f
    fence rw, rw
    fence.i
    jalr s1
    sd a0, 8(s0)
    fence rw, rw
    sd s2, 16(s0) /* done with this version */
    j 1b
2:  PASS
.data
.balign 4096
patched:
    .word 0x00000513, 0x00008067 /* li a0, 0; ret */
    .space 4096 - 8
.globl mailbox
mailbox: .dword 0, 0, 0
