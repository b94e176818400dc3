/* SPDX-License-Identifier: MIT */
/* A QMP client for the subcommands. */
#include "cli/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "godwit/error.h"

#define ANSWER_LIMIT_NS  (60 * NS_PER_S)
#define MAX_ANSWER_BYTES (64u << 20)

struct client {
    int fd;
    GString *in;
};

/* Reads what is there, or waits for it until deadline_ns. */
static bool fill(struct client *client, uint64_t deadline_ns, GError **error)
{
    char bytes[65536];

    for (;;) {
        ssize_t n = recv(client->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n > 0 && client->in->len + (gsize)n <= MAX_ANSWER_BYTES) {
            g_string_append_len(client->in, bytes, n);
            return true;
        }
        if (n >= 0 || (errno != EAGAIN && errno != EINTR)) {
            g_set_error(error, GW_ERROR, GW_ERROR_LINK_LOST,
                        "the monitor has closed the connection");
            return false;
        }
        uint64_t now_ns = clock_mono_ns();
        if (now_ns >= deadline_ns) {
            g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT, "the monitor does not answer");
            return false;
        }
        struct pollfd pfd = {.fd = client->fd, .events = POLLIN};
        poll(&pfd, 1, (int)MIN((deadline_ns - now_ns) / NS_PER_MS + 1, 1000u));
    }
}

/* The next message, events included. */
static json_t *receive(struct client *client, uint64_t deadline_ns, GError **error)
{
    for (;;) {
        char *end = memchr(client->in->str, '\n', client->in->len);
        if (end) {
            json_error_t why;
            gsize len = (gsize)(end - client->in->str);
            json_t *message = json_loadb(client->in->str, len, 0, &why);
            g_string_erase(client->in, 0, (gssize)len + 1);
            if (!json_is_object(message)) {
                json_decref(message);
                g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT,
                            "the monitor's answer is no JSON object");
                return NULL;
            }
            return message;
        }
        if (!fill(client, deadline_ns, error))
            return NULL;
    }
}

static bool send_all(struct client *client, const char *text, size_t len, GError **error)
{
    while (len > 0) {
        ssize_t n = send(client->fd, text, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            g_set_error(error, GW_ERROR, GW_ERROR_LINK_LOST,
                        "the monitor has closed the connection");
            return false;
        }
        text += n;
        len -= (size_t)n;
    }
    return true;
}

json_t *client_command(struct client *client, const char *name, json_t *args, GError **error)
{
    json_t *message = json_pack("{s:s}", "execute", name);
    uint64_t deadline_ns = clock_mono_ns() + ANSWER_LIMIT_NS;

    if (args)
        json_object_set_new(message, "arguments", args);
    char *text = json_dumps(message, JSON_COMPACT);
    json_decref(message);
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    free(text);
    if (!send_all(client, line, strlen(line), error))
        return NULL;
    for (;;) {
        json_t *answer = receive(client, deadline_ns, error);
        if (!answer)
            return NULL;
        json_t *result = json_object_get(answer, "return");
        json_t *failure = json_object_get(answer, "error");
        if (result)
            json_incref(result);
        else if (failure)
            g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "%s",
                        json_string_value(json_object_get(failure, "desc")));
        json_decref(answer);
        if (result || failure)
            return result;
    }
}

bool client_wait(struct client *client, int timeout_ms)
{
    struct pollfd pfd = {.fd = client->fd, .events = POLLIN};

    if (poll(&pfd, 1, timeout_ms) <= 0)
        return true;
    if (!fill(client, 0, NULL))
        return false;
    /* Only events can have come; whoever waits asks for the state itself. */
    char *end = g_strrstr_len(client->in->str, (gssize)client->in->len, "\n");
    if (end)
        g_string_erase(client->in, 0, end + 1 - client->in->str);
    return true;
}

int client_fd(const struct client *client)
{
    return client->fd;
}

void client_close(struct client *client)
{
    if (!client)
        return;
    close(client->fd);
    g_string_free(client->in, TRUE);
    g_free(client);
}

static int connect_unix(const char *path, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof address.sun_path) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: path is too long for a socket", path);
        return -1;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "no VM answers at %s: %s", path,
                    g_strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

struct client *client_open(const char *vm, int *status, GError **error)
{
    g_autofree char *path = cli_monitor_path(vm, false, error);

    *status = CLI_USAGE;
    if (!path)
        return NULL;
    *status = CLI_NO_VM;
    int fd = connect_unix(path, error);
    if (fd < 0)
        return NULL;
    struct client *client = g_new0(struct client, 1);
    client->fd = fd;
    client->in = g_string_new(NULL);
    *status = CLI_FAILED;
    json_t *greeting = receive(client, clock_mono_ns() + ANSWER_LIMIT_NS, error);
    json_t *answer = greeting ? client_command(client, "qmp_capabilities", NULL, error) : NULL;
    json_decref(greeting);
    if (!answer) {
        client_close(client);
        return NULL;
    }
    json_decref(answer);
    return client;
}
