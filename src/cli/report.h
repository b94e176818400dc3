/* SPDX-License-Identifier: MIT */
/*
 * godwit migrate --report: one self-contained page about a move, whatever became of it.
 *
 * The page is HTML and XML at once, its pictures are inline SVG; it has no script and refers to
 * nothing outside. Memory is bounded however long the migration takes (cli/track.h).
 */
#ifndef GODWIT_CLI_REPORT_H
#define GODWIT_CLI_REPORT_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct report;

/* Finds out now whether path can be written, so that nobody learns after the move that it cannot:
 * makes and removes a file beside it. An existing file is replaced only by report_write. NULL with
 * error. */
struct report *report_new(const char *path, const char *vm, const char *uri, GError **error);
void report_free(struct report *report);
/* The VM's name, when it is not what it was addressed by. */
void report_set_name(struct report *report, const char *name);
/* What query-migrate-parameters answers; borrowed only during the call. */
void report_set_params(struct report *report, const json_t *params);
/* What query-migrate answers. asked_real_ns: CLOCK_REALTIME in the middle between question and
 * answer; wait_ns: between the two. */
void report_add(struct report *report, const json_t *info, uint64_t asked_real_ns,
                uint64_t wait_ns);
/* How long to wait for the next sample, at most. */
uint64_t report_step_ns(const struct report *report);
/* Writes the page from what was added, and the ledger (what query-blackout answers, or NULL).
 * ending: why nobody looks any more although the migration has not ended, or NULL. The file appears
 * whole or not at all. */
bool report_write(struct report *report, const json_t *ledger, const char *ending, GError **error);

#endif
