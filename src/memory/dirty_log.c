/* SPDX-License-Identifier: MIT */
/*
 * Who wrote which page: marking, write watchers, and the collection of the log.
 *
 * A collection has three steps, in this order: take the write logs (exchange with zero), run every
 * producer's barrier, ask the producers that keep a log of their own. See the ORDER paragraph of
 * godwit/memory.h for why no write falls between two rounds.
 *
 * Devices mark without looking at is_logging: a plain load of it could overtake the device's own
 * data in the store buffer, and a log started at that moment would miss the write. The atomic OR
 * that marks costs as much as the fence that would be needed instead.
 */
#include "base/summary.h"
#include "memory/memory_internal.h"

static struct summary log_of(const struct gw_ram_block *block)
{
    return (struct summary){block->write_log, block->write_log_groups, block->n_pages};
}

/* Tells the watchers about the watched ones of `pages`, a part of the word number `word`. */
static void tell_watchers(struct gw_ram_block *block, uint64_t word, uint64_t pages)
{
    const struct gw_memory *memory = block->memory;

    if (!(__atomic_load_n(&block->watched[word], __ATOMIC_SEQ_CST) & pages)) {
        return;
    }
    pages &= __atomic_fetch_and(&block->watched[word], ~pages, __ATOMIC_SEQ_CST);
    for (; pages; pages &= pages - 1) {
        uint64_t page = word * BITMAP_WORD_BITS + (uint64_t)__builtin_ctzll(pages);
        for (unsigned i = 0; i < memory->n_watchers; i++) {
            memory->watchers[i].fn(memory->watchers[i].opaque, block, page);
        }
    }
}

void gw_memory_note_write(struct gw_ram_block *block, uint64_t offset, uint64_t len)
{
    if (len == 0 || offset >= block->size_bytes) {
        return;
    }
    uint64_t n_bytes = MIN(len, block->size_bytes - offset);
    uint64_t first = offset >> GW_PAGE_SHIFT;
    uint64_t last = (offset + n_bytes - 1) >> GW_PAGE_SHIFT;

    /* ORDER: seq_cst on both sides. A watcher sets the watched bit and then reads the page; here
     * the page was written before the marks and the watched bit is read after them: one of the two
     * sees the other. */
    struct summary log = log_of(block);
    summary_set_atomic(&log, first, last - first + 1);
    for (uint64_t w = first / BITMAP_WORD_BITS; w <= last / BITMAP_WORD_BITS; w++) {
        tell_watchers(block, w, bitmap_range_mask(w, first, last - first + 1));
    }
}

void gw_memory_log_page(struct gw_ram_block *block, uint64_t page)
{
    gw_memory_log_page_first(block, page);
}

bool gw_memory_log_page_first(struct gw_ram_block *block, uint64_t page)
{
    struct summary log = log_of(block);

    return page < block->n_pages && summary_set_atomic(&log, page, 1) > 0;
}

void gw_memory_add_write_watch(struct gw_memory *memory, gw_write_watch_fn fn, void *opaque)
{
    g_return_if_fail(memory->n_watchers < MEMORY_MAX_WATCHERS);
    memory->watchers[memory->n_watchers++] = (struct memory_watcher){fn, opaque};
}

void gw_memory_add_dirty_producer(struct gw_memory *memory,
                                  const struct gw_dirty_producer *producer, void *opaque)
{
    g_return_if_fail(memory->n_producers < MEMORY_MAX_PRODUCERS);
    memory->producers[memory->n_producers++] = (struct memory_producer){*producer, opaque};
}

/* Drops what was marked before the log began. A device's data whose mark is dropped here is visible
 * to the log's user, whose first round sends every page. */
static void clear_logs(struct gw_memory *memory)
{
    for (uint32_t i = 0; i < memory->blocks->len; i++) {
        struct gw_ram_block *block = gw_memory_block(memory, i);
        struct summary log = log_of(block);
        summary_drop(&log);
    }
}

