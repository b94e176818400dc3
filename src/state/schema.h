/* SPDX-License-Identifier: MIT */
/* Schemas inside this folder: sizes, words for people, walking a section by its schema. */
#ifndef STATE_SCHEMA_H
#define STATE_SCHEMA_H

#include "state/encoder.h"
#include "state/state_internal.h"

/* Computes depth and min_bytes of a type whose references (all smaller) are done. False: a
 * reference to a struct without content, or nested too deep. */
bool schema_type_measure(const struct gw_schema *schema, struct gw_schema_type *type);
void schema_type_clear(struct gw_schema_type *type);

bool schema_shape_is_counted(enum gw_field_shape shape);
/* Words of the JSON form and of sentences; NULL for impossible values. */
const char *schema_kind_word(enum gw_field_kind kind);
const char *schema_shape_word(enum gw_field_shape shape);
const char *schema_rule_word(enum gw_property_rule rule);
/* "u32", "i64 array of 4", "list of at most 8 structs"; g_free. */
char *schema_field_text(const struct gw_schema_field *field);
/* Own row as the other side sees it (type is left 0). */
void schema_field_of(const struct gw_field *row, struct gw_schema_field *field);

/* ---- section.c: native bytes, taken apart ---- */

/* Where the decoder is: device, then names and array indexes down to the value. */
#define SECTION_PATH_MAX (3 * GW_STATE_DEPTH_MAX)

struct section_step {
    const char *name; /* NULL: an array element */
    uint32_t index;
};

struct section {
    const struct gw_schema *schema;
    const char *device;
    const uint8_t *at;
    const uint8_t *end;
    size_t size_bytes;
    struct section_step path[SECTION_PATH_MAX];
    unsigned depth;
    GError **error;
};

void section_enter(struct section *section, const char *name, uint32_t index);
void section_leave(struct section *section);
/* Fills error with "device D, field a.b[3].c: <format>"; returns false. */
bool section_fail(struct section *section, enum gw_state_error code, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

/* A number of so many bits, sign-extended if signed; refuses bits that do not belong to it. */
bool section_number(struct section *section, enum gw_field_kind kind, uint32_t bits,
                    uint64_t *value);
bool section_flag(struct section *section, bool *is_set);
/* The elements' number of an array or list: read if counted, checked against the schema's bound
 * and against the bytes that are left. */
bool section_count(struct section *section, const struct gw_schema_field *field, uint32_t *n);
bool section_bytes(struct section *section, uint32_t n, const uint8_t **bytes);
bool section_end(struct section *section);

/* Takes one field or struct apart; everything goes to the encoder, or nowhere if it is NULL. */
bool section_visit_field(struct section *section, const struct gw_schema_field *field,
                         struct state_encoder *encoder);
bool section_visit_struct(struct section *section, const struct gw_schema_type *type,
                          struct state_encoder *encoder);

#endif
