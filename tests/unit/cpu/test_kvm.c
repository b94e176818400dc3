/* SPDX-License-Identifier: MIT */
/*
 * The KVM backend with the smallest guests there are: code in bytes, at 0x1000.
 *
 * Where the host has no KVM every test skips and says why.
 */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/cond.h"
#include "cpu/kvm/kvm.h"

#define RAM_BYTES   (UINT64_C(4) << 20)
#define CODE_GPA    0x1000u
#define MMIO_GPA    UINT64_C(0xd0000000)
#define DEADLINE_NS UINT64_C(60000000000)
#define MAX_WRITES  64u

enum { PORT_BELL = 0x80, PORT_SAY = 0x3f8 };

struct tiny_pc {
    struct gw_memory *memory;
    struct gw_ram_block *ram;
    struct guest_clock clock;
    struct cpu_backend *cpu;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* guarded by lock */
    GString *said; /* bytes written to PORT_SAY */
    unsigned n_mmio;
    uint64_t mmio[MAX_WRITES]; /* values written to MMIO_GPA */
    char *reset, *fatal;
};

/* ---- the board ---- */

static void tell(struct tiny_pc *pc)
{
    pthread_cond_broadcast(&pc->changed);
    pthread_mutex_unlock(&pc->lock);
}

static bool bus_read(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t *value)
{
    *value = UINT64_C(0x1122334455667788);
    return gpa == MMIO_GPA;
}

static bool bus_write(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t value)
{
    struct tiny_pc *pc = opaque;

    if (gpa != MMIO_GPA)
        return false;
    pthread_mutex_lock(&pc->lock);
    if (pc->n_mmio < MAX_WRITES)
        pc->mmio[pc->n_mmio++] = value;
    tell(pc);
    return true;
}

static bool port_read(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint32_t *value)
{
    *value = 0x5a;
    return port == PORT_SAY;
}

static bool port_write(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint32_t value)
{
    struct tiny_pc *pc = opaque;

    if (port != PORT_SAY)
        return false;
    pthread_mutex_lock(&pc->lock);
    g_string_append_c(pc->said, (char)value);
    tell(pc);
    return true;
}

static const struct cpu_bus_ops bus_ops = {bus_read, bus_write, port_read, port_write};

static void on_reset(void *opaque, unsigned vcpu, const char *reason)
{
    struct tiny_pc *pc = opaque;
    pthread_mutex_lock(&pc->lock);
    g_free(pc->reset);
    pc->reset = g_strdup(reason);
    tell(pc);
}

static void on_fatal(void *opaque, unsigned vcpu, const char *reason)
{
    struct tiny_pc *pc = opaque;
    pthread_mutex_lock(&pc->lock);
    g_free(pc->fatal);
    pc->fatal = g_strdup(reason);
    tell(pc);
}

static struct tiny_pc *pc_new(unsigned n_vcpus)
{
    struct tiny_pc *pc = g_new0(struct tiny_pc, 1);
    g_autoptr(GError) error = NULL;

    pthread_mutex_init(&pc->lock, NULL);
    cond_init_mono(&pc->changed);
    pc->said = g_string_new(NULL);
    pc->memory = gw_memory_new();
    pc->ram = gw_memory_add_block(pc->memory, "ram", 0, RAM_BYTES, &error);
    g_assert_no_error(error);
    guest_clock_init(&pc->clock, 1000000000, 0);
    const struct cpu_config config = {
        .n_vcpus = n_vcpus,
        .memory = pc->memory,
        .clock = &pc->clock,
        .bus = &bus_ops,
        .bus_opaque = pc,
        .reset = on_reset,
        .fatal = on_fatal,
        .fatal_opaque = pc,
    };
    pc->cpu = cpu_kvm.create(&config, &error);
    g_assert_no_error(error);
    cpu_kvm.reset(pc->cpu);
    return pc;
}

static void pc_free(struct tiny_pc *pc)
{
    cpu_kvm.stop(pc->cpu);
    cpu_kvm.free(pc->cpu);
    gw_memory_free(pc->memory);
    g_string_free(pc->said, TRUE);
    g_free(pc->reset);
    g_free(pc->fatal);
    pthread_cond_destroy(&pc->changed);
    pthread_mutex_destroy(&pc->lock);
    g_free(pc);
}

