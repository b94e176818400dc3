/* SPDX-License-Identifier: MIT */
/*
 * The missing pages of a destination in post-copy; see paging.h.
 *
 * Two bits for each page. MISSING goes from 1 to 0 once: when the content has been placed, or the
 * page is known to be zero, or it is about to be discarded. REQUESTED: somebody waits, and the
 * source was asked. The invariant: of a page that is not MISSING whatever is there is right, and if
 * nothing is there, zero is; so a zero page may be placed at any time (the kernel keeps what is
 * there, and wakes who waits).
 *
 * ORDER, faults against arrivals (all of it sequentially consistent): a handler of faults sets
 * REQUESTED, then looks at MISSING; whoever clears MISSING looks at REQUESTED afterwards. So at
 * least one of them sees the other. If it is the handler, it answers the page itself, by a
 * zero page; if it is the other, it takes REQUESTED away and answers. Both may: the second one
 * changes nothing. Placed content wakes whoever waited when it was placed; who came later saw it.
 *
 * ORDER, discards against arrivals: content is placed with the hand's `placing` held, and only
 * where MISSING is seen set while it is held. A discard clears MISSING, then takes and releases
 * every hand's `placing`; what was placed before that goes with the discard, and after it no thread
 * can see the old bit. It waits for one system call of each receiver, not for the network. That the
 * bit is clear already is no reason not to wait: of a page that comes twice, one copy may have
 * cleared it while the other is being placed.
 *
 * ORDER, faults against repaired links: REQUESTED is set before the request is made, and whoever
 * repairs a link lets requests go there before paging_ask_again reads REQUESTED. So a request that
 * went to the broken link is seen there, and one that is not seen there goes to the repaired link.
 *
 * The kernel is told of the missing ranges before what stands in them is discarded: nothing (a
 * collapse into a huge page, say) fills a hole of a range that is watched.
 */
#include "migrate/paging.h"

#include <pthread.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/summary.h"
#include "memory/faults.h"
#include "memory/presence.h"

#define MAX_WAITS              256u
#define MAX_DISCARDS           3u
#define PROCESSORS_PER_HANDLER 2u /* vCPUs and receivers need them too */
#define NOT_STARTED            (UINT64_C(1) << 63)

struct paging_hand {
    pthread_mutex_t placing;
};

/* A thread that waits, or did. */
struct waiter {
    uint32_t thread;
    bool is_named; /* atomic: set once, before the name is looked for */
    struct histogram latency;
    char name[16]; /* guarded by waiters_lock */

    uint64_t n_faults, stall_ns; /* atomic, relaxed: counters */
};

/* A thread that waits for a page. */
struct wait {
    const struct gw_ram_block *block;
    uint64_t page;
    uint64_t since_ns;
    struct waiter *waiter; /* NULL: it is counted already */
};

struct paging {
    /* fixed after construction */
    struct gw_memory *memory;
    struct paging_ops ops;
    struct faults *faults;
    struct histogram latency;

    /* Words and groups are atomic; n_set is not kept. The groups of missing stay as they were. */
    struct gw_page_set *missing, *requested;

    uint64_t n_open; /* atomic: pages that are missing, and NOT_STARTED until it is started */

    bool has_told_whole; /* atomic */

    /* Added with waiters_lock held, and published by n_waiters (release); never taken away. */
    pthread_mutex_t waiters_lock;
    struct waiter *waiters[PAGING_MAX_THREADS];
    uint32_t n_waiters;

    uint64_t n_faults, n_zero_faults, n_unmeasured; /* atomic, relaxed: counters */

    /* guarded by hands_lock */
    pthread_mutex_t hands_lock;
    GPtrArray *hands;

    /* guarded by waits_lock */
    pthread_mutex_t waits_lock;
    struct wait waits[MAX_WAITS];
    uint32_t n_waits;
};

/* ---- sets of pages that others change ---- */

