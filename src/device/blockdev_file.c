/* SPDX-License-Identifier: MIT */
/*
 * The file behind a disk: opening, and complete execution of one request on the caller's thread.
 *
 * This is the slow and thorough path: short transfers go on, memory that O_DIRECT does not like
 * goes through a bounce buffer, and what a file system cannot do (holes, zero ranges) is done with
 * writes. The fast path (io_uring, blockdev.c) hands over whatever is not plain.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "base/cleanup.h"
#include "device/blockdev_internal.h"

#define BLOCK_BYTES          512u
#define PHYSICAL_BLOCK_BYTES 4096u
#define DIRECT_ALIGN_BYTES   512u
#define CHUNK_BYTES          (1u << 20) /* of a bounce buffer and of written zeroes */
#define CHUNK_ALIGN_BYTES    4096u

/* ---- opening ---- */

static bool fail_errno(GError **error, const char *what, const char *path)
{
    int code = errno;
    g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_HOST, "disk image %s: %s: %s", path, what,
                g_strerror(code));
    return false;
}

/* Some file systems and disks want whole 4 KiB blocks: better said now than with every request. */
static bool check_direct(int fd, const char *path, uint64_t size_bytes, GError **error)
{
    void *block;
    if (size_bytes < DIRECT_ALIGN_BYTES)
        return true;
    if (posix_memalign(&block, CHUNK_ALIGN_BYTES, DIRECT_ALIGN_BYTES) != 0)
        g_error("out of memory");
    ssize_t n = pread(fd, block, DIRECT_ALIGN_BYTES, 0);
    int code = errno;
    free(block);
    errno = code;
    return n >= 0 || fail_errno(error, "cache=none with 512-byte blocks", path);
}

bool blockdev_file_open(struct blockdev_file *file, const char *path, bool is_read_only,
                        bool is_direct, GError **error)
{
    struct stat st;
    int flags = (is_read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | (is_direct ? O_DIRECT : 0);
    gw_autofd int fd = open(path, flags);
    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_errno(error, "open", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "disk image %s is neither a file nor a block device", path);
        return false;
    }
    off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0)
        return fail_errno(error, "size", path);
    if (is_direct && !check_direct(fd, path, (uint64_t)size, error))
        return false;
    file->fd = gw_steal_fd(&fd);
    file->align_bytes = is_direct ? DIRECT_ALIGN_BYTES : 1;
    /* The same on every host: the guest must not see another disk after a move. */
    file->info = (struct blockdev_info){
        .size_bytes = (uint64_t)size / BLOCK_BYTES * BLOCK_BYTES,
        .block_bytes = BLOCK_BYTES,
        .physical_block_bytes = PHYSICAL_BLOCK_BYTES,
        .is_read_only = is_read_only,
        .can_discard = !is_read_only,
    };
    return true;
}

void blockdev_file_close(struct blockdev_file *file)
{
    gw_clear_fd(&file->fd);
}

bool blockdev_file_is_aligned(const struct blockdev_file *file,
                              const struct blockdev_request *request)
{
    uint64_t mask = file->align_bytes - 1;
    uint64_t bits = 0;
    for (unsigned i = 0; i < request->n_iov; i++)
        bits |= (uintptr_t)request->iov[i].iov_base | request->iov[i].iov_len;
    return (bits & mask) == 0;
}

/* ---- transfers ---- */

/* Copies len bytes between a flat buffer and the request's memory at offset skip. */
static void copy_iov(const struct blockdev_request *request, uint64_t skip, uint8_t *flat,
                     size_t len, bool is_to_iov)
{
    for (unsigned i = 0; i < request->n_iov && len > 0; i++) {
        const struct iovec *iov = &request->iov[i];
        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            continue;
        }
        size_t n = MIN(len, iov->iov_len - skip);
        uint8_t *at = (uint8_t *)iov->iov_base + skip;
        memcpy(is_to_iov ? at : flat, is_to_iov ? flat : at, n);
        flat += n;
        len -= n;
        skip = 0;
    }
}

/* One whole pread or pwrite. A disk that ends early is an error, not a short disk. */
static int transfer_flat(const struct blockdev_file *file, bool is_write, uint8_t *bytes,
                         size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = is_write ? pwrite(file->fd, bytes, len, (off_t)offset)
                             : pread(file->fd, bytes, len, (off_t)offset);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        bytes += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int transfer(const struct blockdev_file *file, const struct blockdev_request *request)
{
    bool is_write = request->op == BLOCKDEV_WRITE;
    size_t chunk = (size_t)MIN(request->len_bytes, CHUNK_BYTES);
    void *bounce;
    if (posix_memalign(&bounce, CHUNK_ALIGN_BYTES, chunk) != 0)
        return -ENOMEM;
    int result = 0;
    for (uint64_t done = 0; done < request->len_bytes && result == 0; done += chunk) {
        size_t n = (size_t)MIN(request->len_bytes - done, chunk);
        if (is_write)
            copy_iov(request, done, bounce, n, false);
        result = transfer_flat(file, is_write, bounce, n, request->offset_bytes + done);
        if (!is_write && result == 0)
            copy_iov(request, done, bounce, n, true);
    }
    free(bounce);
    return result;
}

/* ---- zeroes and holes ---- */

static int write_zeroes(const struct blockdev_file *file, uint64_t offset, uint64_t len_bytes)
{
    size_t chunk = (size_t)MIN(len_bytes, CHUNK_BYTES);
    void *zeroes;
    if (posix_memalign(&zeroes, CHUNK_ALIGN_BYTES, chunk) != 0)
        return -ENOMEM;
    memset(zeroes, 0, chunk);
    int result = 0;
    for (uint64_t done = 0; done < len_bytes && result == 0; done += chunk)
        result =
            transfer_flat(file, true, zeroes, (size_t)MIN(len_bytes - done, chunk), offset + done);
    free(zeroes);
    return result;
}

static int try_fallocate(const struct blockdev_file *file, int mode,
                         const struct blockdev_request *request)
{
    int rc;
    do {
        rc = fallocate(file->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)request->offset_bytes,
                       (off_t)request->len_bytes);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

static bool is_unsupported(int result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL || result == -ENODEV;
}

static int discard(const struct blockdev_file *file, const struct blockdev_request *request)
{
    int result = try_fallocate(file, FALLOC_FL_PUNCH_HOLE, request);
    return is_unsupported(result) ? 0 : result; /* a hint */
}

static int zero(const struct blockdev_file *file, const struct blockdev_request *request)
{
    int result = -EOPNOTSUPP;
    if (request->op == BLOCKDEV_WRITE_ZEROES_UNMAP)
        result = try_fallocate(file, FALLOC_FL_PUNCH_HOLE, request);
    if (is_unsupported(result))
        result = try_fallocate(file, FALLOC_FL_ZERO_RANGE, request);
    if (is_unsupported(result))
        result = write_zeroes(file, request->offset_bytes, request->len_bytes);
    return result;
}

int blockdev_file_execute(const struct blockdev_file *file, const struct blockdev_request *request)
{
    switch (request->op) {
    case BLOCKDEV_READ:
    case BLOCKDEV_WRITE:
        return transfer(file, request);
    case BLOCKDEV_FLUSH:
        return fdatasync(file->fd) < 0 ? -errno : 0;
    case BLOCKDEV_DISCARD:
        return discard(file, request);
    case BLOCKDEV_WRITE_ZEROES:
    case BLOCKDEV_WRITE_ZEROES_UNMAP:
        return zero(file, request);
    }
    return -EINVAL;
}
