/* SPDX-License-Identifier: MIT */
/*
 * Missing pages of a destination in post-copy: they come when they are touched, each once and
 * whole, whatever comes twice, is zero, is discarded meanwhile, or has to be asked for again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/cond.h"
#include "memory/faults.h"
#include "memory/huge.h"
#include "memory/presence.h"
#include "migrate/paging.h"

#define N_PAGES     1024u
#define N_ACCESSORS 4u
#define N_RECEIVERS 3u
#define N_ASKED     300u /* questions that are answered before pages come unasked */
#define PATIENCE_NS (UINT64_C(60) * NS_PER_S)

static unsigned n_handlers;

struct request {
    uint32_t block;
    uint64_t first;
    uint32_t n_pages;
};

struct rig {
    struct gw_memory *memory;
    struct gw_ram_block *block;
    struct gw_page_set *missing;
    struct paging *paging;

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GArray *requests; /* struct request */
    guint n_taken;    /* of these */
    bool is_whole;
    unsigned n_whole;
    unsigned n_lost; /* requests that went to a broken link */
    unsigned lose;   /* every so-manieth is lost; 0: none */
};

static void on_request(void *opaque, struct gw_ram_block *block, uint64_t first, uint32_t n_pages)
{
    struct rig *rig = opaque;
    const struct request request = {block->index, first, n_pages};

    pthread_mutex_lock(&rig->lock);
    if (rig->lose && (rig->requests->len + rig->n_lost) % rig->lose == 0)
        rig->n_lost++;
    else
        g_array_append_val(rig->requests, request);
    pthread_cond_broadcast(&rig->changed);
    pthread_mutex_unlock(&rig->lock);
}

static void on_whole(void *opaque)
{
    struct rig *rig = opaque;

    pthread_mutex_lock(&rig->lock);
    rig->is_whole = true;
    rig->n_whole++;
    pthread_cond_broadcast(&rig->changed);
    pthread_mutex_unlock(&rig->lock);
}

static struct rig *rig_new(void)
{
    struct rig *rig = g_new0(struct rig, 1);

    rig->memory = gw_memory_new();
    assert_non_null(gw_memory_add_block(rig->memory, "rom", GW_GPA_NONE, 3 * GW_PAGE_SIZE, NULL));
    rig->block = gw_memory_add_block(rig->memory, "ram", 0, N_PAGES * GW_PAGE_SIZE, NULL);
    assert_non_null(rig->block);
    rig->missing = gw_page_set_new(rig->memory);
    rig->requests = g_array_new(FALSE, FALSE, sizeof(struct request));
    pthread_mutex_init(&rig->lock, NULL);
    cond_init_mono(&rig->changed);
    return rig;
}

static void rig_free(struct rig *rig)
{
    paging_free(rig->paging);
    gw_page_set_free(rig->missing);
    gw_memory_free(rig->memory);
    g_array_unref(rig->requests);
    pthread_cond_destroy(&rig->changed);
    pthread_mutex_destroy(&rig->lock);
    g_free(rig);
}

/* Ends the test where this host cannot do it. */
static void rig_begin(struct rig *rig)
{
    const struct paging_ops ops = {on_request, on_whole, rig};
    GError *error = NULL;

    rig->paging = paging_new(rig->memory, rig->missing, &ops, n_handlers, &error);
    if (!rig->paging) {
        assert_int_equal(error->code, GW_ERROR_UNSUPPORTED);
        assert_true(memory_is_whole(rig->memory));
        print_message("skipped: %s\n", error->message);
        g_error_free(error);
        rig_free(rig);
        skip();
    }
    rig->missing = NULL;
}

static uint8_t *at(struct rig *rig, uint64_t page)
{
    return rig->block->host + page * GW_PAGE_SIZE;
}

/* Waits until the source was asked so many times; returns the last question. */
static struct request await_requests(struct rig *rig, guint n)
{
    uint64_t limit_ns = clock_mono_ns() + PATIENCE_NS;
    struct request last;

    pthread_mutex_lock(&rig->lock);
    while (rig->requests->len < n)
        assert_true(cond_wait_until(&rig->changed, &rig->lock, limit_ns));
    last = g_array_index(rig->requests, struct request, n - 1);
    pthread_mutex_unlock(&rig->lock);
    return last;
}

