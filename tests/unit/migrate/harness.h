/* SPDX-License-Identifier: MIT */
/* One move of a fake pair, with what a test wants to happen on the way. */
#ifndef TEST_HARNESS_H
#define TEST_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "fake_vm.h"

#define PATIENCE_MS 60000

struct move {
    struct fake_pair pair;
    struct gw_source *source;
    struct gw_destination *destination;
    struct gw_migrate_params source_params, destination_params;
    char *source_uri; /* NULL: the pair's */

    /* from the source's observer, on its control thread */
    enum gw_source_state cancel_at; /* 0: never */
    bool was_cancel_taken;
    atomic_uint seen_states; /* bit per gw_source_state */
    atomic_int n_rounds;
    void (*on_round)(struct move *move, uint32_t round); /* it has just begun; NULL: nothing */

    /* the source's wrap: channels from this number on are refused; 0: never */
    int refuse_from;
    atomic_int n_channels;
};

void move_init(struct move *move);
/* The same with a guest that has only each stride-th page. */
void move_init_sparse(struct move *move, unsigned stride);
void move_start_destination(struct move *move);
void move_start_source(struct move *move);
/* Waits for the end of both sides. */
void move_finish(struct move *move);
void move_clear(struct move *move);
enum gw_source_state source_state_of(struct move *move);
void expect_source_state(struct move *move, enum gw_source_state expected);
struct gw_source_status source_status_of(struct move *move);
struct gw_destination_status destination_status_of(struct move *move);

/* The source is final and exactly one side runs: the right one. Memory is compared on success. */
void check_one_owner(struct move *move);
/* Does the last attempt have a phase of this name? */
bool has_phase(const struct gw_ledger *ledger, const char *name);
void check_ledger(const struct gw_ledger *ledger, uint32_t index, bool is_handed_over);
/* Moves the pair again with clean channels. */
void move_again(struct move *move);
/* The same, and checks that this works. */
void check_next_attempt_works(struct move *move);

/* A vCPU of the destination: as soon as its guest runs it looks at all memory, over and over, from
 * the end. What it sees of a page must be what the source holds of it. */
struct vcpu {
    struct move *move;
    uint64_t step; /* it looks at each so manieth page */
    /* It also writes to every other page that it has looked at, and this must stay. */
    bool leaves_marks;

    pthread_t thread;
    atomic_bool is_over;
    atomic_uint n_rounds, n_wrong;
};

void vcpu_start(struct vcpu *vcpu, struct move *move, uint64_t step, bool leaves_marks);
/* It waits for nothing: it gets through its memory. Puts its marks into the source's memory too,
 * which nobody needs any more: the two can be compared. */
void vcpu_end(struct vcpu *vcpu);

#endif
