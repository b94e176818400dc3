/* SPDX-License-Identifier: MIT */
/*
 * The handover protocol as data: one transition table per side, drawn in docs/handover.md.
 *
 * Each side's engine keeps its state in a struct handover and changes it only through
 * handover_step(). Every (state, event) pair of a side has exactly one row; what cannot happen has
 * a row too, because a peer may send anything at any time. The rows are exported so that the
 * model (tests/model) and the unit tests are checked against this very table.
 *
 * Not here: what the actions do (source.c, destination.c). The table never sees time.
 */
#ifndef MIGRATE_HANDOVER_H
#define MIGRATE_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "godwit/migrate.h"

/* Events. Names as printed: see handover_event_name(). */
enum source_event {
    SOURCE_EV_CONNECTED = 1, /* every channel is open (migration) */
    SOURCE_EV_FILE_OPEN,     /* the one-way channel is open (snapshot) */
    SOURCE_EV_ACCEPTED,      /* both sides accept schema and RAM map */
    SOURCE_EV_BUDGET_MET,    /* predicted blackout within the budget, back-off over */
    SOURCE_EV_OVERRUN,       /* stop, flush or drain overran its share of the budget */
    SOURCE_EV_LOADED,        /* destination: this attempt is loaded, nothing is suspect */
    SOURCE_EV_RUNNING,       /* destination: I run the guest */
    SOURCE_EV_NEVER,         /* destination: I have not run it and never will */
    SOURCE_EV_SAVED,         /* the snapshot is durable */
    SOURCE_EV_LINK_LOST,     /* a channel ended, failed, fell silent, or the peer broke the rules */
    SOURCE_EV_PEER_FAILED,   /* destination: ABORT or CANCEL (which imply NEVER) */
    SOURCE_EV_FAILED,        /* something failed on this side */
    SOURCE_EV_CANCEL,        /* our user or a time budget gives up */
    SOURCE_EV_RUN_HERE,      /* operator: the destination does not run it */
    SOURCE_EV_RELEASE,       /* operator: the destination runs it; in PAUSED: give it up */
    SOURCE_EV_LINK_BROKEN,   /* as LINK_LOST, and both sides can go on over another link */
    SOURCE_EV_RECONNECTED,   /* another link is open, and it is agreed what is still to be sent */
    SOURCE_EV_RUNNING_PARTIAL, /* destination: I run the guest, and need the pages I said I lack */
    SOURCE_EV_WHOLE,           /* destination: I run the guest and lack nothing */
    SOURCE_N_EVENTS,
};

enum source_action {
    SOURCE_DO_NOTHING = 1,
    SOURCE_DO_HANDSHAKE,  /* HELLO, schema, RAM map */
    SOURCE_DO_SAVE,       /* stop the guest, write everything */
    SOURCE_DO_ROUNDS,     /* log on, send the first round */
    SOURCE_DO_SWITCHOVER, /* stop the guest, send the last pages and the state */
    SOURCE_DO_RESUME,     /* put dirty bits back, guest goes on, rounds go on */
    SOURCE_DO_COMMIT,     /* send COMMIT: the point of no return */
    SOURCE_DO_RELEASE,    /* the guest is the destination's */
    SOURCE_DO_END,        /* guest was never stopped: say why, close */
    SOURCE_DO_RESUME_END, /* guest goes on here; say why, close */
    SOURCE_DO_ASK,        /* reconnect and ask, until there is an answer */
    SOURCE_DO_REFUSE,     /* the request comes too late or too early: say so */
    SOURCE_DO_FAIL_PEER,  /* the peer said what it may not say now: LINK_LOST follows */
    SOURCE_DO_RECONNECT,  /* close the links, open others, agree on what is still to be sent */
    SOURCE_DO_RESUME_RECONNECT, /* guest goes on here; then the same */
    SOURCE_DO_RESUME_ROUNDS,    /* rounds go on with what the destination lacks */
    SOURCE_DO_SERVE,            /* send pages that the destination lacks, and those it asks for */
    SOURCE_DO_LET_GO,           /* the guest is not here, and not whole anywhere */
    SOURCE_N_ACTIONS,
};

