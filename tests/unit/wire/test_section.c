/* SPDX-License-Identifier: MIT */
/* Sections of any size arrive whole; order, size, digest and limits are checked. */
#include "fixture.h"

static bool receive_section(struct wire_stream *stream, struct wire_section_reader *reader,
                            struct wire_section *section, GError **error)
{
    return wire_expect_section(stream, reader, WIRE_SECTION_DEVICE, section, NEVER, error);
}

struct send_job {
    struct wire_stream *stream;
    const uint8_t *data;
    uint64_t n_bytes;
    bool is_ok;
    GError *error;
};

static void *send_thread(void *opaque)
{
    struct send_job *job = opaque;

    wire_state_begin(job->stream, 4);
    job->is_ok = wire_send_section(job->stream, WIRE_SECTION_DEVICE, "virtio-net", 1, 3, 4,
                                   job->data, job->n_bytes, NEVER, &job->error) &&
                 wire_send_state_end(job->stream, NULL, NEVER, &job->error);
    return NULL;
}

static void sections_of_any_size(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {0,
                                     1,
                                     WIRE_SECTION_PART_BYTES - 1,
                                     WIRE_SECTION_PART_BYTES,
                                     WIRE_SECTION_PART_BYTES + 1,
                                     3 * WIRE_SECTION_PART_BYTES + 5};
    g_autofree uint8_t *data = g_malloc(4 * WIRE_SECTION_PART_BYTES);

    for (size_t i = 0; i < 4 * WIRE_SECTION_PART_BYTES; i++) {
        data[i] = (uint8_t)(i * 7 + i / 251);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_BLACKOUT);
        struct wire_section_reader *reader = wire_section_reader_new();
        struct send_job job = {.stream = ends.source, .data = data, .n_bytes = sizes[i]};
        struct wire_section section;
        struct wire_state_end end;
        struct wire_record record;
        pthread_t thread;
        GError *error = NULL;
        gsize n_bytes = 0;

        assert_int_equal(pthread_create(&thread, NULL, send_thread, &job), 0);
        assert_ok(receive_section(ends.destination, reader, &section, &error), error);
        assert_ok(wire_receive(ends.destination, &record, NEVER, &error), error);
        pthread_join(thread, NULL);
        assert_ok(job.is_ok, job.error);
        assert_string_equal(section.name, "virtio-net");
        assert_int_equal(section.instance, 1);
        assert_int_equal(section.version, 3);
        assert_int_equal(section.attempt, 4);
        const void *got = g_bytes_get_data(section.data, &n_bytes);
        assert_int_equal(n_bytes, sizes[i]);
        if (n_bytes > 0) {
            assert_memory_equal(got, data, n_bytes);
        }
        assert_ok(wire_decode(&record, &end, &error), error);
        assert_int_equal(end.attempt, 4);
        assert_ok(wire_section_check_state_end(reader, &record, &end, &error), error);
        end.digest ^= 1;
        assert_false(wire_section_check_state_end(reader, &record, &end, &error));
        assert_error(&error, GW_ERROR_CORRUPT, "field digest");
        wire_section_reset(reader);
        end.digest ^= 1;
        assert_false(wire_section_check_state_end(reader, &record, &end, &error));
        assert_error(&error, GW_ERROR_CORRUPT, "field n_sections: 1, but the sections have 0");
        wire_section_clear(&section);
        wire_section_reader_free(reader);
        fixture_close(&ends);
    }
}

/* ---- senders that lie: the records are sent one by one ---- */

struct lie {
    struct wire_section_begin begin;
    struct wire_section_part part;
    struct wire_section_end end;
    uint32_t part_bytes;
    unsigned n_begins;
    unsigned n_parts;
};

static const uint8_t lie_data[64] = {1, 2, 3};

static struct lie truth(void)
{
    return (struct lie){.begin = {.kind = WIRE_SECTION_DEVICE, .n_bytes = 64, .name = (char *)"x"},
                        .end = {.n_parts = 1, .n_bytes = 64},
                        .part_bytes = 64,
                        .n_begins = 1,
                        .n_parts = 1};
}

