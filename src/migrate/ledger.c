/* SPDX-License-Identifier: MIT */
/* The blackout ledger: a partition of the blackout into named phases. */
#include "migrate/ledger.h"

#include <pthread.h>

#include "base/probes.h"

struct attempt {
    struct gw_ledger_attempt pub; /* phases is set when it is asked for */
    uint64_t start_ns;            /* CLOCK_MONOTONIC */
    GArray *phases;               /* struct gw_ledger_phase; depth 0 is contiguous */
    uint32_t n_awaited;           /* marks */
    int64_t open_index;           /* the phase of depth 0 in progress, -1: closed */
};

struct gw_ledger {
    pthread_mutex_t lock;
    GPtrArray *attempts; /* struct attempt; guarded by lock */
};

static void attempt_free(gpointer data)
{
    struct attempt *attempt = data;

    g_array_unref(attempt->phases);
    g_free(attempt);
}

struct gw_ledger *ledger_new(void)
{
    struct gw_ledger *ledger = g_new0(struct gw_ledger, 1);

    pthread_mutex_init(&ledger->lock, NULL);
    ledger->attempts = g_ptr_array_new_with_free_func(attempt_free);
    return ledger;
}

void gw_ledger_free(struct gw_ledger *ledger)
{
    if (!ledger)
        return;
    g_ptr_array_unref(ledger->attempts);
    pthread_mutex_destroy(&ledger->lock);
    g_free(ledger);
}

static struct attempt *newest_locked(struct gw_ledger *ledger)
{
    return ledger->attempts->len ? g_ptr_array_index(ledger->attempts, ledger->attempts->len - 1)
                                 : NULL;
}

static struct attempt *open_locked(struct gw_ledger *ledger)
{
    struct attempt *attempt = newest_locked(ledger);

    return attempt && attempt->open_index >= 0 ? attempt : NULL;
}

static void add_phase(struct attempt *attempt, enum gw_side side, const char *name, uint32_t depth,
                      int64_t start_ns, uint64_t length_ns)
{
    struct gw_ledger_phase phase = {
        .side = side, .depth = depth, .start_ns = start_ns, .length_ns = length_ns};

    g_strlcpy(phase.name, name, sizeof phase.name);
    g_array_append_val(attempt->phases, phase);
}

/* Ends the phase in progress; time never runs backwards in a ledger. Returns where it ended. */
static int64_t close_phase(struct attempt *attempt, uint64_t at_ns)
{
    struct gw_ledger_phase *phase =
        &g_array_index(attempt->phases, struct gw_ledger_phase, attempt->open_index);
    int64_t at = (int64_t)(at_ns - attempt->start_ns);

    if (at < phase->start_ns)
        at = phase->start_ns;
    phase->length_ns = (uint64_t)(at - phase->start_ns);
    return at;
}

void ledger_open(struct gw_ledger *ledger, enum gw_side side, const char *name, uint64_t at_ns,
                 uint64_t at_real_ns, uint64_t predicted_ns)
{
    struct attempt *attempt = g_new0(struct attempt, 1);

    attempt->pub.start_real_ns = at_real_ns;
    attempt->pub.predicted_ns = predicted_ns;
    attempt->start_ns = at_ns;
    attempt->phases = g_array_new(FALSE, TRUE, sizeof(struct gw_ledger_phase));
    add_phase(attempt, side, name, 0, 0, 0);
    GW_PROBE2(blackout_begin, (int)side, at_ns);
    GW_PROBE2(blackout_phase, name, at_ns);
    pthread_mutex_lock(&ledger->lock);
    g_ptr_array_add(ledger->attempts, attempt);
    pthread_mutex_unlock(&ledger->lock);
}

bool ledger_is_open(struct gw_ledger *ledger)
{
    bool is_open;

    pthread_mutex_lock(&ledger->lock);
    is_open = open_locked(ledger) != NULL;
    pthread_mutex_unlock(&ledger->lock);
    return is_open;
}

void ledger_next(struct gw_ledger *ledger, enum gw_side side, const char *name, uint64_t at_ns)
{
    struct attempt *attempt;

    pthread_mutex_lock(&ledger->lock);
    attempt = open_locked(ledger);
    if (attempt) {
        int64_t at = close_phase(attempt, at_ns);

        GW_PROBE2(blackout_phase, name, at_ns);
        add_phase(attempt, side, name, 0, at, 0);
        attempt->open_index = attempt->phases->len - 1;
    }
    pthread_mutex_unlock(&ledger->lock);
}

