/* SPDX-License-Identifier: MIT */
/* A guest that checks its memory, its registers and its clock while it is moved about.
 *
 * Model: each hart owns a slice of RAM and works on it as common/workload.h says, at its share of
 * the rate, sleeping (WFI) when it is ahead. Each hart takes a timer interrupt `hz` times a second
 * and keeps known values in its floating-point registers and mscratch. Hart 0 prints a heart-beat
 * each second, sends IPIs, and obeys single letters on the serial port:
 *   s status line now   w pages per hart   v verify all memory   q power off, exit 0   r reboot
 *
 * Anything wrong is printed as a line "memtick: BAD ..." and ends the machine with a code:
 *   1 memory   2 time   3 trap or set-up   4 registers
 *
 * Parameters (bootargs): mib=16 rate=50 (MiB/s, 0: no limit) pattern=random|seq|hot|periodic
 *   period=1000 (ms of pattern=periodic: what the rate allows in one is written at its beginning,
 * as fast as it goes and in the order of random; then the hart rests) fill=random|text|sparse
 * harts=N hz=100 passes=N (then power off, exit 0) quiet=1 check=page|part (what a visit looks at)
 *   writers=N (the harts from N on only read their slices, in order) beats=1 (heart-beats a
 *   second) pulse=1 (a full stop on the serial port at each tick of hart 0, for who watches it)
 *   idle=wfi|poll (poll: stays awake, and sets a timer again that does not come, for emulators that
 *   lose it when they are moved) */
#include "bare.h"
#include "common/workload.h"

#include <stdatomic.h>

#define CAUSE_MSI      0x8000000000000003ull
#define CAUSE_MTI      0x8000000000000007ull
#define MIE_MSIE       0x08u
#define MIE_MTIE       0x80u
#define MSTATUS_MIE    0x08u
#define OVERDUE_VISITS 100000u /* visits that may pass while a timer interrupt is due */
#define LATE_TICKS     3u      /* after which a timer is set again where it may get lost */
#define POLL_LOOPS     5000u   /* between two looks at the clock: some microseconds */
#define FP_SEED        0x400921fb54442d00ull

enum { BAD_MEMORY = 1, BAD_TIME = 2, BAD_TRAP = 3, BAD_REGISTERS = 4 };

/* The orders of the workload, and what is random in bursts. */
enum pattern { PATTERN_PERIODIC = ORDER_HOT + 1 };
static const char *const pattern_names[] = {"random", "seq", "hot", "periodic"};
static const char *const check_names[] = {"page", "part"};
static const char *const idle_names[] = {"wfi", "poll"};

struct hart {
    struct workload load;
    uint64_t id;
    uint64_t last_time;
    uint64_t overdue;
    uint64_t max_gap; /* longest time between two looks at the clock */
    uint64_t seen_ticks;
    uint64_t credit; /* bytes that it may still write */
    uint64_t period; /* number of the last one that it was given credit for */
    _Atomic uint64_t ticks;
    _Atomic uint64_t missed; /* ticks that came due while the machine stood still */
    _Atomic uint64_t next;
    _Atomic uint64_t passes;
    _Atomic uint64_t visits;
    _Atomic uint64_t ipis;
    _Atomic uint32_t verified; /* last verify request carried out */
};

static struct config {
    uint64_t mib, rate, hz, interval, passes, quiet, beats, pulse;
    uint64_t period,
        period_bytes; /* length of a period in ticks of mtime, what a hart writes in it */
    uint32_t harts, writers, pattern;
    enum fill fill;
    bool checks_part, polls;
} config;

static struct board board;
static struct hart harts[MAX_HARTS];
static _Atomic uint32_t ready_count;
static _Atomic uint32_t verify_request;

static _Noreturn void bad(uint16_t code, const char *what, uint64_t a, uint64_t b, uint64_t c)
{
    print("memtick: BAD %s %d %x %x\n", what, a, b, c);
    finish_fail(code);
}

static _Noreturn void bad_memory(const struct hart *h, const struct damage *d)
{
    print("memtick: BAD memory hart %d page %d pass %d word %d wanted %x found %x\n", h->id,
          d->page, d->pass, (uint64_t)d->word, d->wanted, d->found);
    finish_fail(BAD_MEMORY);
}

/* ---- interrupts ---- */

static void take_tick(struct hart *h)
{
    uint64_t now = mtime();
    uint64_t next = h->next;

    if (now < next) {
        bad(BAD_TIME, "early timer interrupt, hart", h->id, now, next);
    }
    /* Every tick of a short delay is taken; a blackout's are counted at once. */
    if (now - next > config.hz * config.interval) {
        uint64_t missed = (now - next) / config.interval;
        h->missed += missed;
        next += missed * config.interval;
    }
    h->ticks++;
    h->next = next + config.interval;
    mtimecmp_set(h->id, h->next);
}

