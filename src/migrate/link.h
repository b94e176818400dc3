/* SPDX-License-Identifier: MIT */
/*
 * One connected channel of an engine with a reader and a writer thread of its own.
 *
 * Model: the reader hands each record to on_record; the writer sends what was posted, in order, and
 * KEEPALIVE when it had nothing to send for the given time. So no engine thread ever blocks on the
 * peer by posting, and both directions of every channel speak even when there is nothing to say.
 *
 * Threads: post from any thread. on_record and on_end run on the reader or writer thread; on_end
 * comes exactly once. link_close and link_free from the owner (control thread) only.
 */
#ifndef MIGRATE_LINK_H
#define MIGRATE_LINK_H

#include "migrate/engine.h"

#define LINK_MAX_POSTED_BYTES (8u << 20) /* messages that wait to be sent, of one link */
#define LINK_MAX_PACKET_BYTES (4u << 20) /* frames that wait, likewise */

struct link;

struct link_ops {
    /* False with error ends the link (on_end is told this error). */
    bool (*on_record)(void *opaque, struct link *link, struct wire_record *record, GError **error);
    void (*on_end)(void *opaque, struct link *link, const GError *error);
};

/* Takes the stream (opened or confirmed). channel, generation: for the mails of its owner; box: the
 * owner's. */
struct link *link_new(struct wire_stream *stream, uint32_t channel, uint64_t generation,
                      struct mailbox *box, const struct link_ops *ops, void *opaque,
                      uint64_t keepalive_ns);
struct wire_stream *link_stream(struct link *link);
uint32_t link_channel(const struct link *link);
uint64_t link_generation(const struct link *link);

void link_set_keepalive(struct link *link, uint64_t keepalive_ns);

/* Posts a message; strings and lists in it are taken over and freed after it was sent. */
void link_post_sized(struct link *link, enum wire_type type, const void *message, size_t n_bytes);
#define link_post(link, type, message) link_post_sized((link), (type), (message), sizeof *(message))
/* The same with descriptors beside the record, which are taken over as well. */
void link_post_with_descriptors_sized(struct link *link, enum wire_type type, const void *message,
                                      size_t n_bytes, const int *fds, size_t n_fds);
#define link_post_with_descriptors(link, type, message, fds, n_fds)                                \
    link_post_with_descriptors_sized((link), (type), (message), sizeof *(message), (fds), (n_fds))
/* Answers a ping that came at arrived_ns (CLOCK_MONOTONIC). */
void link_answer_ping(struct link *link, const struct wire_clock_ping *ping, uint64_t arrived_ns);
/* Posts a section; data is taken over. */
void link_post_section(struct link *link, enum wire_section_kind kind, const char *name,
                       uint32_t instance, uint32_t version, uint32_t attempt, GByteArray *data);
/* Posts a PACKET with a copy of the frame. False: too many wait, it was not taken; the last of a
 * device always is. */
bool link_post_packet(struct link *link, const struct wire_packet *packet, const void *frame,
                      uint32_t n_bytes);
/* Posts wire_state_begin and STATE_END, around the sections of an attempt. */
void link_post_state_begin(struct link *link, uint32_t attempt);
void link_post_state_end(struct link *link);
/* The digest of the last STATE_END that is sent or being sent, 0 before. Any thread. */
uint64_t link_state_digest(struct link *link);

/* Decodes the record into a mail for the control thread; NULL with error. */
struct mail *link_decode(struct link *link, const struct wire_record *record, GError **error);
/* Puts what a reader has made into the owner's mailbox; waits while that is full. */
void link_deliver(struct link *link, struct mail *mail);
/* A mail that says why the link ended. */
struct mail *link_end_mail(struct link *link, const GError *error);
/* Sends what is posted, ends the sending direction and waits for the peer to end its own, all
 * within the deadline. Reader callbacks go on meanwhile. */
void link_finish(struct link *link, uint64_t deadline_ns);
/* Ends the channel now; on_end comes. Does not wait. */
void link_shutdown(struct link *link);
/* Ends the channel and joins the threads; the link itself stays valid until link_free. */
void link_join(struct link *link);
/* Ends the channel, joins the threads, frees. */
void link_free(struct link *link);

#endif
