/* SPDX-License-Identifier: MIT */
/* What a migration looked like over time, in bounded memory. */
#include "cli/track.h"

#include <glib.h>
#include <math.h>
#include <string.h>

#define PAGE_BYTES 4096

struct track {
    uint64_t step_ns;
    GArray *samples; /* struct track_sample */
    GArray *spans;   /* struct track_span */
    GArray *rounds;  /* struct track_round */
};

#define SAMPLE(track, i) (&g_array_index((track)->samples, struct track_sample, i))
#define SPAN(track, i)   (&g_array_index((track)->spans, struct track_span, i))
#define ROUND(track, i)  (&g_array_index((track)->rounds, struct track_round, i))

struct track *track_new(void)
{
    struct track *track = g_new0(struct track, 1);

    track->step_ns = TRACK_FIRST_STEP_NS;
    track->samples = g_array_new(FALSE, FALSE, sizeof(struct track_sample));
    track->spans = g_array_new(FALSE, FALSE, sizeof(struct track_span));
    track->rounds = g_array_new(FALSE, FALSE, sizeof(struct track_round));
    return track;
}

void track_free(struct track *track)
{
    if (!track)
        return;
    g_array_unref(track->samples);
    g_array_unref(track->spans);
    g_array_unref(track->rounds);
    g_free(track);
}

/* ---- one answer ------------------------------------------------------------------------------ */

static double number_or(const json_t *object, const char *key, double fallback)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

/* A prediction of 0 means that there is none yet. */
static double known(double value)
{
    return value > 0 ? value : NAN;
}

static struct track_sample sample_of(const json_t *info)
{
    const json_t *ram = json_object_get(info, "ram");
    const char *state = json_string_value(json_object_get(info, "state"));
    struct track_sample sample = {
        .at_ns = number_or(info, "total-ns", 0),
        .round = (uint32_t)number_or(info, "round", 0),
        .sent_bytes = number_or(ram, "transferred", 0),
        .left_bytes = json_object_get(info, "pages-left")
                          ? number_or(info, "pages-left", 0) * PAGE_BYTES
                          : number_or(ram, "remaining", 0),
        .rate_bytes = known(number_or(info, "bandwidth", 0)),
        .dirty_rate_bytes = number_or(info, "dirty-rate", NAN),
        .blackout_ns = known(number_or(info, "predicted-blackout-ns", 0)),
        .slowdown_percent = number_or(info, "cpu-throttle-percentage",
                                      json_object_get(info, "throttled-vcpus") ? 0 : NAN),
        .requested_pages = number_or(ram, "postcopy-requests", NAN),
    };

    sample.end_ns = sample.at_ns + number_or(info, "expected-left-ns", NAN);
    sample.end_low_ns = sample.at_ns + number_or(info, "expected-left-low-ns", NAN);
    sample.end_high_ns = sample.at_ns + number_or(info, "expected-left-high-ns", NAN);
    g_strlcpy(sample.state, state ? state : "", sizeof sample.state);
    return sample;
}

/* ---- samples --------------------------------------------------------------------------------- */

static void thin_out(struct track *track)
{
    guint n = 0;

    for (guint i = 0; i < track->samples->len; i += 2)
        *SAMPLE(track, n++) = *SAMPLE(track, i);
    g_array_set_size(track->samples, n);
    track->step_ns *= 2;
}

static void keep_sample(struct track *track, const struct track_sample *sample, bool is_last)
{
    guint n = track->samples->len;

    double step_ns = n > 0 ? sample->at_ns - SAMPLE(track, n - 1)->at_ns : INFINITY;

    if (is_last ? step_ns <= 0 : step_ns < (double)track->step_ns)
        return;
    if (n == TRACK_MAX_SAMPLES)
        thin_out(track);
    g_array_append_val(track->samples, *sample);
}

/* ---- spans ----------------------------------------------------------------------------------- */