static void await_whole(struct rig *rig)
{
    uint64_t limit_ns = clock_mono_ns() + PATIENCE_NS;

    pthread_mutex_lock(&rig->lock);
    while (!rig->is_whole)
        assert_true(cond_wait_until(&rig->changed, &rig->lock, limit_ns));
    pthread_mutex_unlock(&rig->lock);
}

static uint64_t n_allocated(const struct rig *rig)
{
    uint64_t n = 0, page = 0, n_pages;

    for (; gw_memory_next_allocated_run(rig->block, &page, &n_pages); page += n_pages)
        n += n_pages;
    return n;
}

/* A thread that reads one byte. */
struct toucher {
    pthread_t thread;
    const uint8_t *at;
    uint8_t got;
};

static void *toucher_main(void *opaque)
{
    struct toucher *toucher = opaque;

    pthread_setname_np(pthread_self(), "toucher");
    toucher->got = *(const volatile uint8_t *)toucher->at;
    return NULL;
}

static void touch(struct toucher *toucher, const uint8_t *from)
{
    *toucher = (struct toucher){.at = from};
    assert_int_equal(pthread_create(&toucher->thread, NULL, toucher_main, toucher), 0);
}

static uint8_t touched(struct toucher *toucher)
{
    pthread_join(toucher->thread, NULL);
    return toucher->got;
}

static void arrive(struct rig *rig, struct paging_hand *hand, uint64_t first, uint32_t n_pages,
                   uint8_t byte)
{
    g_autofree uint8_t *bytes = g_malloc(n_pages * GW_PAGE_SIZE);

    memset(bytes, byte, n_pages * GW_PAGE_SIZE);
    assert_true(paging_arrived(rig->paging, hand, rig->block, first, n_pages, bytes, NULL));
}

/* ---- one thing at a time ---- */

static void where_nothing_is_missing_it_is_whole_at_once(void **state)
{
    struct rig *rig = rig_new();

    *at(rig, 3) = 33;
    rig_begin(rig);
    assert_false(memory_is_whole(rig->memory));
    assert_false(rig->is_whole);
    paging_start(rig->paging);
    await_whole(rig);
    assert_int_equal(paging_n_missing(rig->paging), 0);
    assert_int_equal(*at(rig, 3), 33);
    assert_int_equal(*at(rig, 4), 0); /* was never touched: zero, without a question */
    paging_free(rig->paging);
    rig->paging = NULL;
    assert_true(memory_is_whole(rig->memory));
    assert_int_equal(rig->n_whole, 1);
    assert_int_equal(rig->requests->len, 0);
    rig_free(rig);
}

static void what_stands_in_missing_pages_goes(void **state)
{
    struct rig *rig = rig_new();
    struct gw_page_set *copy;
    uint64_t page = 0, n_pages;

    for (uint64_t i = 0; i < 100; i++)
        *at(rig, i) = 7;
    gw_page_set_add(rig->missing, 1, 10, 20);
    gw_page_set_add(rig->missing, 1, 31, 1);
    gw_page_set_add(rig->missing, 1, 90, 300);
    gw_page_set_add(rig->missing, 1, 500, 30);
    rig_begin(rig);
    assert_int_equal(paging_n_missing(rig->paging), 351);
    assert_int_equal(n_allocated(rig), 100 - 20 - 1 - 10);
    copy = paging_missing_copy(rig->paging);
    assert_int_equal(copy->n_set, 351);
    assert_true(gw_page_set_next_run(copy, 1, &page, &n_pages, UINT64_MAX));
    assert_int_equal(page, 10);
    assert_int_equal(n_pages, 20);
    assert_false(gw_page_set_test(copy, 1, 30));
    assert_true(gw_page_set_test(copy, 1, 31));
    assert_true(gw_page_set_test(copy, 1, 529));
    gw_page_set_free(copy);
    for (uint64_t i = 0; i < 90; i++)
        if (i < 10 || i == 30 || i > 31)
            assert_int_equal(*at(rig, i), 7);
    rig_free(rig);
}

