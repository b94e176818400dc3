/* SPDX-License-Identifier: MIT */
/*
 * Bandwidth limit: a token bucket that any number of channels share without a lock.
 *
 * Model: the bucket is one number, the moment at which all bytes granted so far will have been
 * sent at the set rate (the "theoretical arrival time" of the generic cell rate algorithm). A
 * writer adds the duration of its next piece to it and waits until the moment before that; the
 * bucket's depth is how far that moment may lie in the past. Pieces are 2 ms long, so a new rate
 * takes effect at once and channels take turns.
 *
 * Precision: in any second at most the rate, the depth of 10 ms and one piece pass: 1.2 % too much.
 * A writer that the host lets sleep too long makes up for it out of the depth. (Below 2 MB/s, where
 * the smallest piece is longer than 2 ms, it is one such piece instead.)
 *
 * Who goes first has a bucket of its own at the same rate, and what it takes there is taken out of
 * the other as well: it waits for nobody but its own kind, and the others for both. What they had
 * been granted before is still sent, so that one piece of each of them comes on top, once.
 *
 * ORDER: relaxed; nothing else is published through these numbers.
 */
#include "channel/channel_impl.h"

#define BURST_NS        (10 * CHANNEL_NS_PER_MS)
#define PIECE_NS        (2 * CHANNEL_NS_PER_MS)
#define MIN_PIECE_BYTES UINT64_C(4096)
#define MAX_PIECE_BYTES (UINT64_C(4) << 20)

struct gw_rate_limit {
    struct gw_rate_limit *behind; /* fixed; one reference: this one goes first, at its rate */
    _Atomic uint32_t n_refs;
    _Atomic uint64_t bytes_per_s; /* 0: unlimited; of no use with `behind` */
    _Atomic int64_t busy_until_ns;
};

struct rate_channel {
    struct gw_channel layer;
    struct gw_rate_limit *limit; /* one reference */
};

struct gw_rate_limit *gw_rate_limit_new(uint64_t bytes_per_s)
{
    struct gw_rate_limit *limit = g_new0(struct gw_rate_limit, 1);

    atomic_init(&limit->n_refs, 1);
    atomic_init(&limit->bytes_per_s, bytes_per_s);
    atomic_init(&limit->busy_until_ns, 0);
    return limit;
}

struct gw_rate_limit *gw_rate_limit_new_before(struct gw_rate_limit *behind)
{
    struct gw_rate_limit *limit = gw_rate_limit_new(0);

    limit->behind = gw_rate_limit_ref(behind);
    return limit;
}

struct gw_rate_limit *gw_rate_limit_ref(struct gw_rate_limit *limit)
{
    atomic_fetch_add_explicit(&limit->n_refs, 1, memory_order_relaxed);
    return limit;
}

void gw_rate_limit_unref(struct gw_rate_limit *limit)
{
    if (limit != NULL && atomic_fetch_sub_explicit(&limit->n_refs, 1, memory_order_acq_rel) == 1) {
        gw_rate_limit_unref(limit->behind);
        g_free(limit);
    }
}

void gw_rate_limit_set(struct gw_rate_limit *limit, uint64_t bytes_per_s)
{
    atomic_store_explicit(&limit->bytes_per_s, bytes_per_s, memory_order_relaxed);
}

static uint64_t rate_of(const struct gw_rate_limit *limit)
{
    const struct gw_rate_limit *whose = limit->behind ? limit->behind : limit;

    return atomic_load_explicit(&whose->bytes_per_s, memory_order_relaxed);
}

static int64_t duration_ns(uint64_t n_bytes, uint64_t bytes_per_s)
{
    return (int64_t)((double)n_bytes * (double)CHANNEL_NS_PER_S / (double)bytes_per_s);
}

size_t rate_piece_bytes(uint64_t bytes_per_s)
{
    return (size_t)CLAMP(bytes_per_s / (uint64_t)(CHANNEL_NS_PER_S / PIECE_NS), MIN_PIECE_BYTES,
                         MAX_PIECE_BYTES);
}

int64_t rate_take(struct gw_rate_limit *limit, uint64_t bytes_per_s, size_t n_bytes, int64_t now_ns)
{
    int64_t cost_ns = duration_ns(n_bytes, bytes_per_s);
    int64_t old = atomic_load_explicit(&limit->busy_until_ns, memory_order_relaxed);
    int64_t start;

    if (limit->behind) {
        rate_take(limit->behind, bytes_per_s, n_bytes, now_ns);
    }
    do {
        start = MAX(old, now_ns - BURST_NS);
    } while (!atomic_compare_exchange_weak_explicit(&limit->busy_until_ns, &old, start + cost_ns,
                                                    memory_order_relaxed, memory_order_relaxed));
    return start;
}

void rate_give_back(struct gw_rate_limit *limit, uint64_t bytes_per_s, size_t n_bytes)
{
    atomic_fetch_sub_explicit(&limit->busy_until_ns, duration_ns(n_bytes, bytes_per_s),
                              memory_order_relaxed);
    if (limit->behind) {
        rate_give_back(limit->behind, bytes_per_s, n_bytes);
    }
}

static ssize_t rate_readv(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                          int64_t deadline_ns, GError **error)
{
    return channel->next->ops->readv(channel->next, iov, n_iov, deadline_ns, error);
}

static ssize_t rate_writev(struct gw_channel *channel, const struct iovec *iov, size_t n_iov,
                           int64_t deadline_ns, GError **error)
{
    struct gw_rate_limit *limit = ((struct rate_channel *)channel)->limit;
    struct gw_channel *next = channel->next;
    uint64_t rate = rate_of(limit);
    struct iovec piece[CHANNEL_MAX_IOV];

    if (rate == 0) {
        return next->ops->writev(next, iov, n_iov, deadline_ns, error);
    }
    size_t n_piece = channel_iov_cut(iov, n_iov, 0, rate_piece_bytes(rate), piece, CHANNEL_MAX_IOV);
    size_t wanted = channel_iov_bytes(piece, n_piece);
    int64_t when_ns = rate_take(limit, rate, wanted, channel_now_ns());
    if (when_ns > channel_now_ns() &&
        !channel_core_pause(channel->core, when_ns, false, deadline_ns, error)) {
        return -1;
    }
    ssize_t n = next->ops->writev(next, piece, n_piece, deadline_ns, error);
    if (n >= 0 && (size_t)n < wanted) {
        rate_give_back(limit, rate, wanted - (size_t)n);
    }
    return n;
}

static bool rate_finish(struct gw_channel *channel, int64_t deadline_ns, GError **error)
{
    return channel->next->ops->finish(channel->next, deadline_ns, error);
}

static void rate_shutdown(struct gw_channel *channel)
{
    channel->next->ops->shutdown(channel->next);
}

static void rate_free(struct gw_channel *channel)
{
    struct rate_channel *self = (struct rate_channel *)channel;

    channel->next->ops->free(channel->next);
    gw_rate_limit_unref(self->limit);
    g_free(self);
}

static const struct channel_ops rate_ops = {
    .readv = rate_readv,
    .writev = rate_writev,
    .finish = rate_finish,
    .shutdown = rate_shutdown,
    .free = rate_free,
};

struct gw_channel *channel_rate_new(struct gw_channel *next, struct gw_rate_limit *limit)
{
    struct rate_channel *self = g_new0(struct rate_channel, 1);

    channel_layer_init(&self->layer, &rate_ops, next->core, next);
    self->limit = gw_rate_limit_ref(limit);
    return &self->layer;
}
