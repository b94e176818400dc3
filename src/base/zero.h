/* SPDX-License-Identifier: MIT */
/* Is this memory all zero? Fast, and cheap at the first byte that is not. */
#ifndef BASE_ZERO_H
#define BASE_ZERO_H

#include <string.h>

#include "base/simd.h"

/* len: multiple of 64; any alignment. A page that is written meanwhile gives either answer. Most
 * pages that are not zero say so in their first line, which is looked at here; the rest is done by
 * the processor's widest vectors. */
static inline bool memory_is_zero(const void *memory, size_t len)
{
    uint64_t w[SIMD_LINE_WORDS];

    if (len == 0) {
        return true;
    }
    memcpy(w, memory, sizeof(w));
    if ((w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]) != 0) {
        return false;
    }
    return simd_best()->is_zero((const uint8_t *)memory + SIMD_LINE_BYTES,
                                len / SIMD_LINE_BYTES - 1);
}

static inline bool page_is_zero(const void *page)
{
    return memory_is_zero(page, 4096);
}

#endif
