/* SPDX-License-Identifier: MIT */
/*
 * The backend seen from the machine: running and stopping, waking, saved state, the dirty log,
 * throttling, and code that devices write.
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
#include "cpu/throttle.h"
#include "tiny_board.h"

#define RAM_BYTES   (8u << 20)
#define DEADLINE_NS UINT64_C(60000000000)

static struct tiny_board *load(const char *program, unsigned n_harts)
{
    g_autofree char *name = g_strconcat(program, ".elf", NULL);
    g_autofree char *path = g_build_filename(g_getenv("ISA_DIR"), name, NULL);
    g_autoptr(GError) error = NULL;
    struct tiny_board *board = tiny_board_new(n_harts, RAM_BYTES);
    if (!tiny_board_load(board, path, &error)) {
        fail_msg("%s", error->message);
    }
    return board;
}

static struct riscv_hart_state *state_of(struct tiny_board *board, unsigned hart)
{
    return riscv_state_of(board->cpu, hart);
}

/* Gives other threads the processor until the condition holds. */
#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        uint64_t deadline_ns_ = clock_mono_ns() + DEADLINE_NS;                                     \
        while (!(condition)) {                                                                     \
            assert_true(clock_mono_ns() < deadline_ns_);                                           \
            sched_yield();                                                                         \
        }                                                                                          \
    } while (0)

static uint64_t wfi_ns(struct tiny_board *board)
{
    struct cpu_stats stats;
    cpu_riscv_soft.get_stats(board->cpu, 0, &stats);
    return stats.wfi_ns;
}

/* ---- running, stopping, waking ---- */

static void test_start_and_stop_at_any_time(void **state)
{
    struct tiny_board *board = load("dirtier", 2);
    uint64_t before = 0;
    for (unsigned i = 0; i < 50; i++) {
        cpu_riscv_soft.start(board->cpu);
        if (i % 2) {
            struct cpu_stats stats;
            WAIT_FOR(
                (cpu_riscv_soft.get_stats(board->cpu, 1, &stats), stats.instructions > before));
            before = stats.instructions;
        }
        cpu_riscv_soft.stop(board->cpu);
        uint64_t instret = state_of(board, 1)->minstret;
        assert_int_equal(state_of(board, 0)->pc & 1, 0);
        assert_int_equal(state_of(board, 1)->minstret, instret); /* nothing runs any more */
    }
    tiny_board_free(board);
}

static void test_waiting_hart_stops_and_goes_on_waiting(void **state)
{
    struct tiny_board *board = load("idle", 1);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t slept_ns = wfi_ns(board);
        cpu_riscv_soft.start(board->cpu);
        cpu_riscv_soft.set_irq(board->cpu, 0, IRQ_SEI, true);
        /* the handler lowers the line, and the hart sleeps again */
        WAIT_FOR(!(__atomic_load_n(&state_of(board, 0)->lines, __ATOMIC_SEQ_CST)));
        cpu_riscv_soft.stop(board->cpu);
        assert_true(wfi_ns(board) >= slept_ns);
        cpu_riscv_soft.start(board->cpu);
        cpu_riscv_soft.stop(board->cpu);
        assert_int_equal(state_of(board, 0)->x[8], i + 1);
    }
    tiny_board_free(board);
}

static void test_no_wake_up_is_lost(void **state)
{
    struct tiny_board *board = load("idle", 1);
    cpu_riscv_soft.start(board->cpu);
    for (unsigned i = 0; i < 500; i++) {
        cpu_riscv_soft.set_irq(board->cpu, 0, IRQ_SEI, true);
        WAIT_FOR(!(__atomic_load_n(&state_of(board, 0)->lines, __ATOMIC_SEQ_CST)));
    }
    cpu_riscv_soft.stop(board->cpu);
    assert_int_equal(state_of(board, 0)->x[8], 500);
    tiny_board_free(board);
}

static void test_line_raised_while_stopped_is_seen(void **state)
{
    struct tiny_board *board = load("idle", 1);
    cpu_riscv_soft.set_irq(board->cpu, 0, IRQ_SEI, true);
    cpu_riscv_soft.start(board->cpu);
    WAIT_FOR(!(__atomic_load_n(&state_of(board, 0)->lines, __ATOMIC_SEQ_CST)));
    cpu_riscv_soft.stop(board->cpu);
    assert_int_equal(state_of(board, 0)->x[8], 1);
    tiny_board_free(board);
}

