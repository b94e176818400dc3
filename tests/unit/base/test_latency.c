/* SPDX-License-Identifier: MIT */
/* Histograms and the latency book. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/latency.h"

static void buckets_cover_everything_in_order(void **state)
{
    uint64_t last = histogram_bucket_max(0);

    assert_int_equal(last, 0);
    for (unsigned i = 1; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t max = histogram_bucket_max(i);
        assert_true(max > last);
        assert_int_equal(histogram_bucket(max), i);
        assert_int_equal(histogram_bucket(last + 1), i);
        /* no wider than a sixteenth of its values */
        assert_true((max - last - 1) <= (last + 1) / HISTOGRAM_SUB);
        last = max;
    }
    assert_true(last == UINT64_MAX);
}

static void quantiles_are_close(void **state)
{
    struct histogram histogram;
    struct histogram_snapshot snapshot;

    histogram_init(&histogram);
    histogram_snapshot(&histogram, &snapshot);
    assert_int_equal(snapshot.count, 0);
    assert_int_equal(snapshot.p999, 0);
    for (uint64_t i = 1; i <= 10000; i++) {
        histogram_record(&histogram, i, i * 2);
    }
    histogram_snapshot(&histogram, &snapshot);
    assert_int_equal(snapshot.count, 10000);
    assert_int_equal(snapshot.sum, 10000 * 10001 / 2);
    assert_in_range(snapshot.p50, 5000, 5000 * 17 / 16);
    assert_in_range(snapshot.p90, 9000, 9000 * 17 / 16);
    assert_in_range(snapshot.p99, 9900, 10000);
    assert_in_range(snapshot.p999, 9990, 10000);
    assert_int_equal(snapshot.max, 10000);
    for (unsigned i = 0; i < HISTOGRAM_N_WORST; i++) {
        assert_int_equal(snapshot.worst[i].value, 10000 - i);
        assert_int_equal(snapshot.worst[i].detail, 2 * (10000 - i));
        assert_true(snapshot.worst[i].at_real_ns > 0);
    }
    histogram_record(&histogram, UINT64_MAX, 0);
    histogram_snapshot(&histogram, &snapshot);
    assert_true(snapshot.max == UINT64_MAX);
    histogram_reset(&histogram);
    histogram_snapshot(&histogram, &snapshot);
    assert_int_equal(snapshot.count, 0);
    assert_int_equal(snapshot.max, 0);
    histogram_clear(&histogram);
}

static void the_book_lists_its_probes_worst_first(void **state)
{
    struct latency_book *book = latency_book_new();
    struct latency_probe *uart = latency_book_probe(book, "uart/mmio");
    struct latency_probe *hart = latency_book_probe_f(book, "hart/%u/exit", 3u);
    size_t n = 0;

    latency_book_probe(book, "silent");
    assert_ptr_equal(latency_book_probe(book, "uart/mmio"), uart);
    histogram_record(&uart->histogram, 5, 0);
    histogram_record(&hart->histogram, 9, 0);
    histogram_record(&hart->histogram, 1, 0);
    struct latency_summary *summaries = latency_book_snapshot(book, &n);
    assert_int_equal(n, 2);
    assert_string_equal(summaries[0].name, "hart/3/exit");
    assert_int_equal(summaries[0].ns.count, 2);
    assert_int_equal(summaries[0].ns.max, 9);
    assert_string_equal(summaries[1].name, "uart/mmio");
    latency_summaries_free(summaries, n);
    latency_book_reset(book);
    summaries = latency_book_snapshot(book, &n);
    assert_int_equal(n, 0);
    latency_summaries_free(summaries, n);
    latency_book_free(book);
}

static void a_missing_book_costs_nothing(void **state)
{
    size_t n = 1;
    struct latency_probe *probe = latency_book_probe(NULL, "x");

    assert_null(probe);
    latency_end(probe, latency_begin(), 0);
    assert_null(latency_book_snapshot(NULL, &n));
    assert_int_equal(n, 0);
    latency_book_reset(NULL);
    latency_book_free(NULL);
}

#define N_THREADS 4
#define N_RECORDS 20000u

static void *record_many(void *opaque)
{
    struct latency_book *book = opaque;
    struct latency_probe *probe = latency_book_probe(book, "shared");

    for (unsigned i = 0; i < N_RECORDS; i++) {
        histogram_record(&probe->histogram, i, 0);
    }
    return NULL;
}

static void threads_may_record_together(void **state)
{
    struct latency_book *book = latency_book_new();
    pthread_t threads[N_THREADS];
    size_t n = 0;

    for (unsigned i = 0; i < N_THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, record_many, book), 0);
    }
    struct latency_summary *meanwhile = latency_book_snapshot(book, &n);
    latency_summaries_free(meanwhile, n);
    for (unsigned i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    struct latency_summary *summaries = latency_book_snapshot(book, &n);
    assert_int_equal(n, 1);
    assert_int_equal(summaries[0].ns.count, N_THREADS * N_RECORDS);
    for (unsigned i = 0; i < N_THREADS; i++) {
        assert_int_equal(summaries[0].ns.worst[i].value, N_RECORDS - 1);
    }
    latency_summaries_free(summaries, n);
    latency_book_free(book);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_cover_everything_in_order),
        cmocka_unit_test(quantiles_are_close),
        cmocka_unit_test(the_book_lists_its_probes_worst_first),
        cmocka_unit_test(a_missing_book_costs_nothing),
        cmocka_unit_test(threads_may_record_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
