/* SPDX-License-Identifier: MIT */
/*
 * The tests' network back end: see cable.h.
 */
#include "cable.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static void cable_readable(struct device *dev, void *opaque, unsigned poll_events)
{
    struct cable *cable = opaque;
    cable->net.client.readable(cable->net.client.opaque);
}

static void cable_writable(struct device *dev, void *opaque, unsigned poll_events)
{
    struct cable *cable = opaque;
    cable->net.client.writable(cable->net.client.opaque);
}

static void cable_attach(struct netdev *net)
{
    struct cable *cable = (struct cable *)net;
    struct device *dev = net->client.dev;
    cable->rx = io_source_new(cable->loop, dev, "rx", cable->fd, POLLIN, cable_readable, cable);
    cable->tx = io_source_new(cable->loop, dev, "tx", cable->fd, POLLOUT, cable_writable, cable);
}

static bool fail_once(struct cable *cable, ssize_t *result)
{
    if (!cable->failure)
        return false;
    *result = -cable->failure;
    cable->failure = 0;
    cable->n_failed++;
    return true;
}

static ssize_t cable_send(struct netdev *net, const struct iovec *iov, unsigned n_iov)
{
    struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n_iov};
    ssize_t n;

    if (fail_once((struct cable *)net, &n))
        return n;
    n = sendmsg(((struct cable *)net)->fd, &message, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

static ssize_t cable_receive(struct netdev *net, const struct iovec *iov, unsigned n_iov)
{
    struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n_iov};
    ssize_t n;

    if (fail_once((struct cable *)net, &n))
        return n;
    n = recvmsg(((struct cable *)net)->fd, &message, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

static void cable_want_readable(struct netdev *net, bool is_wanted)
{
    io_source_enable(((struct cable *)net)->rx, is_wanted);
}

static void cable_want_writable(struct netdev *net, bool is_wanted)
{
    io_source_enable(((struct cable *)net)->tx, is_wanted);
}

static void cable_set_rx_offloads(struct netdev *net, unsigned offloads)
{
    ((struct cable *)net)->offloads = offloads;
}

static void cable_free(struct netdev *net)
{
    struct cable *cable = (struct cable *)net;
    io_source_free(cable->rx);
    io_source_free(cable->tx);
    close(cable->fd);
    g_free(cable);
}

static const struct netdev_ops cable_ops = {
    .kind = "cable",
    .is_free_threaded = true,
    .send = cable_send,
    .receive = cable_receive,
    .want_readable = cable_want_readable,
    .want_writable = cable_want_writable,
    .set_rx_offloads = cable_set_rx_offloads,
    .attach = cable_attach,
    .free = cable_free,
};

static struct cable *make(struct rig *rig, bool has_vnet_header, int fd)
{
    struct cable *cable = g_new0(struct cable, 1);

    cable->net.ops = &cable_ops;
    cable->net.has_vnet_header = has_vnet_header;
    cable->loop = rig->loop;
    cable->fd = fd;
    return cable;
}

struct cable *cable_new(struct rig *rig, bool has_vnet_header, int *peer)
{
    struct timeval deadline = {.tv_sec = RIG_DEADLINE_S};
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    setsockopt(fds[1], SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline));
    *peer = fds[1];
    return make(rig, has_vnet_header, fds[0]);
}

struct cable *cable_dup(struct rig *rig, const struct cable *cable)
{
    int fd = dup(cable->fd);

    assert_true(fd >= 0);
    return make(rig, cable->net.has_vnet_header, fd);
}
