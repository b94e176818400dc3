/* SPDX-License-Identifier: MIT */
/* Entry, traps and the floating-point register check of the bare-metal programs.
 *
 * Hart 0 clears .bss and calls bare_main(0, fdt). The others sleep until hart 0 sends them a
 * software interrupt (an IPI, not a variable: it is right after a reset that leaves RAM alone),
 * then call bare_hart(hartid). Harts beyond the eighth sleep for ever. */
#define STACK_SHIFT 14
#define CLINT_MSIP 0x02000000

    .option arch, +zicsr, +d
    .section .text.start, "ax"
    .globl _start
_start:
    csrw mie, zero
    csrw mstatus, zero
    la t0, trap_entry
    csrw mtvec, t0
    csrr s0, mhartid
    mv s1, a1
    li t0, 8
    bgeu s0, t0, park
    addi t0, s0, 1
    slli t0, t0, STACK_SHIFT
    la sp, _stacks
    add sp, sp, t0
    bnez s0, secondary

    la t0, _bss
    la t1, _bss_end
1:  bgeu t0, t1, 2f
    sd zero, 0(t0)
    addi t0, t0, 8
    j 1b
2:  mv a0, s0
    mv a1, s1
    call bare_main
    j park

secondary:
    li t0, 8
    csrs mie, t0            /* MSIE wakes WFI though mstatus.MIE is off */
3:  wfi
    csrr t0, mip
    andi t0, t0, 8
    beqz t0, 3b
    li t0, CLINT_MSIP
    slli t1, s0, 2
    add t0, t0, t1
    sw zero, 0(t0)
    csrw mie, zero
    mv a0, s0
    call bare_hart

park:
    csrw mie, zero
4:  wfi
    j 4b

/* Saves what a C function may clobber, calls bare_trap(mcause, mepc, mtval). */
    .balign 4
trap_entry:
    addi sp, sp, -128
    sd ra, 0(sp)
    sd t0, 8(sp)
    sd t1, 16(sp)
    sd t2, 24(sp)
    sd a0, 32(sp)
    sd a1, 40(sp)
    sd a2, 48(sp)
    sd a3, 56(sp)
    sd a4, 64(sp)
    sd a5, 72(sp)
    sd a6, 80(sp)
    sd a7, 88(sp)
    sd t3, 96(sp)
    sd t4, 104(sp)
    sd t5, 112(sp)
    sd t6, 120(sp)
    csrr a0, mcause
    csrr a1, mepc
    csrr a2, mtval
    call bare_trap
    ld ra, 0(sp)
    ld t0, 8(sp)
    ld t1, 16(sp)
    ld t2, 24(sp)
    ld a0, 32(sp)
    ld a1, 40(sp)
    ld a2, 48(sp)
    ld a3, 56(sp)
    ld a4, 64(sp)
    ld a5, 72(sp)
    ld a6, 80(sp)
    ld a7, 88(sp)
    ld t3, 96(sp)
    ld t4, 104(sp)
    ld t5, 112(sp)
    ld t6, 120(sp)
    addi sp, sp, 128
    mret

#define EACH_F .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31

/* void fp_fill(uint64_t seed): f<n> = seed + n, as bits. Turns the unit on. */
    .globl fp_fill
fp_fill:
    li t0, 0x2000
    csrs mstatus, t0
    EACH_F
    addi t0, a0, \n
    fmv.d.x f\n, t0
    .endr
    ret

/* int fp_check(uint64_t seed): 0, or 1 + the number of the first wrong register. */
    .globl fp_check
fp_check:
    EACH_F
    addi t0, a0, \n
    fmv.x.d t1, f\n
    li t2, \n + 1
    bne t0, t1, 5f
    .endr
    li t2, 0
5:  mv a0, t2
    ret
