/* SPDX-License-Identifier: MIT */
/* Rate limit, faults and trace do what they say, and nothing else. */
#include "fixture.h"

#include <sys/socket.h>

/* A framing for these tests: preamble of 4 bytes "L:xy"; a frame is length, letter, that many
 * bytes in all (at least 2). */
static uint64_t test_frame_bytes(const uint8_t *head)
{
    return head[0] < 2 ? 0 : head[0];
}

static const char *test_frame_name(const uint8_t *head)
{
    static const char *const names[] = {"A", "B", "C", "D"};
    return head[1] >= 'A' && head[1] <= 'D' ? names[head[1] - 'A'] : NULL;
}

static void test_label(const uint8_t *preamble, char *label, size_t label_size)
{
    g_snprintf(label, (gulong)label_size, "id-page-%c-end", preamble[2]);
}

static const struct gw_framing framing = {
    .preamble_bytes = 4,
    .head_bytes = 2,
    .frame_bytes = test_frame_bytes,
    .frame_name = test_frame_name,
    .stream_label = test_label,
};

static const char stream[] = "L:1.\4Aaa\5Bbbb\3Cc\6Ddddd";
#define STREAM_BYTES (sizeof(stream) - 1)

struct ends {
    struct gw_channel *filtered;
    struct gw_channel *plain;
};

static struct ends connect_ends(const char *fault, const char *trace_dir,
                                struct gw_rate_limit *limit)
{
    GError *error = NULL;
    int fds[2];
    struct ends ends;
    struct gw_channel_options options = {
        .fault = fault, .trace_dir = trace_dir, .limit = limit, .framing = &framing};

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    ends.filtered = gw_channel_new_fd(fds[0], "filtered", &options, &error);
    assert_ok(ends.filtered != NULL, error);
    ends.plain = gw_channel_new_fd(fds[1], "plain", NULL, &error);
    assert_ok(ends.plain != NULL, error);
    return ends;
}

static void close_ends(struct ends *ends)
{
    gw_channel_free(ends->filtered);
    gw_channel_free(ends->plain);
}

/* All that arrives until the end. */
static GString *read_all(struct gw_channel *channel)
{
    GString *got = g_string_new(NULL);
    GError *error = NULL;
    char bytes[3];
    ssize_t n;

    while ((n = gw_channel_read_some(channel, bytes, sizeof(bytes), NEVER, &error)) > 0) {
        g_string_append_len(got, bytes, n);
    }
    g_clear_error(&error);
    return got;
}

/* What arrives when the stream is sent through the fault, in pieces of any size. */
static void check_out(const char *fault, const char *expected, size_t n_expected, bool is_ok)
{
    for (size_t piece = 1; piece <= STREAM_BYTES; piece++) {
        struct ends ends = connect_ends(fault, NULL, NULL);
        GError *error = NULL;
        bool was_ok = true;
        for (size_t at = 0; at < STREAM_BYTES && was_ok; at += piece) {
            was_ok = gw_channel_write_full(ends.filtered, stream + at,
                                           MIN(piece, STREAM_BYTES - at), NEVER, &error);
        }
        if (was_ok) {
            was_ok = gw_channel_finish(ends.filtered, NEVER, &error);
        }
        if (was_ok != is_ok) {
            fail_msg("%s: %s", fault, error != NULL ? error->message : "succeeded");
        }
        g_clear_error(&error);
        gw_channel_shutdown(ends.filtered);
        g_autoptr(GString) got = read_all(ends.plain);
        if (got->len != n_expected || memcmp(got->str, expected, n_expected) != 0) {
            fail_msg("%s in pieces of %zu: %zu bytes arrived, expected %zu", fault, piece, got->len,
                     n_expected);
        }
        close_ends(&ends);
    }
}

/* The same for the other direction. */
static void check_in(const char *fault, const char *expected, size_t n_expected)
{
    struct ends ends = connect_ends(fault, NULL, NULL);
    GError *error = NULL;

    assert_ok(gw_channel_write_full(ends.plain, stream, STREAM_BYTES, NEVER, &error), error);
    assert_ok(gw_channel_finish(ends.plain, NEVER, &error), error);
    g_autoptr(GString) got = read_all(ends.filtered);
    if (got->len != n_expected || memcmp(got->str, expected, n_expected) != 0) {
        fail_msg("%s: %zu bytes arrived, expected %zu", fault, got->len, n_expected);
    }
    close_ends(&ends);
}

#define OUT(fault, expected)     check_out(fault, expected, sizeof(expected) - 1, true)
#define OUT_CUT(fault, expected) check_out(fault, expected, sizeof(expected) - 1, false)
#define IN(fault, expected)      check_in(fault "@in", expected, sizeof(expected) - 1)