static void test_reset_goes_back_to_the_start(void **state)
{
    struct tiny_board *board = load("dirtier", 1);
    struct cpu_stats stats;
    cpu_riscv_soft.start(board->cpu);
    WAIT_FOR((cpu_riscv_soft.get_stats(board->cpu, 0, &stats), stats.instructions > 1000));
    cpu_riscv_soft.stop(board->cpu);
    cpu_riscv_soft.reset(board->cpu);
    const struct riscv_hart_state *s = state_of(board, 0);
    assert_int_equal(s->priv, PRIV_M);
    assert_int_equal(s->mstatus, MSTATUS_XL64);
    assert_int_equal(s->x[8], 0);
    assert_int_equal(s->minstret, 0);
    assert_true(s->mtimecmp == UINT64_MAX);
    tiny_board_free(board);
}

/* ---- saved state ---- */

struct hostile {
    const char *what;
    size_t offset;
    uint64_t value;
    size_t width;
};
#define HOSTILE(member, bad)                                                                       \
    {                                                                                              \
#member, offsetof(struct riscv_hart_state, member), bad,                                   \
            sizeof(((struct riscv_hart_state *)0)->member)                                         \
    }

static void test_hostile_state_is_refused(void **state)
{
    static const struct hostile cases[] = {
        HOSTILE(x[0], 1),
        HOSTILE(pc, 0x80000001),
        HOSTILE(priv, 2),
        HOSTILE(priv, 255),
        HOSTILE(mstatus, 0),
        HOSTILE(mstatus, MSTATUS_XL64 | UINT64_C(2) << 11),
        HOSTILE(mstatus, MSTATUS_XL64 | UINT64_C(1) << 63),
        HOSTILE(mtvec, 2),
        HOSTILE(stvec, 3),
        HOSTILE(satp, UINT64_C(10) << 60),
        HOSTILE(satp, 1),
        HOSTILE(pmpcfg[3], PMP_W),
    };
    const struct gw_state_desc *desc = &riscv_hart_state_desc;
    struct riscv_hart_state good;
    g_autoptr(GError) good_error = NULL;
    riscv_hart_state_reset(&good);
    assert_true(desc->validate(&good, &good_error));
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct riscv_hart_state bad = good;
        g_autoptr(GError) error = NULL;
        memcpy((char *)&bad + cases[i].offset, &cases[i].value, cases[i].width);
        if (desc->validate(&bad, &error)) {
            fail_msg("%s = %#lx was accepted", cases[i].what, cases[i].value);
        }
        assert_non_null(error);
    }
    struct riscv_hart_state odd = good;
    g_autoptr(GError) error = NULL;
    odd.has_reservation = true;
    odd.reservation_size = 4;
    odd.reservation_gpa = 2;
    assert_false(desc->validate(&odd, &error));
}

/* ---- dirty log ---- */

/* Copies what a migration would send. */
static void copy_set(struct tiny_board *board, struct gw_page_set *set, uint8_t *copy)
{
    uint64_t page = 0, n = 0;
    while (gw_page_set_next_run(set, 0, &page, &n, UINT64_MAX)) {
        memcpy(copy + page * GW_PAGE_SIZE, board->ram->host + page * GW_PAGE_SIZE,
               n * GW_PAGE_SIZE);
        page += n;
    }
    gw_page_set_clear(set);
}

static void test_no_write_escapes_the_dirty_log(void **state)
{
    struct tiny_board *board = load("dirtier", 4);
    struct gw_page_set *set = gw_page_set_new(board->memory);
    g_autofree uint8_t *copy = g_malloc0(RAM_BYTES);
    g_autoptr(GError) error = NULL;
    struct cpu_stats stats;
    cpu_riscv_soft.start(board->cpu);
    WAIT_FOR((cpu_riscv_soft.get_stats(board->cpu, 0, &stats), stats.instructions > 100000));
    assert_true(gw_memory_log_start(board->memory, &error));
    gw_page_set_fill(set);
    for (unsigned round = 0; round < 40; round++) {
        copy_set(board, set, copy);
        assert_true(gw_memory_log_collect(board->memory, set, NULL, &error));
    }
    cpu_riscv_soft.stop(board->cpu);
    assert_true(gw_memory_log_collect(board->memory, set, NULL, &error));
    copy_set(board, set, copy);
    assert_memory_equal(copy, board->ram->host, RAM_BYTES);
    assert_true(gw_memory_log_collect(board->memory, set, NULL, &error));
    assert_int_equal(set->n_set, 0); /* nothing runs, nothing is dirty */
    gw_memory_log_stop(board->memory);
    gw_page_set_free(set);
    tiny_board_free(board);
}

