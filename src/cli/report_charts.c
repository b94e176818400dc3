/* SPDX-License-Identifier: MIT */
/* The page's pictures over time: what happened when, rates, what was left, slow-down, faults, and
 * the forecasts beside what came of them. */
#include <math.h>
#include <string.h>

#include "cli/report_parts.h"
#include "cli/svg.h"

#define MAX_BINS      60.0
#define MIN_BINS      20.0
#define BIN_NS        100e6 /* shorter ones show bursts rather than rates */
#define PLOT_HEIGHT   200.0
#define SMALL_HEIGHT  150.0
#define ROWS_HEIGHT   104.0
#define ROW_HEIGHT    28.0
#define MIN_BOX_WIDTH 3.0
#define TIME_STEPS    9
/* A budget that is far above everything else is told in words instead of drawn; forecasts that are
 * far above what came are cut. */
#define MAX_SCALE     4.0

/* The samples as columns, and what was sent and asked for per second in each bin of time. */
struct series {
    size_t n;
    double *at, *left, *dirty, *end, *end_low, *end_high, *blackout, *slowdown;
    size_t n_bins;
    double bin_ns;
    double *bin_at, *sent, *requested;
};

static double greatest(const double *values, size_t n)
{
    double max = 0;

    for (size_t i = 0; i < n; i++)
        if (values[i] > max)
            max = values[i];
    return max;
}

static bool has_any(const double *values, size_t n)
{
    return greatest(values, n) > 0;
}

/* The index of the last sample at or before ns, or -1. */
static gssize sample_before(const struct track_sample *samples, size_t n, double ns)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (samples[middle].at_ns <= ns)
            low = middle + 1;
        else
            high = middle;
    }
    return (gssize)low - 1;
}

/* A counter that only grows, at any time: 0 at the beginning, straight between samples. */
static double counter_at(const struct track_sample *samples, size_t n, size_t offset, double ns)
{
    gssize i = sample_before(samples, n, ns);
    double x0 = 0, y0 = 0, x1, y1;

    if (i >= 0) {
        x0 = samples[i].at_ns;
        y0 = G_STRUCT_MEMBER(double, &samples[i], offset);
    }
    if ((size_t)(i + 1) >= n)
        return y0;
    x1 = samples[i + 1].at_ns;
    y1 = G_STRUCT_MEMBER(double, &samples[i + 1], offset);
    if (isnan(y0))
        y0 = 0;
    return x1 > x0 ? y0 + (y1 - y0) * (ns - x0) / (x1 - x0) : y0;
}

static double *bin_rates(const struct series *series, const struct track_sample *samples,
                         size_t offset)
{
    double *rates = g_new(double, series->n_bins + 1);

    for (size_t i = 0; i < series->n_bins; i++) {
        double from = counter_at(samples, series->n, offset, (double)i * series->bin_ns);
        double to = counter_at(samples, series->n, offset, (double)(i + 1) * series->bin_ns);
        rates[i] = (to - from) / series->bin_ns * 1e9;
    }
    rates[series->n_bins] = rates[series->n_bins - 1];
    return rates;
}

