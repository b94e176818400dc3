/* SPDX-License-Identifier: MIT */
/*
 * The fault matrix: every record of a migration, on each channel and in each direction, with each
 * fault at it.
 *
 * The records are enumerated from undisturbed runs, and for the source's question in doubt from
 * runs that lose COMMIT or RUNNING. Each case is played by two processes that can really be killed,
 * with a referee between them (referee.h). It prints the matrix and every case that cannot be
 * explained, and fails if there is one.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "referee.h"

#define MAX_FAULTS 2
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOWNESS 5
#else
#define SLOWNESS 1
#endif
#define N_TRIES 4 /* to reach a record that the clock makes, and with a busy machine */

struct test_case {
    struct fault faults[MAX_FAULTS];
    unsigned n_faults;
    bool is_idle;
};

struct options {
    unsigned n_jobs, every, only_kind, has_only_kind;
    const char *only_type;
    struct referee referee;
};

static const struct {
    const char *name, *column;
} kinds[FAULT_N_KINDS] = {
    [FAULT_KILL_SOURCE] = {"kill the source", "kS"},
    [FAULT_KILL_SOURCE_AFTER] = {"kill the source after it", "kS+"},
    [FAULT_KILL_DESTINATION] = {"kill the destination", "kD"},
    [FAULT_KILL_DESTINATION_AFTER] = {"kill the destination after it", "kD+"},
    [FAULT_CUT] = {"cut the connection", "cut"},
    [FAULT_CUT_WITHIN] = {"cut the connection within it", "cut/"},
    [FAULT_CUT_AFTER] = {"cut the connection after it", "cut+"},
    [FAULT_STALL] = {"stall its direction", "sil"},
    [FAULT_STALL_LINK] = {"stall the whole link", "sil*"},
    [FAULT_FLIP_HEADER] = {"flip a bit of the header", "bitH"},
    [FAULT_FLIP_PAYLOAD] = {"flip a bit of the payload", "bitP"},
    [FAULT_FLIP_BULK] = {"flip a bit of the bulk", "bitB"},
};

/* ---- enumerating ------------------------------------------------------------------------------
 */

static bool is_same_place(const struct place *a, const struct place *b)
{
    return a->direction == b->direction && a->nth == b->nth &&
           strcmp(a->channel, b->channel) == 0 && strcmp(a->type, b->type) == 0;
}

static void add_places(GArray *places, const GArray *more, const char *prefix)
{
    for (guint i = 0; i < more->len; i++) {
        const struct place *place = &g_array_index(more, struct place, i);
        bool is_known = prefix && !g_str_has_prefix(place->channel, prefix);

        for (guint j = 0; j < places->len && !is_known; j++)
            is_known = is_same_place(&g_array_index(places, struct place, j), place);
        if (!is_known)
            g_array_append_val(places, *place);
    }
}

/* The records of an undisturbed run, or with prefix those of such channels after a first fault. */
static GArray *record_places(const struct options *options, const struct fault *first,
                             const char *prefix)
{
    GArray *places = g_array_new(FALSE, TRUE, sizeof(struct place));

    for (unsigned i = 0; i < (first ? 1 : 2); i++) {
        GArray *run = g_array_new(FALSE, TRUE, sizeof(struct place));
        struct fault fault = first ? *first : (struct fault){0};
        struct case_result result;

        referee_play(&options->referee, &fault, first ? 1 : 0, run, &result);
        if (result.error[0]) {
            fprintf(stderr, "recording: %s\n", result.error);
            exit(1);
        }
        add_places(places, run, prefix);
        g_array_unref(run);
    }
    return places;
}

/* The first KEEPALIVE of each channel and direction, of a run that idles. */
static GArray *record_idle_places(const struct options *options)
{
    struct options idle = *options;
    GArray *places;

    idle.referee.is_idle = true;
    places = record_places(&idle, NULL, NULL);
    for (guint i = 0; i < places->len;) {
        const struct place *place = &g_array_index(places, struct place, i);

        if (place->nth == 0 && strcmp(place->type, "KEEPALIVE") == 0)
            i++;
        else
            g_array_remove_index(places, i);
    }
    return places;
}