/* Several harts store to the same pages, and each page counts once however many were first. */
static void test_each_dirty_page_is_counted_by_one_hart(void **state)
{
    struct tiny_board *board = load("crowd", 8);
    struct gw_page_set *set = gw_page_set_new(board->memory);
    uint64_t n_taken = 0, n_counted = 0, n_new = 0;
    g_autoptr(GError) error = NULL;
    struct cpu_stats stats;
    cpu_riscv_soft.start(board->cpu);
    WAIT_FOR((cpu_riscv_soft.get_stats(board->cpu, 0, &stats), stats.instructions > 100000));
    assert_int_equal(stats.dirtied_pages, 0); /* no log, no count */
    assert_true(gw_memory_log_start(board->memory, &error));
    for (unsigned round = 0; round < 30 || n_taken < 500; round++) {
        assert_true(gw_memory_log_collect(board->memory, set, &n_new, &error));
        n_taken += n_new;
        gw_page_set_clear(set);
    }
    cpu_riscv_soft.stop(board->cpu);
    assert_true(gw_memory_log_collect(board->memory, set, &n_new, &error));
    n_taken += n_new;
    for (unsigned i = 0; i < 8; i++) {
        cpu_riscv_soft.get_stats(board->cpu, i, &stats);
        assert_true(stats.is_dirtied_known);
        n_counted += stats.dirtied_pages;
    }
    assert_int_equal(n_counted, n_taken);
    gw_memory_log_stop(board->memory);
    gw_page_set_free(set);
    tiny_board_free(board);
}

/* ---- throttling ---- */

static struct cpu_stats stats_of(struct tiny_board *board, unsigned hart)
{
    struct cpu_stats stats = {0};
    cpu_riscv_soft.get_stats(board->cpu, hart, &stats);
    return stats;
}

struct turns {
    uint64_t per_turn; /* instructions of hart 1 between two pauses */
    uint64_t permille; /* of hart 0's instructions meanwhile */
};

/* Lets hart 1 pause 20 times, and checks that a pause is as long as it has to be. */
static struct turns twenty_turns(struct tiny_board *board, unsigned permille)
{
    cpu_riscv_soft.set_throttle(board->cpu, 1, permille);
    struct cpu_stats before[] = {stats_of(board, 0), stats_of(board, 1)}, after[2];
    assert_int_equal(before[1].throttle_permille, permille);
    WAIT_FOR((after[1] = stats_of(board, 1),
              after[1].throttled_slices >= before[1].throttled_slices + 20));
    after[0] = stats_of(board, 0);
    uint64_t n_turns = after[1].throttled_slices - before[1].throttled_slices;
    /* The first may have begun under another share, the last may be booked by half. */
    assert_true(after[1].throttled_ns - before[1].throttled_ns >=
                (n_turns - 2) * (THROTTLE_TURN_NS / 1000 * permille));
    assert_int_equal(after[0].throttled_slices, 0);
    uint64_t n_done = after[1].instructions - before[1].instructions;
    uint64_t n_of_0 = after[0].instructions - before[0].instructions;
    return (struct turns){n_done / n_turns, n_done * 1000 / MAX(n_of_0, 1)};
}

/* What exactly a share is, test_throttle.c tells on a clock of its own. Here a throttled hart falls
 * behind one that is not, the more the more it is throttled, and neither stands still. The host's
 * other load may blur that for a while. */
static void test_a_throttled_hart_gets_its_share(void **state)
{
    struct tiny_board *board = load("dirtier", 2);
    uint64_t deadline_ns = clock_mono_ns() + DEADLINE_NS;
    struct turns half, little;
    cpu_riscv_soft.start(board->cpu);
    do {
        half = twenty_turns(board, 500);
        little = twenty_turns(board, 990);
        assert_true(clock_mono_ns() < deadline_ns);
    } while (little.permille > 400 || little.per_turn == 0 || little.per_turn * 2 > half.per_turn);
    /* Taken off at once: no pause begins any more. */
    cpu_riscv_soft.set_throttle(board->cpu, 1, 0);
    struct cpu_stats first = stats_of(board, 1), freed;
    WAIT_FOR(stats_of(board, 1).instructions > first.instructions + 1000);
    freed = stats_of(board, 1);
    WAIT_FOR(stats_of(board, 1).instructions > freed.instructions + 5000000);
    assert_int_equal(stats_of(board, 1).throttled_slices, freed.throttled_slices);
    cpu_riscv_soft.stop(board->cpu);
    tiny_board_free(board);
}

