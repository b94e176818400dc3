/* SPDX-License-Identifier: MIT */
/* Helpers of the device-state tests: one writer object, one reader object, one move. */
#ifndef STATE_TEST_H
#define STATE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "godwit/state.h"

/* A machine with one device "dev/0". */
struct gw_state_registry *one_device(const struct gw_state_desc *desc, void *object);

/* Saves all devices of `from`, as the wire would carry them. */
GPtrArray *save_all(const struct gw_state_registry *from); /* of GByteArray */

/* Takes over a schema by its wire form, so that every test also runs encode and parse. */
struct gw_schema *over_the_wire(const struct gw_state_registry *from);

/* Moves everything from one machine to the other and keeps it. NULL, or the error (free it). */
GError *move(const struct gw_state_registry *from, const struct gw_state_registry *to);
/* move, with sections of the caller's. */
GError *load_sections(const struct gw_state_registry *from, GPtrArray *sections,
                      const struct gw_state_registry *to);

/* move of one device; fails the test on error. */
void move_one(const struct gw_state_desc *writer, void *from, const struct gw_state_desc *reader,
              void *to);
/* The same must fail with exactly this message, and leave *to (size bytes) as it was. */
void refuse_one(const struct gw_state_desc *writer, void *from, const struct gw_state_desc *reader,
                void *to, size_t size, const char *message);
/* Saving must fail with exactly this message. */
void refuse_save(const struct gw_state_desc *desc, void *object, const char *message);
/* All findings of a comparison, one sentence per line, refusals marked "! ", warnings "- ". */
char *findings(const struct gw_state_registry *from, const struct gw_state_registry *to);

#endif
