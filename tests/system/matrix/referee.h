/* SPDX-License-Identifier: MIT */
/*
 * The referee: plays one case between two processes and judges it.
 *
 * A case is a migration with one fault at one record, or, in doubt, with a second one at a record
 * of the source's question who owns the guest. After the fault the referee waits until both sides
 * have settled, compares what they did with what may be (by what passed the link, never by time),
 * plays the operator where only an operator can help, and lets the guest migrate once more.
 */
#ifndef MATRIX_REFEREE_H
#define MATRIX_REFEREE_H

#include "relay.h"

enum outcome {
    OUTCOME_NONE,
    OUTCOME_STAYED,       /* the source says that it failed; the guest goes on there */
    OUTCOME_MOVED,        /* completed */
    OUTCOME_DOUBT_STAYED, /* in doubt; the destination will never run it: goes on at the source */
    OUTCOME_DOUBT_MOVED,  /* in doubt; the destination runs it */
    OUTCOME_OPERATOR,     /* in doubt, nobody knows; an operator lets it go on at the source */
    OUTCOME_LOST,         /* died with the host that owned it; nobody runs it */
    OUTCOME_ALONE,        /* at the destination; the source is dead */
    OUTCOME_UNREACHED,    /* the record did not come; completed */
    OUTCOME_N,
};

/* How a side says that it ended. */
struct last_word {
    int side, code;
    char reason[256];
};

struct case_result {
    enum outcome outcome;
    bool has_next;     /* another migration was made, and it succeeded */
    bool is_resolved;  /* by the operator */
    bool has_reason;   /* both lived, it failed, and both name the same side and reason */
    bool wants_reason; /* both lived and it failed */
    bool is_too_slow;  /* the machine did not keep up with a short silence limit: play it again */
    bool is_torn;      /* the two reasons differ where bytes were damaged: play it again */
    unsigned n_replays;
    uint32_t n_ms;
    struct last_word source, destination;
    char two_reasons[512]; /* where they differ */
    char error[1536];      /* why the case is unexplained; empty: it is not */
};

struct referee {
    const char *directory;
    unsigned number; /* of the worker: for paths */
    uint32_t silence_ms, patience_ms;
    bool is_idle; /* the rounds go on until every page channel said KEEPALIVE in both directions */
    unsigned n_beats; /* so many times; 0: once */
    bool stays_held;  /* a fault does not end the rounds */
    /* The two sides' limits; 0: as the fault needs it. */
    uint32_t source_silence_ms, destination_silence_ms;
};

/* faults: n of them. places: when not NULL every record of the run is appended. */
void referee_play(const struct referee *referee, struct fault *faults, unsigned n_faults,
                  GArray *places, struct case_result *result);
char outcome_letter(enum outcome outcome);
const char *outcome_text(enum outcome outcome);

#endif
