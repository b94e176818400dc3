/* SPDX-License-Identifier: MIT */
/*
 * RAM blocks: creation, translation, access.
 *
 * A block is a sealed memfd (it can neither shrink nor grow, so that no holder of the descriptor
 * can make our mapping fault) mapped MAP_SHARED|MAP_NORESERVE: never-touched guest memory costs
 * nothing, and the descriptor can be handed to another process.
 */
#include "memory/memory_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/cond.h"
#include "base/summary.h"
#include "memory/huge.h"

uint64_t *memory_lazy_words_new(uint64_t n_bits)
{
    size_t bytes = bitmap_n_words(n_bits) * sizeof(uint64_t);
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED) {
        return NULL;
    }
    /* A huge page for a single dirty bit would defeat the purpose. */
    (void)madvise(at, bytes, MADV_NOHUGEPAGE);
    return at;
}

void memory_lazy_words_free(uint64_t *words, uint64_t n_bits)
{
    if (words) {
        munmap(words, bitmap_n_words(n_bits) * sizeof(uint64_t));
    }
}

void memory_block_free(void *opaque)
{
    struct memory_block *self = opaque;
    struct gw_ram_block *block = &self->pub;

    memory_lazy_words_free(self->touched, block->n_pages);
    memory_lazy_words_free(block->watched, block->n_pages);
    memory_lazy_words_free(block->write_log, block->n_pages);
    memory_lazy_words_free(block->write_log_groups, summary_n_groups(block->n_pages));
    if (block->host && !self->is_adopted) {
        munmap(block->host, block->size_bytes);
    }
    const int fds[] = {block->fd, self->reader_fd, self->home_fd};
    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    pthread_mutex_destroy(&self->place_lock);
    g_free(block->name);
    g_free(block);
}

struct gw_memory *gw_memory_new(void)
{
    struct gw_memory *memory = g_new0(struct gw_memory, 1);

    memory->blocks = g_ptr_array_new_with_free_func(memory_block_free);
    pthread_mutex_init(&memory->guard_lock, NULL);
    pthread_mutex_init(&memory->whole_lock, NULL);
    cond_init_mono(&memory->whole_changed);
    return memory;
}

void gw_memory_free(struct gw_memory *memory)
{
    if (!memory) {
        return;
    }
    if (memory->scratch) {
        for (uint32_t i = 0; i < memory->blocks->len; i++) {
            memory_lazy_words_free(memory->scratch[i], gw_memory_block(memory, i)->n_pages);
        }
        g_free(memory->scratch);
    }
    g_ptr_array_free(memory->blocks, TRUE);
    pthread_cond_destroy(&memory->whole_changed);
    pthread_mutex_destroy(&memory->whole_lock);
    pthread_mutex_destroy(&memory->guard_lock);
    g_free(memory);
}

static bool check_new_block(const struct gw_memory *memory, const char *name, uint64_t gpa,
                            uint64_t size_bytes, GError **error)
{
    uint64_t last;
    bool is_mapped = gpa != GW_GPA_NONE;

    if (name[0] == '\0' || strlen(name) > 63) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "RAM block name '%.64s' is empty or longer than 63 bytes", name);
        return false;
    }
    if (!is_mapped)
        gpa = 0;
    if (size_bytes == 0 || gpa % GW_PAGE_SIZE || size_bytes % GW_PAGE_SIZE ||
        __builtin_add_overflow(gpa, size_bytes - 1, &last) || size_bytes > INT64_MAX) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "RAM block %s: address 0x%" G_GINT64_MODIFIER "x and size 0x%" G_GINT64_MODIFIER
                    "x are not page-aligned or out of range",
                    name, gpa, size_bytes);
        return false;
    }
    for (uint32_t i = 0; i < memory->blocks->len; i++) {
        const struct gw_ram_block *other = gw_memory_block(memory, i);
        if (strcmp(other->name, name) == 0) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "RAM block %s exists already", name);
            return false;
        }
        if (is_mapped && other->gpa != GW_GPA_NONE && gpa <= other->gpa + (other->size_bytes - 1) &&
            other->gpa <= last) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "RAM block %s overlaps RAM block %s",
                        name, other->name);
            return false;
        }
    }
    return true;
}

int memory_memfd_new(const struct gw_ram_block *block, GError **error)
{
    g_autofree char *label = g_strconcat("godwit-", block->name, NULL);
    gw_autofd int fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || ftruncate(fd, (off_t)block->size_bytes) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO,
                    "RAM block %s: cannot create a memfd of %" G_GUINT64_FORMAT " bytes: %s",
                    block->name, block->size_bytes, g_strerror(errno));
        return -1;
    }
    return gw_steal_fd(&fd);
}

/* Maps the file where huge pages of it can be mapped as such, in this process and in a guest: at a
 * multiple of their size. MAP_FAILED: errno says why. */
