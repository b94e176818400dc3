/* SPDX-License-Identifier: MIT */
/* How many of the open page channels a round uses. */
#include "migrate/tune.h"

#include "base/clock.h"

#define NEARLY_PERCENT 97 /* of what more channels carried */

void tune_init(struct tune *tune, uint32_t n_all, bool is_auto)
{
    *tune = (struct tune){.is_auto = is_auto && n_all > 1,
                          .n_all = n_all,
                          .n_active = n_all,
                          .pause_ns = TUNE_FIRST_NS};
}

static void pause_until(struct tune *tune, uint64_t now_ns)
{
    tune->is_trial = false;
    tune->has_window = false;
    tune->next_trial_ns = now_ns + tune->pause_ns;
}

void tune_round(struct tune *tune, uint64_t now_ns)
{
    tune->n_active = tune->n_all;
    pause_until(tune, now_ns);
}

static void begin_window(struct tune *tune, uint64_t now_ns, uint64_t n_bytes)
{
    tune->has_window = true;
    tune->window_start_ns = now_ns;
    tune->window_bytes = n_bytes;
}

/* A window is over: with it the trial, or it was the one to compare with. */
static void end_window(struct tune *tune, uint64_t now_ns, uint64_t n_bytes)
{
    uint64_t rate = (uint64_t)((__uint128_t)(n_bytes - tune->window_bytes) * NS_PER_S /
                               (now_ns - tune->window_start_ns));

    if (tune->is_trial && rate < tune->before_rate / 100 * NEARLY_PERCENT) {
        tune->n_active = tune->n_before;
        if (tune->pause_ns < TUNE_MAX_PAUSE_NS)
            tune->pause_ns *= 2;
        pause_until(tune, now_ns);
        return;
    }
    /* Fewer are as good, or it is known now what all carry: try half. */
    tune->is_trial = tune->n_active > 1;
    tune->n_before = tune->n_active;
    tune->before_rate = rate;
    tune->n_active -= tune->n_active / 2;
    begin_window(tune, now_ns, n_bytes);
    if (!tune->is_trial)
        tune->next_trial_ns = UINT64_MAX; /* one is enough */
}

uint32_t tune_look(struct tune *tune, uint64_t now_ns, uint64_t n_bytes)
{
    if (!tune->is_auto || now_ns < tune->next_trial_ns)
        return tune->n_active;
    if (!tune->has_window)
        begin_window(tune, now_ns, n_bytes);
    else if (now_ns >= tune->window_start_ns + TUNE_WINDOW_NS)
        end_window(tune, now_ns, n_bytes);
    return tune->n_active;
}

uint64_t tune_next_ns(const struct tune *tune)
{
    if (!tune->is_auto || tune->next_trial_ns == UINT64_MAX)
        return UINT64_MAX;
    return tune->has_window ? tune->window_start_ns + TUNE_WINDOW_NS : tune->next_trial_ns;
}
