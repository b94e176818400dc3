/* SPDX-License-Identifier: MIT */
/* What a source in post-copy sends next in the background; see push.h. */
#include "migrate/push.h"

#include <pthread.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/summary.h"

/* Chunks ahead of a place for each one behind it. */
#define N_AHEAD     3u
/* A fault at most so many chunks from where a place is being sent moves that place. */
#define NEAR_CHUNKS 16u

#define CHUNKS_PER_GROUP (SUMMARY_GROUP_BITS / PUSH_CHUNK_PAGES)

_Static_assert(SUMMARY_GROUP_BITS % PUSH_CHUNK_PAGES == 0, "a chunk lies in one group");

/* Chunks [behind, ahead) of the block have been looked at. */
struct place {
    uint32_t block;
    uint64_t ahead, behind;
    uint32_t n_ahead; /* taken ahead since the last one behind */
};

struct push {
    const struct gw_memory *memory; /* fixed after construction */

    uint64_t n_left; /* atomic: written with lock held */

    /* guarded by lock */
    pthread_mutex_t lock;
    struct gw_page_set *left; /* n_set is not kept */
    struct gw_page_set *hot;  /* pages to prefer; what is not left does not count */
    uint32_t block;           /* where to go on without a place, chunk of it */
    uint64_t chunk;
    struct place places[PUSH_MAX_PLACES]; /* newest first */
    uint32_t n_places, turn;
};

/* A chunk that was found. */
struct find {
    uint32_t block;
    uint64_t chunk;
};

static struct summary map_of(const struct gw_page_set *set, uint32_t block)
{
    return (struct summary){set->words[block], set->groups[block],
                            gw_memory_block(set->memory, block)->n_pages};
}

static uint64_t *chunk_words(const struct gw_page_set *set, uint32_t block, uint64_t chunk)
{
    return set->words[block] + chunk * PUSH_WORDS;
}

/* Words of the chunk: fewer at the end of the block. */
static uint64_t n_chunk_words(const struct gw_page_set *set, uint32_t block, uint64_t chunk)
{
    uint64_t n_words = bitmap_n_words(gw_memory_block(set->memory, block)->n_pages);

    return MIN(n_words - chunk * PUSH_WORDS, PUSH_WORDS);
}

static bool has_pages(const struct gw_page_set *set, uint32_t block, uint64_t chunk)
{
    const uint64_t *words = chunk_words(set, block, chunk);
    uint64_t n_words = n_chunk_words(set, block, chunk), any = 0;

    for (uint64_t w = 0; w < n_words; w++)
        any |= words[w];
    return any != 0;
}

/* The first chunk at or after *chunk that has pages. */
static bool next_chunk(const struct gw_page_set *set, uint32_t block, uint64_t *chunk)
{
    const struct summary map = map_of(set, block);
    uint64_t page = *chunk * PUSH_CHUNK_PAGES;

    if (page >= map.n_bits)
        return false;
    page = summary_next_set(&map, page);
    *chunk = page / PUSH_CHUNK_PAGES;
    return page < map.n_bits;
}

/* The last chunk before *chunk that has pages. */
static bool previous_chunk(const struct gw_page_set *set, uint32_t block, uint64_t *chunk)
{
    const uint64_t *groups = set->groups[block];

    for (uint64_t c = *chunk; c > 0;) {
        uint64_t g = (c - 1) / CHUNKS_PER_GROUP;
        uint64_t below = groups[g / 64] & (~UINT64_C(0) >> (63 - g % 64));

        if (below == 0) {
            c = g / 64 * 64 * CHUNKS_PER_GROUP;
            continue;
        }
        g = g / 64 * 64 + 63 - (uint64_t)__builtin_clzll(below);
        for (c = MIN(c, (g + 1) * CHUNKS_PER_GROUP); c > g * CHUNKS_PER_GROUP; c--)
            if (has_pages(set, block, c - 1)) {
                *chunk = c - 1;
                return true;
            }
    }
    return false;
}

/* Takes the pages of `mask` out of the chunk; tells which of them were in. The group's mark goes
 * with its last page, so that nobody looks there again. */
static void take_out(struct gw_page_set *set, uint32_t block, uint64_t chunk, const uint64_t *mask,
                     uint64_t *taken)
{
    uint64_t *words = chunk_words(set, block, chunk);
    uint64_t n_words = n_chunk_words(set, block, chunk);
    uint64_t group = chunk / CHUNKS_PER_GROUP;
    uint64_t n_chunks = (bitmap_n_words(map_of(set, block).n_bits) + PUSH_WORDS - 1) / PUSH_WORDS;

    for (uint64_t w = 0; w < PUSH_WORDS; w++) {
        taken[w] = w < n_words ? words[w] & mask[w] : 0;
        if (taken[w])
            words[w] &= ~taken[w];
    }
    for (uint64_t c = group * CHUNKS_PER_GROUP; c < MIN((group + 1) * CHUNKS_PER_GROUP, n_chunks);
         c++)
        if (has_pages(set, block, c))
            return;
    if (bitmap_test(set->groups[block], group))
        bitmap_clear_range(set->groups[block], group, 1);
}

