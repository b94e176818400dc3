/* SPDX-License-Identifier: MIT */
/*
 * Trackers: the face of write tracking towards the memory's dirty log, and the choice of a way.
 *
 * Not here: how writes are found (tracker_async.c, tracker_sync.c).
 */
#include "memory/tracker.h"

#include <unistd.h>

#include "base/bitmap.h"
#include "base/cleanup.h"
#include "memory/memory_internal.h"

/* In the order in which AUTO tries them. */
static const struct tracker_way *const ways[] = {&tracker_async, &tracker_sync};

const char *gw_tracker_mode_name(enum gw_tracker_mode mode)
{
    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        if (ways[i]->mode == mode) {
            return ways[i]->name;
        }
    }
    return "auto";
}

bool tracker_register(struct gw_tracker *tracker, int flags, uint64_t features, uint64_t mode,
                      GError **error)
{
    gw_autofd int uffd = uffd_open(flags, features, UFFD_FEATURE_WP_HUGETLBFS_SHMEM, error);

    if (uffd < 0) {
        return false;
    }
    for (guint i = 0; i < tracker->blocks->len; i++) {
        const struct gw_ram_block *block =
            g_array_index(tracker->blocks, struct tracked_block, i).block;
        int rc = uffd_register(uffd, block->host, block->size_bytes, mode);
        if (rc) {
            g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                        "RAM block %s: the kernel cannot track writes to its mapping: %s",
                        block->name, g_strerror(rc));
            return false;
        }
    }
    tracker->uffd = gw_steal_fd(&uffd);
    return true;
}

/* Other producers and devices see has_touched only set when the snapshot is whole. */
static void forget_touched(struct gw_tracker *tracker)
{
    for (guint i = 0; i < tracker->blocks->len; i++) {
        struct tracked_block *tracked = &g_array_index(tracker->blocks, struct tracked_block, i);
        struct memory_block *block = memory_block_of(tracked->block);
        __atomic_store_n(&block->has_touched, false, __ATOMIC_RELEASE);
    }
}

static bool start(void *opaque, GError **error)
{
    struct gw_tracker *tracker = opaque;

    for (guint i = 0; i < tracker->blocks->len; i++) {
        struct memory_block *block =
            memory_block_of(g_array_index(tracker->blocks, struct tracked_block, i).block);
        memory_lazy_words_free(block->touched, block->pub.n_pages);
        block->touched = memory_lazy_words_new(block->pub.n_pages);
        if (!block->touched) {
            g_set_error(error, GW_ERROR, GW_ERROR_IO, "RAM block %s: no memory to track its writes",
                        block->pub.name);
            return false;
        }
    }
    if (!tracker->way->start(tracker, error)) {
        g_prefix_error(error, "tracking writes (%s): ", tracker->way->name);
        return false;
    }
    for (guint i = 0; i < tracker->blocks->len; i++) {
        struct memory_block *block =
            memory_block_of(g_array_index(tracker->blocks, struct tracked_block, i).block);
        __atomic_store_n(&block->has_touched, block->is_private, __ATOMIC_RELEASE);
    }
    tracker->is_started = true;
    return true;
}

static void stop(void *opaque)
{
    struct gw_tracker *tracker = opaque;

    if (tracker->is_started) {
        tracker->way->stop(tracker);
        tracker->is_started = false;
        forget_touched(tracker);
    }
}

static bool collect(void *opaque, struct gw_ram_block *block, uint64_t *words, GError **error)
{
    struct gw_tracker *tracker = opaque;

    for (guint i = 0; i < tracker->blocks->len; i++) {
        struct tracked_block *tracked = &g_array_index(tracker->blocks, struct tracked_block, i);
        if (tracked->block == block) {
            return tracker->way->collect(tracker, tracked, words, error);
        }
    }
    return true;
}

/* The first way that works and that the mode allows; all reasons when there is none. */
static const struct tracker_way *choose_way(enum gw_tracker_mode mode, GError **error)
{
    g_autoptr(GString) reasons = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        g_autoptr(GError) why = NULL;
        if (mode != GW_TRACKER_AUTO && mode != ways[i]->mode) {
            continue;
        }
        if (ways[i]->probe(&why)) {
            return ways[i];
        }
        g_string_append_printf(reasons, "%s%s: %s", reasons->len ? "; " : "", ways[i]->name,
                               why->message);
    }
    g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "writes cannot be tracked here: %s",
                reasons->len ? reasons->str : "no such mode");
    return NULL;
}

struct gw_tracker *gw_tracker_new(struct gw_memory *memory, enum gw_tracker_mode mode,
                                  GError **error)
{
    static const struct gw_dirty_producer producer = {
        .start = start, .stop = stop, .collect = collect};

    if (gw_memory_is_logging(memory)) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_STATE, "a dirty log runs already");
        return NULL;
    }
    const struct tracker_way *way = choose_way(mode, error);
    if (!way) {
        return NULL;
    }
    struct gw_tracker *tracker = g_new0(struct gw_tracker, 1);
    tracker->memory = memory;
    tracker->way = way;
    tracker->uffd = tracker->pagemap = tracker->wake_fd = -1;
    tracker->blocks = g_array_new(FALSE, TRUE, sizeof(struct tracked_block));
    pthread_mutex_init(&tracker->lock, NULL);
    gw_memory_add_dirty_producer(memory, &producer, tracker);
    return tracker;
}

bool gw_tracker_add(struct gw_tracker *tracker, struct gw_ram_block *block, GError **error)
{
    struct tracked_block tracked = {.block = block};

    g_return_val_if_fail(block->memory == tracker->memory, false);
    if (gw_memory_is_logging(tracker->memory)) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_STATE, "a dirty log runs already");
        return false;
    }
    for (guint i = 0; i < tracker->blocks->len; i++) {
        if (g_array_index(tracker->blocks, struct tracked_block, i).block == block) {
            g_set_error(error, GW_ERROR, GW_ERROR_STATE, "RAM block %s is tracked already",
                        block->name);
            return false;
        }
    }
    g_array_append_val(tracker->blocks, tracked);
    return true;
}

enum gw_tracker_mode gw_tracker_mode_of(const struct gw_tracker *tracker)
{
    return tracker->way->mode;
}

void gw_tracker_free(struct gw_tracker *tracker)
{
    if (!tracker) {
        return;
    }
    stop(tracker);
    for (unsigned i = 0; i < tracker->memory->n_producers; i++) {
        struct memory_producer *producer = &tracker->memory->producers[i];
        if (producer->opaque == tracker) {
            *producer = (struct memory_producer){0};
        }
    }
    pthread_mutex_destroy(&tracker->lock);
    g_array_free(tracker->blocks, TRUE);
    g_free(tracker);
}
