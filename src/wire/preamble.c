/* SPDX-License-Identifier: MIT */
/*
 * Preambles: who is on this channel, and the seed of everything that follows.
 *
 * Wire: docs/wire-format.md section 1.
 */
#include "wire/preamble.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static const uint8_t magic[8] = {'G', 'O', 'D', 'W', 'I', 'T', 0x00, 0x0A};

/* getrandom cannot fail for small requests once the system is up; a signal may cut it short. */
static void random_bytes(void *to, size_t n_bytes)
{
    size_t done = 0;

    while (done < n_bytes) {
        ssize_t n = getrandom((uint8_t *)to + done, n_bytes - done, 0);
        if (n > 0) {
            done += (size_t)n;
        }
    }
}

void wire_new_migration_id(uint8_t id[WIRE_ID_BYTES])
{
    random_bytes(id, WIRE_ID_BYTES);
}

void wire_format_id(const uint8_t id[WIRE_ID_BYTES], char text[37])
{
    char *at = text;

    for (unsigned i = 0; i < WIRE_ID_BYTES; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *at++ = '-';
        }
        snprintf(at, 3, "%02x", id[i]);
        at += 2;
    }
}

uint64_t wire_preamble_make(const struct wire_identity *identity, enum wire_side side,
                            uint8_t bytes[WIRE_PREAMBLE_BYTES])
{
    memset(bytes, 0, WIRE_PREAMBLE_BYTES);
    memcpy(bytes, magic, sizeof(magic));
    wire_store_u16(bytes + 8, WIRE_VERSION_MAJOR);
    wire_store_u16(bytes + 10, WIRE_VERSION_MINOR);
    wire_store_u16(bytes + 12, (uint16_t)identity->role);
    wire_store_u16(bytes + 14, identity->index);
    memcpy(bytes + 16, identity->migration_id, WIRE_ID_BYTES);
    wire_store_u16(bytes + 32, (uint16_t)side);
    random_bytes(bytes + 40, 8);
    uint64_t digest = XXH3_64bits(bytes, 56);
    wire_store_u64(bytes + 56, digest);
    return digest;
}

static bool refuse(const char *name, enum gw_error_code code, const char *why, GError **error)
{
    g_set_error(error, GW_ERROR, code, "%s: preamble: %s", name, why);
    return false;
}

static bool is_zero_range(const uint8_t *bytes, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

bool wire_preamble_parse(const uint8_t bytes[WIRE_PREAMBLE_BYTES], const char *name,
                         enum wire_side sender, struct wire_preamble *preamble, GError **error)
{
    /* PEER: everything below. */
    uint64_t digest = wire_load_u64(bytes + 56);
    unsigned major = wire_load_u16(bytes + 8);
    unsigned role = wire_load_u16(bytes + 12);
    unsigned index = wire_load_u16(bytes + 14);

    if (memcmp(bytes, magic, sizeof(magic)) != 0) {
        return refuse(name, GW_ERROR_CORRUPT, "not a Godwit stream (magic)", error);
    }
    if (digest != XXH3_64bits(bytes, 56)) {
        return refuse(name, GW_ERROR_CORRUPT, "digest does not match", error);
    }
    if (major != WIRE_VERSION_MAJOR) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "%s: preamble: format version %u, expected %u", name, major,
                    WIRE_VERSION_MAJOR);
        return false;
    }
    if (!is_zero_range(bytes + 34, 6) || !is_zero_range(bytes + 48, 8)) {
        return refuse(name, GW_ERROR_CORRUPT, "reserved bytes are not zero", error);
    }
    if (role < WIRE_ROLE_CONTROL || role > WIRE_ROLE_PROBE) {
        return refuse(name, GW_ERROR_REFUSED, "unknown role", error);
    }
    if (index >= WIRE_MAX_CHANNELS || (role != WIRE_ROLE_PAGE && index != 0)) {
        return refuse(name, GW_ERROR_LIMIT, "index out of range", error);
    }
    if (wire_load_u16(bytes + 32) != sender) {
        return refuse(name, GW_ERROR_REFUSED, "wrong direction", error);
    }
    preamble->identity.role = (enum wire_role)role;
    preamble->identity.index = (uint16_t)index;
    memcpy(preamble->identity.migration_id, bytes + 16, WIRE_ID_BYTES);
    preamble->minor = wire_load_u16(bytes + 10);
    preamble->seed = digest;
    return true;
}
