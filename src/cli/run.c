/* SPDX-License-Identifier: MIT */
/* godwit run: from options to a machine, its main loop, and its end. */
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/text.h"
#include "cli/cli.h"
#include "cli/confine.h"
#include "godwit/error.h"
#include "machine/device_kinds.h"
#include "machine/machine.h"
#include "machine/migration.h"
#include "machine/sandbox.h"
#include "monitor/monitor.h"

struct run {
    /* from options */
    char *board, *name, *cpu, *dirty_log, *memory, *bios, *kernel, *initrd, *append, *console,
        *incoming, *restore;
    char *sandbox;
    char *monitor_path;
    char **qmp_paths, **confine;
    int n_cpus;
    gboolean is_paused, is_prefaulted, is_lazy, no_reboot, no_shutdown, no_postcopy;
    struct machine_config config;
    struct termios terminal; /* as it was found */
    bool has_terminal;
    bool has_sockets; /* atomic: the monitors' are ours */

    GMainLoop *loop;
    struct machine *machine;
    struct migration *migration;
    struct monitor *monitor;
    int status;
};

static void finish(struct run *run, int status)
{
    run->status = status;
    g_main_loop_quit(run->loop);
}

/* ---- options --------------------------------------------------------------------------------- */

static gboolean take_device(const char *option, const char *value, gpointer opaque, GError **error)
{
    struct run *run = opaque;
    struct device_config *device =
        device_config_parse(option + strspn(option, "-"), value ? value : "", error);

    if (!device)
        return FALSE;
    g_ptr_array_add(run->config.devices, device);
    return TRUE;
}

static bool parse_options(struct run *run, const struct subcommand *self, int *argc, char ***argv,
                          int *status)
{
    const GOptionArg callback = G_OPTION_ARG_CALLBACK;
    const GOptionEntry entries[] = {
        {"machine", 'M', 0, G_OPTION_ARG_STRING, &run->board,
         "The board: pc (x86-64 on KVM), virt (RISC-V 64 in software); pc where KVM runs it, else "
         "virt",
         "NAME"},
        {"name", 'n', 0, G_OPTION_ARG_STRING, &run->name, "How other commands call it", "NAME"},
        {"memory", 'm', 0, G_OPTION_ARG_STRING, &run->memory, "Guest RAM (512M)", "SIZE"},
        {"prefault", 0, 0, G_OPTION_ARG_NONE, &run->is_prefaulted,
         "Make all guest RAM present before anything starts", NULL},
        {"cpus", 'c', 0, G_OPTION_ARG_INT, &run->n_cpus, "vCPUs (1)", "N"},
        {"cpu", 0, 0, G_OPTION_ARG_STRING, &run->cpu,
         "pc: the processor: host (default), x86-64-v2, -v3 or -v4, then ,+feature or ,-feature",
         "MODEL"},
        {"dirty-log", 0, 0, G_OPTION_ARG_STRING, &run->dirty_log,
         "pc: how KVM tells what the guest writes: auto (default), bitmap or ring", "KIND"},
        {"bios", 0, 0, G_OPTION_ARG_FILENAME, &run->bios,
         "virt: firmware, raw or ELF (OpenSBI); none: the kernel runs in M-mode. pc: a real-mode "
         "image",
         "FILE"},
        {"kernel", 'k', 0, G_OPTION_ARG_FILENAME, &run->kernel,
         "Kernel: Linux (virt: Image, pc: bzImage), ELF or raw", "FILE"},
        {"initrd", 'i', 0, G_OPTION_ARG_FILENAME, &run->initrd, "Initial RAM disk", "FILE"},
        {"append", 'a', 0, G_OPTION_ARG_STRING, &run->append, "Kernel command line", "TEXT"},
        {"net", 0, 0, callback, take_device, "A network device: see below", "OPTIONS"},
        {"disk", 0, 0, callback, take_device, "A disk: see below", "FILE[,OPTIONS]"},
        {"rng", 0, G_OPTION_FLAG_NO_ARG, callback, take_device, "A source of random numbers", NULL},
        {"balloon", 0, G_OPTION_FLAG_NO_ARG, callback, take_device, "A memory balloon", NULL},
        {"vconsole", 0, 0, callback, take_device, "A virtio console", "SPEC"},
        {"console", 0, 0, G_OPTION_ARG_STRING, &run->console,
         "The serial port: stdio, file:PATH[,append], unix:PATH, pty, null (stdio on a terminal)",
         "SPEC"},
        {"incoming", 0, 0, G_OPTION_ARG_STRING, &run->incoming,
         "Wait for a guest here: tcp:HOST:PORT, unix:PATH, fd:N; defer: told by migrate-incoming",
         "URI"},
        {"restore", 0, 0, G_OPTION_ARG_FILENAME, &run->restore, "Start from a snapshot", "FILE"},
        {"lazy", 0, 0, G_OPTION_ARG_NONE, &run->is_lazy,
         "With --restore: run at once, read memory when it is needed", NULL},
        {"no-postcopy", 0, 0, G_OPTION_ARG_NONE, &run->no_postcopy,
         "Neither send nor take a guest in post-copy: it survives the loss of either host", NULL},
        {"paused", 'S', 0, G_OPTION_ARG_NONE, &run->is_paused, "Do not start the guest yet", NULL},
        {"no-reboot", 0, 0, G_OPTION_ARG_NONE, &run->no_reboot, "End when the guest reboots", NULL},
        {"no-shutdown", 0, 0, G_OPTION_ARG_NONE, &run->no_shutdown,
         "Stay when the guest switches itself off", NULL},
        {"qmp", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &run->qmp_paths,
         "Also listen for monitor clients here", "PATH"},
        {"sandbox", 0, 0, G_OPTION_ARG_STRING, &run->sandbox,
         "Give up what a running machine never needs: on (default) or off", "on|off"},
        {"confine", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &run->confine,
         "Open files only below here and where these options say; may be repeated", "FOLDER"},
        {NULL},
    };
    g_autofree char *devices = device_config_help();
    g_autofree char *details = g_strdup_printf("%s\n%s", devices, self->details);
    struct subcommand described = *self;
    GOptionGroup *group = g_option_group_new("run", "Options", "", run, NULL);

    described.details = details;
    g_option_group_add_entries(group, entries);
    return cli_parse_group(&described, group, 0, 0, argc, argv, status);
}

