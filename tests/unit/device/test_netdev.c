/* SPDX-License-Identifier: MIT */
/*
 * Network back ends: user mode (libslirp) as a guest sees it, TAP in a network namespace of our
 * own, and specifications.
 */
#include "rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/virtio_net.h>

#include "base/fdio.h"
#include "device/netdev.h"

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

struct nic {
    struct device dev;
    struct rig *rig;
    struct netdev *net;
    pthread_cond_t changed;
    /* guarded by dev.lock */
    unsigned n_readable;
    bool takes;        /* drains the back end when told */
    GPtrArray *frames; /* of GBytes */
};

static const struct device_ops nic_ops = {.type = "nic"};

static void nic_readable(void *opaque)
{
    struct nic *nic = opaque;
    uint8_t bytes[70000];
    struct iovec iov[2] = {{bytes, 20}, {bytes + 20, sizeof bytes - 20}};
    ssize_t n;
    nic->n_readable++;
    if (!nic->takes) {
        nic->net->ops->want_readable(nic->net, false);
        return;
    }
    while ((n = nic->net->ops->receive(nic->net, iov, 2)) >= 0)
        g_ptr_array_add(nic->frames, g_bytes_new(bytes, (gsize)n));
    assert_int_equal(n, -EAGAIN);
    pthread_cond_broadcast(&nic->changed);
}

static void nic_writable(void *opaque)
{
}

static void nic_open(struct nic *nic, struct rig *rig, const char *spec)
{
    GError *error = NULL;
    *nic = (struct nic){.rig = rig, .takes = true};
    nic->frames = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    device_init(&nic->dev, &nic_ops, "nic", NULL, NULL);
    pthread_cond_init(&nic->changed, NULL);
    nic->net = netdev_open(spec, rig->loop, &error);
    if (!nic->net)
        print_error("%s\n", error->message);
    assert_non_null(nic->net);
    const struct netdev_client client = {
        .dev = &nic->dev, .readable = nic_readable, .writable = nic_writable, .opaque = nic};
    netdev_set_client(nic->net, &client);
}

static void nic_close(struct nic *nic)
{
    netdev_free(nic->net);
    g_ptr_array_free(nic->frames, TRUE);
    pthread_cond_destroy(&nic->changed);
    device_clear(&nic->dev);
}

static void nic_run(struct nic *nic, bool is_running)
{
    pthread_mutex_lock(&nic->dev.lock);
    netdev_set_running(nic->net, is_running);
    nic->net->ops->want_readable(nic->net, is_running);
    pthread_mutex_unlock(&nic->dev.lock);
    rig_settle(nic->rig);
}

struct sending {
    struct nic *nic;
    const void *bytes;
    size_t len;
    ssize_t result;
};

static void send_on_loop(void *opaque)
{
    struct sending *sending = opaque;
    struct nic *nic = sending->nic;
    struct iovec iov[2] = {{(void *)sending->bytes, MIN(sending->len, 10)},
                           {(uint8_t *)sending->bytes + 10, sending->len - MIN(sending->len, 10)}};
    pthread_mutex_lock(&nic->dev.lock);
    sending->result = nic->net->ops->send(nic->net, iov, 2);
    pthread_mutex_unlock(&nic->dev.lock);
}

static ssize_t nic_send(struct nic *nic, const void *bytes, size_t len)
{
    struct sending sending = {.nic = nic, .bytes = bytes, .len = len};
    io_loop_run_sync(nic->rig->loop, send_on_loop, &sending);
    return sending.result;
}

