/* SPDX-License-Identifier: MIT */
/*
 * The source's side of sharing RAM with a destination under the same kernel.
 *
 * Order: whether it can be offered is settled when the control channel is open and nothing was said
 * yet. RAM_SHARE carries the key and, for each block, a descriptor that only reads. If the
 * destination proves that it has them (RAM_SHARED) the dirty log ends and no page is ever sent: the
 * rounds go on, empty. COMMIT carries descriptors that write. From then on nothing here may touch
 * the guest's memory until the key is revoked; when the destination has it, fresh empty memory
 * takes its place.
 */
#include "migrate/source.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "channel/descriptors.h"
#include "memory/share.h"

/* Duplicates of descriptors for a record, which takes them. */
struct fd_list {
    int fds[CHANNEL_MAX_DESCRIPTORS];
    size_t n;
};

static void fd_list_clear(struct fd_list *list)
{
    while (list->n > 0)
        close(list->fds[--list->n]);
}

static bool fd_list_add(struct fd_list *list, int fd, GError **error)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (copy < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot duplicate a descriptor: %s",
                    g_strerror(errno));
        return false;
    }
    list->fds[list->n++] = copy;
    return true;
}

/* ---- the offer ---------------------------------------------------------------------------------
 */

static bool is_channel_good(struct gw_source *source, struct wire_stream *stream, GError **error)
{
    struct gw_channel *channel = wire_stream_channel(stream);
    uid_t user;

    if (!channel_can_pass_descriptors(channel)) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "descriptors travel through UNIX sockets only, not through %s",
                    gw_channel_name(channel));
        return false;
    }
    /* Who is asked to share with anybody was asked by its user; by itself we trust our own. */
    if (source->params.ram != GW_RAM_SHARE &&
        (!channel_peer_user(channel, &user) || user != geteuid())) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_REFUSED,
                            "the destination belongs to another user");
        return false;
    }
    return true;
}

static bool prepare_blocks(struct gw_source *source, GError **error)
{
    struct gw_memory *memory = source->vm.memory;

    if (gw_memory_n_blocks(memory) > WIRE_MAX_RAM_BLOCKS) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "there are too many RAM blocks");
        return false;
    }
    for (uint32_t i = 0; i < gw_memory_n_blocks(memory); i++) {
        struct gw_ram_block *block = gw_memory_block(memory, i);

        if (!memory_share_is_possible(block, error) || memory_share_reader(block, error) < 0 ||
            !memory_share_prepare(block, false, error))
            return false;
    }
    return true;
}

static void settle_blocks(struct gw_source *source)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(source->vm.memory); i++)
        memory_share_settle(gw_memory_block(source->vm.memory, i));
}

bool source_share_prepare(struct gw_source *source, struct wire_stream *stream, GError **error)
{
    struct source_share *share = &source->share;
    g_autoptr(GError) why = NULL;

    if (source->params.ram == GW_RAM_COPY)
        return true;
    if (is_channel_good(source, stream, &why) && prepare_blocks(source, &why))
        share->key = share_key_new(&share->key_fd, &why);
    if (share->key)
        return true;
    settle_blocks(source);
    if (source->params.ram == GW_RAM_SHARE)
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "RAM cannot be shared: %s", why->message);
    return source->params.ram != GW_RAM_SHARE;
}

bool source_share_offer(struct gw_source *source, GError **error)
{
    struct source_share *share = &source->share;
    struct gw_memory *memory = source->vm.memory;
    uint32_t n_blocks = gw_memory_n_blocks(memory);
    struct wire_ram_share record = {.n_blocks = n_blocks};
    struct fd_list list = {0};
    bool is_ok;

    if (!share->key)
        return true;
    record.blocks = g_new0(struct wire_share_block, n_blocks + 1);
    is_ok = fd_list_add(&list, share->key_fd, error);
    for (uint32_t i = 0; i < n_blocks && is_ok; i++) {
        struct gw_ram_block *block = gw_memory_block(memory, i);

        record.blocks[i] =
            (struct wire_share_block){.index = i, .offset = memory_share_offset(block)};
        is_ok = fd_list_add(&list, memory_share_reader(block, NULL), error);
    }
    gw_clear_fd(&share->key_fd);
    if (!is_ok) {
        fd_list_clear(&list);
        g_free(record.blocks);
        return false;
    }
    link_post_with_descriptors(source->control, WIRE_RAM_SHARE, &record, list.fds, list.n);
    return true;
}

/* ---- the answer --------------------------------------------------------------------------------
 */

