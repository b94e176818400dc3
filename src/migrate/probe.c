/* SPDX-License-Identifier: MIT */
/* Both ends of a probe. */
#include "migrate/probe.h"

#include <math.h>

#include "base/digest.h"
#include "wire/cursor.h"

#define FIRST_BYTES      (64u << 10) /* of the first records; they are also the first window */
#define FIRST_WINDOW     (UINT64_C(128) << 10)
#define MAX_WINDOW       (UINT64_C(16) << 20)
/* In which a connection comes to its speed: it doubles in each. */
#define SLOW_START_TRIPS 20u
#define MAX_ACKS         (WIRE_MAX_PROBE_BYTES / FIRST_BYTES + 1)
#define N_PARTS          4u
#define MIN_DOUBT        0.02
#define FEW_BYTES        (UINT64_C(1) << 20) /* less says little: latency and bursts dominate */
#define FEW_DOUBT        0.3
#define GOODBYE_NS       (200 * NS_PER_MS)

uint64_t probe_digest(const void *bytes, size_t n_bytes)
{
    return XXH3_64bits(bytes, n_bytes);
}

void probe_result_clear(struct probe_result *result)
{
    if (result->has_verdict) {
        wire_message_clear(WIRE_HELLO, &result->peer);
        wire_message_clear(WIRE_SCHEMA_VERDICT, &result->verdict);
    }
    *result = (struct probe_result){0};
}

/* ---- the source's end -------------------------------------------------------------------------
 */

static bool ask(struct wire_stream *stream, const struct wire_hello *hello,
                const GByteArray *schema, const struct wire_ram_map *map, int64_t deadline_ns,
                struct probe_result *result, GError **error)
{
    struct wire_rehearsal_report report;

    if (!wire_send(stream, WIRE_HELLO, hello, deadline_ns, error) ||
        !wire_send_section(stream, WIRE_SECTION_SCHEMA, "schema", 0, 1, 0, schema->data,
                           schema->len, deadline_ns, error) ||
        !wire_send(stream, WIRE_RAM_MAP, map, deadline_ns, error) ||
        !wire_expect(stream, WIRE_HELLO, &result->peer, deadline_ns, error))
        return false;
    if (!wire_expect(stream, WIRE_SCHEMA_VERDICT, &result->verdict, deadline_ns, error)) {
        wire_message_clear(WIRE_HELLO, &result->peer);
        return false;
    }
    result->has_verdict = true;
    wire_stream_set_phase(stream, WIRE_IN_ROUNDS);
    if (!result->verdict.is_accepted)
        return true;
    if (!wire_expect(stream, WIRE_REHEARSAL_REPORT, &report, deadline_ns, error))
        return false;
    result->has_rehearsal = report.is_ok;
    result->load_ns = report.load_ns;
    result->state_bytes = report.n_bytes;
    wire_message_clear(WIRE_REHEARSAL_REPORT, &report);
    return true;
}

static bool ping(struct wire_stream *stream, int64_t deadline_ns, struct probe_result *result,
                 GError **error)
{
    result->round_trip_ns = UINT64_MAX;
    for (uint32_t id = 1; id <= PROBE_PINGS; id++) {
        struct wire_clock_ping ping = {
            .id = id, .monotonic_ns = clock_mono_ns(), .realtime_ns = clock_real_ns()};
        struct wire_clock_pong pong;

        if (!wire_send(stream, WIRE_CLOCK_PING, &ping, deadline_ns, error) ||
            !wire_expect(stream, WIRE_CLOCK_PONG, &pong, deadline_ns, error))
            return false;
        result->round_trip_ns = MIN(result->round_trip_ns, clock_mono_ns() - ping.monotonic_ns);
    }
    return true;
}

/* The slope from b to c is no less than that from a to b. */
static bool is_below(const uint64_t *times_ns, const uint64_t *n_bytes, uint32_t a, uint32_t b,
                     uint32_t c)
{
    return (double)(n_bytes[c] - n_bytes[b]) * (double)(times_ns[b] - times_ns[a]) >=
           (double)(n_bytes[b] - n_bytes[a]) * (double)(times_ns[c] - times_ns[b]);
}

/* Bytes per ns. What was lost on the way and comes again holds up what is behind it, which then is
 * acknowledged all at once: acknowledgements come when the bytes did, or later. So the link is as
 * fast as the line that touches them from above; of several, the one over the middle. Where that is
 * a gap it is still as fast as all of them were on average. */
