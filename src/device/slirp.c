/* SPDX-License-Identifier: MIT */
/*
 * User-mode network back end: NAT by libslirp, no privilege needed.
 *
 * Model: frames from the guest go into libslirp at once; frames to the guest wait in a bounded
 * queue until the device takes them. What does not fit is dropped: libslirp's TCP sends it again.
 *
 * Moves: connections live in this process's sockets and cannot follow the guest; libslirp on the
 * other side answers their segments with a reset. DHCP leases need no memory: any client is given
 * the address it asks for. So there is no state to save (and none to parse from a peer).
 * Forwarded host ports are listened on only while the device runs; a port that another process
 * still has (the source of a move) is tried again until it is free.
 *
 * Threads: libslirp keeps some process-wide variables; all calls are made on the loop's thread.
 *
 * Locks: the client's dev.lock guards everything but is_running (atomic: set by any thread, acted
 * upon by the loop).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <slirp/libslirp.h>

#include "base/clock.h"
#include "device/io_poller.h"
#include "device/netdev_internal.h"

#define FRAME_BYTES_MAX 65550u
#define QUEUE_BYTES_MAX (1u << 20)
#define PORT_RETRY_NS   (50 * NS_PER_MS)

struct forward {
    bool is_udp;
    bool is_open;
    struct in_addr host, guest;
    int host_port, guest_port;
};

struct slirp_timer {
    SlirpTimerId id;
    void *cb_opaque;
    uint64_t deadline_ns; /* UINT64_MAX: off */
};

struct frame {
    size_t len;
    uint8_t bytes[];
};

struct user_net {
    struct netdev net;
    /* fixed after construction */
    struct io_loop *loop;
    bool is_restricted;
    /* fixed after attach */
    Slirp *slirp;
    struct io_poller *poller;
    struct io_bell *rx_bell;    /* frames wait */
    struct io_bell *state_bell; /* is_running has changed */
    struct io_timer *port_retry;
    atomic_bool is_running;
    /* guarded by the client's dev.lock */
    GArray *forwards;  /* of struct forward */
    GPtrArray *timers; /* of struct slirp_timer, owned */
    GQueue frames;     /* of struct frame, owned */
    size_t queued_bytes;
    unsigned first_fd;             /* of our part of the poll set */
    const struct pollfd *turn_fds; /* while slirp_pollfds_poll runs */
    unsigned n_turn_fds;
    uint8_t tx[FRAME_BYTES_MAX];
};

/* ---- frames ---- */

static ssize_t send_packet(const void *bytes, size_t len, void *opaque)
{
    struct user_net *user = opaque;
    if (user->queued_bytes + len <= QUEUE_BYTES_MAX) {
        struct frame *frame = g_malloc(sizeof *frame + len);
        frame->len = len;
        memcpy(frame->bytes, bytes, len);
        g_queue_push_tail(&user->frames, frame);
        user->queued_bytes += len;
        io_bell_ring(user->rx_bell);
    }
    return (ssize_t)len;
}

static ssize_t user_send(struct netdev *net, const struct iovec *iov, unsigned n_iov)
{
    struct user_net *user = (struct user_net *)net;
    size_t len = 0;
    for (unsigned i = 0; i < n_iov; i++) {
        /* GUEST: a frame of any length. */
        if (iov[i].iov_len > sizeof user->tx - len)
            return -EMSGSIZE;
        memcpy(user->tx + len, iov[i].iov_base, iov[i].iov_len);
        len += iov[i].iov_len;
    }
    slirp_input(user->slirp, user->tx, (int)len);
    return (ssize_t)len;
}

static ssize_t user_receive(struct netdev *net, const struct iovec *iov, unsigned n_iov)
{
    struct user_net *user = (struct user_net *)net;
    struct frame *frame = g_queue_pop_head(&user->frames);
    if (!frame)
        return -EAGAIN;
    user->queued_bytes -= frame->len;
    size_t done = 0;
    for (unsigned i = 0; i < n_iov && done < frame->len; i++) {
        size_t n = MIN(iov[i].iov_len, frame->len - done);
        memcpy(iov[i].iov_base, frame->bytes + done, n);
        done += n;
    }
    g_free(frame);
    return (ssize_t)done;
}

static void rx_rung(struct device *dev, void *opaque)
{
    struct user_net *user = opaque;
    user->net.client.readable(user->net.client.opaque);
}

static void user_want_readable(struct netdev *net, bool is_wanted)
{
    struct user_net *user = (struct user_net *)net;
    io_bell_enable(user->rx_bell, is_wanted);
    if (is_wanted && !g_queue_is_empty(&user->frames))
        io_bell_ring(user->rx_bell);
}

/* Sending never has to wait. */
static void user_want_writable(struct netdev *net, bool is_wanted)
{
}

/* ---- what libslirp asks for ---- */

static void guest_error(const char *message, void *opaque)
{
}

static int64_t clock_get_ns(void *opaque)
{
    return (int64_t)clock_mono_ns();
}

