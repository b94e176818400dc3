/* SPDX-License-Identifier: MIT */
/* The encodings of a source's pages: what was agreed, what pays, the cache, and the count of it. */
#include "migrate/encoding.h"

#include <glib.h>
#include <pthread.h>

#include "base/clock.h"

struct encoding {
    /* fixed after construction */
    uint64_t cache_bytes;

    /* written while no lane is in a round */
    struct delta_cache *cache; /* made when a round first wants deltas */
    unsigned n_lanes;

    /* guarded by lock */
    pthread_mutex_t lock;
    struct encode_choice choice;
    struct encoding_counters counters;
};

struct encoding_lane {
    struct encoding *encoding;
    struct wire_encoder *encoder; /* made when a packet first wants it */
    struct delta_cache *cache;    /* the one the encoder knows */
    bool is_hopeless;             /* there is no memory for an encoder */
    unsigned modes;               /* of the packet */
    struct wire_encode_stats stats;
    uint64_t packed_ns;
};

static enum encode_policy agreed(enum encode_policy policy, uint64_t features, unsigned feature)
{
    return features >> feature & 1 ? policy : ENCODE_OFF;
}

struct encoding *encoding_new(const struct encoding_params *params, uint32_t n_lanes)
{
    struct encoding *encoding = g_new0(struct encoding, 1);

    pthread_mutex_init(&encoding->lock, NULL);
    encoding->cache_bytes = params->cache_bytes;
    /* A lane that cannot encode would not note in the cache what it sends. */
    encode_choice_init(&encoding->choice, agreed(params->zstd, params->features, WIRE_FEATURE_ZSTD),
                       n_lanes > ENCODING_MAX_LANES
                           ? ENCODE_OFF
                           : agreed(params->delta, params->features, WIRE_FEATURE_DELTA),
                       n_lanes, clock_mono_ns());
    return encoding;
}

void encoding_free(struct encoding *encoding)
{
    if (!encoding)
        return;
    delta_cache_free(encoding->cache);
    pthread_mutex_destroy(&encoding->lock);
    g_free(encoding);
}

/* With the lock held. */
static void start_round(struct encoding *encoding, uint32_t round)
{
    encode_choice_round(&encoding->choice, round);
    encoding->counters.round_saved = encoding->counters.round_wire = 0;
}

void encoding_begin_round(struct encoding *encoding, uint32_t round)
{
    pthread_mutex_lock(&encoding->lock);
    start_round(encoding, round);
    if (encoding->choice.is_delta_on && !encoding->cache) {
        encoding->cache = delta_cache_new(encoding->cache_bytes);
        if (!encoding->cache)
            encoding->choice.delta_policy = ENCODE_OFF;
        encoding->choice.is_delta_on = encoding->cache != NULL;
        encoding->counters.cache_bytes = encoding->cache ? encoding->cache_bytes : 0;
    }
    pthread_mutex_unlock(&encoding->lock);
    /* What is sent without deltas from here on is not noted in the cache. */
    if (encoding->cache && !encoding->choice.is_delta_on)
        delta_cache_clear(encoding->cache);
}

void encoding_begin_push(struct encoding *encoding, uint32_t round)
{
    pthread_mutex_lock(&encoding->lock);
    start_round(encoding, round);
    encoding->choice.is_delta_on = false;
    pthread_mutex_unlock(&encoding->lock);
    g_clear_pointer(&encoding->cache, delta_cache_free);
}

void encoding_forget(struct encoding *encoding)
{
    if (encoding->cache)
        delta_cache_clear(encoding->cache);
}

void encoding_get_counters(struct encoding *encoding, struct encoding_counters *counters)
{
    pthread_mutex_lock(&encoding->lock);
    *counters = encoding->counters;
    counters->is_zstd_on = encoding->choice.is_zstd_on;
    counters->is_delta_on = encoding->choice.is_delta_on;
    pthread_mutex_unlock(&encoding->lock);
}

struct encoding_lane *encoding_lane_new(struct encoding *encoding)
{
    struct encoding_lane *lane = g_new0(struct encoding_lane, 1);

    lane->encoding = encoding;
    lane->is_hopeless = encoding && encoding->n_lanes++ >= ENCODING_MAX_LANES;
    return lane;
}

void encoding_lane_free(struct encoding_lane *lane)
{
    if (!lane)
        return;
    wire_encoder_free(lane->encoder);
    g_free(lane);
}

static struct wire_encoder *lane_encoder(struct encoding_lane *lane)
{
    if (lane->encoder && lane->cache != lane->encoding->cache)
        g_clear_pointer(&lane->encoder, wire_encoder_free);
    if (!lane->encoder && !lane->is_hopeless) {
        lane->cache = lane->encoding->cache;
        lane->encoder = wire_encoder_new(lane->cache);
        lane->is_hopeless = !lane->encoder;
    }
    return lane->encoder;
}

void encoding_lane_begin(struct encoding_lane *lane, struct wire_pages_out *packet)
{
    struct encoding *encoding = lane->encoding;

    lane->modes = 0;
    if (!encoding)
        return;
    pthread_mutex_lock(&encoding->lock);
    lane->modes = encode_choice_next(&encoding->choice, clock_mono_ns());
    pthread_mutex_unlock(&encoding->lock);
    if (lane->modes && !lane_encoder(lane))
        lane->modes = 0;
    if (lane->modes)
        wire_pages_use(packet, lane->encoder, lane->modes);
}

void encoding_lane_pack(struct encoding_lane *lane, struct wire_pages_out *packet)
{
    lane->stats = (struct wire_encode_stats){0};
    if (lane->modes) {
        wire_pages_encode(packet);
        lane->stats = *wire_encoder_stats(lane->encoder);
    }
    if (lane->encoding)
        lane->packed_ns = clock_mono_ns();
}

static void add_count(struct wire_encode_count *sum, const struct wire_encode_count *count)
{
    sum->n_tried += count->n_tried;
    sum->n_pages += count->n_pages;
    sum->in_bytes += count->in_bytes;
    sum->out_bytes += count->out_bytes;
    sum->work_ns += count->work_ns;
}

void encoding_lane_sent(struct encoding_lane *lane, uint64_t wire_bytes)
{
    struct encoding *encoding = lane->encoding;
    const struct wire_encode_stats *stats = &lane->stats;
    uint64_t now_ns;

    if (!encoding)
        return;
    now_ns = clock_mono_ns();
    pthread_mutex_lock(&encoding->lock);
    add_count(&encoding->counters.total.delta, &stats->delta);
    add_count(&encoding->counters.total.zstd, &stats->zstd);
    encoding->counters.total.n_unknown += stats->n_unknown;
    encoding->counters.total.n_overflows += stats->n_overflows;
    encoding->counters.round_saved += stats->delta.in_bytes - stats->delta.out_bytes;
    encoding->counters.round_saved += stats->zstd.in_bytes - stats->zstd.out_bytes;
    encoding->counters.round_wire += wire_bytes;
    encode_choice_sent(&encoding->choice,
                       &(struct encode_seen){.modes = lane->modes,
                                             .stats = *stats,
                                             .wire_bytes = wire_bytes,
                                             .send_ns = now_ns - lane->packed_ns},
                       now_ns);
    pthread_mutex_unlock(&encoding->lock);
}
