/* SPDX-License-Identifier: MIT */
/* An embedder's machine whose memory checks itself. */
#include "guest.h"

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "migrate/engine.h"

#define LOW_PAGES  768u
#define HIGH_PAGES 64u
#define N_PAGES    (LOW_PAGES + HIGH_PAGES)
#define HIGH_GPA   (UINT64_C(1) << 32)
#define WORDS      (GW_PAGE_SIZE / 8)
#define UNTOUCHED  100u /* pages at the end of the low block that are never written */
#define BURST      6u   /* pages written in a row */

struct pager {
    uint32_t generations[N_PAGES]; /* 0: never written */
};

struct timer {
    uint64_t ticks;
    uint64_t random;
};

struct guest {
    struct board *board;
    struct seat *seat;
    uint32_t bit;
    void (*on_change)(void *opaque);
    void *opaque;
    struct gw_memory *memory;
    struct gw_state_registry *registry;
    struct gw_vm vm;
    pthread_t thread;

    /* guarded by lock; pager and timer belong to the thread while it is not idle */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct pager pager;
    struct timer timer;
    bool runs, is_idle, was_paused;
};

static const struct gw_field pager_fields[] = {
    GW_U32_ARRAY(struct pager, generations),
    GW_FIELDS_END,
};
static const struct gw_state_desc pager_desc = {
    .name = "matrix-pager",
    .version = 1,
    .object_size = sizeof(struct pager),
    .priority = GW_PRIORITY_DEVICE,
    .fields = pager_fields,
};
static const struct gw_field timer_fields[] = {
    GW_U64(struct timer, ticks),
    GW_U64(struct timer, random),
    GW_FIELDS_END,
};
static const struct gw_state_desc timer_desc = {
    .name = "matrix-timer",
    .version = 1,
    .object_size = sizeof(struct timer),
    .priority = GW_PRIORITY_DEVICE,
    .fields = timer_fields,
};

/* ---- the memory ------------------------------------------------------------------------------ */

static uint64_t page_gpa(unsigned page)
{
    return page < LOW_PAGES ? page * GW_PAGE_SIZE : HIGH_GPA + (page - LOW_PAGES) * GW_PAGE_SIZE;
}

static void pattern(unsigned page, uint32_t generation, uint64_t *words)
{
    uint64_t seed = (((uint64_t)page << 32) | generation) * UINT64_C(0x9E3779B97F4A7C15);

    for (unsigned i = 0; i < WORDS; i++)
        words[i] = generation ? (seed ^ (seed >> 29)) + i * UINT64_C(0xBF58476D1CE4E5B9) : 0;
}

/* A guest's stores: not ours to synchronise with, so ThreadSanitizer does not look (it would report
 * each page that is sent while it is written; docs/wire-format.md section 7). */
__attribute__((no_sanitize("thread"))) static void guest_store(uint64_t *to, const uint64_t *from)
{
    for (unsigned i = 0; i < WORDS; i++)
        *(volatile uint64_t *)&to[i] = from[i];
}

static void write_page(struct guest *guest, unsigned page)
{
    uint64_t words[WORDS];
    struct gw_ram_block *block = gw_memory_find(guest->memory, page_gpa(page), GW_PAGE_SIZE);
    uint64_t offset = page_gpa(page) - block->gpa;

    pattern(page, ++guest->pager.generations[page], words);
    guest_store((uint64_t *)(void *)(block->host + offset), words);
    gw_memory_note_write(block, offset, GW_PAGE_SIZE);
}

/* The thread is idle or is the caller. */
static void check_memory(struct guest *guest)
{
    uint32_t n_wrong = 0;

    for (unsigned page = 0; page < N_PAGES; page++) {
        uint64_t want[WORDS], have[WORDS];

        pattern(page, guest->pager.generations[page], want);
        gw_memory_read(guest->memory, page_gpa(page), have, sizeof have);
        n_wrong += memcmp(want, have, sizeof want) != 0;
    }
    atomic_fetch_add(&guest->seat->n_wrong, n_wrong);
    atomic_fetch_add(&guest->seat->n_checks, 1);
    guest->on_change(guest->opaque);
}

/* ---- running --------------------------------------------------------------------------------- */

static void burst(struct guest *guest)
{
    for (unsigned i = 0; i < BURST; i++) {
        guest->timer.random =
            guest->timer.random * UINT64_C(6364136223846793005) + 1442695040888963;
        write_page(guest, (guest->timer.random >> 33) % 2 && i == 0
                              ? LOW_PAGES + (guest->timer.random >> 40) % HIGH_PAGES
                              : (guest->timer.random >> 40) % (LOW_PAGES - UNTOUCHED));
    }
    guest->timer.ticks++;
}

