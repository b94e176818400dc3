/* SPDX-License-Identifier: MIT */
/* The referee: plays one case between two processes and judges it. */
#include "referee.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "godwit/migrate.h"
#include "side.h"

#define LONG_SILENCE_MS 20000u /* where silence is not the fault */
#define IDLE_SILENCE_MS 3000u
#define N_WAYS          4u /* two page channels, both directions; control pings too often to idle */

enum { SEAT_SOURCE, SEAT_DESTINATION, SEAT_NEW_DESTINATION, SEAT_NEW_SOURCE };

struct play {
    const struct referee *referee;
    struct relay relay;
    struct board *board;
    struct side source, destination;
    bool is_source_killed, is_destination_killed;
    bool is_held;
    uint64_t limit_ns;
    struct case_result *result;
};

static const struct {
    char letter;
    const char *text;
} outcomes[OUTCOME_N] = {
    [OUTCOME_NONE] = {'?', "not judged"},
    [OUTCOME_STAYED] = {'S', "failed before COMMIT; goes on at the source"},
    [OUTCOME_MOVED] = {'D', "handed over; runs at the destination"},
    [OUTCOME_DOUBT_STAYED] = {'n', "in doubt, told \"never\"; goes on at the source"},
    [OUTCOME_DOUBT_MOVED] = {'r', "in doubt, told \"running\"; runs at the destination"},
    [OUTCOME_OPERATOR] = {'O', "in doubt, nobody left to ask; the operator lets the source go on"},
    [OUTCOME_LOST] = {'L', "died with the host that owned it; runs nowhere"},
    [OUTCOME_ALONE] = {'A', "COMMIT was read, the source died; runs at the destination"},
    [OUTCOME_UNREACHED] = {'.', "the record did not come this time; handed over"},
};

char outcome_letter(enum outcome outcome)
{
    return outcomes[outcome].letter;
}

const char *outcome_text(enum outcome outcome)
{
    return outcomes[outcome].text;
}

/* ---- watching -------------------------------------------------------------------------------- */

static void __attribute__((format(printf, 2, 3))) blame(struct play *play, const char *format, ...)
{
    size_t used = strlen(play->result->error);
    va_list args;

    if (used + 3 >= sizeof play->result->error)
        return;
    if (used)
        used = g_strlcat(play->result->error, "; ", sizeof play->result->error);
    va_start(args, format);
    g_vsnprintf(play->result->error + used, sizeof play->result->error - used, format, args);
    va_end(args);
}

static const struct seat *seat_of(const struct play *play, const struct side *side)
{
    return &play->board->seats[side->seat];
}

static unsigned state_of(const struct play *play, const struct side *side)
{
    return atomic_load(&seat_of(play, side)->state);
}

static bool runs(const struct play *play, const struct side *side)
{
    return (atomic_load(&play->board->running) >> side->seat) & 1;
}

/* An idle play goes on when every way was idle once, or after its fault. */
static bool is_relax_due(const struct play *play)
{
    for (unsigned i = 0; i < play->relay.n_faults; i++)
        if (play->relay.faults[i].is_done && !play->referee->stays_held)
            return true;
    return play->relay.n_idle_ways >= N_WAYS;
}

/* Passes bytes on until the condition holds; false when patience has ended. */
static bool watch_until(struct play *play, bool (*is_done)(struct play *play))
{
    while (!is_done(play)) {
        int fds[2] = {play->source.fd, play->destination.fd};
        uint64_t now_ns = clock_mono_ns();

        if (now_ns >= play->limit_ns)
            return false;
        relay_step(&play->relay, fds, 2, (int)((play->limit_ns - now_ns) / NS_PER_MS) + 1);
        if (play->is_held && is_relax_due(play)) {
            play->is_held = false;
            if (play->source.pid)
                side_order(&play->source, &(struct side_order){.what = SIDE_RELAX});
        }
    }
    return true;
}

static bool is_source_settled(struct play *play)
{
    unsigned state = state_of(play, &play->source);

    /* An answer that was delivered before the destination died is still to be read. */
    return !play->source.pid || gw_source_state_is_final((enum gw_source_state)state) ||
           (state == GW_SOURCE_IN_DOUBT && play->is_destination_killed &&
            play->relay.facts.n_answers == 0);
}

static bool is_destination_settled(struct play *play)
{
    unsigned state = state_of(play, &play->destination);

    /* Without a HELLO nobody has come, as far as the destination knows. */
    return !play->destination.pid || !play->relay.facts.hello || state == GW_DESTINATION_DISOWNED ||
           (state == GW_DESTINATION_RUNNING &&
            atomic_load(&seat_of(play, &play->destination)->n_checks) > 0);
}

