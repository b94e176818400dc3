/* SPDX-License-Identifier: MIT */
/*
 * Which files a confined `godwit run` keeps: the folders that --confine names, the files that the
 * command line names, and the folders in which it must make what the command line names.
 */
#include "cli/confine.h"

#include <string.h>

#include "cli/runtime_dir.h"
#include "godwit/error.h"
#include "machine/firmware.h"
#include "machine/sandbox.h"

static void give(GPtrArray *paths, const char *path)
{
    if (path)
        g_ptr_array_add(paths, g_strdup(path));
}

/* A name that is mistyped must not confine to less than was meant. */
static bool is_folder(const char *path, GError **error)
{
    if (g_file_test(path, G_FILE_TEST_IS_DIR))
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "--confine \"%s\": no such folder", path);
    return false;
}

static void give_folder_of(GPtrArray *paths, const char *path)
{
    if (path)
        g_ptr_array_add(paths, g_path_get_dirname(path));
}

/* "file:PATH[,append]", "unix:PATH": a file that may have to be made. */
static void give_backend(GPtrArray *folders, const char *spec)
{
    const char *path = spec ? strchr(spec, ':') : NULL;

    if (path && (g_str_has_prefix(spec, "file:") || g_str_has_prefix(spec, "unix:"))) {
        g_auto(GStrv) words = g_strsplit(path + 1, ",", 2);
        give_folder_of(folders, words[0]);
    }
}

/* The last part of a URI: filters stand before it. */
static void give_uri(GPtrArray *folders, const char *uri)
{
    const char *unix_path = uri ? g_strrstr(uri, "unix:") : NULL;

    if (unix_path)
        give_folder_of(folders, unix_path + strlen("unix:"));
}

static void give_devices(GPtrArray *folders, GPtrArray *files, const GPtrArray *devices)
{
    for (guint i = 0; i < devices->len; i++) {
        const char *disk = device_config_get(devices->pdata[i], "path");
        g_auto(GStrv) words = g_strsplit(disk ? disk : "", ",", 2);

        give(files, words[0]);
        give_backend(folders, device_config_get(devices->pdata[i], "backend"));
    }
}

bool confine_files(const struct machine_config *config, char **named, char **sockets,
                   const char *incoming, const char *restore, GError **error)
{
    g_autoptr(GPtrArray) folders = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *runtime = NULL;
    g_autofree char *firmware = NULL;
    bool is_confined;

    if (!named)
        return sandbox_confine_files(NULL, NULL, &is_confined, error);
    runtime = runtime_dir(true, error);
    if (!runtime)
        return false;
    give(folders, runtime);
    for (; *named; named++) {
        if (!is_folder(*named, error))
            return false;
        give(folders, *named);
    }
    for (; sockets && *sockets; sockets++)
        give_folder_of(folders, *sockets);
    give_backend(folders, config->console);
    give_uri(folders, incoming);
    give_devices(folders, files, config->devices);
    if (!config->bios || strcmp(config->bios, "none") != 0)
        firmware = firmware_find(config->bios, NULL);
    give(files, firmware);
    give(files, config->kernel);
    give(files, config->initrd);
    give(files, restore);
    g_ptr_array_add(folders, NULL);
    g_ptr_array_add(files, NULL);
    if (!sandbox_confine_files((const char *const *)folders->pdata,
                               (const char *const *)files->pdata, &is_confined, error))
        return false;
    if (!is_confined)
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "--confine: this kernel cannot confine files (no Landlock)");
    return is_confined;
}
