/* SPDX-License-Identifier: MIT */
/* Watches what a running guest dirties, in slots whose length bounds what watching costs it. */
#include "migrate/sampler.h"

#include <math.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/zero.h"
#include "godwit/error.h"

struct sampler {
    /* fixed after construction */
    struct gw_memory *memory;
    uint64_t length_ns;

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_cancelled, is_finished;
    uint64_t start_ns, end_ns; /* 0: not yet */

    /* of the thread that runs */
    struct dirty_windows *windows;
    struct rhythm rhythm;
    uint64_t n_slots, collect_ns, n_collected;
    uint64_t least_collect_ns; /* what one takes; more is what else the host does */
};

struct sampler *sampler_new(struct gw_memory *memory, uint64_t length_ns)
{
    struct sampler *sampler = g_new0(struct sampler, 1);

    sampler->memory = memory;
    sampler->length_ns = length_ns;
    sampler->least_collect_ns = UINT64_MAX;
    pthread_mutex_init(&sampler->lock, NULL);
    cond_init_mono(&sampler->changed);
    return sampler;
}

void sampler_free(struct sampler *sampler)
{
    if (!sampler)
        return;
    dirty_windows_free(sampler->windows);
    pthread_cond_destroy(&sampler->changed);
    pthread_mutex_destroy(&sampler->lock);
    g_free(sampler);
}

void sampler_cancel(struct sampler *sampler)
{
    pthread_mutex_lock(&sampler->lock);
    sampler->is_cancelled = true;
    pthread_cond_broadcast(&sampler->changed);
    pthread_mutex_unlock(&sampler->lock);
}

void sampler_finish(struct sampler *sampler)
{
    pthread_mutex_lock(&sampler->lock);
    sampler->is_finished = true;
    pthread_cond_broadcast(&sampler->changed);
    pthread_mutex_unlock(&sampler->lock);
}

uint64_t sampler_elapsed_ns(struct sampler *sampler)
{
    uint64_t start_ns, end_ns;

    pthread_mutex_lock(&sampler->lock);
    start_ns = sampler->start_ns;
    end_ns = sampler->end_ns ? sampler->end_ns : clock_mono_ns();
    pthread_mutex_unlock(&sampler->lock);
    return start_ns ? end_ns - start_ns : 0;
}

/* The share of its time that slots of this length take from the guest. */
static double slot_cost(const struct dirty_model *model, uint64_t collect_ns, uint64_t slot_ns)
{
    double pages = dirty_model_pages(model, (double)slot_ns);

    return (pages * SAMPLER_COST_NS + (double)collect_ns) / (double)slot_ns;
}

uint64_t sampler_slot_ns(const struct dirty_model *model, uint64_t collect_ns)
{
    double most = SAMPLER_MAX_PERMILLE / 1000.0, least = INFINITY;
    uint64_t slot_ns = DIRTY_UNIT_NS;

    for (uint64_t ns = DIRTY_UNIT_NS; ns <= SAMPLER_MAX_SLOT_NS; ns *= 2)
        least = fmin(least, slot_cost(model, collect_ns, ns));
    most = fmax(most, least * SAMPLER_WORTH);
    while (slot_ns < SAMPLER_MAX_SLOT_NS && slot_cost(model, collect_ns, slot_ns) > most)
        slot_ns *= 2;
    return slot_ns;
}

uint64_t sampler_next_slot_ns(const struct dirty_model *model, uint64_t collect_ns,
                              uint64_t last_ns, double last_pages)
{
    double cost = (last_pages * SAMPLER_COST_NS + (double)collect_ns) / (double)MAX(last_ns, 1);
    double most = SAMPLER_MAX_PERMILLE / 1000.0;
    uint64_t most_ns = cost > most ? 2 * last_ns : cost > most / 4 ? last_ns : last_ns / 2;

    return MIN(sampler_slot_ns(model, collect_ns), MAX(most_ns, DIRTY_UNIT_NS));
}

/* False: cancelled. *is_finished: it was told to end. */
static bool wait_until(struct sampler *sampler, uint64_t deadline_ns, bool *is_finished)
{
    bool is_cancelled;

    pthread_mutex_lock(&sampler->lock);
    while (!sampler->is_cancelled && !sampler->is_finished &&
           cond_wait_until(&sampler->changed, &sampler->lock, deadline_ns))
        continue;
    is_cancelled = sampler->is_cancelled;
    *is_finished = sampler->is_finished;
    pthread_mutex_unlock(&sampler->lock);
    return !is_cancelled;
}