static void check_lie(struct lie lie, int code, const char *text)
{
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_BLACKOUT);
    struct wire_section_reader *reader = wire_section_reader_new();
    struct wire_section section;
    GError *error = NULL;
    uint8_t payload[12];
    struct iovec bulk = {(void *)(uintptr_t)lie_data, lie.part_bytes};

    for (unsigned i = 0; i < lie.n_begins; i++) {
        assert_ok(wire_send(ends.source, WIRE_SECTION_BEGIN, &lie.begin, NEVER, &error), error);
    }
    for (unsigned i = 0; i < lie.n_parts; i++) {
        memcpy(payload, &lie.part.id, 4);
        memcpy(payload + 4, &lie.part.offset, 8);
        assert_ok(
            wire_send_raw(ends.source, WIRE_SECTION_PART, payload, 12, &bulk, 1, NEVER, &error),
            error);
    }
    assert_ok(wire_send(ends.source, WIRE_SECTION_END, &lie.end, NEVER, &error), error);
    bool is_ok = receive_section(ends.destination, reader, &section, &error);
    assert_false(is_ok);
    assert_error(&error, code, text);
    wire_section_reader_free(reader);
    fixture_close(&ends);
}

static void senders_that_lie(void **state)
{
    (void)state;
    struct lie lie;

    lie = truth();
    check_lie(lie, GW_ERROR_CORRUPT, "section x: its data does not match field digest");
    lie = truth(), lie.n_begins = 2;
    check_lie(lie, GW_ERROR_CORRUPT, "section x has not ended");
    lie = truth(), lie.n_begins = 0;
    check_lie(lie, GW_ERROR_CORRUPT, "no section is open");
    lie = truth(), lie.n_begins = 0, lie.n_parts = 0;
    check_lie(lie, GW_ERROR_CORRUPT, "no section is open");
    lie = truth(), lie.begin.id = 1;
    check_lie(lie, GW_ERROR_CORRUPT, "section x: field id: found 1, expected 0");
    lie = truth(), lie.part.id = 1;
    check_lie(lie, GW_ERROR_CORRUPT, "record SECTION_PART 1: section x: field id");
    lie = truth(), lie.end.id = 1;
    check_lie(lie, GW_ERROR_CORRUPT, "record SECTION_END 2: section x: field id");
    lie = truth(), lie.part.offset = 1;
    check_lie(lie, GW_ERROR_CORRUPT, "field offset: found 1, expected 0");
    lie = truth(), lie.part_bytes = 0;
    check_lie(lie, GW_ERROR_LIMIT, "field bulk");
    lie = truth(), lie.n_parts = 2, lie.part.offset = 0;
    check_lie(lie, GW_ERROR_CORRUPT, "field offset: found 0, expected 64");
    lie = truth(), lie.begin.n_bytes = 63;
    check_lie(lie, GW_ERROR_LIMIT, "field bulk: found 64, expected 63");
    lie = truth(), lie.begin.n_bytes = 65;
    check_lie(lie, GW_ERROR_CORRUPT, "field n_bytes");
    lie = truth(), lie.end.n_parts = 2;
    check_lie(lie, GW_ERROR_CORRUPT, "field n_parts: found 2, expected 1");
    lie = truth(), lie.begin.kind = WIRE_SECTION_SCHEMA, lie.begin.n_bytes = (16 << 20) + 1;
    check_lie(lie, GW_ERROR_LIMIT, "is too much");
}

static void too_big_is_not_sent(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_SETUP);
    GError *error = NULL;

    assert_false(wire_send_section(ends.source, WIRE_SECTION_SCHEMA, "schema", 0, 1, 0, lie_data,
                                   WIRE_MAX_SCHEMA_BYTES + 1, NEVER, &error));
    assert_error(&error, GW_ERROR_LIMIT, "section schema has 16777217 bytes");
    fixture_close(&ends);
}

static void peers_reason_comes_through(void **state)
{
    (void)state;
    struct fixture_ends ends = fixture_connect(WIRE_ROLE_CONTROL, 0, WIRE_IN_SETUP);
    struct wire_section_reader *reader = wire_section_reader_new();
    struct wire_section section;
    GError *error = NULL;
    const struct wire_abort abort = {WIRE_SIDE_SOURCE, GW_ERROR_IO, (char *)"disk is gone"};

    assert_ok(wire_send(ends.source, WIRE_ABORT, &abort, NEVER, &error), error);
    assert_false(receive_section(ends.destination, reader, &section, &error));
    assert_error(&error, GW_ERROR_PEER, "source: disk is gone (io)");
    wire_section_reader_free(reader);
    fixture_close(&ends);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sections_of_any_size),
        cmocka_unit_test(senders_that_lie),
        cmocka_unit_test(too_big_is_not_sent),
        cmocka_unit_test(peers_reason_comes_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
