/* SPDX-License-Identifier: MIT */
/*
 * What a migration looked like over time, from the answers of query-migrate, in bounded memory.
 *
 * Three lists: samples (thinned out when there are too many: every second one goes, and from then
 * on only half as many are taken), the spans of the engine's states, and the rounds (spans and
 * rounds that are too many become one with their neighbours). The first and the newest of each are
 * always exact.
 */
#ifndef GODWIT_CLI_TRACK_H
#define GODWIT_CLI_TRACK_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACK_MAX_SAMPLES   2000u
#define TRACK_MAX_SPANS     1000u
#define TRACK_MAX_ROUNDS    1000u
#define TRACK_STATE_SIZE    24
#define TRACK_FIRST_STEP_NS UINT64_C(10000000) /* between samples, before any was thinned out */

/* Times in ns since the migration began, as the engine counts them. A double that is not known is
 * NAN. */
struct track_sample {
    double at_ns;
    uint32_t round;
    double sent_bytes, left_bytes;
    double rate_bytes, dirty_rate_bytes; /* per second, as the engine measured them */
    double end_ns;                       /* when the migration would end, as forecast now */
    double end_low_ns, end_high_ns;      /* between which end_ns will most likely be */
    double blackout_ns;                  /* as forecast now */
    double slowdown_percent;             /* of the vCPU that is throttled most */
    double requested_pages;              /* post-copy: faults that the source was told of, so far */
    char state[TRACK_STATE_SIZE];
};

struct track_span {
    char state[TRACK_STATE_SIZE]; /* of the longest part, when n_merged > 1 */
    double start_ns, end_ns;
    double longest_ns;
    unsigned n_merged;
};

/* Round `first` to round `last`: one, unless there were too many or too quick ones. */
struct track_round {
    uint32_t first, last;
    double start_ns, end_ns;
    double sent_bytes;
    double dirty_rate_bytes; /* at its end */
    double start_sent_bytes;
};

struct track;

struct track *track_new(void);
void track_free(struct track *track);
/* info: what query-migrate answers. What comes too soon after the last sample counts for spans and
 * rounds only. */
void track_add(struct track *track, const json_t *info);
/* The end: this sample is kept however close it is. */
void track_end(struct track *track, const json_t *info);
/* How long to wait for the next sample, at most. */
uint64_t track_step_ns(const struct track *track);

const struct track_sample *track_samples(const struct track *track, size_t *n);
const struct track_span *track_spans(const struct track *track, size_t *n);
const struct track_round *track_rounds(const struct track *track, size_t *n);

#endif
