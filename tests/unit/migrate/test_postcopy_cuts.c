/* SPDX-License-Identifier: MIT */
/*
 * Every record of a post-copy: the link is cut there, and again within the recovery.
 *
 * The records are enumerated from an undisturbed run; those of a link that was resumed, from the
 * cases in which it was. The cases (cut_case.h) are played by processes, so that one that crashes
 * or hangs is a finding like any other. It prints the matrix and each case that cannot be
 * explained, and fails if there is one, or if a kind of record was never reached.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cut_case.h"
#include "memory/faults.h"

#define MAX_CASES  3000u
#define N_TRIES    4u /* to reach a record that comes or not, as threads run */
#define N_CHANCES  4u /* likewise, for one case at least of a kind */
#define AGAIN_STEP 4u /* of the records of most resumed links; of some: all */
#define MAX_JOBS   64u
#define SKIP_CODE  77 /* meson's */

struct options {
    unsigned n_jobs, every;
    const char *only_type;
};

/* The columns of the matrix. */
static const struct {
    const char *name, *text;
    enum fault_kind kind;
    enum cut_recovery recovery;
} ways[] = {
    {"cut", "the link is cut before it", FAULT_CUT_LINK, CUT_AUTO_LATE},
    {"cut/", "the link is cut within it, and replaced where it can be", FAULT_CUT_LINK_WITHIN,
     CUT_AUTO},
    {"one", "only its channel is cut", FAULT_CUT, CUT_AUTO_LATE},
    {"hand", "the link is cut before it, and replaced by users", FAULT_CUT_LINK, CUT_BY_HAND},
    {"urg", "only the urgent channel is cut, after it", FAULT_CUT_URGENT, CUT_AUTO_LATE},
};
#define N_WAYS       G_N_ELEMENTS(ways)
#define WAY_OF_BASES 1u /* whose resumed links are cut again */

static const struct {
    char letter;
    const char *text;
} outcomes[CUT_N_OUTCOMES] = {
    [CUT_NOT_PLAYED] = {'?', "not judged"},
    [CUT_STAYED] = {'S', "failed before COMMIT; goes on at the source, the next attempt succeeded"},
    [CUT_DOUBT_STAYED] = {'n', "in doubt, told \"never\"; likewise"},
    [CUT_REPLACED] = {'R', "the link was replaced before COMMIT; handed over"},
    [CUT_DOUBT_MOVED] = {'r', "in doubt, told \"running\"; then resumed, all of it came"},
    [CUT_RESUMED] = {'P', "paused in post-copy and resumed, all of it came"},
    [CUT_UNHURT] = {'u', "all that matters had passed"},
    [CUT_UNREACHED] = {'.', "the record did not come this time; handed over"},
};

struct test_case {
    struct cut_case cut;
    unsigned way; /* of the last fault */
    struct cut_result *result;
};

static struct cut_result *new_result(void)
{
    static struct cut_result *results;
    static unsigned n;

    if (!results)
        results = mmap(NULL, MAX_CASES * sizeof *results, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true(results != MAP_FAILED && n < MAX_CASES);
    return &results[n++];
}

/* ---- playing ----------------------------------------------------------------------------------
 */

static void play_here(const struct test_case *c)
{
    for (unsigned i = 0; i < N_TRIES && !c->result->error[0]; i++) {
        c->result->n_words = 0;
        cut_case_play(&c->cut, c->result);
        if (c->result->outcome != CUT_UNREACHED)
            break;
    }
}

/* What several processes share. */
struct board {
    atomic_uint next; /* case to be played */
    atomic_uint playing[MAX_JOBS];
};

/* One case after the other; ends with the last one. */
static void work(const GArray *cases, struct board *board, unsigned worker)
{
    for (unsigned i; (i = atomic_fetch_add(&board->next, 1)) < cases->len;) {
        atomic_store(&board->playing[worker], i);
        play_here(&g_array_index(cases, struct test_case, i));
    }
}

static pid_t start_worker(const GArray *cases, struct board *board, unsigned worker)
{
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        work(cases, board, worker);
        exit(0); /* in order: a sanitizer may have something to say */
    }
    g_assert_true(pid > 0);
    return pid;
}

