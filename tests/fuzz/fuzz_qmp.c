/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: what a monitor client says, from the socket to the commands.
 *
 * Input: the bytes a client sends. Two runs: the cutter in small pieces, with every command's
 * arguments checked; then a real monitor with a real socket. Commands that would start the guest,
 * run programs, write files or end the process are not found in the second run: the linker leads
 * the monitor's command_find to ours.
 * Checked: pieces do not matter to the cutter; every answer is a JSON object.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz.h"
#include "fuzz_machine.h"
#include "monitor/command.h"
#include "monitor/json_stream.h"

const struct command *__real_command_find(const char *name);
const struct command *__wrap_command_find(const char *name);

const struct command *__wrap_command_find(const char *name)
{
    static const char *const harmless[] = {"stop",
                                           "announce-self",
                                           "migrate-set-parameters",
                                           "migrate_cancel",
                                           "migrate-cancel",
                                           "resolve",
                                           NULL};

    return g_str_has_prefix(name, "query-") || g_strv_contains(harmless, name)
               ? __real_command_find(name)
               : NULL;
}

/* ---- the cutter and the arguments ------------------------------------------------------------ */

static void check_arguments(const char *text, gsize len)
{
    json_t *message = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
    const char *name = json_string_value(json_object_get(message, "execute"));
    const struct command *command = name ? __real_command_find(name) : NULL;
    json_t *args = json_object_get(message, "arguments");

    if (command && (!args || json_is_object(args)))
        command_check_args(command, args, NULL);
    json_decref(message);
}

/* The messages cut out, each ended by a NUL; false: a limit was broken. */
static bool cut(const uint8_t *data, size_t size, size_t step, GByteArray *out)
{
    struct json_stream stream;
    bool is_ok = true;

    json_stream_init(&stream);
    for (size_t at = 0; at < size && is_ok;) {
        const char *message;
        gsize len;
        gssize n = json_stream_feed(&stream, (const char *)data + at, MIN(step, size - at),
                                    &message, &len, NULL);

        is_ok = n > 0;
        at += is_ok ? (size_t)n : 0;
        if (is_ok && message)
            g_byte_array_append(out, (const guint8 *)message, (guint)len + 1);
    }
    json_stream_clear(&stream);
    return is_ok;
}

static void check_cutter(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) whole = g_byte_array_new();
    g_autoptr(GByteArray) pieces = g_byte_array_new();

    fuzz_check(cut(data, size, size, whole) == cut(data, size, 3, pieces));
    fuzz_check(whole->len == pieces->len &&
               (whole->len == 0 || memcmp(whole->data, pieces->data, whole->len) == 0));
    for (guint at = 0; at < whole->len;) {
        const char *message = (const char *)whole->data + at;
        gsize len = strnlen(message, whole->len - at);

        check_arguments(message, len);
        at += (guint)len + 1;
    }
}

/* ---- the monitor ----------------------------------------------------------------------------- */

static struct monitor *monitor;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void on_quit(void *opaque)
{
}

static void set_up(void)
{
    g_autofree char *dir = g_dir_make_tmp("gw-fuzz-XXXXXX", NULL);
    struct machine *machine = fuzz_machine(g_main_context_default());
    const struct monitor_config config = {
        .machine = machine,
        .migration = migration_new(machine, g_main_context_default()),
        .context = g_main_context_default(),
        .quit = on_quit,
    };

    g_snprintf(address.sun_path, sizeof address.sun_path, "%s/qmp", dir);
    monitor = monitor_new(&config);
    fuzz_check(monitor_listen(monitor, address.sun_path, NULL));
    monitor_serve(monitor);
}

static void remove_socket(void)
{
    g_autofree char *dir = g_path_get_dirname(address.sun_path);

    unlink(address.sun_path);
    rmdir(dir);
}

/* Every line the monitor says is a JSON object. */
static void check_answers(GString *answers)
{
    g_auto(GStrv) lines = g_strsplit(answers->str, "\r\n", -1);

    for (char **line = lines; *line && line[1]; line++) {
        json_t *message = json_loads(*line, 0, NULL);

        fuzz_check(json_is_object(message));
        json_decref(message);
    }
}

static void talk(const uint8_t *data, size_t size)
{
    g_autoptr(GString) answers = g_string_new(NULL);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool has_shut = false;
    size_t sent = 0;

    fuzz_check(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    for (;;) {
        char bytes[4096];
        ssize_t n;

        while (sent < size && (n = send(fd, data + sent, size - sent, MSG_NOSIGNAL)) > 0)
            sent += (size_t)n;
        if (sent < size && errno != EAGAIN)
            sent = size; /* it has hung up */
        if (sent == size && !has_shut) {
            shutdown(fd, SHUT_WR);
            has_shut = true;
        }
        n = recv(fd, bytes, sizeof bytes, 0);
        if (n > 0)
            g_string_append_len(answers, bytes, n);
        else if (n == 0 || errno != EAGAIN)
            break;
        else
            g_main_context_iteration(g_main_context_default(), TRUE);
    }
    close(fd);
    while (g_main_context_iteration(g_main_context_default(), FALSE))
        continue;
    check_answers(answers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!monitor) {
        set_up();
        atexit(remove_socket);
    }
    check_cutter(data, size);
    talk(data, size);
    return 0;
}
