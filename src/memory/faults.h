/* SPDX-License-Identifier: MIT */
/*
 * Accesses to guest memory that wait for us: to pages that are not there yet, or writes to pages
 * that must not change yet.
 *
 * Model: a struct faults watches some or all blocks of a memory in one of two ways. MISSING: an
 * access to a page that holds nothing waits until the page is placed (with its content at once:
 * nobody ever sees half a page) or declared zero. WRITES: a write to a page that was protected
 * waits until the page is released; reads go on. Whoever accesses it makes no difference: a vCPU, a
 * device, or the kernel on their behalf (read, io_uring). Handlers, threads of it, tell of each
 * access that waits.
 *
 * Threads: the callback runs on a handler, on several at once where there are several, with no lock
 * held; it may block (others wait longer then, if no handler is free), and must not touch watched
 * memory in the way that is watched. Everything else may be called from any thread, also from the
 * callback. faults_free not from the callback.
 *
 * Needs userfaultfd for the faults of the kernel: root, vm.unprivileged_userfaultfd=1, or access to
 * /dev/userfaultfd. Without it faults_new fails with UNSUPPORTED and a sentence that says so.
 */
#ifndef MEMORY_FAULTS_H
#define MEMORY_FAULTS_H

#include "godwit/memory.h"

#define FAULTS_MAX_HANDLERS 4u

enum faults_kind { FAULTS_MISSING = 1, FAULTS_WRITES };

struct faults;
/* thread: of this process, that waits (its kernel id); 0: not known, as it is a thread of the
 * kernel, or an old kernel that does not tell. block NULL: somebody rang. */
typedef void (*fault_fn)(void *opaque, struct gw_ram_block *block, uint64_t page, uint32_t thread);

/* Watches every block of the memory. WRITES: nothing is protected yet. Nobody is told of anything
 * before faults_start, which comes when the callback has what it needs; it fails like _new does,
 * and then _free follows. n_handlers: from 1 to FAULTS_MAX_HANDLERS. */
struct faults *faults_new(struct gw_memory *memory, enum faults_kind kind, fault_fn fn,
                          void *opaque, GError **error);
bool faults_start(struct faults *faults, unsigned n_handlers, GError **error);
/* Would faults_new work? UNSUPPORTED with a sentence otherwise. */
bool faults_are_possible(enum faults_kind kind, GError **error);
/* Has the callback called once more soon, without a page: for what must be done with nothing held.
 * Rings that come close together may be one. Before faults_start: when that comes. */
void faults_ring(struct faults *faults);
/* Ends the handlers. Whoever waits goes on: to a page that is not there as to a zero one. NULL: ok.
 */
void faults_free(struct faults *faults);

/* MISSING: gives n_pages their content, which is copied; those that are there already keep theirs.
 */
bool faults_place(struct faults *faults, struct gw_ram_block *block, uint64_t first,
                  uint64_t n_pages, const uint8_t *bytes, GError **error);
bool faults_place_zero(struct faults *faults, struct gw_ram_block *block, uint64_t page,
                       GError **error);
/* WRITES. protect: when it returns nobody can write any more without a fault. */
bool faults_protect(struct faults *faults, struct gw_ram_block *block, uint64_t first,
                    uint64_t n_pages, GError **error);
bool faults_release(struct faults *faults, struct gw_ram_block *block, uint64_t first,
                    uint64_t n_pages, GError **error);
/* Whoever waits for one of these pages tries again (and is told of again, if it still has to wait).
 */
void faults_wake(struct faults *faults, struct gw_ram_block *block, uint64_t first,
                 uint64_t n_pages);

/* ---- who must hear of pages before they are discarded ----
 * A discarded page is gone without a fault. While a guard is set it is called before any pages are
 * discarded, on the discarding thread; what it still needs of them it takes then. */
typedef void (*memory_guard_fn)(void *opaque, struct gw_ram_block *block, uint64_t first,
                                uint64_t n_pages);
/* When it returns no call of an earlier guard runs. fn NULL: none. */
void memory_set_guard(struct gw_memory *memory, memory_guard_fn fn, void *opaque);

/* ---- memory that is not whole yet ----
 * While it is not, who wants to read all of it has to wait: pages that are still missing look like
 * pages that were never touched. */
void memory_set_whole(struct gw_memory *memory, bool is_whole);
bool memory_is_whole(struct gw_memory *memory);
/* Waits until it is; false when the deadline (CLOCK_MONOTONIC ns) has passed. */
bool memory_await_whole(struct gw_memory *memory, uint64_t deadline_ns);

#endif
