/* SPDX-License-Identifier: MIT */
/*
 * An embedder's machine whose memory checks itself.
 *
 * Model: every page holds a pattern of its number and its generation; the generations are device
 * state. A thread keeps rewriting pages with new generations. Device state and pages are moved by
 * different means at different times, so a page that is stale, damaged, lost or written twice does
 * not fit its generation. The guest checks all of its memory whenever it begins to run, before it
 * writes, and when asked.
 */
#ifndef MATRIX_GUEST_H
#define MATRIX_GUEST_H

#include "board.h"
#include "godwit/migrate.h"

struct guest;

/* seat: which one of the board is ours. on_change is called (any thread) when the board changed. */
struct guest *guest_new(struct board *board, unsigned seat, void (*on_change)(void *opaque),
                        void *opaque);
const struct gw_vm *guest_vm(struct guest *guest);
/* Fills the memory and runs: this is where the guest is born. */
void guest_boot(struct guest *guest);
/* Stops, checks the memory, goes on as before. */
void guest_check(struct guest *guest);

#endif
