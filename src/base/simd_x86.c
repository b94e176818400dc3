/* SPDX-License-Identifier: MIT */
/*
 * The loops at memory speed for AVX2 and AVX-512.
 *
 * A merge stores a line only when it brings new bits: what a guest dirties again and again costs no
 * write. AVX2 has no population count of its own: it is looked up per half byte (vpshufb) and
 * summed by vpsadbw.
 */
#include "base/simd_impl.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2        __attribute__((target("avx2")))
#define AVX512      __attribute__((target("avx512f,avx512vpopcntdq")))
/* Ahead of the reads: one 4 KiB page at a time is what the processor's own prefetcher sees. */
#define AHEAD_WORDS (16u * SIMD_LINE_WORDS)

static bool avx2_is_supported(void)
{
    return __builtin_cpu_supports("avx2");
}

static bool avx512_is_supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vpopcntdq");
}

/* ---- AVX2: two halves of a line ---- */

AVX2 static inline __m256i load256(const void *at)
{
    return _mm256_loadu_si256((const __m256i *)at);
}

AVX2 static inline __m256i popcount256(__m256i v)
{
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i low = _mm256_set1_epi8(0x0F);
    __m256i n =
        _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(v, low)),
                        _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), low)));

    return _mm256_sad_epu8(n, _mm256_setzero_si256());
}

AVX2 static inline uint64_t sum256(__m256i v)
{
    uint64_t w[4];

    _mm256_storeu_si256((__m256i *)w, v);
    return w[0] + w[1] + w[2] + w[3];
}

AVX2 static uint64_t avx2_count(const uint64_t *words, size_t n_lines)
{
    __m256i sum = _mm256_setzero_si256();

    for (size_t line = 0; line < n_lines; line++, words += SIMD_LINE_WORDS) {
        sum = _mm256_add_epi64(sum, popcount256(load256(words)));
        sum = _mm256_add_epi64(sum, popcount256(load256(words + 4)));
    }
    return sum256(sum);
}

AVX2 static inline uint64_t avx2_union(uint64_t *to, uint64_t *from, size_t n_lines,
                                       uint64_t *groups, bool clears)
{
    __m256i sum = _mm256_setzero_si256();

    for (size_t line = 0; line < n_lines; line++, to += SIMD_LINE_WORDS, from += SIMD_LINE_WORDS) {
        _mm_prefetch((const char *)(to + AHEAD_WORDS), _MM_HINT_T0);
        _mm_prefetch((const char *)(from + AHEAD_WORDS), _MM_HINT_T0);
        __m256i f0 = load256(from), f1 = load256(from + 4);
        __m256i any = _mm256_or_si256(f0, f1);
        if (_mm256_testz_si256(any, any)) {
            continue;
        }
        __m256i t0 = load256(to), t1 = load256(to + 4);
        __m256i n0 = _mm256_andnot_si256(t0, f0), n1 = _mm256_andnot_si256(t1, f1);
        __m256i fresh = _mm256_or_si256(n0, n1);
        simd_note_group(groups, line, true);
        if (!_mm256_testz_si256(fresh, fresh)) {
            sum = _mm256_add_epi64(sum, popcount256(n0));
            sum = _mm256_add_epi64(sum, popcount256(n1));
            _mm256_storeu_si256((__m256i *)to, _mm256_or_si256(t0, f0));
            _mm256_storeu_si256((__m256i *)(to + 4), _mm256_or_si256(t1, f1));
        }
        if (clears) {
            _mm256_storeu_si256((__m256i *)from, _mm256_setzero_si256());
            _mm256_storeu_si256((__m256i *)(from + 4), _mm256_setzero_si256());
        }
    }
    return sum256(sum);
}

AVX2 static uint64_t avx2_merge(uint64_t *to, const uint64_t *from, size_t n_lines,
                                uint64_t *groups)
{
    return avx2_union(to, (uint64_t *)(uintptr_t)from, n_lines, groups, false);
}

AVX2 static uint64_t avx2_move(uint64_t *to, uint64_t *from, size_t n_lines, uint64_t *groups)
{
    return avx2_union(to, from, n_lines, groups, true);
}

AVX2 static size_t avx2_find_other(const uint64_t *words, size_t n_lines, uint64_t value)
{
    const __m256i same = _mm256_set1_epi64x((long long)value);

    for (size_t line = 0; line < n_lines; line++, words += SIMD_LINE_WORDS) {
        __m256i other = _mm256_or_si256(_mm256_xor_si256(load256(words), same),
                                        _mm256_xor_si256(load256(words + 4), same));
        if (!_mm256_testz_si256(other, other)) {
            return line;
        }
    }
    return n_lines;
}

