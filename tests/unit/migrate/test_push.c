/* SPDX-License-Identifier: MIT */
/* What a source in post-copy sends next: every page once, and around the last fault first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "base/bitmap.h"
#include "migrate/push.h"

#define N_THREADS 4u
#define CHUNK     PUSH_CHUNK_PAGES

struct rig {
    struct gw_memory *memory;
    struct gw_ram_block *block;
    struct gw_page_set *left;
    struct push *push;
};

static struct rig rig_new(uint64_t n_pages)
{
    struct rig rig = {.memory = gw_memory_new()};

    rig.block = gw_memory_add_block(rig.memory, "ram", 0, n_pages * GW_PAGE_SIZE, NULL);
    assert_non_null(rig.block);
    assert_non_null(gw_memory_add_block(rig.memory, "rom", GW_GPA_NONE, 5 * GW_PAGE_SIZE, NULL));
    rig.left = gw_page_set_new(rig.memory);
    rig.push = push_new(rig.memory);
    return rig;
}

static void rig_free(struct rig *rig)
{
    push_free(rig->push);
    gw_page_set_free(rig->left);
    gw_memory_free(rig->memory);
}

/* The chunk that comes next; -1: none. Chunks of the second block count from 1000 on. */
static int take(struct rig *rig)
{
    uint64_t words[PUSH_WORDS], first;
    uint32_t block;

    if (!push_take(rig->push, &block, &first, words))
        return -1;
    assert_true(first % CHUNK == 0 && bitmap_count(words, CHUNK) > 0);
    return (int)(first / CHUNK + block * 1000);
}

static void assert_order(struct rig *rig, const int *chunks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int got = take(rig);
        if (got != chunks[i])
            fail_msg("chunk %zu is %d, not %d", i, got, chunks[i]);
    }
}
#define ORDER_IS(rig, ...)                                                                         \
    do {                                                                                           \
        static const int order_[] = {__VA_ARGS__};                                                 \
        assert_order(rig, order_, G_N_ELEMENTS(order_));                                           \
    } while (0)

static void nothing_is_left_of_nothing(void **state)
{
    struct rig rig = rig_new(1000);

    assert_int_equal(take(&rig), -1);
    push_begin(rig.push, rig.left);
    push_want(rig.push, 0, 0, 1);
    assert_int_equal(take(&rig), -1);
    assert_int_equal(push_n_left(rig.push), 0);
    rig_free(&rig);
    push_free(NULL);
}

static void without_a_fault_it_goes_in_order(void **state)
{
    struct rig rig = rig_new(5 * CHUNK + 7);
    uint64_t words[PUSH_WORDS], first;
    uint32_t block;

    gw_page_set_add(rig.left, 0, CHUNK + 3, 1);
    gw_page_set_add(rig.left, 0, 3 * CHUNK, 2);
    gw_page_set_add(rig.left, 0, 5 * CHUNK + 6, 1);
    gw_page_set_add(rig.left, 1, 0, 5);
    push_begin(rig.push, rig.left);
    assert_int_equal(push_n_left(rig.push), 9);
    assert_true(push_take(rig.push, &block, &first, words));
    assert_int_equal(block, 0);
    assert_int_equal(first, CHUNK);
    assert_int_equal(words[0], 8);
    assert_int_equal(words[1] | words[2] | words[3], 0);
    ORDER_IS(&rig, 3, 5, 1000, -1);
    assert_int_equal(push_n_left(rig.push), 0);
    /* It begins anew. */
    push_begin(rig.push, rig.left);
    assert_int_equal(push_n_left(rig.push), 9);
    ORDER_IS(&rig, 1, 3, 5, 1000, -1);
    rig_free(&rig);
}

static void it_goes_on_around_a_fault(void **state)
{
    struct rig rig = rig_new(20 * CHUNK);

    gw_page_set_fill(rig.left);
    push_begin(rig.push, rig.left);
    ORDER_IS(&rig, 0, 1);
    push_want(rig.push, 0, 10 * CHUNK + 5, 1);
    ORDER_IS(&rig, 10, 11, 12, 9, 13, 14, 15, 8, 16, 17, 18, 7, 19, 6, 5, 4, 3, 2);
    /* The block is sent; the rest of memory follows. */
    ORDER_IS(&rig, 1000, -1);
    rig_free(&rig);
}

static void several_places_take_turns(void **state)
{
    struct rig rig = rig_new(200 * CHUNK);

    gw_page_set_fill(rig.left);
    push_begin(rig.push, rig.left);
    push_want(rig.push, 0, 50 * CHUNK, 1);
    push_want(rig.push, 0, 100 * CHUNK, 1);
    ORDER_IS(&rig, 100, 50, 101, 51);
    /* A new one comes first. */
    push_want(rig.push, 0, 150 * CHUNK, 1);
    ORDER_IS(&rig, 150, 102, 52, 151, 99, 49);
    /* Who goes through memory is one place, wherever it is now. */
    push_want(rig.push, 0, 104 * CHUNK, 1);
    ORDER_IS(&rig, 104, 152, 53, 105, 149, 54);
    rig_free(&rig);
}