void bare_trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    uint64_t id = csr_read(mhartid);

    if (csr_read(mscratch) != (uint64_t)&harts[id]) {
        bad(BAD_REGISTERS, "mscratch, hart", id, csr_read(mscratch), (uint64_t)&harts[id]);
    }
    if (cause == CAUSE_MTI) {
        take_tick(&harts[id]);
    } else if (cause == CAUSE_MSI) {
        ipi_set(id, false);
        harts[id].ipis++;
    } else {
        print("memtick: BAD trap hart %d cause %x epc %x tval %x\n", id, cause, epc, tval);
        finish_fail(BAD_TRAP);
    }
}

/* ---- every hart ---- */

static void set_timer_again(struct hart *h)
{
    csr_clear(mstatus, MSTATUS_MIE); /* or a tick in between would be undone */
    mtimecmp_set(h->id, h->next);
    csr_set(mstatus, MSTATUS_MIE);
}

static void check_clock(struct hart *h)
{
    uint64_t now = mtime();

    if (now < h->last_time) {
        bad(BAD_TIME, "time went back, hart", h->id, now, h->last_time);
    }
    if (now - h->last_time > h->max_gap) {
        h->max_gap = now - h->last_time;
    }
    h->last_time = now;
    if (config.polls && now > h->next + LATE_TICKS * config.interval) {
        set_timer_again(h);
    }
    h->overdue = now >= h->next ? h->overdue + 1 : 0;
    if (h->overdue > OVERDUE_VISITS) {
        bad(BAD_TIME, "timer interrupt lost, hart", h->id, now, h->next);
    }
}

static void check_registers(struct hart *h)
{
    int wrong = fp_check(FP_SEED + h->id * 64);

    if (wrong) {
        bad(BAD_REGISTERS, "floating-point register, hart", h->id, (uint64_t)wrong - 1, 0);
    }
}

static void answer_verify(struct hart *h)
{
    struct damage damage;
    uint32_t request = verify_request;

    if (h->verified == request) {
        return;
    }
    if (workload_verify(&h->load, &damage) != 0) {
        bad_memory(h, &damage);
    }
    h->verified = request;
}

/* Checks the next page, and leaves it as it was made. */
static bool read_visit(struct workload *load, struct damage *damage)
{
    return page_check(&load->cold, load->visits++ % load->cold.pages, 0, damage);
}

static void visit(struct hart *h)
{
    struct damage damage;
    bool writes = h->id < config.writers;

    if (!(writes ? workload_visit(&h->load, &damage) : read_visit(&h->load, &damage))) {
        bad_memory(h, &damage);
    }
    h->visits = h->load.visits;
    uint64_t passes = writes ? workload_passes(&h->load) : h->load.visits / h->load.cold.pages;
    if (passes != h->passes) {
        h->passes = passes;
        check_registers(h);
    }
    check_clock(h);
}

static bool is_periodic(void)
{
    return config.pattern == PATTERN_PERIODIC;
}

static void hart_start(struct hart *h, uint64_t id)
{
    uint64_t pages = config.mib * 256 / config.harts;

    h->id = id;
    csr_write(mscratch, (uint64_t)h);
    workload_init(&h->load, _end + id * pages * PAGE_BYTES, pages, id + 1,
                  is_periodic() ? ORDER_RANDOM : (enum order)config.pattern, config.fill);
    if (config.checks_part) {
        workload_check_part(&h->load);
    }
    fp_fill(FP_SEED + id * 64);
    h->last_time = mtime();
    h->next = h->last_time + config.interval;
    mtimecmp_set(id, h->next);
    csr_write(mie, MIE_MTIE | MIE_MSIE);
    csr_set(mstatus, MSTATUS_MIE);
    ready_count++;
}

/* ---- hart 0 ---- */

static void print_status(const char *what)
{
    uint64_t pages = 0, ipis = 0, passes = UINT64_MAX;

    for (uint32_t i = 0; i < config.harts; i++) {
        pages += harts[i].visits;
        ipis += harts[i].ipis;
        passes = harts[i].passes < passes ? harts[i].passes : passes;
    }
    print("%s %d pass %d pages %d errors 0 missed %d ipis %d gap_us %d\n", what, harts[0].ticks,
          passes, pages, harts[0].missed, ipis, harts[0].max_gap * 1000000 / board.timebase_hz);
}

static void print_work(void)
{
    print("work");
    for (uint32_t i = 0; i < config.harts; i++) {
        print(" %d", harts[i].visits);
    }
    print("\n");
}

static bool is_done(void)
{
    for (uint32_t i = 0; i < config.harts; i++) {
        if (config.passes == 0 || harts[i].passes < config.passes) {
            return false;
        }
    }
    return true;
}

static void heart_beat(void)
{
    for (uint32_t i = 1; i < config.harts; i++) {
        ipi_set(i, true);
    }
    if (!config.quiet) {
        print_status("tick");
    }
    if (is_done()) {
        print("memtick: done\n");
        finish_pass();
    }
}