static uint64_t load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

/* The first bit of [from, end) that is set (or clear); end: there is none. */
static uint64_t find_bit(const uint64_t *words, uint64_t from, uint64_t end, bool is_set)
{
    while (from < end) {
        uint64_t bits = (is_set ? load(&words[from / 64]) : ~load(&words[from / 64])) >> from % 64;

        if (bits)
            return MIN(end, from + (uint64_t)__builtin_ctzll(bits));
        from = (from / 64 + 1) * 64;
    }
    return end;
}

/* The next run of pages in the set at or after *page, at most max long. */
static bool next_run(const struct gw_page_set *set, const struct gw_ram_block *block,
                     uint64_t *page, uint64_t *n_pages, uint64_t max)
{
    const uint64_t *words = set->words[block->index], *groups = set->groups[block->index];
    uint64_t n_groups = summary_n_groups(block->n_pages);

    for (uint64_t from = *page; from < block->n_pages;) {
        uint64_t g = find_bit(groups, from / SUMMARY_GROUP_BITS, n_groups, true);
        uint64_t end = MIN((g + 1) * SUMMARY_GROUP_BITS, block->n_pages);

        from = find_bit(words, MAX(from, g * SUMMARY_GROUP_BITS), end, true);
        if (from < end) {
            *page = from;
            *n_pages = find_bit(words, from, from + MIN(max, block->n_pages - from), false) - from;
            return *n_pages > 0;
        }
    }
    return false;
}

static bool is_missing(struct paging *paging, const struct gw_ram_block *block, uint64_t page)
{
    return load(&paging->missing->words[block->index][page / 64]) >> page % 64 & 1;
}

/* ---- who waits ---- */

static struct waiter *known_waiter(struct paging *paging, uint32_t thread)
{
    uint32_t n = __atomic_load_n(&paging->n_waiters, __ATOMIC_ACQUIRE);

    for (uint32_t i = 0; i < n; i++)
        if (paging->waiters[i]->thread == thread)
            return paging->waiters[i];
    return NULL;
}

static struct waiter *find_waiter(struct paging *paging, uint32_t thread)
{
    struct waiter *waiter = known_waiter(paging, thread);
    uint32_t n;

    if (waiter)
        return waiter;
    gw_lock_guard(&paging->waiters_lock);
    n = paging->n_waiters;
    if (n >= PAGING_MAX_THREADS - 1)
        thread = 0;
    waiter = known_waiter(paging, thread);
    if (waiter)
        return waiter;
    waiter = g_new0(struct waiter, 1);
    waiter->thread = thread;
    histogram_init(&waiter->latency);
    paging->waiters[n] = waiter;
    __atomic_store_n(&paging->n_waiters, n + 1, __ATOMIC_RELEASE);
    return waiter;
}

/* That takes time, so it comes when nobody waits for it. */
static void name_waiter(struct paging *paging, struct waiter *waiter)
{
    g_autofree char *path = NULL, *name = NULL;

    if (__atomic_load_n(&waiter->is_named, __ATOMIC_RELAXED) ||
        __atomic_exchange_n(&waiter->is_named, true, __ATOMIC_RELAXED))
        return;
    path = g_strdup_printf("/proc/self/task/%u/comm", waiter->thread);
    if (waiter->thread != 0 && !g_file_get_contents(path, &name, NULL, NULL))
        return;
    gw_lock_guard(&paging->waiters_lock);
    g_strlcpy(waiter->name, waiter->thread ? g_strchomp(name) : "others", sizeof waiter->name);
}

static void count_wait(struct wait *wait, uint64_t now_ns)
{
    if (!wait->waiter)
        return;
    histogram_record(&wait->waiter->latency, now_ns - wait->since_ns, wait->page << GW_PAGE_SHIFT);
    __atomic_fetch_add(&wait->waiter->stall_ns, now_ns - wait->since_ns, __ATOMIC_RELAXED);
    wait->waiter = NULL;
}

