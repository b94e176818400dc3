/* SPDX-License-Identifier: MIT */
/* A source of our own making, up to the point where it begins to lie. */
#ifndef TEST_ATTACK_H
#define TEST_ATTACK_H

#include "harness.h"

#include <string.h>

#include "wire/pages.h"
#include "wire/section.h"

struct attack {
    struct move *move;
    struct wire_stream *control, *page;
    uint8_t id[WIRE_ID_BYTES];
    uint64_t features; /* said in HELLO */
    uint64_t state_digest;
    char *page_filter; /* owned; NULL: none */
};

#define SEND(stream, type, message) assert_true(wire_send(stream, type, message, limit_ns(), NULL))

static inline int64_t limit_ns(void)
{
    return (int64_t)after_ms(PATIENCE_MS);
}

struct gw_channel *connect_to(struct move *move);
struct wire_stream *open_stream(struct move *move, enum wire_role role, uint16_t index,
                                const uint8_t *id);
/* The peer ends the channel; whatever it says before is passed over. */
void expect_end(struct gw_channel *channel);
/* An honest source comes and succeeds. */
void check_still_works(struct move *move);
/* Passes over everything up to a record of this type. */
void await_record(struct wire_stream *stream, enum wire_type type);
/* The same, and decodes it. */
#define AWAIT(stream, type, message) await_message((stream), (type), (message), sizeof *(message))
void await_message(struct wire_stream *stream, enum wire_type type, void *message, size_t n_bytes);
void say_hello(struct attack *attack, uint32_t page_channels);
void send_schema(struct attack *attack);
void send_ram_map(struct attack *attack);
/* Opens the page channel; rounds may come. */
void open_page_channel(struct attack *attack);
/* HELLO to the verdict, and the page channel. */
void attack_begin(struct attack *attack, struct move *move);
/* SWITCHOVER_BEGIN to STATE_END of attempt 1. */
void send_state(struct attack *attack, uint32_t round);
void attack_end(struct attack *attack);

#endif
