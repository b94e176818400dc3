/* SPDX-License-Identifier: MIT */
/*
 * The records of the stream as C structs: what travels, in the order in which it travels.
 *
 * Wire: every struct here has one field table in messages.c (name, kind, range) from which it is
 * encoded, decoded, checked and cleared; docs/wire-format.md holds the same tables and a test
 * compares the two. Strings are UTF-8 without NUL; decoded strings and lists are owned by the
 * message and freed by wire_message_clear. When sending, they are borrowed.
 *
 * Not here: PAGES (wire/pages.h), which is not made of plain fields.
 */
#ifndef WIRE_MESSAGES_H
#define WIRE_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>

/* Bit 15 of a type: a reader that does not know it may skip the record. */
#define WIRE_OPTIONAL UINT16_C(0x8000)

enum wire_type {
    WIRE_HELLO = 0x0001,
    WIRE_SECTION_BEGIN = 0x0002,
    WIRE_SECTION_PART = 0x0003,
    WIRE_SECTION_END = 0x0004,
    WIRE_SCHEMA_VERDICT = 0x0005,
    WIRE_RAM_MAP = 0x0006,
    WIRE_ROUND_BEGIN = 0x0007,
    WIRE_PAGES = 0x0008,
    WIRE_ROUND_END = 0x0009,
    WIRE_ROUND_ACK = 0x000A,
    WIRE_RESEND = 0x000B,
    WIRE_SWITCHOVER_BEGIN = 0x000C,
    WIRE_SWITCHOVER_CANCEL = 0x000D,
    WIRE_STATE_END = 0x000E,
    WIRE_LOADED = 0x000F,
    WIRE_COMMIT = 0x0010,
    WIRE_RUNNING = 0x0011,
    WIRE_ABORT = 0x0012,
    WIRE_CANCEL = 0x0013,
    WIRE_QUERY_OWNER = 0x0014,
    WIRE_OWNER_ANSWER = 0x0015,
    WIRE_CLOCK_PING = 0x0016,
    WIRE_CLOCK_PONG = 0x0017,
    WIRE_REHEARSAL_REPORT = 0x0018,
    WIRE_GOODBYE = 0x0019,
    WIRE_END = 0x001A,
    WIRE_PACKET = 0x001B,       /* only when WIRE_FEATURE_PACKET_FORWARD was agreed */
    WIRE_PAGE_REQUEST = 0x001C, /* this and WHOLE only when WIRE_FEATURE_URGENT was agreed */
    WIRE_RESUME = 0x001D,
    WIRE_RESUMED = 0x001E,
    WIRE_WHOLE = 0x001F,
    WIRE_PROBE = 0x0040,
    WIRE_PROBE_ACK = 0x0041,
    WIRE_KEEPALIVE = 0x8001,
    WIRE_LEDGER = 0x8002,
    WIRE_RAM_SHARE = 0x8003,
    WIRE_RAM_SHARED = 0x8004,
    WIRE_PAD = 0x8005,
    WIRE_INDEX = 0x8006,
    WIRE_LOCATOR = 0x8007,
    WIRE_COST = 0x8008,
    WIRE_FAULT_WAITS = 0x8009,
};

/* Bits of wire_hello.features; names in wire_feature_name(). Append only. */
enum wire_feature {
    WIRE_FEATURE_MULTI_CHANNEL = 0, /* page channels besides control */
    WIRE_FEATURE_RESEND = 1,
    WIRE_FEATURE_REHEARSAL = 2,
    WIRE_FEATURE_LEDGER = 3,
    WIRE_FEATURE_URGENT = 4,         /* post-copy: urgent channel, PAGE_REQUEST, missing pages */
    WIRE_FEATURE_ZSTD = 5,           /* compressed runs */
    WIRE_FEATURE_DELTA = 6,          /* delta runs */
    WIRE_FEATURE_PACKET_FORWARD = 7, /* PACKET */
    WIRE_FEATURE_RAM_SHARE = 8,      /* RAM changes hands by its memory descriptors */
    WIRE_FEATURE_AUTO_CHANNELS = 9,  /* page_channels is what each side thinks best */
    WIRE_FEATURE_RESUME = 10,        /* RESUME before COMMIT */
    WIRE_FEATURE_VOID_ROUNDS = 11,   /* WIRE_ROUND_VOID */
};

