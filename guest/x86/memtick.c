/* SPDX-License-Identifier: MIT */
/* A guest that checks its memory, its registers and its clock while it is moved about: memtick for
 * x86-64.
 *
 * Model: as guest/bare/memtick.c. Each vCPU owns a slice of RAM and works on it as
 * common/workload.h says, at its share of the rate, halting when it is ahead. Each takes a timer
 * interrupt of its APIC `hz` times a second. The first prints a heart-beat each second, sends IPIs,
 * and obeys single letters on the serial port:
 *   s status line now   v verify all memory   q power off   r reboot
 *
 * Anything wrong is printed as a line "memtick: BAD ..." and the machine is switched off.
 *
 * Parameters (command line): kib=1024 rate=100 (KiB/s, 0: no limit) cpus=N hz=100 fault=1 (a triple
 * fault once everything runs) */
#include "common/workload.h"
#include "x86.h"

#include <stdatomic.h>

enum { VECTOR_TIMER = 0x30, VECTOR_IPI = 0x31 };
#define KEPT_SEED 0x400921fb54442d00ull

struct cpu {
    struct workload load;
    uint64_t id;
    uint64_t last_tsc;
    _Atomic uint64_t ticks, ipis;
    _Atomic uint64_t passes, visits;
    _Atomic uint32_t verified; /* last verify request carried out */
};

static struct config {
    uint64_t kib, rate, hz, fault;
    uint32_t cpus;
} config;

static struct cpu cpus[MAX_CPUS];
static _Atomic uint32_t ready_count;
static _Atomic uint32_t verify_request;

static _Noreturn void bad(const char *what, uint64_t a, uint64_t b, uint64_t c)
{
    print("memtick: BAD %s %d %x %x\n", what, a, b, c);
    finish();
}

static _Noreturn void bad_memory(const struct cpu *cpu, const struct damage *d)
{
    print("memtick: BAD memory cpu %d page %d pass %d word %d wanted %x found %x\n", cpu->id,
          d->page, d->pass, (uint64_t)d->word, d->wanted, d->found);
    finish();
}

void x86_interrupt(struct frame *frame)
{
    struct cpu *cpu = &cpus[apic_id()];

    if (frame->vector == VECTOR_TIMER) {
        cpu->ticks++;
    } else if (frame->vector == VECTOR_IPI) {
        cpu->ipis++;
    } else {
        print("memtick: BAD trap cpu %d vector %d error %x rip %x\n", cpu->id, frame->vector,
              frame->error, frame->rip);
        finish();
    }
    interrupt_end();
}

/* ---- every vCPU ---- */

static void check_clock(struct cpu *cpu)
{
    uint64_t now = rdtsc();

    if (now < cpu->last_tsc) {
        bad("time went back, cpu", cpu->id, now, cpu->last_tsc);
    }
    cpu->last_tsc = now;
}

/* The debug registers and MSRs that nobody else uses hold known values. */
static void registers_fill(const struct cpu *cpu)
{
    __asm__ volatile("mov %0, %%dr1; mov %1, %%dr2" ::"r"(KEPT_SEED + cpu->id),
                     "r"(KEPT_SEED + 64 + cpu->id));
    wrmsr(0xc0000102, KEPT_SEED >> 20);             /* KERNEL_GS_BASE */
    wrmsr(0xc0000082, (KEPT_SEED >> 24) + cpu->id); /* LSTAR */
}

static void registers_check(const struct cpu *cpu)
{
    uint64_t dr1, dr2;

    __asm__ volatile("mov %%dr1, %0; mov %%dr2, %1" : "=r"(dr1), "=r"(dr2));
    if (dr1 != KEPT_SEED + cpu->id || dr2 != KEPT_SEED + 64 + cpu->id) {
        bad("debug registers, cpu", cpu->id, dr1, dr2);
    }
    if (rdmsr(0xc0000102) != KEPT_SEED >> 20 || rdmsr(0xc0000082) != (KEPT_SEED >> 24) + cpu->id) {
        bad("MSRs, cpu", cpu->id, rdmsr(0xc0000102), rdmsr(0xc0000082));
    }
}

static void answer_verify(struct cpu *cpu)
{
    struct damage damage;
    uint32_t request = verify_request;

    if (cpu->verified == request) {
        return;
    }
    registers_check(cpu);
    if (workload_verify(&cpu->load, &damage) != 0) {
        bad_memory(cpu, &damage);
    }
    cpu->verified = request;
}

static void visit(struct cpu *cpu)
{
    struct damage damage;

    if (!workload_visit(&cpu->load, &damage)) {
        bad_memory(cpu, &damage);
    }
    cpu->visits = cpu->load.visits;
    cpu->passes = workload_passes(&cpu->load);
    check_clock(cpu);
}