static bool is_settled(struct play *play)
{
    return is_source_settled(play) && is_destination_settled(play);
}

static bool is_source_final(struct play *play)
{
    return gw_source_state_is_final((enum gw_source_state)state_of(play, &play->source));
}

static bool is_answered(struct play *play)
{
    return play->relay.facts.n_answers > 0 || is_source_final(play);
}

/* ---- the moves of the referee ---------------------------------------------------------------- */

static void on_kill(void *opaque, bool is_source)
{
    struct play *play = opaque;

    *(is_source ? &play->is_source_killed : &play->is_destination_killed) = true;
    side_kill(is_source ? &play->source : &play->destination, play->board);
}

static void start_destination(struct play *play, unsigned seat, uint32_t silence_ms)
{
    g_autofree char *uri = NULL;

    snprintf(play->relay.destination_path, sizeof play->relay.destination_path, "%s/d%u-%u",
             play->referee->directory, play->referee->number, seat);
    unlink(play->relay.destination_path);
    uri = g_strdup_printf("unix:%s", play->relay.destination_path);
    side_start_destination(&play->destination, play->board, seat, uri, silence_ms);
}

static void order_migration(struct play *play, uint32_t silence_ms, enum side_pace pace)
{
    struct side_order order = {.what = SIDE_MIGRATE, .silence_ms = silence_ms, .pace = pace};

    g_strlcpy(order.uri, "unix:", sizeof order.uri);
    g_strlcat(order.uri, play->relay.listen_path, sizeof order.uri);
    side_order(&play->source, &order);
}

static bool has_checked_again(struct play *play)
{
    const struct side *owner = runs(play, &play->source) ? &play->source : &play->destination;

    return atomic_load(&seat_of(play, owner)->n_answers) == 2 + (owner == &play->source);
}

/* The guest runs at the destination of a finished migration: is all of it there, also later? */
static void check_owner_again(struct play *play)
{
    struct side_order order = {.what = SIDE_CHECK};

    side_order(&play->destination, &order);
    if (!watch_until(play, has_checked_again))
        blame(play, "the guest does not answer at the destination");
}

static void check_memory(struct play *play)
{
    for (unsigned i = 0; i < BOARD_SEATS; i++) {
        uint32_t n_wrong = atomic_load(&play->board->seats[i].n_wrong);

        if (n_wrong)
            blame(play, "%u pages are wrong at seat %u", n_wrong, i);
    }
    if (atomic_load(&play->board->ran_twice))
        blame(play, "the guest ran twice at the same time");
}

/* ---- judging --------------------------------------------------------------------------------- */

/* The relay need not have seen the COMMIT of a source whose connection is gone. */
static bool has_committed(const struct play *play)
{
    return play->relay.facts.is_commit_sent ||
           (atomic_load(&seat_of(play, &play->source)->seen) >> GW_SOURCE_COMMITTED & 1);
}

static bool is_wordless(const struct play *play)
{
    /* Who is refused or cut off before a word was said has nothing to repeat. */
    return !play->relay.facts.hello;
}

/* The first to fail says why; the other side reports that. */
static void judge_reasons(struct play *play)
{
    const struct seat *a = seat_of(play, &play->source), *b = seat_of(play, &play->destination);

    if (is_wordless(play) || atomic_load(&a->state) != GW_SOURCE_FAILED ||
        atomic_load(&b->state) != GW_DESTINATION_DISOWNED)
        return;
    play->result->wants_reason = true;
    /* In doubt it comes as part of the destination's answer. */
    play->result->has_reason =
        (a->failure_code == GW_ERROR_PEER && g_str_has_suffix(a->reason, b->reason)) ||
        (a->failure_side == b->failure_side && a->failure_code == b->failure_code &&
         strcmp(a->reason, b->reason) == 0);
    if (!play->result->has_reason)
        g_snprintf(play->result->two_reasons, sizeof play->result->two_reasons,
                   "source: %s/%d %.200s | destination: %s/%d %.200s",
                   gw_side_name((enum gw_side)a->failure_side), a->failure_code, a->reason,
                   gw_side_name((enum gw_side)b->failure_side), b->failure_code, b->reason);
    if (!a->reason[0] || !b->reason[0])
        blame(play, "a side failed without a reason");
}

/* Did it fail by the limit on silence or on the handshake, which is as short? */
static bool is_out_of_time(const struct play *play)
{
    int code = seat_of(play, &play->source)->failure_code;

    return code == GW_ERROR_LINK_SILENT || code == GW_ERROR_TIMEOUT;
}