static void of_too_many_places_the_oldest_goes(void **state)
{
    struct rig rig = rig_new(1000 * CHUNK);

    gw_page_set_fill(rig.left);
    push_begin(rig.push, rig.left);
    for (uint64_t i = 1; i <= PUSH_MAX_PLACES + 1; i++)
        push_want(rig.push, 0, i * 100 * CHUNK, 1);
    ORDER_IS(&rig, 900, 800, 700, 600, 500, 400, 300, 200, 901);
    rig_free(&rig);
}

static void faults_outside_of_memory_are_ignored(void **state)
{
    struct rig rig = rig_new(3 * CHUNK);
    uint64_t words[PUSH_WORDS];

    gw_page_set_fill(rig.left);
    push_begin(rig.push, rig.left);
    push_want(rig.push, 7, 0, 1);
    push_want(rig.push, 0, 3 * CHUNK, 1);
    push_want(rig.push, 0, UINT64_MAX, UINT64_MAX);
    push_want(rig.push, 0, CHUNK, 0);
    assert_int_equal(push_take_run(rig.push, 7, 0, 1, words), 0);
    assert_int_equal(push_take_run(rig.push, 0, UINT64_MAX - 1, UINT32_MAX, words), 0);
    assert_int_equal(push_take_run(rig.push, 1, 4, 256, words), 1);
    assert_int_equal(words[0], 1);
    ORDER_IS(&rig, 0, 1, 2, 1000, -1);
    rig_free(&rig);
}

static void what_was_sent_urgently_is_not_sent_again(void **state)
{
    struct rig rig = rig_new(4 * CHUNK);
    uint64_t words[PUSH_WORDS], first;
    uint32_t block;

    gw_page_set_add(rig.left, 0, CHUNK - 2, 3);
    gw_page_set_add(rig.left, 0, CHUNK + 4, 1);
    push_begin(rig.push, rig.left);
    assert_int_equal(push_take_run(rig.push, 0, CHUNK - 4, 5, words), 3);
    assert_int_equal(words[0], 0x1c);
    assert_int_equal(push_take_run(rig.push, 0, CHUNK - 4, 5, words), 0);
    assert_int_equal(words[0] | words[1] | words[2] | words[3], 0);
    assert_int_equal(push_n_left(rig.push), 1);
    assert_true(push_take(rig.push, &block, &first, words));
    assert_int_equal(first, CHUNK);
    assert_int_equal(words[0], 0x10);
    assert_int_equal(take(&rig), -1);
    rig_free(&rig);
}

static void what_was_not_sent_is_put_back(void **state)
{
    struct rig rig = rig_new(6 * CHUNK);
    uint64_t words[PUSH_WORDS], again[PUSH_WORDS], first;
    uint32_t block;

    gw_page_set_add(rig.left, 0, CHUNK, 3);
    gw_page_set_add(rig.left, 0, 4 * CHUNK, 2);
    push_begin(rig.push, rig.left);
    assert_true(push_take(rig.push, &block, &first, words));
    assert_int_equal(take(&rig), 4);
    assert_int_equal(take(&rig), -1);
    push_put_back(rig.push, block, first, words);
    push_put_back(rig.push, block, first, words); /* twice is once */
    assert_int_equal(push_n_left(rig.push), 3);
    assert_true(push_take(rig.push, &block, &first, again));
    assert_int_equal(first, CHUNK);
    assert_memory_equal(words, again, sizeof words);
    /* Across a chunk's border, and the end of the block. */
    memset(words, 0xff, sizeof words);
    push_put_back(rig.push, 0, 5 * CHUNK + 10, words);
    assert_int_equal(push_n_left(rig.push), CHUNK - 10);
    assert_int_equal(take(&rig), 5);
    push_put_back(rig.push, 0, 2 * CHUNK - 1, words);
    ORDER_IS(&rig, 1, 2, -1);
    rig_free(&rig);
}

