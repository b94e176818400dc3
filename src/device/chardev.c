/* SPDX-License-Identifier: MIT */
/*
 * Character back ends: the output buffer, its draining, and the delivery of input.
 *
 * Model: the guest side appends to a ring; a short timer on the I/O loop writes it out, so that a
 * guest that polls its console byte by byte wakes the loop a few times per millisecond at most.
 * When the host does not take all, POLLOUT of the descriptor carries on.
 *
 * Threads: everything about descriptors happens on the loop's thread.
 *
 * Locks: client's dev.lock -> buffer_lock -> (loop). self.lock -> buffer_lock. self is the device
 * under whose name and lock the loop runs what does not concern the client, so no vCPU waits for a
 * write to the host. Bells with the client's lock tell the client.
 */
#include "device/chardev.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "device/chardev_host.h"

#define COALESCE_NS      (300 * NS_PER_US)
#define FLUSH_AT_BYTES   2048u
#define LAST_FLUSH_NS    (200 * NS_PER_MS)
#define INPUT_CHUNK      256u
#define ESCAPE_CHARACTER 0x01 /* Ctrl-A */

struct chardev {
    struct device self;
    /* fixed after construction, or after chardev_set_client */
    struct io_loop *loop;
    void (*escape)(void *opaque);
    void *escape_opaque;
    struct chardev_client client;
    struct io_timer *flush_timer;
    struct io_bell *hangup_bell;
    struct io_bell *escape_bell;
    struct io_bell *writable_bell;  /* client's */
    struct io_bell *connected_bell; /* client's */
    struct io_source *arrival;      /* unix: a peer waits; pty: somebody opened it */
    /* owned by the loop's thread (others when it cannot run: open, free) */
    struct chardev_host host;
    bool is_after_escape;
    pthread_mutex_t buffer_lock;
    /* guarded by buffer_lock */
    struct io_source *input;  /* client's; NULL while not connected */
    struct io_source *output; /* NULL while not connected */
    bool is_connected;
    bool wants_input;
    bool has_input_ended; /* end of file: no more input from this peer */
    bool owes_writable;
    uint8_t ring[CHARDEV_BUFFER_BYTES];
    size_t head, n_bytes;
};

static const struct device_ops self_ops = {.type = "chardev"};

/* ---- output ---- */

/* Where the oldest bytes lie in one piece; bounded by what is taken in one turn. */
static size_t peek_locked(struct chardev *chardev, uint8_t *to, size_t max)
{
    size_t n = MIN(MIN(chardev->n_bytes, max), CHARDEV_BUFFER_BYTES - chardev->head);
    memcpy(to, chardev->ring + chardev->head, n);
    return n;
}

static void drop_locked(struct chardev *chardev, size_t n)
{
    chardev->head = (chardev->head + n) % CHARDEV_BUFFER_BYTES;
    chardev->n_bytes -= n;
}

