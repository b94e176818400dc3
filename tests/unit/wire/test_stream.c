/* SPDX-License-Identifier: MIT */
/* Preambles, records and their rules: who may send what, where, when, and in which order. */
#include "fixture.h"

#include "wire/preamble.h"

/* ---- preambles ---- */

static struct wire_stream *accept_bytes(const uint8_t *bytes, size_t n_bytes, GError **error)
{
    return wire_stream_accept(fixture_reader(bytes, n_bytes), NEVER, error);
}

/* Makes a preamble, changes one field, repairs the digest, and expects a refusal. */
static void check_preamble(size_t at, unsigned n_bytes, uint64_t value, int code, const char *text)
{
    struct wire_identity identity = {.role = WIRE_ROLE_PAGE, .index = 3};
    uint8_t bytes[WIRE_PREAMBLE_BYTES];
    GError *error = NULL;

    wire_preamble_make(&identity, WIRE_SIDE_SOURCE, bytes);
    for (unsigned i = 0; i < n_bytes; i++) {
        bytes[at + i] = (uint8_t)(value >> (8 * i));
    }
    wire_store_u64(bytes + 56, XXH3_64bits(bytes, 56));
    struct wire_stream *stream = accept_bytes(bytes, sizeof(bytes), &error);
    if (text == NULL) {
        assert_ok(stream != NULL, error);
        wire_stream_free(stream);
    } else {
        assert_null(stream);
        assert_error(&error, code, text);
    }
}

static void preambles(void **state)
{
    (void)state;
    check_preamble(16, 8, 123, 0, NULL); /* any id */
    check_preamble(10, 2, 7, 0, NULL);   /* a later minor version */
    check_preamble(0, 1, 'g', GW_ERROR_CORRUPT, "not a Godwit stream");
    check_preamble(8, 2, 2, GW_ERROR_REFUSED, "format version 2, expected 1");
    check_preamble(12, 2, 0, GW_ERROR_REFUSED, "unknown role");
    check_preamble(12, 2, 6, GW_ERROR_REFUSED, "unknown role");
    check_preamble(14, 2, 64, GW_ERROR_LIMIT, "index");
    check_preamble(12, 2, WIRE_ROLE_CONTROL, GW_ERROR_LIMIT, "index"); /* with index 3 */
    check_preamble(32, 2, 2, GW_ERROR_REFUSED, "wrong direction");
    check_preamble(34, 2, 1, GW_ERROR_CORRUPT, "reserved");
    check_preamble(55, 1, 1, GW_ERROR_CORRUPT, "reserved");
}

static void preamble_of_something_else(void **state)
{
    (void)state;
    static const char http[] =
        "GET / HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n................";
    GError *error = NULL;

    assert_null(accept_bytes((const uint8_t *)http, 64, &error));
    assert_error(&error, GW_ERROR_CORRUPT, "not a Godwit stream");
    assert_null(accept_bytes((const uint8_t *)http, 10, &error));
    assert_error(&error, GW_ERROR_LINK_LOST, "preamble");
}

static void channels_know_themselves(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_PAGE, 5, WIRE_IN_ROUNDS);
    char a[37], b[37];

    assert_int_equal(wire_stream_identity(ends.destination)->role, WIRE_ROLE_PAGE);
    assert_int_equal(wire_stream_identity(ends.destination)->index, 5);
    assert_string_equal(wire_stream_label(ends.destination), "page 5");
    wire_format_id(wire_stream_identity(ends.source)->migration_id, a);
    wire_format_id(wire_stream_identity(ends.destination)->migration_id, b);
    assert_string_equal(a, b);
    assert_int_equal(strlen(a), 36);
    fixture_close(&ends);
}

static void answer_of_another_migration_is_refused(void **state)
{
    (void)state;
    struct gw_channel *a, *b;
    GError *error = NULL;
    uint8_t bytes[WIRE_PREAMBLE_BYTES];
    struct wire_identity identity = {.role = WIRE_ROLE_CONTROL};
    struct wire_identity other = {.role = WIRE_ROLE_CONTROL, .migration_id = {1}};

    assert_ok(gw_channel_pair(&a, &b, &error), error);
    wire_preamble_make(&other, WIRE_SIDE_DESTINATION, bytes);
    assert_ok(gw_channel_write_full(b, bytes, sizeof(bytes), NEVER, &error), error);
    struct wire_stream *stream = wire_stream_new(a, &identity, WIRE_SIDE_SOURCE);
    assert_false(wire_stream_open(stream, NEVER, &error));
    assert_error(&error, GW_ERROR_REFUSED, "another channel or migration");
    wire_stream_free(stream);
    gw_channel_free(b);
}

/* ---- records ---- */

