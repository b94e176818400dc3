/* SPDX-License-Identifier: MIT */
/*
 * Post-copy, at the destination: pages that are still missing while the guest runs already.
 *
 * Model: a page is missing until its content has come, or it turned out to be zero, or it was
 * discarded; never again after that. Who touches a missing page waits; the first one has it asked
 * for. A page that is not missing and not there is a zero page.
 *
 * The source's guest is stopped for good, so a page that comes twice comes with the same content.
 *
 * Threads: faults are answered by handlers, several where there are processors for it.
 * paging_arrived from any number of threads at once, each with a hand of its own.
 * Everything else from any thread, except that paging_free comes when nobody else calls.
 */
#ifndef MIGRATE_PAGING_H
#define MIGRATE_PAGING_H

#include "base/histogram.h"
#include "godwit/memory.h"

#define PAGING_MAX_THREADS 64u  /* of which statistics are kept; the last one is all others */
#define PAGING_MAX_RUN     256u /* pages that are asked for at once */

struct paging_ops {
    /* These pages are to be sent: somebody waits for them (called on a handler, on several at
     * once), or who called paging_ask_* wants them. May block for a short time: the handler serves
     * no other fault meanwhile. What cannot be asked because the link is broken is forgotten, and
     * comes again by paging_ask_again. */
    void (*request)(void *opaque, struct gw_ram_block *block, uint64_t first, uint32_t n_pages);
    /* Nothing is missing any more. Once, on a handler, nothing held; not before
     * paging_start. Must not free the paging. */
    void (*whole)(void *opaque);
    void *opaque;
};

struct paging;
struct paging_hand; /* what one receiving thread needs */

/* Takes the set over. Discards what stands in missing pages, and has accesses to them wait from now
 * on; the memory is not whole. On failure the set stays the caller's, and nothing has changed but
 * that pages may have been discarded. n_handlers: 0: as many as suit the host. UNSUPPORTED: faults
 * of the kernel cannot be handled. */
struct paging *paging_new(struct gw_memory *memory, struct gw_page_set *missing,
                          const struct paging_ops *ops, unsigned n_handlers, GError **error);
/* The caller has what the whole callback needs; it comes at once where nothing is missing. */
void paging_start(struct paging *paging);
/* Accesses wait no longer: pages that are still missing read as zero from now on. So only when
 * nothing is missing, or nothing runs. The memory counts as whole. NULL: ok. */
void paging_free(struct paging *paging);

struct paging_hand *paging_hand_new(struct paging *paging);
/* Its thread has ended. NULL: ok. Hands that are left go with the paging. */
void paging_hand_free(struct paging *paging, struct paging_hand *hand);

/* Pages have come and are good. bytes: a buffer outside of guest memory. False: the kernel has no
 * memory for them; some may be placed, the others stay missing. */
bool paging_arrived(struct paging *paging, struct paging_hand *hand, struct gw_ram_block *block,
                    uint64_t first, uint32_t n_pages, const uint8_t *bytes, GError **error);
/* They are zero. Costs no memory unless somebody waits for one. */
void paging_arrived_zero(struct paging *paging, struct gw_ram_block *block, uint64_t first,
                         uint32_t n_pages);

/* A broken link was repaired, and requests go there from now on: asks again for what somebody waits
 * for. */
void paging_ask_again(struct paging *paging);
/* Asks for all that is missing, in runs of at most PAGING_MAX_RUN pages. */
void paging_ask_rest(struct paging *paging);
uint64_t paging_n_missing(struct paging *paging);
/* What is missing at some moment of the call; the caller frees it. */
struct gw_page_set *paging_missing_copy(struct paging *paging);

struct paging_thread_stats {
    uint32_t thread;                   /* kernel id; 0: others */
    char name[16];                     /* as it was at its first fault; empty for a moment */
    uint64_t n_faults;                 /* on pages that were missing or zero */
    uint64_t stall_ns;                 /* waited, in all */
    struct histogram_snapshot latency; /* of each wait; detail: where in the block */
};

struct paging_stats {
    uint64_t n_faults;      /* on pages that were missing or zero */
    uint64_t n_zero_faults; /* of these, answered at once */
    uint64_t n_waiting;     /* waits that go on now */
    uint64_t n_unmeasured;  /* waits of which there were too many at once to be measured */
    uint64_t stall_ns;      /* sum of all threads */
    /* From the first fault on a page until it was there; detail: where in the block. */
    struct histogram_snapshot latency;
    uint32_t n_threads;
    struct paging_thread_stats threads[PAGING_MAX_THREADS];
};
/* Large: threads beyond n_threads are not filled. */
void paging_get_stats(struct paging *paging, struct paging_stats *stats);

#endif
