/* SPDX-License-Identifier: MIT */
/* Rounds of any set of pages over several lanes: every page of the set is sent once, and no other.
 */
#include "../wire/fixture.h"

#include "base/summary.h"
#include "migrate/lanes.h"
#include "wire/pages.h"

enum { N_LANES = 3, N_BLOCKS = 3, N_ROUNDS = 120, HELD_PAGES = 2000, SENT_PAGES = 20000 };

/* One ends within a chunk of 256 pages and within a word, one has many empty chunks. */
static const uint64_t block_sizes[N_BLOCKS] = {1000, 256, 70001};

struct reader {
    pthread_t thread;
    struct fixture_ends ends;
    struct sight *sight;
    struct wire_pages_in packet;
    char *complaint;
};

/* What the lanes of a round have sent; guarded by lock. */
struct sight {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct gw_page_set *seen;
    uint64_t n_twice;
    unsigned n_ended;        /* lanes whose ROUND_END came, over all rounds */
    bool is_held;            /* readers stop reading when they have seen HELD_PAGES */
    struct gw_page_set *old; /* NULL, or the pages that came with another digest than new_digest */
    uint64_t new_digest;
    struct reader readers[N_LANES];
};

static uint64_t block_pages(void *opaque, uint32_t block)
{
    return block < N_BLOCKS ? block_sizes[block] : 0;
}

/* Keeps the pages that went out with their old content. */
static void look_at_digests(struct sight *sight, const struct wire_pages_in *packet)
{
    uint32_t at = 0;

    for (uint32_t i = 0; sight->old && i < packet->n_runs; i++)
        for (uint32_t j = 0; j < packet->runs[i].n_pages; j++)
            if (packet->digests[at++] != sight->new_digest)
                gw_page_set_add(sight->old, packet->block, packet->runs[i].first_page + j, 1);
}

static bool take_record(struct reader *reader, struct wire_record *record, GError **error)
{
    struct sight *sight = reader->sight;

    if (record->type->type == WIRE_PAGES) {
        if (!wire_pages_parse(record, &reader->packet, block_pages, NULL, 0, error))
            return false;
        pthread_mutex_lock(&sight->lock);
        for (uint32_t i = 0; i < reader->packet.n_runs; i++) {
            const struct wire_page_run *run = &reader->packet.runs[i];
            uint64_t n_before = sight->seen->n_set;
            gw_page_set_add(sight->seen, reader->packet.block, run->first_page, run->n_pages);
            sight->n_twice += run->n_pages - (sight->seen->n_set - n_before);
        }
        look_at_digests(sight, &reader->packet);
        pthread_cond_broadcast(&sight->changed);
        while (sight->is_held && sight->seen->n_set >= HELD_PAGES)
            pthread_cond_wait(&sight->changed, &sight->lock);
        pthread_mutex_unlock(&sight->lock);
    } else if (record->type->type == WIRE_ROUND_END) {
        pthread_mutex_lock(&sight->lock);
        sight->n_ended++;
        pthread_cond_broadcast(&sight->changed);
        pthread_mutex_unlock(&sight->lock);
    }
    return true;
}

static void *reader_main(void *opaque)
{
    struct reader *reader = opaque;
    struct wire_record record;
    g_autoptr(GError) error = NULL;

    while (wire_receive(reader->ends.destination, &record, NEVER, &error))
        if (!take_record(reader, &record, &error)) {
            reader->complaint = g_strdup(error->message);
            break;
        }
    return NULL;
}

static void on_sent(void *opaque, uint32_t channel, uint32_t round,
                    const struct wire_round_end *end)
{
}

static void on_failed(void *opaque, uint32_t channel, const GError *error)
{
    g_error("lane %u: %s", channel, error->message);
}

static void fill_set(struct gw_page_set *set, GRand *random, unsigned round)
{
    gw_page_set_clear(set);
    if (round == 0)
        return; /* empty */
    if (round == 1) {
        gw_page_set_fill(set);
        return;
    }
    for (unsigned i = round % 12; i > 0; i--) {
        uint32_t block = (uint32_t)g_rand_int_range(random, 0, N_BLOCKS);
        uint64_t n = (uint64_t)g_rand_int_range(random, 1, round % 3 ? 3 : 900);
        /* often at the very ends */
        uint64_t first = round % 4 == 0 ? 0
                         : round % 4 == 1
                             ? block_sizes[block] - 1
                             : (uint64_t)g_rand_int_range(random, 0, (gint32)block_sizes[block]);
        gw_page_set_add(set, block, first, n);
    }
    gw_page_set_remove(set, 2, 300, 400); /* groups that are named and empty */
}

/* Lanes over channels whose other ends are looked at. */
struct rig {
    struct gw_memory *memory;
    struct encoding *encoding;
    struct lanes *lanes;
    struct gw_page_set *set;
    struct sight sight;
};

static void rig_init(struct rig *rig)
{
    static const struct lanes_ops ops = {on_sent, on_failed};
    const struct encoding_params params = {.zstd = ENCODE_OFF, .delta = ENCODE_OFF};

    *rig = (struct rig){.memory = gw_memory_new(),
                        .encoding = encoding_new(&params, N_LANES),
                        .sight = {.lock = PTHREAD_MUTEX_INITIALIZER}};
    rig->lanes = lanes_new(rig->memory, rig->encoding, &ops, NULL);
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        g_autofree char *name = g_strdup_printf("block%u", i);
        assert_non_null(gw_memory_add_block(rig->memory, name, (uint64_t)i << 32,
                                            block_sizes[i] * GW_PAGE_SIZE, NULL));
    }
    pthread_cond_init(&rig->sight.changed, NULL);
    rig->sight.seen = gw_page_set_new(rig->memory);
    rig->set = gw_page_set_new(rig->memory);
    for (uint16_t i = 0; i < N_LANES; i++) {
        struct reader *reader = &rig->sight.readers[i];
        reader->sight = &rig->sight;
        reader->ends = fixture_connect(WIRE_ROLE_PAGE, i, WIRE_IN_ROUNDS);
        assert_int_equal(pthread_create(&reader->thread, NULL, reader_main, reader), 0);
        lanes_add(rig->lanes, reader->ends.source, i, WIRE_MAX_PACKET_PAGES);
    }
}

