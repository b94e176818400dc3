/* SPDX-License-Identifier: MIT */
/* The page's blackout ledger: a bar whose boxes are the phases, and the phases as rows. */
#include <math.h>
#include <string.h>

#include "cli/report_parts.h"
#include "cli/svg.h"

#define BAR_HEIGHT     72.0
#define BAR_Y          8.0
#define BAR_BOX_HEIGHT 36.0
#define MAX_STEPS      9
#define MS             1e6

const json_t *report_attempt(const struct report_facts *facts)
{
    const json_t *attempts = json_object_get(facts->ledger, "attempts");
    size_t n = json_array_size(attempts);

    return n ? json_array_get(attempts, n - 1) : NULL;
}

static const char *class_of_side(const char *side)
{
    if (strcmp(side, "source") == 0)
        return "source";
    return strcmp(side, "destination") == 0 ? "destination" : "between";
}

static bool is_part(const json_t *phase)
{
    return report_number(phase, "depth") > 0;
}

/* The boxes' widths are exact: together they are as long as the blackout. */
static void put_bar(GString *out, const json_t *attempt)
{
    double total_ns = report_number(attempt, "blackout-ns");
    struct svg_plot plot;
    size_t i;
    json_t *phase;
    unsigned number = 0;

    svg_rows_begin(&plot, out, "The phases of the blackout", BAR_HEIGHT, total_ns, MAX_STEPS);
    json_array_foreach(json_object_get(attempt, "phases"), i, phase)
    {
        double start_ns = report_number(phase, "start-ns");
        double length_ns = report_number(phase, "length-ns");
        g_autofree char *length = svg_number(SVG_TIME, length_ns);
        g_autofree char *tip = g_strdup_printf("%s (%s): %s", report_word(phase, "name"),
                                               report_word(phase, "side"), length);
        g_autofree char *data = g_strdup_printf(" data-ns=\"%.0f\"", length_ns);

        if (is_part(phase))
            continue;
        double x = svg_plot_x(&plot, start_ns);
        double width = svg_plot_x(&plot, start_ns + length_ns) - x;
        const char *name = report_word(phase, "name");
        g_autofree char *short_name = g_strdup_printf("%u", ++number);
        bool fits = (double)g_utf8_strlen(name, -1) * 7 + 8 <= width;
        svg_box(out, class_of_side(report_word(phase, "side")), data, x, BAR_Y, width,
                BAR_BOX_HEIGHT, fits ? name : short_name, tip);
    }
    svg_plot_end(&plot);
}

static void put_ms(GString *out, double ns)
{
    g_string_append_printf(out, "<td class=\"n\">%.3f</td>", ns / MS);
}

static void put_row(GString *out, const json_t *phase, double total_ns, unsigned number)
{
    double start_ns = report_number(phase, "start-ns");
    double length_ns = report_number(phase, "length-ns");
    const char *side = report_word(phase, "side");
    g_autofree char *label = is_part(phase) ? g_strdup("") : g_strdup_printf("%u", number);
    double left = total_ns > 0 ? CLAMP(start_ns / total_ns, 0, 1) : 0;
    double width = total_ns > 0 ? CLAMP(length_ns / total_ns, 0, 1 - left) : 0;

    g_string_append(out, is_part(phase) ? "<tr class=\"part\">" : "<tr>");
    report_put_cell(out, "n", label);
    report_put_cell(out, "name", report_word(phase, "name"));
    report_put_cell(out, NULL, strcmp(side, "none") == 0 ? "between" : side);
    put_ms(out, start_ns);
    put_ms(out, length_ns);
    g_string_append_printf(out,
                           "<td class=\"fall\"><i class=\"%s\" style=\"margin-left:%.2f%%;"
                           "width:%.2f%%\"></i></td></tr>\n",
                           class_of_side(side), left * 100, width * 100);
}

static void put_phases(GString *out, const json_t *attempt)
{
    double total_ns = report_number(attempt, "blackout-ns");
    size_t i;
    json_t *phase;
    unsigned number = 0;
    double sum_ns = 0;

    g_string_append(out, "<div class=\"scroll\"><table><tr><th class=\"n\">#</th><th>phase</th>"
                         "<th>side</th><th class=\"n\">start, ms</th><th class=\"n\">length, ms"
                         "</th><th class=\"fall\"></th></tr>\n");
    json_array_foreach(json_object_get(attempt, "phases"), i, phase)
    {
        if (!is_part(phase)) {
            number++;
            sum_ns += report_number(phase, "length-ns");
        }
        put_row(out, phase, total_ns, number);
    }
    g_string_append(out,
                    "<tr class=\"sum\"><td></td><td class=\"name\">sum</td><td></td><td></td>");
    put_ms(out, sum_ns);
    g_string_append(out, "<td></td></tr></table></div>\n");
}

/* Earlier stops after which the guest went on at the source. */
static void put_earlier(GString *out, const json_t *attempts)
{
    size_t n = json_array_size(attempts);

    if (n < 2)
        return;
    g_string_append(out, "<details><summary>Earlier switchovers, put off</summary><table><tr><th>"
                         "why</th><th class=\"n\">stopped, ms</th><th class=\"n\">forecast, ms</th>"
                         "</tr>\n");
    for (size_t i = 0; i + 1 < n; i++) {
        const json_t *attempt = json_array_get(attempts, i);
        g_string_append(out, "<tr>");
        report_put_cell(out, NULL, report_word(attempt, "reason"));
        put_ms(out, report_number(attempt, "blackout-ns"));
        put_ms(out, report_number(attempt, "predicted-ns"));
        g_string_append(out, "</tr>\n");
    }
    g_string_append(out, "</table></details>\n");
}

static void put_words(GString *out, const json_t *attempt)
{
    g_autofree char *length = svg_number(SVG_TIME, report_number(attempt, "blackout-ns"));
    g_autofree char *forecast = svg_number(SVG_TIME, report_number(attempt, "predicted-ns"));
    g_autofree char *clock = svg_number(SVG_TIME, report_number(attempt, "clock-error-ns"));
    g_autofree char *words = g_strdup_printf(
        "The guest stood still for %s; %s was forecast. The hosts' clocks agree within %s. %s%s",
        length, forecast, clock,
        json_is_true(json_object_get(attempt, "handed-over")) ? "" : "It went on at the source: ",
        report_word(attempt, "reason"));

    g_string_append(out, "<p>");
    svg_text(out, words);
    g_string_append(out, "</p>\n");
}

void report_put_ledger(GString *out, const struct report_facts *facts)
{
    const json_t *attempt = report_attempt(facts);

    if (!attempt)
        return;
    g_string_append(out, "<section id=\"ledger\">\n<h2>Blackout ledger</h2>\n");
    put_words(out, attempt);
    svg_key(out, "source", "source");
    svg_key(out, "destination", "destination");
    svg_key(out, "between", "between the hosts");
    put_bar(out, attempt);
    put_phases(out, attempt);
    put_earlier(out, json_object_get(facts->ledger, "attempts"));
    g_string_append(out, "</section>\n");
}
