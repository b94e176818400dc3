/* SPDX-License-Identifier: MIT */
/* What the bare-metal x86-64 programs share: constants of the pc board, the processor, the console.
 */
#ifndef GUEST_X86_H
#define GUEST_X86_H

#define TRAMPOLINE_GPA 0x8000
#define STACK_BYTES    16384
#define N_VECTORS      64
#define MAX_CPUS       8

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

/* Implemented by each program. */
void x86_main(const void *zero_page);
void x86_cpu(uint32_t id); /* the others, from 1 */
void x86_interrupt(struct frame *frame);

/* start.S */
extern char _end[];
extern uint64_t stubs_table[N_VECTORS];

/* board.c */
void interrupts_init(void); /* this processor's tables and its APIC, interrupts still off */
void others_start(void);    /* INIT and SIPI to all others */
void timer_start(uint8_t vector, uint32_t hz);
void interrupt_end(void);
void ipi_others(uint8_t vector);
uint32_t apic_id(void);
uint64_t param(const void *zero_page, const char *name, uint64_t fallback);
uint64_t ram_end(const void *zero_page); /* of the block that begins at 1 MiB */
_Noreturn void finish(void);
_Noreturn void reboot(void);

/* console.c */
int console_get(void); /* -1: nothing there */
/* %s string, %d unsigned 64-bit decimal, %x unsigned 64-bit hex. One call is one piece. */
void print(const char *format, ...);

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline void wrmsr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr" ::"c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}

static inline uint64_t rdmsr(uint32_t index)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index) : "memory");
    return (uint64_t)high << 32 | low;
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}

static inline void sleep_until_interrupt(void)
{
    __asm__ volatile("sti; hlt; cli" ::: "memory");
}

#endif
#endif