static void rig_clear(struct rig *rig)
{
    for (unsigned i = 0; i < N_LANES; i++)
        gw_channel_shutdown(wire_stream_channel(rig->sight.readers[i].ends.source));
    lanes_free(rig->lanes);
    for (unsigned i = 0; i < N_LANES; i++) {
        pthread_join(rig->sight.readers[i].thread, NULL);
        assert_null(rig->sight.readers[i].complaint);
        fixture_close(&rig->sight.readers[i].ends);
    }
    encoding_free(rig->encoding);
    gw_page_set_free(rig->set);
    gw_page_set_free(rig->sight.seen);
    gw_memory_free(rig->memory);
}

static void start_round(struct rig *rig, uint32_t round)
{
    struct wire_round_begin begin = {.round = round, .n_pages = rig->set->n_set};

    lanes_start_round(rig->lanes, &begin, rig->set);
}

static void await_rounds(struct sight *sight, unsigned n)
{
    while (sight->n_ended < n * N_LANES)
        pthread_cond_wait(&sight->changed, &sight->lock);
}

static void every_page_is_sent_once(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(11);
    struct rig rig;
    struct sight *sight = &rig.sight;

    rig_init(&rig);
    for (unsigned round = 0; round < N_ROUNDS; round++) {
        fill_set(rig.set, random, round);
        start_round(&rig, round + 1);
        pthread_mutex_lock(&sight->lock);
        await_rounds(sight, round + 1);
        assert_int_equal(sight->seen->n_set, rig.set->n_set);
        assert_int_equal(sight->n_twice, 0);
        gw_page_set_or(sight->seen, rig.set);
        assert_int_equal(sight->seen->n_set, rig.set->n_set); /* the same ones */
        gw_page_set_clear(sight->seen);
        pthread_mutex_unlock(&sight->lock);
        assert_true(lanes_wait_idle(rig.lanes, UINT64_MAX));
    }
    rig_clear(&rig);
}

/* As a guest does, while lanes may read. */
__attribute__((no_sanitize("thread"))) static void write_pages(struct rig *rig, uint8_t value)
{
    const struct gw_ram_block *block = gw_memory_block(rig->memory, 2);

    for (uint64_t page = 0; page < SENT_PAGES; page++)
        block->host[page * GW_PAGE_SIZE + 100] = value;
}

static bool have_common(const struct gw_page_set *a, const struct gw_page_set *b, uint32_t block)
{
    uint64_t page = 0, n;

    for (; gw_page_set_next_run(a, block, &page, &n, 1); page += n)
        if (gw_page_set_test(b, block, page))
            return true;
    return false;
}

/* Every page is written when a part of the round has gone: what is said to come goes out new. */
static void what_is_said_to_come_is_read_later(void **state)
{
    struct rig rig;
    struct gw_page_set *kept, *coming;
    struct sight *sight = &rig.sight;

    rig_init(&rig);
    kept = gw_page_set_new(rig.memory);
    coming = gw_page_set_new(rig.memory);
    sight->old = gw_page_set_new(rig.memory);
    sight->is_held = true;
    write_pages(&rig, 2);
    sight->new_digest = wire_page_digest(gw_memory_block(rig.memory, 2)->host);
    write_pages(&rig, 1);
    gw_page_set_add(rig.set, 2, 0, SENT_PAGES);
    start_round(&rig, 1);
    pthread_mutex_lock(&sight->lock);
    while (sight->seen->n_set < HELD_PAGES)
        pthread_cond_wait(&sight->changed, &sight->lock);
    pthread_mutex_unlock(&sight->lock);
    write_pages(&rig, 2);
    gw_page_set_add(kept, 2, 0, SENT_PAGES);
    gw_page_set_add(kept, 1, 7, 1); /* not of the round */
    gw_page_set_add(kept, 2, block_sizes[2] - 1, 1);
    lanes_drop_coming(rig.lanes, kept);
    pthread_mutex_lock(&sight->lock);
    sight->is_held = false;
    pthread_cond_broadcast(&sight->changed);
    await_rounds(sight, 1);
    pthread_mutex_unlock(&sight->lock);

    assert_true(gw_page_set_test(kept, 1, 7) && gw_page_set_test(kept, 2, block_sizes[2] - 1));
    for (uint64_t page = 0; page < SENT_PAGES; page++)
        if (!gw_page_set_test(kept, 2, page))
            gw_page_set_add(coming, 2, page, 1);
    assert_true(sight->old->n_set >= HELD_PAGES && kept->n_set >= sight->old->n_set);
    assert_int_equal(kept->n_set + coming->n_set, SENT_PAGES + 2);
    assert_true(coming->n_set > SENT_PAGES / 4);
    assert_false(have_common(coming, sight->old, 2));
    /* After the round nothing is to come. */
    gw_page_set_add(kept, 2, 0, SENT_PAGES);
    lanes_drop_coming(rig.lanes, kept);
    assert_int_equal(kept->n_set, SENT_PAGES + 2);
    gw_page_set_free(kept);
    gw_page_set_free(coming);
    gw_page_set_free(sight->old);
    rig_clear(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_page_is_sent_once),
        cmocka_unit_test(what_is_said_to_come_is_read_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