static void no_fault_changes_nothing(void **state)
{
    (void)state;
    OUT("cut@bytes=1000", "L:1.\4Aaa\5Bbbb\3Cc\6Ddddd");
    IN("cut@bytes=1000", "L:1.\4Aaa\5Bbbb\3Cc\6Ddddd");
    OUT("drop@type=D@channel=page-2", "L:1.\4Aaa\5Bbbb\3Cc\6Ddddd");
    OUT("cut@bytes=0@in", "L:1.\4Aaa\5Bbbb\3Cc\6Ddddd"); /* the other direction's */
}

static void cut_and_truncate(void **state)
{
    (void)state;
    OUT_CUT("cut@bytes=0", "");
    OUT_CUT("cut@bytes=6", "L:1.\4A");
    OUT_CUT("cut@record=2", "L:1.\4Aaa");
    OUT_CUT("cut@record=2@at=3", "L:1.\4Aaa\5Bb");
    OUT_CUT("cut@type=C", "L:1.\4Aaa\5Bbbb");
    OUT("truncate@bytes=6", "L:1.\4A");
    OUT("truncate@type=C@at=1", "L:1.\4Aaa\5Bbbb\3");
    IN("cut@bytes=6", "L:1.\4A");
    IN("truncate@record=1", "L:1.");
}

static void corrupt(void **state)
{
    (void)state;
    OUT("corrupt@bytes=6@mask=0x20", "L:1.\4AAa\5Bbbb\3Cc\6Ddddd");
    OUT("corrupt@record=0@at=2@mask=3", "L:2.\4Aaa\5Bbbb\3Cc\6Ddddd");
    OUT("corrupt@type=B@at=4@mask=0x20;corrupt@type=D@at=2@mask=0x20",
        "L:1.\4Aaa\5BbbB\3Cc\6DDddd");
    IN("corrupt@type=B@at=4@mask=0x20", "L:1.\4Aaa\5BbbB\3Cc\6Ddddd");
}

static void whole_records(void **state)
{
    (void)state;
    OUT("duplicate@record=1", "L:1.\4Aaa\4Aaa\5Bbbb\3Cc\6Ddddd");
    OUT("drop@record=0", "\4Aaa\5Bbbb\3Cc\6Ddddd");
    OUT("drop@type=B@channel=page-1", "L:1.\4Aaa\3Cc\6Ddddd");
    OUT("swap@type=A", "L:1.\5Bbbb\4Aaa\3Cc\6Ddddd");
    OUT("swap@type=D", "L:1.\4Aaa\5Bbbb\3Cc\6Ddddd"); /* nothing follows: it comes at the end */
    IN("duplicate@type=C", "L:1.\4Aaa\5Bbbb\3Cc\3Cc\6Ddddd");
    IN("drop@type=A", "L:1.\5Bbbb\3Cc\6Ddddd");
    IN("swap@record=3", "L:1.\4Aaa\5Bbbb\6Ddddd\3Cc");
}

static void delay_changes_nothing_else(void **state)
{
    (void)state;
    OUT("delay@record=2@ms=1", "L:1.\4Aaa\5Bbbb\3Cc\6Ddddd");
    IN("delay@bytes=9@ms=1", "L:1.\4Aaa\5Bbbb\3Cc\6Ddddd");
}

static void stall_is_silence(void **state)
{
    (void)state;
    struct ends ends = connect_ends("stall@bytes=6", NULL, NULL);
    GError *error = NULL;

    gw_channel_set_silence_ms(ends.filtered, 5);
    assert_false(gw_channel_write_full(ends.filtered, stream, STREAM_BYTES, NEVER, &error));
    assert_error(&error, GW_ERROR_LINK_SILENT, "silent");
    close_ends(&ends);

    ends = connect_ends("stall@bytes=0@in", NULL, NULL);
    uint8_t byte;
    assert_ok(gw_channel_write_full(ends.plain, stream, STREAM_BYTES, NEVER, &error), error);
    assert_false(gw_channel_read_full(ends.filtered, &byte, 1, gw_deadline_after_ms(5), &error));
    assert_error(&error, GW_ERROR_TIMEOUT, "deadline");
    gw_channel_wake(ends.filtered);
    assert_false(gw_channel_read_full(ends.filtered, &byte, 1, NEVER, &error));
    assert_error(&error, GW_ERROR_CANCELLED, "");
    close_ends(&ends);
}

static void specs_that_make_no_sense(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "cut",
        "cut@",
        "cut@bytes",
        "cut@bytes=x",
        "cut@type=",
        "boil@bytes=1",
        "cut@bytes=1@up",
        "drop@bytes=1",
        "swap@bytes=1",
        "cut@bytes=1;",
        "delay@record=1@ms=x",
        "corrupt@bytes=1@mask=0",
        "cut@bytes=1@channel=",
    };
    GError *error = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        int fds[2];
        struct gw_channel_options options = {.fault = bad[i], .framing = &framing};
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        if (gw_channel_new_fd(fds[0], "x", &options, &error) != NULL) {
            fail_msg("\"%s\" was accepted", bad[i]);
        }
        assert_error(&error, GW_ERROR_INVALID, "fault \"");
        close(fds[1]);
    }
    struct gw_channel_options unframed = {.fault = "cut@record=1"};
    assert_null(gw_listener_new("tcp:127.0.0.1:0", &unframed, &error));
    assert_error(&error, GW_ERROR_INVALID, "records are not known");
}

