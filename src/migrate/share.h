/* SPDX-License-Identifier: MIT */
/*
 * The key of a shared migration: one page that both ends map, and that says who has the guest.
 *
 * Model: the source makes the page and passes its descriptor beside RAM_SHARE. It holds 128 random
 * bits, which the destination repeats in RAM_SHARED: only who received the descriptor, so who lives
 * under the same kernel, can. And it holds a word that changes once: the destination takes it when
 * it has read COMMIT and before it runs, the source revokes it before it takes the guest back. So a
 * source that lost the link after COMMIT knows at once what became of its guest, also when the
 * destination's process is gone (docs/handover.md).
 *
 * ORDER: seq_cst on both sides; the kernel of both is one, so the word is one.
 * PEER: the other side may write anything here at any time: everything but the two values that are
 * compared for means that the key was not taken, and nothing is believed twice.
 */
#ifndef MIGRATE_SHARE_H
#define MIGRATE_SHARE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

enum share_owner {
    SHARE_OPEN = 1,
    SHARE_TAKEN = 2,   /* by the destination: it has read COMMIT and runs the guest */
    SHARE_REVOKED = 3, /* by the source: the destination will never run it */
};

struct share_key {
    uint64_t proof_low, proof_high;
    uint32_t owner; /* enum share_owner; atomic */
};

/* A new key and its descriptor (the caller's). NULL: error. */
struct share_key *share_key_new(int *fd, GError **error);
/* PEER: the key behind a descriptor that came; takes fd. NULL: error, it is no key. */
struct share_key *share_key_open(int fd, GError **error);
void share_key_close(struct share_key *key); /* NULL: nothing */
/* Destination: may it run? Only the first call can say so. */
bool share_key_take(struct share_key *key);
/* Source: revokes the key unless it was taken. SHARE_REVOKED, SHARE_TAKEN; SHARE_OPEN: the word is
 * damaged and says nothing. */
enum share_owner share_key_revoke(struct share_key *key);

#endif
