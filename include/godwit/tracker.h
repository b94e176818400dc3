/* SPDX-License-Identifier: MIT */
/*
 * Dirty tracking for any embedder: finds which pages of a RAM block the threads of this process
 * write, without the threads knowing.
 *
 * Model: while a dirty log runs (gw_memory_log_start to gw_memory_log_stop, or a migration), the
 * blocks given to the tracker are write-protected by userfaultfd. The tracker is a dirty producer
 * of the memory: each collection asks which pages were written and protects them again. Writes by
 * the kernel on our behalf (read(2) into the memory) and discards of private memory
 * (MADV_DONTNEED) are found too. Between logs nothing is protected and nothing costs.
 *
 * Not seen, and for the embedder to report by gw_memory_note_write: writes through another mapping
 * or by another process, DMA into pinned pages (vfio, io_uring registered buffers), and holes
 * punched into shared memory otherwise than by gw_memory_discard. The mappings must stay in place:
 * a collection fails if one was replaced while the log ran.
 *
 * Ways of tracking (kernels):
 *   ASYNC  Linux 6.7 or newer: the kernel notes writes itself (UFFD_FEATURE_WP_ASYNC) and tells
 *          them by PAGEMAP_SCAN. Needs no privilege. The first write to a page costs one fault.
 *   SYNC   Linux 5.7 or newer (5.19 for shared memory): a thread of the tracker answers every first
 *          write to a page, and takes the first read of a fresh page for one. Needs the right to
 *          handle the kernel's faults: CAP_SYS_PTRACE, /dev/userfaultfd, or the system setting
 *          vm.unprivileged_userfaultfd=1.
 * Either costs 8 bytes of page tables for each page of the block, touched or not.
 *
 * Threads: one thread makes, fills and frees a tracker while no log runs.
 */
#ifndef GODWIT_TRACKER_H
#define GODWIT_TRACKER_H

#include <glib.h>
#include <stdbool.h>

#include "godwit/memory.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gw_tracker;

enum gw_tracker_mode {
    GW_TRACKER_AUTO = 0, /* the first of the following that works here */
    GW_TRACKER_ASYNC,
    GW_TRACKER_SYNC,
};
const char *gw_tracker_mode_name(enum gw_tracker_mode mode); /* "async" */

/* A tracker of no block yet, a producer of this memory from now on. It tries what it relies on, so
 * that a kernel or a sandbox that cannot do it is known here.
 * NULL with error: UNSUPPORTED (which says why each mode does not work), STATE (a log runs). */
struct gw_tracker *gw_tracker_new(struct gw_memory *memory, enum gw_tracker_mode mode,
                                  GError **error);
/* From the next log on the block is tracked. The block is of the tracker's memory: adopted, or of
 * the library's own. False with error: STATE (a log runs, or the block is tracked already). Whether
 * the kernel can protect its mapping shows when a log starts. */
bool gw_tracker_add(struct gw_tracker *tracker, struct gw_ram_block *block, GError **error);
/* How it tracks; never AUTO. */
enum gw_tracker_mode gw_tracker_mode_of(const struct gw_tracker *tracker);
/* Before gw_memory_free, and not while a log runs. NULL is allowed. */
void gw_tracker_free(struct gw_tracker *tracker);

#ifdef __cplusplus
}
#endif
#endif