uint64_t ledger_close(struct gw_ledger *ledger, uint64_t at_ns, const char *reason,
                      uint64_t clock_error_ns)
{
    struct attempt *attempt;
    uint64_t blackout_ns = 0;

    pthread_mutex_lock(&ledger->lock);
    attempt = open_locked(ledger);
    if (attempt) {
        blackout_ns = (uint64_t)close_phase(attempt, at_ns);
        attempt->open_index = -1;
        GW_PROBE2(blackout_end, blackout_ns, reason == NULL);
        attempt->pub.blackout_ns = blackout_ns;
        attempt->pub.clock_error_ns = clock_error_ns;
        attempt->pub.is_handed_over = !reason;
        g_strlcpy(attempt->pub.reason, reason ? reason : "", sizeof attempt->pub.reason);
    }
    pthread_mutex_unlock(&ledger->lock);
    return blackout_ns;
}

void gw_ledger_note(struct gw_ledger *ledger, const char *name, uint64_t start_ns,
                    uint64_t length_ns)
{
    struct attempt *attempt;

    if (!ledger)
        return;
    GW_PROBE3(blackout_part, name, start_ns, length_ns);
    pthread_mutex_lock(&ledger->lock);
    attempt = open_locked(ledger);
    if (attempt) {
        struct gw_ledger_phase *phase =
            &g_array_index(attempt->phases, struct gw_ledger_phase, attempt->open_index);

        add_phase(attempt, phase->side, name, 1, (int64_t)(start_ns - attempt->start_ns),
                  length_ns);
    }
    pthread_mutex_unlock(&ledger->lock);
}

void ledger_note_late(struct gw_ledger *ledger, enum gw_side side, const char *name,
                      uint64_t start_ns, uint64_t length_ns)
{
    struct attempt *attempt;

    pthread_mutex_lock(&ledger->lock);
    attempt = newest_locked(ledger);
    if (attempt) {
        add_phase(attempt, side, name, 1, (int64_t)(start_ns - attempt->start_ns), length_ns);
        attempt->n_awaited -= attempt->n_awaited > 0;
    }
    pthread_mutex_unlock(&ledger->lock);
}

void gw_ledger_expect_marks(struct gw_ledger *ledger, uint32_t n_marks)
{
    struct attempt *attempt;

    if (!ledger)
        return;
    pthread_mutex_lock(&ledger->lock);
    attempt = open_locked(ledger);
    if (attempt)
        attempt->n_awaited = n_marks;
    pthread_mutex_unlock(&ledger->lock);
}

uint32_t ledger_n_awaited(struct gw_ledger *ledger)
{
    const struct attempt *attempt;
    uint32_t n;

    pthread_mutex_lock(&ledger->lock);
    attempt = newest_locked(ledger);
    n = attempt ? attempt->n_awaited : 0;
    pthread_mutex_unlock(&ledger->lock);
    return n;
}

/* What is left of a waiting phase between the other side's spans. */
struct rest {
    const char *name;
    enum gw_side side;
};

/* Cuts one waiting phase into the other side's spans and the rest between them. */
static void overlay_wait(struct attempt *to, const struct gw_ledger_phase *wait, struct rest rest,
                         enum gw_side side, struct ledger_span *spans, uint32_t n_spans)
{
    int64_t at = wait->start_ns;
    int64_t end = wait->start_ns + (int64_t)wait->length_ns;

    for (uint32_t i = 0; i < n_spans; i++) {
        int64_t from = (int64_t)(spans[i].start_ns - to->start_ns);
        int64_t until = (int64_t)(spans[i].end_ns - to->start_ns);

        if (spans[i].depth != 0 || until <= at || from >= end)
            continue;
        from = MAX(from, at);
        until = MIN(until, end);
        if (from > at)
            add_phase(to, rest.side, rest.name, 0, at, (uint64_t)(from - at));
        add_phase(to, side, spans[i].name, 0, from, (uint64_t)(until - from));
        spans[i].is_placed = true;
        at = until;
        for (uint32_t j = 0; j < n_spans; j++) {
            int64_t part = (int64_t)(spans[j].start_ns - to->start_ns);

            if (spans[j].depth != 1 || part < from || part >= until)
                continue;
            add_phase(to, side, spans[j].name, 1, part, spans[j].end_ns - spans[j].start_ns);
            spans[j].is_placed = true;
        }
    }
    if (at < end)
        add_phase(to, rest.side, rest.name, 0, at, (uint64_t)(end - at));
}

