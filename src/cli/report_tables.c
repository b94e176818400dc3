/* SPDX-License-Identifier: MIT */
/* The page's tables: rounds, figures, faults by thread, and the samples behind the pictures. */
#include <math.h>
#include <string.h>

#include "cli/report_parts.h"
#include "cli/svg.h"

#define MAX_ROUND_ROWS  24u
#define MAX_SAMPLE_ROWS 60u

void report_put_cell(GString *out, const char *class, const char *text)
{
    if (class)
        g_string_append_printf(out, "<td class=\"%s\">", class);
    else
        g_string_append(out, "<td>");
    svg_text(out, text);
    g_string_append(out, "</td>");
}

static void put_number(GString *out, enum svg_unit unit, double value)
{
    g_autofree char *number = svg_number(unit, value);
    report_put_cell(out, "n", number);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static void put_round(GString *out, const struct track_round *first, const struct track_round *last)
{
    g_autofree char *name = first->first == last->last
                                ? g_strdup_printf("%u", first->first)
                                : g_strdup_printf("%u to %u", first->first, last->last);
    double length_ns = last->end_ns - first->start_ns;
    double sent = 0;

    for (const struct track_round *round = first; round <= last; round++)
        sent += round->sent_bytes;
    g_string_append_printf(out, "<tr data-round=\"%u\">", first->first);
    report_put_cell(out, "n", name);
    put_number(out, SVG_TIME, first->start_ns);
    put_number(out, SVG_TIME, length_ns);
    put_number(out, SVG_BYTES, sent);
    put_number(out, SVG_BYTES_RATE, length_ns > 0 ? sent / length_ns * 1e9 : NAN);
    put_number(out, SVG_BYTES_RATE, last->dirty_rate_bytes);
    g_string_append(out, "</tr>\n");
}

static void put_rounds(GString *out, const struct report_facts *facts)
{
    size_t n;
    const struct track_round *rounds = track_rounds(facts->track, &n);
    size_t at_once = (n + MAX_ROUND_ROWS - 1) / MAX_ROUND_ROWS;

    if (n == 0)
        return;
    g_string_append(out,
                    "<section id=\"rounds\">\n<h2>Rounds</h2>\n<div class=\"scroll\"><table><tr>"
                    "<th class=\"n\">round</th><th class=\"n\">start</th><th class=\"n\">length"
                    "</th><th class=\"n\">sent</th><th class=\"n\">rate</th>"
                    "<th class=\"n\">dirtied at</th></tr>\n");
    for (size_t i = 0; i < n; i += at_once)
        put_round(out, &rounds[i], &rounds[MIN(i + at_once, n) - 1]);
    g_string_append(out, "</table></div>\n</section>\n");
}

/* ---- figures --------------------------------------------------------------------------------- */

static void put_fact(GString *out, const char *name, const char *text)
{
    if (!*text)
        return;
    g_string_append(out, "<tr>");
    report_put_cell(out, NULL, name);
    report_put_cell(out, NULL, text);
    g_string_append(out, "</tr>\n");
}

static void put_figure(GString *out, const char *name, enum svg_unit unit, const json_t *object,
                       const char *key)
{
    const json_t *value = json_object_get(object, key);
    g_autofree char *number = NULL;

    if (json_number_value(value) == 0)
        return;
    number = svg_number(unit, json_number_value(value));
    put_fact(out, name, number);
}

static void put_encoding(GString *out, const char *name, const json_t *counts, const char *rate)
{
    g_autofree char *text = NULL;

    if (report_number(counts, "pages") == 0)
        return;
    text = g_strdup_printf("%.0f pages, %.1f times smaller, %.0f ms of work",
                           report_number(counts, "pages"), report_number(counts, rate),
                           report_number(counts, "work-ns") / 1e6);
    put_fact(out, name, text);
}

/* A limit in ms of which 0 means none. */
static void put_limit(GString *out, const char *name, const json_t *params, const char *key)
{
    g_autofree char *number = svg_number(SVG_TIME, report_number(params, key) * 1e6);

    if (params)
        put_fact(out, name, report_number(params, key) > 0 ? number : "none");
}

static void put_settings(GString *out, const json_t *params)
{
    double rate = report_number(params, "max-bandwidth");
    g_autofree char *number = svg_number(SVG_BYTES_RATE, rate);

    if (!params)
        return;
    put_limit(out, "budget: max-blackout", params, "downtime-limit");
    put_limit(out, "budget: max-time", params, "max-time");
    put_fact(out, "budget: max-bandwidth", rate > 0 ? number : "none");
    put_figure(out, "budget: max-slowdown, percent", SVG_COUNT, params, "max-slowdown");
    put_fact(out, "mode", report_word(params, "mode"));
    put_fact(out, "at max-time", report_word(params, "at-max-time"));
}

static void put_figures(GString *out, const struct report_facts *facts)
{
    const json_t *info = facts->info, *ram = json_object_get(info, "ram");
    const json_t *served = json_object_get(info, "served");

    g_string_append(out, "<section id=\"figures\">\n<h2>Figures</h2>\n<table class=\"facts\">\n");
    put_figure(out, "memory of the guest", SVG_BYTES, ram, "total");
    put_figure(out, "sent in all", SVG_BYTES, ram, "transferred");
    put_figure(out, "pages sent with content", SVG_COUNT, ram, "normal");
    put_figure(out, "pages zero or untouched", SVG_COUNT, ram, "duplicate");
    put_figure(out, "pages sent again because they arrived damaged", SVG_COUNT, ram,
               "pages-resent");
    put_figure(out, "pages asked for by the destination", SVG_COUNT, ram, "postcopy-requests");
    put_figure(out, "requests for pages answered", SVG_COUNT, served, "count");
    put_figure(out, "half of them within", SVG_TIME, served, "p50-ns");
    put_figure(out, "99 % of them within", SVG_TIME, served, "p99-ns");
    put_figure(out, "the longest took", SVG_TIME, served, "max-ns");
    put_encoding(out, "compressed", json_object_get(info, "compression"), "compression-rate");
    put_encoding(out, "sent as deltas", json_object_get(info, "xbzrle-cache"), "encoding-rate");
    put_figure(out, "page channels", SVG_COUNT, info, "channels");
    put_figure(out, "lost links taken up again", SVG_COUNT, info, "reconnects");
    put_figure(out, "switchovers put off", SVG_COUNT, info, "failed-attempts");
    put_figure(out, "rounds not sent to their end", SVG_COUNT, info, "rounds-cut");
    put_figure(out, "frames sent after the guest", SVG_COUNT, info, "packets-forwarded");
    put_figure(out, "CPU time of the move at the source", SVG_TIME, info, "cpu-ns");
    put_figure(out, "CPU time at the destination", SVG_TIME, info, "peer-cpu-ns");
    put_settings(out, facts->params);
    put_fact(out, "post-copy was not possible", report_word(info, "postcopy-lack"));
    put_fact(out, "note", report_word(info, "note"));
    g_string_append(out, "</table>\n</section>\n");
}

/* ---- forecast and outcome -------------------------------------------------------------------- */

/* What may never be has no number. */
static char *end_text(const json_t *range, const char *key)
{
    const json_t *value = json_object_get(range, key);
    return json_is_number(value) ? svg_number(SVG_TIME, json_number_value(value))
                                 : g_strdup("never");
}

/* "4.49 s (4.31 s to 4.80 s)". */
static char *range_text(const json_t *range)
{
    g_autofree char *expected = end_text(range, "expected");
    g_autofree char *low = end_text(range, "low");
    g_autofree char *high = end_text(range, "high");

    return g_strdup_printf("%s (%s to %s)", expected, low, high);
}

/* outcome_ns: NAN when it never came to that. */
static void put_outcome(GString *out, const char *name, const json_t *range, double outcome_ns)
{
    g_autofree char *forecast = range_text(range);
    double expected_ns = report_number(range, "expected");
    g_autofree char *off = outcome_ns > 0 && expected_ns > 0
                               ? g_strdup_printf("%+.0f %%", (expected_ns / outcome_ns - 1) * 100)
                               : g_strdup("-");

    g_string_append(out, "<tr>");
    report_put_cell(out, NULL, name);
    report_put_cell(out, "n", forecast);
    put_number(out, SVG_TIME, outcome_ns);
    report_put_cell(out, "n", off);
    g_string_append(out, "</tr>\n");
}

/* The engine's first forecast that knew link and guest. */
static void put_forecast(GString *out, const struct report_facts *facts)
{
    const json_t *forecast = json_object_get(facts->info, "forecast");
    const json_t *attempt = report_attempt(facts);
    bool is_completed = strcmp(report_word(facts->info, "state"), "completed") == 0;

    if (report_number(forecast, "round") == 0)
        return;
    g_string_append_printf(out,
                           "<section id=\"forecast\">\n<h2>The first forecast, and what came of it"
                           "</h2>\n<p>Made before round %.0f, when link and guest were known.</p>\n"
                           "<table class=\"facts\"><tr><th></th><th class=\"n\">forecast</th>"
                           "<th class=\"n\">outcome</th><th class=\"n\">off by</th></tr>\n",
                           report_number(forecast, "round"));
    put_outcome(out, "total time", json_object_get(forecast, "total-ns"),
                is_completed ? facts->total_ns : NAN);
    put_outcome(out, "blackout", json_object_get(forecast, "blackout-ns"),
                is_completed && attempt ? report_number(attempt, "blackout-ns") : NAN);
    g_string_append(out, "</table>\n</section>\n");
}

/* ---- throttling ------------------------------------------------------------------------------ */

static void put_throttle(GString *out, const struct report_facts *facts)
{
    size_t i;
    json_t *vcpu;

    if (report_number(facts->info, "throttled-rounds") == 0)
        return;
    g_string_append(out, "<section id=\"throttle\">\n<h2>vCPUs</h2>\n<p>Only those are slowed that "
                         "dirty memory faster than the link takes.</p>\n<table class=\"facts\"><tr>"
                         "<th class=\"n\">vCPU</th><th class=\"n\">dirtied at</th><th class=\"n\">"
                         "slowed at most by</th><th class=\"n\">time taken</th></tr>\n");
    json_array_foreach(json_object_get(facts->info, "vcpus"), i, vcpu)
    {
        g_string_append(out, "<tr>");
        put_number(out, SVG_COUNT, (double)i);
        put_number(out, SVG_BYTES_RATE, report_number(vcpu, "dirty-rate"));
        put_number(out, SVG_PERCENT, report_number(vcpu, "most-throttle"));
        put_number(out, SVG_TIME, report_number(vcpu, "throttled-ns"));
        g_string_append(out, "</tr>\n");
    }
    g_string_append(out, "</table>\n</section>\n");
}

/* ---- faults ---------------------------------------------------------------------------------- */

static void put_thread(GString *out, const char *name, const json_t *faults)
{
    g_string_append(out, "<tr>");
    report_put_cell(out, NULL, name);
    put_number(out, SVG_COUNT, report_number(faults, "count"));
    put_number(out, SVG_TIME, report_number(faults, "stall-ns"));
    put_number(out, SVG_TIME, report_number(faults, "p50-ns"));
    put_number(out, SVG_TIME, report_number(faults, "p99-ns"));
    put_number(out, SVG_TIME, report_number(faults, "max-ns"));
    g_string_append(out, "</tr>\n");
}

static void put_faults(GString *out, const struct report_facts *facts)
{
    const json_t *faults = json_object_get(facts->info, "faults");
    size_t i;
    json_t *thread;

    if (report_number(faults, "count") == 0)
        return;
    g_string_append(out, "<section id=\"faults\">\n<h2>Waiting for pages</h2>\n<p>Post-copy: how "
                         "long threads of the guest waited for a page that had not come.</p>\n"
                         "<div class=\"scroll\"><table><tr><th>who</th><th class=\"n\">faults</th>"
                         "<th class=\"n\">in all</th><th class=\"n\">half within</th>"
                         "<th class=\"n\">99 % within</th><th class=\"n\">longest</th></tr>\n");
    put_thread(out, "all", faults);
    json_array_foreach(json_object_get(faults, "threads"), i, thread)
        put_thread(out, report_word(thread, "name"), thread);
    g_string_append(out, "</table></div>\n</section>\n");
}

/* ---- samples --------------------------------------------------------------------------------- */

static void put_sample(GString *out, const struct track_sample *sample)
{
    g_string_append(out, "<tr>");
    put_number(out, SVG_TIME, sample->at_ns);
    report_put_cell(out, NULL, sample->state);
    put_number(out, SVG_COUNT, sample->round);
    put_number(out, SVG_BYTES, sample->sent_bytes);
    put_number(out, SVG_BYTES_RATE, sample->rate_bytes);
    put_number(out, SVG_BYTES_RATE, sample->dirty_rate_bytes);
    put_number(out, SVG_BYTES, sample->left_bytes);
    put_number(out, SVG_TIME, sample->end_ns);
    put_number(out, SVG_TIME, sample->blackout_ns);
    g_string_append(out, "</tr>\n");
}

static void put_samples(GString *out, const struct report_facts *facts)
{
    size_t n;
    const struct track_sample *samples = track_samples(facts->track, &n);
    size_t step = (n + MAX_SAMPLE_ROWS - 1) / MAX_SAMPLE_ROWS;

    g_string_append_printf(
        out,
        "<section id=\"samples\" data-samples=\"%zu\">\n<h2>Samples</h2>\n<details><summary>%zu "
        "of %zu samples in numbers</summary><div class=\"scroll\"><table><tr><th class=\"n\">at"
        "</th><th>state</th><th class=\"n\">round</th><th class=\"n\">sent</th><th class=\"n\">"
        "rate measured</th><th class=\"n\">dirtied at</th><th class=\"n\">left</th>"
        "<th class=\"n\">forecast: ends at</th><th class=\"n\">forecast: blackout</th></tr>\n",
        n, (n + step - 1) / step, n);
    for (size_t i = 0; i < n; i += step)
        put_sample(out, &samples[i]);
    g_string_append(out, "</table></div></details>\n</section>\n");
}

void report_put_tables(GString *out, const struct report_facts *facts)
{
    put_forecast(out, facts);
    put_throttle(out, facts);
    put_faults(out, facts);
    put_rounds(out, facts);
    put_figures(out, facts);
    put_samples(out, facts);
}
