/* SPDX-License-Identifier: MIT */
/*
 * Translation: Sv39 and Sv48, leaves of every size, the permission matrix with SUM, MXR and MPRV,
 * A and D bits with and without hardware updating, reserved encodings, and sfence.vma.
 * Expected values: privileged ISA 1.12, 4.3-4.5; Svade and Svadu.
 *
 * The page at virtual 0x40000000 (Sv39) is mapped by the PTE under test to `page`; the gigabyte of
 * the program itself is mapped to itself, so that S-mode runs here unchanged.
 */
#include "isa.h"

#define V 0x01
#define R 0x02
#define W 0x04
#define X 0x08
#define U 0x10
#define G 0x20
#define A 0x40
#define D 0x80

#define SUM  (1 << 18)
#define MXR  (1 << 19)
#define MPRV (1 << 17)
#define PROBE 0x40000000

/* PTE under test := page | flags */
.macro PTE flags
    la t5, page
    srli t5, t5, 2
    li t6, \flags
    or t5, t5, t6
    la t6, leaf
    sd t5, 0(t6)
    sfence.vma
.endm

/* An access by MPRV in the mode of mpp with more mstatus bits; traps with the cause, or 0x777. */
.macro ACCESS number, mpp, bits, cause, text:vararg
    li s10, NO_TRAP
    la s11, 93f
    li t5, MPP_M | SUM | MXR
    csrc mstatus, t5
    li t5, \mpp | \bits | MPRV
    csrs mstatus, t5
    \text
93: li t5, MPRV
    csrc mstatus, t5
    la s11, isa_unexpected
    CHECK \number, s10, \cause
.endm

/* Fetches and runs `page` in a mode; it does an ecall at once. */
.macro FETCH number, mpp, cause
    EXPECT
    la t5, 93f
    li t5, PROBE
    csrw mepc, t5
    li t5, MPP_M
    csrc mstatus, t5
    li t5, \mpp
    csrs mstatus, t5
    mret
93:
    TRAPPED \number, \cause
.endm

