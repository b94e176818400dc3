/* SPDX-License-Identifier: MIT */
/*
 * Numbers of pages as the data of a section of kind WIRE_SECTION_PAGES: one RAM block each.
 *
 * Wire: docs/wire-format.md section 5. A form byte, then runs or a bitmap, whichever is shorter.
 */
#ifndef WIRE_PAGE_LIST_H
#define WIRE_PAGE_LIST_H

#include "godwit/memory.h"

#define WIRE_PAGE_LIST_VERSION 1u

/* The pages of one block of the set. The caller frees it. */
GByteArray *wire_page_list_encode(const struct gw_page_set *set, uint32_t block);
/* Adds the pages to the block of the set. PEER: false with CORRUPT when the data is malformed or
 * names a page outside of the block; the set may then hold some of them. */
bool wire_page_list_decode(const uint8_t *data, size_t n_bytes, struct gw_page_set *set,
                           uint32_t block, GError **error);

#endif
