/* SPDX-License-Identifier: MIT */
/*
 * Character back ends: every kind, back-pressure, disconnection, and the end.
 */
#include "peer.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

struct user {
    struct device dev;
    struct rig *rig;
    struct chardev *chardev;
    /* guarded by dev.lock */
    GByteArray *input;
    size_t room;
    unsigned n_writable, n_breaks;
    bool was_told_connected;
};

static const struct device_ops user_ops = {.type = "user"};

static size_t user_room(void *opaque)
{
    return ((struct user *)opaque)->room;
}

static void user_input(void *opaque, const uint8_t *bytes, size_t len)
{
    struct user *user = opaque;
    assert_true(len <= user->room);
    user->room -= len;
    g_byte_array_append(user->input, bytes, (guint)len);
}

static void user_break(void *opaque)
{
    ((struct user *)opaque)->n_breaks++;
}

static void user_writable(void *opaque)
{
    ((struct user *)opaque)->n_writable++;
}

static void user_connected(void *opaque, bool is_connected)
{
    ((struct user *)opaque)->was_told_connected = is_connected;
}

static void user_open(struct user *user, struct rig *rig, const char *spec)
{
    *user = (struct user){.rig = rig, .input = g_byte_array_new(), .room = SIZE_MAX / 2};
    device_init(&user->dev, &user_ops, "user", NULL, NULL);
    user->chardev = chardev_open(spec, rig->loop, NULL, NULL, NULL);
    assert_non_null(user->chardev);
    const struct chardev_client client = {.dev = &user->dev,
                                          .input_room = user_room,
                                          .input = user_input,
                                          .input_break = user_break,
                                          .writable = user_writable,
                                          .connected = user_connected,
                                          .opaque = user};
    chardev_set_client(user->chardev, &client);
}

static void user_close(struct user *user)
{
    chardev_clear_client(user->chardev);
    chardev_free(user->chardev);
    g_byte_array_free(user->input, TRUE);
    device_clear(&user->dev);
}

static size_t user_write(struct user *user, const void *bytes, size_t len)
{
    pthread_mutex_lock(&user->dev.lock);
    size_t n = chardev_write(user->chardev, bytes, len);
    pthread_mutex_unlock(&user->dev.lock);
    return n;
}

static void user_want(struct user *user, bool is_wanted, size_t room)
{
    pthread_mutex_lock(&user->dev.lock);
    user->room = room;
    chardev_want_input(user->chardev, is_wanted);
    pthread_mutex_unlock(&user->dev.lock);
}

static void await_input(struct user *user, const char *text)
{
    uint64_t deadline_ns = clock_mono_ns() + RIG_GIVE_UP;
    for (;;) {
        pthread_mutex_lock(&user->dev.lock);
        bool has_all = user->input->len >= strlen(text);
        if (has_all) {
            assert_int_equal(user->input->len, strlen(text));
            assert_memory_equal(user->input->data, text, strlen(text));
            g_byte_array_set_size(user->input, 0);
        }
        pthread_mutex_unlock(&user->dev.lock);
        if (has_all)
            return;
        assert_true(clock_mono_ns() < deadline_ns);
        rig_settle(user->rig);
    }
}

static char *spec_for(struct rig *rig, const char *kind, const char *name)
{
    g_autofree char *path = rig_path(rig, name);
    return g_strconcat(kind, ":", path, NULL);
}

static void null_takes_everything(void **state)
{
    static const uint8_t many[3 * CHARDEV_BUFFER_BYTES];
    struct user user;
    user_open(&user, *state, "null");
    user_want(&user, true, 100);
    assert_int_equal(user_write(&user, many, sizeof many), sizeof many);
    assert_false(chardev_is_connected(user.chardev));
    user_close(&user);
}