static void pages_in_use_come_first(void **state)
{
    struct rig rig = rig_new(20 * CHUNK);
    struct gw_page_set *hot = gw_page_set_new(rig.memory);
    uint64_t words[PUSH_WORDS], first;
    uint32_t block;

    gw_page_set_add(rig.left, 0, 0, 12 * CHUNK);
    gw_page_set_add(hot, 0, 7 * CHUNK + 9, 2);
    gw_page_set_add(hot, 0, 9 * CHUNK, CHUNK);
    gw_page_set_add(hot, 0, 15 * CHUNK, CHUNK); /* is not left */
    push_begin(rig.push, rig.left);
    push_prefer(rig.push, hot);
    gw_page_set_free(hot);
    assert_true(push_take(rig.push, &block, &first, words));
    assert_int_equal(first, 7 * CHUNK);
    assert_int_equal(words[0], 3 << 9);
    assert_int_equal(words[1] | words[2] | words[3], 0);
    /* A fault comes before that. */
    push_want(rig.push, 0, 11 * CHUNK, 1);
    ORDER_IS(&rig, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, -1);
    push_begin(rig.push, rig.left);
    ORDER_IS(&rig, 0, 1, 2); /* the preference is forgotten */
    rig_free(&rig);
}

static void preferred_pages_then_the_rest(void **state)
{
    struct rig rig = rig_new(8 * CHUNK);
    struct gw_page_set *hot = gw_page_set_new(rig.memory);

    gw_page_set_add(rig.left, 0, 0, 4 * CHUNK);
    gw_page_set_add(hot, 0, 2 * CHUNK + 1, CHUNK);
    push_begin(rig.push, rig.left);
    push_prefer(rig.push, hot);
    gw_page_set_free(hot);
    ORDER_IS(&rig, 2, 3, 0, 1, 2, 3, -1);
    rig_free(&rig);
}

/* ---- many threads ---- */

struct crowd {
    struct rig rig;
    uint32_t *n_sent; /* atomic, per page of the first block */
};

struct member {
    struct crowd *crowd;
    uint32_t number;
};

static void count(struct crowd *crowd, uint64_t first, const uint64_t *words)
{
    for (uint64_t i = 0; i < CHUNK; i++)
        if (bitmap_test(words, i))
            __atomic_fetch_add(&crowd->n_sent[first + i], 1, __ATOMIC_RELAXED);
}

static void *member_main(void *opaque)
{
    struct member *member = opaque;
    struct crowd *crowd = member->crowd;
    struct push *push = crowd->rig.push;
    uint64_t n_pages = crowd->rig.block->n_pages, words[PUSH_WORDS], first;
    uint32_t seed = member->number + 1, block;

    for (uint32_t n = 0; push_take(push, &block, &first, words); n++) {
        seed = seed * 1103515245 + 12345;
        uint64_t page = seed % n_pages;

        if (n % 8 == member->number) {
            push_put_back(push, block, first, words); /* the link broke */
        } else {
            count(crowd, first, words);
        }
        if (n % 4 == 0)
            push_want(push, 0, page, 1);
        if (n % 3 == 0) {
            push_take_run(push, 0, page, 1 + seed % 256, words);
            count(crowd, page, words);
        }
    }
    return NULL;
}

static void every_page_is_sent_once(void **state)
{
    struct crowd crowd = {.rig = rig_new(300 * CHUNK + 77)};
    uint64_t n_pages = crowd.rig.block->n_pages;
    struct member members[N_THREADS];
    pthread_t threads[N_THREADS];

    /* With room for the last chunk to be counted whole. */
    crowd.n_sent = g_new0(uint32_t, n_pages + CHUNK);
    for (uint64_t page = 0; page < n_pages; page += 1 + page % 7)
        gw_page_set_add(crowd.rig.left, 0, page, 1 + page % 3);
    push_begin(crowd.rig.push, crowd.rig.left);
    for (uint32_t i = 0; i < N_THREADS; i++) {
        members[i] = (struct member){&crowd, i};
        assert_int_equal(pthread_create(&threads[i], NULL, member_main, &members[i]), 0);
    }
    for (uint32_t i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    /* A thread may have seen nothing just before another put something back. */
    members[0].number = 9;
    member_main(&members[0]);
    assert_int_equal(push_n_left(crowd.rig.push), 0);
    for (uint64_t page = 0; page < n_pages + CHUNK; page++)
        if (crowd.n_sent[page] != gw_page_set_test(crowd.rig.left, 0, page))
            fail_msg("page %" G_GUINT64_FORMAT " was sent %u times", page, crowd.n_sent[page]);
    g_free(crowd.n_sent);
    rig_free(&crowd.rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_left_of_nothing),
        cmocka_unit_test(without_a_fault_it_goes_in_order),
        cmocka_unit_test(it_goes_on_around_a_fault),
        cmocka_unit_test(several_places_take_turns),
        cmocka_unit_test(of_too_many_places_the_oldest_goes),
        cmocka_unit_test(faults_outside_of_memory_are_ignored),
        cmocka_unit_test(what_was_sent_urgently_is_not_sent_again),
        cmocka_unit_test(what_was_not_sent_is_put_back),
        cmocka_unit_test(pages_in_use_come_first),
        cmocka_unit_test(preferred_pages_then_the_rest),
        cmocka_unit_test(every_page_is_sent_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
