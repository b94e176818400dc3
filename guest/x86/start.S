/* SPDX-License-Identifier: MIT */
/* Entries: the first vCPU in long mode, with the zero page in rsi; the others in real mode, at the
 * trampoline that is copied below 1 MiB, by INIT and SIPI. Interrupt stubs. */
#include "x86.h"

    .code64
    .section .text.start, "ax"
    .global _start
_start:
    cli
    lea _bss(%rip), %rdi
    lea _bss_end(%rip), %rcx
    sub %rdi, %rcx
    xor %eax, %eax
    rep stosb
    lea _stacks + STACK_BYTES(%rip), %rsp
    mov %rsi, %rdi
    call x86_main
    ud2

/* A vCPU that came through the trampoline: its number is its APIC's, from 1. */
cpu_start_64:
    mov $1, %eax
    cpuid
    shr $24, %ebx
    mov %ebx, %edi
    lea 1(%rbx), %eax
    imul $STACK_BYTES, %rax, %rax
    lea _stacks(%rip), %rsp
    add %rax, %rsp
    call x86_cpu
    ud2

/* ---- 16 bits ---- */

#define AT(label) (TRAMPOLINE_GPA + (label) - trampoline)

    .global trampoline, trampoline_cr3
    .code16
trampoline:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl AT(trampoline_gdtr)
    mov $0x20, %eax             /* PAE */
    mov %eax, %cr4
    mov AT(trampoline_cr3), %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx       /* EFER.LME */
    mov $0x100, %eax
    xor %edx, %edx
    wrmsr
    mov $0x80000011, %eax       /* PG, ET, PE */
    mov %eax, %cr0
    ljmpl $0x10, $AT(trampoline_64)
    .code64
trampoline_64:
    mov $0x18, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    movabs $cpu_start_64, %rax
    jmp *%rax
    .balign 8
trampoline_gdt:
    .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
trampoline_gdtr:
    .word trampoline_gdtr - trampoline_gdt - 1
    .long AT(trampoline_gdt)
trampoline_cr3:
    .long 0
trampoline_end:

/* ---- interrupts ---- */

    .text
    .macro stub vector, has_error
stub_\vector:
    .if \has_error == 0
    push $0
    .endif
    push $\vector
    jmp common
    .endm
    .altmacro
    .macro stubs from, to
    .set v, \from
    .rept \to - \from
    one_stub %v
    .set v, v + 1
    .endr
    .endm
    .macro one_stub v
    .if \v == 8 || (\v >= 10 && \v <= 14) || \v == 17
    stub \v, 1
    .else
    stub \v, 0
    .endif
    .endm
    stubs 0, N_VECTORS
common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, %rdi
    cld
    call x86_interrupt
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

    .section .rodata
    .global stubs_table, trampoline_bytes
    .balign 8
trampoline_bytes:
    .quad trampoline_end - trampoline
    .balign 8
stubs_table:
    .macro entry v
    .quad stub_\v
    .endm
    .set v, 0
    .rept N_VECTORS
    entry %v
    .set v, v + 1
    .endr
    .section .note.GNU-stack, "", @progbits
