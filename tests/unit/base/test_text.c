/* SPDX-License-Identifier: MIT */
/* Numbers with units, natural order, whole reads and writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "base/text.h"

static void numbers_are_parsed_or_refused(void **state)
{
    uint64_t value = 0;
    g_autoptr(GError) error = NULL;

    assert_true(text_parse_u64("0", 0, 10, &value, NULL));
    assert_int_equal(value, 0);
    assert_true(text_parse_u64("0x1F", 0, 31, &value, NULL));
    assert_int_equal(value, 31);
    assert_true(text_parse_u64("18446744073709551615", 0, UINT64_MAX, &value, NULL));
    assert_true(value == UINT64_MAX);
    static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "x", "0x", "1k", "0x0x1"};
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_false(text_parse_u64(bad[i], 0, UINT64_MAX, &value, NULL));
    }
    assert_false(text_parse_u64("18446744073709551616", 0, UINT64_MAX, &value, NULL));
    assert_false(text_parse_u64("11", 0, 10, &value, &error));
    assert_string_equal(error->message, "'11' is not between 0 and 10");
}

static void sizes_are_parsed_or_refused(void **state)
{
    uint64_t bytes = 0;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"4096", 4096},      {"1k", 1024},       {"64M", 64u << 20}, {"4GiB", 4ull << 30},
        {"2GB", 2ull << 30}, {"1T", 1ull << 40}, {"512B", 512},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        assert_true(text_parse_size(good[i].text, &bytes, NULL));
        assert_true(bytes == good[i].bytes);
    }
    static const char *const bad[] = {"", "M", "-1M", "1X", "1Mi", "1MM", "99999999999999T"};
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_false(text_parse_size(bad[i], &bytes, NULL));
    }
}

static void durations_are_parsed_or_refused(void **state)
{
    uint64_t ns = 0;

    assert_true(text_parse_duration("300ms", &ns, NULL));
    assert_true(ns == 300 * NS_PER_MS);
    assert_true(text_parse_duration("1.5s", &ns, NULL));
    assert_true(ns == 1500 * NS_PER_MS);
    assert_true(text_parse_duration("2m", &ns, NULL));
    assert_true(ns == 120 * NS_PER_S);
    static const char *const bad[] = {"", "5", "s", "-1s", "1 s", "1x", "1e99s", "nans"};
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_false(text_parse_duration(bad[i], &ns, NULL));
    }
}

static void names_sort_as_people_count(void **state)
{
    static const char *const sorted[] = {"", "a", "a/1", "a/2", "a/10", "a/10/b", "b", "b01", "b1"};

    for (size_t i = 0; i < G_N_ELEMENTS(sorted); i++) {
        for (size_t j = 0; j < G_N_ELEMENTS(sorted); j++) {
            int order = text_compare_natural(sorted[i], sorted[j]);
            assert_int_equal(i < j ? -1 : i > j, order < 0 ? -1 : order > 0);
        }
    }
}

static void whole_messages_pass(void **state)
{
    gw_autofd int ours = -1;
    gw_autofd int theirs = -1;
    int pair[2];
    char got[8] = "";

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ours = pair[0];
    theirs = pair[1];
    assert_true(fd_write_full(ours, "hello", 5));
    assert_int_equal(fd_read_full(theirs, got, 5), 5);
    assert_string_equal(got, "hello");
    assert_true(fd_write_full(ours, "end", 3));
    gw_clear_fd(&ours);
    assert_int_equal(ours, -1);
    assert_int_equal(fd_read_full(theirs, got, 5), 3); /* end of file */
    assert_true(fd_set_nonblocking(theirs, true));
    assert_true(fd_set_cloexec(theirs, true));
    int stolen = gw_steal_fd(&theirs);
    assert_int_equal(theirs, -1);
    gw_clear_fd(&stolen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_parsed_or_refused),
        cmocka_unit_test(sizes_are_parsed_or_refused),
        cmocka_unit_test(durations_are_parsed_or_refused),
        cmocka_unit_test(names_sort_as_people_count),
        cmocka_unit_test(whole_messages_pass),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
