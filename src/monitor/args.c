/* SPDX-License-Identifier: MIT */
/* Arguments of monitor commands: checked against the table, then fetched by name. */
#include <string.h>

#include "godwit/error.h"
#include "monitor/command.h"

static const char *type_name(enum arg_type type)
{
    static const char *const names[] = {
        [ARG_STRING] = "string", [ARG_INT] = "integer", [ARG_NUMBER] = "number",
        [ARG_BOOL] = "boolean",  [ARG_ANY] = "any",
    };
    return names[type];
}

static bool has_type(const json_t *value, enum arg_type type)
{
    switch (type) {
    case ARG_STRING:
        return json_is_string(value);
    case ARG_INT:
        return json_is_integer(value);
    case ARG_NUMBER:
        return json_is_number(value);
    case ARG_BOOL:
        return json_is_boolean(value);
    case ARG_ANY:
        return true;
    }
    return false;
}

static bool check_value(const struct command_arg *arg, const json_t *value, GError **error)
{
    if (!has_type(value, arg->type)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "Invalid parameter type for '%s', expected: %s", arg->name,
                    type_name(arg->type));
        return false;
    }
    if (arg->type == ARG_INT) {
        json_int_t n = json_integer_value(value);
        if (n < arg->min || (arg->max != 0 && n > arg->max)) {
            g_autofree char *upper = arg->max ? g_strdup_printf(" to %" G_GINT64_FORMAT, arg->max)
                                              : g_strdup(" or more");
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                        "Parameter '%s' expects %" G_GINT64_FORMAT "%s, got %" JSON_INTEGER_FORMAT,
                        arg->name, arg->min, upper, n);
            return false;
        }
    }
    if (arg->choices && !g_strv_contains(arg->choices, json_string_value(value))) {
        g_autofree char *list = g_strjoinv(", ", (char **)arg->choices);
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "Parameter '%s' expects one of %s",
                    arg->name, list);
        return false;
    }
    return true;
}

bool command_check_args(const struct command *command, const json_t *args, GError **error)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)args, key, value)
    {
        const struct command_arg *arg = NULL;
        for (size_t i = 0; i < COMMAND_MAX_ARGS && command->args[i].name; i++)
            if (strcmp(command->args[i].name, key) == 0)
                arg = &command->args[i];
        if (!arg) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "Parameter '%s' is unexpected", key);
            return false;
        }
        if (!check_value(arg, value, error))
            return false;
    }
    for (size_t i = 0; i < COMMAND_MAX_ARGS && command->args[i].name; i++)
        if (command->args[i].is_required && !json_object_get(args, command->args[i].name)) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "Parameter '%s' is missing",
                        command->args[i].name);
            return false;
        }
    return true;
}

const char *arg_string(const json_t *args, const char *name, const char *fallback)
{
    const json_t *value = json_object_get(args, name);
    return value ? json_string_value(value) : fallback;
}

int64_t arg_int(const json_t *args, const char *name, int64_t fallback)
{
    const json_t *value = json_object_get(args, name);
    return value ? json_integer_value(value) : fallback;
}

bool arg_bool(const json_t *args, const char *name, bool fallback)
{
    const json_t *value = json_object_get(args, name);
    return value ? json_is_true(value) : fallback;
}

bool arg_has(const json_t *args, const char *name)
{
    return json_object_get(args, name) != NULL;
}
