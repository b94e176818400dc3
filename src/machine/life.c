/* SPDX-License-Identifier: MIT */
/* The life of a machine: the transition table and the names of its states. */
#include "machine/life.h"

#include <stddef.h>

struct transition {
    enum life_state from;
    enum life_event event;
    enum life_state to;
};

static const struct transition transitions[] = {
    {LIFE_CREATED, LIFE_EV_LAUNCH, LIFE_RUNNING},
    {LIFE_CREATED, LIFE_EV_LAUNCH_PAUSED, LIFE_PAUSED},
    {LIFE_CREATED, LIFE_EV_AWAIT, LIFE_INCOMING},

    {LIFE_INCOMING, LIFE_EV_ADOPT, LIFE_RUNNING},
    {LIFE_INCOMING, LIFE_EV_ADOPT_PAUSED, LIFE_PAUSED},
    {LIFE_INCOMING, LIFE_EV_DISCARD, LIFE_INCOMING},

    {LIFE_RUNNING, LIFE_EV_STOP, LIFE_PAUSED},
    {LIFE_RUNNING, LIFE_EV_CONT, LIFE_RUNNING},
    {LIFE_RUNNING, LIFE_EV_RESET, LIFE_RUNNING},
    {LIFE_RUNNING, LIFE_EV_BLACKOUT, LIFE_BLACKOUT},
    {LIFE_RUNNING, LIFE_EV_OFF, LIFE_OFF},
    {LIFE_RUNNING, LIFE_EV_BREAK, LIFE_BROKEN},

    {LIFE_PAUSED, LIFE_EV_STOP, LIFE_PAUSED},
    {LIFE_PAUSED, LIFE_EV_CONT, LIFE_RUNNING},
    {LIFE_PAUSED, LIFE_EV_RESET, LIFE_PAUSED},
    {LIFE_PAUSED, LIFE_EV_BLACKOUT, LIFE_BLACKOUT},
    {LIFE_PAUSED, LIFE_EV_OFF, LIFE_OFF},
    {LIFE_PAUSED, LIFE_EV_BREAK, LIFE_BROKEN},

    {LIFE_BLACKOUT, LIFE_EV_RESUME, LIFE_RUNNING},
    {LIFE_BLACKOUT, LIFE_EV_RESUME_PAUSED, LIFE_PAUSED},
    {LIFE_BLACKOUT, LIFE_EV_DOUBT, LIFE_DOUBT},
    {LIFE_BLACKOUT, LIFE_EV_RELEASE, LIFE_GONE},

    {LIFE_DOUBT, LIFE_EV_RESUME, LIFE_RUNNING},
    {LIFE_DOUBT, LIFE_EV_RESUME_PAUSED, LIFE_PAUSED},
    {LIFE_DOUBT, LIFE_EV_RELEASE, LIFE_GONE},

    {LIFE_OFF, LIFE_EV_RESET, LIFE_PAUSED},
    {LIFE_BROKEN, LIFE_EV_RESET, LIFE_PAUSED},
};

struct state_name {
    const char *qemu;
    const char *phrase;
    bool is_active;
};

static const struct state_name state_names[LIFE_N_STATES] = {
    [LIFE_CREATED] = {"prelaunch", "has not been started", false},
    [LIFE_INCOMING] = {"inmigrate", "waits for an incoming guest", false},
    [LIFE_RUNNING] = {"running", "is running", true},
    [LIFE_PAUSED] = {"paused", "is paused", false},
    [LIFE_BLACKOUT] = {"finish-migrate", "is stopped by a migration that switches over", false},
    [LIFE_DOUBT] = {"finish-migrate", "is stopped because its ownership is in doubt", false},
    [LIFE_GONE] = {"postmigrate", "was handed over to another process", false},
    [LIFE_OFF] = {"shutdown", "has switched itself off", false},
    [LIFE_BROKEN] = {"internal-error", "cannot go on", false},
};

static const char *const event_phrases[LIFE_N_EVENTS] = {
    [LIFE_EV_LAUNCH] = "start",
    [LIFE_EV_LAUNCH_PAUSED] = "start paused",
    [LIFE_EV_AWAIT] = "wait for an incoming guest",
    [LIFE_EV_ADOPT] = "adopt the incoming guest",
    [LIFE_EV_ADOPT_PAUSED] = "adopt the incoming paused guest",
    [LIFE_EV_DISCARD] = "discard the incoming guest",
    [LIFE_EV_STOP] = "stop",
    [LIFE_EV_CONT] = "continue",
    [LIFE_EV_RESET] = "reset",
    [LIFE_EV_BLACKOUT] = "switch over",
    [LIFE_EV_RESUME] = "resume after a failed switchover",
    [LIFE_EV_RESUME_PAUSED] = "stay paused after a failed switchover",
    [LIFE_EV_DOUBT] = "put in doubt",
    [LIFE_EV_RELEASE] = "let go",
    [LIFE_EV_OFF] = "switch off",
    [LIFE_EV_BREAK] = "stop for ever",
};

enum life_state life_next(enum life_state state, enum life_event event)
{
    for (size_t i = 0; i < sizeof transitions / sizeof transitions[0]; i++)
        if (transitions[i].from == state && transitions[i].event == event)
            return transitions[i].to;
    return 0;
}

const char *life_state_name(enum life_state state)
{
    return state_names[state].qemu;
}

const char *life_state_phrase(enum life_state state)
{
    return state_names[state].phrase;
}

const char *life_event_phrase(enum life_event event)
{
    return event_phrases[event];
}

bool life_is_active(enum life_state state)
{
    return state_names[state].is_active;
}
