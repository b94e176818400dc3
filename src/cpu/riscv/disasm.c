/* SPDX-License-Identifier: MIT */
/*
 * The disassembler, driven by the same table as the decoder: for traces and for people.
 */
#include <glib.h>

#include "cpu/riscv/decode.h"
#include "cpu/riscv/hart.h"

static const char *const x_names[32] = {"zero", "ra", "sp",  "gp",  "tp", "t0", "t1", "t2",
                                        "s0",   "s1", "a0",  "a1",  "a2", "a3", "a4", "a5",
                                        "a6",   "a7", "s2",  "s3",  "s4", "s5", "s6", "s7",
                                        "s8",   "s9", "s10", "s11", "t3", "t4", "t5", "t6"};
static const char *const f_names[32] = {"ft0", "ft1", "ft2",  "ft3",  "ft4", "ft5", "ft6",  "ft7",
                                        "fs0", "fs1", "fa0",  "fa1",  "fa2", "fa3", "fa4",  "fa5",
                                        "fa6", "fa7", "fs2",  "fs3",  "fs4", "fs5", "fs6",  "fs7",
                                        "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10", "ft11"};

/* How each format's operands are written: d s t u are rd rs1 rs2 rs3, capital for f registers;
 * i the immediate, h in hex, p a target relative to pc, c a CSR's name, z rs1 as a number, r the
 * rounding mode unless dynamic; other characters are themselves. */
static const char *const shape_of[N_FORMATS] = {
    [FMT_NONE] = "",         [FMT_R] = "d,s,t",        [FMT_R1] = "d,s",
    [FMT_I] = "d,s,i",       [FMT_SH6] = "d,s,i",      [FMT_SH5] = "d,s,i",
    [FMT_LOAD] = "d,i(s)",   [FMT_STORE] = "t,i(s)",   [FMT_B] = "s,t,p",
    [FMT_U] = "d,h",         [FMT_J] = "d,p",          [FMT_JALR] = "d,i(s)",
    [FMT_FENCE] = "",        [FMT_SFENCE] = "s,t",     [FMT_CSR] = "d,c,s",
    [FMT_CSRI] = "d,c,z",    [FMT_LR] = "d,(s)",       [FMT_AMO] = "d,t,(s)",
    [FMT_FLOAD] = "D,i(s)",  [FMT_FSTORE] = "T,i(s)",  [FMT_FR] = "D,S,T",
    [FMT_FR_RM] = "D,S,Tr",  [FMT_FR1_RM] = "D,Sr",    [FMT_FR4_RM] = "D,S,T,Ur",
    [FMT_FCMP] = "d,S,T",    [FMT_F_TO_X] = "d,S",     [FMT_F_TO_X_RM] = "d,Sr",
    [FMT_X_TO_F] = "D,s",    [FMT_X_TO_F_RM] = "D,sr", [FMT_C_NONE] = "",
    [FMT_CIW] = "d,s,i",     [FMT_CL_W] = "d,i(s)",    [FMT_CL_D] = "d,i(s)",
    [FMT_CL_FD] = "D,i(s)",  [FMT_CS_W] = "t,i(s)",    [FMT_CS_D] = "t,i(s)",
    [FMT_CS_FD] = "T,i(s)",  [FMT_CI] = "d,i",         [FMT_CI_LI] = "d,i",
    [FMT_CI_LUI] = "d,h",    [FMT_CI_16SP] = "d,i",    [FMT_CI_SH] = "d,i",
    [FMT_CI_WSP] = "d,i(s)", [FMT_CI_DSP] = "d,i(s)",  [FMT_CI_FDSP] = "D,i(s)",
    [FMT_CSS_W] = "t,i(s)",  [FMT_CSS_D] = "t,i(s)",   [FMT_CSS_FD] = "T,i(s)",
    [FMT_CB_SH] = "d,i",     [FMT_CB_I] = "d,i",       [FMT_CB] = "s,p",
    [FMT_CA] = "d,t",        [FMT_CJ] = "p",           [FMT_CR] = "d,t",
    [FMT_CR_MV] = "d,t",     [FMT_CR_JR] = "s",        [FMT_CR_JALR] = "s",
};

static void append_operand(GString *out, char what, const struct decoded *d, uint64_t pc)
{
    static const char *const modes[] = {"rne", "rtz", "rdn", "rup", "rmm"};
    char csr[24];
    switch (what) {
    case 'd':
        g_string_append(out, x_names[d->rd]);
        break;
    case 's':
        g_string_append(out, x_names[d->rs1]);
        break;
    case 't':
        g_string_append(out, x_names[d->rs2]);
        break;
    case 'D':
        g_string_append(out, f_names[d->rd]);
        break;
    case 'S':
        g_string_append(out, f_names[d->rs1]);
        break;
    case 'T':
        g_string_append(out, f_names[d->rs2]);
        break;
    case 'U':
        g_string_append(out, f_names[d->rs3]);
        break;
    case 'i':
        g_string_append_printf(out, "%d", d->imm);
        break;
    case 'h':
        g_string_append_printf(out, "0x%x", (uint32_t)d->imm >> 12);
        break;
    case 'p':
        g_string_append_printf(out, "0x%" G_GINT64_MODIFIER "x", pc + (uint64_t)(int64_t)d->imm);
        break;
    case 'c':
        if (riscv_csr_name((unsigned)d->imm, csr, sizeof csr)) {
            g_string_append(out, csr);
        } else {
            g_string_append_printf(out, "0x%x", (unsigned)d->imm);
        }
        break;
    case 'z':
        g_string_append_printf(out, "%u", d->rs1);
        break;
    case 'r':
        if (d->rm < G_N_ELEMENTS(modes)) {
            g_string_append_printf(out, ",%s", modes[d->rm]);
        }
        break;
    default:
        g_string_append_c(out, what);
        break;
    }
}

void riscv_disassemble(uint32_t word, uint64_t pc, char *text, size_t size)
{
    g_autoptr(GString) out = g_string_new(NULL);
    for (size_t i = 0; i < riscv_n_insns; i++) {
        const struct insn *insn = &riscv_insns[i];
        if ((word & insn->mask) != insn->match ||
            insn->length != riscv_insn_length((uint16_t)word)) {
            continue;
        }
        struct decoded d;
        riscv_operands(insn, word, &d);
        g_string_append(out, insn->mnemonic);
        const char *shape = shape_of[insn->format];
        g_string_append(out, *shape ? " " : "");
        for (; *shape; shape++) {
            append_operand(out, *shape, &d, pc);
        }
        g_strlcpy(text, out->str, size);
        return;
    }
    g_snprintf(text, size, ".insn 0x%x", word);
}