/* A part of a huge page cannot go while somebody has a page of it: that is zeroes, not a hole. */
static void what_the_kernel_keeps_is_not_taken_for_missing(void **state)
{
    const struct paging_ops ops = {0};
    struct rig *rig = rig_new();
    struct iovec held = {at(rig, 20), GW_PAGE_SIZE};
    g_autoptr(GError) error = NULL;
    int pipe_fds[2];

    *at(rig, 10) = 7;
    if (!memory_make_huge(rig->block, 0, MEMORY_HUGE_PAGES)) {
        rig_free(rig);
        print_message("skipped: this kernel makes no huge pages\n");
        skip();
    }
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    assert_int_equal(vmsplice(pipe_fds[1], &held, 1, 0), GW_PAGE_SIZE);
    gw_page_set_add(rig->missing, 1, 10, 1);
    assert_null(paging_new(rig->memory, rig->missing, &ops, n_handlers, &error));
    if (error->code != GW_ERROR_UNSUPPORTED) {
        assert_int_equal(error->code, GW_ERROR_IO);
        assert_string_equal(error->message, "RAM block ram: the kernel keeps some of 1 pages that "
                                            "are to be discarded from page 10 on");
    }
    assert_true(memory_is_whole(rig->memory));
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    rig_begin(rig);
    assert_true(memory_is_hole(rig->block, 10, 1));
    assert_false(memory_is_hole(rig->block, 11, 1));
    rig_free(rig);
}

static void a_missing_page_comes_when_it_is_touched(void **state)
{
    static struct paging_stats stats; /* large */
    struct rig *rig = rig_new();
    struct paging_hand *hand;
    struct toucher touchers[3];
    struct request request;

    gw_page_set_add(rig->missing, 1, 0, 40);
    rig_begin(rig);
    paging_start(rig->paging);
    hand = paging_hand_new(rig->paging);
    touch(&touchers[0], at(rig, 5));
    request = await_requests(rig, 1);
    assert_int_equal(request.block, 1);
    assert_int_equal(request.first, 5);
    assert_int_equal(request.n_pages, 1);
    /* Who touches it too waits too, and nobody is asked again. */
    touch(&touchers[1], at(rig, 5) + 9);
    touch(&touchers[2], at(rig, 6));
    assert_int_equal(await_requests(rig, 2).first, 6);
    arrive(rig, hand, 0, 6, 55);
    assert_int_equal(touched(&touchers[0]), 55);
    assert_int_equal(touched(&touchers[1]), 55);
    paging_arrived_zero(rig->paging, rig->block, 6, 34);
    assert_int_equal(touched(&touchers[2]), 0);
    await_whole(rig);
    assert_int_equal(*at(rig, 4), 55);
    assert_int_equal(n_allocated(rig), 7); /* zero pages cost nothing unless they are touched */
    assert_int_equal(rig->requests->len, 2);
    assert_int_equal(paging_n_missing(rig->paging), 0);

    paging_get_stats(rig->paging, &stats);
    assert_in_range(stats.n_faults, 2, 3);
    assert_int_equal(stats.n_waiting, 0);
    assert_int_equal(stats.latency.count, 2);
    assert_true(stats.latency.max > 0 && stats.stall_ns >= stats.latency.max);
    assert_in_range(stats.n_threads, 2, 3);
    for (uint32_t i = 0; i < stats.n_threads; i++) {
        assert_int_equal(stats.threads[i].n_faults, 1);
        assert_int_equal(stats.threads[i].latency.count, 1);
        assert_int_equal(stats.threads[i].stall_ns, stats.threads[i].latency.sum);
        assert_int_not_equal(stats.threads[i].thread, getpid());
        /* A thread that has ended before it was looked at has no name. */
        if (stats.threads[i].name[0])
            assert_string_equal(stats.threads[i].name, "toucher");
    }
    rig_free(rig);
}