static bool is_possible(enum fault_kind kind, const struct place *place)
{
    if (kind == FAULT_FLIP_PAYLOAD)
        return place->payload_bytes > 0;
    if (kind == FAULT_FLIP_BULK)
        return place->bulk_bytes > 0;
    return true;
}

static void add_cases(const struct options *options, GArray *cases, const GArray *places,
                      const struct fault *first, bool is_idle)
{
    for (guint i = 0; i < places->len; i++) {
        const struct place *place = &g_array_index(places, struct place, i);

        for (unsigned kind = 0; kind < FAULT_N_KINDS; kind++) {
            struct test_case c = {.n_faults = first ? 2 : 1, .is_idle = is_idle};

            if (!is_possible((enum fault_kind)kind, place) ||
                (options->has_only_kind && options->only_kind != kind) ||
                (options->only_type && strcmp(options->only_type, place->type) != 0))
                continue;
            if (first)
                c.faults[0] = *first;
            c.faults[c.n_faults - 1] = (struct fault){
                .place = *place, .kind = (enum fault_kind)kind, .salt = i * 7 + kind};
            g_array_append_val(cases, c);
        }
    }
}

static GArray *enumerate(const struct options *options, unsigned *n_places)
{
    static const struct fault doubts[] = {
        {.place = {.channel = "control", .direction = RELAY_OUT, .type = "COMMIT"},
         .kind = FAULT_CUT},
        {.place = {.channel = "control", .direction = RELAY_IN, .type = "RUNNING"},
         .kind = FAULT_CUT},
    };
    GArray *cases = g_array_new(FALSE, TRUE, sizeof(struct test_case));
    GArray *places = record_places(options, NULL, NULL);

    *n_places = places->len;
    add_cases(options, cases, places, NULL, false);
    g_array_unref(places);
    places = record_idle_places(options);
    *n_places += places->len;
    add_cases(options, cases, places, NULL, true);
    g_array_unref(places);
    for (unsigned i = 0; i < G_N_ELEMENTS(doubts); i++) {
        places = record_places(options, &doubts[i], "control+");
        *n_places += places->len;
        add_cases(options, cases, places, &doubts[i], false);
        g_array_unref(places);
    }
    return cases;
}

/* ---- playing ----------------------------------------------------------------------------------
 */

/* Who reads damaged bytes knows it at once, and the other direction is whole: both must name it. */
static void judge_reasons(const struct test_case *c, struct case_result *result)
{
    const struct fault *fault = &c->faults[c->n_faults - 1];
    bool is_flip = fault->kind == FAULT_FLIP_HEADER || fault->kind == FAULT_FLIP_PAYLOAD ||
                   fault->kind == FAULT_FLIP_BULK;

    result->is_torn = is_flip && result->wants_reason && !result->has_reason;
    if (result->is_torn && !result->error[0])
        g_snprintf(result->error, sizeof result->error, "two reasons: %s", result->two_reasons);
}

static void play_case(const struct options *options, unsigned worker, const struct test_case *c,
                      struct case_result *result)
{
    struct referee referee = options->referee;

    referee.number = worker + 1;
    referee.is_idle = c->is_idle;
    for (unsigned i = 0; i < N_TRIES; i++) {
        struct fault faults[MAX_FAULTS];

        memcpy(faults, c->faults, sizeof faults);
        referee_play(&referee, faults, c->n_faults, NULL, result);
        judge_reasons(c, result);
        result->n_replays = i;
        /* A reason is waited for, but not for ever: it may come too late for once. */
        if (result->outcome != OUTCOME_UNREACHED && !result->is_too_slow && !result->is_torn)
            break;
        if (result->is_too_slow)
            referee.silence_ms *= 2;
    }
}

