/* SPDX-License-Identifier: MIT */
/*
 * Accesses that wait: to missing pages, writes to protected ones; by threads of this process and by
 * the kernel on their behalf.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/faults.h"

#define N_PAGES     256u
#define PATIENCE_NS (UINT64_C(60) * NS_PER_S)

struct rig {
    struct gw_memory *memory;
    struct gw_ram_block *block;
    struct faults *faults;
    atomic_uint n_faults, n_rings, thread;
    atomic_bool may_answer;
    uint8_t answer[GW_PAGE_SIZE];
    _Alignas(uint64_t) uint8_t kept[N_PAGES][GW_PAGE_SIZE]; /* what protected pages held */
    atomic_bool has_kept[N_PAGES];
};

/* False: this host cannot do it, and says so. */
static bool rig_init_handlers(struct rig *rig, enum faults_kind kind, fault_fn fn,
                              unsigned n_handlers)
{
    GError *error = NULL;

    memset(rig, 0, sizeof *rig);
    rig->memory = gw_memory_new();
    rig->block = gw_memory_add_block(rig->memory, "ram", 0, N_PAGES * GW_PAGE_SIZE, NULL);
    assert_non_null(rig->block);
    atomic_store(&rig->may_answer, true);
    rig->faults = faults_new(rig->memory, kind, fn, rig, &error);
    if (!rig->faults) {
        assert_int_equal(error->code, GW_ERROR_UNSUPPORTED);
        print_message("skipped: %s\n", error->message);
        g_error_free(error);
        gw_memory_free(rig->memory);
    }
    assert_true(!rig->faults || faults_start(rig->faults, n_handlers, NULL));
    return rig->faults != NULL;
}

static bool rig_init(struct rig *rig, enum faults_kind kind, fault_fn fn)
{
    return rig_init_handlers(rig, kind, fn, 1);
}

static void rig_clear(struct rig *rig)
{
    faults_free(rig->faults);
    gw_memory_free(rig->memory);
}

static uint8_t *at(struct rig *rig, uint64_t page)
{
    return rig->block->host + page * GW_PAGE_SIZE;
}

static uint64_t n_allocated(const struct rig *rig)
{
    uint64_t n = 0, page = 0, n_pages;

    for (; gw_memory_next_allocated_run(rig->block, &page, &n_pages); page += n_pages)
        n += n_pages;
    return n;
}

/* ---- missing ---- */

static void place_number(void *opaque, struct gw_ram_block *block, uint64_t page, uint32_t thread)
{
    struct rig *rig = opaque;

    atomic_store(&rig->thread, thread);
    atomic_fetch_add(&rig->n_faults, 1);
    if (page % 2) {
        faults_place_zero(rig->faults, block, page, NULL);
        return;
    }
    memset(rig->answer, (int)page + 1, sizeof rig->answer);
    assert_true(faults_place(rig->faults, block, page, 1, rig->answer, NULL));
}

static void missing_pages_come_when_they_are_touched(void **state)
{
    struct rig rig;

    if (!rig_init(&rig, FAULTS_MISSING, place_number))
        return;
    assert_int_equal(at(&rig, 6)[17], 7);
    assert_int_equal(at(&rig, 7)[17], 0);
    *(volatile uint8_t *)at(&rig, 8) = 99;
    assert_int_equal(at(&rig, 8)[1], 9);
    assert_int_equal(at(&rig, 8)[0], 99);
    assert_int_equal(atomic_load(&rig.n_faults), 3);
    assert_int_equal(n_allocated(&rig), 3);
    rig_clear(&rig);
}

/* All of them at once: none is answered before the last one has come. */
static void place_together(void *opaque, struct gw_ram_block *block, uint64_t page, uint32_t thread)
{
    struct rig *rig = opaque;

    if (!block) {
        atomic_fetch_add(&rig->n_rings, 1);
        return;
    }
    atomic_fetch_add(&rig->n_faults, 1);
    for (uint64_t limit_ns = clock_mono_ns() + PATIENCE_NS;
         atomic_load(&rig->n_faults) < FAULTS_MAX_HANDLERS;) {
        if (clock_mono_ns() > limit_ns)
            break; /* n_faults says it */
        sched_yield();
    }
    faults_place_zero(rig->faults, block, page, NULL);
}

struct toucher {
    pthread_t thread;
    uint8_t *at;
};

static void *touch(void *opaque)
{
    struct toucher *toucher = opaque;

    return *(volatile uint8_t *)toucher->at ? NULL : toucher;
}

static void several_handlers_answer_at_once(void **state)
{
    struct toucher touchers[FAULTS_MAX_HANDLERS];
    uint64_t limit_ns = clock_mono_ns() + PATIENCE_NS;
    struct rig rig;
    void *is_good;

    if (!rig_init_handlers(&rig, FAULTS_MISSING, place_together, FAULTS_MAX_HANDLERS))
        return;
    for (unsigned i = 0; i < FAULTS_MAX_HANDLERS; i++) {
        touchers[i].at = at(&rig, 3 * i);
        assert_int_equal(pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]), 0);
    }
    for (unsigned i = 0; i < FAULTS_MAX_HANDLERS; i++) {
        pthread_join(touchers[i].thread, &is_good);
        assert_non_null(is_good);
    }
    assert_true(clock_mono_ns() < limit_ns);
    assert_int_equal(atomic_load(&rig.n_faults), FAULTS_MAX_HANDLERS);
    faults_ring(rig.faults);
    while (atomic_load(&rig.n_rings) == 0)
        assert_true(clock_mono_ns() < limit_ns + PATIENCE_NS);
    rig_clear(&rig);
}

