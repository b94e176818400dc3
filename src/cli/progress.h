/* SPDX-License-Identifier: MIT */
/*
 * How a migration is shown: one line that is redrawn on a terminal, plain lines when piped, JSON
 * lines for programs; and the summary with the blackout ledger at the end.
 */
#ifndef GODWIT_CLI_PROGRESS_H
#define GODWIT_CLI_PROGRESS_H

#include <jansson.h>
#include <stdbool.h>

struct progress {
    bool is_json;
    bool is_tty;
    bool has_line; /* an unfinished line stands on the terminal */
};

void progress_init(struct progress *progress, bool is_json);
/* The line for people: bar, facts, and what the user can do about a state that waits. g_free. */
char *progress_line(const json_t *info);
/* info: what query-migrate answers. */
void progress_show(struct progress *progress, const json_t *info);
/* Ends an unfinished line, so that something else can be printed. */
void progress_break(struct progress *progress);
/* The table of who waited for pages, for people; empty when nobody is known to have. g_free. */
char *progress_waits(const json_t *info);
/* The summary. ledger: what query-blackout answers, or NULL. */
void progress_end(struct progress *progress, const json_t *info, const json_t *ledger);

#endif
