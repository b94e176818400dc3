/* SPDX-License-Identifier: MIT */
/* The table of monitor commands. */
#include <string.h>

#include "monitor/command.h"

static const char *const resolutions[] = {"run-here", "release", NULL};

static const char *const ram_ways[] = {"auto", "copy", "share", NULL};

static const char *const waiting_states[] = {"pre-switchover", NULL};

#define REQUIRED true
#define OPTIONAL false

static const struct command commands[] = {
    {"query-version", "The version of the monitor", {{NULL}}, run_query_version, NULL},
    {"query-commands", "The names of all commands", {{NULL}}, run_query_commands, NULL},
    {"query-name", "The machine's name", {{NULL}}, run_query_name, NULL},
    {"query-status", "Whether the guest runs, and if not, why", {{NULL}}, run_query_status, NULL},
    {"query-cpus-fast", "The vCPUs", {{NULL}}, run_query_cpus_fast, NULL},
    {"query-memory-size-summary",
     "The size of guest memory",
     {{NULL}},
     run_query_memory_size_summary,
     NULL},
    {"query-latency",
     "The latency book: how long handlers took, the worst with their names",
     {{"reset", ARG_BOOL, OPTIONAL, 0, 0, NULL, "forget what was recorded, after answering"}},
     run_query_latency,
     NULL},
    {"stop", "Pause the guest", {{NULL}}, NULL, start_stop},
    {"cont", "Let the guest go on", {{NULL}}, NULL, start_cont},
    {"system_reset", "Reset the machine", {{NULL}}, NULL, start_system_reset},
    {"system_powerdown",
     "Ask the guest to switch off (this board has no power button: only the event is sent)",
     {{NULL}},
     NULL,
     start_system_powerdown},
    {"quit",
     "End the process; the guest is lost unless it was handed over",
     {{"force", ARG_BOOL, OPTIONAL, 0, 0, NULL,
       "also when that loses the guest: in doubt, or before its memory has followed"}},
     run_quit,
     NULL},
    {"announce-self",
     "Announce the guest's network addresses",
     {{"initial", ARG_INT, OPTIONAL, 1, 100000, NULL, "ms from the first to the second"},
      {"max", ARG_INT, OPTIONAL, 1, 100000, NULL, "ms between two at most"},
      {"rounds", ARG_INT, OPTIONAL, 1, 1000, NULL, "how many"},
      {"step", ARG_INT, OPTIONAL, 0, 10000, NULL, "ms more each time"}},
     run_announce_self,
     NULL},
    {"migrate",
     "Move the guest (tcp:, unix:), or write a snapshot (file:, exec:, fd:)",
     {{"uri", ARG_STRING, REQUIRED, 0, 0, NULL, "where to"},
      {"resume", ARG_BOOL, OPTIONAL, 0, 0, NULL, "as migrate-recover (false)"},
      {"detach", ARG_BOOL, OPTIONAL, 0, 0, NULL, "accepted and ignored: it always is"}},
     run_migrate,
     NULL},
    {"snapshot-to",
     "Write a snapshot; the guest is stopped meanwhile, unless live, and goes on",
     {{"uri", ARG_STRING, REQUIRED, 0, 0, NULL, "file:, exec: or fd:"},
      {"live", ARG_BOOL, OPTIONAL, 0, 0, NULL, "stop only to save the devices (false)"}},
     run_snapshot_save,
     NULL},
    {"migrate-incoming",
     "Listen for a guest",
     {{"uri", ARG_STRING, REQUIRED, 0, 0, NULL, "where to listen"},
      {"lazy", ARG_BOOL, OPTIONAL, 0, 0, NULL, "a snapshot: run at once, read on the way (false)"},
      {"exit-on-error", ARG_BOOL, OPTIONAL, 0, 0, NULL, "end the process when it fails (true)"}},
     run_migrate_incoming,
     NULL},
    {"migrate_cancel", "Give up the migration under way", {{NULL}}, run_migrate_cancel, NULL},
    {"migrate-start-postcopy",
     "Let the guest move now, and its memory follow",
     {{NULL}},
     run_migrate_start_postcopy,
     NULL},
    {"migrate-continue",
     "Let a migration go on that waits before its switchover",
     {{"state", ARG_STRING, REQUIRED, 0, 0, waiting_states, "where it waits"}},
     run_migrate_continue,
     NULL},
    {"migrate-pause",
     "Post-copy: give up the links; at the source until migrate-recover, at the destination as if "
     "they had broken",
     {{NULL}},
     run_migrate_pause,
     NULL},
    {"migrate-recover",
     "Replace a lost link now",
     {{"uri", ARG_STRING, OPTIONAL, 0, 0, NULL,
       "from now on; at a destination, where it is needed, where to listen (as before)"}},
     run_migrate_recover,
     NULL},
    {"migrate-set-parameters",
     "Budgets and settings of migrations",
     {{"downtime-limit", ARG_INT, OPTIONAL, 1, 2000000, NULL, "longest blackout, ms"},
      {"max-bandwidth", ARG_INT, OPTIONAL, 0, 0, NULL, "bytes per second, 0: unlimited"},
      {"max-time", ARG_INT, OPTIONAL, 0, 1000000000, NULL, "ms in all, 0: unlimited"},
      {"max-slowdown", ARG_INT, OPTIONAL, 0, GW_MAX_SLOWDOWN_PERMILLE / 10, NULL,
       "percent of its time by which a vCPU that dirties too fast may be slowed, 0: not at all"},
      {"multifd-channels", ARG_INT, OPTIONAL, 0, 64, NULL,
       "page channels, 0: as both hosts see fit"},
      {"silence-limit", ARG_INT, OPTIONAL, 1, 3600000, NULL, "ms without a byte: link is dead"},
      {"ram", ARG_STRING, OPTIONAL, 0, 0, ram_ways,
       "copy: send pages; share: the destination, on this host, maps our memory; auto: if it can"},
      {"multifd-compression", ARG_STRING, OPTIONAL, 0, 0, encoding_compressions,
       "of pages: auto, while it pays"},
      {"delta", ARG_STRING, OPTIONAL, 0, 0, encoding_deltas,
       "send what changed in a page: auto, while it pays"},
      {"xbzrle-cache-size", ARG_INT, OPTIONAL, 1 << 16, INT64_C(1) << 40, NULL,
       "bytes of the contents kept for deltas"},
      {"mode", ARG_STRING, OPTIONAL, 0, 0, postcopy_modes,
       "precopy: the guest moves last; postcopy: it moves before its memory; auto: pre-copy, and "
       "post-copy when that does not converge"},
      {"at-max-time", ARG_STRING, OPTIONAL, 0, 0, postcopy_at_max_times,
       "what happens when max-time is spent"},
      {"reconnect-time", ARG_INT, OPTIONAL, 0, 1000000000, NULL,
       "ms that a link lost before the blackout's end is tried again, 0: not (10000)"},
      {"pause-before-switchover", ARG_BOOL, OPTIONAL, 0, 0, NULL,
       "wait there for migrate-continue"},
      {"forbid-postcopy", ARG_BOOL, OPTIONAL, 0, 0, NULL,
       "at either side: the guest survives the loss of either host while it moves"}},
     run_migrate_set_parameters,
     NULL},
    {"migrate-set-capabilities",
     "Switch xbzrle (deltas), postcopy-ram (allowed), pause-before-switchover on or off for good",
     {{"capabilities", ARG_ANY, REQUIRED, 0, 0, NULL, "list of {capability, state}"}},
     run_migrate_set_capabilities,
     NULL},
    {"query-migrate-capabilities",
     "What is switched on for good",
     {{NULL}},
     run_query_migrate_capabilities,
     NULL},
    {"query-migrate-parameters",
     "Budgets and settings in force",
     {{NULL}},
     run_query_migrate_parameters,
     NULL},
    {"query-migrate", "The migration under way or the last one", {{NULL}}, run_query_migrate, NULL},
    {"plan",
     "Forecast a move: watch the guest, measure the link, ask the destination; budgets not given "
     "are "
     "those in force",
     {{"uri", ARG_STRING, REQUIRED, 0, 0, NULL, "where to"},
      {"downtime-limit", ARG_INT, OPTIONAL, 1, 2000000, NULL, "longest blackout, ms"},
      {"max-bandwidth", ARG_INT, OPTIONAL, 0, 0, NULL, "bytes per second, 0: unlimited"},
      {"max-time", ARG_INT, OPTIONAL, 0, 1000000000, NULL, "ms in all, 0: unlimited"},
      {"max-slowdown", ARG_INT, OPTIONAL, 0, 99, NULL, "percent by which vCPUs may be slowed (0)"},
      {"mode", ARG_STRING, OPTIONAL, 0, 0, plan_modes, "auto: what is best"},
      {"allow-postcopy", ARG_BOOL, OPTIONAL, 0, 0, NULL,
       "may the loss of either host be the loss of the guest (true)"},
      {"sample-time", ARG_INT, OPTIONAL, 100, 60000, NULL, "ms that the guest is watched (3000)"}},
     run_plan,
     NULL},
    {"plan-cancel", "End the plan under way", {{NULL}}, run_plan_cancel, NULL},
    {"query-plan", "The plan under way or the last one", {{NULL}}, run_query_plan, NULL},
    {"query-blackout", "The blackout ledger", {{NULL}}, run_query_blackout, NULL},
    {"resolve",
     "End a doubt: say, as one who knows, which side owns the guest",
     {{"decision", ARG_STRING, REQUIRED, 0, 0, resolutions,
       "run-here: the destination does not and never will; release: it runs there"}},
     run_resolve,
     NULL},
};

const struct command *command_table(size_t *n)
{
    *n = G_N_ELEMENTS(commands);
    return commands;
}

const struct command *command_find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

json_t *run_query_commands(struct monitor *monitor, const json_t *args, GError **error)
{
    json_t *list = json_array();

    json_array_append_new(list, json_pack("{s:s}", "name", "qmp_capabilities"));
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++)
        json_array_append_new(list, json_pack("{s:s}", "name", commands[i].name));
    return list;
}
