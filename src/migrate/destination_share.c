/* SPDX-License-Identifier: MIT */
/*
 * The destination's side of sharing RAM with a source under the same kernel.
 *
 * Order: RAM_SHARE comes before RAM_MAP; with the verdict the source's memory is mapped in place of
 * our own, by descriptors that cannot write. State is loaded while this is so: nothing that runs
 * here can touch the guest. COMMIT brings descriptors that write; only when all of them are mapped
 * and the key is taken does COMMIT count as read. Whatever fails before that disowns, and our own
 * memory comes back.
 *
 * PEER: a source may send any descriptors, or none. Each is checked to be memory that cannot be
 * taken away under us, and those of COMMIT to be the memory that was mapped before.
 */
#include "migrate/destination.h"

#include <unistd.h>

#include "base/cleanup.h"
#include "channel/descriptors.h"
#include "memory/share.h"

static struct gw_channel *channel_of(struct gw_destination *destination)
{
    return wire_stream_channel(link_stream(destination->control));
}

static struct gw_ram_block *block_at(struct gw_destination *destination, uint32_t i)
{
    return gw_memory_block(destination->vm.memory, destination->blocks[i]->index);
}

static void close_offer(struct destination_share *share)
{
    for (uint32_t i = 0; i < share->n_fds; i++)
        gw_clear_fd(&share->fds[i]);
    share->n_fds = 0;
}

void destination_on_ram_share(struct gw_destination *destination, struct mail *mail)
{
    struct destination_share *share = &destination->share;
    const struct wire_ram_share *offer = &mail->message.ram_share;
    uint32_t n_fds = offer->n_blocks + 1;

    if (share->is_offered || destination->has_ram_map ||
        destination_state(destination) != GW_DESTINATION_HANDSHAKE) {
        destination_fail(destination, DESTINATION_EV_LINK_LOST, GW_SIDE_SOURCE, GW_ERROR_CORRUPT,
                         "the source offered its RAM out of order");
        return;
    }
    share->is_offered = true;
    share->n_blocks = offer->n_blocks;
    for (uint32_t i = 0; i < offer->n_blocks; i++)
        share->offsets[i] = offer->blocks[i].offset;
    if (channel_take_descriptors(channel_of(destination), share->fds, n_fds))
        share->n_fds = n_fds;
}

/* ---- accepting ---------------------------------------------------------------------------------
 */

static bool check_offer(struct gw_destination *destination, GError **error)
{
    struct destination_share *share = &destination->share;
    const char *why = NULL;

    if (!share->n_fds)
        why = "no descriptors came, so there is no common kernel";
    else if (share->n_blocks != destination->n_blocks)
        why = "descriptors came for another number of RAM blocks";
    if (why) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_REFUSED, why);
        return false;
    }
    share->key = share_key_open(gw_steal_fd(&share->fds[0]), error);
    if (!share->key)
        return false;
    for (uint32_t i = 0; i < share->n_blocks; i++) {
        struct gw_ram_block *block = block_at(destination, i);

        if (!memory_share_check(share->fds[1 + i], share->offsets[i], block->size_bytes,
                                &share->identities[i], error)) {
            g_prefix_error(error, "RAM block %s: ", block->name);
            return false;
        }
        if (!memory_share_is_possible(block, error) || !memory_share_prepare(block, true, error))
            return false;
    }
    return true;
}

static bool view_blocks(struct gw_destination *destination, GError **error)
{
    struct destination_share *share = &destination->share;

    for (; share->n_viewed < share->n_blocks; share->n_viewed++) {
        uint32_t i = share->n_viewed;

        if (!memory_share_view(block_at(destination, i), gw_steal_fd(&share->fds[1 + i]),
                               share->offsets[i], error))
            return false;
    }
    return true;
}

void destination_share_accept(struct gw_destination *destination)
{
    struct destination_share *share = &destination->share;
    g_autoptr(GError) error = NULL;
    struct wire_ram_shared answer = {0};

    /* Not agreed: the source knows already that nothing will come of it. */
    if (!share->is_offered || !(destination->features & (1u << WIRE_FEATURE_RAM_SHARE))) {
        close_offer(share);
        return;
    }
    share->is_shared = check_offer(destination, &error) && view_blocks(destination, &error);
    answer.is_shared = share->is_shared;
    answer.reason = g_strndup(error ? error->message : "", WIRE_MAX_SENTENCE);
    if (share->is_shared) {
        answer.proof_low = share->key->proof_low;
        answer.proof_high = share->key->proof_high;
    } else {
        destination_share_drop(destination);
    }
    close_offer(share);
    link_post(destination->control, WIRE_RAM_SHARED, &answer);
    pthread_mutex_lock(&destination->lock);
    destination->status.is_ram_shared = share->is_shared;
    pthread_mutex_unlock(&destination->lock);
}

/* ---- taking ------------------------------------------------------------------------------------
 */

static bool take_block(struct gw_destination *destination, uint32_t i, int fd, GError **error)
{
    struct destination_share *share = &destination->share;
    struct gw_ram_block *block = block_at(destination, i);
    gw_autofd int owned = fd;
    struct memory_identity identity;

    if (!memory_share_check(owned, share->offsets[i], block->size_bytes, &identity, error)) {
        g_prefix_error(error, "RAM block %s: ", block->name);
        return false;
    }
    if (identity.device != share->identities[i].device ||
        identity.inode != share->identities[i].inode) {
        g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT,
                    "RAM block %s: its descriptor is not that of the memory shown before",
                    block->name);
        return false;
    }
    return memory_share_take(block, gw_steal_fd(&owned), error);
}

bool destination_share_take(struct gw_destination *destination, GError **error)
{
    struct destination_share *share = &destination->share;
    int fds[CHANNEL_MAX_DESCRIPTORS];
    bool is_ok = true;

    if (!share->is_shared)
        return true;
    if (!channel_take_descriptors(channel_of(destination), fds, share->n_blocks)) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_CORRUPT,
                            "COMMIT came without its descriptors");
        return false;
    }
    for (uint32_t i = 0; i < share->n_blocks; i++) {
        if (is_ok)
            is_ok = take_block(destination, i, fds[i], error);
        else
            close(fds[i]);
    }
    if (is_ok && !share_key_take(share->key)) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_LINK_LOST,
                            "the source took the guest back before COMMIT was read");
        is_ok = false;
    }
    return is_ok;
}

void destination_share_keep(struct gw_destination *destination)
{
    struct destination_share *share = &destination->share;

    for (uint32_t i = 0; i < share->n_viewed; i++)
        memory_share_settle(block_at(destination, i));
    share->n_viewed = 0;
    g_clear_pointer(&share->key, share_key_close);
}

void destination_share_drop(struct gw_destination *destination)
{
    struct destination_share *share = &destination->share;

    for (uint32_t i = 0; i < share->n_viewed; i++)
        memory_share_drop(block_at(destination, i));
    share->n_viewed = 0;
    for (uint32_t i = 0; i < destination->n_blocks; i++)
        if (destination->blocks[i])
            memory_share_settle(block_at(destination, i));
    share->is_shared = false;
    close_offer(share);
    g_clear_pointer(&share->key, share_key_close);
}
