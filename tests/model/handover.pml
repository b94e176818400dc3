/* SPDX-License-Identifier: MIT */
/*
 * Model of the handover (docs/handover.md) for Spin: both sides, the link between them, crashes.
 *
 * The sides' transition tables are not written here a second time: tables.pml is printed from the
 * tables of src/migrate/handover.c by export_tables (names, and arrays of next states and actions).
 * This file says what the actions do, what the link may do to messages, and what must never happen.
 *
 * Link: the main connection is a FIFO in each direction. A cut loses any suffix of what is under
 * way and lets the receiver read the rest before it sees the end. A source in doubt opens query
 * connections, which can be cut as well. Messages of the old connection may be read before or
 * after a query that came later: the two are independent streams. A side that has closed may still
 * act on what it had read before.
 *
 * An attempt may be a partial one (post-copy): its COMMIT hands over a guest that lacks pages, and the
 * source is not done before the destination has said that it is whole. A broken link is replaced, in
 * post-copy always, before that if KEEPS is set: the source opens another
 * connection and says RESUME, which may come before the destination has seen the old one end.
 *
 * Crashes: each side may die once, for good; the destination may also come back without a memory.
 *
 * Checked: `never two owners` at each step; `the end` in every terminal state of the model.
 */
#include "tables.pml"

#ifndef CUTS
#define CUTS 3
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 2
#endif
#ifndef KEEPS /* are links that break before COMMIT replaced? */
#define KEEPS 0
#endif

/* messages on the main connection */
#define M_HELLO   1
#define M_VERDICT 2
#define M_STATE   3 /* last pages and device state of an attempt */
#define M_PUT_OFF 4
#define M_LOADED  5
#define M_COMMIT  6
#define M_RUNNING 7
#define M_ABORT   8
#define M_GOODBYE 9
#define M_END     10 /* the connection has ended */
#define M_PARTIAL 11 /* as STATE; pages follow after COMMIT */
#define M_RESUME  12 /* the first on another connection of the same migration */
#define M_RESUMED 13
#define M_WHOLE   14
/* on a query connection */
#define Q_QUERY   1
#define Q_NEVER   2
#define Q_RUNNING 3
#define Q_UNKNOWN 4
#define Q_END     5

byte event; /* argument of the table inlines */
byte s_state = SOURCE_INITIAL, s_action;
byte d_state = DESTINATION_INITIAL, d_action;
bool s_alive = true, d_alive = true, d_is_amnesiac = false;
bool s_runs = true, d_runs = false;   /* who executes the guest */
bool d_ran = false;                   /* the destination ever did */
bool was_cancelled = false;           /* a cancel was accepted */
byte attempt = 0;                     /* the source's */
byte d_attempt = 0;                   /* what the destination has loaded */
bool s_partial = false, d_partial = false; /* is that attempt one whose pages follow later? */
bool s_keeps = false, d_keeps = false;     /* a link that broke before COMMIT is to be replaced */
bool s_linked = false, d_linked = false; /* each end's view of the main connection */
byte s_conn = 0, d_conn = 0;          /* which connection that is */
bool is_asking = false;               /* a query connection is open */
bool is_unanswerable = false;         /* the peer has answered UNKNOWN */
bool has_failed_s = false, has_cancelled_s = false, has_failed_d = false, has_cancelled_d = false;
byte cuts = CUTS;
bool is_settled = false;              /* the chaos has ended */

chan down = [8] of { byte, byte };
chan up = [8] of { byte, byte };
chan ask = [2] of { byte };
chan answer = [2] of { byte };

#define S_IS_FINAL                                                                                 \
    (s_state == S_COMPLETED || s_state == S_FAILED || s_state == S_CANCELLED ||                    \
     s_state == S_SAVED || s_state == S_LOST)

inline source_table(e)
{
    event = e;
    c_code {
        now.s_action = source_actions[now.s_state][now.event];
        now.s_state = source_next[now.s_state][now.event];
        now.event = 0;
    }
}

inline destination_table(e)
{
    event = e;
    c_code {
        now.d_action = destination_actions[now.d_state][now.event];
        now.d_state = destination_next[now.d_state][now.event];
        now.event = 0;
    }
}

inline check_owner()
{
    assert(!(s_runs && d_runs));
}

inline empty_out(c)
{
    do
    :: len(c) > 0 -> c?_, _
    :: else -> break
    od
}

inline s_send(m, a)
{
    if
    :: s_linked && d_linked && s_conn == d_conn -> down!m, a
    :: else
    fi
}

inline s_close()
{
    if
    :: s_linked ->
        s_linked = false;
        if
        :: d_linked && s_conn == d_conn -> down!M_END, 0
        :: else
        fi
    :: else
    fi
}

inline d_send(m, a)
{
    if
    :: d_linked && s_linked && s_conn == d_conn -> up!m, a
    :: else
    fi
}

