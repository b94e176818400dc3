/* SPDX-License-Identifier: MIT */
/*
 * What every fuzz target has: its entry, and a way to eat the input as numbers.
 *
 * Model: an input is a little program for the target. Numbers are taken from its front, little-
 * endian; when it is used up they read as zero and fuzz_more() says so. The same input always does
 * the same, as far as threads allow.
 *
 * A target that finds its promise broken calls fuzz_check, which ends the process: to libFuzzer and
 * to the replay that is a crash like any other.
 */
#ifndef GODWIT_TESTS_FUZZ_H
#define GODWIT_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer's name for a target. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

static inline bool fuzz_more(const struct fuzz_input *in)
{
    return in->left > 0;
}

/* 1 to 8 bytes as a number. */
static inline uint64_t fuzz_take(struct fuzz_input *in, unsigned n_bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n_bytes && in->left > 0; i++, in->at++, in->left--)
        value |= (uint64_t)*in->at << (8 * i);
    return value;
}

/* At most max bytes where they lie; *n receives how many there were. */
static inline const uint8_t *fuzz_take_bytes(struct fuzz_input *in, size_t max, size_t *n)
{
    const uint8_t *at = in->at;

    *n = max < in->left ? max : in->left;
    in->at += *n;
    in->left -= *n;
    return at;
}

#define fuzz_check(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
