/* SPDX-License-Identifier: MIT */
/*
 * From instruction words to operands, driven by insn.def.
 */
#ifndef GODWIT_CPU_RISCV_DECODE_H
#define GODWIT_CPU_RISCV_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What exec.c has a label for: every 32-bit instruction and the builder's own steps. */
enum riscv_handler {
    H_NONE,
#define INSN(id, mnemonic, match, mask, format, kind) H_##id,
#define RVC(id, mnemonic, match, mask, format, handler)
#define STEP(id) H_##id,
#include "cpu/riscv/insn.def"
#undef INSN
#undef RVC
#undef STEP
    N_HANDLERS
};

enum insn_kind { KIND_PLAIN, KIND_BRANCH, KIND_JUMP, KIND_END };

enum insn_format {
    /* 32 bits */
    FMT_NONE,
    FMT_R,
    FMT_R1, /* one source */
    FMT_I,
    FMT_SH6,
    FMT_SH5,
    FMT_LOAD,
    FMT_STORE,
    FMT_B,
    FMT_U,
    FMT_J,
    FMT_JALR,
    FMT_FENCE,
    FMT_SFENCE,
    FMT_CSR,
    FMT_CSRI,
    FMT_LR,
    FMT_AMO,
    FMT_FLOAD,
    FMT_FSTORE,
    FMT_FR,
    FMT_FR_RM,
    FMT_FR1_RM,
    FMT_FR4_RM,
    FMT_FCMP,
    FMT_F_TO_X,
    FMT_F_TO_X_RM,
    FMT_X_TO_F,
    FMT_X_TO_F_RM,
    /* 16 bits */
    FMT_C_NONE,
    FMT_CIW,
    FMT_CL_W,
    FMT_CL_D,
    FMT_CL_FD,
    FMT_CS_W,
    FMT_CS_D,
    FMT_CS_FD,
    FMT_CI,
    FMT_CI_LI,
    FMT_CI_LUI,
    FMT_CI_16SP,
    FMT_CI_SH,
    FMT_CI_WSP,
    FMT_CI_DSP,
    FMT_CI_FDSP,
    FMT_CSS_W,
    FMT_CSS_D,
    FMT_CSS_FD,
    FMT_CB_SH,
    FMT_CB_I,
    FMT_CB,
    FMT_CA,
    FMT_CJ,
    FMT_CR,
    FMT_CR_MV,
    FMT_CR_JR,
    FMT_CR_JALR,
    N_FORMATS
};

struct insn {
    const char *mnemonic;
    uint32_t match;
    uint32_t mask;
    uint16_t handler; /* enum riscv_handler */
    uint8_t format;   /* enum insn_format */
    uint8_t kind;     /* enum insn_kind */
    uint8_t length;   /* 2 or 4 */
};

extern const struct insn riscv_insns[];
extern const size_t riscv_n_insns;

/* Operands of one instruction; those the format lacks are 0. Compressed instructions look like
 * the ones they stand for. */
struct decoded {
    uint16_t handler;
    uint8_t format;
    uint8_t kind;
    uint8_t length;
    uint8_t rd, rs1, rs2, rs3, rm;
    int32_t imm; /* CSR formats: the CSR number; CSRI: rs1 holds the immediate */
};

/* Lists of candidate rows by the bits all formats share, so that decoding looks at few rows. */
struct riscv_decoder {
    uint16_t bucket[256 + 32][48]; /* row + 1, 0 ends */
};

struct riscv_decoder *riscv_decoder_new(void);
void riscv_decoder_free(struct riscv_decoder *decoder);
/* 2 or 4, from the low bits of the first half. */
static inline unsigned riscv_insn_length(uint16_t first_half)
{
    return (first_half & 3) == 3 ? 4 : 2;
}
/* NULL when no row matches. */
const struct insn *riscv_find_insn(const struct riscv_decoder *decoder, uint32_t word);
/* Words that match no row, and reserved ones, decode to H_illegal (KIND_END). */
void riscv_decode(const struct riscv_decoder *decoder, uint32_t word, struct decoded *out);
void riscv_operands(const struct insn *insn, uint32_t word, struct decoded *out);

/* Writes "mnemonic operands" (at most size bytes with the final NUL) for traces and people. */
void riscv_disassemble(uint32_t word, uint64_t pc, char *text, size_t size);

#endif
