/* SPDX-License-Identifier: MIT */
/* The `godwit` command: the table of subcommands. */
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const char exit_help[] =
    "Exit status: 0 done, 1 failed, 2 usage, 3 refused (the ends do not fit),\n"
    "4 cancelled, 5 in doubt, 6 no such VM, 7 guest lost in post-copy.";

static const struct subcommand subcommands[] = {
    {"run", "", "start a virtual machine",
     "Ends with the guest's own status when the guest switches itself off.", cmd_run},
    {"migrate", "VM URI", "move a running guest to another process",
     "URI: tcp:HOST:PORT, unix:PATH; file:PATH and exec:COMMAND write a snapshot instead.\n"
     "Ctrl-C cancels: the guest goes on where it was.\n\n"
     "In post-copy the guest runs at the destination while part of its memory is still here: "
     "until\n"
     "that has followed, the loss of either host is the loss of the guest. Where that must not "
     "be:\n"
     "--forbid-postcopy, or godwit run --no-postcopy at either side.",
     cmd_migrate},
    {"plan", "VM URI", "say what a move would be like, and change nothing",
     "Watches the guest for three seconds, measures the link to the VM that waits at URI (tcp:,\n"
     "unix:), asks it what it would refuse, and plays the rounds ahead. Exit status 0: the "
     "budgets\n"
     "are expected to be met; 1: they are not, or nothing can be said.",
     cmd_plan},
    {"save", "VM FILE", "write a snapshot; the guest goes on afterwards",
     "FILE: a path, or a URI (file:, exec:). godwit run --restore FILE starts from it.\n"
     "exec: starts a program, which the VM may do only if it runs with --sandbox off.",
     cmd_save},
    {"watch", "VM", "follow the migration under way", NULL, cmd_watch},
    {"status", "[VM]", "say what a VM does; without VM, list all", NULL, cmd_status},
    {"cancel", "VM", "give up the migration under way", NULL, cmd_simple},
    {"postcopy", "VM", "let a migration go on in post-copy",
     "The guest moves as soon as the round in flight is at the destination, whatever is left; the\n"
     "rest of its memory follows. Until that is complete, the loss of either host is the loss of "
     "the\n"
     "guest.",
     cmd_simple},
    {"switchover", "VM", "let a migration go on that waits before its switchover", NULL,
     cmd_simple},
    {"recover", "VM [URI]", "replace a lost link now, and follow the migration",
     "At the source: tries at once, at URI from now on. At the destination of a post-copy: listens "
     "at\n"
     "URI, which is needed there.",
     cmd_recover},
    {"resolve", "VM run-here|release", "end a doubt about who owns the guest",
     "After a lost link the source cannot know whether the destination runs the guest, and keeps "
     "it\n"
     "stopped. Say run-here only if the destination does not run it and never will (its process "
     "is\n"
     "gone); say release if it does.\n\n"
     "In post-copy (postcopy-paused) release ends the migration at the source; the guest loses "
     "what "
     "it\n"
     "still lacks.",
     cmd_resolve},
    {"stop", "VM", "pause the guest", NULL, cmd_simple},
    {"cont", "VM", "let the guest go on", NULL, cmd_simple},
    {"reset", "VM", "reset the machine", NULL, cmd_simple},
    {"powerdown", "VM", "ask the guest to switch off",
     "On machine pc its power button is pressed. Machine virt has none: the request is only told "
     "to "
     "the monitor's clients.",
     cmd_simple},
    {"quit", "VM", "end the VM's process", "The guest is lost unless it was handed over.",
     cmd_simple},
    {"qmp", "VM [COMMAND [JSON]]", "talk to the monitor; without COMMAND, line by line", NULL,
     cmd_qmp},
    {"schema", "", "print the schema of a machine's saved state as JSON", NULL, cmd_schema},
    {"inspect", "FILE", "list and verify a stream file", NULL, cmd_inspect},
};

static void print_help(FILE *to)
{
    fprintf(to, "Usage: godwit COMMAND ...\n\nLive migration of virtual machines.\n\nCommands:\n");
    for (size_t i = 0; i < G_N_ELEMENTS(subcommands); i++) {
        g_autofree char *usage =
            g_strdup_printf("%s %s", subcommands[i].name, subcommands[i].operands);
        fprintf(to, "  %-30s %s\n", usage, subcommands[i].summary);
    }
    fprintf(to,
            "\nVM is a name given to godwit run, or the path of its monitor's socket.\n"
            "godwit COMMAND --help tells more.\n\n%s\n",
            exit_help);
}

void cli_complain(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    fprintf(stderr, "godwit: %s\n", text);
}

int cli_fail(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    fprintf(stderr, "godwit: %s\n", text);
    return status;
}

bool cli_parse(const struct subcommand *self, const GOptionEntry *entries, int min_operands,
               int max_operands, int *argc, char ***argv, int *status)
{
    GOptionGroup *group = g_option_group_new("main", "", "", NULL, NULL);
    if (entries)
        g_option_group_add_entries(group, entries);
    return cli_parse_group(self, group, min_operands, max_operands, argc, argv, status);
}

bool cli_parse_group(const struct subcommand *self, GOptionGroup *group, int min_operands,
                     int max_operands, int *argc, char ***argv, int *status)
{
    g_autofree char *operands = g_strdup_printf("%s - %s", self->operands, self->summary);
    g_autoptr(GOptionContext) context = g_option_context_new(operands);
    g_autofree char *description = g_strdup_printf("%s%s%s", self->details ? self->details : "",
                                                   self->details ? "\n\n" : "", exit_help);
    gboolean wants_help = FALSE;
    const GOptionEntry help[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &wants_help, "Show this text", NULL}, {NULL}};
    g_autoptr(GError) error = NULL;
    g_autofree char *program = g_strdup_printf("godwit %s", self->name);

    g_set_prgname(program);
    g_option_context_set_help_enabled(context, FALSE);
    g_option_group_add_entries(group, help);
    g_option_context_set_main_group(context, group);
    g_option_context_set_description(context, description);
    *status = CLI_USAGE;
    if (!g_option_context_parse(context, argc, argv, &error)) {
        cli_complain("%s: %s", self->name, error->message);
        return false;
    }
    if (*argc > 1 && strcmp((*argv)[1], "--") == 0) {
        memmove(*argv + 1, *argv + 2, (size_t)(*argc - 1) * sizeof **argv);
        (*argc)--;
    }
    if (wants_help) {
        g_autofree char *text = g_option_context_get_help(context, TRUE, NULL);
        printf("%s", text);
        *status = CLI_OK;
        return false;
    }
    if (*argc - 1 < min_operands || *argc - 1 > max_operands) {
        cli_complain("%s: usage: godwit %s [OPTION...] %s", self->name, self->name, self->operands);
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    setlocale(LC_NUMERIC, "C");
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("godwit 0.1.0\n");
        return CLI_OK;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(subcommands); i++)
        if (strcmp(subcommands[i].name, argv[1]) == 0)
            return subcommands[i].run(&subcommands[i], argc - 1, argv + 1);
    return cli_fail(CLI_USAGE, "unknown command \"%s\"; godwit --help lists them", argv[1]);
}