static double slope_above(const uint64_t *times_ns, const uint64_t *n_bytes, uint32_t n)
{
    g_autofree uint32_t *hull = g_new(uint32_t, n);
    uint64_t middle_ns = times_ns[0] + (times_ns[n - 1] - times_ns[0]) / 2;
    uint32_t n_hull = 0, edge = 1;

    for (uint32_t i = 0; i < n; i++) {
        while (n_hull > 1 && is_below(times_ns, n_bytes, hull[n_hull - 2], hull[n_hull - 1], i))
            n_hull--;
        hull[n_hull++] = i;
    }
    while (edge + 1 < n_hull && times_ns[hull[edge]] < middle_ns)
        edge++;
    return fmax((double)(n_bytes[hull[edge]] - n_bytes[hull[edge - 1]]) /
                    (double)MAX(times_ns[hull[edge]] - times_ns[hull[edge - 1]], 1),
                (double)(n_bytes[n - 1] - n_bytes[0]) /
                    (double)MAX(times_ns[n - 1] - times_ns[0], 1));
}

bool probe_rate(const uint64_t *times_ns, const uint64_t *n_bytes, uint32_t n,
                uint64_t round_trip_ns, double *bytes_per_s, double *doubt)
{
    uint64_t from_ns, part_ns;
    uint32_t first = 0, at;
    double least = INFINITY, most = 0;

    if (n < 2 || times_ns[n - 1] <= times_ns[0])
        return false;
    from_ns =
        times_ns[0] + MIN((times_ns[n - 1] - times_ns[0]) / 3, SLOW_START_TRIPS * round_trip_ns);
    while (first + 2 < n && times_ns[first] < from_ns)
        first++;
    *bytes_per_s = slope_above(times_ns + first, n_bytes + first, n - first) * 1e9;
    part_ns = (times_ns[n - 1] - times_ns[first]) / N_PARTS;
    at = first;
    for (unsigned part = 1; part <= N_PARTS; part++) {
        uint32_t end = at;

        while (end + 1 < n && times_ns[end] < times_ns[first] + part * part_ns)
            end++;
        if (end > at && times_ns[end] > times_ns[at]) {
            double rate =
                (double)(n_bytes[end] - n_bytes[at]) * 1e9 / (double)(times_ns[end] - times_ns[at]);

            least = fmin(least, rate);
            most = fmax(most, rate);
        }
        at = end;
    }
    *doubt = most > 0 ? fmax((most - least) / 2 / *bytes_per_s, MIN_DOUBT) : FEW_DOUBT;
    if (n_bytes[n - 1] < FEW_BYTES)
        *doubt = fmax(*doubt, FEW_DOUBT);
    *doubt = fmin(*doubt, 0.9);
    return *bytes_per_s > 0;
}

/* What is sent, and what has come of it. */
struct flight {
    uint8_t *bytes; /* WIRE_PROBE_BYTES of noise, so that nothing on the way makes it smaller */
    uint64_t sent, acked, window;
    uint64_t times_ns[MAX_ACKS], n_bytes[MAX_ACKS];
    uint32_t n;
};

static bool flight_send(struct wire_stream *stream, struct flight *flight, int64_t deadline_ns,
                        GError **error)
{
    uint32_t n_bytes = flight->window <= 4 * FIRST_WINDOW ? FIRST_BYTES : WIRE_PROBE_BYTES;
    uint8_t payload[8];
    struct iovec bulk;

    n_bytes = (uint32_t)MIN(n_bytes, WIRE_MAX_PROBE_BYTES - flight->sent);
    bulk = (struct iovec){flight->bytes, n_bytes};
    wire_store_u64(payload, probe_digest(flight->bytes, n_bytes));
    flight->sent += n_bytes;
    return wire_send_raw(stream, WIRE_PROBE, payload, sizeof payload, &bulk, 1, deadline_ns, error);
}

static bool flight_take(struct wire_stream *stream, struct flight *flight, int64_t deadline_ns,
                        GError **error)
{
    struct wire_probe_ack ack;

    if (!wire_expect(stream, WIRE_PROBE_ACK, &ack, deadline_ns, error))
        return false;
    /* PEER: only what was sent, in order, each with some bytes, can have come. */
    if (ack.n_bytes > flight->sent || ack.n_bytes <= flight->acked || flight->n == MAX_ACKS ||
        (flight->n && ack.monotonic_ns < flight->times_ns[flight->n - 1])) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_CORRUPT,
                            "the destination acknowledged what was not sent");
        return false;
    }
    flight->window = MIN(flight->window + ack.n_bytes - flight->acked, MAX_WINDOW);
    flight->acked = ack.n_bytes;
    flight->times_ns[flight->n] = ack.monotonic_ns;
    flight->n_bytes[flight->n++] = ack.n_bytes;
    return true;
}

