/* SPDX-License-Identifier: MIT */
/* What the bare-metal programs share: the board, the console, the device tree, a few lines of libc.
 */
#ifndef GUEST_BARE_H
#define GUEST_BARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_HARTS 8u

struct board {
    uint64_t ram_base;
    uint64_t ram_bytes;
    uint64_t timebase_hz;
    uint32_t harts;
    char bootargs[512];
};

/* Implemented by each program. */
void bare_main(uint64_t hartid, const void *fdt);
void bare_hart(uint64_t hartid);
void bare_trap(uint64_t cause, uint64_t epc, uint64_t tval);

/* start.S */
extern char _end[];
void fp_fill(uint64_t seed);
int fp_check(uint64_t seed);

/* board.c */
void board_read(struct board *board, const void *fdt);
uint64_t board_param(const struct board *board, const char *name, uint64_t fallback);
int board_choice(const struct board *board, const char *name, const char *const *names,
                 int name_count, int fallback);
uint64_t mtime(void);
void mtimecmp_set(uint64_t hartid, uint64_t value);
void ipi_set(uint64_t hartid, bool is_raised);
_Noreturn void finish_pass(void);
_Noreturn void finish_fail(uint16_t code);
_Noreturn void finish_reboot(void);

/* console.c */
int console_get(void); /* -1: nothing there */
/* %s string, %d unsigned 64-bit decimal, %x unsigned 64-bit hex. One call is one piece: harts do
 * not interleave. */
void print(const char *format, ...);

#define csr_read(name)                                                                             \
    ({                                                                                             \
        uint64_t value_;                                                                           \
        __asm__ volatile("csrr %0, " #name : "=r"(value_)::"memory");                              \
        value_;                                                                                    \
    })
#define csr_write(name, value) __asm__ volatile("csrw " #name ", %0" ::"r"(value) : "memory")
#define csr_set(name, value)   __asm__ volatile("csrs " #name ", %0" ::"r"(value) : "memory")
#define csr_clear(name, value) __asm__ volatile("csrc " #name ", %0" ::"r"(value) : "memory")
#define wfi()                  __asm__ volatile("wfi" ::: "memory")

#endif
