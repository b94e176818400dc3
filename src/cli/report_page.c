/* SPDX-License-Identifier: MIT */
/* The page as a whole: its head, what became of the move in one sentence, the greatest figures. */
#include <math.h>
#include <string.h>

#include "cli/report_parts.h"
#include "cli/svg.h"

double report_number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

const char *report_word(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* ---- the outcome ----------------------------------------------------------------------------- */

struct outcome {
    const char *state, *class, *words;
};

static const struct outcome outcomes[] = {
    {"completed", "good", "The guest runs at the destination."},
    {"saved", "good", "The snapshot is whole; the guest goes on where it was."},
    {"cancelled", "bad", "The guest goes on where it was."},
    {"failed", "bad", "The guest goes on where it was."},
    {"in-doubt", "bad", "The guest is stopped at the source; nobody says whether it runs there."},
    {"lost", "bad", "The guest is lost: its memory was at two hosts, and one of them is gone."},
};

static const struct outcome under_way = {"", "open", "It was still under way."};

static const struct outcome *outcome_of(const char *state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(outcomes); i++)
        if (strcmp(outcomes[i].state, state) == 0)
            return &outcomes[i];
    return &under_way;
}

static void put_failure(GString *out, const json_t *info)
{
    g_auto(GStrv) sentences = g_strsplit(report_word(info, "error-desc"), "\n", -1);

    for (char **sentence = sentences; *sentence; sentence++) {
        g_autofree char *line =
            g_strdup_printf("%s: %s", report_word(info, "error-side"), *sentence);
        if (!**sentence)
            continue;
        g_string_append(out, "<p>");
        svg_text(out, line);
        g_string_append(out, "</p>\n");
    }
}

static void put_outcome(GString *out, const struct report_facts *facts)
{
    const char *state = report_word(facts->info, "state");
    const struct outcome *outcome = outcome_of(state);

    g_string_append_printf(out, "<p class=\"outcome\"><b class=\"%s\">", outcome->class);
    svg_text(out, *state ? state : "unknown");
    g_string_append(out, "</b>");
    svg_text(out, outcome->words);
    g_string_append(out, "</p>\n");
    put_failure(out, facts->info);
    if (facts->ending) {
        g_string_append(out, "<p>");
        svg_text(out, facts->ending);
        g_string_append(out, "</p>\n");
    }
}

/* ---- the greatest figures -------------------------------------------------------------------- */

static void put_tile(GString *out, const char *name, const char *value, const char *detail)
{
    g_string_append(out, "<div><span>");
    svg_text(out, name);
    g_string_append(out, "</span><strong>");
    svg_text(out, value);
    g_string_append(out, "</strong><span>");
    svg_text(out, detail);
    g_string_append(out, "</span></div>\n");
}

static void put_blackout_tile(GString *out, const struct report_facts *facts)
{
    const json_t *attempt = report_attempt(facts);
    double budget_ns = report_number(facts->params, "downtime-limit") * 1e6;
    g_autofree char *length =
        svg_number(SVG_TIME, attempt ? report_number(attempt, "blackout-ns") : NAN);
    g_autofree char *budget = svg_number(SVG_TIME, budget_ns);
    g_autofree char *detail = !attempt        ? g_strdup("the guest never stood still")
                              : budget_ns > 0 ? g_strdup_printf("of %s allowed", budget)
                                              : g_strdup("as in the ledger below");

    put_tile(out, "Blackout", attempt ? length : "none", detail);
}

static void put_tiles(GString *out, const struct report_facts *facts)
{
    const json_t *info = facts->info, *ram = json_object_get(info, "ram");
    double sent = report_number(ram, "transferred"), size = report_number(ram, "total");
    double sending_ns = facts->total_ns - report_number(info, "setup-time") * 1e6;
    g_autofree char *total = svg_number(SVG_TIME, facts->total_ns);
    double n_rounds = report_number(info, "round");
    g_autofree char *rounds =
        g_strdup_printf("%.0f %s", n_rounds, n_rounds == 1 ? "round" : "rounds");
    g_autofree char *bytes = svg_number(SVG_BYTES, sent);
    g_autofree char *share =
        size > 0 ? g_strdup_printf("%.2f times the memory", sent / size) : g_strdup("");
    g_autofree char *rate =
        svg_number(SVG_BYTES_RATE, sending_ns > 0 ? sent / sending_ns * 1e9 : NAN);

    g_string_append(out, "<div class=\"tiles\">\n");
    put_tile(out, "Total time", total, rounds);
    put_blackout_tile(out, facts);
    put_tile(out, "Sent", bytes, share);
    put_tile(out, "Mean rate", rate, "from the first page to the end");
    g_string_append(out, "</div>\n");
}

/* ---- the whole ------------------------------------------------------------------------------- */

static char *time_text(double real_ns)
{
    g_autoptr(GDateTime) at = g_date_time_new_from_unix_local((gint64)(real_ns / 1e9));
    return at ? g_date_time_format(at, "%Y-%m-%d %H:%M:%S %Z") : g_strdup("an unknown time");
}

void report_put_page(GString *out, const struct report_facts *facts)
{
    g_autofree char *title = g_strdup_printf("%s to %s", facts->vm, facts->uri);
    g_autofree char *began = time_text(facts->began_real_ns);

    g_string_append(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                         "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/>"
                         "\n<title>");
    svg_text(out, title);
    g_string_append_printf(out, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<main>\n<h1>",
                           report_style);
    svg_text(out, title);
    g_string_append(out, "</h1>\n<p>Move of a running guest, begun ");
    svg_text(out, began);
    g_string_append(out, "</p>\n");
    put_outcome(out, facts);
    put_tiles(out, facts);
    report_put_charts(out, facts);
    report_put_ledger(out, facts);
    report_put_tables(out, facts);
    g_string_append(out, "<footer>Written by godwit. Times are counted from the beginning of the "
                         "migration; point at a picture to read it.</footer>\n"
                         "</main>\n</body>\n</html>\n");
}