static void fill_with_noise(uint8_t *bytes, size_t n_bytes)
{
    uint64_t word = clock_mono_ns() | 1;

    for (size_t at = 0; at + 8 <= n_bytes; at += 8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        wire_store_u64(bytes + at, word);
    }
}

static bool fly(struct wire_stream *stream, int64_t deadline_ns, struct probe_result *result,
                GError **error)
{
    g_autofree struct flight *flight = g_new0(struct flight, 1);
    g_autofree uint8_t *bytes = g_malloc(WIRE_PROBE_BYTES);
    uint64_t end_ns = clock_mono_ns() + PROBE_LENGTH_NS;

    flight->bytes = bytes;
    flight->window = FIRST_WINDOW;
    fill_with_noise(bytes, WIRE_PROBE_BYTES);
    while (flight->acked < flight->sent || flight->sent == 0 || clock_mono_ns() < end_ns) {
        bool is_over = clock_mono_ns() >= end_ns || flight->sent == WIRE_MAX_PROBE_BYTES;

        if (is_over && flight->acked == flight->sent)
            break;
        if (!is_over && flight->sent - flight->acked < flight->window) {
            if (!flight_send(stream, flight, deadline_ns, error))
                return false;
        } else if (!flight_take(stream, flight, deadline_ns, error)) {
            return false;
        }
    }
    result->n_bytes = flight->acked;
    result->is_measured = probe_rate(flight->times_ns, flight->n_bytes, flight->n,
                                     result->round_trip_ns, &result->bytes_per_s, &result->doubt);
    return true;
}

bool probe_measure(struct wire_stream *stream, const struct wire_hello *hello,
                   const GByteArray *schema, const struct wire_ram_map *map, int64_t deadline_ns,
                   struct probe_result *result, GError **error)
{
    struct wire_goodbye goodbye = {.is_complete = true};
    int64_t goodbye_ns;

    if (!ask(stream, hello, schema, map, deadline_ns, result, error) ||
        !ping(stream, deadline_ns, result, error) || !fly(stream, deadline_ns, result, error))
        return false;
    /* What was wanted is known: how it ends does not matter. */
    goodbye_ns = MIN(deadline_ns, (int64_t)(clock_mono_ns() + GOODBYE_NS));
    if (wire_send(stream, WIRE_GOODBYE, &goodbye, goodbye_ns, NULL))
        wire_expect(stream, WIRE_GOODBYE, &goodbye, goodbye_ns, NULL);
    return true;
}

/* ---- the destination's end --------------------------------------------------------------------
 */

/* Tells the source why it ends, if that is ours to tell. */
static void say_abort(struct wire_stream *stream, const GError *error, int64_t deadline_ns)
{
    struct wire_abort abort = {.side = WIRE_SIDE_DESTINATION,
                               .code = (uint16_t)gw_error_code_of(error),
                               .reason = error->message};

    if (abort.code != GW_ERROR_LINK_LOST && abort.code != GW_ERROR_CANCELLED &&
        wire_send(stream, WIRE_ABORT, &abort, deadline_ns, NULL))
        gw_channel_finish(wire_stream_channel(stream), deadline_ns, NULL);
}

static bool hear_question(struct wire_stream *stream, struct probe_question *question,
                          int64_t deadline_ns, GError **error)
{
    struct wire_section_reader *sections = wire_section_reader_new();
    struct wire_section section = {0};
    bool is_heard =
        wire_expect(stream, WIRE_HELLO, &question->hello, deadline_ns, error) &&
        wire_expect_section(stream, sections, WIRE_SECTION_SCHEMA, &section, deadline_ns, error);

    if (is_heard) {
        question->schema = g_bytes_ref(section.data);
        wire_section_clear(&section);
        is_heard = wire_expect(stream, WIRE_RAM_MAP, &question->map, deadline_ns, error);
    }
    wire_section_reader_free(sections);
    return is_heard;
}

