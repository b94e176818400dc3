/* SPDX-License-Identifier: MIT */
/* Escaped text, numbers with units, axes with round ticks, plots as inline SVG. */
#include "cli/svg.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

#define WIDTH        920.0
#define LEFT         74.0
#define RIGHT        14.0
#define TOP          12.0
#define BOTTOM       24.0
#define LETTER_WIDTH 6.4 /* of a small letter, at most, on average */
#define MIN_STRIP    1.5
#define MAX_STEPS_X  9
#define MAX_STEPS_Y  5
#define REPLACEMENT  "\xef\xbf\xbd"
#define STEP_EPSILON 1e-9

void svg_text(GString *out, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    for (const char *at = valid; *at; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);
        if (c == '&')
            g_string_append(out, "&amp;");
        else if (c == '<')
            g_string_append(out, "&lt;");
        else if (c == '>')
            g_string_append(out, "&gt;");
        else if (c == '"')
            g_string_append(out, "&quot;");
        else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0xfffe || c == 0xffff)
            g_string_append(out, REPLACEMENT);
        else
            g_string_append_unichar(out, c);
    }
}

/* ---- units ----------------------------------------------------------------------------------- */

struct unit_step {
    double from; /* used for values from here on */
    double per_unit;
    const char *suffix;
};

#define KIB 1024.0
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define TIB (GIB * 1024)

static const struct unit_step times[] = {{7200e9, 3600e9, "h"},   {120e9, 60e9, "min"},
                                         {1e9, 1e9, "s"},         {1e6, 1e6, "ms"},
                                         {1e3, 1e3, "\xc2\xb5s"}, {0, 1, "ns"}};
static const struct unit_step sizes[] = {
    {TIB, TIB, "TiB"}, {GIB, GIB, "GiB"}, {MIB, MIB, "MiB"}, {KIB, KIB, "KiB"}, {0, 1, "B"}};
static const struct unit_step rates[] = {{TIB, TIB, "TiB/s"},
                                         {GIB, GIB, "GiB/s"},
                                         {MIB, MIB, "MiB/s"},
                                         {KIB, KIB, "KiB/s"},
                                         {0, 1, "B/s"}};
static const struct unit_step percents[] = {{0, 1, "%"}};
static const struct unit_step counts[] = {{0, 1, ""}};

static const struct unit_step *unit_for(enum svg_unit unit, double value)
{
    static const struct unit_step *const tables[] = {[SVG_TIME] = times,
                                                     [SVG_BYTES] = sizes,
                                                     [SVG_BYTES_RATE] = rates,
                                                     [SVG_PERCENT] = percents,
                                                     [SVG_COUNT] = counts};
    const struct unit_step *step = tables[unit];

    while (step->from > 0 && fabs(value) < step->from)
        step++;
    return step;
}

char *svg_number(enum svg_unit unit, double value)
{
    if (isnan(value))
        return g_strdup("-");
    const struct unit_step *step = unit_for(unit, value);
    double number = value / step->per_unit;
    double size = fabs(number);
    bool is_whole = step->per_unit == 1 && unit != SVG_PERCENT;
    int n_decimals = is_whole || size >= 100 ? 0 : size >= 10 ? 1 : 2;

    if (size == 0)
        n_decimals = 0;
    return g_strdup_printf("%.*f%s%s", n_decimals, number, *step->suffix ? " " : "", step->suffix);
}

/* ---- axes ------------------------------------------------------------------------------------ */

/* The least of 1, 2, 5 times a power of ten of which max_steps reach span. */
static double round_step(double span, int max_steps)
{
    static const double leading[] = {1, 2, 5, 10};
    double power = pow(10, floor(log10(span / max_steps)));

    for (size_t i = 0; i < G_N_ELEMENTS(leading); i++)
        if (leading[i] * power * max_steps >= span * (1 - STEP_EPSILON))
            return leading[i] * power;
    return 20 * power;
}

