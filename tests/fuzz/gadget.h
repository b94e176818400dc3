/* SPDX-License-Identifier: MIT */
/*
 * The one device of the engines' fuzz targets: a bounded number, a value that only a hook refuses,
 * and bytes of variable length. make_seeds.c writes what the targets read.
 */
#ifndef FUZZ_GADGET_H
#define FUZZ_GADGET_H

#include "godwit/error.h"
#include "godwit/state.h"

struct gadget {
    uint32_t limited;
    uint8_t fifo[32];
    uint32_t fifo_len;
};

static const struct gw_field gadget_fields[] = {
    GW_U32(struct gadget, limited, .max = 1000),
    GW_VBUFFER(struct gadget, fifo, fifo_len),
    GW_FIELDS_END,
};
static bool gadget_validate(const void *shadow, GError **error)
{
    const struct gadget *gadget = shadow;

    if (gadget->limited != 13)
        return true;
    g_set_error_literal(error, GW_ERROR, GW_ERROR_REFUSED, "thirteen");
    return false;
}
static const struct gw_state_desc gadget_desc = {
    .name = "gadget",
    .version = 1,
    .object_size = sizeof(struct gadget),
    .priority = GW_PRIORITY_DEVICE,
    .fields = gadget_fields,
    .validate = gadget_validate,
};

#endif
