/* SPDX-License-Identifier: MIT */
/* How a migration is shown. */
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <glib.h>

#include "cli/cli.h"

#define BAR_CELLS  20
#define MIB        (1024.0 * 1024.0)
#define PAGE_BYTES 4096.0
#define MS         1e6

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

void progress_init(struct progress *progress, bool is_json)
{
    *progress = (struct progress){.is_json = is_json, .is_tty = !is_json && isatty(STDOUT_FILENO)};
}

void progress_break(struct progress *progress)
{
    if (progress->has_line)
        putchar('\n');
    progress->has_line = false;
    fflush(stdout);
}

/* What is left in post-copy, in bytes: at the source what has not been sent since the guest moved,
 * at the destination what has not come. -1: it is not in post-copy. */
static double postcopy_left(const json_t *info)
{
    const json_t *pages = json_object_get(info, "pages-left");

    if (!pages)
        pages = json_object_get(info, "pages-missing");
    return pages ? json_number_value(pages) * PAGE_BYTES : -1;
}

/* Share of guest memory that the destination has, 0 to 1. */
static double share_done(const json_t *info)
{
    const json_t *ram = json_object_get(info, "ram");
    double total = number(ram, "total");
    double remaining = number(ram, "remaining");

    if (postcopy_left(info) >= 0)
        remaining = postcopy_left(info);
    if (total <= 0 || number(info, "round") < 1)
        return 0;
    return remaining < total ? 1.0 - remaining / total : 0;
}

static void put_bar(GString *line, double share)
{
    int full = (int)(share * BAR_CELLS + 0.5);

    g_string_append_c(line, '[');
    for (int i = 0; i < BAR_CELLS; i++)
        g_string_append_c(line, i < full ? '#' : '.');
    g_string_append_printf(line, "] %3.0f%%", share * 100);
}

static void put_time_left(GString *line, const json_t *info)
{
    double low = number(info, "expected-left-low-ns"), high = number(info, "expected-left-high-ns");

    if (!json_object_get(info, "expected-left-ns"))
        return;
    g_string_append_printf(line, "  left %.1f s", number(info, "expected-left-ns") / 1e9);
    if (json_object_get(info, "expected-left-high-ns") && high - low > 1e8)
        g_string_append_printf(line, " (%.1f to %.1f)", low / 1e9, high / 1e9);
}

/* What the guest has waited for is known at the destination, what it has asked for at both. */
static void put_postcopy(GString *line, const json_t *info)
{
    const json_t *faults = json_object_get(info, "faults");
    const json_t *requests = json_object_get(json_object_get(info, "ram"), "postcopy-requests");

    g_string_append_printf(line, "  %s  %.0f pages left", text_of(info, "state"),
                           postcopy_left(info) / PAGE_BYTES);
    if (requests)
        g_string_append_printf(line, "  %.0f asked for", json_number_value(requests));
    if (faults)
        g_string_append_printf(line, "  %.0f faults, 99 %% within %.1f ms", number(faults, "count"),
                               number(faults, "p99-ns") / MS);
    if (number(info, "bandwidth") > 0)
        g_string_append_printf(line, "  %.1f MiB/s", number(info, "bandwidth") / MIB);
    put_time_left(line, info);
}

/* What the user can do about it, or NULL. */
static const char *advice_on(const json_t *info)
{
    static const struct {
        const char *state, *role, *advice;
    } table[] = {
        {"postcopy-paused", "source",
         "no link, trying again; godwit recover VM [URI] tries now, or another way; "
         "godwit resolve VM release gives up what the guest still lacks"},
        {"postcopy-paused", "destination",
         "no link: who needs a missing page waits; godwit recover VM URI listens elsewhere"},
        {"reconnecting", "source",
         "no link, trying again; the guest runs here; godwit cancel VM gives up"},
        {"waiting", "destination", "no link: what has come is kept for a while"},
    };

    if (strcmp(text_of(info, "status"), "pre-switchover") == 0)
        return "waiting: godwit switchover VM lets it go on, godwit cancel VM gives up";
    for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
        if (strcmp(table[i].state, text_of(info, "state")) == 0 &&
            strcmp(table[i].role, text_of(info, "role")) == 0)
            return table[i].advice;
    return NULL;
}