void svg_axis_init(struct svg_axis *axis, enum svg_unit unit, double max, int max_steps,
                   bool is_rounded)
{
    double least = unit == SVG_TIME ? 1000 : 1;

    if (!(max > least) || isinf(max))
        max = least;
    const struct unit_step *of = unit_for(unit, max);
    double step = round_step(max / of->per_unit, max_steps);

    /* Pages and ns have no parts. */
    if (of->per_unit == 1 && unit != SVG_PERCENT)
        step = fmax(step, 1);
    axis->per_unit = of->per_unit;
    axis->suffix = of->suffix;
    axis->step = step * of->per_unit;
    axis->high = is_rounded ? ceil(max / axis->step - STEP_EPSILON) * axis->step : max;
    axis->n_decimals = 0;
    for (double s = step; s < 1 - STEP_EPSILON && axis->n_decimals < 6; s *= 10)
        axis->n_decimals++;
}

/* "40 MiB/s"; only the 0 has no unit. */
static char *tick_number(const struct svg_axis *axis, double value)
{
    if (value == 0)
        return g_strdup("0");
    return g_strdup_printf("%.*f%s%s", axis->n_decimals, value / axis->per_unit,
                           *axis->suffix ? " " : "", axis->suffix);
}

/* ---- plots ----------------------------------------------------------------------------------- */

double svg_plot_x(const struct svg_plot *plot, double ns)
{
    return plot->left + CLAMP(ns / plot->x.high, 0, 1) * (plot->right - plot->left);
}

double svg_plot_y(const struct svg_plot *plot, double value)
{
    return plot->bottom - CLAMP(value / plot->y.high, 0, 1) * (plot->bottom - plot->top);
}

static void put_label(GString *out, double x, double y, const char *class, const char *text)
{
    g_string_append_printf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
    svg_text(out, text);
    g_string_append(out, "</text>");
}

static void put_stroke(GString *out, const char *class, double x1, double y1, double x2, double y2)
{
    g_string_append_printf(out,
                           "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>",
                           class, x1, y1, x2, y2);
}

static void open_picture(struct svg_plot *plot, GString *out, const char *label, double height,
                         double max_ns)
{
    *plot = (struct svg_plot){.out = out,
                              .width = WIDTH,
                              .height = height,
                              .left = LEFT,
                              .right = WIDTH - RIGHT,
                              .top = TOP,
                              .bottom = height - BOTTOM};
    svg_axis_init(&plot->x, SVG_TIME, max_ns, MAX_STEPS_X, false);
    g_string_append_printf(out, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", WIDTH,
                           height);
    svg_text(out, label);
    g_string_append(out, "\">\n");
}

static void put_time_axis(const struct svg_plot *plot)
{
    for (double ns = 0; ns <= plot->x.high * (1 + STEP_EPSILON); ns += plot->x.step) {
        double x = svg_plot_x(plot, ns);
        g_autofree char *number = tick_number(&plot->x, ns);
        bool is_at_edge = x > plot->right - 12;

        put_stroke(plot->out, "axis", x, plot->bottom, x, plot->bottom + 4);
        put_label(plot->out, is_at_edge ? plot->right : x, plot->bottom + 18,
                  is_at_edge ? "tick end" : "tick mid", number);
    }
    put_stroke(plot->out, "axis", plot->left, plot->bottom, plot->right, plot->bottom);
    g_string_append_c(plot->out, '\n');
}

void svg_plot_begin(struct svg_plot *plot, GString *out, const char *label, double height,
                    double max_ns, enum svg_unit unit, double max)
{
    open_picture(plot, out, label, height, max_ns);
    svg_axis_init(&plot->y, unit, max, MAX_STEPS_Y, true);
    for (double v = 0; v <= plot->y.high * (1 + STEP_EPSILON); v += plot->y.step) {
        double y = svg_plot_y(plot, v);
        g_autofree char *number = tick_number(&plot->y, v);

        if (v > 0)
            put_stroke(out, "grid", plot->left, y, plot->right, y);
        put_label(out, plot->left - 8, y + 4, "tick end", number);
    }
    put_time_axis(plot);
}