static void series_init(struct series *series, const struct report_facts *facts)
{
    const struct track_sample *samples = track_samples(facts->track, &series->n);
    size_t n = series->n;

    series->at = g_new(double, n);
    series->left = g_new(double, n);
    series->dirty = g_new(double, n);
    series->end = g_new(double, n);
    series->end_low = g_new(double, n);
    series->end_high = g_new(double, n);
    series->blackout = g_new(double, n);
    series->slowdown = g_new(double, n);
    for (size_t i = 0; i < n; i++) {
        series->at[i] = samples[i].at_ns;
        /* Before anything is sent nobody has counted what is left. */
        series->left[i] = samples[i].round > 0 && samples[i].sent_bytes + samples[i].left_bytes > 0
                              ? samples[i].left_bytes
                              : NAN;
        /* In post-copy the guest is elsewhere. */
        series->dirty[i] = samples[i].round > 0 && !g_str_has_prefix(samples[i].state, "postcopy")
                               ? samples[i].dirty_rate_bytes
                               : NAN;
        series->end[i] = samples[i].end_ns;
        series->end_low[i] = samples[i].end_low_ns;
        series->end_high[i] = samples[i].end_high_ns;
        series->blackout[i] = samples[i].blackout_ns;
        series->slowdown[i] = samples[i].slowdown_percent;
    }
    series->n_bins = MIN(n, (size_t)CLAMP(facts->total_ns / BIN_NS, MIN_BINS, MAX_BINS));
    series->bin_ns = fmax(facts->total_ns, 1) / (double)series->n_bins;
    series->bin_at = g_new(double, series->n_bins + 1);
    for (size_t i = 0; i <= series->n_bins; i++)
        series->bin_at[i] = (double)i * series->bin_ns;
    series->sent = bin_rates(series, samples, G_STRUCT_OFFSET(struct track_sample, sent_bytes));
    series->requested =
        bin_rates(series, samples, G_STRUCT_OFFSET(struct track_sample, requested_pages));
}

static void series_clear(struct series *series)
{
    double *owned[] = {series->at,      series->left,     series->dirty,    series->end,
                       series->end_low, series->end_high, series->blackout, series->slowdown,
                       series->bin_at,  series->sent,     series->requested};
    for (size_t i = 0; i < G_N_ELEMENTS(owned); i++)
        g_free(owned[i]);
}

/* ---- parts of pictures ----------------------------------------------------------------------- */

static void open_section(GString *out, const char *title, const char *text)
{
    g_string_append_printf(out, "<section>\n<h2>%s</h2>\n", title);
    if (text) {
        g_string_append(out, "<p>");
        svg_text(out, text);
        g_string_append(out, "</p>\n");
    }
}

static void close_section(GString *out)
{
    g_string_append(out, "</section>\n");
}

/* The guest's stops, in the time of the plots. */
static void put_stops(struct svg_plot *plot, const struct report_facts *facts)
{
    const json_t *attempts = json_object_get(facts->ledger, "attempts");
    size_t i;
    json_t *attempt;

    json_array_foreach((json_t *)attempts, i, attempt)
    {
        double length_ns = report_number(attempt, "blackout-ns");
        double start_ns = report_number(attempt, "start-real-ns") - facts->began_real_ns;
        g_autofree char *length = svg_number(SVG_TIME, length_ns);
        g_autofree char *tip = g_strdup_printf("guest stopped for %s", length);

        svg_plot_strip(plot, "stopped", start_ns, start_ns + length_ns, tip);
    }
}

static bool has_stops(const struct report_facts *facts)
{
    return json_array_size(json_object_get(facts->ledger, "attempts")) > 0;
}

static void put_stop_key(GString *out, const struct report_facts *facts)
{
    if (has_stops(facts))
        svg_key(out, "stopped", "guest stopped");
}

static void tell(GString *tip, const char *what, enum svg_unit unit, double value)
{
    g_autofree char *number = svg_number(unit, value);

    if (!isnan(value))
        g_string_append_printf(tip, "\n%s %s", what, number);
}

static bool has_rounds(const struct report_facts *facts)
{
    size_t n;

    track_rounds(facts->track, &n);
    return n > 0;
}

/* What is told at each part of the time, the same in every picture. */
static void put_tips(struct svg_plot *plot, const struct report_facts *facts,
                     const struct series *series)
{
    size_t n;
    const struct track_sample *samples = track_samples(facts->track, &n);

    for (size_t i = 0; i < series->n_bins; i++) {
        double from = series->bin_at[i], to = series->bin_at[i + 1];
        const struct track_sample *sample =
            &samples[MAX(sample_before(samples, n, (from + to) / 2), 0)];
        g_autofree char *time = svg_number(SVG_TIME, (from + to) / 2);
        g_autoptr(GString) tip = g_string_new(NULL);

        g_string_append_printf(tip, "%s: %s, round %u", time, sample->state, sample->round);
        tell(tip, "sent", SVG_BYTES_RATE, series->sent[i]);
        tell(tip, "dirtied", SVG_BYTES_RATE, sample->dirty_rate_bytes);
        tell(tip, "left", SVG_BYTES, sample->left_bytes);
        tell(tip, "slowed by", SVG_PERCENT, sample->slowdown_percent);
        tell(tip, "forecast: ends at", SVG_TIME, sample->end_ns);
        tell(tip, "forecast: blackout", SVG_TIME, sample->blackout_ns);
        svg_plot_tip(plot, from, to, tip->str);
    }
}

