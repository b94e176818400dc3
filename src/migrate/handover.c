/* SPDX-License-Identifier: MIT */
/*
 * The two transition tables of docs/handover.md.
 *
 * Invariants, checked by tests/unit/migrate/test_handover.c and tests/model:
 * - every (state, event) has exactly one row, every state is reachable;
 * - SOURCE_DO_COMMIT is the only way into COMMITTED, and it is taken only from BLACKOUT on LOADED;
 * - from COMMITTED and IN_DOUBT the guest resumes at the source only on NEVER, on PEER_FAILED (a
 *   destination that aborts has disowned) or on an operator's RUN_HERE;
 * - DESTINATION_DO_RUN is taken only from LOADED on COMMIT; nothing leaves RUNNING;
 * - a destination that has disowned a migration ignores a late COMMIT of it.
 */
#include "migrate/handover.h"

#include <glib.h>

#define S(state, event, next, action)                                                              \
    {                                                                                              \
        GW_SOURCE_##state, SOURCE_EV_##event, GW_SOURCE_##next, SOURCE_DO_##action                 \
    }

/* Rows that are the same in all four final states. */
#define SOURCE_FINAL(state)                                                                        \
    S(state, CONNECTED, state, NOTHING), S(state, FILE_OPEN, state, NOTHING),                      \
        S(state, ACCEPTED, state, NOTHING), S(state, BUDGET_MET, state, NOTHING),                  \
        S(state, OVERRUN, state, NOTHING), S(state, LOADED, state, NOTHING),                       \
        S(state, RUNNING, state, NOTHING), S(state, NEVER, state, NOTHING),                        \
        S(state, SAVED, state, NOTHING), S(state, LINK_LOST, state, NOTHING),                      \
        S(state, PEER_FAILED, state, NOTHING), S(state, FAILED, state, NOTHING),                   \
        S(state, CANCEL, state, REFUSE), S(state, RUN_HERE, state, REFUSE),                        \
        S(state, RELEASE, state, REFUSE)

