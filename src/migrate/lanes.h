/* SPDX-License-Identifier: MIT */
/*
 * The sending lanes of a source: one thread for each channel that carries pages.
 *
 * Model: a round is a set of pages that nobody changes while it is sent. Lanes take chunks of 256
 * page numbers from a shared cursor, so that a slow channel simply takes fewer. Every lane frames
 * the round on its own channel by ROUND_BEGIN and ROUND_END. Fewer than all lanes may be let take
 * chunks (lanes_set_active); the others wait until they may or the round is over. Page bytes go out
 * of guest memory in place, unless encoding them pays (migrate/encoding.h); no lock, allocation or
 * system call is made per page.
 *
 * Threads: the functions are called by the control thread; on_sent and on_failed come on a lane's
 * thread. The counters may be read from any thread.
 */
#ifndef MIGRATE_LANES_H
#define MIGRATE_LANES_H

#include "migrate/encoding.h"
#include "migrate/link.h"

struct lanes;

struct lanes_ops {
    void (*on_sent)(void *opaque, uint32_t channel, uint32_t round,
                    const struct wire_round_end *end);
    void (*on_failed)(void *opaque, uint32_t channel, const GError *error);
};

struct lanes_counters {
    uint64_t pages_plain, pages_zero; /* in total */
    uint64_t round_pages;             /* sent in this round */
    uint64_t cpu_ns;                  /* that the lanes' threads have spent in rounds, in total */
};

/* memory and encoding are borrowed. */
struct lanes *lanes_new(const struct gw_memory *memory, struct encoding *encoding,
                        const struct lanes_ops *ops, void *opaque);
/* Adds a lane over the stream (a page channel's, or the control channel's), which outlives it. */
void lanes_add(struct lanes *lanes, struct wire_stream *stream, uint32_t channel,
               uint32_t max_packet_pages);
uint32_t lanes_n(const struct lanes *lanes);
/* Starts a round on all lanes, all active. set must not change until every lane has said on_sent.
 */
void lanes_start_round(struct lanes *lanes, const struct wire_round_begin *begin,
                       const struct gw_page_set *set);
/* The round after COMMIT of a post-copy: all lanes take from push, which outlives it, and send what
 * they take at once, as it is. */
struct push;
void lanes_start_push(struct lanes *lanes, const struct wire_round_begin *begin, struct push *push);
/* Takes out of pages those of the round that no lane has read yet: what is in memory now, or later,
 * is what goes out. Between lanes_start_round and the last on_sent. */
void lanes_drop_coming(struct lanes *lanes, struct gw_page_set *pages);
/* How many lanes, the first ones, take chunks of the round from now on. */
void lanes_set_active(struct lanes *lanes, uint32_t n_active);
/* The lanes end the round early: what they had not taken is not sent. */
void lanes_abandon_round(struct lanes *lanes);
/* The same of a round that is acknowledged all the same: what is not sent goes into pages, which
 * has the blocks of the round's. */
void lanes_cut_round(struct lanes *lanes, struct gw_page_set *pages);
/* Waits until no lane sends, at most until the deadline; false: some lane still does. */
bool lanes_wait_idle(struct lanes *lanes, uint64_t deadline_ns);
void lanes_get_counters(struct lanes *lanes, struct lanes_counters *counters);
/* Wakes their channels, joins, frees. */
void lanes_free(struct lanes *lanes);

#endif