static void play_all(const struct options *options, const GArray *cases,
                     struct case_result *results)
{
    _Atomic unsigned *next =
        mmap(NULL, sizeof *next, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    for (unsigned worker = 0; worker < options->n_jobs; worker++) {
        if (fork() == 0) {
            for (unsigned i; (i = atomic_fetch_add(next, options->every)) < cases->len;)
                play_case(options, worker, &g_array_index(cases, struct test_case, i), &results[i]);
            _exit(0);
        }
    }
    for (unsigned worker = 0; worker < options->n_jobs; worker++)
        wait(NULL);
    munmap((void *)next, sizeof *next);
}

/* ---- reporting --------------------------------------------------------------------------------
 */

static void describe(const struct test_case *c, char *text, size_t size)
{
    const struct fault *fault = &c->faults[c->n_faults - 1];

    g_snprintf(text, size, "%s%s %s %s #%u: %s", c->n_faults > 1 ? c->faults[0].place.type : "",
               c->n_faults > 1 ? " lost, then" : "", fault->place.channel, fault->place.type,
               fault->place.nth, kinds[fault->kind].name);
}

/* A row of the matrix: one channel, direction and type. */
static void row_name(const struct test_case *c, char *text, size_t size)
{
    const struct fault *fault = &c->faults[c->n_faults - 1];

    g_snprintf(text, size, "%s%s %s %s", c->n_faults > 1 ? c->faults[0].place.type : "",
               c->n_faults > 1 ? "!" : "", fault->place.channel,
               fault->place.direction == RELAY_OUT ? ">" : "<");
    g_snprintf(text + strlen(text), size - strlen(text), " %s", fault->place.type);
}

static void cell_add(GString *cell, char letter)
{
    if (!strchr(cell->str, letter))
        g_string_append_c(cell, letter);
}

static void print_rows(const GArray *cases, const struct case_result *results)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);

    printf("%-36s %4s", "record", "n");
    for (unsigned kind = 0; kind < FAULT_N_KINDS; kind++)
        printf(" %-4s", kinds[kind].column);
    printf("\n");
    for (guint i = 0; i < cases->len; i++) {
        char name[96];
        GString *cells[FAULT_N_KINDS];
        unsigned n = 0;

        row_name(&g_array_index(cases, struct test_case, i), name, sizeof name);
        if (g_ptr_array_find_with_equal_func(names, name, g_str_equal, NULL))
            continue;
        g_ptr_array_add(names, g_strdup(name));
        for (unsigned kind = 0; kind < FAULT_N_KINDS; kind++)
            cells[kind] = g_string_new(NULL);
        for (guint j = i; j < cases->len; j++) {
            const struct test_case *c = &g_array_index(cases, struct test_case, j);
            char other[96];

            row_name(c, other, sizeof other);
            if (strcmp(other, name) != 0 || (!results[j].outcome && !results[j].error[0]))
                continue;
            n++;
            cell_add(cells[c->faults[c->n_faults - 1].kind],
                     results[j].error[0] ? '!' : outcome_letter(results[j].outcome));
        }
        printf("%-36s %4u", name, n);
        for (unsigned kind = 0; kind < FAULT_N_KINDS; kind++) {
            printf(" %-4s", cells[kind]->str);
            g_string_free(cells[kind], TRUE);
        }
        printf("\n");
    }
}

