/* SPDX-License-Identifier: MIT */
/* userfaultfd and PAGEMAP_SCAN, with what kernel headers older than ours lack. */
#ifndef MEMORY_UFFD_H
#define MEMORY_UFFD_H

#include <glib.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* SPEC: Linux Documentation/admin-guide/mm/pagemap.rst, "Pagemap Scan IOCTL". */
#define UFFD_PAGE_IS_WRITTEN (UINT64_C(1) << 1)
#define UFFD_PAGE_IS_PRESENT (UINT64_C(1) << 3)
#define UFFD_PAGE_IS_SWAPPED (UINT64_C(1) << 4)

struct uffd_region {
    uint64_t start, end; /* addresses */
    uint64_t categories; /* UFFD_PAGE_IS_* */
};

/* A new userfaultfd (O_CLOEXEC|O_NONBLOCK and flags) with these features, or -1 with error. A
 * feature marked optional is left out where the kernel lacks it. */
int uffd_open(int flags, uint64_t features, uint64_t optional, GError **error);
/* These return 0 or an errno. */
int uffd_register(int uffd, const void *at, uint64_t len, uint64_t mode);
int uffd_protect(int uffd, const void *at, uint64_t len, bool is_protected);
/* Gives missing pages this content; *n_copied: bytes of them that were given it, also on failure.
 */
int uffd_copy(int uffd, const void *at, const void *from, uint64_t len, uint64_t *n_copied);
int uffd_zero_page(int uffd, const void *at, uint64_t len);
int uffd_wake(int uffd, const void *at, uint64_t len);

/* Scans [*from, to) for written pages and protects what it tells (at one instant for each page).
 * Fills at most n regions, returns how many; *from is where to go on, `to` at the end. -1: errno.
 * EPERM: not all of it is registered for asynchronous protection. */
int uffd_scan_written(int pagemap, uint64_t *from, uint64_t to, struct uffd_region *regions,
                      size_t n);

#endif
