/* SPDX-License-Identifier: MIT */
/* The curve of distinct dirty pages over time: measured in nested windows, read off, continued. */
#include "migrate/dirty_model.h"

#include <math.h>

#define LEAST_PACE       0.4 /* a guest that seems slower has changed */
#define MIN_PACE_WINDOWS 8u
#define MIN_PACE_PAGES   64.0

/* ---- windows ----------------------------------------------------------------------------------
 */

/* One length of window: the one that is being filled, and what the full ones had. */
struct level {
    struct gw_page_set *set; /* NULL until it is needed */
    uint64_t elapsed_ns;
    double writes;                           /* in the slots of the one that is being filled */
    double length_ns, pages, square, effort; /* averages; effort: writes of the full ones */
    uint32_t n;
};

struct dirty_windows {
    const struct gw_memory *memory;
    double all_ns, all_writes;
    struct level levels[DIRTY_LEVELS];
};

struct dirty_windows *dirty_windows_new(const struct gw_memory *memory)
{
    struct dirty_windows *windows = g_new0(struct dirty_windows, 1);

    windows->memory = memory;
    return windows;
}

void dirty_windows_free(struct dirty_windows *windows)
{
    if (!windows)
        return;
    for (unsigned i = 0; i < DIRTY_LEVELS; i++)
        g_clear_pointer(&windows->levels[i].set, gw_page_set_free);
    g_free(windows);
}

static uint64_t level_ns(unsigned level)
{
    return DIRTY_UNIT_NS << level;
}

static void level_clear(struct level *level)
{
    if (level->set)
        gw_page_set_clear(level->set);
    level->elapsed_ns = 0;
    level->writes = 0;
}

static void level_record(struct level *level, uint64_t length_ns, double writes, uint64_t n_pages)
{
    double weight;

    level->n++;
    weight = 1.0 / MIN(level->n, DIRTY_MAX_COUNT);
    level->length_ns += weight * ((double)length_ns - level->length_ns);
    level->effort += weight * (writes - level->effort);
    level->pages += weight * ((double)n_pages - level->pages);
    level->square += weight * ((double)n_pages * (double)n_pages - level->square);
}

static void level_add(struct dirty_windows *windows, unsigned i, const struct gw_page_set *slot,
                      uint64_t length_ns)
{
    struct level *level = &windows->levels[i];
    uint64_t aim_ns = level_ns(i), most_ns = aim_ns + aim_ns / 2;

    /* A slot that would make the window far too long starts the next one, or is too long itself. */
    if (level->elapsed_ns + length_ns > most_ns)
        level_clear(level);
    if (length_ns > most_ns)
        return;
    if (level->elapsed_ns == 0 && length_ns >= aim_ns) {
        level_record(level, length_ns, (double)slot->n_set, slot->n_set);
        return;
    }
    if (!level->set)
        level->set = gw_page_set_new(windows->memory);
    gw_page_set_or(level->set, slot);
    level->elapsed_ns += length_ns;
    level->writes += (double)slot->n_set;
    /* Slots are late by a little more often than early: a window is full when the next slot would
     * take it further from its aim. */
    if (level->elapsed_ns + length_ns / 2 >= aim_ns) {
        level_record(level, level->elapsed_ns, level->writes, level->set->n_set);
        level_clear(level);
    }
}

void dirty_windows_add(struct dirty_windows *windows, const struct gw_page_set *slot,
                       uint64_t length_ns)
{
    windows->all_ns += (double)length_ns;
    windows->all_writes += (double)slot->n_set;
    for (unsigned i = 0; i < DIRTY_LEVELS; i++)
        level_add(windows, i, slot, length_ns);
}

void dirty_windows_break(struct dirty_windows *windows)
{
    for (unsigned i = 0; i < DIRTY_LEVELS; i++)
        level_clear(&windows->levels[i]);
}

void dirty_windows_get(const struct dirty_windows *windows, bool is_even, struct dirty_model *model)
{
    double ns_per_write = windows->all_writes > 0 ? windows->all_ns / windows->all_writes : 0;

    *model = (struct dirty_model){
        .max_pages = (double)(gw_memory_size_bytes(windows->memory) / GW_PAGE_SIZE)};
    for (unsigned i = 0; i < DIRTY_LEVELS; i++) {
        const struct level *level = &windows->levels[i];
        const struct dirty_window *last =
            model->n_windows ? &model->windows[model->n_windows - 1] : NULL;
        double length_ns =
            is_even || ns_per_write <= 0 ? level->length_ns : level->effort * ns_per_write;

        /* A longer window cannot hold fewer pages: where it seems so, the guest has changed. */
        if (level->n == 0 || (last && length_ns <= last->length_ns))
            continue;
        model->windows[model->n_windows] = (struct dirty_window){
            .length_ns = length_ns,
            .pages = last ? fmax(level->pages, last->pages) : level->pages,
            .deviation = sqrt(fmax(level->square - level->pages * level->pages, 0)),
            .n = level->n,
        };
        model->n_windows++;
    }
    dirty_model_fit(model);
}

