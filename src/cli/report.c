/* SPDX-License-Identifier: MIT */
/* godwit migrate --report: collects, and writes the page as a whole or not at all. */
#include "cli/report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "cli/report_parts.h"
#include "godwit/error.h"

struct report {
    char *path; /* of the page; no symbolic link */
    char *vm, *uri;
    struct track *track;
    json_t *info, *params;
    /* The answer that came fastest tells best when the migration began. */
    uint64_t least_wait_ns;
    double began_real_ns;
};

/* ---- the file -------------------------------------------------------------------------------- */

static void set_error(GError **error, const char *path, const char *what)
{
    g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: %s: %s", path, what, g_strerror(errno));
}

/* Where the page will lie: links are followed, so that what they point at is replaced. */
static char *settle_path(const char *path, GError **error)
{
    struct stat status;
    char *real;

    if (stat(path, &status) < 0) {
        if (errno == ENOENT)
            return g_strdup(path);
        set_error(error, path, "cannot be written");
        return NULL;
    }
    if (!S_ISREG(status.st_mode)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: is there and is no ordinary file",
                    path);
        return NULL;
    }
    real = realpath(path, NULL);
    if (!real) {
        set_error(error, path, "cannot be written");
        return NULL;
    }
    char *settled = g_strdup(real);
    free(real);
    return settled;
}

/* A new file in the same folder; its path goes to *beside (g_free). -1 with error. */
static int make_beside(const char *path, char **beside, GError **error)
{
    int fd = -1;

    for (unsigned i = 0; i < 100 && fd < 0; i++) {
        g_autofree char *name = g_strdup_printf("%s.%08x", path, g_random_int());
        fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0)
            *beside = g_steal_pointer(&name);
        else if (errno != EEXIST)
            break;
    }
    if (fd < 0)
        set_error(error, path, "cannot be written");
    return fd;
}

static bool write_whole(const char *path, const GString *page, GError **error)
{
    g_autofree char *beside = NULL;
    gw_autofd int fd = make_beside(path, &beside, error);

    if (fd < 0)
        return false;
    if (!fd_write_full(fd, page->str, page->len) || fsync(fd) < 0 || rename(beside, path) < 0) {
        set_error(error, path, "cannot be written");
        unlink(beside);
        return false;
    }
    return true;
}

/* ---- collecting ------------------------------------------------------------------------------ */

struct report *report_new(const char *path, const char *vm, const char *uri, GError **error)
{
    g_autofree char *settled = settle_path(path, error);
    g_autofree char *beside = NULL;
    struct report *report;

    if (!settled)
        return NULL;
    gw_autofd int fd = make_beside(settled, &beside, error);
    if (fd < 0)
        return NULL;
    unlink(beside);
    report = g_new0(struct report, 1);
    report->path = g_steal_pointer(&settled);
    report->vm = g_strdup(vm);
    report->uri = g_strdup(uri);
    report->track = track_new();
    report->least_wait_ns = UINT64_MAX;
    return report;
}

void report_free(struct report *report)
{
    if (!report)
        return;
    track_free(report->track);
    json_decref(report->info);
    json_decref(report->params);
    g_free(report->path);
    g_free(report->vm);
    g_free(report->uri);
    g_free(report);
}

void report_set_name(struct report *report, const char *name)
{
    g_free(report->vm);
    report->vm = g_strdup(name);
}

void report_set_params(struct report *report, const json_t *params)
{
    json_decref(report->params);
    report->params = json_deep_copy(params);
}

void report_add(struct report *report, const json_t *info, uint64_t asked_real_ns, uint64_t wait_ns)
{
    if (wait_ns < report->least_wait_ns) {
        report->least_wait_ns = wait_ns;
        report->began_real_ns = (double)asked_real_ns - report_number(info, "total-ns");
    }
    json_decref(report->info);
    report->info = json_deep_copy(info);
    track_add(report->track, info);
}

uint64_t report_step_ns(const struct report *report)
{
    return track_step_ns(report->track);
}

bool report_write(struct report *report, const json_t *ledger, const char *ending, GError **error)
{
    g_autoptr(GString) page = g_string_new(NULL);

    if (!report->info) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "%s: nothing is known to report",
                    report->path);
        return false;
    }
    track_end(report->track, report->info);
    struct report_facts facts = {
        .vm = report->vm,
        .uri = report->uri,
        .ending = ending,
        .track = report->track,
        .info = report->info,
        .params = report->params,
        .ledger = ledger,
        .began_real_ns = report->began_real_ns,
        .total_ns = report_number(report->info, "total-ns"),
    };
    report_put_page(page, &facts);
    return write_whole(report->path, page, error);
}
