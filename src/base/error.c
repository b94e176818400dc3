/* SPDX-License-Identifier: MIT */
/* The names of the error codes of godwit/error.h. */
#include "godwit/error.h"

#include <stddef.h>

G_DEFINE_QUARK(gw - error - quark, gw_error)

static const char *const error_names[] = {
    [GW_ERROR_FAILED] = "failed",
    [GW_ERROR_INVALID] = "invalid",
    [GW_ERROR_REFUSED] = "refused",
    [GW_ERROR_PEER] = "peer",
    [GW_ERROR_LINK_LOST] = "link-lost",
    [GW_ERROR_LINK_SILENT] = "link-silent",
    [GW_ERROR_CORRUPT] = "corrupt",
    [GW_ERROR_LIMIT] = "limit",
    [GW_ERROR_CANCELLED] = "cancelled",
    [GW_ERROR_TIMEOUT] = "timeout",
    [GW_ERROR_IO] = "io",
    [GW_ERROR_STATE] = "state",
    [GW_ERROR_UNSUPPORTED] = "unsupported",
};

const char *gw_error_code_name(int code)
{
    if (code <= 0 || (size_t)code >= G_N_ELEMENTS(error_names)) {
        return error_names[GW_ERROR_FAILED];
    }
    return error_names[code];
}

int gw_error_code_of(const GError *error)
{
    return error != NULL && error->domain == GW_ERROR ? error->code : GW_ERROR_FAILED;
}
