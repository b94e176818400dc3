/* SPDX-License-Identifier: MIT */
/* One post-copy whose link is cut at given records, and the judgement of how it ended. */
#include "cut_case.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "harness.h"

#define STRIDE 32u /* 64 pages, some in each chunk of what is sent in the background */

struct play {
    const struct cut_case *c;
    struct cut_result *result;
    struct move move;
    struct vcpu vcpu;
    struct gw_source_status end; /* of the source whose link was cut */
    unsigned seen_states;        /* likewise: bit per gw_source_state */

    struct relay relay; /* owned by the road until it has ended */
    struct fault faults[CUT_MAX_FAULTS];
    unsigned n_requests, n_late; /* likewise: PAGE_REQUESTs and PAGES after COMMIT that passed */
    unsigned n_done;             /* likewise: faults whose cut was noticed */
    pthread_t road;
    int wake[2]; /* to the road */
    atomic_bool is_over;
    atomic_bool is_closed; /* the road: nobody may connect, until the user gave the word */
};

static void __attribute__((format(printf, 2, 3))) blame(struct play *play, const char *format, ...)
{
    va_list args;

    if (play->result->error[0])
        return;
    va_start(args, format);
    g_vsnprintf(play->result->error, sizeof play->result->error, format, args);
    va_end(args);
}

/* ---- the road ---------------------------------------------------------------------------------
 */

static bool is_request(const struct place *place)
{
    return strcmp(place->type, "PAGE_REQUEST") == 0;
}

static bool is_background(const struct place *place)
{
    return strcmp(place->type, "PAGES") == 0 && g_str_has_prefix(place->channel, "page");
}

/* A record of the background passes for each request, and the rest when nobody asks any more. */
static bool may_pass(void *opaque, const struct place *place)
{
    struct play *play = opaque;

    if (!play->relay.facts.commit)
        return true;
    play->n_requests += is_request(place);
    if (!is_background(place))
        return true;
    if (play->n_late >= play->n_requests && atomic_load(&play->vcpu.n_rounds) == 0)
        return false;
    play->n_late++;
    return true;
}

static bool may_connect(void *opaque)
{
    struct play *play = opaque;

    return !atomic_load(&play->is_closed);
}

static unsigned n_reached(const struct play *play)
{
    unsigned n = 0;

    for (unsigned i = 0; i < play->c->n_faults; i++)
        n += play->faults[i].is_done;
    return n;
}

static void *road_main(void *opaque)
{
    struct play *play = opaque;

    while (!atomic_load(&play->is_over)) {
        relay_step(&play->relay, &play->wake[0], 1, play->relay.facts.commit ? 1 : 50);
        if (play->c->recovery == CUT_BY_HAND && n_reached(play) > play->n_done)
            atomic_store(&play->is_closed, true);
        play->n_done = n_reached(play);
    }
    return NULL;
}

static void road_start(struct play *play)
{
    g_autofree char *path = g_build_filename(play->move.pair.dir, "relay", NULL);

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, play->wake), 0);
    assert_true(relay_init(&play->relay, path));
    g_strlcpy(play->relay.destination_path, play->move.pair.uri + strlen("unix:"),
              sizeof play->relay.destination_path);
    play->relay.faults = play->faults;
    play->relay.n_faults = play->c->n_faults;
    play->relay.places = g_array_new(FALSE, TRUE, sizeof(struct place));
    play->relay.may_pass = may_pass;
    play->relay.may_connect = may_connect;
    play->relay.opaque = play;
    play->move.source_uri = g_strdup_printf("unix:%s", path);
    assert_int_equal(pthread_create(&play->road, NULL, road_main, play), 0);
}

/* From here on what the relay knows is ours to read. */
static void road_end(struct play *play)
{
    const GArray *places = play->relay.places;

    atomic_store(&play->is_over, true);
    assert_int_equal(write(play->wake[1], "", 1), 1);
    pthread_join(play->road, NULL);
    play->result->n_places = MIN(places->len, CUT_MAX_PLACES);
    memcpy(play->result->places, places->data, play->result->n_places * sizeof(struct place));
}

