/* SPDX-License-Identifier: MIT */
/* What differs between two contents of a page, in words of 8 bytes. */
#include "wire/delta.h"

#include <string.h>

#include "wire/cursor.h"
#include "wire/wire.h"

#define N_WORDS (WIRE_PAGE_BYTES / 8)

/* First word at or after w whose equality is `equal`; N_WORDS: none. */
static uint32_t next_word(const uint8_t *from, const uint8_t *to, uint32_t w, bool equal)
{
    for (; w < N_WORDS; w++) {
        uint64_t a, b;
        memcpy(&a, from + w * 8, 8);
        memcpy(&b, to + w * 8, 8);
        if ((a == b) == equal) {
            break;
        }
    }
    return w;
}

size_t wire_delta_encode(const uint8_t *from, const uint8_t *to, uint8_t *out, size_t max)
{
    size_t n_out = 0;
    uint32_t at = 0;

    for (;;) {
        uint32_t start = next_word(from, to, at, false);
        if (start == N_WORDS) {
            return n_out;
        }
        uint32_t end = next_word(from, to, start, true);
        size_t n_changed = (end - start) * 8;
        if (max - n_out < WIRE_DELTA_PIECE_BYTES + n_changed) {
            return SIZE_MAX;
        }
        wire_store_u16(out + n_out, (uint16_t)((start - at) * 8));
        wire_store_u16(out + n_out + 2, (uint16_t)n_changed);
        memcpy(out + n_out + WIRE_DELTA_PIECE_BYTES, to + start * 8, n_changed);
        n_out += WIRE_DELTA_PIECE_BYTES + n_changed;
        at = end;
    }
}

/* Walks the pieces; with a page, writes them. */
static bool walk(uint8_t *page, const uint8_t *delta, size_t n_bytes)
{
    size_t at = 0;

    for (size_t i = 0; i < n_bytes;) {
        if (n_bytes - i < WIRE_DELTA_PIECE_BYTES) {
            return false;
        }
        size_t n_same = wire_load_u16(delta + i);
        size_t n_changed = wire_load_u16(delta + i + 2);
        i += WIRE_DELTA_PIECE_BYTES;
        if (n_changed == 0 || n_changed > n_bytes - i || n_same > WIRE_PAGE_BYTES - at ||
            n_changed > WIRE_PAGE_BYTES - at - n_same) {
            return false;
        }
        at += n_same;
        if (page != NULL) {
            memcpy(page + at, delta + i, n_changed);
        }
        at += n_changed;
        i += n_changed;
    }
    return true;
}

bool wire_delta_apply(uint8_t *page, const uint8_t *delta, size_t n_bytes)
{
    return walk(NULL, delta, n_bytes) && walk(page, delta, n_bytes);
}