static void put_facts(GString *line, const json_t *info)
{
    g_string_append_printf(line, "  %s  round %.0f  %.1f MiB/s  dirty %.1f MiB/s",
                           text_of(info, "state"), number(info, "round"),
                           number(info, "bandwidth") / MIB, number(info, "dirty-rate") / MIB);
    if (number(info, "throttled-vcpus") > 0)
        g_string_append_printf(
            line, "  throttle %.0f%% (%.0f of %zu vcpus)", number(info, "cpu-throttle-percentage"),
            number(info, "throttled-vcpus"), json_array_size(json_object_get(info, "vcpus")));
    if (number(info, "predicted-blackout-ns") > 0)
        g_string_append_printf(line, "  blackout ~%.1f ms",
                               number(info, "predicted-blackout-ns") / MS);
    if (json_object_get(info, "expected-left-ns"))
        put_time_left(line, info);
    else if (json_object_get(info, "bandwidth-lack"))
        g_string_append_printf(line, "  not converging: the link lacks %.1f MiB/s",
                               number(info, "bandwidth-lack") / MIB);
    else if (!json_object_get(info, "expected-left-ns") && number(info, "round") > 1 &&
             !json_is_true(json_object_get(info, "converging")))
        g_string_append(line, "  not converging: the blackout budget is too small");
    if (number(info, "round") > 1 && !json_is_true(json_object_get(info, "converging")) &&
        *text_of(info, "postcopy-lack"))
        g_string_append_printf(line, "; no post-copy: %s", text_of(info, "postcopy-lack"));
}

char *progress_line(const json_t *info)
{
    g_autoptr(GString) line = g_string_new(NULL);
    const char *advice = advice_on(info);

    put_bar(line, share_done(info));
    if (postcopy_left(info) >= 0)
        put_postcopy(line, info);
    else if (advice)
        g_string_append_printf(line, "  %s  round %.0f", text_of(info, "state"),
                               number(info, "round"));
    else
        put_facts(line, info);
    if (advice)
        g_string_append_printf(line, "  %s", advice);
    return g_string_free(g_steal_pointer(&line), FALSE);
}

void progress_show(struct progress *progress, const json_t *info)
{
    if (progress->is_json) {
        json_t *out = json_pack("{s:O}", "progress", (json_t *)info);
        json_dumpf(out, stdout, CLI_JSON_FLAGS);
        json_decref(out);
        putchar('\n');
        fflush(stdout);
        return;
    }
    g_autofree char *line = progress_line(info);
    if (progress->is_tty) {
        printf("\r%s\033[K", line);
        progress->has_line = true;
    } else {
        puts(line);
    }
    fflush(stdout);
}

/* ---- the end --------------------------------------------------------------------------------- */

/* The newest attempt of the ledger, or NULL. */
static const json_t *last_attempt(const json_t *ledger)
{
    const json_t *attempts = json_object_get(ledger, "attempts");
    size_t n = json_array_size(attempts);
    return n ? json_array_get(attempts, n - 1) : NULL;
}

static void print_json(const json_t *info, const json_t *ledger)
{
    const json_t *attempt = last_attempt(ledger);
    const json_t *ram = json_object_get(info, "ram");
    json_t *out = json_pack(
        "{s:s, s:s, s:f, s:I, s:I, s:f, s:f, s:I}", "status", text_of(info, "status"), "state",
        text_of(info, "state"), "total_ms", number(info, "total-ns") / MS, "rounds",
        (json_int_t)number(info, "round"), "bytes", (json_int_t)number(ram, "transferred"),
        "predicted_blackout_ms",
        number(attempt ? attempt : info, attempt ? "predicted-ns" : "predicted-blackout-ns") / MS,
        "blackout_ms", number(attempt ? attempt : info, "blackout-ns") / MS, "failed_attempts",
        (json_int_t)number(info, "failed-attempts"));

    json_object_set(out, "migration", (json_t *)info);
    if (ledger)
        json_object_set(out, "ledger", (json_t *)ledger);
    json_dumpf(out, stdout, CLI_JSON_FLAGS);
    json_decref(out);
    putchar('\n');
}

