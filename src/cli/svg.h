/* SPDX-License-Identifier: MIT */
/*
 * What a page with pictures is made of: escaped text, numbers with units, axes with round ticks,
 * and plots as inline SVG. Everything is appended to a GString. Colours are CSS classes of the page
 * that it goes into; nothing here knows what is shown.
 *
 * Whatever is made is XML as well as HTML.
 */
#ifndef GODWIT_CLI_SVG_H
#define GODWIT_CLI_SVG_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

enum svg_unit {
    SVG_TIME = 1,   /* values in ns */
    SVG_BYTES,      /* in bytes */
    SVG_BYTES_RATE, /* in bytes per second */
    SVG_PERCENT,
    SVG_COUNT,
};

/* Text for content and attributes in double quotes: markup is escaped, what is no UTF-8 or may not
 * stand in XML becomes U+FFFD. */
void svg_text(GString *out, const char *text);
/* "6.33 s", "1.26 GiB/s": three digits; "-" when the value is not known (NAN). g_free. */
char *svg_number(enum svg_unit unit, double value);

/* From 0 to `high` in steps of 1, 2 or 5 times a power of ten of a unit that suits. */
struct svg_axis {
    double high; /* at least the greatest value; a multiple of step when it is_rounded */
    double step;
    double per_unit; /* value of one `suffix` */
    const char *suffix;
    int n_decimals; /* of a tick's number */
};
/* max_steps: how many there may be. is_rounded: the axis ends at a tick, above max. */
void svg_axis_init(struct svg_axis *axis, enum svg_unit unit, double max, int max_steps,
                   bool is_rounded);

/* A plot of values over time. */
struct svg_plot {
    GString *out;
    double width, height, left, right, top, bottom; /* the frame's edges in the picture */
    struct svg_axis x, y;
};

/* Opens the <svg> with axes, grid and their numbers; label tells people who cannot see it. */
void svg_plot_begin(struct svg_plot *plot, GString *out, const char *label, double height,
                    double max_ns, enum svg_unit unit, double max);
/* What lies outside is drawn at the edge. */
double svg_plot_x(const struct svg_plot *plot, double ns);
double svg_plot_y(const struct svg_plot *plot, double value);
/* A line through points; one that is not known (NAN) interrupts it. Values stay as they are until
 * the next point when is_stepped. class: for example "line s1". */
void svg_plot_line(struct svg_plot *plot, const char *class, const double *ns, const double *values,
                   size_t n, bool is_stepped);
/* The area between two stepped lines, where both are known. */
void svg_plot_band(struct svg_plot *plot, const char *class, const double *ns, const double *low,
                   const double *high, size_t n);
/* A horizontal line across. */
void svg_plot_rule(struct svg_plot *plot, const char *class, double value);
/* A vertical strip over the whole height, not thinner than one can see. */
void svg_plot_strip(struct svg_plot *plot, const char *class, double from_ns, double to_ns,
                    const char *tip);
/* What is told when one points at this part of the time. */
void svg_plot_tip(struct svg_plot *plot, double from_ns, double to_ns, const char *tip);
void svg_plot_end(struct svg_plot *plot);

/* The same times as the plots, but rows of boxes instead of values. */
void svg_rows_begin(struct svg_plot *plot, GString *out, const char *label, double height,
                    double max_ns, unsigned max_steps);
/* A box with text in it where that fits. data: attributes of one's own, with a leading space, or
 * "".
 */
void svg_box(GString *out, const char *class, const char *data, double x, double y, double width,
             double height, const char *text, const char *tip);

/* A coloured mark and its word, for use in HTML. */
void svg_key(GString *out, const char *class, const char *text);

#endif
