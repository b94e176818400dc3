/* SPDX-License-Identifier: MIT */
/* godwit schema: what the machine saves, as JSON. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "machine/machine.h"

int cmd_schema(const struct subcommand *self, int argc, char **argv)
{
    char *board = NULL;
    int n_cpus = 1;
    const GOptionEntry entries[] = {
        {"machine", 'M', 0, G_OPTION_ARG_STRING, &board, "The board (as run)", "NAME"},
        {"cpus", 'c', 0, G_OPTION_ARG_INT, &n_cpus, "vCPUs (1)", "N"},
        {NULL},
    };
    /* A disk must exist to be attached: an empty one in memory. */
    gw_autofd int disk = memfd_create("disk", MFD_CLOEXEC);
    g_autofree char *disk_path = g_strdup_printf("/proc/self/fd/%d", disk);
    const char *const devices[][2] = {
        {"net", "none"}, {"disk", disk_path}, {"rng", ""}, {"balloon", ""}, {"vconsole", "null"}};
    g_autoptr(GError) error = NULL;
    int status;

    if (!cli_parse(self, entries, 0, 0, &argc, &argv, &status))
        return status;
    struct machine_config config = {
        .board = board ? board : machine_default_board(),
        .name = "schema",
        .memory_bytes = UINT64_C(64) << 20,
        .n_cpus = n_cpus > 0 ? (unsigned)n_cpus : 1,
        .console = "null",
        .is_incoming = true,
        .devices = g_ptr_array_new_with_free_func((GDestroyNotify)device_config_free),
    };
    if (disk < 0 || ftruncate(disk, 1 << 20) < 0)
        return cli_fail(CLI_FAILED, "cannot make a disk in memory");
    for (size_t i = 0; i < G_N_ELEMENTS(devices); i++)
        g_ptr_array_add(config.devices, device_config_parse(devices[i][0], devices[i][1], NULL));
    struct machine *machine = machine_new(&config, g_main_context_default(), &error);
    if (machine) {
        struct gw_schema *schema = gw_schema_new(machine_registry(machine));
        g_autofree char *text = gw_schema_to_json(schema);
        puts(text);
        gw_schema_free(schema);
        machine_free(machine);
    }
    g_ptr_array_unref(config.devices);
    g_free(board);
    return machine ? CLI_OK : cli_fail(CLI_FAILED, "%s", error->message);
}