#define WIRE_NO_CHANNEL      UINT16_C(0xFFFF) /* in wire_round_ack.channel: the control channel */
#define WIRE_MAX_RAM_BLOCKS  64u
#define WIRE_MAX_EXTENTS     4096u /* per block */
#define WIRE_MAX_SENTENCES   1024u
#define WIRE_MAX_RESEND_RUNS 4096u
#define WIRE_MAX_PHASES      4096u
#define WIRE_MAX_FAULT_WAITS 64u        /* threads; the last of more is all others */
#define WIRE_MAX_THREAD_NAME 15u        /* bytes, as the kernel has it */
#define WIRE_MAX_NAME        255u       /* bytes of a name string */
#define WIRE_GPA_NONE        UINT64_MAX /* a block outside of the guest's address space */
#define WIRE_MAX_SENTENCE    4096u      /* bytes of a sentence string */

struct wire_hello {
    uint32_t page_shift;       /* 12 */
    uint32_t max_packet_pages; /* PAGES packets the sender of this accepts: 1..256 */
    uint32_t page_channels;    /* wanted (source), accepted at most (destination): 0..64; the
                                  smaller one holds; 0 = pages travel on control */
    uint32_t urgent_channels;  /* 0 or 1 */
    uint64_t features;         /* bitmap of enum wire_feature: understood */
    uint64_t required;         /* those without which this side refuses */
    uint32_t silence_limit_ms; /* a peer silent for longer is taken as lost; 0 = never */
    uint64_t max_blackout_ns;  /* source's budget; 0 = none */
    uint64_t max_time_ns;
    uint64_t max_bandwidth_bytes;
    uint64_t ram_bytes;
    uint64_t monotonic_ns; /* sender's clocks when this was made */
    uint64_t realtime_ns;
    char *software; /* "godwit 0.1.0" */
    char *machine;  /* "virt" */
    char *vm_name;
    char *host;
};

struct wire_sentence {
    uint8_t severity; /* 1 warning, 2 error */
    char *text;
};

struct wire_schema_verdict {
    bool is_accepted;
    uint32_t n_sentences;
    struct wire_sentence *sentences;
};

struct wire_extent {
    uint64_t first_page;
    uint64_t n_pages;
};

struct wire_ram_block {
    uint32_t index; /* equals its position in the list */
    uint64_t gpa;
    uint64_t size_bytes;
    char *name;
    uint32_t n_extents; /* allocated pages, ascending, disjoint; a hint; 0 extents = unknown */
    struct wire_extent *extents;
};

struct wire_ram_map {
    uint64_t total_bytes;
    uint32_t n_blocks;
    struct wire_ram_block *blocks;
};

#define WIRE_ROUND_GUEST_STOPPED 0x1u /* nobody writes guest memory during this round */
#define WIRE_ROUND_POSTCOPY      0x2u /* of an attempt whose pages come after COMMIT, or these pages */
#define WIRE_ROUND_VOID          0x4u /* its pages are void: what the destination has of them goes */

struct wire_round_begin {
    uint32_t round; /* from 1, +1 each */
    uint32_t flags;
    uint64_t n_pages; /* expected on all channels; a hint */
};

struct wire_round_end {
    uint32_t round;
    uint64_t n_pages; /* sent on this channel in this round, zero pages included */
    uint64_t n_packets;
    uint64_t n_bytes; /* records and bulk bytes of the packets on this channel in this round */
};

struct wire_round_ack {
    uint32_t round;
    uint16_t channel; /* index of the page channel, or WIRE_NO_CHANNEL */
    uint64_t n_pages; /* written; equals the round's end record */
    uint64_t n_bytes;
    uint64_t n_suspect;    /* pages suspect on the destination now, on all channels */
    uint64_t monotonic_ns; /* destination's clock when the last page was written */
};

struct wire_resend_run {
    uint64_t first_page;
    uint32_t n_pages;
};

struct wire_resend {
    uint32_t round; /* the round in which they were found */
    uint32_t block;
    uint32_t n_runs;
    struct wire_resend_run *runs;
};

