/* SPDX-License-Identifier: MIT */
/* The sending lanes of a source: one thread for each channel that carries pages. */
#include "migrate/lanes.h"

#include "base/summary.h"
#include "migrate/push.h"
#include "wire/pages.h"

#define CHUNK_PAGES UINT64_C(256)

/* What the lanes of a round share. */
struct round_work {
    const struct gw_memory *memory;
    const struct gw_page_set *set; /* of a round */
    struct push *push;             /* NULL: a round; else the pages after COMMIT */
    struct wire_round_begin begin;
    uint64_t n_chunks;
    uint64_t next_chunk; /* atomic: the cursor over the chunks of all blocks */
    uint64_t pages_plain, pages_zero, round_pages, cpu_ns; /* atomic, relaxed: counters */
};

struct lane {
    struct lanes *lanes;
    struct wire_stream *stream;
    uint32_t channel;
    uint32_t index;
    uint32_t max_packet_pages;
    pthread_t thread;
    struct wire_pages_out *packet;
    struct encoding_lane *encoding;
};

struct lanes {
    /* fixed after construction */
    struct encoding *encoding; /* borrowed */
    const struct lanes_ops *ops;
    void *opaque;
    struct round_work work; /* set and begin: written while no lane is in a round */

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t n_started; /* rounds */
    uint32_t n_busy;    /* lanes in a round */
    bool is_stopping;

    uint32_t n_active; /* atomic; written with lock held, for who waits for it to grow */

    GPtrArray *lanes; /* struct lane; control thread */
};

static uint64_t count_chunks(const struct gw_memory *memory)
{
    uint64_t n_chunks = 0;

    for (uint32_t i = 0; i < gw_memory_n_blocks(memory); i++)
        n_chunks += (gw_memory_block(memory, i)->n_pages + CHUNK_PAGES - 1) / CHUNK_PAGES;
    return n_chunks;
}

/* Finds the block and first page of a chunk number; false behind the last. */
static bool chunk_place(const struct gw_memory *memory, uint64_t chunk, uint32_t *block,
                        uint64_t *first)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(memory); i++) {
        uint64_t n_chunks = (gw_memory_block(memory, i)->n_pages + CHUNK_PAGES - 1) / CHUNK_PAGES;

        if (chunk < n_chunks) {
            *block = i;
            *first = chunk * CHUNK_PAGES;
            return true;
        }
        chunk -= n_chunks;
    }
    return false;
}

/* Whether a chunk of the block may hold a page of the round. If not, every lane goes on behind the
 * empty ones: a round costs by what is in it. The set does not change meanwhile. */
