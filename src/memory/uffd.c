/* SPDX-License-Identifier: MIT */
/* Thin wrappers of the kernel's interfaces for write protection. */
#include "memory/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "godwit/error.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_IOCTL         _IOWR('f', 16, struct scan_arg)
#define SCAN_WP_MATCHING   (UINT64_C(1) << 0)
#define SCAN_CHECK_WPASYNC (UINT64_C(1) << 1)

static int open_plain(int flags)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);

    if (fd >= 0 || errno != EPERM || (flags & UFFD_USER_MODE_ONLY)) {
        return fd;
    }
    /* Who may open the device may handle the kernel's faults without further privilege. */
    gw_autofd int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device < 0) {
        errno = EPERM;
        return -1;
    }
    return ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
}

int uffd_open(int flags, uint64_t features, uint64_t optional, GError **error)
{
    gw_autofd int asked = open_plain(flags);
    struct uffdio_api api = {.api = UFFD_API};

    if (asked < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "userfaultfd: %s", g_strerror(errno));
        return -1;
    }
    /* One descriptor is spent on the question what there is: UFFDIO_API works once. */
    if (ioctl(asked, UFFDIO_API, &api) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "userfaultfd: features: %s",
                    g_strerror(errno));
        return -1;
    }
    if (features & ~api.features) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "userfaultfd: the kernel lacks the features 0x%" G_GINT64_MODIFIER "x",
                    features & ~(uint64_t)api.features);
        return -1;
    }
    gw_autofd int fd = open_plain(flags);
    api = (struct uffdio_api){.api = UFFD_API, .features = features | (optional & api.features)};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "userfaultfd: %s", g_strerror(errno));
        return -1;
    }
    return gw_steal_fd(&fd);
}

static struct uffdio_range range_of(const void *at, uint64_t len)
{
    return (struct uffdio_range){.start = (uintptr_t)at, .len = len};
}

int uffd_register(int uffd, const void *at, uint64_t len, uint64_t mode)
{
    struct uffdio_register arg = {.range = range_of(at, len), .mode = mode};

    return ioctl(uffd, UFFDIO_REGISTER, &arg) < 0 ? errno : 0;
}

int uffd_protect(int uffd, const void *at, uint64_t len, bool is_protected)
{
    struct uffdio_writeprotect arg = {.range = range_of(at, len),
                                      .mode = is_protected ? UFFDIO_WRITEPROTECT_MODE_WP : 0};

    return ioctl(uffd, UFFDIO_WRITEPROTECT, &arg) < 0 ? errno : 0;
}

int uffd_copy(int uffd, const void *at, const void *from, uint64_t len, uint64_t *n_copied)
{
    struct uffdio_copy arg = {.dst = (uintptr_t)at, .src = (uintptr_t)from, .len = len};
    int rc = ioctl(uffd, UFFDIO_COPY, &arg) < 0 ? errno : 0;

    *n_copied = arg.copy > 0 ? (uint64_t)arg.copy : 0;
    /* Part of it was copied: what stands in the way of the rest is in copy, or comes again. */
    return rc;
}

int uffd_zero_page(int uffd, const void *at, uint64_t len)
{
    struct uffdio_zeropage arg = {.range = range_of(at, len)};

    return ioctl(uffd, UFFDIO_ZEROPAGE, &arg) < 0 ? errno : 0;
}

int uffd_wake(int uffd, const void *at, uint64_t len)
{
    struct uffdio_range arg = range_of(at, len);

    return ioctl(uffd, UFFDIO_WAKE, &arg) < 0 ? errno : 0;
}

int uffd_scan_written(int pagemap, uint64_t *from, uint64_t to, struct uffd_region *regions,
                      size_t n)
{
    struct scan_arg arg = {
        .size = sizeof arg,
        .flags = SCAN_CHECK_WPASYNC | SCAN_WP_MATCHING,
        .start = *from,
        .end = to,
        .vec = (uintptr_t)regions,
        .vec_len = n,
        .category_mask = UFFD_PAGE_IS_WRITTEN,
        .return_mask = UFFD_PAGE_IS_WRITTEN | UFFD_PAGE_IS_PRESENT | UFFD_PAGE_IS_SWAPPED,
    };
    int got = ioctl(pagemap, SCAN_IOCTL, &arg);

    if (got >= 0) {
        *from = arg.walk_end;
    }
    return got;
}