/* If it did, every pause would last as long as it was meant to. */
static void test_a_pause_does_not_delay_a_stop(void **state)
{
    uint64_t closed_ns = THROTTLE_TURN_NS / 1000 * THROTTLE_MAX_PERMILLE;
    uint64_t deadline_ns = clock_mono_ns() + DEADLINE_NS;
    struct tiny_board *board = load("dirtier", 2);
    unsigned n_cut = 0;
    cpu_riscv_soft.set_throttle(board->cpu, 1, 1000);
    assert_int_equal(stats_of(board, 1).throttle_permille, THROTTLE_MAX_PERMILLE);
    while (n_cut < 10) {
        struct cpu_stats before = stats_of(board, 1), after;
        uint64_t instructions = stats_of(board, 0).instructions;
        cpu_riscv_soft.start(board->cpu);
        WAIT_FOR(stats_of(board, 0).instructions > instructions + 100000);
        cpu_riscv_soft.stop(board->cpu);
        after = stats_of(board, 1);
        n_cut += after.throttled_ns - before.throttled_ns <
                 (after.throttled_slices - before.throttled_slices) * closed_ns;
        assert_true(clock_mono_ns() < deadline_ns);
    }
    tiny_board_free(board);
}

static void test_a_waiting_hart_is_not_throttled(void **state)
{
    struct tiny_board *board = load("idle", 1);
    cpu_riscv_soft.set_throttle(board->cpu, 0, 900);
    cpu_riscv_soft.start(board->cpu);
    WAIT_FOR(wfi_ns(board) > 0); /* asking wakes the hart, and it goes back to sleep */
    struct cpu_stats asleep = stats_of(board, 0);
    WAIT_FOR(wfi_ns(board) > asleep.wfi_ns + 5 * THROTTLE_TURN_NS);
    assert_int_equal(stats_of(board, 0).throttled_slices, asleep.throttled_slices);
    for (unsigned i = 0; i < 30; i++) {
        cpu_riscv_soft.set_irq(board->cpu, 0, IRQ_SEI, true);
        WAIT_FOR(!(__atomic_load_n(&state_of(board, 0)->lines, __ATOMIC_SEQ_CST)));
    }
    cpu_riscv_soft.stop(board->cpu);
    assert_int_equal(state_of(board, 0)->x[8], 30); /* throttled, and no interrupt was lost */
    tiny_board_free(board);
}

/* Whoever drops the store rights does not wait for a hart that pauses. */
static void test_no_write_of_a_throttled_hart_escapes_the_dirty_log(void **state)
{
    struct tiny_board *board = load("dirtier", 4);
    struct gw_page_set *set = gw_page_set_new(board->memory);
    g_autofree uint8_t *copy = g_malloc0(RAM_BYTES);
    g_autoptr(GError) error = NULL;
    cpu_riscv_soft.start(board->cpu);
    WAIT_FOR(stats_of(board, 0).instructions > 100000);
    assert_true(gw_memory_log_start(board->memory, &error));
    gw_page_set_fill(set);
    for (unsigned round = 0; round < 60; round++) {
        for (unsigned i = 0; i < 4; i++) {
            cpu_riscv_soft.set_throttle(board->cpu, i, round * 331 * (i + 1) % 1000);
        }
        copy_set(board, set, copy);
        assert_true(gw_memory_log_collect(board->memory, set, NULL, &error));
    }
    cpu_riscv_soft.stop(board->cpu);
    assert_true(gw_memory_log_collect(board->memory, set, NULL, &error));
    copy_set(board, set, copy);
    assert_memory_equal(copy, board->ram->host, RAM_BYTES);
    gw_memory_log_stop(board->memory);
    gw_page_set_free(set);
    tiny_board_free(board);
}

/* ---- code written by devices ---- */

static void test_code_written_by_a_device_is_run_after_fence_i(void **state)
{
    struct tiny_board *board = load("dma", 1);
    uint64_t mailbox = tiny_board_symbol(board, "mailbox");
    uint64_t *words = gw_memory_host(board->memory, mailbox, 24);
    cpu_riscv_soft.start(board->cpu);
    for (uint64_t version = 1; version <= 150; version++) {
        uint32_t insn = 0x00000513 | (uint32_t)version << 20; /* li a0, version */
        assert_true(gw_memory_write(board->memory, mailbox - GW_PAGE_SIZE, &insn, 4));
        assert_true(gw_memory_write(board->memory, mailbox, &version, 8));
        WAIT_FOR(__atomic_load_n(&words[2], __ATOMIC_ACQUIRE) == version);
        assert_int_equal(words[1], version);
    }
    cpu_riscv_soft.stop(board->cpu);
    tiny_board_free(board);
}

