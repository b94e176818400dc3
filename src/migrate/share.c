/* SPDX-License-Identifier: MIT */
/* The key of a shared migration: one page that both ends map, and that says who has the guest. */
#include "migrate/share.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "godwit/error.h"
#include "memory/share.h"
#include "wire/wire.h"

#define KEY_BYTES GW_PAGE_SIZE

static struct share_key *map_key(int fd, GError **error)
{
    void *at = mmap(NULL, KEY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (at == MAP_FAILED) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot map the key: %s", g_strerror(errno));
        return NULL;
    }
    return at;
}

struct share_key *share_key_new(int *fd, GError **error)
{
    gw_autofd int made = memfd_create("godwit-key", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    uint8_t random[WIRE_ID_BYTES];
    struct share_key *key;

    if (made < 0 || ftruncate(made, (off_t)KEY_BYTES) < 0 ||
        fcntl(made, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot create the key: %s", g_strerror(errno));
        return NULL;
    }
    key = map_key(made, error);
    if (!key)
        return NULL;
    wire_new_migration_id(random);
    memcpy(&key->proof_low, random, sizeof key->proof_low);
    memcpy(&key->proof_high, random + sizeof key->proof_low, sizeof key->proof_high);
    __atomic_store_n(&key->owner, SHARE_OPEN, __ATOMIC_SEQ_CST);
    *fd = gw_steal_fd(&made);
    return key;
}

struct share_key *share_key_open(int fd, GError **error)
{
    gw_autofd int owned = fd;
    struct memory_identity identity;

    if (!memory_share_check(owned, 0, KEY_BYTES, &identity, error)) {
        g_prefix_error(error, "the key: ");
        return NULL;
    }
    return map_key(owned, error);
}

void share_key_close(struct share_key *key)
{
    if (key)
        munmap(key, KEY_BYTES);
}

static bool change_owner(struct share_key *key, enum share_owner to, uint32_t *found)
{
    *found = SHARE_OPEN;
    return __atomic_compare_exchange_n(&key->owner, found, to, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

bool share_key_take(struct share_key *key)
{
    uint32_t found;

    return change_owner(key, SHARE_TAKEN, &found);
}

enum share_owner share_key_revoke(struct share_key *key)
{
    uint32_t found;

    if (change_owner(key, SHARE_REVOKED, &found) || found == SHARE_REVOKED)
        return SHARE_REVOKED;
    return found == SHARE_TAKEN ? SHARE_TAKEN : SHARE_OPEN;
}
