/* SPDX-License-Identifier: MIT */
/*
 * Inside of the destination engine; shared by destination*.c only.
 *
 * Model: like the source, one control thread turns mails into events of the handover table. The
 * greeters (one short-lived thread for each connection that has not yet said who it is) hand over
 * streams with their first record; the readers of page channels write guest memory themselves.
 *
 * Locks: destination.lock is a leaf.
 */
#ifndef MIGRATE_DESTINATION_H
#define MIGRATE_DESTINATION_H

#include "memory/share.h"
#include "migrate/engine.h"
#include "migrate/handover.h"
#include "migrate/ledger.h"
#include "migrate/link.h"
#include "migrate/paging.h"
#include "migrate/share.h"
#include "migrate/snapshot_reader.h"
#include "wire/pages.h"
#include "wire/rounds.h"

#define DESTINATION_MAX_GREETERS   16
#define DESTINATION_MAX_REMEMBERED 256
#define DESTINATION_ANSWER_NS      NS_PER_S
#define DESTINATION_FINISH_NS      (UINT64_C(500) * NS_PER_MS)
#define DESTINATION_QUIET_NS       (UINT64_C(200) * NS_PER_MS) /* for a packet to be placed */
/* For the source's reason to arrive. Longer than SOURCE_GRACE_NS: where both have only lost a
 * channel, one must speak first, and the other must still be listening then. */
#define DESTINATION_GRACE_NS       (UINT64_C(600) * NS_PER_MS)
#define DESTINATION_PING_NS        (UINT64_C(250) * NS_PER_MS)
#define DESTINATION_MARKS_NS       (UINT64_C(20) * NS_PER_MS)
#define DESTINATION_MAX_RESENDS    3 /* stopped rounds of an attempt that may end with suspects */

/* One channel that carries pages; owned by its reader thread while it is open. */
struct page_lane {
    struct gw_destination *destination;
    struct link *link; /* NULL for pages on control */
    uint32_t channel;
    struct wire_pages_in *packet;
    uint8_t *fresh;  /* WIRE_CHUNK_PAGES pages on their way to memory that was never touched */
    uint64_t cpu_ns; /* of the reader, as far as it is booked */
    struct wire_round_check check;
    struct paging_hand *hand; /* made with the first page that comes after COMMIT */
    pthread_mutex_t busy;     /* held while a packet is being written into guest memory */
};

/* Who owns the guest of a migration that is over. */
struct remembered {
    uint8_t id[WIRE_ID_BYTES];
    bool is_running; /* else: never */
};

/* Pages that come after COMMIT (destination_postcopy.c). Control thread, but for what is said. */
struct destination_postcopy {
    uint32_t stopped_round;      /* the last whose flags said that pages come after COMMIT */
    bool is_attempt;             /* what is loaded is of such an attempt */
    bool is_done;                /* it was said that nothing is missing */
    struct gw_page_set *missing; /* as the sections of the attempt come; NULL: none did */
    uint64_t n_missing;          /* at COMMIT */
    struct paging *paging;       /* written by the control thread (release); readers: acquire */
    uint32_t begun_round;        /* guarded by destination.lock: the last that a reader has begun */
    /* Likewise: may a reader begin a round of a guest that is still the source's? */
    enum { BAR_NONE, BAR_WAIT, BAR_FAIL } bar;

    pthread_mutex_t urgent_lock; /* over the sending of a request */
    struct link *urgent;         /* guarded by urgent_lock; NULL: none */
};

/* RAM that is the source's own memory (destination_share.c). */
struct destination_share {
    bool is_offered;
    bool is_shared; /* written before is_receiving is set (release): no page may come */
    uint32_t n_blocks, n_fds, n_viewed;
    int fds[1 + WIRE_MAX_RAM_BLOCKS]; /* the key's, then one for each block */
    uint64_t offsets[WIRE_MAX_RAM_BLOCKS];
    struct memory_identity identities[WIRE_MAX_RAM_BLOCKS];
    struct share_key *key;
};

