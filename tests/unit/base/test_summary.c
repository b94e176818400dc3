/* SPDX-License-Identifier: MIT */
/* Bitmaps with a summary, against plain ones; taking while others set; 2^31 pages. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>
#include <glib.h>

#include "base/summary.h"

#define MAX_BITS 40000u

struct model {
    uint64_t words[MAX_BITS / 64 + 1];
    uint64_t groups[MAX_BITS / 64 / 512 + 2];
    struct summary map;
};

static struct model *model_new(uint64_t n_bits)
{
    struct model *m = g_new0(struct model, 1);

    m->map = (struct summary){m->words, m->groups, n_bits};
    return m;
}

/* No set bit without its group; what is found is what is set. */
static void assert_whole(const struct model *m)
{
    uint64_t n_bits = m->map.n_bits, found = 0, run = 0, n = 0;

    for (uint64_t bit = bitmap_next_set(m->words, n_bits, 0); bit < n_bits;
         bit = bitmap_next_set(m->words, n_bits, bit + 1)) {
        assert_true(bitmap_test(m->groups, bit / SUMMARY_GROUP_BITS));
        assert_int_equal(summary_next_set(&m->map, found), bit);
        found = bit + 1;
    }
    assert_int_equal(summary_next_set(&m->map, found), n_bits);
    for (uint64_t at = 0, k = 0; summary_next_run(&m->map, &run, &n, 700); run += n, at = run) {
        assert_true(bitmap_next_run(m->words, n_bits, &at, &k, 700));
        assert_int_equal(run, at);
        assert_int_equal(n, k);
    }
}

static void scatter(struct model *m, GRand *random, unsigned n_runs)
{
    uint64_t n_bits = m->map.n_bits;

    for (unsigned i = 0; i < n_runs; i++) {
        uint64_t first = (uint64_t)g_rand_int_range(random, 0, (gint32)n_bits);
        uint64_t n = (uint64_t)g_rand_int_range(random, 0, i % 7 ? 3 : 3000);
        summary_set_range(&m->map, first, MIN(n, n_bits - first));
    }
}

static void unions_match_plain_bitmaps(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(4);
    const uint64_t sizes[] = {1, 63, 64, 511, 512, 513, 4096, 32768, 33000, MAX_BITS};

    for (unsigned round = 0; round < 400; round++) {
        uint64_t n_bits = sizes[round % G_N_ELEMENTS(sizes)];
        g_autofree struct model *to = model_new(n_bits), *from = model_new(n_bits);
        g_autofree uint64_t *expected = g_new0(uint64_t, bitmap_n_words(n_bits));
        g_autofree uint64_t *plain = g_new0(uint64_t, bitmap_n_words(n_bits));
        scatter(to, random, round % 13);
        scatter(from, random, round % 11);
        if (round % 5 == 0) {
            summary_set_range(&from->map, 0, n_bits);
        }
        memcpy(expected, to->words, bitmap_n_words(n_bits) * 8);
        uint64_t n_new = bitmap_or_count(expected, from->words, n_bits);
        switch (round % 3) {
        case 0:
            assert_int_equal(summary_or_count(&to->map, &from->map), n_new);
            break;
        case 1:
            memcpy(plain, from->words, bitmap_n_words(n_bits) * 8);
            assert_int_equal(summary_move_or_count(&to->map, plain), n_new);
            assert_int_equal(bitmap_count(plain, n_bits), 0);
            break;
        default:
            assert_int_equal(summary_take_or_count(&to->map, &from->map), n_new);
            assert_int_equal(summary_next_set(&from->map, 0), n_bits);
            assert_int_equal(bitmap_count(from->words, n_bits), 0);
            break;
        }
        assert_memory_equal(to->words, expected, bitmap_n_words(n_bits) * 8);
        assert_whole(to);
        summary_clear(&to->map);
        assert_int_equal(bitmap_count(to->words, n_bits), 0);
        assert_int_equal(bitmap_count(to->groups, summary_n_groups(n_bits)), 0);
    }
}

static void dropped_bits_are_gone(void **state)
{
    g_autofree struct model *m = model_new(MAX_BITS);

    assert_int_equal(summary_set_atomic(&m->map, 500, 20), 20);
    assert_int_equal(summary_set_atomic(&m->map, 500, 30), 10);
    summary_set_atomic(&m->map, MAX_BITS - 1, 1);
    assert_whole(m);
    assert_int_equal(bitmap_count(m->words, MAX_BITS), 31);
    summary_drop(&m->map);
    assert_int_equal(bitmap_count(m->words, MAX_BITS), 0);
    assert_int_equal(summary_next_set(&m->map, 0), MAX_BITS);
}

/* ---- taking while others set ---- */

#define N_SETTERS 2u
#define N_MARKS   1000u
#define PATIENCE  (INT64_C(60) * 1000000) /* us; only ever reached in failure */

struct setter {
    struct summary log;
    uint64_t first;        /* of a group that nobody else marks, so that nobody helps by accident */
    uint64_t n_taken;      /* atomic: marks of ours that the taker found */
    bool is_lost, is_done; /* is_done: atomic */
    pthread_t thread;
};