AVX2 static bool avx2_is_zero(const void *memory, size_t n_lines)
{
    const uint8_t *at = (const uint8_t *)memory;

    for (; n_lines >= 2; n_lines -= 2, at += 2 * SIMD_LINE_BYTES) {
        __m256i any = _mm256_or_si256(_mm256_or_si256(load256(at), load256(at + 32)),
                                      _mm256_or_si256(load256(at + 64), load256(at + 96)));
        if (!_mm256_testz_si256(any, any)) {
            return false;
        }
    }
    if (n_lines > 0) {
        __m256i any = _mm256_or_si256(load256(at), load256(at + 32));
        return _mm256_testz_si256(any, any);
    }
    return true;
}

const struct simd_ops simd_avx2 = {
    "AVX2", avx2_is_supported, avx2_count, avx2_merge, avx2_move, avx2_find_other, avx2_is_zero,
};

/* ---- AVX-512: a line is one vector ---- */

AVX512 static uint64_t avx512_count(const uint64_t *words, size_t n_lines)
{
    __m512i sum = _mm512_setzero_si512();

    for (size_t line = 0; line < n_lines; line++, words += SIMD_LINE_WORDS) {
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_loadu_si512(words)));
    }
    return (uint64_t)_mm512_reduce_add_epi64(sum);
}

AVX512 static inline uint64_t avx512_union(uint64_t *to, uint64_t *from, size_t n_lines,
                                           uint64_t *groups, bool clears)
{
    __m512i sum = _mm512_setzero_si512();

    for (size_t line = 0; line < n_lines; line++, to += SIMD_LINE_WORDS, from += SIMD_LINE_WORDS) {
        _mm_prefetch((const char *)(to + AHEAD_WORDS), _MM_HINT_T0);
        _mm_prefetch((const char *)(from + AHEAD_WORDS), _MM_HINT_T0);
        __m512i f = _mm512_loadu_si512(from);
        if (_mm512_test_epi64_mask(f, f) == 0) {
            continue;
        }
        __m512i t = _mm512_loadu_si512(to);
        __m512i fresh = _mm512_andnot_si512(t, f);
        simd_note_group(groups, line, true);
        if (_mm512_test_epi64_mask(fresh, fresh) != 0) {
            sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(fresh));
            _mm512_storeu_si512(to, _mm512_or_si512(t, f));
        }
        if (clears) {
            _mm512_storeu_si512(from, _mm512_setzero_si512());
        }
    }
    return (uint64_t)_mm512_reduce_add_epi64(sum);
}

AVX512 static uint64_t avx512_merge(uint64_t *to, const uint64_t *from, size_t n_lines,
                                    uint64_t *groups)
{
    return avx512_union(to, (uint64_t *)(uintptr_t)from, n_lines, groups, false);
}

AVX512 static uint64_t avx512_move(uint64_t *to, uint64_t *from, size_t n_lines, uint64_t *groups)
{
    return avx512_union(to, from, n_lines, groups, true);
}

AVX512 static size_t avx512_find_other(const uint64_t *words, size_t n_lines, uint64_t value)
{
    const __m512i same = _mm512_set1_epi64((long long)value);

    for (size_t line = 0; line < n_lines; line++, words += SIMD_LINE_WORDS) {
        if (_mm512_cmpneq_epi64_mask(_mm512_loadu_si512(words), same) != 0) {
            return line;
        }
    }
    return n_lines;
}

AVX512 static bool avx512_is_zero(const void *memory, size_t n_lines)
{
    const uint8_t *at = (const uint8_t *)memory;

    for (; n_lines >= 4; n_lines -= 4, at += 4 * SIMD_LINE_BYTES) {
        __m512i any = _mm512_or_si512(
            _mm512_or_si512(_mm512_loadu_si512(at), _mm512_loadu_si512(at + 64)),
            _mm512_or_si512(_mm512_loadu_si512(at + 128), _mm512_loadu_si512(at + 192)));
        if (_mm512_test_epi64_mask(any, any) != 0) {
            return false;
        }
    }
    for (; n_lines > 0; n_lines--, at += SIMD_LINE_BYTES) {
        __m512i v = _mm512_loadu_si512(at);
        if (_mm512_test_epi64_mask(v, v) != 0) {
            return false;
        }
    }
    return true;
}

const struct simd_ops simd_avx512 = {
    "AVX-512",   avx512_is_supported, avx512_count,   avx512_merge,
    avx512_move, avx512_find_other,   avx512_is_zero,
};
#endif