static bool watch(struct sampler *sampler, uint64_t end_ns, GError **error)
{
    struct gw_page_set *slot = gw_page_set_new(sampler->memory);
    uint64_t since_ns = clock_mono_ns(), slot_ns = DIRTY_UNIT_NS;
    bool is_ok = true, is_finished = false;

    while (is_ok && !is_finished && since_ns < end_ns) {
        uint64_t from_ns, to_ns;

        if (!wait_until(sampler, since_ns + slot_ns, &is_finished)) {
            g_set_error_literal(error, GW_ERROR, GW_ERROR_CANCELLED, "cancelled");
            is_ok = false;
            break;
        }
        from_ns = clock_mono_ns();
        is_ok = gw_memory_log_collect(sampler->memory, slot, NULL, error);
        to_ns = clock_mono_ns();
        if (is_ok) {
            struct dirty_model model;

            dirty_windows_add(sampler->windows, slot, from_ns - since_ns);
            rhythm_add(&sampler->rhythm, since_ns, from_ns, (double)slot->n_set);
            sampler->n_slots++;
            sampler->n_collected += slot->n_set;
            sampler->collect_ns += to_ns - from_ns;
            sampler->least_collect_ns = MIN(sampler->least_collect_ns, to_ns - from_ns);
            dirty_windows_get(sampler->windows, true, &model);
            slot_ns = sampler_next_slot_ns(&model, sampler->least_collect_ns, from_ns - since_ns,
                                           (double)slot->n_set);
            since_ns = from_ns;
            gw_page_set_clear(slot);
        }
    }
    gw_page_set_free(slot);
    return is_ok;
}

/* Of the touched pages, one in so many is looked at. */
static void look_for_zeroes(const struct gw_memory *memory, struct sampler_result *result)
{
    uint64_t n_used = result->used_bytes / GW_PAGE_SIZE;
    uint64_t step = MAX(n_used / SAMPLER_ZERO_LOOKS, 1), next = step / 2, seen = 0;
    uint64_t n_looked = 0, n_zero = 0;

    for (uint32_t i = 0; i < gw_memory_n_blocks(memory); i++) {
        const struct gw_ram_block *block = gw_memory_block(memory, i);
        uint64_t page = 0, n_pages;

        for (; gw_memory_next_allocated_run(block, &page, &n_pages); page += n_pages) {
            for (; next < seen + n_pages; next += step) {
                uint64_t at = page + (next - seen);

                /* A page that was given back meanwhile must not be read: that would fill it. */
                if (!(gw_memory_touched_mask(block, at, 1) & 1))
                    continue;
                n_looked++;
                n_zero += page_is_zero(block->host + at * GW_PAGE_SIZE);
            }
            seen += n_pages;
        }
    }
    if (n_looked)
        result->zero_bytes =
            (uint64_t)((double)n_zero / (double)n_looked * (double)n_used) * GW_PAGE_SIZE;
}

static uint64_t used_bytes(const struct gw_memory *memory)
{
    uint64_t n_used = 0;

    for (uint32_t i = 0; i < gw_memory_n_blocks(memory); i++) {
        uint64_t page = 0, n_pages;

        for (; gw_memory_next_allocated_run(gw_memory_block(memory, i), &page, &n_pages);
             page += n_pages)
            n_used += n_pages;
    }
    return n_used * GW_PAGE_SIZE;
}

void sampler_look_at_memory(const struct gw_memory *memory, struct sampler_result *result)
{
    result->used_bytes = used_bytes(memory);
    look_for_zeroes(memory, result);
}

static void summarize(struct sampler *sampler, uint64_t spent_ns, struct sampler_result *result)
{
    rhythm_profile(&sampler->rhythm, &result->rhythm);
    dirty_windows_get(sampler->windows, result->rhythm.n == 0, &result->dirty);
    result->fetch_ns = sampler->n_slots ? sampler->collect_ns / sampler->n_slots : 0;
    result->cost_permille = (uint32_t)MIN(
        (sampler->n_collected * SAMPLER_COST_NS + sampler->collect_ns) * 1000 / MAX(spent_ns, 1),
        1000u);
}

bool sampler_run(struct sampler *sampler, struct sampler_result *result, GError **error)
{
    uint64_t start_ns;
    bool is_ok;

    *result = (struct sampler_result){0};
    if (!gw_memory_log_start(sampler->memory, error)) {
        g_prefix_error(error, "watching the guest: ");
        return false;
    }
    sampler->windows = dirty_windows_new(sampler->memory);
    start_ns = clock_mono_ns();
    pthread_mutex_lock(&sampler->lock);
    sampler->start_ns = start_ns;
    pthread_mutex_unlock(&sampler->lock);
    is_ok = watch(sampler, start_ns + sampler->length_ns, error);
    gw_memory_log_stop(sampler->memory);
    pthread_mutex_lock(&sampler->lock);
    sampler->end_ns = clock_mono_ns();
    pthread_mutex_unlock(&sampler->lock);
    if (is_ok)
        summarize(sampler, sampler->end_ns - start_ns, result);
    return is_ok;
}
