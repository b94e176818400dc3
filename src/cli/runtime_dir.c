/* SPDX-License-Identifier: MIT */
/* Where monitors' sockets live: a folder only its owner can enter. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/runtime_dir.h"
#include "godwit/error.h"

static bool is_private_dir(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() &&
           (st.st_mode & 077) == 0;
}

char *runtime_dir(bool is_new, GError **error)
{
    const char *xdg = g_getenv("XDG_RUNTIME_DIR");
    g_autofree char *user = g_strdup_printf("/run/user/%u", (unsigned)geteuid());
    g_autofree char *dir = NULL;

    if (xdg && *xdg)
        dir = g_build_filename(xdg, "godwit", NULL);
    else if (is_private_dir(user))
        dir = g_build_filename(user, "godwit", NULL);
    else
        dir = g_strdup_printf("%s/godwit-%u", g_get_tmp_dir(), (unsigned)geteuid());
    if (is_new && mkdir(dir, 0700) < 0 && errno != EEXIST) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: %s", dir, g_strerror(errno));
        return NULL;
    }
    if (is_new && !is_private_dir(dir)) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO,
                    "%s is not a folder of mode 0700 of this user, monitors are not put there",
                    dir);
        return NULL;
    }
    return g_steal_pointer(&dir);
}

static bool is_name(const char *text)
{
    for (const char *c = text; *c; c++)
        if (!g_ascii_isalnum(*c) && !strchr("-_.", *c))
            return false;
    return *text != '\0' && *text != '.';
}

char *cli_monitor_path(const char *name_or_path, bool is_new, GError **error)
{
    g_autofree char *dir = NULL;
    g_autofree char *file = NULL;

    if (strchr(name_or_path, '/'))
        return g_strdup(name_or_path);
    if (!is_name(name_or_path)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "\"%s\" is no name: letters, digits and - _ . only", name_or_path);
        return NULL;
    }
    dir = runtime_dir(is_new, error);
    if (!dir)
        return NULL;
    file = g_strdup_printf("%s" RUNTIME_SUFFIX, name_or_path);
    return g_build_filename(dir, file, NULL);
}