/* False: the worker died, of this case. */
static bool note_end(const struct test_case *c, int status)
{
    char *error = c->result->error;
    size_t size = sizeof c->result->error;

    if (status == 0)
        return true;
    if (error[0])
        return false; /* judged already */
    if (WIFSIGNALED(status))
        g_snprintf(error, size, "killed by signal %d (see above)", WTERMSIG(status));
    else
        g_snprintf(error, size, "ended with status %d (see above)", WEXITSTATUS(status));
    return false;
}

/* Plays cases [first, all), so many at a time. */
static void play_all(const struct options *options, const GArray *cases, guint first)
{
    struct board *board =
        mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[MAX_JOBS] = {0};
    unsigned n_working = 0;

    g_assert_true(board != MAP_FAILED);
    atomic_store(&board->next, first);
    for (; n_working < options->n_jobs; n_working++)
        pids[n_working] = start_worker(cases, board, n_working);
    while (n_working > 0) {
        int status;
        pid_t pid = wait(&status);

        for (unsigned worker = 0; worker < options->n_jobs; worker++) {
            const struct test_case *c =
                &g_array_index(cases, struct test_case, atomic_load(&board->playing[worker]));

            if (pids[worker] != pid)
                continue;
            if (note_end(c, status))
                n_working--;
            else
                pids[worker] = start_worker(cases, board, worker);
        }
    }
    munmap(board, sizeof *board);
}

/* ---- enumerating ------------------------------------------------------------------------------
 */

/* The same for all records of a kind: those of all resumed links are one. */
static void row_name(const struct place *place, char *text, size_t size)
{
    const char *plus = strchr(place->channel, '+');

    g_snprintf(text, size, "%.*s%s %s %s",
               plus ? (int)(plus - place->channel) : (int)strlen(place->channel), place->channel,
               plus ? "+" : "", place->direction == RELAY_OUT ? ">" : "<", place->type);
}

static const struct place *last_place(const struct test_case *c)
{
    return &c->cut.faults[c->cut.n_faults - 1].place;
}

static void add_case(GArray *cases, const struct cut_case *base, const struct place *place,
                     unsigned way)
{
    struct test_case c = {.way = way, .result = new_result()};

    if (base)
        c.cut = *base;
    else
        c.cut.recovery = ways[way].recovery;
    c.cut.uses_relay_again = base || place->nth % 2;
    c.cut.faults[c.cut.n_faults++] = (struct fault){.place = *place, .kind = ways[way].kind};
    g_array_append_val(cases, c);
}

static void add_first_cuts(const struct options *options, GArray *cases,
                           const struct cut_result *recorded)
{
    bool has_urgent = false;

    for (unsigned i = 0; i < recorded->n_places; i++) {
        const struct place *place = &recorded->places[i];
        bool is_urgent = g_str_has_prefix(place->channel, "urgent");

        has_urgent |= is_urgent;
        if (options->only_type && strcmp(options->only_type, place->type) != 0)
            continue;
        for (unsigned way = 0; way < N_WAYS; way++)
            if ((i + way) % options->every == 0 &&
                (ways[way].kind != FAULT_CUT_URGENT || (has_urgent && !is_urgent)))
                add_case(cases, NULL, place, way);
    }
}

/* Where no record of the resumed link is left out. */
static bool is_thorough(const struct place *place)
{
    static const char *const types[] = {"LOADED", "COMMIT", "RUNNING", "PAGE_REQUEST", "WHOLE"};

    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++)
        if (strcmp(place->type, types[i]) == 0)
            return true;
    return false;
}

