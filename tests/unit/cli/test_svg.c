/* SPDX-License-Identifier: MIT */
/* Axes with round ticks, numbers with units, text that cannot leave its place. */
#include <math.h>

#include "../expect.h"
#include "cli/svg.h"

static void test_text_is_escaped(void **state)
{
    static const struct {
        const char *text, *escaped;
    } cases[] = {
        {"plain", "plain"},
        {"</title><script>\"&'", "&lt;/title&gt;&lt;script&gt;&quot;&amp;'"},
        {"a\x01\x1b\x7f"
         "b\n",
         "a\xef\xbf\xbd\xef\xbf\xbd\x7f"
         "b\n"},
        {"\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xef\xbf\xbf", "\xef\xbf\xbd"}, /* U+FFFF may not stand in XML */
        {"\xc3\xa9", "\xc3\xa9"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GString) out = g_string_new(NULL);
        svg_text(out, cases[i].text);
        assert_string_equal(out->str, cases[i].escaped);
    }
}

static void test_numbers(void **state)
{
    static const struct {
        enum svg_unit unit;
        double value;
        const char *text;
    } cases[] = {
        {SVG_TIME, 0, "0 ns"},
        {SVG_TIME, 59039e3, "59.0 ms"},
        {SVG_TIME, 6.329e9, "6.33 s"},
        {SVG_TIME, 600e9, "10.0 min"},
        {SVG_BYTES, 1536, "1.50 KiB"},
        {SVG_BYTES, 512, "512 B"},
        {SVG_BYTES_RATE, 1256.6 * 1048576, "1.23 GiB/s"},
        {SVG_PERCENT, 12.5, "12.5 %"},
        {SVG_COUNT, 525722, "525722"},
        {SVG_COUNT, NAN, "-"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = svg_number(cases[i].unit, cases[i].value);
        assert_string_equal(text, cases[i].text);
    }
}

static bool is_round(double step)
{
    double leading = step / pow(10, floor(log10(step) + 1e-9));
    return fabs(leading - 1) < 1e-6 || fabs(leading - 2) < 1e-6 || fabs(leading - 5) < 1e-6;
}

static void test_axes_have_round_ticks(void **state)
{
    static const enum svg_unit units[] = {SVG_TIME, SVG_BYTES, SVG_BYTES_RATE, SVG_PERCENT,
                                          SVG_COUNT};

    for (size_t u = 0; u < G_N_ELEMENTS(units); u++) {
        for (double max = 1e3; max < 1e15; max *= 1.37) {
            struct svg_axis axis;

            svg_axis_init(&axis, units[u], max, 5, true);
            assert_true(axis.high >= max * (1 - 1e-9));
            assert_true(axis.high <= max + axis.step);
            assert_true(axis.high / axis.step <= 5.001 && axis.high / axis.step >= 0.999);
            assert_true(is_round(axis.step / axis.per_unit));
        }
    }
}

static void test_axes_of_nothing(void **state)
{
    static const double values[] = {0, -1, NAN, INFINITY};

    for (size_t i = 0; i < G_N_ELEMENTS(values); i++) {
        struct svg_axis axis;

        svg_axis_init(&axis, SVG_TIME, values[i], 5, true);
        assert_true(axis.high > 0 && axis.step > 0 && axis.high / axis.step < 10);
        svg_axis_init(&axis, SVG_COUNT, values[i], 5, true);
        assert_true(axis.step >= 1);
    }
}

static void test_a_line_is_interrupted_where_nothing_is_known(void **state)
{
    const double at[] = {0, 1e9, 2e9, 3e9, 4e9}, values[] = {1, 2, NAN, 3, 4};
    g_autoptr(GString) out = g_string_new(NULL);
    struct svg_plot plot;

    svg_plot_begin(&plot, out, "x", 200, 4e9, SVG_COUNT, 4);
    g_string_truncate(out, 0);
    svg_plot_line(&plot, "line", at, values, G_N_ELEMENTS(at), false);
    g_auto(GStrv) parts = g_strsplit(out->str, "M", -1);
    assert_int_equal(g_strv_length(parts), 3);
    assert_null(strstr(out->str, "nan"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_is_escaped),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_axes_have_round_ticks),
        cmocka_unit_test(test_axes_of_nothing),
        cmocka_unit_test(test_a_line_is_interrupted_where_nothing_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
