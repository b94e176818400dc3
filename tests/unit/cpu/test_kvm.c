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
#include "cpu/kvm/clock.h"
#include "cpu/kvm/dirty.h"
#include "cpu/kvm/kvm.h"
#include "cpu/kvm/kvm_internal.h"
#include "godwit/state.h"

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
    struct gw_state_registry *registry;

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

static struct tiny_pc *pc_new_with(unsigned n_vcpus, enum cpu_dirty_log dirty_log,
                                   uint32_t ring_entries)
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
        .dirty_log = dirty_log,
        .dirty_ring_entries = ring_entries,
        .reset = on_reset,
        .fatal = on_fatal,
        .fatal_opaque = pc,
    };
    pc->cpu = cpu_kvm.create(&config, &error);
    g_assert_no_error(error);
    cpu_kvm.reset(pc->cpu);
    pc->registry = gw_state_registry_new();
    assert_true(cpu_kvm.add_state(pc->cpu, pc->registry, &error));
    return pc;
}

static struct tiny_pc *pc_new(unsigned n_vcpus)
{
    return pc_new_with(n_vcpus, CPU_DIRTY_LOG_AUTO, 0);
}

static void pc_free(struct tiny_pc *pc)
{
    cpu_kvm.stop(pc->cpu);
    gw_state_registry_free(pc->registry);
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

/* ---- state ---- */

/* Loads all of one stopped machine's state into another, as a move does; change may spoil a
 * section on its way. */
static bool move_state(struct tiny_pc *from, struct tiny_pc *to,
                       void (*change)(const char *id, struct gw_state_load *load, uint32_t device,
                                      GByteArray *data),
                       GError **error)
{
    struct gw_state_plan *plan = gw_state_plan_new(gw_schema_new(from->registry), to->registry);
    struct gw_state_load *move = gw_state_load_begin(plan, error);
    bool ok = move != NULL;

    for (uint32_t i = 0; ok && i < gw_state_registry_n(from->registry); i++) {
        g_autoptr(GByteArray) data = g_byte_array_new();
        ok = gw_state_save(from->registry, i, data, error);
        if (ok && change)
            change(gw_state_registry_id(from->registry, i), move, i, data);
        ok = ok && gw_state_load_add(move, i, data->data, data->len, error);
    }
    ok = ok && gw_state_load_check(move, error) && gw_state_load_commit(move, error);
    if (ok)
        gw_state_load_keep(move);
    if (move)
        gw_state_load_free(move);
    gw_state_plan_free(plan);
    return ok;
}

#define LOAD_COUNTER(pc)                                                                           \
    LOAD_REAL(pc, 0xba, 0xf8, 0x03, /* mov dx, 0x3f8 */                                            \
              0x31, 0xc0,           /* xor ax, ax */                                               \
              0xee,                 /* out dx, al */                                               \
              0xfe, 0xc0,           /* inc al */                                                   \
              0xeb, 0xfb)           /* jmp out */

static void a_moved_guest_counts_on(void **unused)
{
    NEED_KVM();
    g_autoptr(GError) error = NULL;
    struct tiny_pc *from = pc_new(1);
    LOAD_COUNTER(from);
    gsize n = 0;

    for (unsigned i = 0; i < 20; i++) {
        cpu_kvm.start(from->cpu);
        WAIT_FOR(from, from->said->len > n);
        cpu_kvm.stop(from->cpu);
        struct tiny_pc *to = pc_new(1);
        memcpy(to->ram->host, from->ram->host, RAM_BYTES);
        if (!move_state(from, to, NULL, &error))
            fail_msg("move %u: %s", i, error->message);
        g_string_append_len(to->said, from->said->str, from->said->len);
        n = to->said->len;
        pc_free(from);
        from = to;
    }
    for (gsize j = 0; j < n; j++)
        assert_int_equal((uint8_t)from->said->str[j], (uint8_t)j);
    pc_free(from);
}

/* INIT and the start-up message have come for a vCPU, and it has not looked at them yet. */
static void a_vcpu_told_to_start_starts_where_it_was_moved_to(void **unused)
{
    NEED_KVM();
    static const uint8_t second[] = {0xba, 0xf8, 0x03, 0xb0, '2', 0xee, 0xf4}; /* says 2; hlt */
    const uint64_t apic_1 = 0xfee01000;
    g_autoptr(GError) error = NULL;
    struct tiny_pc *from = pc_new(2), *to = pc_new(2);

    LOAD_REAL(from, 0xf4); /* hlt */
    memcpy(from->ram->host + 0x9000, second, sizeof second);
    kvm_send_msi(from->cpu, apic_1, 0x500); /* INIT */
    kvm_send_msi(from->cpu, apic_1, 0x609); /* start at 0x9000 */
    memcpy(to->ram->host, from->ram->host, RAM_BYTES);
    if (!move_state(from, to, NULL, &error))
        fail_msg("move: %s", error->message);
    cpu_kvm.start(to->cpu);
    WAIT_FOR(to, to->said->len == 1);
    assert_string_equal(to->said->str, "2");
    pc_free(from);
    pc_free(to);
}

/* Paging without protection cannot be: the kernel refuses, and the machine is as before. */
static void spoil_cr0(const char *id, struct gw_state_load *load, uint32_t device, GByteArray *data)
{
    const uint32_t cr0_after_power_on = 0x60000010;

    if (strcmp(id, "vcpu/0") != 0)
        return;
    for (guint i = 0; i + 4 <= data->len; i++) {
        uint32_t word;
        memcpy(&word, data->data + i, sizeof word);
        if (word == cr0_after_power_on) {
            word = 0x80000010;
            memcpy(data->data + i, &word, sizeof word);
            return;
        }
    }
    fail_msg("cr0 was not found");
}

static void bad_state_is_refused_and_hurts_nothing(void **unused)
{
    NEED_KVM();
    g_autoptr(GError) error = NULL;
    struct tiny_pc *from = pc_new(1), *to = pc_new(1);

    assert_false(move_state(from, to, spoil_cr0, &error));
    assert_non_null(strstr(error->message, "vCPU 0: KVM refuses its system registers"));
    LOAD_COUNTER(to);
    cpu_kvm.start(to->cpu);
    WAIT_FOR(to, to->said->len > 3);
    cpu_kvm.stop(to->cpu);
    assert_int_equal(to->said->str[0], 0);
    pc_free(from);
    pc_free(to);
}

/* Replaces the first 8 bytes that read `from` in the section of vCPU 0. */
static void replace(const char *id, GByteArray *data, uint64_t from, uint64_t to)
{
    if (strcmp(id, "vcpu/0") != 0)
        return;
    for (guint i = 0; i + 8 <= data->len; i++) {
        uint64_t word;
        memcpy(&word, data->data + i, sizeof word);
        if (word == from) {
            memcpy(data->data + i, &to, sizeof to);
            return;
        }
    }
    fail_msg("%#" G_GINT64_MODIFIER "x was not found", from);
}

/* An MSR is four bytes of index and eight of value: PAT gets another index. */
static void rename_pat(const char *id, struct gw_state_load *move, uint32_t device,
                       GByteArray *data)
{
    replace(id, data, UINT64_C(0x0007040600000277), UINT64_C(0x0007040612345678));
}

static void an_msr_that_cannot_be_set_is_named(void **unused)
{
    NEED_KVM();
    g_autoptr(GError) error = NULL;
    struct tiny_pc *from = pc_new(1), *to = pc_new(1);

    assert_false(move_state(from, to, rename_pat, &error));
    assert_string_equal(error->message,
                        "device vcpu/0: vCPU 0: MSR 0x12345678 is 0x7040600070406, which "
                        "this host's KVM does not know");
    LOAD_COUNTER(to);
    cpu_kvm.start(to->cpu);
    WAIT_FOR(to, to->said->len > 3);
    pc_free(from);
    pc_free(to);
}

/* ---- dirty log ---- */

/* Pages that the guest below writes. Many: more than a ring of 256 entries takes before it is full.
 */
enum { CODE_PAGE = 1, FIRST_DIRTIED = 0x20, N_DIRTIED = 0x80, N_DIRTIED_MANY = 0xd0 };

static void load_dirtier(struct tiny_pc *pc, unsigned n_pages)
{
    LOAD_REAL(pc, 0xb8, 0x00, 0x20,                           /* mov ax, 0x2000 */
              0x8e, 0xc0,                                     /* mov es, ax */
              0x26, 0xfe, 0x06, 0x00, 0x00,                   /* inc byte [es:0] */
              0x05, 0x00, 0x01,                               /* add ax, 0x100 */
              0x3d, 0x00, (uint8_t)(FIRST_DIRTIED + n_pages), /* cmp ax, the end */
              0x75, 0xf1,                                     /* jne mov es */
              0xba, 0xf8, 0x03, 0xb0, '.', 0xee,              /* out 0x3f8, '.' */
              0xeb, 0xe6);                                    /* jmp mov ax */
}

/* Collects until the guest has made n_laps more, then once more when it is stopped. */
static void collect_laps(struct tiny_pc *pc, struct gw_page_set *set, unsigned n_laps)
{
    g_autoptr(GError) error = NULL;
    gsize before;

    pthread_mutex_lock(&pc->lock);
    before = pc->said->len;
    pthread_mutex_unlock(&pc->lock);
    cpu_kvm.start(pc->cpu);
    WAIT_FOR(pc, pc->said->len >= before + n_laps);
    if (!gw_memory_log_collect(pc->memory, set, NULL, &error))
        fail_msg("%s", error->message);
    cpu_kvm.stop(pc->cpu);
    if (!gw_memory_log_collect(pc->memory, set, NULL, &error))
        fail_msg("%s", error->message);
}

static void check_log(enum cpu_dirty_log kind, uint32_t ring_entries, unsigned n_laps,
                      bool wants_overflow)
{
    g_autoptr(GError) error = NULL;
    struct tiny_pc *pc = pc_new_with(1, kind, ring_entries);
    struct gw_page_set *set = gw_page_set_new(pc->memory);
    g_autofree uint8_t *sent = g_malloc(RAM_BYTES);
    struct cpu_stats stats;
    unsigned n_pages = wants_overflow ? N_DIRTIED_MANY : N_DIRTIED;

    load_dirtier(pc, n_pages);
    for (unsigned log = 0; log < 3; log++) {
        if (!gw_memory_log_start(pc->memory, &error))
            fail_msg("%s", error->message);
        memcpy(sent, pc->ram->host, RAM_BYTES);
        for (unsigned round = 0; round < 5; round++) {
            gw_page_set_clear(set);
            collect_laps(pc, set, n_laps);
            for (uint64_t page = 0; page < pc->ram->n_pages; page++) {
                bool is_set = gw_page_set_test(set, 0, page);
                bool is_same = memcmp(sent + page * GW_PAGE_SIZE,
                                      pc->ram->host + page * GW_PAGE_SIZE, GW_PAGE_SIZE) == 0;
                if (!is_same && !is_set)
                    fail_msg("page %u was written and is not in the log", (unsigned)page);
                /* Some KVMs take the first fetch from a page for a write. */
                if (!wants_overflow && is_set && page != CODE_PAGE &&
                    (page < FIRST_DIRTIED || page >= FIRST_DIRTIED + n_pages))
                    fail_msg("page %u is in the log and was not written", (unsigned)page);
            }
            assert_true(wants_overflow ||
                        set->n_set == n_pages + gw_page_set_test(set, 0, CODE_PAGE));
            memcpy(sent, pc->ram->host, RAM_BYTES);
        }
        /* What nobody wrote does not come again. */
        gw_page_set_clear(set);
        assert_true(gw_memory_log_collect(pc->memory, set, NULL, &error));
        assert_int_equal(set->n_set, 0);
        gw_memory_log_stop(pc->memory);
    }
    cpu_kvm.get_stats(pc->cpu, 0, &stats);
    if (kind == CPU_DIRTY_LOG_RING)
        assert_true(stats.dirtied_pages >= 3 * 5 * N_DIRTIED);
    assert_int_equal(stats.ring_full > 0, wants_overflow);
    print_message("%u pages from rings, %u times full\n", (unsigned)stats.dirtied_pages,
                  (unsigned)stats.ring_full);
    gw_page_set_free(set);
    pc_free(pc);
}

static void bitmap_misses_no_write(void **unused)
{
    NEED_KVM();
    check_log(CPU_DIRTY_LOG_BITMAP, 0, 2, false);
}

static void ring_misses_no_write(void **unused)
{
    NEED_KVM();
    check_log(CPU_DIRTY_LOG_RING, 0, 2, false);
}

/* A ring that is full several times in a round. Kernels that run much of the guest in their
 * emulator overrun it as well; then pages that nobody wrote come along, but none is missed. */
static void a_full_ring_misses_no_write(void **unused)
{
    NEED_KVM();
    check_log(CPU_DIRTY_LOG_RING, 256, 8, true);
}

static void count_entry(void *opaque, uint32_t slot, uint64_t offset)
{
    GString *text = opaque;
    g_string_append_printf(text, "%u:%u ", slot, (unsigned)offset);
}

static void ring_is_taken_in_order(void **unused)
{
    struct kvm_dirty_gfn ring[4] = {{0}};
    g_autoptr(GString) text = g_string_new(NULL);
    uint32_t next = 0;

    assert_int_equal(kvm_ring_take(ring, 3, &next, count_entry, text), 0);
    for (uint32_t i = 0; i < 6; i++) {
        ring[i % 4] = (struct kvm_dirty_gfn){KVM_DIRTY_GFN_F_DIRTY, 1, 10 + i};
        if (i % 2 == 1)
            assert_int_equal(kvm_ring_take(ring, 3, &next, count_entry, text), 2);
    }
    assert_string_equal(text->str, "1:10 1:11 1:12 1:13 1:14 1:15 ");
    assert_int_equal(next, 6);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(ring[i].flags, KVM_DIRTY_GFN_F_RESET);
    /* Entries that the kernel has not taken back yet are not read twice. */
    assert_int_equal(kvm_ring_take(ring, 3, &next, count_entry, text), 0);
}

/* The kernel has overrun the ring by two entries and goes on behind them. */
static void an_overrun_ring_is_found_again(void **unused)
{
    struct kvm_dirty_gfn ring[4] = {{0}};
    g_autoptr(GString) text = g_string_new(NULL);
    uint32_t next = 4;

    assert_false(kvm_ring_skip_gap(ring, 3, &next));
    assert_int_equal(next, 4);
    ring[2] = (struct kvm_dirty_gfn){KVM_DIRTY_GFN_F_DIRTY, 0, 7};
    assert_int_equal(kvm_ring_take(ring, 3, &next, count_entry, text), 0);
    assert_true(kvm_ring_skip_gap(ring, 3, &next));
    assert_int_equal(next, 6);
    assert_int_equal(ring[0].flags, KVM_DIRTY_GFN_F_RESET);
    assert_int_equal(ring[1].flags, KVM_DIRTY_GFN_F_RESET);
    assert_int_equal(kvm_ring_take(ring, 3, &next, count_entry, text), 1);
    assert_string_equal(text->str, "0:7 ");
}

/* ---- clocks ---- */

/* How far a vCPU's counter is ahead of one that began with the guest clock. */
static int64_t counter_lead(struct tiny_pc *pc, unsigned vcpu, uint64_t *tsc)
{
    g_autoptr(GError) error = NULL;
    struct kvm_vcpu *of = &pc->cpu->vcpus[vcpu];
    const struct kvm_clock_state *clock = &pc->cpu->clock;

    if (!kvm_vcpu_get(of, &of->state, &error))
        fail_msg("%s", error->message);
    *tsc = of->state.tsc;
    return (int64_t)(of->state.tsc - kvm_tsc_after(0, clock->ns, clock->tsc_khz));
}

static void read_clock(struct tiny_pc *pc)
{
    g_autoptr(GError) error = NULL;

    if (!kvm_clock_get(pc->cpu, &pc->cpu->clock, &error))
        fail_msg("%s", error->message);
}

static void moved_counters_stay_together_and_beside_the_guest_clock(void **unused)
{
    NEED_KVM();
    g_autoptr(GError) error = NULL;
    struct tiny_pc *from = pc_new(2);
    uint64_t tsc[2];

    /* The kernel looks at its counters when a vCPU runs. */
    LOAD_REAL(from, 0xba, 0xf8, 0x03, 0xee, 0xf4); /* mov dx, 0x3f8; out dx, al; hlt */
    cpu_kvm.start(from->cpu);
    WAIT_FOR(from, from->said->len == 1);
    cpu_kvm.stop(from->cpu);
    read_clock(from);
    if (from->cpu->clock.moment.host_tsc == 0) {
        print_message("skipped: this KVM does not tell its counter together with the clock\n");
        pc_free(from);
        skip();
    }
    int64_t lead = counter_lead(from, 0, &tsc[0]);
    for (unsigned i = 0; i < 10; i++) {
        struct tiny_pc *to = pc_new(2);
        if (!move_state(from, to, NULL, &error))
            fail_msg("move %u: %s", i, error->message);
        read_clock(to);
        int64_t moved = counter_lead(to, 0, &tsc[0]) - lead;
        counter_lead(to, 1, &tsc[1]);
        assert_true(tsc[0] == tsc[1]);
        /* The two run a little apart by themselves, 250 ppm at most. */
        if (ABS(moved) > from->cpu->clock.tsc_khz / 100)
            fail_msg("after move %u the counter is off by %" G_GINT64_FORMAT, i, moved);
        pc_free(from);
        from = to;
    }
    pc_free(from);
}

static void clocks_go_on(void **unused)
{
    uint32_t min_khz, max_khz;

    assert_int_equal(kvm_tsc_after(1000, 1000000, 2000000), 1000 + 2000000);
    /* Half a year at 5 GHz does not overflow on its way. */
    assert_int_equal(kvm_tsc_after(0, UINT64_C(15768000000000000), 5000000),
                     UINT64_C(78840000000000000));
    assert_int_equal(kvm_elapsed_ns(100, 150, 0), 50);
    assert_int_equal(kvm_elapsed_ns(100, 150, -30), 20);
    assert_int_equal(kvm_elapsed_ns(100, 150, -80), 0);
    kvm_tsc_range(2000000, false, &min_khz, &max_khz);
    assert_int_equal(min_khz, 1999500);
    assert_int_equal(max_khz, 2000500);
    kvm_tsc_range(2000000, true, &min_khz, &max_khz);
    assert_true(min_khz <= 1000000 && max_khz >= 5000000);
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
        cmocka_unit_test(a_moved_guest_counts_on),
        cmocka_unit_test(a_vcpu_told_to_start_starts_where_it_was_moved_to),
        cmocka_unit_test(bad_state_is_refused_and_hurts_nothing),
        cmocka_unit_test(an_msr_that_cannot_be_set_is_named),
        cmocka_unit_test(bitmap_misses_no_write),
        cmocka_unit_test(ring_misses_no_write),
        cmocka_unit_test(a_full_ring_misses_no_write),
        cmocka_unit_test(ring_is_taken_in_order),
        cmocka_unit_test(an_overrun_ring_is_found_again),
        cmocka_unit_test(moved_counters_stay_together_and_beside_the_guest_clock),
        cmocka_unit_test(clocks_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