inline d_close()
{
    if
    :: d_linked ->
        d_linked = false;
        if
        :: s_linked && s_conn == d_conn -> up!M_END, 0
        :: else
        fi
    :: else
    fi
}

inline d_answer(a)
{
    if
    :: is_asking && s_alive -> answer!a
    :: else
    fi
}

/* What the source's table tells it to do. Comes once, at the label `act`, in an atomic step with
 * the event that led there. */
inline s_act()
{
    source_table(ev);
    do
    :: s_action == S_DO_FAIL_PEER ->
        s_close();
        source_table(S_EV_LINK_LOST)
    :: else -> break
    od;
    if
    :: s_action == S_DO_HANDSHAKE -> s_send(M_HELLO, 0)
    :: s_action == S_DO_SAVE -> s_runs = false
    :: s_action == S_DO_SWITCHOVER ->
        s_runs = false;
        attempt++;
        if
        :: s_partial = false;
           s_send(M_STATE, attempt)
        :: s_partial = true;
           s_send(M_PARTIAL, attempt)
        fi
    :: s_action == S_DO_RESUME ->
        s_runs = true;
        s_send(M_PUT_OFF, attempt)
    :: s_action == S_DO_COMMIT -> s_send(M_COMMIT, attempt)
    :: s_action == S_DO_RELEASE ->
        assert(!s_runs);
        s_send(M_GOODBYE, 0);
        s_close()
    :: s_action == S_DO_END || s_action == S_DO_RESUME_END ->
        assert(s_runs || s_action == S_DO_RESUME_END);
        s_runs = true;
        s_send(M_ABORT, 0);
        s_close()
    :: s_action == S_DO_ASK -> s_close()
    :: s_action == S_DO_RECONNECT -> s_close()
    :: s_action == S_DO_RESUME_RECONNECT ->
        s_runs = true;
        s_close()
    :: s_action == S_DO_LET_GO ->
        assert(!s_runs);
        s_close()
    :: else
    fi;
    if
    :: ev == S_EV_CANCEL && s_state == S_CANCELLED -> was_cancelled = true
    :: else
    fi;
    ev = 0;
    s_action = 0;
    check_owner()
}

inline d_act()
{
    destination_table(ev);
    do
    :: d_action == D_DO_FAIL_PEER ->
        d_close();
        destination_table(D_EV_LINK_LOST)
    :: else -> break
    od;
    if
    :: d_action == D_DO_KEEP ->
        d_attempt = 0;
        d_close()
    :: d_action == D_DO_RESUME_RECEIVING ->
        d_attempt = 0;
        d_send(M_RESUMED, 0)
    :: d_action == D_DO_PAUSE -> d_close()
    :: d_action == D_DO_RESUME_PAGES -> d_send(M_RESUMED, 0)
    :: d_action == D_DO_SAY_WHOLE -> d_send(M_WHOLE, 0)
    :: d_action == D_DO_REFUSE_BUSY && ev == D_EV_RESUME ->
        d_send(M_ABORT, 0);
        d_close()
    :: d_action == D_DO_RECEIVE -> d_send(M_VERDICT, 0)
    :: d_action == D_DO_SAY_LOADED -> d_send(M_LOADED, d_attempt)
    :: d_action == D_DO_UNLOAD -> d_attempt = 0
    :: d_action == D_DO_RUN ->
        d_runs = true;
        d_ran = true;
        d_send(M_RUNNING, d_attempt)
    :: d_action == D_DO_DISOWN || d_action == D_DO_DISOWN_ANSWER ->
        assert(!d_runs);
        if
        :: d_action == D_DO_DISOWN -> d_send(M_ABORT, 0)
        :: else -> d_answer(Q_NEVER)
        fi;
        d_close()
    :: d_action == D_DO_ANSWER_RUNNING -> d_answer(Q_RUNNING)
    :: d_action == D_DO_ANSWER_NEVER -> d_answer(Q_NEVER)
    :: d_action == D_DO_ANSWER_UNKNOWN -> d_answer(Q_UNKNOWN)
    :: else
    fi;
    ev = 0;
    d_action = 0;
    check_owner()
}

