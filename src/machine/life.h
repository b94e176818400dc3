/* SPDX-License-Identifier: MIT */
/*
 * The life of a machine as a table: state, event, next state.
 *
 * Model: one owner of the guest at a time (docs/handover.md). A machine whose guest was handed over
 * never runs it again: no event leads out of GONE towards RUNNING.
 *
 * Threads: pure functions over constant data. struct machine holds the current state and changes it
 * in one function only (machine.c).
 */
#ifndef GODWIT_MACHINE_LIFE_H
#define GODWIT_MACHINE_LIFE_H

#include <stdbool.h>

enum life_state {
    LIFE_CREATED = 1, /* built, nothing has run */
    LIFE_INCOMING,    /* waits for, or receives, a guest from elsewhere */
    LIFE_RUNNING,
    LIFE_PAUSED,
    LIFE_BLACKOUT, /* stopped by a migration that switches over */
    LIFE_DOUBT,    /* COMMIT went out and nobody has said who runs the guest */
    LIFE_GONE,     /* the guest runs elsewhere */
    LIFE_OFF,      /* the guest switched itself off */
    LIFE_BROKEN,   /* a vCPU can never go on */
    LIFE_N_STATES,
};

enum life_event {
    LIFE_EV_LAUNCH = 1, /* start what was built */
    LIFE_EV_LAUNCH_PAUSED,
    LIFE_EV_AWAIT,        /* become a destination */
    LIFE_EV_ADOPT,        /* COMMIT was read: the guest is ours and runs */
    LIFE_EV_ADOPT_PAUSED, /* the same for a guest that was paused at the source */
    LIFE_EV_DISCARD,      /* an incoming guest failed before COMMIT */
    LIFE_EV_STOP,
    LIFE_EV_CONT,
    LIFE_EV_RESET,
    LIFE_EV_BLACKOUT,      /* the engine stops the machine */
    LIFE_EV_RESUME,        /* the handover failed before COMMIT: as before, running */
    LIFE_EV_RESUME_PAUSED, /* as before, paused */
    LIFE_EV_DOUBT,
    LIFE_EV_RELEASE, /* the destination runs the guest */
    LIFE_EV_OFF,
    LIFE_EV_BREAK,
    LIFE_N_EVENTS,
};

/* The next state, or 0 when the event is not possible in this state. */
enum life_state life_next(enum life_state state, enum life_event event);
/* QEMU's name of the state, as query-status gives it. */
const char *life_state_name(enum life_state state);
/* What a person calls the state, for messages: "is paused". */
const char *life_state_phrase(enum life_state state);
const char *life_event_phrase(enum life_event event);
/* vCPUs and devices are active in this state. */
bool life_is_active(enum life_state state);

#endif
