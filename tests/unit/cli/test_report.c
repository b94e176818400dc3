/* SPDX-License-Identifier: MIT */
/* The page of godwit migrate --report, from answers made up here: well-formed whatever stands in
 * them, whole or not there, and nothing left beside it. */
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "../expect.h"
#include "cli/report.h"

struct fixture {
    char *folder, *path;
};

static int set_up(void **state)
{
    struct fixture *fixture = g_new0(struct fixture, 1);

    fixture->folder = g_dir_make_tmp("godwit-report-XXXXXX", NULL);
    fixture->path = g_build_filename(fixture->folder, "move.html", NULL);
    *state = fixture;
    return fixture->folder ? 0 : -1;
}

static unsigned n_files(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    return n;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    g_unlink(fixture->path);
    assert_int_equal(n_files(fixture->folder), 0);
    g_rmdir(fixture->folder);
    g_free(fixture->folder);
    g_free(fixture->path);
    g_free(fixture);
    return 0;
}

static void add(struct report *report, double at_ms, const char *more)
{
    json_t *info = json_loads(more, 0, NULL);

    assert_non_null(info);
    json_object_set_new(info, "total-ns", json_real(at_ms * 1e6));
    report_add(report, info, 1700000000000000000u + (uint64_t)(at_ms * 1e6), 1000);
    json_decref(info);
}

/* Fails unless it is XML, apart from the DOCTYPE. */
static char *read_page(const char *path)
{
    g_autoptr(GError) error = NULL;
    const GMarkupParser parser = {0};
    GMarkupParseContext *context = g_markup_parse_context_new(&parser, 0, NULL, NULL);
    char *text = NULL;
    gsize len;

    assert_ok(g_file_get_contents(path, &text, &len, &error), error);
    assert_ok(g_markup_parse_context_parse(context, text, (gssize)len, &error), error);
    assert_ok(g_markup_parse_context_end_parse(context, &error), error);
    g_markup_parse_context_free(context);
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "href="));
    assert_null(strstr(text, "src="));
    assert_null(strstr(text, "<script"));
    return text;
}

static void test_a_move_in_postcopy(void **state)
{
    struct fixture *fixture = *state;
    g_autoptr(GError) error = NULL;
    struct report *report = report_new(fixture->path, "a<&\"", "tcp:h:1", &error);

    assert_ok(report, error);
    assert_int_equal(n_files(fixture->folder), 0);
    json_t *params = json_pack("{s:i, s:i, s:s}", "downtime-limit", 300, "max-bandwidth", 1000000,
                               "mode", "postcopy");
    report_set_params(report, params);
    json_decref(params);
    add(report, 0, "{\"status\":\"setup\",\"state\":\"connecting\",\"round\":0}");
    add(report, 100,
        "{\"status\":\"active\",\"state\":\"rounds\",\"round\":1,\"dirty-rate\":5000,"
        "\"cpu-throttle-percentage\":20,"
        "\"ram\":{\"transferred\":0,\"remaining\":90000,\"total\":90000}}");
    add(report, 200,
        "{\"status\":\"postcopy-active\",\"state\":\"postcopy\",\"round\":1,"
        "\"predicted-blackout-ns\":4000000,\"expected-left-ns\":200000000,"
        "\"expected-left-low-ns\":100000000,\"expected-left-high-ns\":300000000,"
        "\"ram\":{\"transferred\":60000,\"remaining\":30000,\"postcopy-requests\":4}}");
    add(report, 400,
        "{\"status\":\"completed\",\"state\":\"completed\",\"round\":1,"
        "\"forecast\":{\"round\":1,\"total-ns\":{\"expected\":440000000,"
        "\"low\":380000000,\"high\":null},\"blackout-ns\":{\"expected\":1000}},"
        "\"throttled-rounds\":1,\"throttled-vcpus\":0,\"vcpus\":[{\"most-throttle\":12.5,"
        "\"dirty-rate\":5000,\"throttled-ns\":70000000}],"
        "\"note\":\"<b>\\u0001\",\"served\":{\"count\":8,\"p99-ns\":321000},"
        "\"faults\":{\"count\":9,\"p50-ns\":100000,"
        "\"threads\":[{\"name\":\"hart<0>\",\"count\":9,\"stall-ns\":5}]},"
        "\"ram\":{\"transferred\":95000,\"remaining\":0,\"postcopy-requests\":9}}");
    assert_ok(report_write(report, NULL, NULL, &error), error);
    report_free(report);
    g_autofree char *page = read_page(fixture->path);
    assert_non_null(strstr(page, "a&lt;&amp;&quot;"));
    assert_non_null(strstr(page, "hart&lt;0&gt;"));
    assert_non_null(strstr(page, "Pages asked for"));
    assert_non_null(strstr(page, "<td>99 % of them within</td><td>321 µs</td>"));
    assert_non_null(strstr(page, "440 ms (380 ms to never)"));
    assert_non_null(strstr(page, "+10 %"));
    assert_non_null(strstr(page, "<td class=\"n\">12.5 %</td><td class=\"n\">70.0 ms</td>"));
    assert_non_null(strstr(page, "<path class=\"range\""));
    assert_non_null(strstr(page, "<h2>Slow-down</h2>"));
    assert_non_null(strstr(page, "The guest runs at the destination."));
    assert_non_null(strstr(page, "data-samples=\"4\""));
    assert_int_equal(n_files(fixture->folder), 1);
}

