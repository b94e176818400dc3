/* SPDX-License-Identifier: MIT */
/* The link between the two sides: passes records on, notes them, and fails at a given one. */
#include "relay.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "wire/wire.h"

#define READ_BYTES  ((size_t)256 << 10)
#define QUEUE_BYTES ((guint)4 << 20) /* nothing is read while more waits to be written */

struct way {
    GByteArray *pending; /* of a record that is not whole yet */
    GByteArray *queue;   /* to be written */
    GHashTable *counts;  /* type -> how many came */
    bool is_preamble_over, is_unframed;
    bool is_held;    /* a whole record is pending and may not pass now */
    bool is_stalled; /* nothing passes, not even the end */
    bool has_ended;  /* the sender's end was seen */
    bool is_closed;  /* the receiver was told */
};

struct connection {
    char channel[24]; /* "" before the preamble */
    int fds[2];       /* source, destination */
    struct way ways[RELAY_N_DIRECTIONS];
};

static void connection_free(gpointer data)
{
    struct connection *c = data;

    for (unsigned d = 0; d < RELAY_N_DIRECTIONS; d++) {
        g_byte_array_unref(c->ways[d].pending);
        g_byte_array_unref(c->ways[d].queue);
        g_hash_table_unref(c->ways[d].counts);
    }
    for (unsigned i = 0; i < 2; i++)
        if (c->fds[i] >= 0)
            close(c->fds[i]);
    g_free(c);
}

static void cut(struct connection *c)
{
    for (unsigned i = 0; i < 2; i++) {
        if (c->fds[i] >= 0)
            close(c->fds[i]);
        c->fds[i] = -1;
    }
}

static bool unix_address(const char *path, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    return g_strlcpy(address->sun_path, path, sizeof address->sun_path) < sizeof address->sun_path;
}

