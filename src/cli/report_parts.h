/* SPDX-License-Identifier: MIT */
/* The parts of the page, and what they are made of. Within the report's files only. */
#ifndef GODWIT_CLI_REPORT_PARTS_H
#define GODWIT_CLI_REPORT_PARTS_H

#include <glib.h>
#include <jansson.h>

#include "cli/track.h"

struct report_facts {
    const char *vm, *uri;
    const char *ending;        /* or NULL */
    const struct track *track; /* has at least one sample */
    const json_t *info;        /* the newest answer of query-migrate */
    const json_t *params;      /* of query-migrate-parameters, or NULL */
    const json_t *ledger;      /* of query-blackout, or NULL */
    double began_real_ns;      /* CLOCK_REALTIME when the migration began */
    double total_ns;           /* from then to the newest sample */
};

extern const char report_style[];

/* Each appends its part. */
void report_put_page(GString *out, const struct report_facts *facts);
void report_put_charts(GString *out, const struct report_facts *facts);
void report_put_ledger(GString *out, const struct report_facts *facts);
void report_put_tables(GString *out, const struct report_facts *facts);

/* 0 and "" for what is not there. */
double report_number(const json_t *object, const char *key);
const char *report_word(const json_t *object, const char *key);
/* The attempt that the ledger's bar shows: the newest, or NULL. */
const json_t *report_attempt(const struct report_facts *facts);
/* "<td class=...>text</td>"; class may be NULL. */
void report_put_cell(GString *out, const char *class, const char *text);

#endif