/* A thread waits for one page at a time: what it waited for before either has come just now or was
 * given up for an interrupt. (If another handler is late to say so, its next wait ends early in the
 * account.) */
static void begin_wait(struct paging *paging, const struct gw_ram_block *block, uint64_t page,
                       struct waiter *waiter)
{
    uint64_t now_ns = clock_mono_ns();
    gw_lock_guard(&paging->waits_lock);

    for (uint32_t i = 0; i < paging->n_waits && waiter->thread != 0; i++) {
        struct wait *wait = &paging->waits[i];

        if (wait->waiter != waiter)
            continue;
        if (wait->page == page && wait->block == block)
            return; /* it was only interrupted */
        count_wait(wait, now_ns);
    }
    if (paging->n_waits < MAX_WAITS)
        paging->waits[paging->n_waits++] = (struct wait){block, page, now_ns, waiter};
    else
        __atomic_fetch_add(&paging->n_unmeasured, 1, __ATOMIC_RELAXED);
}

static void end_waits(struct paging *paging, const struct gw_ram_block *block, uint64_t page)
{
    uint64_t now_ns = clock_mono_ns(), since_ns = UINT64_MAX;
    gw_lock_guard(&paging->waits_lock);

    for (uint32_t i = 0; i < paging->n_waits;) {
        struct wait *wait = &paging->waits[i];

        if (wait->page != page || wait->block != block) {
            i++;
            continue;
        }
        since_ns = MIN(since_ns, wait->since_ns);
        count_wait(wait, now_ns);
        *wait = paging->waits[--paging->n_waits];
    }
    if (since_ns != UINT64_MAX)
        histogram_record(&paging->latency, now_ns - since_ns, page << GW_PAGE_SHIFT);
}

/* ---- pages come ---- */

/* These pages are missing no longer: whatever of them is to be placed has been. Whoever waits goes
 * on. is_placed: all of them were, by the caller. */
static void settle(struct paging *paging, struct gw_ram_block *block, uint64_t first,
                   uint64_t n_pages, bool is_placed)
{
    uint64_t *missing = paging->missing->words[block->index];
    uint64_t *requested = paging->requested->words[block->index];
    uint64_t n_cleared = 0;

    for (uint64_t w = first / 64; n_pages > 0 && w <= (first + n_pages - 1) / 64; w++) {
        uint64_t mask = bitmap_range_mask(w, first, n_pages), bits;

        if (load(&missing[w]) & mask)
            n_cleared += (uint64_t)__builtin_popcountll(
                mask & __atomic_fetch_and(&missing[w], ~mask, __ATOMIC_SEQ_CST));
        bits = load(&requested[w]) & mask;
        if (bits)
            bits &= __atomic_fetch_and(&requested[w], ~bits, __ATOMIC_SEQ_CST);
        for (; bits; bits &= bits - 1) {
            uint64_t page = w * 64 + (uint64_t)__builtin_ctzll(bits);

            if (!is_placed)
                faults_place_zero(paging->faults, block, page, NULL);
            end_waits(paging, block, page);
        }
    }
    if (n_cleared > 0 && __atomic_sub_fetch(&paging->n_open, n_cleared, __ATOMIC_SEQ_CST) == 0)
        faults_ring(paging->faults);
}

/* Places those that are missing; *n_placed: so many. */
static bool place(struct paging *paging, struct paging_hand *hand, struct gw_ram_block *block,
                  uint64_t first, uint32_t n_pages, const uint8_t *bytes, uint64_t *n_placed,
                  GError **error)
{
    const uint64_t *missing = paging->missing->words[block->index];
    uint64_t end = first + n_pages, page = first;
    gw_lock_guard(&hand->placing);

    *n_placed = 0;
    while ((page = find_bit(missing, page, end, true)) < end) {
        uint64_t n = find_bit(missing, page, end, false) - page;

        if (n > 0 && !faults_place(paging->faults, block, page, n,
                                   bytes + (page - first) * GW_PAGE_SIZE, error))
            return false;
        *n_placed += n;
        page += n;
    }
    return true;
}

