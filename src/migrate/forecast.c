/* SPDX-License-Identifier: MIT */
/* Plays rounds ahead, from each phase, better and worse. */
#include "migrate/forecast.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"

#define PAGE            ((double)GW_PAGE_SIZE)
#define RECORD_OVERHEAD 1.002 /* digests and page numbers of plain pages, beside their bytes */
#define PROGRESS        0.97  /* a round as large as this share of the one before is none */
#define MAX_STALLS      4u
#define RUN_BYTES       12.0   /* of one run in the list of missing pages */
#define RUN_NS          400.0  /* which the destination looks at in the blackout */
#define VOID_RUN_NS     4500.0 /* and has discarded before */
#define N_PHASES        8u     /* of a rhythm, that a migration may begin in */
#define MAX_LOOKS       200.0  /* at the first round, at which it may be cut */
#define LOOKS           16u    /* at which a round's leavings are summed up, or it may be over */
#define BEST_STEP       0.75   /* of what is left in one good moment, in a better one */
#define NS              1e9

/* ---- playing ----------------------------------------------------------------------------------
 */

/* Numbers that a run is played with. Its moments count from its beginning. */
struct play {
    const struct forecast_input *input;
    struct predict predict;
    double link, dirty_factor, keep; /* keep: share of its speed that it is not slowed down by */
    double pace;                     /* and share of that which the host leaves to it */
    double fault_ns;
    double phase_ns; /* of the rhythm, at its beginning */
    uint64_t max_blackout_ns;
    bool is_hopeless; /* post-copy: the engine is sure that pre-copy would not do */
};

static uint64_t to_ns(double ns)
{
    return ns >= 9e18 ? FORECAST_NEVER : (uint64_t)fmax(ns, 0);
}

double forecast_link_in_force(const struct forecast_input *input, double bytes_per_s)
{
    if (input->max_bandwidth_bytes)
        bytes_per_s = fmin(bytes_per_s, (double)input->max_bandwidth_bytes);
    return fmax(bytes_per_s, 1);
}

static bool has_rhythm(const struct forecast_input *input)
{
    return input->rhythm && input->rhythm->n > 0;
}

/* Of so many phases that a migration may begin in. */
static uint32_t n_phases(const struct forecast_input *input)
{
    return has_rhythm(input) && !input->is_phase_known ? N_PHASES : 1;
}

/* doubt: -1 everything is better than expected, +1 everything is worse. */
static struct play play_init(const struct forecast_input *input, double doubt, uint32_t slowdown,
                             uint32_t phase)
{
    struct play play = {.input = input,
                        .predict = input->costs,
                        .keep = 1 - MIN(slowdown, 1000u) / 1000.0,
                        .pace = input->pace > 0 ? input->pace : 1,
                        .fault_ns = FORECAST_FAULT_NS * pow(FORECAST_FAULT_DOUBT, doubt),
                        .phase_ns = (double)input->phase_ns,
                        .max_blackout_ns =
                            input->max_blackout_ns ? input->max_blackout_ns : FORECAST_NEVER};
    double share = 1 - doubt * fmax(input->link_doubt, FORECAST_MIN_DOUBT);

    if (has_rhythm(input) && !input->is_phase_known)
        play.phase_ns = (double)(input->rhythm->n * RHYTHM_BIN_NS) * phase / N_PHASES;
    play.link = forecast_link_in_force(input, fmax(input->link_bytes_per_s * share, 1));
    play.predict.bytes_per_s = (uint64_t)play.link;
    play.dirty_factor = doubt; /* turned into a factor by the window it is about */
    return play;
}