/* ---- what happened when ---------------------------------------------------------------------- */

static const char *class_of_state(const char *state)
{
    static const struct {
        const char *state, *class;
    } classes[] = {{"rounds", "round"},   {"saving", "round"},         {"blackout", "black"},
                   {"postcopy", "post"},  {"postcopy-paused", "warn"}, {"reconnecting", "warn"},
                   {"in-doubt", "warn"},  {"failed", "black"},         {"lost", "black"},
                   {"committed", "black"}};

    for (size_t i = 0; i < G_N_ELEMENTS(classes); i++)
        if (strcmp(state, classes[i].state) == 0)
            return classes[i].class;
    return "calm";
}

static void put_spans(struct svg_plot *plot, const struct report_facts *facts, double y)
{
    size_t n;
    const struct track_span *spans = track_spans(facts->track, &n);

    for (size_t i = 0; i < n; i++) {
        const struct track_span *span = &spans[i];
        double x = svg_plot_x(plot, span->start_ns);
        g_autofree char *length = svg_number(SVG_TIME, span->end_ns - span->start_ns);
        g_autofree char *tip = span->n_merged > 1
                                   ? g_strdup_printf("%u states within %s, most of it %s",
                                                     span->n_merged, length, span->state)
                                   : g_strdup_printf("%s for %s", span->state, length);

        if (span->end_ns > span->start_ns)
            svg_box(plot->out, class_of_state(span->state), "", x, y,
                    svg_plot_x(plot, span->end_ns) - x, ROW_HEIGHT, span->state, tip);
    }
}

static void put_round_box(struct svg_plot *plot, double y, const struct track_round *first,
                          const struct track_round *last, unsigned i)
{
    double x = svg_plot_x(plot, first->start_ns);
    double width = fmax(svg_plot_x(plot, last->end_ns) - x, 1);
    bool is_one = first->first == last->last;
    g_autofree char *length = svg_number(SVG_TIME, last->end_ns - first->start_ns);
    g_autofree char *name = is_one ? g_strdup_printf("%u", first->first)
                                   : g_strdup_printf("%u to %u", first->first, last->last);
    g_autofree char *tip = g_strdup_printf("round%s %s: %s", is_one ? "" : "s", name, length);

    svg_box(plot->out, i % 2 ? "round2" : "round", "", x, y, width, ROW_HEIGHT, name, tip);
}

/* Rounds too short to be seen share a box. */
static void put_rounds(struct svg_plot *plot, const struct report_facts *facts, double y)
{
    size_t n, first = 0;
    const struct track_round *rounds = track_rounds(facts->track, &n);

    for (size_t i = 0, n_boxes = 0; i < n; i++) {
        double x = svg_plot_x(plot, rounds[first].start_ns);
        bool is_wide = svg_plot_x(plot, rounds[i].end_ns) - x >= MIN_BOX_WIDTH;
        if (is_wide || i + 1 == n) {
            put_round_box(plot, y, &rounds[first], &rounds[i], (unsigned)n_boxes++);
            first = i + 1;
        }
    }
}

static void put_row_name(struct svg_plot *plot, const char *name, double y)
{
    g_string_append_printf(plot->out, "<text class=\"end\" x=\"%.1f\" y=\"%.1f\">%s</text>",
                           plot->left - 8, y + ROW_HEIGHT / 2 + 4, name);
}