void source_share_on_answer(struct gw_source *source, struct mail *mail)
{
    const struct wire_ram_shared *answer = &mail->message.ram_shared;
    struct source_share *share = &source->share;

    if (!share->key || share->is_answered || source->is_verdict_good ||
        source_state(source) != GW_SOURCE_HANDSHAKE) {
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                    "the destination answers an offer of RAM that was not made");
        return;
    }
    share->is_answered = true;
    share->is_agreed = answer->is_shared;
    share->why_not = g_strdup(answer->reason);
    /* PEER: a proof, not a claim. */
    if (answer->is_shared && (answer->proof_low != share->key->proof_low ||
                              answer->proof_high != share->key->proof_high))
        source_fail(source, SOURCE_EV_LINK_LOST, GW_SIDE_DESTINATION, GW_ERROR_CORRUPT,
                    "the destination says that it shares memory, and cannot prove it");
}

bool source_share_decide(struct gw_source *source)
{
    struct source_share *share = &source->share;
    g_autofree char *text = NULL;

    if (share->is_agreed) {
        /* Every page is there already, and always will be. */
        source_log_stop(source);
        gw_page_set_clear(source->pending);
        pthread_mutex_lock(&source->lock);
        source->status.is_ram_shared = true;
        pthread_mutex_unlock(&source->lock);
        return true;
    }
    source_share_end(source);
    if (source->params.ram != GW_RAM_SHARE)
        return true;
    text =
        g_strdup_printf("RAM cannot be shared: %s",
                        share->is_answered ? share->why_not : "the destination does not know how");
    source_fail(source, SOURCE_EV_FAILED, GW_SIDE_SOURCE, GW_ERROR_REFUSED, text);
    return false;
}

/* ---- the handover ------------------------------------------------------------------------------
 */

void source_share_commit(struct gw_source *source, const struct wire_commit *commit)
{
    struct gw_memory *memory = source->vm.memory;
    struct fd_list list = {0};
    g_autoptr(GError) error = NULL;

    for (uint32_t i = 0; source->share.is_agreed && i < gw_memory_n_blocks(memory); i++) {
        struct gw_ram_block *block = gw_memory_block(memory, i);

        memory_share_lend(block, true);
        /* Out of descriptors: a COMMIT that lacks some is no COMMIT, and the destination says so.
         */
        if (!error)
            fd_list_add(&list, block->fd, &error);
    }
    link_post_with_descriptors(source->control, WIRE_COMMIT, commit, list.fds, list.n);
}

bool source_share_ask(struct gw_source *source)
{
    if (!source->share.is_agreed)
        return false;
    switch (share_key_revoke(source->share.key)) {
    case SHARE_TAKEN:
        source_dispatch(source, SOURCE_EV_RUNNING);
        return true;
    case SHARE_REVOKED:
        engine_failure_set(&source->failure, GW_SIDE_DESTINATION, GW_ERROR_LINK_LOST,
                           "the destination was gone before it had taken the guest");
        source_dispatch(source, SOURCE_EV_NEVER);
        return true;
    case SHARE_OPEN:
        break;
    }
    return false;
}

void source_share_release(struct gw_source *source)
{
    if (!source->share.is_agreed)
        return;
    for (uint32_t i = 0; i < gw_memory_n_blocks(source->vm.memory); i++)
        memory_share_drop(gw_memory_block(source->vm.memory, i));
    source->share.is_agreed = false;
    source_share_end(source);
}

void source_share_end(struct gw_source *source)
{
    struct source_share *share = &source->share;

    if (!share->key)
        return;
    /* Nobody else will have the guest: also when the destination is still there. */
    share_key_revoke(share->key);
    if (share->is_agreed)
        for (uint32_t i = 0; i < gw_memory_n_blocks(source->vm.memory); i++)
            memory_share_lend(gw_memory_block(source->vm.memory, i), false);
    settle_blocks(source);
    gw_clear_fd(&share->key_fd);
    g_clear_pointer(&share->key, share_key_close);
    share->is_agreed = false;
}

void source_share_free(struct gw_source *source)
{
    struct source_share *share = &source->share;

    /* In doubt the guest stays stopped, and who has it is for others to find out. A source that has
     * ended has settled; what the blocks keep by now is the next one's. */
    if (share->key)
        settle_blocks(source);
    gw_clear_fd(&share->key_fd);
    g_clear_pointer(&share->key, share_key_close);
    g_clear_pointer(&share->why_not, g_free);
}
