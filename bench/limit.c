/* SPDX-License-Identifier: MIT */
/*
 * The least program that moves memory: from one memfd to another over loopback TCP, with a digest
 * of every page taken by the sender and compared by the receiver. What Godwit is measured against.
 *
 * Model: the receiver is a process of its own. Each connection has one sending and one receiving
 * thread; senders take pieces of 1 MiB (256 pages) from a shared cursor. A piece is a head (its
 * number and 256 XXH3-64 digests) and the pages, sent from the memory and received into it.
 * --present populates the receiver's memory before the clock starts. --populate does so while the
 * clock runs, in a thread beside the receivers that begins at the first piece.
 *
 * Use: limit [--mib N] [--connections N] [--present | --populate] [--no-digest]
 * Prints one JSON object. Exit status 1: a digest did not match, or a call failed.
 *
 * Not here: dirty logs, zero pages, rounds, records, a handshake, limits: all that makes it work.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/digest.h"

#define PAGE            4096u
#define PIECE_PAGES     256u
#define PIECE           (PIECE_PAGES * PAGE)
#define VERIFY_PAGES    64u /* read and compared together, while they are in the cache */
#define POPULATE        (32u << 20)
#define MAX_CONNECTIONS 64

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

struct head {
    uint64_t piece; /* UINT64_MAX: no more */
    uint64_t digests[PIECE_PAGES];
};

struct job {
    uint8_t *memory;
    size_t n_pieces;
    bool wants_digest;
    int socket;
    _Atomic size_t *cursor;
};

static double now_s(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static uint8_t *map_memory(size_t n_bytes)
{
    int fd = memfd_create("limit", MFD_CLOEXEC);
    void *at;

    if (fd < 0 || ftruncate(fd, (off_t)n_bytes) < 0)
        err(1, "memfd");
    at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED)
        err(1, "mmap");
    close(fd);
    return at;
}

