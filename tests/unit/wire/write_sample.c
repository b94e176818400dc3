/* SPDX-License-Identifier: MIT */
/*
 * Writes sample streams for tests of independent readers.
 *
 * Usage: write-sample snapshot FILE | write-sample migration DIRECTORY
 *
 * The migration is played by hand, both sides in one thread, with traces of every direction of a
 * control and a page channel: a round in which the guest writes a page while it is sent, a stopped
 * round, the handover.
 */
#include "fixture.h"

#include <fcntl.h>
#include <sys/socket.h>

static struct fixture_ends connect_traced(const struct wire_identity *identity,
                                          const char *directory)
{
    int fds[2];
    struct gw_channel_options options = {.trace_dir = directory, .framing = wire_framing()};
    struct fixture_accept accept = {0};
    GError *error = NULL;
    pthread_t thread;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    accept.channel = gw_channel_new_fd(fds[1], "destination", &options, &error);
    assert_ok(accept.channel != NULL, error);
    struct gw_channel *channel = gw_channel_new_fd(fds[0], "source", &options, &error);
    assert_ok(channel != NULL, error);
    struct wire_stream *source = wire_stream_new(channel, identity, WIRE_SIDE_SOURCE);
    assert_int_equal(pthread_create(&thread, NULL, fixture_accept_thread, &accept), 0);
    assert_ok(wire_stream_open(source, NEVER, &error), error);
    pthread_join(thread, NULL);
    assert_ok(accept.stream != NULL, accept.error);
    return (struct fixture_ends){source, accept.stream};
}

static void set_phases(struct fixture_ends *control, struct fixture_ends *page,
                       enum wire_phase_set phase)
{
    wire_stream_set_phase(control->source, phase);
    wire_stream_set_phase(control->destination, phase);
    wire_stream_set_phase(page->source, phase);
    wire_stream_set_phase(page->destination, phase);
}

/* Takes everything that was sent to a stream so far, so that its trace holds it. */
static void drain(struct wire_stream *stream, unsigned n_records)
{
    struct wire_record record;
    GError *error = NULL;

    for (unsigned i = 0; i < n_records; i++) {
        assert_ok(wire_receive(stream, &record, NEVER, &error), error);
        assert_ok(wire_skip_bulk(stream, NEVER, &error), error);
    }
}

#define SEND(stream, type, ...)                                                                    \
    do {                                                                                           \
        GError *send_error = NULL;                                                                 \
        assert_ok(wire_send(stream, type, (&__VA_ARGS__), NEVER, &send_error), send_error);        \
    } while (0)

static void send_setup(struct fixture_ends *control, uint64_t ram_bytes)
{
    struct wire_ram_block block = {
        .gpa = 0x80000000u, .size_bytes = ram_bytes, .name = (char *)"ram"};
    GError *error = NULL;

    SEND(control->source, WIRE_HELLO,
         (struct wire_hello){
             .page_shift = 12, .max_packet_pages = 256, .page_channels = 1, .features = 0xF});
    SEND(control->destination, WIRE_HELLO,
         (struct wire_hello){
             .page_shift = 12, .max_packet_pages = 256, .page_channels = 8, .features = 0xF});
    assert_ok(wire_send_section(control->source, WIRE_SECTION_SCHEMA, "schema", 0, 1, 0, "{}", 2,
                                NEVER, &error),
              error);
    /* An offer whose descriptors a recorder cannot carry, so it is declined. */
    SEND(control->source, WIRE_RAM_SHARE,
         (struct wire_ram_share){.n_blocks = 1, .blocks = &(struct wire_share_block){0}});
    SEND(control->source, WIRE_RAM_MAP,
         (struct wire_ram_map){.total_bytes = ram_bytes, .n_blocks = 1, .blocks = &block});
    drain(control->destination, 6);
    SEND(control->destination, WIRE_RAM_SHARED,
         (struct wire_ram_shared){.reason = (char *)"no descriptors came"});
    SEND(control->destination, WIRE_SCHEMA_VERDICT,
         (struct wire_schema_verdict){.is_accepted = true});
    drain(control->source, 3);
}

