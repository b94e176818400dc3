/* SPDX-License-Identifier: MIT */
/*
 * Reads a recorded stream and verifies everything that can be verified without a machine.
 *
 * A snapshot is checked as a whole: order of records, rounds, sections, page digests, END. A
 * recorded direction of a live migration's channel is checked record by record; mismatching pages
 * are counted there, for the guest was running.
 */
#ifndef WIRE_INSPECT_H
#define WIRE_INSPECT_H

#include "wire/pages.h"
#include "wire/section.h"

struct wire_inspect_report {
    struct wire_identity identity;
    enum wire_side sender;
    uint64_t n_records;
    uint64_t n_bytes;
    uint64_t n_pages; /* zero pages included */
    uint64_t n_zero_pages;
    uint64_t n_suspect; /* at the end */
    uint32_t n_rounds;
    uint32_t n_sections;
    bool is_complete; /* END (snapshot) or GOODBYE was there */
    bool has_hello;
    bool has_ram_map;
    struct wire_hello hello;
    struct wire_ram_map ram_map;
};

struct wire_inspect_visitor {
    void *opaque;
    /* Every record, before its bulk is read; may decode it. May be NULL. */
    void (*on_record)(void *opaque, const struct wire_record *record);
    /* Every whole section. May be NULL. */
    void (*on_section)(void *opaque, const struct wire_section *section);
};

/* Takes the channel. The report is filled as far as it went, also on failure; clear it. */
bool wire_inspect(struct gw_channel *channel, const struct wire_inspect_visitor *visitor,
                  struct wire_inspect_report *report, GError **error);
void wire_inspect_report_clear(struct wire_inspect_report *report);

#endif
