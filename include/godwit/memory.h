/* SPDX-License-Identifier: MIT */
/*
 * Guest memory: RAM blocks, translation, and the collection of dirty pages.
 *
 * Model: a guest-physical address space is a small set of RAM blocks that do not overlap. A block
 * is one memfd mapped once, or memory that the embedder has mapped itself and that is adopted; its
 * host address never changes. Everything else (MMIO) is not memory and is not known here.
 *
 * Dirty log: each writer inside this process marks the pages it writes in the block's write_log:
 * software harts while logging is on (gw_memory_log_page), device DMA always (gw_memory_note_write;
 * one atomic OR orders its data against the start of a log too). Writers outside (KVM) are dirty
 * producers that are asked for their log. A collection takes (exchanges with zero) the write logs,
 * runs every producer's barrier, and ORs the result into the caller's set.
 *
 * ORDER: device DMA writes first and marks afterwards (gw_memory_note_write, release), so a taken
 * bit implies visible data. A software hart marks first and may keep a cached right to write the
 * page without marking; its producer's barrier() returns only when every hart has dropped these
 * rights at an instruction boundary. Pages may be read for sending only after the collection has
 * returned; hence no write is ever lost between two rounds.
 *
 * Threads: blocks are added before any other thread knows the memory; afterwards the list is
 * immutable and every function may be called from any thread unless it says otherwise.
 */
#ifndef GODWIT_MEMORY_H
#define GODWIT_MEMORY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "godwit/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GW_PAGE_SHIFT 12
#define GW_PAGE_SIZE  (UINT64_C(1) << GW_PAGE_SHIFT)

struct gw_memory;

/* gpa of a block that is not in the guest-physical address space: found by name only. It moves with
 * the guest like any other block. */
#define GW_GPA_NONE UINT64_MAX

/* One RAM block. All members are fixed after gw_memory_add_block; the arrays' words are atomic. */
struct gw_ram_block {
    struct gw_memory *memory;
    char *name;          /* unique, stable over versions: "ram", "ram.high" */
    uint32_t index;      /* position in the memory, from 0 */
    uint64_t gpa;        /* guest-physical address of the first byte, page aligned; GW_GPA_NONE */
    uint64_t size_bytes; /* multiple of GW_PAGE_SIZE */
    uint64_t n_pages;
    uint8_t *host;       /* mapping of fd, PROT_READ|PROT_WRITE, MAP_SHARED unless adopted */
    int fd;              /* memfd, owned by the block; -1: adopted memory without a descriptor */
    uint64_t *write_log; /* n_pages bits (64 per word, bit i of word w = page 64*w+i); read with
                            __atomic builtins, set by the functions below, which keep its summary;
                            costs memory only where bits were set */
    uint64_t *watched; /* n_pages bits: pages for which write watchers must be told (pages that hold
                          decoded guest code). Set by watchers, cleared by who reports the write. */
    uint64_t *write_log_groups; /* bit g: some of pages [512 g, 512 g + 512) may be in write_log, so
                                   that a collection costs by what was written */
};

/* A set of pages: one bitmap for each block of one memory. Plain data, owned by one thread. */
struct gw_page_set {
    const struct gw_memory *memory;
    uint64_t **words;  /* [n_blocks][ceil(n_pages/64)] */
    uint64_t n_set;    /* pages in the set, kept by the functions below */
    uint64_t **groups; /* [n_blocks]; bit g: some of pages [512 g, 512 g + 512) may be in the set */
};

/* Errors: GW_ERROR_INVALID for bad names, alignment, ranges, overlap; GW_ERROR_IO where the kernel
 * refuses memory or descriptors; GW_ERROR_STATE when the log is in use, or not in use. */

struct gw_memory *gw_memory_new(void);
void gw_memory_free(struct gw_memory *memory);

/* Adds a block backed by a fresh, sparse memfd. size_bytes and gpa: multiples of GW_PAGE_SIZE (or
 * gpa GW_GPA_NONE).
 * Returns the block (owned by the memory), NULL with error on overlap, bad alignment or no memory.
 */
struct gw_ram_block *gw_memory_add_block(struct gw_memory *memory, const char *name, uint64_t gpa,
                                         uint64_t size_bytes, GError **error);
/* Makes the embedder's own memory a block: [host, host+size_bytes) is one or more mappings of this
 * process, all readable and writable and all of one kind, either private and anonymous or shared.
 * They stay the embedder's, must stay in place until gw_memory_free, and are not unmapped by it.
 * fd: of shared memory the descriptor behind it (duplicated; it tells touched pages from untouched
 * ones), else -1. Name and gpa: as above. Who writes to it is told by gw_memory_note_write, by a
 * producer, or found by a tracker (godwit/tracker.h).
 * NULL with error: INVALID (not such a mapping), UNSUPPORTED (huge pages of hugetlbfs), IO. */
struct gw_ram_block *gw_memory_adopt_block(struct gw_memory *memory, const char *name, uint64_t gpa,
                                           void *host, uint64_t size_bytes, int fd, GError **error);
uint32_t gw_memory_n_blocks(const struct gw_memory *memory);
struct gw_ram_block *gw_memory_block(const struct gw_memory *memory, uint32_t index);
struct gw_ram_block *gw_memory_block_by_name(const struct gw_memory *memory, const char *name);
uint64_t gw_memory_size_bytes(const struct gw_memory *memory);