static void a_file_gets_every_byte(void **state)
{
    struct rig *rig = *state;
    struct user user;
    g_autofree char *spec = spec_for(rig, "file", "log"), *path = rig_path(rig, "log");
    g_autofree char *append = g_strconcat(spec, ",append", NULL);
    g_autofree char *text = NULL;
    gsize len;

    user_open(&user, rig, spec);
    assert_int_equal(user_write(&user, "first", 5), 5);
    user_close(&user); /* nothing is lost at the end */
    assert_true(g_file_get_contents(path, &text, &len, NULL));
    assert_string_equal(text, "first");

    user_open(&user, rig, append);
    user_write(&user, " second", 7);
    user_close(&user);
    g_free(text);
    assert_true(g_file_get_contents(path, &text, &len, NULL));
    assert_string_equal(text, "first second");

    user_open(&user, rig, spec);
    user_close(&user);
    g_free(text);
    assert_true(g_file_get_contents(path, &text, &len, NULL));
    assert_string_equal(text, "");
}

static void a_socket_carries_both_ways_and_peers_may_change(void **state)
{
    struct rig *rig = *state;
    struct user user;
    g_autofree char *spec = spec_for(rig, "unix", "socket");
    user_open(&user, rig, spec);
    user_want(&user, true, 1000);
    assert_int_equal(user_write(&user, "nobody hears", 12), 12);

    for (unsigned i = 0; i < 3; i++) {
        int peer = peer_connect(rig, user.chardev);
        assert_int_equal(user_write(&user, "hello", 5), 5);
        peer_expect(peer, "hello", 5); /* and not what nobody heard */
        peer_send(peer, "there", 5);
        await_input(&user, "there");
        close(peer);
        peer_await_connected(rig, user.chardev, false);
        user_write(&user, "lost", 4);
    }
    user_close(&user);
    g_autofree char *path = rig_path(rig, "socket");
    assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

static void a_slow_reader_fills_the_buffer_and_loses_nothing(void **state)
{
    struct rig *rig = *state;
    struct user user;
    g_autofree char *spec = spec_for(rig, "unix", "socket");
    user_open(&user, rig, spec);
    int peer = peer_connect(rig, user.chardev);
    g_autoptr(GByteArray) sent = g_byte_array_new();
    uint8_t chunk[1000];
    size_t n;
    do { /* until neither socket nor buffer takes more */
        for (size_t i = 0; i < sizeof chunk; i++)
            chunk[i] = (uint8_t)(sent->len + i);
        n = user_write(&user, chunk, sizeof chunk);
        g_byte_array_append(sent, chunk, (guint)n);
        rig_settle(rig);
    } while (n > 0);
    assert_true(sent->len >= CHARDEV_BUFFER_BYTES);
    peer_expect(peer, sent->data, sent->len);
    /* The device is told that there is room. */
    uint64_t deadline_ns = clock_mono_ns() + RIG_GIVE_UP;
    for (bool was_told = false; !was_told;) {
        pthread_mutex_lock(&user.dev.lock);
        was_told = user.n_writable > 0;
        pthread_mutex_unlock(&user.dev.lock);
        assert_true(clock_mono_ns() < deadline_ns);
        rig_settle(rig);
    }
    assert_int_equal(user_write(&user, "x", 1), 1);
    peer_expect(peer, "x", 1);
    close(peer);
    user_close(&user);
}

static void a_peer_that_leaves_frees_a_waiting_device(void **state)
{
    static const uint8_t many[CHARDEV_BUFFER_BYTES];
    struct rig *rig = *state;
    struct user user;
    g_autofree char *spec = spec_for(rig, "unix", "socket");
    user_open(&user, rig, spec);
    int peer = peer_connect(rig, user.chardev);
    while (user_write(&user, many, sizeof many) > 0)
        rig_settle(rig);
    close(peer);
    peer_await_connected(rig, user.chardev, false);
    rig_settle(rig);
    pthread_mutex_lock(&user.dev.lock);
    assert_true(user.n_writable > 0);
    assert_false(user.was_told_connected);
    pthread_mutex_unlock(&user.dev.lock);
    assert_int_equal(user_write(&user, many, sizeof many), sizeof many);
    user_close(&user);
}

static void input_waits_until_it_is_wanted(void **state)
{
    struct rig *rig = *state;
    struct user user;
    g_autofree char *spec = spec_for(rig, "unix", "socket");
    user_open(&user, rig, spec);
    int peer = peer_connect(rig, user.chardev);
    peer_send(peer, "abcdefgh", 8);
    rig_settle(rig);
    assert_int_equal(user.input->len, 0);
    user_want(&user, true, 3);
    await_input(&user, "abc");
    rig_settle(rig);
    user_want(&user, true, 100);
    await_input(&user, "defgh");
    user_want(&user, false, 100);
    peer_send(peer, "later", 5);
    rig_settle(rig);
    assert_int_equal(user.input->len, 0);
    user_want(&user, true, 100);
    await_input(&user, "later");
    close(peer);
    user_close(&user);
}

static void a_pseudo_terminal_is_raw_and_can_be_reopened(void **state)
{
    struct rig *rig = *state;
    struct user user;
    user_open(&user, rig, "pty");
    user_want(&user, true, 1000);
    user_write(&user, "nobody hears", 12);
    for (unsigned i = 0; i < 3; i++) {
        int terminal = open(chardev_path(user.chardev), O_RDWR | O_NOCTTY | O_CLOEXEC);
        assert_true(terminal >= 0);
        peer_await_connected(rig, user.chardev, true);
        user_write(&user, "a\r\nb", 4);
        peer_expect(terminal, "a\r\nb", 4);
        peer_send(terminal, "\x03q", 2);
        await_input(&user, "\x03q");
        close(terminal);
        peer_await_connected(rig, user.chardev, false);
    }
    user_close(&user);
}

static void a_stale_socket_is_replaced_a_used_one_is_not(void **state)
{
    struct rig *rig = *state;
    struct user user;
    GError *error = NULL;
    g_autofree char *spec = spec_for(rig, "unix", "socket"), *path = rig_path(rig, "socket");
    g_autofree char *saved = rig_path(rig, "saved");
    user_open(&user, rig, spec);
    assert_null(chardev_open(spec, rig->loop, NULL, NULL, &error));
    assert_true(g_error_matches(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_HOST));
    g_clear_error(&error);
    assert_int_equal(link(path, saved), 0);
    user_close(&user);
    assert_int_equal(rename(saved, path), 0); /* as a killed process leaves it */
    user_open(&user, rig, spec);
    close(peer_connect(rig, user.chardev));
    user_close(&user);
}

static void wrong_specifications_are_errors(void **state)
{
    static const char *const specs[] = {
        "",
        "serial",
        "file",
        "file:",
        "unix:",
        "null:x",
        "stdio:1",
        "file:/nonexistent/dir/file",
        "unix:/nonexistent/dir/socket",
        "pty:x",
        "nul",
        "nulls",
    };
    struct rig *rig = *state;
    for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
        GError *error = NULL;
        assert_null(chardev_open(specs[i], rig->loop, NULL, NULL, &error));
        assert_true(error && error->domain == GW_DEVICE_ERROR);
        g_clear_error(&error);
    }
    g_autofree char *longest = g_strnfill(200, 'x');
    g_autofree char *spec = g_strconcat("unix:/tmp/", longest, NULL);
    assert_null(chardev_open(spec, rig->loop, NULL, NULL, NULL));
}