/* Distinct pages, in bytes, from one moment to another. */
static double dirtied_bytes(const struct play *play, double from_ns, double to_ns)
{
    const struct dirty_model *dirty = play->input->dirty;
    double ns = to_ns - from_ns, doubt, factor;

    if (has_rhythm(play->input))
        ns = rhythm_even_ns(play->input->rhythm, play->phase_ns + from_ns, play->phase_ns + to_ns);
    ns *= play->keep * play->pace;
    doubt = fmax(dirty_model_doubt(dirty, ns), FORECAST_MIN_DOUBT);
    factor = fmax(1 + play->dirty_factor * doubt, 0);
    return fmin(dirty_model_pages(dirty, ns) * factor, dirty->max_pages) * PAGE;
}

static double round_ns(const struct play *play, double n_bytes)
{
    return n_bytes * RECORD_OVERHEAD / play->link * NS + (double)play->predict.round_trip_ns;
}

static double fixed_ns(const struct play *play)
{
    return (double)predict_blackout_ns(&play->predict, 0);
}

/* What is dirtied after it was sent, if the round carries every page that is dirtied: pages go out
 * evenly over the round, and each may be dirtied from the last look before it does. */
static double dirtied_behind(const struct play *play, double from_ns, double to_ns)
{
    double sum = 0, ns = to_ns - from_ns;

    if (ns < (double)RHYTHM_BIN_NS)
        return dirtied_bytes(play, from_ns, to_ns);
    for (unsigned i = 0; i < LOOKS; i++)
        sum += dirtied_bytes(
            play, to_ns - fmin(ns * (i + 0.5) / LOOKS + (double)RHYTHM_BIN_NS / 2, ns), to_ns);
    return sum / LOOKS;
}

/* What is dirty, but for what is still to be sent, when from one moment to another a round of
 * n_bytes has sent a share of them. They were dirtied in the before_ns before it (0: they are all
 * of the memory that is used), so the curve says how many of them come again. */
static double left_when(const struct play *play, double sent_share, double n_bytes,
                        double before_ns, double from_ns, double to_ns)
{
    double all = dirtied_bytes(play, from_ns, to_ns), share = 1;

    if (before_ns > 0 && all > 0) {
        double before = dirtied_bytes(play, from_ns - before_ns, from_ns);
        double again = before + all - dirtied_bytes(play, from_ns - before_ns, to_ns);

        share = fmax(again, 0) / all * fmin(n_bytes / fmax(before, 1), 1);
    }
    return all - fmin(share, 1) * fmax(all - sent_share * dirtied_behind(play, from_ns, to_ns), 0);
}

/* The same, with what is still to be sent. */
static double left_within(const struct play *play, double sent_share, double n_bytes,
                          double before_ns, double from_ns, double to_ns)
{
    return n_bytes * (1 - sent_share) +
           left_when(play, sent_share, n_bytes, before_ns, from_ns, to_ns);
}

static double left_after(const struct play *play, double n_bytes, double before_ns, double from_ns,
                         double to_ns)
{
    return left_when(play, 1, n_bytes, before_ns, from_ns, to_ns);
}

static double first_round_ns(const struct play *play)
{
    const struct forecast_input *input = play->input;

    return round_ns(play, (double)input->first_bytes) +
           (double)input->zero_bytes / FORECAST_ZERO_BYTES_PER_S * NS;
}

/* The first round, or what is left of it: what it takes, and what it leaves. *last_ns: what the
 * whole of it took. */
static double first_round(const struct play *play, struct forecast_run *run, double *ns,
                          double *last_ns)
{
    const struct forecast_input *input = play->input;
    double rest_ns = first_round_ns(play), begin_ns = *ns - (double)input->first_past_ns;
    double whole_ns = rest_ns + (double)input->first_past_ns;
    double n_bytes = (double)input->first_bytes * whole_ns / fmax(rest_ns, 1);

    *ns += rest_ns;
    *last_ns = whole_ns;
    run->rounds = 1;
    run->n_bytes = (uint64_t)((double)input->first_bytes * RECORD_OVERHEAD);
    return left_after(play, n_bytes, (double)input->first_before_ns, begin_ns, *ns);
}