bool paging_arrived(struct paging *paging, struct paging_hand *hand, struct gw_ram_block *block,
                    uint64_t first, uint32_t n_pages, const uint8_t *bytes, GError **error)
{
    uint64_t n_placed;

    if (!place(paging, hand, block, first, n_pages, bytes, &n_placed, error))
        return false; /* what was placed is there, though it still counts as missing */
    settle(paging, block, first, n_pages, n_placed == n_pages);
    return true;
}

void paging_arrived_zero(struct paging *paging, struct gw_ram_block *block, uint64_t first,
                         uint32_t n_pages)
{
    settle(paging, block, first, n_pages, false);
}

static void on_discard(void *opaque, struct gw_ram_block *block, uint64_t first, uint64_t n_pages)
{
    struct paging *paging = opaque;

    settle(paging, block, first, n_pages, false);
    gw_lock_guard(&paging->hands_lock);
    for (guint i = 0; i < paging->hands->len; i++) {
        struct paging_hand *hand = g_ptr_array_index(paging->hands, i);

        pthread_mutex_lock(&hand->placing);
        pthread_mutex_unlock(&hand->placing);
    }
}

/* ---- faults ---- */

static void check_whole(struct paging *paging)
{
    if (load(&paging->n_open) == 0 &&
        !__atomic_exchange_n(&paging->has_told_whole, true, __ATOMIC_ACQ_REL))
        paging->ops.whole(paging->ops.opaque);
}

/* Somebody waits: true if the source has to be asked. */
static bool mark_requested(struct paging *paging, const struct gw_ram_block *block, uint64_t page)
{
    const struct summary map = {paging->requested->words[block->index],
                                paging->requested->groups[block->index], block->n_pages};

    return summary_set_atomic(&map, page, 1) > 0;
}

static void on_fault(void *opaque, struct gw_ram_block *block, uint64_t page, uint32_t thread)
{
    struct paging *paging = opaque;
    struct waiter *waiter;
    bool is_first;

    if (!block) {
        check_whole(paging);
        return;
    }
    __atomic_fetch_add(&paging->n_faults, 1, __ATOMIC_RELAXED);
    waiter = find_waiter(paging, thread);
    __atomic_fetch_add(&waiter->n_faults, 1, __ATOMIC_RELAXED);
    if (!is_missing(paging, block, page)) {
        __atomic_fetch_add(&paging->n_zero_faults, 1, __ATOMIC_RELAXED);
        faults_place_zero(paging->faults, block, page, NULL);
        name_waiter(paging, waiter);
        return;
    }
    begin_wait(paging, block, page, waiter);
    is_first = mark_requested(paging, block, page);
    if (!is_missing(paging, block, page))
        settle(paging, block, page, 1, false);
    else if (is_first)
        paging->ops.request(paging->ops.opaque, block, page, 1);
    name_waiter(paging, waiter);
}

/* ---- asking ---- */

static void ask(struct paging *paging, const struct gw_page_set *set)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(paging->memory); i++) {
        struct gw_ram_block *block = gw_memory_block(paging->memory, i);

        for (uint64_t page = 0, n; next_run(set, block, &page, &n, PAGING_MAX_RUN); page += n)
            paging->ops.request(paging->ops.opaque, block, page, (uint32_t)n);
    }
}

void paging_ask_again(struct paging *paging)
{
    ask(paging, paging->requested);
}

void paging_ask_rest(struct paging *paging)
{
    ask(paging, paging->missing);
}

uint64_t paging_n_missing(struct paging *paging)
{
    return load(&paging->n_open) & ~NOT_STARTED;
}

