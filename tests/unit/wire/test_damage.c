/* SPDX-License-Identifier: MIT */
/* Every flipped byte, every cut, every swapped, lost, repeated or foreign record is found. */
#include "fixture.h"

#include "wire/cursor.h"

struct frame {
    size_t at;
    size_t len;
};

static GArray *split(const GByteArray *bytes)
{
    GArray *frames = g_array_new(FALSE, FALSE, sizeof(struct frame));
    const struct gw_framing *framing = wire_framing();
    size_t at = framing->preamble_bytes;

    while (at < bytes->len) {
        struct frame frame = {at, (size_t)framing->frame_bytes(bytes->data + at)};
        g_array_append_val(frames, frame);
        at += frame.len;
    }
    assert_int_equal(at, bytes->len);
    return frames;
}

static void sample_is_whole(void **state)
{
    (void)state;
    struct fixture_sample sample = fixture_sample_new();
    GError *error = NULL;
    struct wire_inspect_report report;

    assert_ok(
        wire_inspect(fixture_reader(sample.bytes->data, sample.bytes->len), NULL, &report, &error),
        error);
    assert_true(report.is_complete);
    assert_int_equal(report.n_pages, SAMPLE_PAGES);
    assert_int_equal(report.n_zero_pages, 9);
    assert_int_equal(report.n_rounds, 1);
    assert_int_equal(report.n_sections, 3);
    assert_int_equal(report.n_bytes, sample.bytes->len);
    assert_string_equal(report.ram_map.blocks[0].name, "ram");
    wire_inspect_report_clear(&report);
    fixture_sample_free(&sample);
}

static void every_flip_is_found(void **state)
{
    (void)state;
    struct fixture_sample sample = fixture_sample_new();
    GError *error = NULL;

    for (size_t i = 0; i < sample.bytes->len; i++) {
        /* Pages are all alike: a sample of their bytes is enough, and keeps the test short. */
        bool is_dense = i < 1000 || i + 1600 > sample.bytes->len || i % 61 == 0;
        if (!is_dense) {
            continue;
        }
        uint8_t mask = (uint8_t)(1u << (i % 8));
        sample.bytes->data[i] ^= mask;
        if (fixture_inspect(sample.bytes->data, sample.bytes->len, &error)) {
            fail_msg("a flip of 0x%02x at byte %zu was not found", mask, i);
        }
        assert_non_null(error);
        g_clear_error(&error);
        sample.bytes->data[i] ^= mask;
    }
    fixture_sample_free(&sample);
}

static void every_cut_is_found(void **state)
{
    (void)state;
    struct fixture_sample sample = fixture_sample_new();
    GArray *frames = split(sample.bytes);
    GError *error = NULL;

    for (size_t len = 0; len < sample.bytes->len; len += len % 4096 < 70 ? 1 : 157) {
        if (fixture_inspect(sample.bytes->data, len, &error)) {
            fail_msg("a cut at byte %zu was not found", len);
        }
        g_clear_error(&error);
    }
    /* Between records, too. */
    for (guint i = 0; i < frames->len; i++) {
        size_t len = g_array_index(frames, struct frame, i).at;
        assert_false(fixture_inspect(sample.bytes->data, len, &error));
        assert_error(&error, GW_ERROR_CORRUPT, "without END");
    }
    g_array_unref(frames);
    fixture_sample_free(&sample);
}

static GByteArray *join(const GByteArray *bytes, const GArray *frames, const guint *order,
                        size_t n_order)
{
    GByteArray *out = g_byte_array_new();

    g_byte_array_append(out, bytes->data, WIRE_PREAMBLE_BYTES);
    for (size_t i = 0; i < n_order; i++) {
        const struct frame *frame = &g_array_index(frames, struct frame, order[i]);
        g_byte_array_append(out, bytes->data + frame->at, (guint)frame->len);
    }
    return out;
}

/* Every record lost, repeated, and exchanged with each later one. */
static void every_lost_repeated_swapped_record_is_found(void **state)
{
    (void)state;
    struct fixture_sample sample = fixture_sample_new();
    GArray *frames = split(sample.bytes);
    guint n = frames->len;
    g_autofree guint *order = g_new(guint, n + 1);
    GError *error = NULL;

    for (guint i = 0; i < n; i++) {
        for (guint k = 0; k < n + 2; k++) { /* k == n: lost; k == n + 1: repeated; else swapped */
            if (k < n && k <= i) {
                continue;
            }
            size_t n_order = 0;
            for (guint at = 0; at < n; at++) {
                guint from = k < n && at == i ? k : k < n && at == k ? i : at;
                if (!(k == n && at == i)) {
                    order[n_order++] = from;
                }
                if (k == n + 1 && at == i) {
                    order[n_order++] = from;
                }
            }
            g_autoptr(GByteArray) changed = join(sample.bytes, frames, order, n_order);
            assert_false(fixture_inspect(changed->data, changed->len, &error));
            bool is_last_lost = k == n && i == n - 1;
            bool is_last_repeated = k == n + 1 && i == n - 1;
            assert_error(&error, GW_ERROR_CORRUPT,
                         is_last_lost       ? "without END"
                         : is_last_repeated ? "bytes after END"
                                            : "field sequence: found");
        }
    }
    g_array_unref(frames);
    fixture_sample_free(&sample);
}