/* A first round that does not help is cut when that has been seen. False: it does. */
static bool cut_round(const struct play *play, struct forecast_run *run, double *ns, double *left)
{
    const struct forecast_input *input = play->input;
    double least = PREDICT_VAIN_SHARE * (double)(input->first_bytes + input->zero_bytes);
    double round = first_round_ns(play), begin_ns = *ns;
    double step = fmax((double)PREDICT_VAIN_NS, round / MAX_LOOKS);

    if (!play->is_hopeless)
        return false;
    for (double past = fmax((double)RHYTHM_BIN_NS, step); past < round; past += step) {
        double now_ns = begin_ns + past, share = past / round;

        if (dirtied_bytes(play, begin_ns, now_ns) < least ||
            dirtied_bytes(play, now_ns, begin_ns + round) < least)
            continue;
        *ns = now_ns;
        *left = (double)input->first_bytes * (1 - share) +
                share * dirtied_behind(play, begin_ns, now_ns);
        run->rounds = 1;
        run->n_bytes = (uint64_t)((double)input->first_bytes * share * RECORD_OVERHEAD);
        return true;
    }
    return false;
}

/* A moment in which the guest could be stopped, and what it took to come to it. */
struct stop {
    double ns, left; /* bytes */
    uint32_t rounds;
    double n_bytes;
};

/* Until when may a guest that could be stopped now go on, for a shorter blackout? */
static double last_stop_ns(const struct play *play)
{
    const struct forecast_input *input = play->input;
    double until_ns = (double)play->predict.better_until_ns - (double)input->begin_ns;

    if (input->max_time_ns)
        until_ns = fmin(until_ns, (double)input->max_time_ns - (double)input->past_ns);
    return until_ns;
}

/* Rounds go on for as long as they may: the moment with the least left, but none that is hardly
 * better than one before. last_ns: in which what is left now was dirtied. */
static struct stop best_stop(const struct play *play, const struct stop *now, double last_ns)
{
    double until_ns = last_stop_ns(play);
    struct stop best = *now, at = *now;

    while (at.ns < until_ns && at.left >= (double)PREDICT_MIN_WORTH_BYTES &&
           at.rounds < FORECAST_MAX_ROUNDS) {
        double round = round_ns(play, at.left);
        unsigned n_looks = round < (double)RHYTHM_BIN_NS ? 1 : LOOKS;
        struct stop begin = at;

        for (unsigned i = 1; i <= n_looks && at.ns < until_ns; i++) {
            double share = (double)i / n_looks;

            at.ns = begin.ns + round * share;
            at.left = left_within(play, share, begin.left, last_ns, begin.ns, at.ns);
            at.rounds = begin.rounds + 1;
            at.n_bytes = begin.n_bytes + begin.left * share;
            if (at.ns <= until_ns && at.left <= best.left * BEST_STEP)
                best = at;
        }
        last_ns = round;
    }
    return best;
}

/* The guest could be stopped: it is, now or in a better moment. */
static void play_stop(struct play *play, struct forecast_run *run, double *ns, double left,
                      double last_ns)
{
    const struct forecast_input *input = play->input;
    struct stop now = {.ns = *ns, .left = left, .rounds = run->rounds}, best;

    predict_note_due(&play->predict, (uint64_t)left, has_rhythm(input),
                     input->begin_ns - input->past_ns, to_ns((double)input->begin_ns + *ns));
    best = best_stop(play, &now, last_ns);
    if (!predict_wants_better(&play->predict, (uint64_t)left, (uint64_t)best.left))
        best = now;
    run->is_ending = true;
    run->rounds = best.rounds;
    run->blackout_ns = predict_blackout_ns(&play->predict, (uint64_t)best.left);
    run->least_blackout_ns = MIN(run->least_blackout_ns, run->blackout_ns);
    run->n_bytes +=
        (uint64_t)((best.n_bytes + best.left) * RECORD_OVERHEAD) + play->predict.state_bytes;
    *ns = best.ns + (double)run->blackout_ns;
}