active proctype source()
{
    byte m, a, ev;

end_of_source:
    do
    :: atomic {
    if
    :: s_alive && s_state == S_CONNECTING && !s_linked && d_alive ->
        if
        :: s_linked = true;
           d_linked = true;
           ev = S_EV_CONNECTED
        :: ev = S_EV_FILE_OPEN
        :: ev = S_EV_LINK_LOST /* it could not connect */
        fi
    :: s_alive && !d_alive && s_state == S_CONNECTING && !s_linked ->
        ev = S_EV_LINK_LOST
    :: s_alive && up?[m, a] ->
        up?m, a;
        if
        :: m == M_VERDICT -> ev = S_EV_ACCEPTED
        :: m == M_LOADED && a == attempt -> ev = S_EV_LOADED
        :: m == M_LOADED && a != attempt -> skip /* of an attempt that was put off */
        :: m == M_RUNNING && !s_partial -> ev = S_EV_RUNNING
        :: m == M_RUNNING && s_partial -> ev = S_EV_RUNNING_PARTIAL
        :: m == M_RESUMED -> ev = S_EV_RECONNECTED
        :: m == M_WHOLE -> ev = S_EV_WHOLE
        :: m == M_ABORT -> ev = S_EV_PEER_FAILED
        :: m == M_END ->
            if
            :: s_linked && s_keeps -> ev = S_EV_LINK_BROKEN
            :: s_linked && !s_keeps -> ev = S_EV_LINK_LOST
            :: else
            fi;
            s_linked = false;
            empty_out(up)
        fi;
        m = 0;
        a = 0
    /* its own decisions */
    :: s_alive && s_state == S_ROUNDS && attempt < ATTEMPTS + s_conn ->
        ev = S_EV_BUDGET_MET
    :: s_alive && s_state == S_BLACKOUT && attempt < ATTEMPTS ->
        ev = S_EV_OVERRUN
    :: s_alive && s_state == S_SAVING ->
        ev = S_EV_SAVED
    :: s_alive && !has_failed_s && !S_IS_FINAL ->
        has_failed_s = true;
        ev = S_EV_FAILED
    :: s_alive && !has_cancelled_s && !S_IS_FINAL ->
        has_cancelled_s = true;
        ev = S_EV_CANCEL
    /* another connection; what was under way on the old one may still be read before, or never */
    :: s_alive && d_alive && !s_linked && d_state != D_LISTENING &&
       (s_state == S_RECONNECTING || s_state == S_POSTCOPY_PAUSED) && nfull(down) ->
        empty_out(up);
        s_linked = true;
        s_conn++;
        if
        :: empty_out(down)
        :: skip
        fi;
        down!M_RESUME, s_conn
    /* it has tried for long enough */
    :: s_alive && s_state == S_RECONNECTING -> ev = S_EV_LINK_LOST
    /* in doubt: ask on a connection of its own */
    :: s_alive && s_state == S_IN_DOUBT && !is_asking && !is_unanswerable && d_alive ->
        is_asking = true;
        ask!Q_QUERY
    :: s_alive && answer?[m] ->
        answer?m;
        is_asking = false;
        if
        :: m == Q_NEVER -> ev = S_EV_NEVER
        :: m == Q_RUNNING && !s_partial -> ev = S_EV_RUNNING
        :: m == Q_RUNNING && s_partial -> ev = S_EV_RUNNING_PARTIAL
        :: m == Q_UNKNOWN -> is_unanswerable = true
        :: m == Q_END -> skip
        fi;
        m = 0
    /* an operator who knows that the other process is gone (or came back empty), or runs the guest */
    :: s_alive && s_state == S_IN_DOUBT && (!d_alive || d_state == D_LISTENING) ->
        ev = S_EV_RUN_HERE
    :: s_alive && s_state == S_IN_DOUBT && d_runs && !s_partial ->
        ev = S_EV_RELEASE
    /* one who knows that what is missing is missing for ever */
    :: s_alive && s_state == S_POSTCOPY_PAUSED && (!d_alive || d_state == D_LISTENING) ->
        ev = S_EV_RELEASE
    fi;
    if
    :: ev == S_EV_NEVER || ev == S_EV_RUNNING ->
        s_act();
        /* an answer ends the doubt */
        assert(S_IS_FINAL || s_state == S_POSTCOPY_PAUSED)
    :: ev != 0 && ev != S_EV_NEVER && ev != S_EV_RUNNING -> s_act()
    :: else
    fi
    }
    od
}

