/* SPDX-License-Identifier: MIT */
/* Putting received pages into memory that was never touched: see place.h. */
#include "memory/place.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "memory/memory_internal.h"

#define FEW_CORES 4u

void memory_place_init(struct memory_block *self)
{
    struct statfs fs;
    int flags = self->pub.fd >= 0 ? fcntl(self->pub.fd, F_GETFL) : -1;

    self->can_place = flags >= 0 && (flags & O_ACCMODE) == O_RDWR && !(flags & O_APPEND) &&
                      fstatfs(self->pub.fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
    /* Two receivers, whatever feeds them, and the guest: with fewer cores the time that a store
     * costs more is lost by somebody. */
    self->has_spare_cores = g_get_num_processors() > FEW_CORES;
}

bool memory_can_place(const struct gw_ram_block *block)
{
    return memory_block_of_const(block)->can_place;
}

bool memory_was_populated(const struct gw_ram_block *block)
{
    return __atomic_load_n(&memory_block_of_const(block)->is_populated, __ATOMIC_RELAXED);
}

static bool write_all(const struct memory_block *self, uint64_t offset, const uint8_t *from,
                      size_t len, GError **error)
{
    while (len > 0) {
        ssize_t n = pwrite(self->pub.fd, from, len, self->fd_offset + (off_t)offset);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            g_set_error(error, GW_ERROR, GW_ERROR_IO, "RAM block %s: no memory for a page: %s",
                        self->pub.name, g_strerror(n < 0 ? errno : ENOSPC));
            return false;
        }
        from += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return true;
}

bool memory_place(struct gw_ram_block *block, uint64_t offset, const uint8_t *from, size_t len,
                  GError **error)
{
    struct memory_block *self = memory_block_of(block);
    bool is_ok;

    g_assert(self->can_place && offset % GW_PAGE_SIZE == 0 && len % GW_PAGE_SIZE == 0 &&
             offset <= block->size_bytes && len <= block->size_bytes - offset);
    if (self->has_spare_cores) {
        if (pthread_mutex_trylock(&self->place_lock) != 0) {
            memcpy(block->host + offset, from, len);
            return true;
        }
    } else {
        pthread_mutex_lock(&self->place_lock);
    }
    is_ok = write_all(self, offset, from, len, error);
    pthread_mutex_unlock(&self->place_lock);
    return is_ok;
}
