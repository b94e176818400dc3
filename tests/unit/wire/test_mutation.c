/* SPDX-License-Identifier: MIT */
/*
 * A peer that lies on purpose: fields are changed and every check and digest is made right again,
 * so that the change reaches the code behind the digests. Nothing may crash or hang (the run under
 * sanitizers is the point); whatever is accepted must keep to the limits.
 */
#include "fixture.h"

#include <xxhash.h>

#include "wire/cursor.h"

enum { N_MUTATIONS = 1500 };

static uint64_t random_state = 7;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static size_t record_bytes(const uint8_t *at)
{
    return WIRE_HEADER_BYTES + (size_t)wire_load_u32(at + 4) + wire_load_u32(at + 16);
}

/* Makes all checks, sequence numbers and digests right; END's digest and totals as well. */
static void repair(GByteArray *bytes)
{
    uint64_t seed = XXH3_64bits(bytes->data, 56);
    XXH3_state_t *chain = XXH3_createState();
    uint64_t sequence = 0;

    XXH3_64bits_reset(chain);
    wire_store_u64(bytes->data + 56, seed);
    for (size_t at = WIRE_PREAMBLE_BYTES; at + WIRE_HEADER_BYTES <= bytes->len;) {
        uint8_t *head = bytes->data + at;
        size_t payload = wire_load_u32(head + 4);
        size_t whole = record_bytes(head);
        if (whole > bytes->len - at) {
            break;
        }
        if (wire_load_u16(head) == WIRE_END && payload == 40) {
            wire_store_u64(head + WIRE_HEADER_BYTES, sequence);
            wire_store_u64(head + WIRE_HEADER_BYTES + 24, at);
            wire_store_u64(head + WIRE_HEADER_BYTES + 32, XXH3_64bits_digest(chain));
        }
        wire_store_u64(head + 8, sequence++);
        wire_store_u32(head + 20, (uint32_t)XXH3_64bits_withSeed(head, 20, seed));
        wire_store_u64(head + 24, 0);
        wire_store_u64(head + 24, XXH3_64bits_withSeed(head, WIRE_HEADER_BYTES + payload, seed));
        XXH3_64bits_update(chain, head + 24, 8);
        at += whole;
    }
    XXH3_freeState(chain);
}

/* Start of a record chosen at random. */
static size_t random_record(const GByteArray *bytes)
{
    size_t starts[64];
    size_t n = 0;

    for (size_t at = WIRE_PREAMBLE_BYTES; at < bytes->len && n < G_N_ELEMENTS(starts);) {
        starts[n++] = at;
        at += record_bytes(bytes->data + at);
    }
    return starts[random_u64() % n];
}

static const uint64_t edges[] = {0,          1,          2,          0x7F,      0x80,
                                 0xFF,       0x100,      0x101,      0xFFF,     0x1000,
                                 0x7FFF,     0x8000,     0xFFFF,     0x10000,   0x100000,
                                 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, INT64_MAX, UINT64_MAX};

/* Puts an edge value or noise over 1 to 8 bytes of a record's payload or type. */
static void mutate(GByteArray *bytes)
{
    size_t at = random_record(bytes);
    size_t payload = wire_load_u32(bytes->data + at + 4);
    uint64_t value =
        random_u64() % 3 == 0 ? random_u64() : edges[random_u64() % G_N_ELEMENTS(edges)];
    size_t width = (size_t)1 << (random_u64() % 4);

    if (random_u64() % 8 == 0) {
        wire_store_u16(bytes->data + at, (uint16_t)(random_u64() % 30)); /* another type */
    } else if (payload >= width) {
        size_t offset = (size_t)(random_u64() % (payload - width + 1));
        for (size_t i = 0; i < width; i++) {
            bytes->data[at + WIRE_HEADER_BYTES + offset + i] = (uint8_t)(value >> (8 * i));
        }
    }
}

/* Copies, removes or repeats a whole record. */
static void rearrange(GByteArray *bytes)
{
    size_t at = random_record(bytes);
    size_t len = record_bytes(bytes->data + at);
    g_autofree uint8_t *copy = g_memdup2(bytes->data + at, len);

    if (random_u64() % 2 == 0) {
        g_byte_array_remove_range(bytes, (guint)at, (guint)len);
    } else {
        guint to = (guint)random_record(bytes);
        guint old = bytes->len;
        g_byte_array_set_size(bytes, old + (guint)len);
        memmove(bytes->data + to + len, bytes->data + to, old - to);
        memcpy(bytes->data + to, copy, len);
    }
}

static void repaired_streams_never_hurt(void **state)
{
    (void)state;
    struct fixture_sample sample = fixture_sample_new();
    unsigned n_accepted = 0;

    for (unsigned i = 0; i < N_MUTATIONS; i++) {
        g_autoptr(GByteArray) bytes = g_byte_array_new();
        GError *error = NULL;
        struct wire_inspect_report report;
        g_byte_array_append(bytes, sample.bytes->data, sample.bytes->len);
        if (random_u64() % 4 == 0) {
            rearrange(bytes);
        }
        for (uint64_t k = random_u64() % 3; k > 0; k--) {
            mutate(bytes);
        }
        repair(bytes);
        bool is_ok = wire_inspect(fixture_reader(bytes->data, bytes->len), NULL, &report, &error);
        assert_int_equal(is_ok, error == NULL);
        if (is_ok) {
            n_accepted++;
            assert_true(report.is_complete && report.has_ram_map);
            assert_int_equal(report.n_suspect, 0);
        }
        wire_inspect_report_clear(&report);
        g_clear_error(&error);
    }
    /* Values that no rule forbids (names, clocks) are accepted: the repair works. */
    assert_in_range(n_accepted, N_MUTATIONS / 50, N_MUTATIONS);
    fixture_sample_free(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repaired_streams_never_hurt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