static void stop_producers(struct gw_memory *memory, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const struct memory_producer *producer = &memory->producers[i];
        if (producer->ops.stop) {
            producer->ops.stop(producer->opaque);
        }
    }
}

bool gw_memory_log_start(struct gw_memory *memory, GError **error)
{
    if (gw_memory_is_logging(memory)) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_STATE, "the dirty log is in use already");
        return false;
    }
    clear_logs(memory);
    __atomic_store_n(&memory->is_logging, true, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < memory->n_producers; i++) {
        const struct memory_producer *producer = &memory->producers[i];
        if (producer->ops.start && !producer->ops.start(producer->opaque, error)) {
            __atomic_store_n(&memory->is_logging, false, __ATOMIC_SEQ_CST);
            stop_producers(memory, i);
            return false;
        }
    }
    return true;
}

void gw_memory_log_stop(struct gw_memory *memory)
{
    if (!gw_memory_is_logging(memory)) {
        return;
    }
    __atomic_store_n(&memory->is_logging, false, __ATOMIC_SEQ_CST);
    stop_producers(memory, memory->n_producers);
}

bool gw_memory_is_logging(const struct gw_memory *memory)
{
    return __atomic_load_n(&memory->is_logging, __ATOMIC_ACQUIRE);
}

static uint64_t *scratch_words(struct gw_memory *memory, uint32_t index, GError **error)
{
    if (!memory->scratch) {
        memory->scratch = g_new0(uint64_t *, memory->blocks->len);
    }
    if (!memory->scratch[index]) {
        struct gw_ram_block *block = gw_memory_block(memory, index);
        memory->scratch[index] = memory_lazy_words_new(block->n_pages);
        if (!memory->scratch[index]) {
            g_set_error(error, GW_ERROR, GW_ERROR_IO,
                        "RAM block %s: no memory to collect its dirty log", block->name);
        }
    }
    return memory->scratch[index];
}

/* Asks one producer for its own log of every block. */
static bool collect_producer(struct gw_memory *memory, const struct memory_producer *producer,
                             struct gw_page_set *set, uint64_t *n_new, GError **error)
{
    for (uint32_t i = 0; i < memory->blocks->len; i++) {
        struct gw_ram_block *block = gw_memory_block(memory, i);
        uint64_t *words = scratch_words(memory, i, error);

        if (!words) {
            return false;
        }
        bool ok = producer->ops.collect(producer->opaque, block, words, error);
        struct summary to = {set->words[i], set->groups[i], block->n_pages};
        *n_new += summary_move_or_count(&to, words);
        if (!ok) {
            g_prefix_error(error, "RAM block %s: cannot collect its dirty log: ", block->name);
            return false;
        }
    }
    return true;
}

bool gw_memory_log_collect(struct gw_memory *memory, struct gw_page_set *set, uint64_t *n_new,
                           GError **error)
{
    uint64_t n = 0;
    bool ok = true;

    if (!gw_memory_is_logging(memory)) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_STATE, "the dirty log is not running");
        return false;
    }
    for (uint32_t i = 0; i < memory->blocks->len; i++) {
        struct gw_ram_block *block = gw_memory_block(memory, i);
        struct summary to = {set->words[i], set->groups[i], block->n_pages}, log = log_of(block);
        n += summary_take_or_count(&to, &log);
    }
    for (unsigned i = 0; i < memory->n_producers; i++) {
        const struct memory_producer *producer = &memory->producers[i];
        if (producer->ops.barrier) {
            producer->ops.barrier(producer->opaque);
        }
    }
    for (unsigned i = 0; i < memory->n_producers && ok; i++) {
        const struct memory_producer *producer = &memory->producers[i];
        if (producer->ops.collect) {
            ok = collect_producer(memory, producer, set, &n, error);
        }
    }
    set->n_set += n;
    if (n_new) {
        *n_new = n;
    }
    return ok;
}
