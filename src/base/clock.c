/* SPDX-License-Identifier: MIT */
/* Alignment of another host's clock with ours. */
#include "base/clock.h"

void clock_offset_sample(struct clock_offset *offset, uint64_t t0, uint64_t t1, uint64_t t2,
                         uint64_t t3)
{
    /* Bounded so that no sum below can overflow: 2^62 ns are 146 years. */
    const uint64_t limit = UINT64_C(1) << 62;

    if (t0 > limit || t1 > limit || t2 > limit || t3 > limit || t3 < t0 || t2 < t1 ||
        t3 - t0 < t2 - t1) {
        return;
    }
    uint64_t error_ns = ((t3 - t0) - (t2 - t1) + 1) / 2;
    if (offset->is_known && offset->error_ns <= error_ns) {
        return;
    }
    int64_t ahead_at_start = (int64_t)t1 - (int64_t)t0;
    int64_t ahead_at_end = (int64_t)t2 - (int64_t)t3;
    offset->offset_ns = ahead_at_start + (ahead_at_end - ahead_at_start) / 2;
    offset->error_ns = error_ns;
    offset->is_known = true;
}

uint64_t clock_offset_to_ours(const struct clock_offset *offset, uint64_t their_ns)
{
    if (!offset->is_known) {
        return their_ns;
    }
    if (offset->offset_ns >= 0) {
        uint64_t ahead = (uint64_t)offset->offset_ns;
        return their_ns > ahead ? their_ns - ahead : 0;
    }
    uint64_t behind = (uint64_t)-offset->offset_ns;
    return their_ns > UINT64_MAX - behind ? UINT64_MAX : their_ns + behind;
}
