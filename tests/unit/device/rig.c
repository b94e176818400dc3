/* SPDX-License-Identifier: MIT */
/*
 * The rig of the device tests.
 */
#include "rig.h"

#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- CPU backend ---- */

struct cpu_backend *rig_cpu(struct rig *rig)
{
    return (struct cpu_backend *)rig;
}

static void cpu_set_irq(struct cpu_backend *cpu, unsigned vcpu, unsigned line, bool level)
{
    struct rig *rig = (struct rig *)cpu;
    assert_true(vcpu < RIG_HARTS && line < 16);
    __atomic_store_n(&rig->harts[vcpu].lines[line], level, __ATOMIC_RELEASE);
    __atomic_add_fetch(&rig->n_set_irq, 1, __ATOMIC_RELAXED);
}

static void cpu_set_timer(struct cpu_backend *cpu, unsigned vcpu, uint64_t deadline_ticks)
{
    struct rig *rig = (struct rig *)cpu;
    assert_true(vcpu < RIG_HARTS);
    rig->harts[vcpu].timer = deadline_ticks;
    rig->harts[vcpu].n_set_timer++;
}

static uint64_t cpu_get_timer(struct cpu_backend *cpu, unsigned vcpu)
{
    assert_true(vcpu < RIG_HARTS);
    return ((struct rig *)cpu)->harts[vcpu].timer;
}

const struct cpu_backend_ops rig_cpu_ops = {
    .name = "rig", .set_irq = cpu_set_irq, .set_timer = cpu_set_timer, .get_timer = cpu_get_timer};

/* ---- interrupt line ---- */

static void watch_irq(void *opaque, unsigned number, bool level)
{
    struct rig *rig = opaque;
    if (__atomic_exchange_n(&rig->irq_level, level, __ATOMIC_ACQ_REL) != level)
        __atomic_add_fetch(&rig->n_irq_changes, 1, __ATOMIC_RELAXED);
}

struct irq_line rig_irq(struct rig *rig)
{
    return (struct irq_line){.set = watch_irq, .opaque = rig};
}

bool rig_irq_level(struct rig *rig)
{
    return __atomic_load_n(&rig->irq_level, __ATOMIC_ACQUIRE);
}

static void nothing(void *opaque)
{
}

void rig_settle(struct rig *rig)
{
    /* The first call may run in a turn that has looked for work before we were called. */
    io_loop_run_sync(rig->loop, nothing, NULL);
    io_loop_run_sync(rig->loop, nothing, NULL);
}

void rig_await_irq(struct rig *rig, bool level)
{
    uint64_t deadline_ns = clock_mono_ns() + RIG_GIVE_UP;
    while (rig_irq_level(rig) != level) {
        assert_true(clock_mono_ns() < deadline_ns);
        rig_settle(rig);
    }
}

/* ---- registers ---- */

uint64_t rig_read(struct rig *rig, uint64_t gpa, unsigned size)
{
    uint64_t value = 0;
    assert_true(mmio_bus_read(rig->bus, gpa, size, &value));
    return value;
}

void rig_write(struct rig *rig, uint64_t gpa, unsigned size, uint64_t value)
{
    assert_true(mmio_bus_write(rig->bus, gpa, size, value));
}

void rig_attack(struct rig *rig, uint64_t gpa, uint64_t size_bytes, unsigned n_accesses)
{
    static const uint64_t values[] = {0, 1, UINT64_MAX, 0x5555555555555555, 0x80000000, 0x7f};
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    for (unsigned i = 0; i < n_accesses; i++) {
        unsigned size = 1u << g_rand_int_range(rand, 0, 4);
        uint64_t offset = ((uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand)) % size_bytes;
        if (g_rand_int_range(rand, 0, 2))
            offset %= MIN(size_bytes, 0x40);
        uint64_t value = values[(unsigned)g_rand_int_range(rand, 0, G_N_ELEMENTS(values))];
        if (g_rand_int_range(rand, 0, 2)) {
            uint64_t got;
            mmio_bus_read(rig->bus, gpa + offset, size, &got);
        } else {
            mmio_bus_write(rig->bus, gpa + offset, size, value);
        }
    }
}

/* ---- life ---- */

char *rig_path(struct rig *rig, const char *name)
{
    if (!rig->dir) {
        rig->dir = g_dir_make_tmp("gw-device-XXXXXX", NULL);
        assert_non_null(rig->dir);
    }
    return g_build_filename(rig->dir, name, NULL);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

int rig_setup(void **state)
{
    struct rig *rig = g_new0(struct rig, 1);
    rig->book = latency_book_new();
    rig->bus = mmio_bus_new(rig->book);
    rig->loop = io_loop_new("rig", rig->book);
    *state = rig;
    return 0;
}

int rig_teardown(void **state)
{
    struct rig *rig = *state;
    io_loop_free(rig->loop);
    mmio_bus_free(rig->bus);
    latency_book_free(rig->book);
    if (rig->dir)
        nftw(rig->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    g_free(rig->dir);
    g_free(rig);
    return 0;
}