struct wire_switchover_begin {
    uint32_t attempt;         /* from 1, +1 each */
    uint32_t round;           /* the round that carries the last pages */
    bool was_running;         /* else the guest stays paused at the destination */
    uint64_t monotonic_ns;    /* source's clock when the vCPUs had stopped */
    uint64_t realtime_ns;     /* the same moment, CLOCK_REALTIME */
    uint64_t max_blackout_ns; /* what is left of it is the destination's to use */
};

struct wire_switchover_cancel {
    uint32_t attempt;
    char *reason; /* the guest goes on at the source; rounds go on */
};

struct wire_state_end {
    uint32_t attempt; /* 0 in a snapshot */
    uint32_t n_sections;
    uint64_t n_bytes;
    uint64_t digest; /* XXH3-64 over the sections' digests, 8 bytes LE each, in order */
};

struct wire_loaded {
    uint32_t attempt;
    uint32_t n_sections;
    uint64_t n_suspect;    /* must be 0 */
    uint64_t state_digest; /* that of STATE_END: what was loaded is what was sent */
    uint64_t monotonic_ns;
};

struct wire_commit {
    uint32_t attempt;
    uint64_t state_digest;
    uint64_t monotonic_ns;
};

struct wire_running {
    uint32_t attempt;
    bool is_running;       /* false: owned, and held paused as it was */
    uint64_t monotonic_ns; /* destination's clock when the guest was let run */
};

enum wire_side { WIRE_SIDE_SOURCE = 1, WIRE_SIDE_DESTINATION = 2 };

struct wire_abort {
    uint8_t side;  /* enum wire_side: who failed first */
    uint16_t code; /* enum gw_error_code */
    char *reason;
};

struct wire_cancel {
    char *reason;
};

struct wire_query_owner {
    bool demands_decision; /* a destination that has not read COMMIT answers NEVER, and keeps it */
    uint32_t attempt;      /* the attempt in doubt; 0 = any */
};

enum wire_owner {
    WIRE_OWNER_NEVER = 1,           /* has not run and never will */
    WIRE_OWNER_RUNNING = 2,         /* owns the guest */
    WIRE_OWNER_AWAITING_COMMIT = 3, /* LOADED, not committed, has promised nothing */
    WIRE_OWNER_UNKNOWN = 4,         /* knows nothing of this migration id */
};

struct wire_owner_answer {
    uint8_t answer; /* enum wire_owner */
    uint32_t attempt;
    char *detail;
};

struct wire_clock_ping {
    uint32_t id;
    uint64_t monotonic_ns; /* asker's clocks at sending */
    uint64_t realtime_ns;
};

struct wire_clock_pong {
    uint32_t id;
    uint64_t ping_monotonic_ns;     /* copied from the ping */
    uint64_t received_monotonic_ns; /* answerer's clocks */
    uint64_t sent_monotonic_ns;
    uint64_t sent_realtime_ns;
};

struct wire_rehearsal_report {
    uint32_t n_sections;
    uint64_t n_bytes;
    uint64_t load_ns; /* decode and check, without commit */
    bool is_ok;
    char *detail; /* the sentence when not ok */
};

struct wire_phase {
    char *name;
    uint64_t start_ns; /* destination's CLOCK_MONOTONIC */
    uint64_t length_ns;
};

struct wire_cost {
    uint64_t cpu_ns;  /* that the engine's threads have spent */
    uint64_t n_bytes; /* that have come */
};

struct wire_fault_wait {
    char *name;      /* of a thread: printable ASCII, may be empty */
    uint64_t faults; /* of this and the others: at most INT64_MAX */
    uint64_t stall_ns;
    uint64_t p50_ns, p99_ns, max_ns; /* ascending */
};

struct wire_fault_waits {
    uint64_t faults; /* waits for a page that had not come, each page counted once */
    uint64_t p50_ns, p99_ns, max_ns;
    uint32_t n_threads;
    struct wire_fault_wait *threads;
};

struct wire_ledger {
    uint32_t n_phases;
    struct wire_phase *phases;
};

struct wire_keepalive {
    uint64_t monotonic_ns;
};

struct wire_goodbye {
    bool is_complete; /* this side has done all it had to do on the channel */
};

