/* SPDX-License-Identifier: MIT */
/* Each kind of channel moves bytes, ends, times out, is woken and fails as its header says. */
#include "channel/uri.h"
#include "fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* ---- sockets ---- */

static void check_listening(const char *listen_uri)
{
    GError *error = NULL;
    struct gw_listener *listener = gw_listener_new(listen_uri, NULL, &error);
    struct gw_channel *a[3];
    struct gw_channel *b[3];

    assert_ok(listener != NULL, error);
    assert_false(gw_listener_is_single(listener));
    assert_true(gw_channel_uri_is_multi(gw_listener_uri(listener)));
    for (int i = 0; i < 3; i++) { /* it goes on giving channels */
        a[i] = gw_channel_connect(gw_listener_uri(listener), NULL, &error);
        assert_ok(a[i] != NULL, error);
        b[i] = gw_listener_accept(listener, gw_deadline_after_ms(60000), &error);
        assert_ok(b[i] != NULL, error);
        assert_true(gw_channel_is_duplex(a[i]));
        fixture_exchange(a[i], b[i], 100000);
        fixture_exchange(b[i], a[i], 3);
        assert_int_equal(gw_channel_bytes_out(a[i]), 100000);
        assert_int_equal(gw_channel_bytes_in(a[i]), 3);
    }
    for (int i = 0; i < 3; i++) {
        gw_channel_free(a[i]);
        gw_channel_free(b[i]);
    }
    gw_listener_free(listener);
}

static void tcp_v4(void **state)
{
    (void)state;
    check_listening("tcp:127.0.0.1:0");
}

static void tcp_v6(void **state)
{
    (void)state;
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (fd < 0) {
        print_message("no IPv6 on this host\n");
        skip();
    }
    close(fd);
    check_listening("tcp:[::1]:0");
}

static void tcp_any_host(void **state)
{
    (void)state;
    check_listening("tcp::0");
}

static void unix_socket(void **state)
{
    (void)state;
    g_autofree char *directory = fixture_directory();
    g_autofree char *path = g_build_filename(directory, "s", NULL);
    g_autofree char *uri = g_strdup_printf("unix:%s", path);

    check_listening(uri);
    assert_int_not_equal(access(path, F_OK), 0); /* taken away again */
    assert_int_equal(rmdir(directory), 0);
}

static void unix_socket_in_use_and_stale(void **state)
{
    (void)state;
    g_autofree char *directory = fixture_directory();
    g_autofree char *path = g_build_filename(directory, "s", NULL);
    g_autofree char *moved = g_build_filename(directory, "moved", NULL);
    g_autofree char *uri = g_strdup_printf("unix:%s", path);
    GError *error = NULL;

    struct gw_listener *first = gw_listener_new(uri, NULL, &error);
    assert_ok(first != NULL, error);
    assert_null(gw_listener_new(uri, NULL, &error)); /* alive: never stolen */
    assert_error(&error, GW_ERROR_IO, "in use");
    assert_int_equal(rename(path, moved), 0); /* so that free leaves it behind */
    gw_listener_free(first);
    assert_int_equal(rename(moved, path), 0);
    struct gw_listener *second = gw_listener_new(uri, NULL, &error); /* stale: replaced */
    assert_ok(second != NULL, error);
    gw_listener_free(second);
    assert_int_equal(rmdir(directory), 0);
}

static void listening_fd(void **state)
{
    (void)state;
    GError *error = NULL;
    g_autofree char *directory = fixture_directory();
    g_autofree char *uri = g_strdup_printf("unix:%s/s", directory);
    struct gw_listener *outer = gw_listener_new("tcp:127.0.0.1:0", NULL, &error);
    assert_ok(outer != NULL, error);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(listen(fd, 4), 0); /* binds to a free port */
    g_autofree char *fd_uri = g_strdup_printf("fd:%d", fd);
    struct gw_listener *listener = gw_listener_new(fd_uri, NULL, &error);
    assert_ok(listener != NULL, error);
    assert_false(gw_listener_is_single(listener));
    assert_null(gw_listener_accept(listener, gw_deadline_after_ms(0), &error));
    assert_error(&error, GW_ERROR_TIMEOUT, "in time");
    gw_listener_free(listener);
    gw_listener_free(outer);
    assert_int_equal(rmdir(directory), 0);
}

