/* SPDX-License-Identifier: MIT */
/*
 * One side of a case: a process of its own with a guest and an engine, which obeys the referee.
 *
 * A side can be killed at any moment. It shows what it does on the board and writes a byte to its
 * socket whenever the board changed; it ends when the socket does.
 */
#ifndef MATRIX_SIDE_H
#define MATRIX_SIDE_H

#include <sys/types.h>

#include "board.h"

struct side {
    pid_t pid; /* 0: none, or dead */
    int fd;    /* -1 with it */
    unsigned seat;
};

enum side_pace {
    SIDE_FAST = 1, /* as few rounds as possible */
    SIDE_ROUNDS,   /* a blackout after the third round */
    SIDE_HELD,     /* rounds until SIDE_RELAX */
};

struct side_order {
    enum { SIDE_MIGRATE = 1, SIDE_RELAX, SIDE_RUN_HERE, SIDE_CHECK } what;
    uint32_t silence_ms;
    enum side_pace pace;
    char uri[108];
};

/* Forks a destination that listens at the URI. */
void side_start_destination(struct side *side, struct board *board, unsigned seat, const char *uri,
                            uint32_t silence_ms);
/* Forks a source with a guest that runs. */
void side_start_source(struct side *side, struct board *board, unsigned seat);
void side_order(struct side *side, const struct side_order *order);
/* kill -9, and waits for the end; the guest runs no more. */
void side_kill(struct side *side, struct board *board);

#endif
