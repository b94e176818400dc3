/* SPDX-License-Identifier: MIT */
/* Rounds on one channel: numbers in order, and nothing lost between begin and end. */
#include "wire/rounds.h"

#include <inttypes.h>

bool wire_round_open(struct wire_round_check *check, const struct wire_record *record,
                     struct wire_round_begin *begin, GError **error)
{
    struct wire_round_begin own;

    if (!wire_decode(record, &own, error)) {
        return false;
    }
    if (check->is_open) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "round %" PRIu32 " has not ended",
                          check->round);
        return false;
    }
    if (own.round != check->round + 1) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "field round: found %" PRIu32 ", expected %" PRIu32, own.round,
                          check->round + 1);
        return false;
    }
    *check = (struct wire_round_check){.round = own.round, .flags = own.flags, .is_open = true};
    if (begin != NULL) {
        *begin = own;
    }
    return true;
}

bool wire_round_add(struct wire_round_check *check, const struct wire_record *record,
                    const struct wire_pages_in *packet, GError **error)
{
    if (!check->is_open || packet->round != check->round) {
        wire_record_error(record, GW_ERROR_CORRUPT, error,
                          "field round: found %" PRIu32 ", but round %" PRIu32 " %s", packet->round,
                          check->round, check->is_open ? "is open" : "has ended");
        return false;
    }
    check->n_pages += packet->n_pages;
    check->n_packets++;
    check->n_bytes += (uint64_t)WIRE_HEADER_BYTES + record->payload_bytes + record->bulk_bytes;
    return true;
}

bool wire_round_close(struct wire_round_check *check, const struct wire_record *record,
                      struct wire_round_end *end, GError **error)
{
    struct wire_round_end own;

    if (!wire_decode(record, &own, error)) {
        return false;
    }
    const struct {
        const char *field;
        uint64_t found, expected;
    } checks[] = {
        {"round", own.round, check->is_open ? check->round : 0},
        {"n_pages", own.n_pages, check->n_pages},
        {"n_packets", own.n_packets, check->n_packets},
        {"n_bytes", own.n_bytes, check->n_bytes},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(checks); i++) {
        if (checks[i].found != checks[i].expected) {
            wire_record_error(record, GW_ERROR_CORRUPT, error,
                              "field %s: found %" PRIu64 ", expected %" PRIu64, checks[i].field,
                              checks[i].found, checks[i].expected);
            return false;
        }
    }
    check->is_open = false;
    if (end != NULL) {
        *end = own;
    }
    return true;
}
