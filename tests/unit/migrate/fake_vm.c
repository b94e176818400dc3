/* SPDX-License-Identifier: MIT */
/* A machine that is no machine: memory that a thread keeps writing, and device-state tables. */
#include "fake_vm.h"

#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "migrate/engine.h"

static const struct gw_field fake_fields[] = {
    GW_U64(struct fake_device, ticks),
    GW_U32_ARRAY(struct fake_device, registers),
    GW_VBUFFER(struct fake_device, fifo, fifo_len),
    GW_FIELDS_END,
};

static bool fake_validate(const void *shadow, GError **error)
{
    const struct fake_device *device = shadow;

    if (atomic_load(device->slow_checks) > 0) {
        uint64_t until_ns = clock_mono_ns() + SLOW_CHECK_MS * NS_PER_MS;

        atomic_fetch_sub(device->slow_checks, 1);
        while (clock_mono_ns() < until_ns)
            continue;
    }
    return true;
}

static const struct gw_state_desc fake_desc = {
    .name = "fake-device",
    .version = 1,
    .object_size = sizeof(struct fake_device),
    .priority = GW_PRIORITY_DEVICE,
    .fields = fake_fields,
    .validate = fake_validate,
};

uint64_t after_ms(uint64_t ms)
{
    return clock_mono_ns() + ms * NS_PER_MS;
}

/* ---- the guest ---------------------------------------------------------------------------------
 */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A guest's store: no C object and not ours to synchronise with, so ThreadSanitizer does not look
 * (it would report each page that is sent while it is written; docs/wire-format.md section 7). */
__attribute__((no_sanitize("thread"))) void fake_vm_store(uint8_t *to, uint64_t value)
{
    *(volatile uint64_t *)(void *)to = value;
}

static void guest_write_page(struct fake_vm *vm, uint64_t page, uint64_t *random)
{
    struct gw_ram_block *block = gw_memory_block(vm->memory, 0);
    uint64_t at = page * GW_PAGE_SIZE + next_random(random) % (GW_PAGE_SIZE / 64) * 64;

    for (unsigned i = 0; i < 64; i += 8)
        fake_vm_store(block->host + at + i, next_random(random));
    gw_memory_note_write(block, at, 64);
}

static uint64_t guest_pages(const struct fake_vm *vm)
{
    return FAKE_RAM_BYTES / GW_PAGE_SIZE / vm->stride;
}

static void guest_write(struct fake_vm *vm, uint64_t *random)
{
    guest_write_page(vm, next_random(random) % guest_pages(vm) * vm->stride, random);
}

static void guest_write_all(struct fake_vm *vm)
{
    uint64_t random = clock_mono_ns() | 1;

    for (uint64_t i = 0; i < guest_pages(vm); i++)
        guest_write_page(vm, i * vm->stride, &random);
}

static void *writer_main(void *opaque)
{
    struct fake_vm *vm = opaque;
    uint64_t random = 88172645463325252ULL;

    pthread_mutex_lock(&vm->lock);
    while (!vm->is_ending) {
        uint32_t n = atomic_load(&vm->writes_per_ms);

        if (!vm->runs) {
            vm->is_idle = true;
            pthread_cond_broadcast(&vm->changed);
            pthread_cond_wait(&vm->changed, &vm->lock);
            continue;
        }
        vm->is_idle = false;
        vm->devices[0].ticks++;
        pthread_mutex_unlock(&vm->lock);
        for (uint32_t i = 0; i < n; i++)
            guest_write(vm, &random);
        pthread_mutex_lock(&vm->lock);
        /* The pace of the guest: woken early by whoever stops it. */
        if (vm->runs && !vm->is_ending)
            cond_wait_until(&vm->changed, &vm->lock, after_ms(1));
    }
    vm->is_idle = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    return NULL;
}

static void set_running_locked(struct fake_vm *vm, bool runs)
{
    if (vm->runs == runs)
        return;
    vm->runs = runs;
    if (runs) {
        vm->is_idle = false;
        if (atomic_fetch_add(&vm->pair->n_running, 1) != 0)
            atomic_store(&vm->pair->ran_twice, true);
    }
    pthread_cond_broadcast(&vm->changed);
    if (!runs) {
        while (!vm->is_idle)
            pthread_cond_wait(&vm->changed, &vm->lock);
        atomic_fetch_sub(&vm->pair->n_running, 1);
    }
}

void fake_vm_run(struct fake_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    set_running_locked(vm, true);
    pthread_mutex_unlock(&vm->lock);
}

void fake_vm_park(struct fake_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    set_running_locked(vm, false);
    pthread_mutex_unlock(&vm->lock);
}

bool fake_vm_is_running(struct fake_vm *vm)
{
    bool runs;

    pthread_mutex_lock(&vm->lock);
    runs = vm->runs;
    pthread_mutex_unlock(&vm->lock);
    return runs;
}