/* Waits for a frame that is_it accepts; others are dropped. NULL when none came in time. */
static GBytes *nic_await(struct nic *nic, bool (*is_it)(const uint8_t *bytes, size_t len))
{
    struct timespec give_up;
    GBytes *found = NULL;
    clock_gettime(CLOCK_REALTIME, &give_up);
    give_up.tv_sec += 20;
    pthread_mutex_lock(&nic->dev.lock);
    while (!found) {
        while (nic->frames->len > 0 && !found) {
            GBytes *frame = g_ptr_array_steal_index(nic->frames, 0);
            gsize len;
            const uint8_t *bytes = g_bytes_get_data(frame, &len);
            if (is_it(bytes, len))
                found = frame;
            else
                g_bytes_unref(frame);
        }
        if (!found && pthread_cond_timedwait(&nic->changed, &nic->dev.lock, &give_up) != 0)
            break;
    }
    pthread_mutex_unlock(&nic->dev.lock);
    return found;
}

/* ---- frames ---- */

struct arp_frame {
    struct ether_header ethernet;
    struct arphdr header;
    uint8_t sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
} __attribute__((packed));

static struct arp_frame make_arp(uint16_t operation, const char *target)
{
    struct arp_frame arp = {
        .ethernet.ether_type = htons(ETHERTYPE_ARP),
        .header = {htons(ARPHRD_ETHER), htons(ETHERTYPE_IP), 6, 4, htons(operation)}};
    memset(arp.ethernet.ether_dhost, 0xff, 6);
    memcpy(arp.ethernet.ether_shost, guest_mac, 6);
    memcpy(arp.sender_mac, guest_mac, 6);
    inet_pton(AF_INET, "10.0.2.15", arp.sender_ip);
    inet_pton(AF_INET, target, arp.target_ip);
    return arp;
}

static bool is_arp(const uint8_t *bytes, size_t len, uint16_t operation)
{
    const struct arp_frame *arp = (const void *)bytes;
    return len >= sizeof *arp && arp->ethernet.ether_type == htons(ETHERTYPE_ARP) &&
           arp->header.ar_op == htons(operation);
}

static bool is_arp_reply(const uint8_t *bytes, size_t len)
{
    return is_arp(bytes, len, ARPOP_REPLY);
}

static bool is_arp_request(const uint8_t *bytes, size_t len)
{
    return is_arp(bytes, len, ARPOP_REQUEST);
}

struct udp_frame {
    struct ether_header ethernet;
    struct ip ip;
    struct udphdr udp;
    uint8_t payload[];
} __attribute__((packed));

static bool is_udp_to_7777(const uint8_t *bytes, size_t len)
{
    const struct udp_frame *frame = (const void *)bytes;
    return len >= sizeof *frame + 4 && frame->ethernet.ether_type == htons(ETHERTYPE_IP) &&
           frame->ip.ip_p == IPPROTO_UDP && frame->udp.uh_dport == htons(7777);
}

/* ---- user mode ---- */

static void the_router_answers_arp(void **state)
{
    struct nic nic;
    nic_open(&nic, *state, "user");
    assert_false(nic.net->has_vnet_header);
    nic_run(&nic, true);
    struct arp_frame request = make_arp(ARPOP_REQUEST, "10.0.2.2");
    assert_int_equal(nic_send(&nic, &request, sizeof request), sizeof request);
    GBytes *reply = nic_await(&nic, is_arp_reply);
    assert_non_null(reply);
    const struct arp_frame *arp = g_bytes_get_data(reply, NULL);
    assert_memory_equal(arp->sender_ip, request.target_ip, 4);
    g_bytes_unref(reply);
    nic_close(&nic);
}

static void frames_wait_while_the_guest_takes_none(void **state)
{
    struct nic nic;
    struct arp_frame request = make_arp(ARPOP_REQUEST, "10.0.2.2");
    nic_open(&nic, *state, "user");
    nic_run(&nic, false);
    nic_send(&nic, &request, sizeof request);
    rig_settle(nic.rig);
    assert_int_equal(nic.n_readable, 0);

    /* Told once, it takes nothing and says so; told again when it does. */
    nic.takes = false;
    nic_run(&nic, true);
    pthread_mutex_lock(&nic.dev.lock);
    assert_int_equal(nic.n_readable, 1);
    nic.takes = true;
    nic.net->ops->want_readable(nic.net, true);
    pthread_mutex_unlock(&nic.dev.lock);
    GBytes *reply = nic_await(&nic, is_arp_reply);
    assert_non_null(reply);
    g_bytes_unref(reply);
    nic_close(&nic);
}

