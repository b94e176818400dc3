/* SPDX-License-Identifier: MIT */
/* Subcommands that are one question or one command to the monitor. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/runtime_dir.h"
#include "godwit/error.h"

/* Opens the VM of argv[1]; complains and sets *status when it cannot. */
static struct client *open_vm(const char *vm, int *status)
{
    g_autoptr(GError) error = NULL;
    struct client *client = client_open(vm, status, &error);
    if (!client)
        cli_complain("%s", error->message);
    return client;
}

/* ---- one command ----------------------------------------------------------------------------- */

static const struct {
    const char *name;
    const char *command;
    const char *arguments; /* JSON, or NULL */
} simple_commands[] = {
    {"stop", "stop", NULL},
    {"cont", "cont", NULL},
    {"reset", "system_reset", NULL},
    {"powerdown", "system_powerdown", NULL},
    {"cancel", "migrate_cancel", NULL},
    {"postcopy", "migrate-start-postcopy", NULL},
    {"switchover", "migrate-continue", "{\"state\": \"pre-switchover\"}"},
    {"quit", "quit", NULL},
};

/* NULL when there are none. */
static json_t *simple_arguments(const char *text, bool is_forced)
{
    if (is_forced)
        return json_pack("{s:b}", "force", 1);
    return text ? json_loads(text, 0, NULL) : NULL;
}

int cmd_simple(const struct subcommand *self, int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    int status;
    gboolean is_forced = FALSE;
    const GOptionEntry quit_entries[] = {
        {"force", 'f', 0, G_OPTION_ARG_NONE, &is_forced,
         "Also while the guest's ownership is in doubt", NULL},
        {NULL},
    };
    bool is_quit = strcmp(self->name, "quit") == 0;

    if (!cli_parse(self, is_quit ? quit_entries : NULL, 1, 1, &argc, &argv, &status))
        return status;
    struct client *client = open_vm(argv[1], &status);
    if (!client)
        return status;
    json_t *answer = NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(simple_commands); i++)
        if (strcmp(simple_commands[i].name, self->name) == 0)
            answer =
                client_command(client, simple_commands[i].command,
                               simple_arguments(simple_commands[i].arguments, is_forced), &error);
    client_close(client);
    if (!answer)
        return cli_fail(CLI_FAILED, "%s", error->message);
    json_decref(answer);
    return CLI_OK;
}

#define RESOLVE_POLL_MS 20
#define RESOLVE_POLLS   1500

/* The decision is taken by the engine's own thread: waits until the doubt is over. */
static bool await_resolution(struct client *client, GError **error)
{
    for (int i = 0; i < RESOLVE_POLLS; i++) {
        json_t *info = client_command(client, "query-migrate", NULL, error);
        const char *state = json_string_value(json_object_get(info, "state"));
        bool is_over =
            info && g_strcmp0(state, "in-doubt") != 0 && g_strcmp0(state, "postcopy-paused") != 0;

        if (!info || is_over) {
            json_decref(info);
            return is_over;
        }
        json_decref(info);
        if (!client_wait(client, RESOLVE_POLL_MS)) {
            g_set_error_literal(error, GW_ERROR, GW_ERROR_LINK_LOST, "the monitor went away");
            return false;
        }
    }
    g_set_error_literal(error, GW_ERROR, GW_ERROR_TIMEOUT,
                        "the decision was accepted but has not taken effect yet");
    return false;
}

int cmd_resolve(const struct subcommand *self, int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    int status;

    if (!cli_parse(self, NULL, 2, 2, &argc, &argv, &status))
        return status;
    if (strcmp(argv[2], "run-here") != 0 && strcmp(argv[2], "release") != 0)
        return cli_fail(CLI_USAGE, "resolve: run-here or release, not \"%s\"", argv[2]);
    struct client *client = open_vm(argv[1], &status);
    if (!client)
        return status;
    json_t *answer =
        client_command(client, "resolve", json_pack("{s:s}", "decision", argv[2]), &error);
    bool is_over = answer && await_resolution(client, &error);
    json_decref(answer);
    client_close(client);
    return is_over ? CLI_OK : cli_fail(CLI_FAILED, "%s", error->message);
}

