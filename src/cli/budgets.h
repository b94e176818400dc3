/* SPDX-License-Identifier: MIT */
/* Budgets from the command line to the monitor's arguments. */
#ifndef GODWIT_CLI_BUDGETS_H
#define GODWIT_CLI_BUDGETS_H

#include <jansson.h>
#include <stdbool.h>

/* Each puts the option's text (NULL: not given) into args; false: it was nonsense, and that was
 * said. */
bool budget_put_duration(json_t *args, const char *name, const char *option, const char *text);
bool budget_put_rate(json_t *args, const char *name, const char *option, const char *text);
/* "30%" or "30": 0 to 99. */
bool budget_put_percent(json_t *args, const char *name, const char *option, const char *text);

#endif
