/* SPDX-License-Identifier: MIT */
/*
 * Lazy restore: pages come when they are needed, and the rest in the background.
 *
 * States of a unit: NEW -> BUSY -> DONE, or LOST. Whoever moves it from NEW to BUSY reads it into a
 * buffer of its own, verifies it, and places its pages, each whole at once. That may be the thread
 * of the faults, a reader in the background, or a device that discards pages. Pages of a unit that
 * are zero, and pages in no unit, are not placed, so that they cost nothing; a fault on one is
 * answered with a zero page.
 *
 * ORDER: a fault on a page of a unit that is BUSY is left alone: DONE is set before the unit's
 * range is woken, so either the fault's thread saw DONE, or the waiter was there to be woken. A
 * waiter that is woken and finds its page still missing (it is zero) faults again.
 *
 * A unit that turns out damaged is LOST: nobody is woken, nothing is placed, the embedder is told.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "memory/faults.h"
#include "migrate/engine.h"
#include "migrate/snapshot_parts.h"

#define MAX_THREADS 4u

enum { NEW = 0, BUSY, DONE, LOST };

/* What one thread needs to read units. */
struct hand {
    struct wire_unit_reader reader;
    uint8_t *bytes; /* WIRE_MAX_BULK, page-aligned */
};

struct snapshot_pager {
    /* fixed after construction */
    struct snapshot_reader_config config; /* stream: owned */
    struct wire_snapshot *snapshot;
    struct snapshot_reader_counters *counters;
    void (*lost)(void *opaque, const char *reason);
    void *opaque;
    int fd;
    uint32_t *index_of; /* [blocks of the memory]: the snapshot's number */
    pthread_t threads[MAX_THREADS];
    uint32_t n_threads;

    /* owned by the faults' thread */
    struct hand fault_hand;

    /* atomic */
    uint8_t *states;
    uint64_t next;
    uint64_t bytes_left;

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a unit is DONE or LOST; all is to end */
    uint64_t n_done;
    bool is_lost, is_stopping;
    struct faults *faults; /* NULL when all is there; written by the first reader only */
};

static void hand_init(struct snapshot_pager *pager, struct hand *hand)
{
    hand->reader = (struct wire_unit_reader){.stream = pager->config.stream,
                                             .fd = pager->fd,
                                             .block_pages = snapshot_block_pages,
                                             .opaque = &pager->config};
    wire_unit_reader_init(&hand->reader);
    hand->bytes = aligned_alloc(GW_PAGE_SIZE, WIRE_MAX_BULK);
    if (!hand->bytes)
        g_error("out of memory");
}

static void hand_clear(struct hand *hand)
{
    wire_unit_reader_clear(&hand->reader);
    free(hand->bytes);
}

static struct gw_ram_block *block_of(struct snapshot_pager *pager, const struct wire_unit *unit)
{
    return pager->config.blocks[unit->block];
}

/* ---- units ---- */

static bool read_unit(struct snapshot_pager *pager, struct hand *hand, const struct wire_unit *unit,
                      GError **error)
{
    const struct wire_pages_in *packet = &hand->reader.packet;
    struct gw_ram_block *block = block_of(pager, unit);
    const uint8_t *bytes = hand->bytes;

    if (!wire_unit_read_head(&hand->reader, unit, error) ||
        !wire_unit_read_bulk(&hand->reader, unit, NULL, hand->bytes, error))
        return false;
    for (uint32_t i = 0; i < packet->n_runs; i++) {
        const struct wire_page_run *run = &packet->runs[i];

        if (run->encoding != WIRE_PAGE_PLAIN)
            continue;
        if (!faults_place(pager->faults, block, run->first_page, run->n_pages, bytes, error))
            return false;
        bytes += (size_t)run->n_pages * WIRE_PAGE_BYTES;
    }
    snapshot_count_unit(pager->counters, packet, unit);
    return true;
}

