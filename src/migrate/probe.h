/* SPDX-License-Identifier: MIT */
/*
 * A probe of the link: both ends of the channel that measures it (docs/wire-format.md section 15).
 *
 * Model: the source fills the link for half a second at most and the destination says how much has
 * come by when, on its own clock. The rate is taken from what is left of that when slow start is
 * over, the later two thirds at least; how far parts of it differ is the doubt. What is not
 * acknowledged is bounded by what has been, so that a slow link is not left with seconds of data in
 * its queues.
 *
 * One channel is measured. Where one connection cannot fill the link a migration with several is
 * faster than that.
 *
 * Threads: both functions block, up to their deadline, on the thread that calls them; whoever wants
 * them to end wakes the channel.
 */
#ifndef MIGRATE_PROBE_H
#define MIGRATE_PROBE_H

#include "migrate/engine.h"

#define PROBE_LENGTH_NS (UINT64_C(500) * NS_PER_MS)
#define PROBE_SERVE_NS  (UINT64_C(15) * NS_PER_S)
#define PROBE_PINGS     8u

/* What the source learns. */
struct probe_result {
    struct wire_hello peer; /* to be cleared as a message, when has_verdict */
    bool has_verdict;
    struct wire_schema_verdict verdict; /* likewise */
    bool has_rehearsal;                 /* it would be accepted, and has tried to load */
    uint64_t load_ns, state_bytes;
    uint64_t round_trip_ns; /* the shortest */
    bool is_measured;
    double bytes_per_s, doubt; /* doubt: a share of it */
    uint64_t n_bytes;          /* that were acknowledged */
};
void probe_result_clear(struct probe_result *result);

/* The source's end of an open stream. On failure what was learned until then is in the result. The
 * schema is borrowed. */
bool probe_measure(struct wire_stream *stream, const struct wire_hello *hello,
                   const GByteArray *schema, const struct wire_ram_map *map, int64_t deadline_ns,
                   struct probe_result *result, GError **error);
/* Of the bulk of a PROBE. */
uint64_t probe_digest(const void *bytes, size_t n_bytes);
/* The rate in acknowledgements: pure, for tests. times_ns ascending. */
bool probe_rate(const uint64_t *times_ns, const uint64_t *n_bytes, uint32_t n,
                uint64_t round_trip_ns, double *bytes_per_s, double *doubt);

/* What the destination is asked, and answers. */
struct probe_question {
    struct wire_hello hello;
    GBytes *schema;
    struct wire_ram_map map;
};
struct probe_answer {
    struct wire_hello hello; /* this and the next are cleared by probe_serve */
    struct wire_schema_verdict verdict;
    struct wire_rehearsal_report report; /* sent when accepted; likewise */
};

struct probe_judge {
    /* False with error: no answer; the error is told to the source. */
    bool (*judge)(void *opaque, const struct probe_question *question, struct probe_answer *answer,
                  GError **error);
    /* A migration begins: end it. Asked between records. */
    bool (*is_unwanted)(void *opaque);
    /* The source has said GOODBYE, and is about to hear it. */
    void (*leaves)(void *opaque);
    void *opaque;
};

/* The destination's end of a confirmed stream, to its end. Changes nothing but through judge.
 * PEER: bounded in time by the deadline, in bytes by WIRE_MAX_PROBE_BYTES, in memory by one schema,
 * one RAM map and one PROBE. */
bool probe_serve(struct wire_stream *stream, const struct probe_judge *judge, int64_t deadline_ns,
                 GError **error);

#endif
