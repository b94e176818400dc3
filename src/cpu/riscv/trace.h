/* SPDX-License-Identifier: MIT */
/*
 * Watching a hart execute, instruction by instruction and trap by trap: for debugging and tests.
 *
 * Off by default and free then. While the instruction hook is set, every instruction is decoded
 * anew and executed alone, which is some fifty times slower.
 */
#ifndef GODWIT_CPU_RISCV_TRACE_H
#define GODWIT_CPU_RISCV_TRACE_H

#include "cpu/backend.h"
#include "cpu/riscv/hart_state.h"

struct riscv_trace {
    /* Before an instruction executes. word has its 16 or 32 bits (riscv_disassemble takes it). */
    void (*insn)(void *opaque, unsigned hart, uint64_t pc, uint32_t word);
    /* When a trap is taken: cause and tval as the CSRs get them, pc of the interrupted
     * instruction. */
    void (*trap)(void *opaque, unsigned hart, uint64_t pc, uint64_t cause, uint64_t tval);
    void *opaque;
};

/* Called while the harts are stopped. trace is borrowed until the next call; NULL: off. Either hook
 * may be NULL. Hooks are called from the harts' threads and must not call the backend. */
void riscv_set_trace(struct cpu_backend *cpu, const struct riscv_trace *trace);
/* The state of one hart: to be read and changed while the harts are stopped. */
struct riscv_hart_state *riscv_state_of(struct cpu_backend *cpu, unsigned vcpu);

#endif