/* In a round of what is left the guest could be stopped before its end: then that moment, what is
 * left then, and in which time it was dirtied. */
static bool ends_within(const struct play *play, struct forecast_run *run, double *ns, double *left,
                        double *last_ns)
{
    double round = round_ns(play, *left), begin_ns = *ns, n_bytes = *left;
    uint64_t budget_ns = predict_safe_ns(play->max_blackout_ns);

    if (round < (double)RHYTHM_BIN_NS)
        return false;
    for (unsigned i = 1; i < LOOKS; i++) {
        double share = (double)i / LOOKS, now_ns = begin_ns + round * share;
        double all = left_within(play, share, n_bytes, *last_ns, begin_ns, now_ns);

        if (predict_blackout_ns(&play->predict, (uint64_t)all) > budget_ns)
            continue;
        *ns = now_ns;
        *left = all;
        *last_ns = now_ns - begin_ns;
        run->rounds++;
        run->n_bytes += (uint64_t)(n_bytes * share * RECORD_OVERHEAD);
        return true;
    }
    return false;
}

/* Rounds from one that has left so much and took last_ns, to the end of the blackout. */
static void play_rounds(struct play *play, struct forecast_run *run, double *ns, double left,
                        double last_ns)
{
    unsigned n_stalls = 0;

    run->least_blackout_ns = FORECAST_NEVER;
    run->blackout_ns = FORECAST_NEVER;
    for (; run->rounds < FORECAST_MAX_ROUNDS && n_stalls < MAX_STALLS; run->rounds++) {
        uint64_t blackout_ns = predict_blackout_ns(&play->predict, (uint64_t)left);
        double next;

        run->least_blackout_ns = MIN(run->least_blackout_ns, blackout_ns);
        if (blackout_ns <= play->max_blackout_ns || ends_within(play, run, ns, &left, &last_ns)) {
            play_stop(play, run, ns, left, last_ns);
            return;
        }
        next = left_after(play, left, last_ns, *ns, *ns + round_ns(play, left));
        last_ns = round_ns(play, left);
        *ns += last_ns;
        run->n_bytes += (uint64_t)(left * RECORD_OVERHEAD);
        n_stalls = next >= left * PROGRESS ? n_stalls + 1 : 0;
        left = next;
    }
}

/* Did the rounds that were played, from one moment to another, take longer than anybody waits for
 * them? left: before them. */
static bool is_tedious_end(const struct play *play, const struct forecast_run *run, double left,
                           double from_ns, double ns)
{
    return predict_is_tedious(&play->predict, (uint64_t)left,
                              run->is_ending ? to_ns(ns - from_ns) : PREDICT_UNKNOWN,
                              play->input->past_ns + to_ns(from_ns));
}

/* From such a round on, will they? */
static bool is_tedious(const struct play *play, double left, double last_ns, double now_ns)
{
    struct play rest = *play;
    struct forecast_run run = {0};
    double ns = now_ns;

    play_rounds(&rest, &run, &ns, left, last_ns);
    return is_tedious_end(&rest, &run, left, now_ns, ns);
}

static struct forecast_run play_precopy(struct play *play)
{
    struct forecast_run run = {0};
    double ns = (double)play->input->setup_ns, first_ns, last, left;

    left = first_round(play, &run, &ns, &last);
    first_ns = ns;
    play_rounds(play, &run, &ns, left, last);
    run.is_tedious = is_tedious_end(play, &run, left, first_ns, ns);
    run.slowdown_permille = (uint32_t)lround((1 - play->keep) * 1000);
    run.total_ns = run.is_ending ? to_ns(ns) : FORECAST_NEVER;
    return run;
}

/* What is missing follows at the link's rate. Accesses wait: at most one for each page that is
 * missing and used in that time, and vCPUs wait side by side. */
