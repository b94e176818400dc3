/* SPDX-License-Identifier: MIT */
/*
 * The network back ends that netdev_open chooses from. options: what follows the kind's comma, ""
 * when there is nothing.
 */
#ifndef GODWIT_DEVICE_NETDEV_INTERNAL_H
#define GODWIT_DEVICE_NETDEV_INTERNAL_H

#include "device/netdev.h"

struct netdev *netdev_tap_open(const char *options, struct io_loop *loop, GError **error);
struct netdev *netdev_user_open(const char *options, struct io_loop *loop, GError **error);

#endif