/* The block that holds all of [gpa, gpa+len), or NULL. len may be 0. */
struct gw_ram_block *gw_memory_find(const struct gw_memory *memory, uint64_t gpa, uint64_t len);
/* Host address of [gpa, gpa+len) if it lies in one block, else NULL. Whoever writes through it
 * calls gw_memory_note_write afterwards. */
void *gw_memory_host(const struct gw_memory *memory, uint64_t gpa, uint64_t len);
/* Copies; false when the range is not RAM (nothing is copied then). write also notes the write. */
bool gw_memory_read(const struct gw_memory *memory, uint64_t gpa, void *to, uint64_t len);
bool gw_memory_write(struct gw_memory *memory, uint64_t gpa, const void *from, uint64_t len);
/* A device has written these bytes of the block: marks pages dirty and tells the write watchers
 * about watched pages. Bytes outside of the block are ignored. */
void gw_memory_note_write(struct gw_ram_block *block, uint64_t offset, uint64_t len);
/* Marks one page before it is written, for a writer that keeps a right to write it until its
 * producer's barrier (ORDER, above). Tells no watcher. Any thread. */
void gw_memory_log_page(struct gw_ram_block *block, uint64_t page);
/* The same; true when it was this call that marked the page: of all who mark a page between two
 * collections exactly one is told so, and may count it. Since 1.1. */
bool gw_memory_log_page_first(struct gw_ram_block *block, uint64_t page);

/* Next run of pages that were ever touched, at or after *page (never-touched pages read as zero and
 * cost nothing; they need not be read to be known). false: none. Runs are what the kernel reports
 * for the memfd (data, as opposed to holes) or for private memory, so they may hold zero pages, one
 * may begin where another ends, and pages touched during the call may be missed: ask while a dirty
 * log runs. All of adopted shared memory without a descriptor counts as touched. */
bool gw_memory_next_allocated_run(const struct gw_ram_block *block, uint64_t *page,
                                  uint64_t *n_pages);
/* Which of the n_pages (at most 64) pages from first on may hold anything but zeroes: bit i for
 * page first + i. The others need not be read, and must not: reading a hole of a memfd fills it.
 * Costs a system call, whatever the size of the block. Same limits as above. */
uint64_t gw_memory_touched_mask(const struct gw_ram_block *block, uint64_t first, uint32_t n_pages);
/* Makes pages present, contents unchanged, so that later writes do not fault. offset, len:
 * multiples of GW_PAGE_SIZE. Blocks while the kernel zeroes fresh pages. A block that was populated
 * as a whole stays so: a destination does not give back what the source never touched. */
bool gw_memory_populate(struct gw_ram_block *block, uint64_t offset, uint64_t len, GError **error);
/* Gives pages back to the host (balloon); they read as zero afterwards. That counts as a write of
 * the pages that had been touched. */
bool gw_memory_discard(struct gw_ram_block *block, uint64_t offset, uint64_t len, GError **error);

/* Watchers are told (from the writing thread) of writes into pages whose bit in block->watched is
 * set; the reporter has cleared the bit before the call. At most 4; added before threads start. */
typedef void (*gw_write_watch_fn)(void *opaque, struct gw_ram_block *block, uint64_t page);
void gw_memory_add_write_watch(struct gw_memory *memory, gw_write_watch_fn fn, void *opaque);

/* A source of dirty information. Any member may be NULL. Called only by the thread that starts,
 * collects and stops logging. */
struct gw_dirty_producer {
    bool (*start)(void *opaque, GError **error); /* logging goes on: cached write rights are dropped
                                                    before it returns */
    void (*stop)(void *opaque);
    /* ORs pages of the block dirtied since the last call into words (n_pages bits). */
    bool (*collect)(void *opaque, struct gw_ram_block *block, uint64_t *words, GError **error);
    /* Returns when no writer of this producer can still write a page whose bit was taken without
     * setting it again. Must also return promptly while vCPUs are stopped. */
    void (*barrier)(void *opaque);
};
void gw_memory_add_dirty_producer(struct gw_memory *memory,
                                  const struct gw_dirty_producer *producer, void *opaque);

/* One log user at a time. start clears all logs. */
bool gw_memory_log_start(struct gw_memory *memory, GError **error);
void gw_memory_log_stop(struct gw_memory *memory);
bool gw_memory_is_logging(const struct gw_memory *memory); /* any thread, acquire */
/* Takes everything dirtied since the last collection into set (OR). *n_new, if not NULL, receives
 * the number of pages that were not in the set before. When a producer fails, what had been taken
 * is in the set, and what it could not say must be taken for dirty. */
bool gw_memory_log_collect(struct gw_memory *memory, struct gw_page_set *set, uint64_t *n_new,
                           GError **error);

struct gw_page_set *gw_page_set_new(const struct gw_memory *memory);
void gw_page_set_free(struct gw_page_set *set);
void gw_page_set_fill(struct gw_page_set *set); /* every page of every block */
void gw_page_set_clear(struct gw_page_set *set);
bool gw_page_set_test(const struct gw_page_set *set, uint32_t block, uint64_t page);
void gw_page_set_add(struct gw_page_set *set, uint32_t block, uint64_t first, uint64_t n_pages);
void gw_page_set_remove(struct gw_page_set *set, uint32_t block, uint64_t first, uint64_t n_pages);
void gw_page_set_or(struct gw_page_set *set, const struct gw_page_set *other);
/* Next run of set pages at or after *page in the block, at most max_pages long; false at the end.
 */
bool gw_page_set_next_run(const struct gw_page_set *set, uint32_t block, uint64_t *page,
                          uint64_t *n_pages, uint64_t max_pages);

#ifdef __cplusplus
}
#endif
#endif
