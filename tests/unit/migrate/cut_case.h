/* SPDX-License-Identifier: MIT */
/*
 * One post-copy whose link is cut at given records, and the judgement of how it ended.
 *
 * Model: both engines, their machines and a relay between them (tests/system/matrix/relay.h) in
 * this process. A vCPU of the destination touches missing pages. The relay lets a page of the
 * background pass only after a page that was asked for, so that both kinds are under way at any
 * time, whatever the machine does besides. When all is over the case is explained by what had
 * passed the link, or it is not.
 */
#ifndef TEST_CUT_CASE_H
#define TEST_CUT_CASE_H

#include "system/matrix/relay.h"

#define CUT_MAX_FAULTS 2
#define CUT_MAX_PLACES 400

/* How a lost link is replaced. */
enum cut_recovery {
    CUT_AUTO_LATE, /* by itself, after COMMIT only: what breaks earlier fails */
    CUT_AUTO,      /* by itself */
    CUT_BY_HAND,   /* nobody can connect until both users gave the word, with another address */
};

struct cut_case {
    struct fault faults[CUT_MAX_FAULTS];
    unsigned n_faults;
    enum cut_recovery recovery;
    bool uses_relay_again; /* by hand: the other address is behind the relay too */
};

enum cut_outcome {
    CUT_NOT_PLAYED,
    CUT_STAYED,       /* failed before COMMIT; the source goes on, the next attempt succeeded */
    CUT_DOUBT_STAYED, /* in doubt, told "never"; likewise */
    CUT_REPLACED,     /* the link was replaced before COMMIT; handed over */
    CUT_DOUBT_MOVED,  /* in doubt, told "running"; then resumed, and all of it came */
    CUT_RESUMED,      /* paused in post-copy, resumed, and all of it came */
    CUT_UNHURT,       /* everything that matters had passed */
    CUT_UNREACHED,    /* the last record did not come this time; handed over */
    CUT_N_OUTCOMES,
};

/* Plain data: it lies in memory that processes share. */
struct cut_result {
    enum cut_outcome outcome;
    unsigned n_words; /* of users: recoveries by hand */
    unsigned n_places;
    uint32_t n_ms;
    struct place places[CUT_MAX_PLACES]; /* every record that came */
    char error[512];                     /* why it is unexplained; empty: it is not */
};

/* Fails by cmocka where an engine does what it never may. */
void cut_case_play(const struct cut_case *c, struct cut_result *result);

#endif
