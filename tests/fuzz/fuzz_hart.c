/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a hart that runs any code over any memory, in machine mode and what it makes of it.
 *
 * Input: u16 bytes of code, the code, then data. Before the code runs a prologue that lets every
 * mode use all memory, and a trap handler that goes on behind the instruction that trapped and ends
 * the run after 64 traps. A run that does not end is stopped after RUN_NS. Checked: the hart stops;
 * whatever the guest has made of its registers can be saved and loaded.
 */
#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "cpu/backend.h"
#include "fuzz.h"

#define RAM_GPA   UINT64_C(0x80000000)
#define RAM_BYTES (UINT64_C(64) << 10)
#define CODE_AT   0x100u
#define DATA_AT   0x1000u
#define EXIT_GPA  UINT64_C(0x100000)
#define RUN_NS    (2 * NS_PER_MS)

/*      la t0, handler; csrw mtvec, t0; li t0, -1; csrw pmpaddr0, t0; li t0, 0x1f; csrw pmpcfg0, t0
 *      li t0, 0x6000; csrs mstatus, t0; li s11, 64; csrw mscratch, s11; la a0, data; la a1, code
 *      mv s0, a0; mv s1, a1; mv sp, a0; j code
 * handler:
 *      csrr s11, mscratch; addi s11, s11, -1; csrw mscratch, s11; beqz s11, 1f
 *      csrr s11, mepc; addi s11, s11, 4; csrw mepc, s11; mret
 * 1:   lui s11, 0x100; sw zero, 0(s11); j 1b
 */
static const uint32_t prologue[] = {
    0x00000297, 0x04c28293, 0x30529073, 0xfff00293, 0x3b029073, 0x01f00293, 0x3a029073, 0x000062b7,
    0x3002a073, 0x04000d93, 0x340d9073, 0x00001517, 0xfd450513, 0x00000597, 0x0cc58593, 0x00050413,
    0x00058493, 0x00050113, 0x0b80006f, 0x34002df3, 0xfffd8d93, 0x340d9073, 0x000d8a63, 0x34102df3,
    0x004d8d93, 0x341d9073, 0x30200073, 0x00100db7, 0x000da023, 0xff9ff06f,
};

static struct {
    struct gw_memory *memory;
    struct guest_clock clock;
    struct cpu_backend *cpu;
    struct gw_state_registry *registry;
    struct gw_state_plan *plan;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool has_ended; /* guarded by lock */
} board;

static void end(void)
{
    pthread_mutex_lock(&board.lock);
    board.has_ended = true;
    pthread_cond_broadcast(&board.changed);
    pthread_mutex_unlock(&board.lock);
}

static bool bus_read(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t *value)
{
    *value = gpa;
    return gpa - EXIT_GPA < 8;
}

static bool bus_write(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t value)
{
    if (gpa == EXIT_GPA)
        end();
    return gpa - EXIT_GPA < 8;
}

static void fatal(void *opaque, unsigned vcpu, const char *reason)
{
    end();
}

static void set_up(void)
{
    static const struct cpu_bus_ops bus = {bus_read, bus_write};
    pthread_condattr_t attr;

    pthread_mutex_init(&board.lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&board.changed, &attr);
    pthread_condattr_destroy(&attr);
    board.memory = gw_memory_new();
    fuzz_check(gw_memory_add_block(board.memory, "ram", RAM_GPA, RAM_BYTES, NULL));
    guest_clock_init(&board.clock, 10000000, 0);
    const struct cpu_config config = {
        .n_vcpus = 1, .memory = board.memory, .clock = &board.clock, .bus = &bus, .fatal = fatal};
    board.cpu = cpu_riscv_soft.create(&config, NULL);
    fuzz_check(board.cpu != NULL);
    board.registry = gw_state_registry_new();
    fuzz_check(cpu_riscv_soft.add_state(board.cpu, board.registry, NULL));
    board.plan = gw_state_plan_new(gw_schema_new(board.registry), board.registry);
}

static void fill_memory(struct fuzz_input *in)
{
    static uint8_t ram[RAM_BYTES];
    size_t n;
    const uint8_t *bytes = fuzz_take_bytes(in, fuzz_take(in, 2) % (DATA_AT - CODE_AT), &n);

    memset(ram, 0, sizeof ram);
    memcpy(ram, prologue, sizeof prologue);
    if (n)
        memcpy(ram + CODE_AT, bytes, n);
    bytes = fuzz_take_bytes(in, RAM_BYTES - DATA_AT, &n);
    if (n)
        memcpy(ram + DATA_AT, bytes, n);
    gw_memory_write(board.memory, RAM_GPA, ram, sizeof ram);
}

static void run(void)
{
    uint64_t until_ns = clock_mono_ns() + RUN_NS;
    const struct timespec until = {.tv_sec = (time_t)(until_ns / NS_PER_S),
                                   .tv_nsec = (long)(until_ns % NS_PER_S)};

    board.has_ended = false;
    cpu_riscv_soft.start(board.cpu);
    pthread_mutex_lock(&board.lock);
    while (!board.has_ended &&
           pthread_cond_timedwait(&board.changed, &board.lock, &until) != ETIMEDOUT)
        continue;
    pthread_mutex_unlock(&board.lock);
    cpu_riscv_soft.stop(board.cpu);
}

static void check_can_move(void)
{
    g_autoptr(GByteArray) saved = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    struct gw_state_load *load = gw_state_load_begin(board.plan, NULL);

    if (!gw_state_save(board.registry, 0, saved, &error) ||
        !gw_state_load_add(load, 0, saved->data, saved->len, &error) ||
        !gw_state_load_commit(load, &error))
        fprintf(stderr, "%s\n", error->message);
    fuzz_check(error == NULL);
    gw_state_load_keep(load);
    gw_state_load_free(load);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};

    if (!board.cpu)
        set_up();
    cpu_riscv_soft.reset(board.cpu);
    fill_memory(&in);
    cpu_riscv_soft.set_entry(board.cpu, 0, RAM_GPA, 0, 0);
    run();
    check_can_move();
    run(); /* on what was loaded */
    return 0;
}