active proctype destination()
{
    byte m, a, ev;

end_of_destination:
    do
    :: atomic {
    if
    :: d_alive && down?[m, a] ->
        down?m, a;
        if
        :: m == M_HELLO -> ev = D_EV_HELLO
        :: m == M_STATE || m == M_PARTIAL ->
            d_attempt = a;
            d_partial = (m == M_PARTIAL);
            ev = D_EV_LOADED
        :: m == M_PUT_OFF -> ev = D_EV_PUT_OFF
        :: m == M_COMMIT && a == d_attempt && !d_partial -> ev = D_EV_COMMIT
        :: m == M_COMMIT && a == d_attempt && d_partial -> ev = D_EV_COMMIT_PARTIAL
        :: m == M_RESUME && s_linked && a == s_conn ->
            d_linked = true;
            d_conn = a;
            ev = D_EV_RESUME
        :: m == M_RESUME && !(s_linked && a == s_conn) -> skip /* that one has broken again */
        :: m == M_COMMIT && a != d_attempt -> skip
        :: m == M_ABORT -> ev = D_EV_PEER_FAILED
        :: m == M_GOODBYE -> ev = D_EV_GOODBYE
        :: m == M_END ->
            if
            :: d_linked && d_keeps -> ev = D_EV_LINK_BROKEN
            :: d_linked && !d_keeps -> ev = D_EV_LINK_LOST
            :: else
            fi;
            d_linked = false
        fi;
        m = 0;
        a = 0
    :: d_alive && d_state == D_HANDSHAKE && d_linked ->
        ev = D_EV_ACCEPTED
    /* the last page has come */
    :: d_alive && d_state == D_POSTCOPY && d_linked && s_linked && s_state == S_POSTCOPY ->
        ev = D_EV_WHOLE
    /* it has waited for long enough */
    :: d_alive && d_state == D_WAITING -> ev = D_EV_LINK_LOST
    :: d_alive && !has_failed_d && d_state != D_LISTENING ->
        has_failed_d = true;
        ev = D_EV_FAILED
    :: d_alive && !has_cancelled_d && d_state != D_LISTENING ->
        has_cancelled_d = true;
        ev = D_EV_CANCEL
    :: d_alive && ask?[m] ->
        ask?m;
        ev = D_EV_QUERY;
        m = 0
    fi;
    if
    :: ev != 0 -> d_act()
    :: else
    fi
    }
    od
}

/* What a cut does to one direction: any suffix is lost, then the end is seen. */
inline lose_suffix(c, is_open)
{
    if
    :: is_open ->
        n = len(c);
        keep = 0;
        do
        :: keep < n -> keep++
        :: break
        od;
        /* rotate: the first `keep` messages stay in their order */
        do
        :: n > 0 ->
            c?m, a;
            if
            :: keep > 0 ->
                c!m, a;
                keep--
            :: else
            fi;
            n--
        :: else -> break
        od;
        c!M_END, 0
    :: else
    fi
}

active proctype chaos()
{
    byte n, keep, m, a;

    /* Each of these may happen once, or not at all. */
    if
    :: has_failed_s = true
    :: skip
    fi;
    if
    :: has_cancelled_s = true
    :: skip
    fi;
    if
    :: has_failed_d = true
    :: skip
    fi;
    if
    :: has_cancelled_d = true
    :: skip
    fi;
#if KEEPS
    s_keeps = true; /* both sides have agreed to it */
    d_keeps = true;
#endif
    do
    :: atomic { cuts > 0 && (s_linked || d_linked) ->
        cuts--;
        /* Each end has read nothing of the cut yet, but what it sends from now on is lost. */
        lose_suffix(down, d_linked);
        lose_suffix(up, s_linked);
        n = 0; keep = 0; m = 0; a = 0 }
    :: atomic { cuts > 0 && is_asking ->
        cuts--;
        /* The question is lost, or the answer is. */
        if
        :: len(ask) > 0 -> ask?_
        :: len(answer) > 0 -> answer?_
        :: else
        fi;
        answer!Q_END }
    :: atomic { s_alive ->
        s_alive = false;
        s_runs = false;
        s_linked = false;
        if
        :: d_linked -> lose_suffix(down, true)
        :: else
        fi;
        empty_out(up);
        n = 0; keep = 0; m = 0; a = 0 }
    :: atomic { d_alive ->
        d_alive = false;
        d_runs = false;
        d_linked = false;
        if
        :: s_linked -> lose_suffix(up, true)
        :: else
        fi;
        empty_out(down);
        if
        :: is_asking ->
            if
            :: len(ask) > 0 -> ask?_
            :: else
            fi;
            if
            :: len(answer) == 0 -> answer!Q_END
            :: else
            fi
        :: else
        fi;
        /* A new process at the same address knows nothing. */
        if
        :: d_alive = true;
           d_is_amnesiac = true;
           d_state = DESTINATION_INITIAL;
           d_attempt = 0
        :: skip
        fi;
        n = 0; keep = 0; m = 0; a = 0 }
    :: break
    od;
    is_settled = true
}

/* Terminal states: the chaos has ended and nobody can move. An end label lets a side wait for ever;
 * whether it may is judged here. */
active proctype the_end()
{
    timeout;
    /* Both lived through it and could talk: exactly one owner, and nobody is in doubt. */
    assert(!(s_alive && d_alive && !d_is_amnesiac) || (s_runs != d_runs));
    assert(!(s_alive && d_alive && !d_is_amnesiac) || S_IS_FINAL);
    /* A source that lives and was never answered is in doubt; otherwise the guest is somewhere. */
    assert(!(s_alive && !d_ran) || s_runs || s_state == S_IN_DOUBT);
    /* A cancel that was accepted leaves the guest at the source. */
    assert(!(was_cancelled && s_alive) || s_runs)
}
