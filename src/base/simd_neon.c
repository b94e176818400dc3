/* SPDX-License-Identifier: MIT */
/* The loops at memory speed for NEON, which every 64-bit ARM processor has. */
#include "base/simd_impl.h"

#if defined(__aarch64__)
#include <arm_neon.h>

struct line {
    uint64x2_t v[4];
};

static bool neon_is_supported(void)
{
    return true;
}

static inline struct line load_line(const void *at)
{
    const uint8_t *bytes = (const uint8_t *)at;
    struct line line;

    for (unsigned i = 0; i < 4; i++) {
        line.v[i] = vreinterpretq_u64_u8(vld1q_u8(bytes + 16 * i));
    }
    return line;
}

static inline bool is_any(const struct line *line)
{
    uint64x2_t any =
        vorrq_u64(vorrq_u64(line->v[0], line->v[1]), vorrq_u64(line->v[2], line->v[3]));
    return (vgetq_lane_u64(any, 0) | vgetq_lane_u64(any, 1)) != 0;
}

static inline uint64x2_t popcount128(uint64x2_t v)
{
    return vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(vcntq_u8(vreinterpretq_u8_u64(v)))));
}

static uint64_t neon_count(const uint64_t *words, size_t n_lines)
{
    uint64x2_t sum = vdupq_n_u64(0);

    for (size_t i = 0; i < n_lines * SIMD_LINE_WORDS; i += 2) {
        sum = vaddq_u64(sum, popcount128(vld1q_u64(words + i)));
    }
    return vaddvq_u64(sum);
}

static inline uint64_t neon_union(uint64_t *to, uint64_t *from, size_t n_lines, uint64_t *groups,
                                  bool clears)
{
    uint64x2_t sum = vdupq_n_u64(0);

    for (size_t n = 0; n < n_lines; n++, to += SIMD_LINE_WORDS, from += SIMD_LINE_WORDS) {
        struct line f = load_line(from), t, fresh;
        if (!is_any(&f)) {
            continue;
        }
        t = load_line(to);
        simd_note_group(groups, n, true);
        for (unsigned i = 0; i < 4; i++) {
            fresh.v[i] = vbicq_u64(f.v[i], t.v[i]);
        }
        if (is_any(&fresh)) {
            for (unsigned i = 0; i < 4; i++) {
                sum = vaddq_u64(sum, popcount128(fresh.v[i]));
                vst1q_u64(to + 2 * i, vorrq_u64(t.v[i], f.v[i]));
            }
        }
        for (unsigned i = 0; clears && i < 4; i++) {
            vst1q_u64(from + 2 * i, vdupq_n_u64(0));
        }
    }
    return vaddvq_u64(sum);
}

static uint64_t neon_merge(uint64_t *to, const uint64_t *from, size_t n_lines, uint64_t *groups)
{
    return neon_union(to, (uint64_t *)(uintptr_t)from, n_lines, groups, false);
}

static uint64_t neon_move(uint64_t *to, uint64_t *from, size_t n_lines, uint64_t *groups)
{
    return neon_union(to, from, n_lines, groups, true);
}

static size_t neon_find_other(const uint64_t *words, size_t n_lines, uint64_t value)
{
    const uint64x2_t same = vdupq_n_u64(value);

    for (size_t n = 0; n < n_lines; n++, words += SIMD_LINE_WORDS) {
        struct line line = load_line(words);
        for (unsigned i = 0; i < 4; i++) {
            line.v[i] = veorq_u64(line.v[i], same);
        }
        if (is_any(&line)) {
            return n;
        }
    }
    return n_lines;
}

static bool neon_is_zero(const void *memory, size_t n_lines)
{
    const uint8_t *at = (const uint8_t *)memory;

    for (size_t n = 0; n < n_lines; n++, at += SIMD_LINE_BYTES) {
        struct line line = load_line(at);
        if (is_any(&line)) {
            return false;
        }
    }
    return true;
}

const struct simd_ops simd_neon = {
    "NEON", neon_is_supported, neon_count, neon_merge, neon_move, neon_find_other, neon_is_zero,
};
#endif
