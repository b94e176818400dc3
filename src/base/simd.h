/* SPDX-License-Identifier: MIT */
/*
 * The loops that run at memory speed, in one version for each kind of vector unit.
 *
 * Model: everything is counted in lines of 64 bytes (8 words of 64 bits), which is a cache line,
 * the widest vector, and 512 pages of a bitmap. Callers do what is left over at the ends in plain
 * C.
 *
 * The choice is made at every call from the processor's feature bits, which the compiler's runtime
 * reads once at start: two loads, and no state of our own. Every variant gives the same answer; a
 * unit test compares each one that the processor has with plain C.
 *
 * Threads: nothing here is atomic. Memory that is written meanwhile gives either answer.
 */
#ifndef BASE_SIMD_H
#define BASE_SIMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIMD_LINE_BYTES 64u
#define SIMD_LINE_WORDS 8u

struct simd_ops {
    const char *name;
    bool (*is_supported)(void);
    /* Bits set in n lines. */
    uint64_t (*count)(const uint64_t *words, size_t n_lines);
    /* ORs from into to; returns how many bits are new in to. Bit i of groups (ceil(n/64) words) is
     * set when line i of from is not zero, and left as it is otherwise. */
    uint64_t (*merge)(uint64_t *to, const uint64_t *from, size_t n_lines, uint64_t *groups);
    /* The same, and zeroes from. */
    uint64_t (*move)(uint64_t *to, uint64_t *from, size_t n_lines, uint64_t *groups);
    /* First line with a word other than `value` (0 or all ones); n_lines if there is none. */
    size_t (*find_other)(const uint64_t *words, size_t n_lines, uint64_t value);
    /* All zero? Any alignment. */
    bool (*is_zero)(const void *memory, size_t n_lines);
};

/* The best that this processor has. */
const struct simd_ops *simd_best(void);
/* All that are compiled in, best first; the last one is plain C. Some may not be supported here. */
const struct simd_ops *const *simd_all(size_t *n);

#endif