/* Huge pages for what comes into fresh memory (destination_huge.c). */
struct destination_huge {
    pthread_mutex_t lock;    /* held while some are made */
    uint32_t n_blocks;       /* fixed while page lanes exist */
    uint64_t **wanted_words; /* likewise; NULL: none. Words are atomic, cleared with lock held */
    uint32_t n_failures;     /* guarded by lock */
};

struct destination_probe; /* destination_probe.c */

struct gw_destination {
    /* fixed after construction */
    struct gw_vm vm;
    struct gw_migrate_params params;
    struct gw_migrate_observer observer;
    struct gw_listener *listener;
    char *uri;
    bool is_single;
    bool is_live; /* false: a snapshot is read, nothing is acknowledged */
    uint64_t silence_ns;
    uint64_t wait_ns; /* for a source that lost its link before COMMIT; 0: not at all */
    struct mailbox box;
    pthread_t thread, acceptor;
    struct gw_ledger *ledger;

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct handover handover; /* written by the control thread only */
    struct gw_destination_status status;
    GPtrArray *greeters; /* struct greeter */
    bool is_freeing;
    struct gw_channel *restoring; /* the control thread reads a snapshot from it */
    bool wants_cancel;            /* of the snapshot */
    struct snapshot_pager *pager; /* lazy: until the destination is freed */
    struct gw_fault_wait fault_waits[PAGING_MAX_THREADS];
    uint32_t n_fault_waits;
    GPtrArray *uris; /* where it listened before */

    /* fixed while page lanes exist */
    struct gw_ram_block **blocks; /* by the source's index; NULL entries: none */
    uint32_t n_blocks;
    uint64_t **suspect_words; /* words are atomic */
    uint64_t **written_words; /* likewise: pages that may hold anything but zeroes */
    uint64_t features;

    /* atomic */
    uint32_t acked_round;  /* control writes (release), lanes read (acquire) */
    uint32_t is_receiving; /* accepted: rounds may come */
    uint64_t n_suspect, n_damaged, pages_plain, pages_zero, bytes_received; /* lanes write */
    struct snapshot_reader_counters restored; /* read by the index of a snapshot */
    uint64_t cpu_ns;                          /* of the engine's threads; they write */

    /* owned by the control thread */
    uint8_t id[WIRE_ID_BYTES];
    uint64_t generation;
    uint64_t cpu_seen_ns;  /* of the control thread, as far as it is booked */
    uint64_t keepalive_ns; /* of this migration's links, as the stricter side wants it */
    uint64_t start_ns;
    GArray *remembered; /* struct remembered */
    struct link *control;
    struct wire_section_reader *sections; /* used by the control link's reader only */
    struct page_lane control_lane;        /* likewise */
    GPtrArray *lanes;                     /* struct page_lane */
    uint64_t peer_features;               /* of its HELLO, when ours is made */
    uint32_t max_lanes;                   /* that our HELLO has accepted */
    uint32_t n_lanes;                     /* that must end each round */
    struct clock_offset clock;            /* source's CLOCK_MONOTONIC */
    int64_t realtime_offset_ns;           /* source's CLOCK_REALTIME minus ours, of the best ping */
    uint32_t ping_id;
    uint64_t next_ping_ns;
    uint64_t best_ping_error_ns;
    struct gw_migrate_failure failure;
    bool has_told_peer; /* the verdict said why */

    struct wire_hello peer;
    bool has_peer, has_schema, has_ram_map;
    struct gw_schema *schema;
    struct wire_ram_map ram_map;
    struct gw_state_plan *plan;
    struct wire_schema_verdict verdict; /* due with RECEIVE */
    uint64_t setup_deadline_ns;

    struct destination_share share;
    struct destination_huge huge;
    struct destination_postcopy postcopy;
    struct gw_page_set *received; /* good pages of the open round, for RESUMED; readers set bits
                                     (atomic); NULL: links are not replaced */
    struct wire_stream *resuming; /* a control channel that goes on with this migration */
    uint64_t wait_limit_ns;       /* WAITING: until then */

    uint32_t round; /* the last that was complete on all lanes */
    uint32_t n_lanes_done;
    bool is_last_round_clean; /* its guest was stopped, and at its end no page was suspect */