/* A round of all pages; the page at writes, if any, changes between its digest and its way. */
static void send_round(struct fixture_ends *control, struct fixture_ends *page, uint32_t round,
                       uint8_t *memory, uint64_t n_pages, uint8_t *writes, uint32_t flags)
{
    GError *error = NULL;
    struct wire_pages_out *packet = wire_pages_out_new();
    struct wire_counters before, after;

    SEND(page->source, WIRE_ROUND_BEGIN, (struct wire_round_begin){round, flags, n_pages});
    wire_stream_counters(page->source, &before);
    wire_pages_begin(packet, round, 0);
    for (uint64_t i = 0; i < n_pages; i++) {
        assert_true(wire_pages_add(packet, i, memory + i * WIRE_PAGE_BYTES));
    }
    if (writes != NULL) {
        *writes ^= 1;
    }
    assert_ok(wire_pages_send(packet, page->source, NEVER, &error), error);
    wire_stream_counters(page->source, &after);
    struct wire_round_end end = {round, n_pages, 1, after.bytes_out - before.bytes_out};
    SEND(page->source, WIRE_ROUND_END, end);
    drain(page->destination, 3);
    SEND(control->destination, WIRE_ROUND_ACK,
         (struct wire_round_ack){.round = round,
                                 .channel = 0,
                                 .n_pages = n_pages,
                                 .n_bytes = end.n_bytes,
                                 .n_suspect = writes != NULL});
    drain(control->source, 1);
    wire_pages_out_free(packet);
}

static void send_handover(struct fixture_ends *control, struct fixture_ends *page, uint8_t *memory,
                          uint64_t n_pages)
{
    GError *error = NULL;
    struct wire_state_end state;

    set_phases(control, page, WIRE_IN_BLACKOUT);
    SEND(control->source, WIRE_SWITCHOVER_BEGIN,
         (struct wire_switchover_begin){.attempt = 1, .round = 2, .was_running = true});
    send_round(control, page, 2, memory, n_pages, NULL, WIRE_ROUND_GUEST_STOPPED);
    wire_state_begin(control->source, 1);
    assert_ok(wire_send_section(control->source, WIRE_SECTION_DEVICE, "uart", 0, 1, 1, "state", 5,
                                NEVER, &error),
              error);
    assert_ok(wire_send_state_end(control->source, &state, NEVER, &error), error);
    drain(control->destination, 5);
    SEND(control->destination, WIRE_LOADED,
         (struct wire_loaded){.attempt = 1, .n_sections = 1, .state_digest = state.digest});
    drain(control->source, 1);
    SEND(control->source, WIRE_COMMIT,
         (struct wire_commit){.attempt = 1, .state_digest = state.digest});
    set_phases(control, page, WIRE_IN_COMMITTED);
    drain(control->destination, 1);
    SEND(control->destination, WIRE_RUNNING,
         (struct wire_running){.attempt = 1, .is_running = true});
    SEND(control->destination, WIRE_COST, (struct wire_cost){.cpu_ns = 1, .n_bytes = 2});
    SEND(control->destination, WIRE_LEDGER, (struct wire_ledger){0});
    drain(control->source, 3);
}

static void say_goodbye(struct fixture_ends *ends)
{
    SEND(ends->source, WIRE_GOODBYE, (struct wire_goodbye){true});
    SEND(ends->destination, WIRE_GOODBYE, (struct wire_goodbye){true});
    drain(ends->source, 1);
    drain(ends->destination, 1);
    fixture_close(ends);
}

static void write_migration(const char *directory)
{
    enum { N = 12 };
    struct wire_identity identity = {.role = WIRE_ROLE_CONTROL};
    g_autofree uint8_t *memory = g_malloc(N * WIRE_PAGE_BYTES);

    fixture_fill_memory(memory, N);
    wire_new_migration_id(identity.migration_id);
    struct fixture_ends control = connect_traced(&identity, directory);
    identity.role = WIRE_ROLE_PAGE;
    struct fixture_ends page = connect_traced(&identity, directory);
    send_setup(&control, N * WIRE_PAGE_BYTES);
    set_phases(&control, &page, WIRE_IN_ROUNDS);
    send_round(&control, &page, 1, memory, N, memory + 5 * WIRE_PAGE_BYTES, 0);
    send_handover(&control, &page, memory, N);
    say_goodbye(&page);
    say_goodbye(&control);
}

static void write_snapshot(const char *path)
{
    struct fixture_sample sample = fixture_sample_new();

    assert_true(
        g_file_set_contents(path, (const char *)sample.bytes->data, sample.bytes->len, NULL));
    fixture_sample_free(&sample);
}

static const char *const *arguments; /* set by main */

static void write_sample(void **state)
{
    (void)state;
    if (strcmp(arguments[1], "snapshot") == 0) {
        write_snapshot(arguments[2]);
    } else {
        write_migration(arguments[2]);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(write_sample)};

    if (argc != 3) {
        return 2;
    }
    arguments = (const char *const *)argv;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