bool fake_vm_await_run(struct fake_vm *vm, uint64_t deadline_ns)
{
    bool is_in_time = true, runs;

    pthread_mutex_lock(&vm->lock);
    while (!vm->runs && is_in_time)
        is_in_time = cond_wait_until(&vm->changed, &vm->lock, deadline_ns);
    runs = vm->runs;
    pthread_mutex_unlock(&vm->lock);
    return runs;
}

void fake_vm_await_change(struct fake_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    cond_wait_until(&vm->changed, &vm->lock, after_ms(1));
    pthread_mutex_unlock(&vm->lock);
}

/* ---- callbacks ---------------------------------------------------------------------------------
 */

static bool fake_is_running(void *opaque)
{
    return fake_vm_is_running(opaque);
}

static bool fake_stop(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error)
{
    struct fake_vm *vm = opaque;
    uint64_t start_ns = clock_mono_ns();
    bool fails;

    pthread_mutex_lock(&vm->lock);
    vm->n_stops++;
    fails = vm->fail_stops > 0;
    if (fails) {
        vm->fail_stops--;
    } else {
        uint64_t until_ns = after_ms(vm->slow_stops ? vm->slow_stop_ms : 0);

        vm->was_paused = !vm->runs;
        set_running_locked(vm, false);
        if (vm->busy_stops > 0)
            guest_write_all(vm);
        vm->busy_stops -= vm->busy_stops > 0;
        while (vm->slow_stops && cond_wait_until(&vm->changed, &vm->lock, until_ns))
            continue;
        vm->slow_stops -= vm->slow_stops > 0;
    }
    pthread_mutex_unlock(&vm->lock);
    gw_ledger_note(ledger, "writer", start_ns, clock_mono_ns() - start_ns);
    if (fails)
        g_set_error_literal(error, GW_ERROR, GW_ERROR_TIMEOUT, "the writer does not stop");
    return !fails;
}

static bool fake_flush(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error)
{
    struct fake_vm *vm = opaque;
    bool fails;

    pthread_mutex_lock(&vm->lock);
    vm->n_flushes++;
    fails = vm->fail_flushes > 0;
    if (fails)
        vm->fail_flushes--;
    while (vm->hangs_in_flush && !fails)
        fails = !cond_wait_until(&vm->changed, &vm->lock, deadline_ns + 100 * NS_PER_MS);
    pthread_mutex_unlock(&vm->lock);
    if (fails)
        g_set_error_literal(error, GW_ERROR, GW_ERROR_TIMEOUT, "disk0 does not answer");
    return !fails;
}

static void fake_resume(void *opaque)
{
    struct fake_vm *vm = opaque;

    pthread_mutex_lock(&vm->lock);
    vm->n_resumes++;
    if (!vm->was_paused)
        set_running_locked(vm, true);
    pthread_mutex_unlock(&vm->lock);
}

static void fake_released(void *opaque)
{
    struct fake_vm *vm = opaque;

    pthread_mutex_lock(&vm->lock);
    vm->n_released++;
    pthread_mutex_unlock(&vm->lock);
}

static bool fake_before_load(void *opaque, const struct gw_clock_facts *facts, GError **error)
{
    struct fake_vm *vm = opaque;

    pthread_mutex_lock(&vm->lock);
    vm->n_before++;
    vm->facts = *facts;
    pthread_mutex_unlock(&vm->lock);
    return true;
}

static bool fake_after_load(void *opaque, GError **error)
{
    struct fake_vm *vm = opaque;

    pthread_mutex_lock(&vm->lock);
    vm->n_after++;
    pthread_mutex_unlock(&vm->lock);
    if (vm->fails_after_load)
        g_set_error_literal(error, GW_ERROR, GW_ERROR_IO, "tap0 cannot be opened");
    return !vm->fails_after_load;
}

static void fake_run_at_destination(void *opaque, bool was_running, struct gw_ledger *ledger)
{
    struct fake_vm *vm = opaque;

    pthread_mutex_lock(&vm->lock);
    vm->n_runs++;
    vm->last_was_running = was_running;
    if (was_running)
        set_running_locked(vm, true);
    pthread_mutex_unlock(&vm->lock);
    gw_ledger_note(ledger, "first instruction", clock_mono_ns(), 0);
}

static void fake_discarded(void *opaque, const GError *why)
{
    struct fake_vm *vm = opaque;

    pthread_mutex_lock(&vm->lock);
    vm->n_discarded++;
    pthread_mutex_unlock(&vm->lock);
}

/* ---- life --------------------------------------------------------------------------------------
 */