static void connect_refused(void **state)
{
    (void)state;
    GError *error = NULL;
    struct gw_listener *listener = gw_listener_new("tcp:127.0.0.1:0", NULL, &error);
    assert_ok(listener != NULL, error);
    g_autofree char *uri = g_strdup(gw_listener_uri(listener));

    gw_listener_free(listener);
    assert_null(gw_channel_connect(uri, NULL, &error));
    assert_error(&error, GW_ERROR_LINK_LOST, "refused");
    assert_null(gw_channel_connect("unix:/nonexistent/socket", NULL, &error));
    assert_error(&error, GW_ERROR_LINK_LOST, "No such file");
}

static void bad_uris(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "tcp",
        "tcp:",
        "tcp:host",
        "tcp:host:70000",
        "tcp:::1:80",
        "tcp:[::1:80",
        "fd:x",
        "fd:99999",
        "smoke:signal",
        "rate:x,tcp:a:1",
        "fault:burn@bytes=1,unix:/x",
        "file:",
    };
    GError *error = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        if (gw_channel_connect(bad[i], NULL, &error) != NULL) {
            fail_msg("\"%s\" was accepted", bad[i]);
        }
        assert_non_null(error);
        /* Connecting comes before the filters are put on top. */
        if (strncmp(bad[i], "fault", 5) != 0) {
            assert_int_equal(error->code, GW_ERROR_INVALID);
        }
        g_clear_error(&error);
    }
    g_autofree char *longer = g_strnfill(200, 'x');
    g_autofree char *uri = g_strdup_printf("unix:/%s", longer);
    assert_null(gw_channel_connect(uri, NULL, &error));
    assert_error(&error, GW_ERROR_INVALID, "longer than");
    assert_null(gw_listener_new("fault:burn@bytes=1,tcp:127.0.0.1:0", NULL, &error));
    assert_error(&error, GW_ERROR_INVALID, "unknown action");
}

/* What can be told without opening anything is told at once. */
static void uris_are_checked_beforehand(void **state)
{
    (void)state;
    GError *error = NULL;

    assert_true(channel_uri_check("tcp:host:80", &error));
    assert_true(channel_uri_check("tcp:[::1]:80", &error));
    assert_true(channel_uri_check("rate:100,unix:/nowhere", &error));
    assert_true(channel_uri_check("exec:false", &error));
    assert_null(error);
    assert_false(channel_uri_check("smoke:signal", &error));
    assert_error(&error, GW_ERROR_INVALID, "\"smoke:signal\" is not a channel");
    assert_false(channel_uri_check("tcp:host", &error));
    assert_error(&error, GW_ERROR_INVALID, "no port number");
    assert_false(channel_uri_check("rate:x,unix:/nowhere", &error));
    assert_error(&error, GW_ERROR_INVALID, "bytes per second");
}

/* ---- waiting ---- */

static void deadline_with_nothing_moved_is_harmless(void **state)
{
    (void)state;
    struct gw_channel *a, *b;
    GError *error = NULL;
    uint8_t byte = 0;

    assert_ok(gw_channel_pair(&a, &b, &error), error);
    assert_false(gw_channel_read_full(a, &byte, 1, gw_deadline_after_ms(1), &error));
    assert_error(&error, GW_ERROR_TIMEOUT, "deadline passed");
    assert_ok(gw_channel_write_full(b, "x", 1, NEVER, &error), error);
    assert_ok(gw_channel_read_full(a, &byte, 1, NEVER, &error), error);
    assert_int_equal(byte, 'x');
    gw_channel_free(a);
    gw_channel_free(b);
}

static void silence_is_found(void **state)
{
    (void)state;
    struct gw_channel *a, *b;
    GError *error = NULL;
    uint8_t byte;

    assert_ok(gw_channel_pair(&a, &b, &error), error);
    gw_channel_set_silence_ms(a, 5);
    assert_false(gw_channel_read_full(a, &byte, 1, NEVER, &error));
    assert_error(&error, GW_ERROR_LINK_SILENT, "silent for 5 ms");
    /* A writer whose peer does not read. */
    g_autofree uint8_t *many = g_malloc0(16 << 20);
    assert_false(gw_channel_write_full(a, many, 16 << 20, NEVER, &error));
    assert_error(&error, GW_ERROR_LINK_SILENT, "silent");
    gw_channel_free(a);
    gw_channel_free(b);
}

struct wait_thread {
    struct gw_channel *channel;
    struct gw_listener *listener;
    GError *error;
};

static void *read_thread(void *opaque)
{
    struct wait_thread *wait = opaque;
    uint8_t byte;

    gw_channel_read_full(wait->channel, &byte, 1, NEVER, &wait->error);
    return NULL;
}