static enum outcome judge_both_alive(struct play *play, const struct fault *fault)
{
    const struct relay_facts *facts = &play->relay.facts;
    unsigned state = state_of(play, &play->source);
    bool at_source = runs(play, &play->source), at_destination = runs(play, &play->destination);
    bool was_in_doubt =
        (atomic_load(&seat_of(play, &play->source)->seen) >> GW_SOURCE_IN_DOUBT) & 1;

    judge_reasons(play);
    if (at_source == at_destination)
        blame(play, "the guest runs %s", at_source ? "twice" : "nowhere");
    if (state == GW_SOURCE_COMPLETED && at_destination) {
        if (!facts->commit)
            blame(play, "it runs at the destination without COMMIT");
        if (fault && fault->is_done && !was_in_doubt &&
            strcmp(fault->place.channel, "control") == 0 && !facts->loaded)
            blame(play, "completed without LOADED");
        if (fault && !fault->is_done)
            return OUTCOME_UNREACHED;
        return was_in_doubt ? OUTCOME_DOUBT_MOVED : OUTCOME_MOVED;
    }
    if (state == GW_SOURCE_FAILED && at_source) {
        if (fault && !fault->is_done && is_out_of_time(play))
            play->result->is_too_slow = true;
        if (fault && !fault->is_done)
            blame(play, "failed without a fault: %s", seat_of(play, &play->source)->reason);
        if (has_committed(play) && !was_in_doubt &&
            seat_of(play, &play->source)->failure_side != GW_SIDE_DESTINATION)
            blame(play, "resumed after COMMIT without the destination's word");
        return has_committed(play) ? OUTCOME_DOUBT_STAYED : OUTCOME_STAYED;
    }
    blame(play, "the source says %s, the destination %s (%s)",
          gw_source_state_name((enum gw_source_state)state),
          gw_destination_state_name((enum gw_destination_state)state_of(play, &play->destination)),
          seat_of(play, &play->source)->reason);
    return OUTCOME_NONE;
}

static enum outcome judge_dead_source(struct play *play)
{
    bool at_destination = runs(play, &play->destination);

    if (at_destination && !play->relay.facts.commit)
        blame(play, "the destination runs without COMMIT");
    if (!at_destination && play->relay.facts.commit)
        blame(play, "COMMIT was delivered and the destination does not run: %s",
              seat_of(play, &play->destination)->reason);
    return at_destination ? OUTCOME_ALONE : OUTCOME_LOST;
}

/* The destination is gone. What the source cannot know, the operator says. */
static enum outcome judge_dead_destination(struct play *play)
{
    struct side_order order = {.what = SIDE_RUN_HERE};
    unsigned state = state_of(play, &play->source);

    if (state == GW_SOURCE_COMPLETED) {
        if (!play->relay.facts.running && play->relay.facts.n_answers == 0)
            blame(play, "the source let go without RUNNING");
        if (runs(play, &play->source))
            blame(play, "the source runs what it let go");
        return OUTCOME_LOST;
    }
    if (state == GW_SOURCE_FAILED) {
        if (has_committed(play) && play->relay.facts.n_answers == 0 &&
            seat_of(play, &play->source)->failure_side != GW_SIDE_DESTINATION)
            blame(play, "the source resumed after COMMIT");
        if (!runs(play, &play->source))
            blame(play, "the source failed and does not run");
        return has_committed(play) ? OUTCOME_DOUBT_STAYED : OUTCOME_STAYED;
    }
    if (!has_committed(play))
        blame(play, "in doubt without COMMIT");
    /* Another process at the same place knows nothing, and says so: no answer. */
    start_destination(play, SEAT_NEW_DESTINATION, LONG_SILENCE_MS);
    play->relay.facts.n_answers = 0;
    if (!watch_until(play, is_answered))
        blame(play, "the source does not ask");
    if (state_of(play, &play->source) != GW_SOURCE_IN_DOUBT || runs(play, &play->source))
        blame(play, "doubt ended without an answer");
    side_order(&play->source, &order);
    if (!watch_until(play, is_source_final) || !runs(play, &play->source))
        blame(play, "the operator's word has no effect");
    play->result->is_resolved = true;
    return OUTCOME_OPERATOR;
}

/* Who has killed a source may come sooner than the destination sees that it is gone: it still
 * serves that migration, and says so. */
static bool is_too_early(struct play *play)
{
    return state_of(play, &play->source) == GW_SOURCE_FAILED &&
           strstr(seat_of(play, &play->source)->reason, "serves another migration");
}

