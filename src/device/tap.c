/* SPDX-License-Identifier: MIT */
/*
 * TAP back end.
 *
 * Model: Linux tun(4), one queue, frames with the 12-byte virtio header where the kernel has it,
 * so that checksums and segmentation are left to whoever can do them best. Frames wait in the
 * kernel's queue of the interface until the guest takes them.
 *
 * Ready: an interface gets its carrier when we attach, but the kernel tells the bridge behind it
 * later, up to a second, and until then the bridge drops all that comes from here: a guest that
 * arrived by a move would be neither announced nor heard.
 *
 * Locks: everything that changes is in the kernel; the sources run with the client's lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/virtio_net.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "device/netdev_internal.h"

#define TUN_DEVICE "/dev/net/tun"

struct tap {
    struct netdev net;
    /* fixed after construction */
    struct io_loop *loop;
    int fd;
    /* fixed after attach */
    struct io_source *readable, *writable;
};

static void tap_readable(struct device *dev, void *opaque, unsigned poll_events)
{
    struct tap *tap = opaque;
    tap->net.client.readable(tap->net.client.opaque);
}

static void tap_writable(struct device *dev, void *opaque, unsigned poll_events)
{
    struct tap *tap = opaque;
    io_source_enable(tap->writable, false);
    tap->net.client.writable(tap->net.client.opaque);
}

static void tap_attach(struct netdev *net)
{
    struct tap *tap = (struct tap *)net;
    struct device *dev = net->client.dev;
    tap->readable = io_source_new(tap->loop, dev, "tap-rx", tap->fd, POLLIN, tap_readable, tap);
    tap->writable = io_source_new(tap->loop, dev, "tap-tx", tap->fd, POLLOUT, tap_writable, tap);
}

static ssize_t tap_send(struct netdev *net, const struct iovec *iov, unsigned n_iov)
{
    struct tap *tap = (struct tap *)net;
    ssize_t n;
    do {
        n = writev(tap->fd, iov, (int)n_iov);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t tap_receive(struct netdev *net, const struct iovec *iov, unsigned n_iov)
{
    struct tap *tap = (struct tap *)net;
    ssize_t n;
    do {
        n = readv(tap->fd, iov, (int)n_iov);
    } while (n < 0 && errno == EINTR);
    if (n >= 0 || errno == EAGAIN)
        return n < 0 ? -EAGAIN : n;
    int code = errno;
    /* The interface is gone: its descriptor would be ready for ever. */
    if (code == EBADFD || code == EBADF || code == ENODEV)
        io_source_enable(tap->readable, false);
    return -code;
}

static void tap_want_readable(struct netdev *net, bool is_wanted)
{
    io_source_enable(((struct tap *)net)->readable, is_wanted);
}

static void tap_want_writable(struct netdev *net, bool is_wanted)
{
    io_source_enable(((struct tap *)net)->writable, is_wanted);
}

static void tap_set_rx_offloads(struct netdev *net, unsigned offloads)
{
    struct tap *tap = (struct tap *)net;
    static const struct {
        unsigned netdev, tun;
    } bits[] = {
        {NETDEV_RX_CSUM, TUN_F_CSUM},
        {NETDEV_RX_TSO4, TUN_F_TSO4},
        {NETDEV_RX_TSO6, TUN_F_TSO6},
        {NETDEV_RX_ECN, TUN_F_TSO_ECN},
    };
    unsigned long flags = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(bits); i++)
        if (offloads & bits[i].netdev)
            flags |= bits[i].tun;
    /* A kernel that refuses goes on delivering plain frames, which every guest takes. */
    if (net->has_vnet_header && ioctl(tap->fd, TUNSETOFFLOAD, flags) < 0)
        ioctl(tap->fd, TUNSETOFFLOAD, 0ul);
}

/* Up, and the carrier not yet told to who waits for it. */
static bool is_carrier_pending(int query_fd, struct ifreq *request)
{
    return ioctl(query_fd, SIOCGIFFLAGS, request) == 0 && (request->ifr_flags & IFF_UP) &&
           !(request->ifr_flags & IFF_RUNNING);
}

static void tap_wait_ready(struct netdev *net, uint64_t deadline_ns)
{
    struct tap *tap = (struct tap *)net;
    struct sockaddr_nl links = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    struct ifreq request = {0};
    gw_autofd int events =
        socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    gw_autofd int query = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    /* Without them we do not learn it, and go on as if it were so. */
    if (events < 0 || query < 0 || ioctl(tap->fd, TUNGETIFF, &request) < 0 ||
        bind(events, (struct sockaddr *)&links, sizeof links) < 0)
        return;
    while (is_carrier_pending(query, &request)) {
        struct pollfd poll_fd = {.fd = events, .events = POLLIN};
        uint64_t now_ns = clock_mono_ns();
        uint8_t message[4096];

        if (now_ns >= deadline_ns ||
            poll(&poll_fd, 1, (int)((deadline_ns - now_ns) / NS_PER_MS) + 1) < 0)
            return;
        while (recv(events, message, sizeof message, 0) > 0)
            continue;
    }
}

static void tap_free(struct netdev *net)
{
    struct tap *tap = (struct tap *)net;
    io_source_free(tap->readable);
    io_source_free(tap->writable);
    gw_clear_fd(&tap->fd);
    g_free(tap);
}

static const struct netdev_ops tap_ops = {
    .kind = "tap",
    .is_free_threaded = true,
    .send = tap_send,
    .receive = tap_receive,
    .want_readable = tap_want_readable,
    .want_writable = tap_want_writable,
    .set_rx_offloads = tap_set_rx_offloads,
    .wait_ready = tap_wait_ready,
    .attach = tap_attach,
    .free = tap_free,
};

/* ---- opening ---- */

static bool fail_errno(GError **error, const char *what, const char *name)
{
    int code = errno;
    g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_HOST, "TAP %s: %s: %s", name, what,
                g_strerror(code));
    return false;
}

