/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: loading the saved state of each device and of the hart, and going on with it.
 *
 * Input: u8 instance (modulo their number, in registry order), u8 switches, u16 bytes of guest
 * memory, those bytes, then the section. switches: RUN keeps what was loaded and lets devices and
 * hart run for a moment.
 * Checked: a refused or undone load leaves every instance as it was; what was loaded can be saved;
 * devices that run on it stop again.
 */
#include "base/clock.h"
#include "fuzz.h"
#include "fuzz_machine.h"
#include "machine/board.h"

enum { RUN = 1, RUN_HART = 2 };

#define STOP_NS    (20 * UINT64_C(1000000000))
#define MAX_MEMORY 4096u

static struct machine *machine;
static struct gw_state_plan *plan;
static GByteArray **saved; /* of the fresh machine */
static uint32_t n_instances;

/* Nobody else is to look at the machine. */
static void end_life_thread(void)
{
    pthread_mutex_lock(&machine->lock);
    machine->wants_exit = true;
    pthread_cond_broadcast(&machine->wake);
    pthread_mutex_unlock(&machine->lock);
    pthread_join(machine->life_thread, NULL);
    machine->has_life_thread = false;
}

static void set_up(void)
{
    machine = fuzz_machine(g_main_context_default());
    end_life_thread();
    n_instances = gw_state_registry_n(machine->registry);
    saved = g_new0(GByteArray *, n_instances);
    for (guint i = 0; i < machine->devices->len; i++)
        device_reset(machine->devices->pdata[i]);
    machine->board->cpu->reset(machine->cpu);
    for (uint32_t i = 0; i < n_instances; i++) {
        saved[i] = g_byte_array_new();
        fuzz_check(gw_state_save(machine->registry, i, saved[i], NULL));
    }
    plan = gw_state_plan_new(gw_schema_new(machine->registry), machine->registry);
    fuzz_check(gw_state_plan_check(plan, NULL));
}

/* Some instances refresh members from live clocks when they are saved. */
static bool is_timeless(uint32_t index)
{
    const char *id = gw_state_registry_id(machine->registry, index);

    return strcmp(id, "machine") != 0 && !strstr(id, "rtc") && !strstr(id, "clint") &&
           !strstr(id, "hart");
}

static void check_fresh(void)
{
    g_autoptr(GByteArray) now = g_byte_array_new();

    for (uint32_t i = 0; i < n_instances; i++) {
        g_byte_array_set_size(now, 0);
        fuzz_check(gw_state_save(machine->registry, i, now, NULL));
        fuzz_check(!is_timeless(i) ||
                   (now->len == saved[i]->len && !memcmp(now->data, saved[i]->data, now->len)));
    }
}

static struct gw_state_load *load(uint32_t victim, const uint8_t *bytes, size_t len)
{
    struct gw_state_load *load = gw_state_load_begin(plan, NULL);
    bool is_good = load != NULL;

    for (uint32_t i = 0; i < n_instances && is_good; i++)
        is_good = i == victim ? gw_state_load_add(load, i, bytes, len, NULL)
                              : gw_state_load_add(load, i, saved[i]->data, saved[i]->len, NULL);
    if (is_good && gw_state_load_check(load, NULL) && gw_state_load_commit(load, NULL))
        return load;
    if (load)
        gw_state_load_free(load);
    return NULL;
}

static void nothing(void *opaque)
{
}

static void run(bool has_hart)
{
    uint64_t deadline_ns = clock_mono_ns() + STOP_NS;

    gw_state_arm(machine->registry);
    for (guint i = 0; i < machine->devices->len; i++)
        device_start(machine->devices->pdata[i]);
    if (has_hart) {
        machine->board->cpu->start(machine->cpu);
        machine->board->cpu->stop(machine->cpu);
    }
    io_loop_run_sync(machine->loop, nothing, NULL);
    io_loop_run_sync(machine->loop, nothing, NULL);
    for (guint i = machine->devices->len; i > 0; i--)
        fuzz_check(device_stop(machine->devices->pdata[i - 1], deadline_ns, NULL));
}

static void fill_memory(struct fuzz_input *in)
{
    size_t n;
    const uint8_t *bytes = fuzz_take_bytes(in, fuzz_take(in, 2) % (MAX_MEMORY + 1), &n);
    uint8_t *ram = gw_memory_host(machine->memory, UINT64_C(0x80000000), MAX_MEMORY);

    memset(ram, 0, MAX_MEMORY);
    if (n)
        memcpy(ram, bytes, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};

    if (!machine)
        set_up();
    uint32_t victim = (uint32_t)fuzz_take(&in, 1) % n_instances;
    unsigned switches = (unsigned)fuzz_take(&in, 1);
    fill_memory(&in);
    struct gw_state_load *loaded = load(victim, in.at, in.left);
    if (!loaded) {
        check_fresh();
        return 0;
    }
    g_autoptr(GByteArray) again = g_byte_array_new();
    fuzz_check(gw_state_save(machine->registry, victim, again, NULL));
    if (switches & RUN) {
        gw_state_load_keep(loaded);
        gw_state_load_free(loaded);
        run(switches & RUN_HART);
        for (uint32_t i = 0; i < n_instances; i++)
            fuzz_check(gw_state_save(machine->registry, i, again, NULL));
        /* Back to where we began. */
        for (guint i = 0; i < machine->devices->len; i++)
            device_reset(machine->devices->pdata[i]);
        machine->board->cpu->reset(machine->cpu);
        loaded = load(UINT32_MAX, NULL, 0);
        fuzz_check(loaded != NULL);
        gw_state_load_keep(loaded);
    }
    gw_state_load_free(loaded); /* undone unless it was kept */
    check_fresh();
    return 0;
}
