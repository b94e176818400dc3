/* SPDX-License-Identifier: MIT */
/*
 * The other end of a character back end.
 */
#include "peer.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fdio.h"

void peer_await_connected(struct rig *rig, struct chardev *chardev, bool is_connected)
{
    uint64_t deadline_ns = clock_mono_ns() + RIG_GIVE_UP;
    while (chardev_is_connected(chardev) != is_connected) {
        assert_true(clock_mono_ns() < deadline_ns);
        rig_settle(rig);
    }
}

int peer_connect(struct rig *rig, struct chardev *chardev)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_strlcpy(address.sun_path, chardev_path(chardev), sizeof address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    peer_await_connected(rig, chardev, true);
    return fd;
}

void peer_send(int fd, const void *bytes, size_t len)
{
    assert_true(fd_write_full(fd, bytes, len));
}

size_t peer_read(int fd, void *to, size_t max)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&entry, 1, (int)(RIG_GIVE_UP / NS_PER_MS)), 1);
    ssize_t n = read(fd, to, max);
    if (n < 0)
        assert_int_equal(errno, ECONNRESET);
    return n < 0 ? 0 : (size_t)n;
}

void peer_expect(int fd, const void *bytes, size_t len)
{
    g_autofree uint8_t *got = g_malloc(len);
    for (size_t done = 0; done < len;) {
        size_t n = peer_read(fd, got + done, len - done);
        assert_int_not_equal(n, 0);
        done += n;
    }
    assert_memory_equal(got, bytes, len);
}
