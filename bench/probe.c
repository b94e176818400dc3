/* SPDX-License-Identifier: MIT */
/*
 * An outside observer of a guest's blackout: sends an ICMP echo request every interval and says
 * how long the longest silence between two answers was and how many requests were never answered.
 *
 * Model: RFC 792 echo, sequence numbers widened to 64 bits by position. A request counts as lost
 * when a later report finds it unanswered and older than the grace period. The gap is measured
 * between receive times of consecutive answers (CLOCK_MONOTONIC), so it includes one interval.
 *
 * Use: probe [--interval-us N] [--grace-ms N] IPV4-ADDRESS
 * Each line on standard input ("mark TEXT") ends a window and prints one JSON object about it;
 * end of input prints the last one. Real-time priority is taken where it is allowed, and said.
 *
 * Threads: one. Not here: anything about migration; the caller knows when it moved the guest.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S   1000000000u
#define RING_SLOTS 65536u /* one per 16-bit sequence number */

struct slot {
    uint64_t sent_ns;
    bool is_answered;
};

struct window {
    uint64_t sent, received, lost;
    uint64_t duplicates; /* second answers to one request: two guests, or a loop in the network */
    uint64_t largest_gap_ns, gap_start_real_ns;
    uint64_t rtt_sum_ns, rtt_max_ns;
};

struct probe {
    int sock, timer;
    bool is_raw, is_realtime;
    uint16_t ident;
    uint64_t next_seq;
    uint64_t oldest_open; /* requests before this one have been judged */
    uint64_t grace_ns;
    uint64_t last_answer_ns, last_answer_real_ns;
    struct window window;
    struct slot ring[RING_SLOTS];
};

struct payload {
    uint64_t magic, seq;
};
#define PROBE_MAGIC UINT64_C(0x65626f7270647767)

static uint64_t now_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static uint16_t internet_checksum(const void *data, size_t len)
{
    const uint8_t *p = data;
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < len; i += 2)
        sum += (uint32_t)p[i] << 8 | p[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

/* Requests older than the grace period without an answer are lost. */
static void judge_old(struct probe *probe, uint64_t now, bool is_final)
{
    while (probe->oldest_open < probe->next_seq) {
        struct slot *slot = &probe->ring[probe->oldest_open % RING_SLOTS];
        if (!slot->is_answered && !is_final && now - slot->sent_ns < probe->grace_ns)
            return;
        if (!slot->is_answered)
            probe->window.lost++;
        probe->oldest_open++;
    }
}

static void send_request(struct probe *probe)
{
    struct {
        struct icmphdr icmp;
        struct payload payload;
    } packet = {
        .icmp = {.type = ICMP_ECHO,
                 .un.echo = {.id = htons(probe->ident),
                             .sequence = htons((uint16_t)probe->next_seq)}},
        .payload = {PROBE_MAGIC, probe->next_seq},
    };
    packet.icmp.checksum = internet_checksum(&packet, sizeof packet);
    uint64_t now = now_ns(CLOCK_MONOTONIC);
    struct slot *slot = &probe->ring[probe->next_seq % RING_SLOTS];
    *slot = (struct slot){.sent_ns = now};
    probe->next_seq++;
    probe->window.sent++;
    /* A failed send is a request without an answer: the judge counts it. */
    if (send(probe->sock, &packet, sizeof packet, MSG_DONTWAIT) < 0 && errno == EBADF)
        abort();
}

static void take_answer(struct probe *probe, const struct payload *payload)
{
    /* Slots of judged requests stay readable until they are used again, for late duplicates. */
    if (payload->magic != PROBE_MAGIC || payload->seq >= probe->next_seq ||
        probe->next_seq - payload->seq > RING_SLOTS)
        return;
    struct slot *slot = &probe->ring[payload->seq % RING_SLOTS];
    if (slot->is_answered) {
        probe->window.duplicates++;
        return;
    }
    uint64_t now = now_ns(CLOCK_MONOTONIC);
    uint64_t rtt = now - slot->sent_ns;
    slot->is_answered = true;
    struct window *w = &probe->window;
    w->received++;
    w->rtt_sum_ns += rtt;
    if (rtt > w->rtt_max_ns)
        w->rtt_max_ns = rtt;
    if (probe->last_answer_ns && now - probe->last_answer_ns > w->largest_gap_ns) {
        w->largest_gap_ns = now - probe->last_answer_ns;
        w->gap_start_real_ns = probe->last_answer_real_ns;
    }
    probe->last_answer_ns = now;
    probe->last_answer_real_ns = now_ns(CLOCK_REALTIME);
}

static void receive_all(struct probe *probe)
{
    uint8_t buffer[512];
    ssize_t n;
    while ((n = recv(probe->sock, buffer, sizeof buffer, MSG_DONTWAIT)) > 0) {
        size_t at = probe->is_raw ? (size_t)(buffer[0] & 15) * 4 : 0;
        struct icmphdr icmp;
        struct payload payload;
        if ((size_t)n < at + sizeof icmp + sizeof payload)
            continue;
        memcpy(&icmp, buffer + at, sizeof icmp);
        memcpy(&payload, buffer + at + sizeof icmp, sizeof payload);
        if (icmp.type == ICMP_ECHOREPLY &&
            (!probe->is_raw || icmp.un.echo.id == htons(probe->ident)))
            take_answer(probe, &payload);
    }
}

static void report(struct probe *probe, const char *mark, bool is_final)
{
    judge_old(probe, now_ns(CLOCK_MONOTONIC), is_final);
    const struct window *w = &probe->window;
    /* The mark comes from the caller; keep the JSON well-formed whatever it is. */
    char name[64];
    size_t len = 0;
    for (const char *p = mark; *p && len < sizeof name - 1; p++)
        if (*p != '"' && *p != '\\' && (unsigned char)*p >= 0x20)
            name[len++] = *p;
    name[len] = 0;
    printf(
        "{\"mark\": \"%s\", \"sent\": %" PRIu64 ", \"received\": %" PRIu64 ", \"lost\": %" PRIu64
        ", \"duplicates\": %" PRIu64 ", \"largest_gap_ms\": %.3f, \"gap_start_real_ns\": %" PRIu64
        ", \"rtt_mean_ms\": %.3f, \"rtt_max_ms\": %.3f, \"realtime\": %s}\n",
        name, w->sent, w->received, w->lost, w->duplicates, (double)w->largest_gap_ns / 1e6,
        w->gap_start_real_ns, w->received ? (double)w->rtt_sum_ns / (double)w->received / 1e6 : 0,
        (double)w->rtt_max_ns / 1e6, probe->is_realtime ? "true" : "false");
    fflush(stdout);
    probe->window = (struct window){0};
}

static bool open_socket(struct probe *probe, const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) {
        fprintf(stderr, "probe: '%s' is not an IPv4 address\n", address);
        return false;
    }
    probe->sock = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
    probe->is_raw = probe->sock >= 0;
    if (!probe->is_raw)
        probe->sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP);
    if (probe->sock < 0 || connect(probe->sock, (struct sockaddr *)&to, sizeof to) < 0) {
        fprintf(stderr, "probe: ICMP socket to %s: %s\n", address, strerror(errno));
        return false;
    }
    return true;
}