struct gw_page_set *paging_missing_copy(struct paging *paging)
{
    struct gw_page_set *copy = gw_page_set_new(paging->memory);

    for (uint32_t i = 0; i < gw_memory_n_blocks(paging->memory); i++) {
        const struct gw_ram_block *block = gw_memory_block(paging->memory, i);

        for (uint64_t page = 0, n; next_run(paging->missing, block, &page, &n, UINT64_MAX);
             page += n)
            gw_page_set_add(copy, i, page, n);
    }
    return copy;
}

/* ---- life ---- */

/* Allocated pages that were found last. What is discarded within them does not matter, as nobody
 * looks back. */
struct allocated {
    uint64_t first, end;
};

/* The first allocated page at or after `from`, which never goes back. */
static uint64_t next_allocated(struct allocated *run, const struct gw_ram_block *block,
                               uint64_t from)
{
    if (from >= run->end)
        run->first = memory_next_allocated(block, from, &run->end);
    return MAX(from, run->first);
}

/* Discards pages, so that who touches one waits. The kernel may keep a part of a huge page that is
 * in use this moment, as zeroes, which would be taken for the page. */
static bool discard_whole(struct gw_ram_block *block, uint64_t first, uint64_t end, GError **error)
{
    for (unsigned i = 0; i < MAX_DISCARDS; i++) {
        if (!gw_memory_discard(block, first << GW_PAGE_SHIFT, (end - first) << GW_PAGE_SHIFT,
                               error))
            return false;
        if (memory_is_hole(block, first, end - first))
            return true;
    }
    g_set_error(error, GW_ERROR, GW_ERROR_IO,
                "RAM block %s: the kernel keeps some of %" G_GUINT64_FORMAT
                " pages that are to be discarded from page %" G_GUINT64_FORMAT " on",
                block->name, end - first, first);
    return false;
}

/* Discards what stands in missing pages of the block. Holes between them need no call of their own.
 */
static bool discard_missing(const struct gw_page_set *missing, struct gw_ram_block *block,
                            GError **error)
{
    struct allocated run = {0};
    uint64_t first = 0, n;

    while (gw_page_set_next_run(missing, block->index, &first, &n, UINT64_MAX)) {
        uint64_t end = first + n, next = end;

        first = next_allocated(&run, block, first);
        if (first >= end)
            continue;
        /* As far as nothing stands between this run and the next one. */
        while (gw_page_set_next_run(missing, block->index, &next, &n, UINT64_MAX) &&
               next_allocated(&run, block, end) >= next)
            next = end = next + n;
        if (!discard_whole(block, first, end, error))
            return false;
        first = end;
    }
    return true;
}

static bool open_faults(struct paging *paging, unsigned n_handlers, GError **error)
{
    paging->faults = faults_new(paging->memory, FAULTS_MISSING, on_fault, paging, error);
    if (!paging->faults)
        return false;
    for (uint32_t i = 0; i < gw_memory_n_blocks(paging->memory); i++)
        if (!discard_missing(paging->missing, gw_memory_block(paging->memory, i), error))
            return false;
    return faults_start(paging->faults, n_handlers, error);
}

struct paging *paging_new(struct gw_memory *memory, struct gw_page_set *missing,
                          const struct paging_ops *ops, unsigned n_handlers, GError **error)
{
    struct paging *paging = g_new0(struct paging, 1);

    paging->memory = memory;
    paging->ops = *ops;
    paging->missing = missing;
    paging->requested = gw_page_set_new(memory);
    paging->n_open = missing->n_set | NOT_STARTED;
    paging->hands = g_ptr_array_new();
    histogram_init(&paging->latency);
    pthread_mutex_init(&paging->hands_lock, NULL);
    pthread_mutex_init(&paging->waits_lock, NULL);
    pthread_mutex_init(&paging->waiters_lock, NULL);
    if (n_handlers == 0)
        n_handlers = CLAMP(g_get_num_processors() / PROCESSORS_PER_HANDLER, 1, FAULTS_MAX_HANDLERS);
    if (!open_faults(paging, n_handlers, error)) {
        paging->missing = NULL;
        paging_free(paging);
        return NULL;
    }
    memory_set_guard(memory, on_discard, paging);
    memory_set_whole(memory, false);
    return paging;
}

