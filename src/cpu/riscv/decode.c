/* SPDX-License-Identifier: MIT */
/*
 * Decoding: finds the row of insn.def that a word matches and takes the operands out of it.
 *
 * SPEC: unprivileged ISA 20191213, 2.2-2.3 (formats), 16 (compressed formats).
 */
#include <glib.h>

#include "cpu/riscv/decode.h"

const struct insn riscv_insns[] = {
#define INSN(id, mnemonic, match, mask, format, kind)                                              \
    {mnemonic, match, mask, H_##id, FMT_##format, KIND_##kind, 4},
#define RVC(id, mnemonic, match, mask, format, handler)                                            \
    {mnemonic, match, mask, H_##handler, FMT_##format, KIND_PLAIN, 2},
#define STEP(id)
#include "cpu/riscv/insn.def"
#undef INSN
#undef RVC
#undef STEP
};

const size_t riscv_n_insns = G_N_ELEMENTS(riscv_insns);

static const uint8_t handler_kind[N_HANDLERS] = {
#define INSN(id, mnemonic, match, mask, format, kind) [H_##id] = KIND_##kind,
#define RVC(id, mnemonic, match, mask, format, handler)
#define STEP(id)
#include "cpu/riscv/insn.def"
#undef INSN
#undef RVC
#undef STEP
    [H_illegal] = KIND_END,
};

/* The bits every 32-bit row fixes are the opcode; funct3 where its mask has it. */
static unsigned bucket_of(uint32_t word)
{
    if ((word & 3) == 3) {
        return ((word >> 2) & 31) << 3 | ((word >> 12) & 7);
    }
    return 256 + ((word & 3) << 3 | ((word >> 13) & 7));
}

static void add_row(struct riscv_decoder *decoder, unsigned bucket, size_t row)
{
    uint16_t *slot = decoder->bucket[bucket];
    while (*slot != 0) {
        slot++;
    }
    g_assert(slot < decoder->bucket[bucket] + G_N_ELEMENTS(decoder->bucket[0]) - 1);
    *slot = (uint16_t)(row + 1);
}

struct riscv_decoder *riscv_decoder_new(void)
{
    struct riscv_decoder *decoder = g_new0(struct riscv_decoder, 1);
    for (size_t i = 0; i < riscv_n_insns; i++) {
        const struct insn *insn = &riscv_insns[i];
        if (insn->length == 2 || (insn->mask & 0x7000) == 0x7000) {
            add_row(decoder, bucket_of(insn->match), i);
            continue;
        }
        for (uint32_t funct3 = 0; funct3 < 8; funct3++) {
            add_row(decoder, bucket_of(insn->match | funct3 << 12), i);
        }
    }
    return decoder;
}

void riscv_decoder_free(struct riscv_decoder *decoder)
{
    g_free(decoder);
}

const struct insn *riscv_find_insn(const struct riscv_decoder *decoder, uint32_t word)
{
    for (const uint16_t *slot = decoder->bucket[bucket_of(word)]; *slot != 0; slot++) {
        const struct insn *insn = &riscv_insns[*slot - 1];
        if ((word & insn->mask) == insn->match) {
            return insn;
        }
    }
    return NULL;
}

/* Bits [high..low] of w, moved to position `to`. */
#define BITS(w, high, low, to) ((((w) >> (low)) & ((1u << ((high) - (low) + 1)) - 1)) << (to))

static int32_t sign_extend(uint32_t value, unsigned bits)
{
    return (int32_t)(value << (32 - bits)) >> (32 - bits);
}

static void operands_32(uint32_t w, struct decoded *d)
{
    d->rd = (uint8_t)BITS(w, 11, 7, 0);
    d->rs1 = (uint8_t)BITS(w, 19, 15, 0);
    d->rs2 = (uint8_t)BITS(w, 24, 20, 0);
    d->rs3 = (uint8_t)BITS(w, 31, 27, 0);
    d->rm = (uint8_t)BITS(w, 14, 12, 0);
    switch ((enum insn_format)d->format) {
    case FMT_I:
    case FMT_LOAD:
    case FMT_FLOAD:
    case FMT_JALR:
        d->imm = (int32_t)w >> 20;
        break;
    case FMT_SH6:
        d->imm = (int32_t)BITS(w, 25, 20, 0);
        break;
    case FMT_SH5:
        d->imm = (int32_t)BITS(w, 24, 20, 0);
        break;
    case FMT_STORE:
    case FMT_FSTORE:
        d->imm = sign_extend(BITS(w, 31, 25, 5) | BITS(w, 11, 7, 0), 12);
        break;
    case FMT_B:
        d->imm = sign_extend(
            BITS(w, 31, 31, 12) | BITS(w, 7, 7, 11) | BITS(w, 30, 25, 5) | BITS(w, 11, 8, 1), 13);
        break;
    case FMT_U:
        d->imm = (int32_t)(w & 0xfffff000);
        break;
    case FMT_J:
        d->imm = sign_extend(BITS(w, 31, 31, 20) | BITS(w, 19, 12, 12) | BITS(w, 20, 20, 11) |
                                 BITS(w, 30, 21, 1),
                             21);
        break;
    case FMT_CSR:
    case FMT_CSRI:
    case FMT_FENCE:
        d->imm = (int32_t)BITS(w, 31, 20, 0);
        break;
    default:
        break;
    }
}

/* The 3-bit register fields name x8..x15. */
static uint8_t short_reg(uint32_t w, unsigned low)
{
    return (uint8_t)(8 + ((w >> low) & 7));
}

static int32_t imm_ci(uint32_t w)
{
    return sign_extend(BITS(w, 12, 12, 5) | BITS(w, 6, 2, 0), 6);
}

static int32_t imm_cl_w(uint32_t w)
{
    return (int32_t)(BITS(w, 12, 10, 3) | BITS(w, 6, 6, 2) | BITS(w, 5, 5, 6));
}

static int32_t imm_cl_d(uint32_t w)
{
    return (int32_t)(BITS(w, 12, 10, 3) | BITS(w, 6, 5, 6));
}

static void operands_16_memory(uint32_t w, struct decoded *d)
{
    switch ((enum insn_format)d->format) {
    case FMT_CL_W:
    case FMT_CS_W:
        d->imm = imm_cl_w(w);
        d->rs1 = short_reg(w, 7);
        d->rd = d->rs2 = short_reg(w, 2);
        break;
    case FMT_CL_D:
    case FMT_CL_FD:
    case FMT_CS_D:
    case FMT_CS_FD:
        d->imm = imm_cl_d(w);
        d->rs1 = short_reg(w, 7);
        d->rd = d->rs2 = short_reg(w, 2);
        break;
    case FMT_CI_WSP:
        d->imm = (int32_t)(BITS(w, 12, 12, 5) | BITS(w, 6, 4, 2) | BITS(w, 3, 2, 6));
        d->rd = (uint8_t)BITS(w, 11, 7, 0);
        d->rs1 = 2;
        break;
    case FMT_CI_DSP:
    case FMT_CI_FDSP:
        d->imm = (int32_t)(BITS(w, 12, 12, 5) | BITS(w, 6, 5, 3) | BITS(w, 4, 2, 6));
        d->rd = (uint8_t)BITS(w, 11, 7, 0);
        d->rs1 = 2;
        break;
    case FMT_CSS_W:
        d->imm = (int32_t)(BITS(w, 12, 9, 2) | BITS(w, 8, 7, 6));
        d->rs2 = (uint8_t)BITS(w, 6, 2, 0);
        d->rs1 = 2;
        break;
    default: /* FMT_CSS_D, FMT_CSS_FD */
        d->imm = (int32_t)(BITS(w, 12, 10, 3) | BITS(w, 9, 7, 6));
        d->rs2 = (uint8_t)BITS(w, 6, 2, 0);
        d->rs1 = 2;
        break;
    }
}

static void operands_16_arithmetic(uint32_t w, struct decoded *d)
{
    uint8_t full_rd = (uint8_t)BITS(w, 11, 7, 0);
    switch ((enum insn_format)d->format) {
    case FMT_CIW:
        d->imm =
            (int32_t)(BITS(w, 12, 11, 4) | BITS(w, 10, 7, 6) | BITS(w, 6, 6, 2) | BITS(w, 5, 5, 3));
        d->rd = short_reg(w, 2);
        d->rs1 = 2;
        break;
    case FMT_CI:
        d->imm = imm_ci(w);
        d->rd = d->rs1 = full_rd;
        break;
    case FMT_CI_LI:
        d->imm = imm_ci(w);
        d->rd = full_rd;
        break;
    case FMT_CI_LUI:
        d->imm = (int32_t)((uint32_t)imm_ci(w) << 12);
        d->rd = full_rd;
        break;
    case FMT_CI_16SP:
        d->imm = sign_extend(BITS(w, 12, 12, 9) | BITS(w, 6, 6, 4) | BITS(w, 5, 5, 6) |
                                 BITS(w, 4, 3, 7) | BITS(w, 2, 2, 5),
                             10);
        d->rd = d->rs1 = 2;
        break;
    case FMT_CI_SH:
        d->imm = imm_ci(w) & 63;
        d->rd = d->rs1 = full_rd;
        break;
    case FMT_CB_SH:
        d->imm = imm_ci(w) & 63;
        d->rd = d->rs1 = short_reg(w, 7);
        break;
    case FMT_CB_I:
        d->imm = imm_ci(w);
        d->rd = d->rs1 = short_reg(w, 7);
        break;
    case FMT_CA:
        d->rd = d->rs1 = short_reg(w, 7);
        d->rs2 = short_reg(w, 2);
        break;
    case FMT_CR:
        d->rd = d->rs1 = full_rd;
        d->rs2 = (uint8_t)BITS(w, 6, 2, 0);
        break;
    default: /* FMT_CR_MV: add rd, x0, rs2 */
        d->rd = full_rd;
        d->rs2 = (uint8_t)BITS(w, 6, 2, 0);
        break;
    }
}

static void operands_16_jump(uint32_t w, struct decoded *d)
{
    switch ((enum insn_format)d->format) {
    case FMT_CB:
        d->imm = sign_extend(BITS(w, 12, 12, 8) | BITS(w, 11, 10, 3) | BITS(w, 6, 5, 6) |
                                 BITS(w, 4, 3, 1) | BITS(w, 2, 2, 5),
                             9);
        d->rs1 = short_reg(w, 7);
        break;
    case FMT_CJ:
        d->imm = sign_extend(BITS(w, 12, 12, 11) | BITS(w, 11, 11, 4) | BITS(w, 10, 9, 8) |
                                 BITS(w, 8, 8, 10) | BITS(w, 7, 7, 6) | BITS(w, 6, 6, 7) |
                                 BITS(w, 5, 3, 1) | BITS(w, 2, 2, 5),
                             12);
        break;
    case FMT_CR_JALR:
        d->rd = 1;
        d->rs1 = (uint8_t)BITS(w, 11, 7, 0);
        break;
    default: /* FMT_CR_JR */
        d->rs1 = (uint8_t)BITS(w, 11, 7, 0);
        break;
    }
}

void riscv_operands(const struct insn *insn, uint32_t word, struct decoded *out)
{
    *out = (struct decoded){
        .handler = insn->handler,
        .format = insn->format,
        .kind = handler_kind[insn->handler],
        .length = insn->length,
    };
    switch ((enum insn_format)insn->format) {
    case FMT_C_NONE:
        break;
    case FMT_CL_W:
    case FMT_CL_D:
    case FMT_CL_FD:
    case FMT_CS_W:
    case FMT_CS_D:
    case FMT_CS_FD:
    case FMT_CI_WSP:
    case FMT_CI_DSP:
    case FMT_CI_FDSP:
    case FMT_CSS_W:
    case FMT_CSS_D:
    case FMT_CSS_FD:
        operands_16_memory(word, out);
        break;
    case FMT_CB:
    case FMT_CJ:
    case FMT_CR_JR:
    case FMT_CR_JALR:
        operands_16_jump(word, out);
        break;
    default:
        if (insn->length == 4) {
            operands_32(word, out);
        } else {
            operands_16_arithmetic(word, out);
        }
        break;
    }
}

void riscv_decode(const struct riscv_decoder *decoder, uint32_t word, struct decoded *out)
{
    const struct insn *insn = riscv_find_insn(decoder, word);
    if (insn != NULL) {
        riscv_operands(insn, word, out);
        return;
    }
    *out = (struct decoded){
        .handler = H_illegal,
        .format = FMT_NONE,
        .kind = KIND_END,
        .length = (uint8_t)riscv_insn_length((uint16_t)word),
    };
}
