/* SPDX-License-Identifier: MIT */
/* Numbers with units out of text, and comparison of names that hold numbers. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* All errors are GW_ERROR_INVALID: texts come from our own user. */

/* Whole text is one number, decimal or 0x hexadecimal, within [min, max]. */
bool text_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *value, GError **error);
/* Bytes: a decimal number with an optional suffix k K M G T (powers of 1024), B or iB after it
 * allowed: "64M", "4GiB", "4096". */
bool text_parse_size(const char *text, uint64_t *bytes, GError **error);
/* Duration in ns: a number (a fraction is allowed) and ns, us, ms, s, m or h: "300ms", "1.5s". */
bool text_parse_duration(const char *text, uint64_t *ns, GError **error);

/* strcmp order, except that runs of digits compare as numbers: "hart/9" < "hart/10". */
int text_compare_natural(const char *a, const char *b);

#endif