/* Wherever the guest is, or with a new one where it died: the next migration must work. */
static void play_next(struct play *play)
{
    bool is_final;

    if (play->is_source_killed && !runs(play, &play->destination))
        side_start_source(&play->source, play->board, SEAT_NEW_SOURCE);
    if (!play->source.pid || !runs(play, &play->source)) {
        if (play->destination.pid && runs(play, &play->destination))
            check_owner_again(play);
        return;
    }
    if (!play->destination.pid)
        start_destination(play, SEAT_NEW_DESTINATION, LONG_SILENCE_MS);
    do {
        atomic_store(&play->board->seats[play->source.seat].state, 0);
        order_migration(play, LONG_SILENCE_MS, SIDE_FAST);
        is_final = watch_until(play, is_source_final);
    } while (is_final && is_too_early(play) && clock_mono_ns() < play->limit_ns);
    if (!is_final || state_of(play, &play->source) != GW_SOURCE_COMPLETED) {
        /* The old destination still has the short limit. */
        play->result->is_too_slow = is_out_of_time(play);
        blame(play, "the next migration ends in %s: %s",
              gw_source_state_name((enum gw_source_state)state_of(play, &play->source)),
              seat_of(play, &play->source)->reason);
        return;
    }
    play->relay.facts.hello = true;
    if (!watch_until(play, is_destination_settled) || !runs(play, &play->destination) ||
        runs(play, &play->source))
        blame(play, "the next migration completed and the guest is not there");
    else
        play->result->has_next = true;
}

static void judge(struct play *play, const struct fault *fault)
{
    if (play->is_source_killed)
        play->result->outcome = judge_dead_source(play);
    else if (play->is_destination_killed)
        play->result->outcome = judge_dead_destination(play);
    else
        play->result->outcome = judge_both_alive(play, fault);
}

static void take_last_word(struct play *play, const struct side *side, struct last_word *word)
{
    const struct seat *seat = seat_of(play, side);

    word->side = seat->failure_side;
    word->code = seat->failure_code;
    g_strlcpy(word->reason, seat->reason, sizeof word->reason);
}

static bool is_silent(const struct fault *faults, unsigned n_faults)
{
    for (unsigned i = 0; i < n_faults; i++)
        if (faults[i].kind == FAULT_STALL || faults[i].kind == FAULT_STALL_LINK)
            return true;
    return false;
}

void referee_play(const struct referee *referee, struct fault *faults, unsigned n_faults,
                  GArray *places, struct case_result *result)
{
    struct play play = {.referee = referee, .result = result};
    g_autofree char *path = g_strdup_printf("%s/l%u", referee->directory, referee->number);
    uint64_t start_ns = clock_mono_ns();
    uint32_t silence_ms = referee->is_idle              ? IDLE_SILENCE_MS
                          : is_silent(faults, n_faults) ? referee->silence_ms
                                                        : LONG_SILENCE_MS;

    *result = (struct case_result){0};
    play.board =
        mmap(NULL, sizeof *play.board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (play.board == MAP_FAILED || !relay_init(&play.relay, path)) {
        blame(&play, "%s: %s", path, g_strerror(errno));
        return;
    }
    play.limit_ns = start_ns + referee->patience_ms * NS_PER_MS;
    play.relay.faults = faults;
    play.relay.n_faults = n_faults;
    play.relay.places = places;
    play.relay.n_beats = MAX(referee->n_beats, 1);
    play.relay.on_kill = on_kill;
    play.relay.opaque = &play;
    start_destination(&play, SEAT_DESTINATION,
                      referee->destination_silence_ms ? referee->destination_silence_ms
                                                      : silence_ms);
    side_start_source(&play.source, play.board, SEAT_SOURCE);
    play.is_held = referee->is_idle;
    order_migration(&play, referee->source_silence_ms ? referee->source_silence_ms : silence_ms,
                    referee->is_idle ? SIDE_HELD : SIDE_ROUNDS);
    if (!watch_until(&play, is_settled))
        blame(&play, "not settled: the source is %s, the destination %s",
              gw_source_state_name((enum gw_source_state)state_of(&play, &play.source)),
              gw_destination_state_name(
                  (enum gw_destination_state)state_of(&play, &play.destination)));
    else
        judge(&play, n_faults ? &faults[n_faults - 1] : NULL);
    play.relay.places = NULL;
    take_last_word(&play, &play.source, &result->source);
    take_last_word(&play, &play.destination, &result->destination);
    if (!result->error[0])
        play_next(&play);
    check_memory(&play);
    side_kill(&play.source, play.board);
    side_kill(&play.destination, play.board);
    relay_clear(&play.relay);
    munmap(play.board, sizeof *play.board);
    result->n_ms = (uint32_t)((clock_mono_ns() - start_ns) / NS_PER_MS);
}