/* Pages that were discarded stay so, whatever comes for them. */
static void a_discarded_page_is_missing_no_longer(void **state)
{
    struct rig *rig = rig_new();
    struct paging_hand *hand;
    struct toucher toucher;

    gw_page_set_add(rig->missing, 1, 0, 10);
    rig_begin(rig);
    paging_start(rig->paging);
    hand = paging_hand_new(rig->paging);
    arrive(rig, hand, 0, 2, 11);
    touch(&toucher, at(rig, 4));
    await_requests(rig, 1);
    /* One that has come, one that has not, one that somebody waits for. */
    assert_true(gw_memory_discard(rig->block, GW_PAGE_SIZE, 4 * GW_PAGE_SIZE, NULL));
    assert_int_equal(touched(&toucher), 0);
    assert_int_equal(paging_n_missing(rig->paging), 5);
    arrive(rig, hand, 0, 9, 22);
    assert_int_equal(*at(rig, 0), 11);
    for (uint64_t page = 1; page < 5; page++)
        assert_int_equal(*at(rig, page), 0);
    assert_int_equal(*at(rig, 5), 22);
    assert_false(rig->is_whole);
    /* The last one goes that way too; whole is told with nothing held, so not by this thread. */
    assert_true(gw_memory_discard(rig->block, 9 * GW_PAGE_SIZE, GW_PAGE_SIZE, NULL));
    await_whole(rig);
    assert_int_equal(rig->requests->len, 1);
    rig_free(rig);
}

static void what_comes_twice_changes_nothing(void **state)
{
    struct rig *rig = rig_new();
    struct paging_hand *hand;

    gw_page_set_add(rig->missing, 1, 0, 10);
    rig_begin(rig);
    paging_start(rig->paging);
    hand = paging_hand_new(rig->paging);
    arrive(rig, hand, 2, 2, 11);
    *(volatile uint8_t *)at(rig, 3) = 99;
    paging_arrived_zero(rig->paging, rig->block, 3, 1);
    arrive(rig, hand, 0, 10, 11);
    assert_int_equal(*at(rig, 3), 99);
    assert_int_equal(at(rig, 3)[1], 11);
    assert_int_equal(*at(rig, 9), 11);
    await_whole(rig);
    arrive(rig, hand, 0, 10, 11);
    assert_int_equal(*at(rig, 3), 99);
    paging_hand_free(rig->paging, hand);
    rig_free(rig);
}

static void assert_requests(struct rig *rig, const struct request *requests, guint n)
{
    assert_int_equal(rig->requests->len, n);
    for (guint i = 0; i < n; i++) {
        const struct request *request = &g_array_index(rig->requests, struct request, i);

        assert_int_equal(request->block, requests[i].block);
        assert_int_equal(request->first, requests[i].first);
        assert_int_equal(request->n_pages, requests[i].n_pages);
    }
}

static void lost_questions_are_asked_again(void **state)
{
    static const struct request again[] = {{1, 3, 1}, {1, 8, 2}};
    static const struct request rest[] = {{0, 1, 1},     {1, 0, 4},     {1, 6, 4},
                                          {1, 300, 256}, {1, 556, 256}, {1, 812, 1}};
    struct rig *rig = rig_new();
    struct toucher touchers[4];
    struct paging_hand *hand;

    gw_page_set_add(rig->missing, 0, 1, 1);
    gw_page_set_add(rig->missing, 1, 0, 10);
    gw_page_set_add(rig->missing, 1, 300, 513);
    rig_begin(rig);
    paging_start(rig->paging);
    hand = paging_hand_new(rig->paging);
    touch(&touchers[0], at(rig, 3));
    touch(&touchers[1], at(rig, 5));
    touch(&touchers[2], at(rig, 8));
    touch(&touchers[3], at(rig, 9));
    await_requests(rig, 4);
    arrive(rig, hand, 4, 2, 44);
    assert_int_equal(touched(&touchers[1]), 44);
    g_array_set_size(rig->requests, 0);
    paging_ask_again(rig->paging);
    assert_requests(rig, again, G_N_ELEMENTS(again));
    g_array_set_size(rig->requests, 0);
    paging_ask_rest(rig->paging);
    assert_requests(rig, rest, G_N_ELEMENTS(rest));
    /* When it is put off for good, who waits goes on. */
    paging_free(rig->paging);
    rig->paging = NULL;
    for (unsigned i = 0; i < 4; i++)
        if (i != 1)
            assert_int_equal(touched(&touchers[i]), 0);
    rig_free(rig);
}

