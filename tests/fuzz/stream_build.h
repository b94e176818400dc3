/* SPDX-License-Identifier: MIT */
/*
 * Makes a stream out of an input: the fuzzer chooses records and their contents, and what only
 * arithmetic can find (checks, digests, sequence numbers, totals) is made right for it.
 *
 * Input of the builder: records, each
 *     u8 type (0x80: the optional types), u8 switches, u16 payload bytes, [u16 bulk units], payload
 * switches: BUILD_* below.
 */
#ifndef GODWIT_TESTS_FUZZ_STREAM_BUILD_H
#define GODWIT_TESTS_FUZZ_STREAM_BUILD_H

#include <glib.h>

#include "fuzz.h"
#include "wire/wire.h"

enum {
    BUILD_LIES = 1,       /* totals and section digests stay as the input has them */
    BUILD_HAS_BULK = 2,   /* a u16 with the number of bulk bytes follows; their content is input */
    BUILD_BULK_PAGES = 4, /* the u16 counts pages; their content is one byte, repeated */
    BUILD_DAMAGED = 8,    /* the record digest is wrong */
};

struct stream_build {
    GByteArray *bytes;
    uint64_t seed, sequence;
    /* totals for SECTION_END, STATE_END and END */
    GByteArray *section, *section_digests;
    uint64_t n_sections, n_state_sections, n_state_bytes, n_pages, n_parts;
    uint32_t section_id;
    uint8_t section_kind;
    GByteArray *record_digests;
    uint64_t state_digest; /* of the last STATE_END */
};

void stream_build_init(struct stream_build *build, enum wire_role role, unsigned index,
                       enum wire_side side);
/* The preamble takes this migration id; right after init only. */
void stream_build_set_id(struct stream_build *build, const uint8_t id[WIRE_ID_BYTES]);
void stream_build_clear(struct stream_build *build);
/* Appends the next record of the input; its type, or 0 when the input is used up. */
uint16_t stream_build_record(struct stream_build *build, struct fuzz_input *in);
/* Appends one record. */
void stream_build_add(struct stream_build *build, uint16_t type, unsigned switches,
                      const uint8_t *payload, size_t payload_bytes, const uint8_t *bulk,
                      size_t bulk_bytes);

#endif
