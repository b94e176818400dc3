/* SPDX-License-Identifier: MIT */
/* The QMP server: sockets, clients, framing, dispatch, events. */
#include "monitor/monitor.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "godwit/error.h"
#include "monitor/command.h"
#include "monitor/json_stream.h"

struct client {
    struct monitor *monitor;
    int fd;
    GSource *in, *out;
    struct json_stream stream;
    GByteArray *unread; /* arrived, not looked at yet (a command is being answered) */
    GString *queued;    /* to be written */
    bool is_negotiated;
    bool is_closing;           /* after the queue has been written */
    bool is_processing;        /* client_process is on the stack */
    struct monitor_call *call; /* not answered yet; the next command waits */
};

struct listener {
    struct monitor *monitor;
    int fd;
    char *path;
    GSource *source;
};

struct monitor {
    struct monitor_config config;
    GPtrArray *listeners;
    GPtrArray *clients;
};

struct monitor_call {
    struct client *client; /* NULL: it has gone */
    json_t *id;
};

static void client_close(struct client *client);
static void client_process(struct client *client);

/* ---- output ---------------------------------------------------------------------------------- */

static gboolean on_writable(gint fd, GIOCondition condition, gpointer opaque)
{
    struct client *client = opaque;
    ssize_t n = send(fd, client->queued->str, client->queued->len, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return G_SOURCE_CONTINUE;
    if (n < 0) {
        client_close(client);
        return G_SOURCE_REMOVE;
    }
    g_string_erase(client->queued, 0, n);
    if (client->queued->len > 0)
        return G_SOURCE_CONTINUE;
    g_clear_pointer(&client->out, g_source_unref);
    if (client->is_closing)
        client_close(client);
    return G_SOURCE_REMOVE;
}

/* Queues a message (taken over). The client may be closed by it: too slow a reader. */
static void client_send(struct client *client, json_t *message)
{
    char *text = json_dumps(message, JSON_COMPACT | JSON_REAL_PRECISION(15));

    json_decref(message);
    g_string_append(client->queued, text);
    g_string_append(client->queued, "\r\n");
    free(text);
    if (client->queued->len > MONITOR_MAX_QUEUED_BYTES) {
        g_string_truncate(client->queued, 0);
        shutdown(client->fd, SHUT_RDWR); /* the main loop sees the end and closes it */
        return;
    }
    if (!client->out) {
        client->out = g_unix_fd_source_new(client->fd, G_IO_OUT);
        g_source_set_callback(client->out, G_SOURCE_FUNC(on_writable), client, NULL);
        g_source_attach(client->out, client->monitor->config.context);
    }
}

static json_t *error_object(const char *class, const char *text)
{
    json_t *desc = json_string(text);
    if (!desc)
        desc = json_string("unprintable error");
    return json_pack("{s:{s:s, s:o}}", "error", "class", class, "desc", desc);
}

static void send_error(struct client *client, json_t *id, const char *class, const char *text)
{
    json_t *answer = error_object(class, text);
    if (id)
        json_object_set(answer, "id", id);
    client_send(client, answer);
}

static json_t *timestamp(uint64_t real_ns)
{
    return json_pack("{s:I, s:I}", "seconds", (json_int_t)(real_ns / NS_PER_S), "microseconds",
                     (json_int_t)(real_ns % NS_PER_S / NS_PER_US));
}

void monitor_emit(struct monitor *monitor, const char *event, json_t *data, uint64_t real_ns)
{
    json_t *message = json_pack("{s:o, s:s}", "timestamp", timestamp(real_ns), "event", event);

    if (data)
        json_object_set_new(message, "data", data);
    for (guint i = 0; i < monitor->clients->len; i++) {
        struct client *client = g_ptr_array_index(monitor->clients, i);
        if (client->is_negotiated && !client->is_closing)
            client_send(client, json_incref(message));
    }
    json_decref(message);
}

/* ---- commands -------------------------------------------------------------------------------- */

void monitor_call_finish(struct monitor_call *call, json_t *result, const GError *error)
{
    struct client *client = call->client;

    if (client) {
        client->call = NULL;
        if (error) {
            send_error(client, call->id, "GenericError", error->message);
        } else {
            json_t *answer =
                json_pack("{s:o}", "return", result ? json_incref(result) : json_object());
            if (call->id)
                json_object_set(answer, "id", call->id);
            client_send(client, answer);
        }
    }
    json_decref(result);
    json_decref(call->id);
    g_free(call);
    if (client && !client->is_processing)
        client_process(client);
}

/* We offer no capability, so none can be enabled. NULL: what is asked for can be had. */
static char *refuse_capabilities(const json_t *args)
{
    json_t *enable = json_object_get(args, "enable");
    const char *key, *wanted = json_string_value(json_array_get(enable, 0));
    json_t *value;

    json_object_foreach((json_t *)args, key, value)
    {
        if (strcmp(key, "enable") != 0)
            return g_strdup_printf("Parameter '%s' is unexpected", key);
    }
    if (enable && !json_is_array(enable))
        return g_strdup("Invalid parameter type for 'enable', expected: array");
    if (json_array_size(enable) > 0)
        return g_strdup_printf("QMP capability '%s' is not available", wanted ? wanted : "?");
    return NULL;
}

static bool negotiate(struct client *client, json_t *id, const char *name, const json_t *args)
{
    if (strcmp(name, "qmp_capabilities") == 0) {
        if (client->is_negotiated) {
            send_error(client, id, "CommandNotFound",
                       "capabilities negotiation is already complete");
            return true;
        }
        g_autofree char *refusal = refuse_capabilities(args);
        if (refusal) {
            send_error(client, id, "GenericError", refusal);
            return true;
        }
        client->is_negotiated = true;
        json_t *answer = json_pack("{s:{}}", "return");
        if (id)
            json_object_set(answer, "id", id);
        client_send(client, answer);
        return true;
    }
    if (!client->is_negotiated) {
        send_error(client, id, "CommandNotFound",
                   "expecting capabilities negotiation with 'qmp_capabilities'");
        return true;
    }
    return false;
}

static void execute(struct client *client, json_t *id, const char *name, const json_t *args)
{
    struct monitor *monitor = client->monitor;
    const struct command *command = command_find(name);
    g_autoptr(GError) error = NULL;

    if (!command) {
        g_autofree char *text = g_strdup_printf("the command %s has not been found", name);
        send_error(client, id, "CommandNotFound", text);
        return;
    }
    if (!command_check_args(command, args, &error)) {
        send_error(client, id, "GenericError", error->message);
        return;
    }
    struct monitor_call *call = g_new0(struct monitor_call, 1);
    call->client = client;
    call->id = json_incref(id);
    client->call = call;
    if (command->start) {
        command->start(call, monitor, args);
        return;
    }
    json_t *result = command->run(monitor, args, &error);
    monitor_call_finish(call, result, error);
}

static void handle_message(struct client *client, const char *text, gsize len)
{
    json_error_t json_error;
    json_t *message = json_loadb(text, len, JSON_REJECT_DUPLICATES, &json_error);
    static const char *const members[] = {"execute", "arguments", "id", NULL};
    const char *key;
    json_t *value;

    if (!json_is_object(message)) {
        send_error(client, NULL, "GenericError",
                   message ? "QMP input must be a JSON object" : "JSON parse error");
        json_decref(message);
        return;
    }
    json_t *id = json_object_get(message, "id");
    const char *name = json_string_value(json_object_get(message, "execute"));
    json_t *args = json_object_get(message, "arguments");
    json_object_foreach(message, key, value) if (!g_strv_contains(members, key))
    {
        g_autofree char *why = g_strdup_printf("QMP input member '%s' is unexpected", key);
        send_error(client, id, "GenericError", why);
        json_decref(message);
        return;
    }
    if (!name)
        send_error(client, id, "GenericError", "QMP input lacks a string member 'execute'");
    else if (args && !json_is_object(args))
        send_error(client, id, "GenericError", "QMP input member 'arguments' must be an object");
    else if (!negotiate(client, id, name, args))
        execute(client, id, name, args);
    json_decref(message);
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer opaque);

static void source_drop(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

/* Nothing is read while a command is being answered: the socket's buffer then bounds what a client
 * can send ahead. */
static void client_want_input(struct client *client, bool is_wanted)
{
    if (!is_wanted) {
        source_drop(&client->in);
    } else if (!client->in) {
        client->in = g_unix_fd_source_new(client->fd, G_IO_IN | G_IO_HUP | G_IO_ERR);
        g_source_set_callback(client->in, G_SOURCE_FUNC(on_readable), client, NULL);
        g_source_attach(client->in, client->monitor->config.context);
    }
}

/* Works through what has arrived, one command after another. */
static void client_process(struct client *client)
{
    client->is_processing = true;
    while (!client->call && !client->is_closing && client->unread->len > 0) {
        const char *message;
        gsize len;
        g_autoptr(GError) error = NULL;
        gssize n = json_stream_feed(&client->stream, (const char *)client->unread->data,
                                    client->unread->len, &message, &len, &error);
        if (n < 0) {
            send_error(client, NULL, "GenericError", error->message);
            client->is_closing = true;
            break;
        }
        g_byte_array_remove_range(client->unread, 0, (guint)n);
        if (message)
            handle_message(client, message, len);
    }
    client->is_processing = false;
    client_want_input(client, !client->call && !client->is_closing);
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer opaque)
{
    struct client *client = opaque;
    char bytes[16384];
    ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return G_SOURCE_CONTINUE;
    if (n <= 0) {
        client_close(client);
        return G_SOURCE_REMOVE;
    }
    g_byte_array_append(client->unread, (const guint8 *)bytes, (guint)n);
    client_process(client);
    return G_SOURCE_CONTINUE;
}

/* ---- clients and sockets --------------------------------------------------------------------- */

static void client_free(gpointer opaque)
{
    struct client *client = opaque;

    if (client->call)
        client->call->client = NULL;
    source_drop(&client->in);
    source_drop(&client->out);
    close(client->fd);
    json_stream_clear(&client->stream);
    g_byte_array_unref(client->unread);
    g_string_free(client->queued, TRUE);
    g_free(client);
}

static void client_close(struct client *client)
{
    g_ptr_array_remove_fast(client->monitor->clients, client);
}

static json_t *version_object(void)
{
    return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "micro", MONITOR_VERSION_MICRO, "minor",
                     MONITOR_VERSION_MINOR, "major", MONITOR_VERSION_MAJOR, "package", "godwit");
}

json_t *run_query_version(struct monitor *monitor, const json_t *args, GError **error)
{
    return version_object();
}

static gboolean on_connection(gint fd, GIOCondition condition, gpointer opaque)
{
    struct listener *listener = opaque;
    struct monitor *monitor = listener->monitor;
    int client_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (client_fd < 0)
        return G_SOURCE_CONTINUE;
    if (monitor->clients->len >= MONITOR_MAX_CLIENTS) {
        close(client_fd);
        return G_SOURCE_CONTINUE;
    }
    struct client *client = g_new0(struct client, 1);
    client->monitor = monitor;
    client->fd = client_fd;
    client->unread = g_byte_array_new();
    client->queued = g_string_new(NULL);
    json_stream_init(&client->stream);
    client_want_input(client, true);
    g_ptr_array_add(monitor->clients, client);
    client_send(client,
                json_pack("{s:{s:o, s:[]}}", "QMP", "version", version_object(), "capabilities"));
    return G_SOURCE_CONTINUE;
}

/* A socket file nobody answers at is what a dead process left behind. */
static bool is_stale(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 &&
                   errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return refused;
}

static int listen_unix(const char *path, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = -1;

    if (strlen(path) >= sizeof address.sun_path) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "monitor \"%s\": path is too long", path);
        return -1;
    }
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && is_stale(&address))
        unlink(path);
    mode_t mask = umask(0177);
    int rc = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&address, sizeof address);
    umask(mask);
    if (rc < 0 || listen(fd, 16) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "monitor \"%s\": %s", path, g_strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

static void listener_free(gpointer opaque)
{
    struct listener *listener = opaque;

    source_drop(&listener->source);
    close(listener->fd);
    unlink(listener->path);
    g_free(listener->path);
    g_free(listener);
}

bool monitor_listen(struct monitor *monitor, const char *path, GError **error)
{
    int fd = listen_unix(path, error);
    if (fd < 0)
        return false;
    struct listener *listener = g_new0(struct listener, 1);
    listener->monitor = monitor;
    listener->fd = fd;
    listener->path = g_strdup(path);
    g_ptr_array_add(monitor->listeners, listener);
    return true;
}

void monitor_serve(struct monitor *monitor)
{
    for (guint i = 0; i < monitor->listeners->len; i++) {
        struct listener *listener = g_ptr_array_index(monitor->listeners, i);
        listener->source = g_unix_fd_source_new(listener->fd, G_IO_IN);
        g_source_set_callback(listener->source, G_SOURCE_FUNC(on_connection), listener, NULL);
        g_source_attach(listener->source, monitor->config.context);
    }
}

struct monitor *monitor_new(const struct monitor_config *config)
{
    struct monitor *monitor = g_new0(struct monitor, 1);

    monitor->config = *config;
    monitor->listeners = g_ptr_array_new_with_free_func(listener_free);
    monitor->clients = g_ptr_array_new_with_free_func(client_free);
    machine_add_listener(config->machine, monitor_on_machine_notice, monitor);
    migration_add_listener(config->migration, monitor_on_migration_notice, monitor);
    return monitor;
}

void monitor_free(struct monitor *monitor)
{
    if (!monitor)
        return;
    for (guint i = 0; i < monitor->clients->len; i++) {
        struct client *client = g_ptr_array_index(monitor->clients, i);
        if (client->queued->len > 0 && send(client->fd, client->queued->str, client->queued->len,
                                            MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            continue; /* nobody reads: nothing is lost that anybody wanted */
    }
    g_ptr_array_unref(monitor->clients);
    g_ptr_array_unref(monitor->listeners);
    g_free(monitor);
}

struct machine *monitor_machine(struct monitor *monitor)
{
    return monitor->config.machine;
}

struct migration *monitor_migration(struct monitor *monitor)
{
    return monitor->config.migration;
}

void monitor_quit(struct monitor *monitor)
{
    monitor->config.quit(monitor->config.opaque);
}