static void messages_travel(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_SETUP);
    GError *error = NULL;
    struct wire_sentence sentences[] = {{2, (char *)"device \"x\" is missing"},
                                        {1, (char *)"field y is ignored"}};
    const struct wire_schema_verdict verdict = {false, 2, sentences};
    struct wire_schema_verdict got;
    const struct wire_keepalive alive = {7};
    struct wire_clock_pong pong;
    const struct wire_clock_ping ping = {.id = 9, .monotonic_ns = 1};

    /* Keep-alives are passed over and pings answered while waiting for something else. */
    assert_ok(wire_send(ends.destination, WIRE_KEEPALIVE, &alive, NEVER, &error), error);
    assert_ok(wire_send(ends.destination, WIRE_CLOCK_PING, &ping, NEVER, &error), error);
    assert_ok(wire_send(ends.destination, WIRE_SCHEMA_VERDICT, &verdict, NEVER, &error), error);
    assert_ok(wire_expect(ends.source, WIRE_SCHEMA_VERDICT, &got, NEVER, &error), error);
    assert_false(got.is_accepted);
    assert_int_equal(got.n_sentences, 2);
    assert_string_equal(got.sentences[0].text, "device \"x\" is missing");
    assert_int_equal(got.sentences[1].severity, 1);
    wire_message_clear(WIRE_SCHEMA_VERDICT, &got);
    assert_null(got.sentences);
    assert_ok(wire_expect(ends.destination, WIRE_CLOCK_PONG, &pong, NEVER, &error), error);
    assert_int_equal(pong.id, 9);
    assert_int_equal(pong.ping_monotonic_ns, 1);
    assert_true(pong.received_monotonic_ns <= pong.sent_monotonic_ns);

    struct wire_counters out, in;
    wire_stream_counters(ends.destination, &out);
    wire_stream_counters(ends.source, &in);
    assert_int_equal(out.records_out, 3);
    assert_int_equal(out.records_out, in.records_in);
    assert_int_equal(out.bytes_out, in.bytes_in);
    fixture_close(&ends);
}

static void abort_and_cancel_become_their_reason(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_ROUNDS);
    GError *error = NULL;
    struct wire_loaded loaded;
    const struct wire_abort abort = {WIRE_SIDE_DESTINATION, GW_ERROR_REFUSED,
                                     (char *)"RAM is too small"};
    const struct wire_cancel cancel = {(char *)"the user said so"};

    assert_ok(wire_send(ends.destination, WIRE_ABORT, &abort, NEVER, &error), error);
    assert_false(wire_expect(ends.source, WIRE_LOADED, &loaded, NEVER, &error));
    assert_error(&error, GW_ERROR_PEER, "destination: RAM is too small (refused)");
    assert_ok(wire_send(ends.source, WIRE_CANCEL, &cancel, NEVER, &error), error);
    struct wire_round_begin begin;
    assert_false(wire_expect(ends.destination, WIRE_ROUND_BEGIN, &begin, NEVER, &error));
    assert_error(&error, GW_ERROR_CANCELLED, "cancelled by the source: the user said so");
    fixture_close(&ends);
}

static void own_mistakes_are_not_sent(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_ROUNDS);
    GError *error = NULL;
    struct wire_counters counters;
    const struct wire_commit commit = {.attempt = 1};
    const struct wire_loaded suspect = {.attempt = 1, .n_suspect = 1};

    assert_false(wire_send(ends.source, WIRE_COMMIT, &commit, NEVER, &error)); /* phase */
    assert_error(&error, GW_ERROR_STATE, "COMMIT may not be sent here and now");
    wire_stream_set_phase(ends.source, WIRE_IN_BLACKOUT);
    wire_stream_set_phase(ends.destination, WIRE_IN_BLACKOUT);
    assert_false(wire_send(ends.destination, WIRE_COMMIT, &commit, NEVER, &error)); /* side */
    assert_error(&error, GW_ERROR_STATE, "COMMIT may not be sent");
    /* No page may be suspect at LOADED: it cannot even be said. */
    assert_false(wire_send(ends.destination, WIRE_LOADED, &suspect, NEVER, &error));
    assert_error(&error, GW_ERROR_LIMIT, "field n_suspect is out of its range");
    wire_stream_counters(ends.source, &counters);
    assert_int_equal(counters.records_out, 0);
    assert_ok(wire_send(ends.source, WIRE_COMMIT, &commit, NEVER, &error), error);
    fixture_close(&ends);
}

/* ---- what a peer may not do ---- */