static uint32_t take_left(struct push *push, uint32_t block, uint64_t chunk, const uint64_t *mask,
                          uint64_t *taken)
{
    uint32_t n = 0;

    take_out(push->left, block, chunk, mask, taken);
    for (uint64_t w = 0; w < PUSH_WORDS; w++)
        n += (uint32_t)__builtin_popcountll(taken[w]);
    __atomic_fetch_sub(&push->n_left, n, __ATOMIC_RELAXED);
    return n;
}

/* ---- what comes next; all with lock held ---- */

static bool place_ahead(struct push *push, struct place *place, uint64_t *chunk)
{
    *chunk = place->ahead;
    if (!next_chunk(push->left, place->block, chunk)) {
        place->ahead = UINT64_MAX / PUSH_CHUNK_PAGES;
        return false;
    }
    place->ahead = *chunk + 1;
    place->n_ahead++;
    return true;
}

static bool place_behind(struct push *push, struct place *place, uint64_t *chunk)
{
    *chunk = place->behind;
    place->n_ahead = 0;
    if (!previous_chunk(push->left, place->block, chunk)) {
        place->behind = 0;
        return false;
    }
    place->behind = *chunk;
    return true;
}

static bool place_next(struct push *push, struct place *place, uint64_t *chunk)
{
    if (place->n_ahead >= N_AHEAD && place_behind(push, place, chunk))
        return true;
    return place_ahead(push, place, chunk) || place_behind(push, place, chunk);
}

static void place_remove(struct push *push, uint32_t index)
{
    push->n_places--;
    memmove(&push->places[index], &push->places[index + 1],
            (push->n_places - index) * sizeof *push->places);
}

static bool next_at_places(struct push *push, struct find *find)
{
    while (push->n_places > 0) {
        uint32_t index = push->turn % push->n_places;

        find->block = push->places[index].block;
        if (place_next(push, &push->places[index], &find->chunk)) {
            push->turn = index + 1;
            return true;
        }
        place_remove(push, index);
        push->turn = index;
    }
    return false;
}

/* The next chunk of the set at or behind the cursor; at the end it begins anew, once. */
static bool next_in_order(struct push *push, const struct gw_page_set *set, struct find *find)
{
    uint32_t n_blocks = gw_memory_n_blocks(push->memory);

    for (uint32_t i = 0; i <= n_blocks; i++) {
        find->block = (push->block + i) % n_blocks;
        find->chunk = i == 0 ? push->chunk : 0;
        if (next_chunk(set, find->block, &find->chunk)) {
            push->block = find->block;
            push->chunk = find->chunk;
            return true;
        }
    }
    return false;
}

/* Takes what is left of the next chunk with preferred pages: those only. */
static bool take_hot(struct push *push, struct find *find, uint64_t *words)
{
    static const uint64_t all[PUSH_WORDS] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    uint64_t mask[PUSH_WORDS];

    while (push->hot) {
        if (!next_in_order(push, push->hot, find)) {
            gw_page_set_free(push->hot);
            push->hot = NULL;
            push->block = 0;
            push->chunk = 0;
            break;
        }
        take_out(push->hot, find->block, find->chunk, all, mask);
        if (take_left(push, find->block, find->chunk, mask, words) > 0)
            return true;
    }
    return false;
}

/* ---- public ---- */

struct push *push_new(const struct gw_memory *memory)
{
    struct push *push = g_new0(struct push, 1);

    push->memory = memory;
    push->left = gw_page_set_new(memory);
    pthread_mutex_init(&push->lock, NULL);
    return push;
}

void push_free(struct push *push)
{
    if (!push)
        return;
    gw_page_set_free(push->hot);
    gw_page_set_free(push->left);
    pthread_mutex_destroy(&push->lock);
    g_free(push);
}

static void clear_set(struct gw_page_set *set)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(set->memory); i++) {
        const struct summary map = map_of(set, i);
        summary_clear(&map);
    }
    set->n_set = 0;
}

void push_begin(struct push *push, const struct gw_page_set *left)
{
    gw_lock_guard(&push->lock);

    clear_set(push->left);
    gw_page_set_or(push->left, left);
    __atomic_store_n(&push->n_left, push->left->n_set, __ATOMIC_RELAXED);
    gw_page_set_free(push->hot);
    push->hot = NULL;
    push->n_places = 0;
    push->turn = 0;
    push->block = 0;
    push->chunk = 0;
}

