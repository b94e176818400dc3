/* SPDX-License-Identifier: MIT */
/*
 * The other end of a character back end, for tests: a descriptor with reads that wait.
 */
#ifndef TEST_DEVICE_PEER_H
#define TEST_DEVICE_PEER_H

#include "rig.h"

#include "device/chardev.h"

/* Connects to a UNIX socket and waits until the back end has noticed. */
int peer_connect(struct rig *rig, struct chardev *chardev);
void peer_await_connected(struct rig *rig, struct chardev *chardev, bool is_connected);
void peer_send(int fd, const void *bytes, size_t len);
/* Reads exactly len bytes; fails the test at the deadline or the end of the stream. */
void peer_expect(int fd, const void *bytes, size_t len);
size_t peer_read(int fd, void *to, size_t max); /* waits; 0 at the end */

#endif
