/* SPDX-License-Identifier: MIT */
/* Making and checking the 64 bytes that begin each direction of each channel. */
#ifndef WIRE_PREAMBLE_H
#define WIRE_PREAMBLE_H

#include "wire/stream_impl.h"

struct wire_preamble {
    struct wire_identity identity;
    uint16_t minor;
    uint64_t seed;
};

/* Returns the seed of the direction. */
uint64_t wire_preamble_make(const struct wire_identity *identity, enum wire_side side,
                            uint8_t bytes[WIRE_PREAMBLE_BYTES]);
/* name: of the channel, for messages. sender: which side must have sent it. */
bool wire_preamble_parse(const uint8_t bytes[WIRE_PREAMBLE_BYTES], const char *name,
                         enum wire_side sender, struct wire_preamble *preamble, GError **error);

#endif