/* One base for each kind of record: its resumed link is cut again, this way or that. */
static void add_second_cuts(const struct options *options, GArray *cases, guint n_first)
{
    g_autoptr(GHashTable) rows = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < n_first; i++) {
        struct test_case c = g_array_index(cases, struct test_case, i);
        unsigned n_rows = g_hash_table_size(rows);
        unsigned step = is_thorough(last_place(&c)) ? 1 : AGAIN_STEP;
        char row[80];

        row_name(last_place(&c), row, sizeof row);
        if (c.way != WAY_OF_BASES || !g_hash_table_add(rows, g_strdup(row)))
            continue;
        if (n_rows % 3 == 2)
            c.cut.recovery = CUT_BY_HAND;
        for (unsigned p = 0; p < c.result->n_places; p++) {
            const struct place *place = &c.result->places[p];

            if (strchr(place->channel, '+') && (n_rows + p) % (step * options->every) == 0)
                add_case(cases, &c.cut, place, (n_rows + p / step) % 3);
        }
    }
}

/* ---- reporting --------------------------------------------------------------------------------
 */

static void cell_add(GString *cell, char letter)
{
    if (!strchr(cell->str, letter))
        g_string_append_c(cell, letter);
}

static char letter_of(const struct test_case *c)
{
    return c->result->error[0] ? '!' : outcomes[c->result->outcome].letter;
}

/* False: no case has reached a record of this kind, though it had some chances. */
static bool print_row(const GArray *cases, const char *row)
{
    GString *cells[N_WAYS];
    unsigned n = 0, n_reached = 0;

    for (unsigned way = 0; way < N_WAYS; way++)
        cells[way] = g_string_new(NULL);
    for (guint i = 0; i < cases->len; i++) {
        const struct test_case *c = &g_array_index(cases, struct test_case, i);
        char other[80];

        row_name(last_place(c), other, sizeof other);
        if (strcmp(other, row) != 0)
            continue;
        n++;
        n_reached += c->result->outcome != CUT_UNREACHED;
        cell_add(cells[c->way], letter_of(c));
    }
    printf("%-32s %4u", row, n);
    for (unsigned way = 0; way < N_WAYS; way++) {
        printf(" %-5s", cells[way]->str);
        g_string_free(cells[way], TRUE);
    }
    printf("%s\n", n_reached ? "" : " never reached");
    return n_reached > 0 || n < N_CHANCES;
}

static unsigned print_matrix(const GArray *cases)
{
    g_autoptr(GHashTable) rows = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    unsigned n_bad = 0;

    printf("%-32s %4s", "record (+: of a resumed link)", "n");
    for (unsigned way = 0; way < N_WAYS; way++)
        printf(" %-5s", ways[way].name);
    printf("\n");
    for (guint i = 0; i < cases->len; i++) {
        char row[80];

        row_name(last_place(&g_array_index(cases, struct test_case, i)), row, sizeof row);
        if (g_hash_table_add(rows, g_strdup(row)))
            n_bad += !print_row(cases, row);
    }
    return n_bad;
}

static void print_unexplained(const struct test_case *c)
{
    printf("UNEXPLAINED");
    for (unsigned i = 0; i < c->cut.n_faults; i++) {
        const struct place *place = &c->cut.faults[i].place;

        printf("%s %s %s %s #%u", i ? ", then" : "", place->channel,
               place->direction == RELAY_OUT ? ">" : "<", place->type, place->nth);
    }
    printf(", %s%s: %s\n", ways[c->way].text, c->cut.recovery == CUT_BY_HAND ? " (by hand)" : "",
           c->result->error);
}