static bool give_answer(struct wire_stream *stream, const struct probe_judge *judge,
                        const struct probe_question *question, int64_t deadline_ns, GError **error)
{
    struct probe_answer answer = {0};
    bool is_sent = judge->judge(judge->opaque, question, &answer, error) &&
                   wire_send(stream, WIRE_HELLO, &answer.hello, deadline_ns, error) &&
                   wire_send(stream, WIRE_SCHEMA_VERDICT, &answer.verdict, deadline_ns, error);

    if (is_sent) {
        wire_stream_set_phase(stream, WIRE_IN_ROUNDS);
        is_sent = !answer.verdict.is_accepted ||
                  wire_send(stream, WIRE_REHEARSAL_REPORT, &answer.report, deadline_ns, error);
    }
    wire_message_clear(WIRE_HELLO, &answer.hello);
    wire_message_clear(WIRE_SCHEMA_VERDICT, &answer.verdict);
    wire_message_clear(WIRE_REHEARSAL_REPORT, &answer.report);
    return is_sent;
}

static bool take_probe(struct wire_record *record, uint8_t *bytes, uint64_t *n_bytes,
                       int64_t deadline_ns, GError **error)
{
    struct iovec bulk = {bytes, record->bulk_bytes};
    struct wire_probe probe;
    struct wire_probe_ack ack;

    /* PEER: no more than was asked for. */
    if (record->bulk_bytes > WIRE_MAX_PROBE_BYTES - *n_bytes || record->bulk_bytes == 0) {
        wire_record_error(record, record->bulk_bytes ? GW_ERROR_LIMIT : GW_ERROR_CORRUPT, error,
                          "field bulk: %u after %" G_GUINT64_FORMAT " bytes of probes",
                          record->bulk_bytes, *n_bytes);
        return false;
    }
    if (!wire_decode(record, &probe, error) ||
        !wire_receive_bulk(record->stream, &bulk, 1, deadline_ns, error))
        return false;
    if (probe_digest(bytes, bulk.iov_len) != probe.digest) {
        wire_record_error(record, GW_ERROR_CORRUPT, error, "field digest: does not match the bulk");
        return false;
    }
    *n_bytes += bulk.iov_len;
    ack = (struct wire_probe_ack){.n_bytes = *n_bytes, .monotonic_ns = clock_mono_ns()};
    return wire_send(record->stream, WIRE_PROBE_ACK, &ack, deadline_ns, error);
}

/* Pings and probes until the source says goodbye. */
static bool serve_records(struct wire_stream *stream, const struct probe_judge *judge,
                          int64_t deadline_ns, GError **error)
{
    g_autofree uint8_t *bytes = g_malloc(WIRE_PROBE_BYTES);
    struct wire_goodbye goodbye = {.is_complete = true};
    struct wire_record record;
    uint64_t n_bytes = 0;

    while (wire_receive(stream, &record, deadline_ns, error)) {
        bool is_ok = true;

        if (judge->is_unwanted(judge->opaque)) {
            g_set_error_literal(error, GW_ERROR, GW_ERROR_STATE,
                                "a migration has begun, the probe ends");
            return false;
        }
        switch (record.type->type) {
        case WIRE_PROBE:
            is_ok = take_probe(&record, bytes, &n_bytes, deadline_ns, error);
            break;
        case WIRE_CLOCK_PING:
            is_ok = wire_answer_ping(&record, deadline_ns, error);
            break;
        case WIRE_GOODBYE:
            judge->leaves(judge->opaque);
            return wire_send(stream, WIRE_GOODBYE, &goodbye, deadline_ns, error) &&
                   gw_channel_finish(wire_stream_channel(stream), deadline_ns, error);
        case WIRE_ABORT:
            wire_peer_error(&record, error);
            return false;
        case WIRE_KEEPALIVE:
            break;
        default:
            wire_record_error(&record, GW_ERROR_CORRUPT, error, "has no place in a probe");
            return false;
        }
        if (!is_ok)
            return false;
    }
    return false;
}

bool probe_serve(struct wire_stream *stream, const struct probe_judge *judge, int64_t deadline_ns,
                 GError **error)
{
    g_autoptr(GError) why = NULL;
    struct probe_question question = {0};
    bool is_served = hear_question(stream, &question, deadline_ns, &why) &&
                     give_answer(stream, judge, &question, deadline_ns, &why) &&
                     serve_records(stream, judge, deadline_ns, &why);

    g_clear_pointer(&question.schema, g_bytes_unref);
    wire_message_clear(WIRE_HELLO, &question.hello);
    wire_message_clear(WIRE_RAM_MAP, &question.map);
    if (!is_served && gw_error_code_of(why) != GW_ERROR_PEER)
        say_abort(stream, why, deadline_ns);
    if (!is_served)
        g_propagate_error(error, g_steal_pointer(&why));
    return is_served;
}