/* Writes until the ring is empty or the host takes no more. Returns 0, EAGAIN or another errno. */
static int write_out(struct chardev *chardev)
{
    uint8_t bytes[4096];
    for (;;) {
        pthread_mutex_lock(&chardev->buffer_lock);
        size_t n = chardev->is_connected ? peek_locked(chardev, bytes, sizeof bytes) : 0;
        pthread_mutex_unlock(&chardev->buffer_lock);
        if (n == 0)
            return 0;
        ssize_t written = chardev_host_write(&chardev->host, bytes, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return errno;
        pthread_mutex_lock(&chardev->buffer_lock);
        drop_locked(chardev, (size_t)written);
        bool owes = chardev->owes_writable && chardev->n_bytes <= CHARDEV_BUFFER_BYTES / 2;
        if (owes)
            chardev->owes_writable = false;
        pthread_mutex_unlock(&chardev->buffer_lock);
        if (owes)
            io_bell_ring(chardev->writable_bell);
    }
}

static void flush(struct chardev *chardev)
{
    int code = write_out(chardev);
    pthread_mutex_lock(&chardev->buffer_lock);
    if (chardev->output)
        io_source_enable(chardev->output, code == EAGAIN);
    pthread_mutex_unlock(&chardev->buffer_lock);
    if (code != 0 && code != EAGAIN)
        io_bell_ring(chardev->hangup_bell);
}

static void flush_due(struct device *dev, void *opaque)
{
    flush(opaque);
}

static void output_ready(struct device *dev, void *opaque, unsigned poll_events)
{
    struct chardev *chardev = opaque;
    if (poll_events & (POLLHUP | POLLERR) && !(poll_events & POLLOUT)) {
        io_source_enable(chardev->output, false);
        io_bell_ring(chardev->hangup_bell);
        return;
    }
    flush(chardev);
}

size_t chardev_write(struct chardev *chardev, const uint8_t *bytes, size_t len)
{
    pthread_mutex_lock(&chardev->buffer_lock);
    if (!chardev->is_connected) {
        pthread_mutex_unlock(&chardev->buffer_lock);
        return len;
    }
    size_t before = chardev->n_bytes;
    size_t n = MIN(len, CHARDEV_BUFFER_BYTES - before);
    size_t tail = (chardev->head + before) % CHARDEV_BUFFER_BYTES;
    size_t first = MIN(n, CHARDEV_BUFFER_BYTES - tail);
    memcpy(chardev->ring + tail, bytes, first);
    memcpy(chardev->ring, bytes + first, n - first);
    chardev->n_bytes += n;
    if (n < len)
        chardev->owes_writable = true;
    pthread_mutex_unlock(&chardev->buffer_lock);
    /* The timer is set when the ring begins to fill, and made due when much has come. */
    if (before < FLUSH_AT_BYTES && before + n >= FLUSH_AT_BYTES)
        io_timer_set(chardev->flush_timer, 0);
    else if (before == 0 && n > 0)
        io_timer_set(chardev->flush_timer, clock_mono_ns() + COALESCE_NS);
    return n;
}

/* ---- input (loop's thread, client's lock) ---- */

static void deliver(struct chardev *chardev, const uint8_t *bytes, size_t len)
{
    if (len > 0)
        chardev->client.input(chardev->client.opaque, bytes, len);
}

/* Takes the escape sequences out of what was typed. */
static void deliver_typed(struct chardev *chardev, const uint8_t *bytes, size_t len)
{
    uint8_t plain[INPUT_CHUNK];
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (!chardev->is_after_escape && bytes[i] == ESCAPE_CHARACTER) {
            chardev->is_after_escape = true;
            continue;
        }
        bool is_command = chardev->is_after_escape && bytes[i] != ESCAPE_CHARACTER;
        chardev->is_after_escape = false;
        if (!is_command) {
            plain[n++] = bytes[i];
        } else if (bytes[i] == 'x') {
            io_bell_ring(chardev->escape_bell);
        } else if (bytes[i] == 'b') {
            deliver(chardev, plain, n);
            n = 0;
            if (chardev->client.input_break)
                chardev->client.input_break(chardev->client.opaque);
        }
    }
    deliver(chardev, plain, n);
}

static void end_input(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->buffer_lock);
    chardev->has_input_ended = true;
    io_source_enable(chardev->input, false);
    pthread_mutex_unlock(&chardev->buffer_lock);
    if (chardev->host.kind->can_reconnect)
        io_bell_ring(chardev->hangup_bell);
}

static void input_ready(struct device *dev, void *opaque, unsigned poll_events)
{
    struct chardev *chardev = opaque;
    uint8_t bytes[INPUT_CHUNK];
    size_t room = chardev->client.input_room(chardev->client.opaque);
    if (room == 0) {
        chardev_want_input(chardev, false);
        return;
    }
    ssize_t n = read(chardev->host.in_fd, bytes, MIN(room, sizeof bytes));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        end_input(chardev);
    else if (chardev->host.has_terminal)
        deliver_typed(chardev, bytes, (size_t)n);
    else
        deliver(chardev, bytes, (size_t)n);
}