void ledger_overlay(struct gw_ledger *ledger, const char *wait_name, const char *rest_name,
                    enum gw_side side, struct ledger_span *spans, uint32_t n_spans)
{
    struct attempt *attempt;

    pthread_mutex_lock(&ledger->lock);
    attempt = newest_locked(ledger);
    if (attempt && attempt->open_index < 0) {
        GArray *old = attempt->phases;

        attempt->phases = g_array_new(FALSE, TRUE, sizeof(struct gw_ledger_phase));
        for (guint i = 0; i < old->len; i++) {
            const struct gw_ledger_phase *phase = &g_array_index(old, struct gw_ledger_phase, i);
            struct rest rest = {.name = rest_name ? rest_name : phase->name,
                                .side = rest_name ? GW_SIDE_NONE : phase->side};

            if (phase->depth == 0 && g_str_equal(phase->name, wait_name))
                overlay_wait(attempt, phase, rest, side, spans, n_spans);
            else
                g_array_append_val(attempt->phases, *phase);
        }
        g_array_unref(old);
    }
    pthread_mutex_unlock(&ledger->lock);
}

void ledger_note_unplaced(struct gw_ledger *ledger, enum gw_side side, struct ledger_span *spans,
                          uint32_t n_spans)
{
    struct attempt *attempt;

    pthread_mutex_lock(&ledger->lock);
    attempt = newest_locked(ledger);
    for (uint32_t i = 0; attempt && i < n_spans; i++) {
        if (!spans[i].is_placed)
            add_phase(attempt, side, spans[i].name, 1,
                      (int64_t)(spans[i].start_ns - attempt->start_ns),
                      spans[i].end_ns - spans[i].start_ns);
        spans[i].is_placed = true;
    }
    pthread_mutex_unlock(&ledger->lock);
}

uint32_t ledger_spans(struct gw_ledger *ledger, enum gw_side side, struct ledger_span **spans)
{
    struct attempt *attempt;
    uint32_t n = 0;

    *spans = NULL;
    pthread_mutex_lock(&ledger->lock);
    attempt = newest_locked(ledger);
    if (attempt) {
        *spans = g_new0(struct ledger_span, attempt->phases->len);
        for (guint i = 0; i < attempt->phases->len; i++) {
            const struct gw_ledger_phase *phase =
                &g_array_index(attempt->phases, struct gw_ledger_phase, i);
            uint64_t start_ns = attempt->start_ns + (uint64_t)phase->start_ns;

            if (phase->side == side)
                (*spans)[n++] = (struct ledger_span){.name = phase->name,
                                                     .depth = phase->depth,
                                                     .start_ns = start_ns,
                                                     .end_ns = start_ns + phase->length_ns};
        }
    }
    pthread_mutex_unlock(&ledger->lock);
    return n;
}

struct gw_ledger *ledger_copy(struct gw_ledger *ledger)
{
    struct gw_ledger *copy = ledger_new();

    pthread_mutex_lock(&ledger->lock);
    for (guint i = 0; i < ledger->attempts->len; i++) {
        const struct attempt *from = g_ptr_array_index(ledger->attempts, i);
        struct attempt *to = g_new0(struct attempt, 1);

        *to = *from;
        to->phases = g_array_copy(from->phases);
        if (to->open_index >= 0) {
            to->pub.blackout_ns = (uint64_t)close_phase(to, clock_mono_ns());
            to->open_index = -1;
            g_strlcpy(to->pub.reason, "in progress", sizeof to->pub.reason);
        }
        g_ptr_array_add(copy->attempts, to);
    }
    pthread_mutex_unlock(&ledger->lock);
    return copy;
}

uint32_t gw_ledger_n_attempts(const struct gw_ledger *ledger)
{
    return ledger->attempts->len;
}

const struct gw_ledger_attempt *gw_ledger_attempt_at(const struct gw_ledger *ledger, uint32_t index)
{
    struct attempt *attempt;

    if (index >= ledger->attempts->len)
        return NULL;
    attempt = g_ptr_array_index(ledger->attempts, index);
    attempt->pub.phases = (const struct gw_ledger_phase *)(void *)attempt->phases->data;
    attempt->pub.n_phases = attempt->phases->len;
    return &attempt->pub;
}