/* Sends a record by hand: any type, length, sequence; digests right. */
static void send_forged(struct wire_stream *from, uint16_t type, uint16_t flags, uint64_t sequence,
                        const void *payload, uint32_t payload_bytes, uint32_t bulk_bytes)
{
    g_autofree uint8_t *bytes = g_malloc0(WIRE_HEADER_BYTES + payload_bytes + bulk_bytes);
    GError *error = NULL;

    wire_store_u16(bytes, type);
    wire_store_u16(bytes + 2, flags);
    wire_store_u32(bytes + 4, payload_bytes);
    wire_store_u64(bytes + 8, sequence);
    wire_store_u32(bytes + 16, bulk_bytes);
    wire_store_u32(bytes + 20, (uint32_t)XXH3_64bits_withSeed(bytes, 20, from->seed_out));
    memcpy(bytes + WIRE_HEADER_BYTES, payload, payload_bytes);
    wire_store_u64(bytes + 24,
                   XXH3_64bits_withSeed(bytes, WIRE_HEADER_BYTES + payload_bytes, from->seed_out));
    assert_ok(gw_channel_write_full(from->channel, bytes,
                                    WIRE_HEADER_BYTES + payload_bytes + bulk_bytes, NEVER, &error),
              error);
}

static void check_forged(uint16_t type, uint16_t flags, uint64_t sequence, uint32_t payload_bytes,
                         uint32_t bulk_bytes, enum wire_phase_set phase, int code, const char *text)
{
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, phase);
    uint8_t payload[64] = {0};
    struct wire_record record;
    GError *error = NULL;

    send_forged(ends.source, type, flags, sequence, payload, payload_bytes, bulk_bytes);
    assert_false(wire_receive(ends.destination, &record, NEVER, &error));
    assert_error(&error, code, text);
    /* And the stream is not read on. */
    send_forged(ends.source, WIRE_KEEPALIVE, 0, sequence, payload, 8, 0);
    assert_false(wire_receive(ends.destination, &record, NEVER, &error));
    assert_error(&error, GW_ERROR_CORRUPT, "failed before");
    fixture_close(&ends);
}

static void forged_records(void **state)
{
    (void)state;
    check_forged(0x0123, 0, 0, 0, 0, WIRE_IN_ROUNDS, GW_ERROR_REFUSED,
                 "control: record unknown 0: unknown mandatory type 0x0123");
    check_forged(WIRE_KEEPALIVE, 0, 1, 8, 0, WIRE_IN_ROUNDS, GW_ERROR_CORRUPT,
                 "field sequence: found 1, expected 0");
    check_forged(WIRE_KEEPALIVE, 1, 0, 8, 0, WIRE_IN_ROUNDS, GW_ERROR_REFUSED, "unknown flags");
    check_forged(WIRE_KEEPALIVE, 0, 0, 7, 0, WIRE_IN_ROUNDS, GW_ERROR_LIMIT,
                 "field length: 7 is not in 8..8");
    check_forged(WIRE_KEEPALIVE, 0, 0, 8, 1, WIRE_IN_ROUNDS, GW_ERROR_LIMIT,
                 "field bulk: 1 is more than 0");
    check_forged(WIRE_LOADED, 0, 0, 32, 0, WIRE_IN_BLACKOUT, GW_ERROR_CORRUPT,
                 "not sent by this side");
    check_forged(WIRE_END, 0, 0, 40, 0, WIRE_IN_ROUNDS, GW_ERROR_CORRUPT,
                 "not sent on this channel");
    check_forged(WIRE_COMMIT, 0, 0, 20, 0, WIRE_IN_ROUNDS, GW_ERROR_CORRUPT,
                 "record COMMIT 0: not permitted in phase rounds");
    check_forged(WIRE_HELLO, 0, 0, 60, 0, WIRE_IN_SETUP, GW_ERROR_LIMIT, "field length");
}

static void unknown_optional_records_are_skipped(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_ROUNDS);
    GError *error = NULL;
    struct wire_record record;
    uint8_t payload[100] = {1, 2, 3};
    const struct wire_keepalive alive = {7};

    send_forged(ends.source, 0x8F00, 0, 0, payload, 100, 70000);
    send_forged(ends.source, 0x8F01, 0, 1, payload, 0, 0);
    ends.source->next_out = 2;
    assert_ok(wire_send(ends.source, WIRE_KEEPALIVE, &alive, NEVER, &error), error);
    assert_ok(wire_receive(ends.destination, &record, NEVER, &error), error);
    assert_int_equal(record.type->type, WIRE_KEEPALIVE);
    assert_int_equal(record.sequence, 2);
    fixture_close(&ends);
}