static void load(struct tiny_pc *pc, const uint8_t *code, size_t n_bytes)
{
    memcpy(pc->ram->host + CODE_GPA, code, n_bytes);
}

#define LOAD_REAL(pc, ...)                                                                         \
    do {                                                                                           \
        const uint8_t code_[] = {__VA_ARGS__};                                                     \
        load(pc, code_, sizeof code_);                                                             \
        kvm_set_entry_real((pc)->cpu, CODE_GPA >> 4, 0);                                           \
    } while (0)

/* Waits until the condition holds, looked at under pc->lock. */
#define WAIT_FOR(pc, condition)                                                                    \
    do {                                                                                           \
        uint64_t deadline_ns_ = clock_mono_ns() + DEADLINE_NS;                                     \
        pthread_mutex_lock(&(pc)->lock);                                                           \
        while (!(condition) && cond_wait_until(&(pc)->changed, &(pc)->lock, deadline_ns_))         \
            ;                                                                                      \
        bool holds_ = (condition);                                                                 \
        g_autofree char *fatal_ = g_strdup((pc)->fatal);                                           \
        pthread_mutex_unlock(&(pc)->lock);                                                         \
        if (!holds_)                                                                               \
            fail_msg("%s: never%s%s", #condition, fatal_ ? ": " : "", fatal_ ? fatal_ : "");       \
    } while (0)

static bool is_skipped(void)
{
    g_autoptr(GError) error = NULL;

    if (kvm_check_host(&error))
        return false;
    print_message("skipped: %s\n", error->message);
    return true;
}

#define NEED_KVM()                                                                                 \
    do {                                                                                           \
        if (is_skipped())                                                                          \
            skip();                                                                                \
    } while (0)

/* ---- ports, memory, ends ---- */

static void ports_reach_the_bus(void **unused)
{
    NEED_KVM();
    struct tiny_pc *pc = pc_new(1);

    LOAD_REAL(pc, 0xba, 0xf8, 0x03, /* mov dx, 0x3f8 */
              0xec,                 /* in al, dx */
              0xee,                 /* out dx, al */
              0xb0, 'k', 0xee,      /* mov al, 'k'; out dx, al */
              0xf4);                /* hlt */
    cpu_kvm.start(pc->cpu);
    WAIT_FOR(pc, pc->said->len == 2);
    assert_string_equal(pc->said->str, "Zk");
    pc_free(pc);
}

static void ports_without_a_device_read_ones(void **unused)
{
    NEED_KVM();
    struct tiny_pc *pc = pc_new(1);

    LOAD_REAL(pc, 0xba, 0x34, 0x12, /* mov dx, 0x1234 */
              0xec,                 /* in al, dx */
              0xba, 0xf8, 0x03,     /* mov dx, 0x3f8 */
              0xee, 0xf4);          /* out dx, al; hlt */
    cpu_kvm.start(pc->cpu);
    WAIT_FOR(pc, pc->said->len == 1);
    assert_int_equal((uint8_t)pc->said->str[0], 0xff);
    pc_free(pc);
}

static void triple_fault_asks_for_a_reset(void **unused)
{
    NEED_KVM();
    struct tiny_pc *pc = pc_new(1);

    /* Protected mode with an interrupt table of no bytes, then an instruction that does not exist.
     */
    static const uint64_t gdt[] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff};
    static const uint8_t gdt_pointer[] = {sizeof gdt - 1, 0, 0, 2, 0, 0}; /* at 0x200 */
    memcpy(pc->ram->host + 0x100, gdt_pointer, sizeof gdt_pointer);
    memcpy(pc->ram->host + 0x200, gdt, sizeof gdt);
    memset(pc->ram->host + 0x110, 0, 6);
    LOAD_REAL(pc, 0x31, 0xc0, 0x8e, 0xd8,   /* ds = 0 */
              0x0f, 0x01, 0x16, 0x00, 0x01, /* lgdt [0x100] */
              0x0f, 0x01, 0x1e, 0x10, 0x01, /* lidt [0x110] */
              0x0f, 0x20, 0xc0, 0x0c, 0x01, /* mov eax, cr0; or al, 1 */
              0x0f, 0x22, 0xc0,             /* mov cr0, eax */
              0xea, 0x1b, 0x10, 0x08, 0x00, /* jmp 8:0x101b */
              0x0f, 0x0b);                  /* ud2 */
    cpu_kvm.start(pc->cpu);
    WAIT_FOR(pc, pc->reset != NULL);
    assert_string_equal(pc->reset, "triple fault");
    assert_null(pc->fatal);
    pc_free(pc);
}