static void *map_aligned(int fd, uint64_t size_bytes)
{
    uint64_t room = size_bytes + MEMORY_HUGE_BYTES;
    uint8_t *from = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (from == MAP_FAILED) {
        return MAP_FAILED;
    }
    uint64_t before = -(uintptr_t)from % MEMORY_HUGE_BYTES;
    uint8_t *host = mmap(from + before, size_bytes, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
    if (host == MAP_FAILED) {
        int code = errno;
        munmap(from, room);
        errno = code;
        return MAP_FAILED;
    }
    if (before > 0) {
        munmap(from, before);
    }
    munmap(host + size_bytes, MEMORY_HUGE_BYTES - before);
    return host;
}

static bool map_block(struct gw_ram_block *block, GError **error)
{
    block->fd = memory_memfd_new(block, error);
    if (block->fd < 0) {
        return false;
    }
    void *host = map_aligned(block->fd, block->size_bytes);
    if (host == MAP_FAILED) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO,
                    "RAM block %s: cannot map %" G_GUINT64_FORMAT " bytes: %s", block->name,
                    block->size_bytes, g_strerror(errno));
        return false;
    }
    block->host = host;
    (void)madvise(host, block->size_bytes, MADV_DONTDUMP);
    return true;
}

struct memory_block *memory_block_new(struct gw_memory *memory, const char *name, uint64_t gpa,
                                      uint64_t size_bytes, GError **error)
{
    if (!check_new_block(memory, name, gpa, size_bytes, error)) {
        return NULL;
    }
    struct memory_block *self = g_new0(struct memory_block, 1);
    struct gw_ram_block *block = &self->pub;

    block->memory = memory;
    block->name = g_strdup(name);
    block->index = memory->blocks->len;
    block->gpa = gpa;
    block->size_bytes = size_bytes;
    block->n_pages = size_bytes >> GW_PAGE_SHIFT;
    block->fd = -1;
    self->reader_fd = -1;
    self->home_fd = -1;
    pthread_mutex_init(&self->place_lock, NULL);
    return self;
}

struct gw_ram_block *memory_block_enlist(struct memory_block *self, GError **error)
{
    struct gw_ram_block *block = &self->pub;

    block->write_log = memory_lazy_words_new(block->n_pages);
    block->write_log_groups = memory_lazy_words_new(summary_n_groups(block->n_pages));
    block->watched = memory_lazy_words_new(block->n_pages);
    memory_place_init(self);
    if (!block->write_log || !block->write_log_groups || !block->watched) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "RAM block %s: no memory for its dirty log",
                    block->name);
        memory_block_free(self);
        return NULL;
    }
    g_ptr_array_add(block->memory->blocks, self);
    return block;
}

struct gw_ram_block *gw_memory_add_block(struct gw_memory *memory, const char *name, uint64_t gpa,
                                         uint64_t size_bytes, GError **error)
{
    struct memory_block *self = memory_block_new(memory, name, gpa, size_bytes, error);

    if (!self) {
        return NULL;
    }
    if (!map_block(&self->pub, error)) {
        memory_block_free(self);
        return NULL;
    }
    return memory_block_enlist(self, error);
}

uint32_t gw_memory_n_blocks(const struct gw_memory *memory)
{
    return memory->blocks->len;
}

struct gw_ram_block *gw_memory_block(const struct gw_memory *memory, uint32_t index)
{
    return index < memory->blocks->len ? g_ptr_array_index(memory->blocks, index) : NULL;
}

struct gw_ram_block *gw_memory_block_by_name(const struct gw_memory *memory, const char *name)
{
    for (uint32_t i = 0; i < memory->blocks->len; i++) {
        struct gw_ram_block *block = gw_memory_block(memory, i);
        if (strcmp(block->name, name) == 0) {
            return block;
        }
    }
    return NULL;
}

uint64_t gw_memory_size_bytes(const struct gw_memory *memory)
{
    uint64_t size = 0;

    for (uint32_t i = 0; i < memory->blocks->len; i++) {
        size += gw_memory_block(memory, i)->size_bytes;
    }
    return size;
}

struct gw_ram_block *gw_memory_find(const struct gw_memory *memory, uint64_t gpa, uint64_t len)
{
    for (uint32_t i = 0; i < memory->blocks->len; i++) {
        struct gw_ram_block *block = g_ptr_array_index(memory->blocks, i);
        if (block->gpa == GW_GPA_NONE)
            continue;
        uint64_t offset = gpa - block->gpa;
        /* GUEST: gpa and len are any numbers; an address below the block wraps to a huge offset. */
        if (offset < block->size_bytes && len <= block->size_bytes - offset) {
            return block;
        }
    }
    return NULL;
}

void *gw_memory_host(const struct gw_memory *memory, uint64_t gpa, uint64_t len)
{
    const struct gw_ram_block *block = gw_memory_find(memory, gpa, len);

    return block ? block->host + (gpa - block->gpa) : NULL;
}

bool gw_memory_read(const struct gw_memory *memory, uint64_t gpa, void *to, uint64_t len)
{
    const void *from = gw_memory_host(memory, gpa, len);

    if (!from) {
        return false;
    }
    memcpy(to, from, len);
    return true;
}

bool gw_memory_write(struct gw_memory *memory, uint64_t gpa, const void *from, uint64_t len)
{
    struct gw_ram_block *block = gw_memory_find(memory, gpa, len);

    if (!block) {
        return false;
    }
    memcpy(block->host + (gpa - block->gpa), from, len);
    gw_memory_note_write(block, gpa - block->gpa, len);
    return true;
}