/* ---- the terminal: standard input is a pseudo-terminal meanwhile ---- */

static void note_escape(void *opaque)
{
    __atomic_add_fetch((unsigned *)opaque, 1, __ATOMIC_RELAXED);
}

static void standard_input_and_output_with_escapes(void **state)
{
    struct rig *rig = *state;
    int in[2], out[2], saved_in = dup(0), saved_out = dup(1);
    unsigned n_escapes = 0;
    fflush(stdout);
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    dup2(in[0], 0);
    dup2(out[1], 1);
    struct chardev *chardev = chardev_open("stdio", rig->loop, note_escape, &n_escapes, NULL);
    struct user user = {.rig = rig, .input = g_byte_array_new(), .room = 1000};
    device_init(&user.dev, &user_ops, "user", NULL, NULL);
    user.chardev = chardev;
    const struct chardev_client client = {.dev = &user.dev,
                                          .input_room = user_room,
                                          .input = user_input,
                                          .writable = user_writable,
                                          .opaque = &user};
    chardev_set_client(chardev, &client);
    user_want(&user, true, 1000);
    user_write(&user, "prompt", 6);
    peer_expect(out[0], "prompt", 6);
    peer_send(in[1], "x\x01x", 3); /* a pipe is no terminal: bytes are bytes */
    await_input(&user, "x\x01x");
    close(in[1]); /* the end of input is not the end of output */
    rig_settle(rig);
    user_write(&user, "more", 4);
    peer_expect(out[0], "more", 4);
    close(out[0]); /* nor is a broken pipe the end of the process */
    user_write(&user, "gone", 4);
    peer_await_connected(rig, chardev, false);
    user_close(&user);
    assert_int_equal(fcntl(0, F_GETFL) & O_NONBLOCK, 0); /* others share these */
    assert_int_equal(fcntl(1, F_GETFL) & O_NONBLOCK, 0);
    dup2(saved_in, 0);
    dup2(saved_out, 1);
    close(saved_in);
    close(saved_out);
    close(in[0]);
    close(out[1]);
    assert_int_equal(n_escapes, 0);
}

