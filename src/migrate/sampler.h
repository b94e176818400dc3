/* SPDX-License-Identifier: MIT */
/*
 * Watches what a running guest dirties, for a forecast.
 *
 * Model: the dirty log is collected in slots of 10 ms; each slot is a window of the dirty model, a
 * part of longer ones, and a beat of the rhythm. A collection makes the guest's next write to each
 * collected page slower (it is noticed anew); so a slot is as long as it takes for that to stay
 * below 3 % of it, by an estimate, and a guest that writes the same pages over and over is looked
 * at less often, not slowed down more. Where longer slots would not cost it less, because it writes
 * other pages all the time, they stay short: what it does in bursts is not seen in long ones.
 *
 * The dirty log has one user. Nobody else may have it meanwhile: a migration under way makes this
 * fail with STATE.
 *
 * Threads: sampler_run blocks its thread until it is over or cancelled, within a slot.
 *
 * Locks: sampler.lock is a leaf.
 */
#ifndef MIGRATE_SAMPLER_H
#define MIGRATE_SAMPLER_H

#include "migrate/dirty_model.h"
#include "migrate/rhythm.h"

#define SAMPLER_COST_NS      1500 /* of the next write to a page that was collected, about */
#define SAMPLER_MAX_PERMILLE 30u
#define SAMPLER_WORTH        1.25 /* a longer slot has to cost less by this to be worth it */
#define SAMPLER_MAX_SLOT_NS  UINT64_C(640000000)
#define SAMPLER_ZERO_LOOKS   2048u

struct sampler_result {
    struct dirty_model dirty;
    struct rhythm_profile rhythm;
    uint64_t fetch_ns;      /* of a collection, on average */
    uint32_t cost_permille; /* estimate of what it took from the guest */
    /* by sampler_look_at_memory */
    uint64_t used_bytes; /* pages that were ever touched */
    uint64_t zero_bytes; /* of them, estimated from SAMPLER_ZERO_LOOKS: only zeroes */
};

struct sampler;
struct sampler *sampler_new(struct gw_memory *memory, uint64_t length_ns);
void sampler_free(struct sampler *sampler);
/* False with error: CANCELLED, STATE (the log is in use), or what collecting failed with. */
bool sampler_run(struct sampler *sampler, struct sampler_result *result, GError **error);
/* What there is to send, beside what is dirtied. Takes by the size of the memory. */
void sampler_look_at_memory(const struct gw_memory *memory, struct sampler_result *result);
void sampler_cancel(struct sampler *sampler); /* any thread */
/* It has seen enough: sampler_run ends with what there is. Any thread. */
void sampler_finish(struct sampler *sampler);
uint64_t sampler_elapsed_ns(struct sampler *sampler);

/* How long the next slot has to be for a guest like this, when it takes collect_ns to collect: a
 * doubling of 10 ms. Pure. */
uint64_t sampler_slot_ns(const struct dirty_model *model, uint64_t collect_ns);
/* The same when the last slot took last_ns and had so many pages: slots get longer step by step,
 * and only while they cost too much. A guest that has just had its burst needs no long ones, though
 * the curve looks like that of one that writes the same over and over. */
uint64_t sampler_next_slot_ns(const struct dirty_model *model, uint64_t collect_ns,
                              uint64_t last_ns, double last_pages);

#endif
