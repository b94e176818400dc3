/* SPDX-License-Identifier: MIT */
/* Where the default firmware is. */
#include "machine/firmware.h"

#include "godwit/error.h"

static const char *const system_paths[] = {
    "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin",
    "/usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin",
};

/* The cache of scripts/setup: opensbi is a link to the version in use. */
static char *cached_path(void)
{
    const char *cache = g_getenv("GODWIT_CACHE");
    if (cache)
        return g_build_filename(cache, "guest", "opensbi", "fw_dynamic.bin", NULL);
    return g_build_filename(g_get_user_cache_dir(), "godwit", "guest", "opensbi", "fw_dynamic.bin",
                            NULL);
}

char *firmware_find(const char *bios, GError **error)
{
    const char *named = bios ? bios : g_getenv("GODWIT_OPENSBI");
    g_autofree char *cached = NULL;

    if (named)
        return g_strdup(named);
    cached = cached_path();
    if (g_file_test(cached, G_FILE_TEST_IS_REGULAR))
        return g_steal_pointer(&cached);
    for (size_t i = 0; i < G_N_ELEMENTS(system_paths); i++)
        if (g_file_test(system_paths[i], G_FILE_TEST_IS_REGULAR))
            return g_strdup(system_paths[i]);
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                "no OpenSBI at %s or %s: run scripts/setup, or name one with --bios", cached,
                system_paths[0]);
    return NULL;
}
