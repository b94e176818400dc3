/* SPDX-License-Identifier: MIT */
/*
 * Adopted blocks: memory that the embedder has mapped itself.
 *
 * What kind of memory it is, /proc/self/maps says. Which pages of private memory were ever touched,
 * the page tables say (/proc/self/pagemap); of shared memory only its descriptor knows, since a
 * page may be touched through another mapping.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/cleanup.h"
#include "memory/memory_internal.h"

#define HUGETLBFS_MAGIC 0x958458f6u

/* One line of /proc/self/maps. */
struct mapping {
    uint64_t start, end, offset, inode;
    unsigned device_major, device_minor;
    char flags[5]; /* "rwxp" */
    bool is_huge;
};

/* Of all mappings under the block. */
struct survey {
    uint64_t next; /* everything before is covered */
    struct mapping first;
    uint64_t n;
};

static bool parse_mapping(const char *line, struct mapping *mapping)
{
    int n = 0;

    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 "%n", &mapping->start,
               &mapping->end, mapping->flags, &mapping->offset, &mapping->device_major,
               &mapping->device_minor, &mapping->inode, &n) != 7) {
        return false;
    }
    mapping->is_huge = strstr(line + n, "/anon_hugepage") != NULL;
    return true;
}

static bool refuse(const struct gw_ram_block *block, int code, const char *why, GError **error)
{
    g_set_error(error, GW_ERROR, code, "RAM block %s: its memory %s", block->name, why);
    return false;
}

/* Judges the next mapping under the block. */
static bool check_mapping(const struct gw_ram_block *block, struct survey *survey,
                          const struct mapping *mapping, GError **error)
{
    if (mapping->start > survey->next) {
        return refuse(block, GW_ERROR_INVALID, "is not mapped throughout", error);
    }
    if (mapping->flags[0] != 'r' || mapping->flags[1] != 'w') {
        return refuse(block, GW_ERROR_INVALID, "is not readable and writable throughout", error);
    }
    if (mapping->is_huge) {
        return refuse(block, GW_ERROR_UNSUPPORTED, "consists of huge pages of hugetlbfs", error);
    }
    if (mapping->flags[3] == 'p' && mapping->inode != 0) {
        return refuse(block, GW_ERROR_INVALID, "is a private mapping of a file", error);
    }
    if (survey->n++ == 0) {
        survey->first = *mapping;
    } else if (mapping->flags[3] != survey->first.flags[3]) {
        return refuse(block, GW_ERROR_INVALID, "is partly private and partly shared", error);
    }
    survey->next = mapping->end;
    return true;
}

static bool survey_mappings(const struct gw_ram_block *block, struct survey *survey, GError **error)
{
    uint64_t begin = (uintptr_t)block->host, end = begin + block->size_bytes;
    g_autofree char *line = NULL;
    size_t room = 0;
    bool ok = true;
    FILE *maps = fopen("/proc/self/maps", "re");

    if (!maps) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "RAM block %s: cannot open /proc/self/maps: %s",
                    block->name, g_strerror(errno));
        return false;
    }
    survey->next = begin;
    while (ok && survey->next < end && getline(&line, &room, maps) > 0) {
        struct mapping mapping;
        if (parse_mapping(line, &mapping) && mapping.end > begin) {
            ok = check_mapping(block, survey, &mapping, error);
        }
    }
    fclose(maps);
    return ok && (survey->next >= end ||
                  refuse(block, GW_ERROR_INVALID, "is not mapped throughout", error));
}

/* Takes a duplicate of fd, after having seen that it is what the block maps. */
static bool take_fd(struct memory_block *self, const struct survey *survey, int fd, GError **error)
{
    struct gw_ram_block *block = &self->pub;
    const struct mapping *first = &survey->first;
    struct stat stat;
    struct statfs fs;

    if (fstat(fd, &stat) < 0 || fstatfs(fd, &fs) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "RAM block %s: descriptor %d: %s",
                    block->name, fd, g_strerror(errno));
        return false;
    }
    if (self->is_private || survey->n != 1 || stat.st_ino != first->inode ||
        major(stat.st_dev) != first->device_major || minor(stat.st_dev) != first->device_minor) {
        return refuse(block, GW_ERROR_INVALID, "is not one mapping of the descriptor given", error);
    }
    if ((uint32_t)fs.f_type == HUGETLBFS_MAGIC) {
        return refuse(block, GW_ERROR_UNSUPPORTED, "consists of huge pages of hugetlbfs", error);
    }
    block->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (block->fd < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO,
                    "RAM block %s: cannot duplicate descriptor %d: %s", block->name, fd,
                    g_strerror(errno));
        return false;
    }
    self->fd_offset = (off_t)(first->offset + ((uintptr_t)block->host - first->start));
    return true;
}

