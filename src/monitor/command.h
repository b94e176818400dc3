/* SPDX-License-Identifier: MIT */
/*
 * The command table's shape, and how a handler answers.
 */
#ifndef GODWIT_MONITOR_COMMAND_H
#define GODWIT_MONITOR_COMMAND_H

#include "monitor/monitor.h"

#define COMMAND_MAX_ARGS 24

enum arg_type {
    ARG_STRING = 1,
    ARG_INT,    /* 0 or more unless min says otherwise */
    ARG_NUMBER, /* integer or fraction */
    ARG_BOOL,
    ARG_ANY, /* checked by the handler */
};

struct command_arg {
    const char *name;
    enum arg_type type;
    bool is_required;
    int64_t min, max;           /* ARG_INT; max 0: no limit */
    const char *const *choices; /* ARG_STRING: NULL-terminated, or NULL */
    const char *help;
};

struct monitor_call; /* a command that has not been answered yet */

struct command {
    const char *name;
    const char *help;
    struct command_arg args[COMMAND_MAX_ARGS];
    /* One of the two. run answers at once: a new reference, or NULL with error. */
    json_t *(*run)(struct monitor *monitor, const json_t *args, GError **error);
    /* start takes the call and answers later through monitor_call_finish. */
    void (*start)(struct monitor_call *call, struct monitor *monitor, const json_t *args);
};

const struct command *command_find(const char *name);
/* All rows; *n receives their number. */
const struct command *command_table(size_t *n);
/* Names, types, ranges; unknown and missing arguments. args may be NULL (none). */
bool command_check_args(const struct command *command, const json_t *args, GError **error);

/* result is taken over and may be NULL when error is given; error is borrowed. */
void monitor_call_finish(struct monitor_call *call, json_t *result, const GError *error);

struct machine *monitor_machine(struct monitor *monitor);
struct migration *monitor_migration(struct monitor *monitor);
void monitor_quit(struct monitor *monitor);

/* Argument access after the check; fallback when absent. */
const char *arg_string(const json_t *args, const char *name, const char *fallback);
int64_t arg_int(const json_t *args, const char *name, int64_t fallback);
bool arg_bool(const json_t *args, const char *name, bool fallback);
bool arg_has(const json_t *args, const char *name);

/* commands_migrate.c and commands_machine.c: the handlers the table names. */
#define MONITOR_RUN(name) json_t *name(struct monitor *monitor, const json_t *args, GError **error)
#define MONITOR_START(name)                                                                        \
    void name(struct monitor_call *call, struct monitor *monitor, const json_t *args)

MONITOR_RUN(run_query_version);
MONITOR_RUN(run_query_commands);
MONITOR_RUN(run_query_status);
MONITOR_RUN(run_query_name);
MONITOR_RUN(run_query_cpus_fast);
MONITOR_RUN(run_query_memory_size_summary);
MONITOR_RUN(run_query_latency);
MONITOR_RUN(run_quit);
MONITOR_RUN(run_announce_self);
MONITOR_START(start_stop);
MONITOR_START(start_cont);
MONITOR_START(start_system_reset);
MONITOR_START(start_system_powerdown);

MONITOR_RUN(run_migrate);
MONITOR_RUN(run_migrate_incoming);
MONITOR_RUN(run_migrate_cancel);
MONITOR_RUN(run_migrate_set_parameters);
MONITOR_RUN(run_query_migrate_parameters);
MONITOR_RUN(run_migrate_set_capabilities);
MONITOR_RUN(run_query_migrate_capabilities);
MONITOR_RUN(run_query_migrate);
MONITOR_RUN(run_query_blackout);
MONITOR_RUN(run_resolve);
MONITOR_RUN(run_snapshot_save);

/* commands_plan.c */
MONITOR_RUN(run_plan);
MONITOR_RUN(run_plan_cancel);
MONITOR_RUN(run_query_plan);
extern const char *const plan_modes[];
/* {expected, low, high}; null: never. */
json_t *range_to_json(const struct gw_range *value);

/* commands_encoding.c: its part of parameters and of query-migrate. */
extern const char *const encoding_compressions[];
extern const char *const encoding_deltas[];
void encoding_set_params(struct gw_migrate_params *params, const json_t *args);
void encoding_put_params(json_t *object, const struct gw_migrate_params *params);
void encoding_put_status(json_t *info, const struct gw_source_status *status);

/* QEMU's word for a migration's state, as query-migrate's "status" and the event MIGRATION have it.
 */
const char *migrate_source_word(const struct gw_source_status *status);
const char *migrate_destination_word(enum gw_destination_state state);

MONITOR_RUN(run_migrate_start_postcopy);
MONITOR_RUN(run_migrate_continue);
MONITOR_RUN(run_migrate_pause);
MONITOR_RUN(run_migrate_recover);

/* commands_postcopy.c: its part of parameters and of query-migrate. */
extern const char *const postcopy_modes[];
extern const char *const postcopy_at_max_times[];
void postcopy_set_params(struct gw_migrate_params *params, const json_t *args);
void postcopy_put_params(json_t *object, const struct gw_migrate_params *params);
void postcopy_put_source(json_t *info, struct gw_source *source,
                         const struct gw_source_status *status);
void postcopy_put_destination(json_t *info, struct gw_destination *destination,
                              const struct gw_destination_status *status);

/* Event names and data of the migration's and the machine's notices. */
void monitor_on_machine_notice(void *opaque, const struct machine_notice *notice);
void monitor_on_migration_notice(void *opaque, const struct migration_notice *notice);

#endif