static void *guest_main(void *opaque)
{
    struct guest *guest = opaque;

    pthread_mutex_lock(&guest->lock);
    for (;;) {
        while (!guest->runs) {
            guest->is_idle = true;
            pthread_cond_broadcast(&guest->changed);
            pthread_cond_wait(&guest->changed, &guest->lock);
        }
        if (guest->is_idle) {
            guest->is_idle = false;
            pthread_mutex_unlock(&guest->lock);
            check_memory(guest);
            pthread_mutex_lock(&guest->lock);
            continue;
        }
        pthread_mutex_unlock(&guest->lock);
        burst(guest);
        pthread_mutex_lock(&guest->lock);
        /* The pace of the guest: woken early by whoever stops it. */
        if (guest->runs)
            cond_wait_until(&guest->changed, &guest->lock, clock_mono_ns() + NS_PER_MS);
    }
    return NULL;
}

static void set_running_locked(struct guest *guest, bool runs)
{
    if (guest->runs == runs)
        return;
    if (runs && (atomic_fetch_or(&guest->board->running, guest->bit) & ~guest->bit))
        atomic_store(&guest->board->ran_twice, true);
    guest->runs = runs;
    pthread_cond_broadcast(&guest->changed);
    while (!runs && !guest->is_idle)
        pthread_cond_wait(&guest->changed, &guest->lock);
    if (!runs)
        atomic_fetch_and(&guest->board->running, ~guest->bit);
}

static void set_running(struct guest *guest, bool runs)
{
    pthread_mutex_lock(&guest->lock);
    set_running_locked(guest, runs);
    pthread_mutex_unlock(&guest->lock);
    guest->on_change(guest->opaque);
}

/* ---- callbacks ------------------------------------------------------------------------------- */

static bool on_is_running(void *opaque)
{
    struct guest *guest = opaque;
    bool runs;

    pthread_mutex_lock(&guest->lock);
    runs = guest->runs;
    pthread_mutex_unlock(&guest->lock);
    return runs;
}

static bool on_stop(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error)
{
    set_running(opaque, false);
    return true;
}

static void on_resume(void *opaque)
{
    set_running(opaque, true);
}

static void on_run(void *opaque, bool was_running, struct gw_ledger *ledger)
{
    set_running(opaque, was_running);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct guest *guest_new(struct board *board, unsigned seat, void (*on_change)(void *opaque),
                        void *opaque)
{
    struct guest *guest = g_new0(struct guest, 1);

    guest->board = board;
    guest->seat = &board->seats[seat];
    guest->bit = 1u << seat;
    guest->on_change = on_change;
    guest->opaque = opaque;
    guest->timer.random = 88172645463325252u;
    guest->memory = gw_memory_new();
    gw_memory_add_block(guest->memory, "ram", 0, LOW_PAGES * GW_PAGE_SIZE, NULL);
    gw_memory_add_block(guest->memory, "ram.high", HIGH_GPA, HIGH_PAGES * GW_PAGE_SIZE, NULL);
    guest->registry = gw_state_registry_new();
    gw_state_registry_add(guest->registry, "pager", &pager_desc, &guest->pager, NULL);
    gw_state_registry_add(guest->registry, "timer", &timer_desc, &guest->timer, NULL);
    guest->vm = (struct gw_vm){
        .memory = guest->memory,
        .registry = guest->registry,
        .opaque = guest,
        .stop = on_stop,
        .resume_at_source = on_resume,
        .run_at_destination = on_run,
        .is_running = on_is_running,
    };
    pthread_mutex_init(&guest->lock, NULL);
    cond_init_mono(&guest->changed);
    guest->is_idle = true;
    engine_thread_start(&guest->thread, "guest", guest_main, guest);
    return guest;
}

const struct gw_vm *guest_vm(struct guest *guest)
{
    return &guest->vm;
}

void guest_boot(struct guest *guest)
{
    for (unsigned page = 0; page < N_PAGES; page++)
        if (page < LOW_PAGES - UNTOUCHED || page >= LOW_PAGES + HIGH_PAGES / 2)
            write_page(guest, page);
    set_running(guest, true);
}

void guest_check(struct guest *guest)
{
    bool runs = on_is_running(guest);

    set_running(guest, false);
    if (runs)
        set_running(guest, true); /* it checks before it goes on */
    else
        check_memory(guest);
}
