/* SPDX-License-Identifier: MIT */
/*
 * What device tests stand on: a bus, a loop, a CPU backend that remembers what it was told, and
 * register access as a vCPU does it.
 */
#ifndef TEST_DEVICE_RIG_H
#define TEST_DEVICE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/latency.h"
#include "cpu/backend.h"
#include "device/device.h"

#define RIG_HARTS    4
#define RIG_GIVE_UP  (120 * NS_PER_S) /* longer than any machine needs; nothing measures it */
#define RIG_TEST(fn) cmocka_unit_test_setup_teardown(fn, rig_setup, rig_teardown)

struct rig {
    struct latency_book *book;
    struct mmio_bus *bus;
    struct io_loop *loop;
    struct guest_clock clock;
    /* the CPU backend */
    struct {
        bool lines[16];
        uint64_t timer;
        unsigned n_set_timer;
    } harts[RIG_HARTS];
    unsigned n_set_irq;
    /* an interrupt line that is only watched; atomic */
    bool irq_level;
    unsigned n_irq_changes;
    char *dir; /* temporary, made at first use */
};

extern const struct cpu_backend_ops rig_cpu_ops;
struct cpu_backend *rig_cpu(struct rig *rig);
struct irq_line rig_irq(struct rig *rig);
bool rig_irq_level(struct rig *rig);
/* Waits until the watched line has this level; fails the test at the deadline. */
void rig_await_irq(struct rig *rig, bool level);
/* Waits until everything the loop had to do when called is done. */
void rig_settle(struct rig *rig);
/* A path in a directory that goes away with the rig (g_free). */
char *rig_path(struct rig *rig, const char *name);

uint64_t rig_read(struct rig *rig, uint64_t gpa, unsigned size);
void rig_write(struct rig *rig, uint64_t gpa, unsigned size, uint64_t value);
/* Every offset around a region, every size, several values: nothing may fall over. */
void rig_attack(struct rig *rig, uint64_t gpa, uint64_t size_bytes, unsigned n_accesses);

/* Saves one device and loads it into another one, as a move does. Asserts that it works. */
void rig_move_state(struct device *from, struct device *to);
/* The same; false when the load is refused. change may edit the saved object's copy before. */
bool rig_try_move_state(struct device *from, struct device *to, GError **error);

int rig_setup(void **state);
int rig_teardown(void **state);

#endif