void chardev_want_input(struct chardev *chardev, bool is_wanted)
{
    pthread_mutex_lock(&chardev->buffer_lock);
    chardev->wants_input = is_wanted;
    if (chardev->input && !chardev->has_input_ended)
        io_source_enable(chardev->input, is_wanted);
    pthread_mutex_unlock(&chardev->buffer_lock);
}

/* ---- connections (loop's thread, self.lock) ---- */

static void connect_streams(struct chardev *chardev)
{
    struct chardev_host *host = &chardev->host;
    struct io_source *output = NULL, *input = NULL;
    if (host->out_fd >= 0)
        output = io_source_new(chardev->loop, &chardev->self, "output", host->out_fd, POLLOUT,
                               output_ready, chardev);
    if (host->in_fd >= 0)
        input = io_source_new(chardev->loop, chardev->client.dev, "input", host->in_fd, POLLIN,
                              input_ready, chardev);
    pthread_mutex_lock(&chardev->buffer_lock);
    chardev->output = output;
    chardev->input = input;
    chardev->is_connected = host->out_fd >= 0;
    chardev->has_input_ended = false;
    if (input)
        io_source_enable(input, chardev->wants_input);
    pthread_mutex_unlock(&chardev->buffer_lock);
    if (chardev->client.connected)
        io_bell_ring(chardev->connected_bell);
}

/* What was not written is lost with the reader; a device that waits for room may go on. */
static void disconnect_streams(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->buffer_lock);
    struct io_source *input = chardev->input, *output = chardev->output;
    bool owes = chardev->owes_writable;
    chardev->input = NULL;
    chardev->output = NULL;
    chardev->is_connected = false;
    chardev->owes_writable = false;
    chardev->n_bytes = 0;
    pthread_mutex_unlock(&chardev->buffer_lock);
    io_source_free(input);
    io_source_free(output);
    if (owes)
        io_bell_ring(chardev->writable_bell);
    if (chardev->client.connected)
        io_bell_ring(chardev->connected_bell);
}

static void arrived(struct device *dev, void *opaque, unsigned poll_events)
{
    struct chardev *chardev = opaque;
    if (!chardev_host_connect(&chardev->host))
        return;
    io_source_enable(chardev->arrival, false);
    connect_streams(chardev);
}

static void hung_up(struct device *dev, void *opaque)
{
    struct chardev *chardev = opaque;
    disconnect_streams(chardev);
    chardev_host_disconnect(&chardev->host);
    if (chardev->arrival) {
        io_source_enable(chardev->arrival, true);
        /* pty: the next one may have opened it before the watch was looked at again. */
        if (chardev->host.watch_fd >= 0)
            arrived(dev, chardev, 0);
    }
}

static void escape_asked(struct device *dev, void *opaque)
{
    struct chardev *chardev = opaque;
    if (chardev->escape)
        chardev->escape(chardev->escape_opaque);
}

static void tell_writable(struct device *dev, void *opaque)
{
    struct chardev *chardev = opaque;
    chardev->client.writable(chardev->client.opaque);
}

static void tell_connected(struct device *dev, void *opaque)
{
    struct chardev *chardev = opaque;
    chardev->client.connected(chardev->client.opaque, chardev_is_connected(chardev));
}

bool chardev_is_connected(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->buffer_lock);
    bool is_connected = chardev->is_connected;
    pthread_mutex_unlock(&chardev->buffer_lock);
    return is_connected;
}

const char *chardev_path(const struct chardev *chardev)
{
    return chardev->host.path;
}

/* ---- life ---- */

struct chardev *chardev_open(const char *spec, struct io_loop *loop, void (*escape)(void *opaque),
                             void *escape_opaque, GError **error)
{
    struct chardev *chardev = g_new0(struct chardev, 1);
    if (!chardev_host_open(&chardev->host, spec, error)) {
        g_free(chardev);
        return NULL;
    }
    g_autofree char *id = g_strdup_printf("chardev/%s", chardev->host.kind->name);
    device_init(&chardev->self, &self_ops, id, NULL, NULL);
    pthread_mutex_init(&chardev->buffer_lock, NULL);
    chardev->loop = loop;
    chardev->escape = escape;
    chardev->escape_opaque = escape_opaque;
    chardev->flush_timer = io_timer_new(loop, &chardev->self, "flush", flush_due, chardev);
    chardev->hangup_bell = io_bell_new(loop, &chardev->self, "hangup", hung_up, chardev);
    chardev->escape_bell = io_bell_new(loop, &chardev->self, "escape", escape_asked, chardev);
    return chardev;
}

