/* SPDX-License-Identifier: MIT */
/*
 * The blackout ledger: where every nanosecond between "stop" and "runs again" went.
 *
 * Model: an attempt is opened at the instant the blackout begins. ledger_next closes the phase in
 * progress and opens the next one at the same instant; ledger_close ends the last one. So the
 * phases of depth 0 are a partition of the blackout by construction, and their sum is exact. The
 * source's waiting phases are afterwards overlaid with what the destination did in them
 * (ledger_overlay), moved onto the source's clock and clipped to the wait; what is left of a wait
 * is the wire's. Clipping is what keeps the sum exact whatever the error of the clock alignment.
 *
 * Threads: every function may be called from any thread.
 */
#ifndef MIGRATE_LEDGER_H
#define MIGRATE_LEDGER_H

#include "base/clock.h"
#include "godwit/migrate.h"

struct gw_ledger *ledger_new(void);
/* A copy of the closed attempts (and of the open one, closed at now, if there is one). */
struct gw_ledger *ledger_copy(struct gw_ledger *ledger);

/* Times: CLOCK_MONOTONIC ns of this host. */
void ledger_open(struct gw_ledger *ledger, enum gw_side side, const char *name, uint64_t at_ns,
                 uint64_t at_real_ns, uint64_t predicted_ns);
bool ledger_is_open(struct gw_ledger *ledger);
void ledger_next(struct gw_ledger *ledger, enum gw_side side, const char *name, uint64_t at_ns);
/* reason NULL: handed over. Nothing happens when no attempt is open. Returns the blackout. */
uint64_t ledger_close(struct gw_ledger *ledger, uint64_t at_ns, const char *reason,
                      uint64_t clock_error_ns);
/* Adds a part (depth 1) to the newest attempt, also when it is closed. */
void ledger_note_late(struct gw_ledger *ledger, enum gw_side side, const char *name,
                      uint64_t start_ns, uint64_t length_ns);

/* How many of the marks that the newest attempt was told to expect have not come. */
uint32_t ledger_n_awaited(struct gw_ledger *ledger);

/* A phase of the other side, on this side's clock. */
struct ledger_span {
    const char *name; /* borrowed */
    uint32_t depth;
    uint64_t start_ns, end_ns;
    bool is_placed; /* by an overlay */
};
/* Cuts every phase of depth 0 of the newest attempt that is called wait_name where spans of depth 0
 * (ascending) fall into it: the spans take their part, what is left of it is called rest_name
 * (NULL: stays as it is). Spans of depth 1 follow theirs. */
void ledger_overlay(struct gw_ledger *ledger, const char *wait_name, const char *rest_name,
                    enum gw_side side, struct ledger_span *spans, uint32_t n_spans);
/* After the last overlay: spans that fell into no wait (short ones may, by the error of the clocks)
 * are kept at depth 1, so that nothing the other side did goes unnamed. */
void ledger_note_unplaced(struct gw_ledger *ledger, enum gw_side side, struct ledger_span *spans,
                          uint32_t n_spans);
/* The phases of the newest attempt as absolute spans; names are valid until the next change. */
uint32_t ledger_spans(struct gw_ledger *ledger, enum gw_side side, struct ledger_span **spans);

#endif
