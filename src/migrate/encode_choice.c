/* SPDX-License-Identifier: MIT */
/* Which encodings pay, decided from what the link, the encoders and the pages do. */
#include "migrate/encode_choice.h"

#include "base/clock.h"

#define WINDOW_NS        (100 * NS_PER_MS)
#define MIN_SAMPLE_NS    (50 * NS_PER_MS)
#define MAX_SAMPLE_NS    (800 * NS_PER_MS)
#define MIN_PROBE_NS     (4 * NS_PER_S)
#define MAX_PROBE_NS     (64 * NS_PER_S)
#define ON_PERMILLE      1250u                /* of the raw rate: turned on above */
#define OFF_PERMILLE     1100u                /* turned off below */
#define WAITED_PERMILLE  250u                 /* of a window: the link was what limits */
#define DELTA_GUESS      UINT64_C(1000000000) /* bytes/s of one lane, until it is measured */
#define DELTA_MIN_PAGES  64u /* with a known content, before a round says anything */
#define DELTA_FIRST_REST 4u
#define DELTA_MAX_REST   64u

static uint64_t mul_div(uint64_t a, uint64_t b, uint64_t c)
{
    unsigned __int128 n = (unsigned __int128)a * b / (c ? c : 1);

    return n > UINT64_MAX ? UINT64_MAX : (uint64_t)n;
}

static uint64_t blend(uint64_t old, uint64_t fresh)
{
    return old ? old / 4 * 3 + fresh / 4 : fresh;
}

void encode_choice_init(struct encode_choice *choice, enum encode_policy zstd,
                        enum encode_policy delta, uint32_t n_lanes, uint64_t now_ns)
{
    *choice = (struct encode_choice){.zstd_policy = zstd,
                                     .delta_policy = delta,
                                     .n_lanes = n_lanes ? n_lanes : 1,
                                     .window_start_ns = now_ns,
                                     .is_zstd_on = zstd == ENCODE_ON,
                                     .next_sample_ns = now_ns + MIN_SAMPLE_NS,
                                     .sample_gap_ns = MIN_SAMPLE_NS,
                                     .probe_gap_ns = MIN_PROBE_NS,
                                     .delta_next_rest = DELTA_FIRST_REST};
}

/* ---- delta ---- */

/* The last round's deltas: were the bytes they saved worth the work? */
static bool delta_has_paid(const struct encode_choice *choice)
{
    const struct wire_encode_count *delta = &choice->round_stats.delta;
    uint64_t n_known = delta->n_tried - choice->round_stats.n_unknown;
    uint64_t else_bytes = delta->in_bytes; /* what these pages had cost without */

    if (n_known < DELTA_MIN_PAGES || !choice->link_bytes_per_s) {
        return true; /* nothing is known yet */
    }
    if (choice->is_zstd_on && choice->zstd_permille) {
        else_bytes = mul_div(else_bytes, choice->zstd_permille, 1000);
    }
    uint64_t saved_bytes = else_bytes > delta->out_bytes ? else_bytes - delta->out_bytes : 0;
    return mul_div(saved_bytes, NS_PER_S, choice->link_bytes_per_s) >
           delta->work_ns / choice->n_lanes;
}

static bool wants_delta(struct encode_choice *choice)
{
    if (choice->is_delta_on && !delta_has_paid(choice)) {
        choice->delta_rest = choice->delta_next_rest;
        if (choice->delta_next_rest < DELTA_MAX_REST) {
            choice->delta_next_rest *= 2;
        }
    }
    if (choice->delta_rest > 0) {
        choice->delta_rest--;
        return false;
    }
    uint64_t rate = choice->delta_bytes_per_s ? choice->delta_bytes_per_s : DELTA_GUESS;
    return choice->link_bytes_per_s != 0 &&
           choice->link_bytes_per_s < mul_div(rate, choice->n_lanes, 2);
}

void encode_choice_round(struct encode_choice *choice, uint32_t round)
{
    bool is_on = round > 1 && choice->delta_policy != ENCODE_OFF &&
                 (choice->delta_policy == ENCODE_ON || wants_delta(choice));

    choice->round = round;
    choice->is_delta_on = is_on;
    choice->round_stats = (struct wire_encode_stats){0};
}

/* ---- zstd ---- */

/* Bytes of pages per second with zstd; 0: not known. */
static uint64_t encoded_rate(const struct encode_choice *choice)
{
    uint64_t encoders = mul_div(choice->zstd_bytes_per_s, choice->n_lanes, 1);
    uint64_t link =
        mul_div(choice->link_bytes_per_s, 1000, choice->zstd_permille ? choice->zstd_permille : 1);

    return encoders < link ? encoders : link;
}

