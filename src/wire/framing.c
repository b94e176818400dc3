/* SPDX-License-Identifier: MIT */
/* Tells the channel room's filters how a stream is cut into frames. */
#include <stdio.h>

#include "wire/cursor.h"
#include "wire/wire.h"

static uint64_t frame_bytes(const uint8_t *head)
{
    uint32_t payload = wire_load_u32(head + 4);
    uint32_t bulk = wire_load_u32(head + 16);

    if (payload > WIRE_MAX_PAYLOAD || bulk > WIRE_MAX_BULK) {
        return 0;
    }
    return UINT64_C(32) + payload + bulk;
}

static const char *frame_name(const uint8_t *head)
{
    return wire_record_name(wire_load_u16(head));
}

/* "5f3a0c11-control-0-source-9b2e": the id's first bytes, role, index, direction, nonce. */
static void stream_label(const uint8_t *preamble, char *label, size_t label_size)
{
    unsigned direction = wire_load_u16(preamble + 32);

    snprintf(label, label_size, "%02x%02x%02x%02x-%s-%u-%s-%04x", preamble[16], preamble[17],
             preamble[18], preamble[19],
             wire_role_name((enum wire_role)wire_load_u16(preamble + 12)),
             wire_load_u16(preamble + 14), direction == WIRE_SIDE_SOURCE ? "source" : "destination",
             wire_load_u16(preamble + 40));
}

static const struct gw_framing framing = {
    .preamble_bytes = WIRE_PREAMBLE_BYTES,
    .head_bytes = WIRE_HEADER_BYTES,
    .frame_bytes = frame_bytes,
    .frame_name = frame_name,
    .stream_label = stream_label,
};

const struct gw_framing *wire_framing(void)
{
    return &framing;
}
