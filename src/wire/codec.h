/* SPDX-License-Identifier: MIT */
/* Field tables of messages: from one table come encoding, decoding, limits and clearing. */
#ifndef WIRE_CODEC_H
#define WIRE_CODEC_H

#include "wire/cursor.h"

enum wire_kind { WIRE_U8 = 1, WIRE_BOOL, WIRE_U16, WIRE_U32, WIRE_U64, WIRE_STRING, WIRE_LIST };

struct wire_message_desc;

struct wire_field {
    const char *name; /* NULL ends the table */
    enum wire_kind kind;
    uint32_t offset;   /* of the member; of the pointer for strings and lists */
    uint32_t n_offset; /* lists: of the uint32_t count */
    uint64_t min;      /* integers: value; strings: bytes; lists: elements */
    uint64_t max;
    const struct wire_message_desc *element; /* lists */
};

struct wire_message_desc {
    size_t size_bytes; /* of the struct */
    const struct wire_field *fields;
    /* Rules between fields; fails the reader. May be NULL. */
    void (*check)(const void *message, struct wire_reader *reader);
};

uint64_t wire_desc_min_bytes(const struct wire_message_desc *desc);
/* Saturates at UINT64_MAX. */
uint64_t wire_desc_max_bytes(const struct wire_message_desc *desc);
const char *wire_kind_name(enum wire_kind kind);

/* Values outside of their range are our own mistake: has_failed with the field. */
void wire_encode(const struct wire_message_desc *desc, const void *message,
                 struct wire_writer *writer);
/* message: zeroed; to be cleared also after a failure. */
void wire_decode_fields(const struct wire_message_desc *desc, void *message,
                        struct wire_reader *reader);
void wire_clear_fields(const struct wire_message_desc *desc, void *message);

#endif