static void the_waiting_queue_is_bounded(void **state)
{
    struct nic nic;
    struct arp_frame request = make_arp(ARPOP_REQUEST, "10.0.2.2");
    nic_open(&nic, *state, "user");
    nic_run(&nic, false);
    for (unsigned i = 0; i < 40000; i++) /* 40000 replies are 1.6 MB and more */
        assert_int_equal(nic_send(&nic, &request, sizeof request), sizeof request);
    nic_run(&nic, true);
    rig_settle(nic.rig);
    pthread_mutex_lock(&nic.dev.lock);
    size_t bytes = 0;
    for (guint i = 0; i < nic.frames->len; i++)
        bytes += g_bytes_get_size(g_ptr_array_index(nic.frames, i));
    pthread_mutex_unlock(&nic.dev.lock);
    assert_true(bytes > 0 && bytes <= 1u << 20);
    nic_close(&nic);
}

static void hostile_frames_are_harmless(void **state)
{
    struct nic nic;
    static uint8_t bytes[70000];
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);
    nic_open(&nic, *state, "user");
    nic_run(&nic, true);
    assert_int_equal(nic_send(&nic, bytes, sizeof bytes), -EMSGSIZE);
    assert_int_equal(nic_send(&nic, bytes, 0), 0);
    for (unsigned i = 0; i < 3000; i++) {
        size_t len = (size_t)g_rand_int_range(rand, 0, 2000);
        for (size_t k = 0; k < len; k++)
            bytes[k] = (uint8_t)g_rand_int(rand);
        if (len >= 14) { /* IPv4, ARP, IPv6 */
            static const uint16_t types[] = {0x0800, 0x0806, 0x86dd};
            uint16_t type = htons(types[i % 3]);
            memcpy(bytes + 12, &type, 2);
        }
        if (len >= 34 && i % 2) {
            static const uint8_t ip[] = {0x45, 0};
            memcpy(bytes + 14, ip, 2);
        }
        nic_send(&nic, bytes, len);
    }
    nic_close(&nic);
}

/* A port that was free a moment ago. */
static uint16_t free_udp_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    getsockname(fd, (struct sockaddr *)&address, &len);
    close(fd);
    return ntohs(address.sin_port);
}

static void send_udp(uint16_t port, const char *text)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sendto(fd, text, strlen(text), 0, (struct sockaddr *)&address, sizeof address);
    close(fd);
}

static void introduce(struct nic *nic)
{
    struct arp_frame request = make_arp(ARPOP_REQUEST, "10.0.2.2");
    nic_send(nic, &request, sizeof request);
    GBytes *reply = nic_await(nic, is_arp_reply);
    assert_non_null(reply);
    g_bytes_unref(reply);
}

static bool hears(struct nic *nic, const char *text)
{
    GBytes *frame = nic_await(nic, is_udp_to_7777);
    if (!frame)
        return false;
    const struct udp_frame *udp = g_bytes_get_data(frame, NULL);
    bool is_same = memcmp(udp->payload, text, strlen(text)) == 0;
    g_bytes_unref(frame);
    return is_same;
}

static void await_bound(struct rig *rig, uint16_t port, bool is_bound)
{
    uint64_t deadline_ns = clock_mono_ns() + RIG_GIVE_UP;
    for (bool was_bound = !is_bound; was_bound != is_bound;) {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons(port),
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        was_bound = bind(fd, (struct sockaddr *)&address, sizeof address) != 0;
        close(fd);
        assert_true(clock_mono_ns() < deadline_ns);
        rig_settle(rig);
    }
}

