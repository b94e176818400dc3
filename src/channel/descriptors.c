/* SPDX-License-Identifier: MIT */
/* File descriptors beside the bytes of a channel. */
#include "channel/channel_impl.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

bool channel_can_pass_descriptors(const struct gw_channel *channel)
{
    return channel->core->can_pass_descriptors;
}

bool channel_peer_user(const struct gw_channel *channel, uid_t *user)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    if (!channel->core->can_pass_descriptors ||
        getsockopt(channel->core->socket_fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
        len != sizeof(peer)) {
        return false;
    }
    *user = peer.uid;
    return true;
}

void channel_attach_descriptors(struct gw_channel *channel, const int *fds, size_t n)
{
    struct channel_core *core = channel->core;

    g_assert(n <= CHANNEL_MAX_DESCRIPTORS && (n == 0 || core->can_pass_descriptors));
    if (n > 0) {
        memcpy(core->attached, fds, n * sizeof(*fds));
    }
    core->n_attached = n;
}

void channel_accept_descriptors(struct gw_channel *channel)
{
    channel->core->wants_descriptors = channel->core->can_pass_descriptors;
}

bool channel_take_descriptors(struct gw_channel *channel, int *fds, size_t n)
{
    struct channel_core *core = channel->core;
    gw_lock_guard(&core->received_lock);

    if (n > core->n_received) {
        return false;
    }
    memcpy(fds, core->received, n * sizeof(*fds));
    core->n_received -= n;
    memmove(core->received, core->received + n, core->n_received * sizeof(*fds));
    return true;
}

/* Keeps one that came; false: too many wait. */
static bool keep(struct channel_core *core, int fd)
{
    gw_lock_guard(&core->received_lock);

    if (core->n_received >= CHANNEL_MAX_DESCRIPTORS) {
        return false;
    }
    core->received[core->n_received++] = fd;
    return true;
}

/* PEER: any control messages may have come; what is no descriptor was not asked for. */
static bool keep_all(struct channel_core *core, struct msghdr *message)
{
    bool is_ok = true;

    for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
        if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t i = 0; i < (at->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(at) + i * sizeof(int), sizeof(fd));
            if (!keep(core, fd)) {
                close(fd);
                is_ok = false;
            }
        }
    }
    return is_ok;
}

ssize_t channel_receive_message(struct channel_core *core, int fd, struct msghdr *message,
                                GError **error)
{
    union {
        char bytes[CMSG_SPACE(CHANNEL_MAX_DESCRIPTORS * sizeof(int))];
        struct cmsghdr aligned;
    } control;

    if (!core->wants_descriptors) {
        return recvmsg(fd, message, MSG_DONTWAIT);
    }
    message->msg_control = control.bytes;
    message->msg_controllen = sizeof(control.bytes);
    ssize_t got = recvmsg(fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got > 0 && !keep_all(core, message)) {
        g_set_error(error, GW_ERROR, GW_ERROR_LIMIT, "%s: more than %u descriptors came",
                    core->name, CHANNEL_MAX_DESCRIPTORS);
        return -2;
    }
    return got;
}

ssize_t channel_send_message(struct channel_core *core, int fd, struct msghdr *message)
{
    union {
        char bytes[CMSG_SPACE(CHANNEL_MAX_DESCRIPTORS * sizeof(int))];
        struct cmsghdr aligned;
    } control;

    if (core->n_attached > 0) {
        size_t n_bytes = core->n_attached * sizeof(int);
        memset(&control, 0, sizeof(control));
        message->msg_control = control.bytes;
        message->msg_controllen = CMSG_SPACE(n_bytes);
        struct cmsghdr *header = CMSG_FIRSTHDR(message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(n_bytes);
        memcpy(CMSG_DATA(header), core->attached, n_bytes);
    }
    ssize_t put = sendmsg(fd, message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put > 0) {
        core->n_attached = 0;
    }
    return put;
}

void channel_drop_descriptors(struct channel_core *core)
{
    for (size_t i = 0; i < core->n_received; i++) {
        close(core->received[i]);
    }
    core->n_received = 0;
}