static void *timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct user_net *user = opaque;
    struct slirp_timer *timer = g_new0(struct slirp_timer, 1);
    timer->id = id;
    timer->cb_opaque = cb_opaque;
    timer->deadline_ns = UINT64_MAX;
    g_ptr_array_add(user->timers, timer);
    return timer;
}

static void timer_free(void *timer, void *opaque)
{
    g_ptr_array_remove(((struct user_net *)opaque)->timers, timer);
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    ((struct slirp_timer *)timer)->deadline_ns = (uint64_t)MAX(expire_ms, 0) * NS_PER_MS;
}

static void poll_fd_unused(int fd, void *opaque)
{
}

static void notify(void *opaque)
{
    struct user_net *user = opaque;
    if (user->poller)
        io_poller_kick(user->poller);
}

static const SlirpCb callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = clock_get_ns,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = poll_fd_unused,
    .unregister_poll_fd = poll_fd_unused,
    .notify = notify,
    .timer_new_opaque = timer_new,
};

/* ---- polling ---- */

static const struct {
    int slirp;
    short poll;
} poll_bits[] = {
    {SLIRP_POLL_IN, POLLIN},   {SLIRP_POLL_OUT, POLLOUT}, {SLIRP_POLL_PRI, POLLPRI},
    {SLIRP_POLL_ERR, POLLERR}, {SLIRP_POLL_HUP, POLLHUP},
};

static int add_poll(int fd, int events, void *opaque)
{
    GArray *poll_set = opaque;
    struct pollfd entry = {.fd = fd};
    for (size_t i = 0; i < G_N_ELEMENTS(poll_bits); i++)
        if (events & poll_bits[i].slirp)
            entry.events |= poll_bits[i].poll;
    g_array_append_val(poll_set, entry);
    return (int)poll_set->len - 1; /* made relative to our first entry by get_revents */
}

static void user_fill(struct device *dev, void *opaque, GArray *poll_set, uint64_t *deadline_ns)
{
    struct user_net *user = opaque;
    uint32_t timeout_ms = UINT32_MAX;
    user->first_fd = poll_set->len;
    slirp_pollfds_fill(user->slirp, &timeout_ms, add_poll, poll_set);
    if (timeout_ms != UINT32_MAX)
        *deadline_ns = MIN(*deadline_ns, clock_mono_ns() + timeout_ms * NS_PER_MS);
    for (guint i = 0; i < user->timers->len; i++) {
        const struct slirp_timer *timer = g_ptr_array_index(user->timers, i);
        *deadline_ns = MIN(*deadline_ns, timer->deadline_ns);
    }
}

static int get_revents(int index, void *opaque)
{
    struct user_net *user = opaque;
    int events = 0;
    unsigned i = (unsigned)index - user->first_fd;
    if (index < 0 || i >= user->n_turn_fds)
        return 0;
    for (size_t k = 0; k < G_N_ELEMENTS(poll_bits); k++)
        if (user->turn_fds[i].revents & poll_bits[k].poll)
            events |= poll_bits[k].slirp;
    return events;
}

static void user_dispatch(struct device *dev, void *opaque, const struct pollfd *fds, unsigned n)
{
    struct user_net *user = opaque;
    user->turn_fds = fds;
    user->n_turn_fds = n;
    slirp_pollfds_poll(user->slirp, 0, get_revents, user);
    user->turn_fds = NULL;
    user->n_turn_fds = 0;
    uint64_t now_ns = clock_mono_ns();
    for (guint i = 0; i < user->timers->len; i++) {
        struct slirp_timer *timer = g_ptr_array_index(user->timers, i);
        if (timer->deadline_ns <= now_ns) {
            timer->deadline_ns = UINT64_MAX;
            slirp_handle_timer(user->slirp, timer->id, timer->cb_opaque);
        }
    }
}

static const struct io_poller_ops poller_ops = {.fill = user_fill, .dispatch = user_dispatch};

/* ---- forwarded ports (loop's thread) ---- */

static void update_forwards(struct device *dev, void *opaque)
{
    struct user_net *user = opaque;
    bool is_running = atomic_load(&user->is_running), is_missing = false;
    for (guint i = 0; i < user->forwards->len; i++) {
        struct forward *forward = &g_array_index(user->forwards, struct forward, i);
        if (is_running && !forward->is_open)
            forward->is_open =
                slirp_add_hostfwd(user->slirp, forward->is_udp, forward->host, forward->host_port,
                                  forward->guest, forward->guest_port) == 0;
        if (!is_running && forward->is_open)
            forward->is_open = slirp_remove_hostfwd(user->slirp, forward->is_udp, forward->host,
                                                    forward->host_port) != 0;
        is_missing |= is_running && !forward->is_open;
    }
    io_timer_set(user->port_retry, is_missing ? clock_mono_ns() + PORT_RETRY_NS : UINT64_MAX);
}

static void user_set_running(struct netdev *net, bool is_running)
{
    struct user_net *user = (struct user_net *)net;
    atomic_store(&user->is_running, is_running);
    io_bell_ring(user->state_bell);
}