/* On the loop's thread, so that nothing of the client's is shared before it is set up. */
static void set_client(void *opaque)
{
    struct chardev *chardev = opaque;
    struct chardev_host *host = &chardev->host;
    pthread_mutex_lock(&chardev->self.lock);
    int arrival_fd = host->listen_fd >= 0 ? host->listen_fd : host->watch_fd;
    if (arrival_fd >= 0) {
        chardev->arrival = io_source_new(chardev->loop, &chardev->self, "arrival", arrival_fd,
                                         POLLIN, arrived, chardev);
        io_source_enable(chardev->arrival, true);
    } else if (chardev_host_connect(host)) {
        connect_streams(chardev);
    }
    pthread_mutex_unlock(&chardev->self.lock);
}

void chardev_set_client(struct chardev *chardev, const struct chardev_client *client)
{
    chardev->client = *client;
    chardev->writable_bell =
        io_bell_new(chardev->loop, client->dev, "writable", tell_writable, chardev);
    chardev->connected_bell =
        io_bell_new(chardev->loop, client->dev, "connected", tell_connected, chardev);
    io_loop_run_sync(chardev->loop, set_client, chardev);
}

static void clear_client(void *opaque)
{
    struct chardev *chardev = opaque;
    g_clear_pointer(&chardev->arrival, io_source_free);
    pthread_mutex_lock(&chardev->buffer_lock);
    struct io_source *input = chardev->input;
    chardev->input = NULL;
    chardev->owes_writable = false;
    pthread_mutex_unlock(&chardev->buffer_lock);
    chardev->client.connected = NULL;
    io_source_free(input);
    g_clear_pointer(&chardev->writable_bell, io_bell_free);
    g_clear_pointer(&chardev->connected_bell, io_bell_free);
}

void chardev_clear_client(struct chardev *chardev)
{
    if (chardev->writable_bell)
        io_loop_run_sync(chardev->loop, clear_client, chardev);
}

/* Gives what is still buffered a last chance, without ever waiting for long. */
static void flush_last(struct chardev *chardev)
{
    sigset_t pipe_only, old;
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &old);
    uint64_t deadline_ns = clock_mono_ns() + LAST_FLUSH_NS;
    while (write_out(chardev) == EAGAIN && clock_mono_ns() < deadline_ns) {
        struct pollfd fd = {.fd = chardev->host.out_fd, .events = POLLOUT};
        struct timespec left = clock_timespec(deadline_ns - MIN(deadline_ns, clock_mono_ns()));
        if (ppoll(&fd, 1, &left, NULL) <= 0 || !(fd.revents & POLLOUT))
            break;
    }
    struct timespec now = {0};
    if (!sigismember(&old, SIGPIPE))
        sigtimedwait(&pipe_only, NULL, &now);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* On the loop's thread: none of these is running, and none can ring another any more. */
static void leave_loop(void *opaque)
{
    struct chardev *chardev = opaque;
    io_timer_free(chardev->flush_timer);
    io_bell_free(chardev->hangup_bell);
    io_bell_free(chardev->escape_bell);
    io_source_free(chardev->output);
}

void chardev_free(struct chardev *chardev)
{
    if (!chardev)
        return;
    chardev_clear_client(chardev);
    io_loop_run_sync(chardev->loop, leave_loop, chardev);
    if (chardev->is_connected)
        flush_last(chardev);
    chardev_host_close(&chardev->host);
    pthread_mutex_destroy(&chardev->buffer_lock);
    device_clear(&chardev->self);
    g_free(chardev);
}