/* ---- the curve --------------------------------------------------------------------------------
 */

void dirty_model_fit(struct dirty_model *model)
{
    const struct dirty_window *w = model->windows;
    uint32_t n = model->n_windows;
    double quarter, first, second, ratio, x;

    model->hot = n ? w[n - 1].pages : 0;
    model->warm = model->rate_per_ns = model->line_per_ns = 0;
    if (n == 1) {
        model->hot = 0;
        model->line_per_ns = w[0].pages / w[0].length_ns;
    }
    if (n < 2)
        return;
    /* What the third and fourth quarter of the longest window added to the second. */
    quarter = w[n - 1].length_ns / 4;
    first = dirty_model_pages(model, 2 * quarter) - dirty_model_pages(model, quarter);
    second = w[n - 1].pages - dirty_model_pages(model, 2 * quarter);
    if (second <= 0.01 * w[n - 1].pages || first <= 0)
        return;
    ratio = second / first;
    x = (sqrt(1 + 4 * ratio) - 1) / 2; /* exp(-rate * quarter), from x * (1 + x) = ratio */
    if (x >= 0.98) {
        model->line_per_ns = second / (2 * quarter);
        model->hot = fmax(w[n - 1].pages - model->line_per_ns * w[n - 1].length_ns, 0);
        return;
    }
    model->rate_per_ns = -log(x) / quarter;
    model->warm = first / (x * (1 - x));
    model->hot = w[n - 1].pages - model->warm * (1 - pow(x, 4));
}

static double clamp(const struct dirty_model *model, double pages)
{
    return fmin(fmax(pages, 0), model->max_pages);
}

static double beyond(const struct dirty_model *model, double ns)
{
    const struct dirty_window *last = &model->windows[model->n_windows - 1];

    if (model->rate_per_ns > 0)
        return model->hot + model->warm * (1 - exp(-model->rate_per_ns * ns));
    return last->pages + model->line_per_ns * (ns - last->length_ns);
}

/* By a power of time through both windows, which is what a curve between a constant and a line is
 * like. */
static double between(const struct dirty_window *a, const struct dirty_window *b, double ns)
{
    double power;

    if (a->pages < 1 || b->pages < 1)
        return a->pages +
               (b->pages - a->pages) * (ns - a->length_ns) / (b->length_ns - a->length_ns);
    power = log(b->pages / a->pages) / log(b->length_ns / a->length_ns);
    return a->pages * pow(ns / a->length_ns, fmin(power, 1));
}

double dirty_model_pages(const struct dirty_model *model, double ns)
{
    const struct dirty_window *w = model->windows;
    uint32_t n = model->n_windows, i = 0;

    if (n == 0 || ns <= 0)
        return 0;
    if (ns >= w[n - 1].length_ns)
        return clamp(model, beyond(model, ns));
    if (n == 1)
        return clamp(model, w[0].pages * ns / w[0].length_ns);
    if (ns < w[0].length_ns && w[0].pages < 1)
        return clamp(model, w[0].pages * ns / w[0].length_ns);
    while (i + 2 < n && w[i + 1].length_ns < ns)
        i++;
    return clamp(model, between(&w[i], &w[i + 1], ns));
}

double dirty_model_pace(const struct dirty_model *slowed, const struct dirty_model *usual)
{
    const struct dirty_window *window = slowed->windows;
    double low = LEAST_PACE, high = 1;
    uint32_t n = slowed->n_windows;

    /* What is read off a curve below its own shortest window is a guess. */
    while (n > 0 && usual->n_windows > 0 &&
           window->length_ns < LEAST_PACE * usual->windows[0].length_ns) {
        window++;
        n--;
    }
    if (n == 0 || window->n < MIN_PACE_WINDOWS || window->pages < MIN_PACE_PAGES ||
        dirty_model_pages(usual, window->length_ns) <= window->pages)
        return 1;
    while (high - low > 0.01) {
        double pace = (low + high) / 2;

        if (dirty_model_pages(usual, pace * window->length_ns) < window->pages)
            low = pace;
        else
            high = pace;
    }
    return high;
}

double dirty_model_doubt(const struct dirty_model *model, double ns)
{
    const struct dirty_window *w = model->windows;
    double doubt;
    uint32_t i = 0;

    if (model->n_windows == 0)
        return 0;
    while (i + 1 < model->n_windows && w[i + 1].length_ns <= ns)
        i++;
    /* The longest windows are few: how the next shorter ones differ says more than they do. */
    while (i > 0 && w[i].n < 4)
        i--;
    doubt = w[i].pages >= 1 ? w[i].deviation / w[i].pages / sqrt(fmax(1, ns / w[i].length_ns)) : 0;
    /* And what is read beyond all windows is a guess that grows with the distance. */
    if (ns > w[model->n_windows - 1].length_ns)
        doubt += 0.02 * log2(ns / w[model->n_windows - 1].length_ns);
    return fmin(doubt, 1);
}