static bool has_pages(struct round_work *work, uint32_t index, uint64_t first, uint64_t chunk)
{
    const struct summary map = {work->set->words[index], work->set->groups[index],
                                gw_memory_block(work->memory, index)->n_pages};
    uint64_t next = summary_next_set(&map, first);
    uint64_t target = chunk + (next - first) / CHUNK_PAGES;
    uint64_t cursor = __atomic_load_n(&work->next_chunk, __ATOMIC_RELAXED);

    if (next < first + CHUNK_PAGES && next < map.n_bits)
        return true;
    while (cursor < target && !__atomic_compare_exchange_n(&work->next_chunk, &cursor, target, true,
                                                           __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        continue;
    return false;
}

static bool is_void(const struct round_work *work)
{
    return work->begin.flags & WIRE_ROUND_VOID;
}

/* One lane's part of a round. */
struct part {
    struct round_work *work;
    struct lane *lane;
    struct wire_stream *stream;
    struct wire_pages_out *packet;
    struct encoding_lane *encoding;
    uint32_t max_packet_pages;
    uint64_t cpu_ns; /* of this thread, as far as it is booked */
    uint32_t block;  /* of the packet */
    bool has_packet;
    struct wire_round_end end;
};

static bool part_flush(struct part *part, GError **error)
{
    uint32_t n_pages = part->has_packet ? wire_pages_count(part->packet) : 0;
    uint32_t n_zero = part->has_packet ? wire_pages_zero_count(part->packet) : 0;
    uint64_t n_bytes;

    part->has_packet = false;
    if (n_pages == 0)
        return true;
    encoding_lane_pack(part->encoding, part->packet);
    n_bytes = wire_pages_record_bytes(part->packet);
    if (!wire_pages_send(part->packet, part->stream, GW_NO_DEADLINE, error))
        return false;
    encoding_lane_sent(part->encoding, n_bytes);
    part->end.n_pages += n_pages;
    part->end.n_packets++;
    part->end.n_bytes += n_bytes;
    if (!is_void(part->work)) {
        __atomic_fetch_add(&part->work->pages_zero, n_zero, __ATOMIC_RELAXED);
        __atomic_fetch_add(&part->work->pages_plain, n_pages - n_zero, __ATOMIC_RELAXED);
    }
    __atomic_fetch_add(&part->work->round_pages, n_pages, __ATOMIC_RELAXED);
    engine_book_cpu(&part->cpu_ns, &part->work->cpu_ns);
    return true;
}

static bool packet_add(struct wire_pages_out *packet, const struct gw_ram_block *block,
                       uint64_t page, bool is_touched)
{
    return is_touched ? wire_pages_add(packet, page, block->host + page * GW_PAGE_SIZE)
                      : wire_pages_add_zero(packet, page);
}

static bool part_add(struct part *part, const struct gw_ram_block *block, uint64_t page,
                     bool is_touched, GError **error)
{

    if (part->has_packet &&
        (part->block != block->index || wire_pages_count(part->packet) >= part->max_packet_pages) &&
        !part_flush(part, error))
        return false;
    if (part->has_packet && packet_add(part->packet, block, page, is_touched))
        return true;
    if (!part_flush(part, error))
        return false;
    wire_pages_begin(part->packet, part->work->begin.round, block->index);
    encoding_lane_begin(part->encoding, part->packet);
    part->block = block->index;
    part->has_packet = true;
    return packet_add(part->packet, block, page, is_touched);
}

/* words: bit i for page first + i. */
static bool part_send_chunk(struct part *part, uint32_t index, uint64_t first,
                            const uint64_t *words, GError **error)
{
    const struct gw_ram_block *block = gw_memory_block(part->work->memory, index);
    uint64_t end = MIN(first + CHUNK_PAGES, block->n_pages);

    for (uint64_t w = 0; first + w * 64 < end; w++) {
        uint64_t at = first + w * 64;

        if (!words[w])
            continue;
        /* Holes are sent as zeroes unread. One that is filled from now on marks itself dirty. */
        uint64_t touched = is_void(part->work)
                               ? 0
                               : gw_memory_touched_mask(block, at, (uint32_t)MIN(64, end - at));

        for (uint64_t bits = words[w]; bits; bits &= bits - 1) {
            unsigned bit = (unsigned)__builtin_ctzll(bits);

            if (!part_add(part, block, at + bit, touched >> bit & 1, error))
                return false;
        }
    }
    return true;
}

static bool is_all_taken(struct round_work *work)
{
    return __atomic_load_n(&work->next_chunk, __ATOMIC_RELAXED) >= work->n_chunks;
}

/* A lane that is not to take chunks now waits until it is, or none is left. What it has collected
 * goes out before. */
static bool part_await_turn(struct part *part, GError **error)
{
    struct lane *lane = part->lane;
    struct lanes *lanes = lane->lanes;

    if (lane->index < __atomic_load_n(&lanes->n_active, __ATOMIC_RELAXED))
        return true;
    if (!part_flush(part, error))
        return false;
    pthread_mutex_lock(&lanes->lock);
    while (lane->index >= lanes->n_active && !is_all_taken(part->work) && !lanes->is_stopping)
        pthread_cond_wait(&lanes->changed, &lanes->lock);
    pthread_mutex_unlock(&lanes->lock);
    return true;
}

/* No chunk is left: who waits for a turn need not. */
static void part_tell_waiting(struct part *part)
{
    struct lanes *lanes = part->lane->lanes;

    pthread_mutex_lock(&lanes->lock);
    pthread_cond_broadcast(&lanes->changed);
    pthread_mutex_unlock(&lanes->lock);
}

/* The next chunk of the round for this part; false: none is left, or *is_ok is false. */
static bool part_take(struct part *part, uint32_t *block, uint64_t *first, uint64_t *chunk,
                      bool *is_ok, GError **error)
{
    *is_ok = part_await_turn(part, error);
    if (!*is_ok)
        return false;
    /* ORDER: pairs with lanes_drop_coming. */
    *chunk = __atomic_fetch_add(&part->work->next_chunk, 1, __ATOMIC_ACQUIRE);
    return chunk_place(part->work->memory, *chunk, block, first);
}

static bool part_send_round(struct part *part, GError **error)
{
    uint32_t block;
    uint64_t first, chunk;
    bool is_ok;

    while (part_take(part, &block, &first, &chunk, &is_ok, error))
        if (has_pages(part->work, block, first, chunk) &&
            !part_send_chunk(part, block, first, part->work->set->words[block] + first / 64, error))
            return false;
    part_tell_waiting(part);
    return is_ok;
}

/* Each chunk goes out at once: somebody may need the next one more. No round comes after it. */
static bool part_push(struct part *part, GError **error)
{
    uint64_t first, words[PUSH_WORDS];
    uint32_t block;

    engine_go_behind();
    while (!is_all_taken(part->work) && push_take(part->work->push, &block, &first, words))
        if (!part_send_chunk(part, block, first, words, error) || !part_flush(part, error))
            return false;
    return true;
}

static bool part_send(struct part *part, GError **error)
{
    if (!wire_send(part->stream, WIRE_ROUND_BEGIN, &part->work->begin, GW_NO_DEADLINE, error))
        return false;
    part->end.round = part->work->begin.round;
    if (!(part->work->push ? part_push(part, error) : part_send_round(part, error)) ||
        !part_flush(part, error))
        return false;
    return wire_send(part->stream, WIRE_ROUND_END, &part->end, GW_NO_DEADLINE, error);
}

static void *lane_main(void *opaque)
{
    struct lane *lane = opaque;
    struct lanes *lanes = lane->lanes;

    for (uint64_t n_done = 0;; n_done++) {
        g_autoptr(GError) error = NULL;
        struct part part = {.work = &lanes->work,
                            .lane = lane,
                            .stream = lane->stream,
                            .packet = lane->packet,
                            .encoding = lane->encoding,
                            .max_packet_pages = lane->max_packet_pages};
        bool is_stopping, is_sent;

        pthread_mutex_lock(&lanes->lock);
        while (lanes->n_started == n_done && !lanes->is_stopping)
            pthread_cond_wait(&lanes->changed, &lanes->lock);
        is_stopping = lanes->is_stopping;
        pthread_mutex_unlock(&lanes->lock);
        if (is_stopping)
            break;
        part.cpu_ns = clock_thread_cpu_ns();
        is_sent = part_send(&part, &error);
        pthread_mutex_lock(&lanes->lock);
        lanes->n_busy--;
        pthread_cond_broadcast(&lanes->changed);
        pthread_mutex_unlock(&lanes->lock);
        if (!is_sent) {
            lanes->ops->on_failed(lanes->opaque, lane->channel, error);
            break;
        }
        lanes->ops->on_sent(lanes->opaque, lane->channel, part.end.round, &part.end);
    }
    return NULL;
}

struct lanes *lanes_new(const struct gw_memory *memory, struct encoding *encoding,
                        const struct lanes_ops *ops, void *opaque)
{
    struct lanes *lanes = g_new0(struct lanes, 1);

    lanes->encoding = encoding;
    lanes->ops = ops;
    lanes->opaque = opaque;
    lanes->work.memory = memory;
    lanes->work.n_chunks = count_chunks(memory);
    lanes->lanes = g_ptr_array_new();
    pthread_mutex_init(&lanes->lock, NULL);
    cond_init_mono(&lanes->changed);
    return lanes;
}

void lanes_add(struct lanes *lanes, struct wire_stream *stream, uint32_t channel,
               uint32_t max_packet_pages)
{
    struct lane *lane = g_new0(struct lane, 1);

    lane->lanes = lanes;
    lane->stream = stream;
    lane->channel = channel;
    lane->index = lanes->lanes->len;
    lane->max_packet_pages = max_packet_pages;
    lane->packet = wire_pages_out_new();
    lane->encoding = encoding_lane_new(lanes->encoding);
    g_ptr_array_add(lanes->lanes, lane);
    engine_thread_start(&lane->thread, "gw-lane", lane_main, lane);
}

uint32_t lanes_n(const struct lanes *lanes)
{
    return lanes->lanes->len;
}

static void start(struct lanes *lanes, const struct wire_round_begin *begin,
                  const struct gw_page_set *set, struct push *push)
{
    pthread_mutex_lock(&lanes->lock);
    lanes->work.begin = *begin;
    lanes->work.set = set;
    lanes->work.push = push;
    __atomic_store_n(&lanes->work.next_chunk, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&lanes->work.round_pages, 0, __ATOMIC_RELAXED);
    lanes->n_started++;
    lanes->n_busy = lanes->lanes->len;
    __atomic_store_n(&lanes->n_active, lanes->lanes->len, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&lanes->changed);
    pthread_mutex_unlock(&lanes->lock);
}

void lanes_start_round(struct lanes *lanes, const struct wire_round_begin *begin,
                       const struct gw_page_set *set)
{
    encoding_begin_round(lanes->encoding, begin->round);
    start(lanes, begin, set, NULL);
}

void lanes_start_push(struct lanes *lanes, const struct wire_round_begin *begin, struct push *push)
{
    encoding_begin_push(lanes->encoding, begin->round);
    start(lanes, begin, NULL, push);
}

void lanes_set_active(struct lanes *lanes, uint32_t n_active)
{
    if (n_active == __atomic_load_n(&lanes->n_active, __ATOMIC_RELAXED))
        return;
    pthread_mutex_lock(&lanes->lock);
    __atomic_store_n(&lanes->n_active, n_active, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&lanes->changed);
    pthread_mutex_unlock(&lanes->lock);
}

/* Takes the members of other out of set, from a page on that begins a word. */
static void subtract_from(struct gw_page_set *set, const struct gw_page_set *other, uint32_t block,
                          uint64_t first)
{
    const struct summary map = {set->words[block], set->groups[block],
                                gw_memory_block(set->memory, block)->n_pages};

    for (uint64_t page = summary_next_set(&map, first); page < map.n_bits;
         page = summary_next_set(&map, (page / 64 + 1) * 64)) {
        uint64_t both = set->words[block][page / 64] & other->words[block][page / 64];

        set->words[block][page / 64] &= ~both;
        set->n_set -= (uint64_t)__builtin_popcountll(both);
    }
}

void lanes_drop_coming(struct lanes *lanes, struct gw_page_set *pages)
{
    struct round_work *work = &lanes->work;
    /* ORDER: what was written to memory before we are called is read by whoever takes a chunk after
     * this: its fetch_add, an acquire, reads from this release or from one behind it. */
    uint64_t chunk = __atomic_fetch_add(&work->next_chunk, 0, __ATOMIC_RELEASE);

    for (uint32_t i = 0; work->set && i < gw_memory_n_blocks(work->memory); i++) {
        uint64_t n_pages = gw_memory_block(work->memory, i)->n_pages;
        uint64_t n_chunks = (n_pages + CHUNK_PAGES - 1) / CHUNK_PAGES, taken = MIN(chunk, n_chunks);

        subtract_from(pages, work->set, i, MIN(taken * CHUNK_PAGES, n_pages));
        chunk -= taken;
    }
}

/* Lets no lane take a chunk any more. Returns how many were taken, or passed over as empty. */
static uint64_t stop_taking(struct lanes *lanes)
{
    uint64_t n_taken;

    pthread_mutex_lock(&lanes->lock);
    /* Half of the range: far behind every chunk, and no fetch_add wraps it. */
    n_taken = __atomic_exchange_n(&lanes->work.next_chunk, UINT64_MAX / 2, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&lanes->changed);
    pthread_mutex_unlock(&lanes->lock);
    return n_taken;
}

void lanes_abandon_round(struct lanes *lanes)
{
    stop_taking(lanes);
}

void lanes_cut_round(struct lanes *lanes, struct gw_page_set *pages)
{
    struct round_work *work = &lanes->work;
    uint64_t n_taken = stop_taking(lanes);

    for (uint32_t i = 0; i < gw_memory_n_blocks(work->memory); i++) {
        uint64_t n_pages = gw_memory_block(work->memory, i)->n_pages, n;
        uint64_t n_chunks = (n_pages + CHUNK_PAGES - 1) / CHUNK_PAGES;
        uint64_t page = MIN(MIN(n_taken, n_chunks) * CHUNK_PAGES, n_pages);

        for (; gw_page_set_next_run(work->set, i, &page, &n, UINT64_MAX); page += n)
            gw_page_set_add(pages, i, page, n);
        n_taken -= MIN(n_taken, n_chunks);
    }
}

bool lanes_wait_idle(struct lanes *lanes, uint64_t deadline_ns)
{
    bool is_in_time = true;
    bool is_idle;

    pthread_mutex_lock(&lanes->lock);
    while (lanes->n_busy > 0 && is_in_time)
        is_in_time = cond_wait_until(&lanes->changed, &lanes->lock, deadline_ns);
    is_idle = lanes->n_busy == 0;
    pthread_mutex_unlock(&lanes->lock);
    return is_idle;
}

void lanes_get_counters(struct lanes *lanes, struct lanes_counters *counters)
{
    counters->pages_plain = __atomic_load_n(&lanes->work.pages_plain, __ATOMIC_RELAXED);
    counters->pages_zero = __atomic_load_n(&lanes->work.pages_zero, __ATOMIC_RELAXED);
    counters->round_pages = __atomic_load_n(&lanes->work.round_pages, __ATOMIC_RELAXED);
    counters->cpu_ns = __atomic_load_n(&lanes->work.cpu_ns, __ATOMIC_RELAXED);
}

void lanes_free(struct lanes *lanes)
{
    if (!lanes)
        return;
    pthread_mutex_lock(&lanes->lock);
    lanes->is_stopping = true;
    pthread_cond_broadcast(&lanes->changed);
    pthread_mutex_unlock(&lanes->lock);
    lanes_abandon_round(lanes);
    for (guint i = 0; i < lanes->lanes->len; i++) {
        struct lane *lane = g_ptr_array_index(lanes->lanes, i);

        gw_channel_wake(wire_stream_channel(lane->stream));
        pthread_join(lane->thread, NULL);
        wire_pages_out_free(lane->packet);
        encoding_lane_free(lane->encoding);
        g_free(lane);
    }
    g_ptr_array_unref(lanes->lanes);
    pthread_cond_destroy(&lanes->changed);
    pthread_mutex_destroy(&lanes->lock);
    g_free(lanes);
}