static void a_forwarded_port_follows_the_running_guest(void **state)
{
    struct nic source, target;
    uint16_t port = free_udp_port();
    g_autofree char *spec = g_strdup_printf("user,hostfwd=udp:127.0.0.1:%u-10.0.2.15:7777", port);
    nic_open(&source, *state, spec);
    nic_open(&target, *state, spec);
    await_bound(source.rig, port, false); /* nothing is listened on before the start */
    nic_run(&source, true);
    await_bound(source.rig, port, true);
    introduce(&source);
    send_udp(port, "to the source");
    assert_true(hears(&source, "to the source"));

    /* The target starts while the port is still taken, and gets it when the source stops. */
    nic_run(&target, true);
    introduce(&target);
    nic_run(&source, false);
    await_bound(source.rig, port, true);
    send_udp(port, "to the target");
    assert_true(hears(&target, "to the target"));
    nic_close(&target);
    await_bound(source.rig, port, false);
    nic_close(&source);
}

static void a_connection_to_a_forwarded_port_asks_for_the_guest(void **state)
{
    struct nic nic;
    uint16_t port = free_udp_port(); /* as good for TCP */
    g_autofree char *spec = g_strdup_printf("user,hostfwd=tcp:127.0.0.1:%u-:80", port);
    nic_open(&nic, *state, spec);
    nic_run(&nic, true);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    GBytes *request = nic_await(&nic, is_arp_request); /* who is 10.0.2.15? */
    assert_non_null(request);
    const struct arp_frame *arp = g_bytes_get_data(request, NULL);
    uint8_t guest_ip[4];
    inet_pton(AF_INET, "10.0.2.15", guest_ip);
    assert_memory_equal(arp->target_ip, guest_ip, 4);
    g_bytes_unref(request);
    close(fd);
    nic_close(&nic);
}

/* ---- TAP ---- */

static bool can_use_tap; /* set once by main */

static int tap_peer(const char *name)
{
    struct ifreq request = {0};
    g_strlcpy(request.ifr_name, name, sizeof request.ifr_name);
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
    assert_true(fd >= 0);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL),
                                  .sll_ifindex = (int)if_nametoindex(name)};
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static bool is_our_type(const uint8_t *bytes, size_t len)
{
    const struct ether_header *ethernet = (const void *)(bytes + sizeof(struct virtio_net_hdr_v1));
    return len >= sizeof(struct virtio_net_hdr_v1) + sizeof *ethernet &&
           ethernet->ether_type == htons(0x88b5);
}

static void a_tap_carries_frames_with_headers(void **state)
{
    struct nic nic;
    if (!can_use_tap) {
        print_message("# no network namespace of our own or no /dev/net/tun here\n");
        skip();
    }
    nic_open(&nic, *state, "tap,ifname=gwtest0,script=no");
    assert_true(nic.net->has_vnet_header);
    nic_run(&nic, true);
    nic.net->ops->set_rx_offloads(nic.net, NETDEV_RX_CSUM | NETDEV_RX_TSO4 | NETDEV_RX_TSO6);
    int peer = tap_peer("gwtest0");

    uint8_t frame[sizeof(struct virtio_net_hdr_v1) + 64] = {0};
    uint8_t *ethernet = frame + sizeof(struct virtio_net_hdr_v1);
    memset(ethernet, 0xff, 6);
    memcpy(ethernet + 6, guest_mac, 6);
    ethernet[12] = 0x88; /* local experimental */
    ethernet[13] = 0xb5;
    memset(ethernet + 14, 0x42, 50);
    assert_int_equal(nic_send(&nic, frame, sizeof frame), sizeof frame);
    uint8_t got[2000];
    struct pollfd fd = {.fd = peer, .events = POLLIN};
    ssize_t n;
    do { /* the kernel may say something of its own as well */
        assert_int_equal(poll(&fd, 1, (int)(RIG_GIVE_UP / NS_PER_MS)), 1);
        n = recv(peer, got, sizeof got, 0);
    } while (n < 14 || got[12] != 0x88);
    assert_int_equal(n, 64);
    assert_memory_equal(got, ethernet, 64);

    assert_int_equal(send(peer, ethernet, 64, 0), 64);
    GBytes *received = nic_await(&nic, is_our_type);
    assert_non_null(received);
    assert_int_equal(g_bytes_get_size(received), sizeof frame);
    g_bytes_unref(received);
    close(peer);
    nic_close(&nic);
}