static const struct handover_row source_rows[] = {
    S(CONNECTING, CONNECTED, HANDSHAKE, HANDSHAKE),
    S(CONNECTING, FILE_OPEN, SAVING, SAVE),
    S(CONNECTING, ACCEPTED, CONNECTING, FAIL_PEER),
    S(CONNECTING, BUDGET_MET, CONNECTING, NOTHING),
    S(CONNECTING, OVERRUN, CONNECTING, NOTHING),
    S(CONNECTING, LOADED, CONNECTING, FAIL_PEER),
    S(CONNECTING, RUNNING, CONNECTING, FAIL_PEER),
    S(CONNECTING, NEVER, CONNECTING, FAIL_PEER),
    S(CONNECTING, SAVED, CONNECTING, NOTHING),
    S(CONNECTING, LINK_LOST, FAILED, END),
    S(CONNECTING, PEER_FAILED, FAILED, END),
    S(CONNECTING, FAILED, FAILED, END),
    S(CONNECTING, CANCEL, CANCELLED, END),
    S(CONNECTING, RUN_HERE, CONNECTING, REFUSE),
    S(CONNECTING, RELEASE, CONNECTING, REFUSE),

    S(HANDSHAKE, CONNECTED, HANDSHAKE, NOTHING),
    S(HANDSHAKE, FILE_OPEN, HANDSHAKE, NOTHING),
    S(HANDSHAKE, ACCEPTED, ROUNDS, ROUNDS),
    S(HANDSHAKE, BUDGET_MET, HANDSHAKE, NOTHING),
    S(HANDSHAKE, OVERRUN, HANDSHAKE, NOTHING),
    S(HANDSHAKE, LOADED, HANDSHAKE, FAIL_PEER),
    S(HANDSHAKE, RUNNING, HANDSHAKE, FAIL_PEER),
    S(HANDSHAKE, NEVER, HANDSHAKE, FAIL_PEER),
    S(HANDSHAKE, SAVED, HANDSHAKE, NOTHING),
    S(HANDSHAKE, LINK_LOST, FAILED, END),
    S(HANDSHAKE, PEER_FAILED, FAILED, END),
    S(HANDSHAKE, FAILED, FAILED, END),
    S(HANDSHAKE, CANCEL, CANCELLED, END),
    S(HANDSHAKE, RUN_HERE, HANDSHAKE, REFUSE),
    S(HANDSHAKE, RELEASE, HANDSHAKE, REFUSE),

    S(ROUNDS, CONNECTED, ROUNDS, NOTHING),
    S(ROUNDS, FILE_OPEN, ROUNDS, NOTHING),
    S(ROUNDS, ACCEPTED, ROUNDS, FAIL_PEER),
    S(ROUNDS, BUDGET_MET, BLACKOUT, SWITCHOVER),
    S(ROUNDS, OVERRUN, ROUNDS, NOTHING),
    S(ROUNDS, LOADED, ROUNDS, FAIL_PEER),
    S(ROUNDS, RUNNING, ROUNDS, FAIL_PEER),
    S(ROUNDS, NEVER, ROUNDS, FAIL_PEER),
    S(ROUNDS, SAVED, ROUNDS, NOTHING),
    S(ROUNDS, LINK_LOST, FAILED, END),
    S(ROUNDS, PEER_FAILED, FAILED, END),
    S(ROUNDS, FAILED, FAILED, END),
    S(ROUNDS, CANCEL, CANCELLED, END),
    S(ROUNDS, RUN_HERE, ROUNDS, REFUSE),
    S(ROUNDS, RELEASE, ROUNDS, REFUSE),

    S(BLACKOUT, CONNECTED, BLACKOUT, NOTHING),
    S(BLACKOUT, FILE_OPEN, BLACKOUT, NOTHING),
    S(BLACKOUT, ACCEPTED, BLACKOUT, FAIL_PEER),
    S(BLACKOUT, BUDGET_MET, BLACKOUT, NOTHING),
    S(BLACKOUT, OVERRUN, ROUNDS, RESUME),
    S(BLACKOUT, LOADED, COMMITTED, COMMIT),
    S(BLACKOUT, RUNNING, BLACKOUT, FAIL_PEER),
    S(BLACKOUT, NEVER, BLACKOUT, FAIL_PEER),
    S(BLACKOUT, SAVED, BLACKOUT, NOTHING),
    S(BLACKOUT, LINK_LOST, FAILED, RESUME_END),
    S(BLACKOUT, PEER_FAILED, FAILED, RESUME_END),
    S(BLACKOUT, FAILED, FAILED, RESUME_END),
    S(BLACKOUT, CANCEL, CANCELLED, RESUME_END),
    S(BLACKOUT, RUN_HERE, BLACKOUT, REFUSE),
    S(BLACKOUT, RELEASE, BLACKOUT, REFUSE),

    S(COMMITTED, CONNECTED, COMMITTED, NOTHING),
    S(COMMITTED, FILE_OPEN, COMMITTED, NOTHING),
    S(COMMITTED, ACCEPTED, COMMITTED, FAIL_PEER),
    S(COMMITTED, BUDGET_MET, COMMITTED, NOTHING),
    S(COMMITTED, OVERRUN, COMMITTED, NOTHING),
    S(COMMITTED, LOADED, COMMITTED, FAIL_PEER),
    S(COMMITTED, RUNNING, COMPLETED, RELEASE),
    S(COMMITTED, NEVER, FAILED, RESUME_END),
    S(COMMITTED, SAVED, COMMITTED, NOTHING),
    S(COMMITTED, LINK_LOST, IN_DOUBT, ASK),
    S(COMMITTED, PEER_FAILED, FAILED, RESUME_END),
    S(COMMITTED, FAILED, IN_DOUBT, ASK),
    S(COMMITTED, CANCEL, COMMITTED, REFUSE),
    S(COMMITTED, RUN_HERE, COMMITTED, REFUSE),
    S(COMMITTED, RELEASE, COMMITTED, REFUSE),

    S(IN_DOUBT, CONNECTED, IN_DOUBT, NOTHING),
    S(IN_DOUBT, FILE_OPEN, IN_DOUBT, NOTHING),
    S(IN_DOUBT, ACCEPTED, IN_DOUBT, NOTHING),
    S(IN_DOUBT, BUDGET_MET, IN_DOUBT, NOTHING),
    S(IN_DOUBT, OVERRUN, IN_DOUBT, NOTHING),
    S(IN_DOUBT, LOADED, IN_DOUBT, NOTHING),
    S(IN_DOUBT, RUNNING, COMPLETED, RELEASE),
    S(IN_DOUBT, NEVER, FAILED, RESUME_END),
    S(IN_DOUBT, SAVED, IN_DOUBT, NOTHING),
    S(IN_DOUBT, LINK_LOST, IN_DOUBT, NOTHING),
    S(IN_DOUBT, PEER_FAILED, IN_DOUBT, NOTHING),
    S(IN_DOUBT, FAILED, IN_DOUBT, NOTHING),
    S(IN_DOUBT, CANCEL, IN_DOUBT, REFUSE),
    S(IN_DOUBT, RUN_HERE, FAILED, RESUME_END),
    S(IN_DOUBT, RELEASE, COMPLETED, RELEASE),

    S(SAVING, CONNECTED, SAVING, NOTHING),
    S(SAVING, FILE_OPEN, SAVING, NOTHING),
    S(SAVING, ACCEPTED, SAVING, NOTHING),
    S(SAVING, BUDGET_MET, SAVING, NOTHING),
    S(SAVING, OVERRUN, SAVING, NOTHING),
    S(SAVING, LOADED, SAVING, NOTHING),
    S(SAVING, RUNNING, SAVING, NOTHING),
    S(SAVING, NEVER, SAVING, NOTHING),
    S(SAVING, SAVED, SAVED, RESUME_END),
    S(SAVING, LINK_LOST, FAILED, RESUME_END),
    S(SAVING, PEER_FAILED, FAILED, RESUME_END),
    S(SAVING, FAILED, FAILED, RESUME_END),
    S(SAVING, CANCEL, CANCELLED, RESUME_END),
    S(SAVING, RUN_HERE, SAVING, REFUSE),
    S(SAVING, RELEASE, SAVING, REFUSE),

    SOURCE_FINAL(COMPLETED),
    SOURCE_FINAL(SAVED),
    SOURCE_FINAL(FAILED),
    SOURCE_FINAL(CANCELLED),
};

