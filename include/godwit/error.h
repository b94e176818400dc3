/* SPDX-License-Identifier: MIT */
/*
 * Why something failed: the one error domain of libgodwit, with few codes.
 *
 * The codes are public (monitor, exit status, ABORT records), append-only, and never reused.
 * The message of a GError is one phrase for people; programs look only at the code.
 */
#ifndef GODWIT_ERROR_H
#define GODWIT_ERROR_H

#include <glib.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GW_ERROR (gw_error_quark())

enum gw_error_code {
    GW_ERROR_FAILED = 1,       /* anything that has no better code */
    GW_ERROR_INVALID = 2,      /* a parameter, URI or option of our own user makes no sense */
    GW_ERROR_REFUSED = 3,      /* the two ends do not fit: schema, RAM, features, version */
    GW_ERROR_PEER = 4,         /* the peer failed and said why; the message is the peer's */
    GW_ERROR_LINK_LOST = 5,    /* closed, reset or cut by the other end or by the network */
    GW_ERROR_LINK_SILENT = 6,  /* no byte moved for longer than the silence limit */
    GW_ERROR_CORRUPT = 7,      /* digest, sequence or structure of outside bytes is wrong */
    GW_ERROR_LIMIT = 8,        /* outside bytes ask for more than a documented maximum */
    GW_ERROR_CANCELLED = 9,    /* woken by our own side */
    GW_ERROR_TIMEOUT = 10,     /* a deadline passed */
    GW_ERROR_IO = 11,          /* the host's file, disk or command failed */
    GW_ERROR_STATE = 12,       /* not possible in this state of the machine or of the handover */
    GW_ERROR_UNSUPPORTED = 13, /* known, but not by this build, host or channel */
};

GQuark gw_error_quark(void);

/* Short, stable, lower-case name of a code ("link-lost"); "failed" for unknown codes. */
const char *gw_error_code_name(int code);
/* The code of any GError: its own code when the domain is GW_ERROR, else GW_ERROR_FAILED. */
int gw_error_code_of(const GError *error);

#ifdef __cplusplus
}
#endif
#endif