static void unit_lost(struct snapshot_pager *pager, uint64_t number, const GError *error)
{
    bool is_first;

    pthread_mutex_lock(&pager->lock);
    is_first = !pager->is_lost;
    pager->is_lost = true;
    __atomic_store_n(&pager->states[number], LOST, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&pager->changed);
    pthread_mutex_unlock(&pager->lock);
    if (!is_first)
        return;
    if (!pager->lost)
        g_error("guest memory is lost: %s", error->message); /* and aborts */
    pager->lost(pager->opaque, error->message);
}

/* Reads the unit unless somebody else does or did. */
static void unit_do(struct snapshot_pager *pager, struct hand *hand, uint64_t number)
{
    const struct wire_unit *unit = &pager->snapshot->units[number];
    g_autoptr(GError) error = NULL;
    uint8_t state = NEW;

    if (!__atomic_compare_exchange_n(&pager->states[number], &state, BUSY, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST))
        return;
    if (!read_unit(pager, hand, unit, &error)) {
        unit_lost(pager, number, error);
        return;
    }
    __atomic_fetch_sub(&pager->bytes_left, unit->bulk_bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&pager->states[number], DONE, __ATOMIC_SEQ_CST);
    faults_wake(pager->faults, block_of(pager, unit), unit->first_page,
                unit->end_page - unit->first_page);
    pthread_mutex_lock(&pager->lock);
    pager->n_done++;
    pthread_cond_broadcast(&pager->changed);
    pthread_mutex_unlock(&pager->lock);
}

static bool find_unit(struct snapshot_pager *pager, const struct gw_ram_block *block, uint64_t page,
                      uint64_t *number)
{
    const struct wire_unit *unit =
        wire_snapshot_find(pager->snapshot, pager->index_of[block->index], page);

    if (unit)
        *number = (uint64_t)(unit - pager->snapshot->units);
    return unit != NULL;
}

static void on_fault(void *opaque, struct gw_ram_block *block, uint64_t page, uint32_t thread)
{
    struct snapshot_pager *pager = opaque;
    uint64_t number;

    if (find_unit(pager, block, page, &number)) {
        unit_do(pager, &pager->fault_hand, number);
        if (__atomic_load_n(&pager->states[number], __ATOMIC_SEQ_CST) != DONE)
            return;
    }
    /* It is there (then it keeps its content), or it is zero. */
    faults_place_zero(pager->faults, block, page, NULL);
}

/* What is about to be discarded is brought first, so that nothing comes after. */
static void on_discard(void *opaque, struct gw_ram_block *block, uint64_t first, uint64_t n_pages)
{
    struct snapshot_pager *pager = opaque;
    struct hand hand;
    uint64_t number, page = first;

    hand_init(pager, &hand);
    while (page < first + n_pages) {
        if (!find_unit(pager, block, page, &number)) {
            page++;
            continue;
        }
        unit_do(pager, &hand, number);
        pthread_mutex_lock(&pager->lock);
        while (__atomic_load_n(&pager->states[number], __ATOMIC_SEQ_CST) == BUSY)
            pthread_cond_wait(&pager->changed, &pager->lock);
        pthread_mutex_unlock(&pager->lock);
        page = pager->snapshot->units[number].end_page;
    }
    hand_clear(&hand);
}

/* ---- the readers in the background ---- */

static bool is_stopping(struct snapshot_pager *pager)
{
    gw_lock_guard(&pager->lock);

    return pager->is_stopping || pager->is_lost;
}

/* Waits until all is there, then nothing faults any more. */
static void finish(struct snapshot_pager *pager)
{
    bool is_done;

    pthread_mutex_lock(&pager->lock);
    while (pager->n_done < pager->snapshot->n_units && !pager->is_stopping && !pager->is_lost)
        pthread_cond_wait(&pager->changed, &pager->lock);
    is_done = pager->n_done == pager->snapshot->n_units;
    pthread_mutex_unlock(&pager->lock);
    if (!is_done)
        return;
    memory_set_guard(pager->config.memory, NULL, NULL);
    faults_free(pager->faults); /* its thread may use it to the end */
    pager->faults = NULL;
    memory_set_whole(pager->config.memory, true);
}

