/* SPDX-License-Identifier: MIT */
/*
 * The smallest board a hart can be tested on: RAM at 0x80000000, a console byte, an exit register
 * and the ACLINT's three registers. It borrows the `virt` board's addresses.
 *
 *   0x00100000  word written: exit; 0x5555 is 0, 0x3333 | code << 16 is code
 *   0x02000000  msip, 4 bytes a hart; 0x02004000 mtimecmp, 8 bytes a hart; 0x0200bff8 mtime
 *   0x10000000  byte written: console (offset 5 reads 0x60: transmitter empty)
 *   0x10000100  word written: raises SEIP of the hart of that number; 0x10000104 lowers it
 *
 * Threads: made, run and freed by one thread.
 */
#ifndef TESTS_CPU_TINY_BOARD_H
#define TESTS_CPU_TINY_BOARD_H

#include "cpu/backend.h"

#define TINY_RAM_BASE UINT64_C(0x80000000)

struct tiny_board {
    struct gw_memory *memory;
    struct gw_ram_block *ram;
    struct guest_clock clock;
    struct cpu_backend *cpu;
    unsigned n_harts;
    pthread_mutex_t lock;
    pthread_cond_t ended; /* guarded by lock, as are the following */
    bool has_ended;
    unsigned code;
    GString *console;
    uint64_t msip;  /* atomic, a bit for each hart */
    uint64_t entry; /* of the loaded program */
    char *program;  /* path of what was loaded */
    char *fatal;    /* guarded by lock: what the backend said, or NULL */
};

struct tiny_board *tiny_board_new(unsigned n_harts, uint64_t ram_bytes);
void tiny_board_free(struct tiny_board *board);
/* Loads a static ELF64; every hart's entry is the program's. */
bool tiny_board_load(struct tiny_board *board, const char *path, GError **error);
/* The address of a symbol of the loaded program; 0: it has none. */
uint64_t tiny_board_symbol(const struct tiny_board *board, const char *name);
/* Runs until the guest writes the exit register; false after deadline_ms. Harts are stopped. */
bool tiny_board_run(struct tiny_board *board, unsigned deadline_ms, unsigned *code);

#endif
