/* SPDX-License-Identifier: MIT */
/*
 * The link between the two sides: passes records on, notes them, and fails at a given one.
 *
 * Model: the source connects to the relay, the relay to the destination. Each direction of each
 * connection is cut into records with the wire room's framing; a record passes when it is whole. A
 * place names a record by channel, direction, type and the how manieth of its type it is there, so
 * that clock-driven records in between do not move it. All in one thread, driven by poll.
 */
#ifndef MATRIX_RELAY_H
#define MATRIX_RELAY_H

#include <glib.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

enum relay_direction { RELAY_OUT, RELAY_IN, RELAY_N_DIRECTIONS }; /* as the source sees it */

struct place {
    char channel[24]; /* "control", "page-1"; of later links "control+1", "page-1+1": a link begins
                         with a control connection */
    enum relay_direction direction;
    char type[24]; /* record name, or "preamble" */
    unsigned nth;  /* from 0 */
    uint32_t payload_bytes, bulk_bytes;
};

enum fault_kind {
    FAULT_KILL_SOURCE,       /* the record is on its way */
    FAULT_KILL_SOURCE_AFTER, /* the record was delivered */
    FAULT_KILL_DESTINATION,
    FAULT_KILL_DESTINATION_AFTER,
    FAULT_CUT, /* its connection, before the record */
    FAULT_CUT_WITHIN,
    FAULT_CUT_AFTER,
    FAULT_STALL,      /* this direction of its connection, from the record on */
    FAULT_STALL_LINK, /* every connection there is, both directions; new ones work */
    FAULT_FLIP_HEADER,
    FAULT_FLIP_PAYLOAD,
    FAULT_FLIP_BULK,
    FAULT_N_KINDS, /* of the matrix between processes; what follows needs none to be killed */
    FAULT_CUT_LINK = FAULT_N_KINDS, /* every connection there is, before the record */
    FAULT_CUT_LINK_WITHIN,
    FAULT_CUT_URGENT, /* the urgent channel, after the record of another one */
};

struct fault {
    struct place place;
    enum fault_kind kind;
    unsigned salt; /* which bit is flipped */
    bool is_done;
};

/* What has passed, whole and undamaged. */
struct relay_facts {
    bool hello, loaded, commit, running; /* delivered to the other side's socket */
    bool whole, abort;                   /* likewise; abort: the destination's, on control */
    bool is_commit_sent;                 /* the source has sent it */
    unsigned n_answers;                  /* OWNER_ANSWER */
    unsigned n_resumed;                  /* RESUMED */
};

struct relay {
    char listen_path[108];
    char destination_path[108];
    int listen_fd;
    GPtrArray *connections;
    struct fault *faults;
    unsigned n_faults;
    GArray *places; /* struct place: every record seen; NULL: not noted */
    struct relay_facts facts;
    unsigned n_control, n_records;
    unsigned n_beats;     /* KEEPALIVEs wanted on each direction of each page channel */
    unsigned n_idle_ways; /* directions on which so many came */
    void (*on_kill)(void *opaque, bool is_source);
    /* NULL: always. A record that may not pass is asked for again at each step. */
    bool (*may_pass)(void *opaque, const struct place *place);
    bool (*may_connect)(void *opaque);
    void *opaque;
};

/* Listens at listen_path. False when that is not possible. */
bool relay_init(struct relay *relay, const char *listen_path);
void relay_clear(struct relay *relay);
/* One poll, with one more descriptor for each side (-1: none), until something happened or the
 * time has passed. Bytes on those are swallowed. */
void relay_step(struct relay *relay, const int *side_fds, unsigned n_side_fds, int timeout_ms);

#endif
