/* SPDX-License-Identifier: MIT */
/*
 * The controller of throttling: which vCPUs are slowed, and by how much, so that rounds converge.
 *
 * Model. Rounds converge when the guest dirties less than the link carries: each leaves rate / link
 * of what it sent. The *target* is the rate at which a round leaves half (THROTTLE_ROUND_SHARE):
 * the remainder then meets any budget after its logarithm in rounds. Where a round cannot be
 * shorter than some time, the target is at most what the blackout may still have to send, dirtied
 * in that time. Whoever may send nothing in the blackout has no target, and nobody is slowed for
 * it.
 *
 * It engages when the guest dirties so much that rounds hardly shrink (THROTTLE_ENGAGE_SHARE), and
 * lets go when nobody has to be slowed any more.
 *
 * Who: what a vCPU would dirty if it was free is its measured rate divided by the share of time it
 * has. All vCPUs get the same *level*, found so that what is left of all adds up to the target, and
 * only those above it are slowed, each to the level and by no more than the user allows. The level
 * is never below an equal part of the target: who dirties less than that is not slowed, however
 * much the others dirty. Where nobody knows who dirties, all are taken to dirty the same.
 *
 * A page counts once in a measurement however often it is written, so of a vCPU that is far too
 * fast the rate is underestimated, and the share is approached from above: in a few rounds, because
 * each divides it by measured rate / target. It is given back more slowly, because one quiet moment
 * says little about a guest that is kept from running most of the time: fourfold a round to one
 * that would need no throttle any more, and by half to one that would.
 *
 * Threads: owned by the source's control thread. Pure: rates in, throttles out; no clock is read.
 */
#ifndef MIGRATE_THROTTLE_H
#define MIGRATE_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#define THROTTLE_ROUND_SHARE  500u /* permille of the link that the guest may dirty */
#define THROTTLE_ENGAGE_SHARE 875u /* permille of the link from which on somebody is slowed */
/* A vCPU's share of time grows at most by these factors, in permille. */
#define THROTTLE_GIVE_BACK    4000u /* it would fit now */
#define THROTTLE_CREEP        1500u /* it would not */

struct throttle_vcpu {
    uint64_t dirty_bytes_per_s; /* measured */
    uint64_t free_bytes_per_s;  /* what it would be, not throttled */
    uint32_t permille;          /* of the time it may not run */
};

struct throttle {
    bool is_engaged;
    uint32_t n_vcpus;
    struct throttle_vcpu *vcpus;
};

/* What the rounds have measured. */
struct throttle_facts {
    uint64_t link_bytes_per_s;  /* acknowledged; 0: not yet known */
    uint64_t allowance_bytes;   /* that may remain at the switchover; 0: even none is too many */
    uint64_t round_floor_ns;    /* what the smallest round takes; 0: not known */
    uint64_t dirty_bytes_per_s; /* of the whole guest, devices included */
    uint32_t max_permille;      /* the user's budget; 0: nobody is slowed */
    bool has_vcpu_rates;        /* the vCPUs' dirty_bytes_per_s are filled in */
};

void throttle_init(struct throttle *throttle, uint32_t n_vcpus);
void throttle_clear(struct throttle *throttle);
/* The dirty rate at which rounds converge; 0: none helps, or nothing is known. */
uint64_t throttle_target(const struct throttle_facts *facts);
/* One round's measurement: sets every vCPU's permille anew. */
void throttle_update(struct throttle *throttle, const struct throttle_facts *facts);
/* Nobody is slowed any more; measured rates are kept. */
void throttle_release(struct throttle *throttle);
uint32_t throttle_most_permille(const struct throttle *throttle);
uint32_t throttle_n_slowed(const struct throttle *throttle);

#endif