static void play_push(struct play *play, struct forecast_run *run, double *ns, double left)
{
    double push_ns = round_ns(play, left);
    double n_faults = fmin(left, dirtied_bytes(play, *ns, *ns + push_ns)) / PAGE;
    double waiting = n_faults * play->fault_ns / fmax(play->input->n_vcpus, 1) / fmax(push_ns, 1);

    run->slowdown_permille = left < PAGE ? 0 : (uint32_t)lround(fmin(waiting, 0.999) * 1000);
    run->n_bytes += (uint64_t)(left * RECORD_OVERHEAD);
    *ns += left < PAGE ? 0 : push_ns;
}

/* After a round that has left so much: does the engine go over to post-copy? */
static bool gives_up(struct play *play, double left, double last_ns, double now_ns)
{
    bool is_long;

    if (play->input->is_postcopy_asked || left < PAGE ||
        predict_blackout_ns(&play->predict, (uint64_t)left) <= play->max_blackout_ns)
        return true;
    play->predict.dirty_bytes_per_s =
        (uint64_t)(dirtied_bytes(play, now_ns - last_ns, now_ns) / fmax(last_ns, 1) * NS);
    is_long = is_tedious(play, left, last_ns, now_ns);
    predict_note_hope(&play->predict, (uint64_t)left, play->max_blackout_ns, is_long);
    return play->predict.n_hopeless > 0 &&
           (is_long || play->is_hopeless || play->predict.n_hopeless >= PREDICT_HOPELESS_ROUNDS);
}

/* Of the memory that is used, the share that is not among so many bytes. */
static double other_share(const struct forecast_input *input, double n_bytes)
{
    double all = fmax((double)(input->first_bytes + input->zero_bytes), 1);

    return 1 - fmin(n_bytes / all, 1);
}

static struct forecast_run play_postcopy(struct play *play)
{
    struct forecast_run run = {.is_ending = true};
    double ns = (double)play->input->setup_ns, last, left, other, n_runs;

    if (!cut_round(play, &run, &ns, &left)) {
        left = first_round(play, &run, &ns, &last);
        for (; run.rounds < FORECAST_MAX_ROUNDS; run.rounds++) {
            double next;

            predict_note_sent(&play->predict, run.n_bytes, (uint64_t)left);
            if (gives_up(play, left, last, ns))
                break;
            next = left_after(play, left, last, ns, ns + round_ns(play, left));
            last = round_ns(play, left);
            ns += last;
            run.n_bytes += (uint64_t)(left * RECORD_OVERHEAD);
            left = next;
        }
    }
    /* They lie anywhere, and the guest goes on while what there is of them is discarded. */
    other = other_share(play->input, left);
    n_runs = left / PAGE * other;
    left += other * dirtied_bytes(play, ns, ns + n_runs * VOID_RUN_NS);
    ns += n_runs * VOID_RUN_NS;
    run.blackout_ns = to_ns(fixed_ns(play) + n_runs * (RUN_BYTES / play->link * NS + RUN_NS));
    run.least_blackout_ns = run.blackout_ns;
    run.n_bytes += play->predict.state_bytes;
    ns += (double)run.blackout_ns;
    play_push(play, &run, &ns, left);
    run.total_ns = to_ns(ns);
    return run;
}

/* ---- phases -----------------------------------------------------------------------------------
 */

static int compare_totals(const void *a, const void *b)
{
    const struct forecast_run *left = a, *right = b;

    return left->total_ns < right->total_ns ? -1 : left->total_ns > right->total_ns;
}

