/* SPDX-License-Identifier: MIT */
/*
 * Which encodings pay, decided from what the link, the encoders and the pages do.
 *
 * Model: raw pages travel at the rate of the link L. Encoded, at the smaller of what n lanes encode
 * (n times E bytes of pages per second) and what the link carries of the result (L / ratio). zstd
 * is used while the second is greater than the first by a margin, and given up below a smaller one.
 *
 * L is what went out over the last window in which the lanes waited for the link; in a window in
 * which they did not, the link could do at least that much. What encoding would do is learned from
 * single packets while it is off; what the link could do, by a window without it now and then while
 * the encoders are what limits.
 *
 * A delta needs the content of the last time, so it is decided for whole rounds, from the second
 * on: tried where the link is slower than comparing and copying pages, and given up for some rounds
 * when the bytes saved were not worth the work.
 *
 * Pure: time comes in by parameters, nothing is asked of the system. Threads: one at a time.
 */
#ifndef MIGRATE_ENCODE_CHOICE_H
#define MIGRATE_ENCODE_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

#include "wire/encode.h"

enum encode_policy { ENCODE_AUTO = 0, ENCODE_OFF, ENCODE_ON };

struct encode_choice {
    /* fixed after encode_choice_init */
    enum encode_policy zstd_policy, delta_policy;
    uint32_t n_lanes;

    /* what is known; 0: nothing yet */
    uint64_t link_bytes_per_s;
    uint64_t zstd_bytes_per_s;  /* of pages, one lane */
    uint64_t delta_bytes_per_s; /* likewise */
    uint32_t zstd_permille;     /* of their size, what pages become */

    /* the open window, over all lanes */
    uint64_t window_start_ns, window_wire_bytes, window_send_ns;

    /* zstd */
    bool is_zstd_on;
    bool is_probing;         /* a window without zstd */
    uint64_t next_sample_ns; /* of a packet with zstd while it is off */
    uint64_t sample_gap_ns;
    uint64_t next_probe_ns, probe_gap_ns;

    /* delta */
    uint32_t round;
    bool is_delta_on;    /* in this round */
    uint32_t delta_rest; /* rounds for which it stays off */
    uint32_t delta_next_rest;
    struct wire_encode_stats round_stats;
};

/* What became of one packet. */
struct encode_seen {
    unsigned modes;                 /* with which it was made */
    struct wire_encode_stats stats; /* zeroed without any */
    uint64_t wire_bytes;
    uint64_t send_ns; /* the sender was busy with handing it over */
};

void encode_choice_init(struct encode_choice *choice, enum encode_policy zstd,
                        enum encode_policy delta, uint32_t n_lanes, uint64_t now_ns);
/* A round begins, from 1. */
void encode_choice_round(struct encode_choice *choice, uint32_t round);
/* Bits of enum wire_encode_mode for the next packet. */
unsigned encode_choice_next(struct encode_choice *choice, uint64_t now_ns);
void encode_choice_sent(struct encode_choice *choice, const struct encode_seen *seen,
                        uint64_t now_ns);

#endif