static void *accept_thread(void *opaque)
{
    struct wait_thread *wait = opaque;

    gw_listener_accept(wait->listener, NEVER, &wait->error);
    return NULL;
}

static void wake_and_shutdown_end_waits(void **state)
{
    (void)state;
    GError *error = NULL;

    for (int is_shutdown = 0; is_shutdown < 2; is_shutdown++) {
        struct gw_channel *a, *b;
        pthread_t thread;
        assert_ok(gw_channel_pair(&a, &b, &error), error);
        struct wait_thread wait = {.channel = a};
        assert_int_equal(pthread_create(&thread, NULL, read_thread, &wait), 0);
        /* Whether it waits already or will: both must end. */
        if (is_shutdown) {
            gw_channel_shutdown(a);
        } else {
            gw_channel_wake(a);
        }
        pthread_join(thread, NULL);
        assert_error(&wait.error, is_shutdown ? GW_ERROR_LINK_LOST : GW_ERROR_CANCELLED, "");
        assert_false(gw_channel_write_full(a, "x", 1, NEVER, &error));
        assert_error(&error, is_shutdown ? GW_ERROR_LINK_LOST : GW_ERROR_CANCELLED, "");
        if (is_shutdown) {
            uint8_t byte;
            assert_int_equal(gw_channel_read_some(b, &byte, 1, NEVER, &error), 0);
        }
        gw_channel_free(a);
        gw_channel_free(b);
    }
}

static void listener_wakes(void **state)
{
    (void)state;
    GError *error = NULL;
    struct gw_listener *listener = gw_listener_new("tcp:127.0.0.1:0", NULL, &error);
    struct wait_thread wait = {.listener = listener};
    pthread_t thread;

    assert_ok(listener != NULL, error);
    assert_int_equal(pthread_create(&thread, NULL, accept_thread, &wait), 0);
    gw_listener_wake(listener);
    pthread_join(thread, NULL);
    assert_error(&wait.error, GW_ERROR_CANCELLED, "cancelled");
    gw_listener_free(listener);
}

static void connecting_is_cancelled(void **state)
{
    (void)state;
    /* A listener whose queue is full: the next connect hangs. */
    GError *error = NULL;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int wake[2];
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage address = {.ss_family = AF_INET};
    socklen_t len = sizeof(address);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    const uint8_t *port = (const uint8_t *)&address + 2;
    g_autofree char *uri = g_strdup_printf("tcp:127.0.0.1:%d", port[0] << 8 | port[1]);
    assert_int_equal(pipe(wake), 0);
    assert_int_equal(write(wake[1], "x", 1), 1);
    struct gw_channel_options options = {.wake_fd = wake[0]};
    struct gw_channel *queued[4] = {NULL};
    bool was_cancelled = false;
    for (int i = 0; i < 4; i++) {
        queued[i] = gw_channel_connect(uri, &options, &error);
        if (queued[i] == NULL) {
            assert_error(&error, GW_ERROR_CANCELLED, "cancel");
            was_cancelled = true;
            options.wake_fd = 0;
            options.deadline_ns = gw_deadline_after_ms(1);
            assert_null(gw_channel_connect(uri, &options, &error));
            assert_error(&error, GW_ERROR_TIMEOUT, "timed out");
            break;
        }
    }
    assert_true(was_cancelled);
    for (int i = 0; i < 4; i++) {
        gw_channel_free(queued[i]);
    }
    close(fd);
    close(wake[0]);
    close(wake[1]);
}

/* ---- ends and vectors ---- */

static void end_within_a_read_is_named(void **state)
{
    (void)state;
    struct gw_channel *a, *b;
    GError *error = NULL;
    uint8_t bytes[10];

    assert_ok(gw_channel_pair(&a, &b, &error), error);
    assert_ok(gw_channel_write_full(a, "abc", 3, NEVER, &error), error);
    assert_ok(gw_channel_finish(a, NEVER, &error), error);
    assert_false(gw_channel_read_full(b, bytes, 10, NEVER, &error));
    assert_error(&error, GW_ERROR_LINK_LOST, "7 of 10 bytes still to come");
    assert_int_equal(gw_channel_read_some(b, bytes, 1, NEVER, &error), 0);
    /* The other direction is still open. */
    assert_ok(gw_channel_write_full(b, "d", 1, NEVER, &error), error);
    assert_ok(gw_channel_read_full(a, bytes, 1, NEVER, &error), error);
    gw_channel_free(b);
    assert_false(gw_channel_write_full(a, "x", 1, NEVER, &error));
    assert_error(&error, GW_ERROR_LINK_LOST, "");
    gw_channel_free(a);
}

