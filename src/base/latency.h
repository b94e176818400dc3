/* SPDX-License-Identifier: MIT */
/*
 * The latency book: always-on histograms of how long named things took.
 *
 * Use: a main-loop handler, device handler, timer or vCPU asks the machine's book for its probe
 * once, by name ("uart/mmio", "hart/0/exit", "virtio-net/0/tx"), and brackets its work:
 *
 *     uint64_t began = latency_begin();
 *     ...
 *     latency_end(probe, began, detail);
 *
 * which costs two clock reads and two relaxed atomic adds. `query-latency` shows a snapshot.
 *
 * Threads: everything may be called from any thread. A probe lives as long as its book.
 */
#ifndef BASE_LATENCY_H
#define BASE_LATENCY_H

#include <glib.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/histogram.h"
#include "base/probes.h"

struct latency_book;

struct latency_probe {
    char *name;                 /* fixed; owned by the book */
    struct histogram histogram; /* ns */
};

struct latency_book *latency_book_new(void);
void latency_book_free(struct latency_book *book);
/* The probe of this name, made at the first call. A NULL book gives a NULL probe, which every
 * other function takes and ignores. */
struct latency_probe *latency_book_probe(struct latency_book *book, const char *name);
struct latency_probe *latency_book_probe_f(struct latency_book *book, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

static inline uint64_t latency_begin(void)
{
    return clock_mono_ns();
}

/* detail: anything that helps to recognise a worst case (a register offset, a queue index). */
static inline void latency_end(struct latency_probe *probe, uint64_t began_ns, uint64_t detail)
{
    if (probe) {
        uint64_t length_ns = clock_mono_ns() - began_ns;

        GW_PROBE3(latency, probe->name, length_ns, detail);
        histogram_record(&probe->histogram, length_ns, detail);
    }
}

struct latency_summary {
    char *name; /* owned by the summary's array */
    struct histogram_snapshot ns;
};

/* All probes that have recorded something, the one with the largest maximum first. The array of n
 * summaries is freed with latency_summaries_free. */
struct latency_summary *latency_book_snapshot(struct latency_book *book, size_t *n);
void latency_summaries_free(struct latency_summary *summaries, size_t n);
/* Forgets all that was recorded; probes stay. */
void latency_book_reset(struct latency_book *book);

#endif
