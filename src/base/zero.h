/* SPDX-License-Identifier: MIT */
/* Is this memory all zero? Fast, and cheap at the first byte that is not. */
#ifndef BASE_ZERO_H
#define BASE_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* len: multiple of 64; any alignment. A page that is written meanwhile gives either answer. */
static inline bool memory_is_zero(const void *memory, size_t len)
{
    const uint8_t *at = (const uint8_t *)memory;
    const uint8_t *end = at + len;

    for (; at < end; at += 64) {
        uint64_t w[8];
        memcpy(w, at, sizeof(w));
        if ((w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]) != 0) {
            return false;
        }
    }
    return true;
}

static inline bool page_is_zero(const void *page)
{
    return memory_is_zero(page, 4096);
}

#endif