/* ---- status ---------------------------------------------------------------------------------- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static json_t *ask_status(struct client *client, GError **error)
{
    static const char *const questions[] = {"query-name", "query-status", "query-cpus-fast",
                                            "query-memory-size-summary", "query-migrate"};
    json_t *all = json_object();

    for (size_t i = 0; i < G_N_ELEMENTS(questions); i++) {
        json_t *answer = client_command(client, questions[i], NULL, error);
        if (!answer) {
            json_decref(all);
            return NULL;
        }
        json_object_set_new(all, questions[i] + strlen("query-"), answer);
    }
    return all;
}

static void print_status(const json_t *all)
{
    const json_t *migration = json_object_get(all, "migrate");
    json_int_t memory = json_integer_value(
        json_object_get(json_object_get(all, "memory-size-summary"), "base-memory"));

    printf("%-16s %-14s %zu cpu  %lld MiB", text_of(json_object_get(all, "name"), "name"),
           text_of(json_object_get(all, "status"), "status"),
           json_array_size(json_object_get(all, "cpus-fast")), (long long)memory >> 20);
    if (strcmp(text_of(migration, "status"), "none") != 0)
        printf("  migration %s (%s)", text_of(migration, "state"), text_of(migration, "role"));
    if (*text_of(migration, "error-desc"))
        printf(": %s", text_of(migration, "error-desc"));
    putchar('\n');
}

static int show_one(const char *vm, bool is_json, bool is_quiet)
{
    g_autoptr(GError) error = NULL;
    int status;
    struct client *client = client_open(vm, &status, &error);
    json_t *all = client ? ask_status(client, &error) : NULL;

    client_close(client);
    if (!all)
        return is_quiet ? CLI_NO_VM : cli_fail(client ? CLI_FAILED : status, "%s", error->message);
    if (is_json) {
        json_dumpf(all, stdout, CLI_JSON_FLAGS);
        putchar('\n');
    } else {
        print_status(all);
    }
    json_decref(all);
    return CLI_OK;
}

int cmd_status(const struct subcommand *self, int argc, char **argv)
{
    gboolean is_json = FALSE;
    const GOptionEntry entries[] = {
        {"json", 'j', 0, G_OPTION_ARG_NONE, &is_json, "One JSON object a line", NULL}, {NULL}};
    int status;

    if (!cli_parse(self, entries, 0, 1, &argc, &argv, &status))
        return status;
    if (argc == 2)
        return show_one(argv[1], is_json, false);

    g_autofree char *folder = runtime_dir(false, NULL);
    g_autoptr(GDir) dir = folder ? g_dir_open(folder, 0, NULL) : NULL;
    const char *name;
    while (dir && (name = g_dir_read_name(dir)) != NULL)
        if (g_str_has_suffix(name, RUNTIME_SUFFIX)) {
            g_autofree char *path = g_build_filename(folder, name, NULL);
            show_one(path, is_json, true);
        }
    return CLI_OK;
}

/* ---- qmp ------------------------------------------------------------------------------------- */

static int one_command(struct client *client, const char *name, const char *text)
{
    g_autoptr(GError) error = NULL;
    json_error_t why;
    json_t *args = text ? json_loads(text, 0, &why) : NULL;

    if (text && !json_is_object(args)) {
        json_decref(args);
        return cli_fail(CLI_USAGE, "qmp: \"%s\" is no JSON object", text);
    }
    json_t *answer = client_command(client, name, args, &error);
    if (!answer) {
        cli_complain("%s", error->message);
        return error->message ? CLI_FAILED : CLI_OK;
    }
    json_dumpf(answer, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    putchar('\n');
    json_decref(answer);
    return CLI_OK;
}

int cmd_qmp(const struct subcommand *self, int argc, char **argv)
{
    int status;
    char line[65536];

    if (!cli_parse(self, NULL, 1, 3, &argc, &argv, &status))
        return status;
    struct client *client = open_vm(argv[1], &status);
    if (!client)
        return status;
    status = CLI_OK;
    if (argc > 2) {
        status = one_command(client, argv[2], argv[3]);
    } else {
        while (fgets(line, sizeof line, stdin)) {
            g_strstrip(line);
            char *space = strchr(line, ' ');
            if (space)
                *space++ = '\0';
            if (*line)
                status = one_command(client, line, space);
            fflush(stdout);
        }
    }
    client_close(client);
    return status;
}
