/* SPDX-License-Identifier: MIT */
/*
 * File descriptors beside the bytes of a channel: what a UNIX socket between two processes of one
 * kernel can carry, and no other channel.
 *
 * Model: descriptors that are attached go with the next bytes that are written, whatever filters
 * stand above. The receiver keeps what came in the order in which it came; a record that speaks of
 * descriptors takes them when it was read whole: they came with it or before it. A relay in between
 * carries bytes only: then nothing comes, which is how the two ends learn that they share no kernel
 * (or that somebody stands between them).
 *
 * PEER: descriptors are received only where channel_accept_descriptors was called; elsewhere the
 * kernel throws them away. At most CHANNEL_MAX_DESCRIPTORS wait; more end the channel (LIMIT).
 *
 * Threads: attach by the thread that writes; accept before the reading thread starts; take by any.
 */
#ifndef CHANNEL_DESCRIPTORS_H
#define CHANNEL_DESCRIPTORS_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define CHANNEL_MAX_DESCRIPTORS 65u /* one for each RAM block, and one */

struct gw_channel;

bool channel_can_pass_descriptors(const struct gw_channel *channel);
/* The user of the process at the other end when it connected (or listened). */
bool channel_peer_user(const struct gw_channel *channel, uid_t *user);
/* What is attached goes with the next bytes; it stays the caller's and must be open until they are
 * written. n 0 takes back what has not gone. */
void channel_attach_descriptors(struct gw_channel *channel, const int *fds, size_t n);
void channel_accept_descriptors(struct gw_channel *channel);
/* The oldest n, which are the caller's from now on; false: fewer came (none is taken then). */
bool channel_take_descriptors(struct gw_channel *channel, int *fds, size_t n);

#endif