static bool has_sandbox(const struct run *run)
{
    return !run->sandbox || strcmp(run->sandbox, "on") == 0;
}

static bool take_dirty_log(struct run *run, GError **error)
{
    static const struct {
        const char *name;
        enum cpu_dirty_log kind;
    } kinds[] = {{"auto", CPU_DIRTY_LOG_AUTO},
                 {"bitmap", CPU_DIRTY_LOG_BITMAP},
                 {"ring", CPU_DIRTY_LOG_RING}};

    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (!run->dirty_log || strcmp(run->dirty_log, kinds[i].name) == 0) {
            run->config.dirty_log = kinds[i].kind;
            return true;
        }
    }
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                "--dirty-log \"%s\": expected auto, bitmap or ring", run->dirty_log);
    return false;
}

static bool make_config(struct run *run, GError **error)
{
    struct machine_config *config = &run->config;

    config->board = run->board ? run->board : machine_default_board();
    if (!run->name)
        run->name = g_strdup_printf("vm%d", (int)getpid());
    config->name = run->name;
    if (!text_parse_size(run->memory ? run->memory : "512M", &config->memory_bytes, error)) {
        g_prefix_error(error, "--memory: ");
        return false;
    }
    if (run->n_cpus < 1 || run->n_cpus > 4096) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "--cpus %d is out of range", run->n_cpus);
        return false;
    }
    config->n_cpus = (unsigned)run->n_cpus;
    config->cpu = run->cpu;
    if (!take_dirty_log(run, error))
        return false;
    config->is_prefaulted = run->is_prefaulted;
    config->bios = run->bios;
    config->kernel = run->kernel;
    config->initrd = run->initrd;
    config->append = run->append;
    if (!run->console)
        run->console = g_strdup(isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) ? "stdio" : "null");
    config->console = run->console;
    config->is_incoming = run->incoming || run->restore;
    if (run->incoming && run->restore) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "--incoming and --restore exclude each other");
        return false;
    }
    if (run->is_lazy && (!run->restore || run->is_prefaulted)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "--lazy needs --restore and excludes --prefault");
        return false;
    }
    if (run->sandbox && strcmp(run->sandbox, "on") != 0 && strcmp(run->sandbox, "off") != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "--sandbox \"%s\": expected on or off",
                    run->sandbox);
        return false;
    }
    if (run->confine && !has_sandbox(run)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "--confine needs --sandbox on");
        return false;
    }
    if (!config->is_incoming && !config->kernel && !config->bios) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "nothing to run: --kernel, --bios, --incoming or --restore is needed");
        return false;
    }
    return true;
}