    uint32_t attempt; /* 0: no switchover under way */
    struct wire_switchover_begin switchover;
    struct gw_state_load *load;
    bool has_state_end;
    struct wire_state_end state_end;
    uint32_t n_resends;
    bool is_loaded;
    uint64_t loaded_ns;

    uint64_t run_ns;          /* the guest was let run */
    uint64_t n_packets;       /* that were forwarded */
    uint64_t ledger_limit_ns; /* LEDGER is due, when its marks are in or at this time; UINT64_MAX:
                                 it is not */

    struct wire_stream *query;       /* whose answer is due */
    struct destination_probe *probe; /* NULL: nobody probes the link */
    uint64_t lost_limit_ns;
    int lost_code;
    char *lost_reason;
};

/* destination.c */
void destination_dispatch(struct gw_destination *destination, enum destination_event event);
void destination_fail(struct gw_destination *destination, enum destination_event event,
                      enum gw_side side, int code, const char *reason);
void destination_fail_error(struct gw_destination *destination, const GError *error);
unsigned destination_state(struct gw_destination *destination);
void destination_publish_progress(struct gw_destination *destination);
void destination_close_links(struct gw_destination *destination, bool is_orderly);

/* destination_listen.c */
void destination_start_listening(struct gw_destination *destination);
void destination_stop_listening(struct gw_destination *destination);
void destination_on_stream(struct gw_destination *destination, struct mail *mail);
void destination_answer(struct gw_destination *destination, enum wire_owner answer);
void destination_refuse(struct gw_destination *destination, struct wire_stream *stream,
                        const char *reason);
void destination_remember(struct gw_destination *destination, bool is_running);
/* Turns a newcomer, whose stream was confirmed, away with a reason (a constant). */
void destination_refuse(struct gw_destination *destination, struct wire_stream *stream,
                        const char *reason);

/* destination_setup.c */
void destination_handshake(struct gw_destination *destination);
struct wire_hello destination_hello(struct gw_destination *destination);
void destination_on_hello(struct gw_destination *destination, struct mail *mail);
void destination_on_schema(struct gw_destination *destination, struct mail *mail);
void destination_on_ram_map(struct gw_destination *destination, struct mail *mail);
void destination_receive(struct gw_destination *destination);
void destination_ping(struct gw_destination *destination);
void destination_on_pong(struct gw_destination *destination, const struct mail *mail);
void destination_clear_migration(struct gw_destination *destination);
extern const struct link_ops destination_link_ops;

/* destination_pages.c */
/* ROUND_BEGIN, PAGES, ROUND_END; on the lane's reader thread. */
bool destination_on_page_record(struct page_lane *lane, struct wire_record *record, GError **error);
struct page_lane *destination_lane_new(struct gw_destination *destination, uint32_t channel);
void destination_lane_free(struct page_lane *lane);
/* What a lane owns besides its link. */
void destination_lane_init(struct page_lane *lane);
void destination_lane_clear(struct page_lane *lane);
bool destination_prepare_memory(struct gw_destination *destination, GError **error);
/* When it returns, nothing of what may still come is written into guest memory. */
void destination_end_pages(struct gw_destination *destination);
void destination_on_lane_round(struct gw_destination *destination, const struct mail *mail);

uint64_t destination_block_pages(void *opaque, uint32_t block);

/* destination_huge.c */
/* Memory is prepared, and no packet comes yet. */
void destination_plan_huge(struct gw_destination *destination);
void destination_forget_huge(struct gw_destination *destination);
/* On a reader's thread: the pages of the packet are about to be received. */
void destination_make_huge(struct gw_destination *destination, const struct wire_pages_in *packet);

/* destination_postcopy.c */
bool destination_offers_postcopy(const struct gw_destination *destination);
/* Where requests go from now on; NULL: nowhere. The link outlives it. */
void destination_use_urgent(struct gw_destination *destination, struct link *urgent);
/* A packet that comes after COMMIT, or for loading; on a reader's thread. */
bool destination_place_late(struct page_lane *lane, struct paging *paging,
                            struct wire_record *record, GError **error);
/* On a reader's thread: a round of the source's guest begins. Waits while an attempt that is being
 * put off is not yet undone here; false: it may not begin any more. */
