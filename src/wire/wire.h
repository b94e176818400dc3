/* SPDX-License-Identifier: MIT */
/*
 * Records over a byte channel: identity, framing, digests, sequence, limits.
 *
 * docs/wire-format.md is normative. A wire_stream is one channel of one migration, with both of
 * its directions: it sends and checks the preambles, numbers and digests what goes out, and hands
 * in only records whose header, length, sequence and digest are right and whose type is known,
 * permitted here and within its limits. Unknown optional records are skipped inside.
 *
 * Errors name the channel, record type, sequence number and field:
 *     "control: record ROUND_ACK 17: field n_pages: 9 bytes short"
 * with GW_ERROR_CORRUPT, _LIMIT, _REFUSED (version, identity, unknown mandatory record), or what
 * the channel said (_LINK_LOST, _LINK_SILENT, _TIMEOUT, _CANCELLED).
 *
 * Threads: any thread may send (one lock per record keeps records whole); one thread at a time
 * receives. wake/shutdown go through wire_stream_channel().
 */
#ifndef WIRE_WIRE_H
#define WIRE_WIRE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "godwit/channel.h"
#include "godwit/error.h"
#include "wire/messages.h"

#define WIRE_VERSION_MAJOR    1u
#define WIRE_VERSION_MINOR    0u
#define WIRE_PREAMBLE_BYTES   64u
#define WIRE_HEADER_BYTES     32u
#define WIRE_ID_BYTES         16u
#define WIRE_MAX_PAYLOAD      (UINT32_C(4) << 20) /* of any record; types have smaller ones */
#define WIRE_MAX_BULK         (UINT32_C(1) << 20)
#define WIRE_MAX_CHANNELS     64u
#define WIRE_PAGE_BYTES       4096u
#define WIRE_MAX_PACKET_PAGES 256u

enum wire_role {
    WIRE_ROLE_CONTROL = 1,
    WIRE_ROLE_PAGE = 2,
    WIRE_ROLE_URGENT = 3,
    WIRE_ROLE_SNAPSHOT = 4, /* one direction, one channel: what a file holds */
    WIRE_ROLE_PROBE = 5,    /* measures the link and asks for the verdict; no migration follows */
};

struct wire_identity {
    uint8_t migration_id[WIRE_ID_BYTES];
    enum wire_role role;
    uint16_t index; /* page channels: from 0; others 0 */
};

/* ---- the table of records ---- */

enum wire_channel_set { /* on which channels a record may travel (bits) */
                        WIRE_ON_CONTROL = 1,
                        WIRE_ON_PAGE = 2,
                        WIRE_ON_URGENT = 4,
                        WIRE_ON_SNAPSHOT = 8,
                        WIRE_ON_PROBE = 16,
};

enum wire_sender_set { WIRE_BY_SOURCE = 1, WIRE_BY_DESTINATION = 2, WIRE_BY_BOTH = 3 };

/* Phases of a migration as seen on the wire; the engine tells the stream (wire_stream_set_phase),
 * and a record that is not permitted in the phase is refused. */
enum wire_phase_set {
    WIRE_IN_SETUP = 1,     /* HELLO, schema, RAM map, verdict */
    WIRE_IN_ROUNDS = 2,    /* guest runs at the source */
    WIRE_IN_BLACKOUT = 4,  /* SWITCHOVER_BEGIN .. LOADED */
    WIRE_IN_COMMITTED = 8, /* COMMIT sent or read .. end */
    WIRE_IN_OWNER = 16,    /* a control channel opened to ask who owns the guest */
    WIRE_IN_ANY = 31,
};

struct wire_record_type {
    uint16_t type;
    const char *name;
    uint8_t channels; /* enum wire_channel_set */
    uint8_t senders;  /* enum wire_sender_set */
    uint8_t phases;   /* enum wire_phase_set */
    uint32_t min_payload_bytes;
    uint32_t max_payload_bytes;
    uint32_t max_bulk_bytes;
    const struct wire_message_desc *message; /* NULL: PAGES, sections, PACKET */
};

/* NULL when unknown. */
const struct wire_record_type *wire_record_type_of(uint16_t type);
const struct wire_record_type *wire_record_types(size_t *n_types);
const char *wire_record_name(uint16_t type); /* "type 0x0123" is not made: "unknown" */
const char *wire_feature_name(unsigned bit); /* NULL when unknown */
const char *wire_role_name(enum wire_role role);

/* ---- one channel ---- */

struct wire_stream;

/* A received record. payload is valid until the next receive on the stream. */
struct wire_record {
    const struct wire_record_type *type;
    uint16_t flags;
    uint64_t sequence;
    const uint8_t *payload;
    uint32_t payload_bytes;
    uint32_t bulk_bytes;        /* still to be read with wire_receive_bulk */
    struct wire_stream *stream; /* for error messages */
};

/* Takes the channel. The side is which end of the migration we are. Nothing is sent yet. */
struct wire_stream *wire_stream_new(struct gw_channel *channel,
                                    const struct wire_identity *identity, enum wire_side side);
/* Opener (source): sends our preamble and, unless the role is snapshot, reads and checks the
 * peer's. */
bool wire_stream_open(struct wire_stream *stream, int64_t deadline_ns, GError **error);
/* Acceptor (destination): reads and checks the preamble that comes. Takes the channel, also on
 * failure. The caller looks at wire_stream_identity, then confirms or frees. */