static void many_vectors(void **state)
{
    (void)state;
    enum { N = 700, LEN = 997 };
    struct gw_channel *a, *b;
    GError *error = NULL;
    g_autofree uint8_t *bytes = g_malloc(N * LEN);
    g_autofree uint8_t *got = g_malloc(N * LEN);
    g_autofree struct iovec *iov = g_new(struct iovec, N);
    struct fixture_writer writer = {.bytes = bytes, .n_bytes = N * LEN};

    fixture_pattern(bytes, N * LEN, 1);
    assert_ok(gw_channel_pair(&a, &b, &error), error);
    writer.channel = a;
    fixture_writer_start(&writer);
    for (int i = 0; i < N; i++) {
        iov[i] = (struct iovec){got + i * LEN, LEN};
    }
    assert_ok(gw_channel_readv_full(b, iov, N, NEVER, &error), error);
    fixture_writer_join(&writer);
    assert_ok(writer.is_ok, writer.error);
    assert_memory_equal(bytes, got, N * LEN);
    assert_int_equal(gw_channel_bytes_in(b), N * LEN);
    gw_channel_free(a);
    gw_channel_free(b);
}

/* ---- pipes, files, commands ---- */

static void pipe_without_reader_raises_no_signal(void **state)
{
    (void)state;
    GError *error = NULL;
    int fds[2];
    sigset_t pending;

    signal(SIGPIPE, SIG_DFL); /* it would kill the test */
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct gw_channel *out = gw_channel_new_fd(fds[1], "pipe", NULL, &error);
    assert_ok(out != NULL, error);
    assert_false(gw_channel_can_read(out));
    assert_false(gw_channel_is_duplex(out));
    close(fds[0]);
    assert_false(gw_channel_write_full(out, "x", 1, NEVER, &error));
    assert_error(&error, GW_ERROR_LINK_LOST, "Broken pipe");
    sigpending(&pending);
    assert_int_equal(sigismember(&pending, SIGPIPE), 0);
    assert_false(gw_channel_read_full(out, fds, 1, NEVER, &error));
    assert_error(&error, GW_ERROR_UNSUPPORTED, "cannot be read");
    gw_channel_free(out);
}

static void file_appears_when_finished(void **state)
{
    (void)state;
    GError *error = NULL;
    g_autofree char *directory = fixture_directory();
    g_autofree char *path = g_build_filename(directory, "snapshot", NULL);
    g_autofree char *uri = g_strdup_printf("file:%s", path);
    uint8_t got[6];

    struct gw_channel *out = gw_channel_connect(uri, NULL, &error);
    assert_ok(out != NULL, error);
    assert_ok(gw_channel_write_full(out, "first", 6, NEVER, &error), error);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_ok(gw_channel_finish(out, NEVER, &error), error);
    gw_channel_free(out);
    assert_int_equal(access(path, F_OK), 0);

    /* A second one that fails leaves the first. */
    out = gw_channel_connect(uri, NULL, &error);
    assert_ok(out != NULL, error);
    assert_ok(gw_channel_write_full(out, "secnd", 6, NEVER, &error), error);
    gw_channel_free(out);

    struct gw_listener *listener = gw_listener_new(uri, NULL, &error);
    assert_ok(listener != NULL, error);
    assert_true(gw_listener_is_single(listener));
    struct gw_channel *in = gw_listener_accept(listener, NEVER, &error);
    assert_ok(in != NULL, error);
    assert_false(gw_channel_can_write(in));
    assert_ok(gw_channel_read_full(in, got, 6, NEVER, &error), error);
    assert_string_equal((const char *)got, "first");
    assert_int_equal(gw_channel_read_some(in, got, 1, NEVER, &error), 0);
    assert_null(gw_listener_accept(listener, NEVER, &error));
    assert_error(&error, GW_ERROR_STATE, "only one channel");
    gw_channel_free(in);
    gw_listener_free(listener);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(directory), 0); /* no temporary file is left */
}

static void file_that_cannot_be_made(void **state)
{
    (void)state;
    GError *error = NULL;

    assert_null(gw_channel_connect("file:/nonexistent/x", NULL, &error));
    assert_error(&error, GW_ERROR_IO, "No such file");
    struct gw_channel *full = gw_channel_connect("file:/dev/full", NULL, &error);
    if (full != NULL) {
        assert_false(gw_channel_write_full(full, "x", 1, NEVER, &error));
        assert_error(&error, GW_ERROR_IO, "No space");
        gw_channel_free(full);
    }
    g_clear_error(&error);
}

