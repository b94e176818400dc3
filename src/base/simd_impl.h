/* SPDX-License-Identifier: MIT */
/* The variants that simd.c chooses from. */
#ifndef BASE_SIMD_IMPL_H
#define BASE_SIMD_IMPL_H

#include "base/simd.h"

#if defined(__x86_64__)
extern const struct simd_ops simd_avx512;
extern const struct simd_ops simd_avx2;
#elif defined(__aarch64__)
extern const struct simd_ops simd_neon;
#endif

static inline void simd_note_group(uint64_t *groups, size_t line, bool is_set)
{
    groups[line / 64] |= (uint64_t)is_set << (line % 64);
}

#endif
