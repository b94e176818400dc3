/* SPDX-License-Identifier: MIT */
/* Finds a period in what a guest dirties, and tells what happens in it. */
#include "migrate/rhythm.h"

#include <glib.h>
#include <math.h>

#define MIN_LIKENESS 0.5 /* autocorrelation of a period */
#define NEARLY       0.9 /* a shorter lag is preferred to a better one within this */
#define MIN_SWING    1.0 /* deviation of the bins, in shares of their mean: less is no rhythm */

static void rhythm_restart(struct rhythm *rhythm, uint64_t at_ns)
{
    *rhythm = (struct rhythm){0};
    rhythm->first = rhythm->end = at_ns / RHYTHM_BIN_NS;
    /* The first bin is not seen whole. */
    if (at_ns % RHYTHM_BIN_NS)
        rhythm->first++;
}

void rhythm_add(struct rhythm *rhythm, uint64_t start_ns, uint64_t end_ns, double n_pages)
{
    uint64_t first = start_ns / RHYTHM_BIN_NS, last = end_ns / RHYTHM_BIN_NS;

    if (end_ns <= start_ns)
        return;
    /* The end of the last slot is in bin `end`: a gap is seen when this one begins in a later one.
     */
    if (end_ns - start_ns > 2 * RHYTHM_BIN_NS || first > rhythm->end + 1 ||
        first + 1 < rhythm->first || rhythm->end == 0) {
        rhythm_restart(rhythm, end_ns);
        return;
    }
    for (uint64_t bin = first; bin <= last; bin++) {
        uint64_t from_ns = MAX(bin * RHYTHM_BIN_NS, start_ns);
        uint64_t to_ns = MIN((bin + 1) * RHYTHM_BIN_NS, end_ns);

        if (bin > rhythm->end) {
            rhythm->end = bin;
            rhythm->pages[bin % RHYTHM_BINS] = 0;
        }
        rhythm->pages[bin % RHYTHM_BINS] +=
            n_pages * (double)(to_ns - from_ns) / (double)(end_ns - start_ns);
    }
    if (rhythm->end - rhythm->first >= RHYTHM_BINS)
        rhythm->first = rhythm->end - RHYTHM_BINS + 1;
}

/* The known bins in order; returns how many. */
static uint32_t unroll(const struct rhythm *rhythm, double *series)
{
    uint32_t n = 0;

    for (uint64_t bin = rhythm->first; bin < rhythm->end; bin++)
        series[n++] = rhythm->pages[bin % RHYTHM_BINS];
    return n;
}

static double mean_of(const double *series, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += series[i];
    return n ? sum / n : 0;
}

/* How alike the series is to itself `lag` later, -1 to 1. */
static double likeness(const double *series, uint32_t n, uint32_t lag, double mean)
{
    double product = 0, square_a = 0, square_b = 0;

    for (uint32_t i = 0; i + lag < n; i++) {
        double a = series[i] - mean, b = series[i + lag] - mean;

        product += a * b;
        square_a += a * a;
        square_b += b * b;
    }
    return square_a > 0 && square_b > 0 ? product / sqrt(square_a * square_b) : 0;
}

/* The bins of a period; 0: none. */
static uint32_t find_period(const double *series, uint32_t n)
{
    double mean = mean_of(series, n), best = 0, square = 0;
    double likenesses[RHYTHM_BINS / 2 + 2] = {0};

    for (uint32_t i = 0; i < n; i++)
        square += (series[i] - mean) * (series[i] - mean);
    if (n < 2 * RHYTHM_MIN_LAG || mean < 1 || sqrt(square / n) < MIN_SWING * mean / 2)
        return 0;
    for (uint32_t lag = RHYTHM_MIN_LAG - 1; lag <= n / 2; lag++) {
        likenesses[lag] = likeness(series, n, lag, mean);
        /* The shortest lag is next to lag 0, where everything is like itself. */
        if (lag >= RHYTHM_MIN_LAG)
            best = fmax(best, likenesses[lag]);
    }
    if (best < MIN_LIKENESS)
        return 0;
    for (uint32_t lag = RHYTHM_MIN_LAG; lag < n / 2; lag++)
        if (likenesses[lag] >= NEARLY * best && likenesses[lag] >= likenesses[lag - 1] &&
            likenesses[lag] >= likenesses[lag + 1])
            return lag;
    return 0;
}

bool rhythm_profile(const struct rhythm *rhythm, struct rhythm_profile *profile)
{
    double series[RHYTHM_BINS];
    uint32_t counts[RHYTHM_BINS] = {0};
    uint32_t n = unroll(rhythm, series);

    *profile = (struct rhythm_profile){.n = find_period(series, n), .origin = rhythm->first};
    for (uint32_t i = 0; profile->n && i < n; i++) {
        profile->pages[i % profile->n] += series[i];
        counts[i % profile->n]++;
    }
    for (uint32_t i = 0; i < profile->n; i++)
        profile->pages[i] /= counts[i];
    return profile->n > 0;
}

uint64_t rhythm_phase_ns(const struct rhythm_profile *profile, uint64_t now_ns)
{
    uint64_t origin_ns = profile->origin * RHYTHM_BIN_NS;

    return profile->n && now_ns > origin_ns ? (now_ns - origin_ns) % (profile->n * RHYTHM_BIN_NS)
                                            : 0;
}

/* The same since the beginning of a period. */
static double even_since(const struct rhythm_profile *profile, double mean, double ns)
{
    double bins = ns / (double)RHYTHM_BIN_NS;
    double periods = floor(bins / profile->n), pages = 0;

    bins -= periods * profile->n;
    for (uint32_t i = 0; i < profile->n && i < bins; i++)
        pages += profile->pages[i] * fmin(bins - i, 1);
    return (periods * profile->n + pages / mean) * (double)RHYTHM_BIN_NS;
}

double rhythm_even_ns(const struct rhythm_profile *profile, double from_ns, double to_ns)
{
    double mean = mean_of(profile->pages, profile->n);

    if (mean <= 0) /* no period among others */
        return to_ns - from_ns;
    return even_since(profile, mean, to_ns) - even_since(profile, mean, from_ns);
}

uint32_t rhythm_quiet_permille(const struct rhythm_profile *profile)
{
    uint32_t n = MAX(profile->n / 4, 1);
    double mean, least = INFINITY;

    if (profile->n == 0)
        return 1000;
    mean = mean_of(profile->pages, profile->n);
    for (uint32_t phase = 0; phase < profile->n; phase++) {
        double pages = 0;

        for (uint32_t i = 0; i < n; i++)
            pages += profile->pages[(phase + i) % profile->n];
        least = fmin(least, pages);
    }
    return mean > 0 ? (uint32_t)lround(fmin(least / n / mean, 1) * 1000) : 0;
}
