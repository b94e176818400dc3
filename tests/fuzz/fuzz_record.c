/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the record parser. Any bytes, or records with right digests, on every role.
 *
 * Input: u8 mode, then (mode 0) a whole stream as it is, or (else) records for stream_build.
 * Checked: a failure has an error, a success none; nothing that is handed in exceeds its limits.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "stream_build.h"
#include "wire/codec.h"
#include "wire/inspect.h"

static struct gw_channel *reader_of(const uint8_t *bytes, size_t size)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    fuzz_check(fd >= 0 && write(fd, bytes, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
    return gw_channel_new_fd(fd, "fuzz", NULL, NULL);
}

static void on_record(void *opaque, const struct wire_record *record)
{
    uint64_t message[64] = {0};

    fuzz_check(record->payload_bytes <= record->type->max_payload_bytes);
    fuzz_check(record->bulk_bytes <= record->type->max_bulk_bytes);
    if (record->type->message && record->type->type != WIRE_HELLO) {
        /* A second decoding beside the inspector's own: also of records it only counts. */
        size_t n_bytes = record->type->message->size_bytes;

        fuzz_check(n_bytes <= sizeof message);
        if (wire_decode_sized(record, message, n_bytes, NULL))
            wire_message_clear(record->type->type, message);
    }
}

static void on_section(void *opaque, const struct wire_section *section)
{
    fuzz_check(g_bytes_get_size(section->data) <= WIRE_MAX_SECTION_BYTES);
}

static void inspect(const uint8_t *bytes, size_t size)
{
    const struct wire_inspect_visitor visitor = {.on_record = on_record, .on_section = on_section};
    struct wire_inspect_report report;
    GError *error = NULL;
    bool is_ok = wire_inspect(reader_of(bytes, size), &visitor, &report, &error);

    fuzz_check(is_ok == (error == NULL));
    fuzz_check(report.n_bytes <= size);
    wire_inspect_report_clear(&report);
    g_clear_error(&error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    unsigned mode = (unsigned)fuzz_take(&in, 1);
    struct stream_build build;

    if (mode == 0) {
        inspect(in.at, in.left);
        return 0;
    }
    stream_build_init(&build, mode & 0x20 ? WIRE_ROLE_PROBE : WIRE_ROLE_CONTROL + mode % 4, 0,
                      mode & 0x10 ? WIRE_SIDE_DESTINATION : WIRE_SIDE_SOURCE);
    while (stream_build_record(&build, &in))
        continue;
    inspect(build.bytes->data, build.bytes->len);
    stream_build_clear(&build);
    return 0;
}