/* ---- what happens ---------------------------------------------------------------------------- */

/* A vCPU or a device waits for memory that will never come. Nothing that waits for them may be
 * done, and nothing of the guest may happen any more. On whatever thread found out. */
static _Noreturn void end_at_once(struct run *run, int status)
{
    const char *uri = run->migration && migration_destination(run->migration)
                          ? gw_destination_uri(migration_destination(run->migration))
                          : "";

    if (run->has_terminal)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &run->terminal);
    if (__atomic_load_n(&run->has_sockets, __ATOMIC_ACQUIRE)) {
        unlink(run->monitor_path);
        for (char **extra = run->qmp_paths; extra && *extra; extra++)
            unlink(*extra);
    }
    if (g_str_has_prefix(uri, "unix:"))
        unlink(uri + strlen("unix:"));
    _exit(status);
}

static void on_memory_lost(void *opaque, const char *reason)
{
    cli_complain("the guest cannot go on: %s", reason);
    end_at_once(opaque, CLI_FAILED);
}

static void on_machine_notice(void *opaque, const struct machine_notice *notice)
{
    struct run *run = opaque;

    switch (notice->kind) {
    case MACHINE_NOTICE_SHUTDOWN:
        if (!run->no_shutdown)
            finish(run, (int)notice->exit_code);
        break;
    case MACHINE_NOTICE_BROKEN:
        cli_complain("the guest cannot go on: %s", notice->detail);
        if (!run->no_shutdown)
            finish(run, CLI_FAILED);
        break;
    case MACHINE_NOTICE_ESCAPE:
        finish(run, CLI_OK);
        break;
    default:
        break;
    }
}

static void on_migration_notice(void *opaque, const struct migration_notice *notice)
{
    struct run *run = opaque;

    if (notice->kind == MIGRATION_NOTICE_DESTINATION && notice->value == GW_DESTINATION_RUNNING) {
        struct gw_destination_status status;

        gw_destination_get_status(migration_destination(run->migration), &status);
        if (*status.note)
            cli_complain("%s", status.note);
    }
    if (notice->kind != MIGRATION_NOTICE_DISCARDED)
        return;
    cli_complain("%s: %s",
                 run->restore ? "the snapshot is not restored" : "the incoming guest was lost",
                 notice->detail ? notice->detail : "no reason");
    if (notice->wants_exit)
        finish(run, CLI_FAILED);
}

static void on_quit(void *opaque)
{
    finish(opaque, CLI_OK);
}

static bool open_monitors(struct run *run, GError **error)
{
    const struct monitor_config config = {
        .machine = run->machine,
        .migration = run->migration,
        .context = g_main_loop_get_context(run->loop),
        .quit = on_quit,
        .opaque = run,
    };
    const char *path = run->monitor_path;

    run->monitor = monitor_new(&config);
    if (!monitor_listen(run->monitor, path, error))
        return false;
    for (char **extra = run->qmp_paths; extra && *extra; extra++)
        if (strcmp(*extra, path) != 0 && !monitor_listen(run->monitor, *extra, error))
            return false;
    __atomic_store_n(&run->has_sockets, true, __ATOMIC_RELEASE);
    return true;
}

/* Clients of the monitors are served when the machine has been started, or waits for a guest, and
 * not before: whoever has a greeting may move the guest, or send one. */
static void on_launched(void *opaque, const GError *error)
{
    struct run *run = opaque;

    if (error) {
        cli_complain("%s", error->message);
        finish(run, CLI_FAILED);
        return;
    }
    monitor_serve(run->monitor);
}

static void on_awaiting(void *opaque, const GError *failure)
{
    struct run *run = opaque;
    g_autofree char *uri =
        run->restore ? g_strconcat("file:", run->restore, NULL) : g_strdup(run->incoming);
    g_autoptr(GError) error = NULL;

    if (failure) {
        cli_complain("%s", failure->message);
        finish(run, CLI_FAILED);
        return;
    }
    bool is_deferred = strcmp(uri, "defer") == 0;
    if (!is_deferred && !migration_listen(run->migration, uri, run->is_lazy, true, &error)) {
        cli_complain("%s", error->message);
        finish(run, CLI_FAILED);
        return;
    }
    monitor_serve(run->monitor);
    if (run->incoming && !is_deferred)
        fprintf(stderr, "godwit: waiting for a guest at %s\n",
                gw_destination_uri(migration_destination(run->migration)));
}