static unsigned print_report(const GArray *cases, const struct case_result *results)
{
    unsigned counts[OUTCOME_N] = {0}, n = 0, n_bad = 0, n_next = 0, n_resolved = 0, n_replays = 0;
    unsigned n_reasons[FAULT_N_KINDS] = {0}, n_wanted[FAULT_N_KINDS] = {0};
    uint32_t worst_ms = 0;

    print_rows(cases, results);
    for (guint i = 0; i < cases->len; i++) {
        const struct case_result *r = &results[i];
        const struct test_case *c;
        enum fault_kind kind;
        char text[256];

        if (!r->outcome && !r->error[0])
            continue;
        n++;
        counts[r->outcome]++;
        n_next += r->has_next;
        n_resolved += r->is_resolved;
        n_replays += r->n_replays;
        c = &g_array_index(cases, struct test_case, i);
        kind = c->faults[c->n_faults - 1].kind;
        n_wanted[kind] += r->wants_reason;
        n_reasons[kind] += r->has_reason;
        worst_ms = MAX(worst_ms, r->n_ms);
        if (r->error[0]) {
            describe(&g_array_index(cases, struct test_case, i), text, sizeof text);
            printf("UNEXPLAINED %s: %s\n", text, r->error);
            n_bad++;
        }
        if (r->two_reasons[0] && getenv("MATRIX_REASONS")) {
            describe(&g_array_index(cases, struct test_case, i), text, sizeof text);
            printf("REASONS %s: %s\n", text, r->two_reasons);
        }
    }
    printf("\n");
    for (unsigned outcome = 1; outcome < OUTCOME_N; outcome++)
        printf("%c %5u  %s\n", outcome_letter((enum outcome)outcome), counts[outcome],
               outcome_text((enum outcome)outcome));
    printf("both sides named the same side and reason:");
    for (unsigned kind = 0; kind < FAULT_N_KINDS; kind++)
        if (n_wanted[kind])
            printf(" %s %u of %u", kinds[kind].column, n_reasons[kind], n_wanted[kind]);
    printf("\n%u cases, %u unexplained; %u next migrations succeeded, %u words of an operator; "
           "%u played again; slowest case %u ms\n",
           n, n_bad, n_next, n_resolved, n_replays, worst_ms);
    return n_bad;
}

static bool parse(struct options *options, int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned number = (unsigned)strtoul(argv[i + 1], NULL, 10);

        if (strcmp(argv[i], "--jobs") == 0)
            options->n_jobs = MAX(number, 1);
        else if (strcmp(argv[i], "--every") == 0)
            options->every = MAX(number, 1);
        else if (strcmp(argv[i], "--silence-ms") == 0)
            options->referee.silence_ms = number;
        else if (strcmp(argv[i], "--patience-ms") == 0)
            options->referee.patience_ms = number;
        else if (strcmp(argv[i], "--type") == 0)
            options->only_type = argv[i + 1];
        else if (strcmp(argv[i], "--kind") == 0)
            options->only_kind = number, options->has_only_kind = true;
        else
            return false;
    }
    return argc % 2 == 1;
}

int main(int argc, char **argv)
{
    struct options options = {
        .n_jobs = 4, .every = 1, .referee = {.silence_ms = 400 * SLOWNESS, .patience_ms = 60000}};
    g_autofree char *directory = g_dir_make_tmp("godwit-matrix-XXXXXX", NULL);
    struct case_result *results;
    unsigned n_places = 0, n_bad;
    uint64_t start_ns = clock_mono_ns();
    GArray *cases;

    if (!parse(&options, argc, argv)) {
        fprintf(stderr,
                "usage: %s [--jobs N] [--every K] [--silence-ms N] [--patience-ms N] "
                "[--type RECORD] [--kind 0..%d]\n",
                argv[0], FAULT_N_KINDS - 1);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    options.referee.directory = directory;
    cases = enumerate(&options, &n_places);
    results = mmap(NULL, sizeof *results * (cases->len + 1), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    printf("%u records, %u cases\n", n_places, cases->len);
    play_all(&options, cases, results);
    n_bad = print_report(cases, results);
    printf("%.1f s with %u at a time\n", (double)(clock_mono_ns() - start_ns) / 1e9,
           options.n_jobs);
    g_array_unref(cases);
    {
        g_autofree char *command = g_strdup_printf("rm -rf '%s'", directory);

        if (system(command) != 0)
            return 1;
    }
    return n_bad ? 1 : 0;
}
