/* SPDX-License-Identifier: MIT */
/* The inside of a wire_stream, shared by the files of this folder only. */
#ifndef WIRE_STREAM_IMPL_H
#define WIRE_STREAM_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/digest.h"
#include "wire/codec.h"
#include "wire/wire.h"

struct wire_stream {
    /* fixed after construction */
    struct gw_channel *channel; /* owned */
    struct wire_identity identity;
    enum wire_side side;
    char label[32];

    /* guarded by send_lock */
    pthread_mutex_t send_lock;
    uint64_t seed_out; /* digest of our preamble */
    uint64_t next_out; /* sequence */
    GByteArray *out;   /* header and payload of the record being sent */
    bool is_out_broken;
    XXH3_state_t *chain_out; /* snapshots: digest of record digests */
    uint32_t next_section;   /* id */
    GArray *index; /* snapshots: struct wire_index_entry of every packet placed; NULL: none yet */
    struct wire_locator locator; /* snapshots: as far as it is known */

    /* owned by the thread that sends sections */
    uint32_t state_attempt;
    uint32_t n_state_sections;
    uint64_t n_state_bytes;
    GByteArray *state_digests;

    /* owned by the receiving thread */
    uint64_t seed_in; /* digest of the peer's preamble */
    uint64_t next_in;
    uint16_t peer_minor;
    uint8_t *in; /* header and payload of the record being received */
    size_t in_have;
    size_t in_capacity;
    uint32_t bulk_left;
    bool is_in_broken;
    XXH3_state_t *chain_in;
    bool is_chain_unknown; /* records were passed over unread: END's digest cannot be checked */
    struct wire_decoder *decoder; /* owned; NULL until an encoded run comes */

    /* atomic */
    _Atomic int phase;
    _Atomic uint64_t records_out, records_in;
    _Atomic uint64_t bytes_out, bytes_in;
    _Atomic uint64_t pages_out, pages_in;
    _Atomic uint64_t sections_out, sections_in;
};

static inline void wire_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uint64_t wire_counted(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Completes the record at `at`, whose payload stands behind the room for its header, and numbers
 * it; under send_lock. The bytes still have to be counted and sent. */
void wire_build_record(struct wire_stream *stream, enum wire_type type, uint8_t *at,
                       uint32_t payload_bytes, uint32_t bulk_bytes);

/* Puts "label: " before the channel's own error. */
void wire_prefix_error(const struct wire_stream *stream, GError **error);

#endif