static void test_a_move_that_was_lost_sight_of(void **state)
{
    struct fixture *fixture = *state;
    g_autoptr(GError) error = NULL;
    struct report *report = report_new(fixture->path, "a", "b", &error);

    assert_ok(report, error);
    add(report, 1, "{\"status\":\"setup\",\"state\":\"connecting\"}");
    assert_ok(report_write(report, NULL, "the monitor <went> away", &error), error);
    report_free(report);
    g_autofree char *page = read_page(fixture->path);
    assert_non_null(strstr(page, "the monitor &lt;went&gt; away"));
    assert_non_null(strstr(page, "It was still under way."));
}

static void test_a_failed_move_says_why(void **state)
{
    struct fixture *fixture = *state;
    g_autoptr(GError) error = NULL;
    struct report *report = report_new(fixture->path, "a", "b", &error);

    assert_ok(report, error);
    add(report, 5,
        "{\"status\":\"failed\",\"state\":\"failed\",\"error-side\":\"destination\","
        "\"error-desc\":\"one\\ntwo\"}");
    assert_ok(report_write(report, NULL, NULL, &error), error);
    report_free(report);
    g_autofree char *page = read_page(fixture->path);
    assert_non_null(strstr(page, "<p>destination: one</p>\n<p>destination: two</p>"));
}

static void test_what_cannot_be_written_is_known_at_once(void **state)
{
    struct fixture *fixture = *state;
    g_autoptr(GError) error = NULL;
    g_autofree char *nowhere = g_build_filename(fixture->folder, "no", "where", NULL);

    assert_null(report_new(nowhere, "a", "b", &error));
    assert_error(&error, GW_ERROR_IO, "cannot be written");
    assert_null(report_new(fixture->folder, "a", "b", &error));
    assert_error(&error, GW_ERROR_INVALID, "no ordinary file");
    assert_null(report_new("/dev/null", "a", "b", &error));
    assert_error(&error, GW_ERROR_INVALID, "no ordinary file");
}

/* What a link points at is replaced, not the link; an older page stays until then. */
static void test_an_older_page_is_replaced_at_the_end(void **state)
{
    struct fixture *fixture = *state;
    g_autoptr(GError) error = NULL;
    g_autofree char *link = g_build_filename(fixture->folder, "link", NULL);
    struct stat status;

    assert_true(g_file_set_contents(fixture->path, "old", -1, NULL));
    assert_int_equal(symlink(fixture->path, link), 0);
    struct report *report = report_new(link, "a", "b", &error);
    assert_ok(report, error);
    add(report, 1, "{\"status\":\"completed\",\"state\":\"completed\"}");
    g_autofree char *before = NULL;
    assert_true(g_file_get_contents(fixture->path, &before, NULL, NULL));
    assert_string_equal(before, "old");
    assert_ok(report_write(report, NULL, NULL, &error), error);
    report_free(report);
    assert_int_equal(lstat(link, &status), 0);
    assert_true(S_ISLNK(status.st_mode));
    g_unlink(link);
    g_autofree char *page = read_page(fixture->path);
    assert_true(g_str_has_prefix(page, "<!DOCTYPE html>"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_move_in_postcopy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_move_that_was_lost_sight_of, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_failed_move_says_why, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_written_is_known_at_once, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_an_older_page_is_replaced_at_the_end, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