/* ---- the users --------------------------------------------------------------------------------
 */

static bool is_paused(enum gw_source_state state)
{
    return state == GW_SOURCE_PAUSED || state == GW_SOURCE_RECONNECTING;
}

/* The destination listens elsewhere from now on, if it waits for somebody. */
static void move_destination(struct play *play)
{
    struct move *move = &play->move;
    g_autofree char *path =
        g_strdup_printf("%s/socket-%u", move->pair.dir, play->result->n_words + 1);
    char *uri = g_strdup_printf("unix:%s", path);

    if (!gw_destination_recover(move->destination, uri, NULL)) {
        g_free(uri);
        return;
    }
    g_free(move->pair.uri);
    move->pair.uri = uri;
    play->result->n_words++;
    /* The road is closed: it does not look at where it leads. */
    g_strlcpy(play->relay.destination_path, path, sizeof play->relay.destination_path);
}

/* Opens the road, when both sides know that it is closed. */
static void give_word(struct play *play)
{
    struct move *move = &play->move;
    enum gw_source_state state = source_state_of(move);
    enum gw_destination_state at = destination_status_of(move).state;

    if (!is_paused(state) && state != GW_SOURCE_IN_DOUBT)
        return;
    if (at == GW_DESTINATION_RECEIVING || at == GW_DESTINATION_LOADED ||
        at == GW_DESTINATION_POSTCOPY)
        return;
    if (is_paused(state)) {
        move_destination(play);
        if (gw_source_recover(move->source, play->c->uses_relay_again ? NULL : move->pair.uri,
                              NULL))
            play->result->n_words++;
    }
    atomic_store(&play->is_closed, false);
}

static void await_end(struct play *play)
{
    uint64_t limit_ns = after_ms(PATIENCE_MS);

    while (!gw_source_wait(play->move.source, after_ms(5))) {
        if (atomic_load(&play->is_closed))
            give_word(play);
        if (clock_mono_ns() >= limit_ns)
            fail_msg("the source hangs in %s (%s), the destination is %s",
                     gw_source_state_name(source_state_of(&play->move)),
                     source_status_of(&play->move).failure.reason,
                     gw_destination_state_name(destination_status_of(&play->move).state));
    }
    play->end = source_status_of(&play->move);
    play->seen_states = atomic_load(&play->move.seen_states);
}

/* ---- the judge --------------------------------------------------------------------------------
 */

static bool has_been(const struct play *play, enum gw_source_state state)
{
    return play->seen_states >> state & 1;
}

/* The guest stayed at the source: nothing that passed may have let it run elsewhere. */
static enum cut_outcome judge_stayed(struct play *play)
{
    const struct relay_facts *facts = &play->relay.facts;
    bool has_doubted = has_been(play, GW_SOURCE_IN_DOUBT);

    if (facts->running || facts->whole)
        blame(play, "the guest is said to run at the destination, and stays at the source");
    if (!has_doubted && facts->is_commit_sent && !facts->abort)
        blame(play, "the source took the guest back after COMMIT, and had not asked");
    if (has_doubted && facts->n_answers == 0)
        blame(play, "nobody answered the source in doubt, and it took the guest back");
    if (play->c->recovery != CUT_AUTO_LATE && has_been(play, GW_SOURCE_ROUNDS) && !has_doubted)
        blame(play, "the link could have been replaced: %s", play->end.failure.reason);
    return has_doubted ? CUT_DOUBT_STAYED : CUT_STAYED;
}

/* The guest moved: both had to hear so, and a link that was lost while pages lacked was replaced.
 */