static void a_tap_keeps_frames_for_a_stopped_guest(void **state)
{
    struct nic nic;
    if (!can_use_tap) {
        print_message("# no network namespace of our own or no /dev/net/tun here\n");
        skip();
    }
    nic_open(&nic, *state, "tap,ifname=gwtest1");
    int peer = tap_peer("gwtest1");
    uint8_t frame[64] = {[12] = 0x88, [13] = 0xb5};
    memset(frame, 0xff, 6);
    nic_run(&nic, false);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(send(peer, frame, sizeof frame, 0), sizeof frame);
    rig_settle(nic.rig);
    assert_int_equal(nic.n_readable, 0);
    nic_run(&nic, true);
    for (unsigned i = 0; i < 5; i++) {
        GBytes *received = nic_await(&nic, is_our_type);
        assert_non_null(received);
        g_bytes_unref(received);
    }
    close(peer);
    nic_close(&nic);
}

/* ---- none, and specifications ---- */

static void a_cable_that_ends_nowhere(void **state)
{
    struct nic nic;
    nic_open(&nic, *state, "none");
    nic_run(&nic, true);
    assert_int_equal(nic_send(&nic, guest_mac, 6), 6);
    rig_settle(nic.rig);
    assert_int_equal(nic.n_readable, 0);
    nic_close(&nic);
}

static void wrong_specifications_are_errors(void **state)
{
    static const char *const specs[] = {
        "",
        "bridge",
        "use",
        "users",
        "tap",
        "tap,ifname=a,fd=3",
        "tap,ifname=a-name-that-is-too-long",
        "tap,fd=",
        "tap,fd=99999",
        "tap,fd=x",
        "tap,vhost=on",
        "user,hostfwd=tcp:80",
        "user,hostfwd=tcp::80-:0",
        "user,hostfwd=tcp::80-:65536",
        "user,hostfwd=tcp::80-:8o",
        "user,hostfwd=sctp::80-:80",
        "user,hostfwd=tcp:localhost:80-:80",
        "user,hostfwd=tcp:1.2.3.4:80-guest:80",
        "user,mtu=9000",
    };
    struct rig *rig = *state;
    for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
        GError *error = NULL;
        assert_null(netdev_open(specs[i], rig->loop, &error));
        assert_true(error && error->domain == GW_DEVICE_ERROR);
        g_clear_error(&error);
    }
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    g_autofree char *not_a_tap = g_strdup_printf("tap,fd=%d", fds[0]);
    assert_null(netdev_open(not_a_tap, rig->loop, NULL)); /* closes it: it was given to us */
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(the_router_answers_arp),
        RIG_TEST(frames_wait_while_the_guest_takes_none),
        RIG_TEST(the_waiting_queue_is_bounded),
        RIG_TEST(hostile_frames_are_harmless),
        RIG_TEST(a_forwarded_port_follows_the_running_guest),
        RIG_TEST(a_connection_to_a_forwarded_port_asks_for_the_guest),
        RIG_TEST(a_tap_carries_frames_with_headers),
        RIG_TEST(a_tap_keeps_frames_for_a_stopped_guest),
        RIG_TEST(a_cable_that_ends_nowhere),
        RIG_TEST(wrong_specifications_are_errors),
    };
    /* Before there are threads. The loopback interface of the new namespace has to be set up. */
    if (unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0) {
        struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
        can_use_tap = ioctl(fd, SIOCSIFFLAGS, &request) == 0 && tun >= 0;
        close(tun);
        close(fd);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
