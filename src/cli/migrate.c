/* SPDX-License-Identifier: MIT */
/*
 * godwit migrate, save, watch and recover: start a migration, follow it, tell how it ended.
 *
 * Ctrl-C asks the VM to give up once; what happens then is told like any other end. A second Ctrl-C
 * ends the command and leaves the migration alone.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "cli/budgets.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "godwit/migrate.h"

#define POLL_TTY_MS    100
#define POLL_PLAIN_MS  1000
/* How long a doubt is watched before the command ends and leaves it to the operator. */
#define DOUBT_WATCH_NS (10 * NS_PER_S)

struct follow {
    struct client *client;
    struct progress progress;
    struct report *report; /* or NULL */
    bool wants_cancel_sent;
    uint64_t doubt_since_ns;
    uint64_t shown_ns; /* when progress was shown last */
    char shown_state[32];
    json_int_t shown_round;
};

/* The only thing a signal handler may touch. */
static volatile sig_atomic_t interrupts;

static void on_interrupt(int number)
{
    interrupts++;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* ---- budgets --------------------------------------------------------------------------------- */

struct budgets {
    char *max_blackout, *max_bandwidth, *max_time, *max_slowdown, *ram, *compress, *delta,
        *channels;
    char *mode, *at_max_time, *reconnect_time;
    gboolean wants_wait, forbids_postcopy;
};

/* "50%" or "50". */
static bool put_slowdown(json_t *args, const char *text)
{
    guint64 percent = 0;

    if (!text)
        return true;
    g_autofree char *number = g_strdup(text);
    if (g_str_has_suffix(number, "%"))
        number[strlen(number) - 1] = '\0';
    if (!g_ascii_string_to_unsigned(number, 10, 0, GW_MAX_SLOWDOWN_PERMILLE / 10, &percent, NULL)) {
        cli_complain("--max-slowdown: \"%s\" is not a percentage from 0 to %u", text,
                     GW_MAX_SLOWDOWN_PERMILLE / 10);
        return false;
    }
    json_object_set_new(args, "max-slowdown", json_integer((json_int_t)percent));
    return true;
}

static bool put_ram(json_t *args, const char *text)
{
    static const char *const ways[] = {"auto", "copy", "share", NULL};

    if (!text)
        return true;
    if (!g_strv_contains(ways, text)) {
        cli_complain("--ram: '%s' is not auto, copy or share", text);
        return false;
    }
    json_object_set_new(args, "ram", json_string(text));
    return true;
}

static bool put_compress(json_t *args, const char *text)
{
    static const char *const words[][2] = {{"auto", "auto"}, {"off", "none"}, {"zstd", "zstd"}};

    for (size_t i = 0; text && i < G_N_ELEMENTS(words); i++) {
        if (strcmp(text, words[i][0]) == 0) {
            json_object_set_new(args, "multifd-compression", json_string(words[i][1]));
            return true;
        }
    }
    if (text)
        cli_complain("--compress: '%s' is not auto, off or zstd", text);
    return text == NULL;
}

/* A size is that of the cache, and means that deltas are wanted. */
static bool put_delta(json_t *args, const char *text)
{
    g_autoptr(GError) error = NULL;
    uint64_t bytes;

    if (!text)
        return true;
    if (strcmp(text, "auto") == 0 || strcmp(text, "off") == 0) {
        json_object_set_new(args, "delta", json_string(text));
        return true;
    }
    if (!text_parse_size(text, &bytes, &error)) {
        cli_complain("--delta: not auto or off, and no size: %s", error->message);
        return false;
    }
    json_object_set_new(args, "delta", json_string("on"));
    json_object_set_new(args, "xbzrle-cache-size", json_integer((json_int_t)bytes));
    return true;
}

/* "auto" or a number. */
static bool put_channels(json_t *args, const char *text)
{
    guint64 n = 0;

    if (!text)
        return true;
    if (strcmp(text, "auto") != 0 && !g_ascii_string_to_unsigned(text, 10, 1, 64, &n, NULL)) {
        cli_complain("--channels: \"%s\" is not auto and not a number from 1 to 64", text);
        return false;
    }
    json_object_set_new(args, "multifd-channels", json_integer((json_int_t)n));
    return true;
}

static bool put_mode(json_t *args, const char *text)
{
    static const char *const modes[] = {"auto", "precopy", "postcopy", NULL};

    if (!text)
        return true;
    if (!g_strv_contains(modes, text)) {
        cli_complain("--mode: '%s' is not auto, precopy or postcopy", text);
        return false;
    }
    json_object_set_new(args, "mode", json_string(text));
    return true;
}

static bool put_at_max_time(json_t *args, const struct budgets *budgets)
{
    static const char *const ways[] = {"cancel", "postcopy", "stop-and-copy", NULL};
    const char *text = budgets->at_max_time;

    if (!text)
        return true;
    if (!g_strv_contains(ways, text)) {
        cli_complain("--at-max-time: '%s' is not cancel, postcopy or stop-and-copy", text);
        return false;
    }
    json_object_set_new(args, "at-max-time", json_string(text));
    return true;
}

/* Waiting is asked for each time; that post-copy is forbidden stays so until somebody allows it. */
static bool put_postcopy(json_t *args, const struct budgets *budgets)
{
    bool wants_postcopy = g_strcmp0(budgets->mode, "postcopy") == 0 ||
                          g_strcmp0(budgets->at_max_time, "postcopy") == 0;

    if (budgets->forbids_postcopy && wants_postcopy) {
        cli_complain("--forbid-postcopy: post-copy is asked for, too");
        return false;
    }
    json_object_set_new(args, "pause-before-switchover", json_boolean(budgets->wants_wait));
    if (budgets->forbids_postcopy)
        json_object_set_new(args, "forbid-postcopy", json_true());
    return put_mode(args, budgets->mode) && put_at_max_time(args, budgets) &&
           budget_put_duration(args, "reconnect-time", "reconnect-time", budgets->reconnect_time);
}

/* NULL: something was wrong (and said). */
static json_t *budget_args(const struct budgets *budgets)
{
    json_t *args = json_object();

    if (budget_put_duration(args, "downtime-limit", "max-blackout", budgets->max_blackout) &&
        budget_put_duration(args, "max-time", "max-time", budgets->max_time) &&
        budget_put_rate(args, "max-bandwidth", "max-bandwidth", budgets->max_bandwidth) &&
        put_slowdown(args, budgets->max_slowdown) && put_ram(args, budgets->ram) &&
        put_compress(args, budgets->compress) && put_delta(args, budgets->delta) &&
        put_channels(args, budgets->channels) && put_postcopy(args, budgets))
        return args;
    json_decref(args);
    return NULL;
}

/* ---- following ------------------------------------------------------------------------------- */

static bool is_final(const char *state)
{
    static const char *const final[] = {"completed", "saved", "failed", "cancelled", "lost", NULL};
    return g_strv_contains(final, state);
}

static int exit_status_of(const json_t *info)
{
    const char *status = text_of(info, "status");

    if (strcmp(status, "completed") == 0)
        return CLI_OK;
    if (strcmp(status, "cancelled") == 0)
        return CLI_CANCELLED;
    if (strcmp(text_of(info, "state"), "lost") == 0)
        return CLI_LOST;
    return strcmp(text_of(info, "error-code"), "refused") == 0 ? CLI_REFUSED : CLI_FAILED;
}

static void send_cancel(struct follow *follow)
{
    g_autoptr(GError) error = NULL;

    follow->wants_cancel_sent = true;
    json_t *answer = client_command(follow->client, "migrate_cancel", NULL, &error);
    if (!answer)
        cli_complain("cannot cancel: %s", error->message);
    json_decref(answer);
}

static bool doubt_is_old(struct follow *follow, const char *state)
{
    uint64_t now_ns = clock_mono_ns();

    if (strcmp(state, "in-doubt") != 0) {
        follow->doubt_since_ns = 0;
        return false;
    }
    if (follow->doubt_since_ns == 0)
        follow->doubt_since_ns = now_ns;
    return now_ns - follow->doubt_since_ns >= DOUBT_WATCH_NS;
}

/* ending: why nobody looks any more, or NULL. The command's exit status is the move's, whether or
 * not a page about it could be written. */
static void write_report(struct follow *follow, const json_t *ledger, const char *ending)
{
    g_autoptr(GError) error = NULL;

    if (follow->report && !report_write(follow->report, ledger, ending, &error))
        cli_complain("no report: %s", error->message);
}

/* Shows the end; the ledger comes from the VM. */
static int conclude(struct follow *follow, json_t *info)
{
    g_autoptr(GError) error = NULL;
    json_t *ledger = client_command(follow->client, "query-blackout", NULL, &error);
    int status = exit_status_of(info);

    progress_end(&follow->progress, info, ledger);
    write_report(follow, ledger, NULL);
    json_decref(ledger);
    if (status == CLI_CANCELLED)
        cli_complain("cancelled: the guest goes on where it was");
    else if (status != CLI_OK)
        cli_complain("%s: %s", text_of(info, "error-side"), text_of(info, "error-desc"));
    return status;
}

/* Leaves a migration that has not ended. */
static int leave(struct follow *follow, int status, const char *why)
{
    json_t *ledger =
        follow->report ? client_command(follow->client, "query-blackout", NULL, NULL) : NULL;

    progress_break(&follow->progress);
    write_report(follow, ledger, why);
    json_decref(ledger);
    return cli_fail(status, "%s", why);
}

static json_t *ask(struct follow *follow, GError **error)
{
    uint64_t asked_ns = clock_mono_ns(), asked_real_ns = clock_real_ns();
    json_t *info = client_command(follow->client, "query-migrate", NULL, error);
    uint64_t wait_ns = clock_mono_ns() - asked_ns;

    if (info && follow->report && strcmp(text_of(info, "status"), "none") != 0)
        report_add(follow->report, info, asked_real_ns + wait_ns / 2, wait_ns);
    return info;
}

/* A report asks more often than progress is shown. */
static void show_and_wait(struct follow *follow, const json_t *info)
{
    uint64_t poll_ns = (follow->progress.is_tty ? POLL_TTY_MS : POLL_PLAIN_MS) * NS_PER_MS;
    uint64_t now_ns = clock_mono_ns();
    const char *state = text_of(info, "state");
    json_int_t round = json_integer_value(json_object_get(info, "round"));

    if (!follow->report || now_ns - follow->shown_ns >= poll_ns || round != follow->shown_round ||
        strcmp(state, follow->shown_state) != 0) {
        progress_show(&follow->progress, info);
        follow->shown_ns = now_ns;
        follow->shown_round = round;
        g_strlcpy(follow->shown_state, state, sizeof follow->shown_state);
    }
    if (follow->report)
        poll_ns = MIN(poll_ns, report_step_ns(follow->report));
    client_wait(follow->client, (int)(poll_ns / NS_PER_MS));
}

static int follow_to_end(struct follow *follow)
{
    for (;;) {
        g_autoptr(GError) error = NULL;
        json_t *info = ask(follow, &error);
        if (!info)
            return leave(follow, CLI_FAILED, error->message);
        const char *state = text_of(info, "state");
        if (strcmp(text_of(info, "status"), "none") == 0) {
            json_decref(info);
            return cli_fail(CLI_FAILED, "there is no migration");
        }
        if (is_final(state) || strcmp(state, "running") == 0) {
            int status = conclude(follow, info);
            json_decref(info);
            return status;
        }
        if (doubt_is_old(follow, state)) {
            progress_show(&follow->progress, info);
            json_decref(info);
            return leave(follow, CLI_DOUBT,
                         "in doubt: the guest is stopped here and nobody says whether it runs "
                         "there; godwit resolve decides");
        }
        if (interrupts > 1) {
            json_decref(info);
            return leave(follow, CLI_CANCELLED, "not watched any more; the migration may go on");
        }
        if (interrupts == 1 && !follow->wants_cancel_sent)
            send_cancel(follow);
        else
            show_and_wait(follow, info);
        json_decref(info);
    }
}

static void catch_interrupts(void)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static bool command_ok(struct client *client, const char *name, json_t *args)
{
    g_autoptr(GError) error = NULL;
    json_t *answer = client_command(client, name, args, &error);

    if (!answer)
        cli_complain("%s", error->message);
    json_decref(answer);
    return answer != NULL;
}

/* What a report tells of the VM besides the move. */
static void note_vm(struct follow *follow)
{
    if (!follow->report)
        return;
    json_t *params = client_command(follow->client, "query-migrate-parameters", NULL, NULL);
    json_t *name = client_command(follow->client, "query-name", NULL, NULL);
    if (params)
        report_set_params(follow->report, params);
    if (*text_of(name, "name"))
        report_set_name(follow->report, text_of(name, "name"));
    json_decref(params);
    json_decref(name);
}

/* Starts `command` (NULL: only watch) with uri, unless that is NULL, and follows it. budgets is
 * taken over, may be NULL; report is borrowed and may be NULL. */
static int start_and_follow(const char *vm, const char *command, const char *uri, json_t *budgets,
                            bool is_live, bool is_json, struct report *report)
{
    g_autoptr(GError) error = NULL;
    struct follow follow = {.report = report};
    int status;

    follow.client = client_open(vm, &status, &error);
    if (!follow.client) {
        json_decref(budgets);
        return cli_fail(status, "%s", error->message);
    }
    catch_interrupts();
    progress_init(&follow.progress, is_json);
    status = CLI_FAILED;
    bool ok = true;
    if (budgets && json_object_size(budgets) > 0)
        ok = command_ok(follow.client, "migrate-set-parameters", json_incref(budgets));
    note_vm(&follow);
    if (ok && command) {
        json_t *args = json_object();
        if (uri)
            json_object_set_new(args, "uri", json_string(uri));
        if (is_live)
            json_object_set_new(args, "live", json_true());
        ok = command_ok(follow.client, command, args);
    }
    if (ok)
        status = follow_to_end(&follow);
    json_decref(budgets);
    client_close(follow.client);
    return status;
}

/* ---- subcommands ----------------------------------------------------------------------------- */

int cmd_migrate(const struct subcommand *self, int argc, char **argv)
{
    struct budgets budgets = {0};
    g_autoptr(GError) error = NULL;
    g_autofree char *report_path = NULL;
    struct report *report = NULL;
    gboolean is_json = FALSE, wants_quit = FALSE;
    const GOptionEntry entries[] = {
        {"max-blackout", 0, 0, G_OPTION_ARG_STRING, &budgets.max_blackout,
         "Longest blackout (300ms)", "TIME"},
        {"max-bandwidth", 0, 0, G_OPTION_ARG_STRING, &budgets.max_bandwidth,
         "Most bytes per second (unlimited), 500MiB/s for example", "RATE"},
        {"max-time", 0, 0, G_OPTION_ARG_STRING, &budgets.max_time,
         "Longest time before the switchover (unlimited); see --at-max-time", "TIME"},
        {"max-slowdown", 0, 0, G_OPTION_ARG_STRING, &budgets.max_slowdown,
         "Most by which a vCPU that dirties too fast is slowed, up to 99% (0%)", "PERCENT"},
        {"ram", 0, 0, G_OPTION_ARG_STRING, &budgets.ram,
         "auto, copy, share: whether a process on this host maps the guest's memory (auto)", "WAY"},
        {"compress", 0, 0, G_OPTION_ARG_STRING, &budgets.compress,
         "Compress pages: auto (while it pays), off, zstd", "HOW"},
        {"delta", 0, 0, G_OPTION_ARG_STRING, &budgets.delta,
         "Send what changed in a page: auto (while it pays), off, or always with a cache of SIZE",
         "SIZE"},
        {"channels", 0, 0, G_OPTION_ARG_STRING, &budgets.channels,
         "Connections for pages, 1 to 64 (auto: as both hosts see fit)", "N|auto"},
        {"mode", 0, 0, G_OPTION_ARG_STRING, &budgets.mode,
         "precopy: the guest moves last; postcopy: it moves before its memory; auto (default): "
         "pre-copy, and post-copy when that does not converge",
         "MODE"},
        {"at-max-time", 0, 0, G_OPTION_ARG_STRING, &budgets.at_max_time,
         "When max-time is spent: cancel (default), postcopy, stop-and-copy", "WHAT"},
        {"reconnect-time", 0, 0, G_OPTION_ARG_STRING, &budgets.reconnect_time,
         "How long a lost link is tried again before the move fails (10s)", "TIME"},
        {"wait-before-switchover", 0, 0, G_OPTION_ARG_NONE, &budgets.wants_wait,
         "Wait there until godwit switchover", NULL},
        {"forbid-postcopy", 0, 0, G_OPTION_ARG_NONE, &budgets.forbids_postcopy,
         "The guest survives the loss of either host while it moves", NULL},
        {"report", 0, 0, G_OPTION_ARG_FILENAME, &report_path,
         "Write a page (HTML, pictures inside) about the move, however it ends", "FILE"},
        {"json", 'j', 0, G_OPTION_ARG_NONE, &is_json, "JSON lines; the last is the summary", NULL},
        {"quit", 'q', 0, G_OPTION_ARG_NONE, &wants_quit, "End the source's process when it is done",
         NULL},
        {NULL},
    };
    int status;

    if (!cli_parse(self, entries, 2, 2, &argc, &argv, &status))
        return status;
    json_t *args = budget_args(&budgets);
    g_free(budgets.max_blackout);
    g_free(budgets.max_bandwidth);
    g_free(budgets.max_time);
    g_free(budgets.max_slowdown);
    g_free(budgets.ram);
    g_free(budgets.compress);
    g_free(budgets.delta);
    g_free(budgets.channels);
    g_free(budgets.mode);
    g_free(budgets.at_max_time);
    g_free(budgets.reconnect_time);
    if (!args)
        return CLI_USAGE;
    if (report_path && !(report = report_new(report_path, argv[1], argv[2], &error))) {
        json_decref(args);
        return cli_fail(CLI_USAGE, "--report: %s", error->message);
    }
    status = start_and_follow(argv[1], "migrate", argv[2], args, false, is_json, report);
    report_free(report);
    if (status == CLI_OK && wants_quit) {
        int ignored;
        struct client *client = client_open(argv[1], &ignored, NULL);
        if (client)
            command_ok(client, "quit", NULL);
        client_close(client);
    }
    return status;
}

int cmd_save(const struct subcommand *self, int argc, char **argv)
{
    gboolean is_json = FALSE, is_live = FALSE;
    const GOptionEntry entries[] = {
        {"live", 'l', 0, G_OPTION_ARG_NONE, &is_live,
         "The guest runs on; it stops only for its device state", NULL},
        {"json", 'j', 0, G_OPTION_ARG_NONE, &is_json, "JSON lines; the last is the summary", NULL},
        {NULL}};
    int status;

    if (!cli_parse(self, entries, 2, 2, &argc, &argv, &status))
        return status;
    g_autofree char *uri = NULL;
    if (g_str_has_prefix(argv[2], "file:") || g_str_has_prefix(argv[2], "exec:") ||
        g_str_has_prefix(argv[2], "fd:")) {
        uri = g_strdup(argv[2]);
    } else {
        g_autofree char *path = g_canonicalize_filename(argv[2], NULL);
        uri = g_strconcat("file:", path, NULL);
    }
    return start_and_follow(argv[1], "snapshot-to", uri, NULL, is_live, is_json, NULL);
}

int cmd_watch(const struct subcommand *self, int argc, char **argv)
{
    gboolean is_json = FALSE;
    const GOptionEntry entries[] = {
        {"json", 'j', 0, G_OPTION_ARG_NONE, &is_json, "JSON lines; the last is the summary", NULL},
        {NULL}};
    int status;

    if (!cli_parse(self, entries, 1, 1, &argc, &argv, &status))
        return status;
    return start_and_follow(argv[1], NULL, NULL, NULL, false, is_json, NULL);
}

int cmd_recover(const struct subcommand *self, int argc, char **argv)
{
    gboolean is_json = FALSE;
    const GOptionEntry entries[] = {
        {"json", 'j', 0, G_OPTION_ARG_NONE, &is_json, "JSON lines; the last is the summary", NULL},
        {NULL}};
    int status;

    if (!cli_parse(self, entries, 1, 2, &argc, &argv, &status))
        return status;
    return start_and_follow(argv[1], "migrate-recover", argc > 2 ? argv[2] : NULL, NULL, false,
                            is_json, NULL);
}