enum destination_event {
    DESTINATION_EV_HELLO = 1,   /* a control channel with a new migration id */
    DESTINATION_EV_ACCEPTED,    /* both sides accept schema and RAM map */
    DESTINATION_EV_LOADED,      /* everything of the attempt is decoded, checked, committed */
    DESTINATION_EV_PUT_OFF,     /* source: SWITCHOVER_CANCEL */
    DESTINATION_EV_COMMIT,      /* source: COMMIT of this attempt (snapshot: a whole END) */
    DESTINATION_EV_QUERY,       /* source, on a new channel: who owns it? decide */
    DESTINATION_EV_LINK_LOST,   /* a channel ended, failed, fell silent, or broke the rules */
    DESTINATION_EV_PEER_FAILED, /* source: ABORT or CANCEL */
    DESTINATION_EV_FAILED,      /* something failed on this side, refusal included; while LISTENING:
                                   nobody can come any more (a damaged file, say) */
    DESTINATION_EV_CANCEL,      /* our user gives up */
    DESTINATION_EV_GOODBYE,     /* source: I know that you run it */
    DESTINATION_EV_RESUME,      /* a new control channel that goes on with this migration */
    DESTINATION_EV_LINK_BROKEN, /* as LINK_LOST, and both sides can go on over another link */
    DESTINATION_EV_COMMIT_PARTIAL, /* COMMIT of an attempt whose pages come after it */
    DESTINATION_EV_WHOLE,          /* the last missing page is here */
    DESTINATION_N_EVENTS,
};

enum destination_action {
    DESTINATION_DO_NOTHING = 1,
    DESTINATION_DO_HANDSHAKE, /* compare schemas and RAM maps */
    DESTINATION_DO_RECEIVE,   /* accept; pages may come */
    DESTINATION_DO_SAY_LOADED,
    DESTINATION_DO_UNLOAD,           /* forget the attempt's device state; rounds go on */
    DESTINATION_DO_RUN,              /* run the guest, say RUNNING */
    DESTINATION_DO_DISOWN,           /* remember NEVER, discard, say why, close */
    DESTINATION_DO_DISOWN_ANSWER,    /* the same, then answer NEVER */
    DESTINATION_DO_ANSWER_RUNNING,   /* answer RUNNING */
    DESTINATION_DO_ANSWER_NEVER,     /* answer NEVER (remembered) */
    DESTINATION_DO_ANSWER_UNKNOWN,   /* no migration came yet: answer UNKNOWN */
    DESTINATION_DO_NOTE_TOLD,        /* the source knows */
    DESTINATION_DO_REFUSE_BUSY,      /* turn the newcomer away */
    DESTINATION_DO_REFUSE,           /* our user's request comes too late */
    DESTINATION_DO_FAIL_PEER,        /* the peer said what it may not say now: LINK_LOST follows */
    DESTINATION_DO_KEEP,             /* close, unload, keep the pages that have come */
    DESTINATION_DO_RESUME_RECEIVING, /* unload; say what has come; rounds may go on */
    DESTINATION_DO_PAUSE,            /* close the links; who needs a missing page waits */
    DESTINATION_DO_RESUME_PAGES,     /* say what is missing; ask again for what is waited for */
    DESTINATION_DO_SAY_WHOLE,        /* say that nothing is missing */
    DESTINATION_N_ACTIONS,
};

struct handover_row {
    uint8_t state;
    uint8_t event;
    uint8_t next;
    uint8_t action;
};

/* One side's table and the names of what stands in it. */
struct handover_table {
    enum gw_side side;
    const struct handover_row *rows;
    size_t n_rows;
    uint8_t n_states, n_events, n_actions; /* valid numbers are 1 .. n-1 */
    uint8_t initial;
    const char *const *state_names; /* index by number; [0] is NULL */
    const char *const *event_names;
    const char *const *action_names;
};

const struct handover_table *handover_table(enum gw_side side);
/* The one row, or NULL for numbers out of range. */
const struct handover_row *handover_find(const struct handover_table *table, unsigned state,
                                         unsigned event);

/* The state of one side. Changed by handover_step only. */
struct handover {
    const struct handover_table *table;
    unsigned state;
};

void handover_init(struct handover *handover, enum gw_side side);
/* Takes the event: changes the state and returns the action that is now due. */
unsigned handover_step(struct handover *handover, unsigned event);

#endif