struct wire_share_block {
    uint32_t index;  /* equals its position in the list */
    uint64_t offset; /* of the block in its descriptor */
};

struct wire_ram_share {
    uint32_t n_blocks;
    struct wire_share_block *blocks;
};

struct wire_ram_shared {
    bool is_shared;
    uint64_t proof_low, proof_high; /* what the first descriptor's memory holds */
    char *reason;                   /* why not */
};

struct wire_section_begin { /* use wire/section.h */
    uint32_t id;
    uint32_t kind;
    uint32_t instance;
    uint32_t version;
    uint32_t attempt;
    uint64_t n_bytes;
    char *name;
};

struct wire_section_part {
    uint32_t id;
    uint64_t offset;
};

struct wire_section_end {
    uint32_t id;
    uint32_t n_parts;
    uint64_t n_bytes;
    uint64_t digest;
};

/* The destination waits for these pages. */
struct wire_page_request {
    uint32_t block;
    uint64_t first_page;
    uint32_t n_pages; /* at most WIRE_MAX_PACKET_PAGES */
};

/* First on a control channel that replaces a lost one. */
struct wire_resume {
    uint32_t attempt; /* the last one; 0: none yet */
    uint32_t round;   /* the last that was acknowledged on all channels */
};

/* The answer; n_sections sections follow. */
struct wire_resumed {
    bool is_owned;       /* the guest is the destination's */
    bool is_whole;       /* and nothing of it is missing */
    uint32_t round;      /* the last that the destination acknowledged on all channels */
    uint64_t n_pages;    /* in the sections that follow */
    uint32_t n_sections; /* owned: of missing pages; otherwise of pages of the open round that are
                            here and good */
};

/* The last missing page is here. */
struct wire_whole {
    uint64_t n_pages; /* that had been missing */
    uint64_t monotonic_ns;
};

/* A frame that reached the source for a guest that is gone; the bulk is a virtio network header and
 * the Ethernet frame. */
struct wire_packet {
    uint32_t nic;   /* index of the device in the source's schema */
    uint32_t flags; /* WIRE_PACKET_* */
};
#define WIRE_PACKET_LAST         1u /* no other one of this device follows; the bulk may be empty */
#define WIRE_PACKET_HEADER_BYTES 12u
#define WIRE_PACKET_MAX_BYTES    (WIRE_PACKET_HEADER_BYTES + 65535u + 18u)

/* Bytes without meaning that measure the link, in the bulk. */
struct wire_probe {
    uint64_t digest; /* XXH3-64 of the bulk, so that it costs both sides what pages do */
};
#define WIRE_PROBE_BYTES     262144u
#define WIRE_MAX_PROBE_BYTES (UINT64_C(64) << 20) /* of one probe, in all */

struct wire_probe_ack {
    uint64_t n_bytes; /* of bulk, of all PROBE records so far */
    uint64_t monotonic_ns;
};

struct wire_end {
    uint64_t n_records;  /* before this one, on this channel */
    uint64_t n_pages;    /* in PAGES records, zero pages included */
    uint64_t n_sections; /* all kinds */
    uint64_t n_bytes;    /* of the stream before this record, preamble included */
    uint64_t digest;     /* XXH3-64 over all record digests before this one, 8 bytes LE each */
};

/* Where one PAGES record stands in a snapshot. */
struct wire_index_entry {
    uint64_t offset; /* of its header, from the beginning of the stream */
    uint64_t sequence;
    uint32_t block;
    uint64_t first_page;
    uint32_t n_pages;    /* from the first to the last, gaps included */
    uint32_t head_bytes; /* header and payload */
    uint32_t bulk_bytes;
};

#define WIRE_MAX_INDEX_ENTRIES 65536u

struct wire_index {
    uint32_t n_entries;
    struct wire_index_entry *entries;
};

struct wire_locator {
    uint64_t pages_offset, pages_sequence; /* the first PAD or PAGES of the round */
    uint64_t tail_offset, tail_sequence;   /* ROUND_END */
    uint64_t index_offset, index_sequence; /* the first INDEX */
    uint64_t n_entries;
    uint64_t n_pages;
    uint32_t n_index;
};

#endif