static void send_all(int socket, struct iovec *iov, size_t n_iov)
{
    while (n_iov) {
        struct msghdr message = {.msg_iov = iov, .msg_iovlen = n_iov};
        ssize_t n = sendmsg(socket, &message, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            err(1, "send");
        for (; n_iov && (size_t)n >= iov->iov_len; iov++, n_iov--)
            n -= (ssize_t)iov->iov_len;
        if (n_iov) {
            iov->iov_base = (uint8_t *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
}

static void receive_all(int socket, void *to, size_t n_bytes)
{
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = recv(socket, (uint8_t *)to + done, n_bytes - done, MSG_WAITALL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            errx(1, "the connection ended");
        done += (size_t)n;
    }
}

static void *sender_main(void *opaque)
{
    struct job *job = opaque;
    struct head head;

    for (;;) {
        size_t piece = atomic_fetch_add(job->cursor, 1);
        bool is_end = piece >= job->n_pieces;
        struct iovec iov[2] = {{&head, sizeof head}, {NULL, 0}};

        head.piece = is_end ? UINT64_MAX : piece;
        if (!is_end) {
            iov[1] = (struct iovec){job->memory + piece * PIECE, PIECE};
            for (uint32_t i = 0; job->wants_digest && i < PIECE_PAGES; i++)
                head.digests[i] = XXH3_64bits(job->memory + piece * PIECE + (size_t)i * PAGE, PAGE);
        }
        send_all(job->socket, iov, is_end ? 1 : 2);
        if (is_end)
            return NULL;
    }
}

static void *receiver_main(void *opaque)
{
    struct job *job = opaque;
    struct head head;

    for (;;) {
        receive_all(job->socket, &head, sizeof head);
        if (head.piece == UINT64_MAX)
            return NULL;
        if (head.piece >= job->n_pieces)
            errx(1, "there is no piece %" PRIu64, head.piece);
        for (uint32_t i = 0; i < PIECE_PAGES; i += VERIFY_PAGES) {
            uint8_t *at = job->memory + head.piece * PIECE + (size_t)i * PAGE;

            receive_all(job->socket, at, VERIFY_PAGES * PAGE);
            for (uint32_t k = 0; job->wants_digest && k < VERIFY_PAGES; k++)
                if (XXH3_64bits(at + (size_t)k * PAGE, PAGE) != head.digests[i + k])
                    errx(1, "a page arrived damaged");
        }
    }
}

static void *populate_main(void *opaque)
{
    struct job *job = opaque;
    size_t n_bytes = job->n_pieces * PIECE;

    for (size_t at = 0; at < n_bytes; at += POPULATE)
        if (madvise(job->memory + at, n_bytes - at < POPULATE ? n_bytes - at : POPULATE,
                    MADV_POPULATE_WRITE) < 0)
            err(1, "populate");
    return NULL;
}

/* Runs one thread for each connection. */
static void run_all(struct job *jobs, int n, void *(*main)(void *opaque))
{
    pthread_t threads[MAX_CONNECTIONS];

    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, main, &jobs[i]) != 0)
            errx(1, "pthread_create");
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* The receiving process; says it is ready by one byte, and ends when everything is there. */
static void receive(int listener, struct job *jobs, int n, bool is_present, bool wants_populate,
                    int ready)
{
    pthread_t populater;

    for (int i = 0; i < n; i++)
        jobs[i].memory = i ? jobs[0].memory : map_memory(jobs[0].n_pieces * PIECE);
    if (is_present)
        populate_main(&jobs[0]);
    if (write(ready, "", 1) != 1)
        err(1, "pipe");
    for (int i = 0; i < n; i++)
        if ((jobs[i].socket = accept(listener, NULL, NULL)) < 0)
            err(1, "accept");
    if (wants_populate && pthread_create(&populater, NULL, populate_main, &jobs[0]) != 0)
        errx(1, "pthread_create");
    run_all(jobs, n, receiver_main);
    if (send(jobs[0].socket, "", 1, MSG_NOSIGNAL) != 1)
        err(1, "send");
    if (wants_populate)
        pthread_join(populater, NULL);
}

static int listen_anywhere(struct sockaddr_in *address)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = sizeof *address;

    *address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (listener < 0 || bind(listener, (struct sockaddr *)address, sizeof *address) < 0 ||
        listen(listener, MAX_CONNECTIONS) < 0 ||
        getsockname(listener, (struct sockaddr *)address, &length) < 0)
        err(1, "listen");
    return listener;
}

static int connect_to(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;

    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        err(1, "connect");
    return fd;
}

/* Content that nobody can compress or take for zero. */
static void fill(uint8_t *memory, size_t n_bytes)
{
    uint64_t x = 0x9E3779B97F4A7C15;

    for (size_t i = 0; i < n_bytes / 8; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        ((uint64_t *)(void *)memory)[i] = x;
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"mib", required_argument, NULL, 'm'}, {"connections", required_argument, NULL, 'c'},
        {"present", no_argument, NULL, 'p'},   {"populate", no_argument, NULL, 'a'},
        {"no-digest", no_argument, NULL, 'n'}, {NULL, 0, NULL, 0},
    };
    struct job jobs[MAX_CONNECTIONS];
    struct job job = {.wants_digest = true};
    struct sockaddr_in address;
    struct rusage usage;
    _Atomic size_t cursor = 0;
    bool is_present = false, wants_populate = false;
    int mib = 2048, n = 1, ready[2], status, option;
    uint8_t *memory, byte;
    double start, seconds, cpu;
    pid_t child;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (option) {
        case 'm':
            mib = atoi(optarg);
            break;
        case 'c':
            n = atoi(optarg);
            break;
        case 'p':
            is_present = true;
            break;
        case 'a':
            wants_populate = true;
            break;
        case 'n':
            job.wants_digest = false;
            break;
        default:
            return 2;
        }
    if (mib < 1 || n < 1 || n > MAX_CONNECTIONS)
        errx(2, "--mib from 1, --connections from 1 to %d", MAX_CONNECTIONS);
    job.n_pieces = (size_t)mib << 20 >> 20;
    job.cursor = &cursor;
    for (int i = 0; i < n; i++)
        jobs[i] = job;
    int listener = listen_anywhere(&address);
    if (pipe(ready) < 0 || (child = fork()) < 0)
        err(1, "fork");
    if (child == 0) {
        close(ready[0]);
        receive(listener, jobs, n, is_present, wants_populate, ready[1]);
        return 0;
    }
    close(ready[1]);
    memory = map_memory(job.n_pieces * PIECE);
    fill(memory, job.n_pieces * PIECE);
    if (read(ready[0], &byte, 1) != 1)
        errx(1, "the receiver ended");
    cpu = now_s(CLOCK_PROCESS_CPUTIME_ID);
    start = now_s(CLOCK_MONOTONIC);
    for (int i = 0; i < n; i++) {
        jobs[i].memory = memory;
        jobs[i].socket = connect_to(&address);
    }
    run_all(jobs, n, sender_main);
    receive_all(jobs[0].socket, &byte, 1);
    seconds = now_s(CLOCK_MONOTONIC) - start;
    cpu = now_s(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    if (waitpid(child, &status, 0) != child || status != 0 ||
        getrusage(RUSAGE_CHILDREN, &usage) < 0)
        errx(1, "the receiver failed");
    printf("{\"mib\": %d, \"connections\": %d, \"seconds\": %.4f, \"gbits\": %.2f, "
           "\"sender_cpu_s\": %.3f, \"receiver_cpu_s\": %.3f}\n",
           mib, n, seconds, (double)mib * 8 * (1 << 20) / seconds / 1e9, cpu,
           (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    return 0;
}