#define D(state, event, next, action)                                                              \
    {                                                                                              \
        GW_DESTINATION_##state, DESTINATION_EV_##event, GW_DESTINATION_##next,                     \
            DESTINATION_DO_##action                                                                \
    }

static const struct handover_row destination_rows[] = {
    D(LISTENING, HELLO, HANDSHAKE, HANDSHAKE),
    D(LISTENING, ACCEPTED, LISTENING, NOTHING),
    D(LISTENING, LOADED, LISTENING, NOTHING),
    D(LISTENING, PUT_OFF, LISTENING, NOTHING),
    D(LISTENING, COMMIT, LISTENING, NOTHING),
    D(LISTENING, QUERY, LISTENING, ANSWER_UNKNOWN),
    D(LISTENING, LINK_LOST, LISTENING, NOTHING),
    D(LISTENING, PEER_FAILED, LISTENING, NOTHING),
    D(LISTENING, FAILED, DISOWNED, DISOWN),
    D(LISTENING, CANCEL, LISTENING, REFUSE),
    D(LISTENING, GOODBYE, LISTENING, NOTHING),

    D(HANDSHAKE, HELLO, HANDSHAKE, REFUSE_BUSY),
    D(HANDSHAKE, ACCEPTED, RECEIVING, RECEIVE),
    D(HANDSHAKE, LOADED, HANDSHAKE, NOTHING),
    D(HANDSHAKE, PUT_OFF, HANDSHAKE, FAIL_PEER),
    D(HANDSHAKE, COMMIT, HANDSHAKE, FAIL_PEER),
    D(HANDSHAKE, QUERY, DISOWNED, DISOWN_ANSWER),
    D(HANDSHAKE, LINK_LOST, DISOWNED, DISOWN),
    D(HANDSHAKE, PEER_FAILED, DISOWNED, DISOWN),
    D(HANDSHAKE, FAILED, DISOWNED, DISOWN),
    D(HANDSHAKE, CANCEL, DISOWNED, DISOWN),
    D(HANDSHAKE, GOODBYE, HANDSHAKE, FAIL_PEER),

    D(RECEIVING, HELLO, RECEIVING, REFUSE_BUSY),
    D(RECEIVING, ACCEPTED, RECEIVING, NOTHING),
    D(RECEIVING, LOADED, LOADED, SAY_LOADED),
    D(RECEIVING, PUT_OFF, RECEIVING, UNLOAD),
    D(RECEIVING, COMMIT, RECEIVING, FAIL_PEER),
    D(RECEIVING, QUERY, DISOWNED, DISOWN_ANSWER),
    D(RECEIVING, LINK_LOST, DISOWNED, DISOWN),
    D(RECEIVING, PEER_FAILED, DISOWNED, DISOWN),
    D(RECEIVING, FAILED, DISOWNED, DISOWN),
    D(RECEIVING, CANCEL, DISOWNED, DISOWN),
    D(RECEIVING, GOODBYE, RECEIVING, FAIL_PEER),

    D(LOADED, HELLO, LOADED, REFUSE_BUSY),
    D(LOADED, ACCEPTED, LOADED, NOTHING),
    D(LOADED, LOADED, LOADED, NOTHING),
    D(LOADED, PUT_OFF, RECEIVING, UNLOAD),
    D(LOADED, COMMIT, RUNNING, RUN),
    D(LOADED, QUERY, DISOWNED, DISOWN_ANSWER),
    D(LOADED, LINK_LOST, DISOWNED, DISOWN),
    D(LOADED, PEER_FAILED, DISOWNED, DISOWN),
    D(LOADED, FAILED, DISOWNED, DISOWN),
    D(LOADED, CANCEL, DISOWNED, DISOWN),
    D(LOADED, GOODBYE, LOADED, FAIL_PEER),

    D(RUNNING, HELLO, RUNNING, REFUSE_BUSY),
    D(RUNNING, ACCEPTED, RUNNING, NOTHING),
    D(RUNNING, LOADED, RUNNING, NOTHING),
    D(RUNNING, PUT_OFF, RUNNING, NOTHING),
    D(RUNNING, COMMIT, RUNNING, NOTHING),
    D(RUNNING, QUERY, RUNNING, ANSWER_RUNNING),
    D(RUNNING, LINK_LOST, RUNNING, NOTHING),
    D(RUNNING, PEER_FAILED, RUNNING, NOTHING),
    D(RUNNING, FAILED, RUNNING, NOTHING),
    D(RUNNING, CANCEL, RUNNING, REFUSE),
    D(RUNNING, GOODBYE, RUNNING, NOTE_TOLD),

    D(DISOWNED, HELLO, HANDSHAKE, HANDSHAKE),
    D(DISOWNED, ACCEPTED, DISOWNED, NOTHING),
    D(DISOWNED, LOADED, DISOWNED, NOTHING),
    D(DISOWNED, PUT_OFF, DISOWNED, NOTHING),
    D(DISOWNED, COMMIT, DISOWNED, NOTHING),
    D(DISOWNED, QUERY, DISOWNED, ANSWER_NEVER),
    D(DISOWNED, LINK_LOST, DISOWNED, NOTHING),
    D(DISOWNED, PEER_FAILED, DISOWNED, NOTHING),
    D(DISOWNED, FAILED, DISOWNED, NOTHING),
    D(DISOWNED, CANCEL, DISOWNED, REFUSE),
    D(DISOWNED, GOODBYE, DISOWNED, NOTHING),
};

