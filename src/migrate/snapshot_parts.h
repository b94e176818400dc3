/* SPDX-License-Identifier: MIT */
/* What snapshot_load.c and snapshot_pager.c share. */
#ifndef MIGRATE_SNAPSHOT_PARTS_H
#define MIGRATE_SNAPSHOT_PARTS_H

#include "migrate/snapshot_reader.h"

/* A descriptor of its own of the same file: past the page cache, unless it is there already. */
int snapshot_open_again(int fd, const struct wire_snapshot *snapshot);
/* For wire_pages_parse; opaque is a struct snapshot_reader_config. */
uint64_t snapshot_block_pages(void *opaque, uint32_t block);
void snapshot_count_unit(struct snapshot_reader_counters *counters,
                         const struct wire_pages_in *packet, const struct wire_unit *unit);
uint32_t snapshot_n_threads(const struct snapshot_reader_config *config);

#endif
