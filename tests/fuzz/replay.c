/* SPDX-License-Identifier: MIT */
/*
 * Runs a fuzz target over files, without libFuzzer: the corpus in the ordinary test run, or a
 * single input that broke something.
 *
 * usage: replay-NAME FILE|FOLDER...   One TAP line for each argument.
 */
#include <glib.h>

#include "fuzz.h"

static bool run_file(const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *bytes = NULL;
    gsize size;

    if (!g_file_get_contents(path, &bytes, &size, &error)) {
        printf("# %s\n", error->message);
        return false;
    }
    /* A copy that ends where the input ends: reading past it is seen by the sanitizer. */
    g_autofree uint8_t *exact = g_memdup2(bytes, size);
    LLVMFuzzerTestOneInput(exact, size);
    return true;
}

static int by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool run_folder(const char *path, unsigned *n_files)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    bool is_ok = dir != NULL;

    while (dir && (name = g_dir_read_name(dir)) != NULL)
        g_ptr_array_add(names, g_build_filename(path, name, NULL));
    g_ptr_array_sort(names, by_name);
    for (guint i = 0; i < names->len; i++) {
        /* What was running when the process died stands in the log. */
        printf("# %s\n", (char *)names->pdata[i]);
        fflush(stdout);
        is_ok &= run_file(names->pdata[i]);
    }
    *n_files = names->len;
    return is_ok && names->len > 0;
}

int main(int argc, char **argv)
{
    int status = argc > 1 ? 0 : 2;

    printf("1..%d\n", argc - 1);
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) {
        unsigned n_files = 1;
        bool is_ok = g_file_test(argv[i], G_FILE_TEST_IS_DIR) ? run_folder(argv[i], &n_files)
                                                              : run_file(argv[i]);

        printf("%sok %d - %s: %u inputs\n", is_ok ? "" : "not ", i, argv[i], n_files);
        if (!is_ok)
            status = 1;
    }
    return status;
}
