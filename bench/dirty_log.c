/* SPDX-License-Identifier: MIT */
/*
 * What each kind of KVM's dirty log costs a guest that writes: laps of a loop that writes a byte to
 * each of 128 pages, with a log that is collected ten times a second, beside the same loop without
 * a log in the same run.
 *
 * usage: dirty-log [--seconds N] [--rounds N]
 *
 * Prints one JSON object: laps per second without a log and with each kind, the best of the
 * rounds, taken in turns; their ratios; time of one collection.
 */
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cpu/kvm/kvm.h"

#define RAM_BYTES  (UINT64_C(256) << 20)
#define CODE_GPA   0x1000u
#define COLLECT_MS 100u

enum mode { MODE_NONE, MODE_BITMAP, MODE_RING, N_MODES };
static const char *const mode_names[] = {"none", "bitmap", "ring"};

static uint64_t n_laps; /* atomic */

static bool no_read(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t *value)
{
    return false;
}

static bool no_write(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t value)
{
    return false;
}

static bool count_lap(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint32_t value)
{
    __atomic_fetch_add(&n_laps, 1, __ATOMIC_RELAXED);
    return true;
}

static void on_fatal(void *opaque, unsigned vcpu, const char *reason)
{
    fprintf(stderr, "dirty-log: %s\n", reason);
    exit(1);
}

static const uint8_t loop[] = {0xb8, 0x00, 0x20,             /* mov ax, 0x2000 */
                               0x8e, 0xc0,                   /* mov es, ax */
                               0x26, 0xfe, 0x06, 0x00, 0x00, /* inc byte [es:0] */
                               0x05, 0x00, 0x01,             /* add ax, 0x100 */
                               0x3d, 0x00, 0xa0,             /* cmp ax, 0xa000 */
                               0x75, 0xf1,                   /* jne mov es */
                               0xe6, 0x80,                   /* out 0x80, al */
                               0xeb, 0xea};                  /* jmp mov ax */

struct result {
    double laps_per_s;
    double collect_us;
};

static void collect_for(struct gw_memory *memory, struct gw_page_set *set, unsigned seconds,
                        bool is_logging, double *collect_us)
{
    uint64_t end_ns = clock_mono_ns() + seconds * NS_PER_S, spent_ns = 0;
    unsigned n = 0;

    while (clock_mono_ns() < end_ns) {
        poll(NULL, 0, COLLECT_MS);
        uint64_t start_ns = clock_mono_ns();
        if (is_logging && !gw_memory_log_collect(memory, set, NULL, NULL))
            exit(1);
        spent_ns += clock_mono_ns() - start_ns;
        n++;
    }
    *collect_us = (double)spent_ns / n / 1000;
}

static struct result measure(enum mode mode, unsigned seconds)
{
    static const struct cpu_bus_ops bus = {no_read, no_write, NULL, count_lap};
    g_autoptr(GError) error = NULL;
    struct gw_memory *memory = gw_memory_new();
    struct gw_ram_block *ram = gw_memory_add_block(memory, "ram", 0, RAM_BYTES, NULL);
    struct guest_clock clock;
    struct result result = {0};

    guest_clock_init(&clock, NS_PER_S, 0);
    const struct cpu_config config = {
        .n_vcpus = 1,
        .memory = memory,
        .clock = &clock,
        .bus = &bus,
        .dirty_log = mode == MODE_RING ? CPU_DIRTY_LOG_RING : CPU_DIRTY_LOG_BITMAP,
        .fatal = on_fatal,
    };
    struct cpu_backend *cpu = cpu_kvm.create(&config, &error);
    if (!cpu) {
        fprintf(stderr, "dirty-log: %s\n", error->message);
        exit(1);
    }
    struct gw_page_set *set = gw_page_set_new(memory);
    memcpy(ram->host + CODE_GPA, loop, sizeof loop);
    cpu_kvm.reset(cpu);
    kvm_set_entry_real(cpu, CODE_GPA >> 4, 0);
    if (mode != MODE_NONE && !gw_memory_log_start(memory, NULL))
        exit(1);
    cpu_kvm.start(cpu);
    uint64_t start_ns = clock_mono_ns();
    uint64_t before = __atomic_load_n(&n_laps, __ATOMIC_RELAXED);
    collect_for(memory, set, seconds, mode != MODE_NONE, &result.collect_us);
    result.laps_per_s = (double)(__atomic_load_n(&n_laps, __ATOMIC_RELAXED) - before) * 1e9 /
                        (double)(clock_mono_ns() - start_ns);
    cpu_kvm.stop(cpu);
    gw_memory_log_stop(memory);
    gw_page_set_free(set);
    cpu_kvm.free(cpu);
    gw_memory_free(memory);
    return result;
}

int main(int argc, char **argv)
{
    int seconds = 1, n_rounds = 3;
    const GOptionEntry entries[] = {
        {"seconds", 0, 0, G_OPTION_ARG_INT, &seconds, "Of one measurement (1)", "N"},
        {"rounds", 0, 0, G_OPTION_ARG_INT, &n_rounds, "In turns (3)", "N"},
        {NULL},
    };
    GOptionContext *context = g_option_context_new("- what a dirty log costs a guest");
    struct result best[N_MODES] = {0};

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, NULL) || seconds < 1 || n_rounds < 1)
        return 2;
    g_option_context_free(context);
    for (int round = 0; round < n_rounds; round++) {
        for (enum mode mode = MODE_NONE; mode < N_MODES; mode++) {
            struct result result = measure(mode, (unsigned)seconds);
            if (result.laps_per_s > best[mode].laps_per_s)
                best[mode] = result;
        }
    }
    json_t *out = json_object();
    for (enum mode mode = MODE_NONE; mode < N_MODES; mode++)
        json_object_set_new(out, mode_names[mode],
                            json_pack("{s:f, s:f, s:f}", "laps-per-s", best[mode].laps_per_s,
                                      "ratio", best[mode].laps_per_s / best[MODE_NONE].laps_per_s,
                                      "collect-us", best[mode].collect_us));
    json_dumpf(out, stdout, JSON_INDENT(2));
    puts("");
    json_decref(out);
    return 0;
}
