/* SPDX-License-Identifier: MIT */
/*
 * The board: what the processes of one case show each other in shared memory.
 *
 * Ownership is observed from outside: a side's guest sets its bit before its first instruction and
 * clears it after its last, so whoever sets a bit while another is set has caught two owners. The
 * bit of a process that was killed is cleared by the referee once the process is gone.
 */
#ifndef MATRIX_BOARD_H
#define MATRIX_BOARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define BOARD_SEATS 4

struct seat {
    _Atomic uint32_t state;     /* of the engine; 0: none started */
    _Atomic uint32_t seen;      /* a bit for each state it has been in */
    _Atomic uint32_t n_checks;  /* whole-memory checks made by its guest */
    _Atomic uint32_t n_wrong;   /* pages that were not what they must be */
    _Atomic uint32_t n_answers; /* commands answered */
    /* Written before `state` is stored, by the engine's control thread. */
    int failure_side, failure_code;
    char reason[1024];
};

struct board {
    _Atomic uint32_t running; /* a bit for each seat whose guest runs */
    _Atomic bool ran_twice;
    struct seat seats[BOARD_SEATS];
};

#endif