static const char *const source_state_names[GW_SOURCE_N_STATES] = {
    [GW_SOURCE_CONNECTING] = "connecting", [GW_SOURCE_HANDSHAKE] = "handshake",
    [GW_SOURCE_ROUNDS] = "rounds",         [GW_SOURCE_BLACKOUT] = "blackout",
    [GW_SOURCE_COMMITTED] = "committed",   [GW_SOURCE_IN_DOUBT] = "in-doubt",
    [GW_SOURCE_SAVING] = "saving",         [GW_SOURCE_COMPLETED] = "completed",
    [GW_SOURCE_SAVED] = "saved",           [GW_SOURCE_FAILED] = "failed",
    [GW_SOURCE_CANCELLED] = "cancelled",
};

static const char *const source_event_names[SOURCE_N_EVENTS] = {
    [SOURCE_EV_CONNECTED] = "connected",
    [SOURCE_EV_FILE_OPEN] = "file-open",
    [SOURCE_EV_ACCEPTED] = "accepted",
    [SOURCE_EV_BUDGET_MET] = "budget-met",
    [SOURCE_EV_OVERRUN] = "overrun",
    [SOURCE_EV_LOADED] = "loaded",
    [SOURCE_EV_RUNNING] = "running",
    [SOURCE_EV_NEVER] = "never",
    [SOURCE_EV_SAVED] = "saved",
    [SOURCE_EV_LINK_LOST] = "link-lost",
    [SOURCE_EV_PEER_FAILED] = "peer-failed",
    [SOURCE_EV_FAILED] = "failed",
    [SOURCE_EV_CANCEL] = "cancel",
    [SOURCE_EV_RUN_HERE] = "run-here",
    [SOURCE_EV_RELEASE] = "release",
};