/* Plays it from each phase, and sorts by how long it takes. Returns how many there are. */
static uint32_t play_phases(const struct forecast_input *input, double doubt, uint32_t slowdown,
                            bool is_hopeless, struct forecast_run (*play_mode)(struct play *play),
                            struct forecast_run runs[N_PHASES])
{
    for (uint32_t i = 0; i < n_phases(input); i++) {
        struct play play = play_init(input, doubt, slowdown, i);

        play.is_hopeless = is_hopeless;
        runs[i] = play_mode(&play);
    }
    qsort(runs, n_phases(input), sizeof *runs, compare_totals);
    return n_phases(input);
}

static struct forecast_run play_middle(const struct forecast_input *input, double doubt,
                                       uint32_t slowdown, bool is_hopeless,
                                       struct forecast_run (*play_mode)(struct play *play))
{
    struct forecast_run runs[N_PHASES];

    return runs[play_phases(input, doubt, slowdown, is_hopeless, play_mode, runs) / 2];
}

bool forecast_is_hopeless(const struct forecast_input *input)
{
    bool is_patient = input->max_time_ns || input->max_slowdown_permille;

    return input->is_postcopy_asked || !play_middle(input, -1, 0, false, play_precopy).is_ending ||
           (!is_patient && play_middle(input, 0, 0, false, play_precopy).is_tedious);
}

uint64_t forecast_best_left(const struct forecast_input *input, uint64_t left_bytes,
                            uint64_t last_ns)
{
    struct play play = play_init(input, 0, 0, 0);
    struct stop now = {.left = (double)left_bytes};

    return (uint64_t)best_stop(&play, &now, (double)last_ns).left;
}

struct forecast_run forecast_precopy(const struct forecast_input *input, uint32_t slowdown_permille)
{
    return play_middle(input, 0, slowdown_permille, false, play_precopy);
}

struct forecast_run forecast_postcopy(const struct forecast_input *input)
{
    return play_middle(input, 0, 0, forecast_is_hopeless(input), play_postcopy);
}

/* ---- ranges -----------------------------------------------------------------------------------
 */

static void widen(struct gw_range *range, uint64_t value)
{
    range->low = MIN(range->low, value);
    range->high = MAX(range->high, value);
}

static void set_range(struct gw_range *range, uint64_t value)
{
    *range = (struct gw_range){value, value, value};
}

static void add_run(struct gw_plan_forecast *mode, const struct forecast_run *run, bool is_first)
{
    void (*put)(struct gw_range * range, uint64_t value) = is_first ? set_range : widen;

    put(&mode->total_ns, run->total_ns);
    put(&mode->n_bytes, run->is_ending ? run->n_bytes : FORECAST_NEVER);
    put(&mode->blackout_ns, run->blackout_ns);
    put(&mode->slowdown_permille, run->slowdown_permille);
}

struct forecast_run forecast_play(const struct forecast_input *input, uint32_t slowdown_permille,
                                  struct gw_plan_forecast *mode)
{
    bool is_postcopy = mode->mode == GW_PLAN_POSTCOPY;
    bool is_sure = is_postcopy && forecast_is_hopeless(input);
    struct forecast_run (*play_mode)(struct play * play) =
        is_postcopy ? play_postcopy : play_precopy;
    struct forecast_run runs[N_PHASES], expected;
    uint32_t n = play_phases(input, 0, slowdown_permille, is_sure, play_mode, runs);

    expected = runs[n / 2];
    add_run(mode, &expected, true);
    for (uint32_t i = 0; i < n; i++)
        add_run(mode, &runs[i], false);
    for (int doubt = -1; doubt <= 1; doubt += 2) {
        struct forecast_run other =
            play_middle(input, doubt, slowdown_permille, is_sure, play_mode);

        add_run(mode, &other, false);
    }
    return expected;
}

void forecast_ranges(const struct forecast_input *input, struct gw_range *total_ns,
                     struct gw_range *blackout_ns)
{
    struct gw_plan_forecast mode = {.mode = GW_PLAN_PRECOPY};

    forecast_play(input, 0, &mode);
    *total_ns = mode.total_ns;
    *blackout_ns = mode.blackout_ns;
}