/* Every pair becomes one; the newest, still growing, stays alone. */
static void merge_spans(struct track *track)
{
    guint n = 0, i = 0;

    for (; i + 2 < track->spans->len; i += 2) {
        struct track_span one = *SPAN(track, i);
        const struct track_span *two = SPAN(track, i + 1);

        if (two->longest_ns > one.longest_ns) {
            memcpy(one.state, two->state, sizeof one.state);
            one.longest_ns = two->longest_ns;
        }
        one.end_ns = two->end_ns;
        one.n_merged += two->n_merged;
        *SPAN(track, n++) = one;
    }
    for (; i < track->spans->len; i++)
        *SPAN(track, n++) = *SPAN(track, i);
    g_array_set_size(track->spans, n);
}

static void note_state(struct track *track, const struct track_sample *sample)
{
    struct track_span *last = track->spans->len ? SPAN(track, track->spans->len - 1) : NULL;

    if (last) {
        last->end_ns = sample->at_ns;
        if (last->n_merged == 1)
            last->longest_ns = last->end_ns - last->start_ns;
        if (strcmp(last->state, sample->state) == 0)
            return;
    }
    if (track->spans->len == TRACK_MAX_SPANS)
        merge_spans(track);
    struct track_span next = {
        .start_ns = last ? sample->at_ns : 0, .end_ns = sample->at_ns, .n_merged = 1};
    memcpy(next.state, sample->state, sizeof next.state);
    g_array_append_val(track->spans, next);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static void merge_rounds(struct track *track)
{
    guint n = 0, i = 0;

    for (; i + 2 < track->rounds->len; i += 2) {
        struct track_round one = *ROUND(track, i);
        const struct track_round *two = ROUND(track, i + 1);

        one.last = two->last;
        one.end_ns = two->end_ns;
        one.sent_bytes += two->sent_bytes;
        one.dirty_rate_bytes = two->dirty_rate_bytes;
        *ROUND(track, n++) = one;
    }
    for (; i < track->rounds->len; i++)
        *ROUND(track, n++) = *ROUND(track, i);
    g_array_set_size(track->rounds, n);
}

/* Is what happened since the last sample part of a round? Then not, say, of a blackout. */
static bool was_in_round(const struct track *track)
{
    const char *state = track->spans->len ? SPAN(track, track->spans->len - 1)->state : "";
    return strcmp(state, "rounds") == 0 || strcmp(state, "saving") == 0;
}

/* Before note_state. */
static void note_round(struct track *track, const struct track_sample *sample)
{
    guint n = track->rounds->len;
    struct track_round *last = n ? ROUND(track, n - 1) : NULL;

    if (sample->round == 0)
        return;
    if (last && was_in_round(track)) {
        last->end_ns = sample->at_ns;
        last->sent_bytes = sample->sent_bytes - last->start_sent_bytes;
        last->dirty_rate_bytes = sample->dirty_rate_bytes;
    }
    if (last && sample->round <= last->last)
        return;
    if (n == TRACK_MAX_ROUNDS)
        merge_rounds(track);
    /* Rounds that nobody saw begin are part of the one that was. */
    struct track_round next = {
        .first = n ? ROUND(track, track->rounds->len - 1)->last + 1 : 1,
        .last = sample->round,
        .start_ns = sample->at_ns,
        .end_ns = sample->at_ns,
        .dirty_rate_bytes = sample->dirty_rate_bytes,
        .start_sent_bytes = sample->sent_bytes,
    };
    g_array_append_val(track->rounds, next);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void add(struct track *track, const json_t *info, bool is_last)
{
    struct track_sample sample = sample_of(info);

    note_round(track, &sample);
    note_state(track, &sample);
    keep_sample(track, &sample, is_last);
}

void track_add(struct track *track, const json_t *info)
{
    add(track, info, false);
}

void track_end(struct track *track, const json_t *info)
{
    add(track, info, true);
}

uint64_t track_step_ns(const struct track *track)
{
    return track->step_ns;
}

const struct track_sample *track_samples(const struct track *track, size_t *n)
{
    *n = track->samples->len;
    return (const struct track_sample *)(void *)track->samples->data;
}

const struct track_span *track_spans(const struct track *track, size_t *n)
{
    *n = track->spans->len;
    return (const struct track_span *)(void *)track->spans->data;
}

const struct track_round *track_rounds(const struct track *track, size_t *n)
{
    *n = track->rounds->len;
    return (const struct track_round *)(void *)track->rounds->data;
}