static void many_threads_share_the_last_place(void **state)
{
    static struct paging_stats stats; /* large */
    struct rig *rig = rig_new();
    struct toucher touchers[PAGING_MAX_THREADS + 6];
    uint64_t n_faults = 0;
    struct paging_hand *hand;

    gw_page_set_add(rig->missing, 1, 0, N_PAGES);
    rig_begin(rig);
    paging_start(rig->paging);
    hand = paging_hand_new(rig->paging);
    for (guint i = 0; i < G_N_ELEMENTS(touchers); i++)
        touch(&touchers[i], at(rig, i * 8));
    await_requests(rig, G_N_ELEMENTS(touchers));
    paging_get_stats(rig->paging, &stats);
    assert_int_equal(stats.n_waiting, G_N_ELEMENTS(touchers));
    arrive(rig, hand, 0, N_PAGES, 3);
    for (guint i = 0; i < G_N_ELEMENTS(touchers); i++)
        assert_int_equal(touched(&touchers[i]), 3);
    paging_get_stats(rig->paging, &stats);
    assert_int_equal(stats.n_threads, PAGING_MAX_THREADS);
    assert_string_equal(stats.threads[0].name, "toucher");
    assert_int_equal(stats.threads[PAGING_MAX_THREADS - 1].thread, 0);
    assert_string_equal(stats.threads[PAGING_MAX_THREADS - 1].name, "others");
    assert_int_equal(stats.threads[PAGING_MAX_THREADS - 1].n_faults, 7);
    for (guint i = 0; i < stats.n_threads; i++)
        n_faults += stats.threads[i].n_faults;
    assert_int_equal(n_faults, G_N_ELEMENTS(touchers));
    assert_int_equal(stats.n_faults, G_N_ELEMENTS(touchers));
    assert_int_equal(stats.latency.count, G_N_ELEMENTS(touchers));
    assert_int_equal(stats.n_waiting + stats.n_unmeasured + stats.n_zero_faults, 0);
    rig_free(rig);
}

/* ---- races ---- */

/* A receiver whose buffer is not there yet: the kernel stops in the middle of placing. */
struct slow_receiver {
    struct rig *rig;
    struct gw_memory *buffer;
    struct faults *faults;
    bool is_placing, may_go_on; /* guarded by the rig's lock */
};

static void stop_placing(void *opaque, struct gw_ram_block *block, uint64_t page, uint32_t thread)
{
    struct slow_receiver *slow = opaque;
    uint64_t limit_ns = clock_mono_ns() + PATIENCE_NS;
    uint8_t bytes[GW_PAGE_SIZE];

    memset(bytes, 66, sizeof bytes);
    pthread_mutex_lock(&slow->rig->lock);
    slow->is_placing = true;
    pthread_cond_broadcast(&slow->rig->changed);
    while (!slow->may_go_on && cond_wait_until(&slow->rig->changed, &slow->rig->lock, limit_ns))
        continue;
    pthread_mutex_unlock(&slow->rig->lock);
    faults_place(slow->faults, block, page, 1, bytes, NULL);
}

static void *slow_main(void *opaque)
{
    struct slow_receiver *slow = opaque;
    struct paging_hand *hand = paging_hand_new(slow->rig->paging);

    paging_arrived(slow->rig->paging, hand, slow->rig->block, 7, 1,
                   gw_memory_block(slow->buffer, 0)->host, NULL);
    return NULL;
}

static void *discard_main(void *opaque)
{
    struct rig *rig = opaque;

    return gw_memory_discard(rig->block, 7 * GW_PAGE_SIZE, GW_PAGE_SIZE, NULL) ? rig : NULL;
}