static void missing_pages_come_for_the_kernel_too(void **state)
{
    struct rig rig;
    uint8_t byte = 0;
    int ends[2];

    if (!rig_init(&rig, FAULTS_MISSING, place_number))
        return;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], at(&rig, 10), 1), 1); /* the kernel reads the page */
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(byte, 11);
    assert_int_equal(write(ends[1], "x", 1), 1);
    assert_int_equal(read(ends[0], at(&rig, 12), 1), 1); /* and writes one */
    assert_int_equal(at(&rig, 12)[0], 'x');
    assert_int_equal(at(&rig, 12)[1], 13);
    close(ends[0]);
    close(ends[1]);
    rig_clear(&rig);
}

static void what_is_there_already_stays(void **state)
{
    struct rig rig;
    uint8_t bytes[4 * GW_PAGE_SIZE];

    if (!rig_init(&rig, FAULTS_MISSING, place_number))
        return;
    *(volatile uint8_t *)at(&rig, 2) = 77;
    memset(bytes, 5, sizeof bytes);
    assert_true(faults_place(rig.faults, rig.block, 0, 4, bytes, NULL));
    assert_int_equal(at(&rig, 0)[0], 5);
    assert_int_equal(at(&rig, 1)[0], 5);
    assert_int_equal(at(&rig, 2)[0], 77);
    assert_int_equal(at(&rig, 3)[0], 5);
    assert_int_equal(atomic_load(&rig.n_faults), 1);
    rig_clear(&rig);
}

static void never_answer(void *opaque, struct gw_ram_block *block, uint64_t page, uint32_t thread)
{
    atomic_fetch_add(&((struct rig *)opaque)->n_faults, 1);
}

static void *touch_main(void *opaque)
{
    struct rig *rig = opaque;

    return (void *)(uintptr_t)(1 + at(rig, 20)[0]);
}

static void await_faults(struct rig *rig, unsigned n)
{
    uint64_t limit_ns = clock_mono_ns() + PATIENCE_NS;

    while (atomic_load(&rig->n_faults) < n) {
        assert_true(clock_mono_ns() < limit_ns);
        sched_yield();
    }
}

static void who_waits_is_let_go_at_the_end(void **state)
{
    struct rig rig;
    pthread_t thread;
    void *result;

    if (!rig_init(&rig, FAULTS_MISSING, never_answer))
        return;
    pthread_create(&thread, NULL, touch_main, &rig);
    await_faults(&rig, 1);
    faults_wake(rig.faults, rig.block, 20, 1); /* it tries again, and is told again */
    await_faults(&rig, 2);
    faults_free(rig.faults);
    rig.faults = NULL;
    pthread_join(thread, &result);
    assert_int_equal((uintptr_t)result, 1);
    rig_clear(&rig);
}

/* Every kernel that tells of faults by shared memory can tell whose they are. */
static void the_thread_that_waits_is_named(void **state)
{
    struct rig rig;

    if (!rig_init(&rig, FAULTS_MISSING, place_number))
        return;
    assert_int_equal(at(&rig, 6)[17], 7);
    assert_int_equal(atomic_load(&rig.thread), gettid());
    rig_clear(&rig);
}

static void count_rings(void *opaque, struct gw_ram_block *block, uint64_t page, uint32_t thread)
{
    struct rig *rig = opaque;

    if (block)
        place_number(opaque, block, page, thread);
    else
        atomic_fetch_add(&rig->n_rings, 1);
}

static void who_rings_is_heard_between_faults(void **state)
{
    uint64_t limit_ns = clock_mono_ns() + PATIENCE_NS;
    struct rig rig;

    if (!rig_init(&rig, FAULTS_MISSING, count_rings))
        return;
    for (unsigned i = 1; i <= 10; i++) {
        faults_ring(rig.faults);
        assert_int_equal(at(&rig, 2 * i)[0], 2 * i + 1);
        while (atomic_load(&rig.n_rings) < i) {
            assert_true(clock_mono_ns() < limit_ns);
            sched_yield();
        }
    }
    assert_int_equal(atomic_load(&rig.n_faults), 10);
    rig_clear(&rig);
}

/* ---- writes ---- */

static void keep_page(void *opaque, struct gw_ram_block *block, uint64_t page, uint32_t thread)
{
    struct rig *rig = opaque;

    atomic_fetch_add(&rig->n_faults, 1);
    if (!atomic_exchange(&rig->has_kept[page], true))
        memcpy(rig->kept[page], at(rig, page), GW_PAGE_SIZE);
    assert_true(faults_release(rig->faults, block, page, 1, NULL));
}