BEGIN
    /* tables: Sv39 root -> [1] mid -> [0] low -> [0] leaf; root[2] is the program's gigabyte */
    la s0, mid
    srli s0, s0, 2
    ori s0, s0, V
    la t0, root
    sd s0, 8(t0)
    li t1, 0x80000000 >> 2 | V | R | W | X | A | D
    sd t1, 16(t0)
    la s0, leaf
    srli s0, s0, 2
    ori s0, s0, V
    la t0, mid
    sd s0, 0(t0)
    la t0, root
    srli t0, t0, 12
    li t1, 8 << 60
    or t0, t0, t1
    csrw satp, t0
    csrr t1, satp
    CHECK_REG 1, t1, t0
    li s1, PROBE
    la s2, page

    /* the matrix: loads */
    PTE V | R | A | D
    ACCESS 10, MPP_S, 0, NO_TRAP, ld a0, 8(s1)
    CHECK 11, a0, 0x1234
    ACCESS 12, MPP_U, 0, 13, ld a0, 8(s1)
    CHECK 13, s9, PROBE + 8
    ACCESS 14, MPP_S, 0, 15, sd a0, 8(s1)
    FETCH 15, MPP_S, 12
    CHECK 16, s9, PROBE
    PTE V | R | W | A | D
    ACCESS 17, MPP_S, 0, NO_TRAP, sd s2, 16(s1)
    ld a0, 16(s2)
    CHECK_REG 18, a0, s2
    FETCH 19, MPP_S, 12
    PTE V | X | A | D
    ACCESS 20, MPP_S, 0, 13, ld a0, 0(s1)
    ACCESS 21, MPP_S, MXR, NO_TRAP, ld a0, 8(s1)
    ACCESS 22, MPP_S, MXR, 15, sd a0, 0(s1)
    FETCH 23, MPP_S, CAUSE_ECALL_S
    FETCH 24, MPP_U, 12
    PTE V | R | W | X | U | A | D
    ACCESS 25, MPP_U, 0, NO_TRAP, ld a0, 8(s1)
    ACCESS 26, MPP_U, 0, NO_TRAP, sd s2, 16(s1)
    ACCESS 27, MPP_S, 0, 13, ld a0, 8(s1)
    ACCESS 28, MPP_S, 0, 15, sd a0, 16(s1)
    ACCESS 29, MPP_S, SUM, NO_TRAP, ld a0, 8(s1)
    ACCESS 30, MPP_S, SUM, NO_TRAP, sd s2, 16(s1)
    ACCESS 31, MPP_S, 0, 13, ld a0, 8(s1) /* the SUM entry must not serve now */
    ACCESS 32, MPP_S, 0, 15, sd a0, 16(s1)
    FETCH 33, MPP_U, CAUSE_ECALL_U
    FETCH 34, MPP_S, 12
    li t5, SUM
    csrs mstatus, t5
    FETCH 35, MPP_S, 12
    ACCESS 36, MPP_M, 0, NO_TRAP, ld a0, 8(s2)
    PTE V | X | U | A | D
    ACCESS 37, MPP_U, 0, 13, ld a0, 8(s1)
    ACCESS 38, MPP_U, MXR, NO_TRAP, ld a0, 8(s1)
    ACCESS 39, MPP_S, MXR, 13, ld a0, 8(s1)
    ACCESS 40, MPP_S, MXR | SUM, NO_TRAP, ld a0, 8(s1)
    /* atomics are stores */
    PTE V | R | A | D
    ACCESS 41, MPP_S, 0, 15, amoadd.d a0, a0, (s1)
    ACCESS 42, MPP_S, 0, NO_TRAP, lr.d a0, (s1)
    ACCESS 43, MPP_S, 0, 15, sc.d a0, a0, (s1)
    /* invalid and reserved */
    PTE R | W | A | D
    ACCESS 44, MPP_S, 0, 13, ld a0, 0(s1)
    PTE V | W | A | D
    ACCESS 45, MPP_S, 0, 13, ld a0, 0(s1)
    PTE V | W | X | A | D
    ACCESS 46, MPP_S, 0, 15, sd a0, 0(s1)
    PTE V | R | W | A | D | 1 << 54
    ACCESS 47, MPP_S, 0, 13, ld a0, 0(s1)
    PTE V | R | W | A | D | 1 << 63
    ACCESS 48, MPP_S, 0, 13, ld a0, 0(s1)
    PTE V | A | D
    ACCESS 49, MPP_S, 0, 13, ld a0, 0(s1)
    PTE V
    ACCESS 50, MPP_S, 0, 13, ld a0, 0(s1) /* a pointer where only a leaf can be */
    PTE V | R | W | A | D | 3 << 8 /* RSW is software's */
    ACCESS 51, MPP_S, 0, NO_TRAP, ld a0, 8(s1)
    /* not canonical */
    li s3, 1 << 39
    ACCESS 52, MPP_S, 0, 13, ld a0, 0(s3)
    CHECK_REG 53, s9, s3
    /* the physical address has no memory */
    la t6, leaf
    li t5, 0x40000000 >> 2 | V | R | W | A | D
    sd t5, 0(t6)
    sfence.vma
    ACCESS 54, MPP_S, 0, 5, ld a0, 0(s1)
    ACCESS 55, MPP_S, 0, 7, sd a0, 0(s1)
    /* a page table has none either */
    la t6, mid
    ld s4, 0(t6)
    li t5, 0x40000000 >> 2 | V
    sd t5, 0(t6)
    sfence.vma
    ACCESS 56, MPP_S, 0, 5, ld a0, 0(s1)
    ACCESS 57, MPP_S, 0, 7, sd a0, 0(s1)
    la t6, mid
    sd s4, 0(t6)

    /* A and D: faults without hardware updating */
    PTE V | R | W | D
    ACCESS 60, MPP_S, 0, 13, ld a0, 8(s1)
    PTE V | R | W | A
    ACCESS 61, MPP_S, 0, NO_TRAP, ld a0, 8(s1)
    ACCESS 62, MPP_S, 0, 15, sd a0, 16(s1)
    PTE V | X
    FETCH 63, MPP_S, 12
    la t6, leaf
    ld a0, 0(t6)
    andi a0, a0, A | D
    CHECK 64, a0, 0
    /* with it: set as they are used */
    li t0, 1 << 61
    csrs menvcfg, t0
    PTE V | R | W
    ACCESS 65, MPP_S, 0, NO_TRAP, ld a0, 8(s1)
    la t6, leaf
    ld a0, 0(t6)
    andi a0, a0, A | D
    CHECK 66, a0, A
    ACCESS 67, MPP_S, 0, NO_TRAP, sd a0, 16(s1)
    la t6, leaf
    ld a0, 0(t6)
    andi a0, a0, A | D
    CHECK 68, a0, A | D
    PTE V | R
    ACCESS 69, MPP_S, 0, 15, sd a0, 16(s1) /* refused: nothing is set */
    la t6, leaf
    ld a0, 0(t6)
    andi a0, a0, A | D
    CHECK 70, a0, 0
    csrc menvcfg, t0

    /* a store across two pages of which the second is refused writes nothing */
    la t6, leaf
    sd zero, 8(t6)
    PTE V | R | W | A | D
    li s3, PROBE + 4096 - 4
    li t0, 4092
    add s4, s2, t0
    sw zero, 0(s4)
    li a1, -1
    ACCESS 71, MPP_S, 0, 15, sd a1, 0(s3)
    CHECK 72, s9, PROBE + 4096
    lw a0, 0(s4)
    CHECK 73, a0, 0

    /* sfence.vma with an address drops that page, one without drops all */
    PTE V | R | W | A | D
    ACCESS 80, MPP_S, 0, NO_TRAP, ld a0, 8(s1)
    la t6, leaf
    sd zero, 0(t6)
    sfence.vma s1, zero
    ACCESS 81, MPP_S, 0, 13, ld a0, 8(s1)
    PTE V | R | W | A | D
    ACCESS 82, MPP_S, 0, NO_TRAP, sd a0, 16(s1)
    la t6, leaf
    sd zero, 0(t6)
    sfence.vma
    ACCESS 83, MPP_S, 0, 15, sd a0, 16(s1)

    /* superpages: a 2 MiB leaf; sfence.vma on one of its addresses drops all of it */
    la t6, mid
    li t5, 0x80000000 >> 2 | V | R | W | A | D
    sd t5, 8(t6)
    sfence.vma
    li t0, PROBE + 0x200000 - 0x80000000
    add s3, s2, t0
    ACCESS 84, MPP_S, 0, NO_TRAP, ld a0, 8(s3)
    CHECK 85, a0, 0x1234
    la t6, mid
    sd zero, 8(t6)
    li t0, PROBE + 0x200000
    sfence.vma t0, zero
    ACCESS 86, MPP_S, 0, 13, ld a0, 8(s3)
    /* misaligned ones fault */
    la t6, mid
    li t5, 0x80001000 >> 2 | V | R | W | A | D
    sd t5, 8(t6)
    sfence.vma
    ACCESS 87, MPP_S, 0, 13, ld a0, 8(s3)
    la t6, root
    li t5, 0x80200000 >> 2 | V | R | W | A | D
    sd t5, 24(t6)
    sfence.vma
    li s3, 0xc0000000
    ACCESS 88, MPP_S, 0, 13, ld a0, 8(s3)
    /* 1 GiB */
    la t6, root
    li t5, 0x80000000 >> 2 | V | R | W | A | D
    sd t5, 24(t6)
    sfence.vma
    li t0, 0x40000000
    add s3, s2, t0
    ACCESS 89, MPP_S, 0, NO_TRAP, ld a0, 8(s3)
    CHECK 90, a0, 0x1234
    /* a pointer with D, A or U is reserved */
    la t6, root
    ld s4, 8(t6)
    ori t5, s4, A
    sd t5, 8(t6)
    sfence.vma
    PTE V | R | W | A | D
    ACCESS 91, MPP_S, 0, 13, ld a0, 8(s1)
    la t6, root
    sd s4, 8(t6)
    sfence.vma

    /* two address spaces by ASID, without a fence between them */
    csrr s5, satp
    la t0, root2
    la t1, mid2
    srli t1, t1, 2
    ori t1, t1, V
    sd t1, 8(t0)
    la t6, root
    ld t1, 16(t6)
    sd t1, 16(t0)
    la t0, mid2
    la t1, leaf2
    srli t1, t1, 2
    ori t1, t1, V
    sd t1, 0(t0)
    la t0, leaf2
    la t1, page2
    srli t1, t1, 2
    ori t1, t1, V | R | W | A | D
    sd t1, 0(t0)
    la s6, root2
    srli s6, s6, 12
    li t1, 8 << 60 | 1 << 44
    or s6, s6, t1
    ACCESS 92, MPP_S, 0, NO_TRAP, ld a0, 8(s1)
    CHECK 93, a0, 0x1234
    csrw satp, s6
    ACCESS 94, MPP_S, 0, NO_TRAP, ld a0, 8(s1)
    CHECK 95, a0, 0x5678
    csrw satp, s5
    ACCESS 96, MPP_S, 0, NO_TRAP, ld a0, 8(s1)
    CHECK 97, a0, 0x1234
    la t0, leaf2
    sd zero, 0(t0)
    li t1, 1
    sfence.vma zero, t1
    csrw satp, s6
    ACCESS 98, MPP_S, 0, 13, ld a0, 8(s1)

    /* Sv48: one more level; 512 GiB leaf at root48[0], the probe at [1] */
    la t0, root48
    la t1, root
    srli t1, t1, 2
    ori t1, t1, V
    sd t1, 8(t0)
    li t1, V | R | W | X | A | D
    sd t1, 0(t0)
    srli t0, t0, 12
    li t1, 9 << 60 | 2 << 44
    or t0, t0, t1
    csrw satp, t0
    csrr t1, satp
    CHECK_REG 100, t1, t0
    PTE V | R | W | X | A | D
    ACCESS 101, MPP_S, 0, NO_TRAP, ld a0, 8(s2)
    CHECK 102, a0, 0x1234
    li s3, 1 << 39 | PROBE
    ACCESS 103, MPP_S, 0, NO_TRAP, ld a0, 8(s3)
    CHECK 104, a0, 0x1234
    li s3, 1 << 47
    ACCESS 105, MPP_S, 0, 13, ld a0, 0(s3)
    la t0, root48
    li t1, 0x80000000 >> 2 | V | R | W | X | A | D /* misaligned 512 GiB */
    sd t1, 16(t0)
    sfence.vma
    li s3, 2 << 39
    ACCESS 106, MPP_S, 0, 13, ld a0, 0(s3)
    /* the same code at two virtual addresses is one page of decoded code */
    li s3, 1 << 39 | PROBE
    EXPECT
    csrw mepc, s3
    li t5, MPP_M
    csrc mstatus, t5
    li t5, MPP_S
    csrs mstatus, t5
    mret
    TRAPPED 107, CAUSE_ECALL_S
    CHECK_REG 108, s8, s3

    csrw satp, zero
    ACCESS 110, MPP_S, 0, NO_TRAP, ld a0, 8(s2)
    PASS

.data
.balign 4096
root: .space 4096
mid: .space 4096
leaf: .space 4096
root2: .space 4096
mid2: .space 4096
leaf2: .space 4096
root48: .space 4096
page:
    .word 0x00000073 /* ecall */
    .word 0
    .dword 0x1234
    .space 4096 - 16
page2:
    .dword 0, 0x5678
    .space 4096 - 16