/* The same record of another stream, with the right sequence number, does not verify. */
static void every_foreign_record_is_found(void **state)
{
    (void)state;
    struct fixture_sample one = fixture_sample_new();
    struct fixture_sample two = fixture_sample_new();
    GArray *frames = split(one.bytes);
    GError *error = NULL;

    assert_int_equal(one.bytes->len, two.bytes->len);
    for (guint i = 0; i < frames->len; i++) {
        const struct frame *frame = &g_array_index(frames, struct frame, i);
        g_autofree uint8_t *kept = g_memdup2(one.bytes->data + frame->at, frame->len);
        memcpy(one.bytes->data + frame->at, two.bytes->data + frame->at, frame->len);
        assert_false(fixture_inspect(one.bytes->data, one.bytes->len, &error));
        assert_error(&error, GW_ERROR_CORRUPT, "check does not match");
        memcpy(one.bytes->data + frame->at, kept, frame->len);
    }
    assert_ok(fixture_inspect(one.bytes->data, one.bytes->len, &error), error);
    g_array_unref(frames);
    fixture_sample_free(&one);
    fixture_sample_free(&two);
}

static void bytes_after_the_end_are_found(void **state)
{
    (void)state;
    struct fixture_sample sample = fixture_sample_new();
    GError *error = NULL;

    g_byte_array_append(sample.bytes, (const guint8 *)"x", 1);
    assert_false(fixture_inspect(sample.bytes->data, sample.bytes->len, &error));
    assert_error(&error, GW_ERROR_CORRUPT, "bytes after END");
    fixture_sample_free(&sample);
}

/* Damage is named: which record, which section, which page. */
static void damage_is_named(void **state)
{
    (void)state;
    struct fixture_sample sample = fixture_sample_new();
    GArray *frames = split(sample.bytes);
    GError *error = NULL;
    unsigned n_pages_seen = 0;
    unsigned n_parts_seen = 0;

    for (guint i = 0; i < frames->len; i++) {
        const struct frame *frame = &g_array_index(frames, struct frame, i);
        uint8_t *at = sample.bytes->data + frame->at;
        uint16_t type = wire_load_u16(at);
        uint32_t bulk = wire_load_u32(at + 16);
        if (type == WIRE_PAGES && bulk > 0) {
            at[frame->len - bulk + 1] ^= 0x80; /* first page of the packet: 0, 10, 20 */
            g_autofree char *text = g_strdup_printf(
                "record PAGES %u: block 0 page %u does not match its digest", i, 10 * n_pages_seen);
            assert_false(fixture_inspect(sample.bytes->data, sample.bytes->len, &error));
            assert_error(&error, GW_ERROR_CORRUPT, text);
            at[frame->len - bulk + 1] ^= 0x80;
            n_pages_seen++;
        } else if (type == WIRE_SECTION_PART) {
            at[frame->len - 1] ^= 1;
            assert_false(fixture_inspect(sample.bytes->data, sample.bytes->len, &error));
            assert_error(&error, GW_ERROR_CORRUPT,
                         n_parts_seen == 0 ? "section schema: its data does not match field digest"
                                           : "section uart: its data does not match field digest");
            at[frame->len - 1] ^= 1;
            n_parts_seen++;
        } else {
            at[frame->len - 1] ^= 1;
            g_autofree char *text =
                g_strdup_printf("record %s %u: digest does not match", wire_record_name(type), i);
            assert_false(fixture_inspect(sample.bytes->data, sample.bytes->len, &error));
            assert_error(&error, GW_ERROR_CORRUPT, text);
            at[frame->len - 1] ^= 1;
        }
    }
    assert_int_equal(n_pages_seen, 3);
    assert_int_equal(n_parts_seen, 2);
    g_array_unref(frames);
    fixture_sample_free(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sample_is_whole),
        cmocka_unit_test(every_flip_is_found),
        cmocka_unit_test(every_cut_is_found),
        cmocka_unit_test(every_lost_repeated_swapped_record_is_found),
        cmocka_unit_test(every_foreign_record_is_found),
        cmocka_unit_test(bytes_after_the_end_are_found),
        cmocka_unit_test(damage_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
