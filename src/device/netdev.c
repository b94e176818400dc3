/* SPDX-License-Identifier: MIT */
/*
 * Chooses a network back end by its specification; and the one that goes nowhere.
 */
#include <errno.h>
#include <string.h>

#include "device/netdev_internal.h"

/* ---- none ---- */

static ssize_t none_send(struct netdev *net, const struct iovec *iov, unsigned n_iov)
{
    size_t len = 0;
    for (unsigned i = 0; i < n_iov; i++)
        len += iov[i].iov_len;
    return (ssize_t)len;
}

static ssize_t none_receive(struct netdev *net, const struct iovec *iov, unsigned n_iov)
{
    return -EAGAIN;
}

static void none_want(struct netdev *net, bool is_wanted)
{
}

static void none_free(struct netdev *net)
{
    g_free(net);
}

static const struct netdev_ops none_ops = {
    .kind = "none",
    .send = none_send,
    .receive = none_receive,
    .want_readable = none_want,
    .want_writable = none_want,
    .free = none_free,
};

static struct netdev *none_open(const char *options, struct io_loop *loop, GError **error)
{
    struct netdev *net = g_new0(struct netdev, 1);
    net->ops = &none_ops;
    return net;
}

/* ---- all ---- */

static const struct {
    const char *name;
    struct netdev *(*open)(const char *options, struct io_loop *loop, GError **error);
} kinds[] = {
    {"tap", netdev_tap_open},
    {"user", netdev_user_open},
    {"none", none_open},
};

struct netdev *netdev_open(const char *spec, struct io_loop *loop, GError **error)
{
    const char *comma = strchr(spec, ',');
    size_t name_len = comma ? (size_t)(comma - spec) : strlen(spec);
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (strlen(kinds[i].name) == name_len && memcmp(kinds[i].name, spec, name_len) == 0)
            return kinds[i].open(comma ? comma + 1 : "", loop, error);
    g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                "network back end \"%s\" is none of tap, user, none", spec);
    return NULL;
}
