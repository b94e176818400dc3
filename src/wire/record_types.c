/* SPDX-License-Identifier: MIT */
/*
 * The table of records, and the field tables of those that are made of fields.
 *
 * Wire: docs/wire-format.md sections 3 and 4 hold the same tables; tests/unit/wire/test_tables.c
 * compares them row by row.
 */
#include "wire/codec.h"
#include "wire/pages.h"
#include "wire/section.h"
#include "wire/snapshot.h"

#include <inttypes.h>
#include <stddef.h>

/* clang-format off */
#define FIELD(kind_, type_, member_, min_, max_)                                                   \
    {.name = #member_, .kind = (kind_), .offset = offsetof(struct type_, member_),                 \
     .min = (min_), .max = (max_)}
#define U8(type, member, min, max)  FIELD(WIRE_U8, type, member, min, max)
#define BOOLEAN(type, member)       FIELD(WIRE_BOOL, type, member, 0, 1)
#define U16(type, member)           FIELD(WIRE_U16, type, member, 0, UINT16_MAX)
#define U32(type, member, min, max) FIELD(WIRE_U32, type, member, min, max)
#define ANY32(type, member)         FIELD(WIRE_U32, type, member, 0, UINT32_MAX)
#define SOME32(type, member)        FIELD(WIRE_U32, type, member, 1, UINT32_MAX)
#define U64(type, member, min, max) FIELD(WIRE_U64, type, member, min, max)
#define ANY64(type, member)         FIELD(WIRE_U64, type, member, 0, UINT64_MAX)
#define U63(type, member)           FIELD(WIRE_U64, type, member, 0, INT64_MAX)
#define NAME(type, member, min)     FIELD(WIRE_STRING, type, member, min, WIRE_MAX_NAME)
#define SENTENCE(type, member)      FIELD(WIRE_STRING, type, member, 0, WIRE_MAX_SENTENCE)
#define LIST(type_, member_, max_, desc_)                                                          \
    {.name = #member_, .kind = WIRE_LIST, .offset = offsetof(struct type_, member_),               \
     .n_offset = offsetof(struct type_, n_##member_), .max = (max_), .element = (desc_)}
#define MESSAGE(name_, check_, ...)                                                                \
    static const struct wire_field name_##_fields[] = {__VA_ARGS__, {.name = NULL}};               \
    static const struct wire_message_desc name_##_desc = {                                         \
        .size_bytes = sizeof(struct wire_##name_), .fields = name_##_fields, .check = (check_)}
/* clang-format on */

#define MAX_BLOCK_BYTES (UINT64_C(0xFFFFFFFF) * WIRE_PAGE_BYTES)

MESSAGE(hello, NULL, U32(wire_hello, page_shift, 12, 12),
        U32(wire_hello, max_packet_pages, 1, WIRE_MAX_PACKET_PAGES),
        U32(wire_hello, page_channels, 0, WIRE_MAX_CHANNELS),
        U32(wire_hello, urgent_channels, 0, 1), ANY64(wire_hello, features),
        ANY64(wire_hello, required), ANY32(wire_hello, silence_limit_ms),
        ANY64(wire_hello, max_blackout_ns), ANY64(wire_hello, max_time_ns),
        ANY64(wire_hello, max_bandwidth_bytes), ANY64(wire_hello, ram_bytes),
        ANY64(wire_hello, monotonic_ns), ANY64(wire_hello, realtime_ns),
        NAME(wire_hello, software, 0), NAME(wire_hello, machine, 0), NAME(wire_hello, vm_name, 0),
        NAME(wire_hello, host, 0));

MESSAGE(section_begin, NULL, ANY32(wire_section_begin, id), U32(wire_section_begin, kind, 1, 4),
        ANY32(wire_section_begin, instance), ANY32(wire_section_begin, version),
        ANY32(wire_section_begin, attempt),
        U64(wire_section_begin, n_bytes, 0, WIRE_MAX_SECTION_BYTES),
        NAME(wire_section_begin, name, 0));
MESSAGE(section_part, NULL, ANY32(wire_section_part, id), ANY64(wire_section_part, offset));
MESSAGE(section_end, NULL, ANY32(wire_section_end, id), ANY32(wire_section_end, n_parts),
        ANY64(wire_section_end, n_bytes), ANY64(wire_section_end, digest));

MESSAGE(sentence, NULL, U8(wire_sentence, severity, 1, 2), SENTENCE(wire_sentence, text));
MESSAGE(schema_verdict, NULL, BOOLEAN(wire_schema_verdict, is_accepted),
        LIST(wire_schema_verdict, sentences, WIRE_MAX_SENTENCES, &sentence_desc));

/* The blocks are what the page tables refer to: they are checked as a whole, once, here. */
static void check_extents(const struct wire_ram_block *block, struct wire_reader *reader)
{
    uint64_t n_pages = block->size_bytes / WIRE_PAGE_BYTES;
    uint64_t next = 0;

    for (uint32_t i = 0; i < block->n_extents; i++) {
        const struct wire_extent *e = &block->extents[i];
        if (e->first_page < next || e->n_pages == 0 || e->first_page >= n_pages ||
            e->n_pages > n_pages - e->first_page) {
            wire_reader_fail(reader, GW_ERROR_CORRUPT, "blocks.extents",
                             "%" PRIu64 "+%" PRIu64 " in block %u is empty, out of order or out of "
                             "the block",
                             e->first_page, e->n_pages, block->index);
            return;
        }
        next = e->first_page + e->n_pages;
    }
}

static bool overlaps(const struct wire_ram_block *a, const struct wire_ram_block *b)
{
    if (a->gpa == WIRE_GPA_NONE || b->gpa == WIRE_GPA_NONE) {
        return false;
    }
    return a->gpa < b->gpa ? b->gpa - a->gpa < a->size_bytes : a->gpa - b->gpa < b->size_bytes;
}

static void check_ram_map(const void *message, struct wire_reader *reader)
{
    const struct wire_ram_map *map = message;
    uint64_t total = 0;

    for (uint32_t i = 0; i < map->n_blocks; i++) {
        const struct wire_ram_block *b = &map->blocks[i];
        if (b->index != i) {
            wire_reader_fail(reader, GW_ERROR_CORRUPT, "blocks.index", "%u at position %u",
                             b->index, i);
        }
        if (b->size_bytes % WIRE_PAGE_BYTES != 0) {
            wire_reader_fail(reader, GW_ERROR_CORRUPT, "blocks.size_bytes",
                             "%" PRIu64 " is no multiple of the page size", b->size_bytes);
        }
        if (b->gpa != WIRE_GPA_NONE &&
            (b->gpa % WIRE_PAGE_BYTES != 0 || b->gpa > UINT64_MAX - b->size_bytes)) {
            wire_reader_fail(reader, GW_ERROR_CORRUPT, "blocks.gpa",
                             "0x%" PRIx64 " is not aligned, or too high", b->gpa);
        }
        for (uint32_t k = 0; k < i; k++) {
            if (strcmp(map->blocks[k].name, b->name) == 0 || overlaps(&map->blocks[k], b)) {
                wire_reader_fail(reader, GW_ERROR_CORRUPT, "blocks",
                                 "blocks %u and %u overlap or have one name", k, i);
            }
        }
        check_extents(b, reader);
        total += b->size_bytes;
    }
    if (total != map->total_bytes) {
        wire_reader_fail(reader, GW_ERROR_CORRUPT, "total_bytes",
                         "%" PRIu64 ", but the blocks have %" PRIu64, map->total_bytes, total);
    }
}

MESSAGE(extent, NULL, ANY64(wire_extent, first_page), ANY64(wire_extent, n_pages));
MESSAGE(ram_block, NULL, U32(wire_ram_block, index, 0, WIRE_MAX_RAM_BLOCKS - 1),
        ANY64(wire_ram_block, gpa),
        U64(wire_ram_block, size_bytes, WIRE_PAGE_BYTES, MAX_BLOCK_BYTES),
        NAME(wire_ram_block, name, 1),
        LIST(wire_ram_block, extents, WIRE_MAX_EXTENTS, &extent_desc));
MESSAGE(ram_map, check_ram_map, ANY64(wire_ram_map, total_bytes),
        LIST(wire_ram_map, blocks, WIRE_MAX_RAM_BLOCKS, &ram_block_desc));

MESSAGE(round_begin, NULL, SOME32(wire_round_begin, round), U32(wire_round_begin, flags, 0, 7),
        ANY64(wire_round_begin, n_pages));
MESSAGE(round_end, NULL, SOME32(wire_round_end, round), ANY64(wire_round_end, n_pages),
        ANY64(wire_round_end, n_packets), ANY64(wire_round_end, n_bytes));
MESSAGE(round_ack, NULL, SOME32(wire_round_ack, round), U16(wire_round_ack, channel),
        ANY64(wire_round_ack, n_pages), ANY64(wire_round_ack, n_bytes),
        ANY64(wire_round_ack, n_suspect), ANY64(wire_round_ack, monotonic_ns));

static void check_resend(const void *message, struct wire_reader *reader)
{
    const struct wire_resend *resend = message;
    uint64_t next = 0;

    for (uint32_t i = 0; i < resend->n_runs; i++) {
        const struct wire_resend_run *run = &resend->runs[i];
        if (run->first_page < next || run->first_page > UINT64_MAX - run->n_pages) {
            wire_reader_fail(reader, GW_ERROR_CORRUPT, "runs",
                             "%" PRIu64 "+%u is out of order or too high", run->first_page,
                             run->n_pages);
            return;
        }
        next = run->first_page + run->n_pages;
    }
}

MESSAGE(resend_run, NULL, ANY64(wire_resend_run, first_page), SOME32(wire_resend_run, n_pages));
MESSAGE(resend, check_resend, SOME32(wire_resend, round),
        U32(wire_resend, block, 0, WIRE_MAX_RAM_BLOCKS - 1),
        LIST(wire_resend, runs, WIRE_MAX_RESEND_RUNS, &resend_run_desc));

MESSAGE(switchover_begin, NULL, SOME32(wire_switchover_begin, attempt),
        ANY32(wire_switchover_begin, round), BOOLEAN(wire_switchover_begin, was_running),
        ANY64(wire_switchover_begin, monotonic_ns), ANY64(wire_switchover_begin, realtime_ns),
        ANY64(wire_switchover_begin, max_blackout_ns));
MESSAGE(switchover_cancel, NULL, SOME32(wire_switchover_cancel, attempt),
        SENTENCE(wire_switchover_cancel, reason));
MESSAGE(state_end, NULL, ANY32(wire_state_end, attempt),
        U32(wire_state_end, n_sections, 0, WIRE_MAX_SECTIONS), ANY64(wire_state_end, n_bytes),
        ANY64(wire_state_end, digest));
MESSAGE(loaded, NULL, SOME32(wire_loaded, attempt),
        U32(wire_loaded, n_sections, 0, WIRE_MAX_SECTIONS), U64(wire_loaded, n_suspect, 0, 0),
        ANY64(wire_loaded, state_digest), ANY64(wire_loaded, monotonic_ns));
MESSAGE(commit, NULL, SOME32(wire_commit, attempt), ANY64(wire_commit, state_digest),
        ANY64(wire_commit, monotonic_ns));
MESSAGE(running, NULL, SOME32(wire_running, attempt), BOOLEAN(wire_running, is_running),
        ANY64(wire_running, monotonic_ns));
MESSAGE(abort, NULL, U8(wire_abort, side, 1, 2), U16(wire_abort, code),
        SENTENCE(wire_abort, reason));
MESSAGE(cancel, NULL, SENTENCE(wire_cancel, reason));
MESSAGE(query_owner, NULL, BOOLEAN(wire_query_owner, demands_decision),
        ANY32(wire_query_owner, attempt));
MESSAGE(owner_answer, NULL, U8(wire_owner_answer, answer, 1, 4), ANY32(wire_owner_answer, attempt),
        SENTENCE(wire_owner_answer, detail));
MESSAGE(clock_ping, NULL, ANY32(wire_clock_ping, id), ANY64(wire_clock_ping, monotonic_ns),
        ANY64(wire_clock_ping, realtime_ns));
MESSAGE(clock_pong, NULL, ANY32(wire_clock_pong, id), ANY64(wire_clock_pong, ping_monotonic_ns),
        ANY64(wire_clock_pong, received_monotonic_ns), ANY64(wire_clock_pong, sent_monotonic_ns),
        ANY64(wire_clock_pong, sent_realtime_ns));
MESSAGE(rehearsal_report, NULL, U32(wire_rehearsal_report, n_sections, 0, WIRE_MAX_SECTIONS),
        ANY64(wire_rehearsal_report, n_bytes), ANY64(wire_rehearsal_report, load_ns),
        BOOLEAN(wire_rehearsal_report, is_ok), SENTENCE(wire_rehearsal_report, detail));
MESSAGE(goodbye, NULL, BOOLEAN(wire_goodbye, is_complete));
MESSAGE(end, NULL, ANY64(wire_end, n_records), ANY64(wire_end, n_pages),
        ANY64(wire_end, n_sections), ANY64(wire_end, n_bytes), ANY64(wire_end, digest));
MESSAGE(packet, NULL, ANY32(wire_packet, nic), U32(wire_packet, flags, 0, WIRE_PACKET_LAST));
MESSAGE(page_request, NULL, U32(wire_page_request, block, 0, WIRE_MAX_RAM_BLOCKS - 1),
        ANY64(wire_page_request, first_page),
        U32(wire_page_request, n_pages, 1, WIRE_MAX_PACKET_PAGES));
MESSAGE(resume, NULL, ANY32(wire_resume, attempt), ANY32(wire_resume, round));
MESSAGE(resumed, NULL, BOOLEAN(wire_resumed, is_owned), BOOLEAN(wire_resumed, is_whole),
        ANY32(wire_resumed, round), ANY64(wire_resumed, n_pages),
        U32(wire_resumed, n_sections, 0, WIRE_MAX_RAM_BLOCKS));
MESSAGE(whole, NULL, ANY64(wire_whole, n_pages), ANY64(wire_whole, monotonic_ns));
MESSAGE(probe, NULL, ANY64(wire_probe, digest));
MESSAGE(probe_ack, NULL, ANY64(wire_probe_ack, n_bytes), ANY64(wire_probe_ack, monotonic_ns));
MESSAGE(keepalive, NULL, ANY64(wire_keepalive, monotonic_ns));
MESSAGE(phase, NULL, NAME(wire_phase, name, 0), ANY64(wire_phase, start_ns),
        ANY64(wire_phase, length_ns));
MESSAGE(cost, NULL, ANY64(wire_cost, cpu_ns), ANY64(wire_cost, n_bytes));

/* Quantiles of one histogram. */
static void check_quantiles(struct wire_reader *reader, uint64_t p50_ns, uint64_t p99_ns,
                            uint64_t max_ns)
{
    if (p50_ns > p99_ns || p99_ns > max_ns) {
        wire_reader_fail(reader, GW_ERROR_CORRUPT, "max_ns",
                         "%" PRIu64 ", %" PRIu64 ", %" PRIu64 " do not ascend", p50_ns, p99_ns,
                         max_ns);
    }
}

static void check_fault_waits(const void *message, struct wire_reader *reader)
{
    const struct wire_fault_waits *waits = message;

    check_quantiles(reader, waits->p50_ns, waits->p99_ns, waits->max_ns);
    for (uint32_t i = 0; i < waits->n_threads; i++) {
        const struct wire_fault_wait *wait = &waits->threads[i];

        check_quantiles(reader, wait->p50_ns, wait->p99_ns, wait->max_ns);
        /* PEER: it is printed on a terminal. */
        for (const char *at = wait->name; *at != '\0'; at++) {
            if (!g_ascii_isprint(*at)) {
                wire_reader_fail(reader, GW_ERROR_CORRUPT, "threads.name",
                                 "byte 0x%02x is not printable", (unsigned)(uint8_t)*at);
            }
        }
    }
}

MESSAGE(fault_wait, NULL, FIELD(WIRE_STRING, wire_fault_wait, name, 0, WIRE_MAX_THREAD_NAME),
        U63(wire_fault_wait, faults), U63(wire_fault_wait, stall_ns), U63(wire_fault_wait, p50_ns),
        U63(wire_fault_wait, p99_ns), U63(wire_fault_wait, max_ns));
MESSAGE(fault_waits, check_fault_waits, U63(wire_fault_waits, faults),
        U63(wire_fault_waits, p50_ns), U63(wire_fault_waits, p99_ns), U63(wire_fault_waits, max_ns),
        LIST(wire_fault_waits, threads, WIRE_MAX_FAULT_WAITS, &fault_wait_desc));
MESSAGE(ledger, NULL, LIST(wire_ledger, phases, WIRE_MAX_PHASES, &phase_desc));
MESSAGE(index_entry, NULL, ANY64(wire_index_entry, offset), ANY64(wire_index_entry, sequence),
        U32(wire_index_entry, block, 0, WIRE_MAX_RAM_BLOCKS - 1),
        ANY64(wire_index_entry, first_page), SOME32(wire_index_entry, n_pages),
        U32(wire_index_entry, head_bytes, WIRE_HEADER_BYTES + 36,
            WIRE_HEADER_BYTES + WIRE_PAGES_MAX_PAYLOAD),
        U32(wire_index_entry, bulk_bytes, 0, WIRE_MAX_BULK));
MESSAGE(index, NULL, LIST(wire_index, entries, WIRE_MAX_INDEX_ENTRIES, &index_entry_desc));
MESSAGE(locator, NULL, ANY64(wire_locator, pages_offset), ANY64(wire_locator, pages_sequence),
        ANY64(wire_locator, tail_offset), ANY64(wire_locator, tail_sequence),
        ANY64(wire_locator, index_offset), ANY64(wire_locator, index_sequence),
        ANY64(wire_locator, n_entries), ANY64(wire_locator, n_pages), ANY32(wire_locator, n_index));

static void check_ram_share(const void *message, struct wire_reader *reader)
{
    const struct wire_ram_share *share = message;

    for (uint32_t i = 0; i < share->n_blocks; i++) {
        const struct wire_share_block *b = &share->blocks[i];
        if (b->index != i) {
            wire_reader_fail(reader, GW_ERROR_CORRUPT, "blocks.index", "%u at position %u",
                             b->index, i);
        }
        if (b->offset % WIRE_PAGE_BYTES != 0) {
            wire_reader_fail(reader, GW_ERROR_CORRUPT, "blocks.offset",
                             "%" PRIu64 " is no multiple of the page size", b->offset);
        }
    }
}

MESSAGE(share_block, NULL, U32(wire_share_block, index, 0, WIRE_MAX_RAM_BLOCKS - 1),
        U64(wire_share_block, offset, 0, INT64_MAX));
MESSAGE(ram_share, check_ram_share,
        LIST(wire_ram_share, blocks, WIRE_MAX_RAM_BLOCKS, &share_block_desc));
MESSAGE(ram_shared, NULL, BOOLEAN(wire_ram_shared, is_shared), ANY64(wire_ram_shared, proof_low),
        ANY64(wire_ram_shared, proof_high), SENTENCE(wire_ram_shared, reason));

/* ---- records ---- */

/* clang-format off */
#define C  WIRE_ON_CONTROL
#define CS (WIRE_ON_CONTROL | WIRE_ON_SNAPSHOT)
#define S  WIRE_ON_SNAPSHOT
#define U  WIRE_ON_URGENT
#define L  WIRE_ON_PROBE
#define CL (C | L)
#define CSL (CS | L)
#define CPS (CS | WIRE_ON_PAGE)
#define CPU (WIRE_ON_CONTROL | WIRE_ON_PAGE | WIRE_ON_URGENT)
#define CPUS (CPU | WIRE_ON_SNAPSHOT)
#define CPUL (CPU | L)
#define SRC  WIRE_BY_SOURCE
#define DST  WIRE_BY_DESTINATION
#define BOTH WIRE_BY_BOTH
#define SETUP WIRE_IN_SETUP
#define RB   (WIRE_IN_ROUNDS | WIRE_IN_BLACKOUT)
#define SRB  (WIRE_IN_SETUP | RB)
#define BC   (WIRE_IN_BLACKOUT | WIRE_IN_COMMITTED)
#define RBC  (RB | WIRE_IN_COMMITTED)
#define SRBC (SRB | WIRE_IN_COMMITTED)

#define ROW(TYPE, channels_, senders_, phases_, bulk_, min_, max_, message_)                       \
    {.type = WIRE_##TYPE, .name = #TYPE, .channels = (channels_), .senders = (senders_),           \
     .phases = (phases_), .min_payload_bytes = (min_), .max_payload_bytes = (max_),                \
     .max_bulk_bytes = (bulk_), .message = (message_)}

static const struct wire_record_type types[] = {
    ROW(HELLO,             CSL,  BOTH, SETUP, 0, 92, 1112, &hello_desc),
    ROW(SECTION_BEGIN,     CSL,  BOTH, SRB,   0, 30, 285, &section_begin_desc),
    ROW(SECTION_PART,      CSL,  BOTH, SRB,   WIRE_SECTION_PART_BYTES, 12, 12, &section_part_desc),
    ROW(SECTION_END,       CSL,  BOTH, SRB,   0, 24, 24, &section_end_desc),
    ROW(SCHEMA_VERDICT,    CL,   DST,  SETUP, 0, 5, WIRE_MAX_PAYLOAD, &schema_verdict_desc),
    ROW(RAM_MAP,           CSL,  SRC,  SETUP, 0, 12, WIRE_MAX_PAYLOAD, &ram_map_desc),
    ROW(ROUND_BEGIN,       CPS,  SRC,  RB,    0, 16, 16, &round_begin_desc),
    ROW(PAGES,             CPUS, SRC,  RBC,   WIRE_MAX_BULK, 36, WIRE_PAGES_MAX_PAYLOAD, NULL),
    ROW(ROUND_END,         CPS,  SRC,  RB,    0, 28, 28, &round_end_desc),
    ROW(ROUND_ACK,         C,    DST,  RBC,   0, 38, 38, &round_ack_desc),
    ROW(RESEND,            C,    DST,  RB,    0, 12, 49164, &resend_desc),
    ROW(SWITCHOVER_BEGIN,  CS,   SRC,  RB,    0, 33, 33, &switchover_begin_desc),
    ROW(SWITCHOVER_CANCEL, C,    SRC,  WIRE_IN_BLACKOUT, 0, 6, 4102, &switchover_cancel_desc),
    ROW(STATE_END,         CS,   SRC,  RB,    0, 24, 24, &state_end_desc),
    ROW(LOADED,            C,    DST,  RB,    0, 32, 32, &loaded_desc),
    ROW(COMMIT,            C,    SRC,  BC,    0, 20, 20, &commit_desc),
    ROW(RUNNING,           C,    DST,  WIRE_IN_COMMITTED, 0, 13, 13, &running_desc),
    ROW(ABORT,             CPUL, BOTH, WIRE_IN_ANY, 0, 5, 4101, &abort_desc),
    ROW(CANCEL,            C,    SRC,  SRB,   0, 2, 4098, &cancel_desc),
    ROW(QUERY_OWNER,       C,    SRC,  WIRE_IN_OWNER, 0, 5, 5, &query_owner_desc),
    ROW(OWNER_ANSWER,      C,    DST,  WIRE_IN_OWNER, 0, 7, 4103, &owner_answer_desc),
    ROW(CLOCK_PING,        CL,   BOTH, SRBC,  0, 20, 20, &clock_ping_desc),
    ROW(CLOCK_PONG,        CL,   BOTH, SRBC,  0, 36, 36, &clock_pong_desc),
    ROW(REHEARSAL_REPORT,  CL,   DST,  RB,    0, 23, 4119, &rehearsal_report_desc),
    ROW(GOODBYE,           CPUL, BOTH, WIRE_IN_ANY, 0, 1, 1, &goodbye_desc),
    ROW(END,               S,    SRC,  SRBC,  0, 40, 40, &end_desc),
    ROW(PACKET,            C,    SRC,  WIRE_IN_COMMITTED, WIRE_PACKET_MAX_BYTES, 8, 8, &packet_desc),
    ROW(PAGE_REQUEST,      U,    DST,  RBC,   0, 16, 16, &page_request_desc),
    ROW(RESUME,            C,    SRC,  SETUP, 0, 8, 8, &resume_desc),
    ROW(RESUMED,           C,    DST,  SETUP, 0, 18, 18, &resumed_desc),
    ROW(WHOLE,             C,    DST,  WIRE_IN_COMMITTED, 0, 16, 16, &whole_desc),
    ROW(PROBE,             L,    SRC,  WIRE_IN_ROUNDS, WIRE_PROBE_BYTES, 8, 8, &probe_desc),
    ROW(PROBE_ACK,         L,    DST,  WIRE_IN_ROUNDS, 0, 16, 16, &probe_ack_desc),
    ROW(KEEPALIVE,         CPUL, BOTH, WIRE_IN_ANY, 0, 8, 8, &keepalive_desc),
    ROW(LEDGER,            C,    DST,  WIRE_IN_COMMITTED, 0, 4, 1118212, &ledger_desc),
    ROW(RAM_SHARE,         C,    SRC,  SETUP, 0, 4, 772, &ram_share_desc),
    ROW(RAM_SHARED,        C,    DST,  SETUP, 0, 19, 4115, &ram_shared_desc),
    ROW(PAD,               S,    SRC,  SRB,   0, 0, WIRE_SNAPSHOT_ALIGN - 1, NULL),
    ROW(INDEX,             S,    SRC,  WIRE_IN_BLACKOUT, 0, 4, 2621444, &index_desc),
    ROW(LOCATOR,           S,    SRC,  WIRE_IN_BLACKOUT, 0, 68, 68, &locator_desc),
    ROW(COST,              C,    DST,  WIRE_IN_COMMITTED, 0, 16, 16, &cost_desc),
    ROW(FAULT_WAITS,       C,    DST,  WIRE_IN_COMMITTED, 0, 36, 3684, &fault_waits_desc),
};
/* clang-format on */

const struct wire_record_type *wire_record_types(size_t *n_types)
{
    *n_types = G_N_ELEMENTS(types);
    return types;
}

const struct wire_record_type *wire_record_type_of(uint16_t type)
{
    /* Those of a migration are dense from 1, so the row is found at once. */
    if (type >= 1 && type <= G_N_ELEMENTS(types) && types[type - 1].type == type) {
        return &types[type - 1];
    }
    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        if (types[i].type == type) {
            return &types[i];
        }
    }
    return NULL;
}

const char *wire_record_name(uint16_t type)
{
    const struct wire_record_type *row = wire_record_type_of(type);

    return row != NULL ? row->name : "unknown";
}

static const char *const feature_names[] = {
    [WIRE_FEATURE_MULTI_CHANNEL] = "multi-channel",
    [WIRE_FEATURE_RESEND] = "resend",
    [WIRE_FEATURE_REHEARSAL] = "rehearsal",
    [WIRE_FEATURE_LEDGER] = "ledger",
    [WIRE_FEATURE_URGENT] = "urgent",
    [WIRE_FEATURE_ZSTD] = "zstd",
    [WIRE_FEATURE_DELTA] = "delta",
    [WIRE_FEATURE_PACKET_FORWARD] = "packet-forward",
    [WIRE_FEATURE_RAM_SHARE] = "ram-share",
    [WIRE_FEATURE_AUTO_CHANNELS] = "auto-channels",
    [WIRE_FEATURE_RESUME] = "resume",
    [WIRE_FEATURE_VOID_ROUNDS] = "void-rounds",
};

const char *wire_feature_name(unsigned bit)
{
    return bit < G_N_ELEMENTS(feature_names) ? feature_names[bit] : NULL;
}

const char *wire_role_name(enum wire_role role)
{
    static const char *const names[] = {
        [WIRE_ROLE_CONTROL] = "control", [WIRE_ROLE_PAGE] = "page",
        [WIRE_ROLE_URGENT] = "urgent",   [WIRE_ROLE_SNAPSHOT] = "snapshot",
        [WIRE_ROLE_PROBE] = "probe",
    };

    return role >= WIRE_ROLE_CONTROL && role <= WIRE_ROLE_PROBE ? names[role] : "unknown";
}
