/* SPDX-License-Identifier: MIT */
/*
 * Streams of older versions are still read, and mean what they meant.
 *
 * Usage: test-wire-golden tests/golden
 */
#include "fixture.h"

static const char *directory; /* set by main */

static void note_section(void *opaque, const struct wire_section *section)
{
    GString *names = opaque;

    g_string_append_printf(names, "%s:%u:%zu ", section->name, section->instance,
                           g_bytes_get_size(section->data));
}

static void snapshot_1_0(void **state)
{
    (void)state;
    g_autofree char *uri = g_strdup_printf("file:%s/snapshot-1.0.stream", directory);
    g_autoptr(GString) names = g_string_new(NULL);
    const struct wire_inspect_visitor visitor = {.opaque = names, .on_section = note_section};
    struct wire_inspect_report report;
    GError *error = NULL;
    struct gw_listener *listener = gw_listener_new(uri, NULL, &error);

    assert_ok(listener != NULL, error);
    struct gw_channel *channel = gw_listener_accept(listener, NEVER, &error);
    assert_ok(channel != NULL, error);
    assert_ok(wire_inspect(channel, &visitor, &report, &error), error);
    assert_true(report.is_complete);
    assert_int_equal(report.n_pages, 24);
    assert_int_equal(report.n_zero_pages, 9);
    assert_int_equal(report.ram_map.n_blocks, 1);
    assert_int_equal(report.ram_map.blocks[0].gpa, 0x80000000u);
    assert_string_equal(report.hello.machine, "sample");
    assert_string_equal(names->str, "schema:0:21 uart:0:600 empty:3:0 ");
    wire_inspect_report_clear(&report);
    gw_listener_free(listener);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snapshot_1_0),
    };

    if (argc != 2) {
        return 2;
    }
    directory = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
