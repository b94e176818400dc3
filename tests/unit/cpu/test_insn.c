/* SPDX-License-Identifier: MIT */
/*
 * The instruction table itself, the decoder and the disassembler that stand on it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <glib.h>

#include "cpu/riscv/decode.h"

static bool overlap(const struct insn *a, const struct insn *b)
{
    uint32_t both = a->mask & b->mask;
    return a->length == b->length && (a->match & both) == (b->match & both);
}

/* A row above both that is exactly what they have in common. */
static bool has_row_for_both(size_t i, size_t j)
{
    uint32_t mask = riscv_insns[i].mask | riscv_insns[j].mask;
    uint32_t match = riscv_insns[i].match | riscv_insns[j].match;
    for (size_t k = 0; k < i; k++) {
        if (riscv_insns[k].mask == mask && riscv_insns[k].match == match) {
            return true;
        }
    }
    return false;
}

static void test_rows_are_well_formed(void **state)
{
    for (size_t i = 0; i < riscv_n_insns; i++) {
        const struct insn *insn = &riscv_insns[i];
        assert_int_equal(insn->match & ~insn->mask, 0);
        assert_int_equal(riscv_insn_length((uint16_t)insn->match), insn->length);
        assert_true(insn->length == 4 || insn->mask <= 0xffff);
        assert_true(insn->handler != H_NONE && insn->handler < N_HANDLERS);
        assert_true(insn->format < N_FORMATS);
    }
}

static void test_rows_overlap_only_by_being_more_specific(void **state)
{
    for (size_t i = 0; i < riscv_n_insns; i++) {
        for (size_t j = i + 1; j < riscv_n_insns; j++) {
            const struct insn *a = &riscv_insns[i], *b = &riscv_insns[j];
            if (!overlap(a, b)) {
                continue;
            }
            bool is_more_specific = (a->mask & b->mask) == b->mask && a->mask != b->mask;
            if (!is_more_specific && !has_row_for_both(i, j)) {
                fail_msg("%s (row %zu) and %s (row %zu) overlap", a->mnemonic, i, b->mnemonic, j);
            }
        }
    }
}

static void test_every_row_is_reachable(void **state)
{
    struct riscv_decoder *decoder = riscv_decoder_new();
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    for (size_t i = 0; i < riscv_n_insns; i++) {
        const struct insn *insn = &riscv_insns[i];
        bool is_reached = false;
        for (unsigned n = 0; n < 4000 && !is_reached; n++) {
            uint32_t free_bits = insn->length == 4 ? ~insn->mask : ~insn->mask & 0xffff;
            uint32_t word = insn->match | (g_rand_int(rand) & free_bits);
            is_reached = riscv_find_insn(decoder, word) == insn;
        }
        if (!is_reached) {
            fail_msg("%s (row %zu) is never found", insn->mnemonic, i);
        }
    }
    riscv_decoder_free(decoder);
}

/* The index by opcode and the plain list agree, on words of every kind. */
static void test_index_agrees_with_the_list(void **state)
{
    struct riscv_decoder *decoder = riscv_decoder_new();
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);
    for (unsigned n = 0; n < 200000; n++) {
        uint32_t word = n < 65536 ? n : g_rand_int(rand);
        if (riscv_insn_length((uint16_t)word) == 2) {
            word &= 0xffff;
        }
        const struct insn *expected = NULL;
        for (size_t i = 0; i < riscv_n_insns && expected == NULL; i++) {
            const struct insn *insn = &riscv_insns[i];
            if ((word & insn->mask) == insn->match &&
                insn->length == riscv_insn_length((uint16_t)word)) {
                expected = insn;
            }
        }
        assert_ptr_equal(riscv_find_insn(decoder, word), expected);
    }
    riscv_decoder_free(decoder);
}

static void test_disassembler(void **state)
{
    static const struct {
        uint32_t word;
        const char *text;
    } known[] = {
        {0x00000013, "addi zero,zero,0"},
        {0xfff50513, "addi a0,a0,-1"},
        {0x123455b7, "lui a1,0x12345"},
        {0x00c58633, "add a2,a1,a2"},
        {0x02c5d633, "divu a2,a1,a2"},
        {0xff813083, "ld ra,-8(sp)"},
        {0xfe113c23, "sd ra,-8(sp)"},
        {0xfe0518e3, "bne a0,zero,0xff0"},
        {0x008000ef, "jal ra,0x1008"},
        {0x00008067, "jalr zero,0(ra)"},
        {0x30052573, "csrrs a0,mstatus,a0"},
        {0x3400f073, "csrrci zero,mscratch,1"},
        {0xb0302573, "csrrs a0,mhpmcounter3,zero"},
        {0x1005a52f, "lr.w a0,(a1)"},
        {0x18c5b52f, "sc.d a0,a2,(a1)"},
        {0x00c5a52f, "amoadd.w a0,a2,(a1)"},
        {0x02c58553, "fadd.d fa0,fa1,fa2,rne"},
        {0x02c5f553, "fadd.d fa0,fa1,fa2"},
        {0x6ac5f543, "fmadd.d fa0,fa1,fa2,fa3"},
        {0xc2051553, "fcvt.w.d a0,fa0,rtz"},
        {0x12b50073, "sfence.vma a0,a1"},
        {0x30200073, "mret"},
        {0x0100000f, "pause"},
        {0x60555513, "rori a0,a0,5"},
        {0x60051513, "clz a0,a0"},
        {0x4505, "c.li a0,1"},
        {0x8082, "c.jr ra"},
        {0x60a2, "c.ldsp ra,8(sp)"},
        {0x157d, "c.addi a0,-1"},
        {0xffffffff, ".insn 0xffffffff"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        char text[64];
        riscv_disassemble(known[i].word, 0x1000, text, sizeof text);
        assert_string_equal(text, known[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_well_formed),
        cmocka_unit_test(test_rows_overlap_only_by_being_more_specific),
        cmocka_unit_test(test_every_row_is_reachable),
        cmocka_unit_test(test_index_agrees_with_the_list),
        cmocka_unit_test(test_disassembler),
    };
    return cmocka_run_group_tests_name("insn", tests, NULL, NULL);
}
