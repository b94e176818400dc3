/* SPDX-License-Identifier: MIT */
/*
 * How many of the open page channels a round uses: as few as carry what all of them would.
 *
 * Algorithm: a round begins with all. When it has lasted for a while, one window is measured with
 * all and one with half of them; if half carry nearly as much (a link that one channel fills, a
 * host without a core to spare), half it stays, and they are halved again; otherwise all are used
 * again, and nothing is tried for longer and longer. Only while nothing is lost by trying: short
 * rounds and the last one use all.
 *
 * Plain arithmetic without clock or lock; owned by the control thread.
 */
#ifndef MIGRATE_TUNE_H
#define MIGRATE_TUNE_H

#include <stdbool.h>
#include <stdint.h>

struct tune {
    bool is_auto;
    uint32_t n_all;
    uint32_t n_active;
    uint32_t n_before;    /* that were used when a trial began */
    uint64_t before_rate; /* with them, bytes per s */
    bool is_trial;        /* a window with fewer is being measured */
    bool has_window;      /* one has begun */
    uint64_t window_start_ns, window_bytes;
    uint64_t next_trial_ns, pause_ns;
};

#define TUNE_FIRST_NS     UINT64_C(1500000000) /* into a round, before anything is tried */
#define TUNE_WINDOW_NS    UINT64_C(200000000)
#define TUNE_MAX_PAUSE_NS UINT64_C(60000000000)

/* is_auto false: all are used always. */
void tune_init(struct tune *tune, uint32_t n_all, bool is_auto);
/* A round begins. */
void tune_round(struct tune *tune, uint64_t now_ns);
/* Looks at what was sent since the start of the round (any counter that only grows will do).
 * Returns how many channels to use. */
uint32_t tune_look(struct tune *tune, uint64_t now_ns, uint64_t n_bytes);
/* When to look again; UINT64_MAX: never. */
uint64_t tune_next_ns(const struct tune *tune);

#endif