static void verify_all(struct hart *h)
{
    verify_request++;
    answer_verify(h);
    for (uint32_t i = 1; i < config.harts; i++) {
        while (harts[i].verified != verify_request) {
            wfi();
        }
    }
    print("verify ok\n");
}

static void obey_console(struct hart *h)
{
    switch (console_get()) {
    case 's':
        print_status("status");
        break;
    case 'w':
        print_work();
        break;
    case 'v':
        verify_all(h);
        break;
    case 'q':
        finish_pass();
    case 'r':
        finish_reboot();
    }
}

/* One tick's worth, or one period's, however many passed: a blackout is not caught up. Of what was
 * left only the part of a page is kept. */
static void earn(struct hart *h)
{
    uint64_t bytes = config.period_bytes;

    if (!is_periodic()) {
        bytes = config.rate * 1048576 / config.harts / config.hz;
    } else if (mtime() / config.period == h->period) {
        return;
    }
    h->period = mtime() / config.period;
    h->credit = h->credit % PAGE_BYTES + bytes;
}

static void rest(struct hart *h)
{
    check_clock(h);
    if (!config.polls) {
        wfi();
        return;
    }
    for (uint32_t i = 0; i < POLL_LOOPS && h->ticks == h->seen_ticks; i++) {
    }
}

static void look_around(struct hart *h, uint64_t *beats)
{
    answer_verify(h);
    if (h->id != 0) {
        return;
    }
    if (config.pulse) {
        print(".");
    }
    obey_console(h);
    if (h->ticks * config.beats / config.hz != *beats) {
        *beats = h->ticks * config.beats / config.hz;
        heart_beat();
    }
}

static _Noreturn void hart_loop(struct hart *h)
{
    uint64_t beats = 0;

    for (;;) {
        uint64_t ticks = h->ticks;
        if (ticks != h->seen_ticks) {
            h->seen_ticks = ticks;
            earn(h);
            look_around(h, &beats);
        }
        if (config.rate == 0) {
            visit(h);
        } else if (h->credit >= PAGE_BYTES) {
            visit(h);
            h->credit -= PAGE_BYTES;
        } else {
            rest(h);
        }
    }
}

void bare_hart(uint64_t hartid)
{
    if (hartid < config.harts) {
        hart_start(&harts[hartid], hartid);
        hart_loop(&harts[hartid]);
    }
}

static void read_period(void)
{
    uint64_t ms = board_param(&board, "period", 1000);

    if (ms == 0 || ms > 60000) {
        ms = 1000;
    }
    config.period = board.timebase_hz * ms / 1000;
    config.period_bytes = config.rate * 1048576 / config.harts * ms / 1000;
}

static void read_config(void)
{
    config.mib = board_param(&board, "mib", 16);
    config.rate = board_param(&board, "rate", 50);
    config.hz = board_param(&board, "hz", 100);
    config.passes = board_param(&board, "passes", 0);
    config.quiet = board_param(&board, "quiet", 0);
    config.harts = (uint32_t)board_param(&board, "harts", board.harts);
    config.beats = board_param(&board, "beats", 1);
    config.pulse = board_param(&board, "pulse", 0);
    config.pattern = (uint32_t)board_choice(&board, "pattern", pattern_names, 4, ORDER_RANDOM);
    config.checks_part = board_choice(&board, "check", check_names, 2, 0);
    config.polls = board_choice(&board, "idle", idle_names, 2, 0);
    config.fill = (enum fill)board_choice(&board, "fill", fill_names, 3, FILL_RANDOM);
    if (config.harts == 0 || config.harts > board.harts) {
        config.harts = board.harts;
    }
    config.writers = (uint32_t)board_param(&board, "writers", config.harts);
    if (config.hz == 0 || config.hz > 10000) {
        config.hz = 100;
    }
    config.interval = board.timebase_hz / config.hz;
    read_period();
    uint64_t room = board.ram_base + board.ram_bytes - (uint64_t)_end;
    if (config.mib == 0 || config.mib * 1048576 > room) {
        bad(BAD_TRAP, "mib does not fit into RAM", config.mib, room, board.ram_bytes);
    }
}

void bare_main(uint64_t hartid, const void *fdt)
{
    board_read(&board, fdt);
    read_config();
    print("memtick: harts %d mib %d rate %d pattern %s fill %s hz %d\n", (uint64_t)config.harts,
          config.mib, config.rate, pattern_names[config.pattern], fill_names[config.fill],
          config.hz);
    for (uint32_t i = 1; i < board.harts; i++) {
        ipi_set(i, true);
    }
    hart_start(&harts[0], 0);
    while (ready_count != config.harts) {
        wfi();
    }
    print("memtick: ready\n");
    hart_loop(&harts[0]);
}