static void command_both_ways(void **state)
{
    (void)state;
    GError *error = NULL;
    g_autofree uint8_t *received = g_malloc(1 << 20);
    g_autofree uint8_t *sent = g_malloc(1 << 20);

    fixture_pattern(sent, 1 << 20, 7);
    struct gw_channel *cat = gw_channel_connect("exec:cat", NULL, &error);
    assert_ok(cat != NULL, error);
    struct fixture_writer writer = {.channel = cat, .bytes = sent, .n_bytes = 1 << 20};
    fixture_writer_start(&writer);
    assert_ok(gw_channel_read_full(cat, received, 1 << 20, NEVER, &error), error);
    fixture_writer_join(&writer);
    assert_ok(writer.is_ok, writer.error);
    assert_memory_equal(sent, received, 1 << 20);
    assert_ok(gw_channel_finish(cat, NEVER, &error), error);
    gw_channel_free(cat);
}

static void command_that_fails(void **state)
{
    (void)state;
    GError *error = NULL;

    struct gw_channel *bad = gw_channel_connect("exec:cat >/dev/null; exit 7", NULL, &error);
    assert_ok(bad != NULL, error);
    assert_ok(gw_channel_write_full(bad, "x", 1, NEVER, &error), error);
    assert_false(gw_channel_finish(bad, NEVER, &error));
    assert_error(&error, GW_ERROR_IO, "exit status 7");
    gw_channel_free(bad);

    /* One that never ends: the deadline holds, and free kills it. */
    struct gw_channel *stuck = gw_channel_connect("exec:tail -f /dev/null", NULL, &error);
    assert_ok(stuck != NULL, error);
    assert_false(gw_channel_finish(stuck, gw_deadline_after_ms(5), &error));
    assert_error(&error, GW_ERROR_TIMEOUT, "");
    gw_channel_free(stuck);
}

static void command_is_read(void **state)
{
    (void)state;
    GError *error = NULL;
    char got[5];
    struct gw_listener *listener = gw_listener_new("exec:printf hello", NULL, &error);

    assert_ok(listener != NULL, error);
    struct gw_channel *in = gw_listener_accept(listener, NEVER, &error);
    assert_ok(in != NULL, error);
    assert_ok(gw_channel_read_full(in, got, 5, NEVER, &error), error);
    assert_memory_equal(got, "hello", 5);
    assert_int_equal(gw_channel_read_some(in, got, 1, NEVER, &error), 0);
    assert_ok(gw_channel_finish(in, NEVER, &error), error);
    gw_channel_free(in);
    gw_listener_free(listener);
}

static void error_names(void **state)
{
    (void)state;
    assert_string_equal(gw_error_code_name(GW_ERROR_LINK_SILENT), "link-silent");
    assert_string_equal(gw_error_code_name(0), "failed");
    assert_string_equal(gw_error_code_name(9999), "failed");
    for (int code = GW_ERROR_FAILED; code <= GW_ERROR_UNSUPPORTED; code++) {
        assert_non_null(gw_error_code_name(code));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tcp_v4),
        cmocka_unit_test(tcp_v6),
        cmocka_unit_test(tcp_any_host),
        cmocka_unit_test(unix_socket),
        cmocka_unit_test(unix_socket_in_use_and_stale),
        cmocka_unit_test(listening_fd),
        cmocka_unit_test(connect_refused),
        cmocka_unit_test(bad_uris),
        cmocka_unit_test(uris_are_checked_beforehand),
        cmocka_unit_test(deadline_with_nothing_moved_is_harmless),
        cmocka_unit_test(silence_is_found),
        cmocka_unit_test(wake_and_shutdown_end_waits),
        cmocka_unit_test(listener_wakes),
        cmocka_unit_test(connecting_is_cancelled),
        cmocka_unit_test(end_within_a_read_is_named),
        cmocka_unit_test(many_vectors),
        cmocka_unit_test(pipe_without_reader_raises_no_signal),
        cmocka_unit_test(file_appears_when_finished),
        cmocka_unit_test(file_that_cannot_be_made),
        cmocka_unit_test(command_both_ways),
        cmocka_unit_test(command_that_fails),
        cmocka_unit_test(command_is_read),
        cmocka_unit_test(error_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
