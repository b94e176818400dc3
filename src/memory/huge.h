/* SPDX-License-Identifier: MIT */
/*
 * Huge pages for memory that is about to be written as a whole.
 *
 * Model: a page of a memfd that comes into being costs a fault, or a call into the file, its
 * clearing and its mapping, whatever its size. CPU time per GiB (EPYC, Linux 6.18): 4 KiB pages
 * 0.62 s with MADV_POPULATE_WRITE and 0.40 s with write, which copies as well; huge pages of 2 MiB
 * 0.08 s. MADV_COLLAPSE makes them on request, also where the kernel uses none by itself
 * (shmem_enabled "never"; "deny" and kernels before 6.1 refuse). It keeps what stands in the range.
 *
 * A huge page is there as a whole: to discard a part of it the kernel splits it, and where somebody
 * has a page of it in use it clears that part instead and keeps it.
 */
#ifndef MEMORY_HUGE_H
#define MEMORY_HUGE_H

#include "godwit/memory.h"

#define MEMORY_HUGE_PAGES UINT64_C(512) /* of 4 KiB in a huge page, on any processor */
#define MEMORY_HUGE_BYTES (MEMORY_HUGE_PAGES << GW_PAGE_SHIFT)

/* Whether the block's memory is such that a huge page can lie at each multiple of its size. */
bool memory_can_be_huge(const struct gw_ram_block *block);
/* Makes a range (multiples of MEMORY_HUGE_PAGES within the block) present in huge pages, contents
 * unchanged. false: the kernel did not, for all or some of it; what is present then stays. Any
 * thread. */
bool memory_make_huge(struct gw_ram_block *block, uint64_t first, uint64_t n_pages);

#endif