void svg_rows_begin(struct svg_plot *plot, GString *out, const char *label, double height,
                    double max_ns, unsigned max_steps)
{
    open_picture(plot, out, label, height, max_ns);
    svg_axis_init(&plot->x, SVG_TIME, max_ns, (int)max_steps, false);
    put_time_axis(plot);
}

void svg_plot_line(struct svg_plot *plot, const char *class, const double *ns, const double *values,
                   size_t n, bool is_stepped)
{
    bool is_drawing = false;
    double last_y = 0;

    g_string_append_printf(plot->out, "<path class=\"%s\" d=\"", class);
    for (size_t i = 0; i < n; i++) {
        if (isnan(values[i])) {
            is_drawing = false;
            continue;
        }
        double x = svg_plot_x(plot, ns[i]), y = svg_plot_y(plot, values[i]);
        if (is_drawing && is_stepped)
            g_string_append_printf(plot->out, "L%.1f %.1f", x, last_y);
        g_string_append_printf(plot->out, "%c%.1f %.1f", is_drawing ? 'L' : 'M', x, y);
        is_drawing = true;
        last_y = y;
    }
    g_string_append(plot->out, "\"/>\n");
}

void svg_plot_band(struct svg_plot *plot, const char *class, const double *ns, const double *low,
                   const double *high, size_t n)
{
    g_string_append_printf(plot->out, "<path class=\"%s\" d=\"", class);
    for (size_t i = 0; i + 1 < n; i++) {
        if (isnan(low[i]) || isnan(high[i]))
            continue;
        double x = svg_plot_x(plot, ns[i]);
        g_string_append_printf(plot->out, "M%.1f %.1fV%.1fH%.1fV%.1fZ", x, svg_plot_y(plot, low[i]),
                               svg_plot_y(plot, high[i]), svg_plot_x(plot, ns[i + 1]),
                               svg_plot_y(plot, low[i]));
    }
    g_string_append(plot->out, "\"/>\n");
}

void svg_plot_rule(struct svg_plot *plot, const char *class, double value)
{
    double y = svg_plot_y(plot, value);

    put_stroke(plot->out, class, plot->left, y, plot->right, y);
    g_string_append_c(plot->out, '\n');
}

static void put_tip(GString *out, const char *tip)
{
    if (tip && *tip) {
        g_string_append(out, "<title>");
        svg_text(out, tip);
        g_string_append(out, "</title>");
    }
}

static void put_rectangle(GString *out, const char *class, const char *data, double x, double y,
                          double width, double height, const char *tip)
{
    g_string_append_printf(
        out, "<rect class=\"%s\"%s x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\">", class,
        data, x, y, width, height);
    put_tip(out, tip);
    g_string_append(out, "</rect>\n");
}

void svg_plot_strip(struct svg_plot *plot, const char *class, double from_ns, double to_ns,
                    const char *tip)
{
    double x = svg_plot_x(plot, from_ns);
    double width = fmax(svg_plot_x(plot, to_ns) - x, MIN_STRIP);

    put_rectangle(plot->out, class, "", x, plot->top, width, plot->bottom - plot->top, tip);
}

void svg_plot_tip(struct svg_plot *plot, double from_ns, double to_ns, const char *tip)
{
    double x = svg_plot_x(plot, from_ns);

    put_rectangle(plot->out, "tip", "", x, plot->top, svg_plot_x(plot, to_ns) - x,
                  plot->bottom - plot->top, tip);
}

void svg_plot_end(struct svg_plot *plot)
{
    g_string_append(plot->out, "</svg>\n");
}

void svg_box(GString *out, const char *class, const char *data, double x, double y, double width,
             double height, const char *text, const char *tip)
{
    put_rectangle(out, class, data, x, y, width, height, tip);
    if (text && *text && (double)g_utf8_strlen(text, -1) * LETTER_WIDTH + 6 <= width)
        put_label(out, x + width / 2, y + height / 2 + 4, "inside mid", text);
}

void svg_key(GString *out, const char *class, const char *text)
{
    g_string_append_printf(out, "<span class=\"key\"><i class=\"%s\"></i>", class);
    svg_text(out, text);
    g_string_append(out, "</span>\n");
}