void push_prefer(struct push *push, const struct gw_page_set *hot)
{
    gw_lock_guard(&push->lock);

    if (!push->hot)
        push->hot = gw_page_set_new(push->memory);
    gw_page_set_or(push->hot, hot);
}

bool push_take(struct push *push, uint32_t *block, uint64_t *first_page, uint64_t *words)
{
    static const uint64_t all[PUSH_WORDS] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    struct find find = {0};
    gw_lock_guard(&push->lock);

    if (__atomic_load_n(&push->n_left, __ATOMIC_RELAXED) == 0)
        return false;
    if (next_at_places(push, &find))
        take_left(push, find.block, find.chunk, all, words);
    else if (!take_hot(push, &find, words)) {
        if (!next_in_order(push, push->left, &find))
            return false;
        take_left(push, find.block, find.chunk, all, words);
    }
    *block = find.block;
    *first_page = find.chunk * PUSH_CHUNK_PAGES;
    return true;
}

/* Cuts the pages to the block; false: nothing is left of them. */
static bool clip(const struct push *push, uint32_t block, uint64_t first_page, uint64_t *n_pages)
{
    const struct gw_ram_block *ram = gw_memory_block(push->memory, block);

    if (!ram || first_page >= ram->n_pages)
        return false;
    *n_pages = MIN(*n_pages, ram->n_pages - first_page);
    return *n_pages > 0;
}

void push_want(struct push *push, uint32_t block, uint64_t first_page, uint64_t n_pages)
{
    uint64_t chunk = first_page / PUSH_CHUNK_PAGES;
    uint32_t index = 0;
    gw_lock_guard(&push->lock);

    if (!clip(push, block, first_page, &n_pages))
        return;
    /* Who goes through memory faults again and again, a little ahead: that is one place. */
    for (; index < push->n_places; index++) {
        const struct place *place = &push->places[index];

        if (place->block == block && chunk + NEAR_CHUNKS >= place->ahead &&
            chunk <= place->ahead + NEAR_CHUNKS)
            break;
    }
    if (index == push->n_places && push->n_places < PUSH_MAX_PLACES)
        push->n_places++;
    index = MIN(index, PUSH_MAX_PLACES - 1);
    memmove(&push->places[1], &push->places[0], index * sizeof *push->places);
    push->places[0] = (struct place){.block = block, .ahead = chunk, .behind = chunk};
    push->turn = 0;
}

uint32_t push_take_run(struct push *push, uint32_t block, uint64_t first_page, uint32_t n_pages,
                       uint64_t *words)
{
    uint64_t n = MIN(n_pages, PUSH_CHUNK_PAGES), end;
    uint32_t n_taken = 0;

    memset(words, 0, PUSH_WORDS * sizeof *words);
    if (!clip(push, block, first_page, &n))
        return 0;
    end = first_page + n;
    gw_lock_guard(&push->lock);
    for (uint64_t c = first_page / PUSH_CHUNK_PAGES; c * PUSH_CHUNK_PAGES < end; c++) {
        uint64_t mask[PUSH_WORDS] = {0}, taken[PUSH_WORDS];
        uint64_t base = c * PUSH_CHUNK_PAGES;
        uint64_t from = MAX(first_page, base), to = MIN(end, base + PUSH_CHUNK_PAGES);

        bitmap_set_range(mask, from - base, to - from);
        n_taken += take_left(push, block, c, mask, taken);
        for (uint64_t w = 0; w < PUSH_WORDS; w++)
            for (uint64_t bits = taken[w]; bits; bits &= bits - 1) {
                uint64_t page = base + w * 64 + (uint64_t)__builtin_ctzll(bits);
                bitmap_set_range(words, page - first_page, 1);
            }
    }
    return n_taken;
}

void push_put_back(struct push *push, uint32_t block, uint64_t first_page, const uint64_t *words)
{
    uint64_t n = PUSH_CHUNK_PAGES, first = 0, n_run, n_new = 0;

    if (!clip(push, block, first_page, &n))
        return;
    gw_lock_guard(&push->lock);
    const struct summary map = map_of(push->left, block);
    for (; bitmap_next_run(words, n, &first, &n_run, n); first += n_run)
        n_new += summary_set_range(&map, first_page + first, n_run);
    __atomic_fetch_add(&push->n_left, n_new, __ATOMIC_RELAXED);
    if (n_new > 0 && !push->hot) {
        push->block = block;
        push->chunk = first_page / PUSH_CHUNK_PAGES;
    }
}

uint64_t push_n_left(struct push *push)
{
    return __atomic_load_n(&push->n_left, __ATOMIC_RELAXED);
}
