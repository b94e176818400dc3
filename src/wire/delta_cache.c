/* SPDX-License-Identifier: MIT */
/* The content that the destination was last sent of some pages: a direct-mapped table. */
#include "wire/delta_cache.h"

#include <glib.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "wire/wire.h"

struct slot {
    uint64_t name;  /* block << 56 | page + 1; 0: empty. Pages of a block have 32 bits */
    uint32_t round; /* the last in which it was asked for */
};

struct delta_cache {
    /* fixed after construction */
    uint64_t max_bytes;
    uint64_t n_slots;
    size_t map_bytes;

    /* guarded by lock */
    pthread_mutex_t lock;
    struct slot *slots;
    uint8_t *contents;
    bool is_empty;
};

struct delta_cache *delta_cache_new(uint64_t max_bytes)
{
    uint64_t n_slots = max_bytes / (WIRE_PAGE_BYTES + sizeof(struct slot));

    if (n_slots == 0 || max_bytes > SIZE_MAX / 2) {
        return NULL;
    }
    size_t map_bytes = n_slots * (WIRE_PAGE_BYTES + sizeof(struct slot));
    uint8_t *at = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        return NULL;
    }
    struct delta_cache *cache = g_new0(struct delta_cache, 1);
    *cache = (struct delta_cache){.max_bytes = max_bytes,
                                  .n_slots = n_slots,
                                  .map_bytes = map_bytes,
                                  .contents = at,
                                  .slots = (struct slot *)(at + n_slots * WIRE_PAGE_BYTES),
                                  .is_empty = true};
    pthread_mutex_init(&cache->lock, NULL);
    return cache;
}

void delta_cache_free(struct delta_cache *cache)
{
    if (!cache) {
        return;
    }
    munmap(cache->contents, cache->map_bytes);
    pthread_mutex_destroy(&cache->lock);
    g_free(cache);
}

void delta_cache_lock(struct delta_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
}

void delta_cache_unlock(struct delta_cache *cache)
{
    pthread_mutex_unlock(&cache->lock);
}

static uint64_t name_of(uint32_t block, uint64_t page)
{
    return (uint64_t)block << 56 | (page + 1);
}

/* Neighbours get neighbouring slots, blocks different ones. */
static uint64_t index_of(const struct delta_cache *cache, uint32_t block, uint64_t page)
{
    return (page + block * UINT64_C(0x9E3779B1)) % cache->n_slots;
}

uint8_t *delta_cache_slot_locked(struct delta_cache *cache, uint32_t block, uint64_t page,
                                 uint32_t round, bool *is_known)
{
    uint64_t index = index_of(cache, block, page);
    struct slot *slot = &cache->slots[index];

    *is_known = slot->name == name_of(block, page);
    if (!*is_known && slot->name != 0 && round - slot->round <= 1) {
        return NULL;
    }
    slot->name = name_of(block, page);
    slot->round = round;
    cache->is_empty = false;
    return cache->contents + index * WIRE_PAGE_BYTES;
}

void delta_cache_forget_locked(struct delta_cache *cache, uint32_t block, uint64_t first,
                               uint64_t n_pages)
{
    for (uint64_t page = first; page < first + n_pages && !cache->is_empty; page++) {
        struct slot *slot = &cache->slots[index_of(cache, block, page)];
        if (slot->name == name_of(block, page)) {
            slot->name = 0;
        }
    }
}

void delta_cache_clear(struct delta_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    if (!cache->is_empty) {
        memset(cache->slots, 0, cache->n_slots * sizeof(struct slot));
        cache->is_empty = true;
    }
    pthread_mutex_unlock(&cache->lock);
}

uint64_t delta_cache_max_bytes(const struct delta_cache *cache)
{
    return cache->max_bytes;
}
