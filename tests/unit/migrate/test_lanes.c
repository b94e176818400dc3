/* SPDX-License-Identifier: MIT */
/* Rounds of any set of pages over several lanes: every page of the set is sent once, and no other.
 */
#include "../wire/fixture.h"

#include "base/summary.h"
#include "migrate/lanes.h"
#include "wire/pages.h"

enum { N_LANES = 3, N_BLOCKS = 3, N_ROUNDS = 120 };

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
    unsigned n_ended; /* lanes whose ROUND_END came, over all rounds */
    struct reader readers[N_LANES];
};

static uint64_t block_pages(void *opaque, uint32_t block)
{
    return block < N_BLOCKS ? block_sizes[block] : 0;
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

static void every_page_is_sent_once(void **state)
{
    static const struct lanes_ops ops = {on_sent, on_failed};
    g_autoptr(GRand) random = g_rand_new_with_seed(11);
    struct gw_memory *memory = gw_memory_new();
    struct sight sight = {.lock = PTHREAD_MUTEX_INITIALIZER};
    const struct encoding_params params = {.zstd = ENCODE_OFF, .delta = ENCODE_OFF};
    struct encoding *encoding = encoding_new(&params, N_LANES);
    struct lanes *lanes = lanes_new(memory, encoding, &ops, NULL);

    for (unsigned i = 0; i < N_BLOCKS; i++) {
        g_autofree char *name = g_strdup_printf("block%u", i);
        assert_non_null(gw_memory_add_block(memory, name, (uint64_t)i << 32,
                                            block_sizes[i] * GW_PAGE_SIZE, NULL));
    }
    pthread_cond_init(&sight.changed, NULL);
    sight.seen = gw_page_set_new(memory);
    struct gw_page_set *set = gw_page_set_new(memory);
    for (uint16_t i = 0; i < N_LANES; i++) {
        struct reader *reader = &sight.readers[i];
        reader->sight = &sight;
        reader->ends = fixture_connect(WIRE_ROLE_PAGE, i, WIRE_IN_ROUNDS);
        assert_int_equal(pthread_create(&reader->thread, NULL, reader_main, reader), 0);
        lanes_add(lanes, reader->ends.source, i, WIRE_MAX_PACKET_PAGES);
    }
    for (unsigned round = 0; round < N_ROUNDS; round++) {
        struct wire_round_begin begin = {.round = round + 1};
        fill_set(set, random, round);
        begin.n_pages = set->n_set;
        lanes_start_round(lanes, &begin, set);
        pthread_mutex_lock(&sight.lock);
        while (sight.n_ended < (round + 1) * N_LANES)
            pthread_cond_wait(&sight.changed, &sight.lock);
        assert_int_equal(sight.seen->n_set, set->n_set);
        assert_int_equal(sight.n_twice, 0);
        gw_page_set_or(sight.seen, set);
        assert_int_equal(sight.seen->n_set, set->n_set); /* the same ones */
        gw_page_set_clear(sight.seen);
        pthread_mutex_unlock(&sight.lock);
        assert_true(lanes_wait_idle(lanes, UINT64_MAX));
    }
    for (unsigned i = 0; i < N_LANES; i++)
        gw_channel_shutdown(wire_stream_channel(sight.readers[i].ends.source));
    lanes_free(lanes);
    for (unsigned i = 0; i < N_LANES; i++) {
        pthread_join(sight.readers[i].thread, NULL);
        assert_null(sight.readers[i].complaint);
        fixture_close(&sight.readers[i].ends);
    }
    encoding_free(encoding);
    gw_page_set_free(set);
    gw_page_set_free(sight.seen);
    gw_memory_free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_page_is_sent_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