void paging_start(struct paging *paging)
{
    if (__atomic_and_fetch(&paging->n_open, ~NOT_STARTED, __ATOMIC_SEQ_CST) == 0)
        faults_ring(paging->faults);
}

void paging_free(struct paging *paging)
{
    if (!paging)
        return;
    if (paging->missing) /* else it never came to this */
        memory_set_guard(paging->memory, NULL, NULL);
    faults_free(paging->faults);
    if (paging->missing)
        memory_set_whole(paging->memory, true);
    while (paging->hands->len > 0)
        paging_hand_free(paging, g_ptr_array_index(paging->hands, 0));
    g_ptr_array_unref(paging->hands);
    for (uint32_t i = 0; i < PAGING_MAX_THREADS && paging->waiters[i]; i++) {
        histogram_clear(&paging->waiters[i]->latency);
        g_free(paging->waiters[i]);
    }
    histogram_clear(&paging->latency);
    gw_page_set_free(paging->requested);
    gw_page_set_free(paging->missing);
    pthread_mutex_destroy(&paging->waiters_lock);
    pthread_mutex_destroy(&paging->waits_lock);
    pthread_mutex_destroy(&paging->hands_lock);
    g_free(paging);
}

struct paging_hand *paging_hand_new(struct paging *paging)
{
    struct paging_hand *hand = g_new0(struct paging_hand, 1);

    pthread_mutex_init(&hand->placing, NULL);
    gw_lock_guard(&paging->hands_lock);
    g_ptr_array_add(paging->hands, hand);
    return hand;
}

void paging_hand_free(struct paging *paging, struct paging_hand *hand)
{
    if (!hand)
        return;
    pthread_mutex_lock(&paging->hands_lock);
    g_ptr_array_remove_fast(paging->hands, hand);
    pthread_mutex_unlock(&paging->hands_lock);
    pthread_mutex_destroy(&hand->placing);
    g_free(hand);
}

/* ---- statistics ---- */

void paging_get_stats(struct paging *paging, struct paging_stats *stats)
{
    stats->n_faults = __atomic_load_n(&paging->n_faults, __ATOMIC_RELAXED);
    stats->n_zero_faults = __atomic_load_n(&paging->n_zero_faults, __ATOMIC_RELAXED);
    stats->n_unmeasured = __atomic_load_n(&paging->n_unmeasured, __ATOMIC_RELAXED);
    histogram_snapshot(&paging->latency, &stats->latency);
    pthread_mutex_lock(&paging->waits_lock);
    stats->n_waiting = paging->n_waits;
    pthread_mutex_unlock(&paging->waits_lock);
    stats->stall_ns = 0;
    stats->n_threads = __atomic_load_n(&paging->n_waiters, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < stats->n_threads; i++) {
        struct waiter *waiter = paging->waiters[i];
        struct paging_thread_stats *thread = &stats->threads[i];

        *thread = (struct paging_thread_stats){
            .thread = waiter->thread,
            .n_faults = __atomic_load_n(&waiter->n_faults, __ATOMIC_RELAXED),
            .stall_ns = __atomic_load_n(&waiter->stall_ns, __ATOMIC_RELAXED),
        };
        pthread_mutex_lock(&paging->waiters_lock);
        g_strlcpy(thread->name, waiter->name, sizeof thread->name);
        pthread_mutex_unlock(&paging->waiters_lock);
        histogram_snapshot(&waiter->latency, &thread->latency);
        stats->stall_ns += thread->stall_ns;
    }
}