static void filters_in_uris(void **state)
{
    (void)state;
    GError *error = NULL;
    g_autofree char *directory = fixture_directory();
    g_autofree char *path = g_build_filename(directory, "f", NULL);
    g_autofree char *uri =
        g_strdup_printf("fault:corrupt@bytes=0,rate:1000000,fault:truncate@bytes=3,file:%s", path);
    g_autofree char *content = NULL;
    gsize len = 0;

    struct gw_channel *out = gw_channel_connect(uri, NULL, &error);
    assert_ok(out != NULL, error);
    assert_ok(gw_channel_write_full(out, "abcdef", 6, NEVER, &error), error);
    assert_ok(gw_channel_finish(out, NEVER, &error), error);
    gw_channel_free(out);
    assert_true(g_file_get_contents(path, &content, &len, NULL));
    assert_int_equal(len, 3);
    assert_memory_equal(content, "`bc", 3);
    unlink(path);
    assert_int_equal(rmdir(directory), 0);
}

static void rate_limit_moves_all_and_holds_the_rate(void **state)
{
    (void)state;
    enum { RATE = 20 * 1000 * 1000, BYTES = 1000 * 1000 };
    struct gw_rate_limit *limit = gw_rate_limit_new(RATE);
    struct ends ends = connect_ends(NULL, NULL, limit);
    int64_t start_ns = gw_deadline_after_ms(0);

    fixture_exchange(ends.filtered, ends.plain, BYTES);
    /* Never faster than the limit; how much slower is no matter of a test. One burst is free. */
    int64_t took_ns = gw_deadline_after_ms(0) - start_ns;
    assert_true(took_ns >= (int64_t)BYTES * 1000000000 / RATE - 11 * 1000000);

    gw_rate_limit_set(limit, 0);
    fixture_exchange(ends.filtered, ends.plain, 4 * BYTES);
    close_ends(&ends);
    gw_rate_limit_unref(limit);
}

static void rate_limit_is_woken(void **state)
{
    (void)state;
    struct gw_rate_limit *limit = gw_rate_limit_new(1);
    struct ends ends = connect_ends(NULL, NULL, limit);
    uint8_t bytes[8192] = {0};
    struct fixture_writer writer = {
        .channel = ends.filtered, .bytes = bytes, .n_bytes = sizeof(bytes)};

    fixture_writer_start(&writer);
    gw_channel_wake(ends.filtered);
    fixture_writer_join(&writer);
    assert_false(writer.is_ok);
    assert_error(&writer.error, GW_ERROR_CANCELLED, "");
    close_ends(&ends);
    gw_rate_limit_unref(limit);
}

static void trace_holds_both_directions(void **state)
{
    (void)state;
    GError *error = NULL;
    g_autofree char *directory = fixture_directory();
    g_autofree char *sent = g_build_filename(directory, "id-page-1-end.sent", NULL);
    g_autofree char *received = g_build_filename(directory, "id-page-2-end.received", NULL);
    struct ends ends = connect_ends(NULL, directory, NULL);
    char bytes[16];
    g_autofree char *content = NULL;
    gsize len = 0;

    /* The preamble in pieces, then the rest. */
    assert_ok(gw_channel_write_full(ends.filtered, stream, 3, NEVER, &error), error);
    assert_ok(gw_channel_write_full(ends.filtered, stream + 3, STREAM_BYTES - 3, NEVER, &error),
              error);
    assert_ok(gw_channel_write_full(ends.plain, "L:2.\2A", 6, NEVER, &error), error);
    assert_ok(gw_channel_read_full(ends.filtered, bytes, 6, NEVER, &error), error);
    close_ends(&ends);
    assert_true(g_file_get_contents(sent, &content, &len, NULL));
    assert_int_equal(len, STREAM_BYTES);
    assert_memory_equal(content, stream, STREAM_BYTES);
    g_clear_pointer(&content, g_free);
    assert_true(g_file_get_contents(received, &content, &len, NULL));
    assert_int_equal(len, 6);
    assert_memory_equal(content, "L:2.\2A", 6);
    unlink(sent);
    unlink(received);
    assert_int_equal(rmdir(directory), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_fault_changes_nothing),
        cmocka_unit_test(cut_and_truncate),
        cmocka_unit_test(corrupt),
        cmocka_unit_test(whole_records),
        cmocka_unit_test(delay_changes_nothing_else),
        cmocka_unit_test(stall_is_silence),
        cmocka_unit_test(specs_that_make_no_sense),
        cmocka_unit_test(filters_in_uris),
        cmocka_unit_test(rate_limit_moves_all_and_holds_the_rate),
        cmocka_unit_test(rate_limit_is_woken),
        cmocka_unit_test(trace_holds_both_directions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