static const char *const source_action_names[SOURCE_N_ACTIONS] = {
    [SOURCE_DO_NOTHING] = "nothing",
    [SOURCE_DO_HANDSHAKE] = "handshake",
    [SOURCE_DO_SAVE] = "save",
    [SOURCE_DO_ROUNDS] = "rounds",
    [SOURCE_DO_SWITCHOVER] = "switchover",
    [SOURCE_DO_RESUME] = "resume",
    [SOURCE_DO_COMMIT] = "commit",
    [SOURCE_DO_RELEASE] = "release",
    [SOURCE_DO_END] = "end",
    [SOURCE_DO_RESUME_END] = "resume-end",
    [SOURCE_DO_ASK] = "ask",
    [SOURCE_DO_REFUSE] = "refuse",
    [SOURCE_DO_FAIL_PEER] = "fail-peer",
};

static const char *const destination_state_names[GW_DESTINATION_N_STATES] = {
    [GW_DESTINATION_LISTENING] = "listening", [GW_DESTINATION_HANDSHAKE] = "handshake",
    [GW_DESTINATION_RECEIVING] = "receiving", [GW_DESTINATION_LOADED] = "loaded",
    [GW_DESTINATION_RUNNING] = "running",     [GW_DESTINATION_DISOWNED] = "disowned",
};

static const char *const destination_event_names[DESTINATION_N_EVENTS] = {
    [DESTINATION_EV_HELLO] = "hello",         [DESTINATION_EV_ACCEPTED] = "accepted",
    [DESTINATION_EV_LOADED] = "loaded",       [DESTINATION_EV_PUT_OFF] = "put-off",
    [DESTINATION_EV_COMMIT] = "commit",       [DESTINATION_EV_QUERY] = "query",
    [DESTINATION_EV_LINK_LOST] = "link-lost", [DESTINATION_EV_PEER_FAILED] = "peer-failed",
    [DESTINATION_EV_FAILED] = "failed",       [DESTINATION_EV_CANCEL] = "cancel",
    [DESTINATION_EV_GOODBYE] = "goodbye",
};

