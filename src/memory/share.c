/* SPDX-License-Identifier: MIT */
/* RAM that changes hands between two processes of one kernel, by its memory descriptors. */
#include "memory/share.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "memory/memory_internal.h"

#define NEEDED_SEALS    (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define FORBIDDEN_SEALS (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)

static bool fail_errno(const struct gw_ram_block *block, const char *what, GError **error)
{
    g_set_error(error, GW_ERROR, GW_ERROR_IO, "RAM block %s: cannot %s: %s", block->name, what,
                g_strerror(errno));
    return false;
}

bool memory_share_check(int fd, uint64_t offset, uint64_t size_bytes,
                        struct memory_identity *identity, GError **error)
{
    const char *why = NULL;
    struct stat stat;
    struct statfs fs;

    if (fstat(fd, &stat) < 0 || fstatfs(fd, &fs) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT, "its descriptor: %s", g_strerror(errno));
        return false;
    }
    int seals = fcntl(fd, F_GET_SEALS);
    if (!S_ISREG(stat.st_mode) || (uint32_t)fs.f_type != TMPFS_MAGIC || seals < 0) {
        why = "is no memory descriptor";
    } else if ((seals & NEEDED_SEALS) != NEEDED_SEALS) {
        why = "is not sealed against shrinking, growing and further seals";
    } else if (seals & FORBIDDEN_SEALS) {
        why = "is sealed against writing";
    } else if (offset % GW_PAGE_SIZE || offset > (uint64_t)stat.st_size ||
               size_bytes > (uint64_t)stat.st_size - offset) {
        why = "is smaller than the block";
    }
    if (why) {
        g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT, "its descriptor %s", why);
        return false;
    }
    *identity = (struct memory_identity){.device = stat.st_dev, .inode = stat.st_ino};
    return true;
}

bool memory_share_is_possible(const struct gw_ram_block *block, GError **error)
{
    struct memory_identity identity;
    g_autoptr(GError) why = NULL;

    if (block->fd < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "RAM block %s is not backed by a memory descriptor", block->name);
        return false;
    }
    if (!memory_share_check(block->fd, memory_share_offset(block), block->size_bytes, &identity,
                            &why)) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "RAM block %s: %s", block->name,
                    why->message);
        return false;
    }
    return true;
}

uint64_t memory_share_offset(const struct gw_ram_block *block)
{
    return (uint64_t)memory_block_of_const(block)->fd_offset;
}

/* Whoever holds only the reading descriptor shall not open a writing one through /proc: so nobody
 * but the memory's owner may open it, and its owner only to read (until it changes that). */
int memory_share_reader(struct gw_ram_block *block, GError **error)
{
    struct memory_block *self = memory_block_of(block);
    char path[64];

    if (self->reader_fd >= 0) {
        return self->reader_fd;
    }
    (void)fchmod(block->fd, S_IRUSR); /* not ours to change: then its owner has done it */
    snprintf(path, sizeof path, "/proc/self/fd/%d", block->fd);
    self->reader_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (self->reader_fd < 0) {
        fail_errno(block, "open its memory for reading", error);
    }
    return self->reader_fd;
}

void memory_share_settle(struct gw_ram_block *block)
{
    struct memory_block *self = memory_block_of(block);

    if (self->home_fd >= 0) {
        close(self->home_fd);
    }
    self->home_fd = -1;
}

bool memory_share_prepare(struct gw_ram_block *block, bool keeps_own, GError **error)
{
    struct memory_block *self = memory_block_of(block);

    memory_share_settle(block);
    self->home_offset = 0;
    if (!keeps_own || !self->is_adopted) {
        self->home_fd = memory_memfd_new(block, error);
        return self->home_fd >= 0;
    }
    /* The embedder may know its memory by other mappings. */
    self->home_offset = self->fd_offset;
    self->home_fd = fcntl(block->fd, F_DUPFD_CLOEXEC, 0);
    return self->home_fd >= 0 || fail_errno(block, "keep its memory", error);
}

/* Puts the memory behind fd under the block's address and descriptor number. Takes fd. */
static bool put_in_place(struct memory_block *self, int fd, off_t offset, int protection,
                         GError **error)
{
    struct gw_ram_block *block = &self->pub;
    gw_autofd int owned = fd;

    if (mmap(block->host, block->size_bytes, protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
             owned, offset) == MAP_FAILED) {
        return fail_errno(block, "map its memory", error);
    }
    (void)madvise(block->host, block->size_bytes, MADV_DONTDUMP);
    /* Atomic: the number never means nothing. It fails only for numbers that are not open. */
    if (dup3(owned, block->fd, O_CLOEXEC) < 0) {
        g_error("RAM block %s: descriptor %d: %s", block->name, block->fd, g_strerror(errno));
    }
    self->fd_offset = offset;
    __atomic_store_n(&self->is_present, false, __ATOMIC_RELAXED);
    memory_place_init(self);
    return true;
}

static void forget_reader(struct memory_block *self)
{
    if (self->reader_fd >= 0) {
        close(self->reader_fd);
    }
    self->reader_fd = -1;
}

bool memory_share_view(struct gw_ram_block *block, int fd, uint64_t offset, GError **error)
{
    struct memory_block *self = memory_block_of(block);
    gw_autofd int owned = fd;
    int kept;

    g_assert(self->home_fd >= 0);
    kept = fcntl(owned, F_DUPFD_CLOEXEC, 0);
    if (kept < 0) {
        return fail_errno(block, "keep its memory", error);
    }
    if (!put_in_place(self, gw_steal_fd(&owned), (off_t)offset, PROT_READ, error)) {
        close(kept);
        return false;
    }
    forget_reader(self);
    self->reader_fd = kept;
    return true;
}

bool memory_share_take(struct gw_ram_block *block, int fd, GError **error)
{
    struct memory_block *self = memory_block_of(block);

    return put_in_place(self, fd, self->fd_offset, PROT_READ | PROT_WRITE, error);
}

void memory_share_lend(struct gw_ram_block *block, bool is_lent)
{
    __atomic_store_n(&memory_block_of(block)->is_lent, is_lent, __ATOMIC_RELEASE);
}

void memory_share_drop(struct gw_ram_block *block)
{
    struct memory_block *self = memory_block_of(block);
    g_autoptr(GError) error = NULL;

    g_assert(self->home_fd >= 0);
    forget_reader(self);
    if (!put_in_place(self, gw_steal_fd(&self->home_fd), self->home_offset, PROT_READ | PROT_WRITE,
                      &error)) {
        g_error("%s",
                error->message); /* the address is ours and mapped: only out of kernel memory */
    }
    memory_share_lend(block, false);
}
