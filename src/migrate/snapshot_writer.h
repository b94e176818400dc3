/* SPDX-License-Identifier: MIT */
/*
 * The pages of a snapshot on their way into it: several threads, each packet written to its own
 * place; or one thread and the stream's channel, where the file cannot be written in place.
 *
 * The unit of work is a chunk: the pages of a page set within an aligned range of 1 MiB of a block.
 * Of a guest that is stopped they are written out of its memory. Of a guest that runs, the writer
 * keeps the content of one instant: chunks that hold pages of the set are write-protected; whoever
 * comes first, a worker or the guest's write, has the chunk copied, whole, and released, and the
 * copy is written. The copies that wait to be written are bounded: when there are too many, the
 * guest's write waits for the disk.
 */
#ifndef MIGRATE_SNAPSHOT_WRITER_H
#define MIGRATE_SNAPSHOT_WRITER_H

#include "godwit/memory.h"
#include "wire/snapshot.h"

struct snapshot_writer;

struct snapshot_writer_config {
    struct gw_memory *memory;
    struct wire_stream *stream;
    uint32_t n_threads; /* 0: the default */
    /* Does the user want it to end? Any thread. */
    bool (*wants_stop)(void *opaque);
    void *opaque;
};

struct snapshot_writer *snapshot_writer_new(const struct snapshot_writer_config *config);
void snapshot_writer_free(struct snapshot_writer *writer);

/* Live, while the guest runs: gets ready to protect. What is
 * written from here on, snapshot_writer_instant has to be told. UNSUPPORTED: the guest has to stand
 * still instead. */
bool snapshot_writer_arm(struct snapshot_writer *writer, const struct gw_page_set *set,
                         GError **error);
/* Live, while nobody writes guest memory: this is the instant. dirty: pages that were written since
 * arm; set: those and the armed ones, which is what _run is called with. */
bool snapshot_writer_instant(struct snapshot_writer *writer, const struct gw_page_set *set,
                             const struct gw_page_set *dirty, GError **error);

struct snapshot_counters {
    uint64_t pages_plain, pages_zero;
    uint64_t n_caught; /* live: chunks that the guest wrote before they had been reached */
};
/* Writes the round: ROUND_BEGIN, the pages of set, ROUND_END. After it nothing is protected. */
bool snapshot_writer_run(struct snapshot_writer *writer, const struct wire_round_begin *begin,
                         const struct gw_page_set *set, struct snapshot_counters *counters,
                         GError **error);

#endif