bool relay_init(struct relay *relay, const char *listen_path)
{
    struct sockaddr_un address;

    *relay = (struct relay){.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    g_strlcpy(relay->listen_path, listen_path, sizeof relay->listen_path);
    relay->connections = g_ptr_array_new_with_free_func(connection_free);
    unlink(listen_path);
    return unix_address(listen_path, &address) &&
           bind(relay->listen_fd, (struct sockaddr *)&address, sizeof address) == 0 &&
           listen(relay->listen_fd, 64) == 0;
}

void relay_clear(struct relay *relay)
{
    close(relay->listen_fd);
    unlink(relay->listen_path);
    g_ptr_array_unref(relay->connections);
    if (relay->places)
        g_array_unref(relay->places);
}

static void accept_one(struct relay *relay)
{
    struct connection *c = g_new0(struct connection, 1);
    struct sockaddr_un address;

    for (unsigned d = 0; d < RELAY_N_DIRECTIONS; d++) {
        c->ways[d].pending = g_byte_array_new();
        c->ways[d].queue = g_byte_array_new();
        c->ways[d].counts = g_hash_table_new(g_str_hash, g_str_equal);
    }
    c->fds[0] = accept4(relay->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    c->fds[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* Local: it is there at once, or nobody listens. */
    if (c->fds[0] < 0 || (relay->may_connect && !relay->may_connect(relay->opaque)) ||
        !unix_address(relay->destination_path, &address) ||
        connect(c->fds[1], (struct sockaddr *)&address, sizeof address) < 0)
        cut(c);
    g_ptr_array_add(relay->connections, c);
}

/* ---- records --------------------------------------------------------------------------------- */

static void name_connection(struct relay *relay, struct connection *c, const uint8_t *preamble)
{
    char label[128], link[12] = "";
    g_auto(GStrv) words = NULL;
    bool is_control;

    if (c->channel[0])
        return;
    wire_framing()->stream_label(preamble, label, sizeof label);
    words = g_strsplit(label, "-", 0); /* id, role, index, direction, nonce */
    is_control = strcmp(words[1], "control") == 0;
    relay->n_control += is_control;
    if (relay->n_control > 1)
        snprintf(link, sizeof link, "+%u", relay->n_control - 1);
    if (is_control)
        snprintf(c->channel, sizeof c->channel, "control%s", link);
    else
        snprintf(c->channel, sizeof c->channel, "%.8s-%.2s%s", words[1], words[2], link);
}

/* The control connection of the migration that came first, or one that goes on with it. */
static bool is_its_control(const struct connection *c)
{
    return strcmp(c->channel, "control") == 0 ||
           (g_str_has_prefix(c->channel, "control") &&
            g_hash_table_contains(c->ways[RELAY_OUT].counts, "RESUME"));
}

static bool is_page(const struct connection *c)
{
    return g_str_has_prefix(c->channel, "page-");
}

static void note_sent(struct relay *relay, const struct connection *c, const struct place *place)
{
    if (is_its_control(c) && strcmp(place->type, "COMMIT") == 0)
        relay->facts.is_commit_sent = true;
}

static void note_delivered(struct relay *relay, const struct connection *c,
                           const struct place *place)
{
    if (strcmp(place->type, "OWNER_ANSWER") == 0)
        relay->facts.n_answers++;
    if (!is_its_control(c))
        return;
    relay->facts.hello |= place->direction == RELAY_OUT && strcmp(place->type, "HELLO") == 0;
    relay->facts.loaded |= strcmp(place->type, "LOADED") == 0;
    relay->facts.commit |= strcmp(place->type, "COMMIT") == 0;
    relay->facts.running |= strcmp(place->type, "RUNNING") == 0;
    relay->facts.whole |= strcmp(place->type, "WHOLE") == 0;
    relay->facts.abort |= place->direction == RELAY_IN && strcmp(place->type, "ABORT") == 0;
    relay->facts.n_resumed += strcmp(place->type, "RESUMED") == 0;
}

static void flip(GByteArray *record, unsigned offset, unsigned n_bytes, unsigned salt)
{
    record->data[offset + salt % n_bytes] ^= (uint8_t)(1u << (salt / 3 % 8));
}

/* What is left of a record after its fault; how many bytes pass. */
static guint damage(struct relay *relay, struct connection *c, struct fault *fault,
                    const struct place *place, GByteArray *record)
{
    unsigned head = strcmp(place->type, "preamble") == 0 ? WIRE_PREAMBLE_BYTES : WIRE_HEADER_BYTES;

    switch (fault->kind) {
    case FAULT_CUT_WITHIN:
    case FAULT_CUT_LINK_WITHIN:
        return record->len / 2;
    case FAULT_FLIP_HEADER:
        flip(record, 0, head, fault->salt);
        break;
    case FAULT_FLIP_PAYLOAD:
        flip(record, head, place->payload_bytes, fault->salt);
        break;
    case FAULT_FLIP_BULK:
        flip(record, head + place->payload_bytes, place->bulk_bytes, fault->salt * 977);
        break;
    case FAULT_KILL_SOURCE:
    case FAULT_KILL_DESTINATION:
        c->ways[place->direction].has_ended = true; /* what follows is lost with the record */
        relay->on_kill(relay->opaque, fault->kind == FAULT_KILL_SOURCE);
        return 0;
    case FAULT_CUT:
    case FAULT_CUT_LINK:
        return 0;
    case FAULT_STALL:
        c->ways[place->direction].is_stalled = true;
        return 0;
    case FAULT_STALL_LINK:
        for (guint i = 0; i < relay->connections->len; i++) {
            struct connection *other = g_ptr_array_index(relay->connections, i);

            other->ways[RELAY_OUT].is_stalled = other->ways[RELAY_IN].is_stalled = true;
        }
        return 0;
    default:
        break;
    }
    return record->len;
}

static void write_some(struct way *way, int *fd)
{
    while (way->queue->len > 0 && *fd >= 0) {
        ssize_t n = send(*fd, way->queue->data, way->queue->len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n <= 0) {
            if (n < 0 && errno != EAGAIN && errno != EINTR) { /* the receiver is gone */
                g_byte_array_set_size(way->queue, 0);
                way->is_closed = true;
            }
            return;
        }
        g_byte_array_remove_range(way->queue, 0, (guint)n);
    }
}

/* Sends what is queued, whatever it takes: the fault comes after it. */
static void write_all(struct way *way, int *fd)
{
    struct pollfd p = {.fd = *fd, .events = POLLOUT};

    write_some(way, fd);
    while (way->queue->len > 0 && !way->is_closed && *fd >= 0 && poll(&p, 1, 5000) > 0)
        write_some(way, fd);
}

static void act_after(struct relay *relay, struct connection *c, const struct fault *fault,
                      enum relay_direction d)
{
    struct way *way = &c->ways[d];
    int *to = &c->fds[d == RELAY_OUT ? 1 : 0];

    switch (fault->kind) {
    case FAULT_CUT:
    case FAULT_CUT_WITHIN:
    case FAULT_CUT_AFTER:
        write_all(way, to);
        cut(c);
        break;
    case FAULT_CUT_LINK:
    case FAULT_CUT_LINK_WITHIN:
        write_all(way, to);
        for (guint i = 0; i < relay->connections->len; i++)
            cut(g_ptr_array_index(relay->connections, i));
        break;
    case FAULT_CUT_URGENT:
        for (guint i = 0; i < relay->connections->len; i++) {
            struct connection *other = g_ptr_array_index(relay->connections, i);

            if (g_str_has_prefix(other->channel, "urgent"))
                cut(other);
        }
        break;
    case FAULT_KILL_SOURCE_AFTER:
    case FAULT_KILL_DESTINATION_AFTER:
        write_all(way, to);
        relay->on_kill(relay->opaque, fault->kind == FAULT_KILL_SOURCE_AFTER);
        break;
    default:
        break;
    }
}

static bool is_at(const struct place *a, const struct place *b)
{
    return a->direction == b->direction && a->nth == b->nth && strcmp(a->type, b->type) == 0 &&
           strcmp(a->channel, b->channel) == 0;
}

/* Where the record that stands in pending is. */
static struct place place_of(struct relay *relay, struct connection *c, enum relay_direction d)
{
    const struct way *way = &c->ways[d];
    const uint8_t *bytes = way->pending->data;
    const char *name = way->is_preamble_over ? wire_framing()->frame_name(bytes) : "preamble";
    struct place place = {.direction = d};

    if (!way->is_preamble_over)
        name_connection(relay, c, bytes);
    else {
        memcpy(&place.payload_bytes, bytes + 4, 4);
        memcpy(&place.bulk_bytes, bytes + 16, 4);
    }
    g_strlcpy(place.channel, c->channel, sizeof place.channel);
    g_strlcpy(place.type, name, sizeof place.type);
    place.nth = GPOINTER_TO_UINT(g_hash_table_lookup(way->counts, name));
    return place;
}

/* A whole record stands in pending. */
static void pass_record(struct relay *relay, struct connection *c, enum relay_direction d)
{
    struct way *way = &c->ways[d];
    struct place place = place_of(relay, c, d);
    const char *name =
        way->is_preamble_over ? wire_framing()->frame_name(way->pending->data) : "preamble";
    struct fault *fault = NULL;
    guint n_bytes = way->pending->len;

    way->is_held = relay->may_pass && !relay->may_pass(relay->opaque, &place);
    if (way->is_held)
        return;
    way->is_preamble_over = true;
    g_hash_table_insert(way->counts, (gpointer)name, GUINT_TO_POINTER(place.nth + 1));
    if (relay->places)
        g_array_append_val(relay->places, place);
    relay->n_records++;
    relay->n_idle_ways +=
        place.nth + 1 == relay->n_beats && strcmp(name, "KEEPALIVE") == 0 && is_page(c);
    note_sent(relay, c, &place);
    for (unsigned i = 0; i < relay->n_faults && !fault; i++)
        if (!relay->faults[i].is_done && is_at(&relay->faults[i].place, &place))
            fault = &relay->faults[i];
    if (fault) {
        fault->is_done = true;
        n_bytes = damage(relay, c, fault, &place, way->pending);
    }
    g_byte_array_append(way->queue, way->pending->data, n_bytes);
    g_byte_array_set_size(way->pending, 0);
    if (n_bytes &&
        (!fault || fault->kind == FAULT_CUT_AFTER || fault->kind == FAULT_CUT_URGENT ||
         fault->kind == FAULT_KILL_SOURCE_AFTER || fault->kind == FAULT_KILL_DESTINATION_AFTER))
        note_delivered(relay, c, &place);
    if (fault)
        act_after(relay, c, fault, d);
}

/* Bytes that pending lacks to be a whole record, or to know how long it is; 0: whole. */
static size_t lack(struct way *way)
{
    const struct gw_framing *framing = wire_framing();
    uint64_t whole = framing->preamble_bytes;

    if (way->is_preamble_over) {
        if (way->pending->len < framing->head_bytes)
            return framing->head_bytes - way->pending->len;
        whole = framing->frame_bytes(way->pending->data);
        way->is_unframed = whole == 0;
    }
    return way->is_unframed ? 0 : whole - way->pending->len;
}

static void take_bytes(struct relay *relay, struct connection *c, enum relay_direction d,
                       const uint8_t *bytes, size_t n_bytes)
{
    struct way *way = &c->ways[d];

    while (n_bytes > 0 && !way->is_stalled && !way->has_ended && c->fds[0] >= 0) {
        size_t part = way->is_unframed ? n_bytes : MIN(n_bytes, lack(way));

        g_byte_array_append(way->is_unframed ? way->queue : way->pending, bytes, (guint)part);
        bytes += part;
        n_bytes -= part;
        /* The head alone may be enough to see that the record is whole. */
        if (!way->is_unframed && lack(way) == 0 && !way->is_unframed)
            pass_record(relay, c, d);
    }
}

static void read_some(struct relay *relay, struct connection *c, enum relay_direction d)
{
    g_autofree uint8_t *bytes = g_malloc(READ_BYTES);
    struct way *way = &c->ways[d];
    /* What follows a record that may be held stays where it is. */
    size_t wanted = relay->may_pass && !way->is_unframed ? MIN(lack(way), READ_BYTES) : READ_BYTES;
    ssize_t n = recv(c->fds[d], bytes, wanted, MSG_DONTWAIT);

    if (n > 0)
        take_bytes(relay, c, d, bytes, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        way->has_ended = true;
}

static void move_bytes(struct relay *relay, struct connection *c, enum relay_direction d,
                       short from_events)
{
    struct way *way = &c->ways[d];
    int *to = &c->fds[d == RELAY_OUT ? 1 : 0];

    if (way->is_held && c->fds[d] >= 0)
        pass_record(relay, c, d);
    else if (c->fds[d] >= 0 && (from_events & (POLLIN | POLLHUP | POLLERR)) && !way->has_ended)
        read_some(relay, c, d);
    write_some(way, to);
    if (way->has_ended && !way->is_stalled && way->queue->len == 0 && !way->is_closed) {
        way->is_closed = true;
        if (*to >= 0)
            shutdown(*to, SHUT_WR);
    }
    /* A sender whose bytes nobody takes any more learns it by a reset, as from a real peer. */
    if (c->ways[RELAY_OUT].is_closed && c->ways[RELAY_IN].is_closed)
        cut(c);
}

void relay_step(struct relay *relay, const int *side_fds, unsigned n_side_fds, int timeout_ms)
{
    guint n_connections = relay->connections->len;
    g_autofree struct pollfd *p = g_new0(struct pollfd, 1 + n_side_fds + 2 * n_connections);
    nfds_t n = 0;

    p[n++] = (struct pollfd){.fd = relay->listen_fd, .events = POLLIN};
    for (unsigned i = 0; i < n_side_fds; i++)
        p[n++] = (struct pollfd){.fd = side_fds[i], .events = POLLIN};
    for (guint i = 0; i < n_connections; i++) {
        struct connection *c = g_ptr_array_index(relay->connections, i);

        for (unsigned d = 0; d < RELAY_N_DIRECTIONS; d++) {
            const struct way *from = &c->ways[d], *to = &c->ways[1 - d];
            bool reads = !from->is_stalled && !from->is_held && !from->has_ended &&
                         from->queue->len < QUEUE_BYTES;

            p[n].events = (short)((reads ? POLLIN : 0) | (to->queue->len ? POLLOUT : 0));
            /* poll reports a hang-up unasked: it must not spin. */
            p[n].fd = p[n].events ? c->fds[d] : -1;
            n++;
        }
    }
    if (poll(p, n, timeout_ms) <= 0 && !relay->may_pass)
        return;
    for (unsigned i = 0; i < n_side_fds; i++) {
        char bytes[256];

        if (p[1 + i].revents && recv(side_fds[i], bytes, sizeof bytes, MSG_DONTWAIT) < 0)
            continue;
    }
    for (guint i = 0; i < n_connections; i++) {
        struct connection *c = g_ptr_array_index(relay->connections, i);

        for (unsigned d = 0; d < RELAY_N_DIRECTIONS; d++)
            move_bytes(relay, c, (enum relay_direction)d, p[1 + n_side_fds + 2 * i + d].revents);
    }
    if (p[0].revents & POLLIN)
        accept_one(relay);
}