/* ---- life ---- */

static void attach_on_loop(void *opaque)
{
    struct user_net *user = opaque;
    struct device *dev = user->net.client.dev;
    SlirpConfig config = {.version = 4, .restricted = user->is_restricted, .in_enabled = true};
    inet_pton(AF_INET, "10.0.2.0", &config.vnetwork);
    inet_pton(AF_INET, "255.255.255.0", &config.vnetmask);
    inet_pton(AF_INET, "10.0.2.2", &config.vhost);
    inet_pton(AF_INET, "10.0.2.3", &config.vnameserver);
    inet_pton(AF_INET, "10.0.2.15", &config.vdhcp_start);
    pthread_mutex_lock(&dev->lock);
    user->rx_bell = io_bell_new(user->loop, dev, "user-rx", rx_rung, user);
    io_bell_enable(user->rx_bell, false);
    user->state_bell = io_bell_new(user->loop, dev, "user-ports", update_forwards, user);
    user->port_retry = io_timer_new(user->loop, dev, "user-port-retry", update_forwards, user);
    user->slirp = slirp_new(&config, &callbacks, user);
    user->poller = io_poller_new(user->loop, dev, "user-poll", &poller_ops, user);
    pthread_mutex_unlock(&dev->lock);
}

static void user_attach(struct netdev *net)
{
    struct user_net *user = (struct user_net *)net;
    io_loop_run_sync(user->loop, attach_on_loop, user);
}

static void free_on_loop(void *opaque)
{
    struct user_net *user = opaque;
    io_poller_free(user->poller);
    io_bell_free(user->rx_bell);
    io_bell_free(user->state_bell);
    io_timer_free(user->port_retry);
    user->poller = NULL;
    if (user->slirp)
        slirp_cleanup(user->slirp);
}

static void user_free(struct netdev *net)
{
    struct user_net *user = (struct user_net *)net;
    io_loop_run_sync(user->loop, free_on_loop, user);
    g_queue_clear_full(&user->frames, g_free);
    g_ptr_array_free(user->timers, TRUE);
    g_array_free(user->forwards, TRUE);
    g_free(user);
}

static const struct netdev_ops user_ops = {
    .kind = "user",
    .send = user_send,
    .receive = user_receive,
    .want_readable = user_want_readable,
    .want_writable = user_want_writable,
    .set_running = user_set_running,
    .attach = user_attach,
    .free = user_free,
};

/* ---- opening ---- */

static bool parse_endpoint(const char *text, struct in_addr *address, int *port)
{
    const char *colon = strrchr(text, ':');
    if (!colon)
        return false;
    char *end;
    unsigned long number = strtoul(colon + 1, &end, 10);
    if (!g_ascii_isdigit(colon[1]) || *end != '\0' || number == 0 || number > 65535)
        return false;
    *port = (int)number;
    g_autofree char *host = g_strndup(text, (gsize)(colon - text));
    return *host == '\0' || inet_pton(AF_INET, host, address) == 1;
}

/* tcp:[HOST]:PORT-[GUEST]:PORT; without HOST all addresses of the host, without GUEST the first. */
static bool parse_forward(const char *text, struct forward *forward)
{
    forward->is_udp = g_str_has_prefix(text, "udp:");
    if (!forward->is_udp && !g_str_has_prefix(text, "tcp:"))
        return false;
    text += strlen("tcp:");
    const char *dash = strchr(text, '-');
    if (!dash)
        return false;
    forward->host.s_addr = htonl(INADDR_ANY);
    inet_pton(AF_INET, "10.0.2.15", &forward->guest);
    g_autofree char *host = g_strndup(text, (gsize)(dash - text));
    return parse_endpoint(host, &forward->host, &forward->host_port) &&
           parse_endpoint(dash + 1, &forward->guest, &forward->guest_port);
}

static bool parse_options(struct user_net *user, const char *options, GError **error)
{
    g_auto(GStrv) words = g_strsplit(options, ",", -1);
    for (char **word = words; *word; word++) {
        struct forward forward = {0};
        if (g_str_has_prefix(*word, "hostfwd=") &&
            parse_forward(*word + strlen("hostfwd="), &forward)) {
            g_array_append_val(user->forwards, forward);
        } else if (strcmp(*word, "restrict=on") == 0) {
            user->is_restricted = true;
        } else if (strcmp(*word, "restrict=off") != 0) {
            g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                        "user network: cannot use option \"%s\"", *word);
            return false;
        }
    }
    return true;
}

struct netdev *netdev_user_open(const char *options, struct io_loop *loop, GError **error)
{
    struct user_net *user = g_new0(struct user_net, 1);
    user->net.ops = &user_ops;
    user->loop = loop;
    user->forwards = g_array_new(FALSE, FALSE, sizeof(struct forward));
    user->timers = g_ptr_array_new_with_free_func(g_free);
    g_queue_init(&user->frames);
    if (*options && !parse_options(user, options, error)) {
        user_free(&user->net);
        return NULL;
    }
    return &user->net;
}