static void a_discard_waits_for_what_is_being_placed(void **state)
{
    struct rig *rig = rig_new();
    struct slow_receiver slow = {.rig = rig, .buffer = gw_memory_new()};
    uint64_t limit_ns = clock_mono_ns() + PATIENCE_NS;
    pthread_t receiver, discarder;
    void *is_discarded;

    assert_non_null(gw_memory_add_block(slow.buffer, "buffer", 0, GW_PAGE_SIZE, NULL));
    gw_page_set_add(rig->missing, 1, 7, 1);
    rig_begin(rig);
    slow.faults = faults_new(slow.buffer, FAULTS_MISSING, stop_placing, &slow, NULL);
    assert_true(faults_start(slow.faults, 1, NULL));
    assert_int_equal(pthread_create(&receiver, NULL, slow_main, &slow), 0);
    pthread_mutex_lock(&rig->lock);
    while (!slow.is_placing)
        assert_true(cond_wait_until(&rig->changed, &rig->lock, limit_ns));
    pthread_mutex_unlock(&rig->lock);
    assert_int_equal(pthread_create(&discarder, NULL, discard_main, rig), 0);
    while (paging_n_missing(rig->paging) > 0) {
        assert_true(clock_mono_ns() < limit_ns);
        sched_yield();
    }
    /* The page is given up. A discard that did not wait would be over soon. */
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(pthread_tryjoin_np(discarder, &is_discarded), EBUSY);
        sched_yield();
    }
    pthread_mutex_lock(&rig->lock);
    slow.may_go_on = true;
    pthread_cond_broadcast(&rig->changed);
    pthread_mutex_unlock(&rig->lock);
    pthread_join(receiver, NULL);
    pthread_join(discarder, &is_discarded);
    assert_non_null(is_discarded);
    assert_int_equal(*at(rig, 7), 0);
    faults_free(slow.faults);
    gw_memory_free(slow.buffer);
    rig_free(rig);
}

/* Touches one page after the other, and says which. */
struct walker {
    struct rig *rig;
    uint64_t n_begun, n_done; /* atomic */
};

