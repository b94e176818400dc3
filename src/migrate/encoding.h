/* SPDX-License-Identifier: MIT */
/*
 * The encodings of a source's pages: what was agreed, what pays, the cache, and the count of it
 * all.
 *
 * Model: one struct encoding for a migration, one struct encoding_lane for each sending thread. A
 * lane asks before each packet how to make it, and says afterwards what became of it; the choice is
 * encode_choice.c's. While nothing pays, a packet costs one lock and two looks at the clock, and
 * its pages go out of guest memory untouched.
 *
 * Threads: encoding_lane_* by the lane's thread; encoding_begin_* while no lane is in a round;
 * the others any.
 */
#ifndef MIGRATE_ENCODING_H
#define MIGRATE_ENCODING_H

#include "migrate/encode_choice.h"
#include "wire/messages.h"

#define ENCODING_FEATURES ((UINT64_C(1) << WIRE_FEATURE_ZSTD) | (UINT64_C(1) << WIRE_FEATURE_DELTA))

/* Lanes that encode; each takes about 1.2 MiB for it. Others of the same migration stay raw. */
#define ENCODING_MAX_LANES 16u

struct encoding;
struct encoding_lane;

struct encoding_params {
    enum encode_policy zstd, delta;
    uint64_t cache_bytes;
    uint64_t features; /* agreed with the destination */
};

/* What was done so far, over all lanes. */
struct encoding_counters {
    struct wire_encode_stats total;
    uint64_t cache_bytes; /* its limit; 0: no deltas were made */
    uint64_t round_saved; /* bytes that this round's packets would have had more */
    uint64_t round_wire;  /* of this round's packets */
    bool is_zstd_on, is_delta_on;
};

struct encoding *encoding_new(const struct encoding_params *params, uint32_t n_lanes);
void encoding_free(struct encoding *encoding);
void encoding_begin_round(struct encoding *encoding, uint32_t round);
/* Likewise, of the pages after COMMIT, which have nothing to refer to: no deltas, and the cache
 * goes. */
void encoding_begin_push(struct encoding *encoding, uint32_t round);
/* The destination lacks something that it was sent: nothing may be a delta against that. */
void encoding_forget(struct encoding *encoding);
void encoding_get_counters(struct encoding *encoding, struct encoding_counters *counters);

/* encoding NULL: a lane that never encodes. */
struct encoding_lane *encoding_lane_new(struct encoding *encoding);
void encoding_lane_free(struct encoding_lane *lane);
/* The packet was begun. */
void encoding_lane_begin(struct encoding_lane *lane, struct wire_pages_out *packet);
/* The packet is complete: encodes it. */
void encoding_lane_pack(struct encoding_lane *lane, struct wire_pages_out *packet);
/* It was sent. */
void encoding_lane_sent(struct encoding_lane *lane, uint64_t wire_bytes);

#endif