static int open_interface(const char *name, GError **error)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    if (strlen(name) >= sizeof request.ifr_name) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "TAP name \"%s\" is longer than %zu bytes", name, sizeof request.ifr_name - 1);
        return -1;
    }
    memcpy(request.ifr_name, name, strlen(name));
    gw_autofd int fd = open(TUN_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        fail_errno(error, "opening " TUN_DEVICE, name);
        return -1;
    }
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        fail_errno(error, "attaching", name);
        return -1;
    }
    return gw_steal_fd(&fd);
}

static int take_inherited(const char *number, GError **error)
{
    char *end;
    unsigned long fd = strtoul(number, &end, 10);
    if (*number == '\0' || *end != '\0' || fd > INT_MAX || fcntl((int)fd, F_GETFD) < 0) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "TAP descriptor \"%s\" is not open", number);
        return -1;
    }
    return (int)fd;
}

/* Settles the frame format with the kernel. */
static bool configure(struct tap *tap, const char *name, GError **error)
{
    struct ifreq request = {0};
    int header_bytes = sizeof(struct virtio_net_hdr_v1);
    if (ioctl(tap->fd, TUNGETIFF, &request) < 0)
        return fail_errno(error, "not a TAP descriptor", name);
    if (!(request.ifr_flags & IFF_TAP) || !(request.ifr_flags & IFF_NO_PI)) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "TAP %s: not in the mode IFF_TAP with IFF_NO_PI", name);
        return false;
    }
    tap->net.has_vnet_header = request.ifr_flags & IFF_VNET_HDR;
    if (tap->net.has_vnet_header && ioctl(tap->fd, TUNSETVNETHDRSZ, &header_bytes) < 0)
        return fail_errno(error, "setting the header size", name);
    if (!fd_set_nonblocking(tap->fd, true) || !fd_set_cloexec(tap->fd, true))
        return fail_errno(error, "making non-blocking", name);
    tap_set_rx_offloads(&tap->net, 0);
    return true;
}

struct netdev *netdev_tap_open(const char *options, struct io_loop *loop, GError **error)
{
    g_auto(GStrv) words = g_strsplit(options, ",", -1);
    const char *name = NULL, *number = NULL;
    for (char **word = words; *word; word++) {
        if (g_str_has_prefix(*word, "ifname=")) {
            name = *word + strlen("ifname=");
        } else if (g_str_has_prefix(*word, "fd=")) {
            number = *word + strlen("fd=");
        } else if (strcmp(*word, "script=no") != 0 && strcmp(*word, "downscript=no") != 0) {
            g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                        "TAP: unknown option \"%s\"", *word);
            return NULL;
        }
    }
    if (!name == !number) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "TAP: give either ifname=NAME or fd=NUMBER");
        return NULL;
    }
    int fd = name ? open_interface(name, error) : take_inherited(number, error);
    if (fd < 0)
        return NULL;
    struct tap *tap = g_new0(struct tap, 1);
    tap->net.ops = &tap_ops;
    tap->loop = loop;
    tap->fd = fd;
    if (!configure(tap, name ? name : number, error)) {
        tap_free(&tap->net);
        return NULL;
    }
    return &tap->net;
}