struct wire_stream *wire_stream_accept(struct gw_channel *channel, int64_t deadline_ns,
                                       GError **error);
/* The same; takes the channel only when it succeeds (so that another thread can wake it meanwhile).
 */
struct wire_stream *wire_stream_try_accept(struct gw_channel *channel, int64_t deadline_ns,
                                           GError **error);
/* Answers with our own preamble. Not for snapshots. */
bool wire_stream_confirm(struct wire_stream *stream, int64_t deadline_ns, GError **error);
void wire_stream_free(struct wire_stream *stream); /* closes the channel */

const struct wire_identity *wire_stream_identity(const struct wire_stream *stream);
struct gw_channel *wire_stream_channel(struct wire_stream *stream);
/* "control", "page 1": for messages. */
const char *wire_stream_label(const struct wire_stream *stream);
/* Any thread; starts as WIRE_IN_SETUP. Exactly one bit of enum wire_phase_set. Checked against
 * what is received and (GW_ERROR_STATE) what is sent. */
void wire_stream_set_phase(struct wire_stream *stream, enum wire_phase_set phase);

void wire_new_migration_id(uint8_t id[WIRE_ID_BYTES]);
void wire_format_id(const uint8_t id[WIRE_ID_BYTES], char text[37]); /* 8-4-4-4-12 */

/* ---- messages ---- */

/* Sends the struct that belongs to the type. message_bytes guards against the wrong struct. */
bool wire_send_sized(struct wire_stream *stream, enum wire_type type, const void *message,
                     size_t message_bytes, int64_t deadline_ns, GError **error);
#define wire_send(stream, type, message, deadline_ns, error)                                       \
    wire_send_sized((stream), (type), (message), sizeof *(message), (deadline_ns), (error))
/* The same, with descriptors beside it (they stay the caller's): they arrive with the record or
 * before it. The channel can pass descriptors. */
bool wire_send_with_descriptors(struct wire_stream *stream, enum wire_type type,
                                const void *message, size_t message_bytes, const int *fds,
                                size_t n_fds, int64_t deadline_ns, GError **error);
/* Sends prepared payload and bulk bytes (pages, sections). */
bool wire_send_raw(struct wire_stream *stream, enum wire_type type, const void *payload,
                   uint32_t payload_bytes, const struct iovec *bulk, size_t n_bulk,
                   int64_t deadline_ns, GError **error);

/* The next record. Bulk bytes of the record before must have been taken (else they are skipped).
 * false with LINK_LOST at the end of the stream. */
bool wire_receive(struct wire_stream *stream, struct wire_record *record, int64_t deadline_ns,
                  GError **error);
/* Reads the next bytes of the record's bulk; the iovecs' sum must not exceed what is left. */
bool wire_receive_bulk(struct wire_stream *stream, const struct iovec *iov, size_t n_iov,
                       int64_t deadline_ns, GError **error);
bool wire_skip_bulk(struct wire_stream *stream, int64_t deadline_ns, GError **error);
/* Receives and decodes exactly this type. An ABORT or CANCEL instead becomes the peer's sentence
 * (PEER, CANCELLED); KEEPALIVE is passed over, CLOCK_PING answered; anything else is CORRUPT. */
bool wire_expect_sized(struct wire_stream *stream, enum wire_type type, void *message,
                       size_t message_bytes, int64_t deadline_ns, GError **error);
#define wire_expect(stream, type, message, deadline_ns, error)                                     \
    wire_expect_sized((stream), (type), (message), sizeof *(message), (deadline_ns), (error))
/* Decodes a received record into its struct; clear it afterwards. On failure it is zeroed. */
bool wire_decode_sized(const struct wire_record *record, void *message, size_t message_bytes,
                       GError **error);
#define wire_decode(record, message, error)                                                        \
    wire_decode_sized((record), (message), sizeof *(message), (error))
void wire_message_clear(enum wire_type type, void *message);
/* Answers a received CLOCK_PING at once. */
bool wire_answer_ping(const struct wire_record *ping, int64_t deadline_ns, GError **error);

/* Fails with "record NAME SEQ: <phrase>" (CORRUPT unless another code is given). */
void wire_record_error(const struct wire_record *record, int code, GError **error,
                       const char *format, ...) G_GNUC_PRINTF(4, 5);
/* GW_ERROR_PEER (or CANCELLED) with what the ABORT, CANCEL record says: side, code name, reason. */
void wire_peer_error(const struct wire_record *record, GError **error);

/* Sends END (snapshot): totals and digest of everything sent. */
bool wire_send_end(struct wire_stream *stream, int64_t deadline_ns, GError **error);
/* Checks an END record against everything received, and that nothing follows. */
bool wire_check_end(struct wire_stream *stream, const struct wire_record *record,
                    int64_t deadline_ns, GError **error);

/* Counters of the records, any thread. */
struct wire_counters {
    uint64_t records_out, records_in;
    uint64_t bytes_out, bytes_in; /* preamble, records, bulk */
    uint64_t pages_out, pages_in; /* zero pages included */
};
void wire_stream_counters(const struct wire_stream *stream, struct wire_counters *counters);

/* Framing for the filters of the channel room (record faults, trace file names). */
const struct gw_framing *wire_framing(void);

#endif
