/* SPDX-License-Identifier: MIT */
/*
 * Does the source's machine fit ours? All findings in one list, for a migration and for a probe.
 *
 * Reads what is immutable (blocks of memory, the registry's tables); changes nothing.
 */
#ifndef MIGRATE_VERDICT_H
#define MIGRATE_VERDICT_H

#include "godwit/memory.h"
#include "godwit/state.h"
#include "wire/messages.h"

struct verdict {
    GPtrArray *refusals, *warnings; /* char *, owned */
};

void verdict_init(struct verdict *verdict);
void verdict_clear(struct verdict *verdict);
/* blocks, if not NULL: [map->n_blocks], zeroed; receives our block for each that fits. */
void verdict_compare_ram(struct verdict *verdict, const struct gw_memory *memory,
                         const struct wire_ram_map *map, struct gw_ram_block **blocks);
void verdict_compare_features(struct verdict *verdict, uint64_t required, uint64_t ours);
void verdict_compare_schema(struct verdict *verdict, const struct gw_state_plan *plan);
/* The record; to be cleared as a message. */
struct wire_schema_verdict verdict_record(const struct verdict *verdict);

#endif
