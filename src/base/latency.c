/* SPDX-License-Identifier: MIT */
/* The latency book: probes by name. */
#include "base/latency.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

struct latency_book {
    pthread_mutex_t lock; /* guards the container; probes themselves never move */
    GPtrArray *probes;    /* struct latency_probe */
};

static void probe_free(void *opaque)
{
    struct latency_probe *probe = opaque;

    histogram_clear(&probe->histogram);
    g_free(probe->name);
    g_free(probe);
}

struct latency_book *latency_book_new(void)
{
    struct latency_book *book = g_new0(struct latency_book, 1);

    pthread_mutex_init(&book->lock, NULL);
    book->probes = g_ptr_array_new_with_free_func(probe_free);
    return book;
}

void latency_book_free(struct latency_book *book)
{
    if (!book) {
        return;
    }
    g_ptr_array_free(book->probes, TRUE);
    pthread_mutex_destroy(&book->lock);
    g_free(book);
}

struct latency_probe *latency_book_probe(struct latency_book *book, const char *name)
{
    if (!book) {
        return NULL;
    }
    gw_lock_guard(&book->lock);
    for (guint i = 0; i < book->probes->len; i++) {
        struct latency_probe *probe = g_ptr_array_index(book->probes, i);
        if (strcmp(probe->name, name) == 0) {
            return probe;
        }
    }
    struct latency_probe *probe = g_new0(struct latency_probe, 1);
    probe->name = g_strdup(name);
    histogram_init(&probe->histogram);
    g_ptr_array_add(book->probes, probe);
    return probe;
}

struct latency_probe *latency_book_probe_f(struct latency_book *book, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *name = g_strdup_vprintf(format, args);
    va_end(args);
    return latency_book_probe(book, name);
}

static int by_worst(const void *a, const void *b)
{
    const struct latency_summary *left = a;
    const struct latency_summary *right = b;

    if (left->ns.max != right->ns.max) {
        return left->ns.max < right->ns.max ? 1 : -1;
    }
    return strcmp(left->name, right->name);
}

struct latency_summary *latency_book_snapshot(struct latency_book *book, size_t *n)
{
    *n = 0;
    if (!book) {
        return NULL;
    }
    gw_lock_guard(&book->lock);
    struct latency_summary *summaries = g_new0(struct latency_summary, book->probes->len);
    for (guint i = 0; i < book->probes->len; i++) {
        struct latency_probe *probe = g_ptr_array_index(book->probes, i);
        histogram_snapshot(&probe->histogram, &summaries[*n].ns);
        if (summaries[*n].ns.count > 0) {
            summaries[*n].name = g_strdup(probe->name);
            (*n)++;
        }
    }
    if (*n > 1) {
        qsort(summaries, *n, sizeof(summaries[0]), by_worst);
    }
    return summaries;
}

void latency_summaries_free(struct latency_summary *summaries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        g_free(summaries[i].name);
    }
    g_free(summaries);
}

void latency_book_reset(struct latency_book *book)
{
    if (!book) {
        return;
    }
    gw_lock_guard(&book->lock);
    for (guint i = 0; i < book->probes->len; i++) {
        struct latency_probe *probe = g_ptr_array_index(book->probes, i);
        histogram_reset(&probe->histogram);
    }
}