static void later_minor_versions_may_add_fields(void **state)
{
    (void)state;
    GError *error = NULL;
    struct wire_record record;
    uint8_t payload[40] = {9};
    struct wire_keepalive alive;

    for (uint16_t minor = 0; minor < 2; minor++) {
        struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_ROUNDS);
        ends.destination->peer_minor = minor;
        send_forged(ends.source, WIRE_KEEPALIVE, 0, 0, payload, 40, 0);
        bool is_ok = wire_receive(ends.destination, &record, NEVER, &error) &&
                     wire_decode(&record, &alive, &error);
        assert_int_equal(is_ok, minor == 1);
        if (is_ok) {
            assert_int_equal(alive.monotonic_ns, 9);
        }
        g_clear_error(&error);
        fixture_close(&ends);
    }
}

static void a_timeout_within_a_record_loses_nothing(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_ROUNDS);
    GError *error = NULL;
    struct wire_record record;
    const struct wire_cancel cancel = {(char *)"a long enough reason"};
    struct wire_cancel got;

    /* The record goes to a spare stream with the same seed, and from there byte by byte. */
    struct gw_channel *a, *b;
    uint8_t bytes[WIRE_HEADER_BYTES + 22];
    assert_ok(gw_channel_pair(&a, &b, &error), error);
    struct wire_stream *spare =
        wire_stream_new(a, wire_stream_identity(ends.source), WIRE_SIDE_SOURCE);
    spare->seed_out = ends.source->seed_out;
    wire_stream_set_phase(spare, WIRE_IN_ROUNDS);
    assert_ok(wire_send(spare, WIRE_CANCEL, &cancel, NEVER, &error), error);
    assert_ok(gw_channel_read_full(b, bytes, sizeof(bytes), NEVER, &error), error);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        assert_false(wire_receive(ends.destination, &record, gw_deadline_after_ms(0), &error));
        assert_error(&error, GW_ERROR_TIMEOUT, "");
        assert_ok(gw_channel_write_full(ends.source->channel, bytes + i, 1, NEVER, &error), error);
    }
    assert_ok(wire_receive(ends.destination, &record, gw_deadline_after_ms(0), &error), error);
    assert_ok(wire_decode(&record, &got, &error), error);
    assert_string_equal(got.reason, "a long enough reason");
    wire_message_clear(WIRE_CANCEL, &got);
    wire_stream_free(spare);
    gw_channel_free(b);
    fixture_close(&ends);
}

static void a_lost_link_is_no_goodbye(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_ROUNDS);
    GError *error = NULL;
    struct wire_record record;

    gw_channel_shutdown(ends.source->channel);
    assert_false(wire_receive(ends.destination, &record, NEVER, &error));
    assert_error(&error, GW_ERROR_LINK_LOST, "stream ended before record 0 without GOODBYE");
    const struct wire_goodbye bye = {true};
    assert_false(wire_send(ends.source, WIRE_GOODBYE, &bye, NEVER, &error));
    assert_error(&error, GW_ERROR_LINK_LOST, "record GOODBYE 0");
    assert_false(wire_send(ends.source, WIRE_GOODBYE, &bye, NEVER, &error));
    assert_error(&error, GW_ERROR_LINK_LOST, "sending failed before");
    fixture_close(&ends);
}

/* ---- threads ---- */

enum { N_SENDERS = 4, N_EACH = 500 };

static void *sender(void *opaque)
{
    struct wire_stream *stream = opaque;

    for (uint32_t i = 0; i < N_EACH; i++) {
        const struct wire_keepalive alive = {i};
        if (!wire_send(stream, WIRE_KEEPALIVE, &alive, NEVER, NULL)) {
            return stream;
        }
    }
    return NULL;
}

static void many_threads_send_whole_records(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_ROUNDS);
    GError *error = NULL;
    pthread_t threads[N_SENDERS];
    struct wire_record record;

    for (int i = 0; i < N_SENDERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, sender, ends.source), 0);
    }
    for (uint64_t i = 0; i < (uint64_t)N_SENDERS * N_EACH; i++) {
        assert_ok(wire_receive(ends.destination, &record, NEVER, &error), error);
        assert_int_equal(record.sequence, i);
    }
    for (int i = 0; i < N_SENDERS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_null(result);
    }
    fixture_close(&ends);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(preambles),
        cmocka_unit_test(preamble_of_something_else),
        cmocka_unit_test(channels_know_themselves),
        cmocka_unit_test(answer_of_another_migration_is_refused),
        cmocka_unit_test(messages_travel),
        cmocka_unit_test(abort_and_cancel_become_their_reason),
        cmocka_unit_test(own_mistakes_are_not_sent),
        cmocka_unit_test(forged_records),
        cmocka_unit_test(unknown_optional_records_are_skipped),
        cmocka_unit_test(later_minor_versions_may_add_fields),
        cmocka_unit_test(a_timeout_within_a_record_loses_nothing),
        cmocka_unit_test(a_lost_link_is_no_goodbye),
        cmocka_unit_test(many_threads_send_whole_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
