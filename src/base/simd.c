/* SPDX-License-Identifier: MIT */
/* The loops at memory speed in plain C, and the choice among the variants. */
#include "base/simd.h"

#include <string.h>

#include "base/simd_impl.h"

static bool plain_is_supported(void)
{
    return true;
}

static uint64_t plain_count(const uint64_t *words, size_t n_lines)
{
    uint64_t count = 0;

    for (size_t i = 0; i < n_lines * SIMD_LINE_WORDS; i++) {
        count += (uint64_t)__builtin_popcountll(words[i]);
    }
    return count;
}

static uint64_t plain_merge(uint64_t *to, const uint64_t *from, size_t n_lines, uint64_t *groups)
{
    uint64_t n_new = 0;

    for (size_t line = 0; line < n_lines; line++) {
        uint64_t any = 0;
        for (unsigned i = 0; i < SIMD_LINE_WORDS; i++, to++, from++) {
            any |= *from;
            n_new += (uint64_t)__builtin_popcountll(*from & ~*to);
            *to |= *from;
        }
        simd_note_group(groups, line, any != 0);
    }
    return n_new;
}

static uint64_t plain_move(uint64_t *to, uint64_t *from, size_t n_lines, uint64_t *groups)
{
    uint64_t n_new = 0;

    for (size_t line = 0; line < n_lines; line++, to += SIMD_LINE_WORDS, from += SIMD_LINE_WORDS) {
        uint64_t any = 0;
        for (unsigned i = 0; i < SIMD_LINE_WORDS; i++) {
            any |= from[i];
        }
        if (any == 0) {
            continue; /* writes nothing: untouched memory stays so */
        }
        for (unsigned i = 0; i < SIMD_LINE_WORDS; i++) {
            n_new += (uint64_t)__builtin_popcountll(from[i] & ~to[i]);
            to[i] |= from[i];
            from[i] = 0;
        }
        simd_note_group(groups, line, true);
    }
    return n_new;
}

static size_t plain_find_other(const uint64_t *words, size_t n_lines, uint64_t value)
{
    for (size_t line = 0; line < n_lines; line++, words += SIMD_LINE_WORDS) {
        uint64_t other = 0;
        for (unsigned i = 0; i < SIMD_LINE_WORDS; i++) {
            other |= words[i] ^ value;
        }
        if (other != 0) {
            return line;
        }
    }
    return n_lines;
}

static bool plain_is_zero(const void *memory, size_t n_lines)
{
    const uint8_t *at = (const uint8_t *)memory;

    for (size_t line = 0; line < n_lines; line++, at += SIMD_LINE_BYTES) {
        uint64_t w[SIMD_LINE_WORDS];
        memcpy(w, at, sizeof(w));
        if ((w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]) != 0) {
            return false;
        }
    }
    return true;
}

static const struct simd_ops simd_plain = {
    "plain C",  plain_is_supported, plain_count,   plain_merge,
    plain_move, plain_find_other,   plain_is_zero,
};

static const struct simd_ops *const variants[] = {
#if defined(__x86_64__)
    &simd_avx512,
    &simd_avx2,
#elif defined(__aarch64__)
    &simd_neon,
#endif
    &simd_plain,
};

const struct simd_ops *const *simd_all(size_t *n)
{
    *n = sizeof(variants) / sizeof(variants[0]);
    return variants;
}

const struct simd_ops *simd_best(void)
{
    size_t i = 0;

    while (!variants[i]->is_supported()) {
        i++;
    }
    return variants[i];
}