/* Stopped and started a thousand times, the guest counts on without a gap. */
static void stop_and_start_lose_nothing(void **unused)
{
    NEED_KVM();
    struct tiny_pc *pc = pc_new(1);

    LOAD_REAL(pc, 0xba, 0xf8, 0x03, /* mov dx, 0x3f8 */
              0x31, 0xc0,           /* xor ax, ax */
              0xee,                 /* out dx, al */
              0xfe, 0xc0,           /* inc al */
              0xeb, 0xfb);          /* jmp out */
    for (unsigned i = 0; i < 300; i++) {
        cpu_kvm.start(pc->cpu);
        WAIT_FOR(pc, pc->said->len > i);
        cpu_kvm.stop(pc->cpu);
        gsize n = pc->said->len;
        for (gsize j = 0; j < n; j++)
            assert_int_equal((uint8_t)pc->said->str[j], (uint8_t)j);
    }
    pc_free(pc);
}

static void reset_begins_anew(void **unused)
{
    NEED_KVM();
    struct tiny_pc *pc = pc_new(1);

    for (unsigned i = 1; i <= 5; i++) {
        cpu_kvm.reset(pc->cpu);
        LOAD_REAL(pc, 0x81, 0xc6, 0x41, 0x00, /* add si, 'A': si is 0 after a reset */
                  0x89, 0xf0,                 /* mov ax, si */
                  0xba, 0xf8, 0x03, 0xee,     /* out 0x3f8, al */
                  0xf4);
        cpu_kvm.start(pc->cpu);
        WAIT_FOR(pc, pc->said->len == i);
        cpu_kvm.stop(pc->cpu);
    }
    assert_string_equal(pc->said->str, "AAAAA");
    pc_free(pc);
}

/* ---- eventfds ---- */

static uint64_t wait_event(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    uint64_t n = 0;

    assert_int_equal(poll(&poll_fd, 1, 60000), 1);
    assert_int_equal(read(fd, &n, sizeof n), sizeof n);
    return n;
}

static void doorbell_rings_without_an_exit(void **unused)
{
    NEED_KVM();
    g_autoptr(GError) error = NULL;
    struct tiny_pc *pc = pc_new(1);
    int fd = eventfd(0, EFD_CLOEXEC);
    const struct kvm_doorbell where = {
        .is_port = true, .at = PORT_SAY, .size = 1, .has_value = true, .value = 'b'};

    assert_true(kvm_doorbell_attach(pc->cpu, &where, fd, &error));
    LOAD_REAL(pc, 0xba, 0xf8, 0x03,   /* mov dx, 0x3f8 */
              0xb0, 'a', 0xee,        /* out dx, 'a' */
              0xb0, 'b', 0xee,        /* out dx, 'b' */
              0xb0, 'c', 0xee, 0xf4); /* out dx, 'c'; hlt */
    cpu_kvm.start(pc->cpu);
    WAIT_FOR(pc, pc->said->len == 2);
    assert_string_equal(pc->said->str, "ac");
    assert_int_equal(wait_event(fd), 1);
    cpu_kvm.stop(pc->cpu);

    kvm_doorbell_detach(pc->cpu, &where, fd);
    cpu_kvm.reset(pc->cpu);
    kvm_set_entry_real(pc->cpu, CODE_GPA >> 4, 0);
    cpu_kvm.start(pc->cpu);
    WAIT_FOR(pc, pc->said->len == 5);
    assert_string_equal(pc->said->str, "acabc");
    close(fd);
    pc_free(pc);
}

/* The guest sets the first PIC up (vector 0x20 for pin 0), opens pin 4 and halts; its handler says
 * 'i'. */