/* The first of two marks names the group, the second may find it named while the taker is just
 * about to clear it. Both must be found by this or the next take. */
static void *setter_main(void *opaque)
{
    struct setter *s = opaque;
    gint64 limit = g_get_monotonic_time() + PATIENCE;

    for (uint64_t i = 0; i < N_MARKS && !s->is_lost; i += 2) {
        summary_set_atomic(&s->log, s->first + i % 500, 1);
        summary_set_atomic(&s->log, s->first + i % 500 + 1, 1);
        while (__atomic_load_n(&s->n_taken, __ATOMIC_ACQUIRE) < i + 2 && !s->is_lost) {
            s->is_lost = g_get_monotonic_time() > limit;
            sched_yield();
        }
    }
    __atomic_store_n(&s->is_done, true, __ATOMIC_RELEASE);
    return NULL;
}

static void no_mark_is_lost_while_it_is_taken(void **state)
{
    g_autofree struct model *log = model_new(MAX_BITS), *taken = model_new(MAX_BITS);
    struct setter setters[N_SETTERS] = {0};
    unsigned n_done = 0;

    for (unsigned i = 0; i < N_SETTERS; i++) {
        setters[i].log = log->map;
        setters[i].first = i * SUMMARY_GROUP_BITS;
        assert_int_equal(pthread_create(&setters[i].thread, NULL, setter_main, &setters[i]), 0);
    }
    while (n_done < N_SETTERS) {
        summary_take_or_count(&taken->map, &log->map);
        n_done = 0;
        for (unsigned i = 0; i < N_SETTERS; i++) {
            uint64_t n = bitmap_count(taken->words + setters[i].first / 64, SUMMARY_GROUP_BITS);
            __atomic_fetch_add(&setters[i].n_taken, n, __ATOMIC_RELEASE);
            n_done += __atomic_load_n(&setters[i].is_done, __ATOMIC_ACQUIRE);
        }
        summary_clear(&taken->map);
    }
    for (unsigned i = 0; i < N_SETTERS; i++) {
        pthread_join(setters[i].thread, NULL);
        assert_false(setters[i].is_lost);
        assert_int_equal(setters[i].n_taken, N_MARKS);
    }
}

/* ---- 8 TiB ---- */

static uint64_t *lazy_words(uint64_t n_words)
{
    void *at = mmap(NULL, n_words * 8, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_ptr_not_equal(at, MAP_FAILED);
    madvise(at, n_words * 8, MADV_NOHUGEPAGE);
    return at;
}

static struct summary huge_new(uint64_t n_bits)
{
    return (struct summary){lazy_words(bitmap_n_words(n_bits)),
                            lazy_words(bitmap_n_words(summary_n_groups(n_bits))), n_bits};
}

static void huge_free(struct summary *map)
{
    munmap(map->words, bitmap_n_words(map->n_bits) * 8);
    munmap(map->groups, bitmap_n_words(summary_n_groups(map->n_bits)) * 8);
}

/* Pages of the words that are in memory. */
static uint64_t n_touched(const struct summary *map)
{
    size_t bytes = bitmap_n_words(map->n_bits) * 8, n_pages = (bytes + 4095) / 4096;
    g_autofree unsigned char *present = g_malloc(n_pages);
    uint64_t n = 0;

    assert_int_equal(mincore(map->words, bytes, present), 0);
    for (size_t i = 0; i < n_pages; i++) {
        n += present[i] & 1;
    }
    return n;
}

/* A 256 MiB bitmap of which 100 lines are in use: nothing else of it is ever read or written. */
static void a_sparse_set_costs_by_what_is_set(void **state)
{
    const uint64_t n_bits = UINT64_C(1) << 31, stride = n_bits / 100;
    struct summary log = huge_new(n_bits), set = huge_new(n_bits), other = huge_new(n_bits);
    uint64_t bit = 0, n = 0, n_found = 0;

    for (unsigned i = 0; i < 100; i++) {
        summary_set_atomic(&log, i * stride, 2);
    }
    summary_set_atomic(&log, n_bits - 1, 1);
    assert_int_equal(summary_take_or_count(&set, &log), 201);
    assert_int_equal(summary_or_count(&other, &set), 201);
    for (; summary_next_run(&other, &bit, &n, 64); bit += n) {
        n_found += n;
    }
    assert_int_equal(n_found, 201);
    summary_clear(&set);
    assert_int_equal(summary_next_set(&set, 0), n_bits);
    assert_in_range(n_touched(&log), 101, 101);
    assert_in_range(n_touched(&set), 101, 101);
    assert_in_range(n_touched(&other), 101, 101);
    huge_free(&log);
    huge_free(&set);
    huge_free(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unions_match_plain_bitmaps),
        cmocka_unit_test(dropped_bits_are_gone),
        cmocka_unit_test(no_mark_is_lost_while_it_is_taken),
        cmocka_unit_test(a_sparse_set_costs_by_what_is_set),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