static unsigned print_report(const GArray *cases)
{
    unsigned counts[CUT_N_OUTCOMES][N_WAYS + 1] = {0};
    unsigned n_bad = print_matrix(cases), n_unexplained = 0, n_words = 0, worst_ms = 0;

    for (guint i = 0; i < cases->len; i++) {
        const struct test_case *c = &g_array_index(cases, struct test_case, i);

        counts[c->result->outcome][c->cut.n_faults > 1 ? N_WAYS : c->way]++;
        n_words += c->result->n_words;
        worst_ms = MAX(worst_ms, c->result->n_ms);
        n_unexplained += c->result->error[0] != 0;
        if (c->result->error[0])
            print_unexplained(c);
    }
    printf("\n%-3s", "");
    for (unsigned way = 0; way < N_WAYS; way++)
        printf(" %5s", ways[way].name);
    printf(" %5s\n", "again");
    for (unsigned outcome = 0; outcome < CUT_N_OUTCOMES; outcome++) {
        printf("%c  ", outcomes[outcome].letter);
        for (unsigned way = 0; way <= N_WAYS; way++)
            printf(" %5u", counts[outcome][way]);
        printf("  %s\n", outcomes[outcome].text);
    }
    for (unsigned way = 0; way < N_WAYS; way++)
        printf("%-5s %s\n", ways[way].name, ways[way].text);
    printf("again one of the first three ways, on the link that replaced the one before\n");
    printf("%u cases, %u unexplained; %u words of users; slowest case %u ms\n", cases->len,
           n_unexplained, n_words, worst_ms);
    return n_bad + n_unexplained;
}

/* What is said once is said once. */
static unsigned check_recorded(const struct cut_result *recorded)
{
    static const char *const types[] = {"LOADED", "COMMIT", "RUNNING", "LEDGER", "WHOLE", "COST"};
    unsigned n_bad = 0;

    for (unsigned t = 0; t < G_N_ELEMENTS(types); t++) {
        unsigned n = 0;

        for (unsigned i = 0; i < recorded->n_places; i++)
            n += strcmp(recorded->places[i].type, types[t]) == 0;
        if (n != 1)
            printf("UNEXPLAINED undisturbed: %s came %u times\n", types[t], n);
        n_bad += n != 1;
    }
    return n_bad;
}

static bool parse(struct options *options, int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned number = MAX((unsigned)strtoul(argv[i + 1], NULL, 10), 1);

        if (strcmp(argv[i], "--jobs") == 0)
            options->n_jobs = MIN(number, MAX_JOBS);
        else if (strcmp(argv[i], "--every") == 0)
            options->every = number;
        else if (strcmp(argv[i], "--type") == 0)
            options->only_type = argv[i + 1];
        else
            return false;
    }
    return argc % 2 == 1;
}

int main(int argc, char **argv)
{
    struct options options = {.n_jobs = 6, .every = 1};
    g_autoptr(GArray) cases = g_array_new(FALSE, TRUE, sizeof(struct test_case));
    struct test_case undisturbed = {.result = new_result()};
    uint64_t start_ns = clock_mono_ns();
    unsigned n_bad;
    guint n_first;

    if (!parse(&options, argc, argv)) {
        fprintf(stderr, "usage: %s [--jobs N] [--every K] [--type RECORD]\n", argv[0]);
        return 2;
    }
    if (!faults_are_possible(FAULTS_MISSING, NULL))
        return SKIP_CODE;
    setvbuf(stdout, NULL, _IOLBF, 0);
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* a case that fails says why, and its process ends */
    g_array_append_val(cases, undisturbed);
    play_all(&options, cases, 0);
    if (undisturbed.result->error[0]) {
        fprintf(stderr, "recording: %s\n", undisturbed.result->error);
        return 1;
    }
    g_array_set_size(cases, 0);
    add_first_cuts(&options, cases, undisturbed.result);
    n_first = cases->len;
    play_all(&options, cases, 0);
    add_second_cuts(&options, cases, n_first);
    printf("%u records, %u cases, and %u with a second cut\n", undisturbed.result->n_places,
           n_first, cases->len - n_first);
    play_all(&options, cases, n_first);
    n_bad = print_report(cases) + check_recorded(undisturbed.result);
    printf("%.1f s with %u at a time\n", (double)(clock_mono_ns() - start_ns) / 1e9,
           options.n_jobs);
    return n_bad ? 1 : 0;
}