bool destination_may_begin(struct gw_destination *destination, uint32_t round);
/* Links are about to be closed: nobody waits. */
void destination_break_bar(struct gw_destination *destination);
void destination_mend_bar(struct gw_destination *destination);
void destination_on_missing(struct gw_destination *destination, const struct mail *mail);
/* *is_late: the source has given the attempt up already (SWITCHOVER_CANCEL is on its way); nothing
 * was done. */
bool destination_begin_paging(struct gw_destination *destination, bool *is_late, GError **error);
/* No lane is receiving. The guest does not run, or nothing is missing. */
void destination_end_paging(struct gw_destination *destination);
void destination_forget_attempt(struct gw_destination *destination); /* put off */
void destination_say_whole(struct gw_destination *destination);
void destination_on_push_end(struct gw_destination *destination);
/* Publishes what the guest has waited so far. */
void destination_keep_fault_waits(struct gw_destination *destination, struct paging *paging);

/* destination_resume.c */
/* RESUME came on this stream. */
void destination_on_resume(struct gw_destination *destination, struct mail *mail);
void destination_keep(struct gw_destination *destination);
void destination_resume_receiving(struct gw_destination *destination);
void destination_pause(struct gw_destination *destination);
void destination_resume_pages(struct gw_destination *destination);
/* On the stream that resumes: there is nothing left to do. */
void destination_answer_whole(struct gw_destination *destination);
/* Pages of a packet are here and good; on a reader's thread. */
void destination_note_received(struct gw_destination *destination,
                               const struct wire_pages_in *packet);
void destination_forget_received(struct gw_destination *destination);
/* A round was acknowledged: of the next one nothing has come. No reader is in it. */
void destination_begin_round(struct gw_destination *destination);
/* Another address for who comes; takes the listener. */
void destination_listen_at(struct gw_destination *destination, struct gw_listener *listener);

/* destination_load.c */
void destination_on_switchover(struct gw_destination *destination, const struct mail *mail);
void destination_on_section(struct gw_destination *destination, struct mail *mail);
void destination_on_state_end(struct gw_destination *destination, const struct mail *mail);
void destination_on_cancelled_attempt(struct gw_destination *destination, const struct mail *mail);
void destination_on_commit(struct gw_destination *destination, const struct mail *mail);
/* Loads when everything of the attempt is here. */
void destination_check_complete(struct gw_destination *destination);
void destination_say_loaded(struct gw_destination *destination);
void destination_unload(struct gw_destination *destination);
void destination_run(struct gw_destination *destination);
void destination_say_cost(struct gw_destination *destination);
/* Saves and checks our own machine's state to learn how long a load takes. */
struct wire_rehearsal_report destination_rehearse(struct gw_destination *destination);

/* Sends LEDGER and GOODBYE when they are due. */
void destination_look_at_ledger(struct gw_destination *destination);

/* destination_probe.c */
/* Somebody wants to know how a migration would be. */
void destination_on_probe(struct gw_destination *destination, struct mail *mail);
void destination_on_probe_question(struct gw_destination *destination);
void destination_end_probe(struct gw_destination *destination);  /* a migration begins */
void destination_free_probe(struct gw_destination *destination); /* the control thread has ended */

/* destination_share.c */
void destination_on_ram_share(struct gw_destination *destination, struct mail *mail);
/* Maps what was offered, if it is good, and says so. */
void destination_share_accept(struct gw_destination *destination);
/* COMMIT came: the memory becomes ours, and the guest. False: COMMIT does not count. */
bool destination_share_take(struct gw_destination *destination, GError **error);
void destination_share_keep(struct gw_destination *destination); /* the guest runs */
void destination_share_drop(struct gw_destination *destination); /* our own memory comes back */

/* destination_packets.c */
/* Was it agreed that packets are forwarded? */
bool destination_forwards(const struct gw_destination *destination);
/* On the control channel's reader thread. */
bool destination_on_packet_record(struct gw_destination *destination, struct link *link,
                                  struct wire_record *record, GError **error);
void destination_on_packet(struct gw_destination *destination, const struct mail *mail);

/* destination_restore.c */
void destination_restore(struct gw_destination *destination, struct wire_stream *stream);
void destination_stop_paging(struct gw_destination *destination);

#endif
