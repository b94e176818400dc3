/* SPDX-License-Identifier: MIT */
/* Where the pages of a snapshot stand, held against what its INDEX and LOCATOR say. */
#ifndef WIRE_INSPECT_PLACES_H
#define WIRE_INSPECT_PLACES_H

#include "wire/snapshot.h"

struct inspect_places {
    GArray *entries; /* struct wire_index_entry, of the PAGES that came; NULL: none yet */
    struct wire_locator found;
    uint64_t n_listed; /* entries that INDEX records have named */
    uint32_t n_rounds;
};

void inspect_places_round_begin(struct inspect_places *places);
/* All but _pages: when the record's payload, but not its bulk, has been received. */
void inspect_places_pages(struct inspect_places *places, const struct wire_record *record,
                          const struct wire_pages_in *packet);
bool inspect_places_pad(struct inspect_places *places, const struct wire_record *record,
                        GError **error);
void inspect_places_round_end(struct inspect_places *places, const struct wire_record *record);
bool inspect_places_index(struct inspect_places *places, const struct wire_record *record,
                          GError **error);
void inspect_places_clear(struct inspect_places *places);

#endif
