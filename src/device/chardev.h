/* SPDX-License-Identifier: MIT */
/*
 * Character back ends: where a serial port's or console's bytes go to and come from.
 *
 * Specifications (chardev_open):
 *     stdio                the process's terminal, raw; Ctrl-A x asks to quit, Ctrl-A b sends a
 *                          break, Ctrl-A Ctrl-A sends Ctrl-A
 *     file:PATH[,append]   output only; truncated unless append
 *     unix:PATH            a socket that listens; one peer at a time, others wait
 *     pty                  a pseudo-terminal (its name: chardev_path)
 *     null                 drops output, has no input
 *
 * Output goes through a bounded buffer that the I/O loop drains, so it never blocks a vCPU. While a
 * reader is there but slow, the buffer fills up and chardev_write takes less than offered; the
 * device then lets its guest wait. Without a reader (null, nobody connected) bytes are dropped.
 *
 * Threads: chardev_write and chardev_want_input from any thread, with the client's lock held.
 * Callbacks run on the loop's thread with the client's lock held.
 */
#ifndef GODWIT_DEVICE_CHARDEV_H
#define GODWIT_DEVICE_CHARDEV_H

#include "device/device.h"

#define CHARDEV_BUFFER_BYTES (64u << 10)

struct chardev;

struct chardev_client {
    struct device *dev; /* its lock is held around the callbacks */
    /* How many bytes the device can take now; 0 switches input off until chardev_want_input. */
    size_t (*input_room)(void *opaque);
    void (*input)(void *opaque, const uint8_t *bytes, size_t len); /* at most input_room() */
    void (*input_break)(void *opaque);                             /* may be NULL */
    /* chardev_write took less than offered before; now there is room. */
    void (*writable)(void *opaque);
    void (*connected)(void *opaque, bool is_connected); /* a reader came or went; may be NULL */
    void *opaque;
};

/* escape: the user asked to quit the machine (stdio only); called on the loop's thread without
 * locks; may be NULL. */
struct chardev *chardev_open(const char *spec, struct io_loop *loop, void (*escape)(void *opaque),
                             void *escape_opaque, GError **error);
/* Gives the terminal back its modes; what is buffered is written if that takes no more than a
 * moment. Not with the client's lock held. */
void chardev_free(struct chardev *chardev);
/* Whose device this is. Once, before the client is used by anybody; input is off. */
void chardev_set_client(struct chardev *chardev, const struct chardev_client *client);
/* Ends the client's callbacks: when it returns none runs and none will. For the client's free. */
void chardev_clear_client(struct chardev *chardev);
/* Returns how many bytes were taken (or dropped for lack of a reader). If fewer than len,
 * writable() will be called. */
size_t chardev_write(struct chardev *chardev, const uint8_t *bytes, size_t len);
/* Input is delivered while it is wanted; a device wants none while it is full or stopped. */
void chardev_want_input(struct chardev *chardev, bool is_wanted);
bool chardev_is_connected(struct chardev *chardev);
const char *chardev_path(const struct chardev *chardev); /* pty, unix, file; else NULL */

#endif
