/* SPDX-License-Identifier: MIT */
/*
 * The `godwit` command: subcommands, exit statuses, and what they share.
 */
#ifndef GODWIT_CLI_CLI_H
#define GODWIT_CLI_CLI_H

#include <glib.h>
#include <stdbool.h>

/* Exit statuses, the same for every subcommand. `godwit run` ends with the guest's own status when
 * the guest switches itself off. */
enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_REFUSED = 3,   /* the two ends do not fit */
    CLI_CANCELLED = 4, /* the guest goes on where it was */
    CLI_DOUBT = 5,     /* nobody can say which side owns the guest: godwit resolve */
    CLI_NO_VM = 6,     /* no monitor answers at that name or path */
    CLI_LOST = 7,      /* post-copy: the guest is lost with one of its two hosts */
};

struct subcommand {
    const char *name;
    const char *operands; /* "VM URI" */
    const char *summary;  /* one line */
    const char *details;  /* paragraphs for --help, or NULL */
    int (*run)(const struct subcommand *self, int argc, char **argv);
};

/* Parses options (entries may be NULL) and checks the number of operands. On failure, or for
 * --help, prints and gives the exit status in *status; then returns false. argv keeps the operands
 * from index 1 on; *argc counts them with argv[0]. */
bool cli_parse(const struct subcommand *self, const GOptionEntry *entries, int min_operands,
               int max_operands, int *argc, char ***argv, int *status);
/* The same with a group of the caller's (taken over), for option callbacks with user data. */
bool cli_parse_group(const struct subcommand *self, GOptionGroup *group, int min_operands,
                     int max_operands, int *argc, char ***argv, int *status);
/* "godwit: " and the text to standard error. */
void cli_complain(const char *format, ...) G_GNUC_PRINTF(1, 2);
/* complains and returns the status. */
int cli_fail(int status, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Where the monitor of a VM of this name listens (g_free). Makes the folder when is_new. NULL with
 * error when there is no safe place. */
char *cli_monitor_path(const char *name_or_path, bool is_new, GError **error);

int cmd_run(const struct subcommand *self, int argc, char **argv);
int cmd_migrate(const struct subcommand *self, int argc, char **argv);
int cmd_plan(const struct subcommand *self, int argc, char **argv);
int cmd_recover(const struct subcommand *self, int argc, char **argv);
int cmd_save(const struct subcommand *self, int argc, char **argv);
int cmd_watch(const struct subcommand *self, int argc, char **argv);
int cmd_status(const struct subcommand *self, int argc, char **argv);
int cmd_simple(const struct subcommand *self, int argc, char **argv);
int cmd_resolve(const struct subcommand *self, int argc, char **argv);
int cmd_qmp(const struct subcommand *self, int argc, char **argv);
int cmd_schema(const struct subcommand *self, int argc, char **argv);
int cmd_inspect(const struct subcommand *self, int argc, char **argv);

/* What programs read: as many digits as a measurement has. */
#define CLI_JSON_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(15))

#endif
