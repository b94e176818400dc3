/* SPDX-License-Identifier: MIT */
/* Budgets from the command line to the monitor's arguments. */
#include "cli/budgets.h"

#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "cli/cli.h"

bool budget_put_duration(json_t *args, const char *name, const char *option, const char *text)
{
    g_autoptr(GError) error = NULL;
    uint64_t ns;

    if (!text)
        return true;
    if (!text_parse_duration(text, &ns, &error)) {
        cli_complain("--%s: %s", option, error->message);
        return false;
    }
    json_object_set_new(args, name, json_integer((json_int_t)((ns + NS_PER_MS - 1) / NS_PER_MS)));
    return true;
}

bool budget_put_rate(json_t *args, const char *name, const char *option, const char *text)
{
    g_autoptr(GError) error = NULL;
    uint64_t bytes;

    if (!text)
        return true;
    g_autofree char *size = g_strdup(text);
    if (g_str_has_suffix(size, "/s"))
        size[strlen(size) - 2] = '\0';
    if (!text_parse_size(size, &bytes, &error)) {
        cli_complain("--%s: %s", option, error->message);
        return false;
    }
    json_object_set_new(args, name, json_integer((json_int_t)bytes));
    return true;
}

bool budget_put_percent(json_t *args, const char *name, const char *option, const char *text)
{
    guint64 percent;

    if (!text)
        return true;
    g_autofree char *digits = g_strdup(text);
    if (g_str_has_suffix(digits, "%"))
        digits[strlen(digits) - 1] = '\0';
    if (!g_ascii_string_to_unsigned(digits, 10, 0, 99, &percent, NULL)) {
        cli_complain("--%s: \"%s\" is not a share from 0%% to 99%%", option, text);
        return false;
    }
    json_object_set_new(args, name, json_integer((json_int_t)percent));
    return true;
}