static void load_interrupted(struct tiny_pc *pc)
{
    static const uint8_t handler[] = {0xba, 0xf8, 0x03, 0xb0, 'i', 0xee, /* out 0x3f8, 'i' */
                                      0xb0, 0x20, 0xe6, 0x20,            /* end of interrupt */
                                      0xcf};                             /* iret */
    const uint16_t vector[] = {0x0000, 0x0200};

    memcpy(pc->ram->host + 4 * 0x24, vector, sizeof vector);
    memcpy(pc->ram->host + 0x2000, handler, sizeof handler);
    LOAD_REAL(pc, 0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x08, /* ss = 0, sp = 0x800 */
              0xb0, 0x11, 0xe6, 0x20,                       /* ICW1 */
              0xb0, 0x20, 0xe6, 0x21,                       /* ICW2: vectors from 0x20 */
              0xb0, 0x04, 0xe6, 0x21,                       /* ICW3 */
              0xb0, 0x01, 0xe6, 0x21,                       /* ICW4: 8086 mode */
              0xb0, 0xef, 0xe6, 0x21,                       /* mask: all but pin 4 */
              0xba, 0xf8, 0x03, 0xb0, 'r', 0xee,            /* out 0x3f8, 'r' */
              0xfb, 0xf4, 0xeb, 0xfd);                      /* sti; hlt; jmp hlt */
}

static void pins_and_eventfds_interrupt(void **unused)
{
    NEED_KVM();
    g_autoptr(GError) error = NULL;
    struct tiny_pc *pc = pc_new(1);
    int fd = eventfd(0, EFD_CLOEXEC);
    uint64_t one = 1;

    load_interrupted(pc);
    cpu_kvm.start(pc->cpu);
    WAIT_FOR(pc, pc->said->len == 1);
    kvm_set_pin(pc->cpu, 4, true);
    kvm_set_pin(pc->cpu, 4, false);
    WAIT_FOR(pc, pc->said->len == 2);
    assert_true(kvm_irqfd_attach(pc->cpu, fd, 4, &error));
    assert_int_equal(write(fd, &one, sizeof one), sizeof one);
    WAIT_FOR(pc, pc->said->len == 3);
    assert_string_equal(pc->said->str, "rii");
    kvm_irqfd_detach(pc->cpu, fd, 4);
    close(fd);
    pc_free(pc);
}

static void routes_are_numbered_above_the_pins(void **unused)
{
    NEED_KVM();
    g_autoptr(GError) error = NULL;
    struct tiny_pc *pc = pc_new(1);
    unsigned gsis[8];
    int fd = eventfd(0, EFD_CLOEXEC);

    for (unsigned i = 0; i < G_N_ELEMENTS(gsis); i++) {
        assert_true(kvm_gsi_alloc(pc->cpu, &gsis[i], &error));
        assert_true(gsis[i] >= KVM_N_PINS);
        for (unsigned j = 0; j < i; j++)
            assert_int_not_equal(gsis[i], gsis[j]);
        kvm_gsi_set_msi(pc->cpu, gsis[i], 0xfee00000, 0x40 + i);
    }
    assert_true(kvm_gsi_commit(pc->cpu, &error));
    assert_true(kvm_irqfd_attach(pc->cpu, fd, gsis[3], &error));
    kvm_gsi_clear_msi(pc->cpu, gsis[3]);
    assert_true(kvm_gsi_commit(pc->cpu, &error));
    kvm_irqfd_detach(pc->cpu, fd, gsis[3]);
    for (unsigned i = 0; i < G_N_ELEMENTS(gsis); i++)
        kvm_gsi_free(pc->cpu, gsis[i]);
    assert_true(kvm_gsi_commit(pc->cpu, &error));
    close(fd);
    pc_free(pc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports_reach_the_bus),
        cmocka_unit_test(ports_without_a_device_read_ones),
        cmocka_unit_test(triple_fault_asks_for_a_reset),
        cmocka_unit_test(stop_and_start_lose_nothing),
        cmocka_unit_test(reset_begins_anew),
        cmocka_unit_test(doorbell_rings_without_an_exit),
        cmocka_unit_test(pins_and_eventfds_interrupt),
        cmocka_unit_test(routes_are_numbered_above_the_pins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