void fake_vm_init(struct fake_vm *vm, const char *name, struct fake_pair *pair, uint64_t ram_bytes,
                  unsigned n_devices)
{
    *vm = (struct fake_vm){.name = name, .pair = pair, .writes_per_ms = 20, .stride = 1};
    vm->memory = gw_memory_new();
    g_assert_nonnull(gw_memory_add_block(vm->memory, "ram", 0, ram_bytes, NULL));
    g_assert_nonnull(
        gw_memory_add_block(vm->memory, "ram.high", UINT64_C(1) << 32, FAKE_HIGH_BYTES, NULL));
    vm->registry = gw_state_registry_new();
    for (unsigned i = 0; i < n_devices; i++) {
        g_autofree char *id = g_strdup_printf("fake/%u", i);

        vm->devices[i].slow_checks = &vm->slow_checks;
        g_assert_true(gw_state_registry_add(vm->registry, id, &fake_desc, &vm->devices[i], NULL));
    }
    vm->vm = (struct gw_vm){
        .memory = vm->memory,
        .registry = vm->registry,
        .opaque = vm,
        .stop = fake_stop,
        .flush = fake_flush,
        .resume_at_source = fake_resume,
        .released = fake_released,
        .before_load = fake_before_load,
        .after_load = fake_after_load,
        .run_at_destination = fake_run_at_destination,
        .discarded = fake_discarded,
        .is_running = fake_is_running,
    };
    pthread_mutex_init(&vm->lock, NULL);
    cond_init_mono(&vm->changed);
    vm->is_idle = true;
    engine_thread_start(&vm->writer, name, writer_main, vm);
}

void fake_vm_clear(struct fake_vm *vm)
{
    fake_vm_park(vm);
    pthread_mutex_lock(&vm->lock);
    vm->is_ending = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    pthread_join(vm->writer, NULL);
    gw_state_registry_free(vm->registry);
    gw_memory_free(vm->memory);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
}

static void fill(struct fake_vm *vm)
{
    uint64_t random = 42;

    for (uint64_t i = 0; i < guest_pages(vm) * GW_PAGE_SIZE / 128; i++)
        guest_write(vm, &random);
    for (unsigned d = 0; d < 4; d++) {
        struct fake_device *device = &vm->devices[d];

        for (unsigned i = 0; i < 16; i++)
            device->registers[i] = (uint32_t)next_random(&random);
        device->fifo_len = 7 + d;
        memset(device->fifo, (int)d + 1, device->fifo_len);
    }
    gw_memory_write(vm->memory, UINT64_C(1) << 32, "high", 4);
}

void fake_pair_init(struct fake_pair *pair)
{
    fake_pair_init_sparse(pair, 1);
}

void fake_pair_init_sparse(struct fake_pair *pair, unsigned stride)
{
    *pair = (struct fake_pair){0};
    pair->dir = g_dir_make_tmp("godwit-migrate-XXXXXX", NULL);
    pair->uri = g_strdup_printf("unix:%s/socket", pair->dir);
    fake_vm_init(&pair->source, "source", pair, FAKE_RAM_BYTES, 4);
    fake_vm_init(&pair->destination, "destination", pair, FAKE_RAM_BYTES, 4);
    pair->source.stride = pair->destination.stride = stride;
    fill(&pair->source);
    fake_vm_run(&pair->source);
}

void fake_pair_clear(struct fake_pair *pair)
{
    g_autofree char *command = NULL;
    g_autoptr(GDir) dir = NULL;
    const char *name;

    fake_vm_clear(&pair->source);
    fake_vm_clear(&pair->destination);
    dir = g_dir_open(pair->dir, 0, NULL);
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(pair->dir, name, NULL);

        unlink(path);
    }
    rmdir(pair->dir);
    g_free(pair->dir);
    g_free(pair->uri);
}

/* Pages that neither has touched are alike, and to read them costs more than all else. */
static bool has_equal_blocks(const struct gw_ram_block *a, const struct gw_ram_block *b)
{
    for (uint64_t first = 0; first < a->n_pages; first += 64) {
        uint32_t n_pages = (uint32_t)MIN(64, a->n_pages - first);
        uint64_t touched =
            gw_memory_touched_mask(a, first, n_pages) | gw_memory_touched_mask(b, first, n_pages);

        for (; touched; touched &= touched - 1) {
            uint64_t at = (first + (uint64_t)__builtin_ctzll(touched)) * GW_PAGE_SIZE;

            if (memcmp(a->host + at, b->host + at, GW_PAGE_SIZE) != 0)
                return false;
        }
    }
    return true;
}

bool fake_pair_is_equal(struct fake_pair *pair)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(pair->source.memory); i++)
        if (!has_equal_blocks(gw_memory_block(pair->source.memory, i),
                              gw_memory_block(pair->destination.memory, i)))
            return false;
    for (unsigned d = 0; d < 4; d++) {
        const struct fake_device *a = &pair->source.devices[d];
        const struct fake_device *b = &pair->destination.devices[d];

        if (a->ticks != b->ticks || a->fifo_len != b->fifo_len ||
            memcmp(a->registers, b->registers, sizeof a->registers) != 0 ||
            memcmp(a->fifo, b->fifo, a->fifo_len) != 0)
            return false;
    }
    return true;
}
