/* SPDX-License-Identifier: MIT */
/*
 * What both engines are made of: the mailbox of a control thread, threads, and failures.
 *
 * Model: an engine has one control thread. It owns the engine's state and is the only one that
 * calls the embedder. Everything that happens elsewhere (a record came, a link ended, a user asks)
 * becomes a mail in its mailbox, in order.
 *
 * Threads: mailbox_put from any thread; mailbox_take by the control thread only.
 */
#ifndef MIGRATE_ENGINE_H
#define MIGRATE_ENGINE_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/cond.h"
#include "godwit/migrate.h"
#include "wire/messages.h"
#include "wire/section.h"
#include "wire/wire.h"

/* pthread_create or abort: an engine without its threads cannot even report. */
void engine_thread_start(pthread_t *thread, const char *name, void *(*fn)(void *), void *opaque);

/* The calling thread makes way from now on for those that somebody waits for: it carries what
 * nobody asked for. It gets the rest of a core, and less of one that others keep busy. */
void engine_go_behind(void);

/* One decoded record of any type; which member holds is said by the record's type. */
union engine_message {
    struct wire_hello hello;
    struct wire_schema_verdict schema_verdict;
    struct wire_ram_map ram_map;
    struct wire_round_begin round_begin;
    struct wire_round_end round_end;
    struct wire_round_ack round_ack;
    struct wire_resend resend;
    struct wire_switchover_begin switchover_begin;
    struct wire_switchover_cancel switchover_cancel;
    struct wire_state_end state_end;
    struct wire_loaded loaded;
    struct wire_commit commit;
    struct wire_running running;
    struct wire_abort abort;
    struct wire_cancel cancel;
    struct wire_query_owner query_owner;
    struct wire_owner_answer owner_answer;
    struct wire_clock_ping clock_ping;
    struct wire_clock_pong clock_pong;
    struct wire_rehearsal_report rehearsal_report;
    struct wire_ledger ledger;
    struct wire_cost cost;
    struct wire_fault_waits fault_waits;
    struct wire_goodbye goodbye;
    struct wire_end end;
    struct wire_keepalive keepalive;
    struct wire_ram_share ram_share;
    struct wire_ram_shared ram_shared;
    struct wire_packet packet;
    struct wire_page_request page_request;
    struct wire_resume resume;
    struct wire_resumed resumed;
    struct wire_whole whole;
    struct wire_probe probe;
    struct wire_probe_ack probe_ack;
};

/* Bytes of the struct that belongs to a record type; 0 for types that have none. */
size_t engine_message_bytes(uint16_t type);

enum mail_kind {
    MAIL_RECORD = 1, /* type, message */
    MAIL_SECTION,    /* section */
    MAIL_LINK_END,   /* error */
    MAIL_STREAM,    /* destination: an accepted stream, and its first record when it is a control */
    MAIL_LANE_SENT, /* source: a lane has sent its part of the round */
    MAIL_LANE_ROUND, /* destination: a lane has received its part of the round (message.round_end)
                      */
    MAIL_CANCEL,
    MAIL_RESOLVE, /* number: enum gw_resolution */
    MAIL_POKE,    /* look at your flags */
    MAIL_WHOLE,   /* destination: nothing is missing any more */
    MAIL_PAUSE,   /* post-copy: the user gives up the links */
    MAIL_RECOVER, /* the user wants another link now; text: where */
    MAIL_PROBE,   /* destination: a probe asks about the machine */
};

struct mail {
    struct mail *next;
    enum mail_kind kind;
    uint16_t type;    /* MAIL_RECORD, MAIL_STREAM: of the message, 0 for none */
    uint32_t channel; /* MAIL_RECORD .. MAIL_LANE_*: CHANNEL_CONTROL or a page channel's index */
    uint64_t
        generation; /* of the connection it belongs to: later mails of an old one are dropped */
    uint64_t arrived_ns; /* when the record was read */
    uint64_t number;
    uint64_t weight; /* bytes it holds; what counts against MAILBOX_MAX_BYTES */
    union engine_message message;
    struct wire_section section;
    GBytes *frame;                /* MAIL_RECORD: of PACKET; NULL: none */
    char *text;                   /* MAIL_RECOVER of a source: a URI; NULL: as before */
    struct gw_listener *listener; /* MAIL_RECOVER of a destination */
    struct wire_stream *stream;
    GError *error;
};
#define CHANNEL_CONTROL UINT32_MAX
#define CHANNEL_URGENT  (UINT32_MAX - 1)

struct mail *mail_new(enum mail_kind kind);
void mail_free(struct mail *mail);

struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t has_mail;   /* also: has room */
    struct mail *first, *last; /* guarded by lock */
    uint64_t n_bytes;          /* waiting; guarded by lock */
    bool is_closed;            /* guarded by lock: puts are dropped, bounded puts do not wait */
};

void mailbox_init(struct mailbox *box);
void mailbox_clear(struct mailbox *box);
void mailbox_put(struct mailbox *box, struct mail *mail);
/* PEER: for readers of links. Waits while more than MAILBOX_MAX_BYTES wait, so that a peer cannot
 * fill our memory faster than it is consumed; until *should_stop (atomic), which is looked at again
 * after mailbox_wake. */
void mailbox_put_bounded(struct mailbox *box, struct mail *mail, const uint32_t *should_stop);
void mailbox_wake(struct mailbox *box);
#define MAILBOX_MAX_BYTES (UINT64_C(64) << 20)
#define MAIL_MIN_WEIGHT   1024u
/* The next mail, or NULL when the deadline has passed. */
struct mail *mailbox_take(struct mailbox *box, uint64_t deadline_ns);
void mailbox_close(struct mailbox *box);

/* Adds what the calling thread has spent since *seen_ns to *total_ns (atomic; any thread reads).
 * For once a packet or a mail, not for once a page. */
void engine_book_cpu(uint64_t *seen_ns, uint64_t *total_ns);

/* How many page channels this host would open: one carries about what one core can copy, and half
 * of the cores are left to the guests. */
uint32_t engine_channels_for_cores(uint32_t n_cores);
#define ENGINE_MAX_AUTO_CHANNELS 8u

/* What every source of ours offers, whatever else it does. */
#define ENGINE_SOURCE_FEATURES                                                                     \
    ((UINT64_C(1) << WIRE_FEATURE_MULTI_CHANNEL) | (UINT64_C(1) << WIRE_FEATURE_RESEND) |          \
     (UINT64_C(1) << WIRE_FEATURE_REHEARSAL) | (UINT64_C(1) << WIRE_FEATURE_LEDGER))

/* Fills a failure from an error. GW_ERROR_PEER errors keep their message. */
void engine_failure_set(struct gw_migrate_failure *failure, enum gw_side side, int code,
                        const char *reason);

#endif