/* ---- broken guests, traces ---- */

static void test_a_guest_without_a_trap_handler_is_reported(void **state)
{
    struct tiny_board *board = tiny_board_new(1, RAM_BYTES);
    unsigned code = 0;
    cpu_riscv_soft.set_entry(board->cpu, 0, TINY_RAM_BASE, 0, 0); /* zeros: illegal; mtvec is 0 */
    assert_true(tiny_board_run(board, 60000, &code));
    assert_int_equal(code, 0xdead);
    assert_string_equal(board->fatal, "hart 0 cannot fetch its trap handler at 0");
    tiny_board_free(board);
}

static void log_insn(void *opaque, unsigned hart, uint64_t pc, uint32_t word)
{
    char text[64];
    riscv_disassemble(word, pc, text, sizeof text);
    g_string_append_printf(opaque, "%x: %s\n", (unsigned)(pc - TINY_RAM_BASE), text);
}

static void log_trap(void *opaque, unsigned hart, uint64_t pc, uint64_t cause, uint64_t tval)
{
    g_string_append_printf(opaque, "trap %x: cause %u\n", (unsigned)(pc - TINY_RAM_BASE),
                           (unsigned)cause);
}

static void test_trace_shows_every_instruction_and_trap(void **state)
{
    static const uint32_t program[] = {
        0x00000297, /* auipc t0, 0 */
        0x01828293, /* addi t0, t0, 24 */
        0x30529073, /* csrw mtvec, t0 */
        0x00000463, /* beq zero, zero, +8 */
        0x00000013, /* nop, skipped */
        0x00000073, /* ecall */
        0x00100337, /* lui t1, 0x100 */
        0x000053b7, /* lui t2, 5 */
        0x55538393, /* addi t2, t2, 0x555 */
        0x00732023, /* sw t2, 0(t1) */
        0x0000006f, /* j . */
    };
    struct tiny_board *board = tiny_board_new(1, RAM_BYTES);
    g_autoptr(GString) log = g_string_new(NULL);
    struct riscv_trace trace = {log_insn, log_trap, log};
    unsigned code = 1;
    memcpy(board->ram->host, program, sizeof program);
    cpu_riscv_soft.set_entry(board->cpu, 0, TINY_RAM_BASE, 0, 0);
    riscv_set_trace(board->cpu, &trace);
    assert_true(tiny_board_run(board, 60000, &code));
    assert_int_equal(code, 0);
    const char *expected = "0: auipc t0,0x0\n"
                           "4: addi t0,t0,24\n"
                           "8: csrrw zero,mtvec,t0\n"
                           "c: beq zero,zero,0x80000014\n"
                           "14: ecall\n"
                           "trap 14: cause 11\n"
                           "18: lui t1,0x100\n"
                           "1c: lui t2,0x5\n"
                           "20: addi t2,t2,1365\n"
                           "24: sw t2,0(t1)\n";
    log->str[MIN(log->len, strlen(expected))] = '\0';
    assert_string_equal(log->str, expected);
    tiny_board_free(board);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start_and_stop_at_any_time),
        cmocka_unit_test(test_waiting_hart_stops_and_goes_on_waiting),
        cmocka_unit_test(test_no_wake_up_is_lost),
        cmocka_unit_test(test_line_raised_while_stopped_is_seen),
        cmocka_unit_test(test_reset_goes_back_to_the_start),
        cmocka_unit_test(test_hostile_state_is_refused),
        cmocka_unit_test(test_no_write_escapes_the_dirty_log),
        cmocka_unit_test(test_each_dirty_page_is_counted_by_one_hart),
        cmocka_unit_test(test_a_throttled_hart_gets_its_share),
        cmocka_unit_test(test_a_pause_does_not_delay_a_stop),
        cmocka_unit_test(test_a_waiting_hart_is_not_throttled),
        cmocka_unit_test(test_no_write_of_a_throttled_hart_escapes_the_dirty_log),
        cmocka_unit_test(test_code_written_by_a_device_is_run_after_fence_i),
        cmocka_unit_test(test_a_guest_without_a_trap_handler_is_reported),
        cmocka_unit_test(test_trace_shows_every_instruction_and_trap),
    };
    return cmocka_run_group_tests_name("hart", tests, NULL, NULL);
}
