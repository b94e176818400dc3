/* SPDX-License-Identifier: MIT */
/*
 * Wild guests: whatever a guest executes, the hart is not hurt, can be stopped, and is in a state
 * that another host would accept.
 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/riscv/decode.h"
#include "cpu/riscv/hart_state.h"
#include "cpu/riscv/trace.h"
#include "tiny_board.h"

#define RAM_BYTES      (1u << 20)
#define N_GUESTS       60
#define N_INSTRUCTIONS 20000
#define N_TRAPS        2000
#define DEADLINE_NS    UINT64_C(60000000000)

static void count_trap(void *opaque, unsigned hart, uint64_t pc, uint64_t cause, uint64_t tval)
{
    __atomic_fetch_add((unsigned *)opaque, 1, __ATOMIC_RELAXED);
}

/* A word of some row of the table, or any word at all. */
static uint32_t wild_word(GRand *rand)
{
    static const uint16_t csrs[] = {0x001, 0x002, 0x003, 0x100, 0x104, 0x105, 0x106, 0x140, 0x141,
                                    0x142, 0x143, 0x144, 0x14d, 0x180, 0x300, 0x302, 0x303, 0x304,
                                    0x306, 0x30a, 0x320, 0x340, 0x341, 0x342, 0x343, 0x344, 0x3a0,
                                    0x3a2, 0x3b0, 0x3b1, 0x3bf, 0xb00, 0xb02, 0xc00, 0xc01, 0xc02};
    uint32_t any = g_rand_int(rand);
    if (any % 8 == 0) {
        return g_rand_int(rand);
    }
    const struct insn *insn = &riscv_insns[any / 8 % riscv_n_insns];
    uint32_t word = insn->match | (g_rand_int(rand) & ~insn->mask);
    if (insn->length == 2) {
        return (word & 0xffff) | g_rand_int(rand) << 16;
    }
    if (insn->format == FMT_CSR || insn->format == FMT_CSRI) {
        word = (word & 0xfffff) | (uint32_t)csrs[g_rand_int(rand) % G_N_ELEMENTS(csrs)] << 20;
    }
    return word;
}

static void make_wild(struct tiny_board *board, GRand *rand, struct riscv_hart_state *s)
{
    uint32_t *words = (uint32_t *)board->ram->host;
    for (size_t i = 0; i < RAM_BYTES / 4; i++) {
        words[i] = wild_word(rand);
    }
    for (unsigned i = 1; i < 32; i++) {
        uint64_t value = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
        s->x[i] = i % 4 ? TINY_RAM_BASE + value % RAM_BYTES : value;
        s->f[i] = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
    }
    s->pc = TINY_RAM_BASE + (g_rand_int(rand) % RAM_BYTES & ~1u);
    s->mtvec = TINY_RAM_BASE + (g_rand_int(rand) % RAM_BYTES & ~3u);
    s->stvec = TINY_RAM_BASE + (g_rand_int(rand) % RAM_BYTES & ~3u);
    s->mepc = TINY_RAM_BASE + (g_rand_int(rand) % RAM_BYTES & ~1u);
    s->sepc = TINY_RAM_BASE + (g_rand_int(rand) % RAM_BYTES & ~1u);
    s->mstatus |= MSTATUS_FS;
    s->medeleg = g_rand_int(rand) & MEDELEG_WRITABLE;
    s->pmpaddr[15] = PMP_ADDR_WRITABLE;
    s->pmpcfg[15] = 0x1f;
    s->menvcfg = g_rand_boolean(rand) ? MENVCFG_ADUE | MENVCFG_STCE : 0;
    if (g_rand_boolean(rand)) {
        s->satp =
            UINT64_C(8) << 60 | ((TINY_RAM_BASE + g_rand_int(rand) % RAM_BYTES) >> GW_PAGE_SHIFT);
    }
}

static bool is_done(struct tiny_board *board, unsigned *n_traps)
{
    struct cpu_stats stats;
    cpu_riscv_soft.get_stats(board->cpu, 0, &stats);
    if (stats.instructions > N_INSTRUCTIONS || stats.wfi_ns > 0 ||
        __atomic_load_n(n_traps, __ATOMIC_RELAXED) > N_TRAPS) {
        return true;
    }
    pthread_mutex_lock(&board->lock);
    bool has_ended = board->has_ended;
    pthread_mutex_unlock(&board->lock);
    return has_ended;
}

/* Every field within its own row's mask and maximum. */
static void check_fields(const struct gw_state_desc *desc, const void *object, uint32_t seed)
{
    for (const struct gw_field *field = desc->fields; field->name != NULL; field++) {
        for (size_t i = 0; i < field->count; i++) {
            uint64_t value = 0;
            memcpy(&value, (const char *)object + field->offset + i * field->stride, field->stride);
            if ((field->mask != 0 && (value & ~field->mask) != 0) ||
                (field->max != 0 && value > field->max)) {
                fail_msg("seed %u: %s is %#lx", seed, field->name, value);
            }
        }
    }
}

static void run_wild(uint32_t seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_autoptr(GError) error = NULL;
    struct tiny_board *board = tiny_board_new(1, RAM_BYTES);
    struct riscv_hart_state *state = riscv_state_of(board->cpu, 0);
    unsigned n_traps = 0;
    struct riscv_trace trace = {.trap = count_trap, .opaque = &n_traps};
    uint64_t deadline_ns = clock_mono_ns() + DEADLINE_NS;
    make_wild(board, rand, state);
    if (!riscv_hart_state_desc.validate(state, &error)) {
        fail_msg("seed %u begins wrong: %s", seed, error->message);
    }
    riscv_set_trace(board->cpu, &trace);
    cpu_riscv_soft.start(board->cpu);
    while (!is_done(board, &n_traps)) {
        if (clock_mono_ns() > deadline_ns) {
            fail_msg("seed %u neither runs nor ends", seed);
        }
        sched_yield();
    }
    cpu_riscv_soft.stop(board->cpu);
    if (!riscv_hart_state_desc.validate(state, &error)) {
        fail_msg("seed %u: %s", seed, error->message);
    }
    check_fields(&riscv_hart_state_desc, state, seed);
    tiny_board_free(board);
}

static void test_wild_guests_do_no_harm(void **state)
{
    for (uint32_t seed = 1; seed <= N_GUESTS; seed++) {
        run_wild(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wild_guests_do_no_harm)};
    return cmocka_run_group_tests_name("wild", tests, NULL, NULL);
}
