/* SPDX-License-Identifier: MIT */
/*
 * What differs between two contents of a page.
 *
 * Wire: docs/wire-format.md section 6: pieces of u16 n_same, u16 n_changed and n_changed bytes, in
 * order; behind the last one everything is as it was.
 */
#ifndef WIRE_DELTA_H
#define WIRE_DELTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_DELTA_PIECE_BYTES 4u

/* Encodes what turns the page `from` into `to` (4096 bytes each). Returns its size, 0 when they are
 * equal, SIZE_MAX when it would not fit into max bytes. */
size_t wire_delta_encode(const uint8_t *from, const uint8_t *to, uint8_t *out, size_t max);
/* Turns the page into what it became. PEER: false when the delta leaves the page or is cut; the
 * page is as before then. */
bool wire_delta_apply(uint8_t *page, const uint8_t *delta, size_t n_bytes);

#endif