static enum cut_outcome judge_moved(struct play *play)
{
    const struct relay_facts *facts = &play->relay.facts;
    bool has_doubted = has_been(play, GW_SOURCE_IN_DOUBT);
    bool has_paused = has_been(play, GW_SOURCE_PAUSED);
    /* By hand the last links may have gone another way. */
    bool is_seen = play->c->recovery != CUT_BY_HAND || play->c->uses_relay_again;

    if (!has_been(play, GW_SOURCE_POSTCOPY) && !has_paused)
        blame(play, "completed without post-copy");
    if (is_seen && !facts->commit)
        blame(play, "completed, and COMMIT had not passed");
    if (is_seen && !facts->running && facts->n_answers == 0)
        blame(play, "completed, and nobody had said that the guest runs there");
    if (is_seen && !facts->whole && facts->n_resumed == 0)
        blame(play, "completed, and nobody had said that it is whole");
    if (has_doubted && !has_paused)
        blame(play, "in doubt, and no link was opened for the pages");
    if (n_reached(play) < play->c->n_faults)
        return CUT_UNREACHED;
    if (has_doubted || has_paused)
        return has_doubted ? CUT_DOUBT_MOVED : CUT_RESUMED;
    if (has_been(play, GW_SOURCE_RECONNECTING))
        return CUT_REPLACED;
    if (!facts->whole)
        blame(play, "the link was cut, and nobody noticed");
    return CUT_UNHURT;
}

static void judge(struct play *play)
{
    if (play->end.state == GW_SOURCE_FAILED)
        play->result->outcome = judge_stayed(play);
    else if (play->end.state == GW_SOURCE_COMPLETED)
        play->result->outcome = judge_moved(play);
    else
        blame(play, "the source is %s: %s", gw_source_state_name(play->end.state),
              play->end.failure.reason);
    if (play->result->outcome != CUT_UNREACHED && play->c->n_faults > 0 && n_reached(play) == 0)
        blame(play, "nothing was cut, and it ended otherwise: %s", play->end.failure.reason);
}

/* Where the guest is it can go on, all of it is there, and nobody waits. */
static void check_guest(struct play *play)
{
    struct move *move = &play->move;

    if (play->end.state == GW_SOURCE_FAILED) {
        check_one_owner(move);
        move_again(move);
    }
    vcpu_end(&play->vcpu);
    check_one_owner(move);
    for (uint64_t limit_ns = after_ms(PATIENCE_MS);
         destination_status_of(move).pages_missing && clock_mono_ns() < limit_ns;)
        fake_vm_await_change(&move->pair.destination);
    assert_int_equal(destination_status_of(move).pages_missing, 0);
    assert_true(destination_status_of(move).is_postcopy);
}

/* ---- a play -----------------------------------------------------------------------------------
 */

static void begin(struct play *play)
{
    struct move *move = &play->move;

    move_init_sparse(move, STRIDE);
    move->pair.source.busy_stops = 1; /* what it names then must not be forgotten later */
    move->source_params.mode = GW_MODE_POSTCOPY;
    move->source_params.channels = 2;
    if (play->c->recovery != CUT_AUTO_LATE)
        move->source_params.reconnect_limit_ns = move->destination_params.reconnect_limit_ns =
            PATIENCE_MS * NS_PER_MS;
    memcpy(play->faults, play->c->faults, sizeof play->faults);
    road_start(play);
    move_start_destination(move);
    vcpu_start(&play->vcpu, move, STRIDE / 2, true);
    move_start_source(move);
}

void cut_case_play(const struct cut_case *c, struct cut_result *result)
{
    struct play *play = g_new0(struct play, 1);
    uint64_t start_ns = clock_mono_ns();

    play->c = c;
    play->result = result;
    begin(play);
    await_end(play);
    check_guest(play);
    road_end(play);
    judge(play);
    move_clear(&play->move);
    relay_clear(&play->relay);
    close(play->wake[0]);
    close(play->wake[1]);
    g_free(play);
    result->n_ms = (uint32_t)((clock_mono_ns() - start_ns) / NS_PER_MS);
}