/* Runs in a process of its own whose terminal is the pseudo-terminal: 0 when all was right. */
static int run_on_terminal(const char *name)
{
    void *state;
    unsigned n_escapes = 0;
    struct termios before, during, after;
    setsid();
    int terminal = open(name, O_RDWR); /* becomes the controlling terminal */
    if (terminal < 0 || tcgetattr(terminal, &before) < 0)
        return 2;
    dup2(terminal, 0);
    dup2(terminal, 1);
    rig_setup(&state);
    struct rig *rig = state;
    struct chardev *chardev = chardev_open("stdio", rig->loop, note_escape, &n_escapes, NULL);
    struct user user = {.rig = rig, .input = g_byte_array_new(), .room = 1000, .chardev = chardev};
    device_init(&user.dev, &user_ops, "user", NULL, NULL);
    const struct chardev_client client = {.dev = &user.dev,
                                          .input_room = user_room,
                                          .input = user_input,
                                          .input_break = user_break,
                                          .writable = user_writable,
                                          .opaque = &user};
    tcgetattr(terminal, &during);
    chardev_set_client(chardev, &client);
    user_want(&user, true, 1000);
    user_write(&user, "go", 2);
    uint64_t deadline_ns = clock_mono_ns() + RIG_GIVE_UP;
    while (__atomic_load_n(&n_escapes, __ATOMIC_RELAXED) == 0 && clock_mono_ns() < deadline_ns)
        rig_settle(rig);
    bool is_right = n_escapes == 1 && user.n_breaks == 1 && user.input->len == 5 &&
                    memcmp(user.input->data, "a\x03\x01zc", 5) == 0 && !(during.c_lflag & ISIG) &&
                    during.c_oflag & OPOST;
    user_close(&user);
    tcgetattr(terminal, &after);
    is_right &= after.c_lflag == before.c_lflag && after.c_iflag == before.c_iflag;
    rig_teardown(&state);
    return is_right ? 0 : 1;
}

static void a_terminal_is_raw_with_escapes_and_given_back(void **state)
{
    char name[64];
    int status;
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    assert_int_equal(ptsname_r(master, name, sizeof name), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(run_on_terminal(name));
    peer_expect(master, "go", 2);
    /* plain, Ctrl-C, Ctrl-A twice, an unknown command, plain, a break, plain, quit */
    static const char typed[] = {'a', 3, 1, 1, 1, 'y', 'z', 1, 'b', 'c', 1, 'x'};
    peer_send(master, typed, sizeof typed);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(null_takes_everything),
        RIG_TEST(a_file_gets_every_byte),
        RIG_TEST(a_socket_carries_both_ways_and_peers_may_change),
        RIG_TEST(a_slow_reader_fills_the_buffer_and_loses_nothing),
        RIG_TEST(a_peer_that_leaves_frees_a_waiting_device),
        RIG_TEST(input_waits_until_it_is_wanted),
        RIG_TEST(a_pseudo_terminal_is_raw_and_can_be_reopened),
        RIG_TEST(a_stale_socket_is_replaced_a_used_one_is_not),
        RIG_TEST(wrong_specifications_are_errors),
        RIG_TEST(standard_input_and_output_with_escapes),
        cmocka_unit_test(a_terminal_is_raw_with_escapes_and_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