static void *walker_main(void *opaque)
{
    struct walker *walker = opaque;

    for (uint64_t page = 0; page < N_PAGES; page++) {
        __atomic_store_n(&walker->n_begun, page + 1, __ATOMIC_RELEASE);
        (void)*(volatile uint8_t *)at(walker->rig, page);
        __atomic_store_n(&walker->n_done, page + 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void await_walker(const uint64_t *counter, uint64_t n)
{
    uint64_t limit_ns = clock_mono_ns() + PATIENCE_NS;

    while (__atomic_load_n(counter, __ATOMIC_ACQUIRE) < n)
        if (clock_mono_ns() > limit_ns)
            fail_msg("a page that was declared zero never came");
}

/* A page turns out zero while the fault on it is on its way, at all distances between the two. */
static void a_zero_page_reaches_who_has_just_faulted(void **state)
{
    struct rig *rig = rig_new();
    struct walker walker = {.rig = rig};
    pthread_t thread;

    gw_page_set_add(rig->missing, 1, 0, N_PAGES);
    rig_begin(rig);
    paging_start(rig->paging);
    assert_int_equal(pthread_create(&thread, NULL, walker_main, &walker), 0);
    for (uint64_t page = 0; page < N_PAGES; page++) {
        uint64_t until_ns;

        await_walker(&walker.n_begun, page + 1);
        until_ns = clock_mono_ns() + page * 37 % 64 * NS_PER_US;
        while (clock_mono_ns() < until_ns)
            continue;
        paging_arrived_zero(rig->paging, rig->block, page, 1);
        await_walker(&walker.n_done, page + 1);
    }
    pthread_join(thread, NULL);
    await_whole(rig);
    rig_free(rig);
}

/* ---- all of it at once ---- */

/* What the source holds: some pages are zero; bytes from 64 on are the guest's to read only, words
 * before are one accessor's each. */
static bool is_zero_page(uint64_t page)
{
    return page % 5 == 2;
}

static bool is_discarded_page(uint64_t page)
{
    return page % 16 < 2;
}

static void source_page(uint64_t page, uint8_t *bytes)
{
    memset(bytes, is_zero_page(page) ? 0 : 1 + (int)(page % 255), GW_PAGE_SIZE);
    memset(bytes, 0, 64);
}

struct member {
    struct rig *rig;
    uint32_t number;
    pthread_t thread;
    const char *wrong; /* what was found */
};

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return *seed >> 8;
}

static bool holds(struct rig *rig, uint64_t page, bool may_be_zero)
{
    const volatile uint8_t *bytes = at(rig, page);
    uint8_t first = bytes[64], last = bytes[GW_PAGE_SIZE - 1];
    uint8_t want = is_zero_page(page) ? 0 : (uint8_t)(1 + page % 255);

    /* A page may be discarded between two looks. */
    return (first == want || (may_be_zero && first == 0)) &&
           (last == want || (may_be_zero && last == 0));
}

/* Visits every page twice, in an order of its own, and counts itself in. */
static void *accessor_main(void *opaque)
{
    struct member *member = opaque;
    struct rig *rig = member->rig;
    uint32_t step = 2 * (member->number * 97 + 13) + 1; /* odd: meets each of 2^n pages */

    for (uint32_t i = 0; i < 2 * N_PAGES; i++) {
        uint64_t page = (i * step + member->number * 100) % N_PAGES;
        volatile uint32_t *own = (volatile uint32_t *)(void *)at(rig, page) + member->number;

        *own += 1;
        if (!holds(rig, page, is_discarded_page(page)))
            member->wrong = "an accessor read what was never there";
    }
    return NULL;
}

/* Sends a run; in the end everything has been sent by each receiver. */
static void send_run(struct member *member, struct paging_hand *hand, uint64_t first, uint32_t n)
{
    uint8_t bytes[8 * GW_PAGE_SIZE];

    for (uint64_t page = first, n_run; page < first + n; page += n_run) {
        for (n_run = 1;
             page + n_run < first + n && is_zero_page(page + n_run) == is_zero_page(page);)
            n_run++;
        if (is_zero_page(page)) {
            paging_arrived_zero(member->rig->paging, member->rig->block, page, (uint32_t)n_run);
            continue;
        }
        for (uint64_t i = 0; i < n_run; i++)
            source_page(page + i, bytes + i * GW_PAGE_SIZE);
        if (!paging_arrived(member->rig->paging, hand, member->rig->block, page, (uint32_t)n_run,
                            bytes, NULL))
            member->wrong = "a page could not be placed";
    }
}

/* The next question, if there is one by the deadline; *n_asked: so many were answered before. */
static bool take_request(struct rig *rig, uint64_t deadline_ns, struct request *request,
                         guint *n_asked)
{
    bool is_one, is_in_time = true;

    pthread_mutex_lock(&rig->lock);
    while (rig->n_taken == rig->requests->len && is_in_time)
        is_in_time = cond_wait_until(&rig->changed, &rig->lock, deadline_ns);
    *n_asked = rig->n_taken;
    is_one = rig->n_taken < rig->requests->len;
    if (is_one)
        *request = g_array_index(rig->requests, struct request, rig->n_taken++);
    pthread_mutex_unlock(&rig->lock);
    return is_one;
}

static void answer(struct member *member, struct paging_hand *hand, const struct request *request)
{
    for (uint32_t k = 0; k < request->n_pages; k++)
        send_run(member, hand, request->first + k, 1);
}

static void *receiver_main(void *opaque)
{
    struct member *member = opaque;
    struct rig *rig = member->rig;
    struct paging_hand *hand = paging_hand_new(rig->paging);
    uint32_t seed = member->number, step = 2 * (member->number * 31 + 7) + 1;
    struct request request;
    guint n_asked = 0;

    /* At first only what somebody waits for. If all wait for what was lost, it is asked again. */
    while (n_asked < N_ASKED)
        if (take_request(rig, clock_mono_ns() + NS_PER_MS, &request, &n_asked))
            answer(member, hand, &request);
        else
            paging_ask_again(rig->paging);
    /* In pieces of 8 pages in an order of its own; each piece as one run or in two. */
    for (uint32_t i = 0; i < N_PAGES / 8; i++) {
        uint64_t first = (uint64_t)(i * step + member->number * 40) % (N_PAGES / 8) * 8;
        uint32_t half = next_random(&seed) % 8;

        while (take_request(rig, 0, &request, &n_asked))
            answer(member, hand, &request);
        send_run(member, hand, first + half, 8 - half);
        send_run(member, hand, first, half);
        if (i % 16 == member->number)
            paging_ask_again(rig->paging);
    }
    paging_hand_free(rig->paging, hand);
    return NULL;
}

static void *discarder_main(void *opaque)
{
    struct member *member = opaque;
    struct rig *rig = member->rig;

    for (uint32_t i = 0; i < N_PAGES; i++) {
        uint64_t page = (uint64_t)i * 7 * 16 % N_PAGES;
        const volatile uint8_t *bytes = at(rig, page);

        if (!gw_memory_discard(rig->block, page * GW_PAGE_SIZE, 2 * GW_PAGE_SIZE, NULL))
            member->wrong = "a page could not be discarded";
        if (bytes[100] != 0 || bytes[GW_PAGE_SIZE + 100] != 0)
            member->wrong = "a discarded page came back";
    }
    return NULL;
}

static void everything_at_once(void **state)
{
    static struct paging_stats stats; /* large */
    static void *(*const mains[])(void *) = {accessor_main, receiver_main, discarder_main};
    const uint32_t n_each[] = {N_ACCESSORS, N_RECEIVERS, 1};
    struct member members[N_ACCESSORS + N_RECEIVERS + 1] = {0};
    struct rig *rig = rig_new();
    uint32_t n = 0;

    gw_page_set_add(rig->missing, 1, 0, N_PAGES);
    rig->lose = 4;
    rig_begin(rig);
    paging_start(rig->paging);
    for (uint32_t kind = 0; kind < G_N_ELEMENTS(mains); kind++)
        for (uint32_t i = 0; i < n_each[kind]; i++, n++) {
            members[n] = (struct member){.rig = rig, .number = i};
            assert_int_equal(pthread_create(&members[n].thread, NULL, mains[kind], &members[n]), 0);
        }
    while (n > 0) {
        pthread_join(members[--n].thread, NULL);
        if (members[n].wrong)
            fail_msg("%s", members[n].wrong);
    }
    await_whole(rig);
    assert_int_equal(rig->n_whole, 1);
    assert_int_equal(paging_n_missing(rig->paging), 0);
    for (uint64_t page = 0; page < N_PAGES; page++) {
        const uint32_t *own = (const uint32_t *)(const void *)at(rig, page);

        if (is_discarded_page(page)) {
            assert_int_equal(at(rig, page)[100], 0);
            continue;
        }
        assert_true(holds(rig, page, false));
        for (uint32_t i = 0; i < N_ACCESSORS; i++)
            assert_int_equal(own[i], 2);
    }
    paging_get_stats(rig->paging, &stats);
    assert_int_equal(stats.n_waiting, 0);
    assert_true(rig->n_lost > 0 && stats.latency.count >= 10);
    print_message("%u faults (%u at once), %u asked, %u lost\n", (unsigned)stats.n_faults,
                  (unsigned)stats.n_zero_faults, rig->requests->len, rig->n_lost);
    rig_free(rig);
}

static int one_handler(void **state)
{
    n_handlers = 1;
    return 0;
}

static int several_handlers(void **state)
{
    n_handlers = 3;
    return 0;
}

#define WITH_EACH(test)                                                                            \
    {.name = #test, .test_func = test, .setup_func = one_handler},                                 \
    {                                                                                              \
        .name = #test " by several handlers", .test_func = test, .setup_func = several_handlers    \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_EACH(where_nothing_is_missing_it_is_whole_at_once),
        WITH_EACH(what_stands_in_missing_pages_goes),
        WITH_EACH(what_the_kernel_keeps_is_not_taken_for_missing),
        WITH_EACH(a_missing_page_comes_when_it_is_touched),
        WITH_EACH(a_discarded_page_is_missing_no_longer),
        WITH_EACH(what_comes_twice_changes_nothing),
        WITH_EACH(lost_questions_are_asked_again),
        WITH_EACH(many_threads_share_the_last_place),
        WITH_EACH(a_discard_waits_for_what_is_being_placed),
        WITH_EACH(a_zero_page_reaches_who_has_just_faulted),
        WITH_EACH(everything_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
