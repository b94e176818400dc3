/* SPDX-License-Identifier: MIT */
/*
 * One channel's round: the rules of docs/wire-format.md section 7 that concern one channel.
 *
 * Not here: the rule over all channels (R+1 only after R was acknowledged on all), which is the
 * engine's.
 */
#ifndef WIRE_ROUNDS_H
#define WIRE_ROUNDS_H

#include "wire/pages.h"

/* Zero-initialised: no round yet. Owned by the receiving thread. */
struct wire_round_check {
    uint32_t round; /* the open one, or the last */
    uint32_t flags;
    bool is_open;
    uint64_t n_pages;
    uint64_t n_packets;
    uint64_t n_bytes;
};

/* ROUND_BEGIN: the next number, nothing open. *begin may be NULL. */
bool wire_round_open(struct wire_round_check *check, const struct wire_record *record,
                     struct wire_round_begin *begin, GError **error);
/* A parsed PAGES packet: of the open round. */
bool wire_round_add(struct wire_round_check *check, const struct wire_record *record,
                    const struct wire_pages_in *packet, GError **error);
/* ROUND_END: of the open round, with the counts that were added. *end may be NULL. */
bool wire_round_close(struct wire_round_check *check, const struct wire_record *record,
                      struct wire_round_end *end, GError **error);

#endif
