/* SPDX-License-Identifier: MIT */
/* The monitor's input: cutting messages, limits, argument checks, the command table itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "monitor/command.h"
#include "monitor/json_stream.h"

/* Feeds text in pieces of `step` bytes; the messages found, joined by '|'. */
static char *cut(const char *text, gsize step)
{
    struct json_stream stream;
    GString *out = g_string_new(NULL);
    gsize len = strlen(text);

    json_stream_init(&stream);
    for (gsize at = 0; at < len; at += step) {
        const char *piece = text + at;
        gsize left = MIN(step, len - at);
        while (left > 0) {
            const char *message;
            gsize n;
            gssize used = json_stream_feed(&stream, piece, left, &message, &n, NULL);
            assert_true(used > 0);
            piece += used;
            left -= (gsize)used;
            if (message)
                g_string_append_printf(out, "%s|", message);
        }
    }
    json_stream_clear(&stream);
    return g_string_free(out, FALSE);
}

static void messages_are_cut_anywhere(void **unused)
{
    static const char text[] = "{\"a\": \"}\\\"{\"} \r\n{\"b\":[{},{}]}{}\nnonsense\n{\"c\":1}";

    for (gsize step = 1; step < sizeof text; step++) {
        g_autofree char *found = cut(text, step);
        assert_string_equal(found, "{\"a\": \"}\\\"{\"}|{\"b\":[{},{}]}|{}|nonsense\n|{\"c\":1}|");
    }
}

static void limits_hold(void **unused)
{
    struct json_stream stream;
    const char *message;
    gsize n;
    g_autofree char *deep = g_strnfill(JSON_STREAM_MAX_DEPTH + 1, '[');
    g_autofree char *longest = g_strnfill(JSON_STREAM_MAX_BYTES + 1, 'x');

    json_stream_init(&stream);
    assert_int_equal(json_stream_feed(&stream, deep, strlen(deep), &message, &n, NULL), -1);
    json_stream_clear(&stream);
    json_stream_init(&stream);
    assert_int_equal(json_stream_feed(&stream, longest, strlen(longest), &message, &n, NULL), -1);
    json_stream_clear(&stream);
}

static void arguments_are_checked_by_name(void **unused)
{
    static const struct {
        const char *command, *args, *message; /* NULL: accepted */
    } rows[] = {
        {"migrate", "{\"uri\":\"tcp:[::1]:1\"}", NULL},
        {"migrate", "{}", "Parameter 'uri' is missing"},
        {"migrate", "{\"uri\":1}", "Invalid parameter type for 'uri', expected: string"},
        {"migrate", "{\"uri\":\"x\",\"fast\":true}", "Parameter 'fast' is unexpected"},
        {"stop", "{\"now\":1}", "Parameter 'now' is unexpected"},
        {"migrate-set-parameters", "{\"downtime-limit\":0}",
         "Parameter 'downtime-limit' expects 1 to 2000000, got 0"},
        {"migrate-set-parameters", "{\"max-bandwidth\":-1}",
         "Parameter 'max-bandwidth' expects 0 or more, got -1"},
        {"migrate-set-parameters", "{\"max-slowdown\":100}",
         "Parameter 'max-slowdown' expects 0 to 99, got 100"},
        {"resolve", "{\"decision\":\"maybe\"}",
         "Parameter 'decision' expects one of run-here, release"},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        g_autoptr(GError) error = NULL;
        json_t *args = json_loads(rows[i].args, 0, NULL);
        bool ok = command_check_args(command_find(rows[i].command), args, &error);
        assert_int_equal(ok, rows[i].message == NULL);
        if (rows[i].message)
            assert_string_equal(error->message, rows[i].message);
        json_decref(args);
    }
}

static void the_table_is_sound(void **unused)
{
    size_t n;
    const struct command *table = command_table(&n);

    for (size_t i = 0; i < n; i++) {
        assert_int_equal((table[i].run != NULL) + (table[i].start != NULL), 1);
        assert_true(table[i].help && *table[i].help);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(table[i].name, table[j].name);
        for (size_t a = 0; a < COMMAND_MAX_ARGS && table[i].args[a].name; a++) {
            assert_in_range(table[i].args[a].type, ARG_STRING, ARG_ANY);
            assert_true(table[i].args[a].help != NULL);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_are_cut_anywhere),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(arguments_are_checked_by_name),
        cmocka_unit_test(the_table_is_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