struct gw_ram_block *gw_memory_adopt_block(struct gw_memory *memory, const char *name, uint64_t gpa,
                                           void *host, uint64_t size_bytes, int fd, GError **error)
{
    struct survey survey = {0};

    if ((uintptr_t)host % GW_PAGE_SIZE || size_bytes > UINTPTR_MAX - (uintptr_t)host) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "RAM block %s: its memory at %p does not begin with a page", name, host);
        return NULL;
    }
    struct memory_block *self = memory_block_new(memory, name, gpa, size_bytes, error);
    if (!self) {
        return NULL;
    }
    self->is_adopted = true;
    self->pub.host = host;
    if (!survey_mappings(&self->pub, &survey, error)) {
        memory_block_free(self);
        return NULL;
    }
    self->is_private = survey.first.flags[3] == 'p';
    if (fd >= 0 && !take_fd(self, &survey, fd, error)) {
        memory_block_free(self);
        return NULL;
    }
    return memory_block_enlist(self, error);
}

/* ---- touched pages --------------------------------------------------------------------------- */

#define ENTRIES_MIN 16u
#define ENTRIES_MAX 4096u

/* The first page at or after `from` whose state is `is_touched`; n_pages if there is none. */
static uint64_t find_touched(int pagemap, const struct gw_ram_block *block, uint64_t from,
                             bool is_touched)
{
    g_autofree uint64_t *entries = g_new(uint64_t, ENTRIES_MAX);
    uint64_t page_of_host = (uintptr_t)block->host >> GW_PAGE_SHIFT;
    /* Runs are often short, holes often long: what is read at once grows on the way. */
    uint64_t n = ENTRIES_MIN;

    while (from < block->n_pages) {
        n = MIN(n, block->n_pages - from);
        ssize_t got = pread(pagemap, entries, n * sizeof *entries,
                            (off_t)((page_of_host + from) * sizeof *entries));
        if (got < (ssize_t)sizeof *entries) {
            /* Not to be known: it counts as touched. */
            return is_touched ? from : block->n_pages;
        }
        for (uint64_t i = 0; i < (uint64_t)got / sizeof *entries; i++, from++) {
            if (!!(entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) == is_touched) {
                return from;
            }
        }
        n = MIN(n * 4, ENTRIES_MAX);
    }
    return block->n_pages;
}

bool memory_private_next_run(const struct memory_block *self, uint64_t *page, uint64_t *n_pages)
{
    const struct gw_ram_block *block = &self->pub;
    gw_autofd int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t first = find_touched(pagemap, block, *page, true);

    if (first >= block->n_pages) {
        return false;
    }
    *page = first;
    *n_pages = find_touched(pagemap, block, first, false) - first;
    return true;
}

bool memory_adopted_next_run(const struct memory_block *self, uint64_t *page, uint64_t *n_pages)
{
    if (!self->is_private) {
        *n_pages = self->pub.n_pages - *page;
        return true;
    }
    if (__atomic_load_n(&self->has_touched, __ATOMIC_ACQUIRE)) {
        return bitmap_next_run(self->touched, self->pub.n_pages, page, n_pages, UINT64_MAX);
    }
    return memory_private_next_run(self, page, n_pages);
}

bool memory_adopted_discard(struct memory_block *self, uint64_t offset, uint64_t len,
                            GError **error)
{
    struct gw_ram_block *block = &self->pub;

    if (madvise(block->host + offset, len, self->is_private ? MADV_DONTNEED : MADV_REMOVE) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO,
                    "RAM block %s: cannot discard %" G_GUINT64_FORMAT " bytes: %s", block->name,
                    len, g_strerror(errno));
        return false;
    }
    gw_memory_note_write(block, offset, len);
    return true;
}