static gboolean on_signal(gpointer opaque)
{
    finish(opaque, CLI_OK);
    return G_SOURCE_CONTINUE;
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool enter_sandbox(struct run *run, GError **error)
{
    const unsigned long *requests = machine_cpu_requests(run->machine);

    return sandbox_drop_calls(error) && (!requests || sandbox_drop_requests(requests, error));
}

static bool start(struct run *run, GError **error)
{
    GMainContext *context = g_main_loop_get_context(run->loop);

    /* Before there are threads: Landlock holds only for those made later. */
    if (has_sandbox(run) && !confine_files(&run->config, run->confine, run->qmp_paths,
                                           run->incoming, run->restore, error))
        return false;
    run->machine = machine_new(&run->config, context, error);
    if (!run->machine)
        return false;
    run->monitor_path = cli_monitor_path(run->name, true, error);
    if (!run->monitor_path)
        return false;
    machine_set_lost_fn(run->machine, on_memory_lost, run);
    run->migration = migration_new(run->machine, context);
    if (run->no_postcopy) {
        struct gw_migrate_params params = *migration_params(run->migration);
        params.forbids_postcopy = true;
        migration_set_params(run->migration, &params);
    }
    machine_add_listener(run->machine, on_machine_notice, run);
    migration_add_listener(run->migration, on_migration_notice, run);
    if (!open_monitors(run, error) || (has_sandbox(run) && !enter_sandbox(run, error)))
        return false;
    g_unix_signal_add(SIGTERM, on_signal, run);
    g_unix_signal_add(SIGINT, on_signal, run);
    g_unix_signal_add(SIGHUP, on_signal, run);
    machine_set_hold(run->machine, run->is_paused);
    machine_set_no_reboot(run->machine, run->no_reboot);
    if (run->config.is_incoming)
        machine_submit(run->machine, MACHINE_OP_AWAIT, on_awaiting, run);
    else
        machine_submit(run->machine, run->is_paused ? MACHINE_OP_LAUNCH_PAUSED : MACHINE_OP_LAUNCH,
                       on_launched, run);
    return true;
}

static void clear(struct run *run)
{
    monitor_free(run->monitor);
    migration_free(run->migration);
    machine_free(run->machine);
    g_clear_pointer(&run->config.devices, g_ptr_array_unref);
    g_main_loop_unref(run->loop);
    char **owned[] = {&run->board,  &run->cpu,     &run->dirty_log, &run->name,
                      &run->memory, &run->bios,    &run->kernel,    &run->initrd,
                      &run->append, &run->console, &run->incoming,  &run->restore};
    for (size_t i = 0; i < G_N_ELEMENTS(owned); i++)
        g_clear_pointer(owned[i], g_free);
    g_clear_pointer(&run->sandbox, g_free);
    g_clear_pointer(&run->monitor_path, g_free);
    g_clear_pointer(&run->qmp_paths, g_strfreev);
    g_clear_pointer(&run->confine, g_strfreev);
}

int cmd_run(const struct subcommand *self, int argc, char **argv)
{
    struct run run = {.n_cpus = 1, .status = CLI_USAGE};
    g_autoptr(GError) error = NULL;

    signal(SIGPIPE, SIG_IGN);
    run.has_terminal = tcgetattr(STDIN_FILENO, &run.terminal) == 0;
    run.loop = g_main_loop_new(NULL, FALSE);
    run.config.devices = g_ptr_array_new_with_free_func((GDestroyNotify)device_config_free);
    if (parse_options(&run, self, &argc, &argv, &run.status)) {
        run.status = CLI_OK;
        if (!make_config(&run, &error))
            run.status = cli_fail(CLI_USAGE, "run: %s", error->message);
        else if (start(&run, &error))
            g_main_loop_run(run.loop);
        else
            run.status = cli_fail(CLI_FAILED, "%s", error->message);
        if (run.migration && migration_lacks_memory(run.migration)) {
            cli_complain("the guest ends before all of its memory has come: it is lost");
            monitor_free(run.monitor); /* who asked for it has an answer */
            end_at_once(&run, CLI_LOST);
        }
    }
    clear(&run);
    return run.status;
}