static void put_when(GString *out, const struct report_facts *facts)
{
    struct svg_plot plot;
    double states_y = 10, rounds_y = states_y + ROW_HEIGHT + 6;

    open_section(out, "What happened when", NULL);
    put_stop_key(out, facts);
    svg_rows_begin(&plot, out, "States and rounds over time",
                   has_rounds(facts) ? ROWS_HEIGHT : ROWS_HEIGHT - ROW_HEIGHT - 6, facts->total_ns,
                   TIME_STEPS);
    put_row_name(&plot, "state", states_y);
    put_spans(&plot, facts, states_y);
    if (has_rounds(facts)) {
        put_row_name(&plot, "round", rounds_y);
        put_rounds(&plot, facts, rounds_y);
    }
    put_stops(&plot, facts);
    svg_plot_end(&plot);
    close_section(out);
}

/* ---- values over time ------------------------------------------------------------------------ */

static void put_rates(GString *out, const struct report_facts *facts, const struct series *series)
{
    double max = fmax(greatest(series->sent, series->n_bins), greatest(series->dirty, series->n));
    double limit = report_number(facts->params, "max-bandwidth");
    g_autofree char *number = svg_number(SVG_BYTES_RATE, limit);
    g_autofree char *limit_name = g_strdup_printf("max-bandwidth %s", number);
    struct svg_plot plot;

    open_section(out, "Rates",
                 "What the guest dirties has to be sent again: the rounds get shorter "
                 "where the link takes more than that.");
    svg_key(out, "sent", "sent");
    svg_key(out, "dirty", "dirtied by the guest, as measured last");
    if (limit > 0)
        svg_key(out, "budget", limit_name);
    put_stop_key(out, facts);
    if (limit > 0 && limit < max * MAX_SCALE)
        max = fmax(max, limit);
    svg_plot_begin(&plot, out, "Bytes per second over time", PLOT_HEIGHT, facts->total_ns,
                   SVG_BYTES_RATE, max);
    put_stops(&plot, facts);
    svg_plot_line(&plot, "line dirty", series->at, series->dirty, series->n, true);
    svg_plot_line(&plot, "line sent", series->bin_at, series->sent, series->n_bins + 1, true);
    if (limit > 0 && limit <= max)
        svg_plot_rule(&plot, "budget", limit);
    put_tips(&plot, facts, series);
    svg_plot_end(&plot);
    close_section(out);
}

/* A picture with one line. */
static void put_single(GString *out, const struct report_facts *facts, const struct series *series,
                       const char *title, const char *text, enum svg_unit unit, const double *at,
                       const double *values, size_t n)
{
    struct svg_plot plot;

    open_section(out, title, text);
    svg_plot_begin(&plot, out, title, SMALL_HEIGHT, facts->total_ns, unit, greatest(values, n));
    put_stops(&plot, facts);
    svg_plot_line(&plot, "line sent", at, values, n, unit != SVG_BYTES);
    put_tips(&plot, facts, series);
    svg_plot_end(&plot);
    close_section(out);
}

/* ---- forecasts ------------------------------------------------------------------------------- */

static bool is_over(const struct report_facts *facts)
{
    static const char *const ended[] = {"completed", "saved", NULL};
    return g_strv_contains(ended, report_word(facts->info, "state"));
}

/* Early forecasts may be far too high: what came of it shall still be seen. */
static double cut_forecast(double max, double happened, double budget)
{
    double seen = fmax(isnan(happened) ? 0 : happened, budget);
    return seen > 0 ? fmin(max, seen * MAX_SCALE) : max;
}

/* What has to be said about the line, or NULL. */
static const char *words_on_forecast(const double *values, size_t n, bool is_cut)
{
    bool has_begun = false, has_gap = false;

    for (size_t i = 0; i < n; i++) {
        has_begun = has_begun || !isnan(values[i]);
        has_gap = has_gap || (has_begun && isnan(values[i]));
    }
    if (has_gap)
        return is_cut ? "Where the line is interrupted no end was in sight. What is above the edge "
                        "is drawn at it."
                      : "Where the line is interrupted no end was in sight.";
    return is_cut ? "What is above the edge is drawn at it." : NULL;
}