static void *write_main(void *opaque)
{
    struct rig *rig = opaque;

    for (uint64_t page = 0; page < N_PAGES; page++)
        __atomic_fetch_add((uint64_t *)(void *)at(rig, page), 1000, __ATOMIC_RELAXED);
    return NULL;
}

static void writes_wait_until_the_old_content_is_kept(void **state)
{
    struct rig rig;
    pthread_t threads[3];

    if (!rig_init(&rig, FAULTS_WRITES, keep_page))
        return;
    for (uint64_t page = 0; page < N_PAGES; page++)
        *(uint64_t *)(void *)at(&rig, page) = page + 1;
    assert_int_equal(atomic_load(&rig.n_faults), 0);
    assert_true(faults_protect(rig.faults, rig.block, 0, N_PAGES, NULL));
    for (unsigned i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, write_main, &rig);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    for (uint64_t page = 0; page < N_PAGES; page++) {
        assert_true(atomic_load(&rig.has_kept[page]));
        assert_int_equal(*(uint64_t *)(void *)rig.kept[page], page + 1);
        assert_true(*(uint64_t *)(void *)at(&rig, page) > 1000);
    }
    rig_clear(&rig);
}

static void writes_of_the_kernel_wait_too(void **state)
{
    struct rig rig;
    int ends[2];

    if (!rig_init(&rig, FAULTS_WRITES, keep_page))
        return;
    memcpy(at(&rig, 3), "old", 4);
    assert_true(faults_protect(rig.faults, rig.block, 0, N_PAGES, NULL));
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "new", 4), 4);
    assert_int_equal(read(ends[0], at(&rig, 3), 4), 4);
    assert_string_equal((char *)rig.kept[3], "old");
    assert_string_equal((char *)at(&rig, 3), "new");
    assert_int_equal(atomic_load(&rig.n_faults), 1);
    /* Reading a protected page disturbs nobody; a page that is not protected is just written. */
    assert_int_equal(at(&rig, 4)[0], 0);
    assert_true(faults_release(rig.faults, rig.block, 4, 1, NULL));
    *(volatile uint8_t *)at(&rig, 4) = 1;
    assert_int_equal(atomic_load(&rig.n_faults), 1);
    close(ends[0]);
    close(ends[1]);
    rig_clear(&rig);
}

/* ---- guard, wholeness ---- */

struct heard {
    uint64_t first, n_pages;
    uint8_t byte;
};

static void on_discard(void *opaque, struct gw_ram_block *block, uint64_t first, uint64_t n_pages)
{
    *(struct heard *)opaque = (struct heard){first, n_pages, block->host[first * GW_PAGE_SIZE]};
}

static void the_guard_sees_pages_before_they_go(void **state)
{
    struct gw_memory *memory = gw_memory_new();
    struct gw_ram_block *block =
        gw_memory_add_block(memory, "ram", 0, N_PAGES * GW_PAGE_SIZE, NULL);
    struct heard heard = {0};

    block->host[9 * GW_PAGE_SIZE] = 42;
    memory_set_guard(memory, on_discard, &heard);
    assert_true(gw_memory_discard(block, 9 * GW_PAGE_SIZE, 2 * GW_PAGE_SIZE, NULL));
    assert_int_equal(heard.first, 9);
    assert_int_equal(heard.n_pages, 2);
    assert_int_equal(heard.byte, 42);
    assert_int_equal(block->host[9 * GW_PAGE_SIZE], 0);
    memory_set_guard(memory, NULL, NULL);
    heard = (struct heard){0};
    assert_true(gw_memory_discard(block, 0, GW_PAGE_SIZE, NULL));
    assert_int_equal(heard.n_pages, 0);
    gw_memory_free(memory);
}

static void *whole_main(void *opaque)
{
    return (void *)(uintptr_t)memory_await_whole(opaque, clock_mono_ns() + PATIENCE_NS);
}

static void who_needs_all_of_it_waits(void **state)
{
    struct gw_memory *memory = gw_memory_new();
    pthread_t thread;
    void *result;

    assert_true(memory_is_whole(memory));
    memory_set_whole(memory, false);
    assert_false(memory_is_whole(memory));
    assert_false(memory_await_whole(memory, clock_mono_ns()));
    pthread_create(&thread, NULL, whole_main, memory);
    memory_set_whole(memory, true);
    pthread_join(thread, &result);
    assert_non_null(result);
    gw_memory_free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_pages_come_when_they_are_touched),
        cmocka_unit_test(several_handlers_answer_at_once),
        cmocka_unit_test(missing_pages_come_for_the_kernel_too),
        cmocka_unit_test(what_is_there_already_stays),
        cmocka_unit_test(who_waits_is_let_go_at_the_end),
        cmocka_unit_test(the_thread_that_waits_is_named),
        cmocka_unit_test(who_rings_is_heard_between_faults),
        cmocka_unit_test(writes_wait_until_the_old_content_is_kept),
        cmocka_unit_test(writes_of_the_kernel_wait_too),
        cmocka_unit_test(the_guard_sees_pages_before_they_go),
        cmocka_unit_test(who_needs_all_of_it_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