static void print_ledger(const json_t *attempt)
{
    size_t i;
    json_t *phase;
    double sum = 0;

    printf("\nBlackout ledger (times in ms since the guest stopped)%s%s\n",
           *text_of(attempt, "reason") ? ": " : "", text_of(attempt, "reason"));
    printf("  %10s %10s  %-12s %s\n", "start", "length", "side", "phase");
    json_array_foreach(json_object_get(attempt, "phases"), i, phase)
    {
        int depth = (int)number(phase, "depth");
        printf("  %10.3f %10.3f  %-12s %*s%s\n", number(phase, "start-ns") / MS,
               number(phase, "length-ns") / MS, text_of(phase, "side"), 2 * depth, "",
               text_of(phase, "name"));
        if (depth == 0)
            sum += number(phase, "length-ns");
    }
    printf("  %10s %10.3f  sum (predicted %.3f; hosts' clocks agree within %.3f)\n", "", sum / MS,
           number(attempt, "predicted-ns") / MS, number(attempt, "clock-error-ns") / MS);
}

static void print_encoded(const char *name, const json_t *counts, const char *rate)
{
    if (number(counts, "pages") > 0)
        printf("%s: %.0f pages, %.1f times smaller, %.0f ms of work\n", name,
               number(counts, "pages"), number(counts, rate), number(counts, "work-ns") / MS);
}

static const char *plural(double n)
{
    return n == 1 ? "" : "s";
}

/* A snapshot has no channels to speak of, and what ended before its first page has used none. */
static void print_cost(const json_t *info)
{
    double n_channels = number(info, "channels");

    if (json_is_true(json_object_get(info, "snapshot")) || !json_object_get(info, "channels") ||
        number(info, "round") < 1)
        return;
    if (n_channels > 0)
        printf("%.0f page channel%s", n_channels, plural(n_channels));
    else
        printf("1 channel for everything: this kind of URI can have no more");
    printf(", %.2f s of CPU time here (%.2f s per GiB)", number(info, "cpu-ns") / 1e9,
           number(info, "cpu-seconds-per-gib"));
    if (json_object_get(info, "peer-cpu-ns"))
        printf(", %.2f s at the destination", number(info, "peer-cpu-ns") / 1e9);
    putchar('\n');
}

static void print_throttle(const json_t *info)
{
    size_t i;
    json_t *vcpu;

    if (number(info, "throttled-rounds") == 0)
        return;
    printf("throttled for %.0f round(s):", number(info, "throttled-rounds"));
    json_array_foreach(json_object_get(info, "vcpus"), i, vcpu)
    {
        if (number(vcpu, "most-throttle") > 0)
            printf(" vcpu %zu by up to %.1f%%, %.0f ms of its time;", i,
                   number(vcpu, "most-throttle"), number(vcpu, "throttled-ns") / MS);
    }
    printf(" %.0f ms in all\n", number(info, "throttled-ns") / MS);
}

/* Of ns: "4.5 (4.3 to 4.8) ms", "never". */
static void put_range(GString *text, const json_t *range)
{
    if (json_is_null(json_object_get(range, "expected"))) {
        g_string_append(text, "never");
        return;
    }
    g_string_append_printf(text, "%.1f (%.1f to ", number(range, "expected") / MS,
                           number(range, "low") / MS);
    if (json_is_null(json_object_get(range, "high")))
        g_string_append(text, "never) ms");
    else
        g_string_append_printf(text, "%.1f) ms", number(range, "high") / MS);
}