static void cpu_start(struct cpu *cpu, uint64_t id)
{
    uint64_t pages = config.kib / 4 / config.cpus;

    interrupts_init();
    cpu->id = id;
    workload_init(&cpu->load, _end + id * pages * PAGE_BYTES, pages, id + 1, ORDER_RANDOM,
                  FILL_RANDOM);
    registers_fill(cpu);
    cpu->last_tsc = rdtsc();
    timer_start(VECTOR_TIMER, (uint32_t)config.hz);
    ready_count++;
}

/* ---- the first ---- */

static void print_status(const char *what)
{
    uint64_t pages = 0, ipis = 0, passes = UINT64_MAX;

    for (uint32_t i = 0; i < config.cpus; i++) {
        pages += cpus[i].visits;
        ipis += cpus[i].ipis;
        passes = cpus[i].passes < passes ? cpus[i].passes : passes;
    }
    print("%s %d pass %d pages %d errors 0 missed 0 ipis %d gap_us 0\n", what, cpus[0].ticks,
          passes, pages, ipis);
}

static void verify_all(struct cpu *cpu)
{
    verify_request++;
    answer_verify(cpu);
    for (uint32_t i = 1; i < config.cpus; i++) {
        while (cpus[i].verified != verify_request) {
            sleep_until_interrupt();
        }
    }
    print("verify ok\n");
}

static _Noreturn void triple_fault(void)
{
    static const struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } none = {0, 0};

    print("memtick: faulting\n");
    __asm__ volatile("lidt %0; ud2" ::"m"(none));
    __builtin_unreachable();
}

static void obey_console(struct cpu *cpu)
{
    switch (console_get()) {
    case 's':
        print_status("status");
        break;
    case 'v':
        verify_all(cpu);
        break;
    case 'f':
        triple_fault();
    case 'q':
        finish();
    case 'r':
        reboot();
    }
}

static void look_around(struct cpu *cpu, uint64_t ticks, uint64_t *beats)
{
    answer_verify(cpu);
    if (cpu->id != 0) {
        return;
    }
    obey_console(cpu);
    if (ticks / config.hz != *beats) {
        *beats = ticks / config.hz;
        ipi_others(VECTOR_IPI);
        print_status("tick");
        verify_all(cpu);
    }
}

static _Noreturn void cpu_loop(struct cpu *cpu)
{
    uint64_t bytes_per_tick = config.rate * 1024 / config.cpus / config.hz;
    uint64_t credit = 0, ticks = 0, beats = 0;

    for (;;) {
        uint64_t now_ticks = cpu->ticks;
        if (now_ticks != ticks) {
            ticks = now_ticks;
            /* One tick's worth however many passed: a blackout is not caught up. */
            credit = credit % PAGE_BYTES + bytes_per_tick;
            look_around(cpu, ticks, &beats);
        }
        if (config.rate == 0 || credit >= PAGE_BYTES) {
            __asm__ volatile("sti");
            visit(cpu);
            __asm__ volatile("cli");
            credit -= config.rate ? PAGE_BYTES : 0;
        } else {
            check_clock(cpu);
            if (cpu->ticks == ticks) {
                sleep_until_interrupt();
            }
        }
    }
}

void x86_cpu(uint32_t id)
{
    struct cpu *cpu = &cpus[id < MAX_CPUS ? id : 0];

    if (id == 0 || id >= config.cpus) {
        for (;;) {
            __asm__ volatile("hlt");
        }
    }
    cpu_start(cpu, id);
    if (apic_id() != id) {
        bad("APIC and CPUID disagree, cpu", id, apic_id(), 0);
    }
    cpu_loop(cpu);
}

void x86_main(const void *zero_page)
{
    config.kib = param(zero_page, "kib", 1024);
    config.rate = param(zero_page, "rate", 100);
    config.hz = param(zero_page, "hz", 100);
    config.fault = param(zero_page, "fault", 0);
    config.cpus = (uint32_t)param(zero_page, "cpus", 1);
    if (config.cpus == 0 || config.cpus > MAX_CPUS || config.hz == 0 || config.hz > 10000 ||
        (uint64_t)_end + config.kib * 1024 > ram_end(zero_page)) {
        bad("parameters do not fit", config.kib, ram_end(zero_page), (uint64_t)_end);
    }
    print("memtick: cpus %d kib %d rate %d hz %d\n", (uint64_t)config.cpus, config.kib, config.rate,
          config.hz);
    cpu_start(&cpus[0], 0);
    if (config.cpus > 1) {
        others_start();
    }
    while (ready_count != config.cpus) {
        sleep_until_interrupt();
    }
    print("memtick: ready\n");
    if (config.fault) {
        triple_fault();
    }
    cpu_loop(&cpus[0]);
}