static void *reader_main(void *opaque)
{
    struct snapshot_pager *pager = opaque;
    struct hand hand;
    uint64_t number;
    bool is_first = false;

    hand_init(pager, &hand);
    while (!is_stopping(pager) &&
           (number = __atomic_fetch_add(&pager->next, 1, __ATOMIC_RELAXED)) <=
               pager->snapshot->n_units) {
        is_first |= number == pager->snapshot->n_units;
        if (!is_first)
            unit_do(pager, &hand, number);
    }
    hand_clear(&hand);
    if (is_first)
        finish(pager);
    return NULL;
}

/* ---- public ---- */

struct snapshot_pager *snapshot_pager_new(const struct snapshot_reader_config *config,
                                          struct wire_snapshot *snapshot,
                                          struct snapshot_reader_counters *counters,
                                          void (*lost)(void *opaque, const char *reason),
                                          void *opaque, GError **error)
{
    struct snapshot_pager *pager = g_new0(struct snapshot_pager, 1);

    pager->config = *config;
    pager->snapshot = snapshot;
    pager->counters = counters;
    pager->lost = lost;
    pager->opaque = opaque;
    pager->fd = snapshot_open_again(config->fd, snapshot);
    pager->states = g_malloc0(snapshot->n_units + 1);
    pager->index_of = g_new(uint32_t, gw_memory_n_blocks(config->memory));
    for (uint32_t i = 0; i < gw_memory_n_blocks(config->memory); i++)
        pager->index_of[i] = UINT32_MAX;
    for (uint32_t i = 0; i < config->n_blocks; i++)
        if (config->blocks[i])
            pager->index_of[config->blocks[i]->index] = i;
    for (uint64_t i = 0; i < snapshot->n_units; i++)
        pager->bytes_left += snapshot->units[i].bulk_bytes;
    pthread_mutex_init(&pager->lock, NULL);
    cond_init_mono(&pager->changed);
    hand_init(pager, &pager->fault_hand);
    if (pager->fd < 0)
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "snapshot: cannot open it again: %s",
                    g_strerror(errno));
    else
        pager->faults = faults_new(config->memory, FAULTS_MISSING, on_fault, pager, error);
    if (!pager->faults || !faults_start(pager->faults, 1, error)) {
        pager->config.stream = NULL;
        pager->snapshot = NULL;
        snapshot_pager_free(pager);
        return NULL;
    }
    memory_set_whole(config->memory, false);
    pager->n_threads = snapshot_n_threads(config);
    for (uint32_t i = 0; i < pager->n_threads; i++)
        engine_thread_start(&pager->threads[i], "gw-pager", reader_main, pager);
    return pager;
}

void snapshot_pager_guard(struct snapshot_pager *pager)
{
    memory_set_guard(pager->config.memory, on_discard, pager);
}

uint64_t snapshot_pager_missing_bytes(struct snapshot_pager *pager)
{
    return __atomic_load_n(&pager->bytes_left, __ATOMIC_RELAXED);
}

void snapshot_pager_free(struct snapshot_pager *pager)
{
    if (!pager)
        return;
    pthread_mutex_lock(&pager->lock);
    pager->is_stopping = true;
    pthread_cond_broadcast(&pager->changed);
    pthread_mutex_unlock(&pager->lock);
    for (uint32_t i = 0; i < pager->n_threads; i++)
        pthread_join(pager->threads[i], NULL);
    memory_set_guard(pager->config.memory, NULL, NULL);
    faults_free(pager->faults);
    hand_clear(&pager->fault_hand);
    gw_clear_fd(&pager->fd);
    wire_snapshot_free(pager->snapshot);
    wire_stream_free(pager->config.stream);
    g_free(pager->index_of);
    g_free(pager->states);
    pthread_cond_destroy(&pager->changed);
    pthread_mutex_destroy(&pager->lock);
    g_free(pager);
}