/* What was forecast, beside what came of it. */
static void print_forecast(const json_t *info)
{
    const json_t *forecast = json_object_get(info, "forecast");
    g_autoptr(GString) total = g_string_new(NULL);
    g_autoptr(GString) blackout = g_string_new(NULL);

    if (!forecast || strcmp(text_of(info, "state"), "completed") != 0)
        return;
    put_range(total, json_object_get(forecast, "total-ns"));
    put_range(blackout, json_object_get(forecast, "blackout-ns"));
    printf("forecast before round %.0f: %s in all, blackout %s; outcome: %.1f ms, %.1f ms\n",
           number(forecast, "round"), total->str, blackout->str, number(info, "total-ns") / MS,
           number(info, "blackout-ns") / MS);
}

static void print_links(const json_t *info)
{
    const json_t *ram = json_object_get(info, "ram");

    if (json_is_true(json_object_get(info, "postcopy")))
        printf("post-copy: the guest moved before its memory, and had to ask for %.0f page(s)\n",
               number(ram, "postcopy-requests"));
    else if (*text_of(info, "postcopy-lack") && strcmp(text_of(info, "state"), "completed") != 0)
        printf("post-copy was not possible: %s\n", text_of(info, "postcopy-lack"));
    if (number(info, "reconnects") > 0)
        printf("%.0f lost link(s) replaced\n", number(info, "reconnects"));
}

char *progress_waits(const json_t *info)
{
    const json_t *threads = json_object_get(json_object_get(info, "faults"), "threads");
    g_autoptr(GString) table = g_string_new(NULL);
    size_t i;
    json_t *thread;

    if (json_array_size(threads) > 0)
        g_string_append_printf(table,
                               "\nvCPU waits for pages (times in ms)\n"
                               "  %-16s %8s %12s %10s %10s %10s\n",
                               "thread", "faults", "in all", "half in", "99 % in", "longest");
    json_array_foreach(threads, i, thread)
    {
        g_string_append_printf(table, "  %-16s %8.0f %12.3f %10.3f %10.3f %10.3f\n",
                               text_of(thread, "name"), number(thread, "count"),
                               number(thread, "stall-ns") / MS, number(thread, "p50-ns") / MS,
                               number(thread, "p99-ns") / MS, number(thread, "max-ns") / MS);
    }
    return g_string_free(g_steal_pointer(&table), FALSE);
}

/* What it took here to answer, and what that was for the guest there. */
static void print_waits(const json_t *info)
{
    const json_t *served = json_object_get(info, "served");
    g_autofree char *table = progress_waits(info);

    if (number(served, "count") > 0)
        printf("%.0f request%s answered here: half within %.3f ms, 99 %% within %.3f ms, the "
               "longest took %.3f ms\n",
               number(served, "count"), plural(number(served, "count")),
               number(served, "p50-ns") / MS, number(served, "p99-ns") / MS,
               number(served, "max-ns") / MS);
    fputs(table, stdout);
}

void progress_end(struct progress *progress, const json_t *info, const json_t *ledger)
{
    const json_t *ram = json_object_get(info, "ram");
    const json_t *attempt = last_attempt(ledger);

    if (progress->is_json) {
        print_json(info, ledger);
        fflush(stdout);
        return;
    }
    progress_break(progress);
    if (json_is_true(json_object_get(ram, "shared")))
        printf("The memory itself was handed over, nothing was copied\n");
    printf("%s after %.1f ms: %.0f round%s, %.1f MiB sent (%.0f pages, %.0f zero or untouched)\n",
           text_of(info, "state"), number(info, "total-ns") / MS, number(info, "round"),
           plural(number(info, "round")), number(ram, "transferred") / MIB, number(ram, "normal"),
           number(ram, "duplicate"));
    print_encoded("zstd", json_object_get(info, "compression"), "compression-rate");
    print_encoded("delta", json_object_get(info, "xbzrle-cache"), "encoding-rate");
    print_cost(info);
    print_throttle(info);
    print_forecast(info);
    print_links(info);
    if (number(info, "failed-attempts") > 0)
        printf("%.0f earlier switchover%s put off\n", number(info, "failed-attempts"),
               plural(number(info, "failed-attempts")));
    if (*text_of(info, "note"))
        printf("%s\n", text_of(info, "note"));
    print_waits(info);
    if (attempt)
        print_ledger(attempt);
    fflush(stdout);
}