/* happened: NAN when it did not. budget: 0 when there is none. */
static void put_forecast(GString *out, const struct report_facts *facts,
                         const struct series *series, const char *title, const double *values,
                         double happened, double budget, const char *budget_name)
{
    struct svg_plot plot;
    double greatest_value = greatest(values, series->n);
    double max = fmax(greatest_value, isnan(happened) ? 0 : happened);
    g_autofree char *what = svg_number(SVG_TIME, happened);
    g_autofree char *most = svg_number(SVG_TIME, budget);
    g_autofree char *what_label = g_strdup_printf("it was %s", what);
    g_autofree char *most_label = g_strdup_printf("%s %s", budget_name, most);
    bool draws_budget = budget > 0 && budget < max * MAX_SCALE;
    double top =
        cut_forecast(draws_budget ? fmax(max, budget) : max, happened, draws_budget ? budget : 0);

    open_section(out, title, words_on_forecast(values, series->n, greatest_value > top * 1.25));
    bool has_range = values == series->end && has_any(series->end_high, series->n);
    svg_key(out, "third", "as forecast at that time");
    if (has_range)
        svg_key(out, "range", "between these, most likely");
    if (!isnan(happened))
        svg_key(out, "happened", what_label);
    if (budget > 0)
        svg_key(out, "budget", most_label);
    svg_plot_begin(&plot, out, title, SMALL_HEIGHT, facts->total_ns, SVG_TIME, top);
    put_stops(&plot, facts);
    if (has_range)
        svg_plot_band(&plot, "range", series->at, series->end_low, series->end_high, series->n);
    if (draws_budget)
        svg_plot_rule(&plot, "budget", budget);
    if (!isnan(happened))
        svg_plot_rule(&plot, "happened", happened);
    svg_plot_line(&plot, "line third", series->at, values, series->n, true);
    put_tips(&plot, facts, series);
    svg_plot_end(&plot);
    close_section(out);
}

static void put_forecasts(GString *out, const struct report_facts *facts,
                          const struct series *series)
{
    const json_t *attempt = report_attempt(facts);
    double total_ns = is_over(facts) ? facts->total_ns : NAN;
    double blackout_ns = attempt ? report_number(attempt, "blackout-ns") : NAN;

    if (has_any(series->end, series->n))
        put_forecast(out, facts, series, "Total time: forecast and outcome", series->end, total_ns,
                     report_number(facts->params, "max-time") * 1e6, "max-time");
    if (has_any(series->blackout, series->n))
        put_forecast(out, facts, series, "Blackout: forecast and outcome", series->blackout,
                     blackout_ns, report_number(facts->params, "downtime-limit") * 1e6,
                     "max-blackout");
}

void report_put_charts(GString *out, const struct report_facts *facts)
{
    struct series series;

    series_init(&series, facts);
    put_when(out, facts);
    if (has_rounds(facts))
        put_rates(out, facts, &series);
    if (has_any(series.left, series.n))
        put_single(out, facts, &series, "Left to send",
                   "Of the round under way, and dirtied since as far as known.", SVG_BYTES,
                   series.at, series.left, series.n);
    if (has_any(series.slowdown, series.n))
        put_single(out, facts, &series, "Slow-down",
                   "So much of its time was taken from the vCPU that dirtied fastest, so that the "
                   "link could keep up.",
                   SVG_PERCENT, series.at, series.slowdown, series.n);
    if (has_any(series.requested, series.n_bins))
        put_single(out, facts, &series, "Pages asked for",
                   "Post-copy: pages that the guest needed before they had come, each second.",
                   SVG_COUNT, series.bin_at, series.requested, series.n_bins + 1);
    put_forecasts(out, facts, &series);
    series_clear(&series);
}