static bool start_timer(struct probe *probe, uint64_t interval_us)
{
    struct timespec interval = {.tv_sec = (time_t)(interval_us / 1000000),
                                .tv_nsec = (long)(interval_us % 1000000) * 1000};
    struct itimerspec spec = {.it_interval = interval, .it_value = interval};
    probe->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return probe->timer >= 0 && timerfd_settime(probe->timer, 0, &spec, NULL) == 0;
}

static void run(struct probe *probe)
{
    char line[128];
    size_t line_len = 0;
    for (;;) {
        struct pollfd fds[] = {{.fd = probe->timer, .events = POLLIN},
                               {.fd = probe->sock, .events = POLLIN},
                               {.fd = STDIN_FILENO, .events = POLLIN}};
        if (poll(fds, 3, -1) < 0 && errno != EINTR)
            return;
        if (fds[1].revents)
            receive_all(probe);
        uint64_t ticks;
        if (fds[0].revents && read(probe->timer, &ticks, sizeof ticks) == sizeof ticks) {
            /* A late wake-up of ours is not the guest's fault: one request for each wake-up. */
            send_request(probe);
            judge_old(probe, now_ns(CLOCK_MONOTONIC), false);
        }
        if (!fds[2].revents)
            continue;
        char c;
        if (read(STDIN_FILENO, &c, 1) <= 0)
            return;
        if (c != '\n') {
            if (line_len < sizeof line - 1)
                line[line_len++] = c;
            continue;
        }
        line[line_len] = 0;
        report(probe, strncmp(line, "mark ", 5) == 0 ? line + 5 : line, false);
        line_len = 0;
    }
}

static void usage(FILE *to)
{
    fputs("usage: probe [--interval-us N] [--grace-ms N] IPV4-ADDRESS\n"
          "Pings ADDRESS every interval (default 1000 us); each input line 'mark TEXT' prints one\n"
          "JSON object: answers, losses (no answer within the grace period, default 1000 ms) and\n"
          "the largest gap between two answers since the last mark. Ends at end of input.\n",
          to);
}

int main(int argc, char **argv)
{
    static struct probe probe; /* 1.5 MiB: too much for a stack */
    uint64_t interval_us = 1000, grace_ms = 1000;
    static const struct option options[] = {{"interval-us", required_argument, NULL, 'i'},
                                            {"grace-ms", required_argument, NULL, 'g'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 'i')
            interval_us = strtoull(optarg, NULL, 10);
        else if (c == 'g')
            grace_ms = strtoull(optarg, NULL, 10);
        else {
            usage(c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    if (optind + 1 != argc || interval_us == 0 || grace_ms * 1000 / interval_us >= RING_SLOTS) {
        usage(stderr);
        return 2;
    }
    probe.grace_ns = grace_ms * 1000000;
    probe.ident = (uint16_t)getpid();
    struct sched_param priority = {.sched_priority = 10};
    probe.is_realtime = sched_setscheduler(0, SCHED_FIFO, &priority) == 0;
    mlockall(MCL_CURRENT | MCL_FUTURE);
    if (!open_socket(&probe, argv[optind]))
        return 1;
    if (!start_timer(&probe, interval_us)) {
        fprintf(stderr, "probe: timer: %s\n", strerror(errno));
        return 1;
    }
    run(&probe);
    report(&probe, "end", true);
    return 0;
}