static void decide(struct encode_choice *choice, uint64_t now_ns)
{
    if (choice->zstd_policy != ENCODE_AUTO || !choice->link_bytes_per_s ||
        !choice->zstd_bytes_per_s) {
        return;
    }
    uint64_t gain_permille = mul_div(encoded_rate(choice), 1000, choice->link_bytes_per_s);
    bool was_on = choice->is_zstd_on;
    choice->is_zstd_on = gain_permille > (was_on ? OFF_PERMILLE : ON_PERMILLE);
    if (choice->is_zstd_on && !was_on) {
        choice->next_probe_ns = now_ns + choice->probe_gap_ns;
        choice->sample_gap_ns = MIN_SAMPLE_NS;
    }
}

unsigned encode_choice_next(struct encode_choice *choice, uint64_t now_ns)
{
    unsigned modes = choice->is_delta_on ? WIRE_ENCODE_DELTA : 0;

    if (choice->is_zstd_on && !choice->is_probing) {
        return modes | WIRE_ENCODE_ZSTD;
    }
    if (choice->zstd_policy == ENCODE_AUTO && !choice->is_probing &&
        now_ns >= choice->next_sample_ns) {
        choice->next_sample_ns = now_ns + choice->sample_gap_ns;
        choice->sample_gap_ns =
            choice->sample_gap_ns * 2 < MAX_SAMPLE_NS ? choice->sample_gap_ns * 2 : MAX_SAMPLE_NS;
        return modes | WIRE_ENCODE_ZSTD;
    }
    return modes;
}

static void note_stats(struct encode_choice *choice, const struct wire_encode_stats *stats)
{
    const struct wire_encode_count *zstd = &stats->zstd, *delta = &stats->delta;
    struct wire_encode_stats *sum = &choice->round_stats;

    if (zstd->n_tried > 0) {
        uint64_t in_bytes = zstd->n_tried * WIRE_PAGE_BYTES;
        uint64_t out_bytes = zstd->out_bytes + (zstd->n_tried - zstd->n_pages) * WIRE_PAGE_BYTES;
        uint64_t permille = mul_div(out_bytes, 1000, in_bytes);
        choice->zstd_bytes_per_s =
            blend(choice->zstd_bytes_per_s, mul_div(in_bytes, NS_PER_S, zstd->work_ns));
        choice->zstd_permille = (uint32_t)blend(choice->zstd_permille, permille ? permille : 1);
    }
    if (delta->n_tried > 0) {
        choice->delta_bytes_per_s =
            blend(choice->delta_bytes_per_s,
                  mul_div(delta->n_tried * WIRE_PAGE_BYTES, NS_PER_S, delta->work_ns));
        sum->delta.n_tried += delta->n_tried;
        sum->delta.n_pages += delta->n_pages;
        sum->delta.in_bytes += delta->in_bytes;
        sum->delta.out_bytes += delta->out_bytes;
        sum->delta.work_ns += delta->work_ns;
        sum->n_unknown += stats->n_unknown;
    }
}

static void open_window(struct encode_choice *choice, uint64_t now_ns)
{
    choice->window_start_ns = now_ns;
    choice->window_wire_bytes = 0;
    choice->window_send_ns = 0;
}

static void close_window(struct encode_choice *choice, uint64_t now_ns)
{
    uint64_t length_ns = now_ns - choice->window_start_ns;
    uint64_t rate = mul_div(choice->window_wire_bytes, NS_PER_S, length_ns);
    uint64_t waited_permille = mul_div(choice->window_send_ns, 1000, length_ns * choice->n_lanes);
    uint64_t known = choice->link_bytes_per_s;

    if (waited_permille < WAITED_PERMILLE) {
        choice->link_bytes_per_s = rate > known ? rate : known;
        if (choice->is_zstd_on && !choice->is_probing && now_ns >= choice->next_probe_ns &&
            choice->zstd_policy == ENCODE_AUTO) {
            choice->is_probing = true;
            choice->probe_gap_ns =
                choice->probe_gap_ns * 2 < MAX_PROBE_NS ? choice->probe_gap_ns * 2 : MAX_PROBE_NS;
            choice->next_probe_ns = now_ns + choice->probe_gap_ns;
            open_window(choice, now_ns);
            return;
        }
    } else if (choice->is_probing || rate < known / 2 || rate > known * 2) {
        /* Buffers that fill look like a fast link at first: believe a new rate at once. */
        choice->link_bytes_per_s = rate;
        choice->sample_gap_ns = MIN_SAMPLE_NS;
    } else {
        choice->link_bytes_per_s = blend(known, rate);
    }
    choice->is_probing = false;
    decide(choice, now_ns);
    open_window(choice, now_ns);
}

void encode_choice_sent(struct encode_choice *choice, const struct encode_seen *seen,
                        uint64_t now_ns)
{
    note_stats(choice, &seen->stats);
    choice->window_wire_bytes += seen->wire_bytes;
    choice->window_send_ns += seen->send_ns;
    if (now_ns - choice->window_start_ns >= WINDOW_NS) {
        close_window(choice, now_ns);
    }
}