static const char *const destination_action_names[DESTINATION_N_ACTIONS] = {
    [DESTINATION_DO_NOTHING] = "nothing",
    [DESTINATION_DO_HANDSHAKE] = "handshake",
    [DESTINATION_DO_RECEIVE] = "receive",
    [DESTINATION_DO_SAY_LOADED] = "say-loaded",
    [DESTINATION_DO_UNLOAD] = "unload",
    [DESTINATION_DO_RUN] = "run",
    [DESTINATION_DO_DISOWN] = "disown",
    [DESTINATION_DO_DISOWN_ANSWER] = "disown-answer",
    [DESTINATION_DO_ANSWER_RUNNING] = "answer-running",
    [DESTINATION_DO_ANSWER_NEVER] = "answer-never",
    [DESTINATION_DO_ANSWER_UNKNOWN] = "answer-unknown",
    [DESTINATION_DO_NOTE_TOLD] = "note-told",
    [DESTINATION_DO_REFUSE_BUSY] = "refuse-busy",
    [DESTINATION_DO_REFUSE] = "refuse",
    [DESTINATION_DO_FAIL_PEER] = "fail-peer",
};

static const struct handover_table source_table = {
    .side = GW_SIDE_SOURCE,
    .rows = source_rows,
    .n_rows = G_N_ELEMENTS(source_rows),
    .n_states = GW_SOURCE_N_STATES,
    .n_events = SOURCE_N_EVENTS,
    .n_actions = SOURCE_N_ACTIONS,
    .initial = GW_SOURCE_CONNECTING,
    .state_names = source_state_names,
    .event_names = source_event_names,
    .action_names = source_action_names,
};

static const struct handover_table destination_table = {
    .side = GW_SIDE_DESTINATION,
    .rows = destination_rows,
    .n_rows = G_N_ELEMENTS(destination_rows),
    .n_states = GW_DESTINATION_N_STATES,
    .n_events = DESTINATION_N_EVENTS,
    .n_actions = DESTINATION_N_ACTIONS,
    .initial = GW_DESTINATION_LISTENING,
    .state_names = destination_state_names,
    .event_names = destination_event_names,
    .action_names = destination_action_names,
};

const struct handover_table *handover_table(enum gw_side side)
{
    return side == GW_SIDE_SOURCE ? &source_table : &destination_table;
}

const struct handover_row *handover_find(const struct handover_table *table, unsigned state,
                                         unsigned event)
{
    for (size_t i = 0; i < table->n_rows; i++)
        if (table->rows[i].state == state && table->rows[i].event == event)
            return &table->rows[i];
    return NULL;
}

void handover_init(struct handover *handover, enum gw_side side)
{
    handover->table = handover_table(side);
    handover->state = handover->table->initial;
}

unsigned handover_step(struct handover *handover, unsigned event)
{
    const struct handover_row *row = handover_find(handover->table, handover->state, event);

    g_assert(row); /* our own numbers only; the table is complete (unit test) */
    handover->state = row->next;
    return row->action;
}

const char *gw_source_state_name(enum gw_source_state state)
{
    return state > 0 && state < GW_SOURCE_N_STATES ? source_state_names[state] : "none";
}

bool gw_source_state_is_final(enum gw_source_state state)
{
    return state == GW_SOURCE_COMPLETED || state == GW_SOURCE_SAVED || state == GW_SOURCE_FAILED ||
           state == GW_SOURCE_CANCELLED;
}

const char *gw_destination_state_name(enum gw_destination_state state)
{
    return state > 0 && state < GW_DESTINATION_N_STATES ? destination_state_names[state] : "none";
}

const char *gw_side_name(enum gw_side side)
{
    return side == GW_SIDE_SOURCE ? "source" : side == GW_SIDE_DESTINATION ? "destination" : "none";
}
