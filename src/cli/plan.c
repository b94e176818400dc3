/* SPDX-License-Identifier: MIT */
/* godwit plan: asks a VM what a move would be like, waits for it, and shows it. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/budgets.h"
#include "cli/cli.h"
#include "cli/client.h"

#define POLL_MS 100
#define MIB     (1024.0 * 1024.0)
#define MS      1e6
#define CELL    23

/* The only thing a signal handler may touch. */
static volatile sig_atomic_t is_interrupted;

static void on_interrupt(int signal_number)
{
    is_interrupted = 1;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* ---- asking -----------------------------------------------------------------------------------
 */

struct options {
    char *max_blackout, *max_bandwidth, *max_time, *max_slowdown, *mode, *sample;
    gboolean forbids_postcopy, is_json;
};

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

/* NULL: something was wrong (and said). */
static json_t *plan_args(const char *uri, const struct options *options)
{
    json_t *args = json_pack("{s:s}", "uri", uri);

    if (options->forbids_postcopy)
        json_object_set_new(args, "allow-postcopy", json_false());
    if (budget_put_duration(args, "downtime-limit", "max-blackout", options->max_blackout) &&
        budget_put_duration(args, "max-time", "max-time", options->max_time) &&
        budget_put_duration(args, "sample-time", "sample", options->sample) &&
        budget_put_rate(args, "max-bandwidth", "max-bandwidth", options->max_bandwidth) &&
        budget_put_percent(args, "max-slowdown", "max-slowdown", options->max_slowdown) &&
        put_mode(args, options->mode))
        return args;
    json_decref(args);
    return NULL;
}

static void show_progress(const json_t *info, bool is_tty)
{
    double share = number(info, "elapsed-ns") / MAX(number(info, "sample-ns"), 1);

    if (!is_tty)
        return;
    if (number(info, "elapsed-ns") > 0)
        printf("\rwatching the guest: %3.0f %%\033[K", MIN(share, 1) * 100);
    else
        printf("\rmeasuring the link\033[K");
    fflush(stdout);
}

/* The plan when it is final; NULL with error. */
static json_t *await_plan(struct client *client, bool is_tty, GError **error)
{
    bool has_cancelled = false;

    for (;;) {
        json_t *info = client_command(client, "query-plan", NULL, error);

        if (!info || strcmp(text_of(info, "status"), "sampling") != 0) {
            if (is_tty)
                printf("\r\033[K");
            return info;
        }
        show_progress(info, is_tty);
        json_decref(info);
        if (is_interrupted && !has_cancelled) {
            json_decref(client_command(client, "plan-cancel", NULL, NULL));
            has_cancelled = true;
        }
        client_wait(client, POLL_MS);
    }
}

/* ---- showing ----------------------------------------------------------------------------------
 */

static void print_guest(const json_t *guest)
{
    printf("Guest        %.0f MiB of memory, %.0f MiB used, about %.0f MiB of it only zeroes\n",
           number(guest, "ram-bytes") / MIB, number(guest, "used-bytes") / MIB,
           number(guest, "zero-bytes") / MIB);
    printf("             dirties %.1f MiB in a second; %.1f MiB is written again and again\n",
           number(guest, "dirty-rate") / MIB, number(guest, "hot-bytes") / MIB);
    if (json_object_get(guest, "period-ns"))
        printf(
            "             with a rhythm of %.2f s, in whose quiet part it dirties %.0f %% of its "
            "mean\n",
            number(guest, "period-ns") / 1e9, number(guest, "quiet-permille") / 10);
}

static void print_link(const json_t *info)
{
    const json_t *link = json_object_get(info, "link");
    const json_t *rate = json_object_get(link, "bandwidth");

    if (rate)
        printf("Link         %.1f MiB/s (%.1f to %.1f) over one channel, round trip %.2f ms\n",
               number(rate, "expected") / MIB, number(rate, "low") / MIB,
               number(rate, "high") / MIB, number(link, "round-trip-ns") / MS);
    if (*text_of(link, "note"))
        printf("%-12s %s\n", rate ? "" : "Link", text_of(link, "note"));
    if (json_object_get(info, "accepted")) {
        size_t i;
        const json_t *finding;

        printf("Destination  would %s this guest\n",
               json_is_true(json_object_get(info, "accepted")) ? "accept" : "refuse");
        json_array_foreach(json_object_get(info, "findings"), i, finding)
            printf("             - %s\n", json_string_value(finding));
    }
}

/* "8.6 (8.3 to 9.1)": what never comes to an end has no number. */
static char *cell(const json_t *mode, const char *key, double unit)
{
    const json_t *range = json_object_get(mode, key);
    bool has_end = !json_is_null(json_object_get(range, "high"));

    if (json_is_null(json_object_get(range, "expected")))
        return g_strdup("never");
    if (!has_end)
        return g_strdup_printf("%.1f (%.1f to never)", number(range, "expected") / unit,
                               number(range, "low") / unit);
    return g_strdup_printf("%.1f (%.1f to %.1f)", number(range, "expected") / unit,
                           number(range, "low") / unit, number(range, "high") / unit);
}

static void print_mode(const json_t *mode, const char *chosen)
{
    g_autofree char *total = cell(mode, "total-ns", 1e9);
    g_autofree char *blackout = cell(mode, "blackout-ns", MS);
    g_autofree char *bytes = cell(mode, "bytes", MIB);
    g_autofree char *slowdown = cell(mode, "slowdown-permille", 10);
    bool is_met = json_is_true(json_object_get(mode, "meets-budgets"));

    printf("%s %-9s ", strcmp(text_of(mode, "mode"), chosen) == 0 ? "*" : " ",
           text_of(mode, "mode"));
    if (json_is_true(json_object_get(mode, "possible")))
        printf("%-*s %-*s %-*s %-*s %s%s\n", CELL, total, CELL, blackout, CELL, bytes, CELL,
               slowdown, is_met ? "met" : "not met: ", is_met ? "" : text_of(mode, "why"));
    else
        printf("not possible: %s\n", text_of(mode, "why"));
}

static void print_plan(const json_t *info)
{
    const json_t *modes = json_object_get(info, "modes");
    const json_t *mode;
    size_t i;

    print_guest(json_object_get(info, "guest"));
    print_link(info);
    if (modes)
        printf("\n  %-9s %-*s %-*s %-*s %-*s %s\n", "mode", CELL, "total, s", CELL, "blackout, ms",
               CELL, "on the link, MiB", CELL, "guest slower by, %", "budgets");
    json_array_foreach(modes, i, mode) print_mode(mode, text_of(info, "chosen"));
    printf("%s%s\n", modes ? "\n" : "", text_of(info, "reason"));
}

static int exit_status_of(const json_t *info)
{
    if (strcmp(text_of(info, "status"), "cancelled") == 0)
        return CLI_CANCELLED;
    if (json_is_false(json_object_get(info, "accepted")))
        return CLI_REFUSED;
    return json_is_true(json_object_get(info, "meets-budgets")) ? CLI_OK : CLI_FAILED;
}

static int show(const json_t *info, bool is_json)
{
    if (is_json) {
        json_dumpf(info, stdout, JSON_COMPACT);
        putchar('\n');
    } else if (strcmp(text_of(info, "status"), "done") == 0) {
        print_plan(info);
    } else {
        cli_complain("plan: %s", *text_of(info, "error-desc") ? text_of(info, "error-desc")
                                                              : text_of(info, "status"));
    }
    fflush(stdout);
    return exit_status_of(info);
}

static int plan_and_show(const char *vm, json_t *args, bool is_json)
{
    g_autoptr(GError) error = NULL;
    const struct sigaction action = {.sa_handler = on_interrupt};
    int status;
    struct client *client = client_open(vm, &status, &error);
    json_t *info = NULL, *answer;

    if (!client) {
        json_decref(args);
        return cli_fail(status, "%s", error->message);
    }
    sigaction(SIGINT, &action, NULL);
    answer = client_command(client, "plan", args, &error);
    if (answer)
        info = await_plan(client, !is_json && isatty(STDOUT_FILENO), &error);
    client_close(client);
    json_decref(answer);
    if (!info)
        return cli_fail(CLI_FAILED, "%s", error->message);
    status = show(info, is_json);
    json_decref(info);
    return status;
}

int cmd_plan(const struct subcommand *self, int argc, char **argv)
{
    struct options options = {0};
    const GOptionEntry entries[] = {
        {"max-blackout", 0, 0, G_OPTION_ARG_STRING, &options.max_blackout,
         "Longest blackout (as migrate's)", "TIME"},
        {"max-time", 0, 0, G_OPTION_ARG_STRING, &options.max_time, "Longest time (as migrate's)",
         "TIME"},
        {"max-bandwidth", 0, 0, G_OPTION_ARG_STRING, &options.max_bandwidth,
         "Most bytes per second (as migrate's)", "RATE"},
        {"max-slowdown", 0, 0, G_OPTION_ARG_STRING, &options.max_slowdown,
         "By how much vCPUs may be slowed down (0%)", "SHARE"},
        {"mode", 0, 0, G_OPTION_ARG_STRING, &options.mode, "auto, precopy, postcopy (auto)",
         "MODE"},
        {"no-postcopy", 0, 0, G_OPTION_ARG_NONE, &options.forbids_postcopy,
         "The loss of one host must not be the loss of the guest", NULL},
        {"sample", 0, 0, G_OPTION_ARG_STRING, &options.sample, "How long the guest is watched (3s)",
         "TIME"},
        {"json", 'j', 0, G_OPTION_ARG_NONE, &options.is_json, "One JSON object", NULL},
        {NULL}};
    json_t *args = NULL;
    int status = CLI_USAGE;

    if (cli_parse(self, entries, 2, 2, &argc, &argv, &status)) {
        args = plan_args(argv[2], &options);
        status = args ? plan_and_show(argv[1], args, options.is_json) : CLI_USAGE;
    }
    g_free(options.max_blackout);
    g_free(options.max_bandwidth);
    g_free(options.max_time);
    g_free(options.max_slowdown);
    g_free(options.mode);
    g_free(options.sample);
    return status;
}
